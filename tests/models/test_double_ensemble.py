"""DoubleEnsemble: weights of samples, selection of features, and the average of the models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models import DEnsembleModel, LGBModel

SEGMENTS = {
    "train": ("2022-01-03", "2022-03-25"),
    "valid": ("2022-03-28", "2022-04-15"),
    "test": ("2022-04-18", "2022-05-20"),
}


@pytest.fixture(scope="module")
def data() -> DatasetH:
    """Ten instruments, a hundred days, ten features, of which the label depends on the first two."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2022-01-03", periods=100), list("ABCDEFGHIJ")], names=["datetime", "instrument"]
    )
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(len(index), 10)), index, [f"f{i}" for i in range(10)])
    label = (features["f0"] - features["f1"] + 0.1 * rng.normal(size=len(index))).to_frame("y")
    return DatasetH(DataHandlerLP.from_df(pd.concat({"feature": features, "label": label}, axis=1)), SEGMENTS)


def fitted(data: DatasetH, **kwargs: Any) -> DEnsembleModel:
    model = DEnsembleModel(**{"num_models": 3, "epochs": 12, "learning_rate": 0.3, "num_leaves": 6, **kwargs})
    model.fit(data)
    return model


def test_one_model_is_lightgbm(data: DatasetH) -> None:
    """Without a second model, nothing is reweighted or selected."""
    alone = LGBModel(num_boost_round=12, early_stopping_rounds=0, learning_rate=0.3, num_leaves=6, seed=0)
    alone.fit(data)
    pd.testing.assert_series_equal(fitted(data, num_models=1).predict(data), alone.predict(data))


def test_without_reweighting_and_selection_all_models_are_equal(data: DatasetH) -> None:
    """Then the average is the prediction of one of them, whatever their weights."""
    plain = fitted(data, num_models=1).predict(data)
    same = fitted(data, enable_sr=False, enable_fs=False, sub_weights=[1, 0.2, 3])
    np.testing.assert_allclose(same.predict(data), plain, rtol=1e-12)


def test_features_that_contribute_are_kept_more_often(data: DatasetH) -> None:
    """The best bin is kept whole with a ratio of 1, and a ratio of 0 removes the features of the other bins."""
    model = fitted(data, enable_sr=False, sample_ratios=[1, 0, 0], bins_fs=3, num_models=2)
    assert model.sub_features[0] == [f"f{i}" for i in range(10)]
    assert set(model.sub_features[1]) in ({"f0"}, {"f1"}, {"f0", "f1"})
    assert model.get_feature_importance().index[:2].isin(["f0", "f1"]).all()


def test_weights_follow_the_formula() -> None:
    """Ranks of the loss and of its change, bins of equal width, and one weight for each bin."""
    model = DEnsembleModel(alpha1=1.0, alpha2=2.0, bins_sr=2, decay=0.5)
    first, last, losses = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.1, 0.2, 0.3, 0.4]), np.array([4.0, 3.0, 2.0, 1.0])
    ease = 1.0 * np.array([0.25, 0.5, 0.75, 1.0]) + 2.0 * np.array([0.25, 0.5, 0.75, 1.0])
    low, high = ease[:2].mean(), ease[2:].mean()
    expected = 1 / (0.5**3 * np.array([low, low, high, high]) + 0.1)
    np.testing.assert_allclose(model._sample_weights(first, last, losses, 3), expected)
    weaker = DEnsembleModel(bins_sr=2)._sample_weights(first, last, losses, 3)
    assert weaker[0] / weaker[3] > expected[0] / expected[3]  # without decay, weights differ more


def test_invalid_arguments_are_errors() -> None:
    """Invalid arguments are found when the model is built."""
    with pytest.raises(ModelError, match="base_model must be 'gbm'"):
        DEnsembleModel(base_model="mlp")
    with pytest.raises(ModelError, match="loss must be 'mse'"):
        DEnsembleModel(loss="binary")
    for kwargs, message in [
        ({"num_models": 0}, "num_models"),
        ({"sample_ratios": [0.5]}, "sample_ratios.*must have 5 values"),
        ({"sample_ratios": [0.5, 0.5, 0.5, 0.5, 1.5]}, "sample_ratios.*at most 1"),
        ({"num_models": 2, "sub_weights": [0, 0]}, "sub_weights.*not all be 0"),
        ({"decay": float("nan")}, "decay"),
        ({"enable_fs": "no"}, "enable_fs"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DEnsembleModel(**kwargs)
