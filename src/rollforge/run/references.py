"""Results of tasks as a pool keeps them: a recorder as a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollforge.errors import RollforgeError, TrainingFailed
from rollforge.task import digest
from rollforge.track.base import Recorder
from rollforge.track.pool_references import open_pool_reference, pool_reference

__all__ = ["from_reference", "is_of_task", "recorder_of", "to_reference"]


def is_of_task(result: object, task_id: str) -> bool:
    """Return whether the result of a first stage is a recorder whose task has this id.

    A pool stores the result of a stage separately from the definition, and the id is the digest of the definition only.
    """
    if not isinstance(result, Recorder):
        return False
    try:
        return digest(result.load_object("task")) == task_id
    except RollforgeError:  # missing or unreadable: the second stage raises the error
        return False


def to_reference(result: object) -> object:
    """Return the form of a task's result that the store keeps: a reference for a recorder, else the result itself."""
    return {"recorder": pool_reference(result)} if isinstance(result, Recorder) else result


def from_reference(kept: object) -> Any:
    """Return the result that :func:`to_reference` converted."""
    if isinstance(kept, Mapping) and set(kept) == {"recorder"} and isinstance(kept["recorder"], Mapping):
        return open_pool_reference(kept["recorder"])
    return kept


def recorder_of(result: object) -> Recorder:
    """Return the recorder to which a task's committed result refers.

    Raises
    ------
    TrainingFailed
        If the task's function did not return a recorder.
    """
    found = from_reference(result)
    if isinstance(found, Recorder):
        return found
    raise TrainingFailed(
        f"The result of the task is not a recorder but a {type(result).__name__}. Its train_func must return a recorder."
    )
