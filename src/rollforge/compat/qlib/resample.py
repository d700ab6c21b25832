"""Resampling calendars and values, as in ``qlib.utils.resam``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rollforge.compat.qlib.clock import cal_sam_minute
from rollforge.compat.qlib.config import C
from rollforge.compat.qlib.frequency import Freq
from rollforge.dates import DayLike
from rollforge.errors import ConfigError
from rollforge.features.api import D

__all__ = [
    "get_higher_eq_freq_feature",
    "get_valid_value",
    "resam_calendar",
    "resam_ts_data",
    "ts_data_first",
    "ts_data_last",
]


def resam_calendar(calendar_raw: Any, freq_raw: str | Freq, freq_sam: str | Freq, region: str | None = None) -> Any:
    """Return every n-th day, week, month or bar of a calendar.

    Parameters
    ----------
    calendar_raw : array of Timestamps
        The calendar, in order.
    freq_raw, freq_sam : str or Freq
        Its frequency, and the requested one: ``2week`` gives the first day of every second week.
    region : str, optional
        Region, for intraday bars; by default from the settings.

    Returns
    -------
    array of Timestamps

    Raises
    ------
    ConfigError
        If intraday bars are requested from daily data, or shorter bars than the calendar has.

    Examples
    --------
    >>> days = pd.bdate_range("2021-03-29", "2021-04-09")
    >>> [str(d.date()) for d in resam_calendar(days, "day", "week")]
    ['2021-03-29', '2021-04-05']
    >>> [str(d.date()) for d in resam_calendar(days, "day", "month")]
    ['2021-03-29', '2021-04-01']
    """
    raw, wanted = Freq(freq_raw), Freq(freq_sam)
    if not len(calendar_raw):
        return calendar_raw
    if wanted.base == Freq.NORM_FREQ_MINUTE:
        if raw.base != Freq.NORM_FREQ_MINUTE:
            raise ConfigError(f"Bars of {wanted} cannot be made from a calendar of frequency {raw}.")
        if raw.count > wanted.count:
            raise ConfigError(f"A calendar of frequency {raw} contains no bars of {wanted}.")
        return np.unique(
            [cal_sam_minute(t, wanted.count, region or C["region"]) for t in map(pd.Timestamp, calendar_raw)]
        )
    days = np.unique([pd.Timestamp(t).normalize() for t in calendar_raw])
    if wanted.base == Freq.NORM_FREQ_DAY:
        return days[:: wanted.count]
    unit = "W" if wanted.base == Freq.NORM_FREQ_WEEK else "M"
    period = np.array([d.to_period(unit).ordinal for d in days])
    return days[np.diff(period, prepend=period[0] - 1) > 0][:: wanted.count]


def get_higher_eq_freq_feature(
    instruments: object,
    fields: Any,
    start_time: DayLike | None = None,
    end_time: DayLike | None = None,
    freq: str = "day",
    disk_cache: int = 1,
) -> tuple[pd.DataFrame, str]:
    """Return features of a frequency (daily ones for weeks and months) and their actual frequency."""
    found = "day" if Freq(freq).base in (Freq.NORM_FREQ_WEEK, Freq.NORM_FREQ_MONTH) else freq
    return D.features(instruments, fields, start_time, end_time, freq=found), found


def resam_ts_data(
    ts_feature: pd.DataFrame | pd.Series,
    start_time: object = None,
    end_time: object = None,
    method: str | Callable[..., Any] | None = "last",
    method_kwargs: Mapping[str, object] | None = None,
) -> Any:
    """Aggregate `start_time` to `end_time` into one value (one row per instrument); None if there are no data.

    Parameters
    ----------
    ts_feature : DataFrame or Series
        Indexed by datetime, or by instrument and datetime in any order.
    start_time, end_time
        Both included.
    method : str, callable or None
        A method of pandas' groups (``"last"``, ``"mean"``, ``"sum"``), a function of a frame or series, or None: all rows.
    method_kwargs : mapping, optional
        Arguments of the method.

    Examples
    --------
    >>> days = pd.date_range("2021-01-04", periods=3, name="datetime")
    >>> float(resam_ts_data(pd.Series([1.0, 2.0, 3.0], days), "2021-01-04", "2021-01-05", "sum"))
    3.0
    """
    feature = ts_feature if ts_feature.index.is_monotonic_increasing else ts_feature.sort_index()
    days = slice(start_time, end_time)
    is_panel = isinstance(feature.index, pd.MultiIndex)
    by_instrument = is_panel and feature.index.names[0] != "datetime"
    feature = feature.loc(axis=0)[(slice(None), days)] if by_instrument else feature.loc[days]
    if feature.empty:
        return None
    if method is None:
        return feature
    options = dict(method_kwargs or {})
    if not is_panel:
        return method(feature, **options) if callable(method) else getattr(feature, method)(**options)
    groups = feature.groupby(level="instrument", group_keys=False)
    return groups.apply(method, **options) if callable(method) else getattr(groups, method)(**options)


def get_valid_value(series: pd.Series, last: bool = True) -> Any:
    """Return the last (or first) value of a series that is not missing; NaN if all are missing."""
    valid = series.dropna()
    return valid.iloc[-1 if last else 0] if len(valid) else np.nan


def _valid(ts_feature: pd.DataFrame | pd.Series, last: bool) -> object:
    if isinstance(ts_feature, pd.DataFrame):
        return ts_feature.apply(get_valid_value, last=last)
    return get_valid_value(ts_feature, last=last)


ts_data_last = functools.partial(_valid, last=True)
ts_data_first = functools.partial(_valid, last=False)
