"""The four trainers: recorders in the order of the tasks, status tags, and reports of failures."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollforge import R
from rollforge.errors import ConfigError, MissingCode, RecorderNotFound, RequirementsNotMet, TrainingFailed
from rollforge.models.constant import ConstantModel
from rollforge.run.executor import InProcess
from rollforge.run.job import Job
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, Trainer, TrainerR
from rollforge.session import Session, current_session, using
from rollforge.store.base import batch_of
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite import SQLiteStore
from rollforge.track.base import Recorder, get_experiment, open_tracker

ALL = [TrainerR, DelayTrainerR, TrainerRM, DelayTrainerRM]


@pytest.fixture(params=["folder", "mlflow"])
def session(request: pytest.FixtureRequest, tmp_path: Path, tracking_in: Callable[[str], str]) -> Iterator[Session]:
    """A session with its stores in a temporary folder, for both kinds of tracker."""
    made = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=tracking_in(request.param), threads=2)
    with using(made):
        yield made


def whole(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Train in one stage."""
    return second(first(task, experiment_name, recorder_name), experiment_name)


def first(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Prepare a recorder."""
    tracker = open_tracker(current_session().tracking_uri)
    recorder = get_experiment(tracker, experiment_name=experiment_name).create_recorder(recorder_name)
    recorder.save_objects(task=task)
    recorder.end_run(Recorder.STATUS_S)
    return recorder


def second(recorder: Recorder, experiment_name: str) -> Recorder:
    """Fit the model."""
    task = recorder.load_object("task")
    recorder.start_run()
    if task["x"] == "bad":
        recorder.end_run(Recorder.STATUS_FA)
        raise ValueError("no good")
    recorder.log_metrics(x=task["x"])
    recorder.set_tags(pid=str(os.getpid()))
    recorder.end_run(Recorder.STATUS_FI)
    return recorder


def test_runs_without_a_pool_have_no_task_id(session: Session) -> None:
    """Only runs of a pool are tagged with the id of their task; without a pool it would refer to nothing."""
    task = {
        "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": 1.0}},
        "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
    }
    (alone,) = TrainerR("mine", jobs=1)([task])
    (pooled,) = TrainerRM("pooled", jobs=1)([task])
    assert TrainerRM.TM_ID not in alone.list_tags()
    assert TrainerRM.TM_ID in pooled.list_tags()


class LogsWithR(ConstantModel):
    """A model that logs with ``R`` while it is fitted, as Qlib's do."""

    def fit(self, dataset: Any, reweighter: Any = None) -> None:
        for step in range(3):
            R.log_metrics(step=step, loss=3.0 - step)
        R.get_recorder().save_objects(noted=[1])


@pytest.mark.parametrize(("kind", "jobs"), [*((kind, 0) for kind in ALL), (TrainerRM, 1)])
def test_a_model_logs_with_r_in_the_run_of_its_task(kind: Any, jobs: int, session: Session) -> None:
    """In this process and in a worker process. Afterwards no recorder is active here."""
    task = {
        "model": {"class": "LogsWithR", "module_path": __file__, "kwargs": {"value": 1.0}},
        "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
    }
    made = kind("mine", **({"jobs": jobs} if jobs else {}))
    (run,) = made.end_train(made.train([task]))
    assert [m.value for m in run.metric_history("loss")] == [3.0, 2.0, 1.0]
    assert run.load_object("noted") == [1]
    with pytest.raises(RecorderNotFound, match="No recorder is active"):
        R.log_metrics(loss=1.0)


def trainer(kind: type[Trainer], **options: Any) -> Any:
    """Return a trainer of a class with the functions above."""
    if kind in (DelayTrainerR, DelayTrainerRM):
        options["end_train_func"] = second
    return kind("exp", train_func=first if "end_train_func" in options else whole, **options)


@pytest.mark.parametrize("kind", ALL)
def test_recorders_come_in_the_order_of_the_tasks(kind: type[Trainer], session: Session) -> None:
    """Each recorder has the metrics of its own task and is marked as finished."""
    made = trainer(kind, default_rec_name="mine")
    begun = made.train([{"x": 3}, {"x": 1}, {"x": 2}])
    assert [r.list_tags()["train_status"] for r in begun] == ["begin_task_train"] * 3
    assert made.is_delay() is (kind in (DelayTrainerR, DelayTrainerRM))
    if made.is_delay():
        assert [r.list_metrics() for r in begun] == [{}] * 3
    ended = made.end_train(begun)
    assert [r.id for r in ended] == [r.id for r in begun]
    assert [r.list_metrics()["x"] for r in ended] == [3, 1, 2]
    assert [r.list_tags()["train_status"] for r in ended] == ["end_task_train"] * 3
    assert {r.info["name"] for r in ended} == {"mine"}


def returns_no_recorder(task: Any, experiment_name: str, recorder_name: str | None = None) -> int:
    return 5


@pytest.mark.parametrize("kind", [TrainerR, TrainerRM])
def test_a_train_func_must_return_a_recorder(kind: Any, session: Session) -> None:
    made = kind("demo", train_func=returns_no_recorder, session=session)
    with pytest.raises(TrainingFailed, match=r"not a recorder but a int.*must return a recorder"):
        made.train([{"x": 1}])


@pytest.mark.parametrize("kind", ALL)
def test_a_trainer_takes_one_task_or_none(kind: type[Trainer], session: Session) -> None:
    """A dict is treated as a list of one task; without tasks the result is empty."""
    assert [r.list_metrics()["x"] for r in trainer(kind)({"x": 7})] == [7]
    assert trainer(kind)([]) == []


@pytest.mark.parametrize("kind", ALL)
def test_a_failure_is_reported_with_its_task_and_traceback(kind: type[Trainer], tmp_path: Path) -> None:
    """The trainer raises it, or with ``on_error="skip"`` leaves it out of the result and keeps it in `failures`."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/t.db", tracking_uri=f"folder:{tmp_path}/runs")
    tasks = [{"x": 1}, {"x": "bad", "model": {"class": "Linear"}}, {"x": 2}]
    with using(session):
        if kind in (TrainerRM, DelayTrainerRM):
            TaskManager("exp").create_task(tasks, max_attempts=1)
        with pytest.raises(TrainingFailed, match=r"(?s)1 of 3.*ValueError: no good"):
            trainer(kind)(tasks)
        lenient = trainer(kind, on_error="skip")
        if kind in (TrainerRM, DelayTrainerRM):
            TaskManager("exp").remove()
            TaskManager("exp").create_task(tasks, max_attempts=1)
        assert [r.list_metrics()["x"] for r in lenient(tasks)] == [1, 2]
        ((key, error),) = lenient.failures.items()
        assert "Linear" in key or "recorder" in key
        assert "ValueError: no good" in error
    with pytest.raises(ConfigError, match="on_error"):
        kind(on_error="ignore")  # type: ignore[call-arg]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("session", "kind"),
    [*(("folder", kind) for kind in ALL), ("mlflow", TrainerR), ("mlflow", TrainerRM)],
    indirect=["session"],
)
def test_jobs_run_in_parallel_processes(kind: type[Trainer], session: Session) -> None:
    """Models are fitted in other processes, with and without a pool."""
    recorders = trainer(kind, jobs=2)([{"x": i} for i in range(4)])
    assert [r.list_metrics()["x"] for r in recorders] == [0, 1, 2, 3]
    assert str(os.getpid()) not in {r.list_tags()["pid"] for r in recorders}


class Noting:
    """An executor that notes the tasks that it is given, and runs them in this process."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def run(self, job: Job, session: Session, *arguments: Any, **options: Any) -> None:
        self.jobs.append(f"{job.before} to {job.after}")
        InProcess().run(job, session, *arguments, **options)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("session", ["folder"], indirect=True)
def test_an_executor_runs_each_stage(kind: type[Trainer], session: Session) -> None:
    """With a pool, the stages are those of the tasks; without one, each stage is a job of its own."""
    noting = Noting()
    recorders = trainer(kind, executor=noting)([{"x": i} for i in range(3)])
    assert [r.list_metrics()["x"] for r in recorders] == [0, 1, 2]
    assert (
        noting.jobs
        == {
            TrainerR: ["waiting to done"],
            DelayTrainerR: ["waiting to done"] * 2,
            TrainerRM: ["waiting to done"],
            DelayTrainerRM: ["waiting to part_done", "part_done to done"],
        }[kind]
    )


@pytest.mark.slow
def test_call_in_subproc_runs_each_task_in_a_new_process(session: Session) -> None:
    """``call_in_subproc`` runs each task in a new process."""
    recorders = trainer(TrainerR, call_in_subproc=True)([{"x": 1}, {"x": 2}])
    assert len({r.list_tags()["pid"] for r in recorders}) == 2


def test_a_task_that_is_done_in_the_pool_is_not_trained_again(session: Session) -> None:
    """The recorder of a task that is done in the pool is returned; by default the pool has the name of the
    experiment."""
    (one,) = trainer(TrainerRM)([{"x": 1}])
    (same, other) = trainer(TrainerRM)([{"x": 1}, {"x": 2}])
    assert same.id == one.id
    assert other.id != one.id
    assert TaskManager.list() == ["exp"]
    trainer(TrainerRM, task_pool="apart")([{"x": 1}])
    assert TaskManager.list() == ["apart", "exp"]


@pytest.mark.parametrize("kind", [TrainerRM, DelayTrainerRM])
def test_a_trainer_pickled_by_an_earlier_version_uses_its_pool(kind: type[TrainerRM]) -> None:
    """Earlier versions called the attribute `task_pool`; an online manager's file contains its trainer."""
    earlier = kind.__new__(kind)
    state = vars(kind("exp", task_pool="apart", jobs=2))
    state["task_pool"] = state.pop("pool")
    del state["executor"]
    earlier.__setstate__(state)
    assert (earlier.pool, earlier.task_pool, earlier.jobs) == ("apart", "apart", 2)
    assert earlier.executor is None
    assert pickle.loads(pickle.dumps(earlier)).pool == "apart"


def test_the_second_stage_of_a_finished_recorder_is_not_run_again(session: Session) -> None:
    """A second call of `end_train` changes nothing."""
    made = trainer(DelayTrainerR)
    recorders = made([{"x": 1}])
    assert made.end_train(recorders, end_train_func=None)[0].id == recorders[0].id
    with pytest.raises(NotImplementedError):
        made.worker()
    assert not made.has_worker()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TrainerRM", "DelayTrainerRM"])
def test_other_processes_train_tasks_stored_with_skip_run_task(kind: str, session: Session, tmp_path: Path) -> None:
    """Another process runs the trainer's `worker` until all are done."""
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trainers import {kind}, trainer
from rollforge.session import Session, using
from rollforge.store.base import batch_of
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite import SQLiteStore
with using(Session(store_uri={session.store_uri!r}, tracking_uri={session.tracking_uri!r})):
    while TaskManager("exp").task_stat().get("done", 0) < 3:
        trainer({kind}).worker()
        time.sleep(0.1)
"""
    helper = subprocess.Popen([sys.executable, "-c", code])
    made = trainer({"TrainerRM": TrainerRM, "DelayTrainerRM": DelayTrainerRM}[kind], skip_run_task=True)
    recorders = made([{"x": i} for i in range(3)])
    assert helper.wait(300) == 0
    assert [r.list_metrics()["x"] for r in recorders] == [0, 1, 2]
    assert {r.list_tags()["pid"] for r in recorders} == {str(helper.pid)}


def constant(value: float, first: str, last: str) -> dict[str, Any]:
    """Return a task that predicts a constant for some days."""
    segments = {"test": (first, last)}
    return {
        "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": value}},
        "dataset": {
            "class": "EmptyDataset", "module_path": "rollforge.models.constant", "kwargs": {"segments": segments},
        },
    }  # fmt: skip


SEVERAL = [constant(v, *days) for v in (1.0, 2.0) for days in (("20200102", "2020/2/28"), ("2020-03-02", "2020-03-31"))]
NAMES = [f"value={v} {days}" for v in (1.0, 2.0) for days in ("2020-01-02 to 2020-02-28", "2020-03-02 to 2020-03-31")]


@pytest.mark.parametrize(
    ("kind", "jobs"), [(TrainerR, None), (TrainerR, 1), (DelayTrainerR, None), (TrainerRM, None), (DelayTrainerRM, 1)]
)
def test_runs_are_named_after_their_model_and_test_days(
    kind: type[Trainer], jobs: int | None, session: Session
) -> None:
    """Names and tags contain what distinguishes the models, and the test days in ISO form."""
    recorders = kind("exp", jobs=jobs)(SEVERAL)  # type: ignore[call-arg]
    assert [r.name for r in recorders] == NAMES
    tags = recorders[0].list_tags()
    assert (tags["rollforge.model"], tags["rollforge.test"]) == ("value=1.0", "2020-01-02 to 2020-02-28")
    (alone,) = kind("exp", jobs=jobs)(SEVERAL[:1])  # type: ignore[call-arg]
    if kind in (TrainerR, DelayTrainerR):
        assert alone.name == "ConstantModel 2020-01-02 to 2020-02-28", "a single model is named after its class"
    else:
        assert alone == recorders[0], "a task that is in the pool keeps its name"


def test_given_model_names_are_kept(session: Session) -> None:
    """A trainer assigns default model names only to tasks without a name."""
    manager = TaskManager("exp")
    manager.create_task(SEVERAL[:2], model_names=["mine", "mine"])
    recorders = TrainerRM("exp")(SEVERAL)
    assert [t["model_name"] for t in manager.query()] == ["mine", "mine", "value=2.0", "value=2.0"]
    assert [r.name.partition(" ")[0] for r in recorders] == ["mine", "mine", "value=2.0", "value=2.0"]


@pytest.mark.parametrize("kind", [DelayTrainerR, DelayTrainerRM])
def test_failures_of_both_stages_are_kept(kind: type[Trainer], tmp_path: Path) -> None:
    """The second stage adds its failures to those of the first; the next training clears them."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/t.db", tracking_uri=f"folder:{tmp_path}/runs")
    tasks = [{"x": 1}, {"x": "early"}, {"x": "bad"}]
    with using(session):
        if kind is DelayTrainerRM:
            TaskManager("exp").create_task(tasks, max_attempts=1)
        made = kind("exp", train_func=picky_first, end_train_func=second, on_error="skip")  # type: ignore[call-arg]
        assert [r.list_metrics()["x"] for r in made(tasks)] == [1]
        assert sorted(error.splitlines()[-1] for error in made.failures.values()) == [  # type: ignore[attr-defined]
            "ValueError: no good", "ValueError: too early",
        ]  # fmt: skip
        made.train([{"x": 5}])
        assert made.failures == {}  # type: ignore[attr-defined]


def picky_first(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Recorder:
    """Prepare a recorder, except for early tasks."""
    if task["x"] == "early":
        raise ValueError("too early")
    return first(task, experiment_name, recorder_name)


@pytest.mark.parametrize("kind", ALL)
def test_a_call_does_not_change_the_trainer(kind: type[Trainer], session: Session) -> None:
    """Arguments of a call (function, experiment, names) apply only to that call; only the failures are kept."""
    made = trainer(kind, default_rec_name="mine")
    before = dict(vars(made))
    made.train([{"x": 1}], experiment_name="other", train_func=whole if not made.is_delay() else first)
    assert {k: v for k, v in vars(made).items() if k != "failures"} == {
        k: v for k, v in before.items() if k != "failures"
    }


def test_a_trainer_queries_its_batch_and_not_single_tasks(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims, counts and waiting are limited to the trainer's batch, whatever else is in the pool; results are read
    together."""
    batches: list[str] = []
    original = SQLiteStore.claim

    def claim(self: SQLiteStore, pool: str, **options: Any) -> Any:
        batches.append(options["batch"])
        assert "_id" not in str(options["query"])
        return original(self, pool, **options)

    monkeypatch.setattr(SQLiteStore, "claim", claim)
    monkeypatch.setattr(SQLiteStore, "get", lambda self, pool, task_id: pytest.fail("read one by one"))
    manager = TaskManager("exp", session=session)
    manager.create_task([{"x": -1}])
    tasks = [{"x": i} for i in range(3)]
    recorders = TrainerRM("exp", "exp", train_func=whole, session=session).train(tasks)
    assert [r.list_metrics()["x"] for r in recorders] == [0, 1, 2]
    assert set(batches) == {batch_of(manager.create_task(tasks, dry_run=True))}
    assert manager.task_stat() == {"waiting": 1, "done": 3}


@pytest.mark.parametrize("kind", [TrainerRM, DelayTrainerRM])
def test_dead_worker(session: Session, kind: type[TrainerRM]) -> None:
    """The task of a dead worker is trained here when its lease expires, because the trainer that waits for it may be
    alone."""
    store = SQLiteStore(session.store_uri)
    made = trainer(kind)
    store.create("exp", [{"x": 1}])
    assert store.claim("exp", worker="elsewhere:1:0badc0de-1", lease=1.0)
    recorders = made([{"x": 1}, {"x": 2}])
    assert [recorder.list_metrics() for recorder in recorders] == [{"x": 1.0}, {"x": 2.0}]


@pytest.mark.parametrize("kind", [TrainerRM, DelayTrainerRM])
def test_dead_trainer(session: Session, kind: type[TrainerRM]) -> None:
    """The task of a dead trainer is trained by the next one without waiting for the lease, and without counting an
    attempt."""
    store = SQLiteStore(session.store_uri)
    made = trainer(kind)
    store.create("exp", [{"x": 1}], max_attempts=1)
    script = (
        "import sys; from rollforge.machine import process_name; from rollforge.store.sqlite import SQLiteStore;"
        "SQLiteStore(sys.argv[1]).claim('exp', worker=process_name(), lease=3600.0)"
    )
    subprocess.run([sys.executable, "-c", script, session.store_uri], check=True)
    (recorder,) = made([{"x": 1}])
    assert recorder.list_metrics() == {"x": 1.0}
    assert [task.attempt for task in store.query("exp")] == [0]


def lacking(task: Any, experiment_name: str, recorder_name: str | None = None) -> Any:
    raise MissingCode("task.model: no module 'mine'")


def test_nobody_else_can_run_the_tasks_of_a_trainer_without_a_pool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing is the error; no worker and no pool is spoken of."""
    with pytest.raises(RequirementsNotMet, match=r"^The remaining tasks cannot run\. .*\n.*no module 'mine'") as caught:
        TrainerR("e", lacking, executor=InProcess(), session=Session(tracking_uri=f"folder:{tmp_path}")).train(
            [{"x": 1}]
        )
    assert "pool" not in str(caught.value)
    assert "other workers" not in caplog.text
