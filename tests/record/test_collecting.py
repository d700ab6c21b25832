"""Collecting the decisions of a strategy during a backtest."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from tests.record.conftest import FREE, MakeMarket, days_of, scores

from rollforge.errors import ConfigError
from rollforge.record.backtest import SimulatorExecutor, TopkDropoutStrategy, backtest
from rollforge.record.collecting import collect_data, format_decisions
from rollforge.session import using

SIGNAL = scores({"A": [2.0, 1.0, 2.0, 1.0], "B": [1.0, 2.0, 1.0, 2.0]})


def arguments(**executor: Any) -> dict[str, Any]:
    days = days_of(4)
    return {
        "start_time": days[0], "end_time": days[-1], "strategy": TopkDropoutStrategy(signal=SIGNAL, topk=1, n_drop=1),
        "executor": SimulatorExecutor(generate_portfolio_metrics=True, **executor), "benchmark": None, "account": 10_000.0,
        "exchange_kwargs": FREE,
    }  # fmt: skip


def test_decisions_are_collected_day_by_day(make_market: MakeMarket) -> None:
    """Each before it is executed; at the end, the account is that of the backtest."""
    with using(make_market({"A": [10.0] * 4, "B": [10.0] * 4})):
        returned: dict[str, Any] = {}
        decisions = list(collect_data(**arguments(track_data=True), return_value=returned))
        metrics, indicators = backtest(**arguments())
    assert [d.start_time for d in decisions] == list(days_of(4))
    assert [[(o.stock_id, int(o.direction)) for o in d.get_decision()] for d in decisions] == [
        [], [("A", 1)], [("A", 0), ("B", 1)], [("B", 0), ("A", 1)],
    ]  # fmt: skip
    pd.testing.assert_frame_equal(returned["portfolio_dict"]["1day"][0], metrics["1day"][0])
    pd.testing.assert_frame_equal(returned["indicator_dict"]["1day"][0], indicators["1day"][0])
    formatted = format_decisions(decisions)
    assert formatted is not None
    assert formatted[0] == decisions[0].strategy.trade_calendar.get_freq()
    assert formatted[1] == [(d, None) for d in decisions]


def test_nothing_is_yielded_if_nothing_is_tracked(make_market: MakeMarket) -> None:
    """The backtest runs nevertheless; without decisions there is no common form."""
    with using(make_market({"A": [10.0] * 4, "B": [10.0] * 4})):
        returned: dict[str, Any] = {}
        assert list(collect_data(**arguments(), return_value=returned)) == []
        assert len(returned["portfolio_dict"]["1day"][0]) == 4
        with pytest.raises(ConfigError, match="pos_type"):
            next(collect_data(**arguments(), pos_type="InfPosition"))
    assert format_decisions([]) is None


def test_nested_decisions_stay_nested() -> None:
    """Decisions of a shorter frequency belong to the preceding decision of the longer one."""

    class Calendar:
        def __init__(self, freq: str) -> None:
            self.freq = freq

        def get_freq(self) -> str:
            return self.freq

    class Made:
        def __init__(self, freq: str) -> None:
            self.strategy, self.trade_calendar = self, Calendar(freq)

    day, first, second, other = Made("day"), Made("30min"), Made("30min"), Made("day")
    assert format_decisions([day, first, second, other]) == (  # type: ignore[list-item]
        "day", [(day, ("30min", [(first, None), (second, None)])), (other, None)],
    )  # fmt: skip
