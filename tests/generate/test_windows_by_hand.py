"""Windows on a calendar of twenty trading days with every date computed by hand, and reading the parts of tasks."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import GridGen, MultiHorizonGenBase, RollingGen, TimeAdjuster, task_generator
from rollforge.generate.backtests import backtest_warnings
from rollforge.generate.base import TaskGen
from rollforge.generate.label import Label, labels_from_text, labels_to_text, task_labels
from rollforge.generate.leakage import label_lookahead, leaking_segments, task_warnings
from rollforge.generate.naming import check_name, describe, differing_parts, model_names
from rollforge.generate.rolling import handler_mod
from rollforge.generate.segments import bounds, neighbours, ordered, segments_of, validate_segments
from rollforge.generate.timeline import draw, windows
from rollforge.limits import TooLarge

DAYS = pd.bdate_range("2024-01-01", periods=20)  # Mondays: 1, 8, 15, 22
CALENDAR = DAYS.to_numpy().astype("datetime64[D]")


def january(first: int | None, last: int | None) -> tuple[str | None, str | None]:
    return tuple(None if day is None else f"2024-01-{day:02}" for day in (first, last))  # type: ignore[return-value]


def task(handler: dict[str, Any] | None = None, **segments: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"segments": segments}
    if handler is not None:
        kwargs["handler"] = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": handler}
    return {"model": {"class": "LGBModel"}, "dataset": {"kwargs": kwargs}}


def of(made: dict[str, Any], name: str) -> tuple[int | None, ...]:
    return tuple(None if d is None else pd.Timestamp(d).day for d in made["dataset"]["kwargs"]["segments"][name])


# -- rolling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rtype", ["sliding", "expanding"])
def test_windows_of_three_days(rtype: str, clip: bool) -> None:
    """The last window has its full length even beyond the template's test segment, or is cut there."""
    template = task(train=january(1, 4), valid=january(5, 8), test=january(9, 18))
    made = RollingGen(3, rtype, clip_test_end=clip, calendar=DAYS).generate(template)
    assert [of(t, "test") for t in made] == [(9, 11), (12, 16), (17, 18 if clip else 19)]
    assert [of(t, "valid") for t in made] == [(5, 8), (10, 11), (15, 16)]
    train = {"sliding": [(1, 4), (4, 9), (9, 12)], "expanding": [(1, 4), (1, 9), (1, 12)]}
    assert [of(t, "train") for t in made] == train[rtype]
    assert RollingGen(3, rtype, calendar=DAYS).count(template) == 3


@pytest.mark.parametrize(("last", "windows"), [(8, 1), (9, 1), (10, 1), (11, 2), (12, 2), (15, 2), (16, 3)])
def test_windows_are_counted_without_generating_them(last: int, windows: int) -> None:
    """Three days each, from 8 January; a window that has begun counts."""
    template = task(train=january(1, 4), test=january(8, last))
    generator = RollingGen(3, calendar=DAYS)
    assert generator.count(template) == len(generator.generate(template)) == windows


def test_windows_of_one_day() -> None:
    """The windows begin with the first day of the calendar."""
    assert [RollingGen(1, calendar=DAYS).count(task(test=january(1, last))) for last in (1, 2, 3)] == [1, 2, 3]


def test_an_open_test_ends_with_the_calendar() -> None:
    """The last of its windows is open-ended, too."""
    generator = RollingGen(4, "sliding", calendar=DAYS)
    template = task(train=january(1, 4), test=january(17, None))
    made = generator.generate(template)
    assert generator.count(template) == 2
    assert [of(t, "test") for t in made] == [(17, 22), (23, 26)]


def test_by_default_windows_are_forty_days_and_grow() -> None:
    """As in Qlib, ``step`` is 40, ``rtype`` is expanding, and nothing is truncated."""
    days = pd.bdate_range("2020-01-01", periods=200)
    generator = RollingGen(calendar=days)
    template = task(train=(days[0], days[9]), test=(days[10], days[129]))
    made = generator.generate(template)
    found = [t["dataset"]["kwargs"]["segments"] for t in made]
    assert [s["test"] for s in found] == [(days[i], days[i + 39]) for i in (10, 50, 90)]
    assert [s["train"] for s in found] == [(days[0], days[i]) for i in (9, 49, 89)]
    assert (generator.step, generator.rtype, generator.trunc_days) == (40, "expanding", None)
    assert [generator.clip_test_end, generator.roll_fit_window, generator.roll_backtest] == [False] * 3


@pytest.mark.parametrize(
    ("label", "ahead"), [("Ref($close, -1)/$close - 1", 1), ("Ref($close, -4)/$close - 1", 4), ("$close", 0)]
)
def test_auto_truncation_leaves_as_many_days_as_the_label_looks_ahead(label: str, ahead: int) -> None:
    """If the label of the last training day ends on the day before the next segment there is no leak; one day later
    there is.
    """
    handler = {"label": [label]}
    template = task(handler, train=january(1, 8), valid=january(9, 16), test=january(17, 26))
    (made,) = RollingGen(10, trunc_days="auto", calendar=DAYS).generate(template)
    train, valid = of(made, "train"), of(made, "valid")
    assert train[0] == 1
    assert valid[0] == 9
    place = {day: i for i, day in enumerate(DAYS.day)}
    assert place[9] - place[train[1]] == place[17] - place[valid[1]] == ahead + 1
    assert leaking_segments(made, CALENDAR) == []
    longer = task({"label": [f"Ref($close, -{ahead + 1})/$close - 1"]}, **made["dataset"]["kwargs"]["segments"])
    assert [(leak.segment, leak.later, leak.days) for leak in leaking_segments(longer, CALENDAR)] == [
        ("train", "valid", 1), ("valid", "test", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("days", "train"), [(0, (1, 8)), (1, (1, 8)), (4, (1, 8)), (5, (1, 5)), (9, (1, 1))])
def test_truncation_by_a_number_counts_from_the_test(days: int, train: Any) -> None:
    """The test starts on the tenth trading day, so nine days can be left out, but not ten."""
    template = task(train=january(1, 8), test=january(12, 16))
    (made,) = RollingGen(3, trunc_days=days, calendar=DAYS).generate(template)
    assert of(made, "train") == train
    with pytest.raises(SegmentError, match="trunc_days=10: nothing is left"):
        RollingGen(3, trunc_days=10, calendar=DAYS).generate(template)


@pytest.mark.parametrize(
    ("end", "expected"), [("2024-01-10", "2024-01-11"), ("2024-01-11", None), ("2024-01-12", None), (None, None)]
)
def test_the_end_of_the_handler_is_moved_to_the_end_of_the_test(end: str | None, expected: str | None) -> None:
    """The end of the handler is moved if it is earlier, by a day or more; a later, equal or open end is unchanged."""
    made = task({"end_time": end}, test=january(9, 11))
    handler_mod(made, RollingGen(3, calendar=DAYS))
    found = made["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"]
    assert found == (expected or end)
    opened = task({"end_time": "2024-01-12"}, test=january(9, None))
    handler_mod(opened, RollingGen(3, calendar=DAYS))
    assert opened["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"] is None
    for none in (
        task(test=january(9, 11)),
        task({}, test=january(9, 11)),
        {"dataset": {"kwargs": {"handler": "file"}}},
    ):
        before = repr(none)
        handler_mod(none, RollingGen(3, calendar=DAYS))
        assert repr(none) == before


@pytest.mark.parametrize("trunc_days", [True, -1, 1.5, "none"])
def test_truncation_is_auto_or_a_number(trunc_days: Any) -> None:
    """A number of days, including zero; None for no truncation."""
    with pytest.raises(SegmentError, match="'auto' or a number of days"):
        RollingGen(3, trunc_days=trunc_days, calendar=DAYS)
    assert RollingGen(3, trunc_days=0, calendar=DAYS).trunc_days == 0
    with pytest.raises(SegmentError, match="at least 1; found True"):
        RollingGen(True, calendar=DAYS)


def test_the_functions_of_a_generator_can_be_called() -> None:
    """There may be no function that changes the dataset, but there must be one that copies a task."""
    assert RollingGen(3, ds_extra_mod_func=None, calendar=DAYS).ds_extra_mod_func is None
    for wrong in ({"ds_extra_mod_func": "trunc_segments"}, {"task_copy_func": "copy"}, {"task_copy_func": None}):
        (name,) = wrong
        with pytest.raises(SegmentError, match=f"{name}: must be a function, found"):
            RollingGen(3, calendar=DAYS, **wrong)  # type: ignore[arg-type]


def test_a_segment_that_is_open_or_unknown_is_named() -> None:
    """Only the test segment may be open-ended; a label may not look ahead further than the days before a segment
    allow."""
    pretrained = task(train=january(1, 4), test=january(9, 11), pretrain=january(1, None))
    with pytest.raises(SegmentError, match=r"pretrain: has no end. Only the test segment may be open"):
        RollingGen(3, calendar=DAYS).generate(pretrained)
    far = task({"label": ["Ref($close, -7)/$close - 1"]}, train=january(1, 4), test=january(9, 11))
    with pytest.raises(SegmentError, match="fewer than 8 trading days lie before the test segment"):
        RollingGen(3, trunc_days="auto", calendar=DAYS).generate(far)


# -- horizons and grids ------------------------------------------------------------------------------------------------


class Horizons(MultiHorizonGenBase):
    """Stores the horizon in the model."""

    def set_horizon(self, task: dict[str, Any], hr: int) -> None:
        """Store it."""
        task["model"]["horizon"] = hr


def test_a_horizon_cuts_the_segments_before_the_test() -> None:
    """With a horizon of h days and two days until the label is known: h + 2 days; the default h is 5."""
    template = task(train=january(1, 10), test=january(17, 26))
    made = Horizons([1, 5], calendar=DAYS)(template)
    assert [(t["model"]["horizon"], of(t, "train")) for t in made] == [(1, (1, 10)), (5, (1, 8))]
    (one,) = Horizons(calendar=DAYS)(template)
    assert (one["model"]["horizon"], of(one, "train")) == (5, (1, 8))
    (shorter,) = Horizons(5, label_leak_n=3, calendar=DAYS)(template)
    assert of(shorter, "train") == (1, 5)
    assert Horizons([1, 5, 9], calendar=DAYS).count(template) == 3
    with pytest.raises(SegmentError, match="horizon 20: nothing is left"):
        Horizons([20], calendar=DAYS)(template)
    with pytest.raises(ConfigError, match="the list of horizons is empty"):
        Horizons([], calendar=DAYS)


def test_combinations_of_a_grid_are_named() -> None:
    """The names are those of the values; if these are missing, they are what differs among combinations of the same name."""
    grid = GridGen({"model.class": {"one": "A", "two": "B"}, "model.depth": [4, 8]})
    named = [(name, t["model"]) for name, t in grid.named({"model": {}})]
    assert named == [
        ("one, depth=4", {"class": "A", "depth": 4}), ("one, depth=8", {"class": "A", "depth": 8}),
        ("two, depth=4", {"class": "B", "depth": 4}), ("two, depth=8", {"class": "B", "depth": 8}),
    ]  # fmt: skip
    assert [name for name, _ in GridGen({"model.depth": [4]}).named({"model": {}})] == [""]
    assert GridGen({"a": [1, 2, 3], "b": [1, 2]}).count({}) == 6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model.depth": []}, "needs at least one value"),
        ({"model.depth": 4}, "needs a list of values"),
        ({"model.depth": [4, 8, 4]}, "has the value 4 twice"),
        ({"list.3": [1]}, "'3' is not a key or position of a list of 3"),
        ({"list.x": [1]}, "'x' is not a key or position of a list of 3"),
        ({"list.3.a": [1]}, "there is no '3'"),
        ({"list.0.a": [1]}, "'a' is not a key or position of 5"),
        ({"modle.depth": [1]}, "Did you mean 'model'"),
    ],
)
def test_an_invalid_path_in_a_grid_is_named(values: Any, words: str) -> None:
    """The message has the path, and the length of a list."""
    with pytest.raises(ConfigError, match=words):
        GridGen(values).generate({"model": {}, "list": [5, 6, 7]})


def test_names_of_three_values_are_distinct() -> None:
    """Differences are determined among the tasks of one name, not among all."""
    grid = GridGen({"model.class": {"one": "A", "two": "B", "three": "C"}, "model.depth": [4, 8]})
    names = [name for name, _ in grid.named({"model": {}})]
    assert names == [f"{name}, depth={depth}" for name in ("one", "two", "three") for depth in (4, 8)]


def test_too_many_combinations_are_refused() -> None:
    """The error is raised before any of them is generated."""
    with pytest.raises(TooLarge, match="its combinations are"):
        GridGen({"a": list(range(1000)), "b": list(range(1000))}).named({})


def test_an_index_of_a_list_is_a_path() -> None:
    """A path can lead to the last element of a list, and to a value inside it."""
    made = GridGen({"list.2": ["x"], "inner.0.a": ["y"]}).generate({"list": [5, 6, 7], "inner": [{}]})
    assert made == [{"list": [5, 6, "x"], "inner": [{"a": "y"}]}]


class Repairs(TaskGen):
    """Counts only templates that it has repaired."""

    def count(self, task: Any) -> int:
        """Raise an error for a template without its mark."""
        if "mark" not in task:
            raise SegmentError("not repaired")
        return 1

    def generate(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Return two tasks."""
        return [{**task, "mark": 1}, {**task, "mark": 2}]


def test_a_template_that_cannot_be_counted_yet_is_generated() -> None:
    """A template that an earlier generator repairs is not an error when counting; templates are not modified."""
    template = {"x": {"deep": [1]}}
    made = task_generator([template, template], Repairs())
    assert [t["mark"] for t in made] == [1, 2, 1, 2]
    assert template == {"x": {"deep": [1]}}
    assert len(task_generator(template, [Repairs(), Repairs()])) == 4
    assert task_generator([], Repairs()) == []


def test_too_many_tasks_are_refused_before_they_are_generated() -> None:
    """With the number of tasks of each generator, and the number of templates."""
    grid = GridGen({"a": list(range(1000)), "b": list(range(1000))})
    with pytest.raises(TooLarge, match=r"2 templates x 1,000,000 by GridGen make"):
        task_generator([{}, {}], [grid])
    with pytest.raises(TooLarge, match=r"^GridGen makes 1,000,000 tasks"):
        task_generator({}, [grid])


class Counted(TaskGen):
    """Returns a number of tasks that each template contains."""

    def count(self, task: Any) -> int:
        """Return the template's number."""
        return int(task["n"])

    def generate(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one task."""
        return [task]


def test_tasks_are_counted_by_the_first_template() -> None:
    """The others are assumed to be like it."""
    with pytest.raises(TooLarge):
        task_generator([{"n": 10**7}, {"n": 1}], Counted())
    assert len(task_generator([{"n": 1}, {"n": 10**7}], Counted())) == 2


# -- segments ----------------------------------------------------------------------------------------------------------


def test_a_segment_is_a_pair_of_days() -> None:
    """In any notation of days, as a pair or a slice; errors have the location."""
    day = np.datetime64("2024-01-08")
    assert bounds("train", ("20240108", dt.date(2024, 1, 8))) == (day, day)
    assert bounds("train", slice("2024-01-08", None)) == (day, None)
    for wrong, words in (
        (("2024-01-09", "2024-01-08"), r"segments\.train: is inverted: it starts on 2024-01-09 and ends on 2024-01-08"),
        (("x", "2024-01-08"), r"segments\.train\.0: "),
        (("2024-01-08", "x"), r"segments\.train\.1: "),
        (("2024-01-08",), r"segments\.train: expected \(first day, last day\)"),
        ("2024-01-08", r"segments\.train: expected"),
    ):
        with pytest.raises(SegmentError, match=words):
            bounds("train", wrong)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ({"train": january(1, 4)}, "there is no segment 'test'"),
        ({"train": january(6, 7), "test": january(9, 11)}, r"has no trading day: the calendar has 2024-01-01 to 2024-01-26"),
        ({"train": january(1, 4), "test": january(27, 28)}, r"\.test: .*has no trading day"),
        ({"train": (None, "2023-12-31"), "test": january(9, 11)}, r"\.train: \(None, 2023-12-31\) has no trading day"),
        ({"train": january(1, None), "test": january(9, 11)}, "it is open, and 'test' starts on 2024-01-09"),
        ({"train": january(1, 4), "test": (None, None)}, "overlaps with"),
        ({}, "must map names"),
    ],
)  # fmt: skip
def test_segments_without_trading_days_are_named(segments: Any, words: str) -> None:
    """A weekend, days outside the calendar, an empty segment."""
    with pytest.raises(SegmentError, match=words):
        validate_segments(task(**segments), CALENDAR)


def test_segments_may_meet_on_a_day_without_trading() -> None:
    """A Saturday ends one segment and begins the next, which have no trading day in common; a Friday is one of both."""
    validate_segments(task(train=january(1, 6), test=january(6, 11)), CALENDAR)
    with pytest.raises(SegmentError, match="ends on 2024-01-05, and 'test' starts on 2024-01-05"):
        validate_segments(task(train=january(1, 5), test=january(5, 11)), CALENDAR)


@pytest.mark.parametrize(
    "segment", [january(1, 1), january(26, 26), (None, "2024-01-01"), ("2024-01-26", None), (None, None)]
)
def test_one_trading_day_is_a_segment(segment: Any) -> None:
    """The first, the last, and one that is open-ended on either side."""
    validate_segments(task(train=segment), CALENDAR, needed=("train",))


def test_a_task_without_segments_is_named() -> None:
    """The error says what is missing, at any depth."""
    for broken in ({}, {"dataset": 1}, {"dataset": {"kwargs": {}}}, {"dataset": {"kwargs": {"segments": [1]}}}):
        with pytest.raises(SegmentError, match="segments"):
            segments_of(broken)


def test_neighbours_are_in_the_order_of_time() -> None:
    """An open start comes first; a standard segment comes before another one that begins on the same day."""
    segments = {"test": january(9, None), "extra": january(9, 10), "train": (None, "2024-01-05")}
    assert [name for name, _ in ordered(segments)] == ["train", "test", "extra"]
    assert neighbours(ordered(segments)) == [("train", "test")]
    touching = {"train": january(1, 4), "valid": january(4, 8), "test": january(9, 11)}
    assert neighbours(ordered(touching)) == [("train", "test"), ("valid", "test")]


# -- labels, names, drawings -------------------------------------------------------------------------------------------


def test_a_handler_without_labels_looks_ahead_by_no_day() -> None:
    """A handler without labels leaks nothing; an empty label of Alpha158 is its default; if labels are unknown, the
    result is None."""
    definition = task({"label": []}, train=january(1, 4), test=january(5, 8))
    assert label_lookahead(definition) == 2
    loader = {"class": "QlibDataLoader", "kwargs": {"config": {"feature": ["$close"]}}}
    definition["dataset"]["kwargs"]["handler"] |= {"class": "DataHandlerLP", "kwargs": {"data_loader": loader}}
    definition["dataset"]["kwargs"]["handler"]["module_path"] = "qlib.data.dataset.handler"
    assert label_lookahead(definition) == 0
    assert leaking_segments(definition, CALENDAR) == []
    assert label_lookahead({}) is None
    assert label_lookahead(task({"label": ["Ref($close"]})) is None


def test_eight_labels_of_four_hundred_characters_are_kept() -> None:
    """The ninth label and the 401st character are left out."""
    labels = [Label("x" * 400, 1), Label("y" * 401, 2), *(Label(str(i), None) for i in range(7))]
    kept = labels_from_text(labels_to_text(labels))
    assert kept == (Label("x" * 400, 1), Label("y" * 400 + "…", 2), *(Label(str(i), None) for i in range(6)))


def test_four_differences_are_shown() -> None:
    """A fifth is not shown; a path is shown only as far as needed to be unique."""
    many = [{"model": dict.fromkeys("abcde", i)} for i in (1, 2)]
    assert differing_parts(many) == ["a=1, b=1, c=1, d=1", "a=2, b=2, c=2, d=2"]
    deep = [
        {"x": {"a": {"m": {"k": i}}}, "y": {"a": {"m": {"k": j}}, "b": {"m": {"k": j}}}} for i, j in ((1, 2), (3, 4))
    ]
    assert differing_parts(deep) == [
        "x.a.m.k=1, y.a.m.k=2, b.m.k=2", "x.a.m.k=3, y.a.m.k=4, b.m.k=4",
    ]  # fmt: skip
    two = [{"x": {"a": {"k": i}, "b": {"k": i}}} for i in (1, 2)]
    assert differing_parts(two) == ["a.k=1, b.k=1", "a.k=2, b.k=2"]
    assert differing_parts([{"class": "A"}, {"class": "A"}]) == ["", ""]


def test_tasks_with_objects_keep_their_given_names() -> None:
    """Such a task is never stored, so it is not compared."""
    live = {"model": {"class": "A", "kwargs": {"f": object()}}}
    assert model_names([live, live], ["a", ""]) == ["a", ""]
    assert describe(live) == "A"


def test_windows_are_numbered_by_their_test() -> None:
    """Windows of two models with the same test days have one number; one without trading days has the last."""
    tasks = [
        task(train=january(1, 4), test=january(12, 16)),
        task(train=january(1, 4), test=january(9, 11)),
        task(train=january(1, 4), test=january(9, 11)),
        task(train=january(1, 4), test=january(6, 7)),
        task(train=january(1, 4), test=january(13, 14)),
    ]
    made = windows(tasks, CALENDAR, ["ridge", "ridge", "trees", "", ""])
    assert [w.title for w in made] == ["ridge, window 2", "ridge, window 1", "trees, window 1", "window 3", "window 4"]
    assert [w.test_days for w in made] == ["2024-01-12 to 2024-01-16", *["2024-01-09 to 2024-01-11"] * 2, "", ""]
    span = made[0].segments["test"]
    assert (str(span.start), str(span.end), span.days) == ("2024-01-12", "2024-01-16", 3)
    (opened,) = windows([task(train=(None, "2024-01-03"), test=january(25, None))], CALENDAR)
    assert [(s.days, str(s.start), str(s.end)) for s in opened.segments.values()] == [
        (3, "2024-01-01", "2024-01-03"), (2, "2024-01-25", "2024-01-26"),
    ]  # fmt: skip


def test_a_drawing_by_hand() -> None:
    """One column per day in a line of 26, the model above its windows, the legend below."""
    tasks = [
        task(train=january(1, 8), valid=january(9, 10), test=january(11, 12)),
        task(train=january(1, 10), test=january(15, 26)),
    ]
    assert draw(windows(tasks, CALENDAR, ["ridge", "ridge"]), 32) == [
        "      2024-01-01      2024-01-26",
        "      ridge",
        "   1  ░░░░░░░░▒▒██",
        "   2  ░░░░░░░░░░    ████████████",
        "      ░ train   ▒ valid   █ test",
    ]
    assert draw([]) == []
    assert draw(windows([task(other=january(1, 26))], CALENDAR), 1)[1] == "   1  ··········"


def test_backtests_of_other_windows_need_several_windows() -> None:
    """Two windows suffice; a single task has no other windows."""
    backtest = {
        "class": "PortAnaRecord",
        "kwargs": {"config": {"backtest": {"start_time": "2024-01-09", "end_time": "2024-01-16"}}},
    }
    tasks = [task(train=january(1, 4), test=test) | {"record": backtest} for test in (january(9, 11), january(12, 16))]
    (warning,) = backtest_warnings(tasks, CALENDAR)
    assert warning.startswith("the backtest of 2 of 2 windows covers 2024-01-09 to 2024-01-16,")
    assert backtest_warnings(tasks[:1], CALENDAR) == []


def test_a_backtest_without_a_start_begins_with_the_test() -> None:
    """One without an end ends with it; so only the other end can be outside."""
    for dates, shown in (
        ({"start_time": None, "end_time": "2024-01-22"}, "2024-01-09 to 2024-01-22"),
        ({"start_time": "2024-01-02", "end_time": None}, "2024-01-02 to 2024-01-11"),
    ):
        record = {"class": "PortAnaRecord", "kwargs": {"config": {"backtest": dates}}}
        made = task(train=january(1, 4), test=january(9, 11)) | {"record": record}
        (warning,) = backtest_warnings([made, made], CALENDAR)
        assert f"covers {shown}, " in warning


def test_a_test_outside_the_calendar_gives_no_warning() -> None:
    """A test outside the calendar is an error when the task is built."""
    beyond = task(
        {"fit_start_time": "2024-01-01", "fit_end_time": "2024-03-01"}, train=january(1, 4), test=january(29, 31)
    )
    assert task_warnings([beyond], CALENDAR) == []
    untested = task({"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-26"}, train=january(1, 4))
    assert task_warnings([untested], CALENDAR) == []
    without_fit = task({}, train=january(1, 4), valid=january(5, 8), test=january(9, 11))
    assert [text[:71] for text in task_warnings([without_fit], CALENDAR)] == [
        "From 2024-01-03 to 2024-01-04, the labels of the last 2 days of 'train'",
        "From 2024-01-05 to 2024-01-08, the labels of the last 2 days of 'valid'",
    ]  # fmt: skip
    edge = task(
        {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-26"}, train=january(1, 4), test=january(26, 26)
    )
    (text,) = task_warnings([edge], CALENDAR)
    assert text.startswith(
        "On 2024-01-26, processors learn until 2024-01-26, but the test segment starts on 2024-01-26"
    )


def test_a_label_of_one_day_can_be_declared() -> None:
    """One is the smallest number of days; zero and invalid numbers mean unknown."""
    for declared, days in ((1, 1), (2, 2), (0, None), (-1, None), (1.5, None)):
        handler = {"label": ["Mean(Ref($close, -5), 5)/$close - 1"], "label_days": declared}
        (label,) = task_labels(task(handler, train=january(1, 4)))
        assert label.days == days


def test_a_name_has_at_most_eighty_characters() -> None:
    """Eighty are accepted, eighty-one are not."""
    assert check_name("x" * 80) == "x" * 80
    with pytest.raises(ConfigError, match="1 to 80 printable characters"):
        check_name("x" * 81)


def test_a_segment_shorter_than_the_look_ahead() -> None:
    """The label looks ahead further than the last segment before the test is long."""
    short = task({"label": ["Ref($close, -4)/$close - 1"]}, train=january(5, 5), test=january(8, 11))
    with pytest.raises(
        SegmentError, match=r"train: nothing is left .* 'auto': all days from 2024-01-05 to 2024-01-05 are"
    ):
        RollingGen(3, trunc_days="auto", calendar=DAYS).generate(short)


def test_the_calendar_of_a_generator_can_be_given() -> None:
    """The calendar can be any array of days."""
    assert RollingGen(3, calendar=[str(day) for day in CALENDAR]).ta.max() == TimeAdjuster(calendar=DAYS).max()
