"""The distribution of features and scores in training, and the distance of later distributions from it.

The population stability index (PSI) compares the shares ``a`` of values in bins with the shares ``e`` expected:
``sum((a - e) * log(a / e))``. Common rules of thumb call values below 0.1 small and above 0.25 large.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ConfigError, RollforgeError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.generate.task_view import TaskView
from rollforge.record.base import ModelRecord
from rollforge.task import Definition, Document
from rollforge.track.base import Recorder

__all__ = [
    "DRIFT", "LARGE", "MEASURED", "REFERENCE", "SCORE_PSI", "SMALL", "Bins", "DriftRecord", "DriftReference", "feature_names",
    "read_bins", "reference_of", "saved_drift", "score_values", "with_reference", "without_reference",
]  # fmt: skip

log = logging.getLogger(__name__)

REFERENCE = "drift_reference.pkl"
"""Artifact with the bins of each feature and of the scores."""
DRIFT = "drift.pkl"
"""Artifact with the index of each feature from the train segment to the test segment."""
SCORE_PSI = "score_psi"
MEASURED = frozenset({SCORE_PSI, "features_drifted"})
"""The metrics of :class:`DriftRecord`."""
SMALL, LARGE = 0.1, 0.25
"""The limits of the rule of thumb."""
_BINS = 10
_MIN_SHARE = 1e-4
"""Smallest share that is used: a bin without values would make the index infinite."""
_ROWS = 50_000
"""Largest number of rows from which the bins of features are computed; if there are more, a random sample is used."""

_RECORD = {"class": "DriftReference", "module_path": "rollforge.record.drift"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of values, and the share of the training values in each.

    Examples
    --------
    >>> bins = Bins.of(np.arange(100.0))
    >>> bins.psi(np.arange(100.0)), round(bins.psi(np.arange(50.0)), 3)
    (0.0, 3.797)
    """

    edges: Floats
    """In ascending order. A value belongs to the first bin whose edge is not below it; there is one more bin for larger
    values, and one for missing values."""
    shares: Floats
    """``len(edges) + 2`` shares: those of the bins, the last one being that of missing values."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Bins:
        """Return ten bins with equal numbers of values, fewer if values are equal.

        If many values equal the smallest one, values below it get their own bin.
        """
        values = np.asarray(values, np.float64)
        known = values[np.isfinite(values)]
        edges = (
            np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS, method="inverted_cdf")) if len(known) else known
        )
        if len(edges) and edges[0] == known.min():
            edges = np.concatenate([[np.nextafter(edges[0], -np.inf)], edges])
        return cls(edges, _shares(values, edges))

    def psi(self, values: NDArray[Any]) -> float:
        """Return the population stability index of values; NaN if there are none. Shares below 0.0001 count as
        0.0001."""
        if not len(values):
            return float("nan")
        actual = np.maximum(_shares(np.asarray(values, np.float64), self.edges), _MIN_SHARE)
        expected = np.maximum(self.shares, _MIN_SHARE)
        return float(((actual - expected) * np.log(actual / expected)).sum())


def _shares(values: Floats, edges: Floats) -> Floats:
    """Return the share of values in each bin; infinite values count as missing."""
    known = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    shares: Floats = np.append(counts, len(values) - len(known)) / max(len(values), 1)
    return shares


def feature_names(features: pd.DataFrame) -> list[str]:
    """Return the names of the columns of a handler's features."""
    return [str(name) for name in features.columns.get_level_values(-1)]


def score_values(prediction: pd.Series | pd.DataFrame) -> Floats:
    """Return the scores of a prediction; of a table, those in its first column."""
    column = prediction.iloc[:, 0] if isinstance(prediction, pd.DataFrame) else prediction
    return column.to_numpy(np.float64)


def reference_of(features: pd.DataFrame, scores: Floats) -> dict[str, Any]:
    """Return the bins of features and scores as plain data, for :data:`REFERENCE`."""
    if len(features) > _ROWS:  # not at equal distances, which could select only a few instruments
        features = features.iloc[np.sort(np.random.default_rng(0).choice(len(features), _ROWS, replace=False))]
    values = features.to_numpy(np.float64)
    named = {name: Bins.of(values[:, place]) for place, name in enumerate(feature_names(features))}
    return {"features": {name: _plain(bins) for name, bins in named.items()}, "score": _plain(Bins.of(scores))}


def _plain(bins: Bins) -> dict[str, Floats]:
    return {"edges": bins.edges, "shares": bins.shares}


def read_bins(plain: Mapping[str, object]) -> Bins:
    """Return saved bins."""
    return Bins(np.asarray(plain["edges"], np.float64), np.asarray(plain["shares"], np.float64))


def with_reference(task: Definition) -> Definition:
    """Return a task that also saves a :class:`DriftReference`."""
    return {**task, "record": [*TaskView(task).records, _RECORD]}


def without_reference(task: Document) -> Definition:
    """Return a task without the record of :func:`with_reference`; its records are a list."""
    return {**task, "record": [record for record in TaskView(task).records if record != _RECORD]}


class DriftReference(ModelRecord):
    """Saves the distribution of the features and scores of the training segment, for comparison with later days.

    ``rollforge serve`` adds it to the tasks that it trains. Without a training segment with features, nothing is saved
    or compared.

    Parameters
    ----------
    model : Model
        A fitted model.
    dataset : Dataset
        Its dataset.
    recorder : Recorder
        The run.
    """

    def generate(self, **kwargs: object) -> None:
        """Save the reference, unless the dataset has none."""
        if self.model is None or self.dataset is None:
            raise ConfigError("DriftReference needs a model and a dataset.")
        if not isinstance(self.dataset, DatasetH):
            return
        try:
            features, scores = self._segment("train")
        except Exception as exc:  # noqa: BLE001 - the user's own classes; a model that cannot be watched is still trained
            log.warning("the distribution of the training data is not saved: %s: %s", type(exc).__name__, exc)
            return
        if isinstance(features, pd.DataFrame) and len(features):
            self._save_reference(reference_of(features, scores))

    def _segment(self, name: str) -> tuple[Any, Floats]:
        """Return the features and the scores of a segment."""
        assert isinstance(self.dataset, DatasetH)
        assert self.model is not None
        features = self.dataset.prepare_rows(name, "feature", DataHandlerLP.DK_I)
        return features, score_values(self.model.predict(self.dataset, segment=name))

    def _save_reference(self, reference: Mapping[str, Any]) -> None:
        self.save(**{REFERENCE: reference})

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return [REFERENCE]


class DriftRecord(DriftReference):
    """Also measures how far the features and scores of the test segment are from those of the training segment.

    Saves ``drift.pkl``, a series with the population stability index of each feature, and the metrics ``score_psi``, that of
    the scores, and ``features_drifted``, the share of features whose index is above 0.25. The report shows them by window. The
    scores of the training segment are those of a model that has seen its labels; if it
    fits them closely, its other scores vary less, and have an index above zero without any drift.

    Parameters
    ----------
    model : Model
        A fitted model.
    dataset : Dataset
        Its dataset, with a test segment.
    recorder : Recorder
        The run.
    """

    def _save_reference(self, reference: Mapping[str, Any]) -> None:
        super()._save_reference(reference)
        assert isinstance(self.dataset, DatasetH)
        if "test" not in self.dataset.segments:
            return
        features, scores = self._segment("test")
        values = features.to_numpy(np.float64)
        found = {
            name: read_bins(reference["features"][name]).psi(values[:, place])
            for place, name in enumerate(feature_names(features))
        }
        index = pd.Series(found, name="psi", dtype=np.float64)
        self.save(**{DRIFT: index})
        known, score = index.dropna(), read_bins(reference["score"]).psi(scores)
        if len(known):
            self.recorder.log_metrics(features_drifted=float((known > LARGE).mean()))
        if np.isfinite(score):
            self.recorder.log_metrics(score_psi=score)
        self.report("Population stability index, train to test", index.sort_values(ascending=False).head(10))

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return [REFERENCE, DRIFT]


def saved_drift(recorder: Recorder) -> dict[str, float]:
    """Return the index of each feature that a run has saved; empty if it has saved none."""
    try:
        return {str(name): float(value) for name, value in recorder.load_object(DRIFT).items()}
    except (RollforgeError, AttributeError, TypeError, ValueError) as exc:
        log.debug("run %s has no drift: %s", recorder.id, exc)
        return {}
