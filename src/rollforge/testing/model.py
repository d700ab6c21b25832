"""Conformance test suite for models, including your own.

::

    class TestMine(ModelSuite):
        def make_model(self):
            return MyModel(rounds=5)

The class attributes state what the model can do. Each test fits models on a small table with a label that depends on three of
its features, so the arguments in ``make_model`` should make training fast.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from rollforge.dates import read_time
from rollforge.errors import ModelError, RollforgeError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import ModelFT, Reweighter
from rollforge.session import Session, using
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

__all__ = ["ModelSuite"]

_SECONDS = 300.0
"""How long another process may take."""
_OTHERS = ("I0", "I1", "I2", "I3")
"""Instruments whose rows the tests change."""


class ModelSuite:
    """Subclass it and provide :meth:`make_model`."""

    features: ClassVar[int] = 3
    """Number of features in the table; at least three."""
    missing_features: ClassVar[str] = "accepted"
    """What the model does with rows in which a feature is missing: ``accepted`` (it learns from them and predicts them),
    ``excluded`` (it learns from the others, and predicts NaN) or ``refused`` (an error names the feature)."""
    weights: ClassVar[bool] = True
    """Whether ``fit`` accepts a reweighter."""
    several_labels: ClassVar[bool] = False
    """Whether it learns several labels, and predicts a frame with a column for each."""
    needs_valid: ClassVar[bool] = False
    """Whether it cannot be fitted without a valid segment."""
    uses_valid: ClassVar[bool] = True
    """Whether ``fit`` reads the valid segment if there is one."""
    importance: ClassVar[Mapping[str, Any]] = {}
    """Arguments of ``get_feature_importance``, with which it measures how much a feature contributes to the prediction."""
    remembers_labels: ClassVar[bool] = False
    """Whether the prediction of an instrument depends on its earlier labels."""
    library_threads: ClassVar[int] = 0
    """How many threads the library starts at most even if it is limited to one."""
    least_correlation: ClassVar[float] = 0.7
    """Correlation of the prediction and the label that training reaches at least."""
    trusted: ClassVar[bool | None] = None
    """Whether loading a saved model requires trust in the file; by default only if the class is not one of Rollforge's."""
    segments: ClassVar[Mapping[str, tuple[str, str]]] = {
        "train": ("2020-01-01", "2020-03-31"),
        "valid": ("2020-04-01", "2020-04-30"),
        "test": ("2020-05-01", "2020-05-31"),
    }
    """The segments of the dataset; the table contains the days from 2020-01-01 to 2020-05-31."""
    _trained: ClassVar[tuple[Any, Any]]

    def make_model(self) -> Any:
        """Return a new model with the same arguments each time."""
        raise NotImplementedError("a suite needs a method make_model()")

    def make_frame(self, labels: int = 1) -> pd.DataFrame:
        """Return the table: 12 instruments, and groups of columns "feature" (a, b, c, …) and "label" (y0, …)."""
        numbers = np.random.default_rng(0)
        days, codes = pd.date_range("2020-01-01", "2020-05-31"), [f"I{i}" for i in range(12)]
        index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
        x = numbers.standard_normal((len(index), self.features))
        y = x[:, 0] - 2.0 * x[:, 1] + 0.5 * x[:, 2] + 0.1 * numbers.standard_normal(len(index))
        names = [chr(ord("a") + i) if i < 26 else f"f{i}" for i in range(self.features)]
        columns = [("feature", name) for name in names] + [("label", f"y{i}") for i in range(labels)]
        values = np.column_stack([x, *(y * (i + 1) for i in range(labels))]).astype(np.float32)
        return pd.DataFrame(values, index=index, columns=pd.MultiIndex.from_tuples(columns))

    def make_dataset(self, frame: pd.DataFrame, segments: Mapping[str, tuple[str, str]] | None = None) -> Any:
        """Return a dataset of the rows of a table."""
        return DatasetH(DataHandlerLP.from_df(frame), dict(self.segments if segments is None else segments))

    def fitted(self, frame: pd.DataFrame | None = None, **kwargs: Any) -> tuple[Any, Any]:
        """Return a model that was fitted on a table, and the dataset."""
        data = self.make_dataset(self.make_frame() if frame is None else frame)
        model = self.make_model()
        model.fit(data, **kwargs)
        return model, data

    def predicted(self, frame: pd.DataFrame | None = None, **kwargs: Any) -> pd.Series:
        """Return what a model predicts for the test segment of the table on which it was fitted."""
        model, data = self.fitted(frame, **kwargs)
        prediction: pd.Series = model.predict(data)
        return prediction

    @pytest.fixture
    def trained(self) -> tuple[Any, Any]:
        """A fitted model that no test changes, and its dataset; both are the same in all tests of a class."""
        kind = type(self)
        if "_trained" not in vars(kind):
            kind._trained = self.fitted()
        return kind._trained

    # -- fitting and predicting ----------------------------------------------------------------------------------------

    def test_it_predicts_every_segment(self, trained: tuple[Any, Any]) -> None:
        """One number for each row of a segment, or of days, that is close to the label."""
        model, data = trained
        start, end = self.segments["test"]
        wanted: list[str | slice] = [*self.segments, slice(start, end)]
        for segment in wanted:
            prediction = model.predict(data, segment)
            label = data.prepare(segment, col_set="label", data_key="raw")
            expected = _frame_of(label, self.make_frame(), segment, self.segments)
            assert isinstance(prediction, pd.Series)
            assert prediction.index.equals(expected.index)
            assert np.isfinite(prediction).all()
            assert prediction.corr(expected) > self.least_correlation
        pd.testing.assert_series_equal(model.predict(data), model.predict(data, "test"))

    def test_training_leaves_the_data_unchanged(self) -> None:
        """The rows that other models read afterwards are the same."""
        frame = self.make_frame()
        self.fitted(frame)
        pd.testing.assert_frame_equal(frame, self.make_frame())

    def test_the_same_seed_gives_the_same_bits(self, trained: tuple[Any, Any]) -> None:
        """The model does not depend on the state of Python's and numpy's global random numbers."""
        model, data = trained
        random.seed(1)
        np.random.seed(1)
        pd.testing.assert_series_equal(self.predicted(), model.predict(data), check_exact=True)

    def test_the_valid_segment_may_be_absent(self) -> None:
        """Unless the model says that it needs one."""
        data = self.make_dataset(self.make_frame(), {k: v for k, v in self.segments.items() if k != "valid"})
        model = self.make_model()
        if self.needs_valid:
            with pytest.raises(RollforgeError, match="valid"):
                model.fit(data)
        else:
            model.fit(data)
            assert np.isfinite(model.predict(data)).all()

    def test_in_another_process(self, trained: tuple[Any, Any], tmp_path: Path) -> None:
        """A saved model predicts the same in a process that has not seen it before, and with only the session's threads."""
        model, data = trained
        trusted = self.trusted if self.trusted is not None else not type(model).__module__.startswith("rollforge.")
        file, new = _saved(model, tmp_path / "fitted"), _saved(self.make_model(), tmp_path / "new")
        found, started = _in_another_process(_used_elsewhere, file, new, data, trusted)
        pd.testing.assert_series_equal(found, model.predict(data), check_exact=True)
        assert started is None or started <= self.library_threads, f"{started} more threads than those of the session"

    def test_metrics_of_each_round(self, trained: tuple[Any, Any]) -> None:
        """If a model has ``training_metrics()``, it returns a list of numbers for each metric of a segment."""
        model, _ = trained
        if not hasattr(model, "training_metrics"):
            return
        curves = model.training_metrics()
        assert curves
        for name, values in curves.items():
            assert name.rpartition(".")[2] in self.segments
            assert len(values) > 0
            assert np.isfinite(values).all()

    def test_importance_is_by_feature_name(self, trained: tuple[Any, Any]) -> None:
        """If a model has ``get_feature_importance()``, it returns a series by name, the most important feature first."""
        model, _ = trained
        if not hasattr(model, "get_feature_importance"):
            return
        importance = model.get_feature_importance(**self.importance)
        names = [str(name) for name in self.make_frame()["feature"].columns]
        assert set(importance.index) <= set(names)
        assert importance.is_monotonic_decreasing
        assert importance.index[0] == "b"

    def test_finetune_continues_the_training(self) -> None:
        """If a model is a :class:`~rollforge.models.ModelFT`: it predicts something else, and still the label."""
        model, data = self.fitted()
        if not isinstance(model, ModelFT):
            return
        fitted: Any = model
        before: Any = fitted.predict(data)
        fitted.finetune(data)
        after: Any = fitted.predict(data)
        assert not after.equals(before)
        assert after.corr(before) > self.least_correlation
        with pytest.raises(ModelError, match="not fitted"):
            self.make_model().finetune(data)

    # -- missing values ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("value", [np.nan, np.inf], ids=["missing", "infinite"])
    def test_rows_without_a_label_are_excluded(self, value: float) -> None:
        """The model equals the one fitted without the instruments that have no labels."""
        frame = self.make_frame()
        others = _of(frame, _OTHERS)
        early = frame.index.get_level_values("datetime") <= read_time(self.segments["valid"][1])
        spoilt = frame.copy()
        spoilt.loc[others & early, ("label", "y0")] = value
        model, _ = self.fitted(frame[~others])
        pd.testing.assert_series_equal(self.predicted(spoilt), model.predict(self.make_dataset(spoilt)))

    def test_missing_features(self) -> None:
        """They are accepted, excluded or refused, as the suite states."""
        frame = self.make_frame()
        others = _of(frame, _OTHERS)
        frame.loc[others, ("feature", "a")] = np.nan
        if self.missing_features == "refused":
            with pytest.raises(ModelError, match=r"missing in '?a\b"):
                self.fitted(frame)
            return
        prediction = self.predicted(frame)
        lacking = _of(prediction.to_frame(), _OTHERS)
        assert np.isfinite(prediction[~lacking]).all()
        if self.missing_features == "excluded":
            assert prediction[lacking].isna().all()
            pd.testing.assert_series_equal(prediction[~lacking], self.predicted(frame[~others]))
        else:
            assert self.missing_features == "accepted"
            assert np.isfinite(prediction[lacking]).all()
        frame.loc[others, ("feature", "a")] = np.inf
        pd.testing.assert_series_equal(self.predicted(frame), prediction, check_exact=True)

    # -- weights -------------------------------------------------------------------------------------------------------

    def test_rows_of_weight_0_do_not_count(self) -> None:
        """The model does not depend on their labels. What it predicts for them may, if it remembers labels."""
        if not self.weights:
            self._check_no_weights()
            return
        frame = self.make_frame()
        spoilt = frame.copy()
        spoilt.loc[_of(frame, _OTHERS), ("label", "y0")] += 100.0
        found, expected = (self.predicted(one, reweighter=_Weights(0.0)) for one in (spoilt, frame))
        compared = np.ones(len(expected), bool)
        if self.remembers_labels:
            compared = ~_of(expected.to_frame(), _OTHERS)
        pd.testing.assert_series_equal(found[compared], expected[compared], check_exact=True)

    def test_weights_count(self) -> None:
        """The prediction moves towards the labels of the rows with larger weights."""
        if not self.weights:
            self._check_no_weights()
            return
        frame = self.make_frame()
        frame.loc[_of(frame, _OTHERS), ("label", "y0")] *= -1.0
        label = self.make_frame()[("label", "y0")]
        plain, heavy = (
            prediction.corr(label.loc[prediction.index])
            for prediction in (self.predicted(frame), self.predicted(frame, reweighter=_Weights(20.0)))
        )
        assert heavy < plain - 0.1

    def _check_no_weights(self) -> None:
        if "reweighter" in inspect.signature(self.make_model().fit).parameters:
            with pytest.raises(ModelError, match="does not support weights"):
                self.fitted(reweighter=_Weights(2.0))

    # -- errors --------------------------------------------------------------------------------------------------------

    def test_a_model_that_is_not_fitted_predicts_nothing(self) -> None:
        """The error says so."""
        with pytest.raises(ModelError, match="not fitted"):
            self.make_model().predict(self.make_dataset(self.make_frame()))

    @pytest.mark.parametrize("segment", ["train", "valid", "test"])
    def test_an_empty_segment_is_an_error(self, segment: str, trained: tuple[Any, Any]) -> None:
        """The error names it."""
        if segment == "valid" and not self.uses_valid:
            return
        data = self.make_dataset(self.make_frame(), {**self.segments, segment: ("2031-01-01", "2031-02-01")})
        with pytest.raises(RollforgeError, match=segment):
            self.make_model().fit(data) if segment != "test" else trained[0].predict(data)

    @pytest.mark.parametrize("group", ["label", "feature"])
    def test_a_segment_without_any_value_is_an_error(self, group: str) -> None:
        """All labels or all features of the train segment are missing."""
        frame = self.make_frame()
        early = frame.index.get_level_values("datetime") <= read_time(self.segments["train"][1])
        frame.loc[early, [column for column in frame.columns if column[0] == group]] = np.nan
        with pytest.raises(ModelError, match=rf"{group}s.*'train' segment are missing or infinite"):
            self.fitted(frame)

    def test_days_without_any_feature_are_not_predicted(self, trained: tuple[Any, Any]) -> None:
        """All features of the test segment are missing."""
        frame = self.make_frame()
        frame.loc[:, [column for column in frame.columns if column[0] == "feature"]] = np.nan
        with pytest.raises(ModelError, match="features of the 'test' segment are missing or infinite"):
            trained[0].predict(self.make_dataset(frame))

    def test_several_labels(self) -> None:
        """They are predicted as columns of a frame, or refused by an error that names them."""
        frame = self.make_frame(labels=2)
        if not self.several_labels:
            with pytest.raises(ModelError, match="y0, y1"):
                self.fitted(frame)
            return
        model, data = self.fitted(frame)
        prediction = model.predict(data)
        assert list(prediction.columns) == ["y0", "y1"]
        for name in prediction:
            assert prediction[name].corr(frame[("label", name)].loc[prediction.index]) > self.least_correlation


class _Weights(Reweighter):
    """The weight of the rows of some instruments; 1 for the others."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def reweight(self, data: Any) -> pd.Series:
        return pd.Series(np.where(_of(data, _OTHERS), self.weight, 1.0), index=data.index)


def _of(frame: pd.DataFrame, codes: tuple[str, ...]) -> Any:
    """Return which rows are those of some instruments."""
    return frame.index.get_level_values("instrument").isin(codes)


def _frame_of(label: object, frame: pd.DataFrame, segment: str | slice, segments: Mapping[str, Any]) -> pd.Series:
    """Return the label of each row of a segment; from the table if the dataset does not return frames."""
    if isinstance(label, pd.DataFrame):
        return label.iloc[:, 0]
    start, end = (segment.start, segment.stop) if isinstance(segment, slice) else segments[segment]
    return frame[("label", "y0")].loc[read_time(start) : read_time(end)]


def _saved(model: Any, folder: Path) -> Path:
    """Save a model as a recorder does, and return the file."""
    folder.mkdir()
    files = LocalFiles(folder)
    artifact.save(files, "params.pkl", model)
    found = artifact.find(files, "params.pkl")
    assert found is not None
    return found


# -- in another process ------------------------------------------------------------------------------------------------

_processes = multiprocessing.get_context("forkserver")
# What every model needs is imported once. The libraries of the models are imported by each process on its own.
_processes.set_forkserver_preload(["rollforge.testing.model", "rollforge.models.samples"])


def _in_another_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, which is killed if it does not end in time."""
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(1, mp_context=_processes) as pool:
        try:
            return pool.submit(function, *args).result(_SECONDS)
        except TimeoutError:  # the pool would wait for it
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise AssertionError(f"another process has not ended after {_SECONDS:g} s") from None


def _used_elsewhere(file: Path, new: Path, data: Any, trusted: bool) -> tuple[Any, int | None]:
    """Return what a saved model predicts, and how many threads predicting and fitting add in a session with one thread.

    The number is None where the threads of a process cannot be counted.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = (
        "1"  # as in a worker process: scipy's own copy starts threads when it is loaded
    )
    np.ones((256, 256)) @ np.ones((256, 256))  # numpy's copy, which is loaded already, starts its threads now
    model, unfitted = artifact.load_file(file, trusted=trusted), artifact.load_file(new, trusted=True)
    done, folder, most = threading.Event(), Path("/proc/self/task"), 0

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, len(os.listdir(folder)))

    counted = folder.is_dir()
    watcher = threading.Thread(target=watch if counted else done.wait)
    watcher.start()
    before = len(os.listdir(folder)) if counted else 0
    try:
        with using(Session(threads=1)):
            prediction = model.predict(data)
            unfitted.fit(data)
    finally:
        done.set()
        watcher.join()
    return prediction, max(most - before, 0) if counted else None
