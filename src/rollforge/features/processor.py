"""Qlib's processors: transformations of a handler's raw features and labels before they reach a model.

Infinite values are treated as missing: means, deviations, ranks, minima and maxima are computed over the finite values,
and an infinite value becomes missing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import as_list, check_choice, check_flag, check_number
from rollforge.dates import DayLike, end_of, read_bound, read_day, show_time, start_of, within
from rollforge.errors import ConfigError, DataError, shown
from rollforge.features.inst_processor import InstProcessor
from rollforge.features.processor_base import (
    OfColumns,
    OfGroup,
    Processor,
    ReadOnly,
    Replacing,
    by_day,
    finite_only,
    get_group_columns,
    listed_groups,
    precision,
    with_days,
)
from rollforge.market.universe import session_provider
from rollforge.moved import earlier_names

__all__ = [
    "CSRankNorm", "CSZFillna", "CSZScoreNorm", "ConfigSectionProcessor", "DropCol", "DropnaLabel", "DropnaProcessor",
    "Fillna", "FilterCol", "HashStockFormat", "MinMaxNorm", "ProcessInf", "Processor", "RobustZScoreNorm", "TanhProcess",
    "TimeRangeFlt", "ZScoreNorm", "get_group_columns",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = earlier_names(__name__)


def _listed_columns(given: object) -> list[object]:
    """Return the names of columns in `col_list`.

    Raises
    ------
    ConfigError
        If it is not a list of names.
    """
    columns = as_list(given, "columns", path="col_list")
    for one in columns:
        if not isinstance(one, Hashable):
            raise ConfigError(f"must contain names of columns, found {shown(one)}.", path="col_list")
    return columns


class DropnaProcessor(OfGroup, ReadOnly):
    """Drops rows with a missing or infinite value in a group."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        kept = np.ones(len(df), bool)
        for column in get_group_columns(df, self.fields_group):
            values = df[column].to_numpy()
            kept &= np.isfinite(values) if values.dtype.kind == "f" else df[column].notna().to_numpy()
        return df if kept.all() else df.iloc[np.flatnonzero(kept)]


class DropnaLabel(DropnaProcessor):
    """Drops rows without a finite label; for learning only."""

    def __init__(self, fields_group: str | list[str] | None = "label") -> None:
        super().__init__(fields_group)

    def is_for_infer(self) -> bool:
        """Return False: labels are not known at inference."""
        return False


class DropCol(ReadOnly):
    """Drops columns by name."""

    any_range = True
    earlier_days = 0

    def __init__(self, col_list: Sequence[str] = ()) -> None:
        self.col_list = _listed_columns(col_list)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df.loc[:, ~df.columns.get_level_values(-1).isin(self.col_list)]


class FilterCol(ReadOnly):
    """Keeps only the named columns of a group; other groups are unchanged."""

    any_range = True
    earlier_days = 0

    def __init__(self, fields_group: str | list[str] | None = "feature", col_list: Sequence[str] = ()) -> None:
        listed_groups(fields_group)
        self.fields_group = fields_group
        self.col_list = _listed_columns(col_list)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        inside = df.columns.isin(get_group_columns(df, self.fields_group))
        return df.loc[:, ~inside | df.columns.get_level_values(-1).isin(self.col_list)]


class TanhProcess(Replacing):
    """``tanh(x - 1)`` of every column whose name does not contain LABEL."""

    any_range = True
    earlier_days = 0

    def changed(self, df: pd.DataFrame) -> pd.DataFrame:
        out = df.copy()
        columns = df.columns[~df.columns.get_level_values(-1).str.contains("LABEL")]
        out[columns] = np.tanh(df[columns].to_numpy() - 1)
        return out


class ProcessInf(Replacing):
    """Replaces infinite values with the mean of the column's finite values on that day."""

    any_range = True
    earlier_days = 0

    def changed(self, df: pd.DataFrame) -> pd.DataFrame:
        infinite = np.isinf(df.to_numpy())
        touched = infinite.any(axis=0)
        if not touched.any():
            return df
        out = df.copy()
        columns = df.columns[touched]
        finite = df[columns].mask(infinite[:, touched])
        means = by_day(finite).transform("mean")
        out[columns] = finite.where(~infinite[:, touched], means)
        return out


class Fillna(OfColumns):
    """Replaces missing values with a constant."""

    def __init__(self, fields_group: str | list[str] | None = None, fill_value: float = 0) -> None:
        super().__init__(fields_group)
        check_number("fill_value", fill_value)
        self.fill_value = fill_value

    def changed(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return a frame without missing values in the columns of the group."""
        columns = get_group_columns(df, self.fields_group)
        if all(dtype.kind == "f" for dtype in set(df.dtypes)):
            return super().changed(df)
        return df.fillna(dict.fromkeys(columns, self.fill_value))  # some column is not numeric

    def change(self, x: pd.DataFrame) -> pd.DataFrame | NDArray[np.floating]:
        check_number("fill_value", self.fill_value)
        values = x.to_numpy()
        return np.where(np.isnan(values), np.asarray(self.fill_value, values.dtype), values)


class _Fitted(OfColumns):
    """Base class of processors that shift and scale each column by values learned in the fit window."""

    learned = frozenset({"shift", "scale"})

    def __init__(
        self, fit_start_time: object = None, fit_end_time: object = None, fields_group: str | list[str] | None = None
    ) -> None:
        super().__init__(fields_group)
        if fit_start_time is None or fit_end_time is None:
            raise ConfigError(
                f"{type(self).__name__} needs fit_start_time and fit_end_time. Without them it would learn from "
                "the test segment."
            )
        for name, value in (("fit_start_time", fit_start_time), ("fit_end_time", fit_end_time)):
            read_day(value, name)  # report a mistake now, not when the model is trained
        if start_of(fit_start_time) > end_of(fit_end_time):
            raise ConfigError(
                f"is before the fit_start_time {fit_start_time}, found {fit_end_time}.", path="fit_end_time"
            )
        self.fit_start_time = fit_start_time
        self.fit_end_time = fit_end_time
        self.shift: NDArray[np.floating] | None = None
        self.scale: NDArray[np.floating] | None = None

    def learn(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return the shift to subtract and the scale to divide by, for each column."""
        raise NotImplementedError

    def fit(self, df: pd.DataFrame) -> None:
        """Learn from the rows of the fit window.

        Raises
        ------
        DataError
            If the window has no rows.
        """
        days = with_days(df).index.get_level_values("datetime")
        inside = df[within(days, self.fit_start_time, self.fit_end_time, ("fit_start_time", "fit_end_time"))]
        if inside.empty:
            start, end = (show_time(read_bound(bound)) for bound in (self.fit_start_time, self.fit_end_time))
            first, last = (show_time(read_bound(day)) for day in (days.min(), days.max()))
            raise DataError(
                f"{type(self).__name__} cannot learn, because there are no rows from {start} to {end}; the data run from "
                f"{first} to {last}."
            )
        with np.errstate(all="ignore"):
            self.shift, self.scale = self.learn(inside[get_group_columns(inside, self.fields_group)].to_numpy())

    def change(self, x: pd.DataFrame) -> pd.DataFrame | NDArray[np.floating]:
        if self.shift is None or self.scale is None:
            raise DataError(f"{type(self).__name__} is not fitted yet.")
        dtype = precision(x)
        values = self.clean(x).to_numpy(dtype)
        return self.divide(values - self.shift.astype(dtype), self.scale.astype(dtype))

    def clean(self, x: pd.DataFrame) -> pd.DataFrame:
        """Return the columns with infinite values replaced by NaN."""
        return finite_only(x)

    def divide(self, off: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the shifted values divided by the scale."""
        values: NDArray[np.floating] = off / scale
        return values


def _columnwise(
    function: Callable[..., np.floating],
    values: NDArray[np.floating],
    kept: Callable[..., NDArray[np.bool_]] = np.isfinite,
) -> NDArray[np.floating]:
    """Return ``function`` of each column in float64, over the values that `kept` selects (by default the finite ones).

    A column without such values gives NaN. Columns are converted one at a time to avoid a second copy of the block.
    """
    out = np.full(values.shape[1], np.nan)
    for c in range(values.shape[1]):
        column = values[:, c].astype(np.float64)
        column = column[kept(column)]
        if column.size:
            out[c] = function(column)
    return out


class MinMaxNorm(_Fitted):
    """Scales to ``(x - min) / (max - min)``; a constant column is left unchanged."""

    def learn(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        low, high = _columnwise(np.min, values), _columnwise(np.max, values)
        flat = low == high
        return np.where(flat, 0.0, low), np.where(flat, 1.0, high - low)


class ZScoreNorm(_Fitted):
    """Scales to ``(x - mean) / std`` (population standard deviation); a constant column is left unchanged."""

    def learn(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        mean, std = _columnwise(np.mean, values), _columnwise(np.std, values)
        flat = _columnwise(np.ptp, values) == 0  # the deviation of equal values may be a rounding error
        return np.where(flat, 0.0, mean), np.where(flat, 1.0, std)


def _measured(off: Any, spread: object) -> Any:
    """Return deviations divided by a spread. 0 stays 0; any other deviation divided by a spread of 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(off == 0, off, off / spread)


class RobustZScoreNorm(_Fitted):
    """Scales to ``(x - median) / (1.4826 MAD)``, clipped to [-3, 3] unless `clip_outlier` is False.

    MAD, the median absolute deviation, is 0 if more than half of a column's values in the fit window are equal. That
    value becomes 0, any other value 3 or -3, or infinite without clipping.

    An infinite value counts as a very large one, as in Qlib, and is clipped.
    """

    def __init__(
        self,
        fit_start_time: DayLike | None = None,
        fit_end_time: DayLike | None = None,
        fields_group: str | list[str] | None = None,
        clip_outlier: bool = True,
    ) -> None:
        super().__init__(fit_start_time, fit_end_time, fields_group)
        check_flag("clip_outlier", clip_outlier)
        self.clip_outlier = clip_outlier

    def learn(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        middle = _columnwise(np.median, values, _known)
        spread = _columnwise(lambda c: np.median(np.abs(c - np.median(c))), values, _known)
        return middle, spread * 1.4826

    def clean(self, x: pd.DataFrame) -> pd.DataFrame:
        """Return the columns as they are."""
        return x

    def divide(self, off: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.floating]:
        values: NDArray[np.floating] = _measured(off, scale)
        return np.clip(values, -3, 3) if self.clip_outlier else values


def _known(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = ~np.isnan(values)
    return known


class _OfDay(OfColumns):
    """Base class of processors that compare the finite values of each column within each day. If a day has only one
    such value, it becomes missing."""

    across_instruments = True

    def compare(self, x: pd.DataFrame) -> pd.DataFrame:
        """Return the new values; `x` contains no infinite values."""
        raise NotImplementedError

    def change(self, x: pd.DataFrame) -> pd.DataFrame | NDArray[np.floating]:
        finite = finite_only(x)
        return self.compare(finite).where(by_day(finite).transform("count") > 1)


class CSZScoreNorm(_OfDay):
    """Standardises each column within each day by mean and standard deviation, or by median and MAD clipped to [-3, 3].

    With ``zscore``, a column that is constant on a day becomes missing on that day. A MAD of 0 is treated as in
    :class:`RobustZScoreNorm`.
    """

    def __init__(
        self, fields_group: str | list[str] | None = None, method: Literal["zscore", "robust"] = "zscore"
    ) -> None:
        super().__init__(fields_group)
        check_choice("method", method, ("zscore", "robust"))
        self.method = method

    def compare(self, x: pd.DataFrame) -> pd.DataFrame:
        days = by_day(x.astype(np.float64))
        if self.method == "zscore":
            spread = days.transform("std")
            return (x - days.transform("mean")) / spread.where(spread > 0)
        off = x - days.transform("median")
        spread = by_day(off.abs()).transform("median")
        return pd.DataFrame(np.clip(_measured(off, spread * 1.4826), -3, 3), index=x.index, columns=x.columns)


class CSRankNorm(_OfDay):
    """Ranks each column within each day and scales to (-1.73, 1.73]: (percentile rank - 0.5) x 3.46."""

    def compare(self, x: pd.DataFrame) -> pd.DataFrame:
        return (by_day(x).rank(pct=True) - 0.5) * 3.46


class CSZFillna(OfColumns):
    """Replaces missing and infinite values with the column's mean of the day."""

    def change(self, x: pd.DataFrame) -> pd.DataFrame | NDArray[np.floating]:
        finite = finite_only(x)
        return finite.fillna(by_day(finite).transform("mean"))


class HashStockFormat(ReadOnly):
    """Does nothing: in Qlib it speeds up access to the data of one instrument, which is not needed here."""

    any_range = True
    earlier_days = 0

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df

    def groups(self) -> list[str] | None:
        """Return an empty list."""
        return []


class TimeRangeFlt(InstProcessor):
    """Keeps an instrument if its data begin by `start_time` and last until `end_time`; gaps in between are ignored.

    The filter uses days that are not known yet when a model is trained, so it can leak information.

    Parameters
    ----------
    start_time : date, optional
        The data must begin on or before this day; None means any day.
    end_time : date, optional
        The data must last until this day or later; None means any day.
    freq : str
        Name of the calendar. A `start_time` that is not in it means the next day, an `end_time` the previous day.
    """

    def __init__(self, start_time: DayLike | None = None, end_time: DayLike | None = None, freq: str = "day") -> None:
        self.start_time = None if start_time is None else str(read_bound(start_time, "start_time"))
        self.end_time = None if end_time is None else str(read_bound(end_time, "end_time"))
        if start_time is not None and end_time is not None and start_of(start_time) > end_of(end_time):
            raise ConfigError(f"is before the start_time {self.start_time}, found {self.end_time}.", path="end_time")
        if not isinstance(freq, str):
            raise ConfigError(f"must be the name of a calendar, found {shown(freq)}.", path="freq")
        self.freq = freq

    def _days(self) -> tuple[object, object]:
        """Return both days aligned to the calendar of the session's data folder."""
        calendar = pd.DatetimeIndex(session_provider(freq=self.freq).calendar(self.freq))
        first, stop = calendar.slice_locs(self.start_time, self.end_time)
        if first >= stop:
            raise DataError(
                f"TimeRangeFlt: there is no trading day from {self.start_time} to {self.end_time}: "
                f"the calendar has {calendar[0].date()} to {calendar[-1].date()}."
            )
        days = calendar[int(first) : int(stop)]
        return None if self.start_time is None else days[0], None if self.end_time is None else days[-1]

    def __call__(self, df: pd.DataFrame, instrument: str, *args: object, **kwargs: object) -> pd.DataFrame:
        """Return the data unchanged, or without rows."""
        start, end = self._days()
        early = start is None or df.empty or df.index.min() <= start
        late = end is None or df.empty or df.index.max() >= end
        return df if early and late else df.head(0)


# Transformations that reduce the skew of Alpha158's columns before they are standardised, by name prefix. KLOW2 and
# KUP2 are standardised twice, as in Qlib, because they also match the prefixes KLOW and KUP.
_EVENED: list[tuple[str, Callable[..., pd.DataFrame]]] = [
    ("KLEN|KLOW|KUP", lambda x: x**0.25),
    ("KLOW2|KUP2", np.sqrt),
    (
        "KMID|KSFT|OPEN|HIGH(?!0$)|LOW(?!0$)|CLOSE|VWAP|ROC|MA|BETA|RESI|QTLU|QTLD|RSV|SUMP|SUMN|SUMD|VSUMP|VSUMN|VSUMD",
        lambda x: x,
    ),
    ("STD|VOLUME|VMA|VSTD", np.log),
    ("RSQR", lambda x: x.fillna(0)),
    ("MAX|HIGH0", lambda x: np.sqrt(x - 1)),
    ("MIN|LOW0", lambda x: np.sqrt(1 - x)),
    ("CORR|CORD", np.exp),
    ("WVMA", np.log1p),
]


class ConfigSectionProcessor(Processor):
    """Standardises Alpha158's features and label within each day, after a transformation that reduces skew.

    Labels (columns named LABEL…): (x - mean) / standard deviation. Features: (x - median) / (1.4826 MAD); then values
    above 3 are compressed into (3, 3.5], and values below -3 likewise.

    Parameters
    ----------
    fields_group : str, optional
        Ignored, as in Qlib: columns are chosen by name.
    fillna_feature, fillna_label : bool
        Whether missing values become 0, the center.
    clip_feature_outlier, clip_label_outlier : bool
        Whether values are clipped to [-3, 3].
    shrink_feature_outlier : bool
        Whether feature values beyond 3 and -3 are compressed.
    """

    any_range = True
    earlier_days = 0
    across_instruments = True

    def __init__(
        self,
        fields_group: str | list[str] | None = None,
        *,
        fillna_feature: bool = True,
        fillna_label: bool = True,
        clip_feature_outlier: bool = False,
        shrink_feature_outlier: bool = True,
        clip_label_outlier: bool = False,
    ) -> None:
        listed_groups(fields_group)
        for name, value in (
            ("fillna_feature", fillna_feature),
            ("fillna_label", fillna_label),
            ("clip_feature_outlier", clip_feature_outlier),
            ("shrink_feature_outlier", shrink_feature_outlier),
            ("clip_label_outlier", clip_label_outlier),
        ):
            check_flag(name, value)
        self.fillna_feature = fillna_feature
        self.fillna_label = fillna_label
        self.clip_feature_outlier = clip_feature_outlier
        self.shrink_feature_outlier = shrink_feature_outlier
        self.clip_label_outlier = clip_label_outlier

    def _label(self, x: pd.DataFrame) -> pd.DataFrame:
        days = by_day(x)
        out = (x - days.transform("mean")) / days.transform("std")
        out = out.clip(-3, 3) if self.clip_label_outlier else out
        return out.fillna(0) if self.fillna_label else out

    def _feature(self, x: pd.DataFrame) -> pd.DataFrame:
        out = x - by_day(x).transform("median")
        out = out / (by_day(out.abs()).transform("median") * 1.4826)
        out = out.clip(-3, 3) if self.clip_feature_outlier else out
        if self.shrink_feature_outlier:
            top = by_day(out).transform("max")
            out = out.where(~(out > 3), 3 + (out - 3) / (top - 3) * 0.5)
            bottom = by_day(out).transform("min")
            out = out.where(~(out < -3), -3 - (out + 3) / (bottom + 3) * 0.5)
        return out.fillna(0) if self.fillna_feature else out

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        names = df.columns.get_level_values(-1).astype(str)
        out = df.copy(deep=False)
        sections: list[tuple[str, Callable[..., pd.DataFrame] | None]] = [("LABEL", None), *_EVENED]
        for beginning, even in sections:
            columns = df.columns[names.str.match(beginning)]
            if not len(columns):
                continue
            x = finite_only(out[columns].astype(np.float64))
            with np.errstate(all="ignore"):
                made = self._label(x) if even is None else self._feature(finite_only(even(x)))
            out[columns] = made.to_numpy(precision(df[columns]))
        return out
