"""Plots of a backtest: equity, drawdown, exposure, months."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rollforge.record.performance import Mode, cumulative_returns, drawdown
from rollforge.report.drawing import LEGEND, Figure, floats, line, rolling_days
from rollforge.report.tables import number

__all__ = ["drawdowns", "equity", "exposures", "months"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def equity(returns: pd.DataFrame, x: str | list[str], *, benchmark: bool, mode: Mode = "sum") -> Figure:
    """Return the cumulative returns of a backtest before and after costs, of its benchmark, and of the excess over it.

    Parameters
    ----------
    returns : DataFrame
        As returned by :func:`~rollforge.record.performance.daily_returns`.
    x : str or list of str
        The days as text, or the name of their list.
    benchmark : bool
        Whether there is a benchmark; without one, the excess return equals the return.
    mode : str
        See :func:`~rollforge.record.performance.cumulative_returns`.
    """
    lines: list[tuple[str, str, dict[str, Any]]] = [
        ("before_costs", "strategy, before costs", {"colour": "@orange", "dash": "dash", "width": 1.5}),
        ("strategy", "strategy, after costs", {"colour": "@orange"}),
        ("bench", "benchmark", {"colour": "@soft", "dash": "dot", "width": 1.5}),
        ("excess", "excess, before costs", {"colour": "@q4", "dash": "dash"}),
        ("excess_with_cost", "excess, after costs", {"colour": "@blue", "width": 2.4}),
    ]
    data = [
        line(x, cumulative_returns(returns[column], mode=mode), name, hovertemplate=f"{name} %{{y:.1%}}<extra></extra>",
             **style)
        for column, name, style in (lines if benchmark else lines[:2])
    ]  # fmt: skip
    layout = {
        "height": 320,
        "hovermode": "x unified",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%", "title": {"text": "return" if mode == "sum" else "compounded return"}},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def drawdowns(returns: pd.DataFrame, x: str | list[str], *, benchmark: bool, mode: Mode = "sum") -> Figure:
    """Return the drawdowns after costs of a backtest, and of the excess over its benchmark; see :func:`equity`."""
    data = [
        line(x, drawdown(returns["strategy"], mode=mode), "drawdown, after costs", "@orange", width=1.5,
             hovertemplate="drawdown %{y:.1%}<extra></extra>")
    ]  # fmt: skip
    if benchmark:
        data.append(
            line(x, drawdown(returns["excess_with_cost"], mode=mode), "drawdown of the excess, after costs", "@blue", width=1,
                 fill="tozeroy", fillcolor="@fill", hovertemplate="drawdown of the excess %{y:.1%}<extra></extra>")
        )  # fmt: skip
    layout = {
        "height": 220,
        "hovermode": "x unified",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%", "title": {"text": "drawdown"}},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def exposures(exposure: pd.DataFrame, turnover: pd.Series, x: str | list[str], unit: str = "day") -> Figure:
    """Return the exposure of a backtest, its number of positions, and its turnover, by day.

    Parameters
    ----------
    exposure : DataFrame
        As returned by :func:`~rollforge.record.performance.exposure`.
    turnover : Series
        Value traded on a day, divided by that of the account; its days are those of `exposure`.
    x : str or list of str
        The days as text, or the name of their list.
    unit : str
        What one of them is called.
    """
    window = rolling_days(len(turnover))
    mean = turnover.rolling(window, min_periods=1).mean()
    data = [
        line(x, exposure["gross"], "gross exposure", "@blue", hovertemplate="gross %{y:.1%}<extra></extra>"),
        line(x, exposure["net"], "net exposure", "@orange", dash="dash", hovertemplate="net %{y:.1%}<extra></extra>"),
        line(x, exposure["positions"], "positions", "@q4", yaxis="y2", hovertemplate="%{y:.0f} positions<extra></extra>"),
        {"type": "bar", "x": x, "y": floats(turnover), "name": f"turnover of a {unit}", "yaxis": "y3",
         "marker": {"color": "@bar", "line": {"width": 0}}, "hovertemplate": "turnover %{y:.1%}<extra></extra>"},
        line(x, mean, f"mean turnover of the last {window} {unit}s", "@strong", yaxis="y3",
             hovertemplate=f"mean of {window} {unit}s %{{y:.1%}}<extra></extra>"),
    ]  # fmt: skip
    layout = {
        "height": 460,
        "bargap": 0,
        "hovermode": "x unified",
        "xaxis": {"type": "date", "anchor": "y3"},
        "yaxis": {"domain": [0.66, 1], "tickformat": ".0%", "rangemode": "tozero", "title": {"text": "exposure"}},
        "yaxis2": {"domain": [0.34, 0.6], "rangemode": "tozero", "title": {"text": "positions"}},
        "yaxis3": {"domain": [0, 0.28], "tickformat": ".0%", "rangemode": "tozero", "title": {"text": "turnover"}},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def months(table: pd.DataFrame) -> Figure:
    """Return a heat map of years by months, with the years' totals; see :func:`~rollforge.record.performance.monthly_returns`."""
    values = table.to_numpy(np.float64)
    # Years are larger than months: the colours are those of months.
    largest = float(np.nanmax(np.abs(values[:, :12]), initial=0.0)) or 1.0
    texts = [["" if not np.isfinite(v) else number(v, ".1%") for v in row] for row in values]
    data = [
        {"type": "heatmap", "x": [*_MONTHS, "year"], "y": [str(year) for year in table.index],
         "z": [floats(row) for row in values], "text": texts, "texttemplate": "%{text}", "zmin": -largest, "zmax": largest,
         "colorscale": [[0, "@orange"], [0.5, "@paper"], [1, "@blue"]], "showscale": False, "xgap": 1, "ygap": 1,
         "hovertemplate": "%{x} %{y}: %{z:.2%}<extra></extra>"}
    ]  # fmt: skip
    layout = {
        "height": 110 + 34 * len(table),
        "xaxis": {"type": "category", "side": "top"},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        "hovermode": "closest",
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}
