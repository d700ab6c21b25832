"""Agents on a cluster whose worker processes die before they can run a task."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import Cluster

from rollforge.engine.executors import Dask
from rollforge.errors import TrainingFailed
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore
from rollforge.task import Status

pytestmark = pytest.mark.slow


def die(starts: str) -> None:
    """Exit, as a broken library may when it is imported."""
    with Path(starts).open("a") as file:
        file.write("x")
    os._exit(3)


def die_unless_first(starts: str) -> None:
    """Exit, unless no other process has started before."""
    try:
        Path(starts).with_name("first").touch(exist_ok=False)
    except FileExistsError:
        die(starts)


def wait_for_deaths(task: Mapping[str, Any]) -> int:
    """Wait until six processes of other agents have died."""
    until = time.monotonic() + 120
    while not Path(task["starts"]).exists() or Path(task["starts"]).stat().st_size < 6:
        assert time.monotonic() < until, "no other process is started"
        time.sleep(0.05)
    return 1


def run(cluster: Cluster, starts: Path, preload: Callable[[str], None], tasks: int) -> MemoryStore:
    """Run tasks on up to three agents, whose processes call `preload` when they start."""
    store = MemoryStore()
    store.create("p", [{"x": n, "starts": str(starts)} for n in range(tasks)])
    job = Job("p", wait_for_deaths, preload=partial(preload, str(starts)), own=True)
    try:
        Dask(cluster.address, jobs=3).run(job, Session(provider_uri=None, threads=1), store=store)
    finally:
        assert {task.attempt for task in store.query("p")} == {0}
    return store


def test_agents_whose_processes_cannot_start_do_not_end_a_job_while_another_trains(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One of three agents runs all tasks."""
    store = run(cluster, tmp_path / "starts", die_unless_first, 4)
    assert store.count("p") == {Status.DONE: 4}


def test_a_job_ends_if_no_process_of_an_agent_can_start(cluster: Cluster, tmp_path: Path) -> None:
    """A single task needs three starts."""
    with pytest.raises(TrainingFailed, match="exit before they can run a task"):
        run(cluster, tmp_path / "starts", die, 1)
    assert (tmp_path / "starts").stat().st_size == 3
