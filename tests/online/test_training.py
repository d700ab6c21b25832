"""Training once: which recorders are used instead of training a task again, and which runs are closed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rollforge
from rollforge.machine import process_name
from rollforge.online.training import close_killed, task_digest, train_missing, window_digest
from rollforge.run.execute import DATA_MARK, PROCESS_TAG, TASK_TAG
from rollforge.run.pool_trainer import DelayTrainerRM
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.session import current_session
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker

NAME = "served"


@pytest.fixture(autouse=True)
def _tracking(tmp_path: Path) -> None:
    """Use a tracking store in a folder."""
    rollforge.init(tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"memory://{tmp_path.name}")


def experiment() -> Experiment:
    return get_experiment(open_tracker(current_session().tracking_uri), experiment_name=NAME)


def recorded(task: Mapping[str, Any], *, model: bool = True, status: str | None = Recorder.STATUS_FI) -> Recorder:
    """Return a recorder of a task, which is still running if there is no status."""
    made = experiment().create_recorder(tags={TASK_TAG: task_digest(task)})
    if model:
        made.save_objects(**{"params.pkl": task["x"]})
    if status is not None:
        made.end_run(status)
    return made


def trained(task: Mapping[str, Any], experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Train a task, whose model is a number; a number below 0 cannot be fitted."""
    assert experiment_name == NAME
    if task["x"] < 0:
        raise ValueError("below 0")
    return recorded(task)


def tasks(*numbers: int) -> list[dict[str, Any]]:
    return [{"x": number} for number in numbers]


def models(found: list[Recorder]) -> list[int]:
    return [one.load_object("params.pkl") for one in found]


def test_only_tasks_without_a_model_are_trained() -> None:
    """The models are in the order of the tasks, whichever of them were there; a task that is given twice is trained
    once."""
    first = train_missing(TrainerR(train_func=trained), tasks(3, 1, 2), NAME)
    assert models(first) == [3, 1, 2]
    assert {one.list_tags()["train_status"] for one in first} == {TrainerR.STATUS_END}
    again = train_missing(TrainerR(train_func=trained), tasks(4, 2, 5, 3), NAME)
    assert models(again) == [4, 2, 5, 3]
    assert (again[1], again[3]) == (first[2], first[0])
    assert len(experiment().list_recorders()) == 5
    assert train_missing(TrainerR(train_func=trained), tasks(1), NAME) == [first[1]]
    assert len(experiment().list_recorders()) == 5


def test_without_tasks_nothing_is_created() -> None:
    """No experiment appears in the tracking store."""
    assert train_missing(TrainerR(train_func=trained), [], NAME) == []
    assert open_tracker(current_session().tracking_uri).find_experiment(name=NAME) is None


def test_a_failed_task_is_left_out_if_the_trainer_skips_it() -> None:
    """The others keep their order."""
    found = train_missing(TrainerR(train_func=trained, on_error="skip"), tasks(2, -1, 1), NAME)
    assert models(found) == [2, 1]


def test_a_model_is_that_of_a_finished_recorder() -> None:
    """Runs that have failed, are running or have no model do not count; of several, the one that was started first
    does."""
    (task,) = tasks(1)
    recorded(task, status=Recorder.STATUS_FA)
    recorded(task, status=None).set_tags(**{PROCESS_TAG: process_name()})
    recorded(task, model=False)
    several = [recorded(task) for _ in range(8)]
    assert train_missing(TrainerR(train_func=trained), [task], NAME) == several[:1]
    for one in several:
        one.delete_objects("params.pkl")
    (new,) = train_missing(TrainerR(train_func=trained), [task], NAME)
    assert new not in several
    assert len(experiment().list_recorders()) == 12


def test_a_task_with_live_objects_is_always_trained() -> None:
    """Such a task has no digest by which a model could be found; then the models are in the order in which they were made."""
    live = {"x": 7, "live": object()}
    (known,) = train_missing(TrainerR(train_func=trained), tasks(1), NAME)
    for count in (2, 3):
        found = train_missing(TrainerR(train_func=trained), [live, *tasks(1)], NAME)
        assert (models(found), found[0]) == ([1, 7], known)
        assert len(experiment().list_recorders()) == count


def test_models_that_are_no_recorders_are_returned_as_they_are() -> None:
    """A trainer of one's own need not return recorders."""

    class Numbers(TrainerR):
        def train(self, tasks: Any, *args: Any, **kwargs: Any) -> Any:
            return [task["x"] for task in tasks]

        def end_train(self, models: Any, *args: Any, **kwargs: Any) -> Any:
            return tuple(models)

    assert train_missing(Numbers(), tasks(2, 1), NAME) == [2, 1]


def test_the_digest_of_a_window_does_not_depend_on_the_data() -> None:
    """The digest of the task does; a task with live objects has neither."""
    one, other = ({"x": 1, DATA_MARK: mark} for mark in ("a", "b"))
    assert window_digest(one) == window_digest(other) == task_digest({"x": 1}) != ""
    assert len({task_digest(one), task_digest(other), task_digest({"x": 1})}) == 3
    assert (task_digest({"x": object()}), window_digest({"x": object()})) == ("", "")


@pytest.fixture(scope="module")
def gone() -> str:
    """The name of a process of this machine that has ended."""
    code = "from rollforge.machine import process_name; print(process_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("unfinished", [False, True])
def test_runs_of_processes_that_have_ended_are_closed(
    gone: str, unfinished: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that were running, and, if nobody will fit them, those that were only prepared. Those of other processes and
    those that do not name theirs stay as they are."""
    running, prepared = Recorder.STATUS_R, Recorder.STATUS_S
    made = []
    for process, status in [(gone, running), (gone, prepared), (process_name(), running), (None, running)]:
        one = experiment().create_recorder(tags={PROCESS_TAG: process} if process else {})
        if status is prepared:
            one.end_run(prepared)
        made.append(one)
    with caplog.at_level(logging.WARNING):
        assert close_killed(experiment(), unfinished=unfinished) == 1 + unfinished
    failed = Recorder.STATUS_FA
    now = [experiment().get_recorder(one.id) for one in made]
    assert [one.status for one in now] == [failed, failed if unfinished else prepared, running, running]
    assert [one.list_tags().get("rollforge.ended") for one in now] == [
        f"process {gone} was killed", f"process {gone} was killed" if unfinished else None, None, None,
    ]  # fmt: skip
    assert caplog.messages == [
        f"recorder {one.id} was left {status} by the process {gone}, which has ended; closed"
        for one, status in list(zip(made, (running, prepared), strict=False))[: 1 + unfinished]
    ]
    for one in made[2:]:
        one.end_run()


def test_what_was_prepared_and_not_fitted_is_fitted_by_a_delayed_trainer(gone: str) -> None:
    """One with a pool prepares it again, unless the pool has it; one of a single stage closes it."""
    (task,) = tasks(1)

    def prepared(task: Mapping[str, Any], experiment_name: str, recorder_name: str | None = None) -> Recorder:
        one = recorded(task, model=False, status=Recorder.STATUS_S)
        one.set_tags(**{PROCESS_TAG: gone})
        return one

    def fitted(recorder: Recorder, experiment_name: str) -> Recorder:
        recorder.save_objects(**{"params.pkl": 1})
        recorder.end_run()
        return recorder

    class Pooled(DelayTrainerR):
        def has_worker(self) -> bool:
            return True

    left = prepared(task, NAME)
    (other,) = train_missing(Pooled(train_func=prepared, end_train_func=fitted), [task], NAME)
    assert (other != left, models([other]), left.status) == (True, [1], Recorder.STATUS_S)
    other.delete_objects("params.pkl")
    assert train_missing(DelayTrainerR(train_func=prepared, end_train_func=fitted), [task], NAME) == [left]
    assert (models([left]), experiment().get_recorder(left.id).status) == ([1], Recorder.STATUS_FI)
    assert DelayTrainerRM().has_worker()
    (second,) = tasks(2)
    left = prepared(second, NAME)
    (new,) = train_missing(TrainerR(train_func=trained), [second], NAME)
    assert (new != left, experiment().get_recorder(left.id).status) == (True, Recorder.STATUS_FA)
