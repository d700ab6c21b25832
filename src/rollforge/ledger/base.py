"""The ledger protocol, and opening a ledger by its URI."""

from __future__ import annotations

import abc
import contextlib
import logging
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from rollforge.drivers import LEDGERS
from rollforge.errors import ConfigError, LeaseLost, LedgerConflict, ServiceBusy, StoreUnavailable, shown
from rollforge.ledger.entry import Entry, EntryKind, body_text, kind_of, read_body
from rollforge.machine import process_is_gone, process_name
from rollforge.store.addresses import Opener
from rollforge.store.base import Clock, storable_text

__all__ = ["Ledger", "Score", "ServiceLease", "SupportsScores", "holding", "open_ledger"]

log = logging.getLogger(__name__)

_MAX_NAME_LENGTH = 100
_MAX_LEASE_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class ServiceLease:
    """The right to append entries to a service, until it expires or is released."""

    service: str
    holder: str
    """Unique name of the process that holds it."""
    token: int
    """Increases with every acquisition."""
    until: float
    """When it expires, in seconds since the epoch by the clock of the ledger."""


@runtime_checkable
class Ledger(Protocol):
    """Keeps the decisions of services as entries that are only ever appended.

    Every implementation guarantees the following:

    * **Entries are numbered** 1, 2, 3, … in each service, without gaps. An entry is stored whole or not at all, and is
      never changed or deleted. A reader that sees an entry sees all earlier ones too.
    * **One process at a time appends to a service**: the holder of its lease. The lease has a fencing token, which
      increases with every acquisition. Appending or renewing under an old token, or after the lease has expired, raises
      :class:`~rollforge.errors.LeaseLost` and changes nothing, even if no other process has acquired the lease since.
    * **A call whose answer was lost can be repeated.** Repeating an append with the same token, number, kind and body
      returns the entry that is there, even if the lease has expired since. A holder that acquires its lease again gets
      a new one at once; its former one is stale.
    * **Time is the clock of the ledger**, not that of each process. No entry has an earlier time than the one before, even
      if the clock was set back. A clock that is set back extends a lease at most
      to twice its duration.
    * **Bodies are plain JSON**. Those of known kinds are checked before they are stored, see
      :func:`~rollforge.ledger.entry.read_body`. In texts, NUL and lone surrogates are replaced by escapes.
    * **Entries of later versions can be read.** Their kind is a plain string.
    * **A ledger can be opened read-only**, by calling its class with ``read_only=True``: it does not create a
      database, table or file. If there is no ledger, opening it raises :class:`~rollforge.errors.StoreUnavailable`.
    """

    uri: str

    def acquire(self, service: str, *, holder: str, seconds: float) -> ServiceLease:
        """Acquire the lease of a service, which need not have entries.

        Parameters
        ----------
        service : str
            Name of the service.
        holder : str
            Name of the caller, unique to it.
        seconds : float
            How long the lease lasts without renewal, at most a day.

        Raises
        ------
        ServiceBusy
            If another holder has the lease.
        ConfigError
            If the name or the number of seconds is invalid.
        """

    def renew(self, lease: ServiceLease, seconds: float) -> ServiceLease:
        """Extend a lease to `seconds` from now.

        Raises
        ------
        LeaseLost
            If the lease has expired, was released, or was acquired again.
        """

    def release(self, lease: ServiceLease) -> None:
        """End a lease. Nothing happens if it has ended already."""

    def held_by(self, service: str) -> ServiceLease | None:
        """Return the current lease of a service; None if there is none."""

    def append(self, lease: ServiceLease, number: int, kind: str, body: Mapping[str, object], *, by: str = "") -> Entry:
        """Append an entry.

        Parameters
        ----------
        lease : ServiceLease
            A current lease of the service.
        number : int
            Number of the entry: that of the last entry plus one. An entry that was decided without knowledge of the last
            one is therefore not stored.
        kind : str
            An :class:`~rollforge.ledger.entry.EntryKind`.
        body : mapping
            The decision, as plain JSON.
        by : str
            Who made the decision.

        Raises
        ------
        LeaseLost
            If the lease has ended.
        LedgerConflict
            If there is another entry with this number, or the number is not the next one.
        ConfigError
            If the body is not what its kind requires, or is too large.
        """

    def entries(self, service: str, *, after: int = 0, kinds: Collection[str] = ()) -> list[Entry]:
        """Return the entries of a service in order.

        Parameters
        ----------
        service : str
            Name of the service.
        after : int
            Only entries with a higher number.
        kinds : collection of str
            Only entries of these kinds; if empty, of all kinds.
        """

    def services(self) -> list[str]:
        """Return the names of the services that have entries, sorted."""

    def close(self) -> None:
        """Close connections; a later call opens them again."""


class Score(NamedTuple):
    """One row of a version of a day's signals."""

    day: str
    version: int
    instrument: str
    score: float | None
    """None if it is not a finite number."""


@runtime_checkable
class SupportsScores(Ledger, Protocol):
    """A ledger that can also keep the rows of signals, for programs that join them with other tables.

    They are stored with their entry: scores can be read if and only if their entry exists.
    """

    def append(
        self,
        lease: ServiceLease,
        number: int,
        kind: str,
        body: Mapping[str, object],
        *,
        by: str = "",
        scores: Sequence[Score] = (),
    ) -> Entry:
        """Append an entry as :meth:`Ledger.append`, with rows of its signals."""

    def scores(self, service: str, day: str, version: int) -> list[tuple[str, float | None]]:
        """Return the scores of a version of a day's signals by instrument, sorted; empty if none were stored."""


_opener: Opener[Ledger] = Opener(LEDGERS, "ledger")


def open_ledger(uri: str, *, clock: Clock | None = None, read_only: bool = False) -> Ledger:
    """Return the ledger at a URI. Within a process, the same URI returns the same ledger unless `clock` is given.

    Parameters
    ----------
    uri : str
        As for :func:`~rollforge.store.base.open_store`. A ledger and a task store can share a database: each has its own
        tables.
    clock : callable, optional
        Returns seconds since the epoch. By default the ledger's own clock is used.
    read_only : bool
        Whether the ledger must exist, and opening it creates and migrates nothing. Each call opens it anew, except one
        in memory.

    Raises
    ------
    ConfigError
        If the scheme is unknown, or its class cannot be used.
    MissingDependency
        If the driver is not installed; the message contains the command that installs it.
    StoreUnavailable
        If the ledger cannot be opened.

    Examples
    --------
    >>> from rollforge.ledger.entry import EntryKind, service_body
    >>> ledger = open_ledger("memory://doc")
    >>> lease = ledger.acquire("us", holder="me", seconds=60)
    >>> ledger.append(lease, 1, EntryKind.SERVICE, service_body("us", "workflow.yaml")).number
    1
    >>> ledger.release(lease)
    """
    options = {"read_only": True} if read_only else {}  # third-party classes need the option only if it is used
    shared = not read_only or uri.startswith("memory:") or LEDGERS.registered_object(uri) is not None
    return (_opener.open if clock is None and shared else _opener.open_another)(uri, clock=clock, **options)


@contextlib.contextmanager
def holding(ledger: Ledger, service: str, seconds: float) -> Iterator[ServiceLease]:
    """Hold the lease of a service for this process in a ``with`` block.

    Parameters
    ----------
    ledger : Ledger
        The ledger.
    service : str
        Name of the service.
    seconds : float
        How long the lease lasts without renewal.

    Raises
    ------
    ServiceBusy
        If another process holds it. The lease of a process of this machine that has ended is taken over at once.
    """
    holder = f"{process_name()}#{uuid.uuid4().hex[:8]}"
    try:
        lease = ledger.acquire(service, holder=holder, seconds=seconds)
    except ServiceBusy:
        other = ledger.held_by(service)
        if other is not None and not process_is_gone(other.holder.partition("#")[0]):
            raise
        if other is not None:
            log.info("the holder %s of the service %s has ended; its lease is taken over", other.holder, service)
            ledger.release(other)
        lease = ledger.acquire(service, holder=holder, seconds=seconds)
    try:
        yield lease
    finally:
        with contextlib.suppress(StoreUnavailable):  # it expires by itself
            ledger.release(lease)


# -- rules that all implementations share ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewEntry:
    """The checked arguments of an append."""

    service: str
    number: int
    kind: str
    text: str
    """The body as JSON."""
    token: int
    by: str

    def is_same(self, kind: str, text: str, token: int) -> bool:
        """Return whether the entry with this number is the one that an earlier call with these arguments appended."""
        return (self.kind, self.text, self.token) == (kind, text, token)


class CheckedLedger(abc.ABC):
    """Base class of Rollforge's ledgers, which checks all arguments."""

    def acquire(self, service: str, *, holder: str, seconds: float) -> ServiceLease:
        service = checked_service(service)
        return self._acquire(service, *checked_lease(holder, seconds))

    def renew(self, lease: ServiceLease, seconds: float) -> ServiceLease:
        return self._renew(lease, checked_seconds(seconds))

    def append(
        self,
        lease: ServiceLease,
        number: int,
        kind: str,
        body: Mapping[str, object],
        *,
        by: str = "",
        scores: Sequence[Score] = (),
    ) -> Entry:
        return self._append(lease, checked_entry(lease, number, kind, body, by), scores)

    @abc.abstractmethod
    def _acquire(self, service: str, holder: str, seconds: float) -> ServiceLease: ...

    @abc.abstractmethod
    def _renew(self, lease: ServiceLease, seconds: float) -> ServiceLease: ...

    @abc.abstractmethod
    def _append(self, lease: ServiceLease, new: NewEntry, scores: Sequence[Score]) -> Entry: ...


def checked_entry(lease: ServiceLease, number: int, kind: str, body: Mapping[str, object], by: str) -> NewEntry:
    """Return the arguments of an append, checked.

    Raises
    ------
    ConfigError
        If the kind is empty, or the body is not what the kind requires, or is too large.
    """
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ConfigError(f"{shown(kind)} is not the kind of an entry.", path="kind")
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(f"{shown(number)} is not the number of an entry.", path="number")
    text = body_text(body)
    if isinstance(kind_of(kind), EntryKind):
        read_body(kind, body)
    return NewEntry(checked_service(lease.service), number, str(kind), text, lease.token, storable_text(by))


def checked_service(name: object) -> str:
    """Return the name of a service.

    Raises
    ------
    ConfigError
        If it is empty, longer than 100 characters, or contains unprintable characters or a slash.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= _MAX_NAME_LENGTH
        or not name.isprintable()
        or name != name.strip()
        or any(c in name for c in "/\\")
        or name.startswith(".")
    ):
        raise ConfigError(
            f"{shown(name)} cannot be the name of a service: 1 to {_MAX_NAME_LENGTH} printable characters without slashes, "
            "the first of which is not a dot.",
            path="service",
        )
    return name


def checked_lease(holder: object, seconds: float) -> tuple[str, float]:
    """Return the holder and the duration of a lease.

    Raises
    ------
    ConfigError
        If the holder is empty, or the duration is not more than 0 and at most a day.
    """
    if not isinstance(holder, str) or not holder:
        raise ConfigError(f"{shown(holder)} cannot hold a lease: expected a unique name.", path="holder")
    return storable_text(holder), checked_seconds(seconds)


def checked_seconds(seconds: float) -> float:
    """Return the duration of a lease.

    Raises
    ------
    ConfigError
        If it is not more than 0 and at most a day.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _MAX_LEASE_SECONDS:
        raise ConfigError(
            f"A lease lasts more than 0 and at most {_MAX_LEASE_SECONDS:.0f} seconds, found {shown(seconds)}.",
            path="seconds",
        )
    return float(seconds)


def lasts(until: float, seconds: float, now: float) -> bool:
    """Return whether a lease of `seconds` that ends at `until` is valid.

    A lease that would last more than twice as long as it was given for has expired: the clock was set back. A little
    is tolerated, as servers adjust their clocks.

    Examples
    --------
    >>> lasts(100.0, 60.0, now=50.0), lasts(100.0, 60.0, now=100.0), lasts(100.0, 60.0, now=-1000.0)
    (True, False, False)
    """
    return now < until <= now + 2 * seconds


def busy(service: str, holder: str, until: float) -> ServiceBusy:
    """Return the error about a service whose lease another process holds."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(until))
    return ServiceBusy(
        f"The service {service!r} is being run by {holder}, which holds its lease until {when} UTC unless it renews it. "
        "Wait until it has finished.",
        holder=holder,
        until=until,
    )


def lost(lease: ServiceLease) -> LeaseLost:
    """Return the error about a lease that has ended."""
    return LeaseLost(
        f"The lease {lease.token} of the service {lease.service!r} no longer belongs to {lease.holder}: it expired, was "
        "released, or was acquired again. Nothing was appended."
    )


def conflict(new: NewEntry, last: int) -> LedgerConflict:
    """Return the error about an entry whose number is not the next one."""
    if new.number <= last:
        return LedgerConflict(
            f"The service {new.service!r} has another entry {new.number}; its last one is {last}. Read the entries again."
        )
    return LedgerConflict(f"The next entry of the service {new.service!r} is {last + 1}, not {new.number}.")
