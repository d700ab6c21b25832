"""Source of a handler's label: the expressions that compute it, and whether anything else can change it.

Nothing is computed. A user-defined handler or loader is constructed, which computes no data, and the object is
inspected, because what its class declares may differ from what its constructor does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from rollforge import qlib_imports
from rollforge.build import build, locate
from rollforge.description import Description
from rollforge.errors import RollforgeError, shown
from rollforge.features.alpha import AlphaHandler
from rollforge.features.dataset import DatasetH
from rollforge.features.frame_folder import FrameLoader
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.loader import DataLoader, DataLoaderDH, NestedDataLoader, QlibDataLoader, StaticDataLoader
from rollforge.features.processor_base import Adapted
from rollforge.kinds import HANDLER, LOADER

__all__ = ["LabelSource", "dataset_changes_label", "label_source", "overridden"]

_HANDLERS = "rollforge.features.alpha"
_LOADERS = "rollforge.features.loader"
_PROCESSORS = "rollforge.features.processor"
# What a subclass may override without changing the label that its loader computes.
_HARMLESS = frozenset(
    {"get_feature_config", "get_label_config", "label_days", "label_horizon", "check", "any_range", "_abc_impl"}
)
_STEPS = ("shared_processors", "infer_processors", "learn_processors")


@dataclass(frozen=True, slots=True)
class LabelSource:
    """The expressions of a handler's label, and what else determines the label."""

    expressions: tuple[str, ...] | None
    """One per column; None if the label is not computed from expressions, or that is unknown."""
    changed_by: str = ""
    """Why the expressions do not determine the label, as a clause; empty if they do."""
    counts_days: bool = False
    """Whether a label that is not computed from expressions still counts the days of the calendar."""


def label_source(handler: object) -> LabelSource:
    """Return where the label of a handler comes from, without computing data.

    Parameters
    ----------
    handler : mapping, str or DataHandler
        The description of a handler, the address of a file, or an object.

    Examples
    --------
    >>> label_source({"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}).expressions
    ('Ref($close, -2)/Ref($close, -1) - 1',)
    >>> label_source("file://handler.pkl").changed_by
    'the handler is read from a file'
    """
    if isinstance(handler, str):
        return LabelSource(None, "the handler is read from a file")
    if not isinstance(handler, Mapping):
        return _of_handler(handler)
    if "class" not in handler:
        return LabelSource(None, "the task describes no handler")
    try:
        target = locate(handler["class"], handler.get("module_path") or _HANDLERS)
    except RollforgeError as exc:
        return LabelSource(None, f"the class of the handler cannot be imported: {exc}".rstrip("."))
    if isinstance(target, type) and _is_own(target) and issubclass(target, DataHandler):
        return _of_description(target, Description(handler).kwargs)
    try:
        return _of_handler(build(handler, kind=HANDLER, default_module=_HANDLERS))
    except Exception as exc:  # noqa: BLE001 - whatever the constructor of a class of the user's raises
        return LabelSource(None, f"the handler {_name(target)} cannot be built: {_first_line(exc)}")


def dataset_changes_label(dataset: object) -> str:
    """Return why a dataset may change the label that its handler provides, as a clause; empty if it does not.

    Parameters
    ----------
    dataset : mapping
        The description of a dataset.
    """
    if not isinstance(dataset, Mapping) or "class" not in dataset:
        return ""
    try:
        target = locate(dataset["class"], dataset.get("module_path"))
    except RollforgeError:
        return ""  # reported when the dataset is built
    if not isinstance(target, type) or _is_own(target):
        return ""
    if not issubclass(target, DatasetH):
        return f"the dataset {_name(target)} may create its own label"
    changed = overridden(target) - {"setup_data", "config", "explain_missing"}
    return f"the dataset {_name(target)} overrides {', '.join(sorted(changed))}" if changed else ""


def _of_description(target: type, kwargs: Mapping[str, object]) -> LabelSource:
    """Return the source of the label of one of this package's handlers, which need not be built."""
    if issubclass(target, AlphaHandler):
        label = kwargs.get("label") or target.get_label_config(None)  # type: ignore[arg-type]  # it does not use self
        source = LabelSource(_expressions(label))
        if source.expressions is None:
            source = LabelSource(None, f"the label {shown(label)} is not a list of expressions")
        changed = _changed_by_inst_processors(kwargs.get("inst_processors"))
        source = _also(source, changed)
    else:
        source = _of_described_loader(kwargs.get("data_loader"))
    independent = kwargs.get("process_type") == DataHandlerLP.PTYPE_I
    if issubclass(target, DataHandlerLP):
        for name in _STEPS:
            if name != "infer_processors" or not independent:
                listed = kwargs.get(name) or ()
                source = _also(source, _changed_by(listed if isinstance(listed, (list, tuple)) else [listed]))
    return source


def _of_described_loader(loader: object) -> LabelSource:
    try:
        if isinstance(loader, (list, tuple)):
            loader = QlibDataLoader(loader)
        return _of_loader(build(loader, kind=LOADER, accept_types=DataLoader, default_module=_LOADERS))
    except Exception as exc:  # noqa: BLE001 - whatever the constructor of a class of the user's raises
        return LabelSource(None, f"the loader cannot be built: {_first_line(exc)}")


def _of_handler(handler: object) -> LabelSource:
    kind = type(handler)
    if not isinstance(handler, DataHandler):
        return LabelSource(None, f"the handler {_name(kind)} is not derived from DataHandler")
    found = _of_loader(getattr(handler, "data_loader", None))
    changed = overridden(kind, vars(handler)) - {"config"}
    if changed:
        found = _also(found, f"the handler {_name(kind)} overrides {', '.join(sorted(changed))}")
    return _also(found, _changed_by(handler.steps(handler.DK_L)))


def _of_loader(loader: object) -> LabelSource:
    columns, changed = _columns(loader)
    counts_days = isinstance(loader, FrameLoader)
    return LabelSource(None if columns is None else tuple(columns.values()), changed, counts_days)


_Columns = tuple[dict[str, str] | None, str]
"""Column of the label -> expression, or None; and why the expressions do not determine the label."""


def _columns(loader: object) -> _Columns:
    kind = type(loader)
    if not isinstance(loader, DataLoader):
        return None, "the handler has no loader" if loader is None else f"the label is loaded by {_name(kind)}"
    if overridden(kind, vars(loader)):
        return None, f"the label is loaded by {_name(kind)}"
    if isinstance(loader, QlibDataLoader):
        if not loader.is_group:
            return None, "the columns have no groups, so none is marked as the label"
        fields, names = loader.groups.get("label", ([], []))
        changed = _changed_by_inst_processors(loader.inst_processors)
        return dict(zip(names, fields, strict=True)), changed
    if isinstance(loader, NestedDataLoader):
        return _nested([_columns(one) for one in loader.data_loader_l])
    if isinstance(loader, DataLoaderDH):
        if loader.is_group and "label" not in loader.handlers:
            return {}, ""
        found = label_source(loader.handlers["label"] if loader.is_group else loader.handlers)
        expressions = found.expressions
        return None if expressions is None else dict(zip(expressions, expressions, strict=True)), found.changed_by
    if isinstance(loader, StaticDataLoader) and isinstance(loader.config, Mapping) and "label" not in loader.config:
        return {}, ""
    if isinstance(loader, (StaticDataLoader, FrameLoader)):
        return None, "the label is read precomputed from a frame or a file"
    return None, f"the label is loaded by {_name(kind)}"


def _nested(parts: Iterable[_Columns]) -> _Columns:
    whole: dict[str, str] = {}
    reason: list[str] = []
    known = True
    for columns, changed in parts:
        known = known and columns is not None
        whole.update(columns or {})
        reason += [changed] if changed else []
    return whole if known else None, " and ".join(dict.fromkeys(reason))


def _changed_by_inst_processors(processors: object) -> str:
    """Return why processors of single instruments may change the label, as a clause; empty if they do not."""
    if isinstance(processors, Mapping):
        processors = processors.get("label")
    return _changed_by(processors if isinstance(processors, (list, tuple)) else [processors] if processors else ())


def _changed_by(processors: Iterable[object]) -> str:
    """Return why processors may change the label, as a clause; empty if they do not.

    This package's processors do not: they change values within a day, or with what was learned in the fit window.
    """
    others = [_processor_name(one) for one in processors if one and not _is_own_processor(one)]
    return f"{' and '.join(dict.fromkeys(others))} may create or change the label" if others else ""


def _is_own_processor(one: object) -> bool:
    if isinstance(one, Adapted):
        return False
    if not isinstance(one, (str, Mapping)):
        return _is_own(type(one))
    name, module = (one, None) if isinstance(one, str) else (one.get("class"), one.get("module_path"))
    if not isinstance(name, str):
        return isinstance(name, type) and _is_own(name)
    if module is None and "." in name:
        module, _, name = name.rpartition(".")
    module = module or _PROCESSORS
    # A user's module is not imported just to find out.
    if not isinstance(module, str) or not (qlib_imports.is_qlib(module) or _is_own_module(module)):
        return False
    try:
        return _is_own(locate(name, module))
    except RollforgeError:
        return True  # reported when the handler is built


def _processor_name(one: object) -> str:
    if isinstance(one, Adapted):
        one = one.processor
    if isinstance(one, Mapping):
        one = one.get("class")
    return str(one).rpartition(".")[2] if isinstance(one, str) else _name(one if isinstance(one, type) else type(one))


def overridden(kind: type, given: Mapping[str, object] = MappingProxyType({})) -> frozenset[str]:
    """Return which attributes of this package's classes the user's classes among the bases of `kind` override.

    Parameters
    ----------
    kind : type
        Class of a handler, loader or dataset.
    given : mapping, optional
        Attributes of an object; those that replace a method count as overridden.
    """
    own = {name for base in kind.__mro__ if _is_own(base) for name in vars(base)}
    theirs = {name for base in kind.__mro__ if not _is_own(base) and base is not object for name in vars(base)}
    replaced = {name for name, value in given.items() if callable(value) and callable(getattr(kind, name, None))}
    return frozenset(
        n for n in own & (theirs | replaced) if n not in _HARMLESS and not (n.startswith("__") and n.endswith("__"))
    )


def _also(found: LabelSource, changed: str) -> LabelSource:
    """Return the source with a further reason why the expressions do not determine the label."""
    return replace(found, changed_by=" and ".join(filter(None, (found.changed_by, changed)))) if changed else found


def _is_own(target: object) -> bool:
    return _is_own_module(getattr(target, "__module__", "") or "")


def _is_own_module(module: str) -> bool:
    return module.partition(".")[0] == "rollforge"


def _name(target: object) -> str:
    return str(getattr(target, "__name__", target))


def _first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0].rstrip(".")


def _expressions(label: object) -> tuple[str, ...] | None:
    """Return the expressions of a label: a string, a list, or ``[expressions, names]``; None for anything else."""
    first = label[0] if isinstance(label, (list, tuple)) and label and isinstance(label[0], (list, tuple)) else label
    listed = [first] if isinstance(first, str) else first
    return tuple(listed) if isinstance(listed, (list, tuple)) and all(isinstance(e, str) for e in listed) else None
