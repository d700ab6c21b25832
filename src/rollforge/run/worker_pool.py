"""Run tasks in worker processes and survive their crashes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection

from rollforge.errors import (
    ConfigError,
    RequirementsNotMet,
    TrainingFailed,
)
from rollforge.machine import process_name
from rollforge.run.job import (
    Event,
    Job,
    ignore_event,
    is_own,
)
from rollforge.run.leases import LEASE_SECONDS, RECONNECT_SECONDS, Leases
from rollforge.run.messages import CannotRun, CannotStart, Done, Failed
from rollforge.run.requirements import Admission
from rollforge.run.runners import LocalRunners, Runner, Runners
from rollforge.run.starts import Starts
from rollforge.run.task_resources import Shapes, TaskResources
from rollforge.session import Session
from rollforge.store.base import TaskStore
from rollforge.task import Cause, TaskRecord

__all__ = ["IDLE_SECONDS", "WorkerPool", "never"]

log = logging.getLogger(__name__)


IDLE_SECONDS = 1.0


_SHORT_SECONDS = 0.5


_MAX_CLAIMED = 16


_SENDING_PAUSE = 0.01  # between two pieces of a task that is larger than the buffer to its process


_LONG_SECONDS = 2.0  # mean duration above which it is worth counting the tasks that are left


_NEARLY_DONE = 0.9  # fraction of the mean duration after which a running task is expected to free its cores soon


_COUNT_SECONDS = 1.0  # between two counts of the tasks of each shape


_FAILED_GRACE = 1.0  # seconds that a process in which a task failed has to exit


def never() -> bool:
    return False


@dataclass(slots=True)
class WorkerPool:
    """Runs the tasks of one job in worker processes, each of which runs many tasks.

    A task that fails can leave its process in a state in which every other task fails: no file descriptors, a broken
    device, a changed module. The last attempt of a task therefore runs in a process in which no task has failed.

    Only this process uses the store. It claims tasks (several at once if they are short), renews all leases from a
    thread that no task can block, detects at once when a process dies, kills processes that exceed the time limit, and
    commits results.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    job : Job
        Which tasks to run, and how.
    session : Session
        Session of the tasks; its `threads` are the share of one process.
    jobs : int
        Number of tasks that run at the same time.
    on_event : callable
        Called with each event.
    stop : callable
        Called regularly. Once it returns True, nothing more is claimed, and running tasks may end within `grace`.
    exit_when_empty : bool
        If False, wait for new tasks when there are none.
    grace : float
        Seconds that running tasks have to end after `stop`; then they are given back.
    while_starting : callable, optional
        Preparation that the tasks need; called in this process while the worker processes start.
    runners : Runners, optional
        What runs the tasks, by default `jobs` worker processes of this machine. They are closed at the end.
    admission : Admission, optional
        Decides which submissions' tasks this machine can run and in which session. By default, all tasks run in
        `session`.
    wait_for_others : bool
        If True, workers that have not started yet get time to try tasks that failed here.
    shapes : Shapes, optional
        What the tasks ask for, by default as the store says.

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
    stop: Callable[[], bool] = never
    exit_when_empty: bool = True
    grace: float = 0.0
    while_starting: Callable[[], None] | None = None
    name: str = field(default_factory=process_name)
    lease_seconds: float = LEASE_SECONDS
    reconnect_timeout: float = RECONNECT_SECONDS
    admission: Admission | None = None
    runners: Runners | None = None
    wait_for_others: bool = False
    shapes: Shapes | None = None
    ran: int = 0
    _runners: Runners = field(init=False, repr=False)
    _shapes: Shapes = field(init=False, repr=False)
    _queue: deque[TaskRecord] = field(default_factory=deque)
    _left: deque[TaskRecord] = field(default_factory=deque)  # claimed tasks that a runner could not run
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=8))
    _starts: Starts = field(default_factory=Starts, repr=False)
    _counted: float = -1e9
    _selects: bool = False

    def run(self) -> int:
        """Run tasks and return how many were run.

        Raises
        ------
        TrainingFailed
            If worker processes die before they can run a task; the message contains the last one's error.
        ConfigError
            If the script that called this has no guard, so that each process that imports it would run it again.
        RequirementsNotMet
            If tasks are left that this machine cannot run.
        FailingWorker
            If several tasks in a row failed here that succeeded on other machines.
        StoreUnavailable
            If the store is unavailable for longer than `reconnect_timeout` seconds.
        """
        self._runners = self.runners or LocalRunners(self.session, self.job, self.jobs)
        self._shapes = self.shapes or Shapes(self.store, self.job)
        leases = Leases(
            self.store, self.job, self.name, self.on_event, self.lease_seconds, self.reconnect_timeout, self._log_of,
            admission=self.admission, wait_for_others=self.wait_for_others, shapes=self._shapes, lacks=self._runners.lacks,
        )  # fmt: skip
        try:
            if self.while_starting is not None:
                self._runners.start()
                self.while_starting()
            self._runners.prepare()
            with leases:
                try:
                    self._work(leases)
                finally:
                    self._give_all_back(leases)
            if not self.stop():  # a worker that was stopped need not explain why tasks are left
                leases.finish()
        finally:
            self._runners.close()
        return self.ran

    def _log_of(self, task: TaskRecord) -> str:
        return next((s.log() for s in self._runners.current() if s.task is not None and s.task.id == task.id), "")

    def _busy(self) -> list[Runner]:
        return [s for s in self._runners.current() if s.task is not None]

    def _wait(self, seconds: float) -> None:
        """Wait until a runner may have something to report."""
        # Runners of one engine share a handle.
        connection.wait(dict.fromkeys(h for s in self._busy() for h in s.handles), timeout=seconds)
        self._runners.woken()

    def _work(self, leases: Leases) -> None:
        stopping: float | None = None
        while True:
            if stopping is None and self.stop():
                stopping = time.monotonic() + self.grace
                for tasks in (self._left, self._queue):
                    while tasks:
                        leases.give_back(tasks.pop())
            if stopping is None:
                self._fill(leases)
            if not self._busy():
                claimed = self._left or self._queue  # no runner that exists now can take them
                if stopping is not None or (
                    not claimed and (leases.cannot_run_the_rest() or (self.exit_when_empty and not leases.work_left()))
                ):
                    return
                if problem := self._runners.explain():
                    raise RequirementsNotMet(problem)
                leases.wait(IDLE_SECONDS)
                continue
            if stopping is not None and time.monotonic() > stopping:
                return
            self._watch(leases)

    def _fill(self, leases: Leases) -> None:
        """Give every idle runner a task."""
        idle = self._starts.idle(self._runners.current())
        while self._queue and leases.holds():
            leases.give_back(self._queue.pop())
        for left in list(self._left):
            if reason := self._runners.refuse(left, self._shapes.of(left)):
                self._left.remove(left)
                leases.leave(left, reason)
        if not idle and not self._busy():
            leases.take(0)  # no runner is free yet: only find out which tasks can run
        leases.tell_what_is_left()
        self._count(leases)
        while idle:
            self._claim(leases, idle)
            before = len(idle)
            while idle and (found := self._next(idle)) is not None:
                self._start(leases, *found)
                idle.remove(found[0])
            if len(idle) == before:
                break
        if self._selects:  # what cannot start yet, another worker may run
            while self._queue:
                leases.give_back(self._queue.pop())

    def _count(self, leases: Leases) -> None:
        """Tell the runners now and then how many tasks there are of each shape."""
        if len(self._shapes.known) < 2 or time.monotonic() - self._counted < _COUNT_SECONDS:
            return
        wanted = leases.wanted()
        self._counted = time.monotonic()
        for task in (*self._left, *self._queue, *(s.task for s in self._busy() if s.task is not None)):
            wanted[self._shapes.of(task)] += 1
        self._runners.wanted(wanted)

    def _claim(self, leases: Leases, idle: Sequence[Runner]) -> None:
        """Claim as many tasks as the idle runners can start."""
        for offer in self._runners.offers(idle, self._shapes.known):
            self._selects = offer.larger_first
            missing = offer.number - sum(offer.takes(self._shapes.of(task)) for task in self._queue)
            if missing > 0:
                ahead = self._ahead() if len(self._shapes.known) == 1 else 0
                self._queue.extend(leases.take(missing + ahead, offer.takes))
            if offer.larger_first and self._queue:
                first = self._shapes.of(self._queue[0])
                larger = {shape for shape in self._shapes.known if shape.order > first.order and offer.takes(shape)}
                if larger:
                    self._queue.extendleft(leases.take(1, larger.__contains__, self._queue[0].priority))

    def _next(self, idle: Sequence[Runner]) -> tuple[Runner, TaskRecord] | None:
        """Take the first claimed task that can start: one that another runner has left, or the next in the queue."""
        for tasks in (self._left, self._queue):
            for task in tasks:
                if (runner := self._runners.choose(idle, task, self._shapes.of(task))) is not None:
                    tasks.remove(task)
                    return runner, task
        return None

    def _start(self, leases: Leases, runner: Runner, task: TaskRecord) -> None:
        if runner.failed and task.attempt + 1 >= task.max_attempts:
            # The last attempt must not fail because of what another task left behind.
            runner.renew_process(_FAILED_GRACE)
        leases.started(task)
        threads = self._threads(leases, self._shapes.of(task))
        runner.assign(task, threads, leases.session_for(task), own=is_own(self.job, self.store, task))

    def _threads(self, leases: Leases, shape: TaskResources) -> int:
        """Return the threads of the next task: its share, or more for the last tasks, when other processes are idle."""
        share = self._runners.threads(shape)
        mean = sum(self._recent) / len(self._recent) if self._recent else 0.0
        if not self.exit_when_empty or mean < _LONG_SECONDS or len(self._shapes.known) > 1:
            return share
        busy = sum(runner.seconds < _NEARLY_DONE * mean for runner in self._busy())
        side_by_side = min(self.jobs, 1 + busy + len(self._queue) + leases.waiting())
        return share * self.jobs // side_by_side

    def _ahead(self) -> int:
        """Return how many tasks to claim in addition to those that start now: some if tasks are short, else none."""
        if len(self._recent) < 4:
            return 0
        mean = sum(self._recent) / len(self._recent)
        return 0 if mean > _SHORT_SECONDS else min(_MAX_CLAIMED, int(_SHORT_SECONDS / max(mean, 0.01)) * self.jobs)

    def _watch(self, leases: Leases) -> None:
        """Wait briefly for messages of the processes, kill those that are overdue, and record the outcomes."""
        pause = _SENDING_PAUSE if any(s.is_sending for s in self._busy()) else 0.25
        self._wait(pause)
        gone = {t.id for t in leases.lost()}
        self._queue = deque(t for t in self._queue if t.id not in gone)
        self._left = deque(t for t in self._left if t.id not in gone)
        for runner in self._busy():
            if runner.task is not None and runner.task.id in gone:
                runner.kill()  # the task was taken over, cancelled or removed
                runner.outcome()
                self._runners.settled(runner.task, stored=False)
                runner.task = None
                continue
            runner.overdue()
            self._record_outcome(leases, runner)

    def _record_outcome(self, leases: Leases, runner: Runner) -> None:
        outcome, task = runner.outcome(), runner.task
        if outcome is None or task is None:
            return
        seconds, task_log = runner.seconds, runner.log()
        runner.task = None
        if isinstance(outcome, Failed) and not runner.ready:  # the process died before it began the task
            leases.give_back(task)
            self._note_death(runner, outcome)
            return
        self._starts.began(runner)
        if isinstance(outcome, CannotRun) and runner.failed:
            # A task that failed there may have broken its imports: a new process decides.
            leases.give_back(task)
            runner.renew_process(_FAILED_GRACE)
            return
        if isinstance(outcome, CannotRun) and runner.leave(task, outcome.reason):
            self._left.append(task)  # no attempt was counted for this claim, so another runner continues it
            return
        if isinstance(outcome, Failed):
            if outcome.cause is not Cause.RAISED and self.job.on_death is not None:
                self._tidy_up(task)
            runner.failed = True
        self._runners.settled(task, stored=leases.settle(task, outcome, task_log, seconds))
        if isinstance(outcome, CannotStart):
            raise ConfigError(outcome.reason)
        if isinstance(outcome, CannotRun):
            return
        self.ran += 1
        self._recent.append(seconds)
        if self.job.force_release:
            runner.renew_process()

    def _tidy_up(self, task: TaskRecord) -> None:
        assert self.job.on_death is not None
        try:
            self.job.on_death(task.id)
        except Exception as exc:  # noqa: BLE001 - the outcome of the task must be stored, whatever else fails
            log.warning("files left by task %s could not be removed: %s", task.id, exc)

    def _note_death(self, runner: Runner, outcome: Failed) -> None:
        if self._starts.died(runner, self._runners.current()):
            raise TrainingFailed(f"Worker processes exit before they can run a task. The last error:\n{outcome.error}")

    def _give_all_back(self, leases: Leases) -> None:
        """Interrupt running tasks and give back everything that is still claimed, also after another Ctrl-C."""
        try:
            self._interrupt_all(leases)
        finally:
            for runner in self._busy():
                runner.kill()
                runner.task = None
            self._queue.clear()
            self._left.clear()
            for task in leases.held():
                leases.give_back(task)

    def _interrupt_all(self, leases: Leases) -> None:
        """Interrupt running tasks, and give back those that end soon."""
        for runner in self._busy():
            runner.interrupt()
        deadline = time.monotonic() + 5.0
        while self._busy() and time.monotonic() < deadline:
            self._wait(0.1)
            for runner in self._busy():
                outcome, task = runner.outcome(), runner.task
                if outcome is None or task is None:
                    continue
                runner.task = None
                if isinstance(outcome, Done):  # it had just finished
                    stored = leases.commit(task, outcome.result, runner.log(), runner.seconds)
                    self._runners.settled(task, stored=stored)
                else:
                    leases.give_back(task)
