"""Compiled rolling kernels over dense (instrument, day) arrays.

Every kernel takes ``x``: float64 of shape (instruments, days), C order, so that one instrument's series is contiguous;
``begin`` and ``end``: int64 of shape (instruments,), the days on which the instrument exists (nothing outside counts,
not even as missing); ``n``: the window in days. It returns an array of the shape of ``x`` with NaN outside the span. A
window needs one value (``min_periods=1``), as in pyqlib.

Nothing drifts, whatever the level of the series. Most windows are evaluated afresh for each day, on values centred on
the window's mean. Sums use Neumaier's compensation. Second moments (variance, correlation) are moved along from day
to day around a pivot, and evaluated afresh, with the window's mean as the new pivot, after twice as many days as the
window has, and at once when the result is small beside the largest sum since then (below 1e-4, so that each step has
cost at most 1e-12 of the result): a price of 1e5 that moves by 1e-3, or an outlier that has just left the window.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from rollforge.session import current_session

log = logging.getLogger(__name__)


def _cache_folder() -> str:
    """Where compiled code is kept: in the cache that all processes share, or, where that is read-only, a folder of this
    process alone (compiled code is executed, so it is never taken from a folder that others can write)."""
    folder = Path(current_session().cache) / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except OSError as exc:
        log.info("Compiled code is not kept: %s", exc)
    return tempfile.mkdtemp(prefix="rollforge-kernels-")


_settings: Any = numba.config
if not _settings.CACHE_DIR:  # NUMBA_CACHE_DIR, when somebody has set it, wins
    _settings.CACHE_DIR = _cache_folder()

__all__ = [
    "count",
    "ewm_mean",
    "expanding_ema",
    "extreme",
    "kurt",
    "mad",
    "paired",
    "quantile",
    "rank",
    "regression",
    "scatter_rows",
    "shift",
    "skew",
    "sum_mean",
    "variance",
    "wma",
]

_NAN = np.nan
_FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
# Sums inside one window may be reordered (vector instructions); NaN and infinity keep their meaning.
_jit = njit(**_FLAGS, fastmath={"reassoc", "contract"})
_exact = njit(**_FLAGS)


@_exact
def shift(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Value `n` days before (after, if negative); n = 0 is the instrument's first value."""
    out = np.full(x.shape, _NAN, x.dtype)
    for i in range(x.shape[0]):
        b, e = begin[i], end[i]
        if n == 0 and e > b:
            out[i, b:e] = x[i, b]
        elif n > 0 and e - b > n:
            out[i, b + n : e] = x[i, b : e - n]
        elif n < 0 and e - b > -n:
            out[i, b : e + n] = x[i, b - n : e]
    return out


@_exact
def sum_mean(x, begin, end, n, mean):  # type: ignore[no-untyped-def]
    """Sum, or mean, of the values in the window. Exactly rounded additions keep no trace of what left the window."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, e = begin[i], end[i]
        total, lost, seen = 0.0, 0.0, 0
        for t in range(b, e):
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
    return out


@_exact
def count(x, begin, end, n):  # type: ignore[no-untyped-def]
    """How many days of the window have a value."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, seen = begin[i], 0
        for t in range(b, end[i]):
            seen += 0 if np.isnan(x[i, t]) else 1
            if t - n >= b:
                seen -= 0 if np.isnan(x[i, t - n]) else 1
            out[i, t] = seen
    return out


@_jit
def _window_mean(w, seen):  # type: ignore[no-untyped-def]
    s = 0.0
    if seen == w.size:
        for k in range(w.size):
            s += w[k]
    else:
        for k in range(w.size):
            s += w[k] if np.isfinite(w[k]) else 0.0
    return s / seen


@_jit
def _centred_sums(w, pivot):  # type: ignore[no-untyped-def]
    s1, s2 = 0.0, 0.0
    for k in range(w.size):
        d = w[k] - pivot
        if np.isfinite(d):
            s1 += d
            s2 += d * d
    return s1, s2


@_exact
def variance(x, begin, end, n, root):  # type: ignore[no-untyped-def]
    """Sample variance (ddof 1) of the window, or its root; NaN below two values, exactly 0 for equal values."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, seen, same, last = begin[i], 0, 0, _NAN
        pivot, s1, s2, peak, left = 0.0, 0.0, 0.0, 0.0, 0
        for t in range(b, end[i]):
            v = x[i, t]
            if np.isfinite(v):
                seen += 1
                same = same + 1 if v == last else 1
                last = v
                d = v - pivot
                s1 += d
                s2 += d * d
                peak = max(peak, s2)
            if t - n >= b and np.isfinite(x[i, t - n]):
                seen -= 1
                d = x[i, t - n] - pivot
                s1 -= d
                s2 -= d * d
            left -= 1
            if seen < 2:
                left = 0
            elif same >= seen:
                out[i, t] = 0.0
            else:
                m2 = s2 - s1 * s1 / seen
                if left < 0 or not m2 > 1e-4 * peak:
                    w = x[i, max(b, t - n + 1) : t + 1]
                    pivot = _window_mean(w, seen)
                    s1, s2 = _centred_sums(w, pivot)
                    m2 = max(s2 - s1 * s1 / seen, 0.0)
                    peak, left = s2, 2 * seen
                out[i, t] = np.sqrt(m2 / (seen - 1)) if root else m2 / (seen - 1)
    return out


@_exact
def skew(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Sample skewness (adjusted Fisher-Pearson, as pandas); NaN below three values."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            _, m2, m3, _, c = _moments(x[i, max(b, t - n + 1) : t + 1])
            if c < 3:
                continue
            if m2 / c <= 1e-14:
                out[i, t] = _NAN
            else:
                out[i, t] = c * np.sqrt(c - 1.0) / (c - 2.0) * m3 / m2**1.5
    return out


@_exact
def kurt(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Sample excess kurtosis (as pandas); NaN below four values."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            _, m2, _, m4, c = _moments(x[i, max(b, t - n + 1) : t + 1])
            if c < 4:
                continue
            if m2 / c <= 1e-14:
                out[i, t] = _NAN
            else:
                top = c * (c + 1.0) * (c - 1.0) * m4 / (m2 * m2) - 3.0 * (c - 1.0) ** 2
                out[i, t] = top / ((c - 2.0) * (c - 3.0))
    return out


@_exact
def _moments(w):  # type: ignore[no-untyped-def]
    c, s = 0, 0.0
    for v in w:
        if np.isfinite(v):
            c += 1
            s += v
    if c == 0:
        return 0.0, 0.0, 0.0, 0.0, c
    mean = s / c
    m2, m3, m4 = 0.0, 0.0, 0.0
    for v in w:
        if np.isfinite(v):
            d = v - mean
            m2 += d * d
            m3 += d * d * d
            m4 += d * d * d * d
    return mean, m2, m3, m4, c


@_exact
def extreme(x, begin, end, n, sign):  # type: ignore[no-untyped-def]
    """Largest value of the window (smallest, if `sign` is -1), and its place, 1 for the window's first day.

    Of equal values the first counts, as in numpy. A missing value counts as the extreme for the place, as numpy's
    argmax has it and pyqlib with it; without a value in the window both are NaN.
    """
    out = np.full(x.shape, _NAN)
    place = np.full(x.shape, _NAN)
    queue = np.empty(x.shape[1] + 1, np.int64)
    gaps = np.empty(x.shape[1] + 1, np.int64)
    for i in range(x.shape[0]):
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
    return out, place


@_exact
def quantile(x, begin, end, n, q):  # type: ignore[no-untyped-def]
    """Quantile `q` of the window by linear interpolation."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, c = begin[i], 0
        window = np.empty(min(n, end[i] - b) + 1)
        for t in range(b, end[i]):
            if t - n >= b and np.isfinite(x[i, t - n]):
                at = np.searchsorted(window[:c], x[i, t - n])
                for k in range(at, c - 1):
                    window[k] = window[k + 1]
                c -= 1
            v = x[i, t]
            if np.isfinite(v):
                at = np.searchsorted(window[:c], v)
                for k in range(c, at, -1):
                    window[k] = window[k - 1]
                window[at] = v
                c += 1
            if c > 0:
                place = q * (c - 1)
                low = int(place)
                out[i, t] = window[low]
                if low + 1 < c:
                    out[i, t] += (window[low + 1] - window[low]) * (place - low)
    return out


@_jit
def _places(w, v):  # type: ignore[no-untyped-def]
    less, equal = 0, 0
    for k in range(w.size):
        less += 1 if w[k] < v else 0
        equal += 1 if w[k] == v else 0
    return less, equal


@_exact
def rank(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Rank of the day's value as a share of the values in its window (ties: mean rank); NaN where it is missing."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, seen = begin[i], 0
        for t in range(b, end[i]):
            v = x[i, t]
            seen += 1 if np.isfinite(v) else 0
            if t - n >= b and np.isfinite(x[i, t - n]):
                seen -= 1
            if np.isfinite(v):
                less, equal = _places(x[i, max(b, t - n + 1) : t + 1], v)
                out[i, t] = (less + 0.5 * (equal + 1)) / seen
    return out


@_exact
def mad(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Mean absolute deviation from the window's mean."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            w = x[i, max(b, t - n + 1) : t + 1]
            mean, _, _, _, c = _moments(w)
            if c > 0:
                s = 0.0
                for v in w:
                    s += abs(v - mean) if np.isfinite(v) else 0.0
                out[i, t] = s / c
    return out


@_jit
def _line_sums(w, mean_k, mean_y):  # type: ignore[no-untyped-def]
    kk, ky, yy = 0.0, 0.0, 0.0
    for k in range(w.size):
        d = w[k] - mean_y
        if np.isfinite(d):
            kk += (k - mean_k) * (k - mean_k)
            ky += (k - mean_k) * d
            yy += d * d
    return kk, ky, yy


@_exact
def regression(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Least-squares line through the window: slope a day, R squared, residual of the last day (NaN if missing)."""
    slope = np.full(x.shape, _NAN)
    rsquare = np.full(x.shape, _NAN)
    residual = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, seen, place = begin[i], 0, 0
        for t in range(b, end[i]):
            if np.isfinite(x[i, t]):
                seen += 1
                place += t
            if t - n >= b and np.isfinite(x[i, t - n]):
                seen -= 1
                place -= t - n
            if seen < 2:
                continue
            first = max(b, t - n + 1)
            w = x[i, first : t + 1]
            mean_k, mean_y = (place - seen * first) / seen, _window_mean(w, seen)
            kk, ky, yy = _line_sums(w, mean_k, mean_y)
            slope[i, t] = ky / kk
            rsquare[i, t] = ky * ky / (kk * yy) if yy > 0.0 else _NAN
            residual[i, t] = x[i, t] - mean_y - ky / kk * (t - first - mean_k)
    return slope, rsquare, residual


@_jit
def _pair_means(u, v):  # type: ignore[no-untyped-def]
    a, b, c = 0.0, 0.0, 0
    for k in range(u.size):
        if np.isfinite(u[k]) and np.isfinite(v[k]):
            a += u[k]
            b += v[k]
            c += 1
    return a / c, b / c


@_jit
def _pair_sums(u, v, mean_u, mean_v):  # type: ignore[no-untyped-def]
    su, sv, uu, vv, uv = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(u.size):
        du, dv = u[k] - mean_u, v[k] - mean_v
        if np.isfinite(du) and np.isfinite(dv):
            su += du
            sv += dv
            uu += du * du
            vv += dv * dv
            uv += du * dv
    return su, sv, uu, vv, uv


@_exact
def _is_flat(w, seen, flat):  # type: ignore[no-untyped-def]
    """Whether the standard deviation of all values in the window, paired or not, is at most `flat`."""
    if seen < 2:
        return False
    s1, s2 = _centred_sums(w, _window_mean(w, seen))
    return np.sqrt(max(s2 - s1 * s1 / seen, 0.0) / (seen - 1)) <= flat


@_exact
def paired(x, y, begin, end, n, flat, scaled):  # type: ignore[no-untyped-def]  # noqa: C901
    """Sample covariance (ddof 1; `scaled`: correlation) over the days of the window on which both have a value.

    NaN where the standard deviation of `x` or of `y` in the window is at most `flat`; a negative `flat` asks for none.
    """
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, c, nx, ny, left = begin[i], 0, 0, 0, 0
        pu, pv, su, sv, suu, svv, suv, peak_u, peak_v = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for t in range(b, end[i]):
            for step in range(2):  # the day that comes, then the one that leaves
                at = t - n if step else t
                if at < b:
                    break
                sign = -1 if step else 1
                in_x, in_y = np.isfinite(x[i, at]), np.isfinite(y[i, at])
                nx += sign if in_x else 0
                ny += sign if in_y else 0
                if in_x and in_y:
                    c += sign
                    du, dv = x[i, at] - pu, y[i, at] - pv
                    su += sign * du
                    sv += sign * dv
                    suu += sign * (du * du)
                    svv += sign * (dv * dv)
                    suv += sign * (du * dv)
                    peak_u, peak_v = max(peak_u, suu), max(peak_v, svv)
            left -= 1
            if c < 2:
                left = 0
                continue
            uu, vv = suu - su * su / c, svv - sv * sv / c
            if left < 0 or not (uu > 1e-4 * peak_u and vv > 1e-4 * peak_v):
                u, v = x[i, max(b, t - n + 1) : t + 1], y[i, max(b, t - n + 1) : t + 1]
                pu, pv = _pair_means(u, v)
                su, sv, suu, svv, suv = _pair_sums(u, v, pu, pv)
                uu, vv = max(suu - su * su / c, 0.0), max(svv - sv * sv / c, 0.0)
                peak_u, peak_v, left = suu, svv, 2 * c
            if flat >= 0.0:
                first = max(b, t - n + 1)
                if np.sqrt(uu / (c - 1)) <= flat if nx == c else _is_flat(x[i, first : t + 1], nx, flat):
                    continue
                if np.sqrt(vv / (c - 1)) <= flat if ny == c else _is_flat(y[i, first : t + 1], ny, flat):
                    continue
            uv = suv - su * sv / c
            out[i, t] = uv / np.sqrt(uu * vv) if scaled else uv / (c - 1)
    return out


@_exact
def wma(x, begin, end, n):  # type: ignore[no-untyped-def]
    """pyqlib's WMA: the mean over the days with a value of value times weight, weights 1..m scaled to sum 1."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            w = x[i, max(b, t - n + 1) : t + 1]
            s, c, m = 0.0, 0, w.size
            for k in range(m):
                if np.isfinite(w[k]):
                    s += (k + 1) * w[k]
                    c += 1
            if c > 0:
                out[i, t] = s / (m * (m + 1) / 2) / c
    return out


@_exact
def ewm_mean(x, begin, end, alpha):  # type: ignore[no-untyped-def]
    """Exponentially weighted mean from the instrument's first day (adjusted; a missing day ages the weights)."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        mean, weight = _NAN, 1.0
        for t in range(begin[i], end[i]):
            v = x[i, t]
            if np.isnan(mean):
                mean = v if np.isfinite(v) else _NAN
            else:
                weight *= 1.0 - alpha
                if np.isfinite(v):
                    if mean != v:
                        mean = (weight * mean + v) / (weight + 1.0)
                    weight += 1.0
            out[i, t] = mean
    return out


@_exact
def expanding_ema(x, begin, end):  # type: ignore[no-untyped-def]
    """pyqlib's ``EMA(x, 0)``: over m days so far, weights (1 - 2/(1+m))^age, scaled to sum 1."""
    out = np.full(x.shape, _NAN)
    for i in range(x.shape[0]):
        b, seen = begin[i], False
        for t in range(b, end[i]):
            seen = seen or np.isfinite(x[i, t])
            m = t - b + 1
            a = 1.0 - 2.0 / (1.0 + m)
            s, total, w = 0.0, 0.0, 1.0
            for k in range(t, b - 1, -1):
                s += w * x[i, k] if np.isfinite(x[i, k]) else 0.0
                total += w
                w *= a
            if seen:
                out[i, t] = s / total
    return out


@_exact
def scatter_rows(columns, rows, out):  # type: ignore[no-untyped-def]
    """Write ``columns`` (column, instrument, day), float32, into the rows of ``out`` (row, column), float32.

    ``rows``: int32 (instrument, day), the row that holds it or -1.
    Days go in blocks, so that the rows being written stay in the processor's cache while the columns pass by.
    """
    width, n, days = columns.shape
    for i in range(n):
        for block in range(0, days, 16):
            stop = min(block + 16, days)
            for c in range(width):
                for t in range(block, stop):
                    r = rows[i, t]
                    if r >= 0:
                        out[r, c] = columns[c, i, t]
