"""A trivial model, for measuring the overhead around a model."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rollforge.features.dataset import Dataset
from rollforge.models.base import Model, Reweighter

__all__ = ["ConstantModel", "EmptyDataset"]


class EmptyDataset(Dataset):
    """A dataset with one row per segment, which needs no data folder."""

    def __init__(self, segments: Mapping[str, object] | None = None) -> None:
        self.segments = dict(segments or {"train": (None, None), "test": (None, None)})

    def prepare(self, *args: object, **kwargs: object) -> pd.DataFrame:
        """Return a frame with one row."""
        return _one_row().copy()


@functools.cache
def _one_row() -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays([pd.DatetimeIndex(["2000-01-03"]), ["NONE"]], names=["datetime", "instrument"])
    return pd.DataFrame({"x": np.zeros(1, np.float32)}, index=index)


class ConstantModel(Model):
    """Predicts a constant score.

    Parameters
    ----------
    value : float
        The score.
    """

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def fit(self, dataset: Dataset, reweighter: Reweighter | None = None) -> None:
        """Do nothing."""

    def predict(self, dataset: Dataset, segment: str | slice = "test") -> pd.Series:
        """Return the constant for each row of a segment."""
        index = dataset.prepare(segment, col_set="feature").index
        return pd.Series(self.value, index=index)
