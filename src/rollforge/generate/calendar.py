"""Arithmetic on trading days: aligning dates to a calendar, shifting and truncating segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, overload
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rollforge.dates import DayLike, Days, as_timestamp, read_day, read_days
from rollforge.errors import SegmentError
from rollforge.market.universe import session_provider

__all__ = ["OutsideCalendar", "SessionCalendar", "TimeAdjuster"]

Aligned = tuple[pd.Timestamp | None, pd.Timestamp | None]


class OutsideCalendar(SegmentError, KeyError):
    """A segment is outside the calendar. Also a KeyError, as Qlib documents."""

    __str__ = Exception.__str__  # a KeyError would quote the whole message


class TimeAdjuster:
    """Finds and moves dates in a trading calendar.

    For an index before the calendar, which in Qlib wraps around to its end, this raises :class:`OutsideCalendar`, or
    clips it if a start may be clipped.

    Parameters
    ----------
    future : bool
        True uses the calendar with future days, if the data folder has one.
    end_time : date, optional
        Ignore the days after it.
    calendar : array of dates, optional
        The trading days, ascending; by default those of the current session's data folder.

    Examples
    --------
    >>> ta = TimeAdjuster(calendar=["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"])
    >>> ta.align_seg(("2024-01-01", "2024-01-06"))
    (Timestamp('2024-01-02 00:00:00'), Timestamp('2024-01-05 00:00:00'))
    >>> ta.shift(("2024-01-02", "2024-01-03"), 2)
    (Timestamp('2024-01-04 00:00:00'), Timestamp('2024-01-05 00:00:00'))
    >>> ta.shift(("2024-01-02", "2024-01-03"), 2, TimeAdjuster.SHIFT_EX)
    (Timestamp('2024-01-02 00:00:00'), Timestamp('2024-01-05 00:00:00'))
    """

    SHIFT_SD = "sliding"
    SHIFT_EX = "expanding"

    def __init__(
        self, future: bool = True, end_time: DayLike | None = None, *, calendar: ArrayLike | None = None
    ) -> None:
        days = session_provider().calendar(future=future) if calendar is None else calendar
        self._all = read_days(days, "calendar")
        if self._all.size == 0:
            raise SegmentError("the calendar has no days.")
        self.set_end_time(end_time)

    def set_end_time(self, end_time: DayLike | None = None) -> None:
        """Ignore the days after `end_time`; None uses all days."""
        self.cals = self._all if end_time is None else self._all[self._all <= read_day(end_time, "end_time")]
        if self.cals.size == 0:
            raise SegmentError(f"there is no trading day up to {end_time}: the calendar starts on {self._all[0]}.")

    def get(self, idx: int | None) -> pd.Timestamp | None:
        """Return the day at an index; None if the index is past the end of the calendar.

        Raises
        ------
        OutsideCalendar
            If the index is negative.
        """
        if idx is None or idx >= len(self.cals):
            return None
        if idx < 0:
            raise OutsideCalendar(f"{-idx} days before the calendar's first day, {self.cals[0]}, there are no data.")
        return as_timestamp(self.cals[idx])

    def max(self) -> pd.Timestamp:
        """Return the last day."""
        return as_timestamp(self.cals[-1])

    def align_idx(self, time_point: DayLike | None, tp_type: str = "start") -> int | None:
        """Return the index of the first day on or after a date; with ``tp_type="end"``, of the last on or before it.

        Returns
        -------
        int or None
            None for None (open-ended); the calendar's length for a start after its last day.

        Raises
        ------
        OutsideCalendar
            If an end is before the first day.
        """
        if tp_type not in ("start", "end"):
            raise ValueError(f"tp_type must be 'start' or 'end', found {tp_type!r}.")
        if time_point is None:
            return None
        day = read_day(time_point)
        if tp_type == "start":
            return int(np.searchsorted(self.cals, day))
        idx = int(np.searchsorted(self.cals, day, "right")) - 1
        if idx < 0:
            raise OutsideCalendar(f"{day} is before the first trading day, {self.cals[0]}.")
        return idx

    def cal_interval(self, time_point_A: DayLike | None, time_point_B: DayLike | None) -> int:  # noqa: N803 - Qlib's names
        """Return the number of trading days from B to A; negative if A is before B."""
        a, b = self.align_idx(time_point_A), self.align_idx(time_point_B)
        if a is None or b is None:
            raise TypeError("cal_interval needs two dates.")
        return a - b

    def align_time(self, time_point: DayLike | None, tp_type: str = "start") -> pd.Timestamp | None:
        """Return the trading day that a date is aligned to; None for None.

        Raises
        ------
        OutsideCalendar
            If there is none.
        """
        idx = self.align_idx(time_point, tp_type)
        if idx is not None and idx >= len(self.cals):
            raise OutsideCalendar(f"{read_day(time_point)} is after the last trading day, {self.cals[-1]}.")
        return self.get(idx)

    @overload
    def align_seg(self, segment: dict[str, Any]) -> dict[str, Aligned]: ...

    @overload
    def align_seg(self, segment: Sequence[object]) -> Aligned: ...

    def align_seg(self, segment: dict[str, Any] | Sequence[object]) -> dict[str, Any] | Aligned:
        """Return a segment, or a dict of segments, with both ends aligned to trading days."""
        if isinstance(segment, dict):
            return {k: self.align_seg(seg) for k, seg in segment.items()}
        start, end = _ends(segment)
        return self.align_time(start, "start"), self.align_time(end, "end")

    def truncate(
        self, segment: object, test_start: DayLike | None, days: int
    ) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
        """Return a segment that ends at least `days` trading days before `test_start`.

        For a label that looks 2 days ahead, `days` is 3: the label of the last training day then ends the day before
        `test_start`.

        Raises
        ------
        OutsideCalendar
            If nothing is left of it.
        """
        last = self.align_idx(test_start)
        if last is None:
            raise SegmentError("truncating needs the first day of the test segment.")
        last -= days
        start, end = _ends(segment)
        first_idx, end_idx = self.align_idx(start), self.align_idx(end)
        if last < 0:
            raise OutsideCalendar(
                f"nothing is left of {_shown(segment)}: fewer than {days} days lie before {test_start}."
            )
        return (
            self.get(min(first_idx if first_idx is not None else 0, last)),
            self.get(min(end_idx if end_idx is not None else last, last)),
        )

    def shift(self, seg: object, step: int, rtype: str = SHIFT_SD) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
        """Return a segment moved by `step` trading days; ``expanding`` moves only its end.

        Returns
        -------
        tuple
            None for an end that was open, or is now past the end of the calendar.

        Raises
        ------
        OutsideCalendar
            If the start leaves the calendar, or the end is before the first day.
        """
        start, end = _ends(seg)
        first, last = self.align_idx(start, "start"), self.align_idx(end, "end")
        if rtype not in (self.SHIFT_SD, self.SHIFT_EX):
            raise ValueError(f"rtype must be 'sliding' or 'expanding', found {rtype!r}.")
        if first is not None and rtype == self.SHIFT_SD:
            first = max(0, first + step)
        last = None if last is None else last + step
        if first is not None and first > len(self.cals):
            raise OutsideCalendar(
                f"{_shown(seg)} moved by {step} days starts after the calendar's end, {self.cals[-1]}."
            )
        return self.get(first), self.get(last)


class SessionCalendar:
    """An attribute that is the calendar of the current session whenever it is read.

    A generator can outlive its calendar by years, in a process or in a file. If a :class:`TimeAdjuster` is assigned to
    the attribute, that one is used from then on; assigning None restores the session's.

    Parameters
    ----------
    future : bool
        Whether the session's calendar includes future days, if the data folder has them.

    Examples
    --------
    >>> class Generator:
    ...     ta = SessionCalendar()
    >>> generator = Generator()
    >>> generator.ta = TimeAdjuster(calendar=["2024-01-02", "2024-01-03"])
    >>> generator.ta.max()
    Timestamp('2024-01-03 00:00:00')
    """

    def __init__(self, *, future: bool = True) -> None:
        self.future = future
        self._read: WeakKeyDictionary[object, tuple[Days, TimeAdjuster]] = WeakKeyDictionary()

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...

    @overload
    def __get__(self, owner: object, kind: type) -> TimeAdjuster: ...

    def __get__(self, owner: object | None, kind: type) -> Self | TimeAdjuster:
        if owner is None:
            return self
        given: TimeAdjuster | None = vars(owner).get(_GIVEN)
        if given is not None:
            return given
        days = session_provider().calendar(future=self.future)
        known = self._read.get(owner)
        if known is None or known[0] is not days:
            known = self._read[owner] = (days, TimeAdjuster(calendar=days))
        return known[1]

    def __set__(self, owner: object, given: TimeAdjuster | None) -> None:
        vars(owner)[_GIVEN] = given


_GIVEN = "_given_calendar"


def _ends(segment: object) -> tuple[Any, Any]:
    if isinstance(segment, slice):
        return segment.start, segment.stop
    if isinstance(segment, (tuple, list)) and len(segment) == 2:
        return segment[0], segment[1]
    raise SegmentError(f"a segment must be (first day, last day), found {segment!r}.")


def _shown(segment: object) -> str:
    start, end = ("open" if e is None else read_day(e) for e in _ends(segment))
    return f"({start}, {end})"
