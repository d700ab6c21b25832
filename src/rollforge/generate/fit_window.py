"""The days on which a task's processors are fitted, as written in its definition."""

from __future__ import annotations

from collections.abc import Mapping

from rollforge.build import constructor_arguments, locate
from rollforge.errors import RollforgeError
from rollforge.generate.segments import has_intervals
from rollforge.generate.task_view import TaskView
from rollforge.task import Definition, Document

__all__ = ["move_fit_window"]

_FIRST, _LAST = "fit_start_time", "fit_end_time"
_STEPS = ("shared_processors", "infer_processors", "learn_processors")


def move_fit_window(task: Definition, days: tuple[object, object], *, add: bool = False) -> None:
    """Set the fit window wherever the task's handler or one of its processors has one.

    A window written as a reference (``<dataset.kwargs.segments.train.0>``) moves by itself and is left unchanged, except
    if the training segment has several intervals, so that the reference does not refer to a day.

    Parameters
    ----------
    task : dict
        A task, which is changed. A handler that is not described by a mapping is left unchanged.
    days : tuple
        The first and the last day.
    add : bool
        Whether the handler is given a window if it has none, unless its processors have one and its class has no such
        arguments.

    Examples
    --------
    >>> norm = {"class": "ZScoreNorm", "kwargs": {"fit_start_time": "2020-01-01", "fit_end_time": "2020-12-31"}}
    >>> handler = {"class": "DataHandlerLP", "kwargs": {"infer_processors": [norm]}}
    >>> move_fit_window({"dataset": {"kwargs": {"handler": handler}}}, ("2021-01-01", "2021-12-31"))
    >>> norm["kwargs"]
    {'fit_start_time': '2021-01-01', 'fit_end_time': '2021-12-31'}
    """
    view = TaskView(task)
    kwargs, handler = view.handler_kwargs, view.handler
    if kwargs is None or not isinstance(handler, Mapping):
        return
    segments = view.dataset_kwargs.get("segments")
    split = isinstance(segments, Mapping) and has_intervals(segments.get("train"))
    moved = False
    for name in _STEPS:
        steps = kwargs.get(name)
        for step in steps if isinstance(steps, (list, tuple)) else ():
            given = step.get("kwargs") if isinstance(step, Mapping) else None
            if isinstance(given, dict):
                moved |= _move(given, days, split)
    if not _move(kwargs, days, split) and add and not (moved and _refuses_window(handler)):
        kwargs[_FIRST], kwargs[_LAST] = days


def _move(kwargs: dict[str, object], days: tuple[object, object], references: bool) -> bool:
    """Set the window of some arguments and return True, if they have one."""
    if {_FIRST, _LAST}.isdisjoint(kwargs):
        return False
    for key, day in zip((_FIRST, _LAST), days, strict=True):
        if references or not str(kwargs.get(key)).startswith("<"):
            kwargs[key] = day
    return True


def _refuses_window(handler: Document) -> bool:
    """Return whether a handler's constructor is known to have no argument for a fit window."""
    try:
        target = locate(handler["class"], handler.get("module_path") or "rollforge.features.alpha")
        return _LAST not in constructor_arguments(target)
    except (RollforgeError, KeyError, TypeError, ValueError):
        return False  # reported when the handler is built
