"""The population stability index, computed by hand, and the reference that a training saves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.features.dataset import DatasetH
from rollforge.models.base import Model
from rollforge.record.drift import (
    REFERENCE,
    Bins,
    DriftRecord,
    feature_names,
    read_bins,
    reference_of,
    saved_drift,
    with_reference,
    without_reference,
)
from rollforge.track.base import get_experiment, open_tracker

NAN = np.nan


def test_ten_bins_have_a_tenth_of_the_values_each() -> None:
    """A value that equals an edge belongs to the bin below it; the last share is that of missing values."""
    bins = Bins.of(np.arange(100.0))
    assert bins.edges.tolist() == [9, 19, 29, 39, 49, 59, 69, 79, 89]
    assert bins.shares.tolist() == [0.1] * 10 + [0.0]
    assert bins.psi(np.arange(100.0)) == 0.0


def test_the_index_of_half_of_the_values() -> None:
    """Five bins have twice as many values, and five none, which counts as 0.0001."""
    bins = Bins.of(np.arange(100.0))
    expected = 5 * (0.2 - 0.1) * math.log(2) + 5 * (0.0001 - 0.1) * math.log(0.001)
    assert bins.psi(np.arange(50.0)) == pytest.approx(expected, rel=1e-12)


def test_equal_values_share_a_bin() -> None:
    """Three zeros and a one: 0.75 and 0.25, then 0.5 each."""
    bins = Bins.of(np.array([0.0, 0, 0, 1]))
    assert bins.shares.tolist() == [0, 0.75, 0.25, 0, 0]
    expected = (0.5 - 0.75) * math.log(0.5 / 0.75) + (0.5 - 0.25) * math.log(2)
    assert bins.psi(np.array([1.0, 0, 1, 0])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("moved", [4.9, 5.1])
def test_a_constant_that_changes_is_found(moved: float) -> None:
    """The change is found in both directions: all values leave one bin for another that was empty."""
    bins = Bins.of(np.full(30, 5.0))
    assert bins.psi(np.full(10, 5.0)) == 0.0
    assert bins.psi(np.full(10, moved)) == pytest.approx(2 * (1 - 0.0001) * math.log(10_000), rel=1e-12)


def test_missing_values_have_a_bin() -> None:
    """Infinite values too; without any known value it is the only one with a share."""
    bins = Bins.of(np.array([1.0, NAN, NAN, np.inf]))
    assert bins.shares.tolist() == [0, 0.25, 0, 0.75]
    assert bins.psi(np.array([1.0, 1, 1, NAN])) == pytest.approx(0.5 * math.log(3) * 2, rel=1e-12)
    nothing = Bins.of(np.array([NAN, NAN]))
    assert nothing.shares.tolist() == [0, 1]
    assert nothing.psi(np.array([NAN])) == 0.0
    assert nothing.psi(np.array([3.0])) == pytest.approx(2 * (1 - 0.0001) * math.log(10_000), rel=1e-12)


def test_no_values_have_no_index() -> None:
    """The result is neither good nor bad."""
    assert math.isnan(Bins.of(np.arange(5.0)).psi(np.array([])))


def test_one_value_is_a_distribution() -> None:
    """One value is a distribution, such as that of a single instrument."""
    bins = Bins.of(np.array([2.0]))
    assert bins.psi(np.array([2.0])) == 0.0


def test_a_reference_has_every_feature_and_the_scores() -> None:
    """Read again, it gives the same bins; of many rows, a part is used."""
    columns = pd.MultiIndex.from_tuples([("feature", "a"), ("feature", "b")])
    rows = 150_000
    features = pd.DataFrame(np.column_stack([np.arange(rows), np.arange(rows) % 2]), columns=columns, dtype=float)
    made = reference_of(features, np.arange(100.0))
    assert feature_names(features) == ["a", "b"]
    assert list(made["features"]) == ["a", "b"]
    assert read_bins(made["features"]["a"]).psi(np.arange(rows)) < 0.001
    assert read_bins(made["features"]["b"]).shares.tolist() == pytest.approx([0, 0.5, 0.5, 0, 0], abs=0.01)
    assert read_bins(made["score"]).edges.tolist() == [9, 19, 29, 39, 49, 59, 69, 79, 89]


@pytest.mark.parametrize("record", [None, "SignalRecord", {"class": "SignalRecord"}, ["SignalRecord", "SigAnaRecord"]])
def test_the_record_is_added_and_removed(record: object) -> None:
    """However the records of a task are written."""
    task = {"model": {}, "record": record}
    added = with_reference(task)
    assert added["record"][-1]["class"] == "DriftReference"
    assert without_reference(added) == without_reference(task)
    assert task["record"] == record


class Rows(DatasetH):
    """A data set of two features by segment: one counts the rows, the other one is constant."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows
        self.segments = dict.fromkeys(rows, ("", ""))  # type: ignore[assignment]

    def prepare_rows(self, segments: Any, col_set: Any = None, data_key: Any = None, **kwargs: Any) -> Any:
        n = self.rows[segments]
        return pd.DataFrame({"count": np.arange(float(n)), "score": np.ones(n)})


class Counts(Model):
    """Predicts the number of the row."""

    def fit(self, dataset: Any) -> None:
        """There is nothing to learn."""

    def predict(self, dataset: Any, segment: Any = "test") -> pd.Series:
        return pd.Series(np.arange(float(dataset.rows[segment])))


def test_a_record_measures_each_feature_and_the_scores(tmp_path: Path) -> None:
    """Half of the training values are left of one feature and of the scores; a feature may be called like these."""
    recorder = get_experiment(open_tracker(f"folder:{tmp_path}"), experiment_name="e").create_recorder("r", {})
    DriftRecord(Counts(), Rows(train=100, test=50), recorder).generate()
    expected = 5 * (0.2 - 0.1) * math.log(2) + 5 * (0.0001 - 0.1) * math.log(0.001)
    assert saved_drift(recorder) == {"count": pytest.approx(expected, rel=1e-12), "score": 0.0}
    assert recorder.list_metrics() == {"features_drifted": 0.5, "score_psi": pytest.approx(expected, rel=1e-12)}


def test_without_a_test_segment_or_rows_nothing_is_measured(tmp_path: Path) -> None:
    """The reference is saved nevertheless; an empty test segment has no index."""
    experiment = get_experiment(open_tracker(f"folder:{tmp_path}"), experiment_name="e")
    for rows in ({"train": 100}, {"train": 100, "test": 0}):
        recorder = experiment.create_recorder("r", {})
        DriftRecord(Counts(), Rows(**rows), recorder).generate()
        assert REFERENCE in recorder.list_artifacts()
        assert recorder.list_metrics() == {}
        assert not [value for value in saved_drift(recorder).values() if not math.isnan(value)]
