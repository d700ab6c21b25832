"""The interface that a definition requires of a class is checked before the class is called."""

from __future__ import annotations

from typing import Any

import pytest

from rollforge.kinds import MODEL
from rollforge.models import LGBModel, LinearModel


class Estimator:
    """An estimator as in scikit-learn, which is fitted to X and y."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> None: ...  # noqa: N803

    def predict(self, X: Any) -> None: ...  # noqa: N803


class DatasetModel:
    """A user's model."""

    def fit(self, dataset: Any, reweighter: Any, *, verbose: bool = False, **rest: Any) -> None: ...

    def predict(self, dataset: Any, segment: Any) -> None: ...


class AnyModel:
    """A model whose methods take arbitrary arguments."""

    def fit(self, *args: Any) -> None: ...

    def predict(self, *args: Any) -> None: ...


def test_a_model_must_accept_only_a_dataset() -> None:
    """An estimator that needs X and y is refused when the task is planned, and not in the training of each window."""
    assert MODEL.lacks(Estimator) == "its fit() needs X, y, but is called with only a dataset"


@pytest.mark.parametrize("model", [DatasetModel, AnyModel, LGBModel, LinearModel])
def test_a_class_that_accepts_a_dataset_is_a_model(model: type) -> None:
    """Optional arguments, a reweighter, and methods with arbitrary arguments are accepted."""
    assert MODEL.lacks(model) == ""
