"""A daily market on dense arrays: tradability, prices, costs and fills of orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Days
from rollforge.record.decision import OrderDir
from rollforge.record.notes import Notes
from rollforge.record.rules import Rules

__all__ = ["Fill", "Flags", "Floats", "Market", "whole_units"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_TINY = 1e-5  # fills with a smaller value are ignored
_ROUNDING = 1e-6  # relative error of amounts computed from float32 prices and factors


def whole_units(shares: float, unit: float) -> float:
    """Return `shares` rounded down to whole trade units.

    As in Qlib, a number that is a tenth of a share below a whole unit counts as that unit, so that rounding errors of
    factors do not lose it. A unit of less than a share, as of a cryptocurrency, has a tolerance of a tenth of the unit.

    Examples
    --------
    >>> whole_units(199.95, 100), whole_units(199.85, 100), round(whole_units(0.19, 0.001), 9)
    (200.0, 100.0, 0.19)
    """
    return (shares + 0.1 * min(unit, 1.0)) // unit * unit


@dataclass(frozen=True, slots=True)
class Fill:
    """Result of an order; the amount is 0 if nothing was traded."""

    amount: float
    price: float
    """NaN if the instrument could not be traded."""
    value: float
    """Amount times price."""
    cost: float


_NOTHING = Fill(0.0, float("nan"), 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Quotes of instruments on consecutive days, with the rules of the exchange. All arrays are (days, instruments)."""

    rules: Rules
    days: Days
    codes: list[str]
    close: Floats
    """NaN if suspended or not listed."""
    buy_price: Floats
    """NaN only if `close` is NaN."""
    sell_price: Floats
    factor: Floats
    volume: Floats
    no_buy: Flags
    """Whether an instrument cannot be bought: suspended, outside the universe, or at its limit."""
    no_sell: Flags
    suspended: Flags
    """Whether it can neither be bought nor sold, regardless of its limits."""
    last_day: NDArray[np.int64]
    """(instruments,): index of the last day on which each can be traded, which must be known on that day, as a
    delisting is; past the last day if trading continues."""
    buy_caps: tuple[tuple[str, Floats], ...] = ()
    """``cum`` or ``current``, and the maximum amount that can be bought."""
    sell_caps: tuple[tuple[str, Floats], ...] = ()
    unit: float | None = None
    """Trade unit; None if amounts are not rounded."""
    quotes: Mapping[str, Floats] = field(default_factory=dict)
    """Expression -> its values."""
    notes: Notes = field(default_factory=Notes)
    _places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {code: i for i, code in enumerate(self.codes)})

    def place(self, code: str) -> int | None:
        """Return the index of an instrument, or None."""
        return self._places.get(code)

    def is_tradable(self, day: int, place: int, side: OrderDir | None) -> bool:
        """Return whether an instrument can be traded in a direction; None requires both directions."""
        buy, sell = bool(self.no_buy[day, place]), bool(self.no_sell[day, place])
        if side is None:
            return not (buy or sell)
        return not (buy if side is OrderDir.BUY else sell)

    def is_gone(self, day: int, place: int) -> bool:
        """Return whether an instrument was delisted before the day."""
        return day > int(self.last_day[place])

    def round_amount(self, day: int, place: int, amount: float) -> float:
        """Return `amount` rounded down to whole trade units of raw shares, see :func:`whole_units`."""
        if self.unit is None:
            return amount
        factor = float(self.factor[day, place])
        return whole_units(amount * factor, self.unit) / factor

    def fill_order(
        self,
        day: int,
        place: int,
        side: OrderDir,
        wanted: float,
        *,
        cash: float,
        held: float,
        dealt: float = 0.0,
    ) -> Fill:
        """Return the fill of an order.

        Parameters
        ----------
        day, place : int
            Indexes of the day and the instrument.
        side : OrderDir
            Direction of the order.
        wanted : float
            Adjusted shares; infinite for as many as possible.
        cash, held : float
            Available cash and amount of the instrument; infinite for no limit.
        dealt : float
            Amount of the instrument that was already traded on the day, which counts towards volume limits.
        """
        if not self.is_tradable(day, place, side):
            return _NOTHING
        selling = side is OrderDir.SELL
        price = float((self.sell_price if selling else self.buy_price)[day, place])
        if wanted == np.inf:
            wanted = held if selling else cash / price
        for kind, cap in self.sell_caps if selling else self.buy_caps:
            wanted = min(wanted, float(cap[day, place]) - (dealt if kind == "cum" else 0.0))
        wanted = max(wanted, 0.0)
        rate = (self.rules.close_cost if selling else self.rules.open_cost) + self._impact(day, place, wanted, price)
        if selling:
            amount = self._sellable(day, place, wanted, price, rate, cash, held)
        else:
            amount = self._buyable(day, place, wanted, price, rate, cash)
        value = amount * price
        if value <= _TINY:
            return Fill(0.0, price, 0.0, 0.0)
        return Fill(amount, price, value, max(value * rate, self.rules.min_cost))

    def _impact(self, day: int, place: int, amount: float, price: float) -> float:
        if not self.rules.impact_cost:
            return 0.0
        turnover = float(self.volume[day, place]) * price
        if not turnover > 0:  # unknown: assume the full slippage
            return self.rules.impact_cost
        return self.rules.impact_cost * (amount * price / turnover) ** 2

    def _sellable(
        self, day: int, place: int, wanted: float, price: float, rate: float, cash: float, held: float
    ) -> float:
        amount = wanted
        if not abs(wanted - held) <= 1e-8 + 1e-5 * abs(held):  # the last shares are sold without rounding
            amount = min(self.round_amount(day, place, min(held, wanted)), held)
        return 0.0 if cash + amount * price < max(amount * price * rate, self.rules.min_cost) else amount

    def _buyable(self, day: int, place: int, wanted: float, price: float, rate: float, cash: float) -> float:
        value, least = wanted * price, self.rules.min_cost
        if cash < max(value * rate, least):
            return 0.0
        if cash < value + max(value * rate, least):
            by_rate = rate > 0 and cash >= least / rate + least
            wanted = min(wanted, (cash / (1 + rate) if by_rate else cash - least) / price)
        amount = self.round_amount(day, place, wanted)
        paid = amount * price + max(amount * price * rate, least)
        if self.unit is not None and amount > wanted and paid > cash * (1 + _ROUNDING):
            # The tolerance of rounding must not spend more than there is.
            amount = max(amount - self.unit / float(self.factor[day, place]), 0.0)
        return amount
