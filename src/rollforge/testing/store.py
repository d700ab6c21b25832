"""Conformance test suite for task stores."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from rollforge.errors import ConfigError, LeaseLost, TaskNotFound, TaskNotSerializable
from rollforge.store.base import ABOUT, AVOID_SECONDS, SUBMISSION_SECONDS, SupportsPastAttempts, TaskStore, Work
from rollforge.task import KEPT_ATTEMPTS, Attempt, Cause, Ending, Status, TaskRecord, digest
from rollforge.testing.store_transitions import POOL, ManualClock, TransitionSuite
from rollforge.transitions import MAX_ERROR_LENGTH

__all__ = ["ManualClock", "TaskStoreSuite"]


class NotAllowed:
    """A type that is not on any allow-list."""


class TaskStoreSuite(TransitionSuite):
    """Subclass it and implement `make_store`; all tests then run on that store."""

    # -- creating ------------------------------------------------------------------------------------------------------

    def test_a_task_is_identified_by_its_content(self, store: TaskStore) -> None:
        """The same definition twice is one task, whatever the order of its keys."""
        first = store.create(POOL, [{"a": 1, "b": 2}, {"a": 2}, {"b": 2, "a": 1}])
        again = store.create(POOL, [{"a": 2}])
        assert [c.new for c in first] == [True, True, False]
        assert first[0].id == first[2].id == digest({"a": 1, "b": 2})
        assert (again[0].id, again[0].new) == (first[1].id, False)
        assert store.count(POOL) == {Status.WAITING: 2}

    def test_definitions_survive_the_round_trip(self, store: TaskStore) -> None:
        """Tuples, dates, numbers, None and strings are restored exactly."""
        definition = {"t": (1, 2.5), "d": dt.date(2020, 1, 2), "n": None, "nested": {"ä": ["x", True]}}
        (created,) = store.create(POOL, [definition])
        assert store.get(POOL, created.id).definition == definition

    def test_a_live_object_is_refused_and_nothing_is_stored(self, store: TaskStore) -> None:
        """The message names the path of the value; the valid definitions of the same call are not stored either."""
        with pytest.raises(TaskNotSerializable, match=r"model\.kwargs\.thing"):
            store.create(POOL, [{"a": 1}, {"model": {"kwargs": {"thing": NotAllowed()}}}])
        assert store.count(POOL) == {}

    def test_a_name_is_not_part_of_a_task(self, store: TaskStore) -> None:
        """A task that is created again under another name gets that name, and nothing else changes. An empty name, or
        no name, changes nothing."""
        first, second = store.create(POOL, [{"x": 1}, {"x": 2}], model_names=["lgb", ""])
        store.commit(self.claim(store), "result")
        assert [t.model_name for t in store.query(POOL)] == ["lgb", ""]
        before = store.get(POOL, first.id)
        again = store.create(POOL, [{"x": 2}, {"x": 1}, {"x": 3}], model_names=["ridge", "trees", "ridge"])
        assert [c.new for c in again] == [False, False, True]
        after = store.get(POOL, first.id)
        assert (after.model_name, after.result, after.status) == ("trees", "result", Status.DONE)
        assert (after.token, after.definition) == (before.token, before.definition)
        store.create(POOL, [{"x": 1}])
        store.create(POOL, [{"x": 1}], model_names=[""])
        assert store.get(POOL, first.id).model_name == "trees"
        assert {t.definition["x"] for t in store.query(POOL, {"model_name": "ridge"})} == {2, 3}
        assert self.claim(store, query={"model_name": {"$in": ["ridge"]}}).id == second.id

    def test_a_name_is_kept_with_its_task(self, store: TaskStore) -> None:
        """While it runs, fails, is retried, is copied, or its definition is replaced."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=1, model_names=["größer, depth=4 %s :name"])
        task = self.claim(store)
        assert task.model_name == "größer, depth=4 %s :name"
        store.create(POOL, [{"x": 1}], model_names=["new"])
        store.fail(task, "boom")
        store.retry(POOL)
        store.put("copy", list(store.query(POOL)))
        new_id = store.replace(POOL, created.id, {"x": 2})
        assert [t.model_name for t in store.query("copy")] == ["new"]
        assert store.get(POOL, new_id).model_name == "new"

    @pytest.mark.parametrize("names", [["a"], ["a", "b\nc"], ["a", None], ["a", "\x00"]])
    def test_invalid_names_are_refused(self, store: TaskStore, names: list[str]) -> None:
        """Fewer names than tasks, or names with unprintable characters, are refused; nothing is stored."""
        with pytest.raises(ConfigError, match="model_names"):
            store.create(POOL, [{"x": 1}, {"x": 2}], model_names=names)
        assert store.count(POOL) == {}

    def test_pools_are_independent(self, store: TaskStore) -> None:
        """The same task may be in two pools; changes in one do not affect the other."""
        store.create(POOL, [{"a": 1}])
        store.create("other", [{"a": 1}])
        self.claim(store)
        assert store.pools() == ["other", POOL]
        assert store.count("other") == {Status.WAITING: 1}

    # -- claiming ------------------------------------------------------------------------------------------------------

    def test_the_highest_priority_comes_first_then_the_oldest(self, store: TaskStore) -> None:
        """Tasks are claimed by priority, then by age."""
        store.create(POOL, [{"x": 1}, {"x": 2}])
        store.create(POOL, [{"x": 3}], priority=5)
        store.create(POOL, [{"x": 4}])
        store.prioritize(POOL, {"def.x": 4}, 9)
        assert [self.claim(store).definition["x"] for _ in range(4)] == [4, 3, 1, 2]
        assert store.claim(POOL, worker="w", lease=60) == []

    def test_a_batch_is_claimed_in_order(self, store: TaskStore) -> None:
        """Several tasks can be claimed at once, in the same order."""
        store.create(POOL, [{"x": i} for i in range(5)])
        batch = store.claim(POOL, worker="w", lease=60, limit=3)
        assert [t.definition["x"] for t in batch] == [0, 1, 2]
        assert {t.status for t in batch} == {Status.RUNNING}

    def test_a_committed_task_is_done_and_keeps_its_result(self, store: TaskStore) -> None:
        """The result is restored exactly, and the task is not claimed again."""
        store.create(POOL, [{"x": 1}])
        task = self.claim(store)
        store.commit(task, {"ic": 0.05, "pair": (1, 2)})
        done = store.get(POOL, task.id)
        assert (done.status, done.result) == (Status.DONE, {"ic": 0.05, "pair": (1, 2)})
        assert store.claim(POOL, worker="w", lease=60) == []

    def test_a_task_that_is_given_back_waits_as_before(self, store: TaskStore) -> None:
        """No attempt is counted."""
        store.create(POOL, [{"x": 1}])
        store.give_back(self.claim(store))
        again = self.claim(store)
        assert again.attempt == 0

    def test_an_expired_lease_can_be_taken_over(self, store: TaskStore, clock: ManualClock) -> None:
        """After the lease and a short backoff, another worker gets the task; the attempt counts, and the result of the
        first worker is refused."""
        store.create(POOL, [{"x": 1}])
        first = self.claim(store, worker="first", lease=10)
        clock.now += 9
        assert store.claim(POOL, worker="second", lease=10) == []
        clock.now += 2
        assert store.claim(POOL, worker="second", lease=10) == []
        clock.now += 1.1
        second = self.claim(store, worker="second", lease=10)
        assert (second.id, second.attempt) == (first.id, 1)
        with pytest.raises(LeaseLost):
            store.commit(first, 1)
        with pytest.raises(LeaseLost):
            store.renew(first, 5)
        with pytest.raises(LeaseLost):
            store.give_back(first)
        with pytest.raises(LeaseLost):
            store.fail(first, "late")
        store.commit(second, "theirs")
        assert store.get(POOL, second.id).result == "theirs"

    @pytest.mark.parametrize("by", ["expire", "claim"])
    def test_a_lease_ends_exactly_on_time(self, store: TaskStore, clock: ManualClock, by: str) -> None:
        """A lease of ten seconds has ended after ten seconds, and the task is free at the end of its backoff."""

        def look() -> list[TaskRecord]:
            if by == "expire":
                store.expire(POOL)
                return []
            return store.claim(POOL, worker="second", lease=10)

        (created,) = store.create(POOL, [{"x": 1}])
        self.claim(store, lease=10)
        clock.now += 9.75
        assert look() == []
        assert store.get(POOL, created.id).status is Status.RUNNING
        clock.now += 0.25
        assert look() == []
        ended = store.get(POOL, created.id)
        assert (ended.status, ended.attempt, ended.cause) == (Status.WAITING, 1, Cause.LEASE_LOST)
        assert clock.now + 0.5 <= ended.available_at <= clock.now + 1
        clock.now = ended.available_at
        assert self.claim(store).id == created.id

    def test_a_renewed_lease_is_extended(self, store: TaskStore, clock: ManualClock) -> None:
        """A renewed lease lasts from the time of the renewal."""
        store.create(POOL, [{"x": 1}])
        task = self.claim(store, lease=10)
        clock.now += 8
        store.renew(task, 10)
        clock.now += 8
        assert store.claim(POOL, worker="other", lease=10) == []
        store.commit(task, 1)

    def test_a_claim_is_stale_after_the_task_was_removed_and_created_again(self, store: TaskStore) -> None:
        """Tokens never repeat, so an old claim cannot commit to the new task."""
        store.create(POOL, [{"x": 1}])
        old = self.claim(store, worker="a")
        store.remove(POOL)
        store.create(POOL, [{"x": 1}])
        self.claim(store, worker="b")
        with pytest.raises(LeaseLost):
            store.commit(old, "a's")

    def test_a_task_that_loses_its_worker_too_often_fails(self, store: TaskStore, clock: ManualClock) -> None:
        """A task that kills its workers fails after its last attempt."""
        store.create(POOL, [{"x": 1}], max_attempts=2)
        for _ in range(2):
            self.claim(store, lease=10)
            clock.now += 11
            store.expire(POOL)
            clock.now += 2
        (task,) = store.query(POOL)
        assert task.status is Status.FAILED
        assert "expired" in str(task.error)

    # -- batches -------------------------------------------------------------------------------------------------------

    def test_a_batch_is_claimed_and_counted_separately(self, store: TaskStore) -> None:
        """A batch contains its tasks in order, including those that already existed; a task may be in two batches."""
        store.create(POOL, [{"x": 1}, {"x": 2}], batch="a")
        store.create(POOL, [{"x": 3}])
        store.create(POOL, [{"x": 4}], priority=1, batch="b")
        store.create(POOL, [{"x": 2}, {"x": 3}, {"x": 3}], batch="b")
        assert store.count(POOL, batch="a") == {Status.WAITING: 2}
        assert store.count(POOL, batch="b") == {Status.WAITING: 3}
        assert store.count(POOL, batch="c") == {}
        assert store.claim(POOL, worker="w", lease=60, batch="c") == []
        assert [self.claim(store, batch="b").definition["x"] for _ in range(3)] == [4, 2, 3]
        assert store.claim(POOL, worker="w", lease=60, batch="b") == []
        assert store.count(POOL, batch="a") == {Status.WAITING: 1, Status.RUNNING: 1}
        assert [t.definition["x"] for t in store.query(POOL, batch="b")] == [2, 3, 4]
        assert [t.definition["x"] for t in store.query(POOL, {"x": {"$gt": 2}}, batch="b", limit=1)] == [3]
        assert store.count(POOL, {"x": {"$gt": 2}}, batch="b") == {Status.RUNNING: 2}
        assert store.count(POOL, {"status": {"$ne": "running"}}, batch="a") == {Status.WAITING: 1}
        assert self.claim(store, batch="a").definition["x"] == 1
        assert store.count("other", batch="a") == {}

    def test_a_batch_follows_its_tasks(self, store: TaskStore, clock: ManualClock) -> None:
        """Priorities, prerequisites, failures, results, lost leases, and replaced definitions."""
        (a,) = store.create(POOL, [{"x": 1}], batch="b")
        store.create(POOL, [{"x": 2}], depends_on=[a.id], batch="b")
        store.create(POOL, [{"x": 3}], batch="b", max_attempts=1)
        store.prioritize(POOL, {"x": 3}, 5)
        assert self.claim(store, batch="b", lease=10).definition["x"] == 3
        first = self.claim(store, batch="b")
        assert store.claim(POOL, worker="w", lease=60, batch="b") == [], "it waits for the first"
        store.commit(first, 1, Status.PART_DONE)
        clock.now += 11
        assert store.claim(POOL, worker="w", lease=60, batch="b") == []
        assert store.count(POOL, batch="b") == {Status.WAITING: 1, Status.PART_DONE: 1, Status.FAILED: 1}
        store.commit(self.claim(store, batch="b", status=Status.PART_DONE), 1)
        assert self.claim(store, batch="b").definition["x"] == 2
        assert store.retry(POOL, {"x": 3}) == 1
        new = store.replace(POOL, self.id_of(store, 3), {"x": 4})
        assert self.claim(store, batch="b").id == new
        assert store.count(POOL, batch="b") == {Status.RUNNING: 2, Status.DONE: 1}

    def test_removed_tasks_leave_their_batches(self, store: TaskStore) -> None:
        """Removed tasks are in no batch, even if they are created again; unknown ids are ignored."""
        made = [c.id for c in store.create(POOL, [{"x": 1}, {"x": 2}])]
        store.add_to_batch(POOL, "b", [*made, "0" * 32])
        store.add_to_batch(POOL, "b", made[:1])
        assert store.count(POOL, batch="b") == {Status.WAITING: 2}
        store.remove(POOL, {"x": 1})
        assert store.count(POOL, batch="b") == {Status.WAITING: 1}
        store.remove(POOL)
        store.create(POOL, [{"x": 1}])
        assert store.count(POOL, batch="b") == {}
        assert list(store.query(POOL, batch="b")) == []

    # -- repeated calls ------------------------------------------------------------------------------------------------

    def test_a_repeated_claim_returns_the_same_tasks(self, store: TaskStore, clock: ManualClock) -> None:
        """The same tokens in the same order, and no attempt is counted; tasks that are no longer held are left out."""
        store.create(POOL, [{"x": 1}, {"x": 2}])
        store.create(POOL, [{"x": 3}], priority=1)
        first = store.claim(POOL, worker="w", lease=10, limit=2, claim="one")
        assert store.claim(POOL, worker="w", lease=10, limit=2, claim="one") == first
        assert [t.definition["x"] for t in first] == [3, 1]
        other = store.claim(POOL, worker="w", lease=60, limit=2, claim="two")
        assert [t.definition["x"] for t in other] == [2]
        store.commit(first[0], 1)
        assert store.claim(POOL, worker="w", lease=10, limit=2, claim="one") == first[1:]
        clock.now += 11
        store.expire(POOL)
        clock.now += 2
        (again,) = store.claim(POOL, worker="w", lease=10, limit=2, claim="one")
        assert (again.id, again.attempt) == (first[1].id, 1)

    def test_a_repeated_creation_reports_the_same_new_tasks(self, store: TaskStore) -> None:
        """Including tasks claimed meanwhile, but not those stored by others, or stored again after a removal."""
        store.create(POOL, [{"x": 1}])
        wanted = [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 2}]
        first = store.create(POOL, wanted, creation="one")
        assert [c.new for c in first] == [False, True, True, False]
        store.commit(self.claim(store, query={"x": 2}), 1)
        assert store.create(POOL, wanted, creation="one") == first
        assert [c.new for c in store.create(POOL, wanted, creation="two")] == [False] * 4
        assert [c.new for c in store.create(POOL, [*wanted, {"x": 4}])] == [False] * 4 + [True]
        assert [c.new for c in store.create(POOL, [{"x": 3}, {"x": 4}, {"x": 5}], creation="one")] == [
            True,
            False,
            True,
        ]
        store.remove(POOL)
        store.create(POOL, wanted, creation="two")
        assert [c.new for c in store.create(POOL, wanted, creation="one")] == [False] * 4
        assert store.create("other", [{"x": 2}], creation="two")[0].new
        store.create("replaced", [{"x": 1}], creation="one")
        for old, new in ((1, 1), (1, 2)):  # a task takes the place of the one that it replaces
            store.replace("replaced", digest({"x": old}), {"x": new})
            assert [c.new for c in store.create("replaced", [{"x": new}], creation="one")] == [True]

    def test_repeating_the_end_of_a_claim_changes_nothing(self, store: TaskStore, clock: ManualClock) -> None:
        """Repeating a commit, failure or return succeeds; ending the claim in another way is refused."""
        store.create(POOL, [{"x": 1}, {"x": 2}, {"x": 3}])
        done, failed, given = store.claim(POOL, worker="w", lease=60, limit=3)
        for _ in range(2):
            store.commit(done, "result", log="text")
            assert store.fail(failed, "boom") is Status.WAITING
            store.give_back(given)
        assert [t.attempt for t in store.query(POOL)] == [0, 1, 0]
        assert store.get(POOL, done.id).result == "result"
        for end in (lambda t: store.fail(t, "late"), store.give_back, lambda t: store.renew(t, 60)):
            with pytest.raises(LeaseLost):
                end(done)
        for task in (failed, given):
            with pytest.raises(LeaseLost):
                store.commit(task, 1)
        with pytest.raises(LeaseLost):
            store.commit(done, 1, Status.PART_DONE)
        store.set_status(POOL, {"x": 1}, Status.DONE)
        with pytest.raises(LeaseLost):
            store.commit(done, 1)
        clock.now += 2
        assert {t.id for t in store.claim(POOL, worker="w", lease=60, limit=3)} == {failed.id, given.id}
        for call in (lambda: store.fail(failed, "boom"), lambda: store.give_back(given)):
            with pytest.raises(LeaseLost):
                call()

    # -- failing -------------------------------------------------------------------------------------------------------

    def test_a_failed_attempt_is_retried_after_its_backoff(self, store: TaskStore, clock: ManualClock) -> None:
        """A failed task is retried after its backoff, and its error is kept."""
        (created,) = store.create(POOL, [{"x": 1}])
        assert store.fail(self.claim(store), "boom") is Status.WAITING
        assert store.claim(POOL, worker="w", lease=60) == []
        clock.now += 1.1
        assert self.claim(store).attempt == 1
        assert store.get(POOL, created.id).error == "boom"

    def test_a_task_fails_after_max_attempts_and_can_be_retried(self, store: TaskStore, clock: ManualClock) -> None:
        """It keeps its last error; `retry` resets its attempts."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=2)
        ends = []
        for i in range(2):
            ends.append(store.fail(self.claim(store), f"boom {i}"))
            clock.now += 100
        assert ends == [Status.WAITING, Status.FAILED]
        failed = store.get(POOL, created.id)
        assert (failed.status, failed.attempt, failed.error) == (Status.FAILED, 2, "boom 1")
        assert store.retry(POOL) == 1
        assert self.claim(store).attempt == 0

    def test_the_claims_of_a_dead_worker_are_ended_at_once(self, store: TaskStore) -> None:
        """Only the claims that it held end, as failures or as returns."""
        store.create(POOL, [{"x": 1}, {"x": 2}, {"x": 3}])
        held = [self.claim(store, worker=worker).id for worker in ("dead", "alive")]
        (released,) = store.release_worker(POOL, "dead", "killed")
        assert (released.status, released.attempt, released.error) == (Status.WAITING, 1, "killed")
        (given,) = store.release_worker(POOL, "alive", None)
        assert (given.status, given.attempt) == (Status.WAITING, 0)
        assert [released.id, given.id] == held

    def test_the_cause_and_the_log_of_a_failure_are_stored(self, store: TaskStore, clock: ManualClock) -> None:
        """They are cleared after a successful attempt; of a long log, the last 200 lines are kept."""
        (created,) = store.create(POOL, [{"x": 1}])
        log = "\n".join(f"line {i}" for i in range(500))
        store.fail(self.claim(store), "boom", Cause.TIMED_OUT, log)
        failed = store.get(POOL, created.id)
        assert (failed.cause, len(failed.log.splitlines())) == (Cause.TIMED_OUT, 200)
        assert failed.log.endswith("line 499")
        clock.now += 100
        task = self.claim(store)
        store.renew(task, 60, "so far")
        assert store.get(POOL, created.id).log == "so far"
        store.commit(task, 1, log="all\nof\x00 it")
        done = store.get(POOL, created.id)
        assert (done.cause, done.error, done.log) == (None, None, "all\nof\\x00 it")

    def test_an_expired_lease_has_its_own_cause(self, store: TaskStore, clock: ManualClock) -> None:
        """The cause is stored; the commit of the worker of a cancelled task is refused."""
        store.create(POOL, [{"x": 1}, {"x": 2}], max_attempts=1)
        self.claim(store, lease=10)
        clock.now += 11
        second = self.claim(store)
        assert store.cancel(POOL, {"x": 2}) == 1
        with pytest.raises(LeaseLost):
            store.commit(second, 1)
        assert [t.cause for t in store.query(POOL)] == [Cause.LEASE_LOST, Cause.CANCELLED]
        assert {t.definition["x"] for t in store.query(POOL, {"cause": "cancelled"})} == {2}

    def test_a_failed_task_can_be_left_to_others(self, store: TaskStore, clock: ManualClock) -> None:
        """To other workers or machines, for a minute; a task records where it failed, even when it is done."""
        bad, same_machine, away = "gpu1:1:aa-1", "gpu1:2:aa-9", "gpu2:1:bb-1"
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=9)
        for _ in range(2):
            store.fail(self.claim(store, worker=bad), "boom")
            clock.now += 5
        assert store.get(POOL, created.id).failed_by == (bad,)
        for avoid in (bad, "gpu1/aa"):
            assert store.claim(POOL, worker=bad, lease=60, avoid=avoid) == []
        for avoid in (same_machine, away, "gpu2/bb", "gpu1", "%", ""):
            store.give_back(self.claim(store, worker=same_machine, avoid=avoid))
            store.set_status(POOL, {}, Status.WAITING)
            store.fail(self.claim(store, worker=bad), "boom")
            clock.now += 2
        clock.now += AVOID_SECONDS - 3
        assert store.claim(POOL, worker=bad, lease=60, avoid=bad) == []
        clock.now += 1
        store.fail(self.claim(store, worker=bad, avoid="gpu1/aa"), "boom")
        clock.now += 61
        store.fail(self.claim(store, worker=away, avoid=away), "boom")
        clock.now += 61
        store.commit(self.claim(store, worker=away, avoid=away), "result")
        assert store.get(POOL, created.id).failed_by == (bad, away)
        store.put("copy", list(store.query(POOL)))
        assert store.get("copy", created.id).failed_by == (bad, away)
        store.set_status(POOL, {}, Status.WAITING)
        assert store.get(POOL, created.id).failed_by == ()

    def test_a_failure_that_may_be_the_workers_does_not_count(self, store: TaskStore, clock: ManualClock) -> None:
        """Once per worker: the next failure there counts, and so does the first one of a task with a single attempt."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=2)
        for worker in ("a", "b", "c"):
            claim = self.claim(store, worker=worker)
            for _ in range(2):  # the answer may be lost
                assert store.fail(claim, "boom", attempts=0) is Status.WAITING
            assert store.claim(POOL, worker=worker, lease=60) == [], "there is a backoff anyway"
            clock.now += 100
        kept = store.get(POOL, created.id)
        assert (kept.attempt, kept.failed_by, kept.error) == (0, ("a", "b", "c"), "boom")
        assert store.fail(self.claim(store, worker="b"), "boom", attempts=0) is Status.WAITING
        clock.now += 100
        assert store.fail(self.claim(store, worker="b"), "boom", attempts=0) is Status.FAILED
        store.remove(POOL)
        store.create(POOL, [{"x": 2}], max_attempts=1)
        assert store.fail(self.claim(store), "boom", attempts=0) is Status.FAILED
        store.create(POOL, [{"x": 3}])
        assert store.fail(self.claim(store), "damaged", Cause.UNREADABLE, attempts=0) is Status.FAILED

    def test_attempts_at_a_faulty_worker_are_given_back(self, store: TaskStore, clock: ManualClock) -> None:
        """Failed tasks wait again, and so do tasks that failed because of them; repeating the call changes nothing.
        Failures on other workers, results and cancelled tasks do not change."""

        def attempt(x: int, worker: str, *, good: bool = False) -> None:
            claim = self.claim(store, worker=worker, query={"x": x})
            if good:
                store.commit(claim, "result")
            else:
                store.fail(claim, "boom")
            clock.now += 100

        ids = [c.id for c in store.create(POOL, [{"x": x} for x in range(6)], max_attempts=2)]
        (last,) = store.create(POOL, [{"x": "last"}], depends_on=[ids[0]])
        for x, workers in enumerate([("bad", "bad"), ("bad", "other"), ("bad",), ("bad",), ("other", "other")]):
            for worker in workers:
                attempt(x, worker)
        attempt(2, "other", good=True)
        store.cancel(POOL, {"x": 3})
        assert store.count(POOL) == {Status.FAILED: 5, Status.DONE: 1, Status.WAITING: 1}
        asked = [*ids[:5], ids[0], "unknown"]
        assert store.restore_attempts(POOL, "bad", asked) == sorted(ids[:2])
        assert store.restore_attempts(POOL, "bad", asked) == []
        kept = {t.definition["x"]: (t.status, t.attempt, t.failed_by) for t in store.query(POOL)}
        assert kept == {
            0: (Status.WAITING, 0, ()), 1: (Status.WAITING, 1, ("other",)), 2: (Status.DONE, 1, ("bad",)),
            3: (Status.FAILED, 1, ("bad",)), 4: (Status.FAILED, 2, ("other",)), 5: (Status.WAITING, 0, ()),
            "last": (Status.WAITING, 0, ()),
        }  # fmt: skip
        attempt(0, "other", good=True)
        assert self.claim(store, query={"_id": last.id}).id == last.id
        running = self.claim(store, worker="other", query={"x": 1})
        assert store.restore_attempts(POOL, "other", [running.id]) == [running.id]
        store.commit(running, "result")

    def test_a_retry_clears_where_a_task_failed(self, store: TaskStore) -> None:
        """The machine may have been at fault and may have been repaired."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=1)
        store.fail(self.claim(store), "boom")
        assert store.get(POOL, created.id).failed_by == ("w",)
        store.retry(POOL)
        assert store.get(POOL, created.id).failed_by == ()
        assert self.claim(store, avoid="w").id == created.id

    def test_the_work_of_each_worker_is_counted(self, store: TaskStore, clock: ManualClock) -> None:
        """The number of running tasks, and of those committed and failed since a given time."""
        store.create(POOL, [{"x": i} for i in range(5)])
        store.commit(self.claim(store, worker="a"), 1)
        clock.now += 10
        since = clock.now
        store.commit(self.claim(store, worker="a"), 1)
        store.commit(self.claim(store, worker="b"), 1, Status.PART_DONE)
        store.fail(self.claim(store, worker="b"), "boom")
        self.claim(store, worker="c")
        assert store.workers(POOL, since) == {"a": Work(0, 1, 0), "b": Work(0, 1, 1), "c": Work(1, 0, 0)}
        assert store.workers(POOL, since - 10)["a"] == Work(0, 2, 0)
        assert store.workers(POOL, None) == {"c": Work(1, 0, 0)}
        assert store.workers("other", 0.0) == {}
        clock.now += 3600
        again = store.claim(POOL, worker="c", lease=60.0, limit=9)
        assert [t.failed_by for t in again if t.failed_by] == [("b",)]  # it failed long ago, and runs again
        assert store.workers(POOL, clock.now)["b"].failed == 1

    def test_a_task_set_to_done_is_no_work_of_a_worker(self, store: TaskStore) -> None:
        """No worker has committed it, and it has no end time."""
        store.create(POOL, [{"x": 1}])
        store.set_status(POOL, None, Status.DONE)
        assert store.workers(POOL, 0.0) == {}

    def test_information_about_a_submission_is_stored_once(self, store: TaskStore) -> None:
        """Under a key that is stored with its tasks: the new ones, and existing ones that are not done."""
        info = {"data": {"days": 7}, "tracking": "http://host:5000", "none": None}
        key = store.keep_submission(POOL, info)
        assert store.keep_submission(POOL, info) == key
        other = store.keep_submission(POOL, {"data": None})
        assert store.submissions(POOL) == {key: info, other: {"data": None}}
        assert list(store.submissions(POOL, [key])) == [other]
        assert store.submissions("other") == {}
        done, waiting = store.create(POOL, [{"x": 1}, {"x": 2}], submission=key)
        assert [t.submission for t in store.query(POOL)] == [key, key]
        store.commit(self.claim(store), 1)
        new = store.create(POOL, [{"x": 1}, {"x": 2}, {"x": 3}], submission=other)[2]
        assert [store.get(POOL, t.id).submission for t in (done, waiting, new)] == [key, other, other]
        assert store.open_submissions(POOL) == {other}
        store.create(POOL, [{"x": 2}])
        store.create(POOL, [{"x": 4}])
        assert store.open_submissions(POOL) == {other, ""}
        assert [t.submission for t in store.query(POOL)] == [key, other, other, ""]
        store.put("copy", list(store.query(POOL)))
        assert [t.submission for t in store.query("copy")] == [key, other, other, ""]
        chosen = store.claim(POOL, worker="w", lease=60, query={"submission": {"$in": [key, ""]}}, limit=9)
        assert [t.definition["x"] for t in chosen] == [4]
        assert store.get(POOL, store.replace(POOL, new.id, {"x": 5})).submission == other

    def test_submissions_without_tasks_are_deleted(self, store: TaskStore, clock: ManualClock) -> None:
        """When tasks are removed, unless tasks of the submission may be about to be created."""
        used, unused, other = (store.keep_submission(POOL, {"n": n}) for n in range(3))
        apart = store.keep_submission("other", {"n": 1})
        store.create(POOL, [{"x": 1}, {"x": 2}], submission=used)
        store.create(POOL, [{"x": 3}], submission=other)
        store.remove(POOL, {"x": 3})
        assert set(store.submissions(POOL)) == {used, unused, other}
        clock.now += SUBMISSION_SECONDS - 1
        assert store.keep_submission(POOL, {"n": 1}) == unused, "it is used again"
        clock.now += 1  # exactly long enough
        store.remove(POOL, {"x": 1})
        assert list(store.submissions(POOL)) == [used, unused]
        clock.now += SUBMISSION_SECONDS
        store.remove(POOL)
        assert store.submissions(POOL) == {}
        assert list(store.submissions("other")) == [apart]

    def test_information_about_tasks_is_kept_as_long_as_the_tasks(self, store: TaskStore, clock: ManualClock) -> None:
        """Until the last of the tasks that it is about is removed, whatever submission that task belongs to."""
        first, second = (one.id for one in store.create(POOL, [{"x": 1}, {"x": 2}], submission="s"))
        both = store.keep_submission(POOL, {ABOUT: [first, second, "gone"], "found": 1})
        alone = store.keep_submission(POOL, {ABOUT: [first], "found": 2})
        odd = [store.keep_submission(POOL, {ABOUT: value}) for value in (5, [7, None], [])]
        store.create("other", [{"x": 1}])
        clock.now += SUBMISSION_SECONDS + 1
        assert len(store.submissions(POOL)) == 2 + len(odd)
        store.remove(POOL, {"x": 1})
        assert list(store.submissions(POOL)) == [both]
        assert alone not in store.submissions(POOL)
        store.remove(POOL)
        assert store.submissions(POOL) == {}

    def test_all_tasks_are_listed_in_pages(self, store: TaskStore) -> None:
        """Oldest first, each id once, and only those of this pool."""
        ids = [c.id for c in store.create(POOL, [{"x": x} for x in range(5)])]
        store.create("other", [{"x": 1}, {"x": 9}])
        assert list(store.pages(POOL, 2)) == [ids[:2], ids[2:4], ids[4:]]
        assert list(store.pages(POOL, 5)) == [ids]
        assert list(store.pages("empty", 5)) == []

    def test_a_task_that_a_worker_cannot_run_keeps_its_attempts(self, store: TaskStore) -> None:
        """The task waits for another worker and records what the first one lacked; a successful attempt clears that."""
        (created,) = store.create(POOL, [{"x": 1}])
        store.give_back(self.claim(store), reason="it lacks a module")
        left = store.get(POOL, created.id)
        assert (left.status, left.attempt, left.cause, left.error) == (
            Status.WAITING, 0, Cause.REQUIREMENTS_NOT_MET, "it lacks a module",
        )  # fmt: skip
        assert store.count(POOL, {"cause": "unfit"}) == {Status.WAITING: 1}
        store.commit(self.claim(store), 1)
        done = store.get(POOL, created.id)
        assert (done.cause, done.error) == (None, None)

    def test_an_unreadable_task_is_not_retried(self, store: TaskStore) -> None:
        """It fails even if it has attempts left."""
        store.create(POOL, [{"x": 1}], max_attempts=3)
        assert store.fail(self.claim(store), "damaged", Cause.UNREADABLE) is Status.FAILED

    def test_any_text_can_be_stored(self, store: TaskStore) -> None:
        """Unsupported characters are escaped in errors and logs, refused in definitions, and preserved in results."""
        odd = "a\x00b\udc80c"
        for definition in ({"x": odd}, {"x": [{"y": (odd,)}]}, {odd: 1}):
            with pytest.raises(TaskNotSerializable, match="cannot be stored"):
                store.create(POOL, [definition])
        (created,) = store.create(POOL, [{"x": 1}])
        store.fail(self.claim(store), odd, log=odd)
        kept = store.get(POOL, created.id)
        assert (kept.error, kept.log) == ("a\\x00b\\udc80c",) * 2
        store.retry(POOL)
        store.set_status(POOL, {}, Status.WAITING)
        task = self.claim(store)
        store.renew(task, 60, odd)
        store.commit(task, {"said": odd}, log=odd)
        assert store.get(POOL, created.id).result == {"said": odd}

    def test_a_finished_task_cannot_be_cancelled(self, store: TaskStore) -> None:
        """A finished task keeps its result; waiting tasks fail."""
        store.create(POOL, [{"x": 1}, {"x": 2}])
        store.commit(self.claim(store), 1)
        assert store.cancel(POOL) == 1
        assert store.count(POOL) == {Status.DONE: 1, Status.FAILED: 1}

    def test_nothing_is_claimed_from_a_paused_pool(self, store: TaskStore) -> None:
        """Running tasks may end and other pools are not affected; claims are possible again after resuming."""
        store.create(POOL, [{"x": 1}, {"x": 2}])
        store.create("other", [{"x": 1}])
        running = self.claim(store)
        store.pause(POOL)
        assert store.paused(POOL)
        assert store.claim(POOL, worker="w", lease=60) == []
        assert store.claim("other", worker="w", lease=60)
        store.commit(running, 1)
        store.pause(POOL, False)
        assert not store.paused(POOL)
        assert self.claim(store).definition == {"x": 2}

    # -- ended attempts ------------------------------------------------------------------------------------------------

    def test_every_ended_attempt_is_kept(self, store: TaskStore, clock: ManualClock) -> None:
        """How it ended, why, where and when, whether or not it was counted, up to the successful one."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=5)
        began, claims = clock.now, []

        def claim(worker: str, **options: Any) -> TaskRecord:
            clock.now += 100
            claims.append(self.claim(store, worker=worker, lease=10.0, **options))
            clock.now += 5
            return claims[-1]

        claim("a")
        clock.now += 5
        store.expire(POOL)
        store.fail(claim("b"), "Traceback", Cause.OUT_OF_MEMORY, attempts=0)
        store.give_back(claim("c"))
        store.give_back(claim("d"), reason="no torch")
        store.commit(claim("e"), "half", Status.PART_DONE)
        store.release_worker(POOL, claim("f", status=Status.PART_DONE).worker or "", "killed")
        kept = store.get(POOL, created.id)
        assert kept.ended_attempts == kept.history
        store.commit(claim("g", status=Status.PART_DONE), "whole")
        done = store.get(POOL, created.id)
        assert done.history == kept.history, "the task itself describes the attempt that made it done"
        found = [(a.number, a.ending, a.cause, a.error, a.worker) for a in done.ended_attempts]
        lost = "The lease of worker a expired: the worker was killed, hung, or could not reach the store."
        assert found == [
            (1, Ending.FAILED, Cause.LEASE_LOST, lost, "a"),
            (2, Ending.FAILED, Cause.OUT_OF_MEMORY, "Traceback", "b"),
            (3, Ending.RETURNED, None, None, "c"),
            (4, Ending.RETURNED, Cause.REQUIREMENTS_NOT_MET, "no torch", "d"),
            (5, Ending.PART_DONE, None, None, "e"),
            (6, Ending.FAILED, Cause.KILLED, "killed", "f"),
            (7, Ending.DONE, None, None, "g"),
        ]
        starts = [began + 100, *(began + 110 + 100 + 105 * n for n in range(6))]
        assert [a.started_at for a in done.ended_attempts] == starts
        assert [a.seconds for a in done.ended_attempts] == [10, 5, 5, 5, 5, 5, 5]
        assert [a.token for a in done.ended_attempts] == [c.token for c in claims]
        assert [t.ended_attempts for t in store.query(POOL)] == [done.ended_attempts]
        assert [t.history for t in store.query(POOL, results=False)] == [()], "it is read with the result only"

    def test_the_past_attempts_of_a_pool(self, store: TaskStore, clock: ManualClock) -> None:
        """The latest come first, without their errors, and only those of this pool; for stores that can read them so."""
        if not isinstance(store, SupportsPastAttempts):
            pytest.skip("This store reads ended attempts only with their tasks.")
        store.create("other", [{"x": 1}])
        store.fail(store.claim("other", worker="w", lease=60)[0], "boom")
        ids = [c.id for c in store.create(POOL, [{"x": x} for x in range(3)])]
        for end in (lambda t: store.give_back(t), lambda t: store.fail(t, "boom"), lambda t: store.commit(t, 1)):
            for task in store.claim(POOL, worker="w", lease=60, limit=3):
                clock.now += 1
                end(task)
            clock.now += 9
        expected = [(i, a) for i in ids for a in store.get(POOL, i).history]
        expected.sort(key=lambda pair: -pair[1].ended_at)
        assert len(expected) == 6
        assert store.past_attempts(POOL, 99) == [(i, replace(a, error=None)) for i, a in expected]
        assert [i for i, _ in store.past_attempts(POOL, 2)] == [ids[2], ids[1]]
        assert store.past_attempts("empty", 9) == []

    def test_an_attempt_is_kept_once(self, store: TaskStore) -> None:
        """A failure, return or commit that is repeated because its answer was lost is the same attempt."""
        store.create(POOL, [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}])
        failed, given, half, running = store.claim(POOL, worker="w", lease=60, limit=4)
        for _ in range(2):
            store.fail(failed, "boom")
            store.give_back(given)
            store.commit(half, "result", Status.PART_DONE)
            store.renew(running, 60.0, "so far")
        assert [len(t.history) for t in store.query(POOL)] == [1, 1, 1, 0]
        with pytest.raises(LeaseLost):
            store.give_back(failed)
        assert len(store.get(POOL, failed.id).history) == 1

    def test_the_latest_attempts_are_kept(self, store: TaskStore, clock: ManualClock) -> None:
        """Of very many attempts the latest ones, which keep their numbers; of a long error the beginning and the end."""
        (created,) = store.create(POOL, [{"x": 1}], max_attempts=99)
        for n in range(1, KEPT_ATTEMPTS + 4):
            store.fail(self.claim(store), f"<{n}{'-' * MAX_ERROR_LENGTH}{n}>")
            clock.now += 100
        kept = store.get(POOL, created.id)
        assert [a.number for a in kept.history] == list(range(4, KEPT_ATTEMPTS + 4))
        assert all(str(a.error).startswith(f"<{a.number}-") for a in kept.history)
        assert all(str(a.error).endswith(f"-{a.number}>") for a in kept.history)
        assert all(len(str(a.error)) < MAX_ERROR_LENGTH + 100 for a in kept.history)
        assert len(str(kept.error)) > MAX_ERROR_LENGTH, "the last error is kept whole"
        store.commit(self.claim(store), 1)
        assert [a.number for a in store.get(POOL, created.id).ended_attempts] == list(range(5, KEPT_ATTEMPTS + 5))

    def test_administrative_changes_keep_the_attempts(self, store: TaskStore, clock: ManualClock) -> None:
        """A retry, a cancellation and another status keep them; a running or successful attempt becomes one of the past."""

        def found(n: int) -> list[tuple[int, Ending, Cause | None]]:
            return [(a.number, a.ending, a.cause) for a in store.get(POOL, ids[n]).ended_attempts]

        ids = [c.id for c in store.create(POOL, [{"x": x} for x in range(4)], max_attempts=1)]
        failed, running, done = store.claim(POOL, worker="w", lease=600, limit=3)
        store.fail(failed, "boom")
        store.commit(done, "result")
        clock.now += 9
        assert store.retry(POOL) == 1
        assert found(0) == [(1, Ending.FAILED, Cause.RAISED)]
        assert store.cancel(POOL) == 3, "two are waiting"
        assert found(0) == [(1, Ending.FAILED, Cause.RAISED)]
        assert found(1) == [(1, Ending.FAILED, Cause.CANCELLED)]
        assert found(3) == []
        (cancelled,) = store.get(POOL, ids[1]).history
        assert (cancelled.error, cancelled.seconds, cancelled.token) == ("The task was cancelled.", 9, running.token)
        assert store.set_status(POOL, {}, Status.WAITING) == 4
        assert found(2) == [(1, Ending.DONE, None)]
        assert store.set_status(POOL, {}, Status.DONE) == 4
        assert store.set_status(POOL, {}, Status.WAITING) == 4
        assert [len(found(n)) for n in range(4)] == [1, 1, 1, 0], "no worker made them done"
        again = self.claim(store, worker="other", query={"x": 2})
        assert store.set_status(POOL, {"x": 2}, Status.FAILED) == 1
        assert found(2) == [(1, Ending.DONE, None), (2, Ending.RESET, None)]
        reset = store.get(POOL, ids[2])
        assert (reset.history[1].worker, reset.history[1].token) == ("other", again.token)
        assert (reset.worker, reset.started_at, reset.finished_at) == (None, None, None)

    def test_attempts_are_copied_and_deleted_with_their_task(self, store: TaskStore) -> None:
        """A copy in another pool has them too. A removed task has none when it is created again, nor has a task with
        another definition."""
        (one, two, three) = (c.id for c in store.create(POOL, [{"x": 1}, {"x": 2}, {"x": 3}]))
        first, second, third = store.claim(POOL, worker="w", lease=60, limit=3)
        for _ in range(3):
            store.give_back(first)
            first = self.claim(store, query={"x": 1})
        store.commit(first, "result")
        store.fail(second, "boom")
        store.fail(third, "boom")
        kept = list(store.query(POOL))
        assert store.put("copy", kept) == 3
        assert [t.history for t in store.query("copy")] == [t.history for t in kept]
        assert [t.ended_attempts[-1].ending for t in store.query("copy")] == [Ending.DONE, Ending.FAILED, Ending.FAILED]
        unknown = Attempt(number=7, ending=Ending.RESET, worker=None, started_at=None, ended_at=5.0)
        store.put("other", [replace(kept[1], history=(unknown,))])
        assert store.get("other", two).history == (unknown,)
        store.remove(POOL, {"x": {"$in": [1, 2]}})
        store.create(POOL, [{"x": 1}, {"x": 2}])
        assert [store.get(POOL, i).history for i in (one, two)] == [(), ()]
        assert store.get(POOL, store.replace(POOL, three, {"x": 3})).history == ()
        store.fail(self.claim(store, query={"x": 3}), "boom")
        assert store.get(POOL, store.replace(POOL, three, {"x": 4})).history == ()

    # -- dependencies --------------------------------------------------------------------------------------------------

    def test_a_task_waits_for_its_dependencies(self, store: TaskStore) -> None:
        """A task is claimed only when all of its dependencies are done, whatever its priority."""
        first = [c.id for c in store.create(POOL, [{"x": 1}, {"x": 2}])]
        (last,) = store.create(POOL, [{"x": 3}], priority=9, depends_on=first)
        a, b = self.claim(store), self.claim(store)
        assert store.claim(POOL, worker="w", lease=60) == []
        store.commit(a, 1, Status.PART_DONE)
        store.commit(b, 1)
        assert store.claim(POOL, worker="w", lease=60) == []
        waiting = store.get(POOL, last.id)
        assert (waiting.status, waiting.blocked, set(waiting.depends_on)) == (Status.WAITING, True, set(first))
        store.commit(self.claim(store, status=Status.PART_DONE), 1)
        assert self.claim(store).id == last.id

    def test_a_failed_prerequisite_fails_its_dependents(self, store: TaskStore) -> None:
        """All dependents fail with that reason, including indirect ones; a retry of the first task resets all of them."""
        (a,) = store.create(POOL, [{"x": "a"}], max_attempts=1)
        (b,) = store.create(POOL, [{"x": "b"}], depends_on=[a.id])
        store.create(POOL, [{"x": "c"}], depends_on=[b.id])
        store.fail(self.claim(store), "boom")
        tasks = list(store.query(POOL))
        assert [t.cause for t in tasks] == [Cause.RAISED, Cause.DEPENDENCY, Cause.DEPENDENCY]
        assert a.id in str(tasks[1].error)
        assert b.id in str(tasks[2].error)
        assert store.retry(POOL, {"x": "b"}) == 2
        assert store.count(POOL) == {Status.FAILED: 3}, "its prerequisite is still failed"
        assert store.retry(POOL, {"x": "a"}) == 3
        for _ in range(3):
            store.commit(self.claim(store), 1)
        assert store.count(POOL) == {Status.DONE: 3}

    def test_a_dependency_that_has_already_ended(self, store: TaskStore) -> None:
        """If it is done, the task can run; if it has failed or is removed later, the task fails."""
        (done,) = store.create(POOL, [{"x": 1}])
        store.commit(self.claim(store), 1)
        (failed,) = store.create(POOL, [{"x": 2}])
        store.cancel(POOL, {"x": 2})
        store.create(POOL, [{"x": 3}], depends_on=[done.id])
        store.create(POOL, [{"x": 4}], depends_on=[failed.id])
        store.create(POOL, [{"x": 5}])
        store.create(POOL, [{"x": 6}], depends_on=[self.id_of(store, 5)])
        store.remove(POOL, {"x": 5})
        states = {t.definition["x"]: t.status for t in store.query(POOL)}
        assert (states[3], states[4], states[6]) == (Status.WAITING, Status.FAILED, Status.FAILED)
        assert self.claim(store).definition["x"] == 3

    def id_of(self, store: TaskStore, x: object) -> str:
        """Return the id of the task whose definition has that `x`."""
        (task,) = store.query(POOL, {"x": x})
        return task.id

    def test_tasks_cannot_wait_for_each_other(self, store: TaskStore) -> None:
        """Cycles and unknown prerequisites are refused at creation, and nothing is stored."""
        (a,) = store.create(POOL, [{"x": "a"}])
        (b,) = store.create(POOL, [{"x": "b"}], depends_on=[a.id])
        with pytest.raises(ConfigError, match="depend on itself"):
            store.create(POOL, [{"x": "new"}, {"x": "a"}], depends_on=[b.id])
        with pytest.raises(ConfigError, match="depend on itself"):
            store.create(POOL, [{"x": "c"}], depends_on=[digest({"x": "c"})])
        with pytest.raises(TaskNotFound, match="depends_on"):
            store.create(POOL, [{"x": "c"}], depends_on=["0" * 32])
        assert store.count(POOL) == {Status.WAITING: 2}

    def test_dependents_of_a_replaced_task_wait_for_the_new_one(self, store: TaskStore) -> None:
        """The new task replaces the old one in all dependencies."""
        (a,) = store.create(POOL, [{"x": "a"}])
        store.create(POOL, [{"x": "b"}], depends_on=[a.id])
        new = store.replace(POOL, a.id, {"x": "new"})
        assert self.claim(store).id == new
        assert store.claim(POOL, worker="w", lease=60) == []
        assert store.get(POOL, self.id_of(store, "b")).depends_on == (new,)

    def test_a_replacement_that_would_wait_for_itself_is_refused(self, store: TaskStore) -> None:
        """An existing task that depends on the replaced one, even indirectly; nothing is changed."""
        (a,) = store.create(POOL, [{"x": "a"}])
        (b,) = store.create(POOL, [{"x": "b"}], depends_on=[a.id])
        store.create(POOL, [{"x": "c"}], depends_on=[b.id])
        before = list(store.query(POOL))
        for x in ("b", "c"):
            with pytest.raises(ConfigError, match="depend on itself"):
                store.replace(POOL, a.id, {"x": x})
        assert list(store.query(POOL)) == before

    def test_many_prerequisites_and_many_dependents(self, store: TaskStore) -> None:
        """One task waits for many, and many for one; the last commit unblocks them, a reset task blocks them again."""
        many = [c.id for c in store.create(POOL, [{"x": i} for i in range(50)])]
        (last,) = store.create(POOL, [{"last": 1}], depends_on=many, priority=-1)
        store.create(POOL, [{"after": i} for i in range(50)], depends_on=[last.id], priority=-1)
        tasks = store.claim(POOL, worker="w", lease=60, limit=100)
        for task in tasks:
            assert store.get(POOL, last.id).blocked
            store.commit(task, 1)
        assert len(tasks) == 50
        assert not store.get(POOL, last.id).blocked
        store.set_status(POOL, {"_id": many[7]}, Status.WAITING)
        assert store.get(POOL, last.id).blocked
        store.set_status(POOL, {"_id": many[7]}, Status.DONE)
        store.commit(self.claim(store), 1)
        assert len(store.claim(POOL, worker="w", lease=60, limit=100)) == 50

    def test_a_task_reset_after_its_prerequisite_failed_fails(self, store: TaskStore) -> None:
        """It was claimed when all prerequisites were done; then one was run again and failed."""
        (a,) = store.create(POOL, [{"x": 1}], max_attempts=1)
        store.create(POOL, [{"x": 2}], depends_on=[a.id])
        store.commit(self.claim(store), 1)
        second = self.claim(store)
        store.set_status(POOL, {"x": 1}, Status.WAITING)
        store.fail(self.claim(store), "boom")
        store.give_back(second)
        assert [t.cause for t in store.query(POOL)] == [Cause.RAISED, Cause.DEPENDENCY]

    # -- copies and changes --------------------------------------------------------------------------------------------

    def test_records_of_another_store_are_copied_unchanged(self, store: TaskStore) -> None:
        """Status, result, error, dependencies and times are copied; running tasks wait; existing ones are kept."""
        (a,) = store.create(POOL, [{"x": 1}], priority=3, model_names=["lgb"])
        store.create(POOL, [{"x": 2}, {"x": 3}], max_attempts=1)
        store.create(POOL, [{"x": 4}], depends_on=[a.id])
        store.commit(self.claim(store), {"ic": (1, 2)}, log="text")
        store.fail(self.claim(store), "boom", Cause.KILLED)
        self.claim(store)
        records = list(store.query(POOL))
        assert store.put("copy", records) == 4
        assert store.put("copy", records) == 0
        copies = list(store.query("copy"))
        assert [t.status for t in copies] == [Status.DONE, Status.FAILED, Status.WAITING, Status.WAITING]
        for copy, record in zip(copies, records, strict=True):
            same = (
                "id",
                "definition",
                "model_name",
                "priority",
                "result",
                "error",
                "cause",
                "log",
                "depends_on",
                "created_at",
            )
            assert {n: getattr(copy, n) for n in same} == {n: getattr(record, n) for n in same}

    def test_waiting_for_a_change_ends_with_the_change(self, store: TaskStore) -> None:
        """A change ends the waiting early; without a change it ends after the timeout."""
        store.create(POOL, [{"x": 1}])
        for _ in range(3):
            store.wait_for_change(POOL, 0.05)
        began = time.perf_counter()
        store.wait_for_change(POOL, 0.2)
        assert time.perf_counter() - began > 0.15
        threading.Timer(0.1, lambda: store.create(POOL, [{"x": 2}])).start()
        began = time.perf_counter()
        store.wait_for_change(POOL, 10)
        assert time.perf_counter() - began < 3

    # -- the whole record ----------------------------------------------------------------------------------------------

    def record(self, store: TaskStore, clock: ManualClock, task_id: str) -> dict[str, Any]:
        """Return the fields of a task that its transitions set; times as seconds from now, tokens as steps from 0."""
        task = store.get(POOL, task_id)
        since = {n: None if (at := getattr(task, n)) is None else at - clock.now for n in ("lease_until", "started_at")}
        return {
            "status": task.status, "attempt": task.attempt, "worker": task.worker, "result": task.result,
            "error": task.error, "cause": task.cause, "log": task.log, "failed_by": task.failed_by,
            "blocked": task.blocked, "stage_from": task.stage_from, "free": task.available_at <= clock.now,
            "ended": None if task.finished_at is None else task.finished_at - clock.now, **since,
        }  # fmt: skip

    def test_every_transition_sets_these_fields(self, store: TaskStore, clock: ManualClock) -> None:
        """The fields of one task from its creation to its end, through both stages and all kinds of failures."""
        (created,) = store.create(POOL, [{"x": 1}])
        new = {
            "status": Status.WAITING, "attempt": 0, "worker": None, "result": None, "error": None, "cause": None,
            "log": "", "failed_by": (), "blocked": False, "stage_from": Status.WAITING, "free": True, "ended": None,
            "lease_until": None, "started_at": None,
        }  # fmt: skip

        def check(**expected: object) -> None:
            assert self.record(store, clock, created.id) == {**new, **expected}

        check()
        assert store.get(POOL, created.id).max_attempts == 3
        first = self.claim(store, worker="a", lease=10)
        check(status=Status.RUNNING, worker="a", lease_until=10.0, started_at=0.0)
        clock.now += 4
        store.renew(first, 20)
        check(status=Status.RUNNING, worker="a", lease_until=20.0, started_at=-4.0)
        store.renew(first, 20, "so far")
        store.renew(first, 20)
        check(status=Status.RUNNING, worker="a", lease_until=20.0, started_at=-4.0, log="so far")
        store.fail(first, "boom", Cause.TIMED_OUT, "all of it")
        failed: dict[str, object] = {"worker": "a", "error": "boom", "cause": Cause.TIMED_OUT, "failed_by": ("a",)}
        check(**failed, attempt=1, log="all of it", free=False, ended=0.0, started_at=-4.0)
        clock.now += 1
        second = self.claim(store, worker="b", lease=10)
        check(**{**failed, "worker": "b"}, status=Status.RUNNING, attempt=1, lease_until=10.0, started_at=0.0)
        store.commit(second, "half", Status.PART_DONE, "fine")
        half = {"result": "half", "failed_by": ("a",)}
        check(**half, status=Status.PART_DONE, worker="b", log="fine", ended=0.0, started_at=0.0)
        self.claim(store, worker="c", lease=10, status=Status.PART_DONE)
        stage = {**half, "stage_from": Status.PART_DONE, "worker": "c"}
        check(**stage, status=Status.RUNNING, lease_until=10.0, started_at=0.0)
        clock.now += 10
        store.expire(POOL)
        lost = store.get(POOL, created.id).error
        stale = {**stage, "attempt": 1, "error": lost, "cause": Cause.LEASE_LOST}
        check(**stale, status=Status.PART_DONE, free=False, ended=0.0, started_at=-10.0)
        assert "worker c" in str(lost)
        clock.now += 1
        fourth = self.claim(store, worker="c", lease=10, status=Status.PART_DONE)
        store.give_back(fourth)
        check(**stale, status=Status.PART_DONE, started_at=0.0)
        fifth = self.claim(store, worker="c", lease=10, status=Status.PART_DONE)
        store.commit(fifth, "whole")
        check(**{**stage, "result": "whole"}, status=Status.DONE, attempt=1, ended=0.0, started_at=0.0)
        assert fourth.token < fifth.token
        store.set_status(POOL, None, Status.WAITING)
        after = store.get(POOL, created.id)
        assert (after.status, after.attempt, after.stage_from) == (Status.WAITING, 0, Status.WAITING)
        assert after.failed_by == ()
        assert after.token == fifth.token + 1

    def test_a_last_failure_needs_no_backoff(self, store: TaskStore, clock: ManualClock) -> None:
        """A task that has failed, by an error or a lost lease, can be claimed as soon as it is retried."""
        (one,), (two,) = store.create(POOL, [{"x": 1}], max_attempts=1), store.create(POOL, [{"x": 2}], max_attempts=1)
        store.fail(self.claim(store), "boom")
        assert store.get(POOL, one.id).available_at <= clock.now
        self.claim(store, lease=10)
        clock.now += 10
        store.expire(POOL)
        for task in (store.get(POOL, one.id), store.get(POOL, two.id)):
            assert (task.status, task.attempt) == (Status.FAILED, 1)
            assert task.available_at <= clock.now
        assert store.retry(POOL) == 2
        assert len(store.claim(POOL, worker="w", lease=60, limit=9)) == 2

    def test_a_restored_attempt_needs_no_backoff(self, store: TaskStore, clock: ManualClock) -> None:
        """A task that had failed is free; one that waits after a failure keeps its backoff."""
        failed, waiting = (store.create(POOL, [{"x": x}], max_attempts=x)[0].id for x in (1, 2))
        for task in store.claim(POOL, worker="bad", lease=60, limit=2):
            store.fail(task, "boom")
        kept = store.get(POOL, waiting).available_at
        assert store.restore_attempts(POOL, "bad", [failed, waiting]) == sorted([failed, waiting])
        assert store.get(POOL, failed).available_at <= clock.now
        assert store.get(POOL, waiting).available_at == kept > clock.now
        assert self.claim(store).id == failed

    def test_a_task_is_given_back_to_a_stage_set_manually(self, store: TaskStore) -> None:
        """Part-done tasks are given back as part-done; a final status that is set manually keeps the stage before it."""
        (created,) = store.create(POOL, [{"x": 1}])
        for status, stage in (
            (Status.PART_DONE, Status.PART_DONE), (Status.DONE, Status.PART_DONE), (Status.FAILED, Status.PART_DONE),
            (Status.WAITING, Status.WAITING), (Status.DONE, Status.WAITING),
        ):  # fmt: skip
            assert store.set_status(POOL, {}, status) == 1
            task = store.get(POOL, created.id)
            assert (task.status, task.stage_from) == (status, stage)

    def test_a_reset_task_fails_again_if_its_dependency_failed(self, store: TaskStore) -> None:
        """As after a retry; of several that failed, the one with the smallest id is named, whatever the order."""
        ids = sorted(c.id for c in store.create(POOL, [{"x": i} for i in range(4)]))
        (last,) = store.create(POOL, [{"x": "last"}], depends_on=ids)
        store.cancel(POOL, {"_id": {"$in": ids[1:3]}})
        task = store.get(POOL, last.id)
        assert (task.status, task.cause) == (Status.FAILED, Cause.DEPENDENCY)
        store.set_status(POOL, {"_id": last.id}, Status.WAITING)
        task = store.get(POOL, last.id)
        assert (task.status, task.cause, task.blocked) == (Status.FAILED, Cause.DEPENDENCY, True)
        assert ids[1] in str(task.error)

    def test_only_dependents_are_retried_with_a_task(self, store: TaskStore) -> None:
        """Tasks that failed because of others, and those that failed by themselves, stay as they are."""
        a, b = (store.create(POOL, [{"x": x}], max_attempts=1)[0].id for x in "ab")
        c, d = (store.create(POOL, [{"x": x}], depends_on=[on])[0].id for x, on in (("c", a), ("d", b)))
        for task in store.claim(POOL, worker="w", lease=60, limit=2):
            store.fail(task, "boom")
        assert store.count(POOL) == {Status.FAILED: 4}
        assert store.retry(POOL, {"x": "a"}) == 2
        assert [store.get(POOL, i).status for i in (a, c, b, d)] == [Status.WAITING] * 2 + [Status.FAILED] * 2

    def test_a_dependent_at_several_distances_is_retried_once(self, store: TaskStore) -> None:
        """Whichever of the tasks that it depends on waits again first."""

        def add(x: str, *needed: str) -> str:
            (task,) = store.create(POOL, [{"x": x}], depends_on=needed, max_attempts=1)
            return task.id

        first = add("first")
        near, far = add("near", first), add("far", first)
        farther, also_far = add("farther", far), add("also far", far)
        farthest = add("farthest", farther)
        add("last", near, also_far, farthest)
        store.fail(self.claim(store), "boom")
        assert store.count(POOL) == {Status.FAILED: 7}
        assert store.retry(POOL, {"x": "first"}) == 7
        assert store.count(POOL) == {Status.WAITING: 7}

    def test_a_repeated_claim_has_the_result_of_the_previous_stage(self, store: TaskStore) -> None:
        """A second stage needs it; a first stage that is run again does not get the old one."""
        store.create(POOL, [{"x": 1}])
        store.commit(self.claim(store), "half", Status.PART_DONE)
        for _ in range(2):
            assert self.claim(store, status=Status.PART_DONE, claim="one").result == "half"
        store.set_status(POOL, {}, Status.WAITING)
        for _ in range(2):
            assert self.claim(store, claim="two").result is None

    def test_a_cancelled_task_and_a_replaced_one(self, store: TaskStore, clock: ManualClock) -> None:
        """A cancelled claim is stale by one token; a batch has the new task in place of the old one."""
        (one,) = store.create(POOL, [{"x": 1}], priority=4, max_attempts=7, batch="b")
        claim = self.claim(store)
        clock.now += 3
        assert store.cancel(POOL) == 1
        task = store.get(POOL, one.id)
        assert (task.token, task.lease_until, task.finished_at) == (claim.token + 1, None, clock.now)
        assert (task.cause, task.error) == (Cause.CANCELLED, "The task was cancelled.")
        new = store.get(POOL, store.replace(POOL, one.id, {"x": 2}))
        assert (new.priority, new.max_attempts, new.created_at, new.token) == (4, 7, clock.now, claim.token + 2)
        assert (new.error, new.cause, new.worker, new.finished_at) == (None, None, None, None)
        assert [t.id for t in store.query(POOL, batch="b")] == [new.id]
        store.create(POOL, [{"x": 1}])
        assert [t.id for t in store.query(POOL, batch="b")] == [new.id], "the old id is in no batch"

    def test_a_task_can_be_replaced_by_an_existing_one(self, store: TaskStore) -> None:
        """The other task is not changed, but inherits the dependents and dependencies of the replaced one."""
        done, other, first = (c.id for c in store.create(POOL, [{"x": 0}, {"x": 1}, {"x": "first"}], batch="b"))
        (old,) = store.create(POOL, [{"x": "old"}], depends_on=[first], batch="old")
        (last,) = store.create(POOL, [{"x": "last"}], depends_on=[old.id])
        store.commit(self.claim(store), "result")
        assert store.replace(POOL, old.id, {"x": 0}) == done
        assert store.count(POOL) == {Status.DONE: 1, Status.WAITING: 3}
        kept = store.get(POOL, done)
        assert (kept.status, kept.result, kept.depends_on) == (Status.DONE, "result", (first,))
        assert store.get(POOL, last.id).depends_on == (done,)
        assert not store.get(POOL, last.id).blocked
        assert [t.id for t in store.query(POOL, batch="old")] == [done]
        with pytest.raises(TaskNotFound):
            store.get(POOL, old.id)
        token = store.get(POOL, other).token
        again = store.replace(POOL, other, {"x": 1})
        assert again == other
        assert store.get(POOL, other).token > token

    def test_a_name_that_is_not_valid_unicode_is_an_error_about_the_name(self, store: TaskStore) -> None:
        """As from a command line with bytes of another encoding. A store may keep it, but must not report that it is damaged."""
        name = "pool\udcff"
        calls: list[Callable[[], object]] = [
            lambda: store.count(name),
            lambda: list(store.query(name)),
            lambda: store.claim(name, worker="w", lease=60.0),
            lambda: store.pause(name),
            lambda: store.create(name, [{"x": 1}]),
        ]
        for call in calls:
            said = "pool\\udcff' cannot be stored, because it is not valid Unicode"
            try:
                call()
            except ConfigError as exc:
                said = str(exc)
            assert "pool\\udcff' cannot be stored, because it is not valid Unicode" in said

    def test_a_replacement_is_a_change(self, store: TaskStore) -> None:
        """A thread that waits for changes made by others sees it, as it sees a removal and a pause."""
        (created,) = store.create(POOL, [{"x": 1}])
        for change in (
            lambda: store.replace(POOL, created.id, {"x": 2}),
            lambda: store.remove(POOL, {"x": 2}),
            lambda: store.pause(POOL),
        ):
            store.wait_for_change(POOL, 0)
            changing = threading.Thread(target=change)
            changing.start()
            changing.join()
            began = time.monotonic()
            store.wait_for_change(POOL, 30)
            assert time.monotonic() - began < 15

    # -- two stages ----------------------------------------------------------------------------------------------------

    def test_a_second_stage_gets_the_result_of_the_first(self, store: TaskStore) -> None:
        """Part-done tasks are claimed with their result, and return to part-done when they are given back."""
        store.create(POOL, [{"x": 1}])
        store.commit(self.claim(store), [1, 2], Status.PART_DONE)
        assert store.claim(POOL, worker="w", lease=60) == []
        second = self.claim(store, status=Status.PART_DONE)
        assert second.result == [1, 2]
        store.give_back(second)
        assert store.count(POOL) == {Status.PART_DONE: 1}
        store.commit(self.claim(store, status=Status.PART_DONE), "end")
        assert store.count(POOL) == {Status.DONE: 1}

    def test_an_unreadable_result_is_refused(self, store: TaskStore) -> None:
        """The commit fails, not a later read, and the claim remains valid."""
        store.create(POOL, [{"x": 1}])
        task = self.claim(store)
        with pytest.raises(TaskNotSerializable, match="NotAllowed"):
            store.commit(task, NotAllowed())
        store.commit(task, "plain")

    # -- reading and changing ------------------------------------------------------------------------------------------

    QUERIES: ClassVar[tuple[tuple[dict[str, object], set[int]], ...]] = (
        ({"status": "waiting"}, {1, 2, 3}),
        ({"status": {"$ne": "waiting"}}, {4}),
        ({"def.x": 2}, {2}),
        ({"filter.x": {"$gt": 1, "$lte": 3}}, {2, 3}),
        ({"x": {"$in": [1, 4, 9]}}, {1, 4}),
        ({"x": {"$nin": [1, 4]}}, {2, 3}),
        ({"x": {"$gte": 3}}, {3, 4}),
        ({"x": {"$lt": 2}}, {1}),
        ({"x": {"$eq": 3}}, {3}),
        ({"model.class": {"$regex": "^LGB"}}, {1, 2}),
        ({"model.class": {"$exists": True}}, {1, 2, 3}),
        ({"model.class": {"$exists": False}}, {4}),
        ({"$or": [{"x": 1}, {"x": 4}]}, {1, 4}),
        ({"$and": [{"status": "waiting"}, {"$not": {"x": 1}}]}, {2, 3}),
        ({"x": {"$not": {"$gt": 1}}}, {1}),
        ({"model.seg.1": "b"}, {1}),
        ({"$or": []}, set()),
        ({"$nor": [{"x": 1}, {"status": "done"}]}, {2, 3}),
        ({"record.class": "SigAna"}, {2}),
        ({"record.class": {"$in": ["Signal", "x'); DROP TABLE tasks; --"]}}, {2, 3}),
        ({"record.class": {"$ne": "SigAna"}}, {1, 3, 4}),
        ({"record.0.class": "Signal"}, {2, 3}),
        ({"model.seg": "b"}, {1}),
        ({"model.seg": ("a", "b")}, {1}),
        ({"model": {"class": "LGBRanker"}}, {2}),
        ({"model.class": None}, {4}),
        ({"flag": True}, {2}),
        ({"flag": 1}, {3}),
        ({"since": {"$lte": dt.date(2020, 6, 1)}}, {2}),
        ({"since": dt.date(2021, 1, 1)}, {3}),
        ({"priority": {"$gte": 1}}, {4}),
        ({"priority": {"$in": [0, "0"]}}, {1, 2, 3}),
        ({"worker": None}, {1, 2, 3}),
        ({"worker": {"$regex": "^w$"}}, {4}),
        ({"finished_at": {"$exists": True}, "status": {"$regex": "^d"}}, {4}),
        ({"note": 'it\'s "quoted" \\ % :name'}, {3}),
        ({"note": {"$regex": "%.*:name$"}}, {3}),
        ({"a.b": {"$exists": True}}, {3}),
        ({"size": {"$gt": 0.5}}, {3}),
        ({}, {1, 2, 3, 4}),
    )
    MORE: ClassVar[tuple[dict[str, object], ...]] = (
        {},
        {"record": [{"class": "Signal"}, {"class": "SigAna"}], "flag": True, "since": dt.date(2020, 1, 1)},
        {
            "record": [{"class": "Signal"}], "flag": 1, "since": dt.date(2021, 1, 1), "size": [0.25, 1e-3, 2],
            "note": "it's \"quoted\" \\ % :name", "a": [{"c": 1}, {"b": None}],
        },
    )  # fmt: skip

    @pytest.mark.parametrize(("query", "expected"), QUERIES)
    def test_a_query_has_mongodbs_meaning(self, store: TaskStore, query: dict[str, object], expected: set[int]) -> None:
        """All operators; query, count and claim agree; the caller's dict does not change."""
        models = [{"class": "LGBModel", "seg": ("a", "b")}, {"class": "LGBRanker"}, {"class": "Linear"}]
        store.create(POOL, [{"x": 4}], priority=1)
        store.commit(self.claim(store), None)
        store.create(POOL, [{"x": i + 1, "model": m, **self.MORE[i]} for i, m in enumerate(models)])
        before = repr(query)
        assert {t.definition["x"] for t in store.query(POOL, query)} == expected
        assert sum(store.count(POOL, query).values()) == len(expected)
        claimed = store.claim(POOL, worker="w", lease=60, query=query, limit=9)
        assert {t.definition["x"] for t in claimed} == expected - {4}
        assert repr(query) == before

    def test_a_query_with_many_ids(self, store: TaskStore) -> None:
        """More values than any database accepts as parameters of one statement."""
        first, second = store.create(POOL, [{"x": 1}, {"x": 2}])
        others = [f"{i:032x}" for i in range(70_000)]
        query = {"_id": {"$in": [*others, second.id, first.id]}}
        assert store.count(POOL, query) == {Status.WAITING: 2}
        assert [t.id for t in store.query(POOL, query, results=False)] == [first.id, second.id]
        assert self.claim(store, query={"_id": {"$in": [*others, second.id]}}).id == second.id
        store.add_to_batch(POOL, "b", [*others, first.id])
        assert store.count(POOL, batch="b") == {Status.WAITING: 1}

    def test_latest_returns_the_last_ended_tasks_first(self, store: TaskStore, clock: ManualClock) -> None:
        """The tasks that ended last come first, up to the limit."""
        store.create(POOL, [{"x": i} for i in range(4)], max_attempts=1)
        tasks = store.claim(POOL, worker="w", lease=600, limit=3)
        for i in (1, 0, 2):
            clock.now += 1
            store.fail(tasks[i], "boom")
        found = store.query(POOL, {"status": "failed"}, results=False, latest=True, limit=2)
        assert [t.definition["x"] for t in found] == [2, 0]
        assert [t.definition["x"] for t in store.query(POOL, latest=True)] == [2, 0, 1, 3]
        assert list(store.query(POOL, limit=0)) == []

    def test_results_are_read_unless_they_are_not_wanted(self, store: TaskStore) -> None:
        """Without its result, a task is otherwise the same."""
        store.create(POOL, [{"x": 1}])
        store.commit(self.claim(store), {"recorder": "r1"})
        (task,) = store.query(POOL)
        assert task.result == {"recorder": "r1"}
        assert list(store.query(POOL, results=False)) == [replace(task, result=None)]

    def test_has_free(self, store: TaskStore) -> None:
        """Now or after a backoff, but not tasks that wait for others; also within a batch."""
        (first,) = store.create(POOL, [{"x": 1}], batch="a")
        store.create(POOL, [{"x": 2}], depends_on=[first.id], batch="b")
        assert store.has_free(POOL, Status.WAITING)
        assert store.has_free(POOL, Status.WAITING, {"x": 1}, batch="a")
        assert not store.has_free(POOL, Status.WAITING, {"x": 2})
        assert not store.has_free(POOL, Status.WAITING, batch="b")
        assert not store.has_free(POOL, Status.PART_DONE)
        store.fail(self.claim(store), "boom")
        assert store.claim(POOL, worker="w", lease=60) == []
        assert store.has_free(POOL, Status.WAITING, batch="a")

    @pytest.mark.parametrize(
        ("query", "meant"),
        [
            ({"x": {"$gtt": 1}}, r"\$gt"),
            ({"$orr": []}, r"\$or"),
            ({"statsu": "done"}, "status"),
            ({"status": "donne"}, "done"),
        ],
    )
    def test_a_misspelt_query_is_refused(self, store: TaskStore, query: dict[str, object], meant: str) -> None:
        """The message suggests the nearest valid name."""
        with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
            list(store.query(POOL, query))

    def test_setting_a_status_makes_claims_stale(self, store: TaskStore) -> None:
        """A later commit of the worker is refused; the status cannot be set to running."""
        store.create(POOL, [{"x": 1}])
        task = self.claim(store)
        assert store.set_status(POOL, {"_id": task.id}, Status.WAITING) == 1
        with pytest.raises(LeaseLost):
            store.commit(task, 1)
        with pytest.raises(ConfigError, match="manually"):
            store.set_status(POOL, {}, Status.RUNNING)

    def test_a_task_can_be_replaced_and_removed(self, store: TaskStore) -> None:
        """The new definition waits in place of the old one; removed tasks no longer exist."""
        (created,) = store.create(POOL, [{"x": 1}])
        store.commit(self.claim(store), "old")
        new_id = store.replace(POOL, created.id, {"x": 2})
        task = store.get(POOL, new_id)
        assert (task.status, task.definition, task.result) == (Status.WAITING, {"x": 2}, None)
        with pytest.raises(TaskNotFound):
            store.get(POOL, created.id)
        assert store.remove(POOL, {"x": 2}) == 1
        assert store.count(POOL) == {}

    def test_a_closed_store_opens_again(self, store: TaskStore) -> None:
        """With the tasks and claims that it had; closing twice does nothing more."""
        store.create(POOL, [{"x": 1}])
        task = self.claim(store)
        store.close()
        store.close()
        store.commit(task, "result")
        assert [t.result for t in store.query(POOL)] == ["result"]
