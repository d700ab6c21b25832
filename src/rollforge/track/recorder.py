""":class:`Recorder`: one run in any tracking store, with the methods of Qlib's recorder."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NotRequired, TypedDict, cast

from rollforge.confidential import mask_secrets
from rollforge.errors import ArtifactNotFound, ConfigError, TrackingError, TrackingUnavailable, nearest, shown
from rollforge.limits import LIMITS
from rollforge.markup import Markup
from rollforge.notebook import html_repr, summary, table
from rollforge.track import artifact
from rollforge.track.saved_frames import SavedFrames
from rollforge.track.tracker import Metric, RunData, RunInfo, Tracker, check_scheme, local_path, open_tracker

__all__ = ["Recorder", "RunReference", "check_reference", "open_reference"]

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0
_MAX_BUFFER = 5000


class Recorder:
    """One run: its parameters, metrics, tags and artifacts.

    While the run is running, values are buffered and written in batches: when the run ends, before anything is read,
    when the buffer is full, and with the first value logged more than five seconds after the last write. Artifacts are
    written at once.

    Parameters
    ----------
    tracker : Tracker
        Tracking store of the run.
    info : RunInfo or (str, str)
        The run, or its experiment id and run id.
    created : bool
        Whether the run has just been created and has no params yet that a new one could contradict.

    Examples
    --------
    >>> import tempfile
    >>> from rollforge.track.base import get_experiment, open_tracker
    >>> folder = tempfile.TemporaryDirectory()
    >>> experiment = get_experiment(open_tracker(f"folder:{folder.name}"), experiment_name="demo")
    >>> with experiment.create_recorder("first") as recorder:
    ...     recorder.log_params(model="LGBModel")
    ...     recorder.log_metrics(IC=0.05)
    ...     recorder.save_objects(**{"weights.pkl": {"a": 1.0}})
    >>> recorder.status, recorder.list_metrics(), recorder.load_object("weights.pkl")
    ('FINISHED', {'IC': 0.05}, {'a': 1.0})
    >>> folder.cleanup()
    """

    STATUS_S: ClassVar[str] = "SCHEDULED"
    STATUS_R: ClassVar[str] = "RUNNING"
    STATUS_FI: ClassVar[str] = "FINISHED"
    STATUS_FA: ClassVar[str] = "FAILED"

    keeps_frames = True
    """Whether frames that a running run saves are kept in memory, because its next record may read them."""

    def __init__(self, tracker: Tracker, info: RunInfo | tuple[str, str], *, created: bool = False) -> None:
        self._tracker = tracker
        # If only (experiment id, run id) are given, the rest is read when it is needed.
        self._place = (info.experiment_id, info.id) if isinstance(info, RunInfo) else info
        self._seen = info if isinstance(info, RunInfo) else None
        self._known_params: dict[str, str] | None = {} if created else None
        self._params: dict[str, str] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._gone: list[str] = []
        self._frames = SavedFrames()
        self._written = time.monotonic()
        self._lock = threading.RLock()  # a callback of a library may log from another thread

    def __repr__(self) -> str:
        return f"Recorder(name={self.name!r}, id={self.id!r}, status={self.status!r})"

    @html_repr
    def _repr_html_(self) -> Markup:
        info = {"id": self.id, "status": self.status, "started": self.start_time, "ended": self.end_time}
        values: dict[str, Mapping[str, object]] = {
            "metric": self.list_metrics(), "parameter": self.list_params(), "tag": self.list_tags()
        }  # fmt: skip
        tables = [table([kind, "value"], sorted(found.items()), of=kind) for kind, found in values.items()]
        files = table(["artifact"], [[name] for name in self.list_artifacts()], of="artifact")
        return summary(self.name or "Recorder", info, *tables, files)

    def _identity(self) -> tuple[str, str, str]:
        return self._tracker.uri, self.experiment_id, self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorder) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[object, ...]:
        self.flush()
        return open_reference, (self.reference(),)

    @property
    def _info(self) -> RunInfo:
        if self._seen is None:
            self._seen = self._tracker.read(self.id).info
        return self._seen

    @_info.setter
    def _info(self, info: RunInfo) -> None:
        self._seen = info

    @property
    def id(self) -> str:
        """Id of the run."""
        return self._place[1]

    @property
    def name(self) -> str:
        """Name of the run; not unique."""
        return self._info.name

    @property
    def experiment_id(self) -> str:
        """Id of its experiment."""
        return self._place[0]

    @property
    def status(self) -> str:
        """SCHEDULED, RUNNING, FINISHED or FAILED, as last set or read by this object. Reading values updates it."""
        return self._info.status

    @property
    def start_time(self) -> str:
        """Start time in local time and Qlib's format: ``2020-01-31 17:30:00``."""
        return _clock(self._info.start_time)

    @property
    def end_time(self) -> str | None:
        """End time in local time and the same format; None if the run has not ended."""
        return None if self._info.end_time is None else _clock(self._info.end_time)

    @property
    def run_info(self) -> RunInfo:
        """The run as the tracking store describes it, with times in seconds since the epoch."""
        return self._info

    @property
    def info(self) -> RunDescription:
        """Description of the run under Qlib's keys."""
        return {
            "class": "Recorder", "id": self.id, "name": self.name, "experiment_id": self.experiment_id,
            "start_time": self.start_time, "end_time": self.end_time, "status": self.status,
        }  # fmt: skip

    @property
    def uri(self) -> str:
        """URI of the tracking store."""
        return self._tracker.uri

    def reference(self) -> RunReference:
        """Return plain data from which :func:`open_reference` opens this recorder again."""
        return {"experiment_id": self.experiment_id, "recorder_id": self.id, "tracking": self._tracker.uri}

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def start_run(self) -> Recorder:
        """Mark the run as running and return the recorder, which can be used as a context manager that ends the run."""
        if self.status != self.STATUS_R:
            self._set_status(self.STATUS_R, None)
        return self

    def end_run(self, status: str = STATUS_FI) -> None:
        """Write buffered values and set the final status of the run.

        Raises
        ------
        ConfigError
            If the status is unknown.
        """
        allowed = (self.STATUS_S, self.STATUS_R, self.STATUS_FI, self.STATUS_FA)
        if status not in allowed:
            raise ConfigError(f"{status!r} is not a status.{nearest(status, allowed)} Known: {', '.join(allowed)}.")
        self.flush()
        self._frames.clear()
        self._set_status(status, time.time() if status in (self.STATUS_FI, self.STATUS_FA) else None)

    def rename(self, name: str) -> None:
        """Rename the run."""
        self._tracker.rename_run(self.id, name)
        self._info = replace(self._info, name=name)

    def __enter__(self) -> Recorder:
        return self.start_run()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_run(self.STATUS_FI if kind is None else self.STATUS_FA)

    def _set_status(self, status: str, end_time: float | None) -> None:
        self._tracker.update_run(self.id, status, end_time)
        self._info = replace(self._info, status=status, end_time=end_time)

    # -- values --------------------------------------------------------------------------------------------------------

    def log_params(self, **kwargs: object) -> None:
        """Log parameters. Values are stored as text of any length.

        Raises
        ------
        TrackingError
            If a parameter already has another value; nothing of this call is stored then.
        """
        new = _texts("params", kwargs)
        with self._lock:
            if self._known_params is None:
                self._known_params = dict(self._tracker.read(self.id).params)
            for name, value in new.items():
                known = self._known_params.get(name, value)
                if known != value:
                    raise TrackingError(
                        f"The param {name!r} of recorder {self.id} is {known[:80]!r} and cannot become {value[:80]!r}. "
                        "Use a tag for values that change: set_tags()."
                    )
            self._known_params.update(new)
            self._params.update(new)
            self._noted()

    def log_metrics(self, step: int | None = None, **kwargs: object) -> None:
        """Log metrics.

        Parameters
        ----------
        step : int, optional
            Step on the metric's curve; 0 by default.
        **kwargs
            Name -> number. NaN and infinite values are allowed.

        Raises
        ------
        TrackingError
            If a value is not a number, or `step` is not a whole number of 64 bits.
        """
        now = time.time()
        place = 0 if step is None else _step(step)
        new = [Metric(_named(k), _number(k, v), place, now) for k, v in kwargs.items()]
        with self._lock:
            self._metrics.extend(new)
            self._noted()

    def set_tags(self, **kwargs: object) -> None:
        """Set tags. Unlike params, tags can be changed later."""
        with self._lock:
            self._tags.update(_texts("tags", kwargs))
            self._noted()

    def delete_tags(self, *keys: str) -> None:
        """Remove tags. Missing tags are ignored."""
        with self._lock:
            for key in keys:
                self._tags.pop(key, None)
                self._gone.append(key)
            self._noted()

    def _noted(self) -> None:
        """Register this recorder as having unwritten values, and write them if it is time to."""
        _unwritten[id(self)] = (os.getpid(), self)
        full = len(self._metrics) + len(self._params) + len(self._tags) > _MAX_BUFFER
        if (
            full
            or self._seen is None
            or self.status != self.STATUS_R
            or time.monotonic() - self._written > _FLUSH_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Write buffered values."""
        with self._lock:
            self._written = time.monotonic()
            _unwritten.pop(id(self), None)
            if self._params or self._metrics or self._tags or self._gone:
                params, metrics, tags, gone = self._params, self._metrics, self._tags, self._gone
                self._params, self._metrics, self._tags, self._gone = {}, [], {}, []
                self._tracker.write(self.id, params, metrics, tags, gone)

    def _read(self) -> RunData:
        self.flush()
        data = self._tracker.read(self.id)
        self._info = data.info
        return data

    def read(self) -> RunData:
        """Return the run with its params, metrics and tags, read in one call."""
        return self._read()

    def list_params(self) -> dict[str, str]:
        """Return the parameters at full length."""
        return self._read().params

    def list_metrics(self) -> dict[str, float]:
        """Return the latest value of each metric."""
        return self._read().metrics

    def list_tags(self) -> dict[str, str]:
        """Return the tags."""
        return self._read().tags

    def metric_history(self, name: str) -> list[Metric]:
        """Return all values of a metric, by step."""
        self.flush()
        return self._tracker.history(self.id, name)

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def save_objects(
        self, local_path: str | Path | None = None, artifact_path: str | None = None, **kwargs: object
    ) -> None:
        """Save objects under their names, or the file or folder at `local_path`.

        Parameters
        ----------
        local_path : path, optional
            A file, or a folder with everything in it.
        artifact_path : str, optional
            Folder among the run's artifacts.
        **kwargs
            Name -> object: ``save_objects(**{"pred.pkl": frame})``. For file formats, see
            :mod:`rollforge.track.artifact`.

        Raises
        ------
        ConfigError
            If a name leads outside the run's folder.
        TrackingUnavailable
            If an object cannot be written; no part of that object is left.
        """
        if local_path is not None:
            self.log_artifact(local_path, artifact_path)
        files = self._tracker.files(self.id)
        for name, value in kwargs.items():
            path = f"{artifact_path}/{name}" if artifact_path else name
            artifact.save(files, path, value)
            if self.keeps_frames and self.status == self.STATUS_R:
                self._frames.keep(files, path, value)

    def delete_objects(self, *names: str) -> None:
        """Remove the objects with these names. Missing objects are ignored."""
        files = self._tracker.files(self.id)
        for name in names:
            artifact.remove(files, name)

    def log_artifact(self, local_path: str | Path, artifact_path: str | None = None) -> None:
        """Save a copy of a file, or of a folder with everything in it.

        Raises
        ------
        ArtifactNotFound
            If `local_path` does not exist.
        """
        root = Path(local_path)
        if not root.exists():
            raise ArtifactNotFound(f"The file {str(root)!r} does not exist, so it cannot be saved.")
        files = self._tracker.files(self.id)
        base = root.parent if root.is_file() else root
        for file in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
            path = file.relative_to(base).as_posix()
            with files.draft(f"{artifact_path}/{path}" if artifact_path else path) as draft:
                shutil.copyfile(file, draft)

    def load_object(self, name: str, *, trusted: bool = False) -> Any:
        """Return the object saved under a name.

        Parameters
        ----------
        name : str
            Name under which it was saved: ``pred.pkl``, ``sig_analysis/ic.pkl``.
        trusted : bool
            If True, load any pickle. This runs whatever code the pickle names.

        Raises
        ------
        ArtifactNotFound
            If there is no such object.
        ArtifactUnreadable
            If it is damaged. The subclass `ArtifactRefused`, which is also an UntrustedPickle, is raised if the pickle
            refers to something that may not be loaded.
        """
        file = self._found(name)
        kept = self._frames.get(file)
        return artifact.load_file(file, trusted=trusted) if kept is None else kept

    def _found(self, name: str) -> Path:
        files = self._tracker.files(self.id)
        found = artifact.find(files, name)
        if found is not None:
            return found
        self._tracker.read(self.id)  # raises another error if the recorder itself has been deleted
        known = self.list_artifacts(name.rpartition("/")[0] or None)
        raise ArtifactNotFound(
            f"Recorder {self.id} has no artifact {name!r}.{nearest(name, known)} "
            f"Known: {', '.join(known[:20]) or 'none'}."
        )

    def list_artifacts(self, artifact_path: str | None = None) -> list[str]:
        """Return the paths of the artifacts in a folder; objects are listed under the names given in `save_objects`."""
        prefix = f"{artifact_path.rstrip('/')}/" if artifact_path else ""
        found = artifact.names(self._tracker.files(self.id), artifact_path or "")
        return [prefix + name for name in found if prefix or name != "long_values"]

    def download_artifact(self, path: str, dst_path: str | Path | None = None) -> str:
        """Return the path of a local file or folder with an artifact, copied to the folder `dst_path` if it is given.

        An object is returned in its stored form; a table, for example, is a Parquet file.
        """
        files = self._tracker.files(self.id)
        if not files.list(path):
            file = self._found(path)
            if dst_path is None:
                return str(file)
            target = Path(dst_path) / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            return str(shutil.copyfile(file, target))
        if dst_path is None and files.folder is not None:
            return str(files.folder / path)
        base = Path(tempfile.mkdtemp(prefix="rollforge-") if dst_path is None else dst_path)
        target = base / Path(path).name
        target.mkdir(parents=True, exist_ok=True)
        for name in files.list(path):
            self.download_artifact(f"{path}/{name.rstrip('/')}", target)
        return str(target)

    def get_artifact_uri(self) -> str:
        """Return the URI of the artifacts."""
        return self._tracker.files(self.id).uri

    @property
    def artifact_uri(self) -> str:
        """The URI of the artifacts."""
        return self.get_artifact_uri()

    def get_local_dir(self) -> str:
        """Return the run's folder, which contains its artifact folder, as Qlib does.

        Raises
        ------
        ArtifactNotFound
            If the artifacts are on a server.
        """
        files = self._tracker.files(self.id)
        if files.folder is None:
            raise ArtifactNotFound(f"The artifacts of recorder {self.id} are on a server: {mask_secrets(files.uri)}.")
        files.folder.mkdir(parents=True, exist_ok=True)
        return str(files.folder.parent)


COPIED_FROM = "rollforge.copied_from"
"""Tag of a run copied from another store: the id of the original run."""


RunDescription = TypedDict(
    "RunDescription",
    {
        "class": str, "id": str, "name": str, "experiment_id": str,
        "start_time": str, "end_time": str | None, "status": str,
    },
)  # fmt: skip
"""Description of a run under Qlib's keys."""


class RunReference(TypedDict):
    """Plain data from which :func:`open_reference` opens a recorder again."""

    experiment_id: str
    recorder_id: str
    tracking: str
    """URI of the tracking store."""
    host: NotRequired[str]
    """In a pool: the machine whose file the tracking store is."""


def check_reference(reference: Mapping[str, object]) -> RunReference:
    """Return a mapping after checking that it can be a reference to a recorder: those read from a pool may be anything.

    Raises
    ------
    TrackingError
        If a key is missing or has an invalid value, which the message names.
    """
    for key in ("tracking", "experiment_id", "recorder_id", "host"):
        value = reference.get(key, "" if key != "host" else "this one")
        if not isinstance(value, str) or not value:
            raise TrackingError(
                f"{shown(dict(reference))} does not refer to a recorder: its {key!r} is {shown(value)}."
            )
    return cast("RunReference", reference)  # as just checked


def open_reference(reference: Mapping[str, object], *, read: bool = True) -> Recorder:
    """Return the recorder to which a reference refers.

    Parameters
    ----------
    reference : mapping
        Returned by :meth:`Recorder.reference`.
    read : bool
        If False, the run is not read yet, so a deleted run raises an error only when it is used.

    Raises
    ------
    RecorderNotFound
        If the run does not exist.
    TrackingError
        If `reference` is invalid, or names a store on this machine that does not exist (it is not created).
    """
    known = check_reference(reference)
    place = local_path(known["tracking"])
    if place is not None and not place.exists():
        raise TrackingUnavailable(
            f"There is no tracking store {mask_secrets(known['tracking'])}, which recorder {known['recorder_id'][:40]!r} "
            "belongs to."
        )
    check_scheme(known["tracking"])
    tracker = open_tracker(known["tracking"])
    if not read:
        return Recorder(tracker, (known["experiment_id"], known["recorder_id"]))
    return Recorder(tracker, tracker.read(known["recorder_id"]).info)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _named(key: str) -> str:
    if not key:
        raise TrackingError("A param, metric or tag needs a name.")
    return key


def _texts(what: str, values: Mapping[str, object]) -> dict[str, str]:
    """Return params or tags as text, checked against the limits: each is a database row, and a long one is a file."""
    LIMITS["run_values"].check(len(values), f"One call records as {what}", error=TrackingError)
    texts = {_named(name): str(value) for name, value in values.items()}
    size = LIMITS["run_value_size"]
    if texts and max(map(len, texts.values())) > size.value:
        for name, text in texts.items():
            size.check(len(text), f"The {what[:-1]} {shown(name)} holds", error=TrackingError)
    return texts


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TrackingError(f"The metric {name!r} must be a number, found {shown(value)}.") from None


def _step(value: Any) -> int:
    try:
        step = int(value)
    except (TypeError, ValueError, OverflowError):
        raise TrackingError(f"The step of metrics must be a whole number, found {shown(value)}.") from None
    if not -(2**63) <= step < 2**63:  # the database of MLflow holds no others
        raise TrackingError(f"The step of metrics must be a whole number of 64 bits, found {shown(value)}.")
    return step


# Recorders with unwritten values, and the process that must write them: a program that exits without ending its run
# still writes its values, and a forked process does not write those of its parent.
_unwritten: dict[int, tuple[int, Recorder]] = {}


def _flush_all() -> None:
    for process, recorder in list(_unwritten.values()):
        try:
            if process == os.getpid():
                recorder.flush()
        except TrackingError as exc:
            log.warning("At the end of the program, values of %r could not be written: %s", recorder, exc)


atexit.register(_flush_all)
