"""Look-ahead of labels, leaks between segments, and other properties of tasks that make results look too good."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollforge.errors import RollforgeError
from rollforge.generate.label import declared_days, task_labels
from rollforge.generate.label_horizon import task_horizon
from rollforge.generate.segments import Segment, bounds, next_pieces, pieces
from rollforge.generate.task_view import TaskView
from rollforge.market.provider import Days

__all__ = ["Leak", "describe_leaks", "label_lookahead", "leaking_segments", "task_warnings"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leak:
    """A segment whose labels reach into the next segment."""

    segment: str
    later: str
    days: int
    """Number of days at the end of the segment whose labels reach into the later segment."""


def describe_leaks(leaks: Sequence[Sequence[Leak]]) -> list[str]:
    """Return one sentence for each kind of leak, with the number of tasks that have it.

    Parameters
    ----------
    leaks : sequence
        Result of :func:`leaking_segments` for each task.

    Examples
    --------
    >>> describe_leaks([[Leak("train", "valid", 2)], [], [Leak("train", "valid", 2)]])
    ["In 2 of 3 tasks the labels of the last 2 days of 'train' reach into 'valid'. trunc_days: auto leaves them out."]
    """
    return _counted([[_leak_text(leak) for leak in found] for found in leaks])


def _leak_text(leak: Leak) -> str:
    days = "day" if leak.days == 1 else f"{leak.days} days"
    return (
        f"the labels of the last {days} of {leak.segment!r} reach into {leak.later!r}. "
        "trunc_days: auto leaves them out."
    )


def _counted(found: Sequence[Sequence[str]]) -> list[str]:
    """Return each distinct sentence with the number of tasks that it applies to."""
    counts = Counter(text for texts in found for text in dict.fromkeys(texts))
    if len(found) == 1:
        return [text[0].upper() + text[1:] for text in counts]
    return [f"In {number} of {len(found)} tasks {text}" for text, number in counts.items()]


def label_lookahead(task: Mapping[str, object]) -> int | None:
    """Return how many days the task's label looks ahead; None if it is unknown. See :func:`task_horizon`.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> label_lookahead({"dataset": {"kwargs": {"handler": handler}}})
    2
    """
    return task_horizon(task).days


def leaking_segments(task: Mapping[str, object], calendar: Days) -> list[Leak]:
    """Return the segments of a task whose labels reach into the next segment, except segments that share days.

    Parameters
    ----------
    task : mapping
        A task whose segments are those of one window.
    calendar : array of datetime64[D]
        The trading days.
    """
    return _leaks(pieces(TaskView(task).segments), calendar, label_lookahead(task) or 0)


_Places = dict[str, list[tuple[int, int]]]
"""Segment -> half-open ranges of the positions of its intervals in the calendar, in chronological order."""


def _places(sequence: Sequence[tuple[str, Segment]], calendar: Days) -> _Places:
    places: _Places = {}
    for name, interval in sequence:
        places.setdefault(name, []).append(interval.positions(calendar))
    return places


def _leaks(sequence: Sequence[tuple[str, Segment]], calendar: Days, ahead: int) -> list[Leak]:
    found: list[Leak] = []
    if not ahead:
        return found
    for earlier, following in next_pieces(sequence):
        (name, interval), (later, next_interval) = sequence[earlier], sequence[following]
        (first, stop), (start, _) = interval.positions(calendar), next_interval.positions(calendar)
        reaching = min(ahead - (start - stop), stop - first)
        if reaching > 0:
            found.append(Leak(name, later, reaching))
    return found


def task_warnings(tasks: Sequence[Mapping[str, object]], calendar: Days, label_days: int | None = None) -> list[str]:
    """Return warnings about a set of tasks whose results may be misleading, one sentence each.

    Reports segments that share days, labels that reach into a later segment, processors that learn from tested days,
    and labels that span an unknown number of days. An invalid task is skipped; its error is reported when it is built.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions.
    calendar : array of datetime64[D]
        The trading days.
    label_days : int, optional
        Number of trading days that a label spans, as declared by the user.

    Examples
    --------
    >>> segments = {"train": ("2020-01-01", "2020-12-31"), "test": ("2020-12-01", "2021-12-31")}
    >>> import numpy as np
    >>> days = np.arange("2019-01-01", "2022-01-01", dtype="datetime64[D]")
    >>> task_warnings([{"dataset": {"kwargs": {"segments": segments}}}], days)
    ["31 of 396 days of 'test' are in 'train' too: the model is tested on days to which it was fitted."]
    """
    labels: dict[str, tuple[int | None, list[str]]] = {}
    found = []
    for task in tasks:
        texts: list[str] = []
        try:
            handler = TaskView(task).described_handler
            key = repr(_timeless(handler))
            if key not in labels:  # all windows of a model have the same label
                labels[key] = label_lookahead(task), _label_texts(task, label_days)
            ahead, label_texts = labels[key]
            sequence = pieces(TaskView(task).segments)
            places = _places(sequence, calendar)
            texts += _shared_days(places)
            texts += _fit_beyond(handler, places, calendar)
            texts += label_texts
            texts += [_leak_text(leak) for leak in _leaks(sequence, calendar, ahead or 0)]
        except RollforgeError as exc:
            log.debug("a task was not checked: %s", exc)
        found.append(texts)
    return _counted(found)


def _timeless(handler: Mapping[str, object]) -> Mapping[str, object]:
    """Return a handler's description without its range and fit window, which differ between windows."""
    kwargs = handler.get("kwargs")
    if not isinstance(kwargs, Mapping):
        return handler
    return {**handler, "kwargs": {k: v for k, v in kwargs.items() if not str(k).endswith("_time")}}


def _shared_days(places: _Places) -> list[str]:
    """Return sentences about test days that are also in the train or valid segment."""
    texts = []
    other = [name for name in places if name != "train" and "train" in name.lower()]
    for later, earlier, why in (
        ("test", "train", "the model is tested on days to which it was fitted"),
        *(("test", name, "the model is tested on days to which it was fitted before") for name in other),
        ("test", "valid", "the model is tested on days that determined when its fitting stopped"),
        ("valid", "train", "the days that stop the fitting are days to which the model is fitted"),
    ):
        if later in places and earlier in places:
            shared, days = _shared(places[later], places[earlier]), sum(stop - first for first, stop in places[later])
            if shared > 0:
                verb = "is" if shared == 1 else "are"
                texts.append(f"{shared} of {days} days of {later!r} {verb} in {earlier!r} too: {why}.")
    return texts


def _shared(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> int:
    """Return the number of positions that are in both of two sets of ranges."""
    return sum(max(0, min(stop, end) - max(first, start)) for first, stop in some for start, end in others)


def _fit_beyond(handler: Mapping[str, object], places: _Places, calendar: Days) -> list[str]:
    """Return sentences about processors whose fit window reaches into the test segment.

    Where the train segment has days after the test segment, the fit window may be within one of its intervals.
    """
    kwargs = handler.get("kwargs")
    end = kwargs.get("fit_end_time") if isinstance(kwargs, Mapping) else None
    if not isinstance(kwargs, Mapping) or end is None or "test" not in places or places["test"][0][0] >= len(calendar):
        return []
    start, last = calendar[places["test"][0][0]], bounds("fit", (None, end))[1]
    if last is None or last < start:
        return []
    if kwargs.get("fit_start_time") is not None:
        fitted = bounds("fit", (kwargs["fit_start_time"], end)).positions(calendar)
        if any(first <= fitted[0] and fitted[1] <= stop for first, stop in places.get("train", ())):
            return []
    return [
        f"processors learn until {last}, but the test segment starts on {start}. Set fit_end_time to an earlier day."
    ]


def _label_texts(task: Mapping[str, object], declared: int | None) -> list[str]:
    handler, texts = TaskView(task).described_handler, []
    declared = declared_days(handler) or declared
    for label in task_labels(task):
        if label.days is None and declared is None:
            texts.append(
                f"the number of days that the label {label.expression} spans cannot be determined, so its "
                "returns are not annualised. Set label_days in the workflow or the handler."
            )
        elif declared is not None and label.days is not None and declared != label.days:
            texts.append(
                f"the label {label.expression} spans {label.days} days, so {label.days} is used instead of the "
                f"declared label_days: {declared}."
            )
    return texts
