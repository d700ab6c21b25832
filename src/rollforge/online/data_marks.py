"""Fingerprints of the data on which a service is based, used to detect later changes of the data."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import ONE_DAY, read_day
from rollforge.errors import DataError
from rollforge.ledger.state import ServiceState
from rollforge.market.content import provider_content
from rollforge.market.universe import newest_version, session_provider
from rollforge.session import bounded, current_session

if TYPE_CHECKING:
    from rollforge.online.service import Service

HISTORY = "history"
"""Key of an event's data: the hashes after a change of data before the first day."""

__all__ = [
    "HISTORY",
    "changed_history",
    "data_mark",
    "first_marks",
    "history_marks",
    "mark_then",
    "training_mark",
    "training_mark_now",
    "values_mark",
]


def data_mark(day: str) -> str:
    """Return a hash of all values of a day; empty without a data folder."""
    try:
        provider = session_provider()
        codes = sorted(provider.instruments("all"))
    except DataError:
        return ""
    calendar = provider.calendar()
    place = int(np.searchsorted(calendar, read_day(day)))
    if place >= len(calendar) or calendar[place] != read_day(day):
        return ""
    values = ((name, provider.read(name, codes, place, place + 1).values) for name in provider.fields())
    return values_mark(values, codes)


def training_mark() -> str:
    """Return a hash of all data up to the session's bound and of their folder's path; empty without a data folder.

    Services with different folders do not use each other's models, even if their data are the same so far.
    """
    session = current_session()
    try:
        provider = session_provider(session)
        content = provider_content(provider, session.cache)
    except DataError:
        return ""
    return hashlib.blake2b(f"{os.path.abspath(provider.path)}\0{content.mark}".encode(), digest_size=16).hexdigest()


def training_mark_now() -> str:
    """Return :func:`training_mark` of the current data, even while an earlier version is being read."""
    with newest_version():
        with contextlib.suppress(DataError):
            session_provider().refresh()  # files may have been replaced within a second
        return training_mark()


def values_mark(values: Iterable[tuple[str, NDArray[np.float32]]], codes: Sequence[str]) -> str:
    """Return a hash of the values of a day: fields in order, each with a row per instrument."""
    mark = hashlib.blake2b(digest_size=16)
    for name, block in values:
        mark.update(f"\0{name}\0".encode() + np.ascontiguousarray(block).tobytes())
    mark.update("\0".join(codes).encode())
    return mark.hexdigest()


def mark_then(day: str) -> str:
    """Return :func:`data_mark` as it was on the day itself: without instruments and fields that begin later."""
    with bounded(day):
        return data_mark(day)


def history_marks(service: Service) -> dict[str, str]:
    """Return hashes of the data before the first day of a service, by month (``2024-05``)."""
    with bounded(str(service.begin_day.date() - ONE_DAY.astype(object))):
        try:
            provider = session_provider()
            codes = sorted(provider.instruments("all"))
        except DataError:
            return {}
        calendar = provider.calendar()
        if not len(calendar):
            return {}
        months = calendar.astype("datetime64[M]")
        found = {str(month): hashlib.blake2b(digest_size=8) for month in np.unique(months)}
        starts = [*np.unique(months, return_index=True)[1].tolist(), len(calendar)]
        for name in provider.fields():
            values = provider.read(name, codes, 0, len(calendar)).values
            for mark, first, stop in zip(found.values(), starts[:-1], starts[1:], strict=True):
                mark.update(f"\0{name}\0".encode() + np.ascontiguousarray(values[:, first:stop]).tobytes())
        for mark, first, stop in zip(found.values(), starts[:-1], starts[1:], strict=True):
            mark.update("\0".join([*codes, *map(str, calendar[first:stop])]).encode())
        return {month: mark.hexdigest() for month, mark in found.items()}


def first_marks(state: ServiceState) -> dict[str, str]:
    """Return the hashes of days before the first one whose signals were published with it."""
    found: dict[str, str] = {}
    for content in state.contents:
        for day, mark in (content.day.history if content.day is not None else {}).items():
            if len(day) == len("2024-05-31"):
                found.setdefault(day, str(mark))
    return found


def changed_history(service: Service) -> list[str]:
    """Return the months in which data before the first day have changed since the models in use were trained.

    Changes that were acknowledged by a later event (:data:`HISTORY`) are left out.
    """
    state = service.state()
    used = {release.recorder for release in state.champions(service.next_day())}
    changed: set[str] = set()
    now: dict[str, str] | None = None
    acknowledged, seen_at = _acknowledged(state)
    for entry, content in zip(state.entries, state.contents, strict=True):
        if content.day is None or not content.day.history or not used & {*content.day.trained}:
            continue
        known = acknowledged if entry.number < seen_at else content.day.history
        now = history_marks(service) if now is None else now
        months = {month for month in {*known, *now} if len(month) == len("2024-05")}
        changed |= {month for month in months if known.get(month) != now.get(month)}
    return sorted(changed)


def _acknowledged(state: ServiceState) -> tuple[Mapping[str, object], int]:
    """Return the hashes of the last event that acknowledged a change, and its number; 0 if there is none."""
    for entry, event in reversed(state.events):
        marks = event.data.get(HISTORY)
        if isinstance(marks, Mapping):
            return marks, entry.number
    return {}, 0
