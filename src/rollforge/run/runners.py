"""Runners, to which a :class:`~rollforge.run.worker_pool.WorkerPool` gives tasks: worker processes of this machine, or others."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from rollforge.run.capacity import Capacity
from rollforge.run.gpus import GpuShare, take_gpus, visible_gpus
from rollforge.run.job import Job
from rollforge.run.messages import Outcome
from rollforge.run.task_resources import TaskResources
from rollforge.run.worker_process import WorkerProcess
from rollforge.session import Session
from rollforge.task import TaskRecord

__all__ = ["LocalRunners", "Offer", "Runner", "Runners", "StartedProcesses"]


log = logging.getLogger(__name__)

_GPU_SECONDS = 1.0  # between two attempts to take GPUs that are in use, and until unused ones are given back


class Runner(Protocol):
    """Runs one task at a time and reports how it ended, as a :class:`~rollforge.run.worker_process.WorkerProcess` does."""

    task: TaskRecord | None
    """The task that it was given. The pool sets it to None when it records the outcome."""
    failed: bool
    """Whether a task failed in its process. It may have left the process in a state in which others fail too."""

    @property
    def ready(self) -> bool:
        """Whether its process has started and can run tasks."""

    @property
    def is_up(self) -> bool:
        """Whether its process is running and has got ready, so that it begins a task at once."""

    @property
    def free(self) -> bool:
        """Whether it can be given a task now."""

    @property
    def handles(self) -> list[Any]:
        """Handles to wait for with ``multiprocessing.connection.wait`` while it has a task."""

    @property
    def is_sending(self) -> bool:
        """Whether part of the task has not been sent yet; each call of :meth:`outcome` sends more."""

    @property
    def seconds(self) -> float:
        """Seconds since the task was given to it."""

    def log(self) -> str:
        """Return the last lines that the task printed or logged."""

    def start(self) -> None:
        """Start its process, if that is not running."""

    def assign(self, task: TaskRecord, threads: int, session: Session | None = None, *, own: bool = False) -> None:
        """Run a task with a number of threads.

        Parameters
        ----------
        task : TaskRecord
            The claimed task.
        threads : int
            Number of threads that it may use.
        session : Session, optional
            Session in which it runs; by default that of the runner.
        own : bool
            Whether the task is this user's own, so that it may build any class.
        """

    def outcome(self) -> Outcome | None:
        """Return how the task ended, or None while it is running."""

    def fits(self, task: TaskRecord) -> bool:
        """Return whether it can run a task."""

    def leave(self, task: TaskRecord, reason: str) -> bool:
        """Note that a task cannot run here, because something is missing, and return whether another runner may run it."""

    def overdue(self) -> bool:
        """Return whether the task exceeded its time limit; if so, kill its process, which :meth:`outcome` reports."""

    def kill(self) -> None:
        """Kill the process of the task."""

    def interrupt(self) -> None:
        """Ask the process to abort its task."""

    def renew_process(self, grace: float = 5.0) -> None:
        """End the process within `grace` seconds, so that the next task gets a new one."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Tasks that can start now."""

    takes: Callable[[TaskResources], bool]
    """Whether those are among them that ask for some resources."""
    number: int
    """How many of them."""
    larger_first: bool = False
    """Whether a task that asks for more is preferred to others of the same priority."""


class Runners(Protocol):
    """The runners of one :class:`~rollforge.run.worker_pool.WorkerPool`."""

    def current(self) -> Sequence[Runner]:
        """Return the runners that exist now, including those whose task's outcome has not been recorded."""

    def offers(self, free: Sequence[Runner], shapes: Sequence[TaskResources]) -> list[Offer]:
        """Return how many tasks to claim for runners without a task.

        Parameters
        ----------
        free : sequence of Runner
            Those without a task.
        shapes : sequence of TaskResources
            What the tasks are known to ask for, those that ask for most first.
        """

    def choose(self, free: Sequence[Runner], task: TaskRecord, shape: TaskResources) -> Runner | None:
        """Return the runner without a task that runs a claimed one, which is then given to it; None if none can now.

        Parameters
        ----------
        free : sequence of Runner
            Those that may be chosen, those first that are preferred.
        task : TaskRecord
            The claimed task.
        shape : TaskResources
            What it asks for.
        """

    def threads(self, shape: TaskResources) -> int:
        """Return the threads of a task."""

    def lacks(self, shape: TaskResources) -> str:
        """Return what there is too little of for tasks that are left to others; empty if they can run, now or later."""

    def wanted(self, tasks: Mapping[TaskResources, int]) -> None:
        """Note how many tasks of each shape are left that can run; called about once a second if there are several."""

    def start(self) -> None:
        """Start the processes of all runners before the first task, for example while this process prepares data."""

    def prepare(self) -> None:
        """Prepare what the tasks need there; called once, when this process has prepared its data."""

    def woken(self) -> None:
        """Note that one of the handles was ready: the outcomes are read next."""

    def explain(self) -> str:
        """Return why no runner can run tasks; empty if one can, or may soon."""

    def refuse(self, task: TaskRecord, shape: TaskResources) -> str:
        """Return why no runner can run a task that one of them has left; empty if another one may."""

    def settled(self, task: TaskRecord, *, stored: bool) -> None:
        """Note that the outcome of an attempt is stored, or that it will not be: the task was cancelled or taken over."""

    def close(self) -> None:
        """End all processes."""


class StartedProcesses:
    """Worker processes that import their libraries while the job that they will run is still being prepared.

    Use it as a context manager, which kills those that were not taken.

    Parameters
    ----------
    session : Session
        The session whose threads the processes share.
    jobs : int
        Number of processes; 0 starts none.
    preload : callable
        Called in each process, to import what tasks need.
    """

    def __init__(self, session: Session, jobs: int, preload: Callable[[], None]) -> None:
        self._session, self._jobs = session.shared_by(max(1, jobs)), jobs
        self._job = Job("", len, preload=preload)
        self._left: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failed:
            failed.callback(self._end)
            for _ in range(self._jobs):
                self._left.append(WorkerProcess(self._session, self._job))
                self._left[-1].start()
            failed.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._left:
            process.kill()
            process.end(0.0)
        self._left = []

    def take(self, session: Session, job: Job, jobs: int, log_file: Path | None = None) -> list[WorkerProcess]:
        """Return up to `jobs` of the processes, which the caller has to end, and kill the others.

        No process is returned if those for this job have to start with other limits: of threads, which libraries read when
        they are loaded, of memory, or with a log file.
        """
        fit = session.threads == self._session.threads and job.memory is None and log_file is None
        taken, self._left = (self._left[:jobs], self._left[jobs:]) if fit else ([], self._left)
        self._end()
        for process in taken:
            process.change_job(session, job)
        return taken


class LocalRunners:
    """Worker processes of this machine, which run tasks as long as they fit beside each other.

    Parameters
    ----------
    session : Session
        Session of the tasks; its `threads` are the share of one process.
    job : Job
        The job to run.
    jobs : int
        Number of processes.
    log_file : path, optional
        File to which the processes also log.
    started : StartedProcesses, optional
        Processes that are running already, which are used first.
    capacity : Capacity, optional
        What the tasks share. By default, the cores of the processes, and the memory of this machine.
    asked : TaskResources, optional
        What all tasks ask for; None if they ask for different amounts.
    strict : bool
        Whether tasks that ask for more than this machine has are left to others, instead of running alone.

    Examples
    --------
    >>> runners = LocalRunners(Session(threads=1), Job("p", len), 2)
    >>> [runner.free for runner in runners.current()]
    [True, True]
    >>> runners.close()
    """

    def __init__(
        self,
        session: Session,
        job: Job,
        jobs: int,
        log_file: Path | None = None,
        started: StartedProcesses | None = None,
        capacity: Capacity | None = None,
        asked: TaskResources | None = TaskResources(),  # noqa: B008 - it cannot change
        *,
        strict: bool = False,
    ) -> None:
        alike = asked is not None and not asked.gpus
        self._processes = [] if started is None or not alike else started.take(session, job, jobs, log_file)
        self._processes += [WorkerProcess(session, job, log_file) for _ in range(jobs - len(self._processes))]
        self._session = session
        self._asked = asked
        self._strict = strict
        self._capacity = capacity or Capacity.of_machine(session.threads * jobs, jobs)
        self._shapes: dict[WorkerProcess, TaskResources] = {}
        self._gpus: dict[WorkerProcess, float] = {}
        """Processes that have GPUs -> how many."""
        self._names: list[str] | None = None
        self._looked: dict[float, float] = {}
        """When so many GPUs were not free."""
        self._idle_since: dict[WorkerProcess, float] = {}
        self._waits = False

    def current(self) -> Sequence[Runner]:
        """Return the processes, which are always the same."""
        return self._processes

    def offers(self, free: Sequence[Runner], shapes: Sequence[TaskResources]) -> list[Offer]:
        """Return an offer for what fits beside the tasks that are running; of one task if they ask for different amounts."""
        if len(shapes) > 1:
            self._drop_unused()
        if len(shapes) == 1 and not shapes[0].gpus:
            fitting = self._capacity.side_by_side(shapes[0], len(self._processes)) - self._busy()
            return [Offer(self._fits, min(len(free), fitting))] if fitting > 0 and self._fits(shapes[0]) else []
        known = {shape: self._fits(shape) for shape in shapes}
        return [Offer(lambda shape: known[shape] if shape in known else self._fits(shape), 1, larger_first=True)]

    def choose(self, free: Sequence[Runner], task: TaskRecord, shape: TaskResources) -> Runner | None:
        """Return a process that sees the GPUs that a task needs, if the task fits beside those that are running."""
        if not self._fits(shape):
            return None
        gpus = shape.gpus or 0.0
        idle = [process for process in free if isinstance(process, WorkerProcess)]
        chosen = next((process for process in idle if self._gpus.get(process, 0.0) == gpus), None)
        if chosen is None:
            chosen, share = next((process for process in idle if process not in self._gpus), idle[0]), None
            if chosen in self._gpus:
                self._drop(chosen)
            if gpus:
                while (share := self._take(gpus)) is None and (holders := self._idle_holders()):
                    self._drop(holders[0])
                    self._looked.clear()
                if share is None:  # another program was faster
                    return None
                self._gpus[chosen] = gpus
            chosen.use_gpus(share)
        self._shapes[chosen] = shape
        return chosen

    def threads(self, shape: TaskResources) -> int:
        """Return the cores that a task asks for, if there are so many, else the share of a process."""
        if self._asked is not None or shape.cpus is None:
            return self._session.threads
        return min(shape.cpus, self._capacity.cores)

    def wanted(self, tasks: Mapping[TaskResources, int]) -> None:
        """Do nothing: any process can run any task."""

    def _busy(self) -> int:
        return sum(process.task is not None for process in self._processes)

    def _fits(self, shape: TaskResources) -> bool:
        """Return whether a task can start now."""
        if self.lacks(shape):
            return False
        running = [
            self._shapes.get(process, TaskResources()) for process in self._processes if process.task is not None
        ]
        return self._capacity.fits(shape, running) and (not shape.gpus or self._has_gpus(shape.gpus))

    def lacks(self, shape: TaskResources) -> str:
        """Return what a task asks for that this machine does not have; empty if it has everything, or the task runs alone."""
        if not self._strict:
            return ""
        return self._capacity.lacks(shape, len(self._visible()) if shape.gpus else None)

    def _visible(self) -> list[str]:
        if self._names is None:  # a program may have to be called for them
            self._names = visible_gpus()
        return self._names

    def _idle_holders(self) -> list[WorkerProcess]:
        return [process for process in self._processes if process.free and process in self._gpus]

    def _has_gpus(self, gpus: float) -> bool:
        """Return whether so many GPUs are free, or would be if idle processes gave theirs back."""
        held = [self._gpus[process] for process in self._idle_holders()]
        there = sum(max(1, int(n)) for n in held if n >= min(gpus, 1.0))
        if gpus in held or there >= gpus:
            return True
        share = self._take(gpus - there if gpus > 1 else gpus)
        if share is not None:
            share.close()  # it is taken when there is a task
        return share is not None

    def _take(self, gpus: float) -> GpuShare | None:
        """Take GPUs, unless they were not free a moment ago."""
        if time.monotonic() - self._looked.get(gpus, -1e9) < _GPU_SECONDS:
            return None
        share = take_gpus(gpus, self._visible())
        if share is None:
            self._looked[gpus] = time.monotonic()
        waits = share is None and not self._gpus and not self._busy()
        if waits and not self._waits:
            log.warning("waiting for a GPU: all that this process may use are in use by others")
        self._waits = waits
        return share

    def _drop(self, process: WorkerProcess) -> None:
        """Give the GPUs of an idle process back."""
        process.use_gpus(None)
        del self._gpus[process]

    def _drop_unused(self) -> None:
        """Give GPUs back that no task has used for a while."""
        now = time.monotonic()
        for process in list(self._gpus):
            if process.task is not None:
                self._idle_since.pop(process, None)
            elif now - self._idle_since.setdefault(process, now) > _GPU_SECONDS:
                self._drop(process)

    def start(self) -> None:
        """Start the processes, unless it is not known which of them will have which GPUs."""
        if self._asked is None:
            return
        for process in self._processes:
            if self._asked.gpus:
                share = self._take(self._asked.gpus)
                if share is None:
                    return
                process.use_gpus(share)
                self._gpus[process] = self._asked.gpus
            process.start()

    def prepare(self) -> None:
        """Do nothing: the processes read what this process has prepared."""

    def woken(self) -> None:
        """Do nothing: the handles are ready as long as there is something to read."""

    def explain(self) -> str:
        """Return an empty string: a process can always be started."""
        return ""

    def refuse(self, task: TaskRecord, shape: TaskResources) -> str:
        """Return an empty string: what one process cannot run is not offered to the others."""
        return ""

    def settled(self, task: TaskRecord, *, stored: bool) -> None:
        """Do nothing: the processes have recorded the runs themselves."""

    def close(self) -> None:
        """Let the processes exit, and kill those that do not."""
        for process in self._processes:
            process.shut_down()
        for process in self._processes:
            process.end(1.0)
