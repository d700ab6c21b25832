"""Strategies with target weights of instruments, and the generators of their orders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rollforge.dates import DayLike
from rollforge.errors import ConfigError
from rollforge.record.context import CommonInfrastructure, LevelInfrastructure
from rollforge.record.decision import BaseTradeDecision, Executed, Order, OrderDir, TradeDecisionWO
from rollforge.record.exchange import Exchange
from rollforge.record.position import Position
from rollforge.record.strategy import BaseSignalStrategy

__all__ = [
    "OrderGenWInteract",
    "OrderGenWOInteract",
    "OrderGenerator",
    "SoftTopkStrategy",
    "WeightStrategyBase",
]

_NOTHING = 1e-8  # weights up to this are treated as 0


class OrderGenerator:
    """Base class of order generators, which turn target weights into orders."""

    def generate_order_list_from_target_weight_position(
        self,
        current: Position,
        trade_exchange: Exchange,
        target_weight_position: Mapping[str, float] | None,
        risk_degree: float,
        pred_start_time: pd.Timestamp,
        pred_end_time: pd.Timestamp,
        trade_start_time: pd.Timestamp,
        trade_end_time: pd.Timestamp,
    ) -> list[Order]:
        """Return the orders that lead from the current position to the target weights; no orders if the target is None.

        Parameters
        ----------
        current : Position
            Current position.
        trade_exchange : Exchange
            Prices and limits.
        target_weight_position : mapping or None
            Code -> share of the account.
        risk_degree : float
            Share of the account that is invested.
        pred_start_time, pred_end_time, trade_start_time, trade_end_time : Timestamp
            The day of the scores, and the day of the trade.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement generate_order_list_from_target_weight_position()."
        )


class OrderGenWInteract(OrderGenerator):
    """Computes amounts from the prices of the trading day; the money is divided among the tradable instruments."""

    def generate_order_list_from_target_weight_position(
        self,
        current: Position,
        trade_exchange: Exchange,
        target_weight_position: Mapping[str, float] | None,
        risk_degree: float,
        pred_start_time: pd.Timestamp,
        pred_end_time: pd.Timestamp,
        trade_start_time: pd.Timestamp,
        trade_end_time: pd.Timestamp,
    ) -> list[Order]:
        """Return the orders, see :class:`OrderGenerator`. Suspended instruments have their last price (NaN in Qlib)."""
        if target_weight_position is None:
            return []
        day = trade_start_time, trade_end_time
        amounts = current.get_stock_amount_dict()
        tradable, idle = {}, 0.0
        for code, amount in amounts.items():
            if trade_exchange.check_stock_suspended(code, *day):
                idle += amount * current.get_stock_price(code)
            elif trade_exchange.is_stock_tradable(code, *day):
                tradable[code] = amount * _price(trade_exchange, code, *day)
            else:
                idle += amount * _price(trade_exchange, code, *day)
        cash = current.get_cash()
        to_share = sum(tradable.values()) + cash
        to_share -= (1 - risk_degree) * (to_share + idle)
        if to_share < 0:  # selling everything tradable does not yield the cash to be kept
            target = {code: amount for code, amount in amounts.items() if code not in tradable}
        else:
            to_share /= 1 + max(trade_exchange.close_cost, trade_exchange.open_cost)
            target = trade_exchange.generate_amount_position_from_weight_position(
                target_weight_position, to_share, *day
            )
        return trade_exchange.generate_order_for_target_amount_position(target, amounts, *day)


def _price(exchange: Exchange, code: str, start: pd.Timestamp, end: pd.Timestamp) -> float:
    return exchange.get_deal_price(code, start, end, OrderDir.SELL) or 0.0


class OrderGenWOInteract(OrderGenerator):
    """Computes amounts from the closes of the day of the scores, which are known before the trade.

    Instruments without quotes on that day are not bought. Nothing is bought on the first day of a backtest, unless the
    exchange has earlier quotes (``exchange_kwargs.start_time``).
    """

    def generate_order_list_from_target_weight_position(
        self,
        current: Position,
        trade_exchange: Exchange,
        target_weight_position: Mapping[str, float] | None,
        risk_degree: float,
        pred_start_time: pd.Timestamp,
        pred_end_time: pd.Timestamp,
        trade_start_time: pd.Timestamp,
        trade_end_time: pd.Timestamp,
    ) -> list[Order]:
        """Return the orders, see :class:`OrderGenerator`."""
        if target_weight_position is None:
            return []
        day, signal_period = (trade_start_time, trade_end_time), (pred_start_time, pred_end_time)
        money = risk_degree * current.calculate_value()
        target = {}
        for code, weight in target_weight_position.items():
            if trade_exchange.is_stock_tradable(code, *day) and trade_exchange.is_stock_tradable(code, *signal_period):
                target[code] = money * weight / trade_exchange.get_close(code, *signal_period)
            elif current.check_stock(code):
                target[code] = money * weight / current.get_stock_price(code)
        return trade_exchange.generate_order_for_target_amount_position(target, current.get_stock_amount_dict(), *day)


class WeightStrategyBase(BaseSignalStrategy):
    """Base class of strategies with target weights of instruments.

    Parameters
    ----------
    order_generator_cls_or_obj : OrderGenerator or its class
        Generator of the orders.
    **kwargs
        See :class:`~rollforge.record.strategy.BaseSignalStrategy`.
    """

    def __init__(
        self, *, order_generator_cls_or_obj: OrderGenerator | type[OrderGenerator] = OrderGenWOInteract, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        made = order_generator_cls_or_obj
        self.order_generator: OrderGenerator = made() if isinstance(made, type) else made

    @abstractmethod
    def generate_target_weight_position(
        self, score: object, current: Position, trade_start_time: pd.Timestamp, trade_end_time: pd.Timestamp
    ) -> Mapping[str, float] | None:
        """Return the target share of the account for each code; None trades nothing.

        Parameters
        ----------
        score : Series or DataFrame
            Scores of the previous day by instrument, in the form of the signal.
        current : Position
            Current position; may be modified.
        trade_start_time, trade_end_time : Timestamp
            The day of the trade.
        """

    def generate_trade_decision(self, execute_result: Executed | None = None) -> BaseTradeDecision:
        """Return the orders that lead to the target weights."""
        step = self.trade_calendar.get_trade_step()
        signal_period = self.trade_calendar.get_step_time(step, shift=1)
        score = self.signal.get_signal(*signal_period)
        if score is None:
            return TradeDecisionWO([], self)
        day = self.trade_calendar.get_step_time(step)
        current = self.trade_position.copy()
        orders = self.order_generator.generate_order_list_from_target_weight_position(
            current=current,
            trade_exchange=self.trade_exchange,
            target_weight_position=self.generate_target_weight_position(
                score=score, current=current, trade_start_time=day[0], trade_end_time=day[1]
            ),
            risk_degree=self._degree(step),
            pred_start_time=signal_period[0],
            pred_end_time=signal_period[1],
            trade_start_time=day[0],
            trade_end_time=day[1],
        )
        return TradeDecisionWO(orders, self)


class SoftTopkStrategy(WeightStrategyBase):
    """Holds the `topk` best instruments with equal weights, with a limited change per day.

    Each day, holdings that are not among the best, or above their target weight, are sold, each by at most
    `trade_impact_limit` of the account. The proceeds are divided among instruments below their target, in proportion to
    the gap. The rules are those of Qlib's newest source (the class of 0.9.7 cannot be built). Ties are broken by code.

    Parameters
    ----------
    model, dataset : optional
        Same as ``signal=(model, dataset)``.
    topk : int, optional
        Number of instruments to hold; by default none.
    order_generator_cls_or_obj : OrderGenerator or its class
        Generator of the orders.
    max_sold_weight : float
        Used if there is no `trade_impact_limit`.
    trade_impact_limit : float, optional
        Maximum change of an instrument's weight per day.
    risk_degree : float
        Share of the account that is invested.
    buy_method : str
        ``first_fill``; the newest Qlib supports no other.
    **kwargs
        See :class:`~rollforge.record.strategy.BaseSignalStrategy`.

    Raises
    ------
    ConfigError
        If `buy_method` is not supported.
    """

    def __init__(
        self,
        *,
        model: object = None,
        dataset: object = None,
        topk: int | None = None,
        order_generator_cls_or_obj: OrderGenerator | type[OrderGenerator] = OrderGenWInteract,
        max_sold_weight: float = 1.0,
        trade_impact_limit: float | None = None,
        risk_degree: float = 0.95,
        buy_method: str = "first_fill",
        signal: object = None,
        trade_exchange: object = None,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
    ) -> None:
        if buy_method != "first_fill":
            raise ConfigError(
                f"buy_method {buy_method!r} no longer has an effect in Qlib: the free weight is distributed in "
                "proportion to the gap of each holding. Omit it.",
                path="strategy.kwargs.buy_method",
            )
        super().__init__(
            order_generator_cls_or_obj=order_generator_cls_or_obj,
            signal=signal,
            model=model,
            dataset=dataset,
            risk_degree=risk_degree,
            trade_exchange=trade_exchange,
            level_infra=level_infra,
            common_infra=common_infra,
        )
        self.topk = topk
        self.trade_impact_limit = max_sold_weight if trade_impact_limit is None else trade_impact_limit
        self.buy_method = buy_method

    def generate_target_weight_position(
        self, score: object, current: Position, trade_start_time: DayLike, trade_end_time: DayLike, **kwargs: object
    ) -> dict[str, float]:
        """Return the target share of the account for each code."""
        if self.topk is None or self.topk <= 0:
            return {}
        best = self._best(score, self.topk)
        share = self.risk_degree / self.topk
        weights = dict(current.get_stock_weight_dict(only_stock=True))
        if not weights:
            return {code: self._step(share) for code in best}
        to_spend = self.risk_degree - sum(weights.values())
        for code, weight in weights.items():
            above = weight - share if code in best else weight
            if above > _NOTHING:
                weights[code] -= self._step(above)
                to_spend += self._step(above)
        lacking = {code: share - weights.get(code, 0.0) for code in best}
        lacking = {code: lack for code, lack in lacking.items() if lack > _NOTHING}
        if to_spend > _NOTHING and lacking:
            whole = sum(lacking.values())
            for code, lack in lacking.items():
                part = lack / whole * min(to_spend, whole)
                weights[code] = weights.get(code, 0.0) + min(part, self._step(lack))
        return {code: weight for code, weight in weights.items() if weight > _NOTHING}

    def _step(self, weight: float) -> float:
        return weight if self.trade_impact_limit is None else min(weight, self.trade_impact_limit)

    def _best(self, score: Any, n: int) -> list[str]:
        series = score.iloc[:, 0] if isinstance(score, pd.DataFrame) else score
        ranked = series.sort_index().sort_values(ascending=False, kind="stable")
        values = ranked.to_numpy(np.float64)
        if n < len(values) and values[n - 1] == values[n] and hasattr(self, "tied_days"):
            self.tied_days.add(self.trade_calendar.get_trade_step())
        return [str(code) for code in ranked.index[:n]]
