"""Windows generated step by step, as by an online routine while days are added, equal those generated at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import CalendarGen, GridGen, PurgedKFoldGen, RollingGen
from rollforge.generate.base import SupportsFollowing, TaskGen
from rollforge.generate.segments import bounds
from rollforge.generate.sequence import ChainGen
from rollforge.generate.task_view import TaskView

ALPHA = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
WEEKDAYS = pd.bdate_range("2020-01-01", "2021-12-31")
OFFSETS = ["week", "2 weeks", "month", "2 months", "quarter", "W-WED", "MS", "20B", "30D", "BME"]


def template(train: Any, test: Any, valid: Any = None, label: str = "Ref($close, -4)/Ref($close, -1) - 1") -> Any:
    segments = {"train": train, **({} if valid is None else {"valid": valid}), "test": test}
    kwargs = {"label": [label], "fit_start_time": train[0], "fit_end_time": train[1], "end_time": test[1]}
    return {
        "model": {"class": "LinearModel", "kwargs": {}},
        "dataset": {"class": "DatasetH", "module_path": "qlib.data.dataset",
                    "kwargs": {"handler": {**ALPHA, "kwargs": kwargs}, "segments": segments}},
    }  # fmt: skip


def in_steps(make: Any, task: dict[str, Any], calendar: pd.DatetimeIndex, stops: list[int]) -> list[dict[str, Any]]:
    """Return the windows made while the calendar grows: those until the first of `stops`, then those that follow each.

    The last window of a step may end early, because the days after it are not known yet. Because its model is not
    trained again, the window stays as it was first generated.
    """
    made: list[dict[str, Any]] = []
    for stop in stops:
        days = calendar[:stop]
        generator = make(days)
        if made:
            made += generator.gen_following_tasks(made[-1], days[-1])
        else:
            first = TaskView(task).segments
            shorter = {**first, "test": (first["test"][0], days[-1])}
            made = generator.generate(
                {**task, "dataset": {**task["dataset"], "kwargs": {**task["dataset"]["kwargs"], "segments": shorter}}}
            )
    return made


def without_ends(tasks: list[dict[str, Any]], keep: bool = False) -> list[Any]:
    """Return the segments and fit windows of tasks; of test segments, only the start unless `keep`."""
    listed = []
    for task in tasks:
        view = TaskView(task)
        segments = dict(view.segments)
        if not keep:
            segments["test"] = bounds("test", segments["test"]).start
        fit = {k: v for k, v in (view.handler_kwargs or {}).items() if k.startswith("fit")}
        listed.append((segments, fit, task["dataset"]["kwargs"].get("purge_rows")))
    return listed


@st.composite
def markets(draw: st.DrawFn) -> tuple[pd.DatetimeIndex, dict[str, Any], list[int]]:
    """Draw a calendar with holidays, a template on it, and the days at which the calendar ended in between."""
    holidays = draw(st.sets(st.integers(0, len(WEEKDAYS) - 1), max_size=60))
    start, length = draw(st.integers(0, len(WEEKDAYS))), draw(st.integers(0, 9))  # and a long one, such as a new year
    gone = sorted(holidays | set(range(start, min(start + length, len(WEEKDAYS)))))
    days = WEEKDAYS.delete(gone)
    test = draw(st.integers(120, 200))
    valid = draw(st.sampled_from([0, 20]))
    spans = {"train": (days[10], days[test - valid - 1]), "test": (days[test], days[-1])}
    if valid:
        spans["valid"] = (days[test - valid], days[test - 1])
    stops = [*sorted(draw(st.sets(st.integers(test + 1, len(days)), max_size=4))), len(days)]
    return days, template(**spans), stops


@settings(max_examples=20, deadline=None)
@given(markets(), st.sampled_from(OFFSETS), st.sampled_from(["sliding", "expanding"]), st.sampled_from([None, "auto", 4]),
       st.sampled_from([None, 60, "3 months"]), st.sampled_from([None, "week", "10B"]))  # fmt: skip
def test_calendar_windows(market: Any, retrain: str, rtype: str, trunc: Any, train: Any, predict: Any) -> None:
    """The windows that follow are the same for every offset, length and rule; with holidays, also where a period begins
    on one or has no trading day."""
    days, task, stops = market

    def make(calendar: pd.DatetimeIndex) -> CalendarGen:
        return CalendarGen(retrain, train=train, predict=predict, rtype=rtype, trunc_days=trunc, calendar=calendar)

    whole = make(days).generate(task)
    steps = in_steps(make, task, days, stops)
    assert without_ends(steps) == without_ends(whole)
    whole_from_first = [*whole[:1], *make(days).gen_following_tasks(whole[0], days[-1])]
    assert without_ends(whole_from_first, keep=True) == without_ends(whole, keep=True)


@settings(max_examples=20, deadline=None)
@given(markets(), st.integers(1, 60), st.sampled_from(["sliding", "expanding"]), st.sampled_from([None, "auto", 4]),
       st.booleans())  # fmt: skip
def test_rolling_windows(market: Any, step: int, rtype: str, trunc: Any, clip: bool) -> None:
    """Windows follow a window that was clipped, or whose end was past the calendar, too."""
    days, task, stops = market

    def make(calendar: pd.DatetimeIndex) -> RollingGen:
        return RollingGen(step, rtype, trunc_days=trunc, clip_test_end=clip, roll_fit_window=True, calendar=calendar)

    whole = make(days).generate(task)
    assert without_ends(in_steps(make, task, days, stops)) == without_ends(whole)
    whole_from_first = [*whole[:1], *make(days).gen_following_tasks(whole[0], days[-1])]
    assert without_ends(whole_from_first, keep=True) == without_ends(whole, keep=True)


def test_windows_that_were_clipped_are_followed_by_whole_ones() -> None:
    """A test of 5 days that was clipped after 2, and one whose end was past the calendar."""
    days = WEEKDAYS[:60]
    task = template((days[0], days[19]), (days[20], days[26]))
    for short in (RollingGen(5, clip_test_end=True, calendar=days[:27]), RollingGen(5, calendar=days[:27])):
        last = short.generate(task)[-1]
        tests = [
            TaskView(made).segments["test"]
            for made in RollingGen(5, clip_test_end=short.clip_test_end, calendar=days).gen_following_tasks(
                last, days[36]
            )
        ]
        ends = [days[34], days[36 if short.clip_test_end else 39]]
        assert tests == [(days[30], ends[0]), (days[35], ends[1])]


def test_a_window_from_the_first_day_is_followed_by_the_next_one() -> None:
    """If it has no end, it is taken to have the usual number of days."""
    days = WEEKDAYS[:12]
    task = {"dataset": {"kwargs": {"segments": {"test": (days[0], None)}}}}
    made = RollingGen(4, calendar=days).gen_following_tasks(task, days[-1])
    assert [TaskView(one).segments["test"] for one in made] == [(days[4], days[7]), (days[8], days[11])]


def test_auto_purges_what_follows() -> None:
    """``auto`` purges the tasks that follow even if the window that is continued is not purged: the label looks 4 days
    ahead."""
    days = WEEKDAYS
    task = template((days[0], days[99]), (days[120], days[-1]), (days[100], days[119]))
    plain = CalendarGen("month", trunc_days=None, calendar=days).generate(task)
    made = list(CalendarGen("month", calendar=days).gen_following_tasks(plain[2], days[-1]))
    assert made == CalendarGen("month", calendar=days).generate(task)[3:]
    places = [
        {k: bounds(k, s).positions(days.to_numpy().astype("datetime64[D]")) for k, s in TaskView(t).segments.items()}
        for t in made
    ]
    assert all(p["train"][1] + 4 == p["valid"][0] and p["valid"][1] + 4 == p["test"][0] for p in places)


def test_a_handler_that_ends_earlier_reaches_the_end_of_the_test() -> None:
    """The days after the period of the first training are new data."""
    days = WEEKDAYS
    task = template((days[0], days[99]), (days[100], days[130]))
    task["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"] = str(days[130].date())
    last = CalendarGen("month", calendar=days).generate(task)[-1]
    made = list(CalendarGen("month", calendar=days).gen_following_tasks(last, days[200]))
    ends = [(TaskView(t).handler_kwargs or {})["end_time"] for t in made]
    assert [pd.Timestamp(end) for end in ends] == [TaskView(t).segments["test"][1] for t in made]
    (*_, live) = CalendarGen("month", calendar=days).gen_following_tasks(last, None)
    assert TaskView(live).segments["test"][1] is None
    assert (TaskView(live).handler_kwargs or {})["end_time"] is None


def test_nothing_follows_before_the_next_period() -> None:
    """Nothing follows before the window itself either."""
    days = WEEKDAYS
    task = template((days[0], days[99]), (days[130], days[-1]))
    generator = CalendarGen("quarter", calendar=days)
    first = generator.generate(task)[0]
    end = TaskView(first).segments["test"][1]
    assert list(generator.gen_following_tasks(first, end)) == []
    assert list(generator.gen_following_tasks(first, days[5])) == []
    assert len(list(generator.gen_following_tasks(first, days[days.get_loc(end) + 1]))) == 1


@pytest.mark.parametrize(
    "windows", [CalendarGen("month", calendar=WEEKDAYS), RollingGen(40, trunc_days="auto", calendar=WEEKDAYS)]
)
@pytest.mark.parametrize("first", [True, False])
def test_each_model_of_a_chain_continues(windows: Any, first: bool) -> None:
    """In either order of the generators, with the values of its own grid point."""
    days = WEEKDAYS
    grid = GridGen({"model.kwargs.alpha": [0.1, 1.0]})
    chain = ChainGen([grid, windows] if first else [windows, grid])
    assert isinstance(chain, SupportsFollowing)
    task = template((days[0], days[199]), (days[200], days[-1]))
    made = chain.generate(task)
    assert chain.count(task) == len(made)
    for alpha in (0.1, 1.0):
        own = [t for t in made if t["model"]["kwargs"]["alpha"] == alpha]
        assert [own[0], *chain.gen_following_tasks(own[0], days[-1])] == own


def test_which_generators_can_continue() -> None:
    """Cross-validation has no next window; a chain without windows, or with two, says so."""
    assert isinstance(CalendarGen(calendar=WEEKDAYS), SupportsFollowing)
    assert isinstance(RollingGen(calendar=WEEKDAYS), SupportsFollowing)
    folds: TaskGen = PurgedKFoldGen(calendar=WEEKDAYS)
    grid = GridGen({"model.kwargs.alpha": [0.1]})
    assert not isinstance(folds, SupportsFollowing)
    task = template((WEEKDAYS[0], WEEKDAYS[99]), (WEEKDAYS[100], WEEKDAYS[200]))
    rolling = RollingGen(calendar=WEEKDAYS)
    for chain, said in (
        ([grid, folds], "of GridGen, PurgedKFoldGen, none can"),
        ([rolling, rolling], "RollingGen, several can"),
    ):
        with pytest.raises(ConfigError, match=said):
            list(ChainGen(chain).gen_following_tasks(task, None))
    for wrong in ([], [grid, "RollingGen"]):
        with pytest.raises(ConfigError, match="must be a list of task generators"):
            ChainGen(wrong)  # type: ignore[arg-type]


def test_a_window_that_cannot_be_continued() -> None:
    """Of a cross-validation, or with segments in another order."""
    days = WEEKDAYS
    folds = PurgedKFoldGen(3, calendar=days).generate(template((days[0], days[99]), (days[100], days[200])))
    for task in (folds[1], folds[0], template((days[100], days[200]), (days[0], days[50]))):
        with pytest.raises(SegmentError, match=r"has several intervals|does not begin before test"):
            list(CalendarGen(calendar=days).gen_following_tasks(task, days[-1]))


def test_times_of_day_do_not_matter() -> None:
    """The last day to test may be given in any notation."""
    days = WEEKDAYS
    task = template((days[0], days[99]), (days[130], days[180]))
    generator = CalendarGen("month", calendar=days)
    first = generator.generate(task)[0]
    expected = list(generator.gen_following_tasks(first, "2021-03-31"))
    for day in (np.datetime64("2021-03-31"), pd.Timestamp("2021-03-31 15:00"), "20210331"):
        assert len(list(generator.gen_following_tasks(first, day))) == len(expected)
