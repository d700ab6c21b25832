"""Tasks that ask for different amounts of a Dask cluster, whose worker has two GPUs according to its settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.engine.conftest import Cluster
from tests.engine.tracks import meanwhile, wait_for
from tests.engine.work import ran, sleep

from rollforge.engine.executors import Dask
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore

pytestmark = pytest.mark.slow


def test_tasks_of_different_sizes_share_a_worker(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two tasks with a GPU run beside one without. That of three cores gets them when the others have ended, and that of
    four never does, which is said once. One that depends on another one waits for it without holding anything."""
    store = MemoryStore()
    meeting = {"meet": str(tmp_path), "number": 3}
    first = [{"x": 0, **meeting}, *({"x": x, "resources": {"gpus": 1}, **meeting} for x in (4, 5))]
    small = store.create("p", first, priority=1)
    store.create("p", [{"x": x, "seconds": 0.2} for x in range(1, 4)])
    store.create("p", [{"x": x, "seconds": 0.2, "resources": {"gpus": 1}} for x in range(6, 8)])
    store.create("p", [{"x": 8, "resources": {"cpus": 3}}], depends_on=[task.id for task in small])
    (large,) = store.create("p", [{"x": 9, "resources": {"cpus": 4}}])
    others_done = lambda: sum(task.status.value == "done" for task in store.query("p")) == 9  # noqa: E731
    with meanwhile(lambda: wait_for(others_done, "the others") and store.cancel("p", {"_id": large.id})):
        Dask(cluster.address, jobs=3).run(Job("p", sleep, own=True), Session(provider_uri=None, threads=1), store=store)
    found = ran(store)
    assert found.keys() == set(range(9))
    assert all(found[x].overlaps(found[y]) for x in (0, 4, 5) for y in (0, 4, 5))
    starts = [one.began for one in found.values()]
    for start in starts:
        assert sum(found[x].began <= start < found[x].ended for x in range(4, 8)) <= 2
        assert sum((3 if x == 8 else 1) for x, one in found.items() if one.began <= start < one.ended) <= 3
    assert {x: one.threads for x, one in found.items()} == {**dict.fromkeys(range(8), 1), 8: 3}
    warning = r"no machine of the cluster has 4 cores \(the largest has 3 cores.*\); 1 task that asks for this waits"
    assert len(re.findall(warning, caplog.text)) == 1
