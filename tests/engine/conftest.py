"""A Dask cluster of one worker with three threads and, so it says, two GPUs. It has its own cache and no user's modules."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Cluster:
    """A cluster and the cache of its only machine."""

    address: str
    cache: Path

    def sent(self, kind: str) -> list[Path]:
        """Return the folders of a kind that the machine was sent: panels, extracts or modules."""
        return sorted((self.cache / kind).glob("[!.]*"))


@pytest.fixture(scope="package", autouse=True)
def own_ray() -> Iterator[None]:
    """Give the clusters of this process a folder of their own. Ray joins the last cluster that was started in its folder,
    so that a test would use, or fail because of, the cluster of another process.

    Clusters are without tokens: one in the home directory would turn them on, and Ray reads the setting only once in a process.
    """
    with (
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture(scope="package", autouse=True)
def patient_dask() -> Iterator[None]:
    """Let clusters of Dask wait for workers that were killed. By default, a worker that is not back 15 s after its death, or
    has died again by then, is given up, and no other one is started."""
    if importlib.util.find_spec("distributed") is None:
        yield
        return
    import dask

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}):
        yield


@pytest.fixture(scope="package")
def node_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that is the cache of the machine."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="package")
def dask_workers(node_cache: Path) -> Iterator[Any]:
    """Start the cluster. Its processes have the environment and the path of now, before a test changes them."""
    distributed = pytest.importorskip("distributed", reason="pip install 'rollforge[dask]'")
    before = os.environ.get("ROLLFORGE_CACHE"), list(sys.path)
    os.environ["ROLLFORGE_CACHE"] = str(node_cache)
    try:
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=3, dashboard_address=":0", resources={"GPU": 2}
        ) as cluster:
            yield cluster
    finally:
        if before[0] is None:
            del os.environ["ROLLFORGE_CACHE"]
        else:
            os.environ["ROLLFORGE_CACHE"] = before[0]


@pytest.fixture
def cluster(dask_workers: Any, node_cache: Path) -> Cluster:
    """Return the cluster, whose machine has nothing in its cache yet."""
    import shutil

    for place in node_cache.iterdir():
        shutil.rmtree(place)
    return Cluster(dask_workers.scheduler_address, node_cache)
