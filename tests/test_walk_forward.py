"""Walk-forward on a user's table: the same numbers as an explicit loop, and the table's own index in all results."""

from __future__ import annotations

import copy
import datetime
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from lightgbm import LGBMRanker, LGBMRegressor
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import brier_score_loss, log_loss, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.svm import LinearSVC
from tests.documents.command_line import call

import rollforge
from rollforge import pipeline
from rollforge.errors import ConfigError, DataError, DataNotFound, SegmentError, TrainingFailed, counted
from rollforge.machine import process_name
from rollforge.models import LinearModel, Model, SklearnModel, TorchModel
from rollforge.record.analysis import calc_ic
from rollforge.report.features import drift_by_window
from rollforge.run import InProcess
from rollforge.run.worker_process import WorkerProcess
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.track.base import Recorder, open_tracker
from rollforge.walk_forward import WalkForward, _expected_windows, walk_forward

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5

DAYS = pd.bdate_range("2020-01-01", "2021-06-30")
FEATURES = ["a", "b", "c"]
BOOSTING = NOTEBOOK = "not installed: make frames"
QUIET = {"verbose": False, "allow_writing_files": False, "thread_count": 2}
"""Of CatBoost."""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    return Session(
        tracking_uri=f"folder:{tmp_path}/runs",
        store_uri=f"sqlite:///{tmp_path}/tasks.db",
        cache=str(tmp_path / "cache"),
        threads=2,
    )


def table(
    entities: list[Any], names: tuple[str, str] = ("day", "stock"), days: pd.DatetimeIndex = DAYS
) -> pd.DataFrame:
    """A table by (time, entity), whose label follows its first feature; some labels are missing."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([days, entities], names=names)
    frame = pd.DataFrame(rng.normal(size=(len(index), 3)), index, FEATURES)
    frame["y"] = 0.3 * frame["a"] + rng.normal(size=len(index))
    frame.loc[rng.random(len(index)) < 0.05, "y"] = np.nan
    return frame


def run(estimator: object, frame: object, session: Session, **arguments: Any) -> WalkForward:
    given = {"label": "y", "train": "6 months", "step": "quarter", "horizon": 2, "jobs": 0, **arguments}
    return walk_forward(estimator, frame, session=session, **given)


def by_hand(estimator: Any, frame: pd.DataFrame, result: WalkForward, method: str = "predict") -> pd.Series:
    """The same windows as a loop: `frame` by (time, entity), sorted."""
    parts = []
    for _, window in result.windows.iterrows():
        train = frame.loc[window["train_start"] : window["train_end"]].dropna(subset="y")
        test = frame.loc[window["test_start"] : window["test_end"]]
        predicted = getattr(clone(estimator).fit(train[FEATURES], train["y"]), method)(test[FEATURES])
        parts.append(pd.Series(predicted if predicted.ndim == 1 else predicted[:, 1], test.index))
    return pd.concat(parts)


PIPELINE = make_pipeline(SimpleImputer(), MinMaxScaler(feature_range=(-1, 1)), Ridge(alpha=2.0))


@pytest.mark.parametrize(
    "estimator",
    [
        LGBMRegressor(n_estimators=5, verbose=-1, num_leaves=7),
        PIPELINE,
        TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh),
    ],
    ids=lambda e: type(e).__name__,
)
def test_the_prediction_is_that_of_a_loop(estimator: Any, session: Session) -> None:
    """To the last bit, with missing features and labels."""
    frame = table(list("ABCDEF"))
    if estimator is PIPELINE:
        frame.iloc[::7, 1] = np.nan
    result = run(estimator, frame, session)
    expected = by_hand(estimator, frame, result)
    pd.testing.assert_series_equal(result.prediction, expected.rename("prediction"), check_exact=True)
    assert len(result.windows) == 4
    assert (result.windows["status"] == "done").all()


@pytest.mark.parametrize("kind", ["bool", "boolean", "int8", "uint16", "float16", "float32"])
def test_narrow_features_have_the_precision_of_a_loop(kind: str, session: Session) -> None:
    """scikit-learn computes with float64 if all features are booleans or small whole numbers, and with float32 if they are."""
    frame = table(list("ABCDEF"))
    frame[FEATURES] = (20 * frame[FEATURES] + 80).clip(1, 120).astype("float32" if kind == "float32" else "int16")
    if kind in ("bool", "boolean"):
        frame[FEATURES] = frame[FEATURES] > 80
    frame[FEATURES] = frame[FEATURES].astype(kind)
    read = frame.assign(**frame[FEATURES].astype("float32" if kind == "float32" else "float64"))
    result = run(Ridge(), frame, session)
    expected = by_hand(Ridge(), read, result)
    assert result.prediction.dtype == expected.dtype
    pd.testing.assert_series_equal(result.prediction, expected.rename("prediction"), check_exact=True)


@pytest.mark.parametrize("inside", ["alone", "pipeline"])
@pytest.mark.parametrize("classes", [False, True], ids=["regressor", "classifier"])
def test_a_stack_chooses_its_final_estimator(classes: bool, inside: str, session: Session) -> None:
    """Without ``final_estimator``, stacks of scikit-learn have no ``predict`` before they are fitted."""
    frame = table(list("ABCDEF"))
    model: Any = StackingRegressor([("one", Ridge()), ("other", Ridge(alpha=9.0))])
    if classes:
        frame["y"] = pd.Series(np.where(frame["y"] > 0, "up", "down"), frame.index).where(frame["y"].notna())
        model = StackingClassifier([("one", LogisticRegression()), ("other", LogisticRegression(C=0.1))])
    if inside == "pipeline":
        model = make_pipeline(MinMaxScaler(), model)
    result = run(model, frame, session, step="year")
    expected = by_hand(model, frame, result, "predict_proba" if classes else "predict")
    pd.testing.assert_series_equal(result.prediction, expected.rename("prediction"), check_exact=True)


class Duck:
    """An estimator with scikit-learn's interface whose class is derived from none of its own."""

    def __init__(self, power: int = 1) -> None:
        self.power = power

    def get_params(self, deep: bool = True) -> dict[str, object]:
        return {"power": self.power}

    def set_params(self, **params: Any) -> Duck:
        vars(self).update(params)
        return self

    def fit(self, x: pd.DataFrame, y: Any) -> Duck:
        self.classes_, counts = np.unique(np.asarray(y) > 0, return_counts=True)
        self.share_ = counts / counts.sum()
        return self

    def predict(self, x: pd.DataFrame) -> np.ndarray:
        return self.share_[-1] + x.iloc[:, 0].to_numpy() ** self.power


class DuckOfClasses(Duck):
    """A classifier of this kind."""

    _estimator_type = "classifier"

    def predict_proba(self, x: pd.DataFrame) -> np.ndarray:
        return np.tile(self.share_, (len(x), 1))


@pytest.mark.parametrize("classes", [False, True], ids=["regressor", "classifier"])
def test_an_estimator_needs_no_base_class_of_scikit_learn(classes: bool, session: Session) -> None:
    frame = table(list("ABCDEF")).dropna()
    model, method = (DuckOfClasses(), "predict_proba") if classes else (Duck(power=2), "predict")
    result = run(model, frame.assign(y=frame["y"] > 0) if classes else frame, session)
    expected = by_hand(model, frame, result, method)
    pd.testing.assert_series_equal(result.prediction, expected.rename("prediction"), check_exact=True)


def test_the_windows_end_before_the_labels_look_ahead(session: Session) -> None:
    """With a horizon of 5, five days lie between the last training day and the first test day, and between valid and
    test."""
    result = run(Ridge(), table(["A", "B"]), session, valid="1M", horizon=5)
    place = {day: i for i, day in enumerate(DAYS)}
    for _, window in result.windows.iterrows():
        assert place[window["valid_start"]] - place[window["train_end"]] == 6
        assert place[window["test_start"]] - place[window["valid_end"]] == 6
    assert result.windows["test_end"].iloc[-1] == DAYS[-1]


@pytest.mark.parametrize(
    ("form", "entities"),
    [
        ("by time", list("ABCDE")),
        ("by time", [("x", 1), ("a", 2)]),
        ("by entity", [3, 20, 100]),
        ("by entity", [1.5, "two"]),
        ("columns", ["ß", "a b", "A"]),
        ("columns", [("x", 1), ("a", 2)]),
        ("arrow", [3, 20, 100]),
        ("parquet", ["ß", "a b", "A"]),
    ],
)
def test_the_index_of_the_table_comes_back(form: str, entities: list[Any], session: Session, tmp_path: Path) -> None:
    """In the table's own order, whatever the entities are."""
    frame = table(entities, ("when", "store"))
    given: Any = frame
    if form == "by entity":
        given = frame.swaplevel().sort_index(level="when", kind="stable")
        given = given.iloc[np.argsort(np.tile(np.arange(len(entities)), len(DAYS)), kind="stable")]
    elif form != "by time":
        given = frame.reset_index()
        if form == "arrow":
            given = pa.Table.from_pandas(given)
        elif form == "parquet":
            given.to_parquet(tmp_path / "table.parquet")
            given = str(tmp_path / "table.parquet")
    names = {} if form.startswith("by") else {"time": "when", "entity": "store"}
    result = run(Ridge(), given, session, train=300, step=100, **names)
    expected = frame["y"].loc[DAYS[300] :]
    labels = result.label
    assert labels.index.names == (["store", "when"] if form == "by entity" else ["when", "store"])
    if form == "by entity":
        assert labels.index.equals(given.index[given.index.get_level_values("when") >= DAYS[300]])
        labels = labels.swaplevel().reindex(expected.index)
    pd.testing.assert_series_equal(labels, expected, check_exact=True)
    assert result.prediction.index.equals(result.label.index)
    assert result.prediction.name == "prediction"


@pytest.mark.parametrize("names", [(None, None), ("index", "level_1"), ("level_1", None), (0, None), (1, 0)])
def test_names_of_the_index_come_back(names: tuple[Any, Any], session: Session) -> None:
    """Including missing names, those that pandas gives to unnamed columns, and the numbers of other levels."""
    frame = table(["A", "B"]).rename_axis(index=list(names))
    found = run(Ridge(), frame, session, train=300, step=100).prediction.index
    pd.testing.assert_index_equal(found, frame.index[2 * 300 :], exact=True)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_column_may_have_the_name_that_pandas_gives_to_the_index(levels: int, session: Session) -> None:
    """Such as ``index`` after ``reset_index()`` and a selection of rows, or ``level_0``."""
    frame = table(["A", "B"]).rename(columns={"a": "index", "b": "level_0"})
    if levels == 1:
        given = frame.reset_index()
        given.index += 5
    else:
        given = frame.rename_axis([None, None])
    found = run(Ridge(), given, session, train=300, step=100)
    np.testing.assert_array_equal(found.prediction, run(Ridge(), frame, session, train=300, step=100).prediction)
    assert found.prediction.index.names == ([None, None] if levels == 2 else ["day", "stock"])


def test_columns_of_two_levels(session: Session) -> None:
    """Names are tuples, also those of several labels."""
    frame = table(["A", "B", "C"])
    frame["z"] = frame["c"] - frame["a"]
    plain = run(Ridge(), frame, session, label=["y", "z"], features=["a", "c"])
    names = {name: ("label" if name in "yz" else "feature", name) for name in frame}
    given = frame.set_axis(pd.MultiIndex.from_tuples([names[name] for name in frame]), axis=1)
    labels, features = [names["y"], names["z"]], [names["a"], names["c"]]
    found = run(Ridge(), given, session, label=labels, features=features)
    np.testing.assert_array_equal(found.prediction, plain.prediction)
    assert list(found.prediction) == list(found.label) == list(found.metrics.index) == labels
    assert found.windows.index.tolist() == [(label, number) for label in labels for number in range(1, 5)]
    np.testing.assert_array_equal(found.windows["rmse"], plain.windows["rmse"])
    assert run(Ridge(), given, session, label=labels[0], features=features).label.name == labels[0]


def test_times_keep_their_zone_and_type(session: Session) -> None:
    """A table in Tokyo's time, and one of periods, come back as they were."""
    frame = table(["A", "B"]).reset_index()
    for days in (frame["day"].dt.tz_localize("Asia/Tokyo"), frame["day"].dt.to_period("D")):
        found = run(Ridge(), frame.assign(day=days), session).prediction
        assert found.index.get_level_values("day").dtype == days.dtype
        first = frame["day"].searchsorted(pd.Timestamp("2020-07-01"))
        assert found.index[0] == (days.iloc[first], "A")


@pytest.mark.parametrize("kind", ["category", "int8", "Int64", "string", "object"])
@pytest.mark.parametrize("form", ["index", "columns"])
def test_entities_keep_their_type(form: str, kind: str, session: Session) -> None:
    """The index of the prediction is that of the table's rows: a categorical stays one, and text of objects is not made
    another type."""
    frame = table([2, 1]).reset_index()
    frame["stock"] = frame["stock"].astype("string" if kind in ("string", "object") else kind).astype(kind)
    expected = frame.set_index(["day", "stock"])
    given = expected if form == "index" else frame
    found = run(Ridge(), given, session, train=300, step=100, entity="stock").prediction
    pd.testing.assert_index_equal(found.index, expected.loc[DAYS[300] :].index, exact=True)
    assert found.index.get_level_values("stock").dtype == frame["stock"].dtype


def test_a_label_can_be_a_level_of_the_index(session: Session) -> None:
    """The same result as of a column."""
    frame = table(["A", "B"])
    result = run(Ridge(), frame.set_index("y", append=True), session, entity="stock")
    pd.testing.assert_series_equal(result.prediction, run(Ridge(), frame, session).prediction, check_exact=True)


def test_large_numbers_that_differ_little_are_no_copy_of_the_label(session: Session) -> None:
    """Times in seconds, which are equal in single precision."""
    frame = table(["A", "B"]).dropna()
    frame["a"] = 1.6e9 + np.arange(len(frame)) % 50
    frame["y"] = 1.6e9 + np.arange(len(frame)) * 7 % 51
    assert (frame["a"].astype("float32") == frame["y"].astype("float32")).mean() > 0.9
    assert run(Ridge(), frame, session).metrics["rmse"] > 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"train": pd.Timedelta(days=200)}, {"train": "200D"}),
        ({"train": datetime.timedelta(weeks=26), "step": np.timedelta64(72, "h")}, {"train": "182D", "step": "3D"}),
        ({"train": np.int64(130), "valid": np.int64(20)}, {"train": 130, "valid": 20}),
        (
            {
                "train": pd.DateOffset(months=6),
                "valid": pd.DateOffset(days=3, weeks=2),
                "step": pd.offsets.QuarterEnd(),
            },
            {"train": "6 months", "valid": "17D", "step": "quarter"},
        ),
        (
            {"train": pd.offsets.BDay(120), "step": pd.offsets.Week(4, weekday=4)},
            {"train": "120B", "step": "4W-FRI"},
        ),
        ({"train": "4800 hours", "step": pd.offsets.Hour(24 * 50)}, {"train": "200D", "step": "50D"}),
    ],
    ids=lambda one: str(len(one)),
)
def test_lengths_of_time_mean_the_same_as_text(given: dict[str, Any], meant: dict[str, Any], session: Session) -> None:
    """The tasks are the same ones, so they are not trained twice."""
    frame = table(["A", "B"])
    found, expected = run(Ridge(), frame, session, **given), run(Ridge(), frame, session, **meant)
    columns = [name for name in expected.windows if name.endswith(("start", "end"))]
    pd.testing.assert_frame_equal(found.windows[columns], expected.windows[columns])
    assert found.plan.ids == expected.plan.ids


def test_weeks_of_stores(session: Session) -> None:
    """Weekly rows: lengths and the horizon count weeks."""
    weeks = pd.date_range("2018-01-05", "2021-12-31", freq="W-FRI")
    frame = table(["north", "south", "west"], ("week", "store"), weeks)
    result = run(Ridge(), frame, session, train=104, step=13, horizon=4)
    place = {day: i for i, day in enumerate(weeks)}
    first = result.windows.iloc[0]
    assert place[first["test_start"]] == 104
    assert place[first["train_end"]] == 104 - 5
    assert place[first["test_end"]] == 104 + 12
    pd.testing.assert_series_equal(
        result.prediction, by_hand(Ridge(), frame, result).rename("prediction"), check_exact=True
    )


def test_one_series_without_entities(session: Session, tmp_path: Path) -> None:
    """For a frame by time alone, the correlation is over all rows, because no day has several."""
    frame = table(["A"]).droplevel("stock")
    result = run(Ridge(), frame, session)
    assert result.prediction.index.equals(frame.loc["2020-07-01":].index)
    known = result.label.notna()
    expected = np.corrcoef(result.prediction[known], result.label[known])[0, 1]
    assert result.metrics["correlation"] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(result.metrics["ic"])
    assert result.report(tmp_path / "report.html").stat().st_size > 10_000


def test_metrics_of_a_regression(session: Session) -> None:
    """For the whole prediction and for a window, compared with scikit-learn and pandas."""
    result = run(Ridge(), table(list("ABCDEF")), session)
    both = pd.concat([result.prediction, result.label], axis=1, keys=["p", "y"])
    window = result.windows.iloc[1]
    parts = {
        "whole": (result.metrics, both.dropna()),
        "window": (window, both.loc[window["test_start"] : window["test_end"]].dropna()),
    }
    for metrics, rows in parts.values():
        assert metrics["rmse"] == pytest.approx(np.sqrt(((rows["p"] - rows["y"]) ** 2).mean()), rel=1e-12)
        assert metrics["mae"] == pytest.approx((rows["p"] - rows["y"]).abs().mean(), rel=1e-12)
        assert metrics["r2"] == pytest.approx(r2_score(rows["y"], rows["p"]), rel=1e-9)
        by_day = rows.groupby(level="day")
        assert metrics["ic"] == pytest.approx(by_day.apply(lambda d: d["p"].corr(d["y"])).mean(), rel=1e-9)
        ranks = by_day.apply(lambda d: d["p"].corr(d["y"], method="spearman"))
        assert metrics["rank_ic"] == pytest.approx(ranks.mean(), rel=1e-9)


def test_each_run_is_read_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several horizons, the prediction and the label of a run are read once for the result of its horizon and for
    the whole one; by ``collect`` too."""
    read: Counter[tuple[str, str]] = Counter()
    load = Recorder.load_object

    def counting(recorder: Recorder, name: str, **options: Any) -> object:
        read[recorder.id, name] += 1
        return load(recorder, name, **options)

    monkeypatch.setattr(Recorder, "load_object", counting)
    frame = table(list("ABC")).assign(z=lambda f: f["y"] + f["b"])
    result = run(Ridge(), frame, session, label={"y": 1, "z": 3}, horizon=1)
    assert len(result.metrics) == 2
    assert len(result.windows) == len(result.plan.ids) == 8
    assert result.prediction.notna().all(axis=None)
    assert set(read.values()) == {1}
    assert len(read) == 2 * 8
    read.clear()
    collected = pipeline.collect(result.session, result.experiment_name)
    assert len(pipeline.by_label(collected, result.session, result.experiment_name)) == 2
    assert set(read.values()) == {1}


@pytest.mark.parametrize("classes", [(False, True), (0, 1), (-1, 1), (3, 7)])
def test_a_classifier_predicts_the_probability_of_the_larger_class(classes: tuple[Any, Any], session: Session) -> None:
    frame = table(list("ABCDEF")).dropna()
    frame["y"] = np.where(frame["y"] > 0, classes[1], classes[0])
    result = run(LogisticRegression(), frame, session)
    expected = by_hand(LogisticRegression(), frame, result, "predict_proba")
    pd.testing.assert_series_equal(result.prediction, expected.rename("prediction"), check_exact=True)
    positive = frame["y"].loc[expected.index] == classes[1]
    assert result.metrics["auc"] == pytest.approx(roc_auc_score(positive, expected), rel=1e-12)
    assert result.metrics["log_loss"] == pytest.approx(log_loss(positive, expected), rel=1e-12)
    assert result.metrics["brier"] == pytest.approx(brier_score_loss(positive, expected), rel=1e-12)
    assert set(result.windows) >= {"auc", "log_loss", "brier"}


@pytest.mark.parametrize("classes", [(-1, 0, 1), (0.0, 1.0, 2.0, 5.0)])
def test_a_classifier_of_several_classes_predicts_each(classes: tuple[Any, ...], session: Session) -> None:
    """One column for each class; metrics of the whole and of a window, compared with scikit-learn."""
    frame = table(list("ABCDEF")).dropna()
    frame["y"] = np.array(classes)[pd.qcut(frame["y"], len(classes), labels=False)]
    result = run(LogisticRegression(), frame, session)
    assert list(result.prediction) == list(classes)
    window = result.windows.iloc[1]
    train = frame.loc[window["train_start"] : window["train_end"]]
    test = frame.loc[window["test_start"] : window["test_end"]]
    expected = LogisticRegression().fit(train[FEATURES], train["y"]).predict_proba(test[FEATURES])
    np.testing.assert_array_equal(result.prediction.loc[test.index], expected)
    for metrics, rows in ((result.metrics, result.prediction.index), (window, test.index)):
        known, found = frame["y"].loc[rows], result.prediction.loc[rows].to_numpy()
        assert metrics["log_loss"] == pytest.approx(log_loss(known, found), rel=1e-9)
        assert metrics["auc"] == pytest.approx(roc_auc_score(known, found, multi_class="ovr"), rel=1e-9)
        squares = (found - (known.to_numpy()[:, None] == np.array(classes))) ** 2
        assert metrics["brier"] == pytest.approx(squares.sum(axis=1).mean(), rel=1e-12)
    assert set(result.metrics.index) == {"log_loss", "auc", "brier"}
    ordered = result.prediction.to_numpy() @ np.array(classes)
    np.testing.assert_allclose(result.collected.prediction["score"], ordered, rtol=1e-12)


def test_a_class_that_a_window_has_not_seen_has_probability_0(session: Session) -> None:
    frame = table(list("ABCDEF")).dropna()
    frame["y"] = np.where(frame["y"] > 0, 1, 0)
    frame.loc["2020-09-01":"2021-03-01", "y"] += frame.loc["2020-09-01":"2021-03-01", "a"] > 0.5
    result = run(LogisticRegression(), frame, session, train="5 months")
    first = result.prediction.loc[: result.windows["test_end"].iloc[0]]
    assert (first[2] == 0).all()
    np.testing.assert_allclose(result.prediction.sum(axis=1), 1, rtol=1e-12)
    assert (result.prediction.loc["2021-03-01":, 2] > 0).any()
    assert np.isfinite(result.metrics["log_loss"])


def classes_of(frame: pd.DataFrame, kind: str) -> Any:
    """Return classes that follow a numeric label, of a kind of column."""
    names = LEVELS if kind in TEXT else KINDS[kind]
    found = pd.Series(np.array(names, object)[pd.qcut(frame["y"], len(names), labels=False)], frame.index, dtype=object)
    if kind in ("numbers", "booleans"):
        return pd.Categorical(found.astype(int if kind == "numbers" else bool))
    if kind.endswith("categories"):
        return pd.Categorical(found, LEVELS, ordered=kind.startswith("ordered"))
    if kind in ("objects", "strings"):
        found[::13] = None
    return found.astype("string") if kind == "strings" else found


LEVELS = ["low", "mid", "high"]
TEXT = ("text", "strings", "categories", "ordered categories")
KINDS: dict[str, list[Any]] = {
    "text": sorted(LEVELS),
    "text of two": ["down", "up"],
    "strings": sorted(LEVELS),
    "objects": [False, True],
    "categories": sorted(LEVELS),
    "ordered categories": LEVELS,
    "numbers": [3, 7, 20],
    "booleans": [False, True],
}


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_any_type_are_those_of_scikit_learn(kind: str, session: Session, tmp_path: Path) -> None:
    """Probabilities, metrics of the whole and of each window, and classes of the table's own type; a missing one excludes
    the row from training and from the metrics."""
    frame = table(list("ABCD")).dropna()
    frame["y"] = classes_of(frame, kind)
    result = run(LogisticRegression(class_weight={KINDS[kind][0]: 2.0}), frame, session)
    classes = KINDS[kind]
    assert result.classes == {"y": tuple(classes)}
    expected, truth = [], frame["y"].loc[result.probability.index]
    for number, window in result.windows.iterrows():
        train = frame.loc[window["train_start"] : window["train_end"]].dropna()
        test = frame.loc[window["test_start"] : window["test_end"]]
        target = train["y"].astype(bool) if kind == "objects" else train["y"]
        fitted = LogisticRegression(class_weight={classes[0]: 2.0}).fit(train[FEATURES], target)
        assert sorted(fitted.classes_) == sorted(classes)
        expected.append(
            pd.DataFrame(fitted.predict_proba(test[FEATURES]), test.index, fitted.classes_).reindex(columns=classes)
        )
        metrics_are(result.windows.loc[number], test["y"], expected[-1])
    every = pd.concat(expected)
    pd.testing.assert_frame_equal(result.probability, every, check_exact=len(classes) > 2, check_column_type=False)
    metrics_are(result.metrics, truth, every)
    own = result.prediction if len(classes) > 2 else result.prediction.to_frame()
    np.testing.assert_array_equal(own, every if len(classes) > 2 else every.iloc[:, 1:])
    pd.testing.assert_series_equal(result.label, truth.where(truth.notna()))  # NaN for None
    best = np.array(classes, object)[every.to_numpy().argmax(axis=1)]
    assert result.predicted_class.tolist() == best.tolist()
    assert result.predicted_class.dtype == frame["y"].dtype
    said = any("number them in alphabetical order (high, low, mid)" in warning for warning in result.warnings)
    assert said == (kind in ("text", "strings", "categories"))
    if kind == "text":
        shutil.rmtree(result.folder.path)  # the result does not need the table's folder any more
        result = pickle.loads(pickle.dumps(result))
        assert any("in alphabetical order" in warning for warning in result.warnings)
        page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
        assert "number them in alphabetical order (high, low, mid)" in page


@pytest.mark.parametrize("kind", ["int8", "uint16", "Int64", "float32", "boolean"])
def test_classes_have_the_type_of_the_table(kind: str, session: Session) -> None:
    """Predicted classes, labels, and the columns of whole numbers."""
    frame = table(list("AB")).dropna()
    frame["y"] = (frame["y"] > 0).astype(kind)
    result = run(LogisticRegression(), frame, session)
    assert (result.predicted_class.dtype, result.label.dtype) == (frame["y"].dtype, frame["y"].dtype)
    if "nt" in kind:
        assert result.probability.columns.dtype == frame["y"].dtype
    assert result.classes == {"y": (0, 1)}


def test_features_that_resemble_the_label_are_accepted(session: Session) -> None:
    """Constants, columns that vary only by rounding, noise on the label, and an outlier in the row of the label's."""
    frame = table(list("AB")).dropna()
    noise, first = np.random.default_rng(1).normal(size=len(frame)), np.arange(len(frame)) == 0
    frame["y"] = frame["y"].where(~first, 1e6)
    frame = frame.assign(
        constant=3.0, rounded=1e7 + frame["y"].where(~first, 0.0), noisy=2 * frame["y"] + 1e-3 * noise,
        outlier=np.where(first, 1e6, noise),
    )  # fmt: skip
    run(Ridge(), frame, session, features=["constant", "rounded", "noisy", "outlier"])


def metrics_are(found: pd.Series, truth: pd.Series, probability: pd.DataFrame) -> None:
    """Compare metrics with scikit-learn's."""
    known = truth.notna().to_numpy()
    truth, p = truth[known].to_numpy(object), probability[known]
    hit = np.stack([truth == one for one in p], axis=1)
    assert found["log_loss"] == pytest.approx(log_loss(hit.argmax(axis=1), p.to_numpy()), rel=1e-12)
    if hit.shape[1] == 2:
        assert found["auc"] == pytest.approx(roc_auc_score(hit[:, 1], p.iloc[:, 1]), rel=1e-12)
        assert found["brier"] == pytest.approx(brier_score_loss(hit[:, 1], p.iloc[:, 1]), rel=1e-12)
    else:
        areas = [roc_auc_score(hit[:, k], p.iloc[:, k]) for k in range(hit.shape[1])]
        assert found["auc"] == pytest.approx(np.mean(areas), rel=1e-12)
        assert found["brier"] == pytest.approx(((hit - p.to_numpy()) ** 2).sum(axis=1).mean(), rel=1e-12)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")  # by LightGBM 4.7
@pytest.mark.parametrize("package", ["lightgbm", "xgboost", "catboost"])
def test_other_libraries_predict_classes_that_are_text(package: str, session: Session) -> None:
    """XGBoost, which accepts numbers only, too; and a class that the first train segments lack, with early stopping by a
    valid segment that has it: its probability is 0 there, and a warning names the windows."""
    library = pytest.importorskip(package, reason=BOOSTING)
    options = {**QUIET, "iterations": 20} if package == "catboost" else {"n_estimators": 20, "n_jobs": 1}
    options |= {"verbosity": 0} if package == "xgboost" else {"verbose": -1} if package == "lightgbm" else {}
    kind = {"lightgbm": "LGBMClassifier", "xgboost": "XGBClassifier", "catboost": "CatBoostClassifier"}[package]
    estimator = getattr(library, kind)(early_stopping_rounds=3, **options)
    frame = table(list("ABCD")).dropna()
    frame["y"] = classes_of(frame, "text")
    early = frame.index.get_level_values("day") < "2020-08-15"
    frame["y"] = frame["y"].mask(early & (frame["y"] == "mid"), "low")
    result = run(estimator, frame, session, valid="2 months")
    lacking = [i for i, w in result.windows.iterrows() if "mid" not in set(frame["y"].loc[: w["train_end"]])]
    assert lacking == [1, 2]
    assert any("train segments of windows 1, 2 have no row of the class 'mid' of 'y'" in one for one in result.warnings)
    for number, window in result.windows.iterrows():
        parts = [frame.loc[window[f"{name}_start"] : window[f"{name}_end"]] for name in ("train", "valid", "test")]
        train, valid, test = parts
        classes = sorted(set(train["y"]))
        assert len(classes) == (2 if number in lacking else 3)
        valid = valid[valid["y"].isin(classes)]
        coded = [part["y"].map(classes.index) for part in (train, valid)]
        fitted = clone(estimator).fit(train[FEATURES], coded[0], eval_set=[(valid[FEATURES], coded[1])])
        found = result.prediction.loc[test.index]
        np.testing.assert_array_equal(found[classes], fitted.predict_proba(test[FEATURES]))
        assert (found.drop(columns=classes) == 0).all(axis=None)


def test_a_train_segment_of_one_class(session: Session) -> None:
    """The class is predicted with probability 1, whether or not the estimator accepts a single class."""
    frame = table(list("ABCD")).dropna()
    frame["y"] = classes_of(frame, "text of two")
    frame.loc[:"2020-07-15", "y"] = "up"
    result = run(LogisticRegression(), frame, session)
    first = result.prediction.loc[: result.windows["test_end"].iloc[0]]
    assert (first == 1).all()
    assert result.windows["status"].eq("done").all()
    wrong = (result.label.loc[first.index] == "down").mean()
    assert result.windows["log_loss"].iloc[0] == pytest.approx(-wrong * np.log(np.finfo(float).eps), rel=1e-6)
    assert any("has no row of the class 'down' of 'y'" in warning for warning in result.warnings)


@pytest.mark.slow
def test_classes_of_several_horizons_in_worker_processes(session: Session, tmp_path: Path) -> None:
    """From a Parquet file, whose text is not taken for entities; each label has its own classes."""
    frame = table(list("ABC")).dropna()
    frame["z"] = classes_of(frame, "text of two").to_numpy()
    frame["y"] = classes_of(frame, "text").to_numpy()
    frame.reset_index().to_parquet(tmp_path / "table.parquet")
    given = {"label": {"y": 1, "z": 3}, "horizon": 1, "jobs": 2, "features": FEATURES, "train": 300, "step": 100}
    result = run(LogisticRegression(), tmp_path / "table.parquet", session, **given)
    for label, ahead in given["label"].items():
        alone = run(LogisticRegression(), frame.rename(columns={label: "label"}), session, **{**given, "label": "label",
                    "horizon": ahead, "jobs": 0})  # fmt: skip
        assert result.probability[label].equals(alone.probability)
        assert result.label[label].tolist() == alone.label.tolist()
        assert result.predicted_class[label].tolist() == alone.predicted_class.tolist()
    assert list(result.prediction) == [("y", "high"), ("y", "low"), ("y", "mid"), ("z", "up")]
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Windows, Horizon 3" in page
    with pytest.raises(DataError, match="no classes: the estimator is not a classifier"):
        _ = run(Ridge(), table(["A", "B"]), session).classes


def test_several_labels(session: Session) -> None:
    """One column of predictions and one row of metrics for each; rows that lack one of the labels are not learned from."""
    frame = table(list("ABC"))
    frame["z"] = frame["c"] - frame["a"]
    result = run(Ridge(), frame, session, label=["y", "z"], features=["a", "c"])
    assert list(result.prediction) == ["y", "z"]
    window = result.windows.loc["y"].iloc[-1]
    train = frame.loc[window["train_start"] : window["train_end"]].dropna()
    test = frame.loc[window["test_start"] : window["test_end"]]
    expected = Ridge().fit(train[["a", "c"]], train[["y", "z"]]).predict(test[["a", "c"]])
    np.testing.assert_array_equal(result.prediction.loc[test.index], expected)
    assert result.metrics.index.names == ["label"]
    for label in ("y", "z"):
        errors = (result.prediction[label] - frame[label].loc[result.prediction.index]).dropna()
        assert result.metrics.loc[label, "rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-9)
        mean = (errors.loc[test.index.intersection(errors.index)] ** 2).mean()
        assert result.windows.loc[label].iloc[-1]["rmse"] == pytest.approx(np.sqrt(mean), rel=1e-9)


def test_several_horizons(session: Session, tmp_path: Path) -> None:
    """A model for each, which is that of a call with this horizon alone: purged by its own horizon."""
    frame = table(list("ABCD"))
    for ahead in (1, 10):
        frame[f"y{ahead}"] = frame.groupby("stock")["y"].transform(lambda y, n=ahead: y.rolling(n).mean().shift(-n))
    given = {"features": FEATURES, "label": ["y1", "y10"], "horizon": [1, 10]}
    result = run(Ridge(), frame, session, **given)
    assert list(result.prediction) == ["y1", "y10"]
    assert result.windows.index.names == ["horizon", "window"]
    place = {day: i for i, day in enumerate(DAYS)}
    for ahead, part in result.by_horizon.items():
        alone = run(Ridge(), frame, session, features=FEATURES, label=f"y{ahead}", horizon=ahead)
        pd.testing.assert_series_equal(part.prediction, alone.prediction, check_exact=True)
        pd.testing.assert_series_equal(
            result.prediction[f"y{ahead}"], alone.prediction, check_exact=True, check_names=False
        )
        pd.testing.assert_series_equal(result.label[f"y{ahead}"], alone.label, check_exact=True)
        pd.testing.assert_frame_equal(result.windows.loc[ahead], alone.windows)
        pd.testing.assert_series_equal(result.metrics.loc[ahead], alone.metrics, check_names=False)
        for _, window in part.windows.iterrows():
            assert place[window["test_start"]] - place[window["train_end"]] == ahead + 1
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    parts = page.partition('id="part0-top"')[2].partition('id="part1-top"')
    average = calc_ic(result.collected.prediction.iloc[:, 0], result.collected.label.iloc[:, 0])[0].mean()
    for text, (ahead, part) in zip((parts[0], parts[2]), result.by_horizon.items(), strict=True):
        assert f"Windows, Horizon {ahead}" in text
        assert f"<dd>y{ahead}, over {counted(ahead, 'trading day')}</dd>" in text
        assert f">{part.metrics['ic']:.4f}<".replace("-", "−") in text.replace("+", "")
        assert f">{average:.4f}<".replace("-", "−") not in text.replace("+", "")
    drawn = json.loads(re.search('id="plots">(.*?)</script>', page)[1])
    assert {"part0-daily", "part1-daily"} <= set(drawn["figures"])
    for name, figure in drawn["figures"].items():
        assert f'id="plot-{name}"' in page
        for trace in figure["data"]:
            assert not str(trace["x"]).startswith("#") or trace["x"][1:] in drawn["series"]
    ics = by_day_ic(result.by_horizon[10])
    bars = drawn["figures"]["part1-daily"]["data"][0]["y"]
    assert [v for v in bars if v is not None] == pytest.approx(ics, abs=1e-5)
    for wrong in (lambda: result.summary, lambda: result.plot.ic(), lambda: rollforge.plot.quantiles(result)):
        with pytest.raises(ConfigError, match=r"several horizons \(1, 10\).*result.by_horizon\[1\]"):
            wrong()
    assert len(result.plot.windows().data) > 0
    with (
        using(session),
        pytest.raises(ConfigError, match=r"different labels. Draw one of them: 'horizon 1', 'horizon 10'"),
    ):
        rollforge.plot.ic(result.experiment_name)
    with using(session):
        alone = rollforge.plot.ic(result.experiment_name, model="horizon 10")
    assert alone.data[0].y == result.by_horizon[10].plot.ic().data[0].y
    with pytest.raises(DataNotFound, match="no backtest paths: only windows of CombinatorialPurgedGen"):
        result.plot.paths()
    where = ("--store", session.store_uri, "--tracking", session.tracking_uri, "--output", tmp_path)
    written = call("collect", result.experiment_name, *where)
    assert written.exit_code == 0, written.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(rf"^IC +{average:.4f} ", written.stdout, re.MULTILINE)
    assert not re.search(f">[+−]?{abs(average):.4f}<", page)
    assert "different labels" not in written.stderr + page
    kept = pd.read_parquet(tmp_path / "prediction.parquet")
    (run_id,) = re.findall(r"^run +(\S+)", written.stdout, re.MULTILINE)
    metrics = open_tracker(session.tracking_uri).read(run_id).metrics
    for ahead, part in result.by_horizon.items():
        name, ic = f"Horizon {ahead}", part.metrics["ic"]
        assert kept[name].to_numpy() == pytest.approx(part.collected.prediction.iloc[:, 0].to_numpy(), nan_ok=True)
        shown = written.stdout.partition(f"{result.experiment_name}: {name} ")[2]
        assert re.search(rf"^IC +{ic:.4f} ", shown, re.MULTILINE)
        assert metrics[f"{name}/IC"] == pytest.approx(ic)
        section = page.partition(f"<h2>{name}</h2>")[2].partition("<h2>Windows")[0]
        assert (
            f"In {len(part.windows)} of {len(part.windows)} tasks whether features look ahead is not known" in section
        )
    assert "IC" not in metrics
    mapped = run(Ridge(), frame, session, features=FEATURES, label={"y1": 1, "y10": 10}, horizon=1)
    assert mapped.experiment_name == result.experiment_name


def by_day_ic(result: WalkForward) -> list[float]:
    """Return the correlation of each day that has labels."""
    both = pd.concat([result.prediction, result.label], axis=1, keys=["p", "y"]).dropna()
    return [np.corrcoef(rows["p"], rows["y"])[0, 1] for _, rows in both.groupby(level="day") if len(rows) > 1]


@pytest.mark.parametrize(("freq", "unit"), [("W-FRI", "week"), ("h", "bar"), ("MS", "month"), ("B", "day")])
def test_figures_and_the_report_count_the_periods_of_the_table(
    freq: str, unit: str, session: Session, tmp_path: Path
) -> None:
    """Lags, means and axes of weeks are not called days; the groups of the table are in the report."""
    frame = table(list("ABCDEF"), ("day", "stock"), pd.date_range("2020-01-03", periods=60, freq=freq))
    frame["half"] = np.where(frame.index.get_level_values("stock") < "D", "first", "second")
    result = run(Ridge(), frame, session, train=30, step=15, groups="half")
    lagged = (result.plot.ic_decay(), result.plot.autocorrelation())
    assert [figure.layout.xaxis.title.text for figure in lagged] == [f"lag in {unit}s"] * 2
    assert f"mean of the last 20 {unit}s" in [trace.name for trace in result.plot.ic().data]
    assert f"IC by {unit}" in result.plot.ic().layout.title.text
    assert f"mean of the last 20 {unit}s" in result.plot.turnover().data[0].name
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    figures = re.search('id="plots">(.*?)</script>', page)[1]
    assert f"lag in {unit}s" in figures
    assert unit == "day" or not re.search(
        r"\bdays?\b", figures.replace("minus the day's mean", "").replace('"day"', "")
    )
    section = page.partition('id="groups"')[2].partition("</section>")[0]
    both = pd.concat([result.prediction, result.label, result.groups], axis=1, keys=["p", "y", "g"]).dropna()
    for name, rows in both.groupby("g"):
        ics = [np.corrcoef(d["p"], d["y"])[0, 1] for _, d in rows.groupby(level="day") if len(d) > 1]
        row = section.partition(f'scope="row">{name}<')[2].partition("</tr>")[0]
        assert f">{np.mean(ics):.4f}<".replace("-", "−") in row
        assert f">{len(ics)}<" in row


@pytest.mark.parametrize("kind", ["text", "category", "number"])
def test_groups_stay_with_their_rows(kind: str, session: Session) -> None:
    """A column of any type, which is no feature; a row without a group counts in none."""
    frame = table(list("ABCDEF"))
    groups = pd.Series(frame.index.get_level_values("stock").map(dict(zip("ABCDEF", [1, 1, 2, 2, 3, 3], strict=True))))
    groups = groups.astype("float64").mask(np.arange(len(groups)) % 11 == 0)
    if kind != "number":
        groups = groups.map({1.0: "x", 2.0: "y", 3.0: "z"}).astype("category" if kind == "category" else object)
    shuffled = frame.assign(sector=groups.to_numpy() if kind != "category" else groups.array)
    shuffled = shuffled.reset_index().sort_values(["stock", "day"]).reset_index(drop=True)
    result = run(Ridge(), shuffled, session, entity="stock", groups="sector")
    assert result.groups is not None
    assert result.groups.name == "sector"
    assert result.groups.index.equals(result.prediction.index)
    expected = shuffled.set_index(["day", "stock"])["sector"].reindex(result.prediction.index)
    pd.testing.assert_series_equal(result.groups, expected, check_index_type=False)
    pd.testing.assert_series_equal(result.prediction, run(Ridge(), shuffled, session, features=FEATURES,
        entity="stock").prediction, check_exact=True)  # fmt: skip
    both = pd.concat([result.prediction, result.label, expected.rename("g")], axis=1).dropna()
    for name, rows in both.groupby("g", observed=True):
        found = result.group_metrics.loc[name]
        assert found["rmse"] == pytest.approx(np.sqrt(((rows["prediction"] - rows["y"]) ** 2).mean()), rel=1e-9)
        assert found["rows"] == (expected == name).sum()
    assert result.group_metrics.index.name == "sector"
    own = result.row_groups()
    assert own is not None
    assert own.index.equals(result.collected.prediction.index)


@pytest.mark.parametrize("ranker", ["lightgbm", "xgboost", "catboost"])
def test_a_ranker_learns_the_order_of_each_day(ranker: str, session: Session) -> None:
    """The rows of a day are a query; its scores have no unit, so only correlations within days are metrics."""
    frame = table(list("ABCDEF")).dropna()
    frame["y"] = frame.groupby("day")["y"].rank().astype(int)
    if ranker == "lightgbm":
        estimator: Any = LGBMRanker(n_estimators=5, verbose=-1, num_leaves=7)
    elif ranker == "xgboost":
        estimator = pytest.importorskip("xgboost", reason=BOOSTING).XGBRanker(n_estimators=3)
    else:
        estimator = pytest.importorskip("catboost", reason=BOOSTING).CatBoostRanker(iterations=3, **QUIET)
    result = run(estimator, frame, session)
    window = result.windows.iloc[0]
    train = frame.loc[window["train_start"] : window["train_end"]]
    test = frame.loc[window["test_start"] : window["test_end"]]
    sizes = train.groupby("day").size().to_numpy()
    queries = {"group_id": np.repeat(range(len(sizes)), sizes)} if ranker == "catboost" else {"group": sizes}
    fitted = clone(estimator).fit(train[FEATURES], train["y"], **queries)
    np.testing.assert_array_equal(result.prediction.loc[test.index], fitted.predict(test[FEATURES]))
    assert list(result.metrics.index) == ["ic", "rank_ic"]


@pytest.mark.parametrize("package", ["xgboost", "catboost"])
@pytest.mark.parametrize("kind", ["regressor", "stops early", "two classes", "three classes"])
def test_other_boosting_libraries(package: str, kind: str, session: Session) -> None:
    """Missing features and labels, early stopping, and classes: the same as fitting by hand."""
    library: Any = pytest.importorskip(package, reason=BOOSTING)
    frame, arguments = table(list("ABCDEF")), {}
    frame.iloc[::7, 1] = np.nan
    options: dict[str, Any] = {"n_estimators": 5, "n_jobs": 2} if package == "xgboost" else {"iterations": 5, **QUIET}
    classes = {"two classes": 2, "three classes": 3}.get(kind)
    if classes:
        frame = frame.dropna(subset="y")
        frame["y"] = pd.qcut(frame["y"], classes, labels=False)
    elif kind == "stops early":
        options |= {"n_estimators" if package == "xgboost" else "iterations": 60, "early_stopping_rounds": 2}
        arguments = {"valid": "2 months"}
    prefix = {"xgboost": "XGB", "catboost": "CatBoost"}[package]
    estimator = getattr(library, f"{prefix}{'Classifier' if classes else 'Regressor'}")(**options)
    result = run(estimator, frame, session, **arguments)
    window = result.windows.iloc[1]
    parts = {
        name: frame.loc[window[f"{name}_start"] : window[f"{name}_end"]]
        for name in ("train", "valid", "test")
        if f"{name}_start" in window
    }
    known = {name: rows.dropna(subset="y") for name, rows in parts.items()}
    given = {"eval_set": [(known["valid"][FEATURES], known["valid"]["y"])]} if arguments else {}
    fitted = clone(estimator).fit(known["train"][FEATURES], known["train"]["y"], **given)
    expected = (fitted.predict_proba if classes else fitted.predict)(parts["test"][FEATURES])
    found = result.prediction.loc[parts["test"].index].to_numpy()
    np.testing.assert_array_equal(found, expected[:, 1] if classes == 2 else expected)
    assert (result.windows["status"] == "done").all()


def test_a_ranker_of_catboost_stops_early(session: Session) -> None:
    """The valid segment of CatBoost's ranker has queries too."""
    library: Any = pytest.importorskip("catboost", reason=BOOSTING)
    frame = table(list("ABCDEF")).dropna()
    frame["y"] = frame.groupby("day")["y"].rank().astype(int)
    estimator = library.CatBoostRanker(iterations=40, early_stopping_rounds=2, **QUIET)
    result = run(estimator, frame, session, valid="2 months")
    window = result.windows.iloc[0]
    pools = [
        library.Pool(rows[FEATURES], rows["y"], group_id=rows.groupby("day").ngroup())
        for name in ("train", "valid")
        for rows in [frame.loc[window[f"{name}_start"] : window[f"{name}_end"]]]
    ]
    fitted = clone(estimator).fit(pools[0], eval_set=pools[1])
    test = frame.loc[window["test_start"] : window["test_end"]]
    np.testing.assert_array_equal(result.prediction.loc[test.index], fitted.predict(test[FEATURES]))
    assert fitted.tree_count_ < 40


def test_catboost_uses_the_threads_of_the_session(session: Session) -> None:
    """CatBoost uses the threads of the session in a pipeline too; a smaller number of one's own is kept."""
    library: Any = pytest.importorskip("catboost", reason=BOOSTING)
    for given, expected in ((None, 2), (1, 1), (-1, 2), (64, 2)):
        options = {} if given is None else {"thread_count": given}
        model = SklearnModel(make_pipeline(SimpleImputer(), library.CatBoostRegressor(iterations=1, **options)))
        with rollforge.using(session):
            assert model._limited(model.estimator).steps[-1][1].get_param("thread_count") == expected


def test_weights_and_static_features(session: Session) -> None:
    """Weights count in training only; a static feature has the entity's value in each row."""
    frame = table(list("ABC")).dropna()
    frame["w"] = np.random.default_rng(1).random(len(frame))
    static = pd.DataFrame({"size": [1.0, 5.0, 2.0]}, index=list("CAB"))
    for estimator, name in (
        (Ridge(), "sample_weight"),
        (make_pipeline(MinMaxScaler(), Ridge()), "ridge__sample_weight"),
    ):
        result = run(estimator, frame, session, weight="w", static=static)
        whole = frame.join(static, on="stock")
        window = result.windows.iloc[0]
        train = whole.loc[window["train_start"] : window["train_end"]]
        test = whole.loc[window["test_start"] : window["test_end"]]
        columns = [*FEATURES, "size"]
        fitted = clone(estimator).fit(train[columns], train["y"], **{name: train["w"].to_numpy()})
        np.testing.assert_array_equal(result.prediction.loc[test.index], fitted.predict(test[columns]))


def test_early_stopping_uses_the_valid_segment(session: Session) -> None:
    frame = table(list("ABCDEF")).dropna()
    estimator = LGBMRegressor(n_estimators=200, early_stopping_rounds=3, verbose=-1, num_leaves=7)
    result = run(estimator, frame, session, valid="2 months", train="4 months")
    window = result.windows.iloc[0]
    train, valid, test = (
        frame.loc[window[f"{name}_start"] : window[f"{name}_end"]] for name in ("train", "valid", "test")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LightGBM's newer name for it
        fitted = clone(estimator).fit(train[FEATURES], train["y"], eval_set=[(valid[FEATURES], valid["y"])])
    assert fitted.best_iteration_ < 200
    np.testing.assert_array_equal(result.prediction.loc[test.index], fitted.predict(test[FEATURES]))


@pytest.mark.parametrize(
    "model",
    [
        LinearModel(estimator="ridge", alpha=1e-9, fit_intercept=True),
        {"class": "LinearModel", "module_path": "rollforge.models", "kwargs": {"fit_intercept": True}},
    ],
    ids=["object", "description"],
)
def test_models_of_rollforge(model: object, session: Session) -> None:
    """Models of Rollforge are given as an object or as a description."""
    frame = table(list("ABC"))
    linear = by_hand(Ridge(alpha=1e-9), frame, result := run(model, frame, session))
    np.testing.assert_allclose(result.prediction, linear, atol=1e-5)
    assert result.experiment_name.startswith("LinearModel-")


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("2021-10-30", "2021-11-02", "2021-10-30 00:00+02:00", "2021-11-02 23:00+01:00"),
        ("2021-10-31 02:00", "2021-11-02 05:00", "2021-10-31 02:00+02:00", "2021-11-02 05:00+01:00"),
        ("2021-10-30 12:00", "2021-10-31 02:00", "2021-10-30 12:00+02:00", "2021-10-31 02:00+01:00"),
    ],
)
def test_bounds_are_local_times_where_an_hour_occurs_twice(
    start: str, end: str, first: str, last: str, session: Session
) -> None:
    """The second occurrence of the hour belongs to an end, the first one to a start."""
    hours = pd.date_range("2021-10-20", periods=20 * 24, freq="h", tz="Europe/Berlin", name="time")
    frame = table(["A", "B"], ("time", "sensor"), hours)
    found = run(Ridge(), frame, session, train=200, step=100, start=start, end=end).prediction
    times = found.index.get_level_values("time")
    assert (times[0], times[-1]) == (pd.Timestamp(first), pd.Timestamp(last))
    assert str(times.tz) == "Europe/Berlin"


def test_features_may_come_from_any_iterable(session: Session) -> None:
    """A generator is read once."""
    frame = table(list("ABC"))
    listed = run(Ridge(), frame, session, features=FEATURES[:2])
    generated = run(Ridge(), frame, session, features=(name for name in FEATURES[:2]))
    pd.testing.assert_series_equal(listed.prediction, generated.prediction)


@pytest.mark.parametrize("place", ["/proc/nowhere", "a file"])
def test_a_home_that_cannot_be_written_is_one_message(
    place: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / place))
    with pytest.raises(ConfigError, match=r"cannot be written.*ROLLFORGE_HOME"):
        run(Ridge(), table(list("AB")), session)


class Hidden(Model):
    """A model whose argument is not an attribute, so that a copy of it has no description."""

    def __init__(self, value: float) -> None:
        self.kept = value

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        raise NotImplementedError


def test_worker_processes_predict_the_same(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes; the tasks and runs are those of an experiment, and are not trained again: no process starts for them."""
    started = []
    start = WorkerProcess._start
    monkeypatch.setattr(WorkerProcess, "_start", lambda process: started.append(process) or start(process))
    frame = table(list("ABC"))
    alone = run(Ridge(), frame, session, experiment_name="alone")
    together = run(Ridge(), frame, session, experiment_name="together", jobs=2)
    assert len(started) == 2
    pd.testing.assert_series_equal(alone.prediction, together.prediction, check_exact=True)
    store = open_store(session.store_uri)
    assert store.count("together") == {"done": 4}
    before = {r.id: r.finished_at for r in store.query("together")}
    again = run(Ridge(), frame, session, experiment_name="together", jobs=2)
    assert len(started) == 2
    assert {r.id: r.finished_at for r in store.query("together")} == before
    pd.testing.assert_series_equal(again.prediction, together.prediction, check_exact=True)
    recorders = again.experiment.list_recorders()
    assert len(recorders) == 4
    chosen = run(Ridge(), frame, session, experiment_name="chosen", jobs=None, executor=InProcess())
    pd.testing.assert_series_equal(chosen.prediction, together.prediction, check_exact=True)
    assert {r.worker for r in store.query("chosen")} == {process_name()}
    assert run(Ridge(alpha=3.0), frame, session).experiment_name != run(Ridge(), frame, session).experiment_name


SCRIPT = """
import os, sys
import numpy as np
import pandas as pd

import rollforge
from sklearn.base import BaseEstimator, RegressorMixin

FACTOR = 0.5

def scaled(value):
    return FACTOR * value

def note_process():
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")

class Constant(RegressorMixin, BaseEstimator):
    def __init__(self, times=1.0):
        self.times = times
    def fit(self, X, y):
        note_process()
        self.value_ = self.times * scaled(float(y.mean()))
        return self
    def predict(self, X):
        return np.full(len(X), self.value_)

class Mean(rollforge.Model):
    def __init__(self, times=1.0):
        self.times = times
    def fit(self, dataset):
        note_process()
        label = dataset.prepare("train", col_set="label").iloc[:, 0]
        self.value = self.times * scaled(float(label.mean()))
    def predict(self, dataset, segment="test"):
        return pd.Series(self.value, dataset.prepare(segment, col_set="feature").index)

frame = pd.read_parquet("table.parquet")
session = rollforge.Session(tracking_uri="folder:runs", store_uri="sqlite:///tasks.db", threads=2)
found = {}
for model in (Constant(2.0), Mean(3.0)):
    found[type(model).__name__] = rollforge.walk_forward(
        model, frame, label="y", train="6 months", step="quarter", jobs=2, session=session
    ).prediction
pd.DataFrame(found).to_parquet("prediction.parquet")
assert len(open("pids").read().split()) == 2 * 4
assert str(os.getpid()) not in open("pids").read().split(), "trained in the main process"
assert __file__ and "__main__" in sys.modules
"""


@pytest.mark.parametrize("step", ["month", "quarter", "3 weeks", "20B", 100])
def test_as_many_processes_as_windows_can_start_before_the_table_is_stored(session: Session, step: Any) -> None:
    """The number of windows that is expected before the tasks exist is that of the windows."""
    windows = run(Ridge(), table(["A"]).drop(index=DAYS[200:230], level=0), session, step=step).windows
    test = [str(windows["test_start"].iloc[0].date()), str(DAYS[-1].date())]
    days = DAYS.delete(slice(200, 230)).to_numpy().astype("M8[D]")
    assert _expected_windows({"test": test}, days, step) == len(windows)


@pytest.mark.slow
def test_a_class_of_a_script_is_trained_in_worker_processes(tmp_path: Path) -> None:
    """The class of an estimator or a model, and a function and a global variable that it uses, are not in a module, and the
    script has no ``if __name__ == "__main__"``."""
    frame = table(list("AB"))
    frame.to_parquet(tmp_path / "table.parquet")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "ROLLFORGE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "prediction.parquet")
    for name, times in (("Constant", 1.0), ("Mean", 1.5)):
        starts = [found.index[0][0], pd.Timestamp("2020-10-01"), pd.Timestamp("2021-01-01"), pd.Timestamp("2021-04-01")]
        for start in starts:  # the label of the last day before looks at the first one
            before = DAYS[start > DAYS][:-1]
            train = frame.loc[max(start - pd.DateOffset(months=6), DAYS[0]) : before[-1], "y"].dropna()
            assert found[name].loc[start].to_numpy() == pytest.approx(times * train.mean(), rel=1e-6)


TRAINING = SCRIPT.partition("frame = ")[0] + (
    "from sklearn.linear_model import LinearRegression\n"
    "frame = pd.read_parquet('table.parquet')\n"
    "rollforge.walk_forward(Constant(), frame, label='y', train='6 months', start='2021-06-01', step=33, jobs=1)\n"
)
"""The code of a module that trains when it is imported."""


def run_code(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROLLFORGE_HOME": str(folder / "home")}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_module_that_trains_when_it_is_imported(tmp_path: Path) -> None:
    """A worker process that imports the module for its class ends with a message, and does not wait for its own task."""
    table(list("AB")).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "training.py").write_text(TRAINING, encoding="utf-8")
    done = run_code("import training", tmp_path)
    assert done.returncode == 1
    assert "The module 'training' starts training when a worker process imports it" in done.stderr.splitlines()[-1]


def test_a_process_of_another_program_imports_a_module_that_trains(tmp_path: Path) -> None:
    """Servers start processes that import an application; these are not worker processes, and may train."""
    table(list("AB")).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "training.py").write_text(TRAINING.replace("(Constant()", "(LinearRegression()"), encoding="utf-8")
    done = run_code(
        "import importlib, multiprocessing\n"
        "process = multiprocessing.get_context('spawn').Process(target=importlib.import_module, args=('training',))\n"
        "process.start()\nprocess.join()\nraise SystemExit(process.exitcode)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_model_defined_on_the_spot(session: Session) -> None:
    """A model whose class is not in a module is trained like others; if it is unchanged, not again."""

    class Last(Model):
        def __init__(self, times: float = 1.0) -> None:
            self.times = times

        def fit(self, dataset: Any) -> None:
            self.value = self.times * float(dataset.prepare("train", col_set="label").iloc[-1, 0])

        def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
            return pd.Series(self.value, dataset.prepare(segment, col_set="feature").index)

    frame = table(list("AB")).dropna()
    result = run(Last(3.0), frame, session)
    assert result.experiment_name.startswith("Last-")
    for _, window in result.windows.iterrows():
        expected = 3 * frame.loc[: window["train_end"], "y"].iloc[-1]
        assert (result.prediction.loc[window["test_start"] : window["test_end"]] == expected).all()
    again = run(Last(3.0), frame, session)
    assert set(again.experiment.list_recorders()) == set(result.experiment.list_recorders())
    assert run(Last(2.0), frame, session).experiment_name != result.experiment_name
    kept = next(iter(result.experiment.list_recorders().values())).load_object("params.pkl", trusted=True)
    assert kept.model.times == 3.0


@pytest.mark.parametrize("passed", ["model", "module"])
def test_a_module_of_pytorch_defined_on_the_spot(passed: str, session: Session) -> None:
    """The module of a model, or the model itself, predicts the same as one from a module of Python."""
    torch = pytest.importorskip("torch", reason="not installed: pip install torch")
    pytest.importorskip("skorch", reason="not installed: pip install skorch")

    class Line(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(len(FEATURES), 1)

        def forward(self, x: Any) -> Any:
            return super().forward(x).squeeze(-1)

    class Mine(TorchModel):
        pass

    options: dict[str, Any] = {"n_epochs": 2, "GPU": -1, "seed": 1}
    frame = table(list("ABC"))
    given = (
        TorchModel(Line, **options)
        if passed == "module"
        else Mine("torch.nn.Linear", {"in_features": 3, "out_features": 1}, **options)
    )
    result = run(given, frame, session, train=300, step=100)
    plain = TorchModel("torch.nn.Linear", {"in_features": 3, "out_features": 1}, **options)
    expected = run(plain, frame, session, train=300, step=100)
    np.testing.assert_array_equal(result.prediction, expected.prediction)
    kept = next(iter(result.experiment.list_recorders().values())).load_object("params.pkl", trusted=True)
    assert set(kept.model.weights) == {"weight", "bias"}


SCALE = 2.0
"""A global variable of the next test's class."""


def scaled(rows: int) -> np.ndarray:
    """Called by the class of the next test."""
    return np.full(rows, SCALE)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "pipeline"])
def test_a_class_defined_on_the_spot_is_not_changed(
    inside: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call trains nothing again. A function or a global variable that was edited is
    noticed, also after a model was read back."""

    class Mine(RegressorMixin, BaseEstimator):
        def fit(self, x: object, y: object) -> Mine:
            self.fitted_ = True
            return self

        def predict(self, x: pd.DataFrame) -> np.ndarray:
            return scaled(len(x))

    estimator = make_pipeline(FunctionTransformer(lambda x: x * SCALE), Mine()) if inside else Mine()
    frame = table(list("AB"))
    method = Mine.predict
    first = run(estimator, frame, session)
    recorders = first.experiment.list_recorders()
    next(iter(recorders.values())).load_object("params.pkl", trusted=True)
    again = run(estimator, frame, session)
    assert again.experiment_name == first.experiment_name
    assert set(again.experiment.list_recorders()) == set(recorders)
    assert Mine.predict is method
    assert first.prediction.unique() == 2.0
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    edited = run(estimator, frame, session)
    assert edited.prediction.unique() == 3.0
    monkeypatch.setitem(globals(), "scaled", lambda rows: np.full(rows, 4.0))
    assert run(estimator, frame, session).prediction.unique() == 4.0
    assert Mine().predict(frame)[0] == 4.0


def test_the_code_of_a_module_is_part_of_a_call(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call trains nothing again; one after a function was edited that a class of the module calls does."""
    (tmp_path / "edited_code.py").write_text("def value():\n    return 2.0\n")
    (tmp_path / "edited_model.py").write_text(
        "import numpy as np\nimport edited_code\nfrom sklearn.base import BaseEstimator, RegressorMixin\n"
        "class Own(RegressorMixin, BaseEstimator):\n"
        "    def fit(self, x, y):\n        self.fitted_ = True\n        return self\n"
        "    def predict(self, x):\n        return np.full(len(x), edited_code.value())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edited_model")
    for name in (
        "edited_model",
        "edited_code",
    ):  # imported by importlib, which does not know that they end with the test
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    estimator, frame = make_pipeline(MinMaxScaler(), module.Own()), table(list("AB"))
    first, again = run(estimator, frame, session), run(estimator, frame, session)
    assert again.experiment_name == first.experiment_name
    monkeypatch.setattr(module.edited_code, "value", eval("lambda: 3.0"))
    assert run(estimator, frame, session).prediction.unique() == 3.0
    assert first.prediction.unique() == 2.0


CELLS = [
    """
import os
import numpy as np, pandas as pd, rollforge
from sklearn.base import BaseEstimator, RegressorMixin

def times(values):
    return 2 * values

class Constant(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.pid_, self.value_ = os.getpid(), float(times(y.mean()))
        return self
    def predict(self, X):
        return np.full(len(X), self.value_)
""",
    """
frame = pd.read_parquet("table.parquet")
session = rollforge.Session(tracking_uri="folder:runs", store_uri="sqlite:///tasks.db", threads=2)
result = rollforge.walk_forward(
    Constant(), frame, label="y", train="6 months", step="quarter", jobs=2, session=session
)
models = [recorder.load_object("params.pkl", trusted=True) for recorder in result.experiment.list_recorders().values()]
assert len(models) == 4 and os.getpid() not in [model.estimator.pid_ for model in models]
result.prediction.to_frame().to_parquet("prediction.parquet")
""",
    "result.plot.windows()",
]


@pytest.mark.slow
def test_a_class_of_a_notebook_is_trained_in_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class and a function that it calls are defined in a cell of a real notebook; a figure can be shown."""
    nbformat = pytest.importorskip("nbformat", reason=NOTEBOOK)
    nbclient = pytest.importorskip("nbclient", reason=NOTEBOOK)
    pytest.importorskip("ipykernel", reason=NOTEBOOK)
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    frame = table(list("AB"))
    frame.to_parquet(tmp_path / "table.parquet")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = pd.read_parquet(tmp_path / "prediction.parquet")["prediction"]
    assert found.iloc[0] == pytest.approx(2 * frame.loc[:"2020-06-29"]["y"].mean(), rel=1e-12)
    (shown,) = notebook.cells[2].outputs
    assert "application/vnd.plotly.v1+json" in shown["data"]


# -- tables and arguments that cannot be used --------------------------------------------------------------------------


def columns() -> pd.DataFrame:
    return table(list("ABCDE")).reset_index()


def with_value(column: str, row: int, value: object) -> pd.DataFrame:
    frame = columns()
    if isinstance(value, str):
        frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


def mixed_zones() -> pd.DataFrame:
    frame = columns()
    zones = ["UTC", "Asia/Tokyo"]
    return frame.assign(day=[day.tz_localize(zones[i == 9]) for i, day in enumerate(frame["day"])])


UNUSABLE: list[tuple[Any, dict[str, Any], str]] = [
    (
        lambda: pd.concat([columns(), columns().iloc[[7]]]),
        {},
        r"'C' \(column 'stock'\) has two rows at 2020-01-02.*\(column 'day'\): rows 7 and \d+",
    ),
    (
        lambda: columns().drop(columns="stock"),
        {},
        "There are two rows at 2020-01-01.*specify the column of entities with entity=",
    ),
    (
        lambda: columns().iloc[::-1],
        {},
        r"rows of 'A' \(column 'stock'\) are not in chronological order of 'day': .*\(row 9\) follows .*\(row 4\)",
    ),
    (mixed_zones, {}, "'day' mixes time zones: UTC and, in row 9, Asia/Tokyo"),
    (lambda: columns().assign(d="x"), {}, "Several columns could be the entity: stock, d"),
    (
        lambda: columns().assign(d="x"),
        {"entity": "stock"},
        r"'d' does not hold numbers: .*'x' in row 0 \(2020-01-01.*'A'",
    ),
    (lambda: with_value("a", 3, "bad"), {"entity": "stock"}, r"'a' does not hold numbers: .*'bad' in row 3 .*'D'"),
    (lambda: columns().assign(d=pd.Categorical(["x"] * len(columns()))), {"entity": "stock"}, "'d'.*categories"),
    (lambda: with_value("b", 9, np.inf), {}, r"'b' has 1 infinite value, the first in row 9 \(2020-01-02.*'E'"),
    (lambda: with_value("y", 9, -np.inf), {}, r"'y' has 1 infinite value, the first in row 9"),
    (lambda: columns().assign(d=columns()["y"]), {}, "feature 'd' has the values of the label 'y'"),
    (lambda: columns().assign(d=columns()["y"].astype("float32")), {}, "feature 'd' has the values of the label 'y'"),
    (lambda: table(["A"]).rename_axis(index=["x", "x"]), {}, "has two index levels 'x'"),
    (lambda: columns()["y"], {}, "found a pandas Series. Pass the frame with the columns of the features"),
    (lambda: columns().to_numpy(), {}, r"found a numpy ndarray. Name its columns: pandas.DataFrame\(frame, columns="),
    (lambda: columns().to_dict("list"), {}, r"found a dict. Convert it first: pandas.DataFrame\(frame\)"),
    (lambda: columns().head().to_dict("records"), {}, r"found a list. Convert it first: pandas.DataFrame\(frame\)"),
    (lambda: [columns()], {}, r"found a list. Join them first: pandas.concat\(frame\)"),
    (lambda: ["a.parquet"], {}, r"found a list. Read the files first: pandas.concat\(map\(pandas.read_parquet, frame"),
    (
        lambda: pyarrow.dataset.dataset(pa.table({"a": [1]})),
        {},
        r"found a pyarrow InMemoryDataset. Convert it first: frame.to_table\(\)",
    ),
    (lambda: pa.chunked_array([[1.0]]), {}, r"found a pyarrow ChunkedArray. Convert it first: frame.to_pandas\(\)"),
    (lambda: None, {}, "found None"),
    (
        lambda: Path(__file__).parent,
        {},
        r"tests' is a folder. Read its Parquet files first: pandas.read_parquet\('.*tests'\)",
    ),
    (
        lambda: "https://example.org/a.parquet",
        {},
        r"is an address, .*Read it first: pandas.read_parquet\('https://example.org/a.parquet'\)",
    ),
    (lambda: "nowhere/*.parquet", {}, r"does not exist. Read several files with pandas.concat"),
    (columns, {"weight": pd.Series([1.0])}, "weight: must be the name of a column, found a pandas Series.*weight=…"),
    (columns, {"groups": {"A": "x"}}, r"groups: must be the name of a column, found \{'A': 'x'\}"),
    (columns, {"label": [["y"]]}, r"label: must be the name of a column, found \['y'\]"),
    (columns, {"features": []}, "features: must name at least one column"),
    (columns, {"experiment_name": 3}, "experiment_name: must be text, found 3"),
    (columns, {"allow_gaps": "no"}, "allow_gaps: must be true or false, found 'no'"),
    (columns, {"static": {"A": 1.0}}, "static: must be a pandas frame whose index contains the entities, found a dict"),
    (
        columns,
        {"static": pd.DataFrame({"stock": list("ABCDE"), "s": 1.0})},
        r"static has no row for 5 of the frame's 5 entities, .* Its index must contain them: static.set_index",
    ),
    (
        lambda: table(["A"]).droplevel("stock"),
        {"static": pd.DataFrame({"s": [1.0]})},
        "static: is used with entities, but the frame is a single series",
    ),
    (columns, {"train": pd.Timedelta(hours=36)}, "train: must be a whole number of days, found .*number of periods"),
    (
        columns,
        {"valid": "36h"},
        "valid: must be a whole number of days, found '36h'. For parts of a day, write a number",
    ),
    (columns, {"train": np.timedelta64(1, "M")}, "train: must be a whole number of days, found np.timedelta64"),
    (columns, {"train": pd.Timedelta(0)}, "train: must be a whole number of days"),
    (columns, {"train": 30.0}, r"train: must be a number of periods or a duration such as .*, found 30\.0"),
    (columns, {"step": pd.DateOffset(months=1)}, "step: <DateOffset: months=1> does not say on .*Write 'month'"),
    (columns, {"train": pd.DateOffset(month=3)}, "train: must be a number of periods or a duration.*month=3"),
    (columns, {"step": pd.offsets.CDay(holidays=["2020-01-01"])}, "step: must be a number of periods or a duration"),
    (columns, {"horizon": pd.Timedelta(days=5)}, "horizon: counts periods of the frame, so it is a whole number"),
    (columns, {"label_periods": np.timedelta64(5, "D")}, "label_periods: counts periods of the frame"),
    (columns, {"session": "mine"}, "session: must be a rollforge.Session, found 'mine'"),
    (
        columns,
        {"train": 60, "start": "2020-03-24"},
        "^train: in the window that tests from 2020-03-24, the segment would",
    ),
    (columns, {"train": "500y"}, "frame has 391 periods, .*train='500y' needs all"),
    (
        columns,
        {"valid": "5000y", "start": "2020-09-01"},
        "^valid: in the window that tests from 2020-09-01, the segment",
    ),
    (columns, {"features": ["a", "y"]}, "features: contains the label 'y'"),
    (columns, {"features": ["a", "d"]}, "features='d': the frame has no such column"),
    (columns, {"label": "z"}, "label='z': the frame has no such column"),
    (columns, {"label": "stock"}, "label='stock' is a key column"),
    (columns, {"entity": "shop"}, "entity='shop': the frame has no such column"),
    (lambda: with_value("stock", 4, None), {}, "'stock' has no entity in 1 row, the first of which is row 4"),
    (lambda: with_value("day", 4, pd.NaT), {}, "'day' has 1 missing time, the first in row 4"),
    (
        lambda: columns().assign(day=pd.date_range("2020-01-01", periods=len(columns()), freq="ms")),
        {},
        "several times within a second",
    ),
    (lambda: columns().assign(day="soon"), {"time": "day"}, "'day' does not hold times: .*soon"),
    (
        lambda: columns().assign(day=lambda f: f.groupby("stock").cumcount()),
        {"time": "day"},
        r"in row 0, '0' is not a date.*to_timedelta\(frame\['day'\], unit='s'\).*to_timedelta\(frame\['day'\], unit='D'\)",
    ),
    (lambda: columns()[["day", "stock", "y"]], {}, "no column of features"),
    (lambda: columns().iloc[:0], {}, "has no rows"),
    (lambda: columns().rename(columns={"b": "a"}), {}, "two columns 'a'"),
    (
        lambda: pa.table([pa.array(columns()[n]) for n in ("day", "stock", "y", "a", "a")], list("dsyaa")),
        {},
        "two columns 'a'",
    ),
    (lambda: [1, 2], {}, "found a list"),
    (lambda: "nowhere.parquet", {}, "'nowhere.parquet' does not exist"),
    (columns, {"train": "9y"}, "frame has 391 periods, from 2020-01-01 to 2021-06-30, and train='9y' needs all"),
    (columns, {"train": 380, "valid": 20}, "train=380 and valid=20 need all of them"),
    (columns, {"train": 400, "valid": None}, "train=400 needs all of them"),
    (
        columns,
        {"static": pd.DataFrame({"y": [1.0] * 5}, list("ABCDE"))},
        "The column 'y' is in the frame and in static. Rename one of them.",
    ),
    (columns, {"train": "blue"}, "train: 'blue' is not an offset"),
    (columns, {"step": "blue"}, "step: 'blue' is not an offset"),
    (columns, {"step": 0}, "step: must be at least 1 period"),
    (columns, {"horizon": -1}, "horizon: must be a whole number, at least 0"),
    (columns, {"horizon": 300}, r"horizon=300 leaves nothing of the train segment, which has \d+ periods"),
    (
        columns,
        {"start": "2020-02-03"},
        "^train: in the window that tests from 2020-02-03, the segment would begin before",
    ),
    (columns, {"start": "2030-01-01"}, "Nothing is left to predict"),
    (columns, {"rtype": "slide"}, "Did you mean 'sliding'"),
    (columns, {"jobs": "2"}, "jobs: must be a whole number"),
    (columns, {"executor": InProcess()}, "executor: replaces jobs, so pass only one of them"),
    (columns, {"estimator": Ridge}, r"estimator: must be an estimator.*Write Ridge\(\)"),
    (columns, {"estimator": rollforge.LinearModel(), "weight": "c"}, "weight: is used with estimators of scikit-learn"),
    (
        columns,
        {"estimator": LogisticRegression()},
        "classes, which are text or at most 1000 whole numbers, but 'y' has",
    ),
    (lambda: columns().assign(y=1.0), {"estimator": LogisticRegression()}, "two classes or more, but 'y' has 1"),
    (columns, {"estimator": LogisticRegression(), "label": ["y", "c"]}, "label: a classifier predicts one label"),
    (
        lambda: columns().assign(y="x"),
        {"entity": "stock"},
        "'y' does not hold numbers: .*'x' in row 0 .*Convert it, or use a",
    ),
    (
        lambda: columns().assign(y="x"),
        {"entity": "stock", "estimator": LinearSVC()},
        r"estimator: LinearSVC has no predict_proba, .*'y'.*Wrap it: CalibratedClassifierCV\(LinearSVC",
    ),
    (lambda: columns().assign(y="x"), {"estimator": LogisticRegression()}, "two classes or more, .*'y' has 1: \\['x'"),
    (
        lambda: with_value("y", 9, "x").assign(y=lambda f: f["y"].where(f["y"].eq("x"), 1)),
        {"estimator": LogisticRegression()},
        r"'y' has classes that are text and classes that are numbers: 1 in row 0 .*, and 'x' in row 9 \(2020-01-02.*'E'",
    ),
    (
        lambda: columns().assign(y=lambda f: pd.cut(f["y"], 3)),
        {"estimator": LogisticRegression()},
        r"'y' has classes that are neither text, .*: Interval\(.*in row \d+ .*astype\(str\)",
    ),
    (
        lambda: columns().assign(y=lambda f: np.where(f["y"] > 0, "up", "down"), d=lambda f: 7.0 * (f["y"] == "down")),
        {"estimator": LogisticRegression()},
        "feature 'd' has another value for each class of the label 'y', so a model would read the answer",
    ),
    (
        lambda: columns().assign(y=lambda f: np.arange(len(f)) % 40, d=lambda f: 1000.0 - f["y"]),  # many classes
        {"estimator": LogisticRegression()},
        "feature 'd' has another value for each class of the label 'y', so a model would read the answer",
    ),
    (  # of the rows that have the feature, the label has two values; of all rows, many
        lambda: columns().assign(
            y=lambda f: np.where(np.arange(len(f)) % 4, np.arange(len(f)), np.arange(len(f)) % 8),
            d=lambda f: np.where(np.arange(len(f)) % 4, np.nan, 9.0 - f["y"]),
        ),
        {"features": ["c", "d"]},
        "feature 'd' has another value for each class of the label 'y', so a model would read the answer",
    ),
    (
        lambda: columns().assign(d=lambda f: (3 - 2 * f["y"]).astype(np.float32).where(f["c"] > 0)),
        {"features": ["c", "d"]},
        r"feature 'd' is -2 times the label 'y' \+ 3 in all rows, so a model would read the answer\. Leave it out",
    ),
    (
        lambda: columns().assign(y=lambda f: 2**53 + np.arange(len(f)) % 2 * 2),
        {"estimator": LogisticRegression()},
        r"'y' has the class 9007199254740994\. Classes beyond 2\*\*53 cannot be told apart .*astype\(str\)",
    ),
    (
        lambda: columns().assign(y=lambda f: np.array([2**53 + i % 2 for i in range(len(f))], object)),
        {"estimator": LogisticRegression(), "entity": "stock"},
        r"'y' has the class 9007199254740993 in row 1 \(.*\)\. Classes beyond",
    ),
    (columns, {"horizon": [1, 5]}, "horizon: has 2 horizons for 1 label"),
    (columns, {"label": ["y", "c"], "horizon": [1, 1]}, "horizon: has 1 twice"),
    (columns, {"label": ["y", "y"]}, "label: names 'y' twice"),
    (columns, {"label": {"y": 1, "c": "x"}, "horizon": 1}, "horizon.1: must be a whole number, at least 0; found 'x'"),
    (columns, {"label": {"y": 1}, "horizon": 5}, "horizon: is given by label"),
    (
        columns,
        {"estimator": copy.copy(Hidden(3.0))},
        "estimator: the Hidden has no description, because Hidden has no attribute",
    ),
    (
        columns,
        {"estimator": LGBMRegressor(early_stopping_rounds=3)},
        "valid: LGBMRegressor stops early.*pass valid='1M'",
    ),
    (columns, {"groups": "sector"}, "groups='sector': the frame has no such column"),
    (
        columns,
        {"static": pd.DataFrame({"s": [1.0]}, ["A"])},
        "static has no row for 4 of the frame's 5 entities, such as 'B'",
    ),
]


@pytest.mark.parametrize(
    ("frame", "arguments", "message"), UNUSABLE, ids=[re.sub(r"\W+", "_", m)[:40] for *_, m in UNUSABLE]
)
def test_unusable_input_is_one_message(
    frame: Any, arguments: dict[str, Any], message: str, session: Session, tmp_path: Path
) -> None:
    """The message names the column, the row or the argument, and nothing is stored."""
    given = dict(arguments)
    estimator = given.pop("estimator", Ridge())
    with pytest.raises((DataError, ConfigError, DataNotFound, SegmentError), match=message) as caught:
        run(estimator, frame(), given.pop("session", session), **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tasks.db").exists()
    assert not list((tmp_path / "home").glob("frames/.*"))


@pytest.mark.parametrize(
    ("name", "reader"),
    [("a.csv", r"read_csv\('.*a.csv', parse_dates="), ("a.CSV.gz", r"read_csv"), ("a.xlsx", r"read_excel\("),
     ("a.feather", r"read_feather\("), ("a.tsv", r"read_csv\('.*', sep='\\t'")],
)  # fmt: skip
def test_a_file_of_another_format_says_how_to_read_it(name: str, reader: str, session: Session, tmp_path: Path) -> None:
    (tmp_path / name).write_text("day,stock\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}' is not a Parquet file. Read it first: pandas.{reader}"):
        run(Ridge(), tmp_path / name, session)


def test_a_lazy_frame_is_collected_first(session: Session) -> None:
    polars = pytest.importorskip("polars", reason=BOOSTING)
    with pytest.raises(DataError, match=r"found a polars LazyFrame. Convert it first: frame.collect\(\)"):
        run(Ridge(), polars.LazyFrame({"y": [1.0]}), session)


@pytest.mark.parametrize("dtype", ["Int64", "boolean"])
@pytest.mark.parametrize("form", ["pandas", "arrow"])
def test_a_missing_value_of_a_nullable_column_is_missing(form: str, dtype: str, session: Session) -> None:
    """In a label it excludes the row from training; in a feature it is passed to the estimator."""
    frame = columns()
    for name, by in (("y", 7), ("c", 5)):
        frame[name] = pd.array(np.where(np.arange(len(frame)) % by == 0, None, frame["ab"[by == 5]] > 0), dtype=dtype)
    given = frame if form == "pandas" else pa.Table.from_pandas(frame)
    result = run(LGBMRegressor(n_estimators=3, verbose=-1), given, session)
    assert result.label.isna().sum() == frame.set_index(["day", "stock"])["y"].reindex(result.label.index).isna().sum()


def test_a_failed_window_names_its_cause(session: Session) -> None:
    """A feature with missing values is named; with allow_gaps, the other windows are returned."""
    frame = table(list("ABC"))
    frame.loc["2020-01-02", "b"] = np.nan
    with pytest.raises(
        TrainingFailed, match=r"1 of 4 windows failed.*values are missing in 'b'.*[^.]\. With allow_gaps"
    ):
        run(Ridge(), frame, session)
    result = run(Ridge(), frame, session, allow_gaps=True)
    assert result.windows["status"].tolist() == ["failed", "done", "done", "done"]
    assert result.prediction.index[0][0] == result.windows["test_start"].iloc[1]
    assert np.isnan(result.windows["rmse"].iloc[0])
    assert any("failed" in warning for warning in result.warnings)


def test_a_later_window_that_is_too_short_is_described(session: Session) -> None:
    """The message names the segment by its argument, and its days, which the table may lack in part."""
    frame = table(list("AB"))
    days = frame.index.get_level_values(0)
    frame = frame[(days < "2020-06-01") | days.isin(pd.date_range("2020-06-05", periods=50, freq="W-FRI"))]
    with pytest.raises(
        SegmentError, match=r"^train: nothing is left .*: all days from 2020-06-05 to 2020-06-12 are too close"
    ):
        run(Ridge(), frame, session, train="14D", step="week", horizon=2)


def test_the_figures_have_the_ic_of_each_day(session: Session) -> None:
    result = run(Ridge(), table(list("ABCDEF")), session)
    figure = result.plot.ic()
    assert np.nanmean(np.asarray(figure.data[0].y, float)) == pytest.approx(result.metrics["ic"], rel=1e-6)
    assert len(result.plot.performance()) > 1


def test_the_report_has_the_ic_of_the_metrics(session: Session, tmp_path: Path) -> None:
    result = run(Ridge(), table(list("ABCDEF")), session)
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{result.metrics['ic']:.4f}" in page
    assert result.experiment_name in page
    assert "<dd>y, over 2 trading days</dd>" in page


@pytest.mark.parametrize("estimator", [Ridge(), LogisticRegression()], ids=lambda e: type(e).__name__)
def test_the_report_shows_the_drift_of_each_feature(estimator: Any, session: Session, tmp_path: Path) -> None:
    """A feature that counts days leaves all bins of the train segment; a constant leaves none. Scores follow the count."""
    frame = table(list("ABC"))
    frame["a"] = np.repeat(np.arange(len(frame) // 3), 3)
    frame["b"] = 1.0
    frame["y"] = (
        frame["a"] > frame["a"].median() if isinstance(estimator, LogisticRegression) else frame["a"] + frame["c"]
    )
    result = run(estimator, frame, session, drift=True, start="2020-10-01")
    drift = drift_by_window(result.summary.tasks)[""]
    assert sorted(drift.index) == sorted(FEATURES)
    assert (drift.loc["a"] > 3).all()
    assert (drift.loc["b"] == 0).all()
    assert (drift.loc["c"].between(0, 1)).all()
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "far features and scores of the test segment" in page
    assert not drift_by_window(run(estimator, frame, session, start="2020-10-01").summary.tasks)
