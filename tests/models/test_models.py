"""Models: fitting on train, early stopping on valid, predicting any segment; and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ModelError, SegmentError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models import ConstantModel, HFLGBModel, LGBModel, LinearModel, Reweighter, XGBModel
from rollforge.session import Session, using
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

SEGMENTS = {
    "train": ("2020-01-01", "2020-03-31"),
    "valid": ("2020-04-01", "2020-04-30"),
    "test": ("2020-05-01", "2020-05-31"),
}


def market(labels: int = 1, missing: bool = False) -> pd.DataFrame:
    """Return features and a label that is a weighted sum of three of them plus a little noise."""
    random = np.random.default_rng(0)
    days, codes = pd.date_range("2020-01-01", "2020-05-31"), [f"I{i}" for i in range(20)]
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    x = random.standard_normal((len(index), 3))
    y = x @ [1.0, -2.0, 0.5] + 0.1 * random.standard_normal(len(index))
    if missing:
        y[:] = np.nan
    columns = [("feature", "a"), ("feature", "b"), ("feature", "c")] + [("label", f"y{i}") for i in range(labels)]
    values = np.column_stack([x, *[y] * labels]).astype(np.float32)
    return pd.DataFrame(values, index=index, columns=pd.MultiIndex.from_tuples(columns))


def dataset(labels: int = 1, segments: dict[str, Any] | None = None, missing: bool = False) -> DatasetH:
    """Return a dataset of the rows of :func:`market`."""
    return DatasetH(DataHandlerLP.from_df(market(labels, missing)), SEGMENTS if segments is None else segments)


def score(model: Any, data: DatasetH) -> float:
    """Return the correlation of prediction and label in the test segment."""
    prediction = model.predict(data)
    label = data.prepare("test", col_set="label", data_key="raw").iloc[:, 0]
    assert prediction.index.equals(label.index)
    return float(prediction.corr(label))


def test_the_model_of_intraday_bars_learns_which_labels_are_above_the_mean_of_their_time() -> None:
    """As LightGBM does from 0 and 1; a label that equals the mean counts as above."""
    frame, parameters = market(), {"num_boost_round": 5, "num_leaves": 5}
    first = frame.index.get_level_values("datetime") == frame.index[0][0]
    frame.loc[first, ("label", "y0")] = 0.25
    labels = frame[("label", "y0")].astype(np.float64)
    above = frame.copy()
    above[("label", "y0")] = (labels >= labels.groupby(level="datetime").transform("mean")).astype(np.float32)
    assert above.loc[first, ("label", "y0")].eq(1).all()
    assert 0.4 < above[("label", "y0")].mean() < 0.6
    found = []
    for model, data in ((HFLGBModel("binary", **parameters), frame), (LGBModel("binary", **parameters), above)):
        model.fit(DatasetH(DataHandlerLP.from_df(data), SEGMENTS))
        found.append(model.predict(DatasetH(DataHandlerLP.from_df(data), SEGMENTS)))
    pd.testing.assert_series_equal(*found, check_exact=True)
    assert found[0].between(0, 1).all()


@pytest.mark.parametrize("estimator", ["ols", "ridge"])
@pytest.mark.parametrize("intercept", [False, True])
def test_a_linear_model_finds_the_weights(estimator: str, intercept: bool) -> None:
    """The same as numpy's least squares on the same rows."""
    data = dataset()
    model = LinearModel(estimator, alpha=1e-6 if estimator == "ridge" else 0.0, fit_intercept=intercept)
    model.fit(data)
    assert model.coef_ is not None
    np.testing.assert_allclose(model.coef_, [1.0, -2.0, 0.5], atol=0.02)
    assert score(model, data) > 0.99


def test_nnls_has_no_negative_weights() -> None:
    """A weight that would be negative is 0."""
    model = LinearModel("nnls")
    model.fit(dataset())
    assert model.coef_ is not None
    assert model.coef_.min() == 0.0


def test_lightgbm_stops_early_and_keeps_its_curves() -> None:
    """Training stops when valid no longer improves; the metrics of each round can be logged."""
    data = dataset()
    model = LGBModel(learning_rate=0.3, num_leaves=8, num_boost_round=300, early_stopping_rounds=5)
    model.fit(data)
    curves = model.training_metrics()
    assert set(curves) == {"l2.train", "l2.valid"}
    assert len(curves["l2.valid"]) == len(curves["l2.train"]) < 300
    assert model.model.best_iteration == int(np.argmin(curves["l2.valid"])) + 1
    assert model.fit_seconds > 0
    assert score(model, data) > 0.9
    assert model.get_feature_importance().index[0] == "b"


def test_lightgbm_works_without_a_valid_segment() -> None:
    """LightGBM without a valid segment trains all rounds."""
    model = LGBModel(num_boost_round=7)
    model.fit(dataset(segments={k: v for k, v in SEGMENTS.items() if k != "valid"}))
    assert model.model.num_trees() == 7
    model.finetune(dataset(), num_boost_round=3)
    assert model.model.num_trees() == 10


def test_threads_are_capped_to_the_session() -> None:
    """A template's 20 threads become the session's number."""
    with using(Session(threads=1)):
        assert LGBModel(num_threads=20)._parameters()["num_threads"] == 1
        assert LGBModel(n_jobs=-1)._parameters()["num_threads"] == 1
    with using(Session(threads=4)):
        assert LGBModel(num_threads=2)._parameters()["num_threads"] == 2


WEIGHTED = {
    "lightgbm": lambda: LGBModel(
        num_boost_round=2, num_leaves=4, learning_rate=0.3, min_child_samples=1, min_data_in_bin=1, min_child_weight=0
    ),
    "linear": LinearModel,
    "xgboost": lambda: XGBModel(max_depth=3, eta=0.3, min_child_weight=0, tree_method="exact", num_boost_round=5),
}


class Weights(Reweighter):
    """Weights of rows, computed by a function of all rows."""

    def __init__(self, weigh: Callable[[pd.DataFrame], Any]) -> None:
        self.weigh = weigh

    def reweight(self, data: pd.DataFrame) -> Any:
        return self.weigh(data)


def predicted(name: str, frame: pd.DataFrame, weigh: Callable[[pd.DataFrame], Any] | None = None) -> pd.Series:
    """Fit a model to the rows of a frame, optionally with weights, and return its prediction of the test segment."""
    data, model = DatasetH(DataHandlerLP.from_df(frame), SEGMENTS), WEIGHTED[name]()
    model.fit(data, reweighter=None if weigh is None else Weights(weigh))
    return model.predict(data)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Return the rows of :func:`market`, with so few distinct values per feature that LightGBM keeps a bin for each."""
    frame = market()
    return frame.round({column: 1 for column in frame if column[0] == "feature"})


@pytest.mark.parametrize("name", WEIGHTED)
def test_samples_of_weight_0_do_not_count(name: str, rows: pd.DataFrame) -> None:
    """The prediction does not depend on their labels; with other weights it does."""

    def positive(data: pd.DataFrame) -> Any:
        return (data["feature"]["a"] > 0).to_numpy(float)

    spoilt = rows.copy()
    spoilt.loc[rows["feature"]["a"] <= 0, ("label", "y0")] += 100
    pd.testing.assert_series_equal(predicted(name, rows, positive), predicted(name, spoilt, positive))
    assert np.abs(predicted(name, spoilt) - predicted(name, spoilt, positive)).mean() > 10


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_sample_of_weight_2_counts_as_two(name: str, rows: pd.DataFrame) -> None:
    """The prediction equals that of a model for which these samples are duplicated."""
    twice = rows.index.get_level_values("instrument").isin(["I0", "I1", "I2", "I3", "I4"])
    rows.loc[twice, ("label", "y0")] += 3 * rows.loc[twice, ("feature", "a")]  # so that their weight matters
    again = rows[twice].rename(index=lambda code: f"{code} again", level="instrument")

    def double(data: pd.DataFrame) -> Any:
        return np.where(data.index.get_level_values("instrument").isin(["I0", "I1", "I2", "I3", "I4"]), 2.0, 1.0)

    weighted = predicted(name, rows, double)
    repeated = predicted(name, pd.concat([rows, again]).sort_index()).loc[weighted.index]
    np.testing.assert_allclose(weighted, repeated, atol=1e-3)
    assert np.abs(weighted - predicted(name, rows)).mean() > 0.1


@pytest.mark.parametrize("model", [LGBModel(num_boost_round=2), LinearModel(), XGBModel(max_depth=2)])
def test_invalid_data_and_calls_are_errors(model: Any) -> None:
    """Several labels, only missing labels, no train segment, prediction before fitting."""
    with pytest.raises(ModelError, match="not fitted"):
        model.predict(dataset())
    with pytest.raises(ModelError, match="has 2: y0, y1"):
        model.fit(dataset(labels=2))
    with pytest.raises(ModelError, match="labels of the 'train' segment are missing"):
        model.fit(dataset(missing=True))
    with pytest.raises(SegmentError, match="no segment 'train'"):
        model.fit(dataset(segments={"test": SEGMENTS["test"]}))


def test_unknown_losses_and_estimators_are_refused() -> None:
    """The message suggests the nearest valid name."""
    with pytest.raises(ModelError, match="'mse' or 'binary'"):
        LGBModel(loss="mae")
    with pytest.raises(ModelError, match="Did you mean 'ridge'"):
        LinearModel("rigde")


def test_the_constant_model_predicts_its_constant(tmp_path: Path) -> None:
    """The constant model predicts its constant for every row of the segment."""
    assert set(ConstantModel(0.5).predict(dataset())) == {0.5}


def test_xgboost_stops_early_and_is_saved_in_its_own_format(tmp_path: Path) -> None:
    """XGBoost predicts with the best round, threads are capped, and a recorder restores the same model."""
    data, rounds = dataset(), {}
    with using(Session(threads=1)):
        model = XGBModel(max_depth=4, eta=0.3, nthread=20)
        assert model._parameters()["nthread"] == 1
        model.fit(data, num_boost_round=400, early_stopping_rounds=5, evals_result=rounds)
    assert 5 < len(rounds["valid"]) < 400
    assert len(model.training_metrics()["rmse.train"]) == len(rounds["train"])
    assert score(model, data) > 0.97
    assert model.get_feature_importance().index[0] in ("a", "b", "c")
    files = LocalFiles(tmp_path)
    artifact.save(files, "params.pkl", model)
    found = artifact.find(files, "params.pkl")
    assert found is not None
    back = artifact.load_file(found)
    pd.testing.assert_series_equal(back.predict(data), model.predict(data))
    with pytest.raises(ModelError, match="not fitted"):
        XGBModel().predict(data)
