"""Samples for training and prediction, with one rule for missing and infinite values.

* A row whose label is missing or infinite is excluded from fitting and early stopping. The number of such rows is
  logged.
* An infinite feature is treated as missing. This is logged once per dataset.
* A weight that is negative, missing or infinite is an error.
* A segment without any finite label, or without any finite feature, is an error whose message has the loader or the
processor at fault.

The built-in models read their data through these two functions; custom models can use them to apply the same rule.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ModelError, counted
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import Reweighter

__all__ = ["Samples", "prediction_features", "training_samples"]

log = logging.getLogger(__name__)

_ROWS = 4096  # rows processed together; they fit the CPU cache
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Samples:
    """The rows of a segment that can be used for training."""

    features: pd.DataFrame
    """(rows, features), index (datetime, instrument). Finite, or NaN for missing values."""
    label: NDArray[Any]
    """(rows,), or (rows, labels) with `several_labels`. Finite; float32, or with `exact_labels` as in the data."""
    weight: NDArray[np.float64] | None
    """(rows,), finite and non-negative; None without a reweighter."""
    label_names: tuple[str, ...] = ()
    """The names of the labels."""


def training_samples(
    dataset: Dataset,
    segment: str = "train",
    *,
    model: str,
    reweighter: Reweighter | None = None,
    several_labels: bool = False,
    exact_labels: bool = False,
    data_key: str = DataHandlerLP.DK_L,
) -> Samples:
    """Return the rows of a segment that have a finite label.

    If all labels are finite and no feature is infinite, the features share the panel's memory and nothing is copied.

    Parameters
    ----------
    dataset : Dataset
        Dataset whose ``prepare`` returns the groups "feature" and "label".
    segment : str
        Name of the segment.
    model : str
        Name of the model, for messages.
    reweighter : Reweighter, optional
        Receives the rows with a finite label, and returns one weight for each.
    several_labels : bool
        True accepts any number of labels; a row is kept if all of them are finite.
    exact_labels : bool
        True keeps the precision of the labels, instead of converting them to float32.
    data_key : str
        State of the data.

    Raises
    ------
    ModelError
        If there are several labels but `several_labels` is False, the segment has no finite label or no finite feature,
        or the weights are negative, missing, infinite, all zero, or do not match the number of rows.

    Examples
    --------
    A custom model that applies the rule:

    >>> import numpy as np
    >>> from rollforge.models import Model, prediction_features, training_samples
    >>> class MeanModel(Model):
    ...     def fit(self, dataset, reweighter=None):
    ...         samples = training_samples(dataset, "train", model="MeanModel", reweighter=reweighter)
    ...         self.mean = float(np.average(samples.label, weights=samples.weight))
    ...
    ...     def predict(self, dataset, segment="test"):
    ...         features = prediction_features(dataset, segment, model="MeanModel")
    ...         return 0 * features.iloc[:, 0] + self.mean
    """
    frame = _rows(dataset.prepare(segment, col_set=["feature", "label"], data_key=data_key), dataset, model)
    if not isinstance(frame.columns, pd.MultiIndex) or not {"feature", "label"} <= set(frame.columns.levels[0]):
        raise ModelError(
            f"{model} learns from the groups of columns 'feature' and 'label', but the dataset has: "
            f"{', '.join(map(str, list(frame.columns)[:5]))}. Put the columns in groups: "
            "pd.concat({'feature': …, 'label': …}, axis=1), or the loader's config: {feature: …, label: …}."
        )
    labels = frame["label"]
    label = _labels(labels, model, several_labels, exact_labels)
    known = np.logical_and.reduce(np.isfinite(label.reshape(len(label), -1)), axis=1)
    if not known.any():
        raise ModelError(
            f"{model} cannot be fitted: all labels of the {segment!r} segment are missing or infinite. "
            f"{reason_missing(dataset, segment, 'label', data_key)}"
        )
    features = frame["feature"]
    if not known.all():
        _report_unlabelled(frame, label, known, model, segment)
        label = label[known]
        frame = frame[known] if reweighter is not None else frame
        features = _framed(_matrix(features)[known], features.index[known], features.columns)
    if len(label) > 1 and (label == label[0]).all():
        log.warning(
            "%s: every label of the %r segment is %g, so the model cannot distinguish rows",
            model, segment, label.ravel()[0],
        )  # fmt: skip
    features = _features(features, dataset, segment, model, data_key)
    names = tuple(map(str, labels.columns))
    return Samples(features, label, _weights(reweighter, frame, model, segment), names)


def prediction_features(
    dataset: Dataset,
    segment: str | slice = "test",
    *,
    model: str,
    data_key: str = DataHandlerLP.DK_I,
    fitted: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the features of all rows of a segment, index (datetime, instrument), with NaN for infinite values.

    Parameters
    ----------
    dataset : Dataset
        Dataset whose ``prepare`` returns the group "feature".
    segment : str or slice
        Name of the segment, or days.
    model : str
        Name of the model, for messages.
    data_key : str
        State of the data.
    fitted : sequence of str
        Names of the features on which the model was fitted, in order; by default any are accepted.

    Raises
    ------
    ModelError
        If there is no finite feature in the segment, or the features are not those of `fitted`.
    """
    frame = _rows(dataset.prepare(segment, col_set="feature", data_key=data_key), dataset, model)
    check_features(frame, fitted, segment, model)
    return _features(frame, dataset, segment, model, data_key)


def check_features(features: pd.DataFrame, fitted: Sequence[str], segment: object, model: str) -> None:
    """Check that features are those on which a model was fitted, in the same order; libraries use them by position.

    Raises
    ------
    ModelError
        If they differ. Without names in `fitted` nothing is checked.
    """
    names = list(map(str, features.columns))
    if not fitted or names == list(fitted):
        return
    place = next(i for i, pair in enumerate(itertools.zip_longest(names, fitted)) if len(set(pair)) > 1)
    found = repr(names[place]) if place < len(names) else "missing"
    wanted = f"it was {fitted[place]!r}" if place < len(fitted) else f"there were {counted(len(fitted), 'feature')}"
    raise ModelError(
        f"{model} cannot use {_named(segment)}, because the features are not those of the training: feature {place + 1} is "
        f"{found}; in the training {wanted}. Use a dataset with the same features in the same order."
    )


def _rows(prepared: object, dataset: object, model: str) -> Any:
    """Return what a dataset prepared, which must be a frame."""
    if not isinstance(prepared, pd.DataFrame):
        raise ModelError(
            f"{model} needs rows, but a segment of {type(dataset).__name__} is a {type(prepared).__name__}. Use DatasetH."
        )
    return prepared


def missing_everywhere(features: pd.DataFrame) -> list[str]:
    """Return the names of the columns without any finite value."""
    values = _matrix(features)
    seen = np.zeros(values.shape[1], bool)
    for at in range(0, len(values), _ROWS):
        seen |= np.isfinite(values[at : at + _ROWS]).any(axis=0)
        if seen.all():
            return []
    return [str(name) for name, one in zip(features.columns, seen, strict=True) if not one]


def _matrix(frame: pd.DataFrame) -> np.ndarray:
    """Return the values as a numeric array, without a copy if all columns have the same dtype."""
    values = frame.to_numpy()
    if values.dtype.kind in "fiub":
        return values
    try:
        return frame.astype(object).where(frame.notna(), np.nan).to_numpy(np.float64)
    except (ValueError, TypeError):
        raise ModelError(
            f"A model needs numbers, but {_text_column(frame)}. A processor such as DropCol drops it."
        ) from None


def _text_column(frame: pd.DataFrame) -> str:
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        if len(bad):
            return f"the column {str(name)!r} contains {bad.iloc[0]!r}"
    return "a column contains other values"


def _framed(values: np.ndarray, index: pd.Index, columns: pd.Index) -> pd.DataFrame:
    """Return a frame of a row-major array without copying it."""
    return pd.DataFrame(values, index=index, columns=columns, copy=False)


def _labels(frame: pd.DataFrame, model: str, several: bool, exact: bool) -> NDArray[Any]:
    values = _matrix(frame)
    if values.shape[1] != 1 and not several:
        raise ModelError(
            f"{model} accepts one label, but the dataset has {values.shape[1]}: {', '.join(map(str, frame.columns))}."
        )
    wanted = values if several else values[:, 0]
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are counted as such
        return np.ascontiguousarray(wanted, values.dtype if exact else np.float32)


def _at(frame: pd.DataFrame, row: int) -> str:
    """Describe the location of a row, for messages."""
    if not isinstance(frame.index, pd.MultiIndex) or frame.index.nlevels != 2:
        return f"row {frame.index[row]}"
    day, code = frame.index[row]
    if isinstance(code, pd.Timestamp):
        day, code = code, day
    return f"{code} on {day.date() if isinstance(day, pd.Timestamp) else day}"


def _report_unlabelled(
    frame: pd.DataFrame, label: NDArray[np.float32], known: NDArray[np.bool_], model: str, segment: str
) -> None:
    infinite = np.isinf(label) if label.ndim == 1 else np.isinf(label).any(axis=1)
    rows, bad = int((~known).sum()), int(infinite.sum())
    first = int(np.argmax(infinite if bad else ~known))
    log.warning(
        "%s: %d of the %d rows of the %r segment have no finite label and are excluded: %d missing, "
        "%d infinite; the first %s one is %s",
        model, rows, len(known), segment, rows - bad, bad, "infinite" if bad else "missing", _at(frame, first),
    )  # fmt: skip


_reported: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()
"""Datasets whose infinite features were reported, by ``id``, because a dataset may not be hashable."""


def _features(frame: pd.DataFrame, dataset: object, segment: object, model: str, data_key: str) -> pd.DataFrame:
    """Return the features with infinite values replaced by NaN; the same frame if there are none."""
    values = _matrix(frame)
    finite = infinite = False
    for at in range(0, len(values), _ROWS):
        block = values[at : at + _ROWS]
        infinite = infinite or bool(np.isinf(block).any())
        finite = finite or bool(np.isfinite(block).any())
        if finite and infinite:
            break
    if not finite:
        raise ModelError(
            f"{model}: all features of {_named(segment)} are missing or infinite. "
            f"{reason_missing(dataset, segment, 'feature', data_key)}"
        )
    if not infinite:
        # Libraries do not read extension types such as Float64, and mixed types only as objects; truth values are not numbers.
        if values.dtype.kind != "b" and all(one == values.dtype for one in frame.dtypes):
            return frame
        values = values.astype(np.float32) if values.dtype.kind == "b" else values
        return _framed(values, frame.index, frame.columns)
    where = np.isinf(values)
    if _reported.get(id(dataset)) is not dataset:
        _reported[id(dataset)] = dataset
        columns = np.flatnonzero(where.any(axis=0))
        named = ", ".join(repr(str(frame.columns[c])) for c in columns[:5]) + (", …" if len(columns) > 5 else "")
        log.warning(
            "%s: infinite features are treated as missing: %s in %s (%s), the first of %s",
            model, counted(int(where.sum()), "value"), counted(len(columns), "column"), named,
            _at(frame, int(np.argmax(where.any(axis=1)))),
        )  # fmt: skip
    return _framed(np.where(where, values.dtype.type(np.nan), values), frame.index, frame.columns)


def _named(segment: object) -> str:
    if isinstance(segment, slice):
        return f"the days from {segment.start} to {segment.stop}"
    return f"the {segment!r} segment"


def reason_missing(dataset: object, segment: object, group: str, data_key: str, column: str | None = None) -> str:
    """Explain which step leaves no finite value in a group or column, if the dataset can explain it."""
    explain = getattr(dataset, "explain_missing", None)
    reason: str = explain(segment, group, data_key, column) if explain is not None else ""
    return reason or f"They come from {type(dataset).__name__}.prepare()."


def _weights(
    reweighter: Reweighter | None, frame: pd.DataFrame, model: str, segment: str
) -> NDArray[np.float64] | None:
    if reweighter is None:
        return None
    if not isinstance(reweighter, Reweighter):
        raise ModelError(f"A reweighter must be a Reweighter, found a {type(reweighter).__name__}.")
    name = type(reweighter).__name__
    given = reweighter.reweight(frame)
    if isinstance(given, (pd.Series, pd.DataFrame)) and given.index.is_unique and len(given) == len(frame):
        given = given.reindex(frame.index)  # align weights with the rows by index
    weight = np.asarray(given, np.float64)
    weight = weight[:, 0] if weight.ndim == 2 and weight.shape[1] == 1 else weight
    if weight.shape != (len(frame),):
        raise ModelError(
            f"{name} gives weights of shape {weight.shape} for the {counted(len(frame), 'row')} of the {segment!r} "
            "segment that have a label; it must give one weight for each row of the frame it is called with."
        )
    bad = ~((weight >= 0) & (weight <= _MAX_FLOAT32))
    if bad.any():
        row = int(np.argmax(bad))
        raise ModelError(
            f"{name} gives {counted(int(bad.sum()), 'weight')} that {model} cannot use in the {segment!r} "
            f"segment. The first is {weight[row]:g} for {_at(frame, row)}. A weight must be finite and not "
            "negative."
        )
    if not weight.any():
        raise ModelError(f"{name} gives every row of the {segment!r} segment the weight 0, so {model} cannot learn.")
    return weight
