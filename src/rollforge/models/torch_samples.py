"""Samples of a segment as batches of arrays: single rows of a dataset, or the most recent days of an instrument.

PyTorch is not needed here. Samples are sorted by day and instrument, and their features are looked up when a batch is made.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ModelError
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDataSampler
from rollforge.models.base import Reweighter
from rollforge.models.samples import missing_everywhere, prediction_features, reason_missing, training_samples

log = logging.getLogger(__name__)

_ROWS = 4096  # rows processed together; they fit the CPU cache


class Source(Protocol):
    """A place where the features of samples are looked up."""

    def take(self, places: NDArray[np.int64], out: np.ndarray | None) -> np.ndarray:
        """Return the features of some samples, (sample, feature) or (sample, step, feature)."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all values from which the features are taken."""

    def complete(self) -> NDArray[np.bool_]:
        """Return which samples have no missing feature."""


class _Rows:
    """One row is a sample."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = np.ascontiguousarray(values)

    def take(self, places: NDArray[np.int64], out: np.ndarray | None) -> np.ndarray:
        return np.take(self._values, places, axis=0, out=out, mode="clip")  # the other modes copy through a buffer

    def blocks(self) -> Iterator[np.ndarray]:
        yield self._values

    def complete(self) -> NDArray[np.bool_]:
        found = np.empty(len(self._values), bool)
        for at in range(0, len(found), _ROWS):
            found[at : at + _ROWS] = np.isfinite(self._values[at : at + _ROWS]).all(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class Windows:
    """The last days of an instrument are a sample."""

    sampler: TSDataSampler
    order: NDArray[np.int64]
    """Position in `sampler` of each sample, by day and instrument."""

    def take(self, places: NDArray[np.int64], out: np.ndarray | None) -> np.ndarray:
        return self.sampler.batch(self.order[places], out)

    def blocks(self) -> Iterator[np.ndarray]:
        yield from self.sampler.blocks
        yield self.sampler.idx_map

    def complete(self) -> NDArray[np.bool_]:
        return self.sampler.complete()[self.order]


class Sampling(Protocol):
    """Draws the batches of an epoch. Its ``repr`` contains all of its settings."""

    def batches(self, days: NDArray[np.int64], numbers: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield positions among the usable samples.

        Parameters
        ----------
        days : int array, (usable,)
            Number of the day of each usable sample, ascending.
        numbers : Generator
            Random numbers of the epoch.
        """


@dataclass(frozen=True, slots=True)
class Examples:
    """The samples of a segment."""

    index: pd.Index
    """(samples,): datetime and instrument, sorted."""
    source: Source
    usable: NDArray[np.int64]
    """Positions in `index` of the samples without missing features; for learning also with a label and a weight that is
    not 0."""
    label: NDArray[np.float32]
    """(usable,), or (usable, labels) for models of several labels; empty for prediction."""
    weight: NDArray[np.float32] | None
    """(usable,); None if all weights are 1."""
    group: NDArray[np.int64] | None = None
    """(usable,): a number of each sample from which a module learns in addition to the label, such as that of its period."""
    label_names: tuple[str, ...] = ()
    """The names of the labels; empty for prediction."""
    feature_names: tuple[str, ...] = ()
    """The names of the features; empty for prediction."""

    def days(self) -> NDArray[np.int64]:
        """Return the number of the day of each usable sample, ascending."""
        return pd.factorize(self.index.get_level_values("datetime")[self.usable])[0].astype(np.int64)

    def mark(self) -> int:
        """Return a checksum of everything that is learned from."""
        total = 0
        further = [part for part in (self.weight, self.group) if part is not None]
        for part in (*self.source.blocks(), self.usable, self.label, *further):
            for at in range(0, len(part), _ROWS):
                total = zlib.crc32(np.ascontiguousarray(part[at : at + _ROWS]).view(np.uint8).reshape(-1).data, total)
        return total


def learning_examples(
    dataset: Dataset,
    segment: str,
    *,
    model: str,
    reweighter: Reweighter | None = None,
    data_key: str = DataHandlerLP.DK_L,
    several_labels: bool = False,
) -> Examples:
    """Return the samples of a segment that have a label, a weight above 0 and no missing feature.

    Parameters
    ----------
    dataset : Dataset
        A :class:`~rollforge.features.dataset.DatasetH` or :class:`~rollforge.features.timeseries.TSDatasetH`. Missing
        steps of samples that span several days are filled with the previous step, or else with the next one.
    segment : str
        Name of the segment.
    model : str
        Name of the model, for messages.
    reweighter : Reweighter, optional
        Weights of the samples. It is called with a frame of the samples' own days.
    data_key : str
        State of the data.
    several_labels : bool
        Whether any number of labels is accepted.

    Raises
    ------
    ModelError
        If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if every
        sample has a missing feature.
    """
    prepared = OwnDays(dataset)
    samples = training_samples(
        prepared, segment, model=model, reweighter=reweighter, several_labels=several_labels, data_key=data_key
    )
    source, kept = prepared.source(samples.features), np.arange(len(samples.label))
    index = samples.features.index
    if prepared.sampler is not None and len(prepared.index) > len(kept):
        kept = prepared.index.get_indexer(index).astype(np.int64)
    if prepared.sampler is not None:
        index = prepared.index
    complete = source.complete()[kept]
    if not complete.all():
        _report_incomplete(dataset, segment, model, samples.features, complete, data_key)
    wanted = complete if samples.weight is None else complete & (samples.weight > 0)
    if not wanted.any():
        raise ModelError(
            f"{model} has no rows to learn from: every row of the {segment!r} segment with a weight lacks a feature."
        )
    weight = None if samples.weight is None else samples.weight[wanted].astype(np.float32)
    label = samples.label[wanted].astype(np.float32)
    names = tuple(map(str, samples.features.columns))
    return Examples(index, source, kept[wanted], label, weight, label_names=samples.label_names, feature_names=names)


def prediction_examples(
    dataset: Dataset,
    segment: str | slice,
    *,
    model: str,
    data_key: str = DataHandlerLP.DK_I,
    fitted: Sequence[str] = (),
) -> Examples:
    """Return all samples of a segment; those with a missing feature are not usable.

    Raises
    ------
    ModelError
        If there is no finite feature in the segment, or the features are not those of `fitted`.
    """
    prepared = OwnDays(dataset)
    features = prediction_features(prepared, segment, model=model, data_key=data_key, fitted=fitted)
    source = prepared.source(features)
    complete = source.complete()
    if not complete.all():
        log.warning(
            "%s: %d of the %d rows to predict have missing features, so their scores are missing",
            model, int((~complete).sum()), len(complete),
        )  # fmt: skip
    index = features.index if prepared.sampler is None else prepared.index
    return Examples(index, source, np.flatnonzero(complete), np.empty(0, np.float32), None)


class OwnDays(Dataset):
    """A dataset that returns samples of several days as a frame of their own days, and remembers them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.sampler: TSDataSampler | None = None
        self.index: pd.Index = pd.MultiIndex.from_arrays([[], []])
        self._order = np.empty(0, np.int64)

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        made = self._dataset.prepare(*args, **kwargs)
        if not isinstance(made, TSDataSampler):
            return made
        made.config(fillna_type="ffill+bfill")
        frame, self._order = made.own_days()
        self.sampler, self.index = made, frame.index
        return frame

    def explain_missing(self, *args: object, **kwargs: object) -> str:
        explain = getattr(self._dataset, "explain_missing", None)
        return "" if explain is None else str(explain(*args, **kwargs))

    def source(self, features: pd.DataFrame) -> Source:
        if self.sampler is None:
            return _Rows(features.to_numpy())
        return Windows(self.sampler.part("feature"), self._order)


def _report_incomplete(
    dataset: Dataset, segment: str, model: str, features: pd.DataFrame, complete: NDArray[np.bool_], data_key: str
) -> None:
    """Log how many samples have a missing feature, or raise an error if all have."""
    if complete.any():
        log.warning(
            "%s: %d of the %d rows of the %r segment have missing features and are excluded",
            model, int((~complete).sum()), len(complete), segment,
        )  # fmt: skip
        return
    empty = missing_everywhere(features)
    reason = "A processor such as Fillna fills missing values."
    if empty:
        reason = reason_missing(dataset, segment, "feature", data_key, empty[0])
    named = f" {', '.join(map(repr, empty[:5]))}{', …' if len(empty) > 5 else ''}" if empty else " a feature"
    raise ModelError(f"{model} has no rows to learn from: every row of the {segment!r} segment lacks{named}. {reason}")
