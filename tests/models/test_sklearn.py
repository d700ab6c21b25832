"""Estimators with scikit-learn's interface as models of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from rollforge.errors import CodeNotAllowed, ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models import SklearnModel, describe_estimator
from rollforge.models.base import Reweighter
from rollforge.models.sklearn import keep_estimator, kept_estimator
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
    """Also inside a pipeline; LightGBM would otherwise use all cores."""
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
    """The error says which there are."""
    for label, said in ((lambda f: f["x"] * 0, "1 class"), (lambda f: np.sign(f["x"]) * (f["z"] > 0), "3 classes")):
        with pytest.raises(ModelError, match=f"{said}|one class|1 class"):
            SklearnModel(LogisticRegression()).fit(dataset(label))
    model = SklearnModel(LogisticRegression())
    data = dataset(lambda f: (f["x"] > 0).astype(float))
    model.fit(data)
    assert model.predict(data).between(0, 1).all()


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
