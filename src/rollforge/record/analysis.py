"""Evaluation of predictions: information coefficients, long-short returns, quantile returns, risk figures.

Daily figures are computed over blocks of the sorted rows, without a Python call per day. They depend only on the
values: the order of the rows, the unit of scores and labels, and rounding in the last bits do not change them.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import trust
from rollforge.arguments import whole_number
from rollforge.description import Description
from rollforge.errors import ArtifactNotFound, ConfigError, DataError, nearest
from rollforge.generate.label import LABEL_TAG, Label, labels_from_text, task_labels
from rollforge.generate.task_view import TaskView
from rollforge.market.columns import DATE
from rollforge.market.frames import day_rows
from rollforge.record.base import ACRecordTemp
from rollforge.record.signal import SignalRecord
from rollforge.track.base import Recorder

__all__ = [
    "HFSignalRecord", "SigAnaRecord", "calc_ic", "calc_long_short_prec", "calc_long_short_return", "evaluated_column",
    "is_constant", "mean_to_std", "newey_west_t", "quantile_returns", "recorded_labels", "risk_analysis",
]  # fmt: skip

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

# Values of a series, or of a day, are equal up to rounding if they differ by less than this fraction of the largest. A
# return of 1e-6 computed from prices has a relative error of about 1e-10; scores are compared as they are.
_EQUAL_RETURNS = 1e-9
_EQUAL_SCORES = 1e-13


def _is_flat(spread: Any, largest: Any) -> Any:
    """Return whether values with a range and a largest absolute value are equal up to rounding."""
    return spread <= _EQUAL_SCORES * largest


def is_constant(values: Floats) -> bool:
    """Return whether scores or labels are all equal up to rounding, as on a day without an IC.

    Examples
    --------
    >>> is_constant(np.array([0.1, 0.1 + 2**-56])), is_constant(np.array([0.0, 1e-300])), is_constant(np.array([]))
    (True, False, True)
    """
    return not len(values) or bool(_is_flat(np.ptp(values), np.abs(values).max()))


def one_column(value: object, what: str, date_col: str) -> pd.Series:
    """Return a series whose index level `date_col` holds the days as timestamps without time zone."""
    if isinstance(value, (pd.Series, pd.DataFrame)) and date_col != DATE and date_col in value.index.names:
        value = value.rename_axis(index={date_col: DATE})
    rows = day_rows(value, what)
    if isinstance(rows, pd.DataFrame):
        if rows.shape[1] != 1:
            raise DataError(f"{what} must be one column, found {list(rows.columns)}. Select one of them.")
        rows = rows.iloc[:, 0]
    column: pd.Series = rows if date_col == DATE else rows.rename_axis(index={DATE: date_col})
    return column


def paired(pred: object, label: object, date_col: str = "datetime") -> pd.DataFrame:
    """Return a sorted frame with float64 columns pred and label; missing values are NaN.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument, in any form that :func:`~rollforge.market.frames.day_rows` reads: any order of levels and
        rows, time zones, days as strings. Infinite values are treated as missing.
    date_col : str
        Name of the index level with the days, in the arguments and the result.

    Raises
    ------
    DataError
        If an index lacks the days or contains a row twice, or a table has several columns.
    """
    pred, label = one_column(pred, "The prediction", date_col), one_column(label, "The label", date_col)
    for name, series in (("prediction", pred), ("label", label)):
        twice = series.index.duplicated()
        if twice.any():
            row = series.index[twice][0]
            shown = ", ".join(map(str, row)) if isinstance(row, tuple) else row
            raise DataError(f"The {name} contains the row ({shown}) more than once.")
    both = pd.DataFrame({"pred": pred.astype(np.float64), "label": label.astype(np.float64)})
    if len(both) and len(both) == len(pred) + len(label):
        log.warning(
            "prediction and label have no row in common: the first of the prediction is %s, of the label %s",
            *(tuple(map(str, side.index[0])) if len(side) else "missing" for side in (pred, label)),
        )
    if not both.index.is_monotonic_increasing:
        both = both.sort_index()
    return both.where(np.isfinite(both))


def _complete(pred: object, label: object, date_col: str) -> pd.DataFrame:
    return paired(pred, label, date_col).dropna()


def _by_day(pred: pd.Series, label: pd.Series, date_col: str) -> tuple[Days, Floats, Floats]:
    """Return the days, and the values of all rows that have both, by day."""
    if not _are_rows_equal(pred, label):
        both = _complete(pred, label, date_col)
        days = Days.of(both, date_col)
        return days, days.rows(both["pred"]), days.rows(both["label"])
    # The usual case: the label of the rows that were predicted. Joining the columns would take ten times as long.
    x, y = pred.to_numpy(np.float64), label.to_numpy(np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    index: Any = pred.index
    level = index.names.index(date_col)
    days = Days.numbered(index.codes[level][known], index.levels[level])
    return days, x[known][days.order], y[known][days.order]


def _are_rows_equal(left: pd.Series, right: pd.Series) -> bool:
    """Return whether two columns of numbers have the same rows, each once, sorted; False if that takes long to find out."""
    a, b = left.index, right.index
    if not isinstance(a, pd.MultiIndex) or not isinstance(b, pd.MultiIndex) or not len(a) or a.names != b.names:
        return False
    if not all(isinstance(one.dtype, np.dtype) and one.dtype.kind in "fiu" for one in (left, right)):
        return False
    levels_are_equal = all(x.is_monotonic_increasing and x.equals(y) for x, y in zip(a.levels, b.levels, strict=True))
    if not levels_are_equal or not all(map(np.array_equal, a.codes, b.codes)) or not a.is_monotonic_increasing:
        return False
    repeated = np.logical_and.reduce([codes[1:] == codes[:-1] for codes in a.codes])
    return not repeated.any()


def by_value(day: Codes, values: Floats) -> Codes:
    """Return the order of rows by day, and within a day by value.

    Parameters
    ----------
    day : array of int
        Number of the day of each row.
    values : array
        Values of the rows.
    """
    order = np.argsort(values)
    # NumPy sorts 16-bit integers by radix, several times faster than others.
    key = day[order].astype(np.uint16) if len(day) and day.max() < 2**16 else day[order]
    return order[np.argsort(key, kind="stable")]


def _runs(day: Codes, values: Floats, order: Codes) -> tuple[Codes, Codes]:
    """Return for each run of equal values of a day how many of the day's rows are lower, and how many rows it has."""
    if not len(order):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    days, ordered = day[order], values[order]
    begins = np.concatenate([[True], days[1:] != days[:-1]])
    starts = np.flatnonzero(begins | np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    first = np.maximum.accumulate(np.where(begins[starts], starts, 0))
    return starts - first, np.diff(np.append(starts, len(order)))


def mean_ranks(day: Codes, values: Floats, order: Codes) -> Floats:
    """Return the rank of each row on its day, from 1; equal values share their mean rank.

    Parameters
    ----------
    day : array of int
        Number of the day of each row.
    values : array
        Values of the rows.
    order : array of int
        The rows in the order of :func:`by_value`.
    """
    below, count = _runs(day, values, order)
    ranks = np.empty(len(order))
    ranks[order] = np.repeat(below + (count + 1) / 2, count)
    return ranks


class Days:
    """Rows of a sorted frame grouped by day: sums, extremes and ranks of blocks of rows."""

    def __init__(self, codes: Codes, days: pd.Index) -> None:
        """Group rows by `codes`, the positions of their days in `days`, each of which has a row."""
        self.order: Codes = np.argsort(codes, kind="stable")
        self.codes: Codes = codes[self.order]
        self.index = days
        self.size: Codes = np.bincount(codes, minlength=len(days))
        self._starts = np.concatenate([[0], np.cumsum(self.size)[:-1]]) if len(days) else np.empty(0, np.intp)

    @classmethod
    def of(cls, rows: pd.DataFrame | pd.Series, date_col: str) -> Days:
        """Group the rows of a table by its index level `date_col`."""
        codes, days = pd.factorize(rows.index.get_level_values(date_col), sort=True)
        return cls(codes, pd.Index(days, name=date_col))

    @classmethod
    def numbered(cls, numbers: Codes, calendar: pd.Index) -> Days:
        """Group rows by the numbers of their days in a calendar."""
        used = np.flatnonzero(np.bincount(numbers, minlength=len(calendar)))
        return cls(np.searchsorted(used, numbers), calendar[used])

    def rows(self, column: pd.Series) -> Floats:
        """Return the values of a column ordered by day."""
        return column.to_numpy(np.float64)[self.order]

    def sum(self, values: Floats) -> Floats:
        """Return the sum of each day."""
        return np.asarray(np.add.reduceat(values, self._starts) if len(self.index) else values[:0], np.float64)

    def spread(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the range (max - min) of each day, and the largest absolute value."""
        if not len(self.index):
            return np.empty(0), np.empty(0)
        low, high = np.minimum.reduceat(values, self._starts), np.maximum.reduceat(values, self._starts)
        return high - low, np.maximum(np.abs(low), np.abs(high))

    def flat(self, values: Floats) -> NDArray[np.bool_]:
        """Return whether all values of a day are equal up to rounding, for each day."""
        spread, largest = self.spread(values)
        return np.asarray(_is_flat(spread, largest))

    def each(self, by_day: Floats) -> Floats:
        """Broadcast one value per day to the rows of the day."""
        return by_day[self.codes]

    def rank(self, values: Floats) -> Floats:
        """Return ranks within the day, from 1; equal values share their mean rank."""
        return mean_ranks(self.codes, values, by_value(self.codes, values))

    def series(self, values: Floats) -> pd.Series:
        """Return one value per day as a series."""
        return pd.Series(values, self.index)


def correlation(days: Days, left: Floats, right: Floats) -> Floats:
    """Return the correlation of two columns on each day; NaN with fewer than two rows, or if all values are equal."""
    size = days.size.astype(np.float64)
    centred = []
    for values in (left, right):
        spread, _ = days.spread(values)
        # Scale by the day's range: squares of values near 1e-200 or 1e200 would under- or overflow.
        unit = days.each(np.where(days.flat(values), np.nan, spread))
        scaled = (values - days.each(days.sum(values / days.each(size)))) / unit
        centred.append(scaled)
    x, y = centred
    made = days.sum(x * y) / np.sqrt(days.sum(x * x) * days.sum(y * y))
    return np.where(size > 1, np.clip(made, -1.0, 1.0), np.nan)


def calc_ic(
    pred: object, label: object, date_col: str = "datetime", dropna: bool = False
) -> tuple[pd.Series, pd.Series]:
    """Return the daily IC (Pearson) and Rank IC (Spearman, ties share their mean rank) of a prediction.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument; see :func:`~rollforge.market.frames.day_rows`.
    date_col : str
        Name of the index level with the days.
    dropna : bool
        True drops the days without a value.

    Returns
    -------
    (Series, Series)
        Sorted by day; NaN on a day with fewer than two pairs, or if all values are equal.

    Raises
    ------
    DataError
        If an index lacks the days or contains a row twice.
    """
    pred, label = one_column(pred, "The prediction", date_col), one_column(label, "The label", date_col)
    days, x, y = _by_day(pred, label, date_col)
    found = correlation(days, x, y)
    ranks = correlation(days, days.rank(x), days.rank(y))
    # Ranks of values that differ only by rounding are meaningless.
    ic, ric = days.series(found), days.series(np.where(np.isnan(found), np.nan, ranks))
    asked = pd.Index(pred.index.get_level_values(date_col).unique(), name=date_col).sort_values()
    ic, ric = ic.reindex(asked), ric.reindex(asked)
    return (ic.dropna(), ric.dropna()) if dropna else (ic, ric)


class ScoreRanks:
    """Positions of a day's rows when sorted by score; rows with equal scores share their positions equally.

    A mean over some positions is then the average over all orders of equal rows.
    """

    def __init__(self, days: Days, scores: Floats) -> None:
        self._days = days
        order = by_value(days.codes, scores)
        below, count = _runs(days.codes, scores, order)
        self._below, self._equal = np.empty(len(order)), np.empty(len(order))
        self._below[order], self._equal[order] = np.repeat(below, count), np.repeat(count, count)

    def share(self, first: np.ndarray, stop: np.ndarray) -> Floats:
        """Return the share of each row that lies at the positions [`first`, `stop`) of its day."""
        days = self._days
        low = np.maximum(self._below, days.each(np.asarray(first, np.float64)))
        high = np.minimum(self._below + self._equal, days.each(np.asarray(stop, np.float64)))
        return np.asarray(np.maximum(high - low, 0.0) / self._equal, np.float64)

    def mean(self, values: Floats, first: np.ndarray, stop: np.ndarray) -> Floats:
        """Return the mean of the values at the positions [`first`, `stop`) of each day, ignoring missing values."""
        days = self._days
        share = np.where(np.isnan(values), 0.0, self.share(first, stop))
        weight = days.sum(share)
        total = days.sum(share * np.nan_to_num(values))
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


def calc_long_short_return(
    pred: object, label: object, date_col: str = "datetime", quantile: float = 0.2, dropna: bool = False
) -> tuple[pd.Series, pd.Series]:
    """Return the daily long-short return (half long the best, half short the worst), and the mean return of all.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument. Rows without a score are ignored.
    quantile : float
        Share of the instruments on each side, rounded down to whole instruments. Equal scores at the boundary count
        with the same fraction each.
    dropna : bool
        True ranks only rows that also have a label. False ranks all rows, and the mean of a side ignores missing
        labels.

    Returns
    -------
    (Series, Series)
        Long-short return (half the difference of the sides' means) and mean label, by day. The long-short return is NaN
        on a day with too few rows or with equal scores only.

    Raises
    ------
    ConfigError
        If `quantile` is not between 0 and 1.
    DataError
        If an index lacks the days or contains a row twice.
    """
    both = paired(pred, label, date_col).dropna(subset=["pred", "label"] if dropna else ["pred"])
    days, places, side = _sides(both, quantile, date_col)
    truth, everything = days.rows(both["label"]), days.size
    none = np.zeros(len(side))
    spread = (places.mean(truth, everything - side, everything) - places.mean(truth, none, side)) / 2
    long_short = days.series(np.where(days.flat(days.rows(both["pred"])), np.nan, spread))
    return long_short, days.series(places.mean(truth, none, everything))


def _sides(both: pd.DataFrame, quantile: float, date_col: str) -> tuple[Days, ScoreRanks, Floats]:
    """Return the days, the positions of their scores, and the number of instruments on each side."""
    if not 0 < quantile <= 1:
        raise ConfigError(f"must be between 0 and 1, found {quantile!r}.", path="quantile")
    days = Days.of(both, date_col)
    # 0.29 of 100 is 29, although the product is 28.999999999999996
    return days, ScoreRanks(days, days.rows(both["pred"])), np.floor(days.size * quantile * (1 + 1e-12))


def calc_long_short_prec(
    pred: pd.Series,
    label: pd.Series,
    date_col: str = "datetime",
    quantile: float = 0.2,
    dropna: bool = False,
    is_alpha: bool = False,
) -> tuple[pd.Series, pd.Series]:
    """Return the daily share of the best scores with a positive label, and of the worst with a negative label.

    Parameters
    ----------
    pred, label : Series
        Index (datetime, instrument). Rows without a score are ignored.
    quantile : float
        Share of the instruments on each side; see :func:`calc_long_short_return`.
    dropna : bool
        True ranks only rows that also have a label. False ranks all rows, and missing labels count on neither side.
    is_alpha : bool
        True subtracts the day's mean from the labels first.

    Returns
    -------
    (Series, Series)
        By day; there is no value on a day with too few rows or with equal scores only.

    Raises
    ------
    ConfigError
        If `quantile` is not between 0 and 1.
    DataError
        If an index lacks the days or contains a row twice.
    """
    both = paired(pred, label, date_col)
    if is_alpha:
        both["label"] -= both.groupby(level=date_col)["label"].transform("mean")
    both = both.dropna(subset=["pred", "label"] if dropna else ["pred"])
    days, places, side = _sides(both, quantile, date_col)
    truth, scores = days.rows(both["label"]), days.rows(both["pred"])
    right = [np.where(np.isnan(truth), np.nan, sign * truth > 0) for sign in (1, -1)]
    none = np.zeros(len(side))
    parts = places.mean(right[0], days.size - side, days.size), places.mean(right[1], none, side)
    without = days.flat(scores)
    best, worst = (days.series(np.where(without, np.nan, part)) for part in parts)
    return best, worst


def quantile_edges(days: Days, n: int) -> list[NDArray[np.intp]]:
    """Return the first position of each of `n` quantiles of the days' rows, and the end of the last.

    Raises
    ------
    ConfigError
        If `n` is not an integer of at least 1.
    """
    n = whole_number(n, "n")
    return [-(-days.size * k // n) for k in range(n + 1)]


def quantile_returns(pred: object, label: object, n: int = 5, date_col: str = "datetime") -> pd.DataFrame:
    """Return the daily mean label of each quantile of the prediction.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument. Rows that lack either are dropped.
    n : int
        Number of quantiles. Quantile k holds the positions from k/n to (k + 1)/n of the day's rows, rounded up to whole
        rows; equal scores at a boundary count on both sides, with the same fraction each.

    Returns
    -------
    DataFrame
        Index: days. Columns: 1 (lowest scores) to `n`. NaN on a day with fewer than `n` rows or with equal scores only.

    Raises
    ------
    ConfigError
        If `n` is not an integer of at least 1.
    DataError
        If an index lacks the days or contains a row twice.
    """
    both = _complete(pred, label, date_col)
    days = Days.of(both, date_col)
    scores, truth = days.rows(both["pred"]), days.rows(both["label"])
    places = ScoreRanks(days, scores)
    edges = quantile_edges(days, n)
    without = days.flat(scores) | (days.size < n)
    columns = {k + 1: np.where(without, np.nan, places.mean(truth, edges[k], edges[k + 1])) for k in range(n)}
    return pd.DataFrame(columns, index=days.index)


# Qlib uses 238 trading days per year, as on the Chinese exchanges.
_PERIODS = {"day": 238.0, "week": 50.0, "month": 12.0, "min": 240.0 * 238.0}
_FREQUENCIES = {
    "d": "day", "day": "day", "w": "week", "week": "week", "mon": "month", "month": "month", "min": "min",
    "minute": "min",
}  # fmt: skip


def _periods(freq: str) -> float:
    found = re.fullmatch(r"(\d*)([a-z]+)", str(freq).strip().lower())
    if found is None or found[2] not in _FREQUENCIES or found[1] == "0":
        hint = nearest(found[2] if found else str(freq), _FREQUENCIES)
        raise ConfigError(
            f"must be a frequency such as day, 1day, week, month or 30min, found {freq!r}.{hint}", path="freq"
        )
    return _PERIODS[_FREQUENCIES[found[2]]] / int(found[1] or 1)


def by_time(values: pd.Series) -> pd.Series:
    """Return a series sorted by its days; one without days is in the order given."""
    return values.sort_index(kind="stable") if isinstance(values.index, pd.DatetimeIndex) else values


def _returns(r: object) -> Floats:
    """Return the non-missing returns as an array."""
    if isinstance(r, pd.DataFrame):
        if r.shape[1] != 1:
            raise DataError(f"The returns must be one column, found {list(r.columns)}. Select one of them.")
        r = r.iloc[:, 0]
    try:
        values = np.asarray(by_time(pd.Series(r)).dropna(), np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"The returns must be numbers: {error}") from None
    infinite = np.isinf(values)
    if infinite.any():
        log.warning("%d of %d returns are infinite and are treated as missing", infinite.sum(), len(values))
    return np.asarray(values[~infinite])


def risk_analysis(
    r: object,
    N: float | None = None,
    freq: str | None = "day",
    mode: Literal["sum", "product"] = "sum",
) -> pd.DataFrame:
    """Return mean, std, annualised return, information ratio and maximum drawdown of a series of returns.

    Parameters
    ----------
    r : Series, array, list, or frame of one column
        Returns by period; those with days are sorted by day, others are in the order given. NaN is dropped. Infinite
        returns are treated as missing, with a warning.
    N : float, optional
        Periods per year; by default those of `freq` (238 days, as in Qlib).
    freq : str, optional
        Frequency of the returns: day, week, month or min, optionally preceded by a number.
    mode : str
        ``sum``: returns are added (a fixed amount is invested); ``product``: returns are compounded.

    Returns
    -------
    DataFrame
        Index: the names; column ``risk``. Undefined figures are NaN: all without returns, and the ratio if all returns
        are equal up to rounding. The drawdown includes the initial value before the first return.

    Raises
    ------
    ConfigError
        If the mode or frequency is unknown.
    DataError
        If the returns are not numbers, or have several columns.

    Examples
    --------
    >>> float(risk_analysis(pd.Series([-0.5, 0.2])).loc["max_drawdown", "risk"])
    -0.5
    """
    if mode not in ("sum", "product"):
        raise ConfigError(
            f"must be 'sum' or 'product', found {mode!r}.{nearest(str(mode), ['sum', 'product'])}", path="mode"
        )
    if N is None and freq is None:
        raise ConfigError("one of N and freq is needed.", path="N")
    periods = float(N) if N is not None else _periods(str(freq))
    returns = _returns(r)
    names = ("mean", "std", "annualized_return", "information_ratio", "max_drawdown")
    if not len(returns):
        return pd.Series(np.nan, names).to_frame("risk")
    with np.errstate(all="ignore"):  # a return below -100 % has no logarithm
        if mode == "sum":
            gained = returns
            curve = np.concatenate([[0.0], np.cumsum(returns)])
            mean = returns.mean()
            annual = mean * periods
            drawdown = (curve - np.maximum.accumulate(curve)).min()
        else:
            gained = np.log1p(returns)
            curve = np.concatenate([[1.0], np.cumprod(1 + returns)])
            mean = curve[-1] ** (1 / len(returns)) - 1
            annual = (1 + mean) ** periods - 1
            drawdown = (curve / np.maximum.accumulate(curve) - 1).min()
        std = gained.std(ddof=1) if len(returns) > 1 else np.nan
        ratio = mean / std * np.sqrt(periods) if not all_equal(gained) else np.nan
    return pd.Series((mean, std, annual, ratio, drawdown), names).to_frame("risk")


def all_equal(values: Floats) -> bool:
    """Return whether all values are equal up to rounding, so that their spread cannot be divided by."""
    if not len(values):
        return True
    return bool(values.max() - values.min() <= _EQUAL_RETURNS * np.abs(values).max())


def mean_to_std(values: pd.Series) -> float:
    """Return mean / sample standard deviation; NaN for fewer than two values, or if all are equal up to rounding.

    Missing values are ignored.
    """
    there = values.dropna().to_numpy(np.float64)
    if len(there) < 2 or all_equal(there):
        return float("nan")
    return float(there.mean() / there.std(ddof=1))


def newey_west_t(values: pd.Series, days: int) -> float:
    """Return the t statistic of the mean of a daily series with overlapping values.

    Labels over h > 1 days overlap between successive days, so figures computed from them are correlated up to h days
    apart. The variance of the mean is estimated as in Newey and West (1987), with Bartlett weights up to lag h:
    ``(c[0] + 2 * sum((1 - j / (h + 1)) * c[j] for j in 1..h)) / n``, with ``c[j] = sum(e[t] * e[t - j]) / n`` and ``e``
    the deviations from the mean. For 1 day nothing overlaps, and it is the usual ``mean / (std / sqrt(n))``.

    Parameters
    ----------
    values : Series
        Values of days, which are sorted. Missing values are dropped, and the values around them are treated as adjacent.
    days : int
        Number of days that one value spans.

    Returns
    -------
    float
        NaN if there are at most `days` values, or all are equal up to rounding.
    """
    there = by_time(values).dropna().to_numpy(np.float64)
    n = len(there)
    if n <= days or n < 2 or all_equal(there):
        return float("nan")
    if days <= 1:
        return mean_to_std(values) * float(np.sqrt(n))
    mean = there.mean()
    e = there - mean
    variance = e @ e + 2 * sum((1 - j / (days + 1)) * (e[j:] @ e[:-j]) for j in range(1, days + 1))
    return float(mean * n / np.sqrt(variance)) if variance > 0 else float("nan")


class SigAnaRecord(ACRecordTemp):
    """Saves the daily IC and Rank IC, and logs IC, ICIR, Rank IC, Rank ICIR and, optionally, long-short figures.

    Long-short figures are annualised and before costs. A label over h days earns its return in h days: its mean is
    divided by h, and its Sharpe ratio is that of the h-day returns times the square root of the number of h-day periods
    in a year. If the number of days is unknown, they are NaN, with a warning.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl`` and ``label.pkl``.
    ana_long_short : bool
        Whether to analyse long-short returns.
    ann_scaler : int
        Trading days per year.
    label_col : int
        Index of the label column, if there are several.
    skip_existing : bool
        True computes nothing if the artifacts exist.
    label_days : int, optional
        Number of trading days that one label value spans, if the run does not know it.

    Raises
    ------
    ConfigError
        If there is no such label column, or `label_days` is below 1.
    """

    artifact_path = "sig_analysis"
    depend_cls = SignalRecord

    def __init__(
        self,
        recorder: Recorder | None = None,
        ana_long_short: bool = False,
        ann_scaler: int = 252,
        label_col: int = 0,
        skip_existing: bool = False,
        label_days: int | None = None,
    ) -> None:
        super().__init__(recorder, skip_existing)
        self.ana_long_short = ana_long_short
        self.ann_scaler = ann_scaler
        self.label_col = label_col
        self.label_days = None if label_days is None else whole_number(label_days, "label_days", of="trading days")

    def _generate(self, label: pd.DataFrame | None = None, **kwargs: object) -> dict[str, Any] | None:
        pred = self.load("pred.pkl")
        known = label is None  # nothing is known about a label that the caller passes in
        label = self.load("label.pkl") if label is None else label
        if label is None or label.empty:
            log.warning("%s: there is no label to evaluate the prediction", self.recorder)
            return None
        if not -label.shape[1] <= self.label_col < label.shape[1]:
            raise ConfigError(f"is {self.label_col}, but the label has {label.shape[1]} columns.", path="label_col")
        scores, truth = pred.iloc[:, 0], label.iloc[:, self.label_col]
        ic, ric = calc_ic(scores, truth)
        metrics: dict[str, Any] = {
            "IC": float(ic.mean()), "ICIR": mean_to_std(ic), "Rank IC": float(ric.mean()), "Rank ICIR": mean_to_std(ric),
        }  # fmt: skip
        artifacts = {"ic.pkl": ic, "ric.pkl": ric}
        if self.ana_long_short:
            long_short, average = calc_long_short_return(scores, truth)
            days = self._label().days if known else self.label_days
            if days is None:
                log.warning(
                    "%s: the number of days that the label spans is unknown, so annual returns are not computed; "
                    "set label_days",
                    self.recorder,
                )
            periods = float("nan") if days is None else self.ann_scaler / days
            for name, values in (("Long-Short", long_short), ("Long-Avg", average)):
                metrics[f"{name} Ann Return"] = float(values.mean()) * periods
                metrics[f"{name} Ann Sharpe"] = mean_to_std(values) * periods**0.5
            artifacts |= {"long_short_r.pkl": long_short, "long_avg_r.pkl": average}
        self.recorder.log_metrics(**metrics)
        if self.reports:
            basis = f"{ic.notna().sum()} days" + (f", label {self._label()}" if known else "")
            self.report(f"The signal's metrics, before costs ({basis}):", metrics)
        return artifacts

    def _label(self) -> Label:
        """Return the label that the run is evaluated against, with this record's `label_days` if the run has none."""
        labels = recorded_labels(self.recorder)
        found = labels[self.label_col] if -len(labels) <= self.label_col < len(labels) else Label("", None)
        return found if found.days is not None else Label(found.expression, self.label_days)

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return ["ic.pkl", "ric.pkl", *(["long_short_r.pkl", "long_avg_r.pkl"] if self.ana_long_short else [])]


class HFSignalRecord(ACRecordTemp):
    """Saves the IC, the Rank IC, the precision and the long-short return of each time, and logs their means.

    Precision is the share of the best scores whose label is above the mean of the same time, and of the worst scores whose
    label is below it. Returns are those of the label; they are neither annualised nor after costs.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl`` and ``label.pkl``.
    **kwargs
        Ignored, as in Qlib.
    """

    artifact_path = "hg_sig_analysis"
    depend_cls = SignalRecord

    def __init__(self, recorder: Recorder | None = None, **kwargs: object) -> None:
        super().__init__(recorder)

    def _generate(self, **kwargs: object) -> dict[str, Any] | None:
        pred, label = self.load("pred.pkl"), self.load("label.pkl")
        if label is None or label.empty:
            log.warning("%s: there is no label to evaluate the prediction", self.recorder)
            return None
        scores, truth = pred.iloc[:, 0], label.iloc[:, 0]
        ic, ric = calc_ic(scores, truth)
        best, worst = calc_long_short_prec(scores, truth, is_alpha=True)
        long_short, average = calc_long_short_return(scores, truth)
        metrics: dict[str, Any] = {
            "IC": float(ic.mean()), "ICIR": mean_to_std(ic), "Rank IC": float(ric.mean()), "Rank ICIR": mean_to_std(ric),
            "Long precision": float(best.mean()), "Short precision": float(worst.mean()),
            "Long-Short Average Return": float(long_short.mean()),
            "Long-Short Average Sharpe": mean_to_std(long_short),
        }  # fmt: skip
        self.recorder.log_metrics(**metrics)
        self.report(f"The signal's metrics, before costs ({ic.notna().sum()} times):", metrics)
        return {
            "ic.pkl": ic, "ric.pkl": ric, "long_pre.pkl": best, "short_pre.pkl": worst, "long_short_r.pkl": long_short,
            "long_avg_r.pkl": average,
        }  # fmt: skip

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return ["ic.pkl", "ric.pkl", "long_pre.pkl", "short_pre.pkl", "long_short_r.pkl", "long_avg_r.pkl"]


def recorded_labels(recorder: Recorder) -> tuple[Label, ...]:
    """Return the labels of a run, one per column: those that its records saved, else those of its task."""
    noted = recorder.list_tags().get(LABEL_TAG)
    if noted is not None:
        return labels_from_text(noted)
    try:
        task = recorder.load_object("task")
    except ArtifactNotFound:
        return ()
    with (
        trust.from_origin(trust.Origin.FILE) if trust.current_origin() is trust.Origin.OWN else contextlib.nullcontext()
    ):
        return task_labels(task) if isinstance(task, Mapping) else ()


def evaluated_column(task: Mapping[str, object]) -> int:
    """Return the index of the label column that evaluates a task: ``label_col`` of its :class:`SigAnaRecord`, or 0.

    Examples
    --------
    >>> evaluated_column({"record": [{"class": "SignalRecord"}, {"class": "SigAnaRecord", "kwargs": {"label_col": 1}}]})
    1
    """
    for record in TaskView(task).records:
        if isinstance(record, Mapping) and str(record.get("class")).rpartition(".")[2] == "SigAnaRecord":
            column = Description(record).kwargs.get("label_col", 0)
            return column if isinstance(column, int) else 0
    return 0
