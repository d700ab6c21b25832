"""The signals of an online manager are extended by the new days."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from growing import DAYS, Market, equal, live, manager
from rollforge.collect.collector import Collector
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.ledger.base import SupportsScores
from rollforge.ledger.entry import EntryKind
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import OnlineStrategy


class Given(Collector):
    """Collects one prediction, which a test can replace."""

    prediction: pd.Series

    def collect(self) -> dict[str, Any]:
        """Return the prediction."""
        return {"pred": self.prediction}


class Served(OnlineStrategy):
    """A strategy with given results."""

    def __init__(self) -> None:
        super().__init__("served")
        self.collector = Given()

    def get_collector(self, **kwargs: Any) -> Collector:
        """Return the collector of the given results."""
        return self.collector


def scores(*days: str, scale: float = 1.0) -> pd.Series:
    index = pd.MultiIndex.from_product([pd.to_datetime(days), ["A", "B"]], names=["datetime", "instrument"])
    return pd.Series([0.0, scale] * len(days), index)


def days_of(signals: Any) -> list[str]:
    return [str(day.date()) for day in signals.index.get_level_values("datetime")]


def versions(manager: OnlineManager) -> list[tuple[str, int, int, str]]:
    """Return the day, version, number of rows and reason of the latest signals."""
    return [(one.day, one.version, one.rows, one.why) for one in manager.state.signals().values()]


@pytest.fixture
def served() -> Served:
    """Return a strategy with a prediction of two days."""
    strategy = Served()
    strategy.collector.prediction = scores("2024-01-02", "2024-01-03")
    return strategy


def test_only_later_days_are_added(served: Served) -> None:
    """The last day with signals is not added a second time, and earlier signals do not change."""
    manager = OnlineManager(served, begin_time="2024-01-02")
    first = manager.prepare_signals()
    assert days_of(first) == ["2024-01-02"] * 2 + ["2024-01-03"] * 2
    assert len(manager.prepare_signals()) == 0
    served.collector.prediction = scores("2024-01-03", "2024-01-04", scale=-1.0)
    new = manager.prepare_signals()
    assert days_of(new) == ["2024-01-04"] * 2
    assert days_of(manager.get_signals()) == ["2024-01-02"] * 2 + ["2024-01-03"] * 2 + ["2024-01-04"] * 2
    assert manager.get_signals().loc["2024-01-03"].round(4).tolist() == [-0.7071, 0.7071]
    assert manager.get_signals().loc["2024-01-04"].round(4).tolist() == [0.7071, -0.7071]


def test_overwriting_replaces_all_days(served: Served) -> None:
    """With ``over_write`` the signals are those of the results, even if these have fewer days."""
    manager = OnlineManager(served, begin_time="2024-01-02")
    manager.prepare_signals()
    served.collector.prediction = scores("2024-01-03", scale=-1.0)
    new = manager.prepare_signals(over_write=True)
    assert days_of(new) == days_of(manager.get_signals()) == ["2024-01-03"] * 2
    assert new.round(4).tolist() == [0.7071, -0.7071]
    assert versions(manager) == [("2024-01-02", 2, 0, "made again"), ("2024-01-03", 2, 2, "made again")]
    assert manager.state.entries[-1].kind == EntryKind.CORRECTION
    assert manager.state.entries[-1].body["why"] == "made from the predictions that exist"


def test_overwriting_publishes_only_days_that_differ(served: Served) -> None:
    """Nothing is recorded if there is no such day. A day whose file is lost differs, and so does one that was withdrawn
    and is predicted again; without ``over_write``, both stay as they are."""
    manager = OnlineManager(served, begin_time="2024-01-02")
    manager.prepare_signals()
    assert versions(manager) == [("2024-01-02", 1, 2, ""), ("2024-01-03", 1, 2, "")]
    last = manager.state.last
    manager.prepare_signals(over_write=True)
    served.collector.prediction = scores("2024-01-03")
    manager.prepare_signals()
    assert manager.state.last == last
    manager.prepare_signals(over_write=True)
    manager.prepare_signals(over_write=True)
    assert versions(manager) == [("2024-01-02", 2, 0, "made again"), ("2024-01-03", 1, 2, "")]
    served.collector.prediction = scores("2024-01-02", "2024-01-03", "2024-01-04")
    for signal in manager.state.signals().values():
        (manager.service.place / signal.file).unlink(missing_ok=True)
    manager.prepare_signals()
    assert versions(manager)[1:] == [("2024-01-03", 1, 2, ""), ("2024-01-04", 1, 2, "")]
    manager.prepare_signals(over_write=True)
    assert versions(manager) == [
        ("2024-01-02", 3, 2, "made again"), ("2024-01-03", 2, 2, "made again"), ("2024-01-04", 1, 2, ""),
    ]  # fmt: skip
    assert days_of(manager.get_signals()) == ["2024-01-02"] * 2 + ["2024-01-03"] * 2 + ["2024-01-04"] * 2


def test_a_routine_can_replace_earlier_signals(market: Market) -> None:
    """With ``over_write``, days that were published before get another version; their first one can still be read."""
    served = live(market, manager(), DAYS[60:62])
    before, number = served.get_signals(), served.state.last

    def opposite(results: Any) -> Any:
        return -AverageEnsemble()(results)

    market.show(DAYS[62])
    served.routine(signal_kwargs={"prepare_func": opposite})
    equal(served.get_signals().loc[: DAYS[61]], before)
    served.routine(signal_kwargs={"prepare_func": opposite, "over_write": True})
    equal(served.get_signals().loc[: DAYS[61]], -before)
    equal(served.service.signals(as_of=number), before)


def test_the_ledger_stores_the_rows_of_signals_for_a_table(market: Market) -> None:
    """Those of each version, with their entry; without the option there are none."""
    served = live(market, manager(), DAYS[60:61])
    ledger = served.service.ledger
    assert isinstance(ledger, SupportsScores)
    assert ledger.scores(served.service.name, DAYS[60], 1) == []
    served.service.signal_table = True
    market.show(DAYS[61])
    served.routine()
    published = served.get_signals().loc[DAYS[61]]
    assert ledger.scores(served.service.name, DAYS[61], 1) == list(published.items())
    market.close.loc[DAYS[61], "B"] *= 1.1
    market.show(DAYS[61])
    correct(served.service)
    again = served.get_signals().loc[DAYS[61]]
    assert not again.equals(published)
    assert ledger.scores(served.service.name, DAYS[61], 2) == list(again.items())
    assert ledger.scores(served.service.name, DAYS[61], 1) == list(published.items())


def test_signals_with_several_columns_are_corrected(market: Market) -> None:
    """A day on which any of them changes gets a version, and only such a day."""

    def columns(results: Any) -> Any:
        score = AverageEnsemble()(results)
        return pd.DataFrame({"score": score, "size": score.abs().clip(upper=1.0)})

    served = manager()
    for day in DAYS[60:62]:
        market.show(day)
        served.routine(signal_kwargs={"prepare_func": columns})
    assert list(served.get_signals().columns) == ["score", "size"]
    assert correct(served.service, DAYS[61], prepare_func=columns) == []
    market.close.loc[DAYS[61], "B"] *= 1.1
    market.show(DAYS[61])
    assert [signal.day for signal in correct(served.service, prepare_func=columns)] == [DAYS[61]]
    assert list(served.get_signals().columns) == ["score", "size"]
