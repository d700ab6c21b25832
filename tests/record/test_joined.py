"""The joined prediction of a rolling job is backtested as a whole, and the report shows the result with its costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.documents.command_line import call
from tests.record.conftest import MakeMarket, scores

from definitions import backtest, expressions, task_definition, write_workflow
from rollforge import pipeline, plot
from rollforge.plan import make_plan
from rollforge.record.backtest import TopkDropoutStrategy, run_backtest
from rollforge.record.joined import JoinedBacktest, backtest_joined
from rollforge.session import Session, using
from rollforge.workflow import load_workflow

COSTS = {"open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5}


def _record(name: str = "PortAnaRecord", strategy: dict[str, Any] | None = None, **backtest: Any) -> dict[str, Any]:
    chosen = {
        "class": "TopkDropoutStrategy",
        "module_path": "qlib.contrib.strategy",
        "kwargs": {"signal": "<PRED>", "topk": 1, "n_drop": 1},
    }
    config = {
        "strategy": strategy or chosen,
        "backtest": {"account": 10_000, "exchange_kwargs": {**COSTS, "trade_unit": None}, **backtest},
    }
    return {"class": name, "module_path": "qlib.workflow.record_temp", "kwargs": {"config": config}}


@pytest.fixture
def market(make_market: MakeMarket) -> Session:
    """A rises by 1 a day, B is constant."""
    return make_market({"A": [10.0, 11, 12, 13, 14, 15], "B": [10.0] * 6})


PREDICTION = scores({"A": [2.0, 2, 2, 2], "B": [1.0, 1, 3, 3]}).to_frame()


def _made(session: Session, *records: Any, own_code: bool = True) -> tuple[JoinedBacktest | None, tuple[str, ...]]:
    return backtest_joined(PREDICTION, {"record": list(records)}, session, own_code=own_code)


def test_the_whole_prediction_by_hand(market: Session) -> None:
    """One backtest over all days of the prediction and the next day: A is bought at 11 and sold at 13 for B, with fees."""
    made, notes = _made(market, "SignalRecord", _record(benchmark="B"))
    assert made is not None
    assert notes == ()
    report, trades = made.result.report, made.result.trades
    assert [str(d.date()) for d in report.index[[0, -1]]] == ["2021-03-01", "2021-03-05"]
    # 9500 for A at 11 on 2 March (fee 5); sold at 13 on 4 March, the day after the scores change.
    amount = 9500 / 11
    assert trades["deal_amount"].tolist()[:2] == pytest.approx([amount, -amount])
    sold = amount * 13
    cash = 500 - 5 + sold - sold * 0.0015
    assert report["account"].iloc[2] == pytest.approx(500 - 5 + amount * 12)
    assert report["account"].iloc[-1] == pytest.approx(cash - max(cash * 0.95 * 0.0005, 5))
    assert made.about() == {
        "days": "2021-03-01 to 2021-03-05, 5 trading days",
        "strategy": "TopkDropoutStrategy(topk=1, n_drop=1)",
        "costs": "0.05 % of purchases and 0.15 % of sales, at least 5 per order",
        "exchange": "any amount, no limits, dealt at $close",
        "benchmark": "B",
        "account": "10,000 at the start",
    }


def test_days_configured_in_the_record(market: Session) -> None:
    """The days that the record configures are used if there is a prediction; days without one do not count."""
    for start, end, expected in (
        ("2021-03-03", "2021-03-04", ("2021-03-03", "2021-03-04")),
        ("2020-01-01", "2030-01-01", ("2021-03-01", "2021-03-05")),
    ):
        made, _ = _made(market, _record(start_time=start, end_time=end))
        assert made is not None
        assert tuple(str(d.date()) for d in made.result.report.index[[0, -1]]) == expected


def test_without_a_backtest_among_the_records(market: Session) -> None:
    """There is no backtest, and no warning."""
    assert _made(market) == (None, ())
    assert _made(market, "SignalRecord", {"class": "SigAnaRecord"}) == (None, ())


def test_a_signal_of_model_and_dataset_is_the_prediction(market: Session) -> None:
    """A strategy configured with a model and a dataset uses the joined prediction, as each window used its own."""
    expected, _ = _made(market, _record())
    assert expected is not None
    base = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy"}
    for kwargs in ({"model": "<MODEL>", "dataset": "<DATASET>"}, {"signal": ["<MODEL>", "<DATASET>"]}, {}):
        made, _ = _made(market, _record(strategy={**base, "kwargs": {"topk": 1, "n_drop": 1, **kwargs}}))
        assert made is not None
        pd.testing.assert_frame_equal(made.result.report, expected.result.report)


def test_a_failing_backtest_gives_a_warning(market: Session) -> None:
    """With a benchmark without data or a strategy that raises, only the backtest is missing in the report."""
    made, (note,) = _made(market, _record(benchmark="NOPE"))
    assert made is None
    assert note.startswith("The joined prediction was not backtested: The benchmark 'NOPE' has no data")


def test_code_of_others_is_not_run(market: Session, tmp_path: Path) -> None:
    """For tasks that others may have written, a strategy outside Rollforge is neither imported nor run."""
    touched = tmp_path / "touched"
    module = tmp_path / "theirs.py"
    module.write_text(
        f"open({str(touched)!r}, 'w').close()\n"
        "from rollforge.record.backtest import TopkDropoutStrategy\n"
        "class Theirs(TopkDropoutStrategy): pass\n"
    )
    record = _record(strategy={"class": "Theirs", "module_path": str(module), "kwargs": {"topk": 1, "n_drop": 1}})
    made, (note,) = _made(market, record, own_code=False)
    assert made is None
    assert "its strategy 'Theirs' is not part of Rollforge" in note
    assert not touched.exists()
    made, notes = _made(market, record, own_code=True)
    assert made is not None
    assert made.strategy == "Theirs(topk=1, n_drop=1)"
    assert notes == ()
    assert _made(market, _record(), own_code=False)[0] is not None


def test_a_window_that_failed(market: Session) -> None:
    """Nothing is traded on days without a prediction, and holdings move with the market."""
    gap = PREDICTION.drop(list(PREDICTION.index.levels[0][1:3]), level="datetime")
    made, _ = backtest_joined(gap, {"record": [_record()]}, market, own_code=True)
    assert made is not None
    report, trades = made.result.report, made.result.trades
    amount = 9500 / 11
    assert [str(day.date()) for day in trades.index] == ["2021-03-02", "2021-03-05", "2021-03-05"]
    assert report["account"].tolist()[1:4] == pytest.approx([495 + amount * price for price in (11, 12, 13)])
    assert report["turnover"].tolist()[2:4] == [0, 0]


def test_notes_of_the_backtest_become_warnings_of_the_result(make_market: MakeMarket) -> None:
    """For example about a holding that was delisted."""
    session = make_market({"A": [10.0, 10, 10], "B": [10.0] * 6})
    made, notes = _made(session, _record())
    assert made is not None
    assert any(note.startswith("Backtest: on the last day") and "A (" in note for note in notes)


# -- all the way -------------------------------------------------------------------------------------------------------

SEGMENTS = {
    "train": ["2014-01-02", "2014-12-31"],
    "valid": ["2015-01-05", "2015-03-31"],
    "test": ["2015-04-01", "2015-08-31"],
}
COSTS = {"open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5}


def _workflow(tmp_path: Path, data: Path, form: str, **rolling: object) -> Path:
    own = form == "rollforge"
    session = {
        "rollforge": {
            "data": str(data),
            "store": f"sqlite:///{tmp_path}/tasks.db",
            "tracking": f"folder:{tmp_path}/runs",
        }
    }
    handler = expressions(
        "$close/Ref($close, 5)-1",
        infer_processors=[{"class": "Fillna", "kwargs": {"fill_value": 0}}],
        learn_processors=["DropnaLabel"],
    )
    portfolio = backtest(
        {"signal": "<PRED>"}, start_time="2015-04-01", end_time="2015-12-31", account=1000000, benchmark="X000",
        exchange_kwargs=COSTS,
    )  # fmt: skip
    document = {
        **(session if own else {"qlib_init": {"provider_uri": str(data), "region": "us"}}),
        "task": task_definition(handler, SEGMENTS, record=["SignalRecord", portfolio]),
        "rolling": {"step": 40, "rtype": "sliding", **rolling},
    }
    return write_workflow(tmp_path / f"{form}.yaml", document)


def test_from_a_file_to_the_page(tmp_path: Path, golden_market: Path) -> None:
    """In Rollforge's format each window's backtest has its own days; page and terminal show the joined one."""
    from rich.console import Console

    from rollforge.report.terminal import backtest_table

    plan = make_plan(load_workflow(_workflow(tmp_path, golden_market, "rollforge")))
    session, name = plan.workflow.session, plan.workflow.experiment_name
    assert not any("backtest" in warning for warning in plan.warnings)
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    collected = pipeline.with_backtest(pipeline.collect(session, name, plan.ids), session, own_code=False)
    for window, outcome in zip(plan.windows, collected.outcomes, strict=True):
        assert outcome.recorder is not None
        report = outcome.recorder.load_object("portfolio_analysis/report_normal_1day.pkl")
        test = window.segments["test"]
        assert (str(report.index[0].date()), len(report)) == (str(test.start), test.days + 1)
    assert collected.backtest is not None
    assert collected.prediction is not None
    direct = run_backtest(
        TopkDropoutStrategy(signal=collected.prediction, topk=5, n_drop=2),
        account=1_000_000,
        benchmark="X000",
        exchange_kwargs=COSTS,
        session=session,
    )
    pd.testing.assert_frame_equal(collected.backtest.result.report, direct.report)
    summary = pipeline.write_results(collected, name=name, session=session, config="", folder=tmp_path / "out")
    kept = pd.read_parquet(tmp_path / "out" / "backtest.parquet")
    pd.testing.assert_frame_equal(kept, direct.report, check_freq=False)
    excess = direct.report["return"] - direct.report["bench"] - direct.report["cost"]
    assert summary.portfolio_risk is not None
    after = summary.portfolio_risk.loc["excess return, after costs"]
    assert after["annualized_return"] == pytest.approx(excess.mean() * 238)
    run = pipeline.keep_result(collected, summary, session=session, pool=name)
    assert run is not None
    run.flush()
    pd.testing.assert_frame_equal(
        run.load_object("portfolio_analysis/report_normal_1day.pkl"), direct.report, check_freq=False
    )
    assert run.list_metrics()["1day.excess_return_with_cost.annualized_return"] == after["annualized_return"]
    assert run.list_tags()["rollforge.backtest.benchmark"] == "X000"
    page = (tmp_path / "out" / "report.html").read_text()
    console = Console(width=100, record=True)
    table = backtest_table(summary)
    assert table is not None
    console.print(table)
    shown = console.export_text()
    for words in (
        "0.05 % of purchases and 0.15 % of sales, at least 5 per order",
        f"2015-04-01 to {direct.report.index[-1]:%Y-%m-%d}, {len(direct.report)} trading days",
        "TopkDropoutStrategy(",
        "1,000,000 at the start",
        "X000",
    ):
        assert words in page
        assert words in shown
    assert f"{after['annualized_return']:.2%}" in shown
    assert np.isfinite(after["max_drawdown"])
    for words in (
        f"{direct.report['turnover'].mean():.1%} of the account per day",
        f"at most {max(len(p.get_stock_list()) for p in direct.positions.values())}",
    ):
        assert words in page
        assert words in shown
    stores = ["--store", session.store_uri, "--tracking", session.tracking_uri]
    again = tmp_path / "again"
    named = call("report", name, *stores, "--output", again, "--group", "all")
    assert named.exit_code == 0, named.output
    page = (again / "report.html").read_text()
    assert summary.headline.ic is not None
    assert f'class="figure">{summary.headline.ic:.4f}<'.replace("-", "−") in page.partition('id="groups"')[2]
    with using(session):  # a figure of the experiment, by its name
        drawn = plot.equity(name)
    assert drawn.data[0].y[-1] == pytest.approx(direct.report["return"].sum())


def test_qlibs_form_keeps_qlibs_days_and_says_so(
    tmp_path: Path, golden_market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow in Qlib's format backtests each window over all days, with one warning; an option changes this."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    plan = make_plan(load_workflow(_workflow(tmp_path, golden_market, "qlib")))
    kept = plan.tasks[0]["record"][1]["kwargs"]["config"]["backtest"]
    assert str(kept["start_time"])[:10] == "2015-04-01"
    (warning,) = [w for w in plan.warnings if "backtest" in w]
    assert "covers 2015-04-01 to 2015-12-31" in warning
    moved = make_plan(load_workflow(_workflow(tmp_path, golden_market, "qlib", roll_backtest=True)))
    assert moved.tasks[0]["record"][1]["kwargs"]["config"]["backtest"]["start_time"] is None
    assert not any("backtest" in warning for warning in moved.warnings)
    own = make_plan(load_workflow(_workflow(tmp_path, golden_market, "rollforge", roll_backtest=False)))
    assert any("backtest" in warning for warning in own.warnings)
