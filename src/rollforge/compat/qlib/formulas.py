"""Expressions put together in Python, as Qlib's ``Feature("high") / Feature("close")``: they become text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rollforge.data.operators import operator_names

__all__ = ["Feature", "Formula", *operator_names()]


class Formula(str):
    """An expression's text, with Python's operators; every place that takes an expression takes it.

    Examples
    --------
    >>> Formula("$high") / Formula("$close") - 1
    'Sub(Div($high,$close),1)'
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __add__(self, other: Any) -> Formula:
        return _call("Add", self, other)

    def __radd__(self, other: Any) -> Formula:
        return _call("Add", other, self)

    def __sub__(self, other: Any) -> Formula:
        return _call("Sub", self, other)

    def __rsub__(self, other: Any) -> Formula:
        return _call("Sub", other, self)

    def __mul__(self, other: Any) -> Formula:
        return _call("Mul", self, other)

    def __rmul__(self, other: Any) -> Formula:
        return _call("Mul", other, self)

    def __truediv__(self, other: Any) -> Formula:
        return _call("Div", self, other)

    def __rtruediv__(self, other: Any) -> Formula:
        return _call("Div", other, self)

    def __pow__(self, other: Any) -> Formula:
        return _call("Power", self, other)

    def __gt__(self, other: Any) -> Formula:  # type: ignore[override]  # an expression, as Qlib has it
        return _call("Gt", self, other)

    def __ge__(self, other: Any) -> Formula:  # type: ignore[override]
        return _call("Ge", self, other)

    def __lt__(self, other: Any) -> Formula:  # type: ignore[override]
        return _call("Lt", self, other)

    def __le__(self, other: Any) -> Formula:  # type: ignore[override]
        return _call("Le", self, other)

    def __and__(self, other: Any) -> Formula:
        return _call("And", self, other)

    def __or__(self, other: Any) -> Formula:
        return _call("Or", self, other)


def _call(name: str, *arguments: Any) -> Formula:
    return Formula(f"{name}({','.join(str(a) for a in arguments)})")


def Feature(name: str) -> Formula:  # noqa: N802 - Qlib's name
    """Return a field of the data folder.

    Examples
    --------
    >>> Feature("close")
    '$close'
    """
    return Formula(f"${name.lower()}")


def __getattr__(name: str) -> Callable[..., Formula]:
    """An operator of the language: ``Mean(Feature("close"), 5)`` is ``Mean($close,5)``."""
    if name not in operator_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def operator(*arguments: Any) -> Formula:
        return _call(name, *arguments)

    operator.__name__ = operator.__qualname__ = name
    return operator
