"""The checks of a day before it is published, on a service without models."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import BEGIN, DAYS, Market, manager, strategy, template
from rollforge.errors import DayFailed
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import DayResult, DayState, Entry, EntryKind, Outcome, Release, Role, day_body
from rollforge.ledger.state import ServiceState
from rollforge.online.check_rules import Rule, Rules
from rollforge.online.data_marks import data_mark
from rollforge.online.day_checks import DayChecks
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.strategy import OnlineStrategy, RollingStrategy
from rollforge.session import Session, using


def of(instruments: object) -> dict[str, Any]:
    """Return a template whose universe is the given one."""
    made = template()
    made["dataset"]["kwargs"]["handler"]["kwargs"]["instruments"] = instruments
    return made


def checks(served: OnlineManager, rules: Rules | None = None, state: ServiceState | None = None) -> DayChecks:
    return DayChecks(served.service, state or ServiceState(), rules or Rules({}), BEGIN)


def without_prices(market: Market, codes: str) -> None:
    """Write the data up to the first day, on which some instruments have no price."""
    market.close.loc[BEGIN, list(codes)] = np.nan
    market.show(BEGIN)


def test_a_price_of_one_instrument_is_enough(market: Market) -> None:
    """Without any, the error says what to do. The prices of the days around it do not count."""
    without_prices(market, "ABC")
    checks(manager()).prices()
    without_prices(market, "D")
    market.show(DAYS[61])
    with pytest.raises(DayFailed) as error:
        checks(manager()).prices()
    assert str(error.value) == (
        f"No instrument of 'all' has a price on {BEGIN}. Add the day's data, or remove the day from the calendar, and run "
        "the routine again."
    )


def test_each_universe_needs_a_price(market: Market) -> None:
    """Those of all models of all strategies; the one of a challenger only while it is the champion."""
    without_prices(market, "AB")
    checks(manager(templates=[of(["C", "D"]), of(["B", "C"])])).prices()
    with pytest.raises(DayFailed, match=r"No instrument of \['A', 'B'\]"):
        checks(manager(templates=[of("all"), {**of("all"), "record": []}, of(["A", "B"])])).prices()
    two = [strategy("one"), strategy("two", of(["A"]))]
    with pytest.raises(DayFailed, match=r"No instrument of \['A'\]"):
        checks(OnlineManager(two, begin_time=BEGIN)).prices()
    rolled = RollingStrategy("served", [of("all"), of(["A"])], RollingGen(step=4, rtype="sliding"), ["old", "new"])
    served = OnlineManager(rolled, begin_time=BEGIN, policy=Policy(9, challenger="new"))
    checks(served).prices()
    promoted = Release("t", "served", "r", Role.CHAMPION, BEGIN, "", "", "served", "new", instead_of="old")
    body = day_body(DayResult(BEGIN, DayState.DUE), releases=[promoted])
    state = ServiceState.of([Entry("us", 1, EntryKind.DAY, body, 1, 0.0)])
    with pytest.raises(DayFailed, match=r"No instrument of \['A'\]"):
        checks(served, state=state).prices()


def test_data_of_ones_own_are_not_checked(market: Market) -> None:
    """Strategies without a data folder or without templates, and folders without closing prices."""
    market.show(BEGIN)
    served, rules = manager(), Rules({"universe": Rule(1.0, Outcome.FAIL)})
    with using(Session()):
        for part in (checks(served, rules),):
            part.prices()
            part.data()
            assert (part.results, part.mark) == ([], "")
    checks(OnlineManager(OnlineStrategy("own"), begin_time=BEGIN)).prices()
    without_prices(market, "ABCD")
    for file in market.folder.glob("features/*/close.day.bin"):
        file.rename(file.with_name("nav.day.bin"))
    checks(served).prices()


def test_the_data_are_read_only_if_a_check_needs_them(market: Market) -> None:
    """Then they are read once: their fingerprint is that of the day."""
    market.show(BEGIN)
    for rules in (Rules({}), Rules({"constant": Rule(0.9)})):
        part = checks(manager(), rules)
        part.data()
        assert (part.results, part.mark) == ([], "")
    part = checks(manager(), Rules({"gap": Rule(0.0)}))
    part.data()
    assert [(one.name, one.day, one.value, one.outcome) for one in part.results] == [("gap", BEGIN, 0.0, Outcome.OK)]
    assert part.mark == data_mark(BEGIN) != ""


def test_all_failures_of_a_day_are_named_at_once(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    """The results of all checks are kept for the entry of the day, and each that is not OK is logged."""
    without_prices(market, "ABC")
    fail = Outcome.FAIL
    rules = Rules({"universe": Rule(0.9, fail), "stale": Rule(0.0), "jumps": Rule(0.0), "missing": Rule(1.0, fail)})
    served = manager(service="us", templates=[of("all"), of(["D", "C"])])
    part = checks(served, rules)
    with caplog.at_level(logging.WARNING), pytest.raises(DayFailed) as error:
        part.data()
    universe = f"check universe of {BEGIN}: 0.25, limit 0.9 (1 of 4 instruments have a price)"
    assert str(error.value) == universe
    outcomes = {one.name: one.outcome for one in part.results}
    assert outcomes == {"universe": fail, "missing": Outcome.OK, "jumps": Outcome.WARN, "stale": Outcome.OK}
    assert [r.getMessage().split(" (")[0] for r in caplog.records if r.name.endswith("day_checks")] == [
        f"service us: {BEGIN}: {universe.split(' (')[0]}",
        f"service us: {BEGIN}: check jumps of {BEGIN}: {abs(jump(market)):.4g}, limit 0",
    ]
    part = checks(served, Rules({"universe": Rule(0.9, fail), "jumps": Rule(0.0, fail)}))
    with pytest.raises(DayFailed, match=r"^check universe .*; check jumps .*$"):
        part.data()


def jump(market: Market) -> float:
    """Return the last move of the instrument that has a price."""
    return float(market.close["D"].astype(np.float32).pct_change().loc[BEGIN])


@pytest.mark.parametrize("block", [True, False])
def test_checks_of_scores_fail_a_day_only_if_they_block(market: Market, block: bool) -> None:
    """The results are in the entry in either case."""
    market.show(BEGIN)
    index = pd.MultiIndex.from_product([pd.to_datetime([BEGIN]), list("ABCD")], names=["datetime", "instrument"])
    same = pd.Series([0.5, 0.5, 0.5, 0.1], index)
    part = checks(manager(), Rules({"constant": Rule(0.7, Outcome.FAIL)}, block))
    if block:
        with pytest.raises(DayFailed, match=f"^check constant of {BEGIN}: 0.75, limit 0.7 "):
            part.scores(same)
    else:
        part.scores(same)
    assert [(one.name, one.value, one.outcome) for one in part.results] == [("constant", 0.75, Outcome.FAIL)]
    part = checks(manager(), Rules({"gap": Rule(0.0, Outcome.FAIL)}, block))
    part.scores(same)
    assert part.results == []
