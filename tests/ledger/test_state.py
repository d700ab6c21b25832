"""The state of a service, derived from its entries."""

from __future__ import annotations

import dataclasses
import getpass
import json
import math
import sqlite3
from contextlib import closing
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from rollforge.errors import ConfigError, StoreUnavailable
from rollforge.ledger.base import Ledger
from rollforge.ledger.entry import (
    CheckResult,
    Comparison,
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Event,
    Level,
    Outcome,
    Release,
    Role,
    Shadow,
    Signal,
    Verdict,
    author,
    body_text,
    correction_body,
    day_body,
    event_body,
    read_body,
    release_body,
    service_body,
)
from rollforge.ledger.memory import MemoryLedger
from rollforge.ledger.postgres import PostgresLedger
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.ledger.state import ServiceState
from rollforge.machine import process_name
from rollforge.testing.postgres import PostgresServer

DAYS = [f"2024-06-{day:02}" for day in (3, 4, 5, 6, 7)]


def release(recorder: str, role: Role, day: str, strategy: str = "") -> Release:
    return Release(f"task-{recorder}", "exp", recorder, role, day, "ann", "", strategy)


def signal(day: str, version: int = 1, why: str = "") -> Signal:
    return Signal(day, version, ("r1", "r2"), f"signals/{day}.v{version}.parquet", "ab" * 32, 500, why)


def published(day: str, **parts: Any) -> Any:
    return day_body(DayResult(day, DayState.PUBLISHED, "f00", 1.25, trained=("r1",)), **parts)


def entries_of(*decisions: tuple[str, Any]) -> list[Entry]:
    """Return entries made at 100, 200, …."""
    ledger = MemoryLedger(clock=lambda: 100.0 * (1 + len(ledger.entries("us"))))
    lease = ledger.acquire("us", holder="me", seconds=86_400)
    for number, (kind, body) in enumerate(decisions, 1):
        ledger.append(lease, number, kind, body, by="ann")
    return ledger.entries("us")


CHANGED = DayResult("2024-06-03", DayState.PUBLISHED, "f01")
EXAMPLE = (
    ("service", service_body("us", "old")),
    ("day", published("2024-06-03", releases=[release("a", Role.CHAMPION, "2024-06-03")], signals=[signal("2024-06-03")])),
    ("day", published("2024-06-04", signals=[signal("2024-06-04")], events=[Event(Level.WARNING, "few rows", {"share": 0.4})])),
    ("service", service_body("us", {"new": 1}, {"days": 20})),
    ("correction", correction_body([signal("2024-06-03", 2, "late bars")], "late bars", day=CHANGED)),
    ("day", day_body(DayResult("2024-06-05", DayState.FAILED, error="no prices"))),
    ("promotion", release_body([release("b", Role.CHAMPION, "2024-06-05"), release("a", Role.RETIRED, "2024-06-05")], "better")),
    ("event", event_body([Event(Level.INFO, "note", {"psi": float("nan")})])),
    ("rollback", release_body([release("b", Role.RETIRED, "2024-06-06"), release("a", Role.CHAMPION, "2024-06-06")], "worse")),
)  # fmt: skip


@pytest.fixture(scope="module")
def state() -> ServiceState:
    return ServiceState.of(entries_of(*EXAMPLE))


def champions(state: ServiceState, day: str, **known: Any) -> list[str]:
    return [r.recorder for r in state.champions(day, **known)]


def test_models_are_online_from_their_day_on(state: ServiceState) -> None:
    """A promotion and a rollback are entries; retired models are left out."""
    assert [champions(state, day) for day in ["2024-06-02", *DAYS]] == [[], ["a"], ["a"], ["b"], ["a"], ["a"]]
    assert state.online("2024-06-05") == {Role.CHAMPION: (release("b", Role.CHAMPION, "2024-06-05"),)}
    assert champions(state, "2024-06-07", as_of=8) == ["b"]
    assert champions(state, "2024-06-07", as_of=850.0) == ["b"]
    assert champions(state, "2024-06-07", as_of=0) == champions(state, "2024-06-07", as_of=-1) == []
    assert state.known(-1) == ServiceState()


def test_the_decision_made_last_counts() -> None:
    """The later decision counts even if it applies from an earlier day than a decision that was made before."""
    decisions = [
        ("day", published("2024-06-03", releases=[release("a", Role.CHAMPION, "2024-06-03")])),
        ("promotion", release_body([release("a", Role.RETIRED, "2024-06-06")], "planned")),
        ("promotion", release_body([release("a", Role.CANDIDATE, "2024-06-05")], "changed")),
    ]
    state = ServiceState.of(entries_of(*decisions))
    assert [champions(state, day) for day in DAYS] == [["a"], ["a"], [], [], []]
    assert [len(state.candidates(day)) for day in DAYS] == [0, 0, 1, 1, 1]
    assert [state.planned(day) for day in DAYS] == [[*DAYS[2:4]], [*DAYS[2:4]], [DAYS[3]], [], []]


def test_several_models_can_be_online() -> None:
    """The models are in the order of the decisions; recorders of several experiments may have the same id."""
    other = Release("t", "other", "a", Role.CHAMPION, "2024-06-03", strategy="second")
    state = ServiceState.of(entries_of(("day", published("2024-06-03", releases=[
        release("b", Role.CHAMPION, "2024-06-03"), release("a", Role.CHAMPION, "2024-06-03"), other,
    ]))))  # fmt: skip
    assert [(r.experiment_name, r.recorder) for r in state.champions("2024-06-03")] == [
        ("exp", "b"),
        ("exp", "a"),
        ("other", "a"),
    ]
    again = release_body([release("b", Role.CHAMPION, "2024-06-04")], "confirmed")
    entry = Entry("us", 2, EntryKind.PROMOTION, again, 1, 0.0)
    assert champions(state.after(entry), "2024-06-04") == ["a", "a", "b"]
    assert state.after(entry).latest_releases["b"].from_day == "2024-06-04"


def test_a_champion_replaces_that_of_its_strategy_and_template() -> None:
    """A champion replaces that of its strategy and template from its day on; candidates, and models without the name of
    a template, replace nothing."""

    def of_template(
        recorder: str, day: str, role: Role = Role.CHAMPION, name: str = "t", strategy: str = "s"
    ) -> Release:
        return Release("task", "exp", recorder, role, day, strategy=strategy, template=name)

    first = of_template("a", "2024-06-03")
    for other, replaces in (
        (of_template("b", "2024-06-05"), True),
        (of_template("b", "2024-06-05", Role.CANDIDATE), False),
        (of_template("b", "2024-06-05", name="u"), False),
        (of_template("b", "2024-06-05", strategy="x"), False),
    ):
        assert other.replaces(first) is replaces
        state = ServiceState.of(entries_of(("day", published("2024-06-03", releases=[first, other]))))
        kept = [] if replaces else ["a"]
        assert champions(state, "2024-06-04") == ["a"]
        assert champions(state, "2024-06-05") == [*kept, *(["b"] if other.role is Role.CHAMPION else [])]
    assert not first.replaces(of_template("b", "2024-06-03", Role.CANDIDATE))
    assert not of_template("b", "2024-06-05", name="").replaces(of_template("a", "2024-06-03", name=""))


def test_a_correction_is_a_new_version(state: ServiceState) -> None:
    """What was known earlier does not change."""
    assert {day: s.version for day, s in state.signals().items()} == {"2024-06-03": 2, "2024-06-04": 1}
    assert {day: s.version for day, s in state.signals(as_of=3).items()} == {"2024-06-03": 1, "2024-06-04": 1}
    assert {day: s.version for day, s in state.signals(as_of=250.0).items()} == {"2024-06-03": 1}
    assert [s.why for s in state.versions("2024-06-03")] == ["", "late bars"]
    assert state.versions("2024-06-05") == ()
    for count in range(len(EXAMPLE)):
        earlier = ServiceState.of(state.entries[:count])
        assert state.signals(as_of=count) == earlier.signals() == state.signals(as_of=100.0 * count)


def test_days_and_their_history(state: ServiceState) -> None:
    """The latest result of each day, and all entries about one day."""
    assert [(d, r.state, r.data) for d, r in state.days.items()] == [
        ("2024-06-03", "published", "f01"), ("2024-06-04", "published", "f00"), ("2024-06-05", "failed", ""),
    ]  # fmt: skip
    assert state.last_published == "2024-06-04"
    assert state.due(["2024-06-05", "2024-06-04", "2024-06-06", "2024-06-03"]) == ["2024-06-05", "2024-06-06"]
    changed = DayResult("2024-06-04", DayState.FAILED, error="no prices")
    entry = Entry("us", state.last + 1, EntryKind.DAY, day_body(changed), 1, 0.0)
    assert state.after(entry).due(DAYS[:2]) == []  # its signals are published
    assert (changed.seconds, state.after(entry).last_published) == (0.0, "2024-06-03")
    assert [e.number for e in state.history("2024-06-03")] == [2, 5]
    assert [e.number for e in state.history("2024-06-05")] == [6, 7]
    assert state.history("2024-06-10") == ()


def test_the_definition_and_the_events(state: ServiceState) -> None:
    """The latest definition counts; numbers that JSON lacks are stored as text in events."""
    assert state.definition is not None
    assert (state.definition.workflow, state.definition.policy) == ({"new": 1}, {"days": 20})
    assert [(e.number, event.text, event.data) for e, event in state.events] == [
        (3, "few rows", {"share": 0.4}), (8, "note", {"psi": "nan"}),
    ]  # fmt: skip
    assert ServiceState.of([]).definition is None
    assert (ServiceState().last, ServiceState().last_published) == (0, None)


def test_one_more_entry(state: ServiceState) -> None:
    """The state after it equals the one of all entries; an entry that does not follow is refused."""
    before = ServiceState.of(state.entries[:-1])
    assert before.after(state.entries[-1]) == state
    with pytest.raises(ConfigError, match="does not follow"):
        state.after(state.entries[-1])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([2], "Expected entry 1 of the service 'us', found entry 2"),
        ([1, 3], "Expected entry 2 of the service 'us', found entry 3"),
        ([1, 1], "Expected entry 2 of the service 'us', found entry 1"),
        ([2, 1], "Expected entry 1 of the service 'us', found entry 2"),
    ],
)
def test_all_entries_are_needed(numbers: list[int], message: str) -> None:
    """From the first one on, without gaps."""
    body = service_body("us", "")
    with pytest.raises(ConfigError, match=f"{message} of the service 'us': .* in order"):
        ServiceState.of([Entry("us", n, EntryKind.SERVICE, body, 1, 0.0) for n in numbers])
    mixed = [Entry(name, n, EntryKind.SERVICE, body, 1, 0.0) for n, name in enumerate(["us", "eu"], 1)]
    with pytest.raises(ConfigError, match="Expected entry 2 of the service 'us', found entry 2 of the service 'eu'"):
        ServiceState.of(mixed)


def test_the_first_unknown_entry_is_named() -> None:
    """The first unknown entry is named even if there are several."""
    known = ServiceState.of(entries_of(("audit", {}), ("service", service_body("us", "")), ("review", {})))
    assert [entry.kind for entry in known.unknown] == ["audit", "review"]
    with pytest.raises(StoreUnavailable, match="Entry 1 of the service 'us' has the kind 'audit'"):
        known.require_known()


def test_the_largest_body_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of exactly the largest size in UTF-8 can be stored, but not one with a byte more."""
    assert body_text({"reason": "é"}) == '{"reason":"é"}'
    monkeypatch.setattr("rollforge.ledger.entry.MAX_BODY_BYTES", 20)
    assert len(body_text({"reason": "x" * 7}).encode()) == 20
    with pytest.raises(ConfigError, match="has 21 bytes, more than the 20"):
        body_text({"reason": "x" * 8})


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_the_deepest_body_can_be_stored(wrap: Any) -> None:
    """A value below 50 mappings or lists, but not one below 51."""
    value: object = 1
    for _ in range(49):
        value = wrap(value)
    assert json.loads(body_text({"value": value})) == {"value": value}
    with pytest.raises(ConfigError, match="more than 50 levels of nesting"):
        body_text({"value": wrap(value)})


@pytest.mark.parametrize("rows", [True, "3", 1.5, -1, None])
def test_a_number_of_rows_is_a_whole_number(rows: object) -> None:
    """A number of rows must be 0 or more."""
    document = signal("2024-06-03").to_document()
    assert Signal.of_document({**document, "rows": 0}).rows == 0
    with pytest.raises(ConfigError, match=r"signal\.rows: must be a whole number of 0 or more, found"):
        Signal.of_document({**document, "rows": rows})


@pytest.mark.parametrize("recorders", ["r1", ["r1", 2], {"r1": 1}, None])
def test_the_recorders_of_a_signal_are_a_list_of_texts(recorders: object) -> None:
    """A text is not taken for a list of its characters."""
    with pytest.raises(ConfigError, match=r"signal\.recorders: must be a list of strings, found"):
        Signal.of_document({**signal("2024-06-03").to_document(), "recorders": recorders})


@pytest.mark.parametrize("error", [OSError, KeyError, ImportError])
def test_the_author_is_the_user_and_the_process(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """The process alone if the user has no name; the error depends on the version of Python."""
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert author() == f"ann@{process_name()}"

    def fail() -> str:
        raise error("no entry for the user")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert author() == process_name()


@pytest.mark.parametrize("value", ["text", 3, {"a": 1}])
def test_a_part_that_is_not_a_list_is_refused(value: object) -> None:
    """A text is not taken for a list of its characters."""
    with pytest.raises(ConfigError, match=r"releases: expected a list, found "):
        read_body("promotion", {"reason": "better", "releases": value})


def test_a_damaged_entry_is_named() -> None:
    """The message has the field that is wrong."""
    body: dict[str, Any] = {"day": {"day": "2024-06-03", "state": "published", "seconds": "long"}}
    with pytest.raises(ConfigError, match=r"Entry 1 .* day\.seconds: must be a number, found 'long'"):
        ServiceState.of([Entry("us", 1, EntryKind.DAY, body, 1, 0.0)])


def test_checks_of_a_day(state: ServiceState) -> None:
    """The latest result of each check counts, and a check of an earlier day is part of that day's history."""
    early = CheckResult("ic", "2024-06-03", 0.25, Outcome.OK)
    later = CheckResult("ic", "2024-06-03", -0.5, Outcome.WARN, 0.0, "negative", {"low": -0.75})
    other = CheckResult("stale", "2024-06-06", 1.0, Outcome.FAIL, 0.5)
    known = ServiceState.of(
        entries_of(
            *EXAMPLE,
            ("day", published("2024-06-06", checks=[early, other])),
            ("day", published("2024-06-07", checks=[later])),
        )
    )
    assert known.checked("2024-06-03") == {"ic": later}
    assert known.checked("2024-06-03", as_of=state.last + 1) == {"ic": early}
    assert known.checked("2024-06-06") == {"stale": other}
    assert (known.checked("2024-06-04"), state.checks) == ({}, ())
    made = [known.checks_made_on(day) for day in ("2024-06-06", "2024-06-07", "2024-06-03", "2024-06-10")]
    assert made == [(early, other), (later,), (), ()]
    same = Entry("us", known.last + 1, EntryKind.DAY, day_body(DayResult("2024-06-06", DayState.PUBLISHED)), 1, 900.0)
    again = dataclasses.replace(same, number=same.number + 1, body=published("2024-06-06", checks=[later]))
    corrected = known.after(same)
    assert corrected.checks_made_on("2024-06-06") == (early, other), (
        "a correction that changes no signals hides nothing"
    )
    assert corrected.after(again).checks_made_on("2024-06-06") == (later, other)
    # The results of a correction of several days are in the entry of one of them.
    another_day = dataclasses.replace(same, body=day_body(DayResult("2024-06-07", DayState.PUBLISHED), checks=[later]))
    assert known.after(another_day).checks_made_on("2024-06-06") == (later, other)
    numbers = [known.replaced_in(one, number) for one, number in ((early, known.last - 1), (later, known.last))]
    assert numbers == [known.last, None]
    assert [e.number for e in known.history("2024-06-03")][-2:] == [state.last + 1, state.last + 2]


def test_candidates_and_their_comparisons() -> None:
    """The latest comparison of each candidate, and the stored predictions in the order of the days."""
    early, later, other = (
        Comparison(candidate, "a", "ic", days, 0.1, 0.2, Verdict.SHADOW)
        for candidate, days in (("b", 3), ("b", 4), ("c", 4))
    )
    shadows = [Shadow(day, ("a", "b"), f"shadow/{day}.parquet", "ab", 2) for day in ("2024-06-04", "2024-06-03")]
    known = ServiceState.of(
        entries_of(
            ("day", published("2024-06-04", comparisons=[early, other], shadows=shadows[:1])),
            ("day", published("2024-06-05", comparisons=[later], shadows=shadows[1:])),
        )
    )
    assert known.compared == {"b": later, "c": other}
    assert [(entry.number, one.days) for entry, one in known.comparisons] == [(1, 3), (1, 4), (2, 4)]
    assert list(known.shadows.values()) == shadows[::-1]


@pytest.mark.parametrize("part", [{"value": "nan"}, {"value": True}, {"outcome": "bad"}, {"limit": "0"}, {"day": "x"}])
def test_an_invalid_check_is_refused(part: dict[str, Any]) -> None:
    """The error contains the location in the entry."""
    document = {**CheckResult("ic", "2024-06-03", 0.25, Outcome.OK, 0.5).to_document(), **part}
    with pytest.raises(ConfigError, match=rf"checks\[0\]\.{next(iter(part))}"):
        entries_of(("day", {**published("2024-06-03"), "checks": [document]}))


# -- views -------------------------------------------------------------------------------------------------------------

ROLES = st.sampled_from(list(Role))
RELEASE = st.builds(release, st.sampled_from("abc"), ROLES, st.sampled_from(DAYS))
RELEASES = st.lists(RELEASE, max_size=3)
DECISIONS = st.one_of(
    st.builds(
        lambda day, state, releases, n: ("day", day_body(
            DayResult(day, state, f"f{n}", n / 4, "é\x00'"[:n], fallback="old model"[:n]), releases=releases,
            signals=[signal(day, n)] if n else [], events=[Event(Level.INFO, "x", {"n": n})] * n,
            checks=[CheckResult("stale", day, n / 8, Outcome.WARN, n / 4 if n > 1 else None, "é'", {"n": n})] * n,
            shadows=[Shadow(day, ("a", "é'"), f"shadow/{day}.parquet", "ab", n)] * n,
            comparisons=[Comparison("a", "b", "ic", n, n / 8, -n / 4, Verdict.LOST)] * n,
        )),
        st.sampled_from(DAYS), st.sampled_from(list(DayState)), RELEASES, st.integers(0, 3),
    ),
    st.builds(lambda r: ("rollback", release_body([r], "why")), RELEASE),
    st.builds(lambda day, n: ("correction", correction_body([signal(day, n)], "late")), st.sampled_from(DAYS), st.integers(1, 3)),
    st.just(("audit", {"releases": [{"recorder": "z"}], "signals": 3, "day": {"day": "2024-06-03"}})),
    st.builds(lambda n: ("service", service_body("us", {"n": n})), st.integers(0, 9)),
)  # fmt: skip
ONLINE = """
SELECT recorder, role FROM {0}release AS r WHERE service = 'us' AND from_day <= '{1}' AND role <> 'retired' AND NOT EXISTS (
    SELECT 1 FROM {0}release AS later WHERE later.service = r.service AND later.experiment_name = r.experiment_name
    AND later.recorder = r.recorder AND later.from_day <= '{1}'
    AND (later.entry > r.entry OR (later.entry = r.entry AND later.place > r.place)))
ORDER BY role DESC, entry, place
"""


def check_views(ledger: Ledger, query: Any, decisions: list[Any], schema: str = "") -> None:
    """Compare the answers of the views with those of the state."""
    lease = ledger.acquire("us", holder="me", seconds=60)
    for number, (kind, body) in enumerate(decisions, 1):
        ledger.append(lease, number, kind, body)
    state = ServiceState.of(ledger.entries("us"))
    where = "WHERE service = 'us'"
    for day in DAYS:
        models = [
            (r.recorder, role.value)
            for role in (Role.CANDIDATE, Role.CHAMPION)
            for r in state.online(day).get(role, ())
        ]
        assert sorted(query(ONLINE.format(schema, day))) == sorted(models)
    days = [(d, r.state.value, r.data, r.seconds, r.error, r.fallback, list(r.trained)) for d, r in state.days.items()]
    rows = query(f"SELECT day, state, data, seconds, error, fallback, trained FROM {schema}day {where} ORDER BY day")
    assert [(*row[:-1], json.loads(row[-1])) for row in rows] == days
    signals = [(e.number, s.day, s.version, s.file, s.sha256, s.rows, s.why) for e, s in state.published]
    assert (
        query(f"SELECT entry, day, version, file, sha256, rows, why FROM {schema}signal {where} ORDER BY entry")
        == signals
    )
    rows = query(f"SELECT entry, level, text, data FROM {schema}event {where} ORDER BY entry, place")
    assert [(*row[:-1], json.loads(row[-1])) for row in rows] == [
        (e.number, v.level.value, v.text, v.data) for e, v in state.events
    ]
    columns = 'entry, name, day, value, outcome, "limit", text, data'
    rows = query(f"SELECT {columns} FROM {schema}check_result {where} ORDER BY entry, place")
    assert [(*row[:-1], json.loads(row[-1])) for row in rows] == [
        (e.number, c.name, c.day, c.value, c.outcome.value, c.limit, c.text, c.data) for e, c in state.checks
    ]
    rows = query(f"SELECT entry, day, file, sha256, rows, recorders FROM {schema}shadow {where} ORDER BY entry")
    assert {(*row[:-1], *json.loads(row[-1])) for row in rows} == {
        (e.number, s.day, s.file, s.sha256, s.rows, *s.recorders)
        for e, c in zip(state.entries, state.contents, strict=True)
        for s in c.shadows
    }
    columns = "entry, day, candidate, champion, metric, days, candidate_mean, champion_mean, verdict"
    assert query(f"SELECT {columns} FROM {schema}comparison {where} ORDER BY entry, place") == [
        (e.number, e.body["day"]["day"], c.candidate, c.champion, c.metric, c.days, c.candidate_mean, c.champion_mean,
         c.verdict.value)
        for e, c in state.comparisons
    ]  # fmt: skip
    rows = query(f"SELECT name, workflow FROM {schema}service WHERE name = 'us'")
    assert [json.loads(w) for _, w in rows] == ([state.definition.workflow] if state.definition else [])
    ledger.release(lease)


CHEAP = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@CHEAP
@given(decisions=st.lists(DECISIONS, max_size=8))
def test_sqlite_views_equal_the_state(tmp_path_factory: pytest.TempPathFactory, decisions: list[Any]) -> None:
    """For any entries, also of unknown kinds; the query for the models online on a day is that of docs/ledger.md."""
    file = tmp_path_factory.mktemp("views") / "ledger.db"
    ledger = SQLiteLedger(f"sqlite:///{file}?synchronous=OFF")
    with closing(sqlite3.connect(file)) as raw:
        check_views(ledger, lambda text: raw.execute(text).fetchall(), decisions)
    ledger.close()


def test_postgres_views_equal_the_state(postgres: PostgresServer) -> None:
    """For any entries, also of unknown kinds."""
    numbers = iter(range(1000))
    with psycopg.connect(postgres.uri, autocommit=True) as raw:

        @CHEAP
        @given(decisions=st.lists(DECISIONS, max_size=8))
        def check(decisions: list[Any]) -> None:
            schema = f"views{next(numbers)}"
            ledger = PostgresLedger(f"{postgres.uri}?schema={schema}")
            check_views(ledger, lambda text: raw.execute(text.encode()).fetchall(), decisions, f"{schema}.")
            ledger.close()

        check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_check_without_a_finite_value_is_stored_without_one(value: float) -> None:
    """JSON has no such numbers."""
    check = CheckResult("ic", "2024-06-03", value, Outcome.UNKNOWN)
    assert check.value is None
    assert CheckResult.of_document(json.loads(json.dumps(check.to_document()))) == check


def test_a_correction_does_not_hide_the_checks_of_the_day(state: ServiceState) -> None:
    """Results that it adds about the day are found by their name."""
    day = DayResult("2024-06-10", DayState.PUBLISHED)
    made = CheckResult("stale", day.day, 0.0, Outcome.OK)
    again = CheckResult("daily_ic", day.day, 0.5, Outcome.OK)
    bodies = [
        (EntryKind.DAY, day_body(day, checks=[made])),
        (EntryKind.CORRECTION, correction_body([signal(day.day, 2)], "late", day=day, checks=[again])),
    ]
    known = ServiceState.of(entries_of(*bodies))
    assert known.checks_made_on(day.day) == (made,)
    assert known.checked(day.day) == {"stale": made, "daily_ic": again}


def test_a_clock_that_was_set_back_does_not_change_the_past() -> None:
    """Later entries have the time of the one before; a state as of this time does not include them."""
    now = [1000.0]
    ledger = MemoryLedger(clock=lambda: now[0])
    lease = ledger.acquire("us", holder="me", seconds=60)
    for number, version in ((1, 1), (2, 2), (3, 3)):
        body = correction_body([signal("2024-06-03", version)], "why")
        at = ledger.append(lease, number, "correction", body).made_at
        now[0] -= 1
        state = ServiceState.of(ledger.entries("us"))
        assert at == 1000.0
        assert [s.version for s in state.signals(as_of=1000.0).values()] == [1]
        assert [s.version for s in state.signals(as_of=1000.5).values()] == [version]
    assert state.signals(as_of=999.5) == ServiceState().signals(as_of=1000.0) == {}
