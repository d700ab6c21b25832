"""Tasks and runs, as in ``qlib.workflow.task.utils``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollforge.errors import ConfigError
from rollforge.session import current_session
from rollforge.store.base import open_store
from rollforge.task import Definition
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker

__all__ = ["get_mongodb", "list_recorders", "replace_task_handler_with_cache"]


def get_mongodb() -> Any:
    """Return the MongoDB database of the task store.

    Raises
    ------
    ConfigError
        If tasks are stored in another kind of store.
    """
    store = open_store(current_session().store_uri)
    database = getattr(store, "_database", None)
    if database is None:
        raise ConfigError(
            "The task store is not MongoDB. Choose MongoDB with qlib.init(mongo={'task_url': …, "
            "'task_db_name': …}), or use TaskManager, which works with every store.",
            path="mongo",
        )
    return database


def list_recorders(
    experiment: str | Experiment, rec_filter_func: Callable[[Recorder], bool] | None = None
) -> dict[str, Recorder]:
    """Return the recorders of an experiment for which the function is true, by id."""
    if isinstance(experiment, str):
        experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name=experiment)
    found: dict[str, Recorder] = experiment.list_recorders()
    return {k: r for k, r in found.items() if rec_filter_func is None or rec_filter_func(r)}


def replace_task_handler_with_cache(task: Definition, cache_dir: str | Path = ".") -> Definition:
    """Return the task unchanged, because the panel cache stores the features of every handler anyway."""
    return task
