"""The joined result as a run: one per pool, updated on each collection, with the windows' runs as its children."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.collect.joined import WindowRun, save_joined
from rollforge.errors import RecorderNotFound
from rollforge.run.execute import MODEL_TAG, TEST_TAG
from rollforge.track.base import JOINED_TAG, PARENT_TAG, Experiment, Recorder, get_experiment, open_tracker
from rollforge.track.transfer import copy_runs

FRAME = pd.DataFrame({"score": [1.0, 2.0]})


def task(month: int) -> dict[str, Any]:
    segments = {"test": (f"2020-{month:02d}-01", f"2020-{month:02d}-28")}
    return {"model": {"class": "LGBModel"}, "dataset": {"kwargs": {"segments": segments}}}


@pytest.fixture(params=["folder", "mlflow"])
def experiment(request: pytest.FixtureRequest, tracking_in: Callable[[str], str]) -> Experiment:
    """An experiment in each kind of tracking store."""
    return get_experiment(open_tracker(tracking_in(request.param)), experiment_name="mine")


def trained(experiment: Experiment, month: int, name: str | None = None) -> Recorder:
    """Create a run as a worker does, with a model called ``lgb``."""
    days = f"2020-{month:02d}-01 to 2020-{month:02d}-28"
    recorder = experiment.create_recorder(name or f"lgb {days}", tags={MODEL_TAG: "lgb", TEST_TAG: days})
    recorder.end_run()
    return recorder


def windows(recorders: list[Recorder], model_name: str) -> list[WindowRun]:
    return [WindowRun(r, r.list_tags(), task(i + 1), model_name) for i, r in enumerate(recorders)]


def save(experiment: Experiment, **changes: Any) -> Recorder:
    given = {"objects": {"pred.pkl": FRAME}, "metrics": {"IC": 0.5}, "tags": {"models": "lgb"}, "windows": []}
    return save_joined(experiment, "pool", **{**given, **changes})


def test_it_is_created_once_and_then_updated(experiment: Experiment) -> None:
    """The next time it is the same run: new values replace the old ones, and obsolete ones are removed."""
    first = save(experiment, objects={"pred.pkl": FRAME, "label.pkl": FRAME}, metrics={"IC": 0.5, "ridge/IC": 0.1})
    assert first.status == "FINISHED"
    second = save(
        experiment, objects={"pred.pkl": FRAME * 2, "label.pkl": None}, metrics={"IC": 0.25}, tags={"models": "b"}
    )
    assert second.id == first.id
    (seen,) = experiment.list_recorders("list", joined=True)
    assert seen.status == "FINISHED"
    assert seen.list_artifacts() == ["pred.pkl"]
    assert seen.load_object("pred.pkl")["score"].tolist() == [2.0, 4.0]
    metrics = seen.list_metrics()
    assert metrics["IC"] == 0.25
    assert math.isnan(metrics["ridge/IC"])
    assert (seen.list_tags()["models"], seen.list_tags()[JOINED_TAG]) == ("b", "pool")


def test_collecting_the_same_again_adds_nothing(experiment: Experiment) -> None:
    """An unchanged or missing metric is not logged again."""
    values = {"IC": 0.5, "ICIR": float("nan")}
    for _ in range(3):
        recorder = save(experiment, metrics=values)
    assert [m.value for m in recorder.metric_history("IC")] == [0.5]
    assert len(recorder.metric_history("ICIR")) == 1


def test_each_pool_has_its_own(experiment: Experiment) -> None:
    """Pools of one experiment have their own too."""
    first = save(experiment)
    given: dict[str, Any] = {"objects": {}, "metrics": {}, "tags": {}, "windows": []}
    other = save_joined(experiment, "other", **given)
    assert first.id != other.id
    assert save_joined(experiment, "other", **given).id == other.id


def test_the_windows_become_its_children_and_are_named_after_their_models(experiment: Experiment) -> None:
    """The runs of the windows have MLflow's own tag; renaming a model renames its runs, except those that a user has
    named."""
    runs = [trained(experiment, 1), trained(experiment, 2), trained(experiment, 3, "my run")]
    parent = save(experiment, windows=windows(runs, "lgb"))
    save(experiment, windows=windows(runs, "trees"))
    seen = {r.id: r for r in experiment.list_recorders("list")}
    assert [seen[r.id].name for r in runs] == [
        "trees 2020-01-01 to 2020-01-28", "trees 2020-02-01 to 2020-02-28", "my run",
    ]  # fmt: skip
    for recorder in runs:
        tags = seen[recorder.id].list_tags()
        assert (tags[PARENT_TAG], tags[MODEL_TAG]) == (parent.id, "trees")
        assert seen[recorder.id].status == "FINISHED"


def test_runs_of_earlier_versions_become_its_children(experiment: Experiment) -> None:
    """Runs of earlier versions get the missing tags of their model, and keep their names."""
    old = experiment.create_recorder("run-1234abcd")
    old.end_run()
    save(experiment, windows=windows([old], ""))
    tags = experiment.get_recorder(old.id).list_tags()
    assert (tags[MODEL_TAG], tags[TEST_TAG]) == ("LGBModel", "2020-01-01 to 2020-01-28")
    assert experiment.get_recorder(old.id).name == "run-1234abcd"


def test_a_failure_marks_the_run_as_failed(experiment: Experiment) -> None:
    """If writing fails, the run is failed; the next collection repairs it."""
    with pytest.raises(Exception, match="number"):
        save(experiment, metrics={"IC": "many"})
    (seen,) = experiment.list_recorders("list", joined=True)
    assert seen.status == "FAILED"
    assert save(experiment).id == seen.id
    assert experiment.get_recorder(seen.id).status == "FINISHED"


def test_two_simultaneous_collections_leave_one_run(experiment: Experiment) -> None:
    """The other one is gone at the latest after the next collection."""
    barrier = threading.Barrier(4)
    found = []

    def collect() -> None:
        barrier.wait()
        found.append(save(experiment).id)

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    kept = save(experiment)
    assert list(experiment.list_recorders(joined=True)) == [kept.id]


def test_a_run_that_is_deleted_again_and_again_is_an_error(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised after a few attempts."""
    attempts = []

    def deleted(recorder: Recorder, *args: Any, **kwargs: Any) -> None:
        attempts.append(recorder.id)
        assert len(attempts) < 10
        raise RecorderNotFound("The run was deleted.")

    monkeypatch.setattr(Recorder, "start_run", deleted)
    with pytest.raises(RecorderNotFound, match="was deleted"):
        save(experiment)
    assert len(attempts) > 1


def test_a_superfluous_run_that_was_not_deleted_is_deleted_by_the_next_collection(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two collections began at the same time, and the later one was interrupted before it deleted its run."""
    kept = save(experiment)
    listed, unseen = experiment.list_recorders, [[]]

    def fail(recorder: str) -> None:
        raise ConnectionError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "list_recorders", lambda *a, **k: unseen.pop() if unseen else listed(*a, **k))
        patched.setattr(experiment, "delete_recorder", fail)
        with pytest.raises(ConnectionError):
            save(experiment)
    assert len(experiment.list_recorders(joined=True)) == 2
    assert save(experiment).id == kept.id
    assert list(experiment.list_recorders(joined=True)) == [kept.id]


def test_a_copy_of_the_runs_keeps_them_below_their_parent(experiment: Experiment, tmp_path: Path) -> None:
    """The ids differ in the other store, including the parent's."""
    runs = [trained(experiment, 1), trained(experiment, 2)]
    save(experiment, windows=windows(runs, "lgb"))
    target = open_tracker(f"folder:{tmp_path}/copy")
    (copied,) = copy_runs(open_tracker(runs[0].uri), target, ["mine"])
    assert copied.runs == 3
    there = get_experiment(target, experiment_name="mine")
    (parent,) = there.list_recorders("list", joined=True, tags={JOINED_TAG: "pool"})
    assert {r.list_tags()[PARENT_TAG] for r in there.list_recorders("list")} == {parent.id}
