"""Estimators with scikit-learn's interface as models of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from rollforge.build import build
from rollforge.errors import CodeNotAllowed, ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models import LGBModel, LinearModel, SklearnModel, XGBModel, describe_estimator
from rollforge.models.base import Reweighter
from rollforge.models.sklearn import describe_model, keep_estimator, kept_estimator
from rollforge.session import Session, using
from rollforge.trust import Origin, from_origin

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5

SEGMENTS = {"train": ("2022-01-03", "2022-02-11"), "test": ("2022-02-14", "2022-03-11")}
PIPELINE = make_pipeline(SimpleImputer(), MinMaxScaler(feature_range=(-1, 1)), Ridge(alpha=2.0))


def dataset(label: Any = None, labels: int = 1) -> DatasetH:
    """Five instruments, fifty days, two features."""
    days = pd.bdate_range("2022-01-03", periods=50)
    index = pd.MultiIndex.from_product([days, list("ABCDE")], names=["datetime", "instrument"])
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(len(index), 2)), index, ["x", "z"])
    made = [features["x"] + rng.normal(size=len(index)) if label is None else label(features) for _ in range(labels)]
    parts = {"feature": features, "label": pd.concat(made, axis=1, keys=[f"y{i}" for i in range(labels)])}
    return DatasetH(DataHandlerLP.from_df(pd.concat(parts, axis=1)), SEGMENTS)


def test_it_predicts_what_the_estimator_predicts() -> None:
    """Fitted on the frame of the train segment, whatever the estimator."""
    data = dataset()
    train, test = data.prepare(["train", "test"], col_set=["feature", "label"], data_key="learn")
    for estimator in (Ridge(), PIPELINE, KNeighborsRegressor(3), LGBMRegressor(n_estimators=3, verbose=-1)):
        model = SklearnModel(estimator)
        model.fit(data)
        expected = estimator.fit(train["feature"], train["label"]["y0"]).predict(test["feature"])
        np.testing.assert_array_equal(model.predict(data).to_numpy(), expected)
        assert model.predict(data).index.equals(test.index)


def test_the_given_estimator_is_not_fitted() -> None:
    """A copy is, so one estimator serves many windows."""
    estimator = Ridge()
    SklearnModel(estimator).fit(dataset())
    assert not hasattr(estimator, "coef_")


class Doubled(Reweighter):
    def reweight(self, data: pd.DataFrame) -> pd.Series:
        return pd.Series(np.where(data["feature"]["x"] > 0, 2.0, 0.0), data.index)


def test_a_reweighter_gives_the_weights() -> None:
    """A weight of 0 excludes a row."""
    data = dataset()
    train = data.prepare("train", col_set=["feature", "label"], data_key="learn")
    kept = train[train["feature"]["x"] > 0]
    model = SklearnModel(LinearRegression())
    model.fit(data, reweighter=Doubled())
    expected = LinearRegression().fit(kept["feature"], kept["label"]["y0"])
    np.testing.assert_allclose(model.estimator.coef_, expected.coef_, rtol=1e-10)
    with pytest.raises(ModelError, match="KNeighborsRegressor does not support weights"):
        SklearnModel(KNeighborsRegressor()).fit(data, reweighter=Doubled())


def test_estimators_use_the_threads_of_the_session() -> None:
    """Estimators inside a pipeline do too; LightGBM would otherwise use all cores."""
    data = dataset()
    with using(Session(threads=1)):
        for estimator, name in (
            (RandomForestRegressor(2, n_jobs=-1), "n_jobs"),
            (make_pipeline(MinMaxScaler(), RandomForestRegressor(2, n_jobs=8)), "randomforestregressor__n_jobs"),
            (LGBMRegressor(n_estimators=2, verbose=-1), "n_jobs"),
        ):
            model = SklearnModel(estimator)
            model.fit(data)
            assert model.estimator.get_params()[name] == 1
        forest = SklearnModel(RandomForestRegressor(2))
        forest.fit(data)
        assert forest.estimator.n_jobs is None


def test_several_labels_are_several_columns() -> None:
    model = SklearnModel(Ridge())
    data = dataset(labels=3)
    model.fit(data)
    assert list(model.predict(data)) == ["y0", "y1", "y2"]


def test_a_classifier_needs_two_classes() -> None:
    """The error names the only one; a class that was not announced is an error too."""
    with pytest.raises(ModelError, match=r"one class|1 class"):
        SklearnModel(LogisticRegression()).fit(dataset(lambda f: f["x"] * 0))
    with pytest.raises(ModelError, match=r"all labels of the train segment are of one class: \[.*0"):
        SklearnModel(DummyClassifier()).fit(dataset(lambda f: f["x"] * 0))
    three = dataset(lambda f: np.sign(f["x"]) * (f["z"] > 0))
    with pytest.raises(ModelError, match=r"has the class .*1.*, which is not among"):
        SklearnModel(LogisticRegression(), classes=[-1, 0]).fit(three)
    model = SklearnModel(LogisticRegression())
    data = dataset(lambda f: (f["x"] > 0).astype(float))
    model.fit(data)
    assert model.predict(data).between(0, 1).all()


def test_a_classifier_of_several_classes_predicts_a_score_and_each_class() -> None:
    """The score is the mean of the classes; a class that the train segment lacks has probability 0."""
    data = dataset(lambda f: np.sign(f["x"]) * (f["z"] > 0))
    model = SklearnModel(LogisticRegression(), classes=[-1.0, 0.0, 1.0, 2.0])
    model.fit(data)
    found = model.predict(data)
    train, test = data.prepare(["train", "test"], col_set=["feature", "label"], data_key="learn")
    expected = LogisticRegression().fit(train["feature"], train["label"]["y0"]).predict_proba(test["feature"])
    assert list(found) == ["score", "class -1.0", "class 0.0", "class 1.0", "class 2.0"]
    np.testing.assert_array_equal(found.iloc[:, 1:4], expected)
    assert (found["class 2.0"] == 0).all()
    np.testing.assert_allclose(found["score"], expected[:, 2] - expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        LGBModel(loss="binary", num_boost_round=7, num_leaves=5),
        LinearModel(),
        XGBModel(max_depth=3),
        SklearnModel(Ridge(alpha=2.0), weight_group="weight"),
        SklearnModel(LogisticRegression(), classes=[0, 1, 2]),
    ],
    ids=lambda m: type(m).__name__,
)
def test_the_description_of_a_model_builds_an_equal_one(model: Any) -> None:
    config = describe_model(model)
    built = build(config)
    assert type(built) is type(model)
    assert repr(vars(built)) == repr(vars(model))


def test_errors_of_an_estimator_name_the_features_with_missing_values() -> None:
    data = dataset()
    with pytest.raises(ModelError, match="not fitted yet"):
        SklearnModel(Ridge()).predict(data)
    frame = data.handler.fetch(data_key="raw", col_set="__raw").copy()
    frame.loc[frame.index[3], ("feature", "z")] = np.nan
    lacking = DatasetH(DataHandlerLP.from_df(frame), SEGMENTS)
    with pytest.raises(ModelError, match=r"Ridge cannot be fitted, and values are missing in 'z' \(SimpleImputer"):
        SklearnModel(Ridge()).fit(lacking)
    SklearnModel(PIPELINE).fit(lacking)


@pytest.mark.parametrize("estimator", [Ridge, object(), "Ridge", {"class": "dict", "module_path": "builtins"}])
def test_an_object_that_is_not_an_estimator_is_refused(estimator: object) -> None:
    with pytest.raises(ConfigError):
        SklearnModel(estimator)


def test_kept_code_runs_only_for_the_users_own_tasks(tmp_path: Path) -> None:
    """A task of a pool that others write to cannot name such a file; a changed file is refused."""
    config = keep_estimator(Ridge(alpha=3.0), tmp_path)
    assert kept_estimator(**config["kwargs"]).alpha == 3.0
    with from_origin(Origin.POOL), pytest.raises(CodeNotAllowed, match="put its class into a module"):
        kept_estimator(**config["kwargs"])
    Path(config["kwargs"]["file"]).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="has changed since the task was submitted"):
        kept_estimator(**config["kwargs"])


def test_the_description_of_an_estimator_builds_an_equal_one() -> None:
    """Pipelines, nested estimators, functions of modules, tuples."""
    nested = TransformedTargetRegressor(PIPELINE, func=np.linalg.norm.__wrapped__, check_inverse=False)
    built = SklearnModel(describe_estimator(nested)).estimator
    assert repr(built) == repr(nested)
    assert built.regressor.steps[1][1].feature_range == (-1, 1)
    assert describe_estimator(LGBMClassifier(n_estimators=7))["kwargs"] == {"n_estimators": 7}
