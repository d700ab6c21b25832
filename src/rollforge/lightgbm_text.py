"""Checking the text of a LightGBM model before the library parses it.

LightGBM trusts the text of a model: arrays of the wrong length crash the interpreter, and a node that is its own child or
refers to a node, a leaf or a feature that does not exist makes it read memory out of bounds, or never return.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_model_text"]

_HEADER = ("num_class", "num_tree_per_iteration", "max_feature_idx", "objective", "tree_sizes")
_MAX_LINES = 22
"""LightGBM reads at most this many lines of a tree, and ignores the rest."""
_INT = rb"-?[0-9]{1,10}"
_FLOAT = (
    rb"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][-+]?[0-9]{1,2})?"
    rb"|[1-9](?:\.[0-9]{0,40})?[eE][-+]?(?:[12][0-9]{2}|30[0-7])|inf|nan)"
)
"""LightGBM can abort the process for a number that a double cannot hold. It writes one digit before the decimal point."""
_INTS, _FLOATS = (re.compile(rb"(?:%s(?: %s)*)?" % (one, one)) for one in (_INT, _FLOAT))
_LINE = re.compile(rb"([a-z_]{1,40})=([^\n]*)\n")

# The arrays of a tree with n leaves: their lengths, and how their numbers are written.
_OF_LEAVES: Mapping[bytes, re.Pattern[bytes]] = {
    b"leaf_value": _FLOATS, b"leaf_weight": _FLOATS, b"leaf_count": _INTS, b"leaf_const": _FLOATS, b"num_features": _INTS,
}  # fmt: skip
_OF_NODES: Mapping[bytes, re.Pattern[bytes]] = {
    b"split_feature": _INTS, b"split_gain": _FLOATS, b"threshold": _FLOATS, b"decision_type": _INTS, b"left_child": _INTS,
    b"right_child": _INTS, b"internal_value": _FLOATS, b"internal_weight": _FLOATS, b"internal_count": _INTS,
}  # fmt: skip
_CATEGORICAL = 1
"""Bit of a node's decision type."""


def check_model_text(text: str) -> None:
    """Raise an error if a text is not the text of a LightGBM model whose trees are consistent.

    Parameters
    ----------
    text : str
        The text returned by ``Booster.model_to_string``.

    Raises
    ------
    ValueError
        The message says what is inconsistent.
    """
    data = text.encode("utf-8")
    if b"\0" in data or b"\r" in data:
        raise ValueError("the text of the LightGBM model contains characters that LightGBM never writes")
    begin = data.find(b"\nTree=") + 1 or len(data)
    about = _header(data[:begin])
    features = _number(about, "max_feature_idx") + 1
    sizes = [int(size) for size in _matched(_INTS, about.get("tree_sizes"), "tree_sizes").split()]
    _check_classes(about, len(sizes))
    for number, size in enumerate(sizes):
        block = data[begin : begin + max(size, 0)]
        head = b"Tree=%d\n" % number
        if not block.startswith(head) or len(block) != size:
            _refuse(f"tree_sizes does not match tree {number}")
        _check_tree(_fields(block[len(head) :], number), features, number)
        begin += size


def _refuse(what: str) -> None:
    raise ValueError(f"the LightGBM model is inconsistent: {what}")


def _header(lines: bytes) -> dict[str, bytes]:
    """Return the lines that determine how much memory a prediction takes, as LightGBM reads them."""
    found: dict[str, bytes] = {}
    for line in lines.split(b"\n"):
        parts = [part for part in line.split(b"=") if part]
        name = parts[0].decode("utf-8", "replace") if parts else ""
        if name in _HEADER:
            if name in found or not line.startswith(parts[0] + b"=") or len(parts) > 2:
                _refuse(f"{name} is not one value")
            found[name] = line.partition(b"=")[2]
    return found


def _number(about: Mapping[str, bytes], name: str) -> int:
    value = about.get(name, b"")
    if not re.fullmatch(rb"[0-9]{1,9}", value):
        _refuse(f"{name} is not a number")
    return int(value)


def _check_classes(about: Mapping[str, bytes], trees: int) -> None:
    classes = _number(about, "num_class")
    if not 1 <= classes == _number(about, "num_tree_per_iteration") <= max(trees, 1) or trees % classes:
        _refuse("the classes do not have the same number of trees")
    objective = about.get("objective")
    if objective is not None and not re.fullmatch(rb"\w[^ ]*(?: [^ ]+)*", objective):
        _refuse("its objective has no name")
    counts = re.findall(rb"num_class:([^ ]*)", objective or b"")
    if any(count != b"%d" % classes for count in counts):
        _refuse("its objective has a different number of classes")


def _fields(block: bytes, number: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    place = 0
    while block[place : place + 1] != b"\n":
        line = _LINE.match(block, place)
        if line is None or line[1] in found or len(found) == _MAX_LINES:
            _refuse(f"tree {number} has an invalid line")
        else:
            found[line[1]] = line[2]
            place = line.end()
    return found


def _matched(pattern: re.Pattern[bytes], value: bytes | None, name: str) -> bytes:
    if value is None or not pattern.fullmatch(value):
        _refuse(f"{name} is not a list of numbers")
    return value or b""


def _array(fields: Mapping[bytes, bytes], name: bytes) -> NDArray[np.int64]:
    return np.array([int(part) for part in fields[name].split()], np.int64)


def _check_tree(fields: dict[bytes, bytes], features: int, number: int) -> None:
    leaves = int(_matched(re.compile(rb"[0-9]{1,9}"), fields.get(b"num_leaves"), "num_leaves"))
    categories = int(_matched(re.compile(rb"[0-9]{1,9}"), fields.get(b"num_cat"), "num_cat"))
    linear = fields.get(b"is_linear", b"0")
    _matched(re.compile(rb"[01]"), linear, "is_linear")
    _matched(re.compile(_FLOAT), fields.get(b"shrinkage", b"1"), "shrinkage")
    if leaves < 1:
        _refuse(f"tree {number} has no leaves")
    alone = leaves == 1 and linear == b"0"  # of such a tree, only the value is read
    _check_lengths(fields, leaves, number, alone=alone)
    needed = {b"leaf_value"} | (set() if alone else {b"split_feature", b"threshold", b"left_child", b"right_child"})
    if linear == b"1":
        needed |= {b"leaf_const", b"num_features", b"leaf_features", b"leaf_coeff"}
    if not needed <= fields.keys():
        _refuse(f"tree {number} lacks {min(needed - fields.keys()).decode()}")
    if linear == b"1":
        _check_linear(fields, features, number)
    if leaves > 1:
        _check_nodes(fields, leaves, features, number)
    if not alone:
        _check_categories(fields, categories, number)


def _check_lengths(fields: Mapping[bytes, bytes], leaves: int, number: int, *, alone: bool) -> None:
    for lengths, patterns in ((leaves, _OF_LEAVES), (leaves - 1, _OF_NODES)):
        for name, pattern in patterns.items():
            if name in fields and (name == b"leaf_value" or not alone):
                value = _matched(pattern, fields[name], name.decode())
                if (value.count(b" ") + 1 if value else 0) != lengths:
                    _refuse(f"tree {number} must have {lengths} values of {name.decode()}")


def _check_linear(fields: Mapping[bytes, bytes], features: int, number: int) -> None:
    for name, pattern in ((b"leaf_features", _INTS), (b"leaf_coeff", _FLOATS)):
        _matched(pattern, b" ".join(fields[name].split()), name.decode())
    counts, used = _array(fields, b"num_features"), _array(fields, b"leaf_features")
    if (counts < 0).any() or not counts.sum() == len(used) == len(fields[b"leaf_coeff"].split()):
        _refuse(f"num_features of tree {number} does not match its lists of features")
    if not ((used >= 0) & (used < features)).all():
        _refuse(f"tree {number} uses a feature that does not exist")


def _check_nodes(fields: Mapping[bytes, bytes], leaves: int, features: int, number: int) -> None:
    """Check that each node and leaf is the child of one node, which comes before it, so that every path ends at a leaf."""
    used = _array(fields, b"split_feature")
    if not ((used >= 0) & (used < features)).all():
        _refuse(f"tree {number} uses a feature that does not exist")
    parents = np.arange(leaves - 1)
    children = np.concatenate([_array(fields, b"left_child"), _array(fields, b"right_child")])
    inner = children >= 0
    ends = np.sort(~children[~inner])
    if (
        not np.array_equal(np.sort(children[inner]), parents[1:])
        or not np.array_equal(ends, np.arange(leaves))
        or not (children > np.concatenate([parents, parents]))[inner].all()
    ):
        _refuse(f"the nodes of tree {number} are not a tree")


def _check_categories(fields: Mapping[bytes, bytes], categories: int, number: int) -> None:
    kinds = _array(fields, b"decision_type") if b"decision_type" in fields else np.zeros(0, np.int64)
    if not ((kinds >= 0) & (kinds < 128)).all():
        _refuse(f"tree {number} has an unknown decision_type")
    chosen = (kinds & _CATEGORICAL).astype(bool)
    if categories:
        for name in (b"cat_boundaries", b"cat_threshold"):
            _matched(_INTS, fields.get(name), name.decode())
        bounds = _array(fields, b"cat_boundaries")
        words = len(fields[b"cat_threshold"].split())
        if len(bounds) != categories + 1 or bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != words:
            _refuse(f"cat_boundaries of tree {number} do not match its cat_threshold")
    if chosen.any():
        places = np.array([float(part) for part in fields[b"threshold"].split()])[chosen]
        if not ((places >= 0) & (places < categories)).all():  # true for NaN too
            _refuse(f"tree {number} uses categories that it does not have")
