"""Hashes of code, on which cached values depend besides data and definitions.

:func:`code_version` covers Rollforge's own code, :func:`code_mark` the user's functions, classes and objects.
"""

from __future__ import annotations

import datetime as dt
import dis
import functools
import hashlib
import importlib.metadata
import importlib.util
import pickle
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np

__all__ = ["code_files", "code_mark", "code_version", "is_own_code", "panel_libraries"]

_HERE = Path(__file__).parent
_DECIDES = ("market", "expressions", "features", "code_marks.py", "dates.py", "frequency.py")
"""Modules whose code determines the values of a panel. A test follows the imports to check that the list is complete."""
_LIBRARIES = ("numpy", "pandas", "numba")
_PLAIN = (bool, int, float, complex, str, bytes, range, slice, type(...), np.generic, Decimal, Fraction, dt.date, dt.time,
          dt.timedelta, PurePath, re.Pattern)  # fmt: skip
"""Types whose repr is complete."""
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_NOT_CODE = frozenset(
    """__dict__ __weakref__ __doc__ __module__ __annotations__ __qualname__ __firstlineno__ __static_attributes__
    __abstractmethods__ _abc_impl __slotnames__ __annotate_func__ __annotations_cache__ __classcell__""".split()
)


def code_files() -> list[Path]:
    """Return the files of Rollforge whose code computes the contents of a panel."""
    places = [_HERE / name for name in _DECIDES]
    return [file for place in places for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])]


def panel_libraries() -> dict[str, str]:
    """Return the libraries that compute the contents of a panel, with their versions here."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


@functools.cache
def code_version() -> str:
    """Return a hash of Rollforge's code that computes and processes features, and of the libraries that it uses."""
    mark = hashlib.sha256(repr(list(panel_libraries().items())).encode())
    for file in code_files():
        mark.update(f"{file.parent.name}/{file.name}".encode() + b"\0" + file.read_bytes())
    return mark.hexdigest()[:16]


def code_mark(*parts: object, opaque: bool = False) -> str:
    """Return a hash of functions, classes and objects that changes when their code changes.

    A function is represented by its instructions, constants, defaults and closure, and by the user's functions,
    classes, modules and values that it names, recursively; a class by its methods and attributes. Installed packages
    are represented by their version and by the file of what is used, and estimators of installed packages by their
    attributes too. Calls that are only determined at run time (names composed from strings, objects passed by callers) are
    not covered.

    Parameters
    ----------
    *parts : object
        What is hashed.
    opaque : bool
        Whether to represent further objects of installed packages, such as random generators, by their pickles, which differ
        after each use, and Rollforge like an installed package. By default these objects are represented by their class, and
        Rollforge's code like the user's.
    """
    return hashlib.sha256(repr(_Description(opaque=opaque).of(list(parts))).encode()).hexdigest()[:16]


def is_own_code(thing: type | FunctionType) -> bool:
    """Return whether a class or function is the user's own: neither Rollforge's, nor from Python or an installed package."""
    module = thing.__module__ or ""
    return module.partition(".")[0] != "rollforge" and _is_own(module, _file_of(module))


class _Description:
    """Describes values as nested tuples, which are equal for equal code in every process."""

    def __init__(self, *, opaque: bool) -> None:
        self._opaque = opaque
        self._seen: dict[
            int, int
        ] = {}  # visited objects are represented by their number, because code can be recursive
        self._kept: list[object] = []  # keeps visited objects alive, so that their ids are not reused

    def _is_own(self, module: str | None, file: str | None) -> bool:
        if self._opaque and (module or "").partition(".")[0] == "rollforge":
            return False
        return _is_own(module, file)

    def of(self, value: object) -> object:
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, CodeType):
            return self._instructions(value)
        if isinstance(value, (list, tuple, set, frozenset, Mapping)) and type(value).__module__ == "builtins":
            return self._container(value)
        if id(value) in self._seen:
            return ("seen", self._seen[id(value)])
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        return self._object(value)

    def _container(self, value: Iterable[object]) -> object:
        if isinstance(value, (set, frozenset)):  # their order differs between processes
            return (type(value).__name__, sorted(repr(_Description(opaque=self._opaque).of(v)) for v in value))
        items = [(k, v) for k, v in value.items()] if isinstance(value, Mapping) else value
        return (type(value).__name__, [self.of(v) for v in items])

    def _object(self, value: object) -> object:  # noqa: C901 - one case a kind of object
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            return self._module(value)
        if isinstance(value, (staticmethod, classmethod)):
            return (type(value).__name__, self.of(value.__func__))
        if isinstance(value, property):
            return ("property", [self.of(f) for f in (value.fget, value.fset, value.fdel)])
        if isinstance(value, functools.partial):
            return ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, MethodType):
            return ("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, np.ndarray):
            return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series, pandas.Index)):
            return (type(value).__name__, self.of(pandas.util.hash_pandas_object(value).to_numpy()))
        if callable(value):
            inner = getattr(value, "__wrapped__", None) or getattr(value, "py_func", None)
            if inner is not None:  # cached and compiled functions
                return (type(value).__name__, self.of(inner))
        kind = type(value)
        if self._is_own(kind.__module__, getattr(sys.modules.get(kind.__module__), "__file__", None)):
            return (self.of(kind), self.of(getattr(value, "__dict__", None)))
        name = getattr(value, "__name__", "")
        if hasattr(value, "get_params") and hasattr(value, "__dict__"):  # with the parameters, or what it has learned
            return (self.of(kind), name, self.of(vars(value)))
        return (self.of(kind), name, _pickled(value)) if self._opaque else (self.of(kind), name)

    def _function(self, function: FunctionType) -> object:
        if not self._is_own(function.__module__, function.__code__.co_filename):
            return _installed(function.__module__, function.__qualname__)
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self.of(cell.cell_contents))
            except ValueError:  # a closure variable without a value yet
                cells.append(None)
        return (
            self._instructions(function.__code__),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            cells,
            [(name, self.of(value)) for name, value in _named(function)],
        )

    def _instructions(self, code: CodeType) -> object:
        constants = [self.of(c) for c in code.co_consts]
        return (code.co_code, constants, code.co_names, code.co_varnames)

    def _class(self, kind: type) -> object:
        described = []
        for one in kind.__mro__:
            if one is object:
                continue
            if not self._is_own(one.__module__, getattr(sys.modules.get(one.__module__), "__file__", None)):
                described.append(_installed(one.__module__, one.__qualname__))
                continue
            module = one.__module__.replace("__mp_main__", "__main__")  # the script's name in spawned processes
            members = [(k, self.of(v)) for k, v in sorted(vars(one).items(), key=lambda m: m[0]) if k not in _NOT_CODE]
            described.append((module, one.__qualname__, members))
        return described

    def _module(self, module: ModuleType) -> object:
        file = getattr(module, "__file__", None)
        if not self._is_own(module.__name__, file):
            return _installed(module.__name__, "")
        return (module.__name__, _digest(file))


def _named(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function refers to by name: module globals, attributes of the user's modules, inner imports."""
    codes, names, imported = [function.__code__], dict[str, None](), dict[str, None]()
    for code in codes:
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        names.update(dict.fromkeys(code.co_names))
        if _IMPORT_NAME in code.co_code[::2]:  # disassembling takes long, and few functions import anything
            imported.update(dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name, value
        if isinstance(value, ModuleType) and _is_own(value.__name__, getattr(value, "__file__", None)):
            yield from ((f"{name}.{n}", vars(value)[n]) for n in names if n in vars(value))
    package = function.__globals__.get("__package__")
    for name in imported:
        for path in (name, f"{package}.{name}") if package else (name,):
            file = _file_of(path)
            if file is not None and _is_own(path, file):
                yield path, _digest(file)


def _pickled(value: object) -> str:
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()[:16]
    except Exception:  # noqa: BLE001 - a lock or a connection, whose class may raise anything
        return ""


def _is_own(module: str | None, file: str | None) -> bool:
    """Return whether code is the user's own, or Rollforge's outside this folder, and not from Python or a package."""
    name = module or "__main__"
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return False
    if top == "rollforge":
        return not name.startswith(
            ("rollforge.market.", "rollforge.expressions.", "rollforge.features.")
        )  # covered by the version of Rollforge's code
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _installed(module: str | None, name: str) -> object:
    """Describe a name from an installed package by the package's version and the defining file."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", "rollforge", ""):
        return (module, name)
    version = getattr(sys.modules.get(top), "__version__", "")
    return (module, name, str(version), _digest(getattr(sys.modules.get(module or ""), "__file__", None)))


def _file_of(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(module)
    except (
        ImportError,
        ValueError,
        AttributeError,
    ):  # a missing package, or a module without a spec
        return None
    return None if found is None else found.origin


@functools.lru_cache(maxsize=1024)
def _content(file: str, changed_ns: int, size: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _digest(file: str | None) -> str:
    """Return a hash of a file's content; empty if the file does not exist."""
    try:
        about = Path(file or "").stat()
        return _content(str(file), about.st_mtime_ns, about.st_size)
    except OSError:  # a module typed interactively, or inside an archive
        return ""
