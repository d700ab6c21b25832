"""Strategies, which turn the previous day's scores and the current market into orders. Names and hooks are Qlib's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.arguments import whole_number
from rollforge.errors import ConfigError, nearest
from rollforge.record.account import Account
from rollforge.record.context import CommonInfrastructure, LevelInfrastructure, TradeCalendarManager
from rollforge.record.decision import BaseTradeDecision, Executed, Order, OrderDir, TradeDecisionWO
from rollforge.record.exchange import Exchange
from rollforge.record.market import Market
from rollforge.record.position import Position
from rollforge.record.scores import Scores, Signal, SignalWCache, create_signal_from

__all__ = ["BaseSignalStrategy", "BaseStrategy", "Scores", "Signal", "TopkDropoutStrategy"]

Indices = NDArray[np.int64]


class BaseStrategy(ABC):
    """Base class of strategies, which decide what to trade on each day of a backtest.

    Subclasses implement :meth:`generate_trade_decision`. During a backtest, :attr:`trade_calendar`,
    :attr:`trade_exchange` and :attr:`trade_position` are available.

    Parameters
    ----------
    outer_trade_decision, level_infra, common_infra, trade_exchange : optional
        Qlib's arguments for nested execution; the backtest sets calendar, account and exchange itself.

    Raises
    ------
    ConfigError
        If a `trade_exchange` is given.
    """

    level_infra: LevelInfrastructure
    common_infra: CommonInfrastructure

    def __init__(
        self,
        outer_trade_decision: BaseTradeDecision | None = None,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
        trade_exchange: object = None,
    ) -> None:
        if trade_exchange is not None:
            raise ConfigError(
                "a strategy cannot have its own exchange; exchange_kwargs configure that of the backtest.",
                path="strategy.kwargs.trade_exchange",
            )
        self._reset(level_infra, common_infra, outer_trade_decision)

    @property
    def trade_calendar(self) -> TradeCalendarManager:
        """The days of the backtest, and the current one."""
        calendar: TradeCalendarManager = self._shared("level_infra", "trade_calendar")
        return calendar

    @property
    def trade_exchange(self) -> Exchange:
        """The exchange."""
        exchange: Exchange = self._shared("common_infra", "trade_exchange")
        return exchange

    @property
    def trade_position(self) -> Position:
        """The current position. Do not modify it; use ``copy.deepcopy`` to get a modifiable copy."""
        account: Account = self._shared("common_infra", "trade_account")
        return account.current_position

    @property
    def executor(self) -> Any:
        """The executor."""
        return self._shared("level_infra", "executor")

    def _shared(self, infra: str, name: str) -> Any:
        held = getattr(self, infra, None)
        found = None if held is None else held.get(name)
        if found is None:
            raise ConfigError(f"{type(self).__name__} has no {name}, because it is not part of a backtest.")
        return found

    def reset_level_infra(self, level_infra: LevelInfrastructure) -> None:
        """Set calendar and executor; called by the backtest."""
        if hasattr(self, "level_infra"):
            self.level_infra.update(level_infra)
        else:
            self.level_infra = level_infra

    def reset_common_infra(self, common_infra: CommonInfrastructure) -> None:
        """Set account and exchange; called by the backtest."""
        if hasattr(self, "common_infra"):
            self.common_infra.update(common_infra)
        else:
            self.common_infra = common_infra

    def reset(
        self,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
        outer_trade_decision: BaseTradeDecision | None = None,
        **kwargs: object,
    ) -> None:
        """Start a backtest; called once before the first day."""
        self._reset(level_infra, common_infra, outer_trade_decision)

    def _reset(
        self,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
        outer_trade_decision: object = None,
    ) -> None:
        if level_infra is not None:
            self.reset_level_infra(level_infra)
        if common_infra is not None:
            self.reset_common_infra(common_infra)
        if outer_trade_decision is not None:
            self.outer_trade_decision = outer_trade_decision

    @abstractmethod
    def generate_trade_decision(self, execute_result: Executed | None = None) -> BaseTradeDecision:
        """Return what to trade on the current day.

        Parameters
        ----------
        execute_result : list of (Order, value, cost, price), optional
            Results of the previous day's orders; None on the first day.
        """

    def instruments(self) -> list[str] | None:
        """Return the codes that the strategy may trade; None means all codes of the exchange."""
        return None

    def post_exe_step(self, execute_result: Executed | None) -> None:  # noqa: B027 - a hook
        """Hook that is called after each day; the calendar is already at the next day."""

    def post_upper_level_exe_step(self) -> None:  # noqa: B027 - a hook
        """Hook that is called after the last day."""


class BaseSignalStrategy(BaseStrategy):
    """Base class of strategies that trade on the scores of the previous day.

    Subclasses implement :meth:`orders` or, as in Qlib, :meth:`generate_trade_decision`. :meth:`get_risk_degree` can be
    overridden for market timing.

    Parameters
    ----------
    signal : Signal, Series, DataFrame, (model, dataset) or description
        See :func:`~rollforge.record.scores.create_signal_from`.
    model, dataset : optional
        Same as ``signal=(model, dataset)``; an older form of Qlib's.
    risk_degree : float
        Share of the account that is invested, above 0 and at most 1.
    trade_exchange, level_infra, common_infra
        See :class:`BaseStrategy`.
    """

    def __init__(
        self,
        *,
        signal: object = None,
        model: object = None,
        dataset: object = None,
        risk_degree: float = 0.95,
        trade_exchange: object = None,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
    ) -> None:
        super().__init__(level_infra=level_infra, common_infra=common_infra, trade_exchange=trade_exchange)
        if signal is None and model is not None:
            signal = model, dataset
        if not 0 < risk_degree <= 1:
            raise ConfigError(
                f"risk_degree must be a fraction of the account's value, found {risk_degree!r}.", path="strategy.kwargs"
            )
        self.risk_degree = risk_degree
        self.signal = create_signal_from(signal)
        self.tied_days: set[int] = set()
        """Steps at which ties had to be broken by code."""
        self.unreplaced_days: set[int] = set()
        """Steps at which holdings were sold although too few other instruments could replace them."""

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Start a backtest; called once before the first day."""
        super().reset(*args, **kwargs)
        self.tied_days, self.unreplaced_days = set(), set()

    def instruments(self) -> list[str] | None:
        """Return the codes of the signal; None if they are unknown, or a subclass overrides the decision."""
        own = type(self).__module__.startswith("rollforge.record.")
        inherited = type(self).generate_trade_decision is BaseSignalStrategy.generate_trade_decision
        return self.signal.codes if (own or inherited) and isinstance(self.signal, SignalWCache) else None

    def get_risk_degree(self, trade_step: int | None = None) -> float:
        """Return the share of the account that is invested on a day, from 0 to 1; override it for market timing."""
        return self.risk_degree

    def _degree(self, step: int) -> float:
        degree = self.get_risk_degree(step)
        if not 0 <= degree <= 1:
            raise ConfigError(
                f"{type(self).__name__}.get_risk_degree({step}) returned {degree!r}, which is not between 0 and 1."
            )
        return float(degree)

    def generate_trade_decision(self, execute_result: Executed | None = None) -> BaseTradeDecision:
        """Return the orders based on the scores of the previous day."""
        step, market = self.trade_calendar.get_trade_step(), self.trade_exchange.market
        scores = self.signal.scores_on(*self.trade_calendar.get_step_time(step, shift=1), market.codes)
        if scores is None:
            return TradeDecisionWO([], self)
        account: Account = self._shared("common_infra", "trade_account")
        return TradeDecisionWO(self.orders(self._market_day(), scores, account, market), self)

    def _market_day(self) -> int:
        """Return the index of the current day in the market's days."""
        start, _ = self.trade_calendar.get_step_time()
        return int(np.searchsorted(self.trade_exchange.market.days, start.to_datetime64()))

    def orders(self, day: int, scores: Scores, account: Account, market: Market) -> list[Order]:
        """Return the orders of a day, in order of execution.

        Parameters
        ----------
        day : int
            Index in ``market.days``.
        scores : Scores
            Scores of the previous trading day, in the order of ``market.codes``.
        account : Account
            Account before trading; must not be modified.
        market : Market
            Quotes and rules.
        """
        raise ConfigError(f"{type(self).__name__} does not define what to trade. Implement orders().")


class TopkDropoutStrategy(BaseSignalStrategy):
    """Holds the `topk` best instruments and replaces at most `n_drop` per day.

    Each day, the holdings are ranked together with the best of the other instruments. Holdings among the `n_drop` worst
    are sold, and instruments are bought so that `topk` are held, with equal shares of the cash. Ties are broken by code
    (in Qlib their order depends on the machine).

    Parameters
    ----------
    topk : int
        Number of instruments to hold.
    n_drop : int
        Maximum number of instruments to replace per day. 0 sells nothing (in Qlib: everything).
    method_sell : str
        ``bottom``: the worst holdings; ``random``: random holdings.
    method_buy : str
        ``top``: the best instruments that are not held; ``random``: random ones of the best `topk`.
    hold_thresh : int
        Minimum number of days before a holding may be sold.
    only_tradable : bool
        Whether to skip instruments that cannot be traded on the day.
    forbid_all_trade_at_limit : bool
        True neither buys nor sells an instrument at a limit; False still sells at the upper limit and buys at the lower
        limit.
    seed : int
        Random seed of the random methods.
    count_delisted : bool
        Whether a delisted holding, which can no longer be sold, counts among the `topk` and, as it has no score, among
        the `n_drop` worst. It does in Qlib, where a few such holdings stop all trading. False lets another instrument
        replace it.
    **kwargs
        See :class:`BaseSignalStrategy`.
    """

    def __init__(
        self,
        *,
        topk: int,
        n_drop: int,
        method_sell: str = "bottom",
        method_buy: str = "top",
        hold_thresh: int = 1,
        only_tradable: bool = False,
        forbid_all_trade_at_limit: bool = True,
        signal: object = None,
        model: object = None,
        dataset: object = None,
        risk_degree: float = 0.95,
        seed: int = 0,
        count_delisted: bool = True,
        trade_exchange: object = None,
        level_infra: LevelInfrastructure | None = None,
        common_infra: CommonInfrastructure | None = None,
    ) -> None:
        for name, value, least in (("topk", topk, 1), ("n_drop", n_drop, 0), ("hold_thresh", hold_thresh, 0)):
            whole_number(value, f"strategy.kwargs.{name}", least=least)
        _one_of("method_sell", method_sell, ("bottom", "random"))
        _one_of("method_buy", method_buy, ("top", "random"))
        super().__init__(
            signal=signal,
            model=model,
            dataset=dataset,
            risk_degree=risk_degree,
            trade_exchange=trade_exchange,
            level_infra=level_infra,
            common_infra=common_infra,
        )
        self.topk = topk
        self.n_drop = n_drop
        self.method_sell = method_sell
        self.method_buy = method_buy
        self.hold_thresh = hold_thresh
        self.only_tradable = only_tradable
        self.forbid_all_trade_at_limit = forbid_all_trade_at_limit
        self.seed = seed
        self.count_delisted = count_delisted
        self._random = np.random.default_rng(seed)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Start a backtest; the random number generator is reset to the seed."""
        super().reset(*args, **kwargs)
        self._random = np.random.default_rng(self.seed)

    def orders(self, day: int, scores: Scores, account: Account, market: Market) -> list[Order]:
        """Return the sales, then the purchases that replace them."""
        position = account.current_position
        in_account = np.array([market.place(code) for code in position.get_stock_list()], np.int64)
        free = np.ones(len(market.codes), bool)
        free[in_account] = False
        counts = [self.count_delisted or not market.is_gone(day, i) for i in in_account.tolist()]
        held = in_account[np.array(counts, bool)]
        ranked = _ranked(scores.values, held)
        rest = self._candidates(scores, free, len(ranked), day, market)
        dropped = self._dropped(scores, ranked, rest[: self._candidate_limit(ranked)], day, market)
        sells, cash = self._sales(dropped, position, day, market)
        n = min(max(len(dropped) + self.topk - len(held), 0), self._candidate_limit(ranked))
        if self.method_buy == "top":
            self._note_tie(rest, n, scores.values, day)
        if sells and len(held) - len(sells) + len(rest) < self.topk:
            self.unreplaced_days.add(day)
        return sells + self._purchases(rest[:n], cash, day, market)

    def _candidate_limit(self, ranked: Indices) -> int:
        """Return the maximum number of candidates to buy."""
        return max(self.n_drop + self.topk - len(ranked), 0)

    def _note_tie(self, ranked: Indices, n: int, values: NDArray[np.float64], day: int) -> None:
        """Record the day if the scores on both sides of position `n` are equal."""
        if 0 < n < len(ranked) and _equal(*values[ranked[n - 1 : n + 1]]):
            self.tied_days.add(day)

    def _choosable(self, places: Indices, day: int, market: Market) -> Indices:
        if not self.only_tradable:
            return places
        return places[[market.is_tradable(day, i, None) for i in places.tolist()]]

    def _candidates(self, scores: Scores, free: NDArray[np.bool_], held: int, day: int, market: Market) -> Indices:
        """Return the instruments that may be bought, best first."""
        if self.method_buy == "top":
            rest = _ranked(scores.values, np.flatnonzero(scores.present & free))
            return self._choosable(rest, day, market)
        everything = self._choosable(_ranked(scores.values, np.flatnonzero(scores.present)), day, market)
        self._note_tie(everything, self.topk, scores.values, day)
        best = everything[: self.topk]
        return self._pick(best[free[best]], self.n_drop + self.topk - held)

    def _pick(self, places: Indices, n: int) -> Indices:
        if n > len(places):
            return places
        return self._random.choice(places, max(n, 0), replace=False)

    def _dropped(self, scores: Scores, ranked: Indices, new: Indices, day: int, market: Market) -> Indices:
        if self.method_sell == "random":
            return self._pick(self._choosable(ranked, day, market), self.n_drop)
        together = _ranked(scores.values, np.union1d(ranked, new))
        worst = self._choosable(together[::-1], day, market)
        self._note_tie(worst, self.n_drop, scores.values, day)
        return ranked[np.isin(ranked, worst[: self.n_drop])]

    def _side(self, side: OrderDir) -> OrderDir | None:
        return None if self.forbid_all_trade_at_limit else side

    def _sales(self, dropped: Indices, position: Position, day: int, market: Market) -> tuple[list[Order], float]:
        """Return the sales, and the cash after them."""
        cash = position.get_cash()
        sells = []
        for i in dropped.tolist():
            code = market.codes[i]
            held_long_enough = position.get_stock_count(code) >= self.hold_thresh
            if not held_long_enough or not market.is_tradable(day, i, self._side(OrderDir.SELL)):
                continue
            amount = position.get_stock_amount(code)
            fill = market.fill_order(day, i, OrderDir.SELL, amount, cash=cash, held=amount)
            cash += fill.value - fill.cost
            sells.append(Order(code, amount, OrderDir.SELL))
        return sells, cash

    def _purchases(self, new: Indices, cash: float, day: int, market: Market) -> list[Order]:
        buys = []
        degree = self._degree(self.trade_calendar.get_trade_step())
        for i in new.tolist():
            if market.is_tradable(day, i, self._side(OrderDir.BUY)):
                amount = max(cash, 0.0) * degree / len(new) / float(market.buy_price[day, i])
                buys.append(Order(market.codes[i], market.round_amount(day, i, amount), OrderDir.BUY))
        return buys


def _ranked(values: NDArray[np.float64], places: Indices) -> Indices:
    """Sort `places` by score, best first and missing scores last; ties are broken by code."""
    return places[np.argsort(-values[places], kind="stable")]


def _equal(a: float, b: float) -> bool:
    return bool(a == b or (np.isnan(a) and np.isnan(b)))


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} must be {' or '.join(map(repr, allowed))}, found {value!r}.{nearest(str(value), allowed)}",
            path="strategy.kwargs",
        )
