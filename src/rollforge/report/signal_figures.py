"""Plots of a signal: IC, decay, quantiles, turnover, groups, backtest paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.report.drawing import (
    LEGEND,
    Figure,
    day_texts,
    end_labels,
    floats,
    line,
    plain_name,
    rolling_days,
    short_names,
    stacked,
)
from rollforge.report.inputs import TaskRow

__all__ = [
    "autocorrelation",
    "cells",
    "cumulative_ic",
    "curves",
    "daily_ic",
    "groups",
    "histogram",
    "ic_decay",
    "paths",
    "quantiles",
    "turnover",
    "window_ic",
]  # fmt: skip

_COLOURS = ("@blue", "@orange", "@green", "@red", "@strong", "@soft")
_DASHES = ("solid", "dash", "dot")
_MAX_WRITTEN = 120
"""Cells whose numbers are written into them."""


def daily_ic(
    ic: pd.Series,
    rank_ic: pd.Series,
    days: pd.DatetimeIndex,
    x: str | list[str],
    starts: Sequence[tuple[str, str]] = (),
    rolling: int | None = None,
    unit: str = "day",
) -> Figure:
    """Return the IC and the Rank IC of each day with their rolling means.

    Parameters
    ----------
    ic, rank_ic : Series
        By day.
    days : DatetimeIndex
        The days to draw, with those at which lines break.
    x : str or list of str
        The days as text, or the name of their list.
    starts : sequence of (day, number)
        Starts of windows, which are marked.
    rolling : int, optional
        Days of the rolling mean; by default those of :func:`~rollforge.report.drawing.rolling_days`.
    unit : str
        What a period is called, see :func:`~rollforge.record.periods.period_name`.
    """
    window = rolling or rolling_days(len(ic))
    data = []
    for values, name, axis in ((ic, "IC", "y"), (rank_ic, "Rank IC", "y2")):
        mean = values.rolling(window, min_periods=min(window, max(2, window // 3))).mean().reindex(days)
        first = axis == "y"
        data.append(
            {
                "type": "bar", "x": x, "y": floats(values.reindex(days)), "name": f"one {unit}", "yaxis": axis,
                "showlegend": first, "legendgroup": "day", "marker": {"color": "@bar", "line": {"width": 0}},
                "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>",
            }
        )  # fmt: skip
        data.append(
            line(
                x, mean, f"mean of the last {window} {unit}s", "@strong", yaxis=axis, showlegend=first, legendgroup="mean",
                hovertemplate=f"mean of {window} {unit}s %{{y:.4f}}<extra></extra>", width=2.2,
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
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def cumulative_ic(ic: pd.Series, rank_ic: pd.Series, days: pd.DatetimeIndex, x: str | list[str]) -> Figure:
    """Return the sums of the daily IC and Rank IC since the first day."""
    ic, rank_ic = (values.reindex(days, fill_value=0.0).cumsum() for values in (ic, rank_ic))
    data = [
        line(x, ic, "IC", "@blue", hovertemplate="IC %{y:.2f}<extra></extra>"),
        line(x, rank_ic, "Rank IC", "@orange", dash="dash",
              hovertemplate="Rank IC %{y:.2f}<extra></extra>"),
    ]  # fmt: skip
    layout = {"height": 300, "hovermode": "x unified", "xaxis": {"type": "date"}, "legend": LEGEND}
    return {"data": data, "layout": layout}


def curves(values: pd.DataFrame, x: str | list[str]) -> Figure:
    """Return the cumulative sums of columns, such as the daily ICs of several models, one line for each column.

    Parameters
    ----------
    values : DataFrame
        Index of days; a missing value adds nothing.
    x : str or list of str
        The days as text, or the name of their list.
    """
    sums = values.fillna(0.0).cumsum()
    data = [
        line(x, sums[name], shown, _COLOURS[i % len(_COLOURS)],
             dash=_DASHES[i // len(_COLOURS) % len(_DASHES)],
             hovertemplate=f"{shown} %{{y:.2f}}<extra></extra>")
        for i, (name, shown) in enumerate(short_names(map(str, sums)).items())
    ]  # fmt: skip
    layout = {"height": 340, "hovermode": "x unified", "xaxis": {"type": "date"}, "legend": LEGEND}
    return {"data": data, "layout": layout}


def cells(values: pd.DataFrame, unit: str = "") -> Figure:
    """Return numbers as coloured cells: blue above zero, orange below; a missing number leaves its cell empty.

    Parameters
    ----------
    values : DataFrame
        One row of cells for each row, the first at the top.
    unit : str
        What the numbers are, for the texts that appear when one points at a cell.
    """
    numbers = values.to_numpy(np.float64)
    largest = float(np.nanmax(np.abs(numbers))) if np.isfinite(numbers).any() else 1.0
    data: list[Figure] = [{
        "type": "heatmap", "z": [floats(row) for row in numbers], "x": [str(name) for name in values.columns],
        "y": [str(name) for name in values.index], "zmid": 0, "zmin": -largest, "zmax": largest, "xgap": 1, "ygap": 1,
        "colorscale": [[0, "@orange"], [0.5, "@paper"], [1, "@blue"]], "hoverongaps": False,
        "texttemplate": "%{z:.3f}" if values.size <= _MAX_WRITTEN else "",
        "hovertemplate": f"%{{y}}, %{{x}}: {unit} %{{z:.4f}}<extra></extra>",
    }]  # fmt: skip
    layout = {
        "height": 140 + 28 * len(values), "xaxis": {"type": "category"}, "yaxis": {"type": "category", "autorange": "reversed"}
    }  # fmt: skip
    return {"data": data, "layout": layout}


def histogram(ic: pd.Series, rank_ic: pd.Series, unit: str = "day") -> Figure:
    """Return the distributions of the daily IC and Rank IC."""
    both: NDArray[np.float64] = np.concatenate([ic.to_numpy(np.float64), rank_ic.to_numpy(np.float64)])
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 0.01, int(np.clip(np.sqrt(len(ic)) * 1.5, 8, 40)) + 1)
    middles = floats((edges[:-1] + edges[1:]) / 2)
    counts = {name: np.histogram(v, edges)[0].tolist() for name, v in (("IC", ic), ("Rank IC", rank_ic))}
    data: list[Figure] = [
        {"type": "bar", "x": middles, "y": counts["IC"], "name": "IC", "marker": {"color": "@bar"},
         "hovertemplate": f"IC near %{{x:.3f}}: %{{y}} {unit}s<extra></extra>"},
        {"type": "scatter", "mode": "lines", "x": middles, "y": counts["Rank IC"], "name": "Rank IC",
         "line": {"color": "@orange", "width": 2, "shape": "hvh"},
         "hovertemplate": f"Rank IC near %{{x:.3f}}: %{{y}} {unit}s<extra></extra>"},
    ]  # fmt: skip
    mean = round(float(ic.mean()), 5)
    layout = {
        "height": 300,
        "bargap": 0.08,
        "xaxis": {"tickformat": ".2f"},
        "yaxis": {"title": {"text": f"{unit}s"}},
        "legend": LEGEND,
        "shapes": [{"type": "line", "x0": mean, "x1": mean, "y0": 0, "y1": 1, "yref": "paper",
                    "line": {"color": "@strong", "width": 2}}],
        "annotations": [{"text": f"mean {mean:.3f}".replace("-", "−"), "x": mean, "y": 1, "yref": "paper", "xanchor": "left",
                         "yanchor": "bottom", "showarrow": False, "font": {"color": "@strong", "size": 11}}],
    }  # fmt: skip
    return {"data": data, "layout": layout}


def quantiles(by_day: pd.DataFrame, x: str | list[str], *, holding: bool = True) -> Figure:
    """Return the mean return of each quantile, and the cumulative returns, absolute and minus the mean of all.

    Parameters
    ----------
    by_day : DataFrame
        Mean return of each quantile, columns 1 to n, and of all, column ``mean``.
    x : str or list of str
        The days as text, or the name of their list.
    holding : bool
        Whether the returns are per day of holding, so that they can be summed; if not, only means are drawn.
    """
    mean, by_day = by_day["mean"], by_day.drop(columns="mean")
    views = {"minus the day's mean": by_day.sub(mean, axis=0), "absolute": by_day}
    bars = _quantile_bars(views, "mean return" if holding else "mean label")
    return stacked([bars, _quantile_curves(views, x)], [170, 380]) if holding else bars


def _colour(quantile: int, number: int) -> str:
    """Return the colour of a quantile: each of five has its own; with other numbers, only the lowest and the highest
    do."""
    if number == 5:
        return f"@q{quantile}"
    return {1: "@q1", number: "@q5"}.get(quantile, "@q3")


def _quantile_bars(views: Mapping[str, pd.DataFrame], title: str) -> Figure:
    data = [
        {
            "type": "bar", "x": [str(q) for q in returns.columns], "y": floats(returns.mean()), "name": title, "view": view,
            "marker": {"color": [_colour(int(q), len(returns.columns)) for q in returns.columns]}, "showlegend": False,
            "hovertemplate": "%{x}: %{y:.3%}<extra></extra>",
        }
        for view, returns in views.items()
    ]  # fmt: skip
    layout = {
        "height": 240,
        "xaxis": {"type": "category"},
        "yaxis": {"tickformat": ".2%", "title": {"text": title}},
        "hovermode": "closest",
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout, "views": list(views)}


def _quantile_curves(views: Mapping[str, pd.DataFrame], x: str | list[str]) -> Figure:
    (index, columns) = next((table.index, list(table.columns)) for table in views.values())
    number = len(columns)
    names = {1: "1, lowest scores", number: f"{number}, highest scores"}
    first, last = day_texts(index[[0, -1]])
    data = []
    for view, returns in views.items():
        curves = {str(q): returns[q].fillna(0).cumsum() for q in reversed(columns)}
        for q, curve in curves.items():
            outer = int(q) in names
            data.append(
                line(x, curve, names.get(int(q), q), _colour(int(q), number), width=2.4 if outer else 1.5, view=view,
                     hovertemplate=f"{q}: %{{y:.1%}}<extra></extra>")
            )  # fmt: skip
        spread = f"{number} − 1"
        curves[spread] = (returns[number] - returns[1]).fillna(0).cumsum()
        data.append(
            line(x, curves[spread], f"{spread}, highest minus lowest", "@ink", dash="dash", view=view,
                 hovertemplate=f"{spread}: %{{y:.1%}}<extra></extra>")
        )  # fmt: skip
        data.append(end_labels({k: float(c.iloc[-1]) for k, c in curves.items()}, last) | {"view": view})
    layout = {
        "height": 400,
        "hovermode": "x unified",
        "margin": {"r": 48},
        "xaxis": {"type": "date", "range": [first, last]},
        "yaxis": {"tickformat": ".0%"},
        "legend": LEGEND | {"traceorder": "normal"},
    }
    return {"data": data, "layout": layout, "views": list(views)}


def ic_decay(by_lag: pd.DataFrame, unit: str = "day") -> Figure:
    """Return the mean IC and Rank IC at each lag."""
    data = [
        {"type": "bar", "x": [str(lag) for lag in by_lag.index], "y": floats(by_lag[name]), "name": name,
         "marker": {"color": colour}, "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>"}
        for name, colour in (("IC", "@blue"), ("Rank IC", "@orange"))
    ]  # fmt: skip
    return _by_lag(data, unit)


def _by_lag(data: list[Figure], unit: str) -> Figure:
    layout = {
        "height": 320,
        "hovermode": "x unified",
        "xaxis": {"type": "category", "title": {"text": f"lag in {unit}s"}},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def autocorrelation(by_lag: pd.Series, unit: str = "day") -> Figure:
    """Return the mean autocorrelation of the scores at each lag."""
    lags = [str(lag) for lag in by_lag.index]
    data = [
        {"type": "bar", "x": lags, "y": floats(by_lag), "name": "autocorrelation of the scores",
         "marker": {"color": "@q4"}, "hovertemplate": "autocorrelation %{y:.3f}<extra></extra>"}
    ]  # fmt: skip
    return _by_lag(data, unit)


def turnover(
    by_day: pd.DataFrame, x: str | list[str], part: str = "fifth", rolling: int | None = None, unit: str = "day"
) -> Figure:
    """Return the rolling mean of the turnover of the highest and of the lowest quantile.

    Parameters
    ----------
    by_day : DataFrame
        Columns highest and lowest; NaN where lines break.
    x : str or list of str
        The days as text, or the name of their list.
    part : str
        Name of a quantile.
    rolling : int, optional
        Days of the rolling mean; by default those of :func:`~rollforge.report.drawing.rolling_days`.
    unit : str
        What a period is called, see :func:`~rollforge.record.periods.period_name`.
    """
    window = rolling or rolling_days(int(by_day["highest"].count()))
    data = []
    for name, colour in (("highest", "@q5"), ("lowest", "@q1")):
        mean = by_day[name].rolling(window, min_periods=1).mean().where(by_day[name].notna())
        data.append(
            line(x, mean, f"{name} {part}, mean of the last {window} {unit}s", colour,
                 hovertemplate=f"{name} {part} %{{y:.1%}}<extra></extra>")
        )  # fmt: skip
    layout = {
        "height": 320,
        "hovermode": "x unified",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%", "rangemode": "tozero"},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def groups(table: pd.DataFrame) -> Figure:
    """Return the mean IC and Rank IC of each group, see :func:`~rollforge.record.persistence.ic_by_group`."""
    names = [str(name) for name in table.index]
    data = [
        {"type": "bar", "orientation": "h", "y": names, "x": floats(table[name]), "name": name,
         "marker": {"color": colour}, "hovertemplate": f"%{{y}}: {name} %{{x:.4f}}<extra></extra>"}
        for name, colour in (("IC", "@blue"), ("Rank IC", "@orange"))
    ]  # fmt: skip
    layout = {
        "height": 110 + 36 * len(names),
        "hovermode": "closest",
        "yaxis": {"type": "category", "autorange": "reversed"},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def paths(returns: pd.DataFrame, x: str | list[str]) -> Figure:
    """Return the cumulative return of each backtest path, and of their mean.

    Parameters
    ----------
    returns : DataFrame
        Returns per day of holding, one column for each path.
    x : str or list of str
        The days as text, or the name of their list.
    """
    data = [
        line(x, returns[name].fillna(0).cumsum(), str(name), "@bar", width=1.2, showlegend=False,
              hovertemplate=f"{name}: %{{y:.1%}}<extra></extra>")
        for name in returns
    ]  # fmt: skip
    mean = returns.mean(axis=1).fillna(0).cumsum()
    data.append(line(x, mean, "mean of the paths", "@blue", hovertemplate="mean: %{y:.1%}<extra></extra>"))
    layout = {
        "height": 360,
        "hovermode": "closest",
        "xaxis": {"type": "date"},
        "yaxis": {"tickformat": ".0%"},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


_MODEL_COLOURS = ("@blue", "@orange", "@green", "@q1", "@q4", "@soft")


def window_ic(tasks: Sequence[TaskRow]) -> Figure | None:
    """Return the mean IC of each window with its 95 % interval, at the first day of its test segment.

    A few models stand side by side. If their intervals would overlap, or there are more models than colours, there is a view of
    all models without intervals, with rolling means of many windows, and one of the windows of each model.

    Parameters
    ----------
    tasks : sequence of TaskRow
        The tasks, with the metrics ``IC``, ``IC low`` and ``IC high``.

    Returns
    -------
    Figure or None
        None if fewer than two windows have an interval.
    """
    shown: dict[str, list[TaskRow]] = {}
    for task in tasks:
        if "IC low" in task.metrics:
            shown.setdefault(task.model, []).append(task)
    number = sum(map(len, shown.values()))
    if number < 2:
        return None
    coloured = len(shown) <= len(_MODEL_COLOURS)
    colours = {model: _MODEL_COLOURS[i] if coloured else "@bar" for i, model in enumerate(shown)}
    layout = {
        "height": 300,
        "hovermode": "closest",
        "showlegend": len(shown) > 1 and coloured,
        "xaxis": {"type": "date"},
        "yaxis": {"title": {"text": "IC"}, "zeroline": True},
        "legend": LEGEND,
        "scattermode": "group",
    }
    names = short_names(shown)
    points = [
        _window_points(own, colours[model]) | {"name": names[model] or "IC", "meta": plain_name(model) or "IC"}
        for model, own in shown.items()
    ]
    if len(shown) == 1 or (coloured and number <= _MAX_BARS):
        return {"data": points, "layout": layout}
    rolling = max(1, round(max(map(len, shown.values())) / 20))
    every = f"means of {rolling} windows" if rolling > 1 else "all models"
    data = [
        _window_means(own, names[model], colours[model], rolling) | {"view": every, "meta": plain_name(model)}
        for model, own in shown.items()
    ]
    views = [every]
    if len(shown) <= _MAX_VIEWS:
        views += shown
        data += [{**trace, "view": model, "showlegend": False} for model, trace in zip(shown, points, strict=True)]
    return {"data": data, "layout": layout, "views": views}


_MAX_BARS = 60
"""Number of intervals of several models that can be told apart in one figure."""
_MAX_VIEWS = 12


def _window_points(own: Sequence[TaskRow], colour: str) -> Figure:
    middle, low, high = (np.round([t.metrics[name] for t in own], 5) for name in ("IC", "IC low", "IC high"))
    ends: Figure = {"array": floats(np.round(high - middle, 5)), "arrayminus": floats(np.round(middle - low, 5))}
    return {
        "type": "scatter", "mode": "markers", "x": [_first_test_day(t) for t in own],
        "y": floats(middle), "text": [f"window {t.window.index + 1}" for t in own],
        "marker": {"color": colour, "size": 6 if len(own) <= 60 else 4},
        "error_y": {**ends, "type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 0},
        "hovertemplate": "%{text}: IC %{y:.4f}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _window_means(own: Sequence[TaskRow], name: str, colour: str, rolling: int) -> Figure:
    """Return the rolling mean of the IC of the windows, each with the same weight."""
    ordered = sorted(own, key=_first_test_day)
    means = pd.Series([t.metrics["IC"] for t in ordered]).rolling(rolling).mean()
    mode = "lines" if len(ordered) > _MAX_BARS else "lines+markers"
    hover = f"{name} %{{y:.4f}}<extra></extra>"
    return line([_first_test_day(t) for t in ordered], means, name, colour, hovertemplate=hover, mode=mode)


def _first_test_day(task: TaskRow) -> str:
    return str(task.window.segments["test"].start)
