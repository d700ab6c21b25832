"""The state of a service, computed from its entries alone."""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from rollforge.dates import day_after
from rollforge.errors import ConfigError, StoreUnavailable
from rollforge.ledger.entry import (
    CheckResult,
    Comparison,
    Content,
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Event,
    Release,
    Role,
    ServiceDefinition,
    Shadow,
    Signal,
    read_body,
)

__all__ = ["ServiceState", "concerns"]


@dataclass(frozen=True)
class ServiceState:
    """The state of a service after some of its entries.

    Parameters
    ----------
    entries : tuple of Entry
        The entries in order.
    contents : tuple of Content
        Their bodies; empty for entries of unknown kinds.

    Examples
    --------
    >>> from rollforge.ledger.entry import EntryKind, day_body
    >>> published = DayResult("2024-05-31", DayState.PUBLISHED)
    >>> champion = Release("9f8a", "exp", "r1", Role.CHAMPION, "2024-05-31")
    >>> signal = Signal("2024-05-31", 1, ("r1",), "signals/2024-05-31.v1.parquet", "ab12", 500)
    >>> body = day_body(published, releases=[champion], signals=[signal])
    >>> state = ServiceState.of([Entry("us", 1, EntryKind.DAY, body, 1, 0.0)])
    >>> state.last_published, [r.recorder for r in state.champions("2024-06-03")], state.champions("2024-05-30")
    ('2024-05-31', ['r1'], ())
    """

    entries: tuple[Entry, ...] = ()
    contents: tuple[Content, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Return the state after all entries of a service, in order from the first.

        Raises
        ------
        ConfigError
            If the entries are not those of one service from number 1 on without gaps, or the body of one is damaged.
        """
        known = tuple(entries)
        for place, entry in enumerate(known, 1):
            if entry.number != place or entry.service != known[0].service:
                raise ConfigError(
                    f"Expected entry {place} of the service {known[0].service!r}, found entry {entry.number} of the service "
                    f"{entry.service!r}: a state follows from all entries of one service, in order."
                )
        return cls(known, tuple(_content(entry) for entry in known))

    def after(self, entry: Entry) -> Self:
        """Return the state after one more entry."""
        if entry.number != self.last + 1:
            raise ConfigError(f"Entry {entry.number} does not follow entry {self.last}.")
        return type(self)((*self.entries, entry), (*self.contents, _content(entry)))

    def known(self, as_of: float | int | None) -> ServiceState:
        """Return the state as it was known at an earlier time.

        Parameters
        ----------
        as_of : float, int or None
            A float is a time in seconds since the epoch by the clock of the ledger, an integer the number of an entry;
            that entry is included. None means all entries. Of several entries with exactly this time, which a clock that
            was set back gives them, only the first is included: the others may have been appended after it was asked for.
        """
        if as_of is None:
            return self
        count = self._made_by(as_of) if isinstance(as_of, float) else int(as_of)  # an integer may be NumPy's
        return ServiceState(self.entries[: max(count, 0)], self.contents[: max(count, 0)])

    def _made_by(self, time: float) -> int:
        """Return how many entries there were at a time."""
        before = bisect.bisect_left(self.entries, time, key=lambda e: e.made_at)
        return before + (before < self.last and self.entries[before].made_at == time)

    # -- the service ---------------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """Number of the last entry; 0 if there is none."""
        return len(self.entries)

    @cached_property
    def definition(self) -> ServiceDefinition | None:
        """The latest definition of the service."""
        return next((c.service for c in reversed(self.contents) if c.service is not None), None)

    @cached_property
    def unknown(self) -> tuple[Entry, ...]:
        """Entries that a later version of Rollforge wrote and this one does not know."""
        return tuple(entry for entry in self.entries if not entry.known)

    def require_known(self) -> None:
        """Raise an error if there are entries of unknown kinds, since decisions must be based on all entries.

        Raises
        ------
        StoreUnavailable
            If there are.
        """
        if self.unknown:
            first = self.unknown[0]
            raise StoreUnavailable(
                f"Entry {first.number} of the service {first.service!r} has the kind {first.kind!r}, which a newer version "
                "of Rollforge wrote and this one does not know. Update Rollforge."
            )

    # -- models --------------------------------------------------------------------------------------------------------

    @cached_property
    def releases(self) -> tuple[tuple[Entry, Release], ...]:
        """All releases with their entries, in order."""
        return tuple((e, r) for e, c in zip(self.entries, self.contents, strict=True) for r in c.releases)

    @cached_property
    def latest_releases(self) -> Mapping[str, Release]:
        """The release of each recorder that was decided last, by the recorder's id."""
        return {release.recorder: release for _, release in self.releases}

    def online(self, day: str, as_of: float | int | None = None) -> Mapping[Role, tuple[Release, ...]]:
        """Return the models in use on a day by role; retired models are left out.

        Of several releases of a model from this day or before, the one decided last counts. A champion replaces the
        former one of its strategy and template, so there is at most one.

        Parameters
        ----------
        day : str
            A trading day.
        as_of : float, int or None
            As for :meth:`known`.
        """
        used: dict[tuple[str, str], Release] = {}
        for _, release in self.known(as_of).releases:
            if release.from_day <= day:
                used.pop((release.experiment_name, release.recorder), None)  # in the order of the decisions
                used = {key: other for key, other in used.items() if not release.replaces(other)}
                used[release.experiment_name, release.recorder] = release
        roles = (Role.CHAMPION, Role.CANDIDATE)
        return {role: found for role in roles if (found := tuple(r for r in used.values() if r.role is role))}

    def champions(self, day: str, as_of: float | int | None = None) -> tuple[Release, ...]:
        """Return the models whose predictions are published on a day, see :meth:`online`."""
        return self.online(day, as_of).get(Role.CHAMPION, ())

    def candidates(self, day: str, as_of: float | int | None = None) -> tuple[Release, ...]:
        """Return the models that are compared with the champion on a day, see :meth:`online`."""
        return self.online(day, as_of).get(Role.CANDIDATE, ())

    def planned(self, day: str) -> list[str]:
        """Return the later days from which on releases have already been decided, in order."""
        return sorted({release.from_day for _, release in self.releases if release.from_day > day})

    # -- days ----------------------------------------------------------------------------------------------------------

    @cached_property
    def days(self) -> Mapping[str, DayResult]:
        """The latest result of each day, in the order of the days."""
        results = {c.day.day: c.day for c in self.contents if c.day is not None}
        return dict(sorted(results.items()))

    @property
    def last_published(self) -> str | None:
        """The last day that was published, and whose signals were not withdrawn; None if there is none."""
        signals = self.signals()
        withdrawn = {day for day, signal in signals.items() if not signal.rows}
        days = (day for day, result in self.days.items() if result.state is DayState.PUBLISHED)
        return max((day for day in days if day not in withdrawn), default=None)

    def next_day(self, begin: str | None = None) -> str:
        """Return the day after the last published one.

        Parameters
        ----------
        begin : str, optional
            What is returned if no day is published; by default the day of the latest release, or today without one.
        """
        if self.last_published is not None:
            return day_after(self.last_published)
        return begin or max((r.from_day for _, r in self.releases), default=dt.date.today().isoformat())

    def due(self, days: Iterable[str]) -> list[str]:
        """Return which of some trading days are not published."""
        done = {day for day, result in self.days.items() if result.state is DayState.PUBLISHED} | self.signals().keys()
        return [day for day in days if day not in done]

    def history(self, day: str) -> tuple[Entry, ...]:
        """Return the entries about a day, in order.

        These are its results, the signals of the day and their corrections, the releases from that day on, and checks of
        the day that were made later.
        """
        return tuple(e for e, c in zip(self.entries, self.contents, strict=True) if concerns(c, day))

    # -- signals -------------------------------------------------------------------------------------------------------

    @cached_property
    def published(self) -> tuple[tuple[Entry, Signal], ...]:
        """All versions of all signals with their entries, in order."""
        return tuple((e, s) for e, c in zip(self.entries, self.contents, strict=True) for s in c.signals)

    def signals(self, as_of: float | int | None = None) -> Mapping[str, Signal]:
        """Return the latest version of the signals of each day, in the order of the days.

        The result for a time in the past never changes.

        Parameters
        ----------
        as_of : float, int or None
            As for :meth:`known`.
        """
        latest = {signal.day: signal for _, signal in self.known(as_of).published}
        return dict(sorted(latest.items()))

    def versions(self, day: str) -> tuple[Signal, ...]:
        """Return all versions of the signals of a day, in order."""
        return tuple(signal for _, signal in self.published if signal.day == day)

    # -- events --------------------------------------------------------------------------------------------------------

    @cached_property
    def events(self) -> tuple[tuple[Entry, Event], ...]:
        """All events with their entries, in order."""
        return tuple((e, event) for e, c in zip(self.entries, self.contents, strict=True) for event in c.events)

    # -- candidates ----------------------------------------------------------------------------------------------------

    @cached_property
    def shadows(self) -> Mapping[str, Shadow]:
        """The predictions of candidates and champions that were stored for each day, in the order of the days."""
        stored = {shadow.day: shadow for content in self.contents for shadow in content.shadows}
        return dict(sorted(stored.items()))

    @cached_property
    def comparisons(self) -> tuple[tuple[Entry, Comparison], ...]:
        """All comparisons of candidates with champions with their entries, in order."""
        return tuple((e, one) for e, c in zip(self.entries, self.contents, strict=True) for one in c.comparisons)

    @cached_property
    def compared(self) -> Mapping[str, Comparison]:
        """The latest comparison of each candidate, by the id of its recorder."""
        return {one.candidate: one for _, one in self.comparisons}

    # -- checks --------------------------------------------------------------------------------------------------------

    @cached_property
    def checks(self) -> tuple[tuple[Entry, CheckResult], ...]:
        """All results of checks with their entries, in order."""
        return tuple((e, check) for e, c in zip(self.entries, self.contents, strict=True) for check in c.checks)

    @cached_property
    def final_checks(self) -> tuple[CheckResult, ...]:
        """The results of checks, without those of attempts that failed, which the next attempt repeats."""
        failed = (c.day is not None and c.day.state is DayState.FAILED for c in self.contents)
        return tuple(check for c, bad in zip(self.contents, failed, strict=True) if not bad for check in c.checks)

    def checks_made_on(self, day: str) -> tuple[CheckResult, ...]:
        """Return the results of the checks in the routine of a day, including those about earlier days.

        Of several attempts, it is the one that published the day, or else the last one. Results that a correction has
        recomputed, also one of another day, replace those of the routine.
        """
        results: tuple[CheckResult, ...] = ()
        published: set[str] = set()
        for entry, content in zip(self.entries, self.contents, strict=True):
            if content.day is None:
                continue
            if content.day.day in published:  # a correction; if the signals stay the same, it is not of that kind
                again = {(check.name, check.day): check for check in content.checks}
                results = tuple(again.get((check.name, check.day), check) for check in results)
                continue
            if entry.kind == EntryKind.DAY and content.day.day == day:
                results = content.checks
            if content.day.state is DayState.PUBLISHED:
                published.add(content.day.day)
        return results

    def replaced_in(self, check: CheckResult, number: int) -> int | None:
        """Return the number of the entry that has a later result of a check than an entry; None if there is none."""
        found = (
            e.number for e, one in self.checks if e.number > number and (one.name, one.day) == (check.name, check.day)
        )
        return next(found, None)

    def checked(self, day: str, as_of: float | int | None = None) -> Mapping[str, CheckResult]:
        """Return the latest result of each check of a day, by the name of the check.

        Parameters
        ----------
        day : str
            A trading day.
        as_of : float, int or None
            As for :meth:`known`.
        """
        return {check.name: check for _, check in self.known(as_of).checks if check.day == day}


def _content(entry: Entry) -> Content:
    if not entry.known:
        return Content()
    try:
        return read_body(entry.kind, entry.body)
    except ConfigError as exc:
        raise ConfigError(f"Entry {entry.number} of the service {entry.service!r} is damaged: {exc}") from exc


def concerns(content: Content, day: str) -> bool:
    """Return whether an entry is about a day."""
    return (
        (content.day is not None and content.day.day == day)
        or any(signal.day == day for signal in content.signals)
        or any(release.from_day == day for release in content.releases)
        or any(check.day == day for check in content.checks)
    )
