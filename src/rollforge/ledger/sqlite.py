"""A ledger in one SQLite file: that of a task store, or its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rollforge.ledger.sql import SQLLedger
from rollforge.ledger.sql_views import SCORES, views
from rollforge.store.sql_statements import Transaction
from rollforge.store.sqlite_database import LEDGER_TABLES, Connected, SQLiteDatabase

__all__ = ["SQLiteLedger"]

T = TypeVar("T")

_UNCHANGING = """CREATE TRIGGER ledger_entries_not_{0} BEFORE {0} ON ledger_entries BEGIN
    SELECT RAISE(ABORT, 'entries of a ledger are never changed or deleted');
END"""
_TABLES = """
CREATE TABLE ledger_version (version INTEGER NOT NULL);
CREATE TABLE ledger_clock (boot TEXT PRIMARY KEY, start REAL NOT NULL);
CREATE TABLE ledger_services (
    service TEXT PRIMARY KEY,
    holder  TEXT NOT NULL DEFAULT '',
    token   INTEGER NOT NULL DEFAULT 0,
    until   REAL NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    last    INTEGER NOT NULL DEFAULT 0,
    made_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE ledger_entries (
    service TEXT NOT NULL,
    number  INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    body    TEXT NOT NULL,
    token   INTEGER NOT NULL,
    made_at REAL NOT NULL,
    author  TEXT NOT NULL,
    PRIMARY KEY (service, number)
)"""
_MIGRATIONS = (
    ";\n".join([_TABLES, _UNCHANGING.format("UPDATE"), _UNCHANGING.format("DELETE")]),
    "",  # version 2 had more views than version 1
    SCORES,
    "",  # version 4 had a faster view of days
    ";\n".join(views(sqlite=True)),  # version 5 shows which model a challenger replaces
)


class SQLiteLedger(SQLiteDatabase, SQLLedger):
    """Entries in one file in WAL mode, for the processes of one machine. Do not use it on a network file system.

    Parameters
    ----------
    uri : str
        ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, the file of a task store or another one.
    clock : callable, optional
        Returns seconds since the epoch.
    read_only : bool
        Whether the file must exist and is never changed.

    Raises
    ------
    StoreUnavailable
        If the file cannot be opened: no such folder, read-only, corrupted, or written by a newer version.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> ledger = SQLiteLedger(f"sqlite:///{folder.name}/tasks.db")
    >>> ledger.acquire("us", holder="me", seconds=60).token
    1
    >>> ledger.close()
    >>> folder.cleanup()
    """

    _noun = "ledger"
    _option = "--ledger"
    _clock_table = "ledger_clock"
    _migrations = _MIGRATIONS

    def _version(self, tx: Connected) -> int:
        tables = self._tables(tx)
        if "ledger_version" in tables:
            return int(tx.rows("SELECT version FROM ledger_version")[0][0])
        if set(tables) - set(LEDGER_TABLES) and "tasks" not in tables:
            self._refuse_other_program()
        return 0

    def _set_version(self, tx: Connected) -> None:
        tx.run("DELETE FROM ledger_version")
        tx.run("INSERT INTO ledger_version VALUES (:version)", version=len(self._migrations))

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._retry(work)

    def _write(self, work: Callable[[Transaction], T]) -> T:
        return self._changing(work)
