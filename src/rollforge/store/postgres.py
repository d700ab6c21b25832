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
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rollforge.confidential import mask_error, mask_secrets
from rollforge.errors import ConfigError, StoreUnavailable
from rollforge.store.announcements import Announcer, PollDelay
from rollforge.store.base import Clock, CreatedTask, ending_of, not_unicode, refuse_newer
from rollforge.store.codec import EncodedResult
from rollforge.store.postgres_query import filter_of, in_column, in_json, to_json, tree_of
from rollforge.store.postgres_schema import MIGRATIONS, SCHEMA_VERSION, triggers
from rollforge.store.query import Compare
from rollforge.store.sql import SQLStore
from rollforge.store.sql_statements import (
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
    statements,
)
from rollforge.task import Status, TaskRecord

__all__ = ["PostgresStore"]

T = TypeVar("T")

_CHANNEL = "rollforge"
_CONNECT_SECONDS = 10
_ANALYZE_FROM = 5_000
"""Number of new tasks after which statistics are gathered at once."""
_PREPARE_AFTER = 5
_IDLE_SECONDS = 20
"""Seconds for which a client that hangs or has disappeared may hold row locks in the middle of a transaction."""
# With these settings, a connection whose other end has disappeared is detected within a minute.
_ALIVE: dict[str, str | int | None] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_PROBE_SECONDS = 1.0
# A subquery is evaluated once per statement, so that comparisons with it can use an index.
_CLOCK = "(SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION))"
_DSN_SCHEMA = re.compile(r"\bschema\s*=\s*'?(\w+)'?\s*")


_NAMES = "|".join(
    ["schema_version", *re.findall(r"CREATE (?:TABLE|SEQUENCE) (\w+)", ";".join(MIGRATIONS))]
)  # of tables and sequences
_PLACE = re.compile(
    rf"\b(?P<before>(?:FROM|JOIN|INTO|UPDATE|USING|ON|REFERENCES|ANALYZE|(?:TABLE|SEQUENCE)(?: IF(?: NOT)? EXISTS)?)\s+)"
    rf"(?P<table>{_NAMES})\b(?!\.)|\bnextval\('(?P<sequence>{_NAMES})'\)|\bDROP INDEX (?P<index>\w+)"
)


@lru_cache(maxsize=512)
def _translated(statement: str, schema: str, own_clock: bool) -> str:
    """Qualify table names with the schema, and replace ``:name`` by psycopg's ``%(name)s`` and ``:now`` by the clock.

    Examples
    --------
    >>> _translated("UPDATE needs SET needs = :n FROM tasks WHERE tasks.id = needs.id", "mine", True)
    'UPDATE "mine".needs SET needs = %(n)s FROM "mine".tasks WHERE tasks.id = needs.id'
    """

    def qualified(found: re.Match[str]) -> str:
        if found["sequence"]:
            return f"nextval('\"{schema}\".{found['sequence']}')"
        if found["index"]:
            return f'DROP INDEX "{schema}".{found["index"]}'
        return f'{found["before"]}"{schema}".{found["table"]}'

    def parameter(found: re.Match[str]) -> str:
        return _CLOCK if found[1] == "now" and own_clock else f"%({found[1]})s"

    return re.sub(r"(?<!:):([a-z]\w*)", parameter, _PLACE.sub(qualified, statement).replace("%", "%%"))


class _Opened:
    """One connection, with the interface of a transaction."""

    def __init__(self, connection: psycopg.Connection, schema: str, clock: Clock | None) -> None:
        self.connection = connection
        self.pid = os.getpid()
        self._schema = schema
        self._clock = clock

    def _execute(self, statement: str, values: Values) -> psycopg.Cursor:
        if self._clock is not None:
            values["now"] = self._clock()
        return self.connection.execute(_translated(statement, self._schema, self._clock is None), values)

    def rows(self, sql: str, **values: Any) -> list[Row]:
        return self._execute(sql, values).fetchall()

    def run(self, sql: str, **values: Any) -> int:
        return self._execute(sql, values).rowcount


def parse_uri(uri: str) -> tuple[str, str]:
    """Return a URI (or ``host=… dbname=…``) as a libpq connection string, and the schema that it names.

    Decoding is that of libpq: ``%20`` is a space, as is a literal space, and ``+`` is a plus sign.

    Raises
    ------
    ConfigError
        If libpq cannot parse it or does not know an option, or the schema is not a plain name.

    Examples
    --------
    >>> parse_uri("postgresql://ann@db/tasks?schema=mine&options=-c statement_timeout=5000")[1]
    'mine'
    >>> conninfo_to_dict(parse_uri("postgresql://ann@db/tasks?options=-c statement_timeout=5000")[0])["options"]
    '-c statement_timeout=5000'
    """
    if "://" in uri:
        known, schema = _split_uri(uri)
    else:
        known, schema = _DSN_SCHEMA.sub("", uri), next((m[1] for m in _DSN_SCHEMA.finditer(uri)), "rollforge")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise ConfigError(
            f"schema={schema!r} must consist of lower-case letters, digits and underscores, and must not "
            "start with pg_.",
            path="store",
        )
    try:
        options = conninfo_to_dict(known)
    except (psycopg.ProgrammingError, UnicodeError) as exc:  # also text that is not UTF-8, literal or percent-encoded
        reason = mask_error(" ".join(str(exc).split()), uri)
        raise ConfigError(
            f"{mask_secrets(uri)!r} is not a valid address of a PostgreSQL database: {reason}. In a URI, special "
            "characters are written %20 (space), %25 (%), %26 (&), %3A (:), %3F (?), %40 (@).",
            path="store",
        ) from exc
    defaults: dict[str, str | int | None] = {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "rollforge",
        **_ALIVE,
    }
    options = {**defaults, **options}
    return make_conninfo("", **{name: str(value) for name, value in options.items()}), schema


def _split_uri(uri: str) -> tuple[str, str]:
    address, _, text = uri.partition("?")
    options = [option.partition("=") for option in text.split("&") if option]
    kept = [f"{name}={value.replace(' ', '%20').replace('=', '%3D')}" for name, _, value in options if name != "schema"]
    schemas = [unquote(value) for name, _, value in options if name == "schema"]
    return f"{address}?{'&'.join(kept)}" if kept else address, [*schemas, "rollforge"][0]


class PostgresStore(SQLStore):
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

    def __init__(self, uri: str, *, clock: Clock | None = None) -> None:
        self.uri = uri
        self._address, self._schema = parse_uri(uri)
        self._clock = clock
        # One connection per process, shared by its threads, as servers allow only about a hundred.
        self._lock = threading.RLock()
        self._connected: _Opened | None = None
        self._listener: _Opened | None = None
        self._pooled = False
        self._cannot_listen = False
        self._created = self._analyzed = 0
        self._poll_delay = PollDelay()
        self._announcer = Announcer(self._announce)
        try:
            self._transact(self._migrate)
        except BaseException:
            self.close()
            raise

    # -- opening -------------------------------------------------------------------------------------------------------

    def _connect(self) -> _Opened:
        connection = psycopg.connect(self._address, autocommit=True, prepare_threshold=None)
        # A pooler reports an invented process id, and may use another connection for each transaction.
        try:
            (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        except BaseException:
            connection.close()
            raise
        self._pooled = pid != connection.info.backend_pid
        if not self._pooled:
            connection.prepare_threshold = _PREPARE_AFTER
            connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
        return _Opened(connection, self._schema, self._clock)

    def _opened(self) -> _Opened:
        opened = self._connected
        if opened is not None and opened.pid == os.getpid() and not opened.connection.closed:
            return opened
        self._forked = opened  # kept referenced: after a fork, the parent's connection must not be closed here
        self._connected = self._connect()
        return self._connected

    def close(self) -> None:
        self._announcer.end()
        with self._lock:
            for opened in (self._connected, self._listener):
                if opened is not None and opened.pid == os.getpid():
                    opened.connection.close()
            self._connected = self._listener = None

    def _migrate(self, tx: _Opened) -> None:
        if self._version(tx) == SCHEMA_VERSION:
            return
        # Of two processes that migrate at the same time, the second waits and finds nothing to do.
        tx.rows("SELECT pg_advisory_xact_lock(7260174823)")
        schema = sql.Identifier(self._schema)
        tx.connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        tx.run("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        for script in MIGRATIONS[self._version(tx) :]:
            for statement in statements(script):
                tx.run(statement)
        for statement in triggers():
            tx.run(statement.replace("$schema", f'"{self._schema}"'))
        tx.run("DELETE FROM schema_version")
        tx.run("INSERT INTO schema_version VALUES (:version)", version=SCHEMA_VERSION)

    def _version(self, tx: _Opened) -> int:
        if tx.rows("SELECT to_regclass(:name)", name=f'"{self._schema}".schema_version')[0][0] is None:
            return 0
        rows = tx.rows("SELECT version FROM schema_version")
        version = int(rows[0][0]) if rows else 0
        refuse_newer(mask_secrets(self.uri), version, SCHEMA_VERSION)
        return version

    # -- transactions --------------------------------------------------------------------------------------------------

    def _transact(self, work: Callable[[_Opened], T], *, alone: bool = False) -> T:
        """Do `work` in one transaction; retry after a deadlock, and once if the connection had died before.

        With `alone`, it makes its own transactions and may be repeated, even if an earlier answer was lost.
        """
        deadline, reconnected = time.monotonic() + 30.0, False
        while True:
            began = False
            try:
                with self._lock:
                    opened = self._opened()
                    if alone:
                        return work(opened)
                    with opened.connection.transaction():
                        began = True
                        return work(opened)
            except (errors.DeadlockDetected, errors.SerializationFailure) as exc:
                if time.monotonic() > deadline:
                    raise self._unavailable(exc) from exc
                time.sleep(random.uniform(0.001, 0.02))
            except UnicodeEncodeError as exc:
                raise not_unicode(exc) from exc
            except psycopg.Error as exc:
                dead = self._connected is not None and self._connected.connection.broken
                waited = any(mark in str(exc) for mark in _POOL_EXHAUSTED)  # the pooler's time limit for waiting
                if dead and not waited and not began and not reconnected:
                    reconnected = True  # it died while idle, so nothing of this work was sent
                    continue
                if any(mark in str(exc) for mark in _MISTAKES):
                    reason = mask_secrets(" ".join(str(exc).split()))
                    raise ConfigError(f"PostgreSQL rejected a value or a query: {reason}.") from exc
                raise self._unavailable(exc) from exc

    def _unavailable(self, exc: psycopg.Error) -> StoreUnavailable:
        text = mask_error(" ".join(str(exc).split()) or type(exc).__name__, self.uri)
        for marks, advice in _ADVICE:
            if isinstance(exc, marks[0]) or any(re.search(m, text) for m in marks[1]):
                return StoreUnavailable(f"The task store {mask_secrets(self.uri)} {advice} ({text})")
        return StoreUnavailable(f"The task store {mask_secrets(self.uri)} cannot be used ({text})")

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

        def work(tx: _Opened) -> list[Row]:
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
        text = (
            f"WITH ended AS (UPDATE tasks SET {COMMITTED} WHERE {HELD} RETURNING pool, id), kept AS ("
            "INSERT INTO results (pool, id, plain, blob) SELECT pool, id, CAST(:plain AS text), CAST(:blob AS bytea) FROM ended "
            "ON CONFLICT (pool, id) DO UPDATE SET plain = excluded.plain, blob = excluded.blob) SELECT COUNT(*) FROM ended"
        )
        values = {
            "pool": task.pool, "id": task.id, "held": task.token, "status": status.value, "log": log,
            "ending": ending_of("commit", status), "plain": result.plain, "blob": result.blob,
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

    def _list(self, values: Iterable[str]) -> list[str]:
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
        made: list[bool] = []
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
                made.append(row["id"] in new)
                new.discard(row["id"])
        return made

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


_MISTAKES = (
    "invalid regular expression", "integer out of range", "bigint out of range", "number of parameters must be",
    "stack depth limit exceeded", "cannot contain NUL",
)  # fmt: skip
"""Errors of the server or the client that would occur again, so that retrying does not help."""
_POOL_EXHAUSTED = ("query_wait_timeout", "no more connections allowed", "client_login_timeout")
_ADVICE: tuple[tuple[tuple[type[psycopg.Error] | tuple[()], tuple[str, ...]], str], ...] = (
    ((errors.InvalidPassword, ("password authentication failed", "no password supplied")),
     "rejects the user or the password. Check them in the URI"),
    ((errors.InvalidCatalogName, (r'(database|role) "[^"]*" does not exist', "no such (database|user)")),
     "has no such database, or no such user. Create it, or name another"),
    (((), ("statement pooling mode",)),
     "is behind a pooler in statement mode, which has no transactions. Set pool_mode=transaction for this database"),
    (((), ("unsupported startup parameter",)),
     "is behind a pooler that refuses an option of the URI. Remove it there, or name it in ignore_startup_parameters"),
    (((), _POOL_EXHAUSTED),
     "is behind a pooler that had no free connection in time. Give it more (default_pool_size), or start fewer workers"),
    (((), ("Connection refused", "could not translate host", "Name or service", "timeout expired", "No such file",
           "Network is unreachable", "No route to host", "resolve host", "cannot connect to server")),
     "cannot be reached. Check that the server is running, and the host and port"),
    ((errors.DiskFull, ("No space left",)), "is on a full disk. Nothing was changed"),
    ((errors.TooManyConnections, ("too many clients", "remaining connection slots")), "has no connection left"),
    ((errors.InsufficientPrivilege, ()), "does not let this user do that. Grant it CREATE on the database"),
    ((errors.ReadOnlySqlTransaction, ()), "is read-only (a standby?). Name the primary server"),
    (((), ("server closed the connection", "terminating connection", "the connection is closed", "starting up",
           "shutting down", "recovery mode", "server conn crashed", "Connection reset")),
     "closed the connection. The server was stopped or restarted"),
)  # fmt: skip


def _batches(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """Yield rows with the same priority and number of attempts, a thousand at a time."""
    start = 0
    for i in range(1, len(rows) + 1):
        here, there = rows[start], rows[i] if i < len(rows) else None
        same = there is not None and all(here[k] == there[k] for k in ("priority", "max_attempts"))
        if not same or i - start == 1000:
            yield rows[start:i]
            start = i
