"""``rollforge serve``: the contents of a service's ledger, and changing its models manually."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.cli.exit_codes import Exit, exit_code
from rollforge.errors import LedgerConflict, ServiceBusy
from rollforge.ledger.base import Ledger, open_ledger
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    Event,
    Level,
    Release,
    Role,
    Signal,
    correction_body,
    day_body,
    service_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.testing.postgres import PostgresServer
from rollforge.track.frame import to_arrow, write_table

from ..documents.command_line import call

FIRST, SECOND = "2024-06-03", "2024-06-04"


def release(recorder: str, role: Role, day: str) -> Release:
    return Release("t" * 64, "exp", recorder, role, day, "ann", "new window", "exp")


def published(folder: Path, day: str, version: int, scores: dict[str, float]) -> Signal:
    """Write the file of a signal."""
    index = pd.MultiIndex.from_product([[pd.Timestamp(day)], sorted(scores)], names=["datetime", "instrument"])
    file = folder / "signals" / f"{day}.v{version}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = to_arrow(pd.Series([scores[code] for code in sorted(scores)], index, name="score"))
    assert table is not None
    write_table(table, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Signal(
        day, version, ("r1",), f"signals/{file.name}", digest, len(scores), "late bars" if version > 1 else ""
    )


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tasks.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return f"{server.uri}?schema=serve_{abs(hash(str(tmp_path))) % 10**9}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "services" / "us"


def fill(uri: str, folder: Path) -> Ledger:
    """Two published days, a failed one and a correction; `r1` was replaced by `r2` on the second day."""
    ledger = open_ledger(uri)
    lease = ledger.acquire("us", holder="test", seconds=60)
    one, two = published(folder, FIRST, 1, {"A": 0.5, "B": -0.25}), published(folder, SECOND, 1, {"A": 1.0})
    change = [release("r2", Role.CHAMPION, SECOND), release("r1", Role.RETIRED, SECOND)]
    bodies: list[tuple[str, Any]] = [
        ("service", service_body("us", "the text")),
        ("day", day_body(DayResult(FIRST, DayState.PUBLISHED), releases=[release("r1", Role.CHAMPION, FIRST)], signals=[one])),
        ("day", day_body(DayResult(SECOND, DayState.PUBLISHED), releases=change, signals=[two])),
        ("correction", correction_body([published(folder, FIRST, 2, {"A": 0.75, "B": float("nan")})], "late bars")),
        ("day", day_body(DayResult("2024-06-05", DayState.FAILED, error="no prices"), events=[Event(Level.ERROR, "no prices")])),
    ]  # fmt: skip
    for number, (kind, body) in enumerate(bodies, 1):
        ledger.append(lease, number, kind, body, by="ann")
    ledger.release(lease)
    return ledger


def serve(uri: str, *arguments: object) -> Any:
    return call("serve", "--ledger", uri, *arguments)


def test_status(uri: str, folder: Path) -> None:
    """The last day, the failed ones, and the models of the next day, as text and as JSON."""
    ledger = fill(uri, folder)
    found = json.loads(serve(uri, "status", "--json").stdout)
    assert (found["service"], found["entries"], found["last_published"], found["failed"]) == (
        "us",
        5,
        SECOND,
        ["2024-06-05"],
    )
    assert [model["recorder"] for model in found["champions"]] == ["r2"]
    assert (found["running"], found["signal"]["version"], found["candidates"]) == (None, 1, [])
    lease = ledger.acquire("us", holder="host:7", seconds=60)
    text = serve(uri, "status").stdout
    assert all(part in text for part in ("us: 5 entries", SECOND, "r2", "host:7", "2024-06-05: no prices"))
    ledger.release(lease)
    ledger.close()


def test_a_holder_that_was_killed_is_shown_as_ended(tmp_path: Path, folder: Path) -> None:
    """The end of its lease is shown; neither a run nor a command that changes the service waits for that process."""
    ledger = fill(f"sqlite:///{tmp_path}/tasks.db", folder)
    held = subprocess.run(
        [sys.executable, "-c", "from rollforge.machine import process_name; print(process_name())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    lease = ledger.acquire("us", holder=f"{held}#1", seconds=60)
    assert json.loads(serve(ledger.uri, "status", "--json").stdout)["running"]["ended"] is True
    text = serve(ledger.uri, "status").stdout
    assert f"{held}#1 has ended without releasing its lease, which lasts until 20" in text
    assert serve(ledger.uri, "rollback").exit_code == 0
    assert lease.token < ledger.acquire("us", holder="me", seconds=60).token
    ledger.release(ledger.acquire("us", holder="me", seconds=60))
    assert json.loads(serve(ledger.uri, "status", "--json").stdout)["running"] is None
    ledger.close()


def test_history_and_signals(uri: str, folder: Path) -> None:
    """The entries about a day with their reasons, and the values of each version."""
    fill(uri, folder).close()
    found = json.loads(serve(uri, "history", "--day", "20240603", "--json").stdout)
    assert ([e["number"] for e in found["entries"]], [m["recorder"] for m in found["champions"]]) == ([2, 4], ["r1"])
    text = serve(uri, "history").stdout
    assert all(
        part in text for part in ("late bars", "r1 retired from 2024-06-04", "2024-06-05 failed", "error: no prices")
    )
    assert serve(uri, "signals", FIRST, "--version", 1).stdout.splitlines() == ["A\t0.5", "B\t-0.25"]
    latest = json.loads(serve(uri, "signals", FIRST, "--json").stdout)
    assert (latest["version"], latest["signals"], latest["why"]) == (2, {"A": 0.75, "B": None}, "late bars")


def test_the_service_may_be_chosen_after_the_command(tmp_path: Path, folder: Path) -> None:
    """The options of ``serve`` are accepted before and after its command, in every spelling."""
    ledger = fill(f"sqlite:///{tmp_path}/tasks.db", folder)
    ledger.close()
    expected = call("serve", "--ledger", ledger.uri, "--service", "us", "signals", FIRST)
    assert (expected.exit_code, bool(expected.stdout)) == (0, True)
    for given in (("--service", "us", "--ledger", ledger.uri), (f"--ledger={ledger.uri}", "--service=us")):
        assert call("serve", "signals", FIRST, *given).stdout == expected.stdout
    other = call("serve", "signals", "--service", "su", FIRST, "--ledger", ledger.uri)
    assert str(other.exception) == "There is no service 'su' in the ledger."
    assert "requires an argument" in call("serve", "signals", FIRST, "--service").stderr
    assert "No such option" in call("serve", "signals", "--services", "us").stderr


def test_what_is_not_there_is_said(tmp_path: Path, folder: Path) -> None:
    """A service that has published nothing, a day without entries, and a day whose signals were withdrawn."""
    ledger = open_ledger(f"sqlite:///{tmp_path}/new.db")
    lease = ledger.acquire("us", holder="test", seconds=60)
    ledger.append(lease, 1, "service", service_body("us", "the text"))
    ledger.release(lease)
    ledger.close()
    assert serve(ledger.uri, "status").stdout == "service us: 1 entry, last published never\n"
    refused = serve(ledger.uri, "signals", FIRST).exception
    assert str(refused) == f"There are no signals of {FIRST}. No day has been published yet."
    ledger = fill(f"sqlite:///{tmp_path}/tasks.db", folder)
    text = serve(ledger.uri, "history", "--day", "2024-06-09").stdout
    assert text.splitlines()[:2] == ["nothing was recorded about 2024-06-09", "models used on 2024-06-09:"]
    assert "no signals of 2024-06-09. The last day with signals is 2024-06-04." in str(
        serve(ledger.uri, "signals", "2024-06-09").exception
    )
    lease = ledger.acquire("us", holder="test", seconds=60)
    gone = Signal(SECOND, 2, ("r2",), f"signals/{SECOND}.v1.parquet", "0" * 64, 0, "no longer a trading day")
    ledger.append(lease, 6, "correction", correction_body([gone], gone.why))
    ledger.release(lease)
    result = serve(ledger.uri, "signals", SECOND)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.strip() == f"version 2 withdraws the signals of {SECOND}: no longer a trading day"
    assert serve(ledger.uri, "signals", SECOND, "--version", 1).stdout == "A\t1.0\n"
    ledger.close()


def test_promotion_and_rollback_are_one_entry_each(uri: str, folder: Path) -> None:
    """Promotions and rollbacks apply from the day after the last published one; earlier days stay unchanged."""
    ledger = fill(uri, folder)
    assert serve(uri, "rollback", "--reason", "worse").exit_code == 0
    state = ServiceState.of(ledger.entries("us"))
    last = state.entries[-1]
    assert (last.number, last.kind, state.contents[-1].reason) == (6, "rollback", "worse")
    assert [[r.recorder for r in state.champions(day)] for day in (FIRST, SECOND, "2024-06-05")] == [
        ["r1"],
        ["r2"],
        ["r1"],
    ]
    assert serve(uri, "promote", "r2", "--from", "2024-06-10").exit_code == 0
    state = ServiceState.of(ledger.entries("us"))
    assert (state.last, state.entries[-1].kind) == (7, "promotion")
    assert [[r.recorder for r in state.champions(day)] for day in ("2024-06-07", "2024-06-10")] == [["r1"], ["r2"]]
    assert "already" in serve(uri, "promote", "r2", "--from", "2024-06-10").stdout
    assert "planned champions from 2024-06-10: r2" in serve(uri, "status").stdout
    assert json.loads(serve(uri, "status", "--json").stdout)["planned"] == {"2024-06-10": ["r2"]}
    assert (len(ledger.entries("us")), ledger.held_by("us")) == (7, None)
    ledger.close()


def test_a_rollback_is_undone_after_a_day_has_used_it(tmp_path: Path, folder: Path) -> None:
    """Before that, the command is a repetition of one that was interrupted, and a promotion undoes it."""
    ledger = fill(f"sqlite:///{tmp_path}/tasks.db", folder)
    serve(ledger.uri, "rollback")
    text = serve(ledger.uri, "rollback").stdout
    assert "entry 6 is a rollback, and no day has been published since" in text
    assert "'rollforge serve promote' with r2" in text
    lease = ledger.acquire("us", holder="test", seconds=60)
    ledger.append(lease, 7, "day", day_body(DayResult("2024-06-05", DayState.PUBLISHED), signals=[
        published(folder, "2024-06-05", 1, {"A": 1.0})
    ]))  # fmt: skip
    ledger.release(lease)
    serve(ledger.uri, "rollback")
    state = ServiceState.of(ledger.entries("us"))
    assert [state.entries[-1].number, *(r.recorder for r in state.champions("2024-06-06"))] == [8, "r2"]
    ledger.close()


def test_models_of_published_days_are_not_changed(tmp_path: Path, folder: Path) -> None:
    """The ledger keeps showing the models that were used for the signals of a day."""
    ledger = fill(f"sqlite:///{tmp_path}/tasks.db", folder)
    for command in (["promote", "r1"], ["rollback"]):
        refused = serve(ledger.uri, *command, "--from", SECOND)
        assert "is not after" in str(refused.exception)
    assert len(ledger.entries("us")) == 5
    ledger.close()


def test_a_service_that_is_running_is_not_changed(tmp_path: Path, folder: Path) -> None:
    """The command ends with the code for another process that does the same work."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    ledger = fill(uri, folder)
    ledger.acquire("us", holder="host:7", seconds=60)
    result = serve(uri, "rollback")
    assert isinstance(result.exception, ServiceBusy)
    assert exit_code(result.exception) is exit_code(LedgerConflict("taken")) is Exit.BUSY
    assert len(ledger.entries("us")) == 5
    ledger.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("signals", "2024-06-07"), "no signals of 2024-06-07"),
        (("signals", FIRST, "--version", "3"), "only 1, 2"),
        (("signals", "June"), "day"),
        (("promote", "r9"), "never released"),
        (("rollback", "--strategy", "other"), "no earlier champions"),
    ],
)
def test_mistakes(tmp_path: Path, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    """One message, and nothing is changed."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    ledger = fill(uri, folder)
    result = serve(uri, *arguments)
    assert message in str(result.exception)
    assert (len(ledger.entries("us")), ledger.held_by("us")) == (5, None)
    ledger.close()


def test_the_service_must_exist(tmp_path: Path, folder: Path) -> None:
    """A misspelt name or file is an error and creates nothing; with several services one must be named."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    assert "no ledger" in str(serve(uri, "status").exception)
    assert not (tmp_path / "tasks.db").exists()
    ledger = fill(uri, folder)
    assert "Did you mean 'us'" in str(serve(uri, "--service", "uss", "status").exception)
    lease = ledger.acquire("eu", holder="test", seconds=60)
    ledger.append(lease, 1, "service", service_body("eu", ""))
    assert "several services: eu, us" in str(serve(uri, "status").exception)
    assert json.loads(serve(uri, "--service", "eu", "status", "--json").stdout)["entries"] == 1
    ledger.close()


def test_a_changed_file_is_refused(tmp_path: Path, folder: Path) -> None:
    """A missing file is refused too."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    fill(uri, folder).close()
    file = folder / "signals" / f"{SECOND}.v1.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "changed after" in str(serve(uri, "signals", SECOND).exception)
    file.unlink()
    assert "cannot be read" in str(serve(uri, "signals", SECOND).exception)
