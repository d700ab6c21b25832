"""A number at or beyond the bounds of its column affects only its own task, whatever operation is called."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import bson
import psycopg
import pymongo
import pytest

from rollforge.errors import ConfigError, LeaseLost
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status, TaskRecord, digest
from rollforge.testing.postgres import PostgresServer
from rollforge.testing.store import ManualClock

NAN, INFINITY = float("nan"), float("inf")
INT32 = (2**31 - 1, 2**31 - 2, -(2**31), -1, 10**9 + 1)
INT64 = (2**63 - 1, 2**63 - 2, -(2**63), *INT32)
TIMES = (INFINITY, -INFINITY, 1e308, -1e308)
ANY = (2**63 - 1, -(2**63), 2**31 - 1, -1, INFINITY, 1.5, "many", b"\xff")
POSTGRES = {
    "attempt": INT32, "max_attempts": INT32, "unmet": INT32, "priority": INT64, "token": INT64,
    **dict.fromkeys(("lease_until", "available_at", "created_at", "started_at", "finished_at"), (*TIMES, NAN)),
}  # fmt: skip
AVAILABLE_AT = (
    "available_at",
    tuple(value for value in ANY if value not in INT32),
)  # the others are times in the future
SQLITE = dict([*dict.fromkeys(POSTGRES, ANY).items(), AVAILABLE_AT])
COUNTS = ("attempt", "max_attempts", "priority", "token")
MONGO = {
    **dict.fromkeys(COUNTS, (*ANY, NAN, None, bson.Decimal128("1E+6144"))),
    **dict.fromkeys(("lease_until", "finished_at"), (2**63 - 1, -INFINITY, "many", None)),
}
MONGO["available_at"] = AVAILABLE_AT[1]  # in the emulator, unlike MongoDB, $nor of a comparison with null is not true
Damage = Callable[[str, str, Any], None]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sqlite(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[TaskStore, Damage]]:
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as connection:

        def damage(task_id: str, column: str, value: Any) -> None:
            connection.execute(f"UPDATE tasks SET {column} = ? WHERE id = ?", (value, task_id))

        with closing(SQLiteStore(f"sqlite:///{tmp_path}/tasks.db?synchronous=OFF", clock=clock)) as store:
            yield store, damage


@pytest.fixture
def postgresql(postgres: PostgresServer, clock: ManualClock) -> Iterator[tuple[TaskStore, Damage]]:
    with (
        psycopg.connect(postgres.uri, autocommit=True) as connection,
        closing(PostgresStore(f"{postgres.uri}?schema=damaged_numbers", clock=clock)) as store,
    ):

        def damage(task_id: str, column: str, value: Any) -> None:
            connection.execute(f"UPDATE damaged_numbers.tasks SET {column} = %s WHERE id = %s", (value, task_id))

        yield store, damage
        connection.execute("DROP SCHEMA damaged_numbers CASCADE")


@pytest.fixture
def mongo(mongodb: str, clock: ManualClock) -> Iterator[tuple[TaskStore, Damage]]:
    with closing(MongoStore(f"{mongodb}/damaged_numbers", clock=clock)) as store:

        def damage(task_id: str, column: str, value: Any) -> None:
            for pool in store.pools():
                with suppress(pymongo.errors.PyMongoError):  # the emulator does not store every value
                    store._database[pool].update_one({"digest": task_id}, {"$set": {column: value}})

        yield store, damage
        store._database.client.drop_database("damaged_numbers")


STORES = {"sqlite": SQLITE, "postgresql": POSTGRES, "mongo": MONGO}
CASES = [
    pytest.param(store, column, id=f"{store}-{column}", marks=[pytest.mark.slow] if store == "mongo" else [])
    for store, columns in STORES.items()
    for column in columns
]


@pytest.mark.parametrize(("kind", "column"), CASES)
def test_a_number_at_any_bound_affects_only_its_own_task(
    kind: str, column: str, request: pytest.FixtureRequest, clock: ManualClock
) -> None:
    """Each operation is called for a damaged and an undamaged task; it has its normal effect on the undamaged one."""
    store, damage = request.getfixturevalue(kind)
    for i, value in enumerate(STORES[kind][column]):
        _try_all(store, f"pool{i}", lambda task_id, value=value: damage(task_id, column, value), clock)  # type: ignore[misc]


def _try_all(store: TaskStore, pool: str, damage: Callable[[str], None], clock: ManualClock) -> None:
    """Call each operation for two tasks, of which the first is damaged."""

    def pair(name: str, **options: Any) -> tuple[str, str]:
        bad, good = ({"n": 2 * NAMES.index(name) + i, "pool": pool} for i in (0, 1))
        made = [digest(d) for d in (bad, good)]
        store.create(pool, [bad, good], **options)
        return made[0], made[1]

    def claimed(name: str, worker: str, lease: float = 1e6) -> list[TaskRecord]:
        ids = pair(name)
        found = store.claim(pool, worker=worker, lease=lease, limit=2, query={"_id": {"$in": ids}})
        damage(ids[0])
        return sorted(found, key=lambda task: ids.index(task.id))

    failed = claimed("fail", "a:1")
    assert [_outcome(lambda t=t: store.fail(t, "boom")) for t in failed][1] is Status.WAITING  # type: ignore[misc]
    committed = claimed("commit", "a:1")
    for task in committed:
        _outcome(lambda t=task: store.commit(t, 1))  # type: ignore[misc]
    dead = claimed("release as failed", "b:1")
    assert dead[1].id in {t.id for t in store.release_worker(pool, "b:1", "It was killed.")}
    given = claimed("release", "c:1")
    assert given[1].id in {t.id for t in store.release_worker(pool, "c:1", None)}
    lapsed = claimed("expire", "d:1", lease=10.0)
    clock.now += 11.0
    store.expire(pool)
    assert store.get(pool, lapsed[1].id).attempt == 1
    final = claimed("retry", "e:1")
    store.set_status(pool, {"_id": {"$in": [t.id for t in final]}}, Status.FAILED)
    damage(final[0].id)
    assert store.retry(pool, {"_id": {"$in": [t.id for t in final]}}) == 2
    restored = claimed("restore", "f:1")
    for task in restored:
        _outcome(lambda t=task: store.fail(t, "boom"))  # type: ignore[misc]
    damage(restored[0].id)
    assert restored[1].id in store.restore_attempts(pool, "f:1", [t.id for t in restored])
    before = pair("prerequisite")
    after = pair("dependent", depends_on=before)
    damage(after[0])
    fresh, changed, cancelled, replaced = pair("claim"), pair("prioritize"), pair("cancel"), pair("replace")
    for ids in (fresh, changed, cancelled, replaced):
        damage(ids[0])
    assert store.prioritize(pool, {"_id": {"$in": changed}}, -1) == 2
    assert store.cancel(pool, {"_id": {"$in": cancelled}}) == 2
    new = [store.replace(pool, task_id, {"again": i, "pool": pool}) for i, task_id in enumerate(replaced)]
    everything = [t.id for t in store.query(pool, results=False)]
    _drain(store, pool, clock)
    good = [failed[1].id, committed[1].id, dead[1].id, given[1].id, lapsed[1].id, final[1].id, restored[1].id]
    good += [before[0], before[1], after[1], fresh[1], changed[1], new[1]]
    assert {store.get(pool, task_id).status for task_id in good} == {Status.DONE}
    assert store.has_free(pool, Status.WAITING) is False
    assert set(store.count(pool)) <= {Status.DONE, Status.FAILED, Status.RUNNING, Status.WAITING}
    assert store.put(f"{pool}_copied", store.query(pool)) == len(everything)
    assert store.set_status(pool, {"_id": {"$in": [before[0], fresh[0]]}}, Status.WAITING) == 2
    assert store.remove(pool) == len(everything)
    store.remove(f"{pool}_copied")


NAMES = [
    "fail", "commit", "release as failed", "release", "expire", "retry", "restore", "prerequisite", "dependent", "claim",
    "prioritize", "cancel", "replace",
]  # fmt: skip


def _drain(store: TaskStore, pool: str, clock: ManualClock) -> None:
    for _ in range(12):
        for task in store.claim(pool, worker="g:1", lease=60.0, limit=100):
            store.commit(task, 1)
        clock.now += 61.0


def _outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or None if its claim is stale because the token is damaged."""
    try:
        return call()
    except LeaseLost:
        return None


@pytest.mark.parametrize("kind", STORES)
def test_a_task_with_an_impossible_number_of_attempts_fails(
    kind: str, request: pytest.FixtureRequest, clock: ManualClock
) -> None:
    """The task fails, and its error names the column and the invalid value."""
    store, damage = request.getfixturevalue(kind)
    (made,) = store.create("pool", [{"x": 1}])
    damage(made.id, "attempt", 2**31 - 1)
    assert store.claim("pool", worker="a:1", lease=60.0) == []
    task = store.get("pool", made.id)
    assert (task.status, task.attempt) == (Status.FAILED, 1)
    assert "attempt is 2147483647" in str(task.error)


@pytest.mark.parametrize("kind", ["memory", *STORES])
@pytest.mark.parametrize(
    ("options", "name"),
    [({"priority": 2**63}, "priority"), ({"priority": -(2**63) - 1}, "priority"), ({"priority": 1.5}, "priority"),
     ({"priority": "high"}, "priority"), ({"priority": NAN}, "priority"), ({"max_attempts": 0}, "max_attempts"),
     ({"max_attempts": 10**9 + 1}, "max_attempts"), ({"max_attempts": None}, "max_attempts")],
)  # fmt: skip
def test_a_number_that_does_not_fit_its_column_is_refused(
    kind: str, options: dict[str, Any], name: str, request: pytest.FixtureRequest
) -> None:
    """Every store raises an error before it stores anything."""
    store = MemoryStore() if kind == "memory" else request.getfixturevalue(kind)[0]
    with pytest.raises(ConfigError, match=name):
        store.create("pool", [{"x": 1}], **options)
    assert store.count("pool") == {}
    store.create("pool", [{"x": 1}], priority=2.0, max_attempts=10**9)
    if name == "priority":
        with pytest.raises(ConfigError, match=name):
            store.prioritize("pool", {}, options[name])
    assert [t.priority for t in store.query("pool")] == [2]
    store.remove("pool")
