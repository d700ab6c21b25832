"""The parts of a definition are read in one place, which handles damaged definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rollforge.errors import ConfigError, SegmentError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandler
from rollforge.features.loader import QlibDataLoader
from rollforge.generate.segments import Segment, bounds
from rollforge.generate.task_view import TaskView
from rollforge.models.linear import LinearModel

SEGMENTS = {"train": ("2020-01-02", "2020-06-30"), "test": ["2020-07-01", None]}
HANDLER = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "all"}}
TASK: dict[str, Any] = {
    "model": {"class": "LGBModel"},
    "dataset": {"class": "DatasetH", "kwargs": {"handler": HANDLER, "segments": SEGMENTS}},
    "record": {"class": "SignalRecord"},
}


def test_each_part_of_a_task_is_read() -> None:
    view = TaskView(TASK)
    assert (view.model, view.model_class) == ({"class": "LGBModel"}, "LGBModel")
    assert view.dataset_kwargs is TASK["dataset"]["kwargs"]
    assert view.handler is HANDLER
    assert view.described_handler == HANDLER
    assert view.handler_kwargs is HANDLER["kwargs"]
    assert view.segments is SEGMENTS
    assert view.days_tested == "2020-07-01 to the end"
    assert view.records == [{"class": "SignalRecord"}]


def test_parts_that_are_objects_are_read_like_their_descriptions() -> None:
    """The class, the segments, the handler and the frequency of its loader are found; other objects are no parts."""
    segments = {"test": ("2020-01-02", "2020-01-31")}
    handler = DataHandler(data_loader=QlibDataLoader([["$close"], ["F"]], freq="1h"))
    task: dict[str, Any] = {"model": LinearModel(), "dataset": DatasetH(handler, segments)}
    described = {"dataset": {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}}}
    for one in (task, described, {**described, "model": LinearModel}):
        view = TaskView(one)
        assert (view.handler, view.segments, view.freq) == (handler, segments, "60min")
        assert (view.days_tested, view.handler_kwargs) == ("2020-01-02 to 2020-01-31", None)
        assert view.model_class == ("LinearModel" if "model" in one else "")
    assert TaskView({"model": object(), "dataset": 5}).model_class == ""
    with pytest.raises(ConfigError, match="needs a dataset with kwargs"):
        TaskView(task).with_segments(segments)  # which would lose the object's other arguments


def test_a_task_with_other_segments_is_a_new_one() -> None:
    """The template keeps its segments; the other parts are shared, and arguments keep their order."""
    other = TaskView(TASK).with_segments({"test": ("2021-01-04", None)})
    assert TaskView(other).segments == {"test": ("2021-01-04", None)}
    assert TaskView(TASK).segments is SEGMENTS
    assert (TaskView(other).handler, other["model"]) == (HANDLER, TASK["model"])
    assert list(TaskView(other).dataset_kwargs) == ["handler", "segments"]
    assert TaskView(TASK).with_dataset_kwargs(purge_rows=2)["dataset"]["kwargs"] == {
        "handler": HANDLER, "segments": SEGMENTS, "purge_rows": 2,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="a task needs a dataset with kwargs"):
        TaskView({"dataset": "DatasetH"}).with_segments(SEGMENTS)


def test_references_in_a_handler_are_resolved_in_its_description() -> None:
    """The handler itself is unchanged; an invalid reference is reported when the task is built."""
    kwargs = {"fit_end_time": "<dataset.kwargs.segments.train.1>"}
    task = {"dataset": {"kwargs": {"handler": {"class": "Alpha158", "kwargs": kwargs}, "segments": SEGMENTS}}}
    assert TaskView(task).described_handler["kwargs"] == {"fit_end_time": "2020-06-30"}
    assert TaskView(task).handler_kwargs == kwargs
    broken = {"class": "Alpha158", "kwargs": {"x": "<dataset.kwargs.segments.nowhere.1>"}}
    assert TaskView({"dataset": {"kwargs": {"handler": broken, "segments": SEGMENTS}}}).described_handler == broken


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"model": None, "dataset": None, "record": None},
        {"model": "LGBModel", "dataset": "DatasetH", "record": []},
        {"model": 1, "dataset": {"kwargs": 3}},
        {"dataset": {"kwargs": {}}},
        {"dataset": {"kwargs": {"handler": "handler.pkl", "segments": 5}}},
        {"dataset": [{"kwargs": {}}]},
    ],
)
def test_a_part_that_is_missing_or_damaged_is_empty_or_a_clear_error(task: dict[str, Any]) -> None:
    """There is never a KeyError or TypeError: the error for a required part says what is missing, and where."""
    view = TaskView(task)
    assert (view.model, view.model_class) == (None, "")
    assert TaskView({"model": "mine.Model"}).model_class == "mine.Model"  # a dotted path alone
    assert (view.handler_kwargs, view.described_handler, view.days_tested, view.records) == (None, {}, "", [])
    with pytest.raises(SegmentError, match=r"task\.dataset\.kwargs\.segments"):
        _ = view.segments
    if not isinstance(task.get("dataset"), dict) or not isinstance(task["dataset"].get("kwargs"), dict):
        with pytest.raises(ConfigError, match=r"task\.dataset\.kwargs: is missing"):
            _ = view.dataset_kwargs


@pytest.mark.parametrize("record", ["SignalRecord", {"class": "SignalRecord"}])
def test_a_single_record_is_a_list_of_one(record: Any) -> None:
    assert TaskView({"record": record}).records == TaskView({"record": [record]}).records == [record]
    assert TaskView({"record": (record, record)}).records == [record, record]


_DAYS = st.one_of(st.none(), st.integers(0, 40).map(lambda i: np.datetime64("2024-01-01") + np.timedelta64(i, "D")))


@given(start=_DAYS, end=_DAYS, trading=st.sets(st.integers(5, 35)))
def test_the_positions_of_a_segment_are_its_trading_days(
    start: np.datetime64 | None, end: np.datetime64 | None, trading: set[int]
) -> None:
    """Both ends of a segment are included, open ends extend to those of the calendar, and no other day is included."""
    calendar = np.array(
        [np.datetime64("2024-01-01") + np.timedelta64(i, "D") for i in sorted(trading)], "datetime64[D]"
    )
    if start is not None and end is not None and start > end:
        with pytest.raises(SegmentError, match="inverted"):
            bounds("train", (start, end))
        return
    segment = bounds("train", (start, end))
    assert segment == Segment(start, end)
    first, stop = segment.positions(calendar)
    inside = [d for d in calendar if (start is None or d >= start) and (end is None or d <= end)]
    assert list(calendar[first:stop]) == inside
