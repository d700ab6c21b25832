"""The account of a backtest, and its daily records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.record.decision import Order
from rollforge.record.market import Fill, Floats, Market
from rollforge.record.position import Position

__all__ = ["WEIGHTS", "Account", "Ledger", "Positions"]

Positions = dict[pd.Timestamp, Position]
"""Day -> position at its end."""


@dataclass(slots=True)
class Account:
    """Cash and holdings, owned and modified by the backtest loop."""

    current_position: Position
    init_cash: float = 0.0
    turnover: float = 0.0
    """Total value of trades since the start."""
    cost: float = 0.0
    """Total fees since the start."""

    def get_cash(self) -> float:
        """Return the available cash."""
        return self.current_position.get_cash()

    @property
    def value(self) -> float:
        """Value of holdings and cash."""
        return self.current_position.calculate_value()

    def settle(self, order: Order, fill: Fill) -> None:
        """Apply a fill."""
        if fill.value <= 0:
            return
        self.current_position.update_order(order, fill.value, fill.cost, fill.price)
        self.turnover += fill.value
        self.cost += fill.cost

    def end_day(self, market: Market, day: int) -> None:
        """Value the holdings at the day's close (suspended ones keep their last price), and count the day."""
        position, closes = self.current_position, market.close[day]
        for code in position.get_stock_list():
            place = market.place(code)
            close = np.nan if place is None else float(closes[place])
            if close == close:  # a number
                position.update_stock_price(code, close)
        position.add_count_all("day")
        position.update_weight_all()


_COLUMNS = ["account", "return", "total_turnover", "turnover", "total_cost", "cost", "value", "cash"]
_INDICATORS = ["ffr", "pa", "pos", "deal_amount", "value", "count"]
WEIGHTS: Mapping[str, Callable[[Fill], float]] = {
    "mean": lambda fill: 1.0,
    "amount_weighted": lambda fill: fill.amount,
    "value_weighted": lambda fill: fill.value,
}
"""Weights of the orders in a day's mean."""
Trade = tuple[int, Order, Fill]


def _index(days: NDArray[np.datetime64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(days.astype("datetime64[ns]"), name="datetime")


@dataclass(slots=True)
class Ledger:
    """Records of a backtest, written at the end of each day."""

    start_value: float
    held_at_start: int = 0
    """Number of instruments that the account holds before the first day."""
    rows: list[tuple[float, ...]] = field(default_factory=list)
    positions: Positions = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    """(step, order, fill) of each order."""

    @property
    def last(self) -> Position:
        """Position at the end."""
        return self.positions[max(self.positions)]

    def enter(self, account: Account, day: np.datetime64) -> None:
        """Record a day."""
        before, turned, paid = (self.rows[-1][k] for k in (0, 2, 4)) if self.rows else (self.start_value, 0.0, 0.0)
        position = account.current_position
        value: float = position.position["now_account_value"]
        cost = account.cost - paid
        self.rows.append(
            (
                value,
                _rate(value - before + cost, before),  # the return before fees
                account.turnover,
                _rate(account.turnover - turned, before),
                account.cost,
                _rate(cost, before),
                position.calculate_stock_value(),
                position.get_cash(include_settle=True),
            )
        )
        self.positions[pd.Timestamp(day)] = position.copy()

    def report(self, days: NDArray[np.datetime64], bench: Floats) -> pd.DataFrame:
        """Return the daily report: Qlib's columns, index datetime."""
        frame = pd.DataFrame(self.rows, columns=_COLUMNS, index=_index(days))
        frame["bench"] = bench
        return frame

    def trade_table(self, days: NDArray[np.datetime64]) -> pd.DataFrame:
        """Return one row per order, filled or not; amounts and values of sales are negative."""
        rows = [
            (
                order.stock_id,
                order.amount_delta,
                order.sign * fill.amount,
                fill.price,
                order.sign * fill.value,
                fill.cost,
            )
            for _, order, fill in self.trades
        ]
        index = _index(days[[day for day, _, _ in self.trades]])
        columns = ["instrument", "amount", "deal_amount", "price", "value", "cost"]
        return pd.DataFrame(rows, columns=columns, index=index)

    def indicators(self, days: NDArray[np.datetime64], ffr: str = "mean", pa: str = "mean") -> pd.DataFrame:
        """Return daily execution statistics of orders, with Qlib's columns.

        ``ffr`` is the mean fill rate of orders; ``pa`` and ``pos`` are the price advantage and how often it is positive
        (both 0, because orders are executed at the base price); ``deal_amount`` and ``value`` are sums; ``count`` is
        the number of orders. `ffr` and `pa` are names of :data:`WEIGHTS`.
        """
        rows = np.zeros((len(days), len(_INDICATORS)))
        share, asked, advantage = np.zeros((3, len(days)))
        for day, order, fill in self.trades:
            rows[day, 3:] += (fill.amount, fill.value, 1)
            advantage[day] += WEIGHTS[pa](fill)
            if order.amount > 0:
                share[day] += fill.amount / order.amount * WEIGHTS[ffr](fill)
                asked[day] += WEIGHTS[ffr](fill)
        with np.errstate(invalid="ignore"):
            rows[:, 0] = share / asked
        rows[advantage == 0, 1] = np.nan
        rows[rows[:, 5] == 0, 2] = np.nan
        return pd.DataFrame(rows, columns=_INDICATORS, index=_index(days))


def _rate(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
