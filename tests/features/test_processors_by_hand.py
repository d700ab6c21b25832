"""Each processor and its options on a few values, with results computed by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError, DataNotFound
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
    RobustZScoreNorm,
    TanhProcess,
    TimeRangeFlt,
    ZScoreNorm,
)
from rollforge.features.processor_base import Adapted, Processor, days_needed, get_group_columns, learned_by, restore
from rollforge.session import Session, using

COLUMNS = [("feature", "x"), ("feature", "y"), ("label", "LABEL0")]


def rows(*days: list[list[float]], dtype: Any = np.float64) -> pd.DataFrame:
    """Return rows of instruments A, B, … for each day, each with the values of x, y and LABEL0."""
    index = [
        (day, code)
        for day, values in zip(pd.bdate_range("2024-01-01", periods=len(days)), days, strict=True)
        for code in list("ABCDEFGH")[: len(values)]
    ]
    table = np.array([row for values in days for row in values], dtype)
    return pd.DataFrame(
        table,
        index=pd.MultiIndex.from_tuples(index, names=["datetime", "instrument"]),
        columns=pd.MultiIndex.from_tuples(COLUMNS),
    )


NAN, INF = np.nan, np.inf
TWO_DAYS = rows([[1, 10, 0.1], [3, NAN, 0.3]], [[5, 30, 0.5], [INF, 40, NAN]])


def x_of(processor: Processor, df: pd.DataFrame, *, fit: bool = True) -> list[float]:
    if fit:
        processor.fit(df)
    return [float(v) for v in processor.apply(df)[("feature", "x")]]


# -- which columns and rows --------------------------------------------------------------------------------------------


def test_groups_of_columns() -> None:
    """A processor can have one, several, or all; the error for an unknown one lists the existing groups."""
    assert list(get_group_columns(TWO_DAYS, "feature")) == COLUMNS[:2]
    assert list(get_group_columns(TWO_DAYS, ["label", "feature"])) == COLUMNS
    assert list(get_group_columns(TWO_DAYS, None)) == COLUMNS
    with pytest.raises(DataError, match=r"'lable' is not a group.*Known groups: feature, label\."):
        get_group_columns(TWO_DAYS, ["feature", "lable"])


def test_columns_are_dropped_and_kept_by_name() -> None:
    """DropCol drops them in every group; FilterCol keeps the listed columns of its group."""
    assert list(DropCol(["x", "LABEL0"])(TWO_DAYS).columns) == COLUMNS[1:2]
    assert list(DropCol()(TWO_DAYS).columns) == COLUMNS
    flat = TWO_DAYS.droplevel(0, axis=1)
    assert list(DropCol(["x", "LABEL0"])(flat).columns) == ["y"]
    assert list(FilterCol("feature", ["y"])(TWO_DAYS).columns) == COLUMNS[1:]
    assert list(FilterCol(["feature", "label"], ["y"])(TWO_DAYS).columns) == COLUMNS[1:2]
    assert list(FilterCol()(TWO_DAYS).columns) == COLUMNS[2:]


def test_rows_are_dropped_by_their_missing_values() -> None:
    """Of any group, of the features, of the label; nothing is copied if no row is dropped."""
    assert len(DropnaProcessor()(TWO_DAYS)) == 2
    assert len(DropnaProcessor("feature")(TWO_DAYS)) == 2
    assert len(DropnaLabel()(TWO_DAYS)) == 3
    whole = TWO_DAYS.iloc[:1]
    assert DropnaProcessor()(whole) is whole
    assert DropnaLabel().is_for_infer() is False
    assert DropnaProcessor().is_for_infer() is True


def test_properties_of_processors() -> None:
    """The table shows the groups of each processor, whether later days matter, whether it compares instruments, and
    what it learns."""
    fit = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-02"}
    any_range = [
        DropnaProcessor(), DropCol(), FilterCol(), TanhProcess(), ProcessInf(), Fillna(), MinMaxNorm(**fit), CSRankNorm(),
        CSZFillna(), HashStockFormat(), ConfigSectionProcessor(),
    ]  # fmt: skip
    assert all(p.any_range for p in any_range)
    assert not Processor.any_range
    across = [p for p in any_range if p.across_instruments]
    assert [type(p) for p in across] == [CSRankNorm, ConfigSectionProcessor]
    assert [type(p) for p in any_range if p.readonly()] == [DropnaProcessor, DropCol, FilterCol, HashStockFormat]
    assert MinMaxNorm(**fit).learned == {"shift", "scale"}
    assert Fillna("label").groups() == ["label"]
    assert Fillna(["a", "b"]).groups() == ["a", "b"]
    assert Fillna().groups() is TanhProcess().groups() is None
    with pytest.raises(NotImplementedError, match=r"Processor must implement __call__\(\)"):
        Processor()(TWO_DAYS)


class Smoothed(Fillna):
    """A user's processor that reads three earlier days."""

    earlier_days = 3


class Undeclared(Fillna):
    """A user's processor that does not declare how many earlier days it reads."""


class LearnedElsewhere(Processor):
    """A user's processor that learns something, but does not declare what."""

    earlier_days = 1

    def fit(self, df: pd.DataFrame) -> None:
        """Learn the number of rows."""
        self.rows = len(df)


def test_the_days_that_new_days_depend_on() -> None:
    """None for the processors of this package, those that a user's declares, or all if it does not, or if what was
    learned is from days that have changed."""
    fit = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-04"}
    ours: list[Processor] = [
        DropnaProcessor(), DropnaLabel(), DropCol(), FilterCol(), TanhProcess(), ProcessInf(), Fillna(), MinMaxNorm(**fit),
        ZScoreNorm(**fit), RobustZScoreNorm(**fit), CSRankNorm(), CSZScoreNorm(), CSZFillna(), HashStockFormat(),
        ConfigSectionProcessor(),
    ]  # fmt: skip
    fifth, fourth = np.datetime64("2024-01-05"), np.datetime64("2024-01-04")
    for processor in ours:
        assert days_needed([processor], True) == 0
        assert days_needed([processor], fifth) == 0
        fitted = isinstance(processor, (MinMaxNorm, ZScoreNorm, RobustZScoreNorm))
        assert days_needed([processor], fourth) == (None if fitted else 0)
    assert days_needed(ours, True) == days_needed(ours, fifth) == days_needed([], fifth) == 0
    assert days_needed([*ours, Smoothed(), Fillna(), Smoothed()], fifth) == 6
    assert days_needed([Smoothed(), Undeclared()], fifth) is None
    assert days_needed([Smoothed(), Undeclared()], True) is None
    assert days_needed([Adapted(Configured())], True) is None
    assert days_needed([LearnedElsewhere()], fifth) is None
    assert days_needed([LearnedElsewhere()], True) == 1


def test_what_was_learned_is_kept_exactly() -> None:
    """As plain data, from which an equal processor gives the same values without being fitted."""
    fit = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-02"}
    chain: list[Processor] = [Fillna(), ZScoreNorm(**fit), CSRankNorm(), MinMaxNorm(**fit, fields_group="feature")]
    df = rows([[1, 10, 0.1], [3, 20, 0.3]], [[5, 30, 0.5], [7, 40, 0.1]])
    assert learned_by(chain) is None  # nothing yet
    assert learned_by([Fillna(), CSRankNorm()]) == [{}, {}]
    for processor in chain:
        processor.fit(df)
    learned = learned_by(chain)
    assert learned is not None
    assert [sorted(values) for values in learned] == [[], ["scale", "shift"], [], ["scale", "shift"]]
    assert learned[3] == {"scale": [6.0, 30.0], "shift": [1.0, 10.0]}
    again = [Fillna(), ZScoreNorm(**fit), CSRankNorm(), MinMaxNorm(**fit, fields_group="feature")]
    restore(again, learned)
    for processor, other in zip(chain, again, strict=True):
        pd.testing.assert_frame_equal(processor.apply(df), other.apply(df))
    restore(again, None)
    assert learned_by(again) == learned
    own = LearnedElsewhere()
    own.fit(df)
    assert learned_by([Fillna(), own]) is None


# -- values ------------------------------------------------------------------------------------------------------------


def test_infinite_values_become_the_mean_of_the_day() -> None:
    """The mean of the finite values; missing values are kept, and a frame without infinite values is returned
    unchanged.
    """
    df = rows([[1, INF, 0], [3, 4, NAN], [-INF, 8, 0]], [[INF, 1, 0], [2, 1, INF], [4, 1, 0]])
    out = ProcessInf().apply(df)
    assert out[("feature", "x")].tolist() == [1, 3, 2, 3, 2, 4]
    assert out[("feature", "y")].tolist() == [6, 4, 8, 1, 1, 1]
    np.testing.assert_array_equal(out[("label", "LABEL0")], [0, NAN, 0, 0, 0, 0])
    finite = rows([[1, 2, 3]])
    assert ProcessInf().changed(finite) is finite
    unnamed = df.rename_axis(index=["day", "code"])
    with pytest.raises(DataError, match="the level datetime, found 'day', 'code'"):
        ProcessInf().apply(unnamed)


def test_tanh_of_all_but_labels() -> None:
    """``tanh(x - 1)``, so that 1 becomes 0."""
    out = TanhProcess().apply(rows([[1, 2, 5]]))
    np.testing.assert_allclose(out.to_numpy(), [[0, np.tanh(1), 5]])


def test_missing_values_are_filled() -> None:
    """Missing values are filled with 0 or another number, in one group or in all; infinite values are kept."""
    assert x_of(Fillna(), rows([[NAN, 1, 1], [INF, 1, 1]])) == [0, INF]
    out = Fillna("feature", 7).apply(rows([[NAN, NAN, NAN]]))
    np.testing.assert_array_equal(out.to_numpy(), [[7, 7, NAN]])
    whole = pd.DataFrame({("feature", "x"): [1, 2], ("feature", "y"): [1.0, NAN]})
    np.testing.assert_array_equal(Fillna(fill_value=3).apply(whole).to_numpy(), [[1, 1], [2, 3]])


def test_missing_values_are_filled_with_the_mean_of_the_day() -> None:
    """Infinite values too; a column without any value on a day stays missing."""
    out = CSZFillna("feature").apply(rows([[1, NAN, NAN], [NAN, NAN, 1], [5, NAN, 1]], [[INF, 2, 1], [7, 4, 1]]))
    np.testing.assert_array_equal(out[("feature", "x")], [1, 3, 5, 7, 7])
    np.testing.assert_array_equal(out[("feature", "y")], [NAN, NAN, NAN, 2, 4])
    np.testing.assert_array_equal(out[("label", "LABEL0")], [NAN, 1, 1, 1, 1])


FIT = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-02"}
LEARNED = rows([[1, 5, 0]], [[2, 5, 0]], [[9, 6, 0]])  # the third day is after the fit window


def test_scales_are_learned_in_the_fit_window() -> None:
    """Minimum and maximum, mean and population deviation of the first two days; a constant column is unchanged."""
    assert x_of(MinMaxNorm(**FIT), LEARNED) == [0, 1, 8]
    assert x_of(ZScoreNorm(**FIT), LEARNED) == [-1, 1, 15]  # mean 1.5, deviation 0.5
    for kind in (MinMaxNorm, ZScoreNorm):
        processor = kind(**FIT)
        processor.fit(LEARNED)
        assert processor.apply(LEARNED)[("feature", "y")].tolist() == [5, 5, 6]


def test_the_robust_scale_is_the_median_deviation() -> None:
    """The values 0, 1, 2, 4 and 10 have median 2 and deviations 2, 1, 0, 2 and 8, so MAD 2; they are clipped at 3
    unless that is turned off."""
    df = rows(*[[[v, 1, 0]] for v in (0, 1, 2, 4, 10)])
    fit = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-05"}
    unit = 2 * 1.4826
    np.testing.assert_allclose(
        x_of(RobustZScoreNorm(**fit, clip_outlier=False), df), np.array([-2, -1, 0, 2, 8]) / unit
    )
    wide = rows(*[[[v, 1, 0]] for v in (0, 1, 2, 4, 100)], [[-100, 1, 0]])
    np.testing.assert_allclose(x_of(RobustZScoreNorm(**fit), wide), [-2 / unit, -1 / unit, 0, 2 / unit, 3, -3])
    y = RobustZScoreNorm(**fit)
    y.fit(wide)
    assert y.apply(wide)[("feature", "y")].tolist() == [0] * 6
    constant = rows([[1, 1, 0]], [[1, 1, 0]], [[1, 1, 0]], [[4, 1, 0]], [[-4, 1, 0]])
    assert x_of(RobustZScoreNorm(**fit), constant) == [0, 0, 0, 3, -3]
    assert x_of(RobustZScoreNorm(**fit, clip_outlier=False), constant) == [0, 0, 0, INF, -INF]


def test_missing_values_are_ignored_when_fitting() -> None:
    """Missing values stay missing; a column without values becomes missing."""
    df = rows([[1, NAN, 0]], [[NAN, NAN, 0]], [[3, 1, 0]])
    window = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-03"}
    np.testing.assert_array_equal(x_of(ZScoreNorm(**window), df), [-1, NAN, 1])
    processor = ZScoreNorm(**FIT)
    processor.fit(df)
    assert processor.apply(df)[("feature", "y")].isna().all()


def test_a_fit_window_is_required_and_must_have_rows() -> None:
    """Both ends of a fit window are included, and an error in one is reported at once."""
    for missing in ({"fit_start_time": "2024-01-01"}, {"fit_end_time": "2024-01-02"}, {}):
        with pytest.raises(ConfigError, match="needs fit_start_time and fit_end_time"):
            ZScoreNorm(**missing)
    with pytest.raises(ConfigError, match="fit_end_time"):
        ZScoreNorm("2024-01-01", "2024-13-01")
    late = ZScoreNorm("2024-01-06", "2024-01-07")
    with pytest.raises(
        DataError, match="no rows from 2024-01-06 to 2024-01-07; the data run from 2024-01-01 to 2024-01-03"
    ):
        late.fit(LEARNED)
    with pytest.raises(DataError, match="ZScoreNorm is not fitted yet"):
        late.apply(LEARNED)
    assert x_of(MinMaxNorm("2024-01-02", "2024-01-03"), LEARNED) == [-1 / 7, 0, 1]


def test_a_day_is_compared_by_deviation_rank_or_median() -> None:
    """The values 1, 2 and 6 have mean 3 and the root of 7 as sample deviation, ranks in thirds, median 2 and MAD 1."""
    df = rows([[1, 4, 0], [2, 4, 0], [6, 4, 1]])
    np.testing.assert_allclose(x_of(CSZScoreNorm("feature"), df), np.array([-2, -1, 3]) / np.sqrt(7))
    assert CSZScoreNorm("feature").apply(df)[("feature", "y")].isna().all()
    np.testing.assert_allclose(x_of(CSRankNorm("feature"), df), np.array([1 / 3 - 0.5, 2 / 3 - 0.5, 0.5]) * 3.46)
    np.testing.assert_allclose(x_of(CSZScoreNorm(method="robust"), df), [-1 / 1.4826, 0, 4 / 1.4826])
    far = rows([[0, 4, 0], [1, 4, 0], [2, 4, 0], [90, 5, 1], [-90, 4, 1]])
    np.testing.assert_allclose(x_of(CSZScoreNorm(method="robust"), far), [-1 / 1.4826, 0, 1 / 1.4826, 3, -3])
    assert CSZScoreNorm(method="robust").apply(far)[("feature", "y")].tolist() == [0, 0, 0, 3, 0]
    assert CSZScoreNorm("feature").apply(df)[("label", "LABEL0")].tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match="'zscore' or 'robust', found 'rank'"):
        CSZScoreNorm(method="rank")  # type: ignore[arg-type]


def sections(name: str, values: list[float], **options: Any) -> list[float]:
    index = pd.MultiIndex.from_product([[pd.Timestamp("2024-01-01")], list("ABCDEFGH")[: len(values)]])
    df = pd.DataFrame({("feature", name): values}, index=index.set_names(["datetime", "instrument"]))
    return [float(v) for v in ConfigSectionProcessor(**options)(df)[("feature", name)]]


@pytest.mark.parametrize(
    ("name", "even"),
    [
        ("KLEN", lambda x: x**0.25), ("KLOW", lambda x: x**0.25), ("KUP", lambda x: x**0.25), ("KMID", lambda x: x),
        ("HIGH1", lambda x: x), ("LOW3", lambda x: x), ("VSUMD20", lambda x: x), ("STD5", np.log), ("VOLUME0", np.log),
        ("HIGH0", lambda x: np.sqrt(x - 1)), ("CORR5", np.exp), ("WVMA5", np.log1p),
        ("RSQR5", lambda x: x),
    ],
)  # fmt: skip
def test_features_are_transformed_before_they_are_standardised(name: str, even: Any) -> None:
    """By median and MAD of the day, after the transformation for their name."""
    x = np.array([2.0, 2.2, 3.0, 3.4, 2.6])
    made = even(x)
    off = made - np.median(made)
    assert np.abs(off).max() < 3 * np.median(np.abs(off)) * 1.4826  # no outlier, which would be compressed
    np.testing.assert_allclose(sections(name, list(x)), off / (np.median(np.abs(off)) * 1.4826), rtol=1e-6)


def test_low_prices_are_transformed_from_above() -> None:
    """``sqrt(1 - x)`` of MIN and LOW0, which are below 1."""
    x = np.array([0.1, 0.4, 0.75, 0.9, 0.96])
    off = np.sqrt(1 - x) - np.sqrt(0.25)
    for name in ("MIN5", "LOW0"):
        np.testing.assert_allclose(sections(name, list(x)), off / (np.median(np.abs(off)) * 1.4826), rtol=1e-6)


def test_outliers_of_sections() -> None:
    """-9 to 9 in units of the MAD: compressed to 3.5, clipped at 3, or unchanged; missing values become the center."""
    unit = 1.4826
    x = [-9 * unit, -1, 0, 1, 4 * unit, 9 * unit, -1]
    near = 1 / unit
    np.testing.assert_allclose(sections("ROC5", x), [-3.5, -near, 0, near, 3 + 0.5 / 6, 3.5, -near], rtol=1e-6)
    clipped = sections("ROC5", x, clip_feature_outlier=True, shrink_feature_outlier=False)
    np.testing.assert_allclose(clipped, [-3, -near, 0, near, 3, 3, -near], rtol=1e-6)
    left = sections("ROC5", x, shrink_feature_outlier=False)
    np.testing.assert_allclose(left, [-9, -near, 0, near, 4, 9, -near], rtol=1e-6)


def test_missing_values_of_sections() -> None:
    """Become 0 in features and labels, unless that is turned off; labels are clipped on request."""
    unit = 1.4826
    x = [-1, 0, 1, NAN]
    np.testing.assert_allclose(sections("ROC5", x), [-1 / unit, 0, 1 / unit, 0], atol=1e-6)
    np.testing.assert_allclose(sections("ROC5", x, fillna_feature=False), [-1 / unit, 0, 1 / unit, NAN], atol=1e-6)
    np.testing.assert_allclose(sections("LABEL0", [1, 2, 3, NAN]), [-1, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(sections("LABEL0", [1, 2, 3, NAN], fillna_label=False), [-1, 0, 1, NAN], atol=1e-9)
    np.testing.assert_allclose(sections("RSQR5", [NAN, 1, 2, 3]), np.array([-1.5, -0.5, 0.5, 1.5]) / unit, rtol=1e-6)
    far = [0.0] * 7 + [100.0]
    assert max(sections("LABEL0", far)) < 3
    many = pd.DataFrame(
        {("label", "LABEL0"): [0.0] * 99 + [1.0]},
        index=pd.MultiIndex.from_product([[pd.Timestamp("2024-01-01")], range(100)], names=["datetime", "instrument"]),
    )
    assert ConfigSectionProcessor()(many).iloc[-1, 0] == pytest.approx(9.9)
    assert ConfigSectionProcessor(clip_label_outlier=True)(many).iloc[-1, 0] == 3
    assert ConfigSectionProcessor(clip_label_outlier=True)(-many).iloc[-1, 0] == -3


# -- processors of one instrument, and user-defined ones ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (None, None, True),
        ("2022-01-05", None, True),
        ("2022-01-04", None, False),
        (None, "2022-01-12", True),
        (None, "2022-01-13", False),
        ("2022-01-05", "2022-01-12", True),
        ("2022-01-04", "2022-01-12", False),
    ],
)
def test_an_instrument_is_kept_if_its_data_last(small_market: Path, start: Any, end: Any, kept: bool) -> None:
    """From the fifth to the twelfth of January, which covers all days between."""
    days = pd.bdate_range("2022-01-05", "2022-01-12")
    df = pd.DataFrame({"x": np.arange(float(len(days)))}, index=days)
    with using(Session(provider_uri=str(small_market))):
        assert len(TimeRangeFlt(start, end)(df, "A")) == (len(days) if kept else 0)
        assert TimeRangeFlt(start, end)(df.head(0), "A").empty


def test_the_days_of_a_filter_are_aligned_to_the_calendar(small_market: Path) -> None:
    """A start on a weekend means the following Monday, an end the preceding Friday; a range without any day is an
    error.
    """
    days = pd.bdate_range("2022-01-10", "2022-01-14")
    df = pd.DataFrame({"x": np.arange(5.0)}, index=days)
    with using(Session(provider_uri=str(small_market))):
        assert len(TimeRangeFlt("2022-01-08", "2022-01-16")(df, "A")) == 5
        lines = (small_market / "calendars" / "day.txt").read_text().split()
        text = f"no trading day from 2022-01-08 to 2022-01-09: the calendar has {lines[0]} to {lines[-1]}."
        with pytest.raises(DataError, match=re.escape(text)):
            TimeRangeFlt("2022-01-08", "2022-01-09")(df, "A")
    with using(Session(provider_uri=None)), pytest.raises(DataNotFound, match="No data folder"):
        TimeRangeFlt("2022-01-08", None)(df, "A")


class Configured:
    """A third-party processor with its own ``config``."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}

    def config(self, **kwargs: Any) -> None:
        """Store the settings."""
        self.taken.update(kwargs)

    def fit(self, df: pd.DataFrame) -> str:
        """Record the call."""
        return "fitted"

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return one row."""
        return df.head(1)

    def is_for_infer(self) -> int:
        """Return a value that is not a bool."""
        return 0


def test_own_methods_of_a_processor_without_a_base_class() -> None:
    """The processor's ``config``, its ``is_for_infer`` and its attributes are used; the error for a missing attribute
    has its own name."""
    own = Configured()
    adapted = Adapted(own)
    adapted.config(fit_end_time="2024-01-02")
    assert own.taken == adapted.taken == {"fit_end_time": "2024-01-02"}
    assert adapted.fit(TWO_DAYS) == "fitted"
    assert len(adapted(TWO_DAYS)) == 1
    assert adapted.is_for_infer() is False
    for name in ("missing", "__missing__"):
        with pytest.raises(AttributeError, match=name):
            getattr(adapted, name)
