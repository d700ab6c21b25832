"""CatBoost: the parameters that are passed to it, and files that are checked before it reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("catboost", reason="no catboost: pip install 'rollforge[catboost]'")

from rollforge.errors import ArtifactUnreadable, ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models import CatBoostModel
from rollforge.models.catboost_file import check_model
from rollforge.session import Session, using
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

SEGMENTS = {
    "train": ("2022-01-03", "2022-02-11"),
    "valid": ("2022-02-14", "2022-02-25"),
    "test": ("2022-02-28", "2022-03-11"),
}
LEAVES = {"grow_policy": "Lossguide", "num_leaves": 6}


@pytest.fixture(scope="module")
def data() -> DatasetH:
    """Five instruments, fifty days, two features with names that other libraries do not accept."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2022-01-03", periods=50), list("ABCDE")], names=["datetime", "instrument"]
    )
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(len(index), 2)), index, ["Ref($close, 1)", "x[0]<{}:"])
    label = (features.iloc[:, 0] + 0.1 * rng.normal(size=len(index))).to_frame("y")
    return DatasetH(DataHandlerLP.from_df(pd.concat({"feature": features, "label": label}, axis=1)), SEGMENTS)


def fitted(data: DatasetH, **kwargs: Any) -> CatBoostModel:
    model = CatBoostModel(**{"iterations": 5, "learning_rate": 0.5, "max_depth": 3, "task_type": "CPU", **kwargs})
    model.fit(data)
    return model


def test_rounds_and_threads(data: DatasetH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are arguments of fit or of the model; it stops early; nothing is written to the working folder."""
    monkeypatch.chdir(tmp_path)
    assert fitted(data).model.tree_count_ == 5
    rounds: dict[str, Any] = {}
    model = CatBoostModel(learning_rate=0.5, thread_count=20, task_type="CPU")
    with using(Session(threads=1)):
        assert model._parameters(None, 50)["thread_count"] == 1
        model.fit(data, num_boost_round=500, early_stopping_rounds=3, evals_result=rounds)
    assert len(rounds["valid"]) == len(rounds["train"]) == len(model.training_metrics()["RMSE.valid"]) < 500
    assert model.model.tree_count_ == int(np.argmin(rounds["valid"])) + 1
    assert model._parameters(None, None)["iterations"] == 1000
    assert list(tmp_path.iterdir()) == []


def test_a_bootstrap_of_gpus_is_replaced_on_a_cpu(data: DatasetH, caplog: pytest.LogCaptureFixture) -> None:
    """Poisson, which Qlib's examples use, becomes Bernoulli, with a warning."""
    replaced = fitted(data, bootstrap_type="Poisson", subsample=0.5)
    assert "bootstrap_type 'Poisson' only on GPUs" in caplog.text
    expected = fitted(data, bootstrap_type="Bernoulli", subsample=0.5)
    pd.testing.assert_series_equal(replaced.predict(data), expected.predict(data))


def test_invalid_parameters_are_errors(data: DatasetH) -> None:
    """Those that CatBoost rejects when it trains, too."""
    with pytest.raises(ModelError, match="'RMSE' or 'Logloss'"):
        CatBoostModel(loss="MAE")
    with pytest.raises(ConfigError, match="thread_count"):
        CatBoostModel(thread_count="many")
    with pytest.raises(ConfigError, match="num_boost_round"):
        fitted(data, iterations=0)
    with pytest.raises(ModelError, match=r"CatBoost reports: .*no_such_parameter"):
        fitted(data, no_such_parameter=1)


def test_a_classifier_predicts_log_odds(data: DatasetH) -> None:
    """A classifier predicts any real number as Qlib's model does, positive for the larger class."""
    frame = data.prepare(slice(None), col_set=["feature", "label"], data_key="raw")
    frame[("label", "y")] = (frame[("label", "y")] > 0).astype(float)
    classes = DatasetH(DataHandlerLP.from_df(frame), SEGMENTS)
    prediction = fitted(classes, loss="Logloss").predict(classes)
    assert prediction.min() < 0 < prediction.max()


Change = Callable[[dict[str, Any]], Any]
SYMMETRIC: dict[str, Change] = {
    "a feature that does not exist": lambda m: m["oblivious_trees"][0]["splits"][0].update(float_feature_index=7),
    "a negative feature": lambda m: m["oblivious_trees"][0]["splits"][0].update(float_feature_index=-1),
    "a value that is no border": lambda m: m["oblivious_trees"][0]["splits"][0].update(border=12345.5),
    "too few leaves": lambda m: m["oblivious_trees"][0]["leaf_values"].pop(),
    "a leaf that is no number": lambda m: m["oblivious_trees"][0]["leaf_values"].__setitem__(0, "1"),
    "an infinite leaf": lambda m: m["oblivious_trees"][0]["leaf_values"].__setitem__(0, float("inf")),
    "categories": lambda m: m["features_info"].update(categorical_features=[{"feature_index": 0}]),
    "features in another order": lambda m: m["features_info"]["float_features"].reverse(),
    "borders in another order": lambda m: m["features_info"]["float_features"][0]["borders"].reverse(),
    "another kind of split": lambda m: m["oblivious_trees"][0]["splits"][0].update(split_type="OneHotFeature"),
    "several values": lambda m: m.update(scale_and_bias=[1, [0, 0]]),
    "an infinite bias": lambda m: m.update(scale_and_bias=[1, [10**400]]),
    "no trees": lambda m: m.pop("oblivious_trees"),
    "trees of another type": lambda m: m.update(oblivious_trees={"0": {}}),
    "features of another type": lambda m: m["features_info"].update(float_features="ab"),
    "an unknown treatment": lambda m: m["features_info"]["float_features"][0].update(nan_value_treatment="Crash"),
    "two features of one name": lambda m: [f.update(feature_id="a") for f in m["features_info"]["float_features"]],
}


def deep(model: dict[str, Any]) -> None:
    """Put a tree below itself a hundred times."""
    tree = model["trees"][0]
    for _ in range(100):
        tree = {"split": tree["split"], "left": tree, "right": {"value": 0.0, "weight": 0.0}}
    model["trees"][0] = tree


LOPSIDED: dict[str, Change] = {
    "a child is missing": lambda m: m["trees"][0].pop("left"),
    "a feature that does not exist": lambda m: m["trees"][0]["split"].update(float_feature_index=2),
    "a tree that is too deep": deep,
}


@pytest.mark.parametrize(("kind", "changes"), [({}, SYMMETRIC), (LEAVES, LOPSIDED)], ids=["symmetric", "lopsided"])
def test_inconsistent_files_are_not_loaded(
    data: DatasetH, tmp_path: Path, kind: dict[str, Any], changes: dict[str, Change]
) -> None:
    """The library does not read them: a changed number could make it read memory that does not belong to the model."""
    model = fitted(data, **kind)
    model.save_to(tmp_path)
    text = (tmp_path / "model.json").read_text()
    assert json.loads(check_model(text).text).keys() == json.loads(text).keys()
    for change in changes.values():
        document = json.loads(text)
        change(document)
        with pytest.raises(ValueError, match="CatBoost model is inconsistent"):
            check_model(json.dumps(document))
        (tmp_path / "model.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match="CatBoost model is inconsistent"):
            CatBoostModel.load_from(tmp_path)


def test_what_was_not_checked_is_not_passed_on(data: DatasetH, tmp_path: Path) -> None:
    """The library reads a text that was written again; the positions of splits are computed."""
    fitted(data).save_to(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    expected = check_model(json.dumps(document)).text
    document["model_info"] = {"params": "unchecked"}
    document["oblivious_trees"][0]["splits"][0]["split_index"] = 10**6
    assert check_model(json.dumps(document)).text == expected


def test_an_artifact_that_is_no_model_is_an_error(data: DatasetH, tmp_path: Path) -> None:
    """The error names the file."""
    artifact.save(LocalFiles(tmp_path), "params.pkl", fitted(data))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert content.count(b'"scale_and_bias"') == 1
    file.write_bytes(content.replace(b'"scale_and_bias"', b'"scale_and_boas"'))
    with pytest.raises(ArtifactUnreadable, match=r"params\.pkl"):
        artifact.load_file(file)
