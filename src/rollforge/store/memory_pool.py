"""The tasks of one pool in memory, with the indexes that make the cost of a claim independent of the number of tasks."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rollforge.task import Status, TaskRecord

__all__ = ["ALL", "MemoryPool"]

ALL = ""
"""Name of the batch of all tasks."""

_BROKEN = (Status.FAILED, None)
"""Status of a dependency that makes tasks fail; None if it does not exist."""

_Place = tuple[int, int, str]
"""Place of a task in the order of claims: its negative priority, its number, its id."""


class MemoryPool:
    """The tasks of a pool, oldest first. All changes go through :meth:`put`, :meth:`discard` and :meth:`replace`."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self.creations: dict[str, str] = {}
        """The identity of the call that created each task."""
        self.held: set[str] = set()
        """Ids of the running tasks."""
        self.unmet_dependencies: dict[str, set[str]] = {}
        """The dependencies that are not done, of each task that has dependencies."""
        self.broken_dependencies: dict[str, set[str]] = {}
        """The dependencies that failed or do not exist, of each task that has dependencies."""
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._free: dict[Status, list[_Place]] = {}
        self._dependents: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {ALL: set()}
        self._batches: dict[str, set[str]] = {}
        self._tallies: dict[str, Counter[Status]] = {ALL: Counter()}

    # -- reading -------------------------------------------------------------------------------------------------------

    def in_order(self, ids: Iterable[str]) -> list[TaskRecord]:
        """Return the tasks with some ids, oldest first."""
        return [self.tasks[i] for i in sorted(ids, key=self._numbers.__getitem__)]

    def members(self, batch: str) -> set[str]:
        """Return the ids of the tasks of a batch."""
        return self._members.get(batch, set())

    def free(self, status: Status, batch: str = ALL) -> Iterator[TaskRecord]:
        """Yield the tasks of a status and a batch that wait for no other task, in the order of claims.

        No task may be changed during the iteration.
        """
        members = self.members(batch)
        return (self.tasks[i] for _, _, i in self._free.get(status, ()) if i in members)

    def counts(self, batch: str = ALL) -> dict[Status, int]:
        """Return the number of tasks of a batch by status."""
        tally = self._tallies.get(batch, Counter())
        return {status: tally[status] for status in Status if tally[status]}

    def dependents(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of the tasks that depend on one of some tasks, which need not exist any more."""
        return {i for d in ids for i in self._dependents.get(d, ())}

    # -- changing ------------------------------------------------------------------------------------------------------

    def put(self, task: TaskRecord) -> TaskRecord:
        """Store a task, instead of the one with its id or as the newest one, and return it."""
        old = self.tasks.get(task.id)
        if old is None:
            self._last += 1
            self._enter(task, self._last)
        else:
            self._leave_status(old)
            self.tasks[task.id] = task
            if old.depends_on is not task.depends_on:
                self._depend(task.id, old.depends_on, task.depends_on)
            self._take_status(task)
            if old.status is not task.status:
                self._tell_dependents(task.id, task.status)
        return task

    def discard(self, task_id: str) -> None:
        """Delete a task. Tasks that depend on it keep it as a dependency that does not exist."""
        task = self.tasks[task_id]
        self._leave_status(task)
        del self.tasks[task_id], self._numbers[task_id]
        self.creations.pop(task_id, None)
        self._depend(task_id, task.depends_on, ())
        for batch in self._batches.pop(task_id):
            self._members[batch].discard(task_id)
            if batch != ALL and not self._members[batch]:
                del self._members[batch], self._tallies[batch]
        self._tell_dependents(task_id, None)

    def add_to_batch(self, batch: str, ids: Iterable[str]) -> None:
        """Add those tasks to a batch that exist and are not in it."""
        members, tally = self._members.setdefault(batch, set()), self._tallies.setdefault(batch, Counter())
        for task_id in (self.tasks.keys() & ids) - members:
            members.add(task_id)
            self._batches[task_id].add(batch)
            tally[self.tasks[task_id].status] += 1

    def replace(self, task_id: str, new: TaskRecord) -> None:
        """Store a task with another id in the place of a task: in the order, in its batches and as a dependency."""
        number, batches, creation = self._numbers[task_id], self._batches[task_id], self.creations.get(task_id, "")
        dependents = self.in_order(self.dependents([task_id]))
        self.discard(task_id)
        if new.id in self.tasks:
            self.put(new)
        else:
            self._enter(new, number)
            self.creations[new.id] = creation
        for batch in batches - {ALL}:
            self.add_to_batch(batch, [new.id])
        for task in dependents:
            renamed = {new.id if d == task_id else d for d in self.tasks[task.id].depends_on}
            self.put(replace(self.tasks[task.id], depends_on=tuple(sorted(renamed))))

    def _enter(self, task: TaskRecord, number: int) -> None:
        self.tasks[task.id] = task
        self._numbers[task.id] = number
        self._batches[task.id] = {ALL}
        self._members[ALL].add(task.id)
        self._depend(task.id, (), task.depends_on)
        self._take_status(task)
        self._tell_dependents(task.id, task.status)

    def _place(self, task: TaskRecord) -> _Place:
        return -task.priority, self._numbers[task.id], task.id

    def _take_status(self, task: TaskRecord) -> None:
        for batch in self._batches[task.id]:
            self._tallies[batch][task.status] += 1
        if task.status is Status.RUNNING:
            self.held.add(task.id)
        if not task.blocked:
            bisect.insort(self._free.setdefault(task.status, []), self._place(task))

    def _leave_status(self, task: TaskRecord) -> None:
        for batch in self._batches[task.id]:
            self._tallies[batch][task.status] -= 1
        self.held.discard(task.id)
        if not task.blocked:
            places = self._free[task.status]
            del places[bisect.bisect_left(places, self._place(task))]

    def _depend(self, task_id: str, before: Sequence[str], after: Sequence[str]) -> None:
        for d in before:
            self._dependents[d].discard(task_id)
            if not self._dependents[d]:
                del self._dependents[d]
        self.unmet_dependencies.pop(task_id, None)
        self.broken_dependencies.pop(task_id, None)
        if after:
            states = {d: self.tasks[d].status if d in self.tasks else None for d in after}
            self.unmet_dependencies[task_id] = {d for d, status in states.items() if status is not Status.DONE}
            self.broken_dependencies[task_id] = {d for d, status in states.items() if status in _BROKEN}
        for d in after:
            self._dependents.setdefault(d, set()).add(task_id)

    def _tell_dependents(self, task_id: str, status: Status | None) -> None:
        for i in self._dependents.get(task_id, ()):
            (self.unmet_dependencies[i].discard if status is Status.DONE else self.unmet_dependencies[i].add)(task_id)
            (self.broken_dependencies[i].add if status in _BROKEN else self.broken_dependencies[i].discard)(task_id)
