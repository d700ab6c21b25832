"""Metrics of predicted values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rollforge.record.scoring import classification_metrics, regression_metrics

ROWS = pd.MultiIndex.from_product(
    [pd.bdate_range("2024-01-01", periods=20), list("ABCDE")], names=["datetime", "instrument"]
)
SCORES = pd.Series(np.random.default_rng(0).normal(size=len(ROWS)), ROWS)
ALIKE = pd.Series(np.where(np.arange(len(ROWS)) % 2, 0.1, 0.1 + 2**-56), ROWS)
"""Values that differ by rounding only."""


@pytest.mark.parametrize("constant", [pd.Series(0.1, ROWS), pd.Series(0.0, ROWS), ALIKE])
def test_constant_values_have_no_correlation(constant: pd.Series) -> None:
    """The rule is that of the daily IC: values that differ by rounding only are constant, too."""
    for found in (regression_metrics(constant, SCORES), regression_metrics(SCORES, constant)):
        assert np.isnan([found["ic"], found["rank_ic"], found["correlation"]]).all()
    assert np.isnan(regression_metrics(SCORES, constant)["r2"])
    assert regression_metrics(constant, SCORES)["r2"] == pytest.approx(
        1 - ((constant - SCORES) ** 2).sum() / ((SCORES - SCORES.mean()) ** 2).sum()
    )


def test_small_values_are_not_constant() -> None:
    """The rule compares with the largest value, so the unit does not matter."""
    found, small = regression_metrics(SCORES, SCORES * 2), regression_metrics(SCORES * 1e-100, SCORES * 2e-100)
    assert (found["correlation"], small["correlation"]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_constant_probabilities_have_no_correlation() -> None:
    known = pd.Series(True, ROWS)
    found = classification_metrics(ALIKE, SCORES > 0, known)
    assert np.isnan(found["correlation"])
    assert 0 < found["brier"] < 1
