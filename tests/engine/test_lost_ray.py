"""Machines of a Ray cluster that are killed, or come later, and agents that Ray ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tracks import Attempt, is_alive, meanwhile, overlaps, running, tracks, wait_for

from rollforge.engine.executors import Ray
from rollforge.engine.ray import _translated
from rollforge.engine.remote import AgentLost
from rollforge.run.job import Event
from rollforge.task import Cause, Status
from rollforge.testing.executor import RunTasks

said = pytest.importorskip("ray.exceptions", reason="ray is not installed: pip install 'rollforge[ray]'")
pytestmark = pytest.mark.slow

SILENCE = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a head without cores; a test adds the machines that it needs. Lost ones are noticed after a second."""
    import ray
    from ray.cluster_utils import Cluster

    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    head = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        yield cluster
        ray.shutdown()
    finally:
        cluster.shutdown()


@pytest.fixture
def machines(cluster: Any) -> Iterator[list[Any]]:
    """Two machines of one core, which are removed after the test."""
    added = [cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False) for _ in range(2)]
    yield added
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)


def raylet(node: Any) -> int:
    """Return the process of a machine's raylet."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def node_of(attempt: Attempt, nodes: list[Any]) -> Any:
    """Return the machine on which an attempt runs."""
    (found,) = (node for node in nodes if raylet(node) == parent(attempt.agent))
    return found


def stamp(folder: Path, seconds: float, **more: object) -> dict[str, Any]:
    return {"do": "stamp", "stamps": str(folder), "seconds": seconds, **more}


def check(run: RunTasks, folder: Path, tasks: int, lost: int) -> None:
    """Check that all tasks are done, that some attempts were lost, and that none ran twice at once."""
    done = run.tasks()
    assert [(t.status, t.result) for t in done] == [(Status.DONE, i) for i in range(tasks)]
    assert sum(len(t.failed_by) for t in done) == lost
    assert not overlaps(folder)


def test_a_killed_machine_and_one_that_comes_later(cluster: Any, machines: list[Any], tmp_path: Path) -> None:
    """The task of the killed machine has ended before it is run again; the job uses a machine that is added meanwhile."""
    stamps, end, events = tmp_path / "stamps", tmp_path / "end", list[Event]()
    stamps.mkdir()
    run = RunTasks(Ray(silence=SILENCE), tmp_path)

    def job() -> None:
        run(*[stamp(stamps, 90.0, end=str(end))] * 2, max_attempts=3, on_event=events.append)

    with meanwhile(job):  # Ray adds machines only in the main thread
        wait_for(lambda: running(stamps, 0) and running(stamps, 1), "two tasks")
        victim = running(stamps, 0)
        assert victim is not None
        gone = node_of(victim, machines)
        os.kill(raylet(gone), signal.SIGKILL)
        known = {one.agent for attempts in tracks(stamps).values() for one in attempts}
        machines.append(cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False))
        wait_for(lambda: (a := running(stamps, 0)) and a.agent not in known, "another attempt on the new machine")
        end.touch()
    check(run, stamps, 2, lost=1)
    (retry,) = (event for event in events if event.kind == "retry")
    assert "was lost" in retry.error


def test_an_actor_is_killed(machines: list[Any], tmp_path: Path) -> None:
    """The attempt counts, and its cause is that the agent was lost."""
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    run = RunTasks(Ray(jobs=2, silence=SILENCE), tmp_path)
    killed: list[Attempt] = []

    def kill() -> None:
        killed.append(wait_for(lambda: running(stamps, 0), "task 0"))
        os.kill(killed[0].agent, signal.SIGKILL)

    with meanwhile(kill):
        lost, other = run(stamp(stamps, 60.0), stamp(stamps, 0.1))
    assert (lost.status, lost.cause, lost.attempt, other.status) == (Status.FAILED, Cause.LOST, 1, Status.DONE)
    assert not is_alive(killed[0].pid)


def test_the_task_of_a_killed_actor_is_free_when_its_process_has_ended(machines: list[Any], tmp_path: Path) -> None:
    """A new actor of the machine finds the note about the killed one: the task does not wait for 60 seconds."""
    stamps, end = tmp_path / "stamps", tmp_path / "end"
    stamps.mkdir()
    run = RunTasks(Ray(jobs=1, silence=60.0), tmp_path)

    def kill() -> None:
        first = wait_for(lambda: running(stamps, 0), "task 0")
        os.kill(first.agent, signal.SIGKILL)
        wait_for(lambda: len(tracks(stamps)[0]) > 1, "another attempt", 50.0)
        end.touch()

    with meanwhile(kill):
        run(stamp(stamps, 100.0, end=str(end)), max_attempts=3)
    check(run, stamps, 1, lost=1)


DRIVER = """
import sys
from pathlib import Path
from rollforge.engine.executors import Ray
from rollforge.testing.executor import RunTasks

address, folder, silence, seconds = sys.argv[1:]
run = RunTasks(Ray(address, jobs=2, silence=float(silence)), Path(folder))
run(*[{"do": "stamp", "stamps": f"{folder}/stamps", "seconds": float(seconds)}] * 2)
"""


def test_a_killed_driver_leaves_nothing_on_the_cluster(cluster: Any, machines: list[Any], tmp_path: Path) -> None:
    """The agents and their worker processes end, and the next driver has all cores, while the machines live on."""
    import ray

    (tmp_path / "stamps").mkdir()
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")

    def drive(seconds: float) -> subprocess.Popen[bytes]:
        words = [sys.executable, tmp_path / "driver.py", cluster.address, tmp_path, SILENCE, seconds]
        return subprocess.Popen(list(map(str, words)), cwd=tmp_path)

    def found() -> list[Attempt]:
        return [one for attempts in tracks(tmp_path / "stamps").values() for one in attempts]

    drivers = [drive(90.0)]
    try:
        wait_for(lambda: running(tmp_path / "stamps", 0) and running(tmp_path / "stamps", 1), "two tasks")
        drivers[0].kill()
        drivers[0].wait()
        killed, processes = time.monotonic(), {pid for one in found() for pid in (one.pid, one.agent)}
        assert len(processes) == 4
        wait_for(lambda: not any(map(is_alive, processes)), "the end of all processes")
        assert time.monotonic() - killed < 2 * SILENCE + 1.0
        wait_for(lambda: ray.available_resources().get("CPU") == 2.0, "two free cores", 2 * SILENCE)
        drivers.append(drive(0.1))
        assert drivers[1].wait(timeout=60) == 0
        assert len(found()) == 4
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()


@pytest.mark.parametrize(
    ("error", "lost", "out_of_memory"),
    [
        (said.OutOfMemoryError("why"), True, True),
        (said.ActorDiedError(), True, False),
        (said.NodeDiedError("why"), True, False),
        (said.ActorUnavailableError("why", None), False, False),
        (said.GetTimeoutError("why"), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_some_exceptions_of_ray_mean_that_the_agent_is_gone(
    error: Exception, lost: bool, out_of_memory: bool
) -> None:
    """After the others its call is repeated."""
    call: Future[None] = Future()
    call.set_exception(error)
    found = _translated(call).exception()
    assert isinstance(found, AgentLost) is lost
    assert getattr(found, "out_of_memory", False) is out_of_memory
