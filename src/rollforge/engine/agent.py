"""An agent: what an engine starts on a machine of its cluster to run tasks, one at a time.

The agent runs each task in a worker process of its own, as a local run does, so that the cause of a failure is decided
in the same way everywhere. The driver (the process that holds the pool) gives it commands and gets events, both through
:meth:`Agent.exchange`. An agent that has not heard of its driver for a while ends its worker process: the driver has
died, or has given the task to another agent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import connection
from pathlib import Path
from types import ModuleType

from rollforge import drivers
from rollforge.engine.guard import STARTING, Guard, resident
from rollforge.engine.modules import missing_here
from rollforge.engine.parcel import Manifest, has, here, modules_folder, other_versions
from rollforge.engine.runs import clear, pack, take
from rollforge.machine import boot_id
from rollforge.run.job import Job
from rollforge.run.messages import Failed, Outcome
from rollforge.run.worker_process import WorkerProcess
from rollforge.session import Session
from rollforge.task import Cause, TaskRecord

__all__ = [
    "Agent", "Assign", "Command", "Ended", "Equipment", "Interrupt", "Kill", "NodeInfo", "Reply", "Seek", "Setup", "Start",
    "node_info",
]  # fmt: skip

ABSENT = "none"
"""Version of Rollforge where it is not installed."""
_PAUSE = 0.25
_SENDING_PAUSE = 0.01
_MUCH_MEMORY = 50_000_000


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine of a cluster, as far as it decides whether tasks can run there.

    Examples
    --------
    >>> node_info() == node_info()
    True
    """

    host: str
    python: str
    """Minor version, such as ``3.12``: pickles of another one may not be readable."""
    rollforge: str
    system: str
    place: str = ""
    """The machine and its cache: processes with the same one share files."""
    agent: str = ""
    """Identity of the agent that answers."""

    def differs_from(self, driver: NodeInfo) -> str:
        """Return what differs from the driver's machine and what to do about it; empty if tasks can run here.

        Examples
        --------
        >>> driver = NodeInfo("a", "3.12", "1.0", "Linux")
        >>> NodeInfo("b", "3.11", "1.0", "Linux").differs_from(driver)
        'b runs Python 3.11, the driver a runs Python 3.12. Install Python 3.12 on b.'
        >>> NodeInfo("b", "3.12", "none", "Linux").differs_from(driver)
        'b has no Rollforge, the driver a runs Rollforge 1.0. Install Rollforge 1.0 on b: pip install rollforge==1.0'
        """
        for name, found, wanted in (
            ("Python", self.python, driver.python),
            ("Rollforge", self.rollforge, driver.rollforge),
        ):
            if found != wanted:
                how = f": pip install rollforge=={wanted}" if name == "Rollforge" and wanted != "unknown" else "."
                has = f"has no {name}" if found == ABSENT else f"runs {name} {found}"
                return (
                    f"{self.host} {has}, the driver {driver.host} runs {name} {wanted}. "
                    f"Install {name} {wanted} on {self.host}{how}"
                )
        return ""


def node_info() -> NodeInfo:
    """Return the description of this machine."""
    try:
        installed = version("rollforge")
    except PackageNotFoundError:  # run from a source folder
        installed = "unknown"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = f"{socket.gethostname()} {boot_id()} {Session().cache}"
    return NodeInfo(socket.gethostname(), python, installed, platform.system(), place)


@dataclass(frozen=True, slots=True)
class Equipment:
    """The part of what tasks need that a machine has.

    Examples
    --------
    >>> Equipment(complete=True, lacks=("catboost",)).lacks
    ('catboost',)
    """

    complete: bool
    """Whether it has the parcel."""
    lacks: tuple[str, ...] = ()
    """Packages and modules that are not installed."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Packages of which it has another version than the driver -> the version there."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Session, job and time limit with which an agent starts."""

    session: Session
    job: Job
    drivers: drivers.Registered
    silence: float
    """Seconds without a call after which the agent ends its worker process."""
    sends_runs: bool = False
    """Whether runs are recorded in a folder of the agent and sent to the driver with the outcome of their task."""

    def with_cores(self, cpus: int | None) -> Setup:
        """Return these for tasks that ask for a number of cores; None if they ask for none."""
        return self if cpus is None else replace(self, session=self.session.with_(threads=cpus))


@dataclass(frozen=True, slots=True)
class Start:
    """Start the worker process."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Run a task."""

    task: TaskRecord
    threads: int
    session: Session | None
    own: bool
    main: bytes | None
    """Classes of the driver's ``__main__`` that the task names."""
    continued: bytes | None = None
    """The run that the task continues, see :func:`~rollforge.engine.runs.lend`."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker process."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ask the worker process to abort its task."""


@dataclass(frozen=True, slots=True)
class Renew:
    """End the worker process, so that the next task gets a new one."""

    grace: float


@dataclass(frozen=True, slots=True)
class Seek:
    """Find out whether another agent of this machine has ended together with its worker process."""

    agent: str


Command = Start | Assign | Kill | Interrupt | Renew | Seek


@dataclass(frozen=True, slots=True)
class Ended:
    """A task has ended."""

    number: int
    """Number of the event, from 1: the agent repeats an event until its driver has confirmed its number."""
    task_id: str
    token: int
    outcome: Outcome
    seconds: float
    log: str
    ready: bool
    """Whether the worker process had started when the task ended."""
    runs: bytes | None = None
    """What the task has recorded, see :func:`~rollforge.engine.runs.pack`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of an agent to a call."""

    events: tuple[Ended, ...] = ()
    log: str | None = None
    """What the running task has printed or logged; None if it has not changed since the last reply."""
    ended: bool = False
    """Whether the agent has stopped, and runs no more tasks."""
    memory: int = 0
    """Bytes of memory that the process of the running task uses."""
    up: bool = False
    """Whether the worker process is running and has got ready."""
    ended_agents: Mapping[str, int] = field(default_factory=dict)
    """Those of the agents that it was to seek that have ended -> bytes of memory that their worker process used."""


class Agent:
    """Runs tasks in a worker process, as its driver says.

    Parameters
    ----------
    setup : Setup
        Session and job of the tasks.
    """

    def __init__(self, setup: Setup) -> None:
        drivers.register_again(setup.drivers)
        self._setup = setup
        self._folder = tempfile.TemporaryDirectory(prefix="rollforge-agent-", ignore_cleanup_errors=True)
        self._runs = Path(self._folder.name) / "runs"
        self._runs.mkdir()
        self._manifest: Manifest | None = None
        self._process: WorkerProcess | None = None
        self._changed = threading.Condition()
        self._commands: deque[Command] = deque()
        self._events: deque[Ended] = deque()  # not confirmed yet
        self._ended = 0  # number of the last event
        self._next = 0  # number of the next call
        self._calls = 0  # waiting calls give way to later ones
        self._heard = time.monotonic()
        self._answered = {-1: self._heard}  # call -> when it was answered
        self._identity = uuid.uuid4().hex
        self._notes = Path(Session().cache) / "ended"
        self._guard = Guard(self._folder.name, str(self._notes / self._identity))
        self._sought: set[str] = set()
        self._found: dict[str, int] = {}
        self._told = 0  # how many of them the driver knows
        self._log: str = ""
        self._sent_log = ""
        self._memory = self._sent_memory = 0
        self._up = self._sent_up = False
        self._stopped = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._thread = threading.Thread(target=self._run, name="rollforge-agent", daemon=True)
        self._thread.start()

    def info(self) -> NodeInfo:
        """Return the description of this machine."""
        with self._changed:
            self._answered[-1] = time.monotonic()
        return replace(node_info(), agent=self._identity)

    def equip(self, manifest: Manifest) -> Equipment:
        """Use a parcel for the tasks, if this machine has it and lacks nothing, and return what it has."""
        lacks = tuple(missing_here(manifest.required))
        complete = not lacks and has(manifest, Session().cache)
        if complete:
            self._manifest = manifest
        return Equipment(complete, lacks, other_versions(manifest))

    def exchange(self, number: int, commands: Sequence[Command], seconds: float, confirmed: int, seen: int) -> Reply:
        """Follow commands, and return the events that the driver does not have yet.

        A call whose answer was lost can be repeated: its commands are followed once.

        Parameters
        ----------
        number : int
            Number of the call, from 0: calls that overtake others wait for them.
        commands : sequence of Command
            What to do.
        seconds : float
            Maximum time to wait for an event. A later call ends the waiting.
        confirmed : int
            Number of the last event that the driver has.
        seen : int
            Number of the last call whose answer the driver had when it sent this one; -1 is that of :meth:`info`. A call may
            have been under way for long, but it was sent after that answer: from then on the driver is silent.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next >= number, timeout=self._setup.silence)
            self._heard = max(self._heard, self._answered.get(seen, 0.0))
            for known in [n for n in self._answered if n < seen]:
                del self._answered[known]
            while self._events and self._events[0].number <= confirmed:
                self._events.popleft()
            if number >= self._next:
                self._next = number + 1
                self._commands.extend(one for one in commands if not isinstance(one, Seek))
                self._sought.update(one.agent for one in commands if isinstance(one, Seek))
            self._calls += 1
            this = self._calls
            self._changed.notify_all()
            if commands:
                self._wake_up()
            self._changed.wait_for(
                lambda: bool(self._events) or self._stopped or self._calls != this or self._has_news(),
                timeout=deadline - time.monotonic(),
            )
            events = tuple(self._events)
            text = None if self._log == self._sent_log else self._log
            self._sent_log = self._log
            self._answered.setdefault(number, time.monotonic())
            self._sent_memory, self._sent_up, self._told = self._memory, self._up, len(self._found)
            return Reply(events, text, self._stopped, self._memory, self._up, dict(self._found))

    def _has_news(self) -> bool:
        """Return whether the driver must know at once that other agents have ended, that this task needs more memory, or
        that the worker process has started or ended.

        An engine that is short of memory may end other agents in its place, whose tasks are not to blame.
        """
        more = self._memory > 1.25 * self._sent_memory + _MUCH_MEMORY
        return len(self._found) > self._told or more or self._up != self._sent_up

    @property
    def pid(self) -> int:
        """Id of the worker process; 0 if there is none."""
        return 0 if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the worker process and the agent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            self._wake_up()
        self._thread.join(10.0)

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake, b"x")

    # -- the thread that has the worker process --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._step()
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.end(0.0)
            self._guard.close()
            self._folder.cleanup()
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def _step(self) -> None:
        process = self._process
        busy = process is not None and process.task is not None
        handles = process.handles if busy and process is not None else []
        pause = _SENDING_PAUSE if process is not None and process.is_sending else _PAUSE
        connection.wait([self._woken, *handles], timeout=pause)
        with self._changed:
            if self._commands or not handles:
                os.set_blocking(self._woken, False)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            commands = list(self._commands)
            self._commands.clear()
            until = self._heard + self._setup.silence
            if time.monotonic() > until:  # what happens to the task now is not its own doing
                self._stopped = True
                return
        if commands and process is None:
            modules = None if self._manifest is None else modules_folder(self._manifest, Session().cache)
            self._process = process = WorkerProcess(
                self._here(self._setup.session), self._setup.job, modules=modules
            )  # fmt: skip
        if process is not None:
            if commands:
                self._guard.allow(until, STARTING)
            for command in commands:
                self._follow(process, command)
            self._guard.allow(until, process.pid)
        if process is not None and process.task is not None:
            process.overdue()
            self._log = process.log()
            self._memory = resident(process.pid)
            self._report(process)
            self._up = process.is_up
        if self._sought or self._memory or self._has_news():
            self._look()

    def _look(self) -> None:
        """Look for notes about other agents, and let a waiting call tell the driver what is new."""
        for agent in list(self._sought):
            with contextlib.suppress(OSError, ValueError):  # not there yet
                self._found[agent] = int((self._notes / agent).read_text(encoding="ascii"))
                self._sought.discard(agent)
        with self._changed:
            if self._has_news():
                self._changed.notify_all()

    def _follow(self, process: WorkerProcess, command: Command) -> None:
        match command:
            case Start():
                with _clean_start():
                    process.start()
            case Assign(task, threads, session, own, main, continued):
                if self._setup.sends_runs:
                    clear(self._runs)
                if continued is not None:
                    task = take(continued, task, self._runs)
                with _clean_start():
                    process.assign(
                        task, threads, None if session is None else self._here(session), own=own, main=main
                    )  # fmt: skip
            case Kill():
                process.kill()
            case Interrupt():
                process.interrupt()
            case Renew(grace):
                process.renew_process(grace)

    def _here(self, session: Session) -> Session:
        """Return a session of the driver for this machine."""
        session = session.with_(cache=Session().cache)
        if self._manifest is not None:
            session = here(self._manifest, session, Session().cache)
        return session.with_(tracking_uri=f"folder:{self._runs}") if self._setup.sends_runs else session

    def _report(self, process: WorkerProcess) -> None:
        outcome, task = process.outcome(), process.task
        if outcome is None or task is None:
            return
        runs = pack(self._runs) if self._setup.sends_runs else None
        self._ended += 1
        event = Ended(
            self._ended, task.id, task.token, outcome, process.seconds, process.log(), process.ready, runs
        )  # fmt: skip
        process.task = None
        if self._setup.job.force_release:
            process.renew_process()
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Start a worker process as from a program of its own.

    A spawned process imports the ``__main__`` of its parent, which here is the engine's own program; and some engines
    run in daemonic processes, which may have no children by default.
    """
    main, config = sys.modules["__main__"], multiprocessing.current_process()._config  # type: ignore[attr-defined]
    daemon = config.get("daemon")
    sys.modules["__main__"] = ModuleType("__main__")
    config["daemon"] = False
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        config["daemon"] = daemon


def lost(task: TaskRecord, where: str, why: str) -> Failed:
    """Return the outcome of a task whose agent does not answer any more."""
    return Failed(
        f"The agent on {where} that ran the task was lost: {why}", f"agent on {where} was lost: {why}", Cause.LOST
    )


def slim(task: TaskRecord) -> TaskRecord:
    """Return what an agent needs of a task: not its log, its dependencies and the like."""
    return replace(task, log="", error=None, depends_on=(), failed_by=(), extra={})
