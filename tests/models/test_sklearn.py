"""Estimators with scikit-learn's interface as models of a task."""

from __future__ import annotations

import pickle
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import check_array

from rollforge.build import build
from rollforge.errors import CodeNotAllowed, ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.models import LGBModel, LinearModel, SklearnModel, XGBModel, describe_estimator
from rollforge.models.base import Model, Reweighter
from rollforge.models.kept import KeptModel, keep_model
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


def requesting(estimator: Any, **methods: bool) -> Any:
    """Return an estimator that requests weights, or says that it does not want them, by method."""
    with config_context(enable_metadata_routing=True):
        for name, wanted in methods.items():
            getattr(estimator, f"set_{name}_request")(sample_weight=wanted)
    return estimator


def test_weights_reach_the_steps_that_request_them() -> None:
    """The scaler or the regression, or both; also in the estimator that another process builds from the description."""
    data = dataset()
    train = data.prepare("train", col_set=["feature", "label"], data_key="learn")
    x, y = train["feature"], train["label"]["y0"]
    weight = Doubled().reweight(train).to_numpy()
    found = []
    for of_scaler, of_ridge in ((False, True), (True, False), (True, True)):
        steps = requesting(StandardScaler(), fit=of_scaler), requesting(Ridge(), fit=of_ridge)
        model = SklearnModel(describe_estimator(make_pipeline(*steps)))
        model.fit(data, reweighter=Doubled())
        scaler = StandardScaler().fit(x, sample_weight=weight if of_scaler else None)
        ridge = Ridge().fit(scaler.transform(x), y, weight if of_ridge else None)
        found.append(model.estimator[-1].coef_)
        np.testing.assert_allclose(found[-1], ridge.coef_, rtol=1e-10)
    assert len({coefficients[0] for coefficients in found}) == 3


def test_a_search_weighs_what_requests_weights() -> None:
    """Rows of weight 0 do not count when it chooses, because its scores are weighted too; the description keeps both requests."""
    data = dataset(lambda f: np.where(f["x"] > 0, 1, -1) * f["z"])
    train = data.prepare("train", col_set=["feature", "label"], data_key="learn")
    search = GridSearchCV(requesting(Ridge(), fit=True, score=True), {"alpha": [1.0, 1e4]}, cv=3)
    model = SklearnModel(describe_estimator(search))
    model.fit(data, reweighter=Doubled())
    with config_context(enable_metadata_routing=True):
        x, y = train["feature"], train["label"]["y0"]
        expected = clone(search).fit(x, y, sample_weight=Doubled().reweight(train).to_numpy())
    assert model.estimator.best_params_ == {"alpha": 1.0}
    np.testing.assert_allclose(model.estimator.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert model.estimator.cv_results_["mean_test_score"][0] > 0.9


def test_weights_without_requests() -> None:
    """The estimator of a search, inside of pipelines or not, the parts of an ensemble, and a transformed target receive them."""
    data = dataset()
    train = data.prepare("train", col_set=["feature", "label"], data_key="learn")
    kept = train[train["feature"]["x"] > 0]
    expected = LinearRegression().fit(kept["feature"], kept["label"]["y0"]).coef_
    line, choice = LinearRegression(), {"fit_intercept": [True]}
    inside = GridSearchCV(make_pipeline("passthrough", line), {"linearregression__fit_intercept": [True]}, cv=2)
    for estimator, regression in (
        (GridSearchCV(line, choice, cv=2), lambda e: e.best_estimator_),
        (make_pipeline("passthrough", inside), lambda e: e[-1].best_estimator_[-1]),
        (VotingRegressor([("a", line), ("b", "drop")]), lambda e: e.estimators_[0]),
        (TransformedTargetRegressor(line), lambda e: e.regressor_),
        (TransformedTargetRegressor(), lambda e: e.regressor_),
    ):
        model = SklearnModel(estimator)
        model.fit(data, reweighter=Doubled())
        np.testing.assert_allclose(regression(model.estimator).coef_, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (GridSearchCV(KNeighborsRegressor(), {"n_neighbors": [2]}), "KNeighborsRegressor does not support weights"),
        (make_pipeline(MinMaxScaler(), KNeighborsRegressor()), "KNeighborsRegressor does not support weights"),
        (VotingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())]), "KNeighborsRegressor does not support"),
        (
            make_pipeline(StandardScaler(), requesting(Ridge(), fit=True)),
            "not explicitly set as requested or not requested",
        ),
    ],
)
def test_an_estimator_that_cannot_use_the_weights_is_an_error(estimator: Any, said: str) -> None:
    """The message names the part that takes no weights, or for which nothing is stated while another part requests them."""
    with pytest.raises(ModelError, match=said):
        SklearnModel(estimator).fit(dataset(), reweighter=Doubled())
    SklearnModel(estimator).fit(dataset())


@pytest.mark.parametrize(
    "stated",
    [
        {"set_fit_request": {"weight": True}},
        {"set_fit_request": True},
        {"set_predict_request": {"sample_weight": True}},
    ],
)
def test_a_request_that_an_estimator_does_not_have_is_an_error(stated: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(stated))} of Ridge cannot be called"):
        SklearnModel({"class": "Ridge", "module_path": "sklearn.linear_model", **stated})


class Seen(RandomForestRegressor):
    """A forest that remembers the arrays on which it was fitted and which it predicted."""

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        self.seen = [X.to_numpy()]
        return super().fit(X, y)

    def predict(self, X: Any) -> Any:  # noqa: N803
        self.seen.append(X.to_numpy())
        return super().predict(X)


class SeenLine(LinearRegression):
    """The same of a regression."""

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        self.seen = [X.to_numpy()]
        return super().fit(X, y)

    def predict(self, X: Any) -> Any:  # noqa: N803
        self.seen.append(X.to_numpy())
        return super().predict(X)


@pytest.mark.skipif(
    "force_writeable" not in signature(check_array).parameters, reason="scikit-learn 1.5 cannot share them"
)
def test_trees_are_fitted_on_the_panel_itself(small_market: Path, tmp_path: Path) -> None:
    """In float32 and row by row, as it is stored, also to predict; other estimators get a copy with the columns in a row."""
    fields = ["$close/Ref($close, 1)", "$close/Ref($close, 5)"], ["x", "z"]
    config = {"feature": fields, "label": (["Ref($close, -1)/$close"], ["y"])}
    with using(Session(provider_uri=str(small_market), cache=str(tmp_path))):
        fill = {"class": "Fillna", "kwargs": {"fields_group": "feature"}}
        handler = DataHandlerLP(
            "all", "2022-01-03", "2022-12-30", QlibDataLoader(config), [fill], [{"class": "DropnaLabel"}]
        )
        data = DatasetH(handler, {"train": ("2022-02-01", "2022-06-30"), "test": ("2022-07-01", "2022-10-31")})
        panels = [handler.panel(key).groups["feature"].values for key in (DataHandlerLP.DK_L, DataHandlerLP.DK_I)]
        forest, line = SklearnModel(Seen(3, random_state=0)), SklearnModel(SeenLine())
        for model in (forest, line):
            model.fit(data)
            prediction = model.predict(data).to_numpy()
            seen, asked = model.estimator.seen
            assert seen.dtype == np.float32
            for values, panel in zip((seen, asked), panels, strict=True):
                assert np.shares_memory(values, panel) == (model is forest)
                assert values.flags.c_contiguous if model is forest else values.flags.f_contiguous
            own = type(model.estimator).__mro__[1](**model.estimator.get_params())
            label = data.prepare("train", col_set="label", data_key="learn")["y"].to_numpy()
            expected = own.fit(np.asfortranarray(seen), label).predict(np.asfortranarray(asked))
            np.testing.assert_array_equal(prediction, expected)


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


def test_xgboost_classifies_one_label() -> None:
    """XGBoost would learn the first of several labels only."""
    library = pytest.importorskip("xgboost", reason="not installed: make frames")
    with pytest.raises(ModelError, match="XGBClassifier predicts one label, found 3 labels"):
        SklearnModel(library.XGBClassifier(n_estimators=2)).fit(dataset(lambda f: (f["x"] > 0).astype(float), labels=3))


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


@pytest.mark.parametrize("classes", [[1, 0], [0, 0, 1], [], "abc", ["a", "a"], [0, "a"], 3])
def test_classes_are_text_or_ascending_numbers(classes: Any) -> None:
    """In another order, the probability of the wrong class would be the score."""
    with pytest.raises(ConfigError, match=r"^classes: must be a list of text, or of ascending numbers, found "):
        SklearnModel(LogisticRegression(), classes=classes)
    assert SklearnModel(LogisticRegression(), classes=np.array([0, 1])).classes == [0, 1]
    assert SklearnModel(LogisticRegression(), classes=["b", "a"]).classes == ["b", "a"]


@pytest.mark.parametrize("kind", ["two classes", "three classes", "regressor"])
def test_a_model_saved_by_an_earlier_version_predicts(kind: str) -> None:
    """Version 0.1.0 did not store the classes of the train segment."""
    model = SklearnModel(Ridge() if kind == "regressor" else LogisticRegression())
    data = dataset(lambda f: (f["x"] > 0).astype(float) + (kind == "three classes") * (f["z"] > 0.5))
    model.fit(data)
    expected = model.predict(data)
    del model.__dict__["present"]
    read = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(read.predict(data), expected)


def test_classes_that_are_text_are_positions_in_the_data() -> None:
    """The estimator is fitted on the text; XGBoost on numbers, also inside of another estimator."""
    data = dataset(lambda f: (f["x"] > 0).astype(float) + (f["z"] > 0.5))
    names = ["low", "high", "highest"]  # not in alphabetical order
    train, test = data.prepare(["train", "test"], col_set=["feature", "label"], data_key="learn")
    named = np.array(names)[train["label"]["y0"].astype(int)]
    model = SklearnModel(LogisticRegression(), classes=names)
    model.fit(data)
    found = model.predict(data)
    fitted = LogisticRegression().fit(train["feature"], named)
    expected = pd.DataFrame(fitted.predict_proba(test["feature"]), test.index, fitted.classes_)[names]
    np.testing.assert_array_equal(found.iloc[:, 1:], expected)
    np.testing.assert_allclose(found["score"], expected["high"] + 2 * expected["highest"], rtol=1e-12)
    library = pytest.importorskip("xgboost", reason="not installed: make frames")
    inner = library.XGBClassifier(n_estimators=2, n_jobs=1)
    model = SklearnModel(CalibratedClassifierCV(inner, cv=2), classes=names)
    model.fit(data)
    fitted = CalibratedClassifierCV(inner, cv=2).fit(train["feature"], train["label"]["y0"])
    np.testing.assert_allclose(model.predict(data).iloc[:, 1:], fitted.predict_proba(test["feature"]), rtol=1e-12)


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


def test_the_same_code_and_parameters_have_the_same_file(tmp_path: Path) -> None:
    """Parameters are compared by value, also random generators; a damaged file is written again."""

    class Own(BaseEstimator):
        def __init__(self, a: object = None) -> None:
            self.a = a

        def fit(self, x: object, y: object) -> None:
            """Learn nothing."""

    def kept(*values: object) -> list[str]:
        return [keep_estimator(Own(value), tmp_path)["kwargs"]["file"] for value in values]

    different = [1, 2, Ridge(alpha=1.0), Ridge(alpha=2.0), np.random.RandomState(1), np.random.RandomState(2)]
    files = kept(*different)
    assert len(set(files)) == len(files)
    Path(files[0]).write_bytes(b"damaged")
    again = kept(1, 2, Ridge(alpha=1.0), Ridge(alpha=2.0), np.random.RandomState(1), np.random.RandomState(2))
    assert again[1:] == files[1:]
    assert kept_estimator(again[0], Path(again[0]).stem.partition("-")[2]).a == 1


def test_kept_code_runs_only_for_the_users_own_tasks(tmp_path: Path) -> None:
    """A task of a pool that others write to cannot name such a file; a changed file is refused."""
    config = keep_estimator(Ridge(alpha=3.0), tmp_path)
    assert kept_estimator(**config["kwargs"]).alpha == 3.0
    with from_origin(Origin.POOL), pytest.raises(CodeNotAllowed, match="put its class into a module"):
        kept_estimator(**config["kwargs"])
    Path(config["kwargs"]["file"]).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="has changed since the task was submitted"):
        kept_estimator(**config["kwargs"])


def test_the_same_model_has_the_same_file(tmp_path: Path) -> None:
    """A model of a class without a module is read with its attributes; one with other code or attributes has another file."""

    def mine(added: float) -> type[Model]:
        class Mine(Model):
            def __init__(self, times: float) -> None:
                self.times = times

            def fit(self, dataset: Any) -> None:
                self.value = self.times * dataset + added

            def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
                return pd.Series([self.value])

        return Mine

    files = [
        keep_model(mine(added)(times), tmp_path)["kwargs"]["file"] for added, times in ((1, 2), (1, 3), (4, 2), (1, 2))
    ]
    assert files[0] == files[3]
    assert len(set(files)) == 3
    config = keep_model(mine(1)(2), tmp_path)
    model = build(config)
    assert isinstance(model, KeptModel)
    model.fit(10.0)
    assert model.predict(None).tolist() == [21.0]
    with from_origin(Origin.POOL), pytest.raises(CodeNotAllowed, match="put its class into a module"):
        KeptModel(**config["kwargs"])


def test_the_description_of_an_estimator_builds_an_equal_one() -> None:
    """Pipelines, nested estimators, functions of modules, tuples."""
    nested = TransformedTargetRegressor(PIPELINE, func=np.linalg.norm.__wrapped__, check_inverse=False)
    built = SklearnModel(describe_estimator(nested)).estimator
    assert repr(built) == repr(nested)
    assert built.regressor.steps[1][1].feature_range == (-1, 1)
    assert describe_estimator(LGBMClassifier(n_estimators=7))["kwargs"] == {"n_estimators": 7}
