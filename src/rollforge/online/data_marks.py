"""Fingerprints of the data on which a service is based, used to detect later changes of the data.

Features of days can be computed from bars, which may be in another folder. The fingerprint of a day then has a part for
each further frequency, with its name: ``61c9… 60min=07af…``. It is compared by the frequencies that it names, so one that an
earlier version stored is still compared with the data that it stands for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import ONE_DAY, read_day
from rollforge.errors import DataError
from rollforge.generate.data_read import other_frequencies
from rollforge.ledger.state import ServiceState
from rollforge.market.content import provider_content
from rollforge.market.provider import Provider
from rollforge.market.universe import newest_version, session_provider
from rollforge.session import bounded, current_session

if TYPE_CHECKING:
    from rollforge.online.service import Service

HISTORY = "history"
"""Key of an event's data: the hashes after a change of data before the first day."""

_VALUES = 2**26
"""How many values of a field are read at once."""

__all__ = [
    "HISTORY",
    "changed_history",
    "data_mark",
    "first_marks",
    "has_changed",
    "history_marks",
    "mark_then",
    "others_in",
    "service_frequencies",
    "training_mark",
    "training_mark_now",
    "values_mark",
    "with_others",
]


def service_frequencies(service: Service) -> list[str]:
    """Return the frequencies of the data that a service's tasks read besides that of their rows."""

    def read() -> list[str]:
        templates = [task for strategy in service.strategies for task in getattr(strategy, "task_template", ())]
        try:
            return other_frequencies(templates, current_session())
        except DataError:  # strategies with their own data
            return []

    return service.remembered(("frequencies",), read)


def data_mark(day: str, others: Iterable[str] = ()) -> str:
    """Return a hash of all values of a day, with those of its bars of other frequencies; empty without a data folder."""
    main = _day_mark(day)
    return with_others(main, day, others) if main else ""


def with_others(main: str, day: str, others: Iterable[str]) -> str:
    """Return the hash of a day with those of its bars of other frequencies."""
    return " ".join([main, *(f"{freq}={_day_mark(day, freq)}" for freq in others)])


def others_in(mark: str) -> list[str]:
    """Return the frequencies that :func:`data_mark` of a day names besides that of the rows.

    Examples
    --------
    >>> others_in("61c9 60min=07af"), others_in("61c9")
    (['60min'], [])
    """
    return [part.partition("=")[0] for part in mark.split(" ")[1:]]


def _provider(freq: str | None) -> Provider:
    """Return the reader of the session's data of a frequency; None means that of the session."""
    provider = session_provider(freq=freq)
    return provider if freq is None else provider.with_freq(freq)


def _day_mark(day: str, freq: str | None = None) -> str:
    """Return a hash of the values of a day, or of its bars; empty if there are none."""
    try:
        provider = _provider(freq)
        codes = sorted(provider.instruments("all"))
        calendar = provider.calendar()
    except DataError:
        return ""
    days = calendar.astype("datetime64[D]")
    first, stop = (int(np.searchsorted(days, read_day(day), side)) for side in ("left", "right"))
    if stop == first:
        return ""
    values = ((name, provider.read(name, codes, first, stop).values) for name in provider.fields())
    return values_mark(values, codes if stop == first + 1 else [*codes, *map(str, calendar[first:stop])])


def training_mark(others: Iterable[str] = ()) -> str:
    """Return a hash of all data up to the session's bound and of their folder's path; empty without a data folder.

    Services with different folders do not use each other's models, even if their data are the same so far.

    Parameters
    ----------
    others : iterable of str
        Frequencies of the data that are read besides the session's, see :func:`service_frequencies`.
    """
    session = current_session()
    parts = []
    try:
        for freq in (None, *others):
            provider = _provider(freq)
            content = provider_content(provider, session.cache)
            parts.append(f"{os.path.abspath(provider.path)}\0{content.mark}")
    except DataError:
        return ""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def training_mark_now(others: Iterable[str] = ()) -> str:
    """Return :func:`training_mark` of the current data, even while an earlier version is being read."""
    with newest_version():
        for freq in (None, *others):
            with contextlib.suppress(DataError):
                _provider(freq).refresh()  # files may have been replaced within a second
        return training_mark(others)


def values_mark(values: Iterable[tuple[str, NDArray[np.float32]]], codes: Sequence[str]) -> str:
    """Return a hash of the values of a day: fields in order, each with a row per instrument."""
    mark = hashlib.blake2b(digest_size=16)
    for name, block in values:
        mark.update(f"\0{name}\0".encode() + np.ascontiguousarray(block).tobytes())
    mark.update("\0".join(codes).encode())
    return mark.hexdigest()


def mark_then(day: str, others: Iterable[str] = ()) -> str:
    """Return :func:`data_mark` as it was on the day itself: without instruments and fields that begin later.

    Parameters
    ----------
    day : str
        The day.
    others : iterable of str
        The other frequencies; to compare the result with a stored mark, those that it names (:func:`others_in`).
    """
    with bounded(day):
        return data_mark(day, others)


def has_changed(day: str, known: str) -> bool:
    """Return whether the data of a day differ from those of a stored mark; False for an empty one, which compares nothing."""
    return bool(known) and mark_then(day, others_in(known)) != known


def history_marks(service: Service, others: Iterable[str] = ()) -> dict[str, str]:
    """Return hashes of the data before the first day of a service, by month (``2024-05``).

    Those of other frequencies have the frequency after the month (``2024-05 (60min)``).
    """
    with bounded(str(service.begin_day.date() - ONE_DAY.astype(object))):
        found = _month_marks(None)
        for freq in others:
            found |= {f"{month} ({freq})": mark for month, mark in _month_marks(freq).items()}
        return found


def _month_marks(freq: str | None) -> dict[str, str]:
    """Return hashes of the data of a frequency by month, up to the session's bound."""
    try:
        provider = _provider(freq)
        codes = sorted(provider.instruments("all"))
        calendar = provider.calendar()
    except DataError:
        return {}
    if not len(calendar):
        return {}
    months = calendar.astype("datetime64[M]")
    found = {str(month): hashlib.blake2b(digest_size=8) for month in np.unique(months)}
    starts = [*np.unique(months, return_index=True)[1].tolist(), len(calendar)]
    spans = list(zip(found.values(), starts[:-1], starts[1:], strict=True))
    at_once = max(1, _VALUES * len(spans) // (len(codes) * len(calendar)))  # months: bars are many
    for name, i in product(provider.fields(), range(0, len(spans), at_once)):
        begin = spans[i][1]
        values = provider.read(name, codes, begin, spans[i : i + at_once][-1][2]).values
        for mark, first, stop in spans[i : i + at_once]:
            mark.update(
                f"\0{name}\0".encode() + np.ascontiguousarray(values[:, first - begin : stop - begin]).tobytes()
            )
    for mark, first, stop in spans:
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
    now: dict[tuple[str, ...], dict[str, str]] = {}
    acknowledged, seen_at = _acknowledged(state)
    for entry, content in zip(state.entries, state.contents, strict=True):
        if content.day is None or not content.day.history or not used & {*content.day.trained}:
            continue
        known = acknowledged if entry.number < seen_at else content.day.history
        known = {key: mark for key, mark in known.items() if len(key) != len("2024-05-31")}
        others = tuple(sorted({key[len("2024-05 (") : -1] for key in known if "(" in key}))
        if others not in now:
            now[others] = history_marks(service, others)
        found = now[others]
        changed |= {key.partition(" ")[0] for key in {*known, *found} if known.get(key) != found.get(key)}
    return sorted(changed)


def _acknowledged(state: ServiceState) -> tuple[Mapping[str, object], int]:
    """Return the hashes of the last event that acknowledged a change, and its number; 0 if there is none."""
    for entry, event in reversed(state.events):
        marks = event.data.get(HISTORY)
        if isinstance(marks, Mapping):
            return marks, entry.number
    return {}, 0
