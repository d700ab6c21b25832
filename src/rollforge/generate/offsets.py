"""Offsets of dates: how often a model is trained again, and how long its segments are."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pandas as pd
from pandas.tseries import offsets
from pandas.tseries.frequencies import to_offset

from rollforge.arguments import is_whole_number
from rollforge.dates import as_timestamp
from rollforge.errors import ConfigError, shown

__all__ = ["Duration", "Offset", "as_plain", "period_starts", "read_length", "read_offset"]

Offset = offsets.BaseOffset
Duration: TypeAlias = dt.timedelta | np.timedelta64 | Offset
"""Objects that are lengths of time."""

_WORDS = re.compile(r"(?:(?P<number>\d{1,6})\s*)?(?P<unit>(?:day|week|month|quarter|year)s?|[MQYAywd])", re.ASCII)
_ALIASES = {
    "day": "D",
    "d": "D",
    "w": "W",
    "y": "YE",
    "week": "W",
    "month": "ME",
    "quarter": "QE",
    "year": "YE",
    "M": "ME",  # before pandas 2.2
    "Q": "QE",
    "Y": "YE",
    "A": "YE",
}
_BEGINS = (
    offsets.MonthBegin,
    offsets.BMonthBegin,
    offsets.CustomBusinessMonthBegin,
    offsets.SemiMonthBegin,
    offsets.QuarterBegin,
    offsets.BQuarterBegin,
    offsets.YearBegin,
    offsets.BYearBegin,
)
_MONTHS: tuple[tuple[tuple[type[object], ...], int], ...] = (
    ((offsets.MonthEnd, offsets.MonthBegin, offsets.BMonthEnd, offsets.BMonthBegin), 1),
    ((offsets.QuarterEnd, offsets.QuarterBegin, offsets.BQuarterEnd, offsets.BQuarterBegin), 3),
    ((offsets.YearEnd, offsets.YearBegin, offsets.BYearEnd, offsets.BYearBegin), 12),
)
_HOW = "Write 'week', 'month', 'quarter', 'year', '2 months', '90 days', or a pandas offset, such as 'W-FRI' or '20B'."


def read_offset(value: object, path: str) -> Offset:
    """Return an offset of at least one day.

    Parameters
    ----------
    value : str or offset
        ``"week"`` (its end, as ``"W"``), ``"month"``, ``"quarter"`` and ``"year"``, also with a number (``"2 weeks"``);
        a pandas alias, such as ``"W-FRI"``, ``"QE-FEB"`` or ``"20B"``; or an offset object.
    path : str
        Location of `value` in its document, for errors.

    Raises
    ------
    ConfigError
        If it is none of these, or does not move a date forward by whole days.

    Examples
    --------
    >>> read_offset("2 quarters", "retrain"), read_offset("W-FRI", "retrain")
    (<2 * QuarterEnds: startingMonth=12>, <Week: weekday=4>)
    """
    text = value
    if isinstance(value, str):
        found = _WORDS.fullmatch(value.strip())
        text = f"{found['number'] or ''}{_ALIASES[found['unit'].rstrip('s')]}" if found else value.strip()
    if not isinstance(text, (str, Offset)):
        raise ConfigError(f"must be an offset, found {shown(value)}. {_HOW}", path=path)
    try:
        offset = to_offset(text)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ConfigError(f"{shown(value)} is not an offset. {_HOW}", path=path) from exc
    if getattr(offset, "n", 1) < 1:
        raise ConfigError(f"must move a date forward by whole days, found {shown(value)}.", path=path)
    start = pd.Timestamp("2023-03-07")
    try:
        later = start + offset
    except (OverflowError, pd.errors.OutOfBoundsDatetime) as exc:
        raise ConfigError(f"{shown(value)} is too long.", path=path) from exc
    if later <= start or later != later.normalize():
        raise ConfigError(f"must move a date forward by whole days, found {shown(value)}.", path=path)
    return offset


_PARTS = re.compile(r"\d+\s*(?:h|hours?|min|minutes?|s|seconds?)", re.ASCII | re.IGNORECASE)
_WHOLE_DAYS = "must be a whole number of days, found {}. For parts of a day, write a number of periods."


def as_plain(value: object, path: str, *, repeated: bool = False) -> int | str:
    """Return a number of periods, or a duration as text that means the same.

    Parameters
    ----------
    value : int, str or length of time
        A number; text; whole days as a ``timedelta``; or an offset of pandas.
    path : str
        Name of the argument, for errors.
    repeated : bool
        Whether it says how often something is repeated. ``DateOffset(months=1)`` then has no text that means the same.

    Raises
    ------
    ConfigError
        If it is none of these, or is not a whole number of days.

    Examples
    --------
    >>> as_plain(pd.Timedelta(days=90), "train"), as_plain(pd.DateOffset(years=1, months=6), "train")
    ('90D', '18 months')
    >>> as_plain(pd.offsets.Week(2, weekday=4), "step", repeated=True), as_plain(np.int64(250), "train")
    ('2W-FRI', 250)
    """
    if isinstance(value, str):
        return f"{_days(value, path)}D" if _PARTS.fullmatch(value.strip()) else value
    if is_whole_number(value):
        return int(value)
    if isinstance(value, (dt.timedelta, np.timedelta64)) or (isinstance(value, offsets.Tick) and value.n > 0):
        return f"{_days(value, path)}D"
    text = None
    if type(value) is pd.DateOffset:
        text = _of_date_offset(value, repeated=repeated)
        if text is None and repeated:
            raise ConfigError(
                f"{shown(value)} does not say on which days periods begin. Write 'month', 'quarter' or 'year', or a number of "
                "days: '30D'.",
                path=path,
            )
    elif isinstance(value, offsets.Week) and getattr(value, "weekday", None) is None:
        text = f"{7 * value.n}D"
    elif isinstance(value, Offset):
        text = value.freqstr
    try:
        if text is not None and (text != getattr(value, "freqstr", None) or to_offset(text) == value):
            return text
    except ValueError:  # an offset without an alias, such as one of a calendar
        pass
    raise ConfigError(
        f"must be a number of periods or a duration such as '90 days' or pandas.Timedelta(days=90), found {shown(value)}.",
        path=path,
    )


def _days(value: object, path: str) -> int:
    """Return a length of time as a number of days."""
    try:
        length = pd.Timedelta(value)  # type: ignore[arg-type]
        whole = not length % pd.Timedelta(days=1)
    except (ValueError, TypeError):  # months and years of NumPy, and NaT
        whole = False
    if not whole or length.days < 1:
        raise ConfigError(_WHOLE_DAYS.format(shown(value)), path=path)
    return int(length.days)


def _of_date_offset(value: pd.DateOffset, *, repeated: bool) -> str | None:
    """Return an offset of years and months, or of weeks and days, as text; None if it is another."""
    given = dict(value.kwds) or {"days": 1}
    if set(given) <= {"weeks", "days"}:
        number = (7 * given.get("weeks", 0) + given.get("days", 0)) * value.n
        return f"{number}D"
    if set(given) <= {"years", "months"} and not repeated:
        number = (12 * given.get("years", 0) + given.get("months", 0)) * value.n
        return f"{number} month{'' if number == 1 else 's'}"
    return None


def read_length(value: object, path: str) -> int | Offset:
    """Return a length: a number of trading days, or a duration.

    Parameters
    ----------
    value : int, str or offset
        A number of trading days; or a duration such as ``"3 years"``, ``"18 months"``, ``"90D"`` (calendar days) or
        ``"250B"`` (weekdays). ``"3YE"``, ``"3YS"`` and ``"3Y"`` are three years too.
    path : str
        Location of `value` in its document, for errors.

    Raises
    ------
    ConfigError
        If it is none of these.

    Examples
    --------
    >>> read_length(250, "train"), read_length("18 months", "train")
    (250, <DateOffset: months=18>)
    """
    if is_whole_number(value):
        if value < 0:
            raise ConfigError(f"must be a number of trading days or a duration, found {value}.", path=path)
        return int(value)
    offset = read_offset(value, path)
    for classes, months in _MONTHS:
        if isinstance(offset, classes):
            return pd.DateOffset(months=months * offset.n)
    if isinstance(offset, offsets.Week):
        return pd.DateOffset(weeks=offset.n)
    if isinstance(offset, (offsets.Day, offsets.Tick, offsets.BusinessDay)) or type(offset) is pd.DateOffset:
        return offset
    raise ConfigError(
        f"{shown(value)} is not a length. Write a number of trading days, or a duration such as '3 years'.", path=path
    )


def period_starts(offset: Offset, first: np.datetime64, last: np.datetime64) -> Iterator[np.datetime64]:
    """Yield the days after `first`, up to `last`, on which a period begins.

    Periods of an offset to an end (``"ME"``, ``"W-FRI"``) begin on the day after it, and those of an offset to a
    beginning (``"MS"``) on it. Several units (``"2QE"``) are counted from the beginning of the period of one unit that
    contains `first`; lengths without fixed dates (``"20D"``, ``"20B"``) are counted from `first`.

    Examples
    --------
    >>> day = np.datetime64
    >>> [str(d) for d in period_starts(read_offset("month", ""), day("2024-01-10"), day("2024-03-31"))]
    ['2024-02-01', '2024-03-01']
    >>> [str(d) for d in period_starts(read_offset("2QE", ""), day("2024-02-15"), day("2025-01-31"))]
    ['2024-07-01', '2025-01-01']
    """
    one_day = pd.Timedelta(days=1)
    begins = isinstance(offset, _BEGINS)
    anchor = as_timestamp(first) if begins else as_timestamp(first) - one_day
    unit = offset.base if hasattr(offset, "base") else offset
    anchor = unit.rollback(anchor)
    end, number = as_timestamp(last), 0
    while True:
        number += 1
        try:
            moved = anchor + offset * number
        except (OverflowError, pd.errors.OutOfBoundsDatetime):
            return
        start = moved if begins else moved + one_day
        if start > end:
            return
        if start > as_timestamp(first):
            yield np.datetime64(start, "D")
