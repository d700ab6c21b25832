"""Look-ahead: how far a task's label sees into the future, and which of its segments it sees too much of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rollforge.data.alpha import handler_label_expressions
from rollforge.data.expression import parse
from rollforge.data.operators import lookahead
from rollforge.data.provider import Days
from rollforge.errors import ExpressionError
from rollforge.generate.segments import ordered, segments_of

__all__ = ["Leak", "describe_leaks", "label_lookahead", "leaking_segments"]


@dataclass(frozen=True, slots=True)
class Leak:
    """A segment whose labels reach into the next one."""

    segment: str
    later: str
    days: int
    """Days at the end of the segment whose labels reach into the later one."""


def describe_leaks(leaks: Sequence[Sequence[Leak]]) -> list[str]:
    """Return one sentence for each kind of leak, naming how many tasks have it.

    Parameters
    ----------
    leaks : sequence
        Of each task, what :func:`leaking_segments` returns.

    Examples
    --------
    >>> describe_leaks([[Leak("train", "valid", 2)], [], [Leak("train", "valid", 2)]])
    ["In 2 of 3 tasks the labels of the last 2 days of 'train' reach into 'valid'. trunc_days: auto leaves them out."]
    """
    counts = Counter(leak for found in leaks for leak in found)
    return [
        ("The" if len(leaks) == 1 else f"In {number} of {len(leaks)} tasks the")
        + f" labels of the last {leak.days} days of {leak.segment!r} reach into {leak.later!r}. "
        "trunc_days: auto leaves them out."
        for leak, number in counts.items()
    ]


def label_lookahead(task: Mapping[str, Any]) -> int | None:
    """Return how many days the task's label looks ahead; None when its label cannot be known from its description.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> label_lookahead({"dataset": {"kwargs": {"handler": handler}}})
    2
    """
    dataset = task.get("dataset")
    kwargs = dataset.get("kwargs") if isinstance(dataset, Mapping) else None
    expressions = handler_label_expressions(kwargs.get("handler")) if isinstance(kwargs, Mapping) else None
    if expressions is None:
        return None
    try:
        return max((lookahead(parse(e)) for e in expressions), default=0)
    except ExpressionError:
        return None  # the handler says what is wrong with it when it is built


def leaking_segments(task: Mapping[str, Any], calendar: Days) -> list[Leak]:
    """Return the segments of a task whose labels reach into a later segment.

    Parameters
    ----------
    task : mapping
        One task, its segments those of one window.
    calendar : array of datetime64[D]
        The trading days.
    """
    ahead = label_lookahead(task)
    if not ahead:
        return []
    found = []
    sequence = ordered(segments_of(task))
    for (name, (_, end)), (later, (start, _)) in pairwise(sequence):
        if end is None or start is None:
            continue
        last = int(np.searchsorted(calendar, end, "right")) - 1
        first = int(np.searchsorted(calendar, start))
        reaching = ahead - (first - last - 1)
        if reaching > 0:
            found.append(Leak(name, later, reaching))
    return found
