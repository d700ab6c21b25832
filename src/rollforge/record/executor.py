"""The executor, which executes a day's orders at that day's prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollforge.dates import DayLike
from rollforge.errors import ConfigError, nearest
from rollforge.record.account import WEIGHTS, Account, Trade
from rollforge.record.context import CommonInfrastructure, LevelInfrastructure
from rollforge.record.decision import BaseTradeDecision, Order
from rollforge.record.exchange import Exchange

__all__ = ["SimulatorExecutor"]

# Methods of Qlib's executors that are never called here; overriding them in a subclass is an error.
_NOT_CALLED = (
    "collect_data", "_collect_data", "execute", "finished", "get_all_executors", "get_level_infra", "reset", "reset_common_infra",
)  # fmt: skip


class SimulatorExecutor:
    """Executes a day's orders at that day's prices.

    A subclass may change the order of execution by overriding ``_get_order_iterator(trade_decision)``, as in Qlib.

    Parameters
    ----------
    time_per_step : str
        ``day`` is the only supported value.
    generate_portfolio_metrics : bool
        Whether to make a report and positions.
    trade_type : str
        ``serial``: in the strategy's order, sales first, so that their proceeds can be spent; ``parallel``: purchases
        are executed before sales.
    settle_type : str
        ``None`` (the string): proceeds of sales can be spent on the same day; ``cash``: on the next day.
    indicator_config : mapping, optional
        ``{"ffr_config": {"weight_method": …}, "pa_config": {"weight_method": …}}`` sets the weights of orders in the
        mean of a day: ``mean``, ``amount_weighted`` or ``value_weighted``.
    track_data : bool
        Whether :func:`rollforge.record.collecting.collect_data` yields the decisions.
    start_time, end_time, verbose
        Accepted for compatibility with Qlib and ignored: the days are those of the backtest, and nothing is printed.
    trade_exchange, common_infra
        Must be None: the backtest sets its own.

    Raises
    ------
    ConfigError
        If the frequency, trade type, settlement or weight is not supported, an exchange is given, or a subclass
        overrides methods that are not called here.
    """

    TT_SERIAL, TT_PARAL = "serial", "parallel"

    def __init__(
        self,
        time_per_step: str = "day",
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        indicator_config: Mapping[str, object] | None = None,
        generate_portfolio_metrics: bool = False,
        verbose: bool = False,
        track_data: bool = False,
        trade_type: str = "serial",
        settle_type: str = "None",
        trade_exchange: object = None,
        common_infra: object = None,
    ) -> None:
        where = "executor.kwargs"
        if time_per_step not in ("day", "1day"):
            raise ConfigError(
                f"time_per_step {time_per_step!r} is not supported; backtests are daily: 'day'.", path=where
            )
        if trade_type not in ("serial", "parallel"):
            raise ConfigError(f"trade_type must be 'serial' or 'parallel', found {trade_type!r}.", path=where)
        if settle_type not in ("None", None, "cash"):
            raise ConfigError(f"settle_type must be 'None' or 'cash', found {settle_type!r}.", path=where)
        if trade_exchange is not None or common_infra is not None:
            raise ConfigError(
                "the executor uses the exchange of the backtest; configure it with exchange_kwargs.", path=where
            )
        for name in _NOT_CALLED:
            if hasattr(type(self), name):
                raise ConfigError(
                    f"{type(self).__name__} defines {name}(), which is not called here. A subclass may define "
                    "_get_order_iterator().",
                    path="executor",
                )
        self.time_per_step = "day"
        self.track_data = track_data
        self.generate_portfolio_metrics = generate_portfolio_metrics
        self.trade_type = trade_type
        self.settle_type = settle_type or "None"
        self.indicator_config = dict(indicator_config or {})
        self.ffr_weight = _weight(self.indicator_config, "ffr_config")
        self.pa_weight = _weight(self.indicator_config, "pa_config")
        self.level_infra: LevelInfrastructure | None = None
        self.common_infra: CommonInfrastructure | None = None

    def _get_order_iterator(self, trade_decision: BaseTradeDecision) -> list[Order]:
        """Return the orders of a decision in order of execution."""
        orders = trade_decision.get_decision()
        return sorted(orders, key=lambda order: -order.direction) if self.trade_type == "parallel" else orders

    def fill_orders(
        self, decision: BaseTradeDecision, account: Account, exchange: Exchange, step: int, day: int
    ) -> list[Trade]:
        """Execute the orders of a day, and return the trades.

        Parameters
        ----------
        decision : BaseTradeDecision
            Decision of the strategy.
        account : Account
            Account to trade with; modified in place.
        exchange : Exchange
            Exchange that executes the orders.
        step : int
            Index of the day in the backtest.
        day : int
            Index of the day in the market's days.
        """
        position, dealt = account.current_position, dict[str, float]()
        trades = []
        position.settle_start(self.settle_type)
        for order in self._get_order_iterator(decision):
            today = order.start_time == decision.start_time and order.end_time == decision.end_time
            before = dealt.get(order.stock_id, 0.0)
            fill = exchange.fill(order, position, before, day=day if today else None)
            account.settle(order, fill)
            dealt[order.stock_id] = before + fill.amount
            trades.append((step, order, fill))
        return trades


def _weight(config: Mapping[str, Any], name: str) -> str:
    method = (config.get(name) or {}).get("weight_method", "mean")
    if method not in WEIGHTS:
        raise ConfigError(
            f"weight_method must be one of {', '.join(WEIGHTS)}, found {method!r}.{nearest(str(method), WEIGHTS)}",
            path=f"executor.kwargs.indicator_config.{name}",
        )
    return str(method)
