"""An account: cash and holdings, and the books that are kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.record.exchange import Fill, Side

__all__ = ["Account", "Books", "Positions"]

Floats = NDArray[np.float64]

Positions = dict[pd.Timestamp, dict[str, Any]]
"""Day -> ``{"cash": …, "now_account_value": …, code: {"amount": …, "price": …, "weight": …, "count_day": …}}``."""


@dataclass(slots=True)
class Account:
    """Cash and holdings by place of the instrument. The loop of a backtest owns it and changes it."""

    cash: float
    amount: Floats
    """Adjusted shares, (instruments,)."""
    price: Floats
    """Last known close, or the price paid today."""
    days_held: NDArray[np.int64]
    held: NDArray[np.bool_]
    turnover: float = 0.0
    """Money moved by orders since the start."""
    cost: float = 0.0
    """Fees since the start."""

    @classmethod
    def empty(cls, cash: float, size: int) -> Account:
        """Return an account with cash alone."""
        return cls(cash, np.zeros(size), np.zeros(size), np.zeros(size, np.int64), np.zeros(size, bool))

    @property
    def stock_value(self) -> float:
        """What the holdings are worth at their last prices."""
        return float(self.amount[self.held] @ self.price[self.held])

    @property
    def value(self) -> float:
        """Holdings and cash."""
        return self.stock_value + self.cash

    def settle(self, fill: Fill) -> None:
        """Enter a fill."""
        if fill.value <= 0:
            return
        i = fill.order.place
        amount = fill.value / fill.price
        if fill.order.side is Side.BUY:
            self.cash -= fill.value + fill.cost
            if not self.held[i]:
                self.held[i], self.amount[i], self.price[i], self.days_held[i] = True, 0.0, fill.price, 0
            self.amount[i] += amount
        else:
            self.cash += fill.value - fill.cost
            if abs(self.amount[i] - amount) <= 1e-8 + 1e-5 * abs(amount):
                self.held[i], self.amount[i], self.days_held[i] = False, 0.0, 0
            else:
                self.amount[i] -= amount
        self.turnover += fill.value
        self.cost += fill.cost

    def end_day(self, close: Floats) -> None:
        """Value the holdings at the day's close (a suspended one keeps its last), and count the day."""
        quoted = self.held & ~np.isnan(close)
        self.price[quoted] = close[quoted]
        self.days_held[self.held] += 1

    def position(self, codes: Sequence[str]) -> dict[str, Any]:
        """Return the holdings as Qlib's ``Position.position`` has them."""
        value = self.value
        entry: dict[str, Any] = {"cash": self.cash, "now_account_value": value}
        for i in np.flatnonzero(self.held).tolist():
            amount, price = float(self.amount[i]), float(self.price[i])
            entry[codes[i]] = {
                "amount": amount, "price": price, "weight": amount * price / value, "count_day": int(self.days_held[i]),
            }  # fmt: skip
        return entry


_COLUMNS = ["account", "return", "total_turnover", "turnover", "total_cost", "cost", "value", "cash"]
_INDICATORS = ["ffr", "pa", "pos", "deal_amount", "value", "count"]


def _index(days: NDArray[np.datetime64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(days.astype("datetime64[ns]"), name="datetime")


@dataclass(slots=True)
class Books:
    """What is written down at the end of each day."""

    start_value: float
    rows: list[tuple[float, ...]] = field(default_factory=list)
    positions: Positions = field(default_factory=dict)
    fills: list[tuple[int, Fill]] = field(default_factory=list)

    def enter(self, account: Account, day: np.datetime64, codes: Sequence[str]) -> None:
        """Write the day down."""
        before, turned, paid = (self.rows[-1][k] for k in (0, 2, 4)) if self.rows else (self.start_value, 0.0, 0.0)
        value = account.value
        cost = account.cost - paid
        self.rows.append(
            (
                value,
                (value - before + cost) / before,  # the return before fees
                account.turnover,
                (account.turnover - turned) / before,
                account.cost,
                cost / before,
                account.stock_value,
                account.cash,
            )
        )
        self.positions[pd.Timestamp(day)] = account.position(codes)

    def report(self, days: NDArray[np.datetime64], bench: Floats) -> pd.DataFrame:
        """Return the daily report: Qlib's columns, index datetime."""
        frame = pd.DataFrame(self.rows, columns=_COLUMNS, index=_index(days))
        frame["bench"] = bench
        return frame

    def trades(self, days: NDArray[np.datetime64], codes: Sequence[str]) -> pd.DataFrame:
        """Return one row an order, filled or not; amounts and values of sales are negative."""
        rows = []
        for _, fill in self.fills:
            sign = 1 if fill.order.side is Side.BUY else -1
            rows.append(
                (
                    codes[fill.order.place],
                    sign * fill.order.amount,
                    sign * fill.amount,
                    fill.price,
                    sign * fill.value,
                    fill.cost,
                )
            )
        index = _index(days[[day for day, _ in self.fills]])
        columns = ["instrument", "amount", "deal_amount", "price", "value", "cost"]
        return pd.DataFrame(rows, columns=columns, index=index)

    def indicators(self, days: NDArray[np.datetime64]) -> pd.DataFrame:
        """Return how orders were filled, by day: Qlib's columns.

        ``ffr`` mean share of an order that was filled; ``pa`` and ``pos`` price advantage and how often it was positive
        (0, as orders are dealt at the base price itself); ``deal_amount`` and ``value`` sums; ``count`` orders.
        """
        rows = np.zeros((len(days), len(_INDICATORS)))
        share = np.zeros(len(days))
        asked = np.zeros(len(days))
        for day, fill in self.fills:
            rows[day, 3:] += (fill.amount, fill.value, 1)
            if fill.order.amount > 0:
                share[day] += fill.amount / fill.order.amount
                asked[day] += 1
        with np.errstate(invalid="ignore"):
            rows[:, 0] = share / asked
        rows[rows[:, 5] == 0, 1:3] = np.nan
        return pd.DataFrame(rows, columns=_INDICATORS, index=_index(days))
