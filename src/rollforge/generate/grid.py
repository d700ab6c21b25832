"""Grids: one task for each combination of values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rollforge.errors import ConfigError, nearest
from rollforge.generate.base import TaskGen, copy_task

__all__ = ["GridGen"]


class GridGen(TaskGen):
    """Turns a task into one task for each combination of values.

    Parameters
    ----------
    values : mapping
        Dotted path in the task -> the values to try. The last part of a path may be new (an argument that the template
        leaves at its default); what comes before must be there.

    Examples
    --------
    >>> grid = GridGen({"model.kwargs.loss": ["mse", "binary"], "model.kwargs.max_depth": [4, 8]})
    >>> [t["model"]["kwargs"]["max_depth"] for t in grid.generate({"model": {"kwargs": {"loss": "mse"}}})]
    [4, 8, 4, 8]
    """

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        for path, listed in values.items():
            if not isinstance(listed, (list, tuple)) or not listed:
                raise ConfigError("needs a list of values.", path=f"grid.{path}")
        self.values = {path: list(listed) for path, listed in values.items()}

    def generate(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one task a combination, the last path varying fastest.

        Raises
        ------
        ConfigError
            For a path that leads nowhere.
        """
        made = []
        for combination in itertools.product(*self.values.values()):
            new = copy_task(task)
            for path, value in zip(self.values, combination, strict=True):
                _put(new, path, value)
            made.append(new)
        return made


def _put(task: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = task
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            options = list(node) if isinstance(node, dict) else []
            raise ConfigError(f"leads nowhere: there is no {part!r}.{nearest(part, options)}", path=f"grid.{path}")
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
