"""Collect the decisions of a strategy during a backtest, with Qlib's names."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from rollforge.record.backtest import check_position_type, make_executor, qlib_form, run_by_steps
from rollforge.record.decision import BaseTradeDecision

__all__ = ["collect_data", "format_decisions"]


def collect_data(
    start_time: object,
    end_time: object,
    strategy: object,
    executor: object = None,
    benchmark: object = "SH000300",
    account: float | Mapping[str, object] = 1e9,
    exchange_kwargs: Mapping[str, object] | None = None,
    pos_type: str = "Position",
    return_value: dict[str, object] | None = None,
) -> Generator[BaseTradeDecision, None, None]:
    """Run a backtest, and yield the decision of each day before it is executed.

    Parameters
    ----------
    start_time, end_time, strategy, executor, benchmark, account, exchange_kwargs, pos_type
        See :func:`rollforge.record.backtest.backtest`. Decisions are yielded if the executor has ``track_data=True``.
    return_value : dict, optional
        Filled at the end with ``portfolio_dict`` and ``indicator_dict``, the results of the backtest.

    Raises
    ------
    ConfigError
        As for :func:`rollforge.record.backtest.backtest`.
    """
    check_position_type(pos_type, "pos_type")
    built = make_executor(executor)
    running = run_by_steps(
        strategy,
        start_time=start_time,
        end_time=end_time,
        executor=built,
        benchmark=benchmark,
        account=account,
        exchange_kwargs=exchange_kwargs,
    )
    while True:
        try:
            decision = next(running)
        except StopIteration as ended:
            result = ended.value
            break
        if built.track_data:
            yield decision
    if return_value is not None:
        metrics, indicators = qlib_form(result, built)
        return_value.update(portfolio_dict=metrics, indicator_dict=indicators)


Decisions = tuple[str, list[tuple[BaseTradeDecision, "Decisions | None"]]]
"""A frequency, and each decision with its nested decisions (None if there are none)."""


def format_decisions(decisions: Sequence[BaseTradeDecision]) -> Decisions | None:
    """Return decisions as ``(frequency, [(decision, nested decisions), …])``; None if there are none.

    Decisions of another frequency that follow a decision are nested in it; daily backtests have none.

    Parameters
    ----------
    decisions : sequence
        Decisions in the order of :func:`collect_data`.
    """
    if not decisions:
        return None
    freq = decisions[0].strategy.trade_calendar.get_freq()
    own = [i for i, one in enumerate(decisions) if one.strategy.trade_calendar.get_freq() == freq]
    ends = [*own[1:], len(decisions)]
    return freq, [(decisions[i], format_decisions(decisions[i + 1 : end])) for i, end in zip(own, ends, strict=True)]
