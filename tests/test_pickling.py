"""Saving objects to pickle files and loading them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rollforge
from rollforge.build import init_instance_by_config
from rollforge.errors import ConfigError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.processor import ZScoreNorm
from rollforge.models.linear import LinearModel
from rollforge.pickling import Serializable

FIELDS = {
    "feature": (["$close/Ref($close,1)-1", "$high/$low-1"], ["RET", "RANGE"]),
    "label": (["Ref($close,-2)/Ref($close,-1)-1"], ["LABEL"]),
}


@pytest.fixture
def dataset(small_market: Path) -> DatasetH:
    """A dataset of two segments, whose handler has a fitted processor."""
    rollforge.init(small_market)
    handler = DataHandlerLP(
        "all", "2022-01-03", "2023-12-29", {"class": "QlibDataLoader", "kwargs": {"config": FIELDS}},
        infer_processors=[ZScoreNorm("2022-01-03", "2022-12-30", "feature"), {"class": "Fillna"}],
        learn_processors=["DropnaLabel"],
    )  # fmt: skip
    return DatasetH(handler, {"train": ("2022-01-03", "2022-12-30"), "test": ("2023-01-02", "2023-12-29")})


def test_handler_dataset_and_model_are_restored_from_their_files(dataset: DatasetH, tmp_path: Path) -> None:
    """Loaded objects give the same results; the handler can also be loaded by ``file://`` in a task."""
    model = LinearModel(estimator="ridge", alpha=0.1)
    model.fit(dataset)
    for name, kept in {"handler": dataset.handler, "dataset": dataset, "model": model}.items():
        kept.to_pickle(tmp_path / f"{name}.pkl", dump_all=True)
    found = DatasetH.load(tmp_path / "dataset.pkl")
    pd.testing.assert_frame_equal(found.prepare("test"), dataset.prepare("test"))
    pd.testing.assert_series_equal(LinearModel.load(tmp_path / "model.pkl").predict(found), model.predict(dataset))
    handler = init_instance_by_config(f"file://{tmp_path / 'handler.pkl'}")
    pd.testing.assert_frame_equal(handler.fetch(data_key="learn"), dataset.handler.fetch(data_key="learn"))


def test_a_file_of_another_class_is_refused(tmp_path: Path) -> None:
    """The error names the class in the file and the expected one."""
    ZScoreNorm("2022-01-03", "2022-12-30").to_pickle(tmp_path / "x.pkl")
    with pytest.raises(ConfigError, match="contains a ZScoreNorm, not a LinearModel"):
        LinearModel.load(tmp_path / "x.pkl")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """No temporary file is left."""

    class Unpicklable(Serializable):
        def __reduce__(self) -> str:
            raise RuntimeError("cannot be pickled")

    target = tmp_path / "x.pkl"
    target.write_bytes(b"before")
    with pytest.raises(ConfigError, match=r"Unpicklable cannot be saved: cannot be pickled\."):
        Unpicklable().to_pickle(target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_an_object_of_a_class_without_a_module_is_of_the_class_in_this_process(tmp_path: Path) -> None:
    """The class keeps its own methods, which refer to the global variables of this process."""

    class Own(Serializable):
        value = 0

        def found(self) -> object:
            return tmp_path

    method = Own.found
    own = Own()
    own.value = 3
    own.to_pickle(tmp_path / "own.pkl")
    read = Own.load(tmp_path / "own.pkl")
    assert type(read) is Own
    assert read.value == 3
    assert Own.found is method


class Locked(Serializable):
    """An object with a lock."""

    exclude_attr = ("connection",)

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize("name", ["_lock", "connection"])
def test_hidden_attributes_that_cannot_be_pickled_are_left_out(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other hidden attributes are kept, and a warning names what is left out; the object itself does not change."""
    rollforge.init(tracking_uri=f"folder:{tmp_path}/runs")
    made = Locked(value=1, _kept=2, **{name: threading.Lock()})
    with rollforge.R.start(experiment_name="e"):
        rollforge.R.save_objects(made=made)
        loaded = rollforge.R.get_recorder().load_object("made", trusted=True)
    made.to_pickle(tmp_path / "made.pkl")
    for one in (loaded, Locked.load(tmp_path / "made.pkl")):
        assert vars(one) == {"value": 1, "_kept": 2}
    assert f"Locked is saved without {name}, which cannot be pickled" in caplog.text
    assert name in vars(made)


def test_attributes_can_be_left_out(tmp_path: Path) -> None:
    """Those named by `exclude` are, whether they can be pickled or not."""
    Locked(a=1, b=threading.Lock(), c=3).to_pickle(tmp_path / "some.pkl", exclude=["a", "b"])
    assert vars(Locked.load(tmp_path / "some.pkl")) == {"c": 3}


def test_an_object_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    """The error names its class and the attribute, if an attribute is the cause; nothing is written."""
    for made, words in (
        (
            Locked(lock=threading.Lock()),
            r"Locked cannot be saved: .*lock.*\(attribute 'lock'\)\. Leave it out in __getstate__",
        ),
        (Locked(_hidden=threading.Lock(), lock=threading.Lock()), r"attribute 'lock'"),
    ):
        with pytest.raises(ConfigError, match=words):
            made.to_pickle(tmp_path / "made.pkl")
    assert list(tmp_path.iterdir()) == []
    rollforge.init(tracking_uri=f"folder:{tmp_path}/runs")
    with rollforge.R.start(experiment_name="e"), pytest.raises(ConfigError, match=r"list cannot be saved: .*lock"):
        rollforge.R.save_objects(made=[threading.Lock()])
