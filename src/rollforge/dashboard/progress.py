"""The progress of an experiment, and its expected end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rollforge.dashboard.pools import PoolTask, Snapshot
from rollforge.task import Status

__all__ = ["Progress", "Running", "durations", "progress", "running"]

_OPEN = (Status.WAITING, Status.PART_DONE)


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a pool in numbers. Times are in seconds since the epoch, by the clock of the store."""

    total: int
    begun: float | None
    """When the first task was started; None if none was."""
    last_change: float
    """When the last task was created, started or ended."""
    left_seconds: float | None
    """How long the rest takes at the present rate; None if nothing is left, nothing runs, or no task has ended yet."""
    expected_end: float | None
    mean_seconds: float | None
    """Mean duration of the finished tasks."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running task."""

    task: PoolTask
    seconds: float
    """How long it has been running."""
    expected_seconds: float | None
    """How long finished tasks of its model took, on average; None if there are none."""

    @property
    def share(self) -> float | None:
        """How much of the expected time has passed, at most 1."""
        return min(1.0, self.seconds / self.expected_seconds) if self.expected_seconds else None


def durations(tasks: Iterable[PoolTask]) -> dict[str, float]:
    """Return the mean duration of the finished tasks of each model, and under the name '' that of all."""
    sums: dict[str, tuple[float, int]] = {}
    for task in tasks:
        if task.status is Status.DONE and task.seconds is not None:
            for name in {task.model, ""}:
                total, number = sums.get(name, (0.0, 0))
                sums[name] = total + task.seconds, number + 1
    return {name: total / number for name, (total, number) in sums.items()}


def running(snapshot: Snapshot) -> list[Running]:
    """Return the running tasks, those that were started first come first."""
    means = durations(snapshot.tasks)
    found = [
        Running(task, max(0.0, snapshot.now - (task.state.started_at or snapshot.now)), means.get(task.model))
        for task in snapshot.tasks
        if task.status is Status.RUNNING
    ]
    return sorted(found, key=lambda one: -one.seconds)


def progress(snapshot: Snapshot) -> Progress:
    """Return the progress of a pool.

    The expected end assumes that as many tasks run at the same time as now, and that a task takes as long as the finished
    ones of the same model, or as all finished ones if its model has none. A running task that takes longer is expected to
    end at once. Lost tasks are waiting ones: their workers no longer work on them.
    """
    tasks = snapshot.tasks
    means = durations(tasks)
    mean = means.get("")
    active = [task for task in tasks if task.status is Status.RUNNING and not task.is_lost]
    waiting = [task for task in tasks if task.status in _OPEN or task.is_lost]
    left = None
    if active and mean is not None:
        rest = [
            max(0.0, means.get(t.model, mean) - (snapshot.now - (t.state.started_at or snapshot.now))) for t in active
        ]
        work = sum(rest) + sum(means.get(task.model, mean) for task in waiting)
        left = max(work / len(active), *rest, 0.0)
    starts = [t.state.started_at for t in tasks if t.state.started_at is not None]
    changes = [
        time
        for t in tasks
        for time in (t.state.created_at, t.state.started_at, t.state.finished_at)
        if time is not None
    ]
    return Progress(
        total=len(tasks), begun=min(starts, default=None), last_change=max(changes, default=snapshot.now),
        left_seconds=left, expected_end=None if left is None else snapshot.now + left, mean_seconds=mean,
    )  # fmt: skip
