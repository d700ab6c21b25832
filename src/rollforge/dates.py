"""Parsing days in every accepted notation. Files, workflows, options and arguments all use this module.

The result is the day as written. A time of day and an offset from UTC never move it: ``2021-03-01 00:00:00+08:00`` is
1 March, although it was still February in Greenwich. A value that does not denote exactly one day
(``2021-03``, ``01/02/2021``, ``2021-02-30``) is an error.
"""

from __future__ import annotations

import calendar
import datetime as dt
import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DateError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIRST_DAY",
    "LAST_DAY",
    "ONE_DAY",
    "DayColumn",
    "DayLike",
    "Days",
    "Moment",
    "Times",
    "as_timestamp",
    "clock",
    "day_after",
    "day_index",
    "end_of",
    "has_times",
    "is_weekend",
    "last_moment",
    "read_bound",
    "read_clock",
    "read_column",
    "read_day",
    "read_days",
    "read_moment",
    "read_span",
    "read_time",
    "read_times",
    "read_timestamp",
    "show_time",
    "start_of",
    "start_position",
    "stop_position",
    "times_of",
    "unit_of",
    "within",
]

Days = NDArray[np.datetime64]
Times = NDArray[np.datetime64]
"""The points of a calendar: days (datetime64[D]), or bars with a time of day (datetime64[s])."""
DayLike = str | int | dt.date | np.datetime64
"""What :func:`read_day` accepts. A datetime and a pandas Timestamp are dates."""

ONE_DAY = np.timedelta64(1, "D")
_LAST_SECOND = np.timedelta64(86399, "s")
FIRST_DAY, LAST_DAY = np.datetime64("1678-01-01"), np.datetime64("2261-12-31")
"""The years that pandas can represent in nanoseconds. Trading days are within them; an open end can be outside."""

_MAX_OFFSET_HOURS = 15  # in use are -12 to +14, and historically up to 15:13

_MONTHS = tuple(calendar.month_name[i].lower() for i in range(1, 13))  # import time: the locale is "C"
_NAME = r"(?P<name>[a-z]{3,9})\.?"
_TIME = (
    r"(?:(?:t|\s+)(?P<hour>\d{1,2})(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
    r"\s*(?P<half>[ap]m)?)?\s*(?P<zone>z|utc|gmt|bst|cet|cest|hkt|ist|jst|kst|sgt|[acemp][sd]t|[+-]\d\d(?::?\d\d)?)?"
)
_PATTERNS = [
    re.compile(f"{day}{_TIME}", re.IGNORECASE | re.ASCII)
    for day in (
        r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})",
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)",
        r"(?P<year>\d{4})年(?P<month>\d{1,2})月(?P<day>\d{1,2})日?",  # Chinese
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[-/ ]{_NAME}[-/, ]\s*(?P<year>\d{{4}})",
        rf"{_NAME}[-/ ](?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,\s*|[-/ ])(?P<year>\d{{4}})",
        rf"(?P<year>\d{{4}})[-/ ]{_NAME}[-/ ](?P<day>\d{{1,2}})",
    )
] + [
    re.compile(  # 20210305093000 and, with milliseconds, 20210305093000000
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?P<fraction>\d{3})?",
        re.ASCII,
    )
]
_SPAN = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d{1,2}))?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_YEAR = re.compile(r"\d{4}", re.ASCII)
_MONTH = re.compile(r"(?P<year>\d{4})[-/.]?(?P<month>\d\d?)", re.ASCII)
_YEAR_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{2}|\d{4})((?!\d).*)", re.ASCII | re.DOTALL)
_HOW = "Write a day as 2015-06-30."
_SERIAL_START = dt.date(1899, 12, 30)
_SERIALS = range(24000, 80000)  # in spreadsheets, 1965 to 2119; read as year and month, they are after the year 2400
_SPANS = ("Y", "M", "W")  # units of datetime64 that are longer than a day
# Digits of a time since 1970 -> its unit: from 2001 to 2286 in each of them.
_EPOCHS = {10: "s", 13: "ms", 16: "us", 19: "ns"}


class Moment(NamedTuple):
    """A parsed value: the day, the seconds since midnight, and the minutes from UTC if it has an offset."""

    day: dt.date
    seconds: float = 0.0
    offset: float | None = None
    timed: bool = False
    """Whether a text has a time of day."""


class _Unreadable(Exception):
    """The reason why a value is not a day; converted to a :class:`DateError` with its location."""


def read_day(value: object, name: str = "") -> np.datetime64:
    """Return the day that a value denotes, as datetime64[D].

    Parameters
    ----------
    value : str, int, date, datetime, Timestamp or datetime64
        ``2015-06-30``, ``2015/6/30``, ``2015.06.30``, ``20150630`` (also as a number), ``30 Jun 2015``,
        ``Jun 30, 2015``; a time of day and an offset from UTC can follow and do not change the day.
    name : str
        What the value is and where it was given; prefixed to error messages.

    Raises
    ------
    DateError
        If it does not denote exactly one day.

    Examples
    --------
    >>> str(read_day("2022/1/3")), str(read_day(20220103)), str(read_day("2021-03-01 00:00:00+08:00"))
    ('2022-01-03', '2022-01-03', '2021-03-01')
    """
    return np.datetime64(read_moment(value, name).day, "D")


def read_moment(value: object, name: str = "") -> Moment:
    """Return the day and the time of day that a value denotes; see :func:`read_day`."""
    try:
        return _moment(value)
    except _Unreadable as exc:
        raise DateError(str(exc), path=name) from None


def read_timestamp(value: object, name: str = "") -> pd.Timestamp:
    """Return the day that a value denotes as a Timestamp at midnight without time zone; see :func:`read_day`."""
    return as_timestamp(read_day(value, name))


def read_time(value: object, name: str = "") -> pd.Timestamp:
    """Return the day and the time of day that a value denotes as a Timestamp without time zone; see :func:`read_day`.

    Examples
    --------
    >>> str(read_time("2021/3/1 9:30")), str(read_time("2021-03-01 09:30:00+08:00"))
    ('2021-03-01 09:30:00', '2021-03-01 09:30:00')
    """
    import pandas as pd

    moment = read_moment(value, name)
    return as_timestamp(np.datetime64(moment.day, "D")) + pd.Timedelta(seconds=moment.seconds)


def read_bound(value: object, name: str = "") -> np.datetime64:
    """Return the day or the moment that a value names, as a bound of a period.

    Parameters
    ----------
    value, name
        As in :func:`read_day`.

    Returns
    -------
    datetime64[D] or datetime64[s]
        A day, which includes all of its bars, for a date, a text without a time of day, or a datetime or Timestamp at
        midnight; the moment for a text with a time of day, or another datetime. A datetime64[s], which is how the
        calendars of bars hold their times, is that moment also at midnight.

    Raises
    ------
    DateError
        If it does not name exactly one day.

    Examples
    --------
    >>> str(read_bound("2021/3/1")), str(read_bound("2021-03-01 9:30")), str(read_bound("2021-03-01 00:00"))
    ('2021-03-01', '2021-03-01T09:30:00', '2021-03-01T00:00:00')
    """
    moment = read_moment(value, name)
    if _is_bound(value):
        return value
    day = np.datetime64(moment.day, "D")
    timed = moment.timed if isinstance(value, str) else moment.seconds > 0
    return day.astype("M8[s]") + np.timedelta64(int(moment.seconds), "s") if timed else day


def _is_bound(value: object) -> TypeGuard[np.datetime64]:
    return isinstance(value, np.datetime64) and np.datetime_data(value.dtype)[0] in ("D", "s")


def has_times(calendar: Times | np.datetime64) -> bool:
    """Return whether the points of a calendar, or a bound, have a time of day."""
    return np.datetime_data(calendar.dtype)[0] != "D"


def start_position(calendar: Times, start: object, name: str = "") -> int:
    """Return the position of the first point of a calendar at or after a bound; `name` as in :func:`read_day`.

    In a calendar of days, a time of day is ignored.

    Examples
    --------
    >>> bars = np.array(["2024-01-02T10:00", "2024-01-02T14:00", "2024-01-03T10:00"], "M8[s]")
    >>> start_position(bars, "2024-01-02 11:00"), start_position(bars, "2024-01-03")
    (1, 2)
    """
    bound = start if _is_bound(start) else read_bound(start, name)
    return int(np.searchsorted(calendar, bound if has_times(calendar) else bound.astype("M8[D]")))


def stop_position(calendar: Times, end: object, name: str = "") -> int:
    """Return one past the position of the last point of a calendar that a bound includes.

    A bound without a time of day includes its whole day; in a calendar of days, a time of day is ignored.

    Examples
    --------
    >>> bars = np.array(["2024-01-02T10:00", "2024-01-02T14:00", "2024-01-03T10:00"], "M8[s]")
    >>> stop_position(bars, "2024-01-02"), stop_position(bars, "2024-01-02 10:00")
    (2, 1)
    """
    bound = end if _is_bound(end) else read_bound(end, name)
    if not has_times(calendar):
        return int(np.searchsorted(calendar, bound.astype("M8[D]"), "right"))
    if np.datetime_data(bound.dtype)[0] == "D":
        return int(np.searchsorted(calendar, bound + ONE_DAY))
    return int(np.searchsorted(calendar, bound, "right"))


def start_of(value: object, name: str = "") -> pd.Timestamp:
    """Return the first moment of a bound as a Timestamp: midnight for a day; `name` as in :func:`read_day`."""
    return as_timestamp(read_bound(value, name))


def end_of(value: object, name: str = "") -> pd.Timestamp:
    """Return the last moment of a bound as a Timestamp: the last second for a day; `name` as in :func:`read_day`.

    Examples
    --------
    >>> str(end_of("2021-03-01")), str(end_of("2021-03-01 09:30"))
    ('2021-03-01 23:59:59', '2021-03-01 09:30:00')
    """
    return as_timestamp(last_moment(read_bound(value, name)))


def last_moment(bound: np.datetime64) -> np.datetime64:
    """Return the last second of a day; a moment is returned unchanged.

    Parameters
    ----------
    bound : datetime64
        As :func:`read_bound` returns it.
    """
    return bound.astype("M8[s]") + _LAST_SECOND if np.datetime_data(bound.dtype)[0] == "D" else bound


def within(times: Any, start: object, end: object, names: tuple[str, str] = ("start", "end")) -> NDArray[np.bool_]:
    """Return which times of an index level are between two bounds; None means open-ended.

    Parameters
    ----------
    times : DatetimeIndex
        Times without time zone. If all of them are days, a time of day of the bounds is ignored.
    start, end : date, optional
        The bounds, see :func:`read_bound`.
    names : tuple
        What the bounds are, see :func:`read_day`.

    Examples
    --------
    >>> import pandas as pd
    >>> within(pd.DatetimeIndex(["2024-01-02 10:00", "2024-01-02 14:00", "2024-01-03 10:00"]), "2024-01-02 11:00", "2024-01-02")
    array([False,  True, False])
    """
    bounds = [
        None if value is None else read_bound(value, name) for value, name in zip((start, end), names, strict=True)
    ]
    if any(bound is not None and has_times(bound) for bound in bounds) and not has_times(times_of(times)):
        bounds = [None if bound is None else bound.astype("M8[D]") for bound in bounds]
    inside = np.ones(len(times), bool)
    if bounds[0] is not None:
        inside &= np.asarray(times >= as_timestamp(bounds[0]))
    if bounds[1] is not None:
        inside &= np.asarray(times <= as_timestamp(last_moment(bounds[1])))
    return inside


def times_of(values: object) -> Times:
    """Return the times of an index level as datetime64[D] if all are at midnight, and otherwise as datetime64[s].

    Parameters
    ----------
    values : Index or array of datetime64
        Times without time zone.
    """
    found = np.asarray(values)
    if np.datetime_data(found.dtype)[0] == "D":
        return found
    days: Days = found.astype("M8[D]")
    return days if (days == found).all() else found.astype("M8[s]")


def unit_of(times: Times) -> str:
    """Return what the points of a calendar are called, ``day`` or ``bar``, for messages that count them."""
    return "bar" if has_times(times) else "day"


def show_time(time: np.datetime64) -> str:
    """Format a point of a calendar as ``2024-01-31``, or ``2024-01-31 14:30`` if it has a time of day.

    Examples
    --------
    >>> show_time(np.datetime64("2024-01-31")), show_time(np.datetime64("2024-01-31T14:30:00"))
    ('2024-01-31', '2024-01-31 14:30')
    """
    return str(time).replace("T", " ").removesuffix(":00") if np.datetime_data(time.dtype)[0] != "D" else str(time)


def read_span(value: object, name: str = "") -> tuple[np.datetime64, np.datetime64]:
    """Return the first and the last day that a value denotes: of a year (``2021``), of a month (``2021-03``), or a day.

    Raises
    ------
    DateError
        If it denotes none of them.

    Examples
    --------
    >>> [str(day) for day in read_span("2024-02")], [str(day) for day in read_span("2024/2/7")]
    (['2024-02-01', '2024-02-29'], ['2024-02-07', '2024-02-07'])
    """
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        day = read_day(value, name)
        return day, day
    year, first, last = int(found["year"]), int(found["month"] or 1), int(found["month"] or 12)
    try:
        start = _checked(year, first, 1, found[0])
    except _Unreadable as exc:
        raise DateError(str(exc), path=name) from None
    end = dt.date(year, last, calendar.monthrange(year, last)[1])
    return np.datetime64(start, "D"), np.datetime64(end, "D")


def read_clock(value: str | dt.time, name: str = "") -> dt.time:
    """Return the time of day that a text denotes: ``9:30``, ``09:30:15``.

    Raises
    ------
    DateError
        If it does not denote one.

    Examples
    --------
    >>> str(read_clock("9:30")), str(read_clock("14:59:30"))
    ('09:30:00', '14:59:30')
    """
    if isinstance(value, dt.time):
        return value
    found = _CLOCK.fullmatch(value.strip())
    parts = tuple(int(part or 0) for part in found.groups()) if found else (24, 0, 0)
    if parts[0] > 23 or max(parts[1:]) > 59:
        raise DateError(f"{value!r} is not a time of day. Write it as 09:30.", path=name)
    return dt.time(parts[0], parts[1], parts[2])


def as_timestamp(day: np.datetime64) -> pd.Timestamp:
    """Return a day as a Timestamp at midnight, in nanoseconds (as in the index of frames) if the year allows it."""
    import pandas as pd

    return pd.Timestamp(day).as_unit("ns") if FIRST_DAY <= day < LAST_DAY + ONE_DAY else pd.Timestamp(day)


def day_after(day: DayLike) -> str:
    """Return the next day, in any notation, as text such as ``2020-01-31``.

    Examples
    --------
    >>> day_after("2020-02-29")
    '2020-03-01'
    """
    return str(read_day(day) + ONE_DAY)


def is_weekend(times: Times) -> NDArray[np.bool_]:
    """Return which days are Saturdays or Sundays.

    Examples
    --------
    >>> is_weekend(np.array(["2024-03-29", "2024-03-30", "2024-03-31"], "datetime64[D]")).tolist()
    [False, True, True]
    """
    return np.asarray((times.astype("datetime64[D]").astype(np.int64) + 3) % 7 >= 5)  # 1970 began on a Thursday


def day_index(days: Days, name: str = "") -> pd.DatetimeIndex:
    """Return days as the index of a frame, in nanoseconds; `name` as in :func:`read_day`.

    Raises
    ------
    DateError
        For a day that pandas cannot represent in nanoseconds, with its row (from 1).
    """
    import pandas as pd

    outside = ~((days >= FIRST_DAY) & (days <= LAST_DAY))
    if outside.any():
        row = int(np.argmax(outside))
        raise DateError(f"row {row + 1}: {days[row]} is outside {FIRST_DAY} to {LAST_DAY}.", path=name)
    return pd.DatetimeIndex(days.astype("datetime64[ns]"))


def read_days(values: Any, name: str = "") -> Days:
    """Return the days that the values of a sequence denote; see :func:`read_day`."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        unit = np.datetime_data(values.dtype)[0]
        if unit not in _SPANS and not np.isnat(values).any():
            return values.astype("datetime64[D]")
    return np.array([read_day(value, name) for value in values], "datetime64[D]")


def read_times(values: Any, name: str = "") -> Times:
    """Return the points of a calendar that the values of a sequence name: days, or moments if one has a time of day."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        unit = np.datetime_data(values.dtype)[0]
        if unit == "D" or (unit not in _SPANS and not np.isnat(values).any()):
            return times_of(values)
    moments = [read_moment(value, name) for value in values]
    days = np.array([m.day for m in moments], "M8[D]")
    seconds = np.array([int(m.seconds) for m in moments], "m8[s]")
    return days + seconds if seconds.astype(np.int64).any() else days


class DayColumn(NamedTuple):
    """The days of a table's column, one entry per row."""

    days: Days
    """NaT if a value is not a day."""
    seconds: NDArray[np.float64]
    """Seconds since midnight, as written; 0 without a time."""
    utc: NDArray[np.bool_]
    """Rows whose time is in UTC, so the exchange's own day can differ."""
    reason: dict[int, str]
    """Row -> reason why its value is not a day."""
    year_last: str = ""
    """``day first`` or ``month first``, if the column has the year last and its order is known; else empty."""
    unordered: bool = False
    """Whether the column has the year last, and its order is not known."""


def read_column(values: pd.Series | Sequence[Any], *, year_last: str = "") -> DayColumn:
    """Return the days of a column, which can also count seconds, milli-, micro- or nanoseconds since 1970.

    Parameters
    ----------
    values : Series or Index
        The column. If it has a time zone, its days are kept and not converted to UTC.
    year_last : str
        ``day first`` or ``month first``: the order of dates with the year last, if no date of the column shows it.
    """
    import pandas as pd

    column = values if isinstance(values, pd.Series) else pd.Series(values, dtype=getattr(values, "dtype", object))
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        found = read_column(column.dt.tz_localize(None))
        return found._replace(utc=~np.isnat(found.days) & (str(column.dt.tz) in ("UTC", "UTC+00:00", "Etc/UTC", "GMT")))
    # Many rows share few distinct days: each string is parsed once.
    place, known = pd.factorize(column, use_na_sentinel=True)
    days = np.full(len(known) + 1, np.datetime64("NaT", "D"), "datetime64[D]")  # the last one is for missing values
    seconds, utc_days = np.zeros(len(known) + 1), np.zeros(len(known) + 1, bool)
    reasons: dict[int, str] = {len(known): f"the date is missing. {_HOW}"}
    dates = [m for m in (_YEAR_LAST.fullmatch(v.strip()) for v in known if isinstance(v, str)) if m]
    order = (_order(dates) or year_last) if dates else ""
    for i, value in enumerate(known):
        try:
            moment = _epoch(value) or _moment(_year_first(value, order))
        except _Unreadable as exc:
            reasons[i] = str(exc)
        else:
            days[i], seconds[i], utc_days[i] = moment.day, moment.seconds, moment.offset == 0
    place = np.where(place < 0, len(known), place)
    reason = {int(row): reasons[int(place[row])] for row in np.flatnonzero(np.isin(place, list(reasons)))}
    return DayColumn(days[place], seconds[place], utc_days[place], reason, order, bool(dates) and not order)


def _order(found: Sequence[re.Match[str]]) -> str:
    """Determine whether the day or the month comes first, from a number above 12 in any of the dates."""
    first, second = (any(int(m[i]) > 12 for m in found) for i in (1, 2))
    return "" if first == second else "day first" if first else "month first"


def _year_first(value: object, order: str) -> object:
    found = _YEAR_LAST.fullmatch(value.strip()) if order and isinstance(value, str) else None
    if found is None or len(found[3]) != 4:
        return value
    month, day = (found[2], found[1]) if order == "day first" else (found[1], found[2])
    return f"{found[3]}-{month}-{day}{found[4]}"


def clock(seconds: float) -> str:
    """Format a time of day as 09:30, with seconds if they are not zero.

    Examples
    --------
    >>> clock(34200), clock(34201)
    ('09:30', '09:30:01')
    """
    text = str(dt.timedelta(seconds=round(seconds))).zfill(8)
    return text.removesuffix(":00")


def _moment(value: object) -> Moment:
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, np.datetime64):
        return _datetime64(value)
    if isinstance(value, dt.date):
        return _date(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value:
            raise _Unreadable(f"the date is missing ({value!r}). {_HOW}")
        if abs(value) < 1e19 and value == int(value):
            return _text(str(int(value)))
    if getattr(value, "freqstr", None) == "D" and hasattr(value, "start_time"):  # a pandas Period
        return _date(value.start_time)
    plain = value is None or isinstance(value, (int, float, bool))
    raise _Unreadable(f"{repr(value) if plain else f'a {type(value).__name__}'} is not a date. {_HOW}")


def _date(value: dt.date) -> Moment:
    if value != value:  # pandas' NaT
        raise _Unreadable(f"the date is missing (NaT). {_HOW}")
    if not isinstance(value, dt.datetime):
        return Moment(value)
    if not 1 <= value.year <= 9999:
        raise _Unreadable(f"{value} is outside the years 1 to 9999.")
    offset = value.utcoffset()
    if offset is not None and abs(offset) >= dt.timedelta(hours=_MAX_OFFSET_HOURS + 1):
        raise _Unreadable(f"{value} has a UTC offset that does not exist. {_HOW}")
    seconds = value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return Moment(
        dt.date(value.year, value.month, value.day), seconds, None if offset is None else offset.total_seconds() / 60
    )


def _datetime64(value: np.datetime64) -> Moment:
    if np.isnat(value):
        raise _Unreadable(f"the date is missing (NaT). {_HOW}")
    if np.datetime_data(value.dtype)[0] in _SPANS:
        raise _Unreadable(f"{str(value)!r} is a duration, not a day. {_HOW}")
    day = value.astype("datetime64[D]")
    if not np.datetime64("0001-01-01") <= day <= np.datetime64("9999-12-31"):
        raise _Unreadable(f"{day} is outside the years 1 to 9999.")
    return Moment(day.item(), float((value - day) / np.timedelta64(1, "s")))


@functools.lru_cache(maxsize=2**16)
def _text(text: str) -> Moment:
    bare = text.strip("\ufeff \t\r\n\v\f\xa0\u3000\u200b")
    for pattern in _PATTERNS:
        found = pattern.fullmatch(bare)
        if found is not None:
            parts = found.groupdict()
            month = _month(parts["name"], text) if parts.get("name") else int(parts["month"])
            seconds = _seconds(parts, text)
            timed = parts.get("hour") is not None
            day = _checked(int(parts["year"]), month, int(parts["day"]), text)
            return Moment(day, seconds, _offset(parts, text), timed)
    raise _Unreadable(_reason(text, bare))


def _checked(year: int, month: int, day: int, text: str) -> dt.date:
    if year < 1 or not 1 <= month <= 12:
        raise _Unreadable(f"{text!r} is not a date: there is no {f'month {month}' if year else 'year 0'}.")
    length = calendar.monthrange(year, month)[1]
    if not 1 <= day <= length:
        raise _Unreadable(f"{text!r} is not a date: {_MONTHS[month - 1].capitalize()} {year} has days 1 to {length}.")
    return dt.date(year, month, day)


def _month(name: str, text: str) -> int:
    for i, full in enumerate(_MONTHS):
        if full.startswith(name.lower()):
            return i + 1
    raise _Unreadable(f"{text!r} is not a date: {name!r} is not a month. {_HOW}")


def _seconds(parts: dict[str, str | None], text: str) -> float:
    hour, minute, second = (int(parts.get(p) or 0) for p in ("hour", "minute", "second"))
    half = (parts.get("half") or "").lower()
    if hour > (12 if half else 23) or minute > 59 or second > 60:
        raise _Unreadable(f"{text!r} has a time of day that does not exist. {_HOW}")
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return hour * 3600 + minute * 60 + second + float(f"0.{parts.get('fraction') or 0}")


def _offset(parts: dict[str, str | None], text: str) -> float | None:
    zone = parts.get("zone")
    if not zone:
        return None
    if zone[0] not in "+-":
        return 0.0 if zone.upper() in ("Z", "UTC", "GMT") else None
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > _MAX_OFFSET_HOURS or minutes > 59:
        raise _Unreadable(f"{text!r} has a UTC offset that does not exist. {_HOW}")
    return float((hours * 60 + minutes) * (-1 if zone[0] == "-" else 1))


def _reason(text: str, bare: str) -> str:
    """Return as precisely as possible why a string that matches no pattern is not a day."""
    if not bare:
        return f"the date is missing (an empty text). {_HOW}"
    serial = bare.removesuffix(".0")
    if len(serial) == 5 and serial.isdecimal() and int(serial) in _SERIALS:
        day = _SERIAL_START + dt.timedelta(int(serial))
        return f"{text!r} is a number by which spreadsheets store a day, {day}. {_HOW}"
    month = _MONTH.fullmatch(bare)
    if _YEAR.fullmatch(bare):
        return f"{text!r} is a year, not a day. Write its first day as {bare}-01-01, its last as {bare}-12-31."
    if month and 1 <= int(month["month"]) <= 12 and int(month["year"]):
        year, number = int(month["year"]), int(month["month"])
        first, last = dt.date(year, number, 1), dt.date(year, number, calendar.monthrange(year, number)[1])
        return f"{text!r} is a month, not a day. Write its first day as {first} and its last day as {last}."
    if _YEAR_LAST.fullmatch(bare):
        return f"{text!r} is ambiguous: either number could be the month. Write the year first: 2015-06-30."
    if bare.isdecimal() and len(bare) in _EPOCHS:
        return f"{text!r} is a Unix timestamp, not a day. {_HOW}"
    shown = repr(text if len(text) <= 40 else f"{text[:40]}…")
    return f"{shown} is not a date. {_HOW}"


def _epoch(value: object) -> Moment | None:
    """Parse a number in a column as a time since 1970; None for anything else."""
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and value == int(value):
        value = int(value)
    digits = value.strip() if isinstance(value, str) else str(value) if isinstance(value, (int, np.integer)) else ""
    unit = _EPOCHS.get(len(digits)) if digits.isdecimal() and digits.isascii() else None
    if unit is None:
        return None
    return _datetime64(np.int64(int(digits)).astype(f"datetime64[{unit}]"))._replace(offset=0.0)
