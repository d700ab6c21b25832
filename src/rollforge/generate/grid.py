"""Grids and seeds: one task per combination of values, or per seed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollforge.arguments import whole_number
from rollforge.errors import ConfigError, nearest, shown
from rollforge.generate.base import NamedTaskGen, copy_task
from rollforge.generate.naming import check_name, differing_parts
from rollforge.limits import LIMITS
from rollforge.task import Definition, digest

__all__ = ["GridGen", "SeedGen"]

Pairs = list[tuple[str, object]]
"""The values of a path, each with its name, which is empty for values of a list."""


class GridGen(NamedTaskGen):
    """Generates one task per combination of values.

    Parameters
    ----------
    values : mapping
        Dotted path in the task -> the values to try, as a list or as a mapping {name: value}. The last part of a path
        may be new (an argument that the template leaves at its default); the rest must exist.
    zip : sequence of sequence of str, optional
        Groups of paths that are varied together: the first value of each, then the second of each, and so on.
    when : mapping, optional
        Path -> conditions {other path: value, or list of values}: only combinations that have one of these values at
        each of the other paths set this path; in the others it stays as it is in the template.
    exclude : sequence of mapping, optional
        Conditions in the same form; a combination that meets all conditions of one of them is left out.

    Raises
    ------
    ConfigError
        If a path has no values or a value twice, or a name is invalid; if a group or condition names a path or a value that
        does not exist.

    Notes
    -----
    A condition may refer to a value of `values` by its name or by the value itself. It may also refer to a path that is not
    varied, such as ``model.class`` in a workflow of several models; a path that a task does not have meets none.

    Examples
    --------
    >>> grid = GridGen({"model.kwargs.loss": ["mse", "binary"], "model.kwargs.max_depth": {"flat": 4, "deep": 8}})
    >>> for name, task in grid.named({"model": {"kwargs": {"loss": "mse"}}}):
    ...     print(name, task["model"]["kwargs"])
    flat, loss=mse {'loss': 'mse', 'max_depth': 4}
    deep, loss=mse {'loss': 'mse', 'max_depth': 8}
    flat, loss=binary {'loss': 'binary', 'max_depth': 4}
    deep, loss=binary {'loss': 'binary', 'max_depth': 8}

    Few rounds for the high learning rate, and a rate of dropped trees only where trees are dropped:

    >>> grid = GridGen(
    ...     {"model.kwargs.lr": [0.1, 0.01], "model.kwargs.rounds": [100, 1000],
    ...      "model.kwargs.boosting": ["gbdt", "dart"], "model.kwargs.drop_rate": [0.1, 0.5]},
    ...     zip=[["model.kwargs.lr", "model.kwargs.rounds"]],
    ...     when={"model.kwargs.drop_rate": {"model.kwargs.boosting": "dart"}},
    ...     exclude=[{"model.kwargs.lr": 0.01, "model.kwargs.boosting": "dart"}],
    ... )
    >>> for task in grid.generate({"model": {"kwargs": {}}}):
    ...     print(task["model"]["kwargs"])
    {'lr': 0.1, 'rounds': 100, 'boosting': 'gbdt'}
    {'lr': 0.1, 'rounds': 100, 'boosting': 'dart', 'drop_rate': 0.1}
    {'lr': 0.1, 'rounds': 100, 'boosting': 'dart', 'drop_rate': 0.5}
    {'lr': 0.01, 'rounds': 1000, 'boosting': 'gbdt'}
    """

    def __init__(
        self,
        values: Mapping[str, Sequence[object] | Mapping[str, object]],
        zip: Sequence[Sequence[str]] = (),
        when: Mapping[str, Mapping[str, object]] | None = None,
        exclude: Sequence[Mapping[str, object]] = (),
    ) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"must be a mapping of paths to values, found {shown(values)}.", path="values")
        if not values:
            raise ConfigError("has no paths. Write paths and their values, or remove the grid.", path="values")
        self.values = {path: _named_values(path, listed) for path, listed in values.items()}
        self.axes = self._read_axes(zip)
        self.when = {path: self._conditions(given, f"when.{path}") for path, given in _mapping(when, "when").items()}
        unknown = next((path for path in self.when if path not in self.values), None)
        if unknown is not None:
            raise ConfigError(f"has no values.{nearest(unknown, self.values)}", path=f"when.{unknown}")
        self._check_cycles()
        if not isinstance(exclude, (list, tuple)):
            raise ConfigError(f"must be a list of mappings, found {shown(exclude)}.", path="exclude")
        self.exclude = [self._conditions(given, f"exclude.{i}") for i, given in enumerate(exclude)]

    def _read_axes(self, groups: object) -> list[tuple[str, ...]]:
        """Return the paths that are varied together, for each group of paths and for each other path alone."""
        if not isinstance(groups, (list, tuple)) or not all(isinstance(one, (list, tuple)) for one in groups):
            raise ConfigError(f"must be a list of lists of paths, found {shown(groups)}.", path="zip")
        group_of: dict[str, tuple[str, ...]] = {}
        for i, group in enumerate(groups):
            for path in group:
                if path not in self.values:
                    raise ConfigError(f"{path!r:.80} has no values.{nearest(path, self.values)}", path=f"zip.{i}")
                if path in group_of or list(group).count(path) > 1:
                    raise ConfigError(f"{path!r:.80} appears twice.", path=f"zip.{i}")
            sizes = {path: len(self.values[path]) for path in group}
            if len(set(sizes.values())) > 1:
                described = ", ".join(f"{path} has {size}" for path, size in sizes.items())
                raise ConfigError(f"needs the same number of values for each path, but {described}.", path=f"zip.{i}")
            group_of.update(dict.fromkeys(group, tuple(group)))
        axes = list(dict.fromkeys(group_of.get(path, (path,)) for path in self.values))
        for axis in axes:
            _check_distinct([[value for _, value in row] for row in self._rows(axis)], axis)
        return axes

    def _rows(self, axis: tuple[str, ...]) -> list[Pairs]:
        """Return the values of paths that are varied together, row by row."""
        return [list(row) for row in zip(*(self.values[path] for path in axis), strict=True)]

    def _conditions(self, given: object, where: str) -> dict[str, list[object]]:
        """Return conditions, with the listed values of each path."""
        conditions = {}
        for path, listed in _mapping(given, where).items():
            wanted = list(listed) if isinstance(listed, (list, tuple)) else [listed]
            if path in self.values:
                for value in wanted:
                    if not any(_is_meant(value, pair) for pair in self.values[path]):
                        known = [name or str(known) for name, known in self.values[path]]
                        raise ConfigError(
                            f"{shown(value)} is not one of its values.{nearest(str(value), known)} They are "
                            f"{', '.join(known[:20]):.300}.",
                            path=f"{where}.{path}",
                        )
            conditions[path] = wanted
        if not conditions:
            raise ConfigError("has no conditions.", path=where)
        return conditions

    def _check_cycles(self) -> None:
        for path in self.when:
            seen, later = set(), [path]
            while later:
                for other in self.when.get(later.pop(), ()):
                    if other == path:
                        raise ConfigError("depends on itself.", path=f"when.{path}")
                    if other not in seen:
                        seen.add(other)
                        later.append(other)

    def _check_conditions(self, task: Mapping[str, object]) -> None:
        """Raise an error if a condition is about a path that the task lacks and that looks misspelt."""
        listed = [(f"when.{path}", given) for path, given in self.when.items()]
        for where, conditions in [*listed, *((f"exclude.{i}", given) for i, given in enumerate(self.exclude))]:
            for path in conditions:
                alike = nearest(path, self.values)
                same_parent = path.rpartition(".")[0] in {p.rpartition(".")[0] for p in self.values}
                if path not in self.values and alike and same_parent and _found(task, path) is None:
                    raise ConfigError(f"has no values.{alike}", path=f"{where}.{path}")

    def never_set(self, tasks: Sequence[Mapping[str, object]]) -> list[str]:
        """Return the paths of `when` that no combination of any of these tasks sets."""
        never = list(self.when)
        for task in tasks:
            for chosen in self._chosen(task) if never else ():
                never = [path for path in never if path not in chosen]
        return never

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of combinations; without regard to conditions if that is more than the limit of tasks."""
        total = math.prod(len(self.values[axis[0]]) for axis in self.axes)
        if not (self.when or self.exclude) or total > LIMITS["tasks"].value:
            return total
        return sum(1 for _ in self._chosen(task))

    def _chosen(self, task: Mapping[str, object]) -> Iterator[dict[str, tuple[str, object]]]:
        """Yield the combinations: path -> (name, value), for the paths that they set."""
        known: set[str] = set()
        for rows in itertools.product(*map(self._rows, self.axes)):
            drawn = {
                path: pair
                for axis, row in zip(self.axes, rows, strict=True)
                for path, pair in zip(axis, row, strict=True)
            }
            chosen = {path: drawn[path] for path in self.values if self._is_set(path, drawn, task)}
            if len(chosen) < len(drawn):
                mark = digest({path: value for path, (_, value) in chosen.items()})
                if mark in known:  # it differs only in values that are not set
                    continue
                known.add(mark)
            if not any(self._are_met(conditions, chosen, task) for conditions in self.exclude):
                yield chosen

    def _is_set(self, path: str, drawn: Mapping[str, tuple[str, object]], task: Mapping[str, object]) -> bool:
        needed = self.when.get(path, {})
        others = {other: drawn[other] for other in needed if other in drawn and self._is_set(other, drawn, task)}
        return self._are_met(needed, others, task)

    def _are_met(
        self,
        conditions: Mapping[str, list[object]],
        chosen: Mapping[str, tuple[str, object]],
        task: Mapping[str, object],
    ) -> bool:
        for path, wanted in conditions.items():
            pair = chosen.get(path) or _found(task, path)
            if pair is None or not any(_is_meant(value, pair) for value in wanted):
                return False
        return True

    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return one task per combination, with the names of its values, and what else distinguishes it.

        The last path varies fastest. If there is only one combination and no value has a name, the name is empty.

        Raises
        ------
        ConfigError
            If a path does not exist in the task, or no combination is left.
        TooLarge
            If there would be more tasks than the limit allows.
        """
        self._check_conditions(task)
        LIMITS["tasks"].check(self.count(task), "its combinations are", path="values")
        combinations: list[tuple[tuple[str, ...], dict[str, object]]] = []
        for chosen in self._chosen(task):
            new = copy_task(task)
            for path, (_, value) in chosen.items():
                put_value(new, path, copy_task(value), where=f"values.{path}")
            combinations.append((tuple(name for name, _ in chosen.values() if name), new))
        if not combinations:
            raise ConfigError("leaves out all combinations.", path="exclude")
        parts = [""] * len(combinations)
        for names in dict.fromkeys(names for names, _ in combinations):
            alike = [i for i, (own, _) in enumerate(combinations) if own == names]
            for i, part in zip(alike, differing_parts([combinations[i][1] for i in alike]), strict=True):
                parts[i] = part
        return [
            (", ".join(filter(None, (*names, part))), new)
            for (names, new), part in zip(combinations, parts, strict=True)
        ]


class SeedGen(NamedTaskGen):
    """Generates one task per seed, whose predictions the workflow's ensemble averages.

    Parameters
    ----------
    seeds : int or sequence of int
        The seeds; a number stands for that many, from 0.
    paths : str or sequence of str
        Dotted paths in the task at which the seed is set.

    Raises
    ------
    ConfigError
        If there is no seed, or a seed is invalid or appears twice.

    Examples
    --------
    >>> task = {"model": {"class": "LGBModel", "kwargs": {"num_leaves": 8}}}
    >>> for name, made in SeedGen([7, 8], paths=["model.kwargs.seed", "model.kwargs.bagging_seed"]).named(task):
    ...     print(name, made["model"]["kwargs"])
    seed 7 {'num_leaves': 8, 'seed': 7, 'bagging_seed': 7}
    seed 8 {'num_leaves': 8, 'seed': 8, 'bagging_seed': 8}
    """

    def __init__(self, seeds: int | Sequence[int], paths: str | Sequence[str] = "model.kwargs.seed") -> None:
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            LIMITS["tasks"].check(seeds, "there are", path="seeds")
            seeds = range(seeds)
        if isinstance(seeds, (str, bytes, Mapping)) or not isinstance(seeds, Sequence):
            raise ConfigError(
                f"must be a list of whole numbers, or a number of seeds; found {shown(seeds)}.", path="seeds"
            )
        if not seeds:
            raise ConfigError("needs at least one seed.", path="seeds")
        self.seeds = [whole_number(seed, f"seeds.{i}", least=0) for i, seed in enumerate(seeds)]
        twice = [seed for seed, count in Counter(self.seeds).items() if count > 1]
        if twice:
            raise ConfigError(f"has the seed {twice[0]} twice.", path="seeds")
        self.paths = [paths] if isinstance(paths, str) else list(paths)
        if not self.paths or not all(isinstance(path, str) and path for path in self.paths):
            raise ConfigError(f"must be a path or a list of paths, found {shown(paths)}.", path="paths")

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of seeds."""
        return len(self.seeds)

    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return one task per seed, with the names ``seed 0``, ``seed 1`` and so on.

        Raises
        ------
        ConfigError
            If a path does not exist in the task. Its last part may be new.
        """
        combinations = []
        for seed in self.seeds:
            new = copy_task(task)
            for path in self.paths:
                put_value(new, path, seed, where="paths")
            combinations.append((f"seed {seed}" if len(self.seeds) > 1 else "", new))
        return combinations


def _mapping(given: object, where: str) -> Mapping[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping of paths, found {shown(given)}.", path=where)
    return given


def _is_meant(value: object, pair: tuple[str, object]) -> bool:
    """Return whether `value` is the name or the value of a pair."""
    name, known = pair
    if isinstance(value, (int, float)) and isinstance(known, (int, float)):
        return isinstance(value, bool) == isinstance(known, bool) and value == known  # 1 is 1.0, but not true
    return (bool(name) and value == name) or digest({"value": value}) == digest({"value": known})


def _found(task: Mapping[str, object], path: str) -> tuple[str, object] | None:
    """Return the value of a path as a pair without a name; None if the task has no such path."""
    node: object = task
    for part in path.split("."):
        if isinstance(node, list) and _is_list_index(part, node):
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            return None
    return "", node


def _named_values(path: str, listed: object) -> Pairs:
    where = f"values.{path}"
    if isinstance(listed, Mapping) and "class" not in listed:
        pairs = [(check_name(name, where), value) for name, value in listed.items()]
    elif isinstance(listed, (list, tuple)):
        pairs = [("", value) for value in listed]
    else:
        raise ConfigError("needs a list of values or a mapping of names to values.", path=where)
    if not pairs:
        raise ConfigError("needs at least one value.", path=where)
    return pairs


def _check_distinct(rows: Sequence[Sequence[object]], axis: tuple[str, ...]) -> None:
    twice = [i for i, count in Counter(digest({"value": row}) for row in rows).items() if count > 1]
    if twice:
        values = next(row for row in rows if digest({"value": row}) == twice[0])
        described = (
            f"the value {values[0]!r:.60}" if len(axis) == 1 else f"the values {', '.join(map(repr, values)):.200}"
        )
        raise ConfigError(f"has {described} twice.", path=f"values.{axis[0]}")


def put_value(task: dict[str, object], path: str, value: object, *, where: str) -> None:
    """Set the value of a dotted path in a task, in place. The ``kwargs`` of an object are added if it has none.

    Parameters
    ----------
    where : str
        Location of the path in its document, for errors.

    Raises
    ------
    ConfigError
        If there is no such path. Its last part may be new.
    """
    *parents, last = path.split(".")
    node: object = task
    for i, part in enumerate(parents):
        if isinstance(node, list) and _is_list_index(part, node):
            below = node[int(part)]
            key: Any = int(part)
        elif isinstance(node, dict) and (part in node or (part == "kwargs" and "class" in node)):
            below, key = node.get(part), part
        else:
            options = list(node) if isinstance(node, dict) else []
            raise ConfigError(
                f"{_of(where, path)}does not exist: there is no {part!r}.{nearest(part, options)}", path=where
            )
        following = [*parents, last][i + 1]
        if below is None and part == "kwargs":
            below = node[key] = {}
        elif isinstance(below, str) and following == "kwargs":  # a class as a dotted path
            below = node[key] = {"class": below}
        node = below
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and _is_list_index(last, node):
        node[int(last)] = value
    else:
        raise ConfigError(
            f"{_of(where, path)}does not exist: {last!r} is not a key or position of {_what(node)}.", path=where
        )


def _of(where: str, path: str) -> str:
    return "" if where.endswith(path) else f"{path!r} "


def _is_list_index(part: str, listed: list[object]) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(listed)


def _what(node: object) -> str:
    return f"a list of {len(node)}" if isinstance(node, list) else f"{node!r:.60}"
