"""The main workflow from the command line, with real worker processes, stores and signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.documents.command_line import run

from definitions import (
    ANALYSIS,
    FIVE_WINDOWS,
    LINEAR,
    SIGNAL,
    SMALL_MARKET,
    alpha158,
    lightgbm,
    task_definition,
    write_workflow,
)
from rollforge.store.base import open_store

ROLLFORGE = [sys.executable, "-m", "rollforge"]


def rollforge(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run(*args, cwd=cwd, env={"COLUMNS": "120", **env}, timeout=300)


def small_workflow(folder: Path, market: Path, *, tracking: str, step: int = 60, **model: Any) -> Path:
    """Write a rolling workflow with five short windows."""
    document = {
        "rollforge": {"data": str(market), "store": "sqlite:///tasks.db", "tracking": tracking, "experiment": "small"},
        "task": task_definition(
            alpha158(**SMALL_MARKET), FIVE_WINDOWS, model=model or LINEAR, record=[SIGNAL, ANALYSIS]
        ),
        "rolling": {"step": step, "rtype": "sliding"},
    }
    return write_workflow(folder / "small.yaml", document)


LGB = lightgbm(num_boost_round=20, num_leaves=8, num_threads=64)


@pytest.mark.slow
def test_run_trains_all_windows_and_collects_one_prediction(small_market: Path, tmp_path: Path) -> None:
    """The prediction has no gaps or duplicates, and a report is written; a second run trains nothing."""
    file = small_workflow(tmp_path, small_market, tracking="sqlite:///mlflow.db", **LGB)
    first = rollforge("run", file, "--jobs", 2, "--output", "out", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("done     window") == 5
    assert "Traceback" not in first.stdout + first.stderr

    prediction = pd.read_parquet(tmp_path / "out" / "prediction.parquet")
    days = prediction.index.get_level_values("datetime").unique()
    calendar = pd.DatetimeIndex((small_market / "calendars" / "day.txt").read_text().split())
    assert not prediction.index.has_duplicates
    assert list(days) == list(calendar[calendar >= "2023-01-02"])

    report = (tmp_path / "out" / "report.html").read_text()
    assert "5 of 5" in report
    assert "src=" not in report.partition("<script>")[0]
    log = tmp_path / "out" / "run.log"
    assert "5 tasks, 0 of them already done" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600  # tasks may print secrets

    second = rollforge("run", file, "--output", "out", cwd=tmp_path)
    assert second.returncode == 0
    assert "all 5 tasks are already done" in second.stdout
    assert "done     window" not in second.stdout

    counts = rollforge("pool", "--store", "sqlite:///tasks.db", "-t", "small", "task_stat", cwd=tmp_path)
    assert json.loads(counts.stdout) == {"done": 5}
    collected = rollforge(
        "collect", "small", "--store", "sqlite:///tasks.db", "--tracking", "sqlite:///mlflow.db", "--output", "collected",
        cwd=tmp_path,
    )  # fmt: skip
    assert collected.returncode == 0, collected.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "collected" / "prediction.parquet"), prediction)


@pytest.mark.slow
def test_after_a_kill_the_same_command_continues(small_market: Path, tmp_path: Path) -> None:
    """A worker process that is killed is replaced at once; after a kill of the whole run, the same command
    continues."""
    slow = {**LGB, "kwargs": {**LGB["kwargs"], "num_boost_round": 600, "early_stopping_rounds": 600}}
    file = small_workflow(tmp_path, small_market, tracking="folder:runs", **slow)
    command = [*ROLLFORGE, "run", str(file), "--jobs", "2", "--output", "out"]
    log = tmp_path / "out" / "run.log"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            _until(lambda: bool(_training(log)), 120)
            os.kill(_training(log)[-1], signal.SIGKILL)
            _until(lambda: "retried" in log.read_text() and "killed by SIGKILL" in log.read_text(), 60)
            _until(lambda: "done     window" in log.read_text(), 120)
        finally:
            os.killpg(process.pid, signal.SIGKILL)

    rest = rollforge("run", file, "--jobs", 2, "--output", "out", cwd=tmp_path)
    assert rest.returncode == 0, rest.stderr
    assert "tasks are already done" in rest.stdout
    assert 1 <= rest.stdout.count("done     window") <= 4
    counts = rollforge("pool", "--store", "sqlite:///tasks.db", "-t", "small", "task_stat", cwd=tmp_path)
    assert json.loads(counts.stdout) == {"done": 5}


def _handle_ctrl_c() -> None:
    """Handle SIGINT, which a process ignores if, for example, the tests were started in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_gives_running_tasks_back(small_market: Path, tmp_path: Path) -> None:
    """The command exits with code 130 and one line, and no task stays running."""
    slow = {**LGB, "kwargs": {**LGB["kwargs"], "num_boost_round": 3000, "early_stopping_rounds": 3000}}
    file = small_workflow(tmp_path, small_market, tracking="folder:runs", **slow)
    process = subprocess.Popen(
        [*ROLLFORGE, "run", str(file), "--jobs", "2", "--output", "out"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=_handle_ctrl_c,
    )  # fmt: skip
    log = tmp_path / "out" / "run.log"
    _until(lambda: log.exists() and log.read_text().count("started") >= 2, 120)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "returned to the pool" in err
    assert "Traceback" not in out + err
    counts = rollforge("pool", "--store", "sqlite:///tasks.db", "-t", "small", "task_stat", cwd=tmp_path)
    assert "running" not in json.loads(counts.stdout)


@pytest.mark.slow
def test_a_failed_window_is_named_and_the_others_are_kept(small_market: Path, tmp_path: Path) -> None:
    """The exit code is 1; the cause is reported once, with a command for details; the report shows the other
    windows."""
    model = {"class": "Picky", "module_path": str(tmp_path / "picky.py")}
    (tmp_path / "picky.py").write_text(
        "from rollforge.models.linear import LinearModel\n"
        "class Picky(LinearModel):\n"
        "    def fit(self, dataset, reweighter=None):\n"
        "        if str(dataset.segments['test'][0]) >= '2023-06':\n"
        "            raise ValueError('no <b>summer</b> for me')\n"
        "        super().fit(dataset)\n"
    )
    file = small_workflow(tmp_path, small_market, tracking="folder:runs", step=120, **model)
    strict = rollforge("run", file, "--jobs", 2, "--output", "out", cwd=tmp_path)
    assert strict.returncode == 1
    assert "2 of 3 tasks failed" in strict.stderr
    assert strict.stderr.count("ValueError: no <b>summer</b> for me") == 1
    assert "--allow-gaps" in strict.stderr
    assert 'File "' not in strict.stderr
    command = next(line for line in strict.stderr.splitlines() if "logs" in line).partition("rollforge ")[2]
    shown = rollforge(*shlex.split(command), cwd=tmp_path)
    assert "no <b>summer</b> for me" in shown.stdout
    assert "attempt 3" in shown.stdout
    report = rollforge("report", file, "--output", "out", cwd=tmp_path)
    assert report.returncode == 1, report.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no &lt;b&gt;summer&lt;/b&gt; for me" in page
    assert "1 of 3 done, 2 failed" in page


def test_plan_shows_the_windows_and_trains_nothing(small_market: Path, tmp_path: Path) -> None:
    """The command prints a table and a diagram; no store, run or result is created."""
    file = small_workflow(tmp_path, small_market, tracking="folder:runs")
    shown = rollforge("plan", file, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("█") > 20
    assert "5 tasks" in shown.stdout
    dry = rollforge("run", file, "--dry-run", "--limit", 2, cwd=tmp_path)
    assert "2 tasks" in dry.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.yaml"]


def test_brackets_in_the_name_of_an_experiment_are_shown(small_market: Path, tmp_path: Path) -> None:
    """Brackets are not interpreted as markup."""
    file = small_workflow(tmp_path, small_market, tracking="folder:runs")
    shown = rollforge("plan", file, "--experiment", "my [b] [/x]", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("my [b] [/x]  5 tasks")


def test_an_unwritable_output_folder_is_detected_before_training(small_market: Path, tmp_path: Path) -> None:
    """If the output folder is a file, there is one message with exit code 2, and no store."""
    file = small_workflow(tmp_path, small_market, tracking="folder:runs")
    failed = rollforge("run", file, "--output", file, cwd=tmp_path)
    assert failed.returncode == 2
    assert "cannot be written" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.yaml"]


def test_a_mistake_ends_with_one_message_and_exit_code_2(small_market: Path, tmp_path: Path) -> None:
    """The message contains the line of the file; there is no traceback, and nothing is written."""
    file = small_workflow(tmp_path, small_market, tracking="folder:runs")
    file.write_text(file.read_text().replace("step: 60", "step: 0"))
    failed = rollforge("run", file, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("rollforge: ")
    assert "rolling.step" in failed.stderr
    assert "line " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["pool", "--store", "sqlite:///tasks.db", "task_stat"], "Use -t POOL"),
        (["pool", "--store", "sqlite:///tasks.db", "-t", "nope", "task_stat"], "'nope' does not exist"),
        (["pool", "--store", "sqlite:///other.db", "-t", "p", "task_stat"], "does not exist"),
        (["report", "nope", "--store", "sqlite:///tasks.db"], "no experiment 'nope'"),
        (["run", "nope.yaml"], "no workflow file"),
        (["data", "import", "nope.csv", "out"], "nope.csv"),
    ],
)
def test_an_unknown_name_is_reported(command: list[str], expected: str, tmp_path: Path) -> None:
    """For unknown pools, stores, experiments and files there is one message with exit code 2, and no new store."""
    open_store(f"sqlite:///{tmp_path}/tasks.db").create("p", [{"i": 1}])
    said = rollforge(*command, cwd=tmp_path)
    assert said.returncode == 2, said.stdout
    assert expected in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "other.db").exists()


def test_importing_the_package_is_cheap() -> None:
    """``import rollforge`` imports no large library, and takes less than 0.3 s of CPU time."""
    code = "import sys, time; t = time.process_time(); import rollforge; print(time.process_time() - t); print(*sys.modules)"
    seconds, modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.3
    assert {"numpy", "pandas", "mlflow", "lightgbm", "numba", "plotly", "pydantic"}.isdisjoint(modules.split())


def _until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def _training(log: Path) -> list[int]:
    """Return the ids of worker processes that have logged boosting rounds, the latest one last.

    A process that has only started is not sufficient: if it were killed before its task has begun, no attempt would be
    counted.
    """
    text = log.read_text() if log.exists() else ""
    return [int(pid) for pid in re.findall(r"(\d+) INFO rollforge\.models\.lightgbm: \[", text)]
