"""A dashboard that is served to a test, and a pool that it shows."""

from __future__ import annotations

import datetime as dt
import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from rollforge.dashboard.app import make_app
from rollforge.dashboard.pages import Pages
from rollforge.dashboard.pools import PoolReader
from rollforge.dashboard.runs import RunReader
from rollforge.online.http import listen, make_server
from rollforge.task import Definition


def definition(seed: int, month: int, **more: object) -> Definition:
    """Return a task whose test segment is one month of 2020."""
    first = dt.date(2020, month, 1)
    last = dt.date(2020 + month // 12, month % 12 + 1, 1) - dt.timedelta(days=1)
    segments = {"train": (dt.date(2018, 1, 1), first - dt.timedelta(days=1)), "test": (first, last)}
    return {
        "model": {"class": "LGBModel", "kwargs": {"seed": seed, "loss": "mse", **more}},
        "dataset": {"kwargs": {"handler": {"class": "Alpha158"}, "segments": segments}},
    }


@dataclass(frozen=True)
class Answer:
    """An answer of the dashboard."""

    code: int
    text: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Served:
    """A dashboard and its address."""

    address: str

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def ask(self, method: str, path: str, body: str = "", headers: Mapping[str, str] = {}) -> Answer:
        where = urlsplit(self.address)
        with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)) as connection:
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            return Answer(answer.status, text, {k.lower(): v for k, v in answer.getheaders()})


@contextmanager
def serving(
    store_uri: str, tracking_uri: str = "folder:/nowhere", token: str | None = None, *, local: bool = True
) -> Iterator[Served]:
    """Serve a store on a free port for a ``with`` block."""
    with listen("127.0.0.1", 0, token) as socket, closing(PoolReader(store_uri)) as pools:
        pages = Pages(pools, RunReader(pools.store, tracking_uri, given=True))
        server = make_server(make_app(pages, token, local=local, ended=lambda: server.should_exit))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{socket.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()
