"""The definition of an online manager, and what it does besides the days of its service."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import BEGIN, DAYS, Market, days_of, live, manager, recorders, start_of, strategy, template
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.errors import ConfigError, DayFailed
from rollforge.ledger.entry import EntryKind, Release, Role
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.strategy import RollingStrategy
from rollforge.online.tool import OnlineToolR
from rollforge.run.trainer import DelayTrainerR, TrainerR


def test_the_defaults_of_a_manager(market: Market) -> None:
    """A new service each, which begins on the last day; its name shows the strategies, shortened if there are many."""
    market.show(DAYS[61])
    one, other = OnlineManager(strategy("a")), OnlineManager([strategy("a" * 40), strategy("b" * 40)])
    assert re.fullmatch(r"a-[0-9a-f]{8}", one.service.name)
    assert re.fullmatch(r"a{40}\+b{19}-[0-9a-f]{8}", other.service.name)
    assert (one.begin_time, one.cur_time, one.status, one.freq) == (pd.Timestamp(DAYS[61]),) * 2 + ("online", "day")
    assert isinstance(one.trainer, TrainerR)
    assert [s.experiment_name for s in other.strategies] == ["a" * 40, "b" * 40]
    assert one.service.folder == manager(service=one.service.name).service.folder
    assert OnlineManager((strategy("a"),), begin_time=BEGIN).strategies[0].experiment_name == "a"  # type: ignore[arg-type]


def test_a_file_contains_the_whole_definition(market: Market, tmp_path: Path) -> None:
    """The day that it has reached and the strategies' own state are those of the manager."""
    market.show(DAYS[61])
    made = OnlineManager(
        strategy("a"), DelayTrainerR(), BEGIN, service="us", ledger=f"sqlite:///{tmp_path}/own.db", folder=tmp_path / "files",
        policy=Policy(5, margin=0.25),
    )  # fmt: skip
    made.cur_time = pd.Timestamp(DAYS[61])
    loaded = pickle.loads(pickle.dumps(made))
    service = loaded.service
    assert (service.name, service.ledger_uri, service.folder) == (
        "us",
        f"sqlite:///{tmp_path}/own.db",
        tmp_path / "files",
    )
    assert (service.policy, loaded.begin_time, loaded.cur_time) == (made.service.policy, made.begin_time, made.cur_time)
    assert (type(loaded.trainer), loaded.status, loaded.freq) == (DelayTrainerR, "online", "day")
    assert loaded.strategies[0]._service is loaded.service


def test_a_file_of_an_earlier_version_is_entered_into_the_ledger(market: Market) -> None:
    """One entry for each day of its history, in order, and one for its signals."""
    market.show(DAYS[61])
    index = pd.MultiIndex.from_product(
        [pd.DatetimeIndex([DAYS[61], DAYS[60]]), ["A", "B"]], names=["datetime", "instrument"]
    )
    signals = pd.Series([1.0, 2.0, 3.0, 4.0], index, name="score").iloc[:3]
    own = strategy()
    loaded = OnlineManager.__new__(OnlineManager)
    loaded.__setstate__({
        "strategies": [own], "trainer": TrainerR(), "begin_time": pd.Timestamp(BEGIN), "freq": "day",
        "cur_time": pd.Timestamp(DAYS[61]), "status": "online", "signals": signals,
        "history": {pd.Timestamp(DAYS[61]): {own: ["no recorder"]}, pd.Timestamp(DAYS[60]): {own: []}},
    })  # fmt: skip
    state = loaded.state
    assert [(e.kind, c.day.day if c.day else None) for e, c in zip(state.entries, state.contents, strict=True)] == [
        (EntryKind.SERVICE, None), (EntryKind.DAY, DAYS[60]), (EntryKind.DAY, DAYS[61]), (EntryKind.DAY, DAYS[61]),
    ]  # fmt: skip
    assert [(s.day, s.version, s.rows, s.why) for s in state.signals().values()] == [
        (DAYS[60], 1, 1, ""),
        (DAYS[61], 1, 2, ""),
    ]
    assert (state.releases, state.definition and state.definition.workflow) == ((), {"strategies": ["served"]})
    assert loaded.get_signals().tolist() == [3.0, 1.0, 2.0]
    assert {str(day.date()): list(models.values()) for day, models in loaded.history.items()} == {
        d: [[]] for d in DAYS[60:62]
    }
    empty = OnlineManager.__new__(OnlineManager)
    empty.__setstate__({**manager().__getstate__(), "signals": signals.iloc[:0], "history": {}})
    assert [entry.kind for entry in empty.state.entries] == [EntryKind.SERVICE]
    assert empty.get_signals() is None


def test_a_day_before_the_first_one_is_named(market: Market) -> None:
    """So is the trading day that a time means; the first day itself is not refused."""
    market.show(DAYS[61])
    assert (DAYS[59], BEGIN) == ("2024-03-22", "2024-03-25")
    served = manager()
    for time, text in (
        ("2024-03-22", "2024-03-22 is before the first day, 2024-03-25."),
        ("2024-03-24", "2024-03-22, the last trading day up to 2024-03-24, is before the first day, 2024-03-25."),
        ("2023-12-31", "There is no trading day up to 2023-12-31."),
    ):
        with pytest.raises(ConfigError) as info:
            served.routine(time)
        assert str(info.value) == f"cur_time: {text}"
    assert served.state.last == 0
    market.show(DAYS[59])
    served.routine()  # nothing is due until the first day
    assert served.state.last_published is None
    market.show(DAYS[60])
    served.routine("2024-03-25")
    assert served.state.last_published == BEGIN


def test_the_history_is_that_of_the_days_that_were_published(market: Market) -> None:
    """Each with the models that were used; a day that failed has none."""
    market.show(DAYS[53])
    served = manager(begin=DAYS[51])
    with pytest.raises(DayFailed):
        served.routine(DAYS[51])
    assert (served.history, served.signals) == ({}, None)
    live(market, served, DAYS[55:58])
    history = {str(day.date()): models for day, models in served.history.items()}
    assert list(history) == DAYS[52:58]
    assert {day: [start_of(one) for one in models[served.strategies[0]]] for day, models in history.items()} == {
        day: [DAYS[52] if day < DAYS[56] else DAYS[56]] for day in DAYS[52:58]
    }
    pd.testing.assert_series_equal(served.signals, served.get_signals())


def test_own_signals_replace_those_of_a_routine(market: Market) -> None:
    """A subclass that overrides ``prepare_signals`` publishes them itself, with the arguments of the routine."""
    given = []

    class Own(OnlineManager):
        def prepare_signals(self, prepare_func: Any = None, over_write: bool = False) -> Any:
            given.append((prepare_func, over_write))
            return super().prepare_signals(lambda results: 2.0 * AverageEnsemble()(results), over_write)

    market.show(BEGIN)
    served = Own(strategy(), begin_time=BEGIN)
    served.routine()
    assert given == [(None, False)]
    assert [(e.kind, len(c.signals)) for e, c in zip(served.state.entries, served.state.contents, strict=True)][-2:] == [
        (EntryKind.DAY, 0), (EntryKind.CORRECTION, len(DAYS[52:61])),
    ]  # fmt: skip
    plain = live(market, manager(), [BEGIN]).get_signals()
    np.testing.assert_allclose(served.get_signals().loc[BEGIN], 2.0 * plain.loc[BEGIN])
    served.routine(signal_kwargs={"over_write": True})
    assert given[1:] == [(None, True)]


def test_signals_of_later_days_only_by_default(market: Market) -> None:
    """``prepare_signals`` without ``over_write`` leaves what was published, and returns the new rows."""
    served = live(market, manager(), DAYS[60:62])
    before = served.get_signals()
    assert len(served.prepare_signals(lambda results: -AverageEnsemble()(results))) == 0
    pd.testing.assert_series_equal(served.get_signals(), before)
    assert days_of(served.prepare_signals(lambda results: -AverageEnsemble()(results), over_write=True)) == days_of(
        before
    )
    pd.testing.assert_series_equal(served.get_signals(), -before)


def test_a_simulation_ignores_models_that_are_tagged_as_online(market: Market) -> None:
    """Those of an earlier experiment, on its first day and on a later one on which its first window begins."""
    market.show(DAYS[69])
    (former,) = TrainerR("served").train(strategy(templates=template(estimator="ridge", alpha=5.0)).first_tasks()[:1])
    for begin, first in ((DAYS[52], 52), (DAYS[50], 52)):
        OnlineToolR("served").reset_online_tag(former)
        served = manager(begin=begin)
        days = days_of(served.simulate(DAYS[53]))
        assert days == DAYS[first:54]
        assert former.id not in {release.recorder for _, release in served.state.releases}
        assert served.status == "online"


def test_a_simulation_may_end_on_its_first_day(market: Market) -> None:
    """The manager is in that state meanwhile, and trains the windows that have begun with the data up to each day."""
    market.show(DAYS[69])
    seen = []

    class Noted(RollingStrategy):
        def prepare_tasks(self, cur_time: Any = None, **kwargs: Any) -> Any:
            seen.append((str(cur_time.date()), served.status, kwargs))
            return super().prepare_tasks(cur_time, **kwargs)

    made = strategy()
    served = OnlineManager(Noted("served", template(), made.rg), begin_time=BEGIN)
    assert days_of(served.simulate(BEGIN, task_kwargs={"retry": 1})) == DAYS[52:61]
    assert seen == [(BEGIN, "simulating", {"retry": 1})]
    assert [start_of(recorder) for recorder in recorders()] == [DAYS[n] for n in (52, 56, 60)]
    assert (served.cur_time, served.status) == (pd.Timestamp(BEGIN), "online")


def test_an_added_strategy_is_trained_up_to_the_last_published_day(market: Market) -> None:
    """The models of an added strategy are used from the next day on; several can be added at once."""
    served = live(market, manager(), DAYS[60:62])
    market.show(DAYS[66])
    served.add_strategy([strategy("b", template(estimator="ridge", alpha=1.0)), strategy("c")])
    assert [s.experiment_name for s in served.strategies] == ["served", "b", "c"]
    assert [start_of(one) for one in recorders("b")] == [DAYS[n] for n in (52, 56, 60)]
    champions: list[Release] = [
        r for _, r in served.state.releases if r.strategy in ("b", "c") and r.role is Role.CHAMPION
    ]
    assert [(r.strategy, r.from_day) for r in champions] == [("b", DAYS[62]), ("c", DAYS[62])]
    assert set(served.get_collector(artifacts_key=["pred"])()) == {("served", "pred"), ("b", "pred"), ("c", "pred")}
