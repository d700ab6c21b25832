"""Conformance tests for ledgers. A subclass that defines :meth:`LedgerSuite.make_ledger` runs all of them.

The comparison with the ledger in memory for any sequence of calls is :class:`~rollforge.testing.ledger_machine.LedgerMachine`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from rollforge.errors import ConfigError, LeaseLost, LedgerConflict, ServiceBusy, StoreUnavailable
from rollforge.ledger.base import Ledger, Score, ServiceLease, SupportsScores
from rollforge.ledger.entry import (
    MAX_BODY_BYTES,
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Release,
    Role,
    Signal,
    day_body,
    event_body,
    read_body,
    release_body,
    service_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.store.base import Clock
from rollforge.testing.store import ManualClock

__all__ = ["SERVICE", "LedgerSuite", "a_day"]

SERVICE = "us equities"


def a_day(day: str, **parts: Any) -> Any:
    """Return the body of a published day."""
    return day_body(DayResult(day, DayState.PUBLISHED, data="f00", seconds=1.5), **parts)


class LedgerSuite:
    """Behaviour that is the same for every ledger. Subclasses define :meth:`make_ledger`."""

    def make_ledger(self, clock: Clock) -> Ledger:
        """Return a new, empty ledger that uses a clock."""
        raise NotImplementedError

    def make_reader(self, clock: Clock) -> Ledger:
        """Open the ledger of :meth:`make_ledger` read-only; before that is called, there is none.

        A ledger that cannot be opened twice does not define it.
        """
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def ledger(self, clock: ManualClock) -> Iterator[Ledger]:
        ledger = self.make_ledger(clock)
        yield ledger
        ledger.close()

    def acquire(self, ledger: Ledger, holder: str = "me", seconds: float = 60.0) -> ServiceLease:
        return ledger.acquire(SERVICE, holder=holder, seconds=seconds)

    # -- entries -------------------------------------------------------------------------------------------------------

    def test_entries_are_numbered_and_returned_as_appended(self, ledger: Ledger, clock: ManualClock) -> None:
        """From 1 on, with their kind, body, token, time and author."""
        lease = self.acquire(ledger)
        bodies = [service_body(SERVICE, {"a": [1, 2.5, None, True, "ä"]}, {"days": 20}), a_day("2024-05-31")]
        for number, body in enumerate(bodies, 1):
            made = ledger.append(lease, number, EntryKind.SERVICE if number == 1 else "day", body, by="ann")
            assert (made.number, made.kind, made.body) == (number, "service" if number == 1 else "day", body)
            assert (made.token, made.made_at, made.by, made.service) == (lease.token, clock.now, "ann", SERVICE)
            clock.now += 1
        assert ledger.entries(SERVICE) == [made if e.number == 2 else e for e in ledger.entries(SERVICE)]
        assert [e.body for e in ledger.entries(SERVICE)] == bodies
        assert [e.known for e in ledger.entries(SERVICE)] == [True, True]

    def test_some_entries_can_be_read(self, ledger: Ledger) -> None:
        """Those after a number, or of some kinds; none of a service without entries."""
        lease = self.acquire(ledger)
        for number in range(1, 6):
            note = event_body([Event(Level.INFO, "note")])
            ledger.append(lease, number, *(("day", a_day(f"2024-05-{number:02}")) if number % 2 else ("event", note)))
        assert [e.number for e in ledger.entries(SERVICE, after=3)] == [4, 5]
        assert [e.number for e in ledger.entries(SERVICE, kinds=[EntryKind.EVENT])] == [2, 4]
        assert [e.number for e in ledger.entries(SERVICE, after=2, kinds={"day", "rollback"})] == [3, 5]
        assert ledger.entries(SERVICE, after=5) == ledger.entries("other") == []

    def test_a_ledger_can_be_opened_read_only(self, clock: ManualClock) -> None:
        """Only if there is one: nothing is created. Entries that others append are seen, and it appends none itself."""
        if type(self).make_reader is LedgerSuite.make_reader:
            pytest.skip("the ledger cannot be opened twice")
        with pytest.raises(StoreUnavailable, match="There is no ledger"):
            self.make_reader(clock)
        ledger = self.make_ledger(clock)
        lease = self.acquire(ledger)
        ledger.append(lease, 1, "day", a_day("2024-05-31"))
        reader = self.make_reader(clock)
        ledger.append(lease, 2, "day", a_day("2024-06-03"))
        assert (reader.entries(SERVICE), reader.services()) == (ledger.entries(SERVICE), [SERVICE])
        assert reader.held_by(SERVICE) == lease
        ledger.close()
        assert len(reader.entries(SERVICE)) == 2
        reader.close()

    def test_scores_belong_to_their_entry(self, ledger: Ledger, clock: ManualClock) -> None:
        """They are stored with it, once, and not at all if it is refused. A ledger need not keep scores."""
        if not isinstance(ledger, SupportsScores):
            pytest.skip("the ledger keeps no scores")
        lease = self.acquire(ledger)
        first = [Score("2024-05-31", 1, code, float(i)) for i, code in enumerate(["B", "A", "ä b"])]
        many = [Score("2024-06-03", 1, f"C{i:04}", i / 7) for i in range(450)] + [Score("2024-06-03", 1, "none", None)]
        for _ in range(2):
            ledger.append(lease, 1, "day", a_day("2024-05-31"), scores=first)
        assert ledger.scores(SERVICE, "2024-05-31", 1) == [("A", 1.0), ("B", 0.0), ("ä b", 2.0)]
        other = [Score("2024-05-31", 1, "A", -1.0)]
        with pytest.raises(LedgerConflict):
            ledger.append(lease, 1, "day", a_day("2024-06-07"), scores=other)
        assert ledger.scores(SERVICE, "2024-05-31", 1) == [("A", 1.0), ("B", 0.0), ("ä b", 2.0)]
        with pytest.raises(LedgerConflict):
            ledger.append(lease, 3, "day", a_day("2024-06-03"), scores=many[:2])
        clock.now += 100
        with pytest.raises(LeaseLost):
            ledger.append(lease, 2, "day", a_day("2024-06-03"), scores=many[:2])
        assert ledger.scores(SERVICE, "2024-06-03", 1) == []
        ledger.append(self.acquire(ledger), 2, "day", a_day("2024-06-03"), scores=many)
        assert ledger.scores(SERVICE, "2024-06-03", 1) == [(s.instrument, s.score) for s in many]
        assert ledger.scores(SERVICE, "2024-06-03", 2) == ledger.scores("other", "2024-06-03", 1) == []

    def test_services_with_entries_are_listed(self, ledger: Ledger) -> None:
        """A service that only has a lease is not; the entries of services are independent."""
        assert ledger.services() == []
        for name in ("b", "a", "ä b", "_"):
            lease = ledger.acquire(name, holder="me", seconds=60)
            if name != "_":
                ledger.append(lease, 1, "service", service_body(name, ""))
        assert ledger.services() == ["a", "b", "ä b"]
        assert [e.service for e in ledger.entries("ä b")] == ["ä b"]

    @pytest.mark.parametrize("number", [0, -1, 2, 7])
    def test_numbers_have_no_gaps(self, ledger: Ledger, number: int) -> None:
        """Any other number than the next one is refused."""
        with pytest.raises(LedgerConflict):
            ledger.append(self.acquire(ledger), number, "day", a_day("2024-05-31"))
        assert (ledger.entries(SERVICE), ledger.services()) == ([], [])

    def test_an_entry_is_never_replaced(self, ledger: Ledger) -> None:
        """Another body, kind or lease under an existing number is a conflict."""
        lease = self.acquire(ledger)
        first = ledger.append(lease, 1, "day", a_day("2024-05-31"))
        with pytest.raises(LedgerConflict, match="another entry 1"):
            ledger.append(lease, 1, "day", a_day("2024-06-03"))
        with pytest.raises(LedgerConflict):
            ledger.append(lease, 1, "audit", a_day("2024-05-31"))
        again = self.acquire(ledger)
        with pytest.raises(LedgerConflict):
            ledger.append(again, 1, "day", a_day("2024-05-31"))
        assert ledger.entries(SERVICE) == [first]

    def test_a_call_whose_answer_was_lost_can_be_repeated(self, ledger: Ledger, clock: ManualClock) -> None:
        """It returns the entry that is there, even after the lease has expired or was taken over."""
        lease = self.acquire(ledger)
        first = ledger.append(lease, 1, "day", a_day("2024-05-31"), by="ann")
        clock.now += 1
        assert ledger.append(lease, 1, "day", a_day("2024-05-31"), by="ann") == first
        ledger.append(lease, 2, "day", a_day("2024-06-03"))
        clock.now += 100
        assert ledger.append(lease, 1, "day", a_day("2024-05-31"), by="ann") == first
        self.acquire(ledger, "other")
        assert ledger.append(lease, 1, "day", a_day("2024-05-31"), by="ann") == first
        assert len(ledger.entries(SERVICE)) == 2

    def test_changing_a_body_does_not_change_the_entry(self, ledger: Ledger) -> None:
        """Neither the one that was passed nor the one that was returned."""
        body = {"events": [{"level": "info", "text": "a", "data": {}}]}
        made = ledger.append(self.acquire(ledger), 1, "event", body)
        body["events"][0]["text"] = made.body["events"][0]["text"] = "b"
        assert ledger.entries(SERVICE)[0].body["events"][0]["text"] == "a"

    # -- leases --------------------------------------------------------------------------------------------------------

    def test_one_holder_at_a_time(self, ledger: Ledger, clock: ManualClock) -> None:
        """Any other holder gets an error that names the current one, until the lease is released or has expired."""
        lease = self.acquire(ledger, "host:1", seconds=60)
        assert (lease.service, lease.holder, lease.until) == (SERVICE, "host:1", clock.now + 60)
        assert ledger.held_by(SERVICE) == lease
        with pytest.raises(ServiceBusy, match="host:1") as caught:
            self.acquire(ledger, "host:2")
        assert (caught.value.holder, caught.value.until) == ("host:1", lease.until)
        ledger.release(lease)
        assert ledger.held_by(SERVICE) is None
        second = self.acquire(ledger, "host:2", seconds=10)
        assert second.token > lease.token
        clock.now += 10
        assert ledger.held_by(SERVICE) is None
        assert self.acquire(ledger, "host:1").token > second.token
        assert ledger.held_by("other") is None

    def test_leases_of_services_are_independent(self, ledger: Ledger) -> None:
        """Holding one lease does not prevent others from holding another."""
        self.acquire(ledger, "a")
        assert ledger.acquire("other", holder="b", seconds=60).holder == "b"

    def test_a_holder_can_acquire_its_lease_again(self, ledger: Ledger) -> None:
        """For example if the answer was lost. Its former lease is stale."""
        first, second = self.acquire(ledger), self.acquire(ledger)
        assert second.token > first.token
        with pytest.raises(LeaseLost):
            ledger.append(first, 1, "day", a_day("2024-05-31"))
        assert ledger.append(second, 1, "day", a_day("2024-05-31")).token == second.token

    def test_renewing_extends_a_lease(self, ledger: Ledger, clock: ManualClock) -> None:
        """From the time of the call; the token stays."""
        lease = self.acquire(ledger, seconds=10)
        clock.now += 9
        renewed = ledger.renew(lease, 30)
        assert (renewed.token, renewed.until, renewed.holder) == (lease.token, clock.now + 30, lease.holder)
        clock.now += 29
        assert ledger.append(lease, 1, "day", a_day("2024-05-31")).number == 1
        clock.now += 1
        with pytest.raises(LeaseLost):
            ledger.renew(renewed, 30)

    @pytest.mark.parametrize("end", ["expired", "taken over", "released", "taken over and released", "unknown"])
    def test_a_lease_that_has_ended_changes_nothing(self, ledger: Ledger, clock: ManualClock, end: str) -> None:
        """When its holder returns, neither appending nor renewing works, and releasing does not affect the new holder."""
        lease = self.acquire(ledger, "old", seconds=10)
        ledger.append(lease, 1, "day", a_day("2024-05-31"))
        if end == "released":
            ledger.release(lease)
        elif end == "unknown":
            lease = ServiceLease("other", "old", 1, lease.until)
        else:
            clock.now += 10
        if end.startswith("taken over"):
            new = self.acquire(ledger, "new")
            if end.endswith("released"):
                ledger.release(new)
        for number in (1, 2, 3):
            with pytest.raises(LeaseLost):
                ledger.append(lease, number, "day", a_day("2024-06-03"))
        with pytest.raises(LeaseLost):
            ledger.renew(lease, 10)
        ledger.release(lease)
        assert len(ledger.entries(SERVICE)) == 1
        assert (ledger.held_by(SERVICE) is not None) == (end in ("taken over", "unknown"))

    def test_a_clock_that_is_set_back_does_not_keep_a_lease_for_long(self, ledger: Ledger, clock: ManualClock) -> None:
        """If set back by seconds, the lease stays valid; by more than its duration, another holder can acquire it."""
        lease = self.acquire(ledger, "old", seconds=60)
        clock.now -= 5
        assert ledger.append(lease, 1, "day", a_day("2024-05-31")).number == 1
        with pytest.raises(ServiceBusy):
            self.acquire(ledger, "new")
        clock.now -= 86_400
        new = self.acquire(ledger, "new")
        with pytest.raises(LeaseLost):
            ledger.append(lease, 2, "day", a_day("2024-06-03"))
        assert ledger.append(new, 2, "day", a_day("2024-06-03")).number == 2

    def test_times_never_decrease(self, ledger: Ledger, clock: ManualClock) -> None:
        """An entry that is appended after the clock was set back has the time of the one before."""
        first = ledger.append(self.acquire(ledger), 1, "day", a_day("2024-05-30"))
        clock.now += 100
        second = ledger.append(self.acquire(ledger), 2, "day", a_day("2024-05-31"))
        clock.now -= 1000
        lease = self.acquire(ledger)
        assert ledger.append(lease, 3, "day", a_day("2024-06-03")).made_at == second.made_at > first.made_at
        clock.now += 2000
        fourth = ledger.append(self.acquire(ledger), 4, "day", a_day("2024-06-04"))
        assert [e.made_at for e in ledger.entries(SERVICE)] == [
            first.made_at,
            second.made_at,
            second.made_at,
            fourth.made_at,
        ]
        assert fourth.made_at > second.made_at

    # -- what is stored ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ["", " a", "a/b", "a\\b", "a\nb", "a\x00", ".hidden", "x" * 101, None, 3])
    def test_names_are_checked(self, ledger: Ledger, name: Any) -> None:
        """They become names of folders."""
        with pytest.raises(ConfigError):
            ledger.acquire(name, holder="me", seconds=60)

    @pytest.mark.parametrize(
        ("holder", "seconds"), [("", 60), ("me", 0), ("me", -1), ("me", float("nan")), ("me", 1e6)]
    )
    def test_leases_are_checked(self, ledger: Ledger, holder: str, seconds: float) -> None:
        """A lease has a holder, and lasts at most a day."""
        with pytest.raises(ConfigError):
            ledger.acquire(SERVICE, holder=holder, seconds=seconds)

    def test_texts_that_databases_cannot_store_are_escaped(self, ledger: Ledger) -> None:
        """NUL and lone surrogates, in names, values and authors; repeating the call works too."""
        lease = self.acquire(ledger, "me\x00\ud800")
        body = event_body([Event(Level.ERROR, "a\x00b\udc80", {"k\x00": ["\ud83d", "😀"]})])
        made = ledger.append(lease, 1, "event", body, by="\x00\udcff")
        assert ledger.append(lease, 1, "event", body, by="\x00\udcff") == made == ledger.entries(SERVICE)[0]
        (event,) = read_body("event", made.body).events
        assert (event.text, event.data, made.by) == (r"a\x00b\udc80", {r"k\x00": [r"\ud83d", "😀"]}, r"\x00\udcff")

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("day", {"releases": []}),
            ("day", {"day": {"day": "2024-05-31"}}),
            ("day", {"day": {"day": "31 May", "state": "published"}}),
            ("day", {"day": {"day": "2024-05-31", "state": "done"}}),
            ("promotion", {"releases": [], "reason": "none"}),
            ("rollback", {"releases": [{"task": "a"}]}),
            ("correction", {"why": "no signals"}),
            ("event", {"events": [{"level": "info", "text": 3}]}),
            ("event", {"events": "text"}),
            ("service", {"name": "us"}),
            ("later", {"value": float("nan")}),
            ("later", {"value": {1}}),
            ("later", {"value": b"bytes"}),
            ("later", {3: "number as key"}),
            ("later", ["not a mapping"]),
            ("", {}),
            ("two words", {}),
        ],
    )
    def test_bodies_are_checked(self, ledger: Ledger, kind: str, body: Any) -> None:
        """The parts that a kind requires are present, and everything is JSON; otherwise nothing is stored."""
        with pytest.raises(ConfigError):
            ledger.append(self.acquire(ledger), 1, kind, body)
        assert ledger.entries(SERVICE) == []

    def test_the_entry_of_a_large_universe_can_be_stored(self, ledger: Ledger) -> None:
        """The signals of 1,000 instruments are in a file; a body of nearly the maximum size works too."""
        lease = self.acquire(ledger)
        releases = [Release(f"{i:064x}", "exp", f"{i:032x}", Role.CHAMPION, "2024-05-31") for i in range(20)]
        signal = Signal(
            "2024-05-31", 1, tuple(r.recorder for r in releases), "signals/2024-05-31.v1.parquet", "ab", 1000
        )
        small = ledger.append(lease, 1, "day", a_day("2024-05-31", releases=releases, signals=[signal]))
        assert read_body("day", small.body).signals == (signal,)
        large = event_body([Event(Level.INFO, "x" * (MAX_BODY_BYTES - 100))])
        assert ledger.append(lease, 2, "event", large).body == large == ledger.entries(SERVICE)[1].body
        with pytest.raises(ConfigError, match="bytes"):
            ledger.append(lease, 3, "event", event_body([Event(Level.INFO, "ä" * (MAX_BODY_BYTES // 2))]))
        assert len(ledger.entries(SERVICE)) == 2

    def test_entries_of_a_later_version_can_be_read(self, ledger: Ledger) -> None:
        """Their kind is a string; the state lists the entry that this version does not know."""
        lease = self.acquire(ledger)
        ledger.append(lease, 1, "service", service_body(SERVICE, ""))
        ledger.append(lease, 2, "audit", {"anything": [1, {"x": None}]})
        ledger.append(lease, 3, "day", {**a_day("2024-05-31"), "later": 1})
        state = ServiceState.of(ledger.entries(SERVICE))
        assert (state.last_published, [e.number for e in state.unknown]) == ("2024-05-31", [2])
        with pytest.raises(ConnectionError, match=r"Entry 2 .*'audit'"):
            state.require_known()

    # -- several at once -----------------------------------------------------------------------------------------------

    def test_several_threads_append_without_gaps(self, clock: ManualClock) -> None:
        """Each acquires the lease, reads, appends and releases; every entry follows the one that its author has seen."""
        ledger, errors = self.make_ledger(clock), []

        def work(name: str) -> None:
            done = 0
            try:
                while done < 5:
                    try:
                        lease = self.acquire(ledger, name)
                    except ServiceBusy:
                        continue
                    last = len(ledger.entries(SERVICE))
                    ledger.append(lease, last + 1, "later", {"name": name, "after": last})
                    ledger.release(lease)
                    done += 1
            except BaseException as exc:
                errors.append(exc)
                raise

        _together([partial(work, name) for name in ("a", "b", "c")])
        assert errors == []
        entries = ledger.entries(SERVICE)
        assert [e.number for e in entries] == [e.body["after"] + 1 for e in entries] == list(range(1, 16))
        tokens = [e.token for e in entries]
        assert tokens == sorted(set(tokens))
        ledger.close()

    def test_one_of_several_appends_of_a_number_counts(self, clock: ManualClock) -> None:
        """All under one lease: one body is stored, and its author and all repetitions get the same entry."""
        ledger = self.make_ledger(clock)
        lease, made, refused = self.acquire(ledger), [], []

        def work(name: str) -> None:
            try:
                made.append(ledger.append(lease, 1, "later", {"name": name}))
            except LedgerConflict as exc:
                refused.append(exc)

        _together([partial(work, name) for name in ("a", "a", "b", "b")])
        assert len(made) == len(refused) == 2
        assert made == 2 * ledger.entries(SERVICE)
        ledger.close()

    def test_a_closed_ledger_opens_again(self, ledger: Ledger) -> None:
        """With the entries and the lease that it had; closing twice does nothing more."""
        lease = self.acquire(ledger)
        ledger.append(lease, 1, "later", {"text": "before"})
        ledger.close()
        ledger.close()
        ledger.append(lease, 2, "later", {"text": "after"})
        assert [entry.body["text"] for entry in ledger.entries(SERVICE)] == ["before", "after"]

    # -- the state -----------------------------------------------------------------------------------------------------

    def test_a_rollback_is_one_entry(self, ledger: Ledger) -> None:
        """The state before and after it, from the stored entries."""
        lease = self.acquire(ledger)

        def released(recorder: str, role: Role, day: str) -> Release:
            return Release("t-" + recorder, "exp", recorder, role, day)

        ledger.append(lease, 1, "day", a_day("2024-05-31", releases=[released("a", Role.CHAMPION, "2024-05-31")]))
        new = [released("b", Role.CHAMPION, "2024-06-03"), released("a", Role.RETIRED, "2024-06-03")]
        ledger.append(lease, 2, "promotion", release_body(new, "better"))
        back = [released("a", Role.CHAMPION, "2024-06-05"), released("b", Role.RETIRED, "2024-06-05")]
        ledger.append(lease, 3, "rollback", release_body(back, "worse"))
        state = ServiceState.of(ledger.entries(SERVICE))
        online = [[r.recorder for r in state.champions(f"2024-06-{day:02}")] for day in range(2, 7)]
        assert online == [["a"], ["b"], ["b"], ["a"], ["a"]]
        assert [r.recorder for r in state.champions("2024-06-06", as_of=2)] == ["b"]


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
