"""Live progress of a run: a bar and the running tasks on a terminal, plain lines elsewhere and in the log file."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rollforge.cli.terminal import one_line
from rollforge.confidential import private_file
from rollforge.errors import counted, printable
from rollforge.run.job import Event
from rollforge.run.progress import clock

__all__ = ["RunProgress"]


_LEAST_SHOWN = 4
"""Running tasks that are shown on a terminal of any height; on most, they take half of its lines."""
_PRINT_SECONDS = 0.25
"""Seconds between two updates. Each draws all running tasks again; with hundreds of processes, the one that hands out their tasks
would be busy with nothing else."""


class RunProgress:
    """Shows the progress of an executor.

    Parameters
    ----------
    labels : mapping
        Task id -> label of the task ("ridge, window 3, test 2016-01-04 … 2016-03-30").
    done : int
        Number of tasks that were already done.
    jobs : int, optional
        Number of tasks that run at the same time, for estimating the remaining time; by default as many as have been seen.
    console : Console
        Output: a bar if it is a terminal, otherwise one line per task.
    log_file : path
        Receives a plain line for each event in any case.
    cluster : bool
        Whether tasks run on a cluster, whose machines may have to start first.
    """

    def __init__(
        self, labels: Mapping[str, str], *, done: int, jobs: int | None, console: Console, log_file: Path,
        cluster: bool = False,
    ) -> None:  # fmt: skip
        self.labels = labels
        self.total = len(labels)
        self.done_before = done
        self.jobs = jobs
        self.cluster = cluster
        self._most = 1
        self.console = console
        self.log_file = log_file
        self.finished = 0
        self.failed = 0
        self.seconds = 0.0
        self.running: dict[str, float] = {}
        self.began = time.monotonic()
        self._unprinted: list[str] = []
        self._printed = 0.0
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            expand=True,
            console=console,
        )
        self._bar_id = self._bar.add_task("", total=self.total, completed=done, left="")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> RunProgress:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        private_file(self.log_file)  # tasks may print anything
        workers = "" if self.jobs is None else f", {self.jobs} workers"
        self._line(f"{counted(self.total, 'task')}, {self.done_before} of them already done{workers}", show=False)
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print()
        if self.console.is_terminal:
            self._live.stop()
        elapsed = clock(time.monotonic() - self.began)
        self._line(f"trained {counted(self.finished, 'task')} in {elapsed}, {self.failed} failed", show=False)

    def __call__(self, event: Event) -> None:
        """Process one event."""
        label = one_line(self.labels.get(event.task_id) or event.label or event.task_id[:8])
        if event.kind == "started":
            self.running[event.task_id] = time.monotonic()
            self._most = max(self._most, len(self.running))
            self._line(f"started  {label}", show=False)
            return
        self.running.pop(event.task_id, None)
        if event.kind == "done":
            self.finished += 1
            self.seconds += event.seconds
            self._line(f"done     {label} in {event.seconds:.1f} s{self._remaining(', about ', ' left')}")
        elif event.kind == "failed":
            self.failed += 1
            self._line(f"failed   {label}: {event.error}")
        elif event.kind == "retry":
            self._line(f"retried  {label}: {event.error}")
        elif event.kind == "left":
            self._line(f"skipped  {label}: {event.error}")
        elif event.kind == "lost":
            self._line(f"lost     {label}: {event.error}")
        self._bar.update(
            self._bar_id,
            completed=self.done_before + self.finished + self.failed,
            left=self._remaining("about ", " left"),
        )

    def _remaining(self, before: str, after: str) -> str:
        left = self.total - self.done_before - self.finished - self.failed
        if not self.finished or left <= 0:
            return ""
        mean = self.seconds / self.finished
        return f"{before}{clock(mean * left / min(self.jobs or self._most, left))}{after}"

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        running = list(self.running.items())  # the longest first
        shown = running[: max(_LEAST_SHOWN, self.console.height // 2)]
        for task_id, began in shown:
            label = Text(one_line(self.labels.get(task_id, task_id)))  # brackets in a name are not markup
            table.add_row(Text("  running", style="dim"), label, clock(now - began))
        if len(running) > len(shown):
            table.add_row(Text(f"  and {len(running) - len(shown)} more", style="dim"), "", "")
        if not running:
            waiting = "waiting for the cluster" if self.cluster else "preparing the data"
            table.add_row(Text(f"  {waiting}", style="dim"), "", clock(now - self.began))
        return Group(*map(Text, list(self._unprinted)), self._bar, table)

    def _line(self, text: str, *, show: bool = True) -> None:
        with self.log_file.open("a", encoding="utf-8") as handle:
            handle.write(f"{dt.datetime.now().isoformat(timespec='seconds')} {printable(text)}\n")
        if not show:
            return
        self._unprinted.append(one_line(text))  # shown above the bar until it is printed
        if not self.console.is_terminal or time.monotonic() - self._printed >= _PRINT_SECONDS:
            self._print()

    def _print(self) -> None:
        """Print the lines of the tasks that have ended."""
        lines, self._unprinted = self._unprinted, []
        if lines:
            self.console.print(Text("\n".join(lines)), soft_wrap=True)
        self._printed = time.monotonic()
