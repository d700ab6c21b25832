"""Samples of several datasets, and feature importance, as in ``qlib.model``."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["ConcatDataset", "FeatureInt", "IndexSampler", "LightGBMFInt"]


class FeatureInt:
    """Interface of models with feature importance."""

    def get_feature_importance(self) -> pd.Series:
        """Return the importance of each feature."""
        raise NotImplementedError


class LightGBMFInt(FeatureInt):
    """Feature importance of a model with a LightGBM booster in ``model``."""

    model: Any = None

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each feature, largest first."""
        values = self.model.feature_importance(*args, **kwargs)
        return pd.Series(values, index=self.model.feature_name()).sort_values(ascending=False)


class ConcatDataset:
    """Several datasets in parallel."""

    def __init__(self, *datasets: Any) -> None:
        self.datasets = datasets

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return tuple(d[i] for d in self.datasets)

    def __len__(self) -> int:
        return min(len(d) for d in self.datasets)


class IndexSampler:
    """A sampler that returns samples with their position."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.sampler[i], i

    def __len__(self) -> int:
        return len(self.sampler)
