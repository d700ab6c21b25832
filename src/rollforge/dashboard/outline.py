"""The parts of a task's definition that a dashboard shows: its model, its variant and its test segment.

A pool can have ten thousand tasks, so their definitions are read once each, without building the objects that they describe.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.errors import RollforgeError, excerpt
from rollforge.generate.label_horizon import task_horizon
from rollforge.task import decode, searchable

__all__ = ["NO_OUTLINE", "Outline", "horizon_text", "outline"]

_SEEDS = ("seed", "random_state", "random_seed")
_LOSSES = ("loss", "objective", "loss_function")
_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Outline:
    """The parts of a definition that determine the place of a task in the grid."""

    model_class: str = ""
    variant: str = ""
    """A hash of the definition without its days: equal for all windows of a model."""
    seed: str = ""
    loss: str = ""
    first: str = ""
    """First day of the test segment; empty if there is none."""
    last: str = ""
    """Its last day; empty if it is open."""

    @property
    def window(self) -> str:
        """The test segment as it is written on a page; empty if there is none."""
        return f"{self.first} to {self.last or 'the end'}" if self.first else ""


NO_OUTLINE = Outline()


def outline(text: str, *, named: bool = False) -> Outline:
    """Return the outline of a stored definition; an empty one if the text is damaged.

    Parameters
    ----------
    text : str
        The definition as it is stored.
    named : bool
        Whether the task's model has a name, so that the variant, which takes a third of the time, is not needed.

    Examples
    --------
    >>> test = '{"$tuple": [{"$date": "2020-01-02"}, {"$date": "2020-03-31"}]}'
    >>> model = '{"class": "a.b.LGBModel", "kwargs": {"seed": 7}}'
    >>> found = outline('{"model": %s, "dataset": {"kwargs": {"segments": {"test": %s}}}}' % (model, test))
    >>> found.model_class, found.seed, found.window
    ('LGBModel', '7', '2020-01-02 to 2020-03-31')
    >>> outline("[") == NO_OUTLINE
    True
    """
    try:
        plain = json.loads(text)
        if not isinstance(plain, dict):
            return NO_OUTLINE
        model = plain.get("model")
        arguments = _mapping(_mapping(model).get("kwargs"))
        first, last = _days(
            _mapping(_mapping(_mapping(plain.get("dataset")).get("kwargs")).get("segments")).get("test")
        )
        its_class = _mapping(model).get("class", model if isinstance(model, str) else "")
        return Outline(
            model_class=_shown(its_class).rpartition(".")[2], variant="" if named else _variant(plain),
            seed=_first(arguments, _SEEDS),
            loss=_first(arguments, _LOSSES), first=first, last=last,
        )  # fmt: skip
    except (ValueError, RecursionError, TypeError):  # others may have written the text
        return NO_OUTLINE


def horizon_text(text: str) -> str:
    """Return how many days the label of a stored definition looks ahead; empty if it is unknown."""
    try:
        definition = decode(text)
        days = task_horizon(definition).days if isinstance(definition, Mapping) else None
    except (RollforgeError, TypeError, ValueError, RecursionError):  # a damaged definition has no horizon
        return ""
    return "" if days is None else str(days)


def _mapping(node: object) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}


def _shown(value: object) -> str:
    return _shown_scalar(value) if isinstance(value, (str, int, float)) else excerpt(_json(value), _LENGTH)


@functools.lru_cache(maxsize=10_000, typed=True)
def _shown_scalar(value: str | float) -> str:
    # The definitions of a pool contain few different values.
    return excerpt(value if isinstance(value, str) else _json(value), _LENGTH)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _first(arguments: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((_shown(arguments[name]) for name in names if arguments.get(name) is not None), "")


def _days(segment: object) -> tuple[str, str]:
    """Return the first and the last day of a segment, of several intervals those of the whole."""
    found = searchable(segment)
    if not isinstance(found, list) or not found:
        return "", ""
    if isinstance(found[0], list):
        found = [
            found[0][0] if found[0] else None,
            found[-1][-1] if isinstance(found[-1], list) and found[-1] else None,
        ]
    first, last = found[0], found[-1] if len(found) > 1 else None
    return _day(first), _day(last)


def _day(value: object) -> str:
    return str(value).removesuffix("T00:00:00")[:19] if isinstance(value, (str, int)) else ""


def _variant(plain: Mapping[str, Any]) -> str:
    parts = [
        plain.get("model"),
        plain.get("reweighter"),
        _timeless(plain.get("dataset")),
        _timeless(plain.get("record")),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _timeless(node: object) -> object:
    if isinstance(node, dict):
        return {k: _timeless(v) for k, v in node.items() if k != "segments" and not k.endswith("_time")}
    return [_timeless(v) for v in node] if isinstance(node, list) else node
