"""Grids: one task per combination of values."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rollforge.errors import ConfigError, nearest
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.naming import check_name, differing_parts
from rollforge.limits import LIMITS
from rollforge.task import Definition, digest

__all__ = ["GridGen"]


class GridGen(TaskGen):
    """Generates one task per combination of values.

    Parameters
    ----------
    values : mapping
        Dotted path in the task -> the values to try, as a list or as a mapping {name: value}. The last part of a path
        may be new (an argument that the template leaves at its default); the rest must exist.

    Raises
    ------
    ConfigError
        If a path has no values or a value twice, or a name is invalid.

    Examples
    --------
    >>> grid = GridGen({"model.kwargs.loss": ["mse", "binary"], "model.kwargs.max_depth": {"flat": 4, "deep": 8}})
    >>> for name, task in grid.named({"model": {"kwargs": {"loss": "mse"}}}):
    ...     print(name, task["model"]["kwargs"])
    flat, loss=mse {'loss': 'mse', 'max_depth': 4}
    deep, loss=mse {'loss': 'mse', 'max_depth': 8}
    flat, loss=binary {'loss': 'binary', 'max_depth': 4}
    deep, loss=binary {'loss': 'binary', 'max_depth': 8}
    """

    def __init__(self, values: Mapping[str, Sequence[object] | Mapping[str, object]]) -> None:
        self.values = {path: _named_values(path, listed) for path, listed in values.items()}

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of combinations."""
        return math.prod(len(values) for values in self.values.values())

    def generate(self, task: Definition) -> list[Definition]:
        """Return one task per combination; the last path varies fastest.

        Raises
        ------
        ConfigError
            If a path does not exist in the task.
        """
        return [new for _, new in self.named(task)]

    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return the tasks of :meth:`generate` with names: the names of their values, and what else distinguishes them.

        If there is only one combination and no value has a name, the name is empty.
        """
        LIMITS["tasks"].check(self.count(task), "its combinations are", path="values")
        made: list[tuple[tuple[str, ...], dict[str, object]]] = []
        for combination in itertools.product(*self.values.values()):
            new = copy_task(task)
            for path, (_, value) in zip(self.values, combination, strict=True):
                _put(new, path, copy_task(value))
            made.append((tuple(name for name, _ in combination if name), new))
        parts = [""] * len(made)
        for names in dict.fromkeys(names for names, _ in made):
            alike = [i for i, (own, _) in enumerate(made) if own == names]
            for i, part in zip(alike, differing_parts([made[i][1] for i in alike]), strict=True):
                parts[i] = part
        return [(", ".join(filter(None, (*names, part))), new) for (names, new), part in zip(made, parts, strict=True)]


def _named_values(path: str, listed: object) -> list[tuple[str, object]]:
    """Return the (name, value) pairs of a path; values of a list have empty names."""
    where = f"values.{path}"
    if isinstance(listed, Mapping) and "class" not in listed:
        pairs = [(check_name(name, where), value) for name, value in listed.items()]
    elif isinstance(listed, (list, tuple)):
        pairs = [("", value) for value in listed]
    else:
        raise ConfigError("needs a list of values or a mapping of names to values.", path=where)
    if not pairs:
        raise ConfigError("needs at least one value.", path=where)
    twice = [i for i, count in Counter(digest({"value": v}) for _, v in pairs).items() if count > 1]
    if twice:
        value = next(v for _, v in pairs if digest({"value": v}) == twice[0])
        raise ConfigError(f"has the value {value!r:.60} twice.", path=where)
    return pairs


def _put(task: dict[str, object], path: str, value: object) -> None:
    *parents, last = path.split(".")
    node: Any = task
    for part in parents:
        if isinstance(node, list) and _is_place(part, node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            options = list(node) if isinstance(node, dict) else []
            raise ConfigError(f"does not exist: there is no {part!r}.{nearest(part, options)}", path=f"values.{path}")
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and _is_place(last, node):
        node[int(last)] = value
    else:
        raise ConfigError(f"does not exist: {last!r} is not a key or position of {_what(node)}.", path=f"values.{path}")


def _is_place(part: str, listed: list[object]) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(listed)


def _what(node: object) -> str:
    return f"a list of {len(node)}" if isinstance(node, list) else f"{node!r:.60}"
