"""Comparing the days of a table with the trading days of an exchange."""

from __future__ import annotations

import warnings

import numpy as np

from rollforge.dates import Times
from rollforge.errors import ConfigError, counted, first_few, nearest

__all__ = ["exchange_notes"]


def exchange_notes(calendar: Times, exchange: str) -> list[str]:
    """Return notes on the days by which a calendar and that of an exchange differ, between its first and last day.

    Parameters
    ----------
    calendar : array of datetime64
        Days or bars.
    exchange : str
        A code or an alias of ``exchange_calendars``, such as ``XNYS``, ``NYSE`` or ``XSHG``.

    Raises
    ------
    ConfigError
        If the package is not installed, or has no such calendar.
    """
    try:
        import exchange_calendars
    except ImportError:
        raise ConfigError(
            "The trading days of an exchange need exchange_calendars: pip install 'rollforge[calendars]'.",
            path="--exchange",
        ) from None
    days = np.unique(calendar.astype("datetime64[D]"))
    known = exchange_calendars.get_calendar_names(include_aliases=True)
    if exchange not in known:
        raise ConfigError(
            f"exchange_calendars has no calendar {exchange!r}.{nearest(exchange, known)} Examples: XNYS, XSHG, XHKG, XLON.",
            path="--exchange",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about the package's own code
        made = exchange_calendars.get_calendar(exchange, start=str(days[0] - 10), end=str(days[-1] + 10))
    sessions = made.sessions.to_numpy().astype("datetime64[D]")
    sessions = sessions[(sessions >= days[0]) & (sessions <= days[-1])]
    notes = []
    for found, said in (
        (np.setdiff1d(sessions, days), "without rows"),
        (np.setdiff1d(days, sessions), "in the table on which it was closed"),
    ):
        if found.size:
            notes.append(f"calendar of {exchange}: {counted(len(found), 'day')} {said}: {first_few(found)}")
    return notes or [f"calendar of {exchange}: the days are the same, {counted(len(days), 'trading day')}"]
