"""The rules of task states, as functions from one record to the next, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollforge import transitions
from rollforge.errors import LeaseLost
from rollforge.store.memory import MemoryStore
from rollforge.task import KEPT_ATTEMPTS, Attempt, Cause, Ending, Status, TaskRecord

NOW = 1000.0
RUNNING = TaskRecord(
    id="t", pool="p", definition={"x": 1}, status=Status.RUNNING, attempt=1, max_attempts=4, token=7, lease_until=1060.0,
    available_at=900.0, worker="w", started_at=990.0, error="before", cause=Cause.RAISED, log="line", failed_by=("v",),
    stage_from=Status.PART_DONE,
)  # fmt: skip


def attempt(ending: Ending, **more: Any) -> Attempt:
    """Return the attempt that ends now, as the first one that is kept."""
    return Attempt(number=1, ending=ending, worker="w", started_at=990.0, ended_at=NOW, token=7, **more)


def changes(before: TaskRecord, after: TaskRecord) -> dict[str, object]:
    """Return the fields that differ."""
    names = before.__dataclass_fields__
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def test_the_delay_doubles_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay is one second after the first failure; jitter takes at most half of it."""
    assert [transitions.backoff(n) for n in (0, 1, 2, 3, 6, 7, 8, 100)] == [1, 1, 2, 4, 32, 60, 60, 60]
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert [transitions.backoff(n) for n in (1, 2, 100)] == [0.5, 1, 30]


def test_a_claim_starts_the_task_at_its_stage() -> None:
    waiting = replace(RUNNING, status=Status.PART_DONE, stage_from=Status.WAITING, finished_at=5.0)
    made = transitions.claimed(waiting, worker="u", token=8, lease=60, now=NOW)
    assert changes(waiting, made) == {
        "status": Status.RUNNING, "stage_from": Status.PART_DONE, "token": 8, "worker": "u", "started_at": NOW,
        "finished_at": None, "log": "",
    }  # fmt: skip
    assert made.lease_until == NOW + 60


def test_a_commit_clears_errors() -> None:
    """The next stage has all attempts; a task that is done keeps the number of those that failed."""
    ended = {
        "result": {"ic": 1}, "error": None, "cause": None, "lease_until": None, "available_at": 0.0, "finished_at": NOW,
        "log": "end",
    }  # fmt: skip
    done = transitions.committed(RUNNING, {"ic": 1}, Status.DONE, log="end", now=NOW)
    assert changes(RUNNING, done) == {**ended, "status": Status.DONE}
    assert done.attempts == 2
    half = transitions.committed(RUNNING, {"ic": 1}, Status.PART_DONE, log="end", now=NOW)
    assert changes(RUNNING, half) == {
        **ended, "status": Status.PART_DONE, "attempt": 0, "history": (attempt(Ending.PART_DONE),),
    }  # fmt: skip


def test_a_task_given_back_keeps_its_attempts() -> None:
    """At the stage where it was claimed, unless another status is given; a reason is its error."""
    given = {"status": Status.PART_DONE, "lease_until": None, "history": (attempt(Ending.RETURNED),)}
    assert changes(RUNNING, transitions.given_back(RUNNING, now=NOW)) == given
    waiting = transitions.given_back(RUNNING, Status.WAITING, now=NOW)
    assert changes(RUNNING, waiting) == {**given, "status": Status.WAITING}
    lacks = {"error": "no GPU", "cause": Cause.REQUIREMENTS_NOT_MET}
    assert changes(RUNNING, transitions.given_back(RUNNING, None, "no GPU", now=NOW)) == {
        **given, **lacks, "history": (attempt(Ending.RETURNED, **lacks),),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "options", "attempts", "status", "available_at"),
    [
        ({}, {}, 2, Status.PART_DONE, NOW + 2),
        ({"attempt": 2}, {}, 3, Status.PART_DONE, NOW + 4),
        ({"attempt": 3}, {}, 4, Status.FAILED, NOW),
        ({"max_attempts": 2}, {}, 2, Status.FAILED, NOW),
        ({"max_attempts": 1, "attempt": 0}, {"attempts": 0}, 1, Status.FAILED, NOW),
        ({}, {"attempts": 0}, 1, Status.PART_DONE, NOW + 2),
        ({"failed_by": ("v", "w")}, {"attempts": 0}, 2, Status.PART_DONE, NOW + 2),
        ({}, {"cause": Cause.UNREADABLE}, 2, Status.FAILED, NOW),
    ],
)
def test_a_failure_is_retried_until_the_last_attempt(
    before: dict[str, object], options: dict[str, object], attempts: int, status: Status, available_at: float
) -> None:
    """A failure that may be the worker's fault counts only if it is the only attempt or the worker's second failure."""
    task = replace(RUNNING, **before)
    given = {"cause": Cause.KILLED, "attempts": 1, **options}
    made = transitions.failed(task, "error", log="end", now=NOW, **given)  # type: ignore[arg-type]
    assert (made.attempt, made.status, made.available_at, made.lease_until) == (attempts, status, available_at, None)
    assert (made.error, made.cause, made.log, made.finished_at) == ("error", given["cause"], "end", NOW)
    assert made.failed_by == ("v", "w")
    assert made.history == (attempt(Ending.FAILED, cause=given["cause"], error="error"),)


def test_an_expired_lease_counts_as_an_attempt() -> None:
    """A lost lease is not the worker's fault; the last attempt fails the task."""
    made = transitions.expired(RUNNING, now=NOW)
    assert (made.status, made.attempt, made.available_at, made.cause) == (
        Status.PART_DONE,
        2,
        NOW + 2,
        Cause.LEASE_LOST,
    )
    assert (made.lease_until, made.finished_at, made.failed_by) == (None, NOW, ("v",))
    assert "lease of worker w expired" in str(made.error)
    assert made.history == (attempt(Ending.FAILED, cause=Cause.LEASE_LOST, error=made.error),)
    for used, status in ((2, Status.PART_DONE), (3, Status.FAILED), (4, Status.FAILED)):
        assert transitions.expired(replace(RUNNING, attempt=used), now=NOW).status is status


def test_another_status_gives_all_attempts() -> None:
    for status, stage in (
        (Status.WAITING, Status.WAITING), (Status.PART_DONE, Status.PART_DONE), (Status.DONE, Status.PART_DONE),
        (Status.FAILED, Status.PART_DONE),
    ):  # fmt: skip
        made = transitions.with_status(RUNNING, status, now=NOW)
        assert (made.status, made.stage_from, made.attempt, made.failed_by) == (status, stage, 0, ())
        assert (made.error, made.cause, made.lease_until, made.available_at) == (None, None, None, 0.0)
        assert (made.worker, made.started_at, made.finished_at) == (None, None, None)
        assert made.history == (attempt(Ending.RESET),)
    done = replace(RUNNING, status=Status.DONE, finished_at=995.0)
    (first,) = transitions.with_status(done, Status.WAITING, now=NOW).history
    assert first == replace(attempt(Ending.DONE), ended_at=995.0)
    again = transitions.retried(replace(RUNNING, status=Status.FAILED))
    assert (again.status, again.error, again.attempt) == (Status.PART_DONE, "before", 0)


def test_tasks_fail_with_a_dependency_or_by_cancellation() -> None:
    waiting = replace(RUNNING, status=Status.WAITING)
    assert changes(waiting, transitions.dependency_failed(waiting, "abc", now=NOW)) == {
        "status": Status.FAILED, "cause": Cause.DEPENDENCY, "finished_at": NOW,
        "error": "It depends on task abc, which failed.",
    }  # fmt: skip
    assert changes(RUNNING, transitions.cancelled(RUNNING, now=NOW)) == {
        "status": Status.FAILED, "cause": Cause.CANCELLED, "error": "The task was cancelled.", "lease_until": None,
        "finished_at": NOW,
        "history": (attempt(Ending.FAILED, cause=Cause.CANCELLED, error="The task was cancelled."),),
    }  # fmt: skip
    assert transitions.cancelled(waiting, now=NOW).history == (), "nothing ran"


def test_the_first_stage_is_an_attempt_of_its_own() -> None:
    """The attempt that makes a task done is described by the task itself, and not stored again."""
    half = transitions.committed(RUNNING, 1, Status.PART_DONE, log="", now=NOW)
    assert half.history == half.ended_attempts == (attempt(Ending.PART_DONE),)
    whole = transitions.committed(replace(half, started_at=991.0), 2, Status.DONE, log="", now=NOW + 5)
    assert whole.history == half.history
    assert whole.ended_attempts[1] == replace(
        attempt(Ending.DONE), number=2, started_at=991.0, ended_at=NOW + 5
    )  # fmt: skip
    assert replace(whole, started_at=None).ended_attempts == half.history, "no worker made it done"


def test_only_the_latest_attempts_are_kept() -> None:
    """The numbers of later attempts go on, and of a long error the middle is omitted."""
    task = RUNNING
    for _ in range(KEPT_ATTEMPTS + 3):
        task = transitions.given_back(task, now=NOW)
    assert [one.number for one in task.history] == list(range(4, KEPT_ATTEMPTS + 4))
    (*_, last) = transitions.failed(
        task, "a" * 8000 + "-" + "b" * 8000, Cause.KILLED, attempts=1, log="", now=NOW
    ).history
    assert (last.number, last.error) == (KEPT_ATTEMPTS + 4, "a" * 8000 + "\n… 1 characters omitted …\n" + "b" * 8000)


def test_an_attempt_on_a_faulty_worker_is_restored() -> None:
    """Only there, and not if the task is done or cancelled; a failed task is free at its stage again."""
    failed = replace(RUNNING, status=Status.FAILED, attempt=3, failed_by=("v", "w", "u"))
    made = transitions.restored(failed, "w")
    assert changes(failed, made) == {
        "status": Status.PART_DONE, "attempt": 2, "failed_by": ("v", "u"), "available_at": 0.0,
    }  # fmt: skip
    assert transitions.restored(replace(failed, failed_by=("w",)), "w").attempt == 0
    assert transitions.restored(replace(failed, attempt=0), "w").attempt == 0
    assert transitions.restored(replace(failed, status=Status.WAITING), "w").available_at == 900.0
    for other in (failed, replace(failed, status=Status.DONE), replace(failed, cause=Cause.CANCELLED)):
        name = "x" if other is failed else "w"
        assert transitions.restored(other, name) is other


def test_an_ended_claim_does_not_end_a_task_that_was_put_back() -> None:
    """The record keeps how it ended, but the claim is stale."""
    store = MemoryStore()
    store.create("p", [{"x": 1}])
    (claim,) = store.claim("p", worker="w", lease=60)
    store.commit(claim, 1)
    store.commit(claim, 1)  # the same call again has the same answer
    kept = list(store.query("p"))
    store.remove("p")
    store.put("p", kept)
    with pytest.raises(LeaseLost):
        store.commit(claim, 1)
