"""Rolling results are not affected by values that have left the window: compared with exact arithmetic, on series
chosen to make sums drift.

The reference follows the definitions, in fractions of the exact inputs of the kernels. The tolerance is a millionth of
the natural size of a result: of the result itself, or of a scale if the result can be near zero (the deviation for a
slope, 1 for a correlation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.expressions.evaluator import EvaluationPlan
from rollforge.expressions.expression import parse
from rollforge.market.provider import FieldBlock

DAYS = 3000
Window = list[tuple[int, Fraction]]
"""Position in the window, from 0, and value of each day that has a value."""


def compute(text: str, **fields: Any) -> Any:
    """Return one expression of one instrument that exists on all days."""
    days = len(next(iter(fields.values())))
    life = np.array([0]), np.array([days])
    blocks = {name: FieldBlock(np.ascontiguousarray(v, np.float64)[None], *life) for name, v in fields.items()}  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        (value,) = EvaluationPlan([parse(text)]).run(blocks, (1, days), {})
    return np.asarray(value)[0]


def root(value: Fraction) -> float:
    """Return a square root to the last digits, also of numbers far below the smallest float."""
    if value == 0:
        return 0.0
    scaled = value.numerator * 10**60 // value.denominator
    return math.isqrt(scaled * 10**40) / 1e50


def central(w: Window, power: int) -> Fraction:
    mean = sum(v for _, v in w) / Fraction(len(w))
    return sum(((v - mean) ** power for _, v in w), Fraction(0))


def deviation(w: Window) -> float:
    return root(central(w, 2) / (len(w) - 1)) if len(w) > 1 else math.nan


def line(w: Window) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Return the sums of squares of positions, of products, of squares of values, and the mean position."""
    mean_k = Fraction(sum(k for k, _ in w), len(w))
    mean_v = sum(v for _, v in w) / Fraction(len(w))
    kk = sum(((k - mean_k) ** 2 for k, _ in w), Fraction(0))
    kv = sum(((k - mean_k) * (v - mean_v) for k, v in w), Fraction(0))
    return kk, kv, central(w, 2), mean_k


Answer = tuple[float, float]
"""The exact result, and the scale to which its error is relative; NaN if the result is undefined."""
UNDEFINED = (math.nan, 1.0)


def mean(w: Window, size: int) -> Answer:
    value = float(sum(v for _, v in w) / Fraction(len(w)))
    return value, abs(value)


def total(w: Window, size: int) -> Answer:
    value = float(sum(v for _, v in w))
    return value, abs(value)


def std(w: Window, size: int) -> Answer:
    return (deviation(w), deviation(w)) if len(w) > 1 else UNDEFINED


def var(w: Window, size: int) -> Answer:
    value = float(central(w, 2) / (len(w) - 1)) if len(w) > 1 else math.nan
    return value, value


def skew(w: Window, size: int) -> Answer:
    c, m2 = len(w), central(w, 2)
    if c < 3 or m2 == 0:
        return UNDEFINED
    value = c * math.sqrt(c - 1) / (c - 2) * float(central(w, 3) / Fraction(root(m2) ** 3))
    return value, max(1.0, abs(value))


def kurt(w: Window, size: int) -> Answer:
    c, m2 = len(w), central(w, 2)
    if c < 4 or m2 == 0:
        return UNDEFINED
    value = float((c * (c + 1) * (c - 1) * central(w, 4) / m2**2 - 3 * (c - 1) ** 2) / ((c - 2) * (c - 3)))
    return value, max(1.0, abs(value))


def mad(w: Window, size: int) -> Answer:
    middle = sum(v for _, v in w) / Fraction(len(w))
    value = float(sum(abs(v - middle) for _, v in w) / len(w))
    return value, value + abs(float(middle)) * 1e-9


def wma(w: Window, size: int) -> Answer:
    value = float(sum((k + 1) * v for k, v in w) / Fraction(sum(k + 1 for k, _ in w)))
    return value, abs(value)


def slope(w: Window, size: int) -> Answer:
    if len(w) < 2:
        return UNDEFINED
    kk, kv, _, _ = line(w)
    return float(kv / kk), max(abs(float(kv / kk)), deviation(w) / math.sqrt(float(kk)))


def rsquare(w: Window, size: int) -> Answer:
    if len(w) < 2 or central(w, 2) == 0:
        return UNDEFINED
    kk, kv, vv, _ = line(w)
    return float(kv * kv / (kk * vv)), 1.0


def resi(w: Window, size: int) -> Answer:
    if len(w) < 2 or w[-1][0] != size - 1:
        return UNDEFINED
    kk, kv, _, mean_k = line(w)
    value = w[-1][1] - sum(v for _, v in w) / Fraction(len(w)) - kv / kk * (w[-1][0] - mean_k)
    return float(value), max(abs(float(value)), deviation(w))


EXACT: dict[str, Callable[[Window, int], Answer]] = {
    "Mean": mean, "Sum": total, "Std": std, "Var": var, "Skew": skew, "Kurt": kurt, "Mad": mad, "WMA": wma,
    "Slope": slope, "Rsquare": rsquare, "Resi": resi,
}  # fmt: skip


def window(x: Any, t: int, n: int) -> tuple[Window, int]:
    first = max(0, t - n + 1) if n else 0
    return [(k, Fraction(float(v))) for k, v in enumerate(x[first : t + 1]) if math.isfinite(v)], t + 1 - first


def close(ours: float, exact: float, size: float) -> bool:
    if math.isnan(exact):
        return math.isnan(ours)
    return abs(ours - exact) <= 1e-6 * size


def check(name: str, x: Any, n: int, days: Any) -> None:
    ours = compute(f"{name}($x, {n})", x=x)
    for t in days:
        w, size = window(x, t, n)
        exact, scale = EXACT[name](w, size) if w else UNDEFINED
        assert close(ours[t], exact, scale), f"{name}($x, {n}) on day {t}: {ours[t]!r}, exactly {exact!r}"


def prices() -> Any:
    """Return prices of a hundred thousand that move by a thousandth."""
    return 1e5 + np.cumsum(np.random.default_rng(1).standard_normal(DAYS) * 1e-3)


def flat_stretches() -> Any:
    """Return hundreds of days without any move, between days with large moves."""
    x = 100 * np.exp(np.cumsum(np.random.default_rng(2).standard_normal(DAYS) * 0.02))
    for start in range(200, DAYS, 700):
        x[start : start + 400] = x[start]
    return x


def gaps() -> Any:
    """Return values missing at the start, at the end, for longer than any window, and at random."""
    random = np.random.default_rng(3)
    x = 50 + np.cumsum(random.standard_normal(DAYS))
    x[random.random(DAYS) < 0.2] = np.nan
    x[:70] = x[-70:] = x[1000:1200] = np.nan
    return x


def volumes() -> Any:
    """Return volumes around 1e12, over four orders of magnitude."""
    return np.round(1e12 * np.exp(np.random.default_rng(4).standard_normal(DAYS) * 2))


def outliers() -> Any:
    """Return numbers between one and two, and occasional values that dwarf them."""
    x = np.random.default_rng(5).uniform(1, 2, DAYS)
    x[::500] = 1e12
    return x


SERIES = {f.__name__: f() for f in (prices, flat_stretches, gaps, volumes, outliers)}
SOME_DAYS = sorted(
    {0, 1, 2, 3, 4, 69, 70, 71, DAYS - 71, DAYS - 1, *np.random.default_rng(6).integers(0, DAYS, 15).tolist()}
)


@pytest.mark.parametrize("n", [5, 20, 60])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("series", SERIES)
def test_windows_are_exact_on_every_day(series: str, name: str, n: int) -> None:
    """Windows are as exact after three thousand days as on the first."""
    check(name, SERIES[series], n, SOME_DAYS)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("series", SERIES)
def test_expanding_windows_are_exact(series: str, name: str) -> None:
    """N = 0 means an expanding window."""
    check(name, SERIES[series][:400], 0, [0, 1, 5, 71, 150, 399])


@pytest.mark.parametrize("n", [5, 60, 0])
@pytest.mark.parametrize("other", ["volumes", "outliers", "flat_stretches"])
def test_correlations_are_exact(other: str, n: int) -> None:
    """Correlations are exact for prices that hardly move with a series that moves much, and NaN if one of them is
    flat."""
    x, y = SERIES["prices"], SERIES[other]
    days = [t for t in SOME_DAYS if n or t < 300]
    corr, cov = (compute(f"{name}($x, $y, {n})", x=x, y=y) for name in ("Corr", "Cov"))
    for t in days:
        (u, _), (v, _) = window(x, t, n), window(y, t, n)
        if len(u) < 2:
            continue
        mean_u, mean_v = (sum(a for _, a in w) / Fraction(len(w)) for w in (u, v))
        products = float(sum((a - mean_u) * (b - mean_v) for (_, a), (_, b) in zip(u, v, strict=True)))
        scale = deviation(u) * deviation(v) * (len(u) - 1)
        assert close(cov[t], products / (len(u) - 1), max(scale, 1e-300) / (len(u) - 1))
        flat = min(deviation(u), deviation(v)) == 0
        assert close(corr[t], math.nan if flat else products / scale, 1.0)


@pytest.mark.parametrize("level", [100.0, 137.25, 1.3725e13])
@pytest.mark.parametrize("share", [7, 13, 17, 19])
def test_shape_statistics_of_equal_values_are_missing(level: float, share: int) -> None:
    """Skewness, kurtosis, R squared and correlation are missing, slope and residual are 0; also for values that use all
    digits.
    """
    flat = np.full(200, level / share)
    other = np.arange(200.0) ** 2 % 7
    for n in (5, 20, 60, 0):
        assert np.isnan(compute(f"Skew($x, {n})", x=flat)).all()
        assert np.isnan(compute(f"Kurt($x, {n})", x=flat)).all()
        assert np.isnan(compute(f"Corr($x, $y, {n})", x=flat, y=other)).all()
        assert np.isnan(compute(f"Corr($y, $x, {n})", x=flat, y=other)).all()
        assert np.isnan(compute(f"Rsquare($x, {n})", x=flat)).all()
        assert not compute(f"Slope($x, {n})", x=flat)[1:].any()
        assert not compute(f"Resi($x, {n})", x=flat)[1:].any()


@pytest.mark.parametrize("n", [5, 20])
def test_correlations_with_gaps_are_exact(n: int) -> None:
    """Only the days on which both series have a value count."""
    x, y = SERIES["gaps"], SERIES["volumes"].copy()
    y[::3] = np.nan
    corr = compute(f"Corr($x, $y, {n})", x=x, y=y)
    for t in SOME_DAYS:
        both = [
            (Fraction(float(a)), Fraction(float(b)))
            for a, b in zip(x[max(0, t - n + 1) : t + 1], y[max(0, t - n + 1) : t + 1], strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
        u, v = ([(k, pair[i]) for k, pair in enumerate(both)] for i in range(2))
        if len(both) < 2 or min(deviation(u), deviation(v)) == 0:
            continue
        mean_u, mean_v = (sum(a for _, a in w) / Fraction(len(w)) for w in (u, v))
        products = sum((a - mean_u) * (b - mean_v) for a, b in both)
        assert close(corr[t], float(products) / (deviation(u) * deviation(v) * (len(both) - 1)), 1.0)


@pytest.mark.parametrize("series", SERIES)
def test_order_statistics_are_exact(series: str) -> None:
    """Results that depend only on comparisons are exact to the last bit."""
    x = SERIES[series]
    answers = {
        e: compute(f"{e}", x=x) for e in ("Max($x, 20)", "Min($x, 20)", "Count($x, 20)", "Rank($x, 20)", "Med($x, 20)")
    }
    for t in SOME_DAYS:
        values = [v for v in x[max(0, t - 19) : t + 1] if math.isfinite(v)]
        assert answers["Count($x, 20)"][t] == len(values)
        if not values:
            assert all(math.isnan(a[t]) for e, a in answers.items() if not e.startswith("Count"))
            continue
        assert answers["Max($x, 20)"][t] == max(values)
        assert answers["Min($x, 20)"][t] == min(values)
        assert answers["Med($x, 20)"][t] == pytest.approx(float(np.median(values)), rel=1e-12)
        if math.isfinite(x[t]):
            less, equal = sum(v < x[t] for v in values), sum(v == x[t] for v in values)
            assert answers["Rank($x, 20)"][t] == pytest.approx((less + (equal + 1) / 2) / len(values), rel=1e-12)


LEVELS = st.sampled_from([0.0, 1.0, 1e5, 1e12])
STEPS = st.sampled_from([0.0, 1e-3, 1.0, 1e3])


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(LEVELS, STEPS, st.integers(1, 12), st.booleans()), min_size=1, max_size=6),
    n=st.sampled_from([2, 3, 7, 20, 0]),
    name=st.sampled_from(["Mean", "Std", "Var", "Slope", "Resi"]),
    seed=st.integers(0, 9),
)
def test_any_mixture_of_levels_steps_and_gaps_is_exact(
    parts: list[tuple[float, float, int, bool]], n: int, name: str, seed: int
) -> None:
    """Segments of any level and step size follow each other, some of them missing."""
    random = np.random.default_rng(seed)
    x = np.concatenate([np.full(k, np.nan) if gap else a + random.integers(-9, 9, k) * b for a, b, k, gap in parts])
    check(name, x, n, range(len(x)))
