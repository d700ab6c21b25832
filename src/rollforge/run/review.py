"""What should be known of tasks before they are trained: logged once for each set of tasks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from rollforge.errors import DataNotFound
from rollforge.run.job import current_task
from rollforge.session import Session

__all__ = ["review", "reviewed"]

log = logging.getLogger(__name__)

_reviewed: ContextVar[bool] = ContextVar("rollforge_reviewed", default=False)
_logged: set[str] = set()
"""What this process has logged of tasks of pools: a worker gets them one by one and does not know the set."""


@contextlib.contextmanager
def reviewed() -> Iterator[None]:
    """Tasks that are trained inside have been reviewed already: nothing is logged of them."""
    token = _reviewed.set(True)
    try:
        yield
    finally:
        _reviewed.reset(token)


@contextlib.contextmanager
def review(tasks: Sequence[Any], session: Session) -> Iterator[None]:
    """Log what :func:`~rollforge.generate.leakage.task_warnings` says of a set of tasks that is trained inside.

    Parameters
    ----------
    tasks : sequence
        Definitions; anything else (a recorder of a task that was reviewed before) is passed over.
    session : Session
        Whose calendar the segments are on; without a data folder nothing is reviewed.
    """
    if not _reviewed.get():
        for text in _warnings([t for t in tasks if isinstance(t, Mapping)], session):
            if current_task.get() is None:
                log.warning("%s", text)
            elif text not in _logged:
                _logged.add(text)
                log.warning("%s", text)
    with reviewed():
        yield


def _warnings(tasks: Sequence[Mapping[str, Any]], session: Session) -> list[str]:
    from rollforge.generate.leakage import task_warnings
    from rollforge.market.universe import session_provider

    if not tasks:
        return []
    try:
        calendar = session_provider(session).calendar()
    except DataNotFound:  # a dataset of the user's own may need no folder; one that does says what is missing
        return []
    return task_warnings(tasks, calendar)
