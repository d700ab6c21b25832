"""Agents on a Dask cluster, as actors of its workers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from rollforge.engine.agent import ABSENT, Agent, Command, Equipment, NodeInfo, Reply, Setup, node_info
from rollforge.engine.parcel import Manifest, Parcel, install
from rollforge.engine.reach import check_reachable
from rollforge.engine.remote import AgentLost, AgentRef, Call
from rollforge.engine.resources import Resources, Room, in_order, warn_if_too_large
from rollforge.errors import ClusterUnavailable
from rollforge.run.task_resources import TaskResources
from rollforge.session import Session, available_cores

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DaskEngine", "quiet"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0  # that all agents have to end
_ANSWER_SECONDS = 5.0  # that the scheduler has to answer
_REPLACE_SECONDS = 20.0  # after which a worker that has not come back is replaced; Dask gives it up after 15 s
_HEARTBEAT_SECONDS = 15.0  # that the last heartbeat of a worker may be older than that of another one


_PROGRAM = "distributed.cli.dask_worker"
_ALIVE = {"undefined", "created", "init", "starting", "running", "paused"}
_CLOSING_SECONDS = 10.0


def _end_with(worker: Any) -> None:
    """End the program of a worker that does not end although it is closing.

    Without its scheduler, a worker may wait for coroutines of its own that ignore that they are cancelled: with distributed
    2026.8, six of 48 did not get further than the status "closing". A job of Slurm whose driver was killed would run until
    its time limit.
    """
    while worker.status.name in _ALIVE:
        time.sleep(1.0)
    time.sleep(_CLOSING_SECONDS)
    os._exit(1)


class DaskAgent:
    """An agent in a Dask worker, whose event loop its methods do not block."""

    def __init__(self, setup: Setup) -> None:
        from distributed import get_worker

        self._agent = Agent(setup)
        if getattr(sys.modules["__main__"].__spec__, "name", "") == _PROGRAM:
            threading.Thread(target=_end_with, args=(get_worker(),), name="rollforge-end", daemon=True).start()

    async def info(self) -> NodeInfo:
        """See :meth:`Agent.info`."""
        return self._agent.info()

    async def equip(self, manifest: Manifest) -> Equipment:
        """See :meth:`Agent.equip`."""
        return await asyncio.to_thread(self._agent.equip, manifest)

    async def exchange(
        self, number: int, commands: Sequence[Command], seconds: float, confirmed: int, seen: int
    ) -> Reply:
        """See :meth:`Agent.exchange`."""
        return await asyncio.to_thread(self._agent.exchange, number, commands, seconds, confirmed, seen)

    async def stop(self) -> None:
        """See :meth:`Agent.stop`."""
        await asyncio.to_thread(self._agent.stop)


def receive(manifest: Manifest, data: NDArray[np.uint8]) -> str:
    """Write a parcel to the cache of this machine, and return why that failed; a task of a Dask worker."""
    return install(manifest, data, Session().cache)


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the driver, in a worker that it has started; called by Dask, which preloads this module there.

    The terminal sends the signal to all processes of the command, and a worker that ends can give nothing back.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Ref:
    """An agent in a worker; calls of the client's event loop."""

    def __init__(
        self, client: Client, worker: str, worker_name: str, directory: object, name: str, setup: Setup,
        asked: TaskResources,
    ) -> None:  # fmt: skip
        self.asked = asked
        self.worker = worker
        self.worker_name = worker_name
        self.directory = directory
        self.given_up = ""
        self._client = client
        self._open: set[Future[Any]] = set()
        self._name = name
        self._setup = setup
        self._created: Any = None
        self._actor: Any = None
        self.answered = False
        """Whether it has been greeted by the agent or the worker."""
        self.stopping: Future[None] | None = None

    def info(self) -> Future[NodeInfo]:
        """See :class:`AgentRef`."""

        async def ask() -> NodeInfo:
            from distributed import Actor

            there = {"workers": [self.worker], "allow_other_workers": False, "pure": False, "retries": 0}
            # A worker to which Dask sends something that it cannot import would leave the cluster.
            known = NodeInfo(*await self._client.submit(eval, _PROBE, **there))
            if known.differs_from(node_info()):
                self.answered = True
                return known
            # With a key that another driver uses, too, both would get the same agent.
            key = f"rollforge-agent-{self._name}-{uuid.uuid4().hex}"
            self._created = self._client.submit(DaskAgent, self._setup, actor=True, key=key, **there)
            await self._created
            with self._client.as_current():  # another client of this program may be the default
                self._actor = Actor(DaskAgent, self.worker, self._created.key)
            found: NodeInfo = await self._actor.info()
            self.answered = True
            return found

        return self._run(ask())

    def exchange(self, call: Call) -> Future[Reply]:
        """See :class:`AgentRef`."""

        async def ask() -> Reply:
            reply: Reply = await self._actor.exchange(*call.arguments)
            return reply

        return self._run(ask())

    def equip(self, manifest: Manifest) -> Future[Equipment]:
        """See :class:`AgentRef`."""

        async def ask() -> Equipment:
            found: Equipment = await self._actor.equip(manifest)
            return found

        return self._run(ask())

    def receive(self, parcel: Parcel) -> Future[str]:
        """See :class:`AgentRef`."""

        async def send() -> str:
            data = await self._client._scatter(parcel.data, workers=[self.worker], hash=False)
            problem: str = await self._client.submit(
                receive, parcel.manifest, data, workers=[self.worker], allow_other_workers=False, pure=False, retries=0
            )  # fmt: skip
            return problem

        return self._run(send())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        async def call() -> T:
            try:
                return await coroutine
            except asyncio.CancelledError:
                raise AgentLost(self.gone) from None
            except Exception as exc:
                if self.given_up or self.is_lost:
                    raise AgentLost(self.given_up or self.gone) from exc
                raise

        future = asyncio.run_coroutine_threadsafe(call(), _loop(self._client))
        answer: Future[T] = Future()
        self._open.add(answer)

        def done(finished: Future[T]) -> None:
            self._open.discard(answer)
            with contextlib.suppress(Exception):  # it was given up before
                if finished.cancelled():
                    answer.set_exception(AgentLost("the connection to the Dask cluster was closed"))
                elif (error := finished.exception()) is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(finished.result())

        future.add_done_callback(done)
        return answer

    @property
    def gone(self) -> str:
        """What to say when the worker has left the cluster."""
        return f"the Dask worker {self.worker} is gone"

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler says that the agent does not exist any more."""
        return self._created is not None and self._created.status in ("lost", "cancelled", "error")

    def give_up(self, why: str) -> None:
        """End calls that will not be answered; later ones that fail will not succeed when they are repeated."""
        self.given_up = why
        for answer in list(self._open):
            with contextlib.suppress(Exception):  # it has just been answered
                answer.set_exception(AgentLost(why))

    def stop(self) -> None:
        """See :class:`AgentRef`."""

        async def end() -> None:
            with contextlib.suppress(Exception):  # the agent ends by itself if it hears nothing
                if self._actor is not None:
                    await self._actor.stop()
                self._created.release()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.stopping = asyncio.run_coroutine_threadsafe(end(), _loop(self._client))


_CODE = """
import importlib.metadata, importlib.util, platform, socket, sys
try:
    release = importlib.metadata.version("rollforge")
except importlib.metadata.PackageNotFoundError:
    release = "unknown" if importlib.util.find_spec("rollforge") else ABSENT
found = [socket.gethostname(), f"{sys.version_info.major}.{sys.version_info.minor}", release, platform.system()]
"""
_PROBE = f"(lambda names: (exec({_CODE!r}, names), names['found'])[1])({{'ABSENT': {ABSENT!r}}})"
"""Expression with the first fields of :func:`node_info`, for a worker that may not have Rollforge."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what Dask logs in this process, such as that workers do not answer, while a cluster is closed."""
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if name.partition(".")[0] == "distributed" and isinstance(logger, logging.Logger) and not logger.disabled
    ]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def _silent(workers: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the workers that send no heartbeats while others do.

    Examples
    --------
    >>> _silent({"tcp://a:1": {"last_seen": 100.0}, "tcp://b:1": {"last_seen": 60.0}})
    {'tcp://b:1'}
    """
    seen = {address: float(worker.get("last_seen") or 0.0) for address, worker in workers.items()}
    latest = max(seen.values(), default=0.0)
    # The pause between heartbeats grows with the number of workers, to 2 s for 300 of them.
    allowed = _HEARTBEAT_SECONDS + len(workers) / 50
    return {address for address, at in seen.items() if at and latest - at > allowed}


def _loop(client: Client) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = cast(Any, client.loop).asyncio_loop
    return loop


def _room(worker: Mapping[str, Any]) -> Room:
    """Return what a worker has, from the scheduler's description."""
    return {
        "cpus": worker["nthreads"], "memory": worker["memory_limit"] or None,
        "gpus": worker.get("resources", {}).get("GPU", 0.0),
    }  # fmt: skip


def _connect(address: object, **options: Any) -> Client:
    """Return a client of a scheduler, which is closed if that is interrupted."""
    from distributed import Client

    client = Client.__new__(Client)
    try:
        Client.__init__(client, cast(Any, address), set_as_default=False, **options)
    except BaseException:
        # Dask would close it at the end of the program, when its event loop has stopped, and wait a minute for that.
        _disconnect(client)
        raise
    return client


def _disconnect(client: Client) -> None:
    """Close a client, also if its scheduler does not answer."""
    with quiet(), contextlib.suppress(Exception):  # such as a scheduler that does not answer, or none so far
        client.close(_STOP_SECONDS)
    client.status = "closed"  # else it is closed again when it is collected


class DaskEngine:
    """Starts agents on the workers of a Dask cluster: as many on each as its threads, memory and GPUs allow.

    Parameters
    ----------
    address : str or cluster object
        Address of the scheduler, or an object that `distributed.Client` accepts. An empty string starts a cluster on
        this machine.
    resources : Resources
        How many agents there are at most, and what each needs unless its tasks ask for something else.
    """

    def __init__(self, address: object, resources: Resources) -> None:
        self._address = address
        self._resources = resources
        self._names = itertools.count(1)
        self._agents: dict[str, _Ref] = {}
        self._avoided: dict[tuple[str, object], float] = {}  # worker and its folder -> until when
        self._client: Client | None = None
        self._cluster: Any = None
        self._workers = 0  # of a cluster that was started here
        self._complete = 0.0
        """When that cluster had all its workers for the last time."""
        self._setup: Setup | None = None
        self._checked: set[TaskResources] = set()

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        """Connect to the scheduler."""
        from distributed import LocalCluster

        address = self._address
        if address == "":
            cpus = max(size.cpus for size in in_order(wanted, self._resources).values())
            self._workers = self._resources.for_tasks(sum(wanted.values())).agents(available_cores() // cpus)
            self._cluster = address = LocalCluster(
                n_workers=self._workers,
                threads_per_worker=cpus,
                dashboard_address=":0",
                processes=True,
                preload=__name__,
                silence_logs=logging.ERROR,  # its warnings about workers that are slow to end are not the user's concern
            )
        elif isinstance(address, str):
            check_reachable(address, "Dask")
        try:
            self._client = _connect(address)
        except (OSError, ValueError) as exc:
            raise ClusterUnavailable(
                f"The Dask scheduler {address} cannot be used: {' '.join(str(exc).split())} No task was started."
            ) from exc
        self._setup = setup

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        """Return the agents, after starting some on workers that have room for more."""
        assert self._client is not None
        if self._client.status == "closed":
            self._connect_again()
        # Not scheduler_info(), whose workers may be missing for a moment while the client updates it by itself.
        found = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=_ANSWER_SECONDS)
        workers: Mapping[str, Mapping[str, Any]] = found["workers"]
        self._replace_workers(len(workers))
        silent = _silent(workers)
        for ref in self._agents.values():
            # A nanny starts a new worker at the same address, with another folder.
            same = ref.worker in workers and workers[ref.worker].get("local_directory") == ref.directory
            if not same or ref.is_lost:
                ref.give_up(ref.gone)
            elif ref.worker in silent and not ref.answered:  # an agent that runs is lost when it does not answer calls
                ref.give_up(f"the Dask worker {ref.worker} sends no heartbeats")
        avoided = {
            address
            for (address, directory), until in self._avoided.items()
            if time.monotonic() < until and address in workers and workers[address].get("local_directory") == directory
        }
        self._start_missing(wanted, workers, avoided | silent, avoided)
        return dict(self._agents)

    def _replace_workers(self, found: int) -> None:
        """Start workers of a cluster that was started here in place of those that Dask has given up.

        It gives up a worker that has died and is not back in time, as on a busy machine; without this, tasks would wait
        forever for the last worker.
        """
        now = time.monotonic()
        if found >= self._workers:
            self._complete = now
        elif now - self._complete > _REPLACE_SECONDS:
            self._complete = now
            ended = sum(nanny.status.name in ("closed", "failed") for nanny in self._cluster.workers.values())
            self._cluster.scale(self._workers + ended)

    def _start_missing(
        self, wanted: Mapping[TaskResources, int], workers: Mapping[str, Mapping[str, Any]], closed: set[str],
        avoided: set[str],
    ) -> None:  # fmt: skip
        """Start agents where there is room; none on `closed` workers, and those on `avoided` ones do not count as jobs."""
        sizes = in_order(wanted, self._resources)
        running = Counter(ref.asked for ref in self._agents.values() if ref.worker not in avoided)
        left = math.inf if self._resources.jobs is None else self._resources.jobs - running.total()
        free = {address: _room(worker) for address, worker in workers.items() if address not in closed}
        for ref in self._agents.values():
            if ref.worker in free:
                free[ref.worker] = self._resources.asked(ref.asked).rest_of(free[ref.worker])
        for asked, size in sizes.items():
            for address, worker in workers.items():
                while (
                    running[asked] < wanted[asked] and left > 0 and address in free
                    and size.fits(**free[address]) and self._hosts(worker, asked)
                ):  # fmt: skip
                    self._start(address, worker, asked)
                    free[address] = size.rest_of(free[address])
                    running[asked] += 1
                    left -= 1
            if wanted[asked] and workers and asked not in self._checked:
                self._checked.add(asked)
                self._check_size(size, wanted[asked], workers)

    def _start(self, address: str, worker: Mapping[str, Any], asked: TaskResources) -> None:
        assert self._client is not None
        assert self._setup is not None
        name, setup = f"dask-{next(self._names)}", self._setup.with_cores(asked.cpus)
        self._agents[name] = _Ref(
            self._client, address, str(worker.get("name", "")), worker.get("local_directory"), name, setup, asked
        )

    def _hosts(self, worker: Mapping[str, Any], asked: TaskResources) -> bool:
        """Return whether a worker that has room for an agent may host it."""
        return True

    def _check_size(self, size: Resources, tasks: int, workers: Mapping[str, Mapping[str, Any]]) -> None:
        """Log a warning if no worker can ever have room for an agent."""
        warn_if_too_large(size, tasks, [_room(worker) for worker in workers.values()])

    def release(self, name: str) -> None:
        """End an agent without a task."""
        ref = self._agents.pop(name, None)
        if ref is not None:
            ref.stop()

    def avoid(self, name: str, seconds: float) -> None:
        """Start no agents on the worker of an agent for some time; its own agents do not count as jobs then."""
        if name in self._agents:
            ref = self._agents[name]
            self._avoided[ref.worker, ref.directory] = time.monotonic() + seconds

    def _connect_again(self) -> None:
        """Connect to a scheduler that was started again at the same address, after Dask's own client has given up."""
        for ref in self._agents.values():
            ref.give_up("the Dask scheduler does not answer")
        self._client = _connect(self._cluster or self._address, timeout=_ANSWER_SECONDS)

    def forget(self, name: str) -> None:
        """Note that an agent is lost."""
        ref = self._agents.pop(name, None)
        if ref is not None:
            ref.give_up("it is not used any more")
            if ref.answered and self._setup is not None:  # a worker that is silent would not answer another one either
                self._avoided[ref.worker, ref.directory] = time.monotonic() + 2 * self._setup.silence

    def close(self) -> None:
        """Disconnect, and end a cluster that was started here."""
        wait([ref.stopping for ref in self._agents.values() if ref.stopping is not None], timeout=_STOP_SECONDS)
        with quiet():
            if self._client is not None:
                _disconnect(self._client)
            if self._cluster is not None:
                with contextlib.suppress(TimeoutError):  # what is left ends with this process
                    self._cluster.close(_CLOSING_SECONDS)
