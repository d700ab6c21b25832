"""Strategies, tools and trainers of a user's own, and managers at their edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import BEGIN, DAYS, Market, days_of, equal, live, manager, recorders, start_of, strategy, template
from rollforge.collect.collector import Collector
from rollforge.errors import ConfigError, DataError, DayFailed, ExperimentNotFound
from rollforge.features.api import D
from rollforge.generate.rolling import RollingGen
from rollforge.online.day import Options
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.routine import catch_up
from rollforge.online.strategy import OnlineStrategy, RollingStrategy
from rollforge.online.tool import OnlineTool, OnlineToolR
from rollforge.online.update import PredUpdater
from rollforge.run.trainer import Trainer, TrainerR

RUN = DAYS[60:64]


class Signs(Trainer):
    """Trains models that are numbers."""

    def train(self, tasks: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Return the sign of each task."""
        return [task["sign"] for task in tasks]


class Kept(OnlineTool):
    """Keeps the models that are online, and their predictions, in memory."""

    def __init__(self) -> None:
        self.online: list[float] = []
        self.prediction = pd.Series(dtype=float)

    def reset_online_tag(self, recorder: Any) -> None:
        """Put models online."""
        self.online = list(recorder)

    def online_models(self) -> list[Any]:
        """Return the models that are online."""
        return self.online

    def update_online_pred(self, to_date: Any = None) -> None:
        """Add the last day of the calendar."""
        day = D.calendar()[-1]
        moves = D.features(D.instruments("all"), ["$close/Ref($close, 1) - 1"], start_time=day).iloc[:, 0]
        rows = self.online[-1] * moves.reorder_levels(["datetime", "instrument"]).sort_index()
        self.prediction = rows if self.prediction.empty else pd.concat([self.prediction, rows])


class Momentum(OnlineStrategy):
    """Follows the last move, and from the third day on the opposite."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tool = Kept()

    def first_tasks(self) -> list[Any]:
        """Return a task with a positive sign."""
        return [{"sign": 1.0}]

    def prepare_tasks(self, cur_time: Any, **kwargs: Any) -> list[Any]:
        """Return a task with a negative sign on the third day."""
        return [{"sign": -1.0}] if str(cur_time.date()) == RUN[2] else []

    def get_collector(self, **kwargs: Any) -> Collector:
        """Return a collector of the predictions."""
        tool = self.tool

        class Found(Collector):
            def collect(self) -> dict[str, Any]:
                return {"pred": tool.prediction}

        return Found()


def test_models_need_not_be_recorders(market: Market) -> None:
    """The strategy, the trainer and the tool are the user's; days are published as they predict."""
    served = live(market, OnlineManager(Momentum("own"), Signs(), begin_time=BEGIN), RUN)
    signals = served.get_signals()
    assert days_of(signals) == RUN
    moves = market.close.pct_change()
    for day, sign in zip(RUN, (1, 1, -1, -1), strict=True):
        assert np.corrcoef(signals.loc[day], sign * moves.loc[day])[0, 1] == pytest.approx(1)
    assert (served.state.releases, served.strategies[0].tool.online_models()) == ((), [-1.0])


def test_a_day_that_an_own_tool_does_not_predict_fails(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The days before it stay published, and it is due."""
    served = live(market, OnlineManager(Momentum("own"), Signs(), begin_time=BEGIN), RUN[:1])
    market.show(RUN[1])
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "update_online_pred", lambda *args: None)
        with pytest.raises(DayFailed, match=f"The models have no predictions for {RUN[1]}"):
            served.routine()
    assert list(served.history) == [pd.Timestamp(RUN[0])]
    served.routine()
    assert days_of(served.get_signals()) == RUN[:2]


def test_an_own_tool_updates_the_predictions_of_rolling_models(market: Market) -> None:
    """The signals are the same."""
    updated = []

    class Noted(OnlineToolR):
        def update_online_pred(self, *args: Any, **kwargs: Any) -> None:
            updated.append(str(D.calendar()[-1].date()))
            super().update_online_pred(*args, **kwargs)

    rolling = strategy("noted")
    rolling.tool = Noted("noted")
    served = live(market, OnlineManager(rolling, begin_time=BEGIN), RUN)
    assert updated == RUN
    equal(served.get_signals(), live(market, manager(), RUN).get_signals())


def test_a_strategy_without_a_service_collects_one_model_of_each_window(market: Market) -> None:
    """The results are joined over all windows, as no ledger says which model was used when."""
    market.show(BEGIN)
    alone = strategy("alone")
    TrainerR("alone").train(alone.first_tasks()[:2])
    (prediction,) = alone.get_collector(artifacts_key=["pred"])()["pred"].values()
    assert days_of(prediction) == DAYS[52:60]


def test_a_strategy_of_ones_own_decides_every_day_which_models_are_used(market: Market) -> None:
    """Although no window begins. A strategy that keeps the models of its windows decides nothing on such a day."""

    class Alternating(RollingStrategy):
        def prepare_online_models(self, trained_models: Any, cur_time: Any = None) -> Any:
            chosen = recorders("own")[-1 - RUN.index(str(D.calendar()[-1].date())) % 2]
            self.tool.reset_online_tag(chosen)
            return [chosen]

    own = OnlineManager(Alternating("own", template(), RollingGen(step=4, rtype="sliding")), begin_time=BEGIN)
    usual = manager()
    for served in (own, usual):
        live(market, served, RUN)
    found = [[start_of(own.service.recorder(one)) for one in own.state.champions(day)] for day in RUN]
    assert found == [[DAYS[60]], [DAYS[56]]] * 2
    assert {release.from_day for _, release in usual.state.releases} == {DAYS[52], DAYS[56], DAYS[60]}
    assert {signal.day: signal.recorders for signal in own.state.signals().values() if signal.day in RUN} == {
        day: tuple(one.recorder for one in own.state.champions(day)) for day in RUN
    }


def test_models_are_put_online_before_and_after_the_first_day(market: Market) -> None:
    """Before it, only the tags change; models that are online already make no entry."""
    market.show(BEGIN)
    before = strategy("served")
    models = TrainerR("served").train(before.first_tasks())
    served = manager()
    served.strategies[0].tool.reset_online_tag(models[-1])
    assert served.state.last == 0
    served.routine()
    assert [r.recorder for r in served.state.champions(BEGIN)] == [models[-1].id]
    last = served.state.last
    served.strategies[0].tool.reset_online_tag(models[-1])
    assert served.state.last == last


def test_a_file_of_an_earlier_version_with_models(market: Market) -> None:
    """The models of the file are those of the ledger, and the next window follows from them."""
    live(market, manager(), RUN[:1])
    (model,) = [one for one in recorders() if start_of(one) == DAYS[60]]
    own = strategy()
    loaded = OnlineManager.__new__(OnlineManager)
    loaded.__setstate__(
        {
            "strategies": [own], "trainer": manager().trainer, "begin_time": pd.Timestamp(BEGIN), "freq": "day",
            "cur_time": pd.Timestamp(BEGIN), "status": "online", "history": {pd.Timestamp(BEGIN): {own: [model]}},
            "signals": None,
        }
    )  # fmt: skip
    assert [r.recorder for r in loaded.state.champions(BEGIN)] == [model.id]
    assert loaded.state.releases[0][1].reason == "from the manager's file"
    market.show(DAYS[64])
    loaded.routine()
    assert [start_of(one) for one in loaded.strategies[0].tool.online_models()] == [DAYS[64]]


def test_a_simulation_that_ends_before_it_begins_is_refused(market: Market) -> None:
    """Before anything is trained or recorded; one that ends before the next trading day has no signals."""
    market.show(BEGIN)
    served = manager()
    with pytest.raises(ConfigError, match=f"end_time: {DAYS[59]} is before the first day, {BEGIN}"):
        served.simulate(DAYS[59])
    assert served.state.last == 0
    assert (DAYS[60], DAYS[64], DAYS[65]) == ("2024-03-25", "2024-03-29", "2024-04-01")
    market.show(DAYS[65])
    assert manager(name="weekend", begin="2024-03-30").simulate("2024-03-31") is None


def test_days_end_when_they_are_told_to(market: Market) -> None:
    """A routine of several days ends between two of them, and the next one goes on."""
    market.show(RUN[-1])
    service, reported = manager().service, list[str | None]()

    def report() -> None:
        reported.append(service.state().last_published)

    done = catch_up(service, options=Options(stop=lambda: len(service.state().days) == 2, report=report))
    assert [result.day for result in done] == reported == RUN[:2]
    assert [result.day for result in catch_up(service)] == RUN[2:]


def test_mistakes_of_a_definition(market: Market) -> None:
    """Each says what is wrong, before anything is trained."""
    market.show(BEGIN)
    with pytest.raises(ConfigError, match="at least one strategy"):
        OnlineManager([], begin_time=BEGIN)
    with pytest.raises(ConfigError, match="needs an experiment"):
        OnlineToolR().online_models()
    five_minutes = template()
    five_minutes["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["freq"] = "5min"
    with pytest.raises(ConfigError, match=r"needs daily data; the frequency of these is '5min'"):
        manager(templates=five_minutes)
    with pytest.raises(ConfigError, match=r"must be the name of a model of one strategy; found 'new'"):
        OnlineManager([strategy("a"), strategy("b")], begin_time=BEGIN, policy=Policy(5, challenger="new"))
    with pytest.raises(ExperimentNotFound):
        recorders()


def test_signals_are_plain_values(market: Market) -> None:
    """Those of a function that returns other objects are not published, and the day is due."""
    market.show(BEGIN)
    served = manager()

    def objects(results: Any) -> Any:
        (models,) = results.values()
        (frame,) = models.values()
        return pd.Series([object()] * len(frame), frame.index)

    with pytest.raises(DataError, match="must be a table of plain values"):
        served.routine(signal_kwargs={"prepare_func": objects})
    served.routine()
    assert days_of(served.get_signals())[-1] == BEGIN


def test_an_empty_prediction_needs_a_first_day(market: Market) -> None:
    """With one, it is computed from there on."""
    live(market, manager(), RUN[:1])
    recorder = recorders()[-1]
    recorder.save_objects(**{"pred.pkl": recorder.load_object("pred.pkl").iloc[:0]})
    with pytest.raises(ConfigError, match=r"pred.pkl of recorder .* is empty. Give from_date"):
        PredUpdater(recorder)
    assert PredUpdater(recorder, from_date=BEGIN).update(write=False, ret_new=True) is not None
    assert len(recorder.load_object("pred.pkl")) == 0
    PredUpdater(recorder, from_date=BEGIN).update()
    assert days_of(recorder.load_object("pred.pkl")) == [BEGIN]
