"""Backtest paths: every day of a path is predicted once, by the splits in their order."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import rollforge
from rollforge.collect.paths import backtest_paths, path_numbers
from rollforge.errors import ConfigError, CoverageError
from rollforge.generate import CombinatorialPurgedGen, PurgedKFoldGen
from rollforge.generate.task_view import TaskView
from rollforge.pipeline import collect, keep_result, write_results
from rollforge.report.summary import path_distribution, path_figures, result_metrics
from rollforge.run.trainer import TrainerR
from rollforge.session import Session
from rollforge.store.manager import TaskManager

DAYS = pd.bdate_range("2021-01-04", periods=42)


def split_tasks(groups: int, tested: int, calendar: pd.DatetimeIndex = DAYS) -> list[dict[str, Any]]:
    """Return the tasks of combinatorial splits."""
    segments = {"train": (calendar[0], calendar[9]), "test": (calendar[10], calendar[-1])}
    template = {"model": {"class": "M"}, "dataset": {"kwargs": {"segments": segments}}}
    return CombinatorialPurgedGen(groups, tested, purge=0, calendar=calendar).generate(template)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(1, 5))
def test_each_path_predicts_every_day_once(groups: int, tested: int) -> None:
    """There are k/N x C(N, k) paths, and each prediction of each split is in exactly one of them."""
    tested = min(tested, groups - 1)
    tasks = split_tasks(groups, tested)
    tests = {i: TaskView(task).segments["test"] for i, task in enumerate(tasks)}
    predictions = {}
    for i, segment in tests.items():
        parts = segment if isinstance(segment, list) else [segment]
        days = [d for first, last in parts for d in DAYS[DAYS.slice_indexer(first, last)]]
        index = pd.MultiIndex.from_product([days, ["A", "B"]], names=["datetime", "instrument"])
        predictions[i] = pd.DataFrame({"score": float(i)}, index)
    paths = backtest_paths(predictions, tests)
    assert list(paths) == list(range(1, math.comb(groups, tested) * tested // groups + 1))
    for path in paths.values():
        assert path.index.is_unique
        assert path.index.get_level_values(0).unique().equals(pd.DatetimeIndex(DAYS))
    used = pd.concat([path["score"] for path in paths.values()]).value_counts()
    assert used.to_dict() == {float(i): len(frame) for i, frame in predictions.items()}


def test_paths_are_numbered_as_in_the_book() -> None:
    """Six groups of which two are tested, numbered as in figure 12.1 of the book."""
    tests = list(itertools.combinations(range(1, 7), 2))
    table = np.zeros((6, 15), int)
    for split, (groups, numbers) in enumerate(zip(tests, path_numbers(tests), strict=True)):
        for group, number in zip(groups, numbers, strict=True):
            table[group - 1, split] = number
    assert [[n for n in row if n] for row in table.tolist()] == [[1, 2, 3, 4, 5]] * 6
    assert table[0].tolist() == [1, 2, 3, 4, 5] + [0] * 10
    assert table[5].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 3, 0, 4, 5]


def test_a_missing_split_leaves_gaps_in_its_paths() -> None:
    """The other paths are complete."""
    tasks = split_tasks(3, 2)
    tests = {i: TaskView(task).segments["test"] for i, task in enumerate(tasks)}
    index = pd.MultiIndex.from_product([DAYS, ["A"]], names=["datetime", "instrument"])
    whole = pd.DataFrame({"score": np.arange(42.0)}, index)
    paths = backtest_paths({1: whole, 2: whole}, tests)
    assert {number: len(path) for number, path in paths.items()} == {1: 14, 2: 42}


HANDLER: dict[str, Any] = {
    "class": "Alpha158",
    "module_path": "qlib.contrib.data.handler",
    "kwargs": {
        "instruments": "all", "start_time": "2022-06-01", "end_time": "2023-10-31", "fit_start_time": None,
        "fit_end_time": None, "infer_processors": [{"class": "Fillna", "kwargs": {"fields_group": "feature"}}],
    },
}  # fmt: skip


def tasks_of_market(*, valid: float = 0) -> list[dict[str, Any]]:
    """Return four groups of the demo market, of which two are tested: six tasks and three paths."""
    template = {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": HANDLER,
                "segments": {"train": ("2023-01-03", "2023-06-30"), "test": ("2023-07-03", "2023-10-31")},
            },
        },
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }
    return CombinatorialPurgedGen(4, 2, embargo=2, valid=valid).generate(template)


@pytest.mark.slow
def test_paths_from_tasks_to_the_report(small_market: Path, tmp_path: Path) -> None:
    """Six trained splits make three complete paths, whose figures are in the report and in the run."""
    session = Session(
        provider_uri=str(small_market),
        store_uri=f"sqlite:///{tmp_path}/tasks.db",
        tracking_uri=f"folder:{tmp_path}/runs",
    )
    with rollforge.using(session):
        from rollforge.run.pool_trainer import TrainerRM

        tasks = tasks_of_market()
        assert len(tasks) == 6
        TrainerRM("cv", "cv").train(tasks)
        collected = collect(session, "cv")
        assert collected.coverage.complete
        assert any(w.startswith("In 5 of 6 tasks the model is fitted to later days") for w in collected.warnings)
        assert [(p.model, p.number) for p in collected.paths] == [("", 1), ("", 2), ("", 3)]
        days = collected.paths[0].prediction.index.unique("datetime")
        assert all(p.prediction.index.unique("datetime").equals(days) for p in collected.paths)
        assert collected.prediction is not None
        assert collected.prediction.index.equals(collected.paths[0].prediction.index)
        assert collected.ensembles["paths"] == "AverageEnsemble"
        # The first group is predicted by the first three splits.
        first = TaskView(tasks[0]).segments["test"][0]
        by_split = [o.recorder.load_object("pred.pkl") for o in collected.outcomes[:3] if o.recorder is not None]
        for path, own in zip(collected.paths, by_split, strict=True):
            ours = path.prediction.loc[first[0] : first[1]]
            pd.testing.assert_frame_equal(ours, own.loc[first[0] : first[1]])
        summary = write_results(collected, name="cv", session=session, config="", folder=tmp_path / "out")
        figures = path_figures(summary.paths[""])
        assert list(figures.index) == ["path 1", "path 2", "path 3"]
        metrics = result_metrics(summary)
        assert metrics["paths/number"] == 3
        assert metrics["paths/IC std"] == pytest.approx(figures["IC"].std(ddof=1))
        assert path_distribution(figures).loc["max", "Sharpe"] == figures["Sharpe"].max()
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Backtest paths" in page
        assert "path 3" in page
        (drawn,) = re.findall('id="plots">(.*?)</script>', page)
        shown = json.loads(drawn)["figures"]["paths0"]["data"]
        figure = rollforge.plot.paths(collected)
        assert [trace.name for trace in figure.data] == ["path 1", "path 2", "path 3", "mean of the paths"]
        for trace, one in zip(figure.data, shown, strict=True):
            assert list(trace.y) == pytest.approx(one["y"], abs=6e-6)
        with pytest.raises(ConfigError, match="model: there are no paths of 'lgb'"):
            rollforge.plot.paths(collected, model="lgb")
        recorder = keep_result(collected, summary, session=session, pool="cv")
        assert recorder is not None
        assert recorder.list_metrics()["paths/Sharpe mean"] == pytest.approx(figures["Sharpe"].mean())

        # A split that is not trained leaves gaps in the paths that it belongs to.
        manager = TaskManager("cv")
        manager.reset_status({"_id": collected.outcomes[5].task.id}, "waiting")
        with pytest.raises(CoverageError, match=r"window 6, path 3 .* is waiting"):
            collect(session, "cv")
        partial = collect(session, "cv", allow_gaps=True)
        assert [len(p.prediction) < len(collected.prediction) for p in partial.paths] == [False, False, True]


@pytest.mark.slow
def test_folds_are_one_result_and_early_stopping_sees_its_own_days(small_market: Path, tmp_path: Path) -> None:
    """A k-fold result has no paths; LightGBM trains on a segment with a hole and stops on the validation days."""
    session = Session(
        provider_uri=str(small_market),
        store_uri=f"sqlite:///{tmp_path}/tasks.db",
        tracking_uri=f"folder:{tmp_path}/runs",
    )
    with rollforge.using(session):
        template = tasks_of_market()[0]
        template["model"] = {
            "class": "LGBModel", "module_path": "qlib.contrib.model.gbdt",
            "kwargs": {"num_boost_round": 5, "early_stopping_rounds": 2, "num_threads": 1},
        }  # fmt: skip
        template["dataset"]["kwargs"]["segments"] = {
            "train": ("2023-01-03", "2023-06-30"), "test": ("2023-07-03", "2023-10-31"),
        }  # fmt: skip
        tasks = PurgedKFoldGen(3, valid=0.2).generate(template)
        assert [isinstance(TaskView(t).segments["train"], list) for t in tasks] == [False, True, False]
        recorders = TrainerR(experiment_name="folds").train(tasks)
        predictions = [r.load_object("pred.pkl") for r in recorders]
        assert sum(map(len, predictions)) == len(pd.concat(predictions).index.unique())
