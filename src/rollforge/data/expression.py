"""The expression language: text to a tree. A parser of its own, so no text is ever executed.

The grammar is Python's for the operators it has, because pyqlib evaluates expressions as Python: ``**`` binds tighter than
a minus before it, ``&`` and ``|`` bind tighter than comparisons. Trees are frozen and compare by value, so an expression
that occurs twice is one and the same and is computed once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rollforge.errors import ExpressionError, nearest

__all__ = ["Call", "Expression", "Field", "Number", "Text", "parse"]


@dataclass(frozen=True, slots=True)
class Number:
    """A constant; whole numbers stay whole."""

    value: float | int

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted word: an argument of a few operators."""

    value: str

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


Expression = Number | Text | Field | Call


def call(name: str, *args: Expression) -> Call:
    """Return the operator `name` applied to `args`."""
    return Call(name, args, hash((name, args, tuple(type(a) for a in args))))


def walk(tree: Expression) -> Iterator[Expression]:
    """Yield `tree` and everything in it."""
    yield tree
    if isinstance(tree, Call):
        for arg in tree.args:
            yield from walk(arg)


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)
      | (?P<field>\$\$?[A-Za-z_0-9]+)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<symbol>\*\*|//|<=|>=|==|!=|[-+*/%<>&|^~(),=@])
    )""",
    re.VERBOSE,
)

# (binds how tightly, operator) - Python's order.
_BINARY = {
    "|": (10, "Or"),
    "&": (20, "And"),
    "+": (40, "Add"),
    "-": (40, "Sub"),
    "*": (50, "Mul"),
    "/": (50, "Div"),
}
_COMPARE = {"<": "Lt", "<=": "Le", ">": "Gt", ">=": "Ge", "==": "Eq", "!=": "Ne"}
_COMPARE_POWER = 5
_UNARY_POWER = 60
_POWER = 70


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(f"{text[start]!r} is not understood", text=text, position=start)
        found.append(_Token(match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup)))
        at = match.end()
    found.append(_Token("end", "", len(text)))
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def fail(self, message: str, token: _Token | None = None) -> ExpressionError:
        token = token or self.tokens[self.at]
        return ExpressionError(message, text=self.text, position=token.position)

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self, text: str) -> bool:
        if self.token.kind == "symbol" and self.token.text == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            found = repr(self.token.text) if self.token.text else "the end"
            raise self.fail(f"expected {text!r}, found {found}")

    def whole(self) -> Expression:
        tree = self.comparison()
        if self.token.kind != "end":
            raise self.fail(f"{self.token.text!r} does not belong here")
        return tree

    def comparison(self) -> Expression:
        left = self.binary(0)
        if self.token.kind == "symbol" and self.token.text in _COMPARE:
            name = _COMPARE[self.token.text]
            self.at += 1
            left = call(name, left, self.binary(0))
            if self.token.kind == "symbol" and self.token.text in _COMPARE:
                raise self.fail("comparisons do not chain; put each in parentheses and join them with '&'")
        return left

    def binary(self, least: int) -> Expression:
        left = self.unary()
        while self.token.kind == "symbol" and self.token.text in _BINARY:
            power, name = _BINARY[self.token.text]
            if power < least or (power == least and least):
                break
            self.at += 1
            left = self.fold(name, left, self.binary(power))
        if self.token.kind == "symbol" and self.token.text in ("//", "%", "^"):
            raise self.fail(f"the operator {self.token.text!r} is not part of the language")
        return left

    def fold(self, name: str, left: Expression, right: Expression) -> Expression:
        if isinstance(left, Number) and isinstance(right, Number) and name in ("Add", "Sub", "Mul", "Div"):
            if name == "Div":
                if right.value == 0:
                    raise self.fail("division by zero")
                return Number(left.value / right.value)
            a, b = left.value, right.value
            return Number(a + b if name == "Add" else a - b if name == "Sub" else a * b)
        return call(name, left, right)

    def unary(self) -> Expression:
        if self.take("-"):
            value = self.unary()
            return Number(-value.value) if isinstance(value, Number) else call("Mul", value, Number(-1))
        if self.take("+"):
            return self.unary()
        if self.take("~"):
            return call("Not", self.unary())
        return self.power()

    def power(self) -> Expression:
        base = self.atom()
        if self.take("**"):
            exponent = self.unary()
            if isinstance(base, Number) and isinstance(exponent, Number):
                return Number(base.value**exponent.value)
            return call("Power", base, exponent)
        return base

    def atom(self) -> Expression:
        token = self.token
        self.at += 1
        if token.kind == "number":
            return Number(int(token.text) if token.text.isdigit() else float(token.text))
        if token.kind == "field":
            if token.text.startswith("$$"):
                raise self.fail("fields as of a point in time ('$$…') are not supported", token)
            return Field(token.text[1:].lower())
        if token.kind == "text":
            return Text(token.text[1:-1])
        if token.kind == "name":
            return self.operator(token)
        if token.kind == "symbol" and token.text == "(":
            tree = self.comparison()
            self.expect(")")
            return tree
        found = f"{token.text!r} cannot stand here" if token.text else "the expression ends too early"
        raise self.fail(found, token)

    def operator(self, token: _Token) -> Expression:
        from rollforge.data.operators import check_call, operator_names

        if not self.take("("):
            raise self.fail(f"{token.text!r} is no value; fields are written ${token.text.lower()}", token)
        args: list[Expression] = []
        if not self.take(")"):
            args.append(self.argument())
            while self.take(","):
                args.append(self.argument())
            self.expect(")")
        if token.text not in operator_names():
            raise self.fail(f"unknown operator {token.text!r}.{nearest(token.text, operator_names())}", token)
        problem = check_call(token.text, args)
        if problem:
            raise self.fail(problem, token)
        return call(token.text, *args)

    def argument(self) -> Expression:
        # Python's keyword arguments (N=5) name what the position says already.
        if (
            self.token.kind == "name"
            and self.tokens[self.at + 1].kind == "symbol"
            and self.tokens[self.at + 1].text == "="
        ):
            self.at += 2
        return self.comparison()


@functools.lru_cache(maxsize=16384)
def parse(text: str) -> Expression:
    """Return the tree of an expression.

    Parameters
    ----------
    text : str
        In Qlib's expression language: ``Ref($close, -2)/Ref($close, -1) - 1``.

    Raises
    ------
    ExpressionError
        With the position of the fault, and the nearest valid name.

    Examples
    --------
    >>> str(parse("Ref($close, -2)/Ref($close, -1) - 1"))
    'Sub(Div(Ref($close, -2), Ref($close, -1)), 1)'
    >>> parse("$a+$b") == parse("($a + $b)")
    True
    """
    try:
        return _Parser(text).whole()
    except RecursionError:
        raise ExpressionError("the expression nests too deep", text=text, position=0) from None
