"""The Python API warns about tasks with leakage too, once for each set of tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollforge.run.execute import begin_task_train, end_task_train, task_train
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.run.worker import run_task
from rollforge.session import Session, using
from rollforge.store.manager import TaskManager

SAID = "days of 'test' are in 'train' too: the model is tested on days to which it was fitted."


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """A session with a market, and everything else in a temporary folder."""
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


def halves(tasks: list[dict[str, Any]]) -> None:
    end_task_train(begin_task_train(tasks[0]))


def by_hand(tasks: list[dict[str, Any]]) -> None:
    TaskManager("mine").create_task(tasks)
    run_task(task_train, "mine", experiment_name="mine")


WAYS: list[Callable[[list[dict[str, Any]]], Any]] = [
    one, halves, TrainerR("a"), DelayTrainerR("a"), TrainerRM("b"), DelayTrainerRM("c"), by_hand,
]  # fmt: skip


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "'train' too" in r.getMessage()]


@pytest.mark.parametrize(
    "way", WAYS, ids=["task_train", "two halves", *"TrainerR DelayTrainerR TrainerRM DelayTrainerRM".split(), "pool"]
)
def test_a_model_tested_on_what_it_was_fitted_to_is_named_once(
    way: Callable[[list[dict[str, Any]]], Any],
    session: Session,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every way of training, and again for the next set of tasks."""
    monkeypatch.setattr("rollforge.run.review._logged", set())
    with caplog.at_level(logging.WARNING):
        way([task(0.0), task(1.0), task(2.0)])
    (text,) = said(caplog)
    assert text.endswith(SAID)
    if isinstance(way, TrainerR | TrainerRM):
        assert text.startswith("In 3 of 3 tasks ")
    if way is not by_hand:
        caplog.clear()
        way([task(3.0), task(4.0)])
        assert len(said(caplog)) == 1


def test_segments_that_are_apart_are_not_named(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is reported, nor if there is no data folder that provides a calendar."""
    with caplog.at_level(logging.WARNING):
        TrainerR("a")([task(0.0, train=("2022-01-03", "2022-05-31"))])
        with using(Session(tracking_uri=session.tracking_uri)):
            task_train(task(0.0))
    assert said(caplog) == []


@pytest.mark.slow
def test_worker_processes_leave_it_to_the_trainer(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """There is one message in this process, and none in each worker process."""
    with caplog.at_level(logging.WARNING):
        TrainerR("a", jobs=2)([task(float(i)) for i in range(3)])
    assert len(said(caplog)) == 1
