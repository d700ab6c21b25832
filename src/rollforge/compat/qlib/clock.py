"""Times of the trading day, as in ``qlib.utils.time``."""

from __future__ import annotations

import bisect
import contextlib
import datetime as dt
import functools

import pandas as pd

from rollforge.compat.qlib.config import C
from rollforge.compat.qlib.frequency import Freq
from rollforge.dates import read_clock, read_time
from rollforge.errors import ConfigError, DataError, DateError

__all__ = [
    "CN_TIME",
    "TW_TIME",
    "US_TIME",
    "cal_sam_minute",
    "concat_date_time",
    "epsilon_change",
    "get_day_min_idx_range",
    "get_min_cal",
    "is_single_value",
    "time_of_day",
    "time_to_day_index",
]


def _at(text: str) -> dt.datetime:
    return dt.datetime.combine(dt.date(1900, 1, 1), read_clock(text))


CN_TIME = [_at("9:30"), _at("11:30"), _at("13:00"), _at("15:00")]
"""Opening and closing times of the Chinese stock exchanges, with the noon break, on 1900-01-01."""
US_TIME = [_at("9:30"), _at("16:00")]
TW_TIME = [_at("9:00"), _at("13:30")]

_TIMES = {"cn": CN_TIME, "us": US_TIME, "tw": TW_TIME}


def time_of_day(value: str | dt.time | dt.datetime, name: str = "") -> dt.time:
    """Return the time of day of a string, a time or a datetime; `name` is that of the argument, for errors.

    Raises
    ------
    DateError
        If it has no time of day.

    Examples
    --------
    >>> str(time_of_day("9:30")), str(time_of_day("2020-01-02 14:59")), str(time_of_day(dt.datetime(2020, 1, 2, 10, 45)))
    ('09:30:00', '14:59:00', '10:45:00')
    """
    if isinstance(value, dt.datetime):
        return value.time()
    with contextlib.suppress(DateError):
        return read_time(value, name).time()  # of a day
    return read_clock(value, name)


def _times(region: str) -> list[dt.datetime]:
    try:
        return _TIMES[region]
    except KeyError:
        raise ConfigError(f"must be one of {', '.join(_TIMES)}, found {region!r}.", path="region") from None


def _minutes(region: str) -> list[dt.datetime]:
    """Return the start of each minute of a trading day."""
    edges = _times(region)
    return [
        start + dt.timedelta(minutes=m)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        for m in range(int((end - start).total_seconds()) // 60)
    ]


@functools.lru_cache(maxsize=240)
def get_min_cal(shift: int = 0, region: str = "cn") -> list[dt.time]:
    """Return the start of each minute of a trading day, `shift` minutes earlier.

    Raises
    ------
    ConfigError
        For an unknown region.

    Examples
    --------
    >>> len(get_min_cal(region="cn")), get_min_cal(1, "us")[0]
    (240, datetime.time(9, 29))
    """
    return [(t - dt.timedelta(minutes=shift)).time() for t in _minutes(region)]


def is_single_value(start_time: pd.Timestamp, end_time: pd.Timestamp, freq: pd.Timedelta, region: str = "cn") -> bool:
    """Return whether one bar of length `freq` covers the range from `start_time` to `end_time`.

    This holds in the last minute before a break or the close, and in Taiwan in the last five minutes, which are one
    auction.
    """
    if end_time - start_time < freq:
        return True
    edges = _times(region)
    if start_time.second:
        return False
    if region == "tw":
        return bool(start_time.hour == 13 and start_time.minute >= 25)
    lasts = [(end - dt.timedelta(minutes=1)).time() for end in edges[1::2]]
    return dt.time(start_time.hour, start_time.minute) in lasts


def time_to_day_index(time_obj: str | dt.datetime, region: str = "cn") -> int:
    """Return the 0-based minute of the trading day.

    Parameters
    ----------
    time_obj : str or datetime
        ``"9:35"``, or a datetime on 1900-01-01.
    region : str
        The region.

    Raises
    ------
    DataError
        If there is no trading at that time.

    Examples
    --------
    >>> time_to_day_index("13:00", "cn"), time_to_day_index("9:31", "us")
    (120, 1)
    """
    time = _at(time_obj) if isinstance(time_obj, str) else time_obj
    edges, before = _times(region), 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start <= time < end:
            return before + int((time - start).total_seconds()) // 60
        before += int((end - start).total_seconds()) // 60
    raise DataError(f"There is no trading at {time:%H:%M} in region {region!r}.")


def get_day_min_idx_range(
    start: str | dt.time | dt.datetime, end: str | dt.time | dt.datetime, freq: str, region: str
) -> tuple[int, int]:
    """Return the first and the last bar of the trading day from `start` to `end`, both included.

    Examples
    --------
    >>> get_day_min_idx_range("8:30", "14:59", "10min", "cn")
    (0, 23)
    """
    bars = get_min_cal(region=region)[:: Freq(freq).count]
    first, last = time_of_day(start, "start"), time_of_day(end, "end")
    return bisect.bisect_left(bars, first), bisect.bisect_right(bars, last) - 1


def concat_date_time(date_obj: dt.date, time_obj: dt.time) -> pd.Timestamp:
    """Combine a day and a time."""
    return pd.Timestamp(
        year=date_obj.year, month=date_obj.month, day=date_obj.day, hour=time_obj.hour, minute=time_obj.minute,
        second=time_obj.second, microsecond=time_obj.microsecond,
    )  # fmt: skip


def cal_sam_minute(x: pd.Timestamp, sam_minutes: int, region: str = "cn") -> pd.Timestamp:
    """Return the start of the bar of `sam_minutes` minutes that contains a time.

    Examples
    --------
    >>> cal_sam_minute(pd.Timestamp("2021-03-03 10:38"), 5)
    Timestamp('2021-03-03 10:35:00')
    """
    bars = get_min_cal(C["min_data_shift"], region)[::sam_minutes]
    return concat_date_time(x.date(), bars[bisect.bisect_right(bars, x.time()) - 1])


def epsilon_change(date_time: pd.Timestamp, direction: str = "backward") -> pd.Timestamp:
    """Return the time one second earlier (``backward``) or later (``forward``).

    Raises
    ------
    ConfigError
        For another direction.
    """
    if direction not in ("backward", "forward"):
        raise ConfigError(f"direction must be 'backward' or 'forward', found {direction!r}.", path="direction")
    return date_time + pd.Timedelta(seconds=1 if direction == "forward" else -1)
