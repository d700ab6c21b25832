"""Runs that agents send, if the driver is killed or the outcome of their task is not stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.engine.runs import Deliveries, pack
from rollforge.run.messages import Done
from rollforge.session import Session
from rollforge.store.codec import encode_result
from rollforge.task import TaskRecord
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.folder import FolderTracker
from rollforge.track.tracker import RunData, RunQuery

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


def test_what_a_killed_driver_has_delivered_is_replaced(session: Session, tmp_path: Path) -> None:
    """The driver was killed before it could store the outcome: in one case the copy is whole, in the other it is not."""
    Deliveries(session).deliver(recorded(tmp_path, "whole"), NOTHING, EARLIER)
    Deliveries(session).deliver(
        recorded(tmp_path, "of another task"), NOTHING, TaskRecord(id="t2", pool="p", definition={})
    )
    (whole,) = (run for run in runs(session) if run.info.name == "whole")
    tags = {**whole.tags, "rollforge.copying": "x"}
    open_tracker(session.tracking_uri).create_run(whole.info.experiment_id, "half", tags)
    later = Deliveries(session)
    assert later.deliver(recorded(tmp_path, "later"), NOTHING, LATER) == NOTHING
    later.settle(LATER, stored=True)
    later.close()
    assert sorted(run.info.name for run in runs(session)) == ["later", "of another task"]
    (kept,) = (run for run in runs(session) if run.info.name == "later")
    assert kept.info.status == "FINISHED"
    assert not {"rollforge.copying", "rollforge.delivered_for"} & set(kept.tags)


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


def test_a_folder_without_values_is_not_a_run(session: Session, tmp_path: Path) -> None:
    """The driver was killed after it had created the folder of a run, and before it wrote a line."""
    Deliveries(session).deliver(recorded(tmp_path, "run"), NOTHING, EARLIER)
    (run,) = runs(session)
    (tmp_path / "driver" / run.info.experiment_id / "0123456789abcdef").mkdir()
    assert [one.info.name for one in runs(session)] == ["run"]
