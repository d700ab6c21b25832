"""Figures for notebooks from the plots of a page."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from rollforge.errors import MissingDependency
from rollforge.report.drawing import Figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["to_plotly"]


def to_plotly(figure: Figure, title: str) -> go.Figure:
    """Return a plot as a Plotly figure, in the light colours of the page.

    Parameters
    ----------
    figure : Figure
        The plot; if it has several views, buttons choose one.
    title : str
        Title of the figure.

    Raises
    ------
    MissingDependency
        If plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as exc:
        raise MissingDependency("Figures need the package plotly: pip install 'rollforge[report]'") from exc
    colours = _colours()
    given, views = _resolved(figure["layout"], colours), list(figure.get("views", ()))
    data = [dict(_resolved(trace, colours)) for trace in figure["data"]]
    of_view = [trace.pop("view", None) for trace in data]
    layout: dict[str, object] = {
        **given,
        "title": {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
        "font": {"color": colours["ink"], "size": 12},
        "paper_bgcolor": colours["paper"],
        "plot_bgcolor": colours["paper"],
        "height": given["height"] + 80,
        "margin": {"l": 60, "r": 24, "t": 100, "b": 40, **given.get("margin", {})},
    }
    for name in ("xaxis", "yaxis", *(n for n in given if n[1:5] == "axis")):
        lines = {"gridcolor": colours["line"], "linecolor": colours["line"], "zerolinecolor": colours["soft"]}
        layout[name] = {**lines, "automargin": True, "showgrid": name[0] == "y", **given.get(name, {})}
    if views:
        shown = {view: [own in (None, view) for own in of_view] for view in views}
        for trace, visible in zip(data, shown[views[0]], strict=True):
            trace["visible"] = visible
        buttons = [{"label": v, "method": "update", "args": [{"visible": shown[v]}]} for v in views]
        # Above the legend, which may need the whole width.
        place = {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "pad": {"b": 26}}
        layout["updatemenus"] = [{"type": "buttons", "direction": "right", "buttons": buttons, **place}]
    return go.Figure(data=data, layout=layout)


@functools.cache
def _colours() -> dict[str, str]:
    """Return the light colours of the style sheet, which come first in it."""
    sheet = resources.files("rollforge.report").joinpath("page.css").read_text(encoding="utf-8")
    block = sheet[sheet.index(":root {") :].partition("}")[0]
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


def _resolved(value: object, colours: dict[str, str]) -> Any:
    """Replace ``@name`` with the colour."""
    if isinstance(value, str):
        return colours[value[1:]] if value.startswith("@") else value
    if isinstance(value, dict):
        return {key: _resolved(inner, colours) for key, inner in value.items()}
    if isinstance(value, list) and any(isinstance(inner, (str, dict, list)) for inner in value):
        return [_resolved(inner, colours) for inner in value]
    return value
