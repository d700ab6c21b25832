"""Qlib's import paths, leading to Rollforge's own objects: other people's scripts run as they are.

    python -m rollforge.compat.qlib SCRIPT [ARGS]
    python -m rollforge.compat.qlib -m qlib.workflow.task.manage -t POOL task_stat

or, in a script of your own, ``import rollforge.compat.qlib`` before ``import qlib``. What is covered stands in one table,
:mod:`rollforge.compat.qlib.table`. Where pyqlib is installed too, modules that the table does not know (its models, for
example) are loaded from there, on top of these.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rollforge.compat.qlib.table import TABLE

__all__ = ["install"]

_SITE = str(Path(__file__).parent / "_site")
_GUIDE = "docs/compat.md lists what is covered"


class _Module(ModuleType):
    """A module of Qlib's whose names are looked up when they are used."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":  # what "from qlib.constant import *" asks for
            return self._public()
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        path = f"{self.__name__}.{name}"
        found = _find(self.__name__, name)
        if found is not None:
            value = found[0]
        elif path in TABLE or _in_pyqlib(path) is not None:
            value = importlib.import_module(path)
        else:
            raise ImportError(
                f"{path} is not covered by rollforge.compat.qlib; {_GUIDE}. Models and handlers of pyqlib itself can be "
                "used in tasks by their module_path when it is installed.",
                name=self.__name__,
            )
        setattr(self, name, value)
        return value

    def _public(self) -> list[str]:
        return sorted({n for source in TABLE.get(self.__name__, ()) for n in _names(source) if not n.startswith("_")})

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._public()})


def _names(source: Any) -> Sequence[str]:
    if not isinstance(source, str):
        return list(source)
    module = importlib.import_module(source)
    return list(getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")])


def _find(module: str, name: str) -> tuple[Any] | None:
    """What stands for a name of a module, in a tuple; None when nothing does."""
    for source in TABLE.get(module, ()):
        if not isinstance(source, str):
            if name in source:
                where, _, attribute = source[name].partition(":")
                return (getattr(importlib.import_module(where), attribute),)
        elif name in _names(source):
            return (getattr(importlib.import_module(source), name),)
    return None


def _in_pyqlib(path: str) -> importlib.machinery.ModuleSpec | None:
    """A module of pyqlib itself that the table does not have, where that is installed."""
    elsewhere = [p for p in sys.path if p != _SITE]
    top = importlib.machinery.PathFinder.find_spec("qlib", elsewhere)
    if top is None or not top.submodule_search_locations:
        return None
    *folders, last = path.split(".")[1:]
    location = Path(next(iter(top.submodule_search_locations))).joinpath(*folders)
    found = importlib.machinery.PathFinder.find_spec(last, [str(location)])
    if found is None or found.origin is None:
        return None
    inner = found.submodule_search_locations
    return importlib.util.spec_from_file_location(path, found.origin, submodule_search_locations=inner)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``qlib`` and what is in it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "qlib":
            return None
        if fullname in TABLE:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        theirs = _in_pyqlib(fullname)
        if theirs is not None:
            return theirs
        raise ModuleNotFoundError(
            f"{fullname} is not covered by rollforge.compat.qlib; {_GUIDE}. With pyqlib installed, its own module would be "
            "used.",
            name=fullname,
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return an empty module; its names come when they are used."""
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs."""


class _Install:
    """Puts the layer in place, for this process and those that it starts; any number of times."""

    def __init__(self) -> None:
        self._finder = _Finder()

    def __call__(self) -> None:
        """Let ``import qlib`` lead here."""
        if self._finder not in sys.meta_path:
            sys.meta_path.insert(0, self._finder)
            theirs = sys.modules.get("qlib")
            if theirs is not None and not isinstance(theirs, _Module) and _SITE not in str(theirs.__file__):
                raise ImportError("import rollforge.compat.qlib before qlib: pyqlib itself is imported already.")
        if _SITE not in sys.path:
            sys.path.insert(0, _SITE)  # processes that are spawned inherit the path, not the finder
        inherited = os.environ.get("PYTHONPATH", "")
        if _SITE not in inherited.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join([_SITE, *([inherited] if inherited else [])])

    @property
    def package(self) -> ModuleType:
        """The module ``qlib``."""
        known = sys.modules.get("qlib")
        if isinstance(known, _Module):
            return known
        spec = self._finder.find_spec("qlib", None)
        assert spec is not None
        return importlib.util.module_from_spec(spec)


install = _Install()
install()
