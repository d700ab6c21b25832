"""Build objects from ``{class, module_path, kwargs}``; fill placeholders, resolve references, translate Qlib's paths.

Descriptions stay plain data until they are needed. This module builds the described objects, with precise errors.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse

from rollforge import qlib_imports, safe_pickle, trust
from rollforge.errors import BuildError, ConfigError, MissingCode, nearest, shown, with_article
from rollforge.kinds import Kind
from rollforge.limits import LIMITS, count_values
from rollforge.paths import read_path
from rollforge.qlib_names import MODULES, REFUSED
from rollforge.task import Definition, Document
from rollforge.user_code import describe, import_file

__all__ = [
    "FLATTEN_TUPLE",
    "S_DROP",
    "build",
    "constructor_arguments",
    "describe",
    "fill_placeholder",
    "flatten_dict",
    "import_file",
    "import_module",
    "init_instance_by_config",
    "locate",
    "resolve_references",
    "target_of",
    "update_config",
]

FLATTEN_TUPLE = "_FLATTEN_TUPLE"
"""Separator with which :func:`flatten_dict` joins keys into tuples."""

S_DROP = "__DROP__"
"""Value that makes :func:`update_config` remove a key."""


def import_module(module_path: str, where: str = "") -> ModuleType:
    """Import a user's module, given by a dotted path or the path of a ``.py`` file. Does not check whether it is allowed.

    Raises
    ------
    BuildError
        If it cannot be imported; :class:`~rollforge.errors.MissingCode` if it or what it needs does not exist.
    """
    if module_path.partition(".")[0] != "rollforge":
        qlib_imports.prepare()  # user code with "from qlib import …" gets Rollforge's objects
    if module_path.endswith(".py"):
        try:
            return import_file(module_path)
        except BuildError as exc:
            raise type(exc)(str(exc), path=where) from exc.__cause__
    if not all(part.isidentifier() for part in module_path.split(".")):
        raise MissingCode(
            f"There is no module {module_path!r}. Write package.module, or the path of a .py file.",
            path=where,
        )
    try:
        return importlib.import_module(module_path)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_path == exc.name or module_path.startswith(exc.name + ".")):
            is_missing = exc.name is not None and not qlib_imports.is_qlib(exc.name)
            problem = (
                f"needs {exc.name!r}, which is not installed." if is_missing else f"cannot be imported: {describe(exc)}"
            )
            raise MissingCode(f"The module {module_path!r} {problem}", path=where) from exc
        ours = {s for sources in MODULES.values() for s in sources if s.startswith("rollforge.")}
        rooms = {s.rpartition(".")[0] for s in ours}
        raise MissingCode(
            f"There is no module {module_path!r}.{nearest(module_path, ours | rooms)}", path=where
        ) from exc
    except (Exception, SystemExit) as exc:
        raise BuildError(f"The module {module_path!r} cannot be imported: {describe(exc)}", path=where) from exc


def _public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    return sorted(names if names is not None else (n for n in vars(module) if not n.startswith("_")))


def locate(
    name: str | Callable[..., object], module_path: str | None = None, *, noun: str = "", where: str = ""
) -> Callable[..., Any]:
    """Return the class or function called `name`; Rollforge's own if the path is one of Qlib's.

    :mod:`rollforge.trust` decides before the import whether the module may be imported, and afterwards whether the
    object's defining module is allowed.

    Parameters
    ----------
    name : str or callable
        A name inside `module_path`, a full dotted path (``"pkg.module.Class"``), or the object itself.
    module_path : str, optional
        A module, one of Qlib's modules, or the path of a ``.py`` file.
    noun : str
        The required kind of class, for errors.
    where : str
        Location in the document, for errors.

    Raises
    ------
    BuildError
        If the module or name does not exist, with the nearest valid name; for anything in the standard library.
    CodeNotAllowed
        If the definition may not name it.
    """
    if not isinstance(name, str):
        if not callable(name):
            raise BuildError(f"a class must be given as a string, found {shown(name)}.", path=where)
        if not (
            trust.current_origin() is trust.Origin.OWN
            and not noun
            and getattr(name, "__module__", None) in (None, "builtins")
        ):
            trust.check_defined(name, getattr(name, "__name__", shown(name)), noun=noun, where=where)
        return name  # otherwise a program's own dict or ufunc, which no place of a definition accepts
    if module_path is not None and not isinstance(module_path, str):
        raise BuildError(f"module_path must be a string, found {shown(module_path)}.", path=where)
    if not module_path:
        module_path, _, name = name.rpartition(".")
        if not module_path:
            raise BuildError(
                f"Class {name!r} has no module_path. Write the class as a dotted path, or add module_path.", path=where
            )
    trust.check_import(name, module_path, noun=noun, where=where)
    if qlib_imports.is_qlib(module_path):
        target = _locate_in_qlib(name, module_path, where)
    else:
        module = import_module(module_path, where)
        try:
            target = getattr(module, name)
        except AttributeError:
            names = _public(module)
            raise MissingCode(
                f"The module {module_path!r} has no {name!r}.{nearest(name, names)}", path=where
            ) from None
    trust.check_defined(target, name, noun=noun, where=where)
    trust.remember(target.__module__)
    return target


def _locate_in_qlib(name: str, module_path: str, where: str) -> Callable[..., object]:
    if name in REFUSED:
        raise BuildError(f"{name} is not supported: {REFUSED[name]}.", path=where)
    try:
        found: Callable[..., object] = qlib_imports.load(module_path, name)
    except ImportError as exc:
        is_missing = (
            isinstance(exc, ModuleNotFoundError) and exc.name is not None and not qlib_imports.is_qlib(exc.name)
        )
        problem = (
            f"pyqlib's module {module_path!r} needs {exc.name!r}, which is not installed." if is_missing else str(exc)
        )
        raise MissingCode(problem, path=where) from exc
    return found


@functools.lru_cache(64)
def _parameters(target: Callable[..., object]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(target).parameters.values())


def _check_arguments(target: Callable[..., object], kwargs: Mapping[str, object], where: str) -> None:
    try:
        parameters = _parameters(target)
    except (TypeError, ValueError):  # builtins without a signature: rely on the error of the call
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    label = getattr(target, "__name__", str(target))
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in kwargs:
            if key not in names:
                raise BuildError(
                    f"{label} takes no argument {key!r}.{nearest(key, names)} Its arguments: {', '.join(names) or 'none'}.",
                    path=f"{where}.kwargs" if where else "",
                )
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in kwargs
    ]
    if missing:
        raise BuildError(f"{label} needs {', '.join(map(repr, missing))}.", path=f"{where}.kwargs" if where else "")


def _accepted(target: Callable[..., object], offered: Mapping[str, object]) -> dict[str, object]:
    """Return the part of `offered` that `target` accepts by name, judged by its signature and not by calling it."""
    try:
        parameters = _parameters(target)
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(offered)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {k: v for k, v in offered.items() if k in names}


def build(
    config: object,
    *,
    kind: Kind | None = None,
    accept_types: type | tuple[type, ...] = (),
    default_module: str | None = None,
    try_kwargs: Mapping[str, object] | None = None,
    where: str = "",
    **kwargs: object,
) -> Any:
    """Build and return the object that `config` describes.

    Parameters
    ----------
    config : dict, str or object
        ``{"class": name, "module_path": module, "kwargs": {…}}``; a dotted path ``"pkg.module.Class"``;
        ``"file:///path/object.pkl"`` (read through the allow-list); or an instance of `accept_types`, which is returned
        unchanged.
    kind : Kind, optional
        The required kind of class. Without it, functions of the user's own script are also called.
    accept_types : type or tuple of types
        Types of objects that are returned unchanged.
    default_module : str, optional
        Module of a class without a module path.
    try_kwargs : mapping, optional
        Arguments that are passed only if the constructor accepts them and `config` does not set them.
    where : str
        Location of `config` in its document, for errors.
    **kwargs
        Additional constructor arguments.

    Raises
    ------
    BuildError
        If the description is invalid, with the location and the nearest valid name; if it names something of another
        kind, which is then not called.
    CodeNotAllowed
        If it names code that is not allowed in this process.
    UntrustedPickle
        If a pickle names a type that is not allowed.
    """
    if accept_types and isinstance(config, accept_types):
        return config
    if isinstance(config, str) and config.startswith("file://"):
        return _load_file(config, accept_types, where)
    target, arguments = target_of(
        config, kind=kind, default_module=default_module, try_kwargs=try_kwargs, where=where, **kwargs
    )
    trust.check_built(target, getattr(target, "__name__", str(target)), where)
    return _constructed(target, arguments, where)


def target_of(
    config: object,
    *,
    kind: Kind | None = None,
    default_module: str | None = None,
    try_kwargs: Mapping[str, object] | None = None,
    where: str = "",
    **kwargs: object,
) -> tuple[Callable[..., Any], Definition]:
    """Return the class that `config` describes and the arguments with which :func:`build` would call it. Calls nothing.

    Raises
    ------
    BuildError
        As in :func:`build`; also for unknown or missing arguments.
    """
    if isinstance(config, str):
        config = {"class": config}
    if isinstance(config, type):
        config = {"class": config}
    if not isinstance(config, Mapping):
        raise BuildError(f"expected a mapping with class, module_path and kwargs, found {shown(config)}.", path=where)
    unknown = [k for k in config if k not in ("class", "func", "module_path", "kwargs")]
    if unknown:
        keys = ["class", "module_path", "kwargs"]
        raise BuildError(
            f"unknown key {unknown[0]!r}.{nearest(unknown[0], keys)} An object has the keys class, module_path and kwargs.",
            path=where,
        )
    name = config.get("class", config.get("func"))
    if name is None:
        raise BuildError("an object needs the key 'class'.", path=where)
    module_path = config.get("module_path")
    if not module_path and isinstance(name, str) and "." not in name:
        module_path = default_module
    target = _located(name, module_path, kind, where)
    if inspect.isabstract(target):
        lacking = ", ".join(sorted(getattr(target, "__abstractmethods__", ())))
        raise BuildError(f"{name} is an abstract class: a subclass must define {lacking}.", path=where)
    own = config.get("kwargs") or {}
    if not isinstance(own, Mapping):
        raise BuildError(f"kwargs must be a mapping, found {shown(own)}.", path=where)
    unnamed = next((k for k in own if not isinstance(k, str)), None)
    if unnamed is not None or None in own:
        raise BuildError(
            f"the name of an argument must be a string, found {shown(unnamed)}.",
            path=f"{where}.kwargs" if where else "",
        )
    arguments = {**_accepted(target, try_kwargs or {}), **own, **kwargs}
    _check_arguments(target, arguments, where)
    return target, arguments


def _located(name: Any, module_path: Any, kind: Kind | None, where: str) -> Callable[..., object]:
    """Return the named class, after checking that it is of the required kind."""
    target = locate(name, module_path, noun=kind.noun if kind is not None else "", where=where)
    if kind is not None:
        _check_kind(target, kind, where)
    return target


def _check_kind(target: object, kind: Kind, where: str) -> None:
    name = getattr(target, "__name__", str(target))
    if not isinstance(target, type):
        raise BuildError(
            f"{name} is not {with_article(kind.noun)} but a function. A definition names a class.", path=where
        )
    lacking = kind.lacks(target)
    if lacking:
        raise BuildError(f"{name} is not {with_article(kind.noun)}: {lacking}.", path=where)


def _constructed(target: Any, arguments: Document, where: str) -> object:
    """Call a constructor; an error about an argument gets the argument's location in the document."""
    try:
        return target(**arguments)
    except TypeError as exc:
        mistake = _argument_mistake(exc, target, arguments, where)
        if mistake is None:
            raise
        raise mistake from exc
    except ConfigError as exc:
        if not where or exc.path.partition(".")[0] not in arguments:
            raise
        raise type(exc)(exc.message, path=f"{where}.kwargs.{exc.path}") from exc


_MISTAKES = re.compile(r"\(\) got (an unexpected keyword argument|multiple values for (?:keyword )?argument) '([^']*)'")


def _argument_mistake(exc: TypeError, target: object, arguments: Mapping[str, object], where: str) -> BuildError | None:
    """Return the error for an argument that a base class refuses; None for any other TypeError.

    The signature of a constructor that passes ``**kwargs`` on does not say which arguments are accepted.
    """
    found = _MISTAKES.search(str(exc))
    if found is None or found[2] not in arguments:
        return None
    label, key = getattr(target, "__name__", str(target)), found[2]
    path = f"{where}.kwargs" if where else ""
    if found[1].startswith("multiple"):
        return BuildError(f"{label} sets the argument {key!r} itself. Omit it.", path=path)
    names = constructor_arguments(target)
    return BuildError(
        f"{label} takes no argument {key!r}.{nearest(key, names)} Its arguments: {', '.join(names) or 'none'}.",
        path=path,
    )


def constructor_arguments(cls: object) -> list[str]:
    """Return the arguments of a class's constructor, with those that ``**kwargs`` passes on to base classes.

    An argument of a base class that the constructor sets itself is not one of them.
    """
    names: dict[str, None] = {}
    taken: set[str] = set()
    for base in getattr(cls, "__mro__", ()):
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names |= dict.fromkeys(name for name in own if name not in taken)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        taken |= _passed_to_base(base)
    return list(names)


def _passed_to_base(cls: type) -> set[str]:
    """Return the names of the arguments that a constructor passes to ``super().__init__`` by name; none if it has no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["__init__"])))
    except (OSError, TypeError, SyntaxError):
        return set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    inner = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"]
    return {keyword.arg for call in inner for keyword in call.keywords if keyword.arg is not None}


def init_instance_by_config(
    config: object,
    default_module: str | ModuleType | None = None,
    accept_types: type | tuple[type, ...] = (),
    try_kwargs: Document | None = None,
    **kwargs: Any,
) -> Any:
    """Build and return the object that `config` describes: :func:`build` with Qlib's name and argument order.

    `default_module` can also be the module itself.
    """
    if isinstance(default_module, ModuleType):
        default_module = default_module.__name__
    return build(config, accept_types=accept_types, default_module=default_module, try_kwargs=try_kwargs, **kwargs)


def _load_file(url: str, accept_types: type | tuple[type, ...], where: str) -> object:
    parsed = urlparse(url)
    path = read_path(unquote(parsed.netloc + parsed.path), where)
    if not os.path.isfile(path):
        raise BuildError(f"the file {str(path)!r} does not exist.", path=where)
    loaded = safe_pickle.load(path)
    if accept_types and not isinstance(loaded, accept_types):
        raise BuildError(f"{path} contains a {type(loaded).__name__}, which cannot be used here.", path=where)
    return loaded


_REFERENCE = re.compile(r"<([A-Za-z_]\w*(?:\.\w+)+)>")


class _Budget:
    """The remaining number of values that a task may expand to, because a few references can expand to any number."""

    def __init__(self) -> None:
        self.left = LIMITS["expanded_values"].value

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            limit = LIMITS["expanded_values"]
            limit.refuse(f"with its references resolved, the task is larger than {limit.shown()}")


def _replace_strings(node: object, replace: Callable[[str], object], budget: _Budget) -> object:
    """Return a copy of `node` with each string in its dicts, lists and tuples replaced."""
    budget.spend()
    if isinstance(node, str):
        return replace(node)
    if isinstance(node, Mapping):
        return {k: _replace_strings(v, replace, budget) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_replace_strings(v, replace, budget) for v in node)
    return node


def _value_at(root: Any, dotted: str) -> object:
    node = root
    for part in dotted.split("."):
        try:
            node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
        except (KeyError, IndexError, ValueError, TypeError):
            options = [str(k) for k in node] if isinstance(node, Mapping) else []
            raise ConfigError(
                f"the reference <{dotted}> cannot be resolved: there is no {part!r}.{nearest(part, options)}"
            ) from None
    return node


def fill_placeholder(config: object, values: Mapping[str, object]) -> Any:
    """Return a copy of `config` in which each string that equals a key of `values` is replaced by its value.

    Lists, tuples and dicts are traversed; the argument is not modified (Qlib modifies it, and skips tuples). As in
    Qlib, a reference ``<dotted.path>`` to another place in `config` is replaced if that place exists.

    Examples
    --------
    >>> fill_placeholder({"signal": "<PRED>", "pair": ("<PRED>", 1)}, {"<PRED>": "p"})
    {'signal': 'p', 'pair': ('p', 1)}
    """

    budget = _Budget()

    def replace(text: str) -> object:
        if text in values:
            return values[text]
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return text
        try:
            found = _value_at(config, match.group(1))
        except ConfigError:
            return text  # looks like a reference, but is an ordinary string
        budget.spend(count_values(found, budget.left))
        return found

    return _replace_strings(config, replace, budget)


def resolve_references(task: Mapping[str, object]) -> Definition:
    """Return `task` with each ``<dotted.path>`` string replaced by the value at that path of the same task.

    References are resolved when a task runs, so a fit window written as ``<dataset.kwargs.segments.train.0>`` moves
    with the roll.

    Raises
    ------
    ConfigError
        If the path does not exist or is circular, or if the task expands to too many values.

    Examples
    --------
    >>> resolve_references({"a": {"seg": ("2010", "2012")}, "fit_end": "<a.seg.1>"})["fit_end"]
    '2012'
    """

    budget = _Budget()

    def resolve(node: object, trail: tuple[str, ...]) -> Any:
        def replace(text: str) -> object:
            match = _REFERENCE.fullmatch(text)
            if match is None:
                return text
            dotted = match.group(1)
            if dotted in trail:
                raise ConfigError(f"the reference <{dotted}> refers to itself.", path=trail[0])
            return resolve(_value_at(task, dotted), (*trail, dotted))

        return _replace_strings(node, replace, budget)

    try:
        resolved: Definition = resolve(task, ())
    except RecursionError:
        raise ConfigError("references are nested too deeply, or a value contains itself.") from None
    return resolved


def flatten_dict(d: Mapping[Any, object], parent_key: object = "", sep: str = ".") -> dict[Any, Any]:
    """Return `d` with nested dicts flattened, their keys joined by `sep`: ``{a: {b: x}} -> {"a.b": x}``.

    Parameters
    ----------
    d : mapping
        Nested dicts. Lists and other values are not flattened. An empty dict is kept as a value (Qlib drops it).
    parent_key : str or tuple
        Prefix of every key.
    sep : str
        Separator between keys. :data:`FLATTEN_TUPLE` joins them into one flat tuple (Qlib nests the tuples).

    Examples
    --------
    >>> flatten_dict({"a": 1, "c": {"a": 2, "b": {"x": 5}}})
    {'a': 1, 'c.a': 2, 'c.b.x': 5}
    >>> flatten_dict({"c": {"b": {"x": 5}}}, sep=FLATTEN_TUPLE)
    {('c', 'b', 'x'): 5}
    """
    flat: dict[object, object] = {}
    for key, value in d.items():
        if sep == FLATTEN_TUPLE:
            parent = parent_key if isinstance(parent_key, tuple) else (parent_key,) if parent_key else ()
            joined: object = (*parent, key) if parent else key
        else:
            joined = f"{parent_key}{sep}{key}" if parent_key else key
        if isinstance(value, Mapping) and value:
            flat.update(flatten_dict(value, joined, sep))
        else:
            flat[joined] = value
    return flat


def update_config(base_config: Document, ext_config: Document | Sequence[Document]) -> Definition:
    """Return a copy of `base_config` with changes merged into it. Neither argument is modified.

    Parameters
    ----------
    base_config : mapping
        The base configuration.
    ext_config : mapping or sequence of mappings
        The changes, applied in order. A mapping is merged into a mapping key by key; any other value replaces the old
        one; :data:`S_DROP` removes the key.

    Examples
    --------
    >>> update_config({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 5}, "b": S_DROP, "c": 4})
    {'a': {'x': 5, 'y': 2}, 'c': 4}
    """
    merged = copy.deepcopy(dict(base_config))
    for changes in ext_config if isinstance(ext_config, (list, tuple)) else [ext_config]:
        if not isinstance(changes, Mapping):
            raise ConfigError(f"changes to a configuration must be a mapping, found {changes!r}.")
        for key, value in changes.items():
            if isinstance(value, str) and value == S_DROP:
                merged.pop(key, None)
            elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                merged[key] = update_config(merged[key], value)
            else:
                merged[key] = copy.deepcopy(value)
    return merged
