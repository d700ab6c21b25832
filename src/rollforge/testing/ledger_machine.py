"""A state machine that applies the same calls to a ledger and to the ledger in memory, and compares them after each step."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollforge.errors import ConfigError, LeaseLost, LedgerConflict, ServiceBusy
from rollforge.ledger.base import Ledger, ServiceLease
from rollforge.ledger.memory import MemoryLedger
from rollforge.store.base import Clock
from rollforge.testing.store import ManualClock

__all__ = ["LedgerMachine"]

SERVICES = st.sampled_from(["us", "eu"])
HOLDERS = st.sampled_from(["a", "b"])
SECONDS = st.sampled_from([5.0, 30.0])
BODIES = st.sampled_from([{"x": 1}, {"x": 2}, {"text": "\x00ä"}])
OFFSETS = st.sampled_from([1, 1, 1, 1, 0, 2, -1])


class LedgerMachine(RuleBasedStateMachine):
    """Subclass it and implement `make_ledger`."""

    make_ledger: Callable[[Clock], Ledger]

    @initialize()
    def begin(self) -> None:
        """Create two empty ledgers with one clock."""
        self.clock = ManualClock()
        self.model = MemoryLedger(clock=self.clock)
        self.ledger = type(self).make_ledger(self.clock)
        self.leases: list[ServiceLease] = []
        self.appended: list[tuple[Any, ...]] = []

    def teardown(self) -> None:
        """Close the ledger."""
        if hasattr(self, "ledger"):
            self.ledger.close()

    def both(self, call: Callable[[Ledger], object]) -> Any:
        """Return the result of a call on both ledgers; results and errors must agree."""
        answers: list[tuple[object, type | None]] = []
        for ledger in (self.model, self.ledger):
            try:
                answers.append((call(ledger), None))
            except (ConfigError, LeaseLost, LedgerConflict, ServiceBusy) as exc:
                answers.append((str(exc), type(exc)))
        assert answers[0] == answers[1]
        return answers[0][0] if answers[0][1] is None else None

    @rule(service=SERVICES, holder=HOLDERS, seconds=SECONDS)
    def acquire(self, service: str, holder: str, seconds: float) -> None:
        """Acquire a lease."""
        lease = self.both(lambda ledger: ledger.acquire(service, holder=holder, seconds=seconds))
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), seconds=SECONDS)
    def renew(self, data: st.DataObject, seconds: float) -> None:
        """Renew any lease, current or not."""
        lease = data.draw(st.sampled_from(self.leases))
        self.both(lambda ledger: ledger.renew(lease, seconds))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Release any lease, current or not."""
        lease = data.draw(st.sampled_from(self.leases))
        self.both(lambda ledger: ledger.release(lease))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), body=BODIES, offset=OFFSETS, latest=st.booleans())
    def append(self, data: st.DataObject, body: dict[str, object], offset: int, latest: bool) -> None:
        """Append an entry, mostly the next one, under any lease."""
        lease = self.leases[-1] if latest else data.draw(st.sampled_from(self.leases))
        number = len(self.model.entries(lease.service)) + offset
        call = (lease, number, "later", body)
        self.both(lambda ledger: ledger.append(*call, by="me"))
        self.appended.append(call)

    @precondition(lambda self: self.appended)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Repeat an earlier append."""
        call = data.draw(st.sampled_from(self.appended))
        self.both(lambda ledger: ledger.append(*call, by="me"))

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0, 31.0, -3.0, -200.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass, or set the clock back."""
        self.clock.now += seconds

    @invariant()
    def they_agree(self) -> None:
        """The entries, the leases and the list of services."""
        if not hasattr(self, "ledger"):
            return
        for service in ("us", "eu"):
            entries = self.both(methodcaller("entries", service))
            assert [e.number for e in entries] == list(range(1, len(entries) + 1))
            times = [e.made_at for e in entries]
            assert times == sorted(times)
            tokens = [e.token for e in entries]
            assert tokens == sorted(tokens)
            self.both(methodcaller("held_by", service))
        self.both(lambda ledger: ledger.services())
