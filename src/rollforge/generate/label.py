"""The label of a task: its expression, and the number of trading days that one value spans.

Returns over several days are divided by the number of days before they are summed, and figures computed from
overlapping labels are not independent from day to day. The number of days is derived from the label's expression; if
that is not possible, a handler may declare ``label_days``. An unknown number of days is None, never 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rollforge.build import locate
from rollforge.description import Description
from rollforge.errors import ExpressionError, RollforgeError, counted
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import holding_days
from rollforge.features.label_source import label_source
from rollforge.generate.task_view import TaskView

__all__ = [
    "LABEL_TAG",
    "Label",
    "declared_days",
    "handler_labels",
    "labels_from_text",
    "labels_to_text",
    "task_labels",
]

LABEL_TAG = "rollforge.label"
"""Tag of a recorder with the labels of its run, in the format of :func:`labels_to_text`."""


@dataclass(frozen=True, slots=True)
class Label:
    """One column of a label.

    Examples
    --------
    >>> str(Label("Ref($close, -6)/Ref($close, -1) - 1", 5)), str(Label("", None))
    ('Ref($close, -6)/Ref($close, -1) - 1 (5 trading days)', 'unknown label (unknown number of days)')
    """

    expression: str
    """Empty if unknown."""
    days: int | None
    """Number of trading days that one value spans; None if unknown."""

    def __str__(self) -> str:
        days = "unknown number of days" if self.days is None else counted(self.days, "trading day")
        return f"{self.expression or 'unknown label'} ({days})"


def _labels(expressions: Iterable[str], declared: int | None) -> tuple[Label, ...]:
    return tuple(Label(text, _days(text, declared)) for text in expressions)


def _days(expression: str, declared: int | None) -> int | None:
    try:
        read = holding_days(parse(expression))
    except ExpressionError:
        return declared  # the error is reported when the handler is built
    return declared if read is None else read


def task_labels(task: Mapping[str, object]) -> tuple[Label, ...]:
    """Return the labels of a task from its description, or from its handler if that is an object, one per column; empty if
    they are unknown.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> [str(label) for label in task_labels({"dataset": {"kwargs": {"handler": handler}}})]
    ['Ref($close, -2)/Ref($close, -1) - 1 (1 trading day)']
    """
    handler = TaskView(task).described_handler
    if not handler:
        given = TaskView(task).handler
        return () if isinstance(given, (str, Mapping)) or given is None else handler_labels(given)
    expressions, declared = label_source(handler).expressions, declared_days(handler)
    if expressions is None:
        return () if declared is None else (Label("", declared),)
    return _labels(expressions, declared)


def declared_days(handler: object) -> int | None:
    """Return the ``label_days`` that a handler's description or its class declares; of an object, its own."""
    declared = Description(handler).kwargs.get("label_days")
    if not isinstance(handler, Mapping):
        declared = getattr(handler, "label_days", None)
    elif declared is None and "class" in handler:
        try:
            declared = getattr(locate(handler["class"], handler.get("module_path")), "label_days", None)
        except RollforgeError:
            return None
    return declared if isinstance(declared, int) and declared >= 1 else None


def handler_labels(handler: object) -> tuple[Label, ...]:
    """Return the labels of a handler object, one per column; empty if they are unknown.

    Parameters
    ----------
    handler : DataHandler
        A handler whose loader computes expressions, or takes them from other handlers (``DataLoaderDH``).
    """
    declared = getattr(handler, "label_days", None)
    expressions = label_source(handler).expressions
    if expressions is None:
        return () if declared is None else (Label("", declared),)
    return _labels(expressions, declared)


def labels_to_text(labels: Sequence[Label]) -> str:
    """Serialize labels to the text of a tag.

    Examples
    --------
    >>> labels_from_text(labels_to_text([Label("$close", None)]))
    (Label(expression='$close', days=None),)
    """
    # Tracking stores reject long tags.
    shown = (x.expression if len(x.expression) <= 400 else f"{x.expression[:400]}…" for x in labels[:8])
    return json.dumps([[text, label.days] for text, label in zip(shown, labels, strict=False)])


def labels_from_text(text: str) -> tuple[Label, ...]:
    """Return the labels from a text written by :func:`labels_to_text`."""
    return tuple(Label(expression, days) for expression, days in json.loads(text))
