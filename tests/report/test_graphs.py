"""Figures for notebooks: the numbers that they draw, computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError
from rollforge.record.analysis import risk_analysis
from rollforge.report import graphs

DAYS = pd.bdate_range("2021-01-04", periods=60)


@pytest.fixture
def report() -> pd.DataFrame:
    """Return a backtest of three days."""
    return pd.DataFrame(
        {"return": [-0.02, 0.03, 0.01], "bench": [0.01, 0.0, 0.0], "cost": [0.001] * 3, "turnover": [1.0, 0.1, 0.1]},
        DAYS[:3],
    )


@pytest.fixture
def positions() -> dict[pd.Timestamp, dict[str, Any]]:
    """Return positions: A is held on all three days, B on the first only, C from the second."""

    def entry(**weights: float) -> dict[str, Any]:
        held = {k: {"amount": 1.0, "price": 10.0, "weight": w, "count_day": 1} for k, w in weights.items()}
        return {"cash": 5.0, "now_account_value": 100.0, **held}

    return {
        DAYS[0]: entry(A=0.5, B=0.5), DAYS[1]: entry(A=0.4, C=0.6), DAYS[2]: entry(A=0.4, C=0.6),
    }  # fmt: skip


@pytest.fixture
def label() -> pd.DataFrame:
    """Return the returns of three instruments after each of the three days."""
    index = pd.MultiIndex.from_product([list("ABC"), DAYS[:3]], names=["instrument", "datetime"])
    return pd.DataFrame({"Ref($close, -1)/$close-1": [0.01, 0.02, 0.03, 0.0, -0.02, 0.0, 0.0, 0.04, 0.05]}, index)


@pytest.fixture
def pred_label() -> pd.DataFrame:
    """Return ten instruments whose score is the label on even days and its opposite on odd ones."""
    index = pd.MultiIndex.from_product([list("ABCDEFGHIJ"), DAYS], names=["instrument", "datetime"])
    label = np.repeat(np.arange(10.0), len(DAYS)) / 100
    sign = np.tile(np.where(np.arange(len(DAYS)) % 2 == 0, 1.0, -1.0), 10)
    return pd.DataFrame({"score": label * sign, "label": label}, index)


def trace(figure: Any, name: str) -> np.ndarray[Any, Any]:
    """Return the y values of a named curve."""
    (found,) = [t for t in figure.data if t.name == name]
    return np.asarray(found.y, dtype=float)


def test_a_report_draws_sums_and_drawdowns(report: pd.DataFrame) -> None:
    """Cumulative returns before and after costs, over the benchmark, and drawdowns from the first day on."""
    (figure,) = graphs.report_graph(report, show_notebook=False)
    assert trace(figure, "cum return wo cost") == pytest.approx([-0.02, 0.01, 0.02])
    assert trace(figure, "cum return w cost") == pytest.approx([-0.021, 0.008, 0.017])
    assert trace(figure, "cum ex return wo cost") == pytest.approx([-0.03, 0.0, 0.01])
    assert trace(figure, "return wo mdd") == pytest.approx([-0.02, 0.0, 0.0])  # 0 on the first day in Qlib
    assert trace(figure, "cum ex return w cost mdd") == pytest.approx([-0.031, -0.002, 0.0])
    assert trace(figure, "turnover") == pytest.approx([1.0, 0.1, 0.1])
    assert len(figure.data) == 10


def test_risks_are_drawn_as_a_whole_and_by_month() -> None:
    """There are one figure of the whole period and four by month; a month of two days is left out."""
    rng = np.random.default_rng(7)
    days = DAYS[DAYS < "2021-03-03"]
    table = pd.DataFrame(rng.normal(0, 0.01, (len(days), 4)), days, ["return", "bench", "cost", "turnover"])
    analysis = pd.concat(
        {
            "excess_return_without_cost": risk_analysis(table["return"] - table["bench"]),
            "excess_return_with_cost": risk_analysis(table["return"] - table["bench"] - table["cost"]),
        }
    )
    figures = graphs.risk_analysis_graph(analysis, table, show_notebook=False)
    assert len(figures) == 5
    assert [t.name for t in figures[0].data] == ["annualized_return", "information_ratio", "max_drawdown", "std"]
    yearly = figures[1]
    assert list(yearly.data[0].x) == ["2021-01", "2021-02"]
    january = table[table.index < "2021-02-01"]
    expected = risk_analysis(january["return"] - january["bench"])["risk"]["annualized_return"]
    assert trace(yearly, "excess_return_without_cost_annualized_return")[0] == pytest.approx(expected)
    assert len(graphs.risk_analysis_graph(analysis, show_notebook=False)) == 1


def test_what_was_held(positions: dict[pd.Timestamp, Any]) -> None:
    """An instrument is bought on its first day, then held, and sold on the first day without it; positions as dicts or
    objects; the input is unchanged.
    """
    held = graphs.parse_position(positions)
    assert held["status"].unstack().T.to_dict("list") == {
        "A": [1, 0, 0],
        "B": [1, -1, pytest.approx(np.nan, nan_ok=True)],
        "C": [pytest.approx(np.nan, nan_ok=True), 1, 0],
    }
    assert held.loc[("B", DAYS[1]), "weight"] == 0.5  # the last day's
    assert held["cash"].tolist() == [5.0] * 7

    class Position:
        def __init__(self, entry: dict[str, Any]) -> None:
            self.position = entry

    assert graphs.parse_position({d: Position(p) for d, p in positions.items()}).equals(held)
    assert set(positions[DAYS[0]]) == {"cash", "now_account_value", "A", "B"}
    with pytest.raises(DataError, match="positions are empty"):
        graphs.parse_position({DAYS[0]: {"cash": 1.0, "now_account_value": 1.0}})


def test_what_followed_what_was_held(
    positions: dict[pd.Timestamp, Any], label: pd.DataFrame, report: pd.DataFrame
) -> None:
    """Next-day returns, their rank among all instruments, and the benchmark's; from one day to another."""
    data = graphs.get_position_data(positions, label, report, calculate_label_rank=True)
    assert data.loc[("C", DAYS[1]), "rank_ratio"] == pytest.approx(100 / 3)
    assert data.loc[("A", DAYS[0]), "rank_label_mean"] == pytest.approx((1 + 2.5) / 2 / 3 * 100)
    assert data.loc[("A", DAYS[0]), "bench"] == 0.0
    assert np.isnan(data.loc[("C", DAYS[0]), "status"])
    by_day = label.swaplevel().sort_index()
    assert len(graphs.get_position_data(positions, by_day, start_date=DAYS[1], end_date="2021-01-05")) == 3


def test_cumulative_returns_of_trades(
    positions: dict[pd.Timestamp, Any], label: pd.DataFrame, report: pd.DataFrame
) -> None:
    """For bought, sold, both, and held instruments: the weighted mean return over the benchmark, summed up."""
    figures = graphs.cumulative_return_graph(positions, report, label, show_notebook=False)
    buy, sell, both, hold = figures
    assert trace(buy, "cum buy") == pytest.approx(
        [0.005, 0.045]
    )  # (A and B) 0.005, then C 0.04; the last day has no benchmark
    assert trace(sell, "cum sell") == pytest.approx([0.0, -0.02])
    assert trace(both, "cum buy_minus_sell") == pytest.approx([0.005, 0.065])
    assert trace(both, "buy plus sell weight") == pytest.approx([1.0, 1.1])
    assert trace(hold, "cum hold") == pytest.approx([0.0, 0.02])
    assert list(label.columns) == ["Ref($close, -1)/$close-1"]


def test_ranks_of_what_was_held(positions: dict[pd.Timestamp, Any], label: pd.DataFrame) -> None:
    """The ranks are in percent, the best near 0, for held, bought and sold instruments."""
    hold, buy, sell = graphs.rank_label_graph(positions, label, show_notebook=False)
    assert trace(hold, "Hold")[0] == pytest.approx(200 / 3)
    assert trace(buy, "Buy") == pytest.approx([(1 + 2.5) / 2 / 3 * 100, 100 / 3])
    assert trace(sell, "Sell") == pytest.approx([100])


def test_daily_correlations_are_drawn(pred_label: pd.DataFrame) -> None:
    """IC and Rank IC are drawn by day, in any order of the index, as bars with or without the days between."""
    for frame in (pred_label, pred_label.swaplevel().sort_index()):
        (figure,) = graphs.score_ic_graph(frame, show_notebook=False)
        assert trace(figure, "ic")[:4] == pytest.approx([1, -1, 1, -1])
        assert trace(figure, "rank_ic")[:2] == pytest.approx([1, -1])
    daily = pd.DataFrame({"IC": [0.1, 0.2]}, pd.DatetimeIndex(["2021-01-08", "2021-01-11"]))
    assert len(graphs.ic_figure(daily).data[0].x) == 4
    assert len(graphs.ic_figure(daily, show_nature_day=False).data[0].x) == 2


def test_the_performance_of_a_model(pred_label: pd.DataFrame) -> None:
    """Groups from the highest scores down, their differences, the IC by month, and the turnover of scores from day to
    day.
    """
    names = ["group_return", "pred_ic", "pred_autocorr", "pred_turnover"]
    figures = graphs.model_performance_graph(pred_label, graph_names=names, show_notebook=False)
    assert len(figures) == 7
    groups, histograms, bars, monthly, distribution, correlation, turnover = figures
    assert trace(groups, "Group1")[:2] == pytest.approx([0.085, 0.085 + 0.005])
    assert trace(groups, "long-short")[:2] == pytest.approx([0.08, 0.0])
    assert trace(groups, "long-average")[0] == pytest.approx(0.04)
    assert len(histograms.data) == 2
    assert len(trace(bars, "IC")) == len(DAYS)
    assert monthly.data[0].z.shape == (1, 12)
    assert [t.name for t in distribution.data] == ["IC", "quantiles", "normal"]
    assert trace(correlation, "value")[1:] == pytest.approx([-1] * (len(DAYS) - 1))
    assert trace(turnover, "Top")[1:] == pytest.approx([1] * (len(DAYS) - 1))
    two = graphs.model_performance_graph(pred_label, lag=2, graph_names=names[2:], show_notebook=False)
    assert trace(two[0], "value")[2:] == pytest.approx([1] * (len(DAYS) - 2))
    assert trace(two[1], "Bottom")[2:] == pytest.approx([0] * (len(DAYS) - 2))
    (reverse, _) = graphs.model_performance_graph(
        pred_label, reverse=True, N=2, graph_names=["group_return"], show_notebook=False
    )
    assert trace(reverse, "Group1")[0] == pytest.approx(0.02)


def test_the_input_is_unchanged(pred_label: pd.DataFrame, report: pd.DataFrame) -> None:
    """No column is added, and no sign is changed."""
    before, kept = pred_label.copy(), report.copy()
    graphs.model_performance_graph(pred_label, reverse=True, show_notebook=False)
    graphs.report_graph(report, show_notebook=False)
    assert pred_label.equals(before)
    assert report.equals(kept)


@pytest.mark.parametrize(
    ("draw", "error", "said"),
    [
        (lambda r, p: graphs.report_graph(r.drop(columns="cost")), DataError, "'cost'"),
        (lambda r, p: graphs.report_graph(r.iloc[:0]), DataError, "no days"),
        (lambda r, p: graphs.score_ic_graph(p[["score"]]), DataError, "'label'"),
        (
            lambda r, p: graphs.model_performance_graph(p, graph_names=["pred_ik"]),
            ConfigError,
            "Did you mean 'pred_ic'",
        ),
    ],
)
def test_invalid_input_is_refused(
    draw: Callable[[Any, Any], Any], error: type[Exception], said: str, report: pd.DataFrame, pred_label: pd.DataFrame
) -> None:
    """With one message that names the error."""
    with pytest.raises(error, match=said):
        draw(report, pred_label)


def test_figures_are_shown_by_default(report: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook nothing is returned, so that a figure is not drawn twice."""
    import plotly.graph_objects as go

    shown: list[Any] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    assert graphs.report_graph(report) is None
    assert len(shown) == 1
