"""Information coefficients, long-short returns and quantiles against pandas, day by day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ArtifactNotFound
from rollforge.record import SigAnaRecord
from rollforge.record.analysis import calc_ic, calc_long_short_return, quantile_returns
from rollforge.track.base import get_experiment, open_tracker


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


CASES = st.tuples(st.integers(0, 99), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.booleans())


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_ic_is_pandas_correlation_of_each_day(case: tuple[int, int, int, bool, bool]) -> None:
    """Pearson and Spearman, with ties, gaps and days that are too short."""
    pred, label = series(*case)
    both = pd.DataFrame({"pred": pred, "label": label})
    ic, ric = calc_ic(pred, label)
    with np.errstate(all="ignore"):
        for day, rows in both.groupby(level="datetime"):
            valid = rows.dropna()
            flat = valid.nunique().min() < 2 if len(valid) else True
            for ours, method in ((ic, "pearson"), (ric, "spearman")):
                if len(valid) < 2 or flat:
                    assert np.isnan(ours[day])
                else:
                    expected = valid["pred"].corr(valid["label"], method=method)
                    np.testing.assert_allclose(ours[day], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(5, 30))
def test_long_short_takes_the_ends_of_each_day(seed: int, days: int, names: int) -> None:
    """The mean of the best fifth less that of the worst, halved; and the mean of all."""
    pred, label = series(seed, days, names, ties=False, gaps=False)
    long_short, average = calc_long_short_return(pred, label)
    both = pd.DataFrame({"pred": pred, "label": label})
    for day, rows in both.groupby(level="datetime"):
        n = int(len(rows) * 0.2)
        best, worst = rows.nlargest(n, "pred")["label"].mean(), rows.nsmallest(n, "pred")["label"].mean()
        np.testing.assert_allclose(long_short[day], (best - worst) / 2)
        np.testing.assert_allclose(average[day], rows["label"].mean())


def test_quantiles_share_a_day_out() -> None:
    """Five groups of the same size, the highest scores in the last."""
    index = pd.MultiIndex.from_product(
        [[pd.Timestamp("2020-01-01")], list("abcdefghij")], names=["datetime", "instrument"]
    )
    returns = quantile_returns(pd.Series(range(10), index), pd.Series(range(10), index).astype(float))
    assert returns.iloc[0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_the_record_keeps_curves_and_logs_figures(tmp_path: Path) -> None:
    """IC, ICIR, Rank IC, Rank ICIR, and on request long-short; without a prediction it says what is missing."""
    experiment = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="mine")
    recorder = experiment.create_recorder()
    with pytest.raises(ArtifactNotFound, match=r"pred\.pkl"):
        SigAnaRecord(recorder).generate()
    pred, label = series(1, 20, 30, ties=False, gaps=True)
    recorder.save_objects(**{"pred.pkl": pred.to_frame("score"), "label.pkl": label.to_frame("LABEL0")})
    SigAnaRecord(recorder, ana_long_short=True).generate()
    ic, _ = calc_ic(pred, label)
    metrics = recorder.list_metrics()
    np.testing.assert_allclose([metrics["IC"], metrics["ICIR"]], [ic.mean(), ic.mean() / ic.std()])
    assert {"Rank IC", "Rank ICIR", "Long-Short Ann Return", "Long-Avg Ann Sharpe"} <= set(metrics)
    pd.testing.assert_series_equal(recorder.load_object("sig_analysis/ic.pkl"), ic, check_names=False, check_freq=False)
    assert SigAnaRecord(recorder, skip_existing=True).generate() is None
