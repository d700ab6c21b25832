"""Queries in MongoDB's syntax: a parser to a small tree, and an evaluator that defines the meaning of the tree.

``{"status": "done", "filter.model.class": "LGBModel", "_id": {"$in": […]}, "$or": [{…}, {…}]}``. A field is a column of
a task (``_id``, ``model_name``, ``status``, ``priority``, ``attempt``, ``worker``, ``cause``, times), or a dotted path
in the definition, with or without Qlib's prefix ``def.`` or ``filter.``. As in MongoDB, a path matches all elements of
a list, a comparison with a list is true if it is true for one of its elements, and None equals a missing value. A number
in a path (``segments.test.0``) is a list index.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rollforge.errors import ConfigError, nearest
from rollforge.task import Cause, Status, searchable, to_plain

__all__ = [
    "COLUMNS",
    "And",
    "Compare",
    "Node",
    "Not",
    "Or",
    "by_id",
    "compare",
    "found_at",
    "is_plain_path",
    "matches",
    "only_about",
    "parse_query",
    "paths_in",
]

COLUMNS = {
    "_id": "id", "id": "id", "model_name": "model_name", "status": "status", "priority": "priority", "attempt": "attempt",
    "worker": "worker", "submission": "submission", "cause": "cause", "created_at": "created_at", "started_at": "started_at",
    "finished_at": "finished_at",
}  # fmt: skip
_OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$regex", "$not")
_LOGIC = ("$and", "$or", "$nor", "$not")
_ENUMS = {"status": Status, "cause": Cause}


@dataclass(frozen=True, slots=True)
class Compare:
    """Comparison of one field with one value."""

    path: tuple[str, ...]
    """The name of a column, or ``("def", part, …)`` for a field of the definition."""
    op: str
    value: Any

    @property
    def in_definition(self) -> bool:
        """Whether the field is part of the definition."""
        return self.path[0] == "def"


@dataclass(frozen=True, slots=True)
class And:
    """True if all parts are true; true if there are none."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True if at least one part is true."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True if the part is false."""

    part: Node


Node = Compare | And | Or | Not


def parse_query(query: Mapping[str, object] | None) -> Node:
    """Parse a query into a tree.

    Raises
    ------
    ConfigError
        If an operator is unknown (the message suggests the nearest), or the query is nested deeper than 50 levels.

    Examples
    --------
    >>> parse_query({"model.class": "Ridge"})
    Compare(path=('def', 'model', 'class'), op='$eq', value='Ridge')
    """
    try:
        return _parsed(query, 0)
    except RecursionError:
        raise ConfigError("the query is nested too deeply.", path="query") from None


_MAX_DEPTH = 50


def _parsed(query: Mapping[str, Any] | None, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise ConfigError(f"the query is nested deeper than {_MAX_DEPTH} levels.", path="query")
    if query is not None and not isinstance(query, Mapping):
        raise ConfigError(f"a query must be a mapping such as {{'status': 'done'}}, found {query!r}.", path="query")
    parts: list[Node] = []
    for key, value in (query or {}).items():
        if key in ("$and", "$or", "$nor"):
            parts.append(_logic(key, value, depth))
        elif key == "$not":
            parts.append(Not(_parsed(value, depth + 1)))
        elif not isinstance(key, str) or key.startswith("$"):
            raise ConfigError(f"unknown operator {key!r}.{nearest(str(key), _LOGIC)}", path="query")
        else:
            parts.append(_field(key, value))
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _logic(key: str, value: object, depth: int) -> Node:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key} needs a list of queries, found {value!r}.", path="query")
    inner = tuple(_parsed(v, depth + 1) for v in value)
    if key == "$and":
        return And(inner)
    return Or(inner) if key == "$or" else Not(Or(inner))


_DEFINED = ("def", "filter", "model", "dataset", "record")


def _field(key: str, value: object) -> Node:
    to_plain(key, "query")  # raises for names that no store can hold
    head, *rest = key.split(".")
    if "." not in key and key not in COLUMNS and key not in _DEFINED:
        near = nearest(key, COLUMNS)
        if near:
            raise ConfigError(f"unknown field {key!r}.{near} A task's own keys are written def.{key}.", path="query")
    if key in _ENUMS and isinstance(value, str) and value not in tuple(_ENUMS[key]):
        raise ConfigError(
            f"{value!r} is not a valid {key}.{nearest(value, _ENUMS[key])} Known: {', '.join(_ENUMS[key])}.",
            path="query",
        )
    if key in COLUMNS:
        path: tuple[str, ...] = (COLUMNS[key],)
    else:
        path = ("def", *rest) if head in ("def", "filter") else ("def", head, *rest)
    if isinstance(value, Mapping) and any(str(k).startswith("$") for k in value):
        return And(tuple(_operation(path, str(op), v) for op, v in value.items()))
    return Compare(path, "$eq", _value(value))


def _value(value: object) -> object:
    return _storable(searchable(to_plain(value)))


_MAX_INTEGER = 2**63


def _storable(value: object) -> object:
    """Return `value` with integers beyond 64 bits replaced by floats: no database can store them, or a value close to them."""
    if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        if value.bit_length() <= 1000:
            return float(value)
        return sys.float_info.max if value > 0 else -sys.float_info.max
    if isinstance(value, list):
        return [_storable(v) for v in value]
    return {k: _storable(v) for k, v in value.items()} if isinstance(value, dict) else value


class _Values(tuple[Any, ...]):
    """The values of ``$in``, of which there may be thousands."""

    @cached_property
    def texts(self) -> frozenset[str]:
        """Those that are strings."""
        return frozenset(v for v in self if isinstance(v, str))


def _operation(path: tuple[str, ...], op: str, value: Any) -> Node:
    if op not in _OPERATORS:
        raise ConfigError(
            f"unknown operator {op!r}.{nearest(op, _OPERATORS)} Known: {', '.join(_OPERATORS)}.", path="query"
        )
    if op == "$not":
        if not isinstance(value, Mapping):
            raise ConfigError(f"$not needs an operator such as {{'$gt': 1}}, found {value!r}.", path="query")
        return Not(And(tuple(_operation(path, str(k), v) for k, v in value.items())))
    if op == "$ne":
        return Not(Compare(path, "$eq", _value(value)))
    if op in ("$in", "$nin"):
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise ConfigError(f"{op} needs a list, found {value!r}.", path="query")
        one_of = Compare(path, "$in", _Values(_value(v) for v in value))
        return one_of if op == "$in" else Not(one_of)
    if op == "$regex":
        try:
            re.compile(value)
        except (re.error, TypeError, OverflowError, RecursionError) as exc:
            raise ConfigError(f"{value!r} is not a regular expression: {exc}.", path="query") from exc
    return Compare(path, op, bool(value) if op == "$exists" else _value(value))


def paths_in(node: Node) -> set[tuple[str, ...]]:
    """Return the paths in the definition that a query refers to, without the leading ``def``.

    Examples
    --------
    >>> paths_in(parse_query({"status": "done", "$or": [{"model.class": "Ridge"}, {"priority": 1}]}))
    {('model', 'class')}
    """
    if isinstance(node, (And, Or)):
        return {path for part in node.parts for path in paths_in(part)}
    if isinstance(node, Not):
        return paths_in(node.part)
    return {node.path[1:]} if node.in_definition else set()


# -- evaluation --------------------------------------------------------------------------------------------------------


def is_plain_path(path: tuple[str, ...]) -> bool:
    """Return whether a path contains a list index, and so does not match all elements of lists."""
    return any(map(_is_list_index, path))


def _is_list_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def found_at(node: object, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values at a path of a document in searchable form."""
    return _exactly_at(node, path) if is_plain_path(path) else _anywhere_at(node, path)


def _exactly_at(node: object, path: tuple[str, ...]) -> Iterator[object]:
    for part in path:
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and _is_list_index(part) and int(part) < len(node):
            node = node[int(part)]
        else:
            return
    yield node


def _anywhere_at(node: object, path: tuple[str, ...]) -> Iterator[object]:
    if not path:
        yield node
    elif isinstance(node, dict):
        if path[0] in node:
            yield from _anywhere_at(node[path[0]], path[1:])
    elif isinstance(node, list):
        for element in node:
            if isinstance(element, dict):
                yield from _anywhere_at(element, path)


def _same(a: object, b: object) -> bool:
    # True is not 1 in JSON and databases, but equals it in Python.
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _ordered(a: object, b: object) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool)
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return numbers or (isinstance(a, str) and isinstance(b, str))


def _holds(found: object, op: str, value: Any) -> bool:
    if op == "$eq":
        return _same(found, value)
    if op == "$regex":
        return isinstance(found, str) and re.search(value, found) is not None
    if not _ordered(found, value):
        return False
    return bool({"$gt": found > value, "$gte": found >= value, "$lt": found < value, "$lte": found <= value}[op])


def compare(document: object, path: tuple[str, ...], op: str, value: Any) -> bool:
    """Return whether a comparison is true for a document in searchable form."""
    if op == "$in":
        if isinstance(value, _Values):
            texts = list(found_at(document, path))
            if texts and all(isinstance(one, str) for one in texts):  # a string equals only strings
                return not value.texts.isdisjoint(texts)
        return any(compare(document, path, "$eq", v) for v in value)
    found = list(found_at(document, path))
    if op == "$exists":
        return bool(found) == bool(value)
    if op == "$eq" and isinstance(value, (list, dict)):
        return any(_same(f, value) for f in _exactly_at(document, path))
    if op == "$eq" and value is None and not found:
        return True
    return any(_holds(one, op, value) for f in found for one in ([f, *f] if isinstance(f, list) else [f]))


def only_about(node: Node, *columns: str) -> bool:
    """Return whether a query refers only to some columns.

    Examples
    --------
    >>> only_about(parse_query({"status": {"$in": ["waiting", "running"]}}), "status")
    True
    """
    if isinstance(node, (And, Or)):
        return all(only_about(part, *columns) for part in node.parts)
    if isinstance(node, Not):
        return only_about(node.part, *columns)
    return node.path[0] in columns


def by_id(node: Node) -> tuple[frozenset[str] | None, Node]:
    """Return the ids to which a query restricts the tasks, or None if it does not, and the rest of the query.

    Examples
    --------
    >>> by_id(parse_query({"_id": {"$in": ["a"]}, "status": "done"}))
    (frozenset({'a'}), Compare(path=('status',), op='$eq', value='done'))
    """
    if isinstance(node, And):
        parts = [by_id(part) for part in node.parts]
        some = [ids for ids, _ in parts if ids is not None]
        rest = tuple(part for _, part in parts if part != And(()))
        return (frozenset.intersection(*some) if some else None), rest[0] if len(rest) == 1 else And(rest)
    if isinstance(node, Compare) and node.path == ("id",) and node.op in ("$eq", "$in"):
        values = node.value if node.op == "$in" else (node.value,)
        return frozenset(v for v in values if isinstance(v, str)), And(())
    return None, node


def matches(node: Node, document: Mapping[str, object]) -> bool:
    """Return whether a document (columns, and the searchable definition under ``def``) matches."""
    if isinstance(node, And):
        return all(matches(p, document) for p in node.parts)
    if isinstance(node, Or):
        return any(matches(p, document) for p in node.parts)
    if isinstance(node, Not):
        return not matches(node.part, document)
    return compare(document, node.path, node.op, node.value)
