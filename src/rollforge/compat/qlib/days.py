"""Trading days, quarters, and the file names of instruments, as in ``qlib.utils``."""

from __future__ import annotations

import bisect
import re

import numpy as np
import pandas as pd

from rollforge.dates import read_timestamp
from rollforge.errors import ConfigError, DateError
from rollforge.features.api import D

__all__ = [
    "code_to_fname",
    "fname_to_code",
    "get_calendar_day",
    "get_date_by_shift",
    "get_date_in_file_name",
    "get_date_range",
    "get_next_trading_date",
    "get_period_list",
    "get_period_offset",
    "get_pre_trading_date",
    "is_tradable_date",
    "transform_end_date",
]


def _days(future: bool = False, freq: str = "day") -> list[pd.Timestamp]:
    return [pd.Timestamp(d) for d in D.calendar(freq=freq, future=future)]


def get_date_by_shift(
    trading_date: object,
    shift: int,
    future: bool = False,
    clip_shift: bool = True,
    freq: str = "day",
    align: str | None = None,
) -> pd.Timestamp:
    """Return the trading day some days later (or, negative, earlier).

    Parameters
    ----------
    trading_date : date
        The day.
    shift : int
        Number of trading days.
    future : bool
        Whether to include future days, if they are known.
    clip_shift : bool
        If True, return the first or last day if the shift goes beyond the calendar.
    freq : str
        The calendar.
    align : {"left", "right"}, optional
        For a day without trading, start from the previous or the next trading day.

    Raises
    ------
    DateError
        If there is no trading on that day and `align` is None.
    IndexError
        If the shift goes beyond the calendar and `clip_shift` is False.
    """
    if align not in (None, "left", "right"):
        raise ConfigError(f"align must be 'left', 'right' or None, found {align!r}.", path="align")
    days, day = _days(future, freq), read_timestamp(trading_date, "trading_date")
    if align is None and day not in days:
        raise DateError(
            f"{day:%Y-%m-%d} is not a trading day. Use align='left' to count from the previous one, or "
            "'right' to count from the next."
        )
    place = bisect.bisect_right(days, day) - 1 if align == "left" else bisect.bisect_left(days, day)
    wanted = place + shift
    if not clip_shift and not 0 <= wanted < len(days):
        raise IndexError(f"The calendar does not extend {shift} days from {day:%Y-%m-%d}.")
    return days[min(max(wanted, 0), len(days) - 1)]


def get_date_range(
    trading_date: object, left_shift: int = 0, right_shift: int = 0, future: bool = False
) -> list[pd.Timestamp]:
    """Return the trading days from one shift of a trading day to another, both included."""
    first = get_date_by_shift(trading_date, left_shift, future)
    last = get_date_by_shift(trading_date, right_shift, future)
    return [day for day in _days(future) if first <= day <= last]


def get_next_trading_date(trading_date: object, future: bool = False) -> pd.Timestamp:
    """Return the next trading day."""
    return get_date_by_shift(trading_date, 1, future=future)


def get_pre_trading_date(trading_date: object, future: bool = False) -> pd.Timestamp:
    """Return the previous trading day."""
    return get_date_by_shift(trading_date, -1, future=future)


def is_tradable_date(cur_date: object) -> bool:
    """Return whether a day is a trading day."""
    return read_timestamp(cur_date, "cur_date") in _days(future=True)


def transform_end_date(end_date: object = None, freq: str = "day") -> pd.Timestamp:
    """Return a day, or the last of the calendar for None, -1 and days beyond it."""
    last = _days(freq=freq)[-1]
    return last if end_date is None or str(end_date) == "-1" else min(read_timestamp(end_date, "end_date"), last)


def get_calendar_day(freq: str = "1min", future: bool = False) -> np.ndarray:
    """Return the day of each entry of a calendar.

    Raises
    ------
    DataError
        For intraday bars, such as ``1min``, which is Qlib's default.
    """
    return np.array([day.date() for day in _days(future, freq)])


def get_date_in_file_name(file_name: object) -> str:
    """Return the first day in a file name, written as ``2020-01-31``.

    Raises
    ------
    DateError
        If there is none.
    """
    found = re.search(r"\d{4}-\d{2}-\d{2}", str(file_name))
    if found is None:
        raise DateError(f"{str(file_name)!r} contains no day such as 2020-01-31.")
    return found.group()


def get_period_list(first: int, last: int, quarterly: bool) -> list[int]:
    """Return the years (or, as 202001 … 202004, the quarters) from one to another, both included.

    Examples
    --------
    >>> get_period_list(201903, 202002, quarterly=True)
    [201903, 201904, 202001, 202002]
    """
    if not quarterly:
        return list(range(first, last + 1))
    every = (year * 100 + quarter for year in range(first // 100, last // 100 + 1) for quarter in (1, 2, 3, 4))
    return [period for period in every if first <= period <= last]


def get_period_offset(first_year: int, period: int, quarterly: bool) -> int:
    """Return the offset of a period in years (quarters) from the start of a year."""
    return (period // 100 - first_year) * 4 + period % 100 - 1 if quarterly else period - first_year


_RESERVED = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{device}{i}" for device in ("COM", "LPT") for i in range(10))])


def code_to_fname(code: object) -> object:
    """Return the file name of an instrument: its code, with a prefix if Windows reserves that name."""
    return f"_qlib_{code}" if str(code).upper() in _RESERVED else code


def fname_to_code(fname: str) -> str:
    """Return the instrument code of a file name."""
    return fname.removeprefix("_qlib_")
