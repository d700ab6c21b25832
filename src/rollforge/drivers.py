"""URI schemes of task stores, ledgers and tracking stores: which class opens which URI.

A scheme comes from one of three places, in this order: it is built in, a program registered it (:func:`register_store`,
:func:`register_ledger`, :func:`register_tracker`), or an installed package has an entry point with its name in the group
``rollforge.stores``, ``rollforge.ledgers`` or ``rollforge.trackers``. The module of a scheme is imported when a URI with
that scheme is first opened.

A program may also pass a store or a tracker as an object. Inside the program it is found by its URI
(:meth:`Drivers.address`), so that a :class:`~rollforge.session.Session` contains only text.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from typing import Any

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, MissingDependency, nearest, shown

__all__ = [
    "LEDGERS",
    "STORES",
    "TRACKERS",
    "Driver",
    "Drivers",
    "InstalledName",
    "installed",
    "register_again",
    "register_ledger",
    "register_store",
    "register_tracker",
    "registered",
]

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Driver:
    """The class that opens the URIs of a scheme.

    Examples
    --------
    >>> Driver("redis", "my_package.redis:RedisStore").module
    'my_package.redis'
    """

    scheme: str
    target: str
    """``module:Class``."""
    origin: str = ""
    """Where the scheme comes from, for messages; empty for a scheme of Rollforge."""
    extra: str = ""
    """The extra of Rollforge that installs what the class needs."""

    @property
    def module(self) -> str:
        """The module of the class."""
        return self.target.partition(":")[0]


class Drivers:
    """The schemes of one kind of store.

    Parameters
    ----------
    noun : str
        The kind of store, for messages.
    group : str
        The group of entry points.
    function : str
        Name of the function that registers a scheme, for messages.
    examples : str
        URIs of the built-in schemes, for messages.
    methods : sequence of str
        Methods that a class must have. Only the most important ones: a class that lacks them is a mistake.
    built_in : mapping
        Scheme -> target, or (target, extra). These schemes cannot be replaced.

    Examples
    --------
    >>> drivers = Drivers("store", "doc.stores", "register_store", "file:PATH", ("load",), {"file": "pathlib:Path"})
    >>> drivers.register("redis", "my_package:RedisStore")
    >>> drivers.find("redis").target, sorted(drivers.schemes())
    ('my_package:RedisStore', ['file', 'redis'])
    """

    def __init__(
        self, noun: str, group: str, function: str, examples: str, methods: Sequence[str],
        built_in: Mapping[str, str | tuple[str, str]],
    ) -> None:  # fmt: skip
        self.noun = noun
        self.group = group
        self._function = function
        self._examples = examples
        self._methods = tuple(methods)
        self._built_in = {
            scheme: Driver(scheme, given, extra="") if isinstance(given, str) else Driver(scheme, given[0], extra=given[1])
            for scheme, given in built_in.items()
        }  # fmt: skip
        self._registered: dict[str, Driver] = {}
        self._used: set[str] = set()
        self._objects: dict[str, object] = {}
        self._numbers = itertools.count(1)
        self._reported: set[str] = set()

    # -- schemes -------------------------------------------------------------------------------------------------------

    def register(self, scheme: str, target: str | type, *, replace: bool = False) -> None:
        """Register a class that opens the URIs of a scheme, in this process and in the worker processes that it starts.

        Raises
        ------
        ConfigError
            If the scheme is invalid, built in, or registered with another class and `replace` is False.
        """
        if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
            raise ConfigError(
                f"{shown(scheme)} is not a valid URI scheme. Use lower-case letters and digits, such as 'redis'."
            )
        if isinstance(target, type):
            target = f"{target.__module__}:{target.__qualname__}"
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise ConfigError(f"The scheme {scheme!r} must name a class as 'module:Class', found {shown(target)}.")
        if scheme in self._built_in:
            raise ConfigError(f"The scheme {scheme!r} is built in and cannot be replaced. Use another name.")
        known = self._registered.get(scheme)
        if known is not None and known.target != target and not replace:
            raise ConfigError(
                f"The scheme {scheme!r} is already registered for {known.target}. To replace it, pass replace=True."
            )
        if known is not None and known.target != target:
            self._used.discard(scheme)
        self._registered[scheme] = Driver(scheme, target, f"{self._function}()")

    def unregister(self, scheme: str) -> None:
        """Undo :meth:`register`. URIs that are already open stay open.

        Raises
        ------
        ConfigError
            If the scheme was not registered.
        """
        if self._registered.pop(scheme, None) is None:
            raise ConfigError(f"The scheme {scheme!r} was not registered with {self._function}().")
        self._used.discard(scheme)

    def registered(self) -> tuple[tuple[str, str], ...]:
        """Return what this process registered, as (scheme, target)."""
        return tuple((driver.scheme, driver.target) for driver in self._registered.values())

    def schemes(self) -> dict[str, Driver]:
        """Return all schemes: built in, registered, installed."""
        return {**self._installed()[0], **self._registered, **self._built_in}

    def find(self, scheme: str) -> Driver | None:
        """Return the driver of a scheme; None if there is none.

        Raises
        ------
        ConfigError
            If several installed packages claim the scheme.
        """
        known = self._built_in.get(scheme) or self._registered.get(scheme)
        if known is not None or not _SCHEME.fullmatch(scheme):
            return known
        found, claims = self._installed()
        if len(claims.get(scheme, ())) > 1:
            raise ConfigError(
                f"Several installed packages provide the scheme {scheme!r}: {', '.join(claims[scheme])}. "
                f"Uninstall all but one, or choose one with rollforge.{self._function}({scheme!r}, "
                "'module:Class')."
            )
        return found.get(scheme)

    def is_in_use(self, scheme: str) -> bool:
        """Return whether this program chose a scheme: it is built in, registered, or has been opened."""
        return scheme in self._built_in or scheme in self._registered or scheme in self._used

    def _installed(self) -> tuple[dict[str, Driver], dict[str, list[str]]]:
        """Return the schemes of installed packages, and who claims each. Unusable entry points are logged and left out."""
        drivers: dict[str, Driver] = {}
        claims: dict[str, list[str]] = {}
        for point in installed(self.group):
            owner = f"{point.package} ({point.value})"
            wrong = ""
            if not _SCHEME.fullmatch(point.name):
                wrong = f"{point.name!r} is not a valid URI scheme"
            elif point.name in self._built_in:
                wrong = f"the scheme {point.name!r} is built in and cannot be replaced"
            elif not _TARGET.fullmatch(point.value):
                wrong = f"the scheme {point.name!r} must name a class as 'module:Class'"
            if wrong:
                self._warn(f"The entry point of {owner} in the group {self.group!r} is ignored: {wrong}.")
                continue
            if owner not in claims.setdefault(point.name, []):
                claims[point.name].append(owner)
            drivers[point.name] = Driver(point.name, point.value, point.package)
        return drivers, claims

    def _warn(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            log.warning("%s", text)

    # -- classes -------------------------------------------------------------------------------------------------------

    def load(self, driver: Driver) -> Any:
        """Import and return the class of a scheme.

        Raises
        ------
        MissingDependency
            If a built-in scheme needs a package that is not installed.
        ConfigError
            If the class of another scheme cannot be imported, or is not a store of this kind.
        """
        where = f"The scheme {driver.scheme!r} of {driver.origin} is opened by {driver.target}, which"
        try:
            target: object = importlib.import_module(driver.module)
            for name in driver.target.partition(":")[2].split("."):
                target = getattr(target, name)
        except ModuleNotFoundError as exc:
            if driver.extra and not (exc.name or "").startswith("rollforge"):
                raise MissingDependency(
                    f"A {self.noun} at {driver.scheme}:// needs the package {exc.name}: "
                    f"pip install 'rollforge[{driver.extra}]'"
                ) from exc
            if not driver.origin:
                raise
            raise MissingDependency(f"{where} cannot be imported: {exc}.") from exc
        except Exception as exc:
            if not driver.origin:
                raise
            raise ConfigError(f"{where} cannot be imported: {type(exc).__name__}: {exc}") from exc
        if driver.origin:
            lacking = [m for m in self._methods if not callable(getattr(target, m, None))]
            if not isinstance(target, type) or lacking:
                reason = f"it has no {lacking[0]}()" if isinstance(target, type) else "it is not a class"
                raise ConfigError(f"{where} is not a {self.noun}: {reason}.")
        self._used.add(driver.scheme)
        return target

    def unknown(self, uri: str, scheme: str, path: str) -> ConfigError:
        """Return the error for a URI with an unknown scheme: which schemes exist, and how to add one."""
        if scheme == "object":
            return ConfigError(
                f"The {self.noun} {uri.partition(':')[2]} is an object in another program and cannot be opened here.",
                path=path,
            )
        known = self.schemes()
        others = [f"{d.scheme} ({d.origin})" for d in known.values() if d.origin]
        also = f" Added: {', '.join(sorted(others))}." if others else ""
        named = scheme if _SCHEME.fullmatch(scheme) else "SCHEME"
        return ConfigError(
            f"{mask_secrets(uri)!r} does not name a {self.noun}.{nearest(scheme, known)} Write "
            f"{self._examples}.{also} To add a scheme, install a package with an entry point in "
            f"{self.group!r}, or call rollforge.{self._function}({named!r}, 'module:Class').",
            path=path,
        )

    # -- objects -------------------------------------------------------------------------------------------------------

    def address(self, given: object) -> str:
        """Return a URI by which :meth:`registered_object` finds an object in this process; a text is returned unchanged.

        This is the object's own URI, or if it has none, or another object has it, a URI that is valid only in this process.

        Raises
        ------
        ConfigError
            If the object is not a store of this kind.
        """
        if isinstance(given, (str, os.PathLike)):
            return os.fspath(given)
        lacking = next((m for m in self._methods if not callable(getattr(given, m, None))), None)
        if lacking is not None:
            raise ConfigError(
                f"A {self.noun} must be a URI or an object with its methods, found {shown(given)}, which has no "
                f"{lacking}()."
            )
        for address, known in self._objects.items():
            if known is given:
                return address
        uri: object = getattr(given, "uri", None)
        # "memory://" has no name
        if not isinstance(uri, str) or not uri or uri.endswith("://") or uri in self._objects:
            return self.private_address(given)
        self._objects[uri] = given
        return str(uri)

    def private_address(self, given: object) -> str:
        """Return a URI, valid only in this process, by which :meth:`registered_object` finds an object.

        The object's own URI is opened as before: a store that was opened read-only does not replace the one that others use.
        """
        for address, known in self._objects.items():
            if known is given:
                return address
        uri = f"object:{type(given).__name__}-{next(self._numbers)}"
        self._objects[uri] = given
        return uri

    def registered_object(self, uri: str) -> Any:
        """Return the object that this program passed and that has this address; None if there is none."""
        return self._objects.get(uri)

    def portable(self, uri: str) -> str:
        """Return the URI by which worker processes open what has this address.

        Raises
        ------
        ConfigError
            If it is an object that other processes cannot open.
        """
        given = self._objects.get(uri)
        if given is None:
            return uri
        own = getattr(given, "uri", None)
        scheme = str(own).partition(":")[0]
        if isinstance(own, str) and own != uri and not own.startswith("object:") and self.find(scheme) is not None:
            return own
        if own == uri and self.find(scheme) is not None:
            return uri
        raise ConfigError(
            f"Worker processes cannot open the {self.noun} {type(given).__name__}, which was passed as an object: "
            f"{'its URI ' + repr(mask_secrets(own)) + ' has no known scheme' if isinstance(own, str) else 'it has no URI'}. "
            f"Register its scheme with rollforge.{self._function}(), or run the tasks in this process (without jobs)."
        )


@dataclass(frozen=True, slots=True)
class InstalledName:
    """An entry point of an installed package.

    The standard library's ``EntryPoint`` is not used, because if the package ``importlib_metadata`` has been imported,
    one invalid entry of any installed package makes reading all of them fail.
    """

    name: str
    value: str
    package: str
    """Name and version of the package."""


def installed(group: str) -> list[InstalledName]:
    """Return the entry points of installed packages in a group, without importing anything.

    Metadata of other packages that cannot be read are not a reason to fail: such packages have no entry points.
    """
    by_package: dict[tuple[str, str], list[InstalledName]] = {}
    for package in distributions():
        try:
            text = package.read_text("entry_points.txt") or ""
            if group not in text:
                continue
            parser = ConfigParser(delimiters="=", interpolation=None, strict=False, default_section="")
            parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
            parser.read_string("\n".join(line.strip() for line in text.splitlines()))
        except Exception as exc:  # noqa: BLE001 - metadata that any installed package may have damaged
            log.warning("The entry points of %s cannot be read: %s: %s", _described(package), type(exc).__name__, exc)
            continue
        owner = _described(package)
        if parser.has_section(group) and _is_first(package, text):  # folders may be listed twice
            by_package[owner, text] = [InstalledName(name, value, owner) for name, value in parser.items(group)]
    return sorted(
        (point for points in by_package.values() for point in points), key=lambda point: (point.name, point.value)
    )


def _described(package: Distribution) -> str:
    try:
        return f"{package.name} {package.version}"
    except Exception:  # noqa: BLE001 - the same
        return "a package without readable metadata"


def _is_first(package: Distribution, text: str) -> bool:
    """Return whether no version of the package in an earlier folder hides this one, which has these entry points."""
    try:
        return distribution(package.name).read_text("entry_points.txt") == text
    except Exception:  # noqa: BLE001 - the same
        return True


STORES = Drivers(
    "task store",
    "rollforge.stores",
    "register_store",
    "sqlite:///PATH, postgresql://HOST/DATABASE, mongodb://HOST/DATABASE or memory://NAME",
    ("create", "claim", "commit", "query", "count"),
    {
        "memory": "rollforge.store.memory:MemoryStore",
        "sqlite": "rollforge.store.sqlite:SQLiteStore",
        "postgresql": ("rollforge.store.postgres:PostgresStore", "postgres"),
        "postgres": ("rollforge.store.postgres:PostgresStore", "postgres"),
        "mongodb": ("rollforge.store.mongo:MongoStore", "mongodb"),
        "mongodb+srv": ("rollforge.store.mongo:MongoStore", "mongodb"),
    },
)
LEDGERS = Drivers(
    "ledger",
    "rollforge.ledgers",
    "register_ledger",
    "sqlite:///PATH, postgresql://HOST/DATABASE, mongodb://HOST/DATABASE or memory://NAME",
    ("acquire", "append", "entries"),
    {
        "memory": "rollforge.ledger.memory:MemoryLedger",
        "sqlite": "rollforge.ledger.sqlite:SQLiteLedger",
        "postgresql": ("rollforge.ledger.postgres:PostgresLedger", "postgres"),
        "postgres": ("rollforge.ledger.postgres:PostgresLedger", "postgres"),
        "mongodb": ("rollforge.ledger.mongo:MongoLedger", "mongodb"),
        "mongodb+srv": ("rollforge.ledger.mongo:MongoLedger", "mongodb"),
    },
)
TRACKERS = Drivers(
    "tracking store",
    "rollforge.trackers",
    "register_tracker",
    "sqlite:///PATH, http://HOST:PORT, folder:PATH, or the path of an mlruns folder",
    ("create_experiment", "create_run", "write", "read", "search", "files"),
    {
        "folder": "rollforge.track.folder:FolderTracker",
        "sqlite": "rollforge.track.mlflow:MLflowTracker",
        "http": "rollforge.track.mlflow:MLflowTracker",
        "https": "rollforge.track.mlflow:MLflowTracker",
        "file": "rollforge.track.mlflow:MLflowTracker",
    },
)


def register_store(scheme: str, target: str | type, *, replace: bool = False) -> None:
    """Register a class that opens task stores whose URI begins with ``scheme://``, as ``Class(uri, clock=None)``.

    Parameters
    ----------
    scheme : str
        The scheme, in lower case. Built-in schemes cannot be replaced.
    target : str or type
        ``"module:Class"``, which is imported when a URI of the scheme is first opened, or the class. It has the methods of
        :class:`~rollforge.store.base.TaskStore`.
    replace : bool
        If True, a class that was registered for the scheme before is replaced; URIs that are already open stay open.

    Raises
    ------
    ConfigError
        If the scheme is invalid, built in, or registered with another class and `replace` is False.

    Examples
    --------
    >>> register_store("my-redis", "my_package.redis:RedisStore")
    >>> STORES.unregister("my-redis")
    """
    STORES.register(scheme, target, replace=replace)


def register_ledger(scheme: str, target: str | type, *, replace: bool = False) -> None:
    """Register a class that opens ledgers whose URI begins with ``scheme://``, as ``Class(uri, clock=None)``.

    Parameters
    ----------
    scheme, replace
        As for :func:`register_store`.
    target : str or type
        ``"module:Class"``, or the class. It has the methods of :class:`~rollforge.ledger.base.Ledger`.

    Examples
    --------
    >>> register_ledger("my-redis", "my_package.redis:RedisLedger")
    >>> LEDGERS.unregister("my-redis")
    """
    LEDGERS.register(scheme, target, replace=replace)


def register_tracker(scheme: str, target: str | type, *, replace: bool = False) -> None:
    """Register a class that opens tracking stores whose URI begins with ``scheme:``, as ``Class(uri)``.

    Parameters
    ----------
    scheme, replace
        As for :func:`register_store`.
    target : str or type
        ``"module:Class"``, or the class. It has the methods of :class:`~rollforge.track.tracker.Tracker`.

    Examples
    --------
    >>> register_tracker("my-runs", "my_package.runs:MyTracker")
    >>> TRACKERS.unregister("my-runs")
    """
    TRACKERS.register(scheme, target, replace=replace)


_ALL = (STORES, LEDGERS, TRACKERS)
Registered = tuple[tuple[tuple[str, str], ...], ...]


def registered() -> Registered:
    """Return what this process registered, for :func:`register_again` in a worker process."""
    return tuple(drivers.registered() for drivers in _ALL)


def register_again(known: Registered) -> None:
    """Register what the parent process registered."""
    for drivers, pairs in zip(_ALL, known, strict=True):
        for scheme, target in pairs:
            drivers.register(scheme, target, replace=True)
