"""Compiled rolling kernels for what is measured from the window's mean: variance, skewness, lines, correlation.

Arguments and results are those of :mod:`rollforge.data.kernels`.

Nothing drifts, whatever the level of the series. Most windows are evaluated afresh for each day, on values centred on
the window's mean. Second moments (variance, correlation) are moved along from day to day around a pivot. They are
evaluated afresh, with the window's mean as the new pivot, after twice as many days as the window has; and at once when
the result is small beside the largest sum since then (below 1e-4, so that each step has cost at most 1e-12 of the
result), as with a price of 1e5 that moves by 1e-3, or an outlier that has just left the window.
"""

from __future__ import annotations

import numpy as np

from rollforge.data.compiled import NAN, exact, reordering

__all__ = ["kurt", "mad", "paired", "regression", "skew", "variance"]


@reordering
def _window_mean(w, seen):  # type: ignore[no-untyped-def]
    s = 0.0
    if seen == w.size:
        for k in range(w.size):
            s += w[k]
    else:
        for k in range(w.size):
            s += w[k] if np.isfinite(w[k]) else 0.0
    return s / seen


@reordering
def _centred_sums(w, pivot):  # type: ignore[no-untyped-def]
    s1, s2 = 0.0, 0.0
    for k in range(w.size):
        d = w[k] - pivot
        if np.isfinite(d):
            s1 += d
            s2 += d * d
    return s1, s2


@exact
def variance(x, begin, end, n, root):  # type: ignore[no-untyped-def]
    """Sample variance (ddof 1) of the window, or its root; NaN below two values, exactly 0 for equal values."""
    out = np.full(x.shape, NAN)
    for i in range(x.shape[0]):
        b, seen, same, last = begin[i], 0, 0, NAN
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


@exact
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


@exact
def skew(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Sample skewness (adjusted Fisher-Pearson, as pandas); NaN below three values."""
    out = np.full(x.shape, NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            _, m2, m3, _, c = _moments(x[i, max(b, t - n + 1) : t + 1])
            if c < 3:
                continue
            if m2 / c <= 1e-14:
                out[i, t] = NAN
            else:
                out[i, t] = c * np.sqrt(c - 1.0) / (c - 2.0) * m3 / m2**1.5
    return out


@exact
def kurt(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Sample excess kurtosis (as pandas); NaN below four values."""
    out = np.full(x.shape, NAN)
    for i in range(x.shape[0]):
        b = begin[i]
        for t in range(b, end[i]):
            _, m2, _, m4, c = _moments(x[i, max(b, t - n + 1) : t + 1])
            if c < 4:
                continue
            if m2 / c <= 1e-14:
                out[i, t] = NAN
            else:
                top = c * (c + 1.0) * (c - 1.0) * m4 / (m2 * m2) - 3.0 * (c - 1.0) ** 2
                out[i, t] = top / ((c - 2.0) * (c - 3.0))
    return out


@exact
def mad(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Mean absolute deviation from the window's mean."""
    out = np.full(x.shape, NAN)
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


@reordering
def _line_sums(w, mean_k, mean_y):  # type: ignore[no-untyped-def]
    kk, ky, yy = 0.0, 0.0, 0.0
    for k in range(w.size):
        d = w[k] - mean_y
        if np.isfinite(d):
            kk += (k - mean_k) * (k - mean_k)
            ky += (k - mean_k) * d
            yy += d * d
    return kk, ky, yy


@exact
def regression(x, begin, end, n):  # type: ignore[no-untyped-def]
    """Least-squares line through the window: slope a day, R squared, residual of the last day (NaN if missing)."""
    slope = np.full(x.shape, NAN)
    rsquare = np.full(x.shape, NAN)
    residual = np.full(x.shape, NAN)
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
            rsquare[i, t] = ky * ky / (kk * yy) if yy > 0.0 else NAN
            residual[i, t] = x[i, t] - mean_y - ky / kk * (t - first - mean_k)
    return slope, rsquare, residual


@reordering
def _pair_means(u, v):  # type: ignore[no-untyped-def]
    a, b, c = 0.0, 0.0, 0
    for k in range(u.size):
        if np.isfinite(u[k]) and np.isfinite(v[k]):
            a += u[k]
            b += v[k]
            c += 1
    return a / c, b / c


@reordering
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


@exact
def _is_flat(w, seen, flat):  # type: ignore[no-untyped-def]
    """Whether the standard deviation of all values in the window, paired or not, is at most `flat`."""
    if seen < 2:
        return False
    s1, s2 = _centred_sums(w, _window_mean(w, seen))
    return np.sqrt(max(s2 - s1 * s1 / seen, 0.0) / (seen - 1)) <= flat


@exact
def paired(x, y, begin, end, n, flat, scaled):  # type: ignore[no-untyped-def]  # noqa: C901
    """Sample covariance (ddof 1; `scaled`: correlation) over the days of the window on which both have a value.

    NaN where the standard deviation of `x` or of `y` in the window is at most `flat`; a negative `flat` asks for none.
    """
    out = np.full(x.shape, NAN)
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
