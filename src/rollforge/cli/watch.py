"""``rollforge pool watch``: show a pool live."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rollforge.cli.terminal import console as text_console, one_line
from rollforge.generate.naming import describe
from rollforge.run.progress import clock
from rollforge.task import Status

if TYPE_CHECKING:
    from rollforge.store.manager import TaskManager
    from rollforge.task import TaskRecord

__all__ = ["watch"]

_SHOWN = 12
_LOOK_SECONDS = 1.0


def watch(manager: TaskManager, *, stay: bool, console: Console | None = None) -> None:
    """Show a pool until no task can make progress, or, with `stay`, until interrupted."""
    console = console or text_console()
    view = _View(manager)
    if not console.is_terminal:
        _print_lines(view, console, stay=stay)
        return
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            live.update(view.render())
            if view.settled and not stay:
                return
            view.wait()


def _print_lines(view: _View, console: Console, *, stay: bool) -> None:
    last = None
    while True:
        view.refresh()
        if view.line() != last:
            last = view.line()
            console.print(Text(last), soft_wrap=True)
        if view.settled and not stay:
            return
        view.wait()


class _View:
    """A snapshot of a pool."""

    def __init__(self, manager: TaskManager) -> None:
        self._manager = manager
        self._pool = manager.pool
        self._done: deque[tuple[float, int]] = deque(maxlen=60)
        self.counts: dict[Status, int] = {}
        self.paused = False

    def wait(self) -> None:
        """Wait for a change, with a minimum delay, so that a busy pool is not queried continuously."""
        time.sleep(0.1)
        self._manager.store.wait_for_change(self._pool, _LOOK_SECONDS)

    def refresh(self) -> None:
        """Query the store."""
        self._manager.store.expire(self._pool)
        self.counts = self._manager.task_stat()
        self.paused = self._manager.store.paused(self._pool)
        self._done.append((time.monotonic(), self.counts.get(Status.DONE, 0)))

    @property
    def settled(self) -> bool:
        """Whether no task can make progress."""
        return not (self.counts.get(Status.WAITING) or self.counts.get(Status.RUNNING))

    def line(self) -> str:
        """Return the counts in one line."""
        shown = [f"{self.counts[s]:,} {s.value}" for s in Status if self.counts.get(s)]
        return f"{one_line(self._pool)}: {', '.join(shown) or 'no tasks'}{' (paused)' if self.paused else ''}"

    def render(self) -> Group:
        """Return the complete display."""
        self.refresh()
        total = sum(self.counts.values())
        parts: list[RenderableType] = [
            Text(self.line(), "bold"),
            ProgressBar(total=max(total, 1), completed=self.counts.get(Status.DONE, 0)),
        ]
        rate = self._rate()
        if rate:
            left = self.counts.get(Status.WAITING, 0) + self.counts.get(Status.RUNNING, 0)
            parts.append(Text(f"{rate:.2f} tasks per second, about {clock(left / rate)} left", "dim"))
        return Group(*parts, self._running(), self._failed())

    def _rate(self) -> float:
        (begin, first), (end, last) = self._done[0], self._done[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def _tasks(self, status: Status, limit: int | None = None) -> list[TaskRecord]:
        wanted = {"status": status.value}
        return list(self._manager.store.query(self._pool, wanted, results=False, latest=limit is not None, limit=limit))

    def _running(self) -> Table:
        running = self._tasks(Status.RUNNING)
        table = Table(
            "running", "task", "worker", "for", "last line", box=None, pad_edge=False, show_header=bool(running)
        )
        for task in running[:_SHOWN]:
            last_line = task.log.splitlines()[-1] if task.log else ""
            since = clock(time.time() - task.started_at) if task.started_at else ""
            shown_text = Text(one_line(last_line), "dim", no_wrap=True, overflow="ellipsis")
            table.add_row(task.id[:8], _described(task), one_line(task.worker or ""), since, shown_text)
        if len(running) > _SHOWN:
            table.add_row(f"and {len(running) - _SHOWN} more")
        return table

    def _failed(self) -> Table:
        failed = self._tasks(Status.FAILED, _SHOWN)
        table = Table("failed", "task", "cause", "error", box=None, pad_edge=False, show_header=bool(failed))
        for task in failed:
            lines = (task.error or "").strip().splitlines() or [""]
            cause = task.cause.value if task.cause else ""
            shown_text = Text(one_line(lines[-1]), "red", no_wrap=True, overflow="ellipsis")
            table.add_row(task.id[:8], _described(task), cause, shown_text)
        return table


def _described(task: TaskRecord) -> Text:
    """Return model and test days of a task, as Text because brackets in a name are not markup."""
    return Text(one_line(describe(task.definition, task.model_name)), no_wrap=True, overflow="ellipsis")
