"""Runs that agents send, if the driver is killed or the outcome of their task is not stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.engine.runs import Deliveries, pack
from rollforge.run.messages import Done, Failed
from rollforge.session import Session
from rollforge.store.codec import encode_result
from rollforge.store.memory import MemoryStore
from rollforge.task import Status, TaskRecord
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.folder import FolderTracker
from rollforge.track.tracker import RunData, RunQuery
from rollforge.transitions import ended_under

NOTHING = Done(encode_result(None))
EARLIER, LATER = (
    TaskRecord(id="t1", pool="p", definition={}, attempt=attempt, token=5 + attempt) for attempt in (0, 1)
)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tracking_uri=f"folder:{tmp_path}/driver")


def recorded(folder: Path, name: str) -> bytes:
    """Return the run of an attempt, as an agent sends it."""
    tracker = FolderTracker(f"folder:{folder}/agent")
    tracker.prepare()
    recorder = get_experiment(tracker, experiment_name="demo").create_recorder(name)
    recorder.save_objects(value=name)
    recorder.end_run()
    packed = pack(folder / "agent")
    assert packed is not None
    return packed


def runs(session: Session) -> list[RunData]:
    """Return all runs of the driver's store."""
    tracker = open_tracker(session.tracking_uri)
    return tracker.search(list(tracker.experiments().values()), RunQuery())


class Pool:
    """A pool with one task, whose drivers are killed: nothing ends their claims but time."""

    def __init__(self) -> None:
        self.now = 1e9
        self.store = MemoryStore(clock=lambda: self.now)
        self.store.create("p", [{"x": 1}], max_attempts=9)

    def claim(self, worker: str) -> TaskRecord:
        """Claim the task when its last lease and its backoff have ended."""
        for _ in range(2):
            self.now += 1000.0
            self.store.expire("p")
        (task,) = self.store.claim("p", worker=worker, lease=60.0)
        return task

    def reset(self) -> None:
        self.store.set_status("p", {}, Status.WAITING)


def test_what_a_killed_driver_has_delivered_is_replaced(session: Session, tmp_path: Path) -> None:
    """Two drivers were killed before they could store the outcome: one copy is whole, the other is not."""
    pool = Pool()
    Deliveries(session).deliver(recorded(tmp_path, "whole"), NOTHING, pool.claim("first"))
    Deliveries(session).deliver(
        recorded(tmp_path, "of another task"), NOTHING, TaskRecord(id="t2", pool="p", definition={}, worker="first")
    )
    Deliveries(session).begin(pool.claim("second"))
    assert [run.info.name for run in runs(session)] == ["of another task"]
    Deliveries(session).begin(pool.claim("third"))
    Deliveries(session).deliver(recorded(tmp_path, "half"), NOTHING, pool.claim("third"))
    (half,) = (run for run in runs(session) if run.info.name == "half")
    open_tracker(session.tracking_uri).write(half.info.id, {}, [], {"rollforge.copying": "x"})
    later, task = Deliveries(session), pool.claim("fourth")
    later.begin(task)
    assert later.deliver(recorded(tmp_path, "later"), NOTHING, task) == NOTHING
    later.settle(task, stored=True)
    later.close()
    assert sorted(run.info.name for run in runs(session)) == ["later", "of another task"]
    (kept,) = (run for run in runs(session) if run.info.name == "later")
    assert kept.info.status == "FINISHED"
    assert not [name for name in kept.tags if name.startswith(("rollforge.copying", "rollforge.delivered"))]


@pytest.mark.parametrize("later", ["fails", "is lost", "is lost twice", "is given back"])
@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_a_run_whose_outcome_was_stored_is_never_removed(
    outcome: str, later: str, session: Session, tmp_path: Path
) -> None:
    """The driver was killed between storing the outcome and marking the run as kept; the task is then run again."""
    pool = Pool()
    first = pool.claim("first")
    Deliveries(session).deliver(recorded(tmp_path, "first"), NOTHING, first)
    if outcome == "done":
        pool.store.commit(first, None)
        pool.reset()
    else:
        pool.store.fail(first, "error")
    for i in range(1 + (later == "is lost twice")):
        second = pool.claim(f"second {i}")
        Deliveries(session).begin(second)
    if later == "fails":
        pool.store.fail(second, "error")
    elif later == "is given back":
        pool.store.give_back(second)
    third, deliveries = pool.claim("third"), Deliveries(session)
    deliveries.begin(third)
    deliveries.deliver(recorded(tmp_path, "third"), NOTHING, third)
    pool.store.commit(third, None)
    deliveries.settle(third, stored=True)
    assert sorted(run.info.name for run in runs(session)) == ["first", "third"]


def test_runs_of_settled_attempts_stay(session: Session, tmp_path: Path) -> None:
    """Those of an attempt that has failed, and those of a task that was done and is run once more."""
    deliveries = Deliveries(session)
    for name, task in (("first", EARLIER), ("second", LATER)):
        deliveries.deliver(recorded(tmp_path, name), NOTHING, task)
        deliveries.settle(task, stored=True)
    assert sorted(run.info.name for run in runs(session)) == ["first", "second"]


def test_runs_of_a_refused_result_are_removed(session: Session, tmp_path: Path) -> None:
    """Another driver has taken over the task, or the job was interrupted before the outcome was stored."""
    deliveries = Deliveries(session)
    deliveries.deliver(recorded(tmp_path, "refused"), NOTHING, EARLIER)
    deliveries.settle(EARLIER, stored=False)
    deliveries.deliver(recorded(tmp_path, "interrupted"), NOTHING, LATER)
    assert [run.info.name for run in runs(session)] == ["interrupted"]
    deliveries.close()
    assert runs(session) == []


@pytest.mark.parametrize("outcome", ["done", "failed", "given back", "lost", "nothing"])
def test_the_pool_says_at_the_end_which_runs_are_kept(outcome: str, session: Session, tmp_path: Path) -> None:
    """Ctrl-C came after the outcome was stored, and before the deliveries were told so."""
    pool = Pool()
    task = pool.claim("mine")
    deliveries = Deliveries(session, lambda one: ended_under(next(iter(pool.store.query("p"))), str(one.worker)))
    deliveries.deliver(recorded(tmp_path, "run"), NOTHING, task)
    if outcome == "done":
        pool.store.commit(task, None)
    elif outcome == "failed":
        pool.store.fail(task, "error")
    elif outcome == "given back":
        pool.store.give_back(task)
    elif outcome == "lost":
        pool.claim("other")
    deliveries.close()
    assert len(runs(session)) == (outcome in ("done", "failed"))
    late = deliveries.deliver(recorded(tmp_path, "late"), NOTHING, task)
    assert isinstance(late, Failed)
    assert "interrupted" in late.error


def test_a_folder_without_values_is_not_a_run(session: Session, tmp_path: Path) -> None:
    """The driver was killed after it had created the folder of a run, and before it wrote a line."""
    Deliveries(session).deliver(recorded(tmp_path, "run"), NOTHING, EARLIER)
    (run,) = runs(session)
    (tmp_path / "driver" / run.info.experiment_id / "0123456789abcdef").mkdir()
    assert [one.info.name for one in runs(session)] == ["run"]
