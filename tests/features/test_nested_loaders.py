"""Nested loaders, frames from files, and processors of single instruments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.features.alpha import Alpha158, Alpha158DL
from rollforge.features.engine import features
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.inst_processor import InstProcessor, process_instruments
from rollforge.features.loader import DataLoader, DataLoaderDH, NestedDataLoader, QlibDataLoader, StaticDataLoader
from rollforge.features.panel_cache import list_panels
from rollforge.features.processor import TimeRangeFlt
from rollforge.session import current_session

FIRST = {"feature": (["$close", "$open"], ["A", "B"]), "label": (["Ref($close, -1)"], ["L"])}
SECOND = {"feature": (["$high", "$low"], ["B", "C"])}
DAYS = ("2022-03-01", "2022-03-31")
RANGE = {"instruments": "all", "start_time": DAYS[0], "end_time": DAYS[1]}


@pytest.fixture(autouse=True)
def _session(small_market: Path) -> None:
    rollforge.init(small_market)


# -- side by side ----------------------------------------------------------------------------------------------------------


def test_loaders_side_by_side() -> None:
    """Of columns with the same name the last is taken, and columns are sorted by name, as in Qlib."""
    nested = NestedDataLoader([QlibDataLoader(FIRST), QlibDataLoader(SECOND)]).load("all", *DAYS)
    one, two = (QlibDataLoader(g).load("all", *DAYS) for g in (FIRST, SECOND))
    assert list(nested.columns) == [("feature", "A"), ("feature", "B"), ("feature", "C"), ("label", "L")]
    for column in nested:
        expected = two if column in two else one
        pd.testing.assert_series_equal(nested[column], expected[column])


def test_a_description_names_loaders_as_qlib_does() -> None:
    """A description names loaders by dotted paths, including Qlib's; one handler has both feature sets."""
    described = {
        "class": "NestedDataLoader",
        "module_path": "qlib.data.dataset.loader",
        "kwargs": {
            "dataloader_l": [
                {"class": "qlib.contrib.data.loader.Alpha158DL"},
                {
                    "class": "qlib.contrib.data.loader.Alpha360DL",
                    "kwargs": {"config": {"label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])}},
                },
            ]
        },
    }
    handler = DataHandlerLP(data_loader=described, learn_processors=["DropnaLabel"], **RANGE)
    names = set(handler.get_cols())
    assert set(Alpha158DL.get_feature_config()[1]) <= names
    assert {"LABEL0", "CLOSE59", "VOLUME0"} <= names
    assert handler.data_loader.expressions("label") == ["Ref($close, -2)/Ref($close, -1) - 1"]


@pytest.mark.parametrize("join", ["left", "right", "inner", "outer"])
def test_the_rows_are_those_of_the_join(join: Any) -> None:
    """``left`` keeps those of the first loader."""
    frame = QlibDataLoader(SECOND).load("all", "2022-03-15", "2022-04-15")
    nested = NestedDataLoader([QlibDataLoader(FIRST), StaticDataLoader(frame)], join=join).load("all", *DAYS)
    days = nested.index.unique("datetime")
    bounds = {"left": DAYS, "right": ("2022-03-15", "2022-03-31"), "inner": ("2022-03-15", "2022-03-31"), "outer": DAYS}
    assert (str(days[0].date()), str(days[-1].date())) == bounds[join]
    assert nested.index.is_monotonic_increasing


def test_a_nested_panel_is_computed_once() -> None:
    """A nested panel is cached like that of a single loader, and reused for another end."""
    nested = {"class": "NestedDataLoader", "kwargs": {"dataloader_l": [QlibDataLoader(FIRST), QlibDataLoader(SECOND)]}}
    first = DataHandler(data_loader=nested, **RANGE).fetch()
    assert len(list_panels(current_session().cache)) == 1
    longer = DataHandler(data_loader=nested, **{**RANGE, "end_time": "2022-06-30"})
    pd.testing.assert_frame_equal(longer.fetch(slice(*DAYS)), first)
    assert len(list_panels(current_session().cache)) == 1


def test_a_loader_without_universes_returns_all_rows() -> None:
    """A loader that raises KeyError for the name of a universe; a handler's loader, which has its own universe."""

    class OfCodes(DataLoader):
        def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
            if instruments is not None:
                raise KeyError(instruments)
            return QlibDataLoader(SECOND).load("all", start_time, end_time)

    handler = DataHandler(data_loader=QlibDataLoader(SECOND), **RANGE)
    expected = NestedDataLoader([QlibDataLoader(FIRST), QlibDataLoader(SECOND)]).load("all", *DAYS)
    for other in (OfCodes(), DataLoaderDH(handler)):
        nested = NestedDataLoader([QlibDataLoader(FIRST), other])
        pd.testing.assert_frame_equal(nested.load("all", *DAYS), expected)
        assert nested.definition() is None  # not cached, because its dependencies are unknown


def test_errors_are_found_before_anything_is_computed() -> None:
    """An error is raised for an unknown field in the second loader, and for no loader at all, before anything is
    computed."""
    nested = NestedDataLoader([QlibDataLoader(FIRST), QlibDataLoader(["$clsoe"])])
    with pytest.raises(DataNotFound, match="Did you mean 'close'"):
        DataHandler(data_loader=nested, **RANGE).check()
    with pytest.raises(ConfigError, match="at least one loader"):
        NestedDataLoader([])


# -- frames from files -----------------------------------------------------------------------------------------------------


def test_frames_are_read_from_files(tmp_path: Path) -> None:
    """Parquet, CSV and pickle files are read, alone or several side by side."""
    frame = QlibDataLoader(FIRST).load(["D0001", "D0002"], *DAYS)
    feature, label = frame["feature"], frame["label"]
    feature.to_parquet(tmp_path / "feature.parquet")
    feature.to_pickle(tmp_path / "feature.pkl")
    feature.to_csv(tmp_path / "feature.csv")
    for name in ("feature.parquet", "feature.pkl", "feature.csv"):
        loaded = StaticDataLoader(str(tmp_path / name)).load(None)
        pd.testing.assert_frame_equal(loaded, feature, check_dtype=False, check_index_type=False, rtol=1e-6)
        both = StaticDataLoader({"feature": tmp_path / name, "label": label}).load(None)
        pd.testing.assert_frame_equal(both, frame, check_dtype=False, check_index_type=False, rtol=1e-6)
    with pytest.raises(DataNotFound, match="does not exist"):
        StaticDataLoader(tmp_path / "none.parquet").load(None)
    (tmp_path / "frame.h5").touch()
    with pytest.raises(DataError, match="HDF5"):
        StaticDataLoader(tmp_path / "frame.h5").load(None)


def test_frames_side_by_side_have_the_rows_of_the_join() -> None:
    """The join has the rows of any frame (outer), or of all (inner)."""
    frame = QlibDataLoader(FIRST).load("all", *DAYS)
    late = frame["label"].loc["2022-03-15":]
    outer = StaticDataLoader({"feature": frame["feature"], "label": late}).load(None)
    inner = StaticDataLoader({"feature": frame["feature"], "label": late}, join="inner").load(None)
    assert len(outer) == len(frame)
    assert inner.index.equals(late.index)


def test_a_frame_is_restricted_to_codes_and_days(caplog: pytest.LogCaptureFixture) -> None:
    """A frame is restricted to one code or several; a universe has no meaning for a frame, which is logged."""
    loader = StaticDataLoader(QlibDataLoader(FIRST).load("all", *DAYS))
    assert set(loader.load("D0003").index.get_level_values("instrument")) == {"D0003"}
    assert set(loader.load(["D0003", "D0001"]).index.get_level_values("instrument")) == {"D0001", "D0003"}
    assert len(loader.load(None, "2022-03-01", "2022-03-02").index.unique("datetime")) == 2
    whole = loader.load("all")
    assert caplog.records == []
    assert loader.load("csi300").equals(whole)
    assert "a frame has no universe 'csi300'" in caplog.text


# -- the series of one instrument ------------------------------------------------------------------------------------------


class Demean(InstProcessor):
    """Subtracts the instrument's own mean from a column."""

    def __init__(self, column: str = "$close") -> None:
        self.column = column

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        df[self.column] -= df[self.column].mean()
        return df


class Odd(InstProcessor):
    """Keeps instruments with an odd number."""

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        return df if int(instrument[1:]) % 2 else df.head(0)


def test_series_are_processed_one_instrument_at_a_time() -> None:
    """With the instrument's code, over the requested days, and with the expressions as column names."""
    plain = features("all", ["$close", "Mean($close, 5)"], *DAYS)
    made = process_instruments(plain, [Demean(), {}, None, Odd()])
    odd = [code for code in plain.index.unique("instrument") if int(code[1:]) % 2]
    assert list(made.index.unique("instrument")) == odd
    assert list(made.columns) == ["$close", "Mean($close, 5)"]
    expected = plain["$close"] - plain["$close"].groupby(level="instrument").transform("mean")
    np.testing.assert_allclose(made["$close"], expected.loc[odd], atol=1e-4)
    np.testing.assert_array_equal(made["Mean($close, 5)"], plain.loc[odd, "Mean($close, 5)"])


def test_a_loader_processes_all_groups_or_each_its_own() -> None:
    """A list applies to all groups, a mapping to the groups it names."""
    plain = QlibDataLoader(FIRST).load("all", *DAYS)
    own = QlibDataLoader(FIRST, inst_processors={"feature": [Demean()]}).load("all", *DAYS)
    np.testing.assert_array_equal(own[("label", "L")], plain[("label", "L")])
    assert own[("feature", "A")].groupby(level="instrument").mean().abs().max() < 1e-4
    for_all = QlibDataLoader(FIRST, inst_processors=[Odd()]).load("all", *DAYS)
    odd = plain.index.get_level_values("instrument").str[1:].astype(int) % 2 == 1
    pd.testing.assert_frame_equal(for_all, plain[odd])


def test_handlers_accept_processors_of_instruments() -> None:
    """Alpha158 passes them on; the panel's key includes their definition, their code, and the handler's end."""
    kept = "TimeRangeFlt"
    described = [{"class": kept, "kwargs": {"end_time": "2022-03-31"}}]
    plain = Alpha158(**RANGE).fetch(data_key="raw")
    pd.testing.assert_frame_equal(Alpha158(**RANGE, inst_processors=described).fetch(data_key="raw"), plain)
    cache = current_session().cache
    before = len(list_panels(cache))
    for end in ("2022-03-31", "2022-04-29"):
        loader = QlibDataLoader(FIRST, inst_processors={"feature": [Demean()]})
        frame = DataHandler(data_loader=loader, **{**RANGE, "end_time": end}).fetch()
        assert frame["A"].groupby(level="instrument").mean().abs().max() < 1e-4
    assert len(list_panels(cache)) == before + 2
    other = QlibDataLoader(FIRST, inst_processors={"feature": [Demean("$open")]})
    assert DataHandler(data_loader=other, **RANGE).fetch()["A"].min() > 1
    assert len(list_panels(cache)) == before + 3


def test_time_range_keeps_instruments_that_span_it() -> None:
    """The first and last day are aligned to the calendar: a start without trading means the next day, an end the
    previous.
    """
    days = pd.bdate_range("2022-01-03", "2022-12-30", name="datetime")

    def lasts(first: str, last: str, **arguments: Any) -> bool:
        df = pd.DataFrame({"$close": 1.0}, index=days[(days >= first) & (days <= last)])
        return len(TimeRangeFlt(**arguments)(df, "A")) > 0

    asked = {"start_time": "2022-03-05", "end_time": "2022-06-05"}  # a Saturday, a Sunday
    assert lasts("2022-03-07", "2022-06-03", **asked)
    assert not lasts("2022-03-08", "2022-06-03", **asked)
    assert not lasts("2022-03-07", "2022-06-02", **asked)
    assert lasts("2022-03-08", "2022-06-03", end_time="2022-06-05")
    assert lasts("2022-03-07", "2022-06-02", start_time="2022/3/5")
    assert lasts("2022-05-02", "2022-05-03")
    with pytest.raises(DataError, match="no trading day from 2022-03-05 to 2022-03-06"):
        lasts("2022-01-03", "2022-12-30", start_time="2022-03-05", end_time="2022-03-06")


def test_processors_that_leave_nothing_are_named() -> None:
    """No rows, or not all columns."""

    class Lose(InstProcessor):
        def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
            return df.drop(columns="$close")

    late = TimeRangeFlt(start_time="2022-01-04")
    with pytest.raises(DataError, match="leave no rows for any instrument: TimeRangeFlt"):
        QlibDataLoader(FIRST, inst_processors=[late]).load("all", *DAYS)
    with pytest.raises(DataError, match=r"removed the column '\$close': Lose"):
        QlibDataLoader(FIRST, inst_processors=[Lose()]).load("all", *DAYS)
    with pytest.raises(ConfigError, match="must be a list"):
        QlibDataLoader(FIRST, inst_processors="TimeRangeFlt")


def test_filters_apply_to_named_universes(caplog: pytest.LogCaptureFixture) -> None:
    """Listed codes are not filtered, as in Qlib, which is logged; without a universe, all instruments are filtered."""
    pipe = [{"filter_type": "NameDFilter", "name_rule_re": "D0001"}]
    loader = QlibDataLoader(FIRST, filter_pipe=pipe)
    assert set(loader.load(None, *DAYS).index.get_level_values("instrument")) == {"D0001"}
    assert set(loader.load(["D0001", "D0003"], *DAYS).index.get_level_values("instrument")) == {"D0001", "D0003"}
    assert "are not filtered" in caplog.text


def test_a_frequency_by_group() -> None:
    """The same for all groups is that of the rows; another one needs processors that convert it, and a label to convert it to."""
    by_group = QlibDataLoader(FIRST, freq={"feature": "day", "label": "day"}).load("all", *DAYS)
    pd.testing.assert_frame_equal(by_group, QlibDataLoader(FIRST).load("all", *DAYS))
    for config, freq, said in (
        (FIRST, {"feature": "day"}, "names no frequency for the group 'label'"),
        (FIRST, {"feature": None, "label": "day"}, r"^freq\.feature: must be the name of a frequency, .* found None\."),
        (FIRST, None, r"^freq: must be the name of a frequency, such as 'day' or '60min', found None\."),
        (FIRST, {"feature": "1min", "label": "day"}, "is '1min' for the group 'feature' and 'day' for the label"),
        ({"a": ["$close"], "b": ["$open"]}, {"a": "1min", "b": "day"}, "must be the same for all groups"),
    ):
        with pytest.raises(ConfigError, match=said):
            QlibDataLoader(config, freq=freq)


def test_a_frame_is_restricted_to_a_universe() -> None:
    """Codes in any case, and only the days of their membership if a mapping has them; filters of a universe are refused."""
    days = pd.bdate_range("2024-01-01", periods=4)
    index = pd.MultiIndex.from_product([days, ["AA", "BB"]], names=["datetime", "instrument"])
    loader = StaticDataLoader(pd.DataFrame({"x": range(8)}, index))
    assert loader.load(["aa"])["x"].tolist() == [0, 2, 4, 6]
    assert loader.load("bb")["x"].tolist() == [1, 3, 5, 7]
    spans = {"aa": [("2024-01-02", "2024-01-03"), ("2024-01-04", "2030-01-01")], "BB": [("2024-01-01", "2024-01-01")]}
    assert loader.load(spans)["x"].tolist() == [1, 2, 4, 6]
    assert len(loader.load({"market": "all", "filter_pipe": []})) == 8
    assert loader.load({"market": ["BB"]}, "2024-01-04")["x"].tolist() == [7]
    assert loader.load(pd.Series(["AA", "CC"]))["x"].tolist() == [0, 2, 4, 6]
    for wrong in ({"AA": None}, {"AA": ("2024-01-02", "2024-01-03")}):
        with pytest.raises(ConfigError, match="expected a list of pairs of days"):
            loader.load(wrong)
    with pytest.raises(ConfigError, match="cannot be filtered"):
        loader.load({"market": "all", "filter_pipe": [{"filter_type": "NameDFilter", "name_rule_re": "A"}]})


@pytest.mark.parametrize("join", ["left", "inner", "right"])
def test_a_frame_has_the_filtered_rows_of_a_data_folder(join: Any) -> None:
    """Filters apply to the loader of the folder, if the joined rows are its rows."""
    filtered = {"market": "all", "filter_pipe": [{"filter_type": "NameDFilter", "name_rule_re": "D000[12]"}]}
    prices = QlibDataLoader({"feature": (["$close"], ["close"])})
    rows = prices.load("all", *DAYS).index
    own = StaticDataLoader(pd.DataFrame({("feature", "own"): np.arange(len(rows))}, rows))
    loader = NestedDataLoader([prices, own], join)
    if join == "right":  # the frame has all rows
        with pytest.raises(ConfigError, match="cannot be filtered"):
            loader.load(filtered, *DAYS)
        return
    found = loader.load(filtered, *DAYS)
    assert set(found.index.get_level_values("instrument")) == {"D0001"}
    assert found["feature", "own"].tolist() == rows.get_indexer(found.index).tolist()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_row_that_occurs_twice_is_an_error(grouped: bool) -> None:
    """A model would learn from it twice, and predict it twice; the error names the row and how to remove it."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2024-01-01", periods=2), ["A", "B"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({"x": range(4)}, index)
    twice = pd.concat([frame, frame.iloc[[2]] + 1])
    loader = StaticDataLoader({"feature": twice, "label": frame} if grouped else twice)
    with pytest.raises(DataError, match="contain the row of A on 2024-01-02 more than once"):
        DataHandlerLP(data_loader=loader).fetch()
