"""``rollforge serve http``: the contents of the ledger over HTTP, and access control."""

from __future__ import annotations

import http.client
import importlib
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, MissingDependency, StoreUnavailable
from rollforge.ledger.base import open_ledger
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    Event,
    Level,
    Role,
    day_body,
    event_body,
    release_body,
    service_body,
)
from rollforge.testing.postgres import PostgresServer

from ..documents.command_line import call
from ..documents.growing import Market, prices
from .test_serve import FIRST, SECOND, fill, release

pytest.importorskip("starlette", reason="pip install 'rollforge[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'rollforge[serve]'")

from rollforge.cli.serve_http import HttpService
from rollforge.online.http import TOKEN_VARIABLE, listen, read_token
from rollforge.online.overview import Reader, entry_document, metrics

TOKEN = "a-token-of-some-length"


@pytest.fixture(params=["sqlite", "postgres", "mongodb", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"http_{uuid.uuid4().hex}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/{name}.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return f"{server.uri}?schema={name}"
    return (
        f"{request.getfixturevalue('mongodb').rstrip('/')}/{name}" if request.param == "mongodb" else f"memory://{name}"
    )


@pytest.fixture
def file_uri(tmp_path: Path) -> str:
    """A separate file: the folders of successive tests can have the same name."""
    return f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "services" / "us"


class Client:
    """A client of the HTTP service."""

    def __init__(self, service: HttpService) -> None:
        self.host, self.port = service.socket.getsockname()[:2]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """Return the status, the headers and the text of an answer."""
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=60)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def get(self, path: str, **headers: str) -> Any:
        """Return the JSON of an answer without an error."""
        status, found, text = self.ask(path, **headers)
        assert (status, found["content-type"]) == (200, "application/json"), text
        return json.loads(text)

    def error(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Return the status and the message of an error."""
        status, found, text = self.ask(path, method, **headers)
        assert found["content-type"] == "application/json", text
        (message,) = json.loads(text).values()
        return status, message


@contextmanager
def serving(uri: str, host: str = "127.0.0.1", token_file: Path | None = None) -> Iterator[Client]:
    with (
        HttpService.listening(host, 0, token_file) as service,
        closing(Reader(uri)) as reader,
        service.running(reader),
    ):
        yield Client(service)


def test_every_ledger_is_served(uri: str, folder: Path) -> None:
    """The same answers as those of the commands."""
    ledger = fill(uri, folder)
    with serving(uri) as client:
        assert client.get("/") == {"services": ["us"]}
        shown = json.loads(call("serve", "--ledger", uri, "status", "--json").stdout)
        assert client.get("/services/us") == shown
        latest = client.get("/services/us/signals")
        assert (latest["day"], latest["version"], latest["signals"]) == (SECOND, 1, {"A": 1.0})
        corrected = client.get(f"/services/us/signals?day={FIRST}")
        assert (corrected["version"], corrected["why"], corrected["signals"]) == (
            2,
            "late bars",
            {"A": 0.75, "B": None},
        )
        assert client.get(f"/services/us/signals?day={FIRST}&version=1")["signals"] == {"A": 0.5, "B": -0.25}
        assert client.get(f"/services/us/signals?day={FIRST}&as_of=3")["version"] == 1
        releases = [client.get(f"/services/us/releases?day={day}")["champions"] for day in (FIRST, SECOND)]
        assert [[r["recorder"] for r in found] for found in releases] == [["r1"], ["r2"]]
        assert client.get("/services/us/releases?as_of=2")["champions"][0]["recorder"] == "r1"
        history = client.get(f"/services/us/history?day={FIRST}")
        shown = json.loads(call("serve", "--ledger", uri, "history", "--day", FIRST, "--json").stdout)
        assert history == {"service": "us", **shown}
        status, _, text = client.ask("/health")
        assert (status, json.loads(text)["services"]["us"]["problems"]) == (503, ["2024-06-05 failed: no prices"])
        lease = ledger.acquire("us", holder="host:7", seconds=60)
        ledger.append(lease, 6, "day", day_body(DayResult("2024-06-05", DayState.PUBLISHED)))
        health = client.get("/health")
        assert (health["healthy"], health["services"]["us"]["running"]["holder"]) == (True, "host:7")
        assert client.get("/services/us")["last_published"] == "2024-06-05"
        ledger.release(lease)
    ledger.close()


def test_what_is_known_at_a_time_does_not_change(file_uri: str, folder: Path) -> None:
    """``as_of`` is the number of an entry, or a time, by default in UTC."""
    ledger = fill(file_uri, folder)
    after = ledger.entries("us")[-1].made_at + 1
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(after))
    with serving(file_uri) as client:
        for known in (text, f"{text}Z", f"{text}%2B00:00"):
            assert client.get(f"/services/us/signals?day={FIRST}&as_of={known}")["version"] == 2
        assert client.error(f"/services/us/signals?as_of={text}%2B12:00")[0] == 404
        assert client.error("/services/us/signals?as_of=2020-01-01")[0] == 404


def test_the_day_of_a_request_without_one(file_uri: str, folder: Path) -> None:
    """Signals and history are those of the last published day, and releases those of the day after it."""
    ledger = fill(file_uri, folder)
    lease = ledger.acquire("us", holder="me", seconds=60)
    ledger.append(lease, 6, "event", event_body([Event(Level.INFO, "a list", {"of": ["texts", 1, None]})]))
    challenger = release("r3", Role.CANDIDATE, "2024-06-05")
    ledger.append(lease, 7, "promotion", release_body([challenger], "set manually"))
    shown = [entry_document(entry) for entry in ledger.entries("us")]
    first, second = (
        release("r1", Role.CHAMPION, FIRST).to_document(),
        release("r2", Role.CHAMPION, SECOND).to_document(),
    )
    with serving(file_uri) as client:
        history = {"service": "us", "day": SECOND, "entries": [shown[2]], "champions": [second]}
        assert client.get("/services/us/history") == history
        models = {"champions": [second], "candidates": [challenger.to_document()]}
        assert client.get("/services/us/releases") == {"service": "us", "day": "2024-06-05", **models}
        models = {"champions": [first], "candidates": []}
        assert client.get("/services/us/releases?as_of=2") == {"service": "us", "day": SECOND, **models}
        assert client.get("/services/us/history?day=2024-06-05")["entries"] == [shown[4], shown[6]]
    ledger.close()


MISTAKES = [
    ("/nothing", 404, "There is nothing at /nothing."),
    ("/services/us/", 404, "There is nothing at /services/us/."),
    ("/services/eu", 404, "There is no service 'eu'."),
    ("/services/ü", 404, "There is no service 'ü'."),
    ("/services/%F0%9F%8D%8F%00/signals", 404, "There is no service "),
    ("/services/..%2F..%2Fetc/signals", 404, "There is nothing at "),
    ("/services/us/signals?day=2024-06-04T", 400, "day"),
    ("/services/us/signals?day=tomorrow", 400, "day"),
    ("/services/us/signals?day=", 400, "day"),
    (
        "/services/us/signals?day=2024-06-30",
        404,
        f"There are no signals of 2024-06-30. The last day with signals is {SECOND}.",
    ),
    (
        f"/services/us/signals?day={FIRST}&version=3",
        404,
        f"There is no version 3 of the signals of {FIRST}, only 1, 2.",
    ),
    (
        "/services/us/signals?version=999999999",
        404,
        f"There is no version 999999999 of the signals of {SECOND}, only 1.",
    ),
    ("/services/us/signals?version=1000000000", 400, "version must be a whole number, found '1000000000'."),
    ("/services/us/signals?version=-1", 400, "version must be a whole number, found '-1'."),
    ("/services/us/signals?version=1e3", 400, "version must be a whole number, found '1e3'."),
    ("/services/us/signals?version=%C2%B2", 400, "version must be a whole number, found '²'."),
    ("/services/us/signals?as_of=0", 404, "The service 'us' has no signals."),
    ("/services/us/signals?as_of=now", 400, "as_of must be the number of an entry, at most 5, or a time in the past"),
    ("/services/us/signals?as_of=6", 400, "as_of must be the number of an entry, at most 5, or a time in the past"),
    ("/services/us/signals?as_of=20200103", 404, "The service 'us' has no signals."),
    (
        "/services/us/signals?as_of=20990101",
        400,
        "as_of must be the number of an entry, at most 5, or a time in the past",
    ),
    (
        f"/services/us/signals?as_of=1&day={FIRST}",
        404,
        f"There are no signals of {FIRST}. No day has been published yet.",
    ),
    (
        "/services/us/releases?as_of=2099-01-01T00:00:00Z",
        400,
        "as_of must be the number of an entry, at most 5, or a time in",
    ),
    ("/services/us/signals?version=1&as_of=2", 400, "Give either version or as_of."),
    ("/services/us/signals?days=2024-06-03", 400, "Unknown argument 'days'; known: day, version, as_of."),
    ("/services/us/releases?version=1", 400, "Unknown argument 'version'; known: day, as_of."),
    ("/services/us/history?as_of=1", 400, "Unknown argument 'as_of'; known: day."),
    (f"/services/us/signals?day={FIRST}&day={SECOND}", 400, "The argument 'day' occurs twice."),
    ("/services/us/releases?day=31.31.2024", 400, "day"),
    ("/services/neü/history", 404, "The service 'neü' has not published a day."),
    *(
        (f"{path}?verbose=1", 400, "Unknown argument 'verbose'; there are none.")
        for path in ("/", "/health", "/metrics", "/services/us")
    ),
]


def test_mistakes_in_a_request(file_uri: str, folder: Path) -> None:
    """One message as JSON."""
    ledger = fill(file_uri, folder)
    ledger.append(ledger.acquire("neü", holder="me", seconds=60), 1, "service", service_body("neü", "the text"))
    ledger.close()
    with serving(file_uri) as client:
        for path, status, message in MISTAKES:
            found = client.error(quote(path, safe="/?=&%"))
            assert (found[0], found[1].startswith(message)) == (status, True), (path, found)
        assert "There is no service 'ü'" in client.ask("/services/%C3%BC")[2]  # not as an escape
        assert client.ask("/")[2] == '{"services": ["neü", "us"]}\n'


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(file_uri: str, folder: Path, method: str) -> None:
    """Only GET and HEAD are allowed; HEAD has the headers of GET and no body."""
    fill(file_uri, folder).close()
    with serving(file_uri) as client:
        status, headers, text = client.ask("/services/us", method)
        assert (status, json.loads(text)) == (405, {"error": f"{method} is not allowed, only GET and HEAD."})
        assert set(headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert "access-control-allow-origin" not in headers
        status, headers, text = client.ask("/services/us", "HEAD")
        assert (status, text, headers["content-length"]) == (200, "", client.ask("/services/us")[1]["content-length"])


def test_wrong_signals_are_not_served(file_uri: str, folder: Path) -> None:
    """A file that was changed or is missing is an error, also of the service's health."""
    ledger = fill(file_uri, folder)
    lease = ledger.acquire("us", holder="me", seconds=60)
    ledger.append(lease, 6, "day", day_body(DayResult("2024-06-05", DayState.PUBLISHED)))
    file = folder / "signals" / f"{SECOND}.v1.parquet"
    content = file.read_bytes()
    with serving(file_uri) as client:
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        status, message = client.error(f"/services/us/signals?day={SECOND}")
        assert (status, "were changed after they were published" in message) == (500, True)
        file.unlink()
        status, message = client.error(f"/services/us/signals?day={SECOND}")
        assert (status, "cannot be read" in message) == (500, True)
        assert client.get(f"/services/us/signals?day={FIRST}")["version"] == 2
    ledger.close()


def test_the_latest_signals_belong_to_the_health(file_uri: str, folder: Path) -> None:
    """503 if their file is missing."""
    fill(file_uri, folder).close()
    (folder / "signals" / f"{SECOND}.v1.parquet").unlink()
    with serving(file_uri) as client:
        status, _, text = client.ask("/health")
        problems = json.loads(text)["services"]["us"]["problems"]
        assert (status, len(problems), "cannot be read" in problems[1]) == (503, 2, True)


def test_days_that_are_due(file_uri: str, tmp_path: Path) -> None:
    """Those of the calendar from the first day of the service on that are not published, as they arrive."""
    market, ledger = Market(tmp_path / "data", prices()), open_ledger(file_uri)
    market.show("2024-06-04")
    lease = ledger.acquire("us", holder="me", seconds=60)
    workflow = {
        "path": "w.yaml",
        "text": "",
        "begin": "2024-06-03",
        "folder": str(tmp_path),
        "data": str(market.folder),
    }
    ledger.append(lease, 1, "service", service_body("us", workflow))
    with serving(file_uri) as client:
        assert client.get("/health")["services"]["us"]["due"] == ["2024-06-03", "2024-06-04"]
        ledger.append(lease, 2, "day", day_body(DayResult("2024-06-03", DayState.PUBLISHED)))
        market.show("2024-06-05")
        assert client.get("/health")["services"]["us"]["due"] == ["2024-06-04", "2024-06-05"]
        assert 'rollforge_days_due{service="us"} 2\n' in client.ask("/metrics")[2]
        (market.folder / "calendars" / "day.txt").unlink()
        status, _, text = client.ask("/health")
        assert (status, "calendars/day.txt" in text) == (503, True)
        assert "rollforge_days_due" not in client.ask("/metrics")[2]
    ledger.close()


def test_metrics(file_uri: str, folder: Path) -> None:
    """The type of their answer is that of Prometheus' text format, of which ``tests/online/test_overview.py`` has the text."""
    fill(file_uri, folder).close()
    with serving(file_uri) as client, closing(Reader(file_uri)) as reader:
        status, headers, text = client.ask("/metrics")
        assert text == metrics(reader) != ""
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


# -- who may ask -------------------------------------------------------------------------------------------------------


def test_other_addresses_require_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other addresses without a token are refused before anything listens; a token is long and has no spaces."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        with pytest.raises(ConfigError, match="must contain a token"):
            listen(host, 0, read_token(None))
    for text in ("", "short", "a token with spaces in it", "tökens-are-ascii-characters"):
        (tmp_path / "token").write_text(text)
        monkeypatch.setenv(TOKEN_VARIABLE, text)
        for file in (None, tmp_path / "token"):
            with pytest.raises(ConfigError, match="at least 16 characters") as info:
                read_token(file)
            assert not text or text not in str(info.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN


def test_a_token_has_16_visible_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fewer is refused. From then on, it is masked in texts."""
    for token in ("!" * 7 + "~" * 9, "0123456789-abcdef"):
        monkeypatch.setenv(TOKEN_VARIABLE, f" {token}\n")
        assert read_token(None) == token
        assert mask_secrets(f"refused: {token}") == "refused: ***"
    for token in ("0123456789-abcd", "0123456789-abcd\x7f"):
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        with pytest.raises(ConfigError, match="at least 16 characters"):
            read_token(None)


def test_with_a_token(file_uri: str, folder: Path, tmp_path: Path) -> None:
    """Every address requires it, also /health and unknown ones; any host name is allowed then."""
    fill(file_uri, folder).close()
    (tmp_path / "token").write_text(TOKEN)
    with serving(file_uri, "0.0.0.0", tmp_path / "token") as client:
        wrong = [
            "",
            TOKEN,
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            "Bearer \xe4",
        ]
        for path in ("/health", "/services/us", "/nothing", "/metrics"):
            status, headers, text = client.ask(path)
            assert (status, headers["www-authenticate"], "token" in text) == (401, "Bearer", True)
            for value in wrong:
                assert client.error(path, Authorization=value)[0] == 401, value
        assert client.error("/services/us", "POST")[0] == 401
        with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
            connection.putrequest("GET", "/services/us")
            for _ in range(2):
                connection.putheader("Authorization", f"Bearer {TOKEN}")
            connection.endheaders()
            assert connection.getresponse().status == 401
        for scheme in ("Bearer", "bearer"):
            found = client.get("/services/us", Authorization=f"{scheme} {TOKEN}", Host="dash.example.com")
            assert found["service"] == "us"


def test_a_page_of_another_site_cannot_read_it(file_uri: str, folder: Path) -> None:
    """On this machine, requests must name it as their host, so that no name of another site leads here."""
    fill(file_uri, folder).close()
    with serving(file_uri) as client:
        for host in (
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "",
            "localhost.",
            "[::2]",
            "[::1].evil",
        ):
            status, message = client.error("/services/us", Host=host)
            assert (status, message) == (400, "The Host header does not name this machine."), host
        for host in ("localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:8765"):
            assert client.get("/services/us", Host=host)["service"] == "us"


def test_secrets_are_masked(file_uri: str, folder: Path, tmp_path: Path) -> None:
    """Those of a workflow's text, which the history contains."""
    ledger = fill(file_uri, folder)
    lease = ledger.acquire("us", holder="me", seconds=60)
    error = "postgresql://ann:hunter22@db/x refused"
    ledger.append(lease, 6, "day", day_body(DayResult("2024-06-06", DayState.FAILED, error=error)))
    with serving(file_uri) as client:
        for path in ("/services/us/history?day=2024-06-06", "/health"):
            text = client.ask(path)[2]
            assert ("hunter22" in text, "ann:***@db" in text) == (False, True)
    ledger.close()


def test_answers_reveal_nothing_else(file_uri: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the name of the server nor, in the log, the requests; they are not stored or guessed to be pages."""
    fill(file_uri, folder).close()
    with caplog.at_level(logging.INFO), serving(file_uri) as client:
        for path in ("/services/us", "/metrics", "/nothing"):
            headers = client.ask(path)[1]
            found = (headers["cache-control"], headers["x-content-type-options"], headers["server"])
            assert found == ("no-store", "nosniff", None)
        assert client.ask("/services/us", Host="evil")[1]["cache-control"] == "no-store"
    assert [record.getMessage() for record in caplog.records if "/services/us" in record.getMessage()] == []


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_ledger_that_does_not_exist(file_uri: str, tmp_path: Path) -> None:
    """A ledger that does not exist is an error at the start, and is not created."""
    with pytest.raises(StoreUnavailable, match="There is no ledger at"):
        Reader(file_uri)
    failed = call("serve", "--ledger", file_uri, "http", "--port", 0)
    assert isinstance(failed.exception, StoreUnavailable)
    assert not list(tmp_path.glob("*.db"))


def test_a_service_that_does_not_exist(file_uri: str, folder: Path) -> None:
    """With a misspelt name, a ledger without problems would be served."""
    fill(file_uri, folder).close()
    failed = call("serve", "--ledger", file_uri, "--service", "su", "http", "--port", 0)
    assert str(failed.exception) == "There is no service 'su' in the ledger."


def test_a_file_with_a_token_that_cannot_be_read(file_uri: str, tmp_path: Path) -> None:
    """The message names the file, and is not masked as if it were the token."""
    failed = call("serve", "--ledger", file_uri, "http", "--port", 0, "--token-file", tmp_path / "none")
    assert mask_secrets(str(failed.exception)) == (
        f"The file with the token, '{tmp_path}/none', cannot be read: No such file or directory. "
        "Give another one with --token-file."
    )


def test_a_ledger_that_cannot_be_read(file_uri: str, folder: Path, tmp_path: Path) -> None:
    """503 with one message, until it exists again; then its current contents, even if it was replaced."""
    fill(file_uri, folder).close()
    file = Path(file_uri.removeprefix("sqlite:///"))
    with serving(file_uri) as client:
        assert client.get("/services/us")["entries"] == 5
        for ending in ("", "-wal", "-shm"):
            Path(f"{file}{ending}").unlink(missing_ok=True)
        for path in ("/health", "/metrics", "/services/us"):
            status, message = client.error(path)
            assert (status, "ledger cannot be read" in message, str(tmp_path) in message) == (503, True, False)
        other = open_ledger(f"sqlite:///{tmp_path}/other.db")
        lease = other.acquire("us", holder="me", seconds=60)
        other.append(lease, 1, "event", event_body([Event(Level.INFO, "a")]))
        other.close()
        os.replace(tmp_path / "other.db", file)
        assert client.get("/services/us")["entries"] == 1


def test_failures_of_the_ledger(file_uri: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """500 with the reason for a damaged entry, as JSON; only the log has that of an error which is not expected."""
    fill(file_uri, folder).close()
    with closing(sqlite3.connect(file_uri.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("INSERT INTO ledger_entries VALUES ('us', 6, 'day', '{}', 1, 0.0, '')")
    damaged = "Entry 6 of the service 'us' is damaged: day: An entry of the kind day requires 'day'."
    with serving(file_uri) as client:
        assert client.error("/services/us") == (500, damaged)
        assert client.get("/") == {"services": ["us"]}
    assert f"/services/us: {damaged}" in caplog.messages
    ledger = open_ledger("memory://failing")

    def fail() -> list[str]:
        raise RuntimeError("no route to postgresql://ann:hunter22@db/x")

    with pytest.MonkeyPatch.context() as patch, serving("memory://failing") as client:
        patch.setattr(ledger, "services", fail)
        assert client.error("/") == (500, "The request failed. The log of the HTTP service has the reason.")
    assert "/: RuntimeError: no route to postgresql://ann:***@db/x" in caplog.messages


@pytest.mark.slow
def test_reading_while_a_routine_appends(file_uri: str, folder: Path) -> None:
    """Requests from several threads see whole entries, in order, while a process appends them."""
    fill(file_uri, folder).close()
    script = (
        "import sys\nfrom rollforge.ledger.base import open_ledger\n"
        "from rollforge.ledger.entry import DayResult, DayState, day_body\n"
        "ledger = open_ledger(sys.argv[1])\n"
        "for number in range(6, 206):\n"
        "    lease = ledger.acquire('us', holder='routine', seconds=60)\n"
        "    ledger.append(lease, number, 'day', day_body(DayResult('2024-07-01', DayState.FAILED, error=str(number))))\n"
        "    ledger.release(lease)\n"
    )
    seen: list[list[int]] = []
    with serving(file_uri) as client:
        done = threading.Event()

        def ask() -> None:
            counts = []
            while not done.is_set():
                counts.append(client.get("/services/us")["entries"])
            seen.append(counts)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        writer = subprocess.run([sys.executable, "-c", script, file_uri], capture_output=True, text=True, timeout=300)
        done.set()
        for thread in threads:
            thread.join()
        assert writer.returncode == 0, writer.stderr
        assert client.get("/services/us")["entries"] == 205
    assert all(counts == sorted(counts) for counts in seen)
    assert len({count for counts in seen for count in counts}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command(file_uri: str, folder: Path, number: signal.Signals) -> None:
    """The command prints its address, and exits with 0 when it is interrupted."""
    fill(file_uri, folder).close()
    command = [sys.executable, "-m", "rollforge", "serve", "--ledger", file_uri, "http", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"on http://127.0.0.1:(\d+)$", line)
            assert found, (line, process.stderr and process.stderr.read())
            with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)) as connection:
                connection.request("GET", "/services/us/signals")
                assert json.loads(connection.getresponse().read())["signals"] == {"A": 1.0}
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


def test_the_extra_is_named_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "rollforge.online.http")
    with pytest.raises(MissingDependency, match=r"Install them: pip install 'rollforge\[serve\]'"):
        importlib.import_module("rollforge.online.http")


def test_an_address_that_is_in_use(file_uri: str, folder: Path) -> None:
    """There is one message."""
    fill(file_uri, folder).close()
    with serving(file_uri) as client:
        failed = call("serve", "--ledger", file_uri, "http", "--port", client.port)
        assert re.match(rf"Cannot listen on 127.0.0.1 port {client.port}: .*in use", str(failed.exception))


def test_an_address_of_an_interface() -> None:
    """The interface of a link-local address is not lost, whether or not this machine has that address."""
    _, interface = socket.if_nameindex()[0]
    reason = ""
    try:
        listen(f"fe80::1%{interface}", 0, TOKEN).close()
    except ConfigError as exc:
        reason = str(exc)
    assert reason.startswith(f"Cannot listen on fe80::1%{interface} port 0: ") or not reason
    assert "Invalid argument" not in reason
