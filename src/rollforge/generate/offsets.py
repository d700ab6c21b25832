"""Offsets of dates: how often a model is trained again, and how long its segments are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from pandas.tseries import offsets
from pandas.tseries.frequencies import to_offset

from rollforge.dates import as_timestamp
from rollforge.errors import ConfigError, shown

__all__ = ["Offset", "period_starts", "read_length", "read_offset"]

Offset = offsets.BaseOffset

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
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ConfigError(f"must be a number of trading days or a duration, found {value}.", path=path)
        return value
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
