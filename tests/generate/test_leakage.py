"""The static checks: every leak visible in a definition is found, what is not visible is "not known", and the rest is
clean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.expressions.operators import register_operator, unregister_operator
from rollforge.features import processor as processors
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import DataLoader
from rollforge.features.processor import InstProcessor, Processor
from rollforge.generate.calendar_windows import CalendarGen
from rollforge.generate.checks import Check, CheckMethod, CheckResult
from rollforge.generate.cross_validation import PurgedKFoldGen
from rollforge.generate.definition import data_parts, kind_of
from rollforge.generate.leakage import leaking_segments, static_checks
from rollforge.generate.rolling import RollingGen
from rollforge.market.filters import BaseDFilter, NameDFilter
from rollforge.session import Session, using
from rollforge.trust import Origin, from_origin

CALENDAR = pd.bdate_range("2018-01-01", "2022-12-30").to_numpy().astype("datetime64[D]")
SEGMENTS = {
    "train": ["2018-01-01", "2019-12-26"],
    "valid": ["2020-01-01", "2020-06-25"],
    "test": ["2020-07-01", "2021-12-31"],
}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
CLEAN, LEAK, UNKNOWN = CheckResult.CLEAN, CheckResult.LEAK, CheckResult.UNKNOWN


def alpha(**kwargs: Any) -> dict[str, Any]:
    return {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": kwargs}


def columns(*features: str, label: str = LABEL, **loader: Any) -> dict[str, Any]:
    """A QlibDataLoader of these features."""
    config = {"feature": [list(features), [f"F{i}" for i in range(len(features))]], "label": [[label], ["L"]]}
    return {"class": "QlibDataLoader", "kwargs": {"config": config, **loader}}


def handler(loader: Any, **kwargs: Any) -> dict[str, Any]:
    module = "qlib.data.dataset.handler"
    return {"class": "DataHandlerLP", "module_path": module, "kwargs": {"data_loader": loader, **kwargs}}


def task(described: Any, segments: Mapping[str, Any] = SEGMENTS, **more: Any) -> dict[str, Any]:
    dataset = {"class": "DatasetH", "module_path": "qlib.data.dataset"}
    return {
        "model": {"class": "M"},
        "dataset": {**dataset, "kwargs": {"handler": described, "segments": segments}},
        **more,
    }


def found(described: Any, subject: str, **more: Any) -> list[Check]:
    """Return what one task's static checks say about a subject."""
    return [one for one in static_checks([task(described, **more)], CALENDAR) if one.subject == subject]


def only(described: Any, subject: str, **more: Any) -> Check:
    (one,) = found(described, subject, **more)
    return one


# -- features ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("Ref($close, -1)/$close - 1", 1),
        ("Delta($close, -3)", 3),
        ("Delta(Ref($close, -1), 1)", 1),
        ("Slope(Ref($close, -4), 5)", 4),
        ("Mean(Ref($close, -2), 2)", 2),
        ("EMA(Ref($close, -1), 12)", 1),
        ("If($close > 1, $close, Ref($close, -1))", 1),
        ("Corr($close, Ref($volume, -2), 10)", 2),
        ("Ref(Ref($close, 1), -2)", 2),
        ("Ref(Ref($close, 3), -1)", 1),
        ("Mask(Ref($close, -1), 'SH600000')", 1),
        ("Rolling(Ref($close, -1), 5, 'mean')", 1),
    ],
)
def test_a_feature_that_looks_ahead_is_a_leak(expression: str, days: int) -> None:
    """The feature is named with its column and the number of days, with what to do."""
    one = only(handler(columns("$close", expression)), "features")
    assert (one.result, one.method) == (LEAK, CheckMethod.STATIC)
    assert one.text.startswith(f"The feature F1 = {expression} looks {days} trading day")
    assert "remove it" in one.advice


@pytest.mark.parametrize(
    "expression",
    ["Ref($close, 1)", "Delta($close, 3)", "Ref($close, 0)", "Ref(Ref($close, -1), 3)", "Ref(Ref($close, -3), 3)"],
)
def test_a_feature_of_earlier_days_is_clean(expression: str) -> None:
    """A feature that shifts a later value back to its own day or before it is clean too."""
    assert only(handler(columns(expression)), "features").result is CLEAN


@pytest.mark.parametrize("invalid", ["Ref($close", "Nope($close)"])
def test_an_invalid_expression_does_not_hide_the_others(invalid: str) -> None:
    """An invalid expression is not a finding, but an error when the handler is built."""
    one = only(handler(columns(invalid, "Ref($close, -1)")), "features")
    assert (one.result, one.text) == (LEAK, "The feature F1 = Ref($close, -1) looks 1 trading day ahead.")
    assert only(handler(columns(invalid, "$mine")), "features").result is UNKNOWN


@given(st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_shifts_look_ahead_if_one_of_them_leads_to_a_later_day(shifts: list[int]) -> None:
    """Nested ``Ref`` reads each day to which the shifts lead, from the outermost one on: there must be a row on it."""
    expression = "$close"
    for shift in shifts:
        expression = f"Ref({expression}, {shift})"
    ahead = max(itertools.accumulate(-shift for shift in reversed(shifts)))
    assert (only(handler(columns(expression)), "features").result is LEAK) == (ahead > 0)


def test_many_features_that_look_ahead_are_one_result() -> None:
    """Three are named, the furthest first."""
    one = only(handler(columns("$open", *(f"Ref($close, -{i})" for i in range(1, 8)))), "features")
    assert one.text.startswith("7 features look ahead: F7 = Ref($close, -7) looks 7 trading days ahead; F6")
    assert one.text.endswith("and 4 more.")
    three = only(handler(columns("$open", *(f"Ref($close, -{i})" for i in range(1, 4)))), "features")
    assert three.text.endswith("F1 = Ref($close, -1) looks 1 trading day ahead.")
    clean = only(handler(columns("$open", "$close", "Ref($close, 1)")), "features")
    assert clean.text == "No expression of 3 features reads a later day."


def test_every_place_of_expressions_is_read() -> None:
    """Nested loaders, handlers inside a loader, and columns without groups, of which one may be the label."""
    ahead = columns("Ref($close, -1)")
    nested = {"class": "NestedDataLoader", "kwargs": {"dataloader_l": [columns("$close"), ahead]}}
    assert only(handler(nested), "features").result is LEAK
    inner = {"class": "DataLoaderDH", "kwargs": {"handler_config": handler(ahead)}}
    assert only(handler(inner), "features").result is LEAK
    groups = {"feature": handler(columns("$close")), "label": handler(columns("Ref($close, -1)"))}
    by_group = {"class": "DataLoaderDH", "kwargs": {"handler_config": groups, "is_group": True}}
    assert only(handler(by_group), "features").result is CLEAN, "the columns of the group 'label' are labels"
    loose = {"class": "QlibDataLoader", "kwargs": {"config": [["$close", "Ref($close, -1)"], ["A", "B"]]}}
    one = only(handler(loose), "features")
    assert one.result is UNKNOWN
    assert one.text == (
        "The columns have no groups, so it is not known whether Ref($close, -1), which looks 1 trading day ahead, is a "
        "label or a feature."
    )
    assert only(alpha(), "features").result is CLEAN


class Peeking(DataHandlerLP):
    """A handler whose constructor sets the expressions."""

    def __init__(self, **kwargs: Any) -> None:
        config = {"feature": (["Ref($close, -3)"], ["A"]), "label": ([LABEL], ["L"])}
        super().__init__(data_loader={"class": "QlibDataLoader", "kwargs": {"config": config}}, **kwargs)


class Replacing(DataHandlerLP):
    """A handler that changes the data after they are loaded."""

    def setup_data(self, **kwargs: Any) -> None:
        super().setup_data(**kwargs)


class Reading(DatasetH):
    """A dataset that gives a model anything."""

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        return super().prepare(*args, **kwargs)


class Frames(DataLoader):
    """A loader that computes anything."""


class Chosen(BaseDFilter):
    """A filter that computes anything."""

    def apply(self, codes: Any, days: Any, evaluate: Any) -> Any:
        return np.ones((len(codes), len(days)), bool)


class ChosenByName(NameDFilter):
    """May do more than its base class."""


class Shifted(Processor):
    """A processor that computes anything."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df


class Scaled(Processor):
    """A processor with a fit window."""

    def __init__(self, fit_start_time: Any = None, fit_end_time: Any = None) -> None:
        self.fit_start_time, self.fit_end_time = fit_start_time, fit_end_time

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df


class Forward(InstProcessor):
    """A processor of single instruments that computes anything."""

    def __call__(self, df: pd.DataFrame, *args: Any, **kwargs: Any) -> pd.DataFrame:
        return df


def own(kind: type, **kwargs: Any) -> dict[str, Any]:
    return {"class": kind.__name__, "module_path": __name__, "kwargs": kwargs}


def test_expressions_of_a_user_defined_handler_are_read_from_its_object() -> None:
    assert "looks 3 trading days ahead" in only(own(Peeking), "features").text


@pytest.mark.parametrize(
    ("described", "word"),
    [
        (own(Replacing, data_loader=columns("$close")), "Replacing overrides setup_data"),
        (handler(own(Frames)), "loaded by Frames"),
        (
            handler({"class": "StaticDataLoader", "kwargs": {"config": {"feature": "f.pkl", "label": "l.pkl"}}}),
            "precomputed",
        ),
        ("file:///nowhere/handler.pkl", "cannot be built here"),
        ({"class": "Missing", "module_path": "no_such_module"}, "cannot be built here"),
    ],
)
def test_features_that_no_expression_describes_are_not_known(described: Any, word: str) -> None:
    """Features that no expression describes are never considered clean; the result recommends the measured check,
    except for columns of a file, which it cannot verify."""
    one = only(described, "features")
    assert one.result is UNKNOWN
    assert word in one.text
    assert ("rollforge check" in one.advice) is (word != "precomputed")


def test_a_user_defined_dataset_may_change_the_features() -> None:
    made = task(alpha())
    made["dataset"] |= {"class": "Reading", "module_path": __name__}
    (one,) = [c for c in static_checks([made], CALENDAR) if c.subject == "features"]
    assert one.result is UNKNOWN
    assert "Reading overrides prepare" in one.text


@pytest.fixture
def operator() -> Iterator[None]:
    register_operator("Tomorrow", lambda series, x: np.roll(x, -1, axis=1))
    yield
    unregister_operator("Tomorrow")


@pytest.mark.usefixtures("operator")
def test_a_user_defined_operator_is_not_known_whatever_it_declares() -> None:
    """The operator is named, in a feature and in a filter."""
    one = only(handler(columns("$close", "Mean(Tomorrow($close), 5)")), "features")
    assert one.result is UNKNOWN
    assert "Tomorrow" in one.text


@pytest.mark.usefixtures("operator")
def test_the_look_ahead_of_a_user_defined_operator_in_a_label_is_not_known() -> None:
    """`trunc_days: auto` would purge the declared days, which may be too few; a declared horizon settles it."""
    loader = columns("$close", label="Tomorrow($close)/$close - 1")
    one = only(handler(loader), "label")
    assert one.result is UNKNOWN
    assert "the operator Tomorrow is not one of Rollforge's, and its declared look-ahead is not checked" in one.text
    assert "label_horizon" in one.advice
    assert only(handler(loader, label_horizon=1), "label").result is CLEAN
    assert only(handler(loader, label_horizon=0), "label").result is CLEAN
    further = columns("$close", label="Tomorrow(Ref($close, -2))/$close - 1")
    assert "but label_horizon: 1 is declared" in only(handler(further, label_horizon=1), "label").text
    assert only(handler(columns("$close")), "label").result is CLEAN


# -- processors and fit windows ----------------------------------------------------------------------------------------

ROBUST = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}


@pytest.mark.parametrize(
    ("end", "result"),
    [
        ("2019-12-26", CLEAN), ("2019-12-31", CLEAN), ("2020-01-01", LEAK), ("2020-06-25", LEAK), ("2020-07-01", LEAK),
        ("2022-12-30", LEAK), ("2018-06-01", CLEAN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", ["infer_processors", "learn_processors"])
def test_a_fit_window_must_end_before_valid(end: str, result: CheckResult, steps: str) -> None:
    """The days between train and valid are neither tested nor used to stop the fitting."""
    kwargs = {"fit_start_time": "2018-01-01", "fit_end_time": end}
    assert only(alpha(**kwargs, **{steps: [ROBUST]}), "fit window").result is result
    named = {"class": "ZScoreNorm", "kwargs": {"fields_group": "feature", **kwargs}}
    one = only(handler(columns("$close"), **{steps: [named]}), "fit window")
    assert one.result is result
    if result is LEAK:
        assert f"ZScoreNorm learns until {end}, but the" in one.text


def test_a_fit_window_behind_the_test_is_a_leak() -> None:
    """A fit window behind the test is a leak even if it shares no day with a segment: it ends after the test begins."""
    kwargs = {"fit_start_time": "2022-01-03", "fit_end_time": "2022-06-30", "infer_processors": [ROBUST]}
    one = only(alpha(**kwargs), "fit window")
    assert one.result is LEAK
    assert "until 2022-06-30, but the test segment starts on 2020-07-01" in one.text
    between = {
        "train": ["2018-01-01", "2019-06-28"],
        "test": [["2020-07-01", "2020-12-31"], ["2022-07-01", "2022-12-30"]],
    }
    one = only(alpha(**kwargs), "fit window", segments=between)
    assert one.result is LEAK
    assert "until 2022-06-30, but the test segment starts on 2020-07-01" in one.text


def test_a_fit_window_that_stays_while_windows_roll_is_a_leak_where_it_is_behind() -> None:
    """Only the windows that are tested before its end have the leak; they share one result."""
    segments = {"train": ["2018-01-01", "2018-12-28"], "test": ["2019-01-01", "2021-12-31"]}
    kwargs = {"fit_start_time": "2018-01-01", "fit_end_time": "2019-12-31", "infer_processors": [ROBUST]}
    tasks = RollingGen(step=250, trunc_days="auto", calendar=CALENDAR).generate(task(alpha(**kwargs), segments))
    titles = [f"window {i}" for i in range(1, len(tasks) + 1)]
    (leak,) = [one for one in static_checks(tasks, CALENDAR, titles) if one.result is LEAK]
    assert leak.subject == "fit window"
    assert leak.tasks == ("window 1", "window 2")
    assert leak.text.startswith("For example in window 1, the processor RobustZScoreNorm learns until 2019-12-31")
    rolled = RollingGen(step=250, trunc_days="auto", roll_fit_window=True, calendar=CALENDAR)
    assert not [
        c for c in static_checks(rolled.generate(task(alpha(**kwargs), segments)), CALENDAR) if c.result is LEAK
    ]


@pytest.mark.parametrize("generator", [RollingGen, CalendarGen, PurgedKFoldGen])
def test_generators_move_the_fit_windows_of_processors(generator: Any) -> None:
    """What the leak's message recommends also works where each processor has its own window, and nothing else
    changes."""
    kwargs = {"fields_group": "feature", "fit_start_time": "2018-01-01", "fit_end_time": "2021-12-31"}
    label = {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}
    described = handler(
        columns("$close"), infer_processors=[{"class": "ZScoreNorm", "kwargs": kwargs}, label, "Fillna"]
    )
    settings = {
        RollingGen: {"step": 250, "trunc_days": "auto", "roll_fit_window": True},
        CalendarGen: {"retrain": "year", "train": 250, "trunc_days": "auto"},
        PurgedKFoldGen: {"n_folds": 3},
    }[generator]
    tasks = generator(**settings, calendar=CALENDAR).generate(
        task(described, {k: SEGMENTS[k] for k in ("train", "test")})
    )
    assert len(tasks) > 1
    assert not [c for c in static_checks(tasks, CALENDAR) if c.result is not CLEAN]
    for one in tasks:
        given = one["dataset"]["kwargs"]["handler"]["kwargs"]
        assert "fit_end_time" not in given
        assert given["infer_processors"][1:] == [label, "Fillna"]


def test_fit_windows_that_refer_to_the_training_segment_are_no_leak_in_cross_validation() -> None:
    """The tasks are those of one model, although each of its processors is fitted on other days in each of them."""
    window = {f"fit_{end}_time": f"<dataset.kwargs.segments.train.{i}>" for i, end in enumerate(("start", "end"))}
    norm = {"class": "ZScoreNorm", "kwargs": {"fields_group": "feature", **window}}
    template = task(handler(columns("$close"), infer_processors=[norm]), {k: SEGMENTS[k] for k in ("train", "test")})
    tasks = [
        {**one, "dataset": {**one["dataset"], "kwargs": {**one["dataset"]["kwargs"], "segments": segments}}}
        for one in [template]
        for segments in (
            {"train": ["2018-01-01", "2018-12-26"], "test": ["2019-01-01", "2019-12-31"]},
            {"train": ["2019-01-07", "2019-12-31"], "test": ["2018-01-01", "2018-12-26"]},
        )
    ]
    assert "segments" not in {c.subject for c in static_checks(tasks, CALENDAR) if c.result is LEAK}


def test_a_fit_window_of_cross_validation_may_be_any_training_interval() -> None:
    """However, it may not contain tested days."""
    for fit, leaks in ((("2019-01-01", "2019-12-31"), 1), (("2021-06-01", "2021-12-31"), 0)):
        kwargs = {"fit_start_time": fit[0], "fit_end_time": fit[1], "infer_processors": [ROBUST]}
        segments = {
            "train": [["2018-01-01", "2018-06-01"], ["2021-01-01", "2021-12-31"]],
            "test": ["2019-01-01", "2019-12-31"],
        }
        assert [c.result for c in found(alpha(**kwargs), "fit window", segments=segments)] == [LEAK if leaks else CLEAN]


def test_a_handler_in_a_file_keeps_its_fit_window(tmp_path: Path) -> None:
    """A handler that was saved after it was fitted on the whole period is a leak; one of the training days is not."""
    for end, result in (("2022-12-30", LEAK), ("2019-12-26", CLEAN)):
        steps = [{"class": "ZScoreNorm", "kwargs": {"fit_start_time": "2018-01-01", "fit_end_time": end}}]
        made = DataHandlerLP(data_loader=columns("$close"), infer_processors=steps)
        file = tmp_path / f"{end}.pkl"
        made.to_pickle(file)
        one = only(f"file://{file}", "fit window")
        assert one.result is result
        assert "roll_fit_window" not in one.advice  # a handler in a file does not move
        assert only(f"file://{file}", "features").result is CLEAN


@pytest.mark.parametrize("steps", ["infer_processors", "learn_processors", "shared_processors"])
def test_a_user_defined_processor_is_not_known(steps: str) -> None:
    """The message has its name; if it has a fit window behind train, that is a leak too."""
    one = only(handler(columns("$close"), **{steps: [own(Shifted)]}), "processors")
    assert one.result is UNKNOWN
    assert "Shifted" in one.text
    window = {"fit_start_time": "2018-01-01", "fit_end_time": "2021-12-31"}
    fitted = handler(columns("$close"), **{steps: [own(Scaled, **window)]})
    assert only(fitted, "fit window").result is LEAK
    assert only(fitted, "processors").result is UNKNOWN
    inner = handler(columns("$close", inst_processors=[own(Forward)]))
    assert only(inner, "processors").result is UNKNOWN


@pytest.mark.parametrize("origin", [Origin.READ, Origin.OWN])
def test_processors_of_a_handler_that_was_not_built_are_not_known(origin: Origin) -> None:
    """A report does not build objects described in a pool, and a file may be missing. Neither is considered clean."""
    described: Any = alpha(infer_processors=[{"class": "Mine"}]) if origin is Origin.READ else "file://missing.pkl"
    with from_origin(origin):
        checks = static_checks([task(described)], CALENDAR)
    assert {c.result for c in checks if c.subject in ("features", "processors")} == {UNKNOWN}


def test_a_range_filter_of_instruments_knows_the_future() -> None:
    """``TimeRangeFlt`` keeps the instruments that survive until its end."""
    for end, result in (("2021-12-31", LEAK), ("2018-01-01", CLEAN), (None, CLEAN)):
        flt = {"class": "TimeRangeFlt", "kwargs": {"start_time": "2018-01-01", "end_time": end}}
        assert only(handler(columns("$close", inst_processors=[flt])), "processors").result is result


def test_a_range_filter_may_end_on_the_first_day_of_the_first_interval() -> None:
    """The filter may end on that day even if a segment has several intervals; a day later, the future of that first day
    is known."""
    segments = {
        "train": [["2018-01-02", "2018-06-29"], ["2019-01-01", "2019-06-28"]],
        "test": ["2018-08-01", "2018-10-31"],
    }
    for end, result in (("2018-01-02", CLEAN), ("2018-01-03", LEAK), ("2018-12-31", LEAK)):
        for flt in (
            {"class": "TimeRangeFlt", "kwargs": {"start_time": None, "end_time": end}},
            {"class": "TimeRangeFlt", "module_path": "qlib.data.dataset.processor", "kwargs": {"end_time": end}},
        ):
            described = handler(columns("$close", inst_processors=[flt]))
            one = only(described, "processors", segments=segments)
            assert one.result is result
            assert (f"whose data last until {end}" in one.text) is (result is LEAK)


def test_a_processor_of_two_stages_is_one() -> None:
    """A user-defined shared processor is reported once, with its name."""
    shared = {"class": "Shifted", "module_path": __name__}
    described = handler(columns("$close"), shared_processors=[shared], infer_processors=[], learn_processors=[])
    parts = data_parts(described)
    assert [kind_of(named.one).__name__ for named in parts.processors] == ["Shifted"]
    both = handler(columns("$close"), infer_processors=[own(Shifted)], learn_processors=[own(Shifted)])
    assert len(data_parts(both).processors) == 2


def test_all_processors_of_rollforge_are_known() -> None:
    """Each either processes a row without later days or has a fit window; none is reported as not known."""
    kinds = [
        kind for name in processors.__all__ if isinstance(kind := getattr(processors, name), type)
        and issubclass(kind, Processor) and kind not in (Processor, processors.Adapted)
    ]  # fmt: skip
    assert len(kinds) > 10
    window = {"fit_start_time": "2018-01-01", "fit_end_time": "2019-12-26"}
    for kind in kinds:
        kwargs = window if hasattr(kind, "learn") else {}
        described = {"class": kind.__name__, "kwargs": kwargs}
        assert only(handler(columns("$close"), learn_processors=[described]), "processors").result is CLEAN, kind


# -- segments and labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segments", "word"),
    [
        (
            {"train": ["2018-01-01", "2020-01-10"], "test": ["2020-01-01", "2020-12-31"]},
            "8 of 262 days of 'test' are in 'train'",
        ),
        ({"train": ["2020-01-01", "2020-12-31"], "test": ["2018-01-01", "2019-12-20"]}, "before the end of 'train'"),
        (
            {
                "train": ["2018-01-01", "2018-12-20"],
                "valid": ["2020-01-01", "2020-12-31"],
                "test": ["2019-01-01", "2019-12-20"],
            },
            "before the end of 'valid'",
        ),
        (
            {
                "train": ["2018-01-01", "2019-12-31"],
                "valid": ["2019-12-01", "2019-12-31"],
                "test": ["2020-02-03", "2020-12-31"],
            },
            "of 'valid' are in 'train'",
        ),
        (
            {"train": ["2018-01-01", "2019-12-31"], "test": ["2020-01-01", "2020-12-31"]},
            "last 2 days of 'train' reach into 'test'",
        ),
    ],
    ids=["test in train", "test before train", "test before valid", "valid in train", "label"],
)
def test_a_model_that_knows_its_test_is_a_leak(segments: dict[str, Any], word: str) -> None:
    leaks = [one for one in static_checks([task(alpha(), segments)], CALENDAR) if one.result is LEAK]
    assert any(word in one.text for one in leaks), leaks


@pytest.mark.parametrize(
    ("valid", "days"),
    [
        (["2020-01-01", "2020-06-25"], ("2019-12-30", "2019-12-31")),
        (["2020-01-02", "2020-06-25"], ("2019-12-31",)),
        (["2020-01-03", "2020-06-25"], ()),
    ],
)
def test_a_leak_names_the_first_and_the_last_of_its_days(valid: list[str], days: tuple[str, ...]) -> None:
    """The label reads two days: each day between the segments saves one day of the first segment."""
    made = task(alpha(), {"train": ["2019-01-01", "2019-12-31"], "valid": valid, "test": ["2020-07-01", "2020-12-31"]})
    assert [leak.dates for leak in leaking_segments(made, CALENDAR)] == ([days] if days else [])
    (one,) = [check for check in static_checks([made], CALENDAR) if check.subject == "label"]
    assert one.result is (LEAK if days else CLEAN)


def test_a_segment_of_one_day_leaks_one_day() -> None:
    made = task(alpha(), {"train": ["2019-12-31", "2019-12-31"], "test": ["2020-01-01", "2020-12-31"]})
    (leak,) = leaking_segments(made, CALENDAR)
    assert (leak.days, leak.dates) == (1, ("2019-12-31",))


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (
            {"train": ["2018-01-01", "2020-01-01"], "test": ["2020-01-01", "2020-01-10"]},
            ["1 of 8 days of 'test' is in 'train' too: the model is tested on days to which it was fitted."],
        ),
        (
            {"train": ["2018-01-01", "2019-12-20"], "valid": ["2020-01-01", "2020-01-02"], "test": ["2020-01-02", "2020-01-10"]},
            ["1 of 7 days of 'test' is in 'valid' too: the model is tested on days that determined when its fitting"],
        ),
        (
            {"train": [["2018-01-01", "2018-01-05"], ["2018-02-01", "2018-02-02"]], "test": ["2018-01-04", "2018-02-01"]},
            ["3 of 21 days of 'test' are in 'train' too", "21 of 21 days of 'test' are before the end of 'train' on 2018-02-02"],
        ),
        (
            {"train_1": ["2018-01-01", "2018-01-05"], "train": ["2018-01-01", "2018-01-03"],
             "test": ["2018-01-04", "2018-02-01"]},
            ["2 of 21 days of 'test' are in 'train_1' too: the model is tested on days to which it was fitted before."],
        ),
        (
            {"train": ["2018-01-01", "2018-12-31"], "test": ["2017-12-25", "2017-12-29"]},
            [],
        ),
        (
            {"train": ["2019-01-01", "2019-12-31"], "test": ["2018-12-03", "2018-12-07"]},
            ["5 of 5 days of 'test' are before the end of 'train' on 2019-12-31: the model is trained on later days"],
        ),
    ],
    ids=["one day", "valid", "intervals", "earlier training", "outside the calendar", "before"],
)  # fmt: skip
def test_shared_days_are_counted(segments: dict[str, Any], words: list[str]) -> None:
    """In trading days, over all intervals of a segment."""
    texts = [one.text for one in found(alpha(), "segments", segments=segments) if one.result is LEAK]
    assert len(texts) == len(words)
    for text, word in zip(texts, words, strict=True):
        assert text.startswith(word)


def test_windows_that_predict_the_days_before_their_training_are_a_leak() -> None:
    """An average over models can be such a case: some were trained later than the day that they predict."""
    test = ["2019-01-01", "2019-12-31"]
    early = task(alpha(), {"train": ["2018-01-01", "2018-12-20"], "test": test})
    late = task(alpha(), {"train": ["2020-02-03", "2021-12-31"], "test": test})
    (leak,) = [one for one in static_checks([early, late], CALENDAR, ["early", "late"]) if one.result is LEAK]
    assert leak.tasks == ("late",)
    assert "trained on later days than it predicts" in leak.text


def test_cross_validation_is_not_a_leak() -> None:
    """All of its folds together, and the first ones alone if the others are known."""
    made = PurgedKFoldGen(2, calendar=CALENDAR).generate(task(alpha()))
    assert not [one for one in static_checks(made, CALENDAR) if one.result is LEAK]
    assert not [one for one in static_checks(made[:1], CALENDAR, among=made) if one.result is LEAK]


@pytest.mark.parametrize(
    "described",
    [
        handler(own(Frames)),
        handler({"class": "StaticDataLoader", "kwargs": {"config": {"label": "l.pkl"}}}),
        handler(columns("$close"), learn_processors=[own(Shifted)]),
        own(Replacing, data_loader=columns("$close")),
        "file:///nowhere/handler.pkl",
    ],
    ids=["loader", "file", "processor", "handler", "pickle"],
)
def test_a_label_that_no_expression_determines_is_not_known(described: Any) -> None:
    """When its horizon is declared, its segments are checked."""
    one = only(described, "label")
    assert one.result is UNKNOWN
    assert "label_horizon" in one.advice
    assert only(described, "label", label_horizon=1).result is CLEAN
    assert {c.result for c in found(described, "label", label_horizon=5)} == {LEAK}


# -- universes and filters ---------------------------------------------------------------------------------------------


@pytest.fixture
def universes(small_market: Path) -> Iterator[Path]:
    """The session's data folder is the demo market."""
    with using(Session(provider_uri=str(small_market))):
        yield small_market


MARKET = {"train": ["2022-01-03", "2022-12-20"], "test": ["2023-01-02", "2023-11-30"]}


def test_a_list_without_dates_is_not_checked_for_survivorship(universes: Path) -> None:
    """Codes, a universe that no member joins or leaves, and universes with dates on which members do."""
    codes = sorted(p.name.upper() for p in (universes / "features").iterdir())[:5]
    dated = {code: [["2022-01-03", "2023-12-29"]] for code in codes}
    leaving = {**dated, codes[0]: [["2022-01-03", "2022-06-30"]]}
    listed_late = {**dated, codes[0]: [["2022-06-30", "2023-12-29"]]}
    for given_universe, result in (
        (codes, UNKNOWN), (dated, UNKNOWN), (leaving, CLEAN), (listed_late, CLEAN), ("all", CLEAN),
    ):  # fmt: skip
        one = only(alpha(instruments=given_universe), "universe", segments=MARKET)
        assert one.result is result
    assert "survivorship is not checked" in only(alpha(instruments=codes), "universe", segments=MARKET).text
    text = only(alpha(instruments=leaving), "universe", segments=MARKET).text
    assert text.endswith("is dated: 1 of 5 members joins or leaves it from 2022-01-03 to 2022-12-20.")
    assert f"The universe of {', '.join(codes[:3])} and 2 more is dated" in text


def test_filters_are_checked(universes: Path) -> None:
    """A filter by an expression of later days is a leak; one of a user-defined class is not known."""
    for pipe, result in (
        ([{"filter_type": "ExpressionDFilter", "rule_expression": "Ref($close, -5) > $close"}], LEAK),
        ([{"filter_type": "ExpressionDFilter", "rule_expression": "$close > Ref($close, 5)"}], CLEAN),
        ([{"filter_type": "NameDFilter", "name_rule_re": ".*"}], CLEAN),
        ([{"class": "Chosen", "module_path": __name__}], UNKNOWN),
        ([{"class": "ChosenByName", "module_path": __name__, "kwargs": {"name_rule_re": ".*"}}], UNKNOWN),
    ):
        assert only(alpha(instruments="all", filter_pipe=pipe), "filters", segments=MARKET).result is result
        market = {"market": "all", "filter_pipe": pipe}
        assert only(alpha(instruments=market), "filters", segments=MARKET).result is result


# -- grouping ----------------------------------------------------------------------------------------------------------


def test_sixty_windows_do_not_give_sixty_results() -> None:
    """Each result is one, without the titles of tasks if it is about all of them."""
    segments = {"train": ["2018-01-01", "2019-01-01"], "test": ["2019-01-02", "2021-12-31"]}
    made = RollingGen(step=13, rtype="sliding", trunc_days=0, calendar=CALENDAR).generate(
        task(handler(columns("Ref($close, -1)")), segments)
    )
    assert len(made) >= 60
    checks = static_checks(made, CALENDAR)
    assert len(checks) == len({(one.subject, one.result) for one in checks}) <= 6
    assert {one.tasks for one in checks} == {()}


def test_a_user_defined_ensemble_is_not_known() -> None:
    ensembles = {"windows": {"class": "Mine", "module_path": "mine"}, "models": {"class": "AverageEnsemble"}}
    checks = static_checks([task(alpha())], CALENDAR, ensembles=ensembles)
    (one,) = [one for one in checks if one.subject == "ensemble"]
    assert one.result is UNKNOWN
    assert "Mine" in one.text


@pytest.mark.parametrize(
    ("groups", "steps", "known"),
    [
        (None, "infer_processors", False), ("label", "infer_processors", False),
        (["feature", "label"], "infer_processors", False),
        (None, "shared_processors", False), ("feature", "infer_processors", True), (None, "learn_processors", True),
    ],
)  # fmt: skip
def test_rows_without_a_label_stay_in_the_data_for_inference(groups: Any, steps: str, known: bool) -> None:
    """Whether there will be a label is not known on that day; for learning, the rows may be dropped."""
    drop = {"class": "DropnaProcessor", "kwargs": {"fields_group": groups}}
    one = only(handler(columns("$close"), **{steps: [drop]}), "processors")
    assert one.result is (CLEAN if known else UNKNOWN)
    assert known or "DropnaLabel to learn_processors" in one.advice


# -- user code outside of the data ---------------------------------------------------------------------------------------

MINE = {"class": "Mine", "module_path": "./mine.py"}
OURS = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt"}


def backtest(signal: Any) -> dict[str, Any]:
    strategy = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": {"signal": signal}}
    return {"class": "PortAnaRecord", "kwargs": {"config": {"strategy": strategy, "backtest": {}}}}


@pytest.mark.parametrize(
    ("subject", "more", "words"),
    [
        ("model", {"model": MINE}, "the model Mine"),
        ("model", {"model": {"class": "mine.Mine"}}, "the model Mine"),
        ("model", {"model": "mine.Mine"}, "the model Mine"),
        ("model", {"model": "file:///nowhere/model.pkl"}, "the model model.pkl"),
        (
            "records",
            {"model": OURS, "record": {"class": "SignalRecord", "kwargs": {"of": ["mine.parts.Mine"]}}},
            "the class Mine of the records",
        ),
        ("model", {"model": OURS, "reweighter": "mine.Mine"}, "the reweighter Mine"),
        ("records", {"model": OURS, "record": ["mine.Mine"]}, "the class Mine of the records"),
        ("records", {"model": OURS, "record": "mine.Mine"}, "the class Mine of the records"),
        ("model", {"model": OURS, "reweighter": MINE}, "the reweighter Mine"),
        ("records", {"model": OURS, "record": [{"class": "SignalRecord"}, MINE]}, "the class Mine of the records"),
        (
            "records",
            {"model": OURS, "record": backtest("<PRED>") | {"class": "mine.Mine"}},
            "the class Mine of the records",
        ),
        ("records", {"model": OURS, "record": backtest("file.pkl")}, "the signal of the backtest"),
        ("records", {"model": OURS, "record": backtest(["<MODEL>", {"class": "S"}])}, "the signal of the backtest"),
    ],
)
def test_user_defined_models_and_records_are_not_known(subject: str, more: dict[str, Any], words: str) -> None:
    """User-defined models and records can read any data; each is reported once."""
    one = only(alpha(), subject, **more)
    assert one.result is UNKNOWN
    assert words in one.text


@pytest.mark.parametrize("signal", ["<PRED>", ["<MODEL>", "<DATASET>"], None])
def test_models_and_records_of_qlib_give_no_finding(signal: Any) -> None:
    for subject in ("model", "records", "ensemble"):
        named = {"class": "SigAnaRecord", "kwargs": {"of": ["BRK.B", "sh600000.XSHG", "pred.pkl", "qlib.model.Model"]}}
        assert not found(alpha(), subject, model=OURS, record=[{"class": "SignalRecord"}, named, backtest(signal)])


@pytest.mark.parametrize(
    ("described", "known"),
    [
        ("mine.Mean", False),
        ("qlib.model.ens.ensemble.AverageEnsemble", True),
        ({"class": "mine.Mean"}, False),
        ({"class": "AverageEnsemble", "kwargs": {"of": {"inner": [MINE]}}}, False),
        ({"class": "AverageEnsemble"}, True),
        ({"class": "qlib.model.ens.ensemble.AverageEnsemble"}, True),
    ],
)
def test_a_user_defined_ensemble_is_not_known_however_it_is_given(described: Any, known: bool) -> None:
    """By a dotted name, or inside the arguments of another one."""
    checks = static_checks([task(alpha())], CALENDAR, ensembles={"models": described})
    assert [c.result for c in checks if c.subject == "ensemble"] == ([] if known else [UNKNOWN])


def test_fields_that_are_not_market_data_are_not_known() -> None:
    """A field that was computed elsewhere may contain later prices, whatever the expression does; labels may read
    any."""
    one = only(handler(columns("$close/$open", "Mean($future, 3)", "$Vwap", "$score")), "features")
    assert one.result is UNKNOWN
    assert "$future, $score may contain values that were not known on their day" in one.text
    assert only(handler(columns("$close", label="Ref($future, -1)")), "features").result is CLEAN


def test_references_in_fit_windows_are_days_where_the_training_segment_has_holes() -> None:
    """Each task of a cross-validation can be built, and its processors are fitted on the longest interval of train."""
    window = {f"fit_{end}_time": f"<dataset.kwargs.segments.train.{i}>" for i, end in enumerate(("start", "end"))}
    norm = {"class": "ZScoreNorm", "kwargs": {"fields_group": "feature", **window}}
    template = task(handler(columns("$close"), infer_processors=[norm]), {k: SEGMENTS[k] for k in ("train", "test")})
    for one in PurgedKFoldGen(3, calendar=CALENDAR).generate(template):
        train = one["dataset"]["kwargs"]["segments"]["train"]
        kwargs = one["dataset"]["kwargs"]["handler"]["kwargs"]["infer_processors"][0]["kwargs"]
        days = kwargs["fit_start_time"], kwargs["fit_end_time"]
        if isinstance(train, tuple):
            assert days == tuple(window.values())
        else:
            assert days == max(train, key=lambda part: part[1] - part[0])
        assert [c.subject for c in static_checks([one], CALENDAR) if c.result is UNKNOWN] == []
