"""Convert a stored row to a task, whatever its columns contain.

A pool that others write to, or a damaged file, may contain any value in any column. Invalid values are replaced by
defaults, and ``extra["unreadable"]`` describes what is wrong. Such a task is listed like others; claiming it fails it
with the cause ``unreadable`` instead of ending the worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollforge.errors import printable, shown
from rollforge.store.base import MAX_ATTEMPTS, TaskState, failed_workers
from rollforge.store.codec import read_definition
from rollforge.task import Attempt, Cause, Ending, Status, TaskRecord

__all__ = ["MAX_ATTEMPTS", "read_attempt", "read_record", "read_state", "read_status"]

_STATUSES = frozenset(Status)
_CAUSES = frozenset(Cause)
_ENDINGS = frozenset(Ending)
Check = Callable[[Any], object]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: object) -> int:
    if not isinstance(value, (int, float)) or value != int(value) or not -(2**63) <= value < 2**63:
        raise ValueError
    return int(value)


def _attempts(value: object) -> int:
    if not 0 <= (number := _whole(value)) <= MAX_ATTEMPTS:
        raise ValueError
    return number


def _max_attempts(value: object) -> int:
    if not -(2**31) <= (number := _whole(value)) < 2**31:
        raise ValueError
    return number


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(sorted(map(_text, value)))


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_COLUMNS: dict[str, tuple[Check, object]] = {
    "status": (Status, Status.FAILED),
    "stage_from": (Status, Status.WAITING),
    "priority": (_whole, 0),
    "attempt": (_attempts, 0),
    "max_attempts": (_max_attempts, 1),
    "token": (_whole, 0),
    "lease_until": (_or_none(_moment), None),
    "available_at": (_moment, 0.0),
    "worker": (_or_none(_text), None),
    "created_at": (_moment, 0.0),
    "started_at": (_or_none(_moment), None),
    "finished_at": (_or_none(_moment), None),
    "error": (_or_none(_text), None),
    "cause": (lambda value: Cause(value) if value else None, None),
    "log": (_text, ""),
    "model_name": (_text, ""),
    "submission": (_text, ""),
    "failed_by": (lambda value: failed_workers(_text(value)), ()),
    "depends_on": (_texts, ()),
    "blocked": (bool, False),
}
"""Column -> (function that checks and converts a value, default for invalid values)."""


def read_state(row: Sequence[Any]) -> TaskState:
    """Return the state in a row with the columns of :class:`~rollforge.store.base.TaskState`, whatever it contains."""
    task_id, status, model_name, attempt, cause, worker, created_at, started_at, finished_at, lease_until, blocked = row
    return TaskState(
        task_id if isinstance(task_id, str) else shown(task_id), read_status(status),
        model_name if isinstance(model_name, str) else "", attempt if isinstance(attempt, int) else 0,
        Cause(cause) if cause in _CAUSES else None, worker if isinstance(worker, str) else None,
        _number(created_at) or 0.0, _number(started_at), _number(finished_at), _number(lease_until), bool(blocked),
    )  # fmt: skip


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def read_attempt(row: Sequence[Any]) -> Attempt:
    """Return the attempt in a row with the columns ``number, token, worker, started_at, ended_at, ending, cause, error``,
    whatever it contains."""
    number, token, worker, started_at, ended_at, ending, cause, error = row
    return Attempt(
        number=number if isinstance(number, int) and 0 <= number <= MAX_ATTEMPTS else 0,
        ending=Ending(ending) if isinstance(ending, str) and ending in _ENDINGS else Ending.FAILED,
        cause=Cause(cause) if isinstance(cause, str) and cause in _CAUSES else None,
        error=error if isinstance(error, str) else None,
        worker=worker if isinstance(worker, str) else None, started_at=_number(started_at), ended_at=_number(ended_at) or 0.0,
        token=token if isinstance(token, int) else 0,
    )  # fmt: skip


def read_status(value: Any) -> Status:
    """Return a status as read by :func:`read_record`: an invalid one is ``failed``."""
    return Status(value) if value in _STATUSES else Status.FAILED


def read_record(columns: Mapping[str, object]) -> TaskRecord:
    """Return the task in a row.

    Parameters
    ----------
    columns : mapping
        ``pool``, ``id``, ``text`` (the stored definition) and fields of :class:`~rollforge.task.TaskRecord`, as
        returned by the database.
    """
    damage: list[str] = []
    fields: dict[str, Any] = {}
    for name, value in columns.items():
        if name in ("pool", "id", "text", "history"):
            continue
        check, instead = _COLUMNS[name]
        try:
            fields[name] = check(value)
        except (TypeError, ValueError, OverflowError):
            fields[name] = instead
            damage.append(f"Its {name} is {shown(value)}, which is not a valid value.")
    text = columns["text"]
    definition: Any = {}
    if isinstance(text, str):
        definition, unreadable = read_definition(text)
        damage += [unreadable] if unreadable else []
    else:
        damage.append(f"Its definition is of type {type(text).__name__}, not a string.")
    return TaskRecord(
        id=columns["id"] if isinstance(columns["id"], str) else shown(columns["id"]),
        pool=columns["pool"] if isinstance(columns["pool"], str) else shown(columns["pool"]),
        definition=definition,
        text=text if isinstance(text, str) else "",
        history=columns.get("history", ()),  # type: ignore[arg-type]
        extra={"unreadable": printable(" ".join(damage))} if damage else {},
        **fields,
    )
