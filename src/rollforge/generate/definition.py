"""The objects that produce a task's data: its handlers, loaders and processors, built without computing data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollforge.build import build
from rollforge.errors import RollforgeError
from rollforge.features.frame_folder import FrameLoader
from rollforge.features.handler import DataHandler
from rollforge.features.label_source import overridden
from rollforge.features.loader import DataLoader, DataLoaderDH, DLWParser, NestedDataLoader, StaticDataLoader
from rollforge.features.processor_base import Adapted
from rollforge.kinds import HANDLER
from rollforge.trust import Origin, current_origin

__all__ = ["PRECOMPUTED", "DataParts", "Named", "data_parts", "is_ours", "kind_of", "own_classes"]

_MAX_DEPTH = 5

PRECOMPUTED = "features are read precomputed from a frame or a file"
"""Why nothing is known about features, neither from their definition nor by replacing market data."""


@dataclass(frozen=True, slots=True)
class Named:
    """A processor, filter or universe, and where it is used."""

    one: Any
    handler: str = ""
    """The class of the handler that has it."""
    inferring: bool = False
    """Whether it is used for the data for inference."""


@dataclass(slots=True)
class DataParts:
    """Parts of a definition that determine the data of a task."""

    expressions: dict[str, str] = field(default_factory=dict)
    """Feature expression -> name of its column."""
    ungrouped: dict[str, str] = field(default_factory=dict)
    """Expressions of columns without groups, which may be features or labels."""
    unread: list[str] = field(default_factory=list)
    """Why features are not known, one clause for each source."""
    unbuilt: list[str] = field(default_factory=list)
    """Why processors are not known, one clause for each handler that was not built."""
    processors: list[Named] = field(default_factory=list)
    inst_processors: list[object] = field(default_factory=list)
    universes: list[object] = field(default_factory=list)
    """Universes, with their filters."""


def is_ours(kind: object) -> bool:
    """Return whether a class belongs to this package (or is Qlib's own, which means the same)."""
    return (getattr(kind, "__module__", "") or "").partition(".")[0] in ("rollforge", "qlib")


_CLASS_PATH = re.compile(r"([a-z_]\w*\.)+[A-Z]\w*[a-z]\w*")
"""A path such as ``my_package.MyModel``, but not a ticker such as ``BRK.B`` or ``sh600000.XSHG``."""


def own_classes(described: object, *, deep: bool = True) -> list[str]:
    """Return the names of the classes in a description, or of an object, that are not this package's.

    Parameters
    ----------
    described : mapping, str, list or object
        Descriptions ``{"class": …, "module_path": …, "kwargs": …}``, or paths such as ``my_package.MyModel`` and
        ``file:///path/object.pkl``; nothing is imported.
    deep : bool
        Whether classes among the arguments are returned too.

    Examples
    --------
    >>> mine = {"class": "mine.Mean"}
    >>> own_classes({"class": "AverageEnsemble", "kwargs": {"of": [mine]}}), own_classes({"class": "A", "module_path": "b.py"})
    (['Mean'], ['A'])
    """
    if isinstance(described, (list, tuple)):
        return [name for one in described for name in own_classes(one, deep=deep)]
    if isinstance(described, str):
        if described.startswith("file://"):
            return [described.rpartition("/")[2]]
        return own_classes({"class": described}) if _CLASS_PATH.fullmatch(described) else []
    if not isinstance(described, Mapping):
        plain = described is None or isinstance(described, (int, float))
        return [] if plain or is_ours(type(described)) else [type(described).__name__]
    found = []
    target, module = described.get("class"), described.get("module_path")
    if isinstance(target, type):
        found = [] if is_ours(target) else [target.__name__]
    elif isinstance(target, str):
        before, _, name = target.rpartition(".")
        place = str(module or before)  # a module or a file; none means one of this package's
        found = [] if place.partition(".")[0] in ("rollforge", "qlib") or not place else [name]
    inner = [value for key, value in described.items() if key not in ("class", "module_path")] if deep else []
    return [*found, *(name for value in inner for name in own_classes(_contained(value)))]


def _contained(value: object) -> object:
    """Return a value if it can contain descriptions, or is the path of a class."""
    path = isinstance(value, str) and _CLASS_PATH.fullmatch(value)
    return value if path or isinstance(value, (Mapping, list, tuple)) else None


def kind_of(one: object) -> type:
    """Return the class of an object; of an adapted processor the user's class."""
    return type(one.processor) if isinstance(one, Adapted) else type(one)


def data_parts(handler: object) -> DataParts:
    """Return what determines the data of a handler.

    Parameters
    ----------
    handler : mapping, str or DataHandler
        A description with resolved references, the address of a file, or an object.
    """
    parts = DataParts()
    if current_origin() is Origin.READ:
        return _unbuilt(parts, "objects that a pool describes are not built for a report")
    if not handler or (isinstance(handler, Mapping) and "class" not in handler):
        parts.unread.append("the task describes no handler")
        return parts
    try:
        made = build(handler, kind=HANDLER, default_module="rollforge.features.alpha", accept_types=DataHandler)
    except Exception as exc:  # noqa: BLE001 - whatever the constructor of a class of the user's raises
        first = (str(exc) or type(exc).__name__).splitlines()[0].rstrip(".")
        return _unbuilt(parts, f"the handler cannot be built here: {first}")
    _add_handler(parts, made, "features", 0)
    return parts


def _unbuilt(parts: DataParts, reason: str) -> DataParts:
    parts.unread.append(reason)
    parts.unbuilt.append(reason)
    return parts


def _add_handler(parts: DataParts, handler: object, what: str, depth: int) -> None:
    kind = type(handler)
    if not isinstance(handler, DataHandler) or depth > _MAX_DEPTH:
        _unbuilt(parts, f"the {what} are made by {kind.__name__}, a class of your own")
        return
    changed = overridden(kind, vars(handler)) - {"config"}
    if changed:
        parts.unread.append(f"the handler {kind.__name__} overrides {', '.join(sorted(changed))}")
    _add_loader(parts, handler.data_loader, handler.instruments, depth)
    seen: set[int] = set()
    for stage in (handler.DK_I, handler.DK_L):
        for one in _steps(handler, stage):
            if id(one) not in seen:
                seen.add(id(one))
                parts.processors.append(Named(one, kind.__name__, stage == handler.DK_I))


def _steps(handler: DataHandler, stage: str) -> Iterator[object]:
    with contextlib.suppress(RollforgeError, AttributeError):  # reported when the handler is used
        yield from handler.steps(stage)


def _add_loader(parts: DataParts, loader: object, instruments: object, depth: int) -> None:
    kind = type(loader)
    if not isinstance(loader, DataLoader) or overridden(kind, vars(loader)):
        parts.unread.append(f"features are loaded by {kind.__name__}, a class of your own")
        parts.universes.append(instruments)
        return
    if isinstance(loader, DLWParser):
        _add_expressions(parts, loader)
        parts.universes += _universes(loader, instruments)
        listed = getattr(loader, "inst_processors", None) or []
        groups = listed.values() if isinstance(listed, Mapping) else [listed]
        parts.inst_processors += [one for group in groups for one in (group or []) if one]
    elif isinstance(loader, NestedDataLoader):
        for one in loader.data_loader_l:
            _add_loader(parts, one, instruments, depth + 1)
    elif isinstance(loader, DataLoaderDH):
        inner = loader.handlers
        for group, handler in inner.items() if loader.is_group else [("", inner)]:
            known = DataParts()
            _add_handler(known, handler, "features", depth + 1)
            if group == "label":  # its columns are labels
                known.expressions, known.ungrouped, known.unread = {}, {}, []
            elif group:
                known.expressions |= known.ungrouped
                known.ungrouped = {}
            _add(parts, known)
    elif isinstance(loader, (StaticDataLoader, FrameLoader)):
        parts.unread.append(PRECOMPUTED)
    else:
        parts.unread.append(f"features are loaded by {kind.__name__}")


def _universes(loader: DLWParser, instruments: object) -> list[object]:
    try:
        return loader.universes(instruments)
    except RollforgeError:  # reported when the data are loaded
        return [instruments]


def _add_expressions(parts: DataParts, loader: DLWParser) -> None:
    for group, (fields, names) in loader.groups.items():
        if not loader.is_group:
            parts.ungrouped |= dict(zip(fields, names, strict=True))
        elif group != "label":
            parts.expressions |= dict(zip(fields, names, strict=True))


def _add(parts: DataParts, more: DataParts) -> None:
    parts.expressions |= more.expressions
    parts.ungrouped |= more.ungrouped
    parts.unread += more.unread
    parts.unbuilt += more.unbuilt
    parts.processors += more.processors
    parts.inst_processors += more.inst_processors
    parts.universes += more.universes
