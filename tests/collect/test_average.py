"""Averages and joins by hand: constant, missing and infinite members, days of one instrument, independence of order."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from rollforge.collect import AverageEnsemble, RollingEnsemble
from rollforge.errors import CoverageError, DataError

DAY = pd.Timestamp("2020-01-01")
NAN = float("nan")
ROOT = 0.5**0.5


def member(*rows: list[float], codes: str = "ABCDEFGH") -> pd.DataFrame:
    """Return one row of scores per day, for the first instruments."""
    index = pd.MultiIndex.from_tuples(
        [(DAY + pd.Timedelta(days=d), codes[i]) for d, row in enumerate(rows) for i in range(len(row))],
        names=["datetime", "instrument"],
    )
    return pd.DataFrame({"score": [float(v) for row in rows for v in row]}, index)


def average(*members: Any) -> list[float]:
    return [float(v) for v in AverageEnsemble()(dict(enumerate(members)))]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # Standardised, 1, 2, 3 are -1, 0, 1; a constant member is 0 and counts.
        ([member([1, 2, 3]), member([7, 7, 7])], [-0.5, 0, 0.5]),
        ([member([1, 2, 3]), member([0.1, 0.1, 0.1]), member([9, 9, 9])], [-1 / 3, 0, 1 / 3]),
        # Alone, or with only constant members, the average is 0; the day is not lost.
        ([member([7, 7, 7], [1, 2, 3])], [0, 0, 0, -1, 0, 1]),
        ([member([7, 7]), member([8, 8])], [0, 0]),
        # A single instrument cannot be compared.
        ([member([5])], [0]),
        ([member([1, 2, 3]), member([5])], [-0.5, 0, 1]),
        # Missing values are ignored, also when standardising; values missing in all members stay missing.
        ([member([1, 2, 3]), member([NAN, 4, 2])], [-1, (0 + ROOT) / 2, (1 - ROOT) / 2]),
        ([member([1, NAN, 3])], [-ROOT, NAN, ROOT]),
        ([member([1, 2, 3]), member([NAN, NAN, NAN])], [-1, 0, 1]),
        ([member([NAN, NAN])], [NAN, NAN]),
        # An infinite score counts as missing and does not affect the rest of the day.
        ([member([1, 2, float("inf")])], [-ROOT, ROOT, NAN]),
        ([member([1, 2, 3]), member([float("-inf"), 5, 5])], [-1, 0, 0.5]),
        # A constant member with missing values counts where it has values.
        ([member([1, 2, 3]), member([NAN, 5, 5])], [-1, 0, 0.5]),
    ],
)
def test_each_day_is_averaged_by_hand(members: list[pd.DataFrame], expected: list[float]) -> None:
    """Members are standardised within the day, then averaged over those that have a value."""
    assert average(*members) == pytest.approx(expected, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_the_unit_of_a_member_does_not_matter(unit: float) -> None:
    """Scores may be multiplied by any number, even if their squares overflow."""
    assert average(member([1 * unit, 2 * unit, 3 * unit])) == pytest.approx([-1.0, 0.0, 1.0], abs=1e-12)


def test_constant_scores_are_recognised_whatever_their_mean_is_rounded_to() -> None:
    """The mean of thirty times 0.1 is 0.10000000000000003 in some orders of summation."""
    for count in range(1, 60):
        assert average(member([0.1] * min(count, 8)), member([1 / 3] * min(count, 8))) == [0.0] * min(count, 8)


scores = st.one_of(st.floats(-1e3, 1e3, allow_subnormal=False), st.sampled_from([NAN, 0.1, 0.1, float("inf")]))


@given(st.lists(st.lists(scores, min_size=5, max_size=5), min_size=2, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_average_is_independent_of_order(rows: list[list[float]], random: Any) -> None:
    """The average is the same to the last bit for any order of members, order of their rows, and names."""
    members = [member(row) for row in rows]
    expected = AverageEnsemble()(dict(enumerate(members)))
    for order in list(itertools.permutations(range(len(members))))[:: 5 if len(members) > 2 else 1]:
        shuffled = {
            f"{random.random()}-{i}": members[i].sample(frac=1, random_state=random.randrange(99)) for i in order
        }
        pd.testing.assert_series_equal(AverageEnsemble()(shuffled), expected, check_exact=True)


def test_members_may_have_different_rows_and_levels_in_another_order() -> None:
    """The result has the rows of all members, sorted by day and instrument."""
    first, second = member([1, 2, 3]), member([4, 5, 6], codes="BCD").swaplevel()
    found = AverageEnsemble()({"a": first, "b": second})
    assert list(found.index) == [(DAY, c) for c in "ABCD"]
    assert list(found) == pytest.approx([-1, -0.5, 0.5, 1])


def test_duplicate_rows_and_an_index_without_days_are_refused() -> None:
    """The message names the member."""
    twice = pd.concat([member([1, 2]), member([3])])
    with pytest.raises(CoverageError, match=r"'b' has the row .*2020-01-01.* twice"):
        AverageEnsemble()({"a": member([1, 2]), "b": twice})
    with pytest.raises(CoverageError, match="'b' has"):
        AverageEnsemble()({"a": member([1, 2]), "b": member([1, 2]).droplevel("instrument")})
    with pytest.raises(DataError, match="'b' needs an index with the levels datetime and instrument"):
        AverageEnsemble()({"a": member([1, 2]), "b": member([1, 2]).droplevel("datetime")})
    with pytest.raises(CoverageError, match="no results"):
        AverageEnsemble()({})


def test_of_windows_with_the_same_start_the_longer_one_is_kept() -> None:
    """The longer window is kept in any order of the dict; of two over the same days, that of the later key is kept."""
    short, longer = member([1, 1]), member([2, 2], [2, 2])
    for windows in ({"x": short, "y": longer}, {"y": longer, "x": short}, {"b": short, "a": longer}):
        assert set(RollingEnsemble()(windows)["score"]) == {2.0}
    same = member([3, 3], [3, 3])
    for windows in ({"a": longer, "b": same}, {"b": same, "a": longer}):
        assert set(RollingEnsemble()(windows)["score"]) == {3.0}
