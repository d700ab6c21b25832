"""Orders and the decisions that contain them. Names and attributes are Qlib's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd

from rollforge.dates import DayLike, read_time
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

    The exchange writes the result into `deal_amount` and `factor`, where strategies read it in Qlib; an order is
    therefore mutable.

    Examples
    --------
    >>> Order("SH600000", 100.0, Order.BUY).amount_delta
    100.0
    """

    stock_id: str
    amount: float
    """Number of adjusted shares (shares divided by the factor); not negative."""
    direction: OrderDir
    start_time: pd.Timestamp | None = None
    """Start of the trading step; set by the decision."""
    end_time: pd.Timestamp | None = None
    deal_amount: float = field(default=0.0, init=False)
    """Number of adjusted shares that were traded."""
    factor: float | None = field(default=None, init=False)
    """Adjustment factor on the day of the trade; None if the instrument could not be traded."""

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
    def parse_dir(direction: object) -> OrderDir:
        """Return the direction for a name or number; positive numbers mean buy, all others sell.

        Raises
        ------
        ConfigError
            If it is anything else.
        """
        if isinstance(direction, str) and direction.strip().upper() in OrderDir.__members__:
            return OrderDir[direction.strip().upper()]
        if isinstance(direction, (int, float, np.number)):
            return OrderDir.BUY if direction > 0 else OrderDir.SELL
        raise ConfigError(f"the direction of an order must be 'buy' or 'sell', found {direction!r}.")

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
    def key(self) -> tuple[object, ...]:
        """Key that identifies an order."""
        return self.stock_id, self.start_time, self.end_time, self.direction

    @property
    def key_by_day(self) -> tuple[object, ...]:
        """Key that identifies an order within its day."""
        return self.stock_id, self.date, self.direction


class OrderHelper:
    """Factory of orders, returned by ``trade_exchange.get_order_helper()``.

    Parameters
    ----------
    exchange : Exchange, optional
        Accepted for compatibility with Qlib and ignored.
    """

    def __init__(self, exchange: object = None) -> None:
        self.exchange = exchange

    @staticmethod
    def create(
        code: str,
        amount: float,
        direction: OrderDir,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> Order:
        """Return an order of an adjusted amount."""
        start = None if start_time is None else read_time(start_time, "start_time")
        end = None if end_time is None else read_time(end_time, "end_time")
        return Order(code, amount, direction, start, end)


DecisionType = TypeVar("DecisionType")
"""Type of the elements of a decision; orders in daily backtests."""


Executed = list[tuple[Order, float, float, float]]
"""The executed orders of a day: (order, value, cost, price)."""


class BaseTradeDecision:
    """Base class of a strategy's decision in one step.

    Parameters
    ----------
    strategy : BaseStrategy
        The strategy that decides.
    trade_range : optional
        Part of the step in which orders may be traded; not supported in daily backtests.

    Raises
    ------
    ConfigError
        If a `trade_range` is given.
    """

    def __class_getitem__(cls, item: object) -> type[Self]:
        """Return the class itself, to allow ``BaseTradeDecision[Order]`` as in Qlib."""
        return cls

    def __init__(self, strategy: BaseStrategy, trade_range: object = None) -> None:
        if trade_range is not None:
            raise ConfigError("trade_range is not supported: backtests are daily, and a day is one step.")
        self.strategy = strategy
        self.trade_range = None
        self.start_time, self.end_time = strategy.trade_calendar.get_step_time()

    def get_decision(self) -> list[Order]:
        """Return the orders."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_decision().")

    def empty(self) -> bool:
        """Return whether there is nothing to trade."""
        return all(order.amount <= 1e-6 for order in self.get_decision())


class EmptyTradeDecision(BaseTradeDecision):
    """A decision to trade nothing."""

    def get_decision(self) -> list[Order]:
        """Return an empty list."""
        return []


class TradeDecisionWO(BaseTradeDecision):
    """A decision with orders, which are executed in the order of the list.

    Parameters
    ----------
    order_list : sequence of Order
        The orders; those without a time get that of the step.
    strategy, trade_range
        See :class:`BaseTradeDecision`.
    """

    def __init__(self, order_list: Sequence[Order], strategy: BaseStrategy, trade_range: object = None) -> None:
        super().__init__(strategy, trade_range)
        self.order_list = list(order_list)
        for order in self.order_list:
            order.start_time = self.start_time if order.start_time is None else order.start_time
            order.end_time = self.end_time if order.end_time is None else order.end_time

    def get_decision(self) -> list[Order]:
        """Return the orders."""
        return self.order_list


class TradeDecisionWithDetails(TradeDecisionWO):
    """A decision with orders and additional details.

    Parameters
    ----------
    order_list, strategy, trade_range
        See :class:`TradeDecisionWO`.
    details : object, optional
        Any object; available as ``details``.
    """

    def __init__(
        self, order_list: Sequence[Order], strategy: BaseStrategy, trade_range: object = None, details: object = None
    ) -> None:
        super().__init__(order_list, strategy, trade_range)
        self.details = details
