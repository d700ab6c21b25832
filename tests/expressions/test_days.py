"""The days that an expression reads: the last one, and how many a label spans."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rollforge.expressions.expression import parse
from rollforge.expressions.operators import holding_days, last_day_read, register_operator, unregister_operator

ONE, FIVE = "Ref($close, -2)/Ref($close, -1) - 1", "Ref($close, -6)/Ref($close, -1) - 1"


@pytest.mark.parametrize(
    ("expression", "last"),
    [
        ("$close", 0),
        ("Ref($close, 3)", -3),
        (ONE, 2),
        ("Ref(Ref($close, 3), -1)", 1),  # a row is needed on the next day, although the price is an earlier one
        ("Ref(Ref($close, -5), 3)", 2),
        ("Ref($close, 0)", 0),
        ("Mean(Ref($close, -2), 5)", 2),
        ("Delta($close, -3)", 3),
        ("Delta(Ref($close, 5), -3)", 3),
        ("Delta(Ref($close, -5), 3)", 5),  # the value of the day itself is read too
        ("If(Ref($volume, -4) > 0, $close, 1)", 4),
        ("Mask(Ref($close, -4), 'x')", 4),
    ],
)
def test_the_last_day_that_is_read(expression: str, last: int) -> None:
    """The latest day of all branches counts, also where a shift reads an earlier price from a later day."""
    assert last_day_read(parse(expression)) == last


def test_a_users_operator_may_read_later_days() -> None:
    """The days after a row that an operator declares are added to those of its arguments."""
    register_operator("Later", lambda series, x: x, lookahead=3)
    try:
        assert last_day_read(parse("Later($close)")) == 3
        assert last_day_read(parse("Later(Ref($close, -2)) + Ref($close, -4)")) == 5
    finally:
        unregister_operator("Later")


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        (ONE, 1),
        (FIVE, 5),
        ("Ref($close, -20)/$close - 1", 20),
        ("Ref($open, -6)/Ref($open, -1) - 1", 5),
        ("Ref($close, -6)/Ref($open, -1) - 1", 5),
        ("Log(Ref($vwap, -11)/Ref($vwap, -1))", 10),
        ("Ref(Ref($close, -5)/$close - 1, -1)", 5),
        ("Ref($close, -1)/Ref($close, 1) - 1", 2),
        ("Delta(Ref($close, -6), 5)/Ref($close, -1)", 5),
        ("Delta($close, -3)/$close", 3),
        ("Ref($close, -6)/Ref($close, -1) - Ref(ChangeInstrument('X', $close), -6)/Ref($close, -1)", 5),
        ("Ref($close, -6) > Ref($close, -1)", 5),
        ("If(Ref($volume, -1) > 0, Ref($close, -3)/Ref($close, -1) - 1, 0)", 2),
        ("100 * (Ref($close, -3)/Ref($close, -1) - 1)", 2),
        ("Ref($close, -1)/Ref($open, -1) - 1", 1),
        ("Ref($close, -5)", None),
        ("$close", None),
        ("Log($close)", None),
        ("Mean(Ref($close, -5), 5)/$close - 1", None),
        ("Sum(Ref($close, -5)/Ref($close, -4) - 1, 5)", None),
        ("(Ref($close, -6)/Ref($close, -1) - 1)/Std($close, 20)", None),
        ("EMA(Ref($close, -5), 5)/$close", None),
        ("Ref($close, -5)/Ref($close, 0) - 1", None),
    ],
)
def test_days_are_those_between_first_and_last_price(expression: str, days: int | None) -> None:
    """The days of a label are exact for nested shifts and within a day; for windows and single values the days are
    unknown, never 1."""
    assert holding_days(parse(expression)) == days


@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(-30, 30))
def test_days_do_not_depend_on_when_they_begin(first: int, last: int, shift: int) -> None:
    """A label shifted as a whole spans the same number of days. In this language a shift of 0 means the first day of
    all.
    """
    if 0 in (first, last, shift) or first == last:
        return
    text = f"Ref($close, {last})/Ref($close, {first}) - 1"
    assert holding_days(parse(text)) == abs(first - last)
    assert holding_days(parse(f"Ref({text}, {shift})")) == abs(first - last)


def test_the_days_of_a_users_operator_are_unknown() -> None:
    """If it reads other days, how it uses them is not known; an operator of a single day is fine."""
    register_operator("Twice", lambda series, x: 2 * x)
    register_operator("Later", lambda series, x: x, lookahead=3)
    try:
        assert holding_days(parse(f"Twice({FIVE})")) == 5
        assert holding_days(parse("Later($close)/$close")) is None
    finally:
        unregister_operator("Twice")
        unregister_operator("Later")
