"""The periods of a calendar: what they are called, and how many of them a year has."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from rollforge.dates import has_times, is_weekend, times_of

__all__ = ["YEAR", "backtest_periods", "period_name", "periods_per_year"]

YEAR = 252
"""Trading days per year for annualised figures of a signal (those of a backtest use Qlib's 238)."""
_BACKTEST_YEAR = 238
_FOUR_WEEKS = 20


def periods_per_year(calendar: Iterable[object] | None) -> float:
    """Return the number of a calendar's periods in a year, for annualised figures.

    Parameters
    ----------
    calendar : iterable of times, optional
        The days or bars, ascending; None means trading days.

    Returns
    -------
    float
        252 for five trading days a week, 365 for seven, and in proportion for others; for longer periods, 365.25 days divided
        by the usual distance, rounded. With several bars a day, as many times more as a day usually has; or has on average,
        if sessions end after midnight and the week has six days because of that.

    Examples
    --------
    >>> [periods_per_year(pd.date_range("2024-01-01", "2024-12-31", freq=freq)) for freq in ("B", "D", "W", "MS", "h")]
    [252.0, 365.0, 52.0, 12.0, 8760.0]

    From Sunday to Thursday:

    >>> periods_per_year(pd.bdate_range("2024-01-01", "2024-12-31", freq="C", weekmask="Sun Mon Tue Wed Thu"))
    252.0
    """
    if calendar is None:
        return float(YEAR)
    times = np.sort(pd.DatetimeIndex(pd.Index(list(calendar))).to_numpy())
    days, bars = np.unique(times.astype("datetime64[D]"), return_counts=True)
    if len(days) < 2:
        return float(YEAR * max(1, len(times)))
    distance = float(np.median(np.diff(days).astype(np.int64)))
    if distance > 1:
        return round(365.25 / distance) * float(np.median(bars))
    by_weekday = np.bincount(days.astype(np.int64) % 7, minlength=7)
    open_days = int((by_weekday > by_weekday.max() / 2).sum())
    if len(days) < _FOUR_WEEKS:
        open_days = 7 if is_weekend(days).mean() > 0.1 else 5
    year = 365.0 if open_days == 7 else round(YEAR * open_days / 5)
    return year * float(bars.mean() if open_days == 6 else np.median(bars))


def backtest_periods(per_year: float) -> float:
    """Return the number of periods in a year for annualised figures of a backtest: 238 trading days, as in Qlib, where
    :func:`periods_per_year` is 252; else the same.

    Examples
    --------
    >>> backtest_periods(252.0), backtest_periods(52.0)
    (238.0, 52.0)
    """
    return float(_BACKTEST_YEAR) if per_year == YEAR else per_year


def period_name(calendar: Iterable[object] | None) -> str:
    """Return what one period of a calendar is called: a ``day``, a ``bar`` if a day has several, a ``week``, a ``month``,
    else a ``period``.

    Examples
    --------
    >>> [period_name(pd.date_range("2023-01-01", "2024-12-31", freq=freq)) for freq in ("B", "h", "W", "MS", "QS")]
    ['day', 'bar', 'week', 'month', 'period']
    """
    if calendar is None:
        return "day"
    times = times_of(pd.DatetimeIndex(pd.Index(list(calendar))))
    if has_times(times):
        return "bar"
    distance = float(np.median(np.diff(np.sort(times)).astype(np.int64))) if len(times) > 1 else 1.0
    if distance <= 1:
        return "day"
    return "week" if distance == 7 else "month" if 28 <= distance <= 31 else "period"
