"""Cache of the runs of an experiment, so that listing thirty thousand runs does not read as many files.

The run folders are authoritative. Each write to a run updates the modification time of its folder, and a cached run is
used only if that time is unchanged. If the cache file is lost, one listing is slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rollforge.track.tracker import RunData, RunInfo

__all__ = ["RunCache"]

_FILE = ".runs.json"
_FORMAT = 1
# The time stamps of a file system may be coarse, and the clocks of two machines differ. A run that was written just now
# is not cached, because another write could leave the same time.
_SETTLED_NS = 2 * 10**9
_WORTH_KEEPING = 100  # number of newly read runs after which the file is written again


class RunCache:
    """Cache of the runs of one experiment.

    Parameters
    ----------
    folder : path
        Folder of the experiment, with a subfolder for each run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[int, RunData]] = {}
        self._learnt: dict[str, tuple[int, RunData]] = {}
        self._looked = False
        self._new = 0

    def entries(self) -> Iterator[tuple[str, int, RunData | None]]:
        """Yield the id of each run, the modification time of its folder, and the cached run or None."""
        if not self._looked:
            self._looked = True
            self._load()
        there: dict[str, tuple[int, RunData]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.isalnum() and entry.is_dir():
                    changed = entry.stat().st_mtime_ns
                    known = self._known.get(entry.name)
                    if known is not None and known[0] == changed:
                        there[entry.name] = known
                        yield entry.name, changed, known[1]
                    else:
                        yield entry.name, changed, None
        self._known = {**there, **self._learnt}  # without deleted runs
        self._learnt = {}
        self._keep()

    def add(self, run_id: str, changed: int, data: RunData) -> None:
        """Cache a run that was read after its folder had the modification time `changed`."""
        if time.time_ns() - changed > _SETTLED_NS:
            self._learnt[run_id] = (changed, data)
            self._new += 1

    def _load(self) -> None:
        try:
            kept = json.loads((self.folder / _FILE).read_text(encoding="utf-8"))
            if kept["format"] == _FORMAT:
                self._known = {run_id: (changed, _data(plain)) for run_id, changed, plain in kept["runs"]}
        except Exception:  # noqa: BLE001 - damaged data can raise anything
            self._known = {}  # missing or damaged: the runs are read from their folders

    def _keep(self) -> None:
        if self._new < _WORTH_KEEPING:
            return
        self._new = 0
        runs = [[run_id, changed, _plain(data)] for run_id, (changed, data) in self._known.items()]
        draft = self.folder / f".{uuid.uuid4().hex}.part"
        with contextlib.suppress(OSError):  # a read-only folder is listed without a cache file
            try:
                draft.write_text(json.dumps({"format": _FORMAT, "runs": runs}, separators=(",", ":")), encoding="utf-8")
                draft.replace(self.folder / _FILE)
            finally:
                draft.unlink(missing_ok=True)


def _plain(data: RunData) -> list[object]:
    return [list(asdict(data.info).values()), data.params, data.metrics, data.tags]


def _data(plain: list[Any]) -> RunData:
    info, params, metrics, tags = plain
    run = RunInfo(*info)
    texts = [
        run.id,
        run.name,
        run.experiment_id,
        run.status,
        *params,
        *params.values(),
        *metrics,
        *tags,
        *tags.values(),
    ]
    numbers = [run.start_time, *([] if run.end_time is None else [run.end_time]), *metrics.values()]
    if not all(isinstance(t, str) for t in texts) or not all(isinstance(n, (int, float)) for n in numbers):
        raise ValueError("no run")
    return RunData(run, params, metrics, tags)
