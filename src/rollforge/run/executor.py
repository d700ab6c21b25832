"""Executors: run the tasks of a pool in this process, or in worker processes on this machine.

An executor says where tasks run. It is given a :class:`~rollforge.run.job.Job`, runs its tasks until none can make
progress, and reports each step as an :class:`~rollforge.run.job.Event`. The outcome of each task is in the store; an
executor returns nothing. :class:`rollforge.testing.executor.ExecutorSuite` tests your own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rollforge.errors import ConfigError, shown
from rollforge.run.capacity import Capacity
from rollforge.run.gpus import check_gpus
from rollforge.run.job import Event, Job, ignore_event
from rollforge.run.requirements import Admission
from rollforge.run.runners import LocalRunners, StartedProcesses
from rollforge.run.task_resources import Shapes, TaskResources
from rollforge.run.worker import Worker
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, using
from rollforge.store.base import TaskStore, open_store

__all__ = ["Executor", "InProcess", "LocalProcesses", "check_executor"]

log = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs the tasks of a job until none of them can make progress."""

    def run(
        self,
        job: Job,
        session: Session,
        on_event: Callable[[Event], None] = ...,
        *,
        store: TaskStore | None = None,
        while_starting: Callable[[], None] | None = None,
        admission: Admission | None = None,
        log_file: Path | None = None,
    ) -> None:
        """Run tasks until none is left; tasks that failed are ``failed`` in the store.

        Parameters
        ----------
        job : Job
            The job to run.
        session : Session
            The session of the tasks.
        on_event : callable
            Called with each event.
        store : TaskStore, optional
            The task store; by default the session's.
        while_starting : callable, optional
            Preparation that the tasks need; called while worker processes start, before the first task.
        admission : Admission, optional
            Decides which submissions' tasks can run and in which session. By default, all tasks run in `session`.
        log_file : path, optional
            File to which worker processes of this machine also log.
        """


def check_executor(executor: object, **instead: object) -> None:
    """Check the argument `executor` of a trainer.

    Raises
    ------
    ConfigError
        If it is not an executor, or if one of the arguments that it replaces was passed too.

    Examples
    --------
    >>> check_executor(None, jobs=2)
    >>> check_executor(InProcess(), jobs=2)
    Traceback (most recent call last):
    rollforge.errors.ConfigError: executor: replaces jobs, so pass only one of them.
    """
    if executor is None:
        return
    if not callable(getattr(executor, "run", None)):
        raise ConfigError(f"must be an executor, such as LocalProcesses(4), found {shown(executor)}.", path="executor")
    if given := [name for name, value in instead.items() if value]:
        raise ConfigError(f"replaces {' and '.join(given)}, so pass only one of them.", path="executor")


@dataclass(frozen=True, slots=True)
class InProcess:
    """Runs tasks one after another in this process: for debugging, tests, and very short tasks.

    Examples
    --------
    >>> from rollforge.session import Session
    >>> store = open_store("memory://example of an executor")
    >>> _ = store.create("p", [{"x": 1}])
    >>> InProcess().run(Job("p", len), Session(store_uri=store.uri))
    >>> store.count("p")
    {<Status.DONE: 'done'>: 1}
    """

    def run(
        self,
        job: Job,
        session: Session,
        on_event: Callable[[Event], None] = ignore_event,
        *,
        store: TaskStore | None = None,
        while_starting: Callable[[], None] | None = None,
        admission: Admission | None = None,
        log_file: Path | None = None,
    ) -> None:
        """Run the tasks of `job` in this process, which logs by itself."""
        with using(session):
            if while_starting is not None:
                while_starting()
            Worker(store or open_store(session.store_uri), job, on_event=on_event, admission=admission).run()


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Runs tasks in worker processes, each of which runs many tasks. The session's threads are divided among them.

    Tasks that ask for their own ``resources`` start when they fit beside those that are running, by priority, those that
    ask for most first.

    If a process dies (``kill -9``, out of memory, a crash in C code), the attempt at its task has failed. The task
    returns to the pool at once, and a new process replaces the dead one.

    Parameters
    ----------
    jobs : int
        Number of worker processes.
    started : StartedProcesses, optional
        Processes that are running already, which are used first.
    gpus : float
        GPUs that each process uses alone, or the fraction of one that it uses. A process sees only its own, in
        ``CUDA_VISIBLE_DEVICES``, and waits until they are free if other processes of this user have them. 0: all
        processes see all GPUs.

    Examples
    --------
    >>> from rollforge.session import Session
    >>> store = open_store("memory://example of processes")
    >>> _ = store.create("p", [{"x": 1}, {"x": 2}])
    >>> LocalProcesses(jobs=1).run(Job("p", len), Session(store_uri=store.uri, threads=1))
    >>> store.count("p")
    {<Status.DONE: 'done'>: 2}
    """

    jobs: int
    started: StartedProcesses | None = None
    gpus: float = 0.0

    def run(
        self,
        job: Job,
        session: Session,
        on_event: Callable[[Event], None] = ignore_event,
        *,
        store: TaskStore | None = None,
        while_starting: Callable[[], None] | None = None,
        admission: Admission | None = None,
        log_file: Path | None = None,
    ) -> None:
        """Run the tasks of `job` in ``jobs`` processes.

        Raises
        ------
        TrainingFailed
            If worker processes die before they can run a task; the message contains the last one's error.
        ConfigError
            If this machine has fewer GPUs than a process needs.
        """
        opened = store or open_store(session.store_uri)
        shapes = Shapes(opened, job, TaskResources(gpus=self.gpus))
        check_gpus(max(shape.gpus or 0.0 for shape in shapes.known))
        capacity = Capacity.of_machine(session.threads, self.jobs)
        for shape in shapes.known:
            if lacks := capacity.lacks(shape):
                log.warning("tasks ask for %s: each runs alone, with what there is", lacks)
        (asked,) = shapes.known if len(shapes.known) == 1 else (None,)
        jobs = self.jobs if asked is None else capacity.side_by_side(asked, self.jobs)
        share = session.shared_by(jobs)
        WorkerPool(
            opened, job, share, jobs, on_event, while_starting=while_starting, admission=admission, shapes=shapes,
            runners=LocalRunners(share, job, jobs, log_file, self.started, capacity, asked),
        ).run()  # fmt: skip
