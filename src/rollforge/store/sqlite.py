"""A store in one SQLite file: the default. Safe between processes and threads, durable when a commit returns."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from rollforge.errors import (
    ArtifactUnreadable,
    ConfigError,
    LeaseLost,
    StoreUnavailable,
    TaskNotFound,
    UntrustedPickle,
)
from rollforge.store.base import Clock, Created, Query, backoff, refuse_running
from rollforge.store.codec import decode_result, encode_result
from rollforge.store.query import match_column, parse_query, to_sql
from rollforge.task import Status, TaskRecord, decode, digest, encode

__all__ = ["SQLiteStore"]

log = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE tasks (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    pool         TEXT NOT NULL,
    id           TEXT NOT NULL,
    definition   TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'waiting',
    stage_from   TEXT NOT NULL DEFAULT 'waiting',
    priority     INTEGER NOT NULL DEFAULT 0,
    attempt      INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 3,
    token        INTEGER NOT NULL DEFAULT 0,
    lease_until  REAL,
    available_at REAL NOT NULL DEFAULT 0,
    worker       TEXT,
    created_at   REAL NOT NULL,
    started_at   REAL,
    finished_at  REAL,
    error        TEXT,
    UNIQUE (pool, id)
);
CREATE INDEX tasks_by_turn ON tasks (pool, status, priority DESC, seq);
CREATE INDEX tasks_by_lease ON tasks (pool, lease_until) WHERE status = 'running';
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('token', 0);
CREATE TABLE results (
    pool  TEXT NOT NULL,
    id    TEXT NOT NULL,
    plain TEXT,
    blob  BLOB,
    PRIMARY KEY (pool, id)
) WITHOUT ROWID;
"""
_COLUMNS = (
    "pool, id, definition, status, stage_from, priority, attempt, max_attempts, token, lease_until, available_at, worker, "
    "created_at, started_at, finished_at, error"
)
_BUSY_SECONDS = 60.0
_CLAIM = f"""
UPDATE tasks SET status = 'running', stage_from = ?, token = ?, worker = ?, lease_until = ?, started_at = ?,
    finished_at = NULL
WHERE seq IN (
    SELECT seq FROM tasks WHERE pool = ? AND status = ? AND available_at <= ? AND {{condition}}
    ORDER BY priority DESC, seq LIMIT ?
) RETURNING seq, {_COLUMNS}
"""
_EXPIRE = """
UPDATE tasks SET attempt = attempt + 1, lease_until = NULL, finished_at = ?,
    status = CASE WHEN attempt + 1 >= max_attempts THEN 'failed' ELSE stage_from END,
    error = 'The lease of worker ' || worker || ' ran out: it was killed, or hung.'
WHERE pool = ? AND status = 'running' AND lease_until <= ?
"""


def parse_uri(uri: str) -> tuple[Path, dict[str, str]]:
    """Return the file and the options of a ``sqlite:///`` URI."""
    rest = uri.removeprefix("sqlite://")
    path, _, options = rest.partition("?")
    if not path.startswith("/") or path == "/":
        raise ConfigError(
            f"{uri!r} names no file. Write sqlite:///relative.db or sqlite:////absolute.db.", path="store"
        )
    known = dict(parse_qsl(options))
    level = known.get("synchronous", "FULL").upper()
    if level not in ("FULL", "NORMAL", "OFF", "EXTRA"):
        raise ConfigError(f"synchronous={level!r} is none of FULL, NORMAL, OFF, EXTRA.", path="store")
    return Path(path[1:]).expanduser(), {**known, "synchronous": level}


class SQLiteStore:
    """Tasks in one file, in write-ahead mode.

    Parameters
    ----------
    uri : str
        ``sqlite:///relative.db`` or ``sqlite:////absolute.db``. ``?synchronous=NORMAL`` survives the death of a process but
        not a power cut, and is faster on slow disks.
    clock : callable
        Seconds since the epoch.

    Raises
    ------
    StoreUnavailable
        When the file cannot be opened: no such folder, read-only, corrupted, made by a newer version.
    """

    def __init__(self, uri: str, *, clock: Clock = time.time) -> None:
        self.uri = uri
        path, self._options = parse_uri(uri)
        self.path = path.absolute()
        self._clock = clock
        self._local = threading.local()
        self._prepare()

    # -- opening -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreUnavailable(f"The folder of the task store {self.path} cannot be made: {exc.strerror}.") from exc
        self._retry(self._create_schema)

    def _create_schema(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"The task store {self.path} was made by a newer Rollforge (schema {version}, this one knows "
                f"{SCHEMA_VERSION}). Update Rollforge."
            )
        if version == SCHEMA_VERSION:
            return
        with _transaction(connection):
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody was faster
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread of this process: SQLite's must not be shared by either."""
        if getattr(self._local, "pid", None) != os.getpid():
            connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None)
            connection.create_function("rf_match", 2, match_column, deterministic=True)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._options['synchronous']}")
            self._local.connection, self._local.pid = connection, os.getpid()
        opened: sqlite3.Connection = self._local.connection
        return opened

    def _retry(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`, again while the file is busy; say plainly what else can be wrong with it."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return work(self._connection())
            except sqlite3.OperationalError as exc:
                code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
                if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < deadline:
                    # Jitter: without it, of four saturating workers one takes nearly everything.
                    time.sleep(random.uniform(0.001, 0.02))
                    continue
                raise self._unavailable(exc, code) from exc
            except sqlite3.DatabaseError as exc:
                raise self._unavailable(exc, getattr(exc, "sqlite_errorcode", 0) & 0xFF) from exc

    def _unavailable(self, exc: sqlite3.DatabaseError, code: int) -> StoreUnavailable:
        why = {
            sqlite3.SQLITE_BUSY: f"was kept locked by another process for {_BUSY_SECONDS:.0f} s",
            sqlite3.SQLITE_READONLY: "is read-only. Make file and folder writable, or name another by --store",
            sqlite3.SQLITE_CANTOPEN: "cannot be opened. Does its folder exist, and may you write there?",
            sqlite3.SQLITE_FULL: "is on a full disk. Nothing was changed",
            sqlite3.SQLITE_NOTADB: "is not a task store, or is corrupted",
            sqlite3.SQLITE_CORRUPT: "is corrupted. Restore a copy, or name another by --store",
            sqlite3.SQLITE_IOERR: "cannot be read or written",
        }.get(code, "cannot be used")
        return StoreUnavailable(f"The task store {self.path} {why} ({exc}).")

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            with _transaction(connection):
                return work(connection)

        return self._retry(transaction)

    # -- creating and claiming -----------------------------------------------------------------------------------------

    def create(
        self, pool: str, definitions: Sequence[Mapping[str, Any]], *, priority: int = 0, max_attempts: int = 3
    ) -> list[Created]:
        encoded = [(digest(d), encode(d)) for d in definitions]  # all of them, before anything is stored
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[Created]:
            made = []
            for task_id, text in encoded:
                cursor = connection.execute(
                    "INSERT INTO tasks (pool, id, definition, priority, max_attempts, created_at) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pool, id) DO NOTHING",
                    (pool, task_id, text, priority, max_attempts, now),
                )
                made.append(Created(task_id, cursor.rowcount == 1))
            return made

        return self._write(work)

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
    ) -> list[TaskRecord]:
        condition, values = to_sql(parse_query(query))
        statement = _CLAIM.format(condition=condition)

        def work(connection: sqlite3.Connection) -> list[TaskRecord]:
            now = self._clock()
            connection.execute(_EXPIRE, (now, pool, now))
            # One counter for the whole store: a task that was removed and created again does not know old claims.
            token = connection.execute(
                "UPDATE counters SET value = value + 1 WHERE name = 'token' RETURNING value"
            ).fetchone()[0]
            rows = connection.execute(
                statement,
                (status.value, token, worker, now + lease, now, pool, status.value, now, *values, limit),
            ).fetchall()
            # RETURNING promises no order.
            rows.sort(key=lambda r: (-r[6], r[0]))
            return [self._record(connection, r[1:], results=False) for r in rows]

        claimed = self._write(work)
        return self._with_results(claimed) if status is Status.PART_DONE else claimed

    def _with_results(self, claimed: list[TaskRecord]) -> list[TaskRecord]:
        """Give second-stage claims their results; a result that cannot be read fails its own task alone."""
        readable = []
        for task in claimed:
            try:
                result = self._retry(lambda c, task=task: self._result(c, task.pool, task.id))  # type: ignore[misc]
            except (UntrustedPickle, ArtifactUnreadable) as exc:
                self.fail(task, f"The result of the first stage cannot be read: {exc}")
            else:
                readable.append(replace(task, result=result))
        return readable

    def _result(self, connection: sqlite3.Connection, pool: str, task_id: str) -> Any:
        text = "SELECT plain, blob FROM results WHERE pool = ? AND id = ?"
        found = connection.execute(text, (pool, task_id)).fetchone()
        return decode_result(*found) if found else None

    def _record(self, connection: sqlite3.Connection, row: Sequence[Any], *, results: bool) -> TaskRecord:
        (
            pool, task_id, definition, status, stage_from, priority, attempt, max_attempts, token, lease_until,
            available_at, worker, created_at, started_at, finished_at, error,
        ) = row  # fmt: skip
        result = self._result(connection, pool, task_id) if results else None
        return TaskRecord(
            id=task_id, pool=pool, definition=decode(definition), status=Status(status), priority=priority,
            attempt=attempt, max_attempts=max_attempts, token=token, lease_until=lease_until, available_at=available_at,
            worker=worker, created_at=created_at, started_at=started_at, finished_at=finished_at, result=result,
            error=error, stage_from=Status(stage_from),
        )  # fmt: skip

    # -- the claim's end -----------------------------------------------------------------------------------------------

    def _end(self, connection: sqlite3.Connection, task: TaskRecord, change: str, values: Sequence[Any]) -> None:
        cursor = connection.execute(
            f"UPDATE tasks SET {change} WHERE pool = ? AND id = ? AND status = 'running' AND token = ?",
            (*values, task.pool, task.id, task.token),
        )
        if cursor.rowcount != 1:
            raise LeaseLost(f"Task {task.id} is no longer held by {task.worker}: its claim {task.token} is stale.")

    def renew(self, task: TaskRecord, lease: float) -> None:
        self._write(lambda c: self._end(c, task, "lease_until = ?", (self._clock() + lease,)))

    def commit(self, task: TaskRecord, result: Any, status: Status = Status.DONE) -> None:
        plain, blob = encode_result(result)

        def work(connection: sqlite3.Connection) -> None:
            self._end(
                connection,
                task,
                "status = ?, error = NULL, attempt = 0, lease_until = NULL, available_at = 0, finished_at = ?",
                (status.value, self._clock()),
            )
            connection.execute(
                "INSERT OR REPLACE INTO results (pool, id, plain, blob) VALUES (?, ?, ?, ?)",
                (task.pool, task.id, plain, blob),
            )

        self._write(work)

    def give_back(self, task: TaskRecord, status: Status | None = None) -> None:
        change = "status = COALESCE(?, stage_from), lease_until = NULL"
        self._write(lambda c: self._end(c, task, change, (status.value if status else None,)))

    def fail(self, task: TaskRecord, error: str) -> Status:
        return self._write(lambda c: self._fail(c, task, error))

    def _fail(self, connection: sqlite3.Connection, task: TaskRecord, error: str) -> Status:
        now = self._clock()
        row = connection.execute(
            "SELECT attempt + 1, max_attempts, stage_from FROM tasks WHERE pool = ? AND id = ?", (task.pool, task.id)
        ).fetchone()
        attempt, most, stage = row if row else (1, 1, Status.WAITING.value)
        status = Status.FAILED if attempt >= most else Status(stage)
        wait = 0.0 if status is Status.FAILED else backoff(attempt) * random.uniform(0.5, 1.0)
        self._end(
            connection,
            task,
            "status = ?, attempt = ?, error = ?, lease_until = NULL, available_at = ?, finished_at = ?",
            (status.value, attempt, error, now + wait, now),
        )
        return status

    def release_worker(self, pool: str, worker: str, error: str | None) -> list[TaskRecord]:
        def work(connection: sqlite3.Connection) -> list[TaskRecord]:
            where = "pool = ? AND status = 'running' AND worker = ?"
            rows = connection.execute(f"SELECT {_COLUMNS} FROM tasks WHERE {where}", (pool, worker)).fetchall()
            held = [self._record(connection, r, results=False) for r in rows]
            for task in held:
                if error is None:
                    self._end(connection, task, "status = stage_from, lease_until = NULL", ())
                else:
                    self._fail(connection, task, error)
            return [self._get(connection, pool, t.id, results=False) for t in held]

        return self._write(work)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _get(self, connection: sqlite3.Connection, pool: str, task_id: str, *, results: bool) -> TaskRecord:
        row = connection.execute(f"SELECT {_COLUMNS} FROM tasks WHERE pool = ? AND id = ?", (pool, task_id)).fetchone()
        if row is None:
            raise TaskNotFound(f"There is no task {task_id!r} in pool {pool!r}.")
        return self._record(connection, row, results=results)

    def get(self, pool: str, task_id: str) -> TaskRecord:
        return self._retry(lambda c: self._get(c, pool, task_id, results=True))

    def query(self, pool: str, query: Query | None = None, *, results: bool = True) -> Iterator[TaskRecord]:
        condition, values = to_sql(parse_query(query))

        def work(connection: sqlite3.Connection) -> list[Any]:
            text = f"SELECT {_COLUMNS} FROM tasks WHERE pool = ? AND {condition} ORDER BY seq"
            return connection.execute(text, (pool, *values)).fetchall()

        for row in self._retry(work):
            yield self._record(self._connection(), row, results=results)

    def expire(self, pool: str) -> None:
        now = self._clock()
        expired = "SELECT 1 FROM tasks WHERE pool = ? AND status = 'running' AND lease_until <= ? LIMIT 1"
        if self._retry(lambda c: c.execute(expired, (pool, now)).fetchone()):
            self._write(lambda c: c.execute(_EXPIRE, (now, pool, now)))

    def count(self, pool: str, query: Query | None = None) -> dict[Status, int]:
        condition, values = to_sql(parse_query(query))
        text = f"SELECT status, COUNT(*) FROM tasks WHERE pool = ? AND {condition} GROUP BY status"
        rows = self._retry(lambda c: c.execute(text, (pool, *values)).fetchall())
        return {Status(status): n for status, n in rows}

    def pools(self) -> list[str]:
        rows = self._retry(lambda c: c.execute("SELECT DISTINCT pool FROM tasks ORDER BY pool").fetchall())
        return [name for (name,) in rows]

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, pool: str, query: Query | None = None) -> int:
        condition, values = to_sql(parse_query(query))

        def work(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                f"DELETE FROM tasks WHERE pool = ? AND {condition} RETURNING id", (pool, *values)
            ).fetchall()
            connection.execute(
                "DELETE FROM results WHERE pool = ? AND id IN (SELECT value FROM json_each(?))",
                (pool, json.dumps([r[0] for r in rows])),
            )
            return len(rows)

        return self._write(work)

    def _update(self, pool: str, query: Query | None, change: str, changed: Sequence[Any]) -> int:
        condition, values = to_sql(parse_query(query))
        text = f"UPDATE tasks SET {change} WHERE pool = ? AND {condition}"
        return self._write(lambda c: c.execute(text, (*changed, pool, *values)).rowcount)

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        stage = status.value if status in (Status.WAITING, Status.PART_DONE) else None
        change = (
            "status = ?, stage_from = COALESCE(?, stage_from), token = token + 1, attempt = 0, lease_until = NULL, "
        )
        return self._update(pool, query, change + "available_at = 0", (status.value, stage))

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        return self._update(pool, query, "priority = ?", (priority,))

    def retry(self, pool: str, query: Query | None = None) -> int:
        failed = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
        change = "status = stage_from, token = token + 1, attempt = 0, lease_until = NULL, available_at = 0"
        return self._update(pool, failed, change, ())

    def replace(self, pool: str, task_id: str, definition: Mapping[str, Any]) -> str:
        new_id, text = digest(definition), encode(definition)

        def work(connection: sqlite3.Connection) -> str:
            self._get(connection, pool, task_id, results=False)
            known = connection.execute("SELECT 1 FROM tasks WHERE pool = ? AND id = ?", (pool, new_id)).fetchone()
            connection.execute("DELETE FROM results WHERE pool = ? AND id = ?", (pool, task_id))
            if known and new_id != task_id:
                connection.execute("DELETE FROM tasks WHERE pool = ? AND id = ?", (pool, task_id))
            else:
                connection.execute(
                    "UPDATE tasks SET id = ?, definition = ?, status = 'waiting', stage_from = 'waiting', attempt = 0, "
                    "token = token + 1, lease_until = NULL, available_at = 0, error = NULL, worker = NULL, "
                    "started_at = NULL, finished_at = NULL, created_at = ? WHERE pool = ? AND id = ?",
                    (new_id, text, self._clock(), pool, task_id),
                )
            return new_id

        return self._write(work)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
