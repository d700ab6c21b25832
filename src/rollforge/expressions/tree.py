"""Expression trees: constants, fields and calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Call", "Constant", "Expression", "Field", "Number", "Text", "call"]


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A constant; integers stay integers. Two constants are equal if they are written in the same way: 2 and 2.0
    differ, and so do 0.0 and -0.0."""

    value: float | int

    def __hash__(self) -> int:
        return hash(repr(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and repr(self.value) == repr(other.value)

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string, an argument of some operators, with Python's quotes and escapes."""

    value: str

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of Python other than a number or a string: None, True or False, an argument of users' operators."""

    value: bool | None

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the data: ``$close``."""

    name: str

    def __str__(self) -> str:
        return f"${self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator applied to its arguments."""

    name: str
    args: tuple[Expression, ...]
    depth: int
    """Maximum nesting depth of operators."""
    _hash: int

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Call) or self._hash != other._hash:
            return False
        return self.name == other.name and self.args == other.args

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})"


Expression = Number | Text | Constant | Field | Call
"""An expression as a tree: an operator with its arguments, a field, or a constant."""


def call(name: str, *args: Expression) -> Call:
    """Return the operator `name` applied to `args`."""
    depth = 1 + max((a.depth for a in args if isinstance(a, Call)), default=0)
    return Call(name, args, depth, hash((name, args, tuple(type(a) for a in args))))


def walk(tree: Expression) -> Iterator[Expression]:
    """Yield `tree` and all of its subtrees."""
    yield tree
    if isinstance(tree, Call):
        for arg in tree.args:
            yield from walk(arg)
