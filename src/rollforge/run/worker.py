"""Workers: claim tasks from a pool, renew their leases, run them, and commit their results or give them back.

A failing task never stops a worker: its exception is stored with the task, which is retried or marked as ``failed``.
:class:`Worker` runs tasks in this process, one at a time. :class:`WorkerPool` runs them in child processes and survives
their crashes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rollforge.errors import ConfigError
from rollforge.machine import process_is_gone, process_name
from rollforge.plugins import load_plugins
from rollforge.run.attempt import run_attempt
from rollforge.run.job import (
    Event,
    Job,
    LogEvents,
    WorkerStopped,
    current_attempt,
    current_model,
    current_task,
    current_token,
    ignore_event,
    is_own,
    known_failures,
)
from rollforge.run.leases import LEASE_SECONDS, RECONNECT_SECONDS, Leases
from rollforge.run.requirements import Admission, session_admission
from rollforge.run.worker_pool import IDLE_SECONDS, WorkerPool, never
from rollforge.session import Session, current_session, using
from rollforge.store.base import TaskStore, open_store, trim_log
from rollforge.task import Status, TaskRecord
from rollforge.track.base import Tracker
from rollforge.trust import from_origin

__all__ = ["TaskLog", "Worker", "release_dead_workers", "run_task"]

log = logging.getLogger(__name__)


def release_dead_workers(store: TaskStore, pool: str, *, counted: bool = True) -> list[TaskRecord]:
    """End the claims of dead workers of this machine and return their tasks, without waiting for the leases to expire.

    This cleans up after a run that was killed with ``kill -9``. Claims of workers in other containers end only when
    their leases expire, even if the containers have the same host name.

    Parameters
    ----------
    counted : bool
        Whether each is a failed attempt at its task.
    """
    released = []
    running = store.query(pool, {"status": Status.RUNNING.value}, results=False)
    for name in sorted({task.worker or "" for task in running}):
        if process_is_gone(name):
            error = f"Worker {name} no longer exists: its process was killed." if counted else None
            released += store.release_worker(pool, name, error)
    return released


@dataclass(slots=True)
class Worker:
    """Runs the tasks of one job in this process, one at a time, until no task is left to claim.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    job : Job
        Which tasks to run, and how. `force_release`, `timeout` and `memory` require a :class:`WorkerPool`.
    on_event : callable
        Called with each event.
    stop : callable
        Called before each claim; the worker ends if it returns True.
    admission : Admission, optional
        Decides which submissions' tasks this machine can run and in which session. By default, all tasks run in the
        current session.
    wait_for_others : bool
        If True, workers that have not started yet get time to try tasks that failed here.

    Raises
    ------
    ConfigError
        If `job` has an option that requires worker processes.

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
    reconnect_timeout: float = RECONNECT_SECONDS
    admission: Admission | None = None
    wait_for_others: bool = False

    def __post_init__(self) -> None:
        given = {
            "force_release": self.job.force_release or None,
            "timeout": self.job.timeout,
            "memory": self.job.memory,
        }
        if named := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"A Worker runs tasks in its own process and cannot apply {', '.join(named)}. Use WorkerPool, "
                "which runs them in worker processes."
            )

    def run(self) -> int:
        """Run tasks until none is waiting, including those in backoff, and return how many were run.

        Raises
        ------
        RequirementsNotMet
            If tasks are left that this machine cannot run.
        FailingWorker
            If several tasks in a row failed here that succeeded on other machines.
        StoreUnavailable
            If the store is unavailable for longer than `reconnect_timeout` seconds.
        ConfigError
            If a plugin of the session cannot be imported. No task has been claimed.
        """
        load_plugins(current_session())
        ran = 0
        task_log = TaskLog()
        leases = Leases(
            self.store, self.job, self.name, self.on_event, self.lease_seconds, self.reconnect_timeout,
            lambda task: task_log.text(), admission=self.admission, wait_for_others=self.wait_for_others,
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
        argument: object = task.text if self.job.before is Status.WAITING else task.result
        began = time.perf_counter()
        known, number = current_task.set(task.id), current_attempt.set(known_failures(task))
        name, token = current_model.set(task.model_name), current_token.set(task.token)
        try:
            leases.started(task)
            with contextlib.ExitStack() as origins, using(leases.session_for(task) or current_session()):
                outcome = run_attempt(
                    self.job, task.id, argument, own=is_own(self.job, self.store, task),
                    set_origin=lambda origin: origins.enter_context(from_origin(origin)),
                    interrupts=(KeyboardInterrupt, WorkerStopped),
                )  # fmt: skip
            leases.settle(task, outcome, task_log.text(), time.perf_counter() - began)
        except (KeyboardInterrupt, WorkerStopped):
            # Ctrl-C or SIGTERM: the task is not at fault and is given back unchanged.
            leases.give_back(task)
            raise
        finally:
            current_task.reset(known)
            current_token.reset(token)
            current_attempt.reset(number)
            current_model.reset(name)


class TaskLog(logging.Handler):
    """Context manager that collects the log messages of a task that runs in this process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=200)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def begin(self) -> None:
        """Clear the lines of the previous task, and install this handler again if that task removed it."""
        self._lines.clear()
        if self not in logging.getLogger().handlers:
            logging.getLogger().addHandler(self)

    def text(self) -> str:
        """Return the lines logged so far."""
        return trim_log("\n".join(list(self._lines)))

    def __enter__(self) -> TaskLog:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger().removeHandler(self)


def run_task(
    task_func: Callable[..., object],
    task_pool: str,
    query: Mapping[str, object] | None = None,
    force_release: bool = False,
    before_status: Status | str = Status.WAITING,
    after_status: Status | str = Status.DONE,
    *,
    session: Session | None = None,
    store: TaskStore | str | None = None,
    tracker: Tracker | str | None = None,
    **kwargs: object,
) -> bool:
    """Run the tasks of a pool until none is left, and return whether any task was run.

    ====================== =============================================================
    before -> after        argument of `task_func`
    ====================== =============================================================
    waiting -> done        the definition
    waiting -> part_done   the definition: the first of two stages
    part_done -> part_done the result so far; each task once per call
    part_done -> done      the result of the first stage
    ====================== =============================================================

    Parameters
    ----------
    task_func : callable
        ``(definition or result, **kwargs) -> result``.
    task_pool : str
        Name of the pool.
    query : mapping, optional
        Only tasks that match.
    force_release : bool
        If True, each task runs in a new process, so that its memory is released when it ends. By default, tasks run in
        this process.
    before_status, after_status : Status or str
        See the table.
    session : Session, optional
        By default the current one.
    store : TaskStore or str, optional
        The task store, or its URI; by default the session's.
    tracker : Tracker or str, optional
        The tracking store, or its URI; by default the session's. With `force_release`, the process opens an object's
        `uri`.
    **kwargs
        Passed to `task_func`.

    Raises
    ------
    ValueError
        If `before_status` is neither waiting nor part_done.
    RequirementsNotMet
        If tasks are left that this machine cannot run, or that were submitted with other data than the session's.
    FailingWorker
        If several tasks in a row failed here that succeeded on other machines.
    """
    pool, before, after = task_pool, Status(before_status), Status(after_status)
    if before not in (Status.WAITING, Status.PART_DONE):
        raise ValueError(f"before_status must be waiting or part_done, found {before.value!r}.")
    session = (session or current_session()).with_(store=store, tracker=tracker)
    job = Job(pool, task_func, dict(query or {}), before, after, kwargs, force_release)
    with using(session):
        opened = open_store(session.store_uri)
        admission = session_admission(opened, pool, session, in_process=not force_release)
        if force_release:
            return WorkerPool(opened, job, session, 1, LogEvents(), admission=admission).run() > 0
        return Worker(opened, job, on_event=LogEvents(), admission=admission).run() > 0
