"""Compiled rolling kernels for statistics around the window's mean: variance, skewness, regression, correlation.

Arguments and results are those of :mod:`rollforge.expressions.kernels`.

Rounding errors do not accumulate, whatever the level of the series. Third and fourth moments and absolute deviations
are recomputed for each day, on values centred on the window's mean. Second moments (variance, regression, correlation)
are updated from day to day around a pivot. They are recomputed, with the window's mean as the new pivot, after twice as
many days as the window has, and immediately if the result is small relative to the largest sum since then (below 1e-4,
so that each update has cost at most 1e-12 of the result): for example a price of 1e5 that moves by 1e-3, or an outlier
that has just left the window.

Statistics that are undefined for constant values (R squared, correlation, skewness, kurtosis) are missing if the
standard deviation is at most `FLAT` times the mean: equal values, up to the rounding of float64. All thresholds are
relative to the values, so that no result depends on the unit of its input.

Counts are floats, because sums are divided by them, and because an integer that starts as a literal makes numba compile
helpers twice.
"""

from __future__ import annotations

import numpy as np

from rollforge.expressions.jit import NAN, exact, reordering

__all__ = ["FLAT", "kurt", "mad", "paired", "regression", "skew", "variance"]

FLAT = 1e-15
"""A window is flat if its standard deviation is at most this share of its mean. Float32 values that differ at all are
far above it (one value in 3,000 that differs by its last digit: 1e-9); values that differ in the last digit of float64
are below."""


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
def variance(x, begin, end, n, root, out):  # type: ignore[no-untyped-def]  # noqa: C901
    """Sample variance (ddof 1) of the window, or its square root; NaN below two values, exactly 0 for equal values."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, seen, same, last = begin[i], 0.0, 0.0, NAN
        pivot, s1, s2, peak, left = 0.0, 0.0, 0.0, 0.0, 0.0
        for t in range(b, end[i]):
            v = x[i, t]
            if np.isfinite(v):
                seen += 1.0
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
                left = 0.0
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
                out[i, t] = m2 / (seen - 1)
        if root:  # in a loop of its own, with vector instructions
            for t in range(x.shape[1]):
                out[i, t] = np.sqrt(out[i, t])


@reordering
def _central_moments(w, mean):  # type: ignore[no-untyped-def]
    s1, m2, m3, m4 = 0.0, 0.0, 0.0, 0.0
    for k in range(w.size):
        d = w[k] - mean
        if np.isfinite(d):
            s1 += d
            m2 += d * d
            m3 += d * d * d
            m4 += d * d * d * d
    return s1, m2, m3, m4


@exact
def skew(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Sample skewness (adjusted Fisher-Pearson, as pandas); NaN below three values."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, c, same, last = begin[i], 0.0, 0.0, NAN
        for t in range(b, end[i]):
            v = x[i, t]
            if np.isfinite(v):
                c += 1.0
                same = same + 1 if v == last else 1
                last = v
            if t - n >= b and np.isfinite(x[i, t - n]):
                c -= 1
            if c < 3 or same >= c:  # undefined for equal values, whatever the rounding of their mean
                continue
            w = x[i, max(b, t - n + 1) : t + 1]
            mean = _window_mean(w, c)
            s1, m2, m3, _ = _central_moments(w, mean)
            if m2 - s1 * s1 / c > c * (FLAT * mean) ** 2:
                out[i, t] = c * np.sqrt(c - 1.0) / (c - 2.0) * m3 / m2**1.5


@exact
def kurt(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Sample excess kurtosis (as pandas); NaN below four values."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, c, same, last = begin[i], 0.0, 0.0, NAN
        for t in range(b, end[i]):
            v = x[i, t]
            if np.isfinite(v):
                c += 1.0
                same = same + 1 if v == last else 1
                last = v
            if t - n >= b and np.isfinite(x[i, t - n]):
                c -= 1
            if c < 4 or same >= c:  # undefined for equal values, whatever the rounding of their mean
                continue
            w = x[i, max(b, t - n + 1) : t + 1]
            mean = _window_mean(w, c)
            s1, m2, _, m4 = _central_moments(w, mean)
            if m2 - s1 * s1 / c > c * (FLAT * mean) ** 2:
                top = c * (c + 1.0) * (c - 1.0) * m4 / (m2 * m2) - 3.0 * (c - 1.0) ** 2
                out[i, t] = top / ((c - 2.0) * (c - 3.0))


@reordering
def _distances(w, mean):  # type: ignore[no-untyped-def]
    s = 0.0
    for k in range(w.size):
        s += abs(w[k] - mean) if np.isfinite(w[k]) else 0.0
    return s


@exact
def mad(x, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Mean absolute deviation from the window's mean."""
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, c = begin[i], 0.0
        for t in range(b, end[i]):
            c += 1 if np.isfinite(x[i, t]) else 0
            if t - n >= b and np.isfinite(x[i, t - n]):
                c -= 1
            if c > 0:
                w = x[i, max(b, t - n + 1) : t + 1]
                out[i, t] = _distances(w, _window_mean(w, c)) / c


@reordering
def _line_sums(w, pivot):  # type: ignore[no-untyped-def]
    s1, s2, sk, skk, sky = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(w.size):
        d = w[j] - pivot
        if np.isfinite(d):
            k = j - (w.size - 1) / 2
            s1 += d
            s2 += d * d
            sk += k
            skk += k * k
            sky += k * d
    return s1, s2, sk, skk, sky


@exact
def regression(x, begin, end, n, rsquare, residual, slope):  # type: ignore[no-untyped-def]  # noqa: C901
    """Least-squares line through the window: R squared, residual of the last day (NaN if missing), slope per day.

    R squared of a flat window is NaN; slope and residual of equal values are exactly 0.
    """
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            rsquare[i, t] = NAN
            residual[i, t] = NAN
            slope[i, t] = NAN
        b, c, left, origin, same, last = begin[i], 0.0, 0.0, float(begin[i]), 0.0, NAN
        pivot, s1, s2, sk, skk, sky, peak = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for t in range(b, end[i]):
            for step in range(2):  # the day that enters, then the one that leaves
                at = t - n if step else t
                if at < b:
                    break
                d = x[i, at] - pivot
                if np.isfinite(d):
                    k = at - origin
                    sign = -1.0 if step else 1.0
                    c += sign
                    if step == 0:
                        same = same + 1 if x[i, at] == last else 1
                        last = x[i, at]
                    s1 += sign * d
                    s2 += sign * (d * d)
                    sk += sign * k
                    skk += sign * (k * k)
                    sky += sign * (k * d)
                    peak = max(peak, s2)
            left -= 1
            if c < 2:
                left = 0.0
                continue
            if same >= c:
                slope[i, t] = 0.0
                residual[i, t] = x[i, t] - x[i, t]  # NaN if missing or infinite
                continue
            yy, kk, ky = s2 - s1 * s1 / c, skk - sk * sk / c, sky - sk * s1 / c
            if left < 0 or not (yy > 1e-4 * peak and ky * ky > 1e-8 * kk * yy):
                w = x[i, max(b, t - n + 1) : t + 1]
                pivot, origin = _window_mean(w, c), t - (w.size - 1) / 2
                s1, s2, sk, skk, sky = _line_sums(w, pivot)
                yy, kk, ky = max(s2 - s1 * s1 / c, 0.0), skk - sk * sk / c, sky - sk * s1 / c
                peak, left = s2, 2 * c
            slope[i, t] = ky / kk
            if yy > c * (FLAT * pivot) ** 2:
                rsquare[i, t] = ky * ky / (kk * yy)
            if np.isfinite(x[i, t]):  # two points define their line
                residual[i, t] = x[i, t] - pivot - s1 / c - ky / kk * (t - origin - sk / c) if c > 2 else 0.0


@reordering
def _pair_means(u, v):  # type: ignore[no-untyped-def]
    a, b, c = 0.0, 0.0, 0.0
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
def paired(x, y, begin, end, n, scaled, scale, out):  # type: ignore[no-untyped-def]  # noqa: C901
    """Sample covariance (ddof 1) over the days of the window on which both series have a value.

    `scaled` gives the correlation instead, which is NaN if one of the two is flat on these days. `scale` is memory to
    work in: float64, (days,).
    """
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i, t] = NAN
        b, c, left = begin[i], 0.0, 0.0
        pu, pv, su, sv, suu, svv, suv, peak_u, peak_v = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for t in range(b, end[i]):
            for step in range(2):  # the day that enters, then the one that leaves
                at = t - n if step else t
                if at < b:
                    break
                du, dv = x[i, at] - pu, y[i, at] - pv
                if np.isfinite(du) and np.isfinite(dv):
                    sign = -1.0 if step else 1.0
                    c += sign
                    su += sign * du
                    sv += sign * dv
                    suu += sign * (du * du)
                    svv += sign * (dv * dv)
                    suv += sign * (du * dv)
                    peak_u, peak_v = max(peak_u, suu), max(peak_v, svv)
            left -= 1
            if c < 2:
                left = 0.0
                continue
            uu, vv = suu - su * su / c, svv - sv * sv / c
            if left < 0 or not (uu > 1e-4 * peak_u and vv > 1e-4 * peak_v):
                u, v = x[i, max(b, t - n + 1) : t + 1], y[i, max(b, t - n + 1) : t + 1]
                pu, pv = _pair_means(u, v)
                su, sv, suu, svv, suv = _pair_sums(u, v, pu, pv)
                uu, vv = max(suu - su * su / c, 0.0), max(svv - sv * sv / c, 0.0)
                peak_u, peak_v, left = suu, svv, 2 * c
            uv = suv - su * sv / c
            if not scaled:
                out[i, t] = uv / (c - 1)
            elif uu > c * (FLAT * pu) ** 2 and vv > c * (FLAT * pv) ** 2:
                out[i, t], scale[t] = uv, uu * vv
        if scaled:  # in a loop of its own, with vector instructions; days without a result stay NaN
            for t in range(x.shape[1]):
                out[i, t] = out[i, t] / np.sqrt(scale[t])
