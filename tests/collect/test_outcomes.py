"""The tasks of a pool with their runs: their order, runs that cannot be read, and windows that were predicted again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rollforge.collect.outcomes import TaskOutcome, outcomes, unreachable_runs, without_superseded
from rollforge.errors import TrackingError
from rollforge.run.references import to_reference
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.task import Status, TaskRecord
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs")


@pytest.fixture
def experiment(session: Session) -> Experiment:
    return get_experiment(open_tracker(session.tracking_uri), experiment_name="mine")


def finished(session: Session, number: int, result: object) -> str:
    """Store a task that is done with a result, and return its id."""
    store = open_store(session.store_uri)
    (created,) = store.create("p", [{"n": number}])
    (claim,) = store.claim("p", worker="w", lease=60, query={"_id": created.id})
    store.commit(claim, result)
    return created.id


def test_tasks_are_in_the_requested_order(session: Session) -> None:
    """Without a request they are in the order of creation; tasks that were not requested are left out."""
    ids = [finished(session, number, None) for number in range(4)]
    assert [o.task.id for o in outcomes(session, "p")] == ids
    chosen = [ids[2], ids[0], ids[3]]
    assert [o.task.id for o in outcomes(session, "p", chosen)] == chosen
    assert outcomes(session, "p", []) == ()


def test_a_task_without_a_readable_run_has_no_recorder(
    session: Session, experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names the task if its result is a reference to a run that is missing or damaged; the others are
    read."""
    kept, deleted = experiment.create_recorder(), experiment.create_recorder()
    good = finished(session, 1, to_reference(kept))
    gone = finished(session, 2, to_reference(deleted))
    other = finished(session, 3, {"score": 0.5})
    damaged = finished(session, 4, {"recorder": {"tracking": 5}})
    experiment.delete_recorder(deleted.id)
    found = {o.task.id: o.recorder for o in outcomes(session, "p")}
    assert found == {good: kept, gone: None, other: None, damaged: None}
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    for task_id, text in zip((gone, damaged), warned, strict=True):
        assert text.startswith(f"Task {task_id} is omitted, because its result does not refer to a readable run: ")


def test_a_tracking_store_that_is_missing_is_an_error(session: Session, experiment: Experiment, tmp_path: Path) -> None:
    """All runs would be missing, and a result without them would be wrong."""
    finished(session, 1, to_reference(experiment.create_recorder()))
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(TrackingError):
        outcomes(session, "p")


def test_runs_on_another_machine_are_described(
    session: Session, experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no warning for each task, and they are described only if a requested task lacks its run."""
    here = to_reference(experiment.create_recorder())
    assert isinstance(here, Mapping)
    there = {"recorder": {**here["recorder"], "host": "elsewhere", "tracking": f"folder:{tmp_path}/none"}}
    near, far = finished(session, 1, here), finished(session, 2, there)
    found = outcomes(session, "p")
    assert {o.task.id: o.recorder is None for o in found} == {near: False, far: True}
    assert caplog.records == []
    assert "elsewhere" in unreachable_runs(session, "p", found)
    assert unreachable_runs(session, "p", outcomes(session, "p", [near])) == ""


# -- windows that were predicted again ---------------------------------------------------------------------------------


def window(
    start: str | None, end: str | None, recorder: Recorder | None, *, train: str = "2019-12-31", model: Any = 1
) -> TaskOutcome:
    """Return a task with a test segment; it is done if it has a recorder."""
    segments = {"train": ("2019-01-01", train)} | ({} if start is None else {"test": (start, end)})
    definition = {"model": model, "dataset": {"kwargs": {"segments": segments}}}
    status = Status.FAILED if recorder is None else Status.DONE
    return TaskOutcome(TaskRecord(id=f"{start} {end}", pool="p", definition=definition, status=status), recorder, "")


def test_a_window_that_was_predicted_again_with_more_days_is_superseded(experiment: Experiment) -> None:
    """In any order, and whether the earlier ones are done or failed."""
    run = experiment.create_recorder()
    first, second, third = (window("2020-01-01", f"2020-01-{day}", run) for day in (10, 20, 30))
    failed = window("2020-01-01", "2020-01-15", None)
    assert without_superseded([first, second, third]) == (third,)
    assert without_superseded([third, failed, second, first]) == (third,)


def test_other_windows_are_kept(experiment: Experiment) -> None:
    """Unless the later one is done, and differs only by a later end; tasks of other forms are never superseded."""
    run = experiment.create_recorder()
    first = window("2020-01-01", "2020-01-10", run)
    for other in (
        window("2020-01-01", "2020-01-20", None),
        window("2020-01-02", "2020-01-20", run),
        window("2020-01-01", "2020-01-20", run, train="2019-12-30"),
        window("2020-01-01", "2020-01-20", run, model=2),
        window("2020-01-01", None, run),
        window("2020-01-01", None, None),
        window(None, None, run),
        window("2020-01-01", "2020-01-20", run, model=object()),
    ):
        assert without_superseded([first, other]) == (first, other)
        assert without_superseded([other, first]) == (other, first)
        assert without_superseded([other]) == (other,)
    unfinished = [window("2020-01-01", f"2020-01-{day}", None) for day in (10, 20)]
    assert without_superseded(unfinished) == tuple(unfinished)
