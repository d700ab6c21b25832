"""Damaged task stores, and stores that others write to: the file itself, and every column of every row."""

from __future__ import annotations

import atexit
import copy
import functools
import importlib.util
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import bson
import pymongo
from fuzzing import EXAMPLES, WORDS, Target, as_json, attempt, fuzzed, json_values, text_of
from hypothesis import strategies as st

from rollforge.store.manager import TaskManager
from rollforge.store.mongo import MongoStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.testing.mongo import MongoServer
from rollforge.testing.postgres import PostgresServer, postgres_binaries

_folder = tempfile.TemporaryDirectory(prefix="fuzz-stores-")
DEFINITION = {"model": {"class": "Ridge", "kwargs": {"a": (1, 2.5)}}, "segments": {"test": ("2020-01-01", None)}}


def fill(store: Any) -> None:
    """Store tasks in every state."""
    manager = TaskManager("pool", store=store)
    made = manager.create_task([{**DEFINITION, "n": n} for n in range(6)])
    manager.create_task([{**DEFINITION, "n": 6}], depends_on=made[5:])
    for result in ({"ic": 0.5}, {1, 2}, b"bytes"):
        task = manager.fetch_task()
        manager.commit_task_res(task, result)
    [failing] = store.claim("pool", worker="host:1:a", lease=60.0)
    store.fail(failing, "Traceback: it failed\n")
    store.claim("pool", worker="host:2:b", lease=60.0)


def use(store: Any) -> None:
    """Call every operation of a store."""
    manager = TaskManager("pool", store=store)
    attempt(manager.list)
    attempt(manager.task_stat)
    attempt(lambda: str(list(manager.query({}, decode=False))))
    attempt(lambda: str(list(manager.query({"status": "done"}))))
    attempt(lambda: str(list(manager.query({"model.class": "Ridge", "priority": {"$gte": 0}}, decode=False))))
    tasks = attempt(lambda: list(store.query("pool", None, results=False))) or []
    for task in tasks:
        attempt(lambda task=task: str(manager.re_query(task.id)))
    for _ in range(3):
        claimed = attempt(lambda: store.claim("pool", worker="host:3:c", lease=60.0, limit=2)) or []
        for task in claimed:
            attempt(lambda task=task: store.renew(task, 60.0))
            attempt(lambda task=task: store.commit(task, {"ic": 1.0}))
    attempt(lambda: store.expire("pool"))
    attempt(lambda: store.submissions("pool"))
    attempt(lambda: store.workers("pool", 0.0))
    attempt(lambda: store.paused("pool"))
    attempt(lambda: store.release_worker("pool", "host:2:b", "It was killed."))
    attempt(lambda: manager.prioritize({"_id": tasks[0].id}, 3) if tasks else None)
    attempt(manager.retry)
    attempt(lambda: manager.reset_waiting({"status": "running"}))
    attempt(manager.pause)
    attempt(manager.resume)
    attempt(lambda: store.put("other", tasks))
    attempt(lambda: manager.cancel({"status": "waiting"}))
    attempt(lambda: manager.remove({"status": "done"}))


# -- SQLite ------------------------------------------------------------------------------------------------------------


@functools.cache
def database() -> bytes:
    """A store in one file, with tasks in every state."""
    file = Path(_folder.name) / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}?synchronous=OFF")
    fill(store)
    store.close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    return file.read_bytes()


@functools.cache
def columns() -> list[tuple[str, str]]:
    """Return every column of every table of the store."""
    (Path(_folder.name) / "schema.db").write_bytes(database())
    connection = sqlite3.connect(Path(_folder.name) / "schema.db")
    tables = [
        r[0]
        for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    ]
    found = [(t, r[1]) for t in tables for r in connection.execute(f"PRAGMA table_info({t})")]
    connection.close()
    return sorted(found)


def _use_file(file: Path) -> None:
    store = SQLiteStore(f"sqlite:///{file}?synchronous=OFF")
    try:
        use(store)
    finally:
        store.close()


def _file(data: bytes, folder: Path) -> None:
    (folder / "tasks.db").write_bytes(data)
    _use_file(folder / "tasks.db")


def _row(data: bytes, folder: Path) -> None:
    """Use a store after replacing one value of one row: two bytes select it, the rest is the value."""
    file = folder / "tasks.db"
    file.write_bytes(database())
    table, column = columns()[(data[0] if data else 0) % len(columns())]
    kind, raw = (data[1] if len(data) > 1 else 0) % 6, data[2:]
    value: Any = [raw, text_of(raw).encode("utf-8", "replace").decode(), None, _integer(raw), _float(raw), raw][kind]
    connection = sqlite3.connect(file)
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        placed = "CAST(? AS TEXT)" if kind == 5 else "?"  # invalid bytes, stored as text
        connection.execute(
            f"UPDATE OR IGNORE {table} SET {column} = {placed} WHERE rowid_of_it = (SELECT max(rowid_of_it) FROM {table})".replace(
                "rowid_of_it", _key(connection, table)
            ),
            (value,),
        )
        connection.commit()
    except (sqlite3.Error, OverflowError):
        return  # a value that the file does not accept
    finally:
        connection.close()
    _use_file(file)


def _key(connection: sqlite3.Connection, table: str) -> str:
    keys = [r[1] for r in connection.execute(f"PRAGMA table_info({table})") if r[5]]
    return keys[-1]


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little", signed=True)


def _float(raw: bytes) -> float:
    try:
        return float(raw[:40])
    except ValueError:
        return float("inf") if len(raw) % 2 else -1e308


VALUES = [b"", b"nobody", b"failed", b"running", b"-1", b"\xff\xfe", b"\x80\x05N.", b"{}", b"[]", b"null", b'{"$ref":"os:system"}', b'{"n":{"$ts":"x"}}', b"\xff" * 8,
          b"\xff" * 7 + b"\x7f", b"1e400", b"nan", b"x" * 5000, b"cos\nsystem\n(S'echo'\ntR."]  # fmt: skip
ROWS = st.tuples(
    st.integers(0, 255),
    st.integers(0, 5),
    st.one_of(
        st.sampled_from(VALUES), json_values.map(as_json), st.integers(0, len(WORDS) - 1).map(lambda i: WORDS[i])
    ),
).map(lambda p: bytes(p[:2]) + p[2])


@fuzzed(
    Target("sqlite-file", _file, [database()], [b"waiting", b"CREATE TABLE", b"SQLite format 3"]),
    Target("sqlite-row", _row, [bytes([len(columns()) - 1, 1])], VALUES, ROWS),
)
class TestStores:
    """Stores in a file."""


# -- MongoDB -----------------------------------------------------------------------------------------------------------


@functools.cache
def server() -> MongoServer:
    """A MongoDB emulator for the lifetime of this process."""
    started = MongoServer()
    started.start()
    atexit.register(started.__exit__)
    return started


@functools.cache
def documents() -> list[dict[str, Any]]:
    """Return the documents of a pool with tasks in every state."""
    store = MongoStore(f"{server().uri}/template")
    fill(store)
    found = list(store._database["pool"].find({}))
    store.close()
    return found


@functools.cache
def _database() -> Any:
    return pymongo.MongoClient(server().uri)["fuzzed"]


def _document(data: bytes, folder: Path) -> None:
    """Use a pool after replacing or removing one field of one document: two bytes select which and how."""
    fields = sorted(documents()[0])
    name = "model_name" if data[:1] == b"\xff" else fields[(data[0] if data else 0) % len(fields)]
    kind, raw = (data[1] if len(data) > 1 else 0) % 6, data[2:]
    text = raw.decode("utf-8", "replace")
    value: Any = [
        raw,
        text,
        None,
        _integer(raw),
        _float(raw),
        [text, {text.replace("\0", "").replace("$", "").replace(".", "") or "a": 1}],
    ][kind]
    pool = _database()["pool"]
    pool.delete_many({})
    made = copy.deepcopy(documents())
    at = len(raw) % len(made)
    made[at][name] = value
    if kind == 2:
        del made[at][name]
    try:
        pool.insert_many(made)
    except (pymongo.errors.PyMongoError, bson.errors.BSONError, OverflowError):
        return  # a value that the server does not accept
    store = MongoStore(f"{server().uri}/fuzzed")
    try:
        use(store)
    finally:
        store.close()


FIELDS = st.tuples(
    st.integers(0, 255), st.integers(0, 5), st.one_of(st.sampled_from(VALUES), json_values.map(as_json))
).map(lambda p: bytes(p[:2]) + p[2])

if importlib.util.find_spec("nx_27017") is not None:

    @fuzzed(Target("mongodb-document", _document, [b"\xff\x01name"], VALUES, FIELDS), examples=EXAMPLES // 2)
    class TestDocuments:
        """Documents of a MongoDB database."""


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@functools.cache
def postgres() -> Any:
    """A server with a store, for the lifetime of this process: its address, and a separate connection."""
    import psycopg

    from rollforge.store.postgres import PostgresStore

    started = PostgresServer()
    started.__enter__()
    atexit.register(started.__exit__)
    store = PostgresStore(started.uri)
    fill(store)
    store.close()
    connection = psycopg.connect(started.uri, autocommit=True)
    connection.execute("SET search_path TO rollforge")
    connection.execute("SET session_replication_role TO replica")  # no triggers: the rows are restored unchanged
    tables = [
        row[0]
        for row in connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'rollforge' AND table_type = 'BASE TABLE'"
        )
    ]
    connection.execute("CREATE SCHEMA template")
    for table in tables:
        connection.execute(f"CREATE TABLE template.{table} AS TABLE rollforge.{table}")
    return started.uri, connection, sorted(tables)


@functools.cache
def postgres_columns() -> list[tuple[str, str, str]]:
    """Return every column of every table, with its type."""
    _, connection, tables = postgres()
    found = connection.execute(
        "SELECT table_name, column_name, udt_name FROM information_schema.columns WHERE table_schema = 'rollforge' "
        "AND is_generated = 'NEVER'"
    )
    return sorted(row for row in found if row[0] in tables)


def _postgres_row(data: bytes, folder: Path) -> None:
    """Use a store after replacing one column of a table, in one row or in all: two bytes select it, the rest is the
    value.
    """
    import psycopg

    from rollforge.store.postgres import PostgresStore

    uri, connection, tables = postgres()
    for table in tables:
        connection.execute(f"TRUNCATE rollforge.{table}")
        connection.execute(f"INSERT INTO rollforge.{table} OVERRIDING SYSTEM VALUE SELECT * FROM template.{table}")
    table, column, kind = postgres_columns()[(data[0] if data else 0) % len(postgres_columns())]
    how, raw = data[1] if len(data) > 1 else 0, data[2:]
    text = raw.decode("utf-8", "replace")
    value: Any = raw if kind == "bytea" else _integer(raw) if kind.startswith("int") and how & 2 else text
    if how & 4:
        value = None
    where = f" WHERE ctid = (SELECT max(ctid) FROM rollforge.{table})" if how & 1 else ""
    try:
        connection.execute(f"UPDATE rollforge.{table} SET {column} = CAST(%s AS {kind}){where}", (value,))
    except (psycopg.Error, ValueError, OverflowError):
        return  # a value that the column does not accept
    store = PostgresStore(uri)
    try:
        use(store)
    finally:
        store.close()


if postgres_binaries() is not None and importlib.util.find_spec("psycopg") is not None:

    @fuzzed(
        Target(
            "postgres-row", _postgres_row, [b"\x00\x01x"], [*VALUES, b"NaN", b"Infinity", b"1e308", b"2147483647"], ROWS
        ),
        examples=EXAMPLES // 2,
    )
    class TestRowsOfPostgres:
        """Rows of a PostgreSQL database."""
