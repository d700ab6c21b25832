"""Fingerprints of the data of a service: which changes they show, with entries written by hand and without training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rollforge
from growing import BEGIN, DAYS, Market, manager
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Release,
    Role,
    Signal,
    correction_body,
    day_body,
    event_body,
    release_body,
)
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider
from rollforge.online import data_marks
from rollforge.online.corrections import changed_days
from rollforge.online.data_marks import (
    HISTORY,
    changed_history,
    data_mark,
    first_marks,
    has_changed,
    history_marks,
    mark_then,
    training_mark,
    training_mark_now,
)
from rollforge.online.service import Service
from rollforge.session import Session, bounded, current_session, using

MONTHS = ["2024-01", "2024-02", "2024-03"]
"""The months before `BEGIN`, which is in the last of them."""
JANUARY, FEBRUARY, MARCH = DAYS[20], DAYS[30], DAYS[59]


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the keys whose hashes differ."""
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def add_bars(folder: Path, until: str = BEGIN, hours: tuple[str, str] = ("11:30", "15:30"), **changes: float) -> None:
    """Write two bars a day into a folder; `changes` maps days, with underscores, to factors of their values."""
    calendar = np.array([f"{day}T{hour}" for day in DAYS if day <= until for hour in hours], "M8[s]")
    values = np.arange(1.0, len(calendar) + 1)
    for day, factor in changes.items():
        values[calendar.astype("M8[D]") == np.datetime64(day.strip("_").replace("_", "-"))] *= factor
    series = {code: (0, {"close": (values * place).astype(np.float32)}) for place, code in enumerate("ABCD", 1)}
    spans = {code: [(np.datetime64(DAYS[0]), np.datetime64(until))] for code in series}
    write_folder(folder, calendar, series, {"all": spans}, "60min")


def test_without_a_data_folder_there_are_no_fingerprints(market: Market) -> None:
    """Strategies may have data of their own: nothing is compared then."""
    market.show(BEGIN)
    service = manager().service
    with using(Session()):
        assert (data_mark(BEGIN), training_mark(), training_mark_now(["60min"])) == ("", "", "")
        assert history_marks(service, ["60min"]) == {}
    assert (data_mark("2024-03-24"), data_mark("2024-03-24", ["60min"])) == ("", ""), "a Sunday has no data"


def test_each_month_before_the_first_day_has_a_hash_of_its_own_data(market: Market) -> None:
    """The first day and later ones are not part of it; a day that is missing changes its month, and an instrument or a
    field that is added changes all."""
    market.show(DAYS[62])
    service, full = manager().service, market.close.copy()
    before = history_marks(service)
    assert list(before) == MONTHS
    assert len({*before.values()}) == 3
    for day, months in [(JANUARY, MONTHS[:1]), (FEBRUARY, MONTHS[1:2]), (MARCH, MONTHS[2:]), (BEGIN, [])]:
        market.close.loc[day, "B"] *= 1.1
        market.show(DAYS[62])
        assert changed(before, history_marks(service)) == months, day
        market.close = full.copy()
    for day, months in [(DAYS[23], MONTHS[1:2]), (DAYS[44], MONTHS[2:])]:  # the first trading days of months
        assert DAYS[DAYS.index(day) - 1][:7] < day[:7]
        market.close = full.drop(index=np.datetime64(day))
        market.show(DAYS[62])
        assert changed(before, history_marks(service)) == months, day
    market.close = full.assign(E=full["A"])
    market.show(DAYS[62])
    assert changed(before, history_marks(service)) == MONTHS
    market.close = full
    market.show(DAYS[62])
    assert history_marks(service) == before
    for file in market.folder.glob("features/*/close.day.bin"):
        shutil.copy(file, file.with_name("open.day.bin"))
    rollforge.session.amend()
    assert changed(before, history_marks(service)) == MONTHS


def test_the_data_before_the_first_day_are_read_in_parts(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has several months as long as they have no more values than fit, and at least one month. The hashes do not
    depend on the parts."""
    market.show(BEGIN)
    service = manager().service
    before, read, parts = history_marks(service), Provider.read, []

    def noted(provider: Provider, name: str, codes: Any, start: int, stop: int, *args: Any) -> Any:
        if name == "close":
            parts.append((start, stop))
        return read(provider, name, codes, start, stop, *args)

    monkeypatch.setattr(Provider, "read", noted)
    for values, expected in [
        (2**26, [(0, 60)]),
        (2 * 80, [(0, 44), (44, 60)]),  # 60 days of 4 instruments: 80 values a month
        (2 * 80 - 1, [(0, 23), (23, 44), (44, 60)]),
        (1, [(0, 23), (23, 44), (44, 60)]),
    ]:
        monkeypatch.setattr(data_marks, "_VALUES", values)
        parts.clear()
        assert history_marks(service) == before
        assert parts == expected


def test_bars_have_hashes_of_their_own(market: Market) -> None:
    """Those of a month, and those of a day, which change with a value and with the time of a bar. They may be in the
    folder of the days."""
    market.show(BEGIN)
    service = manager().service
    alone, days = data_mark(BEGIN), history_marks(service)
    add_bars(market.folder)
    before, both = history_marks(service, ["60min"]), data_mark(BEGIN, ["60min"])
    assert list(before) == [*MONTHS, *(f"{month} (60min)" for month in MONTHS)]
    assert {month: before[month] for month in MONTHS} == days
    main, _, bars = both.partition(" 60min=")
    assert (main, len(bars)) == (alone, 32)
    with bounded(DAYS[58]):
        assert data_mark(DAYS[58], ["60min"]) != ""
        assert data_mark(BEGIN, ["60min"]) == ""
    for options, months in [
        ({"_2024_02_12": 2.0}, [f"{MONTHS[1]} (60min)"]),
        ({"hours": ("11:30", "15:00")}, [f"{month} (60min)" for month in MONTHS]),
        ({f"_{BEGIN.replace('-', '_')}": 2.0}, []),
    ]:
        market.show(BEGIN)
        add_bars(market.folder, **options)  # type: ignore[arg-type]
        rollforge.session.amend()
        assert changed(before, history_marks(service, ["60min"])) == months
        assert has_changed(BEGIN, both) is ("_2024_02_12" not in options)
        assert not has_changed(BEGIN, alone)
        assert has_changed(DAYS[58], f"{mark_then(DAYS[58])} 60min=00")
    market.show(BEGIN)
    add_bars(market.folder, DAYS[59])
    rollforge.session.amend()
    assert data_mark(BEGIN, ["60min"]) == f"{alone} 60min=", "the bars of the day are not there yet"
    assert not has_changed(BEGIN, ""), "the day was published without data"


def test_fingerprints_stay_the_same_in_later_versions(tmp_path: Path) -> None:
    """Otherwise all days and models of a service would count as changed after an update."""
    calendar = np.array([*DAYS[:2], *DAYS[23:25]], "M8[D]")
    values = np.array([1, 2, 3, np.nan], np.float32)
    series = {"A": (0, {"close": values, "open": values + 1}), "B": (2, {"close": values[:2]})}
    spans = {"A": [(calendar[0], calendar[3])], "B": [(calendar[2], calendar[3])]}
    write_folder(tmp_path / "data", calendar, series, {"all": spans})
    rollforge.init(tmp_path / "data", store_uri=f"memory://{tmp_path.name}")
    assert data_mark(DAYS[1]) == "cc394ca2f0745896cdbb1e9a021f6eb1"
    assert data_mark(DAYS[23]) == "7caf70e8feaca984a78a5f64c71d20a5"
    found = history_marks(manager(begin=DAYS[24]).service)
    assert found == {"2024-01": "e89965d2631e9f0a", "2024-02": "59d28c808b92bb32"}


def test_models_are_shared_by_services_of_one_folder(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fingerprint of all data up to a day is that of the folder, however its path is written, and not that of a copy
    of it."""
    market.show(DAYS[62])
    copy = shutil.copytree(market.folder, market.folder.with_name("copy"))
    monkeypatch.chdir(market.folder.parent)
    with bounded(BEGIN):
        whole = training_mark()
        assert len(whole) == 32
        session = current_session()
        for folder, same in [("data", True), (market.folder / ".." / "data", True), (copy, False)]:
            with using(session.with_(provider_uri=str(folder))):
                assert (training_mark() == whole) is same, folder
    with bounded(DAYS[61]):
        assert training_mark() != whole
    market.close.loc[DAYS[61], "B"] *= 1.1
    market.show(DAYS[62])
    with bounded(BEGIN):
        assert training_mark_now() == whole
        market.close.loc[BEGIN, "B"] *= 1.1
        market.show(DAYS[62])
        assert training_mark_now() not in (whole, "")


def test_a_change_within_a_second_is_noticed_after_a_training(market: Market) -> None:
    """The files of days and bars are looked at again, although they were read just before."""
    market.show(BEGIN)
    add_bars(market.folder)
    known = [training_mark_now(["60min"])]
    for freq in ("day", "60min"):
        file = next(market.folder.glob(f"features/*/close.{freq}.bin"))
        values = np.fromfile(file, "<f4")
        values[5] *= 2
        values.tofile(file)
        known.append(training_mark_now(["60min"]))
    assert len({*known}) == 3


# -- what follows from the entries -------------------------------------------------------------------------------------


def published(day: str, *, model: str = "", history: Mapping[str, str] | None = None, rows: int = 4) -> Any:
    """Return the body of a published day, which has trained and released a model if one is named."""
    result = DayResult(day, DayState.PUBLISHED, mark_then(day), trained=(model,) * bool(model), history=history or {})
    releases = [Release("t", "served", model, Role.CHAMPION, day, strategy="served", template="t")] if model else []
    return day_body(result, releases=releases, signals=[Signal(day, 1, (), "f", "s", rows)])


def acknowledge(service: Service, others: tuple[str, ...] = ()) -> None:
    with service.hold() as held:
        event = Event(Level.INFO, "known", {HISTORY: history_marks(service, others)})
        held.append(EntryKind.EVENT, event_body([event]))


def test_the_months_that_count_are_those_of_the_models_in_use(market: Market) -> None:
    """A change is reported until it is acknowledged or the model is replaced; another one after that is reported
    again, also the return of the former data."""
    market.show(DAYS[66])
    service, full = manager().service, market.close.copy()
    with service.hold() as held:
        held.append(EntryKind.DAY, published(BEGIN, model="a", history=history_marks(service)))

    def change(day: str, factor: float) -> list[str]:
        market.close.loc[day, "B"] *= factor
        market.show(DAYS[66])
        return changed_history(service)

    assert changed_history(service) == []
    assert change(JANUARY, 1.1) == MONTHS[:1]
    assert change(MARCH, 1.1) == [MONTHS[0], MONTHS[2]]
    acknowledge(service)
    assert changed_history(service) == []
    assert change(MARCH, 1.1) == MONTHS[2:]
    with service.hold() as held:
        held.append(EntryKind.EVENT, event_body([Event(Level.INFO, "something else")]))
    assert changed_history(service) == MONTHS[2:], "another event acknowledges nothing"
    with service.hold() as held:
        held.append(EntryKind.DAY, published(DAYS[61], model="b", history=history_marks(service)))
    assert changed_history(service) == [], "the model that was trained before is not in use any more"
    assert change(FEBRUARY, 1.1) == MONTHS[1:2]
    market.close = full
    market.show(DAYS[66])
    assert changed_history(service) == [MONTHS[0], MONTHS[2]], "February is as it was"
    with service.hold() as held:
        again = Release("t", "served", "a", Role.CHAMPION, DAYS[62], strategy="served", template="t")
        held.append(EntryKind.ROLLBACK, release_body([again], ""))
    assert changed_history(service) == [MONTHS[0], MONTHS[2]], "its data were acknowledged after a change of these"


def test_a_change_of_bars_is_one_of_their_month(market: Market) -> None:
    """Months are listed once, whatever has changed in them; models of an earlier version were compared by days only."""
    market.show(BEGIN)
    add_bars(market.folder)
    service = manager().service
    marks = history_marks(service, ["60min"]) | {DAYS[58]: "the hash of a day"}
    with service.hold() as held:
        held.append(EntryKind.DAY, published(BEGIN, model="a", history=marks))
    assert changed_history(service) == []
    market.close.loc[JANUARY, "B"] *= 1.1
    market.show(BEGIN)
    add_bars(market.folder, **{f"_{JANUARY.replace('-', '_')}": 2.0, "_2024_02_12": 2.0})
    assert changed_history(service) == MONTHS[:2]
    acknowledge(service, ("60min",))
    assert changed_history(service) == []
    market.show(BEGIN)
    assert changed_history(service) == MONTHS, "the bars are gone"


def test_a_day_before_the_first_one_is_compared_with_its_first_fingerprint(market: Market) -> None:
    """Days before the first one can be published with it; keys of months are not days."""
    market.show(BEGIN)
    service = manager().service
    history = {"2024-01": "00", "2024-02 (60min)": "01", DAYS[58]: "old", DAYS[59]: "same"}
    with service.hold() as held:
        held.append(EntryKind.DAY, published(BEGIN, history=history))
        held.append(EntryKind.DAY, published(BEGIN, history={DAYS[58]: "new", DAYS[57]: "late"}))
    assert first_marks(service.state()) == {DAYS[58]: "old", DAYS[59]: "same", DAYS[57]: "late"}


def test_changed_days_are_those_with_signals_whose_data_or_calendar_have_changed(market: Market) -> None:
    """A day without a fingerprint is not compared; one that was withdrawn counts while it is a trading day, and other
    days do while they are not; the days after one that was corrected alone count until they are corrected."""
    market.show(DAYS[64])
    service, full = manager().service, market.close.copy()
    with service.hold() as held:
        for day in DAYS[60:64]:
            held.append(EntryKind.DAY, published(day))
        held.append(EntryKind.DAY, day_body(DayResult(DAYS[64], DayState.FAILED, "00", error="no")))
    assert changed_days(service) == []
    for day in (DAYS[62], DAYS[61]):
        market.close.loc[day, "B"] *= 1.1
    market.show(DAYS[64])
    assert changed_days(service) == DAYS[61:63]
    alone = Event(Level.INFO, "the days after it", {"uncorrected_after": DAYS[61]})
    with service.hold() as held:
        corrected = DayResult(DAYS[61], DayState.PUBLISHED, mark_then(DAYS[61]))
        signal = Signal(DAYS[61], 2, (), "f", "s", 4)
        held.append(EntryKind.CORRECTION, correction_body([signal], "", day=corrected, events=[alone]))
    assert changed_days(service) == DAYS[62:64]
    with service.hold() as held:
        held.append(EntryKind.DAY, published(DAYS[64]))  # after it, from the corrected data
        for day in DAYS[62:64]:
            held.append(EntryKind.DAY, day_body(DayResult(day, DayState.PUBLISHED, mark_then(day))))
    assert changed_days(service) == []
    market.close = market.close.drop(index=np.datetime64(DAYS[63]))
    market.show(DAYS[64])
    assert changed_days(service) == DAYS[63:64]
    with service.hold() as held:
        withdrawn = Signal(DAYS[63], 2, (), "f", "s", 0)
        held.append(EntryKind.CORRECTION, correction_body([withdrawn], ""))
    assert changed_days(service) == []
    market.close = full
    market.show(DAYS[64])
    assert changed_days(service) == DAYS[61:64], "61 and 62 as they were before, and 63 is a trading day again"
