"""Ensembles: many results to one."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import FLATTEN_TUPLE, flatten_dict
from rollforge.collect.join import join_in_order
from rollforge.errors import CoverageError

__all__ = ["AverageEnsemble", "Ensemble", "RollingEnsemble", "SingleKeyEnsemble"]


class Ensemble(abc.ABC):
    """Makes one object of a dict of them.

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
        """Return the one object."""


class SingleKeyEnsemble(Ensemble):
    """Unwraps dicts of a single key: ``{only key: value} -> value``, by default at every depth.

    Examples
    --------
    >>> SingleKeyEnsemble()({"a": {"x": {"y": 1}}, "b": 2})
    {'a': 1, 'b': 2}
    """

    def __call__(self, ensemble_dict: Any, recursion: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a single key, anything else as it is."""
        if not isinstance(ensemble_dict, dict):
            return ensemble_dict
        inner = {k: self(v) for k, v in ensemble_dict.items()} if recursion else ensemble_dict
        return next(iter(inner.values())) if len(inner) == 1 else inner


class RollingEnsemble(Ensemble):
    """Joins the results of rolling windows: ``{window: frame} -> frame``.

    Frames need an index level ``datetime``. Of rows that several windows have, that of the window which starts last stays.

    Examples
    --------
    >>> def window(day):
    ...     index = pd.MultiIndex.from_tuples([(pd.Timestamp(day), "A")], names=["datetime", "instrument"])
    ...     return pd.DataFrame({"score": [1.0]}, index)
    >>> RollingEnsemble()({2: window("2020-02-01"), 1: window("2020-01-01")}).index.get_level_values(0).month.tolist()
    [1, 2]
    """

    def __call__(self, ensemble_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Return one frame (or series), sorted by its index.

        Raises
        ------
        CoverageError
            When there is nothing to join.
        """
        parts = [p for p in ensemble_dict.values() if len(p)]
        if not parts:
            raise CoverageError("There are no windows to join.")
        parts.sort(key=lambda part: part.index.get_level_values("datetime").min())
        quick = join_in_order(parts)
        if quick is not None:
            return quick
        joined = pd.concat(parts)
        if joined.index.has_duplicates:
            joined = joined[~joined.index.duplicated(keep="last")]
        return joined if joined.index.is_monotonic_increasing else joined.sort_index()


class AverageEnsemble(Ensemble):
    """Standardises each result within each day and averages them: ``{name: frame} -> series``.

    Nested dicts are laid flat. The mean is over those that have a value; a result whose
    scores are all the same on a day has none there.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([[pd.Timestamp("2020-01-01")], ["A", "B"]], names=["datetime", "instrument"])
    >>> one, other = pd.Series([1.0, 3.0], index), pd.Series([10.0, 50.0], index)
    >>> AverageEnsemble()({"one": one, "other": other}).round(4).tolist()
    [-0.7071, 0.7071]
    """

    def __call__(self, ensemble_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> pd.Series:
        """Return the mean of the standardised results, sorted by its index.

        Raises
        ------
        CoverageError
            When there is nothing to average.
        """
        parts = list(flatten_dict(ensemble_dict, sep=FLATTEN_TUPLE).values())
        if not parts:
            raise CoverageError("There are no results to average.")
        together = pd.concat(parts, axis=1).astype(np.float64)
        days = together.groupby(level="datetime")
        spread = days.transform("std")
        # A day on which all scores are the same says nothing; its mean may be off by a rounding, and that over 0 is inf.
        standard = (together - days.transform("mean")) / spread.where(spread > 0)
        averaged: pd.Series = standard.mean(axis=1).sort_index()
        return averaged
