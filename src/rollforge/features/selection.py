"""Selecting rows and columns of a handler's data, by Qlib's rules."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from rollforge.dates import as_timestamp, end_of, has_times, read_span, read_timestamp, start_of, times_of
from rollforge.errors import DataError, nearest

__all__ = ["ALL", "RAW", "ColumnSet", "first_day", "is_range", "last_day", "select_columns", "select_rows"]

ALL = "__all"
"""All columns, without group names."""
RAW = "__raw"
"""All columns, as (group, name)."""
ColumnSet = str | Sequence[str]
"""A group of columns, several groups, or one of the names above."""


_SPAN = re.compile(r"\d{4}(-\d{1,2})?", re.ASCII)  # a year or a month


def first_day(value: object, name: str) -> pd.Timestamp | None:
    """Return the first moment of a day, month or year; None for None. `name` is that of the argument, for errors."""
    if isinstance(value, str) and _SPAN.fullmatch(value):
        value = read_span(value, name)[0]
    return None if value is None else start_of(value, name)


def last_day(value: object, name: str) -> pd.Timestamp | None:
    """Return the last moment of a day, month or year; see :func:`first_day`."""
    if isinstance(value, str) and _SPAN.fullmatch(value):
        value = read_span(value, name)[1]
    return None if value is None else end_of(value, name)


def is_range(selector: object) -> TypeGuard[slice]:
    """Return whether a selector is a slice without a step."""
    return isinstance(selector, slice) and selector.step is None


def select_columns(frame: pd.DataFrame, col_set: ColumnSet) -> pd.DataFrame:
    """Return columns by Qlib's rules; see :meth:`~rollforge.features.handler.DataHandler.fetch`."""
    if not isinstance(frame.columns, pd.MultiIndex) or (isinstance(col_set, str) and col_set == RAW):
        return frame
    if isinstance(col_set, str) and col_set == ALL:
        return frame.set_axis(frame.columns.droplevel(0), axis=1)
    known = frame.columns.get_level_values(0).unique()
    for name in [col_set] if isinstance(col_set, str) else col_set if isinstance(col_set, list) else []:
        if isinstance(name, str) and name not in known:
            raise DataError(f"There are no columns {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    columns: Any = col_set  # a tuple is one column
    chosen: pd.DataFrame = frame.loc(axis=1)[columns]
    return chosen


def select_rows(frame: pd.DataFrame, selector: object, level: str | int | None) -> pd.DataFrame:
    """Return rows by Qlib's rules; see :meth:`~rollforge.features.handler.DataHandler.fetch`."""
    if is_range(selector) and selector == slice(None, None):
        return frame
    if level is None or isinstance(selector, pd.MultiIndex):
        rows: Any = selector
    else:
        place = level if isinstance(level, int) else list(frame.index.names).index(level)
        chosen = selector
        if frame.index.names[place] == "datetime":
            chosen = _days_selected(selector, intraday=_is_intraday(frame.index, place))
        rows = (chosen, slice(None, None)) if place == 0 else (slice(None, None), chosen)
    try:
        found: pd.DataFrame = frame.loc(axis=0)[rows]
    except (KeyError, TypeError) as exc:
        raise DataError(f"The handler has no rows for {selector!r}.") from exc
    return found


def _is_intraday(index: pd.Index, place: int) -> bool:
    level = index.levels[place] if isinstance(index, pd.MultiIndex) else index
    return isinstance(level, pd.DatetimeIndex) and has_times(times_of(level))


def _days_selected(selector: object, *, intraday: bool) -> object:
    """Convert the days of a selector to timestamps; months, years and masks are left to pandas."""
    if isinstance(selector, slice):
        first, last = first_day(selector.start, "start"), last_day(selector.stop, "end")
        if not intraday:  # a time of day is ignored
            first, last = (None if time is None else time.normalize() for time in (first, last))
        return slice(first, last, selector.step)
    if intraday and isinstance(selector, (str, int, float, dt.date, np.generic)):
        return slice(first_day(selector, "selector"), last_day(selector, "selector"))
    if isinstance(selector, str):
        begin, end = read_span(selector, "selector")
        return as_timestamp(begin) if begin == end else selector
    if isinstance(selector, (int, float, dt.date, np.generic)):
        return read_timestamp(selector, "selector")
    return selector
