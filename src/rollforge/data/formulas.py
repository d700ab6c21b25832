"""How operators compute: functions on dense (instrument, day) arrays, as numpy or as compiled kernels.

Element-wise ones keep numpy's types (float32 stays float32 beside a plain number), rolling ones yield float64: so
results agree with pyqlib's to the last digit that float32 has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DataError

__all__ = [
    "Series", "conditions", "corr", "cov", "delta", "difference", "elementwise", "ema", "extreme", "quantile", "ref",
    "regression", "rolling", "sign", "std",
]  # fmt: skip

Array = NDArray[Any]

FLAT = 2e-5
"""Qlib calls a window flat whose standard deviation is at most this."""
_EVERYTHING = 2**31  # a window longer than any calendar: the expanding form, N = 0


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """On which days each instrument of a group exists: what operators know besides their arguments."""

    begin: NDArray[np.int64]
    """First day, as a place among the days computed."""
    end: NDArray[np.int64]
    """The place behind the last day."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """Results that several operators of one evaluation share."""


def window_of(n: int) -> int:
    return _EVERYTHING if n == 0 else int(n)


def as_float(x: Any) -> NDArray[np.float64]:
    """The same as contiguous float64, which is what kernels take; conditions become 0 and 1."""
    return np.ascontiguousarray(x, np.float64)


def rolling(kernel: str, *extra: Any) -> Callable[..., Array]:
    def compute(s: Series, x: Array, n: int) -> Array:
        from rollforge.data import kernels, moments

        run = getattr(moments if kernel in moments.__all__ else kernels, kernel)
        result: Array = run(as_float(x), s.begin, s.end, window_of(n), *extra)
        return result

    return compute


def once(s: Series, name: str, x: Array, n: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns, once for all operators that ask it of the same series and window.

    The series is kept beside the result: while an entry lives, no other array can have its id.
    """
    key = (name, id(x), n)
    if key not in s.shared:
        s.shared[key] = (x, make())
    return s.shared[key][1]


def std(s: Series, x: Array, n: int) -> Array:
    from rollforge.data import moments

    result: Array = once(s, "std", x, n, lambda: moments.variance(as_float(x), s.begin, s.end, window_of(n), True))
    return result


def regression(which: int) -> Callable[..., Array]:
    def compute(s: Series, x: Array, n: int) -> Array:
        from rollforge.data import moments

        lines = once(s, "line", x, n, lambda: moments.regression(as_float(x), s.begin, s.end, window_of(n)))
        result: Array = lines[which]
        if which == 1 and n:
            result = np.where(std(s, x, n) <= FLAT, np.nan, result)
        return result

    return compute


def extreme(sign: float, which: int) -> Callable[..., Array]:
    def compute(s: Series, x: Array, n: int) -> Array:
        from rollforge.data import kernels

        both = once(s, f"extreme{sign}", x, n, lambda: kernels.extreme(as_float(x), s.begin, s.end, window_of(n), sign))
        result: Array = both[which]
        return result

    return compute


def corr(s: Series, x: Array, y: Array, n: int) -> Array:
    from rollforge.data import moments

    # With N = 0 pyqlib looks for flat stretches in windows of no day at all, and so finds none.
    limit = FLAT if n else -1.0
    result: Array = moments.paired(as_float(x), as_float(y), s.begin, s.end, window_of(n), limit, True)
    return result


def cov(s: Series, x: Array, y: Array, n: int) -> Array:
    from rollforge.data import moments

    result: Array = moments.paired(as_float(x), as_float(y), s.begin, s.end, window_of(n), -1.0, False)
    return result


def quantile(s: Series, x: Array, n: int, q: float) -> Array:
    from rollforge.data import kernels

    result: Array = kernels.quantile(as_float(x), s.begin, s.end, window_of(n), float(q))
    return result


def ema(s: Series, x: Array, n: float) -> Array:
    from rollforge.data import kernels

    result: Array
    if n == 0:
        result = kernels.expanding_ema(as_float(x), s.begin, s.end)
    else:
        alpha = float(n) if 0 < n < 1 else 2.0 / (n + 1.0)
        result = kernels.ewm_mean(as_float(x), s.begin, s.end, alpha)
    return result


def ref(s: Series, x: Array, n: int) -> Array:
    from rollforge.data import kernels

    values = np.ascontiguousarray(x, np.float32 if x.dtype == np.float32 else np.float64)
    result: Array = kernels.shift(values, s.begin, s.end, int(n))
    return result


def delta(s: Series, x: Array, n: int) -> Array:
    result: Array = x - ref(s, x, n)
    return result


def elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    def compute(s: Series, *args: Any) -> Array:
        with np.errstate(all="ignore"):
            result: Array = np.asarray(function(*args))
        return result

    return compute


def sign(x: Array) -> Array:
    result: Array = np.sign(x.astype(np.float32))
    return result


def difference(x: Any, y: Any) -> Array:
    # numpy refuses to subtract conditions, and pyqlib with it; as 1 and 0 the difference has a meaning.
    x, y = (v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype == np.bool_ else v for v in (x, y))
    result: Array = np.subtract(x, y)
    return result


def conditions(name: str, function: Callable[..., Any]) -> Callable[..., Array]:
    def compute(s: Series, *args: Array) -> Array:
        if any(a.dtype != np.bool_ for a in args):
            raise DataError(f"{name} joins conditions such as $close > $open; it was given numbers.")
        result: Array = function(*args)
        return result

    return compute
