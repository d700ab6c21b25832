"""Purging by an instrument's own rows.

A label from a loader, a file or a processor may count the rows of its instrument:
``close.groupby("instrument").shift(-5)`` reads the fifth following row, which is more than five trading days later if
the instrument was suspended. Truncating a segment by five trading days then leaves rows whose labels reach into the
next segment. In cross-validation, labels of the test segment reach into training rows that follow it for the same
reason. (Expressions count the days of the calendar, whether or not an instrument has data on them.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import DataError
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.processor_base import Adapted

__all__ = ["Border", "Interval", "label_rows", "rows_after", "rows_before"]


class Interval(NamedTuple):
    """The days of a segment, or of one of its intervals."""

    start: pd.Timestamp | None
    """First day; None if it is open."""
    end: pd.Timestamp
    """Last day."""


class Border(NamedTuple):
    """An interval of a segment, and the day on which the next segment begins."""

    start: pd.Timestamp | None
    """First day of the interval; None if it is open."""
    end: pd.Timestamp
    """Its last day."""
    next_start: pd.Timestamp
    """First day of the next segment."""


def rows_before(index: pd.Index, rows: pd.MultiIndex, borders: Sequence[Border], ahead: int) -> NDArray[np.bool_]:
    """Return which rows have labels that end before the next segment, if labels read `ahead` following rows.

    Parameters
    ----------
    index : MultiIndex
        Levels datetime and instrument: the rows of a segment.
    rows : MultiIndex
        The rows that labels count, as :func:`label_rows` returns them; at least those before the next segment.
    borders : sequence of Border
        The intervals of the segment that are followed by another segment.
    ahead : int
        Number of following rows of the same instrument that a label reads.

    Examples
    --------
    B is suspended on the second and third day. Its label on the first day reads its next row, in the test segment,
    which begins on the fourth day:

    >>> days = pd.bdate_range("2024-01-01", periods=5)
    >>> rows = pd.MultiIndex.from_tuples(
    ...     [(day, code) for day in days for code in "AB" if code == "A" or day not in days[1:3]],
    ...     names=["datetime", "instrument"])
    >>> train = rows[rows.get_level_values("datetime") < days[2]]
    >>> rows_before(train, rows, [Border(None, days[1], days[3])], 1).tolist(), train.get_level_values(1).tolist()
    ([True, False, True], ['A', 'B', 'A'])
    """
    days, codes = _levels(index)
    row_days, row_codes = _levels(rows)
    kept = np.ones(len(index), bool)
    for start, end, next_start in borders:
        inside = np.asarray(days <= end)
        if start is not None:
            inside &= np.asarray(days >= start)
        early = row_days < next_start
        found = pd.Series(row_days[early], index=row_codes[early]).sort_values(ascending=False, kind="stable")
        # A label ends before the next segment if `ahead` rows follow it before that begins.
        limit = found[found.groupby(level=0).cumcount() == ahead - 1]
        limits = limit.reindex(codes[inside]).to_numpy()
        kept[inside] = np.asarray(days[inside]) < limits  # False if there are fewer than `ahead` rows
    return kept


def rows_after(index: pd.Index, rows: pd.MultiIndex, tested: Sequence[Interval], ahead: int) -> NDArray[np.bool_]:
    """Return which rows are not among the first `ahead` rows of their instrument after a tested interval.

    The label of an instrument's last row in the interval reads these rows. An instrument without a row in it keeps all.

    Parameters
    ----------
    index, rows
        As in :func:`rows_before`.
    tested : sequence of Interval
        The intervals of the test segment.
    ahead : int
        Number of following rows of the same instrument that a label reads, plus those of an embargo.

    Examples
    --------
    The second day is tested. Its label of B reads B's next row, which is on the fourth day:

    >>> days = pd.bdate_range("2024-01-01", periods=5)
    >>> rows = pd.MultiIndex.from_tuples(
    ...     [(day, code) for day in days for code in "AB" if code == "A" or day != days[2]], names=["datetime", "instrument"])
    >>> train = rows[rows.get_level_values("datetime") > days[2]]
    >>> rows_after(train, rows, [Interval(days[1], days[1])], 1).tolist(), train.get_level_values(1).tolist()
    ([True, False, True, True], ['A', 'B', 'A', 'B'])
    """
    days, codes = _levels(index)
    row_days, row_codes = _levels(rows)
    kept = np.ones(len(index), bool)
    for start, end in tested if ahead else ():
        inside = np.asarray(row_days <= end)
        if start is not None:
            inside &= np.asarray(row_days >= start)
        own = row_codes[inside].unique()
        later = np.asarray(row_days > end)
        found = pd.Series(row_days[later], index=row_codes[later]).sort_values(kind="stable")
        # The last row that the labels of the interval read; there is none if the data end before.
        limit = found[found.groupby(level=0).cumcount() == ahead - 1]
        behind = np.asarray(days > end) & np.asarray(codes.isin(own))
        kept[behind] &= np.asarray(days[behind]) > limit.reindex(codes[behind]).to_numpy()  # False without a limit
    return kept


def label_rows(handler: DataHandler) -> pd.MultiIndex:
    """Return the rows of a handler that the label may count: those on which the instrument is not suspended.

    These are the rows with a finite label, and those after the instrument's last finite label that have any value. The
    rows before processing are used, unless a processor is not part of this package: it may drop rows, and compute a
    label from the remaining ones.
    """
    stages = [DataHandlerLP.DK_L]
    if isinstance(handler, DataHandler) and not any(map(_is_foreign, handler.steps(DataHandlerLP.DK_L))):
        stages.insert(0, DataHandlerLP.DK_R)
    for stage in stages:
        try:
            label = handler.fetch(slice(None, None), col_set="label", data_key=stage)
        except (DataError, KeyError):
            if stage == stages[-1]:
                raise
            continue  # a processor adds the label
        break
    labelled = _has_value(label)
    days, codes = _levels(label.index)
    last = pd.Series(days[labelled], index=codes[labelled]).groupby(level=0).max().reindex(codes).to_numpy()
    tail = ~(np.asarray(days) <= last)  # True also for instruments without labels
    if tail.any():
        whole = handler.fetch(slice(None, None), col_set=DataHandler.CS_RAW, data_key=stage)
        labelled[tail] = _has_value(whole[tail])
    found = label.index[labelled]
    assert isinstance(found, pd.MultiIndex)
    return found


def _is_foreign(processor: object) -> bool:
    return isinstance(processor, Adapted) or not type(processor).__module__.startswith("rollforge.")


def _has_value(frame: pd.DataFrame | pd.Series) -> NDArray[np.bool_]:
    finite = np.isfinite(frame.to_numpy(np.float64, na_value=np.nan))
    return np.asarray(finite.reshape(len(finite), -1).any(axis=1))


def _levels(index: pd.Index) -> tuple[pd.DatetimeIndex, pd.Index]:
    if not isinstance(index, pd.MultiIndex) or not {"datetime", "instrument"} <= set(index.names):
        raise DataError(
            f"Rows can be purged by instrument only if their index has the levels datetime and instrument, found "
            f"{list(index.names)}. Set trunc_days to a number of days instead of 'auto'."
        )
    return pd.DatetimeIndex(index.get_level_values("datetime")), index.get_level_values("instrument")
