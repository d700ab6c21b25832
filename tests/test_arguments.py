"""The checks of arguments: what each accepts, up to its bounds, and what its error says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.arguments import (
    as_list,
    check_choice,
    check_flag,
    check_number,
    check_penalty,
    fetch_arguments,
    whole_number,
)
from rollforge.errors import ConfigError

INF, NAN, LARGEST = float("inf"), float("nan"), sys.float_info.max


@pytest.mark.parametrize(
    ("check", "fine", "wrong", "message"),
    [
        (lambda name, value: whole_number(value, name), [1, 2, np.int64(1)], [0, -1, 1.0, True, np.True_, "1", None],
         "must be a whole number, at least 1; found"),
        (lambda name, value: whole_number(value, name, least=0, of="days"), [0, np.int8(1)], [-1, False, np.int8(-1)],
         "a whole number of days, at least 0; found"),
        (check_flag, [True, False, 0, 1, np.True_], [2, -1, 1.0, "no", None], "must be true or false, found"),
        (check_penalty, [0, 0.0, 1, 2.5, LARGEST, np.float32(1), Fraction(1, 2)],
         [-1, -1e-300, 10**400, INF, NAN, np.float32(np.inf), True, False, "1", None, Decimal(1)],
         "must be a number that is not negative, found"),
        (check_number, [0, -1, 2.5, INF, NAN, np.int8(3)], [True, np.False_, "1", None, 1j], "must be a number, found"),
        (lambda name, value: check_choice(name, value, iter(["mean", "sum"])), ["mean", "sum"],
         ["", "MEAN", "product", 1, None, ["mean"]], "must be 'mean' or 'sum', found"),
    ],
    ids=["whole number", "whole number from 0", "flag", "penalty", "number", "choice"],
)  # fmt: skip
def test_an_argument_is_checked_up_to_its_bounds(
    check: Callable[[str, object], object], fine: list[Any], wrong: list[Any], message: str
) -> None:
    """The error begins with the name of the argument."""
    for value in fine:
        check("alpha", value)
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            check("alpha", value)
        assert str(caught.value).startswith("alpha: ")
        assert message in str(caught.value)


def test_a_similar_choice_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"found 'meen'\. Did you mean 'mean'\?"):
        check_choice("how", "meen", ["mean", "sum"])


def test_a_list_may_be_any_collection() -> None:
    """None is an empty one; strings and mappings are not lists."""
    assert as_list(None, "processors", path="p") == []
    for given in ((1, 2), [1, 2], iter([1, 2]), pd.Index([1, 2]), {1: 0, 2: 0}.keys()):
        assert as_list(given, "processors", path="p") == [1, 2]
    for given in ("Fillna", b"x", {"class": "Fillna"}, 3):
        with pytest.raises(ConfigError, match=r"^p: expected a list of processors, found"):
            as_list(given, "processors", path="p")


class Handler:
    """A handler whose ``fetch`` has an argument of each kind."""

    def fetch(self, selector: object, /, level: str = "datetime", *, proc_func: object = None) -> None: ...


class Open:
    def fetch(self, selector: object, **more: object) -> None: ...


def test_arguments_of_fetch_are_those_of_its_signature() -> None:
    """The days are left out; a handler that takes any argument by name gets it."""
    assert fetch_arguments(Handler(), None) == {}
    given = {"level": "instrument", "proc_func": len}
    made = fetch_arguments(Handler(), given)
    assert made == given
    assert made is not given
    assert fetch_arguments(Open(), {"anything": 1}) == {"anything": 1}
    assert fetch_arguments(SimpleNamespace(fetch=dict), {"x": 1}) == {"x": 1}, "a signature that cannot be read"
    for handler, wrong, message in (
        (Handler(), ["level"], r"^fetch_kwargs: must be a mapping of arguments for the handler's fetch\(\), found"),
        (Handler(), {"selector": 1}, r"^fetch_kwargs: Handler\.fetch\(\) takes no argument 'selector'"),
        (Handler(), {"levle": 1}, r"Did you mean 'level'\? Its arguments: level, proc_func\.$"),
        (Handler(), {1: 1}, r"takes no argument 1\."),
        (Open(), {1: 1}, r"takes no argument 1\. Its arguments: none\.$"),
        (Handler(), {"proc_func": "len"}, r"^fetch_kwargs\.proc_func: must be a function, found"),
        (Open(), {"proc_func": 3}, r"^fetch_kwargs\.proc_func: must be a function, found"),
    ):
        with pytest.raises(ConfigError, match=message):
            fetch_arguments(handler, wrong)
    assert fetch_arguments(Handler(), {"proc_func": None}) == {"proc_func": None}
