"""Executors: run the tasks of a pool in this process, or in worker processes on this machine.

An executor gets a :class:`Job`, runs its tasks until none can make progress, and reports each step as an
:class:`~rollforge.run.worker.Event`. The outcome of each task is in the store; an executor returns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rollforge.run.job import Event, Job, ignore_event
from rollforge.run.requirements import Admission
from rollforge.run.worker import Worker
from rollforge.run.worker_pool import WorkerPool
from rollforge.run.worker_process import StartedProcesses
from rollforge.session import Session, using
from rollforge.store.base import open_store

__all__ = ["Executor", "InProcess", "LocalProcesses"]


class Executor(Protocol):
    """Runs the tasks of a job until none of them can make progress."""

    def run(
        self, job: Job, on_event: Callable[[Event], None] = ..., while_starting: Callable[[], None] | None = None
    ) -> None:
        """Run tasks until none is left; tasks that failed are ``failed`` in the store.

        Parameters
        ----------
        job : Job
            The job to run.
        on_event : callable
            Called with each event.
        while_starting : callable, optional
            Preparation that the tasks need; called while worker processes start, before the first task.
        """


@dataclass(frozen=True, slots=True)
class InProcess:
    """Runs tasks one after another in this process: for debugging, tests, and very short tasks.

    Examples
    --------
    >>> from rollforge.session import Session
    >>> store = open_store("memory://example of an executor")
    >>> _ = store.create("p", [{"x": 1}])
    >>> InProcess(Session(store_uri=store.uri)).run(Job("p", len))
    >>> store.count("p")
    {<Status.DONE: 'done'>: 1}
    """

    session: Session
    admission: Admission | None = None

    def run(
        self,
        job: Job,
        on_event: Callable[[Event], None] = ignore_event,
        while_starting: Callable[[], None] | None = None,
    ) -> None:
        """Run the tasks of `job` in this process."""
        with using(self.session):
            if while_starting is not None:
                while_starting()
            Worker(open_store(self.session.store_uri), job, on_event=on_event, admission=self.admission).run()


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Runs tasks in worker processes, each of which runs many tasks. The session's threads are divided among them.

    If a process dies (``kill -9``, out of memory, a crash in C code), the attempt at its task has failed. The task
    returns to the pool at once, and a new process replaces the dead one.

    Examples
    --------
    >>> from rollforge.session import Session
    >>> store = open_store("memory://example of processes")
    >>> _ = store.create("p", [{"x": 1}, {"x": 2}])
    >>> LocalProcesses(Session(store_uri=store.uri, threads=1), jobs=1).run(Job("p", len))
    >>> store.count("p")
    {<Status.DONE: 'done'>: 2}
    """

    session: Session
    jobs: int
    log_file: Path | None = None
    admission: Admission | None = None
    started: StartedProcesses | None = None

    def run(
        self,
        job: Job,
        on_event: Callable[[Event], None] = ignore_event,
        while_starting: Callable[[], None] | None = None,
    ) -> None:
        """Run the tasks of `job` in ``jobs`` processes.

        Raises
        ------
        TrainingFailed
            If worker processes die before they can run a task; the message contains the last one's error.
        """
        share = self.session.shared_by(self.jobs)
        WorkerPool(
            open_store(share.store_uri), job, share, self.jobs, on_event, log_file=self.log_file, while_starting=while_starting,
            admission=self.admission, started=self.started,
        ).run()  # fmt: skip
