"""Handlers and datasets return the same rows and columns as Qlib's, for every form of the arguments.

Qlib's rule, written here in pandas, was compared with pyqlib 0.9.7 on 8,000 combinations of the arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge.errors import DataError, SegmentError
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.features.processor import Processor

GROUPS = {"feature": (["$close", "$open"], ["C", "O"]), "label": (["Ref($close, -1)"], ["L"])}
FLAT = (["$close", "$open"], ["C", "O"])
LEARN = [{"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}]
RANGE = {"instruments": "all", "start_time": "2022-02-01", "end_time": "2022-06-30"}
DAY = pd.Timestamp("2022-03-02")
CODE, OTHER = "D0003", "D0007"


@pytest.fixture(autouse=True)
def _session(small_market: Path) -> None:
    rollforge.init(small_market)


def grouped() -> DataHandlerLP:
    """A handler that uses the panel cache."""
    return DataHandlerLP(data_loader=QlibDataLoader(GROUPS), learn_processors=LEARN, **RANGE)


def static() -> DataHandlerLP:
    """A handler of a frame."""
    return DataHandlerLP(data_loader=StaticDataLoader(QlibDataLoader(GROUPS).load(**RANGE)), learn_processors=LEARN)


def flat() -> DataHandlerLP:
    """A handler with ungrouped columns."""
    return DataHandlerLP(data_loader=QlibDataLoader(FLAT), **RANGE)


def by_instrument() -> DataHandlerLP:
    """A handler with rows by (instrument, datetime)."""
    return DataHandlerLP(data_loader=QlibDataLoader(FLAT, swap_level=False), **RANGE)


HANDLERS: list[Callable[[], DataHandlerLP]] = [grouped, static, flat, by_instrument]
COL_SETS: list[Any] = ["__all", "__raw", "feature", "label", ["feature", "label"], ["label", "feature"], ["label"]]
DATES: list[Any] = [
    slice(None, None), slice("2022-03-01", "2022-03-31"), slice(DAY, None), slice(None, "2022/3/4"),
    ("2022-03-01", "2022-03-10"), ["20220301", "20220310"], "2022-03-02", DAY, "2022-03", slice("2022-03", "2022-04"),
    slice("2022-03-05", "2022-03-06"), slice("2010", "2011"),
]  # fmt: skip


def columns(frame: pd.DataFrame, col_set: Any) -> pd.DataFrame:
    """Return the columns by Qlib's rule."""
    if not isinstance(frame.columns, pd.MultiIndex) or col_set == "__raw":
        return frame
    return frame.droplevel(0, axis=1) if col_set == "__all" else frame.loc(axis=1)[col_set]


def rows(frame: pd.DataFrame, selector: Any, level: str) -> pd.DataFrame:
    """Return the rows by Qlib's rule."""
    selector = slice(*selector) if isinstance(selector, (list, tuple)) else selector
    place = (selector, slice(None)) if frame.index.names[0] == level else (slice(None), selector)
    return frame.loc(axis=0)[place]


@pytest.mark.parametrize("make", HANDLERS)
@pytest.mark.parametrize("data_key", ["raw", "infer", "learn"])
def test_days_and_columns(make: Callable[[], DataHandlerLP], data_key: str) -> None:
    """Every form of days with every form of columns, in each state."""
    handler = make()
    everything = handler.fetch(col_set="__raw", data_key=data_key)
    grouped_columns = isinstance(everything.columns, pd.MultiIndex)
    assert everything.columns.nlevels == (2 if make in (grouped, static) else 1)
    for selector, col_set in itertools.product(DATES, COL_SETS):
        found = handler.fetch(selector, col_set=col_set, data_key=data_key)
        expected = columns(rows(everything, selector, "datetime"), col_set)
        pd.testing.assert_frame_equal(found, expected, check_index_type=False)
        assert found.columns.nlevels == (
            2 if grouped_columns and (col_set == "__raw" or isinstance(col_set, list)) else 1
        )


@pytest.mark.parametrize("make", HANDLERS)
def test_the_default_is_all_columns_by_their_own_names(make: Callable[[], DataHandlerLP]) -> None:
    """As in Qlib, ``fetch()`` and ``prepare("train")`` return one level of columns."""
    names = ["C", "O", "L"] if make in (grouped, static) else ["C", "O"]
    handler = make()
    assert list(handler.fetch().columns) == names
    assert handler.get_cols() == names
    assert list(DatasetH(handler, {"train": ("2022-02-01", "2022-03-31")}).prepare("train").columns) == names


@pytest.mark.parametrize("make", HANDLERS)
def test_instruments(make: Callable[[], DataHandlerLP]) -> None:
    """The instruments of a fetch are one, a range given by a pair, or an index; the level is given by name or
    number."""
    handler = make()
    everything = handler.fetch(col_set="__raw")
    for selector in (CODE, [CODE, OTHER], slice(CODE, OTHER)):
        found = handler.fetch(selector, level="instrument", col_set="__raw")
        pd.testing.assert_frame_equal(found, rows(everything, selector, "instrument"))
        number = everything.index.names.index("instrument")
        pd.testing.assert_frame_equal(handler.fetch(selector, level=number, col_set="__raw"), found)
    some = handler.fetch(pd.Index([CODE, OTHER]), level="instrument").index.get_level_values("instrument")
    assert set(some) == {CODE, OTHER}


def test_without_a_level_the_selector_is_that_of_loc() -> None:
    """Rows are in the order of the index; this is how the data of single instruments are selected."""
    one = by_instrument().fetch((CODE, slice("2022-03-01", "2022-03-10")), level=None)
    two = flat().fetch((slice("2022-03-01", "2022-03-10"), [CODE]), level=None)
    pd.testing.assert_frame_equal(one, two.swaplevel())
    assert len(one) == 8


def test_dates_that_are_not_consecutive() -> None:
    """An index of dates selects exactly these (pyqlib fails), and so does a list of more than two."""
    days = pd.DatetimeIndex(["2022-03-02", "2022-03-07", "2022-04-01"])
    for selector in (days, list(days)):
        found = grouped().fetch(selector).index.get_level_values("datetime").unique()
        assert list(found) == list(days)
    pairs = pd.MultiIndex.from_tuples([(DAY, CODE), (DAY, OTHER)])
    assert list(grouped().fetch(pairs).index.get_level_values("instrument")) == [CODE, OTHER]


def test_missing_selections_are_named() -> None:
    """The message names a missing group, day or instrument."""
    for make in (grouped, static):
        with pytest.raises(DataError, match=r"no columns 'lable'\. Did you mean 'label'"):
            make().fetch(col_set="lable")
        with pytest.raises(DataError, match="no columns 'lable'"):
            make().fetch(col_set=["feature", "lable"])
        with pytest.raises(DataError, match="no rows for '2022-03-05'"):
            make().fetch("2022-03-05")
        with pytest.raises(DataError, match="no rows for 'D9999'"):
            make().fetch("D9999", level="instrument")


def test_squeezing_makes_a_series_and_drops_the_level_of_one_day() -> None:
    """As pandas does, for rows too."""
    series = grouped().fetch(slice("2022-03-01", "2022-03-03"), col_set="label", squeeze=True)
    assert isinstance(series, pd.Series)
    assert series.index.names == ["datetime", "instrument"]
    assert list(grouped().fetch("2022-03-02", squeeze=True).index.names) == ["instrument"]
    both = (slice(DAY, DAY), CODE)
    assert isinstance(grouped().fetch(both, level=None, squeeze=True), pd.Series)


def test_proc_func_gets_all_columns() -> None:
    """With groups and names, before columns are selected; it gets a copy, so that modifying it has no effect elsewhere."""

    def halve(frame: pd.DataFrame) -> pd.DataFrame:
        assert frame.columns.nlevels == 2
        frame[("label", "L")] = frame[("feature", "C")] / 2
        return frame

    days = slice("2022-03-01", "2022-03-03")
    handler = grouped()
    before = handler.fetch(days)
    found = handler.fetch(days, col_set="label", proc_func=halve)
    np.testing.assert_allclose(found["L"], before["C"] / 2)
    pd.testing.assert_frame_equal(handler.fetch(days), before)


def test_modifying_a_fetched_frame_has_no_effect_elsewhere() -> None:
    """The handler caches whole frames and returns copies of them."""
    for make in (grouped, static):
        handler = make()
        before = handler.fetch(CODE, level="instrument").copy()
        some = handler.fetch(CODE, level="instrument")
        some.iloc[:] = 0
        whole = handler.fetch(level="instrument")
        whole["C"] = 0.0
        pd.testing.assert_frame_equal(handler.fetch(CODE, level="instrument"), before)


@pytest.mark.parametrize("make", HANDLERS)
def test_segments(make: Callable[[], DataHandlerLP]) -> None:
    """Names, lists of names, and days; a segment may be a pair, a slice, one day or an index of days."""
    days = pd.DatetimeIndex(["2022-03-02", "2022-03-07"])
    segments = {
        "train": ("2022-03-01", "2022-03-31"), "valid": ["2022-04-01", "2022-04-15"], "test": slice("2022-04-18", None),
        "day": "2022-03-02", "month": "2022-03", "days": days, "open": (None, "2022-03-10"),
    }  # fmt: skip
    handler = make()
    dataset = DatasetH(handler, segments)
    everything = handler.fetch(col_set="__raw", data_key="learn")
    for name, segment in segments.items():
        found = dataset.prepare(name, col_set="__raw", data_key="learn")
        if isinstance(segment, pd.DatetimeIndex):
            assert list(found.index.unique("datetime")) == list(days)
        else:
            pd.testing.assert_frame_equal(found, rows(everything, segment, "datetime"), check_index_type=False)
    listed = dataset.prepare(("train", "test"), col_set="feature")
    assert [len(f) for f in listed] == [len(dataset.prepare("train")), len(dataset.prepare("test"))]
    assert dataset.prepare([]) == []
    for selector in (slice("2022-03-01", "2022-03-04"), ("2022-03-01", "2022-03-04"), "2022-03-03", DAY):
        expected = rows(handler.fetch(), selector, "datetime")
        pd.testing.assert_frame_equal(dataset.prepare(selector), expected, check_index_type=False)
    with pytest.raises(SegmentError, match="Did you mean 'train'"):
        dataset.prepare("trian")


def test_a_handler_of_raw_data_has_one_state() -> None:
    """For the data for learning it returns its only data."""
    handler = DataHandler(data_loader=QlibDataLoader(GROUPS), **RANGE)
    frames = [handler.fetch(data_key=key) for key in ("raw", "infer", "learn")]
    pd.testing.assert_frame_equal(frames[0], frames[2])
    dataset = DatasetH(handler, {"train": ("2022-03-01", "2022-03-31")})
    assert list(dataset.prepare("train", col_set="feature", data_key="learn").columns) == ["C", "O"]


def test_a_frame_keeps_its_form() -> None:
    """The order of its levels, its types and its columns; without processors, the same object in every state, as in
    Qlib.
    """
    frame = D.features([CODE, OTHER], ["$close"], "2022-03-01", "2022-03-31").astype(np.float64)
    frame["text"] = "x"
    handler = DataHandlerLP.from_df(frame)
    assert handler._data is frame
    assert handler._infer is frame
    assert handler._learn is frame
    assert handler.data_loader._data is frame
    pd.testing.assert_frame_equal(handler.fetch(), frame)


def test_unnamed_levels_are_identified() -> None:
    """By common names or by their values; the error for any other table is one sentence."""
    frame = flat().fetch()
    for names in ([None, None], ["date", "symbol"]):
        pd.testing.assert_frame_equal(DataHandlerLP.from_df(frame.rename_axis(index=names)).fetch(), frame)
        swapped = frame.swaplevel().sort_index().rename_axis(index=names[::-1])
        pd.testing.assert_frame_equal(DataHandlerLP.from_df(swapped).fetch(), frame)
    with pytest.raises(
        DataError, match="The data loaded by StaticDataLoader needs an index with the levels datetime and instr"
    ):
        DataHandlerLP.from_df(pd.DataFrame({"a": [1.0]})).fetch()
    polars = type("DataFrame", (), {"__module__": "polars.dataframe.frame", "__repr__": lambda self: "shape: (3, 2)"})
    with pytest.raises(DataError, match=r"found a polars DataFrame\.$"):
        DataHandlerLP.from_df(polars()).fetch()


def test_ranges_of_periods() -> None:
    """The last N days up to a given day, and consecutive ranges of this kind."""
    handler = flat()
    days = list(handler.fetch().index.unique("datetime"))
    assert handler.get_range_selector(days[9], 5) == slice(days[5], days[9])
    assert handler.get_range_selector(days[2], 5) == slice(days[0], days[2])
    ranges = list(handler.get_range_iterator(5))
    assert [day for day, _ in ranges] == days[5:]
    assert list(ranges[0][1].index.unique("datetime")) == days[1:6]
    with pytest.raises(DataError, match="no data for 2022-03-05"):
        handler.get_range_selector("2022-03-05", 5)


def test_a_processor_may_write_into_its_argument() -> None:
    """Processors written for Qlib do so: neither the panel nor the raw data change."""

    class InPlace(Processor):
        def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
            df.iloc[:, 0] = 1.0
            df["feature"] = df["feature"].fillna(0)
            df.fillna(0, inplace=True)
            return df

    for make in (grouped, static):
        made = make()
        before = made.fetch(data_key="raw").copy()
        handler = DataHandlerLP(
            made.instruments, made.start_time, made.end_time, made.data_loader, infer_processors=[InPlace()]
        )
        assert (handler.fetch()["C"] == 1.0).all()
        pd.testing.assert_frame_equal(handler.fetch(data_key="raw"), before)


def test_overridden_methods_of_a_loader_are_called() -> None:
    """A loader's own ``load`` and ``load_group_df`` are called."""

    class Renamed(QlibDataLoader):
        def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
            frame = super().load(instruments, start_time, end_time)
            return frame.rename(columns={"label": "target"}, level=0)

    class Doubled(QlibDataLoader):
        def load_group_df(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
            return 2 * super().load_group_df(*args, **kwargs)

    plain = DataHandlerLP(data_loader=QlibDataLoader(GROUPS), **RANGE).fetch()
    renamed = DataHandlerLP(data_loader=Renamed(GROUPS), **RANGE)
    assert list(renamed.fetch(col_set="target").columns) == ["L"]
    pd.testing.assert_frame_equal(renamed.fetch(), plain)
    pd.testing.assert_frame_equal(DataHandlerLP(data_loader=Doubled(GROUPS), **RANGE).fetch(), 2 * plain)
