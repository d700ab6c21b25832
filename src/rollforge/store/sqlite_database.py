"""A database in one SQLite file: opening it, its clock, its transactions and its errors.

Task stores and ledgers may use the same file: each has its own tables, version and clock.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, TypeVar
from urllib.parse import quote, unquote

from rollforge.confidential import private_file
from rollforge.errors import ConfigError, RollforgeError, StoreGone, StoreUnavailable
from rollforge.machine import boot_id, uptime
from rollforge.paths import read_path
from rollforge.store.base import Clock, not_unicode, refuse_newer
from rollforge.store.sql_statements import Row, statements

__all__ = ["LEDGER_TABLES", "Connected", "SQLiteDatabase", "absolute_uri", "file_identity", "missing_file", "parse_uri"]

T = TypeVar("T")

LEDGER_TABLES = ("ledger_version", "ledger_clock", "ledger_services", "ledger_entries", "ledger_scores")
"""The tables of a ledger, which may be in the file of a task store."""
_BUSY_SECONDS = 60.0
_LEVELS = ("FULL", "NORMAL", "OFF", "EXTRA")


def parse_uri(uri: str) -> tuple[Path, str]:
    """Return the file of a ``sqlite:///`` URI and its ``synchronous`` level.

    The file name is used literally, including spaces and percent signs, as in SQLAlchemy and MLflow.

    Raises
    ------
    ConfigError
        If the URI names no file, or has an unknown option.

    Examples
    --------
    >>> parse_uri("sqlite:///my tasks.db?synchronous=NORMAL")
    (PosixPath('my tasks.db'), 'NORMAL')
    """
    text, _, options = uri.removeprefix("sqlite://").partition("?")
    if not text.startswith("/") or not Path(text[1:]).name:
        raise ConfigError(
            f"{uri!r} does not name a file. Write sqlite:///relative.db or sqlite:////absolute.db.", path="store"
        )
    level = "FULL"
    for option in filter(None, options.split("&")):
        name, _, value = option.partition("=")
        if name != "synchronous":
            raise ConfigError(
                f"{uri!r}: there is no option {name!r}, only synchronous. The name of the file must not contain "
                "a question mark.",
                path="store",
            )
        level = unquote(value).upper()
    if level not in _LEVELS:
        raise ConfigError(f"synchronous must be one of {', '.join(_LEVELS)}, found {level!r}.", path="store")
    return read_path(text[1:], "store"), level


def missing_file(uri: str) -> Path | None:
    """Return the absolute path of the SQLite file that a URI names if it does not exist; None if it does, or for other URIs.

    Opening such a file would create it, so that a misspelt name would give an empty store.

    Examples
    --------
    >>> missing_file("sqlite:////nowhere/tasks.db"), missing_file("memory://x")
    (PosixPath('/nowhere/tasks.db'), None)
    """
    if not uri.startswith("sqlite:"):
        return None
    path = parse_uri(uri)[0].absolute()
    return None if path.exists() else path


def absolute_uri(uri: str) -> str:
    """Return a URI that names the same file from every working folder; those of other databases are unchanged.

    Examples
    --------
    >>> absolute_uri("sqlite:////data/tasks.db?synchronous=NORMAL"), absolute_uri("memory://x")
    ('sqlite:////data/tasks.db?synchronous=NORMAL', 'memory://x')
    """
    if not uri.startswith("sqlite:///"):
        return uri
    _, mark, options = uri.partition("?")
    return f"sqlite:///{parse_uri(uri)[0].absolute()}{mark}{options}"


_any_text: object = functools.partial(str, encoding="utf-8", errors="backslashreplace")
"""Decodes text columns, even if they are damaged: one invalid byte must not make the other tasks unreadable."""


def _close(connection: sqlite3.Connection, pid: int) -> None:
    """Close a connection, unless it belongs to the parent process, whose locks would be released."""
    if pid == os.getpid():
        with contextlib.suppress(sqlite3.Error):
            connection.close()


class Connected:
    """The connection of one thread of one process, with the interface of a transaction."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, place: str) -> None:
        self.connection = connection
        self.place = place
        """Resolved path of the database file, next to which SQLite keeps its other files."""
        self.companions: dict[str, tuple[int, int]] = {}
        self.pid = os.getpid()
        self._clock = clock
        # Stores may be dropped, and threads may end, without close(). __del__ could run after that of the connection.
        weakref.finalize(self, _close, connection, self.pid)

    def rows(self, sql: str, **values: object) -> list[Row]:
        return self.connection.execute(sql, {**values, "now": self._clock()}).fetchall()

    def run(self, sql: str, **values: object) -> int:
        return self.connection.execute(sql, {**values, "now": self._clock()}).rowcount


class SQLiteDatabase(abc.ABC):
    """One file in WAL mode, for the processes of one machine.

    Parameters
    ----------
    uri : str
        ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?synchronous=LEVEL``.
    clock : callable, optional
        Returns seconds since the epoch.
    read_only : bool
        Whether the file must exist and is never changed.

    Raises
    ------
    StoreUnavailable
        If the file cannot be opened: no such folder, read-only, corrupted, or written by a newer version.
    """

    _noun: ClassVar[str]
    """What the database is, for messages."""
    _option: ClassVar[str]
    """The option that selects another file, for messages."""
    _clock_table: ClassVar[str]
    _migrations: ClassVar[Sequence[str]]
    """The scripts that migrate the tables from each version to the next."""

    _functions: ClassVar[Mapping[str, Callable[..., int]]] = {}
    """SQL functions of two arguments."""

    @abc.abstractmethod
    def _version(self, tx: Connected) -> int:
        """Return the version of the tables, 0 if there are none; refuse the database of another program."""

    @abc.abstractmethod
    def _set_version(self, tx: Connected) -> None:
        """Write the latest version."""

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self.uri = uri
        path, self._synchronous = parse_uri(uri)
        self.path = path.absolute()
        self._read_only = read_only
        self._given_clock = clock
        self._offset: tuple[str, float] | None = None
        self._file: tuple[int, int] | None = None
        self._filled = False
        self._local = threading.local()
        if read_only:
            if not self.path.exists():
                raise StoreUnavailable(
                    f"There is no {self._noun} at {self.path}. Give another one with {self._option}."
                )
            self._retry(self._check_tables)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreUnavailable(
                f"The folder of the {self._noun} {self.path} cannot be created: {exc.strerror}."
            ) from exc
        self._retry(self._migrate)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        """Return the store's time: the uptime plus an offset that the first process since boot wrote to the file.

        All processes therefore agree on the time, regardless of their clocks, and adjusting the clock does not end leases.
        """
        if self._given_clock is not None:
            return self._given_clock()
        if self._offset is None or self._offset[0] != boot_id():
            return time.time()  # the offset has not been read yet
        return self._offset[1] + uptime()

    def _set_clock(self, tx: Connected) -> None:
        boot, offset = boot_id(), time.time() - uptime()
        found = tx.rows(f"SELECT start FROM {self._clock_table} WHERE boot = :boot", boot=boot)
        if not found:
            with _transaction(tx.connection):
                tx.run(
                    f"INSERT OR IGNORE INTO {self._clock_table} (boot, start) VALUES (:boot, :start)",
                    boot=boot,
                    start=offset,
                )
                tx.run(f"DELETE FROM {self._clock_table} WHERE boot <> :boot", boot=boot)
            found = tx.rows(f"SELECT start FROM {self._clock_table} WHERE boot = :boot", boot=boot)
        self._offset = (boot, float(found[0][0]))

    # -- opening -------------------------------------------------------------------------------------------------------

    def _migrate(self, tx: Connected) -> None:
        self._update_schema(tx)
        if self._given_clock is None:
            self._set_clock(tx)

    def _check_tables(self, tx: Connected) -> None:
        """Refuse a file without tables of this version or an earlier one, and read its clock."""
        version = self._version(tx)
        refuse_newer(str(self.path), version, len(self._migrations), self._noun)
        if not version:
            raise StoreUnavailable(f"There is no {self._noun} in {self.path}. Give another file with {self._option}.")
        boot = boot_id()
        found = tx.rows(f"SELECT start FROM {self._clock_table} WHERE boot = :boot", boot=boot)
        self._offset = (boot, float(found[0][0])) if found else None

    def _update_schema(self, tx: Connected) -> None:
        latest = len(self._migrations)
        if self._version(tx) == latest:
            return
        with _transaction(tx.connection):  # the version may change until the transaction begins
            version = self._version(tx)
            refuse_newer(str(self.path), version, latest, self._noun)
            for script in self._migrations[version:]:
                for statement in statements(script):
                    tx.run(statement)
            self._set_version(tx)

    def _tables(self, tx: Connected) -> list[str]:
        return [str(name) for (name,) in tx.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def _refuse_other_program(self) -> NoReturn:
        raise StoreUnavailable(
            f"{self.path} is the database of another program. Give another file with {self._option}."
        )

    def _opened(self) -> Connected:
        """Return the connection of this thread and process; neither must share SQLite connections."""
        opened: Connected | None = getattr(self._local, "opened", None)
        if opened is None or opened.pid != os.getpid():
            if self._file is not None and file_identity(self.path)[0] is None:
                self._refuse(self.path, "deleted")  # opening it would create an empty file
            if not self._read_only:
                with contextlib.suppress(OSError):  # SQLite reports the error below
                    # Definitions and logs may contain secrets. SQLite's other files get the mode of this one.
                    private_file(Path(os.path.realpath(self.path)))
            # After a fork, the parent's connection is not closed, as that would release the parent's locks.
            self._kept = opened
            opened = self._connect()
            self._local.opened = opened
        else:
            self._check_same_file(opened)
        return opened

    def _connect(self) -> Connected:
        # Only this thread uses it, but another thread may drop the store.
        file = f"file:{quote(os.fsencode(self.path))}?mode=ro" if self._read_only else self.path
        connection = sqlite3.connect(
            file, timeout=5.0, isolation_level=None, check_same_thread=False, uri=self._read_only
        )
        try:
            connection.text_factory = _any_text
            for name, function in self._functions.items():
                connection.create_function(name, 2, function, deterministic=True)
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Read once: until then, another process that closes the file may delete the write-ahead log.
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            opened = Connected(connection, self._clock, os.path.realpath(self.path))
            self._check_same_file(opened)
        except BaseException:
            connection.close()
            raise
        return opened

    def _check_same_file(self, opened: Connected) -> None:
        """Raise an error if the file was deleted, emptied or replaced, as writes to the open file would be lost."""
        file, size = file_identity(self.path)
        if self._file is None:
            self._file = file
        self._filled = self._filled or size > 0
        if file is None or file != self._file or (self._filled and not size):
            self._refuse(self.path, "deleted" if file is None else "emptied" if file == self._file else "replaced")
        for ending in (
            "-wal",
            "-shm",
        ):  # SQLite itself deletes them when the last connection is closed, and this one is open
            identity, _ = file_identity(f"{opened.place}{ending}")
            known = (
                opened.companions.setdefault(ending, identity)
                if identity is not None
                else opened.companions.get(ending)
            )
            if known is not None and identity != known:
                self._refuse(f"{opened.place}{ending}", "deleted" if identity is None else "replaced")

    def _refuse(self, file: Path | str, what: str) -> None:
        raise StoreGone(
            f"The {self._noun} {self.path}: {file} was {what} while it was in use. The latest changes may be "
            "lost, and no more changes are written. Restore the file, or stop all processes that use the "
            "store and start them again."
        )

    def close(self) -> None:
        opened: Connected | None = getattr(self._local, "opened", None)
        if opened is not None and opened.pid == os.getpid():
            opened.connection.close()
        self._local.opened = None

    def _retry(self, work: Callable[[Connected], T]) -> T:
        """Do `work`, retry while the file is busy, and translate other errors."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return work(self._opened())
            except sqlite3.DatabaseError as exc:
                code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
                if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < deadline:
                    # Without jitter, one of four saturating workers gets nearly all tasks.
                    time.sleep(random.uniform(0.001, 0.02))
                    continue
                if code == sqlite3.SQLITE_ERROR and any(mark in str(exc) for mark in ("too large", "too many")):
                    # Retrying would not help.
                    raise ConfigError(
                        f"The query has too many parts for SQLite ({exc}). Use $in for long lists."
                    ) from exc
                raise self._unavailable(exc, code) from exc
            except RollforgeError:
                raise
            except UnicodeEncodeError as exc:
                raise not_unicode(exc) from exc
            except (OverflowError, TypeError, ValueError, IndexError) as exc:
                raise StoreUnavailable(
                    f"The {self._noun} {self.path} contains data that Rollforge did not write ({type(exc).__name__}: "
                    f"{exc}). Restore a copy, or choose another one with {self._option}."
                ) from exc

    def _unavailable(self, exc: sqlite3.DatabaseError, code: int) -> StoreUnavailable:
        reason = {
            sqlite3.SQLITE_BUSY: f"was locked by another process for {_BUSY_SECONDS:.0f} s",
            sqlite3.SQLITE_READONLY: "is read-only. Make the file and its folder writable, or choose another one with "
            f"{self._option}",
            sqlite3.SQLITE_CANTOPEN: "cannot be opened. Check that its folder exists and is writable",
            sqlite3.SQLITE_FULL: "is on a full disk. Nothing was changed",
            sqlite3.SQLITE_NOTADB: f"is not a {self._noun}, or is corrupted",
            sqlite3.SQLITE_CORRUPT: f"is corrupted. Restore a copy, or choose another one with {self._option}",
            sqlite3.SQLITE_IOERR: "cannot be read or written. Check that the disk is available and not full",
        }.get(code, "cannot be used")
        return StoreUnavailable(f"The {self._noun} {self.path} {reason} ({exc}).")

    # -- transactions --------------------------------------------------------------------------------------------------

    def _changing(self, work: Callable[[Connected], T]) -> T:
        """Do `work` in the current transaction, or in a new one if there is none."""

        def transaction(tx: Connected) -> T:
            if tx.connection.in_transaction:
                return work(tx)
            with _transaction(tx.connection):
                done = work(tx)
            self._check_same_file(tx)  # a commit to a deleted file is lost
            return done

        return self._retry(transaction)


def file_identity(path: Path | str) -> tuple[tuple[int, int] | None, int]:
    """Return the device and inode of the file at a path (None if there is none), and its size."""
    try:
        found = os.stat(path)
    except OSError:
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back already if the disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
