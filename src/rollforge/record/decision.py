"""Orders, and the decisions that hold them: what a strategy wants traded. Names and attributes are Qlib's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd

from rollforge.errors import ConfigError

if TYPE_CHECKING:
    from rollforge.record.strategy import BaseStrategy

__all__ = [
    "BaseTradeDecision",
    "DecisionType",
    "EmptyTradeDecision",
    "Order",
    "OrderDir",
    "OrderHelper",
    "TradeDecisionWO",
    "TradeDecisionWithDetails",
]


class OrderDir(IntEnum):
    """The direction of an order."""

    SELL = 0
    BUY = 1


@dataclass
class Order:
    """An order for one instrument.

    The exchange writes what became of the order into `deal_amount` and `factor`; strategies read it there in Qlib, so an
    order is not frozen.

    Examples
    --------
    >>> Order("SH600000", 100.0, Order.BUY).amount_delta
    100.0
    """

    stock_id: str
    amount: float
    """Adjusted shares (shares divided by the factor), not negative."""
    direction: OrderDir
    start_time: pd.Timestamp | None = None
    """First moment of the trading step; filled in by the decision."""
    end_time: pd.Timestamp | None = None
    deal_amount: float = field(default=0.0, init=False)
    """Adjusted shares that were traded."""
    factor: float | None = field(default=None, init=False)
    """Adjustment factor on the day of the trade; None when the instrument could not be traded."""

    SELL: ClassVar[OrderDir] = OrderDir.SELL
    BUY: ClassVar[OrderDir] = OrderDir.BUY

    def __post_init__(self) -> None:
        self.stock_id = str(self.stock_id).upper()
        self.direction = self.parse_dir(self.direction)
        if not self.amount >= 0:
            raise ConfigError(
                f"the amount of an order must not be negative or missing, found {self.amount!r} of {self.stock_id!r}."
            )

    @staticmethod
    def parse_dir(direction: Any) -> OrderDir:
        """Return the direction that a name or a number stands for; positive numbers buy, all others sell.

        Raises
        ------
        ConfigError
            For anything else.
        """
        if isinstance(direction, str) and direction.strip().upper() in OrderDir.__members__:
            return OrderDir[direction.strip().upper()]
        if isinstance(direction, (int, float, np.number)):
            return OrderDir.BUY if direction > 0 else OrderDir.SELL
        raise ConfigError(f"the direction of an order is 'buy' or 'sell', found {direction!r}.")

    @property
    def sign(self) -> int:
        """1 for a purchase, -1 for a sale."""
        return 1 if self.direction is OrderDir.BUY else -1

    @property
    def amount_delta(self) -> float:
        """The amount, negative for a sale."""
        return self.amount * self.sign

    @property
    def deal_amount_delta(self) -> float:
        """The amount that was traded, negative for a sale."""
        return self.deal_amount * self.sign

    @property
    def date(self) -> pd.Timestamp | None:
        """The day of the order."""
        return None if self.start_time is None else self.start_time.normalize()

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells an order from others."""
        return self.stock_id, self.start_time, self.end_time, self.direction

    @property
    def key_by_day(self) -> tuple[Any, ...]:
        """What tells an order from those of other days."""
        return self.stock_id, self.date, self.direction


class OrderHelper:
    """Makes orders; ``trade_exchange.get_order_helper()`` returns one.

    Parameters
    ----------
    exchange : Exchange, optional
        Qlib's argument; nothing is asked of it.
    """

    def __init__(self, exchange: Any = None) -> None:
        self.exchange = exchange

    @staticmethod
    def create(code: str, amount: float, direction: Any, start_time: Any = None, end_time: Any = None) -> Order:
        """Return an order of an adjusted amount."""
        start = None if start_time is None else pd.Timestamp(start_time)
        end = None if end_time is None else pd.Timestamp(end_time)
        return Order(code, amount, direction, start, end)


DecisionType = TypeVar("DecisionType")
"""What a decision is made of: orders, in daily backtests."""


class BaseTradeDecision:
    """What a strategy decides in one step.

    Parameters
    ----------
    strategy : BaseStrategy
        The strategy that decides.
    trade_range : optional
        Part of the step in which orders may be traded; daily backtests have none.

    Raises
    ------
    ConfigError
        For a `trade_range`.
    """

    def __class_getitem__(cls, item: Any) -> type[Self]:
        """Return the class itself: ``BaseTradeDecision[Order]`` says what it is made of, as in Qlib."""
        return cls

    def __init__(self, strategy: BaseStrategy, trade_range: Any = None) -> None:
        if trade_range is not None:
            raise ConfigError("trade_range is not supported: backtests are daily, and a day is one step.")
        self.strategy = strategy
        self.trade_range = None
        self.start_time, self.end_time = strategy.trade_calendar.get_step_time()

    def get_decision(self) -> list[Order]:
        """Return the orders."""
        raise NotImplementedError(f"{type(self).__name__} must say what its orders are.")

    def empty(self) -> bool:
        """Return whether there is nothing to trade."""
        return all(order.amount <= 1e-6 for order in self.get_decision())


class EmptyTradeDecision(BaseTradeDecision):
    """A decision to trade nothing."""

    def get_decision(self) -> list[Order]:
        """Return an empty list."""
        return []


class TradeDecisionWO(BaseTradeDecision):
    """A decision with orders, traded in the order in which they are listed.

    Parameters
    ----------
    order_list : sequence of Order
        Those without a time get that of the step.
    strategy, trade_range
        See :class:`BaseTradeDecision`.
    """

    def __init__(self, order_list: Sequence[Order], strategy: BaseStrategy, trade_range: Any = None) -> None:
        super().__init__(strategy, trade_range)
        self.order_list = list(order_list)
        for order in self.order_list:
            order.start_time = self.start_time if order.start_time is None else order.start_time
            order.end_time = self.end_time if order.end_time is None else order.end_time

    def get_decision(self) -> list[Order]:
        """Return the orders."""
        return self.order_list


class TradeDecisionWithDetails(TradeDecisionWO):
    """A decision with orders and something of the strategy's own beside them.

    Parameters
    ----------
    order_list, strategy, trade_range
        See :class:`TradeDecisionWO`.
    details : object, optional
        Kept in ``details``.
    """

    def __init__(
        self, order_list: Sequence[Order], strategy: BaseStrategy, trade_range: Any = None, details: Any = None
    ) -> None:
        super().__init__(order_list, strategy, trade_range)
        self.details = details
