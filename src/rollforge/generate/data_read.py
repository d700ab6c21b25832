"""The frequencies of the data that tasks read: features of days can be computed from bars, which may be in another folder.

Workers, recorders and services compare the data of each of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from rollforge.build import build
from rollforge.frequency import frequency
from rollforge.generate.task_view import TaskView, without_times
from rollforge.kinds import HANDLER
from rollforge.market.universe import session_provider
from rollforge.session import Session
from rollforge.task import Document

__all__ = ["frequencies_read", "handler_frequencies", "other_frequencies"]

_HANDLERS = "rollforge.features.alpha"


def other_frequencies(tasks: Iterable[Document], session: Session) -> list[str]:
    """Return the frequencies of the data that tasks read besides that of their rows, sorted.

    Parameters
    ----------
    tasks : iterable of mapping
        Definitions of tasks, or templates.
    session : Session
        Provides the data folders. Its frequency is that of the rows, see :func:`~rollforge.generate.task_view.at_frequency`.

    Raises
    ------
    DataError
        If the data folder cannot be read.
    """
    return _without_rows(frequencies_read(tasks), session)


def handler_frequencies(handler: object, session: Session) -> list[str]:
    """Return the frequencies of the data that a handler reads besides that of its rows, sorted; see
    :func:`other_frequencies`."""
    return _without_rows(_of_handler(handler), session)


def frequencies_read(tasks: Iterable[Document]) -> set[str]:
    """Return the frequencies of the data that the handlers of tasks read.

    Handlers are built, which computes no data, because a class may read other frequencies than its arguments name. One that
    cannot be built is left out: its tasks fail for the same reason.

    Parameters
    ----------
    tasks : iterable of mapping
        Definitions of tasks, or templates.

    Examples
    --------
    >>> tasks = [{"dataset": {"kwargs": {"handler": {"class": "Alpha158", "kwargs": {"freq": "1h"}}}}}]
    >>> frequencies_read(tasks)
    {'60min'}
    """
    found: set[str] = set()
    seen: set[str] = set()
    for task in tasks:
        view = TaskView(task)
        handler = view.described_handler or view.handler
        key = repr(without_times(handler))
        if handler is not None and key not in seen:
            seen.add(key)
            found |= _of_handler(handler)
    return found


def _of_handler(handler: object) -> set[str]:
    try:
        if not hasattr(handler, "fetch"):
            handler = build(handler, kind=HANDLER, default_module=_HANDLERS)
        return {frequency(freq) for freq in getattr(handler, "frequencies", list)()}
    except Exception:  # noqa: BLE001 - whatever the constructor of a class of the user's raises
        return set()


def _without_rows(found: set[str], session: Session) -> list[str]:
    return sorted(found - {session_provider(session).freq}) if found else []
