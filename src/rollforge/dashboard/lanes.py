"""The timeline of the workers: one lane for each task that a worker runs at the same time."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollforge.dashboard.drawing import WIDTH
from rollforge.dashboard.pools import PoolTask, Snapshot
from rollforge.task import Attempt, Ending, Status

__all__ = ["Bar", "Lane", "Timeline", "timeline"]

_Attempt = tuple[float, float, PoolTask, str, str]
"""Its start, its end, its task, its worker and its status."""
_STATUSES = {Ending.RETURNED: "returned", Ending.RESET: "returned"}
MAX_LANES = 64
_RESOLUTION = WIDTH
"""Number of parts of the whole time: no bar is drawn narrower than one. Tasks of one lane that are shorter, and follow each other
within one, are drawn as one bar."""
_IDLE = 0.02
"""Share of the whole time from which on a lane without a task counts as idle, if it has worked for as long. A worker claims
several short tasks at once, which look as if they had run at the same time."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt at a task, or several short ones in a row."""

    tasks: tuple[PoolTask, ...]
    start: float
    end: float
    status: str

    @property
    def title(self) -> str:
        first = self.tasks[0].title
        return first if len(self.tasks) == 1 else f"{len(self.tasks)} tasks, from {first}"


@dataclass(frozen=True, slots=True)
class Lane:
    """Attempts of a worker, one after the other."""

    worker: str
    number: int
    """From 1, for each worker that runs several tasks at a time."""
    bars: tuple[Bar, ...]
    busy: float
    """Share of the time between its first task and now, or the end of the last task of all, in which a task ran."""
    idle_since: float | None
    """When its last task ended, if none runs now although tasks are waiting."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The lanes of all workers between two times, in seconds since the epoch."""

    start: float
    end: float
    lanes: tuple[Lane, ...]
    hidden: int = 0
    """Number of lanes that are not shown."""


def timeline(snapshot: Snapshot, seconds: Mapping[str, float] | None = None) -> Timeline | None:
    """Return the lanes of a pool; None if no task was started.

    The time ends now if a task runs, and else with the last task.

    Parameters
    ----------
    snapshot : Snapshot
        The tasks.
    seconds : mapping of str to float, optional
        Task id -> how long it ran, of tasks that are done. A worker claims several short tasks at once, and runs one after the
        other; without this, they look as if they had run at the same time.
    """
    seconds = {} if seconds is None else seconds
    past = [_past(task, attempt) for task, attempt in snapshot.past]
    known = {task.id for task, _ in snapshot.past}
    last = (
        _last(task, snapshot.now, seconds.get(task.id))
        for task in snapshot.tasks
        if task.status in _ITS_OWN or task.id not in known
    )
    attempts = sorted(filter(None, (*past, *last)), key=lambda one: one[:2])
    if not attempts:
        return None
    active = any(task.status is Status.RUNNING and not task.is_lost for task in snapshot.tasks)
    waiting = any(task.status in (Status.WAITING, Status.PART_DONE) for task in snapshot.tasks)
    low, high = attempts[0][0], snapshot.now if active else max(one[1] for one in attempts)
    high = max(high, low + 1.0)
    by_worker: dict[str, list[_Attempt]] = {}
    for one in attempts:
        by_worker.setdefault(one[3], []).append(one)
    lanes = [
        _lane(worker, number, lane, (low, high), idle=active and waiting)
        for worker, own in sorted(by_worker.items())
        for number, lane in enumerate(_packed(own), 1)
    ]
    # With too many lanes, those that worked last are shown.
    shown = {id(lane) for lane in sorted(lanes, key=lambda lane: -lane.bars[-1].end)[:MAX_LANES]}
    return Timeline(low, high, tuple(lane for lane in lanes if id(lane) in shown), len(lanes) - len(shown))


def _packed(attempts: Sequence[_Attempt]) -> list[list[_Attempt]]:
    """Return lanes in which no two attempts overlap; each attempt, in the order of their starts, takes the first free one."""
    lanes: list[list[_Attempt]] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for one in attempts:
        while busy and busy[0][0] <= one[0]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            free.append(len(lanes))
            lanes.append([])
        lane = heapq.heappop(free)
        lanes[lane].append(one)
        heapq.heappush(busy, (one[1], lane))
    return lanes


_ITS_OWN = (Status.RUNNING, Status.DONE)
"""Statuses of tasks whose last attempt is not in their histories."""


def _past(task: PoolTask, attempt: Attempt) -> _Attempt | None:
    if attempt.started_at is None or attempt.worker is None:
        return None
    status = _STATUSES.get(attempt.ending, attempt.ending.value)
    return attempt.started_at, max(attempt.started_at, attempt.ended_at), task, attempt.worker, status


def _last(task: PoolTask, now: float, seconds: float | None) -> _Attempt | None:
    start, end = task.state.started_at, task.state.finished_at
    if start is None or task.state.worker is None:
        return None
    if task.status is Status.RUNNING:
        end = min(now, task.state.lease_until or now) if task.is_lost else now
    elif end is None or end < start:
        return None
    elif task.status is Status.DONE and seconds is not None:
        start = max(start, end - seconds)
    status = "lost" if task.is_lost else task.status.value
    return start, max(start, end), task, task.state.worker, status


def _lane(worker: str, number: int, attempts: Sequence[_Attempt], span: tuple[float, float], *, idle: bool) -> Lane:
    low, high = span
    step = (high - low) / _RESOLUTION
    bars: list[tuple[list[PoolTask], float, float, str]] = []
    for start, end, task, _, status in attempts:
        if bars and bars[-1][3] == status and start - bars[-1][2] < step and end - start < step:
            own, first = bars[-1][:2]
            own.append(task)
            bars[-1] = own, first, end, status
        else:
            bars.append(([task], start, end, status))
    ran = sum(one[1] - one[0] for one in attempts)
    last_end = attempts[-1][1]
    runs = attempts[-1][4] == Status.RUNNING.value
    is_idle = idle and not runs and min(ran, high - last_end) >= _IDLE * (high - low)
    return Lane(
        worker,
        number,
        tuple(Bar(tuple(own), start, end, status) for own, start, end, status in bars),
        min(1.0, ran / max(high - attempts[0][0], 1e-9)),
        last_end if is_idle else None,
    )
