"""Plots of several results: cumulative IC, differences from the first, and returns after costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.record.performance import cumulative_returns
from rollforge.report.compare import Compared, Comparison
from rollforge.report.drawing import LEGEND, Figure, floats, line, plain_name, short_names

__all__ = ["MAX_ROWS", "cumulative_ic", "days_of", "differences", "equity"]

MAX_ROWS = 40
"""With more results than this, differences are not drawn; the table contains them."""
_STYLES = (
    ("@orange", "dash"), ("@green", "dot"), ("@q1", "dashdot"), ("@q4", "solid"), ("@soft", "dash"), ("@red", "solid"),
    ("@green", "solid"), ("@strong", "dot"), ("@q1", "dot"), ("@soft", "solid"), ("@q4", "dash"),
)  # fmt: skip
"""Colour and dash of the results after the first. If there are more results, they are all grey."""


def days_of(curves: Sequence[pd.Series]) -> pd.DatetimeIndex:
    """Return all days of several series."""
    days = pd.DatetimeIndex([])
    for values in curves:
        days = days.union(pd.DatetimeIndex(values.index))
    return days


def cumulative_ic(results: Sequence[Compared], days: pd.DatetimeIndex, x: str | list[str]) -> Figure:
    """Return the sum of the daily IC of each result since its first day; lines break on days without an IC.

    Parameters
    ----------
    results : sequence of Compared
        The results; the first is emphasised.
    days : DatetimeIndex
        The days to draw.
    x : str or list of str
        The days as text, or the name of their list.
    """
    curves = {one.name: one.quality.ic.cumsum() for one in results if one.quality is not None and len(one.quality.ic)}
    return _curves(curves, results[0].name, days, x, "%{y:.2f}", {"title": {"text": "cumulative IC"}})


def equity(results: Sequence[Compared], days: pd.DatetimeIndex, x: str | list[str]) -> Figure:
    """Return the summed returns after costs of each result with a backtest; see :func:`cumulative_ic`."""
    curves = {one.name: cumulative_returns(one.net) for one in results if one.net is not None and len(one.net)}
    axis: Figure = {"tickformat": ".0%", "title": {"text": "return after costs"}}
    return _curves(curves, results[0].name, days, x, "%{y:.1%}", axis)


def _curves(
    curves: Mapping[str, pd.Series], first: str, days: pd.DatetimeIndex, x: str | list[str], form: str, axis: Figure
) -> Figure:
    others = [name for name in curves if name != first]
    many = len(others) > len(_STYLES)
    shown = short_names([first, *others])
    data = []
    for i, name in enumerate(others):
        colour, dash = ("@bar", "solid") if many else _STYLES[i]
        data.append(
            line(x, curves[name].reindex(days), shown[name], colour, dash=dash, width=1.2 if many else 1.6,
                 hovertemplate=f"{shown[name]}: {form}<extra></extra>", showlegend=not many, meta=plain_name(name))
        )  # fmt: skip
    if first in curves:
        data.append(
            line(x, curves[first].reindex(days), shown[first], "@blue", width=2.6,
                 hovertemplate=f"{shown[first]}: {form}<extra></extra>", legendrank=1, meta=plain_name(first))
        )  # fmt: skip
    layout = {
        "height": 340,
        "hovermode": "closest" if many else "x unified",
        "showlegend": True,
        "xaxis": {"type": "date"},
        "yaxis": axis,
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def differences(comparison: Comparison, figure: str = "IC") -> Figure:
    """Return the difference of each result from the first with its 95 % interval.

    Parameters
    ----------
    comparison : Comparison
        The comparison.
    figure : str
        IC, Rank IC, Return or Net return.
    """
    rows = comparison.differences.xs(figure, level="figure")
    middle = rows["difference"].to_numpy(np.float64)
    ends = {
        "array": floats(np.round(rows["high"] - middle, 6)),
        "arrayminus": floats(np.round(middle - rows["low"], 6)),
    }
    form = ".4f" if figure.endswith("IC") else ".1%"
    names = [plain_name(str(name)) for name in rows.index]
    shown = short_names([comparison.results[0].name, *map(str, rows.index)])
    data = [
        {
            "type": "scatter", "mode": "markers", "x": floats(middle), "y": names,
            "name": f"difference of the {figure}", "showlegend": False, "marker": {"color": "@blue", "size": 9},
            "error_x": {"type": "data", "symmetric": False, **ends, "color": "@blue", "thickness": 1.6, "width": 5},
            "hovertemplate": f"%{{y}}: %{{x:{form}}}<extra></extra>",
        }
    ]  # fmt: skip
    layout = {
        "height": 90 + 30 * len(rows),
        "hovermode": "closest",
        "margin": {"t": 12},
        "xaxis": {
            "title": {"text": f"{figure} minus that of {shown[comparison.results[0].name]}"},
            "tickformat": "" if figure.endswith("IC") else ".1%",
            "zeroline": True,
            "range": _around_zero(rows[["difference", "low", "high"]].to_numpy(np.float64)),
        },
        "yaxis": {
            "type": "category", "autorange": "reversed", "tickvals": names, "ticktext": [shown[str(name)] for name in rows.index],
        },
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _around_zero(values: NDArray[np.float64]) -> list[float]:
    """Return the range of an axis that contains 0 and all values, with some room on both sides.

    Examples
    --------
    >>> _around_zero(np.array([0.0, np.nan])), _around_zero(np.array([-0.1, 0.3]))
    ([-0.01, 0.01], [-0.12, 0.32])
    """
    there = np.append(values[np.isfinite(values)], 0.0)
    low, high = float(there.min()), float(there.max())
    room = 0.05 * (high - low) or 0.01
    return [round(low - room, 6), round(high + room, 6)]
