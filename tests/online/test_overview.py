"""The documents and metrics that programs read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from growing import Market, prices
from rollforge.errors import ConfigError, StoreGone
from rollforge.ledger.base import Ledger, ServiceLease, open_ledger
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
    Signal,
    Verdict,
    correction_body,
    day_body,
    event_body,
    release_body,
    service_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.machine import process_name
from rollforge.online import signal_files
from rollforge.online.overview import (
    Reader,
    day_warnings,
    described,
    entry_document,
    health,
    metrics,
    no_signals,
    read_as_of,
    status,
    utc,
)

ONE, TWO, THREE = "2024-06-03", "2024-06-04", "2024-06-05"
PLANNED = "2024-06-10"
MIDNIGHT = 1717113600.0
"""2024-05-31 in UTC."""
EARLIER = "the training failed: no memory"


def release(recorder: str, role: Role, day: str) -> Release:
    return Release("9f8a", "exp", recorder, role, day, "ann", "new window", "exp")


def signal(day: str, version: int = 1, rows: int = 2) -> Signal:
    return Signal(day, version, ("r1",), f"signals/{day}.v{version}.parquet", "ab12", rows)


CHECKS = (CheckResult("psi", TWO, 0.5, Outcome.WARN, 0.25), CheckResult("ic", ONE, -1e-07, Outcome.OK))
REPEATED = CheckResult("psi", THREE, 0.75, Outcome.FAIL, 0.25)
COMPARED = Comparison("r2", "r1", "rank_ic", 1, 0.0312, 0.03, Verdict.SHADOW)
BODIES: list[tuple[str, Any]] = [
    ("service", service_body("us", "the text", {"shadow_days": 5})),
    ("day", day_body(
        DayResult(ONE, DayState.PUBLISHED), releases=[release("r1", Role.CHAMPION, ONE)], signals=[signal(ONE, rows=3)],
        comparisons=[replace(COMPARED, candidate="r0", verdict=Verdict.LOST)],
    )),
    ("day", day_body(
        DayResult(TWO, DayState.PUBLISHED, seconds=2.5, fallback=EARLIER), signals=[signal(TWO)], checks=CHECKS,
        releases=[release("r2", Role.CANDIDATE, TWO)], comparisons=[COMPARED],
        events=[Event(Level.WARNING, EARLIER), Event(Level.WARNING, "A has no price"), Event(Level.INFO, "trained")],
    )),
    ("promotion", release_body([release("r2", Role.CHAMPION, PLANNED), release("r1", Role.RETIRED, PLANNED)], "better")),
    ("day", day_body(DayResult(THREE, DayState.FAILED, error="no prices"), events=[Event(Level.ERROR, "a first attempt")])),
    ("day", day_body(
        DayResult(THREE, DayState.FAILED, error="no prices"), checks=[REPEATED], events=[Event(Level.ERROR, "no prices")],
    )),
]  # fmt: skip


def state_of(bodies: list[tuple[str, Any]]) -> ServiceState:
    """Return the state after entries that were made every ten seconds from midnight on."""
    return ServiceState.of(
        Entry("us", n, EntryKind(kind), body, 1, MIDNIGHT + 10 * n, "ann") for n, (kind, body) in enumerate(bodies, 1)
    )


def filled(uri: str, bodies: list[tuple[str, Any]], service: str = "us") -> Ledger:
    ledger = open_ledger(uri)
    lease = ledger.acquire(service, holder="test", seconds=60)
    for number, (kind, body) in enumerate(bodies, 1):
        ledger.append(lease, number, kind, body, by="ann")
    ledger.release(lease)
    return ledger


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    """The URI of a ledger in a file, which is closed afterwards."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    yield uri
    open_ledger(uri).close()


# -- documents ---------------------------------------------------------------------------------------------------------


def test_the_status_of_a_service() -> None:
    """What was published last, what the last attempt at a day found, and the models of the next day and later ones."""
    state = state_of(BODIES)
    unknown = Entry("us", 7, "ballot", {"votes": 3}, 1, MIDNIGHT + 70)
    found = status("us", state.after(unknown), ServiceLease("us", f"{process_name()}#3", 4, MIDNIGHT + 90))
    assert found == {
        "service": "us",
        "entries": 7,
        "last_published": TWO,
        "signal": signal(TWO).to_document(),
        "failed": [THREE],
        "fallback": EARLIER,
        "checks": [REPEATED.to_document()],
        "warnings": ["no prices"],
        "champions": [release("r1", Role.CHAMPION, ONE).to_document()],
        "candidates": [release("r2", Role.CANDIDATE, TWO).to_document()],
        "planned": {PLANNED: ["r2"]},
        "comparisons": [COMPARED.to_document()],
        "policy": {"shadow_days": 5},
        "running": {"holder": f"{process_name()}#3", "until": "2024-05-31 00:01:30", "ended": False},
        "unknown_entries": [7],
    }


def test_the_status_of_a_service_without_entries() -> None:
    """Everything is empty, and nothing is running."""
    found = status("us", ServiceState(), None)
    assert {key: value for key, value in found.items() if value} == {"service": "us"}
    assert (found["last_published"], found["signal"], found["running"]) == (None, None, None)


def test_a_process_that_has_ended_is_shown_as_such() -> None:
    """A process with the number of this one was started at another time."""
    holder = re.sub(r"-\d+$", "-1", process_name()) + "#3"
    shown = status("us", ServiceState(), ServiceLease("us", holder, 4, MIDNIGHT))["running"]
    assert shown == {"holder": holder, "until": "2024-05-31 00:00:00", "ended": True}


def test_only_days_on_which_the_champions_change_are_planned() -> None:
    """Neither that of a candidate nor that of a champion which is already one."""
    later = [release("r3", Role.CANDIDATE, "2024-06-07"), release("r2", Role.CHAMPION, "2024-06-11")]
    back = [release("r1", Role.CHAMPION, "2024-06-12"), release("r2", Role.RETIRED, "2024-06-12")]
    made = ("promotion", release_body([*later, *back], "set manually"))
    assert status("us", state_of([*BODIES, made]), None)["planned"] == {PLANNED: ["r2"], "2024-06-12": ["r1"]}


def test_warnings_of_a_day_are_those_of_its_last_attempt() -> None:
    """Neither information nor the use of earlier models, which is shown on its own, is among them."""
    state = state_of(BODIES)
    assert [day_warnings(state, day) for day in (ONE, TWO, THREE, None)] == [[], ["A has no price"], ["no prices"], []]


def test_a_withdrawn_day_is_not_the_last_one() -> None:
    """The checks, the signals and the metrics of the status are those of the day before it."""
    gone = ("correction", correction_body([signal(TWO, 2, rows=0)], "no longer a trading day"))
    found = status("us", state_of([*BODIES[:4], gone]), None)
    assert (found["last_published"], found["fallback"], found["checks"]) == (ONE, "", [])
    assert found["signal"] == signal(ONE, rows=3).to_document()
    assert status("us", state_of(BODIES[:4]), None)["checks"] == [check.to_document() for check in CHECKS]


def test_texts_about_a_service() -> None:
    """Comparisons with their figures, days without signals, times and entries."""
    assert described(COMPARED) == "rank IC 0.0312 against 0.0300 over 1 day"
    other = replace(COMPARED, metric="ic", days=20)
    assert described(other, 0.005) == "IC 0.0312 against 0.0300 over 20 days, 0.005 less is allowed"
    assert described(replace(COMPARED, metric="own"), 1.0).startswith("own 0.0312 ")
    state = state_of(BODIES)
    assert no_signals(state, THREE) == f"There are no signals of {THREE}. The last day with signals is {TWO}."
    assert no_signals(ServiceState(), ONE) == f"There are no signals of {ONE}. No day has been published yet."
    assert utc(MIDNIGHT + 61.75) == "2024-05-31 00:01:01"
    assert entry_document(state.entries[3]) == {
        "number": 4, "kind": "promotion", "made_at": "2024-05-31 00:00:40", "by": "ann", "body": BODIES[3][1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (6, 6),
        (np.int64(3), 3),
        ("0", 0),
        ("6", 6),
        (3.0, 3.0),
        (-1.5, -1.5),
        (np.float64(3), 3.0),
        ("2024-05-31", MIDNIGHT),
        ("20240531", MIDNIGHT),
        ("2024-05-31T18:00:00Z", MIDNIGHT + 64800),
        ("2024-05-31 18:00:30", MIDNIGHT + 64830),
        ("2024-05-31T18:00:00+02:00", MIDNIGHT + 57600),
        ("2024-05-31T18:00:00-01:30", MIDNIGHT + 70200),
    ],
)
def test_a_state_is_that_as_of_an_entry_or_a_time(value: object, expected: float) -> None:
    """Integers are entries, and floats are seconds; texts are either, and times in UTC unless they have an offset."""
    found = read_as_of(value, state_of(BODIES))
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value", [7, -1, True, "7", "-1", "²", "", "soon", None, b"1", float("nan"), "2099-01-01", 1e11]
)
def test_a_state_of_the_future_is_refused(value: object) -> None:
    """So is anything that is neither an entry nor a time."""
    with pytest.raises(ConfigError, match="must be the number of an entry, at most 6, or a time in the past such as"):
        read_as_of(value, state_of(BODIES))


def test_the_clock_of_the_ledger_may_be_ahead() -> None:
    """The present of the ledger is that of its last entry at least, and a minute more."""
    state, later = state_of(BODIES), 4e9  # in 2096
    ahead = ServiceState((*state.entries[:5], replace(state.entries[5], made_at=later)), state.contents)
    assert read_as_of(later + 60, ahead) == later + 60
    with pytest.raises(ConfigError, match="a time in the past"):
        read_as_of(later + 60.5, ahead)


# -- reading a ledger --------------------------------------------------------------------------------------------------


def test_entries_that_were_read_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request asks for the entries from the last known one on; a service without entries is unknown."""
    ledger = filled("memory://overview", BODIES[:3])
    read, asked = ledger.entries, []

    def entries(service: str, **given: Any) -> list[Entry]:
        asked.append(given)
        return read(service, **given)

    monkeypatch.setattr(ledger, "entries", entries)
    with closing(Reader("memory://overview")) as reader:
        assert (reader.services(), reader.state("eu")) == (["us"], None)
        asked.clear()
        for expected in (3, 3):
            state = reader.state("us")
            assert state is not None
            assert state.last == expected
        assert asked == [{}, {"after": 2}]
        lease = ledger.acquire("us", holder="test", seconds=60)
        for number, (kind, body) in enumerate(BODIES[3:], 4):
            ledger.append(lease, number, kind, body)
        asked.clear()
        assert [entry.number for entry in reader.state("us").entries] == [1, 2, 3, 4, 5, 6]  # type: ignore[union-attr]
        assert asked == [{"after": 2}]
        assert reader.held_by("us") == lease


def test_a_ledger_that_was_restored_from_a_backup_is_read_anew(uri: str, tmp_path: Path) -> None:
    """Other entries with the same numbers replace those that were read; so do fewer of them."""
    filled(uri, BODIES).close()
    for name, bodies in {
        "less": BODIES[:2],
        "other": [*BODIES[:2], ("event", event_body([Event(Level.INFO, "a")]))],
    }.items():
        filled(f"sqlite:///{tmp_path}/{name}.db", bodies).close()
    with closing(Reader(uri)) as reader:
        assert reader.state("us").last == 6  # type: ignore[union-attr]
        for name, kinds in {"less": ["service", "day"], "other": ["service", "day", "event"]}.items():
            Path(f"{tmp_path}/{name}.db").replace(tmp_path / "ledger.db")
            with pytest.raises(StoreGone):
                _ = reader.services() if name == "less" else reader.state("us")
            assert [entry.kind for entry in reader.state("us").entries] == kinds  # type: ignore[union-attr]


def test_a_closed_reader_has_no_file_open(uri: str, tmp_path: Path) -> None:
    """The next call opens it again."""
    filled(uri, BODIES).close()

    def is_open() -> bool:
        return str(tmp_path / "ledger.db") in {file.path for file in psutil.Process().open_files()}

    reader = Reader(uri)
    for _ in range(2):
        assert (reader.services(), is_open()) == (["us"], True)
        reader.close()
        assert not is_open()


# -- health and metrics ------------------------------------------------------------------------------------------------


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A data folder up to the third day."""
    made = Market(tmp_path / "data", prices())
    made.show(THREE)
    return made


def bodies_of(market: Market, folder: Path, begin: str = ONE) -> list[tuple[str, Any]]:
    """Return entries of a service with a data folder and the file of the latest signals."""
    index = pd.MultiIndex.from_product([[pd.Timestamp(TWO)], ["A", "B"]], names=["datetime", "instrument"])
    file, mark = signal_files.write(folder, f"{TWO}.v1", pd.Series([0.5, -0.25], index, name="score"))
    workflow = {"path": "job.yaml", "begin": begin, "folder": str(folder), "data": str(market.folder)}
    body = {**BODIES[2][1], "signals": [replace(signal(TWO), file=file, sha256=mark).to_document()]}
    return [("service", service_body("us", workflow)), BODIES[1], ("day", body), *BODIES[3:]]


def test_the_health_of_services(uri: str, tmp_path: Path, market: Market) -> None:
    """Each problem has a text; days that are due are none, and nor is a service without data."""
    bodies = bodies_of(market, tmp_path / "files", begin="2024-05-31")
    ledger = filled(uri, bodies)
    for name, workflow in (
        ("new", "the text"),
        ("undated", {"data": str(market.folder)}),
        ("without data", {"begin": ONE}),
    ):
        filled(uri, [("service", service_body(name, workflow))], name)
    new = {"last_published": None, "due": None, "fallback": "", "running": None, "problems": []}
    us = {"last_published": TWO, "due": ["2024-05-31", THREE], "fallback": EARLIER, "running": None}
    file = tmp_path / "files/signals" / f"{TWO}.v1.parquet"
    with closing(Reader(uri)) as reader:
        failed = f"{THREE} failed: no prices"
        services = {"new": new, "undated": new, "without data": new, "us": {**us, "problems": [failed]}}
        assert health(reader) == (False, {"healthy": False, "services": services})
        lease = ledger.acquire("us", holder="host:7", seconds=60)
        ledger.append(lease, 7, "day", day_body(DayResult(THREE, DayState.PUBLISHED), signals=[signal(THREE, rows=0)]))
        running = {"holder": "host:7", "until": utc(lease.until), "ended": False}
        services = {
            "new": new,
            "undated": new,
            "without data": new,
            "us": {**us, "due": ["2024-05-31"], "running": running, "problems": []},
        }
        assert health(reader) == (True, {"healthy": True, "services": services})
        file.rename(tmp_path / "kept")
        (market.folder / "calendars/day.txt").unlink()
        healthy, found = health(reader)
        unread, gone = found["services"]["us"]["problems"]
        assert (healthy, found["healthy"], found["services"]["us"]["due"]) == (False, False, None)
        assert ("calendars/day.txt" in unread, gone) == (
            True, f"The signals of {TWO} cannot be read: {file}: No such file or directory.",
        )  # fmt: skip
        assert found["services"]["new"] == new


METRICS = f"""\
# HELP rollforge_last_published_day_timestamp_seconds Midnight UTC of the last published day.
# TYPE rollforge_last_published_day_timestamp_seconds gauge
rollforge_last_published_day_timestamp_seconds{{service="us"}} {int(MIDNIGHT) + 4 * 86400}
# HELP rollforge_entries Number of entries in the ledger.
# TYPE rollforge_entries gauge
rollforge_entries{{service="a \\"b\\""}} 1
rollforge_entries{{service="us"}} 6
# HELP rollforge_days_due Trading days with data that are not published.
# TYPE rollforge_days_due gauge
rollforge_days_due{{service="us"}} 1
# HELP rollforge_days_failed Days whose latest result is a failure.
# TYPE rollforge_days_failed gauge
rollforge_days_failed{{service="a \\"b\\""}} 0
rollforge_days_failed{{service="us"}} 1
# HELP rollforge_champions Models whose predictions are published on the next day.
# TYPE rollforge_champions gauge
rollforge_champions{{service="a \\"b\\""}} 0
rollforge_champions{{service="us"}} 1
# HELP rollforge_candidates Models that are compared with the champions on the next day.
# TYPE rollforge_candidates gauge
rollforge_candidates{{service="a \\"b\\""}} 0
rollforge_candidates{{service="us"}} 1
# HELP rollforge_signal_rows Rows of the latest signals.
# TYPE rollforge_signal_rows gauge
rollforge_signal_rows{{service="us"}} 2
# HELP rollforge_day_duration_seconds Duration of the routine of the last published day.
# TYPE rollforge_day_duration_seconds gauge
rollforge_day_duration_seconds{{service="us"}} 2.5
# HELP rollforge_fallback Whether the last published day uses earlier models, because training failed.
# TYPE rollforge_fallback gauge
rollforge_fallback{{service="us"}} 1
# HELP rollforge_check_value Results of the checks of the last published day.
# TYPE rollforge_check_value gauge
rollforge_check_value{{service="us",check="psi"}} 0.5
# HELP rollforge_check_exceeded Whether a check of the last published day exceeds its limit.
# TYPE rollforge_check_exceeded gauge
rollforge_check_exceeded{{service="us",check="psi"}} 1
# HELP rollforge_running Whether a process holds the lease of the service.
# TYPE rollforge_running gauge
rollforge_running{{service="a \\"b\\""}} 1
rollforge_running{{service="us"}} 0
# HELP rollforge_events Events in the ledger by level.
# TYPE rollforge_events gauge
rollforge_events{{service="a \\"b\\"",level="info"}} 0
rollforge_events{{service="a \\"b\\"",level="warning"}} 0
rollforge_events{{service="a \\"b\\"",level="error"}} 0
rollforge_events{{service="us",level="info"}} 1
rollforge_events{{service="us",level="warning"}} 2
rollforge_events{{service="us",level="error"}} 2
"""


def test_the_metrics_of_services(uri: str, tmp_path: Path, market: Market) -> None:
    """A sample for each value that a service has; those of a day only if one was published."""
    ledger = filled(uri, bodies_of(market, tmp_path / "files"))
    filled(uri, [("service", service_body("x", "the text"))], 'a "b"')
    ledger.acquire('a "b"', holder="host:7", seconds=60)
    with closing(Reader(uri)) as reader:
        assert metrics(reader) == METRICS
        (market.folder / "calendars/day.txt").unlink()
        without_due = "".join(line for line in METRICS.splitlines(keepends=True) if "_days_due" not in line)
        assert metrics(reader) == without_due


def test_checks_in_metrics(uri: str) -> None:
    """Values that could not be computed have no sample, and only exceeded limits are reported as such."""
    checks = [
        CheckResult("bad", ONE, 2.0, Outcome.FAIL, 1.0),
        CheckResult("fine", ONE, 0, Outcome.OK, 1.0),
        CheckResult("unknown", ONE, float("inf"), Outcome.UNKNOWN),
    ]
    day = day_body(DayResult(ONE, DayState.PUBLISHED), checks=checks)
    filled(uri, [("service", service_body("us", "the text")), ("day", day)])
    with closing(Reader(uri)) as reader:
        found = [line for line in metrics(reader).splitlines() if "_check_" in line or "_rows{" in line]
    assert [line.removeprefix("rollforge_") for line in found if not line.startswith("#")] == [
        'signal_rows{service="us"} 0',
        'check_value{service="us",check="bad"} 2.0',
        'check_value{service="us",check="fine"} 0.0',
        'check_exceeded{service="us",check="bad"} 1',
        'check_exceeded{service="us",check="fine"} 0',
        'check_exceeded{service="us",check="unknown"} 0',
    ]
