"""Comparing frames: the first difference, and what counts as equal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rollforge.check.compare import changed_columns, compare, until

DAYS = pd.bdate_range("2024-01-01", periods=3)
INDEX = pd.MultiIndex.from_product([DAYS, ["A", "B"]], names=["datetime", "instrument"])


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({k: np.asarray(v) for k, v in columns.items()}, INDEX)


def test_the_first_column_and_its_first_row_are_given() -> None:
    """With the number of columns, and the earliest day of all."""
    a = frame(x=range(6), y=np.arange(6) / 2)
    b = frame(x=[0, 1, 2, 9, 4, 9], y=[9.0, 0.5, 1, 1.5, 2, 2.5])
    found = compare(a, b)
    assert found is not None
    assert str(found) == "x of B on 2024-01-02 changes from 3 to 9"
    assert (found.columns, str(found.earliest)) == (2, "2024-01-01")


def test_missing_and_infinite_values_are_equal_to_themselves() -> None:
    """A value that becomes missing is a difference."""
    a = frame(x=[1, np.nan, np.inf, -np.inf, 0, 5.0])
    assert compare(a, a.copy()) is None
    b = a.copy()
    b.iloc[0, 0] = np.nan
    assert str(compare(a, b)) == "x of A on 2024-01-01 changes from 1 to missing"
    b = a.copy()
    b.iloc[2, 0] = -np.inf
    assert compare(a, b) is not None


def test_rounding_is_not_a_difference() -> None:
    """The tolerance is relative to the numbers, or for numbers near zero to the largest of the column."""
    a = frame(x=[1e6, 1, 1e-3, 0, 2, 3])
    assert compare(a, a * (1 + 1e-7)) is None
    assert compare(a, a * (1 + 1e-3)) is not None
    b = a.copy()
    b.iloc[3, 0] = 1e-3
    assert compare(a, b) is None
    assert compare(a / 1e6, (b / 1e6).mask(b == 1e6, 0.5)) is not None


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (100.0, 100.0 * (1 + 0.9e-5), False), (100.0, 100.0 * (1 + 1.1e-5), True), (100.0, 100.0 * (1 - 1.1e-5), True),
        (-100.0, -100.0 * (1 + 0.9e-5), False), (-100.0, -100.0 * (1 + 1.1e-5), True),
        # Near zero, a hundredth of the largest number of the column (1,000) counts.
        (0.0, 0.9e-4, False), (0.0, 1.1e-4, True), (0.0, -1.1e-4, True), (np.inf, 1.0, True), (1.0, np.inf, True),
    ],
)  # fmt: skip
def test_the_tolerance_is_a_hundred_thousandth(before: float, after: float, differs: bool) -> None:
    """Of the larger of the two numbers, of any sign; other columns do not count."""
    a, b = (frame(x=[1.0, -1000.0, np.nan, np.inf, x, 0.0], y=[1e9, *range(5)]) for x in (before, after))
    assert (compare(a, b) is not None) is differs
    assert (compare(b, a) is not None) is differs


def test_the_earliest_of_several_differences_is_given() -> None:
    """Of the first column that differs the first day, whatever the order of the rows; and the first day of any column."""
    a = frame(x=range(6), y=range(6)).iloc[::-1]
    b = a.copy()
    b.loc[[(DAYS[1], "B"), (DAYS[2], "A")], "x"] = 9
    b.loc[(DAYS[0], "A"), "y"] = 9
    found = compare(a, b)
    assert found is not None
    assert str(found) == "x of B on 2024-01-02 changes from 3 to 9"
    assert (found.columns, str(found.earliest)) == (2, "2024-01-01")


def test_columns_that_one_frame_has_alone_are_a_difference() -> None:
    """In either of them, also in columns of several levels; the order of columns is none."""
    a, b = frame(x=range(6)), frame(x=range(6), y=range(6))
    for one, other in ((a, b), (b, a)):
        found = compare(one, other)
        assert found is not None
        assert (found.column, found.columns, str(found.day), found.instrument) == ("y", 1, "2024-01-01", "A")
    assert compare(b, b[["y", "x"]]) is None
    assert compare(a.iloc[:0], b.iloc[:0]) is None
    grouped = a.set_axis(pd.MultiIndex.from_tuples([("feature", "F1")]), axis=1)
    assert str(compare(grouped, grouped + 1)) == "F1 of A on 2024-01-01 changes from 0 to 1"


def test_frames_without_instruments_are_compared_by_day() -> None:
    a = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, DAYS.rename("datetime"))
    assert str(compare(a, a.replace(2.0, 3.0))) == "x of 2024-01-02 changes from 2 to 3"
    assert str(compare(a, a.iloc[:2])) == "the row of 2024-01-03 disappears"


def test_of_a_row_that_occurs_twice_the_first_counts() -> None:
    a = frame(x=range(6))
    assert compare(pd.concat([a, a.iloc[:1] + 5]), a) is None
    assert compare(a, pd.concat([a.iloc[:1] + 5, a])) is not None
    assert changed_columns(pd.concat([a, a.iloc[:1] + 5]), a).tolist() == [False]


def test_rows_that_appear_or_disappear_are_differences() -> None:
    """The order of rows is none."""
    a = frame(x=range(6))
    assert str(compare(a, a.drop(index=(DAYS[1], "B")))) == "the row of B on 2024-01-02 disappears"
    assert str(compare(a.drop(index=(DAYS[1], "B")), a)) == "the row of B on 2024-01-02 appears"
    assert compare(a, a.iloc[::-1]) is None
    late = a.drop(index=[(DAYS[1], "B"), (DAYS[2], "A")])
    found = compare(a.drop(index=(DAYS[1], "A")), late)
    assert found is not None
    assert str(found) == "the row of A on 2024-01-02 appears", "the earliest of all that appear or disappear"
    assert (found.columns, found.earliest, found.column) == (0, np.datetime64("2024-01-02"), "")


def test_text_is_compared_as_it_is() -> None:
    """Columns of texts and of numbers may be mixed."""
    a = frame(x=range(6), name=["a", "b", None, "d", "e", "f"])
    assert compare(a, a.copy()) is None
    assert str(compare(a, a.replace({"name": {"d": "z"}}))) == "name of B on 2024-01-02 changes from d to z"


def test_numbers_of_pandas_own_types_are_compared() -> None:
    """A missing value of pandas' own types is equal to itself."""
    a = frame(x=range(6)).astype("Float64")
    a.iloc[0, 0] = pd.NA
    assert compare(a, a.copy()) is None
    b = a.copy()
    b.iloc[3, 0] = 9
    assert str(compare(a, b)) == "x of B on 2024-01-02 changes from 3 to 9"


def test_rows_are_restricted_by_day() -> None:
    """Both ends of a range of days are included."""
    a = frame(x=range(6))
    assert until(a, np.datetime64("2024-01-02"))["x"].tolist() == [0, 1, 2, 3]
    assert until(a, np.datetime64("2024-01-02"), np.datetime64("2024-01-02"))["x"].tolist() == [2, 3]
    assert until(a, None, np.datetime64("2024-01-03"))["x"].tolist() == [4, 5]
    assert until(a, None) is a


def test_changed_columns_are_those_with_any_change() -> None:
    """In the rows that both frames have."""
    a = frame(x=range(6), y=range(6))
    assert changed_columns(a, a.assign(y=0).iloc[1:]).tolist() == [False, True]
    assert changed_columns(a, a[["y", "x"]]).tolist() == [True, True], "other columns count as changed"
    assert changed_columns(a.iloc[:2], a.iloc[2:]).tolist() == [True, True], "so do columns without common rows"
