"""The protocol of a task store, and how a URI becomes one."""

from __future__ import annotations

import importlib
import logging
import random
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from rollforge.confidential import mask_secrets
from rollforge.errors import ArtifactUnreadable, ConfigError, MissingDependency, UntrustedPickle, nearest
from rollforge.machine import machine_of
from rollforge.task import Cause, Status, TaskRecord, digest

__all__ = [
    "AVOID_SECONDS",
    "SUBMISSION_SECONDS",
    "Clock",
    "CreatedTask",
    "PauseNotice",
    "TaskStore",
    "Work",
    "backoff",
    "batch_of",
    "open_store",
    "refuse_running",
    "storable_text",
    "trim_log",
]

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Query = Mapping[str, Any]

LOG_LINES = 200
AVOID_SECONDS = 60.0
"""For how long after a failure a claim can leave the task to other workers."""
SUBMISSION_SECONDS = 600.0
"""For how long what a submission used is kept at least, whether it has tasks or not."""
_LOG_CHARACTERS = 64_000


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """One definition that was to be stored."""

    id: str
    new: bool
    """False: the pool had it before this creation."""


@dataclass(slots=True)
class Work:
    """What a worker does, and did since some moment."""

    running: int = 0
    done: int = 0
    """Stages that it committed."""
    failed: int = 0
    """Attempts that failed, at most one a task."""


@runtime_checkable
class TaskStore(Protocol):
    """Keeps tasks in named pools. What every implementation promises:

    * **A task is its content.** Its id is the digest of its definition; creating it twice, also by two processes at the
      same moment, leaves one row.
    * **A name is no part of it**: what a task's model is called may change, and changes neither the id nor the status.
    * **A claim is one atomic step**: highest priority first, then oldest. Two workers never get the same task.
    * **A claim is a lease with a token.** The token grows with every claim. When a lease has run out, the next claim may
      take the task over; renewing, committing, giving back and failing under an old token is refused with
      :class:`~rollforge.errors.LeaseLost` and changes nothing. So each stage of a task has one committed result.
    * **A call whose answer was lost may be repeated.** A claim that carries an identity is answered with the tasks that it
      was given; a commit, failure or return that this claim has ended with already succeeds again and changes nothing;
      creating known tasks changes nothing, and a creation with an identity says again which tasks it stored.
    * **A batch is a set of tasks** of a pool: those of one submission. A task may be in several, and leaves them when it is
      removed. Claiming and counting cost the same in a batch as in a pool, whatever else is there.
    * **Attempts are counted** when a stage fails, or its lease runs out; not when it is given back. After `max_attempts`
      the task is ``failed`` and keeps its error and its cause.
    * **A failure stays with its worker**: a task knows at which workers it failed, and a claim can leave it to others. A
      failure that may be the worker's own fault does not count as an attempt, once a task and worker; those of a worker
      that proves to be unfit are given back.
    * **A task waits for what it depends on**: it is claimed when all of that is ``done``, and fails when one of it fails.
    * **Results are apart.** Counting and claiming never read them.
    * **Time is the store's** (its clock), not that of each worker.
    * **Queries** are in MongoDB's form, see :mod:`rollforge.store.query`; the caller's dicts are never changed.
    """

    uri: str

    # -- putting in ----------------------------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        definitions: Sequence[Mapping[str, Any]],
        *,
        priority: int = 0,
        max_attempts: int = 3,
        depends_on: Sequence[str] = (),
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> list[CreatedTask]:
        """Store definitions, all of them or none; those that the pool has already keep all but name and submission.

        Parameters
        ----------
        pool : str
            Name.
        definitions : sequence of mapping
            Plain data.
        priority : int
            Of the new ones.
        max_attempts : int
            Of the new ones.
        depends_on : sequence of str
            Ids of tasks of this pool that the new ones wait for.
        model_names : sequence of str
            Of each definition what its model is called, also of those that the pool has already. Empty, or no names at all:
            new tasks get none, known ones keep theirs.
        submission : str
            Key of what was used, from :meth:`keep_submission`: of the new ones, and of known ones that are not done. Empty:
            new tasks get none, known ones keep theirs.
        batch : str
            Name of the batch that all of them belong to from now on, also those that the pool has already; see
            :func:`batch_of`.
        creation : str
            Identity of this creation, different for each: repeated under it, after its answer was lost, it says once more
            which tasks it stored. Empty: what was stored before the repetition counts as known.

        Raises
        ------
        TaskNotSerializable
            When one is not plain data.
        TaskNotFound
            When there is no task of an id in `depends_on`.
        ConfigError
            When tasks would wait for each other.
        """

    def keep_submission(self, pool: str, facts: Mapping[str, Any]) -> str:
        """Keep what a submission used, plain data, and return its key: the same for the same facts."""

    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Return what the submissions of a pool used, by key, the oldest first; without those whose keys are `known`.

        One that has no tasks any more is deleted when tasks are removed, `SUBMISSION_SECONDS` after it was last kept at the
        earliest: its tasks may be about to be created.
        """

    def open_submissions(self, pool: str) -> set[str]:
        """Return the keys of the submissions whose tasks have not all ended; the empty one for tasks that have none."""

    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        """Let those of some tasks that are there belong to a batch; it is made if need be."""

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        """Store whole records (copies from another store), running ones as not begun; return how many were new."""

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
        """Take up to `limit` tasks of a status (or whose lease, claimed from that status, ran out), now ``running``.

        `avoid` names a worker or a machine (see :func:`~rollforge.machine.machine_of`): tasks that failed there less than
        `AVOID_SECONDS` ago are left to others.

        None while the pool is paused. Nothing that a definition refers to is imported; a task whose definition cannot be
        decoded becomes ``failed`` with the cause ``unreadable``, and the others are claimed.

        Parameters
        ----------
        pool : str
            Name.
        worker : str
            Name of the worker.
        lease : float
            Seconds that the claim lasts without renewal.
        status : Status
            ``waiting`` or ``part_done``.
        query : mapping, optional
            Only tasks that match.
        limit : int
            How many tasks at most.
        batch : str
            Only tasks of this batch; empty means all of the pool.
        claim : str
            Identity of this claim, different for each: when it was claimed under before and the tasks are still held, they
            are returned, with the token that they have. Empty: the claim cannot be repeated.
        """

    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        """Let the lease run for `lease` more seconds from now, and keep what the task logged so far."""

    def commit(self, task: TaskRecord, result: Any, status: Status = Status.DONE, log: str = "") -> None:
        """Keep the result of a stage and end the claim with `status`, ``done`` or ``part_done``."""

    def give_back(self, task: TaskRecord, status: Status | None = None, *, why: str | None = None) -> None:
        """End the claim without an attempt: the task is what it was before, or of `status`.

        `why` is kept as its error, with the cause ``unfit``: what the worker lacks that claimed it.
        """

    def fail(
        self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "", attempts: int = 1
    ) -> Status:
        """End the claim with an error; return ``waiting`` (or the stage's status) to be tried again, or ``failed``.

        With the cause ``unreadable`` it is ``failed`` at once: trying again would not help. `attempts` is 0 when the
        fault may be the worker's: see :func:`counts`.
        """

    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        """Give back the attempts that some tasks failed at a worker, which has proved to be unfit; return which tasks.

        Those that failed for good wait again, and so do tasks that failed only because they depend on one of them. Done and
        cancelled tasks stay as they are.
        """

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        """End all claims of a worker known to be dead: as failures with `error`, or given back if that is None."""

    def expire(self, pool: str) -> None:
        """End the claims whose lease ran out, each as a failed attempt: what every claim does first, and waiting too."""

    # -- looking -------------------------------------------------------------------------------------------------------

    def get(self, pool: str, task_id: str) -> TaskRecord:
        """Return one task with its result."""

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
            Name.
        query : mapping, optional
            Only tasks that match.
        batch : str
            Only tasks of this batch; empty means all of the pool.
        results : bool
            False leaves their results unread, and what they depend on.
        latest : bool
            True yields first those that ended last.
        limit : int, optional
            How many at most.
        """

    def pages(self, pool: str, size: int) -> Iterator[list[str]]:
        """Yield the ids of all tasks of a pool, oldest first, `size` at a time, without reading them all at once.

        Tasks that are created or removed meanwhile may be among them or not.
        """

    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        """Return whether a task of a status that matches waits for no other task: it can be claimed, or after a backoff."""

    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        """Return how many tasks there are by status (of a batch); statuses without tasks are left out.

        When the query asks for nothing but a status, no task is looked at.
        """

    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""

    def workers(self, pool: str, since: float | None) -> dict[str, Work]:
        """Return what each worker runs, and what it did since a moment of the store's clock; None: only what it runs."""

    def paused(self, pool: str) -> bool:
        """Return whether nothing is claimed from a pool at present."""

    def wait_for_change(self, pool: str, timeout: float) -> None:
        """Return as soon as something in the pool may have changed since the last call, or after `timeout` seconds."""

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, pool: str, query: Query | None = None) -> int:
        """Delete the tasks that match and return how many."""

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        """Give the tasks that match another status; running claims on them become stale. Return how many."""

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        """Give the tasks that match another priority and return how many."""

    def retry(self, pool: str, query: Query | None = None) -> int:
        """Put the failed tasks that match back to the status they were claimed from, attempts at zero; return how many.

        Tasks that failed only because they depend on one of them wait again too.
        """

    def cancel(self, pool: str, query: Query | None = None) -> int:
        """Let the tasks that match and have not ended fail as ``cancelled``; running claims become stale."""

    def pause(self, pool: str, paused: bool = True) -> None:
        """Let nothing be claimed from a pool, until it is called with False; what runs goes on."""

    def replace(self, pool: str, task_id: str, definition: Mapping[str, Any]) -> str:
        """Put another definition, waiting, in the place of a task and return its id; the name of its model stays."""

    def close(self) -> None:
        """Give connections back; a later call opens them again."""


class PauseNotice:
    """Tells whoever waits for tasks of a pool that it is paused, once each time.

    Parameters
    ----------
    store : TaskStore
        Where the tasks are.
    pool : str
        Name.
    """

    def __init__(self, store: TaskStore, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._told = False

    def look(self) -> None:
        """Log a warning, if the pool is paused and that was not said yet."""
        paused = self._store.paused(self._pool)
        if paused and not self._told:
            log.warning(
                "pool %r is paused: no task is taken from it until 'rollforge pool -t %s resume'",
                self._pool,
                self._pool,
            )
        elif self._told and not paused:
            log.warning("pool %r is no longer paused", self._pool)
        self._told = paused


def batch_of(ids: Iterable[str]) -> str:
    """Return the name of the batch of some tasks: the same tasks, in whatever order, are the same batch.

    Examples
    --------
    >>> batch_of(["a", "b", "a"]) == batch_of(["b", "a"])
    True
    """
    return digest(sorted(set(ids)))


def backoff(attempt: int) -> float:
    """Return how many seconds a task waits after its `attempt`-th failure: about 1, 2, 4 … 60, with half of it jitter.

    The jitter lets tasks that failed together, of one shared cause, come back apart.
    """
    return float(min(60, 2 ** max(0, attempt - 1))) * random.uniform(0.5, 1.0)


def refuse_running(status: Status) -> None:
    """Do nothing, unless somebody would put tasks by hand into ``running``, which only a claim can.

    Raises
    ------
    ConfigError
        Then.
    """
    if status is Status.RUNNING:
        raise ConfigError("A task becomes running when a worker claims it; by hand it would run for ever.")


def named(definitions: Sequence[Any], model_names: Sequence[str]) -> list[str]:
    """Return a name for each definition, empty where none is given.

    Raises
    ------
    ConfigError
        When there are not as many names as definitions, or one has characters that cannot be printed.
    """
    names = list(model_names) if len(model_names) else [""] * len(definitions)
    if len(names) != len(definitions):
        raise ConfigError(f"there are {len(names)} names for {len(definitions)} tasks.", path="model_names")
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ConfigError(f"{name!r:.100} cannot be the name of a model.", path="model_names")
    return names


def trim_log(text: str) -> str:
    """Return the last 200 lines of a log, as a text that any database takes.

    Examples
    --------
    >>> trim_log("\\n".join(map(str, range(300)))).splitlines()[0]
    '100'
    """
    return "\n".join(storable_text(text).splitlines()[-LOG_LINES:])[-_LOG_CHARACTERS:]


def storable_text(text: str) -> str:
    """Return a text that any database takes: what it cannot hold (NUL, half of a surrogate pair) is written as an escape.

    Examples
    --------
    >>> storable_text("a\\x00b\\udc80")
    'a\\\\x00b\\\\udc80'
    """
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def told_again(made: Sequence[CreatedTask], stored_before: Container[str]) -> list[CreatedTask]:
    """Return what a creation made; tasks of `stored_before` are those that it stored when it was called before.

    Examples
    --------
    >>> told_again([CreatedTask("a", False), CreatedTask("b", True), CreatedTask("a", False)], {"a"})
    [CreatedTask(id='a', new=True), CreatedTask(id='b', new=True), CreatedTask(id='a', new=False)]
    """
    said: set[str] = set()
    found = []
    for task in made:
        found.append(CreatedTask(task.id, task.new or (task.id in stored_before and task.id not in said)))
        said.add(task.id)
    return found


def counts(task: TaskRecord, attempts: int) -> int:
    """Return as how many attempts a failure of a task counts: 0 or 1.

    One that may be the fault of its worker (`attempts` is 0) does not count: once a worker, so that a task that is itself
    at fault ends, and not where the task is to be tried only once.
    """
    return 1 if task.max_attempts <= 1 or str(task.worker) in task.failed_by else attempts


def restored_attempts(task: TaskRecord, worker: str) -> int:
    """Return how many attempts a task has used up without those at a worker, which is in its `failed_by`."""
    return 0 if task.failed_by == (worker,) else max(0, task.attempt - 1)


def failure_mark(worker: str) -> str:
    """Return how a failure at a worker is kept in a text: its machine and its name, each between bars."""
    return f"|{machine_of(worker)}|{worker}|"


def failed_workers(marks: str) -> tuple[str, ...]:
    """Return the workers of a text of such marks.

    Examples
    --------
    >>> failed_workers(failure_mark("gpu1:17:ab-1") + failure_mark("gpu2:9"))
    ('gpu1:17:ab-1', 'gpu2:9')
    """
    return tuple(mark.rpartition("|")[2] for mark in marks.strip("|").split("||")) if marks else ()


def stale(task: TaskRecord) -> str:
    """Return the message of :class:`~rollforge.errors.LeaseLost`."""
    return f"Task {task.id} is no longer held by {task.worker}: its claim {task.token} is stale."


def damaged_result(task: TaskRecord, exc: UntrustedPickle | ArtifactUnreadable) -> UntrustedPickle | ArtifactUnreadable:
    """Return the error of a result that cannot be read: whose it is, why, and what to do."""
    return type(exc)(
        f"The result of task {task.id} in pool {task.pool!r} cannot be read: {str(exc).rstrip('.')}. To run it again, "
        "give it the status waiting: 'rollforge pool reset-status', or TaskManager.reset_status."
    )


def ending_of(call: str, status: Status | None = None) -> str:
    """Return how a call that ends a claim is kept, so that the same call is known when it is repeated."""
    return call if status is None else f"{call} as {status.value}"


def expired(worker: str | None) -> str:
    """Return the error of a task whose lease ran out."""
    return f"The lease of worker {worker} ran out: it was killed, or hung, or could not reach the store."


def because_of(task_id: str) -> str:
    """Return the error of a task that depends on one that failed."""
    return f"It depends on task {task_id}, which failed."


def refuse_cycles(ids: set[str], wanted: Iterable[str], dependencies_of: Callable[[list[str]], Iterable[str]]) -> None:
    """Do nothing, unless tasks of `ids` that wait for `wanted` would wait for themselves.

    Parameters
    ----------
    ids : set of str
        The tasks.
    wanted : iterable of str
        What they wait for.
    dependencies_of : callable
        What some tasks wait for, directly.

    Raises
    ------
    ConfigError
        Then.
    """
    frontier = list(wanted)
    seen = set(frontier)
    while frontier:
        frontier = [n for n in dependencies_of(frontier) if n not in seen]
        seen.update(frontier)
    if seen & ids:
        raise ConfigError(f"Task {min(seen & ids)} would wait for itself.", path="depends_on")


# scheme -> (module, class, extra); a driver is imported only when its URI is used
_DRIVERS = {
    "memory": ("rollforge.store.memory", "MemoryStore", ""),
    "sqlite": ("rollforge.store.sqlite", "SQLiteStore", ""),
    "postgresql": ("rollforge.store.postgres", "PostgresStore", "postgres"),
    "postgres": ("rollforge.store.postgres", "PostgresStore", "postgres"),
    "mongodb": ("rollforge.store.mongo", "MongoStore", "mongodb"),
    "mongodb+srv": ("rollforge.store.mongo", "MongoStore", "mongodb"),
}
_EXAMPLES = "sqlite:///PATH, postgresql://HOST/DATABASE, mongodb://HOST/DATABASE or memory://NAME"
_open: dict[str, TaskStore] = {}


def open_store(uri: str, *, clock: Clock | None = None) -> TaskStore:
    """Return the store at a URI; the same one for the same URI in one process (unless a clock of its own is given).

    Parameters
    ----------
    uri : str
        ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://user:password@host:port/database`` (or
        ``host=… dbname=… user=…``), ``mongodb://user:password@host:port/database`` or ``memory://NAME``.
    clock : callable, optional
        Seconds since the epoch; by default the store's own clock.

    Raises
    ------
    ConfigError
        For an unknown scheme.
    MissingDependency
        When the driver is not installed, with the command that installs it.
    StoreUnavailable
        When the store cannot be opened.
    """
    if clock is None and uri in _open:
        return _open[uri]
    scheme, separator, _ = uri.partition("://")
    if re.match(r"\s*(host|hostaddr|port|dbname|user|service)\s*=", uri):  # libpq's other form
        scheme, separator = "postgresql", "://"
    if not separator or scheme not in _DRIVERS:
        raise ConfigError(
            f"{mask_secrets(uri)!r} names no task store.{nearest(scheme, _DRIVERS)} Write {_EXAMPLES}.", path="store"
        )
    module, name, extra = _DRIVERS[scheme]
    try:
        driver = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if not extra or (exc.name or "").startswith("rollforge"):
            raise
        raise MissingDependency(
            f"A task store at {scheme}:// needs the package {exc.name}: pip install 'rollforge[{extra}]'"
        ) from exc
    store = cast(TaskStore, getattr(driver, name)(uri, clock=clock))
    if clock is None:
        _open[uri] = store
    return store


def wall_clock(clock: Clock | None) -> Clock:
    """Return the clock of a store that has none of its own: that of this machine."""
    return clock or time.time
