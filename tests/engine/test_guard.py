"""The process beside an agent: what it notes about the end of the agent and of its worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.tracks import is_alive, wait_for

AGENT = """
import os, sys, time
from rollforge.engine.guard import STARTING, Guard

folder, note, *said = sys.argv[1:]
guard = Guard(folder, note)
for pid in said:
    guard.allow(time.monotonic() + 60.0, int(pid))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def task() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes the place of a worker process, although the agent is not its parent."""
    with subprocess.Popen(
        [sys.executable, "-c", "held = b'x' * 100_000_000; input()"], stdin=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def start(folder: Path, *said: int) -> subprocess.Popen[str]:
    """Start a process that tells its guard the ids of worker processes."""
    (folder / "agent").mkdir()
    command = [sys.executable, "-c", AGENT, str(folder / "agent"), str(folder / "notes" / "one"), *map(str, said)]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    assert agent.stdout.readline() == "ready\n"
    return agent


def end(agent: subprocess.Popen[str]) -> None:
    agent.kill()
    agent.communicate()


def test_the_end_of_the_worker_process_of_a_killed_agent_is_noted(
    task: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """With the memory that the process used. Notes of long ago are removed."""
    note, old = tmp_path / "notes" / "one", tmp_path / "notes" / "old"
    agent = start(tmp_path, task.pid)
    old.parent.mkdir()
    old.touch()
    os.utime(old, (0, 0))
    time.sleep(0.5)
    assert not note.exists()
    end(agent)
    wait_for(note.exists, "the note")
    assert not is_alive(task.pid)
    assert 1e8 < int(note.read_text()) < 2e8
    assert [file.name for file in note.parent.iterdir()] == ["one"]


def test_nothing_is_noted_of_an_agent_that_is_stopped(task: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Such an agent may go on, and start another process."""
    agent = start(tmp_path, task.pid)
    os.kill(agent.pid, signal.SIGSTOP)
    task.kill()
    time.sleep(1.0)
    assert not (tmp_path / "notes").exists()
    end(agent)
    wait_for((tmp_path / "notes" / "one").exists, "the note")


def test_nothing_is_noted_while_a_process_is_starting(task: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The agent was killed before it could say which one: the task waits until the process must have ended."""
    agent = start(tmp_path, task.pid, -1)
    end(agent)
    wait_for(lambda: not (tmp_path / "agent").exists(), "the end of the guard")
    wait_for(lambda: not is_alive(task.pid), "the end of the process")
    assert not (tmp_path / "notes").exists()
