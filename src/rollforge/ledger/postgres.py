"""A ledger in a PostgreSQL database: that of a task store, or another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rollforge.ledger.sql import SQLLedger
from rollforge.ledger.sql_views import SCORES, views
from rollforge.store.postgres_database import PostgresDatabase, names_in
from rollforge.store.sql_statements import Transaction

__all__ = ["PostgresLedger"]

T = TypeVar("T")

_TABLES = """
CREATE TABLE ledger_services (
    service TEXT PRIMARY KEY,
    holder  TEXT NOT NULL DEFAULT '',
    token   BIGINT NOT NULL DEFAULT 0,
    until   DOUBLE PRECISION NOT NULL DEFAULT 0,
    seconds DOUBLE PRECISION NOT NULL DEFAULT 0,
    last    BIGINT NOT NULL DEFAULT 0,
    made_at DOUBLE PRECISION NOT NULL DEFAULT 0
);
CREATE TABLE ledger_entries (
    service TEXT NOT NULL,
    number  BIGINT NOT NULL,
    kind    TEXT NOT NULL,
    body    TEXT NOT NULL,
    token   BIGINT NOT NULL,
    made_at DOUBLE PRECISION NOT NULL,
    author  TEXT NOT NULL,
    PRIMARY KEY (service, number)
)"""
_MIGRATIONS = (
    _TABLES,
    "",  # version 2 had more views than version 1
    SCORES,
    "",  # version 4 had a faster view of days
    ";\n".join(views(sqlite=False)),  # version 5 shows which model a challenger replaces
)
_UNCHANGING = (
    "CREATE OR REPLACE FUNCTION $schema.ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN RAISE EXCEPTION 'entries of a ledger are never changed or deleted'; END$$",
    "DROP TRIGGER IF EXISTS ledger_entries_unchanging ON $schema.ledger_entries",
    "CREATE TRIGGER ledger_entries_unchanging BEFORE UPDATE OR DELETE OR TRUNCATE ON $schema.ledger_entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION $schema.ledger_refuse()",
)


class PostgresLedger(PostgresDatabase, SQLLedger):
    """Entries in a PostgreSQL database (version 12 or newer). Leases are timed by the server's clock.

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

    _noun = "ledger"
    _version_table = "ledger_version"
    _migrations = _MIGRATIONS
    _names = names_in(_MIGRATIONS, "ledger_version")

    def _triggers(self) -> Iterable[str]:
        return _UNCHANGING

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._transact(work, alone=True)

    def _write(self, work: Callable[[Transaction], T]) -> T:
        return self._transact(work)
