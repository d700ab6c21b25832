"""Features window by window, as tables and figures: how much the models depend on them, and how far they have drifted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from rollforge.record.drift import LARGE, SCORE_PSI, SMALL
from rollforge.report.drawing import LEGEND, Figure, floats, plain_name
from rollforge.report.inputs import TaskRow

__all__ = ["FEATURES", "drift_by_window", "drift_cells", "importance_by_window", "importance_cells", "score_drift"]

FEATURES = 25
"""How many features are shown: those with the largest mean over the windows."""
_COLOURS = ("@blue", "@orange", "@green", "@q1", "@q4", "@soft")


def importance_by_window(tasks: Sequence[TaskRow]) -> dict[str, pd.DataFrame]:
    """Return the share of each feature in the importance of all features.

    Parameters
    ----------
    tasks : sequence of TaskRow
        The tasks. Negative importances (coefficients) count by their size.

    Returns
    -------
    dict of str to DataFrame
        Model -> one row for each of the :data:`FEATURES` features with the largest mean share, in this order (by name if
        equal), and one column for each of its windows, whose name is its number. A share is NaN in a window whose model is
        unknown, has no such feature, or depends on none.
    """

    def shares(task: TaskRow) -> pd.Series:
        sizes = pd.Series(dict(task.importance), dtype=np.float64).abs()
        total = sizes.sum()
        return sizes / total if 0 < total < np.inf else sizes * np.nan

    return _by_window([task for task in tasks if task.importance], tasks, shares)


def drift_by_window(tasks: Sequence[TaskRow]) -> dict[str, pd.DataFrame]:
    """Return the population stability index of each feature, from the train segment to the test segment of a window.

    Parameters
    ----------
    tasks : sequence of TaskRow
        The tasks.

    Returns
    -------
    dict of str to DataFrame
        As :func:`importance_by_window` returns it.
    """
    return _by_window(
        [task for task in tasks if task.drift], tasks, lambda task: pd.Series(dict(task.drift), dtype=np.float64)
    )


def _by_window(
    known: Sequence[TaskRow], tasks: Sequence[TaskRow], values: Callable[[TaskRow], pd.Series]
) -> dict[str, pd.DataFrame]:
    models: dict[str, dict[int, pd.Series]] = {}
    for task in known:
        models.setdefault(task.model, {})[task.window.index] = values(task)
    found = {}
    for model, columns in models.items():
        windows = sorted({task.window.index for task in tasks if task.model == model})
        table = pd.DataFrame(columns).reindex(columns=windows).sort_index()
        means = table.fillna(0.0).mean(axis=1)
        kept = means.sort_values(ascending=False, kind="stable").index[:FEATURES]
        if table.notna().any(axis=None):
            found[model] = table.loc[kept].set_axis([str(index + 1) for index in windows], axis=1)
    return found


def importance_cells(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """Return the shares as coloured cells, one view for each of several models."""
    return _cells(shares, "share", "~%", ".2%")


def drift_cells(indexes: Mapping[str, pd.DataFrame]) -> Figure:
    """Return the indexes as coloured cells, one view for each of several models."""
    return _cells(indexes, "PSI", "~g", ".3f", least=LARGE)


def _cells(tables: Mapping[str, pd.DataFrame], name: str, form: str, exact: str, *, least: float = 0.0) -> Figure:
    data: list[Figure] = []
    largest = max(least, *(float(np.nanmax(table.to_numpy())) for table in tables.values()))
    for model, table in tables.items():
        data.append({
            "type": "heatmap", "name": name, "z": [floats(np.round(row, 5)) for row in table.to_numpy()],
            "x": [str(name) for name in table.columns], "y": [plain_name(str(name)) for name in table.index],
            "zmin": 0.0, "zmax": largest, "hoverongaps": False,
            "colorscale": [[0, "@line"], [1, "@blue"]],  # a zero can be told from an empty cell
            "xgap": 1 if len(table.columns) <= 60 else 0, "ygap": 1,
            "colorbar": {"tickformat": form, "thickness": 12, "outlinewidth": 0},
            "hovertemplate": f"%{{y}}, window %{{x}}: %{{z:{exact}}}<extra></extra>",
            **({"view": model} if len(tables) > 1 else {}),
        })  # fmt: skip
    layout = {
        "height": 110 + 18 * max(len(table) for table in tables.values()),
        "hovermode": "closest",
        "margin": {"t": 10},
        "xaxis": {"type": "category", "title": {"text": "window"}},
        "yaxis": {
            "type": "category",
            "autorange": "reversed",
            "tickfont": {"size": 11, "color": "@soft"},
            "dtick": 1,
            "showgrid": False,
        },
    }
    return {"data": data, "layout": layout, **({"views": list(tables)} if len(tables) > 1 else {})}


def score_drift(tasks: Sequence[TaskRow]) -> Figure | None:
    """Return the population stability index of the scores by window, with the limits of the rule of thumb; None if unknown."""
    windows = sorted({task.window.index for task in tasks})
    shown: dict[str, dict[int, float]] = {}
    for task in tasks:
        if np.isfinite(value := task.metrics.get(SCORE_PSI, np.nan)):
            shown.setdefault(task.model, {})[task.window.index] = value
    if not shown:
        return None
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines+markers", "x": [str(index + 1) for index in windows],
            "y": floats(np.round([own.get(index, np.nan) for index in windows], 5)), "name": plain_name(model) or "scores",
            "line": {"color": _COLOURS[i % len(_COLOURS)], "width": 1.5}, "marker": {"size": 5},
            "hovertemplate": "window %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
        }
        for i, (model, own) in enumerate(shown.items())
    ]  # fmt: skip
    lines = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit,
            "line": {"color": "@soft", "width": 1, "dash": "dot"},
        }
        for limit in (SMALL, LARGE)
    ]  # fmt: skip
    layout = {
        "height": 260,
        "hovermode": "closest",
        "showlegend": len(shown) > 1,
        "shapes": lines,
        "xaxis": {"type": "category", "title": {"text": "window"}},
        "yaxis": {"title": {"text": "PSI"}, "rangemode": "tozero"},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}
