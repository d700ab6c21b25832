"""The windows of tasks, as values for tables and plots, and drawn as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollforge.data.provider import Days
from rollforge.generate.segments import bounds, segments_of

__all__ = ["SegmentSpan", "Window", "draw", "windows"]

_MARKS = {"train": "░", "valid": "▒", "test": "█"}


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """One segment on the calendar."""

    start: np.datetime64
    """First trading day."""
    end: np.datetime64
    """Last trading day."""
    days: int
    """Trading days."""


@dataclass(frozen=True, slots=True)
class Window:
    """The segments of one task."""

    index: int
    segments: Mapping[str, SegmentSpan]


def windows(tasks: Sequence[Mapping[str, Any]], calendar: Days) -> list[Window]:
    """Return the windows of tasks; an open end is the calendar's."""
    made = []
    for i, task in enumerate(tasks):
        spans = {}
        for name, segment in segments_of(task).items():
            start, end = bounds(name, segment)
            first = 0 if start is None else int(np.searchsorted(calendar, start))
            stop = len(calendar) if end is None else int(np.searchsorted(calendar, end, "right"))
            if stop > first:
                spans[name] = SegmentSpan(calendar[first], calendar[stop - 1], stop - first)
        in_time = sorted(spans.items(), key=lambda s: s[1].start)
        made.append(Window(i, dict(in_time)))
    return made


def draw(windows: Sequence[Window], width: int = 80) -> list[str]:
    """Return the windows on a time axis, one line each: ``░`` train, ``▒`` valid, ``█`` test.

    Parameters
    ----------
    windows : sequence of Window
        What to draw.
    width : int
        Characters a line.
    """
    spans = [s for w in windows for s in w.segments.values()]
    if not spans:
        return []
    low, high = min(s.start for s in spans), max(s.end for s in spans)
    room = max(10, width - 6)
    scale = (room - 1) / max(1, int((high - low) / np.timedelta64(1, "D")))

    def at(day: np.datetime64) -> int:
        return round(int((day - low) / np.timedelta64(1, "D")) * scale)

    lines = []
    for window in windows:
        row = [" "] * room
        for name, span in window.segments.items():
            for column in range(at(span.start), at(span.end) + 1):
                row[column] = _MARKS.get(name, "·")
        lines.append(f"{window.index + 1:>4}  {''.join(row).rstrip()}")
    used = dict.fromkeys(name for w in windows for name in w.segments)
    legend = "   ".join(f"{_MARKS.get(name, '·')} {name}" for name in used)
    ends = f"{low}{str(high).rjust(room - len(str(low)))}"
    return [f"{'':>6}{ends}", *lines, f"{'':>6}{legend}"]
