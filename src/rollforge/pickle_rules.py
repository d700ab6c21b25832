"""The types of rules for reading the names in a pickle, and checks against values that are slow to hash."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

__all__ = ["Pending", "Refused", "Rule", "are_integers", "count_hashes", "expect", "need", "size_of"]

T = TypeVar("T")


class Refused(Exception):
    """A pickle requests something that this reader does not support; the message names it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The meaning of one name in a pickle."""

    NO_VALUE: ClassVar[object] = object()

    make: Callable[..., object] | None = None
    """Called with the arguments of a call. Returns the value, or a :class:`Pending` that is completed by its state."""
    value: Any = NO_VALUE
    """The object itself, if the name can be a value (for example a class)."""
    new: Callable[..., object] | None = None
    """Used instead of `make` if an instance is created without its constructor."""
    fill: Callable[[object, object], object] | None = None
    """``(instance, state) -> instance``, for a value that is created before its state is known."""


class Pending:
    """A value that is created once its state is known.

    Parameters
    ----------
    finish : callable
        ``state -> value``; the state is None if the pickle has none.
    """

    def __init__(self, finish: Callable[[Any], object]) -> None:
        self._finish = finish
        self._busy = False
        self.memo: list[int] = []
        """Where the reader stores it."""
        self.done = False
        self.result: object = None

    def finish(self, state: object) -> Any:
        """Return the value."""
        self.result, self.done = self._finish(state), True
        return self.result


def size_of(value: Any) -> int:
    """Return the approximate size in bytes of a value created by a call, not counting the values in a container."""
    if isinstance(value, (bytes, bytearray, str)):
        return 32 + len(value)
    if isinstance(value, (list, set, frozenset, dict, deque)):
        return 64 + 64 * len(value)
    kind = type(value).__name__
    if kind in ("MultiIndex", "RangeIndex"):  # their own count is slow, and 0
        return 64 + 8 * len(value)
    if kind == "DataFrame":
        return 64 + len(value) * sum(getattr(dtype, "itemsize", 8) for dtype in value.dtypes)
    size = getattr(value, "nbytes", 0)
    return 64 + (size if type(size) is int else 0)


def need(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


def expect(value: object, kind: type[T], what: str) -> T:
    """Return a value after checking its type.

    Raises
    ------
    Refused
        If the value is not of this type.
    """
    if not isinstance(value, kind):
        raise Refused(what)
    return value


def are_integers(*values: object) -> bool:
    return all(type(v) is int for v in values)


_MAX_HASHED = 500
_MAX_KEY_ITEMS = 1_000
_MAX_KEY_BYTES = 10_000
"""Bits of an integer in a key."""


def _checked_key(key: object) -> object:
    """Return the key of a dict or set; refuse one whose hash, which is computed again at each use, would take long."""
    if type(key) in (float, type(None), bool):
        return key
    waiting: list[Any] = [(key,)]
    count = 0
    while waiting:
        values = waiting.pop()
        count += len(values)
        if count > _MAX_KEY_ITEMS:
            raise ValueError(f"a key in it consists of more than {_MAX_KEY_ITEMS:,} values")
        for value in values:
            if isinstance(value, (tuple, frozenset)):
                waiting.append(value)
            elif isinstance(value, (range, slice)):
                waiting.append((value.start, value.stop, value.step))
            elif type(value) is int:
                need(value.bit_length() <= _MAX_KEY_BYTES, "a very large integer as a key")
            else:
                need(not hasattr(value, "construct_array_type"), "a dtype of pandas as a key")
    return key


def count_hashes(keys: Iterable[object], seen: Counter[int]) -> None:
    """Count the hashes of the keys of one dict or set.

    With equal hashes, each insertion searches all of them. Hashes of strings and bytes differ between processes, so an
    attacker cannot choose them.

    Raises
    ------
    ValueError
        If more than a few hundred distinct keys have the same hash.
    """
    numbers = [hash(_checked_key(key)) for key in keys if type(key) not in (str, bytes)]
    if numbers:
        seen.update(numbers)
        if max(map(seen.__getitem__, set(numbers))) > _MAX_HASHED:
            raise ValueError(f"more than {_MAX_HASHED} keys in it have the same hash")
