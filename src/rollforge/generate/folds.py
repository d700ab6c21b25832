"""Arithmetic of purged cross-validation on the positions of days, shared by task generators and scikit-learn splitters.

Source: M. López de Prado, *Advances in Financial Machine Learning* (2018), chapters 7 (purging and embargo) and 12
(combinatorial purged cross-validation).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import ConfigError

__all__ = ["Range", "as_ranges", "combined_tests", "embargo_days", "equal_groups", "hold_out", "training_days"]

Range = tuple[int, int]
"""Half-open range of positions."""


def equal_groups(days: int, groups: int) -> list[Range]:
    """Return consecutive groups of days; their sizes differ by at most one, and the first ones are larger.

    Examples
    --------
    >>> equal_groups(8, 3)
    [(0, 3), (3, 6), (6, 8)]
    """
    size, larger = divmod(days, groups)
    stops = [size * (i + 1) + min(i + 1, larger) for i in range(groups)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def combined_tests(groups: Sequence[Range], tested: int) -> Iterator[tuple[Range, ...]]:
    """Yield every choice of `tested` groups, in lexicographic order. Adjacent groups stay separate.

    Examples
    --------
    >>> list(combined_tests([(0, 2), (2, 4), (4, 6)], 2))
    [((0, 2), (2, 4)), ((0, 2), (4, 6)), ((2, 4), (4, 6))]
    """
    yield from itertools.combinations(groups, tested)


def embargo_days(embargo: float, days: int, path: str = "embargo") -> int:
    """Return an embargo in days: a whole number of days, or a fraction of all days, rounded down.

    Raises
    ------
    ConfigError
        If it is neither a whole number of at least 0, nor a fraction below 1.

    Examples
    --------
    >>> embargo_days(5, 1000), embargo_days(0.01, 1050)
    (5, 10)
    """
    if isinstance(embargo, bool) or not isinstance(embargo, (int, float, np.integer)) or not embargo >= 0:
        raise ConfigError(f"must be a number of trading days or a fraction of all days, found {embargo!r}.", path=path)
    if isinstance(embargo, float) and embargo >= 1:
        raise ConfigError(
            f"a fraction of all days must be below 1, found {embargo!r}. Write days as an int.", path=path
        )
    return int(embargo * days * (1 + 1e-12)) if isinstance(embargo, float) else int(embargo)


def training_days(days: int, tests: Sequence[Range], purge: int, embargo: int) -> NDArray[np.bool_]:
    """Return which days may be trained on.

    A label of day *t* that looks `purge` days ahead reads the days up to *t* + `purge`. A day is left out if its label
    and a label of the test reach a common day: the `purge` days before and after each test range. After that, the
    embargo leaves out `embargo` more days, whose features depend on days of the test.

    Parameters
    ----------
    days : int
        Number of days.
    tests : sequence of (first, stop)
        Tested ranges.
    purge, embargo : int
        Trading days.

    Examples
    --------
    >>> "".join("x" if day else "." for day in training_days(12, [(4, 6)], purge=1, embargo=2))
    'xxx......xxx'
    """
    kept = np.ones(days, bool)
    for first, stop in tests:
        kept[max(0, first - purge) : min(days, stop + purge + embargo)] = False
    return kept


def hold_out(
    train: NDArray[np.bool_], tests: Sequence[Range], size: int, purge: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split validation days off the training days: the last ones before the last tested range.

    If fewer than `size` + 1 training days lie before it, the last training days of all are taken. The `purge` days on
    both sides of the validation days are left out of the training days.

    Returns
    -------
    (train, valid)
        Which days belong to each.

    Examples
    --------
    >>> kept = training_days(12, [(8, 10)], purge=1, embargo=0)
    >>> for mask in hold_out(kept, [(8, 10)], size=2, purge=1):
    ...     print("".join("x" if day else "." for day in mask))
    xxxx.......x
    .....xx.....
    """
    last = max(first for first, _ in tests)
    before = np.flatnonzero(train[:last])
    chosen = (before if len(before) > size else np.flatnonzero(train))[-size:]
    valid = np.zeros(len(train), bool)
    valid[chosen] = True
    rest = train & ~valid
    for first, stop in as_ranges(valid):
        rest[max(0, first - purge) : stop + purge] = False
    return rest, valid


def as_ranges(mask: NDArray[np.bool_]) -> list[Range]:
    """Return the runs of chosen positions as half-open ranges.

    Examples
    --------
    >>> as_ranges(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(stop)) for first, stop in zip(edges[::2], edges[1::2], strict=True)]
