"""Ensembles: combine several results into one."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import pandas as pd

from rollforge.build import FLATTEN_TUPLE, flatten_dict
from rollforge.collect.join import join_in_order
from rollforge.errors import CoverageError, DataError
from rollforge.market.columns import CODE, DATE
from rollforge.market.frames import day_rows

__all__ = ["AverageEnsemble", "Ensemble", "RollingEnsemble", "SingleKeyEnsemble"]

Table = pd.DataFrame | pd.Series
Key = TypeVar("Key")


class Ensemble(abc.ABC):
    """Combines a dict of objects into one.

    Examples
    --------
    >>> class Best(Ensemble):
    ...     def __call__(self, ensemble_dict, *args, **kwargs):
    ...         return max(ensemble_dict.values())
    >>> Best()({"a": 1, "b": 3})
    3
    """

    @abc.abstractmethod
    def __call__(self, ensemble_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the combined object."""


class SingleKeyEnsemble(Ensemble):
    """Unwraps dicts of a single key: ``{only key: value} -> value``, by default at every depth.

    Examples
    --------
    >>> SingleKeyEnsemble()({"a": {"x": {"y": 1}}, "b": 2})
    {'a': 1, 'b': 2}
    """

    def __call__(self, ensemble_dict: Any, recursion: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a single key; anything else is returned unchanged."""
        if not isinstance(ensemble_dict, dict):
            return ensemble_dict
        inner = {k: self(v) for k, v in ensemble_dict.items()} if recursion else ensemble_dict
        return next(iter(inner.values())) if len(inner) == 1 else inner


class RollingEnsemble(Ensemble):
    """Joins the results of rolling windows: ``{window: frame} -> frame``.

    Frames need an index of days, or of days and instruments. If several windows have the same row, that of the window
    that starts last is kept; among windows that start on the same day, that of the one that ends last.

    Examples
    --------
    >>> def window(day):
    ...     index = pd.MultiIndex.from_tuples([(pd.Timestamp(day), "A")], names=["datetime", "instrument"])
    ...     return pd.DataFrame({"score": [1.0]}, index)
    >>> RollingEnsemble()({2: window("2020-02-01"), 1: window("2020-01-01")}).index.get_level_values(0).month.tolist()
    [1, 2]
    """

    @overload
    def __call__(self, ensemble_dict: Mapping[Any, pd.DataFrame], *args: object, **kwargs: object) -> pd.DataFrame: ...

    @overload
    def __call__(self, ensemble_dict: Mapping[Any, pd.Series], *args: object, **kwargs: object) -> pd.Series: ...

    def __call__(self, ensemble_dict: Mapping[Any, Any], *args: object, **kwargs: object) -> Any:
        """Return one frame (or series), sorted by its index.

        Raises
        ------
        CoverageError
            If there is nothing to join.
        DataError
            If a window has no days, or two windows have no column in common.
        """
        named = _dated(ensemble_dict, "window")
        windows = [(key, part) for key, part in named.items() if len(part)]
        if not windows:
            raise CoverageError("There are no windows to join.")
        parts = _same_columns(sorted(windows, key=_in_time))
        quick = join_in_order(parts)
        if quick is not None:
            return quick
        joined = pd.concat(parts)
        if joined.index.has_duplicates:
            joined = joined[~joined.index.duplicated(keep="last")]
        return joined if joined.index.is_monotonic_increasing else joined.sort_index()


def _dated(parts: Mapping[Key, object], what: str) -> dict[Key, Any]:
    """Normalize the index of results: timestamps without time zone, and the same order of levels for all.

    The order is (instrument, datetime) if all results have it, else (datetime, instrument).
    """
    swapped = [_names(part) == [CODE, DATE] for part in parts.values()]
    found = {key: _dated_part(part, f"The {what} {key!r}") for key, part in parts.items()}
    if all(swapped):
        return {key: part.reorder_levels([CODE, DATE]) for key, part in found.items()}
    return found


def _names(part: object) -> list[Hashable]:
    return list(part.index.names) if isinstance(part, (pd.DataFrame, pd.Series)) else []


def _dated_part(part: object, what: str) -> Any:
    names = _names(part)
    further = len(names) > 2 and DATE in names
    return part if further else day_rows(part, what, days_alone=True)


def _same_columns(windows: Sequence[tuple[object, Table]]) -> list[Table]:
    """Return windows that can be concatenated: a series among frames of one column is treated as that column."""
    frames = [(key, part) for key, part in windows if isinstance(part, pd.DataFrame)]
    if not frames:
        return [part for _, part in windows]
    first, columns = frames[0][0], frames[0][1].columns
    joined = []
    for key, part in windows:
        if isinstance(part, pd.Series) and len(columns) == 1:
            part = part.to_frame().set_axis(columns, axis=1)
        own = [part.name] if isinstance(part, pd.Series) else list(part.columns)
        if not set(own) & set(columns):
            raise DataError(
                f"The windows {first!r} and {key!r} have no column in common: {list(columns)} and {own}. "
                "Rename the columns of one of them."
            )
        joined.append(part)
    return joined


def _in_time(window: tuple[object, pd.DataFrame | pd.Series]) -> tuple[pd.Timestamp, pd.Timestamp, str]:
    """Return the sort key of a window: first day, last day, and its key, so that the dict's order does not matter."""
    key, part = window
    days = part.index.get_level_values("datetime")
    return days.min(), days.max(), str(key)


class AverageEnsemble(Ensemble):
    """Standardises each result within each day and averages them: ``{name: frame} -> series``.

    Nested dicts are flattened, and each column of a frame is a result. The mean of a row is over the results that have
    a value; infinite values are treated as missing. A result whose scores are all equal on a day contributes 0 (in
    pyqlib it contributes nothing, and a day without other results is missing). The result does not depend on the order
    of the dict or of the rows, down to the last bit.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([[pd.Timestamp("2020-01-01")], ["A", "B"]], names=["datetime", "instrument"])
    >>> one, other, same = (pd.Series(values, index) for values in ([1.0, 3.0], [10.0, 50.0], [7.0, 7.0]))
    >>> AverageEnsemble()({"one": one, "other": other}).round(4).tolist()
    [-0.7071, 0.7071]
    >>> AverageEnsemble()({"one": one, "same": same}).round(4).tolist()
    [-0.3536, 0.3536]
    """

    def __call__(self, ensemble_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> pd.Series:
        """Return the mean of the standardised results, sorted by its index.

        Raises
        ------
        CoverageError
            If there is nothing to average, a result has a row twice, or its index levels differ from the first's.
        """
        results = flatten_dict(ensemble_dict, sep=FLATTEN_TUPLE)
        if not results:
            raise CoverageError("There are no results to average.")
        results = _dated(results, "result")
        levels = list(next(iter(results.values())).index.names)
        together = pd.concat([_sorted(key, part, levels) for key, part in results.items()], axis=1).sort_index()
        values = together.astype(np.float64)
        values = values.where(np.isfinite(values))
        days = values.groupby(level="datetime")
        high, low = days.transform("max"), days.transform("min")
        # Scale by a power of two, which is exact, so that squares of very large or small scores do not over- or
        # underflow.
        _, exponent = np.frexp(np.maximum(high.abs(), low.abs()).fillna(0.0).to_numpy())
        scaled = values.mul(np.ldexp(1.0, -exponent.clip(-1000, 1000)))
        days = scaled.groupby(level="datetime")
        standard = (scaled - days.transform("mean")) / days.transform("std")
        # Do not test the spread: for equal scores it may be nonzero because of rounding, and it is missing for a single
        # row.
        return _row_means(standard.mask(values.notna() & (high == low), 0.0))


def _sorted(key: object, part: Any, levels: Sequence[Hashable]) -> Any:
    """Return a result sorted by its index, with the levels in the given order."""
    names = list(part.index.names)
    if sorted(map(str, names)) != sorted(map(str, levels)):
        raise CoverageError(
            f"The results to average need the same index levels; {key!r} has {names}, but the first has {list(levels)}."
        )
    if names != list(levels):
        part = part.reorder_levels(levels)
    if not part.index.is_unique:
        twice = part.index[part.index.duplicated()][0]
        raise CoverageError(f"The result {key!r} has the row {twice!r} twice, so it cannot be averaged.")
    return part if part.index.is_monotonic_increasing else part.sort_index()


def _row_means(values: pd.DataFrame) -> pd.Series:
    """Return the mean of each row, ignoring NaN. Values are summed in sorted order, so column order does not matter."""
    rows = np.sort(values.to_numpy(), axis=1)  # NaN sorts last
    known = (~np.isnan(rows)).sum(axis=1)
    means = np.full(len(rows), np.nan)
    np.divide(np.nansum(rows, axis=1), known, out=means, where=known > 0)
    return pd.Series(means, index=values.index)
