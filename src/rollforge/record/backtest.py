"""Daily backtests with a strategy, an exchange and an account.

One loop over the days replaces Qlib's nested executors; reports and positions are the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import build, locate, target_of
from rollforge.dates import ONE_DAY, Days, has_times, read_day
from rollforge.description import Description
from rollforge.errors import ConfigError, DataError, DataNotFound, shown
from rollforge.features.engine import features
from rollforge.generate.backtests import BACKTEST_IS_DAILY
from rollforge.kinds import Kind
from rollforge.market.frames import day_rows
from rollforge.market.provider import Provider
from rollforge.market.universe import resolve_instruments, session_provider, upper_codes
from rollforge.record.account import Account, Ledger, Positions
from rollforge.record.context import CommonInfrastructure, LevelInfrastructure, TradeCalendarManager
from rollforge.record.decision import BaseTradeDecision, Executed
from rollforge.record.exchange import Exchange
from rollforge.record.executor import SimulatorExecutor
from rollforge.record.file_orders import FileOrderStrategy
from rollforge.record.market import Floats, Market
from rollforge.record.notes import Notes
from rollforge.record.position import Position
from rollforge.record.quotes import open_market
from rollforge.record.review import review
from rollforge.record.rules import Rules
from rollforge.record.scores import SignalWCache
from rollforge.record.strategy import BaseSignalStrategy, BaseStrategy, TopkDropoutStrategy
from rollforge.record.weights import SoftTopkStrategy, WeightStrategyBase
from rollforge.session import Session, current_session

__all__ = [
    "BacktestResult",
    "BaseSignalStrategy",
    "BaseStrategy",
    "FileOrderStrategy",
    "SimulatorExecutor",
    "SoftTopkStrategy",
    "TopkDropoutStrategy",
    "WeightStrategyBase",
    "backtest",
    "backtest_daily",
    "make_executor",
    "qlib_form",
    "run_backtest",
    "run_by_steps",
]

log = logging.getLogger(__name__)

FREQ = "1day"
"""The only frequency of reports."""
DEFAULT: object = object()
"""Marker for an omitted benchmark."""


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Result of a backtest."""

    report: pd.DataFrame
    """Index datetime; columns account, return (before fees), total_turnover, turnover, total_cost, cost, value, cash,
    bench. Rates are relative to the account value of the previous day."""
    positions: Positions
    indicators: pd.DataFrame
    """Execution statistics of orders, by day."""
    trades: pd.DataFrame
    """One row per order."""
    notes: tuple[str, ...] = ()
    """Remarks on the interpretation of the numbers."""
    costs: str = ""
    """Description of the fees."""
    trading: str = ""
    """Description of trade unit, limits and prices."""


def check_position_type(pos_type: object, path: str) -> None:
    """Check Qlib's `pos_type`, of which only one is supported.

    Raises
    ------
    ConfigError
        If it is not ``Position``.
    """
    if pos_type != "Position":
        raise ConfigError(f"{pos_type!r} is not supported; use 'Position'.", path=path)


def run_backtest(
    strategy: object,
    *,
    start_time: object = None,
    end_time: object = None,
    executor: object = None,
    benchmark: object = None,
    account: float | Mapping[str, object] = 1e9,
    exchange_kwargs: Mapping[str, object] | None = None,
    session: Session | None = None,
    where: str = "",
) -> BacktestResult:
    """Run a strategy over a range of days.

    The orders of a day are based on the scores of the previous trading day.

    Parameters
    ----------
    strategy : BaseStrategy or its description
        For example ``{"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": {…}}``.
    start_time, end_time : date, optional
        First and last day; None means the first day of the signal and the trading day after its last. Days after the
        end of the calendar are ignored.
    executor : SimulatorExecutor or its description, optional
        By default sales are executed before purchases.
    benchmark : str, sequence of str, Series or None
        A code, several codes whose returns are averaged, or daily returns. None means no benchmark, with a return of 0.
    account : float or mapping
        Initial cash, or ``{"cash": …, code: amount or {"amount": …, "price": …}}``.
    exchange_kwargs : mapping, optional
        See :meth:`rollforge.record.rules.Rules.from_kwargs`.
    session : Session, optional
        Session with data and region; by default the current one.
    where : str
        Path of the mapping with strategy, executor and backtest in the document, for error messages.

    Raises
    ------
    ConfigError
        If an option is invalid.
    DataNotFound, DataError
        If prices or the benchmark are missing; the message says which, and which option to change.
    """
    running = run_by_steps(
        strategy,
        start_time=start_time,
        end_time=end_time,
        executor=executor,
        benchmark=benchmark,
        account=account,
        exchange_kwargs=exchange_kwargs,
        session=session,
        where=where,
    )
    while True:
        try:
            next(running)
        except StopIteration as ended:
            result: BacktestResult = ended.value
            return result


def run_by_steps(
    strategy: object,
    *,
    start_time: object = None,
    end_time: object = None,
    executor: object = None,
    benchmark: object = None,
    account: float | Mapping[str, object] = 1e9,
    exchange_kwargs: Mapping[str, object] | None = None,
    session: Session | None = None,
    where: str = "",
) -> Generator[BaseTradeDecision, None, BacktestResult]:
    """Run a strategy like :func:`run_backtest`, and yield the decision of each day before it is executed."""
    session = session or current_session()
    provider = session_provider(session)
    prefix = f"{where}." if where else ""
    where = f"{prefix}backtest"
    rules = Rules.from_kwargs(
        exchange_kwargs or {}, region=session.region, defaults=session.exchange, where=f"{where}.exchange_kwargs"
    )
    strategy = _strategy(strategy, f"{prefix}strategy")
    executor = make_executor(executor, f"{prefix}executor")
    calendar = provider.calendar()
    if has_times(calendar):
        raise ConfigError(BACKTEST_IS_DAILY.format(provider.freq), path=where)
    begin, days = _days(calendar, strategy, start_time, end_time, where)
    cash, holdings = _start(account, where)
    market = _market(provider, rules, strategy, list(holdings), calendar, days, where)
    bench = _benchmark(benchmark, days, calendar[:begin], session, where, market.notes)
    trading_account = _opened(cash, holdings, calendar[begin - 1] if begin else None, days[0], session, where)
    steps = TradeCalendarManager(calendar, begin, len(days))
    ledger = yield from _trade(strategy, executor, trading_account, market, steps)
    review(market, strategy, ledger, len(days))
    return BacktestResult(
        report=ledger.report(days, bench),
        positions=ledger.positions,
        indicators=ledger.indicators(days, executor.ffr_weight, executor.pa_weight),
        trades=ledger.trade_table(days),
        notes=tuple(market.notes),
        costs=rules.costs(),
        trading=rules.trading(),
    )


def _trade(
    strategy: BaseStrategy,
    executor: SimulatorExecutor,
    account: Account,
    market: Market,
    steps: TradeCalendarManager,
) -> Generator[BaseTradeDecision, None, Ledger]:
    """Run the strategy day by day."""
    exchange = Exchange(market)
    ledger = Ledger(account.value, len(account.current_position.get_stock_list()))
    first = len(market.days) - steps.trade_len  # the market may have earlier quotes
    common = CommonInfrastructure(trade_account=account, trade_exchange=exchange)
    level = LevelInfrastructure(trade_calendar=steps, executor=executor, common_infra=common)
    executor.level_infra, executor.common_infra = level, common
    strategy.reset_common_infra(common)
    strategy.reset(level_infra=level)
    results: Executed | None = None
    while not steps.finished():
        step = steps.get_trade_step()
        decision = strategy.generate_trade_decision(results)
        if not isinstance(decision, BaseTradeDecision):
            raise ConfigError(
                f"{type(strategy).__name__}.generate_trade_decision returned a {type(decision).__name__}; it must return "
                "a decision, such as TradeDecisionWO(orders, self)."
            )
        yield decision
        trades = executor.fill_orders(decision, account, exchange, step, first + step)
        account.end_day(market, first + step)
        ledger.trades += trades
        ledger.enter(account, market.days[first + step])
        account.current_position.settle_commit()
        results = [(order, fill.value, fill.cost, fill.price) for _, order, fill in trades]
        steps.step()
        strategy.post_exe_step(results)
    strategy.post_upper_level_exe_step()
    return ledger


def _market(
    provider: Provider,
    rules: Rules,
    strategy: BaseStrategy,
    holdings: list[str],
    calendar: Days,
    days: Days,
    where: str,
) -> Market:
    codes = strategy.instruments()
    try:
        if codes is None:
            signal = strategy.signal if isinstance(strategy, BaseSignalStrategy) else None
            listed = signal.codes if isinstance(signal, SignalWCache) else []
            members, _ = resolve_instruments(provider, rules.codes or "all")
            codes = [*listed, *(code for code in members if provider.has(code))]
        return open_market(provider, rules, [*codes, *holdings], _quoted(rules, calendar, days, where))
    except DataNotFound as exc:
        raise DataNotFound(
            f"Data for the backtest are missing: {exc} The signal determines the instruments, "
            f"{where}.exchange_kwargs the fields."
        ) from exc


def _quoted(rules: Rules, calendar: Days, days: Days, where: str) -> Days:
    """Return the days with quotes: those of the backtest, or from an earlier start of the exchange."""
    where = f"{where}.exchange_kwargs"
    start = days[0] if rules.start_time is None else read_day(rules.start_time, f"{where}.start_time")
    end = days[-1] if rules.end_time is None else read_day(rules.end_time, f"{where}.end_time")
    if start > days[0] or end < days[-1]:
        raise ConfigError(
            f"the exchange has quotes from {start} to {end}, the backtest goes from {days[0]} to "
            f"{days[-1]}. Omit start_time and end_time, or extend them to cover the backtest.",
            path=where,
        )
    return calendar[np.searchsorted(calendar, start) : np.searchsorted(calendar, days[-1], "right")]


def check_backtest(
    strategy: object, executor: object, options: Mapping[str, Any], *, session: Session, where: str = ""
) -> None:
    """Check the configuration of a backtest, as far as possible without a prediction and without data.

    Parameters
    ----------
    strategy, executor : object or description
        As in :func:`run_backtest`; may contain placeholders.
    options : mapping
        Other arguments of :func:`run_backtest`.
    session, where
        See :func:`run_backtest`.

    Raises
    ------
    ConfigError
        As :func:`run_backtest`.
    """
    prefix = f"{where}." if where else ""
    cls = strategy_class(strategy, f"{prefix}strategy")
    if cls is not None:
        target_of(strategy, kind=_STRATEGY, default_module="rollforge.record.backtest", where=f"{prefix}strategy")
        _try_arguments(cls, strategy, f"{prefix}strategy")
    elif not isinstance(strategy, (str, Mapping)):
        _strategy(strategy, f"{prefix}strategy")
    make_executor(executor, f"{prefix}executor")
    Rules.from_kwargs(
        options.get("exchange_kwargs") or {},
        region=session.region,
        defaults=session.exchange,
        where=f"{prefix}backtest.exchange_kwargs",
    )
    if "account" in options:
        _start(options["account"], f"{prefix}backtest")
    for name in ("start_time", "end_time"):
        if options.get(name) is not None:
            read_day(options[name], f"{prefix}backtest.{name}")


def default_benchmark(session: Session) -> str | None:
    """Return the default benchmark: in China SH000300, as in Qlib, if the data have it; otherwise None."""
    if session.region != "cn":
        return None
    if session_provider(session).has("SH000300"):
        return "SH000300"
    log.warning(
        "no benchmark is given, and the data do not contain Qlib's default, SH000300: the backtest has no benchmark"
    )
    return None


def _try_arguments(cls: type[BaseStrategy], strategy: object, where: str) -> None:
    """Check the arguments of a built-in strategy on the prediction by building it with a dummy signal."""
    kwargs = Description(strategy).kwargs
    if not kwargs or not cls.__module__.startswith("rollforge."):
        return
    filled = [name for name, value in kwargs.items() if isinstance(value, str) and re.fullmatch(r"<\w+>", value)]
    if issubclass(cls, BaseSignalStrategy) and filled == ["signal"]:
        row = pd.MultiIndex.from_tuples([(pd.Timestamp("2000-01-03"), "A")], names=["datetime", "instrument"])
        _strategy(Description(strategy).with_kwargs(signal=pd.Series(0.0, row)), where)


def _codes(benchmark: object, where: str) -> list[str]:
    """Return the codes of a benchmark; none if it is given as returns. A code may be a number, as YAML reads 600000.

    Raises
    ------
    ConfigError
        If it is neither a code, nor codes, nor returns.
    """
    if benchmark is None or not isinstance(benchmark, (str, int, list, tuple)):
        return []
    listed = list(benchmark) if isinstance(benchmark, (list, tuple)) else [benchmark]
    if not all(listed) or any(isinstance(code, bool) for code in listed) or not listed:
        raise ConfigError(
            f"the benchmark must be a code, a list of codes, or null for none, found {shown(benchmark)}.", path=where
        )
    return list(map(str, listed))


def check_benchmark(benchmark: object, *, session: Session, where: str) -> None:
    """Check that the data folder has at least one of the instruments of a benchmark.

    Raises
    ------
    ConfigError
        If it has none of them; the message lists them.
    """
    codes = _codes(benchmark, where)
    if not codes or session.provider_uri is None:
        return
    provider = session_provider(session)
    missing = [code for code in codes if not provider.has(code)]
    if missing:
        raise ConfigError(
            f"there are no data for the benchmark {', '.join(map(repr, missing))} in {session.folder()}. "
            "Choose another one, or null for none.",
            path=where,
        )


def backtest(
    start_time: object,
    end_time: object,
    strategy: object,
    executor: object = None,
    benchmark: object = DEFAULT,
    account: float | Mapping[str, object] = 1e9,
    exchange_kwargs: Mapping[str, object] | None = None,
    pos_type: str = "Position",
) -> tuple[dict[str, tuple[pd.DataFrame, Positions]], dict[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Run a backtest and return ``({"1day": (report, positions)}, {"1day": (indicators, trades)})``, as in Qlib.

    If `benchmark` is omitted, it is Qlib's, see :func:`default_benchmark`. See :func:`run_backtest` for the arguments.

    Raises
    ------
    ConfigError
        If `pos_type` is not ``Position``; also as for :func:`run_backtest`.
    """
    check_position_type(pos_type, "pos_type")
    executor = make_executor(executor)
    result = run_backtest(
        strategy,
        start_time=start_time,
        end_time=end_time,
        executor=executor,
        benchmark=default_benchmark(current_session()) if benchmark is DEFAULT else benchmark,
        account=account,
        exchange_kwargs=exchange_kwargs,
    )
    return qlib_form(result, executor)


def qlib_form(
    result: BacktestResult, executor: SimulatorExecutor
) -> tuple[dict[str, tuple[pd.DataFrame, Positions]], dict[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Convert a result to the return value of :func:`backtest`."""
    metrics = {FREQ: (result.report, result.positions)} if executor.generate_portfolio_metrics else {}
    return metrics, {FREQ: (result.indicators, result.trades)}


DAILY_COSTS: Mapping[str, object] = {"open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5}
"""Costs of :func:`backtest_daily` by default, as in Qlib."""


def backtest_daily(
    start_time: object,
    end_time: object,
    strategy: object,
    executor: object = None,
    account: float | Mapping[str, object] = 1e8,
    benchmark: object = "SH000300",
    exchange_kwargs: Mapping[str, object] | None = None,
    pos_type: str = "Position",
) -> tuple[pd.DataFrame, Positions]:
    """Run a backtest and return ``(report, positions)``, as in Qlib.

    Unless `exchange_kwargs` contains other costs, buying costs 0.05 % and selling 0.15 %, at least 5 an order: Qlib's
    defaults of this function, which are lower than those of :func:`backtest`.

    Raises
    ------
    ConfigError
        If the executor makes no report; also as for :func:`backtest`.
    """
    costs = {**DAILY_COSTS, **(exchange_kwargs or {})}
    metrics, _ = backtest(start_time, end_time, strategy, executor, benchmark, account, costs, pos_type=pos_type)
    if FREQ not in metrics:
        raise ConfigError("backtest_daily needs generate_portfolio_metrics=True.", path="executor.kwargs")
    return metrics[FREQ]


_STRATEGY = Kind("strategy", base=BaseStrategy)
_EXECUTOR = Kind("executor", base=SimulatorExecutor)
_LOOKED_BACK = 30
"""Days of the calendar before the first one on which the last price of a benchmark is looked for."""


def _strategy(strategy: object, where: str) -> BaseStrategy:
    if isinstance(strategy, (str, Mapping)):
        strategy_class(strategy, where)
        strategy = build(strategy, kind=_STRATEGY, default_module="rollforge.record.backtest", where=where)
    if not isinstance(strategy, BaseStrategy):
        raise _no_strategy(type(strategy).__name__, where)
    return strategy


def strategy_class(strategy: object, where: str) -> type[BaseStrategy] | None:
    """Return the class in a description; None if `strategy` is not a description.

    Raises
    ------
    ConfigError
        If it is not a strategy, is not supported, or does not exist.
    """
    if isinstance(strategy, str):
        strategy = {"class": strategy}
    if not isinstance(strategy, Mapping) or "class" not in strategy:
        return None
    name, module = strategy["class"], strategy.get("module_path")
    if not module and isinstance(name, str) and "." not in name:
        module = "rollforge.record.backtest"
    target = locate(name, module, noun=_STRATEGY.noun, where=where)
    if not isinstance(target, type) or not issubclass(target, BaseStrategy):
        raise _no_strategy(target.__name__, where)
    return target


def _no_strategy(name: str, where: str) -> ConfigError:
    return ConfigError(
        f"{name} is not a supported strategy. Use TopkDropoutStrategy, SoftTopkStrategy or "
        "FileOrderStrategy, or derive your own strategy from "
        "rollforge.record.backtest.BaseSignalStrategy or BaseStrategy.",
        path=where,
    )


def make_executor(executor: object, where: str = "executor") -> SimulatorExecutor:
    if executor is None:
        return SimulatorExecutor(generate_portfolio_metrics=True)
    if isinstance(executor, (str, Mapping)):
        executor = build(executor, kind=_EXECUTOR, default_module="rollforge.record.backtest", where=where)
    if not isinstance(executor, SimulatorExecutor):
        raise ConfigError(f"a {type(executor).__name__} is not an executor. Use SimulatorExecutor.", path=where)
    return executor


def _days(calendar: Days, strategy: BaseStrategy, start: object, end: object, where: str) -> tuple[int, Days]:
    """Return the position of the first trading day in the calendar, and the trading days."""
    source = strategy.signal if isinstance(strategy, BaseSignalStrategy) else None
    signal = source.days if isinstance(source, SignalWCache) else None
    for name, given in (("start_time", start), ("end_time", end)):
        if given is None and signal is None:
            raise ConfigError(
                f"{type(strategy).__name__} has no prediction from which to take the days.", path=f"{where}.{name}"
            )
    first = read_day(start, f"{where}.start_time") if start is not None or signal is None else signal[0]
    begin = int(np.searchsorted(calendar, first))
    if end is not None or signal is None:
        last = read_day(end, f"{where}.end_time")
        stop = int(np.searchsorted(calendar, last, side="right"))
    else:
        stop = int(np.searchsorted(calendar, signal[-1], side="right")) + 1
        last = calendar[min(stop, len(calendar)) - 1]
    if first > last:
        raise ConfigError(f"the backtest starts on {first} and ends on {last}.", path=f"{where}.start_time")
    days = calendar[begin:stop]
    if not len(days):
        raise ConfigError(
            f"there are no trading days from {first} to {last}: the calendar has {calendar[0]} to {calendar[-1]}.",
            path=f"{where}.start_time",
        )
    previous_day = calendar[begin - 1] if begin else days[0]
    if signal is not None and (signal[0] >= days[-1] or signal[-1] < previous_day):
        log.warning(
            "the signal has %s to %s, the backtest %s to %s: it never trades", signal[0], signal[-1], days[0], days[-1]
        )
    return begin, days


def _start(account: object, where: str) -> tuple[float, dict[str, object]]:
    holdings: dict[str, object] = {}
    if isinstance(account, Mapping):
        if "cash" not in account:
            raise ConfigError("an account with holdings needs 'cash'.", path=f"{where}.account")
        codes = upper_codes((k for k in account if k != "cash"), path=f"{where}.account")
        holdings = {upper: account[code] for code, upper in codes.items()}
        account = account["cash"]
    if isinstance(account, bool) or not isinstance(account, (int, float)) or not account >= 0:
        raise ConfigError(
            f"the initial cash must be a number that is not negative, found {account!r}.", path=f"{where}.account"
        )
    if account == 0 and not holdings:
        raise ConfigError("an account without cash cannot trade.", path=f"{where}.account")
    return float(account), holdings


def _opened(
    cash: float,
    holdings: Mapping[str, object],
    before: np.datetime64 | None,
    first: np.datetime64,
    session: Session,
    where: str,
) -> Account:
    """Return the initial account; holdings without a price are valued at their last close of the previous 30 days."""
    entries = {}
    for code, entry in holdings.items():
        amount = entry.get("amount") if isinstance(entry, Mapping) else entry
        price = entry.get("price") if isinstance(entry, Mapping) else None
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount <= 0:
            raise ConfigError(f"the amount of {code} must be positive, found {amount!r}.", path=f"{where}.account")
        if price is None and before is not None:
            close = features([code], ["$close"], before - 30 * ONE_DAY, before, session=session)["$close"].dropna()
            price = float(close.iloc[-1]) if len(close) else None
        if price is None:
            raise DataNotFound(f"{code} has no close in the 30 days before {first}. Set its price in {where}.account.")
        entries[code] = {"amount": float(amount), "price": float(price)}
    return Account(Position(cash, entries), init_cash=cash)


def _benchmark(benchmark: object, days: Days, before: Days, session: Session, where: str, notes: Notes) -> Floats:
    """Return the benchmark's return on each day; 0 if it has none, as in Qlib. `before` are the earlier days."""
    if benchmark is None:
        return np.zeros(len(days))
    codes = _codes(benchmark, f"{where}.benchmark")
    if codes:
        returns = _returns_of_codes(codes, days, before, session, where)
        rest = ", and the next return is since the last price"
    else:
        returns, rest = _given_returns(benchmark, where), ""
    found = returns.reindex(pd.DatetimeIndex(days)).to_numpy(np.float64)
    if np.isnan(found).all():
        raise DataNotFound(
            f"The benchmark has no returns from {days[0]} to {days[-1]}. Choose another one in "
            f"{where}.benchmark, or null for none."
        )
    # The first day has no return if there is no earlier price, as there is none before the calendar.
    missing = int(np.isnan(found if codes and len(before) else found[1:]).sum())
    if missing:
        notes.add("the benchmark has no return on %d of %d days; they count as 0%s", missing, len(days), rest)
    bench: Floats = np.nan_to_num(found)
    return bench


def _given_returns(benchmark: object, where: str) -> pd.Series:
    """Return a benchmark that is given as returns by day."""
    given = day_rows(benchmark, "The benchmark", days_alone=True)
    if given.index.nlevels > 1 or (isinstance(given, pd.DataFrame) and given.shape[1] != 1):
        raise DataError("The benchmark must be a code, a list of codes, or one return for each day.")
    returns = pd.Series(given.to_numpy(np.float64).ravel(), index=given.index.normalize())
    if returns.median() > 1:  # more than doubled on most days
        raise ConfigError(
            f"the benchmark must be returns by day, such as 0.01 for 1 %, but its median is {returns.median():g}, as of "
            "prices. Pass prices.pct_change().",
            path=f"{where}.benchmark",
        )
    return returns


def _returns_of_codes(codes: list[str], days: Days, before: Days, session: Session, where: str) -> pd.Series:
    """Return the mean return of instruments since the last day on which any of them has a price.

    An instrument without a price on one of the two days is left out of the mean, as in Qlib.

    A price before the first day is looked for on the 30 days of the calendar before it.
    """
    first = before[-_LOOKED_BACK:][0] if len(before) else days[0]
    try:
        closes = features(codes, ["$close"], first, days[-1], session=session)["$close"]
    except DataError as exc:
        raise DataNotFound(
            f"The benchmark {', '.join(map(repr, codes))} has no data from {days[0]} to {days[-1]}: {exc} Choose another "
            f"one in {where}.benchmark, or null for none."
        ) from exc
    by_day = closes.astype(np.float64).unstack("instrument").dropna(how="all")
    returns: pd.Series = by_day.pct_change(fill_method=None).mean(axis=1)
    return returns
