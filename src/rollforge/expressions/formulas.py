"""Implementations of operators: functions on dense (instrument, day) arrays, in numpy or as compiled kernels.

Element-wise functions keep numpy's dtypes (float32 combined with a Python number stays float32), rolling functions
return float64. Results therefore agree with pyqlib's to the last digit of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DataError

__all__ = [
    "Lifespans",
    "SeriesSource",
    "conditions",
    "delta",
    "difference",
    "elementwise",
    "ema",
    "extreme",
    "median",
    "paired",
    "quantile",
    "ref",
    "regression",
    "requests",
    "rolling",
    "sign",
    "std",
]  # fmt: skip

Array = NDArray[Any]

_NAN = {np.dtype(kind): np.array(np.nan, kind) for kind in (np.float32, np.float64)}
_EVERYTHING = 2**31  # a window longer than any calendar: the expanding form, N = 0


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSource:
    """Source of a group's series, for operators that load further series."""

    provider: Any
    """The :class:`~rollforge.market.provider.Provider` of the data."""
    freq: str
    codes: Sequence[str]
    """The instruments, in the order of the rows."""
    first: int
    """Position in the calendar of the first day computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Lifespans:
    """Range of days on which each instrument of a group exists, passed to operators along with their arguments."""

    begin: NDArray[np.int64]
    """First day, as a position among the days computed."""
    end: NDArray[np.int64]
    """One past the last day."""
    shared: dict[int, tuple[Any, dict[Any, Any]]] = field(default_factory=dict)
    """Results that several operators of an evaluation share, by the id of the array that they are computed from."""
    shares: dict[int, set[float]] = field(default_factory=dict)
    """Window -> the quantiles requested of it, between 0 and 1."""
    place: SeriesSource | None = None
    """None if the values do not come from a data folder."""


def window_of(n: int) -> int:
    return _EVERYTHING if n == 0 else int(n)


def as_float(s: Lifespans, x: Any) -> NDArray[np.float64]:
    """Convert to contiguous float64 for kernels; conditions become 0 and 1."""
    if isinstance(x, np.ndarray) and x.dtype == np.float64 and x.flags.c_contiguous:
        return x
    converted: NDArray[np.float64] = once(s, "float64", x, 0, lambda: np.ascontiguousarray(x, np.float64))
    return converted


def unfilled(x: Array, *blocks: int) -> NDArray[np.float64]:
    """Return an output array for kernels, which fill it: the shape of `x`, with leading dimensions `blocks`."""
    return np.empty((*blocks, *x.shape))


def rolling(kernel: str, *extra: object) -> Callable[..., Array]:
    def compute(s: Lifespans, x: Array, n: int) -> Array:
        from rollforge.expressions import kernels, moments

        run = getattr(moments if kernel in moments.__all__ else kernels, kernel)
        out = unfilled(x)
        run(as_float(s, x), s.begin, s.end, window_of(n), *extra, out)
        return out

    return compute


def requests(shared: dict[int, tuple[Any, dict[Any, Any]]], x: Array) -> dict[str, set[int]]:
    """Return the windows of a series that the expressions of an evaluation request, by operator.

    They are stored in `shared`, as the results that operators share.
    """
    _, known = shared.setdefault(id(x), (x, {}))
    found: dict[str, set[int]] = known.setdefault("requests", {})
    return found


def once(s: Lifespans, name: str, x: Array, n: object, make: Callable[[], object]) -> Any:
    """Return the result of `make`, computed once per name, series and window.

    The series is stored with the result so that its id cannot be reused while the entry exists.
    """
    _, known = s.shared.setdefault(id(x), (x, {}))
    if (name, n) not in known:
        known[name, n] = make()
    return known[name, n]


def std(s: Lifespans, x: Array, n: int) -> Array:
    result: Array = once(s, "std", x, n, lambda: rolling("variance", True)(s, x, n))
    return result


def regression(which: int) -> Callable[..., Array]:
    """Return Rsquare, Resi or Slope, for `which` = 0, 1 or 2."""

    def lines(s: Lifespans, x: Array, n: int) -> NDArray[np.float64]:
        from rollforge.expressions import moments

        out = unfilled(x, 3)
        moments.regression(as_float(s, x), s.begin, s.end, window_of(n), out[0], out[1], out[2])
        return out

    def compute(s: Lifespans, x: Array, n: int) -> Array:
        result: Array = once(s, "line", x, n, lambda: lines(s, x, n))[which]
        return result

    return compute


def extreme(sign: float, which: int) -> Callable[..., Array]:
    """Return the position of the window's extreme value, or the value itself, for `which` = 0 or 1.

    All windows of a series that the expressions request are computed together.
    """
    names = ("Max", "IdxMax") if sign > 0 else ("Min", "IdxMin")

    def all_windows(s: Lifespans, x: Array, windows: Sequence[int]) -> NDArray[np.float64]:
        from rollforge.expressions import kernels

        out = unfilled(x, len(windows), 2)
        queue, gaps = np.empty((2, x.shape[1] + 1), np.int64)
        first = np.empty((2, len(windows)), np.int64)
        values = np.empty(x.shape[1] + 1)
        kernels.extreme(as_float(s, x), s.begin, s.end, np.array(windows), sign, queue, values, gaps, first, out)
        return out

    def compute(s: Lifespans, x: Array, n: int) -> Array:
        requested = requests(s.shared, x)
        together = {m for name in names for m in requested.get(name, ())}
        windows = tuple(sorted(map(window_of, together | {n})))
        results: Array = once(s, f"extreme{sign}", x, windows, lambda: all_windows(s, x, windows))
        result: Array = results[windows.index(window_of(n)), which]
        return result

    return compute


def paired(*, scaled: bool) -> Callable[..., Array]:
    """Return covariance, or correlation if `scaled`."""

    def compute(s: Lifespans, x: Array, y: Array, n: int) -> Array:
        from rollforge.expressions import moments

        out = unfilled(x)
        scale = np.ones(x.shape[1])
        moments.paired(as_float(s, x), as_float(s, y), s.begin, s.end, window_of(n), scaled, scale, out)
        return out

    return compute


def quantile(s: Lifespans, x: Array, n: int, q: float) -> Array:
    """Return a rolling quantile; each window is sorted once for all quantiles that the expressions request."""

    def sort() -> dict[float, Array]:
        from rollforge.expressions import kernels

        shares = sorted(s.shares.get(n, set()) | {float(q)})
        out = unfilled(x, len(shares))
        windows = np.empty((2, x.shape[1] + 10))
        kernels.quantile(as_float(s, x), s.begin, s.end, window_of(n), np.array(shares), windows, out)
        return dict(zip(shares, out, strict=True))

    result: Array = once(s, "quantile", x, n, sort)[float(q)]
    return result


def median(s: Lifespans, x: Array, n: int) -> Array:
    return quantile(s, x, n, 0.5)


def ema(s: Lifespans, x: Array, n: float) -> Array:
    from rollforge.expressions import kernels

    out = unfilled(x)
    if n == 0:
        kernels.expanding_ema(as_float(s, x), s.begin, s.end, out)
    else:
        alpha = float(n) if 0 < n < 1 else 2.0 / (n + 1.0)
        kernels.ewm_mean(as_float(s, x), s.begin, s.end, alpha, out)
    return out


def ref(s: Lifespans, x: Array, n: int) -> Array:
    """Return the value `n` days before (after, if negative); n = 0 gives the instrument's first value."""
    values = x if x.dtype == np.float32 else as_float(s, x)
    days = np.arange(x.shape[1])
    begin, end = s.begin[:, None], s.end[:, None]
    if n == 0:
        first = np.take_along_axis(values, np.minimum(begin, x.shape[1] - 1), axis=1)
        return np.where((days >= begin) & (days < end), first, _NAN[values.dtype])
    out = np.full(x.shape, np.nan, values.dtype)
    size = max(0, x.shape[1] - abs(n))
    to, since = slice(max(n, 0), max(n, 0) + size), slice(max(-n, 0), max(-n, 0) + size)
    out[:, to] = values[:, since]
    out[(days < begin + max(n, 0)) | (days >= end + min(n, 0))] = np.nan
    return out


def delta(s: Lifespans, x: Array, n: int) -> Array:
    result: Array = x - ref(s, x, n)
    return result


def elementwise(function: Callable[..., object]) -> Callable[..., Array]:
    def compute(s: Lifespans, *args: object) -> Array:
        result: Array = np.asarray(function(*args))
        return result

    return compute


def power(x: Any, y: Any) -> Array:
    """Return ``x ** y``; conditions count as the numbers 0 and 1, also with a negative exponent."""
    whole = np.asarray(x).dtype.kind in "bi" and np.asarray(y).dtype.kind in "bi"
    result: Array = np.power(np.asarray(x, np.float32) if whole else x, y)
    return result


def sign(x: Array) -> Array:
    result: Array = np.sign(x.astype(np.float32))
    return result


def difference(x: Any, y: Any) -> Array:
    # numpy, and so pyqlib, cannot subtract booleans; treat them as 1 and 0.
    x, y = (v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype == np.bool_ else v for v in (x, y))
    result: Array = np.subtract(x, y)
    return result


def conditions(name: str, function: Callable[..., Any]) -> Callable[..., Array]:
    def compute(s: Lifespans, *args: Array) -> Array:
        if any(a.dtype != np.bool_ for a in args):
            raise DataError(f"{name} combines conditions such as $close > $open, but received numbers.")
        result: Array = function(*args)
        return result

    return compute
