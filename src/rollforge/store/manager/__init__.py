"""The task manager: access to one pool of a task store through the methods of Qlib's ``TaskManager``.

Tasks are passed and returned as dicts in Qlib's form: ``{"_id", "def", "filter", "status", "res", "priority", …}``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Generic, TypeVar

from rollforge import trust
from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, LeaseLost, TaskNotFound, counted, shown
from rollforge.machine import process_name
from rollforge.markup import Markup
from rollforge.moved import Alias
from rollforge.notebook import html_repr, summary, table
from rollforge.session import Session, current_session
from rollforge.store.base import PauseNotice, TaskStore, open_store
from rollforge.store.renewal import Renewal
from rollforge.task import Attempt, Cause, Status, TaskRecord, digest, encode

__all__ = ["Lease", "TaskManager"]

log = logging.getLogger(__name__)
Document = dict[str, Any]
Answer = TypeVar("Answer")
Ids = list[str]  # the class below has a method called list


class Lease:
    """Context manager that renews the lease of a claimed task in a background thread.

    Raises
    ------
    LeaseLost
        At the end of the block, if the lease was lost in the meantime.
    """

    def __init__(self, store: TaskStore, task: TaskRecord, seconds: float) -> None:
        self._renewal = Renewal(lambda: store.renew(task, seconds), seconds / 3, f"the lease of task {task.id}")

    def __enter__(self) -> Lease:
        self._renewal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.__exit__(kind, value, trace)
        if self._renewal.lost is not None and kind is None:
            raise self._renewal.lost


class InsertedId(str):
    """The id of an inserted task, with the attributes of the PyMongo result that Qlib's methods return.

    Examples
    --------
    >>> InsertedId("3f").inserted_id
    '3f'
    """

    __slots__ = ()

    @property
    def inserted_id(self) -> str:
        """The id as a plain string."""
        return str(self)

    @property
    def acknowledged(self) -> bool:
        """Always True: the task is stored."""
        return True


class _on_class_too(Generic[Answer]):  # noqa: N801 - a decorator
    """Makes a method without arguments callable on the class too, as in Qlib's scripts; it needs no pool there."""

    def __init__(self, method: Callable[[Any], Answer]) -> None:
        self.__doc__ = method.__doc__
        self._method = method

    def __get__(self, instance: object, owner: type) -> Callable[[], Answer]:
        return lambda: self._method(owner() if instance is None else instance)


class TaskManager:
    """One pool of tasks.

    A fetched task is leased to this process for `lease` seconds. Only :class:`Lease` renews the lease. If the process
    dies, the task can be fetched again when its lease has expired.

    Parameters
    ----------
    task_pool : str, optional
        Name of the pool. Only :meth:`list` works without it.
    store : TaskStore or str, optional
        The task store, or its URI; by default the session's.
    session : Session, optional
        By default the current one.
    lease : float
        Duration of the lease of a fetched task in seconds.

    Examples
    --------
    >>> from rollforge.store.memory import MemoryStore
    >>> manager = TaskManager("doc", store=MemoryStore())
    >>> ids = manager.create_task([{"model": "a"}, {"model": "b"}, {"model": "a"}])
    >>> ids[0] == ids[2], manager.task_stat()
    (True, {<Status.WAITING: 'waiting'>: 2})
    >>> with manager.safe_fetch_task() as task:
    ...     manager.commit_task_res(task, {"ic": 0.05})
    >>> manager.re_query(task["_id"])["res"]
    {'ic': 0.05}
    """

    STATUS_WAITING = Status.WAITING
    STATUS_RUNNING = Status.RUNNING
    STATUS_DONE = Status.DONE
    STATUS_PART_DONE = Status.PART_DONE
    STATUS_FAILED = Status.FAILED
    task_pool = Alias("pool")

    def __init__(
        self,
        task_pool: str | None = None,
        *,
        store: TaskStore | str | None = None,
        session: Session | None = None,
        lease: float = 3600.0,
    ) -> None:
        self._named = task_pool
        store = (session or current_session()).store_uri if store is None else store
        self.store = open_store(store) if isinstance(store, str) else store
        self.lease = lease

    @property
    def pool(self) -> str:
        """Name of the pool. Raises ConfigError if the manager has none."""
        if not self._named:
            raise ConfigError("This TaskManager has no pool. Name one: TaskManager('POOL').")
        return self._named

    def __str__(self) -> str:
        return f"TaskManager({self._named})"

    @html_repr
    def _repr_html_(self) -> Markup:
        counts: dict[str, object]
        if self._named:
            counts = {status.value: count for status, count in self.task_stat().items()} or {"tasks": 0}
            rows = None
        else:
            pools = [(name, self.store.count(name)) for name in self.store.pools()]
            counts = {"pools": len(pools)}
            rows = table(
                ["pool", *(s.value for s in Status)], [[name, *(n.get(s, 0) for s in Status)] for name, n in pools]
            )
        return summary(str(self), {**counts, "store": mask_secrets(self.store.uri)}, rows)

    @_on_class_too
    def list(self) -> Ids:
        """Return the names of the pools in the store; ``TaskManager.list()`` uses the current session's store."""
        return self.store.pools()

    # -- creating ------------------------------------------------------------------------------------------------------

    def insert_task(self, task: Mapping[str, Any]) -> InsertedId:
        """Store a task in Qlib's form and return its id. An existing task is not changed.

        Parameters
        ----------
        task : mapping
            ``{"def": …}``, optionally with ``status``, ``res``, ``priority``, ``depends_on`` and ``model_name``.

        Raises
        ------
        ConfigError
            If it has no definition, or a status that does not exist.
        """
        definition, status = _definition_in(task), _status(task.get("status", Status.WAITING), *Status)
        dependencies = self._known_dependencies(task.get("depends_on", ()))
        if status is Status.WAITING and task.get("res") is None:
            made = self.store.create(
                self.pool, [definition], priority=task.get("priority") or 0, depends_on=dependencies,
                model_names=[task.get("model_name") or ""],
            )  # fmt: skip
            return InsertedId(made[0].id)
        record = TaskRecord(
            id=digest(definition), pool=self.pool, definition=definition, status=status, result=task.get("res"),
            priority=task.get("priority") or 0, created_at=time.time(), depends_on=dependencies,
            stage_from=Status.PART_DONE if status is Status.PART_DONE else Status.WAITING,
            model_name=task.get("model_name") or "",
        )  # fmt: skip
        self.store.put(self.pool, [record])
        return InsertedId(record.id)

    def _known_dependencies(self, depends_on: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
        """Return the given ids, or those of the tasks that match a query."""
        if isinstance(depends_on, Mapping):
            found = tuple(t.id for t in self.store.query(self.pool, depends_on, results=False))
            if not found:
                raise TaskNotFound(f"depends_on: no task of pool {self.pool!r} matches {dict(depends_on)!r}.")
            return found
        return tuple(str(i) for i in ([depends_on] if isinstance(depends_on, str) else depends_on))

    def insert_task_def(self, task_def: Mapping[str, object]) -> InsertedId:
        """Store a definition and return its id. An existing task is not changed."""
        created = self.store.create(self.pool, [_definition(task_def)])[0]
        trust.mark_as_own([created.id])
        return InsertedId(created.id)

    def create_task(
        self,
        task_def_l: Sequence[Mapping[str, object]] | Mapping[str, object],
        dry_run: bool = False,
        print_nt: bool = False,
        *,
        depends_on: Mapping[str, object] | Sequence[str] = (),
        priority: int = 0,
        max_attempts: int = 3,
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> Ids:
        """Store task definitions and return their ids in the same order.

        Of tasks that already exist in the pool only the model name, the submission and the batches change.

        Parameters
        ----------
        task_def_l : sequence of dict, or dict
            Task definitions, or a single one.
        dry_run : bool
            If True, nothing is stored. The ids returned are those that the tasks have or would get.
        print_nt : bool
            If True, print the new tasks, or in a dry run those that would be new.
        depends_on : mapping or sequence of str
            Tasks of this pool that must be done before the new tasks can start: their ids, or a query that is evaluated
            now.
        priority : int
            Priority of the new tasks; higher comes first.
        max_attempts : int
            Maximum number of attempts of each stage of the new tasks.
        model_names : sequence of str
            Model name of each task, for display. A name is not part of a task: a new name for an existing task changes
            only the name. Empty names, or no names, change nothing.
        submission : str
            Key of the information about the submission, from :meth:`TaskStore.keep_submission
            <rollforge.store.base.TaskStore.keep_submission>`; also stored with existing tasks that are not done.
        batch : str
            Name of the batch to which all these tasks are added, see :func:`~rollforge.store.base.batch_of`.
        creation : str
            Unique identity of this call. If the call is repeated with the same identity because its answer was lost,
            the tasks stored by the first call are logged and printed as new.

        Raises
        ------
        TaskNotSerializable
            If a definition is not plain data; nothing is stored.
        TaskNotFound
            If no task has an id in `depends_on`, or no task matches it.
        ConfigError
            If a definition is not a mapping, or tasks would depend on each other in a cycle.
        """
        task_def_l = _definitions(task_def_l)
        dependencies = self._known_dependencies(depends_on)
        if dry_run:
            for definition in task_def_l:
                encode(definition)
            ids = [digest(d) for d in task_def_l]
            known = {r.id for r in self.store.query(self.pool, {"_id": {"$in": sorted(set(ids))}}, results=False)}
            self._report({i: d for i, d in zip(ids, task_def_l, strict=True) if i not in known}, len(ids), print_nt)
            return ids
        created = self.store.create(
            self.pool, task_def_l, priority=priority, max_attempts=max_attempts, depends_on=dependencies,
            model_names=model_names, submission=submission, batch=batch, creation=creation,
        )  # fmt: skip
        trust.mark_as_own(c.id for c in created)
        new = {c.id: definition for c, definition in zip(created, task_def_l, strict=True) if c.new}
        self._report(new, len(created), print_nt)
        return [c.id for c in created]

    def _report(self, new: Mapping[str, Mapping[str, object]], count: int, printed: bool) -> None:
        log.info("%s: %d new tasks, %d known", self, len(new), count - len(new))
        if printed:
            for task_id, definition in new.items():
                print(f"new task {task_id}: {dict(definition)}")  # noqa: T201 - what `print_nt` asks for

    def replace_task(self, task: Mapping[str, object], new_task: Mapping[str, Any]) -> str:
        """Replace `task` by `new_task` (``{"def": …}``) and return the new id."""
        made = self.store.replace(self.pool, str(task["_id"]), _definition_in(new_task))
        trust.mark_as_own([made])
        return made

    # -- working -------------------------------------------------------------------------------------------------------

    def fetch_task(
        self, query: Mapping[str, object] | None = None, status: Status | str = STATUS_WAITING
    ) -> Document | None:
        """Claim a task and return it, now ``running``, or None if none matches: highest priority first, then oldest."""
        claimed = self.store.claim(
            self.pool, worker=process_name(), lease=self.lease, status=Status(status), query=query
        )
        return _document(claimed[0]) if claimed else None

    @contextlib.contextmanager
    def safe_fetch_task(
        self, query: Mapping[str, object] | None = None, status: Status | str = STATUS_WAITING
    ) -> Iterator[Document | None]:
        """Claim a task for a ``with`` block. An exception in the block, including Ctrl-C, gives the task back."""
        task = self.fetch_task(query, status)
        try:
            yield task
        except BaseException:
            if task is not None:
                with contextlib.suppress(LeaseLost):  # committed or taken over: nothing to give back
                    self.return_task(task, status)
            raise

    def task_fetcher_iter(self, query: Mapping[str, object] | None = None) -> Iterator[Document]:
        """Yield waiting tasks until there are none. An exception gives the current task back."""
        while True:
            with self.safe_fetch_task(query) as task:
                if task is None:
                    return
                yield task

    def commit_task_res(self, task: Mapping[str, object], res: object, status: Status | str | None = None) -> None:
        """Store the result of a fetched task, which becomes ``done`` or `status`.

        Raises
        ------
        LeaseLost
            If this process no longer holds the task; the result is discarded.
        ConfigError
            If `status` is neither ``done`` nor ``part_done``: a task with a result has no other.
        """
        wanted = _status(status or Status.DONE, Status.DONE, Status.PART_DONE)
        self.store.commit(_claim(task, self.pool), res, wanted)

    def return_task(self, task: Mapping[str, object], status: Status | str | None = None) -> None:
        """Give a fetched task back: to the status it was fetched from, or to `status`.

        Raises
        ------
        LeaseLost
            If this process no longer holds the task.
        ConfigError
            If `status` is ``running``: nobody would hold the task, and it could never be fetched again.
        """
        wanted = _status(status, *(s for s in Status if s is not Status.RUNNING)) if status else None
        self.store.give_back(_claim(task, self.pool), wanted)

    # -- reading -------------------------------------------------------------------------------------------------------

    def query(self, query: Mapping[str, object] | None = None, decode: bool = True) -> Iterator[Document]:
        """Yield the tasks that match, in Qlib's form. With ``decode=False`` their results are not read."""
        for record in self.store.query(self.pool, query, results=decode):
            yield _document(record, whole=decode)

    def re_query(self, _id: str) -> Document:
        """Return the current state of the task with an id."""
        return _document(self.store.get(self.pool, str(_id)), whole=True)

    def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """Return how the attempts at the task with an id ended, oldest first.

        The latest :data:`~rollforge.task.KEPT_ATTEMPTS` are kept, including those that were not counted because the task was
        returned, and a successful one.

        Raises
        ------
        TaskNotFound
            If there is no such task.

        Examples
        --------
        >>> from rollforge.store.memory import MemoryStore
        >>> manager = TaskManager("doc", store=MemoryStore())
        >>> (task_id,) = manager.create_task([{"model": "a"}])
        >>> with manager.safe_fetch_task() as task:
        ...     manager.return_task(task)
        >>> [(attempt.number, attempt.ending.value) for attempt in manager.attempts(task_id)]
        [(1, 'returned')]
        """
        return self.store.get(self.pool, str(task_id)).ended_attempts

    def task_stat(self, query: Mapping[str, object] | None = None, *, batch: str = "") -> dict[Status, int]:
        """Return the number of tasks by status; if `batch` is given, only those of that batch."""
        return self.store.count(self.pool, query, batch=batch)

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, query: Mapping[str, object] | None = None) -> int:
        """Delete the tasks that match and return how many."""
        return self.store.remove(self.pool, query)

    def reset_waiting(self, query: Mapping[str, object] | None = None) -> int:
        """Reset the running tasks that match to waiting and return how many. Results of their workers are refused."""
        running = {"$and": [dict(query or {}), {"status": Status.RUNNING.value}]}
        return self.store.set_status(self.pool, running, Status.WAITING)

    def reset_status(self, query: Mapping[str, object], status: Status | str) -> int:
        """Change the status of the tasks that match and return how many."""
        return self.store.set_status(self.pool, query, _status(status, *Status))

    def prioritize(self, task: Mapping[str, object], priority: int) -> None:
        """Change the priority of a task; higher comes first."""
        self.store.prioritize(self.pool, {"_id": str(task["_id"])}, priority)

    def retry(self, query: Mapping[str, object] | None = None) -> int:
        """Reset the failed tasks that match to waiting, with no attempts used, and return how many."""
        return self.store.retry(self.pool, query)

    def cancel(self, query: Mapping[str, object] | None = None) -> int:
        """Fail the unfinished tasks that match with the cause ``cancelled``. Results of their workers are refused."""
        return self.store.cancel(self.pool, query)

    def pause(self) -> None:
        """Stop tasks from being fetched until :meth:`resume` is called. Running tasks continue."""
        self.store.pause(self.pool)

    def resume(self) -> None:
        """Allow tasks to be fetched again after :meth:`pause`."""
        self.store.pause(self.pool, False)

    def wait(
        self,
        query: Mapping[str, object] | None = None,
        on_change: Callable[[dict[Status, int]], None] | None = None,
        poll: float = 1.0,
        settled: Callable[[Mapping[Status, int]], bool] | None = None,
        warn: bool = True,
        batch: str = "",
    ) -> dict[Status, int]:
        """Wait until no task that matches is waiting or running, and return the counts.

        Failed tasks count as finished. So do waiting tasks that were given back by workers that lack what they need
        (with the cause ``unfit``), if no other task can be run. A running task whose worker is dead counts as running
        until its lease expires.

        Parameters
        ----------
        query : mapping, optional
            Only tasks that match.
        on_change : callable, optional
            Called with the counts whenever they change.
        poll : float
            Maximum number of seconds between two checks; a change in the pool triggers a check at once.
        settled : callable, optional
            Receives the counts and returns whether to stop waiting. By default, waiting ends when no task is waiting or
            running.
        warn : bool
            Whether to log a warning if tasks failed.
        batch : str
            Only tasks of this batch; if empty, all tasks of the pool.
        """
        last: dict[Status, int] | None = None
        pause = PauseNotice(self.store, self.pool)
        while True:
            self.store.expire(self.pool)  # there may be no worker left whose claims would do this
            counts = self.task_stat(query, batch=batch)
            if counts != last:
                last = counts
                if on_change is not None:
                    on_change(counts)
            over = settled(counts) if settled else not (counts.get(Status.WAITING) or counts.get(Status.RUNNING))
            if over or self._none_can_run(query, batch, counts):
                failed = counts.get(Status.FAILED, 0)
                if failed and warn:
                    log.warning("%s: %s failed", self, counted(failed, "task"))
                return counts
            pause.check()
            self.store.wait_for_change(self.pool, poll)

    def _none_can_run(self, query: Mapping[str, object] | None, batch: str, counts: Mapping[Status, int]) -> bool:
        """Return whether all tasks that could still be run were given back by workers that lack what they need."""
        if counts.get(Status.RUNNING):
            return False
        others = {"$and": [dict(query or {}), {"cause": {"$ne": Cause.REQUIREMENTS_NOT_MET.value}}]}
        if self.store.has_free(self.pool, Status.WAITING, others, batch=batch):
            return False
        waiting = {
            "$and": [dict(query or {}), {"status": Status.WAITING.value, "cause": Cause.REQUIREMENTS_NOT_MET.value}]
        }
        left = self.store.count(self.pool, waiting, batch=batch).get(Status.WAITING, 0)
        if not left:
            return False
        log.warning(
            "%s: %d task%s for a worker that can run %s", self, left,
            *(("s wait", "them") if left > 1 else (" waits", "it")),
        )  # fmt: skip
        return True


def _document(record: TaskRecord, *, whole: bool = False) -> Document:
    """Return a task in Qlib's form; if it was not read whole, without its result and its attempts."""
    definition = dict(record.definition)
    return {
        "_id": record.id, "def": definition, "filter": definition, "model_name": record.model_name,
        "status": record.status, "res": record.result,
        "priority": record.priority, "attempt": record.attempt, "error": record.error, "cause": record.cause,
        "log": record.log, "worker": record.worker, "depends_on": list(record.depends_on), "token": record.token,
        "stage_from": record.stage_from, "failed_by": list(record.failed_by), "submission": record.submission,
        "attempts": [asdict(one) for one in record.ended_attempts] if whole else [],
    }  # fmt: skip


def _claim(task: Mapping[str, Any], pool: str) -> TaskRecord:
    return TaskRecord(
        id=str(task["_id"]), pool=pool, definition=task["def"], token=task.get("token", 0), worker=task.get("worker"),
        stage_from=Status(task.get("stage_from", Status.WAITING)),
    )  # fmt: skip


def _status(given: Status | str, *allowed: Status) -> Status:
    """Return a status.

    Raises
    ------
    ConfigError
        If it is not one of those allowed.
    """
    try:
        status = Status(given)
    except ValueError:
        raise ConfigError(f"{given!r} is not a status. Valid values: {', '.join(allowed)}.") from None
    if status not in allowed:
        raise ConfigError(f"the status cannot be {status.value!r} here. Valid values: {', '.join(allowed)}.")
    return status


def _definitions(given: object) -> list[Mapping[str, object]]:
    """Return task definitions: those in a sequence, or a single one."""
    if isinstance(given, Mapping):
        return [given]
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(f"Task definitions must be a list of dicts, found {shown(given)}.")
    return [_definition(one, f"Task {i}") for i, one in enumerate(given)]


def _definition(given: object, name: str = "A task definition") -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} must be a dict such as {{'model': …, 'dataset': …}}, found {shown(given)}.")
    return given


def _definition_in(task: object) -> Mapping[str, object]:
    """Return the definition of a task in Qlib's form."""
    if not isinstance(task, Mapping) or "def" not in task:
        raise ConfigError(f"A task must be a dict with its definition under 'def', found {shown(task)}.")
    return _definition(task["def"])
