"""The tracker protocol, on which experiments and recorders are built: runs, batches of values, and files.

Every tracking store is one class, which guarantees the following (``rollforge.testing.track.TrackerSuite`` tests it):

* Many processes can write at the same time, even to one run. A written value is never lost or mixed with another.
* Names of params, metrics and tags may contain any character, and values may have any length. Both are read back
  unchanged.
* A param keeps its first value (``Recorder`` refuses another) and a tag its latest. The value of a metric is the one
  with the highest step, then the latest time. NaN and infinite metrics are preserved.
* :meth:`Tracker.search` returns the latest run first, and filters in the store.
* A run that does not exist raises :class:`~rollforge.errors.RecorderNotFound`; a store that cannot be opened or written
  raises :class:`~rollforge.errors.TrackingUnavailable`. Errors of a driver are never passed on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote

from rollforge import trust
from rollforge.confidential import mask_secrets, without_secrets
from rollforge.drivers import TRACKERS
from rollforge.errors import CodeNotAllowed, TrackingUnavailable, nearest
from rollforge.paths import read_path
from rollforge.session import current_session
from rollforge.store.addresses import Opener
from rollforge.track.artifact_files import Files

__all__ = [
    "Metric",
    "ModelAliases",
    "RunData",
    "RunInfo",
    "RunQuery",
    "Tracker",
    "check_scheme",
    "folder_uri",
    "known_address",
    "latest_metrics",
    "local_path",
    "open_tracker",
]


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of a metric. The time is in seconds since the epoch.

    Examples
    --------
    >>> Metric("IC", 0.05, step=3, time=0.0).value
    0.05
    """

    name: str
    value: float
    step: int
    time: float


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Description of a run, without its values. Times are in seconds since the epoch.

    Examples
    --------
    >>> RunInfo("7f", "first", "1", "FINISHED", start_time=0.0, end_time=2.5).status
    'FINISHED'
    """

    id: str
    name: str
    experiment_id: str
    status: str
    start_time: float
    end_time: float | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """A run with its values; `metrics` contains the latest value of each.

    Examples
    --------
    >>> RunData(RunInfo("7f", "first", "1", "FINISHED", 0.0, 2.5), metrics={"IC": 0.05}).metrics["IC"]
    0.05
    """

    info: RunInfo
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Conditions on runs, all of which must be met, and the order of the runs.

    Examples
    --------
    >>> RunQuery(status=("FINISHED",), tags={"kind": "rolling"}, limit=10).limit
    10
    """

    status: tuple[str, ...] = ()
    """One of these statuses; if empty, any status."""
    name: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    filter_string: str = ""
    """MLflow's language: ``params.model = 'lgb' and metrics.IC > 0.02``, see :mod:`rollforge.track.filters`."""
    order_by: tuple[str, ...] = ()
    """Such as ``metrics.IC DESC``; by default the latest run comes first."""
    limit: int | None = None


class Tracker(Protocol):
    """A tracking store of experiments and runs. Low-level: use ``Experiment`` and ``Recorder`` on top of it."""

    uri: str
    """URI with which :func:`open_tracker` opens the store in any process and working directory."""

    def warm_up(self) -> None:
        """Import what the store needs, without opening or changing it."""

    def prepare(self) -> None:
        """Create or migrate the store. Afterwards many processes can open it at the same time."""

    def check_writable(self, experiment_name: str) -> None:
        """Raise an error if runs of an experiment, which is created if needed, cannot be recorded from this machine.

        Raises
        ------
        TrackingError
            If runs cannot be recorded; the message contains the reason.
        """

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        """Return (id, name) of an experiment, or None."""

    def create_experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created if it does not exist."""

    def experiments(self) -> dict[str, str]:
        """Return the experiments as name -> id."""

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its runs; its name can be used again."""

    def create_run(
        self, experiment_id: str, name: str, tags: Mapping[str, str], start_time: float | None = None
    ) -> RunInfo:
        """Start a run.

        Parameters
        ----------
        experiment_id : str
            Experiment of the run.
        name : str
            Name of the run.
        tags : mapping
            Its first tags.
        start_time : float, optional
            When it started, for the copy of a run, in seconds since the epoch; by default now.
        """

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        """Change a run's status."""

    def rename_run(self, run_id: str, name: str) -> None:
        """Rename a run."""

    def delete_run(self, run_id: str) -> None:
        """Delete a run."""

    def write(
        self,
        run_id: str,
        params: Mapping[str, str],
        metrics: Sequence[Metric],
        tags: Mapping[str, str],
        gone_tags: Sequence[str] = (),
    ) -> None:
        """Write values in one batch, after removing `gone_tags`."""

    def read(self, run_id: str) -> RunData:
        """Return a run with its values."""

    def history(self, run_id: str, name: str) -> list[Metric]:
        """Return all values of a metric by step, then time."""

    def search(self, experiment_ids: Sequence[str], query: RunQuery) -> list[RunData]:
        """Return the runs of some experiments that match a query, with their values."""

    def files(self, run_id: str) -> Files:
        """Return the run's artifacts."""


def latest_metrics(values: Sequence[Metric]) -> dict[str, float]:
    """Return the value of each metric with the highest step, then latest time, then largest value, as in MLflow.

    Examples
    --------
    >>> latest_metrics([Metric("l2", 3.0, 2, 0.0), Metric("l2", 1.0, 1, 5.0)])
    {'l2': 3.0}
    """
    latest: dict[str, Metric] = {}
    for value in values:
        known = latest.get(value.name)
        if known is None or _rank(value) >= _rank(known):
            latest[value.name] = value
    return {name: value.value for name, value in latest.items()}


def _rank(value: Metric) -> tuple[int, float, float]:
    return value.step, value.time, float("-inf") if value.value != value.value else value.value


_opener: Opener[Tracker] = Opener(TRACKERS, "tracking", ":")
_DATABASES = (".db", ".sqlite", ".sqlite3")
FOLDER_MARK = "rollforge-tracking.json"
"""Name of the file that marks a tracking folder of plain files."""


def folder_uri(tracking_uri: str | os.PathLike[str], *, create: bool = False) -> str:
    """Return the URI of a store given by a path or as ``file:PATH``, with an absolute path. Other URIs are not changed.

    A path is a database if it is a file or has a database's suffix, a folder of plain files if it contains their marker
    file, and an ``mlruns`` folder otherwise.

    Parameters
    ----------
    tracking_uri : str or path
        Path or URI of the store; ``~`` is the home folder. ``file://`` URIs may be percent-encoded and may contain
        ``localhost``.
    create : bool
        If True, create the ``mlruns`` folder if it does not exist.

    Raises
    ------
    TrackingUnavailable
        If the folder cannot be created.

    Examples
    --------
    >>> folder_uri("file:///tmp/mlruns"), folder_uri("/tmp/mlruns"), folder_uri("sqlite:///runs.db")
    ('file:/tmp/mlruns', 'file:/tmp/mlruns', 'sqlite:///runs.db')
    >>> folder_uri("/tmp/runs/mlflow.db")
    'sqlite:////tmp/runs/mlflow.db'
    """
    text = os.fspath(tracking_uri)
    if text.startswith("file:"):
        path = re.sub("^//(localhost(?=/))?", "", text.removeprefix("file:"))
        place = _absolute(path if os.path.exists(path) else unquote(path))
    elif ":" in text:
        return text
    else:
        place = _absolute(text)
        if os.path.isfile(place) or place.suffix.lower() in _DATABASES:
            return f"sqlite:///{place}"
        if os.path.exists(place / FOLDER_MARK):
            return f"folder:{place}"
    if create:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise TrackingUnavailable(f"The folder {place} for runs cannot be created: {exc.strerror or exc}.") from exc
    return f"file:{place}"


def local_path(tracking_uri: str) -> Path | None:
    """Return the file or folder of a tracking store on this machine; None if the store is on a server.

    Examples
    --------
    >>> str(local_path("sqlite:////srv/runs.db")), str(local_path("folder:/srv/runs")), local_path("http://host:5000")
    ('/srv/runs.db', '/srv/runs', None)
    """
    scheme, _, rest = folder_uri(tracking_uri).partition(":")
    if scheme == "sqlite":
        return _absolute(rest.removeprefix("///").partition("?")[0])
    return _absolute(rest.removeprefix("//")) if scheme in ("folder", "file") else None


def known_address(tracking_uri: str, *others: str) -> str:
    """Return the address, including secrets, of a store given without them; if unknown, return it unchanged.

    Parameters
    ----------
    tracking_uri : str
        Address returned by :func:`~rollforge.confidential.without_secrets`.
    *others : str
        Addresses to compare, in addition to those that this process has opened.
    """
    candidates = (known for known in (*others, *_opener.known) if known != tracking_uri)
    return next((known for known in candidates if without_secrets(known) == tracking_uri), tracking_uri)


def check_scheme(tracking_uri: str) -> None:
    """Raise an error if a URI from a pool or a file would import code that this program has not chosen.

    Built-in and registered schemes, and those that the program has opened itself, may be used. The scheme of an installed
    package may be used if the package is allowed, as for classes (:mod:`rollforge.trust`).

    Raises
    ------
    CodeNotAllowed
        With the package.
    """
    scheme, colon, _ = tracking_uri.partition(":")
    driver = TRACKERS.find(scheme) if colon and not TRACKERS.is_in_use(scheme) else None
    if driver is None or current_session().tracking_uri.startswith(f"{scheme}:"):
        return
    if not trust.is_allowed_module(driver.module):
        package = driver.module.partition(".")[0]
        raise CodeNotAllowed(
            f"The tracking store {mask_secrets(tracking_uri)} is opened by code of {driver.origin}, which this program has "
            f"not chosen. If you trust its origin, allow it: --allow {package} or ROLLFORGE_ALLOW={package}."
        )


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(read_path(path, "tracking")))


@runtime_checkable
class ModelAliases(Protocol):
    """A tracking store that also has a registry of models. MLflow's stores have one.

    A registered model belongs to the service that has created it, its owner, and to the ledger of that service: another
    ledger may have a service of the same name. Those that others have created are not changed. One that an earlier version
    has created has no mark of a ledger; it gets that of the next one that changes it.
    """

    def check_model_owner(self, model: str, owner: str, ledger: str | None = None) -> None:
        """Raise an error if a registered model exists that others have created.

        Parameters
        ----------
        model : str
            Name of the registered model.
        owner : str
            The service.
        ledger : str, optional
            The mark of its ledger; None does not compare ledgers.

        Raises
        ------
        ConfigError
            If there is.
        """

    def models_of_owner(self, owner: str, ledger: str | None = None) -> list[str]:
        """Return the names of the registered models of an owner; with a ledger, only those with its mark."""

    def set_model_aliases(
        self, model: str, runs: Mapping[str, str | None], owner: str, ledger: str | None = None
    ) -> bool:
        """Make aliases of a registered model point at runs, and return whether anything has changed.

        Parameters
        ----------
        model : str
            Name of the registered model, which is created if it does not exist.
        runs : mapping
            Alias -> id of a run; None removes the alias.
        owner : str
            The service whose models these are.
        ledger : str, optional
            The mark of its ledger; None does not compare ledgers.

        Raises
        ------
        ConfigError
            If others have created the registered model.
        """


def open_tracker(tracking_uri: str | os.PathLike[str]) -> Tracker:
    """Return the tracker at a URI. Within a process, the same URI returns the same tracker.

    Parameters
    ----------
    tracking_uri : str or path
        ``sqlite:///PATH`` or ``http(s)://…`` (MLflow), ``folder:PATH`` (plain files), ``file:PATH`` (an ``mlruns`` folder
        as Qlib writes it). ``sqlite:////PATH`` is an absolute path. For paths, see :func:`folder_uri`. A bare name is a
        path unless nothing with that name exists and it resembles a scheme. Other schemes can be added
        (:mod:`rollforge.drivers`).

    Raises
    ------
    ConfigError
        If the scheme is unknown, or its class cannot be used.
    MissingDependency
        If the URI requires MLflow, which is not installed.
    TrackingUnavailable
        If the store cannot be opened.
    """
    tracking_uri = os.fspath(tracking_uri)
    given: Tracker | None = TRACKERS.registered_object(tracking_uri)
    if given is not None:
        return given
    is_name = ":" not in tracking_uri and os.sep not in tracking_uri and not os.path.exists(tracking_uri)
    # Else it is a misspelt scheme, or nothing, which as a path would be the working folder.
    if tracking_uri and not (is_name and nearest(tracking_uri, TRACKERS.schemes())):
        tracking_uri = folder_uri(tracking_uri)
    tracker = _opener.open(tracking_uri)
    # A relative path and its absolute form are one store.
    _opener.known[tracking_uri] = _opener.known.setdefault(tracker.uri, tracker)
    return _opener.known[tracking_uri]
