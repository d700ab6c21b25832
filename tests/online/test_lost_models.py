"""Models whose recorders no longer exist: the service goes on, with the same signals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import rollforge
from growing import BEGIN, DAYS, STEP, TRAINERS, Market, equal, live, manager, recorders, start_of, strategy, template
from rollforge.errors import DayFailed
from rollforge.ledger.entry import EntryKind, Level
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.session import current_session
from rollforge.track.base import get_experiment, open_tracker

FIRST = DAYS.index(BEGIN)
RUN = DAYS[FIRST : FIRST + STEP + 2]
"""Two windows begin in them."""


@pytest.fixture(params=["folder", "mlflow"])
def served_by(request: pytest.FixtureRequest, tmp_path: Path, market: Market) -> Market:
    """The market with a tracker of each kind."""
    if request.param == "mlflow":
        pytest.importorskip("mlflow")
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        rollforge.init(market.folder, tracking_uri=uri, store_uri=f"memory://{tmp_path.name}", threads=1)
    return market


def lose(*ids: str) -> None:
    tracker = open_tracker(current_session().tracking_uri)
    for one in ids:
        get_experiment(tracker, experiment_name="served", create=False).delete_recorder(one)


def test_a_lost_champion_is_trained_again(served_by: Market, undisturbed: Callable[..., pd.Series]) -> None:
    """As a separate entry, for the window that it was trained for; the signals are those that it would have given."""
    days = RUN
    served = live(served_by, manager(trunc_days="auto"), days[:2])
    (lost,) = served.state.champions(days[2])
    lose(lost.recorder)
    for day in days[2:]:
        served_by.show(day)
        served.routine(day)
    equal(served.get_signals(), undisturbed(days[-1], trunc_days="auto"))
    promoted = [(e, r) for e, r in served.state.releases if e.kind == EntryKind.PROMOTION]
    assert [(r.recorder == lost.recorder, r.role.value, r.from_day) for _, r in promoted] == [
        (True, "retired", days[2]),
        (False, "champion", days[2]),
    ]
    text = f"the recorder {lost.recorder} no longer exists, so its window was trained again"
    assert {r.reason for _, r in promoted} == {text}
    assert promoted[0][0].body["reason"] == "recorders no longer exist"
    (event,) = [event for entry, event in served.state.events if entry.kind == EntryKind.DAY]
    assert (event.level, event.text) == (Level.WARNING, text)
    assert start_of(next(r for r in recorders() if r.id == promoted[1][1].recorder)) == DAYS[FIRST]


@pytest.mark.parametrize("which", ["replaced", "replacing"])
def test_a_rollback_stays_when_a_model_is_lost(market: Market, which: str) -> None:
    """A rollback stays whether the model in use or the one that it replaces is lost; the next window begins when it is
    due."""
    days = DAYS[FIRST : FIRST + 2 * STEP + 1]
    served = live(market, manager(trunc_days="auto"), days[: STEP + 1])
    (old,) = served.state.champions(days[STEP - 1])
    (new,) = served.state.champions(days[STEP])
    service = served.service
    service.replace_champions("served", [service.recorder(old)])
    lose(new.recorder if which == "replaced" else old.recorder)
    starts = []
    for day in days[STEP + 1 :]:
        market.show(day)
        served.routine(day)
        (used,) = served.state.champions(day)
        starts.append(start_of(service.recorder(used)))
    assert starts == [days[0]] * (STEP - 1) + [days[2 * STEP]]


def test_a_tracker_that_was_emptied(market: Market, tmp_path: Path, undisturbed: Callable[..., pd.Series]) -> None:
    """All recorders are gone, also those of earlier windows; the next windows follow from the ledger."""
    served = live(market, manager(trunc_days="auto"), RUN[:-1])
    shutil.rmtree(tmp_path / "runs")
    market.show(RUN[-1])
    served.routine()
    equal(served.get_signals(), undisturbed(RUN[-1], trunc_days="auto"))
    assert len(recorders()) == 1


def test_a_lost_model_of_a_removed_template(market: Market) -> None:
    """A lost model of a removed template cannot be trained again, and the day says so."""
    market.show(BEGIN)
    two = [template(), template(estimator="ridge", alpha=1.0)]
    served = live(market, manager(templates=two, service="two"), RUN[:1])
    _, removed = served.state.champions(RUN[1])
    lose(removed.recorder)
    market.show(RUN[1])
    changed = [template(), template(estimator="lasso", alpha=1.0)]
    again = manager(templates=changed, service="two")
    with pytest.raises(DayFailed, match="is not in the workflow"):
        again.routine()


def test_a_candidate_that_is_lost_when_it_is_promoted(market: Market) -> None:
    """The window that begins on the day from which on it is the champion is trained nevertheless."""
    days = DAYS[FIRST : FIRST + 2 * STEP + 1]
    rolled = strategy(trunc_days="auto")
    served = OnlineManager(rolled, begin_time=BEGIN, policy=Policy(2, margin=2.0))
    live(market, served, days[:-1])
    (promoted,) = served.state.champions(days[-1])
    assert (promoted.from_day, start_of(served.service.recorder(promoted))) == (days[-1], days[STEP])
    lose(promoted.recorder)
    market.show(days[-1])
    served.routine()
    found = [*served.state.champions(days[-1]), *served.state.candidates(days[-1])]
    assert [start_of(served.service.recorder(release)) for release in found] == [days[STEP], days[-1]]


def test_a_lost_model_of_an_earlier_definition_is_not_continued(market: Market) -> None:
    """The windows of the changed template begin after the last published day, although its grid has others before."""
    served = live(market, manager(service="changed"), DAYS[FIRST : FIRST + 4])
    (lost,) = served.state.champions(DAYS[FIRST + 4])
    lose(lost.recorder)
    changed = template()
    changed["dataset"]["kwargs"]["segments"]["test"] = (DAYS[54], DAYS[-1])
    again = manager(templates=changed, service="changed")
    starts = []
    for day in DAYS[FIRST + 4 : FIRST + 7]:
        market.show(day)
        again.routine(day)
        (used,) = again.state.champions(day)
        starts.append(start_of(again.service.recorder(used)))
    assert starts == [DAYS[58], DAYS[58], DAYS[66]]


@pytest.mark.parametrize("trainer", ["TrainerRM", "DelayTrainerRM"])
def test_a_pool_that_outlives_its_recorders(market: Market, trainer: str) -> None:
    """A new service with the data of the same day trains the windows again, although their tasks are done."""
    market.show(BEGIN)
    manager(TRAINERS[trainer]()).first_train()
    before = {recorder.id for recorder in recorders()}
    lose(*before)
    served = manager(TRAINERS[trainer]())
    served.routine()
    assert before.isdisjoint(recorder.id for recorder in recorders())
    assert served.state.last_published == BEGIN
