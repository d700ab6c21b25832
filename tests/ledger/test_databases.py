"""Properties of each ledger database: its file or tables, what else they contain, and lost responses."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient, errors as mongo

from rollforge.drivers import LEDGERS
from rollforge.errors import ConfigError, StoreUnavailable
from rollforge.ledger import mongo as mongo_ledger
from rollforge.ledger.base import open_ledger
from rollforge.ledger.memory import MemoryLedger
from rollforge.ledger.mongo import MongoLedger
from rollforge.ledger.postgres import PostgresLedger
from rollforge.ledger.sql_views import views
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status
from rollforge.testing.postgres import PostgresServer

NOTE = {"text": "note"}


def append(ledger: Any, number: int) -> None:
    lease = ledger.acquire("us", holder="me", seconds=60)
    ledger.append(lease, number, "later", NOTE)
    ledger.release(lease)


@pytest.mark.parametrize("ledger_first", [True, False])
def test_a_ledger_and_a_task_store_share_a_file(tmp_path: Path, ledger_first: bool) -> None:
    """Whichever is created first; neither changes the other's data."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    if ledger_first:
        append(SQLiteLedger(uri), 1)
    store = SQLiteStore(uri)
    store.create("pool", [{"x": 1}])
    ledger = SQLiteLedger(uri)
    append(ledger, len(ledger.entries("us")) + 1)
    assert (store.count("pool"), store.pools(), ledger.services()) == ({Status.WAITING: 1}, ["pool"], ["us"])
    assert len(SQLiteLedger(uri).entries("us")) == 1 + ledger_first


def test_the_file_is_private_and_its_entries_do_not_change(tmp_path: Path) -> None:
    """Another program cannot change or delete them by mistake either."""
    file = tmp_path / "ledger.db"
    append(SQLiteLedger(f"sqlite:///{file}"), 1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as raw:
        for statement in ("UPDATE ledger_entries SET body = ''", "DELETE FROM ledger_entries"):
            with pytest.raises(sqlite3.IntegrityError, match="never changed"):
                raw.execute(statement)


def test_a_reader_changes_no_file_and_no_table(tmp_path: Path, postgres: PostgresServer) -> None:
    """A missing file is not created, nor its folder; writing is refused by the database."""
    with pytest.raises(StoreUnavailable, match="There is no ledger at"):
        SQLiteLedger(f"sqlite:///{tmp_path}/no/ledger.db", read_only=True)
    with closing(sqlite3.connect(tmp_path / "empty.db")) as raw:
        raw.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreUnavailable, match="There is no ledger in"):
        SQLiteLedger(f"sqlite:///{tmp_path}/empty.db", read_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db"]
    uris = {SQLiteLedger: f"sqlite:///{tmp_path}/100%25 ?.db".replace("?", "ä"),
            PostgresLedger: f"{postgres.uri}?schema=ledger_reader"}  # fmt: skip
    for kind, uri in uris.items():
        ledger = kind(uri)
        append(ledger, 1)
        reader = kind(uri, read_only=True)
        with pytest.raises(StoreUnavailable, match=r"read-?only"):
            reader.acquire("us", holder="me", seconds=60)
        assert (len(reader.entries("us")), reader.held_by("us")) == (1, None)
        reader.close()
        ledger.close()


def test_files_of_other_programs_and_versions_are_refused(tmp_path: Path) -> None:
    """Nothing is added to them."""
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as raw:
        raw.execute("CREATE TABLE runs (id)")
    with pytest.raises(StoreUnavailable, match=r"another program.*--ledger"):
        SQLiteLedger(f"sqlite:///{tmp_path}/theirs.db")
    uri = f"sqlite:///{tmp_path}/newer.db"
    append(SQLiteLedger(uri), 1)
    with closing(sqlite3.connect(tmp_path / "newer.db")) as raw, raw:
        raw.execute("UPDATE ledger_version SET version = 99")
    with pytest.raises(StoreUnavailable, match=r"The ledger .* newer Rollforge"):
        SQLiteLedger(uri)


def views_of_version_1(prefix: str = "") -> list[str]:
    """Return what makes a ledger look as version 1 left it: with fewer views, and with one of other columns."""
    return [
        f"DROP VIEW {prefix}check_result",
        f"DROP VIEW {prefix}day",
        f"CREATE VIEW {prefix}day AS SELECT service, number AS entry FROM {prefix}ledger_entries",
        f"UPDATE {prefix}ledger_version SET version = 1",
    ]


def test_a_ledger_of_version_1_gets_the_current_views(tmp_path: Path, postgres: PostgresServer) -> None:
    """The entries of the ledger stay, in both databases."""
    file, place = tmp_path / "tasks.db", f"{postgres.uri}?schema=ledger_of_version_1"
    for cls, uri in ((SQLiteLedger, f"sqlite:///{file}"), (PostgresLedger, place)):
        ledger = cls(uri)
        append(ledger, 1)
        ledger.close()
    with closing(sqlite3.connect(file)) as raw, raw:
        for statement in views_of_version_1():
            raw.execute(statement)
    with psycopg.connect(postgres.uri, autocommit=True) as server:
        for statement in views_of_version_1("ledger_of_version_1."):
            server.execute(statement.encode())
    for cls, uri in ((SQLiteLedger, f"sqlite:///{file}"), (PostgresLedger, place)):
        ledger = cls(uri)
        append(ledger, 2)
        assert len(ledger.entries("us")) == 2
        ledger.close()
    text = "SELECT d.fallback, c.outcome FROM {0}day AS d LEFT JOIN {0}check_result AS c ON c.service = d.service"
    with closing(sqlite3.connect(file)) as raw, psycopg.connect(postgres.uri) as server:
        assert raw.execute(text.format("")).fetchall() == []
        assert server.execute(text.format("ledger_of_version_1.").encode()).fetchall() == []


def test_a_ledger_of_version_4_gets_the_current_views(tmp_path: Path) -> None:
    """In a ledger of version 4, the view of releases lacked the model that a challenger replaces."""
    ledger = SQLiteLedger(f"sqlite:///{tmp_path}/tasks.db")
    append(ledger, 1)
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as raw, raw:
        raw.execute("DROP VIEW release")
        raw.execute("CREATE VIEW release AS SELECT service, number AS entry FROM ledger_entries")
        raw.execute("UPDATE ledger_version SET version = 4")
    SQLiteLedger(f"sqlite:///{tmp_path}/tasks.db").close()
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as raw:
        assert raw.execute("SELECT instead_of FROM release").fetchall() == []


def test_views_change_with_the_version() -> None:
    """Existing ledgers get changed views only with a new version: add a migration, and then update the digest here.

    A ledger in MongoDB has no views, and the same version: older programs must not misread its entries either.
    """
    text = "\n".join(views(sqlite=True) + views(sqlite=False))
    current = (
        len(SQLiteLedger._migrations),
        len(PostgresLedger._migrations),
        mongo_ledger.SCHEMA_VERSION,
        hashlib.sha256(text.encode()).hexdigest(),
    )
    assert current == (5, 5, 5, "66a84afba6b517da5a7300a3fc677d80937a3d592e2fc34ceca4c961bc773ae6")


def test_a_ledger_and_a_task_store_share_a_schema(postgres: PostgresServer) -> None:
    """Entries cannot be changed there either, and a newer version is refused."""
    uri = f"{postgres.uri}?schema=shared_ledger"
    ledger, store = PostgresLedger(uri), PostgresStore(uri)
    store.create("pool", [{"x": 1}])
    append(ledger, 1)
    assert (store.pools(), ledger.services()) == (["pool"], ["us"])
    with psycopg.connect(postgres.uri, autocommit=True) as raw:
        for statement in (
            b"UPDATE shared_ledger.ledger_entries SET body = ''",
            b"TRUNCATE shared_ledger.ledger_entries",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="never changed"):
                raw.execute(statement)
        raw.execute("UPDATE shared_ledger.ledger_version SET version = 99")
    with pytest.raises(StoreUnavailable, match="newer Rollforge"):
        PostgresLedger(uri)
    store.close()
    ledger.close()


def test_leases_use_the_clock_of_the_server(postgres: PostgresServer) -> None:
    """The clock of this machine is not used."""
    ledger = PostgresLedger(f"{postgres.uri}?schema=ledger_clock_test")
    lease = ledger.acquire("us", holder="me", seconds=30)
    with psycopg.connect(postgres.uri) as raw:
        ((now,),) = raw.execute("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)").fetchall()
    assert now + 20 < lease.until <= now + 30
    ledger.close()


@pytest.fixture
def database(mongodb: str) -> Iterator[str]:
    uri = f"{mongodb.rstrip('/')}/rollforge_ledger_{os.getpid()}_own"
    yield uri
    with MongoClient(mongodb) as client:
        client.drop_database(uri.rpartition("/")[2])


@pytest.mark.parametrize("dies", ["before the copy", "after the copy"])
def test_an_entry_that_was_decided_is_complete(database: str, dies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process dies while it copies the entry to its collection, readers see the entry, and the next process
    continues."""
    ledger = MongoLedger(database)
    lease = ledger.acquire("us", holder="me", seconds=60)
    ledger.append(lease, 1, "later", NOTE)

    def fail(*arguments: object, **options: object) -> None:
        raise mongo.AutoReconnect("the connection was closed")

    with monkeypatch.context() as patched:
        if dies == "before the copy":
            patched.setattr(type(ledger._entries), "insert_one", fail)
        else:
            update = type(ledger._services).update_one

            def update_one(self: Any, condition: Any, change: Any, **options: Any) -> Any:
                return fail() if "pending.number" in condition else update(self, condition, change, **options)

            patched.setattr(type(ledger._services), "update_one", update_one)
        with pytest.raises(StoreUnavailable):
            ledger.append(lease, 2, "later", NOTE)
        other = MongoLedger(database)
        assert [e.number for e in other.entries("us")] == [1, 2]
        assert [e.number for e in other.entries("us", after=1)] == [2]
    assert ledger.append(lease, 2, "later", NOTE) == other.entries("us")[1]
    ledger.release(lease)
    append(other, 3)
    assert [e.number for e in ledger.entries("us")] == [1, 2, 3]
    assert ledger._entries.count_documents({}) == 3
    ledger.close()
    other.close()


def test_a_ledger_of_mongodb_is_refused_by_older_programs(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of version 1 gets the current version when it is opened for writing; readers leave it as it is."""
    ledger = MongoLedger(database)
    append(ledger, 1)
    versions = ledger._services
    versions.update_one({"_id": "/schema"}, {"$set": {"version": 1}})
    reader = MongoLedger(database, read_only=True)
    found = versions.find_one({"_id": "/schema"})
    assert (len(reader.entries("us")), found["version"]) == (1, 1)
    writer = MongoLedger(database)
    append(writer, 2)
    assert len(writer.entries("us")) == 2
    for older in (1, mongo_ledger.SCHEMA_VERSION - 1):
        monkeypatch.setattr(mongo_ledger, "SCHEMA_VERSION", older)
        for read_only in (False, True):
            with pytest.raises(StoreUnavailable, match="newer Rollforge"):
                MongoLedger(database, read_only=read_only)
    monkeypatch.undo()
    assert versions.find_one({"_id": "/schema"})["version"] == mongo_ledger.SCHEMA_VERSION
    for one in (ledger, reader, writer):
        one.close()


def test_a_ledger_and_a_task_store_share_a_database(database: str) -> None:
    """The collections of the ledger are no pools."""
    store, ledger = MongoStore(database), MongoLedger(database)
    store.create("pool", [{"x": 1}])
    append(ledger, 1)
    assert (store.pools(), ledger.services()) == (["pool"], ["us"])
    with pytest.raises(ConfigError, match="name of a collection"):
        store.create("rollforge_ledger", [{"x": 1}])
    store.close()
    ledger.close()


def test_ledgers_are_opened_by_their_uri(tmp_path: Path) -> None:
    """The same URI is the same ledger in a process; others can register schemes."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    assert open_ledger(uri) is open_ledger(uri)
    assert isinstance(open_ledger("memory://opened"), MemoryLedger)
    with pytest.raises(ConfigError, match="does not name a ledger"):
        open_ledger("sqlit:///x.db")
    LEDGERS.register("heap", "rollforge.ledger.memory:MemoryLedger")
    assert isinstance(open_ledger("heap://x"), MemoryLedger)
    LEDGERS.unregister("heap")
