"""Where the tasks of a pool are run: in this process, or in worker processes of this machine. One contract for both.

An executor is given a :class:`Job`, runs its tasks until nothing can make progress, and reports each step as an
:class:`~rollforge.run.worker.Event`. Which tasks ended how is in the store, not in what an executor returns.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rollforge.errors import TrainingFailed
from rollforge.run.worker import Event, Job, Worker, WorkerStopped, worker_name
from rollforge.session import Session, mask_secrets, using
from rollforge.store.base import open_store
from rollforge.task import Status

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["Executor", "InProcess", "LocalProcesses"]

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Executor(Protocol):
    """Runs the tasks of a job until none of them can make progress."""

    def run(self, job: Job, on_event: Callable[[Event], None] = ...) -> None:
        """Return when nothing is left to run; tasks that failed are in the store as ``failed``."""


def _ignore(event: Event) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """Runs the tasks one after another in this process: for debugging, tests, and very short tasks."""

    session: Session

    def run(self, job: Job, on_event: Callable[[Event], None] = _ignore) -> None:
        """Run the tasks of `job` here."""
        with using(self.session):
            Worker(open_store(self.session.store), job, on_event=on_event).run()


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Runs the tasks in worker processes, started once each; threads are shared out so that the machine is not overrun.

    A worker that dies (``kill -9``, out of memory, a crash in C code) costs an attempt of the task it held, which goes
    back to the pool at once; a new worker takes its place.
    """

    session: Session
    jobs: int
    log_file: Path | None = None
    max_idle_deaths: int = field(default=3)
    """Workers that may die in a row without having finished or failed a task before the executor gives up."""

    def run(self, job: Job, on_event: Callable[[Event], None] = _ignore) -> None:
        """Run the tasks of `job` in ``jobs`` processes.

        Raises
        ------
        TrainingFailed
            When workers die before they can do anything, with what the last one said.
        """
        share = self.session.with_(threads=max(1, self.session.threads // self.jobs))
        crew = _Crew(share, job, self.log_file, on_event)
        try:
            for _ in range(self.jobs):
                crew.start()
            self._watch(crew)
        finally:
            crew.stop()

    def _watch(self, crew: _Crew) -> None:
        idle_deaths = idle_ends = 0
        while crew.members:
            for member in crew.step():
                if member.ended_well:
                    idle_ends = 0 if member.events else idle_ends + 1
                    continue
                idle_deaths = 0 if member.events else idle_deaths + 1
                if idle_deaths >= self.max_idle_deaths:
                    raise TrainingFailed(
                        f"Worker processes end before they can run a task. The last one said:\n{member.last_words}"
                    )
                crew.start()
            if not crew.members and crew.work_left():
                if idle_ends > self.jobs + self.max_idle_deaths:
                    raise TrainingFailed(
                        "Worker processes find no task to run, though some are waiting. Was the task store "
                        f"{mask_secrets(self.session.store)} removed or replaced meanwhile?"
                    )
                crew.start()


@dataclass(slots=True)
class _Member:
    """One worker process, seen from its parent."""

    process: SpawnProcess
    pipe: connection.Connection
    name: str
    events: int = 0
    ended_well: bool = False
    last_words: str = "nothing"


class _Crew:
    """The worker processes of one job. Each has its own pipe: a shared queue's lock can die with a killed worker."""

    def __init__(self, session: Session, job: Job, log_file: Path | None, on_event: Callable[[Event], None]) -> None:
        self.session = session
        self.job = job
        self.log_file = log_file
        self.on_event = on_event
        self.store = open_store(session.store)
        self.members: list[_Member] = []
        self._context = multiprocessing.get_context("spawn")

    def start(self) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_worker_main, args=(self.session, self.job, theirs, self.log_file), name="rollforge-worker"
        )
        with _thread_variables(self.session.threads):
            process.start()
        theirs.close()
        self.members.append(_Member(process, ours, worker_name(process.pid)))

    def step(self) -> list[_Member]:
        """Pass on what the workers report within half a second; return those that ended, without their tasks."""
        handles: list[Any] = [m.pipe for m in self.members] + [m.process.sentinel for m in self.members]
        connection.wait(handles, timeout=0.5)
        ended = []
        for member in list(self.members):
            dead = not member.process.is_alive()
            self._drain(member)
            if dead:
                self.members.remove(member)
                member.pipe.close()
                self._bury(member)
                ended.append(member)
        return ended

    def _drain(self, member: _Member) -> None:
        # A worker that dies between two messages leaves the pipe at its end; what it managed to say was read.
        with contextlib.suppress(EOFError, OSError):
            while member.pipe.poll():
                message = member.pipe.recv()
                if isinstance(message, Event):
                    member.events += message.kind != "started"
                    self.on_event(message)
                elif message == "end":
                    member.ended_well = True
                else:
                    member.last_words = str(message)

    def _bury(self, member: _Member) -> None:
        if member.ended_well:
            return
        code = member.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"
        if member.last_words == "nothing":
            member.last_words = f"the process {how}"
        for record in self.store.release_worker(self.job.pool, member.name, f"The worker {member.name} {how}."):
            kind: Literal["failed", "retry"] = "failed" if record.status is Status.FAILED else "retry"
            self.on_event(Event(kind, record.id, member.name, error=f"worker {how}", at=time.time()))
            member.events += 1

    def work_left(self) -> bool:
        return bool(self.store.count(self.job.pool, self.job.query).get(self.job.before, 0))

    def stop(self) -> None:
        """End the workers that are still there: first they may give their tasks back, then they are killed."""
        for member in self.members:
            member.process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for member in self.members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            self._drain(member)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            self.store.release_worker(self.job.pool, member.name, None)
            member.pipe.close()
        self.members = []


@contextlib.contextmanager
def _thread_variables(threads: int) -> Iterator[None]:
    """Limit the thread pools of a child: libraries read these when they are loaded, so they are set before."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update({name: str(threads) for name in _THREAD_VARIABLES})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _worker_main(session: Session, job: Job, pipe: connection.Connection, log_file: Path | None) -> None:
    """The life of one worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what to do
    signal.signal(signal.SIGTERM, _raise_stopped)
    if log_file is not None:
        logging.basicConfig(
            filename=log_file, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
        )
    parent = multiprocessing.parent_process()

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    try:
        with using(session):
            Worker(open_store(session.store), job, on_event=pipe.send, stop=orphaned).run()
        pipe.send("end")
    except WorkerStopped:
        pipe.send("end")
    except BrokenPipeError:
        sys.exit(1)  # the parent is gone; the task is given back already
    except BaseException as exc:
        log.exception("worker ended")
        pipe.send(f"{type(exc).__name__}: {exc}")
        raise


def _raise_stopped(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: giving the task back must not be interrupted
    raise WorkerStopped
