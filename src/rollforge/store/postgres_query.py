"""Queries in PostgreSQL: the searchable form of a definition in JSONB, and comparisons as SQL and JSON paths."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from psycopg.types.json import Jsonb

from rollforge.store.base import storable_text
from rollforge.store.query import Compare, is_plain_path
from rollforge.store.sql_statements import COMPARISONS, NUMBERS, Condition, Values
from rollforge.task import searchable

__all__ = ["filter_of", "in_column", "in_json", "to_json", "tree_of"]

_IN_JSON = {**COMPARISONS, "$eq": "=="}


def in_column(node: Compare, name: str) -> Condition:
    column, op, value = node.path[0], node.op, node.value
    number = column in NUMBERS
    if op == "$exists":
        return ("(1 = 1)" if value else "(1 = 0)"), {}
    if op == "$in" and not number:  # one parameter for any number of values: a statement may have at most 65,535
        found = f"{column} = ANY(CAST(:{name} AS text[]))"
        missing = f"({found} OR {column} IS NULL)" if None in value else found
        return missing, {name: [v for v in value if isinstance(v, str)]}
    if op == "$in":
        found = f"{column} = ANY(CAST(:{name} AS double precision[]))"
        missing = f"({found} OR {column} IS NULL)" if None in value else found
        return missing, {name: [_float(v) for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]}
    if op == "$regex":
        return ("(1 = 0)" if number else f"{column} ~ :{name}"), {name: value}
    if value is None:
        return (f"{column} IS NULL" if op == "$eq" else "(1 = 0)"), {}
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) if number else isinstance(value, str)
    if not fits:
        return "(1 = 0)", {}
    # Strings are compared by code point, as in all stores, and not by the server's collation. Equality is the same in
    # all collations, and can use an index.
    collate = "" if number or op == "$eq" else ' COLLATE "C"'
    cast = "DOUBLE PRECISION" if number else "TEXT"
    return f"{column} {COMPARISONS[op]} CAST(:{name} AS {cast}){collate}", {name: value}


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # beyond the range of all columns
        return math.copysign(math.inf, value)


def to_json(value: object) -> str:
    """Return JSON that PostgreSQL accepts, in which equal numbers have the same form.

    A text of a JSONB value cannot hold NUL. A float of 2**60 would be written with fewer digits than the integer.
    """
    return json.dumps(_exact(value)).replace("\\u0000", "\\ufffd")


def _exact(value: object) -> object:
    if isinstance(value, dict):
        return {key: _exact(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def filter_of(definition: str) -> Jsonb:
    """Return the searchable form of a definition."""
    return _jsonb(tree_of(definition))


def tree_of(definition: str) -> Any:
    """Return the searchable form of a stored definition; empty if it is damaged (copied from another store)."""
    try:
        tree = searchable(_DECODER.decode(definition))
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    if not isinstance(tree, dict):
        return {}
    return _held(tree) if _UNHELD.search(definition) else tree


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_UNHELD = re.compile(r"\\ud|[eE]\+?[0-9]{3}")
"""Values that are valid in JSON but not in JSONB: lone surrogates, and numbers beyond the range of floats."""


def _held(value: object) -> object:
    if isinstance(value, dict):
        return {storable_text(key): _held(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_held(v) for v in value]
    if isinstance(value, str):
        return storable_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _jsonb(value: object) -> Jsonb:
    return Jsonb(value, dumps=to_json)


def _either(parts: Sequence[str]) -> str:
    return f"({' OR '.join(parts)})" if parts else "(1 = 0)"


_MANY = 1000
"""Up to this number, values are compared one by one, which can use an index; more of them become one parameter."""


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _among_json(path: tuple[str, ...], values: Sequence[object], name: str) -> Condition:
    """Return the condition that one of many values is at a path, or in a list there, with one parameter."""
    exact = is_plain_path(path)
    target = f"(filter #> CAST(:{name}_at AS text[]))" if exact else "filter"
    steps = "" if exact else "".join(f".{to_json(part)}" for part in path)
    text = (
        f"EXISTS (SELECT 1 FROM jsonb_path_query({target}, CAST(:{name}_path AS jsonpath)) AS found (value) WHERE "
        f"found.value IN (SELECT wanted.value FROM jsonb_array_elements(CAST(:{name} AS jsonb)) AS wanted (value)))"
    )
    return text, {
        **({f"{name}_at": list(path)} if exact else {}), f"{name}_path": f"${steps}[*]", name: _jsonb(list(values)),
    }  # fmt: skip


def in_json(node: Compare, name: str) -> Condition:
    """Return a comparison within the definition as a JSON path; lax paths match elements of lists as in MongoDB."""
    path, op, value = node.path[1:], node.op, node.value
    if op == "$in":
        many = [v for v in value if _is_plain(v)] if len(value) > _MANY else []
        rest = [v for v in value if not _is_plain(v)] if many else value
        parts = [in_json(Compare(node.path, "$eq", v), f"{name}_{i}") for i, v in enumerate(rest)]
        if many:
            parts.append(_among_json(path, many, name))
        return _either([p[0] for p in parts]), {k: v for p in parts for k, v in p[1].items()}
    exact = is_plain_path(path)
    target = f"(filter #> CAST(:{name}_at AS text[]))" if exact else "filter"
    steps = "" if exact else "".join(f".{to_json(part)}" for part in path)
    values: Values = {f"{name}_at": list(path)} if exact else {}
    there = f"jsonb_path_exists({target}, CAST(:{name}_path AS jsonpath))"
    if op == "$exists":
        return (there if value else f"NOT COALESCE({there}, FALSE)"), {**values, f"{name}_path": f"${steps}"}
    if op in ("$gt", "$gte", "$lt", "$lte") and (value is None or isinstance(value, (list, dict))):
        return "(1 = 0)", {}  # these are not ordered
    if op == "$eq" and isinstance(value, (list, dict)):
        plain = f"filter #> CAST(:{name}_at AS text[]) = CAST(:{name} AS jsonb)"
        return plain, {f"{name}_at": list(path), name: _jsonb(value)}
    if op == "$eq" and value is not None and not exact:  # the form for which the index can be used
        return f"filter @@ CAST(:{name}_path AS jsonpath)", {f"{name}_path": f"${steps} == {to_json(value)}"}
    # A predicate unwraps one level of lists; a filter would unwrap a second one.
    test = f"like_regex {to_json(value)}" if op == "$regex" else f"{_IN_JSON[op]} $v"
    found = f"jsonb_path_match({target}, CAST(:{name}_path AS jsonpath), CAST(:{name}_values AS jsonb), TRUE)"
    values |= {f"{name}_path": f"${steps} {test}", f"{name}_values": _jsonb({"v": value})}
    if op == "$eq" and value is None:
        missing = f"NOT COALESCE(jsonb_path_exists({target}, CAST(:{name}_any AS jsonpath)), FALSE)"
        return f"({found} OR {missing})", {**values, f"{name}_any": f"${steps}"}
    return found, values
