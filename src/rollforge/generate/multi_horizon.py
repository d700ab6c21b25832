"""Several horizons from one template: the label is rewritten for each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike

from rollforge.arguments import whole_number
from rollforge.build import locate
from rollforge.description import Description
from rollforge.errors import ConfigError, ExpressionError, RollforgeError, SegmentError, shown
from rollforge.expressions.expression import parse
from rollforge.features.alpha import AlphaHandler
from rollforge.features.label_source import label_source
from rollforge.generate.base import NamedTaskGen, copy_task
from rollforge.generate.horizon import MultiHorizonGenBase
from rollforge.generate.rolling import Segments, purge_horizon, truncated_segments
from rollforge.generate.segments import PATH, has_intervals
from rollforge.generate.task_view import TaskView
from rollforge.task import Definition

__all__ = ["STANDARD_LABEL", "MultiHorizonGen"]

STANDARD_LABEL = "Ref($close, -{horizon+1})/Ref($close, -1) - 1"
"""The return from the close of the next day, over as many days as the horizon."""

_HANDLERS = "rollforge.features.alpha"
_PLACE = "task.dataset.kwargs.handler"
_BRACES = re.compile(r"\{([^{}]*)\}")
_TERM = re.compile(r"\s*horizon\s*(?:([+-])\s*(\d{1,6})\s*)?", re.ASCII)
_RETURN = re.compile(r"Ref\((\$\w+),-\d+\)/Ref\(\1,-1\)-1", re.ASCII)


class MultiHorizonGen(NamedTaskGen, MultiHorizonGenBase):
    """Generates one task per horizon: the label is rewritten for it, and the segments are purged by it.

    Parameters
    ----------
    horizon : sequence of int, or int
        Horizons in trading days, at least 1.
    label : str or sequence of str, optional
        The label as an expression in which ``{horizon}``, ``{horizon+1}`` and so on stand for numbers; several for several
        columns. By default the return over as many days as the horizon, bought at the close of the next day:
        ``Ref($close, -{horizon+1})/Ref($close, -1) - 1``; another price if the template's label is such a return of that price.
    trunc_days : "auto" or None
        "auto": every segment ends as many days before the next as the new label looks ahead. None: the segments stay as they
        are, for a generator of windows that purges them later.
    calendar : array of dates, optional
        By default the current session's.

    Raises
    ------
    ConfigError
        If a horizon or label is invalid.

    Notes
    -----
    The label can be rewritten in ``Alpha158``, ``Alpha360`` and their subclasses, in other handlers with an argument
    ``label``, and in expressions of a ``QlibDataLoader``, also inside a ``NestedDataLoader``. A declared ``label_horizon``
    or ``label_days`` is removed, because it was that of the old label; both follow from the expression.

    Unlike :class:`MultiHorizonGenBase`, whose rule is Qlib's, the training segment is purged before the validation segment
    too.

    Examples
    --------
    >>> import pandas as pd
    >>> days = pd.bdate_range("2024-01-01", periods=40)
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "all"}}
    >>> segments = {"train": ("2024-01-01", "2024-01-31"), "test": ("2024-02-01", "2024-02-23")}
    >>> template = {"dataset": {"kwargs": {"handler": handler, "segments": segments}}}
    >>> for name, task in MultiHorizonGen([1, 5], calendar=days).named(template):
    ...     kwargs = task["dataset"]["kwargs"]
    ...     print(name, kwargs["handler"]["kwargs"]["label"], f'{kwargs["segments"]["train"][1]:%d %b}')
    horizon 1 ['Ref($close, -2)/Ref($close, -1) - 1'] 29 Jan
    horizon 5 ['Ref($close, -6)/Ref($close, -1) - 1'] 23 Jan
    """

    def __init__(
        self,
        horizon: Sequence[int] | int,
        label: str | Sequence[str] | None = None,
        trunc_days: Literal["auto"] | None = "auto",
        *,
        calendar: ArrayLike | None = None,
    ) -> None:
        listed = [horizon] if isinstance(horizon, int) else horizon
        if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Sequence):
            raise ConfigError(f"must be a list of numbers of trading days, found {shown(horizon)}.", path="horizon")
        days = [whole_number(one, f"horizon.{i}", of="trading days") for i, one in enumerate(listed)]
        twice = next((one for i, one in enumerate(days) if one in days[:i]), None)
        if twice is not None:
            raise ConfigError(f"has {twice} twice.", path="horizon")
        if trunc_days not in ("auto", None):
            raise ConfigError(f"must be 'auto' or null, found {shown(trunc_days)}.", path="trunc_days")
        super().__init__(days, calendar=calendar)
        self.trunc_days = trunc_days
        self.label = None if label is None else _checked_labels(label)

    def set_horizon(self, task: Definition, hr: int) -> None:
        """Set the label of the horizon `hr` in `task`, in place.

        Raises
        ------
        ConfigError
            If the label cannot be rewritten.
        """
        handler = TaskView(task).handler
        if not isinstance(handler, dict) or "class" not in handler:
            raise ConfigError(
                "the label cannot be rewritten, because the handler is not described by its class and arguments. "
                "Derive your generator from MultiHorizonGenBase.",
                path=_PLACE,
            )
        templates = self.label or [_standard_label(handler)]
        labels = [fill_horizon(text, hr) for text in templates]
        if not _rewrite(handler, labels):
            raise ConfigError(
                f"the label of {handler['class']} cannot be rewritten: neither is it an argument of the handler, nor are "
                "there expressions of a QlibDataLoader. Derive your generator from MultiHorizonGenBase.",
                path=_PLACE,
            )
        task.pop("label_horizon", None)
        found = label_source(TaskView(task).described_handler).expressions
        if found is not None and list(found) != labels:
            raise ConfigError(
                f"the label {', '.join(found):.200} of {handler['class']} does not depend on its argument label. Derive "
                "your generator from MultiHorizonGenBase.",
                path=_PLACE,
            )

    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return one task per horizon, with the names ``horizon 5``, ``horizon 20`` and so on.

        Raises
        ------
        ConfigError
            If the label cannot be rewritten.
        SegmentError
            If nothing is left of a segment, or a segment has several intervals.
        """
        made = []
        for hr in self.horizon:
            new = copy_task(task)
            self.set_horizon(new, hr)
            if self.trunc_days is not None:
                new = TaskView(new).with_segments(self._purged(new, hr))
            made.append((f"horizon {hr}" if len(self.horizon) > 1 else "", new))
        return made

    def _purged(self, task: Definition, hr: int) -> Segments:
        segments = TaskView(task).segments
        split = next((name for name, segment in segments.items() if has_intervals(segment)), None)
        if split is not None:
            raise SegmentError(
                "has several intervals. Put MultiHorizonGen before the generator that creates them.",
                path=f"{PATH}.{split}",
            )
        self.ta.check_days(segments)
        try:
            horizon = purge_horizon(task, "auto")
            return truncated_segments(self.ta, self.ta.align_seg(dict(segments)), "auto", horizon)
        except SegmentError as exc:
            raise type(exc)(f"horizon {hr}: {exc.message}", path=exc.path) from exc


def fill_horizon(text: str, horizon: int) -> str:
    """Return a label with its placeholders filled.

    Examples
    --------
    >>> fill_horizon("Ref($close, -{horizon+1})/Ref($close, -1) - 1", 5)
    'Ref($close, -6)/Ref($close, -1) - 1'
    """

    def fill(found: re.Match[str]) -> str:
        term = _TERM.fullmatch(found[1])
        if term is None:
            raise ConfigError(
                f"{found[0]:.60} is unknown. Write {{horizon}}, {{horizon+1}} or {{horizon-1}}.", path="label"
            )
        return str(horizon + int(f"{term[1] or '+'}{term[2] or 0}"))

    return _BRACES.sub(fill, text)


def _checked_labels(label: str | Sequence[str]) -> list[str]:
    listed = [label] if isinstance(label, str) else label
    if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(text, str) for text in listed):
        raise ConfigError(f"must be an expression or a list of expressions, found {shown(label)}.", path="label")
    for text in listed:
        filled = fill_horizon(text, 5)
        if filled == text:
            raise ConfigError(f"{shown(text)} does not depend on the horizon. Write {{horizon}} in it.", path="label")
        try:
            parse(filled)
        except ExpressionError as exc:
            raise ConfigError(f"{shown(text)}: {exc}", path="label") from exc
    return list(listed)


def _standard_label(handler: Mapping[str, object]) -> str:
    """Return the standard label of the price on which the handler's label is a return."""
    found = label_source(handler).expressions
    if found is not None and len(found) == 1:
        match = _RETURN.fullmatch(re.sub(r"\s", "", found[0]))
        if match is not None:
            return STANDARD_LABEL.replace("$close", match[1])
    state = "is unknown" if found is None else f"is {', '.join(found):.200}" if found else "is empty"
    raise ConfigError(
        f"is needed, because the label of the template {state}, not a return such as Ref($close, -2)/Ref($close, -1) - 1. "
        f"Write an expression with {{horizon}}, for example {STANDARD_LABEL}.",
        path="label",
    )


def _rewrite(handler: dict[str, Any], labels: Sequence[str]) -> bool:
    """Set the label in the description of a handler, in place, and return whether it was found."""
    kwargs = handler.setdefault("kwargs", {}) or {}
    handler["kwargs"] = kwargs
    for declared in ("label_horizon", "label_days"):
        kwargs.pop(declared, None)
    if "label" in kwargs or _takes_label(handler):
        kwargs["label"] = list(labels)
        return True
    return _rewrite_loader(kwargs.get("data_loader"), labels)


def _takes_label(handler: Mapping[str, Any]) -> bool:
    try:
        target = locate(handler["class"], handler.get("module_path") or _HANDLERS)
        if isinstance(target, type) and issubclass(target, AlphaHandler):
            return True
        return "label" in inspect.signature(target).parameters
    except (RollforgeError, ValueError):  # ValueError: a built-in class without a signature
        return False  # reported when the handler is built


def _rewrite_loader(loader: object, labels: Sequence[str]) -> bool:
    """Set the label in the description of a loader, in place, and return whether it was found."""
    arguments = Description(loader).kwargs
    config = arguments.get("config")
    if isinstance(config, dict) and "label" in config and not isinstance(config["label"], (dict, str)):
        config["label"] = _with_names(config["label"], labels)
        return True
    nested = arguments.get("dataloader_l")
    if isinstance(nested, list):
        return sum(_rewrite_loader(one, labels) for one in nested) > 0  # in all of them
    group = arguments.get("handler_config")
    if isinstance(group, dict):
        inner = group if "class" in group else group.get("label")
        return isinstance(inner, dict) and "class" in inner and _rewrite(inner, labels)
    return False


def _with_names(before: object, labels: Sequence[str]) -> list[object]:
    """Return labels with the names that they had before, if there are as many."""
    if (
        isinstance(before, (list, tuple))
        and len(before) == 2
        and all(isinstance(part, (list, tuple)) for part in before)
    ):
        names = list(before[1])
        if len(names) == len(labels):
            return [list(labels), names]
        return [list(labels), [f"LABEL{i}" for i in range(len(labels))]]
    return list(labels)
