"""The days after which the market data of a window are replaced, and the models that are fitted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.check.cases import Border, Case, borders_of, days_of, last_read, middle_day
from rollforge.check.columns import Columns, column_name, constant_columns, is_label, without_times
from rollforge.check.measurement import Measurement, Scope
from rollforge.generate.label_horizon import HorizonSource, LabelHorizon
from rollforge.generate.timeline import windows

DAYS = pd.bdate_range("2024-01-01", "2024-06-28").to_numpy().astype("datetime64[D]")
SEGMENTS = {
    "train": ["2024-01-01", "2024-02-29"],
    "valid": ["2024-03-04", "2024-03-29"],
    "test": ["2024-04-01", "2024-05-31"],
}


def day(text: str) -> np.datetime64:
    return np.datetime64(text, "D")


def case(segments: dict[str, Any]) -> Case:
    task = {"dataset": {"kwargs": {"segments": segments}}}
    (window,) = windows([task], DAYS)
    return Case(task, window, [("a", task), ("b", task)])


def columns(days: int | None = 2, source: HorizonSource = HorizonSource.EXPRESSION, **more: Any) -> Columns:
    return Columns(LabelHorizon(days, source, "", **more))


@pytest.mark.parametrize(
    ("start", "end", "middle"),
    [
        ("2024-01-01", "2024-01-05", "2024-01-02"),  # Monday to Friday
        ("2024-01-01", "2024-01-04", "2024-01-02"),
        ("2024-01-01", "2024-01-02", "2024-01-01"),
        ("2024-01-01", "2024-01-01", "2024-01-01"),
        ("2024-01-01", "2024-01-10", "2024-01-04"),
        ("2024-01-01", "2024-01-12", "2024-01-08"),  # the middle would be a Friday
        ("2024-01-26", "2024-02-06", "2024-02-01"),  # or the last day of January, a Wednesday
        ("2024-01-06", "2024-01-13", "2024-01-09"),  # weekends are not trading days
    ],
)
def test_the_middle_day_is_not_the_last_of_a_week_or_month(start: str, end: str, middle: str) -> None:
    """The middle day is not the last day of the segment either, unless it is the only one."""
    assert middle_day(day(start), day(end), DAYS) == day(middle)


def test_borders_are_before_each_later_segment() -> None:
    """Days between segments belong to the earlier one; segments without a day have no border."""
    assert borders_of(case(SEGMENTS), DAYS) == [
        Border(day("2024-03-01"), "train", day("2024-01-01"), day("2024-02-29"), "valid"),
        Border(day("2024-03-29"), "valid", day("2024-03-04"), day("2024-03-29"), "test"),
    ]
    split = {
        "train": [["2024-01-01", "2024-01-05"], ["2024-03-01", "2024-06-28"]],
        "test": ["2024-01-15", "2024-02-16"],
    }
    assert borders_of(case(split), DAYS) == [
        Border(day("2024-01-12"), "train", day("2024-01-01"), day("2024-01-05"), "test"),
        Border(day("2024-02-29"), "test", day("2024-01-15"), day("2024-02-16"), "train"),
    ]
    assert borders_of(case({**SEGMENTS, "other": ["2024-06-03", "2024-06-28"]}), DAYS) == borders_of(
        case(SEGMENTS), DAYS
    )
    empty = {"train": ["2024-01-06", "2024-01-07"], "test": ["2024-01-08", "2024-01-31"]}
    assert borders_of(case(empty), DAYS) == []


def test_the_last_day_read_is_that_of_the_labels_of_train_and_valid() -> None:
    """The last day follows from the definition or the measurement; a label that counts rows may read up to the next segment."""
    assert last_read(case(SEGMENTS), DAYS, columns()) == day("2024-04-02")
    measured = columns(0)
    measured.measured = 3
    assert last_read(case(SEGMENTS), DAYS, measured) == day("2024-04-03")
    assert last_read(case(SEGMENTS), DAYS, columns(None, HorizonSource.UNKNOWN)) == day("2024-03-29")
    gap = {**SEGMENTS, "test": ["2024-04-22", "2024-05-31"]}
    assert last_read(case(gap), DAYS, columns()) == day("2024-04-02")
    assert last_read(case(gap), DAYS, columns(2, HorizonSource.DECLARED)) == day("2024-04-19")
    assert last_read(case(gap), DAYS, columns(20, HorizonSource.DECLARED)) == day("2024-04-26")
    late = {"train": ["2024-01-01", "2024-06-24"], "test": ["2024-06-25", "2024-06-28"]}
    assert last_read(case(late), DAYS, columns(3)) == day("2024-06-27")
    assert last_read(case(late), DAYS, columns(4)) is None, "there is no later day"
    assert last_read(case({"test": SEGMENTS["test"]}), DAYS, columns()) is None


def test_the_days_are_sorted_and_distinct() -> None:
    """The middle of train and test, each border, and the last day that the labels read."""
    assert days_of(case(SEGMENTS), DAYS, columns()) == [
        day("2024-01-30"), day("2024-03-01"), day("2024-03-29"), day("2024-04-02"), day("2024-05-01"),
    ]  # fmt: skip
    assert days_of(case(SEGMENTS), DAYS, columns(0)) == [
        day("2024-01-30"), day("2024-03-01"), day("2024-03-29"), day("2024-05-01"),
    ]  # fmt: skip
    assert case(SEGMENTS).titles == ("a", "b")


def test_columns_are_named_and_told_apart() -> None:
    """Labels are those of the group label; a column with one value is constant, whether or not values are missing."""
    grouped = pd.DataFrame(
        [[1.0, 1.0, np.nan, 3.0], [1.0, 2.0, 5.0, 4.0]],
        columns=pd.MultiIndex.from_tuples([("feature", "A"), ("feature", "B"), ("feature", "label"), ("label", "L")]),
    )
    assert is_label(grouped).tolist() == [False, False, False, True]
    assert is_label(grouped.droplevel(0, axis=1)).tolist() == [False] * 4
    assert constant_columns(grouped).tolist() == [True, False, True, False]
    assert column_name(("feature", "A")) == "A"
    assert column_name("close") == "close"
    described = {"kwargs": {"start_time": 1, "fit_end_time": 2, "infer": [3], "deep": {"end_time": 4, "x": 5}}}
    assert without_times(described) == {"kwargs": {"infer": [3], "deep": {"x": 5}}}


def test_a_label_reaches_as_far_as_its_horizon_is_counted() -> None:
    """In days of the calendar, or in rows of the instrument; the larger of the known and the measured days counts."""
    for in_rows, reach in ((False, 5), (True, 3)):
        made = columns(4, in_rows=in_rows)
        made.measured, made.measured_rows = 5, 3
        assert (made.reach, made.ahead) == (reach, 5)
    assert columns(4).ahead == 4
    assert columns(None, HorizonSource.UNKNOWN).ahead == 0


def test_quick_fits_one_model_of_each_class() -> None:
    """Classes of different modules are different, whatever their names and however they are given."""
    given = [
        ("first", "a.py", 1), ("again", "a.py", 2), ("other module", "b.py", 1),
    ]  # fmt: skip
    tasks: list[tuple[str, dict[str, Any]]] = [
        (title, {"model": {"class": "Model", "module_path": module, "kwargs": {"seed": seed}}})
        for title, module, seed in given
    ]
    tasks += [("by path", {"model": "mine.Model"}), ("another", {"model": "mine.Other"})]
    listed = Case({}, case(SEGMENTS).window, list(tasks))
    quick = Measurement.fitted(SimpleNamespace(scope=Scope(quick=True)), listed)
    assert [title for title, _ in quick] == ["first", "other module", "by path", "another"]
    assert Measurement.fitted(SimpleNamespace(scope=Scope()), listed) == tasks
