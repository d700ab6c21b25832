"""Explanations of missing data for error messages: which loader or processor left none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.features.loader import DataLoader
from rollforge.features.processor import DropnaProcessor
from rollforge.features.processor_base import Processor

__all__ = ["explain_missing"]


def explain_missing(
    frame: pd.DataFrame,
    loader: DataLoader,
    processors: Sequence[Processor],
    days: tuple[np.datetime64 | None, np.datetime64 | None],
    group: str | None,
    column: str | None,
    *,
    fit: bool = True,
) -> str:
    """Explain which loader or processor left no data, in a sentence; empty if there are data.

    The processors are applied again, so use this only for error messages.

    Parameters
    ----------
    frame : DataFrame
        The loader's result; it is not modified.
    loader : DataLoader
        The loader.
    processors : sequence of Processor
        The processors that are applied to it, in order.
    days : (datetime64 or None, datetime64 or None)
        First and last moment to look at; None is open.
    group : str or None
        Group of columns to check for finite values; None checks for rows.
    column : str or None
        A single column of the group.
    fit : bool
        Whether the processors are fitted again before they are applied.
    """
    what = "row" if group is None else f"finite value of {(column or group)!r}"
    if not _count_left(frame, group, column, *days):
        return f"{type(loader).__name__} has no {what} there{loader.describe(group, column)}."
    now = frame
    for processor in processors:
        name = type(processor).__name__
        cause = _emptied_group(processor, now, *days) if group is None else None
        if fit:
            processor.fit(now)
        across = processor.across_instruments and _one_a_day(now, *days)
        now = processor(now.copy(deep=False))
        if _count_left(now, group, column, *days):
            continue
        if cause is not None:
            reason = explain_missing(frame, loader, processors, days, cause, column, fit=fit)
            return f"{name} drops all rows, because no row has a finite value of {cause!r}. {reason}".rstrip()
        hint = ": it compares the instruments of each day, but each day has only one" if across else ""
        return f"{name} leaves no {what} there{hint}."
    return ""


def _inside(frame: pd.DataFrame, start: object, end: object) -> NDArray[np.bool_]:
    days = frame.index.get_level_values("datetime")
    inside = np.ones(len(frame), bool)
    if start is not None:
        inside &= np.asarray(days >= start)
    if end is not None:
        inside &= np.asarray(days <= end)
    return inside


def _count_left(frame: pd.DataFrame, group: str | None, column: str | None, start: object, end: object) -> int:
    """Return the number of rows, or of finite values of a group or column, in a range of days."""
    inside = _inside(frame, start, end)
    if group is None:
        return int(inside.sum())
    grouped = isinstance(frame.columns, pd.MultiIndex)
    if grouped and group not in frame.columns.get_level_values(0):
        return 0
    part = frame[group] if grouped else frame
    if column is not None:
        part = part.loc[:, [c for c in part.columns if str(c) == column]]
    return int(np.isfinite(part[inside].to_numpy(np.float64, na_value=np.nan)).sum())


def _emptied_group(processor: Processor, frame: pd.DataFrame, start: object, end: object) -> str | None:
    """Return the group without finite values that makes a dropna processor drop all rows; None if there is none."""
    if not isinstance(processor, DropnaProcessor) or not isinstance(frame.columns, pd.MultiIndex):
        return None
    groups = processor.groups() or list(dict.fromkeys(frame.columns.get_level_values(0)))
    return next((g for g in groups if not _count_left(frame, g, None, start, end)), None)


def _one_a_day(frame: pd.DataFrame, start: object, end: object) -> bool:
    days = frame.index.get_level_values("datetime")[_inside(frame, start, end)]
    return bool(days.is_unique)
