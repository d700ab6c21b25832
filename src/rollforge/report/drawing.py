"""The parts of plots as plain data for Plotly: lines, axes, plots one below the other.

The plots of a page and the figures of :mod:`rollforge.plot` are made from the same data. Two kinds of strings are
placeholders: ``@name`` is a colour of the style sheet, so that the plots of a page follow the light, dark and print
themes, and ``#name`` is one of the lists of days, which a page stores only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "LEGEND",
    "Figure",
    "day_texts",
    "end_labels",
    "floats",
    "line",
    "plain_name",
    "rolling_days",
    "short_names",
    "stacked",
    "with_gaps",
    "without_middle",
]

Figure = dict[str, Any]

LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_GAP = np.timedelta64(15, "D")
_MAX_NAME = 24


def rolling_days(days: int) -> int:
    """Return the window of a rolling mean in a plot of `days`: 60 days (a quarter) from 180 days on, else 20."""
    return 60 if days >= 180 else 20


def with_gaps(index: pd.Index) -> pd.DatetimeIndex:
    """Return the days plus one in each long gap (such as a failed window), so that lines break there."""
    days = pd.DatetimeIndex(index)
    steps = np.diff(days.to_numpy())
    if not len(steps):
        return days
    before = days[:-1][steps > max(_GAP, 3 * np.median(steps))]  # months are no gaps
    return days.union(before + pd.Timedelta(days=1))


def day_texts(index: pd.Index) -> list[str]:
    """Return days as text, with their time if there are times."""
    days = pd.DatetimeIndex(index)
    form = "%Y-%m-%d" if (days == days.normalize()).all() else "%Y-%m-%d %H:%M"
    return [f"{d:{form}}" for d in days]


def floats(values: object) -> list[float | None]:
    """Return numbers, and None for missing and infinite ones."""
    return [float(v) if np.isfinite(v) else None for v in np.asarray(values, np.float64)]


def line(x: str | list[str], values: object, name: str, colour: str, **more: object) -> Figure:
    """Return a line; `more` are `width`, `dash`, and options of Plotly's scatter traces."""
    width, dash = more.pop("width", 2), more.pop("dash", "solid")
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": floats(values), "name": name,
        "line": {"color": colour, "width": width, "dash": dash}, **more,
    }  # fmt: skip


def end_labels(ends: Mapping[str, float], day: str) -> Figure:
    """Return labels at the right ends of curves, moved apart so that they do not overlap."""
    order = sorted(ends, key=lambda name: ends[name])
    gap = (max(ends.values()) - min(ends.values())) * 0.045
    places: list[float] = []
    for name in order:
        places.append(max(ends[name], places[-1] + gap) if places else ends[name])
    return {
        "type": "scatter", "mode": "text", "x": [day] * len(order), "y": floats(places), "text": [f"  {name}" for name in order],
        "textposition": "middle right", "textfont": {"size": 11, "color": "@ink"}, "cliponaxis": False,
        "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip


def stacked(parts: Sequence[Figure], heights: Sequence[int], *, gap: int = 50) -> Figure:
    """Return plots combined into one, the first at the top; plots over days share the range of days.

    Parameters
    ----------
    parts : sequence of Figure
        The plots; each may have several y axes.
    heights : sequence of int
        Their heights in pixels.
    gap : int
        Pixels between two plots.
    """
    total = sum(heights) + gap * (len(parts) - 1)
    data: list[Figure] = []
    layout: Figure = {"height": total, "hovermode": parts[0]["layout"].get("hovermode", "closest"), "legend": LEGEND}
    dated = all(part["layout"].get("xaxis", {}).get("type") == "date" for part in parts)
    top, axes = total, 0
    for number, (part, height) in enumerate(zip(parts, heights, strict=True), 1):
        given = part["layout"]
        span = (top - height) / total, top / total
        top -= height + gap
        own = sorted({"yaxis", *(name for name in given if name.startswith("yaxis"))})
        names = {_short(name): f"y{axes + i if axes + i > 1 else ''}" for i, name in enumerate(own, 1)}
        names["x"] = f"x{number if number > 1 else ''}"
        axes += len(own)
        lowest = min(own, key=lambda name: given.get(name, {}).get("domain", (0.0, 1.0))[0])
        for name in own:
            axis = {**given.get(name, {}), "anchor": names["x"]}
            axis["domain"] = [_within(span, share) for share in axis.get("domain", (0.0, 1.0))]
            if "matches" in axis:
                axis["matches"] = names[axis["matches"]]
            layout[_long(names[_short(name)])] = axis
        across = {**given.get("xaxis", {}), "anchor": names[_short(lowest)]}
        layout[_long(names["x"])] = across | ({"matches": "x"} if dated and number > 1 else {})
        data += [{**trace, "xaxis": names["x"], "yaxis": names[trace.get("yaxis", "y")]} for trace in part["data"]]
        for kind in ("shapes", "annotations"):
            if given.get(kind):
                layout[kind] = [*layout.get(kind, ()), *(_moved(item, names, span) for item in given[kind])]
        if "margin" in given:
            layout["margin"] = given["margin"]
    views = list(dict.fromkeys(view for part in parts for view in part.get("views", ())))
    return {"data": data, "layout": layout, **({"views": views} if views else {})}


def _short(axis: str) -> str:
    return axis.replace("axis", "")


def _long(axis: str) -> str:
    return f"{axis[0]}axis{axis[1:]}"


def _within(span: tuple[float, float], share: float) -> float:
    return span[0] + (span[1] - span[0]) * share


def _moved(item: Figure, names: Mapping[str, str], span: tuple[float, float]) -> Figure:
    """Return a shape or an annotation of a plot that has become part of another."""
    moved = {**item, "xref": names[item.get("xref", "x")]}
    if item.get("yref") != "paper":
        return {**moved, "yref": names[item.get("yref", "y")]}
    return {**moved, **{key: _within(span, item[key]) for key in ("y", "y0", "y1") if key in item}}


def plain_name(name: str) -> str:
    """Return a name without the characters that Plotly would read as a colour, a list of days, markup or a template."""
    text = name.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "%\u200b{")
    return f"\u200b{text}" if text[:1] in ("@", "#") else text


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return names for legends and axes: a long one loses its middle, and gets a number if it is then that of another.

    Examples
    --------
    >>> list(short_names(["ridge", "trees " * 9 + "1", "trees " * 9 + "1 "]).values())
    ['ridge', 'trees trees …ees trees 1', 'trees trees …es trees 1 ']
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = without_middle(name, _MAX_NAME)
        found[name] = plain_name(short if short not in found.values() else f"{short} ({len(found) + 1})")
    return found


def without_middle(name: str, most: int) -> str:
    """Return a name of at most `most` characters: a longer one loses its middle.

    Examples
    --------
    >>> without_middle("gradient boosting", 9), without_middle("ridge", 9)
    ('grad…ting', 'ridge')
    """
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}"
