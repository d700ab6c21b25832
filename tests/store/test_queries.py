"""Every store finds the same tasks as the evaluator in Python, for arbitrary definitions and queries."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rollforge.errors import ConfigError
from rollforge.store import sqlite as sqlite_store, sqlite_database
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.search import first_paths
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status, digest, encode
from rollforge.testing.postgres import PostgresServer

CONTEXT = multiprocessing.get_context("spawn")
_names = itertools.count()

# Few names and values, so that queries match definitions, including values that are easily confused.
KEYS = st.sampled_from(["a", "b", "c", "x-y", 'q"uote', "ä", "$odd", "0", "a b", "back\\slash", "new\nline"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**70, 10**22]),
    st.sampled_from(
        [0.0, -0.0, 1.0, 1.5, 0.1, 2.0**53, 2.0**60, 2.0**70, 1e22, 1e300, -1e300, float("inf"), float("nan")]
    ),
    st.sampled_from(
        ["", "a", "A", "b", "1", "true", "null", "ä", "z", "\U0001f600", "%", "_", "x'y", 'x"y', "a\x00b", "\\"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=6,
)
DEFINITIONS = st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), min_size=1, max_size=6)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(lambda parts: "def." + ".".join(parts))
OPERATIONS = st.one_of(
    VALUES.filter(lambda v: not (isinstance(v, dict) and any(str(k).startswith("$") for k in v))),
    st.tuples(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), VALUES).map(lambda t: {t[0]: t[1]}),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(VALUES, max_size=3)).map(lambda t: {t[0]: t[1]}),
    st.booleans().map(lambda b: {"$exists": b}),
    st.sampled_from(["a", "^a", "b$", "[A-Z]", "^.$", "ä"]).map(lambda p: {"$regex": p}),
)
FIELDS = st.one_of(
    st.tuples(PATHS, OPERATIONS).map(lambda t: {t[0]: t[1]}),
    st.sampled_from(
        [{"status": "waiting"}, {"priority": {"$gte": 2**70}}, {"priority": 0.0}, {"model_name": {"$regex": "x"}}]
    ),
)
QUERIES = st.recursive(
    FIELDS,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, max_size=3)).map(lambda t: {t[0]: t[1]}),
        inner.map(lambda q: {"$not": q}),
    ),
    max_leaves=3,
)


@pytest.fixture(params=["sqlite", "postgres"])
def sql_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TaskStore]:
    """A store with an SQL database."""
    if request.param == "sqlite":
        store: TaskStore = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db?synchronous=OFF")
    else:
        store = PostgresStore(f"{request.getfixturevalue('postgres').uri}?schema=queries{next(_names)}")
    yield store
    store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=DEFINITIONS, later=DEFINITIONS, queries=st.lists(QUERIES, min_size=1, max_size=6))
def test_databases_agree_with_the_evaluator(
    sql_store: TaskStore, first: list[dict[str, Any]], later: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> None:
    """Databases find the same tasks, whether these were created before or after a path was first queried."""
    model, pool = MemoryStore(), f"p{next(_names)}"
    for definitions in (first, later):
        for store in (model, sql_store):
            store.create(pool, definitions)
        for query in queries:
            assert {t.id for t in sql_store.query(pool, query)} == {t.id for t in model.query(pool, query)}, query
            assert sql_store.count(pool, query) == model.count(pool, query)
    (query, *_) = queries
    claims = [
        [t.id for t in store.claim(pool, worker="w", lease=60, query=query, limit=2)] for store in (sql_store, model)
    ]
    assert claims[0] == claims[1]
    assert sql_store.remove(pool, query) == model.remove(pool, query)
    assert sql_store.count(pool) == model.count(pool)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("def.a", [*range(1, 70_000), "x", None, True, [5]]),
        ("def.a", [0.5 + i for i in range(2_000)]),
        ("def.b.c", [str(i) for i in range(2_000)]),
        ("def.b.0", list(range(2_000))),
        ("priority", [*range(70_000), None, True, "x", 2**70]),
        ("attempt", [0.5 + i for i in range(2_000)]),
    ],
)
@pytest.mark.parametrize("operator", ["$in", "$nin"])
def test_lists_of_values_may_be_long(sql_store: TaskStore, field: str, values: list[Any], operator: str) -> None:
    """Lists of values may be longer than the 65,535 parameters of a statement, and SQLite's thousand levels of nested
    conditions."""
    model = MemoryStore()
    definitions = [
        {"a": 0}, {"a": 5}, {"a": 5.0, "n": 1}, {"a": 5.5}, {"a": "x"}, {"a": None}, {"a": True}, {"a": [70_001, 6]},
        {"a": [[6]]}, {"a": [5]}, {"b": {"c": "77"}}, {"b": [{"c": "x"}, {"c": "78"}]}, {"b": [3, 70_001]},
        {"b": [[3, 4]]}, {"z": 1},
    ]  # fmt: skip
    for store in (model, sql_store):
        store.create("p", definitions[:8])
        store.create("p", definitions[8:], priority=7)
    query = {field: {operator: values}}
    assert {t.id for t in sql_store.query("p", query)} == {t.id for t in model.query("p", query)}


def test_a_query_that_the_database_rejects_is_an_error_of_the_user(sql_store: TaskStore) -> None:
    """The error is a ConfigError; otherwise a worker would repeat the call for ten minutes."""
    sql_store.create("p", [{"a": 1}])
    for query in ({"$or": [{"def.a": i} for i in range(70_000)]}, {"_id": {"$regex": "(?P<x>a)"}}):
        with contextlib.suppress(ConfigError):
            sql_store.count("p", query)


SIMPLE = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([1, 2, 2.5, "a", "b", None]), min_size=1)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    definitions=st.lists(SIMPLE, min_size=1, max_size=5),
    queries=st.lists(
        st.tuples(
            st.sampled_from(["def.a", "def.b"]), st.sampled_from([1, 2.5, "a", None, {"$in": ["b", 2]}, {"$ne": 1}])
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_mongodb_agrees_with_the_evaluator(
    mongodb: str, definitions: list[dict[str, Any]], queries: list[tuple[str, Any]]
) -> None:
    """Within the limits of the emulator: without lists, objects and booleans, or the order of numbers and strings."""
    store, model, pool = MongoStore(f"{mongodb}/queries"), MemoryStore(), f"p{next(_names)}"
    for one in (store, model):
        one.create(pool, definitions)
    for path, operation in queries:
        query = {path: operation}
        assert {t.id for t in store.query(pool, query)} == {t.id for t in model.query(pool, query)}, query
    store.remove(pool)
    store.close()


# -- SQLite's indexes of definitions -----------------------------------------------------------------------------------


def sqlite(folder: Path) -> SQLiteStore:
    """Open a store in a folder."""
    return SQLiteStore(f"sqlite:///{folder}/tasks.db?synchronous=OFF")


def test_the_index_follows_replaced_and_removed_tasks(tmp_path: Path) -> None:
    """Replaced and removed tasks leave no entries in the index."""
    store = sqlite(tmp_path)
    ids = [c.id for c in store.create("p", [{"a": i} for i in range(5)])]
    assert store.count("p", {"def.a": 1}) == {Status.WAITING: 1}
    store.replace("p", ids[1], {"a": 100})
    store.replace("p", ids[2], {"a": 0})  # an existing one
    store.remove("p", {"def.a": 3})
    assert [t.definition["a"] for t in store.query("p", {"def.a": {"$exists": True}})] == [0, 100, 4]
    assert store.count("p", {"def.a": {"$in": [1, 2, 3]}}) == {}
    with closing(sqlite3.connect(store.path)) as raw:
        assert raw.execute("SELECT COUNT(*) FROM search_values").fetchone() == (3,)
    store.put("copy", store.query("p"))
    assert store.count("copy", {"def.a": 100}) == {Status.WAITING: 1}


def test_a_file_without_indexes_is_indexed(tmp_path: Path) -> None:
    """The tasks of a file without indexes are indexed at the first query; damaged ones match queries for missing
    values."""
    store = sqlite(tmp_path)
    store.create("p", [{"a": i, "b": [i, {"c": i}]} for i in range(5000)])
    with closing(sqlite3.connect(store.path)) as raw, raw:
        for table in ("search_paths", "search_values", "search_terms"):
            raw.execute(f"DELETE FROM {table}")
        raw.execute("UPDATE tasks SET definition = '{' WHERE seq = 7")
    store.close()
    reopened = sqlite(tmp_path)
    assert reopened.count("p", {"def.a": {"$lt": 10}}) == {Status.WAITING: 9}
    assert reopened.count("p", {"def.b.c": {"$gte": 4990}}) == {Status.WAITING: 10}
    assert reopened.count("p", {"def.a": None}) == {Status.WAITING: 1}


def add(uri: str, number: int) -> None:
    """Create tasks while another process builds an index."""
    store = SQLiteStore(uri)
    for i in range(30):
        store.create("p", [{"x": number, "y": i, "deep": {"er": j}} for j in range(20)])


def test_tasks_created_while_an_index_is_built_are_in_it(tmp_path: Path) -> None:
    """Two processes create tasks while two threads query a path for the first time."""
    store = sqlite(tmp_path)
    store.create("p", [{"first": 1}])
    store.create("p", [{"x": -1, "deep": {"er": j}} for j in range(8000)])
    writers = [CONTEXT.Process(target=add, args=(store.uri, i)) for i in range(2)]
    for writer in writers:
        writer.start()
    while store.count("p").get(Status.WAITING, 0) < 8100:
        assert all(writer.exitcode in (None, 0) for writer in writers)
        time.sleep(0.01)
    query = {"def.deep.er": {"$gte": 0}}
    readers = [threading.Thread(target=store.count, args=("p", query)) for _ in range(2)]
    for one in [*readers, *writers]:
        if isinstance(one, threading.Thread):
            one.start()
    for one in [*readers, *writers]:
        one.join()
    assert store.count("p", query) == {Status.WAITING: 8000 + 2 * 30 * 20}


def test_the_first_tasks_determine_which_paths_are_indexed() -> None:
    """Paths whose values differ between tasks are indexed; if there are few tasks, all paths."""
    tasks = [
        encode({"same": {"deep": 1}, "model": {"class": f"M{i}"}, "seg": {"test": (f"20{i}", None)}}) for i in range(20)
    ]
    assert first_paths(tasks) == [("model", "class"), ("seg", "test")]
    assert first_paths(tasks[:2]) == [("model", "class"), ("same", "deep"), ("seg", "test")]


def test_a_claim_that_reads_all_definitions_does_not_block_renewals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction is open while definitions are parsed for the index, and each one stores the values of a part of the
    tasks, so a renewal of another worker's lease never waits long. The next claim uses the index."""
    store, worker = sqlite(tmp_path), sqlite(tmp_path)
    store.create("p", [{"first": 1}])
    store.create("p", [{"model": {"class": "A", "kwargs": {"seed": i}}} for i in range(5000)])
    (task,) = store.claim("p", worker="other", lease=600)
    parse, keep = sqlite_store.terms_of, worker._keep_terms
    parsed, stored = [], []

    def parse_and_renew(definition: Any, tree: Any) -> Any:
        parsed.append(definition)
        if len(parsed) % 500 == 1:
            store.renew(task, 600)
        return parse(definition, tree)

    def keep_and_count(tx: Any, found: Any) -> None:
        found = list(found)
        stored.append(len(found))
        keep(tx, found)

    monkeypatch.setattr(sqlite_store, "terms_of", parse_and_renew)
    monkeypatch.setattr(worker, "_keep_terms", keep_and_count)
    monkeypatch.setattr(sqlite_database, "_BUSY_SECONDS", 0.0)  # a renewal that has to wait is an error
    assert worker.claim("p", worker="w", lease=60, query={"model.class": "B"}) == []
    assert len(parsed) == sum(stored) == 5001
    assert max(stored) <= 2000
    assert worker.claim("p", worker="w", lease=60, query={"model.class": "B"}) == []
    assert len(parsed) == 5001
    worker.close()


def test_each_task_is_claimed_once_by_claims_with_a_query(tmp_path: Path) -> None:
    """Each task goes to one worker, in order, even if many tasks that do not match come first."""
    store = sqlite(tmp_path)
    store.create("p", [{"kind": "other", "i": i} for i in range(500)])
    store.create("p", [{"kind": "wanted", "i": i} for i in range(60)])
    store.create("p", [{"kind": "wanted", "i": -1}], priority=1)
    claimed: list[str] = []

    def work(name: str) -> None:
        worker = sqlite(tmp_path)
        while tasks := worker.claim("p", worker=name, lease=60, query={"def.kind": "wanted"}, limit=2):
            claimed.extend(t.id for t in tasks)
        worker.close()

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed[0] == digest({"kind": "wanted", "i": -1}) or claimed.index(digest({"kind": "wanted", "i": -1})) < 8
    assert len(claimed) == len(set(claimed)) == 61
    assert store.count("p", {"def.kind": "wanted"}) == {Status.RUNNING: 61}


def test_new_tasks_are_found_by_the_index_at_once(postgres: PostgresServer) -> None:
    """PostgreSQL uses the index of definitions before it has updated its statistics automatically."""
    store = PostgresStore(f"{postgres.uri}?schema=queries{next(_names)}")
    store.create("p", [{"model": {"class": f"Model{i % 100}"}, "i": i} for i in range(10_000)])
    rows = store._transact(
        lambda tx: tx.rows(
            "SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)", name=f"{store._schema}.tasks"
        )
    )
    assert rows[0][0] == 10_000
    assert store.count("p", {"model.class": "Model7"}) == {Status.WAITING: 100}
    store.close()
