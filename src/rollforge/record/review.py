"""Notes on the numbers of a backtest, computed after its last day."""

from __future__ import annotations

import numpy as np

from rollforge.errors import first_few
from rollforge.record.account import Ledger
from rollforge.record.market import Market
from rollforge.record.position import Position
from rollforge.record.strategy import BaseSignalStrategy, BaseStrategy, TopkDropoutStrategy

__all__ = ["review"]


def review(market: Market, strategy: BaseStrategy, ledger: Ledger, days: int) -> None:
    """Add notes on equal scores, orders without quotes or volume, and holdings that cannot be sold."""
    _equal_scores(market, strategy, days)
    _orders(market, ledger, days)
    _holdings(market, strategy, ledger.last)


def _equal_scores(market: Market, strategy: BaseStrategy, days: int) -> None:
    tied = len(strategy.tied_days) if isinstance(strategy, BaseSignalStrategy) else 0
    if tied:
        market.notes.add(
            "on %d of %d days equal scores were on both sides of the selection threshold; equal scores are "
            "ordered by code",
            tied,
            days,
        )


def _orders(market: Market, ledger: Ledger, days: int) -> None:
    first = len(market.days) - days
    unknown, idle = set(), []
    for step, order, fill in ledger.trades:
        place = market.place(order.stock_id)
        if place is None:
            unknown.add(order.stock_id)
        elif fill.value and market.volume[first + step, place] == 0:
            idle.append(order.stock_id)
    if unknown:
        market.notes.add("there are no quotes of %s: orders for them were not traded", first_few(sorted(unknown)))
    if idle:
        market.notes.add(
            "%s filled on days on which the instrument has a price but no trading volume (%s)",
            "1 order was" if len(idle) == 1 else f"{len(idle)} orders were",
            first_few(sorted(set(idle))),
        )


def _holdings(market: Market, strategy: BaseStrategy, last: Position) -> None:
    stuck = [line for code in last.get_stock_list() if (line := _stuck(code, last, market))]
    if not stuck:
        return
    counted = isinstance(strategy, TopkDropoutStrategy) and strategy.count_delisted
    delisted = any("was delisted" in line for line in stuck)
    market.notes.add(
        "on the last day, %s, %s could not be sold: %s%s",
        market.days[-1],
        "a holding" if len(stuck) == 1 else f"{len(stuck)} holdings",
        "; ".join(stuck),
        ". A delisted holding takes one of the topk places, and one of the n_drop sales of each day; "
        "count_delisted=False excludes it"
        if counted and delisted
        else "",
    )


def _stuck(code: str, position: Position, market: Market) -> str:
    """Return why a holding cannot be sold on the last day, or an empty string."""
    place, last = market.place(code), len(market.days) - 1
    if place is None or not market.suspended[last, place]:
        return ""
    quoted = np.flatnonzero(~np.isnan(market.close[:, place]))
    if len(quoted) and quoted[-1] == last:
        reason = "it is not among the codes of the exchange, and is valued at its last close"
    else:
        gone = "was delisted" if market.is_gone(last, place) else "has had no price"
        since = f"after {market.days[quoted[-1]]}" if len(quoted) else f"from {market.days[0]} on"
        reason = f"it {gone} {since}, and is valued at its last price"
    entry = position[code]
    return f"{code} ({entry['amount']:g} at {entry['price']:g}, {entry['weight'] * 100:.1f} % of the account: {reason})"
