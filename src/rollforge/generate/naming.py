"""Names of the models of an experiment: the given name, or else the differences between their definitions.

Names are shown when tasks are listed, trained, tracked and reported. A name is not part of a task's definition, so
renaming a model does not retrain anything.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollforge.errors import ConfigError, TaskNotSerializable
from rollforge.generate.task_view import TaskView
from rollforge.task import digest, encode

__all__ = ["check_name", "describe", "differing_parts", "model_names", "short_name", "trial_of", "variant"]

MAX_NAME = 80
_MAX_VALUE_LENGTH = 32
_MAX_PARTS = 4


def check_name(name: object, path: str = "") -> str:
    """Return `name` as a string after checking that it is valid in tables, tags and messages.

    Raises
    ------
    ConfigError
        If it is empty, longer than 80 characters, or contains non-printable characters.
    """
    text = str(name).strip() if isinstance(name, (str, int, float)) and not isinstance(name, bool) else ""
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise ConfigError(
            f"{name!r:.100} cannot be the name of a model. Use 1 to {MAX_NAME} printable characters.", path=path
        )
    return text


def short_name(name: str) -> str:
    """Return a name of at most 80 characters: a longer one loses its middle, and ends with a hash of the whole name.

    The same name is always shortened in the same way, and different names to different ones. Beginning and end are kept,
    because names of generated models begin with the model and end with what distinguishes it from the others.

    Examples
    --------
    >>> short_name("lgb, seed 7")
    'lgb, seed 7'
    >>> short_name("gradient boosted trees on all features of Alpha158 of the last ten years, num_leaves=16, horizon 5, seed 7")
    'gradient boosted trees on all feat…, num_leaves=16, horizon 5, seed 7 (6534a98d)'
    """
    if len(name) <= MAX_NAME:
        return name
    mark = f" ({digest({'name': name})[:8]})"
    room = MAX_NAME - len(mark) - 1
    return f"{name[: room - room // 2]}…{name[len(name) - room // 2 :]}{mark}"


# -- tasks of the same model -------------------------------------------------------------------------------------------


def variant(definition: Mapping[str, object]) -> str:
    """Return a hash of a task without its dates: equal for all windows of a model, different for other models.

    Segments and keys ending in ``_time`` in the dataset and the records are ignored.

    Examples
    --------
    >>> def task(depth, year):
    ...     segments = {"test": (f"{year}-01-01", f"{year}-12-31")}
    ...     return {"model": {"kwargs": {"depth": depth}}, "dataset": {"kwargs": {"segments": segments}}}
    >>> variant(task(4, 2020)) == variant(task(4, 2021)), variant(task(4, 2020)) == variant(task(8, 2020))
    (True, False)
    """
    return digest(_without_windows(definition))[:12]


def trial_of(definition: Mapping[str, object]) -> str:
    """Return a hash of a definition without its windows and records: equal for all tasks of one variant.

    Raises
    ------
    TaskNotSerializable
        If the definition contains live objects.

    Examples
    --------
    >>> def task(depth, **more):
    ...     return {"model": {"class": "LGBModel", "kwargs": {"depth": depth}}, **more}
    >>> trial_of(task(4)) == trial_of(task(4, record=[{"class": "SignalRecord"}])), trial_of(task(4)) == trial_of(task(8))
    (True, False)
    """
    return variant({**definition, "record": None})


def _without_windows(definition: Mapping[str, object]) -> dict[str, object]:
    parts = {key: definition.get(key) for key in ("model", "reweighter")}
    return parts | {key: _timeless(definition.get(key)) for key in ("dataset", "record")}


def _timeless(node: object) -> object:
    if isinstance(node, Mapping):
        return {k: _timeless(v) for k, v in node.items() if k != "segments" and not str(k).endswith("_time")}
    return [_timeless(v) for v in node] if isinstance(node, (list, tuple)) else node


# -- names -------------------------------------------------------------------------------------------------------------


def model_names(definitions: Sequence[Mapping[str, object]], given: Sequence[str] = ()) -> list[str]:
    """Return the name of each task's model; different models never have the same name.

    Tasks with the same :func:`variant` belong to one model, whose name is the first name given to any of them. If tasks
    with different given names test the same days, each name is a separate model (a grid over segments). A model without
    a given name is named after its differences from the others (:func:`differing_parts`), and so are different models
    that were given the same name. A single model without a given name has an empty name.

    Parameters
    ----------
    definitions : sequence of mapping
        Tasks.
    given : sequence of str, optional
        Name given to each task's model; empty if none was given.

    Examples
    --------
    >>> lgb, linear = {"model": {"class": "LGBModel"}}, {"model": {"class": "LinearModel"}}
    >>> model_names([lgb, linear, lgb])
    ['LGBModel', 'LinearModel', 'LGBModel']
    >>> model_names([lgb, linear], ["trees", ""])
    ['trees', 'LinearModel']
    >>> model_names([lgb, lgb])
    ['', '']
    """
    named = list(given) if given else [""] * len(definitions)
    try:
        variants = [variant(d) for d in definitions]
    except TaskNotSerializable:  # a task that is never stored may contain live objects
        return named
    tests: dict[str, dict[str, set[str]]] = {}
    for one, name, definition in zip(variants, named, definitions, strict=True):
        tests.setdefault(one, {}).setdefault(name, set()).add(TaskView(definition).days_tested)
    meant = {one: _names_meant(theirs) for one, theirs in tests.items()}
    keys = [(one, meant[one].get(name, name)) for one, name in zip(variants, named, strict=True)]
    examples: dict[tuple[str, str], Mapping[str, object]] = {}
    for key, definition in zip(keys, definitions, strict=True):
        examples.setdefault(key, definition)
    names = _names_of(examples)
    return [names[key] for key in keys]


def _names_meant(tests: Mapping[str, set[str]]) -> dict[str, str]:
    """Map the names given to tasks of one variant to names of models; `tests` has the days tested under each name."""
    names = [name for name in tests if name]
    apart = len(set().union(*(tests[name] for name in names))) < sum(len(tests[name]) for name in names)
    return {} if apart or not names else dict.fromkeys(tests, names[0])


def _names_of(examples: Mapping[tuple[str, str], Mapping[str, object]]) -> dict[tuple[str, str], str]:
    """Return distinct names for models, which are given as (variant, given name) with one of their tasks each."""
    models = list(examples)
    if len(models) == 1:
        return {models[0]: models[0][1]}
    names = {key: key[1] for key in models}
    bare = [_without_windows(examples[key]) for key in models]
    for key, part in zip(models, differing_parts(bare), strict=True):
        names[key] = names[key] or part
    same: dict[str, list[tuple[str, str]]] = {}
    for key in models:
        same.setdefault(key[1], []).append(key)
    for name, alike in same.items():
        if name and len(alike) > 1:
            parts = differing_parts([_without_windows(examples[key]) for key in alike])
            names.update((key, f"{name}, {part}") for key, part in zip(alike, parts, strict=True))
    counts = Counter(names.values())
    distinct = {
        key: name if name and counts[name] == 1 else f"{name} ({key[0][:6]})".strip() for key, name in names.items()
    }
    return {key: short_name(name) for key, name in distinct.items()}


@dataclass(frozen=True, slots=True)
class _Difference:
    """A path at which some definitions differ."""

    path: tuple[str, ...]
    """Empty for the class of an object, which is shown without its path."""
    texts: Mapping[int, str]
    """Index of the definition -> its value, only for the definitions that this difference distinguishes."""


def differing_parts(definitions: Sequence[object]) -> list[str]:
    """Return a text for each definition with its differences from the others; empty if there are none.

    It has the first four differences, or all if these are those of another definition too.

    Examples
    --------
    >>> differing_parts([{"model": {"kwargs": {"depth": d, "loss": "mse"}}} for d in (4, 8)])
    ['depth=4', 'depth=8']
    >>> differing_parts([{"class": "LGBModel", "kwargs": {"depth": 4}}, {"class": "LGBModel"}, {"class": "LinearModel"}])
    ['LGBModel, depth=4', 'LGBModel, depth=default', 'LinearModel']
    """
    found = list(_differences(dict(enumerate(definitions)), ()))
    labels = _short_paths([d.path for d in found])
    parts = [
        [
            f"{label}={difference.texts[i]}" if label else difference.texts[i]
            for label, difference in zip(labels, found, strict=True)
            if i in difference.texts
        ]
        for i in range(len(definitions))
    ]
    short = [", ".join(own[:_MAX_PARTS]) for own in parts]
    counts = Counter(short)
    return [text if counts[text] == 1 else ", ".join(own) for text, own in zip(short, parts, strict=True)]


class _Missing:
    """Placeholder for a value that a definition leaves at its default."""


_MISSING = _Missing()


def _differences(nodes: Mapping[int, Any], path: tuple[str, ...]) -> Iterator[_Difference]:
    listed = list(nodes.values())
    if _all_same(listed):
        return
    described = any(isinstance(node, Mapping) and "class" in node for node in listed)
    if not described and any(isinstance(node, Mapping) for node in listed):
        nodes = {i: {} if node is _MISSING else node for i, node in nodes.items()}
        listed = list(nodes.values())
    if all(isinstance(node, Mapping) for node in listed):
        classes = {i: node.get("class") for i, node in nodes.items()}
        if len({str(c) for c in classes.values()}) > 1 and all(classes.values()):
            yield _Difference((), {i: _text(c) for i, c in classes.items()})
            for name in dict.fromkeys(map(str, classes.values())):
                yield from _in_mappings({i: n for i, n in nodes.items() if str(n["class"]) == name}, path)
        else:
            yield from _in_mappings(nodes, path)
    elif all(isinstance(node, (list, tuple)) and len(node) == len(listed[0]) for node in listed):
        for place in range(len(listed[0])):
            yield from _differences({i: node[place] for i, node in nodes.items()}, (*path, str(place)))
    else:
        yield _Difference(path, {i: _text(node) for i, node in nodes.items()})


def _in_mappings(nodes: Mapping[int, Mapping[Any, object]], path: tuple[str, ...]) -> Iterator[_Difference]:
    for key in dict.fromkeys(k for node in nodes.values() for k in node):
        yield from _differences({i: node.get(key, _MISSING) for i, node in nodes.items()}, (*path, str(key)))


_SIMPLE = (str, int, float, bool)


def _all_same(values: Sequence[object]) -> bool:
    """Return whether all values have the same type and the same JSON."""
    first = next(iter(values), None)
    others = [value for value in values[1:] if value is not first]
    if any(type(value) is not type(first) for value in others):
        return False
    if type(first) in _SIMPLE:
        return all(repr(value) == repr(first) for value in others)  # 0.0 and -0.0 differ, and NaN is equal to itself
    try:
        text = encode(first) if others else ""
        return all(encode(value) == text for value in others)
    except TaskNotSerializable:
        return False


def _text(value: object) -> str:
    if value is _MISSING:
        return "default"
    if isinstance(value, Mapping) and "class" in value:
        value = value["class"]
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(_text(v) for v in value)}]"
    elif value is None or isinstance(value, bool):
        text = str(value).lower()
    else:
        text = value.isoformat().removesuffix("T00:00:00") if isinstance(value, dt.date) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 1]}…"


def _short_paths(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the shortest distinct suffix of each path; a list index alone is not enough."""
    whole = [tuple(p for p in path if p != "kwargs") or path for path in paths]
    short = []
    for path in whole:
        size = next((n for n, word in enumerate(reversed(path), 1) if not word.isdigit()), len(path))
        while size < len(path) and any(other != path and other[-size:] == path[-size:] for other in whole):
            size += 1
        short.append(".".join(path[-size:] if path else ()))
    return short


# -- tasks -------------------------------------------------------------------------------------------------------------


def describe(definition: Mapping[str, object], model_name: str = "") -> str:
    """Return a readable title of a task: its model's name or class, and its test segment; empty if neither is known.

    Examples
    --------
    >>> task = {"model": {"class": "LinearModel"}, "dataset": {"kwargs": {"segments": {"test": ("2020-01-02", "2020-02-28")}}}}
    >>> describe(task), describe(task, "ridge")
    ('LinearModel 2020-01-02 to 2020-02-28', 'ridge 2020-01-02 to 2020-02-28')
    """
    task = TaskView(definition)
    return " ".join(part for part in (model_name or task.model_class, task.days_tested) if part)
