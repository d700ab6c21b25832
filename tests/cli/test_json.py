"""``--json``: one line on standard output with documented keys, and everything else on standard error."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from tests.documents.command_line import run

from definitions import ANALYSIS, LINEAR, SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow
from rollforge import TaskManager
from rollforge.cli.exit_codes import Exit
from rollforge.cli.summaries import json_line
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
STATUSES = [status.value for status in Status]


def documented(command: str) -> list[str]:
    """Return the keys that the page lists for a command."""
    section = PAGE.partition("## For scripts")[2].partition("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith("| ") and f"`{command}`" in line.split("|")[1])
    return re.findall(r"`(\w+)`", row.split("|")[2])


def only_line(text: str) -> Any:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def job(small_market: Path, tmp_path: Path) -> Path:
    """A workflow with two windows of a linear model."""
    places = {
        "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
        "experiment": "two",
    }  # fmt: skip
    task = {
        "model": LINEAR,
        "dataset": dataset(expressions("$close/Ref($close, 5)-1"), TWO_WINDOWS),
        "record": [SIGNAL, ANALYSIS],
    }
    return write_workflow(
        tmp_path / "job.yaml", {"rollforge": places, "task": task, "rolling": {"step": 60, "clip_test_end": True}}
    )


def test_plan_run_collect_and_report(job: Path, tmp_path: Path) -> None:
    """Each prints its documented keys; the numbers are those of the files, and the tables are on standard error."""
    done = run("plan", job, "--json", cwd=tmp_path)
    assert "train" in done.stderr
    plan = only_line(done.stdout)
    assert list(plan) == documented("plan")
    assert (plan["experiment"], plan["tasks"], plan["fits"], plan["warnings"]) == ("two", 2, 2, [])
    assert [window["segments"]["test"] for window in plan["windows"]] == [
        [["2023-04-03", "2023-06-23"]], [["2023-06-26", "2023-08-31"]]
    ]  # fmt: skip
    assert plan["windows"][0]["days"]["test"] == 60

    done = run("run", job, "--jobs", "0", "--json", cwd=tmp_path)
    assert done.returncode == Exit.DONE, done.stderr
    assert "Rank IC" in done.stderr
    result = only_line(done.stdout)
    assert list(result) == documented("run")
    assert (result["tasks"], result["done"], result["failed"], result["complete"]) == (2, 2, 0, True)
    assert (result["first_day"], result["last_day"]) == ("2023-04-03", "2023-08-31")
    assert result["rows"] == len(pd.read_parquet(tmp_path / result["prediction"])) > 2000
    assert result["prediction"] == "results/two/prediction.parquet"
    assert (tmp_path / result["report"]).exists()
    assert (result["backtest"], result["risk"], result["errors"]) == (None, None, [])
    shown = re.search(r"^IC +(-?[\d.]+)", done.stderr, re.MULTILINE)
    assert shown is not None
    assert result["metrics"]["IC"] == pytest.approx(float(shown[1]), abs=5e-5)
    assert result["recorder"] in done.stderr

    for command, recorder in (("collect", result["recorder"]), ("report", None)):
        again = only_line(run(command, job, "--json", cwd=tmp_path).stdout)
        assert list(again) == documented("run")
        assert again["metrics"] == result["metrics"]
        assert again["recorder"] == recorder


def test_failed_tasks_are_in_the_summary(job: Path, tmp_path: Path) -> None:
    """The exit code is 1 as without the option; what was not written is null."""
    text = job.read_text(encoding="utf-8")
    job.write_text(text.replace("$close/Ref($close, 5)-1", "$close/Ref($close, 999)-1"), encoding="utf-8")
    done = run("run", job, "--jobs", "0", "--json", cwd=tmp_path)
    assert done.returncode == Exit.FAILED, done.stderr
    result = only_line(done.stdout)
    assert list(result) == documented("run")
    assert (result["tasks"], result["failed"], result["report"], result["metrics"]) == (2, 2, None, None)
    (group,) = result["errors"]
    assert group["error"] in done.stderr
    assert len(group["tasks"]) == 2


def test_a_mistake_prints_no_json(tmp_path: Path) -> None:
    """The message is on standard error, and the exit code is 2."""
    done = run("plan", "missing.yaml", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert "There is no workflow file" in done.stderr


def test_the_tasks_of_a_pool_by_status(tmp_path: Path) -> None:
    """Every status has a key, also without tasks; without ``--json`` the output is that of Qlib."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    TaskManager("p", store=SQLiteStore(uri)).create_task([{"x": 1}, {"x": 2}])
    for name in ("task-stat", "task_stat"):
        counts = only_line(run("pool", "--store", uri, "-t", "p", name, "--json").stdout)
        assert list(counts) == [*documented("pool task_stat"), *STATUSES]
        assert counts == {"pool": "p", "store": uri, "tasks": 2, **dict.fromkeys(STATUSES, 0), "waiting": 2}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_numbers_that_json_does_not_have_are_null(value: Any) -> None:
    """All else survives the round trip."""

    def expected(one: Any) -> Any:
        if isinstance(one, float):
            return one if math.isfinite(one) else None
        if isinstance(one, dict):
            return {key: expected(part) for key, part in one.items()}
        return [expected(part) for part in one] if isinstance(one, list) else one

    assert json.loads(json_line(value)) == expected(value)
    assert json_line({"a": np.float64("nan"), "b": np.float32(0.5), "c": (np.int64(3),)}) == (
        '{"a": null, "b": 0.5, "c": [3]}'
    )
