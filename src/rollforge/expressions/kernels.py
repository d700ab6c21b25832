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
def extreme(x, begin, end, n, sign, queue, values, gaps, first, out):  # type: ignore[no-untyped-def]
    """For each of the windows `n`, in ascending order, the position of its largest value (smallest if `sign` is -1), 1
    for the window's first day, and the value: `out` has two blocks per window.

    Among equal values the first is taken, as in numpy. For the position, a missing value counts as the extreme, as in
    numpy's argmax and so in pyqlib. If the window has no value, both are NaN. The others are memory to work in: the
    days that can become the longest window's extreme, their values, the missing days, one more than there are days; and
    for each window the first of these days and of the missing ones, (2, windows).
    """
    for i in range(x.shape[0]):
        b = begin[i]
        for j in range(n.size):
            first[0, j], first[1, j] = 0, 0
            for t in range(x.shape[1]):
                out[j, 0, i, t] = NAN
                out[j, 1, i, t] = NAN
        tail, gap_count = 0, 0
        for t in range(b, end[i]):
            v, latest = x[i, t] * sign, tail
            if np.isfinite(v):
                while tail > first[0, n.size - 1] and values[tail - 1] < v:
                    tail -= 1
                queue[tail], values[tail] = t, v
                latest = tail
                tail += 1
            else:
                gaps[gap_count] = t
                gap_count += 1
            for j in range(n.size):
                head, gap, left = min(first[0, j], latest), first[1, j], t - n[j]
                head += 1 if head < tail and queue[head] == left else 0
                gap += 1 if gap < gap_count and gaps[gap] == left else 0
                first[0, j], first[1, j] = head, gap
                if head < tail:
                    at = gaps[gap] if gap < gap_count else queue[head]
                    out[j, 0, i, t] = at - max(b - 1, left)
                    out[j, 1, i, t] = values[head] * sign


@exact
def _move(window, c, old, new, moved):  # type: ignore[no-untyped-def]
    """Copy `c` sorted values to `moved` without one value `old` and with `new`; infinity means none.

    The values begin at place 1, after minus infinity, and are followed by infinity.
    """
    # Every place is compared, and their number rounded up, so that there are only vector instructions: no branches to
    # predict, and no remainder.
    for k in range(1, (c + 8) // 8 * 8 + 1):
        before = window[k - 1] if window[k - 1] < old else window[k]
        here = window[k] if window[k] < old else window[k + 1]
        moved[k] = here if here < new else (new if before < new else before)


@exact
def quantile(x, begin, end, n, q, windows, out):  # type: ignore[no-untyped-def]  # noqa: C901
    """Quantiles `q`, float64 (quantiles,), of the window by linear interpolation; `out` has one block per quantile.

    `windows` is memory to work in: float64, (2, ten more than there are days).
    """
    for i in range(x.shape[0]):
        for j in range(q.size):
            for t in range(x.shape[1]):
                out[j, i, t] = NAN
        for w in range(2):
            windows[w, 0] = -np.inf
            for k in range(1, windows.shape[1]):
                windows[w, k] = np.inf
        b, c, now = begin[i], begin[i] * 0, begin[i] * 0  # not literals, or _move would be compiled twice
        for t in range(b, end[i]):
            old = x[i, t - n] if t - n >= b and np.isfinite(x[i, t - n]) else np.inf
            new = x[i, t] if np.isfinite(x[i, t]) else np.inf
            if old != new:
                _move(windows[now], c, old, new, windows[1 - now])
                now = 1 - now
                c += 1 if new < np.inf else 0
                c -= 1 if old < np.inf else 0
            if c > 0:
                for j in range(q.size):
                    place = q[j] * (c - 1)
                    low = np.int64(place)
                    v = windows[now, low + 1]
                    if low + 1 < c:
                        v += (windows[now, low + 2] - v) * (place - low)
                    out[j, i, t] = v


@reordering
def _places(w, v):  # type: ignore[no-untyped-def]
    less, equal = 0, 0
    for k in range(w.size):
        less += 1 if w[k] < v and w[k] > -np.inf else 0
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

    ``rows``: int32 (instrument, day), the row of the instrument on the day, or -1; ``out`` begins with row `begin`. It
    has one row more, for values of days without a row.
    """
    spare = out.shape[0] - 1
    for i in range(i0, i1):
        for t in range(t0, t1, 4):  # four days together, whose values are beside each other
            a, b, d = min(t + 1, t1 - 1), min(t + 2, t1 - 1), min(t + 3, t1 - 1)
            row_t, row_a, row_b, row_d = rows[i, t], rows[i, a], rows[i, b], rows[i, d]
            if max(row_t, row_a, row_b, row_d) >= 0:
                to_t = row_t - begin if row_t >= 0 else spare
                to_a = row_a - begin if row_a >= 0 else spare
                to_b = row_b - begin if row_b >= 0 else spare
                to_d = row_d - begin if row_d >= 0 else spare
                for c in range(out.shape[1]):
                    x, y = columns[i, first + c, t], columns[i, first + c, a]
                    z, w = columns[i, first + c, b], columns[i, first + c, d]
                    out[to_t, c], out[to_a, c], out[to_b, c], out[to_d, c] = x, y, z, w
