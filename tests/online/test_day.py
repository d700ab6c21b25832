"""The entries of a routine, and the parts of a service that it leaves as they are."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import BEGIN, DAYS, Market, equal, live, manager, recorders, start_of, strategy, template
from rollforge.errors import DataError, DayFailed
from rollforge.ledger.entry import DayState, EntryKind, Role
from rollforge.models.linear import LinearModel
from rollforge.online.data_marks import data_mark, history_marks
from rollforge.online.day import DayRun
from rollforge.online.manager import OnlineManager
from rollforge.session import current_session

RUN = DAYS[60:65]
"""Windows begin on the first and on the last of them."""


def predictions(served: OnlineManager, start: str) -> pd.DataFrame:
    """Return the stored predictions of the model of a window."""
    (recorder,) = [one for one in recorders(served.strategies[0].experiment_name) if start_of(one) == start]
    found: pd.DataFrame = recorder.load_object("pred.pkl")
    return found


def test_the_entries_of_the_first_days(market: Market) -> None:
    """The service, the first training, and the days, each with the data from which it follows."""
    served = live(market, manager(), RUN)
    state, first = served.state, [start_of(one) for one in recorders()]
    assert [entry.kind for entry in state.entries] == ["service", *["day"] * 6]
    assert state.definition is not None
    assert (state.definition.workflow, state.definition.policy) == ({"served": "RollingStrategy"}, {})
    trained, *days = (content for content in state.contents if content.day is not None)
    results = [content.day for content in (trained, *days) if content.day is not None]
    assert [(one.day, one.state) for one in results] == [
        (BEGIN, DayState.TRAINED), *((day, DayState.PUBLISHED) for day in RUN),
    ]  # fmt: skip
    starts = {one.id: start_of(one) for one in recorders()}
    assert [[starts[one] for one in result.trained] for result in results] == [first[:3], [], [], [], [], first[3:]]
    assert all(0 <= one.seconds == round(one.seconds, 3) < 600 for one in results)
    assert [list(one.history) for one in results] == [
        ["2024-01", "2024-02", "2024-03"], DAYS[52:60], [], [], [], ["2024-01", "2024-02", "2024-03"],
    ]  # fmt: skip
    assert results[-1].history == history_marks(served.service)
    assert results[-1].data == data_mark(RUN[-1])
    champions = [r for r in trained.releases if r.role is Role.CHAMPION]
    assert [(r.from_day, starts[r.recorder], r.reason) for r in champions] == [
        (day, day, "first training") for day in (DAYS[52], DAYS[56], DAYS[60])
    ]
    assert [content.releases for content in days[:-1]] == [()] * 4
    assert [(r.from_day, starts[r.recorder], r.reason) for r in days[-1].releases if r.role is Role.CHAMPION] == [
        (RUN[-1], RUN[-1], "new window")
    ]
    assert [[signal.day for signal in content.signals] for content in days] == [
        DAYS[52:61], *([day] for day in RUN[1:]),
    ]  # fmt: skip
    assert [signal.file for signal in days[0].signals] == [f"signals/{BEGIN}.v1.parquet"] * 9
    assert {(signal.rows, signal.version, signal.why) for _, signal in state.published} == {(4, 1, "")}
    used = {signal.day: [starts[one] for one in signal.recorders] for _, signal in state.published}
    assert used == {day: [DAYS[52 + (place - 52) // 4 * 4]] for place, day in enumerate(DAYS[52:65], 52)}


def test_predictions_of_published_days_stay_as_they_were(market: Market) -> None:
    """Until they are corrected, although a bar has arrived since: those of the model in use, and those of one whose window
    has ended, which is predicted up to the day before the next one begins."""
    full = market.close.copy()
    market.close.loc[RUN[2:4], "A"] = np.nan
    served = live(market, manager(), RUN[:3])
    for day, shown in [(RUN[3], market.close), (RUN[4], full)]:
        before = predictions(served, BEGIN)
        market.close = shown
        market.show(day)
        served.routine()
        after = predictions(served, BEGIN)
        pd.testing.assert_frame_equal(after.loc[: DAYS[DAYS.index(day) - 1]], before, check_exact=True)
    assert set(map(str, after.index.get_level_values("datetime").date)) == {*RUN[:4]}


def test_each_model_predicts_a_day_once(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting takes most of the time of a day without training. A model that was trained on the day has predicted it."""
    predict, days = LinearModel.predict, list[str]()

    def noted(model: LinearModel, *args: Any, **kwargs: Any) -> Any:
        days.append(str(current_session().data_until))
        return predict(model, *args, **kwargs)

    served = OnlineManager([strategy("one"), strategy("two", template(estimator="ridge", alpha=1.0))], begin_time=BEGIN)
    live(market, served, RUN[:1])
    monkeypatch.setattr(LinearModel, "predict", noted)
    for day in RUN[1:]:
        market.show(day)
        served.routine()
    assert days == [day for day in RUN[1:] for _ in range(2)]


def test_a_day_that_failed_after_its_prediction_is_predicted_again(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may have been corrected in between."""
    served = live(market, manager(), RUN[:1])

    def fail(day: DayRun) -> None:
        raise DayFailed("the disk is full")

    market.show(RUN[1])
    with monkeypatch.context() as patch:
        patch.setattr(DayRun, "_signals", fail)
        with pytest.raises(DayFailed, match="the disk is full"):
            served.routine()
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[1])
    served.routine()
    equal(served.get_signals(), live(market, manager(name="again"), RUN[:2]).get_signals())


def test_a_folder_that_cannot_be_read_fails_the_day(market: Market) -> None:
    """The reason is recorded, although the fingerprint of the day cannot be computed either."""
    served = live(market, manager(), RUN[:1])
    market.show(RUN[1])
    file = next(market.folder.glob("features/*/close.day.bin"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError) as error:
        served.routine()
    failed = served.state.days[RUN[1]]
    assert (failed.state, failed.error, failed.data) == (DayState.FAILED, str(error.value), "")
    file.write_bytes(whole)
    served.routine()
    assert served.state.days[RUN[1]].state is DayState.PUBLISHED


@pytest.mark.parametrize("files", [True, False])
def test_services_of_files_leave_each_other_their_tags(market: Market, files: bool) -> None:
    """Both share an experiment. A service that was created in Python may be that of an earlier run of a program, so its
    models are no longer online."""
    one = manager(service="one")
    two = manager(service="two", templates=template(estimator="ridge", alpha=1.0))
    for served in (one, two):
        served.service.workflow = {"path": "job.yaml"} if files else None
    for day in RUN[:2]:
        for served in (one, two):
            market.show(day)
            served.routine(day)
    champions = [{r.recorder for r in served.state.champions(RUN[1])} for served in (one, two)]
    tagged = {recorder.id for recorder in one.strategies[0].tool.tagged()}
    assert tagged == (champions[0] | champions[1] if files else champions[1])


def test_aliases_that_cannot_be_written_fail_no_day(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    """A tracking store without a registry of models is named in a warning."""
    served = manager()
    served.service.registry = "momentum"
    with caplog.at_level(logging.WARNING):
        live(market, served, RUN[:1])
    assert served.state.last_published == RUN[0]
    text = "the aliases of the registered model momentum could not be written: "
    assert any(message.startswith(text) for message in caplog.messages)
    assert served.state.entries[-1].kind == EntryKind.DAY


def test_results_are_restricted_to_a_day_only_while_it_is_published(market: Market) -> None:
    """A function of one's own for the signals gets the predictions of all days."""
    served, seen = manager(), list[list[str]]()

    def noted(results: Any) -> Any:
        (models,) = results.values()
        (frame,) = models.values()
        seen.append(sorted({str(day.date()) for day in frame.index.get_level_values("datetime")}))
        return frame["score"]

    for day in RUN[:2]:
        market.show(day)
        served.routine(signal_kwargs={"prepare_func": noted})
    assert seen == [DAYS[52:61], DAYS[52:62]]
    market.show(RUN[2])
    served.routine()
    assert served.service.days is None
    (models,) = served.get_collector(artifacts_key=["pred"])().values()
    (frame,) = models.values()
    assert len(frame) == 4 * 11
