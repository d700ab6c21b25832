"""Segments of several intervals: the rows of all intervals in chronological order, as frames and as samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge.errors import DataError, SegmentError
from rollforge.features.dataset import DatasetH
from rollforge.features.timeseries import TSDatasetH

PARTS = [("2023-05-02", "2023-05-31"), ("2023-02-01", "2023-02-28")]
HANDLER: dict[str, Any] = {
    "class": "Alpha158",
    "module_path": "qlib.contrib.data.handler",
    "kwargs": {"instruments": "all", "start_time": "2023-01-02", "end_time": "2023-07-31", "infer_processors": []},
}


@pytest.fixture
def market(small_market: Path) -> Path:
    """The demo market as the session's data."""
    rollforge.init(provider_uri=str(small_market))
    return small_market


@pytest.mark.parametrize("data_key", ["infer", "learn"])
def test_rows_of_all_intervals_are_one_frame(market: Path, data_key: str) -> None:
    """Equal to the rows of the whole range without those of the hole, whatever the order of the intervals."""
    dataset = DatasetH(HANDLER, {"train": PARTS, "whole": ("2023-02-01", "2023-05-31")})
    frame = dataset.prepare("train", col_set=["feature", "label"], data_key=data_key)
    whole = dataset.prepare("whole", col_set=["feature", "label"], data_key=data_key)
    days = whole.index.get_level_values("datetime")
    pd.testing.assert_frame_equal(frame, whole[(days <= "2023-02-28") | (days >= "2023-05-02")])
    assert frame.index.is_monotonic_increasing


def test_samples_of_all_intervals_look_back_into_the_hole(market: Path) -> None:
    """The first sample after the hole has the days before it as history."""
    dataset = TSDatasetH(step_len=5, handler=HANDLER, segments={"train": PARTS, "whole": ("2023-02-01", "2023-05-31")})
    samples, whole = dataset.prepare("train", col_set="feature"), dataset.prepare("whole", col_set="feature")
    days = pd.DatetimeIndex(samples.get_index().get_level_values("datetime"))
    assert {(d.year, d.month) for d in days} == {(2023, 2), (2023, 5)}
    for place in range(0, len(samples), 97):
        np.testing.assert_array_equal(samples[place], whole[samples.get_index()[place]])


def test_invalid_intervals_are_errors(market: Path) -> None:
    """Overlapping intervals, and an interval that is not a pair."""
    for parts in (
        [("2023-02-01", "2023-02-28"), ("2023-02-28", "2023-03-31")],
        [("2023-02-01", None), ("2023-03", "2023-04")],
    ):
        with pytest.raises(SegmentError, match="intervals that overlap"):
            DatasetH(HANDLER, {"train": parts}).prepare("train")
    with pytest.raises(SegmentError, match="expected"):
        DatasetH(HANDLER, {"train": [("2023-02-01",), ("2023-03-01", "2023-04-01")]}).prepare("train")


def test_intervals_without_rows_are_explained(market: Path) -> None:
    """One interval without rows is not an error, but it is an error if none has rows."""
    holidays = ("2023-02-04", "2023-02-05")
    dataset = DatasetH(HANDLER, {"train": [holidays, PARTS[0]], "none": [holidays, ("2023-02-11", "2023-02-12")]})
    assert len(dataset.prepare("train"))
    with pytest.raises(DataError, match="no rows in the 2 intervals of the 'none' segment"):
        dataset.prepare("none")
