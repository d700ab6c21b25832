"""Queries in MongoDB's form: one parser to a small tree, an evaluator in memory, a translation to SQL with parameters.

``{"status": "done", "filter.model.class": "LGBModel", "_id": {"$in": […]}, "$or": [{…}, {…}]}``. Fields are ``_id``,
``status``, ``priority``, ``attempt``, ``worker``, and dotted paths into the definition, with or without the ``def.`` or
``filter.`` that Qlib writes before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.errors import ConfigError, nearest
from rollforge.task import Status, to_plain

__all__ = ["And", "Compare", "Node", "Not", "Or", "matches", "parse_query", "to_sql"]

_COLUMNS = {
    "_id": "id",
    "id": "id",
    "status": "status",
    "priority": "priority",
    "attempt": "attempt",
    "worker": "worker",
}
_OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$regex", "$not")
_LOGIC = ("$and", "$or", "$not")


@dataclass(frozen=True, slots=True)
class Compare:
    """One field against one value."""

    path: tuple[str, ...]
    """A column's name alone, or ``("def", part, …)`` into the definition."""
    op: str
    value: Any


@dataclass(frozen=True, slots=True)
class And:
    """All of them; none is true."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of them."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Not it."""

    part: Node


Node = Compare | And | Or | Not


def parse_query(query: Mapping[str, Any] | None) -> Node:
    """Return the tree of a query.

    Raises
    ------
    ConfigError
        For an operator that does not exist, naming the nearest.
    """
    parts: list[Node] = []
    for key, value in (query or {}).items():
        if key in ("$and", "$or"):
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"{key} needs a list of queries, found {value!r}.", path="query")
            inner = tuple(parse_query(v) for v in value)
            parts.append(And(inner) if key == "$and" else Or(inner))
        elif key == "$not":
            parts.append(Not(parse_query(value)))
        elif key.startswith("$"):
            raise ConfigError(f"unknown operator {key!r}.{nearest(key, _LOGIC)}", path="query")
        else:
            parts.append(_field(key, value))
    return parts[0] if len(parts) == 1 else And(tuple(parts))


_DEFINED = ("def", "filter", "model", "dataset", "record")


def _field(key: str, value: Any) -> Node:
    head, *rest = key.split(".")
    if "." not in key and key not in _COLUMNS and key not in _DEFINED:
        near = nearest(key, _COLUMNS)
        if near:
            raise ConfigError(f"unknown field {key!r}.{near} A task's own keys are written def.{key}.", path="query")
    if key == "status" and isinstance(value, str) and value not in tuple(Status):
        raise ConfigError(
            f"{value!r} is no status.{nearest(value, Status)} There are: {', '.join(Status)}.", path="query"
        )
    if key in _COLUMNS:
        path: tuple[str, ...] = (_COLUMNS[key],)
    else:
        path = ("def", *rest) if head in ("def", "filter") else ("def", head, *rest)
    if isinstance(value, Mapping) and any(str(k).startswith("$") for k in value):
        return And(tuple(_operation(path, str(op), v) for op, v in value.items()))
    return Compare(path, "$eq", to_plain(value))


def _operation(path: tuple[str, ...], op: str, value: Any) -> Node:
    if op not in _OPERATORS:
        raise ConfigError(
            f"unknown operator {op!r}.{nearest(op, _OPERATORS)} Known: {', '.join(_OPERATORS)}.", path="query"
        )
    if op == "$not":
        return Not(And(tuple(_operation(path, str(k), v) for k, v in value.items())))
    if op in ("$in", "$nin"):
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise ConfigError(f"{op} needs a list, found {value!r}.", path="query")
        return Compare(path, op, tuple(to_plain(v) for v in value))
    if op == "$regex":
        try:
            re.compile(value)
        except (re.error, TypeError) as exc:
            raise ConfigError(f"{value!r} is no regular expression: {exc}.", path="query") from exc
    return Compare(path, op, to_plain(value))


class _Missing:
    pass


_MISSING = _Missing()


def _look_up(document: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = document
    for part in path:
        if isinstance(node, Mapping) and set(node) == {"$tuple"}:
            node = node["$tuple"]
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return _MISSING
    return node


def _ordered(a: Any, b: Any) -> bool:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return numbers or (isinstance(a, str) and isinstance(b, str))


def _compare(found: Any, op: str, value: Any) -> bool:
    if op == "$exists":
        return (found is not _MISSING) == bool(value)
    known = None if found is _MISSING else found
    if op == "$eq":
        return bool(known == value)
    if op == "$ne":
        return bool(known != value)
    if op == "$in":
        return known in value
    if op == "$nin":
        return known not in value
    if op == "$regex":
        return isinstance(known, str) and re.search(value, known) is not None
    if not _ordered(known, value):
        return False
    answers: dict[str, bool] = {
        "$gt": known > value,
        "$gte": known >= value,
        "$lt": known < value,
        "$lte": known <= value,
    }
    return answers[op]


def matches(node: Node, document: Mapping[str, Any]) -> bool:
    """Return whether a document (columns, and the plain definition under ``def``) matches."""
    if isinstance(node, And):
        return all(matches(p, document) for p in node.parts)
    if isinstance(node, Or):
        return any(matches(p, document) for p in node.parts)
    if isinstance(node, Not):
        return not matches(node.part, document)
    return _compare(_look_up(document, node.path), node.op, node.value)


def to_sql(node: Node) -> tuple[str, list[Any]]:
    """Return a condition with its parameters, for SQLite; values never become part of the text.

    What is a column compares there. What lies in the definition is asked of the function ``rf_match``, which the store
    registers: the same evaluator as in memory, so both answer alike.
    """
    if isinstance(node, (And, Or)):
        if not node.parts:
            return ("1", []) if isinstance(node, And) else ("0", [])
        pieces = [to_sql(p) for p in node.parts]
        word = " AND " if isinstance(node, And) else " OR "
        return f"({word.join(p[0] for p in pieces)})", [v for p in pieces for v in p[1]]
    if isinstance(node, Not):
        text, values = to_sql(node.part)
        return f"NOT ({text})", values
    if node.path[0] == "def" or node.op not in _SQL:
        return _slow_sql(node)
    if node.op in ("$in", "$nin"):
        return f"{node.path[0]} {_SQL[node.op]} (SELECT value FROM json_each(?))", [_json(list(node.value))]
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return f"{node.path[0]} {_SQL[node.op]} ?", [node.value]
    return _slow_sql(node)


_SQL = {"$eq": "=", "$in": "IN", "$nin": "NOT IN", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _slow_sql(node: Compare) -> tuple[str, list[Any]]:
    column = "definition" if node.path[0] == "def" else node.path[0]
    spec = _json([list(node.path), node.op, list(node.value) if isinstance(node.value, tuple) else node.value])
    return f"rf_match(?, {column})", [spec]


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


def match_column(spec: str, column: Any) -> int:
    """The SQL function ``rf_match``: one comparison, spelt out by :func:`to_sql`, on a column's value."""
    import json

    path, op, value = json.loads(spec)
    found = _look_up({"def": json.loads(column)}, tuple(path)) if path[0] == "def" else column
    return int(_compare(found, op, value))
