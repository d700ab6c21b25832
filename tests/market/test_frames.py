"""Frames from elsewhere: index levels of other names, days of other types, tables of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rollforge.collect.ensemble import AverageEnsemble, RollingEnsemble
from rollforge.errors import DataError
from rollforge.features.loader import StaticDataLoader
from rollforge.features.processor import CSRankNorm, CSZFillna, CSZScoreNorm, ProcessInf, ZScoreNorm
from rollforge.market.frames import day_rows

DAYS = pd.bdate_range("2021-03-01", periods=3).as_unit("ns")
PLAIN = pd.DataFrame(
    {"score": np.arange(6.0)}, pd.MultiIndex.from_product([DAYS, ["A", "B"]], names=["datetime", "instrument"])
)


class Streamed:
    """A table of a library that is not pandas, with the Arrow interface alone; printed, it fills the screen."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return "a very long table\n" * 100


def _arrow(columns: dict[str, Any] | None = None) -> pa.Table:
    return pa.Table.from_pandas(PLAIN.reset_index() if columns is None else pd.DataFrame(columns))


FORMS: dict[str, Any] = {
    "names": PLAIN.rename_axis(index=["date", "symbol"]),
    "no names": PLAIN.rename_axis(index=[None, None]),
    "strange names": PLAIN.rename_axis(index=["x", "y"]),
    "other order": PLAIN.swaplevel(),
    "other order, no names": PLAIN.swaplevel().rename_axis(index=[None, None]),
    "zone": PLAIN.set_axis(
        pd.MultiIndex.from_product([DAYS.tz_localize("Asia/Tokyo"), ["A", "B"]], names=["datetime", "instrument"])
    ),
    "texts": PLAIN.set_axis(pd.MultiIndex.from_product([DAYS.strftime("%Y/%m/%d"), ["A", "B"]], names=["day", "code"])),
    "numbers": PLAIN.set_axis(pd.MultiIndex.from_product([[20210301, 20210302, 20210303], ["A", "B"]])),
    "dates": PLAIN.set_axis(pd.MultiIndex.from_product([list(DAYS.date), ["A", "B"]])),
    "columns": PLAIN.reset_index(),
    "other columns": PLAIN.reset_index().rename(columns={"datetime": "Trade Date", "instrument": "ts_code"}),
    "a column and an index": PLAIN.reset_index("instrument"),
    "arrow": _arrow(),
    "streamed": Streamed(_arrow()),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_found_in_any_form(form: str) -> None:
    """Whatever the levels are called, in whatever order and type, the rows are those by datetime and instrument."""
    pd.testing.assert_frame_equal(day_rows(FORMS[form], "The table"), PLAIN, check_freq=False)


def test_plain_frames_are_returned_as_they_are() -> None:
    """Nothing is copied where nothing has to be done; series stay series, unsorted rows keep their order."""
    assert day_rows(PLAIN, "it") is PLAIN
    series = PLAIN["score"].rename_axis(index=["date", "code"])
    pd.testing.assert_series_equal(day_rows(series, "it"), PLAIN["score"], check_freq=False)
    back = day_rows(PLAIN[::-1].rename_axis(index=["a", "b"]), "it")
    assert back["score"].tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    days = pd.Series([1.0, 2.0, 3.0], DAYS.tz_localize("Asia/Tokyo"))
    assert list(day_rows(days, "it", days_alone=True).index) == list(DAYS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "found a list"),
        (np.zeros(3), "found a numpy ndarray"),
        (None, "found a NoneType"),
        ("<PRED>", "found a str"),
        (Streamed(pa.chunked_array([[1, 2]])), "Streamed"),
        (PLAIN.reset_index(drop=True), "found one level of int64"),
        (PLAIN.droplevel("datetime"), "found 'instrument'"),
        (PLAIN.droplevel("instrument"), "found 'datetime'"),
        (PLAIN.set_axis(pd.MultiIndex.from_product([["x", "y", "z"], ["A", "B"]])), "found a level without name, a level"),
        (PLAIN.set_axis(pd.MultiIndex.from_product([["2021-03-01", "2021-02-30", "2021-03-03"], ["A", "B"]],
                                                   names=["date", "code"])), "row 3 of the index.*February 2021"),
        (_arrow({"a": [1.0], "b": [2.0]}), "found one level of int64"),
    ],
)  # fmt: skip
def test_what_has_no_days_is_one_message(value: Any, words: str) -> None:
    """A table that cannot be meant is refused in one line that says what it is; no contents are printed."""
    with pytest.raises(DataError, match=words) as caught:
        day_rows(value, "The signal")
    assert str(caught.value).startswith("The signal")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_windows_of_other_names_are_joined_and_averaged() -> None:
    """Ensembles take results whose index has other names, and name the one that has no days."""
    first, last = PLAIN[:4].rename_axis(index=[None, None]), PLAIN[4:].rename_axis(index=["date", "code"])
    pd.testing.assert_frame_equal(RollingEnsemble()({"a": first, "b": last}), PLAIN, check_freq=False)
    mean = AverageEnsemble()({"a": PLAIN["score"], "b": PLAIN["score"].rename_axis(index=["date", "code"])})
    pd.testing.assert_series_equal(mean, AverageEnsemble()({"a": PLAIN["score"]}), check_freq=False)
    for ensemble in (RollingEnsemble(), AverageEnsemble()):
        with pytest.raises(DataError, match="'b' needs an index with the levels datetime and instrument"):
            ensemble({"a": PLAIN, "b": PLAIN.reset_index(drop=True)})


@pytest.mark.parametrize("form", FORMS)
def test_a_loader_takes_frames_in_any_form(form: str) -> None:
    """A frame of one's own is loaded whatever its index is called; its days can be chosen in any spelling."""
    loader = StaticDataLoader(FORMS[form])
    assert loader.load(None)["score"].sort_values().tolist() == PLAIN["score"].tolist()
    assert loader.load(["B"], "20210302")["score"].tolist() == [3.0, 5.0]


PROCESSORS = [
    CSRankNorm(), CSZScoreNorm(), CSZScoreNorm(method="robust"), CSZFillna(), ProcessInf(),
    ZScoreNorm("20210301", "20210302"),
]  # fmt: skip


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_processors_name_the_level_that_they_need(processor: Any) -> None:
    """Called with a frame of other names, a processor says what it needs."""
    frame = pd.concat({"feature": PLAIN.replace(0.0, np.inf)}, axis=1).rename_axis(index=["date", "code"])
    use = processor.fit if isinstance(processor, ZScoreNorm) else processor
    with pytest.raises(DataError, match="needs an index with the level datetime, found 'date', 'code'"):
        use(frame)
