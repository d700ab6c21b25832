"""A worker takes tasks from a pool and runs them: claim, keep the lease, execute, commit or give back.

One bad task never stops a worker: its exception goes onto the task, which is tried again or set aside as ``failed``.
:class:`Worker` runs tasks where it is, one at a time; :class:`WorkerPool` runs them in processes beside it, which it outlives
whatever happens to them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from rollforge.errors import (
    ConfigError,
    MissingCode,
    MissingDependency,
    RecorderElsewhere,
    StoreUnavailable,
    TrackingError,
    TrainingFailed,
)
from rollforge.machine import process_is_gone, process_name
from rollforge.run.fitness import Admission, own_data
from rollforge.run.job import (
    Event,
    Job,
    LogEvents,
    WorkerStopped,
    current_attempt,
    current_model,
    current_task,
    from_reference,
    ignore_event,
    is_of_task,
    is_own,
    to_reference,
)
from rollforge.run.leases import LEASE_SECONDS, PATIENCE_SECONDS, Leases
from rollforge.run.worker_pool import IDLE_SECONDS, WorkerPool, never
from rollforge.run.worker_process import Done, Failed, Unfit, Unreadable, WorkerProcess, failure
from rollforge.session import Session, current_session, using
from rollforge.store.base import TaskStore, open_store, trim_log
from rollforge.store.codec import decode_definition, decode_result
from rollforge.task import Cause, Status, TaskRecord
from rollforge.trust import Circle, within

__all__ = ["TaskLog", "Worker", "call_in_child", "release_dead_workers", "run_task"]

log = logging.getLogger(__name__)


def release_dead_workers(store: TaskStore, pool: str) -> list[TaskRecord]:
    """Take the tasks of this machine's workers that are no longer alive, without waiting for their leases to run out.

    After ``kill -9`` of a whole run only the next run can do so. Workers in other containers are left to their leases,
    also when those have the same host name.
    """
    released = []
    running = store.query(pool, {"status": Status.RUNNING.value}, results=False)
    for name in sorted({task.worker or "" for task in running}):
        if process_is_gone(name):
            released += store.release_worker(pool, name, f"The worker {name} is gone: it was killed.")
    return released


@dataclass(slots=True)
class Worker:
    """Runs the tasks of one job in this process, one at a time, until none is left to claim.

    Parameters
    ----------
    store : TaskStore
        Where the tasks are.
    job : Job
        Which of them. `force_release`, `timeout` and `memory` need worker processes, that is, a :class:`WorkerPool`.
    on_event : callable
        Told of each step.
    stop : callable
        Asked before each claim; True ends the worker.
    admission : Admission, optional
        Which submissions' tasks this machine can run, and where each is run; None: all, in the current session.
    patient : bool
        True gives workers that are not at work yet the time to try what failed here.

    Raises
    ------
    ConfigError
        When `job` has an option that needs worker processes.

    Examples
    --------
    >>> from rollforge.store.memory import MemoryStore
    >>> store = MemoryStore()
    >>> _ = store.create("p", [{"x": 1}, {"x": 2}])
    >>> Worker(store, Job("p", len)).run(), store.count("p")
    (2, {<Status.DONE: 'done'>: 2})
    """

    store: TaskStore
    job: Job
    on_event: Callable[[Event], None] = ignore_event
    stop: Callable[[], bool] = never
    name: str = field(default_factory=process_name)
    lease_seconds: float = LEASE_SECONDS
    patience: float = PATIENCE_SECONDS
    admission: Admission | None = None
    patient: bool = False

    def __post_init__(self) -> None:
        given = {
            "force_release": self.job.force_release or None,
            "timeout": self.job.timeout,
            "memory": self.job.memory,
        }
        if named := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"A Worker runs tasks in its own process and cannot apply {', '.join(named)}. "
                "Use a Crew, which runs them in worker processes."
            )

    def run(self) -> int:
        """Return how many tasks were run, when none is waiting any more (a task that backs off is waited for).

        Raises
        ------
        UnfitWorker
            When tasks are left that this machine cannot run.
        FailingWorker
            When tasks failed here, one after the other, that succeeded elsewhere.
        StoreUnavailable
            When the store stays away for longer than `patience`.
        """
        ran = 0
        task_log = TaskLog()
        leases = Leases(
            self.store, self.job, self.name, self.on_event, self.lease_seconds, self.patience,
            lambda task: task_log.text(), admission=self.admission, patient=self.patient,
        )  # fmt: skip
        with leases, task_log:
            while not self.stop():
                taken = leases.take(1)
                if taken:
                    self._run_one(leases, taken[0], task_log)
                    ran += 1
                elif leases.work_left():
                    leases.wait(IDLE_SECONDS)
                else:
                    break
        if not self.stop():
            leases.finish()
        return ran

    def _run_one(self, leases: Leases, task: TaskRecord, task_log: TaskLog) -> None:
        task_log.begin()
        leases.started(task)
        began = time.perf_counter()
        own = is_own(self.job, self.store, task)
        try:
            if self.job.before is Status.PART_DONE:
                argument = from_reference(task.result)
                own = own and (self.job.own or is_of_task(argument, task.id))
            else:
                with within(Circle.OWN if own else Circle.POOL):
                    argument = decode_definition(task.text)
        except (MissingCode, RecorderElsewhere) as exc:
            leases.leave(task, str(exc))
            return
        except ConfigError as exc:
            leases.fail(task, str(exc), str(exc), Cause.UNREADABLE, "", 0.0)
            return
        except TrackingError as exc:  # what the first stage left is not there, or no recorder
            leases.fail(task, str(exc), str(exc), Cause.RAISED, "", 0.0)
            return
        try:
            token, number = current_task.set(task.id), current_attempt.set(task.attempt)
            name = current_model.set(task.model_name)
            try:
                here = leases.session_for(task) or current_session()
                with using(here), within(Circle.OWN if own else Circle.POOL):
                    result = to_reference(self.job.task_func(argument, **self.job.kwargs))
            finally:
                current_task.reset(token)
                current_attempt.reset(number)
                current_model.reset(name)
            leases.commit(task, result, task_log.text(), time.perf_counter() - began)
        except StoreUnavailable:
            raise
        except (MissingCode, MissingDependency, ModuleNotFoundError, RecorderElsewhere) as exc:
            leases.leave(task, str(exc))
        except (KeyboardInterrupt, WorkerStopped):
            # Ctrl-C, SIGTERM: the task is not at fault and goes back as it was.
            leases.give_back(task)
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever else a task raises (sys.exit too) is its own failure
            failed = failure(exc)
            leases.fail(task, failed.error, failed.brief, failed.cause, task_log.text(), time.perf_counter() - began)


class TaskLog(logging.Handler):
    """What the library and the task log while a task runs in this process; a ``with`` block."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=200)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def begin(self) -> None:
        """Forget the task before, which may have taken this handler off."""
        self._lines.clear()
        if self not in logging.getLogger().handlers:
            logging.getLogger().addHandler(self)

    def text(self) -> str:
        """Return the lines so far."""
        return trim_log("\n".join(list(self._lines)))

    def __enter__(self) -> TaskLog:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger().removeHandler(self)


def run_task(
    task_func: Callable[..., Any],
    task_pool: str,
    query: Mapping[str, Any] | None = None,
    force_release: bool = False,
    before_status: Status | str = Status.WAITING,
    after_status: Status | str = Status.DONE,
    *,
    session: Session | None = None,
    **kwargs: Any,
) -> bool:
    """Run the tasks of a pool until none is left, and return whether there was any.

    ====================== =============================================================
    before -> after        what `task_func` is given
    ====================== =============================================================
    waiting -> done        the definition
    waiting -> part_done   the definition: the first of two stages
    part_done -> part_done the result so far; each task once a call
    part_done -> done      the result of the first stage
    ====================== =============================================================

    Parameters
    ----------
    task_func : callable
        ``(definition or result, **kwargs) -> result``.
    task_pool : str
        Name of the pool.
    query : mapping, optional
        Only the tasks that match.
    force_release : bool
        True runs each task in a process of its own, so that its memory is certainly given back; else they run in this one.
    before_status, after_status : Status or str
        See the table.
    session : Session, optional
        By default the current one.
    **kwargs
        Handed to `task_func`.

    Raises
    ------
    ValueError
        When `before_status` is neither waiting nor part_done.
    UnfitWorker
        When tasks are left that this machine cannot run, or that were submitted with other data than the session names.
    FailingWorker
        When tasks failed here, one after the other, that succeeded elsewhere.
    """
    before, after = Status(before_status), Status(after_status)
    if before not in (Status.WAITING, Status.PART_DONE):
        raise ValueError(f"before_status must be waiting or part_done, found {before.value!r}.")
    session = session or current_session()
    job = Job(task_pool, task_func, dict(query or {}), before, after, kwargs, force_release)
    with using(session):
        store = open_store(session.store_uri)
        admission = own_data(store, task_pool, session)
        if force_release:
            return WorkerPool(store, job, session, 1, LogEvents(), admission=admission).run() > 0
        return Worker(store, job, on_event=LogEvents(), admission=admission).run() > 0


def call_in_child(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``func(*args, **kwargs)``, computed in a fresh child process that is gone afterwards.

    A recorder comes back as a recorder; anything else must be plain data, or of a type that may be loaded.

    Raises
    ------
    TrainingFailed
        When the child dies without an answer (killed, out of memory, crashed in C code).
        And when `func` raises, with its exception and traceback.
    """
    job = Job("", _called, kwargs={"func": func, "args": args, "kwargs": kwargs}, own=True)
    process = WorkerProcess(current_session(), job)
    try:
        process.give(TaskRecord(id="call", pool="", definition={}), current_session().threads, own=True)
        while (outcome := process.outcome()) is None:
            connection.wait(process.handles, timeout=1.0)
    finally:
        process.end(5.0)
    if isinstance(outcome, Done):
        return from_reference(decode_result(outcome.result))
    if isinstance(outcome, (Unfit, Unreadable)):
        raise TrainingFailed(outcome.why)
    raise TrainingFailed(outcome.error if isinstance(outcome, Failed) else "The child process was stopped.")


def _called(argument: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)
