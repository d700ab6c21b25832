"""Plotly figures of an out-of-sample result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from rollforge.record.analysis import calc_ic

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["ResultPlots"]


@dataclass(frozen=True, slots=True)
class ResultPlots:
    """Figures of a prediction and its label, which need the extra ``report``."""

    prediction: pd.Series = field(repr=False)
    """Index (datetime, instrument)."""
    label: pd.Series = field(repr=False)
    """Index (datetime, instrument)."""

    def ic(self) -> go.Figure:
        """Return the IC and the Rank IC of each day."""
        from rollforge.report.graphs import ic_figure

        ic, rank_ic = calc_ic(self.prediction, self.label)
        return ic_figure(pd.DataFrame({"ic": ic, "rank_ic": rank_ic}))

    def performance(self, quantiles: int = 5) -> list[go.Figure]:
        """Return the figures of Qlib's ``model_performance_graph``: returns by quantile, IC, autocorrelation."""
        from rollforge.report.graphs import model_performance_graph

        both = pd.DataFrame({"score": self.prediction, "label": self.label}).dropna()
        return model_performance_graph(both, N=quantiles, show_notebook=False) or []
