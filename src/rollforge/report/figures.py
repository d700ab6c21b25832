"""The plots of a report, as plain data for Plotly: what is drawn, not how a page shows it.

Colours are of Okabe and Ito's palette, which people with any colour vision can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rollforge.report.summary import Summary, TaskRow

__all__ = ["figures"]

BLUE, ORANGE, GREEN, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#F0E442", "#8a919c",
)  # fmt: skip
_SEGMENT_COLOURS = {"train": SKY, "valid": ORANGE, "test": BLUE}
_QUANTILE_COLOURS = [RED, ORANGE, GREY, SKY, BLUE]

Figure = dict[str, Any]


def figures(summary: Summary) -> dict[str, Figure]:
    """Return name -> ``{"data": …, "layout": …}`` for each plot that the summary has numbers for."""
    made = {"windows": _windows(summary.tasks)}
    if summary.ic is not None and summary.rank_ic is not None and len(summary.ic):
        made["daily"] = _daily(summary.ic, summary.rank_ic)
        made["cumulative"] = _cumulative_ic(summary.ic, summary.rank_ic)
        made["monthly_ic"] = _monthly(summary.ic, "IC")
        made["monthly_rank_ic"] = _monthly(summary.rank_ic, "Rank IC")
    if summary.quantiles is not None and len(summary.quantiles):
        made["quantiles"] = _quantiles(summary.quantiles, summary.long_short)
    return made


def _days(index: Any) -> list[str]:
    return [f"{d:%Y-%m-%d}" for d in pd.DatetimeIndex(index)]


def _floats(values: Any) -> list[float | None]:
    return [None if not np.isfinite(v) else round(float(v), 6) for v in np.asarray(values, float)]


def _windows(tasks: Sequence[TaskRow]) -> Figure:
    data = []
    names = list(dict.fromkeys(name for t in tasks for name in t.window.segments))
    for name in names:
        rows = [(t, t.window.segments[name]) for t in tasks if name in t.window.segments]
        spans = [int((s.end - s.start) / np.timedelta64(1, "D")) + 1 for _, s in rows]
        colours = [
            RED if name == "test" and t.status == "failed" else _SEGMENT_COLOURS.get(name, GREY) for t, _ in rows
        ]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [t.window.index + 1 for t, _ in rows],
                "base": [str(s.start) for _, s in rows],
                "x": [d * 86400000 for d in spans],
                "marker": {"color": colours},
                "customdata": [[str(s.start), str(s.end), s.days, t.status] for t, s in rows],
                "hovertemplate": f"window %{{y}}, {name}<br>%{{customdata[0]}} to %{{customdata[1]}}"
                "<br>%{customdata[2]} trading days, %{customdata[3]}<extra></extra>",
            }
        )
    layout = {
        "barmode": "overlay",
        "bargap": 0.35,
        "height": max(180, 90 + 22 * len(tasks)),
        "xaxis": {"type": "date"},
        "yaxis": {"autorange": "reversed", "title": {"text": "window"}, "dtick": max(1, len(tasks) // 20)},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    }
    return {"data": data, "layout": layout}


def _daily(ic: pd.Series, rank_ic: pd.Series) -> Figure:
    mean = ic.rolling(60, min_periods=20).mean()
    rank_mean = rank_ic.rolling(60, min_periods=20).mean()
    days = _days(ic.index)
    data = [
        {
            "type": "bar", "x": days, "y": _floats(ic), "name": "IC", "marker": {"color": SKY, "line": {"width": 0}},
            "opacity": 0.75,
        },
        {"type": "scatter", "x": days, "y": _floats(mean), "name": "IC, mean of 60 days", "line": {"color": BLUE, "width": 2}},
        {
            "type": "scatter", "x": _days(rank_ic.index), "y": _floats(rank_mean), "name": "Rank IC, mean of 60 days",
            "line": {"color": ORANGE, "width": 2, "dash": "dot"},
        },
    ]  # fmt: skip
    return {
        "data": data,
        "layout": {"height": 320, "bargap": 0, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"}},
    }


def _cumulative_ic(ic: pd.Series, rank_ic: pd.Series) -> Figure:
    data = [
        {
            "type": "scatter",
            "x": _days(s.index),
            "y": _floats(s.cumsum()),
            "name": name,
            "line": {"color": colour, "width": 2},
        }
        for name, s, colour in (("IC", ic, BLUE), ("Rank IC", rank_ic, ORANGE))
    ]
    return {"data": data, "layout": {"height": 280, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"}}}


def _monthly(values: pd.Series, name: str) -> Figure:
    index = pd.DatetimeIndex(values.index)
    frame = pd.DataFrame({"year": index.year, "month": index.month, "value": values.to_numpy()})
    table = frame.pivot_table(index="year", columns="month", values="value", aggfunc="mean").reindex(
        columns=range(1, 13)
    )
    cells = [_floats(row) for row in table.to_numpy()]
    data = [
        {
            "type": "heatmap",
            "x": ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
            "y": [str(y) for y in table.index],
            "z": cells,
            "text": [["" if v is None else f"{v:+.3f}" for v in row] for row in cells],
            "texttemplate": "%{text}",
            "textfont": {"size": 10},
            "zmid": 0,
            "colorscale": [[0, RED], [0.5, "#f4f4f4"], [1, BLUE]],
            "showscale": False,
            "xgap": 2,
            "ygap": 2,
            "hovertemplate": f"%{{x}} %{{y}}: mean {name} %{{z:+.4f}}<extra></extra>",
        }
    ]
    layout = {
        "height": 90 + 34 * len(table),
        "yaxis": {"autorange": "reversed", "type": "category"},
        "xaxis": {"side": "top"},
    }
    return {"data": data, "layout": layout}


def _quantiles(quantiles: pd.DataFrame, long_short: pd.Series | None) -> Figure:
    days = _days(quantiles.index)
    last = len(quantiles.columns)
    words = {1: "1, lowest scores", last: f"{last}, highest scores"}
    data = [
        {
            "type": "scatter",
            "x": days,
            "y": _floats(quantiles[q]),
            "name": words.get(int(q), str(q)),
            "line": {"color": _QUANTILE_COLOURS[i % len(_QUANTILE_COLOURS)], "width": 2},
        }
        for i, q in enumerate(quantiles.columns)
    ]
    if long_short is not None:
        data.append(
            {
                "type": "scatter", "x": _days(long_short.index), "y": _floats(long_short), "name": "highest less lowest",
                "line": {"color": GREEN, "width": 2, "dash": "dash"},
            }
        )  # fmt: skip
    layout = {
        "height": 360,
        "yaxis": {"tickformat": ".0%"},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    }
    return {"data": data, "layout": layout}
