"""What is to be run and what is told of it: the words that workers, executors and whoever watches them share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from rollforge import trust
from rollforge.errors import RollforgeError
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.task import Status, TaskRecord, digest
from rollforge.track.base import Recorder
from rollforge.track.elsewhere import kept_reference, open_kept

__all__ = [
    "Event",
    "Job",
    "LogEvents",
    "WorkerStopped",
    "current_attempt",
    "current_model",
    "current_task",
    "from_reference",
    "ignore_event",
    "is_of_task",
    "is_own",
    "to_reference",
]

log = logging.getLogger(__name__)

current_task: ContextVar[str | None] = ContextVar("rollforge_task", default=None)
"""Id of the task of a pool that is being run, for whoever makes a recorder of it."""

current_model: ContextVar[str] = ContextVar("rollforge_model", default="")
"""Name of the model of the task that is being run; empty when it was given none."""


current_attempt: ContextVar[int] = ContextVar("rollforge_attempt", default=0)
"""How many attempts at that task failed before; above 0, the one before may have been killed."""


class WorkerStopped(BaseException):
    """Somebody asked this worker to stop; like KeyboardInterrupt it passes through ``except Exception``.

    Examples
    --------
    >>> issubclass(WorkerStopped, Exception)
    False
    """


@dataclass(frozen=True, slots=True)
class Job:
    """Which tasks of which pool to run, and with what.

    Examples
    --------
    >>> Job("my_pool", len, query={"model.class": "LGBModel"}, timeout=600).before
    <Status.WAITING: 'waiting'>
    """

    pool: str
    task_func: Callable[..., Any]
    """``(definition or result, **kwargs) -> result``; importable, as worker processes import it."""
    query: Mapping[str, Any] = field(default_factory=dict)
    before: Status = Status.WAITING
    """Take tasks of this status: waiting ones get their definition, part_done ones the result of their first stage."""
    after: Status = Status.DONE
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    force_release: bool = False
    """True runs each task in a process of its own, so that its memory is certainly given back."""
    timeout: float | None = None
    """Seconds that one task may take; needs worker processes, because only a process can be ended from outside."""
    memory: int | None = None
    """Bytes that one worker process may allocate; needs worker processes."""
    on_death: Callable[[str], Any] | None = None
    """Called with the id of a task whose process died, in the process that watches: to tidy up what it left."""
    batch: str = ""
    """Take tasks of this batch alone; empty means all of the pool."""
    preload: Callable[[], None] | None = None
    """Called once in each worker process before it has a task: to import what tasks need."""
    own: bool = False
    """Whether every task is this user's own code; else those are that this process submitted (:mod:`rollforge.trust`)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a task, for whoever shows the progress.

    Examples
    --------
    >>> Event("done", "5041bf1f", "host:17", seconds=1.5).kind
    'done'
    """

    kind: Literal["started", "done", "failed", "retry", "lost", "left"]
    task_id: str
    worker: str
    seconds: float = 0.0
    error: str = ""
    label: str = ""
    """What a person calls the task: its model and the days that it tests."""
    at: float = field(default_factory=time.time)


def ignore_event(event: Event) -> None:
    """Listen to no event."""


class LogEvents:
    """Logs each task that has ended, and how many of how many that are.

    Parameters
    ----------
    total : int, optional
        How many tasks there are; None where that is not known.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._ended = 0

    def __call__(self, event: Event) -> None:
        """Take an event of a worker."""
        if event.kind not in ("done", "failed"):
            return
        self._ended += 1
        of = "" if self._total is None else f" of {self._total}"
        why = f": {event.error}" if event.error else ""
        log.info(
            "task %s is %s in %.1f s (%d%s)%s", event.task_id[:12], event.kind, event.seconds, self._ended, of, why
        )


def is_own(job: Job, store: TaskStore, task: TaskRecord) -> bool:
    """Return whether a claimed task is this user's own code: this process submitted it, or nobody else could."""
    return job.own or isinstance(store, MemoryStore) or trust.is_own(task.id, task.text)


def is_of_task(result: Any, task_id: str) -> bool:
    """Return whether the result of a first stage is a recorder that holds the very task of this id.

    A pool keeps the result of a stage beside the definition, and only the definition is what the id stands for.
    """
    if not isinstance(result, Recorder):
        return False
    try:
        return digest(result.load_object("task")) == task_id
    except RollforgeError:  # there is none, or it cannot be read: the second stage says so
        return False


def to_reference(result: Any) -> Any:
    """Return what the store keeps of a task's result: a recorder as a reference, anything else as it is."""
    return {"recorder": kept_reference(result)} if isinstance(result, Recorder) else result


def from_reference(kept: Any) -> Any:
    """Return what :func:`to_reference` was given."""
    if isinstance(kept, Mapping) and set(kept) == {"recorder"} and isinstance(kept["recorder"], Mapping):
        return open_kept(kept["recorder"])
    return kept
