"""Connections that break after the server has executed a request and before its response arrives."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rollforge.errors import LeaseLost, StoreUnavailable
from rollforge.run.job import Job, ignore_event
from rollforge.run.leases import Leases
from rollforge.store.base import TaskStore
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.task import Status, digest

_numbers = itertools.count()


class Proxy:
    """Relays between a client and a server, and can drop the server's next response."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._cut: bytes | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, mark: bytes) -> None:
        """Break the connection when the server has responded to the next request that contains `mark`."""
        self._cut = mark

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                doomed = threading.Event()
                for source, target, asks in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=(source, target, doomed, asks), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, doomed: threading.Event, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asks and self._cut is not None and self._cut in data:
                    self._cut = None
                    doomed.set()
                if not asks and doomed.is_set():
                    # The first part of the response; the response is complete when no more data arrive.
                    source.settimeout(0.3)
                    with contextlib.suppress(TimeoutError):
                        while source.recv(65536):
                            pass
                    self.cuts += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(params=["postgres", "mongodb"])
def stores(request: pytest.FixtureRequest) -> Iterator[tuple[TaskStore, TaskStore, Proxy]]:
    """A store that is opened through a proxy, the same store opened directly, and the proxy."""
    name = f"lost{next(_numbers)}"
    if request.param == "postgres":
        uri = f"{request.getfixturevalue('postgres').uri}?schema={name}"
    else:
        uri = f"{request.getfixturevalue('mongodb').rstrip('/')}/{name}"
    port = int(uri.rpartition("/")[0].rpartition(":")[2])
    proxy = Proxy(port)
    kind: Callable[[str], TaskStore] = PostgresStore if request.param == "postgres" else MongoStore
    through, direct = kind(uri.replace(f":{port}", f":{proxy.port}")), kind(uri)
    yield through, direct, proxy
    direct.remove("p")
    through.close()
    direct.close()
    proxy.close()


def retried(call: Callable[[], Any]) -> Any:
    """Call as a worker does: retry if the store was unavailable or its response was lost."""
    for _ in range(20):
        try:
            return call()
        except StoreUnavailable:
            time.sleep(0.05)
    raise AssertionError("the store stays unavailable")


def mark(store: TaskStore, postgres: bytes, mongodb: bytes) -> bytes:
    """Return the text that marks the request whose response is lost."""
    return postgres if isinstance(store, PostgresStore) else mongodb


def test_a_claim_whose_response_is_lost_has_no_other_effect(stores: tuple[TaskStore, TaskStore, Proxy]) -> None:
    """The repeated claim returns the same task and token; the other tasks are not affected, and no attempt is
    counted."""
    through, direct, proxy = stores
    through.create("p", [{"x": 1}, {"x": 2}])
    proxy.cut(mark(through, b"SKIP LOCKED", b"started_at"))
    (task,) = retried(lambda: through.claim("p", worker="w", lease=60, claim="one"))
    assert proxy.cuts == 1
    kept = direct.get("p", task.id)
    assert (kept.status, kept.token, kept.attempt) == (Status.RUNNING, task.token, 0)
    assert direct.count("p") == {Status.WAITING: 1, Status.RUNNING: 1}
    through.commit(task, "result")
    assert direct.get("p", task.id).result == "result"


def test_tasks_are_created_once_when_the_response_is_lost(stores: tuple[TaskStore, TaskStore, Proxy]) -> None:
    """When the call is repeated after a lost response, they exist once, with all their settings, and are reported as
    new."""
    through, direct, proxy = stores
    proxy.cut(mark(through, b"COMMIT", b"upsert"))
    direct.create("p", [{"x": 2}], priority=3)
    made = retried(lambda: through.create("p", [{"x": 1}, {"x": 2}], priority=3, batch="b", creation="one"))
    assert proxy.cuts == 1
    assert [c.new for c in made] == [True, False], "as returned by the first call"
    assert [c.id for c in made] == [digest({"x": 1}), digest({"x": 2})]
    assert [t.priority for t in direct.query("p", batch="b")] == [3, 3]
    assert direct.count("p") == direct.count("p", batch="b") == {Status.WAITING: 2}


@pytest.mark.parametrize("end", ["commit", "fail", "give back", "renew"])
def test_a_claim_ends_once_when_the_response_is_lost(stores: tuple[TaskStore, TaskStore, Proxy], end: str) -> None:
    """The repeated call succeeds as if the first response had arrived; dependent tasks are unblocked once."""
    through, direct, proxy = stores
    (first,) = through.create("p", [{"x": 1}])
    through.create("p", [{"x": 2}], depends_on=[first.id])
    (task,) = through.claim("p", worker="w", lease=60)
    calls: dict[str, Callable[[], Any]] = {
        "commit": lambda: through.commit(task, "result"),
        "fail": lambda: through.fail(task, "boom"),
        "give back": lambda: through.give_back(task),
        "renew": lambda: through.renew(task, 600),
    }
    whole = b"ending" if end == "commit" else b"COMMIT"  # a commit is a single statement
    proxy.cut(mark(through, whole, b"lease_until" if end == "renew" else b"ending"))
    retried(calls[end])
    assert proxy.cuts == 1
    kept = direct.get("p", task.id)
    expected = {"commit": (Status.DONE, 0), "fail": (Status.WAITING, 1), "give back": (Status.WAITING, 0)}
    assert (kept.status, kept.attempt) == expected.get(end, (Status.RUNNING, 0))
    assert direct.get("p", digest({"x": 2})).blocked is not (end == "commit")
    if end != "renew":
        with pytest.raises(LeaseLost):
            direct.renew(task, 60)


def test_a_worker_loses_no_task_when_responses_are_lost(stores: tuple[TaskStore, TaskStore, Proxy]) -> None:
    """A worker repeats its calls, and every task is done at its first attempt."""
    through, direct, proxy = stores
    through.create("p", [{"x": i} for i in range(6)])
    with Leases(through, Job("p", len), "w", ignore_event) as leases:
        for i in range(6):
            proxy.cut(mark(through, b"SKIP LOCKED", b"started_at") if i % 2 else b"ending")
            (task,) = leases.take(1)
            leases.commit(task, task.definition["x"], "", 0.0)
    assert proxy.cuts >= 5
    assert [(t.status, t.result, t.token > 0) for t in direct.query("p")] == [(Status.DONE, i, True) for i in range(6)]
    assert {t.attempt for t in direct.query("p")} == {0}
