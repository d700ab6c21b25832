"""The imports of a worker process before its first task."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _new_machine(_own_places: None) -> None:
    """The cache is empty: no database of MLflow has been created before."""
    shutil.rmtree(os.environ["ROLLFORGE_CACHE"])


PRELOADED = """
import gc, sys
from rollforge.run.execute import preload
from rollforge.session import Session, using

with using(Session(tracking_uri={uri!r})):
    preload([{model}])
print(gc.isenabled(), *(name in sys.modules for name in ("lightgbm", "mlflow.store.tracking.sqlalchemy_store")))
"""


@pytest.mark.parametrize(
    ("model", "tracking", "imported"),
    [
        ({"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt"}, "sqlite:///{}/runs.db", "True True"),
        ({"class": "LinearModel", "module_path": "rollforge.models"}, "folder:{}", "False False"),
        ({"class": "LGBModel", "module_path": "no_such_module"}, "folder:{}", "False False"),
    ],
    ids=["LightGBM", "linear", "unknown"],
)
def test_the_libraries_of_model_and_tracker_are_imported_first(
    model: dict[str, str], tracking: str, imported: str, tmp_path: Path
) -> None:
    """The first task does not wait for them. Garbage is collected again afterwards."""
    code = PRELOADED.format(uri=tracking.format(tmp_path), model=model)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"True {imported}", done.stderr
    assert not any(tmp_path.iterdir())  # nothing was opened


def test_a_known_database_needs_no_import_of_mlflow(tmp_path: Path) -> None:
    """In the first process, MLflow itself creates a database; later ones, also in other files, are like it."""
    code = """
import sys
from rollforge import R
from rollforge.run.execute import preload
from rollforge.session import Session, using
from rollforge.track.base import get_experiment, open_tracker

with using(Session(tracking_uri=sys.argv[1])):
    preload()
    with R.start(experiment_name="e", recorder_name="first"):
        R.log_params(lr=0.1)
        R.log_metrics(ic=0.5)
        R.set_tags(desk="equities")
        R.save_objects(**{"a.pkl": [1, 2]})
    experiment = get_experiment(open_tracker(sys.argv[1]), experiment_name="e")
    (found,) = experiment.list_recorders().values()
    print(found.status, found.list_params(), found.list_metrics()["ic"], found.load_object("a.pkl"))
    print("mlflow" in sys.modules)
"""
    for name, imported in (("first", "True"), ("second", "False")):
        uri = f"sqlite:///{tmp_path}/{name}/runs.db"
        done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == ["FINISHED {'lr': '0.1'} 0.5 [1, 2]", imported], done.stderr


def test_a_store_in_a_database_is_imported_before_its_lock(tmp_path: Path) -> None:
    """Processes that start together would otherwise import MLflow's store one after the other."""
    code = f"""
import sys
from rollforge.track.mlflow import connection
real = connection.locked
def locked(path):
    print("mlflow.store.tracking.sqlalchemy_store" in sys.modules)
    return real(path)
connection.locked = locked
connection.Connection("sqlite:///{tmp_path}/runs.db").open()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == {"True"}, done.stderr
