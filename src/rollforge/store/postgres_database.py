"""A schema of a PostgreSQL database: connecting, migrating, its transactions and its errors.

Task stores and ledgers may use the same schema: each has its own tables and version.

Every statement qualifies its tables with the schema, and no state is kept in the session, so a pooler such as PgBouncer
may use another connection for each transaction. Behind a pooler, prepared statements are off.
"""

from __future__ import annotations

import abc
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import ClassVar, TypeVar
from urllib.parse import unquote

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rollforge.confidential import mask_error, mask_secrets
from rollforge.errors import ConfigError, StoreUnavailable
from rollforge.store.base import Clock, not_unicode, refuse_newer
from rollforge.store.sql_statements import Row, Values, statements

__all__ = ["Connected", "PostgresDatabase", "names_in", "parse_uri", "translated"]

T = TypeVar("T")

_CONNECT_SECONDS = 10
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
# A subquery is evaluated once per statement, so that comparisons with it can use an index.
_CLOCK = "(SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION))"
_DSN_SCHEMA = re.compile(r"\bschema\s*=\s*'?(\w+)'?\s*")


def names_in(migrations: Iterable[str], version_table: str) -> str:
    """Return the names of tables, sequences and views that scripts create, as alternatives of a regular expression."""
    return "|".join(
        [version_table, *re.findall(r"CREATE (?:TABLE|SEQUENCE|VIEW) (?:IF NOT EXISTS )?(\w+)", ";".join(migrations))]
    )


@lru_cache
def _place(names: str) -> re.Pattern[str]:
    """Return the pattern of the places in statements where such a name stands."""
    return re.compile(
        r"\b(?P<before>(?:FROM|JOIN|INTO|UPDATE|USING|ON|REFERENCES|ANALYZE|"
        rf"(?:TABLE|SEQUENCE|VIEW)(?: IF(?: NOT)? EXISTS)?)\s+)(?P<table>{names})\b(?!\.)"
        rf"|\bnextval\('(?P<sequence>{names})'\)|\bDROP INDEX (?P<index>\w+)"
    )


@lru_cache(maxsize=512)
def translated(statement: str, schema: str, own_clock: bool, names: str) -> str:
    """Qualify table names with the schema, and replace ``:name`` by psycopg's ``%(name)s`` and ``:now`` by the clock.

    Examples
    --------
    >>> translated("UPDATE needs SET n = :n FROM tasks WHERE tasks.id = needs.id", "mine", True, "tasks|needs")
    'UPDATE "mine".needs SET n = %(n)s FROM "mine".tasks WHERE tasks.id = needs.id'
    """

    def qualified(found: re.Match[str]) -> str:
        if found["sequence"]:
            return f"nextval('\"{schema}\".{found['sequence']}')"
        if found["index"]:
            return f'DROP INDEX "{schema}".{found["index"]}'
        return f'{found["before"]}"{schema}".{found["table"]}'

    def parameter(found: re.Match[str]) -> str:
        return _CLOCK if found[1] == "now" and own_clock else f"%({found[1]})s"

    return re.sub(r"(?<!:):([a-z]\w*)", parameter, _place(names).sub(qualified, statement).replace("%", "%%"))


class Connected:
    """One connection, with the interface of a transaction."""

    def __init__(self, connection: psycopg.Connection, schema: str, clock: Clock | None, names: str) -> None:
        self.connection = connection
        self.pid = os.getpid()
        self._schema = schema
        self._names = names
        self._clock = clock

    def _execute(self, statement: str, values: Values) -> psycopg.Cursor:
        if self._clock is not None:
            values["now"] = self._clock()
        return self.connection.execute(translated(statement, self._schema, self._clock is None, self._names), values)

    def rows(self, sql: str, **values: object) -> list[Row]:
        return self._execute(sql, values).fetchall()

    def run(self, sql: str, **values: object) -> int:
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


class PostgresDatabase(abc.ABC):
    """One schema of a PostgreSQL database.

    Parameters
    ----------
    uri : str
        ``postgresql://user:password@host:port/database``, with libpq's options after a ``?``, and ``schema=NAME``.
    clock : callable, optional
        Returns seconds since the epoch; by default the server's clock is used.
    read_only : bool
        Whether the tables must exist and are never changed.

    Raises
    ------
    StoreUnavailable
        If the server cannot be reached or refuses the connection, or the schema is newer than this program.
    """

    _noun: ClassVar[str]
    """What the database is, for messages."""
    _version_table: ClassVar[str]
    _migrations: ClassVar[Sequence[str]]
    """The scripts that migrate the tables from each version to the next."""
    _names: ClassVar[str]
    """See :func:`names_in`."""

    @abc.abstractmethod
    def _triggers(self) -> Iterable[str]:
        """Return the statements that replace the triggers of any version by those of this one."""

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self.uri = uri
        self._address, self._schema = parse_uri(uri)
        self._clock = clock
        self._read_only = read_only
        # One connection per process, shared by its threads, as servers allow only about a hundred.
        self._lock = threading.RLock()
        self._connected: Connected | None = None
        self._pooled = False
        try:
            self._transact(self._check_tables if read_only else self._migrate)
        except BaseException:
            self.close()
            raise

    # -- opening -------------------------------------------------------------------------------------------------------

    def _connect(self) -> Connected:
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
            if self._read_only:
                connection.execute("SET default_transaction_read_only = on")
        return Connected(connection, self._schema, self._clock, self._names)

    def _opened(self) -> Connected:
        opened = self._connected
        if opened is not None and opened.pid == os.getpid() and not opened.connection.closed:
            return opened
        self._forked = opened  # kept referenced: after a fork, the parent's connection must not be closed here
        self._connected = self._connect()
        return self._connected

    def close(self) -> None:
        """Close the connection of this process; a later call opens another one."""
        with self._lock:
            self._close(self._connected)
            self._connected = None

    def _close(self, opened: Connected | None) -> None:
        if opened is not None and opened.pid == os.getpid():
            opened.connection.close()

    def _check_tables(self, tx: Connected) -> None:
        if not self._version(tx):
            raise StoreUnavailable(
                f"There is no {self._noun} in the schema {self._schema!r} of {mask_secrets(self.uri)}."
            )

    def _migrate(self, tx: Connected) -> None:
        latest = len(self._migrations)
        if self._version(tx) == latest:
            return
        # Of two processes that migrate at the same time, the second waits and finds nothing to do.
        tx.rows("SELECT pg_advisory_xact_lock(7260174823)")
        schema = sql.Identifier(self._schema)
        tx.connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        tx.run(f"CREATE TABLE IF NOT EXISTS {self._version_table} (version INTEGER NOT NULL)")
        for script in self._migrations[self._version(tx) :]:
            for statement in statements(script):
                tx.run(statement)
        for statement in self._triggers():
            tx.run(statement.replace("$schema", f'"{self._schema}"'))
        tx.run(f"DELETE FROM {self._version_table}")
        tx.run(f"INSERT INTO {self._version_table} VALUES (:version)", version=latest)

    def _version(self, tx: Connected) -> int:
        if tx.rows("SELECT to_regclass(:name)", name=f'"{self._schema}".{self._version_table}')[0][0] is None:
            return 0
        rows = tx.rows(f"SELECT version FROM {self._version_table}")
        version = int(rows[0][0]) if rows else 0
        refuse_newer(mask_secrets(self.uri), version, len(self._migrations), self._noun)
        return version

    # -- transactions --------------------------------------------------------------------------------------------------

    def _transact(self, work: Callable[[Connected], T], *, alone: bool = False) -> T:
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
                return StoreUnavailable(f"The {self._noun} {mask_secrets(self.uri)} {advice} ({text})")
        return StoreUnavailable(f"The {self._noun} {mask_secrets(self.uri)} cannot be used ({text})")


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
     "has no such database, or no such user. Create it, or use another one"),
    (((), ("statement pooling mode",)),
     "is behind a pooler in statement mode, which has no transactions. Set pool_mode=transaction for this database"),
    (((), ("unsupported startup parameter",)),
     "is behind a pooler that refuses an option of the URI. Remove it there, or add it to ignore_startup_parameters"),
    (((), _POOL_EXHAUSTED),
     "is behind a pooler that had no free connection in time. Increase its default_pool_size, or start fewer workers"),
    (((), ("Connection refused", "could not translate host", "Name or service", "timeout expired", "No such file",
           "Network is unreachable", "No route to host", "resolve host", "cannot connect to server")),
     "cannot be reached. Check that the server is running, and the host and port"),
    ((errors.DiskFull, ("No space left",)), "is on a full disk. Nothing was changed"),
    ((errors.TooManyConnections, ("too many clients", "remaining connection slots")), "has no connection left"),
    ((errors.InsufficientPrivilege, ()), "does not permit this to this user. Grant the user CREATE on the database"),
    ((errors.ReadOnlySqlTransaction, ()), "is read-only (a standby?). Use the address of the primary server"),
    (((), ("server closed the connection", "terminating connection", "the connection is closed", "starting up",
           "shutting down", "recovery mode", "server conn crashed", "Connection reset")),
     "closed the connection. The server was stopped or restarted"),
)  # fmt: skip
