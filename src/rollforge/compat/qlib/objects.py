"""Objects from descriptions, modules and classes, as in ``qlib.utils``."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rollforge import trust
from rollforge.build import import_file, locate
from rollforge.compat.qlib.logs import logger
from rollforge.errors import ConfigError, RollforgeError, TrackingError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import lookahead
from rollforge.limits import LIMITS, TooLarge, read_text
from rollforge.pickling import Serializable as _Serializable, save

__all__ = [
    "ExpAlreadyExistError",
    "LoadObjectError",
    "QlibException",
    "RecorderInitializationError",
    "Serializable",
    "auto_filter_kwargs",
    "class_casting",
    "deepcopy_basic_type",
    "find_all_classes",
    "get_callable_kwargs",
    "get_cls_kwargs",
    "get_item_from_obj",
    "get_module_by_module_path",
    "get_project_path",
    "guess_horizon",
    "hash_args",
    "parse_config",
    "split_module_path",
]

QlibException = RollforgeError
LoadObjectError = TrackingError
"""Errors raised if an object does not exist or cannot be read."""
RecorderInitializationError = RollforgeError
ExpAlreadyExistError = TrackingError


class Serializable(_Serializable):
    """An object that can be saved to a file, with Qlib's additional method names."""

    pickle_backend = "pickle"

    @classmethod
    def general_dump(cls, obj: object, path: str | Path) -> None:
        """Save any object."""
        save(obj, path)

    def config(self, **kwargs: object) -> None:
        """Do nothing."""


def get_module_by_module_path(module_path: str | ModuleType) -> ModuleType:
    """Return the module of a dotted path, or of a file."""
    if isinstance(module_path, ModuleType):
        return module_path
    if trust.current_origin() is not trust.Origin.OWN:  # pyqlib's own classes call this with values from a pool's tasks
        trust.check_import(module_path, module_path)
    if module_path.endswith(".py"):
        return import_file(module_path)
    return importlib.import_module(module_path)


def get_callable_kwargs(config: object, default_module: Any = None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the callable of a description and its arguments.

    Parameters
    ----------
    config : dict or str
        ``{"class" or "func": name or object, "module_path": …, "kwargs": {…}}``, or a dotted path.
    default_module : str or module, optional
        Module for names without a module.

    Raises
    ------
    BuildError
        If the module or name does not exist.
    ConfigError
        If `config` is not a description.
    """
    if isinstance(config, str):
        config = {"class": config}
    if not isinstance(config, Mapping) or not {"class", "func"} & set(config):
        raise ConfigError(f"expected a dotted path or {{class, module_path, kwargs}}, found {config!r}.")
    name, path = config.get("class", config.get("func")), config.get("module_path") or default_module
    kwargs = dict(config.get("kwargs") or {})
    if isinstance(name, str) and "." in name:
        return locate(name), kwargs
    if isinstance(name, str) and isinstance(path, ModuleType):
        return locate(getattr(path, name)), kwargs
    return locate(name, path), kwargs


get_cls_kwargs = get_callable_kwargs


def auto_filter_kwargs(func: Callable[..., object], warning: bool = True) -> Callable[..., Any]:
    """Wrap `func` to drop arguments that it does not accept, optionally with a warning."""
    parameters = inspect.signature(func).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return func

    @functools.wraps(func)
    def filtered(*args: object, **kwargs: object) -> object:
        left_out = sorted(set(kwargs) - set(parameters))
        if left_out and warning:
            logger.warning("%s: arguments ignored: %s", getattr(func, "__name__", func), ", ".join(left_out))
        return func(*args, **{k: v for k, v in kwargs.items() if k in parameters})

    return filtered


def hash_args(*args: object) -> str:
    """Return a digest of arguments."""
    return hashlib.md5(json.dumps(args, sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()


def parse_config(config: object) -> Any:
    """Parse a YAML file or string; return anything else unchanged.

    Raises
    ------
    ConfigError
        If it is not YAML.
    """
    if not isinstance(config, str):
        return config
    if not os.path.isfile(config):
        return plain_yaml(config, "the text")
    try:
        return plain_yaml(read_text(config, LIMITS["workflow_size"]), config)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{config!r} cannot be read: {exc}") from exc


def plain_yaml(text: str, name: str) -> Any:
    """Parse a YAML string by Qlib's rules; `name` identifies it in errors.

    Raises
    ------
    ConfigError
        If it is not YAML, contains an invalid value, or exceeds a limit.
    """
    import yaml

    from rollforge.yaml12 import BoundedLoader

    try:
        return yaml.load(text, Loader=BoundedLoader)
    except TooLarge as exc:
        raise TooLarge(f"{name}, {exc}") from None
    except Exception as exc:  # PyYAML's constructors raise errors of many classes
        raise ConfigError(f"{name} is not valid YAML: {exc}") from exc


def deepcopy_basic_type(obj: object) -> Any:
    """Copy lists, tuples and dicts; other objects in them are shared."""
    if isinstance(obj, dict):
        return {k: deepcopy_basic_type(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return (list if isinstance(obj, list) else tuple)(deepcopy_basic_type(v) for v in obj)
    return obj


def split_module_path(module_path: str) -> tuple[str, str]:
    """Return the module and the name of a dotted path.

    Examples
    --------
    >>> split_module_path("a.b.Class")
    ('a.b', 'Class')
    """
    module, _, name = module_path.rpartition(".")
    return module, name


@contextmanager
def class_casting(obj: object, cls: type) -> Iterator[None]:
    """Change the class of an object inside a ``with`` block."""
    before = obj.__class__
    obj.__class__ = cls
    try:
        yield
    finally:
        obj.__class__ = before


def find_all_classes(module_path: str | ModuleType, cls: type) -> list[type]:
    """Return the classes in a module and its submodules that are `cls` or derive from it."""
    module = get_module_by_module_path(module_path)
    names = getattr(module, "__all__", None) or dir(module)
    found = [c for n in names if isinstance(c := getattr(module, n), type) and issubclass(c, cls)]
    for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
        found += find_all_classes(f"{module.__name__}.{inner.name}", cls)
    return list(dict.fromkeys(found))


def get_item_from_obj(config: Any, name_path: str) -> Any:
    """Return the value at a dotted path in nested dicts and lists.

    Raises
    ------
    KeyError, IndexError
        If the path does not exist.

    Examples
    --------
    >>> get_item_from_obj({"segments": {"train": ("2010", "2012")}}, "segments.train.1")
    '2012'
    """
    for part in name_path.split("."):
        config = config[int(part)] if isinstance(config, (list, tuple)) else config[part]
    return config


def get_project_path(config_name: str = "config.yaml", cur_path: str | Path | None = None) -> Path:
    """Return the nearest folder, from `cur_path` (by default the working directory) upwards, that contains a file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    start = Path.cwd() if cur_path is None else Path(cur_path).absolute()
    for folder in (start, *start.parents):
        if (folder / config_name).exists():
            return folder
    raise FileNotFoundError(f"Neither {start} nor a folder above it contains a file {config_name!r}.")


def guess_horizon(label: Sequence[str] | str) -> int:
    """Return how many days a label (the first of several) looks ahead.

    Examples
    --------
    >>> guess_horizon(["Ref($close, -2) / Ref($close, -1) - 1"])
    2
    """
    return lookahead(parse(label if isinstance(label, str) else label[0]))
