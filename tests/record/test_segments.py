"""Records of several segments, and of error measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ArtifactNotFound, ConfigError, DataError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import Model
from rollforge.record.analysis import calc_ic
from rollforge.record.segments import MultiSegRecord, SignalMseRecord
from rollforge.track.base import Recorder, get_experiment, open_tracker

INDEX = pd.MultiIndex.from_product(
    [pd.bdate_range("2021-01-04", periods=8), list("ABCDE")], names=["datetime", "instrument"]
)


class Echo(Model):
    """Predicts a feature."""

    def fit(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def predict(self, dataset: Any, segment: Any = "test") -> Any:
        """Return the feature of a segment."""
        return dataset.prepare(segment, col_set="feature").iloc[:, 0].rename("score")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A run in plain files."""
    return get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="e", create=True).create_recorder()


@pytest.fixture
def dataset() -> DatasetH:
    """Return a dataset of a feature and a label, in two segments."""
    rng = np.random.default_rng(7)
    columns = pd.MultiIndex.from_tuples([("feature", "F"), ("label", "L")])
    handler = DataHandlerLP.from_df(pd.DataFrame(rng.normal(size=(len(INDEX), 2)), INDEX, columns))
    return DatasetH(handler, {"valid": ("2021-01-04", "2021-01-07"), "test": ("2021-01-08", "2021-01-13")})


def test_selected_segments_are_recorded(
    dataset: DatasetH, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """IC and Rank IC of each, by day and on average, under the chosen names; by default for all segments."""
    with caplog.at_level("INFO"):
        MultiSegRecord(Echo(), dataset, recorder).generate({"v": "valid", "t": "test"}, save=True)
    assert "v (valid): IC" in caplog.text
    for name, segment in (("v", "valid"), ("t", "test")):
        found = recorder.load_object(f"results-{name}.pkl", trusted=True)
        score = dataset.prepare(segment, col_set="feature").iloc[:, 0]
        label = dataset.prepare(segment, col_set="label", data_key="raw").iloc[:, 0]
        ic, rank_ic = calc_ic(score, label)
        assert found["mean-IC"] == pytest.approx(ic.mean())
        assert found["all-Rank-IC"].tolist() == pytest.approx(rank_ic.tolist())
    MultiSegRecord(Echo(), dataset, recorder).generate(save=True)
    assert {"results-valid.pkl", "results-test.pkl"} <= set(recorder.list_artifacts())


def test_errors_are_measured(recorder: Recorder) -> None:
    """Over the rows that have both values, matched by index and not by order."""
    score = pd.DataFrame({"score": np.arange(40.0)}, INDEX)
    label = (score + 2).rename(columns={"score": "L"}).sample(frac=1, random_state=7)
    label.iloc[0] = np.nan
    recorder.save_objects(**{"pred.pkl": score, "label.pkl": label})
    SignalMseRecord(recorder).generate()
    assert recorder.list_metrics() == {"MSE": 4.0, "RMSE": 2.0}
    assert SignalMseRecord(recorder).load("rmse.pkl") == 2.0


def test_what_cannot_be_recorded(dataset: DatasetH, recorder: Recorder) -> None:
    """There is no dataset, no prediction, or no row with both values."""
    with pytest.raises(ConfigError, match="DatasetH"):
        MultiSegRecord(Echo(), object(), recorder)  # type: ignore[arg-type]
    with pytest.raises(ArtifactNotFound):
        SignalMseRecord(recorder).generate()
    nothing = pd.DataFrame({"score": np.nan}, INDEX)
    recorder.save_objects(**{"pred.pkl": nothing, "label.pkl": nothing})
    with pytest.raises(DataError, match="No row"):
        SignalMseRecord(recorder).generate()
