"""Backtest of the full out-of-sample prediction, with the configuration of its windows' backtests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rollforge import qlib_imports, trust
from rollforge.build import describe, resolve_references
from rollforge.dates import read_day
from rollforge.description import Description
from rollforge.errors import RollforgeError, counted
from rollforge.generate.backtests import is_backtest
from rollforge.generate.task_view import TaskView
from rollforge.market.universe import session_provider
from rollforge.record.backtest import FREQ, BacktestResult, default_benchmark, strategy_class
from rollforge.record.portfolio import PortAnaRecord, excess_returns
from rollforge.session import Session, using
from rollforge.trust import Origin

__all__ = ["OBJECTS", "JoinedBacktest", "backtest_joined"]

OBJECTS = tuple(
    PortAnaRecord.get_path(f"{name}_{FREQ}.pkl") for name in ("report_normal", "positions_normal", "port_analysis")
)
"""Names of :attr:`JoinedBacktest.objects`."""


@dataclass(frozen=True, slots=True)
class JoinedBacktest:
    """Backtest of a joined prediction."""

    result: BacktestResult
    strategy: str
    """Description of the strategy, such as ``TopkDropoutStrategy(topk=50, n_drop=5)``."""
    benchmark: str
    """Name of the benchmark; empty if there is none."""
    account: float
    """Initial value of the account, including holdings."""

    @property
    def objects(self) -> dict[str, object]:
        """Return the artifacts that ``PortAnaRecord`` saves, under the same names."""
        values = self.result.report, self.result.positions, excess_returns(self.result.report)
        return dict(zip(OBJECTS, values, strict=True))

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of returns that ``PortAnaRecord`` logs, under the same names."""
        risk = excess_returns(self.result.report)["risk"]
        return {f"{FREQ}.{'.'.join(key)}": float(v) for key, v in zip(risk.index, risk, strict=True)}

    def about(self) -> dict[str, str]:
        """Return a description of the backtest: days, strategy, costs, exchange, benchmark, account."""
        days = self.result.report.index
        count = counted(len(days), "trading day")
        return {
            "days": f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}, {count}",
            "strategy": self.strategy,
            "costs": self.result.costs,
            "exchange": self.result.trading,
            "benchmark": self.benchmark or "none: the excess return equals the return",
            "account": f"{self.account:,.0f} at the start",
        }


def backtest_joined(
    prediction: pd.DataFrame,
    task: Mapping[str, object],
    session: Session,
    *,
    own_code: bool,
    what: str = "The joined prediction",
    holes: bool = True,
) -> tuple[JoinedBacktest | None, tuple[str, ...]]:
    """Backtest a prediction as configured by the first backtest among a task's records; return the result and notes.

    The backtest covers the days of the prediction and the trading day after them, limited to the days given in the
    record. A signal that is given as a model and a dataset is replaced with the prediction.

    Parameters
    ----------
    prediction : DataFrame
        Index (datetime, instrument), first column the score.
    task : mapping
        Definition of the task; the record is found by the name of its class.
    session : Session
        Session with data and region.
    own_code : bool
        False skips a strategy that is not built in, and builds nothing else that the task refers to, so that creating a
        report of tasks written by others does not run their code.
    what : str
        Description of the prediction, for the notes.
    holes : bool
        Whether the days of the prediction may have gaps, during which the strategy keeps its holdings.

    Returns
    -------
    (JoinedBacktest, notes)
        None without notes if no record is a backtest; None with a note if the backtest fails.
    """
    try:
        found = next((r for r in TaskView(resolve_references(task)).records if is_backtest(r)), None)
        if found is None:
            return None, ()
        with using(session), trust.from_origin(Origin.OWN if own_code else Origin.READ):
            hole = None if holes else _first_hole(prediction, session)
            if hole is not None:
                return None, (f"{what} was not backtested, because it lacks the days from {hole[0]} to {hole[1]}.",)
            made = _made(found, prediction, session, own_code=own_code)
    except _NotBuiltIn as exc:
        return None, (str(exc),)
    except RollforgeError as exc:
        return None, (f"{what} was not backtested: {exc}",)
    except Exception as exc:  # noqa: BLE001 - a user's strategy may raise anything; the report continues without it
        return None, (f"{what} was not backtested: {describe(exc)}",)
    return made, tuple(f"Backtest: {note}" for note in made.result.notes)


class _NotBuiltIn(Exception):
    """The strategy is not built in."""


def _made(record: object, prediction: pd.DataFrame, session: Session, *, own_code: bool) -> JoinedBacktest:
    config = Description(record).kwargs.get("config")
    if isinstance(config, Mapping) and not own_code:
        _check_ours(config.get("strategy"))
    portfolio = PortAnaRecord(config=_with_prediction(config))
    options = portfolio.backtest_config
    options = {**options, **_span(options, prediction, session)}
    if "benchmark" not in options:
        options["benchmark"] = default_benchmark(session)
    portfolio.backtest_config = options
    result = portfolio._backtest(prediction)
    first = result.report.iloc[0]
    return JoinedBacktest(
        result=result,
        strategy=_describe_strategy(portfolio.strategy_config),
        benchmark=_benchmark(options["benchmark"]),
        account=float(first["account"] / (1 + first["return"] - first["cost"])),
    )


def _check_ours(strategy: object) -> None:
    """Raise an error if building the strategy would import code that is not Rollforge's."""
    name = strategy.get("class") if isinstance(strategy, Mapping) else strategy
    module = strategy.get("module_path") if isinstance(strategy, Mapping) else None
    if isinstance(name, str) and not module:
        module, _, name = name.rpartition(".")
    ours = not module or str(module).partition(".")[0] == "rollforge" or qlib_imports.target(str(module), str(name))
    if not isinstance(name, str) or not ours:
        raise _NotBuiltIn(
            f"The joined prediction was not backtested, because its strategy {name!r} is not part of Rollforge: "
            "'rollforge run FILE' and 'rollforge report FILE' with the workflow file run it."
        )


def _with_prediction(config: Any) -> Any:
    """Return the configuration with the prediction in place of a signal from a model and a dataset."""
    strategy = config.get("strategy") if isinstance(config, Mapping) else None
    kwargs = Description(strategy).kwargs
    if not {"model", "dataset"} & set(kwargs) and not isinstance(kwargs.get("signal"), (list, tuple)):
        return config
    rest = Description(strategy).without("model", "dataset")
    return {**config, "strategy": Description(rest).with_kwargs(signal="<PRED>")}


def _span(options: Mapping[str, object], prediction: pd.DataFrame, session: Session) -> dict[str, object]:
    """Return the first and last day: those of the prediction plus one, limited by the options."""
    calendar = session_provider(session).calendar()
    days = prediction.index.get_level_values("datetime")
    first = np.datetime64(days.min(), "D")
    stop = int(np.searchsorted(calendar, np.datetime64(days.max(), "D"), "right"))
    last = calendar[min(stop, len(calendar) - 1)]
    start, end = options.get("start_time"), options.get("end_time")
    return {
        "start_time": first if start is None else max(first, read_day(start)),
        "end_time": last if end is None else min(last, read_day(end)),
    }


def _first_hole(prediction: pd.DataFrame, session: Session) -> tuple[np.datetime64, np.datetime64] | None:
    """Return the first and last trading day of the first hole in the days of a prediction."""
    calendar = session_provider(session).calendar()
    days = np.unique(prediction.index.get_level_values("datetime").to_numpy().astype("datetime64[D]"))
    if not len(days):
        return None
    places = np.searchsorted(calendar, days)
    after = np.flatnonzero(np.diff(places) > 1)
    if not len(after):
        return None
    return calendar[places[after[0]] + 1], calendar[places[after[0] + 1] - 1]


def _describe_strategy(strategy: object) -> str:
    target = strategy_class(strategy, "config.strategy")
    given = ", ".join(f"{k}={v!r}" for k, v in Description(strategy).kwargs.items() if k != "signal")
    named = strategy.get("class") if isinstance(strategy, Mapping) else strategy
    return f"{target.__name__ if target is not None else named}({given})"


def _benchmark(benchmark: Any) -> str:
    if benchmark is None:
        return ""
    if isinstance(benchmark, str):
        return benchmark
    return "custom returns" if isinstance(benchmark, pd.Series) else f"mean of {', '.join(map(str, benchmark))}"
