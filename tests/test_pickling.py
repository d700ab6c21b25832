"""Saving objects to pickle files and loading them."""

from __future__ import annotations

import errno
import io
import pickle
import sys
import threading
import tracemalloc
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from definitions import FIVE_WINDOWS, SMALL_MARKET, expressions, task_definition
from rollforge.build import init_instance_by_config
from rollforge.errors import ConfigError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.processor import ZScoreNorm
from rollforge.models.linear import LinearModel
from rollforge.pickling import Serializable, dump, pickled, save
from rollforge.run.execute import task_train

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

    exclude_attr: Collection[str] = ("connection",)

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class OneName(Locked):
    """An object whose class excludes one attribute, by a string."""

    exclude_attr = "connection"


class OwnCopy(Locked):
    """An object that is its own copy."""

    def __copy__(self) -> OwnCopy:
        return self


class OwnState(Locked):
    """An object whose methods for pickling need its lock."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "locked": self._lock.locked()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())


class WithSlots(Locked):
    """An object whose lock is in a slot."""

    __slots__ = ("_lock",)


def lock() -> Any:
    return threading.Lock()


def round_trip(value: object) -> Any:
    return pickle.loads(pickled(value))


def test_hidden_attributes_that_cannot_be_pickled_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other hidden attributes are kept, and a warning names what is left out; the object itself does not change."""
    rollforge.init(tracking_uri=f"folder:{tmp_path}/runs")
    made = Locked(value=1, _kept=2, _lock=lock())
    with rollforge.R.start(experiment_name="e"):
        rollforge.R.save_objects(made=made)
        loaded = rollforge.R.get_recorder().load_object("made", trusted=True)
    made.to_pickle(tmp_path / "made.pkl")
    for one in (loaded, Locked.load(tmp_path / "made.pkl")):
        assert vars(one) == {"value": 1, "_kept": 2}
    assert "Locked is saved without Locked._lock, which cannot be pickled. What is needed after" in caplog.text
    assert set(vars(made)) == {"value", "_kept", "_lock"}


@pytest.mark.parametrize(
    ("made", "inner"),
    [
        (Locked(part=Locked(value=1, _lock=lock())), lambda found: found.part),
        (Locked(_part=Locked(value=1, _lock=lock())), lambda found: found._part),
        ([Locked(value=1, _lock=lock()), Locked(value=1, _lock=lock())], lambda found: found[1]),
        ({"model": OneName(parts=[Locked(value=1, _lock=lock())])}, lambda found: found["model"].parts[0]),
    ],
)
def test_hidden_attributes_are_left_out_at_each_depth(
    made: object, inner: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Those of objects in attributes, lists and dicts are, with one warning; nothing else is."""
    assert vars(inner(round_trip(made))) == {"value": 1}
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        f"{type(made).__name__} is saved without Locked._lock"
    ]


def test_objects_that_refer_to_each_other_are_saved() -> None:
    """A hidden attribute that leads back to its object is kept."""
    parent = Locked(_lock=lock())
    parent.child = Locked(_parent=parent, _lock=lock())  # type: ignore[attr-defined]
    found = round_trip(parent)
    assert found.child._parent is found
    assert set(vars(found.child)) == {"_parent"}


def test_the_methods_of_the_class_are_called_on_the_object_itself() -> None:
    """Leaving out an attribute neither changes the object nor makes a copy, and finds what is in slots."""
    same, own, slots = OwnCopy(value=1, _lock=lock()), OwnState(value=1, _lock=lock()), WithSlots(value=1)
    slots._lock = lock()
    assert vars(round_trip(same)) == vars(round_trip(slots)) == {"value": 1}
    assert "_lock" in vars(same)
    found = round_trip(own)
    assert (found.value, found.locked, found._lock.locked()) == (1, False, False)


def test_attributes_can_be_left_out(tmp_path: Path) -> None:
    """Those named by `exclude` are, whether they can be pickled or not; a string is one name."""
    made = OwnCopy(a=1, b=threading.Lock(), c=3, _lock=lock())
    made.to_pickle(tmp_path / "some.pkl", exclude=["a", "b"])
    assert vars(OwnCopy.load(tmp_path / "some.pkl")) == {"c": 3}
    assert set(vars(made)) == {"a", "b", "c", "_lock"}
    Locked(a=1, b=2, ab=3).to_pickle(tmp_path / "one.pkl", exclude="ab")
    assert vars(Locked.load(tmp_path / "one.pkl")) == {"a": 1, "b": 2}


def test_attributes_that_the_class_excludes_are_left_out() -> None:
    """Names in `exclude_attr` are left out at each depth, whether or not they can be pickled; a string is one name."""
    for kind in (Locked, OneName):
        assert vars(round_trip([kind(conn=1, connection=2)])[0]) == {"conn": 1}
        assert vars(round_trip(kind(conn=1, connection=lock(), _lock=lock()))) == {"conn": 1}

    class Wrong(Locked):
        exclude_attr = 5  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"Wrong\.exclude_attr must be names of attributes, found 5"):
        dump(Wrong(a=1), io.BytesIO())


def test_a_handler_and_its_dataset_exclude_attributes(dataset: DatasetH, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes that a subclass excludes are left out by the classes that choose what is saved themselves, too."""
    monkeypatch.setattr(DataHandlerLP, "exclude_attr", ["client"])
    dataset.handler.client = lock()  # type: ignore[attr-defined]
    assert not hasattr(round_trip(dataset).handler, "client")


class Unreadable(Exception):
    """An error without a message."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


class Failing(Serializable):
    """An object that raises an error when it is saved."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getstate__(self) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Locked(lock=lock()), r"^Locked cannot be saved: .*lock.*\(Locked\.lock\)\. Leave it out in Locked\.__getstate__\(\)\.$"),
        (Locked(_hidden=lock(), lock=lock()), r"\(Locked\.lock\)"),
        (OneName(parts=[1, Locked(_lock=lock(), clients={"a": lock()})]),
         r"\(OneName\.parts\[1\]\.clients\['a'\]\)\. Leave it out in Locked\."),
        ([lock()], r"^list cannot be saved: .*lock.* \(list\[0\]\)\.$"),
        (Failing(ValueError("not now.")), r"^Failing cannot be saved: not now\.$"),
        (Locked(part=Failing(Unreadable())), r"^Locked cannot be saved: Unreadable \(Locked\.part\)"),
        (type("Own", (Locked,), {"client": lock()})(), r"\(Own\.__class__\.client\)\. Define the class in a module"),
    ],
)  # fmt: skip
def test_an_object_that_cannot_be_saved_is_named(made: object, words: str, tmp_path: Path) -> None:
    """The error names its class and the path to the cause; nothing is written."""
    with pytest.raises(ConfigError, match=words):
        save(made, tmp_path / "made.pkl")
    assert list(tmp_path.iterdir()) == []
    rollforge.init(tracking_uri=f"folder:{tmp_path}/runs")
    with rollforge.R.start(experiment_name="e"), pytest.raises(ConfigError, match=words):
        rollforge.R.save_objects(made=made)


def test_a_lack_of_memory_is_no_fault_of_the_object() -> None:
    """The error is raised as it is, so that the task can be run again with more memory."""
    for made in (Failing(MemoryError("3 GiB")), Locked(_lock=lock(), part=[Failing(MemoryError("3 GiB"))])):
        with pytest.raises(MemoryError, match="3 GiB"):
            dump(made, io.BytesIO())


def test_a_full_disk_is_no_fault_of_the_object() -> None:
    """The error of the file is raised as it is."""

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        dump(Locked(_lock=lock()), Full())


@pytest.mark.parametrize("more", [{}, {"_lock": lock()}])
def test_large_objects_are_written_without_a_copy_in_memory(more: dict[str, Any], tmp_path: Path) -> None:
    """A file and an artifact are, with and without an attribute that is left out."""
    rollforge.init(tracking_uri=f"folder:{tmp_path}/runs")
    made = Locked(weights=np.ones(4_000_000), **more)
    with rollforge.R.start(experiment_name="e"):
        rollforge.R.save_objects(first=Locked())
        tracemalloc.start()
        try:
            made.to_pickle(tmp_path / "made.pkl")
            rollforge.R.save_objects(made=made)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < made.weights.nbytes / 4  # type: ignore[attr-defined]


def test_an_object_is_pickled_once() -> None:
    """Nothing is tried out as long as everything can be pickled."""
    calls = []

    class Counted(Locked):
        def __getstate__(self) -> Any:
            calls.append(1)
            return super().__getstate__()

    dump([Counted(_hidden=1, value=[1])], io.BytesIO())
    assert calls == [1]


PROCESSOR = """
import threading
from qlib.data.dataset.processor import Processor

class Guarded(Processor):
    calls = 0

    def __init__(self):
        self._lock = threading.Lock()

    def __call__(self, df):
        with self._lock:
            Guarded.calls += 1
            return df

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())
"""


def test_a_task_with_a_processor_with_a_lock_is_trained_and_predicts_again(
    small_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset is saved with its processor; the loaded model and dataset give the stored prediction."""
    (tmp_path / "guarded_processor.py").write_text(PROCESSOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    rollforge.init(small_market, tracking_uri=f"folder:{tmp_path}/runs")
    handler = expressions(
        "$close/Ref($close, 5)",
        **SMALL_MARKET,
        infer_processors=[{"class": "Guarded", "module_path": "guarded_processor"}, "Fillna"],
        learn_processors=["DropnaLabel"],
    )
    task = task_definition(handler, FIVE_WINDOWS)
    for definition in (task, {**task, "dataset": init_instance_by_config(task["dataset"])}):
        recorder = task_train(definition, experiment_name="guarded")
        model, found = (recorder.load_object(name, trusted=True) for name in ("params.pkl", "dataset"))
        before = sys.modules["guarded_processor"].Guarded.calls
        prediction = model.predict(found)
        assert sys.modules["guarded_processor"].Guarded.calls > before
        stored = recorder.load_object("pred.pkl")["score"]
        assert len(stored) > 0
        np.testing.assert_array_equal(prediction.loc[stored.index], stored)
