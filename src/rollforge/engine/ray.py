"""Agents on a Ray cluster, as its actors."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollforge.engine.agent import Agent, Command, Equipment, NodeInfo, Reply, Setup
from rollforge.engine.parcel import Manifest, Parcel, install
from rollforge.engine.reach import check_reachable
from rollforge.engine.remote import AgentLost, AgentRef, Call
from rollforge.engine.resources import Resources, Room, allot, in_order, warn_if_too_large
from rollforge.errors import ClusterUnavailable
from rollforge.run.task_resources import TaskResources
from rollforge.session import Session

__all__ = ["RayEngine"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_TOKEN = (
    "If 'ray start' said that token authentication is enabled, set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN if the "
    "token is not in ~/.ray/auth_token. "
)


class RayAgent:
    """An agent in a Ray actor. Its methods are coroutines, so that one can be called while another one waits."""

    def __init__(self, setup: Setup) -> None:
        self._agent = Agent(setup)

    async def info(self) -> NodeInfo:
        """See :meth:`Agent.info`."""
        return self._agent.info()

    async def equip(self, manifest: Manifest) -> Equipment:
        """See :meth:`Agent.equip`."""
        return await asyncio.to_thread(self._agent.equip, manifest)

    async def receive(self, manifest: Manifest, data: NDArray[np.uint8]) -> str:
        """Write a parcel to the cache of this machine, and return why that failed."""
        return await asyncio.to_thread(install, manifest, data, Session().cache)

    async def exchange(
        self, number: int, commands: Sequence[Command], seconds: float, confirmed: int, seen: int
    ) -> Reply:
        """See :meth:`Agent.exchange`."""
        return await asyncio.to_thread(self._agent.exchange, number, commands, seconds, confirmed, seen)


class _Ref:
    def __init__(self, handle: Any, put: Callable[[Parcel], Any], asked: TaskResources) -> None:
        self.asked = asked
        self._handle = handle
        self._put = put

    def info(self) -> Future[NodeInfo]:
        """See :class:`AgentRef`."""
        return _translated(self._handle.info.remote().future())

    def exchange(self, call: Call) -> Future[Reply]:
        """See :class:`AgentRef`."""
        return _translated(self._handle.exchange.remote(*call.arguments).future())

    def equip(self, manifest: Manifest) -> Future[Equipment]:
        """See :class:`AgentRef`."""
        return _translated(self._handle.equip.remote(manifest).future())

    def receive(self, parcel: Parcel) -> Future[str]:
        """See :class:`AgentRef`; Ray brings the data to the machine, as they are an argument."""
        return _translated(self._handle.receive.remote(parcel.manifest, self._put(parcel)).future())

    def stop(self) -> None:
        """See :class:`AgentRef`."""
        import ray

        with contextlib.suppress(Exception):  # the agent ends by itself if it hears nothing
            ray.kill(self._handle, no_restart=True)


def _sentence(text: str) -> str:
    """Return a text of Ray's as a sentence in one line.

    Examples
    --------
    >>> _sentence("it failed\\nhere")
    'it failed here.'
    """
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _translated(call: Future[T]) -> Future[T]:
    """Return a future that raises :class:`AgentLost` where Ray's own says that the actor or its machine is gone."""
    answer: Future[T] = Future()

    def done(finished: Future[T]) -> None:
        error = finished.exception()
        if error is None:
            answer.set_result(finished.result())
            return
        import ray.exceptions as said

        text = " ".join(str(error).split())
        memory = isinstance(error, said.OutOfMemoryError) or "running low on memory" in text
        gone = isinstance(error, (said.RayActorError, said.OutOfMemoryError, said.NodeDiedError))
        if memory or (gone and not isinstance(error, said.ActorUnavailableError)):
            error = AgentLost(text[:1000], out_of_memory=memory, chosen=memory)
        answer.set_exception(error)

    call.add_done_callback(done)
    return answer


def _room(found: Mapping[str, float]) -> Room:
    """Return what a cluster or a machine has, from Ray's description."""
    memory = found.get("memory")
    return {
        "cpus": int(found.get("CPU", 0)), "memory": None if memory is None else int(memory), "gpus": found.get("GPU", 0.0)
    }  # fmt: skip


class RayEngine:
    """Starts agents as actors, which Ray places when there is room for them.

    Parameters
    ----------
    address : str
        Address of the cluster as ``ray.init`` takes it; if empty, that of the environment variable ``RAY_ADDRESS``, else
        a cluster on this machine is started.
    resources : Resources
        How many agents there are, and what each needs unless its tasks ask for something else.
    """

    def __init__(self, address: str, resources: Resources) -> None:
        self._address = address
        self._resources = resources
        self._names = itertools.count(1)
        self._agents: dict[str, _Ref] = {}
        self._setup: Setup | None = None
        self._classes: dict[TaskResources, tuple[Any, Any]] = {}
        """What tasks ask for -> the class of their agents, and its argument."""
        self._avoided: set[str] = set()
        self._not_before = 0.0
        self._started = False
        self._checked: set[TaskResources] = set()
        self._parcel: tuple[str, Any] | None = None

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        """Connect to the cluster, unless this program has already done so."""
        import ray

        if not ray.is_initialized():
            named = self._address or os.environ.get("RAY_ADDRESS", "")
            check_reachable(named, "Ray")
            try:
                ray.init(address=self._address or None, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError) as exc:  # Ray's own errors are of these kinds
                raise ClusterUnavailable(
                    f"The Ray cluster{f' at {named}' if named else ''} cannot be used: {_sentence(str(exc))} {_TOKEN}"
                    "No task was started."
                ) from exc
            self._started = True
        self._setup = setup

    def _new(self, asked: TaskResources, size: Resources) -> _Ref:
        """Start an agent for tasks that ask for some resources."""
        import ray

        if asked not in self._classes:
            options: dict[str, Any] = {"num_cpus": size.cpus, "max_restarts": 0, "max_task_retries": 0}
            if size.gpus:
                options["num_gpus"] = size.gpus
            if size.memory is not None:
                options["memory"] = size.memory
            assert self._setup is not None
            setup = ray.put(self._setup.with_cores(asked.cpus))
            self._classes[asked] = ray.remote(RayAgent).options(**options), setup
        kind, setup = self._classes[asked]
        return _Ref(kind.remote(setup), self._put, asked)

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        """Return the agents, after starting as many as are missing.

        Agents of machines that take no tasks keep what they have been given there, and others are started in their place,
        if the cluster has room for them.
        """
        import ray

        found, jobs = ray.cluster_resources(), self._resources.jobs  # machines come and go
        sizes = in_order(wanted, self._resources)
        targets = allot(wanted, sizes, jobs, **_room(found))
        avoided = self._avoided & self._agents.keys()
        left = math.inf if jobs is None else jobs - len(self._agents) + len(avoided)
        for asked, size in sizes.items():
            mine = [name for name, ref in self._agents.items() if ref.asked == asked]
            extra = len(avoided.intersection(mine))
            target = (
                min(targets[asked] + extra, max(targets[asked], size.fits(**_room(found)))) if extra else targets[asked]
            )
            for _ in range(int(min(target - len(mine), left))):
                if time.monotonic() < self._not_before:
                    break
                self._agents[f"ray-{next(self._names)}"] = self._new(asked, size)
                left -= 1
            if wanted[asked] and asked not in self._checked:
                self._checked.add(asked)
                machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                warn_if_too_large(size, wanted[asked], [_room(machine) for machine in machines])
        return dict(self._agents)

    def release(self, name: str) -> None:
        """End an agent without a task."""
        self.forget(name)

    def _put(self, parcel: Parcel) -> Any:
        """Return the data of a parcel in Ray's object store, where it is put once."""
        import ray

        if self._parcel is None or self._parcel[0] != parcel.manifest.mark:
            self._parcel = (parcel.manifest.mark, ray.put(parcel.data))
        return self._parcel[1]

    def avoid(self, name: str, seconds: float) -> None:
        """Start another agent in place of one whose machine takes no tasks; after one that ended at once, only later."""
        if math.isinf(seconds):
            self._avoided.add(name)
        else:
            self._not_before = time.monotonic() + seconds

    def forget(self, name: str) -> None:
        """Note that an agent is lost."""
        ref = self._agents.pop(name, None)
        if ref is not None:
            ref.stop()

    def close(self) -> None:
        """End the agents, and the connection if it was opened here."""
        import ray

        self._agents.clear()
        self._parcel = None
        if self._started:
            ray.shutdown()
