"""Deflated Sharpe ratio and probability of backtest overfitting, against the papers and brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError, DataError
from rollforge.record.overfitting import (
    backtest_overfitting,
    deflated_sharpe,
    expected_max_sharpe,
    probabilistic_sharpe,
)


def table(values: np.ndarray, start: str = "2020-01-01") -> pd.DataFrame:
    """Return returns with one column per trial."""
    days = pd.bdate_range(start, periods=len(values))
    return pd.DataFrame(values, days, [f"v{i}" for i in range(values.shape[1])])


def brute_force(values: np.ndarray, groups: int) -> list[float]:
    """Return the relative rank of the best trial in the other half, for every division, one by one."""
    parts = np.array_split(np.arange(len(values)), groups)
    ranks = []
    for half in itertools.combinations(range(groups), groups // 2):
        inside = np.concatenate([parts[g] for g in half])
        outside = np.concatenate([parts[g] for g in range(groups) if g not in half])
        first, second = (
            [float(v[:, i].mean() / v[:, i].std(ddof=1)) for i in range(v.shape[1])]
            for v in (values[inside], values[outside])
        )
        best = int(np.argmax(first))
        ranks.append(sum(x <= second[best] for x in second) / (len(second) + 1))
    return ranks


# -- deflated Sharpe ratio ---------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_paper() -> None:
    """Annual Sharpe ratio 2.5 over 5 years of 250 days, chosen from trials whose annual Sharpe ratios have variance
    1/2.

    With 100 trials, skewness -3 and kurtosis 10 the maximum expected by chance is 0.1132 a day, and the deflated Sharpe
    ratio is 0.9004. With 46 trials it is 0.9505; normal returns reach that with 88 trials.
    """
    daily = 2.5 / math.sqrt(250)
    assert round(expected_max_sharpe(0.5 / 250, 100), 4) == 0.1132
    for trials, skew, kurtosis, right in ((100, -3, 10, 0.9004), (46, -3, 10, 0.9505), (88, 0, 3, 0.9505)):
        expected = expected_max_sharpe(0.5 / 250, trials)
        assert probabilistic_sharpe(daily, expected, 1250, skew, kurtosis) == pytest.approx(right, abs=1.5e-4)


def test_the_expected_maximum_is_that_of_simulated_trials() -> None:
    """Of N standard normal values, on average over many draws; the formula is an approximation for many trials."""
    rng = np.random.default_rng(1)
    for trials in (10, 100, 1000):
        simulated = rng.normal(size=(4000, trials)).max(axis=1).mean()
        assert expected_max_sharpe(1.0, trials) == pytest.approx(simulated, rel=0.03)


def test_deflated_sharpe_of_returns() -> None:
    """The best trial is evaluated with its own moments and number of returns; all trials count."""
    rng = np.random.default_rng(2)
    frame = table(rng.normal(size=(500, 6)) + np.array([0, 0, 0.05, 0, 0.1, 0]))
    frame.iloc[:100, 4] = np.nan
    made = deflated_sharpe(frame)
    sharpes = frame.mean() / frame.std()
    values = frame["v4"].dropna()
    assert (made.name, made.trials, made.observations) == ("v4", 6, 400)
    assert made.sharpe == pytest.approx(sharpes["v4"])
    expected = expected_max_sharpe(float(sharpes.var()), 6)
    z = (values - values.mean()) / values.std(ddof=0)
    right = probabilistic_sharpe(sharpes["v4"], expected, 400, float((z**3).mean()), float((z**4).mean()))
    assert made.probability == pytest.approx(right)


def test_more_trials_deflate_more() -> None:
    """More trials deflate more with the same variance; a Sharpe ratio equal to the expected maximum has probability one
    half."""
    values = [expected_max_sharpe(0.01, n) for n in range(2, 200)]
    assert values == sorted(values)
    assert probabilistic_sharpe(0.1, 0.1, 100) == 0.5


@pytest.mark.parametrize("trials", [0, 1, True, 1.5, 2.5])
def test_the_maximum_of_one_trial_is_not_defined(trials: int) -> None:
    """The maximum of one trial has no defined value."""
    with pytest.raises(ConfigError, match="at least 2"):
        expected_max_sharpe(0.1, trials)


@pytest.mark.parametrize("variance", [-0.5, -1e-300, math.nan, math.inf])
def test_a_variance_is_a_number_that_is_not_negative(variance: float) -> None:
    """Without variance, the expected maximum is 0."""
    with pytest.raises(ConfigError, match="a variance must be at least 0"):
        expected_max_sharpe(variance, 5)
    assert expected_max_sharpe(0.0, 5) == 0.0


def test_returns_are_normal_unless_their_moments_are_given() -> None:
    """0.1 x sqrt(100) / sqrt(1 + 0.1^2 / 2) = 0.9975, where the normal distribution function is 0.8407."""
    assert probabilistic_sharpe(0.1, 0.0, 101) == pytest.approx(0.84074, abs=1e-5)
    assert probabilistic_sharpe(0.1, 0.0, 101, 0.0, 3.0) == probabilistic_sharpe(0.1, 0.0, 101)


def test_two_returns_are_enough_for_a_probability() -> None:
    """0.1 x sqrt(1) / sqrt(1 + 0.1^2 / 2) = 0.09975, where the normal distribution function is 0.53973."""
    assert probabilistic_sharpe(0.1, 0.0, 2) == pytest.approx(0.53973, abs=1e-5)


@pytest.mark.parametrize(("skew", "right"), [(0.5, 0.999989), (1.0, math.nan), (1.5, math.nan)])
def test_moments_that_no_returns_have(skew: float, right: float) -> None:
    """With a kurtosis of 1, the root in the formula is that of 1 - skew x 1: of 0.5, of 0 and of -0.5.

    3 / sqrt(0.5) = 4.2426, where the normal distribution function is 0.999989.
    """
    assert probabilistic_sharpe(1.0, 0.0, 10, skew, 1.0) == pytest.approx(right, abs=1e-6, nan_ok=True)


def test_deflated_sharpe_has_no_unit() -> None:
    """Returns in percent and as numbers have the same one."""
    values = np.random.default_rng(10).normal(size=(100, 4)) + 0.1
    percent, number = deflated_sharpe(table(values)), deflated_sharpe(table(values / 100))
    assert number.sharpe == pytest.approx(percent.sharpe)
    assert number.probability == pytest.approx(percent.probability)


def test_trials_whose_returns_are_unknown_count() -> None:
    """However, there are never fewer trials than those with a Sharpe ratio."""
    frame = table(np.random.default_rng(11).normal(size=(100, 4)))
    variance = float((frame.mean() / frame.std()).var())
    for given_trials, counted in ((None, 4), (3, 4), (4, 4), (50, 50)):
        made = deflated_sharpe(frame, given_trials)
        assert (made.trials, made.expected_max) == (counted, pytest.approx(expected_max_sharpe(variance, counted)))


def test_a_sharpe_ratio_needs_three_different_returns() -> None:
    """A variant with two returns does not count as a trial; one with three does."""
    frame = table(np.random.default_rng(4).normal(size=(10, 3)))
    frame.iloc[2:, 2] = np.nan
    assert deflated_sharpe(frame).trials == 2
    frame.iloc[2, 2] = 0.5
    assert deflated_sharpe(frame).trials == 3


def test_two_observations_in_each_group_are_enough() -> None:
    values = np.random.default_rng(4).normal(size=(32, 3))
    assert backtest_overfitting(table(values), 16).observations == 32
    assert backtest_overfitting(table(values[:4]), 2).groups == 2
    assert backtest_overfitting(table(np.tile(values, (2, 1))), 20).groups == 20


def test_one_variant_or_equal_returns_have_no_deflated_sharpe() -> None:
    """The error says why."""
    rng = np.random.default_rng(3)
    with pytest.raises(DataError, match="there is 1"):
        deflated_sharpe(table(rng.normal(size=(50, 1))))
    with pytest.raises(DataError, match="there is 1"):
        deflated_sharpe(table(np.column_stack([rng.normal(size=50), np.full(50, 0.1)])))
    with pytest.raises(DataError, match="there are 0"):
        deflated_sharpe(table(np.full((50, 2), np.nan)))
    assert math.isnan(probabilistic_sharpe(math.nan, 0, 10))
    assert math.isnan(probabilistic_sharpe(0.1, 0, 1))
    same = np.repeat(rng.normal(size=(50, 1)), 2, axis=1)
    assert deflated_sharpe(table(same)).expected_max == 0


# -- probability of overfitting ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([2, 4, 6, 8]), st.integers(0, 9))
def test_pbo_is_that_of_brute_force(seed: int, trials: int, groups: int, more: int) -> None:
    """The probability is that of brute force where the groups are of unequal size, too."""
    values = np.random.default_rng(seed).normal(size=(groups * 5 + more, trials)) * 1e-3 + 1e-4
    made = backtest_overfitting(table(values), groups)
    ranks = np.array(brute_force(values, groups))
    np.testing.assert_allclose(made.logits, np.log(ranks / (1 - ranks)), rtol=1e-9, atol=1e-9)
    assert made.probability == pytest.approx((ranks < 0.5).mean() + (ranks == 0.5).mean() / 2)


def test_pbo_of_noise_is_one_half_on_average() -> None:
    """Choosing among trials without skill is no better than chance, for odd and even numbers of trials."""
    for trials in (2, 5, 20):
        rng = np.random.default_rng(trials)
        found = [backtest_overfitting(table(rng.normal(size=(160, trials))), 8).probability for _ in range(150)]
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_pbo_of_one_dominant_trial_is_zero() -> None:
    """The dominant trial is the best in every half."""
    values = np.random.default_rng(5).normal(size=(320, 10))
    values[:, 3] += 1.0
    assert backtest_overfitting(table(values)).probability == 0.0


def test_pbo_of_a_trial_that_is_good_in_one_half_only_is_high() -> None:
    """Each trial is good in one group of days and bad in the others: the best of one half fails in the other."""
    values = np.random.default_rng(6).normal(size=(160, 8)) * 0.1
    for i in range(8):
        values[i * 20 : i * 20 + 20, i] += 1.0
    assert backtest_overfitting(table(values), 8).probability > 0.9


def test_equal_trials_share_ranks() -> None:
    """Copies of one trial are all at the median: the probability is one half, whatever the number of copies."""
    one = np.random.default_rng(7).normal(size=(64, 1))
    for copies in (2, 3):
        assert backtest_overfitting(table(np.repeat(one, copies, axis=1)), 8).probability == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-12, 1e-3, 1e6]))
def test_pbo_depends_neither_on_the_unit_nor_on_the_order_of_trials(seed: int, unit: float) -> None:
    """A Sharpe ratio has no unit."""
    values = np.random.default_rng(seed).normal(size=(64, 5))
    right = backtest_overfitting(table(values), 8).probability
    assert backtest_overfitting(table(values * unit), 8).probability == right
    assert backtest_overfitting(table(values[:, ::-1]), 8).probability == right


def test_rows_with_a_missing_value_are_left_out() -> None:
    """NaN and infinite values; too few rows that are left are an error, not a number."""
    values = np.random.default_rng(8).normal(size=(100, 3))
    holes = values.copy()
    holes[::10, 1] = np.nan
    holes[5, 2] = np.inf
    kept = np.delete(values, [*range(0, 100, 10), 5], axis=0)
    assert backtest_overfitting(table(holes), 8).probability == backtest_overfitting(table(kept), 8).probability
    with pytest.raises(DataError, match=r"at least 32 observations .* there are 31"):
        backtest_overfitting(table(values[:31]))
    with pytest.raises(DataError, match="there is 1"):
        backtest_overfitting(table(values[:, :1]))


@pytest.mark.parametrize("groups", [3, 0, -2, 22, True, False, 4.0, "4", None])
def test_the_number_of_groups_is_even(groups: Any) -> None:
    """The number of groups is an integer from 2 to 20."""
    values = np.random.default_rng(12).normal(size=(100, 3))
    with pytest.raises(ConfigError, match=f"groups.*must be an even number from 2 to 20, found {groups!r}"):
        backtest_overfitting(table(values), groups)


@pytest.mark.parametrize("constant", [0.0, 0.1, -0.1])
def test_the_sharpe_ratio_of_equal_returns_is_zero(constant: float) -> None:
    """The other trial has 0.35 in the first half and -0.35 in the second, so the best of each half is the worst in the
    other."""
    values = np.column_stack([[1.5, -0.5, -1.5, 0.5], [constant] * 4])
    made = backtest_overfitting(table(values), 2)
    assert made.probability == 1.0
    np.testing.assert_allclose(made.logits, -math.log(2))


def test_the_sharpe_ratio_of_returns_that_are_equal_in_each_half_is_zero() -> None:
    """As above, also where rounding errors add up: over 1000 returns of 0.1, and 1000 of 0.3."""
    values = np.column_stack([np.repeat([1.5, -0.5, -1.5, 0.5], 500), np.repeat([0.1, 0.3], 1000)])
    assert backtest_overfitting(table(values), 2).probability == 1.0


def test_agrees_with_purgedcv() -> None:
    """An independent implementation of both papers: 'make splits' installs it."""
    purgedcv = pytest.importorskip("purgedcv", reason="not installed: make splits")
    values = np.random.default_rng(9).normal(size=(200, 6)) * 0.01
    made, theirs = backtest_overfitting(table(values), 10), purgedcv.probability_of_backtest_overfitting(values.T, 10)
    assert made.probability == pytest.approx(theirs.pbo)
    # Their divisions begin with the half that is out of the sample; the set of divisions is the same.
    np.testing.assert_allclose(np.sort(made.logits), np.sort(theirs.logits), rtol=1e-9, atol=1e-9)
