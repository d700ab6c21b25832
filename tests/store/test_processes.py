"""One SQLite file that is used by many processes, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import LeaseLost
from rollforge.store.base import open_store
from rollforge.store.manager import Lease, TaskManager
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status
from rollforge.testing.store import ManualClock

CONTEXT = multiprocessing.get_context("spawn")


def work(uri: str, name: str) -> None:
    store = open_store(uri)
    while tasks := store.claim("p", worker=name, lease=60):
        store.commit(tasks[0], name)


def submit(uri: str) -> None:
    open_store(uri).create("p", [{"x": i} for i in range(300)])


def hold(uri: str, pipe: Any) -> None:
    (task,) = open_store(uri).claim("p", worker="held", lease=60)
    pipe.send(task.id)
    time.sleep(60)


@pytest.mark.slow
def test_every_task_is_committed_once_by_one_process(tmp_path: Path) -> None:
    """Four processes share 200 tasks: each task is claimed by exactly one of them."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [{"x": i} for i in range(200)])
    workers = [CONTEXT.Process(target=work, args=(uri, f"w{i}")) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tasks = list(store.query("p"))
    assert {t.status for t in tasks} == {Status.DONE}
    assert all(t.result == t.worker for t in tasks)
    assert sum(Counter(t.worker for t in tasks).values()) == 200


@pytest.mark.slow
def test_processes_that_submit_the_same_tasks_create_them_once(tmp_path: Path) -> None:
    """Ids are unique, and several processes may create the file at the same time."""
    uri = f"sqlite:///{tmp_path}/fresh.db"
    submitters = [CONTEXT.Process(target=submit, args=(uri,)) for _ in range(4)]
    for one in submitters:
        one.start()
    for one in submitters:
        one.join()
        assert one.exitcode == 0
    assert open_store(uri).count("p") == {Status.WAITING: 300}


@pytest.mark.slow
def test_the_task_of_a_killed_worker_is_taken_over(tmp_path: Path) -> None:
    """After ``kill -9`` the lease expires, another worker claims the task after the backoff, and ``wait`` returns when
    that lease has expired too."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    later = 0.0
    store = SQLiteStore(uri, clock=lambda: time.time() + later)
    store.create("p", [{"x": 1}], max_attempts=2)
    ours, theirs = CONTEXT.Pipe(duplex=False)
    holder = CONTEXT.Process(target=hold, args=(uri, theirs))
    holder.start()
    theirs.close()  # so that the end of the process is noticed
    held = ours.recv()
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert store.claim("p", worker="next", lease=1) == []
    later = 61.0
    store.expire("p")
    later += 1.1  # the backoff after the first attempt is a second
    (task,) = store.claim("p", worker="next", lease=0.3)
    assert (task.id, task.attempt) == (held, 1)
    assert TaskManager("p", store=store).wait() == {Status.FAILED: 1}


def test_a_lease_is_renewed_while_the_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that takes longer than the lease keeps it; if the lease was lost, an error is raised at the end."""
    clock = ManualClock()
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db", clock=clock)
    store.create("p", [{"x": 1}])
    (task,) = store.claim("p", worker="w", lease=0.3)
    renew, renewed = store.renew, threading.Semaphore(0)

    def renew_and_tell(*arguments: Any) -> None:
        try:
            renew(*arguments)
        finally:
            renewed.release()

    monkeypatch.setattr(store, "renew", renew_and_tell)

    def wait_for_renewal() -> None:
        while renewed.acquire(blocking=False):
            pass
        for _ in range(2):  # the first one may have begun before
            assert renewed.acquire(timeout=60)

    with Lease(store, task, 0.3):
        for _ in range(3):
            clock.now += 0.2
            wait_for_renewal()
            assert store.claim("p", worker="thief", lease=1) == []
    store.set_status("p", {}, Status.WAITING)
    while renewed.acquire(blocking=False):
        pass
    with pytest.raises(LeaseLost), Lease(store, task, 0.3):
        assert renewed.acquire(timeout=60)


def test_waiting_ends_when_the_last_task_is_committed(tmp_path: Path) -> None:
    """The wait is woken by the change, and not by the next poll ten minutes later; each change is reported."""
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"x": 1}])
    (task,) = store.claim("p", worker="w", lease=60)
    seen: list[dict[Status, int]] = []
    running, ended = threading.Event(), threading.Event()

    def see(counts: dict[Status, int]) -> None:
        seen.append(counts)
        running.set()

    def wait() -> None:
        TaskManager("p", store=store).wait(on_change=see, poll=600)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert running.wait(60)
    store.commit(task, 1)
    assert ended.wait(60)
    assert seen == [{Status.RUNNING: 1}, {Status.DONE: 1}]
