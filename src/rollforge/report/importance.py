"""The importance of features, window by window, as a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rollforge.report.drawing import Figure, floats, plain_name
from rollforge.report.inputs import TaskRow

__all__ = ["FEATURES", "importance_by_window", "importance_cells"]

FEATURES = 25
"""How many features are shown: those with the largest mean share."""


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
    models: dict[str, dict[int, pd.Series]] = {}
    for task in tasks:
        if task.importance:
            sizes = pd.Series(dict(task.importance), dtype=np.float64).abs()
            total = sizes.sum()
            models.setdefault(task.model, {})[task.window.index] = (
                sizes / total if 0 < total < np.inf else sizes * np.nan
            )
    found = {}
    for model, columns in models.items():
        windows = sorted({task.window.index for task in tasks if task.model == model})
        shares = pd.DataFrame(columns).reindex(columns=windows).sort_index()
        means = shares.fillna(0.0).mean(axis=1)
        kept = means.sort_values(ascending=False, kind="stable").index[:FEATURES]
        if shares.notna().any(axis=None):
            found[model] = shares.loc[kept].set_axis([str(index + 1) for index in windows], axis=1)
    return found


def importance_cells(shares: dict[str, pd.DataFrame]) -> Figure:
    """Return the shares as coloured cells, one view for each of several models."""
    data: list[Figure] = []
    largest = max(float(np.nanmax(table.to_numpy())) for table in shares.values())
    for model, table in shares.items():
        data.append({
            "type": "heatmap", "name": "share", "z": [floats(np.round(row, 5)) for row in table.to_numpy()],
            "x": [str(name) for name in table.columns], "y": [plain_name(str(name)) for name in table.index],
            "zmin": 0.0, "zmax": largest, "colorscale": [[0, "@card"], [1, "@blue"]], "hoverongaps": False,
            "xgap": 1 if len(table.columns) <= 60 else 0, "ygap": 1,
            "colorbar": {"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
            "hovertemplate": "%{y}, window %{x}: %{z:.2%}<extra></extra>",
            **({"view": model} if len(shares) > 1 else {}),
        })  # fmt: skip
    layout = {
        "height": 110 + 18 * max(len(table) for table in shares.values()),
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
    return {"data": data, "layout": layout, **({"views": list(shares)} if len(shares) > 1 else {})}
