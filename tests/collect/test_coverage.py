"""Coverage of several models: pairs, gaps, windows, days and instruments, counted by hand or by brute force."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings

from rollforge.collect.coverage import Coverage, ExpectedWindow, check_coverage

DAY = np.timedelta64(1, "D")
FIRST_DAY = np.datetime64("2020-01-01")
CALENDAR = np.arange(FIRST_DAY, np.datetime64("2020-03-01"))
WEEKDAYS = CALENDAR[np.is_busday(CALENDAR)]


def window(name: str, first: int, last: int, group: str = "", state: str = "done") -> ExpectedWindow:
    """Return a window from the `first` to the `last` day of January, counted from 1."""
    return ExpectedWindow(name, FIRST_DAY + (first - 1) * DAY, FIRST_DAY + (last - 1) * DAY, state, group)


def days(first: int, last: int) -> np.ndarray:
    return np.arange(FIRST_DAY + (first - 1) * DAY, FIRST_DAY + last * DAY)


def whole(windows: list[ExpectedWindow]) -> dict[str, np.ndarray]:
    """Return a prediction that covers every day of the windows."""
    return {w.key: np.arange(w.start, w.end + DAY) for w in windows}


def check(windows: list[ExpectedWindow]) -> Coverage:
    return check_coverage(windows, CALENDAR, whole(windows))


def rows(first: int, last: int, codes: str) -> pd.MultiIndex:
    return pd.MultiIndex.from_product(
        [pd.DatetimeIndex(days(first, last)), list(codes)], names=["datetime", "instrument"]
    )


def test_windows_that_are_not_neighbours_overlap_too() -> None:
    """A long window overlaps the third although the second lies between; each pair is listed with its shared days."""
    notes = check([window("long", 1, 31), window("early", 5, 10), window("late", 20, 25)]).notes
    assert notes == (
        "long and early overlap: both test 2020-01-05 to 2020-01-10 (6 trading days)",
        "long and late overlap: both test 2020-01-20 to 2020-01-25 (6 trading days)",
    )


def test_no_gap_is_reported_that_another_window_covers() -> None:
    """The days between the second and the third are tested by the first; those after it are not tested."""
    notes = check([window("long", 1, 15), window("early", 3, 5), window("late", 20, 25)]).notes
    assert [n for n in notes if "lie" in n] == ["4 trading days lie between long and late: 2020-01-16 to 2020-01-19"]


def test_a_failed_window_is_not_a_gap() -> None:
    """A failed window is reported once, as failed."""
    windows = [window("w1", 1, 10), window("w2", 11, 20, state="failed"), window("w3", 21, 31)]
    assert check(windows).notes == ("w2 is failed",)


def test_two_tasks_of_the_same_days_overlap() -> None:
    """Two tasks of the same days overlap on all of their days, even on a single one."""
    assert "both test 2020-01-03 (1 trading day)" in check([window("a", 3, 3), window("b", 3, 3)]).notes[0]


def test_days_without_trading_are_neither_gap_nor_overlap() -> None:
    """Nothing is missing between Friday and Monday; windows that share only a weekend do not overlap."""
    friday, sunday = 3, 5
    apart = [window("w1", 1, friday), window("w2", 6, 10)]
    sharing = [window("w1", 1, sunday), window("w2", 4, 10)]
    for windows in (apart, sharing):
        assert check_coverage(windows, WEEKDAYS, whole(windows)).notes == tuple(
            f"{w.key} predicts {n} days outside its test segment: {w.start + a * DAY} to {w.start + (a + 1) * DAY}"
            for w, n, a in ((windows[0], 2, 3), (windows[1], 2, 0))
            if windows is sharing
        )


def test_of_many_overlapping_pairs_some_are_listed() -> None:
    """The others are counted: 30 windows that share a day are 435 pairs."""
    notes = check([window(f"w{i}", 1, 5) for i in range(30)]).notes
    named = sum("overlap: both test" in n for n in notes)
    (rest,) = [n for n in notes if n.endswith("more pairs of windows overlap")]
    assert named + int(rest.split()[0]) == 30 * 29 // 2


def test_a_window_that_one_model_lacks_is_named() -> None:
    """In the middle or at the end, with the models that have it, which are then the only ones in the average."""
    models = [
        *(window(f"lgb, {i}", 10 * i - 9, 10 * i, "lgb") for i in (1, 2, 3)),
        window("ridge, 1", 1, 10, "ridge"),
        *(window(f"tree, {i}", 10 * i - 9, 10 * i, "tree") for i in (1, 3)),
    ]
    assert check(models).notes == (
        "ridge and tree have no window for 2020-01-11 to 2020-01-20 (10 trading days), which lgb tests",
        "ridge has no window for 2020-01-21 to 2020-01-30 (10 trading days), which lgb and tree test",
        "On 10 days (2020-01-21 to 2020-01-30) the average is of lgb and tree: ridge has no prediction",
        "On 10 days (2020-01-11 to 2020-01-20) the average is of lgb alone: ridge and tree have no prediction",
    )


def test_a_gap_of_all_models_is_one_gap() -> None:
    """The gap is reported once, as missing in all models."""
    windows = [window(f"{m}, {i}", first, last, m) for m in "ab" for i, first, last in ((1, 1, 9), (2, 12, 20))]
    assert check(windows).notes == ("2 trading days lie between a, 1 and a, 2: 2020-01-10 to 2020-01-11",)


def test_a_failed_window_of_one_model_reduces_the_average() -> None:
    """A failed window of one model is reported as failed, not as missing, and so are the days that are averaged over
    fewer models."""
    windows = [window("a, 1", 1, 10, "a"), window("b, 1", 1, 10, "b", state="failed")]
    assert check(windows).notes == (
        "b, 1 is failed",
        "On 10 days (2020-01-01 to 2020-01-10) the average is of a alone: b has no prediction",
    )


def test_a_model_that_lacks_half_of_the_instruments_is_named() -> None:
    """The note has the days that both predict, which instruments are missing, of how many, and the share of rows."""
    windows = [window("a, 1", 1, 10, "a"), window("b, 1", 1, 10, "b")]
    coverage = check_coverage(windows, CALENDAR, {"a, 1": rows(1, 10, "PQRSTUVW"), "b, 1": rows(1, 10, "PQRS")})
    assert coverage.notes == (
        "b lacks 50.0% of the rows that other models predict on the same days: 4 of 8 instruments (T, U, V and 1 more) "
        "on 10 days (2020-01-01 to 2020-01-10)",
    )


def test_a_few_rows_that_one_model_lacks_are_a_remark() -> None:
    """A tenth of the rows or less is a remark, and the result is still complete; more is a note."""
    windows = [window("a, 1", 1, 10, "a"), window("b, 1", 1, 10, "b")]
    some = rows(1, 10, "PQ")
    tenth = check_coverage(windows, CALENDAR, {"a, 1": some, "b, 1": some[2:]})
    more = check_coverage(windows, CALENDAR, {"a, 1": rows(1, 10, "PQ"), "b, 1": some[[*range(1, 19, 2), 18, 0, 2]]})
    assert tenth.notes == (
        "b, 1 has no prediction for 1 day: 2020-01-01",
        "On 1 day (2020-01-01) the average is of a alone: b has no prediction",
    )
    assert tenth.remarks == ()
    assert more.remarks == ()
    assert more.notes[0].startswith("b lacks 40.0% of the rows")
    few = check_coverage(windows, CALENDAR, {"a, 1": some, "b, 1": some[1:]})
    assert few.complete
    assert few.remarks == (
        "b lacks 5.0% of the rows that other models predict on the same days: 1 of 2 instruments (P) on 1 day "
        "(2020-01-01)",
    )


@given(st.lists(st.sets(st.tuples(st.integers(1, 6), st.sampled_from("PQRST"))), min_size=2, max_size=4))
@settings(max_examples=200, deadline=None)
def test_missing_rows_agree_with_brute_force(drawn: list[set[tuple[int, str]]]) -> None:
    """For random rows of some models, each one lacks the same share of the others' rows on its days, at the same places."""
    names = "abcd"[: len(drawn)]
    windows = [window(f"{n}, 1", 1, 6, n) for n in names]
    found = {
        f"{n}, 1": pd.MultiIndex.from_tuples(
            [(pd.Timestamp(FIRST_DAY) + pd.Timedelta(days=d - 1), c) for d, c in sorted(own)],
            names=["datetime", "instrument"],
        )
        for n, own in zip(names, drawn, strict=True)
        if own
    }
    coverage = check_coverage(windows, CALENDAR, found)
    said = {
        m[1]: (m[2], m[3], m[4])
        for text in (*coverage.notes, *coverage.remarks)
        if (m := re.match(r"(\w) lacks (\S+) of the rows .*: (\d+) of (\d+) instruments? ", text))
    }
    every = set().union(*drawn)
    expected = {}
    for n, own in zip(names, drawn, strict=True):
        same_days = {row for row in every if row[0] in {d for d, _ in own}}
        lacking = same_days - own
        if lacking:
            share = f"{len(lacking) / len(same_days):.1%}"
            expected[n] = (share, str(len({c for _, c in lacking})), str(len({c for _, c in same_days})))
            kind = coverage.notes if len(lacking) / len(same_days) > 0.1 else coverage.remarks
            assert any(text.startswith(f"{n} lacks") for text in kind)
    assert said == expected


def test_each_model_may_lack_what_the_other_has() -> None:
    """Models with disjoint universes lack half each."""
    windows = [window("a, 1", 1, 10, "a"), window("b, 1", 1, 10, "b")]
    notes = check_coverage(windows, CALENDAR, {"a, 1": rows(1, 10, "PQ"), "b, 1": rows(1, 10, "RS")}).notes
    assert [n[:14] for n in notes] == ["a lacks 50.0% ", "b lacks 50.0% "]


def test_days_that_only_one_model_predicts_are_not_missing_rows() -> None:
    """Days that only one model predicts are not missing rows, even if there is a single instrument."""
    windows = [window("a, 1", 1, 3, "a"), window("b, 1", 1, 3, "b")]
    for codes in ("P", "PQ"):
        coverage = check_coverage(windows, CALENDAR, {"a, 1": rows(1, 2, codes), "b, 1": rows(2, 3, codes)})
        assert [n for n in (*coverage.notes, *coverage.remarks) if "lacks" in n] == []


def test_rows_that_a_window_leaves_out_of_its_data_are_a_remark() -> None:
    """The remark exists for a single model whose window predicts half of the rows of its data."""
    windows = [window("w1", 1, 10), window("w2", 11, 20)]
    found = {"w1": rows(1, 10, "PQRS"), "w2": rows(11, 20, "PQ")}
    coverage = check_coverage(windows, CALENDAR, found, {k: rows(1, 20, "PQRS") for k in found})
    assert coverage.complete
    assert coverage.remarks == ("w2 leaves out up to 50% of the rows of the data",)


def test_duplicate_rows_are_reported() -> None:
    """Otherwise one of them would be chosen silently."""
    found = rows(1, 3, "PQ")
    coverage = check_coverage([window("w1", 1, 3)], CALENDAR, {"w1": found.append(found[:2])})
    assert coverage.notes == ("w1 predicts 2 rows more than once; the last of each is used",)


def test_empty_input_gives_no_notes() -> None:
    """There are none without a window, a calendar or a prediction."""
    assert check_coverage([], CALENDAR, {}).complete
    assert check_coverage([], CALENDAR[:0], {}).complete
    assert check_coverage([window("w", 1, 3)], CALENDAR, {}).notes == ("w is done but has no prediction",)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 30), st.integers(0, 6), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
@example([("a", 1, 0, True)] * 7)
@settings(max_examples=300, deadline=None)
def test_counts_agree_with_brute_force(drawn: list[tuple[str, int, int, bool]]) -> None:
    """For random windows of up to three models: overlapping pairs, missing days of a model, days averaged over fewer
    models.
    """
    windows = [
        window(f"{g}{i}", first, first + more, g, "done" if good else "failed")
        for i, (g, first, more, good) in enumerate(drawn)
    ]
    notes = check(windows).notes
    spans = {w.key: set(np.arange(w.start, w.end + DAY)) for w in windows}
    pairs = {
        frozenset((v.key, w.key))
        for i, v in enumerate(windows)
        for w in windows[:i]
        if v.group == w.group and spans[v.key] & spans[w.key]
    }
    listed = {frozenset(m.groups()) for n in notes if (m := re.match(r"(\w+) and (\w+) overlap", n))}
    more = sum(int(n.split()[0]) for n in notes if "more pairs of windows overlap" in n)  # 7 equal windows are 21 pairs
    assert (listed <= pairs, len(listed) + more) == (True, len(pairs))

    groups = sorted({w.group for w in windows})
    tested = {g: set().union(*(spans[w.key] for w in windows if w.group == g)) for g in groups}
    first, last = min(w.start for w in windows), max(w.end for w in windows)
    lacking = {g: {d for d in CALENDAR if first <= d <= last} - tested[g] for g in groups}
    assert any("no window for" in n or "lie" in n for n in notes) == any(lacking.values())
    nowhere = set.intersection(*lacking.values())
    assert sum(int(n.split()[0]) for n in notes if " between " in n) == len(nowhere)

    predicted = {g: set().union(*(spans[w.key] for w in windows if w.group == g and w.state == "done")) for g in groups}
    thin = {d for d in set().union(*predicted.values()) if not all(d in p for p in predicted.values())}
    counted = [re.match(r"On (\d+) days? ", n) for n in notes]
    assert sum(int(m[1]) for m in counted if m) == (len(thin) if len(groups) > 1 else 0)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_windows_does_not_matter(order: int) -> None:
    """The sentences are the same in any order."""
    windows = [window("w2", 8, 12), window("w1", 1, 9), window("w3", 15, 20)]
    assert set(check(windows[::order]).notes) == {
        "w1 and w2 overlap: both test 2020-01-08 to 2020-01-09 (2 trading days)",
        "2 trading days lie between w2 and w3: 2020-01-13 to 2020-01-14",
    }
