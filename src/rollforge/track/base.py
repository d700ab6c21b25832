"""Experiments and recorders, written once over a small tracking protocol.

A :class:`Tracker` knows runs, batches of values, and files. :class:`Recorder` and :class:`Experiment` make of it what
Qlib's documentation describes. A recorder gathers what it is told and writes it in batches: an MLflow run costs 22 ms that
way and 128 ms value by value.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from rollforge.errors import (
    ArtifactNotFound,
    ConfigError,
    ExperimentNotFound,
    RecorderNotFound,
    nearest,
)
from rollforge.session import current_session, mask_secrets
from rollforge.track import artifact

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Experiment", "Metric", "Recorder", "RunData", "RunInfo", "Tracker", "open_reference", "open_tracker"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of a metric."""

    name: str
    value: float
    step: int
    time: float


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker knows of a run besides its values. Times are seconds since the epoch."""

    id: str
    name: str
    experiment_id: str
    status: str
    start_time: float
    end_time: float | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """A run with its values; of each metric the last."""

    info: RunInfo
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Where experiments and runs are kept. Everything here is low-level; people use :class:`Experiment`, :class:`Recorder`."""

    uri: str

    def prepare(self) -> None:
        """Create and migrate what is kept, once; opening it afterwards is safe for many processes."""

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        """Return (id, name) of an experiment, or None."""

    def create_experiment(self, name: str) -> str:
        """Return the id of the experiment, made if it is not there."""

    def experiments(self) -> dict[str, str]:
        """Return name -> id."""

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment with its runs."""

    def create_run(self, experiment_id: str, name: str | None, tags: Mapping[str, str]) -> RunInfo:
        """Start a run."""

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        """Change a run's status."""

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
        """Write values in one batch."""

    def read(self, run_id: str) -> RunData:
        """Return a run with its values."""

    def history(self, run_id: str, name: str) -> list[Metric]:
        """Return all values of a metric, oldest first."""

    def runs(
        self, experiment_id: str, *, status: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[RunData]:
        """Return the runs of an experiment, the latest first, with their values."""

    def put_file(self, run_id: str, file: Path, folder: str) -> None:
        """Keep a copy of a file in a folder of the run's artifacts."""

    def save_object(self, run_id: str, folder: str, name: str, value: Any) -> None:
        """Keep an object under a name, see :mod:`rollforge.track.artifact`."""

    def files(self, run_id: str, folder: str) -> list[str]:
        """Return the names in a folder of the run's artifacts; folders end with a slash."""

    def get_file(self, run_id: str, path: str) -> Path | None:
        """Return a local copy of an artifact, or the artifact itself; None when it is not there."""

    def artifact_uri(self, run_id: str) -> str:
        """Return where the run's artifacts are."""


_DRIVERS = {
    "folder": ("rollforge.track.folder", "FolderTracker"),
    "sqlite": ("rollforge.track.mlflow", "MLflowTracker"),
    "http": ("rollforge.track.mlflow", "MLflowTracker"),
    "https": ("rollforge.track.mlflow", "MLflowTracker"),
    "file": ("rollforge.track.mlflow", "MLflowTracker"),
}
_open: dict[str, Tracker] = {}


def open_tracker(uri: str) -> Tracker:
    """Return the tracker at a URI; the same one for the same URI in one process.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH`` or ``http(s)://…`` (MLflow), ``folder:PATH`` (plain files).

    Raises
    ------
    ConfigError
        For an unknown scheme.
    TrackingUnavailable
        When it cannot be opened.
    """
    if uri not in _open:
        scheme = uri.partition(":")[0]
        if scheme not in _DRIVERS:
            raise ConfigError(
                f"{mask_secrets(uri)!r} names no tracking store.{nearest(scheme, _DRIVERS)} "
                "Write sqlite:///PATH, http://HOST:PORT or folder:PATH.",
                path="tracking",
            )
        module, name = _DRIVERS[scheme]
        _open[uri] = cast(Tracker, getattr(importlib.import_module(module), name)(uri))
    return _open[uri]


def get_experiment(
    tracker: Tracker, *, experiment_id: str | None = None, experiment_name: str | None = None, create: bool = True
) -> Experiment:
    """Return an experiment by id or name.

    Raises
    ------
    ExperimentNotFound
        When it is not there and not to be made, naming the nearest.
    """
    if experiment_id is None and experiment_name is None:
        experiment_name = current_session().experiment
    found = tracker.find_experiment(name=experiment_name, experiment_id=experiment_id)
    if found is not None:
        return Experiment(tracker, *found)
    if create and experiment_id is None and experiment_name is not None:
        return Experiment(tracker, tracker.create_experiment(experiment_name), experiment_name)
    known = tracker.experiments()
    wanted = experiment_name or experiment_id or ""
    raise ExperimentNotFound(
        f"There is no experiment {wanted!r}.{nearest(wanted, known)} Known: {', '.join(known) or 'none'}."
    )


_FLUSH_SECONDS = 10.0
_MAX_BUFFER = 5000


class Recorder:
    """One run: its parameters, metrics, tags and artifacts.

    Parameters
    ----------
    tracker : Tracker
        Where it is kept.
    info : RunInfo
        Which run.
    """

    STATUS_S: ClassVar[str] = "SCHEDULED"
    STATUS_R: ClassVar[str] = "RUNNING"
    STATUS_FI: ClassVar[str] = "FINISHED"
    STATUS_FA: ClassVar[str] = "FAILED"

    def __init__(self, tracker: Tracker, info: RunInfo) -> None:
        self._tracker = tracker
        self._info = info
        self._params: dict[str, str] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._gone: list[str] = []
        self._written = time.monotonic()

    def __repr__(self) -> str:
        return f"Recorder(name={self.name!r}, id={self.id!r}, status={self.status!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorder) and (self.id, self._tracker.uri) == (other.id, other._tracker.uri)

    def __hash__(self) -> int:
        return hash((self.id, self._tracker.uri))

    def __reduce__(self) -> tuple[Any, ...]:
        self.flush()
        return open_reference, (self.reference(),)

    @property
    def id(self) -> str:
        """Identity of the run."""
        return self._info.id

    @property
    def name(self) -> str:
        """Name of the run; not unique."""
        return self._info.name

    @property
    def experiment_id(self) -> str:
        """Identity of its experiment."""
        return self._info.experiment_id

    @property
    def status(self) -> str:
        """SCHEDULED, RUNNING, FINISHED or FAILED."""
        return self._info.status

    @property
    def start_time(self) -> float:
        """When it started, in seconds since the epoch."""
        return self._info.start_time

    @property
    def end_time(self) -> float | None:
        """When it ended, in seconds since the epoch."""
        return self._info.end_time

    @property
    def info(self) -> dict[str, Any]:
        """What is known of the run, under Qlib's keys."""
        return {
            "class": "Recorder", "id": self.id, "name": self.name, "experiment_id": self.experiment_id,
            "start_time": self.start_time, "end_time": self.end_time, "status": self.status,
        }  # fmt: skip

    def reference(self) -> dict[str, str]:
        """Return plain data that :func:`open_reference` makes this recorder of again."""
        return {"experiment_id": self.experiment_id, "recorder_id": self.id, "tracking": self._tracker.uri}

    # -- its life ------------------------------------------------------------------------------------------------------

    def start_run(self) -> Recorder:
        """Mark the run as running (again)."""
        self._set_status(self.STATUS_R, None)
        return self

    def end_run(self, status: str = STATUS_FI) -> None:
        """Write what is still gathered and mark the run as ended."""
        self.flush()
        self._set_status(status, time.time() if status in (self.STATUS_FI, self.STATUS_FA) else None)

    def _set_status(self, status: str, end_time: float | None) -> None:
        self._tracker.update_run(self.id, status, end_time)
        info = self._info
        self._info = RunInfo(info.id, info.name, info.experiment_id, status, info.start_time, end_time)

    # -- values --------------------------------------------------------------------------------------------------------

    def log_params(self, **kwargs: Any) -> None:
        """Keep parameters, as text of any length."""
        self._params.update({k: str(v) for k, v in kwargs.items()})
        self._maybe_flush()

    def log_metrics(self, step: int | None = None, **kwargs: Any) -> None:
        """Keep metrics; `step` makes a curve of them."""
        now = time.time()
        self._metrics.extend(Metric(k.replace("@", "_"), float(v), step or 0, now) for k, v in kwargs.items())
        self._maybe_flush()

    def set_tags(self, **kwargs: Any) -> None:
        """Keep tags, which may change later."""
        self._tags.update({k: str(v) for k, v in kwargs.items()})
        self._gone = [k for k in self._gone if k not in kwargs]
        self._maybe_flush()

    def delete_tags(self, *keys: str) -> None:
        """Remove tags."""
        for key in keys:
            self._tags.pop(key, None)
            self._gone.append(key)

    def _maybe_flush(self) -> None:
        running = self.status == self.STATUS_R
        full = len(self._metrics) + len(self._params) > _MAX_BUFFER
        if full or not running or time.monotonic() - self._written > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        if self._params or self._metrics or self._tags or self._gone:
            params, metrics, tags, gone = self._params, self._metrics, self._tags, self._gone
            self._params, self._metrics, self._tags, self._gone = {}, [], {}, []
            self._tracker.write(self.id, params, metrics, tags, gone)
        self._written = time.monotonic()

    def _read(self) -> RunData:
        self.flush()
        data = self._tracker.read(self.id)
        self._info = data.info
        return data

    def list_params(self) -> dict[str, str]:
        """Return the parameters, whole."""
        return self._read().params

    def list_metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return self._read().metrics

    def list_tags(self) -> dict[str, str]:
        """Return the tags."""
        return self._read().tags

    def metric_history(self, name: str) -> list[Metric]:
        """Return all values of a metric, oldest first."""
        self.flush()
        return self._tracker.history(self.id, name)

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def save_objects(
        self, local_path: str | Path | None = None, artifact_path: str | None = None, **kwargs: Any
    ) -> None:
        """Keep objects under their names, or the file or folder at `local_path`.

        Parameters
        ----------
        local_path : path, optional
            A file, or a folder with all in it.
        artifact_path : str, optional
            Folder among the run's artifacts.
        **kwargs
            Name -> object: ``save_objects(**{"pred.pkl": frame})``.
        """
        if local_path is not None:
            self.log_artifact(local_path, artifact_path)
        for name, value in kwargs.items():
            self._tracker.save_object(self.id, artifact_path or "", name, value)

    def log_artifact(self, local_path: str | Path, artifact_path: str | None = None) -> None:
        """Keep a copy of a file, or of a folder with all in it."""
        root = Path(local_path)
        if not root.exists():
            raise ArtifactNotFound(f"There is no file {str(root)!r} to keep.")
        for file in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
            below = [] if root.is_file() else list(file.relative_to(root).parent.parts)
            self._tracker.put_file(self.id, file, "/".join([*([artifact_path] if artifact_path else []), *below]))

    def _find(self, name: str) -> Path:
        for suffix in artifact.SUFFIXES:
            file = self._tracker.get_file(self.id, name + suffix)
            if file is not None:
                return file
        folder = name.rpartition("/")[0]
        known = self.list_artifacts(folder or None)
        raise ArtifactNotFound(
            f"Recorder {self.id} has no artifact {name!r}.{nearest(name, known)} There are: {', '.join(known) or 'none'}."
        )

    def load_object(self, name: str, *, trusted: bool = False) -> Any:
        """Return the object saved under a name.

        Parameters
        ----------
        name : str
            As it was saved: ``pred.pkl``, ``sig_analysis/ic.pkl``.
        trusted : bool
            True loads any pickle, and thereby runs whatever code it names.

        Raises
        ------
        ArtifactNotFound
            When it was never saved.
        ArtifactUnreadable
            When it is there and damaged.
        UntrustedPickle
            When it is a pickle of a type that is not allowed.
        """
        return artifact.load_file(self._find(name), trusted=trusted)

    def list_artifacts(self, artifact_path: str | None = None) -> list[str]:
        """Return the names in a folder of the artifacts, as they were saved."""
        folder = artifact_path or ""
        prefix = f"{folder}/" if folder else ""
        found = self._tracker.files(self.id, folder)
        return sorted({prefix + artifact.plain_name(f.rstrip("/")) for f in found})

    def download_artifact(self, path: str, dst_path: str | Path | None = None) -> str:
        """Return the path of a local file with an artifact; copied to the folder `dst_path` if that is given."""
        import shutil

        file = self._find(path)
        if dst_path is None:
            return str(file)
        target = Path(dst_path)
        target.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy2(file, target / file.name))

    def get_artifact_uri(self) -> str:
        """Return where the artifacts are."""
        return self._tracker.artifact_uri(self.id)

    def get_local_dir(self) -> str:
        """Return the local folder with the artifacts.

        Raises
        ------
        ArtifactNotFound
            When they are on a server.
        """
        uri = self.get_artifact_uri().removeprefix("file://")
        if "://" in uri or uri.startswith("mlflow-artifacts:"):
            raise ArtifactNotFound(f"The artifacts of recorder {self.id} are on a server: {mask_secrets(uri)}.")
        return uri


class Experiment:
    """A named set of runs.

    Parameters
    ----------
    tracker : Tracker
        Where it is kept.
    id, name : str
        Which experiment.
    """

    RT_D: ClassVar[str] = "dict"
    RT_L: ClassVar[str] = "list"

    def __init__(self, tracker: Tracker, id: str, name: str) -> None:
        self._tracker = tracker
        self.id = id
        self.name = name

    def __repr__(self) -> str:
        return f"Experiment(name={self.name!r}, id={self.id!r})"

    @property
    def info(self) -> dict[str, Any]:
        """What is known of it, under Qlib's keys."""
        return {"class": "Experiment", "id": self.id, "name": self.name}

    def create_recorder(self, recorder_name: str | None = None, tags: Mapping[str, str] | None = None) -> Recorder:
        """Return a new, running recorder."""
        return Recorder(self._tracker, self._tracker.create_run(self.id, recorder_name, {**(tags or {})}))

    def get_recorder(
        self, recorder_id: str | None = None, recorder_name: str | None = None, create: bool = False
    ) -> Recorder:
        """Return a recorder by id, or the latest of a name.

        Raises
        ------
        RecorderNotFound
            When there is none and it is not to be made.
        """
        if recorder_id is not None:
            data = self._tracker.read(recorder_id)
            if data.info.experiment_id != self.id:
                raise RecorderNotFound(f"Recorder {recorder_id!r} is not of experiment {self.name!r}.")
            return Recorder(self._tracker, data.info)
        found = self._tracker.runs(self.id, name=recorder_name, limit=1)
        if found:
            return Recorder(self._tracker, found[0].info)
        if create:
            return self.create_recorder(recorder_name)
        known = {d.info.name for d in self._tracker.runs(self.id)}
        raise RecorderNotFound(
            f"Experiment {self.name!r} has no recorder {recorder_name!r}.{nearest(recorder_name or '', known)}"
        )

    def list_recorders(
        self,
        rtype: str = RT_D,
        max_results: int | None = None,
        status: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the recorders, the latest first.

        Parameters
        ----------
        rtype : str
            ``dict`` (id -> recorder) or ``list``.
        max_results : int, optional
            At most so many.
        status : str, optional
            Only those of a status.
        tags : mapping, optional
            Only those with these tags.
        """
        limit = None if tags else max_results
        runs: Iterable[RunData] = self._tracker.runs(self.id, status=status, limit=limit)
        if tags:
            runs = [d for d in runs if all(d.tags.get(k) == str(v) for k, v in tags.items())][:max_results]
        recorders = [Recorder(self._tracker, d.info) for d in runs]
        return recorders if rtype == self.RT_L else {r.id: r for r in recorders}

    def search_records(self, **kwargs: Any) -> pd.DataFrame:
        """Return the runs as a frame: ``run_id``, ``status``, … , ``params.NAME``, ``metrics.NAME``, ``tags.NAME``."""
        import pandas as pd

        rows = []
        for data in self._tracker.runs(self.id, limit=kwargs.get("max_results")):
            row: dict[str, Any] = {
                "run_id": data.info.id,
                "experiment_id": self.id,
                "status": data.info.status,
                "run_name": data.info.name,
                "start_time": pd.Timestamp(data.info.start_time, unit="s"),
                "end_time": None if data.info.end_time is None else pd.Timestamp(data.info.end_time, unit="s"),
            }
            for kind, values in (("params", data.params), ("metrics", data.metrics), ("tags", data.tags)):
                row.update({f"{kind}.{k}": v for k, v in values.items()})
            rows.append(row)
        return pd.DataFrame(rows)

    def delete_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> None:
        """Delete a recorder."""
        self._tracker.delete_run(self.get_recorder(recorder_id, recorder_name).id)


def open_reference(reference: Mapping[str, str]) -> Recorder:
    """Return the recorder that a reference names.

    Raises
    ------
    RecorderNotFound
        When it is gone.
    """
    tracker = open_tracker(reference["tracking"])
    return Recorder(tracker, tracker.read(reference["recorder_id"]).info)
