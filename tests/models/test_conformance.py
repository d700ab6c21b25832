"""Every model passes the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from rollforge.models import CatBoostModel, DEnsembleModel, HFLGBModel, LGBModel, LinearModel, SklearnModel, XGBModel
from rollforge.testing.model import ModelSuite

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5


class TestLGBModel(ModelSuite):
    def make_model(self) -> Any:
        return LGBModel(num_boost_round=20, learning_rate=0.3, num_leaves=8, num_threads=20)


class TestHFLGBModel(ModelSuite):
    def make_model(self) -> Any:
        return HFLGBModel(objective="binary", num_boost_round=20, learning_rate=0.3, num_leaves=8, num_threads=20)


class TestXGBModel(ModelSuite):
    importance: ClassVar[Mapping[str, Any]] = {"importance_type": "total_gain"}

    def make_model(self) -> Any:
        return XGBModel(max_depth=3, eta=0.5, nthread=20)


class TestCatBoostModel(ModelSuite):
    library_threads: ClassVar[int] = 1

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("catboost", reason="no catboost: pip install 'rollforge[catboost]'")

    def make_model(self) -> Any:
        return CatBoostModel(iterations=30, learning_rate=0.3, max_depth=3, thread_count=20)


class TestCatBoostModelWithLeaves(TestCatBoostModel):
    """Trees whose leaves have different depths, which CatBoost stores in another way."""

    def make_model(self) -> Any:
        parameters = {"grow_policy": "Lossguide", "num_leaves": 12, "bootstrap_type": "Poisson", "subsample": 0.9}
        return CatBoostModel(iterations=30, learning_rate=0.3, **parameters)


class TestDEnsembleModel(ModelSuite):
    def make_model(self) -> Any:
        return DEnsembleModel(
            num_models=3,
            decay=0.5,
            epochs=15,
            sub_weights=[1, 0.5, 0.5],
            learning_rate=0.3,
            num_leaves=8,
            num_threads=20,
        )


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
