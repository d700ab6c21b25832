"""Checks of a saved CatBoost model before the library reads it.

CatBoost trusts model files. The JSON is therefore read here first, checked for consistency, and written again with
nothing but what was checked.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

_MAX_DEPTH = 64
"""CatBoost's own trees have at most 16 levels."""
_TREATMENTS = ("AsIs", "AsFalse", "AsTrue")


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A consistent model."""

    text: str
    """The model in CatBoost's JSON format."""
    leaf_values: NDArray[np.float64]
    """The value of each leaf, in the order in which CatBoost reads them; it does not read their last digit exactly."""
    scale: float
    bias: float
    """What the sum of the leaves is multiplied by, and what is added."""


def check_model(data: bytes | str) -> CheckedModel:
    """Return a model in CatBoost's JSON format, without anything that was not checked.

    Parameters
    ----------
    data : bytes or str
        What ``CatBoost.save_model(…, format="json")`` writes.

    Raises
    ------
    ValueError
        If the model is inconsistent, predicts several values or has features that are not numbers; the message has the
        reason.
    """
    given = json.loads(data)
    info = _part(given, "features_info", dict)
    if any(info.get(kind) for kind in info if kind != "float_features"):
        _refuse("it has features that are not numbers")
    features = [_feature(one, number) for number, one in enumerate(_part(info, "float_features", list))]
    if len({one["feature_id"] for one in features}) != len(features):
        _refuse("two features have the same name")
    borders = _Borders(features)
    values: list[float] = []
    made: dict[str, object] = {"features_info": {"float_features": features}}
    if given.get("oblivious_trees") is not None:
        trees = _part(given, "oblivious_trees", list)
        made["oblivious_trees"] = [_symmetric_tree(tree, borders, values) for tree in trees]
    else:
        made["trees"] = [_tree(tree, borders, values, 0) for tree in _part(given, "trees", list)]
    scale, bias = _scale_and_bias(_part(given, "scale_and_bias", list))
    made["scale_and_bias"] = [scale, [bias]]
    text = json.dumps(made, allow_nan=False, separators=(",", ":"))
    return CheckedModel(text, np.array(values, np.float64), scale, bias)


class _Borders:
    """The borders of all features, by which a split is found."""

    def __init__(self, features: list[dict[str, Any]]) -> None:
        self.places: list[dict[float, int]] = []
        known = 0
        for feature in features:
            self.places.append({border: known + i for i, border in enumerate(feature["borders"])})
            known += len(feature["borders"])

    def split(self, given: object) -> dict[str, object]:
        feature = _part(given, "float_feature_index", int)
        border = _number(given, "border")
        if _part(given, "split_type", str) != "FloatFeature":
            _refuse("it splits by something else than a number")
        if not 0 <= feature < len(self.places) or border not in self.places[feature]:
            _refuse("it splits by a feature or a value that does not exist")
        place = self.places[feature][border]
        return {
            "border": border, "float_feature_index": feature, "split_index": place, "split_type": "FloatFeature",
        }  # fmt: skip


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"the CatBoost model is inconsistent: {what}")


def _part(of: object, name: str, kind: type) -> Any:
    found = of.get(name) if isinstance(of, Mapping) else None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        _refuse(f"{name} is missing or has another type")
    return found


def _finite(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(f"{name} is not a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        _refuse(f"{name} is not finite")
    return found


def _number(of: object, name: str) -> float:
    return _finite(of.get(name) if isinstance(of, Mapping) else None, name)


def _numbers(of: object, name: str) -> list[float]:
    return [_finite(value, name) for value in _part(of, name, list)]


def _feature(given: object, number: int) -> dict[str, Any]:
    if (_part(given, "feature_index", int), _part(given, "flat_feature_index", int)) != (number, number):
        _refuse("its features are not numbered in their order")
    assert isinstance(given, Mapping)
    borders = [] if given.get("borders") is None else _numbers(given, "borders")
    if any(low >= high for low, high in itertools.pairwise(borders)):
        _refuse("the borders of a feature are not in order")
    treatment = _part(given, "nan_value_treatment", str)
    if treatment not in _TREATMENTS:
        _refuse("a feature treats missing values in an unknown way")
    return {
        "borders": borders, "feature_id": str(given.get("feature_id", number)), "feature_index": number,
        "flat_feature_index": number, "has_nans": _part(given, "has_nans", bool), "nan_value_treatment": treatment,
    }  # fmt: skip


def _symmetric_tree(given: object, borders: _Borders, values: list[float]) -> dict[str, object]:
    """Return a tree in which all nodes of a level split by the same feature and value."""
    known = isinstance(given, Mapping) and given.get("splits") is not None
    splits = [borders.split(one) for one in _part(given, "splits", list)] if known else []
    leaves, weights = _numbers(given, "leaf_values"), _numbers(given, "leaf_weights")
    if len(splits) > _MAX_DEPTH or len(leaves) != 2 ** len(splits) or len(weights) not in (0, len(leaves)):
        _refuse("a tree does not have one value per leaf")
    values += leaves
    return {"leaf_values": leaves, "leaf_weights": weights, "splits": splits}


def _tree(given: object, borders: _Borders, values: list[float], depth: int) -> dict[str, object]:
    """Return a tree whose leaves can have different depths; CatBoost reads the left part first."""
    if depth > _MAX_DEPTH:
        _refuse("a tree is too deep")
    if isinstance(given, Mapping) and "split" in given:
        return {
            "split": borders.split(given["split"]),
            "left": _tree(given.get("left"), borders, values, depth + 1),
            "right": _tree(given.get("right"), borders, values, depth + 1),
        }
    value = _number(given, "value")
    values.append(value)
    return {"value": value, "weight": _number(given, "weight")}


def _scale_and_bias(given: list[object]) -> tuple[float, float]:
    if len(given) != 2 or not isinstance(given[1], list) or len(given[1]) != 1:
        _refuse("it predicts several values")
    return _finite(given[0], "scale"), _finite(given[1][0], "bias")
