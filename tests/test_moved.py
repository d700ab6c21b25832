"""What was stored while modules had other names is opened as before: pools, runs, files of objects, cached panels, scripts."""

from __future__ import annotations

import importlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge import TaskManager
from rollforge.errors import UntrustedPickle
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.panel import Panel
from rollforge.features.panel_cache import list_panels
from rollforge.features.processor import Fillna
from rollforge.market.demo import make_demo
from rollforge.models.linear import LinearModel
from rollforge.moved import MOVED, MOVED_NAMES, current_name
from rollforge.run.execute import task_train
from rollforge.run.worker import run_task
from rollforge.safe_pickle import find_class
from rollforge.store.codec import decode_definition
from rollforge.task import Status
from rollforge.track.base import get_experiment, open_tracker

STORED = Path(__file__).parent / "golden" / "before_rooms"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of what the earlier version left, and the market that it was made with as the session's data."""
    folder = tmp_path / "earlier"
    shutil.copytree(STORED, folder)
    make_demo(tmp_path / "market", instruments=5, years=1, end="2023-12-29")
    rollforge.init(
        tmp_path / "market", store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"folder:{folder}/runs",
        cache=folder / "cache", threads=1,
    )  # fmt: skip
    return folder


def test_a_pool_is_read_and_worked_on(stored: Path) -> None:
    """Its definitions name modules by their earlier names; the task that waited is trained."""
    manager = TaskManager("earlier")
    found = {task["status"]: task["def"] for task in manager.query()}
    assert found["waiting"]["dataset"]["module_path"] == "rollforge.data.dataset"
    run_task(task_train, "earlier", experiment_name="later")
    assert manager.task_stat() == {Status.DONE: 2}


def test_a_run_is_loaded(stored: Path) -> None:
    """The objects that it keeps are those of today's classes."""
    (recorder,) = (
        get_experiment(open_tracker(f"folder:{stored}/runs"), experiment_name="earlier").list_recorders().values()
    )
    assert isinstance(recorder.load_object("params.pkl"), LinearModel)
    assert type(recorder.load_object("dataset")) is DatasetH
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), pd.read_parquet(stored / "prediction.parquet"))


def test_files_of_objects_answer_as_then(stored: Path) -> None:
    """A model and a dataset of that time make the prediction of that time."""
    model, dataset = LinearModel.load(stored / "model.pkl"), DatasetH.load(stored / "dataset.pkl")
    assert type(DataHandlerLP.load(stored / "handler.pkl")) is DataHandlerLP
    made = model.predict(dataset).to_frame("score")
    pd.testing.assert_frame_equal(made, pd.read_parquet(stored / "prediction.parquet"))


def test_a_cached_panel_is_read(stored: Path) -> None:
    """Its columns have their names and values."""
    (listed,) = list_panels(stored / "cache")
    panel = Panel.load(stored / "cache" / "panels" / listed.key)
    assert panel is not None
    feature = panel.groups["feature"]
    assert feature.names == ("RET", "RANGE")
    assert np.isfinite(feature.values).mean() > 0.9


@pytest.mark.parametrize("module", sorted(MOVED))
def test_an_earlier_name_is_the_module_of_today(module: str) -> None:
    assert importlib.import_module(module) is importlib.import_module(MOVED[module])
    found = importlib.import_module(MOVED[module])
    assert (found.__name__, getattr(found.__spec__, "name", "")) == (MOVED[module], MOVED[module])


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in MOVED_NAMES.items() for n in names])
def test_an_earlier_place_of_a_name_is_the_object_of_today(module: str, name: str) -> None:
    """By import and by a pickle that names it."""
    found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(MOVED_NAMES[module][name]), name)
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is found
    assert current_name(module, name) == found.__module__


@pytest.mark.parametrize("module", sorted(MOVED_NAMES))
def test_a_name_that_a_module_never_had_is_an_error(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(importlib.import_module(module), "no_such_name")  # noqa: B009 - not in its types


def test_a_reference_of_a_task_is_the_class_of_today() -> None:
    assert decode_definition('{"x":{"$ref":"rollforge.data.processor:Fillna"}}') == {"x": Fillna}


def test_a_script_may_import_the_earlier_name_first() -> None:
    """Whichever name comes first, there is one module."""
    program = (
        "from rollforge.data.importer import import_table\n"
        "import rollforge.data.handler, rollforge.features.handler, rollforge.market.importer\n"
        "assert rollforge.market.importer.import_table is import_table\n"
        "print(rollforge.data.handler is rollforge.features.handler)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_names_that_never_moved_stay() -> None:
    assert current_name("my.module") == "my.module"


def test_an_earlier_name_opens_no_other_class_to_pickles() -> None:
    """The list of what may be loaded is that of today's names."""
    assert find_class("rollforge.data.handler", "DataHandlerLP") is DataHandlerLP
    with pytest.raises(UntrustedPickle):
        find_class("rollforge.data.universe", "UniverseSummary")


def test_a_relative_cache_stays_where_it_was(
    tmp_path: Path, small_market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel is written into a folder that is named relative to the folder of work, and found after that has changed."""
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
