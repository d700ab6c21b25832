"""``rollforge serve watch``: a real process that runs a service when its data have a new day."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import ConfigError
from rollforge.ledger.base import open_ledger
from rollforge.ledger.state import ServiceState

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template

FIRST = DAYS.index(BEGIN)
PATIENCE = 240.0
LATER = DAYS[FIRST + 12]


@pytest.fixture
def market(tmp_path: Path) -> Market:
    made = Market(tmp_path / "data", prices())
    made.show(BEGIN)
    return made


@pytest.fixture
def uri(tmp_path: Path, market: Market) -> str:
    """The ledger of a service with a linear model and windows of four days."""
    rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    file = write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": template(), "rolling": rolling})
    uri = f"sqlite:///{tmp_path}/{os.getpid()}_{time.monotonic_ns()}.db"
    assert call("serve", "--ledger", uri, "init", file).exit_code == 0
    return uri


class Watch:
    """The process, and the lines that it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.errors: queue.Queue[str] = queue.Queue()
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.put(line)

    def line(self) -> dict[str, Any]:
        """Return the next line."""
        return self.lines.get(timeout=PATIENCE)

    def published(self) -> list[str]:
        """Return the days of the next line, all of which are published."""
        line = self.line()
        assert all(day["state"] == "published" for day in line["days"]), line
        return [day["day"] for day in line["days"]]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=PATIENCE)
        for reader in self._readers:
            reader.join()
        return code


@contextmanager
def watching(uri: str, *options: str) -> Iterator[Watch]:
    command = [sys.executable, "-m", "rollforge", "serve", "--ledger", uri, "watch", "--interval", "0.2", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Watch(process)
        finally:
            process.kill()


def state_of(uri: str) -> ServiceState:
    return ServiceState.of(open_ledger(uri).entries("served"))


def children(pid: int) -> list[int]:
    """Return the processes that run the service for a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_new_days_are_published_as_they_arrive(uri: str, market: Market) -> None:
    """One line for each run; no lease is held in between, and SIGTERM ends it with 0."""
    with watching(uri) as watch:
        assert watch.published() == [BEGIN]
        market.show(DAYS[FIRST + 2])
        days = watch.published()
        while days[-1:] != [DAYS[FIRST + 2]]:  # the folder is replaced in steps, and may have been read before the last
            days += watch.published()
        assert days == DAYS[FIRST + 1 : FIRST + 3]
        assert open_ledger(uri).held_by("served") is None
        assert watch.end() == 0
        assert watch.errors.empty(), list(watch.errors.queue)
    assert list(state_of(uri).signals())[-3:] == DAYS[FIRST : FIRST + 3]


@pytest.mark.slow
def test_a_signal_ends_it_after_the_current_day(uri: str, market: Market) -> None:
    """Of many due days some are published, each whole; the rest is done the next time. Also if all its processes get
    it."""
    market.show(DAYS[-1])
    due = DAYS[FIRST:]
    with watching(uri) as watch:
        deadline = time.monotonic() + PATIENCE
        while not state_of(uri).last_published and time.monotonic() < deadline:
            time.sleep(0.05)
        (child,) = children(watch.process.pid)
        os.kill(child, signal.SIGTERM)
        assert watch.end(signal.SIGINT) == 0
        line = watch.line()
    done = [day["day"] for day in line["days"]]
    assert done == due[: len(done)]
    assert 0 < len(done) < len(due)
    assert state_of(uri).last_published == done[-1]
    assert open_ledger(uri).held_by("served") is None


@pytest.mark.slow
def test_a_run_that_is_killed_is_tried_again(uri: str, market: Market) -> None:
    """As is one whose day has failed, at once when the data change."""
    market.show(LATER)
    with watching(uri) as watch:
        deadline = time.monotonic() + PATIENCE
        while not state_of(uri).last_published and time.monotonic() < deadline:
            time.sleep(0.05)
        (child,) = children(watch.process.pid)
        os.kill(child, signal.SIGKILL)
        line = watch.line()
        assert (line["error"], line["retry_in"]) == ("The process of the run was ended by signal 9.", 0.2)
        assert watch.published()[-1] == LATER
        assert watch.end() == 0
    assert [d for d in DAYS[FIRST : DAYS.index(LATER) + 1] if d not in state_of(uri).signals()] == []


@pytest.mark.slow
def test_a_day_that_failed_is_tried_again_when_the_data_change(uri: str, market: Market) -> None:
    """The wait doubles after each failure."""
    day = DAYS[FIRST + 1]
    prices_of_day = market.close.loc[day].copy()
    with watching(uri, "--interval", "1") as watch:
        assert watch.published() == [BEGIN]
        market.close.loc[day] = float("nan")
        market.show(day)
        waits = []
        while len(waits) < 3:
            line = watch.line()
            if line.get("days") and line["days"][0]["state"] == "failed":
                assert line["days"][0]["day"] == day
                waits.append(line["retry_in"])
        assert waits[-1] == 2 * waits[-2]
        market.close.loc[day] = prices_of_day
        market.show(day)
        line = watch.line()
        while not line.get("days") or line["days"][-1]["state"] != "published":
            line = watch.line()
        assert "retry_in" not in line
        assert watch.end() == 0
    assert state_of(uri).last_published == day


@pytest.mark.slow
def test_a_second_one_waits(uri: str, market: Market) -> None:
    """A second process reports once which process runs the service, and continues when that process has ended."""
    ledger = open_ledger(uri)
    lease = ledger.acquire("served", holder="server2:4711:9c1e7a2b-51873", seconds=600)
    with watching(uri) as watch:
        line = watch.line()
        assert line["running"] == {"holder": "server2:4711:9c1e7a2b-51873"}
        time.sleep(1.0)
        assert watch.lines.empty()
        ledger.release(lease)
        assert watch.published() == [BEGIN]
        assert watch.end() == 0


@pytest.mark.slow
def test_a_changed_workflow_is_an_error_until_it_is_recorded(uri: str, market: Market, tmp_path: Path) -> None:
    """Recording it starts a run at once."""
    with watching(uri, "--interval", "1") as watch:
        assert watch.published() == [BEGIN]
        (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text() + "\n# changed\n")
        market.show(DAYS[FIRST + 1])
        line = watch.line()
        assert "has changed since it was recorded" in line["error"]
        assert call("serve", "--ledger", uri, "init", tmp_path / "job.yaml").exit_code == 0
        while "error" in line:
            line = watch.line()
        assert line["last_published"] == DAYS[FIRST + 1]
        assert watch.end() == 0


@pytest.mark.slow
def test_http_answers_while_a_run_is_in_progress(uri: str, market: Market) -> None:
    """HTTP is served by the watching process, which needs no lease and shows who holds it."""
    pytest.importorskip("uvicorn", reason="pip install 'rollforge[serve]'")
    market.show(LATER)
    with watching(uri, "--http", "0") as watch:
        found = re.search(r"on http://127.0.0.1:(\d+)", watch.errors.get(timeout=PATIENCE))
        assert found
        answers: list[dict[str, Any]] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)) as connection:
                connection.request("GET", "/services/served")
                answers.append(json.loads(connection.getresponse().read()))
            if answers[-1]["last_published"] == LATER:
                break
        assert answers[-1]["last_published"] == LATER
        assert any(answer["running"] for answer in answers)
        assert watch.end() == 0


def test_what_cannot_be_watched(tmp_path: Path, uri: str) -> None:
    """A ledger in memory, one that does not exist, an unknown service, and an invalid address."""
    for ledger, options, message in (
        ("memory://x", [], "in the memory of this process"),
        (f"sqlite:///{tmp_path}/none.db", [], "There is no ledger at"),
        (uri, ["--http", "x"], "is not an address"),
        (uri, ["--http", "::1:80"], "is not an address"),
        (uri, ["--http", "127.0.0.1:70000"], "is not an address"),
    ):
        failed = call("serve", "--ledger", ledger, "watch", *options)
        assert message in str(failed.exception), (ledger, options)
    assert isinstance(call("serve", "--ledger", uri, "--service", "eu", "watch").exception, ConfigError)
