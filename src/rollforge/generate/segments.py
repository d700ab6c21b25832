"""Read and validate the segments of a task.

A segment is one interval, ``(first day, last day)``, or several: ``[(first day, last day), (first day, last day)]``, for
example a training segment with a test segment in its middle. Its days are whole days. With intraday data, a first or last
day can have a time of day, which is that of the first or last bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import last_moment, read_bound, read_times, show_time, start_position, stop_position
from rollforge.errors import DateError, SegmentError, nearest
from rollforge.task import Document

__all__ = [
    "Segment", "bounds", "days_text", "has_intervals", "intervals", "neighbours", "next_pieces", "ordered", "pieces",
    "segments_of", "validate_segments",
]  # fmt: skip

PATH = "task.dataset.kwargs.segments"
_FITTED_AND_TESTED = ("train", "valid", "test")


class Segment(NamedTuple):
    """The first and last day of a segment.

    Examples
    --------
    >>> calendar = np.array(["2024-01-02", "2024-01-03", "2024-01-04"], "datetime64[D]")
    >>> Segment(np.datetime64("2024-01-03"), None).positions(calendar)
    (1, 3)
    """

    start: np.datetime64 | None
    """None means from the first day of the calendar."""
    end: np.datetime64 | None
    """None means to its last day."""

    def positions(self, calendar: NDArray[np.datetime64]) -> tuple[int, int]:
        """Return the half-open range of positions of its trading days, or bars, in a calendar."""
        first = 0 if self.start is None else start_position(calendar, self.start)
        stop = len(calendar) if self.end is None else stop_position(calendar, self.end)
        return first, stop


def segments_of(task: Mapping[str, object], path: str = PATH) -> Document:
    """Return the segments of a task.

    Raises
    ------
    SegmentError
        If it has none.
    """
    node: object = task
    for part in ("dataset", "kwargs", "segments"):
        if not isinstance(node, Mapping) or part not in node:
            raise SegmentError("is missing: a task needs dataset.kwargs.segments with train and test.", path=path)
        node = node[part]
    if not isinstance(node, Mapping) or not node:
        raise SegmentError("must map names to (first day, last day).", path=path)
    return node


def has_intervals(segment: object) -> bool:
    """Return whether a segment is written as a list of intervals, and not as a single one.

    Examples
    --------
    >>> has_intervals(["2020-01-01", "2020-12-31"]), has_intervals([["2020-01-01", "2020-12-31"]])
    (False, True)
    """
    return isinstance(segment, (list, tuple)) and bool(segment) and all(isinstance(s, (list, tuple)) for s in segment)


def intervals(name: str, segment: object, path: str = PATH) -> tuple[Segment, ...]:
    """Return the intervals of a segment in chronological order.

    Adjacent intervals stay separate: the test segments of combinatorial splits are made of groups of days.

    Raises
    ------
    SegmentError
        If an interval is not a pair of dates or is inverted, or if intervals overlap.

    Examples
    --------
    >>> for interval in intervals("train", [("2020-03-02", "2020-03-31"), ("2020-01-02", "2020-01-31")]):
    ...     print(*interval)
    2020-01-02 2020-01-31
    2020-03-02 2020-03-31
    """
    if not has_intervals(segment):
        return (_interval(name, segment, path),)
    assert isinstance(segment, (list, tuple))
    found = [_interval(f"{name}.{i}", part, path) for i, part in enumerate(segment)]
    found.sort(key=lambda s: (s.start is not None, s.start))
    for earlier, later in pairwise(found):
        if earlier.end is None or later.start is None or later.start <= last_moment(earlier.end):
            shown = "is open" if earlier.end is None else f"ends on {show_time(earlier.end)}"
            begins = "is open" if later.start is None else f"starts on {show_time(later.start)}"
            raise SegmentError(f"has intervals that overlap: one {shown}, another {begins}.", path=f"{path}.{name}")
    return tuple(found)


def bounds(name: str, segment: object, path: str = PATH) -> Segment:
    """Return the first and last day of a segment, which may have several intervals; None means open-ended.

    Raises
    ------
    SegmentError
        As :func:`intervals`.
    """
    found = intervals(name, segment, path)
    return Segment(found[0].start, found[-1].end)


def days_text(segment: object) -> str:
    """Return a segment as ``2016-01-04 to 2016-03-30``; empty if it has another form. Intervals are joined by commas.

    Examples
    --------
    >>> days_text(("2016-01-04", None)), days_text([("2016-01-04", "2016-03-30"), ("2017-01-02", "2017-03-30")])
    ('2016-01-04 to the end', '2016-01-04 to 2016-03-30, 2017-01-02 to 2017-03-30')
    """
    if has_intervals(segment):
        assert isinstance(segment, (list, tuple))
        return ", ".join(filter(None, map(days_text, segment)))
    if isinstance(segment, slice):
        segment = (segment.start, segment.stop)
    if not isinstance(segment, (list, tuple)) or len(segment) != 2:
        return ""
    start, end = segment
    return f"{'the beginning' if start is None else _day(start)} to {'the end' if end is None else _day(end)}"


def _day(value: object) -> str:
    """Return a day in ISO format, with the time of day if it has one; anything else is returned as text."""
    try:
        return show_time(read_bound(value))
    except DateError:
        return str(value)


def _interval(name: str, segment: object, path: str) -> Segment:
    here = f"{path}.{name}"
    if isinstance(segment, slice):
        segment = (segment.start, segment.stop)
    if not isinstance(segment, (list, tuple)) or len(segment) != 2:
        raise SegmentError(f"expected (first day, last day), found {segment!r}.", path=here)
    ends: list[np.datetime64 | None] = []
    for i, value in enumerate(segment):
        if value is None:
            ends.append(None)
            continue
        try:
            ends.append(read_bound(value))
        except DateError as exc:
            raise SegmentError(str(exc), path=f"{here}.{i}") from None
    start, end = ends
    if start is not None and end is not None and start > last_moment(end):
        raise SegmentError(f"is inverted: it starts on {show_time(start)} and ends on {show_time(end)}.", path=here)
    return Segment(start, end)


def ordered(segments: Mapping[str, object], path: str = PATH) -> list[tuple[str, Segment]]:
    """Return the first and last day of each segment, in chronological order."""
    return _sorted((name, bounds(name, segment, path)) for name, segment in segments.items())


def pieces(segments: Mapping[str, object], path: str = PATH) -> list[tuple[str, Segment]]:
    """Return the intervals of all segments in chronological order, each with the name of its segment.

    Examples
    --------
    >>> split = {"train": [("2020-01-02", "2020-01-31"), ("2020-03-02", "2020-03-31")], "test": ("2020-02-03", "2020-02-28")}
    >>> [name for name, _ in pieces(split)]
    ['train', 'test', 'train']
    """
    return _sorted((name, part) for name, segment in segments.items() for part in intervals(name, segment, path))


def _sorted(named: Iterable[tuple[str, Segment]]) -> list[tuple[str, Segment]]:
    return sorted(named, key=lambda s: (s[1][0] is not None, s[1][0]))


def neighbours(sequence: Sequence[tuple[str, Segment]]) -> list[tuple[str, str]]:
    """Return each segment with the next one, by name; see :func:`next_pieces`.

    Parameters
    ----------
    sequence : sequence of (name, bounds)
        In chronological order, as :func:`ordered` returns them.
    """
    return [(sequence[earlier][0], sequence[later][0]) for earlier, later in next_pieces(sequence)]


def next_pieces(sequence: Sequence[tuple[str, Segment]]) -> list[tuple[int, int]]:
    """Return each interval with the next one of another segment, as positions in `sequence`.

    The next one is the first that begins after its end: the labels of its last days may reach into that one.

    Parameters
    ----------
    sequence : sequence of (name, interval)
        In chronological order, as :func:`pieces` returns them. A segment that overlaps others, such
        as ``pretrain``, is followed by the first one that begins after it.

    Examples
    --------
    >>> split = {"train": [("2020-01-02", "2020-01-31"), ("2020-03-02", "2020-03-31")], "test": ("2020-02-03", "2020-02-28")}
    >>> next_pieces(pieces(split))
    [(0, 1), (1, 2)]
    """
    found = []
    for place, (name, (_, end)) in enumerate(sequence):
        if end is None:
            continue
        behind = [
            (start, other not in _FITTED_AND_TESTED, other, i)
            for i, (other, (start, _)) in enumerate(sequence)
            if other != name and start is not None and start > last_moment(end)
        ]
        if behind:
            found.append((place, min(behind)[3]))  # of those that begin on the same day, prefer a standard name
    return found


def validate_segments(
    task: Mapping[str, object],
    calendar: Sequence[object] | object,
    path: str = PATH,
    needed: Sequence[str] = ("train", "test"),
) -> None:
    """Check that the segments of a task are valid.

    Parameters
    ----------
    task : mapping
        A task or template.
    calendar : array of dates
        The trading days.
    path : str
        Path of the segments in the task, for error messages.
    needed : sequence of str
        Required segments.

    Raises
    ------
    SegmentError
        If a segment is missing, unreadable, inverted, or without any trading day, or if train, valid, test or those in
        `needed` have a trading day in common. Other segments, such as ``pretrain``, may overlap any segment.
    """
    segments = segments_of(task, path)
    for name in needed:
        if name not in segments:
            raise SegmentError(
                f"there is no segment {name!r}.{nearest(name, segments)} Known: {', '.join(map(str, segments))}.",
                path=path,
            )
    days = read_times(calendar)
    sequence = pieces(segments, path)
    for name, segment in sequence:
        first, stop = segment.positions(days)
        if first >= stop:
            raise SegmentError(
                f"({_shown(segment.start)}, {_shown(segment.end)}) has no trading day: the calendar has "
                f"{show_time(days[0])} to {show_time(days[-1])}.",
                path=f"{path}.{name}",
            )
    apart = {*_FITTED_AND_TESTED, *needed}
    for (name, segment), (later, after) in pairwise([s for s in sequence if s[0] in apart]):
        end, start = segment.end, after.start
        shared = segment.positions(days)[1] > after.positions(days)[0]  # both may name the same day without trading
        if shared and (end is None or start is None or start <= last_moment(end)):
            shown = "is open" if end is None else f"ends on {show_time(end)}"
            raise SegmentError(
                f"overlaps with {later!r}: it {shown}, and {later!r} starts on {_shown(start)}.", path=f"{path}.{name}"
            )


def _shown(bound: np.datetime64 | None) -> str:
    return "None" if bound is None else show_time(bound)
