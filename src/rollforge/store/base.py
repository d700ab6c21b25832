"""The task store protocol, and opening a store by its URI."""

from __future__ import annotations

import logging
import operator
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rollforge.drivers import STORES
from rollforge.errors import ArtifactUnreadable, ConfigError, StoreUnavailable, TaskNotFound, UntrustedPickle, shown
from rollforge.machine import machine_of
from rollforge.store.addresses import Opener
from rollforge.task import Attempt, Cause, Definition, Status, TaskRecord, digest

__all__ = [
    "ABOUT",
    "AVOID_SECONDS",
    "SUBMISSION_SECONDS",
    "Clock",
    "CreatedTask",
    "PauseNotice",
    "SupportsPastAttempts",
    "SupportsRenewals",
    "SupportsStates",
    "TaskState",
    "TaskStore",
    "Work",
    "batch_of",
    "open_store",
    "refuse_running",
    "storable_text",
    "task_not_found",
    "trim_log",
]

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Query = Mapping[str, Any]

LOG_LINES = 200
MAX_ATTEMPTS = 1_000_000_000
"""The largest `max_attempts`. A larger number of attempts in a row indicates damage."""
LATEST_TIME = 1e12
"""A time in seconds since the epoch at or after which a task would never become free: such a value indicates damage."""
AVOID_SECONDS = 60.0
"""Seconds after a failure during which a claim with `avoid` leaves the task to other workers."""
SUBMISSION_SECONDS = 600.0
"""Minimum number of seconds for which a submission is kept, even if it has no tasks."""
ABOUT = "checked"
"""Key of the ids of tasks in information that is not about a submission, such as the results of checks."""
_LOG_CHARACTERS = 64_000


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """The outcome of storing one task definition."""

    id: str
    new: bool
    """False if the pool already contained the task."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The part of a task that changes while its pool is worked on, without its definition, error and log."""

    id: str
    status: Status
    model_name: str = ""
    attempt: int = 0
    """Number of failed attempts at the current stage."""
    cause: Cause | None = None
    worker: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    lease_until: float | None = None
    blocked: bool = False
    """Whether it waits for a task on which it depends."""

    @classmethod
    def of(cls, task: TaskRecord) -> TaskState:
        """Return the state of a task."""
        return cls(
            task.id, task.status, task.model_name, task.attempt, task.cause, task.worker, task.created_at,
            task.started_at, task.finished_at, task.lease_until, task.blocked,
        )  # fmt: skip


@runtime_checkable
class SupportsStates(Protocol):
    """A store that reads the states of a large pool without its definitions, which are most of it."""

    def now(self) -> float:
        """Return the time of the store's clock."""

    def states(self, pool: str) -> list[TaskState]:
        """Return the states of all tasks of a pool, oldest first."""

    def texts(self, pool: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the stored definitions of some tasks, by id."""


@runtime_checkable
class SupportsPastAttempts(Protocol):
    """A store that reads the ended attempts of a whole pool without its tasks."""

    def past_attempts(self, pool: str, limit: int) -> list[tuple[str, Attempt]]:
        """Return the latest attempts in the histories of the tasks of a pool, with the ids of the tasks.

        The latest comes first. Their errors are not read.
        """


@runtime_checkable
class SupportsRenewals(Protocol):
    """A store that renews many leases in one transaction, and so waits for the disk once.

    A worker pool with hundreds of processes renews as many leases every few seconds.
    """

    def renew_all(self, renewals: Sequence[tuple[TaskRecord, str | None]], lease: float) -> list[TaskRecord]:
        """Renew the leases of tasks as :meth:`TaskStore.renew` does, each with what it has logged so far.

        Returns
        -------
        list of TaskRecord
            The tasks whose claim has ended; the others are renewed.
        """


@dataclass(slots=True)
class Work:
    """Tasks that a worker is running, and those that it has finished since a given time."""

    running: int = 0
    done: int = 0
    """Number of stages committed."""
    failed: int = 0
    """Number of failed attempts, at most one per task."""


@runtime_checkable
class TaskStore(Protocol):
    """Keeps tasks in named pools.

    Every implementation guarantees the following:

    * **A task is identified by its content.** Its id is the digest of its definition. Creating it twice, even from two
      processes at the same time, leaves one row.
    * **A name is not part of a task.** Changing the model name of a task changes neither its id nor its status.
    * **A claim is atomic**: highest priority first, then oldest. Two workers never get the same task.
    * **A claim is a lease with a token.** The token increases with every claim. After a lease has expired, the next
      claim may take over the task. Renewing, committing, giving back or failing a task under an old token raises
      :class:`~rollforge.errors.LeaseLost` and changes nothing, so each stage of a task has one committed result.
    * **A call whose answer was lost can be repeated.** A repeated claim with an identity returns the tasks that it was
      given the first time. Repeating the commit, failure or return that ended a claim succeeds and changes nothing.
      Creating existing tasks changes nothing, and a repeated creation with an identity again reports which tasks it
      stored.
    * **A batch is a set of tasks** of a pool: those of one submission. A task may be in several batches; removing it
      removes it from them. Claiming and counting cost the same in a batch as in a pool, whatever else the pool contains.
    * **Attempts are counted** when a stage fails or its lease expires, but not when a task is given back. After
      `max_attempts` the task is ``failed`` and keeps its error and its cause.
    * **A failure is recorded with its worker.** A task keeps the workers on which it failed, and a claim can leave it
      to other workers. A failure that may be the fault of the worker does not count as an attempt, once per task and
      worker. If a worker proves to be faulty, the attempts that failed there are given back.
    * **A task waits for its dependencies.** It can be claimed once all of them are ``done``, and fails if one of them
      fails.
    * **Ended attempts are kept**, the latest :data:`~rollforge.task.KEPT_ATTEMPTS` of a task, whatever ended them: a
      failure, a lost lease, a return, a cancellation, a change of the status, the result of a first stage. The attempt
      that made a task ``done`` is described by the task itself, so that committing a result stores nothing more.
    * **Results and ended attempts are stored separately.** Counting and claiming never read them.
    * **Time is the clock of the store**, not that of each worker.
    * **Queries** use MongoDB's syntax, see :mod:`rollforge.store.query`. The caller's dicts are never changed.
    """

    uri: str

    # -- creating ------------------------------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        definitions: Sequence[Mapping[str, object]],
        *,
        priority: int = 0,
        max_attempts: int = 3,
        depends_on: Sequence[str] = (),
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> list[CreatedTask]:
        """Store task definitions, either all of them or none.

        Of tasks that already exist in the pool only the model name and the submission change.

        Parameters
        ----------
        pool : str
            Name of the pool.
        definitions : sequence of mapping
            Task definitions, plain data.
        priority : int
            Priority of the new tasks, an integer of 64 bits.
        max_attempts : int
            Maximum number of attempts of the new tasks, from 1 to `MAX_ATTEMPTS`.
        depends_on : sequence of str
            Ids of tasks of this pool that the new tasks wait for.
        model_names : sequence of str
            Model name of each definition, for new and existing tasks. If a name is empty, or no names are given, new
            tasks have no name and existing tasks keep theirs.
        submission : str
            Key returned by :meth:`keep_submission`, stored with new tasks and with existing tasks that are not done. If
            empty, new tasks have none and existing tasks keep theirs.
        batch : str
            Name of the batch to which all these tasks, new and existing, are added; see :func:`batch_of`.
        creation : str
            Unique identity of this call. If the call is repeated with the same identity because its answer was lost, it
            again reports the tasks stored by the first call as new. If empty, they are reported as existing.

        Raises
        ------
        TaskNotSerializable
            If a definition is not plain data.
        TaskNotFound
            If an id in `depends_on` does not exist.
        ConfigError
            If tasks would depend on each other in a cycle, or a number is out of range.
        """

    def keep_submission(self, pool: str, info: Mapping[str, object]) -> str:
        """Store what a submission used (plain data) and return its key. Equal submissions have the same key."""

    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, Definition]:
        """Return what the submissions of a pool used, by key, oldest first, except those whose keys are in `known`.

        When tasks are removed, submissions without tasks are deleted too, but only if they were last kept more than
        `SUBMISSION_SECONDS` ago: the tasks of a newer one may be about to be created. Information that is not about
        a submission names its tasks by a list of ids under the key :data:`ABOUT`; it is kept until the last of them is
        removed.
        """

    def open_submissions(self, pool: str) -> set[str]:
        """Return the keys of submissions with unfinished tasks; the empty key stands for tasks without a submission."""

    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        """Add the tasks with these ids that exist to a batch, which is created if needed."""

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        """Store complete records copied from another store, with their history, and return how many were new.

        Running tasks are stored with the status from which they were claimed.
        """

    # -- working -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
        avoid: str = "",
        batch: str = "",
        claim: str = "",
    ) -> list[TaskRecord]:
        """Claim up to `limit` tasks of a status and return them, now ``running``.

        Tasks that were claimed from that status and whose lease has expired are included. While the pool is paused,
        no task is claimed. Nothing that a definition refers to is imported. A task whose definition cannot be decoded
        becomes ``failed`` with the cause ``unreadable``, and the others are claimed.

        Parameters
        ----------
        pool : str
            Name of the pool.
        worker : str
            Name of the worker.
        lease : float
            Seconds that the claim lasts without renewal.
        status : Status
            ``waiting`` or ``part_done``.
        query : mapping, optional
            Only tasks that match.
        limit : int
            Maximum number of tasks.
        avoid : str
            A worker or a machine (see :func:`~rollforge.machine.machine_of`): tasks that failed there less than
            `AVOID_SECONDS` ago are left to other workers.
        batch : str
            Only tasks of this batch; if empty, all tasks of the pool.
        claim : str
            Unique identity of this call. If the call is repeated with the same identity and the tasks are still held,
            they are returned again with the same tokens. If empty, the call cannot be repeated.
        """

    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        """Extend the lease to `lease` seconds from now, and store what the task has logged so far."""

    def commit(self, task: TaskRecord, result: object, status: Status = Status.DONE, log: str = "") -> None:
        """Store the result of a stage and end the claim with `status`, ``done`` or ``part_done``."""

    def give_back(self, task: TaskRecord, status: Status | None = None, *, reason: str | None = None) -> None:
        """End the claim without counting an attempt; the task gets its previous status, or `status`.

        `reason` says what the worker that claimed the task lacks. It is stored as the error, with the cause ``unfit``.
        """

    def fail(
        self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "", attempts: int = 1
    ) -> Status:
        """End the claim with an error and return the new status of the task.

        The status is ``failed``, or the one from which the task was claimed if it will be retried. With the cause
        ``unreadable`` the task is ``failed`` at once, as a retry would not help. Pass ``attempts=0`` if the failure may
        be the fault of the worker, see :func:`~rollforge.transitions.counted`.
        """

    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        """Give back the attempts that failed on a worker that proved to be faulty; return the ids of those tasks.

        Tasks that are ``failed`` wait again, as do tasks that failed only because they depend on one of them. Done and
        cancelled tasks do not change.
        """

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        """End all claims of a worker known to be dead: as failures with `error`, or as returns if `error` is None."""

    def expire(self, pool: str) -> None:
        """End the claims whose lease has expired, each as a failed attempt.

        Every claim does this first, and so does waiting for tasks.
        """

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, pool: str, task_id: str) -> TaskRecord:
        """Return one task, including its result and its history."""

    def query(
        self,
        pool: str,
        query: Query | None = None,
        *,
        batch: str = "",
        results: bool = True,
        latest: bool = False,
        limit: int | None = None,
    ) -> Iterator[TaskRecord]:
        """Yield the tasks that match, oldest first.

        Parameters
        ----------
        pool : str
            Name of the pool.
        query : mapping, optional
            Only tasks that match.
        batch : str
            Only tasks of this batch; if empty, all tasks of the pool.
        results : bool
            If False, results, dependencies and histories are not read.
        latest : bool
            If True, the tasks that ended last come first.
        limit : int, optional
            Maximum number of tasks.
        """

    def pages(self, pool: str, size: int) -> Iterator[list[str]]:
        """Yield the ids of all tasks of a pool in lists of `size`, oldest first, without reading them all at once.

        Tasks that are created or removed during the iteration may or may not be included.
        """

    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        """Return whether a matching task of a status can be claimed, now or after its backoff.

        Such a task waits for no other task.
        """

    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        """Return the number of tasks by status; statuses without tasks are left out.

        If the query is empty or asks only for a status, no task is read.
        """

    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""

    def workers(self, pool: str, since: float | None) -> dict[str, Work]:
        """Return what each worker is running and what it has finished since a time of the store's clock.

        With ``since=None`` only what it is running is counted.
        """

    def paused(self, pool: str) -> bool:
        """Return whether a pool is paused, so that nothing can be claimed from it."""

    def wait_for_change(self, pool: str, timeout: float) -> None:
        """Return as soon as something in the pool may have changed since the last call, or after `timeout` seconds."""

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, pool: str, query: Query | None = None) -> int:
        """Delete the tasks that match, with their results and histories, and return how many."""

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        """Change the status of the tasks that match and return how many. Claims on them become stale.

        Their latest attempts, running or successful, are then in their histories; the tasks have no worker any more.
        """

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        """Change the priority of the tasks that match and return how many."""

    def retry(self, pool: str, query: Query | None = None) -> int:
        """Reset the failed tasks that match to the status from which they were claimed, with no attempts used.

        Tasks that failed only because they depend on one of them wait again too. Return how many tasks were reset.
        Their histories are kept.
        """

    def cancel(self, pool: str, query: Query | None = None) -> int:
        """Fail the unfinished tasks that match with the cause ``cancelled``; claims on them become stale."""

    def pause(self, pool: str, paused: bool = True) -> None:
        """Stop claims from a pool, or allow them again with ``paused=False``. Running tasks continue."""

    def replace(self, pool: str, task_id: str, definition: Mapping[str, object]) -> str:
        """Replace a task by a waiting one with another definition and return its id.

        The model name is kept; the result and the history, which are those of the old definition, are deleted.
        """

    def close(self) -> None:
        """Close connections; a later call opens them again."""


class PauseNotice:
    """Logs a warning for a waiting process when its pool is paused or resumed, once per change.

    Parameters
    ----------
    store : TaskStore
        Store that contains the pool.
    pool : str
        Name of the pool.
    """

    def __init__(self, store: TaskStore, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._was_paused = False

    def check(self) -> None:
        """Log a warning if the pool has been paused or resumed since the last call."""
        paused = self._store.paused(self._pool)
        if paused and not self._was_paused:
            log.warning(
                "pool %r is paused: no task is taken from it until 'rollforge pool -t %s resume'",
                self._pool,
                self._pool,
            )
        elif self._was_paused and not paused:
            log.warning("pool %r is no longer paused", self._pool)
        self._was_paused = paused


def batch_of(ids: Iterable[str]) -> str:
    """Return the batch name of a set of task ids. It does not depend on their order.

    Examples
    --------
    >>> batch_of(["a", "b", "a"]) == batch_of(["b", "a"])
    True
    """
    return digest(sorted(set(ids)))


def checked_priority(priority: object) -> int:
    """Return a priority as an integer of 64 bits, which all databases can store.

    Raises
    ------
    ConfigError
        If it is not a whole number, or too large.
    """
    return _whole_number(priority, "priority", -(2**63), 2**63 - 1)


def checked_attempts(max_attempts: object) -> int:
    """Return a maximum number of attempts as an integer.

    Raises
    ------
    ConfigError
        If it is not a whole number from 1 to `MAX_ATTEMPTS`.
    """
    return _whole_number(max_attempts, "max_attempts", 1, MAX_ATTEMPTS)


def _whole_number(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        raise ConfigError(f"{shown(value)} is not a whole number from {least} to {most}.", path=name)
    return number


def refuse_running(status: Status) -> None:
    """Raise an error if `status` is ``running``, which can only be set by a claim.

    Raises
    ------
    ConfigError
        If `status` is ``running``.
    """
    if status is Status.RUNNING:
        raise ConfigError(
            "A task becomes running when a worker claims it. Setting this status manually would leave the task running forever."
        )


def not_unicode(exc: UnicodeEncodeError) -> ConfigError:
    """Return the error about a value, such as the name of a pool, that a database cannot store as text."""
    return ConfigError(f"{shown(exc.object)} cannot be stored, because it is not valid Unicode.")


def refuse_newer(place: str, found: int, known: int, noun: str = "task store") -> None:
    """Raise an error if the schema of a store has a newer version than the latest known one.

    Raises
    ------
    StoreUnavailable
        If it has.
    """
    if found > known:
        raise StoreUnavailable(
            f"The {noun} {place} was created by a newer Rollforge (schema {found}; this version knows {known}). Update Rollforge."
        )


def refuse_older(place: str, found: int, known: int) -> None:
    """Raise an error if a store that is opened read-only has tables of an earlier version, which must be migrated.

    Raises
    ------
    StoreUnavailable
        If it has.
    """
    if found < known:
        raise StoreUnavailable(
            f"The task store {place} was created by an earlier Rollforge (schema {found}; this version reads {known}). Any "
            "command that writes to it migrates it: rollforge pool list"
        )


def checked_model_names(definitions: Sequence[object], model_names: Sequence[str]) -> list[str]:
    """Return one model name per definition; all are empty if no names are given.

    Raises
    ------
    ConfigError
        If the numbers of names and definitions differ, or a name contains unprintable characters.
    """
    names = list(model_names) if len(model_names) else [""] * len(definitions)
    if len(names) != len(definitions):
        raise ConfigError(f"there are {len(names)} names for {len(definitions)} tasks.", path="model_names")
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ConfigError(f"{name!r:.100} cannot be the name of a model.", path="model_names")
    return names


def trim_log(text: str) -> str:
    """Return the last 200 lines of a log, as text that every database can store.

    Examples
    --------
    >>> trim_log("\\n".join(map(str, range(300)))).splitlines()[0]
    '100'
    """
    return "\n".join(storable_text(text).splitlines()[-LOG_LINES:])[-_LOG_CHARACTERS:]


def storable_text(text: str) -> str:
    """Return text that every database can store: NUL and lone surrogates are replaced by escapes.

    Examples
    --------
    >>> storable_text("a\\x00b\\udc80")
    'a\\\\x00b\\\\udc80'
    """
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def repeated_answer(made: Sequence[CreatedTask], stored_before: Container[str]) -> list[CreatedTask]:
    """Return the answer of a repeated creation: tasks in `stored_before`, stored by the first call, count as new.

    Examples
    --------
    >>> repeated_answer([CreatedTask("a", False), CreatedTask("b", True), CreatedTask("a", False)], {"a"})
    [CreatedTask(id='a', new=True), CreatedTask(id='b', new=True), CreatedTask(id='a', new=False)]
    """
    seen: set[str] = set()
    found = []
    for task in made:
        found.append(CreatedTask(task.id, task.new or (task.id in stored_before and task.id not in seen)))
        seen.add(task.id)
    return found


def failure_mark(worker: str) -> str:
    """Return the mark that records a failure on a worker: ``|machine|worker|``."""
    return f"|{machine_of(worker)}|{worker}|"


def failed_workers(marks: str) -> tuple[str, ...]:
    """Return the workers in a string of marks made by :func:`failure_mark`.

    Examples
    --------
    >>> failed_workers(failure_mark("gpu1:17:ab-1") + failure_mark("gpu2:9"))
    ('gpu1:17:ab-1', 'gpu2:9')
    """
    return tuple(mark.rpartition("|")[2] for mark in marks.strip("|").split("||")) if marks else ()


def stale_message(task: TaskRecord) -> str:
    """Return the message of :class:`~rollforge.errors.LeaseLost`."""
    return f"Task {task.id} is no longer held by {task.worker}, so nothing was stored."


def task_not_found(pool: str, task_id: str) -> TaskNotFound:
    """Return the error about a task that does not exist."""
    return TaskNotFound(f"There is no task {task_id!r} in pool {pool!r}.")


def damaged_result(task: TaskRecord, exc: UntrustedPickle | ArtifactUnreadable) -> UntrustedPickle | ArtifactUnreadable:
    """Return the error for an unreadable result: it names the task, the reason and what to do."""
    return type(exc)(
        f"The result of task {task.id} in pool {task.pool!r} cannot be read: {str(exc).rstrip('.')}. To run it again, "
        "give it the status waiting: 'rollforge pool reset-status', or TaskManager.reset_status."
    )


def ending_of(call: str, status: Status | None = None) -> str:
    """Return the text that records a call that ended a claim, so that a repetition of it is recognized."""
    return call if status is None else f"{call} as {status.value}"


def require_dependencies(pool: str, missing: Iterable[str]) -> None:
    """Refuse ids of dependencies that are not tasks of the pool.

    Raises
    ------
    TaskNotFound
        If `missing` contains an id.
    """
    first = min(missing, default=None)
    if first is not None:
        raise TaskNotFound(f"depends_on: there is no task {first!r} in pool {pool!r}.")


def refuse_cycles(ids: set[str], wanted: Iterable[str], dependencies_of: Callable[[list[str]], Iterable[str]]) -> None:
    """Raise an error if tasks `ids` that depend on `wanted` would depend on themselves.

    Parameters
    ----------
    ids : set of str
        Ids of the tasks.
    wanted : iterable of str
        Ids of their new dependencies.
    dependencies_of : callable
        Returns the direct dependencies of a list of ids.

    Raises
    ------
    ConfigError
        If there is a cycle.
    """
    frontier = list(wanted)
    seen = set(frontier)
    while frontier:
        frontier = [n for n in dependencies_of(frontier) if n not in seen]
        seen.update(frontier)
    if seen & ids:
        raise ConfigError(f"Task {min(seen & ids)} would depend on itself.", path="depends_on")


# scheme -> (module, class, extra); a driver is imported when a URI with its scheme is opened
_opener: Opener[TaskStore] = Opener(STORES, "store")
_READ_ONLY = re.compile(r"(sqlite|postgres(ql)?|mongodb(\+srv)?):|\s*(host|hostaddr|port|dbname|user|service)\s*=")
"""URIs of the stores that can be opened read-only."""


def open_store(store_uri: str, *, clock: Clock | None = None, read_only: bool = False) -> TaskStore:
    """Return the store at a URI. Within a process, the same URI returns the same store unless `clock` is given.

    Parameters
    ----------
    store_uri : str
        ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://user:password@host:port/database`` (or
        ``host=… dbname=… user=…``), ``mongodb://user:password@host:port/database``, ``memory://NAME``, or a URI with a
        scheme that was added (:mod:`rollforge.drivers`).
    clock : callable, optional
        Returns seconds since the epoch. By default the store's own clock is used.
    read_only : bool
        Whether the store must exist, and is never changed or locked for writing. Each call opens it anew, except one in
        memory and those of other packages, which are opened as usual.

    Raises
    ------
    ConfigError
        If the scheme is unknown, or its class cannot be used.
    MissingDependency
        If the driver is not installed; the message contains the command that installs it.
    StoreUnavailable
        If the store cannot be opened.
    """
    if read_only and STORES.registered_object(store_uri) is None and _READ_ONLY.match(store_uri):
        return _opener.open_another(store_uri, clock=clock, read_only=True)
    return (_opener.open if clock is None else _opener.open_another)(store_uri, clock=clock)


def wall_clock(clock: Clock | None) -> Clock:
    """Return `clock`, or the clock of this machine if it is None."""
    return clock or time.time
