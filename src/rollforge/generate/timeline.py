"""Windows of tasks, as values for tables and plots, and drawn as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rollforge.dates import Days, has_times, show_time
from rollforge.generate.checks import NOT_CHECKED, Check, Leakage
from rollforge.generate.findings import warning_texts
from rollforge.generate.leakage import label_warnings, static_checks
from rollforge.generate.segments import intervals
from rollforge.generate.task_view import TaskView
from rollforge.markup import Markup
from rollforge.notebook import html_repr, summary, table

__all__ = ["Schedule", "SegmentSpan", "Window", "draw", "make_schedule", "window_title", "windows"]

_MARKS = {"train": "░", "valid": "▒", "test": "█"}


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """One segment on the calendar."""

    start: np.datetime64
    """First trading day; with intraday data, the time of the first bar."""
    end: np.datetime64
    """Last trading day, or time of the last bar."""
    days: int
    """Number of trading days, or bars, in the segment, which may have holes."""
    intervals: tuple[tuple[np.datetime64, np.datetime64], ...] = ()
    """First and last trading day, or bar, of each interval, if the segment is written as several."""

    @property
    def parts(self) -> tuple[tuple[np.datetime64, np.datetime64], ...]:
        """First and last trading day of each interval, at least one."""
        return self.intervals or ((self.start, self.end),)

    def __str__(self) -> str:
        return ", ".join(f"{show_time(start)} to {show_time(end)}" for start, end in self.parts)


def window_title(index: int, model: str = "") -> str:
    """Return a readable title of a window: ``window 3``, or with several models ``ridge, window 3``.

    Examples
    --------
    >>> window_title(2), window_title(2, "ridge")
    ('window 3', 'ridge, window 3')
    """
    number = f"window {index + 1}"
    return f"{model}, {number}" if model else number


@dataclass(frozen=True, slots=True)
class Window:
    """The segments of one task."""

    index: int
    """Chronological index of its test segment in the experiment: windows of different models that test the same days
    have the same index."""
    segments: Mapping[str, SegmentSpan]
    model: str = ""
    """Name of the task's model; empty if there is only one model."""

    @property
    def title(self) -> str:
        """Readable title of the task."""
        return window_title(self.index, self.model)

    @property
    def test_days(self) -> str:
        """First and last day of the test segment, ``2016-01-04 to 2016-03-30``; empty if it has no trading day."""
        test = self.segments.get("test")
        return str(test) if test is not None else ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tasks on a calendar: computed when they are planned, or when their results are collected, and then passed on."""

    calendar: Days = field(repr=False, compare=False)
    """The trading days."""
    windows: tuple[Window, ...]
    """The window of each task, in the order of the tasks."""
    warnings: tuple[str, ...]
    """Warnings about the tasks: leaks, what is not known, and the days that labels span."""
    checks: tuple[Check, ...] = ()
    """The results of :func:`~rollforge.generate.leakage.static_checks`."""

    def table(self) -> Markup | None:
        """Return the windows as a table for a notebook: the model, if there are several, and each segment."""
        names = list(dict.fromkeys(name for window in self.windows for name in window.segments))
        several = any(window.model for window in self.windows)
        rows = (
            [window.index + 1, *([window.model] if several else []), *(window.segments.get(name) for name in names)]
            for window in self.windows
        )
        return table(["window", *(["model"] if several else []), *names], rows, of="window")

    @html_repr
    def _repr_html_(self) -> Markup:
        return summary("Windows", {"number": len(self.windows)}, self.table())


def make_schedule(
    tasks: Sequence[Mapping[str, object]],
    calendar: Days,
    models: Sequence[str] = (),
    label_days: int | None = None,
    *,
    leakage: Leakage = Leakage.WARN,
    checks: tuple[Check, ...] | None = None,
    among: Sequence[Mapping[str, object]] | None = None,
    ensembles: Mapping[str, object] | None = None,
) -> Schedule:
    """Return the windows of tasks, the results of their static checks, and the warnings about them.

    Parameters
    ----------
    tasks, calendar, models
        As in :func:`windows`.
    label_days : int, optional
        Number of trading days that a label spans, as declared by the user.
    leakage : Leakage
        ``off`` runs no checks.
    checks : tuple of Check, optional
        The results of checks that were run before.
    among, ensembles
        As in :func:`~rollforge.generate.leakage.static_checks`.
    """
    made = tuple(windows(tasks, calendar, models))
    titles = [window.title for window in made]
    if checks is None:
        checks = (
            (NOT_CHECKED,)
            if leakage is Leakage.OFF
            else static_checks(tasks, calendar, titles, among=among, ensembles=ensembles)
        )
    about = [check for check in checks if check != NOT_CHECKED]
    warnings = (*warning_texts(about, len(tasks)), *label_warnings(tasks, label_days, titles))
    return Schedule(calendar, made, warnings, checks)


def windows(tasks: Sequence[Mapping[str, object]], calendar: Days, models: Sequence[str] = ()) -> list[Window]:
    """Return the windows of tasks, in the order of the tasks; an open end becomes that of the calendar.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions.
    calendar : array of datetime64[D]
        The trading days.
    models : sequence of str, optional
        Name of each task's model.
    """
    spans = [_spans(task, calendar) for task in tasks]
    tests = sorted({s["test"].parts for s in spans if "test" in s})
    number = {test: i for i, test in enumerate(tests)}
    without = iter(range(len(tests), len(tests) + len(spans)))
    made = []
    for found, model in zip(spans, models or [""] * len(spans), strict=True):
        test = found.get("test")
        index = next(without) if test is None else number[test.parts]
        made.append(Window(index, found, model))
    return made


def _spans(task: Mapping[str, object], calendar: Days) -> dict[str, SegmentSpan]:
    """Return the segments that have trading days, in chronological order."""
    spans = {}
    for name, segment in TaskView(task).segments.items():
        ranges = [part.positions(calendar) for part in intervals(name, segment)]
        ranges = [(first, stop) for first, stop in ranges if stop > first]
        if ranges:
            parts = tuple((calendar[first], calendar[stop - 1]) for first, stop in ranges)
            days = sum(stop - first for first, stop in ranges)
            spans[name] = SegmentSpan(parts[0][0], parts[-1][1], days, parts if len(parts) > 1 else ())
    return dict(sorted(spans.items(), key=lambda s: s[1].start))


def draw(windows: Sequence[Window], width: int = 80) -> list[str]:
    """Return the windows on a time axis, one line each: ``░`` train, ``▒`` valid, ``█`` test.

    If there are several models, the windows of each are preceded by a line with its name.

    Parameters
    ----------
    windows : sequence of Window
        Windows to draw.
    width : int
        Width of a line in characters.
    """
    spans = [s for w in windows for s in w.segments.values()]
    if not spans:
        return []
    low, high = min(s.start for s in spans), max(s.end for s in spans)
    room = max(10, width - 6)
    unit = np.timedelta64(1, "m" if has_times(np.asarray(low)) else "D")
    scale = (room - 1) / max(1, int((high - low) / unit))

    def at(time: np.datetime64) -> int:
        return round(int((time - low) / unit) * scale)

    lines, model = [], ""
    for window in windows:
        if window.model != model:
            lines.append(f"{'':>6}{window.model}")
            model = window.model
        row = [" "] * room
        for name, span in window.segments.items():
            for start, end in span.parts:
                for column in range(at(start), at(end) + 1):
                    row[column] = _MARKS.get(name, "·")
        lines.append(f"{window.index + 1:>4}  {''.join(row).rstrip()}")
    used = dict.fromkeys(name for w in windows for name in w.segments)
    legend = "   ".join(f"{_MARKS.get(name, '·')} {name}" for name in used)
    ends = f"{show_time(low)}{show_time(high).rjust(room - len(show_time(low)))}"
    return [f"{'':>6}{ends}", *lines, f"{'':>6}{legend}"]
