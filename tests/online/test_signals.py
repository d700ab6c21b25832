"""The signals of an online manager are extended by the new days."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from rollforge.collect.collector import Collector
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
