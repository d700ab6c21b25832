"""Base classes of models."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from rollforge.pickling import Serializable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BaseModel", "Model", "ModelFT", "Reweighter"]


class BaseModel(Serializable, abc.ABC):
    """Base class of everything that predicts."""

    @abc.abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return predictions."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return :meth:`predict`."""
        return self.predict(*args, **kwargs)


class Model(BaseModel):
    """Base class of models that are fitted on the train segment of a dataset and predict other segments."""

    def fit(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Fit the model."""
        raise NotImplementedError(f"{type(self).__name__} must implement fit().")

    @abc.abstractmethod
    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series | pd.DataFrame:
        """Return the scores of a segment, index (datetime, instrument): a series, or a frame of several outputs."""


class ModelFT(Model):
    """Base class of models that support incremental training."""

    @abc.abstractmethod
    def finetune(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Train the fitted model further."""


class Reweighter(abc.ABC):
    """Base class of reweighters, which assign a weight to each sample."""

    @abc.abstractmethod
    def reweight(self, data: object) -> Any:
        """Return a weight for each row of `data`, a frame with features and labels."""
