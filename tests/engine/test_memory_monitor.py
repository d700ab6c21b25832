"""Ray's memory monitor ends agents of a machine that is short of memory.

The machine is this one, but Ray reads how much memory it has, and how much of it is used, from files of the test: in a
mount namespace of its own they take the place of those in which Linux says what a container uses.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.tracks import is_alive, meanwhile, running, tracks, wait_for

from rollforge.engine.executors import Ray
from rollforge.engine.guard import resident
from rollforge.engine.reach import check_reachable
from rollforge.run.job import Event
from rollforge.task import Cause, Status
from rollforge.testing.executor import RunTasks
from rollforge.testing.server import free_port

pytest.importorskip("ray", reason="ray is not installed: pip install 'rollforge[ray]'")
pytestmark = pytest.mark.slow

TOTAL, THRESHOLD, OTHERS, LARGE = 1_000_000_000, 0.8, 300_000_000, 700_000_000
"""Bytes of the machine, the fraction at which Ray ends agents, bytes that other programs use, bytes of the large task."""


class Memory:
    """The files in which Ray reads how much memory is used: by other programs, and by the processes of tasks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "memory"
        self._folder.mkdir()
        self._write("memory.limit_in_bytes", f"{TOTAL}\n")
        self.tell(0)

    def tell(self, used: int) -> None:
        """Say that tasks use some bytes."""
        used += OTHERS
        self._write("memory.usage_in_bytes", f"{used}\n")
        self._write("memory.stat", f"total_cache 0\ntotal_rss {used}\ntotal_inactive_file 0\ntotal_active_file 0\n")

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.new"
        new.write_text(text)
        new.replace(self._folder / name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as Ray's sockets need."""
    name = tempfile.mkdtemp(prefix="ray-")
    yield Path(name)
    shutil.rmtree(name, ignore_errors=True)


@pytest.fixture
def memory(folder: Path) -> Memory:
    (folder / "cgroup").mkdir()
    return Memory(folder / "cgroup")


@pytest.fixture
def address(folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one machine with two cores."""
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip(
            "a mount namespace needs root privileges: sudo -E python -m pytest tests/engine/test_memory_monitor.py"
        )
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token in the home directory would turn it on
    for name, value in (("memory_usage_threshold", THRESHOLD), ("memory_monitor_refresh_ms", 100)):
        monkeypatch.setenv(f"RAY_{name}", f"{value}")
    port = free_port()
    start = (
        f"mount --bind {folder}/cgroup /sys/fs/cgroup && exec {sys.executable} -m ray.scripts.scripts start --head --block "
        f"--port {port} --ray-client-server-port {free_port()} --num-cpus 2 --memory 500000000 "
        f"--object-store-memory 100000000 --include-dashboard False --disable-usage-stats --temp-dir {folder}/ray"
    )
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", start], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: b"block forever" in (folder / "log").read_bytes() or head.poll() is not None, "Ray", 150.0)
        assert head.poll() is None, (folder / "log").read_text()
        check_reachable(f"127.0.0.1:{port}", "Ray")
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()  # it ends its processes
        head.wait(60)


def test_the_task_that_uses_the_memory_fails_and_the_other_one_runs_again(
    address: str, memory: Memory, tmp_path: Path
) -> None:
    """Ray ends both agents, the older and the newer one; the attempt of the small task does not count."""
    stamps, end, go, events = tmp_path / "stamps", tmp_path / "end", tmp_path / "go", list[Event]()
    stamps.mkdir()
    run = RunTasks(Ray(address, jobs=2), tmp_path)
    small = {"do": "stamp", "stamps": str(stamps), "seconds": 120.0, "end": str(end)}
    done = threading.Event()

    def measure() -> None:
        while not done.wait(0.05):
            attempts = [attempt for found in tracks(stamps).values() for attempt in found]
            memory.tell(sum(resident(attempt.pid) for attempt in attempts if is_alive(attempt.pid)))
            if running(stamps, 0) and running(stamps, 1):
                go.touch()  # both run: the large task may begin to use memory
            if any(event.kind == "failed" for event in events):
                end.touch()

    with meanwhile(measure):
        try:
            tasks = run({**small, "bytes": LARGE, "go": str(go)}, small, on_event=events.append)
        finally:
            done.set()
    large, other = tasks
    assert (large.status, large.cause, large.attempt) == (Status.FAILED, Cause.OUT_OF_MEMORY, 1), large
    assert "low on memory" in str(large.error)
    assert (other.status, other.attempt) == (Status.DONE, 0), other
    assert len(tracks(stamps)[1]) == 2  # so that the test says something about it
    assert not any(is_alive(attempt.pid) for found in tracks(stamps).values() for attempt in found)
