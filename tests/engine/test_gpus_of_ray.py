"""GPUs of a Ray cluster. No GPU is needed: Ray believes the number that a node is started with."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

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
    """A cluster of one node with two GPUs."""
    import ray

    ray.init(
        address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        object_store_memory=100_000_000,
    )  # fmt: skip
    yield
    ray.shutdown()


def meet(task: Mapping[str, Any]) -> str:
    """Wait until both tasks run at the same time, and return the GPUs that this one sees."""
    folder = Path(task["folder"])
    (folder / str(task["x"])).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(("gpus", "seen"), [(1, ["0", "1"]), (0.5, ["0", "0"])])
def test_tasks_see_the_gpus_that_the_engine_has_given_them(
    gpus: float, seen: list[str], two_gpus: None, tmp_path: Path
) -> None:
    """Two whole GPUs are different ones; two halves are one GPU."""
    store = MemoryStore()
    store.create("p", [{"x": x, "folder": str(tmp_path)} for x in range(2)])
    Ray(jobs=2, gpus=gpus).run(Job("p", meet, own=True), Session(provider_uri=None, threads=1), store=store)
    assert sorted(task.result for task in store.query("p")) == seen


def test_each_task_gets_an_agent_of_its_size(two_gpus: None, tmp_path: Path) -> None:
    """The task that asks for both GPUs sees them; for the other, which asks for none, Ray sets nothing."""
    store = MemoryStore()
    store.create("p", [{"x": 0, "resources": {"gpus": 2}}, {"x": 1}])
    Ray(jobs=2).run(Job("p", see, own=True), Session(provider_uri=None, threads=1), store=store)
    assert {task.definition["x"]: task.result for task in store.query("p")} == {0: "0,1", 1: "not set"}


def see(task: Mapping[str, Any]) -> str:
    """Return the GPUs that the task sees."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
