"""Consecutive windows are joined as by pandas, only faster; all others are left to pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.collect import RollingEnsemble
from rollforge.collect.join import join_in_order
from rollforge.errors import DataError

DAYS = pd.date_range("2020-01-01", periods=30)
CODES = ["A", "B", "C", "D"]


def slow(parts: list[Any]) -> Any:
    """Return the specified result, computed with pandas."""
    days = [p.index.get_level_values("datetime") for p in parts if len(p)]
    order = sorted(range(len(days)), key=lambda i: (days[i].min(), days[i].max(), i))
    ordered = [[p for p in parts if len(p)][i] for i in order]
    joined = pd.concat(ordered)
    joined = joined[~joined.index.duplicated(keep="last")]
    return joined if joined.index.is_monotonic_increasing else joined.sort_index()


def same(found: Any, expected: Any) -> None:
    check = pd.testing.assert_series_equal if isinstance(expected, pd.Series) else pd.testing.assert_frame_equal
    check(found, expected, check_freq=False)  # neither way guarantees the frequency of the days


@st.composite
def windows(draw: st.DrawFn) -> list[Any]:
    """Generate separate, adjacent or overlapping windows, in any order, each with some instruments on some days."""
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 27))
        days = DAYS[start : start + draw(st.integers(1, 4))]
        full = pd.MultiIndex.from_product([days, draw(st.permutations(CODES))], names=["datetime", "instrument"])
        kept = draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        index = full[np.array(kept)]  # with level values that no longer have rows
        index = index if draw(st.booleans()) else index.sort_values()
        parts.append(pd.DataFrame({"score": np.arange(len(index)) + 100.0 * start}, index=index))
    if draw(st.booleans()):
        parts = [p["score"] for p in parts]
    return parts if any(len(p) for p in parts) else [parts[0].reindex(full)]


@given(windows())
@settings(max_examples=300, deadline=None)
def test_any_windows_are_joined_as_pandas_would(parts: list[Any]) -> None:
    """Sorted, with the later window's row if two windows have it, on either path."""
    same(RollingEnsemble()(dict(enumerate(parts))), slow(parts))


def window(day: int, codes: list[str] = CODES, days: int = 2) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([DAYS[day : day + days], codes], names=["datetime", "instrument"])
    return pd.DataFrame({"score": np.arange(float(len(index))), "other": float(day)}, index=index)


def test_the_fast_path_is_taken_for_consecutive_windows() -> None:
    """The fast path is taken even if instruments come and go."""
    parts = [window(0), window(2, ["B", "E"]), window(4, ["A"])]
    found = join_in_order(parts)
    assert found is not None
    same(found, pd.concat(parts))
    assert [list(level) for level in found.index.levels] == [list(DAYS[:6]), ["A", "B", "C", "D", "E"]]
    assert found.index.is_monotonic_increasing
    assert found.loc[(DAYS[2], "E"), "score"] == 1.0


def reindexed(part: pd.DataFrame, *levels: Any) -> pd.DataFrame:
    return part.set_axis(pd.MultiIndex.from_product(levels, names=["datetime", "instrument"]))


@pytest.mark.parametrize(
    "parts",
    [
        [window(0), window(1)],
        [window(0, ["B", "A"])],
        [window(0), window(2)["score"]],
        [window(0), window(2).rename_axis(["datetime", "code"])],
        [window(0), window(2).reset_index("instrument")],
        [window(0), window(2).astype({"other": int})],
        [window(0), reindexed(window(2), DAYS[2:4], ["A", None, "C", "D"])],
    ],
    ids=["overlapping", "unsorted", "frame-and-series", "names", "one-level", "two-dtypes", "missing-label"],
)
def test_anything_else_is_left_to_pandas(parts: list[Any]) -> None:
    """The fast path declines it."""
    assert join_in_order(parts) is None


def test_many_labels_need_wide_codes() -> None:
    """Near the sizes at which the dtype of the codes changes."""
    for count in (126, 127, 128, 32_766, 32_768):
        codes = [f"{i:06d}" for i in range(count)]
        found = join_in_order([window(0, codes, 1), window(1, codes, 1)])
        assert found is not None
        assert found.index[-1] == (DAYS[1], codes[-1])
        assert found.loc[DAYS[1], "score"].iloc[-1] == count - 1


FORMS: dict[str, Any] = {
    "texts": lambda w: w.rename(index=lambda day: day.strftime("%Y-%m-%d"), level=0),
    "zone": lambda w: w.tz_localize("Asia/Shanghai", level=0),
    "swapped": lambda w: w.swaplevel(),
    "names": lambda w: w.rename_axis(["date", "code"]),
    "series": lambda w: w["score"].rename("other"),
}


@pytest.mark.parametrize("form", FORMS)
def test_windows_in_different_forms_are_joined_by_day_and_instrument(form: str) -> None:
    """With a time zone, days as strings, swapped levels or as a series: rows of two windows are kept once."""
    windows = {1: window(0)[["score"]], 2: window(1)[["score"]], 3: window(2)[["score"]]}
    expected = RollingEnsemble()(windows)
    assert expected.index.is_unique
    for key in windows:
        found = RollingEnsemble()(windows | {key: FORMS[form](windows[key])})
        assert list(found.index) == list(expected.index)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))


def test_windows_whose_levels_are_all_swapped_stay_so() -> None:
    """If all windows agree, the order of their levels is kept."""
    swapped = {key: window(key).swaplevel() for key in (0, 1)}
    expected = RollingEnsemble()({0: window(0), 1: window(1)}).swaplevel().sort_index()
    pd.testing.assert_frame_equal(RollingEnsemble()(swapped), expected)


def test_windows_without_a_common_column_are_refused() -> None:
    """Concatenated, each column would be missing for half of the rows."""
    with pytest.raises(DataError, match=r"1 and 2 have no column in common: \['score'\] and \['other'\]"):
        RollingEnsemble()({1: window(0)[["score"]], 2: window(2)[["other"]]})
