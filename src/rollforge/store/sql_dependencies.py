"""Dependencies between tasks in SQL: checking them, and failing the dependents of failed tasks."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

from rollforge.store.base import (
    refuse_cycles,
    require_dependencies,
)
from rollforge.store.sql_statements import (
    FAILED_DEPENDENCIES,
    Transaction,
)
from rollforge.task import Status

__all__ = ["SQLDependencies"]


class SQLDependencies(abc.ABC):
    """Checks and follows the dependencies of tasks, in the table ``needs``.

    The database counts the unfinished prerequisites of each task itself, by triggers.
    """

    @abc.abstractmethod
    def _among(self, column: str, name: str) -> str:
        """Return the condition that `column` is in the list parameter `name` (see :meth:`_list`)."""

    @abc.abstractmethod
    def _list(self, values: Iterable[str] | Iterable[int]) -> object:
        """Return a list as a parameter."""

    @abc.abstractmethod
    def _elements(self, name: str) -> str:
        """Return the list parameter `name` as a table with the column ``value``, for a FROM clause."""

    def _check_dependencies(
        self, tx: Transaction, pool: str, ids: set[str], wanted: list[str], *, known: bool = False
    ) -> None:
        if not known:
            self._check_known(tx, pool, ids, wanted)
        # Tasks on which nothing depends cannot be part of a cycle.
        among = f"SELECT DISTINCT needs FROM needs WHERE pool = :pool AND {self._among('needs', 'ids')}"
        needed = {r[0] for r in tx.rows(among, pool=pool, ids=self._list(ids))} | ids.intersection(wanted)
        if needed:
            refuse_cycles(ids, wanted, lambda some: self._dependencies_of(tx, pool, some))

    def _check_known(self, tx: Transaction, pool: str, ids: set[str], wanted: list[str]) -> None:
        known = tx.rows(
            f"SELECT id FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')}", pool=pool, ids=self._list(wanted)
        )
        require_dependencies(pool, set(wanted) - {r[0] for r in known} - ids)

    def _depend(self, tx: Transaction, pool: str, ids: Iterable[str], wanted: Iterable[str]) -> None:
        """Make each task of `ids` depend on each task of `wanted`."""
        tx.run(
            f"INSERT INTO needs (pool, id, needs) SELECT :pool, i.value, n.value FROM {self._elements('ids')} AS i "
            f"CROSS JOIN {self._elements('wanted')} AS n WHERE TRUE ON CONFLICT (pool, id, needs) DO NOTHING",
            pool=pool, ids=self._list(ids), wanted=self._list(wanted),
        )  # fmt: skip

    def _cascade(self, tx: Transaction, pool: str, ids: Iterable[str], *, themselves: bool = False) -> None:
        """Fail the waiting tasks that depend on `ids` (or are in it) if a prerequisite failed, and their dependents."""
        some = list(ids)
        while some:
            these = f"id IN (SELECT id FROM needs WHERE pool = :pool AND {self._among('needs', 'ids')})"
            if themselves:
                these = f"({these} OR {self._among('id', 'ids')})"
            failed = tx.rows(
                "UPDATE tasks SET status = 'failed', cause = 'dependency', finished_at = :now, "
                f"error = 'It depends on task ' || (SELECT MIN(n.needs) {FAILED_DEPENDENCIES}) || ', which failed.' "
                f"WHERE pool = :pool AND {these} AND status = 'waiting' AND blocked = TRUE "
                f"AND EXISTS (SELECT 1 {FAILED_DEPENDENCIES}) "
                "RETURNING id",
                pool=pool, ids=self._list(some),
            )  # fmt: skip
            some, themselves = [r[0] for r in failed], False

    def _ended(self, tx: Transaction, pool: str, tasks: Sequence[tuple[str, str, bool]]) -> None:
        """Fail the dependents of failed tasks (id, status, blocked), and blocked tasks with a failed prerequisite."""
        self._cascade(tx, pool, [task_id for task_id, status, _ in tasks if status == Status.FAILED.value])
        self._cascade(tx, pool, [task_id for task_id, _, blocked in tasks if blocked], themselves=True)

    def _dependents_of(self, tx: Transaction, pool: str, task_id: str) -> list[str]:
        rows = tx.rows("SELECT id FROM needs WHERE pool = :pool AND needs = :id", pool=pool, id=task_id)
        return [r[0] for r in rows]

    def _dependencies_of(self, tx: Transaction, pool: str, ids: Iterable[str]) -> list[str]:
        """Return the direct dependencies of some tasks."""
        text = f"SELECT DISTINCT needs FROM needs WHERE pool = :pool AND {self._among('id', 'ids')}"
        return [r[0] for r in tx.rows(text, pool=pool, ids=self._list(ids))]
