"""Tracking in plain files, without a database or a server: for shared file systems, tests, and many small tasks.

::

    ROOT/rollforge-tracking.json                version of the format
    ROOT/<experiment>/experiment.json           name of the experiment; the folder is named by the name's hash
    ROOT/<experiment>/.runs.json                cache of its runs (run_cache.py); may be deleted
    ROOT/<experiment>/<run>/values-<w>.jsonl    values written by one process, one batch per line
    ROOT/<experiment>/<run>/artifacts/…

Each process appends to its own file, so that two processes never write to one file, because appending is not atomic
between machines on some file systems. To read a run, the lines of all its files are merged by time. An incomplete last
line, left by a killed process, is ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollforge.confidential import private_folder
from rollforge.errors import RecorderNotFound, TrackingError, TrackingUnavailable, shown
from rollforge.paths import read_path
from rollforge.track.artifact_files import Files, LocalFiles, probe_folder
from rollforge.track.filters import matches, parse_filter, parse_order, sort_runs
from rollforge.track.run_cache import RunCache
from rollforge.track.tracker import FOLDER_MARK, Metric, RunData, RunInfo, RunQuery, latest_metrics

__all__ = ["FolderTracker"]

_FORMAT = 1
_GONE = ".deleted-"

Entry = dict[str, Any]  # a line of a run's journal
_LINE = json.JSONEncoder(separators=(",", ":"))


class FolderTracker:
    """Experiments and runs below one folder.

    Parameters
    ----------
    uri : str
        ``folder:PATH``.

    Raises
    ------
    TrackingUnavailable
        If a newer version of Rollforge has written the folder.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> tracker = FolderTracker(f"folder:{folder.name}")
    >>> tracker.prepare()
    >>> run = tracker.create_run(tracker.create_experiment("demo"), "first", {})
    >>> tracker.write(run.id, {"alpha": "1"}, [Metric("IC", 0.05, 0, 0.0)], {})
    >>> tracker.read(run.id).metrics
    {'IC': 0.05}
    >>> folder.cleanup()
    """

    def __init__(self, uri: str) -> None:
        self.root = Path(os.path.abspath(read_path(uri.removeprefix("folder:").removeprefix("//"), "tracking")))
        self.uri = f"folder:{self.root}"
        self._places: dict[str, Path] = {}
        self._indexes: dict[Path, RunCache] = {}
        self._writer = (0, "")
        self._broken: set[str] = set()
        self._check_format()

    def _check_format(self) -> None:
        try:
            noted = int(json.loads((self.root / FOLDER_MARK).read_text(encoding="utf-8"))["format"])
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise self._unavailable(exc) from exc
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise TrackingUnavailable(
                f"{self.root / FOLDER_MARK} is damaged. It should contain {{'format': {_FORMAT}}}."
            ) from exc
        if noted > _FORMAT:
            raise TrackingUnavailable(
                f"The tracking folder {self.root} was written by a newer Rollforge (format {noted}; this version "
                f"knows {_FORMAT}). Update Rollforge, or choose another folder with --tracking."
            )

    def warm_up(self) -> None:
        pass  # there is nothing to import

    def prepare(self) -> None:
        try:
            private_folder(self.root)
            if not os.access(self.root, os.W_OK):
                raise TrackingUnavailable(
                    f"The tracking folder {self.root} is read-only. Choose another one with --tracking."
                )
            if not (self.root / FOLDER_MARK).exists():
                _write_whole(self.root / FOLDER_MARK, {"format": _FORMAT})
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def check_writable(self, experiment_name: str) -> None:
        try:
            probe_folder(self.root / self.create_experiment(experiment_name))
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: OSError) -> TrackingUnavailable:
        if isinstance(exc, TrackingUnavailable):  # which is an OSError, too
            return exc
        return TrackingUnavailable(
            f"The tracking folder {self.root} cannot be used: {exc.strerror or exc}. Choose another one "
            "with --tracking."
        )

    # -- experiments ---------------------------------------------------------------------------------------------------

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        if experiment_id is None:
            experiment_id = _experiment_id(str(name))
        if not experiment_id.isalnum():
            return None
        found = self._name_in(self.root / experiment_id)
        return None if found is None else (experiment_id, found)

    def _name_in(self, folder: Path) -> str | None:
        try:
            return str(json.loads((folder / "experiment.json").read_text(encoding="utf-8"))["name"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise self._unavailable(exc) from exc
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise TrackingError(
                f"{folder / 'experiment.json'} is damaged. It should contain {{'name': NAME}}."
            ) from exc

    def create_experiment(self, name: str) -> str:
        experiment_id = _experiment_id(name)
        folder = self.root / experiment_id
        self.prepare()
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / "experiment.json").exists():
                _write_whole(folder / "experiment.json", {"name": name})
        except OSError as exc:
            raise self._unavailable(exc) from exc
        return experiment_id

    def experiments(self) -> dict[str, str]:
        found = {}
        for file in sorted(self.root.glob("*/experiment.json")):
            name = self._name_in(file.parent) if not file.parent.name.startswith(".") else None
            if name is not None:
                found[name] = file.parent.name
        return found

    def delete_experiment(self, experiment_id: str) -> None:
        self._delete(self.root / experiment_id)

    def _delete(self, folder: Path) -> None:
        """Rename a folder, so that it disappears in one step, and then delete its files."""
        gone = self.root / f"{_GONE}{uuid.uuid4().hex}"
        try:
            folder.rename(gone)
            shutil.rmtree(gone)
        except FileNotFoundError:
            return  # another process has deleted it
        except OSError as exc:
            raise self._unavailable(exc) from exc

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(
        self, experiment_id: str, name: str, tags: Mapping[str, str], start_time: float | None = None
    ) -> RunInfo:
        began = time.time() if start_time is None else start_time
        info = RunInfo(uuid.uuid4().hex, name, experiment_id, "RUNNING", began)
        folder = self.root / experiment_id / info.id
        try:
            folder.mkdir()
        except OSError as exc:
            raise self._unavailable(exc) from exc
        self._places[info.id] = folder
        self._append(info.id, {"name": name, "status": info.status, "start": info.start_time, "tags": dict(tags)})
        return info

    def _place(self, run_id: str) -> Path:
        place = self._places.get(run_id)
        if place is None or not os.path.isdir(place):
            found = next(self.root.glob(f"[!.]*/{run_id}"), None) if run_id.isalnum() else None
            if found is None:
                self._places.pop(run_id, None)
                raise RecorderNotFound(f"There is no recorder {run_id!r} in {self.root}.")
            place = self._places[run_id] = found
        return place

    def _append(self, run_id: str, entry: Entry) -> None:
        folder = self._places.get(run_id) or self._place(run_id)  # if it is gone, opening the file fails
        file = f"{folder}/values-{self._writer_id(run_id)}.jsonl"
        line = (_LINE.encode({"t": time.time(), **entry}) + "\n").encode()
        try:
            handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # Before and after: caches of the run (see run_cache.py) must notice the line, even if this process is
                # killed after writing it.
                os.utime(folder)
                written = os.write(handle, line)
                os.utime(folder)
            finally:
                os.close(handle)
        except FileNotFoundError as exc:
            if self._place(run_id) != folder:  # the experiment's folder was renamed
                return self._append(run_id, entry)
            raise RecorderNotFound(f"The recorder {run_id!r} no longer exists.") from exc
        except OSError as exc:
            raise self._unavailable(exc) from exc
        if written < len(line):
            self._broken.add(run_id)
            raise TrackingUnavailable(
                f"The tracking folder {self.root} is on a full disk: a batch was written incompletely and is ignored."
            )

    def _writer_id(self, run_id: str) -> str:
        """Return the id of this process as a writer; it is new in a fork, and after an incomplete line."""
        if self._writer[0] != os.getpid() or run_id in self._broken:
            self._writer = (os.getpid(), uuid.uuid4().hex[:12])
            self._broken.clear()
        return self._writer[1]

    def _entries(self, run_id: str) -> list[Entry]:
        """Return what was written to a run, in the order of writing."""
        place = self._place(run_id)
        found: list[Entry] = []
        try:
            with os.scandir(place) as entries:
                files = sorted(e.name for e in entries if e.name.startswith("values-"))
            for name in files:
                found.extend(_lines(place / name))
        except FileNotFoundError as exc:
            raise RecorderNotFound(f"The recorder {run_id!r} no longer exists.") from exc
        except OSError as exc:
            raise self._unavailable(exc) from exc
        if len(files) > 1:
            found.sort(key=lambda e: float(e["t"]))
        return found

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        self._append(run_id, {"status": status, "end": end_time})

    def rename_run(self, run_id: str, name: str) -> None:
        self._append(run_id, {"name": name})

    def delete_run(self, run_id: str) -> None:
        self._delete(self._place(run_id))
        self._places.pop(run_id, None)

    def write(
        self,
        run_id: str,
        params: Mapping[str, str],
        metrics: Sequence[Metric],
        tags: Mapping[str, str],
        gone_tags: Sequence[str] = (),
    ) -> None:
        entry: Entry = {}
        if params:
            entry["params"] = dict(params)
        if metrics:
            entry["metrics"] = [[m.name, repr(m.value), m.step, m.time] for m in metrics]
        if gone_tags:
            entry["gone"] = list(gone_tags)
        if tags:
            entry["tags"] = dict(tags)
        self._append(run_id, entry)

    def read(self, run_id: str) -> RunData:
        name, status, start, end = "", "RUNNING", 0.0, None
        params: dict[str, str] = {}
        metrics: list[Metric] = []
        tags: dict[str, str] = {}
        for entry in self._entries(run_id):
            name, start = entry.get("name", name), entry.get("start", start)
            if "status" in entry:
                status, end = entry["status"], entry.get("end")
            for key, value in entry.get("params", {}).items():
                params.setdefault(key, value)  # the first value is kept
            metrics.extend(_metrics(entry))
            for tag in entry.get("gone", ()):
                tags.pop(tag, None)
            tags.update(entry.get("tags", {}))
        info = RunInfo(run_id, name, self._place(run_id).parent.name, status, start, end)
        return RunData(info, params, latest_metrics(metrics), tags)

    def history(self, run_id: str, name: str) -> list[Metric]:
        found = [m for entry in self._entries(run_id) for m in _metrics(entry) if m.name == name]
        return sorted(found, key=lambda m: (m.step, m.time))

    def search(self, experiment_ids: Sequence[str], query: RunQuery) -> list[RunData]:
        parse_filter(query.filter_string)  # an invalid filter raises an error even if there are no runs
        for text in query.order_by:
            parse_order(text)
        found = []
        for experiment_id in experiment_ids:
            folder = self.root / experiment_id
            for data in self._runs(folder):
                if matches(data, query):
                    found.append(replace(data, params={**data.params}, metrics={**data.metrics}, tags={**data.tags}))
        return sort_runs(found, query.order_by)[: query.limit]

    def _runs(self, folder: Path) -> Iterator[RunData]:
        """Yield the runs of an experiment. They belong to the cache and must not be changed."""
        index = self._indexes.setdefault(folder, RunCache(folder))
        try:
            for run_id, changed, known in index.entries():
                self._places.setdefault(run_id, folder / run_id)
                data = known
                if data is None:
                    with contextlib.suppress(RecorderNotFound):  # deleted since the folder was listed
                        data = self.read(run_id)
                        index.add(run_id, changed, data)
                # Without a start, it is being created, or its process was killed while it created the folder.
                if data is not None and (data.info.start_time or data.info.name):
                    yield data
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def files(self, run_id: str) -> Files:
        place = self._place(run_id)
        return LocalFiles(place / "artifacts", run=place)


def _lines(file: Path) -> list[dict[str, object]]:
    *lines, unfinished = file.read_bytes().split(b"\n")
    del unfinished  # empty, or an incomplete line of a process that was killed
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            _check(entry)
        except (ValueError, TypeError, RecursionError) as exc:
            raise TrackingError(
                f"{file}, line {number} is damaged: {exc or type(exc).__name__}. Delete the recorder, or the line."
            ) from exc
        found.append(entry)
    return found


_NUMBER, _OPTIONAL = (int, float), (int, float, type(None))
_KINDS: Entry = {
    "t": _NUMBER, "name": str, "status": str, "start": _NUMBER, "end": _OPTIONAL, "params": dict, "tags": dict,
    "metrics": list, "gone": list,
}  # fmt: skip


def _check(entry: object) -> None:
    """Raise ValueError or TypeError if a line is not in the format that is written."""
    if not isinstance(entry, dict) or "t" not in entry:
        raise ValueError(f"found {shown(entry)}")
    for key, value in entry.items():
        if key in _KINDS and not isinstance(value, _KINDS[key]):
            raise ValueError(f"{key!r} cannot be {shown(value)}")
    texts = [*entry.get("gone", ()), *entry.get("params", {}).values(), *entry.get("tags", {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a param or tag is not a string")
    for metric in entry.get("metrics", ()):
        name, value, step, moment = metric
        float(value)
        if not (isinstance(name, str) and isinstance(step, int) and isinstance(moment, _NUMBER)):
            raise ValueError(f"a metric cannot be {shown(metric)}")


def _metrics(entry: Mapping[str, Any]) -> list[Metric]:
    return [Metric(m[0], float(m[1]), m[2], m[3]) for m in entry.get("metrics", ())]


def _write_whole(file: Path, value: object) -> None:
    draft = file.parent / f".{uuid.uuid4().hex}.part"
    try:
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _experiment_id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
