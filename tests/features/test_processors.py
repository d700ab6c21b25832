"""Processors: infinite values count as missing, comparisons within a day need several values, and Qlib's processors
exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import rollforge
from rollforge.errors import DataError
from rollforge.features.alpha import Alpha158
from rollforge.features.processor import (
    ConfigSectionProcessor,
    CSRankNorm,
    CSZFillna,
    CSZScoreNorm,
    DropCol,
    DropnaLabel,
    DropnaProcessor,
    Fillna,
    FilterCol,
    HashStockFormat,
    MinMaxNorm,
    ProcessInf,
    Processor,
    RobustZScoreNorm,
    TanhProcess,
    ZScoreNorm,
)

FIT = {"fit_start_time": "2021-03-01", "fit_end_time": "2021-03-31"}
COMPARING: list[Callable[[], Processor]] = [
    lambda: CSZScoreNorm("feature"),
    lambda: CSZScoreNorm("feature", method="robust"),
    lambda: CSRankNorm("feature"),
]
LEARNING: list[Callable[[], Processor]] = [lambda: ZScoreNorm(**FIT), lambda: MinMaxNorm(**FIT)]


def frame(values: Any, dtype: Any = np.float32) -> pd.DataFrame:
    """Return a feature of some instruments on some days; `values` has the shape (days, instruments)."""
    table = np.asarray(values, dtype)
    days = pd.bdate_range("2021-03-01", periods=len(table))
    index = pd.MultiIndex.from_product([days, list("ABCDEFGH")[: table.shape[1]]], names=["datetime", "instrument"])
    return pd.DataFrame({("feature", "x"): table.ravel()}, index=index)


def after(processor: Processor, df: pd.DataFrame) -> np.ndarray:
    """Return the result as (days, instruments), or as a column if rows were dropped."""
    before = df.copy()
    processor.fit(df)
    out = processor.apply(df)
    pd.testing.assert_frame_equal(df, before)  # the argument is unchanged
    called = processor(before)
    pd.testing.assert_frame_equal(called, out)
    if len(out) == len(df):
        pd.testing.assert_frame_equal(before, out)  # a direct call modifies its argument
    values = out.iloc[:, 0].to_numpy()
    return values.reshape(df.index.levshape) if len(out) == len(df) else values


def test_an_infinite_value_does_not_affect_its_day() -> None:
    """Labels inf, 0.01, 0.03: the two finite ones are standardised and ranked, the infinite one is missing."""
    day = frame([[np.inf, 0.01, 0.03]])
    root = np.sqrt(0.5)
    np.testing.assert_allclose(after(CSZScoreNorm(), day), [[np.nan, -root, root]], rtol=1e-6)
    np.testing.assert_allclose(after(CSRankNorm(), day), [[np.nan, 0.0, 1.73]], rtol=1e-6)
    np.testing.assert_allclose(after(CSZFillna(), day), [[0.02, 0.01, 0.03]], rtol=1e-6)
    np.testing.assert_array_equal(after(DropnaProcessor(), day), np.float32([0.01, 0.03]))


def test_an_infinite_value_does_not_affect_its_column() -> None:
    """Mean, deviation, minimum and maximum are those of the finite values in the fit window."""
    column = frame([[1.0], [3.0], [-np.inf], [5.0], [np.inf]])
    spread = np.std([1.0, 3.0, 5.0])
    expected = np.array([[-2.0], [0.0], [np.nan], [2.0], [np.nan]]) / spread
    np.testing.assert_allclose(after(ZScoreNorm(**FIT), column), expected, rtol=1e-6)
    np.testing.assert_allclose(after(MinMaxNorm(**FIT), column), [[0.0], [0.5], [np.nan], [1.0], [np.nan]], rtol=1e-6)
    # As in Qlib, the median of all five is 3, and infinite values are clipped.
    assert after(RobustZScoreNorm(**FIT), column)[[2, 4], 0].tolist() == [-3.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("make", [*COMPARING, *LEARNING, lambda: CSZFillna("feature")])
def test_infinite_values_are_missing_values(make: Callable[[], Processor], data: st.DataObject) -> None:
    """The result is the same as with NaN in their place, whatever their sign and position."""
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 5)))
    values = np.array(data.draw(st.lists(st.integers(-50, 50), min_size=size[0] * size[1], max_size=size[0] * size[1])))
    where = np.array(data.draw(st.lists(st.booleans(), min_size=values.size, max_size=values.size)))
    sign = np.array(data.draw(st.lists(st.sampled_from([-1, 1]), min_size=values.size, max_size=values.size)))
    infinite = np.where(where, sign * np.inf, values / 7).reshape(size)
    missing = np.where(where, np.nan, values / 7).reshape(size)
    np.testing.assert_array_equal(after(make(), frame(infinite)), after(make(), frame(missing)))


@pytest.mark.parametrize("make", COMPARING)
def test_a_single_value_of_a_day_becomes_missing(make: Callable[[], Processor]) -> None:
    """A single value of a day is missing after the division. It may be the only instrument of the day or the only one
    with a value; other days are unchanged."""
    both = after(make(), frame([[1.0, 2.0, 4.0], [1.0, np.nan, np.nan], [np.nan, np.inf, 3.0]]))
    alone = after(make(), frame([[1.0, 2.0, 4.0]]))
    np.testing.assert_array_equal(both[0], alone[0])
    assert np.isnan(both[1:]).all()
    assert np.isnan(after(make(), frame([[1.0], [2.0], [3.0]]))).all()


def test_rows_without_a_finite_label_are_dropped() -> None:
    """With missing and infinite values in any of several labels; a text column is only checked for missing values."""
    df = frame([[1.0, np.nan, np.inf, 2.0]]).rename(columns={"feature": "label"}, level=0)
    df[("label", "text")] = pd.array(["a", "b", "c", None], dtype=object)
    assert list(DropnaLabel()(df).index.get_level_values("instrument")) == ["A"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("make", [*COMPARING, *LEARNING, lambda: RobustZScoreNorm(**FIT), Fillna])
def test_numbers_keep_their_precision(make: Callable[[], Processor], dtype: Any) -> None:
    """float32 stays float32, other types become float64, and nothing is rounded to integers."""
    df = frame([[1, 2, 4, 7], [3, 1, 5, 9]], dtype)
    processor = make()
    processor.fit(df)
    out = processor(df).iloc[:, 0]
    assert out.dtype == (
        np.float32 if dtype == np.float32 else np.int64 if make is Fillna and dtype == np.int64 else np.float64
    )
    expected = make()
    exact = frame([[1, 2, 4, 7], [3, 1, 5, 9]], np.float64)
    expected.fit(exact)
    np.testing.assert_allclose(out, expected(exact).iloc[:, 0], rtol=1e-5)


def test_missing_values_are_filled_beside_text() -> None:
    """Only in the named group."""
    df = frame([[1.0, np.nan]])
    df[("about", "text")] = ["a", None]
    out = Fillna("feature", fill_value=7)(df)
    assert out[("feature", "x")].tolist() == [1.0, 7.0]
    assert out[("about", "text")].isna().tolist() == [False, True]


def test_readonly_says_whether_a_processor_modifies_its_argument() -> None:
    """Those that drop rows or columns do not; a user's own may, and handlers keep their data in any case."""

    class Doubling(Fillna):
        def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
            df["feature", "x"] *= 2
            return super().__call__(df)

    assert DropnaLabel().readonly()
    assert not Fillna().readonly()
    assert not Doubling().readonly()
    df = frame([[1.0, np.nan]])
    assert Doubling().apply(df).iloc[:, 0].tolist() == [2.0, 0.0]
    assert np.isnan(df.iloc[1, 0])
    assert df.iloc[0, 0] == 1.0


def test_hash_stock_format_does_nothing() -> None:
    """``HashStockFormat`` changes nothing, in data without groups either."""
    df = frame([[1.0, np.nan]])
    pd.testing.assert_frame_equal(HashStockFormat()(df), df)
    assert HashStockFormat().groups() == []


def test_the_fit_window_is_changed_by_config() -> None:
    """The fit window is changed for processors with a fit window; other arguments are ignored."""
    processor = ZScoreNorm(**FIT)
    processor.config(fit_end_time="2021-04-30", other=1)
    assert (processor.fit_start_time, processor.fit_end_time) == ("2021-03-01", "2021-04-30")
    assert not hasattr(processor, "other")


# -- ConfigSectionProcessor ------------------------------------------------------------------------------------------------


def section(names: list[str], values: Any) -> pd.DataFrame:
    """Return columns of one day; `values` has the shape (instruments, columns)."""
    table = np.asarray(values, np.float64)
    index = pd.MultiIndex.from_product(
        [[pd.Timestamp("2021-03-01")], list("ABCDEFGH")[: len(table)]], names=["datetime", "instrument"]
    )
    columns = pd.MultiIndex.from_tuples([("label" if n.startswith("LABEL") else "feature", n) for n in names])
    return pd.DataFrame(table, index=index, columns=columns)


def test_sections_of_alpha158_by_hand() -> None:
    """A label by mean and deviation; a feature by median and MAD; STD after its logarithm."""
    x = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    out = ConfigSectionProcessor()(section(["LABEL0", "ROC5", "STD5", "MYOWN"], np.column_stack([x, x, np.exp(x), x])))
    np.testing.assert_allclose(out[("label", "LABEL0")], (x - x.mean()) / x.std(ddof=1))
    middle = (x - 3) / (2 * 1.4826)
    np.testing.assert_allclose(out[("feature", "ROC5")], middle)
    np.testing.assert_allclose(out[("feature", "STD5")], middle)
    np.testing.assert_array_equal(out[("feature", "MYOWN")], x)


def test_sections_compress_outliers() -> None:
    """The largest value above 3 becomes 3.5, the smallest below -3 becomes -3.5; or they are clipped, or kept."""
    x = np.array([-30.0, -1.0, 0.0, 1.0, 5.0, 40.0, -2.0])
    scaled = (x - 0) / (2 * 1.4826)
    df = section(["ROC5"], x[:, None])
    drawn = ConfigSectionProcessor()(df).iloc[:, 0].to_numpy()
    assert drawn.max() == pytest.approx(3.5)
    assert drawn.min() == pytest.approx(-3.5)
    np.testing.assert_allclose(drawn[1:5], scaled[1:5])
    clipped = ConfigSectionProcessor(clip_feature_outlier=True)(df).iloc[:, 0]
    np.testing.assert_allclose(clipped, np.clip(scaled, -3, 3))
    left = ConfigSectionProcessor(shrink_feature_outlier=False)(df).iloc[:, 0]
    np.testing.assert_allclose(left, scaled)


def test_sections_fill_missing_values_with_the_center() -> None:
    """Missing values are filled unless they are to stay missing; infinite values count as missing."""
    df = section(["LABEL0", "ROC5"], [[1.0, 1.0], [2.0, 2.0], [np.nan, np.inf], [4.0, 9.0]])
    filled = ConfigSectionProcessor()(df)
    assert filled.iloc[2].tolist() == [0.0, 0.0]
    kept = ConfigSectionProcessor(fillna_feature=False, fillna_label=False)(df)
    assert kept.iloc[2].isna().all()
    np.testing.assert_array_equal(filled.iloc[[0, 1, 3]], kept.iloc[[0, 1, 3]])


def test_sections_apply_to_every_feature_of_alpha158(small_market: Path) -> None:
    """Except shares of a window and positions in it, as in Qlib; values have the size of standardised ones."""
    rollforge.init(small_market)
    arguments = {"instruments": "all", "start_time": "2023-03-01", "end_time": "2023-03-31"}
    raw = Alpha158(**arguments).fetch()
    made = Alpha158(**arguments, infer_processors=["ConfigSectionProcessor"], learn_processors=[]).fetch()
    assert made.notna().all().all()
    assert made.abs().max().max() < 6
    alike = [c for c in raw if np.allclose(made[c], raw[c].fillna(0), atol=1e-3)]
    assert {c.rstrip("0123456789") for c in alike} == {"RANK", "IMAX", "IMIN", "IMXD", "CNTP", "CNTN", "CNTD"}
    assert len(alike) == 35


def test_an_unknown_group_is_refused() -> None:
    """The error lists the existing groups."""
    with pytest.raises(DataError, match=r"'lable' is not a group.*Known groups: feature"):
        CSRankNorm("lable")(frame([[1.0, 2.0]]))


def columns() -> pd.DataFrame:
    """Return two features and a label."""
    table = frame([[0.0, 1.0], [2.0, 3.0]])
    table[("feature", "y")] = table[("feature", "x")] + 1
    table[("label", "LABEL0")] = np.float32(5)
    return table


def test_columns_are_dropped_or_kept_by_their_names() -> None:
    """Columns are dropped or kept in every group, or in one group only; the argument is unchanged."""
    table = columns()
    before = table.copy()
    assert DropCol(["y", "LABEL0", "nothing"])(table).columns.tolist() == [("feature", "x")]
    assert DropCol()(table).columns.tolist() == before.columns.tolist()
    assert FilterCol(col_list=["y"])(table).columns.tolist() == [("feature", "y"), ("label", "LABEL0")]
    assert FilterCol("label", ["x"])(table).columns.tolist() == [("feature", "x"), ("feature", "y")]
    with pytest.raises(DataError, match="Known groups: feature, label"):
        FilterCol("features", ["x"])(table)
    pd.testing.assert_frame_equal(table, before)


def test_tanh_does_not_change_labels() -> None:
    """tanh(x - 1) of the features."""
    out = TanhProcess().apply(columns())
    np.testing.assert_allclose(out[("feature", "x")], np.tanh([-1.0, 0.0, 1.0, 2.0]), rtol=1e-6)
    np.testing.assert_allclose(out[("feature", "y")], np.tanh([0.0, 1.0, 2.0, 3.0]), rtol=1e-6)
    assert (out[("label", "LABEL0")] == 5).all()


def test_an_infinite_value_becomes_the_mean_of_its_day() -> None:
    """The mean of the day's finite values; without any it becomes missing. Missing values stay missing."""
    inf, nan = np.inf, np.nan
    out = after(ProcessInf(), frame([[1, inf, 3], [inf, -inf, inf], [nan, -inf, 4], [1, 2, 3]]))
    np.testing.assert_array_equal(out, [[1, 2, 3], [nan, nan, nan], [nan, 4, 4], [1, 2, 3]])
