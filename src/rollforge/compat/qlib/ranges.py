"""Parts of a trading day or of a step, as in ``qlib.backtest.decision``.

Backtests are daily, and a day is one step, so decisions do not accept a range.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod

import pandas as pd

from rollforge.compat.qlib.clock import concat_date_time, time_of_day
from rollforge.errors import ConfigError
from rollforge.record.context import TradeCalendarManager

__all__ = ["IdxTradeRange", "TradeRange", "TradeRangeByTime"]


class TradeRange(ABC):
    """Part of the day in which orders may be traded."""

    @abstractmethod
    def __call__(self, trade_calendar: TradeCalendarManager) -> tuple[int, int]:
        """Return the first and the last step, both included."""

    @abstractmethod
    def clip_time_range(self, start_time: pd.Timestamp, end_time: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Intersect a time span with the range."""


class IdxTradeRange(TradeRange):
    """From one step to another, both included."""

    def __init__(self, start_idx: int, end_idx: int) -> None:
        self._steps = start_idx, end_idx

    def __call__(self, trade_calendar: object = None) -> tuple[int, int]:
        return self._steps

    def clip_time_range(self, start_time: pd.Timestamp, end_time: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Raise an error, because steps do not determine times.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError("A range of steps cannot be clipped to a span of time.")


class TradeRangeByTime(TradeRange):
    """From one time of the day to another, both included.

    Parameters
    ----------
    start_time, end_time : str or time
        Such as ``"9:30"`` and ``"14:30"``.

    Raises
    ------
    ConfigError
        If the end is before the start.

    Examples
    --------
    >>> day = pd.Timestamp("2021-03-03")
    >>> [f"{t:%H:%M}" for t in TradeRangeByTime("9:45", "14:30").clip_time_range(day, day + pd.Timedelta("10h"))]
    ['09:45', '10:00']
    """

    def __init__(self, start_time: str | dt.time, end_time: str | dt.time) -> None:
        self.start_time, self.end_time = time_of_day(start_time, "start_time"), time_of_day(end_time, "end_time")
        if self.start_time >= self.end_time:
            raise ConfigError(f"The range from {start_time} to {end_time} ends before it begins.")

    def _on(self, day: dt.date) -> tuple[pd.Timestamp, pd.Timestamp]:
        return concat_date_time(day, self.start_time), concat_date_time(day, self.end_time)

    def __call__(self, trade_calendar: TradeCalendarManager) -> tuple[int, int]:
        found: tuple[int, int] = trade_calendar.get_range_idx(*self._on(trade_calendar.start_time.date()))
        return found

    def clip_time_range(self, start_time: pd.Timestamp, end_time: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Intersect a time span, which starts on a given day, with the range."""
        first, last = self._on(start_time.date())
        return max(first, start_time), min(last, end_time)
