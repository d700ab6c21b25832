"""The imports of a worker process before its first task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert done.stdout.strip() == "True", done.stderr
