"""The documents of tasks in MongoDB: Qlib's fields and those of Rollforge."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bson.binary import Binary

from rollforge import safe_pickle
from rollforge.errors import (
    ArtifactUnreadable,
    RollforgeError,
    UntrustedPickle,
)
from rollforge.store.base import (
    damaged_result,
    failure_mark,
    storable_text,
)
from rollforge.store.codec import EncodedResult, decode_result
from rollforge.store.rows import read_attempt, read_record
from rollforge.task import (
    KEPT_ATTEMPTS,
    Attempt,
    Status,
    TaskRecord,
    digest,
    encode,
    searchable,
    to_plain,
)

__all__ = [
    "ANY_TASK",
    "ATTEMPTED",
    "CANCELLED",
    "CLAIMED",
    "DEPENDENCY",
    "DONE",
    "EXPIRED",
    "FAILED",
    "FRESH",
    "GIVEN",
    "HELD",
    "KEPT",
    "PARTLY_DONE",
    "RESET",
    "RESTORED",
    "STATUS_SET",
    "UNREADABLE",
    "Document",
    "copied_fields",
    "definition_fields",
    "fields_of",
    "history_field",
    "history_in",
    "ids_of",
    "moment_of",
    "pickle_bytes",
    "record_of",
    "result_field",
    "result_of",
    "texts_in",
    "whole_result",
    "with_stage",
]


Document = dict[str, Any]


FRESH: Document = {
    "status": "waiting", "stage_from": "waiting", "priority": 0, "attempt": 0, "max_attempts": 3, "token": 0,
    "available_at": 0.0, "lease_until": None, "worker": None, "started_at": None, "finished_at": None, "error": None,
    "cause": None, "log": "", "needs": [], "unmet": [], "model_name": "", "failed_by": "", "submission": "", "batches": [],
    "claim": None, "ending": None, "creation": "", "history": [],
}  # fmt: skip


# Fields that are kept when the definition of a task is replaced.
KEPT = ("priority", "max_attempts", "token", "needs", "unmet", "model_name", "submission", "batches", "creation")


UNREADABLE = (UntrustedPickle, ArtifactUnreadable)


def record_of(pool: str, found: Document) -> TaskRecord:
    """Return the task in a document, whatever its fields contain."""
    own = (
        "status", "stage_from", "priority", "attempt", "max_attempts", "token", "lease_until", "available_at", "worker",
        "created_at", "started_at", "finished_at", "error", "cause", "log",
    )  # fmt: skip
    return read_record({
        "id": found.get("digest"), "pool": pool, "text": found.get("plain"), **{name: found.get(name) for name in own},
        "depends_on": found.get("needs"), "blocked": found.get("unmet"), "model_name": found.get("model_name", ""),
        "failed_by": found.get("failed_by", ""), "submission": found.get("submission", ""),
        "history": history_in(found.get("history")),
    })  # fmt: skip


_ATTEMPT = ("number", "token", "worker", "started_at", "ended_at", "ending", "cause", "error")


def history_in(values: object) -> tuple[Attempt, ...]:
    """Return the attempts in what should be a list of documents."""
    kept = [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []
    return tuple(read_attempt([one.get(name) for name in _ATTEMPT]) for one in kept[-KEPT_ATTEMPTS:])


def history_field(history: Iterable[Attempt]) -> list[Document]:
    """Return attempts as they are stored."""
    return [
        {
            **{name: getattr(one, name) for name in _ATTEMPT},
            "ending": one.ending.value,
            "cause": one.cause and one.cause.value,
        }
        for one in history
    ]


def ids_of(found: Iterable[Document]) -> list[str]:
    """Return the ids of documents, except damaged ones, which have none."""
    return [d["digest"] for d in found if isinstance(d.get("digest"), str)]


def texts_in(values: object) -> list[str]:
    """Return the strings in what should be a list of strings; documents of other programs may contain anything."""
    return [v for v in values if isinstance(v, str)] if isinstance(values, Iterable) else []


def moment_of(value: object) -> float:
    """Return a time; 0.0 if the value is invalid."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def definition_fields(definition: Mapping[str, object]) -> Document:
    """Return the fields of a definition: the canonical JSON, a tree for queries, and a pickle for Qlib."""
    return {
        "digest": digest(definition), "plain": encode(definition), "filter": _storable(searchable(to_plain(definition))),
        "def": Binary(pickle.dumps(dict(definition), protocol=4)),
    }  # fmt: skip


def copied_fields(task: TaskRecord) -> Document:
    """Return the same fields for a task copied from another store; a damaged definition is copied unchanged."""
    try:
        return {**definition_fields(task.definition), **({"plain": storable_text(task.text)} if task.text else {})}
    except RollforgeError:
        return {"plain": storable_text(task.text), "filter": {}, "def": Binary(pickle.dumps({}, protocol=4))}


def _storable(value: object) -> object:
    """Return the tree with values that BSON cannot represent as strings."""
    if isinstance(value, dict):
        return {k.replace("\x00", ""): _storable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_storable(v) for v in value]
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def result_field(kept: EncodedResult) -> Binary:
    """Return a result as a pickle, the form that Qlib stores."""
    return Binary(kept.blob if kept.blob is not None else pickle.dumps(decode_result(kept), protocol=4))


def pickle_bytes(value: object) -> bytes:
    """Return `value` if it is bytes. Anything else is not a pickle; ``bytes(n)`` of an integer would make n zeros."""
    if not isinstance(value, bytes):
        raise ArtifactUnreadable(f"It is of type {type(value).__name__}, not bytes.")
    return value


def result_of(found: Document) -> object:
    kept = found.get("res")
    return None if kept is None else safe_pickle.loads(pickle_bytes(kept))


def whole_result(task: TaskRecord, found: Document) -> object:
    try:
        return result_of(found)
    except UNREADABLE as exc:
        raise damaged_result(task, exc) from exc


# The fields that each transition changes, see rollforge.transitions.
CLAIMED = ("status", "stage_from", "token", "worker", "lease_until", "started_at", "finished_at", "log")


GIVEN = ("status", "lease_until", "history")


_ENDED = ("status", "attempt", "cause", "error", "lease_until", "available_at", "finished_at")


EXPIRED = (*_ENDED, "history")


FAILED = (*EXPIRED, "log", "failed_by")


DONE = (*(name for name in _ENDED if name != "attempt"), "log")
"""What changes in a task that is done: it keeps the number of its failed attempts."""


PARTLY_DONE = (*EXPIRED, "log")


RESTORED = ("status", "attempt", "available_at", "failed_by")


_ANEW = ("status", "attempt", "lease_until", "available_at", "cause", "failed_by")


RESET = (*_ANEW, "stage_from")


STATUS_SET = (*_ANEW, "error", "worker", "started_at", "finished_at")


DEPENDENCY = ("status", "cause", "error", "finished_at")


CANCELLED = (*DEPENDENCY, "lease_until")


HELD = (
    "digest", "status", "stage_from", "token", "attempt", "max_attempts", "worker", "started_at", "finished_at", "failed_by",
    "history",
)  # fmt: skip
"""The fields on which it depends how a claim ends."""


ATTEMPTED: Document = {"$or": [{"status": "running"}, {"status": "done", "started_at": {"$ne": None}}]}
"""Tasks with an attempt that is not in their history."""


ANY_TASK = TaskRecord(id="", pool="", definition={})
"""Stands for any task, in changes that do not depend on what the task is."""


def with_stage(status: Status) -> TaskRecord:
    return replace(ANY_TASK, status=status)


def fields_of(task: TaskRecord, *names: str) -> Document:
    """Return some fields of a task as they are stored."""
    fields: Document = {name: getattr(task, name) for name in names}
    for name in {"status", "stage_from", "cause"} & fields.keys():
        fields[name] = fields[name] and fields[name].value
    if "failed_by" in fields:
        fields["failed_by"] = "".join(map(failure_mark, task.failed_by))
    if "history" in fields:
        fields["history"] = history_field(task.history)
    return fields
