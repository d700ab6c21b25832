"""Detection of faulty workers, and the time after which a worker may retry tasks that failed on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rollforge.errors import FailingWorker
from rollforge.machine import machine_of, process_is_gone
from rollforge.store.base import AVOID_SECONDS, TaskStore, Work
from rollforge.task import Status, TaskRecord

__all__ = ["Retries", "WorkerHealth"]

log = logging.getLogger(__name__)


_STREAK = 3
"""Consecutive failures after which a worker suspects that it is at fault."""


_MAX_STREAK = 30


_MIN_LOST = 6
"""Number of finally failed tasks, which other workers cannot try, that also count as evidence."""


_HOLD_SECONDS = 10.0
"""Seconds that a suspect worker waits for other workers."""


_PROBE_SECONDS = 60.0
"""Seconds between attempts of a suspect worker at one more task, while other workers run and the case is undecided."""


_LOST_PROBE_SECONDS = 2.0
"""The same if other workers can try none of the failed tasks."""


_LIVE_SECONDS = 5.0


_WITNESS_SECONDS = 600.0
"""Seconds for which the success of another worker counts as evidence that the tasks can be run."""


_GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Failure:
    started_at: float
    """In the store's clock."""
    error: str


class WorkerHealth:
    """Decides whether a worker is the cause of its failures, by whether its failed tasks succeed on other workers.

    After three consecutive failures the worker claims no more tasks until other workers have had a chance to try the
    failed ones. If all of them succeed there, the worker should end, and its failures are not counted. Tasks that also
    fail on a worker where other tasks succeed, or while no worker succeeds with anything, are at fault themselves and
    are no longer considered. If there is no other worker, the worker continues after ten seconds.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    pool : str
        Name of the pool.
    worker : str
        Name of the worker.
    wait_for_others : bool
        If True, also wait for workers that have not started yet.
    """

    def __init__(self, store: TaskStore, pool: str, worker: str, *, wait_for_others: bool = True) -> None:
        self._wait_for_others = wait_for_others
        self._store = store
        self._pool = pool
        self._worker = worker
        self._streak: dict[str, _Failure] = {}
        self._failed: dict[str, None] = {}
        self._good = self._bad = 0
        self._began = self._looked = self._probed = -1e9
        self._claim_limit: int | None = None
        self._warned = False
        self._lost = 0

    def succeeded(self) -> None:
        """Record that a task was committed."""
        self._good += 1
        self._bad += len(self._streak)
        self._streak.clear()
        self._failed.clear()
        self._warned = False

    def is_doubtful(self, task: TaskRecord) -> bool:
        """Return whether a failure may be the fault of the worker, so that it should not count as an attempt.

        This is so if nothing has succeeded here, or only before the last failures, and other workers have succeeded or
        still may.
        """
        if self._good and len(self._streak) + 1 < _STREAK:
            return False
        since = min([task.started_at or 0.0, *(f.started_at for f in self._streak.values())])
        return bool(self._evidence(self._others(since - _WITNESS_SECONDS)))

    @property
    def failed_here(self) -> list[str]:
        """Tasks that failed here since the last success."""
        return list(self._failed)

    def _others(self, since: float) -> dict[str, Work]:
        """Return what other workers are running and have finished since a time of the store's clock."""
        others = self._store.workers(self._pool, since)
        others.pop(self._worker, None)
        return others

    @staticmethod
    def _evidence(others: Mapping[str, Work]) -> list[str]:
        """Return the workers that count as evidence: those that have succeeded, or are running and have not failed."""
        return [
            name
            for name, work in others.items()
            if (work.done and not process_is_gone(name)) or (work.running and not work.failed)
        ]

    def failed(self, task: TaskRecord, error: str) -> None:
        """Record a failed attempt at a task.

        Parameters
        ----------
        task : TaskRecord
            The task as it was claimed.
        error : str
            The error, which is shown if the worker stops.
        """
        if not self._streak:
            self._began = time.monotonic()
        self._streak[task.id] = _Failure(task.started_at or 0.0, error)
        self._failed[task.id] = None
        if len(self._streak) > _MAX_STREAK:
            del self._streak[next(iter(self._streak))]
        self._looked = -1e9

    def claim_limit(self, limit: int) -> int:
        """Return the maximum number of tasks to claim.

        Parameters
        ----------
        limit : int
            Number of tasks that the worker could run now.

        Raises
        ------
        FailingWorker
            If tasks fail only on this worker.
        """
        now = time.monotonic()
        if len(self._streak) < _STREAK:
            return limit
        if now - self._looked >= 1.0:
            self._looked = now
            self._claim_limit = self._decide(now)
        if self._claim_limit is None:
            return limit
        granted, self._claim_limit = min(limit, self._claim_limit), 0
        return granted

    def holds(self) -> bool:
        """Return whether no task should be started now."""
        return len(self._streak) >= _STREAK and self._claim_limit is not None

    def finish(self) -> None:
        """Decide once more when nothing is left to do.

        Raises
        ------
        FailingWorker
            If tasks failed only on this worker.
        """
        if len(self._streak) >= _STREAK:
            self._compare_with_others()

    def _decide(self, now: float) -> int | None:
        """Return how many tasks may be claimed; None if there is no limit."""
        others = self._compare_with_others()
        if len(self._streak) < _STREAK:
            return None
        live = any(work.running for work in others.values())
        if not live and (not self._wait_for_others or now - self._began > _HOLD_SECONDS):
            return None
        if not self._warned:
            self._warned = True
            log.warning(
                "%d tasks in a row failed on this machine; waiting to see whether they succeed on other workers",
                len(self._streak),
            )
            self._probed = now
        pause = _LOST_PROBE_SECONDS if self._lost == len(self._streak) else _PROBE_SECONDS
        if live and now - self._probed > pause:
            self._probed = now
            return 1
        return 0

    def _compare_with_others(self) -> dict[str, Work]:
        """Check how the failed tasks did on other workers, and return the work of those.

        Raises
        ------
        FailingWorker
            If tasks fail only on this worker.
        """
        since, error = min(f.started_at for f in self._streak.values()), next(reversed(self._streak.values())).error
        others = self._others(since)
        undecided = any(others[name].running for name in self._evidence(others))
        succeeded = self._lost = 0
        for task in self._store.query(self._pool, {"_id": {"$in": sorted(self._streak)}}, results=False):
            failed_on_others = [name for name in task.failed_by if name != self._worker]
            if task.status in (Status.DONE, Status.PART_DONE) and task.worker != self._worker:
                succeeded += 1  # even if it failed on other workers too
            elif failed_on_others and (
                not undecided or any(name in others and others[name].done for name in failed_on_others)
            ):
                del self._streak[task.id]  # the task is at fault
                self._failed.pop(task.id, None)
                self._bad += 1
            elif task.status is Status.FAILED:
                self._lost += 1
        if len(self._streak) < _STREAK or not self._is_at_fault(succeeded, others):
            return others
        how = (
            f"{succeeded} of them succeeded on other workers"
            if succeeded >= _STREAK
            else f"{sum(w.done for w in others.values())} other tasks succeeded on other workers meanwhile"
        )
        raise FailingWorker(
            f"{len(self._streak)} tasks of pool {self._pool!r} in a row failed on this machine, and {how}. "
            f"This worker stops. Its last error: {error}\nCheck what differs on this machine: data, "
            "packages, disk space, memory."
        )

    def _is_at_fault(self, succeeded: int, others: Mapping[str, Work]) -> bool:
        """Return whether so many of the failed tasks are very unlikely to have failed here by chance."""
        # Failures of workers where nothing succeeds say nothing about the tasks.
        done, failed = sum(w.done for w in others.values()), sum(w.failed for w in others.values() if w.done)
        rate = (failed + self._bad + 1) / (done + failed + self._good + self._bad + 2)
        if succeeded >= _STREAK:
            return bool(rate**succeeded < (0.001 if self._good else 0.01))  # occasional failures are normal
        alone = not self._good and not failed and done >= _MIN_LOST
        return bool(alone and self._lost >= _MIN_LOST and rate**self._lost < 0.0001)


@dataclass(slots=True)
class Retries:
    """Retries of tasks that failed on this worker: it waits until other workers have had a chance to run them.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    pool : str
        Name of the pool.
    worker : str
        Name of the worker.
    wait_for_others : bool
        If True, give idle workers time to take the tasks, even if no other worker is known.
    """

    store: TaskStore
    pool: str
    worker: str
    wait_for_others: bool = False
    _due: dict[str, float] = field(default_factory=dict)
    _others: frozenset[str] = frozenset()
    _looked: float = -1e9

    def failed(self, task: TaskRecord) -> None:
        """Record that an attempt failed here and will be retried."""
        grace = _GRACE_SECONDS if self.wait_for_others or self._others else 0.0
        self._due[task.id] = time.monotonic() + (min(60.0, 2.0**task.attempt) + grace if grace else 0.0)

    def claimed(self, tasks: Sequence[TaskRecord]) -> None:
        """Record that this worker has claimed tasks again."""
        for task in tasks:
            self._due.pop(task.id, None)

    @property
    def avoid(self) -> str:
        """Whose failed tasks to leave to others: this machine's if other machines have workers, else this worker's."""
        if time.monotonic() - self._looked > _LIVE_SECONDS:
            self._looked = time.monotonic()
            self._others = frozenset(self.store.workers(self.pool, None)) - {self.worker}
        mine = machine_of(self.worker)
        return mine if any(machine_of(name) != mine for name in self._others) else self.worker

    def due(self) -> list[str]:
        """Return the tasks that failed here, are due for a retry, and that no other worker is alive to try."""
        now = time.monotonic()
        for task_id in [i for i, at in self._due.items() if at < now - AVOID_SECONDS]:
            del self._due[task_id]  # it is no longer reserved for other workers
        ready = [task_id for task_id, at in self._due.items() if at <= now]
        if not ready:
            return []
        live = frozenset(self.store.workers(self.pool, None)) - {self.worker}
        return [] if live else ready
