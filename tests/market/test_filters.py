"""Filters of a universe. The expected counts come from pyqlib 0.9.7 on the reference market."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollforge.errors import ConfigError, ExpressionError
from rollforge.features.api import D
from rollforge.market.filters import ExpressionDFilter, NameDFilter, SeriesDFilter, build_filters
from rollforge.session import Session, using

START, END = "2013-03-01", "2015-09-15"
HIGH = ExpressionDFilter("Mean($close,5)>20", fstart_time="2015-09-05", fend_time="2015-09-10")


@pytest.mark.parametrize(
    ("one", "members", "stretches", "rows"),
    [
        (ExpressionDFilter("$close"), 39, 39, 22395),
        (ExpressionDFilter("$close>20"), 27, 71, 15221),
        (HIGH, 39, 53, 22350),
        (NameDFilter("X00[23]"), 2, 2, 647),
        (ExpressionDFilter("Ref($close,1)/$close>1", keep=True), 39, 5589, 11215),
    ],
)
def test_filters_keep_what_qlibs_keep(golden_market: Path, one: Any, members: int, stretches: int, rows: int) -> None:
    """The same members, periods and rows remain as in pyqlib."""
    with using(Session(provider_uri=str(golden_market))):
        universe = D.instruments("all", filter_pipe=[one])
        listed = D.list_instruments(universe, START, END)
        assert len(listed) == members
        assert sum(map(len, listed.values())) == stretches
        frame = D.features(universe, ["$close"], START, END)
        assert len(frame) == rows
        assert sorted(frame.index.get_level_values(0).unique()) == sorted(listed)


def test_a_filter_applies_only_to_its_range(golden_market: Path) -> None:
    """Before its first and after its last day, a filter does not change the universe."""
    with using(Session(provider_uri=str(golden_market))):
        listed = D.list_instruments(D.instruments("all", [HIGH]), START, END)
    days = [tuple(f"{day:%Y-%m-%d}" for day in span) for span in listed["X003"]]
    assert days == [("2015-09-04", "2015-09-04"), ("2015-09-11", "2015-09-15")]


def test_filters_are_combined(golden_market: Path) -> None:
    """A row remains if every filter keeps it; entries may be filters, descriptions or Qlib's configurations."""
    pipe = [
        NameDFilter("X00[0-9]$"),
        {"class": "ExpressionDFilter", "kwargs": {"rule_expression": "$close>20"}},
        {
            "filter_type": "NameDFilter",
            "name_rule_re": "X00[68]",
            "filter_start_time": None,
            "filter_end_time": "2014-01-02",
        },
    ]
    with using(Session(provider_uri=str(golden_market))):
        before = D.list_instruments(D.instruments("all", pipe), START, "2014-01-02")
        after = D.list_instruments(D.instruments("all", pipe), "2014-01-03", END)
    assert list(before) == ["X006", "X008"]
    assert [f"{day:%Y-%m-%d}" for day in before["X006"][0]] == ["2013-03-01", "2013-07-17"]
    assert set(after) > {"X000"}


class FirstHalf(SeriesDFilter):
    """Keeps the first half of the given days."""

    def rule(self, codes: Any, days: NDArray[np.datetime64], evaluate: Any) -> NDArray[np.bool_]:
        return np.repeat((np.arange(len(days)) < len(days) // 2)[None], len(codes), axis=0)


def test_a_user_defined_filter(golden_market: Path) -> None:
    """A subclass returns where its rule holds; it is called only with the days of its range."""
    with using(Session(provider_uri=str(golden_market))):
        days = D.calendar("2014-01-01", "2014-01-31")
        universe = {"market": "all", "filter_pipe": [FirstHalf(fstart_time=days[4], fend_time=days[7])]}
        listed = D.list_instruments(universe, days[0], days[-1])
    assert [tuple(s) for s in listed["X002"]] == [(days[0], days[5]), (days[8], days[-1])]


def test_keep_decides_about_instruments_without_data() -> None:
    """An instrument without data in the filter's range remains only if `keep` is True."""
    values = np.array([[1.0, 0.0], [np.nan, np.nan]], np.float32)
    exists = np.array([[True, True], [False, False]])
    days = np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")
    for keep in (True, False):
        kept = ExpressionDFilter("$x", keep=keep).apply(["A", "B"], days, lambda _: (values, exists))
        assert kept.tolist() == [[True, False], [keep, keep]]


def test_a_filter_is_built_from_its_description() -> None:
    """By the class that the description names, or by that which is asked; ``to_config`` gives it back."""
    named = NameDFilter("SH.*", fstart_time="2014-01-02")
    other = ExpressionDFilter.from_config(named.to_config())
    assert isinstance(other, NameDFilter)
    assert other.to_config() == named.to_config()
    rule = {"rule_expression": "$close>5", "filter_start_time": None, "filter_end_time": None, "keep": True}
    made = ExpressionDFilter.from_config(rule)
    assert isinstance(made, ExpressionDFilter)
    assert made.to_config() == {"filter_type": "ExpressionDFilter", **rule}


@pytest.mark.parametrize(
    ("pipe", "words"),
    [
        ([{"class": "NameDFilter", "kwargs": {"name_rule_re": "("}}], "not a valid regular expression"),
        ([{"class": "NamDFilter"}], "NameDFilter"),
        ([{"filter_type": "NameDFilter", "name_rule": "X"}], "name_rule"),
        ([{"class": "NameDFilter", "kwargs": {"name_rule_re": "X", "fstart_time": "soon"}}], "'soon' is not a date"),
        ([{"class": "builtins.dict"}], "filter_pipe.0: dict is not a filter"),
        ("X", "list of filters"),
    ],
)
def test_an_invalid_pipe_is_refused(pipe: Any, words: str) -> None:
    """An entry that does not describe a filter is refused with its position."""
    with pytest.raises(ConfigError, match=words):
        build_filters(pipe)


def test_an_error_in_a_rule_is_located(golden_market: Path) -> None:
    """An error in a filter's expression is reported like in any other expression."""
    with (
        using(Session(provider_uri=str(golden_market))),
        pytest.raises(ExpressionError, match="Did you mean 'Mean'"),
    ):
        D.features(D.instruments("all", [ExpressionDFilter("Maen($close,5)>1")]), ["$close"])
