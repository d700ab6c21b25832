"""Worker processes that start before their job is known, and import their libraries while it is prepared."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest

from rollforge.run.job import Job, current_attempt
from rollforge.run.runners import LocalRunners, StartedProcesses
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, current_session
from rollforge.store.memory import MemoryStore


def preload() -> None:
    """The tests' processes need nothing else."""


def process_of(task: dict[str, Any], pool: str) -> tuple[int, str, int, str]:
    if task.get("dies") and not current_attempt.get():
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), pool, current_session().threads, str(current_session().provider_uri)


def pids(started: StartedProcesses) -> set[int]:
    return {process._process.pid or 0 for process in started._left if process._process is not None}


def results(started: StartedProcesses, tasks: list[dict[str, Any]], threads: int = 1) -> list[Any]:
    """The results of tasks of one job, which runs in processes that were started before it existed."""
    store = MemoryStore()
    store.create("p", tasks)
    job, session = Job("p", process_of, kwargs={"pool": "p"}), Session(threads=threads, provider_uri="/data")
    WorkerPool(store, job, session, 2, runners=LocalRunners(session, job, 2, started=started)).run()
    return [record.result for record in store.query("p")]


def is_there(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def are_gone(processes: set[int]) -> bool:
    return not any(map(is_there, processes))


def test_tasks_run_in_the_processes_that_have_started() -> None:
    """The job and session are those of the tasks, not those with which the processes were started, which end with the
    job."""
    with StartedProcesses(Session(threads=2), 2, preload) as started:
        early = pids(started)
        found = results(started, [{"x": x} for x in range(6)])
        assert are_gone(early)
    assert len(early) == 2
    assert {tuple(one[1:]) for one in found} == {("p", 1, "/data")}
    assert {one[0] for one in found} <= early


def test_a_process_that_dies_is_replaced_by_one_with_the_same_job() -> None:
    """The job that the dead process was given later is also the new one's."""
    with StartedProcesses(Session(threads=1), 1, preload) as started:
        early = pids(started)
        (found,) = results(started, [{"dies": True}])
    assert tuple(found[1:]) == ("p", 1, "/data")
    assert found[0] not in early


def test_processes_that_would_need_other_limits_are_not_used() -> None:
    """Libraries have read the number of threads when they were loaded, so a job with another one gets new processes."""
    with StartedProcesses(Session(threads=2), 2, preload) as started:
        early = pids(started)
        (found,) = results(started, [{"x": 0}], threads=2)
        assert are_gone(early)
    assert found[0] not in early
    assert found[2] == 2


def test_processes_do_not_outlive_an_error() -> None:
    """An error while the job is prepared ends all processes."""

    def prepare() -> None:
        with StartedProcesses(Session(threads=2), 2, preload) as started:
            early.update(pids(started))
            raise KeyError

    early: set[int] = set()
    with pytest.raises(KeyError):
        prepare()
    assert len(early) == 2
    assert are_gone(early)
