"""The figures of one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from rollforge.plot import figures
from rollforge.plot.source import HasCollected, HasGroups, HasHorizons

if TYPE_CHECKING:
    from rollforge.collect.result import Collected

__all__ = ["ResultPlots"]


@dataclass(frozen=True)
class ResultPlots:
    """The functions of :mod:`rollforge.plot` as methods of a result."""

    result: HasCollected = field(repr=False)

    @property
    def collected(self) -> Collected:
        """The joined result."""
        return self.result.collected

    def row_groups(self, groups: pd.Series | None) -> pd.Series | None:
        """Return the group of each row of the prediction: `groups`, or by default those of the result."""
        return self.result.row_groups(groups) if isinstance(self.result, HasGroups) else groups

    @property
    def by_horizon(self) -> Mapping[int, object]:
        """The result of each horizon, if there are several."""
        return self.result.by_horizon if isinstance(self.result, HasHorizons) else {}

    ic = figures.ic
    cumulative = figures.cumulative
    heatmap = figures.heatmap
    ic_histogram = figures.ic_histogram
    ic_decay = figures.ic_decay
    quantiles = figures.quantiles
    turnover = figures.turnover
    autocorrelation = figures.autocorrelation
    ic_by_group = figures.ic_by_group
    performance = figures.performance
    paths = figures.paths
    windows = figures.windows
    equity = figures.equity
    drawdown = figures.drawdown
    exposure = figures.exposure
    monthly = figures.monthly
