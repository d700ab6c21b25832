"""The import hook for ``import qlib…``, which returns Rollforge's own objects (table: :mod:`rollforge.qlib_names`).

A Qlib name is looked up first in the table, then in pyqlib if it is installed. Otherwise an error says why it is
not available. pyqlib's own modules run on top of Rollforge: their imports from Qlib also go through this hook. If the
table has a name that pyqlib's module also defines, Rollforge's object replaces it, so that pyqlib's classes derive from
it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from rollforge.errors import RollforgeError, nearest
from rollforge.qlib_names import MODULES, NOT_COVERED, PROGRAMS, REASONS

__all__ = ["NotCovered", "install", "is_qlib", "load", "names_of", "prepare", "target", "why_not"]

_SITE = str(Path(__file__).parent / "compat" / "qlib" / "_site")
_GUIDE = "docs/compat.md lists what is covered."


class NotCovered(RollforgeError, ModuleNotFoundError):
    """A Qlib module or name is neither in Rollforge nor in an installed pyqlib."""


# -- the table ---------------------------------------------------------------------------------------------------------


def is_qlib(module: str) -> bool:
    """Return whether a module path belongs to Qlib."""
    return module.partition(".")[0] == "qlib"


@functools.cache
def _own(module: str) -> Mapping[str, str]:
    """Name -> Rollforge's ``module:name``, or a key of REASONS, for the names that a Qlib module defines."""
    found = {}
    for source, names in MODULES.get(module, {}).items():
        for text in () if source == "also" else names.split():
            name, _, ours = text.partition("=")
            found[name] = source if source in REASONS else f"{source}:{ours or name}"
    return found


@functools.cache
def _owners() -> Mapping[str, str]:
    """Name -> the Qlib module that defines it; if there are several, the first (nothing relies on this)."""
    owners: dict[str, str] = {}
    for module in MODULES:
        for name in _own(module):
            owners.setdefault(name, module)
    return owners


@functools.cache
def _also(module: str) -> Mapping[str, tuple[str, str]]:
    """Name -> (module, name) in Qlib, for the names that a Qlib module imports from another."""
    found = {}
    for text in MODULES.get(module, {}).get("also", "").split():
        name, _, path = text.partition("=")
        home, _, original = path.rpartition(".") if path else (_owners()[name], "", name)
        found[name] = (home, original)
    return found


def _table_entry(module: str, name: str) -> str | None:
    """Return Rollforge's ``module:name`` or a key of REASONS; None if Qlib's module has no such name."""
    if name in _own(module):
        return _own(module)[name]
    if name in _also(module):
        return _table_entry(*_also(module)[name])
    return _uncovered(module)


def _uncovered(module: str) -> str | None:
    for path, reason in NOT_COVERED.items():
        prefix = path.removesuffix("*")
        if module == path or module.startswith(prefix if path.endswith("*") else f"{path}."):
            return reason
    return None


def target(module: str, name: str) -> str | None:
    """Return Rollforge's object for a name in a Qlib module, as ``module:name``; None if there is none.

    Examples
    --------
    >>> target("qlib.contrib.model.gbdt", "LGBModel")
    'rollforge.models.lightgbm:LGBModel'
    >>> target("qlib.contrib.data.handler", "DataHandlerLP")  # which Qlib's module imports from another
    'rollforge.features.handler:DataHandlerLP'
    """
    found = _table_entry(module, name)
    return found if found is not None and found not in REASONS else None


def names_of(module: str) -> list[str]:
    """Return the public names of a Qlib module that Rollforge has."""
    names = [*_own(module), *_also(module)]
    return sorted(n for n in names if not n.startswith("_") and target(module, n) is not None)


def why_not(module: str, name: str = "") -> str:
    """Return why a module, or a name in a module, is not available.

    Examples
    --------
    >>> why_not("qlib.rl.order_execution")
    'qlib.rl.order_execution is not covered: reinforcement learning is not supported, and pyqlib is not installed.
    docs/compat.md lists what is covered.'
    >>> why_not("qlib.data.filter", "NameFilter")
    "Qlib's module qlib.data.filter has no 'NameFilter'. Did you mean 'NameDFilter'?
    docs/compat.md lists what is covered."
    """
    path = f"{module}.{name}" if name else module
    reason = _table_entry(module, name) or _uncovered(path)
    if reason is not None and reason in REASONS:
        theirs = "pyqlib is not installed" if _top() is None else "the installed pyqlib does not have it"
        return f"{path} is not covered: {REASONS[reason]}, and {theirs}. {_GUIDE}"
    if name and module in MODULES:
        inner = [m.removeprefix(f"{module}.") for m in MODULES if m.startswith(f"{module}.")]
        known = [*_own(module), *_also(module), *inner]
        return f"Qlib's module {module} has no {name!r}.{nearest(name, known)} {_GUIDE}"
    return f"Qlib has no module {path}.{nearest(path, [*MODULES, *NOT_COVERED])} {_GUIDE}"


def _imported(path: str) -> object:
    where, _, name = path.partition(":")
    return getattr(importlib.import_module(where), name)


# -- pyqlib, where it is installed -------------------------------------------------------------------------------------


def _top() -> importlib.machinery.ModuleSpec | None:
    """Return the import spec of the package pyqlib."""
    found = importlib.machinery.PathFinder.find_spec("qlib", [p for p in sys.path if p != _SITE])
    return found if found is not None and found.submodule_search_locations else None


def _in_pyqlib(path: str) -> importlib.machinery.ModuleSpec | None:
    """Return the import spec of a pyqlib module."""
    top = _top()
    if top is None:
        return None
    assert top.submodule_search_locations is not None
    if path == "qlib":
        return top
    *folders, last = path.split(".")[1:]
    location = Path(next(iter(top.submodule_search_locations))).joinpath(*folders)
    found = importlib.machinery.PathFinder.find_spec(last, [str(location)])
    if found is None or found.origin is None:
        return None
    inner = found.submodule_search_locations
    return importlib.util.spec_from_file_location(path, found.origin, submodule_search_locations=inner)


class _PyqlibNamespace(MutableMapping[str, Any]):
    """The namespace of a pyqlib module while its code runs: Rollforge's names are not overwritten.

    Exception: a pyqlib class replaces a Rollforge object that is not a class, only inside its own module, because other
    classes of the module derive from it.
    """

    def __init__(self, names: dict[str, object], ours: Mapping[str, object], shown: dict[str, object]) -> None:
        self._names, self._ours, self._shown = names, ours, shown
        names.update(ours)

    def __getitem__(self, name: str) -> object:
        return self._names[name]

    def __setitem__(self, name: str, value: object) -> None:
        if name not in self._ours:
            self._shown[name] = value
        elif not isinstance(value, type) or isinstance(self._ours[name], type):
            return
        self._names[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self._ours:
            self._shown.pop(name, None)
            del self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_lock = threading.RLock()
_run: set[str] = set()  # modules whose pyqlib code has run or is running


def _run_pyqlib_module(module: ModuleType) -> None:
    """Run the code of pyqlib's module of this name, if there is one, and add its names to Rollforge's.

    Raises
    ------
    ImportError
        If pyqlib's code does not run on top of Rollforge.
    """
    name = module.__name__
    spec = _in_pyqlib(name)
    with _lock:
        if name in _run or spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return
        made = importlib.util.module_from_spec(spec)
        made.__name__ = name
        ours = {n: _imported(t) for n in [*_own(name), *_also(name)] if (t := target(name, n)) is not None}
        before = dict(module.__dict__)
        _run.add(name)  # before its code runs, because it can import itself
        try:
            code = importlib.util.decode_source(spec.loader.get_data(str(spec.origin)))
            names = _PyqlibNamespace(made.__dict__, ours, module.__dict__)
            exec(compile(code, str(spec.origin), "exec", dont_inherit=True), made.__dict__, names)
        except Exception as exc:  # noqa: BLE001 - whatever the code of an installed pyqlib raises
            _run.discard(name)
            module.__dict__.clear()
            module.__dict__.update(before)
            first = exc.__cause__ if isinstance(exc, _DoesNotRun) and exc.__cause__ is not None else exc
            raise _DoesNotRun(
                f"pyqlib's own module {name} does not run on top of Rollforge: {type(first).__name__}: {first}",
                name=name,
            ) from first


class _DoesNotRun(ImportError):
    """A pyqlib module needs something that is missing."""


# -- the modules -------------------------------------------------------------------------------------------------------


class _Module(ModuleType):
    """A Qlib module whose names are looked up on first use."""

    def __getattr__(self, name: str) -> object:
        module = self.__name__
        if name == "__all__":  # requested by "from qlib.constant import *"
            return names_of(module)
        if name.startswith("__") and name not in _own(module):
            raise AttributeError(name)
        found = target(module, name)
        path = ".".join(_also(module).get(name, (module, name)))  # an import can rename a module
        if found is not None:
            value = _imported(found)
        elif path in MODULES or _in_pyqlib(path) is not None:
            value = importlib.import_module(path)
        else:
            _run_pyqlib_module(self)
            if name not in self.__dict__:
                raise AttributeError(why_not(module, name))
            return self.__dict__[name]
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing qlib.backtest.backtest must not hide the function qlib.backtest.backtest.
        if isinstance(value, ModuleType) and target(self.__name__, name) is not None:
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *names_of(self.__name__)})


def _program(module: str) -> str | None:
    """Return the program that replaces a module that Qlib's documentation runs with ``python -m``."""
    package, _, last = module.rpartition(".")
    return PROGRAMS.get(package) if last == "__main__" else None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``qlib`` and its submodules."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if not is_qlib(fullname):
            return None
        if fullname in MODULES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if _program(fullname) is not None:
            return importlib.machinery.ModuleSpec(fullname, self, origin=fullname.rpartition(".")[0])
        theirs = _in_pyqlib(fullname)
        if theirs is not None:
            return theirs
        # Without its name: "from qlib.data import X" hides an ImportError that has the requested name.
        module, _, name = fullname.rpartition(".")
        raise NotCovered(
            why_not(module, name) if _uncovered(fullname) is None and module in MODULES else why_not(fullname)
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return an empty module; its names are looked up on first use."""
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code for ``python -m``: the program that replaces Qlib's module."""
        program = _program(fullname)
        if program is None:
            return None
        module, _, function = program.partition(":")
        return compile(f"from {module} import {function}\n{function}()\n", f"<{fullname}>", "exec")


class _Install:
    """Installs the hook for this process and the processes that it starts. Idempotent."""

    def __init__(self) -> None:
        self._finder = _Finder()

    def __call__(self) -> None:
        """Redirect ``import qlib`` to Rollforge.

        Raises
        ------
        ImportError
            If pyqlib itself has already been imported.
        """
        if _is_pyqlib_imported():
            raise ImportError("Import rollforge.compat.qlib before qlib: pyqlib itself has already been imported.")
        if self._finder not in sys.meta_path:
            sys.meta_path.insert(0, self._finder)
        if _SITE not in sys.path:
            sys.path.insert(0, _SITE)  # spawned processes inherit the path but not the finder
        inherited = os.environ.get("PYTHONPATH", "")
        if _SITE not in inherited.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join([_SITE, *([inherited] if inherited else [])])

    @property
    def package(self) -> ModuleType:
        """Return the module ``qlib``."""
        known = sys.modules.get("qlib")
        if isinstance(known, _Module):
            return known
        spec = self._finder.find_spec("qlib", None)
        assert spec is not None
        return importlib.util.module_from_spec(spec)


def _is_pyqlib_imported() -> bool:
    imported = sys.modules.get("qlib")
    return imported is not None and not isinstance(imported, _Module) and _SITE not in str(imported.__file__)


install = _Install()


def prepare() -> None:
    """Redirect ``import qlib`` to Rollforge in code imported later, and in processes started later.

    If the program has imported pyqlib itself, nothing changes.
    """
    if not _is_pyqlib_imported():
        install()


def load(module: str, name: str) -> Any:
    """Return the object for a name in a Qlib module: Rollforge's, or else pyqlib's.

    Raises
    ------
    NotCovered
        If neither has it, with the reason.
    ImportError
        If pyqlib has it but its module cannot be imported.
    """
    found = target(module, name)
    if found is not None:
        return _imported(found)
    prepare()
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise NotCovered(why_not(module, name)) from None
