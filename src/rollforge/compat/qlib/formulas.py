"""Qlib's expressions as Python objects: ``Mean(Feature("close"), 5)``, and base classes of custom operators.

An expression object is a string, so it is accepted wherever an expression is. A user's class derived from one of these
classes computes on pandas series, one instrument at a time, as in Qlib; :mod:`rollforge.compat.qlib.operators` adds it
to the language.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from rollforge.compat.qlib.running import Forms, current_source, described
from rollforge.errors import ConfigError
from rollforge.expressions.expression import argument_names, parse
from rollforge.expressions.operators import (
    Operator,
    add_operator,
    is_known,
    lookahead,
    lookback,
    operator,
    operator_names,
    placed_arguments,
)
from rollforge.features.engine import load_series
from rollforge.market.universe import session_provider

__all__ = [
    "ElemOperator", "Expression", "ExpressionOps", "Feature", "Formula", "NpElemOperator", "NpPairOperator", "OpsList",
    "PairOperator", "PairRolling", "Rolling", "TOpsList", *operator_names(),
]  # fmt: skip


class Expression(str):
    """An expression's text, with Python's operators.

    Examples
    --------
    >>> Feature("high") / Feature("close") - 1
    'Sub(Div($high,$close),1)'
    >>> Mask(Feature("close"), "SH000300")
    "Mask($close,'SH000300')"
    """

    __hash__ = str.__hash__
    __array_ufunc__ = None  # a numpy scalar on the left defers to the expression on the right

    def __new__(cls, *args: object, **kwargs: object) -> Expression:
        """Create the text from the operator's name and arguments, which ``__init__`` validates."""
        try:
            placed = placed_arguments(signature_of(cls), args, kwargs)
        except TypeError as exc:
            raise ConfigError(f"{cls.__name__}{signature_of(cls)}: {exc}.") from None
        return str.__new__(cls, _call(cls.__name__, *placed))

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    @classmethod
    def as_operator(cls) -> Operator:
        """Return the description of a user's class for the language.

        Raises
        ------
        ConfigError
            If the class does not define how it is computed.
        """
        if next(k for k in cls.__mro__ if "_load_internal" in vars(k) or "load" in vars(k)) is Expression:
            raise ConfigError(f"The operator {cls.__name__} must define _load_internal(), which computes it.")
        return described(cls, signature_of(cls), Forms(Formula, _given))

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return (str, (str.__str__(self),))  # only the text is stored and sent to other processes

    def load(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        """Return the values of one instrument.

        Parameters
        ----------
        instrument : str
            Its code.
        start_index, end_index : int
            Positions of the first and last day in the calendar; None is open.
        *args
            The calendar's name, ``day``.

        Returns
        -------
        Series
            Indexed by positions in the calendar.
        """
        series = self._load_internal(instrument, start_index, end_index, *args)
        if isinstance(series, pd.Series):
            series.name = str(self)
        return series

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        return _loaded(str.__str__(self), instrument, start_index, end_index, *args)

    def get_longest_back_rolling(self) -> float:
        """Return the number of earlier days that it needs; infinity means all."""
        return self.get_extended_window_size()[0]

    def get_extended_window_size(self) -> tuple[float, float]:
        """Return how many days before and after a day it needs."""
        tree = parse(str.__str__(self))
        return lookback(tree), lookahead(tree)

    def __add__(self, other: object) -> Expression:
        return made("Add", self, other)

    def __radd__(self, other: object) -> Expression:
        return made("Add", other, self)

    def __sub__(self, other: object) -> Expression:
        return made("Sub", self, other)

    def __rsub__(self, other: object) -> Expression:
        return made("Sub", other, self)

    def __mul__(self, other: object) -> Expression:
        return made("Mul", self, other)

    def __rmul__(self, other: object) -> Expression:
        return made("Mul", other, self)

    def __truediv__(self, other: object) -> Expression:
        return made("Div", self, other)

    def __rtruediv__(self, other: object) -> Expression:
        return made("Div", other, self)

    def __floordiv__(self, other: object) -> Expression:
        return made("FloorDiv", self, other)

    def __rfloordiv__(self, other: object) -> Expression:
        return made("FloorDiv", other, self)

    def __mod__(self, other: object) -> Expression:
        return made("Mod", self, other)

    def __rmod__(self, other: object) -> Expression:
        return made("Mod", other, self)

    def __pow__(self, other: object) -> Expression:
        return made("Power", self, other)

    def __rpow__(self, other: object) -> Expression:
        return made("Power", other, self)

    def __neg__(self) -> Expression:
        return made("Mul", self, -1)

    def __invert__(self) -> Expression:
        return made("Not", self)

    def __gt__(self, other: object) -> Expression:  # type: ignore[override]  # an expression, as Qlib has it
        return made("Gt", self, other)

    def __ge__(self, other: object) -> Expression:  # type: ignore[override]
        return made("Ge", self, other)

    def __lt__(self, other: object) -> Expression:  # type: ignore[override]
        return made("Lt", self, other)

    def __le__(self, other: object) -> Expression:  # type: ignore[override]
        return made("Le", self, other)

    def __and__(self, other: object) -> Expression:
        return made("And", self, other)

    def __rand__(self, other: object) -> Expression:
        return made("And", other, self)

    def __or__(self, other: object) -> Expression:
        return made("Or", self, other)

    def __ror__(self, other: object) -> Expression:
        return made("Or", other, self)


class Formula(Expression):
    """Any expression of the language as an object: ``Formula("$high/$low")``."""

    def __new__(cls, text: str) -> Formula:
        """Use the text unchanged."""
        return str.__new__(cls, text)


class _Given(Formula):
    """An argument of a running operator, with its values on one instrument."""

    _code: str
    _values: pd.Series

    def load(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        """Return the values; for another instrument than the current one, compute them."""
        if str(instrument).upper() != self._code:
            return super().load(instrument, start_index, end_index, *args)
        return self._values.loc[start_index:end_index].copy()


def _given(text: str, code: str, values: pd.Series) -> _Given:
    made = _Given(text)
    made._code, made._values = code, values
    return made


class Feature(Expression):
    """A field of the data folder.

    Examples
    --------
    >>> Feature("Close")
    '$close'
    """

    def __new__(cls, name: str | None = None) -> Feature:
        """Prefix the field's name with ``$``."""
        return str.__new__(cls, f"${(name or cls.__name__).lower()}")


def signature_of(kind: type) -> inspect.Signature:
    """Return the parameters of an operator class: those of the nearest ``__init__``, or of the built-in operator."""
    for one in kind.__mro__:
        if "__init__" in vars(one) and one is not Expression:
            known = vars(one).get("_arguments")
            if known is not None:
                return inspect.Signature(known)
            return inspect.Signature(list(inspect.signature(vars(one)["__init__"]).parameters.values())[1:])
    return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])


def _written(name: str, value: object, *, text: bool) -> str:
    """Format an argument for an expression; a str is quoted if `text`, otherwise it is an expression.

    None, True and False are arguments of users' operators only.
    """
    if isinstance(value, str):
        return repr(str.__str__(value)) if text and not isinstance(value, Expression) else str.__str__(value)
    plain = value.item() if isinstance(value, np.generic) else value
    if type(plain) in (int, float) or (text and (plain is None or isinstance(plain, bool))):
        return repr(plain)
    raise ConfigError(
        f"{name}: {value!r} cannot be written in an expression; arguments must be expressions, numbers or strings."
    )


def _call(name: str, *arguments: object) -> str:
    kinds = operator(name).arguments if name in operator_names() and name != "TResample" else ""
    quoted = [k in "t*" for k in kinds.ljust(len(arguments), "*")]  # in user classes, a str is a string argument
    return f"{name}({','.join(_written(name, a, text=q) for a, q in zip(arguments, quoted, strict=False))})"


def made(name: str, *arguments: object) -> Expression:
    """Return a built-in operator with its arguments."""
    kind: type[Expression] = globals()[name]
    return kind(*arguments)


def _loaded(text: str, instrument: str, start: int | None, end: int | None, freq: str = "day") -> pd.Series:
    """Compute an expression on one instrument, indexed by positions in the calendar."""
    place = current_source.get()
    provider = place.provider if place is not None else session_provider(freq=freq)
    stop = len(provider.calendar(freq)) if end is None else int(end) + 1
    first, values = load_series(provider, str(instrument).upper(), text, int(start or 0), stop, freq)
    return pd.Series(values, index=pd.RangeIndex(first, first + len(values)))


# -- base classes of user-defined operators ----------------------------------------------------------------------------


class ExpressionOps(Expression):
    """Base class of operators. A subclass defines ``_load_internal`` and, if it needs more days than its arguments,
    ``get_extended_window_size``."""

    def get_extended_window_size(self) -> tuple[float, float]:
        """Return the number of earlier and later days that it needs: by default the maximum over its arguments."""
        sizes = [v.get_extended_window_size() for v in vars(self).values() if isinstance(v, Expression)]
        return max((s[0] for s in sizes), default=0), max((s[1] for s in sizes), default=0)


class ElemOperator(ExpressionOps):
    """An operator on one expression."""

    def __init__(self, feature: Any) -> None:
        self.feature = feature


class NpElemOperator(ElemOperator):
    """A numpy function, given by name, of one expression."""

    def __init__(self, feature: Any, func: str) -> None:
        super().__init__(feature)
        self.func = func

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        result: pd.Series = getattr(np, self.func)(self.feature.load(instrument, start_index, end_index, *args))
        return result


def _side(value: object, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> object:
    """Return the series of an expression; a number is returned unchanged."""
    return value.load(instrument, start_index, end_index, *args) if isinstance(value, Expression) else value


class PairOperator(ExpressionOps):
    """An operator on two expressions, or an expression and a number."""

    def __init__(self, feature_left: Any, feature_right: Any) -> None:
        self.feature_left = feature_left
        self.feature_right = feature_right


class NpPairOperator(PairOperator):
    """A numpy function, given by name, of two expressions, or of an expression and a number."""

    def __init__(self, feature_left: Any, feature_right: Any, func: str) -> None:
        super().__init__(feature_left, feature_right)
        self.func = func

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        sides = [_side(v, instrument, start_index, end_index, *args) for v in (self.feature_left, self.feature_right)]
        result: pd.Series = getattr(np, self.func)(*sides)
        return result


def _window(series: Any, n: float) -> object:
    """Return pandas' window of n days; for 0, an expanding window."""
    return series.expanding(min_periods=1) if n == 0 else series.rolling(n, min_periods=1)


def _extended(sizes: list[tuple[float, float]], n: float) -> tuple[float, float]:
    before, after = max(s[0] for s in sizes), max(s[1] for s in sizes)
    if n == 0 or 0 < n < 1:
        return np.inf, after
    return before + max(n - 1, 0), after


class Rolling(ExpressionOps):
    """A method of pandas' windows, given by name: over the last N days; for 0, over all days so far; a fraction below 1
    is the decay of an exponential mean."""

    def __init__(self, feature: Any, N: float, func: str) -> None:  # noqa: N803 - Qlib's name
        self.feature = feature
        self.N = N
        self.func = func

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        series = self.feature.load(instrument, start_index, end_index, *args)
        decays = 0 < self.N < 1
        window = series.ewm(alpha=self.N, min_periods=1) if decays else _window(series, self.N)
        result: pd.Series = getattr(window, "mean" if decays else self.func)()
        return result

    def get_extended_window_size(self) -> tuple[float, float]:
        """Return how many days before and after a day it needs."""
        return _extended([self.feature.get_extended_window_size()], self.N)


class PairRolling(ExpressionOps):
    """A method of pandas' windows over two series, given by name."""

    def __init__(self, feature_left: Any, feature_right: Any, N: float, func: str) -> None:  # noqa: N803 - Qlib's name
        self.feature_left = feature_left
        self.feature_right = feature_right
        self.N = N
        self.func = func

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        left, right = (
            _side(v, instrument, start_index, end_index, *args) for v in (self.feature_left, self.feature_right)
        )
        result: pd.Series = getattr(_window(left, self.N), self.func)(right)
        return result

    def get_extended_window_size(self) -> tuple[float, float]:
        """Return how many days before and after a day it needs."""
        return _extended([super().get_extended_window_size()], self.N)


# -- the operators of the language -------------------------------------------------------------------------------------


class _BuiltIn:
    """Base of the built-in operators' classes, whose results are those of the language."""

    _arguments: ClassVar[list[inspect.Parameter]]

    def _text(self) -> str:
        """The expression with the built-in operator's name, even for a derived user class."""
        kind = next(k for k in type(self).__mro__ if "_arguments" in vars(k))
        arguments = [getattr(self, p.name) for p in self._arguments]
        for one in arguments:  # a custom operator used by another operator's code need not be registered
            if (
                isinstance(one, ExpressionOps)
                and "_arguments" not in vars(type(one))
                and not is_known(type(one).__name__)
            ):
                add_operator(one.as_operator())
        return _call(kind.__name__, *arguments)

    def _load_internal(self, instrument: str, start_index: int | None, end_index: int | None, *args: str) -> pd.Series:
        return _loaded(self._text(), instrument, start_index, end_index, *args)

    def get_extended_window_size(self) -> tuple[float, float]:
        """Return how many days before and after a day it needs."""
        tree = parse(self._text())
        return lookback(tree), lookahead(tree)


_NUMPY = ("Abs", "Sign", "Log", "Mask", "Not")
_BASES: dict[str, type[ExpressionOps]] = {
    **dict.fromkeys(_NUMPY, NpElemOperator), "ChangeInstrument": ElemOperator, "If": ExpressionOps, "Corr": PairRolling,
    "Cov": PairRolling, "TResample": ElemOperator,
}  # fmt: skip


def _built_in(name: str) -> type[Expression]:
    """Return the class of a built-in operator."""
    kinds = "xtt" if name == "TResample" else operator(name).arguments
    names = ["feature", "freq", "func"] if name == "TResample" else argument_names(name, kinds)
    arguments = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    base = _BASES.get(name, NpPairOperator if kinds in ("vv", "cc") else Rolling)

    def __init__(self: object, *args: object, **kwargs: object) -> None:  # noqa: N807 - it becomes one
        vars(self).update(inspect.Signature(arguments).bind(*args, **kwargs).arguments)

    inside: dict[str, object] = {
        "__init__": __init__, "__module__": __name__, "__doc__": f"``{name}({', '.join(names)})``.", "_arguments": arguments,
    }  # fmt: skip
    return type(name, (_BuiltIn, base), inside)


globals().update({name: _built_in(name) for name in operator_names()})
TOpsList = [globals()["TResample"]]
OpsList = [*(globals()[name] for name in operator_names()), Rolling, Feature]


def __getattr__(name: str) -> Callable[..., Expression]:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
