"""The windows that are checked, and the days after which their market data are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rollforge.check.columns import Columns
from rollforge.generate.label_horizon import HorizonSource
from rollforge.generate.segments import next_pieces, pieces
from rollforge.generate.task_view import TaskView
from rollforge.generate.timeline import Window

__all__ = ["Border", "Case", "borders_of", "days_of", "last_read", "middle_day"]

_SEGMENTS = ("train", "valid", "test")


@dataclass
class Case:
    """A window of one or several models with the same data."""

    task: Mapping[str, object]
    window: Window
    models: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    """Title and task of each model."""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(title for title, _ in self.models)


def middle_day(start: np.datetime64, end: np.datetime64, calendar: NDArray[np.datetime64]) -> np.datetime64:
    """Return a day in the middle of a segment, but not its last one.

    If possible, the next day is in the same week and month: the last price of a week or a month looks ahead on the days
    before it.
    """
    first, last = int(np.searchsorted(calendar, start)), int(np.searchsorted(calendar, end, "right")) - 1
    place = first + max(0, (last - first - 1) // 2)
    for day in range(place, min(place + _NEAR, last)):
        if _week(calendar[day]) == _week(calendar[day + 1]) and _month(calendar[day]) == _month(calendar[day + 1]):
            place = day
            break
    middle: np.datetime64 = calendar[place]
    return middle


_NEAR = 7  # number of days that are searched for a better middle day


def _week(day: np.datetime64) -> int:
    return (
        int(day.astype("datetime64[D]").astype(np.int64)) + 3
    ) // 7  # 1970-01-01 was a Thursday; weeks begin on Mondays


def _month(day: np.datetime64) -> int:
    return int(day.astype("datetime64[M]").astype(np.int64))


def last_read(case: Case, calendar: NDArray[np.datetime64], columns: Columns) -> np.datetime64 | None:
    """Return the last day that the labels of train and valid read; None if it is the last of the calendar or later.

    Labels that count rows of an instrument may read any day before the next segment.
    """
    fitted = [case.window.segments[name].end for name in _SEGMENTS[:2] if name in case.window.segments]
    if not fitted:
        return None
    place = int(np.searchsorted(calendar, max(fitted), "right")) - 1 + columns.ahead
    if columns.horizon.source is not HorizonSource.EXPRESSION:
        behind = [int(np.searchsorted(calendar, b.day)) for b in borders_of(case, calendar) if b.end == max(fitted)]
        place = max([place, *behind])
    return calendar[place] if place < len(calendar) - 1 else None


@dataclass(frozen=True, slots=True)
class Border:
    """The days of a segment, or of an interval of it, before a later segment."""

    day: np.datetime64
    """The last day before the later segment."""
    name: str
    start: np.datetime64
    end: np.datetime64
    later: str


def borders_of(case: Case, calendar: NDArray[np.datetime64]) -> list[Border]:
    """Return the segments that are followed by others."""
    segments = TaskView(case.task).segments
    own = pieces({name: segments[name] for name in _SEGMENTS if name in segments})
    found = []
    for earlier, following in next_pieces(own):
        (name, interval), (later, behind) = own[earlier], own[following]
        first, stop = interval.positions(calendar)
        place = behind.positions(calendar)[0] - 1
        if first < stop and place >= 0:
            found.append(Border(calendar[place], name, calendar[first], calendar[stop - 1], later))
    return found


def days_of(case: Case, calendar: NDArray[np.datetime64], columns: Columns) -> list[np.datetime64]:
    """Return the days after which the market data are replaced."""
    days = [border.day for border in borders_of(case, calendar)]
    days += [
        middle_day(case.window.segments[name].start, case.window.segments[name].end, calendar)
        for name in ("train", "test")
        if name in case.window.segments
    ]
    fitted = last_read(case, calendar, columns)
    return sorted({*days, *([fitted] if fitted is not None else [])})
