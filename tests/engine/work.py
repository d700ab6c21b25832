"""Tasks that sleep, or meet, and say where and when they ran."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.store.base import TaskStore
from rollforge.task import Status


@dataclass(frozen=True)
class Ran:
    """Times of a task, by the clock of the machine, and the GPUs and threads that it saw."""

    began: float
    ended: float
    gpus: str
    threads: int

    def overlaps(self, other: Ran) -> bool:
        return self.began < other.ended and other.began < self.ended


def sleep(task: Mapping[str, Any]) -> list[object]:
    """Wait in the folder ``meet`` until as many tasks have been there as ``number``, and sleep.

    With a file named ``mark``, write the process of the agent to it, and sleep only the first time.
    """
    from rollforge.session import current_session

    began = time.monotonic()
    first = "mark" not in task or not Path(task["mark"]).exists()
    if "mark" in task:
        Path(task["mark"]).write_text(str(os.getppid()))
    if "meet" in task:
        (Path(task["meet"]) / str(task["x"])).touch()
        while len(list(Path(task["meet"]).iterdir())) < task["number"]:
            assert time.monotonic() < began + 120, "the others do not run at the same time"
            time.sleep(0.02)
    if first:
        time.sleep(task.get("seconds", 0.0))
    return [began, time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES", "not set"), current_session().threads]


def ran(store: TaskStore, pool: str = "p") -> dict[int, Ran]:
    """Return what the done tasks have said."""
    return {t.definition["x"]: Ran(*t.result) for t in store.query(pool) if t.status is Status.DONE}
