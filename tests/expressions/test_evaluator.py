"""Lists of expressions: each column has the same values as when it is computed alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from rollforge.expressions.formulas import Lifespans
from rollforge.expressions.operators import register_operator, unregister_operator
from rollforge.features.engine import features
from rollforge.market.folder_writer import write_folder
from rollforge.session import Session

DAYS = np.arange("2021-01-01", "2021-02-10", dtype="datetime64[D]")  # 40 days
LIVES = {"A": (0, 40), "B": (4, 33), "IDX": (0, 38)}
LATE = {"A": 6, "B": 3, "IDX": 0}
"""Number of days between the first close and the first turnover."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session of three instruments with gaps, with one field that begins later and ends earlier than the
    others.
    """
    rng = np.random.default_rng(11)
    series = {}
    for code, (first, stop) in LIVES.items():
        close = np.round(10 * np.exp(np.cumsum(rng.normal(0, 0.03, stop - first))), 2).astype(np.float32)
        close[7:9] = np.nan
        close[12:18] = close[11]
        opening = (close * np.exp(rng.normal(0, 0.02, close.size))).astype(np.float32)
        series[code] = (first, {"close": close, "open": opening})
    spans = {c: [(DAYS[a], DAYS[b - 1])] for c, (a, b) in LIVES.items()}
    folder = tmp_path_factory.mktemp("lists") / "data"
    write_folder(folder, DAYS, series, {"all": spans})
    for code, (first, stop) in LIVES.items():  # a field with its own range of days
        values = rng.integers(100, 999, stop - first - LATE[code] - 2).astype("<f4")
        at = np.array([first + LATE[code]], "<f4")
        np.concatenate([at, values]).tofile(folder / "features" / code.lower() / "turn.day.bin")
    return Session(provider_uri=str(folder), threads=1)


def column(session: Session, expression: str) -> pd.Series:
    return features("all", [expression], session=session).iloc[:, 0]


def check(session: Session, expressions: list[str]) -> None:
    """Check that in every order of the list each column has the same values as alone."""
    alone = {e: column(session, e) for e in expressions}
    for order in set(itertools.permutations(expressions)):
        together = features("all", list(order), session=session)
        for place, expression in enumerate(order):
            ours = together.iloc[:, place]
            np.testing.assert_allclose(
                ours.reindex(alone[expression].index), alone[expression], rtol=1e-6, err_msg=f"{expression} in {order}"
            )


WINDOWED = ["Mean", "Sum", "Std", "Var", "Max", "Min", "IdxMax", "IdxMin", "Med", "Mad", "Rank", "Count", "Slope",
            "Rsquare", "Resi", "WMA", "EMA", "Ref", "Delta"]  # fmt: skip


@st.composite
def lists(draw: st.DrawFn) -> list[str]:
    """Generate lists whose later expressions contain earlier ones, or parts of them."""
    numbers = ["$close", "$open", "$turn"]
    conditions = ["$close>$open"]
    for _ in range(draw(st.integers(2, 7))):
        a, b = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        c = draw(st.sampled_from(conditions))
        n = draw(st.sampled_from([0, 1, 2, 3, 5]))
        numbers.append(
            draw(
                st.sampled_from(
                    [f"{name}({a},{n})" for name in WINDOWED]
                    + [f"({a}){sign}({b})" for sign in "+-*/"]
                    + [f"({a})*2", f"1/({a})", f"Abs({a})", f"Log({a})", f"Sign({a})", f"Greater({a},{b})"]
                    + [f"If({c},{a},{b})", f"If({c},{a},0)", f"Mean({c},3)", f"Sum(If({c},{a},0),{n})"]
                    + [f"Skew({a},4)", f"Kurt({a},5)", f"Corr({a},{b},4)", f"Cov({a},{b},3)"]
                    + [f"Quantile({a},4,{q})" for q in (0.2, 0.8)]
                    + [f"Mask({a},'IDX')", f"ChangeInstrument('IDX',{a})"]
                )
            )
        )
        conditions.append(
            draw(st.sampled_from([f"({a})>({b})", f"({a})<=({b})", f"Not({c})", f"({c})&(({a})>1)", f"({a})!=({b})"]))
        )
    chosen = st.sampled_from([*reversed(numbers), *reversed(conditions)])
    return draw(st.lists(chosen, min_size=2, max_size=4))


DIF = "EMA($close,12)-EMA($close,26)"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expressions=lists())
@example(expressions=["$close>$open", "If($close>$open,$close,$open)"])
@example(expressions=[DIF, f"EMA({DIF},9)", f"EMA({DIF},9)>({DIF})"])
@example(expressions=["Ref($close,1)", "$close/Ref($close,1)-1", "Std($close/Ref($close,1)-1,20)"])
@example(expressions=["Mean($close,5)", "Mean($close,5)/$close", "Mean($close,5)"])
@example(expressions=["Not($close>$open)", "Sum(If(Not($close>$open),1,0),5)", "$close>$open"])
@example(expressions=["Ref($turn,0)", "$close", "IdxMax($turn,5)", "EMA($turn,0)"])
@example(expressions=["Mask(Mean($turn,0),'IDX')", "Slope(Mask($turn,'IDX'),0)-$turn"])
def test_a_column_does_not_depend_on_the_other_columns(session: Session, expressions: list[str]) -> None:
    """In every order of a list, each column has the same values as when it is the only one."""
    check(session, expressions)


def test_an_operator_may_modify_its_arguments(session: Session) -> None:
    """If a user's function modifies its arrays, fields and other columns are unchanged."""

    def filled(series: Lifespans, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x[np.isnan(x)] = -1
        return x

    register_operator("Filled", filled)
    try:
        frame = features(
            "all", ["Filled($close)", "$close", "Filled(Mean($close,2))", "Mean($close,2)"], session=session
        )
    finally:
        unregister_operator("Filled")
    assert (frame["Filled($close)"] == -1).sum() == frame["$close"].isna().sum() > 0
    np.testing.assert_array_equal(frame["Filled($close)"], frame["$close"].fillna(-1))
    np.testing.assert_array_equal(frame.iloc[:, 2], frame["Mean($close,2)"].fillna(-1))
    check(session, ["$close", "Mean($close,2)"])


def test_a_chain_of_features_is_right_at_every_link(session: Session) -> None:
    """A list in which each feature uses the previous one has the values that pandas computes step by step."""
    frame = features(["A"], ["$close", "Ref($close,1)", "$close/Ref($close,1)", "Mean($close/Ref($close,1),3)"],
                     session=session)  # fmt: skip
    close = frame["$close"].astype(float)
    ratio = close / close.shift(1)
    np.testing.assert_allclose(frame.iloc[:, 1], close.shift(1))
    np.testing.assert_allclose(frame.iloc[:, 2], ratio, rtol=1e-6)
    np.testing.assert_allclose(frame.iloc[:, 3], ratio.rolling(3, min_periods=1).mean(), rtol=1e-6)


def test_a_field_that_begins_later_has_windows_of_its_own_days(session: Session) -> None:
    """First values, positions in the window and expanding averages count from the field's own first day."""
    columns = ["$close", "$turn", "Ref($turn,0)", "IdxMax($turn,0)", "WMA($turn,3)", "EMA($turn,0)"]
    frame = features(["A"], columns, session=session)
    turn = frame["$turn"].dropna()
    own = features(["A"], columns[1:], session=session)
    np.testing.assert_array_equal(own["$turn"], turn)
    for name in columns[2:]:
        np.testing.assert_array_equal(frame[name].reindex(own.index), own[name])
    assert (own["Ref($turn,0)"] == turn.iloc[0]).all()
    assert own["IdxMax($turn,0)"].iloc[-1] == int(np.argmax(turn.to_numpy())) + 1


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        *((text, (6, 38)) for text in ("$turn>500", "Not($turn>500)", "$turn!=0", "If($turn>500,1,-1)", "$turn**0", "1**$turn",
          "If($turn>500,1,-1)+$close", "($turn>500)*$close", "$turn**0-$close", "2*($turn!=0)", "Greater($turn!=0,$close)",
          "If($close>0,If($turn>500,1,-1),0)", "If($close>0,$turn>500,$close)", "($turn!=0)>0")),
        *((text, (0, 38)) for text in ("Mask($close>0,'IDX')", "If(ChangeInstrument('IDX',$close)>0,1,-1)",
          "ChangeInstrument('IDX',If($close>0,1,-1))*$close", "Mask($close,'IDX')**0+$close")),
        *((text, (0, 40)) for text in ("($turn>0)&($close>0)", "Not($turn>0)|($close>0)", "If($turn>0,$close,1)",
          "If(Mask($close>0,'IDX'),1,$close)")),
    ],
)  # fmt: skip
def test_values_exist_on_the_days_of_the_data_that_they_are_computed_from(
    session: Session, expression: str, days: tuple[int, int]
) -> None:
    """Conditions and powers too are missing on days before a field or another instrument begins, and after it ends."""
    frame = features(["A"], [f"Greater({expression},-9)", expression, "$close"], session=session).loc["A"]
    known = frame["$close"].notna().to_numpy()  # on the other days, results that depend on the close are missing anyway
    expected = (np.arange(40) >= days[0]) & (np.arange(40) < days[1])
    for place in (0, 1):
        np.testing.assert_array_equal(frame.iloc[:, place].notna()[known], expected[known])


def test_a_missing_condition_is_false(session: Session) -> None:
    """On days that only the other data have, a condition is false where it is combined with others, and in If."""
    texts = ["($turn>0)&($close>0)", "Not($turn>0)|($close<0)", "If($turn>0,1,0*$close)"]
    frame = features(["A"], ["$turn", *texts], session=session).loc["A"]
    before = frame.iloc[:6]
    assert before["$turn"].isna().all()
    assert not before[texts].any(axis=None)
    assert frame.iloc[20][texts].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["Max", "Min"])
def test_windows_that_are_computed_together_have_the_values_of_each_alone(session: Session, name: str) -> None:
    """Positions too, bit for bit, also if days are missing; the window of all days (0) is the longest."""
    together = [f"{name}($close,3)", f"Idx{name}($close,0)", f"Idx{name}($close,7)", f"{name}($close,0)"]
    values = features("all", together, session=session)
    for place, expression in enumerate(together):
        np.testing.assert_array_equal(values.iloc[:, place], column(session, expression), err_msg=expression)
    assert values.iloc[:, 2].nunique() > 2
