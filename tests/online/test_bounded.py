"""A routine uses the data up to its day: the training and its data do not depend on when the routine runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from growing import BEGIN, DAYS, STEP, TRAINERS, Market, days_of, equal, live, manager, recorders, start_of, template
from rollforge.errors import ConfigError
from rollforge.generate.calendar_windows import CalendarGen
from rollforge.generate.cross_validation import PurgedKFoldGen
from rollforge.generate.grid import SeedGen
from rollforge.generate.rolling import RollingGen
from rollforge.generate.sequence import ChainGen
from rollforge.models.linear import LinearModel
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import RollingStrategy
from rollforge.session import amend

RUN = DAYS[60:69]
"""Nine days from `BEGIN` on; windows begin on 60, 64 and 68."""


def windows() -> list[str]:
    """Return the first test days of all recorders, sorted."""
    return [start_of(recorder) for recorder in recorders()]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_new_windows_are_trained_as_the_calendar_grows(market: Market, trainer: str) -> None:
    """A generator made when the calendar was shorter sees the new days, and each window is trained on its first day."""
    market.show(RUN[0])
    served = live(market, manager(TRAINERS[trainer]()), RUN)
    assert windows() == [DAYS[i] for i in (52, 56, 60, 64, 68)]
    assert days_of(served.get_signals()) == DAYS[52:69]


def test_windows_by_the_calendar_go_on_too(market: Market) -> None:
    """A strategy accepts any generator that can continue from its last window. A simulation gives the same signals."""

    def weekly(name: str) -> OnlineManager:
        return OnlineManager(RollingStrategy(name, template(), CalendarGen("week")), begin_time=BEGIN)

    served = live(market, weekly("served"), RUN)
    assert windows() == [DAYS[i] for i in (52, 55, 60, 65)]  # three begin on Mondays
    assert days_of(served.get_signals()) == DAYS[52:69]
    equal(weekly("simulated").simulate(RUN[-1]), served.get_signals())


def test_a_strategy_refuses_windows_that_do_not_go_on(market: Market) -> None:
    """Windows of a cross-validation or of several models do not go on; an object that is not a generator is refused, too."""
    market.show(BEGIN)
    for other in (PurgedKFoldGen(2), ChainGen([SeedGen([1, 2]), RollingGen(step=STEP)]), 5):
        with pytest.raises(ConfigError, match=r"makes only windows .* continue from the last one"):
            RollingStrategy("served", template(), other)  # type: ignore[arg-type]


def test_a_generator_from_a_file_uses_the_calendar_of_the_day(market: Market) -> None:
    """Neither a generator nor its file contains a calendar, unless one is given."""
    market.show(DAYS[60])
    rolling = pickle.loads(pickle.dumps(RollingGen(step=STEP)))
    assert str(rolling.ta.max().date()) == DAYS[60]
    market.show(DAYS[70])
    assert str(rolling.ta.max().date()) == DAYS[70]
    own = RollingGen(step=STEP, calendar=DAYS[:60])
    assert str(pickle.loads(pickle.dumps(own)).ta.max().date()) == DAYS[59]


def test_the_first_tasks_end_at_the_beginning(market: Market) -> None:
    """If the data and the template continue, the first training ends with the window that contains the first day."""
    market.show(DAYS[100])
    served = manager(begin=DAYS[61])
    served.first_train()
    assert windows() == [DAYS[i] for i in (52, 56, 60)]


def test_a_calendar_with_future_days_does_not_train_in_the_future(market: Market) -> None:
    """No model is trained for days that are announced but have no data."""
    market.show(DAYS[61])
    calendars = market.folder / "calendars"
    (calendars / "day_future.txt").write_text("\n".join(DAYS) + "\n")
    served = manager(begin=DAYS[61])
    served.first_train()
    assert windows() == [DAYS[i] for i in (52, 56, 60)]


def test_a_routine_ends_on_its_day(market: Market) -> None:
    """With later data, signals end on the day of the routine, and catching up day by day gives those of each day."""
    expected = live(market, manager(name="served"), RUN).get_signals()
    market.show(DAYS[90])
    late = manager(name="late")
    late.first_train()
    for day in RUN:
        late.routine(day)
        assert days_of(late.get_signals())[-1] == day
    equal(late.get_signals(), expected)


@pytest.mark.parametrize("trunc_days", [None, "auto"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_simulation_equals_living_through_it(market: Market, trainer: str, trunc_days: str | None) -> None:
    """A simulation equals the service without purging too: a label that was not known on a day is not used on that
    day."""
    expected = live(market, manager(TRAINERS[trainer](), trunc_days=trunc_days), RUN).get_signals()
    market.show(DAYS[90])
    simulated = manager(TRAINERS[trainer](), name="simulated", trunc_days=trunc_days).simulate(RUN[-1])
    assert days_of(simulated)[-1] == RUN[-1]
    equal(simulated, expected)


def test_labels_are_known_on_the_day(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label of the last two days before a training looks beyond it, and no model is fitted on these days."""
    fitted: list[tuple[str, str]] = []
    fit = LinearModel.fit

    def recorded(self: LinearModel, dataset: object, *args: object, **kwargs: object) -> object:
        from rollforge.session import current_session

        rows = dataset.prepare("train", col_set="label", data_key="learn").dropna()  # type: ignore[attr-defined]
        fitted.append((str(current_session().data_until), days_of(rows)[-1]))
        return fit(self, dataset, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(LinearModel, "fit", recorded)
    market.show(DAYS[90])
    manager().simulate(RUN[-1])
    assert [day for day, _ in fitted] == [BEGIN] * 3 + [DAYS[64], DAYS[68]]
    for day, last in fitted:
        assert DAYS.index(last) + 2 <= DAYS.index(day), (day, last)
    assert {DAYS.index(day) - DAYS.index(last) for day, last in fitted[2:]} == {2}


@pytest.mark.slow
def test_a_tracking_store_in_mlflow_gives_the_same(market: Market, tracking_in: Callable[[str], str]) -> None:
    """Served day by day with a missed day, and simulated."""
    amend(tracking_uri=tracking_in("mlflow"))
    served = live(market, manager(), RUN[:4])
    market.show(RUN[5])
    served.routine()
    equal(manager(name="simulated").simulate(RUN[5]), served.get_signals())
    assert windows() == [DAYS[i] for i in (52, 56, 60, 64)]
