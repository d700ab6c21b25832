"""The file of an XGBoost model is checked before the library reads it, because the library does not check it."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge.errors import ArtifactUnreadable
from rollforge.models.xgboost import XGBModel
from rollforge.models.xgboost_file import _Reader, check_model_bytes
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

xgboost = pytest.importorskip("xgboost")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 4))
X[::7, 1] = np.nan
Y = X[:, 0] + np.nan_to_num(X[:, 1]) ** 2
NAMES = ["a", "b", "c", "d"]


def trained(rounds: int = 3, label: Any = Y, custom: Any = None, stop: int | None = None, **parameters: Any) -> Any:
    """Return a small model."""
    data = xgboost.DMatrix(X, label=label, feature_names=NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # two of the boosters are deprecated
        return xgboost.train(
            {"nthread": 1, "max_depth": 4, "verbosity": 0, **parameters}, data, rounds, evals=[(data, "valid")],
            early_stopping_rounds=stop, obj=custom, verbose_eval=False,
        )  # fmt: skip


def encoded(value: Any) -> bytes:
    """Return a value as XGBoost writes it."""
    if isinstance(value, dict):
        return b"{" + b"".join(encoded(str(k))[1:] + encoded(v) for k, v in value.items()) + b"}"
    if isinstance(value, str):
        return b"SL" + len(value.encode()).to_bytes(8, "big") + value.encode()
    if isinstance(value, np.ndarray):
        mark = {"f4": b"d", "f8": b"D", "u1": b"U", "i4": b"l", "i8": b"L"}[value.dtype.str[1:]]
        return (
            b"[$" + mark + b"#L" + len(value).to_bytes(8, "big") + value.astype(value.dtype.newbyteorder(">")).tobytes()
        )
    if isinstance(value, list):
        return b"[#L" + len(value).to_bytes(8, "big") + b"".join(map(encoded, value))
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, float):
        return b"d" + np.array(value, ">f4").tobytes()
    for mark, size in ((b"i", 1), (b"I", 2), (b"l", 4), (b"L", 8)):
        if -(2 ** (8 * size - 1)) <= value < 2 ** (8 * size - 1):
            return mark + int(value).to_bytes(size, "big", signed=True)
    raise AssertionError(value)


MODEL = bytes(trained().save_raw("ubj"))
PARSED = _Reader(MODEL).value(0)


def test_the_reader_reads_everything() -> None:
    """Written again, what was read is the same file."""
    assert encoded(PARSED) == MODEL


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tree_method": "exact", "gamma": 5.0},
        {"tree_method": "approx", "max_leaves": 5, "grow_policy": "lossguide"},
        {"objective": "binary:logistic", "label": (Y > 0).astype(int), "base_score": 0.3},
        {"objective": "multi:softmax", "num_class": 3, "label": np.arange(300) % 3, "num_parallel_tree": 2},
        {"objective": "reg:absoluteerror"},
        {"objective": "reg:quantileerror", "quantile_alpha": 0.5},
        {"rounds": 40, "stop": 3},
        {"rounds": 0},
        {"subsample": 0.5, "colsample_bytree": 0.5, "monotone_constraints": "(1,0,0,0)"},
        {"booster": "dart", "rate_drop": 0.5},
        {"booster": "gblinear"},
        {"custom": lambda predicted, data: (predicted - data.get_label(), np.ones_like(predicted))},
        {"rounds": 2, "max_depth": 0, "max_leaves": 200, "min_child_weight": 0},
    ],
    ids=["defaults", "pruned", "lossguide", "logistic", "classes", "absolute error", "quantile", "early stopping",
         "no rounds", "sampled", "DART", "linear", "custom objective", "unlimited depth"],
)  # fmt: skip
def test_models_of_every_kind_are_read_again(options: dict[str, Any], tmp_path: Path) -> None:
    """Saved models give the same predictions."""
    model = XGBModel()
    model.model = trained(**options)
    model.save_to(tmp_path)
    data = xgboost.DMatrix(X, feature_names=NAMES)
    back = XGBModel.load_from(tmp_path).model
    np.testing.assert_array_equal(back.predict(data), model.model.predict(data))
    assert back.attributes() == model.model.attributes()


def tree(model: Any) -> dict[str, Any]:
    """Return the first tree, in which node 0 has two children."""
    found: dict[str, Any] = model["learner"]["gradient_booster"]["model"]["trees"][0]
    return found


def with_value(name: str, node: int, value: float) -> Callable[[Any], None]:
    """Return a change of one value of one array of the first tree."""

    def change(model: Any) -> None:
        tree(model)[name] = tree(model)[name].copy()
        tree(model)[name][node] = value

    return change


def set_to(*path: str, value: Any) -> Callable[[Any], None]:
    """Return a change of one entry of the learner."""

    def change(model: Any) -> None:
        place = model["learner"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


TREES = ("gradient_booster", "model")
LEAF = int(np.flatnonzero(tree(PARSED)["left_children"] == -1)[0])


@pytest.mark.parametrize(
    "change",
    [
        with_value("left_children", 0, 10**6),
        with_value("left_children", 0, 0),
        with_value("left_children", 0, -5),
        with_value("left_children", 0, -1),
        with_value("right_children", 0, 1),
        with_value("right_children", 1, 0),
        with_value("left_children", LEAF, 1),
        with_value("parents", 1, 3),
        with_value("split_indices", 0, 4),
        with_value("split_indices", 0, -1),
        with_value("split_type", 0, 1),
        *(
            lambda model, name=name: tree(model).update({name: tree(model)[name][:-1]})
            for name in ("left_children", "right_children", "parents", "split_indices", "split_conditions",
                         "base_weights", "loss_changes", "sum_hessian", "default_left", "split_type")
        ),
        lambda model: tree(model).update(categories_nodes=np.zeros(1, np.int32)),
        lambda model: tree(model).update(left_children="aaaa"),
        lambda model: tree(model)["tree_param"].update(num_nodes="0"),
        lambda model: tree(model)["tree_param"].update(num_nodes="-1"),
        lambda model: tree(model)["tree_param"].update(num_nodes="999999999"),
        lambda model: tree(model)["tree_param"].update(num_feature="3"),
        lambda model: tree(model)["tree_param"].update(size_leaf_vector="2"),
        set_to("learner_model_param", "num_feature", value="3"),
        set_to("learner_model_param", "num_feature", value="2147483647"),
        set_to("learner_model_param", "num_class", value="-1"),
        set_to("learner_model_param", "num_class", value="999999999"),
        set_to("learner_model_param", "num_target", value="2"),
        set_to("learner_model_param", "base_score", value="[0.5,0.5]"),
        set_to("learner_model_param", "base_score", value="1" * 1_000_000),
        set_to("feature_names", value=["a"]),
        set_to("feature_types", value=["c", "float", "float", "float"]),
        set_to("attributes", value={"best_iteration": "3"}),
        set_to("attributes", value={"best_iteration": "x"}),
        set_to("attributes", value=[]),
        set_to("objective", value={"name": "multi:softmax"}),
        set_to("objective", value={"name": "multi:softmax", "softmax_multiclass_param": {"num_class": "0"}}),
        set_to("objective", value={}),
        set_to("gradient_booster", "name", value="unknown"),
        set_to("gradient_booster", value={"name": "gblinear", "model": {"weights": np.zeros(2, "f4"), "boosted_rounds": 1}}),
        set_to(*TREES, "tree_info", value=[0, 0, 1]),
        set_to(*TREES, "tree_info", value=[0, 0, -1]),
        set_to(*TREES, "tree_info", value=[0, 0]),
        set_to(*TREES, "trees", value=[]),
        set_to(*TREES, "trees", value=[1, 2, 3]),
        set_to(*TREES, "weight_drop", value=[1.0]),
        set_to(*TREES, "iteration_indptr", value=[0, 1, 2, 4]),
        set_to(*TREES, "iteration_indptr", value=[0, 2, 1, 3]),
        set_to(*TREES, "iteration_indptr", value=[]),
        set_to(*TREES, "gbtree_model_param", "num_trees", value="2"),
        set_to(*TREES, "gbtree_model_param", "num_parallel_tree", value="0"),
        set_to(*TREES, "cats", value={"enc": [{}]}),
        lambda model: model.update(learner=7),
    ],
)  # fmt: skip
def test_an_inconsistent_model_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    """An inconsistent model is refused as an artifact too, where the error names the file."""
    model = copy.deepcopy(PARSED)
    change(model)
    with pytest.raises(ValueError, match="the XGBoost model is inconsistent"):
        check_model_bytes(encoded(model))
    files, changed = LocalFiles(tmp_path), tmp_path / "changed.saved.zip"
    artifact.save(files, "model", XGBModel())
    with zipfile.ZipFile(tmp_path / "model.saved.zip") as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("data/model.ubj", encoded(model))
    with pytest.raises(ArtifactUnreadable, match="XGBoost model is inconsistent"):
        artifact.load_file(changed)


def test_damaged_bytes_are_refused() -> None:
    """Files that end early, continue, are nested deeply, or are in another of the formats that XGBoost reads."""
    for end in [*range(200), *range(200, len(MODEL), 97)]:
        with pytest.raises(ValueError, match="inconsistent"):
            check_model_bytes(MODEL[:end])
    for data in (
        MODEL + b"}", b"[#L" + (1).to_bytes(8, "big") * 10**5, bytes(trained().save_raw("json")), b"binf" + bytes(500),
        b"[$d#L" + b"\x7f" * 8, b"[#L" + b"\x7f" * 8, b"SL" + b"\xff" * 8, encoded({"a": 1})[:-1] + encoded({"a": 1})[1:],
    ):  # fmt: skip
        with pytest.raises(ValueError, match="inconsistent"):
            check_model_bytes(data)


def test_changed_bytes_are_refused_or_predict() -> None:
    """A file with a changed byte is refused by the check or by XGBoost, or it predicts."""
    data = xgboost.DMatrix(X, feature_names=NAMES)
    for place in RANDOM.integers(0, len(MODEL), 1_500):
        changed = bytearray(MODEL)
        changed[place] = RANDOM.integers(0, 256)
        try:
            check_model_bytes(bytes(changed))
            xgboost.Booster(model_file=changed).predict(data)
        except (ValueError, xgboost.core.XGBoostError):
            continue
