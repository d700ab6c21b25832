"""Returns, drawdown, monthly returns and exposure of a backtest: compared with plain loops, and at their boundaries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError
from rollforge.record.analysis import risk_analysis
from rollforge.record.performance import (
    Mode,
    cumulative_returns,
    daily_returns,
    drawdown,
    exposure,
    monthly_returns,
    performance,
)
from rollforge.record.position import Position

NAN = float("nan")


def returns_of(days: int = 90, seed: int = 0) -> pd.Series:
    """Return daily returns across the end of a year; some are missing."""
    random = np.random.default_rng(seed)
    values = np.where(random.random(days) < 0.1, NAN, random.normal(0, 0.02, days))
    return pd.Series(values, pd.bdate_range("2019-11-04", periods=days))


@pytest.mark.parametrize("mode", ["sum", "product"])
def test_curve_drawdown_and_months_are_those_of_a_loop(mode: Mode) -> None:
    returns = returns_of()
    value, peak, curve, down, months = 1.0, 1.0, [], [], dict[object, float]()
    for day, r in returns.items():
        r = 0.0 if np.isnan(r) else r
        value = value + r if mode == "sum" else value * (1 + r)
        peak = max(peak, value)
        curve.append(value - 1)
        down.append(value - peak if mode == "sum" else value / peak - 1)
        for span in ((day.year, day.month), (day.year, "year")):  # type: ignore[attr-defined]
            before = months.get(span, 0.0)
            months[span] = before + r if mode == "sum" else (1 + before) * (1 + r) - 1
    assert cumulative_returns(returns, mode=mode).tolist() == pytest.approx(curve)
    assert drawdown(returns, mode=mode).tolist() == pytest.approx(down)
    assert drawdown(returns, mode=mode).min() == pytest.approx(risk_analysis(returns, mode=mode).risk["max_drawdown"])
    found = monthly_returns(returns, mode=mode)
    assert found.index.tolist() == [2019, 2020]
    assert {key: found.loc[key] for key in months} == pytest.approx(months)
    assert found.notna().to_numpy().sum() == len(months)


def test_a_month_without_a_return_is_missing() -> None:
    days = pd.DatetimeIndex(["2020-01-31", "2020-02-03", "2020-03-02"])
    found = monthly_returns(pd.Series([0.1, NAN, np.inf], days))
    assert found.loc[2020].dropna().to_dict() == {1: 0.1, "year": 0.1}
    assert monthly_returns(pd.Series([], pd.DatetimeIndex([]), dtype=float)).shape == (0, 13)


def test_performance_is_before_and_after_costs() -> None:
    """Every row is the risk analysis of its returns; the rows of the report may be in any order."""
    returns, random = returns_of().fillna(0.01), np.random.default_rng(1)
    report = pd.DataFrame({"return": returns, "cost": 0.001, "bench": random.normal(0, 0.01, len(returns))})
    found = performance(report.sample(frac=1, random_state=2))
    expected = {
        "strategy, before costs": report["return"],
        "strategy, after costs": report["return"] - 0.001,
        "benchmark": report["bench"],
        "excess return, before costs": report["return"] - report["bench"],
        "excess return, after costs": report["return"] - report["bench"] - 0.001,
    }
    assert found.index.tolist() == list(expected)
    for name, values in expected.items():
        assert found.loc[name].to_dict() == pytest.approx(risk_analysis(values)["risk"].to_dict())
    for none in (0.0, NAN):
        assert performance(report.assign(bench=none)).index.tolist() == list(expected)[:2]
    assert len(performance(report.assign(bench=[NAN, *report["bench"][1:]]))) == 5


def test_exposure_counts_what_is_held() -> None:
    """Cash that settles tomorrow belongs to the account; a short holding counts in gross, and against net."""
    empty = Position(cash=100.0)
    long = Position(cash=20.0, position_dict={"A": {"amount": 3, "price": 10.0}, "B": {"amount": 5, "price": 8.0}})
    long.position["cash_delay"] = 10.0
    short = {"cash": 130.0, "now_account_value": 100.0, "A": {"amount": -3, "price": 10.0}}
    found = exposure({"2020-01-06": short, "2020-01-03": long, pd.Timestamp("2020-01-02"): empty})
    assert found.index.tolist() == list(pd.bdate_range("2020-01-02", periods=3))
    assert found["gross"].tolist() == pytest.approx([0, 0.7, 0.3])
    assert found["net"].tolist() == pytest.approx([0, 0.7, -0.3])
    assert found["largest"].tolist() == pytest.approx([0, 0.4, 0.3])
    assert found["positions"].tolist() == [0, 2, 1]
    assert exposure({}).empty
    assert exposure({"2020-01-02": Position()})["gross"].tolist() == [0]


def test_mistakes_are_named() -> None:
    report = pd.DataFrame({"return": [0.1, 0.1], "bench": 0.0, "cost": 0.0}, pd.DatetimeIndex(["2020-01-02"] * 2))
    with pytest.raises(DataError, match="has the day 2020-01-02 00:00:00 more than once"):
        daily_returns(report)
    with pytest.raises(DataError, match="lacks cost; it has return, bench"):
        daily_returns(report.drop(columns="cost"))
    with pytest.raises(ConfigError, match="mode: must be 'sum' or 'product', found 'prod'"):
        cumulative_returns(report["return"], mode="prod")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="must map days to positions, found a DataFrame"):
        exposure(report)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"The position of 2020-01-02 must be a Position, or a dict .* found 0\.5"):
        exposure({"2020-01-02": 0.5})


def test_returns_are_sorted_by_their_days() -> None:
    """Losses of 10 % on the first and the third day, with a gain between them, are a drawdown of 10 % in any order of rows."""
    days = pd.DatetimeIndex(["2021-03-01", "2021-03-02", "2021-03-03"])
    returns = pd.Series([-0.1, 0.2, -0.1], days)
    modes: tuple[Mode, Mode] = ("sum", "product")
    for rows in ([0, 1, 2], [0, 2, 1], [2, 1, 0]):
        shuffled = returns.iloc[rows]
        for mode in modes:
            assert risk_analysis(shuffled, mode=mode).loc["max_drawdown", "risk"] == pytest.approx(-0.1)
            assert drawdown(shuffled, mode=mode).min() == pytest.approx(-0.1)
        assert cumulative_returns(shuffled).tolist() == pytest.approx([-0.1, 0.1, 0])
    assert risk_analysis([-0.1, -0.1, 0.2]).loc["max_drawdown", "risk"] == pytest.approx(-0.2)
