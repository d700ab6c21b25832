"""An agent as a runner, from the driver's side.

When an engine loses an agent, it only knows that the agent does not answer: the task is free again when the agent must have
ended it by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from rollforge.code_marks import panel_libraries
from rollforge.engine.agent import (
    Assign,
    Command,
    Ended,
    Equipment,
    Interrupt,
    Kill,
    NodeInfo,
    Renew,
    Reply,
    Seek,
    Start,
    lost,
    node_info,
    slim,
)  # fmt: skip
from rollforge.engine.modules import installation
from rollforge.engine.parcel import Manifest, Parcel
from rollforge.engine.runs import Deliveries, lend
from rollforge.run.interactive import main_classes
from rollforge.run.messages import Failed, Outcome, Stopped
from rollforge.run.task_resources import TaskResources
from rollforge.session import Session
from rollforge.task import Cause, TaskRecord

__all__ = ["BEATS", "SILENCE_SECONDS", "AgentLost", "AgentRef", "Call", "RemoteRunner", "Shared", "SupportsReasons"]

T = TypeVar("T")

log = logging.getLogger(__name__)

SILENCE_SECONDS = 30.0
"""Seconds without a call from its driver after which an agent ends its task. Less than the lease of the task: another
driver may claim the task then."""
BEATS = 6
"""Calls within that time."""


class AgentLost(Exception):
    """An agent has ended, or its machine is gone.

    Parameters
    ----------
    why : str
        What the engine says.
    out_of_memory : bool
        Whether the engine ended the agent because its machine was short of memory.
    chosen : bool
        Whether the engine chose this agent among those of its machine by other criteria than the memory of their tasks.
    """

    def __init__(self, why: str, *, out_of_memory: bool = False, chosen: bool = False) -> None:
        super().__init__(why)
        self.out_of_memory = out_of_memory
        self.chosen = chosen


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of a call of :meth:`~rollforge.engine.agent.Agent.exchange`."""

    number: int
    commands: tuple[Command, ...]
    seconds: float
    confirmed: int
    seen: int

    @property
    def arguments(self) -> tuple[int, tuple[Command, ...], float, int, int]:
        """The arguments in their order."""
        return self.number, self.commands, self.seconds, self.confirmed, self.seen


class AgentRef(Protocol):
    """An agent that the engine has started or will start when it has room."""

    @property
    def asked(self) -> TaskResources:
        """What the tasks ask for that it takes."""

    def info(self) -> Future[NodeInfo]:
        """Call :meth:`~rollforge.engine.agent.Agent.info`; the result comes when the agent runs."""

    def exchange(self, call: Call) -> Future[Reply]:
        """Call :meth:`~rollforge.engine.agent.Agent.exchange`.

        The future raises :class:`AgentLost` if the agent has ended. After any other exception the call is repeated.
        """

    def equip(self, manifest: Manifest) -> Future[Equipment]:
        """Call :meth:`~rollforge.engine.agent.Agent.equip`."""

    def receive(self, parcel: Parcel) -> Future[str]:
        """Call :func:`~rollforge.engine.parcel.install` on the machine of the agent, with its cache."""

    def stop(self) -> None:
        """End the agent and give its place in the cluster back, without waiting."""


@runtime_checkable
class SupportsReasons(Protocol):
    """An engine that can find out why agents are lost, or why there are none."""

    def why_lost(self, name: str, wait: bool = False) -> AgentLost | None:
        """Return why an agent was lost; None if nothing more is known.

        Called again until the task is given back, or once with `wait` if the agent itself has said that the task was ended.
        """

    def problem(self) -> str:
        """Return why there are no agents and will be none; empty if there is no such reason."""


@dataclass(slots=True)
class Shared:
    """Objects that all agents of a job have in common, on the driver."""

    session: Session
    silence: float
    """Seconds without a call after which an agent ends its task."""
    deliveries: Deliveries | None
    """Writes the runs that agents send; None if they record them themselves."""
    lends: bool
    """Whether tasks that continue runs of the driver are sent them."""
    bell: Bell = field(default_factory=lambda: Bell())
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "rollforge-answers"))
    parcel: Parcel | None = None
    """What tasks read."""
    losses: SupportsReasons | None = None
    """Says why agents are lost, if the engine can find out."""
    runners: dict[str, RemoteRunner] = field(default_factory=dict)
    """All agents by name."""
    equips: bool = False
    """Whether agents need a parcel, which may not be ready yet."""
    receiving: set[str] = field(default_factory=set)
    """Machines that are receiving the parcel."""
    told: set[str] = field(default_factory=set)
    """Warnings that were logged."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    """Tasks that machines could not run: id of the task -> machine -> what it lacks."""
    ended: dict[str, int] = field(default_factory=dict)
    """Lost agents that have ended together with their worker process -> bytes of memory that the latter used."""
    started: bool = False
    """Whether agents start their worker processes before they are given a task."""

    def tell(self, warning: str) -> None:
        """Log a warning once, although several agents of a machine have the same reason."""
        with self.lock:
            known = warning in self.told
            self.told.add(warning)
        if not known:
            log.warning("%s", warning)


class RemoteRunner:
    """An agent to which tasks are given.

    Parameters
    ----------
    name : str
        Name of the agent.
    agent : AgentRef
        The agent.
    shared : Shared
        What it has in common with the others.
    """

    def __init__(self, name: str, agent: AgentRef, shared: Shared) -> None:
        self.name = name
        self.asked = agent.asked
        self.task: TaskRecord | None = None
        self.failed = False
        self.refused = ""
        """Why tasks cannot run there."""
        self.node: NodeInfo | None = None
        self.gone = ""
        """Why the agent is lost; empty while it answers."""
        self.retired = False
        """Whether it was ended because there was no task for it."""
        self._agent = agent
        self._shared = shared
        self._silence = shared.silence
        self._lock = threading.RLock()
        self._events: deque[Ended] = deque()
        self._began = 0.0
        self._ready = False
        self._up = False
        self._log = ""
        self._number = 0
        self._confirmed = 0
        self._seen = -1  # last call that was answered
        self._writing = 0  # answers whose runs are being written
        self._again: list[Call] = []
        self._in_flight = 0
        self._called = time.monotonic()
        self._heard = time.monotonic()
        self._out_of_memory = False
        self._rivals: list[RemoteRunner] | None = None
        """Agents with tasks on the same machine when the engine chose to end this one."""
        self._witness: RemoteRunner | None = None
        self._sought: set[str] = set()
        self.memory = 0
        """Bytes of memory that its task uses, as of the agent's last answer."""
        self._equipped = False
        self._asked = False
        self._interrupted = False
        agent.info().add_done_callback(self._greeted)

    # -- state -----------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the agent's worker process ran the task that ended last."""
        return self._ready

    @property
    def is_up(self) -> bool:
        """Whether the agent's worker process is running and has got ready, as of the agent's last answer."""
        return self._up and not self.gone

    @property
    def free(self) -> bool:
        """Whether the agent answers, can run tasks, and has none."""
        return self.task is None and self._equipped and not self.refused and not self.gone

    @property
    def handles(self) -> list[Any]:
        """A handle that all runners of the engine share."""
        return [self._shared.bell.reader]

    @property
    def is_sending(self) -> bool:
        """False: the engine sends the whole task."""
        return False

    @property
    def seconds(self) -> float:
        """Seconds since the task was given to the agent."""
        return time.perf_counter() - self._began

    def log(self) -> str:
        """Return the last lines that the task printed or logged, as of the agent's last answer."""
        return self._log

    # -- commands --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the agent start its worker process, now or when it first answers."""
        if self._equipped:
            self._call([Start()], 0.0)

    def assign(self, task: TaskRecord, threads: int, session: Session | None = None, *, own: bool = False) -> None:
        """Send a task to the agent."""
        main = main_classes(task.text, of_script=True) if own else None
        with self._lock:
            self.task, self._began, self._log, self._ready = task, time.perf_counter(), "", False
        sent, continued = slim(task), None
        if self._shared.deliveries is not None:
            self._shared.deliveries.begin(task)
        if self._shared.lends:
            sent, continued = lend(sent, session or self._shared.session)
        self._call([Assign(sent, threads, session, own, main, continued)], self._silence / BEATS)

    def kill(self) -> None:
        """Let the agent kill its worker process."""
        self._call([Kill()], self._silence / BEATS)

    def interrupt(self) -> None:
        """Let the agent interrupt the task."""
        self._interrupted = True
        self._call([Interrupt()], self._silence / BEATS)

    def renew_process(self, grace: float = 5.0) -> None:
        """Let the agent end its worker process, so that the next task gets a new one."""
        self.failed = False
        self._call([Renew(grace)], 0.0)

    def overdue(self) -> bool:
        """Return False: the agent enforces the time limit."""
        return False

    @property
    def host(self) -> str:
        """Name of its machine; that of the agent if it has not answered yet."""
        return self.name if self.node is None else self.node.host

    @property
    def place(self) -> str:
        """Its machine and cache; the name of the agent if it has not answered yet."""
        return self.name if self.node is None else self.node.place

    def fits(self, task: TaskRecord) -> bool:
        """Return whether its machine has not refused the task before."""
        return self.place not in self._shared.refused.get(task.id, ())

    def leave(self, task: TaskRecord, reason: str) -> bool:
        """Note that something is missing for a task on this machine; another machine may run it."""
        self._shared.refused.setdefault(task.id, {})[self.place] = f"{self.host}: {reason}"
        log.warning("%s does not run task %s: %s", self.host, task.id[:8], reason)
        return True

    def stop(self) -> None:
        """End the agent."""
        self._agent.stop()

    def retire(self) -> bool:
        """Use the agent no more unless it has a task, and return whether it is retired."""
        with self._lock:
            if self.task is None and not self.gone:
                self.gone, self._blameless, self.retired = "it is not needed any more", True, True
        return self.retired

    # -- answers ---------------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome | None:
        """Return how the task ended. That of a lost agent is known when the agent must have ended it."""
        task = self.task
        with self._lock:
            while self._events:
                event = self._events.popleft()
                if task is not None and (event.task_id, event.token) == (task.id, task.token):
                    self._ready, self._log = event.ready, event.log
                    return event.outcome
            if task is None or not self.gone or self._writing:
                return None
            late = time.monotonic() >= self._ended_by
            if self._rivals is not None:
                if not late and not all(runner.has_ended for runner in (self, *self._rivals) if runner.gone):
                    return None
                if any(rival.used > self.used for rival in self._rivals):
                    return Stopped()  # ended in its place: a task would otherwise fail because of others
            elif not (late or self._out_of_memory or self.has_ended):
                return None
            self._ready = True  # the attempt counts
            if self._out_of_memory:
                return Failed(self.gone, self.gone, Cause.OUT_OF_MEMORY)
            return lost(task, self.host, self.gone)

    @property
    def has_ended(self) -> bool:
        """Whether it is known of a lost agent that it has ended together with its worker process."""
        return self.node is not None and self.node.agent in self._shared.ended

    @property
    def used(self) -> int:
        """Bytes of memory that its task uses, or used when the agent ended."""
        return max(self.memory, 0 if self.node is None else self._shared.ended.get(self.node.agent, 0))

    def _seek(self) -> None:
        """Ask another agent of the machine whether this one, which is lost, has ended together with its worker process."""
        if (
            self.task is None
            or self.node is None
            or self.has_ended
            or (self._witness is not None and not self._witness.gone)
        ):
            return
        others = (
            r for r in list(self._shared.runners.values()) if r is not self and not r.gone and r.place == self.place
        )
        self._witness = next(others, None)
        if self._witness is not None:
            self._witness.seek(self.node.agent)

    def seek(self, agent: str) -> None:
        """Let this agent find out whether another one of its machine has ended."""
        self._sought.add(agent)
        self._call([Seek(agent)], self._silence / BEATS)

    @property
    def _ended_by(self) -> float:
        """When an agent that does not answer must have ended its task, as a time of ``time.monotonic``."""
        return self._called + self._silence + 1.0

    def beat(self) -> None:
        """Call the agent if it has not been called for a while, and consider it lost if it does not answer."""
        self.equip()
        if self.gone:
            self._seek()
        with self._lock:
            now = time.monotonic()
            if self.node is None or self.gone:
                return
            if self._in_flight and now - self._heard > self._silence:
                self._lose(f"no answer for {self._silence:g} s")
            elif not self._in_flight and now - self._called > self._silence / BEATS:
                self._call([], 0.0)
            again, self._again = self._again, []
        for call in again:
            self._send(replace(call, confirmed=self._confirmed, seen=self._seen))

    def _call(self, commands: Sequence[Command], seconds: float) -> None:
        with self._lock:
            if self.gone:
                return
            call = Call(self._number, tuple(commands), seconds, self._confirmed, self._seen)
            self._number += 1
            if not self._in_flight:
                self._heard = time.monotonic()
            self._in_flight += 1
        self._send(call)

    def _send(self, call: Call) -> None:
        with self._lock:
            if self.gone:
                return
            self._called = time.monotonic()

        def arrived(future: Future[Reply]) -> None:
            # In another thread: this one is the engine's, and runs must be written.
            with contextlib.suppress(RuntimeError):  # the job has ended
                self._shared.threads.submit(self._answered, call, future)

        try:
            future = self._agent.exchange(call)
        except Exception as exc:  # noqa: BLE001 - whatever the engine raises
            future = Future()
            future.set_exception(exc)
        future.add_done_callback(arrived)

    def _answered(self, call: Call, future: Future[Reply]) -> None:
        try:
            reply = future.result()
        except AgentLost as exc:
            if exc.chosen:
                self._rivals = self._neighbours()
            self._lose(str(exc), out_of_memory=exc.out_of_memory)
            return
        except BaseException as exc:  # noqa: BLE001 - whatever the engine raises
            log.info("a call of agent %s on %s is repeated: %s: %s", self.name, self.host, type(exc).__name__, exc)
            with self._lock:
                self._again.append(call)  # sent with the next beat
            return
        with self._lock:
            self._in_flight -= 1
            self._heard = time.monotonic()
            self._seen = max(self._seen, call.number)
            if self.gone:  # too late: its task may be running elsewhere
                return
            task = self.task
            fresh = [event for event in reply.events if event.number > self._confirmed]
            if fresh:
                self._confirmed = fresh[-1].number
            events = [e for e in fresh if task is not None and (e.task_id, e.token) == (task.id, task.token)]
            self._writing += 1
        events = [self._delivered(event) for event in events]
        with self._lock:
            self._writing -= 1
            self._events.extend(events)
            self.memory, self._up = reply.memory, reply.up
            if reply.log is not None and not reply.events:
                self._log = reply.log
            if reply.ended:
                self._lose("it has stopped")
            news = reply.ended_agents.keys() - self._shared.ended.keys()
            self._shared.ended.update(reply.ended_agents)
            self._sought -= reply.ended_agents.keys()
            waiting = (self.task is not None or bool(self._sought)) and not self._in_flight and not self.gone
        if reply.events or news:
            self._shared.bell.ring()
        if waiting and not reply.events:
            self._call([], self._silence / BEATS)

    def _delivered(self, event: Ended) -> Ended:
        """Return an event after writing the runs in it."""
        ended, task = event.outcome, self.task
        by_signal = isinstance(ended, Stopped) or (isinstance(ended, Failed) and ended.cause is Cause.KILLED)
        # Whatever ends the agent may have ended the worker process first.
        if by_signal and task is not None and not self._interrupted and (why := self._why_lost(wait=True)) is not None:
            self._lose(f"{why}", out_of_memory=why.out_of_memory)
            return replace(event, outcome=self._loss(task, why), runs=None)
        if event.runs is None or self._shared.deliveries is None:
            return event
        if task is None or (task.id, task.token) != (
            event.task_id,
            event.token,
        ):  # cancelled, or taken by another driver
            return replace(event, runs=None)
        return replace(event, outcome=self._shared.deliveries.deliver(event.runs, event.outcome, task), runs=None)

    def _neighbours(self) -> list[RemoteRunner]:
        """Return the other agents of its machine that have tasks."""
        others = (r for r in list(self._shared.runners.values()) if r is not self and r.place == self.place)
        return [other for other in others if other.task is not None]

    def _why_lost(self, *, wait: bool = False) -> AgentLost | None:
        return None if self._shared.losses is None else self._shared.losses.why_lost(self.name, wait)

    def _loss(self, task: TaskRecord, why: AgentLost) -> Failed:
        if why.out_of_memory:
            return Failed(f"{why}", f"{why}", Cause.OUT_OF_MEMORY)
        return lost(task, self.host, f"{why}")

    def find_reason(self) -> None:
        """Ask the engine why the agent was lost."""
        if (why := self._why_lost()) is not None:
            self.gone, self._out_of_memory = f"{why}", why.out_of_memory
            self._ready = True  # the attempt counts, whatever ended the agent

    def _greeted(self, future: Future[NodeInfo]) -> None:
        try:
            info = future.result()
        except BaseException as exc:  # noqa: BLE001 - whatever the engine raises
            self._lose(f"{exc}" or type(exc).__name__)
            return
        self.node = info
        problem = info.differs_from(node_info())
        if problem:
            self._refuse(problem)
        else:
            self.equip()

    def equip(self) -> None:
        """Let the agent use the parcel, and send it to the machine if that lacks it and is not receiving it already."""
        if self.node is None or self.refused or self._equipped or self._asked or self.gone:
            return
        if not self._shared.equips:
            self._ready_for_tasks()
        elif self._shared.parcel is not None:
            self._asked = True
            self._then(self._agent.equip(self._shared.parcel.manifest), self._equipped_or_not)

    def _then(self, future: Future[T], handle: Callable[[T], None]) -> None:
        """Call `handle` with the result of a call in another thread; the agent is lost if the call fails."""

        def run() -> None:
            try:
                result = future.result()
            except BaseException as exc:  # noqa: BLE001 - whatever the engine raises
                self._lose(f"{exc}" or type(exc).__name__)
            else:
                handle(result)

        def done(finished: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the job has ended
                self._shared.threads.submit(run)

        future.add_done_callback(done)

    def _equipped_or_not(self, found: Equipment) -> None:
        assert self.node is not None
        assert self._shared.parcel is not None
        if found.lacks:
            self._refuse(lacking(self.node.host, found.lacks))
            return
        manifest = self._shared.parcel.manifest
        if found.others:
            said = different(self.node.host, found.others, manifest.versions)
            if manifest.code and found.others.keys() & {*panel_libraries(), "rollforge"}:
                listed = [name for name in found.others if name in manifest.versions]
                advice = f"Run there: pip install {installation(listed)}" if listed else "Install the same code there."
                self._refuse(f"{said}, so that it cannot use the panels of the driver. {advice}")
                return
            self._shared.tell(f"{said}, with which results may differ.")
        if found.complete:
            self._ready_for_tasks()
            return
        with self._shared.lock:
            first = self.node.place not in self._shared.receiving
            self._shared.receiving.add(self.node.place)
        if first:
            log.info("%s is sent %.0f MB", self.node.host, self._shared.parcel.manifest.size / 1e6)
            self._then(self._agent.receive(self._shared.parcel), self._received)
        else:
            self._asked = False  # asked again with the next beat

    def _received(self, problem: str) -> None:
        assert self.node is not None
        with self._shared.lock:
            self._shared.receiving.discard(self.node.place)
        if problem:
            self._refuse(f"{self.node.host} cannot be sent what the tasks need. {problem}")
            return
        self._asked = False
        self.equip()

    def _refuse(self, reason: str) -> None:
        """Give this agent no tasks; other agents of its machine have the same reason, which is logged once."""
        self.refused = reason
        self._shared.tell(f"A machine of the cluster takes no tasks: {reason}")
        self._shared.bell.ring()

    def _ready_for_tasks(self) -> None:
        self._equipped = True
        if self._shared.started:
            self.start()
        self._shared.bell.ring()

    def _lose(self, why: str, *, out_of_memory: bool = False) -> None:
        with self._lock:
            if self.gone:
                return
            self.gone, self._out_of_memory = why or "no reason is known", out_of_memory
            if self.node is not None:
                with self._shared.lock:
                    self._shared.receiving.discard(self.node.place)
            task = self.task
        if task is not None and not out_of_memory:
            log.warning(
                "agent %s on %s was lost (%s); its task is free again in at most %.0f s", self.name, self.host, self.gone,
                max(0.0, self._ended_by - time.monotonic()),
            )  # fmt: skip
        else:
            log.info("agent %s on %s was lost: %s", self.name, self.host, self.gone)
        self._shared.bell.ring()


def unanswered(why: str) -> str:
    """Return why an agent ended before it answered, and what each machine must have if it could not be imported there.

    Examples
    --------
    >>> unanswered("the Dask worker is gone")
    'the Dask worker is gone'
    """
    if not any(kind in why for kind in _OTHER_CODE):
        return why
    mine = node_info()
    release = "" if mine.rollforge == "unknown" else f" (pip install rollforge=={mine.rollforge})"
    return (
        f"{why.rstrip('.')}. Each machine needs Python {mine.python} and Rollforge {mine.rollforge}{release}, as on the driver "
        f"{mine.host}."
    )


_OTHER_CODE = ("ModuleNotFoundError", "ImportError", "AttributeError", "TypeError", "UnpicklingError")


def different(host: str, others: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return of which packages a machine has other versions than the driver, as the beginning of a sentence.

    Examples
    --------
    >>> different("n1", {"pandas": "2.0"}, {"pandas": "2.3", "numpy": "2.1"})
    'n1 has pandas 2.0, the driver has pandas 2.3'
    >>> different("n1", {"rollforge": "0.1"}, {"pandas": "2.3"})
    'n1 has other code of Rollforge 0.1 than the driver'
    """
    known = {name: version for name, version in others.items() if name in versions}
    if not known:
        return f"{host} has other code of Rollforge {others['rollforge']} than the driver"
    there = ", ".join(f"{name} {version}" for name, version in known.items())
    return f"{host} has {there}, the driver has {', '.join(f'{name} {versions[name]}' for name in known)}"


def lacking(host: str, names: Sequence[str]) -> str:
    """Return what a machine lacks, and how to install it there.

    Examples
    --------
    >>> lacking("n1", ["no_such_package"])
    "n1 has no package 'no_such_package', which the tasks need. Run there: pip install no_such_package"
    """
    listed = ", ".join(map(repr, names))
    packages = f"package {listed}" if len(names) == 1 else f"packages {listed}"
    return f"{host} has no {packages}, which the tasks need. Run there: pip install {installation(names)}"


class Bell:
    """Wakes a thread that waits with ``multiprocessing.connection.wait``."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        for end in (self.reader, self._writer):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Wake the thread."""
        with contextlib.suppress(OSError):  # it is full or closed
            os.write(self._writer, b"x")

    def clear(self) -> None:
        """Forget earlier rings."""
        with contextlib.suppress(OSError):
            os.read(self.reader, 65_536)

    def close(self) -> None:
        """Close it."""
        os.close(self.reader)
        os.close(self._writer)
