"""The plots of a report, as plain data for Plotly.

Two kinds of strings are placeholders that the page fills in. ``@name`` is a colour of the style sheet, so that plots
follow the light, dark and print themes; ``#name`` is one of the shared axes of :class:`Plots`, so that days are stored
only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.report.summary import QUANTILES, Quality, Summary

__all__ = ["Plots", "boundaries", "figures", "rolling_days"]

Figure = dict[str, Any]

_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
# With more windows than this, lines between them would hide the plot.
_MAX_BOUNDARIES = 24
_GAP = np.timedelta64(15, "D")


@dataclass(frozen=True, slots=True)
class Plots:
    """The plots of a page."""

    figures: Mapping[str, Figure]
    """Name -> ``{"data": …, "layout": …}``, and ``views`` if there are several to choose from."""
    series: Mapping[str, Sequence[str]]
    """Name -> days, referred to as ``#name`` in traces."""


def figures(summary: Summary) -> Plots:
    """Return the plots for which the summary has data."""
    made: dict[str, Figure] = {}
    series: dict[str, Sequence[str]] = {}
    if summary.has_quality and summary.ic is not None and summary.rank_ic is not None:
        days = _with_gaps(summary.ic.index)
        series["ic"] = _days(days)
        made["daily"] = _daily(summary.ic, summary.rank_ic, days, boundaries(summary))
        made["cumulative"] = _cumulative(summary.ic, summary.rank_ic, days)
        made["histogram"] = _histogram(summary.ic, summary.rank_ic)
    if summary.quantiles is not None:
        series["quantiles"] = _days(summary.quantiles.index)
        made["quantiles"] = _quantiles(summary.quantiles)
    if summary.persistence is not None:
        made["persistence"] = _persistence(summary.persistence.by_lag)
        if len(summary.persistence.turnover):
            days = _with_gaps(summary.persistence.turnover.index)
            series["turnover"] = _days(days)
            made["turnover"] = _turnover(summary.persistence.turnover.reindex(days))
    for i, paths in enumerate(summary.paths.values()):
        index = pd.DatetimeIndex(sorted(set().union(*(path.long_short.index for path in paths))))
        if len(index):
            series[f"paths{i}"] = _days(index)
            made[f"paths{i}"] = _paths(paths, index, f"#paths{i}")
    if summary.portfolio is not None:
        series["portfolio"] = _days(summary.portfolio.index)
        made["portfolio"] = _portfolio(summary.portfolio)
    return Plots(made, series)


def rolling_days(days: int) -> int:
    """Return the window of a rolling mean in a plot of `days`: 60 days (a quarter) from 180 days on, else 20."""
    return 60 if days >= 180 else 20


def _with_gaps(index: pd.Index) -> pd.DatetimeIndex:
    """Return the days plus one in each long gap (such as a failed window), so that lines break there."""
    days = pd.DatetimeIndex(index)
    before = days[:-1][np.diff(days.to_numpy()) > _GAP]
    return days.union(before + pd.Timedelta(days=1))


def _days(index: pd.Index) -> list[str]:
    return [f"{d:%Y-%m-%d}" for d in pd.DatetimeIndex(index)]


def _floats(values: object) -> list[float | None]:
    return [None if not np.isfinite(v) else round(float(v), 5) for v in np.asarray(values, np.float64)]


def _line(x: str | list[str], values: object, name: str, colour: str, **more: object) -> Figure:
    width, dash = more.pop("width", 2), more.pop("dash", "solid")
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": _floats(values), "name": name,
        "line": {"color": colour, "width": width, "dash": dash}, **more,
    }  # fmt: skip


def boundaries(summary: Summary) -> list[tuple[str, str]]:
    """Return the starts of test windows as (day, number of the window); empty if there would be too many."""
    tests = [(t.window.segments.get("test"), t.window.index + 1) for t in summary.tasks]
    starts = sorted({str(span.start): str(number) for span, number in reversed(tests) if span is not None}.items())
    return starts if 1 < len(starts) <= _MAX_BOUNDARIES else []


def _daily(ic: pd.Series, rank_ic: pd.Series, days: pd.DatetimeIndex, starts: Sequence[tuple[str, str]]) -> Figure:
    window = rolling_days(len(ic))
    data = []
    for values, name, axis in ((ic, "IC", "y"), (rank_ic, "Rank IC", "y2")):
        mean = values.rolling(window, min_periods=max(2, window // 3)).mean().reindex(days)
        first = axis == "y"
        data.append(
            {
                "type": "bar", "x": "#ic", "y": _floats(values.reindex(days)), "name": "one day", "yaxis": axis,
                "showlegend": first, "legendgroup": "day", "marker": {"color": "@bar", "line": {"width": 0}},
                "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>",
            }
        )  # fmt: skip
        data.append(
            _line(
                "#ic", mean, f"mean of the last {window} days", "@strong", yaxis=axis, showlegend=first, legendgroup="mean",
                hovertemplate=f"mean of {window} days %{{y:.4f}}<extra></extra>", width=2.2,
            )
        )  # fmt: skip
    marks = [
        {"type": "line", "x0": day, "x1": day, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
         "line": {"color": "@line", "width": 1, "dash": "dot"}}
        for day, _ in starts
    ]  # fmt: skip
    numbers = [
        {"text": number, "x": day, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top", "showarrow": False,
         "font": {"size": 10, "color": "@soft"}}
        for day, number in starts
    ]  # fmt: skip
    layout = {
        "height": 460,
        "bargap": 0,
        "hovermode": "x unified",
        "shapes": marks,
        "annotations": numbers,
        "xaxis": {"anchor": "y2", "type": "date"},
        "yaxis": {"domain": [0.53, 1], "title": {"text": "IC"}},
        "yaxis2": {"domain": [0, 0.47], "title": {"text": "Rank IC"}, "matches": "y"},
        "legend": _LEGEND,
    }
    return {"data": data, "layout": layout}


def _cumulative(ic: pd.Series, rank_ic: pd.Series, days: pd.DatetimeIndex) -> Figure:
    ic, rank_ic = (values.reindex(days, fill_value=0.0).cumsum() for values in (ic, rank_ic))
    data = [
        _line("#ic", ic, "IC", "@blue", hovertemplate="IC %{y:.2f}<extra></extra>"),
        _line("#ic", rank_ic, "Rank IC", "@orange", dash="dash",
              hovertemplate="Rank IC %{y:.2f}<extra></extra>"),
    ]  # fmt: skip
    layout = {"height": 300, "hovermode": "x unified", "xaxis": {"type": "date"}, "legend": _LEGEND}
    return {"data": data, "layout": layout}


def _histogram(ic: pd.Series, rank_ic: pd.Series) -> Figure:
    both: NDArray[np.float64] = np.concatenate([ic.to_numpy(np.float64), rank_ic.to_numpy(np.float64)])
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 0.01, int(np.clip(np.sqrt(len(ic)) * 1.5, 8, 40)) + 1)
    middles = _floats((edges[:-1] + edges[1:]) / 2)
    counts = {name: np.histogram(v, edges)[0].tolist() for name, v in (("IC", ic), ("Rank IC", rank_ic))}
    data: list[Figure] = [
        {"type": "bar", "x": middles, "y": counts["IC"], "name": "IC", "marker": {"color": "@bar"},
         "hovertemplate": "IC near %{x:.3f}: %{y} days<extra></extra>"},
        {"type": "scatter", "mode": "lines", "x": middles, "y": counts["Rank IC"], "name": "Rank IC",
         "line": {"color": "@orange", "width": 2, "shape": "hvh"},
         "hovertemplate": "Rank IC near %{x:.3f}: %{y} days<extra></extra>"},
    ]  # fmt: skip
    mean = round(float(ic.mean()), 5)
    layout = {
        "height": 300,
        "bargap": 0.08,
        "xaxis": {"tickformat": ".2f"},
        "yaxis": {"title": {"text": "days"}},
        "legend": _LEGEND,
        "shapes": [{"type": "line", "x0": mean, "x1": mean, "y0": 0, "y1": 1, "yref": "paper",
                    "line": {"color": "@strong", "width": 2}}],
        "annotations": [{"text": f"mean {mean:.3f}".replace("-", "−"), "x": mean, "y": 1, "yref": "paper", "xanchor": "left",
                         "yanchor": "bottom", "showarrow": False, "font": {"color": "@strong", "size": 11}}],
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _quantiles(by_day: pd.DataFrame) -> Figure:
    mean, by_day = by_day["mean"], by_day.drop(columns="mean")
    views = {"minus the day's mean": by_day.sub(mean, axis=0), "absolute": by_day}
    names = {1: "1, lowest scores", QUANTILES: f"{QUANTILES}, highest scores"}
    first, last = _days(by_day.index[[0, -1]])
    data = []
    for view, returns in views.items():
        curves = {str(q): returns[q].fillna(0).cumsum() for q in reversed(by_day.columns)}
        for q, curve in curves.items():
            outer = int(q) in names
            data.append(
                _line("#quantiles", curve, names.get(int(q), q), f"@q{q}", width=2.4 if outer else 1.5, view=view,
                      hovertemplate=f"{q}: %{{y:.1%}}<extra></extra>")
            )  # fmt: skip
        curves["5 − 1"] = (by_day[QUANTILES] - by_day[1]).fillna(0).cumsum()
        data.append(
            _line("#quantiles", curves["5 − 1"], "5 − 1, highest minus lowest", "@ink", dash="dash", view=view,
                  hovertemplate="5 − 1: %{y:.1%}<extra></extra>")
        )  # fmt: skip
        data.append(_end_labels({k: float(c.iloc[-1]) for k, c in curves.items()}, last) | {"view": view})
    layout = {
        "height": 400,
        "hovermode": "x unified",
        "margin": {"r": 48},
        "xaxis": {"type": "date", "range": [first, last]},
        "yaxis": {"tickformat": ".0%"},
        "legend": _LEGEND | {"traceorder": "normal"},
    }
    return {"data": data, "layout": layout, "views": list(views)}


def _persistence(by_lag: pd.DataFrame) -> Figure:
    lags = [str(lag) for lag in by_lag.index]
    data = [
        {"type": "bar", "x": lags, "y": _floats(by_lag[name]), "name": name, "marker": {"color": colour},
         "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>"}
        for name, colour in (("IC", "@blue"), ("Rank IC", "@orange"))
    ]  # fmt: skip
    data.append(
        _line(lags, by_lag["autocorrelation"], "autocorrelation of the scores", "@ink", dash="dot", yaxis="y2",
              hovertemplate="autocorrelation %{y:.3f}<extra></extra>")
    )  # fmt: skip
    layout = {
        "height": 380,
        "hovermode": "x unified",
        "xaxis": {"type": "category", "anchor": "y2", "title": {"text": "lag in days"}},
        "yaxis": {"domain": [0.42, 1], "title": {"text": "IC"}},
        "yaxis2": {"domain": [0, 0.34], "title": {"text": "autocorrelation"}},
        "legend": _LEGEND,
    }
    return {"data": data, "layout": layout}


def _turnover(by_day: pd.DataFrame) -> Figure:
    window = rolling_days(int(by_day["highest"].count()))
    data = []
    for name, colour in (("highest", "@q5"), ("lowest", "@q1")):
        mean = by_day[name].rolling(window, min_periods=1).mean().where(by_day[name].notna())
        data.append(
            _line("#turnover", mean, f"{name} fifth, mean of the last {window} days", colour,
                  hovertemplate=f"{name} fifth %{{y:.1%}}<extra></extra>")
        )  # fmt: skip
    layout = {
        "height": 380,
        "hovermode": "x unified",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%", "rangemode": "tozero"},
        "legend": _LEGEND,
    }
    return {"data": data, "layout": layout}


def _end_labels(ends: Mapping[str, float], day: str) -> Figure:
    """Return labels at the right ends of curves, moved apart so that they do not overlap."""
    order = sorted(ends, key=lambda name: ends[name])
    gap = (max(ends.values()) - min(ends.values())) * 0.045
    places: list[float] = []
    for name in order:
        places.append(max(ends[name], places[-1] + gap) if places else ends[name])
    return {
        "type": "scatter", "mode": "text", "x": [day] * len(order), "y": _floats(places), "text": [f"  {name}" for name in order],
        "textposition": "middle right", "textfont": {"size": 11, "color": "@ink"}, "cliponaxis": False,
        "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip


def _paths(paths: Sequence[Quality], days: pd.DatetimeIndex, x: str) -> Figure:
    """Return the cumulative long-short return of each path per day of holding, and of their mean."""
    curves = pd.DataFrame({p.name: p.long_short / (p.label_days or 1) for p in paths}).reindex(days)
    data = [
        _line(x, curves[name].fillna(0).cumsum(), str(name), "@bar", width=1.2, showlegend=False,
              hovertemplate=f"{name}: %{{y:.1%}}<extra></extra>")
        for name in curves
    ]  # fmt: skip
    mean = curves.mean(axis=1).fillna(0).cumsum()
    data.append(_line(x, mean, "mean of the paths", "@blue", hovertemplate="mean: %{y:.1%}<extra></extra>"))
    layout = {
        "height": 360,
        "hovermode": "closest",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%"},
        "legend": _LEGEND,
    }
    return {"data": data, "layout": layout}


def _portfolio(returns: pd.DataFrame) -> Figure:
    curves = returns.fillna(0).cumsum()
    hover = {"hovertemplate": "%{fullData.name} %{y:.1%}<extra></extra>"}
    data = [
        _line("#portfolio", curves["excess_with_cost"], "excess, after costs", "@blue", width=2.4, **hover),
        _line("#portfolio", curves["excess"], "excess, before costs", "@q4", dash="dash", **hover),
        _line("#portfolio", curves["strategy"], "strategy, after costs", "@orange", width=1.5, **hover),
        _line("#portfolio", curves["bench"], "benchmark", "@soft", width=1.5, dash="dot", **hover),
    ]
    excess = curves["excess_with_cost"]
    down = excess - excess.cummax().clip(lower=0)  # the initial value counts as a peak
    data.append(
        _line("#portfolio", down, "drawdown of the excess", "@red", width=1, yaxis="y2", fill="tozeroy", fillcolor="@fill",
              showlegend=False, hovertemplate="drawdown %{y:.1%}<extra></extra>")
    )  # fmt: skip
    layout = {
        "height": 440,
        "hovermode": "x unified",
        "xaxis": {"type": "date", "anchor": "y2"},
        "yaxis": {"domain": [0.32, 1], "tickformat": ".0%"},
        "yaxis2": {"domain": [0, 0.25], "tickformat": ".0%", "title": {"text": "drawdown"}},
        "legend": _LEGEND,
    }
    return {"data": data, "layout": layout}
