"""Base class of the SQL stores: all operations, in the SQL that SQLite and PostgreSQL have in common.

Statements contain named parameters (``:name``), never values; ``:now`` is the store's clock. A subclass implements
connections, transactions and their retries, and the translation of queries to conditions.
"""

from __future__ import annotations

import abc
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rollforge.errors import ArtifactUnreadable, LeaseLost, UntrustedPickle
from rollforge.store.base import (
    AVOID_SECONDS,
    SUBMISSION_SECONDS,
    CreatedTask,
    Query,
    TaskState,
    Work,
    checked_attempts,
    checked_model_names,
    checked_priority,
    damaged_result,
    ending_of,
    failed_workers,
    failure_mark,
    refuse_running,
    repeated_answer,
    stale_message,
    storable_text,
    task_not_found,
    trim_log,
)
from rollforge.store.codec import EncodedResult, decode_result, encode_result, read_submission, tasks_of_info
from rollforge.store.query import And, Compare, Node, Not, Or, matches, only_about, parse_query, paths_in
from rollforge.store.rows import read_attempt, read_record, read_state, read_status
from rollforge.store.sql_attempts import SQLAttempts
from rollforge.store.sql_statements import (
    BATCH,
    CLAIMED,
    COLUMNS,
    COMMITTED,
    DUE,
    EXPIRED,
    FAILED,
    FREE,
    GIVEN,
    HELD,
    RESTORED,
    RETRIED,
    STAGE,
    STALE_TOKEN,
    STATUSES,
    Condition,
    Row,
    Transaction,
    Values,
    next_tasks,
)
from rollforge.task import Attempt, Cause, Definition, Ending, Status, TaskRecord, digest, encode, identified
from rollforge.transitions import CANCELLED, backoff

__all__ = ["SQLStore"]

T = TypeVar("T")

_NEAR = 200
"""Number of tasks that are examined in order before all matching tasks are searched."""
_SPARE = 16
"""Number of extra candidates that are searched, as other workers may claim some of them."""
_MAX_SEARCHES = 20
"""Number of searches after which a claim gives up, because other workers claim all candidates first."""


class SQLStore(SQLAttempts):
    """A store in the tables ``tasks``, ``results``, ``attempts``, ``needs``, ``submissions``, ``paused``, ``batches``,
    ``members`` and ``tallies``.

    Triggers maintain derived values in the transaction that changes tasks: the number of unfinished prerequisites of a
    task (``unmet``, ``blocked``), the number of tasks of a pool or batch by status (``tallies``), and the columns that
    determine the order of claims in a batch (``members``).
    """

    uri: str
    _skip_locked = ""
    """Clause of a SELECT of rows to claim, which makes other transactions claim other rows."""

    _position: str
    """Name of the function that returns the position of a substring, counted from 1; 0 if it does not occur."""

    _concatenate = ""
    """Name of the aggregate function that concatenates strings."""

    # -- implemented by subclasses -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _read(self, work: Callable[[Transaction], T]) -> T:
        """Return ``work(transaction)`` for read-only work."""

    @abc.abstractmethod
    def _write(self, work: Callable[[Transaction], T], pool: str) -> T:
        """Return ``work(transaction)``, committed completely or not at all, and notify those that wait for the pool."""

    @abc.abstractmethod
    def _next_token(self, tx: Transaction) -> int:
        """Return a number that is higher than all previous ones."""

    def _definition_columns(self, definition: str) -> Values:
        """Return the columns that store a definition."""
        return {"definition": definition}

    def _redefined(self, tx: Transaction, row: Values) -> None:
        """Update data derived from the definition of a task; `row` has its pool, id and definition."""

    @abc.abstractmethod
    def _compare(self, node: Compare, name: str, *, in_order: bool) -> Condition:
        """Return one comparison as SQL; the names of its parameters start with `name`."""

    @abc.abstractmethod
    def _insert(self, tx: Transaction, rows: Sequence[Values]) -> list[bool]:
        """Insert tasks and return which of them are new.

        Rows have ``pool, id, definition, priority, max_attempts, model_name, submission, creation``.
        """

    # -- queries -------------------------------------------------------------------------------------------------------

    def _condition(self, pool: str, query: Query | None, *, in_order: bool = False) -> Condition:
        """Return a query as a condition for a statement with ``pool = :pool``.

        With `in_order` it is optimized for examining tasks in order until some match, else for finding all that match.
        """
        node = parse_query(query)
        self._prepare(pool, node)
        values: Values = {}
        return self._tree(node, values, in_order=in_order), values

    def _prepare(self, pool: str, node: Node) -> None:
        """Create what a query needs, before its transaction if possible."""

    def _tree(self, node: Node, values: Values, *, in_order: bool) -> str:
        if isinstance(node, (And, Or)):
            if not node.parts:
                return "(1 = 1)" if isinstance(node, And) else "(1 = 0)"
            word = " AND " if isinstance(node, And) else " OR "
            return f"({word.join(self._tree(p, values, in_order=in_order) for p in node.parts)})"
        if isinstance(node, Not):
            # NULL counts as false, so its negation is true.
            return f"(NOT COALESCE({self._tree(node.part, values, in_order=in_order)}, FALSE))"
        text, more = self._compare(node, f"q{len(values)}", in_order=in_order)
        values.update(more)
        return text

    # -- creating ------------------------------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        definitions: Sequence[Mapping[str, object]],
        *,
        priority: int = 0,
        max_attempts: int = 3,
        depends_on: Sequence[str] = (),
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> list[CreatedTask]:
        given: Values = {
            "pool": pool,
            "priority": checked_priority(priority),
            "max_attempts": checked_attempts(max_attempts),
            "submission": submission,
            "creation": creation,
        }
        names = checked_model_names(definitions, model_names)
        rows = [  # all of them, before anything is stored
            {**given, "id": task_id, "definition": text, "model_name": name}
            for (task_id, text), name in zip(map(identified, definitions), names, strict=True)
        ]
        wanted = list(dict.fromkeys(depends_on))

        def work(tx: Transaction) -> list[CreatedTask]:
            if wanted:
                self._check_dependencies(tx, pool, {r["id"] for r in rows}, wanted)
            created = [CreatedTask(r["id"], new) for r, new in zip(rows, self._insert(tx, rows), strict=True)]
            known = [r for r, c in zip(rows, created, strict=True) if not c.new and r["model_name"]]
            self._rename(tx, pool, {r["id"]: r["model_name"] for r in known})
            if submission:
                self._submit_again(tx, pool, [c.id for c in created if not c.new], submission)
            fresh = [c.id for c in created if c.new]
            if wanted and fresh:
                self._depend(tx, pool, fresh, wanted)
                self._cascade(tx, pool, fresh, themselves=True)
            if batch:
                self._add_to_batch(tx, pool, batch, [c.id for c in created])
            before = [c.id for c in created if not c.new] if creation else []
            if not before:
                return created
            again = f"SELECT id FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')} AND creation = :creation"
            rows_before = tx.rows(again, pool=pool, ids=self._list(before), creation=creation)
            return repeated_answer(created, {r[0] for r in rows_before} - set(fresh))

        return self._write(work, pool)

    def _rename(self, tx: Transaction, pool: str, names: Mapping[str, str]) -> None:
        """Set the model names of existing tasks."""
        ids: dict[str, list[str]] = {}
        for task_id, name in names.items():
            ids.setdefault(name, []).append(task_id)
        for name, theirs in ids.items():
            tx.run(
                f"UPDATE tasks SET model_name = :name WHERE pool = :pool AND {self._among('id', 'ids')} "
                "AND model_name <> :name",
                pool=pool, ids=self._list(theirs), name=name,
            )  # fmt: skip

    def _submit_again(self, tx: Transaction, pool: str, ids: Iterable[str], submission: str) -> None:
        """Assign existing tasks that are not done to the latest submission."""
        tx.run(
            f"UPDATE tasks SET submission = :submission WHERE pool = :pool AND {self._among('id', 'ids')} "
            "AND status <> 'done' AND submission <> :submission",
            pool=pool, ids=self._list(ids), submission=submission,
        )  # fmt: skip

    def keep_submission(self, pool: str, info: Mapping[str, object]) -> str:
        key = digest(info)
        keep = (
            "INSERT INTO submissions (pool, id, facts, created_at) VALUES (:pool, :key, :info, :now) "
            "ON CONFLICT (pool, id) DO UPDATE SET created_at = :now"
        )
        self._write(lambda tx: tx.run(keep, pool=pool, key=key, info=encode(info)), "")
        return key

    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, Definition]:
        text = (
            f"SELECT id, facts FROM submissions WHERE pool = :pool AND NOT {self._among('id', 'known')} "
            "ORDER BY created_at, id"
        )
        rows = self._read(lambda tx: tx.rows(text, pool=pool, known=self._list(known)))
        return {key: read_submission(info) for key, info in rows if isinstance(key, str)}

    def open_submissions(self, pool: str) -> set[str]:
        text = (
            "SELECT DISTINCT submission FROM tasks WHERE pool = :pool AND status IN ('waiting', 'running', 'part_done')"
        )
        return {key for (key,) in self._read(lambda tx: tx.rows(text, pool=pool))}

    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        self._write(lambda tx: self._add_to_batch(tx, pool, batch, ids), "")

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        kept = list(records)

        def work(tx: Transaction) -> int:
            rows = [
                {"pool": pool, "id": r.id, "definition": storable_text(r.text) or encode(r.definition), "priority": r.priority,
                 "max_attempts": r.max_attempts, "model_name": r.model_name, "submission": r.submission,
                 "creation": ""}
                for r in kept
            ]  # fmt: skip
            new = [r for r, is_new in zip(kept, self._insert(tx, rows), strict=True) if is_new]
            for record in new:
                self._restore(tx, pool, record)
            self._cascade(tx, pool, [r.id for r in new], themselves=True)
            return len(new)

        return self._write(work, pool)

    def _restore(self, tx: Transaction, pool: str, record: TaskRecord) -> None:
        status = record.stage_from if record.status is Status.RUNNING else record.status
        tx.run(
            "UPDATE tasks SET status = :status, stage_from = :stage, attempt = :attempt, worker = :worker, "
            "created_at = :created, started_at = :started, finished_at = :finished, error = :error, cause = :cause, "
            "log = :log, failed_by = :failed_by WHERE pool = :pool AND id = :id",
            status=status.value, stage=record.stage_from.value, attempt=record.attempt, worker=record.worker,
            created=record.created_at, started=record.started_at, finished=record.finished_at, error=record.error,
            cause=record.cause.value if record.cause else None, log=trim_log(record.log), pool=pool, id=record.id,
            failed_by="".join(map(failure_mark, record.failed_by)),
        )  # fmt: skip
        if record.result is not None:
            self._keep_result(tx, pool, record.id, encode_result(record.result))
        self._put_history(tx, pool, record)
        if record.depends_on:
            self._depend(tx, pool, [record.id], record.depends_on)

    # -- claiming ------------------------------------------------------------------------------------------------------

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
        avoid: str = "",
        batch: str = "",
        claim: str = "",
    ) -> list[TaskRecord]:
        def wanted(*, in_order: bool) -> Condition:
            condition, values = self._condition(pool, query, in_order=in_order)
            values |= {
                "pool": pool, "status": status.value, "worker": worker, "lease": lease, "most": limit,
                "claim": claim or None, **({"batch": batch} if batch else {}),
            }  # fmt: skip
            if not avoid:
                return condition, values
            more = {"avoid": f"|{avoid}|", "avoided": AVOID_SECONDS}
            return f"{condition} AND {self._failed_on_other_workers()}", {**values, **more}

        while True:
            if paths_in(parse_query(query)):
                rows = self._take_found(pool, wanted, limit)
            else:
                condition, values = wanted(in_order=True)
                rows = self._take(pool, next_tasks(condition, batch), values)
            rows.sort(key=lambda r: int(r[0]))  # RETURNING guarantees no order
            claimed = self._readable(sorted((self._record(r[1:]) for r in rows), key=lambda task: -task.priority))
            if status is Status.PART_DONE:
                claimed = self._with_results(claimed)
            if claimed or not rows:
                return claimed  # otherwise all of them were damaged, but the next ones may not be

    def _take_found(self, pool: str, wanted: Callable[..., Condition], limit: int) -> list[Row]:
        """Claim tasks by a query on definitions, which may have to examine many tasks.

        Candidates are searched first, and claimed in a short transaction that checks them again. If other workers have
        claimed all of them meanwhile, this is repeated.
        """
        condition, values = wanted(in_order=True)
        given = self._read(lambda tx: self._given(tx, values)) if values["claim"] else []
        if given:
            return given
        for _ in range(_MAX_SEARCHES):
            found = self._candidates(wanted, limit + _SPARE)
            condition, values = wanted(in_order=True)
            these = f"seq IN ({', '.join(map(str, found)) or 'NULL'}) AND {condition}"
            rows = self._take(pool, next_tasks(these, False), values)
            if rows or not found:
                return rows
        return []

    def _candidates(self, wanted: Callable[..., Condition], most: int) -> list[int]:
        """Return the numbers of the first free tasks that match, in order."""
        condition, values = wanted(in_order=True)
        batch = "batch" in values
        values["most"] = most
        # The unary plus keeps the database from scanning all tasks in order if an index of definitions is better.
        order = "ORDER BY +priority DESC, +seq LIMIT :most"
        first = next_tasks("(1 = 1)", batch).replace(":most", str(_NEAR))
        near = (
            f"SELECT seq FROM ({first.replace('SELECT seq', 'SELECT seq AS number', 1)}) AS near CROSS JOIN tasks "
            f"WHERE seq = number AND pool = :pool AND {condition} {order}"
        )
        found = self._read(lambda tx: tx.rows(near, **values))
        if found:
            return [seq for (seq,) in found]
        condition, values = wanted(in_order=False)
        values["most"] = most
        member = f" AND seq IN (SELECT task FROM members WHERE batch = {BATCH})" if batch else ""
        far = f"SELECT seq FROM tasks WHERE {FREE} AND {condition}{member} {order}"
        found = self._read(lambda tx: tx.rows(far, **values))
        return [seq for (seq,) in found]

    def _take(self, pool: str, selection: str, values: Values) -> list[Row]:
        """Claim the tasks that the query `selection` finds, and return their rows, each preceded by its number.

        A repeated claim, with the same identity, returns the tasks of the first one.
        """

        def work(tx: Transaction) -> list[Row]:
            again = self._given(tx, values) if values["claim"] else []
            if again:
                return again
            self._expire(tx, pool)
            if self._is_paused(tx, pool):
                return []
            return tx.rows(
                f"UPDATE tasks SET {CLAIMED}, token = :token WHERE seq IN ({selection} {self._skip_locked}) "
                f"RETURNING seq, {COLUMNS}",
                token=self._next_token(tx), **values,
            )  # fmt: skip

        # Idle workers only read, so that they do not block a worker that writes.
        if self._read(lambda tx: self._something_to_do(tx, pool, values)):
            return self._write(work, pool)
        return []

    def _failed_on_other_workers(self) -> str:
        there = f"{self._position}(failed_by, :avoid) > 0 AND finished_at > :now - :avoided"
        return f"(failed_by = '' OR NOT COALESCE({there}, FALSE))"

    def _given(self, tx: Transaction, values: Mapping[str, object]) -> list[Row]:
        """Return the tasks that an earlier call with the same claim identity was given."""
        return tx.rows(GIVEN, pool=values["pool"], claim=values["claim"])

    def _something_to_do(self, tx: Transaction, pool: str, values: Mapping[str, object]) -> bool:
        free = next_tasks("(1 = 1)", "batch" in values)
        asked = {name: values[name] for name in ("status", "batch") if name in values}
        return bool(
            tx.rows(free, pool=pool, most=1, **asked)
            or tx.rows(DUE, pool=pool)
            or (values["claim"] and self._given(tx, values))
        )

    def _readable(self, claimed: list[TaskRecord]) -> list[TaskRecord]:
        """Fail claimed tasks with a damaged definition, and return the others."""
        for task in claimed:
            if "unreadable" in task.extra:
                self.fail(task, task.extra["unreadable"], Cause.UNREADABLE)
        return [task for task in claimed if "unreadable" not in task.extra]

    def _with_results(self, claimed: list[TaskRecord]) -> list[TaskRecord]:
        """Return second-stage claims with their results; a task whose result cannot be read fails."""
        readable = []
        for task in claimed:
            try:
                result = self._read(lambda tx, task=task: self._result(tx, task.pool, task.id))  # type: ignore[misc]
            except (UntrustedPickle, ArtifactUnreadable) as exc:
                self.fail(task, f"The result of the first stage cannot be read: {exc}", Cause.UNREADABLE)
            else:
                readable.append(replace(task, result=result))
        return readable

    def _result(self, tx: Transaction, pool: str, task_id: str) -> object:
        found = tx.rows("SELECT plain, blob FROM results WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
        return decode_result(EncodedResult(found[0][0], found[0][1])) if found else None

    def _keep_result(self, tx: Transaction, pool: str, task_id: str, result: EncodedResult) -> None:
        tx.run(
            "INSERT INTO results (pool, id, plain, blob) VALUES (:pool, :id, :plain, :blob) "
            "ON CONFLICT (pool, id) DO UPDATE SET plain = excluded.plain, blob = excluded.blob",
            pool=pool, id=task_id, plain=result.plain, blob=result.blob,
        )  # fmt: skip

    def _record(self, row: Sequence[object]) -> TaskRecord:
        (
            pool, task_id, definition, status, stage_from, priority, attempt, max_attempts, token, lease_until,
            available_at, worker, created_at, started_at, finished_at, error, cause, log, blocked, model_name,
            failed_by, submission,
        ) = row  # fmt: skip
        return read_record({
            "id": task_id, "pool": pool, "text": definition, "status": status, "priority": priority, "attempt": attempt,
            "max_attempts": max_attempts, "token": token, "lease_until": lease_until, "available_at": available_at,
            "worker": worker, "created_at": created_at, "started_at": started_at, "finished_at": finished_at,
            "error": error, "stage_from": stage_from, "cause": cause, "log": log, "blocked": blocked,
            "model_name": model_name, "failed_by": failed_by, "submission": submission,
        })  # fmt: skip

    def expire(self, pool: str) -> None:
        if self._read(lambda tx: tx.rows(DUE, pool=pool)):
            self._write(lambda tx: self._expire(tx, pool), pool)

    def _expire(self, tx: Transaction, pool: str) -> None:
        ended = tx.rows(EXPIRED.format(lock=self._skip_locked), pool=pool, jitter=backoff(1))
        self._keep_attempts(tx, pool, [row[0] for row in ended], Ending.FAILED, Cause.LEASE_LOST)
        self._ended(tx, pool, ended)

    # -- ending claims -------------------------------------------------------------------------------------------------

    def _end(self, tx: Transaction, task: TaskRecord, change: str, **values: object) -> list[Row]:
        """Change a task if this claim holds it; return its status and whether it is blocked, or else nothing."""
        text = f"UPDATE tasks SET {change} WHERE {HELD} RETURNING status, blocked"
        return tx.rows(text, pool=task.pool, id=task.id, held=task.token, **values)

    def _ended_before(self, tx: Transaction, task: TaskRecord, ending: str) -> Status:
        """Return the status of a task that this claim has ended with the same call, whose answer may have been lost.

        Raises
        ------
        LeaseLost
            If this claim has not ended the task in this way.
        """
        text = "SELECT status FROM tasks WHERE pool = :pool AND id = :id AND token = :held AND ending = :ending"
        found = tx.rows(text, pool=task.pool, id=task.id, held=task.token, ending=ending)
        if not found:
            raise LeaseLost(stale_message(task))
        return read_status(found[0][0])

    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        if not self._write(lambda tx: self._renew(tx, task, lease, log), ""):
            raise LeaseLost(stale_message(task))

    def _renew(self, tx: Transaction, task: TaskRecord, lease: float, log: str | None) -> bool:
        """Renew a lease if the claim holds it, and return whether it does."""
        kept = None if log is None else trim_log(log)
        change = "lease_until = :now + :lease, log = COALESCE(:log, log)"
        return bool(self._end(tx, task, change, lease=lease, log=kept))

    def commit(self, task: TaskRecord, result: object, status: Status = Status.DONE, log: str = "") -> None:
        if not self._commit(task, encode_result(result), status, trim_log(log)):
            self._read(lambda tx: self._ended_before(tx, task, ending_of("commit", status)))

    def _commit(self, task: TaskRecord, result: EncodedResult, status: Status, log: str) -> bool:
        """Commit unless the claim is stale; return whether the result was committed."""

        def work(tx: Transaction) -> bool:
            ending = ending_of("commit", status)
            if not self._end(tx, task, COMMITTED, status=status.value, log=log, ending=ending):
                return False
            if status is not Status.DONE:
                self._keep_attempts(tx, task.pool, [task.id], Ending(status))
            self._keep_result(tx, task.pool, task.id, result)
            return True

        return self._write(work, task.pool)

    def give_back(self, task: TaskRecord, status: Status | None = None, *, reason: str | None = None) -> None:
        self._write(lambda tx: self._give_back(tx, task, status, reason), task.pool)

    def _give_back(self, tx: Transaction, task: TaskRecord, status: Status | None, reason: str | None) -> None:
        change = f"status = COALESCE(:status, {STAGE}), lease_until = NULL, ending = :ending"
        ending = ending_of("give back", status)
        values: Values = {"status": status.value if status else None, "ending": ending}
        cause = None if reason is None else Cause.REQUIREMENTS_NOT_MET
        if reason is not None:
            change += ", error = :reason, cause = :cause"
            values |= {"reason": storable_text(reason), "cause": Cause.REQUIREMENTS_NOT_MET.value}
        ended = self._end(tx, task, change, **values)
        if ended:
            self._keep_attempts(tx, task.pool, [task.id], Ending.RETURNED, cause, values.get("reason"))
            self._ended(tx, task.pool, [(task.id, *ended[0])])
        else:
            self._ended_before(tx, task, ending)

    def fail(
        self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "", attempts: int = 1
    ) -> Status:
        return self._write(lambda tx: self._fail(tx, task, error, cause, log, attempts), task.pool)

    def _fail(self, tx: Transaction, task: TaskRecord, error: str, cause: Cause, log: str, attempts: int = 1) -> Status:
        error = storable_text(error)
        ended = tx.rows(
            FAILED.format(position=self._position), pool=task.pool, id=task.id, held=task.token,
            error=error, cause=cause.value, log=trim_log(log), jitter=backoff(1),
            mark=failure_mark(str(task.worker)), attempts=attempts,
        )  # fmt: skip
        if not ended:
            return self._ended_before(tx, task, "fail")
        self._keep_attempts(tx, task.pool, [task.id], Ending.FAILED, cause, error)
        self._ended(tx, task.pool, [(task.id, *ended[0])])
        return read_status(ended[0][0])

    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        text = RESTORED.format(among=self._among("id", "ids"), position=self._position)

        def work(tx: Transaction) -> list[str]:
            values = {"pool": pool, "mark": failure_mark(worker), "ids": self._list(dict.fromkeys(ids))}
            failed = [r[0] for r in tx.rows(text.format(of="= 'failed'"), **values)]
            others = [r[0] for r in tx.rows(text.format(of="NOT IN ('done', 'failed')"), **values)]
            self._cascade(tx, pool, failed + self._retry_dependents(tx, pool, failed), themselves=True)
            return sorted([*failed, *others])

        return self._write(work, pool)

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        def work(tx: Transaction) -> list[TaskRecord]:
            held = tx.rows(
                f"SELECT {COLUMNS} FROM tasks WHERE pool = :pool AND status = 'running' AND worker = :worker "
                f"{self._lock_rows}",
                pool=pool, worker=worker,
            )  # fmt: skip
            ended = []
            for task in map(self._record, held):
                with contextlib.suppress(LeaseLost):  # its token is damaged: its lease will expire
                    if error is None:
                        self._give_back(tx, task, None, None)
                    else:
                        self._fail(tx, task, error, cause, task.log)
                    ended.append(self._get(tx, pool, task.id))
            return ended

        if not self._read(
            lambda tx: tx.rows(
                "SELECT 1 FROM tasks WHERE pool = :pool AND status = 'running' AND worker = :worker LIMIT 1",
                pool=pool,
                worker=worker,
            )
        ):
            return []
        return self._write(work, pool)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _get(self, tx: Transaction, pool: str, task_id: str, *, lock: str = "") -> TaskRecord:
        rows = tx.rows(f"SELECT {COLUMNS} FROM tasks WHERE pool = :pool AND id = :id {lock}", pool=pool, id=task_id)
        if not rows:
            raise task_not_found(pool, task_id)
        return self._record(rows[0])

    def _columns(self, *, results: bool) -> str:
        """Return the columns of a task; with `results` also its result, the ids of its dependencies, and its number."""
        if not results:
            return COLUMNS
        result = "(SELECT {} FROM results r WHERE r.pool = tasks.pool AND r.id = tasks.id)"
        dependencies = (
            f"(SELECT {self._concatenate}(n.needs, ',') FROM needs n WHERE n.pool = tasks.pool AND n.id = tasks.id)"
        )
        return f"{COLUMNS}, {result.format('plain')}, {result.format('blob')}, {dependencies}, seq"

    def _whole(self, row: Sequence[Any], histories: Mapping[int, tuple[Attempt, ...]]) -> TaskRecord:
        *columns, plain, blob, dependencies, number = row
        record = self._record(columns)
        try:
            result = decode_result(EncodedResult(plain, blob))
        except (UntrustedPickle, ArtifactUnreadable) as exc:
            raise damaged_result(record, exc) from exc
        needed = tuple(sorted(dependencies.split(","))) if dependencies else ()
        return replace(record, result=result, depends_on=needed, history=histories.get(number, ()))

    def _whole_rows(self, text: str, values: Values) -> tuple[list[Row], Mapping[int, tuple[Attempt, ...]]]:
        """Return the rows of tasks with the columns of :meth:`_columns`, and their histories."""

        def work(tx: Transaction) -> tuple[list[Row], Mapping[int, tuple[Attempt, ...]]]:
            rows = tx.rows(text, **values)
            return rows, self._histories(tx, [row[-1] for row in rows])

        return self._read(work)

    def get(self, pool: str, task_id: str) -> TaskRecord:
        text = f"SELECT {self._columns(results=True)} FROM tasks WHERE pool = :pool AND id = :id"
        rows, histories = self._whole_rows(text, {"pool": pool, "id": task_id})
        if not rows:
            raise task_not_found(pool, task_id)
        return self._whole(rows[0], histories)

    def query(
        self,
        pool: str,
        query: Query | None = None,
        *,
        batch: str = "",
        results: bool = True,
        latest: bool = False,
        limit: int | None = None,
    ) -> Iterator[TaskRecord]:
        condition, values = self._condition(pool, query)
        order = "COALESCE(finished_at, 0) DESC, seq" if latest else "seq"
        text = f"SELECT {self._columns(results=results)} FROM tasks WHERE pool = :pool AND {condition} ORDER BY {order}"
        if batch:
            text = (
                f"SELECT {self._columns(results=results)} FROM members JOIN tasks ON seq = task WHERE batch = "
                f"{BATCH} AND pool = :pool AND {condition} ORDER BY {order}"
            )
            values["batch"] = batch
        if limit is not None:
            text += " LIMIT :most"
            values["most"] = limit
        values["pool"] = pool
        if results:
            rows, histories = self._whole_rows(text, values)
            yield from (self._whole(row, histories) for row in rows)
        else:
            yield from map(self._record, self._read(lambda tx: tx.rows(text, **values)))

    def pages(self, pool: str, size: int) -> Iterator[list[str]]:
        text = "SELECT seq, id FROM tasks WHERE pool = :pool AND seq > :last ORDER BY seq LIMIT :size"
        last = -1
        while rows := self._read(lambda tx, last=last: tx.rows(text, pool=pool, last=last, size=size)):  # type: ignore[misc]
            last = rows[-1][0]
            yield [task_id for _, task_id in rows if isinstance(task_id, str)]

    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        condition, values = self._condition(pool, query, in_order=True)
        selection = next_tasks(condition, batch, now=False)
        values |= {"pool": pool, "status": status.value, "batch": batch, "most": 1}
        return bool(self._read(lambda tx: tx.rows(selection, **values)))

    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        node = parse_query(query)
        if only_about(node, "status"):
            counts = self._read(lambda tx: self._counts(tx, pool, batch))
            return {status: n for status, n in counts.items() if matches(node, {"status": status.value})}
        condition, values = self._condition(pool, query)
        text = f"SELECT status, COUNT(*) FROM tasks WHERE pool = :pool AND {condition} GROUP BY status"
        if batch:
            text = (
                "SELECT status, COUNT(*) FROM members JOIN tasks ON seq = task WHERE batch = "
                f"{BATCH} AND pool = :pool AND {condition} GROUP BY status"
            )
            values["batch"] = batch
        found: Counter[Status] = Counter()
        for status, n in self._read(lambda tx: tx.rows(text, pool=pool, **values)):
            found[read_status(status)] += n
        return dict(found)

    def pools(self) -> list[str]:
        there = " + ".join(f"SUM({name})" for name in STATUSES)
        text = f"SELECT pool FROM tallies WHERE batch = 0 GROUP BY pool HAVING {there} > 0 ORDER BY pool"
        return sorted(name for (name,) in self._read(lambda tx: tx.rows(text)))

    def workers(self, pool: str, since: float | None) -> dict[str, Work]:
        running = "SELECT worker, COUNT(*) FROM tasks WHERE pool = :pool AND status = 'running' GROUP BY worker"
        done = (
            "SELECT worker, COUNT(*) FROM tasks WHERE pool = :pool AND status IN ('done', 'part_done') "
            "AND finished_at >= :since GROUP BY worker"
        )
        failed = (
            "SELECT failed_by FROM tasks WHERE pool = :pool AND failed_by <> '' "
            "AND (finished_at IS NULL OR finished_at >= :since)"
        )
        found: dict[str, Work] = {}

        def work(tx: Transaction) -> None:
            found.clear()
            for worker, n in tx.rows(running, pool=pool):
                found.setdefault(str(worker), Work()).running = n
            if since is None:
                return
            for worker, n in tx.rows(done, pool=pool, since=since):
                found.setdefault(str(worker), Work()).done = n
            for (marks,) in tx.rows(failed, pool=pool, since=since):
                for worker in failed_workers(marks):
                    found.setdefault(worker, Work()).failed += 1

        self._read(work)
        return found

    def now(self) -> float:
        """Return the time of the store's clock."""
        return float(self._read(lambda tx: tx.rows("SELECT :now"))[0][0])

    def states(self, pool: str) -> list[TaskState]:
        """Return the states of all tasks of a pool, oldest first."""
        text = (
            "SELECT id, status, model_name, attempt, cause, worker, created_at, started_at, finished_at, lease_until, blocked "
            "FROM tasks WHERE pool = :pool ORDER BY seq"
        )
        return [read_state(row) for row in self._read(lambda tx: tx.rows(text, pool=pool))]

    def texts(self, pool: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the stored definitions of some tasks, by id."""
        text = f"SELECT id, definition FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')}"
        rows = self._read(lambda tx: tx.rows(text, pool=pool, ids=self._list(ids)))
        return {i: definition for i, definition in rows if isinstance(i, str) and isinstance(definition, str)}

    def past_attempts(self, pool: str, limit: int) -> list[tuple[str, Attempt]]:
        """Return the latest attempts in the histories of the tasks of a pool, with the ids of the tasks."""
        text = (
            "SELECT id, number, a.token, a.worker, a.started_at, ended_at, a.ending, a.cause, NULL "
            "FROM attempts a CROSS JOIN tasks WHERE seq = task AND pool = :pool ORDER BY ended_at DESC, number DESC LIMIT :most"
        )
        rows = self._read(lambda tx: tx.rows(text, pool=pool, most=limit))
        return [(task_id, read_attempt(row)) for task_id, *row in rows if isinstance(task_id, str)]

    def paused(self, pool: str) -> bool:
        return self._read(lambda tx: self._is_paused(tx, pool))

    def _is_paused(self, tx: Transaction, pool: str) -> bool:
        return bool(tx.rows("SELECT 1 FROM paused WHERE pool = :pool", pool=pool))

    # -- changing ------------------------------------------------------------------------------------------------------

    def _update(self, pool: str, query: Query | None, change: str, **changed: object) -> int:
        """Change the tasks that match and return how many."""
        self._prepare(pool, parse_query(query))
        return len(self._write(lambda tx: self._changed(tx, pool, query, change, **changed), pool))

    def _changed(self, tx: Transaction, pool: str, query: Query | None, change: str, **changed: object) -> list[str]:
        condition, values = self._condition(pool, query)
        text = f"UPDATE tasks SET {change} WHERE pool = :pool AND {condition} RETURNING id"
        return [r[0] for r in tx.rows(text, pool=pool, **changed, **values)]

    def _locked(self, tx: Transaction, pool: str, query: Query | None) -> list[str]:
        """Return the ids of the tasks that match, which do not change until the transaction ends."""
        condition, values = self._condition(pool, query)
        text = f"SELECT id FROM tasks WHERE pool = :pool AND {condition} ORDER BY seq {self._lock_rows}"
        return [r[0] for r in tx.rows(text, pool=pool, **values)]

    def _change(self, tx: Transaction, pool: str, ids: Sequence[str], change: str, **changed: object) -> None:
        text = f"UPDATE tasks SET {change} WHERE pool = :pool AND {self._among('id', 'ids')}"
        tx.run(text, pool=pool, ids=self._list(ids), **changed)

    def remove(self, pool: str, query: Query | None = None) -> int:
        condition, values = self._condition(pool, query)

        def work(tx: Transaction) -> int:
            rows = tx.rows(f"DELETE FROM tasks WHERE pool = :pool AND {condition} RETURNING id", pool=pool, **values)
            ids = [r[0] for r in rows]
            for table in ("results", "needs"):
                among = self._among("id", "ids")
                tx.run(f"DELETE FROM {table} WHERE pool = :pool AND {among}", pool=pool, ids=self._list(ids))
            self._forget_empty_batches(tx, pool)
            self._forget_submissions(tx, pool)
            self._cascade(tx, pool, ids)
            return len(ids)

        return self._write(work, pool)

    def _forget_submissions(self, tx: Transaction, pool: str) -> None:
        """Delete old submissions without tasks, and information about tasks that do not exist."""
        unused_now = (
            "pool = :pool AND created_at <= :now - :kept AND NOT EXISTS "
            "(SELECT 1 FROM tasks WHERE tasks.pool = :pool AND submission = submissions.id)"
        )
        old = tx.rows(f"SELECT id, facts FROM submissions WHERE {unused_now}", pool=pool, kept=SUBMISSION_SECONDS)
        exists = f"SELECT 1 FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')} LIMIT 1"
        unused = []
        for key, info in old:
            about = tasks_of_info(info)
            if not about or not tx.rows(exists, pool=pool, ids=self._list(about)):
                unused.append(key)
        # Conditions again: one of them may have been kept meanwhile, for tasks that are about to be created.
        tx.run(
            f"DELETE FROM submissions WHERE {unused_now} AND {self._among('id', 'keys')}",
            pool=pool, kept=SUBMISSION_SECONDS, keys=self._list(unused),
        )  # fmt: skip

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        stage = status.value if status in (Status.WAITING, Status.PART_DONE) else None

        self._prepare(pool, parse_query(query))

        def work(tx: Transaction) -> int:
            ids = self._locked(tx, pool, query)
            self._keep_current(tx, pool, ids)
            self._change(
                tx, pool, ids,
                f"status = :status, stage_from = COALESCE(:stage, stage_from), token = {STALE_TOKEN}, attempt = 0, "
                "lease_until = NULL, available_at = 0, error = NULL, cause = NULL, failed_by = '', worker = NULL, "
                "started_at = NULL, finished_at = NULL",
                status=status.value, stage=stage,
            )  # fmt: skip
            self._cascade(tx, pool, ids, themselves=True)
            return len(ids)

        return self._write(work, pool)

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        return self._update(pool, query, "priority = :priority", priority=checked_priority(priority))

    def retry(self, pool: str, query: Query | None = None) -> int:
        self._prepare(pool, parse_query(query))

        def work(tx: Transaction) -> int:
            failed: Query = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
            ids = self._changed(tx, pool, failed, RETRIED)
            ids = ids + self._retry_dependents(tx, pool, ids)
            self._cascade(tx, pool, ids, themselves=True)
            return len(ids)

        return self._write(work, pool)

    def _retry_dependents(self, tx: Transaction, pool: str, ids: list[str]) -> list[str]:
        """Reset tasks that failed only because they depend on tasks that wait again."""
        found: list[str] = []
        while ids:
            rows = tx.rows(
                f"SELECT id FROM needs WHERE pool = :pool AND {self._among('needs', 'ids')}",
                pool=pool, ids=self._list(ids),
            )  # fmt: skip
            theirs = {"_id": {"$in": [r[0] for r in rows]}, "status": "failed", "cause": "dependency"}
            ids = self._changed(tx, pool, theirs, RETRIED) if rows else []
            found += ids
        return found

    def cancel(self, pool: str, query: Query | None = None) -> int:
        unfinished: Query = {"$and": [dict(query or {}), {"status": {"$in": ["waiting", "running", "part_done"]}}]}

        self._prepare(pool, parse_query(query))

        def work(tx: Transaction) -> int:
            change = (
                f"status = 'failed', cause = 'cancelled', error = :error, token = {STALE_TOKEN}, lease_until = NULL, "
                "finished_at = :now"
            )
            ids = self._locked(tx, pool, unfinished)
            self._keep_current(tx, pool, ids, CANCELLED)
            self._change(tx, pool, ids, change, error=CANCELLED)
            self._cascade(tx, pool, ids)
            return len(ids)

        return self._write(work, pool)

    def pause(self, pool: str, paused: bool = True) -> None:
        add = "INSERT INTO paused (pool) VALUES (:pool) ON CONFLICT (pool) DO NOTHING"
        text = add if paused else "DELETE FROM paused WHERE pool = :pool"
        self._write(lambda tx: tx.run(text, pool=pool), pool)

    def replace(self, pool: str, task_id: str, definition: Mapping[str, object]) -> str:
        new_id, text = identified(definition)

        def work(tx: Transaction) -> str:
            # Locked, so that from here on no other transaction can make a task depend on the old id.
            self._get(tx, pool, task_id, lock=self._lock_rows)
            dependencies, dependents = (
                self._dependencies_of(tx, pool, [task_id]),
                self._dependents_of(tx, pool, task_id),
            )
            # Removed and inserted again below, so that the triggers count the prerequisites of the new task.
            tx.run("DELETE FROM needs WHERE pool = :pool AND (id = :id OR needs = :id)", pool=pool, id=task_id)
            known = tx.rows("SELECT seq FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=new_id)
            if new_id != task_id and known:
                self._join_batches_of(tx, pool, task_id, known[0][0])
                tx.run("DELETE FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
            else:
                self._redefine(tx, pool, task_id, {"id": new_id, "definition": text})
            if dependencies:
                self._depend(tx, pool, [new_id], dependencies)
            if dependents:
                self._depend(tx, pool, dependents, [new_id])
            self._check_dependencies(tx, pool, {new_id}, self._dependencies_of(tx, pool, [new_id]), known=True)
            tx.run("DELETE FROM results WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
            self._cascade(tx, pool, [new_id], themselves=True)
            return new_id

        return self._write(work, pool)

    def _redefine(self, tx: Transaction, pool: str, task_id: str, written: Mapping[str, str]) -> None:
        """Replace the definition in the row of a task, which becomes waiting."""
        columns = {"id": written["id"], **self._definition_columns(written["definition"])}
        tx.run(
            f"UPDATE tasks SET {', '.join(f'{name} = :new_{name}' for name in columns)}, status = 'waiting', "
            f"stage_from = 'waiting', attempt = 0, token = {STALE_TOKEN}, lease_until = NULL, available_at = 0, error = NULL, "
            "cause = NULL, log = '', worker = NULL, started_at = NULL, finished_at = NULL, failed_by = '', "
            "created_at = :now WHERE pool = :pool AND id = :id",
            pool=pool, id=task_id, **{f"new_{name}": value for name, value in columns.items()},
        )  # fmt: skip
        these = "SELECT seq FROM tasks WHERE pool = :pool AND id = :id"
        tx.run(f"DELETE FROM attempts WHERE task IN ({these})", pool=pool, id=written["id"])
        self._redefined(tx, {"pool": pool, **written})

    @abc.abstractmethod
    def wait_for_change(self, pool: str, timeout: float) -> None:
        """Return when something in the pool may have changed."""
