"""Combinatorial splits are backtested along their paths: no backtest trades on days that its predictions do not cover."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.record.conftest import FREE, MakeMarket, days_of

import rollforge
from definitions import backtest, expressions, task_definition
from rollforge import plot
from rollforge.errors import DataNotFound
from rollforge.generate import CombinatorialPurgedGen
from rollforge.generate.backtests import backtest_warnings
from rollforge.models.base import Model
from rollforge.pipeline import collect, keep_result, with_backtest, write_results
from rollforge.report.summary import path_figures, result_metrics
from rollforge.report.terminal import paths_table
from rollforge.run.pool_trainer import TrainerRM
from rollforge.session import Session
from rollforge.store.manager import TaskManager

DAYS = days_of(8)
END = 500 + 9500 / 13 * 17
"""A is bought at 13 on day 3, the day after the first score that prefers it, and is worth 17 on day 7."""


class Sided(Model):
    """Prefers A if it was trained on days before the test segment, and B otherwise."""

    def fit(self, dataset: Any, reweighter: Any = None) -> None:
        self.first = dataset.prepare("train").index.get_level_values("datetime").min()

    def predict(self, dataset: Any, segment: Any = "test") -> pd.Series:
        index = dataset.prepare(segment).index
        liked = "A" if self.first < index.get_level_values("datetime").min() else "B"
        return pd.Series(np.where(index.get_level_values("instrument") == liked, 1.0, 0.0), index)


@pytest.fixture
def session(make_market: MakeMarket, tmp_path: Any) -> Session:
    """A rises by 1 a day from 10, B is constant."""
    uris = {"store_uri": f"sqlite:///{tmp_path}/tasks.db", "tracking_uri": f"folder:{tmp_path}/runs"}
    return make_market({"A": np.arange(10.0, 18.0), "B": [10.0] * 8}, **uris)


def splits(n_groups: int = 4, n_tested: int = 2) -> list[dict[str, Any]]:
    """Return the tasks of combinatorial splits with a backtest that holds the better of two instruments."""
    record = backtest({"topk": 1, "n_drop": 1}, account=10_000, benchmark=None, exchange_kwargs=FREE)
    template = task_definition(
        expressions("$close", "Ref($close, -1)/$close - 1"),
        {"train": [DAYS[0], DAYS[3]], "test": [DAYS[4], DAYS[7]]},
        model={"class": "Sided", "module_path": __name__},
        record=["SignalRecord", record],
    )
    return CombinatorialPurgedGen(n_groups, n_tested, purge=0).generate(template)


def test_each_path_is_backtested_by_hand(session: Session, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A task whose test segment has a hole makes no backtest. Of the paths, the first holds B, the others buy A."""
    with rollforge.using(session), caplog.at_level(logging.INFO, "rollforge.run.execute"):
        tasks = splits()
        (warning,) = backtest_warnings(tasks, DAYS.to_numpy().astype("datetime64[D]"))
        assert warning.startswith("the test segments of 3 of 6 tasks have holes, such as 2021-03-03 to 2021-03-04, so ")
        TrainerRM("cv", "cv").train(tasks)
        recorders = [o.recorder for o in collect(session, "cv").outcomes]
        made = ["portfolio_analysis" in {a.split("/")[0] for a in r.list_artifacts()} for r in recorders if r]
        # Of the splits (1 2) (1 3) (1 4) (2 3) (2 4) (3 4), those that test neighbours have no hole.
        assert made == [True, False, False, True, False, True]
        assert (
            caplog.text.count("PortAnaRecord is skipped: the test segment has a hole from 2021-03-03 to 2021-03-04")
            == 1
        )

        collected = with_backtest(collect(session, "cv"), session, own_code=True)
        assert [path.prediction["score"].unstack()["A"].tolist() for path in collected.paths] == [
            [0] * 8, [0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1],
        ]  # fmt: skip
        reports = [path.backtest.result.report for path in collected.paths if path.backtest is not None]
        assert [report["account"].iloc[-1] for report in reports] == pytest.approx([10_000, END, END])
        assert all(list(report.index) == list(DAYS) for report in reports)
        assert collected.backtest is not None, "the average over the paths is backtested too"

        summary = write_results(collected, name="cv", session=session, config="", folder=tmp_path / "out")
        figures = path_figures(summary.paths[""])
        daily = np.array([0, 0, 0, 0, *(9500 / 13 / (500 + 9500 / 13 * price) for price in (13, 14, 15, 16))])
        assert figures.loc["path 2", "Net return"] == pytest.approx(daily.mean() * 238)
        assert figures.loc["path 2", "Net Sharpe"] == pytest.approx(daily.mean() / daily.std(ddof=1) * 238**0.5)
        assert (figures["Drawdown"] == 0).all()
        assert figures.loc["path 1", "Net return"] == 0
        assert result_metrics(summary)["paths/Net return max"] == pytest.approx(daily.mean() * 238)
        recorder = keep_result(collected, summary, session=session, pool="cv")
        assert recorder is not None
        assert recorder.list_metrics()["paths/Net return max"] == pytest.approx(daily.mean() * 238)
        with pytest.raises(DataNotFound, match="no day has labels of 5 instruments with different scores"):
            plot.paths(collected)
        assert "its Sharpe" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        table = paths_table(summary)
        assert table is not None
        assert [str(column.header) for column in table.columns][-3:] == ["Net return", "Net Sharpe", "Drawdown"]

        # A split that is missing: its paths lack its days. The split (2 3) is the second that tests groups 2 and 3.
        TaskManager("cv").reset_status({"_id": collected.outcomes[3].task.id}, "waiting")
        partial = with_backtest(collect(session, "cv", allow_gaps=True), session, own_code=True)
        assert [path.backtest is None for path in partial.paths] == [False, True, False]
        notes = [w for w in partial.warnings if "backtested" in w]
        assert notes == ["Path 2 was not backtested, because it lacks the days from 2021-03-03 to 2021-03-08."]


def test_a_test_segment_with_a_hole_that_no_other_task_tests(session: Session) -> None:
    """There are no paths; the joined prediction is not backtested, because the days of the hole are not tested."""
    with rollforge.using(session):
        TrainerRM("one", "one").train(splits()[1:2])
        collected = with_backtest(collect(session, "one", allow_gaps=True), session, own_code=True)
    assert (collected.backtest, collected.paths) == (None, ())
    assert collected.warnings[-1] == (
        "The joined prediction was not backtested, because it lacks the days from 2021-03-03 to 2021-03-04."
    )
