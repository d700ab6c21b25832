"""The actions of the tasks of :class:`~rollforge.testing.executor.ExecutorSuite`. Worker processes import it without pytest."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["STAMP_SECONDS", "act", "finish"]

STAMP_SECONDS = 0.05
"""Seconds between two stamps of the action ``stamp``."""

log = logging.getLogger(__name__)


def act(task: Mapping[str, Any]) -> object:
    """Do what a task says, ``{"do": NAME, "i": NUMBER, …}``, and return what the action returns, else the number.

    Examples
    --------
    >>> act({"i": 3}), act({"i": 3, "do": "fill", "bytes": 2})
    (3, 'xx')
    """
    if "at" in task:
        with open(task["at"], "a", encoding="utf-8") as file:
            file.write(f"{task['i']}\n")
    found = _ACTIONS[task["do"]](task) if "do" in task else None
    return task["i"] if found is None else found


def finish(first: object) -> object:
    """Return the result of the second stage of a task from that of the first.

    Examples
    --------
    >>> finish("x")
    ['x', 'finished']
    """
    return [first, "finished"]


def _print(task: Mapping[str, Any]) -> None:
    sys.stdout.write(f"printed {task['i']}\n")
    log.warning("logged %s", task["i"])


def _raise(task: Mapping[str, Any]) -> None:
    raise ValueError(f"task {task['i']} cannot be done")


def _is_first(task: Mapping[str, Any]) -> bool:
    """Return whether this is the first attempt at a task, which is recorded in a file."""
    file = Path(task["file"])
    first = not file.exists()
    file.touch()
    return first


def _raise_once(task: Mapping[str, Any]) -> None:
    if _is_first(task):
        raise OSError("not yet")


def _kill_once(task: Mapping[str, Any]) -> None:
    if _is_first(task):
        os.kill(os.getpid(), signal.SIGKILL)


def _sleep_once(task: Mapping[str, Any]) -> None:
    if _is_first(task):
        Path(task["file"]).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)


def _hold(task: Mapping[str, Any]) -> None:
    ctypes.PyDLL(None).usleep(int(task["seconds"] * 1e6))  # unlike CDLL, it does not release the interpreter's lock


def _need(task: Mapping[str, Any]) -> None:
    raise ModuleNotFoundError(f"No module named '{task['module']}'")


def _stamp(task: Mapping[str, Any]) -> int | None:
    """Sleep until a file exists or for some seconds, and write the time every 0.05 s to a file of this attempt.

    It holds some bytes of memory, from the start or once the file `go` exists.
    """
    folder = Path(task["stamps"])
    folder.mkdir(exist_ok=True)
    until = time.monotonic() + task["seconds"]
    held = b"" if "go" in task else b"x" * task.get("bytes", 0)
    with (folder / f"{task['i']}-{os.getpid()}-{os.getppid()}-{time.monotonic_ns()}").open("a", buffering=1) as file:
        while True:
            file.write(f"{time.monotonic()}\n")
            if not held and "go" in task and Path(task["go"]).exists():
                held = b"x" * task["bytes"]
            left = until - time.monotonic()
            if left <= 0 or ("end" in task and Path(task["end"]).exists()):
                return len(held) or None
            time.sleep(min(STAMP_SECONDS, left))


def _record(task: Mapping[str, Any]) -> object:
    """Record a run with an artifact of some bytes, and raise an error if the file `broken` exists."""
    from rollforge.session import current_session
    from rollforge.track.base import get_experiment, open_tracker

    tracker = open_tracker(current_session().tracking_uri)
    tracker.prepare()
    recorder = get_experiment(tracker, experiment_name="recorded").create_recorder(f"task {task['i']}")
    recorder.save_objects(value=b"x" * task["bytes"])
    broken = "broken" in task and Path(task["broken"]).exists()
    recorder.end_run("FAILED" if broken else "FINISHED")
    if broken:
        raise OSError("it is broken")
    return recorder


_ACTIONS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "print": _print,
    "raise": _raise,
    "leave": lambda task: sys.exit(5),
    "exit": lambda task: os._exit(7),
    "kill": lambda task: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda task: os.kill(os.getpid(), signal.SIGSEGV),
    "stamp": _stamp,
    "record": _record,
    "sleep": lambda task: time.sleep(task["seconds"]),
    "hold": _hold,
    "allocate": lambda task: len(bytearray(task["bytes"])),
    "fill": lambda task: "x" * task["bytes"],
    "pid": lambda task: os.getpid(),
    "threads": lambda task: os.environ["OMP_NUM_THREADS"],
    "raise once": _raise_once,
    "kill once": _kill_once,
    "sleep once": _sleep_once,
    "variable": lambda task: os.environ.get(task["name"]),
    "need": _need,
}
