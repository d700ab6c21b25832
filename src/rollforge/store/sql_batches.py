"""Batches in SQL: the tasks that one job submitted, and how many of them have each status."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.store.sql_dependencies import SQLDependencies
from rollforge.store.sql_statements import STATUSES, SUMS, Transaction
from rollforge.task import Status

__all__ = ["SQLBatches"]

_KEPT_SECONDS = 30 * 86400.0
"""Seconds after its last use for which a batch is kept."""


class SQLBatches(SQLDependencies):
    """Batches in the tables ``batches`` and ``members``; triggers count their tasks in ``tallies``."""

    _lock_rows = ""
    """Clause of a SELECT whose rows are about to be changed, which makes other transactions wait for them."""

    def _add_to_batch(self, tx: Transaction, pool: str, batch: str, ids: Sequence[str]) -> None:
        self._forget_batches(tx, pool)
        number = tx.rows(
            "INSERT INTO batches (pool, name, used_at) VALUES (:pool, :batch, :now) "
            "ON CONFLICT (pool, name) DO UPDATE SET used_at = :now RETURNING number",
            pool=pool, batch=batch,
        )[0][0]  # fmt: skip
        # Lock the tasks: a concurrent change of one of them would not see that it belongs to the batch.
        tx.run(
            "INSERT INTO members (batch, task, state, held, urgency) SELECT :number, seq, status, blocked, priority FROM ("
            f"SELECT seq, status, blocked, priority FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')} "
            f"ORDER BY seq {self._lock_rows}) AS theirs WHERE TRUE ON CONFLICT (task, batch) DO NOTHING",
            number=number, pool=pool, ids=self._list(dict.fromkeys(ids)),
        )  # fmt: skip

    def _join_batches_of(self, tx: Transaction, pool: str, task_id: str, seq: int) -> None:
        """Add the task with a number to the batches of another task."""
        tx.run(
            "INSERT INTO members (batch, task, state, held, urgency) SELECT m.batch, t.seq, t.status, t.blocked, t.priority "
            "FROM members m JOIN tasks old ON old.seq = m.task CROSS JOIN tasks t "
            "WHERE old.pool = :pool AND old.id = :id AND t.seq = :seq ON CONFLICT (task, batch) DO NOTHING",
            pool=pool, id=task_id, seq=seq,
        )  # fmt: skip

    def _counts(self, tx: Transaction, pool: str, batch: str) -> dict[Status, int]:
        if not batch:
            return self._tally(tx, pool, 0)
        found = tx.rows("SELECT number FROM batches WHERE pool = :pool AND name = :batch", pool=pool, batch=batch)
        return self._tally(tx, "", found[0][0]) if found else {}

    def _tally(self, tx: Transaction, pool: str, batch: int) -> dict[Status, int]:
        """Return the number of tasks of a pool or a batch by status, without reading tasks."""
        sums = tx.rows(f"SELECT {SUMS} FROM tallies WHERE batch = :batch AND pool = :pool", batch=batch, pool=pool)[0]
        return {Status(name): int(n) for name, n in zip(STATUSES, sums, strict=True) if n}

    def _forget_batches(self, tx: Transaction, pool: str) -> None:
        """Delete the batches that have not been used for a month, unless they have unfinished tasks."""
        old = tx.rows(
            "SELECT number FROM batches WHERE pool = :pool AND used_at < :now - :kept", pool=pool, kept=_KEPT_SECONDS
        )
        for (number,) in old:
            counts = self._tally(tx, "", number)
            if not any(counts.get(s) for s in (Status.WAITING, Status.RUNNING, Status.PART_DONE)):
                tx.run("DELETE FROM members WHERE batch = :number", number=number)
                self._forget_empty_batches(tx, pool)

    def _forget_empty_batches(self, tx: Transaction, pool: str) -> None:
        gone = tx.rows(
            "DELETE FROM batches WHERE pool = :pool AND NOT EXISTS (SELECT 1 FROM members WHERE batch = number) "
            "RETURNING number",
            pool=pool,
        )
        for (number,) in gone:
            tx.run("DELETE FROM tallies WHERE batch = :number", number=number)
