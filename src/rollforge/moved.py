"""The current names of modules that have moved since earlier versions, and aliases of attributes.

Definitions in pools, references, pickles and scripts name modules. Modules that have moved can still be imported under
their earlier name, which returns the current module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "MOVED_NAMES", "Alias", "Aliased", "current_name", "earlier_names", "install"]

MOVED = {
    f"rollforge.{old}": f"rollforge.{new}"
    for old, new in {
        "collect.stream": "collect.parquet_stream",
        "collect.tasks": "collect.task_collector",
        "data.alpha": "features.alpha",
        "data.bars": "market.bars",
        "data.code": "code_marks",
        "data.columns": "market.columns",
        "data.compiled": "expressions.jit",
        "data.content": "market.content",
        "data.dataset": "features.dataset",
        "data.demo": "market.demo",
        "data.engine": "features.engine",
        "data.evaluator": "expressions.evaluator",
        "data.expression": "expressions.expression",
        "data.filters": "market.filters",
        "data.folder": "market.new_folder",
        "data.formulas": "expressions.formulas",
        "data.frames": "market.frames",
        "data.handler": "features.handler",
        "data.importer": "market.importer",
        "data.inst_processor": "features.inst_processor",
        "data.kernels": "expressions.kernels",
        "data.loader": "features.loader",
        "data.moments": "expressions.moments",
        "data.numbers": "market.numbers",
        "data.operators": "expressions.operators",
        "data.panel": "features.panel",
        "data.processor": "features.processor",
        "data.provider": "market.provider",
        "data.table": "market.price_table",
        "data.timeseries": "features.timeseries",
        "data.universe": "market.universe_import",
        "data.warm": "expressions.precompile",
        "job": "pipeline",
        "report.facts": "report.headline",
        "run.claims": "run.leases",
        "run.fitness": "run.requirements",
        "run.slot": "run.worker_process",
        "run.standing": "run.worker_health",
        "run.work": "run.job",
        "serial": "pickling",
        "track.context": "track.provenance",
        "track.copy": "track.transfer",
        "track.elsewhere": "track.pool_references",
        "track.files": "track.artifact_files",
        "track.index": "track.run_cache",
    }.items()
}
"""Earlier name -> current name."""

MOVED_NAMES = {
    "rollforge.features.processor": dict.fromkeys(
        ("Adapted", "Processor", "days_needed", "get_group_columns", "learned_by", "restore", "unknown_group"),
        "rollforge.features.processor_base",
    ),
    "rollforge.run.trainer": {
        "DelayTrainerRM": "rollforge.run.pool_trainer",
        "TrainerRM": "rollforge.run.pool_trainer",
        "recorder_of": "rollforge.run.references",
    },
}
"""Module that still exists -> names that have moved from it -> their current module."""


def current_name(module: str, name: str = "") -> str:
    """Return the current name of a module, or of the module that now has one of its names.

    Examples
    --------
    >>> current_name("rollforge.data.handler"), current_name("my.module")
    ('rollforge.features.handler', 'my.module')
    >>> current_name("rollforge.run.trainer", "TrainerRM")
    'rollforge.run.pool_trainer'
    """
    module = MOVED.get(module, module)
    return MOVED_NAMES.get(module, {}).get(name, module)


def earlier_names(module: str) -> Callable[[str], object]:
    """Return a module's ``__getattr__``, which finds the names that have moved from it.

    Parameters
    ----------
    module : str
        Name of the module, one of :data:`MOVED_NAMES`.
    """

    def find(name: str) -> object:
        if name not in MOVED_NAMES[module]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(MOVED_NAMES[module][name]), name)

    return find


class Alias:
    """Another name of an attribute, which Qlib's scripts or earlier versions use.

    Examples
    --------
    >>> class Worker(Aliased):
    ...     task_pool = Alias("pool")
    >>> worker = Worker()
    >>> worker.task_pool = "p"
    >>> worker.pool, vars(worker)
    ('p', {'pool': 'p'})
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.__doc__ = f"Another name of `{name}`."

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else getattr(instance, self._name)

    def __set__(self, instance: object, value: object) -> None:
        setattr(instance, self._name, value)


class Aliased:
    """Base of classes with an :class:`Alias`; unpickles objects that were saved when it was the attribute's name."""

    def __setstate__(
        self, state: Mapping[str, object] | tuple[Mapping[str, object] | None, Mapping[str, object] | None]
    ) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # a subclass with slots has two
            for name, value in (part or {}).items():
                setattr(self, name, value)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds current modules under their earlier names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, _Alias()) if fullname in MOVED else None


class _Alias(importlib.abc.Loader):
    """Returns the current module instead of creating a new one."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has replaced it by that of the earlier name


def install() -> None:
    """Make earlier names importable, with the lowest priority. Idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
