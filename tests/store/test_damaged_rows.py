"""A row with invalid values affects only its own task."""

from __future__ import annotations

import datetime as dt
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest

from rollforge.errors import ArtifactUnreadable
from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.store.mongo import MongoStore
from rollforge.store.rows import read_record
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Cause, Ending, Status
from rollforge.testing.mongo import MongoServer
from rollforge.testing.postgres import PostgresServer, postgres_binaries

DAMAGE: dict[str, tuple[str, Any]] = {
    "the priority is a string": ("priority", "high"),
    "the attempt is a string": ("attempt", "many"),
    "a time is infinite": ("created_at", float("inf")),
    "the error is not UTF-8": ("error", b"\xff\xfe"),
    "the definition is bytes": ("definition", b"\x80\x05N."),
    "the definition is not JSON": ("definition", "{"),
    "the cause does not exist": ("cause", "lazy"),
}


@pytest.mark.parametrize(("column", "value"), DAMAGE.values(), ids=DAMAGE)
def test_the_other_tasks_are_claimed_and_the_damaged_one_fails(column: str, value: Any, tmp_path: Path) -> None:
    """Whichever column is damaged, the pool continues and its tasks can be listed."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    manager = TaskManager("pool", store=store)
    ids = manager.create_task([{"n": n} for n in range(3)])
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute(f"UPDATE tasks SET {column} = ? WHERE id = ?", (value, ids[1]))
    connection.close()
    assert len(list(manager.query({}, decode=False))) == 3
    claimed = [task.id for _ in range(4) for task in store.claim("pool", worker="host:1:a", lease=60.0)]
    assert sorted(claimed) == sorted({ids[0], ids[2]})
    damaged = store.get("pool", ids[1])
    assert damaged.status is Status.FAILED
    assert damaged.cause is Cause.UNREADABLE
    store.close()


def test_text_that_is_not_utf_8_is_shown_with_escapes(tmp_path: Path) -> None:
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    manager = TaskManager("pool", store=store)
    [task_id] = manager.create_task([{"n": 1}])
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute("UPDATE tasks SET log = CAST(? AS TEXT)", (b"caf\xe9",))
    connection.close()
    assert store.get("pool", task_id).log == "caf\\xe9"
    store.close()


STRANGE: tuple[Any, ...] = (None, 5, -1, 2**63 - 1, 1e308, float("inf"), b"\xff", "", "no such thing", "failed")


@pytest.mark.parametrize("column", ["number", "token", "worker", "started_at", "ended_at", "ending", "cause", "error"])
def test_a_damaged_attempt_is_listed_and_others_are_added(column: str, tmp_path: Path) -> None:
    """The other columns of the attempt, and the attempts of other tasks, are as before."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    for value in STRANGE:
        (created,) = store.create("pool", [{"value": repr(value)}], max_attempts=9)
        store.fail(store.claim("pool", worker="host:1:a", lease=60.0)[0], "boom")
        with (
            suppress(sqlite3.IntegrityError),
            closing(sqlite3.connect(tmp_path / "tasks.db")) as connection,
            connection,
        ):
            this = "(SELECT seq FROM tasks WHERE id = ?)"
            connection.execute(f"UPDATE attempts SET {column} = ? WHERE task = {this}", (value, created.id))
        (damaged,) = store.get("pool", created.id).history
        assert column == "error" or damaged.error == "boom"
        store.set_status("pool", {"_id": created.id}, Status.WAITING)
        store.give_back(store.claim("pool", worker="host:1:a", lease=60.0)[0])
        assert store.cancel("pool", {"_id": created.id}) == 1
        assert Ending.RETURNED in {attempt.ending for attempt in store.get("pool", created.id).history}
    store.close()


def test_each_invalid_column_is_named() -> None:
    record = read_record(
        {"pool": "p", "id": "a", "text": "{}", "status": "gone", "priority": None, "token": 2**70, "log": 5}
    )
    assert record.status is Status.FAILED
    assert (record.priority, record.token, record.log) == (0, 0, "")
    for name in ("status", "priority", "token", "log"):
        assert f"Its {name} is " in record.extra["unreadable"]


@pytest.mark.parametrize(
    ("plain", "blob"), [("{bad", None), ('{"$tuple": 5}', None), (None, b"\x80\x04"), (None, "text")]
)
def test_a_damaged_result_affects_only_its_own_task(plain: Any, blob: Any, tmp_path: Path) -> None:
    """The second stage of the task fails, and that of the next task runs; reading the result raises an error that names
    the task and says what to do."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    ids = [c.id for c in store.create("pool", [{"n": 1}, {"n": 2}])]
    for task in store.claim("pool", worker="host:1:a", lease=60.0, limit=2):
        store.commit(task, {"model": task.definition["n"]}, Status.PART_DONE)
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute("UPDATE results SET plain = ?, blob = ? WHERE id = ?", (plain, blob, ids[0]))
    connection.close()
    with pytest.raises(
        ArtifactUnreadable, match=f"The result of task {ids[0]} in pool 'pool' cannot be read: .*reset-status"
    ):
        list(store.query("pool"))
    claimed = store.claim("pool", worker="host:1:a", lease=60.0, status=Status.PART_DONE, limit=2)
    assert [(t.id, t.result) for t in claimed] == [(ids[1], {"model": 2})]
    (damaged,) = store.query("pool", {"_id": ids[0]}, results=False)
    assert (damaged.status, damaged.cause) == (Status.FAILED, Cause.UNREADABLE)
    store.close()


# -- MongoDB: every field of a document may be of any type -------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None, 5, -1, 2**62, 1e308, float("inf"), True, b"\x80\x05N.", "", "failed", "no such thing", [], ["x", 5], [[]],
    {}, {"a": 1}, dt.datetime(2020, 1, 1), bson.ObjectId(),
)  # fmt: skip
MISSING = object()


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    pytest.importorskip("nx_27017")
    with MongoServer() as started:
        yield started


def _fields() -> list[str]:
    return [
        "def", "filter", "plain", "digest", "status", "stage_from", "priority", "attempt", "max_attempts", "token",
        "available_at", "lease_until", "worker", "created_at", "started_at", "finished_at", "error", "cause", "log", "needs",
        "unmet", "model_name", "failed_by", "submission", "batches", "claim", "ending", "seq", "changed", "res", "history", "_id",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("field", _fields())
def test_any_value_in_any_field_of_a_document_affects_only_its_own_task(field: str, server: MongoServer) -> None:
    """The other tasks can be listed, claimed, committed, retried and removed."""
    with closing(MongoStore(f"{server.uri}/damaged_{field.strip('_')}")) as store:
        _try_all(store, field)


def _try_all(store: MongoStore, field: str) -> None:
    documents = store._database["pool"]
    manager = TaskManager("pool", store=store)
    other, waiting = manager.create_task([{"n": 1}, {"n": 2}])
    (dependent,) = manager.create_task([{"n": 3}], depends_on=[other])
    strange = 0
    for i, value in enumerate((*HOSTILE, MISSING)):
        (made,) = manager.create_task([{"strange": i}])
        (document,) = documents.find({"digest": made})
        documents.delete_one({"digest": made})
        changed = {**document, field: value}
        if value is MISSING:
            del changed[field]
        if field == "unmet" and isinstance(value, str):
            continue  # the emulator parses it as JSON
        with suppress(pymongo.errors.PyMongoError):  # the server does not accept every value in every field
            documents.insert_one(changed)
            strange += 1
    assert strange > 5
    assert len(list(store.query("pool", results=False))) == 3 + strange
    sum(store.count("pool").values())
    done = set()
    for _ in range(2):
        for task in store.claim("pool", worker="host:1:a", lease=60.0, limit=100):
            done.add(task.id)
            store.commit(task, {"ic": 1.0})
    assert {other, waiting, dependent} <= done
    store.open_submissions("pool")
    store.workers("pool", 0.0)
    store.expire("pool")
    assert store.set_status("pool", {"_id": other}, Status.FAILED) == 1
    assert store.retry("pool") >= 1
    assert store.replace("pool", other, {"n": 5}) != other
    assert store.get("pool", waiting).result == {"ic": 1.0}
    store.remove("pool")


def test_a_mongodb_result_that_is_not_a_pickle_names_its_task(
    server: MongoServer, request: pytest.FixtureRequest
) -> None:
    """The error names the task even if the result is a number: ``bytes(n)`` would create n zeros, and take as much
    memory."""
    request.addfinalizer((store := MongoStore(f"{server.uri}/results")).close)
    (made,) = store.create("pool", [{"n": 1}])
    (task,) = store.claim("pool", worker="host:1:a", lease=60.0)
    store.commit(task, {"ic": 1.0})
    for value in ("text", 10**12, [1], {"a": 1}, b"\x80"):
        store._database["pool"].update_one({"digest": made.id}, {"$set": {"res": value}})
        for read in (lambda: store.get("pool", made.id), lambda: list(store.query("pool"))):
            with pytest.raises(
                ArtifactUnreadable, match=f"The result of task {made.id} in pool 'pool' cannot be read: "
            ):
                read()


def test_documents_of_other_programs_run_or_fail_on_their_own(
    server: MongoServer, request: pytest.FixtureRequest
) -> None:
    """Documents with definitions that are not bytes, not a mapping, or too large, or with ids of any type, fail; tasks
    written by Qlib run."""
    request.addfinalizer((store := MongoStore(f"{server.uri}/strangers")).close)
    documents = store._database["pool"]
    definitions = [
        "text",
        10**12,
        None,
        [1],
        {"a": 1},
        pickle.dumps([1, 2]),
        b"\x80",
        pickle.dumps({"x": "a" * 5_000_000}),
    ]
    for i, value in enumerate(definitions):
        documents.insert_one({"_id": i, "def": value, "filter": {}, "status": "waiting", "res": None, "priority": 0})
    documents.insert_one({"_id": "not an ObjectId", "status": "waiting"})
    own = pickle.dumps({"n": 1})
    documents.insert_one({"def": bson.Binary(own), "filter": {"n": 1}, "status": "waiting", "res": None, "priority": 0})
    claimed = [t for _ in range(12) for t in store.claim("pool", worker="host:1:a", lease=60.0)]
    assert [t.definition for t in claimed] == [{"n": 1}]
    failed = list(store.query("pool", {"status": "failed"}, results=False))
    assert len(failed) == 9
    assert {t.cause for t in failed} == {Cause.UNREADABLE}


def test_damaged_facts_of_a_submission_are_ignored(
    tmp_path: Path, server: MongoServer, request: pytest.FixtureRequest
) -> None:
    """Workers read all submissions, so the others must stay readable."""
    for uri in (f"sqlite:///{tmp_path}/tasks.db", f"{server.uri}/facts"):
        request.addfinalizer((store := open_store(uri)).close)
        key = store.keep_submission("pool", {"data": None})
        bad = store.keep_submission("pool", {"data": 1})
        if uri.startswith("sqlite"):
            with sqlite3.connect(tmp_path / "tasks.db") as connection:
                connection.execute("UPDATE submissions SET facts = ? WHERE id = ?", ('{"$ts": 5}', bad))
            connection.close()
        else:
            store._meta.update_one({"key": bad}, {"$set": {"facts": 5}})
        assert store.submissions("pool") == {key: {"data": None}, bad: {}}


DEFINITIONS = [
    "{", "x\0y", "[" * 5000, "5", "", "null", '{"a": NaN}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"$tuple": 5}',
    '{"a": 1e400}', '{"a": ' + "9" * 5000 + "}", '{"\\u0000": 1}', '{"$ref": "os:system"}',
]  # fmt: skip


def test_damaged_tasks_are_copied_with_the_others(
    tmp_path: Path, server: MongoServer, request: pytest.FixtureRequest
) -> None:
    """A definition that is unreadable, or that the target database does not support, does not stop the copy."""
    source = open_store(f"sqlite:///{tmp_path}/tasks.db")
    request.addfinalizer(source.close)
    ids = [c.id for c in source.create("pool", [{"n": n} for n in range(len(DEFINITIONS) + 1)])]
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        for text, task_id in zip(DEFINITIONS, ids, strict=False):
            connection.execute("UPDATE tasks SET definition = ? WHERE id = ?", (text, task_id))
    connection.close()
    records = list(source.query("pool", results=False))
    with PostgresServer() if postgres_binaries() is not None else nullcontext() as postgres:
        for uri in (f"sqlite:///{tmp_path}/copy.db", f"{server.uri}/copied", *([postgres.uri] if postgres else [])):
            with closing(open_store(uri)) as store:
                assert store.put("pool", records) == len(records)
                assert {t.id for t in store.query("pool")} == set(ids)
                assert ids[-1] in [t.id for t in store.claim("pool", worker="host:1:a", lease=60.0, limit=99)]
