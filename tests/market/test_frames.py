"""External frames: other index level names, other types of days, tables of other libraries."""

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
from rollforge.market.frames import day_rows, number_rows

DAYS = pd.bdate_range("2021-03-01", periods=3).as_unit("ns")
PLAIN = pd.DataFrame(
    {"score": np.arange(6.0)}, pd.MultiIndex.from_product([DAYS, ["A", "B"]], names=["datetime", "instrument"])
)


class ArrowStream:
    """A table of a library other than pandas, with only the Arrow interface; its repr is long."""

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
    "streamed": ArrowStream(_arrow()),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_found_in_any_form(form: str) -> None:
    """Whatever the names, order and types of the levels, the rows are found by datetime and instrument."""
    pd.testing.assert_frame_equal(day_rows(FORMS[form], "The table"), PLAIN, check_freq=False)


def test_frames_in_the_right_form_are_returned_unchanged() -> None:
    """Nothing is copied unnecessarily; series remain series, and unsorted rows keep their order."""
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
        (None, "found None"),
        ("<PRED>", "found a str"),
        (ArrowStream(pa.chunked_array([[1, 2]])), "ArrowStream"),
        (PLAIN.reset_index(drop=True), "found one level of int64"),
        (PLAIN.droplevel("datetime"), "found 'instrument'"),
        (PLAIN.droplevel("instrument"), "found 'datetime'"),
        (PLAIN.set_axis(pd.MultiIndex.from_product([["x", "y", "z"], ["A", "B"]])), "found an unnamed level, an unnamed level"),
        (PLAIN.set_axis(pd.MultiIndex.from_product([["2021-03-01", "2021-02-30", "2021-03-03"], ["A", "B"]],
                                                   names=["date", "code"])), "row 3 of the index.*February 2021"),
        (_arrow({"a": [1.0], "b": [2.0]}), "found one level of int64"),
    ],
)  # fmt: skip
def test_a_table_without_days_is_refused(value: Any, words: str) -> None:
    """With a one-line message that says what it is, without its contents."""
    with pytest.raises(DataError, match=words) as caught:
        day_rows(value, "The signal")
    assert str(caught.value).startswith("The signal")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_ensembles_accept_other_index_names() -> None:
    """Ensembles accept results with other index names, and report the one without days."""
    first, last = PLAIN[:4].rename_axis(index=[None, None]), PLAIN[4:].rename_axis(index=["date", "code"])
    pd.testing.assert_frame_equal(RollingEnsemble()({"a": first, "b": last}), PLAIN, check_freq=False)
    mean = AverageEnsemble()({"a": PLAIN["score"], "b": PLAIN["score"].rename_axis(index=["date", "code"])})
    pd.testing.assert_series_equal(mean, AverageEnsemble()({"a": PLAIN["score"]}), check_freq=False)
    for ensemble in (RollingEnsemble(), AverageEnsemble()):
        with pytest.raises(DataError, match="'b' needs an index with the levels datetime and instrument"):
            ensemble({"a": PLAIN, "b": PLAIN.reset_index(drop=True)})


@pytest.mark.parametrize("form", FORMS)
def test_a_loader_accepts_frames_in_any_form(form: str) -> None:
    """A user's frame is loaded whatever the names of its index; its days can be selected in any notation."""
    loader = StaticDataLoader(FORMS[form])
    assert loader.load(None)["score"].sort_values().tolist() == PLAIN["score"].tolist()
    assert loader.load(["B"], "20210302")["score"].tolist() == [3.0, 5.0]


PROCESSORS = [
    CSRankNorm(), CSZScoreNorm(), CSZScoreNorm(method="robust"), CSZFillna(), ProcessInf(),
    ZScoreNorm("20210301", "20210302"),
]  # fmt: skip


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_processors_report_a_missing_level(processor: Any) -> None:
    """Called with a frame with other names, a processor reports the level that it needs."""
    frame = pd.concat({"feature": PLAIN.replace(0.0, np.inf)}, axis=1).rename_axis(index=["date", "code"])
    use = processor.fit if isinstance(processor, ZScoreNorm) else processor
    with pytest.raises(DataError, match="needs an index with the level datetime, found 'date', 'code'"):
        use(frame)


def _rows(days: Any = None, instruments: Any = None, **columns: Any) -> pd.DataFrame:
    days = pd.to_datetime(["2020-01-01", "2020-01-02"]) if days is None else days
    index = pd.MultiIndex.from_arrays([days, instruments or ["A", "B"]], names=["datetime", "instrument"])
    return pd.DataFrame(columns or {"score": [1.0, 2.0]}, index=index)


def _labelled(*labels: Any) -> pd.DataFrame:
    frame = pd.concat([_rows()] * len(labels), axis=1)
    frame.columns = pd.Index(labels, dtype=object, tupleize_cols=False)
    return frame


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_rows(score=pd.Series([{}, 1.0], dtype=object).to_numpy()), "column 'score': not all values are real numbers"),
        (_rows(score=["x", "y"]), "column 'score': not all values are real numbers"),
        (_rows(score=["1.5", "2"]), r"column 'score': not all values are real numbers \(it is of type string\)"),
        (
            _rows()[["score"]].astype(object).replace(2.0, 10**400),
            "column 'score': not all values are real numbers",
        ),
        (_rows(score=[1j, 2j]), "it is of type complex128"),
        (_rows(score=pd.to_datetime(["2020-01-01"] * 2)), "it is of type datetime64"),
        (
            _rows(days=pd.DatetimeIndex([pd.NaT, pd.Timestamp("2020-01-01")])),
            "row 1 of the index: there is no datetime",
        ),
        (_rows(instruments=["A", None]), "row 2 of the index: there is no instrument"),
        (_rows(instruments=["A", 5]), "instruments of several types"),
        (_rows(instruments=["A", ("B",)]), "instruments of several types"),
        (_rows()[[]], "no columns"),
        (_labelled("a", "a"), "several columns 'a'"),
        (_labelled(["a"]), "a list or a dict"),
        (5, "found an int"),
    ],
)
def test_predictions_and_labels_are_numbers(value: Any, message: str) -> None:
    """Anything but a table of real numbers by day and instrument is one error, before anything is computed."""
    with pytest.raises(DataError, match=message):
        number_rows(value, "The pred")


@pytest.mark.parametrize(
    "value",
    [
        _rows(), _rows()["score"], _rows(score=[True, False]), _rows(score=[None, 1.5]), _rows(score=[1, 2], other=[1.0, None]),
        _rows(instruments=[1, 2]), _rows(score=pd.array([1, None], dtype="Int64")), _rows(score=np.array([1, None], object)),
    ],
)  # fmt: skip
def test_tables_of_numbers_are_unchanged(value: Any) -> None:
    """Of any type of numbers, also with missing ones."""
    assert number_rows(value, "x") is value
