"""State transitions of tasks: pure functions from one task record to the next.

These are the rules that all stores follow. The memory store calls them. MongoDB writes the fields that they return. The
SQL stores decide in one statement, inside the database; the suite for stores compares every statement with these
functions, for all states, numbers of attempts and options.

Times are seconds since the epoch. Tokens are not part of the rules: a store increases them wherever claims become stale.
"""

from __future__ import annotations

import random
from dataclasses import replace

from rollforge.task import Cause, Status, TaskRecord

__all__ = [
    "backoff",
    "cancelled",
    "claimed",
    "committed",
    "counted",
    "dependency_failed",
    "ended_under",
    "expired",
    "expired_under",
    "failed",
    "given_back",
    "restored",
    "retried",
    "with_status",
]


def claimed(task: TaskRecord, *, worker: str, token: int, lease: float, now: float) -> TaskRecord:
    """Return a waiting or partly done task after a worker has claimed it for `lease` seconds."""
    return replace(
        task, status=Status.RUNNING, stage_from=task.status, token=token, worker=worker, lease_until=now + lease,
        started_at=now, finished_at=None, log="",
    )  # fmt: skip


def committed(task: TaskRecord, result: object, status: Status, *, log: str, now: float) -> TaskRecord:
    """Return a running task with the result of its stage; the next stage has all attempts."""
    return replace(
        task, status=status, result=result, error=None, cause=None, attempt=0, lease_until=None, available_at=0.0,
        finished_at=now, log=log,
    )  # fmt: skip


def given_back(task: TaskRecord, status: Status | None = None, reason: str | None = None) -> TaskRecord:
    """Return a running task after its worker has returned it, without counting an attempt.

    Its status is the one from which it was claimed, or `status`; `reason` says what the worker lacks.
    """
    given = replace(task, status=status or task.stage_from, lease_until=None)
    return given if reason is None else replace(given, error=reason, cause=Cause.REQUIREMENTS_NOT_MET)


def failed(task: TaskRecord, error: str, cause: Cause, *, attempts: int, log: str, now: float) -> TaskRecord:
    """Return a running task whose attempt failed: ``failed`` after `max_attempts`, else retried after a delay.

    If the definition is unreadable, a retry would not help. `attempts` is 0 if the failure may be the fault of the
    worker, see :func:`counted`.
    """
    attempt = task.attempt + counted(task, attempts)
    final = attempt >= task.max_attempts or cause is Cause.UNREADABLE
    return replace(
        _ended(task, attempt, final=final, now=now), error=error, cause=cause, log=log,
        failed_by=tuple(dict.fromkeys([*task.failed_by, str(task.worker)])),
    )  # fmt: skip


def expired(task: TaskRecord, *, now: float) -> TaskRecord:
    """Return a running task whose lease has expired. This is a failed attempt, but not the worker's fault."""
    attempt = task.attempt + 1
    return replace(
        _ended(task, attempt, final=attempt >= task.max_attempts, now=now), cause=Cause.LEASE_LOST,
        error=f"{_EXPIRED.format(task.worker)}: the worker was killed, hung, or could not reach the store.",
    )  # fmt: skip


_EXPIRED = "The lease of worker {} expired"


def expired_under(task: TaskRecord, worker: str) -> bool:
    """Return whether the claim before the current one was held by a worker, and expired.

    After a retry or another change of the status this is not known any more, and the answer is False.

    Examples
    --------
    >>> lost = expired(TaskRecord(id="t", pool="p", definition={}, status=Status.RUNNING, worker="w1"), now=0.0)
    >>> again = claimed(lost, worker="w2", token=2, lease=60.0, now=1.0)
    >>> expired_under(again, "w1"), expired_under(again, "w2"), expired_under(with_status(again, Status.WAITING), "w1")
    (True, False, False)
    """
    return task.cause is Cause.LEASE_LOST and (task.error or "").startswith(f"{_EXPIRED.format(worker)}:")


def ended_under(task: TaskRecord, worker: str) -> bool:
    """Return whether the latest claim was held by a worker, which has stored how its attempt ended.

    Examples
    --------
    >>> running = claimed(TaskRecord(id="t", pool="p", definition={}), worker="w1", token=1, lease=60.0, now=1.0)
    >>> done = committed(running, None, Status.DONE, log="", now=2.0)
    >>> ended_under(done, "w1"), ended_under(done, "w2"), ended_under(given_back(running), "w1")
    (True, False, False)
    >>> ended_under(expired(running, now=99.0), "w1")
    False
    """
    by_others = (Cause.LEASE_LOST, Cause.CANCELLED)
    return task.worker == worker and task.finished_at is not None and task.cause not in by_others


def _ended(task: TaskRecord, attempt: int, *, final: bool, now: float) -> TaskRecord:
    return replace(
        task, status=Status.FAILED if final else task.stage_from, attempt=attempt, lease_until=None, finished_at=now,
        available_at=now + (0.0 if final else backoff(task.attempt + 1)),
    )  # fmt: skip


def dependency_failed(task: TaskRecord, dependency: str, *, now: float) -> TaskRecord:
    """Return a waiting task that fails because a task that it depends on failed."""
    return replace(
        task, status=Status.FAILED, cause=Cause.DEPENDENCY, finished_at=now,
        error=f"It depends on task {dependency}, which failed.",
    )  # fmt: skip


def with_status(task: TaskRecord, status: Status) -> TaskRecord:
    """Return a task with another status, all of its attempts, and no error."""
    return replace(
        task, status=status, attempt=0, lease_until=None, available_at=0.0, error=None, cause=None, failed_by=(),
        stage_from=status if status in (Status.WAITING, Status.PART_DONE) else task.stage_from,
    )  # fmt: skip


def retried(task: TaskRecord) -> TaskRecord:
    """Return a failed task as waiting again at the stage where it failed; the error is kept until the next attempt."""
    return replace(with_status(task, task.stage_from), error=task.error)


def cancelled(task: TaskRecord, *, now: float) -> TaskRecord:
    """Return an unfinished task that was cancelled."""
    return replace(
        task,
        status=Status.FAILED,
        cause=Cause.CANCELLED,
        error="The task was cancelled.",
        lease_until=None,
        finished_at=now,
    )


def restored(task: TaskRecord, worker: str) -> TaskRecord:
    """Return a task without the attempt that failed on a worker that turned out to be faulty.

    The task is unchanged if it did not fail there, or if it is done or cancelled. A ``failed`` task waits again.
    """
    if worker not in task.failed_by or task.status is Status.DONE or task.cause is Cause.CANCELLED:
        return task
    left = replace(
        task, attempt=0 if task.failed_by == (worker,) else max(0, task.attempt - 1),
        failed_by=tuple(name for name in task.failed_by if name != worker),
    )  # fmt: skip
    return replace(left, status=task.stage_from, available_at=0.0) if task.status is Status.FAILED else left


def counted(task: TaskRecord, attempts: int) -> int:
    """Return the number of attempts that a failure of a running task uses up: 0 or 1.

    A failure that may be the fault of the worker (`attempts` is 0) does not count, but only once per worker, so that a
    task that is itself at fault ends. If a task has only one attempt, every failure counts.
    """
    return 1 if task.max_attempts <= 1 or str(task.worker) in task.failed_by else attempts


def backoff(attempt: int) -> float:
    """Return the seconds that a task waits after its `attempt`-th failure: 1, 2, 4 … 60, times 0.5 to 1 at random.

    The jitter spreads the retries of tasks that failed together for the same reason.
    """
    return float(min(60, 2 ** min(6, max(0, attempt - 1)))) * random.uniform(0.5, 1.0)
