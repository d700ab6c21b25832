"""Notes on the numbers of a backtest, computed after its last day."""

from __future__ import annotations

import numpy as np

from rollforge.errors import first_few
from rollforge.record.account import Ledger
from rollforge.record.decision import OrderDir
from rollforge.record.market import Market
from rollforge.record.position import Position
from rollforge.record.scores import SignalWCache
from rollforge.record.strategy import BaseSignalStrategy, BaseStrategy, TopkDropoutStrategy

__all__ = ["review"]


def review(market: Market, strategy: BaseStrategy, ledger: Ledger, days: int) -> None:
    """Add notes on scores, sales without replacement, orders that were not filled, and holdings that cannot be sold."""
    if isinstance(strategy, BaseSignalStrategy):
        _scores(market, strategy, days)
    if isinstance(strategy, TopkDropoutStrategy):
        _replacements(market, strategy, ledger, days)
    _orders(market, ledger, days)
    _small_orders(market, ledger, days)
    _short_sales(market, ledger)
    _holdings(market, strategy, ledger.last)


def _scores(market: Market, strategy: BaseSignalStrategy, days: int) -> None:
    if isinstance(strategy.signal, SignalWCache):
        if strategy.signal.infinite:
            market.notes.add("%d scores are infinite; they are treated as missing", strategy.signal.infinite)
        _days_without_scores(market, strategy.signal, days)
    tied = len(strategy.tied_days)
    if tied:
        market.notes.add(
            "on %d of %d days equal scores were on both sides of the selection threshold; equal scores are "
            "ordered by code",
            tied,
            days,
        )


def _days_without_scores(market: Market, signal: SignalWCache, days: int) -> None:
    """Say on how many days between the first and the last score there is none, as after a window that failed.

    Scores of every week or month have such days between them, and are only missed after more than twice the usual time.
    """
    traded = market.days[len(market.days) - days :]
    scored = np.flatnonzero(np.isin(traded, signal.days))
    distances = np.diff(scored)
    if not len(distances):
        return
    usual = np.sort(distances)[(len(distances) - 1) // 2]  # the lower median
    odd = distances > (1 if usual == 1 else 2 * usual)
    ranges = zip(scored[:-1][odd], scored[1:][odd], strict=True)
    without = traded[[day for begin, end in ranges for day in range(begin + 1, end)]]
    if len(without):
        market.notes.add(
            "there are no scores on %d of %d days, the first is %s: holdings were kept on the days after these",
            len(without),
            days,
            without[0],
        )


def _replacements(market: Market, strategy: TopkDropoutStrategy, ledger: Ledger, days: int) -> None:
    if strategy.unreplaced_days:
        market.notes.add(
            "on %d of %d days holdings were sold without a replacement, because too few other instruments have a score: "
            "with as few instruments as topk (%d), the worst are sold and bought again. Choose a smaller topk, or n_drop=0",
            len(strategy.unreplaced_days),
            days,
            strategy.topk,
        )
    most = max(strategy.topk, ledger.held_at_start)
    above = sum(len(position.get_stock_list()) > most for position in ledger.positions.values())
    if above and strategy.count_delisted:
        market.notes.add(
            "on %d of %d days more instruments were held than topk (%d): if a holding cannot be sold, because it is "
            "suspended, at its limit, or held for less than hold_thresh days, its replacement is bought all the same, with "
            "the cash that is left",
            above,
            days,
            strategy.topk,
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


def _small_orders(market: Market, ledger: Ledger, days: int) -> None:
    """Say how many purchases were rounded down to nothing."""
    unit, first = market.unit, len(market.days) - days
    if unit is None:
        return
    small, places = [], {code: place for place, code in enumerate(market.codes)}
    for step, order, fill in ledger.trades:
        if order.direction is OrderDir.BUY and not fill.amount and fill.price > 0:
            day, place = first + step, places[order.stock_id]
            raw_price = fill.price / market.factor[day, place]
            if order.amount * fill.price < unit * raw_price:
                cost = float(f"{unit * raw_price:.6g}")  # prices are float32
                small.append((order.stock_id, market.days[day], cost))
    if small:
        market.notes.add(
            "%s smaller than the trade unit of %g %s, and not made: the first is %s on %s, a unit of which costs %.10g. "
            "Use a larger account, or another trade_unit",
            "1 purchase was" if len(small) == 1 else f"{len(small)} purchases were",
            unit,
            "share" if unit == 1 else "shares",
            *small[0],
        )


def _short_sales(market: Market, ledger: Ledger) -> None:
    """Say how many sales were not made because the instrument was not held."""
    after = [ledger.positions[day] for day in sorted(ledger.positions)]
    codes = [
        order.stock_id
        for step, order, fill in ledger.trades
        if order.direction is OrderDir.SELL
        and order.amount > 0
        and fill.price > 0
        and not fill.amount
        and not after[step].check_stock(order.stock_id)
    ]
    if codes:
        market.notes.add(
            "%s of instruments that the account did not hold, and not made, because it cannot be short (%s)",
            "1 sale was" if len(codes) == 1 else f"{len(codes)} sales were",
            first_few(sorted(set(codes))),
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
