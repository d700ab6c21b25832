"""Information coefficients, long-short and quantile returns, and risk figures, compared with scipy, pandas and brute
force.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from definitions import ANALYSIS, SIGNAL, task_definition
from rollforge.errors import ArtifactNotFound, ConfigError, DataError
from rollforge.features.alpha import Alpha158
from rollforge.generate.label import LABEL_TAG, Label, labels_to_text
from rollforge.models.base import Model
from rollforge.record import HFSignalRecord, SigAnaRecord
from rollforge.record.analysis import (
    calc_ic,
    calc_long_short_prec,
    calc_long_short_return,
    mean_to_std,
    newey_west_t,
    quantile_returns,
    recorded_labels,
    risk_analysis,
)
from rollforge.record.base import RESULTS
from rollforge.record.persistence import bootstrap_interval
from rollforge.run.execute import task_train
from rollforge.session import Session
from rollforge.track.base import Recorder, get_experiment, open_tracker


def series(seed: int, days: int, names: int, ties: bool, gaps: bool) -> tuple[pd.Series, pd.Series]:
    random = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=days), [f"I{i}" for i in range(names)]], names=["datetime", "instrument"]
    )
    pred = random.standard_normal(len(index))
    label = 0.1 * pred + random.standard_normal(len(index))
    if ties:
        pred = np.round(pred)
    if gaps:
        pred[random.random(len(index)) < 0.2] = np.nan
        label[random.random(len(index)) < 0.2] = np.nan
    return pd.Series(pred, index), pd.Series(label, index)


def one_day(scores: list[float], labels: list[float]) -> tuple[pd.Series, pd.Series]:
    index = pd.MultiIndex.from_product(
        [[pd.Timestamp("2020-01-01")], [f"I{i:02}" for i in range(len(scores))]], names=["datetime", "instrument"]
    )
    return pd.Series(scores, index, dtype=float), pd.Series(labels, index, dtype=float)


CASES = st.tuples(st.integers(0, 99), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.booleans())


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_ic_is_the_correlation_of_each_day(case: tuple[int, int, int, bool, bool]) -> None:
    """Pearson and Spearman as in scipy, with ties, gaps and days with too few instruments."""
    pred, label = series(*case)
    ic, ric = calc_ic(pred, label)
    assert list(ic.index) == sorted(set(pred.index.get_level_values("datetime")))
    for day, rows in pd.DataFrame({"pred": pred, "label": label}).groupby(level="datetime"):
        valid = rows.dropna()
        if len(valid) < 2 or valid.nunique().min() < 2:
            assert np.isnan(ic[day])
            assert np.isnan(ric[day])
        else:
            expected = scipy.stats.pearsonr(valid["pred"], valid["label"]).statistic
            np.testing.assert_allclose(ic[day], expected, rtol=1e-9, atol=1e-12)
            expected = scipy.stats.spearmanr(valid["pred"], valid["label"]).statistic
            np.testing.assert_allclose(ric[day], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_ic_does_not_depend_on_the_order_of_the_labels_rows(case: tuple[int, int, int, bool, bool]) -> None:
    """A label with the rows of the prediction, which need not be joined to it, gives the same bits as one in another order."""
    pred, label = series(*case)
    other_order = label.iloc[np.random.default_rng(case[0]).permutation(len(label))]
    for values, expected in zip(calc_ic(pred, label), calc_ic(pred, other_order), strict=True):
        pd.testing.assert_series_equal(values, expected, check_exact=True)


@pytest.mark.parametrize("names", [2, 12])
def test_ic_of_a_row_that_occurs_twice_is_an_error(names: int) -> None:
    """The same holds if the prediction and the label repeat the same row, so that their indexes are equal."""
    pred, label = one_day([float(i) for i in range(names)], [float(i % 3) for i in range(names)])
    again = [0, *range(names)]
    with pytest.raises(DataError, match="The prediction contains the row"):
        calc_ic(pred.iloc[again], label.iloc[again])


def brute_long_short(rows: pd.DataFrame, side: int) -> float:
    """Return the long-short return of a day, averaged over all orders of rows with equal scores."""
    return float(np.mean([(x[len(x) - side :].mean() - x[:side].mean()) / 2 for x in all_orders(rows)]))


def all_orders(rows: pd.DataFrame) -> list[Any]:
    """Yield the labels sorted by score, in every order that equal scores permit."""
    scores, labels = rows["pred"].to_numpy(), rows["label"].to_numpy()
    orders = [np.array(order) for order in itertools.permutations(range(len(rows)))]
    return [labels[order[np.argsort(scores[order], kind="stable")]] for order in orders]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=5, max_size=6), st.integers(0, 99))
def test_tied_scores_share_the_border(scores: list[int], seed: int) -> None:
    """Long-short and quantile returns of a day with ties are the means over all orders of the tied rows."""
    pred, label = one_day([float(s) for s in scores], np.random.default_rng(seed).normal(size=len(scores)).tolist())
    rows = pd.DataFrame({"pred": pred, "label": label})
    long_short, average = calc_long_short_return(pred, label, quantile=0.4)
    quantiles = quantile_returns(pred, label, 5).iloc[0]
    assert average.iloc[0] == pytest.approx(label.mean())
    if len(set(scores)) == 1:
        assert np.isnan(long_short.iloc[0])
        assert quantiles.isna().all()
        return
    assert long_short.iloc[0] == pytest.approx(brute_long_short(rows, int(len(rows) * 0.4)))
    places = [[p for p in range(len(rows)) if p * 5 // len(rows) == k] for k in range(5)]
    expected = np.mean([[x[p].mean() for p in places] for x in all_orders(rows)], axis=0)
    np.testing.assert_allclose(quantiles, expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(CASES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case: tuple[int, int, int, bool, bool], random: Any) -> None:
    """Every figure is equal bit for bit, even if the label's rows or levels are in another order than the
    prediction's."""
    pred, label = series(*case)
    order = list(range(len(pred)))
    random.shuffle(order)
    shuffled = label.iloc[order[::-1]].reorder_levels(["instrument", "datetime"])
    for figure in (calc_ic, calc_long_short_return):
        for here, there in zip(figure(pred, label), figure(pred.iloc[order], shuffled), strict=True):
            pd.testing.assert_series_equal(here, there, check_exact=True, check_freq=False)
    here, there = quantile_returns(pred, label), quantile_returns(pred.iloc[order], shuffled)
    pd.testing.assert_frame_equal(here, there, check_exact=True)


@settings(max_examples=30, deadline=None)
@given(CASES, st.integers(-9, 9), st.integers(-9, 9))
def test_the_unit_does_not_matter(case: tuple[int, int, int, bool, bool], up: int, down: int) -> None:
    """Multiplying scores and labels by any power of ten keeps IC and Rank IC, and scales returns."""
    pred, label = series(*case)
    scaled = pred * 10.0**up, label * 10.0**down
    for here, there in zip(calc_ic(pred, label), calc_ic(*scaled), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-12)
    here, there = calc_long_short_return(pred, label)[0], calc_long_short_return(*scaled)[0]
    np.testing.assert_allclose(there / 10.0**down, here, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        quantile_returns(*scaled) / 10.0**down, quantile_returns(pred, label), rtol=1e-9, atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(5, 30))
def test_long_short_takes_the_ends_of_each_day(seed: int, days: int, names: int) -> None:
    """Half the difference between the means of the best and the worst fifth; and the mean of all."""
    pred, label = series(seed, days, names, ties=False, gaps=False)
    long_short, average = calc_long_short_return(pred, label)
    both = pd.DataFrame({"pred": pred, "label": label})
    for day, rows in both.groupby(level="datetime"):
        n = int(len(rows) * 0.2)
        best, worst = rows.nlargest(n, "pred")["label"].mean(), rows.nsmallest(n, "pred")["label"].mean()
        np.testing.assert_allclose(long_short[day], (best - worst) / 2)
        np.testing.assert_allclose(average[day], rows["label"].mean())


def test_rows_without_a_score_are_left_out() -> None:
    """Rows without a score count neither for the size of a side nor for the mean of all."""
    pred, label = one_day([5, 4, 3, 2, 1], [5, 4, 3, 2, 1])
    more, wide = one_day([np.nan] * 15, [99.0] * 15)
    wide.index = wide.index.set_levels([f"J{i:02}" for i in range(15)], level="instrument")
    for extra in (pd.concat([label, wide]), label):
        long_short, average = calc_long_short_return(pred, extra)
        assert (long_short.iloc[0], average.iloc[0]) == (2.0, 3.0)
    more.index = wide.index
    assert calc_long_short_return(pd.concat([pred, more]), pd.concat([label, wide]))[0].iloc[0] == 2.0


def test_a_missing_label_leaves_its_side_smaller() -> None:
    """The score determines the side, and the mean is over rows with a label, unless only complete rows are used."""
    pred, label = one_day([4, 3, 2, 1], [np.nan, 3, 2, 1])
    assert calc_long_short_return(pred, label, quantile=0.5)[0].iloc[0] == (3 - 1.5) / 2
    assert calc_long_short_return(pred, label, quantile=0.5, dropna=True)[0].iloc[0] == (3 - 1) / 2
    assert calc_long_short_return(pred, label, quantile=0.25)[0].isna().all()


def test_a_share_is_not_lost_to_rounding() -> None:
    """0.29 of a hundred instruments are 29, although the floating-point product is slightly less."""
    pred, label = one_day([float(i) for i in range(100)], [float(i >= 71) for i in range(100)])
    assert calc_long_short_return(pred, label, quantile=0.29)[0].iloc[0] == 0.5
    assert calc_long_short_return(pred, label, quantile=0.3)[0].iloc[0] == pytest.approx(29 / 60)


def test_quantiles_divide_a_day() -> None:
    """Into five groups of the same size, with the highest scores in the last."""
    pred, label = one_day([float(i) for i in range(10)], [float(i) for i in range(10)])
    assert quantile_returns(pred, label).iloc[0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]


@pytest.mark.parametrize("scores", [[0.1] * 7, [1.0, 2.0, 3.0, 4.0], [1.0], [0.1 * 3] * 3 + [0.3] * 4])
def test_some_days_have_no_quantiles(scores: list[float]) -> None:
    """Days with a single distinct score (up to rounding), and days with fewer instruments than quantiles."""
    made = quantile_returns(*one_day(scores, [float(i) for i in range(len(scores))]))
    assert list(made.columns) == [1, 2, 3, 4, 5]
    assert made.isna().all(axis=None)


@pytest.mark.parametrize("names", [3, 7, 10, 101])
def test_a_constant_score_has_no_correlation(names: int) -> None:
    """However its mean is rounded; the same holds for a constant label."""
    for value in (0.1, 1e-9 / 3, 1e9 / 3):
        constant, varying = one_day([value] * names, [float(i) for i in range(names)])
        for pair in ((constant, varying), (varying, constant)):
            assert all(figure.isna().all() for figure in calc_ic(*pair))


def test_days_with_two_instruments_or_one() -> None:
    """Two pairs have a perfect correlation, one has none; both have a mean, neither has fifths."""
    for scores, expected in (([1, 2], [1.0, 1.0]), ([1], [np.nan, np.nan])):
        pred, label = one_day(scores, [0.1 * s for s in scores])
        np.testing.assert_allclose([f.iloc[0] for f in calc_ic(pred, label)], expected)
        long_short, average = calc_long_short_return(pred, label)
        assert np.isnan(long_short.iloc[0])
        assert average.iloc[0] == pytest.approx(np.mean(scores) / 10)


def test_infinite_values_are_missing() -> None:
    """A label after a price of zero, or an infinite score, affects no figure."""
    pred, label = series(3, 4, 20, ties=True, gaps=False)
    bad_pred, bad_label = pred.copy(), label.copy()
    bad_pred.iloc[3], bad_label.iloc[7] = np.inf, -np.inf
    gap_pred, gap_label = bad_pred.replace(np.inf, np.nan), bad_label.replace(-np.inf, np.nan)
    for figure in (calc_ic, calc_long_short_return):
        for here, there in zip(figure(bad_pred, bad_label), figure(gap_pred, gap_label), strict=True):
            pd.testing.assert_series_equal(here, there)
    pd.testing.assert_frame_equal(quantile_returns(bad_pred, bad_label), quantile_returns(gap_pred, gap_label))


def test_empty_input_gives_empty_results() -> None:
    """The results are empty for empty input, and for input without a common row."""
    pred, label = series(1, 2, 6, ties=False, gaps=False)
    assert all(len(f) == 0 for f in calc_ic(pred[:0], label[:0]))
    assert all(len(f) == 0 for f in calc_long_short_return(pred[:0], label[:0]))
    assert len(quantile_returns(pred[:0], label)) == 0
    assert all(f.isna().all() for f in calc_ic(pred, label * np.nan))


def test_invalid_indexes_are_refused() -> None:
    """A duplicate row would count twice; a row without a day cannot be assigned."""
    pred, label = series(1, 2, 6, ties=False, gaps=False)
    with pytest.raises(DataError, match=r"label contains the row \(2020-01-01 00:00:00, I0\) more than once"):
        calc_ic(pred, pd.concat([label, label[:1]]))
    with pytest.raises(DataError, match="prediction needs an index with the levels datetime and instrument"):
        quantile_returns(pred.droplevel("datetime"), label)
    with pytest.raises(DataError, match=r"label must be one column, found \['a', 'b'\]"):
        calc_ic(pred, pd.DataFrame({"a": label, "b": label}))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calc_long_short_return(pred, label, quantile=20)
    for n in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="n: must be a whole number, at least 1"):
            quantile_returns(pred, label, n)


IN_OTHER_FORM = {
    "frame": lambda s: s.to_frame("score"),
    "names": lambda s: s.rename_axis(["date", "code"]),
    "no names": lambda s: s.rename_axis([None, None]),
    "swapped": lambda s: s.swaplevel(),
    "zone": lambda s: s.tz_localize("Asia/Shanghai", level=0),
    "texts": lambda s: s.rename(index=lambda day: day.strftime("%Y/%m/%d"), level=0),
}


@pytest.mark.parametrize("form", IN_OTHER_FORM)
def test_rows_in_any_form_are_paired_by_day_and_instrument(form: str) -> None:
    """A prediction with a time zone, days as strings, or other names gives the same figures: no day is lost."""
    pred, label = series(1, 3, 6, ties=False, gaps=True)
    other = IN_OTHER_FORM[form](pred)
    for figures in (calc_ic, calc_long_short_return):
        for found, expected in zip(figures(other, label), figures(pred, label), strict=True):
            pd.testing.assert_series_equal(found, expected, check_freq=False, check_index_type=False)
    pd.testing.assert_frame_equal(quantile_returns(label, other), quantile_returns(label, pred), check_freq=False)


def test_prediction_and_label_without_a_common_row_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Codes in two notations give no figures, and a warning shows both."""
    pred, label = series(1, 2, 6, ties=False, gaps=False)
    assert calc_ic(pred.rename(index=str.lower, level=1), label)[0].isna().all()
    assert "no row in common" in caplog.text
    assert "'i0'" in caplog.text
    assert "'I0'" in caplog.text


def test_returns_in_any_form(caplog: pytest.LogCaptureFixture) -> None:
    """Lists, arrays and frames of one column are accepted; infinite returns are missing, strings are an error."""
    returns = [0.01, -0.02, 0.03]
    expected = risk_analysis(pd.Series(returns))
    for form in (returns, np.array(returns), pd.DataFrame({"r": returns}), pd.Series(returns, dtype=object)):
        pd.testing.assert_frame_equal(risk_analysis(form), expected)
    pd.testing.assert_frame_equal(risk_analysis([*returns, np.inf]), expected)
    assert "1 of 4 returns are infinite" in caplog.text
    with pytest.raises(DataError, match="must be numbers"):
        risk_analysis(pd.Series(["a"]))
    with pytest.raises(DataError, match="one column"):
        risk_analysis(pd.DataFrame({"a": returns, "b": returns}))


# -- series of figures ---------------------------------------------------------------------------------------------------


def newey_west_by_hand(values: list[float], lag: int) -> float:
    """Hamilton (1994), equation 10.5.15, written out."""
    n, mean = len(values), sum(values) / len(values)
    gamma = [sum((values[t] - mean) * (values[t - j] - mean) for t in range(j, n)) / n for j in range(lag + 1)]
    long_run = gamma[0] + 2 * sum((1 - j / (lag + 1)) * gamma[j] for j in range(1, lag + 1))
    return float(mean / (long_run / n) ** 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(2, 20), st.integers(25, 80))
def test_t_of_overlapping_values_is_that_of_newey_and_west(seed: int, lag: int, n: int) -> None:
    """With Bartlett weights up to the label days, without missing days."""
    values = np.random.default_rng(seed).normal(0.3, 1, n + lag)
    overlapping = np.convolve(values, np.ones(lag) / lag, "valid")[:n].tolist()
    assert newey_west_t(pd.Series(overlapping), lag) == pytest.approx(newey_west_by_hand(overlapping, lag))
    with_gap = pd.Series([*overlapping[:9], np.nan, *overlapping[9:]])
    assert newey_west_t(with_gap, lag) == pytest.approx(newey_west_by_hand(overlapping, lag))


def test_t_of_newey_and_west_has_known_values() -> None:
    """Those of statsmodels 0.14.6, OLS on a constant with cov_type="HAC" and these maxlags."""
    values = pd.Series([0.02, 0.05, -0.01, 0.03, 0.04, 0.06, 0.01, -0.02, 0.03, 0.02, 0.05, 0.04])
    assert newey_west_t(values, 2) == pytest.approx(STATSMODELS[2], rel=1e-12)
    assert newey_west_t(values, 5) == pytest.approx(STATSMODELS[5], rel=1e-12)


STATSMODELS = {2: 4.61169082958651, 5: 7.829672368709332}


def test_values_over_one_day_do_not_overlap() -> None:
    """The t statistic of values over one day is the ordinary one."""
    values = pd.Series([0.02, 0.05, -0.01, 0.03])
    assert newey_west_t(values, 1) == pytest.approx(scipy.stats.ttest_1samp(values, 0).statistic)


def test_too_few_or_equal_values_have_no_t() -> None:
    """Five days are not enough for labels over five days; equal values have no standard deviation."""
    values = pd.Series([0.02, 0.05, -0.01, 0.03, 0.04])
    assert np.isnan(newey_west_t(values, 5))
    assert np.isfinite(newey_west_t(values, 4))
    assert np.isnan(newey_west_t(pd.Series([0.1] * 9), 2))
    assert np.isnan(newey_west_t(pd.Series([], dtype=float), 1))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e9])
def test_equal_returns_have_no_ratio(scale: float) -> None:
    """Equal returns have no ratio, even if they differ by rounding: three times 0.1, and the returns of prices that
    grow by 0.1 % a day."""
    growth = pd.Series(100 * 1.001 ** np.arange(50)).pct_change().dropna()
    for equal in (pd.Series([0.1] * 3), pd.Series([-0.7] * 7), growth, pd.Series([0.0] * 5)):
        assert np.isnan(mean_to_std(equal * scale))
        assert np.isnan(risk_analysis(equal * scale).loc["information_ratio", "risk"])
    varying = pd.Series([0.01, 0.02, 0.015])
    expected = varying.mean() / varying.std()
    assert mean_to_std(varying * scale) == pytest.approx(expected)
    ratio = risk_analysis(varying * scale, N=4).loc["information_ratio", "risk"]
    assert ratio == pytest.approx(expected * 2)


@pytest.mark.parametrize(
    ("returns", "summed", "compounded"),
    [
        ([-0.5, 0.2], -0.5, -0.5),
        ([-0.1, -0.1], -0.2, -0.19),
        ([-0.1], -0.1, -0.1),
        ([np.nan, -0.5], -0.5, -0.5),
        ([-0.5, np.nan, -0.1], -0.6, -0.55),
        ([0.1, -0.5, 0.2], -0.5, -0.5),
        ([0.1, 0.2], 0.0, 0.0),
        ([-1.0, 0.5], -1.0, -1.0),
    ],
)
def test_a_drawdown_counts_from_the_first_day(returns: list[float], summed: float, compounded: float) -> None:
    """The initial capital is a peak, too."""
    for mode, expected in (("sum", summed), ("product", compounded)):
        found = risk_analysis(pd.Series(returns), mode=mode)  # type: ignore[arg-type]
        assert found.loc["max_drawdown", "risk"] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=40), st.sampled_from(["sum", "product"]))
def test_risk_figures_by_simulation(returns: list[float], mode: Any) -> None:
    """The simulation computes the capital, its peak, and the largest fall below it day by day."""
    money = peak = 0.0 if mode == "sum" else 1.0
    deepest = 0.0
    for r in returns:
        money = money + r if mode == "sum" else money * (1 + r)
        peak = max(peak, money)
        deepest = min(deepest, money - peak if mode == "sum" else money / peak - 1)
    risk = risk_analysis(pd.Series(returns), N=250, mode=mode)["risk"]
    mean = money / len(returns) if mode == "sum" else money ** (1 / len(returns)) - 1
    assert risk["max_drawdown"] == pytest.approx(deepest, abs=1e-12)
    assert risk["mean"] == pytest.approx(mean, abs=1e-12)
    assert risk["annualized_return"] == pytest.approx(mean * 250 if mode == "sum" else (1 + mean) ** 250 - 1, abs=1e-9)
    assert risk["std"] == pytest.approx(pd.Series(returns if mode == "sum" else np.log1p(returns)).std(), abs=1e-12)


def test_risk_figures_without_returns_are_missing() -> None:
    """Without returns, or with only missing ones, every figure is NaN."""
    for nothing in ([], [np.nan, np.nan]):
        for mode in ("sum", "product"):
            assert risk_analysis(pd.Series(nothing, dtype=float), mode=mode)["risk"].isna().all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("freq", "periods"),
    [("day", 238), ("1day", 238), ("2d", 119), ("week", 50), ("month", 12), ("30min", 240 * 238 / 30)],
)
def test_periods_of_frequencies(freq: str, periods: float) -> None:
    """The numbers of periods are the same as in Qlib."""
    found = risk_analysis(pd.Series([0.01, 0.02]), freq=freq)
    assert found.loc["annualized_return", "risk"] == pytest.approx(0.015 * periods)


def test_wrong_arguments_of_risk_analysis_are_named() -> None:
    """The message names frequency or mode, with the nearest valid value."""
    with pytest.raises(ConfigError, match="Did you mean 'week'"):
        risk_analysis(pd.Series([0.1]), freq="weak")
    with pytest.raises(ConfigError, match="'sum' or 'product'"):
        risk_analysis(pd.Series([0.1]), mode="mean")  # type: ignore[arg-type]


# -- the record ----------------------------------------------------------------------------------------------------------


def recorder_with(folder: Path, pred: pd.Series, label: pd.DataFrame, tracker: str = "folder") -> Recorder:
    uri = f"folder:{folder}/runs" if tracker == "folder" else f"sqlite:///{folder}/runs.db"
    experiment = get_experiment(open_tracker(uri), experiment_name="mine")
    recorder = experiment.create_recorder()
    recorder.save_objects(**{"pred.pkl": pred.to_frame("score"), "label.pkl": label})
    return recorder


def test_the_record_keeps_curves_and_logs_figures(tmp_path: Path) -> None:
    """The record has IC, ICIR, Rank IC, Rank ICIR, and optionally long-short; without a prediction the error says what
    is missing."""
    experiment = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="mine")
    with pytest.raises(ArtifactNotFound, match=r"pred\.pkl"):
        SigAnaRecord(experiment.create_recorder()).generate()
    pred, label = series(1, 20, 30, ties=False, gaps=True)
    recorder = recorder_with(tmp_path, pred, label.to_frame("LABEL0"))
    SigAnaRecord(recorder, ana_long_short=True, label_days=1).generate()
    ic, _ = calc_ic(pred, label)
    metrics = recorder.list_metrics()
    np.testing.assert_allclose([metrics["IC"], metrics["ICIR"]], [ic.mean(), ic.mean() / ic.std()])
    assert {"Rank IC", "Rank ICIR", "Long-Short Ann Return", "Long-Avg Ann Sharpe"} <= set(metrics)
    pd.testing.assert_series_equal(recorder.load_object("sig_analysis/ic.pkl"), ic, check_names=False, check_freq=False)
    assert SigAnaRecord(recorder, skip_existing=True).generate() is None


def alpha(label: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Return a task with Alpha158, as its recorder saves it."""
    given = {**({} if label is None else {"label": label}), **kwargs}
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": given}
    return {"dataset": {"class": "DatasetH", "kwargs": {"handler": handler, "segments": {}}}}


FIVE, TWENTY = "Ref($close, -6)/Ref($close, -1) - 1", "Ref($close, -20)/$close - 1"


@pytest.mark.parametrize(
    ("task", "column", "days"),
    [
        (alpha(), 0, 1),
        (alpha([FIVE]), 0, 5),
        (alpha([[FIVE, TWENTY], ["LABEL0", "LABEL1"]]), 1, 20),
        (alpha(["Mean(Ref($close, -5), 5)/$close - 1"], label_days=5), 0, 5),
    ],
    ids=["of the class", "five days", "second column", "declared"],
)
def test_long_short_figures_count_the_days_of_the_label(
    task: dict[str, Any], column: int, days: int, tmp_path: Path
) -> None:
    """The mean of returns over h days is divided by h; the Sharpe ratio is that of returns over h days, 252 / h per
    year.
    """
    pred, label = series(5, 60, 20, ties=True, gaps=True)
    labels = pd.DataFrame({"LABEL0": label, "LABEL1": label.iloc[::-1].to_numpy()}, label.index)
    recorder = recorder_with(tmp_path, pred, labels)
    recorder.save_objects(task=task)
    SigAnaRecord(recorder, ana_long_short=True, label_col=column).generate()
    metrics = recorder.list_metrics()
    for name, values in zip(
        ("Long-Short", "Long-Avg"), calc_long_short_return(pred, labels.iloc[:, column]), strict=True
    ):
        assert metrics[f"{name} Ann Return"] == pytest.approx(values.mean() / days * 252)
        assert metrics[f"{name} Ann Sharpe"] == pytest.approx(values.mean() / values.std() * (252 / days) ** 0.5)


@pytest.mark.parametrize("tracker", ["folder", "sqlite"])
def test_returns_of_unknown_label_days_are_not_annualised(
    tracker: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Returns of unknown label days are NaN, and a warning says why; IC and Rank IC exist."""
    pred, label = series(5, 10, 20, ties=False, gaps=False)
    recorder = recorder_with(tmp_path, pred, label.to_frame("LABEL0"), tracker)
    with caplog.at_level(logging.WARNING):
        SigAnaRecord(recorder, ana_long_short=True).generate()
    metrics = recorder.list_metrics()
    assert np.isnan(metrics["Long-Short Ann Return"])
    assert np.isnan(metrics["Long-Avg Ann Sharpe"])
    assert np.isfinite(metrics["IC"])
    assert "set label_days" in caplog.text


def test_the_label_saved_with_a_run_takes_precedence(tmp_path: Path) -> None:
    """A handler's class may create its label itself; the record, which had the handler, knows it."""
    pred, label = series(5, 60, 20, ties=False, gaps=False)
    recorder = recorder_with(tmp_path, pred, label.to_frame("LABEL0"))
    recorder.save_objects(task=alpha())
    recorder.set_tags(**{LABEL_TAG: labels_to_text([Label(FIVE, 5)])})
    SigAnaRecord(recorder, ana_long_short=True).generate()
    expected = calc_long_short_return(pred, label)[0].mean() / 5 * 252
    assert recorder.list_metrics()["Long-Short Ann Return"] == pytest.approx(expected)


def test_the_record_of_intraday_signals(tmp_path: Path) -> None:
    """Precision is measured against the mean of the time, and returns are not annualised; by hand for ten scores."""
    pred, label = one_day([*range(10)], [-1, -2, 0, 0, 0, 0, 0, 0, 5, -3])
    other = label.rename(index={pd.Timestamp("2020-01-01"): pd.Timestamp("2020-01-02")})
    both = pd.concat([pred, pred.set_axis(other.index)]), pd.concat([label, other.where(other != 5, 2)])
    recorder = recorder_with(tmp_path, both[0], both[1].to_frame("LABEL0"))
    HFSignalRecord(recorder, anything=1).generate()
    found = recorder.list_metrics()
    # The mean is -0.1 on the first day and -0.4 on the second, so one of the two best is above it, and both worst are below.
    assert (found["Long precision"], found["Short precision"]) == (0.5, 1.0)
    returns = [((5 - 3) / 2 + 1.5) / 2, ((2 - 3) / 2 + 1.5) / 2]
    assert found["Long-Short Average Return"] == pytest.approx(np.mean(returns))
    assert found["Long-Short Average Sharpe"] == pytest.approx(np.mean(returns) / np.std(returns, ddof=1))
    assert found["IC"] == pytest.approx(calc_ic(*both)[0].mean())
    names = HFSignalRecord(recorder).list()
    assert [len(recorder.load_object(f"hg_sig_analysis/{name}")) for name in names] == [2] * 6


def test_what_is_printed_names_days_label_and_costs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before the metrics, for programs that print what their records computed."""
    pred, label = series(5, 10, 20, ties=False, gaps=False)
    recorder = recorder_with(tmp_path, pred, label.to_frame("LABEL0"))
    recorder.save_objects(task=alpha([FIVE]))
    with caplog.at_level(logging.INFO, RESULTS):
        SigAnaRecord(recorder).generate()
        SigAnaRecord(recorder).generate(label=label.to_frame())
    own, given = (r.getMessage().splitlines()[0] for r in caplog.records if r.name == RESULTS)
    assert own == f"The signal's metrics, before costs (10 days, label {FIVE} (5 trading days)):"
    assert given == "The signal's metrics, before costs (10 days):"


def test_a_label_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error says how many there are."""
    pred, label = series(5, 3, 6, ties=False, gaps=False)
    with pytest.raises(ConfigError, match="label_col: is 1, but the label has 1 column"):
        SigAnaRecord(recorder_with(tmp_path, pred, label.to_frame("LABEL0")), label_col=1).generate()


class Ahead(Alpha158):
    """A handler with a single feature and a label that depends on its attributes."""

    days = 5

    def get_feature_config(self) -> Any:
        """Return one feature."""
        return ["$close/$open"], ["X"]

    def get_label_config(self) -> Any:
        """Return a label over `days` days."""
        return [f"Ref($close, -{self.days + 1})/Ref($close, -1) - 1"], ["LABEL0"]


class Range(Model):
    """Predicts the day's range."""

    def fit(self, dataset: Any, reweighter: Any = None) -> None:
        """Do nothing."""

    def predict(self, dataset: Any, segment: Any = "test") -> pd.Series:
        """Return the only feature."""
        column: pd.Series = dataset.prepare(segment, col_set="feature").iloc[:, 0]
        return column


def test_a_task_notes_the_label_that_its_handler_computed(small_market: Path, tmp_path: Path) -> None:
    """After real training, the label is not in the description but saved with the run, and the figures use its days."""
    handler = {"class": "Ahead", "module_path": __name__, "kwargs": {"instruments": "all", "learn_processors": []}}
    segments = {"train": ("2022-01-03", "2022-12-01"), "test": ("2023-01-03", "2023-06-30")}
    model, analysis = {"class": "Range", "module_path": __name__}, {**ANALYSIS, "kwargs": {"ana_long_short": True}}
    definition = task_definition(handler, segments, model=model, record=[SIGNAL, analysis])
    session = Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs", experiment_name="mine")
    recorder = task_train(definition, session=session)
    assert recorded_labels(recorder) == (Label("Ref($close, -6)/Ref($close, -1) - 1", 5),)
    pred, label = recorder.load_object("pred.pkl"), recorder.load_object("label.pkl")
    expected = calc_long_short_return(pred["score"], label["LABEL0"])[0]
    metrics = recorder.list_metrics()
    assert metrics["Long-Short Ann Return"] == pytest.approx(expected.mean() / 5 * 252)
    assert metrics["Long-Short Ann Sharpe"] == pytest.approx(expected.mean() / expected.std() * (252 / 5) ** 0.5)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(0, 99), st.integers(1, 6), st.integers(5, 12), st.just(False), st.booleans()), st.booleans()
)
def test_precision_is_the_part_of_each_side_whose_label_has_the_right_sign(case: Any, alpha: bool) -> None:
    """Sorting each day gives the same; missing labels count on neither side."""
    pred, label = series(*case)
    best, worst = calc_long_short_prec(pred, label, is_alpha=alpha)
    both = pd.DataFrame({"pred": pred, "label": label})
    for day, rows in both.dropna(subset=["pred"]).groupby(level="datetime"):
        mean = both.loc[day, "label"].mean() if alpha else 0.0
        truth = rows.sort_values("pred")["label"].dropna() - mean
        n = int(len(rows) * 0.2)
        ends = rows.sort_values("pred")["label"] - mean
        for found, part, sign in ((best, ends.iloc[len(rows) - n :], 1), (worst, ends.iloc[:n], -1)):
            known = part.dropna()
            expected = (sign * known > 0).mean() if len(known) else np.nan
            assert found[day] == pytest.approx(expected, nan_ok=True), truth


def test_precision_by_hand() -> None:
    """Of ten instruments, the best two fall and rise, the worst two fall; ties at a border count partly."""
    scores = list(range(10))
    labels = [-1.0, -2, 0, 0, 0, 0, 0, 0, -1, 1]
    best, worst = calc_long_short_prec(*one_day(scores, labels))
    assert (best.item(), worst.item()) == (0.5, 1.0)
    tied, _ = calc_long_short_prec(*one_day([0, 0, 0, 0, 0, 0, 0, 1, 1, 1], [0.0] * 7 + [1, 1, -1]))
    assert tied.item() == pytest.approx(2 / 3)
    same, _ = calc_long_short_prec(*one_day([1.0] * 10, labels))
    assert np.isnan(same.item())
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calc_long_short_prec(*one_day(scores, labels), quantile=0)


def test_values_of_days_are_sorted() -> None:
    """Statistics of overlapping values depend on the order of the days, and not on that of the rows."""
    days = pd.bdate_range("2021-03-01", periods=30)
    values = pd.Series(np.sin(np.arange(30.0)) + 0.3, days)
    shuffled = values.sample(frac=1, random_state=1)
    assert newey_west_t(shuffled, 3) == newey_west_t(values, 3)
    assert bootstrap_interval(shuffled, 3, samples=50) == bootstrap_interval(values, 3, samples=50)
