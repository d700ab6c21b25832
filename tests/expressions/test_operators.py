"""Operators on small arrays, compared with pandas' windows and exact fractions, and at the ends of an instrument's
days.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings, strategies as st

from rollforge.errors import ConfigError, DataError, ExpressionError
from rollforge.expressions import operators
from rollforge.expressions.evaluator import EvaluationPlan
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import (
    custom_operators,
    lookahead,
    lookback,
    register_operator,
    unregister_operator,
)
from rollforge.market.provider import FieldBlock

NAN = math.nan


def compute(text: str, begin: int = 0, end: int | None = None, **fields: Any) -> np.ndarray[Any, Any]:
    """Return one expression of one instrument that exists on the days [begin, end)."""
    days = len(next(iter(fields.values())))
    life = np.array([begin], np.int64), np.array([days if end is None else end], np.int64)
    blocks = {k: FieldBlock(np.ascontiguousarray(v)[None], *life) for k, v in fields.items()}
    with np.errstate(all="ignore"):
        (value,) = EvaluationPlan([parse(text)]).run(blocks, (1, days), {})
    return np.asarray(value)[0]


def windows(pandas: pd.Series, n: int) -> Any:
    return pandas.expanding(min_periods=1) if n == 0 else pandas.rolling(n, min_periods=1)


def weighted(x: Any) -> float:
    there = ~np.isnan(x)
    return float(np.average(x[there], weights=np.arange(1, len(x) + 1)[there]))


def absolute_deviation(x: Any) -> float:
    x = x[~np.isnan(x)]
    return float(np.mean(np.abs(x - x.mean())))


def growing_ema(x: Any) -> float:
    w = (1 - 2 / (1 + len(x))) ** np.arange(len(x))[::-1]
    there = ~np.isnan(x)
    return float(np.nansum(w * x) / w[there].sum()) if w[there].any() else float(x[there][-1])


PANDAS = {
    "Mean": lambda s, n: windows(s, n).mean(),
    "Sum": lambda s, n: windows(s, n).sum(),
    "Std": lambda s, n: windows(s, n).std(),
    "Var": lambda s, n: windows(s, n).var(),
    "Max": lambda s, n: windows(s, n).max(),
    "Min": lambda s, n: windows(s, n).min(),
    "Med": lambda s, n: windows(s, n).median(),
    "Count": lambda s, n: windows(s, n).count(),
    "Rank": lambda s, n: windows(s, n).rank(pct=True),
    "IdxMax": lambda s, n: windows(s, n).apply(lambda x: x.argmax() + 1, raw=True),
    "IdxMin": lambda s, n: windows(s, n).apply(lambda x: x.argmin() + 1, raw=True),
    "Mad": lambda s, n: windows(s, n).apply(absolute_deviation, raw=True),
    "WMA": lambda s, n: windows(s, n).apply(weighted, raw=True),
    "EMA": lambda s, n: (
        s.ewm(span=n, min_periods=1).mean() if n else s.expanding(min_periods=1).apply(growing_ema, raw=True)
    ),
    "Ref": lambda s, n: s.shift(n) if n else pd.Series(s.iloc[0], s.index),
    "Delta": lambda s, n: s - (s.shift(n) if n else s.iloc[0]),
}

quarters = st.integers(-32, 32).map(lambda k: k / 4)
gappy = st.lists(st.one_of(quarters, quarters, st.just(NAN)), min_size=1, max_size=24)


@pytest.mark.parametrize("name", sorted(PANDAS))
@settings(max_examples=60, deadline=None)
@given(values=gappy, n=st.integers(0, 7))
def test_windows_equal_pandas_windows(name: str, values: list[float], n: int) -> None:
    """Each rolling operator gives pandas' value with min_periods=1, for windows of every length and with gaps."""
    series = pd.Series(values)
    np.testing.assert_allclose(
        compute(f"{name}($x, {n})", x=values), PANDAS[name](series, n).to_numpy(float), rtol=1e-12, atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(values=gappy, n=st.sampled_from([0, 3, 4, 6]), q=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
def test_quantiles_interpolate_as_in_pandas(values: list[float], n: int, q: float) -> None:
    """Quantiles between two values are interpolated linearly."""
    expected = windows(pd.Series(values), n).quantile(q).to_numpy()
    np.testing.assert_allclose(compute(f"Quantile($x, {n}, {q})", x=values), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(values=gappy, n=st.sampled_from([0, 4, 5, 9]))
def test_skewness_and_kurtosis_as_in_pandas(values: list[float], n: int) -> None:
    """Skewness and kurtosis are corrected for small samples like pandas', and missing if all values are equal."""
    series = pd.Series(values)
    varies = windows(series, n).max().to_numpy() > windows(series, n).min().to_numpy()
    # Each window separately: in pandas before 3.1 the running sums can treat a window as constant that is not.
    for name, of_one in (("Skew", pd.Series.skew), ("Kurt", pd.Series.kurt)):
        expected = windows(series, n).apply(of_one, raw=False)
        got = compute(f"{name}($x, {n})", x=values)
        np.testing.assert_allclose(got[varies], expected.to_numpy()[varies], rtol=1e-8, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.sampled_from([0, 2, 3, 5]))
def test_covariance_and_correlation_equal_pandas(data: st.DataObject, n: int) -> None:
    """Covariance and correlation use the days on which both series have a value; correlation is missing if one of them
    is constant on these days."""
    x = data.draw(st.lists(st.one_of(quarters, st.just(NAN)), min_size=2, max_size=20))
    y = data.draw(st.lists(st.one_of(quarters, st.just(NAN)), min_size=len(x), max_size=len(x)))
    a, b = pd.Series(x), pd.Series(y)
    cov = windows(a, n).cov(b).to_numpy()
    np.testing.assert_allclose(compute(f"Cov($x, $y, {n})", x=x, y=y), cov, rtol=1e-10, atol=1e-10)
    got = compute(f"Corr($x, $y, {n})", x=x, y=y)
    for t in range(len(x)):
        u, v = a[max(0, t - n + 1) if n else 0 : t + 1], b[max(0, t - n + 1) if n else 0 : t + 1]
        both = u.notna() & v.notna()
        if both.sum() > 1 and u[both].nunique() > 1 and v[both].nunique() > 1:
            assert got[t] == pytest.approx(np.corrcoef(u[both], v[both])[0, 1], abs=1e-9)
        else:
            assert math.isnan(got[t])


# Prices of 1e5 that move by thousandths, volumes of 1e12, flat stretches, outliers, gaps.
wild = st.lists(
    st.one_of(
        st.integers(-5, 5).map(lambda k: 1e5 + k / 1024),
        st.just(1e5),
        st.integers(0, 10**12).map(float),
        st.just(0.0),
        st.just(NAN),
    ),
    min_size=2,
    max_size=26,
)
OUTLIER_LEAVES = [1e12, 1e5, 1e5 + 0.25, 1e5, 1e5 + 0.5, 1e5, 1e5, 1e5 + 1 / 1024, 1e5, 1e5]


def exact(values: list[float], n: int) -> Iterator[tuple[int, list[tuple[int, Fraction]]]]:
    """Return the day and the (position, value) pairs of its window."""
    for t in range(len(values)):
        first = max(0, t - n + 1) if n else 0
        yield t, [(k, Fraction(values[k])) for k in range(first, t + 1) if not math.isnan(values[k])]


@settings(max_examples=80, deadline=None)
@given(values=wild, n=st.integers(0, 9))
@example(values=OUTLIER_LEAVES, n=3)
def test_sums_are_not_affected_by_values_that_left_the_window(values: list[float], n: int) -> None:
    """A sum over 1e-3 is right to the last digit after 1e12 has passed through its window."""
    got, mean = compute(f"Sum($x, {n})", x=values), compute(f"Mean($x, {n})", x=values)
    for t, window in exact(values, n):
        if not window:
            assert math.isnan(got[t])
            continue
        total = sum(v for _, v in window)
        assert abs(Fraction(got[t]) - total) <= abs(total) * Fraction(3e-16) + Fraction(1e-18)
        assert abs(Fraction(mean[t]) * len(window) - total) <= abs(total) * Fraction(6e-16) + Fraction(1e-17)


@settings(max_examples=80, deadline=None)
@given(values=wild, n=st.integers(0, 9))
@example(values=OUTLIER_LEAVES, n=3)
def test_variances_keep_nine_digits_at_any_level(values: list[float], n: int) -> None:
    """Variance agrees with exact fractions, and is exactly zero if all values are equal."""
    got = compute(f"Var($x, {n})", x=values)
    for t, window in exact(values, n):
        if len(window) < 2:
            assert math.isnan(got[t])
            continue
        mean = sum(v for _, v in window) / len(window)
        variance = sum((v - mean) ** 2 for _, v in window) / (len(window) - 1)
        assert abs(Fraction(got[t]) - variance) <= variance * Fraction(1e-9)


@settings(max_examples=80, deadline=None)
@given(values=wild, n=st.integers(2, 9))
@example(values=OUTLIER_LEAVES, n=4)
def test_lines_are_fitted_exactly_at_any_level(values: list[float], n: int) -> None:
    """Slope, R squared and residual agree with exact fractions; gaps keep their position in time."""
    slope, rsquare, residual = (compute(f"{f}($x, {n})", x=values) for f in ("Slope", "Rsquare", "Resi"))
    for t, window in exact(values, n):
        if len(window) < 2:
            assert math.isnan(slope[t])
            assert math.isnan(residual[t])
            continue
        c = len(window)
        mk, mv = Fraction(sum(k for k, _ in window), c), sum(v for _, v in window) / c
        kk = sum((k - mk) ** 2 for k, _ in window)
        kv = sum((k - mk) * (v - mv) for k, v in window)
        vv = sum((v - mv) ** 2 for _, v in window)
        scale = math.sqrt(float(vv))
        assert slope[t] == pytest.approx(float(kv / kk), abs=1e-9 * scale / math.sqrt(float(kk)) + 1e-11)
        if math.isnan(values[t]):
            assert math.isnan(residual[t])
        else:
            left = Fraction(values[t]) - mv - kv / kk * (t - mk)
            assert residual[t] == pytest.approx(float(left), abs=1e-9 * scale + 3e-11)
        if vv == 0:
            assert math.isnan(rsquare[t])
        else:
            assert rsquare[t] == pytest.approx(float(kv * kv / (kk * vv)), abs=1e-7)


def test_nothing_drifts_over_twenty_thousand_days() -> None:
    """After eighty years, including jumps and a spike, windows are as exact as on the first day."""
    rng = np.random.default_rng(7)
    x = 1e5 + np.cumsum(rng.normal(0, 1e-3, 20_000))
    x[9_000:] += 4e4
    x[15_000] = 1e13
    y = np.abs(rng.normal(1e12, 1e11, x.size))
    for n in (5, 60, 250):
        std, mean = compute(f"Std($x, {n})", x=x), compute(f"Mean($x, {n})", x=x)
        corr = compute(f"Corr($x, $y, {n})", x=x, y=y)
        for t in (n, 8_999, 9_003, 14_999, 15_000 + n, 19_999):
            w, v = x[t - n + 1 : t + 1], y[t - n + 1 : t + 1]
            centred = w.astype(np.longdouble) - w.astype(np.longdouble).mean()
            assert mean[t] == pytest.approx(float(w.astype(np.longdouble).mean()), rel=1e-15)
            assert std[t] == pytest.approx(float(np.sqrt((centred**2).sum() / (n - 1))), rel=1e-9)
            other = v.astype(np.longdouble) - v.astype(np.longdouble).mean()
            exactly = (centred * other).sum() / np.sqrt((centred**2).sum() * (other**2).sum())
            assert corr[t] == pytest.approx(float(exactly), abs=1e-9)


EVERY_ROLLING = [
    "Mean($x,3)", "Sum($x,3)", "Std($x,3)", "Var($x,0)", "Skew($x,4)", "Kurt($x,5)", "Max($x,3)", "Min($x,0)",
    "IdxMax($x,3)", "IdxMin($x,3)", "Med($x,3)", "Mad($x,3)", "Quantile($x,3,0.3)", "Rank($x,3)", "Count($x,3)",
    "Slope($x,3)", "Rsquare($x,4)", "Resi($x,3)", "WMA($x,3)", "EMA($x,3)", "EMA($x,0.3)", "EMA($x,0)",
    "Corr($x,$y,4)", "Cov($x,$y,3)", "Ref($x,1)", "Ref($x,-2)", "Ref($x,0)", "Delta($x,2)",
    "Count($x>$y,3)", "Mean(If($x>$y,1,0),3)",
]  # fmt: skip


@pytest.mark.parametrize("text", EVERY_ROLLING)
def test_days_outside_an_instruments_life_do_not_count(text: str) -> None:
    """An instrument that exists on days 3 to 11 has the same values as if there were no other days."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=15), rng.normal(size=15)
    x[6] = np.nan
    long = compute(text, begin=3, end=12, x=x, y=y)
    np.testing.assert_array_equal(long[3:12], compute(text, x=x[3:12].copy(), y=y[3:12].copy()))
    assert np.isnan(long[:3]).all()
    assert np.isnan(long[12:]).all()


def test_windows_treat_infinities_as_missing() -> None:
    """Windows treat infinities as missing, as pandas' windows do, except when counting."""
    x = [1.0, math.inf, 3.0]
    assert compute("Mean($x,3)", x=x).tolist() == [1.0, 1.0, 2.0]
    assert compute("Max($x,3)", x=x).tolist() == [1.0, 1.0, 3.0]
    assert compute("Count($x,3)", x=x).tolist() == [1.0, 2.0, 3.0]


WINDOWS = [f"{name}($x,{n})" for name in ("Mean", "Sum", "Std", "Var", "Skew", "Kurt", "Mad", "Rank", "WMA", "Max", "Min",
           "IdxMax", "IdxMin", "Med", "Rsquare", "Resi", "Slope", "EMA") for n in (5, 0)]  # fmt: skip


@pytest.mark.parametrize("text", [*WINDOWS, "Quantile($x,5,0.2)", "Corr($x,$y,5)", "Cov($x,$y,5)", "EMA($x,0.3)"])
def test_every_window_ignores_infinities(text: str) -> None:
    """An infinite value changes a result no more than a missing one, on its own day and on those that follow."""
    rng = np.random.default_rng(8)
    for flat in (False, True):
        x, y = (np.full(40, 2.0) if flat else rng.integers(1, 9, 40).astype(float)), rng.normal(size=40)
        missing = np.where(rng.random(40) < 0.3, np.nan, x)
        infinite = np.where(np.isnan(missing), rng.choice([math.inf, -math.inf], 40), x)
        np.testing.assert_array_equal(compute(text, x=infinite, y=y), compute(text, x=missing, y=y), err_msg=text)


def test_elementwise_operators_keep_float32() -> None:
    """float32 combined with a plain number stays float32 as in numpy, and windows return float64, as in pyqlib."""
    x = np.array([1.5, 2.5], np.float32)
    for text in ("$x*2+1", "Log($x+1)", "Greater($x,2)", "If($x>2,$x,0.5)", "Power($x,2)", "Sign($x)", "Ref($x,1)"):
        assert compute(text, x=x).dtype == np.float32, text
    assert compute("Mean($x,2)", x=x).dtype == np.float64


def test_elementwise_operators() -> None:
    """One example of each operator that uses a single day."""
    x, y = np.array([-2.0, 0.0, 3.0, NAN]), np.array([1.0, 0.0, 2.0, 1.0])
    expected = {
        "Abs($x)": [2, 0, 3, NAN], "Sign($x)": [-1, 0, 1, NAN], "Log($y)": [0, -math.inf, math.log(2), 0],
        "Power($x,2)": [4, 0, 9, NAN], "$x+$y": [-1, 0, 5, NAN], "$x-$y": [-3, 0, 1, NAN], "$x*$y": [-2, 0, 6, NAN],
        "$x/$y": [-2, NAN, 1.5, NAN], "$x//$y": [-2, NAN, 1, NAN], "$x%2": [0, 0, 1, NAN], "-$x": [2, 0, -3, NAN],
        "Greater($x,$y)": [1, 0, 3, NAN], "Less($x,$y)": [-2, 0, 2, NAN], "$x>$y": [0, 0, 1, 0],
        "$x>=$y": [0, 1, 1, 0], "$x<$y": [1, 0, 0, 0], "$x<=$y": [1, 1, 0, 0], "$x==$y": [0, 1, 0, 0],
        "$x!=$y": [1, 0, 1, 1], "~($x>$y)": [1, 1, 0, 1], "($x>$y)|($x==0)": [0, 1, 1, 0],
        "($x>=$y)&($x==0)": [0, 1, 0, 0], "If($x>$y,$x,$y)": [1, 0, 3, 1], "($x>=$y)-($x>$y)": [0, 1, 0, 0],
        "2-$x": [4, 2, -1, NAN], "1/$y": [1, math.inf, 0.5, 1], "2**$y": [2, 1, 4, 2],
    }  # fmt: skip
    for text, values in expected.items():
        np.testing.assert_array_equal(compute(text, x=x, y=y).astype(float), values, err_msg=text)


def test_symbols_and_names_of_operators_are_equivalent() -> None:
    """The symbol and the name of an operator give the same result."""
    x, y = np.array([-2.0, 0.0, 3.0, NAN]), np.array([1.0, 0.0, 2.0, 1.0])
    signs = {
        "Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "Power": "**",
        "Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<=", "Eq": "==", "Ne": "!=",
    }  # fmt: skip
    for name, sign in signs.items():
        by_name, by_sign = compute(f"{name}($x,$y)", x=x, y=y), compute(f"$x{sign}$y", x=x, y=y)
        np.testing.assert_array_equal(by_name, by_sign, err_msg=name)


def test_cached_results_of_constants_are_not_reused() -> None:
    """Temporary arrays of constants share no cached results with arrays that are later allocated at the same address."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=50)
    text = "+".join(f"(Corr({k}, $x, 5) > 2) + Std($x*{k}, 5)" for k in range(1, 12))
    expected = sum(pd.Series(x * k).rolling(5, min_periods=1).std() for k in range(1, 12))
    np.testing.assert_allclose(compute(text, x=x), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "back", "ahead"),
    [
        ("$close", 0, 0),
        ("Ref($close, -2)/Ref($close, -1) - 1", 0, 2),
        ("Mean(Ref($close, 1), 20)", 20, 0),
        ("Ref(Ref($close, -5), 3)", 3, 2),
        ("Ref(Mean($close, 5), -2)", 2, 2),
        ("Corr($close, Ref($volume, 10), 20)", 29, 0),
        ("EMA($close, 12)", math.inf, 0),
        ("Mean($close, 0) + Ref($close, -1)", math.inf, 1),
        ("Delta($close, -3)", 0, 3),
        ("Mask(Ref($close, -4), 'x')", 0, 4),
    ],
)
def test_lookback_and_lookahead(text: str, back: float, ahead: int) -> None:
    """Past and future days add up through nested operators; the widest branch counts."""
    tree = parse(text)
    assert lookback(tree) == back
    assert lookahead(tree) == ahead


@pytest.fixture
def demean() -> Iterator[None]:
    register_operator(
        "Demean", lambda s, x, n: x - compute(f"Mean($x, {n})", x=x[0])[None], arguments="xn", look="window"
    )
    yield
    unregister_operator("Demean")


@pytest.mark.usefixtures("demean")
def test_a_registered_operator_is_part_of_the_language() -> None:
    """A registered operator is parsed, checks its arguments, is computed, and has a look-back."""
    got = compute("Demean($x*2, 2)+1", x=np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(got, [1.0, 2.0, 3.0])
    assert lookback(parse("Demean($x, 5)")) == 4
    with pytest.raises(ExpressionError, match="2 arguments"):
        parse("Demean($x)")


def test_additional_lookback_and_lookahead_of_an_operator() -> None:
    """Those of a registered operator are added to those of its arguments."""
    register_operator("Peek", lambda s, x: x, lookback=3, lookahead=2)
    try:
        tree = parse("Peek(Ref($close, -1))")
        assert (lookback(tree), lookahead(tree)) == (3, 3)
    finally:
        unregister_operator("Peek")
    with pytest.raises(ExpressionError, match="unknown operator 'Peek'"):
        parse("Peek(Ref($close, -1))")


def test_the_code_mark_of_an_operator_changes_with_its_code() -> None:
    """Constants, defaults and closure values are part of the mark, so that no cached value outlives them."""

    def made(factor: int) -> Any:
        return lambda s, x: x * factor

    marks = []
    for function in (
        lambda s, x: x * 2,
        lambda s, x: x * 3,
        made(2),
        made(3),
        lambda s, x, k=2: x,
        lambda s, x, k=3: x,
    ):
        register_operator("Scale", function)
        marks.append(custom_operators()["Scale"])
        unregister_operator("Scale")
    assert len(set(marks)) == len(marks)
    assert "Scale" not in custom_operators()


@pytest.mark.parametrize("name", ["Mean", "TResample", "Feature", "Rolling", "two words", ""])
def test_names_of_the_language_are_taken(name: str) -> None:
    """An operator cannot replace a built-in one, and needs a valid name."""
    with pytest.raises(ConfigError):
        register_operator(name, lambda s, x: x)


def test_an_invalid_description_of_an_operator_is_refused() -> None:
    """An unknown look, unknown argument letters, an operator without a series, or a negative look-back."""
    for options in ({"look": "windo"}, {"arguments": "y"}, {"arguments": "n"}, {"lookback": -1}):
        with pytest.raises(ConfigError):
            register_operator("Mine", lambda s, x: x, **options)  # type: ignore[arg-type]
    assert "Mine" not in operators.operator_names()


def test_built_in_operators_cannot_be_removed() -> None:
    """unregister_operator removes only the user's operators."""
    with pytest.raises(ConfigError, match="not a registered operator"):
        unregister_operator("Mean")


def test_a_name_belongs_to_one_function() -> None:
    """A function registered again replaces itself, as in a notebook; another function needs another name."""
    register_operator("Mine", lambda s, x: x)
    try:
        with pytest.raises(ConfigError, match="'Mine' already exists"):
            register_operator("Mine", lambda s, x: 2 * x)
    finally:
        unregister_operator("Mine")
    for _ in range(2):
        register_operator("Mine", np.positive)
    unregister_operator("Mine")


def _blend(a, b, weight=0.5, power=1):  # type: ignore[no-untyped-def]
    """An operator whose arguments have names."""


@pytest.fixture
def blend() -> Iterator[None]:
    operators.add_operator(operators.Operator("Blend", _blend, "", signature=inspect.signature(_blend)))
    yield
    unregister_operator("Blend")


@pytest.mark.usefixtures("blend")
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Blend($x, $y)", "Blend($x, $y)"),
        ("Blend(b=$y, a=$x)", "Blend($x, $y)"),
        ("Blend($x, weight=0.25, b=Ref($y, 1))", "Blend($x, Ref($y, 1), 0.25)"),
        ("Blend($x, $y, power=2)", "Blend($x, $y, 0.5, 2)"),
        ("Blend($x)", "Blend(a, b, weight=0.5, power=1): missing a required argument: 'b'"),
        ("Blend($x, $y, scale=2)", "Blend(a, b, weight=0.5, power=1): got an unexpected keyword argument 'scale'"),
        ("Blend(1, 2)", "Blend needs an expression among its arguments"),
    ],
)
def test_arguments_of_an_operator_with_a_signature(text: str, meaning: str) -> None:
    """Arguments are given by position or, in any order, by name, as in a call of the function; errors show its signature."""
    try:
        got = str(parse(text))
    except ExpressionError as exc:
        got = str(exc).partition(" at position")[0]
    assert got == meaning


def test_an_operator_that_returns_another_shape_is_named() -> None:
    """A registered function must return a value for every instrument and day."""
    register_operator("Last", lambda s, x: x[:, -1])
    try:
        with pytest.raises(DataError, match="Last must return an array of shape"):
            compute("Last($x)", x=np.ones(4))
    finally:
        unregister_operator("Last")


@pytest.mark.parametrize(("text", "expected"), [("Power($x > 2, -1)", [math.inf, 1]), ("Power($x > 2, 2)", [0, 1])])
def test_conditions_may_be_raised_to_a_power(text: str, expected: list[float]) -> None:
    """Conditions count as the numbers 0 and 1; NumPy refuses a negative power of them."""
    assert compute(text, x=np.array([1, 3], np.float32)).tolist() == expected
