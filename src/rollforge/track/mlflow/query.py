"""Queries in MLflow's filter language."""

from __future__ import annotations

from rollforge.track.filters import Condition, parse_filter, parse_order
from rollforge.track.mlflow.names import MAX_TAG, safe_key
from rollforge.track.tracker import RunQuery

__all__ = ["filter_text", "order_text"]

_ATTRIBUTES = {"name": "run_name", "id": "run_id"}


def filter_text(query: RunQuery) -> str:
    """Return a query in MLflow's filter language, without the conditions that it cannot express."""
    wanted = list(parse_filter(query.filter_string))
    if len(query.status) == 1:
        wanted.append(Condition("attributes", "status", "=", query.status[0]))
    if query.name is not None:
        wanted.append(Condition("attributes", "name", "=", query.name))
    for kind, values in (("params", query.params), ("tags", query.tags)):
        wanted.extend(Condition(kind, k, "=", v) for k, v in values.items())
    return " and ".join(text for text in map(_condition_text, wanted) if text is not None)


def order_text(text: str) -> str:
    """Return one of the query's orders in MLflow's language."""
    kind, key, descending = parse_order(text)
    return f"{_key(kind, key)} {'DESC' if descending else 'ASC'}"


def _key(kind: str, key: str) -> str:
    return f"attributes.{_ATTRIBUTES.get(key, key)}" if kind == "attributes" else f"{kind}.`{safe_key(key)}`"


def _condition_text(condition: Condition) -> str | None:
    kind, op, value = condition.kind, condition.op, condition.value
    key = _key(kind, condition.key)
    texts = [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
    if kind == "attributes" and condition.key == "experiment_id":
        return None
    if any(len(t) > MAX_TAG or "'" in t or '"' in t or "\\" in t for t in texts):
        return None
    if value is None:
        return f"{key} {op}"
    if isinstance(value, tuple):
        # MLflow supports IN only for attributes.
        return f"{key} {op} ({', '.join(repr(v) for v in value)})" if kind == "attributes" else None
    if isinstance(value, str):
        return f"{key} {op} '{value}'"
    number = int(value) if kind == "attributes" and value.is_integer() else value
    return f"{key} {op} {number!r}" if abs(value) < float("inf") else None
