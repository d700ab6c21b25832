"""State transitions of tasks: pure functions from one task record to the next.

These are the rules that all stores follow. The memory store calls them. MongoDB writes the fields that they return. The
SQL stores decide in one statement, inside the database; the suite for stores compares every statement with these
functions, for all states, numbers of attempts and options.

Times are seconds since the epoch. Tokens are not part of the rules: a store increases them wherever claims become stale.
"""

from __future__ import annotations

import random
from dataclasses import replace

from rollforge.errors import outer_parts
from rollforge.task import KEPT_ATTEMPTS, Attempt, Cause, Ending, Status, TaskRecord

__all__ = [
    "CANCELLED",
    "MAX_ERROR_LENGTH",
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

MAX_ERROR_LENGTH = 16_000
"""Number of characters of its error that are kept with an attempt. The error of the last failure is kept whole."""
CANCELLED = "The task was cancelled."


def _with_attempt(
    task: TaskRecord, ending: Ending, cause: Cause | None = None, error: str | None = None, *, now: float
) -> TaskRecord:
    """Return a task whose current attempt has ended."""
    attempt = Attempt(
        number=task.history[-1].number + 1 if task.history else 1, ending=ending, cause=cause,
        error=None if error is None else outer_parts(error, MAX_ERROR_LENGTH), worker=task.worker,
        started_at=task.started_at, ended_at=now if task.finished_at is None else task.finished_at, token=task.token,
    )  # fmt: skip
    return replace(task, history=(*task.history, attempt)[-KEPT_ATTEMPTS:])


def claimed(task: TaskRecord, *, worker: str, token: int, lease: float, now: float) -> TaskRecord:
    """Return a waiting or partly done task after a worker has claimed it for `lease` seconds."""
    return replace(
        task, status=Status.RUNNING, stage_from=task.status, token=token, worker=worker, lease_until=now + lease,
        started_at=now, finished_at=None, log="",
    )  # fmt: skip


def committed(task: TaskRecord, result: object, status: Status, *, log: str, now: float) -> TaskRecord:
    """Return a running task with the result of its stage; the next stage has all attempts.

    A task that is done describes this attempt itself, so that nothing has to be stored besides it. It keeps the number
    of those that failed before, because no stage follows.
    """
    done = status is Status.DONE
    kept = task if done else replace(_with_attempt(task, Ending(status), now=now), attempt=0)
    return replace(
        kept, status=status, result=result, error=None, cause=None, lease_until=None, available_at=0.0, finished_at=now,
        log=log,
    )  # fmt: skip


def given_back(task: TaskRecord, status: Status | None = None, reason: str | None = None, *, now: float) -> TaskRecord:
    """Return a running task after its worker has returned it, without counting an attempt.

    Its status is the one from which it was claimed, or `status`; `reason` says what the worker lacks.
    """
    cause = None if reason is None else Cause.REQUIREMENTS_NOT_MET
    kept = _with_attempt(task, Ending.RETURNED, cause, reason, now=now)
    given = replace(kept, status=status or task.stage_from, lease_until=None)
    return given if reason is None else replace(given, error=reason, cause=cause)


def failed(task: TaskRecord, error: str, cause: Cause, *, attempts: int, log: str, now: float) -> TaskRecord:
    """Return a running task whose attempt failed: ``failed`` after `max_attempts`, else retried after a delay.

    If the definition is unreadable, a retry would not help. `attempts` is 0 if the failure may be the fault of the
    worker, see :func:`counted`.
    """
    attempt = task.attempt + counted(task, attempts)
    final = attempt >= task.max_attempts or cause is Cause.UNREADABLE
    return replace(
        _ended(task, attempt, error, cause, final=final, now=now), log=log,
        failed_by=tuple(dict.fromkeys([*task.failed_by, str(task.worker)])),
    )  # fmt: skip


def expired(task: TaskRecord, *, now: float) -> TaskRecord:
    """Return a running task whose lease has expired. This is a failed attempt, but not the worker's fault."""
    attempt = task.attempt + 1
    error = f"{_EXPIRED.format(task.worker)}: the worker was killed, hung, or could not reach the store."
    return _ended(task, attempt, error, Cause.LEASE_LOST, final=attempt >= task.max_attempts, now=now)


_EXPIRED = "The lease of worker {} expired"


def expired_under(task: TaskRecord, worker: str) -> bool:
    """Return whether the claim before the current one was held by a worker, and expired.

    After a retry or another change of the status this is not known any more, and the answer is False.

    Examples
    --------
    >>> lost = expired(TaskRecord(id="t", pool="p", definition={}, status=Status.RUNNING, worker="w1"), now=0.0)
    >>> again = claimed(lost, worker="w2", token=2, lease=60.0, now=1.0)
    >>> expired_under(again, "w1"), expired_under(again, "w2"), expired_under(retried(again), "w1")
    (True, False, False)
    """
    return task.cause is Cause.LEASE_LOST and (task.error or "").startswith(f"{_EXPIRED.format(worker)}:")


def ended_under(task: TaskRecord, worker: str) -> bool:
    """Return whether the latest claim was held by a worker, which has stored how its attempt ended.

    Examples
    --------
    >>> running = claimed(TaskRecord(id="t", pool="p", definition={}), worker="w1", token=1, lease=60.0, now=1.0)
    >>> done = committed(running, None, Status.DONE, log="", now=2.0)
    >>> ended_under(done, "w1"), ended_under(done, "w2"), ended_under(given_back(running, now=2.0), "w1")
    (True, False, False)
    >>> ended_under(expired(running, now=99.0), "w1")
    False
    """
    by_others = (Cause.LEASE_LOST, Cause.CANCELLED)
    return task.worker == worker and task.finished_at is not None and task.cause not in by_others


def _ended(task: TaskRecord, attempt: int, error: str, cause: Cause, *, final: bool, now: float) -> TaskRecord:
    return replace(
        _with_attempt(task, Ending.FAILED, cause, error, now=now), error=error, cause=cause,
        status=Status.FAILED if final else task.stage_from, attempt=attempt, lease_until=None, finished_at=now,
        available_at=now + (0.0 if final else backoff(task.attempt + 1)),
    )  # fmt: skip


def dependency_failed(task: TaskRecord, dependency: str, *, now: float) -> TaskRecord:
    """Return a waiting task that fails because a task that it depends on failed."""
    return replace(
        task, status=Status.FAILED, cause=Cause.DEPENDENCY, finished_at=now,
        error=f"It depends on task {dependency}, which failed.",
    )  # fmt: skip


def with_status(task: TaskRecord, status: Status, *, now: float) -> TaskRecord:
    """Return a task with another status, all of its attempts, no error and no worker.

    If it was running or done, that attempt is now one of the past.
    """
    if task.status is Status.RUNNING:
        task = _with_attempt(task, Ending.RESET, now=now)
    elif task.status is Status.DONE and task.started_at is not None:
        task = _with_attempt(task, Ending.DONE, now=now)
    return replace(_anew(task, status), error=None, worker=None, started_at=None, finished_at=None)


def _anew(task: TaskRecord, status: Status) -> TaskRecord:
    return replace(
        task, status=status, attempt=0, lease_until=None, available_at=0.0, cause=None, failed_by=(),
        stage_from=status if status in (Status.WAITING, Status.PART_DONE) else task.stage_from,
    )  # fmt: skip


def retried(task: TaskRecord) -> TaskRecord:
    """Return a failed task as waiting again at the stage where it failed; the error is kept until the next attempt."""
    return _anew(task, task.stage_from)


def cancelled(task: TaskRecord, *, now: float) -> TaskRecord:
    """Return an unfinished task that was cancelled."""
    if task.status is Status.RUNNING:
        task = _with_attempt(task, Ending.FAILED, Cause.CANCELLED, CANCELLED, now=now)
    return replace(
        task, status=Status.FAILED, cause=Cause.CANCELLED, error=CANCELLED, lease_until=None, finished_at=now
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
