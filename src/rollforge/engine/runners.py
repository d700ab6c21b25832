"""The agents of an engine, as the runners of a worker pool.

An :class:`Engine` starts agents and calls them; :class:`EngineRunners` takes them in, each as a
:class:`~rollforge.engine.remote.RemoteRunner`. The engine decides where agents run and how many there are at a time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import eq
from typing import Protocol, runtime_checkable

from rollforge.drivers import registered
from rollforge.engine.agent import Setup
from rollforge.engine.carried import carried
from rollforge.engine.parcel import Parcel
from rollforge.engine.remote import BEATS, SILENCE_SECONDS, AgentRef, RemoteRunner, Shared, SupportsReasons, unanswered
from rollforge.engine.runs import Deliveries, travels
from rollforge.run.job import Job
from rollforge.run.runners import Offer, Runner
from rollforge.run.task_resources import TaskResources
from rollforge.run.worker_process import portable
from rollforge.session import Session
from rollforge.store.base import TaskStore
from rollforge.task import TaskRecord
from rollforge.transitions import ended_under

__all__ = ["Engine", "EngineRunners", "SupportsAvoiding"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0  # until an agent is started again on a machine where one ended before it answered
_ATTEMPTS = 3  # agents in succession that end before they answer, after which the driver gives up
_TELL_SECONDS = 60.0  # between two warnings that nothing answers
_GIVE_UP_SECONDS = 600.0  # as for a task store that cannot be reached
_ANY = {TaskResources(): sys.maxsize}


class Engine(Protocol):
    """Starts agents on the machines of a cluster."""

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        """Connect to the cluster, for agents that :meth:`agents` is then asked for."""

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        """Return the agents that exist now, by a name that is not used again, and start those that are missing.

        Called about once a second.

        Parameters
        ----------
        wanted : mapping
            What tasks ask for -> how many such tasks are left: the largest number of agents that are of use.
        """

    def release(self, name: str) -> None:
        """End an agent without a task, so that others can be started in its place."""

    def forget(self, name: str) -> None:
        """Note that an agent is lost, so that another one is started."""

    def close(self) -> None:
        """End all agents, and the cluster if it was started by :meth:`open`."""


@runtime_checkable
class SupportsAvoiding(Protocol):
    """An engine that can start agents on other machines than that of one that cannot run the tasks."""

    def avoid(self, name: str, seconds: float) -> None:
        """Start no agents on the machine of an agent for some time, but others in its place if there is room elsewhere."""


class Quiet:
    """Says that the cluster does not answer, or that it has no machine, once it has been so for a while."""

    def __init__(self) -> None:
        self.error = ""
        self._fails_since = self._none_since = self._told = 0.0

    @property
    def unreachable(self) -> float:
        """Seconds since the cluster has not answered."""
        return time.monotonic() - self._fails_since if self._fails_since else 0.0

    def failed(self, error: str) -> None:
        """Note that the cluster does not answer."""
        now = time.monotonic()
        self._fails_since = self._fails_since or now
        self.error = " ".join(error.split())
        self._tell(f"the cluster has not answered for {now - self._fails_since:.0f} s: {self.error}", now)

    def answered(self, machines: bool) -> None:
        """Note whether it has a machine on which an agent answers."""
        now = time.monotonic()
        if self._fails_since:
            log.warning("the cluster answers again")
            self._fails_since, self._none_since, self._told = 0.0, now, 0.0
        if machines:
            self._none_since = now
        self._none_since = self._none_since or now
        if now - self._none_since > _TELL_SECONDS / 2:
            self._tell(
                f"for {now - self._none_since:.0f} s no machine of the cluster has room for an agent; the tasks wait",
                now,
            )

    def _tell(self, warning: str, now: float) -> None:
        if now - self._told > _TELL_SECONDS or not self._told:
            self._told = now
            log.warning("%s", warning)


class EngineRunners:
    """The agents of an engine, as the runners of a worker pool.

    Parameters
    ----------
    engine : Engine
        Starts the agents.
    session : Session
        Session of the tasks.
    job : Job
        The job to run.
    silence : float
        Seconds without a call after which an agent ends its task.
    make_parcel : callable, optional
        Returns what the tasks read and the machines may lack; called before the first task.
    wanted : mapping, optional
        What tasks ask for -> how many such tasks there are. By default, they ask for nothing, and are many.
    store : TaskStore, optional
        Store with the pool. It is asked which outcomes were stored if that is not known at the end.
    """

    def __init__(
        self, engine: Engine, session: Session, job: Job, silence: float = SILENCE_SECONDS,
        make_parcel: Callable[[], Parcel | None] | None = None, wanted: Mapping[TaskResources, int] = _ANY,
        store: TaskStore | None = None,
    ) -> None:  # fmt: skip
        def is_stored(task: TaskRecord) -> bool:
            found = [] if store is None else store.query(task.pool, {"_id": task.id}, results=False)
            return any(ended_under(one, task.worker or "") for one in found)

        self._make_parcel = make_parcel
        self._wanted = dict(wanted)
        self._session = session
        sends = travels(session)
        self._engine = engine
        self._shared = Shared(
            session, silence, Deliveries(session, is_stored) if sends else None, sends,
            equips=make_parcel is not None, losses=engine if isinstance(engine, SupportsReasons) else None,
        )  # fmt: skip
        self._runners = self._shared.runners
        self._unborn: list[str] = []
        self._forgiven = 0  # how many had ended before they answered when another one answered
        self._avoided: set[str] = set()
        self._replaced: set[str] = set()  # agents in whose place the engine has had the chance to start others
        self._closing = threading.Event()
        self._quiet = Quiet()
        try:
            engine.open(Setup(portable(session), carried(job), registered(), silence, sends), self._wanted)
            self._look()
        except BaseException:  # also Ctrl-C while the cluster does not answer
            engine.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name="rollforge-agents", daemon=True)
        self._keeper.start()

    def current(self) -> Sequence[Runner]:
        """Return the agents, including lost ones whose task's outcome has not been recorded."""
        return [runner for runner in list(self._runners.values()) if not runner.gone or runner.task is not None]

    def offers(self, free: Sequence[Runner], shapes: Sequence[TaskResources]) -> list[Offer]:
        """Return one offer for each shape of the agents without a task."""
        counts = Counter(runner.asked for runner in free if isinstance(runner, RemoteRunner))
        return [Offer(partial(eq, shape), number) for shape, number in counts.items()]

    def choose(self, free: Sequence[Runner], task: TaskRecord, shape: TaskResources) -> Runner | None:
        """Return an agent of the task's shape whose machine has not refused the task."""
        return next((r for r in free if isinstance(r, RemoteRunner) and r.asked == shape and r.fits(task)), None)

    def threads(self, shape: TaskResources) -> int:
        """Return the cores of the task's agent."""
        return shape.cpus or self._session.threads

    def lacks(self, shape: TaskResources) -> str:
        """Return an empty string: the cluster may grow."""
        return ""

    def wanted(self, tasks: Mapping[TaskResources, int]) -> None:
        """Note for how many tasks of each shape there can be agents."""
        self._wanted = dict(tasks)

    def woken(self) -> None:
        """Forget what has woken the waiting process: it reads all outcomes now."""
        self._shared.bell.clear()

    def start(self) -> None:
        """Let the agents start their worker processes, also those that come later."""
        self._shared.started = True
        for runner in list(self._runners.values()):
            runner.start()

    def prepare(self) -> None:
        """Pack what the tasks read, before the first of them."""
        if self._make_parcel is not None:
            self._shared.parcel = self._make_parcel()
            self._shared.equips = self._shared.parcel is not None

    def explain(self) -> str:
        """Return why no agent can run tasks; empty if one can or has not answered yet."""
        runners = [runner for runner in list(self._runners.values()) if not runner.gone]
        if self._quiet.unreachable > _GIVE_UP_SECONDS:
            return f"The cluster has not answered for {_GIVE_UP_SECONDS:g} s: {self._quiet.error}"
        if self._shared.losses is not None and not runners and (problem := self._shared.losses.problem()):
            return problem
        if len(self._unborn) - self._forgiven >= _ATTEMPTS and not any(runner.node for runner in runners):
            problem = unanswered(self._unborn[-1])
            return f"The agents on the cluster end before they can run a task. The last error:\n{problem}"
        if not runners or any(not runner.refused or runner.name not in self._replaced for runner in runners):
            return ""
        reasons = dict.fromkeys(runner.refused for runner in runners)
        return "No machine of the cluster can run the tasks:\n" + "\n".join(f"  {reason}" for reason in reasons)

    def refuse(self, task: TaskRecord, shape: TaskResources) -> str:
        """Return what all machines lack for a task; empty if there is one that has not tried it, or none at all."""
        refused = self._shared.refused.get(task.id, {})
        there = {r.place for r in list(self._runners.values()) if r.asked == shape and not r.gone and not r.refused}
        return "; ".join(dict.fromkeys(refused.values())) if there and there <= set(refused) else ""

    def settled(self, task: TaskRecord, *, stored: bool) -> None:
        """Keep or remove the runs of an attempt."""
        if self._shared.deliveries is not None:
            self._shared.deliveries.settle(task, stored=stored)

    def close(self) -> None:
        """End all agents. Every step is taken, although one fails or is interrupted by another Ctrl-C."""
        self._closing.set()
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._shared.bell.close)
            if self._shared.deliveries is not None:
                last_first.callback(self._shared.deliveries.close)
            last_first.callback(self._shared.threads.shutdown, wait=True, cancel_futures=True)
            last_first.callback(self._engine.close)
            for runner in list(self._runners.values()):
                last_first.callback(runner.stop)
            last_first.callback(self._keeper.join, 5.0)

    def _keep(self) -> None:
        while not self._closing.wait(min(1.0, self._shared.silence / BEATS)):
            try:
                self._look()
                self._quiet.answered(any(r.node and not r.gone for r in list(self._runners.values())))
            except Exception as exc:  # noqa: BLE001 - the engine may recover
                if not self._closing.is_set():
                    self._quiet.failed(f"{exc}" or type(exc).__name__)
            for runner in list(self._runners.values()):
                runner.beat()

    def _avoid(self, name: str, seconds: float) -> None:
        if name not in self._avoided and isinstance(self._engine, SupportsAvoiding):
            self._engine.avoid(name, seconds)
        self._avoided.add(name)

    def _look(self) -> None:
        """Take in new agents, and let the engine replace lost ones, and those of machines that take no tasks."""
        for name, runner in list(self._runners.items()):
            if runner.refused and not runner.gone:
                self._avoid(name, math.inf)
            if runner.gone:
                if not runner.retired:
                    self._forget(runner)
                if runner.task is None:
                    del self._runners[name]
        if any(r.node is not None and not r.gone for r in self._runners.values()):
            self._forgiven = len(self._unborn)
        avoided = set(self._avoided)
        wanted = self._wanted
        self._release_idle(wanted)
        for name, agent in self._engine.agents(wanted).items():
            if name not in self._runners:
                self._runners[name] = RemoteRunner(name, agent, self._shared)
        self._replaced = avoided

    def _forget(self, runner: RemoteRunner) -> None:
        """Let the engine replace a lost agent."""
        runner.find_reason()
        if runner.node is None and runner.name not in self._avoided:
            self._unborn.append(runner.gone)
            self._avoid(runner.name, min(_LONGEST_PAUSE, 2.0 ** len(self._unborn)))
            self._shared.tell(f"An agent ended before it answered: {unanswered(runner.gone)}")
        self._engine.forget(runner.name)

    def _release_idle(self, wanted: Mapping[TaskResources, int]) -> None:
        """End agents for which there are no tasks if there are more tasks of another shape than agents that have a machine."""
        alive = [runner for runner in self._runners.values() if not runner.gone and not runner.refused]
        having = Counter(runner.asked for runner in alive)
        placed = Counter(runner.asked for runner in alive if runner.node is not None)
        if not any(number > placed[shape] for shape, number in wanted.items()):
            return
        for runner in sorted(alive, key=lambda one: one.node is not None):  # those that wait for a machine first
            if having[runner.asked] > wanted.get(runner.asked, 0) and runner.retire():
                having[runner.asked] -= 1
                self._engine.release(runner.name)
