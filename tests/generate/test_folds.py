"""The arithmetic of purged cross-validation, against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError
from rollforge.generate.folds import as_ranges, combined_tests, embargo_days, equal_groups, hold_out, training_days


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12))
def test_groups_are_consecutive_and_nearly_equal(days: int, groups: int) -> None:
    """Groups cover all days; the larger ones come first."""
    made = equal_groups(days, groups)
    assert [d for first, stop in made for d in range(first, stop)] == list(range(days))
    sizes = [stop - first for first, stop in made]
    assert len(sizes) == groups
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_training_days_share_no_day_with_a_test(data: st.DataObject) -> None:
    """A day is left out if the days that its label reads meet those of a tested label, or in the embargo after them."""
    days, groups = data.draw(st.integers(6, 30)), data.draw(st.integers(2, 6))
    purge, embargo = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    for tests in combined_tests(equal_groups(days, groups), data.draw(st.integers(1, groups - 1))):
        expected = []
        for day in range(days):
            read = set(range(day, day + purge + 1))
            near = any(read & set(range(first, stop + purge)) for first, stop in tests)
            late = any(stop + purge <= day < stop + purge + embargo for _, stop in tests)
            expected.append(not near and not late)
        assert training_days(days, tests, purge, embargo).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_validation_days_are_the_last_before_the_last_test(data: st.DataObject) -> None:
    """Validation days are the last of all if at most as many training days lie before the last test; the training days
    near them are left out."""
    days, purge, size = data.draw(st.integers(12, 30)), data.draw(st.integers(0, 2)), data.draw(st.integers(1, 5))
    tests = data.draw(st.sampled_from(list(combined_tests(equal_groups(days, 4), 2))))
    train = training_days(days, tests, purge, 0)
    kept = [d for d in range(days) if train[d]]
    before = [d for d in kept if d < tests[-1][0]]
    chosen = (before if len(before) > size else kept)[-size:]
    rest, valid = hold_out(train, tests[::-1], size, purge)
    assert np.flatnonzero(valid).tolist() == chosen
    assert np.flatnonzero(rest).tolist() == [
        d for d in kept if d not in chosen and all(abs(d - c) > purge for c in chosen)
    ]
    assert [d for first, stop in as_ranges(rest) for d in range(first, stop)] == np.flatnonzero(rest).tolist()


@pytest.mark.parametrize(
    ("embargo", "days", "right"),
    [(0, 100, 0), (3, 100, 3), (np.int64(2), 100, 2), (0.0, 100, 0), (0.29, 100, 29), (0.019, 100, 1), (0.999, 10, 9)],
)
def test_an_embargo_is_days_or_a_fraction(embargo: Any, days: int, right: int) -> None:
    """A fraction is rounded down, except for rounding errors: 0.29 x 100 is 28.999… in floating point."""
    assert embargo_days(embargo, days) == right
    assert type(embargo_days(embargo, days)) is int


@pytest.mark.parametrize("embargo", [-1, -0.5, True, "3", None, float("nan")])
def test_another_embargo_is_refused(embargo: Any) -> None:
    with pytest.raises(ConfigError, match=r"^embargo: must be a number of trading days or a fraction"):
        embargo_days(embargo, 100)


@pytest.mark.parametrize("embargo", [1.0, 5.0])
def test_a_number_of_days_is_not_a_fraction(embargo: float) -> None:
    with pytest.raises(ConfigError, match=r"^here: a fraction of all days must be below 1"):
        embargo_days(embargo, 100, "here")
