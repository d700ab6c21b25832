"""A daily backtest: a strategy, an exchange and an account, day by day.

Qlib's nested executors come down to one loop over the days here; reports and positions are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import build
from rollforge.data.engine import features, session_provider
from rollforge.data.provider import Days
from rollforge.dates import read_day
from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.record.account import Account, Books, Positions
from rollforge.record.exchange import Market, Rules, Side, open_market
from rollforge.record.strategy import BaseSignalStrategy, TopkDropoutStrategy
from rollforge.session import Session, current_session

__all__ = [
    "BacktestResult",
    "BaseSignalStrategy",
    "SimulatorExecutor",
    "TopkDropoutStrategy",
    "backtest",
    "backtest_daily",
    "run_backtest",
]

log = logging.getLogger(__name__)

FREQ = "1day"
"""The one frequency of reports."""


class SimulatorExecutor:
    """Deals a day's orders at that day's prices.

    Parameters
    ----------
    time_per_step : str
        ``day`` is the only one.
    generate_portfolio_metrics : bool
        Whether a report and positions are made.
    trade_type : str
        ``serial``: sales first, their money buys; ``parallel``: purchases are dealt before the sales.
    start_time, end_time, indicator_config, verbose, track_data
        Taken as Qlib has them, without effect.

    Raises
    ------
    ConfigError
        For another frequency or trade type.
    """

    def __init__(
        self,
        time_per_step: str = "day",
        start_time: Any = None,
        end_time: Any = None,
        indicator_config: Mapping[str, Any] | None = None,
        generate_portfolio_metrics: bool = False,
        verbose: bool = False,
        track_data: bool = False,
        trade_type: str = "serial",
    ) -> None:
        if time_per_step not in ("day", "1day"):
            raise ConfigError(
                f"time_per_step {time_per_step!r} is not supported; backtests are daily: 'day'.", path="executor.kwargs"
            )
        if trade_type not in ("serial", "parallel"):
            raise ConfigError(
                f"trade_type must be 'serial' or 'parallel', found {trade_type!r}.", path="executor.kwargs"
            )
        self.time_per_step = "day"
        self.generate_portfolio_metrics = generate_portfolio_metrics
        self.trade_type = trade_type


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What came out of a backtest."""

    report: pd.DataFrame
    """Index datetime; columns account, return (before fees), total_turnover, turnover, total_cost, cost, value, cash,
    bench. Rates are shares of the day before's account."""
    positions: Positions
    indicators: pd.DataFrame
    """How orders were filled, by day."""
    trades: pd.DataFrame
    """One row an order."""


def run_backtest(
    strategy: Any,
    *,
    start_time: Any = None,
    end_time: Any = None,
    executor: Any = None,
    benchmark: Any = None,
    account: float | Mapping[str, Any] = 1e9,
    exchange_kwargs: Mapping[str, Any] | None = None,
    session: Session | None = None,
    where: str = "",
) -> BacktestResult:
    """Run a strategy over some days, and return the books.

    The orders of a day follow from the scores of the trading day before.

    Parameters
    ----------
    strategy : BaseSignalStrategy or its description
        As ``{"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": {…}}``.
    start_time, end_time : date, optional
        First and last day; None: the first day of the signal, and the trading day after its last. Days past the end of
        the calendar are left out.
    executor : SimulatorExecutor or its description, optional
        By default sales are dealt before purchases.
    benchmark : str, sequence of str, Series or None
        A code, codes whose returns are averaged, or returns by day; None: no benchmark, its return is 0.
    account : float or mapping
        Money at the start, or ``{"cash": …, code: amount or {"amount": …, "price": …}}``.
    exchange_kwargs : mapping, optional
        See :meth:`rollforge.record.exchange.Rules.from_kwargs`.
    session : Session, optional
        Names the data and the region; by default the current one.
    where : str
        Place in the document of the mapping with strategy, executor and backtest, for errors.

    Raises
    ------
    ConfigError
        For an option that cannot be meant.
    DataNotFound, DataError
        When prices or the benchmark are missing, naming them and the key that changes it.
    """
    session = session or current_session()
    provider = session_provider(session)
    prefix = f"{where}." if where else ""
    where = f"{prefix}backtest"
    rules = Rules.from_kwargs(exchange_kwargs or {}, region=session.region, where=f"{where}.exchange_kwargs")
    strategy = _strategy(strategy, f"{prefix}strategy")
    executor = _executor(executor, f"{prefix}executor")
    days, before = _days(provider.calendar(), strategy, start_time, end_time, where)
    cash, holdings = _start(account, where)
    try:
        market = open_market(provider, rules, [*strategy.signal.codes, *holdings], days)
    except DataNotFound as exc:
        raise DataNotFound(
            f"The backtest lacks data: {exc} The signal names the instruments, {where}.exchange_kwargs the fields."
        ) from exc
    bench = _benchmark(benchmark, days, session, where)
    purse = _opened(cash, holdings, market, before, session, where)
    books = Books(purse.value)
    for t, day in enumerate(days):
        scores = strategy.signal.on(days[t - 1] if t else before, market.codes)
        orders = [] if scores is None else strategy.orders(t, scores, purse, market)
        if executor.trade_type == "parallel":
            orders = sorted(orders, key=lambda order: order.side is Side.SELL)
        for order in orders:
            fill = market.deal(t, order, cash=purse.cash, held=float(purse.amount[order.place]))
            purse.settle(fill)
            books.fills.append((t, fill))
        purse.end_day(market.close[t])
        books.enter(purse, day, market.codes)
    return BacktestResult(
        books.report(days, bench), books.positions, books.indicators(days), books.trades(days, market.codes)
    )


def backtest(
    start_time: Any,
    end_time: Any,
    strategy: Any,
    executor: Any = None,
    benchmark: Any = None,
    account: float | Mapping[str, Any] = 1e9,
    exchange_kwargs: Mapping[str, Any] | None = None,
    pos_type: str = "Position",
) -> tuple[dict[str, tuple[pd.DataFrame, Positions]], dict[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Return ``({"1day": (report, positions)}, {"1day": (indicators, trades)})``: Qlib's form of :func:`run_backtest`.

    Raises
    ------
    ConfigError
        For a `pos_type` other than ``Position``; see :func:`run_backtest` for the rest.
    """
    if pos_type != "Position":
        raise ConfigError(f"pos_type {pos_type!r} is not supported; there is 'Position'.", path="backtest")
    executor = _executor(executor)
    result = run_backtest(
        strategy,
        start_time=start_time,
        end_time=end_time,
        executor=executor,
        benchmark=benchmark,
        account=account,
        exchange_kwargs=exchange_kwargs,
    )
    metrics = {FREQ: (result.report, result.positions)} if executor.generate_portfolio_metrics else {}
    return metrics, {FREQ: (result.indicators, result.trades)}


def backtest_daily(
    start_time: Any,
    end_time: Any,
    strategy: Any,
    executor: Any = None,
    account: float | Mapping[str, Any] = 1e8,
    benchmark: Any = "SH000300",
    exchange_kwargs: Mapping[str, Any] | None = None,
    pos_type: str = "Position",
) -> tuple[pd.DataFrame, Positions]:
    """Return ``(report, positions)``: Qlib's shortest form of :func:`run_backtest`.

    Raises
    ------
    ConfigError
        When the executor is told to make no report; see :func:`backtest` for the rest.
    """
    metrics, _ = backtest(
        start_time, end_time, strategy, executor, benchmark, account, exchange_kwargs, pos_type=pos_type
    )
    if FREQ not in metrics:
        raise ConfigError("backtest_daily needs generate_portfolio_metrics=True.", path="executor.kwargs")
    return metrics[FREQ]


def _strategy(strategy: Any, where: str) -> BaseSignalStrategy:
    if isinstance(strategy, (str, Mapping)):
        strategy = build(strategy, default_module="rollforge.record.backtest", where=where)
    if not isinstance(strategy, BaseSignalStrategy):
        raise ConfigError(
            f"a {type(strategy).__name__} cannot trade here. There is TopkDropoutStrategy; a strategy of your own "
            "derives from rollforge.record.backtest.BaseSignalStrategy.",
            path=where,
        )
    return strategy


def _executor(executor: Any, where: str = "executor") -> SimulatorExecutor:
    if executor is None:
        return SimulatorExecutor(generate_portfolio_metrics=True)
    if isinstance(executor, (str, Mapping)):
        executor = build(executor, default_module="rollforge.record.backtest", where=where)
    if not isinstance(executor, SimulatorExecutor):
        raise ConfigError(f"a {type(executor).__name__} is no executor; there is SimulatorExecutor.", path=where)
    return executor


def _days(
    calendar: Days, strategy: BaseSignalStrategy, start: Any, end: Any, where: str
) -> tuple[Days, np.datetime64 | None]:
    """Return the trading days, and the one before them (None at the calendar's start: there Qlib takes the last)."""
    signal = strategy.signal.days
    first = signal[0] if start is None else read_day(start, f"{where}.start_time")
    begin = int(np.searchsorted(calendar, first))
    if end is None:
        stop = int(np.searchsorted(calendar, signal[-1], side="right")) + 1
        last = calendar[min(stop, len(calendar)) - 1]
    else:
        last = read_day(end, f"{where}.end_time")
        stop = int(np.searchsorted(calendar, last, side="right"))
    if first > last:
        raise ConfigError(f"the backtest starts on {first} and ends on {last}.", path=f"{where}.start_time")
    days = calendar[begin:stop]
    if not len(days):
        raise ConfigError(
            f"there are no trading days from {first} to {last}: the calendar has {calendar[0]} to {calendar[-1]}.",
            path=f"{where}.start_time",
        )
    if signal[0] >= days[-1] or signal[-1] < (calendar[begin - 1] if begin else days[0]):
        log.warning(
            "the signal has %s to %s, the backtest %s to %s: it never trades", signal[0], signal[-1], days[0], days[-1]
        )
    return days, calendar[begin - 1] if begin else None


def _start(account: Any, where: str) -> tuple[float, dict[str, Any]]:
    holdings: dict[str, Any] = {}
    if isinstance(account, Mapping):
        if "cash" not in account:
            raise ConfigError("an account with holdings needs 'cash'.", path=f"{where}.account")
        holdings = {str(k).upper(): v for k, v in account.items() if k != "cash"}
        account = account["cash"]
    if isinstance(account, bool) or not isinstance(account, (int, float)) or not account >= 0:
        raise ConfigError(f"the money at the start is a number, found {account!r}.", path=f"{where}.account")
    if account == 0 and not holdings:
        raise ConfigError("an account without money cannot trade.", path=f"{where}.account")
    return float(account), holdings


def _opened(
    cash: float,
    holdings: Mapping[str, Any],
    market: Market,
    before: np.datetime64 | None,
    session: Session,
    where: str,
) -> Account:
    """Return the account at the start; holdings without a price are worth their last close of the 30 days before."""
    purse = Account.empty(cash, len(market.codes))
    for code, entry in holdings.items():
        i = market.codes.index(code)
        amount = entry.get("amount") if isinstance(entry, Mapping) else entry
        price = entry.get("price") if isinstance(entry, Mapping) else None
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount <= 0:
            raise ConfigError(f"the amount of {code} must be positive, found {amount!r}.", path=f"{where}.account")
        if price is None and before is not None:
            close = features([code], ["$close"], before - 30, before, session=session)["$close"].dropna()
            price = float(close.iloc[-1]) if len(close) else None
        if price is None:
            raise DataNotFound(
                f"{code} has no close in the 30 days before {market.days[0]}. Give its price in {where}.account."
            )
        purse.held[i], purse.amount[i], purse.price[i] = True, float(amount), float(price)
    return purse


def _benchmark(benchmark: Any, days: Days, session: Session, where: str) -> NDArray[np.float64]:
    """Return the benchmark's return on each day; 0 where it has none, as in Qlib."""
    if benchmark is None:
        return np.zeros(len(days))
    if isinstance(benchmark, pd.Series):
        returns = pd.Series(benchmark.to_numpy(np.float64), index=pd.DatetimeIndex(benchmark.index).normalize())
    else:
        codes = [benchmark] if isinstance(benchmark, str) else benchmark
        try:
            frame = features(codes, ["$close/Ref($close, 1)-1"], days[0], days[-1], session=session)
        except DataError as exc:
            raise DataNotFound(
                f"The benchmark {benchmark!r} has no data from {days[0]} to {days[-1]}: {exc} "
                f"Name another in {where}.benchmark, or null for none."
            ) from exc
        returns = frame.iloc[:, 0].astype(np.float64).groupby(level="datetime").mean()
    found = returns.reindex(pd.DatetimeIndex(days)).to_numpy(np.float64)
    if np.isnan(found).all():
        raise DataNotFound(
            f"The benchmark has no returns from {days[0]} to {days[-1]}. "
            f"Name another in {where}.benchmark, or null for none."
        )
    missing = int(np.isnan(found[1:]).sum())
    if missing:
        log.warning("the benchmark has no return on %d of %d days; they count as 0", missing, len(days))
    bench: NDArray[np.float64] = np.nan_to_num(found)
    return bench
