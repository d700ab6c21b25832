"""The Python API warns about tasks with leakage, once for each set of tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from definitions import NEXT_RETURN, SMALL_MARKET, expressions, task_definition
from rollforge.build import build
from rollforge.generate.task_view import TaskView
from rollforge.models.linear import LinearModel
from rollforge.run.execute import begin_task_train, end_task_train, task_train
from rollforge.run.executor import InProcess
from rollforge.run.job import Job
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.run.worker import run_task
from rollforge.session import Session, using
from rollforge.store.manager import TaskManager

WARNING = "days of 'test' are in 'train' too: the model is tested on days to which it was fitted."


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """A session with market data, and its stores in a temporary folder."""
    made = Session(
        provider_uri=str(small_market),
        store_uri=f"sqlite:///{tmp_path}/tasks.db",
        tracking_uri=f"folder:{tmp_path}/runs",
    )
    with using(made):
        yield made


def task(value: float, train: tuple[str, str] = ("2022-01-03", "2023-06-30")) -> dict[str, Any]:
    segments = {"train": train, "test": ("2022-06-01", "2022-08-31")}
    return {
        "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": value}},
        "dataset": {
            "class": "EmptyDataset",
            "module_path": "rollforge.models.constant",
            "kwargs": {"segments": segments},
        },
    }


def one(tasks: list[dict[str, Any]]) -> None:
    task_train(tasks[0])


def two_stages(tasks: list[dict[str, Any]]) -> None:
    end_task_train(begin_task_train(tasks[0]))


def in_a_pool(tasks: list[dict[str, Any]]) -> None:
    TaskManager("mine").create_task(tasks)
    run_task(task_train, "mine", experiment_name="mine")


WAYS: list[Callable[[list[dict[str, Any]]], Any]] = [
    one, two_stages, TrainerR("a"), DelayTrainerR("a"), TrainerRM("b"), DelayTrainerRM("c"), in_a_pool,
]  # fmt: skip


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "'train' too" in r.getMessage()]


@pytest.mark.parametrize(
    "way", WAYS, ids=["task_train", "two stages", *"TrainerR DelayTrainerR TrainerRM DelayTrainerRM".split(), "pool"]
)
def test_a_model_tested_on_its_training_days_is_reported_once(
    way: Callable[[list[dict[str, Any]]], Any],
    session: Session,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every way of training logs one warning, and another for the next set of tasks."""
    monkeypatch.setattr("rollforge.run.review._logged", set())
    with caplog.at_level(logging.WARNING):
        way([task(0.0), task(1.0), task(2.0)])
    (text,) = warnings_of(caplog)
    assert WARNING in text
    if isinstance(way, TrainerR | TrainerRM):
        assert text.startswith("In 3 of 3 tasks (task 1, 2022-06-01 to 2022-08-31; task 2, ")
    if way is not in_a_pool:
        caplog.clear()
        way([task(3.0), task(4.0)])
        assert len(warnings_of(caplog)) == 1


def test_objects_are_checked_and_described_like_their_descriptions(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """A model, a handler or a dataset that is an object gives the warnings, the name and the tags of its description."""
    segments = {
        "train": ("2022-01-03", "2023-06-30"),
        "valid": ("2023-01-03", "2023-03-31"),
        "test": ("2023-04-03", "2023-08-31"),
    }
    labels = NEXT_RETURN, "Ref($close, -6)/Ref($close, -1) - 1"
    described = [
        task_definition(expressions("$close/Ref($close, 5)", label, **SMALL_MARKET), segments) for label in labels
    ]
    datasets = [build(one["dataset"]) for one in described]
    models = [{**one, "model": LinearModel()} for one in described]
    handlers = [
        TaskView(one).with_dataset_kwargs(handler=dataset.handler)
        for one, dataset in zip(described, datasets, strict=True)
    ]
    whole = [{**one, "dataset": dataset} for one, dataset in zip(models, datasets, strict=True)]

    def found(tasks: list[Any]) -> Any:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rollforge.run.review"):
            TrainerR("e")(tasks)
        texts = [r.getMessage() for r in caplog.records if r.name == "rollforge.run.review"]
        recorder = task_train(tasks[0])
        tags = recorder.list_tags()
        return texts, recorder.name, tags["rollforge.model"], tags["rollforge.test"]

    expected = found(described)
    texts, *others = expected
    assert len(texts) == 4, texts
    assert others == ["LinearModel 2023-04-03 to 2023-08-31", "LinearModel", "2023-04-03 to 2023-08-31"]
    for tasks in (models, handlers, whole):
        assert found(tasks) == expected


def test_separate_segments_are_not_reported(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged, nor if there is no data folder with a calendar."""
    with caplog.at_level(logging.WARNING):
        TrainerR("a")([task(0.0, train=("2022-01-03", "2022-05-31"))])
        with using(Session(tracking_uri=session.tracking_uri)):
            task_train(task(0.0))
    assert warnings_of(caplog) == []


@pytest.mark.slow
def test_worker_processes_do_not_repeat_the_warning(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """One warning is logged in this process, and none in the worker processes."""
    with caplog.at_level(logging.WARNING):
        TrainerR("a", jobs=2)([task(float(i)) for i in range(3)])
    assert len(warnings_of(caplog)) == 1


@dataclass
class Noting:
    """An executor that notes whether the tasks that it runs in this process have been reviewed."""

    reviewed: list[bool] = field(default_factory=list)

    def run(self, job: Job, session: Session, *args: Any, **kwargs: Any) -> None:
        self.reviewed.append(job.reviewed)
        InProcess().run(job, session, *args, **kwargs)


def test_workers_review_tasks_for_a_driver_without_data(session: Session) -> None:
    """A driver that has the data does it itself, for all tasks at once."""
    without = Session(store_uri=session.store_uri, tracking_uri=session.tracking_uri)
    for of_driver, reviewed in ((session, True), (without, False)):
        executor = Noting()
        with using(of_driver):
            TrainerRM(f"reviewed {reviewed}", executor=executor)([task(0.0)])
        assert executor.reviewed == [reviewed]
