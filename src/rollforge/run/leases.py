"""A worker's access to the store: claim tasks, renew their leases, end claims, and retry while the store is down."""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from rollforge import trust
from rollforge.errors import (
    FailingWorker,
    LeaseLost,
    RequirementsNotMet,
    RollforgeError,
    StoreGone,
    StoreUnavailable,
    TaskNotFound,
    counted,
)
from rollforge.generate.naming import describe
from rollforge.run.job import Event, EventKind, Job
from rollforge.run.messages import CannotRun, CannotStart, Done, Failed, Outcome, Stopped, Unreadable
from rollforge.run.requirements import Admission
from rollforge.run.task_resources import Shapes, TaskResources
from rollforge.run.worker_health import Retries, WorkerHealth
from rollforge.session import Session
from rollforge.store.base import PauseNotice, Query, SupportsRenewals, TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.store.renewal import Renewal
from rollforge.task import Cause, Status, TaskRecord

__all__ = ["LEASE_SECONDS", "RECONNECT_SECONDS", "Leases"]

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS = 60.0
RECONNECT_SECONDS = 600.0
GONE_SECONDS = 20.0
"""Seconds to wait for a database file that was deleted or replaced: enough time to move it back."""
_RENEW_SECONDS = 5.0
_MAX_LEFT = 1000


class Leases:
    """The tasks that one worker holds; a context manager with a thread that renews their leases.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    job : Job
        Which tasks to run, and how.
    name : str
        Name of the worker.
    on_event : callable
        Called with each event.
    lease : float
        Seconds that a claim lasts without renewal.
    reconnect_timeout : float
        Seconds to retry while the store is unavailable, before giving up.
    log_of : callable
        Returns what a task has logged so far.
    admission : Admission, optional
        Decides which submissions' tasks this machine can run. By default all of them.
    wait_for_others : bool
        If True, workers that have not started yet get time to try tasks that failed here.
    shapes : Shapes, optional
        What the tasks ask for. By default, nobody asks.
    lacks : callable
        Returns what this machine lacks for tasks that ask for some resources, which are left to other workers; empty if it
        lacks nothing.
    """

    def __init__(
        self,
        store: TaskStore,
        job: Job,
        name: str,
        on_event: Callable[[Event], None],
        lease: float = LEASE_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        log_of: Callable[[TaskRecord], str] = lambda task: "",
        *,
        admission: Admission | None = None,
        wait_for_others: bool = False,
        shapes: Shapes | None = None,
        lacks: Callable[[TaskResources], str] = lambda shape: "",
    ) -> None:
        self.store = store
        self.job = job
        self.name = name
        self._on_event = on_event
        self._lease = lease
        self._reconnect_timeout = reconnect_timeout
        self._log_of = log_of
        self._held: dict[str, TaskRecord] = {}
        self._lost: dict[str, str] = {}
        self._lock = threading.Lock()
        self._renewal = Renewal(self._renew, min(lease / 3, _RENEW_SECONDS), "leases")
        self._known_logs: dict[str, str] = {}
        self._seen: set[str] = set()
        self._admission = admission
        self._paused = PauseNotice(store, job.pool)
        self._health = WorkerHealth(store, job.pool, name, wait_for_others=wait_for_others)
        self._retries = Retries(store, job.pool, name, wait_for_others=wait_for_others)
        self._shapes = shapes
        self._lacks = lacks
        self._told: set[TaskResources] = set()
        self.cannot_run: dict[str, str] = {}
        """Tasks that this machine cannot run and leaves to other workers: id -> what the machine lacks."""

    def __enter__(self) -> Leases:
        self._renewal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.__exit__(kind, value, trace)

    # -- leases --------------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        held = self.held()
        known, self._known_logs = self._known_logs, {}
        logs = {task.id: self._log_of(task) for task in held}
        stale = self._renewed([(task, _new(logs[task.id], known.get(task.id, ""))) for task in held])
        for task in stale:
            why = self._why_lost(task)
            with self._lock:
                if task.id in self._held:
                    self._lost[task.id] = why
        self._known_logs = logs

    def _renewed(self, renewals: Sequence[tuple[TaskRecord, str | None]]) -> list[TaskRecord]:
        """Renew the leases of tasks, and return those whose claim has ended."""
        if isinstance(self.store, SupportsRenewals):
            return self.store.renew_all(renewals, self._lease)
        stale = []
        for task, new_log in renewals:
            try:
                self.store.renew(task, self._lease, new_log)
            except LeaseLost:
                stale.append(task)
        return stale

    def held(self) -> list[TaskRecord]:
        """Return the tasks that are claimed."""
        with self._lock:
            return list(self._held.values())

    def lost(self) -> list[TaskRecord]:
        """Return the tasks that were taken over by another worker or cancelled, and stop holding them."""
        with self._lock:
            gone = [self._held.pop(i) for i in list(self._lost) if i in self._held]
            reasons, self._lost = self._lost, {}
        for task in gone:
            self._report("lost", task, 0.0, reasons[task.id])
        return gone

    # -- claims --------------------------------------------------------------------------------------------------------

    def query(self, *, counted: bool = False) -> Query:
        """Return the query for claims; if `counted`, without a condition that all tasks meet, as totals are cheaper."""
        # part_done -> part_done: run each task only once, although its status does not change.
        left_out = set(self.cannot_run) if self.job.before is not self.job.after else self._seen | set(self.cannot_run)
        parts = [dict(self.job.query)] if self.job.query else []
        if left_out:
            parts.append({"_id": {"$nin": sorted(left_out)}})
        if self._admission is not None and not (counted and self._admission.can_run_all):
            parts.append(self._admission.query)
        if self._shapes is not None and any(map(self._lacks, self._shapes.known)):
            parts.append(self._shapes.query(lambda shape: not self._lacks(shape)))
        return _all_of(parts)

    def _too_large(self) -> dict[str, int]:
        """Return what this machine lacks for waiting tasks, and for how many of them."""
        found: dict[str, int] = {}
        for shape in self._shapes.known if self._shapes is not None else ():
            if (reason := self._lacks(shape)) and (
                number := self._with_retries(functools.partial(self._count_of, shape))
            ):
                found[f"It lacks {reason}"] = number
        return found

    def _count_of(self, shape: TaskResources) -> int:
        assert self._shapes is not None
        query = _all_of([self.job.query, self._shapes.query(lambda other: other == shape)])
        return self.store.count(self.job.pool, query, batch=self.job.batch).get(self.job.before, 0)

    def tell_what_is_left(self) -> None:
        """Log a warning about tasks that ask for more than this machine has, once for each kind."""
        for shape in self._shapes.known if self._shapes is not None else ():
            if shape not in self._told and (reason := self._lacks(shape)):
                self._told.add(shape)
                number = self._with_retries(functools.partial(self._count_of, shape))
                log.warning("%s left to other workers, as this machine lacks %s",
                            "1 task is" if number == 1 else f"{number:,} tasks are", reason)  # fmt: skip

    def take(
        self, limit: int, takes: Callable[[TaskResources], bool] | None = None, priority: int | None = None
    ) -> list[TaskRecord]:
        """Claim up to `limit` tasks; their leases are renewed from now on.

        Tasks that failed here are left to other workers at first.

        Parameters
        ----------
        limit : int
            Maximum number of tasks.
        takes : callable, optional
            Returns whether tasks that ask for some resources are claimed. By default, all are.
        priority : int, optional
            Only tasks of this priority or a higher one.

        Raises
        ------
        FailingWorker
            If tasks fail here that succeed on other machines.
        """
        if self._admission is not None:
            self._with_retries(self._admission.refresh)
        limit = self._with_health(lambda: self._health.claim_limit(limit))
        if not limit:
            return []
        only = [self._shapes.query(takes)] if self._shapes is not None and takes is not None else []
        only += [{"priority": {"$gte": priority}}] if priority is not None else []
        claimed = self._claim(limit, self._with_retries(lambda: self._retries.avoid), only)
        due = self._with_retries(self._retries.due) if len(claimed) < limit else []
        if due:
            claimed += self._claim(limit - len(claimed), "", [{"_id": {"$in": due}}, *only])
        if takes is not None:
            claimed = self._taken(claimed, takes)
        self._retries.claimed(claimed)
        if not claimed and self._admission is not None:
            admission = self._admission
            self._with_retries(lambda: admission.refresh(idle=True))
        return claimed

    def _taken(self, claimed: Sequence[TaskRecord], takes: Callable[[TaskResources], bool]) -> list[TaskRecord]:
        """Return the tasks whose shapes are taken, and give back others, which were not known when they were claimed."""
        if self._shapes is None:
            return list(claimed)
        kept = []
        for task in claimed:
            if takes(self._with_retries(functools.partial(self._shapes.note, task))):
                kept.append(task)
            else:
                self.give_back(task)
                self._seen.discard(task.id)
        return kept

    def wanted(self) -> dict[TaskResources, int]:
        """Return how many tasks of each shape can be claimed now, after a backoff, or when others have ended.

        0 for a shape whose tasks all wait for others.
        """
        if self._shapes is None:
            return {}
        shapes = self._shapes
        return {shape: self._with_retries(functools.partial(self._waiting_of, shapes, shape)) for shape in shapes.known}

    def _waiting_of(self, shapes: Shapes, shape: TaskResources) -> int:
        query = _all_of([self.query(), shapes.query(lambda other: other == shape)])
        if not self.store.has_free(self.job.pool, self.job.before, query, batch=self.job.batch):
            return 0
        return self.store.count(self.job.pool, query, batch=self.job.batch).get(self.job.before, 0)

    def _with_health(self, check: Callable[[], T]) -> T:
        """Call `check` and return its result; if this worker proves to be faulty, give back its failed attempts."""
        try:
            return self._with_retries(check)
        except FailingWorker:
            failed = self._health.failed_here
            self._with_retries(lambda: self.store.restore_attempts(self.job.pool, self.name, failed))
            raise

    def _claim(self, limit: int, avoid: str, only: Sequence[Query]) -> list[TaskRecord]:
        identity = uuid.uuid4().hex  # if the answer is lost, the same claim can be repeated
        query = _all_of([self.query(), *only])
        claimed = self._with_retries(
            lambda: self.store.claim(
                self.job.pool,
                worker=self.name,
                lease=self._lease,
                status=self.job.before,
                query=query,
                limit=limit,
                avoid=avoid,
                batch=self.job.batch,
                claim=identity,
            )
        )
        with self._lock:
            self._held.update((t.id, t) for t in claimed)
        self._seen.update(t.id for t in claimed)
        return claimed

    def holds(self) -> bool:
        """Return whether to start no more tasks until other workers have tried those that failed here."""
        return self._health.holds()

    def session_for(self, task: TaskRecord) -> Session | None:
        """Return the session in which a task must run; None for the session of its worker."""
        return None if self._admission is None else self._admission.session_for(task.submission)

    def started(self, task: TaskRecord) -> None:
        """Report that a task starts."""
        self._report("started", task)

    def settle(self, task: TaskRecord, outcome: Outcome, log_text: str, seconds: float) -> bool:
        """End the claim of a task as its outcome says; return False if this worker did not hold it any more."""
        match outcome:
            case Done(result):
                return self.commit(task, result, log_text, seconds)
            case Failed(error, brief, cause):
                return self.fail(task, error, brief, cause, log_text, seconds)
            case Unreadable(reason):
                return self.fail(task, reason, reason, Cause.UNREADABLE, log_text, seconds)
            case CannotRun(reason):
                self.leave(task, reason)
            case Stopped() | CannotStart():
                self.give_back(task)
        return True

    def commit(self, task: TaskRecord, result: object, log_text: str, seconds: float) -> bool:
        """Store the result of a task; return False if this worker did not hold it any more."""
        return self._end(task, lambda: self._commit(task, result, log_text, seconds), seconds)

    def _commit(self, task: TaskRecord, result: object, log_text: str, seconds: float) -> None:
        self._with_retries(lambda: self.store.commit(task, result, self.job.after, log_text))
        self._health.succeeded()
        self._report("done", task, seconds)

    def fail(self, task: TaskRecord, error: str, brief: str, cause: Cause, log_text: str, seconds: float) -> bool:
        """Record a failed attempt; return False if this worker did not hold the task any more."""
        log.info("task %s failed (%s): %s", task.id, cause, brief)

        def fail() -> None:
            doubtful = cause is not Cause.UNREADABLE and self._with_retries(lambda: self._health.is_doubtful(task))
            status = self._with_retries(lambda: self.store.fail(task, error, cause, log_text, 0 if doubtful else 1))
            if status is not Status.FAILED:
                self._retries.failed(task)
            if cause is not Cause.UNREADABLE:
                self._health.failed(task, brief)
            kind: EventKind = "failed" if status is Status.FAILED else "retry"
            self._report(kind, task, seconds, brief, cause=cause.value, traceback=error)

        return self._end(task, fail, seconds)

    def give_back(self, task: TaskRecord) -> None:
        """Give a task back with its previous status."""
        self._end(task, lambda: self.store.give_back(task), 0.0)

    def leave(self, task: TaskRecord, reason: str) -> None:
        """Leave a task that this machine cannot run to other workers, without counting an attempt.

        Raises
        ------
        RequirementsNotMet
            If there are too many such tasks.
        """
        self.cannot_run[task.id] = reason
        if self._has_others:  # else an error says it
            log.warning("task %s is left for other workers: %s", task.id, reason)
        self._end(task, lambda: self.store.give_back(task, reason=f"Worker {self.name} cannot run it: {reason}"), 0.0)
        self._report("left", task, 0.0, reason)
        if len(self.cannot_run) >= _MAX_LEFT:
            self.raise_if_cannot_run()

    def raise_if_cannot_run(self) -> None:
        """Raise an error if there are tasks that this machine cannot run.

        Raises
        ------
        RequirementsNotMet
            If there are such tasks; the message names them and what the machine lacks.
        """
        refused, too_large = self._refused(), self._too_large()
        if not self.cannot_run and not refused and not too_large:
            return
        tasks: dict[str, list[str]] = {}
        for task_id, reason in self.cannot_run.items():
            tasks.setdefault(reason, []).append(task_id[:8])
        lacks = "\n".join(
            f"  {reason} ({counted(len(ids), 'task')}: {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''})"
            for reason, ids in tasks.items()
        )
        for reason, number in too_large.items():
            lacks = "\n".join(filter(None, [lacks, f"  {reason} ({counted(number, 'task')})"]))
        if refused and self._admission is not None:
            lacks = "\n".join(filter(None, [lacks, self._admission.explain(refused)]))
        what = (
            f"This machine cannot run the remaining tasks of pool {self.job.pool!r}." if self._has_others
            else "The remaining tasks cannot run."
        )  # fmt: skip
        raise RequirementsNotMet(trust.advise_once(f"{what} No attempt was counted.\n{lacks}"))

    @property
    def _has_others(self) -> bool:
        """Whether other workers may exist: those of a pool in memory are in this process."""
        return not isinstance(self.store, MemoryStore)

    def _refused(self) -> dict[str, int]:
        return {} if self._admission is None else self._with_retries(self._admission.refused)

    def cannot_run_the_rest(self) -> bool:
        """Return whether this machine cannot run any of the tasks that are left."""
        none_runnable = self._admission is not None and not self._admission.can_run_any and bool(self._refused())
        return (bool(self.cannot_run) or none_runnable or bool(self._too_large())) and not self.work_left()

    def finish(self) -> None:
        """Check this worker once more when it has nothing left to do.

        Raises
        ------
        RequirementsNotMet
            If tasks are left that this machine cannot run.
        FailingWorker
            If tasks failed here that succeeded on other machines.
        """
        self._with_health(self._health.finish)
        self.raise_if_cannot_run()

    def _end(self, task: TaskRecord, call: Callable[[], None], seconds: float) -> bool:
        try:
            call()
        except LeaseLost:
            self._report("lost", task, seconds, self._why_lost(task))
            return False
        else:
            return True
        finally:
            with self._lock:
                self._held.pop(task.id, None)
                self._lost.pop(task.id, None)

    def _why_lost(self, task: TaskRecord) -> str:
        """Return what has ended the claim of a task, as far as the pool tells."""
        try:
            now = self.store.get(self.job.pool, task.id)
        except TaskNotFound:
            return "it was removed from the pool"
        except RollforgeError:  # the store is unavailable, or the task is damaged
            return "it was cancelled, set to another status, or taken over by another worker"
        if now.cause is Cause.CANCELLED:
            return "it was cancelled"
        if now.cause is Cause.LEASE_LOST and now.attempt > task.attempt:
            return "its lease expired"
        if now.worker not in (task.worker, None):
            return f"it was taken over by {now.worker}"
        status = Status.WAITING if now.status is Status.RUNNING else now.status  # claimed here again in the meantime
        return f"it was set to {status.value} while it was running"

    def _report(
        self,
        kind: EventKind,
        task: TaskRecord,
        seconds: float = 0.0,
        error: str = "",
        *,
        cause: str = "",
        traceback: str = "",
    ) -> None:
        label = describe(task.definition, task.model_name)
        self._on_event(
            Event(
                kind, task.id, self.name, seconds, error, label,
                pool=self.job.pool, attempt=task.attempts, cause=cause, traceback=traceback,
            )
        )  # fmt: skip

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _with_retries(self, call: Callable[[], T]) -> T:
        """Call, and retry while the store is unavailable, until `reconnect_timeout` has passed."""
        began, delay = time.monotonic(), 0.1
        deadline = began + self._reconnect_timeout
        while True:
            try:
                return call()
            except StoreUnavailable as exc:
                if isinstance(exc, StoreGone):
                    deadline = min(deadline, began + GONE_SECONDS)
                if time.monotonic() + delay > deadline:
                    raise
                log.warning("waiting for the task store: %s", exc)
                time.sleep(delay)
                delay = min(delay * 2, 5.0)

    def wait(self, seconds: float) -> None:
        """Wait for a change in the pool."""
        try:
            self._paused.check()
            self.store.wait_for_change(self.job.pool, seconds)
        except StoreUnavailable as exc:
            log.warning("waiting for the task store: %s", exc)
            time.sleep(min(seconds, 1.0))

    def waiting(self) -> int:
        """Return how many tasks have not been claimed."""
        return self._with_retries(lambda: self._count().get(self.job.before, 0))

    def _count(self) -> Mapping[Status, int]:
        return self.store.count(self.job.pool, dict(self.query(counted=True)), batch=self.job.batch)

    def work_left(self) -> bool:
        """Return whether a task may still become free: after its backoff, or when a dependency has made progress."""
        return self._with_retries(self._work_left)

    def _work_left(self) -> bool:
        pool, store = self.job.pool, self.store
        if store.has_free(pool, self.job.before, dict(self.query()), batch=self.job.batch):
            return True
        if not self._count().get(self.job.before, 0):
            return False
        # All of them depend on tasks outside this job: keep waiting while another worker runs those, or can.
        return store.has_free(pool, Status.RUNNING) or store.has_free(pool, Status.WAITING)


def _new(text: str, known: str) -> str | None:
    """Return what a task has logged; None if the store has it already."""
    return text if text and text != known else None


def _all_of(parts: Sequence[Query]) -> Query:
    """Return the query for tasks that match all parts.

    Examples
    --------
    >>> _all_of([{}, {"priority": 1}]), _all_of([])
    ({'priority': 1}, {})
    """
    given = [dict(part) for part in parts if part]
    return {"$and": given} if len(given) > 1 else given[0] if given else {}
