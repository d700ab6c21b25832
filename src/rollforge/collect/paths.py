"""Backtest paths: the predictions of combinatorial splits, recombined so that each path predicts every day once.

With N groups of days of which k are tested, each group is tested by C(N - 1, k - 1) splits, and its prediction by the
j-th of them belongs to path j. Source: M. López de Prado, *Advances in Financial Machine Learning* (2018), section
12.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from rollforge.collect.ensemble import RollingEnsemble
from rollforge.dates import as_timestamp, end_of
from rollforge.generate.segments import intervals
from rollforge.market.frames import number_rows

__all__ = ["backtest_paths", "path_numbers", "rows_between"]

Interval = tuple[np.datetime64, np.datetime64]
Key = TypeVar("Key", bound=Hashable)


def path_numbers(tests: Iterable[Sequence[Hashable]]) -> list[tuple[int, ...]]:
    """Return the path, from 1, to which each tested group of each split belongs.

    Parameters
    ----------
    tests : iterable of sequence
        The groups that each split tests.

    Examples
    --------
    Three groups, two of which are tested by each split, make two paths:

    >>> path_numbers([("A", "B"), ("A", "C"), ("B", "C")])
    [(1, 1), (2, 1), (2, 2)]
    """
    seen: Counter[Hashable] = Counter()
    made = []
    for groups in tests:
        seen.update(groups)
        made.append(tuple(seen[group] for group in groups))
    return made


def backtest_paths(predictions: Mapping[Key, pd.DataFrame], tests: Mapping[Key, object]) -> dict[int, pd.DataFrame]:
    """Return the prediction of each backtest path: ``{split: frame} -> {path: frame}``, numbered from 1.

    Parameters
    ----------
    predictions : mapping
        Split -> its prediction, with an index (datetime, instrument). The days of a split without a prediction are
        missing from its paths.
    tests : mapping
        Split -> its test segment, as its task defines it: one interval, or a list of them.

    Raises
    ------
    SegmentError
        If a segment is invalid.

    Examples
    --------
    >>> groups = [("2024-01-01", "2024-01-01"), ("2024-01-02", "2024-01-02"), ("2024-01-03", "2024-01-03")]
    >>> tests = {1: groups[:2], 2: [groups[0], groups[2]], 3: groups[1:]}
    >>> def frame(split):
    ...     index = pd.MultiIndex.from_tuples(
    ...         [(pd.Timestamp(first), "x") for first, _ in tests[split]], names=["datetime", "instrument"])
    ...     return pd.DataFrame({"score": float(split)}, index)
    >>> for number, path in backtest_paths({split: frame(split) for split in tests}, tests).items():
    ...     print(number, path["score"].tolist())
    1 [1.0, 1.0, 2.0]
    2 [2.0, 3.0, 3.0]
    """
    groups = {split: intervals("test", segment) for split, segment in tests.items()}
    parts: dict[int, dict[object, pd.DataFrame]] = {}
    for (split, tested), numbers in zip(groups.items(), path_numbers(groups.values()), strict=True):
        if split not in predictions:
            continue
        frame = number_rows(predictions[split], f"The prediction of {split!r}")
        for i, (number, interval) in enumerate(zip(numbers, tested, strict=True)):
            parts.setdefault(number, {})[split, i] = rows_between(frame, interval.start, interval.end)
    return {number: RollingEnsemble()(parts[number]) for number in sorted(parts)}


def rows_between(frame: pd.DataFrame, start: np.datetime64 | None, end: np.datetime64 | None) -> pd.DataFrame:
    """Return the rows of some days of a frame with an index (datetime, instrument); None means open-ended."""
    days = frame.index.get_level_values("datetime")
    chosen = np.ones(len(frame), bool)
    if start is not None:
        chosen &= np.asarray(days >= as_timestamp(start))
    if end is not None:
        chosen &= np.asarray(days <= end_of(end))
    return frame[chosen]
