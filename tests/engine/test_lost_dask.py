"""Machines of a Dask cluster that are killed, fall silent, or come and go while tasks run."""

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
from tests.engine.tracks import is_alive, meanwhile, overlaps, running, tracks, wait_for

from rollforge.engine.executors import Dask
from rollforge.engine.reach import check_reachable
from rollforge.run.job import Event
from rollforge.task import Cause, Status
from rollforge.testing.executor import RunTasks
from rollforge.testing.server import free_port

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'rollforge[dask]'")
pytestmark = pytest.mark.slow

SILENCE = 3.0


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Start two workers, which their nannies start again when they are killed."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def cluster(workers: Any) -> Any:
    """Wait until workers that an earlier test has killed have been started again."""
    workers.scale(2)
    workers.wait_for_workers(2, timeout=60)
    return workers


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    folder = tmp_path / "stamps"
    folder.mkdir()
    return folder


def on(address: str, folder: Path, jobs: int = 2) -> RunTasks:
    return RunTasks(Dask(address, jobs=jobs, silence=SILENCE), folder)


def stamp(folder: Path, seconds: float) -> dict[str, Any]:
    return {"do": "stamp", "stamps": str(folder), "seconds": seconds}


def check(run: RunTasks, folder: Path, tasks: int, lost: int) -> None:
    """Check that all tasks are done, that some attempts were lost, and that none ran twice at once."""
    done = run.tasks()
    assert [(t.status, t.result) for t in done] == [(Status.DONE, i) for i in range(tasks)]
    assert sum(len(t.failed_by) for t in done) == lost
    assert not overlaps(folder)


def test_the_task_of_a_killed_worker_is_run_again(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    """The worker process of the task ends with the worker, and the other machine goes on meanwhile."""
    run = on(cluster.scheduler_address, tmp_path)
    events: list[Event] = []
    killed: list[Any] = []

    def kill() -> None:
        killed.append(wait_for(lambda: running(stamps), "a task"))
        os.kill(killed[0].agent, signal.SIGKILL)

    with meanwhile(kill):
        run(*[stamp(stamps, 1.0)] * 5, max_attempts=3, on_event=events.append)
    check(run, stamps, 5, lost=1)
    (retry,) = (event for event in events if event.kind == "retry")
    assert "was lost" in retry.error
    assert killed[0].agent not in {attempts[-1].agent for attempts in tracks(stamps).values()}


def test_the_cause_of_a_lost_attempt_is_lost(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    run = on(cluster.scheduler_address, tmp_path)
    with meanwhile(lambda: os.kill(wait_for(lambda: running(stamps, 0), "task 0").agent, signal.SIGKILL)):
        lost, other = run(stamp(stamps, 2.0), stamp(stamps, 0.1))
    assert (lost.status, lost.cause, lost.attempt, other.status) == (Status.FAILED, Cause.LOST, 1, Status.DONE)
    assert "was lost" in str(lost.error)


def test_the_task_of_a_silent_worker_ends_before_it_is_run_again(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    """SIGSTOP stops the agent, not the task in its worker process: another process ends that in time."""
    run = on(cluster.scheduler_address, tmp_path)
    stopped: list[Any] = []

    def stop() -> None:
        stopped.append(wait_for(lambda: running(stamps, 0), "task 0"))
        os.kill(stopped[0].agent, signal.SIGSTOP)

    try:
        with meanwhile(stop):
            run(stamp(stamps, 5.0), stamp(stamps, 1.0), max_attempts=3)
    finally:
        os.kill(stopped[0].agent, signal.SIGCONT)
    check(run, stamps, 2, lost=1)
    first, second = tracks(stamps)[0]
    assert first.ended - first.began < 2 * SILENCE + 1.0
    assert first.agent != second.agent


def test_a_late_answer_is_refused(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    """The worker goes on after its task was given to another one; that one's result counts."""
    run = on(cluster.scheduler_address, tmp_path)

    def pause() -> None:
        first = wait_for(lambda: running(stamps, 0), "task 0")
        os.kill(first.agent, signal.SIGSTOP)
        wait_for(lambda: len(tracks(stamps)[0]) > 1, "a second attempt")
        os.kill(first.agent, signal.SIGCONT)
        wait_for(lambda: not is_alive(first.pid), "the end of the first attempt")

    with meanwhile(pause):
        run(stamp(stamps, 3.0), max_attempts=3)
    check(run, stamps, 1, lost=1)


def test_workers_come_and_go_while_tasks_run(stamps: Path, tmp_path: Path) -> None:
    """The driver waits for the first worker, uses one that comes later, and misses one that is closed."""
    end = tmp_path / "end"
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        run = on(cluster.scheduler_address, tmp_path)

        def change() -> None:
            cluster.scale(1)
            first = wait_for(lambda: running(stamps), "a task")
            cluster.scale(2)
            wait_for(lambda: {a.agent for t in tracks(stamps).values() for a in t} - {first.agent}, "a second worker")
            (nanny,) = (one for one in cluster.workers.values() if one.pid == first.agent)
            cluster.sync(nanny.close)
            wait_for(lambda: not is_alive(first.pid), "the end of its task")
            end.touch()

        with meanwhile(change):
            run(*[{**stamp(stamps, 90.0), "end": str(end)}] * 4, max_attempts=3)
        check(run, stamps, 4, lost=1)


def test_several_lost_machines_in_succession(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    """The driver does not give up as long as the cluster replaces its workers."""
    run = on(cluster.scheduler_address, tmp_path)

    def kill() -> None:
        seen: set[int] = set()
        for _ in range(3):
            found = wait_for(lambda: (a := running(stamps)) and a.agent not in seen and a, "a task of a new worker")
            seen.add(found.agent)
            os.kill(found.agent, signal.SIGKILL)

    with meanwhile(kill):
        run(*[stamp(stamps, 0.8)] * 5, max_attempts=10)
    check(run, stamps, 5, lost=3)


def _scheduler(port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(port), "--no-dashboard"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _worker(port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", f"127.0.0.1:{port}", "--nthreads", "1",
               "--no-nanny", "--no-dashboard"]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_scheduler_is_killed_and_started_again(stamps: Path, tmp_path: Path) -> None:
    """The driver goes on with the scheduler and the workers that are started later at the same address."""
    port = free_port()
    started = [_scheduler(port, tmp_path), _worker(port, tmp_path)]
    check_reachable(f"tcp://127.0.0.1:{port}", "Dask", 60.0)
    run = on(f"tcp://127.0.0.1:{port}", tmp_path, jobs=1)

    def kill() -> None:
        wait_for(lambda: running(stamps), "a task")
        started[0].kill()
        time.sleep(SILENCE + 1.0)
        started.extend([_scheduler(port, tmp_path), _worker(port, tmp_path)])

    try:
        with meanwhile(kill):
            run(*[stamp(stamps, 1.5)] * 3, max_attempts=3)
        check(run, stamps, 3, lost=1)
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_killed_driver_leaves_no_task_running(cluster: Any, stamps: Path, tmp_path: Path) -> None:
    """A driver that was killed leaves no worker process on a cluster that lives on; its tasks are free after their lease."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rollforge.engine.executors import Dask\n"
        "from rollforge.testing.executor import RunTasks\n"
        f"run = RunTasks(Dask({cluster.scheduler_address!r}, jobs=2, silence={SILENCE}), Path({str(tmp_path)!r}))\n"
        f"run(*[{stamp(stamps, 60.0)!r}] * 2)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    try:
        wait_for(lambda: running(stamps, 0) and running(stamps, 1), "two tasks")
    finally:
        driver.kill()
        driver.wait()
    killed = time.monotonic()
    wait_for(lambda: not running(stamps), "the end of the tasks", 3 * SILENCE)
    assert all(not is_alive(a.pid) for t in tracks(stamps).values() for a in t)
    assert time.monotonic() - killed < 2 * SILENCE + 1.0


def test_a_task_is_free_as_soon_as_its_process_is_known_to_have_ended(
    cluster: Any, stamps: Path, tmp_path: Path
) -> None:
    """Another agent of the machine finds the note about the killed one: the task does not wait for 60 seconds."""
    run = RunTasks(Dask(cluster.scheduler_address, jobs=2, silence=60.0), tmp_path)
    end = tmp_path / "end"

    def kill() -> None:
        first = wait_for(lambda: running(stamps, 0), "task 0")
        os.kill(first.agent, signal.SIGKILL)
        wait_for(lambda: len(tracks(stamps)[0]) > 1, "another attempt", 50.0)
        end.touch()

    with meanwhile(kill):
        run(*[{**stamp(stamps, 100.0), "end": str(end)}] * 2, max_attempts=3)
    check(run, stamps, 2, lost=1)


def test_a_worker_that_dask_gives_up_is_replaced(stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that is started for the job: Dask gives up a worker that dies and is not back soon."""
    import dask

    monkeypatch.setattr("rollforge.engine.dask._REPLACE_SECONDS", 2.0)
    run = RunTasks(Dask(jobs=1, silence=SILENCE), tmp_path)
    end = tmp_path / "end"

    def kill() -> None:
        first = wait_for(lambda: running(stamps, 0), "task 0")
        os.kill(first.agent, signal.SIGKILL)
        wait_for(lambda: len(tracks(stamps)[0]) > 1, "another attempt", 120.0)
        end.touch()

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}), meanwhile(kill):
        run({**stamp(stamps, 300.0), "end": str(end)}, max_attempts=3)
    check(run, stamps, 1, lost=1)
