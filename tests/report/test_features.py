"""The importance and the drift of features by window: from the fitted models to the figure, the table and the CSV file."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.documents.command_line import run as command
from tests.documents.definitions import LINEAR, SIGNAL, SMALL_MARKET, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.errors import ModelError
from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.report.features import (
    FEATURES,
    drift_by_window,
    drift_cells,
    importance_by_window,
    importance_cells,
    score_drift,
)
from rollforge.report.inputs import TaskRow
from rollforge.run.importance import IMPORTANCE, importance_of


def task(index: int, importance: dict[str, float] | None = None, model: str = "", status: str = "done") -> TaskRow:
    first = np.datetime64("2024-01-01") + np.timedelta64(7 * index, "D")
    test = SegmentSpan(first, first + np.timedelta64(4, "D"), 5)
    return TaskRow(Window(index, {"test": test}), status, model=model, importance=importance or {})


def test_shares_add_up_in_each_window() -> None:
    """Coefficients count by their size, and the feature with the largest mean share comes first."""
    tasks = [task(0, {"a": 1.0, "b": 3.0, "c": 0.0}), task(1, {"a": -4.0, "b": 1.0, "c": 0.0})]
    (shares,) = importance_by_window(tasks).values()
    assert shares.columns.tolist() == ["1", "2"]
    assert shares.to_dict("index") == {
        "a": {"1": 0.25, "2": 0.8}, "b": {"1": 0.75, "2": 0.2}, "c": {"1": 0.0, "2": 0.0},
    }  # fmt: skip


def test_what_is_unknown_is_empty() -> None:
    """A window that failed, one whose model depends on nothing, and a feature that a window does not have."""
    tasks = [
        task(0, {"a": 1.0, "b": 1.0}), task(1, status="failed"), task(2, {"a": 0.0, "b": 0.0}), task(3, {"a": 1.0, "new": 3.0}),
    ]  # fmt: skip
    (shares,) = importance_by_window(tasks).values()
    nan = np.nan
    expected = {"a": [0.5, nan, nan, 0.25], "new": [nan, nan, nan, 0.75], "b": [0.5, nan, nan, nan]}
    assert shares.index.tolist() == ["a", "new", "b"]  # the means of a and new are equal: by name
    for name, row in expected.items():
        np.testing.assert_array_equal(shares.loc[name], row)
    (trace,) = importance_cells({"": shares})["data"]
    assert trace["z"][0] == [0.5, None, None, 0.25]


def test_each_model_has_its_own_features() -> None:
    """A model without importance is left out; if none has any, there is no figure."""
    found = importance_by_window([task(0, {"a": 1.0}, "x"), task(0, {"b": 2.0}, "y"), task(0, model="z")])
    assert {model: table.index.tolist() for model, table in found.items()} == {"x": ["a"], "y": ["b"]}
    figure = importance_cells(found)
    assert figure["views"] == ["x", "y"]
    assert [trace["view"] for trace in figure["data"]] == ["x", "y"]
    assert importance_by_window([task(0), task(1, {"a": 0.0})]) == {}


def test_only_the_most_important_features_are_shown() -> None:
    values = {f"f{i:02d}": float(i) for i in range(40)}
    (shares,) = importance_by_window([task(0, values)]).values()
    assert shares.index.tolist() == [f"f{i:02d}" for i in range(39, 39 - FEATURES, -1)]
    assert shares.loc["f39", "1"] == pytest.approx(39 / sum(range(40)))


def test_a_model_that_cannot_say_is_kept() -> None:
    """An error in the method, or a result that is no series, is not one of the run."""

    class Unfitted:
        def get_feature_importance(self) -> pd.Series:
            raise ModelError("not fitted")

    class Odd:
        def get_feature_importance(self) -> Any:
            return [1, 2]

    assert importance_of(object()) == importance_of(Unfitted()) == importance_of(Odd()) == {}


def test_a_run_saves_it_and_the_report_shows_it(small_market: Path, tmp_path: Path) -> None:
    """From the workflow to the page and the CSV file, where the shares of a window add up to one."""
    pytest.importorskip("lightgbm", reason="pip install 'rollforge[lightgbm]'")
    rollforge = {
        "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
        "experiment": "trees", "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    features = {"momentum": "$close/Ref($close, 5)-1", "change": "$close/Ref($close, 1)-1"}
    handler = expressions(features, **SMALL_MARKET)
    model = {
        "class": "LGBModel", "module_path": "qlib.contrib.model.gbdt",
        "kwargs": {"num_boost_round": 5, "min_data_in_leaf": 5, "early_stopping_rounds": 0},
    }  # fmt: skip
    task = {"model": model, "dataset": dataset(handler, TWO_WINDOWS), "record": [SIGNAL]}
    document = {"rollforge": rollforge, "task": task, "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"}}
    workflow = write_workflow(tmp_path / "job.yaml", document)
    done = command("run", workflow, "--output", tmp_path / "out", "--jobs", "0")
    assert done.returncode == 0, done.stderr
    assert "Importance of features" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len([*(tmp_path / "runs").rglob(f"{Path(IMPORTANCE).stem}*")]) == 2
    assert command("report", workflow, "--csv", tmp_path / "csv", "--output", tmp_path / "out").returncode == 0
    with (tmp_path / "csv" / "importance.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["series"] for row in rows} == set(features)
    for window in ("1", "2"):
        assert sum(float(row["y"]) for row in rows if row["x"] == window) == pytest.approx(1.0, abs=1e-4)


# -- drift -------------------------------------------------------------------------------------------------------------


def drifted(index: int, psi: dict[str, float], score: float = 0.05, model: str = "") -> TaskRow:
    return replace(task(index, model=model), drift=psi, metrics={"score_psi": score})


def test_the_indexes_of_a_window_are_those_of_its_run() -> None:
    """The feature with the largest mean comes first; a window without a measurement is empty; zero is not."""
    tasks = [drifted(0, {"a": 0.0, "b": 0.3}), task(1, status="failed"), drifted(2, {"a": 0.1, "b": 0.1}, score=np.nan)]
    (table,) = drift_by_window(tasks).values()
    np.testing.assert_array_equal(table.to_numpy(), [[0.3, np.nan, 0.1], [0.0, np.nan, 0.1]])
    assert table.index.tolist() == ["b", "a"]
    (cells,) = drift_cells({"": table})["data"]
    assert (cells["zmin"], cells["zmax"], cells["z"][1]) == (0.0, 0.3, [0.0, None, 0.1])
    (low,) = drift_cells({"": table / 100})["data"]
    assert low["zmax"] == 0.25  # small indexes are not drawn like large ones
    figure = score_drift(tasks)
    assert figure is not None
    (scores,) = figure["data"]
    assert (scores["x"], scores["y"]) == (["1", "2", "3"], [0.05, None, None])
    assert [line["y0"] for line in figure["layout"]["shapes"]] == [0.1, 0.25]
    assert score_drift([task(0)]) is None
    assert drift_by_window([task(0)]) == {}


@pytest.mark.parametrize("instruments", ["all", ["D0002"]])
def test_a_record_measures_drift_and_the_report_shows_it(small_market: Path, tmp_path: Path, instruments: Any) -> None:
    """A count of days leaves all bins of the training segment; a constant leaves none. Also with one instrument."""
    rollforge = {
        "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
        "experiment": "drift", "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    features = {"constant": "$close*0+1", "grows": "Sum($close*0+1, 0)"}
    handler = expressions(features, **{**SMALL_MARKET, "instruments": instruments})
    records = [SIGNAL, {"class": "DriftRecord", "module_path": "rollforge.record"}]
    task = {"model": LINEAR, "dataset": dataset(handler, TWO_WINDOWS), "record": records}
    document = {"rollforge": rollforge, "task": task, "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"}}
    workflow = write_workflow(tmp_path / "job.yaml", document)
    done = command("run", workflow, "--output", tmp_path / "out", "--jobs", "0", "--allow-gaps")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "far features and scores of the test segment" in page
    again = command("report", workflow, "--csv", tmp_path / "csv", "--output", tmp_path / "out", "--allow-gaps")
    assert again.returncode == 0, again.stderr
    with (tmp_path / "csv" / "drift.csv").open(encoding="utf-8") as file:
        rows = {(row["series"], row["x"]): float(row["y"]) for row in csv.DictReader(file)}
    assert rows.keys() == {(name, window) for name in features for window in ("1", "2")}
    # All values are in the last bin, which has the tenth part of the training values, and none in the others.
    far = (1 - 0.1) * np.log(1 / 0.1) + 9 * (0.0001 - 0.1) * np.log(0.0001 / 0.1)
    for window in ("1", "2"):
        if instruments == "all":  # some are suspended, or are listed later: their values are missing, or begin again
            assert 0 < rows["constant", window] < 0.1
            assert 1 < rows["grows", window] < far
        else:
            assert rows["constant", window] == 0.0
            assert rows["grows", window] == pytest.approx(far, abs=1e-5)
    with (tmp_path / "csv" / "score_drift.csv").open(encoding="utf-8") as file:
        assert [row["x"] for row in csv.DictReader(file)] == ["1", "2"]
