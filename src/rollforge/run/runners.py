"""Runners, to which a :class:`~rollforge.run.worker_pool.WorkerPool` gives tasks: worker processes of this machine, or others."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from rollforge.run.job import Job
from rollforge.run.messages import Outcome
from rollforge.run.worker_process import WorkerProcess
from rollforge.session import Session
from rollforge.task import TaskRecord

__all__ = ["LocalRunners", "Runner", "Runners", "StartedProcesses"]


log = logging.getLogger(__name__)

_GPU_SECONDS = 1.0  # between two attempts to take GPUs that are in use


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


class Runners(Protocol):
    """The runners of one :class:`~rollforge.run.worker_pool.WorkerPool`."""

    def current(self) -> Sequence[Runner]:
        """Return the runners that exist now, including those whose task's outcome has not been recorded."""

    def start(self) -> None:
        """Start the processes of all runners before the first task, for example while this process prepares data."""

    def prepare(self) -> None:
        """Prepare what the tasks need there; called once, when this process has prepared its data."""

    def woken(self) -> None:
        """Note that one of the handles was ready: the outcomes are read next."""

    def explain(self) -> str:
        """Return why no runner can run tasks; empty if one can, or may soon."""

    def refuse(self, task: TaskRecord) -> str:
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
    """Worker processes of this machine.

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
    gpus : float
        GPUs of each process, or the fraction of one.

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
        gpus: float = 0.0,
    ) -> None:
        self._processes = [] if started is None or gpus else started.take(session, job, jobs, log_file)
        missing = jobs - len(self._processes)
        self._processes += [WorkerProcess(session, job, log_file, gpus=gpus) for _ in range(missing)]
        self._looked = -1e9
        self._waits = False

    def current(self) -> Sequence[Runner]:
        """Return the processes, which are always the same, after giving those that need GPUs the ones that are free."""
        if time.monotonic() - self._looked > _GPU_SECONDS and not all(process.has_gpus for process in self._processes):
            for process in self._processes:
                process.take_gpus()
            self._looked = time.monotonic()
            waits = not any(process.has_gpus for process in self._processes)
            if waits and not self._waits:
                log.warning("waiting for a GPU: all that this process may use are in use by others")
            self._waits = waits
        return self._processes

    def start(self) -> None:
        """Start the processes, except for those that wait for a GPU."""
        for process in self.current():
            if process.free:
                process.start()

    def prepare(self) -> None:
        """Do nothing: the processes read what this process has prepared."""

    def woken(self) -> None:
        """Do nothing: the handles are ready as long as there is something to read."""

    def explain(self) -> str:
        """Return an empty string: a process can always be started."""
        return ""

    def refuse(self, task: TaskRecord) -> str:
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
