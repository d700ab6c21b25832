"""The kind of class that each place in a definition requires, checked before the class is called."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

__all__ = [
    "DATASET",
    "HANDLER",
    "INST_PROCESSOR",
    "LOADER",
    "MODEL",
    "NOTIFIER",
    "PROCESSOR",
    "RECORD",
    "REWEIGHTER",
    "SIGNAL",
    "Kind",
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
    named: tuple[str, ...] = ()
    """Further arguments that ``__call__`` is called with, by name."""

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
        for name in self.named:
            if not _takes(cls, name):
                return f"its __call__() takes no argument {name!r}"
        if self.methods or derived:
            return ""
        assert self.base is not None
        return f"it does not derive from {self.base.__module__}.{self.base.__qualname__}"


def _has_method(cls: type, name: str) -> bool:
    """Return whether instances have a method. Methods of the metaclass, such as ``__call__``, do not count."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None) is not None


def _takes(cls: type, name: str) -> bool:
    """Return whether ``__call__`` takes an argument of that name; True if its signature is unknown."""
    try:
        parameters = inspect.signature(cls.__call__).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


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
INST_PROCESSOR = Kind("processor of single instruments", methods=("__call__",), named=("instrument",))
RECORD = Kind("record", methods=("generate",))
SIGNAL = Kind("signal", methods=("get_signal",))
NOTIFIER = Kind("notifier", methods=("notify",), alone=("notify",), argument="document")
