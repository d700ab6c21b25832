"""Find and change the backtests among a task's records, from their descriptions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import read_day
from rollforge.generate.segments import Segment, bounds, has_intervals, intervals
from rollforge.generate.task_view import TaskView
from rollforge.task import Definition, Document

__all__ = [
    "BACKTEST_IS_DAILY", "backtest_of", "backtest_warnings", "first_hole", "has_backtest", "is_backtest", "move_backtests",
    "with_backtest",
]  # fmt: skip

Days = NDArray[np.datetime64]

_RECORDS = ("PortAnaRecord", "MultiPassPortAnaRecord")
_DATES = ("start_time", "end_time")


def backtest_of(record: object) -> Document | None:
    """Return the ``config.backtest`` mapping of a record's description; None if the record is not a backtest.

    Examples
    --------
    >>> backtest_of({"class": "PortAnaRecord", "kwargs": {"config": {"strategy": {}, "backtest": {"account": 1}}}})
    {'account': 1}
    """
    found = (backtest_config(record) or {}).get("backtest")
    return found if isinstance(found, Mapping) else None


def backtest_config(record: object) -> Document | None:
    """Return the ``config`` of a backtest record (strategy, executor, backtest); None for other records."""
    found: object = record if is_backtest(record) else None
    for key in ("kwargs", "config"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def is_backtest(record: object) -> bool:
    """Return whether a description is that of a backtest record."""
    named = record if isinstance(record, str) else record.get("class", "") if isinstance(record, Mapping) else ""
    return str(named).rpartition(".")[2] in _RECORDS


def with_backtest(record: Any, options: Document) -> Definition:
    """Return a copy of a record's description with other options under ``config.backtest``."""
    kwargs = record["kwargs"]
    return {**record, "kwargs": {**kwargs, "config": {**kwargs["config"], "backtest": dict(options)}}}


def move_backtests(task: Mapping[str, object], test_key: str = "test") -> Any:
    """Return a task's records with the days of each backtest clipped to the test segment.

    A start or end outside the segment becomes None, which means the days of the prediction and the one after them; a
    start or end inside the segment is kept. References such as ``<dataset.kwargs.segments.test.0>`` need no change.
    """
    records = task.get("record")
    listed = TaskView(task).records
    first, last = bounds(test_key, TaskView(task).segments[test_key])
    for i, record in enumerate(listed):
        options = backtest_of(record)
        if options is None:
            continue
        start, end = (_day(options.get(name)) for name in _DATES)
        outside = (start is not None and last is not None and start > last) or (
            end is not None and first is not None and end < first
        )
        changed = dict(options)
        if start is not None and (outside or first is None or start <= first):
            changed["start_time"] = None
        if end is not None and (outside or last is None or end >= last):
            changed["end_time"] = None
        listed[i] = with_backtest(record, changed)
    return listed[0] if isinstance(records, (str, Mapping)) else listed


def _day(value: object) -> np.datetime64 | None:
    """Return a day; None if it is open, or a reference whose value is not known yet."""
    return None if value is None or (isinstance(value, str) and value.startswith("<")) else read_day(value)


BACKTEST_IS_DAILY = (
    "A backtest trades once a day, but the data have the frequency {0!r}. Leave out PortAnaRecord; SigAnaRecord and the "
    "report evaluate intraday predictions."
)
"""Error message of a backtest of intraday predictions."""


def has_backtest(task: Mapping[str, object]) -> bool:
    """Return whether a task has a record that backtests its prediction."""
    return any(True for _ in _backtests(task))


def first_hole(task: Mapping[str, object], calendar: Days) -> tuple[np.datetime64, np.datetime64] | None:
    """Return the first and last of the trading days between two intervals of a task's test segment; None if there are none.

    A backtest of the task would hold its positions through these days, which other tasks test.

    Parameters
    ----------
    task : mapping
        A task.
    calendar : array of datetime64[D]
        The trading days.

    Examples
    --------
    >>> days = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]")
    >>> test = [("2024-01-01", "2024-01-03"), ("2024-01-06", "2024-01-10")]
    >>> hole = first_hole({"dataset": {"kwargs": {"segments": {"test": test}}}}, days)
    >>> str(hole[0]), str(hole[1])
    ('2024-01-04', '2024-01-05')
    """
    segment = TaskView(task).segments["test"] if TaskView(task).days_tested else None
    if not has_intervals(segment):
        return None
    places = [one.positions(calendar) for one in intervals("test", segment)]
    for (_, stop), (start, _) in pairwise(places):
        if stop < start:
            return calendar[stop], calendar[start - 1]
    return None


def backtest_warnings(tasks: Sequence[Mapping[str, object]], calendar: Days, test_key: str = "test") -> list[str]:
    """Return warnings about backtests that are skipped, or cover other days than the test segment of their task.

    Parameters
    ----------
    tasks : sequence of mapping
        The tasks of a plan.
    calendar : array of datetime64[D]
        The trading days.
    """
    holes = [hole for task in tasks if any(_backtests(task)) and (hole := first_hole(task, calendar))]
    warnings = []
    if holes:
        first, last = holes[0]
        warnings.append(
            f"the test segments of {len(holes)} of {len(tasks)} tasks have holes, such as {first} to {last}, so these tasks "
            "are not backtested: other tasks test the days of a hole. The report backtests each path of the joined "
            "predictions, and their average."
        )
    whole = [task for task in tasks if first_hole(task, calendar) is None]
    spans = [span for task in whole if (span := _foreign_span(task, calendar, test_key)) is not None]
    if not spans or len(tasks) < 2:
        return warnings
    start, end = spans[0]
    return [
        *warnings,
        f"the backtest of {len(spans)} of {len(tasks)} windows covers {start} to {end}, which are not "
        "the days of the window's test segment. On the other days nothing is traded, but they count in "
        "the metrics. 'rolling: {roll_backtest: true}' backtests each window on its own days. The "
        "report backtests the joined prediction as a whole.",
    ]


def _foreign_span(
    task: Mapping[str, object], calendar: Days, test_key: str
) -> tuple[np.datetime64, np.datetime64] | None:
    """Return first and last day of a backtest with more than one day outside the test segment (one is normal)."""
    segments = TaskView(task).segments
    inside = _between(calendar, bounds(test_key, segments[test_key])) if test_key in segments else calendar[:0]
    for options in _backtests(task) if len(inside) else ():
        start, end = (_day(options.get(name)) for name in _DATES)
        covered = _between(calendar, Segment(inside[0] if start is None else start, inside[-1] if end is None else end))
        if int(((covered < inside[0]) | (covered > inside[-1])).sum()) > 1:
            return covered[0], covered[-1]
    return None


def _between(calendar: Days, span: Segment) -> Days:
    first, stop = span.positions(calendar)
    return calendar[first:stop]


def _backtests(task: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for record in TaskView(task).records:
        options = backtest_of(record)
        if options is not None:
            yield options
