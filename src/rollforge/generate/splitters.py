"""Splitters for scikit-learn: rolling windows and purged cross-validation over rows with days.

They work wherever scikit-learn takes `cv`, such as ``cross_val_score`` and ``GridSearchCV``, and need no scikit-learn
themselves. The rows of a day are never divided between training and test.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rollforge.arguments import is_whole_number, whole_number
from rollforge.dates import day_index, read_days
from rollforge.errors import ConfigError, DataError, SegmentError, counted, shown
from rollforge.generate.folds import Range, combined_tests, embargo_days, equal_groups, training_days
from rollforge.limits import LIMITS

__all__ = ["CombinatorialPurgedSplit", "PurgedKFold", "RollingSplit"]

Positions = NDArray[np.intp]
Offset = int | str | pd.offsets.BaseOffset | pd.Timedelta


class _Split(abc.ABC):
    """Base class: from rows to days and back."""

    calendar: Any

    @abc.abstractmethod
    def _windows(self, days: pd.DatetimeIndex) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield which days are trained on and which are tested, in chronological order of the tests."""

    def split(self, X: object, y: object = None, groups: object = None) -> Iterator[tuple[Positions, Positions]]:  # noqa: N803
        """Yield the positions of the training rows and of the test rows of each split.

        Parameters
        ----------
        X : DataFrame, Series or array
            Rows in any order, with the days in its index: a level ``datetime``, the only level of timestamps, or
            a DatetimeIndex.
        y : object
            Ignored; if `X` has no days, the index of `y` is used.
        groups : array-like of days, optional
            The day of each row, instead of those of the index.

        Raises
        ------
        DataError
            If the rows have no days, or the number of rows differs from that of the days.
        SegmentError
            If there are too few days for a split.
        """
        rows = _days_of(X, y, groups)
        codes, days = _on_calendar(rows, self.calendar)
        for train, test in self._windows(days):
            taken = np.flatnonzero(train[codes]), np.flatnonzero(test[codes])
            if all(map(len, taken)):  # a calendar may have days without rows
                yield taken

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:  # noqa: N803
        """Return the number of splits.

        Raises
        ------
        DataError, SegmentError
            As :meth:`split`.
        """
        return sum(1 for _ in self.split(X, y, groups))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name != "calendar")
        return f"{type(self).__name__}({given})"


class RollingSplit(_Split):
    """Splits rows into the windows of :class:`~rollforge.RollingGen`: each tests the days after the previous test.

    Parameters
    ----------
    train_size, test_size : int or offset
        Length of the training and of the test window: trading days, or a pandas offset such as ``"365D"`` or
        ``pd.DateOffset(years=1)``.
    step : int or offset, optional
        From the start of a test window to that of the next; by default `test_size`.
    expanding : bool
        If True, all training windows start on the first day; otherwise they keep their length.
    purge : int
        Trading days left out between a training window and its test: the number of days that the label looks ahead, as
        ``trunc_days="auto"`` leaves out.
    embargo : int
        Further trading days left out there. A rolling window is never trained on days after its test, so this is the only
        side on which the two meet.
    drop_last : bool
        If True, a last test window that is shorter than `test_size` is dropped.
    calendar : array of dates, optional
        The trading days that are counted; by default the days of the data.

    Examples
    --------
    Ten days of two instruments; train on four days, leave out one, and test two:

    >>> days = pd.bdate_range("2024-01-01", periods=10)
    >>> rows = pd.DataFrame(index=pd.MultiIndex.from_product([days, ["A", "B"]], names=["datetime", "instrument"]))
    >>> for train, test in RollingSplit(train_size=4, test_size=2, purge=1).split(rows):
    ...     print(*(f"{part[0][0]:%d} to {part[-1][0]:%d}" for part in (rows.index[train], rows.index[test])), sep=", ")
    01 to 04, 08 to 09
    03 to 08, 10 to 11
    05 to 10, 12 to 12
    """

    def __init__(
        self,
        train_size: Offset,
        test_size: Offset,
        step: Offset | None = None,
        *,
        expanding: bool = False,
        purge: int = 0,
        embargo: int = 0,
        drop_last: bool = False,
        calendar: ArrayLike | None = None,
    ) -> None:
        self.train_size = _length(train_size, "train_size")
        self.test_size = _length(test_size, "test_size")
        self.step = None if step is None else _length(step, "step")
        self.expanding = expanding
        self.purge, self.embargo = whole_number(purge, "purge", least=0), whole_number(embargo, "embargo", least=0)
        self.drop_last = drop_last
        self.calendar = calendar

    def _windows(self, days: pd.DatetimeIndex) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        gap, count = self.purge + self.embargo, len(days)
        start = self._first_trained(days) + 1 + gap
        if start >= count:
            raise SegmentError(
                f"no day is left to test: a training window of {_shown(self.train_size)} and {counted(gap, 'day')} between "
                f"it and the test need more than {counted(count, 'day')}."
            )
        step = self.test_size if self.step is None else self.step
        nominal = days[start]  # offsets count from here, so that weekends do not move later windows
        while start < count:
            stop, is_full = _end(days, start, nominal, self.test_size)
            if self.drop_last and not is_full:
                return
            last = start - gap - 1
            first = 0 if self.expanding else _beginning(days, last, self.train_size)
            yield _mask(count, [(first, last + 1)]), _mask(count, [(start, stop)])
            if isinstance(step, int):
                start += step
                nominal = days[min(start, count - 1)]
            else:
                nominal = nominal + step
                start = int(days.searchsorted(nominal))
                while start < count and days[start] >= nominal + step:  # a gap in the data
                    nominal = nominal + step

    def _first_trained(self, days: pd.DatetimeIndex) -> int:
        """Return the position of the last day of the first training window."""
        if isinstance(self.train_size, int):
            return self.train_size - 1
        return max(0, int(days.searchsorted(days[0] + self.train_size)) - 1)


class _PurgedSplit(_Split):
    """Base class of the purged splitters; see :mod:`rollforge.generate.folds`."""

    purge: int
    embargo: float

    @abc.abstractmethod
    def _numbers(self) -> tuple[int, int]:
        """Return the number of groups, and how many of them a split tests."""

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:  # noqa: N803
        """Return the number of splits; without rows, that of data with a row on each day of the calendar."""
        if self.calendar is not None and (X is not None or groups is not None):
            return super().get_n_splits(X, y, groups)  # splits without rows are left out
        return math.comb(*self._numbers())

    def _windows(self, days: pd.DatetimeIndex) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        (groups, tested), count = self._numbers(), len(days)
        LIMITS["tasks"].check(math.comb(groups, tested), f"{type(self).__name__} makes")
        if count < groups:
            raise SegmentError(f"{counted(groups, 'group')} of days cannot be formed from {counted(count, 'day')}.")
        embargo = embargo_days(self.embargo, count)
        for tests in combined_tests(equal_groups(count, groups), tested):
            train = training_days(count, tests, self.purge, embargo)
            if not train.any():
                raise SegmentError(
                    f"no training day is left for the test of {days[tests[0][0]]:%Y-%m-%d} to "
                    f"{days[tests[-1][1] - 1]:%Y-%m-%d} after leaving out {counted(self.purge, 'day')} on each side and an "
                    f"embargo of {counted(embargo, 'day')}."
                )
            yield train, _mask(count, tests)


class PurgedKFold(_PurgedSplit):
    """Splits rows as :class:`~rollforge.PurgedKFoldGen` does: each fold is tested once, and the others are trained on.

    Parameters
    ----------
    n_folds : int
        Number of folds of consecutive days, at least 2.
    purge : int
        Trading days left out on both sides of a test fold: the number of days that the label looks ahead.
    embargo : int or float
        Further days left out after a test fold; a float is a fraction of all days.
    calendar : array of dates, optional
        The trading days that are counted; by default the days of the data.

    Examples
    --------
    >>> rows = pd.DataFrame(index=pd.bdate_range("2024-01-01", periods=9))
    >>> [train.tolist() for train, _ in PurgedKFold(3, purge=1, embargo=1).split(rows)]
    [[5, 6, 7, 8], [0, 1, 8], [0, 1, 2, 3, 4]]
    """

    def __init__(
        self, n_folds: int = 5, purge: int = 0, embargo: float = 0, *, calendar: ArrayLike | None = None
    ) -> None:
        self.n_folds = whole_number(n_folds, "n_folds", least=2)
        self.purge = whole_number(purge, "purge", least=0)
        embargo_days(embargo, 1)
        self.embargo = embargo
        self.calendar = calendar

    def _numbers(self) -> tuple[int, int]:
        return self.n_folds, 1


class CombinatorialPurgedSplit(_PurgedSplit):
    """Splits rows as :class:`~rollforge.CombinatorialPurgedGen` does: every choice of some groups is tested.

    Parameters
    ----------
    n_groups, n_tested : int
        Number of groups of consecutive days, and how many of them a split tests.
    purge, embargo, calendar
        As in :class:`PurgedKFold`.

    Examples
    --------
    >>> rows = pd.DataFrame(index=pd.bdate_range("2024-01-01", periods=6))
    >>> splitter = CombinatorialPurgedSplit(3, 2)
    >>> splitter.get_n_splits(), [test.tolist() for _, test in splitter.split(rows)]
    (3, [[0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5]])
    """

    def __init__(
        self,
        n_groups: int = 6,
        n_tested: int = 2,
        purge: int = 0,
        embargo: float = 0,
        *,
        calendar: ArrayLike | None = None,
    ) -> None:
        self.n_groups, self.n_tested = whole_number(n_groups, "n_groups", least=2), whole_number(n_tested, "n_tested")
        if self.n_tested >= self.n_groups:
            raise ConfigError(
                f"must be below n_groups, so that a group is left to train on; found {n_tested} of {n_groups}.",
                path="n_tested",
            )
        self.purge = whole_number(purge, "purge", least=0)
        embargo_days(embargo, 1)
        self.embargo = embargo
        self.calendar = calendar

    def _numbers(self) -> tuple[int, int]:
        return self.n_groups, self.n_tested


# -- days --------------------------------------------------------------------------------------------------------------


def _days_of(rows: object, y: object, groups: object) -> pd.DatetimeIndex:
    """Return the day of each row."""
    if groups is not None:
        days = _group_days(groups)
    else:
        found = next((level for level in map(_level, (rows, y)) if level is not None), None)
        if found is None:
            raise DataError(
                "the rows have no days. Give X an index with a level datetime, or a DatetimeIndex, or give the day of each "
                "row as groups."
            )
        days = found
    days = pd.DatetimeIndex(days).tz_localize(None).normalize()
    if days.hasnans:
        raise DataError(f"{counted(int(np.sum(days.isna())), 'row')} of {len(days):,} have no day.")
    if rows is not None and hasattr(rows, "__len__") and len(rows) != len(days):
        raise DataError(f"There are {len(rows):,} rows and {counted(len(days), 'day')} in groups.")
    if not len(days):
        raise DataError("there are no rows to split.")
    return days


def _group_days(groups: Any) -> pd.DatetimeIndex:
    values = pd.Index(groups)
    if isinstance(values, pd.DatetimeIndex):
        return values
    codes, written = pd.factorize(values)  # many rows have the same day
    days = day_index(read_days(list(written), "groups"))
    return pd.DatetimeIndex(np.where(codes < 0, np.datetime64("NaT", "D"), days.to_numpy()[codes]))


def _level(rows: object) -> pd.DatetimeIndex | None:
    index = rows if isinstance(rows, pd.Index) else getattr(rows, "index", None)
    if isinstance(index, pd.MultiIndex):
        days = [i for i, level in enumerate(index.levels) if isinstance(level, pd.DatetimeIndex)]
        if "datetime" in index.names:
            return _group_days(index.get_level_values("datetime"))
        index = index.get_level_values(days[0]) if len(days) == 1 else None
    return index if isinstance(index, pd.DatetimeIndex) else None


def _on_calendar(rows: pd.DatetimeIndex, calendar: object) -> tuple[Positions, pd.DatetimeIndex]:
    """Return the position of each row's day, and the days."""
    if calendar is None:
        codes, days = pd.factorize(rows, sort=True)
        return codes, pd.DatetimeIndex(days)
    given = day_index(np.unique(read_days(calendar, "calendar")))
    own = rows.unique().sort_values()
    days = given[(given >= own[0]) & (given <= own[-1])]
    codes = days.get_indexer(rows)
    if (codes < 0).any():
        raise DataError(f"{rows[codes < 0][0]:%Y-%m-%d} is not a day of the calendar.")
    return codes, days


def _length(value: object, name: str) -> Any:
    """Return a length as a number of days or as a pandas offset."""
    if not is_whole_number(value):
        try:
            made = pd.tseries.frequencies.to_offset(value) if isinstance(value, str) else value
        except ValueError:
            made = None
        if not isinstance(made, (pd.offsets.BaseOffset, pd.Timedelta)) or not _moves_forward(made):
            raise ConfigError(
                f"must be a number of trading days, at least 1, or a pandas offset such as '365D'; found "
                f"{shown(value)}.",
                path=name,
            )
        return made
    return whole_number(value, name)


def _moves_forward(offset: Any) -> bool:
    day = pd.Timestamp("2020-01-01")
    return bool(day + offset >= day + pd.Timedelta(days=1))


def _shown(length: object) -> str:
    return counted(length, "day") if isinstance(length, int) else str(length)


def _end(days: pd.DatetimeIndex, start: int, nominal: Any, length: object) -> tuple[int, bool]:
    """Return the position after a length that begins at `start`, and whether the days reach so far."""
    if isinstance(length, int):
        return min(start + length, len(days)), start + length <= len(days)
    stop = int(days.searchsorted(nominal + length))
    return max(stop, start + 1), nominal + length <= days[-1] + pd.Timedelta(days=1)


def _beginning(days: pd.DatetimeIndex, last: int, length: Any) -> int:
    """Return the first position of a length that ends with the day at `last`."""
    if isinstance(length, int):
        return max(0, last + 1 - length)
    return int(days.searchsorted(days[last] + pd.Timedelta(days=1) - length))


def _mask(count: int, ranges: Sequence[Range]) -> NDArray[np.bool_]:
    mask = np.zeros(count, bool)
    for first, stop in ranges:
        mask[first:stop] = True
    return mask
