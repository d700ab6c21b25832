"""Modules that a definition may name, depending on the origin of the definition.

There are four origins (``docs/security.md``):

====================  ====================================================================================================
:attr:`Origin.OWN`    this user's own workflow file or script: it may name any class of the kind that its place requires
:attr:`Origin.POOL`   a task of a pool that others may write to: Rollforge, Qlib's names, the model libraries, and
                      packages that the operator allowed
:attr:`Origin.READ`   listing, copying, collecting and reporting: Rollforge's classes may be inspected, not built
:attr:`Origin.FILE`   what an object read from a file describes, such as the processors of a loader: as in a pool.
                      Reading itself restores values and calls nothing (:mod:`rollforge.safe_pickle`)
====================  ====================================================================================================

Classes of Python's standard library are never built, whatever the origin. Functions named in a definition are called only
for the first origin. What matters is where a class is *defined*, because a module also exposes the names that it imported.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

from rollforge.drivers import installed
from rollforge.errors import BuildError, CodeNotAllowed, ConfigError, shown, with_article
from rollforge.paths import read_path
from rollforge.session import current_session
from rollforge.user_code import module_name

__all__ = [
    "PLUGIN_GROUP",
    "RESTORED",
    "Origin",
    "advise_once",
    "allowed_file",
    "check_allowable",
    "check_allowed",
    "check_built",
    "check_defined",
    "check_import",
    "check_names",
    "check_reference",
    "check_reference_import",
    "checked_plugins",
    "current_origin",
    "from_origin",
    "is_allowed_module",
    "is_library",
    "is_own",
    "loads_back",
    "mark_as_own",
    "names_in",
    "of_restored",
    "parse_allowed",
    "plugin_module",
    "remember",
    "set_process_origin",
]


class Origin(StrEnum):
    """Origin of a definition, which determines the modules that it may name."""

    OWN = "own"
    """This user's own file or script."""
    POOL = "pool"
    """A pool that others may write to."""
    FILE = "file"
    """An object read from a file without ``trusted=True``."""
    READ = "read"
    """A definition that is only inspected; nothing is built."""


RESTORED = "_restored"
"""Attribute of handlers and loaders read from a file; see :func:`of_restored`."""
_VARIABLE = "ROLLFORGE_ORIGIN"
_LIBRARIES = frozenset({"rollforge", "qlib", "lightgbm", "xgboost", "catboost", "sklearn", "torch"})
"""Packages that a task of a pool may always name: Rollforge, Qlib's names, and the model libraries."""
_OWN_LIBRARIES = frozenset({"rollforge", "qlib"})
_VALUE_TYPES = frozenset(
    {
        "bool",
        "bytes",
        "bytearray",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "set",
        "str",
        "tuple",
    }
)
_VALUE_LIBRARIES = frozenset(
    {
        "array",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "json",
        "numpy",
        "pandas",
        "pathlib",
        "re",
        "uuid",
    }
)
"""Libraries whose classes may be arguments, such as a ``dtype``: creating one has no side effects. Never built."""
_BUILT_FOR_REPORTS = frozenset(
    {
        "rollforge.collect.ensemble",
        "rollforge.record.strategy",
        "rollforge.record.weights",
        "rollforge.record.executor",
    }
)
"""The classes that join the predictions of a report and compute its backtest."""

_process: list[Origin] = [Origin(os.environ[_VARIABLE]) if os.environ.get(_VARIABLE) in set(Origin) else Origin.OWN]
_origin: ContextVar[Origin | None] = ContextVar("rollforge_origin", default=None)
_remembered: set[str] = set()
_own_tasks: set[str] = set()


# -- origins -----------------------------------------------------------------------------------------------------------


def current_origin() -> Origin:
    """Return the current origin."""
    return _origin.get() or _process[0]


@contextlib.contextmanager
def from_origin(inner: Origin) -> Iterator[None]:
    """Use another origin inside the ``with`` block, in this thread."""
    token = _origin.set(inner)
    try:
        yield
    finally:
        _origin.reset(token)


def set_process_origin(process: Origin) -> None:
    """Set the origin of this process, of all its threads, and of the processes that it starts."""
    _process[0] = process
    os.environ[_VARIABLE] = process.value


def mark_as_own(task_ids: Iterable[str]) -> None:
    """Mark tasks that this process submitted as the user's own code, here and in the worker processes it starts."""
    _own_tasks.update(task_ids)


def is_own(task_id: str, text: str) -> bool:
    """Return whether this process submitted the task whose stored definition is `text`.

    The id of a task is the hash of its definition, so a substituted definition is not accepted.

    Examples
    --------
    >>> from rollforge.task import digest, encode
    >>> task = {"model": {"class": "Mine", "module_path": "my_model"}}
    >>> is_own(digest(task), encode(task))
    False
    >>> mark_as_own([digest(task)])
    >>> is_own(digest(task), encode(task)), is_own(digest(task), encode({**task, "x": 1}))
    (True, False)
    """
    return task_id in _own_tasks and hashlib.sha256(text.encode("utf-8", "replace")).hexdigest().startswith(task_id)


# -- what the operator allowed -----------------------------------------------------------------------------------------


def parse_allowed(text: str) -> tuple[str, ...]:
    """Return the packages and files in the value of ``ROLLFORGE_ALLOW``.

    Examples
    --------
    >>> parse_allowed("my_package, other:/home/me/model.py")
    ('my_package', 'other', '/home/me/model.py')
    """
    return tuple(part for part in re.split(rf"[,\s{re.escape(os.pathsep)}]+", text) if part)


def checked_plugins(named: Iterable[str], *, folder: Path | None = None, path: str) -> tuple[str, ...]:
    """Validate a list of allowed packages and ``.py`` files, and return it with absolute file paths.

    Parameters
    ----------
    named : iterable of str
        Dotted names, files, and names of installed plugins (:func:`plugin_module`).
    folder : path, optional
        Additional folder in which files are looked up.
    path : str
        Location in the document, for errors.

    Raises
    ------
    ConfigError
        For a missing file, an invalid name, and the standard library.
    """
    plugins = []
    for name in named:
        if name.endswith(".py"):
            places = [read_path(name, path), *([folder / name] if folder is not None else [])]
            found = next((p for p in places if os.path.isfile(p)), None)
            if found is None:
                raise ConfigError(f"the file {name!r} does not exist.", path=path)
            plugins.append(os.path.normpath(found.absolute()))
        else:
            check_allowable(name, path=path)
            plugins.append(plugin_module(name))
    check_allowed()
    return tuple(plugins)


def check_allowable(package: str, *, path: str) -> None:
    """Raise an error if a package name cannot be allowed.

    Raises
    ------
    ConfigError
        For an invalid name, for the standard library, whose classes run commands and open files, and for
        ``__main__``, which is a different program in each process.
    """
    package = plugin_module(package)
    parts = package.split(".")
    if not all(part.isidentifier() for part in parts):
        known = ", ".join(_installed_plugins())
        raise ConfigError(
            f"{shown(package)} is not a package, a .py file or an installed plugin{f' ({known})' if known else ''}.",
            path=path,
        )
    if _is_standard(package) or "__main__" in parts:
        whose = "the standard library" if _is_standard(package) else "the program that runs"
        raise ConfigError(
            f"{shown(package)} cannot be allowed, because it belongs to {whose}. Allow the package or the .py file "
            "that defines your classes.",
            path=path,
        )


PLUGIN_GROUP = "rollforge.plugins"
"""Group of the entry points through which installed packages provide plugins."""


def plugin_module(name: str) -> str:
    """Return the module of an installed plugin; any other name is returned unchanged.

    The entry points of the group ``rollforge.plugins`` give names to modules, and nothing else: they are neither
    imported nor allowed until a user lists the name. A module of that name takes precedence, so that installing a
    package cannot change what a name means.

    Examples
    --------
    >>> plugin_module("my_package.models")
    'my_package.models'
    """
    if name.endswith(".py") or _is_module(name):
        return name
    return _installed_plugins().get(name, name)


def _installed_plugins() -> dict[str, str]:
    """Return the installed plugins, as name -> module. Entry points in another form are left out."""
    pattern = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
    return {point.name: point.value for point in installed(PLUGIN_GROUP) if pattern.fullmatch(point.value)}


def _is_module(name: str) -> bool:
    top = name.partition(".")[0]
    try:
        return name.replace(".", "").isidentifier() and (top in sys.modules or find_spec(top) is not None)
    except (ImportError, ValueError):
        return False


def check_allowed() -> None:
    """Raise an error if the operator's allow-list is invalid. Called before any work begins.

    Raises
    ------
    ConfigError
        For a name in ``ROLLFORGE_ALLOW`` or in the session's `plugins` that :func:`check_allowable` refuses.
    """
    _allowed()


@functools.lru_cache(maxsize=64)
def _from_environment(text: str) -> tuple[str, ...]:
    allowed = parse_allowed(text)
    for name in allowed:
        if not name.endswith(".py"):
            check_allowable(name, path="ROLLFORGE_ALLOW")
    return tuple(map(plugin_module, allowed))


@functools.lru_cache(maxsize=64)
def _from_session(named: tuple[str, ...]) -> tuple[str, ...]:
    for name in named:
        if not name.endswith(".py"):
            check_allowable(name, path="plugins")
    return tuple(map(plugin_module, named))


def _allowed() -> tuple[str, ...]:
    session = current_session()
    named = _from_session((*session.plugins, *session.allow))
    return (*_from_environment(os.environ.get("ROLLFORGE_ALLOW", "")), *named)


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def allowed_file(module: str) -> str | None:
    """Return the allowed ``.py`` file from which a module was, or would be, loaded."""
    made_of = getattr(sys.modules.get(module), "__rollforge_file__", ("",))[0]
    files = [a for a in _allowed() if a.endswith(".py")]
    return next((a for a in files if module == module_name(a) or (made_of and made_of == _real(a))), None)


def _real(path: str) -> str:
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, ValueError, RuntimeError):  # an invalid path
        return ""


def _is_allowed_file(path: str) -> bool:
    real = _real(path)
    return bool(real) and any(_real(a) == real for a in _allowed() if a.endswith(".py"))


def is_library(package: str) -> bool:
    """Return whether every task may name a package's classes without it being on the allow-list."""
    return package.partition(".")[0] in _LIBRARIES and not package.endswith(".py")


def is_allowed_module(module: str) -> bool:
    """Return whether the operator allowed a module's package, or the file from which it was loaded."""
    packages = [a for a in _allowed() if not a.endswith(".py")]
    return any(_inside(module, package) for package in packages) or allowed_file(module) is not None


def loads_back(module: str) -> bool:
    """Return whether objects of a module's classes are read from files without ``trusted=True``.

    These are the modules that the operator allowed, and those named by the user's own definitions in this process.
    """
    return module in _remembered or is_allowed_module(module)


def of_restored(thing: object) -> contextlib.AbstractContextManager[None]:
    """Return a context with the origin in which to build what an object describes; the object may come from a file."""
    restored = current_origin() is Origin.OWN and getattr(thing, RESTORED, False)
    return from_origin(Origin.FILE) if restored else contextlib.nullcontext()


def names_in(value: object) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of every description in plain data that names a module.

    Examples
    --------
    >>> list(names_in({"model": {"class": "A", "module_path": "m"}, "record": [{"class": "x.y.B"}, {"class": "C"}]}))
    [('m', 'A'), ('x.y', 'B')]
    """
    if isinstance(value, Mapping):
        name, module = value.get("class", value.get("func", value.get("filter_type"))), value.get("module_path")
        if isinstance(name, type):
            yield name.__module__, name.__qualname__
        elif isinstance(name, str) and (module or "." in name):
            yield (str(module), name) if module else (name.rpartition(".")[0], name.rpartition(".")[2])
        for inner in value.values():
            yield from names_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from names_in(inner)


def check_names(definition: object, like: object, source: str) -> None:
    """Raise an error if a definition read from a file names code that the user's own definitions do not name.

    Parameters
    ----------
    definition : object
        The definition that was read.
    like : object
        The user's own definitions.
    source : str
        Where it was read, for the message.

    Raises
    ------
    CodeNotAllowed
        With the name of the module.
    """
    own = {module for module, _ in names_in(like)}
    for module, name in names_in(definition):
        if module not in own and module.partition(".")[0] not in _LIBRARIES and not loads_back(module):
            raise CodeNotAllowed(
                f"{source} names {name!r} of {module!r}, which this program's own definitions do not name. If you trust "
                f"regardless of who wrote it, allow it: ROLLFORGE_ALLOW={module}."
            )


def remember(module: str) -> None:
    """Record a module that the user's own definition named, so that this process can load objects of its classes."""
    if current_origin() is Origin.OWN and module.partition(".")[0] not in _LIBRARIES:
        _remembered.add(module)


# -- the checks --------------------------------------------------------------------------------------------------------


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _refuse_standard(name: str, module: str, noun: str, where: str) -> None:
    if not _is_standard(module):
        return
    expected = with_article(noun or "class that a definition may name")
    what = f"{name} is not {expected}: {module} belongs to the standard library."
    raise (BuildError if current_origin() is Origin.OWN else CodeNotAllowed)(what, path=where)


def check_import(name: str, module: str, *, noun: str = "", where: str = "") -> None:
    """Raise an error if a definition may not import a module. Called before the import, because importing runs code.

    Parameters
    ----------
    name : str
        The requested class, for the message.
    module : str
        A dotted path, or the path of a ``.py`` file.
    noun : str
        What the class should be, for the message.
    where : str
        Location in the document, for the message.

    Raises
    ------
    BuildError
        For the standard library.
    CodeNotAllowed
        If the package is not allowed in this process.
    """
    if not module.isprintable():  # Python finds builtin modules by the part before a NUL
        raise BuildError(f"there is no module {shown(module)}.", path=where)
    _refuse_standard(name, module, noun, where)
    here = current_origin()
    if here is Origin.OWN:
        return
    if module.endswith(".py"):
        if not (here is not Origin.READ and _is_allowed_file(module)) and not _is_vouched(module_name(module)):
            raise _not_allowed(name, module, where)
        return
    top, main = module.partition(".")[0], "__main__" in module.split(".")
    allowed = top in (_OWN_LIBRARIES if here is Origin.READ else _LIBRARIES) or _is_vouched(module)
    if main or not allowed:
        raise _not_allowed(name, module, where)


def check_defined(target: object, name: str, *, noun: str = "", where: str = "") -> None:
    """Raise an error if a class or function is defined in a module that the definition may not use.

    Raises
    ------
    BuildError
        If it is neither class nor function, or belongs to the standard library.
    CodeNotAllowed
        If the package is not allowed in this process.
    """
    module = getattr(target, "__module__", None)
    if not callable(target) or not isinstance(module, str):
        raise BuildError(f"{name!r} is not {with_article(noun or 'class')} but {shown(target)}.", path=where)
    _refuse_standard(name, module, noun, where)
    here = current_origin()
    if here is Origin.OWN:
        return
    if not isinstance(target, type):
        raise CodeNotAllowed(f"{name} is not a class. Functions that a task names are not called.", path=where)
    ours = module.partition(".")[0] in (_OWN_LIBRARIES if here is Origin.READ else _LIBRARIES)
    if not (ours or _is_vouched(module)):
        raise _not_allowed(name, module, where)


def _is_vouched(module: str) -> bool:
    """Return whether a module was allowed in a way that counts in the current origin."""
    here = current_origin()
    return (here is Origin.POOL and is_allowed_module(module)) or (here is Origin.FILE and loads_back(module))


def check_built(target: object, name: str, where: str = "") -> None:
    """Raise an error if a definition that is only inspected would be built.

    Raises
    ------
    CodeNotAllowed
        If the current origin does not permit building `target`.
    """
    if current_origin() is Origin.READ and getattr(target, "__module__", None) not in _BUILT_FOR_REPORTS:
        raise CodeNotAllowed(
            f"{name} is not built: listing, collecting and reporting build only trusted parts of a pool's tasks.",
            path=where,
        )


def check_reference(found: Any, module: str, name: str) -> None:
    """Raise an error if a task refers to a class or function that it may not use as an argument.

    Raises
    ------
    CodeNotAllowed
        If it is neither class nor function, or is defined in a module that is not allowed.
    """
    if current_origin() is Origin.OWN:
        return
    home = found.__module__ if isinstance(found, (type, FunctionType)) else ""
    if home == "builtins":
        fits = found.__qualname__ in _VALUE_TYPES
    else:
        fits = isinstance(found, type) and home.partition(".")[0] in _LIBRARIES | _VALUE_LIBRARIES
    if not home or not (fits or is_allowed_module(home)):
        raise _not_allowed(f"{module}:{name}", home or module, "")


def check_reference_import(module: str, name: str) -> None:
    """Raise an error if a task may not import the module of a reference.

    Raises
    ------
    CodeNotAllowed
        If the module is not allowed. Nothing was imported.
    """
    if current_origin() is Origin.OWN or module == "builtins" or module.partition(".")[0] in _VALUE_LIBRARIES:
        return
    check_import(f"{module}:{name}", module)


def _advice(*packages: str) -> str:
    options = " ".join(f"--allow {package}" for package in packages)
    return f"{_TRUST} {options} or ROLLFORGE_ALLOW={','.join(packages)}."


_TRUST = "If you trust everyone who can write to the pool with that code, allow it:"
_ADVICE = re.compile(rf" {re.escape(_TRUST)} --allow (.+?) or ROLLFORGE_ALLOW=\1\.")


def advise_once(text: str) -> str:
    """Merge the advice to allow packages in a message into one line at its end.

    Examples
    --------
    >>> both = [f"{name} is not allowed. {_advice(name)}" for name in ("mine", "other")]
    >>> advise_once(" ".join(both)).partition("allow it: ")[2]
    '--allow mine --allow other or ROLLFORGE_ALLOW=mine,other.'
    >>> advise_once(both[0]) == both[0]
    True
    """
    packages = _ADVICE.findall(text)
    if len(packages) < 2:
        return text
    return f"{_ADVICE.sub('', text)}\n  {_advice(*dict.fromkeys(packages))}"


def _not_allowed(name: str, module: str, where: str) -> CodeNotAllowed:
    if current_origin() is Origin.READ:
        return CodeNotAllowed(
            f"{name} of {module!r} is not inspected: reading a pool does not import the code that it names.", path=where
        )
    if _is_standard(module) or "__main__" in module.split(".") or module.partition(".")[0] in _LIBRARIES:
        return CodeNotAllowed(f"{name} of {module!r} cannot be named by a task of a pool.", path=where)
    package = module if module.endswith(".py") else module.partition(".")[0]
    if current_origin() is Origin.FILE:
        return CodeNotAllowed(
            f"An object read from a file names {name} of {module!r}, which this program's own definitions "
            f"do not name. If you trust the author of the file, allow it: ROLLFORGE_ALLOW={package}.",
            path=where,
        )
    return CodeNotAllowed(
        f"{name} belongs to {package!r}, which this worker is not allowed to run. {_advice(package)}",
        path=where,
    )
