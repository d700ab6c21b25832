"""The command ``rollforge run`` on a Dask cluster, interrupted while it connects, sends data, writes runs, or waits."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import run as command
from tests.documents.definitions import SIGNAL, TWO_WINDOWS, dataset, expressions, stores, write_workflow
from tests.engine.conftest import Cluster
from tests.engine.tracks import wait_for

from rollforge.engine.modules import Named
from rollforge.engine.parcel import make_parcel
from rollforge.engine.reach import check_reachable
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.testing.server import free_port
from rollforge.track.base import open_tracker
from rollforge.track.tracker import RunQuery

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'rollforge[dask]'")
pytestmark = pytest.mark.slow

MODEL = """
import time
from pathlib import Path
from rollforge.models.linear import LinearModel

class Large(LinearModel):
    def fit(self, dataset, reweighter=None):
        super().fit(dataset, reweighter)
        Path({began!r}).touch()
        time.sleep({seconds})

    def saved_objects(self):
        return {{"large.pkl": b"x" * {size}}}
"""
WARNINGS = ("whether the model Large uses later days", "the cluster has not answered for")
SECONDS = 20.0
HANDLER = expressions("$close/Ref($close,1)-1")


class Driver:
    """A command that runs two windows."""

    def __init__(self, market: Path, folder: Path, address: str, *, size: int = 10, seconds: float = 0.0) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        code = MODEL.format(size=size, seconds=seconds, began=str(folder / "began"))
        (folder / "large.py").write_text(code, encoding="utf-8")
        task = {
            "model": {"class": "Large", "module_path": str(folder / "large.py")},
            "dataset": dataset(HANDLER, TWO_WINDOWS), "record": [SIGNAL],
        }  # fmt: skip
        document = {
            "rollforge": {**stores(market, folder, "on"), "cache": str(self.cache)}, "task": task,
            "rolling": {"step": 30, "rtype": "sliding", "trunc_days": "auto"},
        }  # fmt: skip
        self.workflow = write_workflow(folder / "job.yaml", document)
        self.arguments = ["run", str(self.workflow), "--output", str(folder / "out"), "--on"]
        words = [sys.executable, "-m", "rollforge", *self.arguments, f"dask://{address.rpartition('//')[2]}"]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def interrupt(self, *numbers: signal.Signals) -> None:
        """Send signals, and check how the command ends, what it says and what it leaves."""
        began = time.monotonic()
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.2)
        _, said = self.process.communicate(timeout=3 * SECONDS)
        assert time.monotonic() - began < SECONDS, said
        assert self.process.returncode == 130, said
        assert [line for line in said.splitlines() if line and not any(map(line.__contains__, WARNINGS))] == [
            "rollforge: interrupted. Running tasks were returned to the pool; run the same command to continue."
        ]
        (pool,) = (store := open_store(f"sqlite:///{self.folder}/tasks.db")).pools()
        tasks = list(store.query(pool))
        assert {(task.status, task.attempt, task.failed_by) for task in tasks} <= {
            (Status.WAITING, 0, ()), (Status.DONE, 0, ()),
        }  # fmt: skip
        self.check_runs(sum(task.status is Status.DONE for task in tasks))

    def check_runs(self, expected: int) -> None:
        """Check that the tracking store has one complete run of each task that is done, and nothing else."""
        runs = self.runs()
        assert [run.info.status for run in runs] == ["FINISHED"] * expected
        assert not [tag for run in runs for tag in run.tags if tag.startswith(("rollforge.copying", "rollforge.deliv"))]

    def runs(self) -> list[Any]:
        """Return the runs of tasks in the tracking store."""
        tracker = open_tracker(f"folder:{self.folder}/runs")
        found = tracker.search(list(tracker.experiments().values()), RunQuery()) if self.has_runs() else []
        return [run for run in found if "rollforge.joined" not in run.tags]

    def has_runs(self) -> bool:
        """Return whether a run was begun in the tracking store."""
        return (self.folder / "runs").exists()


@pytest.fixture
def start(small_market: Path, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts a command, which is killed at the end of the test."""
    started: list[Driver] = []

    def start(address: str, **options: Any) -> Driver:
        started.append(Driver(small_market, tmp_path, address, **options))
        return started[-1]

    yield start
    for driver in started:
        driver.process.kill()
        driver.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_scheduler_does_not_answer(number: signal.Signals, start: Callable[..., Driver]) -> None:
    """The scheduler accepts connections, as one that is stopped or overloaded does."""
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as kept:
        driver = start(f"127.0.0.1:{silent.getsockname()[1]}")
        for _ in range(2):  # a check that somebody accepts, and Dask's client
            silent.settimeout(60.0)
            kept.enter_context(silent.accept()[0])
        time.sleep(0.5)
        driver.interrupt(number)


def is_awaited(lock: Path) -> bool:
    """Return whether a process waits for a lock."""
    number = lock.stat().st_ino
    return any("->" in line and f":{number} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_while_a_machine_receives_the_panel(
    start: Callable[..., Driver], cluster: Cluster, small_market: Path, tmp_path: Path
) -> None:
    """The machine waits for another process that has locked the panel's place in its cache."""
    session = Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"))
    parcel = make_parcel([Named({"dataset": dataset(HANDLER, TWO_WINDOWS)}, own=True)], session)
    assert parcel is not None
    (panel,) = (Path(name) for name in parcel.manifest.folders if name.startswith("panels/"))
    lock = cluster.cache / panel.with_name(f".{panel.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        driver = start(cluster.address)
        wait_for(lambda: is_awaited(lock), "sending the panel")
        driver.interrupt(signal.SIGTERM)
    wait_for(lambda: cluster.sent("extracts"), "the end of writing in the machine's cache")


def test_while_runs_are_written(start: Callable[..., Driver], cluster: Cluster) -> None:
    """Ctrl-C is even pressed twice. The same command finishes the rest."""
    driver = start(cluster.address, size=60_000_000)

    def is_writing() -> bool:
        """Stop the driver, and let it go on if it writes no run at the moment."""
        if not driver.has_runs():
            return False
        driver.process.send_signal(signal.SIGSTOP)
        if any("rollforge.copying" in run.tags for run in driver.runs()):
            return True
        driver.process.send_signal(signal.SIGCONT)
        return False

    wait_for(is_writing, "writing a run")
    driver.interrupt(signal.SIGINT, signal.SIGCONT, signal.SIGINT)
    done = command(*driver.arguments, "local")
    assert done.returncode == 0, done.stderr
    driver.check_runs(4)


def test_while_the_scheduler_has_stopped(start: Callable[..., Driver], tmp_path: Path) -> None:
    """A task runs, and nothing answers any more."""
    port = free_port()
    options: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(port), "--no-dashboard"]
    processes = [subprocess.Popen(words, **options)]
    words = [sys.executable, "-m", "distributed.cli.dask_worker", f"127.0.0.1:{port}", "--nthreads", "1", "--no-nanny"]
    processes.append(subprocess.Popen([*words, "--no-dashboard"], **options))
    try:
        check_reachable(f"tcp://127.0.0.1:{port}", "Dask", 60.0)
        driver = start(f"127.0.0.1:{port}", seconds=90.0)
        wait_for((tmp_path / "began").exists, "a task")
        processes[0].send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        driver.interrupt(signal.SIGINT)
    finally:
        for process in processes:
            process.kill()
            process.wait()
