"""The agents of an engine, as the runners of a worker pool.

An :class:`Engine` starts agents and calls them; :class:`EngineRunners` takes them in, each as a
:class:`~rollforge.engine.remote.RemoteRunner`. The engine decides where agents run and how many there are at a time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from rollforge.drivers import registered
from rollforge.engine.agent import Setup
from rollforge.engine.carried import carried
from rollforge.engine.parcel import Parcel
from rollforge.engine.remote import BEATS, SILENCE_SECONDS, AgentRef, RemoteRunner, Shared, SupportsReasons, unanswered
from rollforge.engine.runs import Deliveries, travels
from rollforge.run.job import Job
from rollforge.run.runners import Runner
from rollforge.run.worker_process import portable
from rollforge.session import Session
from rollforge.task import TaskRecord

__all__ = ["Engine", "EngineRunners", "SupportsAvoiding"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0  # until an agent is started again on a machine where one ended before it answered
_ATTEMPTS = 3  # agents in succession that end before they answer, after which the driver gives up
_TELL_SECONDS = 60.0  # between two warnings that nothing answers
_GIVE_UP_SECONDS = 600.0  # as for a task store that cannot be reached


class Engine(Protocol):
    """Starts agents on the machines of a cluster."""

    def open(self, setup: Setup) -> None:
        """Connect to the cluster."""

    def agents(self) -> Mapping[str, AgentRef]:
        """Return the agents that exist now, by a name that is not used again, and start others in place of lost ones.

        Called about once a second.
        """

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
    """

    def __init__(
        self, engine: Engine, session: Session, job: Job, silence: float = SILENCE_SECONDS,
        make_parcel: Callable[[], Parcel | None] | None = None,
    ) -> None:  # fmt: skip
        self._make_parcel = make_parcel
        sends = travels(session)
        self._engine = engine
        self._shared = Shared(
            session, silence, Deliveries(session) if sends else None, sends,
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
            engine.open(Setup(portable(session), carried(job), registered(), silence, sends))
            self._look()
        except BaseException:  # also Ctrl-C while the cluster does not answer
            engine.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name="rollforge-agents", daemon=True)
        self._keeper.start()

    def current(self) -> Sequence[Runner]:
        """Return the agents, including lost ones whose task's outcome has not been recorded."""
        return [runner for runner in list(self._runners.values()) if not runner.gone or runner.task is not None]

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

    def refuse(self, task: TaskRecord) -> str:
        """Return what all machines lack for a task; empty if there is one that has not tried it, or none at all."""
        refused = self._shared.refused.get(task.id, {})
        there = {r.place for r in list(self._runners.values()) if not r.gone and not r.refused}
        return "; ".join(dict.fromkeys(refused.values())) if there and there <= set(refused) else ""

    def settled(self, task: TaskRecord, *, stored: bool) -> None:
        """Keep or remove the runs of an attempt."""
        if self._shared.deliveries is not None:
            self._shared.deliveries.settle(task, stored=stored)

    def close(self) -> None:
        """End all agents."""
        self._closing.set()
        self._keeper.join(5.0)
        for runner in self._runners.values():
            runner.stop()
        self._engine.close()
        self._shared.threads.shutdown(wait=True, cancel_futures=True)
        if self._shared.deliveries is not None:
            self._shared.deliveries.close()
        self._shared.bell.close()

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
                runner.find_reason()
                if runner.node is None and name not in self._avoided:
                    self._unborn.append(runner.gone)
                    self._avoid(name, min(_LONGEST_PAUSE, 2.0 ** len(self._unborn)))
                    self._shared.tell(f"An agent ended before it answered: {unanswered(runner.gone)}")
                self._engine.forget(name)
                if runner.task is None:
                    del self._runners[name]
        if any(r.node is not None and not r.gone for r in self._runners.values()):
            self._forgiven = len(self._unborn)
        avoided = set(self._avoided)
        for name, agent in self._engine.agents().items():
            if name not in self._runners:
                self._runners[name] = RemoteRunner(name, agent, self._shared)
        self._replaced = avoided
