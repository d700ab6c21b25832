"""The progress of a run on a terminal, also one of hundreds of processes."""

from __future__ import annotations

import io
import itertools
import time
from pathlib import Path

import pytest
from rich.console import Console

from rollforge.cli import progress as module
from rollforge.cli.progress import RunProgress
from rollforge.run.job import Event


def shown(progress: RunProgress) -> list[str]:
    """Return the lines below those that have been printed."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as captured:
        console.print(progress._render())
    return [line.strip() for line in captured.get().splitlines()]


def named(line: str) -> str:
    """Return the task that a line of the running ones names."""
    return line.removeprefix("running").strip().rpartition("  ")[0].strip()


@pytest.fixture
def terminal() -> Console:
    """A terminal with twelve lines."""
    return Console(file=io.StringIO(), width=80, height=12, force_terminal=True, color_system=None)


def test_tasks_that_do_not_fit_are_counted(terminal: Console, tmp_path: Path) -> None:
    """Half of the terminal's lines show running tasks, the longest first."""
    labels = {f"id{i}": f"window {i}" for i in range(9)}
    with RunProgress(labels, done=0, jobs=8, console=terminal, log_file=tmp_path / "run.log") as progress:
        for task_id in labels:
            progress(Event("started", task_id, "w"))
        *lines, last = shown(progress)[1:]
        assert [named(line) for line in lines] == [f"window {i}" for i in range(6)]
        assert last == "and 3 more"
        for i in range(3):
            progress(Event("done", f"id{i}", "w", 1.0))
        lines = [line for line in shown(progress) if line.startswith(("running", "and"))]
        assert [named(line) for line in lines] == [f"window {i}" for i in range(3, 9)]


def test_each_task_that_ends_is_printed_once(
    terminal: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that end within a quarter of a second are printed together; until then they are shown above the bar."""
    moments = itertools.count(100.0, 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(module, "_PRINT_SECONDS", 1e6)
    labels = {f"id{i}": f"window {i}" for i in range(3)}
    with RunProgress(labels, done=0, jobs=1, console=terminal, log_file=tmp_path / "run.log") as progress:
        progress._print()
        for task_id in labels:
            progress(Event("done", task_id, "w", 1.5))
        assert [line for line in shown(progress) if line.startswith("done")] == [
            "done     window 0 in 1.5 s, about 0:03 left",
            "done     window 1 in 1.5 s, about 0:02 left",
            "done     window 2 in 1.5 s",
        ]
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert text[text.rindex("window 0") :].count("\n") >= 3  # printed, and nothing drawn over it
    log = (tmp_path / "run.log").read_text()
    assert [log.count(f"done     window {i}") for i in range(3)] == [1, 1, 1]


def test_without_a_terminal_each_line_is_printed_at_once(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, color_system=None)
    labels = {f"id{i}": f"window {i}" for i in range(3)}
    with RunProgress(labels, done=0, jobs=1, console=console, log_file=tmp_path / "run.log") as progress:
        for i, task_id in enumerate(labels):
            progress(Event("done", task_id, "w", 1.0))
            assert output.getvalue().count("done") == i + 1
