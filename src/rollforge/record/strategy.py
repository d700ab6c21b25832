"""Strategies: from yesterday's scores and today's market to orders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.data.dataset import Dataset
from rollforge.data.provider import Days
from rollforge.errors import ConfigError, DataError, nearest
from rollforge.models.base import BaseModel
from rollforge.record.account import Account
from rollforge.record.exchange import Market, Order, Side

__all__ = ["BaseSignalStrategy", "Scores", "Signal", "TopkDropoutStrategy"]

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one day, by place of the instrument."""

    values: NDArray[np.float64]
    """(instruments,); NaN without a score."""
    present: NDArray[np.bool_]
    """Whether the instrument has a row at all on that day."""


class Signal:
    """A prediction, asked for by day.

    Parameters
    ----------
    source : Series, DataFrame, or (model, dataset)
        Index of days and instruments, in either order; the first column of a frame counts. Of a pair, the model's
        prediction.

    Raises
    ------
    ConfigError
        For anything else, as a placeholder that was not filled.
    DataError
        When it is empty, or has two values for one day and instrument.
    """

    def __init__(self, source: Any) -> None:
        series = _as_series(source)
        index = series.index
        if not isinstance(index, pd.MultiIndex) or index.nlevels != 2:
            raise DataError("A signal needs an index of two levels, datetime and instrument.")
        names = list(index.names)
        first = names.index("datetime") if "datetime" in names else int(not _is_days(index.levels[0]))
        days = index.get_level_values(first)
        if not _is_days(days):
            raise DataError("A signal needs an index level of days (timestamps).")
        if series.empty:
            raise DataError("The signal is empty: there is no prediction to trade on.")
        if index.has_duplicates:
            raise DataError(f"The signal has two values for {index[index.duplicated()][0]}.")
        codes, names_of = pd.factorize(index.get_level_values(1 - first).astype(str).str.upper(), sort=True)
        dates, row = np.unique(pd.DatetimeIndex(days).to_numpy().astype("datetime64[D]"), return_inverse=True)
        self.codes: list[str] = [str(c) for c in names_of]
        """Instruments, ascending."""
        self.days: Days = dates
        self._values = np.full((len(dates), len(self.codes)), np.nan)
        self._present = np.zeros(self._values.shape, bool)
        self._values[row, codes] = series.to_numpy(np.float64)
        self._present[row, codes] = True

    def on(self, day: np.datetime64 | None, codes: Sequence[str]) -> Scores | None:
        """Return the scores of a day in the order of `codes`; None when there is no prediction for it."""
        if day is None:
            return None
        at = int(np.searchsorted(self.days, day))
        if at == len(self.days) or self.days[at] != day:
            return None
        if list(codes) == self.codes:
            return Scores(self._values[at], self._present[at])
        place = {code: i for i, code in enumerate(self.codes)}
        found = np.array([place.get(code, -1) for code in codes])
        there = found >= 0
        return Scores(np.where(there, self._values[at][found], np.nan), there & self._present[at][found])


def _is_days(level: pd.Index) -> bool:
    return isinstance(level, pd.DatetimeIndex)


def _as_series(source: Any) -> pd.Series:
    if isinstance(source, (tuple, list)) and len(source) == 2 and isinstance(source[0], BaseModel):
        model, dataset = source
        if not isinstance(dataset, Dataset):
            raise ConfigError("a signal of a model needs its dataset: (model, dataset).", path="strategy.kwargs.signal")
        source = model.predict(dataset)
    if isinstance(source, pd.DataFrame):
        if source.shape[1] == 0:
            raise DataError("The signal has no column.")
        source = source.iloc[:, 0]
    if not isinstance(source, pd.Series):
        shown = repr(source) if isinstance(source, str) else f"a {type(source).__name__}"
        raise ConfigError(
            f"a signal is a prediction (Series, DataFrame) or (model, dataset), found {shown}. "
            "In a record, '<PRED>' stands for the run's prediction.",
            path="strategy.kwargs.signal",
        )
    return source


class BaseSignalStrategy(ABC):
    """A strategy that trades on the scores of the day before. Subclass it and write :meth:`orders` for one of your own.

    Parameters
    ----------
    signal : Series, DataFrame or (model, dataset)
        See :class:`Signal`.
    model, dataset : optional
        The same as ``signal=(model, dataset)``: an older form of Qlib's.
    risk_degree : float
        Share of the money that is invested, above 0 and at most 1.
    """

    def __init__(
        self, *, signal: Any = None, model: Any = None, dataset: Any = None, risk_degree: float = 0.95
    ) -> None:
        if signal is None and model is not None:
            signal = model, dataset
        if not 0 < risk_degree <= 1:
            raise ConfigError(f"risk_degree is a share of the money, found {risk_degree!r}.", path="strategy.kwargs")
        self.risk_degree = risk_degree
        self.signal = Signal(signal)

    @abstractmethod
    def orders(self, day: int, scores: Scores, account: Account, market: Market) -> list[Order]:
        """Return the orders of a day, sales first.

        Parameters
        ----------
        day : int
            Place in ``market.days``.
        scores : Scores
            Of the trading day before, in the order of ``market.codes``.
        account : Account
            Before trading; not to be changed.
        market : Market
            Quotes and rules.
        """


class TopkDropoutStrategy(BaseSignalStrategy):
    """Hold the `topk` best, and replace at most `n_drop` a day.

    Each day, the holdings are ranked together with the best of the rest; those of the holdings among the `n_drop` worst
    are sold, and as many are bought that `topk` are held, the money being shared equally. Equal scores are taken in the
    order of their codes (Qlib's order among them depends on the machine).

    Parameters
    ----------
    topk : int
        How many to hold.
    n_drop : int
        How many to replace a day at most. 0 sells nothing (in Qlib: everything).
    method_sell : str
        ``bottom``: the worst; ``random``: any of the holdings.
    method_buy : str
        ``top``: the best that are not held; ``random``: any of the best `topk`.
    hold_thresh : int
        Days after which a holding may be sold at the earliest.
    only_tradable : bool
        Whether what cannot be traded today is passed over when choosing.
    forbid_all_trade_at_limit : bool
        Whether an instrument at a limit is neither bought nor sold; False still sells at the upper and buys at the
        lower limit.
    seed : int
        Of the random methods.
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
        signal: Any = None,
        model: Any = None,
        dataset: Any = None,
        risk_degree: float = 0.95,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("topk", topk, 1), ("n_drop", n_drop, 0), ("hold_thresh", hold_thresh, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number from {least} on, found {value!r}.", path="strategy.kwargs"
                )
        _one_of("method_sell", method_sell, ("bottom", "random"))
        _one_of("method_buy", method_buy, ("top", "random"))
        super().__init__(signal=signal, model=model, dataset=dataset, risk_degree=risk_degree)
        self.topk = topk
        self.n_drop = n_drop
        self.method_sell = method_sell
        self.method_buy = method_buy
        self.hold_thresh = hold_thresh
        self.only_tradable = only_tradable
        self.forbid_all_trade_at_limit = forbid_all_trade_at_limit
        self._random = np.random.default_rng(seed)

    def orders(self, day: int, scores: Scores, account: Account, market: Market) -> list[Order]:
        """Return sales of what drops out, then purchases of what replaces it."""
        held = np.flatnonzero(account.held)
        ranked = _ranked(scores.values, held)
        new = self._candidates(scores, account, ranked, day, market)
        dropped = self._dropped(scores, ranked, new, day, market)
        sells, cash = self._sales(dropped, account, day, market)
        new = new[: max(len(dropped) + self.topk - len(held), 0)]
        return sells + self._purchases(new, cash, day, market)

    def _first(self, places: Places, n: int, day: int, market: Market) -> Places:
        """The first `n`, of those that can be traded if so asked."""
        return self._choosable(places, day, market)[: max(n, 0)]

    def _choosable(self, places: Places, day: int, market: Market) -> Places:
        if not self.only_tradable:
            return places
        return places[[market.is_tradable(day, i, None) for i in places.tolist()]]

    def _candidates(self, scores: Scores, account: Account, ranked: Places, day: int, market: Market) -> Places:
        wanted = self.n_drop + self.topk - len(ranked)
        if self.method_buy == "top":
            rest = _ranked(scores.values, np.flatnonzero(scores.present & ~account.held))
            return self._first(rest, wanted, day, market)
        best = self._first(_ranked(scores.values, np.flatnonzero(scores.present)), self.topk, day, market)
        best = best[~account.held[best]]
        return self._pick(best, wanted)

    def _pick(self, places: Places, n: int) -> Places:
        if n > len(places):
            return places
        return self._random.choice(places, max(n, 0), replace=False)

    def _dropped(self, scores: Scores, ranked: Places, new: Places, day: int, market: Market) -> Places:
        if self.method_sell == "random":
            return self._pick(self._choosable(ranked, day, market), self.n_drop)
        together = _ranked(scores.values, np.union1d(ranked, new))
        worst = self._first(together[::-1], self.n_drop, day, market)
        return ranked[np.isin(ranked, worst)]

    def _side(self, side: Side) -> Side | None:
        return None if self.forbid_all_trade_at_limit else side

    def _sales(self, dropped: Places, account: Account, day: int, market: Market) -> tuple[list[Order], float]:
        """Return the sales, and the cash that there will be after them."""
        cash = account.cash
        sells = []
        for i in dropped.tolist():
            ripe = account.days_held[i] >= self.hold_thresh
            if not ripe or not market.is_tradable(day, i, self._side(Side.SELL)):
                continue
            order = Order(i, float(account.amount[i]), Side.SELL)
            fill = market.deal(day, order, cash=cash, held=order.amount)
            cash += fill.value - fill.cost
            sells.append(order)
        return sells, cash

    def _purchases(self, new: Places, cash: float, day: int, market: Market) -> list[Order]:
        buys = []
        for i in new.tolist():
            if market.is_tradable(day, i, self._side(Side.BUY)):
                amount = cash * self.risk_degree / len(new) / float(market.buy_price[day, i])
                buys.append(Order(i, market.round_amount(day, i, amount), Side.BUY))
        return buys


def _ranked(values: NDArray[np.float64], places: Places) -> Places:
    """`places` by their score, the best first, those without one last; equal ones in the order of their codes."""
    return places[np.argsort(-values[places], kind="stable")]


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} must be {' or '.join(map(repr, allowed))}, found {value!r}.{nearest(str(value), allowed)}",
            path="strategy.kwargs",
        )
