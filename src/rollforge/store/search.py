"""Index of the values at paths of definitions, in SQLite tables, so that queries need not read definitions.

When a query uses a new path, all tasks are indexed at that path, and from then on every new task is; the first tasks of
a pool determine the paths that are indexed from the beginning. Values are interned: a term is a value of one kind at
one path, and ``search_values`` contains the terms of each task. Values are compared by the rules of the evaluator in
:mod:`rollforge.store.query`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollforge.store.query import Compare, found_at, is_plain_path
from rollforge.store.sql_statements import Values
from rollforge.task import searchable

__all__ = ["SEARCH_TABLES", "PathTree", "Term", "condition", "first_paths", "terms_of"]

SEARCH_TABLES = """
CREATE TABLE search_paths (
    id    INTEGER PRIMARY KEY,
    pool  TEXT NOT NULL,
    path  TEXT NOT NULL,
    built INTEGER NOT NULL,
    upto  INTEGER NOT NULL,
    UNIQUE (pool, path)
);
CREATE TABLE search_terms (
    id    INTEGER PRIMARY KEY,
    path  INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    value NOT NULL,
    UNIQUE (path, kind, value)
);
CREATE TABLE search_values (seq INTEGER NOT NULL, term INTEGER NOT NULL, PRIMARY KEY (seq, term)) WITHOUT ROWID;
CREATE INDEX search_values_by_term ON search_values (term, seq);
CREATE TRIGGER searched_task_gone AFTER DELETE ON tasks BEGIN
    DELETE FROM search_values WHERE seq = OLD.seq;
END;
CREATE TRIGGER searched_task_moved AFTER UPDATE OF seq ON tasks WHEN OLD.seq <> NEW.seq BEGIN
    UPDATE search_values SET seq = NEW.seq WHERE seq = OLD.seq;
END
"""
_FIRST_PATHS = 16
_SAMPLE = 100
_INT64 = 2**63
_FEW = 10

Term = tuple[str, object]
"""Kind and value. The kinds are ``number``, ``big`` (an integer of more than 64 bits, in digits), ``text``, ``truth``,
``null``, and ``node`` for a list or an object, whose value is a digest if it is reached without going through the
elements of lists."""


@dataclass(slots=True)
class PathTree:
    """A tree of paths, so that one pass over a definition finds the values at all of them."""

    id: int | None = None
    parts: dict[str, PathTree] = field(default_factory=dict)
    counting: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """Paths with list indexes, which are looked up one by one."""

    @classmethod
    def of(cls, paths: Mapping[int, tuple[str, ...]]) -> PathTree:
        """Return the tree of some paths."""
        tree = cls()
        for number, path in paths.items():
            if is_plain_path(path):
                tree.counting.append((number, path))
                continue
            node = tree
            for part in path:
                node = node.parts.setdefault(part, cls())
            node.id = number
        return tree


def terms_of(text: str, tree: PathTree) -> set[tuple[int, str, object]]:
    """Return the terms (path, kind, value) of a stored definition; none if it is damaged."""
    try:
        document = searchable(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        return set()
    found: set[tuple[int, str, object]] = set()
    for number, path in tree.counting:
        for value in found_at(document, path):
            found.update((number, *term) for term in _terms(value, exact=True))
    if tree.parts or tree.id is not None:
        _walk(document, tree, found, exact=True)
    return found


def _walk(value: object, tree: PathTree, found: set[tuple[int, str, object]], *, exact: bool) -> None:
    if tree.id is not None:
        found.update((tree.id, *term) for term in _terms(value, exact=exact))
    if not tree.parts:
        return
    if isinstance(value, dict):
        for part, inner in tree.parts.items():
            if part in value:
                _walk(value[part], inner, found, exact=exact)
    elif isinstance(value, list):
        beyond = PathTree(parts=tree.parts)
        for element in value:
            if isinstance(element, dict):
                _walk(element, beyond, found, exact=False)


def _terms(value: object, *, exact: bool) -> Iterator[Term]:
    """Yield the terms of a value for comparisons: of the value itself, and of the elements of a list."""
    if isinstance(value, (list, dict)):
        yield "node", _digest(value) if exact else ""
        if isinstance(value, list):
            for element in value:
                if not isinstance(element, (list, dict)):
                    yield _scalar(element)
    else:
        yield _scalar(value)


def _scalar(value: object) -> Term:
    if value is None:
        return "null", 0
    if isinstance(value, bool):
        return "truth", int(value)
    if isinstance(value, str):
        return "text", value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "big", str(value)
    if value != value:  # NaN, which equals nothing, and which SQLite stores as NULL
        return "null", 1
    return "number", value


def _digest(value: object) -> str:
    """Return a hash of a list or an object. Equal values have equal hashes: 1 equals 1.0, but not true."""
    text = json.dumps(_normal(value), sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _normal(value: object) -> object:
    if isinstance(value, dict):
        return {k: _normal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_normal(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def first_paths(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the paths of scalars in the first definitions of a pool to index: short ones whose values differ."""
    seen: dict[tuple[str, ...], set[Term]] = {}

    def collect(value: object, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for part, inner in value.items():
                if "." not in part and not part.isdigit():
                    collect(inner, (*path, part))
        elif isinstance(value, list):
            for element in value:
                collect(element, path)
        else:
            seen.setdefault(path, set()).add(_scalar(value))

    sample = texts[:_SAMPLE]
    for text in sample:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # a damaged definition
            collect(searchable(json.loads(text)), ())
    differ = [path for path, terms in seen.items() if path and (len(terms) > 1 or len(sample) < _FEW)]
    return sorted(differ, key=len)[:_FIRST_PATHS]


# -- conditions --------------------------------------------------------------------------------------------------------

_COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def condition(node: Compare, name: str, *, in_order: bool) -> tuple[str, Values]:
    """Return the SQL of a comparison at an indexed path of pool ``:pool``, and its parameters.

    Parameters
    ----------
    node : Compare
        The comparison.
    name : str
        Prefix of the names of parameters.
    in_order : bool
        If True, optimize for examining tasks in order until one matches, else for finding all that match.
    """
    values: Values = {f"{name}_path": json.dumps(node.path[1:])}
    tests, missing = _tests(node.op, node.value, name, values)
    parts = []
    if tests:
        parts.append(_among(tests, name, in_order=in_order))
    if missing:
        parts.append(f"NOT {_among(['TRUE'], name, in_order=in_order)}")
    return f"({' OR '.join(parts)})" if parts else "(1 = 0)", values


def _among(tests: Sequence[str], name: str, *, in_order: bool) -> str:
    """Return the condition that a task has a term that passes a test. In SQLite, CROSS JOIN fixes the join order."""
    path = f"t.path = (SELECT id FROM search_paths WHERE pool = :pool AND path = :{name}_path)"
    if in_order:
        return (
            "EXISTS (SELECT 1 FROM search_values v CROSS JOIN search_terms t ON t.id = v.term "
            f"WHERE v.seq = tasks.seq AND {path} AND ({' OR '.join(tests)}))"
        )
    terms = "SELECT v.seq FROM search_terms t CROSS JOIN search_values v ON v.term = t.id"
    return f"tasks.seq IN ({' UNION ALL '.join(f'{terms} WHERE {path} AND {test}' for test in tests)})"


def _tests(op: str, value: Any, name: str, values: Values) -> tuple[list[str], bool]:
    """Return tests of terms, one of which must be true, and whether a task without a term at the path matches too."""
    if op == "$exists":
        return (["TRUE"], False) if value else ([], True)
    if op == "$in":
        return _any_of(value, name, values)
    if op == "$regex":
        values[name] = json.dumps(value)
        return [f"(t.kind = 'text' AND rf_regex(:{name}, t.value))"], False
    if op == "$eq":
        return _any_of([value], name, values)
    return list(_ordered(op, value, name, values)), False


def _any_of(wanted: Iterable[object], name: str, values: Values) -> tuple[list[str], bool]:
    """Return the tests for equality with one of some values, by kind; None also equals a missing value."""
    by_kind: dict[str, list[object]] = {}
    missing = False
    for value in wanted:
        if isinstance(value, (list, dict)):
            by_kind.setdefault("node", []).append(_digest(value))
            continue
        missing |= value is None
        for kind, scalar in _equals(value):
            by_kind.setdefault(kind, []).append(scalar)
    tests = []
    for kind, same in by_kind.items():
        # Many values become one JSON parameter, except floats and strings with NUL, which JSON would change.
        alone = [v for v in same if isinstance(v, float) or "\x00" in str(v) or len(same) <= _FEW]
        others = [v for v in same if v not in alone]
        for i, one in enumerate(alone):
            values[f"{name}_{kind}{i}"] = one
        if alone:
            tests.append(
                f"(t.kind = '{kind}' AND t.value IN ({', '.join(f':{name}_{kind}{i}' for i in range(len(alone)))}))"
            )
        if others:
            values[f"{name}_{kind}"] = json.dumps(others)
            tests.append(f"(t.kind = '{kind}' AND t.value IN (SELECT value FROM json_each(:{name}_{kind})))")
    return tests, missing


def _equals(value: Any) -> Iterator[Term]:
    """Yield the terms that equal a scalar: an integer of more than 64 bits may equal a float."""
    kind, scalar = _scalar(value)
    yield kind, scalar
    with contextlib.suppress(OverflowError):
        if kind == "big" and float(value) == value:
            yield "number", float(value)
        elif isinstance(scalar, float) and scalar.is_integer() and not -_INT64 <= scalar < _INT64:
            yield "big", str(int(scalar))


def _ordered(op: str, value: object, name: str, values: Values) -> Iterator[str]:
    if value is None or isinstance(value, (list, dict)):
        return
    kind, scalar = _scalar(value)
    if kind in ("text", "truth"):
        values[name] = scalar
        yield f"(t.kind = '{kind}' AND t.value {_COMPARISONS[op]} :{name})"
        return
    # Numbers of up to 64 bits are compared in SQL; if either side is larger, they are compared exactly in Python.
    if kind == "number":
        values[name] = scalar
        yield f"(t.kind = 'number' AND t.value {_COMPARISONS[op]} :{name})"
    values[f"{name}_exact"] = json.dumps([op, value])
    kinds = "('big')" if kind == "number" else "('big', 'number')"
    yield f"(t.kind IN {kinds} AND rf_number(:{name}_exact, t.value))"
