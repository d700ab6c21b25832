"""What a place of a definition asks for is known of a class before it is called."""

from __future__ import annotations

from typing import Any

import pytest

from rollforge.kinds import MODEL
from rollforge.models import LGBModel, LinearModel


class OfTables:
    """An estimator in the way of scikit-learn, which is fitted on a table and a column."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> None: ...  # noqa: N803

    def predict(self, X: Any) -> None: ...  # noqa: N803


class OfDatasets:
    """A model of a user's own."""

    def fit(self, dataset: Any, reweighter: Any, *, verbose: bool = False, **rest: Any) -> None: ...

    def predict(self, dataset: Any, segment: Any) -> None: ...


class OfAnything:
    """A model whose methods tell nothing of what they take."""

    def fit(self, *args: Any) -> None: ...

    def predict(self, *args: Any) -> None: ...


def test_a_model_is_fitted_on_a_dataset_alone() -> None:
    """An estimator of tables is refused when the task is planned, and not in each window's training."""
    assert MODEL.lacks(OfTables) == "its fit() needs X, y, but is called with only a dataset"


@pytest.mark.parametrize("model", [OfDatasets, OfAnything, LGBModel, LinearModel])
def test_what_takes_a_dataset_is_a_model(model: type) -> None:
    """Optional arguments, a reweighter, and methods that take anything are no obstacle."""
    assert MODEL.lacks(model) == ""
