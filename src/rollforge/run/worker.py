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
from pathlib import Path
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
from rollforge.run.worker_process import Done, Failed, Stopped, Unfit, Unreadable, WorkerProcess, failure
from rollforge.session import Session, current_session, using
from rollforge.store.base import TaskStore, open_store, trim_log
from rollforge.store.codec import decode_definition, decode_result
from rollforge.task import Cause, Status, TaskRecord
from rollforge.trust import Circle, within

__all__ = [
    "Event",
    "Job",
    "Worker",
    "WorkerPool",
    "WorkerStopped",
    "call_in_child",
    "release_dead_workers",
    "run_task",
    "to_reference",
]

log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0
_SHORT_SECONDS = 0.5
_MOST_AT_ONCE = 16
_LONG_SECONDS = 2.0  # tasks for whose sake it is worth asking how many are left
_NEARLY_DONE = 0.9  # of the mean: then a task that begins has the cores almost for itself
_IDLE_DEATHS = 3


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


def _never() -> bool:
    return False


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
    stop: Callable[[], bool] = _never
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
                    leases.wait(_IDLE_SECONDS)
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


@dataclass(slots=True)
class WorkerPool:
    """Runs the tasks of one job in worker processes, started once each, from this process.

    This process alone talks to the store: it claims (several tasks at once when they are short), renews all leases from a
    thread that no task can hold up, sees at once how a process dies, ends one that takes too long, and commits.

    Parameters
    ----------
    store : TaskStore
        Where the tasks are.
    job : Job
        Which of them.
    session : Session
        What the tasks see; its threads are the share of one process.
    jobs : int
        Worker processes.
    on_event : callable
        Told of each step.
    stop : callable
        Asked all the time; once it says True nothing more is claimed, and what runs may end within `grace`.
    stay : bool
        True goes on waiting for tasks when there are none.
    grace : float
        Seconds that running tasks are given to end after `stop`; those that do not are given back.
    log_file : path, optional
        Where the processes log besides.
    while_starting : callable, optional
        Work that the tasks need done; it is done here while the processes start.
    admission : Admission, optional
        Which submissions' tasks this machine can run, and where each is run; None: all, in `session`.
    patient : bool
        True gives workers that are not at work yet the time to try what failed here.

    Examples
    --------
    >>> from rollforge.store.memory import MemoryStore
    >>> store = MemoryStore()
    >>> _ = store.create("p", [{"x": 1}, {"x": 2}])
    >>> WorkerPool(store, Job("p", len), Session(threads=1), jobs=1).run()
    2
    """

    store: TaskStore
    job: Job
    session: Session
    jobs: int
    on_event: Callable[[Event], None] = ignore_event
    stop: Callable[[], bool] = _never
    stay: bool = False
    grace: float = 0.0
    log_file: Path | None = None
    while_starting: Callable[[], None] | None = None
    name: str = field(default_factory=process_name)
    lease_seconds: float = LEASE_SECONDS
    patience: float = PATIENCE_SECONDS
    admission: Admission | None = None
    patient: bool = False
    ran: int = 0
    _processes: list[WorkerProcess] = field(default_factory=list)
    _queue: deque[TaskRecord] = field(default_factory=deque)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=8))
    _idle_deaths: int = 0

    def run(self) -> int:
        """Return how many tasks were run.

        Raises
        ------
        TrainingFailed
            When processes die before they can do anything, with what the last one said.
        UnfitWorker
            When tasks are left that this machine cannot run.
        FailingWorker
            When tasks failed here, one after the other, that succeeded elsewhere.
        StoreUnavailable
            When the store stays away for longer than `patience`.
        """
        self._processes = [WorkerProcess(self.session, self.job, self.log_file) for _ in range(self.jobs)]
        leases = Leases(
            self.store, self.job, self.name, self.on_event, self.lease_seconds, self.patience, self._log_of,
            admission=self.admission, patient=self.patient,
        )  # fmt: skip
        try:
            if self.while_starting is not None:
                for process in self._processes:
                    process.start()
                self.while_starting()
            with leases:
                try:
                    self._work(leases)
                finally:
                    self._give_all_back(leases)
            if not self.stop():  # who is told to stop need not say why nothing more was done
                leases.finish()
        finally:
            for process in self._processes:
                process.dismiss()
            for process in self._processes:
                process.end(1.0)
        return self.ran

    def _log_of(self, task: TaskRecord) -> str:
        return next((s.log() for s in self._processes if s.task is not None and s.task.id == task.id), "")

    def _busy(self) -> list[WorkerProcess]:
        return [s for s in self._processes if s.task is not None]

    def _work(self, leases: Leases) -> None:
        stopping: float | None = None
        while True:
            if stopping is None and self.stop():
                stopping = time.monotonic() + self.grace
                while self._queue:
                    leases.give_back(self._queue.pop())
            if stopping is None:
                self._fill(leases)
            if not self._busy():
                if stopping is not None or leases.only_unfit() or not (self.stay or leases.work_left()):
                    return
                leases.wait(_IDLE_SECONDS)
                continue
            if stopping is not None and time.monotonic() > stopping:
                return
            self._watch(leases)

    def _fill(self, leases: Leases) -> None:
        """Give every idle process a task."""
        idle = [s for s in self._processes if s.task is None]
        while self._queue and leases.holds():
            leases.give_back(self._queue.pop())
        if len(self._queue) < len(idle):
            self._queue.extend(leases.take(len(idle) - len(self._queue) + self._ahead()))
        for process in idle:
            if not self._queue:
                return
            task = self._queue.popleft()
            leases.started(task)
            own = is_own(self.job, self.store, task)
            process.give(task, self._threads(leases), leases.session_for(task), own=own)

    def _threads(self, leases: Leases) -> int:
        """The threads of a task that begins: its share; more for the last ones, where other processes have nothing to do."""
        share = self.session.threads
        mean = sum(self._recent) / len(self._recent) if self._recent else 0.0
        if self.stay or mean < _LONG_SECONDS:
            return share
        busy = sum(process.seconds < _NEARLY_DONE * mean for process in self._busy())
        side_by_side = min(self.jobs, 1 + busy + len(self._queue) + leases.waiting())
        return share * self.jobs // side_by_side

    def _ahead(self) -> int:
        """How many tasks to claim beyond those that start at once: some when tasks are short, else none."""
        if len(self._recent) < 4:
            return 0
        mean = sum(self._recent) / len(self._recent)
        return 0 if mean > _SHORT_SECONDS else min(_MOST_AT_ONCE, int(_SHORT_SECONDS / max(mean, 0.01)) * self.jobs)

    def _watch(self, leases: Leases) -> None:
        """Wait until a process says something, or is overdue; end the tasks that ended."""
        connection.wait([h for s in self._busy() for h in s.handles], timeout=0.25)
        gone = {t.id for t in leases.lost()}
        self._queue = deque(t for t in self._queue if t.id not in gone)
        for process in self._busy():
            if process.task is not None and process.task.id in gone:
                process.kill()  # somebody else has it, or nobody wants it any more
                process.outcome()
                process.task = None
                continue
            process.overdue()
            self._record_outcome(leases, process)

    def _record_outcome(self, leases: Leases, process: WorkerProcess) -> None:
        outcome, task = process.outcome(), process.task
        if outcome is None or task is None:
            return
        seconds, task_log = process.seconds, process.log()
        process.task = None
        if isinstance(outcome, Done):
            leases.commit(task, outcome.result, task_log, seconds)
        elif isinstance(outcome, Stopped):
            leases.give_back(task)
        elif isinstance(outcome, Unfit):
            leases.leave(task, outcome.why)
            return
        elif isinstance(outcome, Unreadable):
            leases.fail(task, outcome.why, outcome.why, Cause.UNREADABLE, task_log, seconds)
        elif not process.ready:  # the process died before it took the task, which was not begun
            leases.give_back(task)
            self._count_idle_death(outcome)
            return
        else:
            self._idle_deaths = 0
            if outcome.cause is not Cause.RAISED and self.job.on_death is not None:
                self._tidy_up(task)
            leases.fail(task, outcome.error, outcome.brief, outcome.cause, task_log, seconds)
        self.ran += 1
        self._recent.append(seconds)
        if self.job.force_release:
            process.renew_process()

    def _tidy_up(self, task: TaskRecord) -> None:
        assert self.job.on_death is not None
        try:
            self.job.on_death(task.id)
        except Exception as exc:  # noqa: BLE001 - how the task ended must be kept, whatever else fails
            log.warning("what task %s left was not tidied up: %s", task.id, exc)

    def _count_idle_death(self, outcome: Failed) -> None:
        self._idle_deaths += 1
        if self._idle_deaths >= _IDLE_DEATHS:
            raise TrainingFailed(
                f"Worker processes end before they can run a task. The last one said:\n{outcome.error}"
            )

    def _give_all_back(self, leases: Leases) -> None:
        """Let nothing that was claimed stay claimed: what runs is interrupted and goes back as it was."""
        for process in self._busy():
            process.interrupt()
        deadline = time.monotonic() + 5.0
        while self._busy() and time.monotonic() < deadline:
            connection.wait([h for s in self._busy() for h in s.handles], timeout=0.1)
            for process in self._busy():
                outcome, task = process.outcome(), process.task
                if outcome is None or task is None:
                    continue
                process.task = None
                if isinstance(outcome, Done):  # it was just ready
                    leases.commit(task, outcome.result, process.log(), process.seconds)
                else:
                    leases.give_back(task)
        for process in self._busy():
            process.kill()
            if process.task is not None:
                leases.give_back(process.task)
                process.task = None
        while self._queue:
            leases.give_back(self._queue.pop())


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
