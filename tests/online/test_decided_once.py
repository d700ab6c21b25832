"""A single entry decides what is online, and a task is trained once, however often a routine is interrupted."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rollforge
from growing import DAYS, TRAINERS, Market, days_of, equal, live, manager, recorders, start_of, template
from killed_routines import ended, start
from rollforge.errors import (
    ConfigError,
    DayFailed,
    ServiceBusy,
    StoreUnavailable,
    TrackingUnavailable,
    TrainingFailed,
)
from rollforge.generate.task_view import TaskView
from rollforge.ledger.entry import EntryKind, Release, Role, release_body
from rollforge.ledger.memory import MemoryLedger
from rollforge.models.linear import LinearModel
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.online.service import Hold
from rollforge.online.tool import OnlineToolR
from rollforge.online.update import PredUpdater
from rollforge.run.execute import PROCESS_TAG, TASK_TAG, task_train
from rollforge.run.leases import Leases
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker

RUN = DAYS[60:66]
"""Windows begin on the first and on the fifth day."""


class Killed(BaseException):
    """Simulates that the process of a routine is killed."""


def interrupted(served: OnlineManager, day: str, monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> None:
    """Run the routine of a day up to a call of a function."""

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            served.routine(day)


def online(served: OnlineManager) -> list[str]:
    """Return the first test days of the models that are tagged as online."""
    return sorted(start_of(recorder) for recorder in served.strategies[0].tool.online_models())


def test_a_routine_killed_between_the_tags_goes_on(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the tags of all recorders are lost, the next routine writes them again, and signals continue."""
    served = live(market, manager(), RUN[:5])
    for recorder in recorders():
        recorder.set_tags(**{OnlineToolR.ONLINE_KEY: OnlineToolR.OFFLINE_TAG})
    assert online(served) == []
    market.show(RUN[5])
    served.routine(RUN[5])
    assert online(served) == [DAYS[64]]
    assert days_of(served.get_signals())[-1] == RUN[5]


def test_tags_that_cannot_be_written_again_are_a_warning(
    market: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The day is published, and the next one writes them."""
    served = live(market, manager(), RUN[:2])
    for recorder in recorders():
        recorder.set_tags(**{OnlineToolR.ONLINE_KEY: OnlineToolR.OFFLINE_TAG})

    def fail(*arguments: object, **options: object) -> None:
        raise TrackingUnavailable("the tracking store is read-only")

    market.show(RUN[2])
    with monkeypatch.context() as patched:
        patched.setattr(OnlineToolR, "mark", fail)
        served.routine(RUN[2])
        assert "tags could not be written: the tracking store is read-only" in caplog.text
    assert (served.state.last_published, online(served)) == (RUN[2], [])
    market.show(RUN[3])
    served.routine(RUN[3])
    assert online(served) == [DAYS[60]]


def test_no_models_cannot_be_put_online(market: Market) -> None:
    """An empty list would leave the strategy without a model."""
    served = live(market, manager(), RUN[:1])
    tool = served.strategies[0].tool
    with pytest.raises(ConfigError, match="no recorder to put online"):
        tool.reset_online_tag([])
    for chosen in (recorders(), recorders()[-1]):
        with pytest.raises(ConfigError, match="No model of 'served' would be online"):
            tool.set_online_tag("offline", chosen)
    assert online(served) == [DAYS[60]]
    tool.set_online_tag("offline", [r for r in recorders() if start_of(r) != DAYS[60]])
    assert online(served) == [DAYS[60]]


@pytest.mark.parametrize("wrong", [None, [None], "an id", ["an id"], 3])
def test_what_is_marked_must_be_a_recorder(market: Market, wrong: Any) -> None:
    """Other objects are named, before any tag is written."""
    served = live(market, manager(), RUN[:1])
    tool = served.strategies[0].tool
    for change in (tool.reset_online_tag, lambda one: tool.set_online_tag("online", one)):
        with pytest.raises(
            ConfigError, match=r"recorder: must be a recorder or a list of recorders, found (None|3|'an id')"
        ):
            change(wrong)
    assert online(served) == [DAYS[60]]


@pytest.mark.parametrize("begin", ["2024-03-30", "2030-01-01"])
def test_nothing_is_due_before_a_first_day_in_the_future(market: Market, begin: str) -> None:
    """The manager publishes from the first trading day on or after it, as soon as the data contain it."""
    market.show(RUN[3])  # 2024-03-28
    served = manager(begin=begin)
    served.routine()
    assert served.simulate() is None
    assert served.get_signals() is None
    if begin < RUN[-1]:
        market.show(RUN[5])
        served.routine()
        assert (served.state.last_published, days_of(served.get_signals())[-1]) == (RUN[5], RUN[5])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_is_trained_is_not_trained_again(
    market: Market, trainer: str, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., pd.Series]
) -> None:
    """Interrupted after training, before anything is released: the next routine uses the existing recorder."""
    served = live(market, manager(TRAINERS[trainer]()), RUN[:4])
    market.show(RUN[4])
    interrupted(served, RUN[4], monkeypatch, type(served.strategies[0]), "prepare_online_models")
    trained = {recorder.id for recorder in recorders()}
    market.show(RUN[5])
    served.first_train()
    served.routine(RUN[5])
    assert {recorder.id for recorder in recorders()} == trained
    equal(served.get_signals(), undisturbed(RUN[-1]))


@pytest.mark.parametrize("trainer", [TrainerR, DelayTrainerR])
def test_interrupted_while_fitting_the_day_is_repeated(
    market: Market, trainer: type[TrainerR], monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., pd.Series]
) -> None:
    """A delayed trainer that has prepared the recorders and not fitted them leaves nothing online that has no model."""
    served = live(market, manager(trainer()), RUN[:4])
    market.show(RUN[4])
    interrupted(served, RUN[4], monkeypatch, LinearModel, "fit")
    assert online(served) == [DAYS[60]]
    market.show(RUN[5])
    served.routine(RUN[5])
    assert online(served) == [DAYS[64]]
    equal(served.get_signals(), undisturbed(RUN[-1]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("trainer", ["TrainerRM", "DelayTrainerRM"])
def test_killed_before_a_task_is_committed(market: Market, tmp_path: Path, trainer: str) -> None:
    """The recorder exists and the pool does not know it: the next routine prepares another one, and trains once."""
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1
    )
    served = live(market, manager(TRAINERS[trainer]()), RUN[:4])
    market.show(RUN[4])

    def work() -> None:
        Leases.commit = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        served.routine(RUN[4])

    assert ended(start(work)) == "killed"
    served.routine(RUN[4])
    assert [start_of(r) for r in recorders(status=Recorder.STATUS_FI)] == [DAYS[i] for i in (52, 56, 60, 64)]
    assert days_of(served.get_signals()) == DAYS[52:65]


@pytest.mark.parametrize("failures", [2, 3])
def test_an_entry_whose_answer_is_lost_is_appended_once(
    market: Market, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The same call is made up to three times; then the error is raised, and the next routine finds the entry."""
    served = live(market, manager(), RUN[:1])
    append, calls = MemoryLedger.append, []

    def lost(self: MemoryLedger, *args: Any, **kwargs: Any) -> Any:
        entry = append(self, *args, **kwargs)
        calls.append(entry.number)
        if len(calls) <= failures:
            raise StoreUnavailable("the connection was closed")
        return entry

    market.show(RUN[1])
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLedger, "append", lost)
        if failures == 3:
            with pytest.raises(StoreUnavailable, match="the connection was closed"):
                served.routine()
        else:
            served.routine()
    assert calls == 3 * [served.state.last]
    served.routine()
    assert [e.body["day"]["day"] for e in served.state.entries if e.kind == EntryKind.DAY].count(RUN[1]) == 1  # type: ignore[index]


def test_tags_are_written_again_before_a_day_that_fails(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tags are lost, and the training of the next window fails."""
    served = live(market, manager(), RUN[:4])
    for recorder in recorders():
        recorder.set_tags(**{OnlineToolR.ONLINE_KEY: OnlineToolR.OFFLINE_TAG})
    market.show(RUN[4])
    monkeypatch.setattr(LinearModel, "fit", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(TrainingFailed):
        served.routine()
    assert online(served) == [DAYS[60]]


def test_the_spans_of_a_model_are_joined(market: Market) -> None:
    """A model that continues when another one changes has a single span, and one that returns has two."""
    service = manager().service
    with service.hold() as held:
        for day, name, role, template in [
            (RUN[0], "a", Role.CHAMPION, "one"),
            (RUN[1], "b", Role.CHAMPION, "two"),
            (RUN[2], "c", Role.CHAMPION, "two"),
            (RUN[3], "b", Role.CHAMPION, "two"),
        ]:
            release = Release("t", "served", name, role, day, strategy="served", template=template)
            held.append(EntryKind.PROMOTION, release_body([release], ""))
    assert service.spans("served") == {
        "a": [(RUN[0], None)],
        "b": [(RUN[1], RUN[2]), (RUN[3], None)],
        "c": [(RUN[2], RUN[3])],
    }


def test_two_managers_share_what_is_trained(market: Market) -> None:
    """A second service on the same experiment, and a simulation, train nothing that is trained with the same data."""
    served = live(market, manager(), RUN[:5])
    trained = {recorder.id for recorder in recorders()}
    again = manager()
    equal(again.simulate(RUN[4]), served.get_signals())
    assert {recorder.id for recorder in recorders()} == trained
    market.show(RUN[5])
    served.routine(RUN[5])
    assert days_of(served.get_signals())[-1] == RUN[5]


@pytest.mark.parametrize("times", [1, 5])
def test_a_prediction_that_another_service_overwrites_is_made_again(
    market: Market, monkeypatch: pytest.MonkeyPatch, times: int, undisturbed: Callable[..., pd.Series]
) -> None:
    """Two services had read it before the day was added. A day whose prediction is always overwritten fails and is
    due."""
    served = live(market, manager(), RUN[:2])
    update, overwritten = PredUpdater.update, []

    def raced(self: PredUpdater, *args: Any, **kwargs: Any) -> Any:
        updated = update(self, *args, **kwargs)
        if len(overwritten) < times:
            overwritten.append(self.record.id)
            self.record.save_objects(**{"pred.pkl": self.old_data})
        return updated

    monkeypatch.setattr(PredUpdater, "update", raced)
    market.show(RUN[2])
    if times == 1:
        served.routine(RUN[2])
    else:
        with pytest.raises(DayFailed, match=f"The model .* has no prediction for {RUN[2]}"):
            served.routine(RUN[2])
        served.routine(RUN[2])
    equal(served.get_signals(), undisturbed(RUN[2]))


def test_a_correction_that_another_service_overwrites_is_made_again(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction that the other one had read is that of the earlier data, which is there and wrong."""
    served = live(market, manager(), RUN[:2])
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[1])
    update, overwritten = PredUpdater.update, []

    def raced(self: PredUpdater, *args: Any, **kwargs: Any) -> Any:
        updated = update(self, *args, **kwargs)
        if not overwritten:
            overwritten.append(self.record.id)
            self.record.save_objects(**{"pred.pkl": self.old_data})
        return updated

    monkeypatch.setattr(PredUpdater, "update", raced)
    assert [(signal.day, signal.version) for signal in correct(served.service)] == [(RUN[1], 2)]
    assert overwritten


def test_two_services_on_one_experiment_publish_what_each_would_alone(
    market: Market, undisturbed: Callable[..., pd.Series]
) -> None:
    """Although one of them lags behind, and both update the predictions of the same recorders."""
    ahead, behind = manager(), manager()
    for place, day in enumerate(RUN):
        market.show(day)
        ahead.routine(day)
        if place in (2, 5):
            behind.routine(RUN[place - 1])
    for served in (ahead, behind):
        equal(served.get_signals(), undisturbed(served.state.last_published))
    assert [start_of(recorder) for recorder in recorders()] == [DAYS[place] for place in (52, 56, 60, 64)]


def test_a_window_trained_with_later_data_is_not_used(market: Market, undisturbed: Callable[..., pd.Series]) -> None:
    """A simulation on an experiment whose windows were trained later trains its own, with the data of its days."""
    market.show(DAYS[70])
    live(market, manager(begin=DAYS[70]), [DAYS[70]])
    equal(manager().simulate(RUN[-1]), undisturbed(RUN[-1]))


def test_a_rollback_is_an_entry_and_holds_until_the_next_window(
    market: Market, undisturbed: Callable[..., pd.Series]
) -> None:
    """Former models put online predict from the next day on, and the next window replaces them."""
    run = DAYS[60:69]
    plain = undisturbed(run[-1])
    served = live(market, manager(), run[:5])
    former = next(r for r in recorders() if start_of(r) == DAYS[60])
    served.strategies[0].tool.reset_online_tag([former])
    assert served.state.entries[-1].kind == EntryKind.ROLLBACK
    assert served.state.releases[-1][1].reason == "set manually"
    for day in run[5:]:
        market.show(day)
        served.routine(day)
        assert online(served) == ([DAYS[68]] if day == DAYS[68] else [DAYS[60]])
    signals = served.get_signals()
    for day in DAYS[52:69]:
        same = signals.loc[day].equals(plain.loc[day])
        assert same is (day not in run[5:8]), day
    for day, models in served.history.items():
        (used,) = models.values()
        first = DAYS[68] if str(day.date()) >= DAYS[68] else DAYS[64] if str(day.date()) == DAYS[64] else DAYS[60]
        assert [start_of(recorder) for recorder in used] == [first], day


def test_a_model_trained_manually_is_no_window(market: Market) -> None:
    """The windows follow from those that the service has trained, although it begins later than the last of them."""
    served = live(market, manager(), RUN[:2])
    days = {"train": (DAYS[19], DAYS[58]), "test": (RUN[1], RUN[4])}
    segments = {name: tuple(map(pd.Timestamp, span)) for name, span in days.items()}
    (manual,) = TrainerR().train([TaskView(template()).with_segments(segments)], experiment_name="served")
    served.strategies[0].tool.reset_online_tag([manual])
    used = {}
    for day in RUN[2:]:
        market.show(day)
        served.routine(day)
        used[day] = online(served)
    assert used == {RUN[2]: [RUN[1]], RUN[3]: [RUN[1]], RUN[4]: [RUN[4]], RUN[5]: [RUN[4]]}


def test_missed_days_are_made_up(market: Market, undisturbed: Callable[..., pd.Series]) -> None:
    """After a week without a routine, the models of each day predict it, also the last day of an outgoing one."""
    served = live(market, manager(), DAYS[60:63])
    market.show(DAYS[69])
    served.routine()
    equal(served.get_signals(), undisturbed(DAYS[69]))
    assert [start_of(r) for r in recorders()] == [DAYS[i] for i in (52, 56, 60, 64, 68)]


def test_a_day_twice_changes_nothing(market: Market) -> None:
    """Neither the ledger nor the recorders change."""
    served = live(market, manager(), RUN[:2])
    entries, trained = served.state.last, len(recorders())
    served.routine(RUN[1])
    served.routine(RUN[0])
    served.first_train()
    served.simulate(RUN[1])
    assert (served.state.last, len(recorders())) == (entries, trained)


def test_of_two_at_once_one_names_the_other(market: Market) -> None:
    """The second fails with the name of the holder, and nothing changes."""
    served = live(market, manager(), RUN[:1])
    other = manager(service=served.service.name)
    market.show(RUN[1])
    with served.service.hold() as held, pytest.raises(ServiceBusy) as caught:
        other.routine(RUN[1])
    assert held.lease.holder in str(caught.value)
    other.routine(RUN[1])
    equal(other.get_signals(), served.get_signals())


def test_a_killed_training_is_closed(market: Market) -> None:
    """A recorder that a process left running that has ended is marked as failed by the next training."""
    served = live(market, manager(), RUN[:4])
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served")
    left = experiment.create_recorder("left", {PROCESS_TAG: _gone(), TASK_TAG: "0" * 32})
    mine = experiment.create_recorder("mine", {TASK_TAG: "1" * 32})
    market.show(RUN[4])
    served.routine(RUN[4])
    assert experiment.get_recorder(left.id).status == Recorder.STATUS_FA
    assert experiment.get_recorder(mine.id).status == Recorder.STATUS_R
    mine.end_run()


def _gone() -> str:
    """Return the name of a process of this machine that has ended."""
    import subprocess
    import sys

    code = "from rollforge.machine import process_name; print(process_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_models_online_before_the_ledger_are_adopted(market: Market) -> None:
    """A routine without a first training continues with the models that are tagged as online."""
    market.show(DAYS[60])
    earlier = manager()
    (task,) = earlier.strategies[0].first_tasks()[2:3] or earlier.strategies[0].first_tasks()[-1:]
    recorder = task_train(task, experiment_name="served")
    OnlineToolR("served").reset_online_tag(recorder)
    served = manager()
    served.routine(DAYS[60])
    assert [r.id for r in recorders()] == [recorder.id]
    assert [(r.recorder, r.reason) for r in served.state.champions(DAYS[60])] == [(recorder.id, "was online before")]


def test_a_first_training_adopts_no_models(market: Market) -> None:
    """Tagged models may have been trained with other data; models of a strategy that has begun already are trained only once."""
    market.show(DAYS[60])
    earlier = task_train(manager().strategies[0].first_tasks()[-1], experiment_name="served")
    OnlineToolR("served").reset_online_tag(earlier)
    served = manager()
    for _ in range(2):
        served.first_train()
        trained = {recorder.id for recorder in recorders()} - {earlier.id}
        assert len(trained) == 3
        assert {r.recorder for _, r in served.state.releases if r.role is Role.CHAMPION} == trained


def test_tags_are_written_again_although_no_day_is_due(market: Market) -> None:
    """Tags may have been lost since the last routine."""
    served = live(market, manager(), RUN[:1])
    for recorder in recorders():
        recorder.set_tags(**{OnlineToolR.ONLINE_KEY: OnlineToolR.OFFLINE_TAG})
    served.routine()
    assert online(served) == [DAYS[60]]


def test_models_of_another_service_are_not_adopted(market: Market) -> None:
    """A service with another model in the experiment of the first one trains its own."""
    first = live(market, manager(service="one"), RUN[:1])
    second = manager(service="two", templates=template(estimator="ridge", alpha=1.0))
    second.routine(RUN[0])
    used = [{release.recorder for release in served.state.champions(RUN[0])} for served in (first, second)]
    assert len(used[0] | used[1]) == 2
    assert {release.reason for _, release in second.state.releases} == {"first training"}


def test_models_of_a_killed_first_day_are_not_models_online_before(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is killed after it has tagged the latest of the first models, and before it has recorded any of
    them."""
    market.show(DAYS[60])
    undisturbed = manager(name="undisturbed")
    undisturbed.routine(DAYS[60])
    served = manager()
    append = Hold.append

    def killed(hold: Hold, kind: EntryKind, *args: Any, **kwargs: Any) -> None:
        if kind is EntryKind.DAY:
            raise KeyboardInterrupt
        append(hold, kind, *args, **kwargs)

    monkeypatch.setattr(Hold, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        served.routine(DAYS[60])
    monkeypatch.setattr(Hold, "append", append)
    assert served.strategies[0].tool.tagged()
    served.routine(DAYS[60])
    equal(served.get_signals(), undisturbed.get_signals())
    assert {r.reason for _, r in served.state.releases} == {"first training"}


def test_of_two_threads_at_once_one_names_the_other(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both share the manager; what the first one is deciding is not visible to the second."""
    served = live(market, manager(), RUN[:1])
    market.show(RUN[5])
    fitting, go_on = threading.Event(), threading.Event()
    fit = LinearModel.fit

    def waiting(model: LinearModel, *args: Any, **kwargs: Any) -> Any:
        fitting.set()
        assert go_on.wait(60)
        return fit(model, *args, **kwargs)

    monkeypatch.setattr(LinearModel, "fit", waiting)
    first = threading.Thread(target=served.routine)
    first.start()
    try:
        assert fitting.wait(60)
        assert not served.service.deciding
        with pytest.raises(ServiceBusy, match="is being run by"):
            served.routine()
    finally:
        go_on.set()
        first.join()
    assert [(day, len(served.state.versions(day))) for day in RUN] == [(day, 1) for day in RUN]
    assert [start_of(recorder) for recorder in recorders()] == [DAYS[52], DAYS[56], DAYS[60], DAYS[64]]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_training_that_failed_is_repeated(market: Market, trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the cause is removed, the next routine trains the window, also if a pool knows that its task has failed."""
    served = live(market, manager(TRAINERS[trainer]()), RUN[:4])

    def failing(*args: object, **kwargs: object) -> None:
        raise ValueError("no memory")

    market.show(RUN[4])
    with monkeypatch.context() as patch:
        patch.setattr(LinearModel, "fit", failing)
        for _ in range(2):
            with pytest.raises(TrainingFailed, match="no memory"):
                served.routine()
    served.routine()
    assert days_of(served.get_signals())[-1] == RUN[4]
    assert [start_of(served.service.recorder(r)) for r in served.state.champions(RUN[4])] == [DAYS[64]]


def test_tags_written_without_the_ledger_are_reported(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    """A tool without a service puts a former model online; the next routine writes the tags again, and says so."""
    served = live(market, manager(), RUN[:5])
    OnlineToolR("served").reset_online_tag(recorders()[0])
    market.show(RUN[5])
    with caplog.at_level(logging.WARNING, "rollforge.online"):
        served.routine()
    assert online(served) == [DAYS[64]]
    (warned,) = [r.getMessage() for r in caplog.records if "tagged" in r.getMessage()]
    assert recorders()[0].id in warned
    assert "reset_online_tag of the manager's strategy" in warned
