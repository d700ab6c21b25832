"""Parser of the expression language: text to tree. It never executes the text.

Operators have Python's precedence, because pyqlib evaluates expressions as Python: ``**`` binds tighter than a
preceding minus, ``&`` and ``|`` bind tighter than comparisons. Trees are immutable and compare by value, so an
expression that occurs twice is computed once.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollforge.errors import ExpressionError, nearest
from rollforge.expressions.operators import (
    check_call,
    is_known,
    language_version,
    operator as known,
    operator_names,
    placed_arguments,
)
from rollforge.expressions.tree import Call, Constant, Expression, Field, Number, Text, call
from rollforge.limits import LIMITS

__all__ = ["parse"]


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)
      | (?P<field>\$\$?\w+)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<symbol>\*\*|//|<=|>=|==|!=|[-+*/%<>&|^~(),=@?])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}

# (precedence, operator), as in Python.
_BINARY = {
    "|": (10, "Or"),
    "&": (20, "And"),
    "+": (40, "Add"),
    "-": (40, "Sub"),
    "*": (50, "Mul"),
    "/": (50, "Div"),
    "//": (50, "FloorDiv"),
    "%": (50, "Mod"),
}
_COMPARE = {"<": "Lt", "<=": "Le", ">": "Gt", ">=": "Ge", "==": "Eq", "!=": "Ne"}
_FOLDABLE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Power": operator.pow,
}
_CONSTANTS = {repr(value): value for value in (None, True, False)}
_MAX_DEPTH = 200
_PARAMETERS = {"x": "feature", "c": "feature", "n": "N", "a": "N", "q": "qscore", "t": "instrument"}
_ROLLING_NAMES = ("Mean", "Sum", "Std", "Var", "Skew", "Kurt", "Max", "Min", "Count", "Rank")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    LIMITS["expression_length"].check(
        len(text), "An expression has", error=lambda message: ExpressionError(message, text=text, position=None)
    )
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(f"unexpected character {text[start]!r}", text=text, position=start)
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
            raise self.stray()
        if not isinstance(tree, (Field, Call)):
            raise self.fail(f"{tree} is not a series: use a field such as $close", self.tokens[0])
        return tree

    def stray(self) -> ExpressionError:
        if self.token.text in ("@", "?"):
            return self.fail(f"{self.token.text!r} (data of another frequency) is not supported")
        if self.token.text == "^":
            return self.fail("'^' is not an operator; powers are written with '**'")
        return self.fail(f"{self.token.text!r} is not allowed here")

    def make(self, name: str, token: _Token, *args: Expression) -> Call:
        """Return a call of the operator after checking its arguments; errors point at `token`."""
        problem = check_call(name, args)
        if problem:
            raise self.fail(problem, token)
        made = call(name, *args)
        if made.depth > _MAX_DEPTH:
            raise self.fail(f"the expression is nested deeper than {_MAX_DEPTH} operators", token)
        return made

    def comparison(self) -> Expression:
        left = self.binary(0)
        token = self.token
        if token.kind == "symbol" and token.text in _COMPARE:
            self.at += 1
            left = self.make(_COMPARE[token.text], token, left, self.binary(0))
            if self.token.kind == "symbol" and self.token.text in _COMPARE:
                raise self.fail("comparisons cannot be chained; put each in parentheses and combine them with '&'")
        return left

    def binary(self, least: int) -> Expression:
        left = self.unary()
        while self.token.kind == "symbol" and self.token.text in _BINARY:
            token = self.token
            power, name = _BINARY[token.text]
            if power < least or (power == least and least):
                break
            self.at += 1
            left = self.join(name, token, left, self.binary(power))
        return left

    def join(self, name: str, token: _Token, left: Expression, right: Expression) -> Expression:
        """Apply a binary operator; constants are folded, so that ``Ref($close, 5*2)`` has a number as its window."""
        if not (isinstance(left, Number) and isinstance(right, Number) and name in _FOLDABLE):
            return self.make(name, token, left, right)
        if name == "Power" and abs(right.value) > 1024:  # integers would grow without bound
            raise self.fail("the power is too large", token)
        try:
            value = _FOLDABLE[name](left.value, right.value)
            finite = not isinstance(value, complex) and math.isfinite(value)
        except ZeroDivisionError:
            raise self.fail("division by zero", token) from None
        except OverflowError:
            raise self.fail("the number is too large", token) from None
        if not finite:
            raise self.fail("the result is not a finite number", token)
        return Number(value if isinstance(value, float) or abs(value) < 10**18 else float(value))

    def unary(self) -> Expression:
        token = self.token
        if self.take("-"):
            value = self.unary()
            return Number(-value.value) if isinstance(value, Number) else self.make("Mul", token, value, Number(-1))
        if self.take("+"):
            return self.unary()
        if self.take("~"):
            return self.make("Not", token, self.unary())
        return self.power()

    def power(self) -> Expression:
        base, token = self.atom(), self.token
        return self.join("Power", token, base, self.unary()) if self.take("**") else base

    def atom(self) -> Expression:
        token = self.token
        self.at += 1
        if token.kind == "number":
            return self.number(token)
        if token.kind == "field":
            if token.text.startswith("$$"):
                raise self.fail("point-in-time fields ('$$…') are not supported", token)
            return Field(token.text[1:].lower())
        if token.kind == "text":
            return Text(_ESCAPE.sub(self.unescaped, token.text[1:-1]))
        if token.kind == "name":
            return self.operator(token)
        if token.kind == "symbol" and token.text == "(":
            tree = self.comparison()
            self.expect(")")
            return tree
        if token.text == "@":
            raise self.fail("'@' (data of another frequency) is not supported", token)
        found = f"{token.text!r} is not allowed here" if token.text else "the expression is incomplete"
        raise self.fail(found, token)

    def unescaped(self, found: re.Match[str]) -> str:
        """Return the character of an escape such as ``\\'`` or ``\\x41``; an unknown escape is kept, as in Python."""
        what = found[1]
        if len(what) == 1:
            return _ESCAPES.get(what, found[0])
        if int(what[1:], 16) > 0x10FFFF:
            raise self.fail(f"{found[0]} is not a valid character", self.tokens[self.at - 1])
        return chr(int(what[1:], 16))

    def number(self, token: _Token) -> Number:
        if token.text.isdigit() and len(token.text) < 19:
            return Number(int(token.text))
        value = float(token.text)
        if not math.isfinite(value):
            raise self.fail("the number is too large", token)
        return Number(value)

    def operator(self, token: _Token) -> Expression:
        if not self.take("("):
            if token.text in _CONSTANTS:
                return Constant(_CONSTANTS[token.text])
            raise self.fail(f"{token.text!r} is not a value; fields are written ${token.text.lower()}", token)
        # Check the name first, so that an error in an argument does not hide an unknown operator.
        if token.text in ("P", "PRef", "PFeature"):
            raise self.fail(f"{token.text} reads point-in-time fields, which are not supported", token)
        if token.text not in ("Feature", "Rolling", "TResample") and not is_known(token.text):
            raise self.fail(f"unknown operator {token.text!r}.{nearest(token.text, operator_names())}", token)
        args: list[Expression] = []
        named: list[tuple[int, _Token]] = []
        while not self.take(")"):
            if args:
                self.expect(",")
            if self.token.kind == "name" and self.tokens[self.at + 1].text == "=":
                named.append((len(args), self.token))
                self.at += 2
            args.append(self.comparison())
        if token.text == "Feature":
            return self.feature(token, args)
        if token.text == "Rolling":
            return self.rolling(token, args)
        return self.make(token.text, token, *self.placed(token, args, named))

    def feature(self, token: _Token, args: list[Expression]) -> Field:
        """Parse ``Feature('close')``, Qlib's expansion of ``$close``."""
        if len(args) != 1 or not isinstance(args[0], Text):
            raise self.fail("Feature needs the quoted name of a field", token)
        return Field(args[0].value.lower())

    def rolling(self, token: _Token, args: list[Expression]) -> Expression:
        """Parse ``Rolling($close, 5, 'mean')``, Qlib's general form of ``Mean($close, 5)``."""
        known = {"median": "Med", **{n.lower(): n for n in _ROLLING_NAMES}}
        word = args[2].value if len(args) == 3 and isinstance(args[2], Text) else None
        if word not in known:
            raise self.fail(f"Rolling needs an expression, a window and one of {', '.join(map(repr, known))}", token)
        return self.make(known[word], token, *args[:2])

    def placed(self, token: _Token, args: list[Expression], named: list[tuple[int, _Token]]) -> list[Expression]:
        """Return the arguments in order. A keyword must match the operator's argument at its position."""
        if not named or token.text == "TResample":
            return args
        signature = known(token.text).signature
        if signature is not None:
            return self.bound(token, signature, args, named)
        names = argument_names(token.text, known(token.text).arguments)
        for place, name in named:
            if place >= len(names) or name.text != names[place]:
                expected = f", but {names[place]!r}" if place < len(names) else ""
                raise self.fail(f"{token.text} has no argument {name.text!r} at this position{expected}", name)
        return args

    def bound(
        self, token: _Token, signature: inspect.Signature, args: list[Expression], named: list[tuple[int, _Token]]
    ) -> list[Expression]:
        """Return the arguments of a user-defined operator, whose keywords may be in any order."""
        names = {name.text: args[place] for place, name in named}
        rest = [a for i, a in enumerate(args) if i not in {place for place, _ in named}]
        try:
            placed = placed_arguments(signature, rest, names)
        except TypeError as exc:
            raise self.fail(f"{token.text}{signature}: {exc}", token) from None
        plain = {int: Number, float: Number, str: Text, bool: Constant, type(None): Constant}
        for value in placed:
            if not isinstance(value, (Number, Text, Constant, Field, Call)) and type(value) not in plain:
                raise self.fail(
                    f"{token.text}: give the arguments by position; {value!r} cannot be written in an expression", token
                )
        return [plain[type(a)](a) if type(a) in plain else a for a in placed]


def argument_names(name: str, kinds: str) -> list[str]:
    """Return Qlib's names for the arguments of an operator.

    Examples
    --------
    >>> argument_names("Corr", "vvn")
    ['feature_left', 'feature_right', 'N']
    """
    if name == "If":
        return ["condition", "feature_left", "feature_right"]
    pair = iter(["feature_left", "feature_right"])
    twice = "vv" in kinds or kinds == "cc"
    return [next(pair) if twice and k in "vc" else _PARAMETERS[k] for k in kinds]


def parse(text: str) -> Expression:
    """Return the tree of an expression.

    Parameters
    ----------
    text : str
        Expression in Qlib's language, such as ``Ref($close, -2)/Ref($close, -1) - 1``.

    Raises
    ------
    ExpressionError
        If the text is invalid; the message has the position of the error and the nearest valid name.

    Examples
    --------
    >>> str(parse("Ref($close, -2)/Ref($close, -1) - 1"))
    'Sub(Div(Ref($close, -2), Ref($close, -1)), 1)'
    >>> parse("$a+$b") == parse("($a + $b)")
    True
    """
    return _parsed(text, language_version())


@functools.lru_cache(maxsize=16384)
def _parsed(text: str, version: int) -> Expression:
    """The tree of an expression, in the language of a version."""
    try:
        return _Parser(text).whole()
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", text=text, position=0) from None
