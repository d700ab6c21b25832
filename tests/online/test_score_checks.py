"""Checks of scores: the share of equal ones, and the interval of the mean IC. Every number is computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rollforge.online.score_checks import constant_share, mean_with_interval


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
