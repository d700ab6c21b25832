"""A command of ``rollforge serve`` that is killed before any of its writes, and given again, ends as if undisturbed."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pymongo import MongoClient

import rollforge
from rollforge.ledger.base import Ledger, Score, SupportsScores, open_ledger
from rollforge.ledger.entry import DayResult, DayState, Entry, Release, Role, day_body, read_body, service_body
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.session import amend
from rollforge.testing.postgres import PostgresServer

from ..documents.command_line import call
from ..documents.growing import BEGIN, DAYS, Market, live, manager, recorders
from ..documents.killed_routines import ended, start

FIRST = DAYS.index(BEGIN)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def serve(uri: str, *arguments: object) -> str:
    result = call("serve", "--ledger", uri, *arguments)
    assert result.exit_code == 0, (result.stdout, result.stderr, result.exception)
    return result.stdout


def told(entries: list[Entry]) -> list[Any]:
    """Return what entries say, without the process that made them and its duration."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key not in ("by", "seconds")}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    return [(entry.number, entry.kind, plain(entry.body)) for entry in entries]


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Return the URI of an empty ledger with a number."""
    name = f"killed_{abs(hash(str(tmp_path))) % 10**9}"
    if request.param == "sqlite":
        yield lambda number: f"sqlite:///{tmp_path}/ledger-{number}.db"
    elif request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        yield lambda number: f"{server.uri}?schema={name}_{number}"
    else:
        address = str(request.getfixturevalue("mongodb")).rstrip("/")
        yield lambda number: f"{address}/{name}_{number}"
        with MongoClient(address) as client:
            for found in client.list_database_names():
                if found.startswith(name):
                    client.drop_database(found)


def fill(uri: str) -> None:
    """Create a service whose first model was replaced by a second one on the second day."""

    def release(recorder: str, role: Role, day: str) -> Release:
        return Release("t" * 64, "exp", recorder, role, day, "ann", "new window", "exp")

    one, two = DAYS[:2]
    change = [release("r2", Role.CHAMPION, two), release("r1", Role.RETIRED, two)]
    ledger = open_ledger(uri)
    lease = ledger.acquire("us", holder="test", seconds=60)
    ledger.append(lease, 1, "service", service_body("us", "the text"))
    first = day_body(DayResult(one, DayState.PUBLISHED), releases=[release("r1", Role.CHAMPION, one)])
    ledger.append(lease, 2, "day", first)
    ledger.append(lease, 3, "day", day_body(DayResult(two, DayState.PUBLISHED), releases=change))
    ledger.release(lease)
    ledger.close()


def killed(work: Callable[[], object], write: int, *, databases: bool = False) -> bool:
    """Do `work` in a process that is killed before its write with this number; return whether it was."""
    return ended(start(work, write=write, files=not databases, databases=databases)) == "killed"


@pytest.mark.parametrize("command", [["rollback", "--reason", "worse"], ["promote", "r1"]], ids=["rollback", "promote"])
def test_a_change_of_models_is_made_once(place: Callable[[int], str], command: list[str]) -> None:
    """If the command was killed after its entry, it changes nothing the second time."""
    fill(place(0))
    serve(place(0), *command)
    expected = told(open_ledger(place(0)).entries("us"))
    assert len(expected) == 4
    for write in itertools.count(1):
        uri = place(write)
        fill(uri)
        if not killed(lambda uri=uri: serve(uri, *command), write):
            break
        serve(uri, *command)
        ledger = open_ledger(uri)
        assert told(ledger.entries("us")) == expected
        ledger.close()
    assert write > 3


class Kept:
    """The folders of a service and its ledger in SQLite, from which each attempt begins again."""

    def __init__(self, folder: Path, ledger: Path, place: Callable[[int], str] | None = None) -> None:
        self.folder, self.ledger = folder, ledger
        self.place = place or (lambda attempt: f"sqlite:///{folder}/attempt-{attempt}.db")
        for name in ("home", "runs"):
            shutil.copytree(folder / name, folder / "kept" / name)

    def again(self, attempt: int) -> str:
        """Restore the folders, and return the URI of a copy of the ledger."""
        for name in ("home", "runs"):
            shutil.rmtree(self.folder / name)
            shutil.copytree(self.folder / "kept" / name, self.folder / name)
        uri = self.place(attempt)
        if uri.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(self.ledger)) as raw:
                raw.execute("VACUUM INTO ?", (uri.removeprefix("sqlite:///"),))
        else:
            copy_entries(SQLiteLedger(f"sqlite:///{self.ledger}"), open_ledger(uri))
        return uri


def copy_entries(ledger: SQLiteLedger, copy: Ledger) -> None:
    """Copy the entries of the only service of a ledger, and the scores of its signals, into an empty one."""
    assert isinstance(copy, SupportsScores)
    (name,) = ledger.services()
    lease = copy.acquire(name, holder="test", seconds=60)
    for entry in ledger.entries(name):
        versions = [(signal.day, signal.version) for signal in read_body(entry.kind, entry.body).signals]
        scores = [Score(*version, *row) for version in versions for row in ledger.scores(name, *version)]
        copy.append(lease, entry.number, entry.kind, entry.body, by=entry.by, scores=scores)
    copy.release(lease)
    copy.close()
    ledger.close()


def check_each_kill(
    kept: Kept,
    work: Callable[[str], object],
    go_on: Callable[[str], object],
    step: int = 1,
    *,
    databases: bool = False,
) -> int:
    """Check that work killed before a write, and done again, leaves the same entries; return the number of kills.

    Parameters
    ----------
    kept : Kept
        What each attempt begins with.
    work : callable
        The work with a ledger.
    go_on : callable
        What is done afterwards.
    step : int
        1: it is killed before each write; 3: before every third one.
    databases : bool
        Whether only writes to the ledger count.
    """

    def done(uri: str) -> list[Any]:
        for one in (work, go_on):
            assert ended(start(lambda one=one: one(uri))) == "done"
        ledger = open_ledger(uri)
        (name,) = ledger.services()
        entries = ledger.entries(name)
        assert isinstance(ledger, SupportsScores)
        signals = ServiceState.of(entries).signals().values()
        stored = [len(ledger.scores(name, signal.day, signal.version)) for signal in signals]
        assert stored in ([0] * len(signals), [signal.rows for signal in signals])
        ledger.close()
        assert signal_files.unreadable(kept.folder / "home" / "services" / name, signals) == {}
        return told(entries)

    expected = done(kept.again(0))
    for kills, write in enumerate(itertools.count(1, step)):
        uri = kept.again(write)
        if not killed(lambda uri=uri: work(uri), write, databases=databases):
            return kills
        assert done(uri) == expected, write
    raise AssertionError


def test_a_service_is_created_once(place: Callable[[int], str], workflow: Path, market: Market) -> None:
    """A command killed while it creates the ledger, or after its entry, is repeated without another entry."""
    market.show(BEGIN)
    serve(place(0), "init", workflow)
    expected = told(open_ledger(place(0)).entries("served"))
    for write in itertools.count(1):
        uri = place(write)
        if not killed(lambda uri=uri: serve(uri, "init", workflow), write):
            break
        serve(uri, "init", workflow)
        ledger = open_ledger(uri)
        assert told(ledger.entries("served")) == expected
        ledger.close()
    assert write > 3


def test_a_correction_is_made_once(tmp_path: Path, place: Callable[[int], str], workflow: Path, market: Market) -> None:
    """The corrected days belong to two windows, and one is no longer a trading day; there are candidates and a table."""
    workflow.write_text(workflow.read_text() + "\nsignals: {table: true}\npolicy: {shadow_days: 30}\n")
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    market.show(DAYS[FIRST + 5])
    serve(uri, "run")
    kept = Kept(tmp_path, tmp_path / "ledger.db", place)
    market.close = market.close.drop(index=pd.Timestamp(DAYS[FIRST + 4]))
    market.close.loc[DAYS[FIRST + 3], "A"] *= 1.5
    market.show(DAYS[FIRST + 5])
    market.folder.rename(tmp_path / "before")
    market.show(DAYS[FIRST + 6])
    market.folder.rename(tmp_path / "after")

    def with_data(name: str, *command: object) -> Callable[[str], object]:
        def work(uri: str) -> None:
            market.folder.unlink(missing_ok=True)
            market.folder.symlink_to(tmp_path / name)
            serve(uri, *command)

        return work

    commands = with_data("before", "correct"), with_data("after", "run")
    if place(0).startswith("sqlite:///"):
        assert check_each_kill(kept, *commands, step=3) > 15
    else:
        assert check_each_kill(kept, *commands, databases=True) > 4


def served_with(uri: str) -> OnlineManager:
    """Return the service of a ledger, whose models the process knows from its entries alone."""
    amend(store_uri=uri)
    return manager(service="served")


def roll_back(served: OnlineManager) -> None:
    """Make the model of the first window the champion."""
    served.strategies[0].tool.reset_online_tag([recorders()[0]])


@pytest.mark.parametrize("work", [roll_back, lambda served: correct(served.service)], ids=["rollback", "correction"])
def test_the_same_from_python(tmp_path: Path, market: Market, work: Callable[[OnlineManager], object]) -> None:
    """The tags of the recorders are those of the entries as well."""
    rollforge.init(market.folder, tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/ledger.db")
    live(market, manager(service="served"), DAYS[FIRST : FIRST + 3])
    market.close.loc[DAYS[FIRST + 1], "A"] *= 1.5
    market.show(DAYS[FIRST + 2])
    kept = Kept(tmp_path, tmp_path / "ledger.db")

    def go_on(uri: str) -> None:
        served = served_with(uri)
        champions = [release.recorder for release in served.state.champions(served.service.next_day())]
        assert [recorder.id for recorder in served.strategies[0].tool.tagged()] == champions
        market.show(DAYS[FIRST + 3])
        served.routine(DAYS[FIRST + 3])
        market.show(DAYS[FIRST + 2])

    assert check_each_kill(kept, lambda uri: work(served_with(uri)), go_on, step=2) > 3
