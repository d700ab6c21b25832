"""The contents of the page of a task: its attempts, its segments as drawn, its definition as YAML."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rollforge.dashboard.drawing import WIDTH
from rollforge.dashboard.texts import duration, masked, masked_lines, worker_text
from rollforge.errors import ConfigError, counted, excerpt, outer_parts, printable
from rollforge.generate.segments import Segment, intervals
from rollforge.generate.task_view import TaskView
from rollforge.run.failures import error_line
from rollforge.run.importance import IMPORTANCE, importance_of, saved_importance
from rollforge.task import Attempt, Document, Ending, Status, TaskRecord, searchable, to_plain
from rollforge.transitions import MAX_ERROR_LENGTH

if TYPE_CHECKING:
    from rollforge.track.base import Recorder

__all__ = [
    "artifact_paths", "attempt_rows", "attempts_text", "definition_text", "drawn_segments", "importances", "is_last_error",
]  # fmt: skip

_KINDS = ("train", "valid", "test")
log = logging.getLogger(__name__)

MAX_FILES = 1000
FEATURES = 20
"""Number of features whose importance is shown."""
MAX_DEFINITION = 200_000
"""Maximum number of characters of a definition on a page."""


def attempts_text(task: TaskRecord, lost: bool) -> str:
    """Return how many attempts there were, and what follows."""
    failed = counted(task.attempt, "failed attempt")
    of = f" of at most {task.max_attempts}"
    if task.status is Status.RUNNING:
        number = f"Attempt {task.attempt + 1}{of}"
        if lost:
            return f"{number} was started, but its worker no longer renews its lease. Another may take it over."
        return f"{number} is running."
    if task.status is Status.FAILED:
        return f"The task has failed after {failed}{of}."
    if task.status is Status.PART_DONE:
        after = f", after {failed}{of}" if task.attempt else ""
        return f"The first stage is done. The second one waits for a worker{after}."
    if task.status is Status.DONE:
        return _done_text(task)
    if task.blocked:
        return "The task waits for others on which it depends."
    return f"The task waits for a worker, after {failed}{of}." if task.attempt else "The task waits for a worker."


def _done_text(task: TaskRecord) -> str:
    attempts = task.ended_attempts
    failed = sum(one.ending is Ending.FAILED for one in attempts)
    if failed:
        least = "at least " if attempts[0].number > 1 else ""
        return f"The task is done, after {least}{counted(failed, 'failed attempt')}."
    return "The task was done at the first attempt." if [one.number for one in attempts] == [1] else "The task is done."


_ENDINGS = {
    Ending.DONE: "done", Ending.PART_DONE: "first stage done", Ending.FAILED: "failed", Ending.RETURNED: "returned",
    Ending.RESET: "reset",
}  # fmt: skip


def attempt_rows(task: TaskRecord, runs: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the ended attempts at a task, the latest first.

    Parameters
    ----------
    task : TaskRecord
        The task with its history.
    runs : mapping
        Number of an attempt -> id of the run that it recorded.
    """
    attempts = task.ended_attempts
    return [
        {
            "number": one.number, "status": one.ending.value, "ending": _ENDINGS[one.ending],
            "cause": one.cause.value if one.cause else "", "worker": worker_text(one.worker or ""),
            "started_at": one.started_at, "took": "" if one.seconds is None else duration(one.seconds),
            "run": masked(runs.get(one.number, "")), "reason": excerpt(masked(error_line(one.error)), 400) if one.error else "",
            "error": masked_lines(task.error if is_last_error(task, one) and task.error else one.error or ""),
            "open": one is attempts[-1] and task.status is not Status.DONE,
        }
        for one in reversed(attempts)
    ]  # fmt: skip


def is_last_error(task: TaskRecord, attempt: Attempt) -> bool:
    """Return whether the error of a task is that of an attempt, with which a long one is not kept whole."""
    return task.error is not None and outer_parts(task.error, MAX_ERROR_LENGTH) == attempt.error


def definition_text(definition: Mapping[str, object]) -> str:
    """Return a definition as YAML, whose keys are in the order in which they were stored."""
    import yaml

    text = yaml.safe_dump(searchable(to_plain(dict(definition))), sort_keys=False, allow_unicode=True, width=110)
    return (
        text
        if len(text) <= MAX_DEFINITION
        else f"{text[:MAX_DEFINITION]}\n… ({len(text) - MAX_DEFINITION:,} more characters)"
    )


def artifact_paths(recorder: Recorder, folder: str = "") -> list[str]:
    """Return the paths of all artifacts of a run, also in folders."""
    found: list[str] = []
    for name in recorder.list_artifacts(folder or None)[:MAX_FILES]:
        inner = recorder.list_artifacts(name)
        found += artifact_paths(recorder, name) if inner and folder.count("/") < 3 else [name]
    return found[:MAX_FILES]


def importances(recorder: Recorder, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most important features of a run's model, with the widths of their bars; empty if the model has none.

    A run of an earlier version has not saved them. Its model is read under the rules for files of others: nothing that is not
    allowed is built.
    """
    if IMPORTANCE in names:
        found = saved_importance(recorder)
    elif "params.pkl" in names:
        try:
            series = importance_of(recorder.load_object("params.pkl")).get(IMPORTANCE)
        except Exception as exc:  # noqa: BLE001 - the library of a model; a page without this part is better than none
            log.info("the importance of features of run %s: %s", recorder.id, exc)
            return []
        found = {} if series is None else {str(name): float(value) for name, value in series.items()}
    else:
        return []
    pairs = sorted(((name, value) for name, value in found.items() if value > 0), key=lambda pair: -pair[1])[:FEATURES]
    most = max((value for _, value in pairs), default=1.0)
    return [
        {"name": excerpt(printable(name), 80), "width": round(200 * value / most, 1), "text": f"{value:,.4g}"}
        for name, value in pairs
    ]


def drawn_segments(definition: Document) -> list[dict[str, Any]]:
    """Return the segments of a task with their places on a common axis; empty if there are none or they are invalid.

    An open end is drawn to the last known day of all segments.
    """
    try:
        found: dict[str, tuple[Segment, ...]] = {
            str(name): intervals(str(name), segment) for name, segment in TaskView(definition).segments.items()
        }
    except (ConfigError, TypeError, ValueError):
        return []
    starts = [one.start for parts in found.values() for one in parts if one.start is not None]
    ends = [one.end for parts in found.values() for one in parts if one.end is not None]
    if not starts:
        return []
    low, high = min(starts), max([*starts, *ends])
    span = max(float((high - low) / np.timedelta64(1, "s")), 1.0)

    def at(day: np.datetime64) -> float:
        return float((day - low) / np.timedelta64(1, "s")) / span * WIDTH

    drawn = []
    order = sorted(found, key=lambda name: _KINDS.index(name) if name in _KINDS else len(_KINDS))
    for place, name in enumerate(order):
        parts = []
        for one in found[name]:
            x = at(one.start if one.start is not None else low)
            parts.append(
                {"x": round(x, 1), "width": round(max(2.0, at(one.end if one.end is not None else high) - x), 1)}
            )
        days = "; ".join(f"{_day(one.start)} to {_day(one.end)}" for one in found[name])
        drawn.append(
            {
                "name": excerpt(name, 40), "kind": name if name in _KINDS else "other", "parts": parts, "place": place,
                "days": excerpt(days, 400), "text": excerpt(f"{name}: {days}", 400),
            }
        )  # fmt: skip
    return drawn


def _day(day: np.datetime64 | None) -> str:
    return "the end" if day is None else str(day).removesuffix("T00:00:00")
