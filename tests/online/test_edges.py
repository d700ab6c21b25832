"""Arguments of online serving are checked, and days mean trading days."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import DAYS, TRAINERS, Market, days_of, live, manager, recorders, strategy, template
from rollforge.errors import ConfigError, DateError, DayFailed, ExperimentNotFound
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.features.timeseries import TSDatasetH
from rollforge.models.linear import LinearModel
from rollforge.online.manager import OnlineManager
from rollforge.online.tool import OnlineToolR
from rollforge.online.update import LabelUpdater, PredUpdater
from rollforge.run.trainer import TrainerR

RUN = DAYS[60:62]


def trained(market: Market, until: str = DAYS[61]) -> Any:
    """Return the recorder of the window that begins on `DAYS[60]`, trained on that day."""
    market.show(DAYS[60])
    manager().first_train()
    market.show(until)
    return recorders()[-1]


@pytest.mark.parametrize(
    "time",
    [RUN[1], int(RUN[1].replace("-", "")), dt.date.fromisoformat(RUN[1]), pd.Timestamp(RUN[1], tz="Asia/Shanghai"),
     "2030-01-01", f"{RUN[1]} 15:30:00", None],
)  # fmt: skip
def test_a_time_means_the_last_trading_day_up_to_it(market: Market, time: Any) -> None:
    """A time means that day for every spelling, with a time zone, and after the last day."""
    market.show(RUN[1])
    served = manager(begin=RUN[1])
    served.routine(time)
    assert [str(day.date()) for day in served.history] == [RUN[1]]
    assert served.cur_time == pd.Timestamp(RUN[1])


def test_a_weekend_is_the_friday_before_it(market: Market) -> None:
    """The weekend does not become a day of the history."""
    friday, saturday = DAYS[64], "2024-03-30"
    assert (friday, DAYS[65]) == ("2024-03-29", "2024-04-01")
    market.show(DAYS[66])
    served = manager(begin=friday)
    served.routine(saturday)
    assert [str(day.date()) for day in served.history] == [friday]


@pytest.mark.parametrize("time", ["soon", 1.5, "2024-13-01", float("nan")])
def test_a_time_that_is_not_a_day_is_refused(market: Market, time: Any) -> None:
    """Nothing is trained."""
    market.show(RUN[1])
    served = manager()
    with pytest.raises(DateError):
        served.routine(time)
    assert served.state.last == 0


@pytest.mark.parametrize("time", ["2023-12-29", DAYS[59]])
def test_a_time_before_the_first_day_is_refused(market: Market, time: str) -> None:
    """A time before the first day is refused before the calendar, and before the first day of the service."""
    market.show(RUN[1])
    with pytest.raises(ConfigError, match="cur_time"):
        manager().routine(time)


def test_names_are_unique(market: Market) -> None:
    """Two strategies of one name would share an experiment."""
    with pytest.raises(ConfigError, match="Two strategies are named 'a'"):
        OnlineManager([strategy("a"), strategy("a")], begin_time=RUN[0])
    served = OnlineManager([strategy("a")], begin_time=RUN[0])
    with pytest.raises(ConfigError, match="Two strategies are named 'a'"):
        served.add_strategy(strategy("a"))
    assert len(served.strategies) == 1


def test_an_added_strategy_begins_on_the_last_day(market: Market) -> None:
    """The models of an added strategy are used from the next day on, and the signals of both are averaged."""
    served = live(market, manager(), RUN[:1])
    served.add_strategy(strategy("second", template(estimator="ridge", alpha=1.0)))
    before = served.state.days[RUN[0]]
    served.first_train()
    known = served.state.days[RUN[0]]
    assert known == replace(before, trained=known.trained, history=known.history), "the day itself stays as it was"
    market.show(RUN[1])
    served.routine()
    assert {r.strategy for r in served.state.champions(RUN[1])} == {"served", "second"}
    assert len(served.get_collector()()) == 2
    assert days_of(served.get_signals())[-1] == RUN[1]


def test_a_strategy_that_has_not_been_online_yet_has_no_results(market: Market) -> None:
    """Results can be collected on the day on which it was added, as in Qlib's example, and after a routine on that day."""
    served = live(market, manager(), RUN[:1])
    before = served.get_collector()()
    served.add_strategy(strategy("second", template(estimator="ridge", alpha=1.0)))
    for _ in range(2):
        now = served.get_collector()()
        assert [key for key, models in now.items() if models] == list(before)
        pd.testing.assert_frame_equal(*(next(iter(one["served", "pred"].values())) for one in (before, now)))
        served.routine()
    assert days_of(served.get_signals())[-1] == RUN[0]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_templates_of_one_class_are_two_models(market: Market, trainer: str) -> None:
    """Templates of one class have separate keys and windows, and both stay online."""
    templates = [template(estimator="ridge", alpha=alpha) for alpha in (0.1, 10.0)]
    served = live(market, manager(TRAINERS[trainer](), templates=templates), DAYS[60:65])
    assert len(served.strategies[0].tool.online_models()) == 2
    models = served.get_collector()()["served", "pred"]
    assert len(models) == 2
    assert all(days_of(prediction) == DAYS[52:65] for prediction in models.values())
    assert len(recorders()) == 8


def test_a_tag_is_online_or_offline(market: Market) -> None:
    """Any other value would hide a model."""
    recorder = trained(market)
    with pytest.raises(ConfigError, match="'onlin'"):
        OnlineToolR("served").set_online_tag("onlin", recorder)


def test_a_mistyped_experiment_is_not_created(market: Market) -> None:
    """A mistyped experiment is an error that names the existing ones."""
    trained(market)
    with pytest.raises(ExperimentNotFound, match="served"):
        OnlineToolR("serve").online_models()
    with pytest.raises(ExperimentNotFound):
        OnlineToolR("serve").update_online_pred()


def test_an_artifact_is_updated_by_its_own_updater(market: Market) -> None:
    """Scores are not written into the labels, or labels into the scores."""
    recorder = trained(market)
    with pytest.raises(ConfigError, match=r"label.pkl .*LABEL0"):
        PredUpdater(recorder, fname="label.pkl", from_date=DAYS[60]).update()
    with pytest.raises(ConfigError, match=r"pred.pkl .*score"):
        LabelUpdater(recorder, fname="pred.pkl", from_date=DAYS[60]).update()
    assert list(recorder.load_object("label.pkl").columns) == ["LABEL0"]


def test_the_history_is_not_negative(market: Market) -> None:
    """A negative number of days would drop the first days to predict."""
    with pytest.raises(ConfigError, match="hist_ref"):
        PredUpdater(trained(market), hist_ref=-1)


def test_samples_of_several_days_bring_their_own_history(market: Market) -> None:
    """The first sample has all of its days even if the handler's range would begin on the first day to predict."""
    recorder = trained(market)

    def dataset() -> TSDatasetH:
        loader = QlibDataLoader({"feature": (["$close"], ["close"])})
        handler = DataHandlerLP("all", DAYS[60], data_loader=loader)
        return TSDatasetH(step_len=5, handler=handler, segments={"test": (DAYS[60], DAYS[60])})

    made = PredUpdater(recorder, from_date=DAYS[60]).prepare_data(dataset())
    assert str(made.handler.days()[0].date()) == DAYS[56]
    samples = made.prepare("test", col_set="feature")
    assert np.isfinite(samples[DAYS[60], samples.get_index()[0][1]]).all()
    fewer = PredUpdater(recorder, from_date=DAYS[60], hist_ref=2).prepare_data(dataset())
    assert str(fewer.handler.days()[0].date()) == DAYS[58]


def test_a_holiday_is_a_valid_end_of_an_update(market: Market) -> None:
    """From a holiday means from the next trading day; up to it, up to the trading day before."""
    holiday = "2024-05-01"
    market.show(DAYS[90])
    manager(begin=DAYS[84]).first_train()
    recorder = recorders()[-1]
    before = recorder.load_object("pred.pkl")
    PredUpdater(recorder, to_date=holiday).update()
    assert days_of(recorder.load_object("pred.pkl"))[-1] == "2024-04-30"
    PredUpdater(recorder, from_date=holiday, to_date=holiday).update()
    assert len(recorder.load_object("pred.pkl")) > len(before)
    PredUpdater(recorder, from_date=holiday).update()
    assert days_of(recorder.load_object("pred.pkl"))[-1] == DAYS[90]


def test_a_later_first_day_leaves_no_gap(market: Market) -> None:
    """Missing days before it are predicted too, because no later update would do so."""
    recorder = trained(market, DAYS[70])
    PredUpdater(recorder, from_date=DAYS[68], to_date=DAYS[69]).update()
    assert days_of(recorder.load_object("pred.pkl")) == DAYS[60:70]


def test_a_first_day_before_the_first_window_has_no_model(market: Market) -> None:
    """The first day fails with the reason; the days of the window are published."""
    market.show(DAYS[51])
    served = manager(begin=DAYS[50])
    with pytest.raises(DayFailed, match=f"No window has begun by {DAYS[51]}"):
        served.routine()
    market.show(DAYS[53])
    served.routine()
    assert days_of(served.get_signals()) == DAYS[52:54]


def test_a_strategy_needs_a_generator_of_windows(market: Market) -> None:
    """The strategy also needs a template with a first test day."""
    market.show(RUN[0])
    open_ended = template()
    open_ended["dataset"]["kwargs"]["segments"]["test"] = (None, DAYS[-1])
    with pytest.raises(ConfigError, match="first day of the test segment"):
        manager(templates=open_ended).first_train()


def test_a_simulation_returns_no_day_after_its_end(market: Market) -> None:
    """No day after the end is returned, even if the service has published later days before; the days that it published
    remain."""
    market.show(DAYS[63])
    served = manager(begin=DAYS[60])
    served.routine(DAYS[63])
    whole = served.get_signals()
    assert whole is not None
    for end, expected in [(DAYS[61], DAYS[61]), (DAYS[62], DAYS[62]), (None, DAYS[63]), ("2030-01-01", DAYS[63])]:
        part = served.simulate(end)
        assert days_of(part)[-1] == expected
        pd.testing.assert_series_equal(part, whole[whole.index.get_level_values("datetime") <= expected])
    pd.testing.assert_series_equal(served.get_signals(), whole)


@pytest.mark.parametrize("trainer", ["TrainerR", 5, TrainerR])
def test_a_trainer_is_an_object(market: Market, trainer: Any) -> None:
    """The name or the class of a trainer is refused when the manager is made, not on the first day."""
    with pytest.raises(ConfigError, match="trainer: must be a trainer"):
        OnlineManager([strategy("a")], trainer=trainer, begin_time=RUN[0])


def test_a_strategy_without_a_service_continues_its_online_models(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """The next windows follow the recorder that is tagged as online; without one there are none, and a warning says so."""
    market.show(DAYS[69])
    alone = strategy("alone")
    first, *_ = TrainerR(experiment_name="alone").train(alone.first_tasks()[:1])
    assert alone.prepare_tasks(DAYS[69]) == []
    assert "strategy alone has no online model yet" in caplog.text
    caplog.clear()
    alone.tool.reset_online_tag([first])
    following = alone.prepare_tasks(DAYS[69])
    starts = [str(task["dataset"]["kwargs"]["segments"]["test"][0].date()) for task in following]
    assert starts == [DAYS[56], DAYS[60], DAYS[64], DAYS[68]]
    assert "no online model" not in caplog.text


def test_an_update_up_to_the_first_trading_day_changes_nothing(market: Market) -> None:
    """A day before it is refused."""
    recorder = trained(market)
    before = recorder.load_object("pred.pkl")
    PredUpdater(recorder, to_date=DAYS[0]).update()
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), before)
    with pytest.raises(ConfigError, match="There is no trading day up to 2023-12-29"):
        PredUpdater(recorder, to_date="2023-12-29")


@pytest.mark.parametrize("alphas", [(10.0,), (0.1, 10.0)])
def test_a_model_that_omits_the_day_fails_it(
    market: Market, monkeypatch: pytest.MonkeyPatch, alphas: tuple[float, ...]
) -> None:
    """The signals are not those of the other model alone; the reason names the model."""
    templates = [template(estimator="ridge", alpha=alpha) for alpha in alphas]
    served = live(market, manager(templates=templates), RUN[:1])
    predict, models = LinearModel.predict, []

    def omitting(self: LinearModel, *args: Any, **kwargs: Any) -> Any:
        predicted = predict(self, *args, **kwargs)
        models.append(self.alpha)
        return predicted[predicted.index.get_level_values("datetime") < RUN[1]] if self.alpha == 10.0 else predicted

    monkeypatch.setattr(LinearModel, "predict", omitting)
    market.show(RUN[1])
    with pytest.raises(DayFailed, match=f"The model [0-9a-f]+ has no prediction for {RUN[1]}"):
        served.routine()
    assert set(models) == set(alphas)
    assert days_of(served.get_signals())[-1] == RUN[0]


def test_a_missing_score_is_published_as_such(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction with a missing score is not one that another process has overwritten, so it is not made again."""
    served = live(market, manager(), RUN[:1])
    predict, calls = LinearModel.predict, []

    def partial(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        predicted = predict(*args, **kwargs)
        return predicted.where(predicted.index.get_level_values("instrument") != "B")

    monkeypatch.setattr(LinearModel, "predict", partial)
    market.show(RUN[1])
    served.routine()
    assert served.get_signals().loc[RUN[1]].isna().tolist() == [False, True, False, False]
    assert len(calls) == 1


def test_one_instrument_is_enough(market: Market) -> None:
    """Nothing is ranked, but the day is published."""
    market.close = market.close[["A"]]
    signals = live(market, manager(), RUN).get_signals()
    assert days_of(signals)[-2:] == RUN
    assert set(signals.index.get_level_values("instrument")) == {"A"}


@pytest.mark.parametrize(("begin", "before"), [("2024-03-30", 64), ("2024-05-01", 86)])
def test_a_first_day_that_is_not_a_trading_day(market: Market, begin: str, before: int) -> None:
    """The first training uses the data of the trading day before it, which is the day in the history."""
    assert DAYS[before] < begin < DAYS[before + 1]
    market.show(DAYS[before])
    served = manager(begin=begin)
    served.first_train()
    market.show(DAYS[before + 1])
    served.routine()
    assert [str(day.date()) for day in served.history] == DAYS[before : before + 2]


def test_a_template_without_a_record_of_its_prediction_fails_the_day(market: Market) -> None:
    """The message says which record is missing."""
    market.show(DAYS[60])
    served = manager(templates={**template(), "record": []})
    with pytest.raises(DayFailed, match=r"no artifact 'pred.pkl'.* SignalRecord saves it: add it to 'record'"):
        served.routine()


def test_equal_templates_are_refused(market: Market) -> None:
    """Each window would have two equal models; templates may differ in their segments alone."""
    later = template()
    later["dataset"]["kwargs"]["segments"]["train"] = (DAYS[12], DAYS[51])
    strategy(templates=[template(), later])
    with pytest.raises(ConfigError, match="task_template: Templates 2 and 3 are the same"):
        strategy(templates=[later, template(), template()])


@pytest.mark.parametrize("wrong", [None, "served", {3}, [None]])
def test_strategies_are_objects(market: Market, wrong: Any) -> None:
    """Each other object is named in the error."""
    market.show(DAYS[60])
    with pytest.raises(ConfigError, match="strategies: must be a strategy or a list of strategies"):
        OnlineManager(wrong)


def test_names_of_strategies_and_services(market: Market) -> None:
    """An experiment may have a slash in its name, which the name of a new service does not get."""
    market.show(DAYS[60])
    assert manager(name="team/served").service.name.startswith("team-served-")
    for wrong in (None, 3, " "):
        with pytest.raises(ConfigError, match="name_id: must be the name of the experiment"):
            strategy(wrong)  # type: ignore[arg-type]
    for name in ("a/b", "..", 3):
        with pytest.raises(ConfigError, match="cannot be the name of a service"):
            manager(service=name)  # type: ignore[arg-type]


def test_an_updater_needs_a_recorder_and_a_frame(market: Market) -> None:
    """Other objects, and artifacts that are not tables, are named."""
    recorder = trained(market)
    with pytest.raises(ConfigError, match="record: must be a recorder, found 'an id'"):
        PredUpdater("an id")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fname: params.pkl of recorder .* is not a frame"):
        PredUpdater(recorder, fname="params.pkl")


@pytest.mark.parametrize("made", [None, pd.Series([1.0])])
def test_signals_are_a_table_of_days_and_instruments(market: Market, made: Any) -> None:
    """Anything else that a function returns is not published."""
    market.show(DAYS[60])
    served = manager()
    with pytest.raises(ConfigError, match="prepare_func: must return signals as a Series or DataFrame"):
        served.routine(signal_kwargs={"prepare_func": lambda results: made})
    assert served.get_signals() is None
