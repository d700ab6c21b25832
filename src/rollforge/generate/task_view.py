"""A task's definition, read part by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.build import resolve_references
from rollforge.description import Description
from rollforge.errors import ConfigError
from rollforge.frequency import frequency
from rollforge.generate.segments import days_text, segments_of
from rollforge.kinds import DATASET, MODEL, Kind
from rollforge.session import Session
from rollforge.task import Definition, Document

__all__ = ["TaskView", "at_frequency", "described_parts", "is_object", "without_times"]


def is_object(part: object, kind: Kind) -> bool:
    """Return whether a part of a task is the object itself instead of its description; a stored task has none."""
    return not isinstance(part, (str, type, Mapping)) and not kind.lacks(type(part))


def described_parts(task: Document) -> Document:
    """Return a task whose model and dataset, if they are objects, are described by their class and the dataset's segments
    and handler. What only reads the task then need not know objects.
    """
    model, dataset = task.get("model"), task.get("dataset")
    found: Definition = {}
    if is_object(model, MODEL):
        found["model"] = {"class": type(model)}
    if is_object(dataset, DATASET):
        kwargs = {name: getattr(dataset, name) for name in ("segments", "handler") if hasattr(dataset, name)}
        found["dataset"] = {"class": type(dataset), "kwargs": kwargs}
    return {**task, **found} if found else task


def at_frequency(session: Session, tasks: Iterable[Document]) -> Session:
    """Return a session whose frequency is that of the tasks' data, if they are given one.

    Raises
    ------
    ConfigError
        If two tasks have data of different frequencies: their windows and predictions are on different calendars.
    """
    found = dict.fromkeys(freq for task in tasks if (freq := TaskView(task).freq) is not None)
    if len(found) > 1:
        raise ConfigError(
            f"The tasks have data of different frequencies: {', '.join(map(repr, found))}. Train them in experiments of "
            "their own."
        )
    return session.with_(freq=next(iter(found), None))


@dataclass(frozen=True, slots=True)
class TaskView:
    """The parts of a task's definition, which stays a plain dictionary.

    A part that is missing is None, an empty text or an empty list, except where an error is documented. The parts are
    those of the definition itself, not copies. A model or dataset that is an object is read like its description, see
    :func:`described_parts`.

    Parameters
    ----------
    definition : mapping
        A task, as a generator returns it or a pool stores it.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "kwargs": {"instruments": "csi300"}}
    >>> segments = {"train": ("2018-01-02", "2019-12-31"), "test": ("2020-01-02", None)}
    >>> task = {"model": {"class": "LGBModel"}, "dataset": {"kwargs": {"handler": handler, "segments": segments}}}
    >>> view = TaskView(task)
    >>> view.model_class, view.handler_kwargs, view.days_tested, view.records
    ('LGBModel', {'instruments': 'csi300'}, '2020-01-02 to the end', [])
    """

    definition: Document

    @property
    def model(self) -> Document | None:
        """The description of the model; None if it is not a mapping."""
        model = self._at("model")
        return model if isinstance(model, Mapping) else None

    @property
    def model_class(self) -> str:
        """The class of the model, as it is written: a name or a dotted path; empty if it is unknown."""
        model = self._at("model")
        if isinstance(model, str) and "." in model:
            return model
        found = model.get("class", "") if isinstance(model, Mapping) else model
        if isinstance(found, type):
            return found.__name__
        return str(found) if isinstance(model, Mapping) else ""

    @property
    def dataset_kwargs(self) -> Definition:
        """The arguments of the dataset. Modify them only in your own copy of the task.

        Raises
        ------
        ConfigError
            If the task has no dataset with arguments.
        """
        kwargs = None if is_object(self.definition.get("dataset"), DATASET) else self._at("dataset", "kwargs")
        if not isinstance(kwargs, dict):
            raise ConfigError("is missing: a task needs a dataset with kwargs.", path="task.dataset.kwargs")
        return kwargs

    @property
    def handler(self) -> object:
        """The handler: its description, the address of a file, or an object; None if there is none."""
        return self._at("dataset", "kwargs", "handler")

    @property
    def handler_kwargs(self) -> Definition | None:
        """The arguments of the handler; None if it is not described by a mapping with arguments (e.g. a pickle)."""
        kwargs = self._at("dataset", "kwargs", "handler", "kwargs")
        return kwargs if isinstance(kwargs, dict) else None

    @property
    def described_handler(self) -> Document:
        """The description of the handler with references resolved; empty if there is none."""
        handler = self.handler
        if not isinstance(handler, Mapping):
            return {}
        try:
            filled = TaskView(resolve_references(self.definition)).handler
        except ConfigError:
            return handler  # an invalid reference is reported when the task is built
        return filled if isinstance(filled, Mapping) else handler

    @property
    def freq(self) -> str | None:
        """The frequency that the handler or its loader is given, such as ``60min``; None if neither is. That of a handler
        that is an object is its loader's."""
        if not isinstance(self.handler, (str, Mapping)):
            loaded = getattr(getattr(self.handler, "data_loader", None), "freq", None)
            return frequency(loaded) if isinstance(loaded, str) else None
        kwargs = Description(self.described_handler).kwargs
        for given in (kwargs, Description(kwargs.get("data_loader")).kwargs):
            found = given.get("freq")
            if isinstance(found, Mapping):  # one for each group of columns; the rows have that of the label
                found = found.get("label", next(iter(found.values()), None))
            if isinstance(found, str):
                return frequency(found)
        return None

    @property
    def segments(self) -> Document:
        """The segments as they are written: name -> (first day, last day), or a list of such intervals.

        Raises
        ------
        SegmentError
            If there are none.
        """
        return segments_of(described_parts(self.definition))

    def with_dataset_kwargs(self, **changes: object) -> Definition:
        """Return a task with other arguments of its dataset; all else is the definition's own, not copied.

        Raises
        ------
        ConfigError
            If the task has no dataset with arguments.
        """
        kwargs = {**self.dataset_kwargs, **changes}
        return {**self.definition, "dataset": {**self.definition["dataset"], "kwargs": kwargs}}

    def with_segments(self, segments: Document) -> Definition:
        """Return a task with other segments; see :meth:`with_dataset_kwargs`.

        Examples
        --------
        >>> task = {"dataset": {"kwargs": {"handler": "h.pkl", "segments": {"test": ("2020-01-02", None)}}}}
        >>> TaskView(task).with_segments({"test": ("2020-07-01", None)})["dataset"]["kwargs"]
        {'handler': 'h.pkl', 'segments': {'test': ('2020-07-01', None)}}
        """
        return self.with_dataset_kwargs(segments=segments)

    @property
    def days_tested(self) -> str:
        """The test segment as ``2016-01-04 to 2016-03-30``; empty if there is none."""
        return days_text(self._at("dataset", "kwargs", "segments", "test"))

    @property
    def records(self) -> list[Any]:
        """The descriptions of the records, as a list even if there is a single one."""
        records = self.definition.get("record") or []
        return list(records) if isinstance(records, (list, tuple)) else [records]

    def _at(self, *path: str) -> object:
        node: object = described_parts(self.definition)
        for part in path:
            node = node.get(part) if isinstance(node, Mapping) else None
        return node


def without_times(node: object) -> object:
    """Return a handler's description without its range and its fit windows, which differ between windows.

    Processors can have their own fit windows.
    """
    if isinstance(node, Mapping):
        return {k: without_times(v) for k, v in node.items() if not str(k).endswith("_time")}
    return [without_times(v) for v in node] if isinstance(node, (list, tuple)) else node
