"""The look-ahead of every expression, measured: it is never more than the table of operators says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from rollforge.check.market_copy import TURNS, Change, write_copy
from rollforge.errors import DataError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import last_day_read, lookahead, operator, operator_names
from rollforge.features.engine import evaluate
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider

DAYS = np.arange("2024-01-01", "2024-04-10", dtype="datetime64[D]")
CODES = ["A", "B", "C", "D"]
LAST = 60
"""Position of the last day whose data are kept."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Provider, list[Provider]]:
    """A small market with gaps, a late listing and an early end, and three copies with other data from some day on."""
    folder = tmp_path_factory.mktemp("market")
    random = np.random.default_rng(3)
    series: dict[str, tuple[int, dict[str, np.ndarray]]] = {}
    for code, (first, stop) in zip(CODES, [(0, 100), (0, 100), (20, 100), (0, 80)], strict=True):
        fields = {}
        for name in ("open", "close", "volume"):
            values = 10 * np.exp(np.cumsum(random.normal(0, 0.03, stop - first)))
            values[random.random(stop - first) < 0.05] = np.nan
            fields[name] = values
        series[code] = first, fields
    write_folder(folder / "data", DAYS, series, {"all": {code: [(DAYS[0], DAYS[-1])] for code in CODES}})
    source = Provider(folder / "data")
    made = []
    for turn in range(TURNS):
        write_copy(source, folder / str(turn), Change(DAYS[LAST], turn))
        made.append(Provider(folder / str(turn)))
    return source, made


def measured(text: str, copies: tuple[Provider, list[Provider]]) -> int:
    """Return how many days before the first changed day values change, bit for bit; 0 if none does."""
    source, changed = copies
    before, there = evaluate(source, CODES, text)
    found = 0
    for one in changed:
        after, still = evaluate(one, CODES, text)
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        days = np.flatnonzero((~same | (there != still))[:, : LAST + 1].any(axis=0))
        found = max(found, LAST + 1 - int(days[0]) if len(days) else 0)
    return found


KINDS = {name: operator(name) for name in operator_names() if name != "TResample"}
LEAVES = st.sampled_from(["$close", "$open", "$volume"])
NUMBERS = st.sampled_from(["0.5", "1", "2", "10", "-1"])


def calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return calls of any operator with arguments of the kinds that it takes."""

    def call(name: str) -> st.SearchStrategy[str]:
        known = KINDS[name]
        low = -6 if known.look == "shift" else 0
        arguments = {
            "x": inner,
            "c": st.tuples(inner, inner).map(lambda pair: f"Gt({pair[0]}, {pair[1]})"),
            "v": st.one_of(inner, NUMBERS),
            "n": st.integers(low, 8).map(str),
            "a": st.sampled_from(["0", "0.3", "3"]),
            "q": st.sampled_from(["0", "0.2", "1"]),
            "t": st.sampled_from(["'A'", "'C'"]),
        }
        return st.tuples(*(arguments[kind] for kind in known.arguments)).map(lambda a: f"{name}({', '.join(a)})")

    return st.sampled_from(sorted(KINDS)).flatmap(call)


EXPRESSIONS = st.recursive(LEAVES, calls, max_leaves=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=EXPRESSIONS)
@example(text="Ref(Ref($close, 1), -1)")
@example(text="Delta(Ref($close, 3), -2)")
def test_no_expression_looks_further_ahead_than_the_table_says(
    text: str, copies: tuple[Provider, list[Provider]]
) -> None:
    """A causal expression is therefore never flagged: values before the change are the same bit for bit."""
    try:
        tree, found = parse(text), measured(text, copies)
    except DataError:  # arguments that do not fit, such as a number where a condition is needed
        return
    assert found <= max(0, last_day_read(tree)) <= lookahead(tree)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("$close", 0), ("Ref($close, -3)", 3), ("Ref($close, -2)/Ref($close, -1) - 1", 2), ("Mean(Ref($close, -4), 3)", 4),
        ("Ref(Mean($close, 3), 2)", 0), ("Delta($close, -2)", 2), ("Slope(Ref($close, -2), 5)", 2),
        ("Ref(Ref($close, -5), 2)", 3), ("ChangeInstrument('A', Ref($close, -1))", 1), ("EMA(Ref($close, -1), 3)", 1),
        ("Max(Ref($close, -3), 2)", 3), ("If($close > Ref($close, -1), 1, 0)", 1),
    ],
)  # fmt: skip
def test_the_measurement_finds_the_whole_look_ahead(
    text: str, days: int, copies: tuple[Provider, list[Provider]]
) -> None:
    """Look-ahead is found through maxima and conditions too, which hide changes in one direction."""
    assert measured(text, copies) == days == lookahead(parse(text))
