"""Jobs and progress events, shared by workers, executors and progress displays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from rollforge import trust
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.task import Document, Status, TaskRecord

__all__ = [
    "Event",
    "Job",
    "LogEvents",
    "WorkerStopped",
    "current_attempt",
    "current_model",
    "current_task",
    "current_token",
    "ignore_event",
    "is_own",
    "known_failures",
]

log = logging.getLogger(__name__)

current_task: ContextVar[str | None] = ContextVar("rollforge_task", default=None)
"""Id of the pool task that is running; recorders are tagged with it."""

current_model: ContextVar[str] = ContextVar("rollforge_model", default="")
"""Model name of the task that is running; empty if it has none."""

EventKind = Literal["started", "done", "failed", "retry", "lost", "left"]


current_attempt: ContextVar[int] = ContextVar("rollforge_attempt", default=0)
"""Number of attempts at the running task that are known to have failed. If it is above 0, the previous one may have been
killed."""


current_token: ContextVar[int] = ContextVar("rollforge_token", default=0)
"""Fencing token of the claim of the running task; recorders are tagged with it."""


def known_failures(task: TaskRecord) -> int:
    """Return how many attempts at a task are known to have failed, also if they were not counted.

    Examples
    --------
    >>> known_failures(TaskRecord(id="t", pool="p", definition={}, attempt=0, failed_by=("w",)))
    1
    """
    return max(task.attempt, len(task.failed_by))


class WorkerStopped(BaseException):
    """Raised when a worker is asked to stop. Like KeyboardInterrupt, ``except Exception`` does not catch it.

    Examples
    --------
    >>> issubclass(WorkerStopped, Exception)
    False
    """


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks of a pool to run, and how to run them.

    Examples
    --------
    >>> Job("my_pool", len, query={"model.class": "LGBModel"}, timeout=600).before
    <Status.WAITING: 'waiting'>
    """

    pool: str
    task_func: Callable[..., object]
    """``(definition or result, **kwargs) -> result``. It must be importable, because worker processes import it."""
    query: Document = field(default_factory=dict)
    before: Status = Status.WAITING
    """Status of the tasks to take. `task_func` gets the definition of waiting tasks, the result of part_done ones."""
    after: Status = Status.DONE
    kwargs: Document = field(default_factory=dict)
    force_release: bool = False
    """If True, each task runs in a new process, so that its memory is released when it ends."""
    timeout: float | None = None
    """Maximum duration of one task in seconds. Requires worker processes, as only a process can be killed."""
    memory: int | None = None
    """Maximum number of bytes that one worker process may allocate. Requires worker processes."""
    on_death: Callable[[str], object] | None = None
    """Called in the parent process with the id of a task whose process died, to clean up after it."""
    batch: str = ""
    """Only tasks of this batch; if empty, all tasks of the pool."""
    preload: Callable[[], None] | None = None
    """Called once in each worker process before its first task, to import what tasks need."""
    own: bool = False
    """Whether to trust all tasks. By default only those that this process submitted are (:mod:`rollforge.trust`)."""
    reviewed: bool = False
    """Whether the warnings about all tasks are known already, so that worker processes need not log them for each."""


@dataclass(frozen=True, slots=True)
class Event:
    """A progress event of a task.

    Examples
    --------
    >>> Event("done", "5041bf1f", "host:17", seconds=1.5).kind
    'done'
    """

    kind: EventKind
    task_id: str
    worker: str
    seconds: float = 0.0
    error: str = ""
    label: str = ""
    """Readable name of the task: its model and test days."""
    at: float = field(default_factory=time.time)
    pool: str = ""
    """Name of the pool; empty for a task that is trained without one."""
    attempt: int = 0
    """Number of the attempt, from 1; 0 for a task that is trained without a pool."""
    cause: str = ""
    """Why the attempt failed, as the pool records it."""
    traceback: str = ""
    """Traceback of the failed attempt."""


def ignore_event(event: Event) -> None:
    """Ignore an event."""


class LogEvents:
    """Logs each task that has ended, with the number of ended tasks and the total, and those that were taken away.

    Parameters
    ----------
    total : int, optional
        Number of tasks, if it is known.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._ended = 0

    def __call__(self, event: Event) -> None:
        """Handle an event of a worker."""
        if event.kind == "lost":
            log.warning("task %s: its result is not stored: %s", event.task_id[:12], event.error)
        if event.kind not in ("done", "failed"):
            return
        self._ended += 1
        of = "" if self._total is None else f" of {self._total}"
        reason = f": {event.error}" if event.error else ""
        log.info(
            "task %s: %s in %.1f s (%d%s)%s", event.task_id[:12], event.kind, event.seconds, self._ended, of, reason
        )


def is_own(job: Job, store: TaskStore, task: TaskRecord) -> bool:
    """Return whether a claimed task is this user's own code: submitted by this process, or stored in memory."""
    return job.own or isinstance(store, MemoryStore) or trust.is_own(task.id, task.text)
