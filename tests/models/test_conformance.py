"""Every model passes the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from rollforge.models import LGBModel, LinearModel, SklearnModel, XGBModel
from rollforge.testing.model import ModelSuite

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5


class TestLGBModel(ModelSuite):
    def make_model(self) -> Any:
        return LGBModel(num_boost_round=20, learning_rate=0.3, num_leaves=8, num_threads=20)


class TestXGBModel(ModelSuite):
    importance: ClassVar[Mapping[str, Any]] = {"importance_type": "total_gain"}

    def make_model(self) -> Any:
        return XGBModel(max_depth=3, eta=0.5, nthread=20)


class TestLinearModel(ModelSuite):
    uses_valid: ClassVar[bool] = False
    missing_features: ClassVar[str] = "excluded"

    def make_model(self) -> Any:
        return LinearModel(fit_intercept=True)


class TestRidge(TestLinearModel):
    def make_model(self) -> Any:
        return LinearModel("ridge", alpha=0.1)


class TestLasso(TestLinearModel):
    def make_model(self) -> Any:
        return LinearModel("lasso", alpha=0.01)


class TestNNLS(TestLinearModel):
    weights: ClassVar[bool] = False
    least_correlation: ClassVar[float] = 0.4  # without the feature whose weight is negative

    def make_model(self) -> Any:
        return LinearModel("nnls")


class TestSklearnModel(ModelSuite):
    """A pipeline."""

    missing_features: ClassVar[str] = "refused"
    several_labels: ClassVar[bool] = True
    trusted: ClassVar[bool | None] = True
    uses_valid: ClassVar[bool] = False

    def make_model(self) -> Any:
        steps = [
            ("scale", {"class": "StandardScaler", "module_path": "sklearn.preprocessing"}),
            ("ridge", {"class": "Ridge", "module_path": "sklearn.linear_model"}),
        ]
        return SklearnModel({"class": "Pipeline", "module_path": "sklearn.pipeline", "kwargs": {"steps": steps}})


class TestHistGradientBoosting(ModelSuite):
    trusted: ClassVar[bool | None] = True
    uses_valid: ClassVar[bool] = False

    def make_model(self) -> Any:
        return SklearnModel(
            {
                "class": "HistGradientBoostingRegressor",
                "module_path": "sklearn.ensemble",
                "kwargs": {"max_iter": 20, "learning_rate": 0.3, "random_state": 0},
            }
        )
