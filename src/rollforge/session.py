"""The session: data folder, task store, tracking store, cache and threads, as an immutable value.

Inside the package, a :class:`Session` is passed as an argument and sent to worker processes. Short public calls
(``R.start()``, ``TaskManager(pool)``) use the session set by :func:`init`, or else one made from the environment.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rollforge.confidential import mask_secrets
from rollforge.drivers import STORES, TRACKERS
from rollforge.errors import ConfigError, DataError, nearest
from rollforge.frequency import frequency, is_frequency
from rollforge.limits import parse_size
from rollforge.paths import read_path
from rollforge.task import Document

if TYPE_CHECKING:
    from rollforge.dates import DayLike

__all__ = [
    "DEFAULT_FREQ", "SHORT_NAMES", "Session", "SessionOptions", "amend", "available_cores", "bounded", "current_session",
    "folders_by_frequency", "init", "parse_size", "pool_command", "read_frequency", "using",
]  # fmt: skip

REGIONS = ("us", "cn", "tw")
EXCHANGE = ("trade_unit", "limit_threshold", "deal_price")
"""Options that can be defaults of the backtest's exchange."""


def available_cores() -> int:
    """Return how many cores this process may use (its affinity, not the machine's core count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def home() -> Path:
    return read_path(os.environ.get("ROLLFORGE_HOME", ".rollforge"), "ROLLFORGE_HOME").absolute()


def _cache_home() -> Path:
    named = os.environ.get("ROLLFORGE_CACHE")
    if named:
        return read_path(named, "ROLLFORGE_CACHE").absolute()
    return read_path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "XDG_CACHE_HOME").absolute() / "rollforge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The locations and resources of a run; see the fields.

    Instead of the URI of a task store or a tracking store, its object may be passed (``store=…``, ``tracker=…``). The
    session then contains a URI by which this program finds the object. Worker processes open the tracking store by the
    object's own URI.

    Examples
    --------
    >>> Session(provider_uri="demo", threads=2).with_(threads=1).threads
    1
    """

    provider_uri: str | None = field(default_factory=lambda: os.environ.get("ROLLFORGE_DATA") or None)
    """Data folder in Qlib's binary format; None if not set."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Data folders of single frequencies, such as ``{"1min": FOLDER}``; `provider_uri` has the data of all others."""
    freq: str | None = None
    """Frequency of the data, such as ``60min``: the name of a calendar of the data folder. None: ``day`` if the folder has
    such a calendar, or else its only one. A task whose handler has a frequency uses that one."""
    data_until: str | None = None
    """Last day of the data that this session sees, as ``2024-06-28``; None: all days. See :func:`bounded`."""
    region: str = "us"
    """Trading rules of the backtest: ``us``, ``cn`` or ``tw``."""
    exchange: Mapping[str, object] = field(default_factory=dict)
    """Defaults of the backtest's exchange that override the region's: ``trade_unit`` and ``limit_threshold`` (None:
    none), ``deal_price``."""
    store_uri: str = field(default_factory=lambda: os.environ.get("ROLLFORGE_STORE", f"sqlite:///{home()}/tasks.db"))
    """URI of the task store: ``sqlite:///PATH``, ``postgresql://…``, ``mongodb://…``, ``memory://NAME``."""
    tracking_uri: str = field(
        default_factory=lambda: os.environ.get("ROLLFORGE_TRACKING", f"sqlite:///{home()}/mlflow.db")
    )
    """URI of the tracking store: ``sqlite:///PATH`` or ``http://…`` (MLflow), ``folder:PATH`` (plain files)."""
    experiment_name: str = "Experiment"
    """Name of the default experiment."""
    cache: str = field(default_factory=lambda: str(_cache_home()))
    """Folder for feature panels and compiled kernels, shared by all projects."""
    cache_limit: int = 50 * 2**30
    """Maximum size of cached panels in bytes. The least recently used are deleted first."""
    memory: int = 2 * 2**30
    """Approximate maximum memory for computing features, in bytes. Panels of any size are written while they are built."""
    threads: int = field(default_factory=available_cores)
    """Number of threads that this process may use; caps the `num_threads` of templates."""

    operators: tuple[tuple[str, str], ...] = ()
    """The user's own expression operators, as (class, module or ``.py`` file). Child processes load them when an expression
    names one."""
    plugins: tuple[str, ...] = ()
    """Modules, ``.py`` files and installed plugins that worker processes import before they take a task
    (:mod:`rollforge.plugins`). Tasks of a pool may name their classes."""
    allow: tuple[str, ...] = ()
    """Packages and ``.py`` files whose classes a task of a pool may name, besides those of `plugins` and of
    ``ROLLFORGE_ALLOW``. They are imported only if a task names them."""
    sys_path: tuple[str, ...] = ()
    """Folders with modules of the user, which are added to ``sys.path`` before the plugins are imported."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folders", {read_frequency(name): str(path) for name, path in self.folders.items()})
        object.__setattr__(self, "store_uri", STORES.address(self.store_uri))  # a store may be passed as an object
        object.__setattr__(self, "tracking_uri", TRACKERS.address(self.tracking_uri))
        for name in ("plugins", "allow", "sys_path"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(map(str, given)))
        object.__setattr__(
            self, "cache", os.path.abspath(self.cache)
        )  # stays valid if the working directory changes later
        if self.data_until is not None:
            object.__setattr__(self, "data_until", _read_bound(self.data_until, "data_until"))
        if self.region not in REGIONS:
            raise ConfigError(
                f"region must be one of {', '.join(REGIONS)}, found {self.region!r}.{nearest(self.region, REGIONS)}",
                path="region",
            )
        for key in self.exchange:
            if key not in EXCHANGE:
                raise ConfigError(
                    f"unknown key {key!r}.{nearest(key, EXCHANGE)} Known keys: {', '.join(EXCHANGE)}.", path="exchange"
                )
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, found {self.threads}.", path="threads")

    def with_(self, **changes: Any) -> Session:
        """Return a copy with some fields changed; None keeps a field. Another `provider_uri` replaces all `folders`."""
        given = {SHORT_NAMES.get(k, k): v for k, v in changes.items() if v is not None}
        if given.get("provider_uri", self.provider_uri) != self.provider_uri:
            given.setdefault("folders", {})
        return replace(self, **given)

    def folder(self, freq: str | None = None) -> str | None:
        """Return the folder with the data of a frequency, by default of :attr:`freq`; None if no folder is set."""
        name = freq or self.freq
        return self.provider_uri if name is None else self.folders.get(frequency(name), self.provider_uri)

    def shared_by(self, jobs: int) -> Session:
        """Return the session of each of several processes, which share its threads."""
        return self.with_(threads=max(1, self.threads // jobs))

    @classmethod
    def from_mapping(cls, options: Document, *, path: str = "") -> Session:
        """Return a session from field names and values.

        Raises
        ------
        ConfigError
            For an unknown field, with the nearest name.
        """
        options = {SHORT_NAMES.get(key, key): value for key, value in options.items()}
        if isinstance(options.get("provider_uri"), Mapping):
            options = {**options, **folders_by_frequency(options["provider_uri"])}
        names = [f.name for f in fields(cls)]
        for key in options:
            if key not in names:
                raise ConfigError(
                    f"unknown key {key!r}.{nearest(key, names)} Known keys: {', '.join(names)}.", path=path
                )
        return cls(**{k: v for k, v in options.items() if v is not None})


DEFAULT_FREQ = "__DEFAULT_FREQ"
"""Qlib's key of the folder with the data of all frequencies that have no folder of their own."""


def folders_by_frequency(folders: object, path: str = "provider_uri") -> dict[str, Any]:
    """Return the fields of a session for one folder per frequency, as Qlib's ``provider_uri`` has them.

    Parameters
    ----------
    folders : mapping
        Frequency -> folder. The folder of ``day``, or else the first one, has the data of all other frequencies.
    path : str
        Location in the document, for errors.

    Raises
    ------
    ConfigError
        If a key is not a frequency, two keys are the same one, or a value is not a folder.

    Examples
    --------
    >>> folders_by_frequency({"1min": "minutes", "day": "days"})
    {'provider_uri': 'days', 'folders': {'1min': 'minutes', 'day': 'days'}}
    """
    found: dict[str, str] = {}
    for key, folder in folders.items() if isinstance(folders, Mapping) else ():
        name = DEFAULT_FREQ if key == DEFAULT_FREQ else read_frequency(key, path)
        if name in found:
            raise ConfigError(f"has two folders for the frequency {name!r}.", path=f"{path}.{key}")
        if not isinstance(folder, (str, os.PathLike)) or not str(folder):
            raise ConfigError(f"must be a folder, found {folder!r}.", path=f"{path}.{key}")
        found[name] = str(read_path(folder, f"{path}.{key}"))
    if not found:
        raise ConfigError(f"must be a folder, or one per frequency, found {folders!r}.", path=path)
    others = {name: folder for name, folder in found.items() if name != DEFAULT_FREQ}
    default = found.get(DEFAULT_FREQ) or found.get("day") or next(iter(found.values()))
    return {"provider_uri": default, "folders": others}


def read_frequency(key: object, path: str = "folders") -> str:
    """Return the usual name of a frequency that has a folder of its own."""
    try:
        name = frequency(key) if isinstance(key, str) else ""
    except DataError as exc:
        raise ConfigError(str(exc), path=path) from exc
    if not is_frequency(name):
        raise ConfigError(
            f"{key!r} is not a frequency. Frequencies are 'day', '1min', '5min', '60min', 'week' and the like.",
            path=path,
        )
    return name


SHORT_NAMES = {
    "store": "store_uri",
    "tracker": "tracking_uri",
    "tracking": "tracking_uri",
    "experiment": "experiment_name",
}
"""Other names of fields: the keys of workflow files, and the names of objects that may be passed instead of URIs."""
_default: Session | None = None
_active: ContextVar[Session | None] = ContextVar("rollforge_session", default=None)


def current_session() -> Session:
    """Return the session of the enclosing :func:`using`, else of :func:`init`, else one from the environment."""
    return _active.get() or _default or Session()


class SessionOptions(TypedDict, total=False):
    """The fields of :class:`Session` except `provider_uri`, and their other names; None means the default."""

    folders: Mapping[str, str] | None
    freq: str | None
    data_until: str | None
    region: str | None
    exchange: Mapping[str, object] | None
    store_uri: str | None
    store: object  # the URI of a task store, or its object
    tracking_uri: str | None
    tracking: str | None
    tracker: object  # the URI of a tracking store, or its object
    experiment_name: str | None
    experiment: str | None
    cache: str | os.PathLike[str] | None
    cache_limit: int | None
    memory: int | None
    threads: int | None
    operators: tuple[tuple[str, str], ...] | None
    plugins: str | Sequence[str] | None
    allow: str | Sequence[str] | None
    sys_path: str | Sequence[str | os.PathLike[str]] | None


def init(
    provider_uri: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    **options: Unpack[SessionOptions],
) -> Session:
    """Set the default session that short public calls use, and return it.

    Parameters
    ----------
    provider_uri : path or mapping, optional
        Data folder, or one per frequency: ``{"day": FOLDER, "1min": FOLDER}``.
    **options
        Other fields of :class:`Session`.

    Raises
    ------
    ConfigError
        For a name that is not a field of :class:`Session`.
    """
    global _default
    if provider_uri is not None and not isinstance(provider_uri, Mapping):
        provider_uri = str(read_path(provider_uri, "provider_uri"))
    _default = Session.from_mapping({"provider_uri": provider_uri, **options}, path="init")
    return _default


def amend(**changes: object) -> Session:
    """Change some fields of the default session that short public calls use, and return it."""
    global _default
    _default = (_default or Session()).with_(**changes)
    return _default


@contextlib.contextmanager
def using(session: Session) -> Iterator[Session]:
    """Make `session` the current one inside the ``with`` block, only in this thread or async task."""
    token = _active.set(session)
    try:
        yield session
    finally:
        _active.reset(token)


@contextlib.contextmanager
def bounded(day: DayLike) -> Iterator[Session]:
    """In this ``with`` block, the data end on `day`: later days, listings, memberships and rows do not exist.

    This applies to everything that is read through the session: calendars (including that with future days), universes,
    filters, fields, handlers, benchmarks. The bound is part of the session, so it also applies in worker processes.

    Parameters
    ----------
    day : date
        The last day; if it is not a trading day, the one before it. Inside another bound, the earlier one applies.

    Raises
    ------
    DateError
        If `day` is not a day.
    """
    session = current_session()
    until = _read_bound(day, "day")
    earlier = until if session.data_until is None else min(until, session.data_until)
    with using(session.with_(data_until=earlier)) as inside:
        yield inside


def _read_bound(day: object, name: str) -> str:
    from rollforge.dates import read_day  # imports NumPy, which most commands do not need

    return str(read_day(day, name))


def pool_command(store_uri: str, pool: str) -> str:
    """Return the beginning of a ``rollforge pool`` command, up to the subcommand, quoted for a shell.

    Examples
    --------
    >>> pool_command("sqlite:///my tasks.db", "two")
    "rollforge pool --store 'sqlite:///my tasks.db' -t two"
    """
    named = "" if store_uri == Session().store_uri else f" --store {shlex.quote(mask_secrets(store_uri))}"
    return f"rollforge pool{named} -t {shlex.quote(pool)}"
