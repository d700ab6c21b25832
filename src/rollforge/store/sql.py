"""What the stores on SQL databases share: every operation, written once in the SQL that SQLite and PostgreSQL both speak.

Statements carry named parameters (``:name``), never values; ``:now`` is the store's clock. A subclass says how to
connect, how a transaction is made and repeated, and how a query becomes a condition.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from rollforge.errors import ArtifactUnreadable, LeaseLost, TaskNotFound, UntrustedPickle
from rollforge.store.base import (
    AVOID_SECONDS,
    Created,
    Query,
    Work,
    backoff,
    because_of,
    failed_workers,
    failure_mark,
    named,
    refuse_cycles,
    refuse_running,
    stale,
    storable_text,
    trim_log,
)
from rollforge.store.codec import Encoded, decode_result, encode_result
from rollforge.store.query import And, Compare, Node, Not, Or, parse_query, paths_in
from rollforge.store.rows import read_record
from rollforge.task import Cause, Status, TaskRecord, decode, digest, encode

__all__ = ["Condition", "SQLStore", "Transaction"]

T = TypeVar("T")
Condition = tuple[str, dict[str, Any]]

# Without `tasks.`: the columns of a task, in the order of _record().
COLUMNS = (
    "pool, id, definition, status, stage_from, priority, attempt, max_attempts, token, lease_until, available_at, worker, "
    "created_at, started_at, finished_at, error, cause, log, blocked, model_name, failed_by, submission"
)
_FREE = "pool = :pool AND status = :status AND blocked = FALSE AND available_at <= :now"
_EXPIRE = """
UPDATE tasks SET attempt = attempt + 1, lease_until = NULL, finished_at = :now, cause = 'lease_lost',
    available_at = :now + :jitter * CASE WHEN attempt + 1 >= max_attempts THEN 0 WHEN attempt > 5 THEN 60
        ELSE (1 << attempt) END,
    status = CASE WHEN attempt + 1 >= max_attempts THEN 'failed' ELSE stage_from END,
    error = 'The lease of worker ' || worker || ' ran out: it was killed, or hung, or could not reach the store.'
WHERE seq IN (
    SELECT seq FROM tasks WHERE pool = :pool AND status = 'running' AND lease_until <= :now {lock}
) RETURNING id, status
"""
_NEAR = 200
"""How many tasks in turn are looked at before all that match are looked for."""
_SPARE = 16
"""How many tasks more than asked for are found, since others claim too."""
_FASTER = 20
_UNMET = """
SELECT 1 FROM needs n LEFT JOIN tasks p ON p.pool = n.pool AND p.id = n.needs
WHERE n.pool = tasks.pool AND n.id = tasks.id AND
"""


class Transaction(Protocol):
    """What an operation sees of the database."""

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""

    def run(self, sql: str, **values: Any) -> int:
        """Return how many rows a statement changed."""


class SQLStore(abc.ABC):
    """A store in the tables ``tasks``, ``results``, ``needs``, ``submissions`` and ``paused``."""

    uri: str
    _lock_rows = ""
    """What is added to a SELECT whose rows are about to be changed, so that others wait for them."""
    _skip_locked = ""
    """What is added to a SELECT of rows to be taken, so that others take other rows."""

    _position: str
    """The function that says where in a text another begins, counted from 1; 0 where it does not."""

    _one_writer = False
    """Whether those that write wait for each other."""

    # -- what a database has to say for itself -------------------------------------------------------------------------

    @abc.abstractmethod
    def _read(self, work: Callable[[Transaction], T]) -> T:
        """Return ``work(transaction)``; it changes nothing."""

    @abc.abstractmethod
    def _write(self, work: Callable[[Transaction], T], pool: str) -> T:
        """Return ``work(transaction)``, all of it committed or nothing; whoever waits for the pool is told."""

    @abc.abstractmethod
    def _next_token(self, tx: Transaction) -> int:
        """Return a number that is higher than every one before."""

    @abc.abstractmethod
    def _among(self, column: str, name: str) -> str:
        """Return the condition that `column` is in the list parameter `name`, see :meth:`_list`."""

    @abc.abstractmethod
    def _list(self, values: Iterable[str]) -> Any:
        """Return a list of texts as a parameter."""

    @abc.abstractmethod
    def _compare(self, node: Compare, name: str, *, in_turn: bool) -> Condition:
        """Return one comparison; its parameters' names begin with `name`."""

    @abc.abstractmethod
    def _insert(self, tx: Transaction, rows: Sequence[dict[str, Any]]) -> list[bool]:
        """Insert tasks (``pool, id, definition, priority, max_attempts, model_name, submission``); False for known ones."""

    # -- queries -------------------------------------------------------------------------------------------------------

    def _condition(self, pool: str, query: Query | None, *, in_turn: bool = False) -> Condition:
        """Return a query as SQL; it belongs into a statement with ``pool = :pool``.

        `in_turn`: for tasks that are looked at one after the other until some match; else for all that match.
        """
        node = parse_query(query)
        self._prepare(pool, node)
        values: dict[str, Any] = {}
        return self._tree(node, values, in_turn=in_turn), values

    def _prepare(self, pool: str, node: Node) -> None:  # noqa: B027 - most stores have nothing to make
        """Make what a query needs; before the transaction that it is part of, where that is possible."""

    def _tree(self, node: Node, values: dict[str, Any], *, in_turn: bool) -> str:
        if isinstance(node, (And, Or)):
            if not node.parts:
                return "(1 = 1)" if isinstance(node, And) else "(1 = 0)"
            word = " AND " if isinstance(node, And) else " OR "
            return f"({word.join(self._tree(p, values, in_turn=in_turn) for p in node.parts)})"
        if isinstance(node, Not):
            # What has no answer (NULL) does not hold, and its opposite does.
            return f"(NOT COALESCE({self._tree(node.part, values, in_turn=in_turn)}, FALSE))"
        text, more = self._compare(node, f"q{len(values)}", in_turn=in_turn)
        values.update(more)
        return text

    # -- putting in ----------------------------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        definitions: Sequence[Mapping[str, Any]],
        *,
        priority: int = 0,
        max_attempts: int = 3,
        depends_on: Sequence[str] = (),
        model_names: Sequence[str] = (),
        submission: str = "",
    ) -> list[Created]:
        rows: list[dict[str, Any]] = [  # all of them, before anything is stored
            {"pool": pool, "id": digest(d), "definition": encode(d), "priority": priority, "max_attempts": max_attempts,
             "model_name": name, "submission": submission}
            for d, name in zip(definitions, named(definitions, model_names), strict=True)
        ]  # fmt: skip
        wanted = list(dict.fromkeys(depends_on))

        def work(tx: Transaction) -> list[Created]:
            if wanted:
                self._check_dependencies(tx, pool, {r["id"] for r in rows}, wanted)
            made = [Created(r["id"], new) for r, new in zip(rows, self._insert(tx, rows), strict=True)]
            known = [r for r, c in zip(rows, made, strict=True) if not c.new and r["model_name"]]
            self._rename(tx, pool, {r["id"]: r["model_name"] for r in known})
            if submission:
                self._submit_again(tx, pool, [c.id for c in made if not c.new], submission)
            fresh = [c.id for c in made if c.new]
            if wanted and fresh:
                self._depend(tx, pool, fresh, wanted)
            return made

        return self._write(work, pool)

    def _rename(self, tx: Transaction, pool: str, names: Mapping[str, str]) -> None:
        """Give tasks that are there the names of their models."""
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
        """What is not done yet of known tasks is to be done with what the latest submission used."""
        tx.run(
            f"UPDATE tasks SET submission = :submission WHERE pool = :pool AND {self._among('id', 'ids')} "
            "AND status <> 'done' AND submission <> :submission",
            pool=pool, ids=self._list(ids), submission=submission,
        )  # fmt: skip

    def keep_submission(self, pool: str, facts: Mapping[str, Any]) -> str:
        key = digest(facts)
        known = "SELECT 1 FROM submissions WHERE pool = :pool AND id = :key"
        if not self._read(lambda tx: tx.rows(known, pool=pool, key=key)):
            keep = (
                "INSERT INTO submissions (pool, id, facts, created_at) VALUES (:pool, :key, :facts, :now) "
                "ON CONFLICT (pool, id) DO NOTHING"
            )
            self._write(lambda tx: tx.run(keep, pool=pool, key=key, facts=encode(facts)), "")
        return key

    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        text = (
            f"SELECT id, facts FROM submissions WHERE pool = :pool AND NOT {self._among('id', 'known')} "
            "ORDER BY created_at, id"
        )
        rows = self._read(lambda tx: tx.rows(text, pool=pool, known=self._list(known)))
        return {key: decode(facts) for key, facts in rows}

    def open_submissions(self, pool: str) -> set[str]:
        text = (
            "SELECT DISTINCT submission FROM tasks WHERE pool = :pool AND status IN ('waiting', 'running', 'part_done')"
        )
        return {key for (key,) in self._read(lambda tx: tx.rows(text, pool=pool))}

    def _check_dependencies(
        self, tx: Transaction, pool: str, ids: set[str], wanted: list[str], *, known: bool = False
    ) -> None:
        if not known:
            self._check_known(tx, pool, ids, wanted)

        refuse_cycles(ids, wanted, lambda some: self._needs_of(tx, pool, some))

    def _check_known(self, tx: Transaction, pool: str, ids: set[str], wanted: list[str]) -> None:
        known = tx.rows(
            f"SELECT id FROM tasks WHERE pool = :pool AND {self._among('id', 'ids')}", pool=pool, ids=self._list(wanted)
        )
        missing = sorted(set(wanted) - {r[0] for r in known} - ids)
        if missing:
            raise TaskNotFound(f"depends_on: there is no task {missing[0]!r} in pool {pool!r}.")

    def _depend(self, tx: Transaction, pool: str, ids: Iterable[str], wanted: Iterable[str]) -> None:
        wanted = list(wanted)
        for task_id in ids:
            for needs in wanted:
                tx.run(
                    "INSERT INTO needs (pool, id, needs) VALUES (:pool, :id, :needs)",
                    pool=pool,
                    id=task_id,
                    needs=needs,
                )
        self._settle(tx, pool, wanted)

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        kept = list(records)

        def work(tx: Transaction) -> int:
            rows = [
                {"pool": pool, "id": r.id, "definition": r.text or encode(r.definition), "priority": r.priority,
                 "max_attempts": r.max_attempts, "model_name": r.model_name, "submission": r.submission}
                for r in kept
            ]  # fmt: skip
            new = [r for r, is_new in zip(kept, self._insert(tx, rows), strict=True) if is_new]
            for record in new:
                self._restore(tx, pool, record)
            self._settle(tx, pool, [d for r in new for d in r.depends_on])
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
        for needs in record.depends_on:
            tx.run(
                "INSERT INTO needs (pool, id, needs) VALUES (:pool, :id, :needs)", pool=pool, id=record.id, needs=needs
            )

    # -- dependencies --------------------------------------------------------------------------------------------------

    def _settle(self, tx: Transaction, pool: str, changed: Iterable[str]) -> None:
        """Let the tasks that depend on `changed` ones be claimed, wait, or fail with them; and so on from there."""
        changed = list(changed)
        while changed:
            found = tx.rows(
                f"SELECT id FROM needs WHERE pool = :pool AND {self._among('needs', 'ids')} ORDER BY id",
                pool=pool, ids=self._list(changed),
            )  # fmt: skip
            ids = self._list(dict.fromkeys(r[0] for r in found))
            if not found:
                return
            these = f"pool = :pool AND {self._among('id', 'ids')}"
            if self._lock_rows:  # two prerequisites that end at the same moment must see each other
                tx.rows(f"SELECT id FROM tasks WHERE {these} ORDER BY id {self._lock_rows}", pool=pool, ids=ids)
            tx.run(
                f"UPDATE tasks SET blocked = EXISTS ({_UNMET} (p.status IS NULL OR p.status <> 'done')) WHERE {these}",
                pool=pool, ids=ids,
            )  # fmt: skip
            failed = tx.rows(
                f"UPDATE tasks SET status = 'failed', cause = 'dependency', finished_at = :now WHERE {these} "
                f"AND status = 'waiting' AND EXISTS ({_UNMET} (p.status IS NULL OR p.status = 'failed')) RETURNING id",
                pool=pool, ids=ids,
            )  # fmt: skip
            changed = [r[0] for r in failed]
            for task_id in changed:
                self._say_why(tx, pool, task_id)

    def _say_why(self, tx: Transaction, pool: str, task_id: str) -> None:
        rows = tx.rows(
            "SELECT n.needs FROM needs n LEFT JOIN tasks p ON p.pool = n.pool AND p.id = n.needs "
            "WHERE n.pool = :pool AND n.id = :id AND (p.status IS NULL OR p.status = 'failed') ORDER BY n.needs LIMIT 1",
            pool=pool, id=task_id,
        )  # fmt: skip
        tx.run(
            "UPDATE tasks SET error = :error WHERE pool = :pool AND id = :id",
            error=because_of(rows[0][0]), pool=pool, id=task_id,
        )  # fmt: skip

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
    ) -> list[TaskRecord]:
        def wanted(*, in_turn: bool) -> Condition:
            condition, values = self._condition(pool, query, in_turn=in_turn)
            if not avoid:
                return condition, values
            more = {"avoid": f"|{avoid}|", "avoided": AVOID_SECONDS}
            return f"{condition} AND {self._failed_elsewhere()}", {**values, **more}

        if not paths_in(parse_query(query)):
            return self._claim(pool, wanted(in_turn=True), worker, lease, status, limit)
        # A query into definitions may have to look at many tasks: that is done first, and what it found is claimed in a
        # short transaction, which looks again. Where others were faster, once more.
        for _ in range(_FASTER):
            found = self._candidates(pool, status, wanted, limit + _SPARE)
            condition, values = wanted(in_turn=True)
            these = f"seq IN ({', '.join(map(str, found)) or 'NULL'})"
            claimed = self._claim(pool, (f"{these} AND {condition}", values), worker, lease, status, limit)
            if claimed or not found:
                return claimed
        return []

    def _candidates(self, pool: str, status: Status, wanted: Callable[..., Condition], most: int) -> list[int]:
        """Return the numbers of the first free tasks that match, in turn."""
        condition, values = wanted(in_turn=True)
        # The signs keep the database from going through all tasks in turn, where an index of definitions knows better.
        turn = "ORDER BY +priority DESC, +seq LIMIT :most"
        near = (
            f"SELECT seq FROM (SELECT seq AS number FROM tasks WHERE {_FREE} ORDER BY priority DESC, seq LIMIT {_NEAR}) "
            f"AS near CROSS JOIN tasks WHERE seq = number AND pool = :pool AND {condition} {turn}"
        )
        found = self._read(lambda tx: tx.rows(near, pool=pool, status=status.value, most=most, **values))
        if found:
            return [seq for (seq,) in found]
        condition, values = wanted(in_turn=False)
        far = f"SELECT seq FROM tasks WHERE {_FREE} AND {condition} {turn}"
        found = self._read(lambda tx: tx.rows(far, pool=pool, status=status.value, most=most, **values))
        return [seq for (seq,) in found]

    def _claim(
        self, pool: str, wanted: Condition, worker: str, lease: float, status: Status, limit: int
    ) -> list[TaskRecord]:
        condition, values = wanted
        if self._one_writer and not self._read(lambda tx: self._something_to_do(tx, pool, status)):
            return []  # idle workers look, and do not get into the way of the one that writes

        def work(tx: Transaction) -> list[TaskRecord]:
            self._expire(tx, pool)
            if self._is_paused(tx, pool):
                return []
            rows = tx.rows(
                "UPDATE tasks SET status = 'running', stage_from = :status, token = :token, worker = :worker, "
                "lease_until = :now + :lease, started_at = :now, finished_at = NULL, log = '' WHERE seq IN ("
                f"SELECT seq FROM tasks WHERE {_FREE} AND {condition} ORDER BY priority DESC, seq LIMIT :most "
                f"{self._skip_locked}) RETURNING seq, {COLUMNS}",
                pool=pool, status=status.value, token=self._next_token(tx), worker=worker, lease=lease, most=limit,
                **values,
            )  # fmt: skip
            rows.sort(key=lambda r: int(r[0]))  # RETURNING promises no order
            return sorted((self._record(r[1:]) for r in rows), key=lambda task: -task.priority)

        claimed = self._readable(self._write(work, pool))
        return self._with_results(claimed) if status is Status.PART_DONE else claimed

    def _failed_elsewhere(self) -> str:
        there = f"{self._position}(failed_by, :avoid) > 0 AND finished_at > :now - :avoided"
        return f"(failed_by = '' OR NOT COALESCE({there}, FALSE))"

    def _something_to_do(self, tx: Transaction, pool: str, status: Status) -> bool:
        due = "SELECT 1 FROM tasks WHERE pool = :pool AND status = 'running' AND lease_until <= :now LIMIT 1"
        free = f"SELECT 1 FROM tasks WHERE {_FREE} LIMIT 1"
        return bool(tx.rows(free, pool=pool, status=status.value) or tx.rows(due, pool=pool))

    def _readable(self, claimed: list[TaskRecord]) -> list[TaskRecord]:
        """Fail the claims whose definition is damaged; return the others."""
        for task in claimed:
            if "unreadable" in task.extra:
                self.fail(task, task.extra["unreadable"], Cause.UNREADABLE)
        return [task for task in claimed if "unreadable" not in task.extra]

    def _with_results(self, claimed: list[TaskRecord]) -> list[TaskRecord]:
        """Give second-stage claims their results; a result that cannot be read fails its own task alone."""
        readable = []
        for task in claimed:
            try:
                result = self._read(lambda tx, task=task: self._result(tx, task.pool, task.id))  # type: ignore[misc]
            except (UntrustedPickle, ArtifactUnreadable) as exc:
                self.fail(task, f"The result of the first stage cannot be read: {exc}", Cause.UNREADABLE)
            else:
                readable.append(replace(task, result=result))
        return readable

    def _result(self, tx: Transaction, pool: str, task_id: str) -> Any:
        found = tx.rows("SELECT plain, blob FROM results WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
        return decode_result(Encoded(found[0][0], found[0][1])) if found else None

    def _keep_result(self, tx: Transaction, pool: str, task_id: str, result: Encoded) -> None:
        tx.run(
            "INSERT INTO results (pool, id, plain, blob) VALUES (:pool, :id, :plain, :blob) "
            "ON CONFLICT (pool, id) DO UPDATE SET plain = excluded.plain, blob = excluded.blob",
            pool=pool, id=task_id, plain=result.plain, blob=result.blob,
        )  # fmt: skip

    def _record(self, row: Sequence[Any]) -> TaskRecord:
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
        due = "SELECT 1 FROM tasks WHERE pool = :pool AND status = 'running' AND lease_until <= :now LIMIT 1"
        if self._read(lambda tx: tx.rows(due, pool=pool)):
            self._write(lambda tx: self._expire(tx, pool), pool)

    def _expire(self, tx: Transaction, pool: str) -> None:
        ended = tx.rows(_EXPIRE.format(lock=self._skip_locked), pool=pool, jitter=backoff(1))
        self._settle(tx, pool, [task_id for task_id, status in ended if status == Status.FAILED.value])

    # -- the claim's end -----------------------------------------------------------------------------------------------

    def _end(self, tx: Transaction, task: TaskRecord, change: str, **values: Any) -> None:
        held = "pool = :pool AND id = :id AND status = 'running' AND token = :held"
        if (
            tx.run(f"UPDATE tasks SET {change} WHERE {held}", pool=task.pool, id=task.id, held=task.token, **values)
            != 1
        ):
            raise LeaseLost(stale(task))

    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        change = "lease_until = :now + :lease, log = COALESCE(:log, log)"
        kept = None if log is None else trim_log(log)
        self._write(lambda tx: self._end(tx, task, change, lease=lease, log=kept), "")

    def commit(self, task: TaskRecord, result: Any, status: Status = Status.DONE, log: str = "") -> None:
        encoded = encode_result(result)

        def work(tx: Transaction) -> None:
            self._end(
                tx, task,
                "status = :status, error = NULL, cause = NULL, attempt = 0, lease_until = NULL, available_at = 0, "
                "finished_at = :now, log = :log",
                status=status.value, log=trim_log(log),
            )  # fmt: skip
            self._keep_result(tx, task.pool, task.id, encoded)
            if status is Status.DONE:
                self._settle(tx, task.pool, [task.id])

        self._write(work, task.pool)

    def give_back(self, task: TaskRecord, status: Status | None = None, *, why: str | None = None) -> None:
        self._write(lambda tx: self._give_back(tx, task, status, why), task.pool)

    def _give_back(self, tx: Transaction, task: TaskRecord, status: Status | None, why: str | None) -> None:
        change = "status = COALESCE(:status, stage_from), lease_until = NULL"
        values: dict[str, Any] = {"status": status.value if status else None}
        if why is not None:
            change += ", error = :why, cause = 'unfit'"
            values["why"] = storable_text(why)
        self._end(tx, task, change, **values)
        if status in (Status.DONE, Status.FAILED):
            self._settle(tx, task.pool, [task.id])

    def fail(self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "") -> Status:
        return self._write(lambda tx: self._fail(tx, task, error, cause, log), task.pool)

    def _fail(self, tx: Transaction, task: TaskRecord, error: str, cause: Cause, log: str) -> Status:
        rows = tx.rows(
            "SELECT attempt + 1, max_attempts, stage_from, worker FROM tasks WHERE pool = :pool AND id = :id",
            pool=task.pool, id=task.id,
        )  # fmt: skip
        attempt, most, stage, worker = rows[0] if rows else (1, 1, Status.WAITING.value, None)
        status = Status.FAILED if attempt >= most or cause is Cause.UNREADABLE else Status(stage)
        self._end(
            tx, task,
            "status = :status, attempt = :attempt, error = :error, cause = :cause, log = :log, lease_until = NULL, "
            f"available_at = :now + :wait, finished_at = :now, failed_by = CASE WHEN {self._position}(failed_by, :mark) > 0 "
            "THEN failed_by ELSE failed_by || :mark END",
            status=status.value, attempt=attempt, error=storable_text(error), cause=cause.value, log=trim_log(log),
            wait=0.0 if status is Status.FAILED else backoff(attempt), mark=failure_mark(str(worker)),
        )  # fmt: skip
        if status is Status.FAILED:
            self._settle(tx, task.pool, [task.id])
        return status

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        def work(tx: Transaction) -> list[TaskRecord]:
            held = tx.rows(
                f"SELECT {COLUMNS} FROM tasks WHERE pool = :pool AND status = 'running' AND worker = :worker "
                f"{self._lock_rows}",
                pool=pool, worker=worker,
            )  # fmt: skip
            tasks = [self._record(r) for r in held]
            for task in tasks:
                if error is None:
                    self._end(tx, task, "status = stage_from, lease_until = NULL")
                else:
                    self._fail(tx, task, error, cause, task.log)
            return [self._get(tx, pool, t.id) for t in tasks]

        if not self._read(
            lambda tx: tx.rows(
                "SELECT 1 FROM tasks WHERE pool = :pool AND status = 'running' AND worker = :worker LIMIT 1",
                pool=pool,
                worker=worker,
            )
        ):
            return []
        return self._write(work, pool)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _get(self, tx: Transaction, pool: str, task_id: str) -> TaskRecord:
        rows = tx.rows(f"SELECT {COLUMNS} FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
        if not rows:
            raise TaskNotFound(f"There is no task {task_id!r} in pool {pool!r}.")
        return self._record(rows[0])

    def _whole(self, tx: Transaction, task: TaskRecord, *, results: bool) -> TaskRecord:
        needs = tx.rows(
            "SELECT needs FROM needs WHERE pool = :pool AND id = :id ORDER BY needs", pool=task.pool, id=task.id
        )
        result = self._result(tx, task.pool, task.id) if results else None
        return replace(task, result=result, depends_on=tuple(r[0] for r in needs))

    def get(self, pool: str, task_id: str) -> TaskRecord:
        return self._read(lambda tx: self._whole(tx, self._get(tx, pool, task_id), results=True))

    def query(self, pool: str, query: Query | None = None, *, results: bool = True) -> Iterator[TaskRecord]:
        condition, values = self._condition(pool, query)
        text = f"SELECT {COLUMNS} FROM tasks WHERE pool = :pool AND {condition} ORDER BY seq"
        for row in self._read(lambda tx: tx.rows(text, pool=pool, **values)):
            task = self._record(row)
            if results:
                task = self._read(lambda tx, task=task: self._whole(tx, task, results=True))  # type: ignore[misc]
            yield task

    def count(self, pool: str, query: Query | None = None) -> dict[Status, int]:
        condition, values = self._condition(pool, query)
        text = f"SELECT status, COUNT(*) FROM tasks WHERE pool = :pool AND {condition} GROUP BY status"
        return {Status(status): n for status, n in self._read(lambda tx: tx.rows(text, pool=pool, **values))}

    def pools(self) -> list[str]:
        return [name for (name,) in self._read(lambda tx: tx.rows("SELECT DISTINCT pool FROM tasks ORDER BY pool"))]

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

    def paused(self, pool: str) -> bool:
        return self._read(lambda tx: self._is_paused(tx, pool))

    def _is_paused(self, tx: Transaction, pool: str) -> bool:
        return bool(tx.rows("SELECT 1 FROM paused WHERE pool = :pool", pool=pool))

    # -- changing ------------------------------------------------------------------------------------------------------

    def _update(self, pool: str, query: Query | None, change: str, **changed: Any) -> int:
        """Change the tasks that match; return how many."""
        return len(self._write(lambda tx: self._changed(tx, pool, query, change, **changed), pool))

    def _changed(self, tx: Transaction, pool: str, query: Query | None, change: str, **changed: Any) -> list[str]:
        condition, values = self._condition(pool, query)
        text = f"UPDATE tasks SET {change} WHERE pool = :pool AND {condition} RETURNING id"
        return [r[0] for r in tx.rows(text, pool=pool, **changed, **values)]

    def remove(self, pool: str, query: Query | None = None) -> int:
        condition, values = self._condition(pool, query)

        def work(tx: Transaction) -> int:
            rows = tx.rows(f"DELETE FROM tasks WHERE pool = :pool AND {condition} RETURNING id", pool=pool, **values)
            ids = self._list(r[0] for r in rows)
            for table in ("results", "needs"):
                tx.run(f"DELETE FROM {table} WHERE pool = :pool AND {self._among('id', 'ids')}", pool=pool, ids=ids)
            self._settle(tx, pool, [r[0] for r in rows])
            return len(rows)

        return self._write(work, pool)

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        stage = status.value if status in (Status.WAITING, Status.PART_DONE) else None

        def work(tx: Transaction) -> int:
            ids = self._changed(
                tx, pool, query,
                "status = :status, stage_from = COALESCE(:stage, stage_from), token = token + 1, attempt = 0, "
                "lease_until = NULL, available_at = 0, error = NULL, cause = NULL, failed_by = ''",
                status=status.value, stage=stage,
            )  # fmt: skip
            self._settle(tx, pool, [*ids, *self._needs_of(tx, pool, ids)])
            return len(ids)

        return self._write(work, pool)

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        return self._update(pool, query, "priority = :priority", priority=priority)

    def retry(self, pool: str, query: Query | None = None) -> int:
        change = (
            "status = stage_from, token = token + 1, attempt = 0, lease_until = NULL, available_at = 0, cause = NULL, "
            "failed_by = ''"
        )

        def work(tx: Transaction) -> int:
            failed: Query = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
            ids = again = self._changed(tx, pool, failed, change)
            while again:  # what failed with them waits with them
                rows = tx.rows(
                    f"SELECT id FROM needs WHERE pool = :pool AND {self._among('needs', 'ids')}",
                    pool=pool, ids=self._list(again),
                )  # fmt: skip
                theirs = {"_id": {"$in": [r[0] for r in rows]}, "status": "failed", "cause": "dependency"}
                again = self._changed(tx, pool, theirs, change) if rows else []
                ids = ids + again
            self._settle(tx, pool, [*ids, *self._needs_of(tx, pool, ids)])
            return len(ids)

        return self._write(work, pool)

    def cancel(self, pool: str, query: Query | None = None) -> int:
        unfinished: Query = {"$and": [dict(query or {}), {"status": {"$in": ["waiting", "running", "part_done"]}}]}

        def work(tx: Transaction) -> int:
            change = (
                "status = 'failed', cause = 'cancelled', error = 'It was cancelled.', token = token + 1, "
                "lease_until = NULL, finished_at = :now"
            )
            ids = self._changed(tx, pool, unfinished, change)
            self._settle(tx, pool, ids)
            return len(ids)

        return self._write(work, pool)

    def pause(self, pool: str, paused: bool = True) -> None:
        add = "INSERT INTO paused (pool) VALUES (:pool) ON CONFLICT (pool) DO NOTHING"
        text = add if paused else "DELETE FROM paused WHERE pool = :pool"
        self._write(lambda tx: tx.run(text, pool=pool), pool)

    def replace(self, pool: str, task_id: str, definition: Mapping[str, Any]) -> str:
        new_id = digest(definition)
        row: dict[str, Any] = {"pool": pool, "id": new_id, "definition": encode(definition)}

        def work(tx: Transaction) -> str:
            old = self._get(tx, pool, task_id)
            if new_id != task_id:
                row.update(priority=old.priority, max_attempts=old.max_attempts, model_name=old.model_name)
                row["submission"] = old.submission
                if self._insert(tx, [row])[0]:
                    # It stands where the old one stood, also for those that wait for it.
                    place = tx.rows("SELECT seq FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=task_id)[0][
                        0
                    ]
                    tx.run("DELETE FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
                    tx.run(
                        "UPDATE tasks SET seq = :seq WHERE pool = :pool AND id = :id", seq=place, pool=pool, id=new_id
                    )
                else:
                    tx.run("DELETE FROM tasks WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
                self._rename_edges(tx, pool, task_id, new_id)
                self._check_dependencies(tx, pool, {new_id}, self._needs_of(tx, pool, [new_id]), known=True)
            else:
                tx.run(
                    "UPDATE tasks SET status = 'waiting', stage_from = 'waiting', attempt = 0, token = token + 1, "
                    "lease_until = NULL, available_at = 0, error = NULL, cause = NULL, log = '', worker = NULL, "
                    "started_at = NULL, finished_at = NULL, failed_by = '', created_at = :now WHERE pool = :pool AND id = :id",
                    pool=pool, id=new_id,
                )  # fmt: skip
            tx.run("DELETE FROM results WHERE pool = :pool AND id = :id", pool=pool, id=task_id)
            self._settle(tx, pool, [new_id, *self._needs_of(tx, pool, [new_id])])
            return new_id

        return self._write(work, pool)

    def _rename_edges(self, tx: Transaction, pool: str, old: str, new: str) -> None:
        for column, other in (("id", "needs"), ("needs", "id")):
            tx.run(
                f"UPDATE needs SET {column} = :new WHERE pool = :pool AND {column} = :old AND NOT EXISTS (SELECT 1 "
                f"FROM needs o WHERE o.pool = needs.pool AND o.{column} = :new AND o.{other} = needs.{other})",
                new=new, old=old, pool=pool,
            )  # fmt: skip
            tx.run(f"DELETE FROM needs WHERE pool = :pool AND {column} = :old", pool=pool, old=old)

    def _needs_of(self, tx: Transaction, pool: str, ids: Iterable[str]) -> list[str]:
        """What some tasks wait for, directly."""
        text = f"SELECT DISTINCT needs FROM needs WHERE pool = :pool AND {self._among('id', 'ids')}"
        return [r[0] for r in tx.rows(text, pool=pool, ids=self._list(ids))]

    @abc.abstractmethod
    def wait_for_change(self, pool: str, timeout: float) -> None:
        """Return when something in the pool may have changed."""
