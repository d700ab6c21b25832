"""Ended attempts in SQL: the table ``attempts``, to which nothing is added when a claim or the last commit succeeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rollforge.errors import outer_parts
from rollforge.store.rows import read_attempt
from rollforge.store.sql_batches import SQLBatches
from rollforge.store.sql_statements import ATTEMPT_COLUMNS, ATTEMPT_ENDED, Transaction, Values
from rollforge.task import KEPT_ATTEMPTS, Attempt, Cause, Ending, TaskRecord
from rollforge.transitions import MAX_ERROR_LENGTH

__all__ = ["SQLAttempts"]

_RUNNING = "status = 'running'"
_RUNNING_OR_DONE = f"({_RUNNING} OR (status = 'done' AND started_at IS NOT NULL))"


class SQLAttempts(SQLBatches):
    """Keeps the latest ended attempts of each task, in the transaction that ends them."""

    def _keep_attempts(
        self,
        tx: Transaction,
        pool: str,
        ids: Sequence[str],
        ending: Ending,
        cause: Cause | None = None,
        error: str | None = None,
    ) -> None:
        """Keep the attempts of tasks whose claims have ended. Without an error, one with a cause has that of its task."""
        if ids:
            of_task = cause is not None and error is None
            text = ATTEMPT_ENDED.format(
                ending="CAST(:ending AS TEXT)", error="error" if of_task else "CAST(:error AS TEXT)",
                which=f"pool = :pool AND {self._among('id', 'ids')}",
            )  # fmt: skip
            values: Values = {"ending": ending.value, "cause": cause and cause.value}
            if not of_task:
                values["error"] = error and outer_parts(error, MAX_ERROR_LENGTH)
            self._run_keeping(tx, text, values, pool, ids)

    def _keep_current(self, tx: Transaction, pool: str, ids: Sequence[str], cancelled: str | None = None) -> None:
        """Keep the attempts at tasks that are about to be cancelled, or set to another status."""
        if not ids:
            return
        text = ATTEMPT_ENDED.format(
            ending="'failed'" if cancelled else "CASE WHEN status = 'done' THEN 'done' ELSE 'reset' END",
            error="CAST(:error AS TEXT)",
            which=f"pool = :pool AND {self._among('id', 'ids')} AND {_RUNNING if cancelled else _RUNNING_OR_DONE}",
        )  # fmt: skip
        values: Values = {"cause": Cause.CANCELLED.value if cancelled else None, "error": cancelled}
        self._run_keeping(tx, text, values, pool, ids)

    def _run_keeping(self, tx: Transaction, text: str, values: Values, pool: str, ids: Iterable[str]) -> None:
        for task, number in tx.rows(text, pool=pool, ids=self._list(ids), **values):
            if number > KEPT_ATTEMPTS:
                forget = "DELETE FROM attempts WHERE task = :task AND number <= :last"
                tx.run(forget, task=task, last=number - KEPT_ATTEMPTS)

    def _put_history(self, tx: Transaction, pool: str, record: TaskRecord) -> None:
        """Store the attempts of a task copied from another store."""
        for one in record.history[-KEPT_ATTEMPTS:]:
            tx.run(
                f"INSERT INTO attempts ({ATTEMPT_COLUMNS}) SELECT seq, :number, :held, CAST(:worker AS TEXT), "
                "CAST(:started AS DOUBLE PRECISION), :ended, CAST(:ending AS TEXT), CAST(:cause AS TEXT), "
                "CAST(:error AS TEXT) FROM tasks WHERE pool = :pool AND id = :id ON CONFLICT (task, number) DO NOTHING",
                number=one.number, held=one.token, worker=one.worker, started=one.started_at, ended=one.ended_at,
                ending=one.ending.value, cause=one.cause and one.cause.value, error=one.error, pool=pool, id=record.id,
            )  # fmt: skip

    def _histories(self, tx: Transaction, tasks: Sequence[int]) -> Mapping[int, tuple[Attempt, ...]]:
        """Return the kept attempts of tasks, by the number of the task."""
        if not tasks:
            return {}
        text = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE {self._among('task', 'tasks')} ORDER BY task, number"
        found: dict[int, list[Attempt]] = {}
        for task, *columns in tx.rows(text, tasks=self._list(tasks)):
            found.setdefault(task, []).append(read_attempt(columns))
        return {task: tuple(attempts[-KEPT_ATTEMPTS:]) for task, attempts in found.items()}
