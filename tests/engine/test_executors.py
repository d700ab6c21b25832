"""Executors on the engines that are installed."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollforge.engine.executors import Dask, Ray
from rollforge.run.executor import Executor
from rollforge.testing.executor import ClusterSuite

LARGE = 200_000_000
SILENCE = 10.0
HOLD_SECONDS = 21.0  # a lease is twice as long as the silence after which an agent ends its task


def installed(module: str, extra: str) -> Any:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed: pip install 'rollforge[{extra}]'"
    )


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@installed("distributed", "dask")
@pytest.mark.slow
class TestDask(ClusterSuite):
    large_bytes = LARGE
    many_tasks = 300
    hold_seconds = HOLD_SECONDS

    @pytest.fixture
    def executor(self, dask_cluster: Any) -> Executor:
        return Dask(dask_cluster.scheduler_address, jobs=1, silence=SILENCE)

    @pytest.fixture
    def lose_machine(self, dask_cluster: Any) -> Callable[[], None]:
        """Dask starts another worker in place of one that was killed."""

        def lose() -> None:
            (nanny,) = dask_cluster.workers.values()
            os.kill(nanny.pid, signal.SIGKILL)

        return lose


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@installed("ray", "ray")
@pytest.mark.slow
class TestRay(ClusterSuite):
    large_bytes = LARGE
    many_tasks = 300
    hold_seconds = HOLD_SECONDS

    @pytest.fixture
    def executor(self, ray_cluster: None) -> Executor:
        return Ray(jobs=1, silence=SILENCE)

    @pytest.fixture
    def lose_machine(self, ray_cluster: None) -> Callable[[], None]:
        """The process of the agent is killed: there is only one machine."""

        def lose() -> None:
            import ray

            raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
            (children,) = (file.read_text() for file in Path(f"/proc/{raylet}/task").glob(f"{raylet}/children"))
            for pid in map(int, children.split()):
                if b"RayAgent" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

        return lose
