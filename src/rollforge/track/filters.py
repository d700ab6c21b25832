"""Parser and evaluator for MLflow's filter language for runs, so that every tracking store supports it.

A filter is ``KIND.KEY OP VALUE`` joined by ``and``. The kind is ``params``, ``metrics``, ``tags`` or ``attributes``. A
key with characters other than letters, digits, ``_`` and ``.`` is put in double quotes or backticks; text is quoted::

    params.model = 'lgb' and metrics."l2.valid" < 0.99 and attributes.status = 'FINISHED' and tags.user LIKE 'a%'
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rollforge.errors import ConfigError, nearest
from rollforge.track.tracker import RunData, RunQuery

__all__ = ["Condition", "matches", "parse_filter", "parse_order", "sort_runs"]

_KINDS = {
    "params": "params", "param": "params", "parameter": "params", "parameters": "params",
    "metrics": "metrics", "metric": "metrics", "tags": "tags", "tag": "tags",
    "attributes": "attributes", "attribute": "attributes", "attr": "attributes", "run": "attributes",
}  # fmt: skip
_ATTRIBUTES = {
    "status": "status", "run_name": "name", "run name": "name", "Run name": "name", "Run Name": "name", "run_id": "id",
    "experiment_id": "experiment_id", "start_time": "start_time", "created": "start_time", "end_time": "end_time",
}  # fmt: skip
_FLAGS = re.VERBOSE | re.IGNORECASE
_KEY = re.compile(r"""\s*((?:\w+\.)?(?:`[^`]+`|"[^"]+"|[\w./-]+))""", _FLAGS)
_OP = re.compile(r"\s*(!=|>=|<=|=|>|<|(?:not\s+in|i?like|in|is\s+not\s+null|is\s+null)\b)", _FLAGS)
_TEXT = r"""'(?:[^'\\]|\\.|'')*'|"[^"]*\""""
_VALUE = re.compile(
    rf"""\s*(?:(?P<text>{_TEXT})|(?P<list>\(\s*(?:{_TEXT})(?:\s*,\s*(?:{_TEXT}))*\s*\))
    |(?P<number>[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|inf|nan)\b))""",
    _FLAGS,
)
_AND = re.compile(r"\s*and\b", _FLAGS)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_ORDERED = frozenset((">", ">=", "<", "<="))


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `value` is a string, a number, a tuple of strings, or None for ``is null``."""

    kind: str
    key: str
    op: str
    value: str | float | tuple[str, ...] | None


def _unquote(text: str) -> str:
    body = text[1:-1]
    return body.replace("''", "'").replace("\\'", "'").replace("\\\\", "\\") if text[0] == "'" else body


def _name(token: str, text: str) -> tuple[str, str]:
    prefix, dot, key = token.partition(".")
    if not dot or token[0] in '`"':
        prefix, key = "attributes", token
    if prefix not in _KINDS:
        raise ConfigError(
            f"{prefix!r} in the filter {text!r} must be one of {', '.join(sorted(set(_KINDS.values())))}."
        )
    kind = _KINDS[prefix]
    if not key:
        raise ConfigError(f"{token!r} in the filter {text!r} has no name. Write {kind}.NAME.")
    key = key[1:-1] if key[0] in '`"' else key
    if kind == "attributes":
        if key not in _ATTRIBUTES:
            raise ConfigError(
                f"a run has no attribute {key!r} (in {text!r}).{nearest(key, _ATTRIBUTES)} "
                "Write params.NAME, metrics.NAME or tags.NAME for its values."
            )
        key = _ATTRIBUTES[key]
    return kind, key


def _value(match: re.Match[str]) -> str | float | tuple[str, ...]:
    if match["text"] is not None:
        return _unquote(match["text"])
    if match["number"] is not None:
        return float(match["number"])
    return tuple(_unquote(t) for t in re.findall(_TEXT, match["list"]))


def _next(pattern: re.Pattern[str], text: str, place: int, what: str) -> re.Match[str]:
    match = pattern.match(text, place)
    if match is None:
        rest = text[place:].strip()
        raise ConfigError(f"the filter {text!r} needs {what} {f'where it says {rest!r}' if rest else 'at its end'}.")
    return match


@lru_cache(maxsize=256)
def parse_filter(text: str) -> tuple[Condition, ...]:
    """Parse a filter and return its conditions.

    Raises
    ------
    ConfigError
        If the filter is invalid; the message says where.

    Examples
    --------
    >>> parse_filter("metrics.IC > 0.02 and tags.`my tag` = 'a'")[1]
    Condition(kind='tags', key='my tag', op='=', value='a')
    """
    conditions: list[Condition] = []
    place = 0
    while text[place:].strip():
        if conditions:
            place = _next(_AND, text, place, "'and'").end()
        match = _next(_KEY, text, place, "params.NAME, metrics.NAME, tags.NAME or an attribute")
        kind, key = _name(match[1], text)
        match = _next(_OP, text, match.end(), "a comparison (= != > >= < <= LIKE ILIKE IN IS NULL)")
        op, value = " ".join(match[1].upper().split()), None
        if not op.startswith("IS"):
            match = _next(_VALUE, text, match.end(), "a number or a text in quotes")
            value = _value(match)
        conditions.append(_checked(Condition(kind, key, op, value), text))
        place = match.end()
    return tuple(conditions)


def _checked(condition: Condition, text: str) -> Condition:
    """Return the condition, after checking that its operator and value fit its field."""
    kind, key, op, value = condition.kind, condition.key, condition.op, condition.value
    number = kind == "metrics" or (kind == "attributes" and key.endswith("_time"))
    if number:
        fits = op in _COMPARE and isinstance(value, float)
    else:
        kind_of_value = tuple if op.endswith("IN") else str
        fits = op.startswith("IS") or (op not in _ORDERED and isinstance(value, kind_of_value))
    if not fits:
        what = "compares a number: = != > >= < <=" if number else "compares texts: = != LIKE ILIKE IN"
        raise ConfigError(f"{kind}.{key} in the filter {text!r} {what}.")
    return condition


def _like(pattern: str, text: str, *, fold: bool) -> bool:
    regex = re.escape(pattern).replace("%", ".*").replace("_", ".")
    return re.fullmatch(regex, text, re.DOTALL | (re.IGNORECASE if fold else 0)) is not None


def _actual(data: RunData, kind: str, key: str) -> Any:
    if kind == "attributes":
        value = getattr(data.info, key)
        # MLflow's times are in milliseconds.
        return value * 1000 if key.endswith("_time") and value is not None else value
    return getattr(data, kind).get(key)


def _holds(data: RunData, condition: Condition) -> bool:
    actual, op, value = _actual(data, condition.kind, condition.key), condition.op, condition.value
    if op.startswith("IS"):
        return (actual is None) == (op == "IS NULL")
    if actual is None:
        return False  # as in SQL, comparisons with a missing value are false
    if op in _COMPARE:
        return _COMPARE[op](actual, value)
    if op in ("LIKE", "ILIKE"):
        return _like(str(value), str(actual), fold=op == "ILIKE")
    assert isinstance(value, tuple)
    return (actual in value) == (op == "IN")


def matches(data: RunData, query: RunQuery) -> bool:
    """Return whether a run matches a query, ignoring its order and limit."""
    info = data.info
    if (query.status and info.status not in query.status) or (query.name is not None and info.name != query.name):
        return False
    for wanted, values in ((query.params, data.params), (query.tags, data.tags)):
        if any(values.get(k) != v for k, v in wanted.items()):
            return False
    return all(_holds(data, c) for c in parse_filter(query.filter_string))


@lru_cache(maxsize=256)
def parse_order(text: str) -> tuple[str, str, bool]:
    """Return (kind, key, descending) of one entry of ``order_by``.

    Examples
    --------
    >>> parse_order("metrics.IC DESC")
    ('metrics', 'IC', True)
    """
    match = re.fullmatch(r"\s*(.*?)(?:\s+(asc|desc))?\s*", text, re.IGNORECASE | re.DOTALL)
    if match is None or not match[1]:
        raise ConfigError(f"{text!r} is not a sort order. Write for example 'metrics.IC DESC'.")
    return (*_name(match[1], text), (match[2] or "").lower() == "desc")


def sort_runs(found: list[RunData], order_by: Sequence[str]) -> list[RunData]:
    """Return sorted runs. Missing values come last, and ties are broken by start time, latest first."""
    ordered = sorted(found, key=lambda d: d.info.id)
    ordered.sort(key=lambda d: d.info.start_time, reverse=True)
    for text in reversed(order_by):
        kind, key, descending = parse_order(text)
        there = [d for d in ordered if _comparable(_actual(d, kind, key))]
        rest = [d for d in ordered if not _comparable(_actual(d, kind, key))]
        there.sort(key=lambda d: _actual(d, kind, key), reverse=descending)
        ordered = there + rest
    return ordered


def _comparable(value: object) -> bool:
    return value is not None and value == value
