"""The operators of the expression language: what each needs, how far it looks, and how it computes.

One table says for each name: its arguments, how many days it looks back and ahead, and the function that computes it on
dense (instrument, day) arrays. Element-wise operators keep numpy's types (float32 stays float32 beside a plain number),
rolling ones yield float64: so results agree with pyqlib's to the last digit that float32 has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.expression import Call, Expression, Field, Number, Text
from rollforge.errors import ConfigError, DataError

__all__ = ["Operator", "Series", "check_call", "fields_of", "lookahead", "lookback", "operator_names", "register"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What operators compute on: a dense array, and on which days each instrument exists."""

    values: Array
    """(instruments, days); float32, float64 or bool."""
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    shared: dict[Any, Any] = field(default_factory=dict)
    """Results that several operators of one evaluation share."""


_FLAT = 2e-5  # Qlib calls a window flat whose standard deviation is at most this
_EVERYTHING = 2**31  # a window longer than any calendar: the expanding form, N = 0


def _window(n: Any) -> int:
    return _EVERYTHING if n == 0 else int(n)


def _float(x: Array) -> NDArray[np.float64]:
    return np.ascontiguousarray(x, np.float64)


def _finite(x: Array) -> NDArray[np.float64]:
    """Float64 with infinities as missing, which is how pandas' windows see them."""
    return _float(x)


def _rolling(kernel: str, *extra: Any) -> Callable[..., Array]:
    def compute(s: Series, x: Array, n: int) -> Array:
        from rollforge.data import kernels

        result: Array = getattr(kernels, kernel)(_finite(x), s.begin, s.end, _window(n), *extra)
        return result

    return compute


def _shared(s: Series, key: Any, make: Callable[[], Any]) -> Any:
    if key not in s.shared:
        s.shared[key] = make()
    return s.shared[key]


def _std(s: Series, x: Array, n: int) -> Array:
    from rollforge.data import kernels

    def make() -> Array:
        result: Array = kernels.variance(_finite(x), s.begin, s.end, _window(n), True)
        return result

    made: Array = _shared(s, ("std", id(x), n), make)
    return made


def _regression(which: int) -> Callable[..., Array]:
    def compute(s: Series, x: Array, n: int) -> Array:
        from rollforge.data import kernels

        def make() -> Any:
            return kernels.regression(_finite(x), s.begin, s.end, _window(n))

        result: Array = _shared(s, ("regression", id(x), n), make)[which]
        if which == 1 and n:
            result = np.where(_std(s, x, n) <= _FLAT, np.nan, result)
        return result

    return compute


def _corr(s: Series, x: Array, y: Array, n: int) -> Array:
    from rollforge.data import kernels

    left, right = np.broadcast_arrays(x, y)
    result: Array = kernels.corr(_finite(left), _finite(right), s.begin, s.end, _window(n))
    flat = (_std(s, x, n) <= _FLAT) | (_std(s, y, n) <= _FLAT)
    result[flat] = np.nan
    return result


def _cov(s: Series, x: Array, y: Array, n: int) -> Array:
    from rollforge.data import kernels

    result: Array = kernels.cov(_finite(x), _finite(y), s.begin, s.end, _window(n))
    return result


def _quantile(s: Series, x: Array, n: int, q: float) -> Array:
    from rollforge.data import kernels

    result: Array = kernels.quantile(_finite(x), s.begin, s.end, _window(n), float(q))
    return result


def _ema(s: Series, x: Array, n: float) -> Array:
    from rollforge.data import kernels

    result: Array
    if n == 0:
        result = kernels.expanding_ema(_finite(x), s.begin, s.end)
    else:
        alpha = float(n) if 0 < n < 1 else 2.0 / (n + 1.0)
        result = kernels.ewm_mean(_finite(x), s.begin, s.end, alpha)
    return result


def _ref(s: Series, x: Array, n: int) -> Array:
    from rollforge.data import kernels

    values = np.ascontiguousarray(x, np.float32 if x.dtype == np.float32 else np.float64)
    result: Array = kernels.shift(values, s.begin, s.end, int(n))
    return result


def _delta(s: Series, x: Array, n: int) -> Array:
    result: Array = x - _ref(s, x, n)
    return result


def _elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    def compute(s: Series, *args: Any) -> Array:
        with np.errstate(all="ignore"):
            result: Array = np.asarray(function(*args))
        return result

    return compute


def _sign(x: Array) -> Array:
    result: Array = np.sign(x.astype(np.float32))
    return result


def _conditions(name: str, function: Callable[..., Any]) -> Callable[..., Array]:
    def compute(s: Series, *args: Array) -> Array:
        if any(a.dtype != np.bool_ for a in args):
            raise DataError(f"{name} joins conditions such as $close > $open; it was given numbers.")
        result: Array = function(*args)
        return result

    return compute


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the language."""

    name: str
    compute: Callable[..., Array]
    """``(series, *arguments) -> array``: arrays for expressions, plain numbers for parameters."""
    arguments: str
    """One letter an argument: x expression, v expression or number, n window, a window or decay, q share, t text."""
    look: str = "none"
    """``none``: the day alone; ``window``: the last n days; ``shift``: n days before (after, if negative)."""
    least: int = 0
    """Smallest window that makes sense (0, everything so far, is allowed besides)."""
    on_instrument: int | None = None
    """Place of the argument that names another instrument to compute on."""


_TABLE: dict[str, Operator] = {}


def _add(name: str, compute: Callable[..., Array], arguments: str, look: str = "none", **more: Any) -> None:
    _TABLE[name] = Operator(name, compute, arguments, look, **more)


_function: Any
for _name, _function in {"Abs": np.abs, "Log": np.log, "Sign": _sign}.items():
    _add(_name, _elementwise(_function), "x")
for _name, _function in {
    "Power": np.power, "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
    "Greater": np.maximum, "Less": np.minimum, "Gt": np.greater, "Ge": np.greater_equal, "Lt": np.less,
    "Le": np.less_equal, "Eq": np.equal, "Ne": np.not_equal,
}.items():  # fmt: skip
    _add(_name, _elementwise(_function), "vv")
_add("Not", _conditions("Not", np.logical_not), "x")
_add("And", _conditions("And", np.logical_and), "xx")
_add("Or", _conditions("Or", np.logical_or), "xx")
_add("If", _elementwise(np.where), "xvv")
for _name, _kernel, _extra, _least in [
    ("Mean", "sum_mean", (True,), 1), ("Sum", "sum_mean", (False,), 1), ("Var", "variance", (False,), 1),
    ("Skew", "skew", (), 3), ("Kurt", "kurt", (), 4), ("Max", "extreme", (1.0, False), 1),
    ("Min", "extreme", (-1.0, False), 1), ("IdxMax", "extreme", (1.0, True), 1), ("IdxMin", "extreme", (-1.0, True), 1),
    ("Med", "quantile", (0.5,), 1), ("Mad", "mad", (), 1), ("Rank", "rank", (), 1), ("Count", "count", (), 1),
    ("WMA", "wma", (), 1),
]:  # fmt: skip
    _add(_name, _rolling(_kernel, *_extra), "xn", "window", least=_least)
_add("Std", _std, "xn", "window", least=1)
_add("Slope", _regression(0), "xn", "window", least=1)
_add("Rsquare", _regression(1), "xn", "window", least=1)
_add("Resi", _regression(2), "xn", "window", least=1)
_add("Quantile", _quantile, "xnq", "window", least=1)
_add("Corr", _corr, "vvn", "window", least=1)
_add("Cov", _cov, "vvn", "window", least=1)
_add("EMA", _ema, "xa", "window")
_add("Ref", _ref, "xn", "shift")
_add("Delta", _delta, "xn", "shift")
_add("Mask", lambda s, x, t: x, "xt", on_instrument=1)
_add("ChangeInstrument", lambda s, t, x: x, "tx", on_instrument=0)

_BUILT_IN = frozenset(_TABLE)


def operator_names() -> list[str]:
    """Return the names of all operators, the user's own included."""
    return [*_TABLE, "TResample"]


def operator(name: str) -> Operator:
    """Return the operator called `name`."""
    return _TABLE[name]


def register(
    name: str, compute: Callable[..., Any], *, arguments: str = "x", look: str = "none", least: int = 1
) -> None:
    """Add an operator of your own to the language (in this process; workers import the module that calls this).

    Parameters
    ----------
    name : str
        How expressions call it; must not be taken.
    compute : callable
        ``(series, *arguments) -> array``: `series` is a :class:`Series` with ``begin`` and ``end``, the days on which each
        instrument exists; expressions arrive as arrays (instruments, days), parameters as numbers.
    arguments : str
        One letter an argument, see :class:`Operator`.
    look : str
        ``none``, ``window`` (needs the last n days) or ``shift`` (n days before, or after if negative).
    least : int
        Smallest window that makes sense.

    Raises
    ------
    ConfigError
        When the name is taken.
    """
    if name in operator_names():
        raise ConfigError(f"There is an operator {name!r} already.")
    _add(name, compute, arguments, look, least=least)


def custom_operators() -> dict[str, str]:
    """Return the user's own operators and a mark of their code: what cached results depend on besides expressions."""
    return {
        name: hashlib.sha256(getattr(getattr(op.compute, "__code__", None), "co_code", b"")).hexdigest()[:16]
        for name, op in _TABLE.items()
        if name not in _BUILT_IN
    }


def unregister(name: str) -> None:
    """Remove an operator that :func:`register` added."""
    del _TABLE[name]


def check_call(name: str, args: Sequence[Expression]) -> str:  # noqa: C901 - one rule a kind of argument
    """Return what is wrong with a call of the operator `name`, or an empty string."""
    if name == "TResample":
        return "TResample changes the days themselves, and daily data has one value a day; it is not supported"
    known = _TABLE[name]
    if len(args) != len(known.arguments):
        return f"{name} takes {len(known.arguments)} arguments, found {len(args)}"
    for kind, arg in zip(known.arguments, args, strict=True):
        number = arg.value if isinstance(arg, Number) else None
        if kind == "x" and not isinstance(arg, (Field, Call)):
            return f"{name} works on an expression, found {arg}"
        if kind == "v" and isinstance(arg, Text):
            return f"{name} works on an expression or a number, found {arg}"
        if kind == "t" and not isinstance(arg, Text):
            return f"{name} needs a quoted instrument, found {arg}"
        if kind in "naq" and number is None:
            return f"{name} needs a plain number, found {arg}"
        if kind == "n" and isinstance(number, float):
            return f"{name} needs a whole number of days, found {arg}"
        if kind == "n" and known.look == "window" and number is not None and (number < 0 or 0 < number < known.least):
            return f"{name} needs a window of at least {known.least} days, found {arg}"
        if kind == "a" and number is not None and number < 0:
            return f"{name} needs a window of days or a decay between 0 and 1, found {arg}"
        if kind == "q" and number is not None and not 0 <= number <= 1:
            return f"{name} needs a share between 0 and 1, found {arg}"
    if known.arguments.startswith("vv") and all(isinstance(a, Number) for a in args[:2]):
        return f"{name} of two numbers is no series"
    return ""


def fields_of(tree: Expression) -> frozenset[str]:
    """Return the names of the data columns that an expression reads."""
    if isinstance(tree, Field):
        return frozenset((tree.name,))
    if isinstance(tree, Call):
        return frozenset().union(*(fields_of(a) for a in tree.args))
    return frozenset()


def _parameter(tree: Call) -> float:
    """The window or shift of a call; 0 where it has none."""
    for arg, kind in zip(tree.args, _TABLE[tree.name].arguments, strict=True):
        if kind in "na" and isinstance(arg, Number):
            return arg.value
    return 0


def lookback(tree: Expression) -> float:
    """Return how many days before a day an expression needs for its value there; infinity: all of them.

    Examples
    --------
    >>> from rollforge.data.expression import parse
    >>> lookback(parse("Mean(Ref($close, 1), 20)")), lookback(parse("EMA($close, 12)"))
    (20, inf)
    """
    if not isinstance(tree, Call):
        return 0
    inner = max((lookback(a) for a in tree.args), default=0)
    look, n = _TABLE[tree.name].look, _parameter(tree)
    if tree.name == "EMA" or (look != "none" and n == 0):
        return math.inf
    if look == "window":
        return inner + n - 1
    return max(0, inner + n) if look == "shift" else inner


def lookahead(tree: Expression) -> int:
    """Return how many days after a day an expression needs for its value there: the horizon of a label.

    Examples
    --------
    >>> from rollforge.data.expression import parse
    >>> lookahead(parse("Ref($close, -2)/Ref($close, -1) - 1"))
    2
    """
    if not isinstance(tree, Call):
        return 0
    inner = max((lookahead(a) for a in tree.args), default=0)
    if _TABLE[tree.name].look == "shift":
        return max(0, inner - int(_parameter(tree)))
    return inner
