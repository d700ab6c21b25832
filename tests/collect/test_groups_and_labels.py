"""Groups, single keys, and which labels are equal, on values small enough to check by hand."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.collect import AverageEnsemble, Group, RecorderCollector, RollingEnsemble, RollingGroup
from rollforge.collect.coverage import Coverage, ExpectedWindow, check_coverage
from rollforge.collect.ensemble import SingleKeyEnsemble
from rollforge.collect.join import join_in_order
from rollforge.collect.labels import ModelLabel, join_labels, label_kind
from rollforge.collect.outcomes import TaskOutcome, outcomes
from rollforge.collect.result import Collected
from rollforge.errors import ArtifactUnreadable, ConfigError, CoverageError, UntrustedPickle
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.task import Status, TaskRecord
from rollforge.track.base import Experiment, get_experiment, open_tracker

# -- groups ------------------------------------------------------------------------------------------------------------


def test_only_dicts_of_one_key_are_unwrapped() -> None:
    """Dicts of one key are unwrapped at every depth, or only at the first; other values and an empty dict are
    unchanged."""
    unwrap = SingleKeyEnsemble()
    assert unwrap({"a": {"b": {"c": 1}}}) == 1
    assert unwrap({"a": {"b": 1, "c": {"d": 2}}}) == {"b": 1, "c": 2}
    assert unwrap({"a": {"b": {"c": 1}}}, recursion=False) == {"b": {"c": 1}}
    assert unwrap({"a": {"b": 1}, "c": {"d": 2}}, recursion=False) == {"a": {"b": 1}, "c": {"d": 2}}
    assert unwrap({}) == {}
    assert unwrap([1]) == [1]


@pytest.mark.parametrize("n_jobs", [1, 2, 3, -1])
def test_groups_are_reduced_one_by_one_or_together(n_jobs: int) -> None:
    """The results are the same, in the same order; groups without a reduction are unchanged."""
    numbers = {("a", 1): 1, ("a", 2): 2, ("b", 1): 3, ("c", 1): 4}
    summed = RollingGroup(ens=lambda part: sum(part.values()))(numbers, n_jobs)
    assert list(summed.items()) == [(("a",), 3), (("b",), 3), (("c",), 4)]
    assert RollingGroup(ens=None)(numbers, n_jobs)[("a",)] == {1: 1, 2: 2}
    assert Group(lambda x: {"all": x})({"k": 1}, n_jobs) == {"all": {"k": 1}}


def test_groups_are_reduced_in_the_requested_number_of_threads() -> None:
    """In the calling thread for a single job or group, and in two threads for two jobs."""
    here = threading.current_thread()

    def thread(part: Any) -> Any:
        return threading.current_thread() is here

    numbers = {("a", 1): 1, ("b", 1): 2}
    assert list(RollingGroup(ens=thread)(numbers, 1).values()) == [True, True]
    assert list(RollingGroup(ens=thread)({("a", 1): 1}, 2).values()) == [True]
    together = threading.Barrier(2, timeout=30)
    assert sorted(RollingGroup(ens=lambda part: together.wait())(numbers, 2).values()) == [0, 1]
    together.reset()
    assert sorted(RollingGroup(ens=lambda part: together.wait())(numbers, -1).values()) == [0, 1]


def test_a_group_needs_a_function_and_rolling_keys_are_tuples() -> None:
    """The error shows an invalid key."""
    with pytest.raises(NotImplementedError, match="group_func"):
        Group()({"a": 1})
    with pytest.raises(TypeError, match="found 'a'"):
        RollingGroup()({"a": 1})


# -- labels ------------------------------------------------------------------------------------------------------------

DAYS = pd.date_range("2024-01-01", periods=4)


def column(values: list[float], name: str = "LABEL0", first: int = 0, **more: list[float]) -> pd.DataFrame:
    """Return a column of one instrument, with one value per day."""
    index = pd.MultiIndex.from_product([DAYS[first : first + len(values)], ["A"]], names=["datetime", "instrument"])
    return pd.DataFrame({name: values, **more}, index=index)


def task(*labels: str, **kwargs: Any) -> dict[str, Any]:
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {"label": list(labels), **kwargs},
    }
    return {"dataset": {"kwargs": {"handler": handler, "segments": {"test": ("2024-01-01", "2024-01-04")}}}}


def test_labels_are_compared_by_their_expressions() -> None:
    """Spaces and dates do not count; without expressions the whole dataset counts."""
    assert label_kind(task("Ref($close, -2) / $close")) == "Ref($close,-2)/$close"
    assert label_kind(task("$close", "$open")) == "$close; $open"
    assert label_kind(task("$close", start_time="2020-01-01")) == label_kind(task("$close"))
    unknown = [{"dataset": {"kwargs": {"handler": f"file://{name}.pkl"}}} for name in "ab"]
    assert label_kind(unknown[0]) != label_kind(unknown[1])
    assert label_kind(unknown[0]) == label_kind({**unknown[0], "model": {"class": "A"}})
    declared = [{"dataset": {"kwargs": {"handler": {"kwargs": {"label_days": 5, "seed": seed}}}}} for seed in (1, 2)]
    assert label_kind(declared[0]) != label_kind(declared[1])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([1.0, 2.0, np.nan], True),
        ([1.0 + 0.9e-5, 2.0, np.nan], True),
        ([1.0 + 3e-5, 2.0, np.nan], False),
        ([1.0, 2.0, 0.0], False),
        ([1.0, 2.0], True),
        ([1.0], True),
    ],
)
def test_labels_of_other_definitions_are_the_same_if_their_values_are(other: list[float], same: bool) -> None:
    """To the precision of float32, including missing values, on the common rows."""
    first = column([1.0, 2.0, np.nan])
    joined = join_labels([ModelLabel("a", first, "x"), ModelLabel("b", column(other), "y")])
    assert joined is not None
    assert joined.others == (() if same else ("b",))
    pd.testing.assert_frame_equal(joined.frame, first)


def test_labels_near_zero_are_not_the_same() -> None:
    """Differences above a billionth are not rounding errors of a zero; only single columns are compared."""
    first = column([0.0, 1e-7])
    for values, same in (([5e-10, 1e-7], True), ([2e-9, 1e-7], False), ([0.5, 0.5], False)):
        joined = join_labels([ModelLabel("a", first, "x"), ModelLabel("b", column(values, OTHER=[0.0, 1e-7]), "y")])
        assert joined is not None
        assert (joined.others == ()) is same
    several = column([7.0, 8.0], OTHER=[0.0, 1e-7])
    for one, other in ((first, several), (several, first)):
        joined = join_labels([ModelLabel("a", one, "x"), ModelLabel("b", other, "y")])
        assert joined is not None
        assert joined.others == ("b",)


def test_labels_without_a_common_row_are_compared_by_definition() -> None:
    """Labels with equal definitions are joined; labels with different ones may differ."""
    first, later = column([1.0, 2.0]), column([3.0], first=2)
    joined = join_labels([ModelLabel("a", first, "x"), ModelLabel("b", later, "x"), ModelLabel("c", later, "y")])
    assert joined is not None
    assert joined.frame["LABEL0"].tolist() == [1.0, 2.0, 3.0]
    assert joined.others == ()
    apart = join_labels([ModelLabel("a", first, "x"), ModelLabel("c", later, "y")])
    assert apart is not None
    assert apart.others == ("c",)
    assert join_labels([]) is None


def test_missing_labels_are_filled_from_other_models() -> None:
    """From the first column, whatever its name; existing values are kept."""
    first = column([np.nan, 2.0], MORE=[5.0, 6.0])
    other = column([1.0, 2.0, 3.0], "RETURN")
    joined = join_labels([ModelLabel("a", first, "x"), ModelLabel("b", other, "x")])
    assert joined is not None
    assert list(joined.frame.columns) == ["LABEL0", "MORE"]
    assert joined.frame["LABEL0"].tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(joined.frame["MORE"], [5.0, 6.0, np.nan])


# -- joining and averaging ---------------------------------------------------------------------------------------------


def window(first: int, codes: str = "AB", days: int = 1, value: float = 1.0) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([DAYS[first : first + days], list(codes)], names=["datetime", "instrument"])
    return pd.DataFrame({"score": np.full(len(index), value)}, index=index)


@pytest.mark.parametrize(
    "parts",
    [
        [window(0)["score"].rename("x"), window(1)["score"].rename("y")],
        [window(0)["score"], window(1)["score"].astype("Float64")],
        [window(0)["score"].astype("Float64"), window(1)["score"].astype("Float64")],
        [window(0).astype("Float64"), window(1).astype("Float64")],
        [window(0), window(1).rename_axis(columns="c")],
        [window(0), window(1).rename(columns={"score": "other"})],
        [window(0), pd.concat({"x": window(1)}, names=["run"])],
        [window(0), window(1).droplevel("instrument")],
        [window(0).droplevel("instrument")],
        [pd.concat({"x": window(0)}, names=["run"]), pd.concat({"x": window(1)}, names=["run"])],
        [window(0), window(0)],
        [window(1), window(0)],
        [window(0).iloc[[0, 0]]],
        [window(0), window(1).set_axis(pd.MultiIndex.from_product([["x"], list("AB")], names=["datetime", "instrument"]))],
        [window(0), window(1).set_axis(window(1).index.set_levels(DAYS[1:2].tz_localize("UTC"), level=0))],
    ],
    ids=["names", "a dtype of pandas", "series of pandas", "frames of pandas", "columns' name", "columns", "three levels",
         "one level", "days alone", "all three levels", "same day", "backwards", "a row twice", "texts", "zone"],
)  # fmt: skip
def test_the_fast_join_refuses_windows_of_different_forms(parts: list[Any]) -> None:
    """Other names, dtypes, levels or days: pandas joins these."""
    assert join_in_order(parts) is None


def test_attributes_of_a_window_are_left_to_pandas() -> None:
    """The joined frame keeps attributes that are the same in all windows."""
    marked = window(1)
    marked.attrs["x"] = 1
    assert join_in_order([window(0), marked]) is None


def test_the_fast_join_accepts_any_level_values() -> None:
    """Days and instruments without rows, instruments in another order, a single window."""
    sparse = window(0, "ABC", 4).iloc[[4, 11]]  # the second instrument of the second day, and the third of the fourth
    joined = join_in_order([window(0), sparse])
    assert joined.index.tolist() == [(DAYS[0], "A"), (DAYS[0], "B"), (DAYS[1], "B"), (DAYS[3], "C")]
    assert list(joined.index.levels[0]) == [DAYS[0], DAYS[1], DAYS[3]]
    backwards = window(0, "B").set_axis(
        pd.MultiIndex([DAYS[:1], ["B", "A"]], [[0], [0]], names=["datetime", "instrument"])
    )
    both = join_in_order([backwards, window(1)])
    assert both.index.tolist() == [(DAYS[0], "B"), (DAYS[1], "A"), (DAYS[1], "B")]
    assert both.index.is_monotonic_increasing
    alone = join_in_order([window(0)["score"]])
    assert (alone.name, alone.tolist()) == ("score", [1.0, 1.0])


def test_an_average_is_of_standardised_days() -> None:
    """Deviations use n - 1; a model with equal scores counts as 0, a missing one does not count."""
    one = window(0, "ABC").assign(score=[1.0, 2.0, 6.0])["score"]
    other = window(0, "ABC").assign(score=[3.0, np.inf, 5.0])["score"]
    equal = window(0, "ABC")["score"]
    z = np.array([-2.0, -1.0, 3.0]) / np.sqrt(7)
    np.testing.assert_allclose(AverageEnsemble()({"one": one}), z)
    w = np.array([-1.0, np.nan, 1.0]) / np.sqrt(2)
    np.testing.assert_allclose(
        AverageEnsemble()({"one": one, "other": other}), [(z[0] + w[0]) / 2, z[1], (z[2] + w[2]) / 2]
    )
    np.testing.assert_allclose(AverageEnsemble()({"one": one, "equal": equal}), z / 2)
    with pytest.raises(CoverageError, match="no results"):
        AverageEnsemble()({})
    with pytest.raises(CoverageError, match="twice"):
        AverageEnsemble()({"one": pd.concat([one, one])})
    with pytest.raises(CoverageError, match="no windows"):
        RollingEnsemble()({"one": one[:0]})


# -- coverage ----------------------------------------------------------------------------------------------------------

CALENDAR = np.arange(np.datetime64("2024-01-01"), np.datetime64("2024-02-01"))


def expected(key: str, first: int, last: int, group: str = "", state: str = "done") -> ExpectedWindow:
    return ExpectedWindow(key, CALENDAR[first - 1], CALENDAR[last - 1], state, group)


def predicted(first: int, last: int, codes: str) -> pd.MultiIndex:
    return pd.MultiIndex.from_product(
        [pd.DatetimeIndex(CALENDAR[first - 1 : last]), list(codes)], names=["datetime", "instrument"]
    )


def test_coverage_is_complete_without_notes() -> None:
    """Remarks do not make it incomplete; the error lists every note."""
    assert Coverage().complete
    assert Coverage(remarks=("w",)).complete
    Coverage(remarks=("w",)).raise_if_incomplete()
    broken = Coverage(notes=("first", "second"))
    assert not broken.complete
    with pytest.raises(CoverageError, match="first\n  second\n"):
        broken.raise_if_incomplete()


def test_days_that_are_missing_or_too_many_are_named() -> None:
    """The message has the first and the last of them, or the only one."""
    windows = [expected("w1", 2, 5), expected("w2", 6, 9)]
    found = {"w1": CALENDAR[[1, 4]], "w2": CALENDAR[[4, 5, 6, 7, 8, 9]]}
    assert check_coverage(windows, CALENDAR, found).notes == (
        "w1 has no prediction for 2 days: 2024-01-03 to 2024-01-04",
        "w2 predicts 2 days outside its test segment: 2024-01-05 to 2024-01-10",
    )
    found = {"w1": CALENDAR[[1, 2, 4]], "w2": CALENDAR[[5, 6, 7, 8, 9]]}
    assert check_coverage(windows, CALENDAR, found).notes == (
        "w1 has no prediction for 1 day: 2024-01-04",
        "w2 predicts 1 day outside its test segment: 2024-01-10",
    )


def test_twenty_pairs_are_named() -> None:
    """The others are counted."""
    for windows, more in ((6, None), (7, 1)):
        made = [expected(f"w{i}", 1, 3) for i in range(windows)]
        notes = [n for n in check_coverage(made, CALENDAR, {w.key: CALENDAR[:3] for w in made}).notes if "overlap" in n]
        assert len(notes) == (15 if more is None else 21)
        assert (notes[-1] == f"{more} more pairs of windows overlap") is (more is not None)


def test_a_tenth_of_the_rows_may_be_missing() -> None:
    """Up to a tenth is a remark, more is a note; both have the number of instruments and name the first three."""
    windows = [expected("a1", 1, 2, "a"), expected("b1", 1, 2, "b")]
    for codes, left in (("ABCDEFGHIJ", "ABCDEFGHI"), ("ABCDEFGHIJ", "ABCDEFGH")):
        coverage = check_coverage(windows, CALENDAR, {"a1": predicted(1, 2, codes), "b1": predicted(1, 2, left)})
        gone = codes[len(left) :]
        text = (
            f"b lacks {len(gone)}0.0% of the rows that other models predict on the same days: {len(gone)} of 10 instruments "
            f"({', '.join(gone)}) on 2 days (2024-01-01 to 2024-01-02)"
        )
        assert (coverage.notes, coverage.remarks) == (((), (text,)) if len(gone) == 1 else ((text,), ()))
    coverage = check_coverage(windows, CALENDAR, {"a1": predicted(1, 2, "ABCDEFGHIJ"), "b1": predicted(1, 2, "FGHIJ")})
    assert "5 of 10 instruments (A, B, C and 2 more) on" in coverage.notes[0]
    coverage = check_coverage(
        windows, CALENDAR, {"a1": predicted(1, 2, "ABCDEFGHIJ"), "b1": predicted(1, 2, "DEFGHIJ")}
    )
    assert "3 of 10 instruments (A, B, C) on" in coverage.notes[0]


def test_windows_that_both_models_predict_alike_count_in_the_share() -> None:
    """Nineteen of twenty rows exist: the window without missing rows is part of the total."""
    windows = [expected(f"{g}{i}", 2 * i + 1, 2 * i + 2, g) for g in "ab" for i in (0, 1)]
    found = {
        "a0": predicted(1, 2, "ABCDE"), "a1": predicted(3, 4, "ABCDE"), "b0": predicted(1, 2, "ABCDE"),
        "b1": predicted(3, 4, "ABCDE")[:-1],
    }  # fmt: skip
    coverage = check_coverage(windows, CALENDAR, found)
    assert coverage.notes == ()
    assert coverage.remarks == (
        "b lacks 5.0% of the rows that other models predict on the same days: 1 of 5 instruments (E) on 1 day (2024-01-04)",
    )


def test_a_row_without_a_day_is_not_a_row_of_the_last_day() -> None:
    """The row of its instrument on that day is still missing."""
    windows = [expected("a1", 1, 2, "a"), expected("b1", 1, 2, "b")]
    unplaced = pd.MultiIndex.from_tuples([(pd.NaT, "E")], names=["datetime", "instrument"])
    found = {"a1": predicted(1, 2, "ABCDE"), "b1": predicted(1, 2, "ABCDE")[:-1].append(unplaced)}
    (remark,) = check_coverage(windows, CALENDAR, found).remarks
    assert "1 of 5 instruments (E) on 1 day (2024-01-02)" in remark


def test_a_small_share_is_not_shown_as_zero() -> None:
    """Below half a thousandth it is "less than 0.1%"."""
    codes = [f"{i:04}" for i in range(2001)]
    windows = [expected("a1", 1, 1, "a"), expected("b1", 1, 1, "b")]
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(CALENDAR[:1]), codes], names=["datetime", "instrument"])
    for rows, share in ((2001, "less than 0.1%"), (2000, "0.1%")):
        found = {"a1": index[:rows], "b1": index[: rows - 1]}
        (remark,) = check_coverage(windows, CALENDAR, found).remarks
        assert remark.startswith(f"b lacks {share} of the rows")


def test_models_that_predict_different_days_are_named() -> None:
    """Each set of days once, with the models that have and that lack them."""
    windows = [expected("a1", 1, 4, "a"), expected("b1", 1, 4, "b"), expected("c1", 1, 4, "c")]
    found = {"a1": CALENDAR[:4], "b1": CALENDAR[:2], "c1": CALENDAR[:3]}
    notes = check_coverage(windows, CALENDAR, found).notes
    assert [n for n in notes if n.startswith("On")] == [
        "On 1 day (2024-01-03) the average is of a and c: b has no prediction",
        "On 1 day (2024-01-04) the average is of a alone: b and c have no prediction",
    ]


def test_days_that_a_model_has_no_window_for_are_named() -> None:
    """With singular or plural verbs for the models that lack and have them."""
    windows = [
        expected("a1", 1, 6, "a"), expected("b1", 1, 3, "b"), expected("c1", 1, 3, "c"), expected("b2", 6, 6, "b"),
        expected("c2", 5, 6, "c"),
    ]  # fmt: skip
    found = {w.key: np.arange(w.start, w.end + np.timedelta64(1, "D")) for w in windows}
    notes = [n for n in check_coverage(windows, CALENDAR, found).notes if "no window" in n]
    assert notes == [
        "b and c have no window for 2024-01-04 (1 trading day), which a tests",
        "b has no window for 2024-01-05 (1 trading day), which a and c test",
    ]


def test_rows_left_out_of_several_windows_are_one_remark() -> None:
    """The remark names the first three windows and the largest share; a tenth may be left out."""
    windows = [expected(f"w{i}", i, i) for i in range(1, 6)]
    available = {w.key: predicted(i, i, "ABCDEFGHIJ") for i, w in enumerate(windows, 1)}
    found = {w.key: predicted(i, i, "ABCDEFGHIJ"[: 11 - i]) for i, w in enumerate(windows, 1)}
    (remark,) = check_coverage(windows, CALENDAR, found, available).remarks
    assert remark == "w3, w4, w5 leave out up to 40% of the rows of the data"
    more = check_coverage(windows, CALENDAR, {**found, "w2": predicted(2, 2, "ABCDEF")}, available)
    assert more.remarks == ("w2, w3, w4 and 1 more leave out up to 40% of the rows of the data",)


def test_rows_are_unique_by_day_and_instrument() -> None:
    """In any order, with more instruments than days or the reverse."""
    for index in (predicted(1, 2, "ABCDE"), predicted(1, 5, "AB")):
        (window,) = [expected("w", 1, len(index.levels[0]))]
        for order in (slice(None), slice(None, None, -1)):
            assert check_coverage([window], CALENDAR, {"w": index[order]}).complete
        twice = check_coverage([window], CALENDAR, {"w": index.append(index[-1:])})
        assert twice.notes == ("w predicts 1 row more than once; the last of each is used",)


# -- collectors --------------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Six finished recorders with one object each, and a failed one."""
    made = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="mine")
    for i in range(6):
        recorder = made.create_recorder(f"r{i}")
        recorder.save_objects(**{"pred.pkl": i} if i else {"other.pkl": 0})
        recorder.end_run()
    made.create_recorder("bad").end_run("FAILED")
    return made


@pytest.mark.parametrize(("ahead", "loaded"), [(0, 1), (2, 3), (None, 5)])
def test_a_stream_loads_a_limited_number_ahead(
    experiment: Experiment, ahead: int | None, loaded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it loads two for each thread; if the consumer stops early, the others are not loaded."""
    begun: list[Any] = []
    collector = RecorderCollector(experiment, rec_key_func=lambda r: r.name, coverage="allow_gaps", jobs=2)
    load = collector._load_all
    monkeypatch.setattr(
        collector, "_load_all", lambda recorder, *rest: (begun.append(recorder.name), load(recorder, *rest))[1]
    )
    stream = collector.stream(order=lambda name: -int(name[1:]), ahead=ahead)
    assert next(stream) == ("r5", 5)
    stream.close()
    assert len(begun) == loaded
    assert sorted(begun) == [f"r{i}" for i in range(6 - loaded, 6)]


def test_what_is_missing_and_unfinished_is_listed(experiment: Experiment) -> None:
    """Recorders without the object are an error unless gaps are allowed; those with another status are left out."""
    collector = RecorderCollector(experiment, rec_key_func=lambda r: r.name)
    with pytest.raises(CoverageError, match=r"1 results are missing:\n  'r0'"):
        collector()
    assert [text.split()[-1] for text in collector.unfinished] == ["FAILED"]
    lenient = RecorderCollector(experiment, rec_key_func=lambda r: r.name, coverage="allow_gaps", status=None)
    assert sorted(lenient()["pred"]) == [f"r{i}" for i in range(1, 6)]
    assert len(lenient.missing) == 2
    assert lenient.unfinished == []
    failed = RecorderCollector(experiment, rec_key_func=lambda r: r.name, status=["FAILED"])
    assert [r.name for r in failed.recorders_now()] == ["bad"]
    assert [r.name for r in lenient.recorders_now(lambda r: r.name == "r3")] == ["r3"]
    with pytest.raises(ConfigError, match="Did you mean 'pred'"):
        collector.collect("perd")
    with pytest.raises(CoverageError, match="'strict' or 'allow_gaps', found 'lax'"):
        RecorderCollector(experiment, coverage="lax")


def test_the_recorder_itself_can_be_collected(experiment: Experiment) -> None:
    """Under its own name; an experiment has a name, and a function that returns recorders has none."""
    raw = RecorderCollector(experiment, rec_key_func=lambda r: r.name).collect(RecorderCollector.ART_KEY_RAW)
    assert raw["__raw"]["r0"].name == "r0"
    assert RecorderCollector(experiment).get_exp_name() == "mine"
    listed = RecorderCollector(lambda: {"one": raw["__raw"]["r1"]}, rec_key_func=lambda r: r.name)
    assert listed.get_exp_name() == "recorders"
    assert listed() == {"pred": {"r1": 1}}


def test_an_experiment_can_be_named(experiment: Experiment, tmp_path: Path) -> None:
    """An experiment is looked up in the session's tracking store, and loaded with the session's threads."""
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs", threads=1)):
        found = RecorderCollector("mine", coverage="allow_gaps", rec_key_func=lambda r: r.name)()
    assert sorted(found["pred"].values()) == [1, 2, 3, 4, 5]


def test_many_days_need_wide_codes() -> None:
    """More days than instruments, near the sizes at which the dtype of the codes changes."""
    days = pd.bdate_range("2020-01-01", periods=260)
    for count in (63, 64, 130):
        index = pd.MultiIndex.from_product([days, ["A"]], names=["datetime", "instrument"])
        frame = pd.DataFrame({"score": np.arange(260.0)}, index=index)
        joined = join_in_order([frame[:count], frame[count : 2 * count].set_axis(index[count : 2 * count])])
        pd.testing.assert_frame_equal(joined, frame[: 2 * count], check_freq=False)


def test_days_up_to_the_end_of_the_calendar_are_named() -> None:
    """For a model whose last window is missing, with no day after it."""
    windows = [expected("a1", 1, 31, "a"), expected("b1", 1, 28, "b")]
    found = {"a1": CALENDAR, "b1": CALENDAR[:28]}
    notes = check_coverage(windows, CALENDAR, found).notes
    assert notes[0] == "b has no window for 2024-01-29 to 2024-01-31 (3 trading days), which a tests"


def test_zero_jobs_are_refused() -> None:
    """Negative numbers mean Python's default."""
    with pytest.raises(ValueError, match="max_workers"):
        RollingGroup(ens=len)({("a", 1): 1, ("b", 1): 2}, 0)


def test_a_result_knows_its_models_and_failures() -> None:
    """Each model once, in the order of the tasks, and the number of failed tasks."""
    tasks = [("ridge", Status.DONE), ("trees", Status.FAILED), ("ridge", Status.FAILED), ("trees", Status.WAITING)]
    outcomes = tuple(
        TaskOutcome(
            TaskRecord(id=str(i), pool="p", definition={"model": {"class": name}, "dataset": {}}, status=status),
            None,
            name,
        )
        for i, (name, status) in enumerate(tasks)
    )
    required = [f.name for f in fields(Collected) if f.default is MISSING and f.default_factory is MISSING]
    nothing: dict[str, Any] = dict.fromkeys(required[1:])
    result = Collected(outcomes=outcomes, **nothing)
    assert result.model_names == ("ridge", "trees")
    assert result.failed == 2
    assert result.template_text() == (
        "# The first of 4 tasks, model ridge. A report made from the workflow file shows the file.\nmodel:\n  class: ridge\n"
        "dataset: {}\n"
    )
    assert Collected(outcomes=(), **nothing).template_text() == ""


@pytest.mark.parametrize(
    ("blob", "error"), [(b"\x80\x04", ArtifactUnreadable), (b"cos\nsystem\n(S'true'\ntR.", UntrustedPickle)]
)
def test_a_task_with_a_damaged_or_hostile_result_is_collected_without_it(
    blob: bytes, error: type[Exception], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that names the task; the results of the others are read."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs")
    store = open_store(session.store_uri)
    ids = [created.id for created in store.create("p", [{"n": 1}, {"n": 2}])]
    for task in store.claim("p", worker="w", lease=60, limit=2):
        store.commit(task, {"n": task.definition["n"]})
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        connection.execute("UPDATE results SET plain = NULL, blob = ? WHERE id = ?", (blob, ids[0]))
        connection.commit()
    with pytest.raises(error):
        store.get("p", ids[0])
    found = outcomes(session, "p")
    assert {one.task.id: one.task.result for one in found} == {ids[0]: None, ids[1]: {"n": 2}}
    assert f"{ids[0]}" in caplog.text
    assert "It is omitted." in caplog.text
    store.close()
