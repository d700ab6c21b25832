"""The progress of tasks that are trained from Python: a bar in a notebook, lines in the log elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rollforge.errors import counted, printable
from rollforge.markup import Markup, join, tag
from rollforge.notebook import in_notebook
from rollforge.run.job import Event, LogEvents, ignore_event

__all__ = ["NotebookProgress", "OnEvent", "clock", "progress"]

OnEvent = Callable[[Event], None]
"""Called with each event of a task."""
_SHOWN = 5
"""Running tasks, and failures, that a notebook lists."""


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``.

    Examples
    --------
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


@contextmanager
def progress(total: int, on_event: OnEvent | None = None, *, log: bool = True) -> Iterator[OnEvent]:
    """Yield what is called with each event of `total` tasks.

    Parameters
    ----------
    total : int
        Number of tasks that are to be trained.
    on_event : callable, optional
        A function of the user, which replaces the display.
    log : bool
        Whether events are logged outside of notebooks.
    """
    if on_event is not None:
        yield on_event
    elif in_notebook():
        with NotebookProgress(total) as shown:
            yield shown
    else:
        yield LogEvents(total) if log else ignore_event


class NotebookProgress:
    """Shows a progress bar below the cell of a notebook, with the running tasks and the failures.

    It needs nothing but IPython, which every notebook has, and stays in the saved notebook.

    Parameters
    ----------
    total : int
        Number of tasks.
    every : float
        Least number of seconds between two updates.
    """

    def __init__(self, total: int, every: float = 0.25) -> None:
        self._total = total
        self._every = every
        self._began = time.monotonic()
        self._shown = 0.0
        self._done = 0
        self._seconds = 0.0
        self._most = 1
        self._running: dict[str, str] = {}
        self._failures: list[str] = []
        self._stopped = ""
        self._display: Any = None
        self._lock = threading.Lock()  # tasks may end in several threads

    def __enter__(self) -> NotebookProgress:
        from IPython.display import HTML, display

        self._display = display(HTML(self.html()), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._stopped = "interrupted; the tasks that were running wait again"
        elif kind is not None:
            self._stopped = "ended by an error"
        self._running.clear()
        self._update(at_once=True)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        label = printable(event.label or event.task_id[:8])
        with self._lock:
            if event.kind == "started":
                self._running[event.task_id] = label
                self._most = max(self._most, len(self._running))
            else:
                self._running.pop(event.task_id, None)
            if event.kind == "done":
                self._done += 1
                self._seconds += event.seconds
            elif event.kind == "failed":
                self._failures.append(f"{label}: {printable(event.error)}")
        self._update()

    def _update(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._display is not None and (at_once or now - self._shown >= self._every):
            from IPython.display import HTML

            self._shown = now
            self._display.update(HTML(self.html()))

    def html(self) -> str:
        """Return what is shown now.

        Examples
        --------
        >>> shown = NotebookProgress(3)
        >>> shown(Event("done", "5041bf1f", "host:17", seconds=1.5))
        >>> "1 of 3 tasks" in shown.html()
        True
        """
        ended = self._done + len(self._failures)
        parts = [f"{ended} of {counted(self._total, 'task')}", clock(time.monotonic() - self._began)]
        if self._failures:
            parts.append(f"{len(self._failures)} failed")
        if self._stopped:
            parts.append(self._stopped)
        elif self._done and ended < self._total:
            left = self._seconds / self._done * (self._total - ended) / self._most
            parts.append(f"about {clock(left)} left")
        bar = tag("progress", value=ended, max=max(1, self._total), style="width: 20em; vertical-align: middle")
        return str(
            tag("div", tag("div", bar, " ", ", ".join(parts)), _lines(list(self._running.values()), "running"),
                _lines(self._failures, "failed"))
        )  # fmt: skip


def _lines(texts: list[str], what: str) -> Markup | None:
    if not texts:
        return None
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return tag("div", join(f"{what}: ", "; ".join(texts[:_SHOWN]), more))
