"""Translate queries to MongoDB: only the names of fields differ."""

from __future__ import annotations

import re
from typing import Any

from bson import ObjectId

from rollforge.store.mongo_documents import (
    Document,
)
from rollforge.store.query import And, Compare, Node, Not, Or

__all__ = ["by_id", "to_condition"]


def by_id(task_id: str) -> Document:
    """Return the query for a task by its digest, or by its MongoDB id."""
    own = {"digest": task_id}
    return {"$or": [own, {"_id": ObjectId(task_id)}]} if re.fullmatch("[0-9a-f]{24}", str(task_id)) else own


def to_condition(node: Node) -> Document:
    """Return the query with the names of fields in MongoDB's documents."""
    if isinstance(node, (And, Or)) and len(node.parts) == 1:
        return to_condition(node.parts[0])
    if isinstance(node, And):
        return {"$and": [to_condition(p) for p in node.parts]} if node.parts else {}
    if isinstance(node, Or):
        return {"$or": [to_condition(p) for p in node.parts]} if node.parts else {"digest": {"$in": []}}
    if isinstance(node, Not):
        return {"$nor": [to_condition(node.part)]}
    return _compare(node)


def _compare(node: Compare) -> Document:
    value: Any = list(node.value) if isinstance(node.value, tuple) else node.value
    if node.path == ("id",):
        if node.op == "$eq":
            return by_id(str(value))
        if node.op == "$in":
            texts = [str(v) for v in value]
            own = [ObjectId(t) for t in texts if re.fullmatch("[0-9a-f]{24}", t)]
            known = {"digest": {"$in": texts}}
            return {"$or": [known, {"_id": {"$in": own}}]} if own else known
        return {"digest": {node.op: value}}
    field = ".".join(("filter", *node.path[1:])) if node.in_definition else node.path[0]
    if node.op == "$eq" and not isinstance(value, (dict, list)):
        return {field: value}
    return {field: {node.op: value}}
