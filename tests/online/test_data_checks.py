"""Checks of a day's data: every number is computed by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge.errors import ConfigError
from rollforge.ledger.entry import CheckResult, DayResult, DayState, Entry, EntryKind, Outcome, Signal, day_body
from rollforge.ledger.state import ServiceState
from rollforge.market.provider import open_provider
from rollforge.market.universe import session_provider
from rollforge.online.check_rules import Rule, Rules, described, read_rules
from rollforge.online.data_checks import (
    Recent,
    calendar_gap,
    check_data,
    data_changes,
    day_mark,
    first_days,
    largest_jump,
    missing_share,
    read_recent,
    stale_share,
    universe_share,
)
from rollforge.online.data_marks import data_mark
from rollforge.session import bounded

from ..documents.growing import BEGIN, DAYS, Market

NAN = np.nan
MONDAY = np.datetime64("2024-06-03")


def recent(members: Any = None, **fields: Any) -> Recent:
    """Return the data of instruments A, B, …: a row of values each, the last on the day that is checked."""
    values = {name: np.array(rows, np.float32) for name, rows in fields.items()}
    count, days = next(iter(values.values())).shape
    inside = np.ones((count, days), bool) if members is None else np.array(members, bool)
    return Recent(MONDAY + np.arange(days), tuple("ABCDEFGH"[:count]), inside, values)


def test_the_share_of_the_universe_is_that_of_its_members() -> None:
    """Two of four have a price; on the first day nothing else is known; a day without prices has a share of 0."""
    assert universe_share(recent(close=[[1, 1], [1, 1], [1, NAN], [NAN, NAN]])) == (
        0.5, "2 of 4 instruments have a price", {},
    )  # fmt: skip
    assert universe_share(recent(close=[[1], [1], [1], [NAN]])) == (0.75, "3 of 4 instruments have a price", {})
    assert universe_share(recent(close=[[1, NAN], [1, NAN]])) == (0.0, "0 of 2 instruments have a price", {})
    assert universe_share(recent(close=[[1, 1]])) == (1.0, "1 of 1 instruments have a price", {})
    assert universe_share(recent([[False], [False]], close=[[1], [1]])) is None
    joined = universe_share(recent([[1, 1], [0, 1]], close=[[1, 1], [NAN, NAN]]))
    assert joined == (0.5, "1 of 2 instruments have a price", {})


def test_instruments_that_a_delivery_lacks_are_expected_although_they_are_no_members() -> None:
    """The membership of such instruments ends with their data; a usual day has three of them."""
    members = [[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0]]
    close = [[1, 1, 1, 1], [1, 1, 1, NAN], [NAN, 1, 1, NAN]]
    assert universe_share(recent(members, close=close)) == (1 / 3, "1 of 3 instruments have a price", {})
    after_one_day = recent([[1, 1], [1, 0]], close=[[1, 1], [1, NAN]])
    assert universe_share(after_one_day) == (0.5, "1 of 2 instruments have a price", {})


def test_without_closing_prices_any_value_counts() -> None:
    """Any value counts in folders with other fields."""
    found = universe_share(recent(score=[[1, 1], [1, NAN]], rank=[[1, NAN], [1, 2]]))
    assert found is not None
    assert found[0] == 1.0


def test_the_share_of_missing_values_counts_instruments_with_a_price() -> None:
    """One of three volumes among six values; D has no price and is not counted."""
    data = recent(close=[[1], [1], [1], [NAN]], volume=[[5], [NAN], [5], [NAN]])
    assert missing_share(data) == (1 / 6, "volume 1 of 3", {"fields": {"volume": 1}})
    assert missing_share(recent(close=[[1]])) == (0.0, "", {})
    assert missing_share(recent(close=[[NAN]])) is None


def test_jumps_are_moves_without_a_change_of_the_factor() -> None:
    """A moves by 60 %; B is tripled by a split; C has its last price two days before; D has no earlier price."""
    close = [[10, 10, 16], [10, 10, 30], [10, NAN, 4], [NAN, NAN, 7]]
    factor = [[1, 1, 1], [1, 1, 3], [1, NAN, 1], [NAN, NAN, 1]]
    found = largest_jump(recent(close=close, factor=factor), 0.5)
    assert found is not None
    assert (round(found[0], 12), found[1:]) == (0.6, ("A +60.0%, C -60.0%", {"instruments": ["A", "C"]}))


def test_a_factor_has_changed_if_it_differs_by_more_than_rounding() -> None:
    """One that is doubled, as by a split of two for one, or is a thousandth higher, as by a small dividend."""
    found = [largest_jump(recent(close=[[10, 20]], factor=[[1, new]]), 0.5) for new in (2, 1.001, 1.0000001)]
    assert found == [(0.0, "", {}), (0.0, "", {}), (1.0, "A +100.0%", {"instruments": ["A"]})]


def test_a_move_up_to_the_limit_is_not_a_jump() -> None:
    """A move that cannot be computed is not one either."""
    assert largest_jump(recent(close=[[10, 15]]), 0.5) == (0.5, "", {})
    assert largest_jump(recent(close=[[10, 15]]), 0.499) == (0.5, "A +50.0%", {"instruments": ["A"]})
    assert largest_jump(recent(close=[[0, 15], [NAN, 15], [10, NAN]]), 0.5) is None
    assert largest_jump(recent(close=[[NAN, 10, 15]]), 0.5) == (0.5, "", {})
    assert largest_jump(recent(close=[[0.5, 0.75]]), 0.5) == (0.5, "", {})
    assert largest_jump(recent(close=[[10]]), 0.5) is None
    assert largest_jump(recent(volume=[[10, 15]]), 0.5) is None


def test_many_jumps_are_counted() -> None:
    """Five are named."""
    found = largest_jump(recent(close=[[10, 20 + i] for i in range(7)]), 0.5)
    assert found is not None
    assert found[1] == "G +160.0%, F +150.0%, E +140.0%, D +130.0%, C +120.0% and 2 more"


def test_stale_instruments_repeat_all_values_of_the_day_before() -> None:
    """A repeats both values, B only its close, and C has no volume on both days; D has no price."""
    data = recent(close=[[3, 3], [3, 3], [3, 3], [3, NAN]], volume=[[9, 9], [9, 8], [NAN, NAN], [9, 9]])
    assert stale_share(data) == (2 / 3, "2 of 3 instruments repeat the day before", {"instruments": ["A", "C"]})
    assert stale_share(recent(close=[[3, 4]])) == (0.0, "", {})
    assert stale_share(recent(close=[[3, NAN]])) is None
    assert stale_share(recent(close=[[3]])) is None


@pytest.mark.parametrize(
    ("days", "missing"),
    [
        (["2024-05-31", "2024-06-03"], 0),  # Friday and Monday
        (["2024-05-30", "2024-06-03"], 1),
        (["2024-06-03", "2024-06-10"], 4),
        (["2024-06-01", "2024-06-02"], 0),  # a market that trades on weekends
        (["2024-05-28", "2024-06-03", "2024-06-05"], 1),  # only the day and the one before it
    ],
)
def test_gaps_count_weekdays(days: list[str], missing: int) -> None:
    """Gaps count the weekdays between the day and the one before it."""
    found = calendar_gap(np.array(days, "M8[D]"))
    assert found is not None
    assert found[0] == missing
    assert calendar_gap(np.array(days[:1], "M8[D]")) is None


def test_the_default_limits_are_those_of_the_page() -> None:
    """Each row of the two tables of docs/online.md has the limit of a check, and the days that it covers."""
    page = (Path(__file__).parents[2] / "docs" / "online.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| ([\d.]+) \|$", page, re.MULTILINE)
    described = {name: (float(limit), re.findall(r"last (\d+) [^,;|]*\(`days`\)", text)) for name, text, limit in rows}
    checks = Rules().checks
    assert described.keys() >= checks.keys()
    for name, rule in checks.items():
        limit, days = described[name]
        assert limit == rule.limit, name
        assert days == ([str(rule.days)] if rule.days else []), name


def known(*days: tuple[str, str], checks: Any = ()) -> ServiceState:
    """Return the state in which days were published with these fingerprints."""
    bodies = [day_body(DayResult(day, DayState.PUBLISHED, mark)) for day, mark in days]
    bodies.append(day_body(DayResult("2024-01-01", DayState.PUBLISHED), checks=checks))
    return ServiceState.of([Entry("us", n, EntryKind.DAY, body, 1, 0.0) for n, body in enumerate(bodies, 1)])


def test_fingerprints_of_the_last_days_equal_those_of_the_days_themselves(market: Market) -> None:
    """From one reading of the folder, also where an instrument was listed since; then nothing is read again."""
    market.begins = {"C": DAYS[58]}
    published = []
    for place in (55, 57, 58, 60):
        market.show(DAYS[place])
        published.append((DAYS[place], data_mark(DAYS[place])))
    provider = open_provider(market.folder)
    data = read_recent(provider, BEGIN, ["all"])
    assert data is not None

    def never(day: str, others: object) -> str:
        raise AssertionError(day)

    starts = first_days(provider)
    assert data_changes(data, known(*published), 5, never, starts) == (0.0, "", {})
    wrong = known((DAYS[55], "00"), (DAYS[56], "01"), *published[1:])
    found = data_changes(data, wrong, 5, lambda day, others: "now", starts)
    assert found is not None
    assert (found[0], found[2]) == (2.0, {"days": {DAYS[55]: "now", DAYS[56]: "now"}})
    last = known(*published[:2], (DAYS[58], "00"), published[3])
    assert data_changes(data, last, 5, lambda day, others: "now", starts) == (
        1.0, f"the data of {DAYS[58]} have changed; see 'rollforge serve correct'", {"days": {DAYS[58]: "now"}},
    )  # fmt: skip


def test_a_change_is_reported_once_and_only_of_the_last_days(market: Market) -> None:
    """Another change of the same day is reported again."""
    market.show(BEGIN)
    provider = open_provider(market.folder)
    data = read_recent(provider, BEGIN, ["all"])
    assert data is not None
    starts = first_days(provider)
    days = [(DAYS[58], "old"), (DAYS[59], "old")]
    before = CheckResult("changed", BEGIN, 1.0, Outcome.WARN, 0.0, data={"days": {DAYS[59]: "now"}})
    assert data_changes(data, known(*days), 1, lambda day, others: "now", starts)[2] == {"days": {DAYS[59]: "now"}}  # type: ignore[index]
    reported = known(*days, checks=[before])
    assert data_changes(data, reported, 1, lambda day, others: "now", starts) == (0.0, "", {})
    assert data_changes(data, reported, 1, lambda day, others: "newer", starts)[0] == 1.0  # type: ignore[index]
    assert data_changes(data, known(), 5, lambda day, others: "now", starts) == (0.0, "", {})
    assert data_changes(data, known((DAYS[59], "")), 5, lambda day, others: "now", starts) == (0.0, "", {})


def test_changes_are_looked_for_on_the_days_before_the_one_that_is_checked() -> None:
    """From the first one that was read on. A day with signals that is not in the calendar any more is changed, too."""
    data = recent(close=[[1, 2, 3, 4]])
    gap = Recent(data.days[[0, 2, 3]], data.codes, data.members[:, [0, 2, 3]], {"close": data.values["close"][:, 1:]})
    days = [str(day) for day in MONDAY + np.arange(-1, 4)]

    def changes(*published: str, signals: Any = ()) -> Any:
        bodies = [day_body(DayResult(day, DayState.PUBLISHED, "old"), signals=signals) for day in published]
        state = ServiceState.of([Entry("us", n, EntryKind.DAY, body, 1, 0.0) for n, body in enumerate(bodies, 1)])
        return data_changes(gap, state, 9, lambda day, others: "now", {})

    assert changes(*days)[2] == {"days": {days[1]: "now", days[3]: "now"}}
    signals = [Signal(days[2], 1, ("model",), "file", "0" * 64, 4)]
    assert changes(days[2], signals=signals) == (
        1.0,
        f"the data of {days[2]} have changed, {days[2]} no longer in the calendar; see 'rollforge serve correct'",
        {"days": {days[2]: ""}},
    )
    withdrawn = [*signals, Signal(days[2], 2, (), "file", "0" * 64, 0)]
    assert changes(days[2], signals=withdrawn) == (0.0, "", {})


def test_the_day_and_the_twenty_before_it_are_read(market: Market) -> None:
    """As far as there are any. Without a universe, every instrument belongs to it on all days."""
    market.show(BEGIN)
    provider = open_provider(market.folder)
    read = read_recent(provider, BEGIN, [["B", "C"]])
    assert read is not None
    assert [str(day) for day in read.days] == DAYS[40:61]
    assert read.members.tolist() == [[code in "BC"] * 21 for code in read.codes]
    np.testing.assert_array_equal(read.values["close"], market.close[DAYS[40] : BEGIN].to_numpy(np.float32).T)
    read = read_recent(provider, DAYS[3], [])
    assert read is not None
    assert ([str(day) for day in read.days], bool(read.members.all())) == (DAYS[:4], True)


def test_the_results_have_the_limits_and_levels_of_the_rules() -> None:
    """A share below its limit and a move above it; a check that is left out has no result."""
    rules = Rules({"universe": Rule(0.9, Outcome.FAIL), "jumps": Rule(0.5), "missing": Rule(0.0)})
    found = check_data(recent(close=[[10, 16], [10, NAN]]), rules, ServiceState(), lambda day, others: day, {})
    assert [(c.name, c.day, c.value, c.outcome, c.limit) for c in found] == [
        ("universe", "2024-06-04", 0.5, Outcome.FAIL, 0.9),
        ("missing", "2024-06-04", 0.0, Outcome.OK, 0.0),
        ("jumps", "2024-06-04", pytest.approx(0.6), Outcome.WARN, 0.5),
    ]


def test_a_day_that_is_not_in_the_calendar_has_no_data(market: Market) -> None:
    """Nothing is checked then."""
    market.show(BEGIN)
    assert read_recent(open_provider(market.folder), "2024-05-01", ["all"]) is None


# -- the section of the workflow ---------------------------------------------------------------------------------------


def test_a_section_changes_what_it_names() -> None:
    """The other checks have their defaults."""
    rules, wrong = read_rules(
        {"universe": 0.5, "gap": False, "ic": {"days": 30, "level": "fail"}, "stale": None, "block": True}
    )
    assert not wrong
    assert (rules.block, rules.checks["universe"], rules.checks["ic"]) == (
        True, Rule(0.5), Rule(0, Outcome.FAIL, 30),
    )  # fmt: skip
    assert "gap" not in rules.checks
    assert rules.checks["stale"] == Rules().checks["stale"]
    assert (read_rules(None), read_rules(False)) == ((Rules(), []), (Rules({}), []))
    assert [read_rules(section)[0].block for section in (None, False, {})] == [False] * 3


@pytest.mark.parametrize(
    ("section", "where", "text"),
    [
        ({"univers": 1}, "checks.univers", "unknown key. Did you mean 'universe'?"),
        ({"universe": 1.1}, "checks.universe", "a share from 0 to 1"),
        ({"universe": -0.1}, "checks.universe", "a share from 0 to 1"),
        ({"jumps": "half"}, "checks.jumps", "must be a number"),
        ({"jumps": float("nan")}, "checks.jumps", "must be a number"),
        ({"jumps": {"limit": True}}, "checks.jumps.limit", "must be a number"),
        ({"jumps": -1}, "checks.jumps", "0 or more"),
        ({"jumps": {"level": "error"}}, "checks.jumps.level", "must be 'warn' or 'fail', found 'error'"),
        ({"jumps": {"days": 3}}, "checks.jumps.days", "unknown key. Allowed: limit, level"),
        ({"ic": {"days": 0}}, "checks.ic.days", "from 1 to 1000"),
        ({"ic": {"days": 1.5}}, "checks.ic.days", "from 1 to 1000"),
        ({"ic": {"day": 5}}, "checks.ic.day", "unknown key. Did you mean 'days'?"),
        ({"block": 1}, "checks.block", "must be true or false"),
        ([], "checks", "must map checks to their limits"),
        (True, "checks", "must map checks to their limits"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_section_is_named(section: Any, where: str, text: str) -> None:
    """The message has its place."""
    ((place, message),) = read_rules(section)[1]
    assert place == where
    assert text in message


def test_limits_at_the_ends_of_their_ranges_are_accepted() -> None:
    """The mean IC may have a limit below 0, and any check one that is not whole."""
    section = {"universe": 0, "missing": 1, "jumps": 0, "gap": 0.5, "ic": {"limit": -0.02, "days": 1}}
    rules, wrong = read_rules(section | {"changed": {"days": 1000}})
    assert not wrong
    assert [rules.checks[name].limit for name in section] == [0, 1, 0, 0.5, -0.02]
    assert (rules.checks["ic"].days, rules.checks["changed"].days) == (1, 1000)
    assert read_rules({"changed": {"days": 1001}})[1]


def test_a_value_at_its_limit_is_within_it() -> None:
    """For a share that has a minimum, as for values that have a maximum."""
    rules = Rules({"universe": Rule(0.5), "stale": Rule(0.5)})
    beyond = {"universe": 0.499, "stale": 0.501}
    for name, value in beyond.items():
        assert rules.result(name, DAYS[0], 0.5).outcome is Outcome.OK
        assert rules.result(name, DAYS[0], value).outcome is Outcome.WARN


def test_a_check_that_cannot_be_computed_fails_only_if_its_level_says_so() -> None:
    """A result of a check that the rules no longer have fails nothing unless it failed when it was made."""
    rules = Rules({"universe": Rule(0.5, Outcome.FAIL), "stale": Rule(0.5)})
    failed = {
        (name, outcome): rules.failed(CheckResult(name, DAYS[0], None, outcome))
        for name in ("universe", "stale", "gap")
        for outcome in (Outcome.OK, Outcome.WARN, Outcome.UNKNOWN, Outcome.FAIL)
    }
    assert [pair for pair, is_failed in failed.items() if is_failed] == [
        ("universe", Outcome.UNKNOWN), ("universe", Outcome.FAIL), ("stale", Outcome.FAIL), ("gap", Outcome.FAIL),
    ]  # fmt: skip


def test_the_file_is_refused_with_all_mistakes_and_their_lines(tmp_path: Any) -> None:
    """The other sections are refused in the same way."""
    from rollforge.workflow import load_workflow

    from ..documents.definitions import write_workflow
    from ..documents.growing import template

    file = write_workflow(tmp_path / "job.yaml", {"task": template(), "checks": {"jumps": "half", "univers": 1}})
    lines = file.read_text().splitlines()
    jumps, univers = (
        next(n for n, line in enumerate(lines, 1) if f"  {name}:" in line) for name in ("jumps", "univers")
    )
    with pytest.raises(ConfigError) as error:
        load_workflow(file)
    assert f"line {jumps}: checks.jumps: must be a number" in str(error.value)
    assert f"line {univers}: checks.univers: unknown key" in str(error.value)


def test_a_value_that_is_not_a_number_is_unknown() -> None:
    """Whatever the limit and the level, so it never fails a day; an infinite one exceeds every limit."""
    rules = Rules({"jumps": Rule(0.5, Outcome.FAIL)})
    found = rules.result("jumps", DAYS[0], math.nan)
    assert (found.value, found.outcome) == (None, Outcome.UNKNOWN)
    assert described(found) == f"check jumps of {DAYS[0]}: no value, limit 0.5 (it could not be computed)"
    found = rules.result("jumps", DAYS[0], math.inf)
    assert (found.value, found.outcome) == (None, Outcome.FAIL)


def test_the_fingerprint_of_the_values_that_were_read_is_that_of_the_day(market: Market) -> None:
    """The fingerprints are equal with an instrument that is listed later, and with one that is in no universe of the
    service."""
    market.begins["D"] = DAYS[70]
    market.show(DAYS[75])
    for day in (DAYS[69], DAYS[70], DAYS[75]):
        with bounded(day):
            provider = session_provider()
            for universe in ("all", ["A"]):
                read = read_recent(provider, day, [universe])
                assert read is not None
                assert day_mark(read, provider) == data_mark(day) != ""
