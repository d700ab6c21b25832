"""The protocol of a task store, and how a URI becomes one."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from rollforge.errors import ConfigError, nearest
from rollforge.session import mask_secrets
from rollforge.task import Status, TaskRecord

__all__ = ["Clock", "Created", "TaskStore", "backoff", "open_store", "refuse_running"]

Clock = Callable[[], float]
Query = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Created:
    """One definition that was to be stored."""

    id: str
    new: bool
    """False: the pool had it already."""


@runtime_checkable
class TaskStore(Protocol):
    """Keeps tasks in named pools. What every implementation promises:

    * **A task is its content.** Its id is the digest of its definition; creating it twice, also by two processes at the
      same moment, leaves one row.
    * **A claim is one atomic step**: highest priority first, then oldest. Two workers never get the same task.
    * **A claim is a lease with a token.** The token grows with every claim. When a lease has run out, the next claim may
      take the task over; renewing, committing, giving back and failing under an old token is refused with
      :class:`~rollforge.errors.LeaseLost` and changes nothing. So each stage of a task has one committed result.
    * **Attempts are counted** when a stage fails, or its lease runs out; not when it is given back. After `max_attempts`
      the task is ``failed`` and keeps its error.
    * **Results are apart.** Counting and claiming never read them.
    * **Time is the store's** (its clock), not that of each worker.
    * **Queries** are in MongoDB's form, see :mod:`rollforge.store.query`; the caller's dicts are never changed.
    """

    uri: str

    def create(
        self, pool: str, definitions: Sequence[Mapping[str, Any]], *, priority: int = 0, max_attempts: int = 3
    ) -> list[Created]:
        """Store definitions, in one transaction; those that the pool has already stay as they are."""

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
    ) -> list[TaskRecord]:
        """Take up to `limit` tasks of a status (or whose lease, claimed from that status, ran out), now ``running``."""

    def renew(self, task: TaskRecord, lease: float) -> None:
        """Let the lease run for `lease` more seconds from now."""

    def commit(self, task: TaskRecord, result: Any, status: Status = Status.DONE) -> None:
        """Keep the result of a stage and end the claim with `status`, ``done`` or ``part_done``."""

    def give_back(self, task: TaskRecord, status: Status | None = None) -> None:
        """End the claim without an attempt: the task is what it was before, or of `status`."""

    def fail(self, task: TaskRecord, error: str) -> Status:
        """End the claim with an error; return ``waiting`` (or the stage's status) to be tried again, or ``failed``."""

    def release_worker(self, pool: str, worker: str, error: str | None) -> list[TaskRecord]:
        """End all claims of a worker known to be dead: as failures with `error`, or given back if that is None."""

    def expire(self, pool: str) -> None:
        """End the claims whose lease ran out, each as a failed attempt: what every claim does first, and waiting too."""

    def get(self, pool: str, task_id: str) -> TaskRecord:
        """Return one task with its result."""

    def query(self, pool: str, query: Query | None = None, *, results: bool = True) -> Iterator[TaskRecord]:
        """Yield the tasks that match, oldest first."""

    def count(self, pool: str, query: Query | None = None) -> dict[Status, int]:
        """Return how many tasks there are by status; statuses without tasks are left out."""

    def remove(self, pool: str, query: Query | None = None) -> int:
        """Delete the tasks that match and return how many."""

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        """Give the tasks that match another status; running claims on them become stale. Return how many."""

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        """Give the tasks that match another priority and return how many."""

    def retry(self, pool: str, query: Query | None = None) -> int:
        """Put the failed tasks that match back to the status they were claimed from, attempts at zero; return how many."""

    def replace(self, pool: str, task_id: str, definition: Mapping[str, Any]) -> str:
        """Put another definition, waiting, in the place of a task and return its id."""

    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""


def backoff(attempt: int) -> float:
    """Return how many seconds a task waits after its `attempt`-th failure, before the jitter: 1, 2, 4 … at most 60."""
    return float(min(60, 2 ** max(0, attempt - 1)))


def refuse_running(status: Status) -> None:
    """Do nothing, unless somebody would put tasks by hand into ``running``, which only a claim can.

    Raises
    ------
    ConfigError
        Then.
    """
    if status is Status.RUNNING:
        raise ConfigError("A task becomes running when a worker claims it; by hand it would run for ever.")


# scheme -> (module, class); a driver is imported only when its URI is used
_DRIVERS = {
    "memory": ("rollforge.store.memory", "MemoryStore"),
    "sqlite": ("rollforge.store.sqlite", "SQLiteStore"),
}
_LATER = {"postgresql", "postgres", "mongodb"}
_open: dict[str, TaskStore] = {}


def open_store(uri: str, *, clock: Clock = time.time) -> TaskStore:
    """Return the store at a URI; the same one for the same URI in one process (unless a clock of its own is given).

    Parameters
    ----------
    uri : str
        ``memory://NAME``, ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.
    clock : callable
        Seconds since the epoch.

    Raises
    ------
    ConfigError
        For an unknown scheme.
    StoreUnavailable
        When the store cannot be opened.
    """
    if clock is time.time and uri in _open:
        return _open[uri]
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in _DRIVERS:
        shown = mask_secrets(uri)
        if scheme in _LATER:
            raise ConfigError(f"{shown}: this version keeps tasks in SQLite; use sqlite:///PATH.", path="store")
        raise ConfigError(
            f"{shown!r} names no task store.{nearest(scheme, _DRIVERS)} Write sqlite:///PATH or memory://NAME.",
            path="store",
        )
    module, name = _DRIVERS[scheme]
    store = cast(TaskStore, getattr(importlib.import_module(module), name)(uri, clock=clock))
    if clock is time.time:
        _open[uri] = store
    return store
