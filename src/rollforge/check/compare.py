"""Comparison of two frames up to a day: the first column and row that differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import show_time, times_of

__all__ = ["Difference", "changed_columns", "compare", "different", "until"]

_RELATIVE = 1e-5
"""Numbers whose difference is smaller, relative to the numbers or (a hundredth of it) to the largest of the column, count
as equal: sums over different numbers of rows are rounded differently, for instance by matrix products. The replaced
market data differ by factors, so what depends on them changes by far more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of two frames: the first column in their order that differs, and its first row."""

    column: str
    """Empty if a row exists in one frame only."""
    day: np.datetime64
    instrument: str
    before: object
    after: object
    columns: int
    """Number of columns that differ."""
    earliest: np.datetime64
    """The first day with a difference in any column."""

    def __str__(self) -> str:
        place = f"{self.instrument} on {show_time(self.day)}" if self.instrument else show_time(self.day)
        if not self.column:
            return f"the row of {place} {'disappears' if self.after is None else 'appears'}"
        return f"{self.column} of {place} changes from {_shown(self.before)} to {_shown(self.after)}"


def _shown(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return "missing" if np.isnan(value) else f"{value:.6g}"
    return "missing" if value is None else str(value)


def until(frame: pd.DataFrame, last: np.datetime64 | None, first: np.datetime64 | None = None) -> pd.DataFrame:
    """Return the rows from day `first` to day `last`; None means open-ended."""
    days = _days(frame)
    kept = np.ones(len(frame), bool)
    if last is not None:
        kept &= days <= last
    if first is not None:
        kept &= days >= first
    return frame if kept.all() else frame[kept]


def _days(frame: pd.DataFrame) -> NDArray[np.datetime64]:
    return times_of(frame.index.get_level_values("datetime"))


def compare(a: pd.DataFrame, b: pd.DataFrame) -> Difference | None:
    """Return where two frames differ; None if they are equal up to rounding.

    Parameters
    ----------
    a, b : DataFrame
        Index with the level ``datetime`` (and ``instrument``), the same columns.
    """
    moved = _row_difference(a.index, b.index)
    if moved is not None:
        return moved
    a, b = _once(a), _once(b)
    b = b if a.index.equals(b.index) else b.loc[a.index]
    days = _days(a)
    odd = next((c for c in [*a.columns, *b.columns] if (c in a.columns) != (c in b.columns)), None)
    if odd is not None:
        place = _place(a.index, a.index[0], days.dtype) if len(a) else None
        return None if place is None else Difference(_column(odd), *place, None, None, 1, days[0])
    b = b if a.columns.equals(b.columns) else b[a.columns]
    found = different(a, b)
    if not found.any():
        return None
    columns = np.flatnonzero(found.any(axis=0))
    at = int(columns[0])
    rows = np.flatnonzero(found[:, at])
    row = int(rows[np.argmin(days[rows])])
    day, instrument = _place(a.index, a.index[row], days.dtype)
    earliest = days[found.any(axis=1)].min()
    return Difference(
        _column(a.columns[at]), day, instrument, a.iat[row, at], b.iat[row, at], len(columns), earliest
    )  # fmt: skip


def _row_difference(a: pd.Index, b: pd.Index) -> Difference | None:
    """Return the first row that is in one index only."""
    if a.equals(b):
        return None
    gone, new = a.difference(b), b.difference(a)
    unit = times_of(a.union(b).get_level_values("datetime")).dtype
    places = [(*_place(a, key, unit), which) for which, keys in (("gone", gone), ("new", new)) for key in keys[:1000]]
    if not places:
        return None
    day, instrument, which = min(places)
    return Difference("", day, instrument, None, None if which == "gone" else True, 0, day)


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if frame.index.is_unique else frame[~frame.index.duplicated()]


def changed_columns(a: pd.DataFrame, b: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which columns of `a` differ from `b` in any row that both have."""
    a, b = _once(a), _once(b)
    rows = a.index.intersection(b.index)
    if not len(rows) or not a.columns.equals(b.columns):
        return np.ones(a.shape[1], bool)
    return np.asarray(different(a.loc[rows], b.loc[rows]).any(axis=0))


def different(a: pd.DataFrame, b: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which values of two frames of the same rows and columns differ by more than rounding."""
    if all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in {*a.dtypes, *b.dtypes}):
        return _numbers_differ(a.to_numpy(), b.to_numpy())
    out = np.zeros(a.shape, bool)
    for i in range(a.shape[1]):
        x, y = a.iloc[:, i], b.iloc[:, i]
        if pd.api.types.is_numeric_dtype(x) and pd.api.types.is_numeric_dtype(y):
            u, v = (one.to_numpy(np.float64, na_value=np.nan)[:, None] for one in (x, y))
            out[:, i] = _numbers_differ(u, v)[:, 0]
        else:
            out[:, i] = (x.astype(object) != y.astype(object)).to_numpy() & ~(x.isna() & y.isna()).to_numpy()
    return out


def _numbers_differ(x: NDArray[np.generic], y: NDArray[np.generic]) -> NDArray[np.bool_]:
    found = np.asarray((x != y) & ~((x != x) & (y != y)), bool)
    rows, columns = np.nonzero(found)
    if not len(rows):
        return found
    u, v = x[rows, columns].astype(np.float64), y[rows, columns].astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.array([_largest(x[:, c]) for c in range(x.shape[1])])
        allowed = _RELATIVE * np.maximum(np.maximum(abs(u), abs(v)), scale[columns] / 100)
        close = np.isfinite(u) & np.isfinite(v) & (abs(u - v) <= allowed)
    found[rows[close], columns[close]] = False
    return found


def _largest(column: NDArray[np.generic]) -> float:
    finite = column[np.isfinite(column.astype(np.float64))]
    return float(np.abs(finite.astype(np.float64)).max()) if len(finite) else 0.0


def _column(name: object) -> str:
    return str(name[-1]) if isinstance(name, tuple) else str(name)


def _place(index: pd.Index, key: object, unit: np.dtype[np.datetime64]) -> tuple[np.datetime64, str]:
    """Return day and instrument of a row."""
    values = key if isinstance(key, tuple) else (key,)
    named = dict(zip(index.names, values, strict=True))
    day: np.datetime64 = pd.Timestamp(named["datetime"]).to_datetime64().astype(unit)
    return day, str(named.get("instrument", ""))
