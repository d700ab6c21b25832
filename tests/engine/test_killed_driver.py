"""Drivers that are killed or interrupted, and two drivers of one pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tracks import overlaps, running, tracks, wait_for

from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.track.base import open_tracker
from rollforge.track.tracker import RunQuery

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'rollforge[dask]'")
pytestmark = pytest.mark.slow

SILENCE = 3.0
DRIVER = """
import signal, sys, time
from rollforge.engine.executors import Dask
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.testing.actions import act

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs that ignore it
address, folder, silence = sys.argv[1:]
session = Session(threads=1, tracking_uri=f"folder:{folder}/runs", cache=f"{folder}/cache")
store = open_store(f"sqlite:///{folder}/tasks.db")
while store.count("p", {"status": {"$ne": "done"}}):  # those of a killed driver are free when its leases have expired
    Dask(address, jobs=2, silence=float(silence)).run(Job("p", act), session, store=store)
    time.sleep(0.5)
    store.expire("p")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The scheduler of two workers."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def submit(folder: Path, *tasks: dict[str, Any]) -> Any:
    """Create the pool, and return its store."""
    store = open_store(f"sqlite:///{folder}/tasks.db")
    store.create("p", [{**task, "i": i} for i, task in enumerate(tasks)], max_attempts=9)
    return store


KILLED_AFTER_STORING = """
import os, signal
from rollforge.engine.runs import Deliveries
Deliveries.settle = lambda self, task, stored: self._open and os.kill(os.getpid(), signal.SIGKILL)
"""


def drive(address: str, folder: Path, before: str = "", *, silence: float = SILENCE) -> subprocess.Popen[bytes]:
    """Start a driver, which executes some code before."""
    file = folder / "driver.py"
    file.write_text(before + DRIVER)
    return subprocess.Popen([sys.executable, file, address, folder, str(silence)], cwd=folder, stderr=subprocess.PIPE)


def recorded(folder: Path) -> list[Any]:
    """Return the runs in the tracking store of the driver."""
    tracker = open_tracker(f"folder:{folder}/runs")
    return tracker.search(list(tracker.experiments().values()), RunQuery()) if (folder / "runs").exists() else []


def test_each_task_has_one_run_though_drivers_are_killed(address: str, tmp_path: Path) -> None:
    """Two drivers are killed while they write runs into the tracking store; a third one finishes the job."""
    tasks = [{"do": "record", "bytes": 5_000_000}] * 8
    store = submit(tmp_path, *tasks)
    for wanted in (2, 4):
        driver = drive(address, tmp_path)
        try:
            for _ in range(1500):
                if len(recorded(tmp_path)) >= wanted or driver.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            driver.kill()
            driver.communicate()
    driver = drive(address, tmp_path)
    try:
        _, err = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 0, err
    done = {task.definition["i"]: task for task in store.query("p")}
    assert [done[i].status for i in range(len(tasks))] == [Status.DONE] * len(tasks)
    runs = recorded(tmp_path)
    assert sorted(run.info.name for run in runs) == sorted(f"task {i}" for i in done)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if "rollforge.copying" in run.tags]
    named = {run.info.name: run.info.id for run in runs}
    for i, task in done.items():
        assert task.result["recorder"]["recorder_id"] == named[f"task {i}"]


def test_a_run_is_kept_though_its_driver_was_killed_after_storing_the_outcome(address: str, tmp_path: Path) -> None:
    """The task is reset later, fails once, and is done again: all three runs are there."""
    broken = tmp_path / "broken"
    store = submit(tmp_path, {"do": "record", "bytes": 10, "broken": str(broken)})
    killed = drive(address, tmp_path, KILLED_AFTER_STORING)
    killed.communicate(timeout=150)
    assert killed.returncode == -signal.SIGKILL
    assert [(task.status, task.attempt) for task in store.query("p")] == [(Status.DONE, 0)]
    (first,) = recorded(tmp_path)
    assert "rollforge.delivered_for" in first.tags
    broken.touch()
    store.set_status("p", {}, Status.WAITING)
    driver = drive(address, tmp_path)
    try:
        wait_for(lambda: [run for run in recorded(tmp_path) if run.info.status == "FAILED"], "a failed attempt", 150.0)
        broken.unlink()
        _, err = driver.communicate(timeout=150)
    finally:
        driver.kill()
    assert driver.returncode == 0, err
    assert sorted(run.info.status for run in recorded(tmp_path)) == ["FAILED", "FINISHED", "FINISHED"]
    assert first.info.id in {run.info.id for run in recorded(tmp_path)}


def test_two_drivers_of_one_pool(address: str, tmp_path: Path) -> None:
    """Each task is run by one of them."""
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    store = submit(tmp_path, *[{"do": "stamp", "stamps": str(stamps), "seconds": 0.4}] * 8)
    drivers = [drive(address, tmp_path, silence=60.0) for _ in range(2)]  # none is lost, however busy the machine is
    for driver in drivers:
        _, err = driver.communicate(timeout=120)
        assert driver.returncode == 0, err
    assert {task.status for task in store.query("p")} == {Status.DONE}
    assert [len(attempts) for attempts in tracks(stamps).values()] == [1] * 8
    assert not overlaps(stamps)


@pytest.mark.parametrize("moment", ["waiting", "running"])
def test_ctrl_c_gives_the_tasks_back_at_once(moment: str, address: str, tmp_path: Path) -> None:
    """While the driver waits for the first machine, or while tasks run, whose processes end."""
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    store = submit(tmp_path, *[{"do": "stamp", "stamps": str(stamps), "seconds": 90.0}] * 2)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        driver = drive(empty.scheduler_address if moment == "waiting" else address, tmp_path, silence=60.0)
        if moment == "waiting":
            wait_for(lambda: empty.scheduler.clients.keys() - {"fire-and-forget"}, "the driver")
            time.sleep(1.0)
        else:
            wait_for(lambda: running(stamps, 0) and running(stamps, 1), "two tasks")
        began = time.monotonic()
        os.kill(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=60)
    assert b"KeyboardInterrupt" in err
    assert time.monotonic() - began < 20
    assert [(task.status, task.attempt) for task in store.query("p")] == [(Status.WAITING, 0)] * 2
    wait_for(lambda: not running(stamps), "the end of the processes", 30.0)
