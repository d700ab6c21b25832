"""A database of MLflow, made once: making one takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.track.base import open_tracker


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty database that MLflowTracker makes."""
    folder = tmp_path_factory.mktemp("mlflow")
    open_tracker(f"sqlite:///{folder}/mlflow.db").prepare()
    return folder / "mlflow.db"
