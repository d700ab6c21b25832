"""What a prediction would have earned: a backtest of it, and its analysis, kept in the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import fill_placeholder
from rollforge.errors import ConfigError, nearest
from rollforge.record.analysis import risk_analysis
from rollforge.record.backtest import FREQ, run_backtest
from rollforge.record.base import ACRecordTemp
from rollforge.record.signal import SignalRecord
from rollforge.session import current_session
from rollforge.track.base import Recorder

__all__ = ["PortAnaRecord", "indicator_analysis"]

_PARTS = ("strategy", "executor", "backtest")
_BACKTEST = ("start_time", "end_time", "account", "benchmark", "exchange_kwargs", "pos_type")
_METHODS = {"mean": "count", "amount_weighted": "deal_amount", "value_weighted": "value"}


def indicator_analysis(df: pd.DataFrame, method: str = "mean") -> pd.DataFrame:
    """Return the mean fill rate, price advantage and rate of positive advantages over all days.

    Parameters
    ----------
    df : DataFrame
        Columns ffr, pa, pos, deal_amount, value, count, by day.
    method : str
        What days are weighted by: ``mean`` the number of orders, ``amount_weighted``, ``value_weighted``. `pos` is
        always weighted by the number of orders.

    Returns
    -------
    DataFrame
        Index ffr, pa, pos; column ``value``.

    Raises
    ------
    ConfigError
        For another method.
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
    """Qlib's default on the Chinese market; elsewhere without its benchmark and limits, which exist only there."""
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
    """Backtests the run's prediction; saves report, positions, orders and risk figures, and logs the latter.

    Artifacts in ``portfolio_analysis/``: ``report_normal_1day.pkl`` (by day: account, return, cost, bench …),
    ``positions_normal_1day.pkl`` (day -> what Qlib's ``Position.position`` holds, as plain dicts),
    ``port_analysis_1day.pkl``, ``indicators_normal_1day.pkl``, ``indicator_analysis_1day.pkl``, ``trades_1day.pkl``.
    Metrics: ``1day.excess_return_without_cost.annualized_return`` and its like, ``1day.ffr``, ``1day.pa``,
    ``1day.pos``.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl``.
    config : mapping, optional
        ``strategy`` and ``executor`` (descriptions; ``<PRED>`` stands for the prediction) and ``backtest``: start_time,
        end_time (None: the days of the prediction, and one more), account, benchmark, exchange_kwargs. By default
        the 50 best, 5 replaced a day.
    risk_analysis_freq, indicator_analysis_freq : str or sequence of str, optional
        ``day``, the only frequency there is; an empty list leaves the analysis out.
    indicator_analysis_method : str, optional
        See :func:`indicator_analysis`.
    skip_existing : bool
        True computes nothing when it is there.

    Raises
    ------
    ConfigError
        For an unknown key or frequency.
    """

    artifact_path = "portfolio_analysis"
    depend_cls = SignalRecord

    def __init__(
        self,
        recorder: Recorder | None = None,
        config: Mapping[str, Any] | None = None,
        risk_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_freq: str | Sequence[str] | None = None,
        indicator_analysis_method: str | None = None,
        skip_existing: bool = False,
    ) -> None:
        super().__init__(recorder, skip_existing)
        config = _default_config(current_session().region) if config is None else config
        _check_keys(config, _PARTS, "config")
        if "strategy" not in config or "backtest" not in config:
            raise ConfigError("a portfolio analysis needs 'strategy' and 'backtest'.", path="config")
        _check_keys(config["backtest"], _BACKTEST, "config.backtest")
        if config["backtest"].get("pos_type", "Position") != "Position":
            raise ConfigError("the only pos_type is 'Position'.", path="config.backtest.pos_type")
        self.strategy_config = config["strategy"]
        self.executor_config = config.get("executor")
        self.backtest_config = {k: v for k, v in config["backtest"].items() if k != "pos_type"}
        self.risk_analysis_freq = _daily(risk_analysis_freq, "risk_analysis_freq")
        self.indicator_analysis_freq = _daily(indicator_analysis_freq, "indicator_analysis_freq")
        self.indicator_analysis_method = indicator_analysis_method or "mean"

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        placeholders = {"<PRED>": self.load("pred.pkl")}
        result = run_backtest(
            fill_placeholder(self.strategy_config, placeholders),
            executor=fill_placeholder(self.executor_config, placeholders),
            where="config",
            **self.backtest_config,
        )
        made: dict[str, Any] = {
            f"report_normal_{FREQ}.pkl": result.report,
            f"positions_normal_{FREQ}.pkl": result.positions,
            f"indicators_normal_{FREQ}.pkl": result.indicators,
            f"trades_{FREQ}.pkl": result.trades,
        }
        metrics: dict[str, Any] = {}
        if self.risk_analysis_freq:
            risk = _risk(result.report)
            made[f"port_analysis_{FREQ}.pkl"] = risk
            metrics |= {f"{FREQ}.{'.'.join(key)}": float(v) for key, v in zip(risk.index, risk["risk"], strict=True)}
            self._report_risk(result.report, risk)
        if self.indicator_analysis_freq:
            quality = indicator_analysis(result.indicators, self.indicator_analysis_method)
            made[f"indicator_analysis_{FREQ}.pkl"] = quality
            metrics |= {f"{FREQ}.{name}": float(v) for name, v in quality["value"].items()}
            self.report(f"Analysis results of the indicators({FREQ}):", quality)
        self.recorder.log_metrics(**metrics)
        return made

    def _report_risk(self, report: pd.DataFrame, risk: pd.DataFrame) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            self.report(f"Analysis results of the benchmark return({FREQ}):", risk_analysis(report["bench"], freq=FREQ))
        for kind in risk.index.get_level_values(0).unique():
            self.report(f"Analysis results of the {kind.replace('_', ' ')}({FREQ}):", risk.loc[kind])

    def list(self) -> Any:
        """Return the names of the artifacts."""
        names = ["report_normal", "positions_normal", "indicators_normal", "trades"]
        names += ["port_analysis"] if self.risk_analysis_freq else []
        names += ["indicator_analysis"] if self.indicator_analysis_freq else []
        return [f"{name}_{FREQ}.pkl" for name in names]


def _risk(report: pd.DataFrame) -> pd.DataFrame:
    excess = report["return"] - report["bench"]
    kinds = {"excess_return_without_cost": excess, "excess_return_with_cost": excess - report["cost"]}
    with np.errstate(invalid="ignore", divide="ignore"):  # a backtest that never trades has no spread
        return pd.concat({kind: risk_analysis(returns, freq=FREQ) for kind, returns in kinds.items()})


def _check_keys(config: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(config, Mapping):
        raise ConfigError(f"expected a mapping with {', '.join(known)}, found {config!r}.", path=where)
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.", path=where)


def _daily(freq: str | Sequence[str] | None, name: str) -> bool:
    """Whether the daily analysis is wanted."""
    asked = ["day"] if freq is None else [freq] if isinstance(freq, str) else freq
    for one in asked:
        if one not in ("day", FREQ):
            raise ConfigError(f"backtests are daily: the frequency is 'day', found {one!r}.", path=name)
    return bool(asked)
