"""The label horizon of a task: how many trading days after its own day a label value uses.

The horizon determines how many days are purged between segments. It is read from the label's expressions, or declared as
``label_horizon``: in the task, among the handler's arguments, or as an attribute of the handler's class. A label that
is not computed from expressions alone has an unknown horizon unless one is declared; unknown is never treated as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from rollforge.build import locate
from rollforge.description import Description
from rollforge.errors import ExpressionError, RollforgeError, SegmentError, counted
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import last_day_read
from rollforge.features.handler import check_label_horizon
from rollforge.features.label_source import LabelSource, dataset_changes_label, label_source
from rollforge.generate.task_view import TaskView
from rollforge.market.universe import session_provider

__all__ = ["HOW_TO_DECLARE", "HorizonSource", "LabelHorizon", "known_horizon", "task_horizon"]

HOW_TO_DECLARE = (
    "Set label_horizon, the number of trading days that the label looks ahead, and label_days, the number of days that "
    "its return spans, in the workflow or among the handler's arguments. 'rollforge check' measures a lower bound of "
    "the horizon."
)
"""What to do about an unknown horizon."""


class HorizonSource(StrEnum):
    """Source of a label horizon."""

    EXPRESSION = "expression"
    """Read from the label's expressions."""
    DECLARED = "declared"
    """Declared as ``label_horizon``."""
    MEASURED = "measured"
    """Measured by changing the data: a lower bound."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LabelHorizon:
    """Number of trading days after its own day that a label value uses.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> print(task_horizon({"dataset": {"kwargs": {"handler": handler}}}))
    2 trading days (expression): the label Ref($close, -2)/Ref($close, -1) - 1 looks 2 trading days ahead.
    """

    days: int | None
    """None if it is unknown."""
    source: HorizonSource
    reason: str
    """A clause or sentence: what the number follows from, or why it is unknown."""
    in_rows: bool = False
    """Whether the days may be counted in an instrument's own rows, which can be further apart than trading days: True
    if the label is not determined by expressions, which count the days of the calendar."""
    read: int | None = None
    """The number of days read from expressions, if they determine the label."""
    declared: int | None = None
    """The declared number of days."""
    freq: str = "day"
    """Frequency of the data: all of these numbers count days, or bars of this frequency."""

    @property
    def unit(self) -> str:
        """What the numbers count: ``trading day``, or with data of another frequency such as ``60min bar``."""
        return "trading day" if self.freq == "day" else f"{self.freq} bar"

    def __str__(self) -> str:
        days = "unknown" if self.days is None else f"{counted(self.days, self.unit)} ({self.source})"
        return f"{days}: {self.reason}"

    @property
    def contradiction(self) -> str:
        """A sentence if the declared number differs from that of the expressions; empty otherwise."""
        if self.read is None or self.declared is None or self.read == self.declared:
            return ""
        return (
            f"the label looks {counted(self.read, self.unit)} ahead, but label_horizon: {self.declared} is "
            f"declared; the larger number, {self.days}, is used."
        )


def task_horizon(task: Mapping[str, object]) -> LabelHorizon:
    """Return the label horizon of a task, without computing data.

    If one is declared and another is read from the expressions, the larger one is returned.

    Parameters
    ----------
    task : mapping
        A task or template; it may declare ``label_horizon`` itself.

    Raises
    ------
    ConfigError
        If a declared horizon is not a number of days, at least 0.

    Examples
    --------
    >>> str(task_horizon({"dataset": {"kwargs": {"handler": "file://handler.pkl"}}}))
    'unknown: the handler is read from a file.'
    >>> str(task_horizon({"label_horizon": 5, "dataset": {"kwargs": {"handler": "file://handler.pkl"}}}))
    '5 trading days (declared): label_horizon: 5 is declared; the handler is read from a file.'
    """
    view = TaskView(task)
    described: object = view.described_handler or view.handler or {}
    source = label_source(described)
    changed = dataset_changes_label(task.get("dataset"))
    freq = _frequency(view)
    read, reason = _read(source, LabelHorizon(None, HorizonSource.UNKNOWN, "", freq=freq).unit)
    if changed:
        read, reason = None, " and ".join(filter(None, ("" if read is not None else reason, changed)))
    found = replace(_combined(read, reason, _declared(task, described)), freq=freq)
    return replace(found, in_rows=False) if source.counts_days and not changed else found


def _frequency(view: TaskView) -> str:
    """Return the frequency of a task's data: its own, or that of the session."""
    if view.freq is not None:
        return view.freq
    try:
        return session_provider().freq
    except RollforgeError:  # there is no data folder: reported where one is needed
        return "day"


def known_horizon(task: Mapping[str, object], path: str = "trunc_days") -> LabelHorizon:
    """Return the label horizon of a task, by which its segments are purged.

    Parameters
    ----------
    task : mapping
        A task or template.
    path : str
        The setting that needs the horizon, for the error.

    Raises
    ------
    SegmentError
        If the horizon is unknown; the message says how to declare it.
    """
    horizon = task_horizon(task)
    if horizon.days is None:
        raise SegmentError(
            f"'auto' needs the label's horizon, but it is unknown: {horizon.reason} {HOW_TO_DECLARE}", path=path
        )
    return horizon


def _read(source: LabelSource, unit: str) -> tuple[int | None, str]:
    """Return the horizon of a label's expressions and what it follows from, or None and why it is unknown."""
    if source.expressions is None or source.changed_by:
        return None, source.changed_by
    if not source.expressions:
        return 0, "there is no label"
    try:
        days, text = max((int(max(0, last_day_read(parse(e)))), e) for e in source.expressions)
    except ExpressionError as exc:
        return None, f"the label cannot be parsed: {str(exc).rstrip('.')}"
    return days, f"the label {text} looks {counted(days, unit)} ahead"


def _declared(task: Mapping[str, object], handler: object) -> int | None:
    """Return the largest declared horizon: of the task, the handler's arguments, or the handler's class or object."""
    found: list[object] = [task.get("label_horizon")]
    if isinstance(handler, Mapping):
        given = Description(handler).kwargs.get("label_horizon")
        found.append(_of_class(handler) if given is None else given)
    else:
        found.append(getattr(handler, "label_horizon", None))
    declared = [check_label_horizon(value) for value in found if value is not None]
    return max(declared, default=None)


def _of_class(handler: Mapping[str, object]) -> object:
    name, module = handler.get("class"), handler.get("module_path")
    if name is None:
        return None
    try:
        return getattr(locate(name, module or "rollforge.features.alpha"), "label_horizon", None)  # type: ignore[arg-type]
    except RollforgeError:
        return None  # reported when the handler is built


def _combined(read: int | None, reason: str, declared: int | None) -> LabelHorizon:
    if declared is None:
        source = HorizonSource.UNKNOWN if read is None else HorizonSource.EXPRESSION
        return LabelHorizon(read, source, f"{reason}.", read=read)
    said = f"label_horizon: {declared} is declared; {reason}."
    if read is not None and read >= declared:
        return LabelHorizon(read, HorizonSource.EXPRESSION, said, read=read, declared=declared)
    return LabelHorizon(declared, HorizonSource.DECLARED, said, in_rows=read is None, read=read, declared=declared)
