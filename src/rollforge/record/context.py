"""Context of a strategy during a backtest: calendar, account and exchange. Names are Qlib's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rollforge.dates import ONE_DAY, DayLike, Days, read_days
from rollforge.errors import ConfigError

__all__ = ["CommonInfrastructure", "LevelInfrastructure", "TradeCalendarManager"]

_MOMENT = pd.Timedelta(seconds=1)


class TradeCalendarManager:
    """The trading days of a backtest, and its current step.

    Parameters
    ----------
    calendar : array of datetime64[D]
        All trading days of the data, ascending.
    start_index, trade_len : int
        Index of the backtest's first day in `calendar`, and its number of days.
    """

    def __init__(self, calendar: Days, start_index: int, trade_len: int) -> None:
        self._calendar = calendar
        self.start_index = start_index
        self.end_index = start_index + trade_len - 1
        self.trade_len = trade_len
        self.trade_step = 0
        self.freq = "day"
        self.start_time = pd.Timestamp(calendar[start_index])
        self.end_time = pd.Timestamp(calendar[self.end_index])

    def finished(self) -> bool:
        """Return whether all steps are done."""
        return self.trade_step >= self.trade_len

    def step(self) -> None:
        """Advance to the next day.

        Raises
        ------
        ConfigError
            If there is none.
        """
        if self.finished():
            raise ConfigError("the backtest has ended: its calendar has no further step.")
        self.trade_step += 1

    def get_freq(self) -> str:
        """Return the length of a step: ``day``."""
        return self.freq

    def get_trade_len(self) -> int:
        """Return the number of steps."""
        return self.trade_len

    def get_trade_step(self) -> int:
        """Return the index of the current step, which is the number of steps done."""
        return self.trade_step

    def get_step_time(self, trade_step: int | None = None, shift: int = 0) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Return the start and end of a step: from a day to one second before the next trading day.

        Parameters
        ----------
        trade_step : int, optional
            By default the current step.
        shift : int
            Number of days to go back.
        """
        place = self.start_index + (self.trade_step if trade_step is None else trade_step) - shift
        return pd.Timestamp(self._day(place)), pd.Timestamp(self._day(place + 1)) - _MOMENT

    def _day(self, place: int) -> np.datetime64:
        """Return the day at a calendar position; positions outside the calendar are extrapolated."""
        last = len(self._calendar) - 1
        beyond = min(place, 0) + max(place - last, 0)
        day: np.datetime64 = self._calendar[min(max(place, 0), last)] + beyond * ONE_DAY
        return day

    def get_all_time(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Return the first and the last day."""
        return self.start_time, self.end_time

    def get_range_idx(self, start_time: DayLike, end_time: DayLike) -> tuple[int, int]:
        """Return the first and the last step of a range, clipped to the backtest."""
        bounds = read_days([start_time, end_time], "time range")
        places = np.searchsorted(self._calendar, bounds, side="right") - 1 - self.start_index
        first, last = np.clip(places, 0, self.trade_len - 1).tolist()
        return first, last


class _Infrastructure:
    """Base class of named objects that strategy and executor share."""

    names: frozenset[str]

    def __init__(self, **shared: object) -> None:
        self.reset_infra(**shared)

    def get_support_infra(self) -> frozenset[str]:
        """Return the valid names."""
        return self.names

    def reset_infra(self, **shared: object) -> None:
        """Set some of the objects."""
        for name, value in shared.items():
            if name not in self.names:
                raise ConfigError(f"{name!r} is not one of {', '.join(sorted(self.names))}.")
            setattr(self, name, value)

    def has(self, name: str) -> bool:
        """Return whether there is an object with the name."""
        return name in self.names and hasattr(self, name)

    def get(self, name: str) -> Any:
        """Return the object with the name, or None."""
        return getattr(self, name, None)

    def update(self, other: _Infrastructure) -> None:
        """Copy all objects of another infrastructure."""
        self.reset_infra(**{name: other.get(name) for name in other.names if other.has(name)})


class CommonInfrastructure(_Infrastructure):
    """The account and the exchange."""

    names = frozenset({"trade_account", "trade_exchange"})


class LevelInfrastructure(_Infrastructure):
    """The calendar and the executor."""

    names = frozenset({"trade_calendar", "executor", "common_infra"})
