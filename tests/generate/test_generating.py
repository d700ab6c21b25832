"""Generators: pure, purged by the label's horizon, and with warnings about leaks."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import GridGen, RollingGen, TimeAdjuster, task_generator
from rollforge.generate.fit_window import move_fit_window
from rollforge.generate.leakage import label_lookahead, leaking_segments, task_warnings
from rollforge.generate.segments import validate_segments
from rollforge.generate.timeline import draw, windows

DAYS = pd.bdate_range("2020-01-01", periods=400)
CALENDAR = DAYS.to_numpy().astype("datetime64[D]")


def template(label: str | None = None, **segments: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"instruments": "all", "start_time": "2020-01-01", "end_time": "2020-12-31"}
    kwargs |= {"fit_start_time": "2020-01-01", "fit_end_time": "2020-06-30"}
    if label:
        kwargs["label"] = [label]
    chosen = {
        "train": ("2020-01-01", "2020-06-30"),
        "valid": ("2020-07-01", "2020-09-30"),
        "test": ("2020-10-01", "2021-06-30"),
        **segments,
    }
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": kwargs}
    return {"model": {"kwargs": {}}, "dataset": {"kwargs": {"handler": handler, "segments": chosen}}}


def segments(task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = task["dataset"]["kwargs"]["segments"]
    return found


@settings(max_examples=60, deadline=None)
@given(
    step=st.integers(1, 90),
    rtype=st.sampled_from(["sliding", "expanding"]),
    horizon=st.integers(1, 9),
    clip=st.booleans(),
)
def test_rolled_windows_tile_the_test_period_and_leak_nothing(step: int, rtype: str, horizon: int, clip: bool) -> None:
    """Every test day occurs once, in order; no label of train or valid reaches into a later segment."""
    task = template(f"Ref($close, -{horizon})/$close - 1")
    before = copy.deepcopy(task)
    tasks = RollingGen(step, rtype, trunc_days="auto", clip_test_end=clip, calendar=DAYS).generate(task)
    assert task == before
    tested: list[pd.Timestamp] = []
    for one in tasks:
        start, end = segments(one)["test"]
        tested += list(DAYS[(start <= DAYS) & ((end is None) | ((end or DAYS[-1]) >= DAYS))])
        assert leaking_segments(one, CALENDAR) == []
        assert segments(one)["train"][1] < segments(one)["valid"][0] <= segments(one)["valid"][1] < start
    wanted = DAYS[(DAYS >= "2020-10-01") & (DAYS <= "2021-06-30")]
    assert tested[: len(wanted)] == list(wanted)
    assert len(tested) == len(set(tested))
    if clip:
        assert len(tested) == len(wanted)
    starts = {segments(t)["train"][0] for t in tasks}
    assert len(starts) == (1 if rtype == "expanding" else len(tasks))


def test_a_leak_is_named_with_its_days() -> None:
    """Without truncation the labels of the last days reach into the next segment, at both borders."""
    leaks = leaking_segments(template(), CALENDAR)
    assert [(x.segment, x.later, x.days) for x in leaks] == [("train", "valid", 2), ("valid", "test", 2)]
    assert [(x.dates, x.later) for x in leaks] == [
        (("2020-06-29", "2020-06-30"), "valid"), (("2020-09-29", "2020-09-30"), "test"),
    ]  # fmt: skip


def pretrained(**more: Any) -> dict[str, Any]:
    """Return a template of a model that is trained in two steps, such as TabNet."""
    return template(
        "Ref($close, -6)/Ref($close, -1) - 1",
        pretrain=("2020-01-01", "2020-06-30"),
        pretrain_validation=("2020-07-01", "2020-09-30"),
        **more,
    )


def test_further_segments_may_overlap() -> None:
    """Further segments roll with the others, and each ends as many days before the next segment as the label looks
    ahead."""
    for generator in (RollingGen(20, calendar=DAYS), RollingGen(20, trunc_days="auto", calendar=DAYS)):
        tasks = generator.generate(pretrained())
        assert len(tasks) > 5
        for task in tasks:
            made = segments(task)
            assert made["pretrain"][1] == made["train"][1]
            assert made["pretrain_validation"] == made["valid"]
    assert leaking_segments(tasks[0], CALENDAR) == []
    plain = RollingGen(20, calendar=DAYS).generate(pretrained())[0]
    leaks = {(leak.segment, leak.later, leak.days) for leak in leaking_segments(plain, CALENDAR)}
    assert leaks == {
        ("pretrain", "valid", 6), ("train", "valid", 6), ("pretrain_validation", "test", 6), ("valid", "test", 6),
    }  # fmt: skip


def test_the_neighbour_of_a_segment_follows_those_it_covers() -> None:
    """The labels of the neighbour reach into the test, not into the segments that it covers."""
    task = template(pretrain=("2020-01-01", "2020-09-30"))
    leaks = {(leak.segment, leak.later) for leak in leaking_segments(task, CALENDAR)}
    assert leaks == {("pretrain", "test"), ("train", "valid"), ("valid", "test")}
    cut = segments(RollingGen(20, trunc_days="auto", calendar=DAYS).generate(task)[0])
    assert cut["pretrain"][1] == cut["valid"][1] == DAYS[DAYS.get_loc("2020-10-01") - 3]
    assert cut["train"][1] == DAYS[DAYS.get_loc("2020-07-01") - 3]


def test_training_on_test_days_in_another_segment_gives_a_warning() -> None:
    """For a pretrain segment that reaches into the test; other additional segments are not checked."""
    task = template(pretrain=("2020-01-01", "2020-10-30"), last_month=("2021-06-01", "2021-06-30"))
    validate_segments(task, CALENDAR)
    texts = task_warnings([task], CALENDAR)
    assert (
        "From 2020-10-01 to 2020-10-30, 22 of 195 days of 'test' are in 'pretrain' too: the model is tested on days to which "
        "it was fitted before. Let 'test' begin after 'pretrain' ends." in texts
    )
    assert not [text for text in texts if "last_month" in text and "too" in text]


@pytest.mark.parametrize("names", [("train", "valid"), ("valid", "test"), ("train", "test")])
def test_the_standard_segments_must_not_overlap(names: tuple[str, str]) -> None:
    """The standard segments must not overlap even if an additional one lies between them."""
    days = ("2020-07-01", "2020-12-31")
    task = template(**dict.fromkeys(names, days), pretrain=("2020-07-01", "2020-07-31"))
    with pytest.raises(SegmentError, match="overlaps with"):
        validate_segments(task, CALENDAR)


@pytest.mark.parametrize(("first", "refused"), [("2020-06-30", True), ("2020-07-01", False)])
def test_one_shared_day_is_an_overlap(first: str, refused: bool) -> None:
    """A segment may begin on the day after the previous one ends, but not on that day itself."""
    task = template(valid=(first, "2020-09-30"))
    if not refused:
        validate_segments(task, CALENDAR)
        return
    with pytest.raises(SegmentError, match="'valid': it ends on 2020-06-30, and 'valid' starts on 2020-06-30"):
        validate_segments(task, CALENDAR)


@pytest.mark.parametrize(
    ("label", "days"),
    [(None, 2), ("Ref($close, -6)/Ref($close, -1) - 1", 6), ("$close", 0), ("Mean(Ref($close, -5), 3)", 5)],
)
def test_the_horizon_is_read_from_the_label(label: str | None, days: int) -> None:
    """From the handler's arguments, or from its class."""
    assert label_lookahead(template(label)) == days


@pytest.mark.parametrize(
    "described",
    [{}, {"class": "Missing", "module_path": "no_such_module"}, {"class": 5}, {"class": "Alpha158"}],
    ids=["without a class", "not importable", "not a name", "with the argument"],
)
def test_a_handler_is_given_a_fit_window_unless_it_is_known_to_have_none(described: dict[str, Any]) -> None:
    """A class that cannot be read is an error when the handler is built. One that is read has the argument, or has not."""

    def moved(handler: dict[str, Any]) -> set[str]:
        norm = {"class": "ZScoreNorm", "kwargs": {"fit_start_time": "2019-01-01", "fit_end_time": "2019-12-31"}}
        task = {"dataset": {"kwargs": {"handler": {**handler, "kwargs": {"learn_processors": [norm]}}}}}
        move_fit_window(task, ("2020-01-01", "2020-12-31"), add=True)
        assert norm["kwargs"] == {"fit_start_time": "2020-01-01", "fit_end_time": "2020-12-31"}
        return set(task["dataset"]["kwargs"]["handler"]["kwargs"])

    assert moved(described) == {"learn_processors", "fit_start_time", "fit_end_time"}
    assert moved({"class": "DataHandlerLP", "module_path": "rollforge.features.handler"}) == {"learn_processors"}
    assert moved({"class": "DataHandlerLP"}) == {"learn_processors"}


def test_fit_windows_move_on_request() -> None:
    """Qlib does not move them, and neither does the default."""
    for moves in (False, True):
        tasks = RollingGen(60, "sliding", roll_fit_window=moves, calendar=DAYS).generate(template())
        fits = [t["dataset"]["kwargs"]["handler"]["kwargs"]["fit_end_time"] for t in tasks]
        assert (fits == ["2020-06-30"] * len(tasks)) is not moves
        if moves:
            assert fits == [segments(t)["train"][1] for t in tasks]


def test_following_tasks_continue_from_a_task() -> None:
    """The result of one generate call can be produced piece by piece."""
    generator = RollingGen(30, "sliding", calendar=DAYS)
    tasks = generator.generate(template())
    assert list(generator.gen_following_tasks(tasks[2], "2021-06-30")) == tasks[3:]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RollingGen(0, calendar=DAYS), "at least 1"),
        (lambda: RollingGen(2.5, calendar=DAYS), "whole number"),
        (lambda: RollingGen(5, "slding", calendar=DAYS), "Did you mean 'sliding'"),
        (lambda: RollingGen(5, trunc_days="all", calendar=DAYS), "'auto' or a number"),
        (lambda: RollingGen(5, calendar=DAYS).generate(template(valid=("2020-06-01", "2020-08-01"))), "overlaps"),
        (lambda: RollingGen(5, trunc_days=300, calendar=DAYS).generate(template()), "trunc_days=300"),
        (lambda: TimeAdjuster(calendar=[]), "no days"),
        (lambda: TimeAdjuster(calendar=DAYS).align_time("2031-01-01"), "after the last trading day"),
        (lambda: TimeAdjuster(calendar=DAYS).shift(("2020-01-01", "2020-01-05"), -900), "before the calendar"),
    ],
)
def test_invalid_arguments_are_refused(build: Any, words: str) -> None:
    """Steps, types, segments and dates: one message each."""
    with pytest.raises(SegmentError, match=words):
        build()


def test_templates_times_generators() -> None:
    """Two templates, four combinations, five windows: forty tasks, all different."""
    grid = GridGen({"model.kwargs.depth": [4, 8], "model.kwargs.loss": ["mse", "binary"]})
    rolling = RollingGen(40, "sliding", calendar=DAYS)
    one = rolling.generate(template())
    tasks = task_generator([template(), template("$close")], [grid, rolling])
    assert len(tasks) == 2 * 4 * len(one)
    assert len({repr(t) for t in tasks}) == len(tasks)
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        GridGen({"modl.kwargs.depth": [1]}).generate(template())


def test_windows_are_values_and_drawings() -> None:
    """Trading days are counted, with one line per window, distinguishable without colour."""
    made = windows(RollingGen(60, "sliding", calendar=DAYS).generate(template()), CALENDAR)
    assert [w.segments["test"].days for w in made][:-1] == [60] * (len(made) - 1)
    lines = draw(made, 80)
    assert len(lines) == len(made) + 2
    assert all({"░", "▒", "█"} <= set(line) for line in lines[1:-1])
    assert max(map(len, lines)) <= 80
