"""Tracks that tasks leave, see the action ``stamp`` of rollforge.testing.actions."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.testing.actions import STAMP_SECONDS


@dataclass(frozen=True, order=True)
class Attempt:
    """An attempt at a task, from its first stamp to its last; it may have lived for one more pause."""

    began: float
    ended: float
    pid: int
    agent: int
    """Process of the engine that started its worker process, such as a Dask worker."""


def tracks(folder: Path) -> dict[int, list[Attempt]]:
    """Return the attempts at each task, in the order in which they began."""
    found: dict[int, list[Attempt]] = defaultdict(list)
    for file in folder.iterdir():
        times = [float(line) for line in file.read_text().split("\n")[:-1]]
        i, pid, agent, _ = map(int, file.name.split("-"))
        if times:
            found[i].append(Attempt(times[0], times[-1], pid, agent))
    return {i: sorted(attempts) for i, attempts in found.items()}


def overlaps(folder: Path) -> list[str]:
    """Return which attempts at one task ran at the same time."""
    return [
        f"task {i}: {before} and {after}"
        for i, attempts in tracks(folder).items()
        for before, after in itertools.pairwise(attempts)
        if before.ended > after.began
    ]


def running(folder: Path, i: int | None = None) -> Attempt | None:
    """Return the attempt that runs now at a task, or at any task."""
    for known, attempts in tracks(folder).items():
        for attempt in attempts:
            if i in (None, known) and time.monotonic() - attempt.ended < 10 * STAMP_SECONDS and is_alive(attempt.pid):
                return attempt
    return None


def is_alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)
    return value


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Call a function in another thread, and raise what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as exc:  # noqa: BLE001 - raised below
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if raised:
        raise raised[0]
