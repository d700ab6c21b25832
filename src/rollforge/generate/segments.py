"""Read and validate the segments of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import read_day, read_days
from rollforge.errors import DateError, SegmentError, nearest
from rollforge.task import Document

__all__ = ["Segment", "bounds", "neighbours", "ordered", "segments_of", "validate_segments"]

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
        """Return the half-open range of positions of its trading days in a calendar."""
        first = 0 if self.start is None else int(np.searchsorted(calendar, self.start))
        stop = len(calendar) if self.end is None else int(np.searchsorted(calendar, self.end, "right"))
        return first, stop


def segments_of(task: Mapping[str, object], path: str = PATH) -> Document:
    """Return the segments of a task.

    Raises
    ------
    SegmentError
        If it has none.
    """
    node: Any = task
    for part in ("dataset", "kwargs", "segments"):
        if not isinstance(node, Mapping) or part not in node:
            raise SegmentError("is missing: a task needs dataset.kwargs.segments with train and test.", path=path)
        node = node[part]
    if not isinstance(node, Mapping) or not node:
        raise SegmentError("must map names to (first day, last day).", path=path)
    return node


def bounds(name: str, segment: object, path: str = PATH) -> Segment:
    """Return the first and last day of a segment; None means open-ended.

    Raises
    ------
    SegmentError
        If it is not a pair of dates, or is inverted.
    """
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
            ends.append(read_day(value))
        except DateError as exc:
            raise SegmentError(str(exc), path=f"{here}.{i}") from None
    start, end = ends
    if start is not None and end is not None and start > end:
        raise SegmentError(f"is inverted: it starts on {start} and ends on {end}.", path=here)
    return Segment(start, end)


def ordered(segments: Mapping[str, object], path: str = PATH) -> list[tuple[str, Segment]]:
    """Return the segments in chronological order."""
    known = [(name, bounds(name, segment, path)) for name, segment in segments.items()]
    return sorted(known, key=lambda s: (s[1][0] is not None, s[1][0]))


def neighbours(sequence: Sequence[tuple[str, Segment]]) -> list[tuple[str, str]]:
    """Return each segment with the next one: the first that begins after its end, whose days its labels may reach.

    Parameters
    ----------
    sequence : sequence of (name, bounds)
        In chronological order, as :func:`ordered` returns them. A segment that overlaps others, such as ``pretrain``,
        is followed by the first one that begins after it.
    """
    found = []
    for name, (_, end) in sequence:
        if end is None:
            continue
        behind = [(s, n not in _FITTED_AND_TESTED, n) for n, (s, _) in sequence if s is not None and s > end]
        if behind:
            found.append((name, min(behind)[2]))  # of those that begin on the same day, prefer a standard name
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
        `needed` overlap. Other segments, such as ``pretrain``, may overlap any segment.
    """
    segments = segments_of(task, path)
    for name in needed:
        if name not in segments:
            raise SegmentError(
                f"there is no segment {name!r}.{nearest(name, segments)} There are: {', '.join(map(str, segments))}.",
                path=path,
            )
    days = read_days(calendar)
    sequence = ordered(segments, path)
    for name, segment in sequence:
        first, stop = segment.positions(days)
        if first >= stop:
            raise SegmentError(
                f"({segment.start}, {segment.end}) has no trading day: the calendar has {days[0]} to {days[-1]}.",
                path=f"{path}.{name}",
            )
    apart = {*_FITTED_AND_TESTED, *needed}
    for (name, (_, end)), (later, (start, _)) in pairwise([s for s in sequence if s[0] in apart]):
        if end is None or start is None or start <= end:
            shown = "is open" if end is None else f"ends on {end}"
            raise SegmentError(
                f"overlaps with {later!r}: it {shown}, and {later!r} starts on {start}.", path=f"{path}.{name}"
            )
