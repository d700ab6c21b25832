"""Checks of scores: the share of equal ones, and the interval of the mean IC. Every number is computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rollforge.ledger.entry import CheckResult, DayResult, DayState, Entry, EntryKind, Outcome, Signal, day_body
from rollforge.ledger.state import ServiceState
from rollforge.online.score_checks import DAILY_IC, _is_known, constant_share, known_ics, mean_with_interval


def test_the_most_frequent_score_counts() -> None:
    """Missing scores count as equal; one instrument cannot be compared."""
    assert constant_share(pd.Series([1.0, 2, 2, 3])) == 0.5
    assert constant_share(pd.Series([2.0, 2, 2])) == 1.0
    assert constant_share(pd.Series([np.nan, np.nan, np.nan, 1])) == 0.75
    assert constant_share(pd.DataFrame({"score": [1.0, 2], "other": [1.0, 1]})) == 0.5
    assert constant_share(pd.Series([1.0])) is None
    assert constant_share(pd.Series([], dtype=float)) is None


def test_the_interval_of_independent_days() -> None:
    """20 values of 0 and 1: the standard deviation is sqrt(5 / 19)."""
    error = 1.96 * math.sqrt(5 / 19) / math.sqrt(20)
    assert mean_with_interval([0, 1] * 10, 1) == pytest.approx((0.5, 0.5 - error, 0.5 + error), rel=1e-12)


def test_the_interval_of_overlapping_labels() -> None:
    """Newey-West with lag 2 gives 5 - 2 * 2/3 * 19 * 0.25 + 2 * 1/3 * 18 * 0.25 = 5/3; a mean of 0 has one too."""
    error = 1.96 * math.sqrt(5 / 3) / 20
    assert mean_with_interval([0, 1] * 10, 2) == pytest.approx((0.5, 0.5 - error, 0.5 + error), rel=1e-12)
    assert mean_with_interval([-0.5, 0.5] * 10, 2) == pytest.approx((0, -error, error), abs=1e-12)


def test_few_or_equal_values_have_no_interval() -> None:
    """A mean of 19 days is not judged."""
    assert mean_with_interval([0, 1] * 9 + [0], 1) is None
    assert mean_with_interval([0.25] * 20, 1) is None
    assert mean_with_interval([0, 1] * 10, 30) is None


def signal(day: str, rows: int) -> Signal:
    return Signal(day, 1, ("model",), "file", "0" * 64, rows)


@pytest.mark.parametrize(("rows", "labels", "known"), [(4, 1, False), (4, 2, True), (3, 1, False), (3, 2, True)])
def test_the_labels_of_a_day_are_known_if_half_of_the_instruments_have_one(rows: int, labels: int, known: bool) -> None:
    """Labels of the day before do not count."""
    values = [1.0] * rows + [1.0] * labels + [np.nan] * (rows - labels)
    index = pd.MultiIndex.from_product(
        [pd.to_datetime(["2024-06-03", "2024-06-04"]), list("ABCD")[:rows]], names=["datetime", "instrument"]
    )
    assert _is_known(pd.Series(values, index), signal("2024-06-04", rows)) is known


def test_the_ics_of_withdrawn_signals_are_not_known() -> None:
    """A day without signals has none either."""
    days = ["2024-06-03", "2024-06-04", "2024-06-05"]
    signals = [[signal(days[0], 4)], [signal(days[1], 0)], []]
    entries = [
        Entry(
            "us", number, EntryKind.DAY,
            day_body(
                DayResult(day, DayState.PUBLISHED), signals=published,
                checks=[CheckResult(name, day, 0.5, Outcome.OK) for name in (DAILY_IC, "ic")],
            ),
            1, 0.0,
        )
        for number, (day, published) in enumerate(zip(days, signals, strict=True), 1)
    ]  # fmt: skip
    known = known_ics(ServiceState.of(entries))
    assert [(day, check.name) for day, check in known.items()] == [(days[0], DAILY_IC)]
