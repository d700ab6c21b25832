"""Splitters for scikit-learn: the windows of the generators, over rows in any form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge import CombinatorialPurgedSplit, PurgedKFold, RollingSplit
from rollforge.errors import ConfigError, DataError, RollforgeError, SegmentError
from rollforge.generate import CombinatorialPurgedGen, PurgedKFoldGen, RollingGen
from rollforge.generate.segments import intervals
from rollforge.generate.task_view import TaskView

DAYS = pd.bdate_range("2020-01-01", periods=60)
CALENDAR = DAYS.to_numpy().astype("datetime64[D]")


def rows(days: pd.DatetimeIndex = DAYS, codes: str = "AB") -> pd.DataFrame:
    """Return a column of numbers by day and instrument."""
    index = pd.MultiIndex.from_product([days, list(codes)], names=["datetime", "instrument"])
    return pd.DataFrame({"x": np.arange(len(index), dtype=float)}, index)


def days_in(task: dict[str, Any], name: str, calendar: np.ndarray[Any, Any] = CALENDAR) -> list[int]:
    """Return the positions of the days of a task's segment."""
    segment = TaskView(task).segments[name]
    return sorted(d for part in intervals(name, segment) for d in range(*part.positions(calendar)))


def by_day(frame: pd.DataFrame, taken: np.ndarray[Any, Any], days: pd.DatetimeIndex = DAYS) -> list[int]:
    """Return the positions of the days of rows."""
    return sorted(set(days.get_indexer(frame.index[taken].get_level_values("datetime"))))


def template(first: tuple[Any, Any], test: tuple[Any, Any], ahead: int = 1) -> dict[str, Any]:
    """Return a template whose label looks `ahead` days ahead."""
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {"label": [f"Ref($close, -{ahead})/$close - 1"]},
    }
    return {"dataset": {"kwargs": {"handler": handler, "segments": {"train": first, "test": test}}}}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 15), st.integers(0, 4), st.booleans(), st.integers(30, 60))
def test_the_windows_are_those_of_rolling_gen(train: int, step: int, ahead: int, expanding: bool, count: int) -> None:
    """With the same first training window, test length and look-ahead, for both kinds of windows."""
    days = DAYS[:count]
    start = train + ahead
    made = RollingGen(
        step, "expanding" if expanding else "sliding", trunc_days="auto", clip_test_end=True, calendar=days
    ).generate(template((days[0], days[start - 1]), (days[start], days[-1]), ahead))
    frame = rows(days)
    splits = RollingSplit(train, step, expanding=expanding, purge=ahead).split(frame)
    calendar = CALENDAR[:count]
    assert [(by_day(frame, a, days), by_day(frame, b, days)) for a, b in splits] == [
        (days_in(t, "train", calendar), days_in(t, "test", calendar)) for t in made
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 3), st.sampled_from([0, 2, 0.05]))
def test_purged_splits_are_those_of_the_generators(groups: int, tested: int, purge: int, embargo: float) -> None:
    """Combinatorial splits, and with one tested group k-fold."""
    tested = min(tested, groups - 1)
    own = template((DAYS[0], DAYS[30]), (DAYS[31], DAYS[-1]))
    frame = rows()
    splitter = CombinatorialPurgedSplit(groups, tested, purge, embargo)
    try:
        splits = [(by_day(frame, a), by_day(frame, b)) for a, b in splitter.split(frame)]
    except SegmentError:
        with pytest.raises(SegmentError):
            CombinatorialPurgedGen(groups, tested, purge, embargo, calendar=DAYS).generate(own)
        return
    made = CombinatorialPurgedGen(groups, tested, purge, embargo, calendar=DAYS).generate(own)
    assert splits == [(days_in(t, "train"), days_in(t, "test")) for t in made]
    assert splitter.get_n_splits() == len(splits) == math.comb(groups, tested)
    if tested == 1:
        folds = PurgedKFold(groups, purge, embargo).split(frame)
        assert [(by_day(frame, a), by_day(frame, b)) for a, b in folds] == splits
        assert len(PurgedKFoldGen(groups, purge, embargo, calendar=DAYS).generate(own)) == len(splits)


@pytest.mark.parametrize(
    "splitter", [RollingSplit(20, 10, purge=2), PurgedKFold(4, 2, 1), CombinatorialPurgedSplit(4, 2, 1)], ids=repr
)
def test_the_form_of_the_rows_does_not_matter(splitter: Any) -> None:
    """Order of rows and levels, time zone, days as groups: the same rows are chosen."""
    frame = rows()
    wanted = [(set(frame["x"].to_numpy()[a]), set(frame["x"].to_numpy()[b])) for a, b in splitter.split(frame)]
    shuffled = frame.sample(frac=1, random_state=3)
    zoned = frame.set_index(frame.index.set_levels(DAYS.tz_localize("Asia/Shanghai"), level=0))
    swapped = shuffled.swaplevel()
    texts = frame.set_index(frame.index.set_levels(DAYS.strftime("%Y-%m-%d"), level=0))
    dated = frame.rename_axis(["date", "code"])
    for other in (shuffled, zoned, swapped, texts, dated, frame.index.to_frame().assign(x=frame["x"])):
        chosen = other["x"].to_numpy()
        assert [(set(chosen[a]), set(chosen[b])) for a, b in splitter.split(other)] == wanted
    bare = shuffled["x"].to_numpy()
    level = shuffled.index.get_level_values("datetime")
    for groups in (
        level,
        level.strftime("%Y-%m-%d"),
        level.strftime("%Y-%m-%d").tolist(),
        level.to_numpy(),
        list(level),
    ):
        assert [(set(bare[a]), set(bare[b])) for a, b in splitter.split(bare, groups=groups)] == wanted
    for a, b in splitter.split(shuffled):
        assert (np.diff(a) > 0).all()
        assert (np.diff(b) > 0).all()


def test_offsets_count_calendar_days_from_the_first_test() -> None:
    """With a year of training and tests of a quarter, windows begin on the same day of the month in spite of weekends."""
    days = pd.bdate_range("2020-01-01", "2022-06-30")
    frame = pd.DataFrame(index=days)
    splitter = RollingSplit(pd.DateOffset(years=1), pd.DateOffset(months=3))
    found = [(days[a[0]], days[a[-1]], days[b[0]], days[b[-1]]) for a, b in splitter.split(frame)]
    assert [f"{f[2]:%Y-%m-%d}" for f in found] == [
        "2021-01-01", "2021-04-01", "2021-07-01", "2021-10-01", "2022-01-03", "2022-04-01",
    ]  # fmt: skip
    assert all(earlier[3] < later[2] for earlier, later in pairwise(found))
    assert found[0][:2] == (days[0], pd.Timestamp("2020-12-31"))
    assert found[4][:2] == (pd.Timestamp("2021-01-01"), pd.Timestamp("2021-12-31"))
    assert found[-1][3] == days[-1]
    with_gap = frame[(days < "2021-04-01") | (days >= "2021-11-15")]
    gapped = [with_gap.index[b[0]] for _, b in splitter.split(with_gap)]
    assert gapped == [pd.Timestamp(d) for d in ("2021-01-01", "2021-11-15", "2022-01-03", "2022-04-01")]


def test_a_short_last_window_is_kept_or_dropped() -> None:
    """Sixty days, of which 20 are trained on and 12 tested at a time: the last test has 4 days."""
    frame = rows()
    kept = [len(by_day(frame, test)) for _, test in RollingSplit(20, 12).split(frame)]
    assert kept == [12, 12, 12, 4]
    assert RollingSplit(20, 12, drop_last=True).get_n_splits(frame) == 3
    assert RollingSplit(20, 10, drop_last=True).get_n_splits(frame) == 4
    assert RollingSplit(20, 12, step=6).get_n_splits(frame) == 7


def test_days_of_the_calendar_without_rows_count() -> None:
    """A purge of two trading days is two trading days, even where the data lack one of them."""
    frame = rows(DAYS.delete(19))
    splitter = RollingSplit(18, 10, purge=2, calendar=DAYS)
    train, test = next(splitter.split(frame))
    assert (frame.index[train][-1][0], frame.index[test][0][0]) == (DAYS[17], DAYS[20])
    with pytest.raises(DataError, match="is not a day of the calendar"):
        next(RollingSplit(5, 5, calendar=DAYS.delete(30)).split(rows()))


@pytest.mark.parametrize(
    ("given_rows", "groups", "text"),
    [
        (np.zeros((4, 1)), None, "the rows have no days"), ([], None, "the rows have no days"),
        (np.zeros((4, 1)), ["2020-01-01"] * 3, "4 rows and 3 days"), (np.zeros((2, 1)), ["2020-01-01", None], "no"),
        (np.zeros((2, 1)), ["a", "b"], "groups"), (rows()[:0], None, "no rows"),
        (np.zeros((2, 1)), pd.DatetimeIndex(["2020-01-01", None]), "1 row of 2 have no day|1 row of 2"),
    ],
)  # fmt: skip
def test_rows_without_days_are_errors(given_rows: Any, groups: Any, text: str) -> None:
    """The message says what is missing."""
    with pytest.raises(RollforgeError, match=text):
        list(PurgedKFold(2).split(given_rows, groups=groups))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RollingSplit(0, 1), lambda: RollingSplit(1, -1), lambda: RollingSplit(1.5, 1), lambda: RollingSplit("x", 1),
        lambda: RollingSplit("1h", 1), lambda: RollingSplit(1, 1, 0), lambda: RollingSplit(1, 1, purge=-1),
        lambda: PurgedKFold(1), lambda: PurgedKFold(2, embargo=1.0), lambda: CombinatorialPurgedSplit(3, 3),
        lambda: RollingSplit(True, 1), lambda: RollingSplit(-pd.DateOffset(days=1), 1),
    ],
)  # fmt: skip
def test_invalid_arguments_are_errors(make: Any) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.path


def test_too_few_days_are_an_error() -> None:
    """The error states how many there are."""
    with pytest.raises(SegmentError, match="no day is left to test"):
        list(RollingSplit(60, 5).split(rows()))
    with pytest.raises(SegmentError, match="no training day is left"):
        list(PurgedKFold(2, purge=30).split(rows()))
    with pytest.raises(SegmentError, match="61 groups"):
        list(PurgedKFold(61).split(rows()))


TWO_LEVELS = pd.DataFrame(index=pd.MultiIndex.from_arrays([DAYS, DAYS, range(60)], names=["listed", "traded", "row"]))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: RollingSplit(58, 5, purge=1, embargo=1).split(rows()),
         "a training window of 58 days and 2 days between it and the test need more than 60 days"),
        (lambda: PurgedKFold(2, purge=29, embargo=2).split(rows()),
         "no training day is left for the test of 2020-01-01 to 2020-02-11 after leaving out 29 days on each side and an "
         "embargo of 2 days."),
        (lambda: PurgedKFold(61).split(rows()), "61 groups of days cannot be formed from 60 days."),
        (lambda: CombinatorialPurgedSplit(3, 3), "found 3 of 3."),
        (lambda: CombinatorialPurgedSplit(3, 0), "n_tested: must be a whole number, at least 1; found 0."),
        (lambda: PurgedKFold(2).split(np.zeros((4, 1)), groups=["2020-01-01"] * 3), "There are 4 rows and 3 days in groups."),
        (lambda: PurgedKFold(2).split(np.zeros((3, 1)), groups=pd.DatetimeIndex(["2020-01-01", None, None])),
         "2 rows of 3 have no day."),
        (lambda: RollingSplit(5, 5, calendar=DAYS.delete([30, 40])).split(rows()), "2020-02-12 is not a day of the calendar."),
        (lambda: PurgedKFold(2).split(TWO_LEVELS), "the rows have no days."),
    ],
)  # fmt: skip
def test_errors_state_the_numbers(split: Any, message: str) -> None:
    """Of days, rows and groups, and the first day that is wrong."""
    with pytest.raises(RollforgeError) as caught:
        list(split())
    assert message in str(caught.value)


def test_one_day_less_is_enough() -> None:
    """One window is left whose test has a single day."""
    ((train, test),) = RollingSplit(57, 5, purge=1, embargo=1).split(pd.DataFrame(index=DAYS))
    assert (train.tolist(), test.tolist()) == (list(range(57)), [59])
    assert len(list(PurgedKFold(60).split(rows()))) == 60
    assert len(list(PurgedKFold(2, purge=29).split(rows()))) == 2


def test_offsets_may_be_shorter_than_the_days_between_rows() -> None:
    """A training window of one day has one day; a step may be longer than the test."""
    found = [(a.tolist(), b.tolist()) for a, b in RollingSplit("1D", "3D", "7D").split(pd.DataFrame(index=DAYS[:15]))]
    assert found == [([0], [1, 2]), ([5], [6, 7]), ([10], [11, 12])]
    found = [(a.tolist(), b.tolist()) for a, b in RollingSplit("1D", "1D", "7D").split(pd.DataFrame(index=DAYS[:15]))]
    assert found == [([0], [1]), ([5], [6]), ([10], [11])]
    step = [(int(a[0]), int(b[0]), int(b[-1])) for a, b in RollingSplit(20, 10, 15).split(pd.DataFrame(index=DAYS))]
    assert step == [(0, 20, 29), (15, 35, 44), (30, 50, 59)]


def test_days_of_a_calendar_outside_of_the_rows_do_not_count() -> None:
    """Neither earlier nor later ones."""
    wide = pd.bdate_range(DAYS[0] - pd.Timedelta(days=30), DAYS[-1] + pd.Timedelta(days=30))
    rows = pd.DataFrame(index=DAYS)
    own, given = (RollingSplit(20, 10, 10, calendar=calendar).split(rows) for calendar in (None, wide))
    assert [(a.tolist(), b.tolist()) for a, b in given] == [(a.tolist(), b.tolist()) for a, b in own]


def test_days_are_found_in_the_rows_or_in_the_target() -> None:
    """In the level datetime, the only level of days, or the index of `y`; numbers of NumPy are numbers."""
    named = TWO_LEVELS.rename_axis(["listed", "datetime", "row"])
    right = [b.tolist() for _, b in PurgedKFold(2).split(pd.DataFrame(index=DAYS))]
    assert [b.tolist() for _, b in PurgedKFold(2).split(named)] == right
    assert [b.tolist() for _, b in PurgedKFold(np.int64(2)).split(np.zeros((60, 1)), y=pd.Series(0, DAYS))] == right
    assert repr(RollingSplit(5, 3, 2, expanding=True, calendar=DAYS)) == (
        "RollingSplit(train_size=5, test_size=3, step=2, expanding=True, purge=0, embargo=0, drop_last=False)"
    )


def test_scikit_learn_takes_the_splitters() -> None:
    """cross_val_score, GridSearchCV, and with days as groups."""
    selection, linear = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    frame = rows()
    inputs = pd.DataFrame(rng.normal(size=(len(frame), 3)), frame.index, list("abc"))
    target = inputs["a"] * 2 + rng.normal(size=len(frame)) * 0.1
    for splitter in (RollingSplit(20, 10, purge=2), PurgedKFold(4, 2, 1), CombinatorialPurgedSplit(4, 2, 1)):
        scores = selection.cross_val_score(linear.Ridge(), inputs, target, cv=splitter)
        assert len(scores) == splitter.get_n_splits(inputs)
        assert scores.min() > 0.9
        days = inputs.index.get_level_values("datetime")
        again = selection.cross_val_score(
            linear.Ridge(), inputs.to_numpy(), target.to_numpy(), groups=days, cv=splitter
        )
        np.testing.assert_allclose(scores, again)
        search = selection.GridSearchCV(linear.Ridge(), {"alpha": [0.1, 1000.0]}, cv=splitter).fit(inputs, target)
        assert search.best_params_ == {"alpha": 0.1}
        assert search.n_splits_ == len(scores)


FORMS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "unsorted": lambda frame: frame.sample(frac=1, random_state=1),
    "twice": lambda frame: pd.concat([frame, frame.iloc[::3]]),
    "time zone": lambda frame: frame.set_index(frame.index.set_levels(DAYS.tz_localize("America/New_York"), level=0)),
    "one instrument": lambda frame: frame.xs("A", level="instrument", drop_level=False),
    "minutes": lambda frame: frame.set_index(
        pd.MultiIndex.from_arrays([frame.index.get_level_values(0) + pd.Timedelta("9h31min"), frame.index.get_level_values(1)],
                                  names=frame.index.names)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "splitter", [RollingSplit(20, 10, purge=2), PurgedKFold(4, 2, 1), CombinatorialPurgedSplit(4, 2, 1)], ids=repr
)
def test_scikit_learn_takes_any_form_of_the_rows(form: str, splitter: Any) -> None:
    """In a search over a pipeline and in cross_validate, by its index, as arrays with days as groups, and by hand."""
    selection, linear = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.linear_model")
    pipeline, preprocessing = pytest.importorskip("sklearn.pipeline"), pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    frame = FORMS[form](rows())
    inputs = pd.DataFrame(rng.normal(size=(len(frame), 3)), frame.index, list("abc"))
    target = inputs["a"] * 2 + rng.normal(size=len(frame)) * 0.1
    days = pd.DatetimeIndex(inputs.index.get_level_values("datetime")).tz_localize(None).normalize()
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear.Ridge())
    expected = []
    for train, test in splitter.split(inputs):
        assert not set(days[train]) & set(days[test]), "the rows of a day are together"
        expected.append(model.fit(inputs.iloc[train], target.iloc[train]).score(inputs.iloc[test], target.iloc[test]))
    found = selection.cross_validate(model, inputs, target, cv=splitter, return_train_score=True)
    np.testing.assert_allclose(found["test_score"], expected)
    for groups in (days, days.strftime("%Y-%m-%d").tolist(), days.to_numpy()):
        arrays = inputs.to_numpy(), target.to_numpy()
        again = selection.cross_validate(model, *arrays, groups=groups, cv=splitter)["test_score"]
        np.testing.assert_allclose(again, expected)
    search = selection.GridSearchCV(model, {"ridge__alpha": [0.1, 1000.0]}, cv=splitter).fit(inputs, target)
    assert (search.best_params_, search.n_splits_) == ({"ridge__alpha": 0.1}, len(expected))
    by_groups = selection.GridSearchCV(model, {"ridge__alpha": [1.0]}, cv=splitter).fit(
        inputs.to_numpy(), target.to_numpy(), groups=days
    )
    assert by_groups.best_score_ == pytest.approx(np.mean(expected))


def test_scikit_learn_counts_the_splits_that_there_are() -> None:
    """Of a calendar with days without rows, a group may have none; a search would fail if the numbers differed."""
    selection, linear = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.linear_model")
    frame = rows().loc[[*DAYS[:12], *DAYS[24:]]]
    inputs = pd.DataFrame(np.arange(float(len(frame)))[:, None], frame.index, ["a"])
    for splitter, number in ((PurgedKFold(5, calendar=DAYS), 4), (CombinatorialPurgedSplit(5, 2, calendar=DAYS), 10)):
        assert len(list(splitter.split(inputs))) == splitter.get_n_splits(inputs) == number
        search = selection.GridSearchCV(linear.Ridge(), {"alpha": [1.0]}, cv=splitter).fit(inputs, inputs["a"])
        assert search.n_splits_ == number


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 4), st.integers(1, 15), st.booleans())
def test_rolling_windows_are_those_of_scikit_learn(
    splits: int, test: int, gap: int, train: int, expanding: bool
) -> None:
    """TimeSeriesSplit counts rows and ends with the last one: the same for one row a day and as many as are needed."""
    selection = pytest.importorskip("sklearn.model_selection")
    count = train + gap + test * splits
    theirs = selection.TimeSeriesSplit(splits, test_size=test, gap=gap, max_train_size=None if expanding else train)
    frame = pd.DataFrame(index=pd.bdate_range("2020-01-01", periods=count))
    ours = RollingSplit(train, test, purge=gap, expanding=expanding).split(frame)
    for own, other in zip(ours, theirs.split(frame), strict=True):
        assert [part.tolist() for part in own] == [part.tolist() for part in other]
