"""What a model is."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ModelError
from rollforge.serial import Serializable

__all__ = ["BaseModel", "Model", "ModelFT", "Reweighter", "single_label"]


class BaseModel(Serializable, abc.ABC):
    """Predicts."""

    @abc.abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return predictions."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return :meth:`predict`."""
        return self.predict(*args, **kwargs)


class Model(BaseModel):
    """Is fitted on a dataset's train segment and predicts another."""

    def fit(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Fit the model."""
        raise NotImplementedError(f"{type(self).__name__} must say how it is fitted.")

    @abc.abstractmethod
    def predict(self, dataset: Any, segment: str | slice = "test") -> Any:
        """Return a series of scores, index (datetime, instrument), for a segment."""


class ModelFT(Model):
    """A model that can be trained on from where it is."""

    @abc.abstractmethod
    def finetune(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Train the fitted model further."""


class Reweighter(abc.ABC):
    """Gives each sample a weight."""

    @abc.abstractmethod
    def reweight(self, data: Any) -> Any:
        """Return a weight for each row of `data`, a frame with features and labels."""


def single_label(frame: pd.DataFrame, model: str, segment: str) -> NDArray[np.float32]:
    """Return the one label of a segment as a vector.

    Raises
    ------
    ModelError
        When there are several labels, or all of them are missing.
    """
    values = frame.to_numpy()
    if values.shape[1] != 1:
        raise ModelError(
            f"{model} takes one label, the dataset has {values.shape[1]}: {', '.join(map(str, frame.columns))}."
        )
    vector: NDArray[np.float32] = np.ascontiguousarray(values[:, 0])
    if np.isnan(vector).all():
        raise ModelError(f"All labels of the {segment!r} segment are missing.")
    return vector
