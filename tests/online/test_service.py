"""A service and the lease with which its entries are appended, in a ledger in a file."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from growing import BEGIN, DAYS, Market
from rollforge.errors import ConfigError, ExperimentNotFound, LeaseLost, ServiceBusy
from rollforge.ledger.base import SupportsScores, open_ledger
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    EntryKind,
    Release,
    Role,
    Signal,
    author,
    day_body,
    release_body,
    service_body,
)
from rollforge.ledger.memory import MemoryLedger
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.service import Service, check_names, next_version, recorder_of
from rollforge.online.strategy import OnlineStrategy
from rollforge.run.execute import TASK_TAG
from rollforge.run.trainer import TrainerR
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Return a service of one strategy, without entries."""
    rollforge.init(tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"sqlite:///{tmp_path}/ledger.db")
    return made("us")


def made(name: str, *strategies: str) -> Service:
    return Service(name, [OnlineStrategy(one) for one in strategies or ("served",)], TrainerR(), BEGIN)


def champion(name: str, day: str, **values: Any) -> Release:
    return Release("t", "served", name, Role.CHAMPION, day, strategy="served", **values)


def published(day: str, *releases: Release) -> Any:
    signal = Signal(day, 1, (), "f", "s", 4)
    return day_body(DayResult(day, DayState.PUBLISHED), releases=releases, signals=[signal])


def append(service: Service, *bodies: Any, kind: EntryKind = EntryKind.DAY) -> ServiceState:
    with service.hold() as held:
        for body in bodies:
            held.append(kind, body)
    return service.state()


def run(name: str) -> Recorder:
    """Return a finished recorder of the experiment."""
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served")
    recorder = experiment.create_recorder(name, {TASK_TAG: f"task of {name}"})
    recorder.end_run()
    return recorder


def test_the_places_of_a_service_are_named_or_those_of_the_project(service: Service, tmp_path: Path) -> None:
    """A folder is absolute, so that another working directory does not matter."""
    assert service.place == tmp_path / "home" / "services" / "us"
    named = Service("us", service.strategies, TrainerR(), BEGIN, folder=Path("there"), ledger_uri="memory://other")
    assert (named.place, named.ledger_uri) == (Path.cwd() / "there", "memory://other")
    rollforge.session.amend(store_uri="tasks.db")
    assert made("us").ledger_uri == "tasks.db"


def test_the_state_of_a_service_is_no_argument(service: Service) -> None:
    """The state follows from the ledger alone, and is not shown either."""
    for name in ("challenger", "days", "_state", "_hold"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            Service("us", [], TrainerR(), BEGIN, **{name: None})  # type: ignore[arg-type]
    append(service, published(BEGIN))
    assert "_state=" not in repr(service)
    assert "_hold=" not in repr(service)
    assert service.signal_table is False


def test_the_name_that_two_strategies_have_is_in_the_error() -> None:
    """The first one in alphabetical order."""
    check_names(["a", "b"])
    with pytest.raises(ConfigError, match=r"^strategies: Two strategies are named 'b'\. .* needs its own name\.$"):
        check_names(["c", "b", "a", "c", "b"])


def test_the_trading_days_of_a_range_include_both_ends(market: Market) -> None:
    """Days that are no trading days, and ends after the last one, are fine."""
    market.show(DAYS[63])
    service = made("us")
    assert service.calendar_days() == DAYS[:64]
    assert service.calendar_days(DAYS[61], DAYS[62]) == DAYS[61:63]
    assert service.calendar_days("2024-03-24") == DAYS[60:64]  # a Sunday
    assert service.calendar_days(DAYS[64]) == []
    assert service.calendar_days(until="2024-03-24") == DAYS[:60]


def test_entries_of_another_process_are_seen(service: Service) -> None:
    """Each entry is read once. While an entry is decided on, the state includes it, and nobody else sees it."""
    other = made("us")
    assert (service.state().last, service.next_day()) == (0, BEGIN)
    append(other, published(BEGIN), published(DAYS[61]))
    state = service.state()
    assert (state.last, service.next_day()) == (2, "2024-03-27")
    assert service.state() is state or service.state().entries == state.entries
    with service.hold() as held:
        assert (held.state.last, service.deciding, other.deciding) == (2, True, False)
        held.decide(EntryKind.DAY, published(DAYS[62]))
        assert (service.state().last, held.state.last, other.state().last) == (3, 2, 2)
        assert held.pending.entries[-1].made_at == held.state.entries[-1].made_at
        held.forget()
        assert service.state().last == 2
        entry = held.append(EntryKind.DAY, published(DAYS[62]))
        assert (entry.number, entry.by, service.state().last, other.state().last) == (3, author(), 3, 3)
    assert (service.deciding, service.state().last) == (False, 3)


def test_a_service_is_held_once(service: Service) -> None:
    """Within a block, the same lease is used; another object of the process waits for nothing and is refused."""
    other = made("us")
    with service.hold() as held:
        with service.hold() as again:
            assert again is held
        assert service.deciding
        with pytest.raises(ServiceBusy), other.hold():
            pass
    with other.hold() as taken:
        assert taken.lease.token == held.lease.token + 1
    assert open_ledger(str(service.ledger_uri)).held_by("us") is None


def test_what_is_remembered_is_read_once_while_the_lease_is_held(service: Service) -> None:
    """Without a lease it is read every time, and the next lease begins with nothing."""
    calls: list[str] = []

    def read() -> int:
        calls.append("read")
        return len(calls)

    assert [service.remembered(("a",), read) for _ in range(2)] == [1, 2]
    with service.hold():
        found = [service.remembered((name,), read) for name in ("a", "a", "b", "a")]
        assert found == [3, 3, 4, 3]
    with service.hold():
        assert service.remembered(("a",), read) == 5


def test_a_lease_is_renewed_until_the_block_ends(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three times as often as it expires. One that another process has taken over is named, and appends nothing."""
    ledger = service.ledger
    renew, renewed, lost = type(ledger).renew, threading.Event(), threading.Event()

    def noted(self: Any, lease: Any, seconds: float) -> Any:
        try:
            found = renew(self, lease, seconds)
        except LeaseLost:
            lost.set()
            raise
        renewed.set()
        return found

    monkeypatch.setattr(type(ledger), "renew", noted)
    with service.hold(seconds=0.9) as held:
        first = held.lease
        assert renewed.wait(30)
        renewed.clear()
        assert renewed.wait(30)
        assert (held.lease.token, held.lease.until > first.until) == (first.token, True)
        with caplog.at_level(logging.WARNING):
            ledger.acquire("us", holder=first.holder, seconds=60)
            assert lost.wait(30)
            with pytest.raises(LeaseLost):
                held.append(EntryKind.DAY, published(BEGIN))
    assert "the lease of the service us was lost" in caplog.messages
    assert service.state().last == 0


def test_the_models_of_other_services_are_those_of_their_releases(service: Service) -> None:
    """With `of_files` only of services that were created from workflow files."""
    workflows = {
        "one": {"path": "job.yaml", "text": ""},
        "two": {"served": "OnlineStrategy"},
        "three": "path",
        "us": {},
    }
    for name, workflow in workflows.items():
        append(made(name), service_body(name, workflow), kind=EntryKind.SERVICE)
        append(made(name), published(BEGIN, champion(f"model of {name}", BEGIN)))
    append(made("undefined"), published(BEGIN, champion("another", BEGIN)))
    assert service.released_by_others() == {"model of one", "model of two", "model of three", "another"}
    assert service.released_by_others(of_files=True) == {"model of one"}


def test_models_are_put_online_in_the_routine_of_a_day(service: Service) -> None:
    """Until its entry is appended, they are those that were put online last, or else the champions of the ledger."""
    one, other = run("one"), run("other")
    append(service, published(BEGIN, champion(one.id, BEGIN)))
    service.put_online("served", [other])
    assert service.put_online_now("served") == []
    with service.hold() as held:
        assert service.put_online_now("served") == []
        held.day = DAYS[61]
        assert service.put_online_now("served") == [one]
        assert service.put_online_now("another") == []
        service.put_online("served", (other,))  # type: ignore[arg-type]
        assert service.put_online_now("served") == [other]
        held.forget()
        assert (service.put_online_now("served"), held.day) == ([], "")
        held.day = DAYS[61]
        assert service.put_online_now("served") == [one]


def test_champions_are_replaced_from_the_next_day_on(service: Service) -> None:
    """As a promotion, or as a rollback if all of the models were champions before; a service that has not begun is not
    changed, and neither is one whose champions these are already."""
    one, other = run("one"), run("other")
    assert service.replace_champions("served", [other]) == []
    assert service.state().last == 0
    append(service, published(BEGIN, champion(one.id, BEGIN, template="plain", definition="d")))
    assert service.replace_champions("served", [one]) == []
    changes = service.replace_champions("served", [other], "it is better")
    state = service.state()
    assert (state.last, state.entries[-1].kind, state.contents[-1].reason) == (2, "promotion", "it is better")
    assert list(state.contents[-1].releases) == changes
    assert [(r.recorder, r.role, r.from_day, r.reason) for r in changes if r.role is Role.CHAMPION] == [
        (other.id, Role.CHAMPION, "2024-03-26", "it is better")
    ]
    assert [r.recorder for r in service.champions("served", BEGIN)] == [one.id]
    assert [r.recorder for r in service.champions("served", DAYS[61])] == [other.id]
    assert service.champions("another", DAYS[61]) == ()
    (back,) = [r for r in service.replace_champions("served", [one]) if r.role is Role.CHAMPION]
    assert service.state().entries[-1].kind == "rollback"
    assert (back.recorder, back.task, back.by, back.reason) == (one.id, "task of one", author(), "set manually")
    assert (back.template, back.definition, back.strategy) == ("plain", "d", "served")
    assert recorder_of(back) == one
    with pytest.raises(ExperimentNotFound):
        recorder_of(replace(back, experiment_name="mistyped"))
    assert open_tracker(current_session().tracking_uri).find_experiment(name="mistyped") is None


def test_signals_are_read_as_they_were_known(service: Service) -> None:
    """Those of the latest versions, or of those that an entry had."""
    index = pd.MultiIndex.from_product([pd.DatetimeIndex([BEGIN]), ["A", "B"]], names=["datetime", "instrument"])
    assert service.signals() is None
    for version in (1, 2):
        assert next_version(service.state(), BEGIN) == version
        file, mark = signal_files.write(service.place, f"{BEGIN}.v{version}", pd.Series([0.0, float(version)], index))
        signal = Signal(BEGIN, version, (), file, mark, 2)
        append(service, day_body(DayResult(BEGIN, DayState.PUBLISHED), signals=[signal]))
    assert next_version(service.state(), DAYS[61]) == 1
    found = [service.signals(as_of) for as_of in (None, 2, 1)]
    assert [one.iloc[-1] for one in found if one is not None] == [2.0, 2.0, 1.0]
    assert service.signals(0) is None


def test_the_rows_of_signals_are_stored_with_their_entry(service: Service) -> None:
    """A score that is not finite is NULL. A ledger without tables of scores is refused, with its password masked."""
    index = pd.MultiIndex.from_product([pd.DatetimeIndex([BEGIN]), ["B", "A", "C"]], names=["datetime", "instrument"])
    file, mark = signal_files.write(service.place, "a", pd.Series([0.5, np.nan, np.inf], index))
    body = day_body(DayResult(BEGIN, DayState.PUBLISHED), signals=[Signal(BEGIN, 1, (), file, mark, 3)])
    service.signal_table = True
    append(service, body)
    append(service, release_body([champion("one", BEGIN)], ""), kind=EntryKind.PROMOTION)
    ledger = service.ledger
    assert isinstance(ledger, SupportsScores)
    assert ledger.scores("us", BEGIN, 1) == [("A", None), ("B", 0.5), ("C", None)]

    class Plain:
        """A ledger without scores."""

        uri = "own://me:secret@host/db"

        def __init__(self) -> None:
            kept = MemoryLedger()
            for name in ("acquire", "renew", "release", "held_by", "append", "entries", "services"):
                setattr(self, name, getattr(kept, name))

    with service.hold() as held:
        held.ledger = Plain()  # type: ignore[assignment]
        with pytest.raises(ConfigError) as error:
            held.append(EntryKind.DAY, body)
    assert str(error.value) == (
        "The ledger own://me:***@host/db cannot store the rows of signals. Remove 'table' from the section signals of the "
        "workflow."
    )
