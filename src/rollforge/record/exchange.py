"""A daily exchange: who can be traded at what price, what it costs, and how much of an order is filled.

The rules are those of Qlib's ``Exchange`` on daily bars; the quotes are dense arrays, day x instrument.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.engine import FeaturePlan
from rollforge.data.provider import Days, Provider
from rollforge.errors import ConfigError, nearest

__all__ = ["Fill", "Market", "Order", "Rules", "Side", "open_market"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_REGION: dict[str, dict[str, Any]] = {
    "cn": {"trade_unit": 100, "limit_threshold": 0.095},
    "us": {"trade_unit": 1, "limit_threshold": None},
    "tw": {"trade_unit": 1000, "limit_threshold": 0.1},
}
_KNOWN = (
    "freq", "start_time", "end_time", "codes", "deal_price", "subscribe_fields", "limit_threshold", "volume_threshold",
    "open_cost", "close_cost", "min_cost", "trade_unit", "impact_cost",
)  # fmt: skip
_TINY = 1e-5  # a fill of less money than this is no fill
_NO_PRICE = 1e-8


class Side(Enum):
    """Which way an order goes."""

    SELL = 0
    BUY = 1


@dataclass(frozen=True, slots=True)
class Order:
    """Wanted: so much of an instrument."""

    place: int
    """Place of the instrument in :attr:`Market.codes`."""
    amount: float
    """Adjusted shares (shares divided by the factor), positive."""
    side: Side


@dataclass(frozen=True, slots=True)
class Fill:
    """What became of an order; amount 0 when nothing."""

    order: Order
    amount: float
    price: float
    """NaN when the instrument could not be traded."""
    value: float
    """Amount times price."""
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of an exchange, in Qlib's names.

    Attributes
    ----------
    buy_price, sell_price : str
        Expressions of the prices at which orders are dealt.
    limit_threshold : float, (str, str) or None
        Daily change from which an instrument counts as being at its limit; or one expression that is true where
        it cannot be bought and one where it cannot be sold; None: no limits.
    open_cost, close_cost : float
        Fee of buying and of selling, as a share of the value.
    min_cost : float
        Least fee of an order, in money.
    impact_cost : float
        Slippage: this times the square of the order's share of the day's turnover is added to the fee.
    trade_unit : float or None
        Raw shares come in multiples of this; None: any amount.
    buy_volume, sell_volume : tuple of str
        Expressions of the largest amount dealt a day.
    codes : object or None
        Universe or codes that can be traded; None: all that the signal names.
    """

    buy_price: str = "$close"
    sell_price: str = "$close"
    limit_threshold: float | tuple[str, str] | None = None
    open_cost: float = 0.0015
    close_cost: float = 0.0025
    min_cost: float = 5.0
    impact_cost: float = 0.0
    trade_unit: float | None = None
    buy_volume: tuple[str, ...] = ()
    sell_volume: tuple[str, ...] = ()
    codes: Any = None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], *, region: str, where: str = "exchange_kwargs") -> Rules:
        """Return the rules that Qlib's ``exchange_kwargs`` describe; what they leave out is the region's.

        Raises
        ------
        ConfigError
            For an unknown name, a negative cost, or something only other exchanges have.
        """
        for key in kwargs:
            if key not in _KNOWN:
                raise ConfigError(
                    f"unknown option {key!r}.{nearest(key, _KNOWN)} Known: {', '.join(_KNOWN)}.", path=where
                )
        if kwargs.get("freq", "day") not in ("day", "1day"):
            raise ConfigError(f"freq {kwargs['freq']!r} is not supported; backtests are daily.", path=where)
        buy, sell = _deal_prices(kwargs.get("deal_price"), where)
        limit = kwargs.get("limit_threshold")
        caps = _volume_limits(kwargs.get("volume_threshold"), where)
        unit = kwargs["trade_unit"] if "trade_unit" in kwargs else _REGION[region]["trade_unit"]
        return cls(
            buy_price=buy,
            sell_price=sell,
            limit_threshold=_limit(_REGION[region]["limit_threshold"] if limit is None else limit, where),
            open_cost=_cost(kwargs, "open_cost", 0.0015, where),
            close_cost=_cost(kwargs, "close_cost", 0.0025, where),
            min_cost=_cost(kwargs, "min_cost", 5.0, where),
            impact_cost=_cost(kwargs, "impact_cost", 0.0, where),
            trade_unit=None if unit is None else _positive(unit, "trade_unit", where),
            buy_volume=tuple(e for side, e in caps if side in ("all", "buy")),
            sell_volume=tuple(e for side, e in caps if side in ("all", "sell")),
            codes=kwargs.get("codes"),
        )


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ConfigError(f"{name} must be a number, found {value!r}.", path=where)
    return float(value)


def _positive(value: Any, name: str, where: str) -> float:
    number = _number(value, name, where)
    if number <= 0:
        raise ConfigError(f"{name} must be positive, found {value!r}.", path=where)
    return number


def _cost(kwargs: Mapping[str, Any], name: str, default: float, where: str) -> float:
    number = _number(kwargs.get(name, default), name, where)
    if number < 0:
        raise ConfigError(f"{name} must not be negative, found {number:g}.", path=where)
    return number


def _price(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"deal_price must be a field such as 'close', found {name!r}.", path=where)
    return f"${name}" if re.fullmatch(r"\w+", name) else name


def _deal_prices(value: Any, where: str) -> tuple[str, str]:
    if value is None:
        return "$close", "$close"
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ConfigError(f"deal_price is one field, or one for buying and one for selling: {value!r}.", path=where)
        return _price(value[0], where), _price(value[1], where)
    return _price(value, where), _price(value, where)


def _limit(value: Any, where: str) -> float | tuple[str, str] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"limit_threshold takes two expressions (buy, sell), found {value!r}.", path=where)
        return value[0], value[1]
    return _positive(value, "limit_threshold", where)


def _volume_limits(value: Any, where: str) -> list[tuple[str, str]]:
    """Return (side, expression) pairs. On daily bars Qlib's "cum" and "current" say the same."""
    if value is None:
        return []
    by_side = value if isinstance(value, Mapping) else {"all": value}
    limits = []
    for side, limit in by_side.items():
        fits = isinstance(limit, (list, tuple)) and len(limit) == 2 and limit[0] in ("cum", "current")
        if side not in ("all", "buy", "sell") or not fits:
            raise ConfigError(
                f"volume_threshold must be ('cum' or 'current', expression), or such pairs under all, buy, sell; "
                f"found {value!r}.",
                path=where,
            )
        limits.append((str(side), str(limit[1])))
    return limits


@dataclass(frozen=True, slots=True)
class Market:
    """Quotes of some instruments on the days of a backtest, under some rules. All arrays are (days, instruments)."""

    rules: Rules
    days: Days
    codes: list[str]
    close: Floats
    """NaN: suspended, not listed, or not in the tradable universe."""
    buy_price: Floats
    sell_price: Floats
    factor: Floats
    volume: Floats
    no_buy: Flags
    no_sell: Flags
    buy_cap: Floats
    """Largest amount that can be bought; infinite without a volume limit."""
    sell_cap: Floats
    unit: float | None
    """Trade unit; None where amounts are not rounded."""

    def is_tradable(self, day: int, place: int, side: Side | None) -> bool:
        """Return whether an instrument can be traded that way; None asks for both ways at once."""
        buy, sell = self.no_buy[day, place], self.no_sell[day, place]
        if side is None:
            return not (buy or sell)
        return not (buy if side is Side.BUY else sell)

    def round_amount(self, day: int, place: int, amount: float) -> float:
        """Return `amount` cut to whole trade units of raw shares (a tenth of a share is forgiven)."""
        if self.unit is None:
            return amount
        factor = float(self.factor[day, place])
        return (amount * factor + 0.1) // self.unit * self.unit / factor

    def deal(self, day: int, order: Order, *, cash: float, held: float) -> Fill:
        """Return what becomes of an order of somebody with so much cash and so much of the instrument."""
        i = order.place
        if not self.is_tradable(day, i, order.side):
            return Fill(order, 0.0, float("nan"), 0.0, 0.0)
        selling = order.side is Side.SELL
        price = float((self.sell_price if selling else self.buy_price)[day, i])
        cap = float((self.sell_cap if selling else self.buy_cap)[day, i])
        wanted = max(min(order.amount, cap), 0.0)
        rate = (self.rules.close_cost if selling else self.rules.open_cost) + self._impact(day, i, wanted, price)
        if selling:
            amount = self._sellable(day, i, wanted, price, rate, cash, held)
        else:
            amount = self._buyable(day, i, wanted, price, rate, cash)
        value = amount * price
        if value <= _TINY:
            return Fill(order, 0.0, price, 0.0, 0.0)
        return Fill(order, amount, price, value, max(value * rate, self.rules.min_cost))

    def _impact(self, day: int, place: int, amount: float, price: float) -> float:
        if not self.rules.impact_cost:
            return 0.0
        turnover = float(self.volume[day, place]) * price
        if not turnover > 0:  # unknown: the whole slippage
            return self.rules.impact_cost
        return self.rules.impact_cost * (amount * price / turnover) ** 2

    def _sellable(
        self, day: int, place: int, wanted: float, price: float, rate: float, cash: float, held: float
    ) -> float:
        amount = wanted
        if abs(wanted - held) > 1e-8 + 1e-5 * abs(held):  # the last shares go whole, however many they are
            amount = min(self.round_amount(day, place, min(held, wanted)), held)
        return 0.0 if cash + amount * price < max(amount * price * rate, self.rules.min_cost) else amount

    def _buyable(self, day: int, place: int, wanted: float, price: float, rate: float, cash: float) -> float:
        value, least = wanted * price, self.rules.min_cost
        if cash < max(value * rate, least):
            return 0.0
        if cash < value + max(value * rate, least):
            by_rate = rate > 0 and cash >= least / rate + least
            wanted = min(wanted, (cash / (1 + rate) if by_rate else cash - least) / price)
        return self.round_amount(day, place, wanted)


def open_market(provider: Provider, rules: Rules, codes: Sequence[str], days: Days) -> Market:
    """Read the quotes that a backtest needs.

    Parameters
    ----------
    provider : Provider
        The data.
    rules : Rules
        The rules.
    codes : sequence of str
        Instruments that may be traded.
    days : array of datetime64[D]
        Consecutive days of the calendar.

    Raises
    ------
    DataNotFound, ExpressionError
        When an instrument or a field that the rules name has no data.
    """
    known = set(provider.fields())
    # The field `change` is not part of every data folder; without it Qlib's limits are silently without effect.
    change = "$change" if "change" in known else "$close/Ref($close, 1)-1"
    wanted = ["$close", rules.buy_price, rules.sell_price]
    wanted += [f"${name}" for name in ("factor", "volume") if name in known]
    wanted += [change] if isinstance(rules.limit_threshold, float) else list(rules.limit_threshold or ())
    wanted += [*rules.buy_volume, *rules.sell_volume]
    columns = _dense(provider, sorted({c.upper() for c in codes}), list(dict.fromkeys(wanted)), days)
    names = columns.codes
    close = np.where(_in_universe(provider, rules, names, days), columns["$close"], np.nan)
    nothing = np.full_like(close, np.nan)
    factor = columns["$factor"] if "factor" in known else nothing
    no_buy, no_sell = _limits(rules, columns, change, np.isnan(close))
    return Market(
        rules=rules,
        days=days,
        codes=names,
        close=close,
        buy_price=_with_fallback(columns[rules.buy_price], close, rules.buy_price),
        sell_price=_with_fallback(columns[rules.sell_price], close, rules.sell_price),
        factor=factor,
        volume=columns["$volume"] if "volume" in known else nothing,
        no_buy=no_buy,
        no_sell=no_sell,
        buy_cap=_cap(rules.buy_volume, columns, close.shape),
        sell_cap=_cap(rules.sell_volume, columns, close.shape),
        unit=_unit(rules, factor, close),
    )


class _Columns(dict[str, Floats]):
    """Expression -> its values, (days, instruments)."""

    codes: list[str]


def _dense(provider: Provider, codes: list[str], expressions: list[str], days: Days) -> _Columns:
    plan = FeaturePlan(provider, codes, expressions, days[0], days[-1])
    out = np.empty((len(plan), len(expressions)), np.float32)
    plan.fill(out)
    columns = _Columns()
    columns.codes = plan.codes
    for k, expression in enumerate(expressions):
        dense = np.full((len(days), len(plan.codes)), np.nan)
        dense[plan.row_date, plan.row_code] = out[:, k]
        columns[expression] = dense
    return columns


def _in_universe(provider: Provider, rules: Rules, codes: list[str], days: Days) -> Flags:
    if not rules.codes:
        return np.ones((len(days), len(codes)), bool)
    plan = FeaturePlan(provider, rules.codes, ["$close"], days[0], days[-1])
    place = {code: i for i, code in enumerate(codes)}
    column = np.array([place.get(code, -1) for code in plan.codes])[plan.row_code]
    inside = np.zeros((len(days), len(codes)), bool)
    inside[plan.row_date[column >= 0], column[column >= 0]] = True
    return inside


def _limits(rules: Rules, columns: _Columns, change: str, suspended: Flags) -> tuple[Flags, Flags]:
    limit = rules.limit_threshold
    if limit is None:
        return suspended, suspended
    if isinstance(limit, tuple):  # a missing value counts as true: nobody knows that it can be traded
        return (columns[limit[0]] != 0) | suspended, (columns[limit[1]] != 0) | suspended
    with np.errstate(invalid="ignore"):
        return (columns[change] >= limit) | suspended, (columns[change] <= -limit) | suspended


def _with_fallback(price: Floats, close: Floats, name: str) -> Floats:
    """Deal at the close where there is no price of the kind that was asked for."""
    with np.errstate(invalid="ignore"):
        usable = price > _NO_PRICE
    lacking = int((~usable & ~np.isnan(close)).sum())
    if lacking:
        log.warning("%s is missing or zero %d times; those orders are dealt at the close", name, lacking)
    return np.where(usable, price, close)


def _cap(expressions: Sequence[str], columns: _Columns, shape: tuple[int, ...]) -> Floats:
    cap = np.full(shape, np.inf)
    for expression in expressions:
        cap = np.minimum(cap, np.nan_to_num(columns[expression], nan=0.0))
    return cap


def _unit(rules: Rules, factor: Floats, close: Floats) -> float | None:
    if rules.trade_unit is None:
        return None
    if (np.isnan(factor) & ~np.isnan(close)).any():
        log.warning(
            "there is no factor for some prices: amounts are not rounded to the trade unit %g", rules.trade_unit
        )
        return None
    return rules.trade_unit
