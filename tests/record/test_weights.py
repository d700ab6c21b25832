"""Strategies of target weights: the targets and the resulting orders, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from tests.record.conftest import FREE, MakeMarket, days_of, nan, scores

from rollforge.errors import BuildError, ConfigError
from rollforge.record.backtest import BacktestResult, run_backtest
from rollforge.record.position import Position
from rollforge.record.weights import OrderGenWInteract, OrderGenWOInteract, SoftTopkStrategy, WeightStrategyBase
from rollforge.session import Session

DAY = pd.Timestamp("2021-03-01")


def _soft(**kwargs: Any) -> SoftTopkStrategy:
    return SoftTopkStrategy(signal=scores({"A": [1.0]}), **kwargs)


def _held(weights: Mapping[str, float]) -> Position:
    return Position(0.0, {code: {"amount": weight, "price": 1.0} for code, weight in weights.items()})


SCORES = pd.Series({"C": 0.9, "D": 0.8, "A": 0.1, "B": 0.1})


def test_soft_topk_sells_and_buys_in_steps() -> None:
    """A tenth each of A (0.8) and B (0.2) is sold; the free cash up to 95 % is divided between the two best."""
    target = _soft(topk=2, trade_impact_limit=0.1).generate_target_weight_position(
        SCORES, _held({"A": 0.8, "B": 0.2}), DAY, DAY
    )
    assert target == pytest.approx({"A": 0.7, "B": 0.1, "C": 0.075, "D": 0.075})


def test_soft_topk_without_a_limit() -> None:
    """Without a limit the two best get their full weight at once."""
    target = _soft(topk=2).generate_target_weight_position(SCORES, _held({"A": 0.8, "B": 0.2}), DAY, DAY)
    assert target == pytest.approx({"C": 0.475, "D": 0.475})


def test_soft_topk_divides_cash_by_the_missing_weight() -> None:
    """C has most of its weight, so D gets more of the cash. Above its weight, C is reduced."""
    some = _soft(topk=2, trade_impact_limit=0.2).generate_target_weight_position(
        SCORES, _held({"A": 0.7, "C": 0.3}), DAY, DAY
    )
    # 0.2 of A is sold, 0.15 can be spent; C lacks 0.175, D 0.475.
    assert some == pytest.approx({"A": 0.5, "C": 0.3 + 0.15 * 0.175 / 0.65, "D": 0.15 * 0.475 / 0.65})
    much = _soft(topk=2).generate_target_weight_position(SCORES, _held({"C": 0.9, "D": 0.1}), DAY, DAY)
    assert much == pytest.approx({"C": 0.475, "D": 0.475})


@pytest.mark.parametrize(("limit", "share"), [(0.1, 0.1), (None, 0.475)])
def test_soft_topk_starts(limit: float | None, share: float) -> None:
    """An empty account begins with equal weights, up to the limit of a step; the first column of a frame is used."""
    strategy = _soft(topk=2, trade_impact_limit=limit)
    for score in (SCORES, SCORES.to_frame()):
        assert strategy.generate_target_weight_position(score, _held({}), DAY, DAY) == {"C": share, "D": share}
    assert _soft().generate_target_weight_position(SCORES, _held({}), DAY, DAY) == {}


def test_soft_topk_ties_go_by_code() -> None:
    """Of equal scores the earlier code is selected, whatever the order of rows."""
    for order in (["B", "A", "D"], ["D", "B", "A"]):
        tied = pd.Series(1.0, index=order)
        strategy = SoftTopkStrategy.__new__(SoftTopkStrategy)  # built as in Qlib's own test
        strategy.topk, strategy.risk_degree, strategy.trade_impact_limit = 1, 0.95, None
        assert list(strategy.generate_target_weight_position(tied, _held({}), DAY, DAY)) == ["A"]


def test_soft_topk_arguments() -> None:
    """An argument that Qlib no longer reads is refused; a model's signal may be given in two forms."""
    with pytest.raises(ConfigError, match=r"buy_method 'average_fill' no longer has an effect"):
        _soft(topk=2, buy_method="average_fill")
    assert _soft(topk=2, max_sold_weight=0.3).trade_impact_limit == 0.3


class Half(WeightStrategyBase):
    """Half of the capital in A, half in B."""

    def generate_target_weight_position(
        self, score: Any, current: Position, trade_start_time: Any, trade_end_time: Any
    ) -> Mapping[str, float]:
        """Return the weights."""
        return {"A": 0.5, "B": 0.5}


def run(strategy: WeightStrategyBase, session: Session, n: int, **options: Any) -> BacktestResult:
    days = days_of(n)
    return run_backtest(
        strategy,
        **{"start_time": days[0], "end_time": days[-1], "account": 1000.0, "exchange_kwargs": FREE, **options},
        session=session,
    )


def test_amounts_from_the_day_of_the_trade(make_market: MakeMarket) -> None:
    """95 % of 1000 are divided at the day's own prices, in whole adjusted shares."""
    session = make_market({"A": [10, 20.0, 30], "B": [5, 4.0, 4]})
    result = run(Half(signal=scores({"A": [1.0] * 3}), order_generator_cls_or_obj=OrderGenWInteract), session, 3)
    assert result.positions[days_of(3)[1]].get_stock_amount_dict() == {"A": 475 // 20, "B": 475 // 4}
    # Third day: 23 at 30, 118 at 4, and 68 of cash are 1230; 95 % of it in halves are 584.25.
    assert result.positions[days_of(3)[2]].get_stock_amount_dict() == {"A": 584.25 // 30, "B": 584.25 // 4}


def test_amounts_from_the_day_of_the_scores(make_market: MakeMarket) -> None:
    """Amounts use the previous day's closes, and are filled at the day's; the first day has no previous closes."""
    session = make_market({"A": [10, 20.0, 20], "B": [5, 4.0, 4]})
    signal = scores({"A": [1.0] * 3})
    result = run(Half(signal=signal, order_generator_cls_or_obj=OrderGenWOInteract), session, 3)
    orders = result.trades.loc[days_of(3)[1] : days_of(3)[1]].set_index("instrument")["amount"]
    assert orders.to_dict() == {"A": 475 / 10, "B": 475 / 5}
    late = {"start_time": days_of(3)[1], "session": session}
    no_quotes = run(Half(signal=signal), session, 3, start_time=days_of(3)[1])
    assert no_quotes.report["value"].iloc[0] == 0
    kwargs = {**FREE, "start_time": days_of(3)[0]}
    quotes = run(Half(signal=signal), session, 3, start_time=late["start_time"], exchange_kwargs=kwargs)
    assert quotes.report["value"].iloc[0] > 0


def test_a_suspended_holding_keeps_the_account_valid(make_market: MakeMarket) -> None:
    """A suspended holding is valued at its last price and is not traded (pyqlib's account becomes NaN)."""
    session = make_market({"A": [10, 10.0, nan, 10], "B": [7, 7.0, 7, 7]})
    strategy = Half(signal=scores({"A": [1.0] * 4}), order_generator_cls_or_obj=OrderGenWInteract)
    result = run(strategy, session, 4)
    assert result.report["account"].tolist() == [1000] * 4
    third = result.positions[days_of(4)[2]]
    # 1000 less the 50 that are kept and the 470 in A: only B can be traded, and gets the cash for both.
    assert third.get_stock_amount_dict() == {"A": 47, "B": 480 // 7}


def test_empty_and_invalid_weights(make_market: MakeMarket) -> None:
    """Without targets nothing is traded; weights that add up to more than 1, or negative ones, are refused."""

    class Chosen(Half):
        target: Mapping[str, float] | None = None

        def generate_target_weight_position(self, *args: Any, **kwargs: Any) -> Any:
            return self.target

    session = make_market({"A": [10, 10.0], "B": [5, 5.0]})
    strategy = Chosen(signal=scores({"A": [1.0] * 2}), order_generator_cls_or_obj=OrderGenWInteract)
    assert run(strategy, session, 2).trades.empty
    for target, words in (
        ({"A": 0.8, "B": 0.4}, "must not exceed 1"),
        ({"A": -0.5}, "is not a fraction of the account's value"),
    ):
        strategy.target = target
        with pytest.raises(ConfigError, match=words):
            run(strategy, session, 2)


def test_a_base_class_is_refused(make_market: MakeMarket) -> None:
    """If a workflow names the base class itself, the error says what a subclass must define."""
    session = make_market({"A": [10.0]})
    config = {"class": "WeightStrategyBase", "module_path": "qlib.contrib.strategy", "kwargs": {"signal": None}}
    with pytest.raises(BuildError, match="a subclass must define generate_target_weight_position"):
        run_backtest(config, session=session)
