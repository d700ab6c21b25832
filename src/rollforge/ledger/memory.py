"""A ledger in memory. It is the executable specification: all other ledgers behave like this one."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from rollforge.ledger.base import (
    CheckedLedger,
    NewEntry,
    Score,
    ServiceLease,
    busy,
    conflict,
    lasts,
    lost,
)
from rollforge.ledger.entry import Entry, kind_of
from rollforge.store.base import Clock, wall_clock

__all__ = ["MemoryLedger"]


@dataclass(slots=True)
class _Service:
    holder: str = ""
    token: int = 0
    until: float = 0.0
    seconds: float = 0.0
    entries: list[tuple[Entry, str]] = field(default_factory=list)
    """Entries with their bodies as JSON."""
    scores: list[Score] = field(default_factory=list)


class MemoryLedger(CheckedLedger):
    """Entries in the memory of this process. Thread-safe.

    Parameters
    ----------
    uri : str
        ``memory://NAME``.
    clock : callable, optional
        Returns seconds since the epoch.
    read_only : bool
        Ignored: there is nothing to protect.

    Examples
    --------
    >>> from rollforge.ledger.entry import DayResult, DayState, day_body
    >>> ledger = MemoryLedger()
    >>> lease = ledger.acquire("us", holder="me", seconds=60)
    >>> body = day_body(DayResult("2024-05-31", DayState.PUBLISHED))
    >>> ledger.append(lease, 1, "day", body) == ledger.append(lease, 1, "day", body)
    True
    >>> [entry.number for entry in ledger.entries("us")]
    [1]
    """

    def __init__(self, uri: str = "memory://", *, clock: Clock | None = None, read_only: bool = False) -> None:
        self.uri = uri
        self._clock = wall_clock(clock)
        self._lock = threading.RLock()
        self._services: dict[str, _Service] = {}

    def _acquire(self, service: str, holder: str, seconds: float) -> ServiceLease:
        with self._lock:
            now, kept = self._clock(), self._services.setdefault(service, _Service())
            if kept.holder != holder and lasts(kept.until, kept.seconds, now):
                raise busy(service, kept.holder, kept.until)
            kept.holder, kept.token, kept.until, kept.seconds = holder, kept.token + 1, now + seconds, seconds
            return ServiceLease(service, holder, kept.token, kept.until)

    def _holds(self, lease: ServiceLease) -> bool:
        kept = self._services.get(lease.service)
        return kept is not None and kept.token == lease.token and lasts(kept.until, kept.seconds, self._clock())

    def _renew(self, lease: ServiceLease, seconds: float) -> ServiceLease:
        with self._lock:
            if not self._holds(lease):
                raise lost(lease)
            kept = self._services[lease.service]
            kept.until, kept.seconds = self._clock() + seconds, seconds
            return ServiceLease(lease.service, kept.holder, kept.token, kept.until)

    def release(self, lease: ServiceLease) -> None:
        with self._lock:
            kept = self._services.get(lease.service)
            if kept is not None and kept.token == lease.token:
                kept.until = 0.0

    def held_by(self, service: str) -> ServiceLease | None:
        with self._lock:
            kept = self._services.get(service)
            if kept is None or not lasts(kept.until, kept.seconds, self._clock()):
                return None
            return ServiceLease(service, kept.holder, kept.token, kept.until)

    def _append(self, lease: ServiceLease, new: NewEntry, scores: Sequence[Score]) -> Entry:
        with self._lock:
            entries = self._services.setdefault(new.service, _Service()).entries
            last = len(entries)
            if 1 <= new.number <= last:
                entry, text = entries[new.number - 1]
                if new.is_same(entry.kind, text, entry.token):
                    return _read(entry, text)
            if not self._holds(lease):
                raise lost(lease)
            if new.number != last + 1:
                raise conflict(new, last)
            made_at = max(self._clock(), entries[-1][0].made_at if entries else 0.0)
            entry = Entry(new.service, new.number, kind_of(new.kind), {}, new.token, made_at, new.by)
            entries.append((entry, new.text))
            self._services[new.service].scores.extend(scores)
            return _read(entry, new.text)

    def entries(self, service: str, *, after: int = 0, kinds: Collection[str] = ()) -> list[Entry]:
        with self._lock:
            kept = list(self._services[service].entries) if service in self._services else []
        return [_read(e, text) for e, text in kept if e.number > after and (not kinds or e.kind in kinds)]

    def scores(self, service: str, day: str, version: int) -> list[tuple[str, float | None]]:
        with self._lock:
            kept = list(self._services[service].scores) if service in self._services else []
        return sorted((s.instrument, s.score) for s in kept if (s.day, s.version) == (day, version))

    def services(self) -> list[str]:
        with self._lock:
            return sorted(name for name, kept in self._services.items() if kept.entries)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _read(entry: Entry, text: str) -> Entry:
    """Return an entry with its own copy of the body, so that a caller who changes it does not change the ledger."""
    return Entry(entry.service, entry.number, entry.kind, json.loads(text), entry.token, entry.made_at, entry.by)
