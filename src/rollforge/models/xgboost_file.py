"""Checks of a saved XGBoost model before the library reads it.

XGBoost trusts model files: a node that is its own child, or refers to a node, feature or class that does not exist,
makes it read memory out of bounds, which crashes the interpreter. The file is therefore read here first, in the subset
of UBJSON (https://ubjson.org) that XGBoost writes, and checked for consistency.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

_TYPES: Mapping[bytes, str] = {
    b"i": "i1", b"U": "u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8",
}  # fmt: skip
_MAX_DEPTH = 12
"""XGBoost's own files have nine levels."""
_MAX_CLASSES = 10_000
_COUNT = re.compile(r"[0-9]{1,9}")
_FLOAT = r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][-+]?[0-9]{1,3})?|inf|nan)"
_BASE_SCORE = re.compile(rf"{_FLOAT}|\[{_FLOAT}(?:,{_FLOAT})*\]")
_OF_INTEGERS = ("left_children", "right_children", "parents", "split_indices")
_OF_FLOATS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def check_model_bytes(data: bytes) -> None:
    """Raise an error if `data` is not a consistent XGBoost model without categorical features.

    Parameters
    ----------
    data : bytes
        The result of ``Booster.save_raw("ubj")``.

    Raises
    ------
    ValueError
        If the model is inconsistent; the message has the reason.
    """
    reader = _Reader(data)
    model = reader.value(0)
    if reader.place != len(data):
        _refuse("there are data after its end")
    learner = _part(model, "learner", dict)
    sizes = _part(learner, "learner_model_param", dict)
    features, classes = _count(sizes, "num_feature"), max(_count(sizes, "num_class"), 1)
    names = _part(learner, "feature_names", list)
    if len(names) != features or not all(isinstance(name, str) for name in names):
        _refuse("it does not have one name per feature")
    types = _part(learner, "feature_types", list)
    if len(types) not in (0, features) or not {"float", "int", "q", "i"}.issuperset(map(str, types)):
        _refuse("it has features that are not numbers")
    if _count(sizes, "num_target", 1) > 1 or classes > _MAX_CLASSES:
        _refuse("it predicts several values or too many classes")
    score = _part(sizes, "base_score", str)
    if not _BASE_SCORE.fullmatch(score) or score.count(",") not in (0, classes - 1):
        _refuse("base_score is not one number per class")
    _check_objective(_part(learner, "objective", dict), classes)
    booster = _part(learner, "gradient_booster", dict)
    if booster.get("name") == "gblinear":
        rounds = _check_linear(_part(booster, "model", dict), features, classes)
    else:
        rounds = _check_trees(booster, features, classes)
    best = _part(learner, "attributes", dict).get("best_iteration", "0")
    if not isinstance(best, str) or not _COUNT.fullmatch(best) or int(best) >= max(rounds, 1):
        _refuse("its best iteration does not exist")


class _Reader:
    """Reads values from UBJSON; an array of numbers of one type becomes an array."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self.data) - self.place:
            _refuse("it ends too early")
        self.place += length
        return self.data[self.place - length : self.place]

    def length(self) -> int:
        if self.take(1) != b"L":
            _refuse("a length is not written as XGBoost writes it")
        return int.from_bytes(self.take(8), "big", signed=True)

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8")

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            _refuse("it is nested too deeply")
        marker = self.take(1)
        if marker == b"S":
            return self.text()
        if marker in (b"T", b"F"):
            return marker == b"T"
        if marker in _TYPES:
            kind = np.dtype(_TYPES[marker])
            return np.frombuffer(self.take(kind.itemsize), kind)[0].item()
        if marker == b"[":
            return self._array(depth)
        if marker == b"{":
            return self._object(depth)
        _refuse(f"it contains {marker!r}, which XGBoost does not write")

    def _array(self, depth: int) -> Any:
        marker = self.take(1)
        kind = np.dtype(_TYPES.get(self.take(1), "O")) if marker == b"$" else None
        if (marker if kind is None else self.take(1)) != b"#":
            _refuse("an array is not written as XGBoost writes it")
        length = self.length()
        if kind is None:
            if not 0 <= length <= len(self.data) - self.place:
                _refuse("it ends too early")
            return [self.value(depth + 1) for _ in range(length)]
        if kind.hasobject:
            _refuse("it contains an array of an unknown type")
        return np.frombuffer(self.take(length * kind.itemsize), kind)

    def _object(self, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}
        while self.data[self.place : self.place + 1] != b"}":
            name = self.text()
            if name in made:
                _refuse(f"it contains {name!r} twice")
            made[name] = self.value(depth + 1)
        self.place += 1
        return made


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"the XGBoost model is inconsistent: {what}")


def _part(of: object, name: str, kind: type) -> Any:
    found = of.get(name) if isinstance(of, dict) else None
    if kind is list and isinstance(found, np.ndarray):
        found = found.tolist()
    if not isinstance(found, kind):
        _refuse(f"{name} is missing or has another type")
    return found


def _count(of: object, name: str, default: int | None = None) -> int:
    if default is not None and isinstance(of, dict) and name not in of:
        return default
    value = _part(of, name, str)
    if not _COUNT.fullmatch(value):
        _refuse(f"{name} is not a number")
    return int(value)


def _check_objective(objective: Mapping[str, object], classes: int) -> None:
    name = _part(objective, "name", str)
    stated = objective.get("softmax_multiclass_param")
    if (name.startswith("multi:") or stated is not None) and _count(stated, "num_class") != classes:
        _refuse("the number of classes of its objective differs")


def _check_linear(model: Mapping[str, object], features: int, classes: int) -> int:
    weights = model.get("weights")
    if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f" or len(weights) != (features + 1) * classes:
        _refuse("it does not have one weight for each feature")
    return int(_part(model, "boosted_rounds", int))


def _check_trees(booster: Mapping[str, object], features: int, classes: int) -> int:
    inner = booster.get("gbtree", booster)  # DART wraps the trees
    model = _part(inner, "model", dict)
    if booster.get("name") not in ("gbtree", "dart") or _part(inner, "name", str) not in ("gbtree", "dart"):
        _refuse("its booster is unknown")
    if model.get("cats") is not None and len(_part(model["cats"], "enc", list)):
        _refuse("it has features that are not numbers")
    about = _part(model, "gbtree_model_param", dict)
    trees, of_class = _part(model, "trees", list), _integers(model, "tree_info")
    rounds = _integers(model, "iteration_indptr")
    if not _count(about, "num_trees") == len(trees) == len(of_class) or _count(about, "num_parallel_tree") < 1:
        _refuse("num_trees is not the number of trees")
    if len(trees) and not 0 <= of_class.min() <= of_class.max() < classes:
        _refuse("a tree belongs to a class that does not exist")
    if not len(rounds) or rounds[0] != 0 or rounds[-1] != len(trees) or (np.diff(rounds) < 0).any():
        _refuse("its iterations do not contain all trees")
    for dropped in (booster.get("weight_drop"), model.get("weight_drop")):
        if dropped is not None and len(_floats(dropped, "weight_drop")) != len(trees):
            _refuse("it does not have one weight per tree")
    for number, tree in enumerate(trees):
        _check_tree(tree, features, number)
    return len(rounds) - 1


def _integers(of: object, name: str) -> NDArray[np.int64]:
    found = of.get(name) if isinstance(of, dict) else None
    if isinstance(found, list) and all(type(value) is int for value in found):
        found = np.array(found, np.int64)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
        _refuse(f"{name} is not a list of integers")
    return found.astype(np.int64)


def _floats(found: object, name: str) -> NDArray[np.float64]:
    if isinstance(found, list) and all(type(value) is float for value in found):
        found = np.array(found, np.float64)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        _refuse(f"{name} is not a list of floating-point numbers")
    return found


def _check_tree(tree: object, features: int, number: int) -> None:
    about = _part(tree, "tree_param", dict)
    nodes = _count(about, "num_nodes")
    if nodes < 1 or _count(about, "num_feature") != features or _count(about, "size_leaf_vector") > 1:
        _refuse(f"tree {number} has no nodes, different features or several values")
    assert isinstance(tree, dict)
    arrays = {name: _integers(tree, name) for name in _OF_INTEGERS}
    lengths = [len(array) for array in arrays.values()] + [len(_floats(tree.get(n), n)) for n in _OF_FLOATS]
    flags = (
        _integers(tree, "default_left") if not _booleans(tree.get("default_left")) else np.array(tree["default_left"])
    )
    kinds = _integers(tree, "split_type")
    if {*lengths, len(flags), len(kinds)} != {nodes}:
        _refuse(f"an array of tree {number} does not have one value per node")
    if kinds.any() or any(len(_integers(tree, name)) for name in _CATEGORIES):
        _refuse(f"tree {number} splits by categories")
    _check_nodes(arrays["left_children"], arrays["right_children"], arrays["parents"], nodes, number)
    reached = _reached(arrays["left_children"], arrays["right_children"])
    used = arrays["split_indices"][reached[arrays["left_children"][reached] >= 0]]
    if len(used) and not 0 <= used.min() <= used.max() < features:
        _refuse(f"tree {number} splits by a feature that does not exist")


def _booleans(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(value, bool) for value in found)


def _check_nodes(
    left: NDArray[np.int64], right: NDArray[np.int64], parents: NDArray[np.int64], nodes: int, number: int
) -> None:
    inner = np.flatnonzero((left != -1) | (right != -1))
    children = np.concatenate([left[inner], right[inner]])
    if len(children) and not 1 <= children.min() <= children.max() < nodes:
        _refuse(f"tree {number} has a child that does not exist")
    if len(np.unique(children)) != len(children) or (parents[children] != np.concatenate([inner, inner])).any():
        _refuse(f"tree {number} has a node with an inconsistent parent")


def _reached(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the nodes below the root; no node is the child of two nodes."""
    levels = [np.zeros(1, np.int64)]
    while len(levels[-1]):
        inner = levels[-1][left[levels[-1]] >= 0]
        levels.append(np.concatenate([left[inner], right[inner]]))
    return np.concatenate(levels)
