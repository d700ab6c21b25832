"""The SQL that SQLite and PostgreSQL have in common: the order of tasks, claims, and the transitions of a task."""

from __future__ import annotations

import re
from typing import Any, Protocol

from rollforge.store.base import (
    LATEST_TIME,
)
from rollforge.store.rows import MAX_ATTEMPTS
from rollforge.task import Status

__all__ = [
    "ATTEMPT_COLUMNS",
    "ATTEMPT_ENDED",
    "BATCH",
    "CLAIMED",
    "COLUMNS",
    "COMMITTED",
    "COMPARISONS",
    "DUE",
    "EXPIRED",
    "FAILED",
    "FAILED_DEPENDENCIES",
    "FREE",
    "GIVEN",
    "HELD",
    "NUMBERS",
    "RESTORED",
    "RETRIED",
    "STAGE",
    "STALE_TOKEN",
    "STATUSES",
    "SUMS",
    "Condition",
    "Transaction",
    "next_tasks",
    "statements",
]


Row = tuple[Any, ...]
"""A row as the database returns it; :mod:`rollforge.store.rows` checks its values."""
Values = dict[str, Any]
"""The values of a statement's parameters."""
Condition = tuple[str, Values]


# The columns of a task without `tasks.`, in the order of _record().
COLUMNS = (
    "pool, id, definition, status, stage_from, priority, attempt, max_attempts, token, lease_until, available_at, worker, "
    "created_at, started_at, finished_at, error, cause, log, blocked, model_name, failed_by, submission"
)


_LATER = "pool = :pool AND status = :status AND blocked = FALSE"


# An invalid or impossibly late time is damage: the task is claimed, and fails as unreadable.
_DUE = f"NOT (available_at > :now AND available_at < {LATEST_TIME})"


FREE = f"{_LATER} AND {_DUE}"


_NEXT_TASKS = "SELECT seq FROM tasks WHERE {free} AND {condition} ORDER BY priority DESC, seq LIMIT :most"


# The same within a batch: scan its members in order and look up each in the table of tasks. COALESCE keeps a planner
# without statistics from scanning the tasks of the pool instead.
_LATER_MEMBER = "COALESCE(status, '') = :status AND COALESCE(blocked, TRUE) = FALSE"


BATCH = "(SELECT number FROM batches WHERE batches.pool = :pool AND name = :batch)"


_NEXT_TASKS_OF_BATCH = (
    f"SELECT seq FROM members CROSS JOIN tasks WHERE seq = task AND batch = {BATCH} AND state = :status "
    "AND held = FALSE AND {free} AND {condition} ORDER BY urgency DESC, task LIMIT :most"
)


CLAIMED = (
    "status = 'running', stage_from = :status, worker = :worker, lease_until = :now + :lease, started_at = :now, "
    "finished_at = NULL, log = '', claim = :claim, ending = NULL"
)


GIVEN = f"SELECT seq, {COLUMNS} FROM tasks WHERE claim = :claim AND status = 'running' AND COALESCE(pool, '') = :pool"


DUE = "SELECT 1 FROM tasks WHERE pool = :pool AND status = 'running' AND lease_until <= :now LIMIT 1"


# The next stage has all attempts; a task that is done keeps the number of those that failed.
COMMITTED = (
    "status = :status, error = NULL, cause = NULL, lease_until = NULL, available_at = 0, finished_at = :now, "
    "attempt = CASE WHEN CAST(:status AS TEXT) = 'done' THEN attempt ELSE 0 END, log = :log, ending = :ending"
)


# COALESCE makes the planner find a task by its id instead of an index of running tasks.
HELD = "pool = :pool AND id = :id AND COALESCE(status, '') = 'running' AND token = :held"


# The statements below follow rollforge.transitions; TaskStoreSuite compares them for all states and options.
# A damaged row may hold any numbers, on which arithmetic must not overflow: such a number of attempts counts as 0, as in
# read_record(), and such a token becomes 0, which no claim holds. Likewise for the status before the claim.
_TRIED = f"(CASE WHEN attempt BETWEEN 0 AND {MAX_ATTEMPTS} THEN attempt ELSE 0 END)"


STALE_TOKEN = f"CASE WHEN token < {2**62} THEN token + 1 ELSE 0 END"


STAGE = "CASE WHEN stage_from = 'part_done' THEN 'part_done' ELSE 'waiting' END"


# Delay after a failed attempt, see transitions.backoff(); `_TRIED` is the number of previous failed attempts.
_BACKOFF = f":jitter * CASE WHEN {_TRIED} > 5 THEN 60 ELSE (1 << {_TRIED}) END"


EXPIRED = f"""
UPDATE tasks SET attempt = {_TRIED} + 1, lease_until = NULL, finished_at = :now, cause = 'lease_lost',
    available_at = :now + CASE WHEN {_TRIED} + 1 >= max_attempts THEN 0 ELSE {_BACKOFF} END,
    status = CASE WHEN {_TRIED} + 1 >= max_attempts THEN 'failed' ELSE {STAGE} END,
    error = 'The lease of worker ' || worker || ' expired: the worker was killed, hung, or could not reach the store.'
WHERE seq IN (
    SELECT seq FROM tasks WHERE pool = :pool AND status = 'running' AND lease_until <= :now {{lock}}
) RETURNING id, status, blocked
"""


# A failure that may be the fault of the worker does not count, see transitions.counted().
_COUNTED = "CASE WHEN max_attempts <= 1 OR {position}(failed_by, :mark) > 0 THEN 1 ELSE CAST(:attempts AS INTEGER) END"


_SPENT = f"{_TRIED} + {_COUNTED} >= max_attempts OR :cause = 'unreadable'"


FAILED = f"""
UPDATE tasks SET attempt = {_TRIED} + {_COUNTED}, error = :error, cause = :cause, log = :log, lease_until = NULL,
    finished_at = :now, ending = 'fail',
    failed_by = CASE WHEN {{position}}(failed_by, :mark) > 0 THEN failed_by ELSE failed_by || :mark END,
    status = CASE WHEN {_SPENT} THEN 'failed' ELSE {STAGE} END,
    available_at = :now + CASE WHEN {_SPENT} THEN 0 ELSE {_BACKOFF} END
WHERE {HELD} RETURNING status, blocked
"""


RESTORED = f"""
UPDATE tasks SET attempt = CASE WHEN failed_by = :mark OR {_TRIED} < 1 THEN 0 ELSE {_TRIED} - 1 END,
    failed_by = REPLACE(failed_by, :mark, ''),
    available_at = CASE WHEN status = 'failed' THEN 0 ELSE available_at END,
    status = CASE WHEN status = 'failed' THEN {STAGE} ELSE status END
WHERE pool = :pool AND {{among}} AND {{position}}(failed_by, :mark) > 0 AND status {{{{of}}}}
    AND COALESCE(cause, '') <> 'cancelled' RETURNING id
"""


RETRIED = (
    f"status = {STAGE}, token = {STALE_TOKEN}, attempt = 0, lease_until = NULL, available_at = 0, cause = NULL, "
    "failed_by = ''"
)


ATTEMPT_COLUMNS = "task, number, token, worker, started_at, ended_at, ending, cause, error"


# A damaged number is ignored, as arithmetic with it could overflow.
ATTEMPT_ENDED = f"""
INSERT INTO attempts ({ATTEMPT_COLUMNS})
SELECT seq, 1 + COALESCE((SELECT MAX(number) FROM attempts WHERE task = seq AND number BETWEEN 0 AND {MAX_ATTEMPTS}), 0),
    token, worker, started_at, COALESCE(finished_at, :now), {{ending}}, CAST(:cause AS TEXT), {{error}}
FROM tasks WHERE {{which}} ON CONFLICT (task, number) DO NOTHING RETURNING task, number
"""


# The prerequisites that make a task fail.
FAILED_DEPENDENCIES = """
FROM needs n LEFT JOIN tasks p ON p.pool = n.pool AND p.id = n.needs
WHERE n.pool = tasks.pool AND n.id = tasks.id AND (p.status IS NULL OR p.status = 'failed')
"""


STATUSES = tuple(
    status.value for status in (Status.WAITING, Status.RUNNING, Status.PART_DONE, Status.DONE, Status.FAILED)
)


SUMS = ", ".join(f"SUM({name})" for name in STATUSES)


def next_tasks(condition: str, batch: object, *, now: bool = True) -> str:
    """Return the query for the numbers of the tasks to claim next; without `now`, including those in backoff."""
    if not batch:
        return _NEXT_TASKS.format(free=FREE if now else _LATER, condition=condition)
    free = f"{_LATER_MEMBER} AND {_DUE}" if now else _LATER_MEMBER
    return _NEXT_TASKS_OF_BATCH.format(free=free, condition=condition)


def statements(script: str) -> list[str]:
    """Split a migration script into statements, each of which starts at the beginning of a line.

    Examples
    --------
    >>> statements("CREATE TABLE a (b);\\nCREATE TRIGGER c BEGIN\\n    DELETE FROM a;\\nEND")
    ['CREATE TABLE a (b)', 'CREATE TRIGGER c BEGIN\\n    DELETE FROM a;\\nEND']
    """
    return re.split(r";\n(?=[A-Z]+ )", script.strip())


class Transaction(Protocol):
    """The interface of a database transaction for operations."""

    def rows(self, sql: str, **values: object) -> list[Row]:
        """Return the rows of a statement."""

    def run(self, sql: str, **values: object) -> int:
        """Run a statement and return the number of changed rows."""


COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
NUMBERS = ("priority", "attempt", "created_at", "started_at", "finished_at")
"""The columns of a query that contain numbers."""
