"""Handlers of a small frame or a demo market: chains of processors, sharing of panels, and explanations of missing
data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.features.panel_cache import PanelCache, list_panels
from rollforge.features.processor import Processor, ZScoreNorm
from rollforge.session import Session, using

DAYS = pd.bdate_range("2024-01-01", periods=5)
COLUMNS = pd.MultiIndex.from_tuples([("feature", "x"), ("feature", "y"), ("label", "L")])
INDEX = pd.MultiIndex.from_product([DAYS, ["A", "B"]], names=["datetime", "instrument"])


def table() -> pd.DataFrame:
    """Return ten rows: x counts from 0, y is ten times x, the label is missing on the last day."""
    x = np.arange(10.0)
    return pd.DataFrame(np.column_stack([x, 10 * x, np.where(x < 8, -x, np.nan)]), index=INDEX, columns=COLUMNS)


class Add(Processor):
    """Adds a number to the columns of some groups."""

    any_range = True

    def __init__(self, amount: float, fields_group: Any = "feature", infer: bool = True) -> None:
        self.amount, self.fields_group, self.infer = amount, fields_group, infer

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        chosen = df.columns if self.fields_group is None else [c for c in df.columns if c[0] == self.fields_group]
        df[chosen] = df[chosen] + self.amount
        return df

    def is_for_infer(self) -> bool:
        """Return the value given to the constructor."""
        return self.infer

    def groups(self) -> list[str] | None:
        """Return the group."""
        return None if self.fields_group is None else [self.fields_group]


class Double(Add):
    """Multiplies by two, so that the order of the chain is visible."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df * 2


def static(**kwargs: Any) -> DataHandlerLP:
    return DataHandlerLP(data_loader=StaticDataLoader(table()), **kwargs)


def x_of(handler: DataHandler, key: str) -> float:
    """Return the first value of x, which is 0 in the raw data."""
    return float(handler.fetch(data_key=key, col_set="feature")["x"].iloc[0])


# -- chains ------------------------------------------------------------------------------------------------------------

CHAINS: dict[str, list[Any]] = {
    "shared_processors": [Add(1)], "infer_processors": [Double(0), Add(10)], "learn_processors": [Double(0), Add(100)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("process_type", "learn"), [("append", ((0 + 1) * 2 + 10) * 2 + 100), ("independent", (0 + 1) * 2 + 100)]
)
def test_the_chain_of_each_state(process_type: str, learn: float) -> None:
    """Shared processors first, then those for inference; those for learning follow these or are applied to the shared
    result.
    """
    handler = static(process_type=process_type, **CHAINS)
    assert [x_of(handler, key) for key in ("raw", "infer", "learn")] == [0, 12, learn]
    assert x_of(handler, "raw") == 0
    assert [p.amount for p in handler.get_all_processors()] == [1, 0, 10, 0, 100]
    assert handler._infer["feature", "x"].iloc[0] == 12
    assert handler._learn["feature", "x"].iloc[0] == learn
    assert handler._data["feature", "x"].iloc[0] == 0


@pytest.mark.parametrize("key", ["infer", "learn"])
def test_without_processors_every_state_is_raw(key: str) -> None:
    """With processors for learning only, inference is raw; with those for inference only, learning equals inference."""
    pd.testing.assert_frame_equal(static().fetch(data_key=key), static().fetch(data_key="raw"))
    assert x_of(static(learn_processors=[Add(5)]), key) == (5 if key == "learn" else 0)
    assert x_of(static(infer_processors=[Add(5)]), key) == 5
    independent = static(infer_processors=[Add(5)], learn_processors=[], process_type="independent")
    assert x_of(independent, key) == (0 if key == "learn" else 5)


def test_what_a_handler_refuses() -> None:
    """Processors that need labels at inference, an unknown state or type, an inverted range, an invalid number of
    days."""
    for place in ("infer_processors", "shared_processors"):
        with pytest.raises(ConfigError, match="Add can only be used for learning"):
            static(**{place: [Add(1, infer=False)]})
    assert x_of(static(learn_processors=[Add(1, infer=False)]), "learn") == 1
    with pytest.raises(ConfigError, match="'append' or 'independent', found 'both'"):
        static(process_type="both")
    with pytest.raises(
        ConfigError, match=r"data_key must be one of raw, infer, learn, found 'lern'. Did you mean 'learn'"
    ):
        static().fetch(data_key="lern")
    with pytest.raises(ConfigError, match="DataHandlerLP needs a data_loader"):
        DataHandlerLP()
    with pytest.raises(DataError, match="inverted: it starts on 2024-01-02 and ends on 2024-01-01"):
        static(start_time="2024-01-02", end_time="2024-01-01")
    static(start_time="2024-01-02", end_time="2024-01-02")
    for days in (0, -1, True, False, 1.5, "5"):
        with pytest.raises(ConfigError, match=r"label_days: must be a whole number of trading days, at least 1; found"):
            static(label_days=days)
    assert static(label_days=1).label_days == 1
    with pytest.raises(ConfigError, match=r"learn_processors\.1"):
        static(learn_processors=[Add(1), {"class": "NoSuchProcessor"}])


def test_settings_of_processors_reach_all_of_them() -> None:
    """Settings reach all processors with such an attribute, and the data are computed again."""
    handler = static(**CHAINS)
    assert x_of(handler, "infer") == 12
    handler.config(processor_kwargs={"amount": 3, "other": 1})
    assert [p.amount for p in handler.get_all_processors()] == [3] * 5
    assert x_of(handler, "infer") == (0 + 3) * 2 + 3
    assert x_of(handler, "learn") == 9 * 2 + 3


def test_a_chain_that_leaves_no_rows_is_an_error() -> None:
    """The error has the names of the processors and the reason."""
    empty = table()
    empty["label", "L"] = np.nan
    handler = DataHandlerLP(data_loader=StaticDataLoader(empty), learn_processors=[Add(1), "DropnaLabel"])
    with pytest.raises(DataError, match=r"The processors leave no rows: Add, DropnaLabel. DropnaLabel drops all rows"):
        handler.fetch(data_key="learn")
    assert len(handler.fetch(data_key="infer")) == 10


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_rows_and_columns_of_a_frame() -> None:
    """A day, a code, a function of all columns, a squeezed column."""
    handler = static()
    assert handler.fetch("2024-01-02")["x"].tolist() == [2, 3]
    assert handler.fetch(["A"], level="instrument")["x"].tolist() == [0, 2, 4, 6, 8]
    summed = handler.fetch(proc_func=lambda df: df.assign(**{}).mul(2), col_set="label")
    assert summed["L"].iloc[:3].tolist() == [0, -2, -4]
    assert handler.fetch()["x"].iloc[1] == 1
    squeezed = handler.fetch("2024-01-02", col_set="label", squeeze=True)
    assert squeezed.index.tolist() == ["A", "B"]
    assert isinstance(handler.fetch(col_set="label", squeeze=True), pd.Series)
    assert isinstance(handler.fetch(col_set="label"), pd.DataFrame)
    assert handler.get_cols("feature") == ["x", "y"]
    assert list(handler.days()) == list(DAYS)
    assert handler.panel("raw").codes == ("A", "B")
    for wrong in ("2024-02-01", pd.Timestamp("2024-01-06")):
        with pytest.raises(DataError, match="no rows for"):
            handler.fetch(wrong)
    with pytest.raises(DataError, match=r"There are no columns 'lable'. Did you mean 'label'"):
        handler.fetch(col_set="lable")


def test_ranges_of_the_last_days(caplog: pytest.LogCaptureFixture) -> None:
    """The last N days up to a day; near the start there are fewer, which is logged only then."""
    handler = static()
    with caplog.at_level(logging.WARNING):
        assert handler.get_range_selector(DAYS[2], 3) == slice(DAYS[0], DAYS[2])
        assert not caplog.records
        assert handler.get_range_selector(DAYS[1], 3) == slice(DAYS[0], DAYS[1])
    assert [r.getMessage() for r in caplog.records] == ["there are 2 days of data up to 2024-01-02, not 3"]
    with pytest.raises(DataError, match="no data for 2024-01-06"):
        handler.get_range_selector("2024-01-06", 1)
    ranges = [(day, len(data)) for day, data in handler.get_range_iterator(2)]
    assert ranges == [(DAYS[2], 4), (DAYS[3], 4), (DAYS[4], 4)]
    assert [len(data) for _, data in handler.get_range_iterator(2, min_periods=0)] == [2, 4, 4, 4, 4]


# -- explanations ------------------------------------------------------------------------------------------------------


class AboveLearned(Processor):
    """Drops rows whose x does not exceed the largest x of the fit window."""

    def fit(self, df: pd.DataFrame) -> None:
        """Learn the largest x."""
        self.largest = df["feature", "x"].max()

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df[df["feature", "x"] > self.largest]


def test_what_left_no_data_is_explained() -> None:
    """The loader, a processor, one that is fitted first, one that drops by a group without values."""
    handler = static(infer_processors=[AboveLearned()], learn_processors=[])
    assert handler.explain_missing() == "AboveLearned leaves no row there."
    assert handler.explain_missing(data_key="raw") == ""
    assert handler.explain_missing("label", slice("2024-01-05", None), "raw") == (
        "StaticDataLoader has no finite value of 'label' there."
    )
    assert handler.explain_missing("label", ("2024-01-04", "2024-01-05"), "raw") == ""
    assert handler.explain_missing("feature", data_key="raw", column="z") == (
        "StaticDataLoader has no finite value of 'z' there."
    )
    assert (
        handler.explain_missing(selector=("2024-02-01", None), data_key="raw") == "StaticDataLoader has no row there."
    )
    by_label = static(learn_processors=["DropnaLabel"])
    assert by_label.explain_missing(selector=("2024-01-05", None), data_key="learn") == (
        "DropnaLabel drops all rows, because no row has a finite value of 'label'. "
        "StaticDataLoader has no finite value of 'label' there."
    )
    assert by_label.explain_missing(selector=("2024-01-04", None), data_key="learn") == ""
    any_group = static(infer_processors=["DropnaProcessor"])
    assert "no row has a finite value of 'label'" in any_group.explain_missing(selector=("2024-01-05", None))


def test_one_instrument_has_nothing_to_be_compared_with() -> None:
    """The explanation says so for processors that compare instruments, if every day has one instrument, and only for
    these.
    """
    alone = table().xs("A", level="instrument", drop_level=False)
    alone = alone.reset_index().set_index(["datetime", "instrument"])
    handler = DataHandlerLP(data_loader=StaticDataLoader(alone), infer_processors=["CSRankNorm"])
    assert handler.explain_missing("feature") == (
        "CSRankNorm leaves no finite value of 'feature' there: it compares the instruments of each day, "
        "but each day has only one."
    )
    assert static(infer_processors=["CSRankNorm"]).explain_missing("feature") == ""


# -- panels ------------------------------------------------------------------------------------------------------------

FIELDS = {"feature": (["$close", "$open"], ["C", "O"]), "label": (["Ref($close, -1)/$close - 1"], ["L"])}
RANGE = {"instruments": "all", "start_time": "2022-02-01", "end_time": "2022-06-30"}


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """Return a session with its own cache."""
    with using(Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"), threads=1)) as opened:
        yield opened


def market(**kwargs: Any) -> DataHandlerLP:
    return DataHandlerLP(data_loader=QlibDataLoader(FIELDS), **{**RANGE, **kwargs})


def panels(session: Session, *handlers: DataHandlerLP) -> int:
    """Return how many panels exist after these handlers are set up."""
    for handler in handlers:
        handler.setup_data()
    return len(list_panels(session.cache))


def test_equivalent_handlers_share_a_panel(session: Session) -> None:
    """Whatever their end, and the order and case of codes; other starts, codes, filters and processors give other
    panels.
    """
    assert panels(session, market(), market(end_time=None), market(end_time="2022-03-01")) == 1
    assert panels(session, market(instruments=["d0001", "D0002"]), market(instruments=["D0002", "D0001"])) == 2
    assert panels(session, market(instruments={"D0001": [("2022-02-01", "2022-05-31")]})) == 3
    assert panels(session, market(instruments={"D0001": [("2022-02-01", "2022-05-30")]})) == 4
    filtered = {"market": "all", "filter_pipe": [{"filter_type": "NameDFilter", "name_rule_re": "D000."}]}
    assert panels(session, market(instruments=filtered), market(instruments=dict(filtered))) == 5
    filtered = {"market": "all", "filter_pipe": [{"filter_type": "NameDFilter", "name_rule_re": "D001."}]}
    assert panels(session, market(instruments=filtered)) == 6
    assert panels(session, market(start_time="2022-02-02")) == 7
    assert panels(session, market(instruments=("D0002", "d0001"))) == 7
    assert panels(session, market(infer_processors=[Add(1)]), market(infer_processors=[Add(1)], end_time=None)) == 8
    assert panels(session, market(infer_processors=[Add(2)])) == 9


def test_a_processor_that_looks_at_later_days_has_a_panel_for_each_end(session: Session) -> None:
    """Equal ends share it; a processor with an attribute that is not plain data is not cached."""

    class Later(Add):
        any_range = False

    assert panels(session, market(infer_processors=[Later(1)]), market(infer_processors=[Later(1)])) == 2
    assert panels(session, market(infer_processors=[Later(1)], end_time="2022-05-31")) == 3
    live = Add(1)
    live.helper = object()  # type: ignore[attr-defined]
    handler = market(infer_processors=[live], learn_processors=[Add(1, "label")])
    assert panels(session, handler) == 3
    assert handler.fetch(data_key="infer")["C"].iloc[0] == pytest.approx(market().fetch()["C"].iloc[0] + 1)


@pytest.mark.parametrize("process_type", ["append", "independent"])
@pytest.mark.parametrize("groups", [("feature", "label"), (None, "label"), ("feature", None), ("label", "feature")])
def test_processed_panels_equal_processing_the_whole_frame(session: Session, process_type: str, groups: Any) -> None:
    """Whichever groups the processors use: all columns in their order, with the same values."""
    infer, learn = Add(1, groups[0]), Add(10, groups[1])
    made = market(infer_processors=[infer], learn_processors=["DropnaLabel", learn], process_type=process_type)
    raw = market().fetch(col_set="__raw", data_key="raw")
    expected = infer.apply(raw) if process_type == "append" else raw
    expected = learn.apply(expected[np.isfinite(expected["label", "L"])])
    for _ in range(2):  # computed, and read from the cache
        found = made.fetch(col_set="__raw", data_key="learn")
        pd.testing.assert_frame_equal(found, expected.astype(np.float32), rtol=1e-6)
        pd.testing.assert_frame_equal(made.fetch(col_set="__raw"), infer.apply(raw).astype(np.float32), rtol=1e-6)
        made = market(infer_processors=[infer], learn_processors=["DropnaLabel", learn], process_type=process_type)


def test_learning_is_computed_from_inference(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``append``, each processor runs once for each panel that needs it; unchanged groups are copied."""
    ran: list[tuple[float, list[str]]] = []

    class Noted(Add):
        def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
            ran.append((self.amount, list(df.columns.get_level_values(0).unique())))
            return super().__call__(df)

    handler = market(infer_processors=[Noted(1)], learn_processors=[Noted(2, "label")])
    handler.setup_data()
    assert sorted(ran) == [(1, ["feature"]), (2, ["label"])]
    assert handler.fetch(data_key="learn")["C"].iloc[0] == handler.fetch(data_key="infer")["C"].iloc[0]
    ran.clear()
    market(infer_processors=[Noted(1)], learn_processors=[Noted(2, "label")]).setup_data()
    assert ran == []
    market(infer_processors=[Noted(3)], learn_processors=[Noted(4, "label")]).setup_data(init_type="load_state")
    assert ran == [(3, ["feature"])]
    ran.clear()
    independent = market(infer_processors=[Noted(5)], learn_processors=[Noted(6, "label")], process_type="independent")
    independent.setup_data()
    assert sorted(ran) == [(5, ["feature"]), (6, ["label"])]
    monkeypatch.setattr(PanelCache, "get", lambda *_: pytest.fail("the cache is not asked again"))
    handler.fetch(data_key="learn")


def test_what_was_learned_is_known_if_the_panel_is_in_the_cache(session: Session) -> None:
    """As after fitting, so that a processor can be used for further data. A fit window that ends with the handler does
    not need a panel of its own for each end."""

    def scaled(end: str = "2022-06-30") -> DataHandlerLP:
        scale = {"class": "ZScoreNorm", "kwargs": {"fit_start_time": "2022-02-01", "fit_end_time": "2022-03-31"}}
        return market(infer_processors=[scale], end_time=end)

    fitted, found = scaled(), scaled()
    assert panels(session, fitted, found, scaled("2022-03-31")) == 2
    (one,), (other,) = fitted.infer_processors, found.infer_processors
    assert isinstance(one, ZScoreNorm)
    assert isinstance(other, ZScoreNorm)
    assert one.shift is not None
    np.testing.assert_array_equal(other.shift, one.shift)
    np.testing.assert_array_equal(other.scale, one.scale)
    assert panels(session, scaled("2022-03-30")) == 3  # it learns from fewer days


def test_a_range_outside_the_calendar_is_refused(session: Session) -> None:
    """A start after its last day, an end before its first; the first and last day themselves have data."""
    days = QlibDataLoader(FIELDS).load("all").index.get_level_values("datetime")
    first, last = days.min(), days.max()
    with pytest.raises(DataError) as caught:
        market(start_time="2024-01-01", end_time=None).fetch()
    assert str(caught.value) == (
        f"The handler's start_time 2024-01-01 leaves no data: the calendar has {first.date()} to {last.date()}."
    )
    with pytest.raises(DataError, match="start_time 2023-12-30 leaves no data"):
        market(start_time=last + pd.Timedelta(days=1), end_time=None).check()
    for early in ("2010-01-01", first - pd.Timedelta(days=1)):
        with pytest.raises(DataError, match=r"end_time .* leaves no data"):
            market(start_time=None, end_time=early).check()
    for edge in (first, last):
        assert set(market(start_time=edge, end_time=edge).fetch().index.get_level_values(0)) == {edge}
        market(start_time=edge, end_time=edge).check()


def test_fetching_is_limited_to_the_handlers_range(session: Session) -> None:
    """The range may be open-ended; a month or a year means all of its days."""
    handler = market()
    days = handler.fetch(slice("2022", "2023"), col_set="feature").index.get_level_values(0)
    assert (days.min(), days.max()) == (pd.Timestamp("2022-02-01"), pd.Timestamp("2022-06-30"))
    days = handler.fetch(slice("2022-03", "2022-04"), col_set=["feature"]).index.get_level_values(0)
    assert (days.min(), days.max()) == (pd.Timestamp("2022-03-01"), pd.Timestamp("2022-04-29"))
    assert handler.days()[0] == pd.Timestamp("2022-02-01")
    assert handler.days()[-1] == pd.Timestamp("2022-06-30")
    opened = market(start_time=None, end_time=None)
    assert opened.days()[-1] == pd.Timestamp("2023-12-29")
    handler.config(end_time="2022-03-31", start_time="2022-03-01", instruments=["D0001"])
    assert set(handler.fetch().index) == {(day, "D0001") for day in handler.days()}
    assert len(handler.days()) == 23
