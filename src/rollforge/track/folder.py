"""Tracking in plain files: no database, nothing to start. For shared file systems, tests, and very many small tasks.

``ROOT/<experiment>/experiment.json``; ``ROOT/<experiment>/<run>/run.jsonl``: a line for each thing that was written, in
the order of writing, so that a run costs one small append a batch; ``…/artifacts/``. A last line that a killed process
left half-written is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollforge.errors import RecorderNotFound, TrackingUnavailable
from rollforge.track import artifact
from rollforge.track.base import Metric, RunData, RunInfo

__all__ = ["FolderTracker"]


class FolderTracker:
    """Experiments and runs below one folder.

    Parameters
    ----------
    uri : str
        ``folder:PATH``.

    Raises
    ------
    TrackingUnavailable
        When the folder cannot be written.
    """

    def __init__(self, uri: str) -> None:
        self.root = Path(uri.removeprefix("folder:").removeprefix("//")).expanduser().absolute()
        self.uri = f"folder:{self.root}"
        self._places: dict[str, Path] = {}

    def prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise self._unavailable(exc) from exc
        if not os.access(self.root, os.W_OK):
            raise TrackingUnavailable(f"The tracking folder {self.root} is read-only. Name another by --tracking.")

    def _unavailable(self, exc: OSError) -> TrackingUnavailable:
        return TrackingUnavailable(
            f"The tracking folder {self.root} cannot be written: {exc.strerror or exc}. Name another by --tracking."
        )

    # -- experiments ---------------------------------------------------------------------------------------------------

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        if experiment_id is None and name is not None:
            experiment_id = _experiment_id(name)
        try:
            known = json.loads((self.root / str(experiment_id) / "experiment.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return str(experiment_id), known["name"]

    def create_experiment(self, name: str) -> str:
        experiment_id = _experiment_id(name)
        folder = self.root / experiment_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{uuid.uuid4().hex}"
            draft.write_text(json.dumps({"name": name}), encoding="utf-8")
            draft.replace(folder / "experiment.json")
        except OSError as exc:
            raise self._unavailable(exc) from exc
        return experiment_id

    def experiments(self) -> dict[str, str]:
        found = {}
        for file in sorted(self.root.glob("*/experiment.json")):
            found[str(json.loads(file.read_text(encoding="utf-8"))["name"])] = file.parent.name
        return found

    def delete_experiment(self, experiment_id: str) -> None:
        shutil.rmtree(self.root / experiment_id)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: str, name: str | None, tags: Mapping[str, str]) -> RunInfo:
        info = RunInfo(uuid.uuid4().hex, name or "", experiment_id, "RUNNING", time.time())
        if not name:
            info = RunInfo(info.id, f"run-{info.id[:8]}", experiment_id, info.status, info.start_time)
        folder = self.root / experiment_id / info.id
        try:
            folder.mkdir(parents=True)
        except OSError as exc:
            raise self._unavailable(exc) from exc
        self._places[info.id] = folder
        self._append(info.id, {"name": info.name, "status": info.status, "start": info.start_time, "tags": dict(tags)})
        return info

    def _place(self, run_id: str) -> Path:
        if run_id not in self._places:
            found = next(self.root.glob(f"*/{run_id}/run.jsonl"), None) if run_id.isalnum() else None
            if found is None:
                raise RecorderNotFound(f"There is no recorder {run_id!r} in {self.root}.")
            self._places[run_id] = found.parent
        return self._places[run_id]

    def _append(self, run_id: str, entry: Mapping[str, Any]) -> None:
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        try:
            # One write to a file opened for appending: lines of several processes do not mix.
            handle = os.open(self._place(run_id) / "run.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except FileNotFoundError as exc:
            raise RecorderNotFound(f"The recorder {run_id!r} is gone.") from exc
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _entries(self, run_id: str) -> Iterator[dict[str, Any]]:
        try:
            lines = (self._place(run_id) / "run.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError as exc:
            raise RecorderNotFound(f"The recorder {run_id!r} is gone.") from exc
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the unfinished line of a process that was killed
            if isinstance(entry, dict):
                yield entry

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        self._append(run_id, {"status": status, "end": end_time})

    def delete_run(self, run_id: str) -> None:
        shutil.rmtree(self._place(run_id))
        del self._places[run_id]

    def write(
        self,
        run_id: str,
        params: Mapping[str, str],
        metrics: Sequence[Metric],
        tags: Mapping[str, str],
        gone_tags: Sequence[str] = (),
    ) -> None:
        entry: dict[str, Any] = {}
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
        metrics: dict[str, float] = {}
        tags: dict[str, str] = {}
        for entry in self._entries(run_id):
            name, start = entry.get("name", name), entry.get("start", start)
            if "status" in entry:
                status, end = entry["status"], entry.get("end")
            params.update(entry.get("params", {}))
            metrics.update({m[0]: float(m[1]) for m in entry.get("metrics", ())})
            for tag in entry.get("gone", ()):
                tags.pop(tag, None)
            tags.update(entry.get("tags", {}))
        info = RunInfo(run_id, name, self._place(run_id).parent.name, status, start, end)
        return RunData(info, params, metrics, tags)

    def history(self, run_id: str, name: str) -> list[Metric]:
        entries = (m for e in self._entries(run_id) for m in e.get("metrics", ()))
        return [Metric(m[0], float(m[1]), m[2], m[3]) for m in entries if m[0] == name]

    def runs(
        self, experiment_id: str, *, status: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[RunData]:
        found = []
        folder = self.root / experiment_id
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir()]
        for run_id in names:
            self._places.setdefault(run_id, folder / run_id)
            data = self.read(run_id)
            if (status is None or data.info.status == status) and (name is None or data.info.name == name):
                found.append(data)
        found.sort(key=lambda d: d.info.start_time, reverse=True)
        return found[:limit]

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def _artifacts(self, run_id: str, folder: str = "") -> Path:
        return self._place(run_id) / "artifacts" / folder

    def put_file(self, run_id: str, file: Path, folder: str) -> None:
        target = self._artifacts(run_id, folder)
        target.mkdir(parents=True, exist_ok=True)
        draft = target / f".{uuid.uuid4().hex}"
        shutil.copy2(file, draft)
        draft.replace(target / file.name)

    def save_object(self, run_id: str, folder: str, name: str, value: Any) -> None:
        try:
            artifact.save_file(self._artifacts(run_id, folder), name, value)
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def files(self, run_id: str, folder: str) -> list[str]:
        root = self._artifacts(run_id, folder)
        if not root.is_dir():
            return []
        return sorted(e.name + ("/" if e.is_dir() else "") for e in os.scandir(root) if not e.name.startswith("."))

    def get_file(self, run_id: str, path: str) -> Path | None:
        file = self._artifacts(run_id, path)
        return file if file.is_file() else None

    def artifact_uri(self, run_id: str) -> str:
        return str(self._artifacts(run_id))


def _experiment_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
