"""Pools, runs, pickles and cached panels stored with earlier module names can be opened, and scripts run."""

from __future__ import annotations

import importlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge import TaskManager
from rollforge.collect.task_collector import TaskCollector
from rollforge.errors import UntrustedPickle
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.panel import Panel
from rollforge.features.panel_cache import list_panels
from rollforge.features.processor import Fillna
from rollforge.generate.rolling import RollingGen
from rollforge.market.demo import make_demo
from rollforge.models.linear import LinearModel
from rollforge.moved import MOVED, MOVED_NAMES, current_name
from rollforge.online.strategy import OnlineStrategy, RollingStrategy
from rollforge.online.tool import OnlineToolR
from rollforge.run.execute import task_train
from rollforge.run.pool_trainer import TrainerRM
from rollforge.run.worker import run_task
from rollforge.safe_pickle import find_class
from rollforge.store.codec import decode_definition
from rollforge.task import Status
from rollforge.track.base import get_experiment, open_tracker

STORED = Path(__file__).parent / "golden" / "before_rooms"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of files made by an earlier version; the session uses the same market."""
    folder = tmp_path / "earlier"
    shutil.copytree(STORED, folder)
    make_demo(tmp_path / "market", instruments=5, years=1, end="2023-12-29")
    rollforge.init(
        tmp_path / "market", store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"folder:{folder}/runs",
        cache=folder / "cache", threads=1,
    )  # fmt: skip
    return folder


def test_an_earlier_pool_is_read_and_run(stored: Path) -> None:
    """The definitions of an earlier pool contain earlier module names; the waiting task is trained."""
    manager = TaskManager("earlier")
    found = {task["status"]: task["def"] for task in manager.query()}
    assert found["waiting"]["dataset"]["module_path"] == "rollforge.data.dataset"
    run_task(task_train, "earlier", experiment_name="later")
    assert manager.task_stat() == {Status.DONE: 2}


def test_an_earlier_run_is_loaded(stored: Path) -> None:
    """The objects of an earlier run are instances of the current classes."""
    (recorder,) = (
        get_experiment(open_tracker(f"folder:{stored}/runs"), experiment_name="earlier").list_recorders().values()
    )
    assert isinstance(recorder.load_object("params.pkl"), LinearModel)
    assert type(recorder.load_object("dataset")) is DatasetH
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), pd.read_parquet(stored / "prediction.parquet"))


def test_earlier_pickles_give_the_same_results(stored: Path) -> None:
    """The model and the dataset give the same prediction as then."""
    model, dataset = LinearModel.load(stored / "model.pkl"), DatasetH.load(stored / "dataset.pkl")
    assert type(DataHandlerLP.load(stored / "handler.pkl")) is DataHandlerLP
    made = model.predict(dataset).to_frame("score")
    pd.testing.assert_frame_equal(made, pd.read_parquet(stored / "prediction.parquet"))


def test_an_earlier_cached_panel_is_read(stored: Path) -> None:
    """The columns of an earlier panel have the right names and values."""
    (listed,) = list_panels(stored / "cache")
    panel = Panel.load(stored / "cache" / "panels" / listed.key)
    assert panel is not None
    feature = panel.groups["feature"]
    assert feature.names == ("RET", "RANGE")
    assert np.isfinite(feature.values).mean() > 0.9


@pytest.mark.parametrize("module", sorted(MOVED))
def test_an_earlier_module_name_is_the_current_module(module: str) -> None:
    assert importlib.import_module(module) is importlib.import_module(MOVED[module])
    found = importlib.import_module(MOVED[module])
    assert (found.__name__, getattr(found.__spec__, "name", "")) == (MOVED[module], MOVED[module])


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in MOVED_NAMES.items() for n in names])
def test_an_earlier_location_of_a_name_is_the_current_object(module: str, name: str) -> None:
    """The earlier location of a name works in an import, and in a pickle."""
    found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(MOVED_NAMES[module][name]), name)
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is found
    assert current_name(module, name) == found.__module__


@pytest.mark.parametrize("module", sorted(MOVED_NAMES))
def test_an_unknown_name_in_a_moved_module_is_an_error(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(importlib.import_module(module), "no_such_name")  # noqa: B009 - not in its types


def test_a_reference_in_a_task_is_the_current_class() -> None:
    assert decode_definition('{"x":{"$ref":"rollforge.data.processor:Fillna"}}') == {"x": Fillna}


def test_earlier_and_current_names_are_the_same_module() -> None:
    """There is one module, whichever name is imported first."""
    program = (
        "from rollforge.data.importer import import_table\n"
        "import rollforge.data.handler, rollforge.features.handler, rollforge.market.importer\n"
        "assert rollforge.market.importer.import_table is import_table\n"
        "print(rollforge.data.handler is rollforge.features.handler)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_names_that_were_not_moved_are_unchanged() -> None:
    assert current_name("my.module") == "my.module"


def test_earlier_names_allow_no_other_classes_in_pickles() -> None:
    """The list of classes that may be loaded contains current names only."""
    assert find_class("rollforge.data.handler", "DataHandlerLP") is DataHandlerLP
    with pytest.raises(UntrustedPickle):
        find_class("rollforge.data.universe", "UniverseSummary")


def test_a_relative_cache_folder_does_not_move(
    tmp_path: Path, small_market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache folder given by a relative path does not move when the working directory changes."""
    monkeypatch.chdir(tmp_path)
    session = rollforge.init(small_market, cache="cache", threads=1)
    fields = {"feature": [["$close"], ["CLOSE"]]}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": fields}}
    handler = DataHandlerLP("all", "2023-01-03", "2023-03-31", loader)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert len(handler.fetch())
    assert session.cache == str(tmp_path / "cache")
    assert list_panels(tmp_path / "cache")


@pytest.mark.parametrize(
    ("thing", "earlier", "current"),
    [
        (OnlineStrategy("online"), ["name_id"], "experiment_name"),
        (
            RollingStrategy("online", {"dataset": {}}, RollingGen(step=20, calendar=["2020-01-01"])),
            ["name_id", "exp_name"],
            "experiment_name",
        ),
        (OnlineToolR("online"), ["default_exp_name"], "experiment_name"),
        (TrainerRM("e", "online"), ["task_pool"], "pool"),
        (TaskCollector("online"), ["exp_name"], "experiment_name"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (str, list)) else None,
)
def test_attributes_under_earlier_names_are_restored(thing: Any, earlier: list[str], current: str) -> None:
    """Pickles of earlier versions and scripts written for Qlib use them; the value has one place."""
    state = dict(vars(thing))
    value = state.pop(current)
    restored = type(thing).__new__(type(thing))
    restored.__setstate__({**state, **dict.fromkeys(earlier, value)})
    assert vars(restored).keys() == vars(thing).keys()
    for name in (*earlier, current):
        assert getattr(restored, name) == "online"
        setattr(restored, name, name)
        assert getattr(restored, current) == name
        setattr(restored, current, "online")
    assert getattr(pickle.loads(pickle.dumps(restored)), current) == "online"
