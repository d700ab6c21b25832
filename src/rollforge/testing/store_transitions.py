"""Conformance tests that compare a store with the pure rules of :mod:`rollforge.transitions`, over all states of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rollforge import transitions
from rollforge.errors import LeaseLost
from rollforge.store.base import Clock, TaskStore
from rollforge.task import KEPT_ATTEMPTS, Attempt, Cause, Ending, Status, TaskRecord, digest

__all__ = ["POOL", "ManualClock", "TransitionSuite"]

POOL = "pool"


class ManualClock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class TransitionSuite:
    """A part of :class:`~rollforge.testing.store.TaskStoreSuite`: each transition, from every state, as in the rules."""

    def make_store(self, clock: Clock) -> TaskStore:
        """Return an empty store that uses `clock`."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of the store."""
        return ManualClock()

    @pytest.fixture
    def store(self, clock: ManualClock) -> TaskStore:
        """The store under test."""
        return self.make_store(clock)

    def claim(self, store: TaskStore, **kwargs: Any) -> TaskRecord:
        """Claim one task and return it."""
        (task,) = store.claim(POOL, **{"worker": "w", "lease": 60.0, **kwargs})
        return task

    def records(self, statuses: Iterable[Status], attempts: Sequence[int], most: Sequence[int]) -> list[TaskRecord]:
        """Return a record for each combination of status, stage, attempts and workers on which it failed.

        Those on which both workers failed have as many past attempts as are kept.
        """
        marks = ((), ("w:1",), ("v:2",), ("v:2", "w:1"))
        past = tuple(
            Attempt(
                number=n,
                ending=Ending.FAILED,
                cause=Cause.KILLED,
                error=f"{n}",
                worker="v:2",
                started_at=n,
                ended_at=n + 1.0,
            )
            for n in range(1, KEPT_ATTEMPTS + 1)
        )
        causes = {Status.FAILED: (None, Cause.RAISED, Cause.CANCELLED), Status.WAITING: (None, Cause.RAISED)}
        kinds = itertools.product(statuses, (Status.WAITING, Status.PART_DONE), attempts, most, marks)
        return [
            TaskRecord(
                id=digest({"n": n, "cause": cause}), pool=POOL, definition={"n": n, "cause": cause}, status=status,
                stage_from=stage, attempt=attempt, max_attempts=limit, failed_by=failed_by, cause=cause,
                error="before" if cause else None, started_at=4.0, finished_at=5.0, worker="w:1", log="before",
                history=past if len(failed_by) == 2 else (),
            )
            for n, (status, stage, attempt, limit, failed_by) in enumerate(kinds)
            for cause in causes.get(status, (None,))
            if status not in (Status.WAITING, Status.PART_DONE) or status is stage
        ]  # fmt: skip

    def follows(self, store: TaskStore, expected: Iterable[TaskRecord]) -> None:
        """Assert that the tasks in the store are as `expected`, except for their tokens and definitions' texts."""
        there = {t.id: t for t in store.query(POOL)}
        for task in expected:
            found = replace(there[task.id], text="", extra={}, created_at=0.0, blocked=False)
            wanted = replace(task, text="", extra={}, created_at=0.0)
            assert self._without_tokens(found) == self._without_tokens(wanted)

    @staticmethod
    def _without_tokens(task: TaskRecord) -> TaskRecord:
        history = tuple(replace(attempt, token=0) for attempt in task.history)
        return replace(task, token=0, result=None, history=history)

    def running(self, store: TaskStore, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Store records, claim all of them at their stages, and return them with their histories."""
        assert store.put(POOL, records) == len(records)
        stages: tuple[Status, ...] = (Status.WAITING, Status.PART_DONE)
        held = [t for s in stages for t in store.claim(POOL, worker="w:1", lease=60.0, status=s, limit=len(records))]
        histories = {r.id: r.history for r in records}
        return [replace(t, history=histories[t.id]) for t in held]

    @pytest.mark.parametrize("cause", [Cause.RAISED, Cause.UNREADABLE])
    @pytest.mark.parametrize("attempts", [0, 1])
    def test_a_failure_follows_the_rules(
        self, store: TaskStore, clock: ManualClock, attempts: int, cause: Cause, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For all stages, numbers of attempts, and workers on which the task failed before."""
        monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
        stages = (Status.WAITING, Status.PART_DONE)
        held = self.running(store, self.records(stages, (0, 1, 2, 7), (1, 3, 9)))
        clock.now += 3.0
        after = [transitions.failed(t, "boom", cause, attempts=attempts, log="log", now=clock.now) for t in held]
        returned = [store.fail(t, "boom", cause, "log", attempts) for t in held]
        assert returned == [t.status for t in after]
        self.follows(store, after)

    @pytest.mark.parametrize(
        "call", ["claim", "commit", "commit in part", "give back", "give back as", "give back with a reason", "expire"]
    )
    def test_the_end_of_a_claim_follows_the_rules(
        self, store: TaskStore, clock: ManualClock, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For all stages and numbers of attempts."""
        monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
        records = self.records((Status.WAITING, Status.PART_DONE), (0, 1, 6), (1, 2, 8))
        begun = clock.now
        held = self.running(store, records)
        claimed = {r.id: transitions.claimed(r, worker="w:1", token=0, lease=60.0, now=begun) for r in records}
        clock.now += 61.0 if call == "expire" else 3.0
        ends: dict[str, tuple[Callable[[TaskRecord], object], Callable[[TaskRecord], TaskRecord]]] = {
            "claim": (lambda t: None, lambda t: t),
            "commit": (
                lambda t: store.commit(t, 1, log="log"),
                lambda t: transitions.committed(t, 1, Status.DONE, log="log", now=clock.now),
            ),
            "commit in part": (
                lambda t: store.commit(t, 1, Status.PART_DONE, "log"),
                lambda t: transitions.committed(t, 1, Status.PART_DONE, log="log", now=clock.now),
            ),
            "give back": (store.give_back, lambda t: transitions.given_back(t, now=clock.now)),
            "give back as": (
                lambda t: store.give_back(t, Status.PART_DONE),
                lambda t: transitions.given_back(t, Status.PART_DONE, now=clock.now),
            ),
            "give back with a reason": (
                lambda t: store.give_back(t, reason="no torch"),
                lambda t: transitions.given_back(t, reason="no torch", now=clock.now),
            ),
            "expire": (lambda t: store.expire(POOL), lambda t: transitions.expired(t, now=clock.now)),
        }  # fmt: skip
        end, rule = ends[call]
        for task in held[: 1 if call == "expire" else None]:
            end(task)
        self.follows(store, map(rule, claimed.values()))

    @pytest.mark.parametrize("call", ["waiting", "part_done", "done", "failed", "retry", "cancel", "restore"])
    def test_an_administrative_change_follows_the_rules(self, store: TaskStore, clock: ManualClock, call: str) -> None:
        """For all statuses, stages, numbers of attempts, causes, and workers on which the task failed before."""
        others = (Status.DONE, Status.FAILED)
        held = self.running(store, self.records((Status.WAITING, Status.PART_DONE), (0, 2), (3,)))
        free = self.records(Status, (0, 1, 2), (4,))
        free = [
            replace(r, id=digest({"free": r.id}), definition={"free": r.id})
            for r in free
            if r.status is not Status.RUNNING
        ]
        assert store.put(POOL, free) == len(free)
        before = [*held, *free]
        clock.now += 3.0
        unfinished = [t for t in before if t.status not in others]
        calls: dict[str, tuple[Callable[[], object], Callable[[TaskRecord], TaskRecord], list[TaskRecord]]] = {
            "retry": (
                lambda: store.retry(POOL), transitions.retried, [t for t in before if t.status is Status.FAILED]
            ),
            "cancel": (
                lambda: store.cancel(POOL), lambda t: transitions.cancelled(t, now=clock.now), unfinished
            ),
            "restore": (
                lambda: len(store.restore_attempts(POOL, "w:1", [t.id for t in before])),
                lambda t: transitions.restored(t, "w:1"),
                [t for t in before if transitions.restored(t, "w:1") is not t],
            ),
        }  # fmt: skip
        if call in calls:
            change, rule, theirs = calls[call]
        else:
            change, theirs = (lambda: store.set_status(POOL, {}, Status(call))), before
            rule = lambda t: transitions.with_status(t, Status(call), now=clock.now)  # noqa: E731
        assert change() == len(theirs)
        changed = {t.id for t in theirs}
        self.follows(store, [rule(t) if t.id in changed else t for t in before])
        for task in held:
            if task.id in changed and call != "restore":
                with pytest.raises(LeaseLost):
                    store.renew(task, 60.0)
