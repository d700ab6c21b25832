"""A task store in a PostgreSQL database, for workers on many machines.

All tables are in one schema, by default ``rollforge`` (``?schema=NAME`` in the URI selects another). Claims skip rows
that other workers are claiming. Waiting processes are notified of changes by NOTIFY and do not poll.

Every statement qualifies its tables with the schema, and no state is kept in the session, so a pooler such as PgBouncer
may use another connection for each transaction. Behind a pooler, prepared statements are off, and waiting polls.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql

from rollforge.confidential import mask_secrets
from rollforge.errors import StoreUnavailable
from rollforge.store.announcements import Announcer, PollDelay
from rollforge.store.base import Clock, CreatedTask, ending_of, refuse_older
from rollforge.store.codec import EncodedResult
from rollforge.store.postgres_database import Connected, PostgresDatabase, names_in
from rollforge.store.postgres_query import filter_of, in_column, in_json, to_json, tree_of
from rollforge.store.postgres_schema import MIGRATIONS, triggers
from rollforge.store.query import Compare
from rollforge.store.sql import SQLStore
from rollforge.store.sql_statements import (
    ATTEMPT_ENDED,
    CLAIMED,
    COLUMNS,
    COMMITTED,
    DUE,
    GIVEN,
    HELD,
    Condition,
    Row,
    Transaction,
    Values,
)
from rollforge.task import Status, TaskRecord

__all__ = ["PostgresStore"]

T = TypeVar("T")

_CHANNEL = "rollforge"
_ANALYZE_FROM = 5_000
"""Number of new tasks after which statistics are gathered at once."""
_PROBE_SECONDS = 1.0


class PostgresStore(PostgresDatabase, SQLStore):
    """Tasks in a PostgreSQL database (version 12 or newer). Leases are timed by the server's clock.

    Parameters
    ----------
    uri : str
        ``postgresql://user:password@host:port/database``, with libpq's options after a ``?``, and ``schema=NAME``.
    clock : callable, optional
        Returns seconds since the epoch; by default the server's clock is used.

    Raises
    ------
    StoreUnavailable
        If the server cannot be reached or refuses the connection, or the schema is newer than this program.
    """

    _position = "strpos"
    _concatenate = "string_agg"
    _lock_rows = "FOR UPDATE"
    _skip_locked = "FOR UPDATE OF tasks SKIP LOCKED"

    _noun = "task store"
    _version_table = "schema_version"
    _migrations = MIGRATIONS
    _names = names_in(MIGRATIONS, "schema_version")

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self._listener: Connected | None = None
        self._cannot_listen = False
        self._created = self._analyzed = 0
        self._poll_delay = PollDelay()
        self._announcer = Announcer(self._announce)
        super().__init__(uri, clock=clock, read_only=read_only)

    def _triggers(self) -> Iterable[str]:
        return triggers()

    def _check_tables(self, tx: Connected) -> None:
        super()._check_tables(tx)
        refuse_older(mask_secrets(self.uri), self._version(tx), len(self._migrations))

    def close(self) -> None:
        self._announcer.end()
        with self._lock:
            self._close(self._listener)
            self._listener = None
        super().close()

    # -- methods that SQLStore requires --------------------------------------------------------------------------------

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._transact(work, alone=True)

    def _write(self, work: Callable[[Transaction], T], pool: str) -> T:
        done = self._transact(work)
        if pool:
            self._announcer.announce(pool)
        return done

    def _announce(self, pools: Iterable[str]) -> None:
        """Notify all processes that wait for changes in some pools."""
        text = "SELECT pg_notify(:channel, :pool)"
        with contextlib.suppress(StoreUnavailable):  # waiting processes cannot read it either, and check again later
            for pool in pools:
                self._transact(lambda tx, pool=pool: tx.rows(text, channel=self._channel, pool=pool), alone=True)  # type: ignore[misc]

    def _take(self, pool: str, selection: str, values: Values) -> list[Row]:
        """Claim in one round trip; see :meth:`SQLStore._take`."""
        # Literals instead of parameters let the server use one generic plan for the other parameters.
        selection = selection.replace(":most", str(int(values["most"]))).replace(
            ":status", f"'{Status(values['status']).value}'"
        )
        text = (
            f"WITH given AS ({GIVEN}), found AS (SELECT ARRAY({selection} {self._skip_locked}) AS numbers), "
            f"taken AS (UPDATE tasks SET {CLAIMED}, token = nextval('tokens'), "
            "claim_place = array_position((SELECT numbers FROM found), seq) "
            "WHERE NOT EXISTS (SELECT 1 FROM given) AND NOT EXISTS (SELECT 1 FROM paused WHERE paused.pool = :pool) "
            f"AND seq = ANY(CAST((SELECT numbers FROM found) AS bigint[])) RETURNING seq, {COLUMNS}) "
            f"SELECT due.there, task.* FROM (SELECT EXISTS ({DUE}) AS there) AS due "
            "LEFT JOIN (SELECT * FROM given UNION ALL SELECT * FROM taken) AS task ON TRUE"
        )
        # With a unique identity, every claim can be repeated.
        values = {**values, "claim": values["claim"] or uuid.uuid4().hex}

        def work(tx: Connected) -> list[Row]:
            try:
                return tx.rows(text, **values)
            except errors.UniqueViolation:
                # The first execution of the same claim, whose answer was lost, was still running. Now it has ended.
                return tx.rows(text, **values)

        rows = self._transact(work, alone=True)
        if rows[0][0]:
            self.expire(pool)
        taken = [row[1:] for row in rows if row[1] is not None]
        if taken:
            self._announcer.announce(pool)
        return taken

    def _commit(self, task: TaskRecord, result: EncodedResult, status: Status, log: str) -> bool:
        """Commit in one statement; see :meth:`SQLStore._commit`."""
        # A done task describes its last attempt itself, so that nothing has to be kept.
        kept = ATTEMPT_ENDED.format(
            ending="CAST(:status AS TEXT)", error="NULL",
            which="pool = :pool AND id = :id AND EXISTS (SELECT 1 FROM ended)",
        )  # fmt: skip
        attempt = "" if status is Status.DONE else f"attempt AS ({kept}), "
        text = (
            f"WITH ended AS (UPDATE tasks SET {COMMITTED} WHERE {HELD} RETURNING pool, id), {attempt}kept AS ("
            "INSERT INTO results (pool, id, plain, blob) SELECT pool, id, CAST(:plain AS text), CAST(:blob AS bytea) FROM ended "
            "ON CONFLICT (pool, id) DO UPDATE SET plain = excluded.plain, blob = excluded.blob) SELECT COUNT(*) FROM ended"
        )
        values = {
            "pool": task.pool, "id": task.id, "held": task.token, "status": status.value, "log": log,
            "ending": ending_of("commit", status), "plain": result.plain, "blob": result.blob,
            **({"cause": None} if attempt else {}),
        }  # fmt: skip
        ((ended,),) = self._transact(lambda tx: tx.rows(text, **values), alone=True)
        if ended:
            self._announcer.announce(task.pool)
        return bool(ended)

    @property
    def _channel(self) -> str:
        return f"{_CHANNEL}_{self._schema}"[:63]

    def _next_token(self, tx: Transaction) -> int:
        return int(tx.rows("SELECT nextval('tokens')")[0][0])

    def _among(self, column: str, name: str) -> str:
        return f"{column} = ANY(:{name})"

    def _list(self, values: Iterable[str] | Iterable[int]) -> list[Any]:
        return list(values)

    def _elements(self, name: str) -> str:
        return f"(SELECT unnest(CAST(:{name} AS text[])) AS value)"

    def create(self, pool: str, definitions: Sequence[Mapping[str, object]], **options: Any) -> list[CreatedTask]:
        made = super().create(pool, definitions, **options)
        self._created += sum(c.new for c in made)
        # Until the server gathers statistics itself, some minutes later, it reads all definitions instead of their
        # index. Doubling keeps the cost proportional, however many calls create the tasks.
        if self._created - self._analyzed >= max(_ANALYZE_FROM, self._analyzed):
            self._analyzed = self._created
            self._transact(lambda tx: tx.run("ANALYZE tasks"))
        return made

    def _definition_columns(self, definition: str) -> Values:
        return {"definition": definition, "filter": filter_of(definition)}

    def _insert(self, tx: Transaction, rows: Sequence[Values]) -> list[bool]:
        text = (
            "INSERT INTO tasks (pool, id, definition, filter, model_name, submission, priority, max_attempts, creation, "
            "created_at) SELECT :pool, t.id, t.definition, t.filter, t.model_name, t.submission, :priority, :max_attempts, "
            ":creation, :now FROM "
            # One parameter: separate arrays for each column would take longer than everything else in create().
            "ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS "
            "(id text, definition text, filter jsonb, model_name text, submission text)) "
            "WITH ORDINALITY AS t (id, definition, filter, model_name, submission, place) ORDER BY t.place "
            "ON CONFLICT (pool, id) DO NOTHING RETURNING id"
        )
        inserted: list[bool] = []
        for some in _batches(rows):
            texts = [
                f'{{"id": {json.dumps(r["id"])}, "definition": {json.dumps(r["definition"])}, '
                f'"filter": {to_json(tree_of(r["definition"]))}, "model_name": {json.dumps(r["model_name"])}, '
                f'"submission": {json.dumps(r["submission"])}}}'
                for r in some
            ]
            found = tx.rows(
                text, pool=some[0]["pool"], priority=some[0]["priority"], max_attempts=some[0]["max_attempts"],
                creation=some[0]["creation"], rows=f"[{', '.join(texts)}]",
            )  # fmt: skip
            new = {r[0] for r in found}
            for row in some:
                inserted.append(row["id"] in new)
                new.discard(row["id"])
        return inserted

    def _compare(self, node: Compare, name: str, *, in_order: bool) -> Condition:
        if not node.in_definition:
            return in_column(node, name)
        text, values = in_json(node, name)
        if in_order or "filter @@" not in text:
            return text, values
        # In a subquery, so that the index of definitions is used, whatever else the statement contains.
        return f"seq IN (SELECT seq FROM tasks WHERE {text})", values

    def wait_for_change(self, pool: str, timeout: float) -> None:
        if self._pooled or self._cannot_listen:
            self._poll_delay.sleep(timeout)
            return
        try:
            listener = self._listener
            if listener is None or listener.pid != os.getpid() or listener.connection.closed:
                self._listen()
                return  # changes before it listened are unknown
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                for notice in listener.connection.notifies(timeout=left, stop_after=1):
                    if notice.payload == pool:
                        return
        except psycopg.Error as exc:
            if self._listener is not None:
                self._listener.connection.close()
            raise self._unavailable(exc) from exc

    def _listen(self) -> None:
        """Open a connection that receives notifications; if none arrive on it, polling is used instead."""
        self._listener = listener = self._connect()
        if not self._pooled:
            arrived: list[str] = []

            def receive(notice: psycopg.Notify) -> None:
                arrived.append(notice.payload)

            listener.connection.add_notify_handler(receive)
            listener.connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            deadline = time.monotonic() + _PROBE_SECONDS
            listener.connection.execute("SELECT pg_notify(%s, '')", (self._channel,))
            while not arrived and time.monotonic() < deadline:
                time.sleep(0.02)
                listener.connection.execute("SELECT 1")
            listener.connection.remove_notify_handler(receive)  # it would consume what notifies() waits for
            self._cannot_listen = not arrived
        if self._pooled or self._cannot_listen:
            listener.connection.close()
            self._listener = None


def _batches(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """Yield rows with the same priority and number of attempts, a thousand at a time."""
    start = 0
    for i in range(1, len(rows) + 1):
        here, there = rows[start], rows[i] if i < len(rows) else None
        same = there is not None and all(here[k] == there[k] for k in ("priority", "max_attempts"))
        if not same or i - start == 1000:
            yield rows[start:i]
            start = i
