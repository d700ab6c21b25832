"""Purged cross-validation: which days each task tests, trains on and leaves out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import CombinatorialPurgedGen, PurgedKFoldGen, RollingGen
from rollforge.generate.checks import CheckResult
from rollforge.generate.leakage import leaking_segments, static_checks, task_warnings
from rollforge.generate.segments import intervals, pieces, validate_segments
from rollforge.generate.task_view import TaskView
from rollforge.generate.timeline import draw, windows
from rollforge.limits import TooLarge

DAYS = pd.bdate_range("2020-01-01", periods=60)
CALENDAR = DAYS.to_numpy().astype("datetime64[D]")


def template(days: pd.DatetimeIndex = DAYS, ahead: int = 2, **segments: Any) -> dict[str, Any]:
    """Return a template whose label looks `ahead` days ahead."""
    half = len(days) // 2
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {"label": [f"Ref($close, -{ahead})/$close - 1"], "fit_start_time": days[0], "fit_end_time": days[9]},
    }
    own = segments or {"train": (days[0], days[half]), "test": (days[half + 1], days[-1])}
    return {"model": {"class": "LGBModel"}, "dataset": {"kwargs": {"handler": handler, "segments": own}}}


def positions(task: dict[str, Any], name: str, days: pd.DatetimeIndex = DAYS) -> set[int]:
    """Return the positions of the days of a segment."""
    calendar = days.to_numpy().astype("datetime64[D]")
    found: set[int] = set()
    if name in TaskView(task).segments:
        for part in intervals(name, TaskView(task).segments[name]):
            found |= set(range(*part.positions(calendar)))
    return found


def test_every_day_is_tested_by_one_fold_and_the_neighbouring_days_are_not_trained_on() -> None:
    """Five folds of 12 days: 2 days before and 2 + 3 after each are left out, and all other days are trained on."""
    made = PurgedKFoldGen(5, embargo=3, calendar=DAYS).generate(template())
    assert [sorted(positions(t, "test")) for t in made] == [list(range(12 * i, 12 * i + 12)) for i in range(5)]
    assert positions(made[0], "train") == set(range(17, 60))
    assert positions(made[2], "train") == {*range(22), *range(41, 60)}
    assert positions(made[4], "train") == set(range(46))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_label_of_a_training_day_reaches_a_day_that_a_label_of_the_test_reaches(data: st.DataObject) -> None:
    """By brute force over all pairs of days, for any number of groups, look-ahead, embargo and validation share."""
    size = data.draw(st.integers(30, 120))
    days = pd.bdate_range("2020-01-01", periods=size)
    groups = data.draw(st.integers(2, 7))
    tested = data.draw(st.integers(1, groups - 1))
    ahead, embargo = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5))
    valid = data.draw(st.sampled_from([0, 0.2, 3]))
    try:
        made = CombinatorialPurgedGen(groups, tested, embargo=embargo, valid=valid, calendar=days).generate(
            template(days, ahead)
        )
    except SegmentError:  # no training day is left
        return
    assert len(made) == math.comb(groups, tested)
    for task in made:
        train, held, test = (positions(task, name, days) for name in ("train", "valid", "test"))
        assert train
        assert not train & test
        assert not train & held
        reached = {name: {d + i for d in own for i in range(ahead + 1)} for name, own in (("v", held), ("t", test))}
        for own, others in ((train, "v"), (train, "t"), (held, "t")):
            assert not {d + i for d in own for i in range(ahead + 1)} & reached[others]
        stops = [part.positions(days.to_numpy().astype("datetime64[D]"))[1] for part in groups_in(task)]
        assert not train & {stop + i for stop in stops for i in range(ahead + embargo)}
        # Nothing else is left out.
        near = {d + i for d in test for i in range(-ahead, ahead + 1)} | {
            stop + i for stop in stops for i in range(ahead + embargo)
        }
        near |= {d + i for d in held for i in range(-ahead, ahead + 1)}
        assert train | held == set(range(size)) - (near - held)


def groups_in(task: dict[str, Any]) -> tuple[Any, ...]:
    """Return the tested groups of a task."""
    return intervals("test", TaskView(task).segments["test"])


def test_each_group_is_tested_equally_often() -> None:
    """With 6 groups of which 2 are tested, there are 15 splits, and each group is in 5 of them."""
    generator = CombinatorialPurgedGen(6, 2, calendar=DAYS)
    made = generator.generate(template())
    assert (len(made), generator.count({}), generator.paths) == (15, 15, 5)
    counts = np.zeros(60, int)
    for task in made:
        counts[sorted(positions(task, "test"))] += 1
    assert set(counts) == {5}
    assert [len(groups_in(t)) for t in made] == [
        2
    ] * 15  # adjacent groups stay separate, so that paths can be distinguished


def test_validation_days_lie_before_the_last_test_and_are_purged_on_both_sides() -> None:
    """If the test is in the middle, the order is train, gap, valid, gap, test, gap, train."""
    task = PurgedKFoldGen(3, valid=5, calendar=DAYS).generate(template())[1]
    assert positions(task, "test") == set(range(20, 40))
    assert positions(task, "valid") == set(range(13, 18))
    assert positions(task, "train") == {*range(11), *range(42, 60)}
    first = PurgedKFoldGen(3, valid=5, calendar=DAYS).generate(template())[0]
    assert positions(first, "valid") == set(range(55, 60))


def test_validation_days_keep_the_share_of_the_template() -> None:
    """A template that validates on a fifth of its fitted days gives a fifth; without a valid segment there is none."""
    segments = {"train": (DAYS[0], DAYS[31]), "valid": (DAYS[32], DAYS[39]), "test": (DAYS[40], DAYS[59])}
    task = PurgedKFoldGen(3, calendar=DAYS).generate(template(**segments))[2]
    assert len(positions(task, "valid")) == math.ceil(0.2 * 38)
    assert "valid" not in TaskView(PurgedKFoldGen(3, calendar=DAYS).generate(template())[0]).segments


def test_processors_learn_from_the_longest_training_interval() -> None:
    """The fit window never contains a tested day."""
    for task in CombinatorialPurgedGen(5, 2, calendar=DAYS).generate(template()):
        kwargs = TaskView(task).handler_kwargs
        assert kwargs is not None
        fitted = set(
            range(*intervals("fit", (kwargs["fit_start_time"], kwargs["fit_end_time"]))[0].positions(CALENDAR))
        )
        parts = [set(range(*p.positions(CALENDAR))) for p in intervals("train", TaskView(task).segments["train"])]
        assert fitted == max(parts, key=len)


def test_splits_have_no_leak_and_an_unpurged_one_has() -> None:
    """Training days after the test are not a leak by themselves; without purging they are, on both sides of the
    test."""
    for task in CombinatorialPurgedGen(5, 2, valid=0.1, calendar=DAYS).generate(template()):
        assert leaking_segments(task, CALENDAR) == []
        assert task_warnings([task], CALENDAR) == []
        validate_segments(task, CALENDAR)
    middle = PurgedKFoldGen(3, purge=0, calendar=DAYS).generate(template())[1]
    assert [(leak.segment, leak.later, leak.days) for leak in leaking_segments(middle, CALENDAR)] == [
        ("train", "test", 2),
        ("test", "train", 2),
    ]


@pytest.mark.parametrize("generator", [PurgedKFoldGen, CombinatorialPurgedGen])
def test_the_static_checks_find_no_leak_in_a_cross_validation(generator: Any) -> None:
    """Neither in all of its tasks, nor in one of them if the others are known."""
    made = generator(5, embargo=1, valid=0.1, calendar=DAYS).generate(template())
    for checks in (static_checks(made, CALENDAR), static_checks(made[1:2], CALENDAR, among=made)):
        assert [check for check in checks if check.result is CheckResult.LEAK] == []
        segments = [check.text for check in checks if check.subject == "segments"]
        assert len(segments) == 1, "one finding is one row, also for the last fold, after which nothing is trained"
        assert "The tasks are a cross-validation" in segments[0]
    unpurged = generator(5, purge=0, calendar=DAYS).generate(template())
    assert any(check.result is CheckResult.LEAK for check in static_checks(unpurged, CALENDAR))


def test_an_unknown_horizon_is_an_error() -> None:
    """'auto' does not guess."""
    task = template()
    task["dataset"]["kwargs"]["handler"] = {"class": "DataHandlerLP", "kwargs": {}}
    with pytest.raises(ConfigError, match="purge"):
        PurgedKFoldGen(3, calendar=DAYS).generate(task)
    assert len(PurgedKFoldGen(3, purge=2, calendar=DAYS).generate(task)) == 3


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"n_folds": 1}, "n_folds"), ({"n_folds": True}, "n_folds"), ({"n_folds": 2.0}, "n_folds"),
        ({"purge": -1}, "purge"), ({"purge": "none"}, "purge"), ({"purge": True}, "purge"),
        ({"embargo": -1}, "embargo"), ({"embargo": 1.5}, "embargo"), ({"embargo": math.nan}, "embargo"),
        ({"valid": -1}, "valid"), ({"valid": 1.0}, "valid"), ({"valid": "a"}, "valid"), ({"valid": math.nan}, "valid"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_named(arguments: dict[str, Any], path: str) -> None:
    """The error has the path of the argument."""
    with pytest.raises(ConfigError) as caught:
        PurgedKFoldGen(**arguments, calendar=DAYS)
    assert caught.value.path == path


def test_a_period_that_is_too_short_is_an_error() -> None:
    """More folds than days; or nothing left to train on."""
    with pytest.raises(SegmentError, match="61 groups of days cannot be formed from 60 trading days"):
        PurgedKFoldGen(61, calendar=DAYS).generate(template())
    with pytest.raises(SegmentError, match="no training day is left for the test of 2020-01-01 to"):
        PurgedKFoldGen(2, embargo=40, calendar=DAYS).generate(template())
    with pytest.raises(ConfigError, match="n_tested"):
        CombinatorialPurgedGen(3, 3, calendar=DAYS)
    for invalid in ({"test": (DAYS[30], DAYS[20])}, {"train": (DAYS[0], DAYS[30]), "test": (DAYS[30], DAYS[-1])}):
        with pytest.raises(SegmentError, match=r"dataset\.kwargs\.segments"):
            PurgedKFoldGen(3, calendar=DAYS).generate(template(**invalid))


def test_too_many_splits_are_refused_before_they_are_made() -> None:
    """C(40, 20) is about 10^11."""
    with pytest.raises(TooLarge, match="CombinatorialPurgedGen makes 137,846,528,820"):
        CombinatorialPurgedGen(40, 20, calendar=DAYS).generate(template())


def test_intervals_of_a_segment_are_sorted_and_must_not_overlap() -> None:
    """The order in which they are written does not matter."""
    parts = [("2020-03-02", None), (None, "2020-01-31")]
    assert [str(p.start) for p in intervals("train", parts)] == ["None", "2020-03-02"]
    with pytest.raises(SegmentError, match=r"segments\.train: has intervals that overlap: one ends on 2020-03-02"):
        intervals("train", [("2020-01-02", "2020-03-02"), ("2020-03-02", "2020-04-01")])
    with pytest.raises(SegmentError, match=r"segments\.train\.1"):
        intervals("train", [("2020-01-02", "2020-03-02"), ("2020-04-02", "2020-03-01")])


def test_rolling_refuses_a_segment_of_several_intervals() -> None:
    """The length of a segment of several intervals is not defined."""
    split = {"train": [(DAYS[0], DAYS[5]), (DAYS[8], DAYS[20])], "test": (DAYS[30], DAYS[50])}
    with pytest.raises(SegmentError, match="has several intervals"):
        RollingGen(5, calendar=DAYS).generate(template(**split))


def test_windows_and_drawing_have_holes() -> None:
    """The drawing shows the training days on both sides of the test."""
    made = PurgedKFoldGen(3, calendar=DAYS).generate(template())
    shown = windows(made, CALENDAR)
    assert [w.index for w in shown] == [0, 1, 2]
    middle = shown[1].segments
    assert (middle["train"].days, len(middle["train"].parts), middle["test"].days) == (36, 2, 20)
    line = draw(shown, width=70)[2]
    runs = ["".join(group) for _, group in itertools.groupby(line.strip()[1:].strip())]
    assert [run[0] for run in runs if run.strip()] == ["░", "█", "░"]


def test_pieces_are_in_order() -> None:
    """Each interval has the name of its segment."""
    split = {"test": ("2020-02-03", "2020-02-28"), "train": [("2020-03-02", None), ("2020-01-02", "2020-01-31")]}
    assert [name for name, _ in pieces(split)] == ["train", "test", "train"]
