"""The kind of class that each place in a definition requires, checked before the class is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.errors import ConfigError, nearest, shown

__all__ = [
    "DATASET",
    "HANDLER",
    "INST_PROCESSOR",
    "LOADER",
    "MODEL",
    "PROCESSOR",
    "RECORD",
    "REWEIGHTER",
    "SIGNAL",
    "Kind",
    "as_list",
    "fetch_arguments",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """Requirements on the class of an object in a definition, checked before the class is called.

    Examples
    --------
    >>> Kind("model", methods=("fit", "predict")).lacks(dict)
    'it has no fit()'
    """

    noun: str
    """The noun used in messages."""
    base: type | None = None
    """Subclasses of this class are accepted."""
    methods: tuple[str, ...] = ()
    """Classes that have all of these methods are accepted too. If empty, only `base` counts."""
    alone: tuple[str, ...] = ()
    """The methods that are called with one argument, such as ``fit(dataset)``."""
    argument: str = ""
    """What that argument is."""

    def lacks(self, cls: type) -> str:
        """Return why a class is not of this kind, or an empty string if it is."""
        derived = self.base is not None and issubclass(cls, self.base)
        missing = next((m for m in self.methods if not _has_method(cls, m)), None)
        if missing is not None and not derived:
            return f"it has no {missing}()"
        for name in self.alone:
            more = _required_arguments(cls, name)
            if len(more) > 1:
                return f"its {name}() needs {', '.join(more)}, but is called with only a {self.argument}"
        if self.methods or derived:
            return ""
        assert self.base is not None
        return f"it does not derive from {self.base.__module__}.{self.base.__qualname__}"


def as_list(given: object, nouns: str, *, path: str) -> list[Any]:
    """Return the entries of a list in a definition; none for None. Scripts may pass other collections, such as an index.

    Raises
    ------
    ConfigError
        If it is something else, such as a single object or a string.

    Examples
    --------
    >>> as_list(("Fillna",), "processors", path="infer_processors")
    ['Fillna']
    """
    if given is None:
        return []
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"expected a list of {nouns}, found {shown(given)}.", path=path)
    return list(given)


def fetch_arguments(handler: Any, given: object, *, path: str = "fetch_kwargs") -> dict[str, Any]:
    """Return further arguments for a handler's ``fetch``, checked against its signature before anything is computed.

    Raises
    ------
    ConfigError
        If `given` is not a mapping, ``fetch`` has no argument of a name, or ``proc_func`` is not a function.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping of arguments for the handler's fetch(), found {shown(given)}.", path=path)
    try:
        parameters = list(inspect.signature(handler.fetch).parameters.values())
    except (TypeError, ValueError):
        return dict(given)
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = named[1:]  # the first is the days
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in given:
        if not isinstance(name, str) or (name not in allowed and not any_name):
            raise ConfigError(
                f"{type(handler).__name__}.fetch() takes no argument {name!r}.{nearest(str(name), allowed)} "
                f"Its arguments: {', '.join(allowed) or 'none'}.",
                path=path,
            )
    function = given.get("proc_func")
    if function is not None and not callable(function):
        raise ConfigError(
            f"must be a function, found {shown(function)}. In a workflow file, use a processor instead.",
            path=f"{path}.proc_func",
        )
    return dict(given)


def _has_method(cls: type, name: str) -> bool:
    """Return whether instances have a method. Methods of the metaclass, such as ``__call__``, do not count."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None) is not None


def _required_arguments(cls: type, name: str) -> list[str]:
    """Return the required arguments of a method; empty if its signature is unknown."""
    try:
        parameters = list(inspect.signature(getattr(cls, name)).parameters.values())
    except (TypeError, ValueError):
        return []
    is_bound = isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
    bound = parameters if is_bound else parameters[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # A reweighter is passed by name, and only to the model of a task that has one.
    return [p.name for p in bound if p.kind in positional and p.default is p.empty and p.name != "reweighter"]


MODEL = Kind("model", methods=("fit", "predict"), alone=("fit",), argument="dataset")
REWEIGHTER = Kind("reweighter", methods=("reweight",))
DATASET = Kind("dataset", methods=("prepare",))
HANDLER = Kind("handler", methods=("fetch",))
LOADER = Kind("loader", methods=("load",))
PROCESSOR = Kind("processor", methods=("__call__", "fit", "is_for_infer"))
INST_PROCESSOR = Kind("processor of single instruments", methods=("__call__",))
RECORD = Kind("record", methods=("generate",))
SIGNAL = Kind("signal", methods=("get_signal",))
