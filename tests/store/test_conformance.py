"""Every store passes the conformance suite."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from bson.binary import Binary
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from pymongo import MongoClient

from rollforge.errors import ConfigError, StoreUnavailable, UntrustedPickle
from rollforge.store import mongo, postgres_database, sql
from rollforge.store.base import SUBMISSION_SECONDS, Clock, SupportsRenewals, TaskStore, open_store
from rollforge.store.memory import MemoryStore
from rollforge.store.mongo import MongoStore
from rollforge.store.mongo_documents import FRESH
from rollforge.store.postgres import PostgresStore
from rollforge.store.postgres_schema import MIGRATIONS as POSTGRES_MIGRATIONS
from rollforge.store.sqlite import SQLiteStore
from rollforge.store.sqlite_schema import MIGRATIONS as SQLITE_MIGRATIONS
from rollforge.task import Cause, Ending, Status, TaskRecord, digest
from rollforge.testing.mongo import real_mongodb
from rollforge.testing.postgres import PostgresServer
from rollforge.testing.store import POOL, ManualClock, TaskStoreSuite
from rollforge.testing.store_machine import StoreMachine

NOT_EMULATED = ("model.seg", "record.", "'model': {", "flag", "a.b")
_names = itertools.count()
MACHINE = settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))


class TestMemoryStore(TaskStoreSuite):
    def make_store(self, clock: Clock) -> TaskStore:
        return MemoryStore(clock=clock)


class TestSQLiteStore(TaskStoreSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "a folder" / "100%25.db"

    def make_store(self, clock: Clock) -> TaskStore:
        return SQLiteStore(f"sqlite:///{self.file}", clock=clock)

    def test_the_file_has_the_documented_tables(self, store: TaskStore) -> None:
        """Reading it with sqlite3 shows one row per task, the result in a separate table, and WAL mode."""
        store.create(POOL, [{"x": 1}, {"x": 1}])
        store.commit(self.claim(store), {"ic": 0.5})
        raw = sqlite3.connect(self.file)
        assert raw.execute("SELECT pool, status, definition FROM tasks").fetchall() == [(POOL, "done", '{"x":1}')]
        assert raw.execute("SELECT plain, blob FROM results").fetchall() == [('{"ic":0.5}', None)]
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()

    def test_many_leases_are_renewed_at_once(self, store: TaskStore, clock: ManualClock) -> None:
        """A task whose claim has ended is returned, and stays as it is; the leases of the others are extended."""
        assert isinstance(store, SupportsRenewals)
        store.create(POOL, [{"x": i} for i in range(3)])
        tasks = store.claim(POOL, worker="w", lease=10, limit=3)
        clock.now += 8
        store.give_back(tasks[1])
        renewals = [(tasks[0], "so far"), (tasks[1], "late"), (tasks[2], None)]
        assert [task.id for task in store.renew_all(renewals, 10)] == [tasks[1].id]
        assert store.renew_all([], 10) == []
        clock.now += 8
        (free,) = store.claim(POOL, worker="other", lease=10, limit=3)
        assert free.id == tasks[1].id
        assert [store.get(POOL, task.id).log for task in tasks] == ["so far", "", ""]
        store.commit(tasks[0], 1)
        store.commit(tasks[2], 1)

    def test_a_hostile_result_fails_only_its_own_task(self, store: TaskStore, tmp_path: Path) -> None:
        """A pickle that would run a command is not loaded; its task fails, and the others continue."""
        marker = tmp_path / "ran"
        store.create(POOL, [{"x": 1}, {"x": 2}])
        for task in store.claim(POOL, worker="w", lease=60, limit=2):
            store.commit(task, task.definition["x"], Status.PART_DONE)
        hostile = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
        raw = sqlite3.connect(self.file)
        raw.execute("UPDATE results SET plain = NULL, blob = ? WHERE plain = '1'", (hostile,))
        raw.commit()
        raw.close()
        claimed = store.claim(POOL, worker="w", lease=60, status=Status.PART_DONE, limit=2)
        assert [t.result for t in claimed] == [2]
        assert not marker.exists()

    def test_a_newer_schema_is_refused(self, store: TaskStore, tmp_path: Path) -> None:
        """An older version of Rollforge does not change the file."""
        store.create(POOL, [{"x": 1}])
        raw = sqlite3.connect(self.file)
        raw.execute("PRAGMA user_version = 99")
        raw.close()
        with pytest.raises(ConnectionError, match="newer Rollforge"):
            SQLiteStore(f"sqlite:///{self.file}")

    def test_a_file_with_an_older_schema_is_migrated(self, tmp_path: Path) -> None:
        """The tasks of a file with an older schema are kept, and all operations work on them."""
        file = tmp_path / "old.db"
        raw = sqlite3.connect(file)
        raw.executescript(SQLITE_MIGRATIONS[0])
        raw.execute("INSERT INTO tasks (pool, id, definition, created_at) VALUES ('pool', 'abc', '{\"x\":1}', 5.0)")
        raw.execute("PRAGMA user_version = 1")
        raw.commit()
        raw.close()
        store = SQLiteStore(f"sqlite:///{file}")
        store.create(POOL, [{"x": 2}], depends_on=["abc"])
        store.commit(self.claim(store), 1, log="text")
        assert self.claim(store).definition == {"x": 2}

    def test_tasks_stored_before_models_had_names_have_none(self, tmp_path: Path) -> None:
        """A file of the previous version keeps its tasks and results, and its tasks can be given names."""
        file = tmp_path / "old.db"
        raw = sqlite3.connect(file)
        raw.executescript(";".join(SQLITE_MIGRATIONS[:2]))
        task_id = digest({"x": 1})
        values = ("pool", task_id, '{"x":1}', "done")
        raw.execute("INSERT INTO tasks (pool, id, definition, status, created_at) VALUES (?, ?, ?, ?, 5.0)", values)
        raw.execute("INSERT INTO results VALUES ('pool', ?, '0.5', NULL)", (task_id,))
        raw.execute("PRAGMA user_version = 2")
        raw.commit()
        raw.close()
        _check_unnamed(SQLiteStore(f"sqlite:///{file}"), task_id)

    @pytest.mark.parametrize(
        "name", ["my tasks.db", "my%20tasks.db", "100%.db", "a#b.db", "a+b&c=d.db", "ä.db", "a%00b.db"]
    )
    def test_file_names_are_not_decoded(self, tmp_path: Path, name: str) -> None:
        """Characters that have a meaning in other URIs stay as they are; options follow a question mark."""
        for options in ("", "?synchronous=OFF", "?synchronous=n%6Frmal"):
            store = SQLiteStore(f"sqlite:///{tmp_path}/{name}{options}")
            store.create(POOL, [{"x": 1}])
            store.close()
        assert {path.name for path in tmp_path.iterdir()} == {name}

    @pytest.mark.parametrize("address", ["tasks.db?mode=ro", "what?.db", "tasks.db?synchronous=NEVER", "a\x00b.db", ""])
    def test_an_address_without_a_file_is_refused(self, tmp_path: Path, address: str) -> None:
        """Nothing is created."""
        with pytest.raises(ConfigError):
            SQLiteStore(f"sqlite:///{tmp_path if address else ''}/{address}")
        assert list(tmp_path.iterdir()) == []

    def test_derived_values_are_computed_when_an_older_schema_is_migrated(self, tmp_path: Path) -> None:
        """Counts, and the number of prerequisites that are not done, are as if this version had created the tasks."""
        file = tmp_path / "old.db"
        with contextlib.closing(sqlite3.connect(file)) as raw, raw:
            for script in SQLITE_MIGRATIONS[:4]:
                raw.executescript(script)
            raw.execute("PRAGMA user_version = 4")
            _fill_old(lambda text, rows: raw.executemany(text, rows), "?")
        _check_migrated(SQLiteStore(f"sqlite:///{file}"))

    def test_the_last_failure_of_a_task_is_kept_when_an_older_schema_is_migrated(self, tmp_path: Path) -> None:
        """The failure begins the history of its task; nothing else is known about earlier attempts."""
        file = tmp_path / "old.db"
        with contextlib.closing(sqlite3.connect(file)) as raw, raw:
            for script in SQLITE_MIGRATIONS[:-1]:
                raw.executescript(script)
            raw.execute(f"PRAGMA user_version = {len(SQLITE_MIGRATIONS) - 1}")
            _fill_with_failures(lambda text, rows: raw.executemany(text, rows), "?")
        _check_histories(SQLiteStore(f"sqlite:///{file}"))

    def test_old_batches_are_deleted(self, store: TaskStore, clock: ManualClock) -> None:
        """Batches are deleted a month after their last use, unless they have unfinished tasks; the tasks are kept."""
        store.create(POOL, [{"x": 1}], batch="ended")
        store.commit(self.claim(store), 1)
        store.create(POOL, [{"x": 2}], batch="open")
        clock.now += 29 * 86400
        store.create(POOL, [{"x": 3}], batch="new")
        assert store.count(POOL, batch="ended") == {Status.DONE: 1}
        clock.now += 2 * 86400
        store.create(POOL, [{"x": 4}], batch="new")
        assert store.count(POOL, batch="ended") == {}
        assert store.count(POOL, batch="open") == {Status.WAITING: 1}
        assert store.count(POOL) == {Status.DONE: 1, Status.WAITING: 3}
        raw = sqlite3.connect(self.file)
        assert raw.execute("SELECT COUNT(*) FROM members").fetchone() == (3,)
        assert raw.execute("SELECT COUNT(*) FROM tallies").fetchone() == (3,)
        raw.close()

    def test_the_database_of_another_program_is_refused(self, tmp_path: Path) -> None:
        """No table is added to it."""
        file = tmp_path / "theirs.db"
        raw = sqlite3.connect(file)
        raw.execute("CREATE TABLE runs (id)")
        raw.close()
        with pytest.raises(StoreUnavailable, match="another program"):
            SQLiteStore(f"sqlite:///{file}")

    @pytest.mark.slow
    def test_it_behaves_like_the_model(self, tmp_path: Path) -> None:
        """The store behaves like the model for any sequence of operations."""
        machine = type("Machine", (StoreMachine,), {"make_store": lambda clock: _sqlite(tmp_path, clock)})
        run_state_machine_as_test(machine, settings=MACHINE)


# Tasks in a pool of an earlier version: id -> status and dependencies.
OLD_TASKS = {
    "a": ("done", []), "b": ("waiting", []), "c": ("running", []), "d": ("failed", []), "e": ("part_done", []),
    "f": ("waiting", ["a"]), "g": ("waiting", ["a", "b", "c"]), "h": ("failed", ["d", "gone"]),
}  # fmt: skip


def _fill_old(many: Callable[[str, Sequence[Any]], Any], mark: str) -> None:
    """Add tasks to the tables of an older schema with prerequisites, in which `blocked` is the only derived value."""
    text = "INSERT INTO tasks (pool, id, definition, status, blocked, token, lease_until, worker, created_at) VALUES "
    rows = [
        ("pool", i, json.dumps({"x": i}), status, any(n != "a" for n in dependencies), 7, 1e12, "w", 1.0)
        for i, (status, dependencies) in OLD_TASKS.items()
    ]
    many(f"{text} ({', '.join([mark] * 9)})", rows)
    edges = [("pool", i, n) for i, (_, dependencies) in OLD_TASKS.items() for n in dependencies]
    many(f"INSERT INTO needs (pool, id, needs) VALUES ({mark}, {mark}, {mark})", edges)


def _check_migrated(store: TaskStore) -> None:
    """Check that the counts of such a pool are right, that it continues where it was, and can be added to a batch."""
    states = [Status(status) for status, _ in OLD_TASKS.values()]
    assert store.count(POOL) == {status: states.count(status) for status in set(states)}
    assert store.pools() == [POOL]
    assert {t.id for t in store.query(POOL) if t.blocked} == {"g", "h"}
    running = store.get(POOL, "c")
    store.add_to_batch(POOL, "batch", list(OLD_TASKS))
    claimed = store.claim(POOL, worker="w", lease=60, limit=9, batch="batch")
    assert [t.id for t in claimed] == ["b", "f"]
    for task in (*claimed, running):
        assert store.get(POOL, "g").blocked
        store.commit(task, 1)
    assert [t.id for t in store.claim(POOL, worker="w", lease=60, limit=9, batch="batch")] == ["g"]
    counts = {Status.DONE: 4, Status.RUNNING: 1, Status.FAILED: 2, Status.PART_DONE: 1}
    assert store.count(POOL) == store.count(POOL, batch="batch") == counts
    assert store.remove(POOL) == 8
    assert (store.count(POOL), store.pools()) == ({}, [])
    store.close()


ATTEMPTED = {  # id: status, attempts used, cause, error, when the last attempt started and ended
    "a": ("failed", 3, "raised", "<" + 20_000 * "-" + ">", 10.0, 12.0),
    "b": ("waiting", 1, "lease_lost", "expired", 10.0, 13.0),
    "c": ("done", 0, None, None, 10.0, 14.0),
    "d": ("failed", 0, "cancelled", "cancelled", 10.0, 15.0),
    "e": ("running", 1, "raised", "before", 16.0, None),
    "f": ("failed", 0, "dependency", "It depends on e", None, 17.0),
}


def _fill_with_failures(many: Callable[[str, Sequence[Any]], Any], mark: str) -> None:
    """Add tasks to the tables of an older schema, which describe only their last attempt."""
    text = (
        "INSERT INTO tasks (pool, id, definition, token, worker, created_at, lease_until, status, attempt, cause, error, "
        "started_at, finished_at) VALUES "
    )
    rows = [("pool", i, json.dumps({"x": i}), 7, f"w-{i}", 1.0, 1e12, *last) for i, last in ATTEMPTED.items()]
    many(f"{text} ({', '.join([mark] * 13)})", rows)


def _check_histories(store: TaskStore) -> None:
    """Check that the failed attempts of such tasks are kept, and that later ones are added to them."""
    (failed,) = store.get(POOL, "a").history
    assert (failed.number, failed.ending, failed.cause, failed.token) == (3, Ending.FAILED, Cause.RAISED, 7)
    assert (failed.worker, failed.started_at, failed.ended_at) == ("w-a", 10.0, 12.0)
    assert (str(failed.error)[:3], str(failed.error)[-3:]) == ("<--", "-->")
    assert len(str(failed.error)) < 16_100
    (lost,) = store.get(POOL, "b").history
    assert (lost.number, lost.cause, lost.error, lost.seconds) == (1, Cause.LEASE_LOST, "expired", 3.0)
    (done,) = store.get(POOL, "c").ended_attempts
    assert (done.number, done.ending, done.worker, done.seconds) == (1, Ending.DONE, "w-c", 4.0)
    assert [store.get(POOL, i).history for i in "def"] == [(), (), ()]
    store.give_back(store.claim(POOL, worker="w", lease=60)[0])
    assert [a.ending for a in store.get(POOL, "b").history] == [Ending.FAILED, Ending.RETURNED]
    assert store.remove(POOL) == 6
    store.close()


def _check_unnamed(store: TaskStore, task_id: str) -> None:
    """Check that a done task with the result 0.5 has no name, and that naming it changes nothing else."""
    old = store.get(POOL, task_id)
    assert (old.model_name, old.status, old.result) == ("", Status.DONE, 0.5)
    assert [t.id for t in store.query(POOL, {"model_name": ""})] == [task_id]
    assert [c.new for c in store.create(POOL, [{"x": 1}], model_names=["lgb"])] == [False]
    assert store.get(POOL, task_id) == replace(old, model_name="lgb")


def _sqlite(folder: Path, clock: Clock) -> TaskStore:
    return SQLiteStore(f"sqlite:///{folder}/{next(_names)}.db?synchronous=OFF", clock=clock)


def _check_kept_meanwhile(make_store: Callable[[Clock], TaskStore], module: ModuleType, monkeypatch: Any) -> None:
    """Keep an old submission once more while another process removes those without tasks."""
    clock = ManualClock()
    store, other = make_store(clock), make_store(clock)
    key = store.keep_submission(POOL, {"data": 1})
    clock.now += SUBMISSION_SECONDS + 1

    def tasks_of_info(info: object) -> list[str]:
        other.keep_submission(POOL, {"data": 1})
        return []

    monkeypatch.setattr(module, "tasks_of_info", tasks_of_info)
    store.remove(POOL)
    assert list(store.submissions(POOL)) == [key]
    clock.now += SUBMISSION_SECONDS + 1
    monkeypatch.undo()
    store.remove(POOL)
    assert store.submissions(POOL) == {}


class TestPostgresStore(TaskStoreSuite):
    """Each test uses its own schema on a real server."""

    @pytest.fixture(autouse=True)
    def _schema(self, postgres: PostgresServer) -> Iterator[None]:
        self.uri = f"{postgres.uri}?schema=s{next(_names)}"
        self.made: list[TaskStore] = []
        yield
        for store in self.made:
            store.close()

    def make_store(self, clock: Clock | None) -> TaskStore:
        self.made.append(PostgresStore(self.uri, clock=clock))
        return self.made[-1]

    def test_a_submission_that_is_kept_while_others_are_removed_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tasks of a submission that is kept are about to be created."""
        _check_kept_meanwhile(self.make_store, sql, monkeypatch)

    def test_leases_use_the_clock_of_the_server(self) -> None:
        """The local clock has no effect."""
        store = self.make_store(None)
        store.create(POOL, [{"x": 1}])
        task = self.claim(store, lease=1.0)
        assert task.lease_until is not None
        assert task.started_at is not None
        assert task.lease_until - task.started_at == pytest.approx(1.0, abs=1e-3)
        assert store.claim(POOL, worker="w", lease=60) == []
        time.sleep(1.1)
        store.expire(POOL)
        time.sleep(1.1)
        assert self.claim(store).attempt == 1

    def test_a_filter_uses_an_index(self, postgres: PostgresServer) -> None:
        """The tasks of one model are found without reading all tasks."""
        store = self.make_store(None)
        store.create(POOL, [{"x": i, "model": {"class": f"M{i % 1000}"}} for i in range(20_000)])
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"SET search_path TO {self.uri.rpartition('=')[2]}")
            raw.execute("ANALYZE tasks")
            text = 'EXPLAIN SELECT 1 FROM tasks WHERE filter @@ CAST(\'$."model"."class" == "M7"\' AS jsonpath)'
            plan = "\n".join(str(row[0]) for row in raw.execute(text))
        assert "tasks_by_filter" in plan
        assert sum(store.count(POOL, {"model.class": "M7"}).values()) == 20

    def test_a_status_or_an_id_uses_an_index(self, postgres: PostgresServer) -> None:
        """The query uses an index even if the server has no statistics of the tables yet."""
        store = self.make_store(None)
        store.create(POOL, [{"x": i} for i in range(2000)])
        schema = self.uri.rpartition("=")[2]
        for query in ({"status": "failed"}, {"_id": "abc"}, {"_id": {"$in": ["abc"]}}):
            condition, values = store._condition(POOL, query)  # type: ignore[attr-defined]
            text = postgres_database.translated(
                f"EXPLAIN SELECT 1 FROM tasks WHERE pool = 'pool' AND {condition}", schema, True, PostgresStore._names
            )
            with psycopg.connect(postgres.uri) as raw:
                plan = "\n".join(str(row[0]) for row in raw.execute(text.encode(), values))
            assert "Filter" not in plan, plan
            assert "Index Cond" in plan

    def test_a_newer_schema_is_refused(self, postgres: PostgresServer) -> None:
        """An older version of Rollforge does not change the database."""
        self.make_store(None)
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"UPDATE {self.uri.rpartition('=')[2]}.schema_version SET version = 99")
        with pytest.raises(StoreUnavailable, match="newer Rollforge"):
            PostgresStore(self.uri)

    def test_tasks_stored_before_models_had_names_have_none(self, postgres: PostgresServer) -> None:
        """A schema of the previous version keeps its tasks and results, and its tasks can be given names."""
        schema, task_id = self.uri.rpartition("=")[2], digest({"x": 1})
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"CREATE SCHEMA {schema}")
            raw.execute(f"SET search_path TO {schema}")
            raw.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            for statement in POSTGRES_MIGRATIONS[0].split(";"):
                raw.execute(statement.encode())
            raw.execute("INSERT INTO schema_version VALUES (1)")
            columns = "pool, id, definition, filter, status, created_at"
            values = ("pool", task_id, '{"x":1}', '{"x":1}', "done", 5.0)
            raw.execute(f"INSERT INTO tasks ({columns}) VALUES (%s, %s, %s, %s, %s, %s)", values)
            raw.execute("INSERT INTO results (pool, id, plain) VALUES ('pool', %s, '0.5')", (task_id,))
        _check_unnamed(self.make_store(None), task_id)

    def test_derived_values_are_computed_when_an_older_schema_is_migrated(self, postgres: PostgresServer) -> None:
        """Counts, and the number of prerequisites that are not done, are as if this version had created the tasks."""
        schema = self.uri.rpartition("=")[2]
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"CREATE SCHEMA {schema}")
            raw.execute(f"SET search_path TO {schema}")
            raw.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            for script in POSTGRES_MIGRATIONS[:2]:
                for statement in script.split(";"):
                    raw.execute(statement.encode())
            raw.execute("INSERT INTO schema_version VALUES (2)")
            raw.execute("ALTER TABLE tasks ALTER COLUMN filter SET DEFAULT '{}'")
            _fill_old(lambda text, rows: raw.cursor().executemany(text, rows), "%s")
        _check_migrated(self.make_store(None))

    def test_the_last_failure_of_a_task_is_kept_when_an_older_schema_is_migrated(
        self, postgres: PostgresServer
    ) -> None:
        """The failure begins the history of its task; nothing else is known about earlier attempts."""
        schema = self.uri.rpartition("=")[2]
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"CREATE SCHEMA {schema}")
            raw.execute(f"SET search_path TO {schema}")
            raw.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            for script in POSTGRES_MIGRATIONS[:-1]:
                for statement in filter(str.strip, script.split(";")):
                    raw.execute(statement.encode())
            raw.execute("INSERT INTO schema_version VALUES (%s)", (len(POSTGRES_MIGRATIONS) - 1,))
            raw.execute("ALTER TABLE tasks ALTER COLUMN filter SET DEFAULT '{}'")
            _fill_with_failures(lambda text, rows: raw.cursor().executemany(text, rows), "%s")
        _check_histories(self.make_store(None))

    def test_a_schema_with_other_triggers_gets_those_of_this_version(self, postgres: PostgresServer) -> None:
        """Tasks, including running ones, are unchanged, and are counted and committed as before."""
        store = self.make_store(None)
        store.create(POOL, [{"x": i} for i in range(3)])
        held = self.claim(store)
        store.close()
        with psycopg.connect(postgres.uri) as raw:
            raw.execute(f"SET search_path TO {self.uri.rpartition('=')[2]}")
            raw.execute("ALTER TABLE tasks DROP COLUMN claim_place, DROP COLUMN creation")
            raw.execute("CREATE INDEX tasks_by_claim ON tasks (claim) WHERE status = 'running'")
            raw.execute("DROP FUNCTION sum_up_tallies")
            raw.execute("DROP TABLE attempts")
            raw.execute(
                "CREATE OR REPLACE FUNCTION tasks_changed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'"
            )
            raw.execute("UPDATE schema_version SET version = 5")
        store = self.make_store(None)
        store.commit(held, 1)
        assert store.count(POOL) == {Status.DONE: 1, Status.WAITING: 2}
        assert len(store.claim(POOL, worker="w", lease=60, limit=5)) == 2
        assert store.count(POOL) == {Status.DONE: 1, Status.RUNNING: 2}

    @pytest.mark.parametrize("limit", [1, 2])
    @pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
    def test_a_claim_repeated_during_the_first_one_waits_for_it(self, limit: int, ends: str) -> None:
        """The repeated claim returns the same tasks if the first claim succeeds, and other tasks if it fails."""
        first, second = self.make_store(None), self.make_store(None)
        first.create(POOL, [{"x": i} for i in range(5)])
        connection = first._opened().connection  # type: ignore[attr-defined]

        def claim(store: TaskStore) -> Any:
            return store.claim(POOL, worker="w", lease=60, limit=limit, claim="same")

        connection.execute("BEGIN")
        given = claim(first)
        with ThreadPoolExecutor(1) as pool:
            repeated = pool.submit(claim, second)
            time.sleep(0.5)
            assert not repeated.done()
            connection.execute(ends)
            again = repeated.result(10)
        assert len(again) == limit
        assert [(t.id, t.token) == (g.id, g.token) for t, g in zip(again, given, strict=True)] == [
            ends == "COMMIT"
        ] * limit
        assert second.count(POOL) == {Status.RUNNING: limit, Status.WAITING: 5 - limit}

    def test_the_server_plans_claims_and_commits_once(self) -> None:
        """Planning would take more than a quarter of their time."""
        store = self.make_store(None)
        ids = [c.id for c in store.create(POOL, [{"x": i} for i in range(10_000)], batch="b")]
        for i in range(40):
            store.commit(self.claim(store, **({"batch": "b"} if i % 2 else {})), 1)
        assert len(ids) == 10_000
        text = "SELECT statement FROM pg_prepared_statements WHERE custom_plans > 6"
        assert store._read(lambda tx: tx.rows(text)) == []  # type: ignore[attr-defined]

    def test_changing_one_task_does_not_scan_a_table(self) -> None:
        """No table is scanned, even on a connection with cached plans of statements that changed all tasks."""
        store = self.make_store(None)
        ids = [c.id for c in store.create(POOL, [{"x": i} for i in range(3000)], batch="b")]
        store.create(POOL, [{"last": 1}], depends_on=ids, batch="b")
        store._transact(lambda tx: tx.run("ANALYZE"))  # type: ignore[attr-defined]
        store.prioritize(POOL, {}, 5)
        store.set_status(POOL, {"x": {"$lt": 2000}}, Status.DONE)
        store.set_status(POOL, {"x": {"$lt": 2000}}, Status.WAITING)
        connection = store._opened().connection  # type: ignore[attr-defined]
        text = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname IN ('tasks', 'members', 'needs')"
        with connection.transaction():
            before = connection.execute(text).fetchall()
            store.commit(self.claim(store), 1)
            assert connection.execute(text).fetchall() == before
        assert store.count(POOL, batch="b") == {Status.DONE: 1, Status.WAITING: 3000}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("secret", "wrong"), "rejects the user or the password"),
            (("127.0.0.1", "no-such-host.invalid"), "cannot be reached"),
            (("/postgres", "/nothing"), "no such database"),
            (("rollforge:", "nobody:"), "rejects the user or the password"),
        ],
    )
    def test_an_address_that_does_not_work_is_explained(
        self, postgres: PostgresServer, change: tuple[str, str], said: str
    ) -> None:
        """The message names the cause, without the password."""
        with pytest.raises(StoreUnavailable, match=said) as caught:
            PostgresStore(postgres.uri.replace(*change))
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "setting", "value"),
        [
            ("options=-c statement_timeout=5000", "statement_timeout", "5s"),
            ("options=-c%20statement_timeout%3D5000", "statement_timeout", "5s"),
            ("application_name=a b+c", "application_name", "a b+c"),
            ("application_name=a%20b%26c", "application_name", "a b&c"),
            ("connect_timeout=3", "application_name", "rollforge"),
        ],
    )
    def test_options_of_the_address_reach_the_server(
        self, postgres: PostgresServer, options: str, setting: str, value: str
    ) -> None:
        """Options are decoded as by libpq: spaces are literal or encoded, and a plus sign is a plus sign."""
        for uri in (f"{self.uri}&{options}", f"{postgres.uri}?{options}&{self.uri.partition('?')[2]}"):
            store = PostgresStore(uri)
            assert store._read(lambda tx: tx.rows(f"SHOW {setting}")) == [(value,)]
            store.close()

    def test_an_address_may_be_a_libpq_string(self, postgres: PostgresServer) -> None:
        """``host=… dbname=…`` opens the same store as the URI."""
        store = self.make_store(None)
        store.create(POOL, [{"x": 1}])
        parts = urlsplit(postgres.uri)
        schema = self.uri.rpartition("=")[2]
        dsn = (
            f"host={parts.hostname} port={parts.port} user=rollforge password='secret' schema={schema} dbname=postgres"
        )
        same = open_store(dsn)
        assert same.count(POOL) == {Status.WAITING: 1}
        same.close()

    @pytest.mark.parametrize("address", ["?nope=1", "?application_name=a%zz", "?schema=A-B", "?schema=pg_own"])
    def test_an_invalid_address_is_refused(self, postgres: PostgresServer, address: str) -> None:
        """The message does not contain the password."""
        with pytest.raises(ConfigError) as caught:
            PostgresStore(postgres.uri + address)
        assert "secret" not in str(caught.value)

    def test_a_port_without_a_server_is_reported(self) -> None:
        """The message says what to check."""
        with pytest.raises(StoreUnavailable, match="Check that the server is running"):
            PostgresStore("postgresql://127.0.0.1:9/tasks")

    def test_a_worker_that_is_suspended_during_a_claim_does_not_keep_the_task(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server rolls back its transaction, and other workers get the task; when resumed it gets an error."""
        monkeypatch.setattr("rollforge.store.postgres_database._IDLE_SECONDS", 2)
        stopped, other = self.make_store(None), self.make_store(None)
        stopped.create(POOL, [{"x": 1}])
        locked, woken = threading.Event(), threading.Event()

        def claim(tx: Any) -> None:
            tx.rows("SELECT seq FROM tasks FOR UPDATE")
            locked.set()
            woken.wait(60)
            tx.run("UPDATE tasks SET status = 'running'")

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(stopped._write, claim, POOL)  # type: ignore[attr-defined]
            assert locked.wait(60)
            assert other.claim(POOL, worker="w", lease=60) == []
            deadline = time.monotonic() + 60
            while not (taken := other.claim(POOL, worker="w", lease=60)) and time.monotonic() < deadline:
                time.sleep(0.05)
            woken.set()
            assert [task.definition for task in taken] == [{"x": 1}]
            with pytest.raises(StoreUnavailable, match="closed the connection"):
                held.result(10)
        assert stopped.count(POOL) == {Status.RUNNING: 1}

    def test_a_closed_store_stays_closed(self) -> None:
        """A notification in progress is finished first, so that it does not reopen the connection."""
        store = self.make_store(None)
        assert isinstance(store, PostgresStore)
        announce, began = store._announcer._announce, threading.Event()

        def slowly(pools: Iterable[str]) -> None:
            began.set()
            time.sleep(0.2)
            announce(pools)

        store.create(POOL, [{"x": 1}])
        store._announcer._announce = slowly
        store.create(POOL, [{"x": 2}])  # soon after the first, so a timer announces it
        assert began.wait(60)
        store.close()
        time.sleep(0.4)
        assert store._connected is None

    def test_the_server_may_be_restarted_between_two_calls(self) -> None:
        """A connection that was lost is reopened; while the server is down, calls raise an error that says so."""
        with PostgresServer() as server:
            store = PostgresStore(server.uri)
            store.create(POOL, [{"x": 1}])
            with server.down(), pytest.raises(StoreUnavailable):
                store.count(POOL)
            assert self.claim(store).definition == {"x": 1}
            store.close()

    @pytest.mark.slow
    def test_it_behaves_like_the_model(self) -> None:
        """The store behaves like the model for any sequence of operations."""
        machine = type("Machine", (StoreMachine,), {"make_store": self.make_store})
        run_state_machine_as_test(machine, settings=MACHINE)


class TestMongoStore(TaskStoreSuite):
    """Each test uses its own database, on the server given by ROLLFORGE_TEST_MONGODB or else on an emulator.

    The emulator implements the wire protocol for the real driver. It has no replica sets, write concerns, failover or
    change streams, and does not show the contention and recovery of a real server.
    """

    @pytest.fixture(autouse=True)
    def _database(self, mongodb: str) -> Iterator[None]:
        self.uri = f"{mongodb.rstrip('/')}/rollforge_test_{os.getpid()}_{next(_names)}"
        self.made: list[MongoStore] = []
        yield
        for store in self.made:
            store.close()
        with MongoClient(mongodb) as client:
            client.drop_database(self.uri.rpartition("/")[2])

    def make_store(self, clock: Clock | None) -> TaskStore:
        self.made.append(MongoStore(self.uri, clock=clock))
        return self.made[-1]

    def test_a_submission_that_is_kept_while_others_are_removed_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tasks of a submission that is kept are about to be created."""
        _check_kept_meanwhile(self.make_store, mongo, monkeypatch)

    def test_a_chain_is_not_followed_for_a_new_task(self, store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new task, on which nothing depends, cannot close a cycle, so its dependencies are not read."""
        (first,) = store.create("p", [{"x": 0}])
        (second,) = store.create("p", [{"x": 1}], depends_on=[first.id])
        monkeypatch.setattr(mongo, "dependencies_of", None)
        store.create("p", [{"x": 2}], depends_on=[second.id])

    @pytest.mark.parametrize(("query", "expected"), TaskStoreSuite.QUERIES)
    def test_a_query_has_mongodbs_meaning(self, store: TaskStore, query: dict[str, Any], expected: set[int]) -> None:
        """The emulator does not support indexes of lists, or comparisons of lists, objects and booleans."""
        if not real_mongodb() and any(word in str(query) for word in NOT_EMULATED):
            pytest.skip("the emulator does not support it; ROLLFORGE_TEST_MONGODB=mongodb://… selects a real server")
        super().test_a_query_has_mongodbs_meaning(store, query, expected)

    def qlib_pool(self, *definitions: object, **more: Any) -> Any:
        """Write a pool as Qlib's TaskManager does, and return its collection."""
        self.make_store(None)
        collection = self.made[-1]._database[POOL]
        for definition in definitions:
            blob = definition if isinstance(definition, bytes) else pickle.dumps(definition)
            shown = definition if isinstance(definition, dict) else {"x": 1}
            collection.insert_one({"def": Binary(blob), "filter": shown, "status": "waiting", **more})
        return collection

    def test_a_pool_created_by_qlib_is_listed_and_run(self) -> None:
        """Although its documents have no lease, digest or priority; afterwards Qlib can read the results."""
        collection = self.qlib_pool({"x": 1, "t": ("a", None)}, {"x": 2})
        (second,) = [d["_id"] for d in collection.find({"filter.x": 2})]
        store = self.make_store(None)
        assert store.pools() == [POOL]
        assert [t.definition for t in store.query(POOL)] == [{"x": 1, "t": ("a", None)}, {"x": 2}]
        assert [t.definition for t in store.query(POOL, {"_id": str(second)})] == [{"x": 2}]
        assert [c.new for c in store.create(POOL, [{"x": 2}])] == [False]
        store.prioritize(POOL, {"_id": str(second)}, 5)
        task = self.claim(store)
        assert task.definition == {"x": 2}
        store.commit(task, {"recorder": "abc"})
        theirs = collection.find_one({"_id": second})
        assert (theirs["status"], pickle.loads(theirs["res"])) == ("done", {"recorder": "abc"})
        assert store.count(POOL) == {Status.WAITING: 1, Status.DONE: 1}

    def test_the_last_failure_of_a_task_is_kept_when_an_older_schema_is_migrated(self) -> None:
        """The failure begins the history of its task; nothing else is known about earlier attempts."""
        collection = self.qlib_pool()
        own = {name: value for name, value in FRESH.items() if name != "history"} | {"created_at": 1.0, "token": 7}
        names = ("status", "attempt", "cause", "error", "started_at", "finished_at")
        for i, last in ATTEMPTED.items():
            lease = {"lease_until": 1e12} if last[0] == "running" else {}
            more = {"digest": i, "plain": json.dumps({"x": i}), "filter": {}, "worker": f"w-{i}"}
            collection.insert_one({**own, **more, **lease, **dict(zip(names, last, strict=True))})
        self.made[-1]._number("token", 7)
        self.made[-1]._meta.update_one({"_id": "schema"}, {"$set": {"version": 4}})
        _check_histories(self.make_store(None))

    def test_qlib_can_read_a_pool_created_here(self, store: TaskStore) -> None:
        """Definition and filter are in the fields that Qlib reads."""
        store.create(POOL, [{"model": {"class": "LGBModel"}, "seg": ("2020-01-01", None)}])
        document = self.made[-1]._database[POOL].find_one({"filter.model.class": "LGBModel", "status": "waiting"})
        assert pickle.loads(document["def"]) == {"model": {"class": "LGBModel"}, "seg": ("2020-01-01", None)}

    def test_a_hostile_definition_is_never_executed(self, tmp_path: Path) -> None:
        """Whichever call reads it, the pickle is refused; the other tasks run."""
        marker = tmp_path / "ran"
        hostile = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
        collection = self.qlib_pool(hostile, {"x": 2})
        store = self.make_store(None)
        assert self.claim(store).definition == {"x": 2}
        assert store.claim(POOL, worker="w", lease=60) == []
        refused = [t for t in store.query(POOL) if t.status is Status.FAILED]
        assert "refused" in str(refused[0].error)
        collection.update_many({"filter.x": 2}, {"$set": {"res": Binary(hostile)}})
        with pytest.raises(UntrustedPickle):
            list(store.query(POOL, {"x": 2}))
        store.set_status(POOL, {"x": 2}, Status.PART_DONE)
        assert store.claim(POOL, worker="w", lease=60, status=Status.PART_DONE) == []
        assert not marker.exists()

    def test_a_commit_that_was_interrupted_is_completed_by_the_next_claim(self, store: TaskStore) -> None:
        """A worker died after committing a result and before updating the tasks that depend on it."""
        (a,) = store.create(POOL, [{"x": 1}])
        (b,) = store.create(POOL, [{"x": 2}], depends_on=[a.id])
        self.made[-1]._database[POOL].update_one({"digest": a.id}, {"$set": {"status": "done"}})
        assert store.claim(POOL, worker="w", lease=60) == []
        assert self.claim(store).id == b.id

    def test_a_claim_that_was_suspended_gets_the_newest_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process may be suspended between reserving a token and using it. If others claimed the task meanwhile and
        gave it back, it claims the task with a newer token than theirs, and its lease begins now."""
        clock = ManualClock()
        store, other = MongoStore(self.uri, clock=clock), MongoStore(self.uri, clock=clock)
        self.made += [store, other]
        store.create(POOL, [{"x": 1}])
        between: list[TaskRecord] = []
        reserve = store._number

        def stopped(name: str, count: int = 1) -> int:
            number = reserve(name, count)
            if name == "token" and not between:
                between.append(self.claim(other))
                other.give_back(between[0])
                clock.now += 100.0
            return number

        monkeypatch.setattr(store, "_number", stopped)
        task = self.claim(store)
        assert task.token > between[0].token
        assert task.lease_until == clock.now + 60.0
        store.commit(task, 1)

    def test_a_damaged_token_is_replaced(self) -> None:
        """A task can be claimed although its token was never assigned or is not a number."""
        store = self.make_store(None)
        for value in (2**62, 1e300, "many", True):
            store.create(POOL, [{"value": str(value)}])
            self.made[-1]._database[POOL].update_many({"status": "waiting"}, {"$set": {"token": value}})
            task = self.claim(store)
            assert task.token < 1000
            store.commit(task, 1)

    def test_a_task_starts_after_its_prerequisites_have_finished(self) -> None:
        """A task starts after its prerequisites have finished, even if the server's clock as estimated by two processes
        differs by some milliseconds."""
        early, late = ManualClock(), ManualClock()
        late.now += 0.008
        store, other = self.make_store(late), self.make_store(early)
        (a,) = store.create(POOL, [{"x": 1}])
        (b,) = store.create(POOL, [{"x": 2}], depends_on=[a.id])
        store.commit(self.claim(store), 1)
        assert other.claim(POOL, worker="w", lease=60) == []
        early.now += 0.009
        started = self.claim(other)
        assert started.id == b.id
        assert float(started.started_at or 0) >= float(store.get(POOL, a.id).finished_at or 0)

    def test_a_server_that_is_not_running_is_reported(self) -> None:
        """The error is raised soon, and does not contain the password."""
        with pytest.raises(StoreUnavailable, match="Check that the server is running") as caught:
            MongoStore("mongodb://ann:secret@127.0.0.1:9/tasks?serverSelectionTimeoutMS=300")
        assert "secret" not in str(caught.value)

    def test_a_newer_schema_is_refused(self) -> None:
        """An older version of Rollforge does not change the database."""
        self.make_store(None)
        self.made[-1]._meta.update_one({"_id": "schema"}, {"$set": {"version": 99}})
        with pytest.raises(StoreUnavailable, match="newer Rollforge"):
            MongoStore(self.uri)

    def test_tasks_stored_before_models_had_names_have_none(self) -> None:
        """A database of the previous version keeps its tasks and results, and its tasks can be given names."""
        before = self.make_store(None)
        (created,) = before.create(POOL, [{"x": 1}])
        before.commit(self.claim(before), 0.5)
        self.made[-1]._database[POOL].update_many({}, {"$unset": {"model_name": ""}})
        self.made[-1]._meta.update_one({"_id": "schema"}, {"$set": {"version": 1}})
        _check_unnamed(self.make_store(None), created.id)

    @pytest.mark.slow
    def test_it_behaves_like_the_model(self) -> None:
        """The store behaves like the model for any sequence of operations."""
        machine = type("Machine", (StoreMachine,), {"make_store": self.make_store})
        run_state_machine_as_test(machine, settings=settings(MACHINE, max_examples=15))
