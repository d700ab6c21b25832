"""``rollforge run --on dask``, ``--on ray`` and ``executor=Dask(…)`` from end to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from tests.documents.command_line import run
from tests.documents.definitions import SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.cli.exit_codes import Exit
from rollforge.store.base import open_store

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'rollforge[dask]'")
pytestmark = pytest.mark.slow

WAITING = """
import pathlib, time

from rollforge.models.linear import LinearModel


class Waiting(LinearModel):
    def fit(self, dataset, **kwargs):
        print("waiting for the file", flush=True)
        while not pathlib.Path({file!r}).exists():
            time.sleep(0.05)
        super().fit(dataset)
"""


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file for which the model waits."""
    return tmp_path / "go"


@pytest.fixture
def workflow(tmp_path: Path, small_market: Path, go: Path) -> Path:
    """A workflow of two windows with a model that waits for a file."""
    (tmp_path / "waiting.py").write_text(WAITING.format(file=str(go)))
    rollforge = {
        "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
        "experiment": "on", "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    model = {"class": "Waiting", "module_path": str(tmp_path / "waiting.py")}
    task = {"model": model, "dataset": dataset(expressions("$close/Ref($close,1)-1"), TWO_WINDOWS), "record": [SIGNAL]}
    rolling = {"step": 60, "rtype": "sliding", "trunc_days": "auto"}
    return write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": task, "rolling": rolling})


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a scheduler with two workers, as ``--on`` takes it."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


def start(workflow: Path, on: str) -> subprocess.Popen[str]:
    """Start a run in a process group of its own, as a shell does."""
    command = (
        sys.executable,
        "-m",
        "rollforge",
        "run",
        workflow,
        "--on",
        on,
        "--jobs",
        "2",
        "--output",
        workflow.parent,
    )
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=workflow.parent
    )


def tasks(workflow: Path) -> list[tuple[str, int]]:
    """Return status and attempts of all tasks."""
    store = open_store(f"sqlite:///{workflow.parent}/tasks.db")
    return sorted((task.status.value, task.attempts) for task in store.query("on"))


def wait_until_running(process: subprocess.Popen[str], workflow: Path) -> list[str]:
    """Wait until two tasks are running and have printed something, and return their ids."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()
        if not (workflow.parent / "tasks.db").exists():
            continue
        found = list(open_store(f"sqlite:///{workflow.parent}/tasks.db").query("on", {"status": "running"}))
        if len(found) == 2 and all("waiting for the file" in task.log for task in found):
            return [task.id for task in found]
    raise AssertionError(f"no two tasks are running: {tasks(workflow)}")


def living(session: int) -> list[str]:
    """Return the processes of a session that have not ended."""
    command = ["ps", "-o", "stat=,pid=,args=", "-g", str(session)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in listed if not line.startswith("Z")]  # ended, but not waited for by their new parent yet


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_the_result_is_that_of_a_local_run(
    engine: str, workflow: Path, go: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Progress, report and prediction are the same, wherever the tasks ran; a second run trains nothing."""
    go.touch()
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed: pip install 'rollforge[ray]'")
    on = request.getfixturevalue("address") if engine == "dask" else "ray"  # the command starts a Ray of its own
    done = run("run", workflow, "--on", on, "--jobs", "2", "--output", tmp_path / "on")
    assert done.returncode == 0, done.stderr
    # The model's own code may read the data.
    assert "data    1 panel and the data folder, sent once to each machine: " in done.stdout
    assert done.stdout.count("done     window") == 2
    assert (tmp_path / "on" / "report.html").exists()
    again = run("run", workflow, "--on", on, "--output", tmp_path / "on")
    assert "all 2 tasks are already done; nothing to train" in again.stdout
    local = run("run", workflow, "--jobs", 1, "--store", f"sqlite:///{tmp_path}/2.db", "--output", tmp_path / "here")
    assert local.returncode == 0, local.stderr
    found = [pd.read_parquet(tmp_path / folder / "prediction.parquet") for folder in ("on", "here")]
    assert len(found[0]) > 100
    pd.testing.assert_frame_equal(*found)


def test_ctrl_c_gives_the_tasks_back(workflow: Path, go: Path) -> None:
    """The terminal interrupts the workers of a cluster that the command has started, too. The command exits with 130,
    without a traceback, and no attempt is counted."""
    process = start(workflow, "dask")
    try:
        wait_until_running(process, workflow)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == Exit.INTERRUPTED, err
    said = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert said == [
        "rollforge: interrupted. Running tasks were returned to the pool; run the same command to continue."
    ]
    deadline = time.monotonic() + 20
    while living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(process.pid) == []
    assert tasks(workflow) == [("waiting", 0)] * 2


def test_the_pool_is_watched_and_a_task_cancelled(workflow: Path, go: Path, address: str) -> None:
    """The commands of a pool see tasks on a cluster as any others: their logs while they run, and ``cancel``."""
    process = start(workflow, address)
    try:
        first, second = wait_until_running(process, workflow)
        pool = ("pool", "--store", f"sqlite:///{workflow.parent}/tasks.db", "-t", "on")
        assert "waiting for the file" in run(*pool, "logs", first).stdout
        assert run(*pool, "cancel", f'{{"_id": "{first}"}}').returncode == 0
        go.touch()
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == Exit.FAILED
    assert "1 of 2 tasks failed" in err
    store = open_store(f"sqlite:///{workflow.parent}/tasks.db")
    found = {task.id: task for task in store.query("on")}
    assert found[first].cause is not None
    assert found[first].cause.value == "cancelled"
    assert found[second].status.value == "done"


NOTEBOOK = """
import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

import rollforge


class Own(LinearRegression):
    def predict(self, x):
        return super().predict(x) + 1000.0


days = pd.bdate_range("2023-01-02", periods=200)
index = pd.MultiIndex.from_product([days, list("ABCD")], names=["date", "code"])
x = np.random.default_rng(1).normal(size=len(index))
frame = pd.DataFrame({{"x": x, "y": 2 * x + 0.01 * np.sin(x)}}, index=index)
result = rollforge.walk_forward(
    Own(), frame, label="y", train=100, step=50, executor=rollforge.Dask({address!r}, jobs=2)
)
print(len(result.windows), float((result.prediction - 2 * frame["x"] - 1000).abs().max()) < 0.1)
"""


def test_a_class_of_a_notebook_is_trained_on_the_cluster(address: str, tmp_path: Path) -> None:
    """A program without a file is what a notebook is: its class travels with the task."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'rollforge[sklearn]'")
    code = NOTEBOOK.format(address=address.replace("dask://", "tcp://"))
    env = {**os.environ, "ROLLFORGE_HOME": str(tmp_path / "home"), "ROLLFORGE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 True\n"
