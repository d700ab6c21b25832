"""The updating process of Qlib's earlier documentation; ``tests/compat`` runs a script with the names of its module."""

from __future__ import annotations

import pytest

from growing import DAYS, Market, days_of, recorders, start_of, template
from rollforge.errors import ConfigError, ExperimentNotFound
from rollforge.generate.base import task_generator
from rollforge.generate.rolling import RollingGen
from rollforge.online.model_updater import ModelUpdater
from rollforge.run.execute import task_train
from rollforge.run.worker import run_task
from rollforge.store.manager import TaskManager


def train(tasks: list[dict[str, object]]) -> None:
    """Store tasks and run them."""
    TaskManager("updated").create_task(tasks)
    run_task(task_train, "updated", experiment_name="updated")


def test_models_are_updated_and_retrained(market: Market) -> None:
    """Train, put the latest online, predict new days, and train the windows that follow when one is out of date."""
    market.show(DAYS[61])
    generator = RollingGen(step=4, rtype="sliding")
    train(task_generator(template(), generator))
    updater = ModelUpdater("updated")
    updater.reset_online_model(updater.collect_latest_records().values())
    (online,) = updater.list_online_model().values()
    assert start_of(online) == DAYS[60]
    market.show(DAYS[66])
    assert updater.update_online_pred() == 1
    assert days_of(online.load_object("pred.pkl")) == DAYS[60:67]
    train(list(generator.gen_following_tasks(online.load_object("task"), DAYS[66])))
    updater.reset_online_model(list(updater.collect_latest_records()))
    assert [start_of(r) for r in updater.list_online_model().values()] == [DAYS[64]]
    assert updater.update_all_pred(lambda recorder: recorder.id != online.id) == 3
    assert all(start_of(r) in {DAYS[i] for i in (52, 56, 60, 64)} for r in recorders("updated"))


def test_single_models_are_set_and_cancelled(market: Market) -> None:
    """Models are given by id or by recorder; an empty list or an unknown experiment is an error."""
    market.show(DAYS[53])
    train(task_generator(template(), RollingGen(step=4, rtype="sliding")))
    updater = ModelUpdater("updated")
    (recorder,) = recorders("updated")
    updater.set_online_model(recorder.id)
    assert list(updater.list_online_model()) == [recorder.id]
    with pytest.raises(ConfigError, match="no recorder"):
        updater.reset_online_model([])
    updater.update_pred(recorder.id)
    updater.cancel_online_model(recorder)
    assert updater.list_online_model() == {}
    updater.set_online_model(recorder)
    updater.cancel_all_online_model()
    assert updater.list_online_model() == {}
    with pytest.raises(ExperimentNotFound):
        ModelUpdater("update")
