"""Resources that single tasks ask for: ``resources: {cpus: …, memory: …, gpus: …}`` beside the model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import call
from tests.documents.definitions import LINEAR, SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.errors import ConfigError
from rollforge.pipeline import submit
from rollforge.plan import make_plan
from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job
from rollforge.run.pool_trainer import TrainerRM
from rollforge.run.task_resources import TaskResources, read_resources, run_by_resources
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
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
    """Return in which order the waiting tasks of the pool are run, and how many ask for the same."""
    store, found = open_store(session.store_uri), []
    job = Job("on", len)
    run_by_resources(store, job, lambda some, one: found.append((one, store.count("on", dict(some.query)))))
    return [(one, sum(counts.values())) for one, counts in found]


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
    """The tasks of that model run first, on agents of their own; the plan says so."""
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
    assert "then    2 agents for 2 tasks, each with 1 core and 1 GiB of memory" in lines


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


def test_tasks_that_depend_on_others_run_with_them() -> None:
    """Otherwise the first group could wait for one that is not running; all are given the most that one asks for."""
    store = MemoryStore()
    (first,) = store.create("on", [{"x": 1, "resources": {"cpus": 4}}])
    store.create("on", [{"x": 2, "resources": {"gpus": 1}}], depends_on=[first.id])
    found: list[TaskResources] = []
    run_by_resources(store, Job("on", len), lambda job, one: found.append(one))
    assert found == [TaskResources(gpus=1, cpus=4)]


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
    assert "tasks ask for 1.024e+06 GiB of memory, but this machine has" in caplog.text


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
