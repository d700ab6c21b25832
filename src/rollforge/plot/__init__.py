"""Plotly figures of a result: IC, decay, quantiles, turnover, groups, windows, and its backtest.

Each function takes a result of :func:`~rollforge.walk_forward.walk_forward`, a
:class:`~rollforge.collect.result.Collected`, the name of an experiment, or tables of your own. The figures and their
numbers are those of the report; figures need the extra ``report``.
"""

from __future__ import annotations

from rollforge.plot.figures import (
    autocorrelation,
    compare,
    cumulative,
    drawdown,
    equity,
    exposure,
    heatmap,
    ic,
    ic_by_group,
    ic_decay,
    ic_histogram,
    monthly,
    paths,
    performance,
    quantiles,
    turnover,
    windows,
)
from rollforge.plot.result_plots import ResultPlots

__all__ = [
    "ResultPlots", "autocorrelation", "compare", "cumulative", "drawdown", "equity", "exposure", "heatmap", "ic", "ic_by_group",
    "ic_decay", "ic_histogram", "monthly", "paths", "performance", "quantiles", "turnover", "windows",
]  # fmt: skip
