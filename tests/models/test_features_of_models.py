"""Features of unusual types, and features that a model cannot use: numbers are used, others are an error with the cause."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor

from rollforge.errors import ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDatasetH
from rollforge.models import (
    CatBoostModel,
    DEnsembleModel,
    LGBModel,
    LinearModel,
    SklearnModel,
    TunedModel,
    XGBModel,
    boosting,
)
from rollforge.models.samples import prediction_features
from rollforge.models.torch_models import DNNModelPytorch
from rollforge.models.torch_tabnet import TabnetModel

SEGMENTS = {"train": ("2020-01-01", "2020-01-20"), "test": ("2020-01-21", "2020-01-25")}
NEEDS = {CatBoostModel: "catboost", DNNModelPytorch: "torch"}


def make_frame(names: tuple[str, str] = ("a", "b")) -> pd.DataFrame:
    numbers = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", "2020-01-25"), ["A", "B", "C", "D"]], names=["datetime", "instrument"]
    )
    columns = pd.MultiIndex.from_tuples([("feature", names[0]), ("feature", names[1]), ("label", "y")])
    return pd.DataFrame(numbers.standard_normal((len(index), 3)), index, columns)


def dataset(frame: pd.DataFrame) -> DatasetH:
    return DatasetH(DataHandlerLP.from_df(frame), SEGMENTS)


def make_model(kind: type) -> Any:
    """Return a model, or skip the test if its library is not installed."""
    needed = NEEDS.get(kind)
    if needed is not None and find_spec(needed) is None:
        pytest.skip(f"no {needed}: pip install 'rollforge[{needed}]'")
    if kind is SklearnModel:
        return SklearnModel(RandomForestRegressor(n_estimators=2, random_state=0))
    if kind is DNNModelPytorch:
        return DNNModelPytorch(max_steps=4, eval_steps=2, batch_size=16, pt_model_kwargs={"input_dim": 2}, GPU=-1)
    return kind()


@pytest.mark.parametrize("kind", [DNNModelPytorch, SklearnModel])
@pytest.mark.parametrize("dtype", ["bool", "Float64", "double[pyarrow]"])
def test_numbers_of_other_types_are_used(kind: type, dtype: str) -> None:
    """The prediction is that on the same numbers."""
    frame = make_frame()
    frame[("feature", "b")] = (frame[("feature", "b")] > 0) * 1.0
    expected = make_model(kind)
    expected.fit(dataset(frame))
    data = dataset(frame.astype({("feature", "b"): dtype}))
    model = make_model(kind)
    model.fit(data)
    np.testing.assert_allclose(model.predict(data), expected.predict(dataset(frame)), rtol=1e-6)


def test_features_of_one_numeric_type_are_not_copied() -> None:
    """Only other types are converted."""
    frame = make_frame()["feature"]

    class Given:
        def prepare(self, *args: object, **kwargs: object) -> pd.DataFrame:
            return frame

    assert prediction_features(Given(), model="M") is frame  # type: ignore[arg-type]
    frame = frame > 0
    assert set(prediction_features(Given(), model="M").dtypes) == {np.dtype(np.float32)}  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [LGBModel, LinearModel, XGBModel, CatBoostModel, SklearnModel, DEnsembleModel])
def test_models_of_rows_refuse_samples_of_several_days(kind: type) -> None:
    """The error says so, instead of one about the type of what the dataset returns."""
    data = TSDatasetH(step_len=2, handler=DataHandlerLP.from_df(make_frame()), segments=SEGMENTS)
    with pytest.raises(
        ModelError, match=r"needs rows, but a segment of TSDatasetH is a TSDataSampler\. Use DatasetH\."
    ):
        make_model(kind).fit(data)


@pytest.mark.parametrize(
    ("kind", "names", "factor", "cause"),
    [
        (XGBModel, ("a", "a"), 1.0, "There are several features called 'a'"),
        (XGBModel, ("a", "b"), 1e200, "'b' has values beyond the range of float32"),
        (CatBoostModel, ("a", "a"), 1.0, "There are several features called 'a'"),
        (LinearModel, ("a", "b"), 1e200, r"LinearModel cannot be fitted: .*\. The largest feature is 'b' with \d"),
    ],
)
def test_unusable_features_are_an_error_with_the_cause(
    kind: type, names: tuple[str, str], factor: float, cause: str
) -> None:
    """The error names the feature."""
    frame = make_frame(names)
    frame.iloc[:, 1] *= factor
    with pytest.raises(ModelError, match=cause):
        make_model(kind).fit(dataset(frame))


@pytest.mark.parametrize(
    ("kind", "params", "known", "hint"),
    [
        (LGBModel, {"num_leafs": 4}, {"n_estimators": 2, "max_leaf": 4, "lambda": 1, "num_threads": 1}, "num_leaf"),
        (DEnsembleModel, {"num_leafs": 4}, {"num_models": 1, "epochs": 2, "eta": 0.3}, "num_leaf"),
        (XGBModel, {"max_dept": 3}, {"eta": 0.3, "lambda": 1, "max_leaves": 3, "n_jobs": 1}, "max_depth"),
    ],
)
def test_parameters_that_a_library_ignores_are_reported_once(
    kind: type, params: dict[str, Any], known: dict[str, Any], hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Other names of a parameter are known; a search for one that is not is an error."""
    assert kind(**known).unused_parameters() == {}
    assert kind(**known, **params).unused_parameters().keys() == params.keys()
    reported = {(kind, name) for name in params}
    boosting._WARNED.difference_update(reported)
    for _ in range(2):
        kind(**known, **params).fit(dataset(make_frame()))
    warned = [one.getMessage() for one in caplog.records if "ignores the parameter" in one.getMessage()]
    assert len(warned) == 1
    assert f"Did you mean '{hint}" in warned[0]
    if find_spec("optuna") is not None:
        (name,) = params
        described = {"class": kind.__name__, "module_path": "rollforge.models"}
        frame = make_frame()
        data = DatasetH(DataHandlerLP.from_df(frame), {**SEGMENTS, "valid": SEGMENTS["test"]})
        with pytest.raises(ConfigError, match=rf"^space\.{name}: the library of {kind.__name__} ignores it\. Did you"):
            TunedModel(described, {name: [3]}, n_trials=1).fit(data)


def test_a_ridge_without_finite_weights_is_an_error() -> None:
    """Without the error, the model would predict missing values only."""
    frame = make_frame()
    frame.iloc[:, 1] *= 1e200
    with pytest.raises(ModelError, match="its weights are not finite"):
        LinearModel("ridge", alpha=1.0).fit(dataset(frame))


def test_names_that_xgboost_cannot_distinguish_are_an_error() -> None:
    """XGBoost accepts no brackets, so they are replaced."""
    with pytest.raises(ModelError, match="XGBModel cannot use the features"):
        XGBModel().fit(dataset(make_frame(("a[", "a("))))


@pytest.mark.skipif(find_spec("skorch") is None, reason="PyTorch is not installed: make .venv/torch")
def test_tabnet_says_that_its_training_diverges() -> None:
    """The masks of features of 1e30 are not finite."""
    frame = make_frame()
    frame.iloc[:, 1] *= 1e30
    sizes = {"d_feat": 2, "out_dim": 4, "n_d": 4, "n_a": 4, "n_steps": 2, "n_shared": 1, "n_ind": 1}
    model = TabnetModel(**sizes, n_epochs=3, pretrain_n_epochs=2, batch_size=16, GPU=-1, checkpoint_seconds=None)
    with pytest.raises(ModelError, match="The loss of TabnetModel is not finite"):
        model.fit(dataset(frame))


KINDS = [LGBModel, DEnsembleModel, XGBModel, CatBoostModel, LinearModel, SklearnModel, DNNModelPytorch]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b", "a"], "feature 1 is 'b'; in the training it was 'a'"),
        (["a", "c"], "feature 2 is 'c'; in the training it was 'b'"),
        (["a"], "feature 2 is missing; in the training it was 'b'"),
        (["a", "b", "c"], "feature 3 is 'c'; in the training there were 2 features"),
    ],
)
def test_features_other_than_those_of_the_training_are_refused(kind: type, names: list[str], message: str) -> None:
    """Libraries use features by position, so that others, or another order, would give other scores."""
    frame = make_frame()
    model = make_model(kind)
    model.fit(dataset(frame))
    given = {("feature", name): frame[("feature", name)] if name in "ab" else frame[("label", "y")] for name in names}
    other = pd.concat({**given, ("label", "y"): frame[("label", "y")]}, axis=1)
    pattern = "feature" if kind is SklearnModel else message  # scikit-learn has a check of its own
    with pytest.raises(ModelError, match=pattern):
        model.predict(dataset(other))
    model.predict(dataset(frame))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_model_knows_its_features(kind: type) -> None:
    frame = make_frame(("x[1]<2", "y{0}"))
    model = make_model(kind)
    model.fit(dataset(frame))
    copied = pickle.loads(pickle.dumps(model))
    pd.testing.assert_series_equal(copied.predict(dataset(frame)), model.predict(dataset(frame)))
    with pytest.raises(ModelError):
        copied.predict(dataset(make_frame()))


def test_a_model_is_trained_further_on_the_same_features() -> None:
    """An error of the library is a ModelError, too."""
    frame = make_frame()
    model = LGBModel(num_boost_round=3)
    model.fit(dataset(frame))
    with pytest.raises(ModelError, match="feature 1 is 'b'; in the training it was 'a'"):
        model.finetune(dataset(make_frame(("b", "a"))))
    assert model.feature_names == ["a", "b"]
    forest = LGBModel(num_boost_round=3, boosting="rf", bagging_freq=1, bagging_fraction=0.5)
    forest.fit(dataset(frame))
    with pytest.raises(ModelError, match="LightGBM reports"):
        forest.finetune(dataset(frame))


def test_several_features_of_one_name() -> None:
    """A model that selects features by name refuses them; others use them by position."""
    data = dataset(make_frame(("a", "a")))
    with pytest.raises(ModelError, match="several are called 'a'"):
        DEnsembleModel(epochs=2).fit(data)
    for model in (LGBModel(num_boost_round=3), LinearModel()):
        model.fit(data)
        assert model.predict(data).notna().all()


def test_a_feature_without_a_name() -> None:
    """CatBoost numbers it, and predicts on the data of its training."""
    data = dataset(make_frame(("", "b")))
    model = make_model(CatBoostModel)
    model.fit(data)
    assert model.predict(data).notna().all()
