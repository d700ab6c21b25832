"""An empty model and an empty dataset for pyqlib."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd
from qlib.data.dataset import Dataset
from qlib.model.base import Model


class NoData(Dataset):  # type: ignore[misc]
    """A dataset with one row."""

    def prepare(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the row."""
        return _one_row().copy()


@functools.cache
def _one_row() -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays([pd.DatetimeIndex(["2000-01-03"]), ["NONE"]], names=["datetime", "instrument"])
    return pd.DataFrame({"x": [0.0]}, index=index)


class Nothing(Model):  # type: ignore[misc]
    """Predicts zero."""

    def fit(self, dataset: Dataset, reweighter: Any = None) -> None:
        """Do nothing."""

    def predict(self, dataset: Dataset, segment: Any = "test") -> pd.Series:
        """Return zero."""
        return pd.Series(0.0, index=dataset.prepare(segment).index)
