"""Expressions agree with pyqlib: the same missing values, and the same numbers up to float32 rounding."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ExpressionError
from rollforge.expressions.expression import parse
from rollforge.features.engine import features
from rollforge.session import Session

GOLDEN = Path(__file__).parents[1] / "golden" / "expressions"
MEANING = json.loads((GOLDEN / "expressions.json").read_text())
CASES = [(c["column"], c["expression"]) for c in MEANING["cases"] if "column" in c]
REFUSED = [c for c in MEANING["cases"] if "raises" in c]

# pyqlib's windows add and remove terms, so a value that has left a window leaves a remainder: about 1e-16 of the
# largest value (squared, for variances) that passed through. For results that close to zero a relative tolerance is
# meaningless. The prices here reach 1e2, except for X017 with 1e3 and changes of 1e-3; the tolerances are ten times
# these remainders.
ATOL = {
    "Std": 1e-5,  # the root of a remainder of the variance: exactly 0 here, 4e-6 in pyqlib
    "Var": 1e-11,
    "Skew": 1e-12,
    "Resi": 1e-10,
    "Corr": 2e-5,  # a quotient of two such differences
}


@pytest.fixture(scope="module")
def expected() -> pd.DataFrame:
    return pd.read_parquet(GOLDEN / "values.parquet")


def absolute_tolerance(expression: str) -> float:
    return ATOL.get(expression.split("(")[0], 0.0)


# Operators that pyqlib computes wrongly: their values differ on purpose, and a test below checks the right ones.
EXCEPTIONS = {
    "WMA": "its weights sum to 1, and the sum is divided by the number of values once more",
    "Corr": "missing where a deviation is at most 2e-5, whatever the unit",
    "Rsquare": "missing where the deviation is at most 2e-5, whatever the unit",
}


@pytest.mark.parametrize(("column", "expression"), CASES, ids=[c for c, _ in CASES])
def test_an_expression_has_pyqlibs_values(
    golden_market: Path, expected: pd.DataFrame, calm_to_pyqlib: Any, column: str, expression: str
) -> None:
    """Each of the reference expressions has pyqlib's value, or is missing, on every row of its instruments, with the
    listed exceptions.
    """
    frame = features(MEANING["instruments"], [expression], session=Session(provider_uri=str(golden_market)))
    assert frame.columns.tolist() == [expression]
    ours, theirs = frame.iloc[:, 0], expected[column].reindex(frame.index)
    assert ours.dtype == np.float32
    name = expression.partition("(")[0]
    if name == "WMA":
        return
    more = ours.notna() & theirs.isna()
    if name in EXCEPTIONS and more.any():
        assert calm_to_pyqlib(golden_market, expression, more[more].index).all()
        ours = ours.mask(more)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=absolute_tolerance(expression), equal_nan=True)


def test_a_weighted_mean_lies_between_the_values(golden_market: Path, expected: pd.DataFrame) -> None:
    """WMA is the mean with weights 1, 2, …, 10; pyqlib divides twice, so its value is ours divided by the number of
    values.
    """
    column, expression = next((c, e) for c, e in CASES if e.startswith("WMA"))
    frame = features(MEANING["instruments"], ["$close", expression], session=Session(provider_uri=str(golden_market)))

    def weighted(x: Any) -> float:
        there = ~np.isnan(x)
        return float(np.average(x[there], weights=np.arange(1, len(x) + 1)[there]))

    days = frame["$close"].astype(float).groupby(level="instrument", group_keys=False)
    right = days.apply(lambda s: s.rolling(10, min_periods=1).apply(weighted, raw=True))
    np.testing.assert_allclose(frame[expression], right, rtol=1e-6)
    size = days.cumcount().clip(upper=9) + 1
    whole = days.apply(lambda s: s.rolling(10, min_periods=1).count()) == size
    theirs = expected[column].reindex(frame.index)
    np.testing.assert_allclose(frame[expression][whole], (theirs * size)[whole], rtol=1e-5)


def test_calm_series_have_a_correlation(golden_market: Path, expected: pd.DataFrame) -> None:
    """When the returns of X017 move by millionths, pyqlib has no correlation; ours is that of the values in the window."""
    column, expression = next((c, e) for c, e in CASES if e.startswith("Corr(") and e.endswith(",5)"))
    fields = [expression, "$close/Ref($close,1)", "Log($volume+1)"]
    frame = features(["X017"], fields, session=Session(provider_uri=str(golden_market))).droplevel(0)
    theirs = expected[column].xs("X017", level="instrument").reindex(frame.index)
    places = np.flatnonzero(theirs.isna() & frame[expression].notna())
    assert places.size > 30
    for place in places:
        window = frame.iloc[max(0, place - 4) : place + 1, 1:].dropna().astype(float)
        right = np.corrcoef(window.to_numpy().T)[0, 1]
        assert frame[expression].iloc[place] == pytest.approx(right, abs=1e-6)


def test_rows_are_pyqlibs(golden_market: Path, expected: pd.DataFrame) -> None:
    """The rows are pyqlib's for the instrument's own fields; the additional rows of a masked one are outside its days
    and have no other values.
    """
    frame = features(MEANING["instruments"], ["$close"], session=Session(provider_uri=str(golden_market)))
    masked = next(c for c, e in CASES if e.startswith("Mask"))
    alone = expected.drop(columns=masked)
    assert frame.index.isin(expected.index).all()
    assert alone.loc[~expected.index.isin(frame.index)].isna().all(axis=None)


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c["expression"])
def test_what_pyqlib_refuses_is_refused(case: dict[str, Any]) -> None:
    """An expression for which pyqlib raises is an error here as well, with its position."""
    with pytest.raises(ExpressionError, match="position 1 "):
        parse(case["expression"])


@pytest.mark.parametrize(
    ("expression", "days", "values"),
    [
        ("Mean(Mask($close,'x002'),3)", slice("2015-09-04", "2015-09-09"), [4.152851, 4.225943, 4.285366]),
        ("$close-Mask($close,'x002')", slice("2015-09-04", "2015-09-09"), [-2.053742, -2.127366, -2.208161]),
        (
            "Std(Mask($close,'x002')-$close,3)",
            slice("2015-09-04", "2015-09-10"),
            [np.nan, 0.052060, 0.077237, 0.097552],
        ),
    ],
)
def test_a_masked_instrument_has_its_own_history(
    golden_market: Path, expression: str, days: slice, values: list[float]
) -> None:
    """Windows over another instrument include its days before the row's instrument is listed (values from pyqlib)."""
    frame = features(["X003"], [expression], session=Session(provider_uri=str(golden_market)))
    np.testing.assert_allclose(frame.loc["X003"].loc[days].iloc[:, 0], values, rtol=2e-5)


def test_a_flat_price_has_no_deviation(golden_market: Path) -> None:
    """When a price rests after it moved, its deviation is 0; pyqlib keeps a remainder (0.0083 on 2014-06-03), which
    Alpha158's WVMA divides by 1e-12.
    """
    moved = "Std(Abs($close/Ref($close, 1)-1)*$volume, 30)"
    frame = features(["X011"], [moved, "$close"], session=Session(provider_uri=str(golden_market)))
    day = frame.loc["X011"].loc[:"2014-06-03"].tail(31)
    assert day["$close"].nunique() == 1
    assert day[moved].iloc[-1] == 0.0


@pytest.mark.parametrize("n", [10, 20, 30, 60])
def test_r_squared_is_exact_where_pyqlib_is_not(golden_market: Path, n: int) -> None:
    """With tiny changes at a high level (X017) pyqlib's sums cancel; ours agree with exact fractions."""
    frame = features(["X017"], ["$close", f"Rsquare($close,{n})"], session=Session(provider_uri=str(golden_market)))
    close, ours = frame.iloc[:, 0].tolist(), frame.iloc[:, 1].tolist()
    checked = 0
    for t in range(n - 1, len(close), 7):
        window = [(k, Fraction(v)) for k, v in enumerate(close[t - n + 1 : t + 1]) if v == v]
        if len({v for _, v in window}) < 2 or ours[t] != ours[t]:
            continue
        mk, mv = Fraction(sum(k for k, _ in window), len(window)), sum(v for _, v in window) / len(window)
        kv = sum((k - mk) * (v - mv) for k, v in window)
        share = kv * kv / (sum((k - mk) ** 2 for k, _ in window) * sum((v - mv) ** 2 for _, v in window))
        assert ours[t] == pytest.approx(float(share), rel=1e-6, abs=1e-9)
        checked += 1
    assert checked > 100
