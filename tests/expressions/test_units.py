"""No result depends on the unit of its input: prices in millionths and in billions give the same shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.expressions.evaluator import EvaluationPlan
from rollforge.expressions.expression import parse
from rollforge.features.alpha import alpha158_fields, alpha360_fields
from rollforge.features.processor import (
    CSRankNorm,
    CSZFillna,
    CSZScoreNorm,
    Fillna,
    MinMaxNorm,
    ProcessInf,
    Processor,
    RobustZScoreNorm,
    ZScoreNorm,
)
from rollforge.market.provider import FieldBlock

DAYS = 300
POWERS_OF_TEN = range(-9, 10, 3)
POWERS_OF_TWO = (
    -30,
    -11,
    7,
    30,
)  # 1e-9 to 1e9; multiplying by them is exact, so that results are exactly equal


def walk() -> Any:
    """Return prices that move by two percent a day, with gaps."""
    x = 10 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.02, DAYS)))
    x[40:43] = x[90] = np.nan
    return x


def fund() -> Any:
    """Return a price near 1.00 that moves by millionths."""
    return 1 + np.round(np.cumsum(np.random.default_rng(2).normal(1e-6, 5e-6, DAYS)), 7)


def returns() -> Any:
    """Return daily returns of the fund."""
    x = fund()
    return np.concatenate([[np.nan], x[1:] / x[:-1] - 1])


def resting() -> Any:
    """Return weeks of a constant price, between days on which it moves."""
    x = walk()
    for start in range(5, DAYS, 60):
        x[start : start + 35] = x[start]
    return x


SERIES = {f.__name__: f() for f in (walk, fund, returns, resting)}
OTHER = np.random.default_rng(3).integers(100, 10_000, DAYS).astype(float)
# Operator -> the power of the unit in which its result is measured.
DEGREES = {
    "Mean": 1, "Sum": 1, "Std": 1, "Var": 2, "Max": 1, "Min": 1, "Med": 1, "Mad": 1, "Slope": 1, "Resi": 1, "WMA": 1,
    "EMA": 1, "Ref": 1, "Delta": 1, "Skew": 0, "Kurt": 0, "Rank": 0, "Count": 0, "IdxMax": 0, "IdxMin": 0, "Rsquare": 0,
}  # fmt: skip
EXPRESSIONS = {f"{name}($x, {n})": degree for name, degree in DEGREES.items() for n in (5, 20, 0)} | {
    "Corr($x, $y, 5)": 0, "Corr($y, $x, 20)": 0, "Corr($x, $y, 0)": 0, "Cov($x, $y, 5)": 1, "Cov($x, $x, 20)": 2,
    "Quantile($x, 10, 0.8)": 1, "EMA($x, 0.1)": 1, "Abs($x)": 1, "Sign($x - Ref($x, 1))": 0, "$x > Mean($x, 5)": 0,
    "Rsquare($x / Ref($x, 1) - 1, 10)": 0, "Corr($x / Ref($x, 1), Log($y), 10)": 0, "Skew($x - Mean($x, 10), 20)": 0,
}  # fmt: skip


def compute(text: str, x: Any) -> Any:
    life = np.array([0]), np.array([DAYS])
    blocks = {"x": FieldBlock(x[None], *life), "y": FieldBlock(OTHER[None], *life)}
    with np.errstate(all="ignore"):
        (value,) = EvaluationPlan([parse(text)]).run(blocks, (1, DAYS), {})
    return np.asarray(value, float)[0]


@pytest.mark.parametrize("text", EXPRESSIONS)
@pytest.mark.parametrize("series", SERIES)
def test_operators_do_not_depend_on_the_unit(series: str, text: str) -> None:
    """Multiplied by a power of two, every result is the same up to its own unit, including missing values."""
    x = SERIES[series]
    expected = compute(text, x)
    for power in POWERS_OF_TWO:
        scaled = compute(text, x * 2.0**power)
        np.testing.assert_allclose(scaled, expected * 2.0 ** (power * EXPRESSIONS[text]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_prices_in_millionths_have_the_same_values(text: str) -> None:
    """The same for powers of ten from 1e-9 to 1e9, which change the last digits of the input."""
    expected = compute(text, SERIES["walk"])
    size = np.nanmax(np.abs(expected))
    for power in POWERS_OF_TEN:
        unit = 10.0 ** (power * EXPRESSIONS[text])
        scaled = compute(text, SERIES["walk"] * 10.0**power)
        np.testing.assert_allclose(scaled / unit, expected, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("series", ["fund", "returns"])
def test_calm_series_have_shapes(series: str) -> None:
    """Moves of millionths count: R squared and correlation exist if any two values of the window differ."""
    x = SERIES[series]
    for text in ("Rsquare($x, 5)", "Corr($x, $y, 5)"):
        got = compute(text, x)
        for t in range(6, DAYS):
            w, v = x[t - 4 : t + 1], OTHER[t - 4 : t + 1]
            other = np.arange(5.0) if text.startswith("R") else v
            right = np.corrcoef(w, other)[0, 1]
            assert got[t] == pytest.approx(right**2 if text.startswith("R") else right, abs=1e-6)


def test_a_line_in_millionths_is_a_line() -> None:
    """Prices of 1e-6, 2e-6, 3e-6 lie on a line: R squared is 1, as for the same prices times a million."""
    x = np.arange(1.0, DAYS + 1) * 1e-6
    for n in (3, 5, 0):
        np.testing.assert_allclose(compute(f"Rsquare($x, {n})", x)[1:], 1.0, rtol=1e-12)


def test_equal_values_are_flat_in_every_unit() -> None:
    """A constant price has no R squared and no correlation, at any level."""
    for price in (0.1, 1e-9, 1e9 / 3, 7.0, 0.0, -1e-9 / 7):
        x = np.full(DAYS, price)
        for text in ("Rsquare($x, 5)", "Corr($x, $y, 5)", "Corr($y, $x, 0)", "Skew($x, 5)", "Kurt($x, 0)", "Rsquare($x, 0)",
                     "Corr(Mean($x, 3), $y, 5)", "Rsquare(Mean($x, 7), 20)", "Skew(WMA($x, 5), 20)"):  # fmt: skip
            assert np.isnan(compute(text, x)).all(), (text, price)


def test_a_weighted_mean_includes_the_day_itself() -> None:
    """WMA of 1, 2, 3 is (1*1 + 2*2 + 3*3) / 6 = 2.33; without the second value it is (1*1 + 3*3) / 4."""
    x = np.full(DAYS, np.nan)
    x[:3] = 1, 2, 3
    assert compute("WMA($x, 3)", x)[:3].tolist() == [1.0, 5 / 3, 14 / 6]
    assert compute("WMA($x, 0)", x)[2] == 14 / 6
    x[1] = np.nan
    assert compute("WMA($x, 3)", x)[2] == 10 / 4


def test_an_expanding_average_does_not_count_gaps_as_zero() -> None:
    """EMA(x, 0) of a price of 8 with gaps is 8: a missing day has no weight."""
    x = np.full(DAYS, 8.0)
    x[[0, 5, 6, 7, 200]] = np.nan
    x[250:] = np.nan
    assert np.isnan(compute("EMA($x, 0)", x)[0])
    np.testing.assert_allclose(compute("EMA($x, 0)", x)[1:], 8.0, rtol=1e-14)


@pytest.mark.parametrize("fields", [alpha158_fields, alpha360_fields])
def test_feature_sets_do_not_depend_on_the_unit_of_prices(fields: Any) -> None:
    """All columns of Alpha158 and Alpha360 are the same for prices of millionths and of billions, also on days without
    a range and in weeks without a move.
    """
    rng = np.random.default_rng(4)
    close = SERIES["resting"].astype(np.float32)
    factors = np.exp(rng.normal(0, 0.01, (3, DAYS))).astype(np.float32)
    factors[:, ::7] = 1  # days on which open, high and low equal the close
    low, opening, high = np.sort(factors, axis=0) * close
    prices = {"open": opening, "high": np.maximum(high, close), "low": np.minimum(low, close), "close": close,
              "vwap": (high + low) / 2}  # fmt: skip
    life = np.array([0]), np.array([DAYS])
    plan = EvaluationPlan([parse(text) for text in fields()[0]])

    def columns(unit: float) -> Any:
        blocks = {name: FieldBlock((values * np.float32(unit))[None], *life) for name, values in prices.items()}
        blocks["volume"] = FieldBlock(OTHER.astype(np.float32)[None], *life)
        with np.errstate(all="ignore"):
            return np.stack([np.array(v[0], np.float32) for v in plan.run(blocks, (1, DAYS), {})])

    expected = columns(1.0)
    assert np.isfinite(expected[:, 70:]).mean() > 0.9
    for power in POWERS_OF_TWO:
        np.testing.assert_array_equal(columns(2.0**power), expected)


FIT = {"fit_start_time": "2021-01-01", "fit_end_time": "2021-01-20"}
PROCESSORS: dict[str, tuple[Processor, int]] = {
    "ZScoreNorm": (ZScoreNorm(**FIT), 0),
    "RobustZScoreNorm": (RobustZScoreNorm(**FIT), 0),
    "RobustZScoreNorm without clipping": (RobustZScoreNorm(**FIT, clip_outlier=False), 0),
    "MinMaxNorm": (MinMaxNorm(**FIT), 0),
    "CSZScoreNorm": (CSZScoreNorm(), 0),
    "CSZScoreNorm by the median": (CSZScoreNorm(method="robust"), 0),
    "CSRankNorm": (CSRankNorm(), 0),
    "CSZFillna": (CSZFillna(), 1),
    "Fillna": (Fillna(), 1),
    "ProcessInf": (ProcessInf(), 1),
}


def frame(*columns: Any, kind: Any = np.float32) -> pd.DataFrame:
    """Return columns over days with five instruments each."""
    days = pd.date_range("2021-01-01", periods=len(columns[0]) // 5)
    index = pd.MultiIndex.from_product([days, list("ABCDE")], names=["datetime", "instrument"])
    names = pd.MultiIndex.from_product([["feature"], [f"x{i}" for i in range(len(columns))]])
    return pd.DataFrame(np.array(columns, kind).T, index=index, columns=names)


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_do_not_depend_on_the_unit(name: str) -> None:
    """The result of a processor is the same in every unit, also if most values of a column are equal."""
    processor, degree = PROCESSORS[name]
    flag = np.where(np.random.default_rng(5).random(DAYS) < 0.2, SERIES["walk"], 3.0)
    raw = frame(SERIES["walk"], SERIES["fund"] - 1, flag)

    def made(unit: float) -> Any:
        processor.fit(raw * unit)
        return processor(raw * unit).to_numpy(float) / unit**degree

    expected = made(1.0)
    assert (np.nanmax(expected, axis=0) > np.nanmin(expected, axis=0)).all()
    for power in POWERS_OF_TWO:
        np.testing.assert_allclose(made(2.0**power), expected, rtol=1e-6)


def test_with_a_mad_of_zero_other_values_are_extreme() -> None:
    """The most frequent value becomes 0 and any other 3 or -3, over the fit window and within a day alike."""
    raw = frame([1, 1, 1, 1.5, 9, 1, 1, 1, 0.5, 1])
    expected = [0, 0, 0, 3, 3, 0, 0, 0, -3, 0]
    fitted = RobustZScoreNorm(**FIT)
    fitted.fit(raw)
    assert fitted(raw.copy()).iloc[:, 0].tolist() == expected
    assert CSZScoreNorm(method="robust")(raw.copy()).iloc[:, 0].tolist() == expected
    unclipped = RobustZScoreNorm(**FIT, clip_outlier=False)
    unclipped.fit(raw)
    assert unclipped(raw.copy()).iloc[:, 0].tolist() == [0, 0, 0, np.inf, np.inf, 0, 0, 0, -np.inf, 0]


@pytest.mark.parametrize("value", [0.1, 1e-9 / 7, 1e9 / 3])
def test_a_column_of_equal_values_has_no_deviation(value: float) -> None:
    """However its mean is rounded, over a fit window and within a day."""
    raw = frame([value] * 50, kind=np.float64)
    for made in (ZScoreNorm(**FIT), MinMaxNorm(**FIT)):
        made.fit(raw)
        np.testing.assert_array_equal(made(raw.copy()), raw)
    assert CSZScoreNorm()(raw.copy()).isna().all(axis=None)
