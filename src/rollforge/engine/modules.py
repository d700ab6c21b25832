"""The user's modules that tasks need, for machines that do not have them, and the installed packages that they need there.

A module is the user's own if it is in no folder of installed packages. Its file is sent, or all files of the package that
it belongs to, and so are the own modules that it imports. Nothing is imported to find them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from rollforge import trust
from rollforge.build import locate
from rollforge.errors import ConfigError, RollforgeError, counted
from rollforge.paths import read_path
from rollforge.run.submission import packages_of, version_of
from rollforge.session import Session
from rollforge.trust import Origin, from_origin
from rollforge.user_code import BY_PATH, FILES, MODULES

__all__ = ["Modules", "Named", "describe_modules", "installation", "missing_here", "modules_in", "modules_of"]

MAX_BYTES = 100 * 2**20
"""Maximum size of all modules together."""
_OURS = ("rollforge", "qlib", "__main__", "__mp_main__")


@dataclass(frozen=True, slots=True)
class Named:
    """A definition, as plain data or with classes in it, and whether it is this user's own.

    Examples
    --------
    >>> Named({"model": {"class": "Mine", "module_path": "my_model"}}).own
    True
    """

    definition: object
    own: bool = True


@dataclass(frozen=True, slots=True)
class Modules:
    """Files of modules, and the packages that must be installed where they are used.

    Examples
    --------
    >>> Modules().files
    {}
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    """Path in the folder with the modules -> file here."""
    by_path: Mapping[str, str] = field(default_factory=dict)
    """Path of a ``.py`` file, as definitions name it -> its path in the folder."""
    required: tuple[str, ...] = ()
    """Packages and modules that every task needs and that are not sent."""


def modules_of(tasks: Sequence[Named], session: Session, objects: Iterable[object] = ()) -> Modules:
    """Return the user's modules that tasks need.

    Parameters
    ----------
    tasks : sequence of Named
        Definitions. Those that are not this user's own count as far as the session allows what they name.
    session : Session
        Its plugins, operators and allowed modules, and folders with modules.
    objects : iterable
        Functions and other objects that the tasks are run with.

    Raises
    ------
    ConfigError
        If the modules are too large to be sent.
    """
    found = _Search(session)
    for module in (*session.plugins, *session.allow, *(module for _, module in session.operators)):
        found.add(trust.plugin_module(module))
    named = {module for one in objects if (module := getattr(one, "__module__", None) or "")}
    if "__main__" in named:
        named |= _modules_of_main()
    needed: list[set[str]] = []
    for task in tasks:
        own = {(module, name) for module, name in modules_in(task.definition) if task.own or _is_allowed(module, name)}
        if any(module == "__main__" for module, _ in own):
            named |= _modules_of_main()
        needed.append({part for module, name in own for part in found.needs_of(module, name)})
    for module in sorted(named):
        found.add(module)
    common = set.intersection(*needed) if needed else set()
    return Modules(found.files(), dict(found.by_path), tuple(sorted(common)))


def modules_in(value: object) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of everything that a definition names: as a description, reference, class or function.

    Examples
    --------
    >>> sorted(modules_in({"model": {"class": "A", "module_path": "m"}, "loss": {"$ref": "n:f"}, "of": len}))
    [('builtins', 'len'), ('m', 'A'), ('n', 'f')]
    """
    yield from trust.names_in(value)
    yield from _others_in(value)


def _others_in(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str) and len(value) == 1:
            module, _, name = reference.partition(":")
            yield module, name
        for inner in value.values():
            yield from _others_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _others_in(inner)
    elif isinstance(home := getattr(value, "__module__", None), str):
        yield home, getattr(value, "__qualname__", type(value).__qualname__)


def missing_here(required: Iterable[str]) -> list[str]:
    """Return which packages and modules this process cannot find.

    Examples
    --------
    >>> missing_here(["numpy", "no_such_package"])
    ['no_such_package']
    """
    return [name for name in required if _spec(name, ()) is None]


def _is_allowed(module: str, name: str) -> bool:
    """Return whether a task of someone else may name a module."""
    try:
        with from_origin(Origin.POOL):
            trust.check_import(name, module)
    except RollforgeError:
        return False
    return True


def _modules_of_main() -> set[str]:
    """Return the modules that the program or notebook that runs has imported or taken something from."""
    main = sys.modules.get("__main__")
    values = list(vars(main).values()) if main is not None else []
    names = (v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values)
    return {name for name in names if isinstance(name, str)}


class _Search:
    """Collects modules, and the modules that these import."""

    def __init__(self, session: Session) -> None:
        self._folders = session.sys_path
        self._tops: dict[str, list[Path]] = {}  # own modules: name -> file, or folders
        self._packages: dict[str, set[str]] = {}  # any name -> installed packages that it needs
        self.by_path: dict[str, str] = {}

    def add(self, module: str) -> set[str]:
        """Add a module if it is the user's own, and return the installed packages that it needs."""
        if module.endswith(".py"):
            return self._add_file(module)
        top = module.partition(".")[0]
        if top in self._packages:
            return self._packages[top]
        required = self._packages[top] = set()  # a module that imports itself ends here
        if top in _OURS or top in sys.stdlib_module_names or not top.isidentifier():
            return required
        spec = _spec(top, self._folders)
        places = _places(spec)
        if spec is None or not places:
            if spec is None:
                required.add(top)  # perhaps the machines have it
            return required
        if any(_is_installed(place) for place in places):
            required.add(top)
            return required
        self._tops[top] = places
        for file in (file for place in places for file in _sources(place)):
            required |= self._imported(file)
        return required

    def needs_of(self, module: str, name: str) -> set[str]:
        """Add a module that a definition names, and return the packages that the named class needs."""
        if not trust.is_library(module):
            return self.add(module)
        try:
            home = str(getattr(locate(name, module), "__module__", ""))
        except RollforgeError:  # an error where the task runs
            return set()
        packages = set(packages_of(home)) if home else set()
        return {package for package in packages if package not in _OURS}

    def files(self) -> dict[str, Path]:
        """Return the files to send, as path in the folder -> file.

        Raises
        ------
        ConfigError
            If they are too large.
        """
        found = {sent: Path(read_path(given)).absolute() for given, sent in self.by_path.items()}
        for top, places in self._tops.items():
            inside: dict[str, Path] = {}
            for place in places:
                if place.is_file():
                    inside[f"{MODULES}/{place.name}"] = place
                else:
                    for file in _content(place):
                        inside.setdefault(f"{MODULES}/{top}/{file.relative_to(place).as_posix()}", file)
            size = sum(file.stat().st_size for file in inside.values())
            if size > MAX_BYTES:
                raise ConfigError(
                    f"The package {top!r} in {places[0].parent} has {size / 1e6:.0f} MB in {counted(len(inside), 'file')}, "
                    f"too much to send it to the machines of a cluster (at most {MAX_BYTES / 1e6:.0f} MB). Keep its data "
                    "elsewhere, or install the package on the machines."
                )
            found |= inside
        return found

    def _add_file(self, path: str) -> set[str]:
        if path not in self._packages:
            required = self._packages[path] = set()
            file = Path(read_path(path))
            if file.is_file():
                number = len({*self.by_path.values()})
                self.by_path[path] = self.by_path[os.path.abspath(file)] = f"{FILES}/{number}/{file.name}"
                required |= self._imported(file)
        return self._packages[path]

    def _imported(self, file: Path) -> set[str]:
        """Add the own modules that a file imports, and return the installed packages without which it cannot be."""
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):  # an error where it is imported
            return set()
        required: set[str] = set()
        for module in dict.fromkeys(_imports(ast.walk(tree))):
            self.add(module)
        for module in dict.fromkeys(_imports(tree.body)):
            required |= {name for name in self.add(module) if _spec(name, self._folders) is not None}
        return required


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the modules that are imported by statements, except relative to their package."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _spec(top: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Return where a package or module would be imported from. It is not imported."""
    try:
        return importlib.util.find_spec(top) or PathFinder.find_spec(top, list(folders))
    except (ImportError, ValueError):  # a module that a program has made
        return None


def _places(spec: ModuleSpec | None) -> list[Path]:
    """Return the file of a module, or the folders of a package; nothing for what is not in files."""
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).absolute() for place in spec.submodule_search_locations if os.path.isdir(place)]
    return [Path(spec.origin).absolute()] if spec.has_location and spec.origin and os.path.isfile(spec.origin) else []


@functools.cache
def _installed_in() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    named = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    every = {Path(place) for place in (*named, *site.getsitepackages(), site.getusersitepackages())}
    return tuple(every | {place.resolve() for place in every})


def _is_installed(place: Path) -> bool:
    return any(one.is_relative_to(folder) for folder in _installed_in() for one in (place, place.resolve()))


def _content(folder: Path) -> Iterator[Path]:
    """Yield the files of a package, including its data, without hidden files and compiled code of Python."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(".pyc"):
                yield Path(place) / name


def _sources(place: Path) -> Iterator[Path]:
    yield from (file for file in ([place] if place.is_file() else _content(place)) if file.suffix == ".py")


def installation(names: Iterable[str]) -> str:
    """Return the arguments of ``pip install`` that install packages in the versions that this machine has.

    Examples
    --------
    >>> installation(["no_such_package"])
    'no_such_package'
    """
    from importlib import metadata

    listed = []
    known = metadata.packages_distributions()
    for name in names:
        distribution = next(iter(known.get(name, ())), name)
        version = version_of(name)
        listed.append(f"{distribution}=={version}" if version else distribution)
    return " ".join(dict.fromkeys(listed))


def describe_modules(modules: Modules) -> str:
    """Return the text of the file that describes a folder with modules; equal texts mean equal modules."""
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in sorted(modules.files.items())}
    return json.dumps({BY_PATH: dict(sorted(modules.by_path.items())), "hashes": hashes}, sort_keys=True)
