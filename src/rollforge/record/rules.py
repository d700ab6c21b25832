"""The rules of a daily exchange: prices, fees, limits and trade units, under Qlib's names."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollforge.errors import ConfigError, nearest, shown

__all__ = ["EXCHANGE_OPTIONS", "REGION_DEFAULTS", "Rules"]

log = logging.getLogger(__name__)

REGION_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "cn": {"trade_unit": 100, "limit_threshold": 0.095, "deal_price": "close"},
    "us": {"trade_unit": 1, "limit_threshold": None, "deal_price": "close"},
    "tw": {"trade_unit": 1000, "limit_threshold": 0.1, "deal_price": "close"},
}
"""Region -> defaults of its exchange."""
EXCHANGE_OPTIONS = (
    "freq", "start_time", "end_time", "codes", "deal_price", "subscribe_fields", "limit_threshold", "volume_threshold",
    "open_cost", "close_cost", "min_cost", "trade_unit", "impact_cost",
)  # fmt: skip
"""Valid names in ``exchange_kwargs``."""
VolumeLimit = tuple[str, str]
"""``cum`` (all orders of a day together) or ``current`` (each order), and the expression of the maximum amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of an exchange, under Qlib's names.

    Attributes
    ----------
    buy_price, sell_price : str
        Expressions of the execution prices of orders.
    limit_threshold : float, (str, str) or None
        Daily change from which an instrument is at its limit; or two expressions, true if it cannot be bought and if it
        cannot be sold; None means no limits.
    open_cost, close_cost : float
        Fee for buying and for selling, as a fraction of the value.
    min_cost : float
        Minimum fee of an order, in money.
    impact_cost : float
        Slippage: this value, times the square of the order's share of the day's turnover, is added to the fee.
    trade_unit : float or None
        Raw shares are traded in multiples of this; None means any amount.
    buy_volume, sell_volume : tuple of (str, str)
        ``("cum", expression)`` limits the daily amount of an instrument, ``("current", expression)`` that of each
        order.
    codes : object or None
        Universe or codes that can be traded; None means those of the signal, or all.
    start_time, end_time : date or None
        First and last day with quotes; None means those of the backtest.
    subscribe_fields : tuple of str
        Further expressions that strategies query from the exchange.
    """

    buy_price: str = "$close"
    sell_price: str = "$close"
    limit_threshold: float | tuple[str, str] | None = None
    open_cost: float = 0.0015
    close_cost: float = 0.0025
    min_cost: float = 5.0
    impact_cost: float = 0.0
    trade_unit: float | None = None
    buy_volume: tuple[VolumeLimit, ...] = ()
    sell_volume: tuple[VolumeLimit, ...] = ()
    codes: Any = None
    start_time: Any = None
    end_time: Any = None
    subscribe_fields: tuple[str, ...] = ()

    @classmethod
    def from_kwargs(
        cls,
        kwargs: Mapping[str, object],
        *,
        region: str,
        defaults: Mapping[str, object] | None = None,
        where: str = "exchange_kwargs",
    ) -> Rules:
        """Return the rules described by Qlib's ``exchange_kwargs``.

        Parameters
        ----------
        kwargs : mapping
            The options. ``limit_threshold: null`` means the default, infinity no limits; ``trade_unit: null`` means any
            amount.
        region : str
            ``cn``, ``us`` or ``tw``: its trade unit, limit and price are the defaults.
        defaults : mapping, optional
            Trade unit, limit and price that override the region's (:attr:`Session.exchange`); here None means
            no limit.
        where : str
            Path of `kwargs` in its document, for error messages.

        Raises
        ------
        ConfigError
            If a name is unknown, a cost is negative or larger than the order, or an option is not supported by daily exchanges.
        """
        for key in kwargs:
            if key not in EXCHANGE_OPTIONS:
                raise ConfigError(
                    f"unknown option {key!r}.{nearest(key, EXCHANGE_OPTIONS)} Known: {', '.join(EXCHANGE_OPTIONS)}.",
                    path=where,
                )
        if kwargs.get("freq", "day") not in ("day", "1day"):
            raise ConfigError(f"freq {kwargs['freq']!r} is not supported; backtests are daily.", path=where)
        default = {**REGION_DEFAULTS[region], **(defaults or {})}
        limit, price = kwargs.get("limit_threshold"), kwargs.get("deal_price")
        buy, sell = _deal_prices(default["deal_price"] if price is None else price, where)
        caps = _volume_limits(kwargs.get("volume_threshold"), where)
        unit = kwargs.get("trade_unit", default["trade_unit"])
        return cls(
            buy_price=buy,
            sell_price=sell,
            limit_threshold=_limit(default["limit_threshold"] if limit is None else limit, where),
            open_cost=_fraction(kwargs, "open_cost", 0.0015, where),
            close_cost=_fraction(kwargs, "close_cost", 0.0025, where),
            min_cost=_cost(kwargs, "min_cost", 5.0, where),
            impact_cost=_cost(kwargs, "impact_cost", 0.0, where),
            trade_unit=None if unit is None else _positive(unit, "trade_unit", where),
            buy_volume=tuple(limit for side, limit in caps if side in ("all", "buy")),
            sell_volume=tuple(limit for side, limit in caps if side in ("all", "sell")),
            codes=kwargs.get("codes"),
            start_time=kwargs.get("start_time"),
            end_time=kwargs.get("end_time"),
            subscribe_fields=_fields(kwargs.get("subscribe_fields"), where),
        )

    def costs(self) -> str:
        """Return a description of the fees.

        Examples
        --------
        >>> Rules(open_cost=0.0005, close_cost=0.0015, min_cost=5).costs()
        '0.05 % of purchases and 0.15 % of sales, at least 5 per order'
        """
        text = f"{_percent(self.open_cost)} of purchases and {_percent(self.close_cost)} of sales"
        text += f", at least {self.min_cost:g} per order" if self.min_cost else ""
        return text + (f", and an impact cost of {self.impact_cost:g}" if self.impact_cost else "")

    def trading(self) -> str:
        """Return a description of trade unit, limit and prices.

        Examples
        --------
        >>> Rules(trade_unit=100, limit_threshold=0.095).trading()
        'units of 100 shares, none at moves of 9.5 % or more, dealt at $close'
        """
        shares = "share" if self.trade_unit == 1 else "shares"
        unit = "any amount" if self.trade_unit is None else f"units of {self.trade_unit:g} {shares}"
        limit = "no limits"
        if isinstance(self.limit_threshold, float):
            limit = f"none at moves of {_percent(self.limit_threshold)} or more"
        elif self.limit_threshold is not None:
            limit = "limits by {} and {}".format(*self.limit_threshold)
        same = self.buy_price == self.sell_price
        price = self.buy_price if same else f"{self.buy_price} (purchases) and {self.sell_price} (sales)"
        return f"{unit}, {limit}, dealt at {price}"


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def _number(value: object, name: str, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not -sys.float_info.max <= value <= sys.float_info.max
    ):
        raise ConfigError(f"{name} must be a number, found {shown(value)}.", path=where)
    return float(value)


def _positive(value: object, name: str, where: str) -> float:
    number = _number(value, name, where)
    if number <= 0:
        raise ConfigError(f"{name} must be positive, found {value!r}.", path=where)
    return number


def _cost(kwargs: Mapping[str, object], name: str, default: float, where: str) -> float:
    number = _number(kwargs.get(name, default), name, where)
    if number < 0:
        raise ConfigError(f"{name} must not be negative, found {number:g}.", path=where)
    return number


def _fraction(kwargs: Mapping[str, object], name: str, default: float, where: str) -> float:
    number = _cost(kwargs, name, default, where)
    if number > 1:
        raise ConfigError(
            f"{name} must be a fraction of the value of an order, such as 0.0005 for 0.05 %; found {number:g}, which is "
            f"{_percent(number)}.",
            path=where,
        )
    return number


def _price(name: object, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"deal_price must be a field such as 'close', found {name!r}.", path=where)
    return f"${name}" if re.fullmatch(r"\w+", name) else name


def _deal_prices(value: object, where: str) -> tuple[str, str]:
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ConfigError(
                f"deal_price must be one field, or one each for buying and selling, found {value!r}.", path=where
            )
        return _price(value[0], where), _price(value[1], where)
    return _price(value, where), _price(value, where)


def _limit(value: object, where: str) -> float | tuple[str, str] | None:
    if value is None or value == math.inf:
        return None
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"limit_threshold must be two expressions (buy, sell), found {value!r}.", path=where)
        return value[0], value[1]
    limit = _positive(value, "limit_threshold", where)
    if limit >= 2:  # 1 is often written for no limit
        log.warning(
            "limit_threshold is %g, which is a change of %s: nothing is at its limit. Write 9.5 %% as 0.095, and no limits as "
            ".inf",
            limit,
            _percent(limit),
        )
    return limit


def _volume_limits(value: Any, where: str) -> list[tuple[str, VolumeLimit]]:
    """Return pairs of side and volume limit."""
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
        limits.append((str(side), (str(limit[0]), str(limit[1]))))
    return limits


def _fields(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"subscribe_fields must be a list of expressions, found {value!r}.", path=where)
    return tuple(value)
