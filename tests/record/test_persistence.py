"""Confidence interval, decay and turnover of a signal agree with values computed by hand, by plain loops, and by other
libraries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rollforge.errors import ConfigError, DataError
from rollforge.record.analysis import by_value, calc_ic, mean_ranks, quantile_returns, risk_analysis
from rollforge.record.performance import cumulative_returns, monthly_returns, performance
from rollforge.record.persistence import (
    autocorrelation,
    bootstrap_interval,
    ic_by_group,
    ic_decay,
    quantile_turnover,
)

NAN = float("nan")


def table(rows: Sequence[Sequence[float]], days: pd.DatetimeIndex | None = None) -> pd.Series:
    """Return a table of days by instruments as a column; NaN are rows that are missing."""
    days = pd.bdate_range("2020-01-01", periods=len(rows)) if days is None else days
    index = pd.MultiIndex.from_product(
        [days, [f"I{i:02}" for i in range(len(rows[0]))]], names=["datetime", "instrument"]
    )
    return pd.Series(np.ravel(rows), index, dtype=np.float64).dropna()


def random_table(
    days: int = 30, names: int = 20, *, seed: int = 0, ties: bool = False, missing: float = 0.0
) -> pd.Series:
    random = np.random.default_rng(seed)
    values = random.normal(size=(days, names)).cumsum(axis=0)
    values = np.round(values) if ties else values
    return table(np.where(random.random(values.shape) < missing, NAN, values).tolist())


def test_the_interval_of_a_mean_is_that_of_independent_days() -> None:
    """With blocks of one day it is the usual bootstrap, whose width is known; overlapping values need a wider one."""
    noise = np.random.default_rng(3).normal(0.02, 0.1, 2000)
    low, high = bootstrap_interval(pd.Series(noise), block=1)
    standard_error = noise.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx(
        noise.mean() + np.array([-1.96, 1.96]) * standard_error, abs=0.15 * standard_error
    )

    overlapping = pd.Series(noise).rolling(10).mean().dropna()
    narrow, wide = bootstrap_interval(overlapping, block=1), bootstrap_interval(overlapping, 10)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_samples_of_a_block_bootstrap_are_blocks() -> None:
    """Of 1, 2, 4, 8 in blocks of 3, a sample is a block and the first day of another, continuing after the last day."""
    values, means = [1.0, 2.0, 4.0, 8.0], set()
    for first in range(4):
        for second in range(4):
            means.add((sum(values[(first + i) % 4] for i in range(3)) + values[second]) / 4)
    for seed in range(20):  # the ends of one sample are its mean
        low, high = bootstrap_interval(pd.Series([1.0, NAN, 2.0, 4.0, 8.0]), block=3, samples=1, seed=seed)
        assert low == high
        assert any(low == pytest.approx(mean, abs=1e-12) for mean in means)


def test_an_interval_is_repeatable_and_undefined_without_values() -> None:
    values = pd.Series(np.random.default_rng(0).normal(size=50))
    assert bootstrap_interval(values, 5) == bootstrap_interval(values, 5) != bootstrap_interval(values, 5, seed=1)
    assert bootstrap_interval(pd.Series([0.1] * 7)) == (0.1, 0.1)
    for few in ([], [1.0], [1.0, 2.0, 3.0]):
        assert np.isnan(bootstrap_interval(pd.Series(few, dtype=float), 3)).all()
    with pytest.raises(ConfigError, match="level: must be between 0 and 1, found 95"):
        bootstrap_interval(values, level=95)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_autocorrelation_is_that_of_the_instruments_of_both_days(ties: bool, missing: float) -> None:
    scores = random_table(ties=ties, missing=missing)
    wide = scores.unstack()
    found = autocorrelation(scores.sample(frac=1, random_state=0), [1, 3])
    for lag in (1, 3):
        assert found[lag].iloc[:lag].isna().all()
        for i in range(lag, len(wide)):
            pairs = pd.DataFrame({"now": wide.iloc[i], "then": wide.iloc[i - lag]}).dropna()
            expected = scipy.stats.spearmanr(pairs["now"], pairs["then"]).statistic
            assert found[lag].iloc[i] == pytest.approx(expected, abs=1e-12)


def test_a_failed_window_is_a_gap() -> None:
    """With the calendar, the day before a gap is not the day before the next one that has scores."""
    days = pd.bdate_range("2020-01-01", periods=6)
    scores = table([[1, 2, 3], [1, 3, 2], [3, 2, 1], [1, 2, 3]], days[[0, 1, 4, 5]])
    assert autocorrelation(scores)[1].tolist() == pytest.approx([NAN, 0.5, -0.5, -1.0], nan_ok=True)
    assert autocorrelation(scores, calendar=days)[1].tolist() == pytest.approx([NAN, 0.5, NAN, -1.0], nan_ok=True)
    assert quantile_turnover(scores, 3, calendar=days)[3].tolist() == pytest.approx([NAN, 1, NAN, 1], nan_ok=True)
    decay = ic_decay(scores, scores, [0, 3], days)
    assert decay["IC"].tolist() == pytest.approx([1.0, -0.5])
    assert decay["days"].tolist() == [4, 1]
    with pytest.raises(DataError, match="calendar lacks 2020-01-08"):
        autocorrelation(scores, calendar=days[:5])


def test_constant_days_and_single_instruments_have_no_values() -> None:
    constant = table([[1, 2, 3], [5, 5, 5], [1, 2, 3]])
    assert autocorrelation(constant)[1].isna().all()
    assert quantile_turnover(constant, 3).isna().all(axis=None)
    single = table([[1.0], [2.0], [3.0]])
    assert autocorrelation(single)[1].isna().all()
    assert quantile_turnover(single, 2).isna().all(axis=None)
    assert ic_decay(single, single, [0, 1])["days"].tolist() == [0, 0]
    assert autocorrelation(single.iloc[:0]).empty
    assert quantile_turnover(single.iloc[:0]).empty


def test_turnover_is_the_share_that_is_new() -> None:
    scores = table([[1, 2, 3, 4], [4, 2, 3, 1], [NAN, 4, 3, 2]])
    # Halves: the best are {2, 3}, then {0, 2}, then {1, 2}, where the higher of three is rounded down to one: {1}.
    found = quantile_turnover(scores, 2)
    assert found[2].tolist() == pytest.approx([NAN, 0.5, 1.0], nan_ok=True)
    assert found[1].tolist() == pytest.approx([NAN, 0.5, 0.5], nan_ok=True)


def test_turnover_of_equal_scores_counts_their_fractions() -> None:
    """Two of the three equal scores are in the better half of four: each with two thirds, or one next to a better
    score."""
    scores = table([[1, 2, 2, 2], [1, 2, 2, 3]])
    # First day: 0, 2/3, 2/3, 2/3 of the instruments; second day: 0, 1/2, 1/2, 1. What stays: 1/2 + 1/2 + 2/3 of 2.
    assert quantile_turnover(scores, 2)[2].iloc[1] == pytest.approx(1 - (1 / 2 + 1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("ties", [False, True])
def test_decay_compares_scores_with_later_labels(ties: bool) -> None:
    scores, label = random_table(ties=ties, missing=0.1), random_table(seed=1, missing=0.1)
    found = ic_decay(scores, label, [0, 2], days=1)
    later = label.unstack().shift(-2).stack().rename_axis(["datetime", "instrument"])
    for lag, truth in ((0, label), (2, later)):
        ic, rank_ic = calc_ic(scores, truth, dropna=True)
        row = found.loc[lag]
        assert row["days"] == len(ic) == 30 - lag
        assert (row["IC"], row["Rank IC"]) == pytest.approx((ic.mean(), rank_ic.mean()), abs=1e-12)
        assert row["t"] == pytest.approx(scipy.stats.ttest_1samp(ic, 0).statistic)
    assert ic_decay(scores, label, [0])["t"].isna().all()


@pytest.mark.parametrize("days", [1, 400, 70_000])
def test_ranks_are_those_within_a_day(days: int) -> None:
    """Of rows in any order, with ties; more days than 16 bits can number, such as minutes, too."""
    random = np.random.default_rng(days)
    day = random.integers(0, days, 140_000 if days > 400 else 4_000)
    values = random.integers(-3, 3, len(day)).astype(np.float64)
    found = mean_ranks(day, values, by_value(day, values))
    expected = pd.Series(values).groupby(day).rank()
    np.testing.assert_array_equal(found, expected)


def test_groups_are_evaluated_alone() -> None:
    """A group by instrument, by day and instrument, and rows without a group."""
    scores = table([[1, 2, 3, 1, 2], [1, 2, 3, 1, 2]])
    label = table([[1, 2, 3, 2, 1], [1, 3, 2, 2, 1]])
    sectors = pd.Series({"I00": "a", "I01": "a", "I02": "a", "I03": "b"})
    found = ic_by_group(scores, label, sectors, days=1)
    assert found.index.tolist() == ["a", "b"]
    assert found.loc["a", "IC"] == pytest.approx((1 + 0.5) / 2)
    assert list(found.loc["b", ["days", "rows"]]) == [0, 2]
    members = pd.Series(["in" if key[1] > "I02" or key[0].day == 1 else None for key in scores.index], scores.index)
    found = ic_by_group(scores, label, members)
    assert list(found.loc["in", ["days", "rows"]]) == [2, 7]
    assert found.loc["in", "IC"] == pytest.approx((calc_ic(scores, label)[0].iloc[0] - 1) / 2)
    with pytest.raises(DataError, match="The groups contain I03 more than once"):
        ic_by_group(scores, label, pd.concat([sectors, sectors[-1:]]))


@pytest.mark.parametrize("lags", [[0], [True], [1.5]])
def test_lags_are_positive_integers(lags: list[int]) -> None:
    with pytest.raises(ConfigError, match="lags: must be a whole number, at least 1"):
        autocorrelation(random_table(), lags)


@pytest.mark.filterwarnings("ignore")
def test_other_libraries_compute_the_same() -> None:
    """IC, returns by quantile, turnover and autocorrelation as alphalens, risks as empyrical, where they are
    installed."""
    alphalens = pytest.importorskip("alphalens.performance", reason="not installed: make signals")
    empyrical = pytest.importorskip("empyrical", reason="not installed: make signals")
    scores, label = random_table(60), random_table(60, seed=1) / 100
    factor = pd.DataFrame({"factor": scores, "1D": label}).rename_axis(["date", "asset"])
    ranks = scores.groupby(level="datetime").rank()
    factor["factor_quantile"] = np.ceil(ranks / 4).astype(int).to_numpy()
    factor["group"] = np.where(factor.index.get_level_values("asset") < "I07", "a", "b")

    ic = alphalens.factor_information_coefficient(factor)["1D"]
    np.testing.assert_allclose(calc_ic(scores, label)[1], ic, atol=1e-12)
    by_quantile, _ = alphalens.mean_return_by_quantile(factor, by_date=True, demeaned=False)
    np.testing.assert_allclose(
        quantile_returns(scores, label), by_quantile["1D"].unstack("factor_quantile"), atol=1e-12
    )
    groups = pd.Series(factor["group"].to_numpy(), scores.index)
    by_group = alphalens.mean_information_coefficient(factor, by_group=True)["1D"]
    np.testing.assert_allclose(ic_by_group(scores, label, groups)["Rank IC"], by_group, atol=1e-12)
    for lag in (1, 4):
        correlated = alphalens.factor_rank_autocorrelation(factor, lag)
        np.testing.assert_allclose(autocorrelation(scores, [lag])[lag], correlated, atol=1e-12)
        turnover = alphalens.quantile_turnover(factor["factor_quantile"], 5, lag)
        np.testing.assert_allclose(quantile_turnover(scores, lag=lag)[5], turnover, atol=1e-12)

    returns = label.unstack()["I00"]
    compounded = risk_analysis(returns, N=252, mode="product")["risk"]
    assert compounded["max_drawdown"] == pytest.approx(empyrical.max_drawdown(returns))
    assert compounded["annualized_return"] == pytest.approx(empyrical.annual_return(returns))
    assert risk_analysis(returns, N=252)["risk"]["information_ratio"] == pytest.approx(empyrical.sharpe_ratio(returns))
    np.testing.assert_allclose(cumulative_returns(returns, mode="product"), empyrical.cum_returns(returns), atol=1e-12)
    months = monthly_returns(returns, mode="product")
    for name, found in (("monthly", months.drop(columns="year").stack()), ("yearly", months["year"])):
        np.testing.assert_allclose(found.dropna(), empyrical.aggregate_returns(returns, name), atol=1e-12)
    report = pd.DataFrame({"return": returns, "cost": 0.001, "bench": label.unstack()["I01"]})
    by_name = performance(report)
    for name, series in (("strategy, after costs", returns - 0.001), ("benchmark", report["bench"])):
        assert by_name.loc[name, "information_ratio"] == pytest.approx(
            empyrical.sharpe_ratio(series, annualization=238)
        )
        assert by_name.loc[name, "std"] * 238**0.5 == pytest.approx(
            empyrical.annual_volatility(series, annualization=238)
        )
    tracking = by_name.loc["excess return, before costs"]
    assert tracking["information_ratio"] == pytest.approx(empyrical.excess_sharpe(returns, report["bench"]) * 238**0.5)
