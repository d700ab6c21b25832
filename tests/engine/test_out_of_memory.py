"""Agents that an engine ends because their machine is short of memory: whose attempt counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.engine.tracks import meanwhile, running, wait_for

from rollforge.engine.agent import Agent, Equipment, NodeInfo, Reply, Setup
from rollforge.engine.parcel import Manifest, Parcel
from rollforge.engine.remote import AgentLost, AgentRef, Call, RemoteRunner
from rollforge.engine.runners import EngineRunners
from rollforge.run.job import Event, Job
from rollforge.run.task_resources import TaskResources
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session
from rollforge.store.memory import MemoryStore
from rollforge.task import Cause, Status
from rollforge.testing.actions import act

pytestmark = pytest.mark.slow


class HereRef:
    """An agent of this process, which can be ended as Ray's memory monitor does."""

    asked = TaskResources()

    def __init__(self, setup: Setup, threads: ThreadPoolExecutor) -> None:
        self.agent = Agent(setup)
        self._threads = threads
        self._ended: AgentLost | None = None

    def end(self) -> None:
        self._ended = AgentLost("the node was running low on memory", out_of_memory=True, chosen=True)
        self.agent.stop()

    def info(self) -> Future[NodeInfo]:
        return self._threads.submit(self.agent.info)

    def exchange(self, call: Call) -> Future[Reply]:
        def ask() -> Reply:
            reply = self.agent.exchange(*call.arguments)
            if self._ended is not None:
                raise self._ended
            return reply

        return self._threads.submit(ask)

    def equip(self, manifest: Manifest) -> Future[Equipment]:
        return self._threads.submit(self.agent.equip, manifest)

    def receive(self, parcel: Parcel) -> Future[str]:
        raise NotImplementedError

    def stop(self) -> None:
        self.agent.stop()


class Here:
    """Two agents of this process."""

    def __init__(self) -> None:
        self.refs: dict[str, HereRef] = {}
        self._started = 0
        self._threads = ThreadPoolExecutor(8)
        self._lock = threading.Lock()

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        self._setup = setup

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        with self._lock:
            while len(self.refs) < 2:
                self._started += 1
                self.refs[f"here-{self._started}"] = HereRef(self._setup, self._threads)
            return dict(self.refs)

    def release(self, name: str) -> None:
        raise NotImplementedError

    def forget(self, name: str) -> None:
        with self._lock:
            self.refs.pop(name, None)

    def close(self) -> None:
        self._threads.shutdown(wait=False)


@pytest.mark.parametrize(("ended", "counted"), [(0, True), (1, False)])
def test_an_attempt_counts_if_its_task_uses_the_most_memory(ended: int, counted: bool, tmp_path: Path) -> None:
    """Task 0 uses 200 MB, task 1 next to nothing; if that one's agent is ended, its task is given back and runs again."""
    stamps, end, events = tmp_path / "stamps", tmp_path / "end", list[Event]()
    stamps.mkdir()
    store, engine = MemoryStore(), Here()
    tasks = [{"i": i, "do": "stamp", "stamps": str(stamps), "seconds": 60.0, "end": str(end)} for i in range(2)]
    store.create("p", [{**tasks[0], "bytes": 200_000_000}, tasks[1]], max_attempts=1)
    session = Session(threads=1, tracking_uri=f"folder:{tmp_path}/runs", cache=str(tmp_path / "cache"))

    def act_as_monitor() -> None:
        wait_for(lambda: running(stamps, 0) and running(stamps, 1), "both tasks")
        found = wait_for(lambda: running(stamps, ended), "a task")
        (victim,) = (ref for ref in engine.refs.values() if ref.agent.pid == found.pid)
        memory = lambda: [r.memory for r in runners.current() if isinstance(r, RemoteRunner)]  # noqa: E731
        wait_for(lambda: max(memory()) > 2e8 and min(memory()), "the reports of the agents")
        victim.end()
        if counted:
            wait_for(lambda: [e for e in events if e.kind == "failed"], "the failure")
        else:
            wait_for(lambda: (a := running(stamps, ended)) and a.pid != found.pid, "another attempt")
        end.touch()

    runners = EngineRunners(engine, session, Job("p", act), silence=5.0)
    with meanwhile(act_as_monitor):
        WorkerPool(store, Job("p", act), session, 1, events.append, runners=runners).run()
    done = sorted(store.query("p"), key=lambda task: task.definition["i"])
    assert done[1 - ended].status is Status.DONE
    if counted:
        assert (done[ended].status, done[ended].cause, done[ended].attempt) == (Status.FAILED, Cause.OUT_OF_MEMORY, 1)
    else:
        assert (done[ended].status, done[ended].attempt) == (Status.DONE, 0)
