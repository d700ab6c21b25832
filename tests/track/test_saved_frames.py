"""A record reads what the one before it has saved in the same run, without reading its file again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rollforge.record.base import RecordTemp
from rollforge.run.execute import task_train
from rollforge.session import Session, using
from rollforge.track import artifact
from rollforge.track.base import Recorder, get_experiment, open_tracker


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A running recorder."""
    return get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="e").create_recorder("r")


@pytest.fixture
def prediction() -> pd.DataFrame:
    index = pd.MultiIndex.from_product([pd.bdate_range("2024-01-01", periods=2), ["A", "B"]])
    return pd.DataFrame({"score": [1.0, 2.0, 3.0, 4.0]}, index=index.set_names(["datetime", "instrument"]))


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files from which objects are loaded."""
    read: list[str] = []
    load = artifact.load_file

    def noted(file: Path, *, trusted: bool = False) -> object:
        read.append(file.name)
        return load(file, trusted=trusted)

    monkeypatch.setattr(artifact, "load_file", noted)
    return read


def write_column(frame: pd.DataFrame) -> None:
    frame["score"] = 0.0


def write_cell(frame: pd.DataFrame) -> None:
    frame.iloc[0, 0] = -1.0


def write_rows(frame: pd.DataFrame) -> None:
    frame.loc["2024-01-02":, "score"] += 1.0


def write_array(frame: pd.DataFrame) -> None:
    with contextlib.suppress(ValueError):  # read-only
        frame["score"].array[0] = 7.0


def rename(frame: pd.DataFrame) -> None:
    frame.index.names = ["day", "code"]
    frame.columns.name = "kind"
    frame.attrs["source"] = "elsewhere"


def replace_axes(frame: pd.DataFrame) -> None:
    frame.index = pd.RangeIndex(len(frame))
    frame.insert(0, "first", frame.pop("score"))


def write_values(frame: pd.DataFrame) -> None:
    with contextlib.suppress(ValueError):  # read-only
        frame.to_numpy()[:] = 5.0


@pytest.mark.parametrize(
    "change",
    [write_column, write_cell, write_rows, write_array, rename, replace_axes, write_values],
    ids=lambda c: c.__name__,
)
def test_a_frame_is_loaded_as_it_was_saved(
    change: Callable[[pd.DataFrame], None], recorder: Recorder, prediction: pd.DataFrame, files_read: list[str]
) -> None:
    """Changing the saved frame, or a loaded one, in place changes nothing that is loaded later."""
    expected = prediction.copy()
    recorder.save_objects(**{"pred.pkl": prediction})
    change(prediction)
    loaded = recorder.load_object("pred.pkl")
    pd.testing.assert_frame_equal(loaded, expected, check_exact=True)
    change(loaded)
    again = recorder.load_object("pred.pkl")
    pd.testing.assert_frame_equal(again, expected, check_exact=True)
    assert (again.attrs, files_read) == ({}, [])


class SavesAndReads(RecordTemp):
    """A record that saves a frame and reads it."""

    def generate(self, **kwargs: object) -> None:
        """Save and read a frame."""
        frame = pd.DataFrame({"x": [1.5]})
        self.save(**{"x.pkl": frame})
        pd.testing.assert_frame_equal(self.load("x.pkl"), frame)


def test_no_frame_of_the_last_record_is_kept(tmp_path: Path, files_read: list[str]) -> None:
    """No other one reads it, so that a copy would cost time for nothing."""
    record = {"class": "SavesAndReads", "module_path": __name__}
    model = {"class": "ConstantModel", "module_path": "rollforge.models"}
    dataset = {"class": "EmptyDataset", "module_path": "rollforge.models.constant"}
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        task_train({"model": model, "dataset": dataset, "record": [record, record]}, "e")
    assert files_read == ["x.pkl.frame.parquet"]


def test_a_file_that_was_replaced_is_read(recorder: Recorder, prediction: pd.DataFrame, files_read: list[str]) -> None:
    """Another recorder of the same run, such as that of a script that calls R.get_recorder, may replace it."""
    recorder.save_objects(**{"pred.pkl": prediction})
    other = get_experiment(recorder._tracker, experiment_name="e").get_recorder(recorder.id)
    other.save_objects(**{"pred.pkl": prediction * 2})
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), prediction * 2)
    recorder.save_objects(**{"pred.pkl": {"no": "frame"}})
    assert recorder.load_object("pred.pkl") == {"no": "frame"}
    assert files_read == ["pred.pkl.frame.parquet", "pred.pkl.plain.json"]


def test_nothing_is_kept_of_a_run_that_has_ended(
    recorder: Recorder, prediction: pd.DataFrame, files_read: list[str]
) -> None:
    """A trainer returns the recorders of all its tasks, whose predictions together may not fit in memory."""
    recorder.save_objects(**{"pred.pkl": prediction})
    recorder.end_run()
    recorder.save_objects(**{"later.pkl": prediction})
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), prediction)
    pd.testing.assert_frame_equal(recorder.load_object("later.pkl"), prediction)
    assert files_read == ["pred.pkl.frame.parquet", "later.pkl.frame.parquet"]


def test_a_large_frame_is_not_kept_in_memory(recorder: Recorder, files_read: list[str]) -> None:
    """The number of its values counts: a record may save the features, whose rows are as many as those of a prediction."""
    features = pd.DataFrame(0.0, index=range(5_001), columns=[f"f{i}" for i in range(100)])
    recorder.save_objects(**{"features.pkl": features, "most.pkl": features.iloc[:5_000]})
    pd.testing.assert_frame_equal(recorder.load_object("features.pkl"), features)
    pd.testing.assert_frame_equal(recorder.load_object("most.pkl"), features.iloc[:5_000])
    assert files_read == ["features.pkl.frame.parquet"]
