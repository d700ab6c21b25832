"""Processors: what a handler does to the raw features and labels before a model sees them.

A processor takes a frame with rows (datetime, instrument) and columns (group, name) and returns a new one; it never
changes its argument. `fit` looks at the fit window alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import read_day, read_timestamp
from rollforge.errors import ConfigError, DataError
from rollforge.serial import Serializable

__all__ = [
    "CSRankNorm", "CSZFillna", "CSZScoreNorm", "DropCol", "DropnaLabel", "DropnaProcessor", "Fillna", "FilterCol",
    "MinMaxNorm", "ProcessInf", "Processor", "RobustZScoreNorm", "TanhProcess", "ZScoreNorm", "get_group_columns",
]  # fmt: skip


def get_group_columns(df: pd.DataFrame, group: str | list[str] | None) -> pd.Index:
    """Return the columns of one group (or several; None: all)."""
    if group is None:
        return df.columns
    groups = [group] if isinstance(group, str) else list(group)
    missing = [g for g in groups if g not in df.columns.get_level_values(0)]
    if missing:
        known = ", ".join(map(str, df.columns.get_level_values(0).unique()))
        raise DataError(f"fields_group {missing[0]!r} is no group of this handler's columns. Known: {known}.")
    return df.columns[df.columns.get_level_values(0).isin(groups)]


class Processor(Serializable):
    """Base of all processors; a class of your own overrides :meth:`__call__`, and :meth:`fit` if it learns something."""

    any_range: ClassVar[bool] = False
    """True promises that a row comes out the same whatever later days are there: the panel of a longer range then serves
    a shorter one. Leave it False in doubt."""
    learned: ClassVar[frozenset[str]] = frozenset()
    """Names of the attributes that :meth:`fit` sets. They follow from the data and the other attributes, so cached panels are
    found without them."""

    def fit(self, df: pd.DataFrame) -> Any:
        """Learn from the frame; the processor itself restricts it to its fit window."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the processed frame."""
        raise NotImplementedError(f"{type(self).__name__} must say what it does.")

    def is_for_infer(self) -> bool:
        """Whether it may be used for inference: not, if it drops rows by their label."""
        return True

    def groups(self) -> list[str] | None:
        """Return the groups of columns that it looks at and changes, and that rows are dropped by; None: all of them.

        What no processor of a handler names is not handed to them.
        """
        return None

    def readonly(self) -> bool:
        """Whether it leaves its argument as it was."""
        return True


class _OfGroup(Processor):
    """A processor of one group, or several; None: all."""

    any_range = True

    def __init__(self, fields_group: str | list[str] | None = None) -> None:
        self.fields_group = fields_group

    def groups(self) -> list[str] | None:
        """Return the groups that it was made for."""
        return [self.fields_group] if isinstance(self.fields_group, str) else self.fields_group


class _Columns(_OfGroup):
    """A processor that replaces the columns of a group by others of the same shape."""

    def change(self, x: pd.DataFrame) -> Any:
        """Return the new values of the columns `x`."""
        raise NotImplementedError

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        columns = get_group_columns(df, self.fields_group)
        if len(columns) == df.shape[1]:
            changed = np.asarray(self.change(df), np.float32)
            return pd.DataFrame(changed, index=df.index, columns=df.columns, copy=False)
        out = df.copy(deep=False)  # whole columns are put in place of others: nothing is written into the old ones
        out[columns] = np.asarray(self.change(df[columns]), np.float32)
        return out


class DropnaProcessor(_OfGroup):
    """Drops rows with a missing value in a group."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        kept = np.ones(len(df), bool)
        for column in get_group_columns(df, self.fields_group):
            kept &= df[column].notna().to_numpy()
        return df if kept.all() else df.iloc[np.flatnonzero(kept)]


class DropnaLabel(DropnaProcessor):
    """Drops rows without a label; for learning only."""

    def __init__(self, fields_group: str | list[str] | None = "label") -> None:
        super().__init__(fields_group)

    def is_for_infer(self) -> bool:
        """False: at the time of inference no label is known."""
        return False


class DropCol(Processor):
    """Drops columns by name."""

    any_range = True

    def __init__(self, col_list: Sequence[str] = ()) -> None:
        self.col_list = list(col_list)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df.loc[:, ~df.columns.get_level_values(-1).isin(self.col_list)]


class FilterCol(Processor):
    """Keeps of a group only the columns that are named; the other groups stay whole."""

    any_range = True

    def __init__(self, fields_group: str | list[str] | None = "feature", col_list: Sequence[str] = ()) -> None:
        self.fields_group = fields_group
        self.col_list = list(col_list)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        inside = df.columns.isin(get_group_columns(df, self.fields_group))
        return df.loc[:, ~inside | df.columns.get_level_values(-1).isin(self.col_list)]


class TanhProcess(Processor):
    """``tanh(x - 1)`` of every column whose name does not contain LABEL."""

    any_range = True

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        out = df.copy()
        columns = df.columns[~df.columns.get_level_values(-1).str.contains("LABEL")]
        out[columns] = np.tanh(df[columns].to_numpy() - 1)
        return out


class ProcessInf(Processor):
    """Replaces an infinite value by the mean of the column's finite values on that day."""

    any_range = True

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        infinite = np.isinf(df.to_numpy())
        touched = infinite.any(axis=0)
        if not touched.any():
            return df
        out = df.copy()
        columns = df.columns[touched]
        finite = df[columns].mask(infinite[:, touched])
        means = finite.groupby(level="datetime").transform("mean")
        out[columns] = finite.where(~infinite[:, touched], means)
        return out


class Fillna(_Columns):
    """Replaces missing values by a constant."""

    def __init__(self, fields_group: str | list[str] | None = None, fill_value: float = 0) -> None:
        super().__init__(fields_group)
        self.fill_value = fill_value

    def change(self, x: pd.DataFrame) -> Any:
        values = x.to_numpy()
        return np.where(np.isnan(values), np.asarray(self.fill_value, values.dtype), values)


class _Fitted(_Columns):
    """Shifts and scales each column by what it learned in the fit window."""

    learned = frozenset({"shift", "scale"})

    def __init__(
        self, fit_start_time: Any = None, fit_end_time: Any = None, fields_group: str | list[str] | None = None
    ) -> None:
        super().__init__(fields_group)
        if fit_start_time is None or fit_end_time is None:
            raise ConfigError(
                f"{type(self).__name__} needs fit_start_time and fit_end_time: without them it would learn from the test."
            )
        for name, value in (("fit_start_time", fit_start_time), ("fit_end_time", fit_end_time)):
            read_day(value, name)  # a mistake is reported now, not when the model is trained
        self.fit_start_time = fit_start_time
        self.fit_end_time = fit_end_time
        self.shift: NDArray[Any] | None = None
        self.scale: NDArray[Any] | None = None

    def learn(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what is taken off, and what it is divided by."""
        raise NotImplementedError

    def fit(self, df: pd.DataFrame) -> None:
        """Learn from the rows of the fit window.

        Raises
        ------
        DataError
            When the window has no rows.
        """
        days = df.index.get_level_values("datetime")
        start = read_timestamp(self.fit_start_time, "fit_start_time")
        end = read_timestamp(self.fit_end_time, "fit_end_time")
        inside = df[(days >= start) & (days <= end)]
        if inside.empty:
            raise DataError(
                f"{type(self).__name__} has nothing to learn from: no rows from {start.date()} to {end.date()}; "
                f"the data run from {days.min().date()} to {days.max().date()}."
            )
        with np.errstate(all="ignore"):
            self.shift, self.scale = self.learn(inside[get_group_columns(inside, self.fields_group)].to_numpy())

    def change(self, x: pd.DataFrame) -> Any:
        if self.shift is None or self.scale is None:
            raise DataError(f"{type(self).__name__} is not fitted yet.")
        values = x.to_numpy()
        return self.divide(values - self.shift.astype(values.dtype), self.scale.astype(values.dtype))

    def divide(self, off: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        """Return the new values for what is left after the shift."""
        values: NDArray[Any] = off / scale
        return values


def _columnwise(function: Any, values: NDArray[Any]) -> NDArray[Any]:
    """``function(values, axis=0)`` in float64, without a second copy of the whole block; NaN for an empty column."""
    out = np.full(values.shape[1], np.nan)
    for c in range(values.shape[1]):
        column = values[:, c].astype(np.float64)
        column = column[~np.isnan(column)]
        if column.size:
            out[c] = function(column)
    return out


class MinMaxNorm(_Fitted):
    """``(x - min) / (max - min)``; a column that does not vary stays as it is."""

    def learn(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        low, high = _columnwise(np.min, values), _columnwise(np.max, values)
        flat = low == high
        return np.where(flat, 0.0, low), np.where(flat, 1.0, high - low)


class ZScoreNorm(_Fitted):
    """``(x - mean) / std`` (population deviation); a column that does not vary stays as it is."""

    def learn(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean, std = _columnwise(np.mean, values), _columnwise(np.std, values)
        flat = _columnwise(np.ptp, values) == 0  # the deviation of equal values may be a rounding error
        return np.where(flat, 0.0, mean), np.where(flat, 1.0, std)


def _measured(off: Any, spread: Any) -> Any:
    """Distances in units of a spread. 0 stays 0; beside a spread of 0 any other distance is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(off == 0, off, off / spread)


class RobustZScoreNorm(_Fitted):
    """``(x - median) / (1.4826 MAD)``, clipped to [-3, 3] unless `clip_outlier` is False.

    MAD, the median absolute deviation, is 0 where more than half of a column's values in the fit window are the same. Such a
    value becomes 0, any other 3 or -3; without clipping, it becomes infinite.
    """

    def __init__(
        self,
        fit_start_time: Any = None,
        fit_end_time: Any = None,
        fields_group: str | list[str] | None = None,
        clip_outlier: bool = True,
    ) -> None:
        super().__init__(fit_start_time, fit_end_time, fields_group)
        self.clip_outlier = clip_outlier

    def learn(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        middle = _columnwise(np.median, values)
        spread = _columnwise(lambda c: np.median(np.abs(c - np.median(c))), values)
        return middle, spread * 1.4826

    def divide(self, off: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        values: NDArray[Any] = _measured(off, scale)
        return np.clip(values, -3, 3) if self.clip_outlier else values


class CSZScoreNorm(_Columns):
    """Standardises each column within each day: by mean and deviation, or robustly by median and MAD, clipped to [-3, 3].

    Equal values have no deviation: a column that does not vary on a day is missing there. A MAD of 0 is treated as in
    :class:`RobustZScoreNorm`.
    """

    def __init__(
        self, fields_group: str | list[str] | None = None, method: Literal["zscore", "robust"] = "zscore"
    ) -> None:
        super().__init__(fields_group)
        if method not in ("zscore", "robust"):
            raise ConfigError(f"CSZScoreNorm's method is 'zscore' or 'robust', found {method!r}.")
        self.method = method

    def change(self, x: pd.DataFrame) -> Any:
        days = x.astype(np.float64).groupby(level="datetime")
        if self.method == "zscore":
            spread = days.transform("std")
            return (x - days.transform("mean")) / spread.where(spread > 0)
        off = x - days.transform("median")
        spread = off.abs().groupby(level="datetime").transform("median")
        return np.clip(_measured(off, spread * 1.4826), -3, 3)


class CSRankNorm(_Columns):
    """Ranks each column within each day to (-1.73, 1.73): (rank share - 0.5) x 3.46."""

    def change(self, x: pd.DataFrame) -> Any:
        return (x.groupby(level="datetime").rank(pct=True) - 0.5) * 3.46


class CSZFillna(_Columns):
    """Replaces a missing value by the column's mean of the day."""

    def change(self, x: pd.DataFrame) -> Any:
        return x.fillna(x.groupby(level="datetime").transform("mean"))
