"""The exchange interface of strategies: queries by code and time, with the names of Qlib's ``Exchange``."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rollforge.dates import DayLike, read_day, read_time
from rollforge.errors import ConfigError, nearest
from rollforge.record.decision import Order, OrderDir, OrderHelper
from rollforge.record.market import Fill, Floats, Market, whole_units
from rollforge.record.position import Position

if TYPE_CHECKING:
    from rollforge.record.account import Account

__all__ = ["Exchange"]

_METHODS: Mapping[str, Callable[[Floats], float]] = {
    "ts_data_last": lambda values: float(values[-1]),
    "last": lambda values: float(values[-1]),
    "sum": lambda values: float(values.sum()),
    "mean": lambda values: float(values.mean()),
    "all": lambda values: float(values.all()),
}


class Exchange:
    """Provides prices, limits and trade units of a market to strategies.

    Codes are instruments of the market, times are timestamps within trading days. Unknown values are None: for a code
    without quotes, or a time outside the backtest.

    Parameters
    ----------
    market : Market
        The quotes and rules.
    """

    freq = "day"

    def __init__(self, market: Market) -> None:
        self.market = market
        rules = market.rules
        self.open_cost, self.close_cost, self.min_cost = rules.open_cost, rules.close_cost, rules.min_cost
        self.impact_cost, self.limit_threshold = rules.impact_cost, rules.limit_threshold
        self.buy_price, self.sell_price = rules.buy_price, rules.sell_price
        self.trade_unit, self.codes = rules.trade_unit, list(market.codes)
        self.trade_w_adj_price = market.unit is None
        self.start_time, self.end_time = pd.Timestamp(market.days[0]), pd.Timestamp(market.days[-1])

    # -- quotes --------------------------------------------------------------------------------------------------------

    def _days(self, start_time: DayLike | None, end_time: DayLike | None) -> slice:
        bounds = read_day(start_time, "start_time"), read_day(end_time, "end_time")
        days = self.market.days
        return slice(int(np.searchsorted(days, bounds[0])), int(np.searchsorted(days, bounds[1], "right")))

    def _on(self, stock_id: str, start_time: DayLike | None, end_time: DayLike | None) -> tuple[int, int] | None:
        """Return the index of the last day with a close in the range, or of its last day, and of the instrument."""
        place, days = self.market.place(stock_id), self._days(start_time, end_time)
        if place is None or days.stop <= days.start:
            return None
        quoted = np.flatnonzero(~self.market.suspended[days, place])
        return days.start + int(quoted[-1]) if len(quoted) else days.stop - 1, place

    def _field(self, field: str) -> Floats:
        own = {
            "$close": self.market.close, "$factor": self.market.factor, "$volume": self.market.volume,
            "limit_buy": self.market.no_buy, "limit_sell": self.market.no_sell,
        }  # fmt: skip
        found: Floats | None = own.get(field, self.market.quotes.get(field))  # type: ignore[assignment]
        if found is None:
            known = sorted({*own, *self.market.quotes})
            raise ConfigError(
                f"the exchange has no quotes of {field!r}.{nearest(field, known)} It has {', '.join(known)}; "
                "add more with exchange_kwargs.subscribe_fields."
            )
        return found

    def get_quote_info(
        self,
        stock_id: str,
        start_time: DayLike | None,
        end_time: DayLike | None,
        field: str,
        method: str | None = "ts_data_last",
    ) -> Any:
        """Return a field of an instrument: its last known value in the range, or another summary.

        Parameters
        ----------
        field : str
            An expression that the exchange reads, or ``limit_buy`` or ``limit_sell``.
        method : str, optional
            ``ts_data_last``, ``last``, ``sum``, ``mean`` or ``all``; None returns all values by day.

        Raises
        ------
        ConfigError
            If the field or method is unknown.
        """
        if method is not None and method not in _METHODS:
            raise ConfigError(f"method must be one of {', '.join(_METHODS)}, found {method!r}.")
        place, days = self.market.place(stock_id), self._days(start_time, end_time)
        values = self._field(field)[days]
        if place is None or not len(values):
            return None
        values = values[:, place]
        if method is None:
            return pd.Series(values, index=pd.DatetimeIndex(self.market.days[days]))
        if values.dtype == bool:
            return bool(values.all())
        known = values[~np.isnan(values)]
        return _METHODS[method](known) if len(known) else float("nan")

    def get_close(
        self, stock_id: str, start_time: DayLike, end_time: DayLike, method: str | None = "ts_data_last"
    ) -> Any:
        """Return the close of an instrument."""
        return self.get_quote_info(stock_id, start_time, end_time, "$close", method)

    def get_volume(self, stock_id: str, start_time: DayLike, end_time: DayLike, method: str | None = "sum") -> Any:
        """Return the volume of an instrument, traded by the whole market."""
        return self.get_quote_info(stock_id, start_time, end_time, "$volume", method)

    def get_factor(self, stock_id: str, start_time: DayLike | None, end_time: DayLike | None) -> float | None:
        """Return the adjustment factor of an instrument."""
        factor: float | None = self.get_quote_info(stock_id, start_time, end_time, "$factor")
        return factor

    def get_deal_price(
        self,
        stock_id: str,
        start_time: DayLike,
        end_time: DayLike,
        direction: OrderDir,
        method: str | None = "ts_data_last",
    ) -> float | None:
        """Return the execution price of an order; the close if the configured price is missing."""
        at = self._on(stock_id, start_time, end_time)
        prices = self.market.sell_price if Order.parse_dir(direction) is OrderDir.SELL else self.market.buy_price
        return None if at is None else float(prices[at])

    # -- tradability ---------------------------------------------------------------------------------------------------

    def check_stock_suspended(self, stock_id: str, start_time: DayLike | None, end_time: DayLike | None) -> bool:
        """Return whether an instrument cannot be traded at all in the range."""
        at = self._on(stock_id, start_time, end_time)
        return at is None or bool(self.market.suspended[at])

    def check_stock_limit(
        self,
        stock_id: str,
        start_time: DayLike | None,
        end_time: DayLike | None,
        direction: OrderDir | int | None = None,
    ) -> bool:
        """Return whether an instrument is at its limit in a direction; None checks either direction."""
        return not self._is_tradable(self._on(stock_id, start_time, end_time), direction)

    def is_stock_tradable(
        self,
        stock_id: str,
        start_time: DayLike | None,
        end_time: DayLike | None,
        direction: OrderDir | int | None = None,
    ) -> bool:
        """Return whether an instrument can be traded in a direction; None requires both directions."""
        return self._is_tradable(self._on(stock_id, start_time, end_time), direction)

    def _is_tradable(self, at: tuple[int, int] | None, direction: OrderDir | int | None) -> bool:
        side = None if direction is None else Order.parse_dir(direction)
        return at is not None and self.market.is_tradable(*at, side)

    def check_order(self, order: Order) -> bool:
        """Return whether an order can be traded."""
        return self.is_stock_tradable(order.stock_id, order.start_time, order.end_time, order.direction)

    # -- trading -------------------------------------------------------------------------------------------------------

    def fill(self, order: Order, position: Position | None, dealt: float = 0.0, *, day: int | None = None) -> Fill:
        """Return the fill of an order, and record it in the order.

        Parameters
        ----------
        order : Order
            The order, with its time.
        position : Position, optional
            Position to trade with; None means unlimited.
        dealt : float
            Amount of the instrument that was already traded in this step.
        day : int, optional
            Index of the order's day in the market's days, if known.
        """
        if day is None:
            at = self._on(order.stock_id, order.start_time, order.end_time)
        else:
            place = self.market.place(order.stock_id)
            at = None if place is None else (day, place)
        if at is None:
            order.deal_amount, order.factor = 0.0, None
            return Fill(0.0, float("nan"), 0.0, 0.0)
        cash = np.inf if position is None else position.get_cash()
        held = order.amount if position is None else position.get_stock_amount(order.stock_id)
        made = self.market.fill_order(*at, order.direction, order.amount, cash=cash, held=held, dealt=dealt)
        order.deal_amount = made.amount
        order.factor = None if np.isnan(made.price) else float(self.market.factor[at])
        return made

    def deal_order(
        self,
        order: Order,
        trade_account: Account | None = None,
        position: Position | None = None,
        dealt_order_amount: Mapping[str, float] | None = None,
    ) -> tuple[float, float, float]:
        """Execute an order on an account or a position, and return ``(value, cost, price)``.

        Raises
        ------
        ConfigError
            If both are given.
        """
        if trade_account is not None and position is not None:
            raise ConfigError("an order is executed with an account or a position, not with both.")
        holder = position if trade_account is None else trade_account.current_position
        made = self.fill(order, holder, (dealt_order_amount or {}).get(order.stock_id, 0.0))
        if made.value > 0 and trade_account is not None:
            trade_account.settle(order, made)
        elif made.value > 0 and position is not None:
            position.update_order(order, made.value, made.cost, made.price)
        return made.value, made.cost, made.price

    # -- amounts -------------------------------------------------------------------------------------------------------

    def get_amount_of_trade_unit(
        self,
        factor: float | None = None,
        stock_id: str | None = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> float | None:
        """Return the number of adjusted shares in a trade unit; None if amounts are not rounded."""
        if self.market.unit is None:
            return None
        return self.market.unit / self._known_factor(factor, stock_id, start_time, end_time)

    def round_amount_by_trade_unit(
        self,
        deal_amount: float,
        factor: float | None = None,
        stock_id: str | None = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> float:
        """Return an amount rounded down to whole trade units, see :func:`~rollforge.record.market.whole_units`."""
        unit = self.market.unit
        if unit is None:
            return deal_amount
        known = self._known_factor(factor, stock_id, start_time, end_time)
        return whole_units(deal_amount * known, unit) / known

    def _known_factor(
        self, factor: float | None, stock_id: str | None, start_time: DayLike | None, end_time: DayLike | None
    ) -> float:
        if factor is None and stock_id is not None:
            factor = self.get_factor(stock_id, start_time, end_time)
        if factor is None or np.isnan(factor):
            raise ConfigError(
                f"the factor of {stock_id!r} is unknown: give the factor, or the code, start_time and end_time."
            )
        return float(factor)

    def get_real_deal_amount(self, current_amount: float, target_amount: float, factor: float | None = None) -> float:
        """Return the amount to buy (sell if negative) to get from one amount to another, in whole trade units."""
        if target_amount == 0:
            return -current_amount
        apart = target_amount - current_amount
        if apart == 0:
            return 0.0
        whole = self.round_amount_by_trade_unit(abs(apart), factor)
        return whole if apart > 0 else -whole

    def generate_amount_position_from_weight_position(
        self,
        weight_position: Mapping[str, float],
        cash: float,
        start_time: DayLike,
        end_time: DayLike,
        direction: OrderDir = OrderDir.BUY,
    ) -> dict[str, float]:
        """Return whole numbers of adjusted shares that divide `cash` among the tradable instruments by weight.

        Raises
        ------
        ConfigError
            If a weight is not between 0 and 1, or the weights sum to more than 1.
        """
        weights = {c: w for c, w in weight_position.items() if self.is_stock_tradable(c, start_time, end_time)}
        for code, weight in weights.items():
            if not 0 <= weight <= 1:
                raise ConfigError(f"the weight of {code} is not a fraction of the account's value: {weight!r}.")
        total = sum(weights.values())
        if total - 1 >= 1e-5:
            raise ConfigError(f"the sum of the weights of a position must not exceed 1, found {total:g}.")
        amounts = {}
        for code, weight in weights.items():
            if weight > 0:
                price = self.get_deal_price(code, start_time, end_time, direction)
                amounts[code] = cash * weight / total // price  # type: ignore[operator]  # it can be traded
        return amounts

    def generate_order_for_target_amount_position(
        self,
        target_position: Mapping[str, float],
        current_position: Mapping[str, float],
        start_time: DayLike,
        end_time: DayLike,
    ) -> list[Order]:
        """Return the orders, sales first, that lead from one position to another; codes without quotes are ignored.

        Within sales and purchases the order is the one that Qlib draws with seed 0, because cash may not suffice for
        all.
        """
        codes = sorted({*current_position, *target_position})
        random.Random(0).shuffle(codes)
        orders, start, end = [], read_time(start_time, "start_time"), read_time(end_time, "end_time")
        for code in codes:
            if not self.is_stock_tradable(code, start_time, end_time):
                continue
            factor = self.get_factor(code, start_time, end_time)
            apart = self.get_real_deal_amount(current_position.get(code, 0.0), target_position.get(code, 0.0), factor)
            if apart:
                side = OrderDir.BUY if apart > 0 else OrderDir.SELL
                orders.append(Order(code, abs(apart), side, start, end))
        return sorted(orders, key=lambda order: order.direction)

    def calculate_amount_position_value(
        self,
        amount_dict: Mapping[str, float],
        start_time: DayLike,
        end_time: DayLike,
        only_tradable: bool = False,
        direction: OrderDir = OrderDir.SELL,
    ) -> float:
        """Return the value of amounts at the prices of that time; suspended ones (NaN in Qlib) are valued at their last
        close."""
        value = 0.0
        for code, amount in amount_dict.items():
            if only_tradable and not self.is_stock_tradable(code, start_time, end_time):
                continue
            if self.check_stock_suspended(code, start_time, end_time):
                price = self.get_close(code, self.start_time, end_time)
            else:  # at a limit, too
                price = self.get_deal_price(code, start_time, end_time, direction)
            value += amount * (price or 0.0)
        return value

    def get_order_helper(self) -> OrderHelper:
        """Return the factory of orders."""
        return OrderHelper(self)
