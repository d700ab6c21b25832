"""Executors on the engines that are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from rollforge.engine.executors import Dask, Ray
from rollforge.run.executor import Executor
from rollforge.testing.executor import ProcessesSuite


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
class TestDask(ProcessesSuite):
    @pytest.fixture
    def executor(self, dask_cluster: Any) -> Executor:
        return Dask(dask_cluster.scheduler_address, jobs=1)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@installed("ray", "ray")
@pytest.mark.slow
class TestRay(ProcessesSuite):
    @pytest.fixture
    def executor(self, ray_cluster: None) -> Executor:
        return Ray(jobs=1)
