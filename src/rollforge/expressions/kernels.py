"""Compiled rolling kernels over dense (instrument, day) arrays: sums, order statistics, positions, exponential means.

Every kernel takes ``x``, float64 of shape (instruments, days) in C order, so that an instrument's series is contiguous;
``begin`` and ``end``, int64 of shape (instruments,), the half-open range of days on which the instrument exists (days
outside do not count, not even as missing); ``n``, the window in days; and last ``out``, float64 of the shape of ``x``,
which is NaN outside the range. A window needs one value (``min_periods=1``), as in pyqlib.

Sums use Neumaier's compensated summation, so that values that have left the window leave no rounding error.

Each kernel is called with one set of types and only loops over scalars: array expressions and slice assignments make
compilation ten times slower. It allocates no memory, for which its machine code would need numba.
"""

from __future__ import annotations

import numpy as np

from rollforge.expressions.jit import NAN, exact, reordering

__all__ = ["count", "ewm_mean", "expanding_ema", "extreme", "gather_rows", "quantile", "rank", "sum_mean", "wma"]


@exact
def sum_mean(x, begin, end, n, mean, out):  # type: ignore[no-untyped-def]
    """Sum or mean of the values in the window, with compensated summation."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b = begin[i]
        total, lost, seen = 0.0, 0.0, 0
        for t in range(b, end[i]):
            v = x[i, t]
            if np.isfinite(v):
                s = total + v
                lost += (total - s) + v if abs(total) >= abs(v) else (v - s) + total
                total = s
                seen += 1
            if t - n >= b:
                v = x[i, t - n]
                if np.isfinite(v):
                    s = total - v
                    lost += (total - s) - v if abs(total) >= abs(v) else (-v - s) + total
                    total = s
                    seen -= 1
                    if seen == 0:
                        total, lost = 0.0, 0.0
            if seen > 0:
                out[i, t] = (total + lost) / seen if mean else total + lost


@exact
def count(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Number of days in the window that have a value."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, seen = begin[i], 0
        for t in range(b, end[i]):
            seen += 0 if np.isnan(x[i, t]) else 1
            if t - n >= b:
                seen -= 0 if np.isnan(x[i, t - n]) else 1
            out[i, t] = seen


@exact
def extreme(x, begin, end, n, sign, queue, gaps, place, out):  # type: ignore[no-untyped-def]  # noqa: C901
    """Largest value of the window (smallest if `sign` is -1), and in `place` its position, 1 for the window's first
    day.

    Among equal values the first is taken, as in numpy. For the position, a missing value counts as the extreme, as in
    numpy's argmax and so in pyqlib. If the window has no value, both are NaN. `queue` and `gaps` are memory to work in:
    int64, one more than there are days.
    """
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            place[i, t] = NAN
            out[i, t] = NAN
        b, seen = begin[i], 0
        head, tail = 0, 0
        first_gap, gap_count = 0, 0
        for t in range(b, end[i]):
            v = x[i, t] * sign
            if np.isfinite(v):
                seen += 1
                while tail > head and x[i, queue[tail - 1]] * sign < v:
                    tail -= 1
                queue[tail] = t
                tail += 1
            else:
                gaps[gap_count] = t
                gap_count += 1
            if t - n >= b:
                if np.isfinite(x[i, t - n]):
                    seen -= 1
                if tail > head and queue[head] == t - n:
                    head += 1
                if first_gap < gap_count and gaps[first_gap] == t - n:
                    first_gap += 1
            if seen > 0:
                out[i, t] = x[i, queue[head]]
                at = gaps[first_gap] if first_gap < gap_count else queue[head]
                place[i, t] = at - max(b, t - n + 1) + 1


@exact
def _move(window, c, old, new):  # type: ignore[no-untyped-def]
    """Remove `old` from the first `c` sorted values and insert `new`; NaN means none. Returns the new count."""
    # Counting smaller values is faster than a binary search: it is vectorized and has no branches to predict.
    out_at, in_at = 0, 0
    for k in range(c):
        out_at += 1 if window[k] < old else 0
        in_at += 1 if window[k] < new else 0
    if np.isnan(old):
        for k in range(c, in_at, -1):
            window[k] = window[k - 1]
        c += 1
    elif np.isnan(new):
        for k in range(out_at, c - 1):
            window[k] = window[k + 1]
        return c - 1
    elif in_at > out_at:
        in_at -= 1
        for k in range(out_at, in_at):
            window[k] = window[k + 1]
    else:
        for k in range(out_at, in_at, -1):
            window[k] = window[k - 1]
    window[in_at] = new
    return c


@exact
def quantile(x, begin, end, n, q, window, out):  # type: ignore[no-untyped-def]
    """Quantiles `q`, float64 (quantiles,), of the window by linear interpolation; `out` has one block per quantile.

    `window` is memory to work in: float64, one more than there are days.
    """
    for i in range(x.shape[0]):
        for j in range(q.size):
            for t in range(x.shape[1]):
                out[j, i, t] = NAN
        b, c = begin[i], begin[i] * 0  # not a literal, or _move would be compiled twice
        for t in range(b, end[i]):
            old = x[i, t - n] if t - n >= b and np.isfinite(x[i, t - n]) else NAN
            new = x[i, t] if np.isfinite(x[i, t]) else NAN
            if old != new and not (np.isnan(old) and np.isnan(new)):
                c = _move(window, c, old, new)
            if c > 0:
                for j in range(q.size):
                    place = q[j] * (c - 1)
                    low = np.int64(place)
                    v = window[low]
                    if low + 1 < c:
                        v += (window[low + 1] - v) * (place - low)
                    out[j, i, t] = v


@reordering
def _places(w, v):  # type: ignore[no-untyped-def]
    less, equal = 0, 0
    for k in range(w.size):
        less += 1 if w[k] < v else 0
        equal += 1 if w[k] == v else 0
    return less, equal


@exact
def rank(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Percentile rank of the day's value in its window, between 0 and 1 (mean rank for ties); NaN if it is missing."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, seen = begin[i], 0
        for t in range(b, end[i]):
            v = x[i, t]
            seen += 1 if np.isfinite(v) else 0
            if t - n >= b and np.isfinite(x[i, t - n]):
                seen -= 1
            if np.isfinite(v):
                less, equal = _places(x[i, max(b, t - n + 1) : t + 1], v)
                out[i, t] = (less + 0.5 * (equal + 1)) / seen


@reordering
def _weighted(w):  # type: ignore[no-untyped-def]
    s, total = 0.0, 0.0
    for k in range(w.size):
        there = np.isfinite(w[k])
        s += (k + 1) * w[k] if there else 0.0
        total += k + 1 if there else 0.0
    return s, total


@exact
def wma(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Weighted mean with weights 1, 2, … from the window's first day to the last; missing days get no weight."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b = begin[i]
        for t in range(b, end[i]):
            s, total = _weighted(x[i, max(b, t - n + 1) : t + 1])
            if total > 0:
                out[i, t] = s / total


@exact
def ewm_mean(x, begin, end, alpha, out):  # type: ignore[no-untyped-def]
    """Exponentially weighted mean from the instrument's first day (adjusted; weights decay over missing days too)."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        mean, weight = NAN, 1.0
        for t in range(begin[i], end[i]):
            v = x[i, t]
            if np.isnan(mean):
                mean = v if np.isfinite(v) else NAN
            else:
                weight *= 1.0 - alpha
                if np.isfinite(v):
                    if mean != v:
                        mean = (weight * mean + v) / (weight + 1.0)
                    weight += 1.0
            out[i, t] = mean


@exact
def expanding_ema(x, begin, end, out):  # type: ignore[no-untyped-def]
    """``EMA(x, 0)``: on day m, the mean with weights (1 - 2/(1+m))^age; missing days get no weight."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, latest = begin[i], -1
        for t in range(b, end[i]):
            if np.isfinite(x[i, t]):
                latest = t
            if latest < 0:
                continue
            a = 1.0 - 2.0 / (2.0 + t - b)
            s, total, w = 0.0, 0.0, 1.0
            # Count ages from the latest value: a common factor of all weights cancels, and then cannot underflow.
            for k in range(latest, b - 1, -1):
                if np.isfinite(x[i, k]):
                    s += w * x[i, k]
                    total += w
                w *= a
            out[i, t] = s / total


@exact
def gather_rows(columns, first, rows, i0, i1, t0, t1, begin, out):  # type: ignore[no-untyped-def]
    """Copy ``columns`` (instrument, column, day), float32, from column `first` on into ``out`` (row, column), for the
    instruments `i0` to `i1` and the days `t0` to `t1`.

    ``rows``: int32 (instrument, day), the row of the instrument on the day, or -1; ``out`` begins with row `begin`.
    """
    for i in range(i0, i1):
        for t in range(t0, t1):
            r = rows[i, t]
            if r >= 0:
                for c in range(out.shape[1]):
                    out[r - begin, c] = columns[i, first + c, t]
