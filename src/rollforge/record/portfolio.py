"""Records of a prediction's backtest and its analysis."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rollforge.arguments import as_list, whole_number
from rollforge.build import fill_placeholder
from rollforge.dates import read_day
from rollforge.description import Description
from rollforge.errors import ConfigError, nearest
from rollforge.market.universe import session_provider
from rollforge.record.analysis import risk_analysis
from rollforge.record.backtest import (
    FREQ,
    BacktestResult,
    BaseSignalStrategy,
    check_backtest,
    check_benchmark,
    check_position_type,
    default_benchmark,
    run_backtest,
    strategy_class,
)
from rollforge.record.base import ACRecordTemp
from rollforge.record.rules import EXCHANGE_OPTIONS
from rollforge.record.signal import SignalRecord
from rollforge.session import current_session
from rollforge.task import Document
from rollforge.track.base import Recorder

__all__ = ["MultiPassPortAnaRecord", "PortAnaRecord", "excess_returns", "indicator_analysis"]

log = logging.getLogger(__name__)

_PARTS = ("strategy", "executor", "backtest")
_BACKTEST = ("start_time", "end_time", "account", "benchmark", "exchange_kwargs", "pos_type")
_MOVED = tuple(name for name in EXCHANGE_OPTIONS if name not in _BACKTEST)
"""Exchange options that older files have directly under ``backtest``."""
_SILENT = ("verbose", "return_order")
"""Options of older files that do not affect the computation."""
_METHODS = {"mean": "count", "amount_weighted": "deal_amount", "value_weighted": "value"}


def indicator_analysis(df: pd.DataFrame, method: str = "mean") -> pd.DataFrame:
    """Return the mean fill rate, mean price advantage and share of positive advantages over all days.

    Parameters
    ----------
    df : DataFrame
        Columns ffr, pa, pos, deal_amount, value, count, by day.
    method : str
        Weight of the days: ``mean`` (the number of orders), ``amount_weighted`` or ``value_weighted``. `pos` is always
        weighted by the number of orders.

    Returns
    -------
    DataFrame
        Index ffr, pa, pos; column ``value``.

    Raises
    ------
    ConfigError
        If the method is unknown.
    """
    if method not in _METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(_METHODS)}, found {method!r}.{nearest(method, _METHODS)}",
            path="indicator_analysis_method",
        )
    weight = df[_METHODS[method]].abs()
    with np.errstate(invalid="ignore"):
        means = df[["ffr", "pa"]].mul(weight, axis=0).sum() / weight.sum()
        means["pos"] = (df["pos"] * df["count"]).sum() / df["count"].sum()
    return means.to_frame("value")


def _default_config(region: str) -> dict[str, Any]:
    """Return Qlib's default configuration; outside China without its benchmark and limits, which only exist there."""
    china = region == "cn"
    return {
        "strategy": {
            "class": "TopkDropoutStrategy",
            "module_path": "qlib.contrib.strategy",
            "kwargs": {"signal": "<PRED>", "topk": 50, "n_drop": 5},
        },
        "backtest": {
            "start_time": None,
            "end_time": None,
            "account": 100_000_000,
            "benchmark": "SH000300" if china else None,
            "exchange_kwargs": {
                "limit_threshold": 0.095 if china else None,
                "deal_price": "close",
                "open_cost": 0.0005,
                "close_cost": 0.0015,
                "min_cost": 5,
            },
        },
    }


class PortAnaRecord(ACRecordTemp):
    """Backtests the run's prediction, saves report, positions, orders and risk figures, and logs the risk figures.

    Artifacts in ``portfolio_analysis/``: ``report_normal_1day.pkl`` (by day: account, return, cost, bench …),
    ``positions_normal_1day.pkl`` (day -> :class:`~rollforge.record.position.Position`),
    ``port_analysis_1day.pkl``, ``indicators_normal_1day.pkl``, ``indicator_analysis_1day.pkl``, ``trades_1day.pkl``.
    Metrics: ``1day.excess_return_without_cost.annualized_return`` and so on, ``1day.ffr``, ``1day.pa``,
    ``1day.pos``.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl``.
    config : mapping, optional
        ``strategy`` and ``executor`` (descriptions; ``<PRED>`` stands for the prediction, which is also the default
        signal of a strategy) and ``backtest``: start_time, end_time (None: the days of the prediction and one more),
        account, benchmark (None: no benchmark; if omitted, SH000300 in China if the data have it, as in Qlib),
        exchange_kwargs. By default the 50 best instruments are held and up to 5 replaced per day. Exchange options
        directly under ``backtest``, as in older files, are moved to exchange_kwargs.
    risk_analysis_freq, indicator_analysis_freq : str or sequence of str, optional
        ``day`` is the only frequency; an empty list skips the analysis.
    indicator_analysis_method : str, optional
        See :func:`indicator_analysis`.
    skip_existing : bool
        True computes nothing if the artifacts exist.

    Raises
    ------
    ConfigError
        If a key or frequency is unknown, the strategy is not supported, or an option is invalid.
    """

    artifact_path = "portfolio_analysis"
    depend_cls = SignalRecord

    def __init__(
        self,
        recorder: Recorder | None = None,
        config: Document | None = None,
        risk_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_method: str | None = None,
        skip_existing: bool = False,
    ) -> None:
        super().__init__(recorder, skip_existing)
        session = current_session()
        config = _default_config(session.region) if config is None else config
        _check_keys(config, _PARTS, "config")
        if "strategy" not in config or "backtest" not in config:
            raise ConfigError("a portfolio analysis needs 'strategy' and 'backtest'.", path="config")
        self.backtest_config = _in_current_form(config["backtest"])
        self.strategy_config = _with_signal(config["strategy"])
        self.executor_config = config.get("executor")
        check_backtest(
            self.strategy_config, self.executor_config, self.backtest_config, session=session, where="config"
        )
        self.risk_analysis_freq = _daily(risk_analysis_freq, "risk_analysis_freq")
        self.indicator_analysis_freq = _daily(indicator_analysis_freq, "indicator_analysis_freq")
        self.indicator_analysis_method = indicator_analysis_method or "mean"

    def check_data(self, where: str = "config") -> None:
        """Check that the session's data contain the benchmark.

        Parameters
        ----------
        where : str
            Path of the configuration, for error messages.

        Raises
        ------
        ConfigError
            If they do not; the message has the benchmark.
        """
        benchmark = self.backtest_config.get("benchmark")
        check_benchmark(benchmark, session=current_session(), where=f"{where}.backtest.benchmark")

    def _backtest(self, prediction: object) -> BacktestResult:
        placeholders = {"<PRED>": prediction}
        options = dict(self.backtest_config)
        if "benchmark" not in options:
            options["benchmark"] = default_benchmark(current_session())
        return run_backtest(
            fill_placeholder(self.strategy_config, placeholders),
            executor=fill_placeholder(self.executor_config, placeholders),
            where="config",
            **options,
        )

    def _generate(self, *args: object, **kwargs: object) -> dict[str, object]:
        result = self._backtest(self.load("pred.pkl"))
        artifacts: dict[str, object] = {
            f"report_normal_{FREQ}.pkl": result.report,
            f"positions_normal_{FREQ}.pkl": result.positions,
            f"indicators_normal_{FREQ}.pkl": result.indicators,
            f"trades_{FREQ}.pkl": result.trades,
        }
        metrics: dict[str, Any] = {}
        if self.risk_analysis_freq:
            risk = excess_returns(result.report)
            artifacts[f"port_analysis_{FREQ}.pkl"] = risk
            metrics |= {f"{FREQ}.{'.'.join(key)}": float(v) for key, v in zip(risk.index, risk["risk"], strict=True)}
            self._report_risk(result.report, risk)
        if self.indicator_analysis_freq:
            quality = indicator_analysis(result.indicators, self.indicator_analysis_method)
            artifacts[f"indicator_analysis_{FREQ}.pkl"] = quality
            metrics |= {f"{FREQ}.{name}": float(v) for name, v in quality["value"].items()}
            self.report(f"Analysis results of the indicators({FREQ}):", quality)
        self.recorder.log_metrics(**metrics)
        return artifacts

    def _report_risk(self, report: pd.DataFrame, risk: pd.DataFrame) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            self.report(f"Analysis results of the benchmark return({FREQ}):", risk_analysis(report["bench"], freq=FREQ))
        for kind in risk.index.get_level_values(0).unique():
            self.report(f"Analysis results of the {kind.replace('_', ' ')}({FREQ}):", risk.loc[kind])

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        names = ["report_normal", "positions_normal", "indicators_normal", "trades"]
        names += ["port_analysis"] if self.risk_analysis_freq else []
        names += ["indicator_analysis"] if self.indicator_analysis_freq else []
        return [f"{name}_{FREQ}.pkl" for name in names]


_PASSES = ("annualized_return", "information_ratio")


class MultiPassPortAnaRecord(PortAnaRecord):
    """Backtests the run's prediction several times with different initial holdings, to measure their influence.

    Artifact: ``portfolio_analysis/multi_pass_port_analysis_1day.pkl``, with mean, standard deviation and ``mean_std``
    (mean / standard deviation) over the passes, of the annualized return and the information ratio of the excess return
    without and with cost. Metrics: ``mean.excess_return_with_cost.annualized_return`` and so on.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl``.
    pass_num : int
        Number of backtests.
    shuffle_init_score : bool
        Whether each backtest shuffles the scores of the first day that is traded on. (Qlib shuffles the first day from
        `start_time`, which is the second such day if there are scores of the day before.)
    seed : int
        Random seed of the shuffling.
    **kwargs
        See :class:`PortAnaRecord`; the strategy must be a description.

    Raises
    ------
    ConfigError
        As for :class:`PortAnaRecord`, and if the number of passes is below 1 or the strategy is not a description.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        pass_num: int = 10,
        shuffle_init_score: bool = True,
        seed: int = 0,
        *,
        config: Document | None = None,
        risk_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_method: str | None = None,
        skip_existing: bool = False,
    ) -> None:
        super().__init__(
            recorder, config, risk_analysis_freq, indicator_analysis_freq, indicator_analysis_method, skip_existing
        )
        passes = whole_number(pass_num, "pass_num")
        if not isinstance(self.strategy_config, Mapping):
            raise ConfigError("several passes need the definition of a strategy.", path="config.strategy")
        if shuffle_init_score:  # the run's prediction is shuffled, whatever the signal is
            self.strategy_config = Description(self.strategy_config).with_kwargs(signal="<PRED>")
        self.pass_num, self.shuffle_init_score, self.seed = passes, shuffle_init_score, seed

    def _generate(self, *args: object, **kwargs: object) -> dict[str, object]:
        prediction, random = self.load("pred.pkl"), np.random.default_rng(self.seed)
        passes = []
        for _ in range(self.pass_num):
            scores = self._shuffled(prediction, random) if self.shuffle_init_score else prediction
            passes.append(excess_returns(self._backtest(scores).report)["risk"])
        if not self.risk_analysis_freq:
            return {}
        table = pd.concat(passes, axis=1)
        table = table[table.index.get_level_values(1).isin(_PASSES)]
        mean, std = table.mean(axis=1), table.std(axis=1)
        apart = std > 1e-9 * mean.abs()  # the ratio of equal passes, which differ by rounding only, is undefined
        summary = pd.DataFrame({"mean": mean, "std": std, "mean_std": mean / std.where(apart)})
        metrics: dict[str, Any] = {
            f"{name}.{kind}.{figure}": float(value)
            for name in summary
            for (kind, figure), value in zip(summary.index, summary[name], strict=True)
        }
        self.recorder.log_metrics(**metrics)
        self.report(f"Analysis results of {self.pass_num} passes({FREQ}):", summary)
        return {f"multi_pass_port_analysis_{FREQ}.pkl": summary}

    def _shuffled(self, prediction: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
        """Return the prediction with shuffled scores on the first day that is traded on."""
        days = prediction.index.get_level_values("datetime").to_numpy().astype("datetime64[D]")
        start, first = self.backtest_config.get("start_time"), days.min()
        if start is not None:
            calendar = session_provider(current_session()).calendar()
            begin = int(np.searchsorted(calendar, read_day(start, "config.backtest.start_time")))
            first = min(days[days >= calendar[max(begin - 1, 0)]], default=first)
        made, row = prediction.copy(), np.flatnonzero(days == first)
        made.iloc[row] = prediction.iloc[random.permutation(row)].to_numpy()
        return made

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return [f"multi_pass_port_analysis_{FREQ}.pkl"] if self.risk_analysis_freq else []


def excess_returns(report: pd.DataFrame) -> pd.DataFrame:
    """Return the risk figures of a report's excess return over the benchmark, before and after costs.

    Parameters
    ----------
    report : DataFrame
        By day, columns return, bench and cost.

    Returns
    -------
    DataFrame
        Index (``excess_return_without_cost`` or ``excess_return_with_cost``, figure), column ``risk``.
    """
    excess = report["return"] - report["bench"]
    kinds = {"excess_return_without_cost": excess, "excess_return_with_cost": excess - report["cost"]}
    with np.errstate(invalid="ignore", divide="ignore"):  # without trades the standard deviation is 0
        return pd.concat({kind: risk_analysis(returns, freq=FREQ) for kind, returns in kinds.items()})


def _in_current_form(backtest: object) -> dict[str, Any]:
    """Return the ``backtest`` options, with the exchange options of older files moved to ``exchange_kwargs``."""
    where = "config.backtest"
    if not isinstance(backtest, Mapping):
        raise ConfigError(f"expected a mapping with {', '.join(_BACKTEST)}, found {backtest!r}.", path=where)
    unknown = [key for key in backtest if key not in (*_BACKTEST, *_MOVED, *_SILENT, "shift")]
    if unknown:
        others = f" Also unknown: {', '.join(map(repr, unknown[1:]))}." if unknown[1:] else ""
        raise ConfigError(
            f"unknown key.{nearest(str(unknown[0]), (*_BACKTEST, *_MOVED))}{others} Known: {', '.join(_BACKTEST)}; and in "
            f"exchange_kwargs {', '.join(_MOVED)}.",
            path=f"{where}.{unknown[0]}",
        )
    if backtest.get("shift", 1) != 1:
        raise ConfigError(
            f"found {backtest['shift']!r}, but orders always use the scores of the previous trading day. Omit it.",
            path=f"{where}.shift",
        )
    check_position_type(backtest.get("pos_type", "Position"), f"{where}.pos_type")
    moved = {key: backtest[key] for key in _MOVED if key in backtest}
    exchange = backtest.get("exchange_kwargs") or {}
    if not isinstance(exchange, Mapping):
        raise ConfigError(f"expected a mapping, found {exchange!r}.", path=f"{where}.exchange_kwargs")
    for key, value in moved.items():
        if key in exchange and exchange[key] != value:
            raise ConfigError(
                f"is {value!r}, but {exchange[key]!r} in exchange_kwargs. Remove the former.", path=f"{where}.{key}"
            )
    if moved:
        log.info("%s: %s are options of the exchange and belong to exchange_kwargs", where, ", ".join(moved))
    kept = {key: backtest[key] for key in _BACKTEST if key in backtest and key not in ("exchange_kwargs", "pos_type")}
    return {**kept, "exchange_kwargs": {**moved, **exchange}}


def _with_signal(strategy: object) -> Any:
    """Return a strategy's description; without a signal, as in older files, the signal is the prediction."""
    target = strategy_class(strategy, "config.strategy")
    described = Description(strategy)
    if target is None or not issubclass(target, BaseSignalStrategy) or {"signal", "model"} & set(described.kwargs):
        return strategy
    return described.with_kwargs(signal="<PRED>")


def _check_keys(config: object, known: Sequence[str], where: str) -> None:
    if not isinstance(config, Mapping):
        raise ConfigError(f"expected a mapping with {', '.join(known)}, found {config!r}.", path=where)
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.", path=where)


def _daily(freq: str | Sequence[str] | None, name: str) -> bool:
    """Return whether the daily analysis is requested."""
    asked = ["day"] if freq is None else [freq] if isinstance(freq, str) else as_list(freq, "frequencies", path=name)
    for one in asked:
        if one not in ("day", FREQ):
            raise ConfigError(f"backtests are daily: the frequency must be 'day', found {one!r}.", path=name)
    return bool(asked)
