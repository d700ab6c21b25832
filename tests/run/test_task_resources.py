"""Resources that single tasks ask for: ``resources: {cpus: …, memory: …, gpus: …}`` beside the model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import call
from tests.documents.definitions import LINEAR, SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow
from tests.engine.work import sleep

from rollforge.errors import ConfigError
from rollforge.pipeline import submit
from rollforge.plan import make_plan
from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job, ignore_event
from rollforge.run.leases import Leases
from rollforge.run.pool_trainer import TrainerRM
from rollforge.run.task_resources import Shapes, TaskResources, read_resources
from rollforge.run.trainer import DelayTrainerR
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
from rollforge.task import Status
from rollforge.workflow import load_workflow

GIB = 2**30


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpu": 1}, "task.resources.gpu: unknown key. Did you mean 'gpus'? Allowed: cpus, memory, gpus."),
        ({"cpus": 0}, "task.resources.cpus: must be above 0, found 0."),
        ({"cpus": True}, "task.resources.cpus: must be above 0, found True."),
        ({"memory": "much"}, "task.resources.memory: 'much' is not a size."),
        ({"gpus": 1.5}, "task.resources.gpus: must be a fraction of a GPU or a whole number, found 1.5."),
        ({"gpus": "1"}, "task.resources.gpus: must be a fraction of a GPU or a whole number, found '1'."),
        (3, "task.resources: must be a mapping"),
    ],
)
def test_mistakes(given: object, said: str) -> None:
    """Each is named with its path."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_resources(given)


@pytest.fixture
def write(tmp_path: Path, small_market: Path) -> Callable[..., Path]:
    """A function that writes a workflow of two windows, in which a task has some further parts."""

    def write(parts: Mapping[str, Any] = {}, **sections: Any) -> Path:
        rollforge = {
            "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
            "experiment": "on", "cache": str(tmp_path / "cache"),
        }  # fmt: skip
        task = {
            "model": LINEAR,
            "dataset": dataset(expressions("$close/Ref($close,1)-1"), TWO_WINDOWS),
            "record": [SIGNAL],
            **parts,
        }
        rolling = {"step": 60, "rtype": "sliding", "trunc_days": "auto"}
        return write_workflow(
            tmp_path / "job.yaml", {"rollforge": rollforge, "task": task, "rolling": rolling, **sections}
        )

    return write


def asked(session: Session) -> list[tuple[TaskResources, int]]:
    """Return what the waiting tasks of the pool ask for, the most first, and how many ask for the same."""
    store = open_store(session.store_uri)
    shapes = Shapes(store, Job("on", len))
    return [(one, sum(store.count("on", shapes.query(partial(eq, one))).values())) for one in shapes.known]


def test_resources_do_not_identify_a_task(write: Callable[..., Path]) -> None:
    """The same tasks with other resources are the same ones, which wait with the new resources."""
    plain = make_plan(load_workflow(write()))
    submit(plain)
    assert asked(plain.workflow.session) == [(TaskResources(), 2)]
    small = make_plan(load_workflow(write({"resources": {"memory": "1G"}})))
    assert small.ids == plain.ids
    assert submit(small).new == 0
    assert asked(plain.workflow.session) == [(TaskResources(memory=GIB), 2)]
    submit(make_plan(load_workflow(write({"resources": {"memory": "4G", "cpus": 2}}))))
    assert asked(plain.workflow.session) == [(TaskResources(memory=4 * GIB, cpus=2), 2)]
    submit(plain)
    assert asked(plain.workflow.session) == [(TaskResources(), 2)]
    for task in open_store(plain.workflow.session.store_uri).query("on"):
        assert "resources" not in task.definition


def test_a_done_task_stays_done(write: Callable[..., Path], tmp_path: Path) -> None:
    """Asking for more memory trains nothing again."""
    assert call("run", write(), "--jobs", 0, "--output", tmp_path / "out").exit_code == 0
    again = call("run", write({"resources": {"memory": "1G"}}), "--jobs", 0, "--output", tmp_path / "out")
    assert "all 2 tasks are already done; nothing to train" in again.stdout


def test_one_model_of_a_grid_asks_for_a_gpu(write: Callable[..., Path]) -> None:
    """The tasks of that model run on agents of their own; the plan says so."""
    grid = {
        "values": {"model.kwargs.estimator": {"small": "ols", "large": "ridge"}, "resources": [None, {"gpus": 1, "cpus": 2}]},
        "zip": [["model.kwargs.estimator", "resources"]],
    }  # fmt: skip
    file = write(generate=[{"GridGen": grid}])
    made = make_plan(load_workflow(file))
    assert len(set(made.ids)) == 4
    submit(made)
    assert asked(made.workflow.session) == [(TaskResources(gpus=1, cpus=2), 2), (TaskResources(), 2)]
    lines = call("plan", file, "--on", "ray:head:6379", "--jobs", 3, "--memory", "1G").stdout.splitlines()
    assert "asks    2 agents for 2 tasks, each with 2 cores, 1 GiB of memory and 1 GPU" in lines
    assert "and     2 agents for 2 tasks, each with 1 core and 1 GiB of memory" in lines
    assert "total   at most 3 agents at a time" in lines


def test_a_model_of_the_workflow_asks_for_its_own(write: Callable[..., Path]) -> None:
    """In the section ``models``, too; a mistake has its line and path."""
    models = {
        "small": {"model": LINEAR},
        "large": {"model": {**LINEAR, "kwargs": {"estimator": "ridge"}}, "resources": {"memory": "2G"}},
    }
    made = make_plan(load_workflow(write(models=models)))
    submit(made)
    assert (TaskResources(memory=2 * GIB), 2) in asked(made.workflow.session)
    with pytest.raises(ConfigError, match=re.escape("task.resources.gpu: unknown key. Did you mean 'gpus'?")) as caught:
        load_workflow(write({"resources": {"gpu": 1}}))
    assert "line " in str(caught.value)


@dataclass
class OnMachine:
    """Tasks of a store that run on a machine with two GPUs and four cores, and leave when they ran."""

    store: MemoryStore

    def run(self, jobs: int, cores: int = 4) -> None:
        LocalProcesses(jobs).run(Job("p", sleep, own=True), Session(threads=cores), store=self.store)

    def ran(self) -> dict[int, tuple[float, float]]:
        """Return when each task began and ended, by the clock of the machine."""
        assert set(self.store.count("p")) == {Status.DONE}
        return {task.definition["x"]: (task.result[0], task.result[1]) for task in self.store.query("p")}

    def gpus(self) -> dict[int, str]:
        return {task.definition["x"]: task.result[2] for task in self.store.query("p")}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OnMachine:
    """A machine on which no other test has the GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return OnMachine(MemoryStore())


def most_at_once(times: Iterable[tuple[float, float]]) -> int:
    """Return how many of some intervals overlap at most."""
    times = list(times)
    return max(sum(began <= start < ended for began, ended in times) for start, _ in times)


@pytest.mark.slow
def test_tasks_with_and_without_gpus_run_at_the_same_time(machine: OnMachine, tmp_path: Path) -> None:
    """A task without a GPU meets two that have one each. Each GPU has one task at a time, which sees only it."""
    (tmp_path / "meet").mkdir()
    meeting = {"meet": str(tmp_path / "meet"), "number": 3}
    first = [{"x": 0, **meeting}, *({"x": x, "resources": {"gpus": 1}, **meeting} for x in (4, 5))]
    machine.store.create("p", first, priority=1)
    machine.store.create("p", [{"x": x, "seconds": 0.2, "resources": {"cpus": 1}} for x in range(1, 4)])
    machine.store.create("p", [{"x": x, "seconds": 0.2, "resources": {"gpus": 1}} for x in range(6, 8)])
    machine.run(jobs=3)
    ran, gpus = machine.ran(), machine.gpus()
    assert most_at_once(ran.values()) == most_at_once(ran[x] for x in (0, 4, 5)) == 3
    assert {gpus[x] for x in range(4)} == {"0,1"}
    assert gpus[4] != gpus[5]
    for name in ("0", "1"):
        assert most_at_once(ran[x] for x in gpus if gpus[x] == name) == 1


@pytest.mark.slow
def test_cores_and_memory_are_not_given_twice(machine: OnMachine) -> None:
    """A task of three cores and one of two do not fit beside each other on four, but one of one core does."""
    sizes = {0: 3, 1: 2, 2: 1, 3: 2}
    machine.store.create("p", [{"x": x, "seconds": 0.5, "resources": {"cpus": n}} for x, n in sizes.items()])
    machine.run(jobs=4)
    ran = machine.ran()
    for start, _ in ran.values():
        assert sum(sizes[x] for x, (began, ended) in ran.items() if began <= start < ended) <= 4
    assert ran[0][0] < min(ran[1][0], ran[3][0])


@pytest.mark.slow
def test_priority_comes_before_size_and_dependencies_hold(machine: OnMachine) -> None:
    """One process: the task of high priority first, then the large one, then the one that waits for it."""
    (large,) = machine.store.create("p", [{"x": 1, "resources": {"gpus": 1}}])
    machine.store.create("p", [{"x": 2, "resources": {"gpus": 2}}], depends_on=[large.id])
    machine.store.create("p", [{"x": 3}])
    machine.store.create("p", [{"x": 0}], priority=1)
    machine.run(jobs=1)
    ran = machine.ran()
    assert sorted(ran, key=ran.__getitem__) in ([0, 1, 2, 3], [0, 1, 3, 2])
    assert machine.gpus() == {0: "0,1", 1: "0", 2: "0,1", 3: "0,1"}


def test_more_gpus_than_there_are(machine: OnMachine) -> None:
    """One message, before any task starts."""
    machine.store.create("p", [{"x": 1}, {"x": 2, "resources": {"gpus": 3}}])
    with pytest.raises(ConfigError, match=re.escape("Each task needs 3 GPUs, but this machine has 2 GPUs")):
        machine.run(jobs=1)
    assert set(machine.store.count("p")) == {Status.WAITING}


def test_a_task_that_is_stored_while_others_run_gets_what_it_asks_for() -> None:
    """The claim did not know of the task, which is noted and given back, without an attempt."""
    store, job = MemoryStore(), Job("p", len, own=True)
    store.create("p", [{"x": 1}])
    shapes = Shapes(store, job)
    leases = Leases(store, job, "me", ignore_event, shapes=shapes)
    plain, large = TaskResources(), TaskResources(gpus=1)
    store.create("p", [{"x": 2, "resources": {"gpus": 1}}])
    assert [task.definition["x"] for task in leases.take(9, partial(eq, plain))] == [1]
    assert shapes.known == [large, plain]
    assert leases.wanted() == {large: 1, plain: 0}
    (task,) = leases.take(9, partial(eq, large))
    assert (task.definition["x"], task.attempt) == (2, 0)


def test_a_mistake_of_somebody_else_does_not_end_a_worker(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The task runs as if it asked for nothing."""
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"x": 1, "resources": {"gpu": 1}}])
    assert Shapes(store, Job("p", len)).known == [TaskResources()]
    assert "runs as if it asked for nothing: task.resources.gpu: unknown key." in caplog.text
    with pytest.raises(ConfigError, match=re.escape("unknown key")):
        Shapes(store, Job("p", len, own=True))


@pytest.mark.slow
def test_local_processes_give_gpus_to_those_that_ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that asks for a GPU sees one; the others see what the program sees. More memory than there is: a note."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = MemoryStore()
    store.create("p", [{"x": 1, "resources": {"gpus": 1}}, {"x": 2}, {"x": 3, "resources": {"memory": "1000T"}}])
    LocalProcesses(1).run(Job("p", see_stored, own=True), Session(threads=1), store=store)
    assert {task.definition["x"]: task.result for task in store.query("p")} == {1: "0", 2: "0,1", 3: "0,1"}
    assert "tasks ask for 1.024e+06 GiB of memory (" in caplog.text


def see_stored(task: Mapping[str, Any]) -> str:
    """Return the GPUs that the task sees."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_trainer_stores_no_resources(tmp_path: Path) -> None:
    """The definition in the pool, and so the recorder, is that of the task without them."""
    session = Session(
        store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs", provider_uri=None
    )
    trainer = TrainerRM("e", "p", train_plain, session=session, skip_run_task=False)
    trainer.train([{"x": 1, "resources": {"cpus": 2}}])
    (task,) = open_store(session.store_uri).query("p")
    assert task.definition == {"x": 1}
    (info,) = open_store(session.store_uri).submissions("p").values()
    assert info["resources"] == [{"cpus": 2, "memory": None, "gpus": None, "tasks": [task.id]}]


def train_plain(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Any:
    """Record nothing but a run."""
    from rollforge import R

    with R.start(experiment_name=experiment_name):
        return R.get_recorder()


@pytest.mark.slow
def test_the_second_stage_of_a_task_has_what_the_task_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The processes of `end_train` get the recorder only; what its task asks for is in the run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session = Session(tracking_uri=f"folder:{tmp_path}/runs", provider_uri=None)
    trainer = DelayTrainerR("e", start_run, note_gpus, session=session, jobs=1)
    recorders = trainer.train([{"x": 1, "resources": {"gpus": 1}}, {"x": 2}])
    done = trainer.end_train(recorders)
    assert [recorder.list_tags()["gpus"] for recorder in done] == ["0", "0,1"]


def start_run(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Any:
    """Save the task in a run."""
    from rollforge import R

    with R.start(experiment_name=experiment_name):
        R.save_objects(task=task)
        return R.get_recorder()


def note_gpus(recorder: Any, experiment_name: str) -> Any:
    """Note the GPUs that the second stage sees."""
    recorder.set_tags(gpus=os.environ["CUDA_VISIBLE_DEVICES"])
    return recorder
