"""The cores of a machine are divided among worker processes, and the last tasks use those of idle processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job, ignore_event
from rollforge.run.leases import Leases
from rollforge.run.runners import LocalRunners
from rollforge.run.task_resources import Shapes, TaskResources
from rollforge.run.trainer import TrainerR
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, current_session
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
from rollforge.track.base import Recorder
from rollforge.track.r import R


def threads_of_task(task: object) -> list[int]:
    """Return the threads of the session and those that libraries read when they are loaded."""
    return [current_session().threads, int(os.environ["OMP_NUM_THREADS"])]


def record_threads(task: object, experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Record the threads of the session."""
    with R.start(experiment_name=experiment_name):
        R.log_metrics(threads=current_session().threads)
        return R.get_recorder()


def pool_of(
    waiting: int, *, jobs: int = 4, seconds: float = 10.0, count: int = 8, stay: bool = False
) -> tuple[WorkerPool, Leases]:
    """Return a pool of idle processes with two threads each, whose recent tasks took some time, and its leases."""
    store = MemoryStore()
    store.create("p", [{"x": x} for x in range(waiting)])
    job = Job("p", len)
    pool = WorkerPool(store, job, Session(threads=2), jobs, exit_when_empty=not stay)
    pool._runners, pool._shapes = LocalRunners(pool.session, job, 0), Shapes(store, job)
    pool._recent.extend([seconds] * count)
    return pool, Leases(store, job, "me", ignore_event)


@pytest.mark.parametrize(("jobs", "threads"), [(1, 4), (3, 1), (8, 1)])
def test_processes_share_the_threads_of_the_session(jobs: int, threads: int) -> None:
    """Each process gets an equal part of four threads, but at least one."""
    session = Session(store_uri=f"memory://{jobs} processes share threads", threads=4)
    store = open_store(session.store_uri)
    store.create("p", [{"x": 1}])
    LocalProcesses(jobs).run(Job("p", threads_of_task), session)
    assert [task.result for task in store.query("p")] == [[threads, threads]]


def test_a_trainer_shares_the_threads_too(tmp_path: Path) -> None:
    """A trainer without a pool gives each of its two processes half of the threads."""
    session = Session(tracking_uri=f"folder:{tmp_path}", threads=4)
    trainer = TrainerR("shared", train_func=record_threads, jobs=2, session=session)
    recorders = trainer.train([{"x": 1}, {"x": 2}])
    assert [recorder.list_metrics()["threads"] for recorder in recorders] == [2.0, 2.0]


@pytest.mark.parametrize(("waiting", "threads"), [(0, 8), (1, 4), (2, 2), (3, 2), (9, 2)])
def test_the_last_tasks_use_the_cores_of_idle_processes(waiting: int, threads: int) -> None:
    """Four processes of two threads: the last task gets all eight, the last but one half, earlier ones their share."""
    pool, leases = pool_of(waiting)
    assert pool._threads(leases, TaskResources()) == threads


@pytest.mark.parametrize("case", [{"seconds": 0.5}, {"stay": True}, {"count": 0}])
def test_short_tasks_keep_their_share_and_so_do_those_that_others_may_follow(case: dict[str, float]) -> None:
    """Each keeps its share, also while the duration of tasks is unknown."""
    pool, leases = pool_of(0, **case)  # type: ignore[arg-type]
    assert pool._threads(leases, TaskResources()) == 2


@pytest.mark.parametrize(("count", "seconds", "ahead"), [(3, 0.01, 0), (4, 0.6, 0), (4, 0.25, 8), (4, 0.001, 16)])
def test_short_tasks_are_claimed_ahead(count: int, seconds: float, ahead: int) -> None:
    """For half a second of work of four processes, at most 16; none before four tasks have ended."""
    pool, _ = pool_of(0, seconds=seconds, count=count)
    assert pool._ahead() == ahead
