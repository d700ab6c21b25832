"""The number of tasks that one driver keeps running at the same time on a cluster: the cluster is simulated.

python -m benchmarks.slots [--slots 100,1000] [--seconds 60] [--rounds 3]

The agents only wait as long as their task says and answer at once. Everything in the driver is real: the pool in SQLite,
the leases, the worker pool, the calls of the agents. Idle time of an agent is the time from the end of a task to the start
of its next one. Tasks last from half to one and a half times the mean, so that they do not all end at once.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from benchmarks import setting
from rollforge.engine.agent import Assign, Ended, Equipment, NodeInfo, Reply, Setup, node_info
from rollforge.engine.parcel import Manifest, Parcel
from rollforge.engine.remote import AgentRef, Call
from rollforge.engine.runners import EngineRunners
from rollforge.run.job import Job
from rollforge.run.messages import Done
from rollforge.run.task_resources import TaskResources
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.store.codec import encode_result


class Clock:
    """Calls functions at given times, in one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="clock", daemon=True).start()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call a function at a time of ``time.monotonic``."""
        with self._changed:
            heapq.heappush(self._due, (when, next(self._numbers), call))
            if self._due[0][0] == when:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, call = heapq.heappop(self._due)
            call()


class Waiting:
    """An agent whose tasks only wait."""

    asked = TaskResources()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0
        self._number = 0
        self._events: list[Ended] = []
        self._answer: Future[Reply] | None = None
        self._ended = 0.0
        self.idle: list[float] = []
        """Seconds between tasks."""

    def info(self) -> Future[NodeInfo]:
        """Answer at once."""
        future: Future[NodeInfo] = Future()
        future.set_result(node_info())
        return future

    def exchange(self, call: Call) -> Future[Reply]:
        """Start a task, and answer when it ends or when the time of the call is over."""
        future: Future[Reply] = Future()
        with self._lock:
            self._events = [event for event in self._events if event.number > call.confirmed]
            if call.number >= self._next:
                self._next = call.number + 1
                for command in call.commands:
                    if isinstance(command, Assign):
                        self._start(command)
            before, self._answer = self._answer, future
        if before is not None:
            before.set_result(Reply())
        self._answer_if_due(future, call.seconds)
        return future

    def _start(self, command: Assign) -> None:
        if self._ended:
            self.idle.append(time.monotonic() - self._ended)
        seconds = float(command.task.definition["seconds"])
        self._clock.at(time.monotonic() + seconds, lambda: self._end(command, seconds))

    def _end(self, command: Assign, seconds: float) -> None:
        with self._lock:
            self._ended = time.monotonic()
            self._number += 1
            outcome = Done(encode_result(None))
            self._events.append(
                Ended(self._number, command.task.id, command.task.token, outcome, seconds, "", ready=True)
            )
            future, self._answer = self._answer, None
            events = tuple(self._events)
        if future is not None:
            future.set_result(Reply(events))

    def _answer_if_due(self, future: Future[Reply], seconds: float) -> None:
        with self._lock:
            events = tuple(self._events)
            if events or seconds <= 0:
                self._answer = None
        if events or seconds <= 0:
            future.set_result(Reply(events))
        else:
            self._clock.at(time.monotonic() + seconds, lambda: self._over(future))

    def _over(self, future: Future[Reply]) -> None:
        with self._lock:
            if self._answer is not future:
                return
            self._answer = None
        future.set_result(Reply())

    def equip(self, manifest: Manifest) -> Future[Equipment]:
        """Not called: the tasks read no data."""
        raise NotImplementedError

    def receive(self, parcel: Parcel) -> Future[str]:
        """Not called: the tasks read no data."""
        raise NotImplementedError

    def stop(self) -> None:
        """Do nothing."""


class WaitingEngine:
    """Starts all agents at once."""

    def __init__(self, slots: int) -> None:
        clock = Clock()
        self.all = {f"agent-{i}": Waiting(clock) for i in range(slots)}

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        """Do nothing."""

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        """Return all agents."""
        return dict(self.all)

    def release(self, name: str) -> None:
        """Not called: all tasks ask for the same."""
        raise NotImplementedError

    def forget(self, name: str) -> None:
        """Do nothing: no agent is lost."""

    def close(self) -> None:
        """Do nothing."""


def measure(slots: int, seconds: float, rounds: float) -> dict[str, Any]:
    """Run `rounds` tasks per slot, and return the share of idle time and the processor time of the driver."""
    draw = random.Random(0)
    tasks = [{"i": i, "seconds": seconds * draw.uniform(0.5, 1.5)} for i in range(int(slots * rounds))]
    with setting.workplace() as folder:
        session = Session(threads=1, tracking_uri=f"folder:{folder}/runs", cache=str(folder / "cache"))
        store = open_store(f"sqlite:///{folder}/tasks.db")
        store.create("p", tasks)
        engine, job = WaitingEngine(slots), Job("p", len)
        began = time.perf_counter()
        used = setting.cpu_seconds(
            lambda: WorkerPool(store, job, session, slots, runners=EngineRunners(engine, session, job)).run()
        )
        took = time.perf_counter() - began
        idle = sum(sum(agent.idle) for agent in engine.all.values())
        pauses = sorted(pause for agent in engine.all.values() for pause in agent.idle)
        return {
            "slots": slots, "task_seconds": seconds, "tasks": len(tasks), "took_seconds": round(took, 1),
            "idle_share": idle / (idle + sum(task["seconds"] for task in tasks)),
            "median_pause_ms": 1000 * pauses[len(pauses) // 2], "longest_pause_ms": 1000 * pauses[-1],
            "tasks_per_second": len(tasks) / took, "driver_processor": used / took,
        }  # fmt: skip


def main() -> None:
    """Measure and print one line for each number of slots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", default="100,1000", help="numbers of agents")
    parser.add_argument("--seconds", type=float, default=60.0, help="mean duration of a task")
    parser.add_argument("--rounds", type=float, default=3.0, help="tasks per agent")
    options = parser.parse_args()
    for slots in map(int, options.slots.split(",")):
        found = measure(slots, options.seconds, options.rounds)
        setting.report(
            "slots", {"busy": 1 - found["idle_share"]}, small=False, **{k: v for k, v in found.items() if k != "name"}
        )  # fmt: skip


if __name__ == "__main__":
    main()
