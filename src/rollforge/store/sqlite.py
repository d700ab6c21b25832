"""A task store in one SQLite file: the default. Safe for many processes and threads; commits are durable."""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

from rollforge.store.base import Clock, refuse_older
from rollforge.store.query import Compare, Node, compare, paths_in
from rollforge.store.search import PathTree, condition, first_paths, terms_of
from rollforge.store.sql import SQLStore
from rollforge.store.sql_statements import COMPARISONS, NUMBERS, Condition, Transaction, Values
from rollforge.store.sqlite_database import LEDGER_TABLES, Connected, SQLiteDatabase
from rollforge.store.sqlite_schema import MIGRATIONS, SCHEMA_VERSION
from rollforge.task import TaskRecord

__all__ = ["SQLiteStore"]

T = TypeVar("T")


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


class SQLiteStore(SQLiteDatabase, SQLStore):
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

    _noun = "task store"
    _option = "--store"
    _clock_table = "clock"
    _migrations = MIGRATIONS
    _functions: ClassVar[Mapping[str, Callable[..., int]]] = {"rf_regex": _regex, "rf_number": _number}

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self._searched: set[tuple[str, tuple[str, ...]]] = set()
        super().__init__(uri, clock=clock, read_only=read_only)

    # -- tables --------------------------------------------------------------------------------------------------------

    def _version(self, tx: Connected) -> int:
        version: int = tx.rows("PRAGMA user_version")[0][0]
        if version == 0 and set(self._tables(tx)) - set(LEDGER_TABLES):
            self._refuse_other_program()
        return version

    def _set_version(self, tx: Connected) -> None:
        tx.run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_tables(self, tx: Connected) -> None:
        super()._check_tables(tx)
        refuse_older(str(self.path), self._version(tx), SCHEMA_VERSION)

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

    def _list(self, values: Iterable[str] | Iterable[int]) -> str:
        return json.dumps(list(values))

    def _elements(self, name: str) -> str:
        return f"json_each(:{name})"

    def _redefined(self, tx: Transaction, row: Values) -> None:
        (seq,) = tx.rows("SELECT seq FROM tasks WHERE pool = :pool AND id = :id", pool=row["pool"], id=row["id"])[0]
        tx.run("DELETE FROM search_values WHERE seq = :seq", seq=seq)
        self._keep_terms_of(cast(Connected, tx), [row], first=False)

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

        def begin(tx: Connected) -> tuple[int, int, int]:
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

            def keep(tx: Connected, terms: Any = terms, built: int = built) -> None:
                there = {(seq, i) for seq, i in tx.rows(
                    "SELECT seq, id FROM tasks WHERE seq IN (SELECT value FROM json_each(:seqs))",
                    seqs=json.dumps([seq for seq, _, _ in terms]),
                )}  # fmt: skip
                self._keep_terms(tx, ((seq, found) for seq, task_id, found in terms if (seq, task_id) in there))
                tx.run(
                    "UPDATE search_paths SET built = MAX(built, :built) WHERE id = :number", built=built, number=number
                )

            self._changing(keep)

    def _keep_terms(self, tx: Connected, found: Iterable[tuple[int, Iterable[tuple[int, str, object]]]]) -> None:
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

    def _keep_terms_of(self, tx: Connected, rows: Sequence[Values], *, first: bool) -> None:
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
            self._keep_terms_of(cast(Connected, tx), new, first=first)
        return made

    def renew_all(self, renewals: Sequence[tuple[TaskRecord, str | None]], lease: float) -> list[TaskRecord]:
        def work(tx: Transaction) -> list[TaskRecord]:
            return [task for task, log in renewals if not self._renew(tx, task, lease, log)]

        return self._write(work, "") if renewals else []

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
