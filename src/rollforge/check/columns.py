"""The columns of a handler: which depend on the market data, and how far labels look ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.check.compare import Difference, compare, different, until
from rollforge.check.rebuild import TaskData
from rollforge.dates import times_of
from rollforge.generate.label_horizon import LabelHorizon

__all__ = ["Columns", "changed_labels", "column_name", "constant_columns", "is_label", "without_times"]


def without_times(node: object) -> Any:
    """Return a handler's description without its range and fit window, which differ between windows."""
    if isinstance(node, Mapping):
        return {k: without_times(v) for k, v in node.items() if not str(k).endswith("_time")}
    return node


class Columns:
    """Known properties of a handler's columns."""

    def __init__(self, horizon: LabelHorizon) -> None:
        self.horizon = horizon
        """The horizon of the label according to its definition."""
        self.has_label = False
        """Whether there is a label, and its horizon could be measured."""
        self.measured = 0
        """Largest number of days before a change on which labels change."""
        self.measured_rows = 0
        """The same in rows of the instrument."""
        self.example: Difference | None = None
        self.day: np.datetime64 | None = None
        self.fixed: list[str] = []
        """Features that do not depend on the market data."""
        self.fixed_labels: list[str] = []
        self.all_fixed = False

    @property
    def ahead(self) -> int:
        """Number of days that labels look ahead, as far as known."""
        return max(self.horizon.days or 0, self.measured)

    @property
    def reach(self) -> int:
        """Number of days before a change that labels change, counted as the horizon is."""
        return self.measured_rows if self.horizon.in_rows else self.measured

    def measure(self, data: TaskData, other: TaskData, day: np.datetime64, calendar: NDArray[np.datetime64]) -> None:
        """Measure how far before a change labels change: in the raw data, or in those of a processor that computes them."""
        a, b = data.raw, other.raw
        if not is_label(a).any():
            chain = data.chains.get("learn")
            if not chain:
                return
            a = data.learn
            for _, frame in other.processed(chain):
                b = frame
        self.has_label |= bool(is_label(a).any())
        found = changed_labels(a, b, day)
        if found is None:
            return
        rows, example = found
        days = times_of(rows.get_level_values("datetime"))
        first = days.min()
        reach = int(np.searchsorted(calendar, day, "right") - np.searchsorted(calendar, first))
        if reach > self.measured:
            self.measured, self.example, self.day = reach, example, day
        own = until(a, day, first).index
        codes = own.get_level_values("instrument")
        for code in rows.get_level_values("instrument").unique():
            start = days[rows.get_level_values("instrument") == code].min()
            mine = times_of(own.get_level_values("datetime"))[codes == code]
            self.measured_rows = max(self.measured_rows, int((mine >= start).sum()))


def changed_labels(
    a: pd.DataFrame, b: pd.DataFrame, day: np.datetime64, first: np.datetime64 | None = None
) -> tuple[pd.MultiIndex, Difference] | None:
    """Return the rows up to a day whose labels change or that disappear, and the first of them."""
    a = until(a.loc[:, is_label(a)], day, first)
    if not a.shape[1]:
        return None
    b = b.loc[:, is_label(b)].reindex(a.index)
    difference = compare(a, b)
    if difference is None:
        return None
    index = a.index[np.flatnonzero(different(a, b).any(axis=1))]
    assert isinstance(index, pd.MultiIndex)
    return index, difference


def is_label(frame: pd.DataFrame) -> NDArray[np.bool_]:
    if not isinstance(frame.columns, pd.MultiIndex):
        return np.zeros(frame.shape[1], bool)
    found: NDArray[np.bool_] = np.asarray(frame.columns.get_level_values(0) == "label")
    return found


def constant_columns(frame: pd.DataFrame) -> NDArray[np.bool_]:
    return np.array([frame.iloc[:, i].nunique() <= 1 for i in range(frame.shape[1])], bool)


def column_name(column: object) -> str:
    return str(column[-1]) if isinstance(column, tuple) else str(column)
