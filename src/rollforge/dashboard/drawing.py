"""Small drawings as numbers for SVG: status bars, sparklines, lanes. Style sheets give them their colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollforge.task import Status

__all__ = ["WIDTH", "Part", "Sparkline", "StatusBar", "sparkline", "status_bar"]

WIDTH = 1000.0
"""Width of a bar in its own units; the page stretches it."""
_LINE = (120.0, 28.0)
_SHOWN = (Status.DONE, Status.PART_DONE, Status.RUNNING, Status.FAILED, Status.WAITING)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar."""

    status: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class StatusBar:
    """The number of tasks by status as a bar."""

    parts: tuple[Part, ...]
    text: str
    """Such as ``12 done, 2 running``."""


def status_bar(counts: Mapping[Status, int], words: Mapping[str, str]) -> StatusBar:
    """Return the bar of some counts. Each status that occurs is visible, however few tasks it has.

    Examples
    --------
    >>> bar = status_bar({Status.DONE: 3, Status.FAILED: 1}, {"done": "done", "failed": "failed"})
    >>> bar.text, [(part.status, part.x, part.width) for part in bar.parts]
    ('3 done, 1 failed', [('done', 0.0, 750.0), ('failed', 750.0, 250.0)])
    """
    found = [(status, counts[status]) for status in _SHOWN if counts.get(status)]
    total = sum(n for _, n in found)
    sizes = [max(n / total, 0.008) for _, n in found]
    parts, x = [], 0.0
    for (status, _), size in zip(found, sizes, strict=True):
        width = round(WIDTH * size / sum(sizes), 1)
        parts.append(Part(status.value, round(x, 1), width))
        x += width
    return StatusBar(tuple(parts), ", ".join(f"{n:,} {words[s.value]}" for s, n in found) or "no tasks")


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A line without axes."""

    points: str
    zero: float
    """Height of zero."""
    text: str


def sparkline(values: Sequence[float], name: str) -> Sparkline | None:
    """Return the line through some values, which always contains zero; None if there are fewer than two.

    Examples
    --------
    >>> sparkline([0.0, 0.1, -0.1], "IC").points
    '0.0,14.0 60.0,2.0 120.0,26.0'
    """
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return None
    width, height = _LINE
    low, high = min(0.0, *known), max(0.0, *known)
    scale = (height - 4) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return round(2 + (high - value) * scale, 1)

    points = " ".join(f"{i * width / (len(known) - 1):.1f},{y(value)}" for i, value in enumerate(known))
    text = f"{name} of {len(known)} windows, from {min(known):.4f} to {max(known):.4f}, last {known[-1]:.4f}"
    return Sparkline(points, y(0.0), text.replace("-", "−"))
