"""Join consecutive windows: the common case of rolling results, which needs no sorting or searching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["join_in_order"]

Codes = NDArray[np.integer]


def join_in_order(parts: Sequence[Any]) -> pd.DataFrame | pd.Series | None:
    """Concatenate consecutive windows into one frame (or series); None if they are not consecutive.

    Each part must be strictly sorted by (datetime, instrument), with all its days after those of the previous part, and
    all parts must have the same columns and a single dtype. Rows and days are then simply concatenated, and only the
    instruments have to be merged. `pandas.concat` merges the days of a thousand parts pairwise, and hashes every row to
    check for duplicates.

    Parameters
    ----------
    parts : sequence of DataFrame or Series
        Nonempty parts, sorted by first day.
    """
    if not _alike(parts):
        return None
    instruments = _instruments(parts)
    total = sum(map(len, parts))
    most_days = sum(len(p.index.levels[0]) for p in parts)
    # Filled in place, with the dtypes that pandas would choose: at this size copies would dominate the run time.
    first, second = (np.empty(total, _code_dtype(n)) for n in (most_days, len(instruments)))
    values = np.empty((total, *parts[0].shape[1:]), parts[0].to_numpy().dtype)
    days: list[NDArray[np.datetime64]] = []
    row = offset = 0
    for part in parts:
        placed = _placed(part.index, instruments)
        if placed is None or (days and placed[0][0] <= days[-1][-1]):
            return None
        own, first_code, second_code = placed
        here = slice(row, row + len(part))
        np.add(first_code, offset, out=first[here], dtype=first.dtype, casting="unsafe")
        second[here] = second_code
        values[here] = part.to_numpy()
        days.append(own)
        row, offset = here.stop, offset + len(own)
    levels: Any = [pd.DatetimeIndex(np.concatenate(days)), instruments]
    codes = [first, second]
    index = pd.MultiIndex(levels=levels, codes=codes, names=parts[0].index.names, verify_integrity=False)
    if isinstance(parts[0], pd.Series):
        return pd.Series(values, index=index, name=parts[0].name, copy=False)
    return pd.DataFrame(values, index=index, columns=parts[0].columns, copy=False)


def _code_dtype(labels: int) -> object:
    return np.int8 if labels < 127 else np.int16 if labels < 32767 else np.int32


def _alike(parts: Sequence[Any]) -> bool:
    first = parts[0]
    for part in parts:
        if type(part) is not type(first) or not isinstance(part, (pd.DataFrame, pd.Series)) or part.attrs:
            return False
        index = part.index
        if not isinstance(index, pd.MultiIndex) or index.nlevels != 2 or index.names != first.index.names:
            return False
        if not isinstance(index.levels[0], pd.DatetimeIndex) or index.levels[0].dtype != first.index.levels[0].dtype:
            return False
        if _kind(part) != _kind(first):
            return False
    return _kind(first) is not None


def _kind(part: pd.DataFrame | pd.Series) -> tuple[object, ...] | None:
    """Return columns and dtype; None if there are several dtypes, or a non-numpy dtype."""
    if isinstance(part, pd.Series):
        return (part.name, part.dtype) if isinstance(part.dtype, np.dtype) else None
    dtypes = set(part.dtypes)
    if len(dtypes) != 1 or not isinstance(next(iter(dtypes)), np.dtype):
        return None
    return tuple(part.columns), part.columns.name, next(iter(dtypes))


def _instruments(parts: Sequence[Any]) -> pd.Index:
    """Return all instruments, sorted."""
    found: pd.Index = parts[0].index.levels[1]
    seen = {id(found)}
    for part in parts[1:]:
        level = part.index.levels[1]
        if id(level) not in seen and not level.equals(found):
            seen.add(id(level))
            found = found.union(level)
    return found if found.is_monotonic_increasing else found.sort_values()


def _placed(index: pd.MultiIndex, instruments: pd.Index) -> tuple[NDArray[np.datetime64], Codes, Codes] | None:
    """Return the days of a part and its index codes in the joined result; None if it is not strictly sorted."""
    level, own = index.levels
    codes: list[Codes] = [np.asarray(c) for c in index.codes]
    first, second = codes
    if not level.is_monotonic_increasing or first.min() < 0 or second.min() < 0:
        return None
    if own is not instruments and not own.equals(instruments):
        second = instruments.get_indexer(own)[second]
    new_day = first[1:] > first[:-1]
    if not (new_day | ((first[1:] == first[:-1]) & (second[1:] > second[:-1]))).all():
        return None
    starts = np.concatenate([[0], np.flatnonzero(new_day) + 1])
    if len(starts) == len(level):  # every day of the level has rows, so its codes are already the positions
        return level.to_numpy(), first, second
    lengths = np.diff(np.append(starts, len(first)))
    return level[first[starts]].to_numpy(), np.repeat(np.arange(len(starts)), lengths), second
