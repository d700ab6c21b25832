"""A state machine that applies the same calls to a store and to the memory store, and compares them after each step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollforge.errors import ConfigError, LeaseLost, TaskNotFound
from rollforge.store.base import Clock, TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.task import Cause, Status, TaskRecord, digest
from rollforge.testing.store import ManualClock

__all__ = ["StoreMachine"]

POOL = "machine"
NUMBERS = st.integers(0, 5)
NAMES = st.sampled_from(["", "lgb", "ridge"])
BATCHES = st.sampled_from(["", "", "first", "second"])
QUERIES = st.sampled_from(
    [
        {},
        {"x": {"$lt": 3}},
        {"status": "waiting"},
        {"status": "failed"},
        {"status": "running"},
        {"priority": {"$gt": 0}},
        {"model_name": "lgb"},
        {"model_name": {"$ne": "ridge"}},
    ]
)
FIELDS = (
    "status",
    "model_name",
    "priority",
    "attempt",
    "stage_from",
    "worker",
    "cause",
    "error",
    "result",
    "blocked",
    "depends_on",
    "failed_by",
    "submission",
)


class StoreMachine(RuleBasedStateMachine):
    """Subclass it and implement `make_store`."""

    make_store: Callable[[Clock], TaskStore]

    @initialize()
    def begin(self) -> None:
        """Create two empty stores with one clock, and disable the jitter of the backoff."""
        self.clock = ManualClock()
        self.model = MemoryStore(clock=self.clock)
        self.store = type(self).make_store(self.clock)
        self.claims: list[tuple[TaskRecord, TaskRecord]] = []
        self.asked = 0
        self._jitter = random.uniform
        setattr(random, "uniform", lambda low, high: 1.0)  # noqa: B010

    def teardown(self) -> None:
        """Restore the jitter."""
        if hasattr(self, "_jitter"):
            setattr(random, "uniform", self._jitter)  # noqa: B010
            self.store.remove(POOL)
            self.store.pause(POOL, False)
            self.store.close()

    def both(self, call: Callable[[TaskStore], object]) -> Any:
        """Return the result of a call on both stores; results and errors must agree."""
        answers = []
        for store in (self.model, self.store):
            try:
                answers.append(call(store))
            except (LeaseLost, ConfigError, TaskNotFound) as exc:
                answers.append(type(exc))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(
        xs=st.lists(NUMBERS, min_size=1, max_size=3),
        priority=st.integers(-1, 1),
        most=st.integers(1, 2),
        batch=BATCHES,
        creation=st.sampled_from(["", "one", "two"]),
    )
    def create(self, xs: list[int], priority: int, most: int, batch: str, creation: str) -> None:
        """Create tasks, including existing ones and some created under the same identity."""
        options: dict[str, Any] = {"priority": priority, "max_attempts": most, "batch": batch, "creation": creation}
        self.both(lambda s: s.create(POOL, [{"x": x} for x in xs], **options))

    @rule(xs=st.lists(NUMBERS, min_size=1, max_size=3), batch=st.sampled_from(["first", "second"]))
    def add_to_batch(self, xs: list[int], batch: str) -> None:
        """Add tasks to a batch, including unknown ones."""
        self.both(lambda s: s.add_to_batch(POOL, batch, [digest({"x": x}) for x in xs]))

    @rule(xs=st.lists(NUMBERS, min_size=1, max_size=3), names=st.lists(NAMES, min_size=3, max_size=3))
    def create_named(self, xs: list[int], names: list[str]) -> None:
        """Create tasks with names, including existing ones, which get the new name unless it is empty."""
        self.both(lambda s: s.create(POOL, [{"x": x} for x in xs], model_names=names[: len(xs)], submission=names[0]))

    @rule(x=NUMBERS, dependencies=st.lists(NUMBERS, min_size=1, max_size=2))
    def create_dependent(self, x: int, dependencies: list[int]) -> None:
        """Create a task that waits for others, which may not exist, or may wait for it."""
        self.both(lambda s: s.create(POOL, [{"x": x}], depends_on=[digest({"x": n}) for n in dependencies]))

    @rule(
        limit=st.integers(1, 2),
        status=st.sampled_from([Status.WAITING, Status.PART_DONE]),
        worker=st.sampled_from("ab"),
        query=QUERIES,
        avoid=st.sampled_from(["", "", "a", "b"]),
        batch=BATCHES,
        again=st.booleans(),
    )
    def claim(
        self, limit: int, status: Status, worker: str, query: dict[str, Any], avoid: str, batch: str, again: bool
    ) -> None:
        """Claim the same tasks in the same order; a repeated claim returns the same tasks and tokens."""
        self.asked += 1
        answers = [
            [
                s.claim(
                    POOL, worker=worker, lease=10, status=status, limit=limit, query=query, avoid=avoid,
                    batch=batch, claim=f"claim {self.asked}",
                )
                for s in (self.model, self.store)
            ]
            for _ in range(1 + again)
        ]  # fmt: skip
        ours, theirs = answers[-1]
        assert [t.id for t in ours] == [t.id for t in theirs]
        assert [t.result for t in ours] == [t.result for t in theirs]
        if answers[0][0]:
            assert [[t.token for t in side] for side in answers[0]] == [[t.token for t in side] for side in answers[-1]]
        self.claims += zip(ours, theirs, strict=True)

    def claimed(self, data: st.DataObject) -> tuple[TaskRecord, TaskRecord]:
        """Choose one of the claims so far: usually the latest, sometimes a stale one."""
        return self.claims[-1 - data.draw(st.integers(0, min(3, len(self.claims) - 1)))]

    def end(self, claim: tuple[TaskRecord, TaskRecord], call: Callable[[TaskStore, TaskRecord], object]) -> None:
        """Make the same call on both stores, each with its own claim."""
        task = {id(self.model): claim[0], id(self.store): claim[1]}
        self.both(lambda s: call(s, task[id(s)]))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), status=st.sampled_from([Status.DONE, Status.PART_DONE]), result=NUMBERS)
    def commit(self, data: st.DataObject, status: Status, result: int) -> None:
        """Commit: accepted or refused by both stores."""
        self.end(self.claimed(data), lambda s, t: s.commit(t, result, status))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """Fail: retried or failed in both stores."""
        cause = data.draw(st.sampled_from([Cause.KILLED, Cause.KILLED, Cause.UNREADABLE]))
        attempts = data.draw(st.integers(0, 1))
        self.end(self.claimed(data), lambda s, t: s.fail(t, "boom", cause, attempts=attempts))

    @rule(worker=st.sampled_from("abc"), xs=st.lists(NUMBERS, min_size=1, max_size=6))
    def restore(self, worker: str, xs: list[int]) -> None:
        """Restore the attempts that failed on a worker that proved to be faulty."""
        self.both(lambda s: s.restore_attempts(POOL, worker, [digest({"x": x}) for x in xs]))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), renew=st.booleans())
    def keep_or_give_back(self, data: st.DataObject, renew: bool) -> None:
        """Renew a lease, or give a task back, with or without a reason."""
        reason = data.draw(st.sampled_from([None, "it lacks a module"]))
        self.end(self.claimed(data), lambda s, t: s.renew(t, 10) if renew else s.give_back(t, reason=reason))

    @rule(seconds=st.sampled_from([1.0, 3.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        """Advance the clock: leases expire and backoffs end."""
        self.clock.now += seconds

    @rule(query=QUERIES, what=st.sampled_from(["retry", "retry", "cancel", "raise", "reset", "finish"]))
    def change(self, query: dict[str, object], what: str) -> None:
        """Make an administrative change to the tasks that match."""
        calls: dict[str, Callable[[TaskStore], object]] = {
            "retry": lambda s: s.retry(POOL, query),
            "cancel": lambda s: s.cancel(POOL, query),
            "raise": lambda s: s.prioritize(POOL, query, 2),
            "reset": lambda s: s.set_status(POOL, query, Status.WAITING),
            "finish": lambda s: s.set_status(POOL, query, Status.DONE),
        }
        self.both(calls[what])

    @rule(x=NUMBERS)
    def remove(self, x: int) -> None:
        """Remove one task, on which others may depend."""
        self.both(lambda s: s.remove(POOL, {"x": x}))

    @rule(xs=st.lists(NUMBERS, min_size=2, max_size=4, unique=True))
    def create_chain(self, xs: list[int]) -> None:
        """Create a chain of tasks, each of which waits for the previous one."""
        self.both(lambda s: s.create(POOL, [{"x": xs[0]}], max_attempts=1))
        for before, after in itertools.pairwise(xs):
            self.both(lambda s, a=after, b=before: s.create(POOL, [{"x": a}], depends_on=[digest({"x": b})]))  # type: ignore[misc]

    @rule(good=st.booleans())
    def work(self, good: bool) -> None:
        """Claim the next task and end it."""
        ours, theirs = (s.claim(POOL, worker="c", lease=10) for s in (self.model, self.store))
        assert [t.id for t in ours] == [t.id for t in theirs]
        for claim in zip(ours, theirs, strict=True):
            self.end(claim, lambda s, t: s.commit(t, "good") if good else s.fail(t, "bad"))

    @rule(old=NUMBERS, new=NUMBERS)
    def replace(self, old: int, new: int) -> None:
        """Replace one definition by another."""
        self.both(lambda s: s.replace(POOL, digest({"x": old}), {"x": new}))

    @rule(worker=st.sampled_from("ab"), error=st.sampled_from([None, "killed"]))
    def bury(self, worker: str, error: str | None) -> None:
        """Release the claims of a worker that is known to be dead."""
        self.both(lambda s: sorted(t.id for t in s.release_worker(POOL, worker, error)))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        """Pause or resume the pool."""
        self.both(lambda s: s.pause(POOL, paused))

    @invariant()
    def they_agree(self) -> None:
        """Compare all visible fields of each task, its ended attempts, the order of tasks, and the counts."""
        if not hasattr(self, "store"):
            return
        ours, theirs = list(self.model.query(POOL)), list(self.store.query(POOL))
        assert [t.id for t in ours] == [t.id for t in theirs]
        for our, their in zip(ours, theirs, strict=True):
            for name in FIELDS:
                if name == "error" and our.cause is their.cause is Cause.DEPENDENCY:
                    continue  # if two failed at the same time, either may be named
                assert getattr(our, name) == getattr(their, name), (our.definition, name)
            ended = [[replace(one, token=0) for one in task.ended_attempts] for task in (our, their)]
            assert ended[0] == ended[1], our.definition
        since = self.clock.now - 5.0
        assert self.model.workers(POOL, since) == self.store.workers(POOL, since)
        for batch in ("", "first", "second"):
            assert self.model.count(POOL, batch=batch) == self.store.count(POOL, batch=batch)
            ids = [[t.id for t in s.query(POOL, batch=batch)] for s in (self.model, self.store)]
            assert ids[0] == ids[1]
