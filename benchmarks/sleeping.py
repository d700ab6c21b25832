"""A model whose fit sleeps, and everything that a process imports to train it, for processes that are forked from one."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import rollforge.features.handler
import rollforge.record.signal
import rollforge.track.frame  # noqa: F401
from rollforge.errors import MissingDependency
from rollforge.features.dataset import Dataset
from rollforge.models.base import Reweighter
from rollforge.models.constant import ConstantModel
from rollforge.run import worker_main
from rollforge.run.execute import preload
from rollforge.session import current_session
from rollforge.track.base import open_tracker
from rollforge.track.mlflow.library import import_mlflow

with contextlib.suppress(MissingDependency):
    import_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

worker_main._die_with_parent = lambda: None  # the parent of these processes is the one that they are forked from


def open_everything() -> None:
    """Prepare a process for tasks, with its connection to the tracking store."""
    preload()
    open_tracker(current_session().tracking_uri).prepare()


class SleepingModel(ConstantModel):
    """A model whose fit sleeps.

    It writes a line to a file of its process: the beginning and the end of the fit, and the processor time used until then.
    """

    def __init__(self, seconds: float, notes: str) -> None:
        super().__init__()
        self.seconds = seconds
        self.notes = notes

    def fit(self, dataset: Dataset, reweighter: Reweighter | None = None) -> None:
        """Sleep."""
        began = time.monotonic()
        time.sleep(self.seconds)
        with (Path(self.notes) / str(os.getpid())).open("a") as file:
            file.write(json.dumps([began, time.monotonic(), time.process_time()]) + "\n")
