"""GPUs of a Ray cluster. No GPU is needed: Ray believes the number that a node is started with."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.tracks import meanwhile, wait_for
from tests.engine.work import Ran, ran, sleep

from rollforge.engine.executors import Ray
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'rollforge[ray]'"
    ),
]


@pytest.fixture(scope="module")
def two_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of one node with two GPUs and three cores."""
    import ray

    ray.init(
        address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        object_store_memory=100_000_000,
    )  # fmt: skip
    yield
    ray.shutdown()


def run(store: MemoryStore, jobs: int, silence: float = 30.0) -> dict[int, Ran]:
    """Run the tasks of a store, and return where and when each ran."""
    Ray(jobs=jobs, silence=silence).run(Job("p", sleep, own=True), Session(provider_uri=None, threads=1), store=store)
    return ran(store)


def test_tasks_with_and_without_gpus_run_at_the_same_time(two_gpus: None, tmp_path: Path) -> None:
    """Three agents: two have a GPU each, which their tasks see; the third has none. One task of each meets the others."""
    store, meeting = MemoryStore(), {"meet": str(tmp_path), "number": 3}
    store.create(
        "p", [{"x": 0, **meeting}, *({"x": x, "resources": {"gpus": 1}, **meeting} for x in (4, 5))], priority=1
    )
    store.create("p", [{"x": x, "seconds": 0.2} for x in range(1, 4)])
    store.create("p", [{"x": x, "seconds": 0.2, "resources": {"gpus": 1}} for x in range(6, 8)])
    found = run(store, jobs=3)
    assert {found[x].gpus for x in range(4)} == {"not set"}
    assert {found[x].gpus for x in range(4, 8)} == {"0", "1"}
    assert all(found[x].overlaps(found[y]) for x in (0, 4, 5) for y in (0, 4, 5))
    for gpu in "01":
        assert not any(
            a.overlaps(b) for a in found.values() for b in found.values() if a is not b and a.gpus == b.gpus == gpu
        )


def test_agents_of_one_size_make_room_for_others(two_gpus: None, caplog: pytest.LogCaptureFixture) -> None:
    """Agents with half a GPU see the same one. The agent with all cores and both GPUs starts when they have ended, and the
    one for a task of three GPUs never does, which is said once."""
    store = MemoryStore()
    store.create("p", [{"x": x, "seconds": 0.5, "resources": {"gpus": 0.5}} for x in range(2)])
    store.create("p", [{"x": 2, "resources": {"gpus": 2, "cpus": 3}}])
    (large,) = store.create("p", [{"x": 3, "resources": {"gpus": 3}}])
    with meanwhile(
        lambda: wait_for(lambda: _others_done(store), "the others") and store.cancel("p", {"_id": large.id})
    ):
        found = run(store, jobs=4)
    assert {x: one.gpus for x, one in found.items()} == {0: "0", 1: "0", 2: "0,1"}
    assert not any(found[x].overlaps(found[2]) for x in (0, 1))
    said = (
        r"no machine of the cluster has 1 core and 3 GPUs \(the largest has 3 cores, .* and 2 GPUs\); 1 task that asks"
    )
    assert len(re.findall(said, caplog.text)) == 1


def _others_done(store: MemoryStore) -> bool:
    return sum(task.status.value == "done" for task in store.query("p")) == 3


def test_a_killed_agent_is_replaced_by_one_of_its_size(two_gpus: None, tmp_path: Path) -> None:
    """The task that it had runs again with a GPU. The tasks without one are not touched."""
    store, mark = MemoryStore(), tmp_path / "agent"
    store.create("p", [{"x": 0, "resources": {"gpus": 1}, "mark": str(mark), "seconds": 60.0}])
    store.create("p", [{"x": x, "seconds": 0.5} for x in (1, 2)])

    def kill() -> None:
        agent = int(wait_for(lambda: mark.exists() and mark.read_text(), "the task"))
        os.kill(agent, signal.SIGKILL)

    with meanwhile(kill):
        found = run(store, jobs=2, silence=3.0)
    assert found[0].gpus in ("0", "1")
    assert {task.definition["x"]: len(task.failed_by) for task in store.query("p")} == {0: 1, 1: 0, 2: 0}
