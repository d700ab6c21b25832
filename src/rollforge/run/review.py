"""Log warnings about tasks before they are trained, once for each set of tasks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

from rollforge.errors import DataNotFound
from rollforge.run.job import current_task
from rollforge.session import Session

__all__ = ["review", "reviewed"]

log = logging.getLogger(__name__)

_reviewed: ContextVar[bool] = ContextVar("rollforge_reviewed", default=False)
_logged: set[str] = set()
"""Warnings that this process has logged for pool tasks: a worker gets them one by one and does not know the set."""


@contextlib.contextmanager
def reviewed() -> Iterator[None]:
    """Context manager for training tasks that have been reviewed: it suppresses further warnings."""
    token = _reviewed.set(True)
    try:
        yield
    finally:
        _reviewed.reset(token)


@contextlib.contextmanager
def review(tasks: Sequence[object], session: Session) -> Iterator[bool]:
    """Log the :func:`~rollforge.generate.leakage.task_warnings` of tasks that are trained in a ``with`` block.

    Parameters
    ----------
    tasks : sequence
        Task definitions; anything else (a recorder of a task that was reviewed before) is ignored.
    session : Session
        Provides the calendar. Without a data folder, nothing is reviewed.

    Yields
    ------
    bool
        Whether the tasks have been reviewed. If not, because this machine lacks the data, their workers can do it.
    """
    known = True
    if not _reviewed.get():
        found = _warnings([t for t in tasks if isinstance(t, Mapping)], session)
        known = found is not None
        for text in found or ():
            if current_task.get() is None:
                log.warning("%s", text)
            elif text not in _logged:
                _logged.add(text)
                log.warning("%s", text)
    with reviewed():
        yield known


def _warnings(tasks: Sequence[Mapping[str, object]], session: Session) -> list[str] | None:
    """Return the warnings about tasks; None without a data folder."""
    from rollforge.generate.leakage import task_warnings
    from rollforge.generate.task_view import at_frequency, described_parts
    from rollforge.market.universe import session_provider

    if not tasks:
        return []
    try:
        calendar = session_provider(at_frequency(session, tasks)).calendar()
    except DataNotFound:  # a custom dataset may need no data folder; one that does will raise the error
        return None
    # A worker is given the tasks of a pool one by one, and warns once about all windows.
    return task_warnings(list(map(described_parts, tasks)), calendar, with_places=current_task.get() is None)
