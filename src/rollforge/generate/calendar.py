"""Arithmetic on trading days and bars: aligning dates to a calendar, shifting and truncating segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, overload
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rollforge.dates import (
    DayLike,
    Times,
    as_timestamp,
    has_times,
    read_bound,
    read_times,
    show_time,
    start_of,
    start_position,
    stop_position,
)
from rollforge.errors import SegmentError
from rollforge.frequency import frequency, is_intraday
from rollforge.generate.segments import PATH, has_intervals, pieces
from rollforge.market.universe import session_provider

__all__ = ["OutsideCalendar", "SessionCalendar", "TimeAdjuster"]

Interval = tuple[object, object]
"""The first and the last day of a segment, as a task contains them."""
Aligned = tuple[pd.Timestamp | None, pd.Timestamp | None]


class OutsideCalendar(SegmentError, KeyError):
    """A segment is outside the calendar. Also a KeyError, as Qlib documents."""

    __str__ = Exception.__str__  # a KeyError would quote the whole message


class TimeAdjuster:
    """Finds and moves dates in a trading calendar.

    An index before the start of the calendar, which in Qlib wraps around to its end, raises :class:`OutsideCalendar`, or
    is clipped if a start may be clipped.

    Parameters
    ----------
    future : bool
        True uses the calendar with future days, if the data folder has one.
    end_time : date, optional
        Ignore the days after it.
    calendar : array of dates, optional
        The trading days, ascending, or the times of bars; by default those of the current session's data folder.
    freq : str, optional
        With intraday data, dates are moved by whole days, or by bars if this is the frequency of the data, such as
        ``60min``.

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
        self,
        future: bool = True,
        end_time: DayLike | None = None,
        *,
        calendar: ArrayLike | None = None,
        freq: str | None = None,
    ) -> None:
        by_bars = freq is not None and is_intraday(frequency(freq))
        if calendar is None:
            own = freq if by_bars else None
            calendar = session_provider(freq=own).calendar(own, future=future)
        points = read_times(calendar, "calendar")
        if points.size == 0:
            raise SegmentError("the calendar has no days.")
        self.bars: Times | None = points if has_times(points) else None
        self._all = points if self.bars is None or by_bars else np.unique(points.astype("datetime64[D]"))
        self.set_end_time(end_time)

    def set_end_time(self, end_time: DayLike | None = None) -> None:
        """Ignore the days after `end_time`; None uses all days."""
        self.cals = self._all if end_time is None else self._all[: stop_position(self._all, end_time, "end_time")]
        if self.cals.size == 0:
            raise SegmentError(
                f"there is no trading day up to {end_time}: the calendar starts on {show_time(self._all[0])}."
            )

    @property
    def by_bars(self) -> bool:
        """Whether dates are moved by bars, and not by days."""
        return has_times(self.cals)

    def steps_of(self, periods: int, freq: str = "day") -> int:
        """Return the number of steps of this calendar that cover a number of periods of the data.

        Both are days with daily data, and bars if dates are moved by bars. Otherwise it is the number of days that contain
        as many bars, wherever they begin.

        Parameters
        ----------
        periods : int
            Number of periods.
        freq : str
            Frequency of the data; only needed if this calendar is one of days that was not made from bars.

        Examples
        --------
        >>> hours = np.array([f"2024-01-0{day}T{hour}:00" for day in range(1, 6) for hour in (10, 11, 12)], "M8[s]")
        >>> TimeAdjuster(calendar=hours).steps_of(2), TimeAdjuster(calendar=hours).steps_of(4)
        (1, 2)
        """
        if self.by_bars or periods == 0 or (self.bars is None and not is_intraday(freq)):
            return periods
        bars = session_provider(freq=freq).calendar(freq) if self.bars is None else self.bars
        day = np.searchsorted(self._all, bars.astype("datetime64[D]"), "right") - 1
        last = np.searchsorted(day, np.arange(len(self._all)), "right") - 1
        inside = last + periods < len(day)
        if not inside.any():
            return len(self._all)
        return int((day[last[inside] + periods] - np.flatnonzero(inside)).max())

    def check_days(self, segments: Mapping[str, object], path: str = PATH) -> None:
        """Check that, if dates are moved by days, no segment begins or ends within a day.

        Raises
        ------
        SegmentError
            If one does.
        """
        if self.bars is None or self.by_bars:
            return
        for name, part in pieces(segments, path):
            for bound, position in ((part.start, start_position), (part.end, stop_position)):
                if bound is not None and position(self.bars, bound) != position(self.bars, bound.astype("M8[D]")):
                    raise SegmentError(
                        f"{show_time(bound)} is within a day, but whole days are needed here. Write a day; windows of bars are "
                        "made by RollingGen and CalendarGen with 'freq'.",
                        path=f"{path}.{name}",
                    )

    def exact(self, segment: Aligned) -> tuple[object, object]:
        """Return the ends of an aligned segment so that a bar at midnight is not read as its whole day."""
        start, end = (
            time if time is None or not self.by_bars else time.to_datetime64().astype("M8[s]") for time in segment
        )
        return start, end

    def written(self, segment: Interval | list[Interval]) -> Interval | list[Interval]:
        """Return a segment as a task contains it: unchanged with daily data, and as text with intraday data, in which a
        bar at midnight differs from its day.
        """
        if self.bars is None:
            return segment
        if isinstance(segment, list) and has_intervals(segment):
            return [self.written_ends(part) for part in segment]
        return self.written_ends(segment)

    def written_ends(self, segment: object) -> Interval:
        """Return the ends of a segment of one interval, as :meth:`written`."""
        start, end = _ends(segment)
        return (start, end) if self.bars is None else (self._text(start), self._text(end))

    def _text(self, end: object) -> str | None:
        if end is None or isinstance(end, str):
            return end
        moment = start_of(end)
        return f"{moment:%Y-%m-%d %H:%M:%S}" if self.by_bars else f"{moment:%Y-%m-%d}"

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
            raise OutsideCalendar(
                f"{-idx} days before the calendar's first day, {show_time(self.cals[0])}, there are no data."
            )
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
        exact = self._exact(time_point)
        if exact is not None:
            return exact
        if tp_type == "start":
            return start_position(self.cals, time_point)
        idx = stop_position(self.cals, time_point) - 1
        if idx < 0:
            bound, first = show_time(read_bound(time_point)), show_time(self.cals[0])
            raise OutsideCalendar(f"{bound} is before the first trading day, {first}.")
        return idx

    def _exact(self, time_point: object) -> int | None:
        """Return the position of a bar that is given as a Timestamp: one at midnight is not its whole day."""
        if not self.by_bars or not isinstance(time_point, pd.Timestamp):
            return None
        place = int(np.searchsorted(self.cals, time_point.to_datetime64()))
        return place if place < len(self.cals) and self.cals[place] == time_point.to_datetime64() else None

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
            bound, last = show_time(read_bound(time_point)), show_time(self.cals[-1])
            raise OutsideCalendar(f"{bound} is after the last trading day, {last}.")
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
                f"{_shown(seg)} moved by {step} days starts after the calendar's end, {show_time(self.cals[-1])}."
            )
        return self.get(first), self.get(last)


class SessionCalendar:
    """An attribute that is the calendar of the current session whenever it is read.

    With intraday data it has their days, or their bars if the owner has an attribute ``freq`` that is their frequency.

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
        self._read: WeakKeyDictionary[object, tuple[Times, TimeAdjuster]] = WeakKeyDictionary()

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
        freq = getattr(owner, "freq", None)
        by_bars = freq is not None and is_intraday(frequency(freq))
        own = freq if by_bars else None
        points = session_provider(freq=own).calendar(own, future=self.future)
        known = self._read.get(owner)
        if known is None or known[0] is not points:
            known = self._read[owner] = (points, TimeAdjuster(calendar=points, freq=freq))
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
    start, end = ("open" if e is None else show_time(read_bound(e)) for e in _ends(segment))
    return f"({start}, {end})"
