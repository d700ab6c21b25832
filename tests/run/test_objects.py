"""A task store or a tracking store may be passed as an object wherever its URI may be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollforge.collect.collector import RecorderCollector
from rollforge.collect.task_collector import TaskCollector
from rollforge.drivers import STORES, TRACKERS, register_tracker
from rollforge.errors import ConfigError, RollforgeError, TrainingFailed
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.run.worker import run_task
from rollforge.session import Session, current_session, using
from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.store.memory import MemoryStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status
from rollforge.track import tracker as trackers
from rollforge.track.base import Recorder, get_experiment, open_tracker
from rollforge.track.folder import FolderTracker

TASKS = [{"x": 1}, {"x": 2}]
BOXES = """
from rollforge.track.folder import FolderTracker

class Box(FolderTracker):
    def __init__(self, uri):
        super().__init__("folder:" + uri.partition(":")[2])
        self.uri = uri
"""


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    before = [(dict(d._registered), set(d._used), dict(d._objects)) for d in (STORES, TRACKERS)]
    opened = dict(trackers._opener.known)
    yield
    trackers._opener.known = opened
    for drivers, (registered, used, objects) in zip((STORES, TRACKERS), before, strict=True):
        drivers._registered, drivers._used, drivers._objects = registered, used, objects


@pytest.fixture
def tracker(tmp_path: Path) -> FolderTracker:
    return FolderTracker(f"folder:{tmp_path}/runs")


def record(task: Any, experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Train in one stage, or in the first of two: create a run that holds the task."""
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name=experiment_name)
    recorder = experiment.create_recorder(recorder_name)
    recorder.save_objects(task=dict(task), **{"pred.pkl": [task["x"]]})
    recorder.end_run(Recorder.STATUS_FI)
    return recorder


def second_stage(recorder: Recorder, experiment_name: str) -> Recorder:
    recorder.set_tags(second="stage")
    return recorder


def runs(tracker: Any, name: str = "e") -> list[str]:
    """Return the runs of an experiment in this tracker."""
    found = get_experiment(tracker, experiment_name=name, create=False)
    return list(found.list_recorders())


@pytest.mark.parametrize("make", [TrainerR, TrainerRM, DelayTrainerR, DelayTrainerRM])
def test_every_trainer_takes_objects(make: Any, tracker: FolderTracker) -> None:
    """Tasks are stored in the given store and runs in the given tracker, and nothing in those of the session."""
    store = MemoryStore()
    through_pool = make in (TrainerRM, DelayTrainerRM)
    options: dict[str, Any] = {"tracker": tracker, **({"store": store} if through_pool else {})}
    trainer = make("e", train_func=record, **options)
    kwargs = {"end_train_func": second_stage} if trainer.is_delay() else {}
    recorders = trainer.end_train(trainer.train(TASKS), **kwargs)
    assert [r.load_object("task") for r in recorders] == TASKS
    assert sorted(runs(tracker)) == sorted(r.id for r in recorders)
    if through_pool:
        assert store.count("e") == {Status.DONE: 2}
    if trainer.is_delay():
        assert {r.list_tags()["second"] for r in recorders} == {"stage"}
    assert not list(Path(".rollforge").rglob("*"))


def test_run_task_takes_objects(tracker: FolderTracker) -> None:
    """The function finds the tracker in the current session."""
    store = MemoryStore()
    TaskManager("p", store=store).create_task(TASKS)
    assert run_task(record, "p", store=store, tracker=tracker, experiment_name="e")
    assert store.count("p") == {Status.DONE: 2}
    assert len(runs(tracker)) == 2


def test_addresses_may_be_passed_in_the_same_place(tmp_path: Path) -> None:
    """`store` and `tracker` may also be URIs, in trainers and in a TaskManager."""
    uri, tracking = f"sqlite:///{tmp_path}/t.db", f"folder:{tmp_path}/other"
    TrainerRM("e", train_func=record, store=uri, tracker=tracking).train(TASKS)
    assert TaskManager("e", store=uri).task_stat() == {Status.DONE: 2}
    assert len(runs(open_tracker(tracking))) == 2


def test_a_session_takes_objects(tracker: FolderTracker) -> None:
    """``Session()``, ``with_`` and ``from_mapping`` take an object; opening its address returns that object."""
    store = MemoryStore()
    session = Session(threads=1).with_(store=store, tracker=tracker)
    assert isinstance(session.store_uri, str)
    assert open_store(session.store_uri) is store
    assert open_tracker(session.tracking_uri) is tracker
    assert session.with_(threads=2).store_uri == session.store_uri
    assert Session.from_mapping({"store": store}).store_uri == session.store_uri
    with using(session):
        assert TaskManager("p").store is store


def test_objects_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """Two unnamed memory stores, or two objects for one file, stay distinct."""
    one, two = MemoryStore(), MemoryStore()
    one.create("p", [{"x": 1}])
    assert open_store(Session(store_uri=two).store_uri).count("p") == {}  # type: ignore[arg-type]
    assert open_store(Session(store_uri=one).store_uri).count("p") == {Status.WAITING: 1}  # type: ignore[arg-type]
    assert open_store("memory://") not in (one, two)
    first, second = (SQLiteStore(f"sqlite:///{tmp_path}/t.db") for _ in range(2))
    assert open_store(Session().with_(store=first).store_uri) is first
    assert open_store(Session().with_(store=second).store_uri) is second


def test_collectors_take_a_tracker(tracker: FolderTracker) -> None:
    """The name of an experiment is looked up in the given tracker."""
    (recorder,) = TrainerR("e", record, tracker=tracker)([{"x": 7}])
    assert RecorderCollector("e", tracker=tracker)() == {"pred": {recorder.id: [7]}}
    assert list(TaskCollector("e", tracker=tracker).list_recorders(only_have_task=True)) == [recorder.id]
    with pytest.raises(RollforgeError):
        RecorderCollector("e")


@pytest.mark.parametrize("wrong", [5, object(), dict, {}])
def test_an_object_that_is_not_a_store_is_refused(wrong: Any) -> None:
    """The error names the first missing method, before anything is stored."""
    with pytest.raises(ConfigError, match=r"no (create|create_experiment)\(\)"):
        TrainerRM("e", train_func=record, store=wrong).train(TASKS)
    with pytest.raises(ConfigError, match=r"no create_experiment\(\)"):
        TrainerR("e", record, tracker=wrong).train(TASKS)


@pytest.mark.slow
def test_processes_open_the_uri_of_an_object(tracker: FolderTracker) -> None:
    """Worker processes record in the tracker that was passed as an object; the store may be in memory."""
    store = MemoryStore()
    recorders = TrainerRM("e", train_func=record, jobs=1, store=store, tracker=tracker).train(TASKS)
    assert len(recorders) == 2
    assert sorted(runs(tracker)) == sorted(r.id for r in recorders)
    assert len(TrainerR("e2", record, jobs=1, tracker=tracker).train(TASKS)) == 2


@pytest.mark.slow
def test_processes_open_a_scheme_that_was_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme that the program has registered can be used in its worker processes."""
    (tmp_path / "boxes_of_processes.py").write_text(BOXES)
    monkeypatch.syspath_prepend(tmp_path)
    register_tracker("box", "boxes_of_processes:Box")
    uri = f"box:{tmp_path}/runs"
    assert len(TrainerR("e", record, jobs=1, tracker=uri).train(TASKS)) == 2
    assert len(runs(open_tracker(uri))) == 2
    sys.modules.pop("boxes_of_processes")


class Unnamed(FolderTracker):
    """A tracker whose URI no other process can open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"folder:{folder}")
        self.uri = "unnamed:1"


def test_an_object_that_processes_cannot_open_is_an_error_only_with_processes(tmp_path: Path) -> None:
    """An object that processes cannot open is used in the current process; with worker processes an error says what to
    do, and no task is started."""
    tracker = Unnamed(tmp_path / "runs")
    assert len(TrainerR("e", record, tracker=tracker).train(TASKS)) == 2
    store = MemoryStore()
    assert len(TrainerRM("e", train_func=record, tracker=tracker, store=store).train(TASKS)) == 2
    for trainer in (
        TrainerR("e", record, jobs=1, tracker=tracker),
        TrainerR("e", record, call_in_subproc=True, tracker=tracker),
        TrainerRM("e3", train_func=record, jobs=1, tracker=tracker, store=store),
    ):
        with pytest.raises(ConfigError, match=r"register_tracker\(\), or run the tasks in this process") as caught:
            trainer.train(TASKS)
        assert not isinstance(caught.value, TrainingFailed)
    assert store.count("e3") == {Status.WAITING: 2}


def test_the_pipeline_takes_objects(small_market: Path, tmp_path: Path) -> None:
    """A workflow that is loaded with a store and a tracker is planned, submitted, trained and collected with them."""
    from rollforge import pipeline
    from rollforge.plan import make_plan
    from rollforge.workflow import load_workflow

    file = tmp_path / "job.yaml"
    file.write_text(f"""
rollforge: {{data: {small_market}, experiment: e}}
task:
  model: {{class: LinearModel, module_path: rollforge.models}}
  dataset:
    class: DatasetH
    module_path: rollforge.data
    kwargs:
      handler:
        class: DataHandlerLP
        module_path: rollforge.data
        kwargs:
          instruments: all
          data_loader:
            class: QlibDataLoader
            kwargs:
              config:
                feature: [["$close/Ref($close, 5) - 1"], [F]]
                label: [["Ref($close, -2)/Ref($close, -1) - 1"], [LABEL0]]
          infer_processors: [{{class: Fillna, kwargs: {{fields_group: feature}}}}]
          learn_processors: [{{class: DropnaLabel}}]
      segments: {{train: [2022-01-03, 2022-12-28], test: [2023-01-03, 2023-03-31]}}
  record: [{{class: SignalRecord, module_path: rollforge.record}}]
""")
    store, tracker = MemoryStore(), Unnamed(tmp_path / "runs")
    plan = make_plan(load_workflow(file, store=store, tracker=tracker))
    pipeline.submit(plan)
    assert store.count("e") == {Status.WAITING: 1}
    pipeline.train(plan, jobs=0)
    assert store.count("e") == {Status.DONE: 1}
    collected = pipeline.collect(plan.workflow.session, "e", plan.ids)
    assert collected.prediction is not None
    assert len(runs(tracker)) == 1
