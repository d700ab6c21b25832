"""Models whose class, or an argument of theirs, is defined in a notebook or script."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd

from rollforge.code_marks import code_mark
from rollforge.models.base import Model, Reweighter
from rollforge.models.sklearn import keep_object, kept_estimator
from rollforge.task import Definition

__all__ = ["KeptModel"]


class KeptModel(Model):
    """A model that :func:`keep_model` has written to a file. This runs the code in the file.

    Parameters
    ----------
    file, mark : str
        The file, and the hash of its contents.

    Raises
    ------
    CodeNotAllowed
        If the task was not submitted by this user's own program.
    ConfigError
        If the file is missing or has changed.
    """

    def __init__(self, file: str, mark: str) -> None:
        self.model: Any = kept_estimator(file, mark)

    def fit(self, dataset: Any, reweighter: Reweighter | None = None, **kwargs: Any) -> None:
        """Fit the model."""
        if reweighter is not None:
            kwargs["reweighter"] = reweighter
        self.model.fit(dataset, **kwargs)

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series | pd.DataFrame:
        """Return what the model predicts for a segment."""
        predicted: pd.Series | pd.DataFrame = self.model.predict(dataset, segment)
        return predicted


def keep_model(model: Model, folder: Path) -> Definition:
    """Return the description of a model that has no other, because its class is not in a module.

    The model and the code of its class are written into a file that only tasks submitted by this user's own program may
    read. A model with the same code and the same attributes has the same file, in other processes too.

    Parameters
    ----------
    model : Model
        An unfitted model.
    folder : path
        An existing folder for the file.
    """
    copied = copy.deepcopy(model)
    kwargs = keep_object(copied, code_mark(type(copied), vars(copied), opaque=True), folder)
    return {"class": "KeptModel", "module_path": "rollforge.models.kept", "kwargs": kwargs}
