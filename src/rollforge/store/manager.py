"""The task manager: a pool of the store, under the method names that Qlib's documentation gives.

Tasks come and go as dicts in Qlib's form: ``{"_id", "def", "filter", "status", "res", "priority", …}``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rollforge import trust
from rollforge.errors import ConfigError, LeaseLost, StoreUnavailable, TaskNotFound, counted
from rollforge.machine import process_name
from rollforge.session import Session, current_session
from rollforge.store.base import PauseNotice, TaskStore, open_store
from rollforge.task import Cause, Status, TaskRecord, digest, encode

__all__ = ["Lease", "TaskManager"]

log = logging.getLogger(__name__)
Document = dict[str, Any]
Ids = list[str]  # the class below has a method called list


class Lease:
    """Keeps a claim alive: a ``with`` block during which a thread renews it.

    Raises
    ------
    LeaseLost
        At the end of the block, when the lease was lost meanwhile.
    """

    def __init__(self, store: TaskStore, task: TaskRecord, seconds: float) -> None:
        self._store = store
        self._task = task
        self._seconds = seconds
        self._done = threading.Event()
        self._lost: LeaseLost | None = None
        self._thread = threading.Thread(target=self._renew, name=f"lease-{task.id[:8]}", daemon=True)

    def _renew(self) -> None:
        while not self._done.wait(self._seconds / 3):
            try:
                self._store.renew(self._task, self._seconds)
            except LeaseLost as exc:
                self._lost = exc
                return
            except StoreUnavailable as exc:  # it may come back before the lease runs out
                log.warning("the lease of task %s could not be renewed: %s", self._task.id, exc)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._lost is not None and kind is None:
            raise self._lost


class InsertedId(str):
    """The id of a task that was inserted. Qlib's methods return PyMongo's result, from which scripts take the id.

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
        """True: the store has the task."""
        return True


class _on_class_too:  # noqa: N801 - a decorator
    """Lets a method without arguments be called on the class, as Qlib's scripts do, with a manager of no pool."""

    def __init__(self, method: Callable[[Any], Any]) -> None:
        self.__doc__ = method.__doc__
        self._method = method

    def __get__(self, instance: Any, owner: type) -> Callable[[], Any]:
        return lambda: self._method(owner() if instance is None else instance)


class TaskManager:
    """One pool of tasks.

    A task that is fetched is leased to this process for `lease` seconds, renewed only by :class:`Lease` (which
    :func:`~rollforge.run.worker.run_task` uses): when the process dies, the task can be fetched again after that time.

    Parameters
    ----------
    task_pool : str, optional
        Name of the pool; needed by everything but :meth:`list`.
    store : TaskStore, optional
        By default the session's.
    session : Session, optional
        By default the current one.
    lease : float
        Seconds that a fetched task stays with whoever fetched it.

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

    def __init__(
        self,
        task_pool: str | None = None,
        *,
        store: TaskStore | None = None,
        session: Session | None = None,
        lease: float = 3600.0,
    ) -> None:
        self.task_pool = task_pool
        self.store = store if store is not None else open_store((session or current_session()).store_uri)
        self.lease = lease

    @property
    def _pool(self) -> str:
        if not self.task_pool:
            raise ConfigError("This TaskManager has no pool. Name one: TaskManager('POOL').")
        return self.task_pool

    def __str__(self) -> str:
        return f"TaskManager({self.task_pool})"

    @_on_class_too
    def list(self) -> Ids:
        """Return the names of the pools in the store; ``TaskManager.list()`` asks the current session's."""
        return self.store.pools()

    # -- putting in ----------------------------------------------------------------------------------------------------

    def insert_task(self, task: Mapping[str, Any]) -> InsertedId:
        """Store a task in Qlib's form and return its id; a known one stays as it is.

        Parameters
        ----------
        task : mapping
            ``{"def": …}``, and where it has them ``status``, ``res``, ``priority``, ``depends_on`` and ``model_name``.
        """
        definition, status = task["def"], Status(task.get("status", Status.WAITING))
        dependencies = self._known_dependencies(task.get("depends_on", ()))
        if status is Status.WAITING and task.get("res") is None:
            made = self.store.create(
                self._pool, [definition], priority=task.get("priority") or 0, depends_on=dependencies,
                model_names=[task.get("model_name") or ""],
            )  # fmt: skip
            return InsertedId(made[0].id)
        record = TaskRecord(
            id=digest(definition), pool=self._pool, definition=definition, status=status, result=task.get("res"),
            priority=task.get("priority") or 0, created_at=time.time(), depends_on=dependencies,
            stage_from=Status.PART_DONE if status is Status.PART_DONE else Status.WAITING,
            model_name=task.get("model_name") or "",
        )  # fmt: skip
        self.store.put(self._pool, [record])
        return InsertedId(record.id)

    def _known_dependencies(self, depends_on: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
        """Ids, as they are or of the tasks that a query finds."""
        if isinstance(depends_on, Mapping):
            found = tuple(t.id for t in self.store.query(self._pool, depends_on, results=False))
            if not found:
                raise TaskNotFound(f"depends_on: no task of pool {self._pool!r} matches {dict(depends_on)!r}.")
            return found
        return tuple(str(i) for i in ([depends_on] if isinstance(depends_on, str) else depends_on))

    def insert_task_def(self, task_def: Mapping[str, Any]) -> InsertedId:
        """Store a definition and return its id; a known one stays as it is."""
        created = self.store.create(self._pool, [task_def])[0]
        trust.vouch([created.id])
        return InsertedId(created.id)

    def create_task(
        self,
        task_def_l: Sequence[Mapping[str, Any]],
        dry_run: bool = False,
        print_nt: bool = False,
        *,
        depends_on: Mapping[str, Any] | Sequence[str] = (),
        priority: int = 0,
        max_attempts: int = 3,
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> Ids:
        """Store definitions and return their ids, in the same order; those that the pool knows keep all but their name.

        Parameters
        ----------
        task_def_l : sequence of dict
            Definitions.
        dry_run : bool
            True stores nothing: the ids are those that the tasks have, or would get.
        print_nt : bool
            True prints the new ones, in a dry run those that would be.
        depends_on : mapping or sequence of str
            Tasks of this pool that must be done before the new ones are begun: ids, or a query for those there are now.
        priority : int
            Of the new ones; higher comes first.
        max_attempts : int
            How often each stage of the new ones may be begun.
        model_names : sequence of str
            What the model of each is called wherever tasks are shown. A name is no part of a task: giving a known task
            another one changes that alone. Empty names, or none at all, change nothing.
        submission : str
            Key of what was used to plan them, from :meth:`TaskStore.keep_submission
            <rollforge.store.base.TaskStore.keep_submission>`; also given to known tasks that are not done.
        batch : str
            Name of the batch that all of them belong to from now on, see :func:`~rollforge.store.base.batch_of`.
        creation : str
            Identity of this creation. When the answer to it was lost, the same call under the same identity logs and prints
            what it stored the first time as new.

        Raises
        ------
        TaskNotSerializable
            When one is not plain data; then nothing is stored.
        TaskNotFound
            When there is nothing that `depends_on` names.
        ConfigError
            When tasks would wait for each other.
        """
        dependencies = self._known_dependencies(depends_on)
        if dry_run:
            for definition in task_def_l:
                encode(definition)
            ids = [digest(d) for d in task_def_l]
            known = {r.id for r in self.store.query(self._pool, {"_id": {"$in": sorted(set(ids))}}, results=False)}
            self._report({i: d for i, d in zip(ids, task_def_l, strict=True) if i not in known}, len(ids), print_nt)
            return ids
        created = self.store.create(
            self._pool, task_def_l, priority=priority, max_attempts=max_attempts, depends_on=dependencies,
            model_names=model_names, submission=submission, batch=batch, creation=creation,
        )  # fmt: skip
        trust.vouch(c.id for c in created)
        new = {c.id: definition for c, definition in zip(created, task_def_l, strict=True) if c.new}
        self._report(new, len(created), print_nt)
        return [c.id for c in created]

    def _report(self, new: Mapping[str, Mapping[str, Any]], count: int, printed: bool) -> None:
        log.info("%s: %d new tasks, %d known", self, len(new), count - len(new))
        if printed:
            for task_id, definition in new.items():
                print(f"new task {task_id}: {dict(definition)}")  # noqa: T201 - what `print_nt` asks for

    def replace_task(self, task: Mapping[str, Any], new_task: Mapping[str, Any]) -> str:
        """Put `new_task` (``{"def": …}``) in the place of `task` and return its id."""
        made = self.store.replace(self._pool, str(task["_id"]), new_task["def"])
        trust.vouch([made])
        return made

    # -- working -------------------------------------------------------------------------------------------------------

    def fetch_task(
        self, query: Mapping[str, Any] | None = None, status: Status | str = STATUS_WAITING
    ) -> Document | None:
        """Take a task, now ``running``, or None when none matches: highest priority first, then oldest."""
        claimed = self.store.claim(
            self._pool, worker=process_name(), lease=self.lease, status=Status(status), query=query
        )
        return _document(claimed[0]) if claimed else None

    @contextlib.contextmanager
    def safe_fetch_task(
        self, query: Mapping[str, Any] | None = None, status: Status | str = STATUS_WAITING
    ) -> Iterator[Document | None]:
        """Take a task for a ``with`` block; an exception in it (Ctrl-C too) gives the task back."""
        task = self.fetch_task(query, status)
        try:
            yield task
        except BaseException:
            if task is not None:
                with contextlib.suppress(LeaseLost):  # it was committed or taken over: not ours to give back
                    self.return_task(task, status)
            raise

    def task_fetcher_iter(self, query: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """Yield waiting tasks until there are none; breaking out by an exception gives the current one back."""
        while True:
            with self.safe_fetch_task(query) as task:
                if task is None:
                    return
                yield task

    def commit_task_res(self, task: Mapping[str, Any], res: Any, status: Status | str | None = None) -> None:
        """Keep the result of a fetched task, which becomes ``done`` or `status`.

        Raises
        ------
        LeaseLost
            When the task is no longer this process's; the result is refused.
        """
        self.store.commit(_claim(task, self._pool), res, Status(status) if status else Status.DONE)

    def return_task(self, task: Mapping[str, Any], status: Status | str | None = None) -> None:
        """Give a fetched task back: to the status it was fetched from, or to `status`."""
        self.store.give_back(_claim(task, self._pool), Status(status) if status else None)

    # -- looking -------------------------------------------------------------------------------------------------------

    def query(self, query: Mapping[str, Any] | None = None, decode: bool = True) -> Iterator[Document]:
        """Yield the tasks that match, in Qlib's form; ``decode=False`` leaves their results unread."""
        for record in self.store.query(self._pool, query, results=decode):
            yield _document(record)

    def re_query(self, _id: str) -> Document:
        """Return the task of an id as it is now."""
        return _document(self.store.get(self._pool, str(_id)))

    def task_stat(self, query: Mapping[str, Any] | None = None, *, batch: str = "") -> dict[Status, int]:
        """Return how many tasks there are by status; with `batch` only those of that batch."""
        return self.store.count(self._pool, query, batch=batch)

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, query: Mapping[str, Any] | None = None) -> int:
        """Delete the tasks that match and return how many."""
        return self.store.remove(self._pool, query)

    def reset_waiting(self, query: Mapping[str, Any] | None = None) -> int:
        """Put the running tasks that match back to waiting; what their workers commit is refused."""
        running = {"$and": [dict(query or {}), {"status": Status.RUNNING.value}]}
        return self.store.set_status(self._pool, running, Status.WAITING)

    def reset_status(self, query: Mapping[str, Any], status: Status | str) -> int:
        """Give the tasks that match another status."""
        try:
            wanted = Status(status)
        except ValueError:
            raise ConfigError(f"{status!r} is no status. There are: {', '.join(Status)}.") from None
        return self.store.set_status(self._pool, query, wanted)

    def prioritize(self, task: Mapping[str, Any], priority: int) -> None:
        """Give a task another priority: higher comes first."""
        self.store.prioritize(self._pool, {"_id": str(task["_id"])}, priority)

    def retry(self, query: Mapping[str, Any] | None = None) -> int:
        """Put the failed tasks that match back to waiting, with all their attempts; return how many."""
        return self.store.retry(self._pool, query)

    def cancel(self, query: Mapping[str, Any] | None = None) -> int:
        """Let the tasks that match and have not ended fail as ``cancelled``; what their workers commit is refused."""
        return self.store.cancel(self._pool, query)

    def pause(self) -> None:
        """Let nothing be fetched from the pool until :meth:`resume`; what runs goes on."""
        self.store.pause(self._pool)

    def resume(self) -> None:
        """Let tasks be fetched again."""
        self.store.pause(self._pool, False)

    def wait(
        self,
        query: Mapping[str, Any] | None = None,
        on_change: Callable[[dict[Status, int]], None] | None = None,
        poll: float = 1.0,
        settled: Callable[[Mapping[Status, int]], bool] | None = None,
        warn: bool = True,
        batch: str = "",
    ) -> dict[Status, int]:
        """Wait until no task that matches is waiting or running, and return the counts.

        Failed tasks end the waiting like done ones, and so do tasks that every worker so far gave back because it lacks what
        they need (their cause is ``unfit``); a running task whose worker is gone counts as running until its lease
        runs out.

        Parameters
        ----------
        query : mapping, optional
            Which tasks.
        on_change : callable, optional
            Told the counts whenever they change.
        poll : float
            Seconds after which to look in any case; a change in the pool ends the nap at once.
        settled : callable, optional
            Another answer to when waiting ends: by default when nothing is waiting or running.
        warn : bool
            Whether to log a warning when tasks failed.
        batch : str
            Only tasks of this batch; empty means all of the pool.
        """
        last: dict[Status, int] | None = None
        pause = PauseNotice(self.store, self._pool)
        while True:
            self.store.expire(self._pool)  # nobody may be left to claim what a dead worker held
            counts = self.task_stat(query, batch=batch)
            if counts != last:
                last = counts
                if on_change is not None:
                    on_change(counts)
            over = settled(counts) if settled else not (counts.get(Status.WAITING) or counts.get(Status.RUNNING))
            if over or self._only_unfit(query, batch, counts):
                failed = counts.get(Status.FAILED, 0)
                if failed and warn:
                    log.warning("%s: %s failed", self, counted(failed, "task"))
                return counts
            pause.look()
            self.store.wait_for_change(self._pool, poll)

    def _only_unfit(self, query: Mapping[str, Any] | None, batch: str, counts: Mapping[Status, int]) -> bool:
        """Whether all that could still be run was given back by workers that lack what it needs."""
        if counts.get(Status.RUNNING):
            return False
        others = {"$and": [dict(query or {}), {"cause": {"$ne": Cause.UNFIT.value}}]}
        if self.store.has_free(self._pool, Status.WAITING, others, batch=batch):
            return False
        waiting = {"$and": [dict(query or {}), {"status": Status.WAITING.value, "cause": Cause.UNFIT.value}]}
        unfit = self.store.count(self._pool, waiting, batch=batch).get(Status.WAITING, 0)
        if not unfit:
            return False
        log.warning(
            "%s: %d task%s for a worker that can run %s", self, unfit,
            *(("s wait", "them") if unfit > 1 else (" waits", "it")),
        )  # fmt: skip
        return True


def _document(record: TaskRecord) -> Document:
    definition = dict(record.definition)
    return {
        "_id": record.id, "def": definition, "filter": definition, "model_name": record.model_name,
        "status": record.status, "res": record.result,
        "priority": record.priority, "attempt": record.attempt, "error": record.error, "cause": record.cause,
        "log": record.log, "worker": record.worker, "depends_on": list(record.depends_on), "token": record.token,
        "stage_from": record.stage_from, "failed_by": list(record.failed_by), "submission": record.submission,
    }  # fmt: skip


def _claim(task: Mapping[str, Any], pool: str) -> TaskRecord:
    return TaskRecord(
        id=str(task["_id"]), pool=pool, definition=task["def"], token=task.get("token", 0), worker=task.get("worker"),
        stage_from=Status(task.get("stage_from", Status.WAITING)),
    )  # fmt: skip


if __name__ == "__main__":  # python -m rollforge.store.manager -t POOL …, the way Qlib's manage module is called
    import pkgutil

    from rollforge.qlib_names import PROGRAMS

    pkgutil.resolve_name(PROGRAMS["qlib.workflow.task.manage"])()
