"""The protocol below experiments and recorders: runs, batches of values, and files. Every backend is one class.

What a backend promises (``rollforge.testing.track.TrackerSuite`` tests each point):

* Many processes write at once, also to one run; a value that was written is never lost or mixed with another.
* Names of params, metrics and tags may hold any character, and values any length; both come back as they were given.
* The first value of a param stands (``Recorder`` refuses another), of a tag the latest, and of a metric the one with the
  highest step, then time. NaN and infinite metrics survive.
* :meth:`Tracker.search` gives the latest run first, and filters in the store.
* What is gone raises :class:`~rollforge.errors.RecorderNotFound`; what cannot be opened or written raises
  :class:`~rollforge.errors.TrackingUnavailable`; no error of a driver comes through.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import unquote

from rollforge.confidential import mask_secrets, without_secrets
from rollforge.errors import ConfigError, TrackingUnavailable, nearest
from rollforge.paths import read_path
from rollforge.track.artifact_files import Files

__all__ = [
    "Metric",
    "RunData",
    "RunInfo",
    "RunQuery",
    "Tracker",
    "folder_uri",
    "known_address",
    "latest_metrics",
    "local_place",
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
    """What a tracker knows of a run besides its values. Times are seconds since the epoch.

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
    """A run with its values; of each metric the latest.

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
    """Which runs, in which order. Everything that is given must hold.

    Examples
    --------
    >>> RunQuery(status=("FINISHED",), tags={"kind": "rolling"}, limit=10).limit
    10
    """

    status: tuple[str, ...] = ()
    """Any of these; none means all."""
    name: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    filter_string: str = ""
    """MLflow's language: ``params.model = 'lgb' and metrics.IC > 0.02``, see :mod:`rollforge.track.filters`."""
    order_by: tuple[str, ...] = ()
    """``metrics.IC DESC``; the latest run first where nothing is said."""
    limit: int | None = None


class Tracker(Protocol):
    """Where experiments and runs are kept. Low-level: people use ``Experiment`` and ``Recorder`` on top of it."""

    uri: str
    """What :func:`open_tracker` opens it by, in any process of any folder."""

    def warm_up(self) -> None:
        """Import what it needs; nothing is opened or changed."""

    def prepare(self) -> None:
        """Create and migrate what is kept, once; opening it afterwards is safe for many processes."""

    def check_writable(self, experiment: str) -> None:
        """Do nothing, unless runs of an experiment cannot be recorded from here; the experiment is made if it is not there.

        Raises
        ------
        TrackingError
            With what is wrong.
        """

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        """Return (id, name) of an experiment, or None."""

    def create_experiment(self, name: str) -> str:
        """Return the id of the experiment, made if it is not there."""

    def experiments(self) -> dict[str, str]:
        """Return name -> id."""

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment with its runs; its name is free again."""

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> RunInfo:
        """Start a run."""

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        """Change a run's status."""

    def rename_run(self, run_id: str, name: str) -> None:
        """Give a run another name."""

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
        """Write values in one batch; `gone_tags` are removed first."""

    def read(self, run_id: str) -> RunData:
        """Return a run with its values."""

    def history(self, run_id: str, name: str) -> list[Metric]:
        """Return all values of a metric by step, then time."""

    def search(self, experiment_ids: Sequence[str], query: RunQuery) -> list[RunData]:
        """Return the runs of some experiments that a query asks for, with their values."""

    def files(self, run_id: str) -> Files:
        """Return the run's artifacts."""


def latest_metrics(values: Sequence[Metric]) -> dict[str, float]:
    """Return of each metric the value of the highest step; among those the latest, then the largest, as in MLflow.

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


_DRIVERS = {
    "folder": ("rollforge.track.folder", "FolderTracker"),
    "sqlite": ("rollforge.track.mlflow", "MLflowTracker"),
    "http": ("rollforge.track.mlflow", "MLflowTracker"),
    "https": ("rollforge.track.mlflow", "MLflowTracker"),
    "file": ("rollforge.track.mlflow", "MLflowTracker"),
}
_open: dict[str, Tracker] = {}
_DATABASES = (".db", ".sqlite", ".sqlite3")
FOLDER_MARK = "rollforge-tracking.json"
"""The file that a folder of plain files has."""


def folder_uri(uri: str | os.PathLike[str], *, create: bool = False) -> str:
    """Return the URI of a store that is named by a path or by ``file:PATH``, with an absolute path; other URIs as they are.

    A path is a database where it is a file or ends like one, a folder of plain files where it holds such, and an ``mlruns``
    folder otherwise.

    Parameters
    ----------
    uri : str or path
        What names the store; ``~`` stands for the home folder. ``file://`` URIs may have percent signs and ``localhost``.
    create : bool
        True makes an ``mlruns`` folder where there is none.

    Raises
    ------
    TrackingUnavailable
        When the folder cannot be made.

    Examples
    --------
    >>> folder_uri("file:///tmp/mlruns"), folder_uri("/tmp/mlruns"), folder_uri("sqlite:///runs.db")
    ('file:/tmp/mlruns', 'file:/tmp/mlruns', 'sqlite:///runs.db')
    >>> folder_uri("/tmp/runs/mlflow.db")
    'sqlite:////tmp/runs/mlflow.db'
    """
    text = os.fspath(uri)
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
            raise TrackingUnavailable(f"The folder {place} for runs cannot be made: {exc.strerror or exc}.") from exc
    return f"file:{place}"


def local_place(uri: str) -> Path | None:
    """Return the file or folder that a tracking store is on this machine; None for one on a server.

    Examples
    --------
    >>> str(local_place("sqlite:////srv/runs.db")), str(local_place("folder:/srv/runs")), local_place("http://host:5000")
    ('/srv/runs.db', '/srv/runs', None)
    """
    scheme, _, rest = folder_uri(uri).partition(":")
    if scheme == "sqlite":
        return _absolute(rest.removeprefix("///").partition("?")[0])
    return _absolute(rest.removeprefix("//")) if scheme in ("folder", "file") else None


def known_address(uri: str, *others: str) -> str:
    """Return the whole address, secrets included, of a store whose address without them is `uri`, if it is known.

    Parameters
    ----------
    uri : str
        What :func:`~rollforge.confidential.without_secrets` left.
    *others : str
        Addresses that may be it; those that this process has opened may be too.
    """
    return next((known for known in (*others, *_open) if known != uri and without_secrets(known) == uri), uri)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(read_path(path, "tracking")))


def open_tracker(uri: str | os.PathLike[str]) -> Tracker:
    """Return the tracker at a URI; the same one for the same URI in one process.

    Parameters
    ----------
    uri : str or path
        ``sqlite:///PATH`` or ``http(s)://…`` (MLflow), ``folder:PATH`` (plain files), ``file:PATH`` (an ``mlruns`` folder
        as Qlib writes it). ``sqlite:////PATH`` is an absolute path. For paths see :func:`folder_uri`; a name alone is one
        where there is such a file or folder, or nothing that it may be a slip of.

    Raises
    ------
    ConfigError
        For an unknown scheme.
    MissingDependency
        When the URI needs MLflow and it is not installed.
    TrackingUnavailable
        When it cannot be opened.
    """
    uri = os.fspath(uri)
    slip = os.sep not in uri and nearest(uri, _DRIVERS) and not os.path.exists(uri)
    uri = uri if slip else folder_uri(uri)
    if uri not in _open:
        scheme, colon, _ = uri.partition(":")
        if not colon or scheme not in _DRIVERS:
            raise ConfigError(
                f"{mask_secrets(uri)!r} names no tracking store.{nearest(scheme, _DRIVERS)} "
                "Write sqlite:///PATH, http://HOST:PORT, folder:PATH, or the path of an mlruns folder.",
                path="tracking",
            )
        module, name = _DRIVERS[scheme]
        tracker = cast(Tracker, getattr(importlib.import_module(module), name)(uri))
        # A relative path and its absolute form are one store.
        _open[uri] = _open.setdefault(tracker.uri, tracker)
    return _open[uri]
