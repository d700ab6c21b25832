"""Arithmetic on trading days, by hand on a calendar of eight days, and the errors at its ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import SegmentError
from rollforge.generate import TimeAdjuster
from rollforge.generate.calendar import OutsideCalendar
from rollforge.market.folder_writer import write_folder
from rollforge.session import Session, using

DAYS = ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11"]
TA = TimeAdjuster(calendar=DAYS)


def shown(segment: Any) -> tuple[str | None, ...]:
    return tuple(None if day is None else str(day.date()) for day in segment)


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2024-01-02", 0, 0),
        ("2024-01-06", 4, 3),
        ("2024-01-08", 4, 4),
        ("2024-01-11", 7, 7),
        ("2024-01-12", 8, 7),
        ("2023-12-29", 0, None),
        (None, None, None),
    ],
)
def test_a_date_is_aligned_inwards(day: Any, start: Any, end: Any) -> None:
    """A start to the next trading day, an end to the previous one; a start may be after the calendar, an end not before
    it.
    """
    assert TA.align_idx(day) == start
    if day is not None and end is None:
        with pytest.raises(OutsideCalendar, match="2023-12-29 is before the first trading day, 2024-01-02"):
            TA.align_idx(day, "end")
    else:
        assert TA.align_idx(day, "end") == end


def test_days_are_looked_up_by_position() -> None:
    """The first and the last day are found; the result is None after the calendar, and an error before it says by how much."""
    assert TA.get(0) == pd.Timestamp("2024-01-02")
    assert TA.get(7) == TA.max() == pd.Timestamp("2024-01-11")
    assert TA.get(8) is TA.get(None) is None
    with pytest.raises(OutsideCalendar, match="1 days before the calendar's first day, 2024-01-02"):
        TA.get(-1)
    with pytest.raises(OutsideCalendar, match="2024-01-12 is after the last trading day, 2024-01-11"):
        TA.align_time("2024-01-12")


def test_an_interval_is_a_number_of_trading_days() -> None:
    """Positive towards later days; both ends are required."""
    assert TA.cal_interval("2024-01-08", "2024-01-04") == 2
    assert TA.cal_interval("2024-01-04", "2024-01-08") == -2
    for pair in ((None, "2024-01-04"), ("2024-01-04", None)):
        with pytest.raises(TypeError, match="two dates"):
            TA.cal_interval(*pair)


@pytest.mark.parametrize(
    ("segment", "step", "sliding", "expanding"),
    [
        (("2024-01-03", "2024-01-04"), 2, ("2024-01-05", "2024-01-08"), ("2024-01-03", "2024-01-08")),
        (("2024-01-04", "2024-01-09"), -2, ("2024-01-02", "2024-01-05"), ("2024-01-04", "2024-01-05")),
        (("2024-01-03", "2024-01-09"), -3, ("2024-01-02", "2024-01-04"), ("2024-01-03", "2024-01-04")),
        (("2024-01-10", None), 1, ("2024-01-11", None), ("2024-01-10", None)),
        ((None, "2024-01-09"), 1, (None, "2024-01-10"), (None, "2024-01-10")),
        (("2024-01-10", "2024-01-11"), 2, (None, None), ("2024-01-10", None)),
        (slice("2024-01-03", "2024-01-04"), 1, ("2024-01-04", "2024-01-05"), ("2024-01-03", "2024-01-05")),
    ],
)
def test_segments_are_moved_by_trading_days(segment: Any, step: int, sliding: Any, expanding: Any) -> None:
    """Both ends of a segment are moved, or the later one; a start stays inside the calendar, an end after it is
    open."""
    assert shown(TA.shift(segment, step)) == sliding
    assert shown(TA.shift(segment, step, TA.SHIFT_EX)) == expanding


def test_a_segment_that_leaves_the_calendar_is_named() -> None:
    """With the number of days by which it was moved, and the day that it passed."""
    with pytest.raises(OutsideCalendar) as caught:
        TA.shift(("2024-01-10", None), 3)
    assert str(caught.value) == ("(2024-01-10, open) moved by 3 days starts after the calendar's end, 2024-01-11.")
    with pytest.raises(OutsideCalendar, match="1 days before"):
        TA.shift(("2024-01-02", "2024-01-03"), -2)
    with pytest.raises(ValueError, match="'sliding' or 'expanding', found 'up'"):
        TA.shift(("2024-01-02", "2024-01-03"), 1, "up")
    with pytest.raises(SegmentError, match="a segment must be"):
        TA.shift(("2024-01-02",), 1)


@pytest.mark.parametrize(
    ("segment", "days", "cut"),
    [
        (("2024-01-02", "2024-01-08"), 1, ("2024-01-02", "2024-01-08")),
        (("2024-01-02", "2024-01-08"), 2, ("2024-01-02", "2024-01-05")),
        (("2024-01-03", "2024-01-04"), 2, ("2024-01-03", "2024-01-04")),
        (("2024-01-05", None), 2, ("2024-01-05", "2024-01-05")),
        ((None, None), 5, ("2024-01-02", "2024-01-02")),
        (("2024-01-08", "2024-01-08"), 4, ("2024-01-03", "2024-01-03")),
    ],
)
def test_a_segment_ends_some_days_before_a_test(segment: Any, days: int, cut: Any) -> None:
    """The test starts on the sixth day; a segment that ends early enough is unchanged."""
    assert shown(TA.truncate(segment, "2024-01-09", days)) == cut


def test_a_segment_without_remaining_days_is_refused() -> None:
    """The error has the requested days; a test must have a start."""
    with pytest.raises(OutsideCalendar, match=r"nothing is left of \(2024-01-02, 2024-01-08\): fewer than 6 days"):
        TA.truncate(("2024-01-02", "2024-01-08"), "2024-01-09", 6)
    with pytest.raises(SegmentError, match="needs the first day of the test segment"):
        TA.truncate(("2024-01-02", "2024-01-08"), None, 1)


def test_days_after_an_end_do_not_exist() -> None:
    """Days after an end exist again when the end is removed; a calendar that would be empty is an error with its first
    day."""
    made = TimeAdjuster(calendar=DAYS, end_time="2024-01-05")
    assert made.max() == pd.Timestamp("2024-01-05")
    assert shown(made.shift(("2024-01-03", "2024-01-04"), 1)) == ("2024-01-04", "2024-01-05")
    with pytest.raises(
        SegmentError, match="there is no trading day up to 2024-01-01: the calendar starts on 2024-01-02"
    ):
        made.set_end_time("2024-01-01")
    made.set_end_time()
    assert made.max() == pd.Timestamp("2024-01-11")
    assert TimeAdjuster(calendar=DAYS, end_time="2024-01-02").cals.size == 1


def test_dicts_and_pairs_of_segments_are_aligned() -> None:
    """Each segment of a dict is aligned separately."""
    both = TA.align_seg({"train": ("2024-01-01", "2024-01-06"), "test": slice("2024-01-07", None)})
    assert {k: shown(v) for k, v in both.items()} == {
        "train": ("2024-01-02", "2024-01-05"), "test": ("2024-01-08", None),
    }  # fmt: skip


@pytest.fixture
def folder_with_future(tmp_path: Any) -> Session:
    """A data folder of four days, with a calendar that has two more."""
    days = np.array(DAYS[:4], "datetime64[D]")
    series = {"A": (0, {"close": np.ones(4, np.float32)})}
    write_folder(tmp_path / "data", days, series, {"all": {"A": [(days[0], days[-1])]}})
    (tmp_path / "data" / "calendars" / "day_future.txt").write_text("\n".join(DAYS[:6]) + "\n")
    return Session(provider_uri=str(tmp_path / "data"), cache=str(tmp_path / "cache"))


def test_the_calendar_has_future_days_by_default(folder_with_future: Session) -> None:
    """Future windows can therefore be planned on days without prices."""
    with using(folder_with_future):
        assert TimeAdjuster().max() == pd.Timestamp("2024-01-09")
        assert TimeAdjuster(future=False).max() == pd.Timestamp("2024-01-05")


def test_windows_are_rolled_into_the_future(folder_with_future: Session) -> None:
    """The generator also uses the days that have no prices yet."""
    from rollforge.generate import RollingGen

    segments = {"train": ("2024-01-02", "2024-01-03"), "test": ("2024-01-04", None)}
    with using(folder_with_future):
        made = RollingGen(2, "sliding").generate({"model": {}, "dataset": {"kwargs": {"segments": segments}}})
    assert [shown(t["dataset"]["kwargs"]["segments"]["test"]) for t in made] == [
        ("2024-01-04", "2024-01-05"), ("2024-01-08", "2024-01-09"),
    ]  # fmt: skip


def test_a_generator_uses_the_calendar_of_the_session(folder_with_future: Session, tmp_path: Path) -> None:
    """The session's calendar is read once while it stays the same, and again where a session has another one."""
    from rollforge.generate import RollingGen

    days = np.array(DAYS[:3], "datetime64[D]")
    write_folder(
        tmp_path / "other", days, {"A": (0, {"close": np.ones(3, np.float32)})}, {"all": {"A": [(days[0], days[-1])]}}
    )
    generator = RollingGen(2, "sliding")
    with using(folder_with_future):
        read = generator.ta
        assert read.max() == pd.Timestamp("2024-01-09")
        assert generator.ta is read
    with using(Session(provider_uri=str(tmp_path / "other"), cache=str(tmp_path / "cache"))):
        assert generator.ta.max() == pd.Timestamp("2024-01-04")
