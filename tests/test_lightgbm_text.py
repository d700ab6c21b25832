"""The text of a LightGBM model is checked before the library parses it, because the library does not check it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rollforge import safe_pickle
from rollforge.errors import ArtifactUnreadable
from rollforge.lightgbm_text import check_model_text

lightgbm = pytest.importorskip("lightgbm")

RANDOM = np.random.default_rng(0)
X = np.column_stack([RANDOM.normal(size=(400, 3)), RANDOM.integers(0, 30, 400)])
Y = X[:, 0] + np.sin(X[:, 1]) + 5 * (X[:, 3] % 3)


def trained(rounds: int = 3, label: Any = Y, categorical: Any = "auto", scale: float = 1.0, **parameters: Any) -> str:
    """Return the text of a small model."""
    settings = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 8, **parameters}
    data = lightgbm.Dataset(X * scale, label, categorical_feature=categorical)
    text: str = lightgbm.train(settings, data, num_boost_round=rounds).model_to_string()
    return text


def residuals(predicted: Any, data: Any) -> tuple[Any, Any]:
    """Squared error as a custom objective."""
    return predicted - data.get_label(), np.ones_like(predicted)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "mse"},
        {"objective": "mse", "max_cat_to_onehot": 1, "min_data_per_group": 1, "categorical": [3]},
        {"objective": "mse", "linear_tree": True},
        {"objective": "mse", "linear_tree": True, "label": np.ones(400)},
        {"objective": "mse", "label": np.ones(400)},
        {"objective": "multiclass", "num_class": 3, "label": X[:, 3] % 3},
        {"objective": "binary", "label": Y > 1},
        {"objective": "quantile", "alpha": 0.3},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"boosting": "dart", "rounds": 8},
        {"objective": residuals},
        {"objective": "mse", "rounds": 1, "num_leaves": 2},
        {"objective": "mse", "scale": 1e305},
        {"objective": "mse", "scale": 1e-305},
    ],
    ids=lambda o: "-".join(map(str, [*o][:3])),
)
def test_models_of_every_kind_are_restored(options: dict[str, Any]) -> None:
    """Models written by LightGBM are accepted, and give the same predictions after pickling."""
    booster = lightgbm.Booster(model_str=trained(**options))
    back = safe_pickle.loads(pickle.dumps(booster))
    np.testing.assert_array_equal(back.predict(X, num_threads=1), booster.predict(X, num_threads=1))


REGRESSION = trained(objective="mse")
CATEGORIES = trained(objective="mse", max_cat_to_onehot=1, min_data_per_group=1, categorical=[3])
LINEAR = trained(objective="mse", linear_tree=True)


def changed(text: str, name: str, change: Callable[[list[str]], list[str]]) -> str:
    """Return the text with the values of one line changed, and the sizes of its trees updated."""
    line = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    assert line is not None
    return resized(text[: line.start(1)] + " ".join(change(line[1].split(" "))) + text[line.end(1) :])


def resized(text: str) -> str:
    """Return the text with the right sizes of its trees."""
    begin, end = text.index("\nTree=") + 1, text.index("end of trees")
    sizes = [len(tree) for tree in re.findall(r"Tree=\d+\n.*?\n\n\n", text[begin:end], re.DOTALL)]
    return re.sub(r"tree_sizes=.*", f"tree_sizes={' '.join(map(str, sizes))}", text)


def first(value: str) -> Callable[[list[str]], list[str]]:
    """Replace the first value."""
    return lambda values: [value, *values[1:]]


HOSTILE: dict[str, str] = {
    "a node that is its own child": changed(REGRESSION, "left_child", first("0")),
    "a leaf far away": changed(REGRESSION, "left_child", first("-2000000000")),
    "a node far away": changed(REGRESSION, "right_child", first("1000000000")),
    "a leaf of two nodes": changed(REGRESSION, "right_child", lambda v: [*v[:-1], "-1"]),
    "a feature far away": changed(REGRESSION, "split_feature", first("1000000000")),
    "a feature before the first": changed(REGRESSION, "split_feature", first("-5")),
    "a value too few": changed(REGRESSION, "leaf_value", lambda v: v[1:]),
    "a threshold too many": changed(REGRESSION, "threshold", lambda v: [*v, "1"]),
    "no leaves": changed(REGRESSION, "num_leaves", first("0")),
    "leaves for all memory": changed(REGRESSION, "num_leaves", first("2000000000")),
    "no number": changed(REGRESSION, "leaf_value", first("x")),
    "a number no double holds": changed(REGRESSION, "leaf_value", first("1e-999")),
    "a long number no double holds": changed(REGRESSION, "leaf_value", first("1" * 40 + "e299")),
    "a short number no double holds": changed(REGRESSION, "leaf_value", first("0." + "0" * 30 + "1e-299")),
    "no leaf_value": resized(re.sub(r"^leaf_value=.*\n", "", REGRESSION, flags=re.MULTILINE)),
    "another line": resized(REGRESSION.replace("num_cat=0\n", "num_cat=0\nx\n", 1)),
    "a line twice": resized(REGRESSION.replace("num_cat=0\n", "num_cat=0\nnum_cat=0\n", 1)),
    "no classes": changed(REGRESSION, "num_tree_per_iteration", first("0")),
    "many classes": changed(REGRESSION, "num_class", first("1000000000")),
    "many trees for a class": changed(REGRESSION, "num_tree_per_iteration", first("1000000")),
    "an objective of many classes": changed(REGRESSION, "objective", lambda _: ["multiclass", "num_class:100000"]),
    "an objective without a name": changed(REGRESSION, "objective", lambda _: ["", ""]),
    "sizes beyond the text": re.sub(r"tree_sizes=\d+", "tree_sizes=999999999", REGRESSION),
    "negative sizes": re.sub(r"tree_sizes=\d+", "tree_sizes=-5", REGRESSION),
    "no sizes": re.sub(r"tree_sizes=.*\n", "", REGRESSION),
    "a number that is read twice": REGRESSION.replace("num_class=1\n", "num_class=1\n=num_class=9\n"),
    "a category far away": changed(CATEGORIES, "cat_boundaries", lambda v: [*v[:-1], "1000000"]),
    "a categorical node without categories": changed(REGRESSION, "decision_type", first("1")),
    "categories without a list": changed(REGRESSION, "num_cat", first("3")),
    "a leaf with many features": changed(LINEAR, "num_features", first("5000000")),
    "a leaf with a feature far away": changed(LINEAR, "leaf_features", first("1000000")),
    "a NUL": REGRESSION.replace("num_cat=0", "num_cat=0\0", 1),
    "another program's file": "tree\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_inconsistent_model_is_one_error(text: str) -> None:
    """Models like these crashed the interpreter, predicted endlessly, or read memory outside of the model."""
    with pytest.raises(ValueError, match="LightGBM model"):
        check_model_text(text)


def test_the_text_of_a_pickled_booster_is_checked() -> None:
    """The check is part of reading a pickle."""
    booster = lightgbm.Booster(model_str=REGRESSION)
    packed = pickle.dumps(booster, 4)
    damaged = packed.replace(b"num_cat=0", b"num_cat=3", 1)
    with pytest.raises(ArtifactUnreadable, match="cat_boundaries is not a list of numbers"):
        safe_pickle.loads(damaged)
