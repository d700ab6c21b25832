"""Two named models with the command line, real workers and MLflow: wherever a task is shown, its model is shown."""

from __future__ import annotations

from pathlib import Path

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
    as_text,
    lightgbm,
    task_definition,
)
from rollforge.track.base import Experiment, get_experiment, open_tracker

WORKFLOW = {
    "task": task_definition(alpha158(**SMALL_MARKET), FIVE_WINDOWS, model=None, record=[SIGNAL, ANALYSIS]),
    "models": {
        "lgb": lightgbm(num_boost_round=10, num_leaves=8),
        "ridge [a=1]": {**LINEAR, "kwargs": {"estimator": "ridge", "alpha": 1.0}},
    },
    "rolling": {"step": 130, "rtype": "sliding"},
}


class Job:
    """A workflow file in its own folder."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder = folder
        places = {
            "data": str(market),
            "store": "sqlite:///tasks.db",
            "tracking": "sqlite:///mlflow.db",
            "experiment": "both",
        }
        self.write(as_text({"rollforge": places, **WORKFLOW}))

    def write(self, text: str) -> None:
        self.text = text
        (self.folder / "both.yaml").write_text(text, encoding="utf-8")

    def call(self, *args: str) -> str:
        done = run(*args, cwd=self.folder, env={"COLUMNS": "160"}, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pool(self, *args: str) -> str:
        return self.call("pool", "--store", "sqlite:///tasks.db", "-t", "both", *args)

    def runs(self) -> Experiment:
        return get_experiment(open_tracker(f"sqlite:///{self.folder}/mlflow.db"), experiment_name="both")


@pytest.mark.slow
def test_named_models_from_plan_to_report(small_market: Path, tmp_path: Path) -> None:
    """Plan, progress, pool, runs and report contain the names; renaming trains nothing; a separate worker uses the
    names."""
    job = Job(tmp_path, small_market)
    plan = job.call("plan", "both.yaml")
    assert [line.split()[0] for line in plan.splitlines() if line.strip() in ("lgb", "ridge [a=1]")] == ["lgb", "ridge"]
    assert plan.count("ridge [a=1]") == 3, "twice in the table, once in the diagram"

    first = job.call("run", "both.yaml", "--jobs", "1", "--output", "out")
    for model in ("lgb", "ridge [a=1]"):
        for i in (1, 2):
            assert f"done     {model}, window {i}, test 2023" in first
    listed = job.pool("query")
    assert listed.count("ridge [a=1] 2023-") == 2
    assert job.pool("query", '{"model_name": "lgb"}').count("\n") == 2

    runs = job.runs()
    windows = runs.list_recorders("list")
    assert sorted(r.name for r in windows)[0] == "lgb 2023-01-02 to 2023-06-30"
    recorder = next(r for r in windows if r.name == "ridge [a=1] 2023-01-02 to 2023-06-30")
    tags, params = recorder.list_tags(), recorder.list_params()
    assert (tags["rollforge.model"], tags["rollforge.test"]) == ("ridge [a=1]", "2023-01-02 to 2023-06-30")
    assert params["dataset.kwargs.segments.test"] == "('2023-01-02', '2023-06-30')"
    assert params["dataset.kwargs.handler.kwargs.start_time"] == "2022-01-03"
    (joined,) = [r for r in runs.list_recorders("list", joined=True) if r not in windows]
    assert tags["mlflow.parentRunId"] == joined.id
    assert {"IC", "lgb/IC", "ridge [a=1]/IC"} <= set(joined.list_metrics())
    prediction = pd.read_parquet(tmp_path / "out" / "prediction.parquet")
    pd.testing.assert_frame_equal(joined.load_object("pred.pkl"), prediction)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<td>ridge [a=1]</td>" in page

    job.write(job.text.replace("ridge [a=1]", "linear"))
    second = job.call("run", "both.yaml", "--output", "out")
    assert "2 tasks renamed" in second
    assert "all 4 tasks are already done" in second
    assert {r.name[:6] for r in runs.list_recorders("list")} == {"lgb 20", "linear"}
    (rejoined,) = [r for r in runs.list_recorders("list", joined=True) if r not in windows]
    assert rejoined.id == joined.id
    pd.testing.assert_frame_equal(rejoined.load_object("pred.pkl"), prediction)

    job.pool("reset-status", "waiting", '{"model_name": "linear"}')
    output = job.call(
        "worker", "-t", "both", "--store", "sqlite:///tasks.db", "--tracking", "sqlite:///mlflow.db",
        "--data", str(small_market),
        "--jobs", "1", "--exit-when-empty",
    )  # fmt: skip
    assert output.count("linear 2023-") == 4, "two tasks, with a line for the start and the end of each"
    assert sum(r.name.startswith("linear 2023-") for r in runs.list_recorders("list")) == 4
    collected = job.call("collect", "both.yaml", "--output", "collected")
    assert joined.id in collected
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "collected" / "prediction.parquet"), prediction)
