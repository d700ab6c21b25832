"""Confidence interval and decay of a signal's IC, turnover of the signal, and IC by group.

Lags are counted in days of a calendar, so that a failed window is a gap and not a step of one day.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rollforge.arguments import whole_number
from rollforge.errors import ConfigError, DataError
from rollforge.market.columns import CODE, DATE
from rollforge.record.analysis import (
    Codes,
    Days,
    Floats,
    ScoreRanks,
    by_time,
    by_value,
    calc_ic,
    correlation,
    mean_ranks,
    mean_to_std,
    newey_west_t,
    one_column,
    paired,
    quantile_edges,
)

__all__ = ["Interval", "autocorrelation", "bootstrap_interval", "ic_by_group", "ic_decay", "quantile_turnover"]


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def bootstrap_interval(
    values: pd.Series,
    days: int = 1,
    *,
    level: float = 0.95,
    samples: int = 2000,
    block: int | None = None,
    seed: int = 0,
) -> Interval:
    """Return a bootstrap confidence interval of the mean of a daily series.

    Blocks of successive days are drawn with replacement, so that the dependence between neighbouring days, such as that
    of overlapping labels, is kept: the circular block bootstrap of Politis and Romano (1992), in which blocks continue
    on the first day after the last, so that all days are drawn equally often. The ends are percentiles of the means of
    the samples.

    Parameters
    ----------
    values : Series
        Values of days, which are sorted. Missing values are dropped, and the values around them are treated as adjacent.
    days : int
        Number of days that one value spans.
    level : float
        Probability that the interval contains the mean.
    samples : int
        Number of samples.
    block : int, optional
        Days per block; by default the cube root of the number of values, rounded up, but at least `days`.
    seed : int
        Random seed; the same seed gives the same interval.

    Returns
    -------
    Interval
        NaN if there are at most `days` values, or fewer than two.

    Raises
    ------
    ConfigError
        If `level` is not between 0 and 1, or a number is below 1.

    Examples
    --------
    >>> bootstrap_interval(pd.Series([0.5, 0.5, 0.5]))
    Interval(low=0.5, high=0.5)
    """
    if not 0 < level < 1:
        raise ConfigError(f"must be between 0 and 1, found {level!r}.", path="level")
    for name, value in (("days", days), ("samples", samples), ("block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"must be at least 1, found {value!r}.", path=name)
    there = by_time(values).dropna().to_numpy(np.float64)
    n = len(there)
    if n < 2 or n <= days:
        return Interval(math.nan, math.nan)
    length = min(n, block if block is not None else max(days, math.ceil(n ** (1 / 3) - 1e-9)))
    whole, rest = divmod(n, length)
    # Deviations from the mean are summed, so that equal values give exactly their mean.
    mean = there.mean()
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([there, there]) - mean)])
    starts = np.random.default_rng(seed).integers(0, n, (samples, whole + (rest > 0)))
    ends = starts + length
    if rest:
        ends[:, -1] = starts[:, -1] + rest
    means = mean + (total[ends] - total[starts]).sum(axis=1) / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


class _Rows:
    """Values by day and instrument, with lookup of the values of other days."""

    def __init__(self, values: pd.Series, calendar: pd.DatetimeIndex, names: pd.Index) -> None:
        self.values = values.to_numpy(np.float64)
        self.calendar = calendar
        (days, day), (codes, code) = _level(values.index, DATE), _level(values.index, CODE)
        # The last position represents a missing value, which has the code -1.
        self.day: Codes = np.append(calendar.get_indexer(pd.DatetimeIndex(days)), -1)[day]
        if (self.day < 0).any():
            lacking = values.index.get_level_values(DATE)[self.day < 0][0]
            raise DataError(f"The calendar lacks {lacking:%Y-%m-%d}, which has values.")
        self._width = len(names) + 1
        self.key: Codes = self.day * self._width + np.append(names.get_indexer(codes), len(names))[code]
        self._order = np.argsort(self.key, kind="stable")

    @functools.cached_property
    def _by_value(self) -> Codes:
        return by_value(self.day, self.values)

    def by_day(self, rows: Codes) -> Days:
        """Return some rows grouped by day."""
        return Days.numbered(self.day[rows], self.calendar)

    def ranks(self, rows: Codes) -> Floats:
        """Return the ranks of some rows among those of the same day; equal values share their mean rank.

        All rows are sorted only once: the order of some of them follows from the order of all.
        """
        place = np.full(len(self.values), -1)
        place[rows] = np.arange(len(rows))
        order = place[self._by_value]
        return mean_ranks(self.day[rows], self.values[rows], order[order >= 0])

    def find(self, other: _Rows, lag: int) -> tuple[Codes, Codes]:
        """Return pairs of rows: those of this table, and those of `other` of the same instrument `lag` days later."""
        wanted = self.key + lag * self._width
        keys = other.key[other._order]
        if not len(keys):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = np.flatnonzero(keys[at] == wanted)
        return found, other._order[at[found]]


def _known(values: pd.Series) -> pd.Series:
    known: pd.Series = values.dropna()
    return known


def _level(index: pd.Index, name: str) -> tuple[pd.Index, Codes]:
    """Return the distinct values of an index level, and the position of each row's value among them; -1 if it is
    missing."""
    if isinstance(index, pd.MultiIndex):
        level = index.names.index(name)
        return index.levels[level], np.asarray(index.codes[level], np.intp)
    codes, values = pd.factorize(index)
    return pd.Index(values), codes


def _calendar(calendar: Iterable[object] | None, *columns: pd.Series) -> pd.DatetimeIndex:
    """Return the days by which lags are counted."""
    if calendar is not None:
        return pd.DatetimeIndex(pd.Index(list(calendar)), name=DATE).unique().sort_values()
    days = [values[np.unique(codes[codes >= 0])] for values, codes in (_level(c.index, DATE) for c in columns)]
    return pd.DatetimeIndex(np.concatenate([np.asarray(found) for found in days]), name=DATE).unique().sort_values()


def _names(*columns: pd.Series) -> pd.Index:
    codes = [_level(c.index, CODE)[0].to_numpy(object) for c in columns]
    made: pd.Index = pd.Index(np.concatenate(codes)).unique()
    return made


def _scores(pred: object) -> pd.Series:
    column = one_column(pred, "The prediction", DATE)
    return _known(paired(column, column)["pred"])


def autocorrelation(pred: object, lags: Sequence[int] = (1,), calendar: Iterable[object] | None = None) -> pd.DataFrame:
    """Return the rank correlation of the scores of each day with those of `lags` days before.

    Parameters
    ----------
    pred : Series, or table of one column
        By day and instrument. Instruments with a score on both days are ranked; ties share their mean rank.
    lags : sequence of int
        Numbers of days.
    calendar : iterable of days, optional
        Days by which lags are counted; by default the days of the prediction.

    Returns
    -------
    DataFrame
        Index: days of the prediction. Columns: the lags. NaN without two instruments on both days, or if all scores of
        a day are equal.

    Raises
    ------
    ConfigError
        If a lag is below 1.
    DataError
        If the calendar lacks a day, or the index lacks the days or contains a row twice.
    """
    lags = [whole_number(lag, "lags") for lag in lags]
    scores = _scores(pred)
    rows = _Rows(scores, _calendar(calendar, scores), _names(scores))
    columns = {}
    for lag in lags:
        before, now = rows.find(rows, lag)
        columns[lag] = _rank_correlation(rows.by_day(now), (rows, now), (rows, before))
    days = Days.numbered(rows.day, rows.calendar).index
    return pd.DataFrame(columns, index=days)


def _rank_correlation(days: Days, left: tuple[_Rows, Codes], right: tuple[_Rows, Codes]) -> pd.Series:
    """Return the rank correlation on each day of some rows of two tables."""
    flat = np.zeros(len(days.index), np.bool_)
    ranks = []
    for table, rows in (left, right):
        flat |= days.flat(table.values[rows][days.order])
        ranks.append(table.ranks(rows)[days.order])
    return days.series(np.where(flat, np.nan, correlation(days, *ranks)))


def quantile_turnover(pred: object, n: int = 5, lag: int = 1, calendar: Iterable[object] | None = None) -> pd.DataFrame:
    """Return the share of each quantile of a day that was not in it `lag` days before.

    Parameters
    ----------
    pred : Series, or table of one column
        By day and instrument.
    n : int
        Number of quantiles, as in :func:`~rollforge.record.analysis.quantile_returns`: equal scores at a boundary
        belong to both sides with the same fraction each, and the smaller of the fractions on the two days counts as
        having stayed.
    lag : int
        Number of days.
    calendar : iterable of days, optional
        Days by which the lag is counted; by default the days of the prediction.

    Returns
    -------
    DataFrame
        Index: days of the prediction. Columns: 1 (lowest scores) to `n`. NaN if one of the two days has no quantiles:
        no scores, fewer than `n`, or equal scores only.

    Raises
    ------
    ConfigError
        If `n` or `lag` is not an integer of at least 1.
    DataError
        If the calendar lacks a day, or the index lacks the days or contains a row twice.
    """
    lag = whole_number(lag, "lag")
    scores = _scores(pred)
    by_day = Days.of(scores, DATE)
    values = by_day.rows(scores)
    scores = scores.iloc[by_day.order]
    positions, edges = ScoreRanks(by_day, values), quantile_edges(by_day, n)
    dates = _calendar(calendar, scores)
    rows = _Rows(scores, dates, _names(scores))
    before, now = rows.find(rows, lag)
    there = ~(by_day.flat(values) | (by_day.size < n))
    position = dates.get_indexer(pd.DatetimeIndex(by_day.index))
    valid = np.zeros(len(dates) + lag, np.bool_)
    valid[position[there] + lag] = True
    both = there & valid[position]
    columns = {}
    for k in range(n):
        share = positions.share(edges[k], edges[k + 1])
        kept = np.bincount(by_day.codes[now], np.minimum(share[now], share[before]), minlength=len(by_day.index))
        columns[k + 1] = np.where(both, 1 - kept / np.where(both, by_day.sum(share), 1.0), np.nan)
    return pd.DataFrame(columns, index=by_day.index)


def ic_decay(
    pred: object,
    label: object,
    lags: Sequence[int] = (0, 1, 2, 3, 5, 10, 20),
    calendar: Iterable[object] | None = None,
    *,
    days: int | None = None,
) -> pd.DataFrame:
    """Return the mean IC of the scores with the labels of the same day and of later days.

    Lag k compares the scores of a day with the labels k days later: how good a signal still is if it is used k days
    late.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument.
    lags : sequence of int
        Numbers of days.
    calendar : iterable of days, optional
        Days by which lags are counted; by default the days of prediction and label.
    days : int, optional
        Number of days that a label spans, for the t statistic; None if unknown.

    Returns
    -------
    DataFrame
        Index: the lags. Columns: IC, Rank IC (means over days), t (of the mean IC, see
        :func:`~rollforge.record.analysis.newey_west_t`; NaN if `days` is unknown), days (number of days with an IC).

    Raises
    ------
    ConfigError
        If a lag is below 0.
    DataError
        If the calendar lacks a day, or an index lacks the days or contains a row twice.
    """
    lags = [whole_number(lag, "lags", least=0) for lag in lags]
    both = paired(pred, label)
    scores, truth = _known(both["pred"]), _known(both["label"])
    dates, names = _calendar(calendar, scores, truth), _names(scores, truth)
    left, right = _Rows(scores, dates, names), _Rows(truth, dates, names)
    figures = {}
    for lag in lags:
        early, late = left.find(right, lag)
        by_day = left.by_day(early)
        x, y = left.values[early][by_day.order], right.values[late][by_day.order]
        ic = by_day.series(correlation(by_day, x, y)).dropna()
        rank_ic = _rank_correlation(by_day, (left, early), (right, late)).dropna()
        t = math.nan if days is None else newey_west_t(ic, days)
        figures[lag] = {"IC": float(ic.mean()), "Rank IC": float(rank_ic.mean()), "t": t, "days": float(len(ic))}
    return pd.DataFrame.from_dict(figures, orient="index", columns=["IC", "Rank IC", "t", "days"]).rename_axis("lag")


def ic_by_group(pred: object, label: object, groups: pd.Series, *, days: int | None = None) -> pd.DataFrame:
    """Return the mean IC within each group of instruments.

    Parameters
    ----------
    pred, label : Series, or table of one column
        By day and instrument.
    groups : Series
        Group of each instrument, by instrument or by day and instrument. Rows without a group are omitted.
    days : int, optional
        Number of days that a label spans, for the t statistic; None if unknown.

    Returns
    -------
    DataFrame
        Index: the groups, sorted. Columns: IC, ICIR, t, Rank IC, days (number of days with an IC), rows (with score and
        label). The rules of :func:`~rollforge.record.analysis.calc_ic` apply within each group.

    Raises
    ------
    DataError
        If an index lacks the days, or contains a row or an instrument twice.
    """
    both = paired(pred, label).dropna()
    twice = groups.index.duplicated()
    if twice.any():
        raise DataError(f"The groups contain {groups.index[twice][0]} more than once.")
    if groups.index.nlevels == 1:
        group = groups.reindex(both.index.get_level_values(CODE)).to_numpy()
    else:
        group = one_column(groups, "The series of groups", DATE).reindex(both.index).to_numpy()
    figures: dict[Hashable, dict[str, float]] = {}
    for name, rows in both.groupby(pd.Series(group, both.index, name="group"), sort=True):
        ic, rank_ic = calc_ic(rows["pred"], rows["label"], dropna=True)
        figures[name] = {
            "IC": float(ic.mean()), "ICIR": mean_to_std(ic), "t": math.nan if days is None else newey_west_t(ic, days),
            "Rank IC": float(rank_ic.mean()), "days": float(len(ic)), "rows": float(len(rows)),
        }  # fmt: skip
    columns = ["IC", "ICIR", "t", "Rank IC", "days", "rows"]
    return pd.DataFrame.from_dict(figures, orient="index", columns=columns).rename_axis("group")
