"""Cleaning up after a killed attempt: its run does not stay RUNNING forever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollforge.run.execute import TM_ID, begin_task_train, end_unfinished_runs
from rollforge.run.job import Job, current_task
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, current_session
from rollforge.store.memory import MemoryStore
from rollforge.track.base import get_experiment, open_tracker

pytestmark = pytest.mark.slow


def start_a_run(task: dict[str, Any]) -> None:
    recorder = begin_task_train(task, "e", session=current_session())
    recorder.start_run()
    if task.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=["folder", "mlflow"])
def session(request: pytest.FixtureRequest, tracking_in: Callable[[str], str]) -> Session:
    uri = tracking_in(request.param)
    open_tracker(uri).prepare()
    return Session(tracking_uri=uri, threads=1)


def statuses(session: Session) -> list[str]:
    experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name="e", create=False)
    return sorted(str(r.status) for r in experiment.list_recorders(rtype="list"))


def test_the_run_of_a_killed_task_is_ended(session: Session) -> None:
    """The parent process marks it as failed at once; the run of another task is unchanged."""
    store = MemoryStore()
    store.create("p", [{"kill": True}, {"kill": False}], max_attempts=1)
    job = Job("p", start_a_run, on_death=lambda task_id: end_unfinished_runs(task_id, "e", session))
    WorkerPool(store, job, session, 1).run()
    assert statuses(session) == ["FAILED", "RUNNING"]


def test_the_next_attempt_ends_the_run_of_the_previous_one(session: Session) -> None:
    """The run of the previous attempt is ended even if there is no parent process: the machine crashed, and another one
    takes over the task."""
    token = current_task.set("some task")
    begin_task_train({"x": 1}, "e", session=session).start_run()
    current_task.reset(token)
    assert statuses(session) == ["RUNNING"]
    assert end_unfinished_runs("another task", "e", session) == 0
    assert end_unfinished_runs("some task", "e", session) == 1
    assert statuses(session) == ["FAILED"]
    assert end_unfinished_runs("some task", "no such experiment", session) == 0
    assert (
        TM_ID
        in get_experiment(open_tracker(session.tracking_uri), experiment_name="e")
        .list_recorders(rtype="list")[0]
        .list_tags()
    )


def test_closing_the_terminal_gives_tasks_back(tmp_path: Path) -> None:
    """SIGHUP is sent to the worker and its tasks; no attempt is counted."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    from rollforge.store.sqlite import SQLiteStore

    store = SQLiteStore(uri)
    store.create("p", [{"s": 60}])
    (tmp_path / "slow.py").write_text("import time\ndef slow(task):\n    time.sleep(task['s'])\n")
    worker = subprocess.Popen(
        [sys.executable, "-m", "rollforge", "worker", "-t", "p", "--store", uri, "--jobs", "1", "--func", "slow:slow",
         "--grace", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not store.query("p") or not any(t.status.value == "running" for t in store.query("p")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(worker.pid, signal.SIGHUP)
    assert worker.wait(120) == 0
    (task,) = store.query("p")
    assert (task.status.value, task.attempt) == ("waiting", 0)
