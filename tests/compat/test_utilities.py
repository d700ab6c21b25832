"""Qlib's small functions, checked by hand: times of day, calendars, frames, labelled numbers, files, settings."""

from __future__ import annotations

import datetime as dt
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from rollforge.build import init_instance_by_config
from rollforge.compat.qlib import clock, days, files, frames, objects, pickles, predictions
from rollforge.compat.qlib.config import C, init
from rollforge.compat.qlib.covariance import RiskModel, StructuredCovEstimator
from rollforge.compat.qlib.frequency import Freq
from rollforge.compat.qlib.index_data import MultiData, SingleData, concat, sum_by_index
from rollforge.compat.qlib.memory import H, MemCacheExpire, MemCacheLengthUnit, MemCacheSizeofUnit
from rollforge.compat.qlib.parallel import call_in_subproc, datetime_groupby_apply
from rollforge.compat.qlib.ranges import IdxTradeRange, TradeRangeByTime
from rollforge.compat.qlib.resample import resam_calendar, resam_ts_data, ts_data_first, ts_data_last
from rollforge.compat.qlib.samples import ConcatDataset, IndexSampler
from rollforge.compat.qlib.sepdf import SepDataFrame
from rollforge.compat.qlib.storage import FileCalendarStorage, FileFeatureStorage, FileInstrumentStorage
from rollforge.errors import BuildError, ConfigError, DataError, DataNotFound, DateError, UntrustedPickle
from rollforge.features import processor
from rollforge.features.handler import DataHandlerLP

DAYS = pd.bdate_range("2021-03-29", "2021-04-30")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollforge.session._default", None)
    C.reset()


@pytest.fixture
def panel() -> pd.DataFrame:
    """Return two instruments on four days, with a missing value at the end of the first."""
    index = pd.MultiIndex.from_product([["a", "b"], DAYS[:4]], names=["instrument", "datetime"])
    return pd.DataFrame({"x": [1.0, 2, 3, np.nan, 5, 6, 7, 8], "y": np.arange(8.0)}, index)


# -- times of the trading day ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "minutes", "last"), [("cn", 240, "14:59"), ("us", 390, "15:59"), ("tw", 270, "13:29")]
)
def test_a_trading_day_has_its_minutes(region: str, minutes: int, last: str) -> None:
    """The minutes of a trading day last from the open to the minute before the close, without the break; a shift moves
    all of them."""
    calendar = clock.get_min_cal(region=region)
    assert len(calendar) == minutes
    assert f"{calendar[-1]:%H:%M}" == last
    assert (
        clock.get_min_cal(1, region)[0]
        == (dt.datetime.combine(dt.date.today(), calendar[0]) - dt.timedelta(minutes=1)).time()
    )
    assert [clock.time_to_day_index(f"{t:%H:%M}", region) for t in calendar] == list(range(minutes))


@given(st.sampled_from(["cn", "us", "tw"]), st.data(), st.integers(1, 60))
def test_a_time_falls_into_the_bar_that_began_last(region: str, data: st.DataObject, minutes: int) -> None:
    """Bars of any length begin at multiples of their length in trading minutes, whatever the break."""
    calendar = clock.get_min_cal(region=region)
    place = data.draw(st.integers(0, len(calendar) - 1))
    time = clock.concat_date_time(dt.date(2021, 3, 3), calendar[place])
    expected = calendar[place - place % minutes]
    assert clock.cal_sam_minute(time, minutes, region) == clock.concat_date_time(dt.date(2021, 3, 3), expected)


def test_times_outside_trading_are_errors() -> None:
    """An error is raised for the break, the close, and an unknown region."""
    for time in ("11:30", "12:59", "15:00", "9:29"):
        with pytest.raises(DataError, match="There is no trading at"):
            clock.time_to_day_index(time, "cn")
    with pytest.raises(ConfigError, match="must be one of cn, us, tw"):
        clock.get_min_cal(region="uk")


def test_one_bar_covers_a_span_or_the_last_minute() -> None:
    """One bar covers a span shorter than a bar, the last minute before a break, and in Taiwan the last five."""
    five = pd.Timedelta("5min")

    def one(start: str, region: str) -> bool:
        begin = pd.Timestamp(f"2021-03-03 {start}")
        return clock.is_single_value(begin, begin + 2 * five, five, region)

    assert [one(t, "cn") for t in ("11:29", "14:59", "14:58", "11:30")] == [True, True, False, False]
    assert [one(t, "tw") for t in ("13:25", "13:24")] == [True, False]
    assert clock.is_single_value(pd.Timestamp("2021-03-03 10:00"), pd.Timestamp("2021-03-03 10:04"), five)
    assert clock.get_day_min_idx_range("8:30", "14:59", "10min", "cn") == (0, 23)
    for day in ("2020-01-02 ", "2020/1/2 "):  # Qlib's strategies pass the times of an order
        moments = [pd.Timestamp(f"{day}{time}") for time in ("8:30", "14:59")]
        assert clock.get_day_min_idx_range(*moments, "10min", "cn") == (0, 23)
        assert clock.get_day_min_idx_range(f"{day}8:30", f"{day}14:59", "10min", "cn") == (0, 23)
    with pytest.raises(DateError, match="start: 'soon' is not a time of day"):
        clock.get_day_min_idx_range("soon", "14:59", "10min", "cn")
    noon = pd.Timestamp("2021-03-03 12:00")
    assert clock.epsilon_change(noon, "forward") - clock.epsilon_change(noon) == pd.Timedelta("2s")
    with pytest.raises(ConfigError, match="direction"):
        clock.epsilon_change(noon, "sideways")


def test_ranges_of_a_trading_day() -> None:
    """Times of day, both included; steps have none; a daily decision accepts no range."""
    span = TradeRangeByTime("9:45", dt.time(14, 30))
    opening, closing = pd.Timestamp("2021-03-03 09:30"), pd.Timestamp("2021-03-03 15:00")
    assert [f"{t:%H:%M}" for t in span.clip_time_range(opening, closing)] == ["09:45", "14:30"]
    assert IdxTradeRange(2, 5)() == (2, 5)
    with pytest.raises(ConfigError, match="span of time"):
        IdxTradeRange(2, 5).clip_time_range(opening, closing)
    with pytest.raises(ConfigError, match="ends before"):
        TradeRangeByTime("14:30", "9:45")


# -- calendars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        ("week", ["03-29", "04-05", "04-12", "04-19", "04-26"]),
        ("2week", ["03-29", "04-12", "04-26"]),
        ("month", ["03-29", "04-01"]),
        ("10day", ["03-29", "04-12", "04-26"]),
    ],
)
def test_a_calendar_by_weeks_months_and_days(freq: str, expected: list[str]) -> None:
    """The first day of each, or of every n-th if there is a number."""
    assert [f"{d:%m-%d}" for d in resam_calendar(DAYS, "day", freq)] == expected


def test_a_week_without_its_first_days() -> None:
    """From a Thursday to the Friday of the next week the weekday increases, but the week is another one (Qlib misses it)."""
    two = pd.DatetimeIndex(["2021-04-01", "2021-04-09"])
    assert len(resam_calendar(two, "day", "week")) == 2


def test_a_calendar_of_bars() -> None:
    """Bars are only made of shorter ones."""
    minutes = [pd.Timestamp(f"2021-04-01 {t:%H:%M}") for t in clock.get_min_cal()]
    assert len(resam_calendar(minutes, "1min", "30min", "cn")) == 8
    assert list(resam_calendar([], "day", "week")) == []
    with pytest.raises(ConfigError, match="cannot be made from"):
        resam_calendar(DAYS, "day", "5min")
    with pytest.raises(ConfigError, match="contains no bars of"):
        resam_calendar(minutes, "30min", "5min")


def test_frequencies_are_compared_by_their_length() -> None:
    """A day has 24 hours, a month 30 weeks, as Qlib counts them; the longest frequency that is not too long is chosen."""
    assert Freq.get_timedelta(*Freq.parse("30min")) == pd.Timedelta("30min")
    assert [Freq.get_min_delta("day", other) for other in ("30min", "day", "2day")] == [1410, 0, -1440]
    assert Freq.get_min_delta("month", "week") == 29 * 7 * 1440
    assert Freq.get_recent_freq("day", ["5min", "30min", "day"]) == "day"
    assert Freq.get_recent_freq("60min", ["5min", Freq("30min"), "day"]) == "30min"
    assert Freq.get_recent_freq("min", ["day"]) is None


def test_values_of_a_span(panel: pd.DataFrame) -> None:
    """The values are selected by instrument, by day only, or with a function, and are empty if there are no data."""
    assert resam_ts_data(panel, DAYS[0], DAYS[1], "sum")["x"].to_dict() == {"a": 3.0, "b": 11.0}
    assert resam_ts_data(panel.swaplevel(), DAYS[0], DAYS[1], "sum")["x"].to_dict() == {"a": 3.0, "b": 11.0}
    assert resam_ts_data(panel, DAYS[2], None, ts_data_last)["x"].to_dict() == {"a": 3.0, "b": 8.0}
    alone = panel.loc["a"]["x"]
    assert resam_ts_data(alone, DAYS[0], DAYS[3], ts_data_first) == 1.0
    assert resam_ts_data(alone, DAYS[0], DAYS[3], "mean") == 2.0
    assert len(resam_ts_data(alone, DAYS[1], DAYS[2], None)) == 2
    assert resam_ts_data(panel, "2050-01-01", None) is None
    assert np.isnan(ts_data_last(pd.Series([np.nan])))


def test_days_are_shifted_in_the_calendar(small_market: Path) -> None:
    """Days are shifted from a trading day, or from the one before or after, and clipped at the ends, or an error is
    raised."""
    init(provider_uri=str(small_market))
    friday, monday = pd.Timestamp("2023-03-03"), pd.Timestamp("2023-03-06")
    assert days.get_date_by_shift(friday, 1) == days.get_next_trading_date(friday) == monday
    assert days.get_pre_trading_date(monday) == friday
    assert days.get_date_by_shift("2023-03-04", 0, align="left") == friday
    assert days.get_date_by_shift("20230304", 0, align="right") == monday
    assert days.get_date_range(friday, -1, 1) == [pd.Timestamp("2023-03-02"), friday, monday]
    assert days.get_date_range(friday, 1, 1) == [monday]
    assert days.is_tradable_date(friday)
    assert days.get_calendar_day("day")[-1] == dt.date(2023, 12, 29)
    with pytest.raises(DataNotFound, match=r"no calendar .1min. in .* Known: day"):
        days.get_calendar_day()
    assert not days.is_tradable_date("2023-03-04")
    last = days.transform_end_date()
    assert last == days.transform_end_date(-1) == days.transform_end_date("2050-01-01") == pd.Timestamp("2023-12-29")
    assert days.get_date_by_shift(last, 5) == last
    with pytest.raises(IndexError):
        days.get_date_by_shift(pd.Timestamp("2022-01-03"), -3, clip_shift=False)  # and one day too many at the end
    with pytest.raises(DateError, match="is not a trading day"):
        days.get_date_by_shift("2023-03-04", 1)
    with pytest.raises(ConfigError, match="align"):
        days.get_date_by_shift(friday, 1, align="middle")


def test_names_that_contain_days_and_instruments() -> None:
    """Days in file names; names that Windows reserves; quarters."""
    assert days.get_date_in_file_name("score_2020-01-31.csv") == "2020-01-31"
    with pytest.raises(DateError, match="no day"):
        days.get_date_in_file_name("score.csv")
    assert [days.code_to_fname(c) for c in ("CON", "com1", "SH1")] == ["_qlib_CON", "_qlib_com1", "SH1"]
    assert days.fname_to_code("_qlib_con") == "con"
    assert days.fname_to_code("_bil") == "_bil"  # of which Qlib returns nothing
    assert days.get_period_list(2019, 2021, quarterly=False) == [2019, 2020, 2021]
    assert days.get_period_offset(2000, 200103, quarterly=True) == 6


# -- frames ------------------------------------------------------------------------------------------------------------


def test_rows_by_a_level(panel: pd.DataFrame) -> None:
    """Slices, labels and lists at either level; complete labels; everything."""
    by_day = panel.swaplevel().sort_index()
    assert len(frames.fetch_df_by_index(panel, slice(DAYS[0], DAYS[1]), "datetime")) == 4
    assert len(frames.fetch_df_by_index(by_day, slice(DAYS[0], DAYS[1]), "datetime")) == 4
    assert len(frames.fetch_df_by_index(panel, ["a"], 0)) == 4
    assert frames.fetch_df_by_index(panel, slice(None), "instrument") is panel
    assert frames.fetch_df_by_index(panel, panel.index[:1], "datetime")["x"].tolist() == [1.0]
    assert frames.convert_index_format(panel).equals(by_day)
    assert frames.convert_index_format(by_day) is by_day
    unnamed = panel.rename_axis([None, None])
    assert frames.get_level_index(unnamed, "instrument") == 1
    with pytest.raises(DataError, match="no level 'day'"):
        frames.get_level_index(panel, "day")


def test_columns_by_group() -> None:
    """A single group, several, all with plain names, or unchanged."""
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("feature", "a"), ("label", "b")]))
    assert list(frames.fetch_df_by_col(frame, "label").columns) == ["b"]
    assert list(frames.fetch_df_by_col(frame, ["label"]).columns) == [("label", "b")]
    assert list(frames.fetch_df_by_col(frame, DataHandlerLP.CS_ALL).columns) == ["a", "b"]
    assert frames.fetch_df_by_col(frame, DataHandlerLP.CS_RAW) is frame


def test_scores_are_standardized() -> None:
    """Scores are standardized by mean and deviation, or by medians and clipped at three."""
    x = pd.Series([1.0, 2, 3, 4, 100])
    assert frames.zscore(x).mean() == pytest.approx(0)
    robust = frames.robust_zscore(x)
    assert robust.tolist() == pytest.approx([-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 3])
    assert frames.robust_zscore(x, zscore=True).std() == pytest.approx(1)


def test_a_prediction_in_two_parts(panel: pd.DataFrame) -> None:
    """At a number of days, at a day, or the last N days up to it."""
    for options, first, second in (
        ({"number": 1}, 2, 6),
        ({"split_date": DAYS[1]}, 4, 4),
        ({"number": 1, "split_date": DAYS[1]}, 2, 4),
    ):
        left, right = frames.split_pred(panel, **options)
        assert (len(left), len(right)) == (first, second)
    with pytest.raises(ConfigError):
        frames.split_pred(panel)


def test_lists_and_dicts() -> None:
    """Bounds by one element of tuples; duplicates and spaces removed from fields; differences of two dicts."""
    rows = [(1, 2), (3, 4), (3, 5), (7, 0)]
    assert (frames.lower_bound(rows, 3), frames.upper_bound(rows, 3)) == (1, 3)
    assert frames.remove_repeat_field(["b", "a", "b"]) == ["b", "a"]
    assert frames.remove_fields_space(["a + b", 1]) == ["a+b", "1"]
    assert frames.compare_dict_value({"a": 1}, {"a": 2}) == ['-     "a": 1', '+     "a": 2']
    assert frames.np_ffill(np.array([np.nan, 1, np.nan])).tolist()[1:] == [1.0, 1.0]


def test_a_frame_from_a_file(panel: pd.DataFrame, tmp_path: Path) -> None:
    """Files of three formats; a pickle of something else, or one that would run code, is refused."""
    panel.to_csv(tmp_path / "a.csv")
    panel.to_parquet(tmp_path / "a.parquet")
    panel.to_pickle(tmp_path / "a.pkl")
    for kind in ("csv", "parquet", "pkl"):
        assert frames.load_dataset(tmp_path / f"a.{kind}").equals(panel)
    assert frames.load_dataset(panel) is panel
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(print))
    for name, error in (("b.pkl", DataError), ("c.pkl", UntrustedPickle), ("a.txt", DataError)):
        with pytest.raises(error):
            frames.load_dataset(tmp_path / name)


def test_frames_kept_apart(panel: pd.DataFrame) -> None:
    """Frames kept apart have the rows of one, and are selected like one frame; the original frame is not modified."""
    both = SepDataFrame({"f": panel, "l": panel[["x"]].iloc[:2]}, join="f")
    assert list(both.columns) == [("f", "x"), ("f", "y"), ("l", "x")]
    assert (len(both), len(both["l"]), both["l"]["x"].count()) == (8, 8, 2)
    assert len(both.loc["a", "l"]["l"]) == 4
    assert list(both.loc(axis=1)[["l"]].columns) == [("l", "x")]
    both["f", "z"] = 1
    both["n", "new"] = panel["x"]
    assert list(both["f"].columns) == ["x", "y", "z"]
    assert list(panel.columns) == ["x", "y"]
    for name in ("f", "l", "n"):
        del both[name]
    assert "f" not in both


# -- labelled numbers --------------------------------------------------------------------------------------------------


def test_numbers_with_labels() -> None:
    """Arithmetic matches labels in any order; missing numbers stay missing, except with ``add``."""
    a = SingleData([1, 2, None, 4], list("abcd"))
    b = SingleData([5, 6, 7, 8], list("dcba"))
    assert (a + b).to_dict() == {"a": 9.0, "b": 9.0, "c": pytest.approx(np.nan, nan_ok=True), "d": 9.0}
    assert (2 * a - 1).to_dict()["b"] == 3.0
    assert a.add(SingleData([1], ["z"])).to_dict() == {"a": 1, "b": 2, "c": 0, "d": 4, "z": 1}
    assert a.loc["b":"c"].to_dict()["b"] == 2.0  # type: ignore[misc]  # labels
    assert a.loc[~a.isna()].to_dict() == {"a": 1, "b": 2, "d": 4}
    assert (a.sum(), a.count(), np.nanmean(a)) == (7.0, 3, pytest.approx(7 / 3))
    assert a.replace({1: 2, 2: 1}).to_dict()["a"] == 2.0
    assert sum_by_index([a, b], ["a", "q"]).to_dict() == {"a": 9.0, "q": 0.0}
    assert concat([a, b], axis=1).loc["d"].to_dict() == {0: 4.0, 1: 5.0}
    with pytest.raises(ValueError, match="different labels"):
        a + SingleData([1], ["z"])
    with pytest.raises(ValueError, match="broadcast"):
        SingleData(range(10), ["a", "b"])
    with pytest.raises(TypeError, match="one type"):
        SingleData([1, 2], ["a", 1])
    with pytest.raises(KeyError):
        a.loc["nothing"]


@given(st.lists(st.integers(0, 30), unique=True, max_size=12), st.lists(st.integers(0, 30), unique=True, max_size=12))
def test_add_and_reindex_equal_pandas(left: list[int], right: list[int]) -> None:
    """``add`` and ``reindex`` return the same values as in pandas."""
    a, b = (pd.Series(np.arange(1.0, len(k) + 1), k, dtype=float) for k in (left, right))
    ours = SingleData(a).add(SingleData(b)).to_series()
    theirs = a.add(b, fill_value=0).sort_index()
    assert ours.index.tolist() == theirs.index.tolist()
    assert ours.tolist() == theirs.tolist()


def test_days_are_found_in_any_precision() -> None:
    """Labels in nanoseconds, looked up in days and with pandas' types; of two equal labels the first."""
    data = SingleData([1, 2], list(pd.DatetimeIndex(["2024-06-22", "2024-06-21"]).to_numpy()))
    assert data.loc[np.datetime64("2024-06-21")] == 2
    assert data.index.index(pd.Timestamp("2024-06-22")) == 0
    assert data.to_series().loc[pd.Timestamp("2024-06-21")] == 2
    assert SingleData([1, 2], ["a", "a"]).loc["a"] == 1


def test_numbers_with_two_axes() -> None:
    """Rows, columns, single numbers, sums along an axis; a condition on rows."""
    data = MultiData(np.arange(6.0).reshape(2, 3), list("ab"), list("xyz"))
    assert data.loc["b", "y"] == 4.0
    assert data.loc[:, "y":].columns.tolist() == ["y", "z"]  # type: ignore[misc]
    assert data.sum(axis=0).to_dict() == {"x": 3.0, "y": 5.0, "z": 7.0}
    assert data.mean(axis=1).to_dict() == {"a": 1.0, "b": 4.0}
    assert data.loc[["b", "a"], ["z", "x"]].data.tolist() == [[5.0, 3.0], [2.0, 0.0]]
    assert (data * 2).iloc[1].to_dict() == {"x": 6.0, "y": 8.0, "z": 10.0}
    assert MultiData(0, ["a"], ["x", "y"]).data.tolist() == [[0.0, 0.0]]
    assert SingleData().empty


# -- predictions -------------------------------------------------------------------------------------------------------


def test_how_a_prediction_changes() -> None:
    """The correlation of a day's scores with those of earlier days, over the instruments that both have."""
    index = pd.MultiIndex.from_product([DAYS[:4], list("abc")], names=["datetime", "instrument"])
    scores = pd.Series([1.0, 2, 3, 3, 2, 1, 1, 2, np.nan, 5, 6, 7], index)
    found = predictions.pred_autocorr(scores)
    assert found.iloc[1:3].tolist() == pytest.approx([-1.0, -1.0])
    assert predictions.pred_autocorr(scores.swaplevel().to_frame(), lag=3).iloc[3] == pytest.approx(1.0)
    both = {"one": scores, "two": -scores}
    every = predictions.calc_all_ic(both, scores)
    assert every["two"]["ic"].tolist() == pytest.approx([-1.0] * 4)
    assert every["one"]["ric"].tolist() == pytest.approx([1.0] * 4)
    assert predictions.pred_autocorr_all(both, lag=1)["two"].iloc[1] == pytest.approx(-1.0)


# -- covariances -------------------------------------------------------------------------------------------------------


def test_covariances_of_the_sample() -> None:
    """Equal numpy's, for returns and prices, labelled like the input; with missing returns, over each pair's common
    days.
    """
    rng = np.random.default_rng(7)
    returns = rng.normal(size=(60, 4))
    expected = np.cov(returns.T, bias=True)
    assert np.allclose(RiskModel(scale_return=False).predict(returns, is_price=False), expected)
    assert np.allclose(RiskModel().predict(returns, is_price=False), expected * 1e4)
    prices = pd.DataFrame(100 * np.cumprod(1 + returns / 100, axis=0), columns=list("abcd"))
    from_prices = RiskModel(scale_return=False).predict(prices)
    assert list(from_prices.columns) == list("abcd")
    assert np.allclose(from_prices, np.cov((returns[1:] / 100).T, bias=True))
    assert np.allclose(RiskModel().predict(returns, return_corr=True, is_price=False), np.corrcoef(returns.T))
    gaps = np.where(rng.random(returns.shape) < 0.1, np.nan, returns)
    pair = RiskModel("mask", assume_centered=True, scale_return=False).predict(gaps, is_price=False)
    assert pair[0, 1] == pytest.approx(np.nanmean(gaps[:, 0] * gaps[:, 1]))


def test_covariances_by_factors() -> None:
    """A few factors explain data generated from a few factors; all factors explain the sample; neither modifies the
    input.
    """
    rng = np.random.default_rng(7)
    factors = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6))
    returns = factors + 0.01 * rng.normal(size=(500, 6))
    before = returns.copy()
    found = StructuredCovEstimator(num_factors=2, scale_return=False).predict(returns, is_price=False)
    assert np.allclose(found, np.cov(returns.T), atol=1e-3)
    every = StructuredCovEstimator(num_factors=6, scale_return=False, assume_centered=True)
    assert np.allclose(every.predict(returns, is_price=False), np.cov(returns.T))
    exposures, between, rests = StructuredCovEstimator(num_factors=2).predict(
        returns, is_price=False, return_decomposed_components=True
    )
    assert (exposures.shape, between.shape, rests.shape) == ((6, 2), (2, 2), (6,))
    assert np.array_equal(returns, before)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda x: RiskModel("drop"), ConfigError, "nan_option"),
        (lambda x: StructuredCovEstimator("fa"), ConfigError, "'fa' is not supported"),
        (lambda x: StructuredCovEstimator(nan_option="mask"), ConfigError, "'fill'"),
        (lambda x: StructuredCovEstimator(num_factors=9).predict(x), ConfigError, "must be from 1 to 4 for .* found 9"),
        (lambda x: RiskModel().predict(x[:1]), DataError, "two returns"),
        (lambda x: RiskModel().predict(x, return_decomposed_components=True), ConfigError, "has none"),
    ],
)
def test_invalid_covariances_are_refused(make: Callable[[Any], Any], error: type[Exception], said: str) -> None:
    """Each has one message."""
    with pytest.raises(error, match=said):
        make(np.random.default_rng(0).random((30, 4)) + 1)


# -- objects, files, memory --------------------------------------------------------------------------------------------


def test_a_description_names_a_callable() -> None:
    """By class or function, by path, by a given module, or directly."""
    for config, module in (
        ({"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ols"}}, None),
        ({"func": "rollforge.models.linear.LinearModel", "kwargs": {"estimator": "ols"}}, None),
    ):
        found, kwargs = objects.get_callable_kwargs(config, module)
        assert (found.__name__, kwargs) == ("LinearModel", {"estimator": "ols"})
    assert objects.get_callable_kwargs("sqrt", np)[0] is np.sqrt
    assert objects.get_callable_kwargs({"class": dict}) == (dict, {})
    with pytest.raises(BuildError):
        objects.get_callable_kwargs("rollforge.models.linear.Nothing")
    with pytest.raises(ConfigError):
        objects.get_callable_kwargs({"kwargs": {}})


def test_a_default_module_can_be_the_module_itself() -> None:
    """Handlers of Qlib's users build their processors this way."""
    made = init_instance_by_config({"class": "Fillna", "kwargs": {"fill_value": 2}}, processor)
    assert (type(made), made.fill_value) == (processor.Fillna, 2)
    assert isinstance(init_instance_by_config("DropnaLabel", processor, processor.Processor), processor.DropnaLabel)


def test_arguments_that_are_not_accepted_are_left_out() -> None:
    """Arguments are passed on if the function accepts any argument."""
    assert objects.auto_filter_kwargs(lambda a: a)(a=1, b=2) == 1
    assert objects.auto_filter_kwargs(lambda **kw: kw)(a=1, b=2) == {"a": 1, "b": 2}


def test_classes_of_a_module() -> None:
    """Those that derive from a class, in the module and its submodules."""
    found = objects.find_all_classes("qlib.contrib.data.handler", DataHandlerLP)
    assert {c.__name__ for c in found} == {"DataHandlerLP", "Alpha158", "Alpha158vwap", "Alpha360", "Alpha360vwap"}


def test_an_object_is_replaced_temporarily() -> None:
    """The object is restored even if an exception is raised in between."""

    class A: ...

    class B(A): ...

    thing = A()
    with objects.class_casting(thing, B):
        assert isinstance(thing, B)
    assert type(thing) is A
    with pytest.raises(KeyError), objects.class_casting(thing, B):
        raise KeyError
    assert type(thing) is A


def test_configurations(tmp_path: Path) -> None:
    """YAML in a file or as text; the project's folder; copies of plain data; the horizon of a label."""
    (tmp_path / "config.yaml").write_text("a: [1, 2]\n")
    (tmp_path / "inner").mkdir()
    assert objects.parse_config(str(tmp_path / "config.yaml")) == objects.parse_config("a: [1, 2]") == {"a": [1, 2]}
    assert objects.parse_config({"a": 1}) == {"a": 1}
    with pytest.raises(ConfigError, match="not valid YAML"):
        objects.parse_config("a: [")
    assert objects.get_project_path(cur_path=tmp_path / "inner") == tmp_path
    with pytest.raises(FileNotFoundError):
        objects.get_project_path("no-such-file-anywhere.yaml", tmp_path)
    thing = object()
    copied = objects.deepcopy_basic_type({"a": [thing], "b": (1,)})
    assert copied["a"][0] is thing
    assert objects.guess_horizon(["Ref($close, -1)/Ref($close, -1) - 1"]) == 1


def test_pickles_may_contain_only_values() -> None:
    """Allowed values are read; anything else is refused before it runs."""
    frame = pd.DataFrame({"a": [1.0]})
    assert pickles.restricted_pickle_loads(pickle.dumps(frame)).equals(frame)
    assert pickles.restricted_pickle_load(io.BytesIO(pickle.dumps({"a": (1, 2)}))) == {"a": (1, 2)}
    with pytest.raises(UntrustedPickle):
        pickles.restricted_pickle_loads(pickle.dumps(print))


def test_files_and_archives(tmp_path: Path) -> None:
    """Folders are created; several files are packed and unpacked; open files are passed through."""
    inner = files.get_or_create_path(str(tmp_path / "a" / "b.txt"))
    Path(inner).write_text("x")
    assert Path(files.get_or_create_path(str(tmp_path / "c"), return_dir=True)).is_dir()
    assert Path(files.get_or_create_path()).is_file()
    with files.save_multiple_parts_file(str(tmp_path / "archive")) as folder:
        (Path(folder) / "one.txt").write_text("1")
    with files.unpack_archive_with_buffer((tmp_path / "archive").read_bytes()) as folder:
        assert (Path(folder) / "one.txt").read_text() == "1"
    with pytest.raises(FileExistsError), files.save_multiple_parts_file(str(tmp_path / "archive")):
        pass
    with files.get_tmp_file_with_buffer(b"abc") as name:
        assert Path(name).read_bytes() == b"abc"
    with files.get_io_object(inner) as stream, files.get_io_object(stream) as same:
        assert same.read() == "x"
    with pytest.raises(ConfigError), files.get_io_object(3):  # type: ignore[arg-type]
        pass


def test_the_memory_cache() -> None:
    """Limited by number or bytes, it keeps the most recently used values; values expire."""
    unit = MemCacheLengthUnit(2)
    unit["a"], unit["b"] = 1, 2
    assert unit["a"] == 1
    unit["c"] = 3
    assert list(unit) == ["a", "c"]
    assert unit.total_size == 2
    sized = MemCacheSizeofUnit(100)
    sized["a"] = b"x" * 200
    assert len(sized) == 0
    assert sized.total_size == 0
    H["f"]["key"] = 7
    assert H["f"]["key"] == 7
    H.clear()
    MemCacheExpire.set_cache(H["c"], "days", [1])
    assert MemCacheExpire.get_cache(H["c"], "days") == ([1], False)
    assert MemCacheExpire.get_cache(H["c"], "nothing") == (None, False)


def test_samples_side_by_side() -> None:
    """Of several datasets, up to the shortest; with their index."""
    both = ConcatDataset([1, 2, 3], "ab")
    assert (both[1], len(both)) == ((2, "b"), 2)
    assert (IndexSampler("abc")[2], len(IndexSampler("abc"))) == (("c", 2), 3)


def test_days_are_processed_one_by_one(panel: pd.DataFrame) -> None:
    """By a function or by the name of a method; and a function runs in its own process."""
    assert datetime_groupby_apply(panel["y"], "sum").tolist() == [4.0, 6.0, 8.0, 10.0]
    assert datetime_groupby_apply(panel["y"], lambda day: day - day.mean()).loc["a"].tolist() == [-2.0] * 4
    assert call_in_subproc(max)(3, 5) == 5


# -- the data folder, settings -----------------------------------------------------------------------------------------


def test_the_files_of_a_data_folder(small_market: Path) -> None:
    """Days, members and values by calendar position; a missing folder is a ValueError, as in Qlib."""
    calendar = FileCalendarStorage("day", future=False, provider_uri=small_market)
    assert calendar[0] == "2021-12-30"
    assert calendar[1:3] == calendar.data[1:3]
    assert calendar.index(pd.Timestamp("2023-12-29")) == len(calendar) - 1
    members = FileInstrumentStorage("all", "day", {"day": small_market})
    code = next(c for c, spans in members.data.items() if spans[0][0] == pd.Timestamp("2021-12-30"))
    assert members[code][0][1] <= pd.Timestamp("2023-12-29")
    close = FileFeatureStorage(code, "close", "day", small_market)
    place, value = close[1]
    assert place == 1
    assert value == pytest.approx(close[1:2].iloc[0])
    assert list(close[1:4].index) == [1, 2, 3]
    assert (close.start_index, close.end_index, len(close)) == (0, len(close) - 1, len(close.data))
    assert close[5000:6000].empty
    with pytest.raises(IndexError):
        close[10**6]
    nothing = FileFeatureStorage(code, "nothing", "day", small_market)
    assert nothing[:].empty
    assert nothing[3] == (None, None)
    for storage in (
        FileCalendarStorage("day", False, "not_there"), FileInstrumentStorage("all", "day", "not_there"),
        FileFeatureStorage(code, "close", "day", "not_there"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not_there"):
            storage.data  # noqa: B018
    with pytest.raises(DataError, match="rollforge data import"):
        close.write([1.0])


def test_settings_can_be_read_and_set(small_market: Path) -> None:
    """Every setting has Qlib's value until it is set; those with a meaning are the session's."""
    assert C["mem_cache_size_limit"] == 500
    assert "joblib_backend" in C
    assert C.get("no_such_setting", 7) == 7
    assert not hasattr(C, "no_such_setting")
    C.custom_ops.append("mine")
    assert C["custom_ops"] == ["mine"]
    C.set(provider_uri=str(small_market), region="us", kernels=2)
    C.register()
    assert C.registered
    assert (C.region, C.kernels, C.get_kernels("day")) == ("us", 2, 2)
    assert C.dpm.get_data_uri("day") == C.dpm.get_data_uri() == small_market.resolve()
    assert C.DataPathManager({"1min": "/a"}).get_data_uri("1min") == Path("/a")
    with pytest.raises(ConfigError, match="frequency 'day'"):
        C.DataPathManager({"1min": "/a"}).get_data_uri("day")
    C.set_region("cn")
    assert C["trade_unit"] == 100
    C["region"] = "tw"
    assert C["trade_unit"] == 1000
    C["provider_uri"] = "/elsewhere"
    assert C["provider_uri"] == {"day": "/elsewhere"}
    C["provider_uri"] = {"day": "/days", "min": "/minutes"}
    assert C["provider_uri"] == {"day": "/days", "1min": "/minutes"}
    assert C.dpm.get_data_uri("1min") == Path("/minutes")
    C["provider_uri"] = {"__DEFAULT_FREQ": "/all", "min": "/minutes"}
    assert C["provider_uri"] == {"__DEFAULT_FREQ": "/all", "1min": "/minutes"}
    C["provider_uri"] = "/elsewhere"
    assert C["provider_uri"] == {"day": "/elsewhere"}
    with pytest.raises(ConfigError, match="no data server"):
        C.set_mode("server")
    C.reset()
    assert not C.registered
