"""A task store in one SQLite file: the default. Safe for many processes and threads; commits are durable."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from rollforge.confidential import private_file
from rollforge.errors import ConfigError, RollforgeError, StoreGone, StoreUnavailable
from rollforge.machine import boot_id, uptime
from rollforge.paths import read_path
from rollforge.store.base import Clock, not_unicode, refuse_newer
from rollforge.store.query import Compare, Node, compare, paths_in
from rollforge.store.search import PathTree, condition, first_paths, terms_of
from rollforge.store.sql import SQLStore
from rollforge.store.sql_statements import COMPARISONS, NUMBERS, Condition, Row, Transaction, Values, statements
from rollforge.store.sqlite_schema import MIGRATIONS, SCHEMA_VERSION

__all__ = ["SQLiteStore"]

T = TypeVar("T")

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


_any_text: object = functools.partial(str, encoding="utf-8", errors="backslashreplace")
"""Decodes text columns, even if they are damaged: one invalid byte must not make the other tasks unreadable."""


def _close(connection: sqlite3.Connection, pid: int) -> None:
    """Close a connection, unless it belongs to the parent process, whose locks would be released."""
    if pid == os.getpid():
        with contextlib.suppress(sqlite3.Error):
            connection.close()


class _Opened:
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

    def rows(self, sql: str, **values: Any) -> list[Row]:
        return self.connection.execute(sql, {**values, "now": self._clock()}).fetchall()

    def run(self, sql: str, **values: object) -> int:
        return self.connection.execute(sql, {**values, "now": self._clock()}).rowcount


class SQLiteStore(SQLStore):
    """Tasks in one file in WAL mode, for the processes of one machine. Do not use it on a network file system.

    Parameters
    ----------
    uri : str
        ``sqlite:///relative.db`` or ``sqlite:////absolute.db``. With ``?synchronous=NORMAL``, commits survive the death
        of a process but not a power failure, and are faster on slow disks.
    clock : callable, optional
        Returns seconds since the epoch.

    Raises
    ------
    StoreUnavailable
        If the file cannot be opened: no such folder, read-only, corrupted, or written by a newer version.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = SQLiteStore(f"sqlite:///{folder.name}/tasks.db")
    >>> [task.new for task in store.create("p", [{"x": 1}, {"x": 1}])]
    [True, False]
    >>> store.close()
    >>> folder.cleanup()
    """

    _position = "instr"
    _concatenate = "group_concat"

    def __init__(self, uri: str, *, clock: Clock | None = None) -> None:
        self.uri = uri
        path, self._synchronous = parse_uri(uri)
        self.path = path.absolute()
        self._given_clock = clock
        self._offset: tuple[str, float] | None = None
        self._file: tuple[int, int] | None = None
        self._filled = False
        self._searched: set[tuple[str, tuple[str, ...]]] = set()
        self._local = threading.local()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreUnavailable(
                f"The folder of the task store {self.path} cannot be created: {exc.strerror}."
            ) from exc
        self._retry(self._migrate)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        """Return the store's time: the uptime plus an offset that the first process since boot wrote to the file.

        So all processes agree on the time, whatever their clocks say, and adjusting the clock does not end leases.
        """
        if self._given_clock is not None:
            return self._given_clock()
        if self._offset is None or self._offset[0] != boot_id():
            return time.time()  # the offset has not been read yet
        return self._offset[1] + uptime()

    def _set_clock(self, tx: _Opened) -> None:
        boot, offset = boot_id(), time.time() - uptime()
        found = tx.rows("SELECT start FROM clock WHERE boot = :boot", boot=boot)
        if not found:
            with _transaction(tx.connection):
                tx.run("INSERT OR IGNORE INTO clock (boot, start) VALUES (:boot, :start)", boot=boot, start=offset)
                tx.run("DELETE FROM clock WHERE boot <> :boot", boot=boot)
            found = tx.rows("SELECT start FROM clock WHERE boot = :boot", boot=boot)
        self._offset = (boot, float(found[0][0]))

    # -- opening -------------------------------------------------------------------------------------------------------

    def _migrate(self, tx: _Opened) -> None:
        self._update_schema(tx)
        if self._given_clock is None:
            self._set_clock(tx)

    def _update_schema(self, tx: _Opened) -> None:
        if tx.rows("PRAGMA user_version")[0][0] == SCHEMA_VERSION:
            return
        with _transaction(tx.connection):  # the version may change until the transaction begins
            for script in MIGRATIONS[self._version(tx) :]:
                for statement in statements(script):
                    tx.run(statement)
            tx.run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _version(self, tx: _Opened) -> int:
        version: int = tx.rows("PRAGMA user_version")[0][0]
        refuse_newer(str(self.path), version, SCHEMA_VERSION)
        if version == 0 and tx.rows("SELECT name FROM sqlite_master LIMIT 1"):
            raise StoreUnavailable(f"{self.path} is the database of another program. Name another file by --store.")
        return version

    def _opened(self) -> _Opened:
        """Return the connection of this thread and process; neither must share SQLite connections."""
        opened: _Opened | None = getattr(self._local, "opened", None)
        if opened is None or opened.pid != os.getpid():
            if self._file is not None and _identity(self.path)[0] is None:
                self._refuse(self.path, "deleted")  # opening it would create an empty file
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

    def _connect(self) -> _Opened:
        # Only this thread uses it, but another thread may drop the store.
        connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            connection.text_factory = _any_text
            connection.create_function("rf_regex", 2, _regex, deterministic=True)
            connection.create_function("rf_number", 2, _number, deterministic=True)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Read once: until then, another process that closes the file may delete the write-ahead log.
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            opened = _Opened(connection, self._clock, os.path.realpath(self.path))
            self._check_same_file(opened)
        except BaseException:
            connection.close()
            raise
        return opened

    def _check_same_file(self, opened: _Opened) -> None:
        """Raise an error if the file was deleted, emptied or replaced, as writes to the open file would be lost."""
        file, size = _identity(self.path)
        if self._file is None:
            self._file = file
        self._filled = self._filled or size > 0
        if file is None or file != self._file or (self._filled and not size):
            self._refuse(self.path, "deleted" if file is None else "emptied" if file == self._file else "replaced")
        for ending in (
            "-wal",
            "-shm",
        ):  # SQLite itself deletes them when the last connection is closed, and this one is open
            identity, _ = _identity(f"{opened.place}{ending}")
            known = (
                opened.companions.setdefault(ending, identity)
                if identity is not None
                else opened.companions.get(ending)
            )
            if known is not None and identity != known:
                self._refuse(f"{opened.place}{ending}", "deleted" if identity is None else "replaced")

    def _refuse(self, file: Path | str, what: str) -> None:
        raise StoreGone(
            f"The task store {self.path}: {file} was {what} while it was in use. The latest changes may be "
            "lost, and no more changes are written. Restore the file, or stop all processes that use the "
            "store and start them again."
        )

    def close(self) -> None:
        opened: _Opened | None = getattr(self._local, "opened", None)
        if opened is not None and opened.pid == os.getpid():
            opened.connection.close()
        self._local.opened = None

    def _retry(self, work: Callable[[_Opened], T]) -> T:
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
                    f"The task store {self.path} contains data that Rollforge did not write ({type(exc).__name__}: "
                    f"{exc}). Restore a copy, or choose another one with --store."
                ) from exc

    def _unavailable(self, exc: sqlite3.DatabaseError, code: int) -> StoreUnavailable:
        reason = {
            sqlite3.SQLITE_BUSY: f"was locked by another process for {_BUSY_SECONDS:.0f} s",
            sqlite3.SQLITE_READONLY: "is read-only. Make the file and its folder writable, or choose another one with --store",
            sqlite3.SQLITE_CANTOPEN: "cannot be opened. Check that its folder exists and is writable",
            sqlite3.SQLITE_FULL: "is on a full disk. Nothing was changed",
            sqlite3.SQLITE_NOTADB: "is not a task store, or is corrupted",
            sqlite3.SQLITE_CORRUPT: "is corrupted. Restore a copy, or choose another one with --store",
            sqlite3.SQLITE_IOERR: "cannot be read or written. Check that the disk is available and not full",
        }.get(code, "cannot be used")
        return StoreUnavailable(f"The task store {self.path} {reason} ({exc}).")

    # -- methods that SQLStore requires --------------------------------------------------------------------------------

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._retry(work)

    def _write(self, work: Callable[[Transaction], T], pool: str) -> T:
        return self._changing(work)

    def _next_token(self, tx: Transaction) -> int:
        # One counter per store, so that old claims on a task that was removed and created again are stale.
        rows = tx.rows("UPDATE counters SET value = value + 1 WHERE name = 'token' RETURNING value")
        return int(rows[0][0])

    def _among(self, column: str, name: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(:{name}))"

    def _list(self, values: Iterable[str]) -> str:
        return json.dumps(list(values))

    def _elements(self, name: str) -> str:
        return f"json_each(:{name})"

    def _redefined(self, tx: Transaction, row: Values) -> None:
        (seq,) = tx.rows("SELECT seq FROM tasks WHERE pool = :pool AND id = :id", pool=row["pool"], id=row["id"])[0]
        tx.run("DELETE FROM search_values WHERE seq = :seq", seq=seq)
        self._keep_terms_of(cast(_Opened, tx), [row], first=False)

    # -- queries -------------------------------------------------------------------------------------------------------

    def _compare(self, node: Compare, name: str, *, in_order: bool) -> Condition:
        if node.in_definition:
            return condition(node, name, in_order=in_order)
        return _in_column(node, name)

    def _prepare(self, pool: str, node: Node) -> None:
        """Create the indexes of all paths in a query that do not exist yet."""
        missing = [path for path in paths_in(node) if (pool, path) not in self._searched]
        if not missing:
            return
        built = "SELECT path FROM search_paths WHERE pool = :pool AND built >= upto"
        found = (_path_of(text) for (text,) in self._read(lambda tx: tx.rows(built, pool=pool)))
        self._searched.update((pool, path) for path in found if path is not None)
        for path in missing:
            if (pool, path) not in self._searched:
                self._search_through(pool, path)
                self._searched.add((pool, path))

    def _search_through(self, pool: str, path: tuple[str, ...]) -> None:
        """Create the index of a path in small transactions, so that other processes wait only for milliseconds."""
        text = json.dumps(path)

        def begin(tx: _Opened) -> tuple[int, int, int]:
            tx.run(
                "INSERT OR IGNORE INTO search_paths (pool, path, built, upto) "
                "VALUES (:pool, :path, 0, (SELECT COALESCE(MAX(seq), 0) FROM tasks))",
                pool=pool, path=text,
            )  # fmt: skip
            found = "SELECT id, built, upto FROM search_paths WHERE pool = :pool AND path = :path"
            number, built, upto = tx.rows(found, pool=pool, path=text)[0]
            if type(built) is int and type(upto) is int:
                return number, built, upto
            again = (
                "UPDATE search_paths SET built = 0, upto = (SELECT COALESCE(MAX(seq), 0) FROM tasks) WHERE id = :number"
            )
            tx.run(again, number=number)  # a damaged row
            return begin(tx)

        number, built, upto = self._changing(begin)
        tree = PathTree.of({number: path})
        some = (
            "SELECT seq, id, definition FROM tasks NOT INDEXED WHERE seq > :built AND seq <= :upto AND pool = :pool "
            "ORDER BY seq LIMIT 2000"
        )
        while built < upto:
            rows = self._retry(lambda tx, built=built: tx.rows(some, built=built, upto=upto, pool=pool))  # type: ignore[misc]
            built = rows[-1][0] if rows else upto
            terms = [(seq, task_id, terms_of(definition, tree)) for seq, task_id, definition in rows]

            def keep(tx: _Opened, terms: Any = terms, built: int = built) -> None:
                there = {(seq, i) for seq, i in tx.rows(
                    "SELECT seq, id FROM tasks WHERE seq IN (SELECT value FROM json_each(:seqs))",
                    seqs=json.dumps([seq for seq, _, _ in terms]),
                )}  # fmt: skip
                self._keep_terms(tx, ((seq, found) for seq, task_id, found in terms if (seq, task_id) in there))
                tx.run(
                    "UPDATE search_paths SET built = MAX(built, :built) WHERE id = :number", built=built, number=number
                )

            self._changing(keep)

    def _changing(self, work: Callable[[_Opened], T]) -> T:
        """Do `work` in the current transaction, or in a new one if there is none."""

        def transaction(tx: _Opened) -> T:
            if tx.connection.in_transaction:
                return work(tx)
            with _transaction(tx.connection):
                done = work(tx)
            self._check_same_file(tx)  # a commit to a deleted file is lost
            return done

        return self._retry(transaction)

    def _keep_terms(self, tx: _Opened, found: Iterable[tuple[int, Iterable[tuple[int, str, Any]]]]) -> None:
        """Store the terms of tasks."""
        numbers: dict[tuple[int, str, object], int] = {}
        rows: list[tuple[int, int]] = []
        for seq, terms in found:
            for term in terms:
                if term not in numbers:
                    ((numbers[term],),) = tx.rows(
                        "INSERT INTO search_terms (path, kind, value) VALUES (:path, :kind, :value) "
                        "ON CONFLICT (path, kind, value) DO UPDATE SET path = path RETURNING id",
                        path=term[0], kind=term[1], value=term[2],
                    )  # fmt: skip
                rows.append((seq, numbers[term]))
        tx.connection.executemany("INSERT OR IGNORE INTO search_values (seq, term) VALUES (?, ?)", rows)

    def _keep_terms_of(self, tx: _Opened, rows: Sequence[Values], *, first: bool) -> None:
        """Store the terms of new tasks; the first tasks of a pool determine the paths that are always indexed."""
        pool = rows[0]["pool"]
        if first:
            for path in first_paths([row["definition"] for row in rows]):
                tx.run(
                    "INSERT OR IGNORE INTO search_paths (pool, path, built, upto) VALUES (:pool, :path, 0, 0)",
                    pool=pool, path=json.dumps(path),
                )  # fmt: skip
        known = tx.rows("SELECT id, path FROM search_paths WHERE pool = :pool", pool=pool)
        if not known:
            return
        tree = PathTree.of({number: parts for number, text in known if (parts := _path_of(text)) is not None})
        texts = {row["id"]: row["definition"] for row in rows}
        numbers = tx.rows(
            "SELECT seq, id FROM tasks WHERE pool = :pool AND id IN (SELECT value FROM json_each(:ids))",
            pool=pool, ids=json.dumps(list(texts)),
        )  # fmt: skip
        self._keep_terms(tx, ((seq, terms_of(texts[task_id], tree)) for seq, task_id in numbers))

    def _insert(self, tx: Transaction, rows: Sequence[Values]) -> list[bool]:
        text = (
            "INSERT INTO tasks (pool, id, definition, priority, max_attempts, model_name, submission, creation, created_at) "
            "VALUES (:pool, :id, :definition, :priority, :max_attempts, :model_name, :submission, :creation, :now) "
            "ON CONFLICT (pool, id) DO NOTHING"
        )
        if not rows:
            return []
        first = not tx.rows("SELECT 1 FROM tasks WHERE pool = :pool LIMIT 1", pool=rows[0]["pool"])
        made = [tx.run(text, **row) == 1 for row in rows]
        new = [row for row, is_new in zip(rows, made, strict=True) if is_new]
        if new:
            self._keep_terms_of(cast(_Opened, tx), new, first=first)
        return made

    def wait_for_change(self, pool: str, timeout: float) -> None:
        # data_version changes with every commit of another connection; reading it takes microseconds.
        deadline, delay = time.monotonic() + timeout, 0.002
        version = self._data_version()
        if version != getattr(self._local, "seen", None):
            self._local.seen = version
            return
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(delay, left))
            delay = min(delay * 1.3, 0.05)
            version = self._data_version()
            if version != self._local.seen:
                self._local.seen = version
                return

    def _data_version(self) -> tuple[int, int]:
        # The number is only meaningful within one connection.
        return self._retry(lambda tx: (id(tx), int(tx.rows("PRAGMA data_version")[0][0])))


def _path_of(text: Any) -> tuple[str, ...] | None:
    """Return the path in a row of the index; None if the row is damaged, so that no query uses it."""
    try:
        path = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return tuple(path) if isinstance(path, list) and all(isinstance(part, str) for part in path) else None


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _in_column(node: Compare, name: str) -> Condition:
    column, op, value = node.path[0], node.op, node.value
    if op == "$exists":
        return ("(1 = 1)" if value else "(1 = 0)"), {}
    if op == "$regex":
        return f"COALESCE(rf_regex(:{name}, {column}), 0)", {name: json.dumps(value)}
    if op == "$in":
        number = column in NUMBERS
        # One parameter for any number of values, except floats, of which JSON would lose digits.
        plain = [v for v in value if (_is_int64(v) if number else isinstance(v, str))]
        tests, values = [f"{column} IN (SELECT value FROM json_each(:{name}))"], {name: json.dumps(plain)}
        floats = {f"{name}_{i}": v for i, v in enumerate(value) if number and isinstance(v, float)}
        if floats:
            tests.append(f"{column} IN ({', '.join(f':{key}' for key in floats)})")
        if None in value:
            tests.append(f"{column} IS NULL")
        return f"({' OR '.join(tests)})", {**values, **floats}
    if value is None:
        return (f"{column} IS NULL" if op == "$eq" else "(1 = 0)"), {}
    number = column in NUMBERS
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) if number else isinstance(value, str)
    if not fits:
        return "(1 = 0)", {}
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # more than any column holds
        value = math.copysign(math.inf, value)
    return f"{column} {COMPARISONS[op]} :{name}", {name: value}


def _regex(pattern: str, text: object) -> int:
    """Implement the SQL function ``rf_regex``."""
    return int(isinstance(text, str) and _compiled(pattern).search(text) is not None)


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(json.loads(pattern))


def _number(spec: str, value: object) -> int:
    """Implement the SQL function ``rf_number``: exact comparison if an integer on either side exceeds 64 bits."""
    op, wanted = json.loads(spec)
    return int(compare({"value": int(value)}, ("value",), op, wanted) if isinstance(value, str)
               else compare({"value": value}, ("value",), op, wanted))  # fmt: skip


def _identity(path: Path | str) -> tuple[tuple[int, int] | None, int]:
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
