"""Operators of the expression language: arguments, look-back and look-ahead, and implementation.

A single table holds, for each name, its arguments, how many days it looks back and ahead, and the function that
computes it on dense (instrument, day) arrays.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollforge import trust
from rollforge.build import locate
from rollforge.code_marks import code_mark
from rollforge.errors import ConfigError, nearest
from rollforge.expressions import formulas
from rollforge.expressions.formulas import Array, Lifespans
from rollforge.expressions.tree import Call, Constant, Expression, Field, Number, Text
from rollforge.plugins import load_plugins
from rollforge.session import current_session

__all__ = [
    "Lifespans",
    "Operator",
    "add_operator",
    "check_call",
    "custom_operators",
    "fields_of",
    "holding_days",
    "language_version",
    "last_day_read",
    "lookahead",
    "lookback",
    "operator",
    "operator_names",
    "placed_arguments",
    "register_operator",
    "unregister_operator",
]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the language."""

    name: str
    compute: Callable[..., Array]
    """``(series, *arguments) -> array``: arrays for expressions, plain numbers for parameters."""
    arguments: str
    """One letter per argument: x expression, c condition, v expression or number, n window, a window or decay, q
    quantile, t string. ``*`` means arguments of any kind and number, as in `signature`; `compute` then receives the
    call as well, before its arguments."""
    look: str = "none"
    """``none``: the day itself; ``window``: the last n days; ``shift``: n days before (after, if negative);
    ``all``: every day so far."""
    least: int = 0
    """Smallest valid window (0, which means all days so far, is always allowed)."""
    back: int = 0
    """Number of days before the day that are needed in addition to `look`."""
    ahead: int = 0
    """Number of days after the day that are needed in addition to `look`."""
    on_instrument: int | None = None
    """Position of the argument that gives another instrument to compute on."""
    signature: inspect.Signature | None = None
    """Signature of an operator with ``*`` arguments."""
    reach: Callable[[Call], tuple[float, int]] | None = None
    """Days that a call needs before and after a day, including those of its arguments; None means as in `look`."""


_TABLE: dict[str, Operator] = {}


def _add(name: str, compute: Callable[..., Array], arguments: str, look: str = "none", **more: Any) -> None:
    _TABLE[name] = Operator(name, compute, arguments, look, **more)


_ALONE: dict[str, Callable[..., object]] = {"Abs": np.abs, "Log": np.log, "Sign": formulas.sign}
_PAIRWISE: dict[str, Callable[..., object]] = {
    "Power": formulas.power, "Add": np.add, "Sub": formulas.difference, "Mul": np.multiply, "Div": np.divide,
    "FloorDiv": np.floor_divide, "Mod": np.mod, "Greater": np.maximum, "Less": np.minimum,
    "Gt": np.greater, "Ge": np.greater_equal, "Lt": np.less, "Le": np.less_equal, "Eq": np.equal, "Ne": np.not_equal,
}  # fmt: skip
# Name, kernel, extra arguments of the kernel, smallest window.
_ROLLING: list[tuple[str, str, tuple[object, ...], int]] = [
    ("Mean", "sum_mean", (True,), 1), ("Sum", "sum_mean", (False,), 1), ("Var", "variance", (False,), 1),
    ("Skew", "skew", (), 3), ("Kurt", "kurt", (), 4), ("Mad", "mad", (), 1),
    ("Rank", "rank", (), 1), ("Count", "count", (), 1), ("WMA", "wma", (), 1),
]  # fmt: skip
_WINDOWED: dict[str, Callable[..., Any]] = {
    "Max": formulas.extreme(1.0, 1), "Min": formulas.extreme(-1.0, 1), "IdxMax": formulas.extreme(1.0, 0),
    "IdxMin": formulas.extreme(-1.0, 0), "Std": formulas.std, "Rsquare": formulas.regression(0),
    "Resi": formulas.regression(1), "Slope": formulas.regression(2),
}  # fmt: skip
for _name, _function in _ALONE.items():
    _add(_name, formulas.elementwise(_function), "x")
for _name, _function in _PAIRWISE.items():
    _add(_name, formulas.elementwise(_function), "vv")
for _name, _kernel, _extra, _least in _ROLLING:
    _add(_name, formulas.rolling(_kernel, *_extra), "xn", "window", least=_least)
for _name, _function in _WINDOWED.items():
    _add(_name, _function, "xn", "window", least=1)
_add("Not", formulas.conditions("Not", np.logical_not), "c")
_add("And", formulas.conditions("And", np.logical_and), "cc")
_add("Or", formulas.conditions("Or", np.logical_or), "cc")
_add("If", formulas.elementwise(np.where), "xvv")
_add("Quantile", formulas.quantile, "xnq", "window", least=1)
_add("Med", formulas.median, "xn", "window", least=1)
_add("Corr", formulas.paired(scaled=True), "vvn", "window", least=1)
_add("Cov", formulas.paired(scaled=False), "vvn", "window", least=1)
_add("EMA", formulas.ema, "xa", "all")
_add("Ref", formulas.ref, "xn", "shift")
_add("Delta", formulas.delta, "xn", "shift")
# The evaluator computes these two on the other instrument, so there is nothing left to do here.
_add("Mask", lambda s, x, t: x, "xt", on_instrument=1)
_add("ChangeInstrument", lambda s, t, x: x, "tx", on_instrument=0)

_BUILT_IN = frozenset(_TABLE)
_NAMES_TAKEN = _BUILT_IN | {"TResample", "Feature", "Rolling", "P", "PRef", "PFeature"}
_CONDITIONS = frozenset({"Gt", "Ge", "Lt", "Le", "Eq", "Ne", "And", "Or", "Not"})
FILLING = _CONDITIONS | {"If", "Power"}
"""Operators whose result may be other than missing although an argument is missing."""
# Operators that always return numbers; the others return conditions if their arguments are conditions.
_NUMBERS = _BUILT_IN - _CONDITIONS - {"Mask", "ChangeInstrument", "If", "Add", "Mul", "Greater", "Less", "Abs"}
_LOOKS = ("none", "window", "shift", "all")
_loaded: dict[str, object] = {}
"""Name -> the class from which an operator of a session was loaded. Classes that a program registers are not included."""


def operator_names() -> list[str]:
    """Return the names of all operators, including user-defined ones."""
    return [*_TABLE, "TResample"]


def operator(name: str) -> Operator:
    """Return the operator called `name`."""
    return _TABLE[name]


def is_built_in(name: str) -> bool:
    """Return whether an operator is built in."""
    return name in _BUILT_IN


def is_known(name: str) -> bool:
    """Return whether there is an operator called `name`; an operator listed by the current session is loaded if needed.

    An operator that was loaded from a Python file is loaded again if the file has changed.

    Raises
    ------
    ConfigError
        If the object listed by the session is not an operator.
    """
    for kind, module in current_session().operators:
        if kind == name and (name not in _TABLE or (name in _loaded and module.endswith(".py"))):
            with trust.from_origin(
                trust.Origin.OWN
            ):  # the session belongs to this user, no matter who wrote the expression
                made = locate(kind, module, noun="operator", where="operators")
            described = getattr(made, "as_operator", None)
            if described is None:
                raise ConfigError(f"{kind!r} of {module} is not an operator. Derive it from a class of qlib.data.ops.")
            if name not in _TABLE or _loaded.get(name) is not made:
                add_operator(described())
                _loaded[name] = made
    if name not in _TABLE:
        load_plugins(current_session())  # importing one may add operators
    return name in _TABLE


def add_operator(described: Operator) -> None:
    """Add a user-defined operator to the language; it replaces an earlier one of the same name.

    Raises
    ------
    ConfigError
        If the name is that of a built-in operator, or invalid.
    """
    _check_name(described.name)
    _TABLE[described.name] = described
    _count_change()


def _check_name(name: str) -> None:
    if not name.isidentifier():
        raise ConfigError(f"An operator needs a name such as Half, found {name!r}.")
    if name in _NAMES_TAKEN:
        raise ConfigError(f"{name!r} is a built-in operator. Give yours another name.")


def register_operator(
    name: str,
    compute: Callable[..., Any],
    *,
    arguments: str = "x",
    look: str = "none",
    least: int = 1,
    lookback: int = 0,
    lookahead: int = 0,
) -> None:
    """Add a user-defined operator to the language.

    It is added in this process. Worker processes import the module that calls this if it is a plugin
    (:mod:`rollforge.plugins`). A function that is defined again under the same name, for example because its module is
    reloaded, replaces the earlier one.

    Parameters
    ----------
    name : str
        Name in expressions; must be unused.
    compute : callable
        ``(series, *arguments) -> array``: `series` is a :class:`Lifespans` with ``begin`` and ``end``, the days on
        which each instrument exists; expressions arrive as arrays (instruments, days), parameters as numbers. The
        result has the shape (instruments, days). Arguments must not be modified in place.
    arguments : str
        One letter per argument, see :class:`Operator`.
    look : str
        ``none``, ``window`` (needs the last n days), ``shift`` (n days before, or after if negative) or ``all`` (every
        day so far).
    least : int
        Smallest valid window.
    lookback, lookahead : int
        Number of additional days before and after the day that `compute` needs, whatever its arguments. Other days are
        not read: if a number is too small, values at the start of the range are missing.

    Raises
    ------
    ConfigError
        If the name is taken or invalid, or `arguments` or `look` is unknown.

    Examples
    --------
    >>> register_operator("Half", lambda series, x: x / 2)
    >>> from rollforge.expressions.expression import parse
    >>> str(parse("Half($close)"))
    'Half($close)'
    >>> unregister_operator("Half")
    """
    _check_name(name)
    if name in _TABLE and _home(_TABLE[name].compute) != _home(compute):
        raise ConfigError(f"The operator {name!r} already exists.")
    if look not in _LOOKS:
        raise ConfigError(f"look must be one of {', '.join(_LOOKS)}, found {look!r}.{nearest(look, _LOOKS)}")
    unknown = sorted(set(arguments) - set("xcvnaqt"))
    if unknown or not set(arguments) & set("xv"):
        raise ConfigError(f"arguments {arguments!r} must be letters of 'xcvnaqt', with an x or a v among them.")
    if lookback < 0 or lookahead < 0:
        raise ConfigError(
            f"lookback and lookahead must be numbers of days, at least 0; found {lookback} and {lookahead}."
        )
    _add(name, compute, arguments, look, least=least, back=lookback, ahead=lookahead)
    _count_change()


def _home(function: Callable[..., object]) -> tuple[object, ...]:
    """Return where a function is defined; if it has no name there, the function itself."""
    name = getattr(function, "__qualname__", "<lambda>")
    return (function,) if "<" in name else (function.__module__, name)


def custom_operators() -> dict[str, str]:
    """Return user-defined operators with a hash of their code, on which cached results depend in addition to the
    expressions.

    Operators and plugins of the current session are loaded first, so that the result is the same before and after their
    use.
    """
    load_plugins(current_session())
    for name, _ in current_session().operators:
        is_known(name)
    return {
        name: code_mark((op.arguments, op.look, op.least, op.back, op.ahead), op.compute)
        for name, op in _TABLE.items()
        if name not in _BUILT_IN
    }


def unregister_operator(name: str) -> None:
    """Remove an operator that :func:`register_operator` added.

    Raises
    ------
    ConfigError
        If it is built in or unknown.
    """
    if name in _BUILT_IN or name not in _TABLE:
        raise ConfigError(f"{name!r} is not a registered operator.")
    del _TABLE[name]
    _count_change()


_changes = 0


def _count_change() -> None:
    global _changes
    _changes += 1


def language_version() -> int:
    """Return how often operators were added or removed in this process: a tree was checked against the operators of its
    time."""
    return _changes


def check_call(name: str, args: Sequence[Expression]) -> str:  # noqa: C901 - one rule per kind of argument
    """Return what is wrong with a call of the operator `name`, or an empty string."""
    if name == "TResample":
        # pyqlib itself fails here: it computes on calendar positions, which pandas cannot resample.
        return "TResample is not supported, because it changes the frequency and data are daily"
    known = _TABLE[name]
    if known.signature is not None:
        return _check_bound(name, known.signature, args)
    if len(args) != len(known.arguments):
        return f"{name} takes {len(known.arguments)} arguments, found {len(args)}"
    for kind, arg in zip(known.arguments, args, strict=True):
        number = arg.value if isinstance(arg, Number) else None
        if kind in "xc" and not isinstance(arg, (Field, Call)):
            return f"{name} needs an expression, found {arg}"
        if kind == "c" and (isinstance(arg, Field) or (isinstance(arg, Call) and arg.name in _NUMBERS)):
            return f"{name} combines conditions such as $close > $open (put each in parentheses), found {arg}"
        if kind == "v" and isinstance(arg, (Text, Constant)):
            hint = "; write 1 or 0" if arg.value in (True, False) else ""
            return f"{name} needs an expression or a number, found {arg}{hint}"
        if kind == "t" and not isinstance(arg, Text):
            return f"{name} needs a quoted instrument, found {arg}"
        if kind in "naq" and number is None:
            return f"{name} needs a plain number, found {arg}"
        if kind == "n" and isinstance(number, float):
            decay = f"; the exponential mean with that decay is EMA(…, {arg})" if 0 < number < 1 else ""
            return f"{name} needs an integer number of days, found {arg}{decay}"
        if kind == "n" and known.look == "window" and number is not None and (number < 0 or 0 < number < known.least):
            return f"{name} needs a window of at least {known.least} days, found {arg}"
        if kind == "a" and number is not None and number < 0:
            return f"{name} needs a window of days or a decay between 0 and 1, found {arg}"
        if kind == "q" and number is not None and not 0 <= number <= 1:
            return f"{name} needs a fraction between 0 and 1, found {arg}"
    if known.arguments.startswith("vv") and all(isinstance(a, Number) for a in args[:2]):
        return f"{name} of two numbers is not a series"
    return ""


def placed_arguments(
    signature: inspect.Signature, args: Sequence[object], named: Mapping[str, object]
) -> tuple[Any, ...]:
    """Return all arguments of a user-defined operator by position, the form in which an expression has them.

    Raises
    ------
    TypeError
        If they do not fit the signature, or one of them can only be given by name.
    """
    bound = signature.bind(*args, **named)
    ordinary = {n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    lost = [name for name in named if name not in ordinary]
    if lost:
        raise TypeError(
            f"an expression gives the arguments by position, but {lost[0]!r} can only be given by name; make it an "
            "ordinary argument of __init__"
        )
    if bound.kwargs:  # an earlier argument was omitted
        bound.apply_defaults()
    return bound.args


def _check_bound(name: str, signature: inspect.Signature, args: Sequence[Expression]) -> str:
    """Return what is wrong with the arguments of an operator with a signature, or an empty string."""
    try:
        signature.bind(*args)
    except TypeError as exc:
        return f"{name}{signature}: {exc}"
    return "" if any(isinstance(a, (Field, Call)) for a in args) else f"{name} needs an expression among its arguments"


def fields_of(tree: Expression) -> frozenset[str]:
    """Return the names of the data columns that an expression reads."""
    if isinstance(tree, Field):
        return frozenset((tree.name,))
    if isinstance(tree, Call):
        return frozenset().union(*(fields_of(a) for a in tree.args))
    return frozenset()


def _parameter(tree: Call) -> float:
    for arg, kind in zip(tree.args, _TABLE[tree.name].arguments, strict=True):
        if kind in "na" and isinstance(arg, Number):
            return arg.value
    return 0


def lookback(tree: Expression) -> float:
    """Return how many earlier days an expression needs for its value on a day; infinity means all of them.

    Examples
    --------
    >>> from rollforge.expressions.expression import parse
    >>> lookback(parse("Mean(Ref($close, 1), 20)")), lookback(parse("EMA($close, 12)"))
    (20, inf)
    """
    return _days_needed(tree)[0]


def lookahead(tree: Expression) -> int:
    """Return how many later days must be loaded to compute an expression's value on a day.

    The value may use fewer, see :func:`last_day_read`.

    Examples
    --------
    >>> from rollforge.expressions.expression import parse
    >>> lookahead(parse("Ref($close, -2)/Ref($close, -1) - 1"))
    2
    """
    return _days_needed(tree)[1]


def _days_needed(tree: Expression) -> tuple[float, int]:
    """Return how many earlier and how many later days an expression needs."""
    if not isinstance(tree, Call):
        return 0, 0
    operator = _TABLE[tree.name]
    if operator.reach is not None:
        return operator.reach(tree)
    inner = [_days_needed(argument) for argument in tree.args]
    before = max((back for back, _ in inner), default=0) + operator.back
    after = max((ahead for _, ahead in inner), default=0) + operator.ahead
    n = int(_parameter(tree))
    if operator.look == "none":
        return before, after
    if operator.look == "all" or n == 0:
        return math.inf, after
    if operator.look == "window":
        return before + n - 1, after
    if tree.name == "Ref":
        return max(0, before + n), max(0, after - n)
    return before + max(0, n), after + max(0, -n)


def last_day_read(tree: Expression) -> float:
    """Return the last day that an expression reads for its value on a day, as a number of trading days after it.

    A shift to a later day reads that day even if it uses an earlier price there: without a row on it, there is no
    value.

    Returns
    -------
    float
        A whole number, negative if only earlier days are read; minus infinity if none is.

    Examples
    --------
    >>> from rollforge.expressions.expression import parse
    >>> last_day_read(parse("Ref($close, -2)/Ref($close, -1) - 1")), last_day_read(parse("Ref(Ref($close, 3), -1)"))
    (2, 1)
    """
    if isinstance(tree, Field):
        return 0
    if not isinstance(tree, Call):
        return -math.inf
    known = _TABLE[tree.name]
    if known.reach is not None:
        return known.reach(tree)[1]
    inner = max((last_day_read(a) for a in tree.args), default=-math.inf) + known.ahead
    if known.look != "shift":
        return inner
    n = int(_parameter(tree))
    shifted = max(inner, 0) - n if n < 0 and inner > -math.inf else inner - n
    # A shift of 0 means the instrument's first day. Shifts other than Ref also read the day itself.
    return shifted if tree.name == "Ref" else max(inner, shifted)


def holding_days(tree: Expression) -> int | None:
    """Return how many trading days a label spans: from the first day that it reads to the last.

    A return between two prices of the same day (open to close) spans 1 day.

    Returns
    -------
    int or None
        None if it cannot be derived from the expression, because the expression reads a single value, which is not a
        return, or a window of days: ``Sum(Ref(…), 5)`` of daily returns is a return over five days, ``Mean(Ref(…), 5)``
        is a fifth of it, and a return divided by the deviation of the last twenty days spans neither five days nor
        twenty-five.

    Examples
    --------
    >>> from rollforge.expressions.expression import parse
    >>> holding_days(parse("Ref($close, -6)/Ref($close, -1) - 1")), holding_days(parse("Ref($close, -5)/$close - 1"))
    (5, 5)
    >>> holding_days(parse("Ref($close, -1)/Ref($open, -1) - 1"))
    1
    >>> holding_days(parse("Mean(Ref($close, -5), 5)/$close - 1")) is None
    True
    """
    reads = _single_reads(tree)
    if reads is None or len(reads) < 2:
        return None
    days = {day for _, day in reads}
    return max(max(days) - min(days), 1)


def _single_reads(tree: Expression) -> frozenset[tuple[str, int]] | None:
    """Return the (field, day offset) pairs that an expression reads; None if it reads windows of days."""
    if isinstance(tree, Field):
        return frozenset(((tree.name, 0),))
    if not isinstance(tree, Call):
        return frozenset()
    known = _TABLE[tree.name]
    if known.back or known.ahead or known.look in ("window", "all"):
        return None
    inner: set[tuple[str, int]] = set()
    for arg in tree.args:
        reads = _single_reads(arg)
        if reads is None:
            return None
        inner |= reads
    if known.look == "none":
        return frozenset(inner)
    days = int(_parameter(tree))
    if tree.name not in ("Ref", "Delta") or days == 0:  # a shift of 0 means the instrument's first day
        return None
    shifted = {(name, day - days) for name, day in inner}
    return frozenset(shifted | inner if tree.name == "Delta" else shifted)
