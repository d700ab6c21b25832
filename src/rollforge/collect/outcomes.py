"""The tasks of a pool with the recorders of their results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollforge.errors import (
    ArtifactUnreadable,
    ConfigError,
    RecorderNotFound,
    RecorderUnreachable,
    TaskNotSerializable,
    TrackingError,
    TrainingFailed,
    UntrustedPickle,
)
from rollforge.generate.segments import bounds
from rollforge.generate.task_view import TaskView
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.task import Status, TaskRecord
from rollforge.track.base import open_tracker
from rollforge.track.pool_references import describe_unreachable_runs

if TYPE_CHECKING:
    import numpy as np

    from rollforge.store.base import TaskStore
    from rollforge.track.base import Recorder


__all__ = ["TaskOutcome", "outcomes", "unreachable_runs", "with_windows", "without_superseded"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """A task of the pool, and the recorder of its result, if any."""

    task: TaskRecord
    recorder: Recorder | None
    model: str = ""
    """Name of the task's model, unique within the experiment; empty for a single unnamed model."""


def outcomes(session: Session, pool: str, ids: Sequence[str] | None = None) -> tuple[TaskOutcome, ...]:
    """Return the tasks of a pool with their recorders, in the order of `ids` or else of creation."""
    from rollforge.generate.naming import model_names

    query = {} if ids is None else {"_id": {"$in": list(ids)}}
    records = _readable(open_store(session.store_uri), pool, query)
    if ids is not None:
        order = {task_id: i for i, task_id in enumerate(ids)}
        records.sort(key=lambda r: order[r.id])
    names = model_names([r.definition for r in records], [r.model_name for r in records])
    with using(session):
        return tuple(TaskOutcome(r, _recorder_of(r, session), name) for r, name in zip(records, names, strict=True))


def _readable(store: TaskStore, pool: str, query: Mapping[str, object]) -> list[TaskRecord]:
    """Return the tasks of a pool; a task with a damaged result is returned without it."""
    try:
        return list(store.query(pool, query))
    except (ArtifactUnreadable, UntrustedPickle):
        records = []
        for task in store.query(pool, query, results=False):
            try:
                records.append(store.get(pool, task.id))
            except (ArtifactUnreadable, UntrustedPickle) as exc:
                log.warning("%s It is omitted.", exc)
                records.append(task)
        return records


def _recorder_of(task: TaskRecord, session: Session) -> Recorder | None:
    """Return the recorder of a finished task, or None.

    There is none if the task was set to done manually, if its function returned something else, if its run is on
    another machine, or if its result, which others may have written, does not refer to a run. The coverage check lists
    its window.
    """
    from rollforge.run.references import recorder_of

    try:
        if task.status is not Status.DONE:
            return None
        recorder = recorder_of(task.result)
        recorder.read()  # a reference need not exist
        return recorder
    except (TrainingFailed, RecorderUnreachable):
        return None
    except (ConfigError, TrackingError) as exc:
        kept = task.result.get("recorder") if isinstance(task.result, Mapping) else None
        if isinstance(kept, Mapping) and _is_away(session, kept.get("tracking"), exc):
            raise
        log.warning("Task %s is omitted, because its result does not refer to a readable run: %s", task.id, exc)
        return None


def _is_away(session: Session, kept_uri: object, exc: Exception) -> bool:
    """Return whether an error concerns the session's tracking store as a whole and not a single run."""
    tracking_uri = getattr(open_tracker(session.tracking_uri), "uri", session.tracking_uri)
    return kept_uri in (tracking_uri, session.tracking_uri) and not isinstance(exc, RecorderNotFound)


def unreachable_runs(session: Session, pool: str, known: Sequence[TaskOutcome]) -> str:
    """Describe the location of the runs that this machine does not have; empty if it has all of them."""
    lacking = any(o.recorder is None and o.task.status is Status.DONE for o in known)
    return describe_unreachable_runs(session, pool) if lacking else ""


def with_windows(known: tuple[TaskOutcome, ...]) -> tuple[tuple[TaskOutcome, ...], list[str]]:
    """Return the tasks whose definitions have segments, and the errors of the other tasks in the pool.

    Raises
    ------
    ConfigError
        If no task has segments.
    """
    fitting, damaged = [], []
    for outcome in known:
        try:
            for name, segment in TaskView(outcome.task.definition).segments.items():
                bounds(name, segment)
            fitting.append(outcome)
        except ConfigError as exc:
            damaged.append((outcome.task.id, exc))
    if damaged and not fitting:
        raise damaged[0][1]
    return tuple(fitting), [
        f"task {task_id} is omitted, because its definition is damaged: {exc}" for task_id, exc in damaged
    ]


def without_superseded(known: Sequence[TaskOutcome]) -> tuple[TaskOutcome, ...]:
    """Return the tasks without those whose window was predicted again with more days.

    An open-ended test segment ends on the last day of the data, so each update of the data creates a new task. It
    supersedes the earlier one if it is done and differs only in a later last day of the test segment.

    Parameters
    ----------
    known : sequence of TaskOutcome
        Tasks with segments, see :func:`with_windows`.
    """
    latest: dict[str, np.datetime64] = {}
    windows = [_window(outcome) for outcome in known]
    for outcome, (window, end) in zip(known, windows, strict=True):
        if window and end is not None and outcome.recorder is not None:
            latest[window] = max(latest.get(window, end), end)
    return tuple(
        outcome
        for outcome, (window, end) in zip(known, windows, strict=True)
        if not window or end is None or window not in latest or end >= latest[window]
    )


def _window(outcome: TaskOutcome) -> tuple[str, np.datetime64 | None]:
    """Return a key shared by a window and its longer versions, and its last day; the key is empty if there can be
    none."""
    from rollforge.generate.naming import variant

    definition = outcome.task.definition
    segments = {name: bounds(name, segment) for name, segment in TaskView(definition).segments.items()}
    if "test" not in segments:
        return "", None
    test = segments.pop("test")
    try:
        others = sorted((name, str(segment)) for name, segment in segments.items())
        return f"{variant(definition)} {outcome.model} {others} {test.start}", test.end
    except TaskNotSerializable:
        return "", None
