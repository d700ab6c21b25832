"""Metrics of predicted values and of predicted class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.record.analysis import calc_ic, is_constant

__all__ = [
    "area_under_curve",
    "classification_metrics",
    "log_loss",
    "multiclass_metrics",
    "ranking_metrics",
    "regression_metrics",
]

_LEAST = float(np.finfo(np.float64).eps)


def regression_metrics(prediction: pd.Series, label: pd.Series) -> dict[str, float]:
    """Return the metrics of predicted values.

    Parameters
    ----------
    prediction, label : Series
        Index (datetime, instrument). Only rows that have both count.

    Returns
    -------
    dict
        ``ic`` and ``rank_ic``: means over the days of the correlation (Pearson, Spearman) between the instruments'
        predictions and labels; ``correlation``: Pearson's over all rows; ``rmse`` and ``mae``, in units of the label;
        ``r2``: 1 minus the ratio of the squared errors to the label's squared deviations from its mean. Undefined
        metrics are NaN.
    """
    x, y = _pairs(prediction, label)
    error = x - y
    deviations = float(((y - y.mean()) ** 2).sum()) if len(y) and not is_constant(y) else 0.0
    return {
        **_correlations(prediction, label, x, y),
        "rmse": float(np.sqrt((error**2).mean())) if len(y) else np.nan,
        "mae": float(np.abs(error).mean()) if len(y) else np.nan,
        "r2": 1 - float((error**2).sum()) / deviations if deviations > 0 else np.nan,
    }


def ranking_metrics(score: pd.Series, label: pd.Series) -> dict[str, float]:
    """Return ``ic`` and ``rank_ic`` as of :func:`regression_metrics`, for scores that have no unit.

    Parameters
    ----------
    score, label : Series
        Index (datetime, instrument). Only rows that have both count.
    """
    found = _correlations(score, label, *_pairs(score, label))
    return {name: found[name] for name in ("ic", "rank_ic")}


def multiclass_metrics(probability: pd.DataFrame, label: pd.Series) -> dict[str, float]:
    """Return the metrics of predicted probabilities of several classes.

    Parameters
    ----------
    probability : DataFrame
        Index (datetime, instrument), one column for each class, named by its value.
    label : Series
        The class of each row; only rows with one of these classes and with probabilities count.

    Returns
    -------
    dict
        ``log_loss`` in natural units; ``auc``, the mean over the classes of the area under the ROC curve of a class against
        all others, without classes that do not occur; ``brier``, the mean over the rows of the sum of squared differences,
        at most 2.
    """
    p = probability.to_numpy(np.float64, na_value=np.nan)
    y = label.reindex(probability.index).to_numpy(np.float64, na_value=np.nan)
    hit = y[:, None] == probability.columns.to_numpy(np.float64)
    known = np.isfinite(p).all(axis=1) & hit.any(axis=1)
    p, hit = p[known], hit[known]
    areas = [area_under_curve(p[:, k], hit[:, k]) for k in range(p.shape[1])]
    return {
        "log_loss": float(-np.log(np.clip(p[hit], _LEAST, 1 - _LEAST)).mean()) if len(p) else np.nan,
        "auc": float(np.nanmean(areas)) if np.isfinite(areas).any() else np.nan,
        "brier": float(((p - hit) ** 2).sum(axis=1).mean()) if len(p) else np.nan,
    }


def classification_metrics(probability: pd.Series, positive: pd.Series, known: pd.Series) -> dict[str, float]:
    """Return the metrics of predicted probabilities of a class.

    Parameters
    ----------
    probability : Series
        Index (datetime, instrument).
    positive : Series
        Whether a row belongs to the class.
    known : Series
        Whether its class is known; only these rows, if they have a probability, count.

    Returns
    -------
    dict
        ``ic``, ``rank_ic`` and ``correlation`` as in :func:`regression_metrics`, with 1 for the class and 0 for the
        other; ``log_loss`` in natural units; ``auc``, the area under the ROC curve; ``brier``, the mean squared
        difference.
    """
    label = positive.astype(np.float64).where(known)
    x, y = _pairs(probability, label)
    return {
        **_correlations(probability, label, x, y),
        "log_loss": log_loss(x, y),
        "auc": area_under_curve(x, y),
        "brier": float(((x - y) ** 2).mean()) if len(y) else np.nan,
    }


def log_loss(
    probability: Sequence[float] | NDArray[np.float64], positive: Sequence[float] | NDArray[np.float64]
) -> float:
    """Return the mean of the negative logarithm of the probability of the class that occurred; NaN without rows.

    Probabilities of 0 and 1 count as the machine epsilon and 1 minus it, as in scikit-learn.

    Examples
    --------
    >>> round(log_loss([0.9, 0.2], [1, 0]), 6)
    0.164252
    """
    p, y = np.asarray(probability, np.float64), np.asarray(positive, np.float64)
    p = np.clip(p, _LEAST, 1 - _LEAST)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()) if len(y) else np.nan


def area_under_curve(
    score: Sequence[float] | NDArray[np.float64], positive: Sequence[float] | NDArray[np.float64]
) -> float:
    """Return the area under the ROC curve: the share of pairs with one row of each class that the score orders
    correctly; ties count half. NaN if a class is missing.

    References
    ----------
    Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve, 1982.

    Examples
    --------
    >>> area_under_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    x, y = np.asarray(score, np.float64), np.asarray(positive, np.float64)
    ones = float(y.sum())
    zeros = len(y) - ones
    if not ones or not zeros:
        return float("nan")
    ranks = pd.Series(x).rank().to_numpy()
    return (float(ranks[y == 1].sum()) - ones * (ones + 1) / 2) / (ones * zeros)


def _pairs(prediction: pd.Series, label: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = prediction.to_numpy(np.float64, na_value=np.nan)
    y = label.reindex(prediction.index).to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _correlations(
    prediction: pd.Series, label: pd.Series, x: NDArray[np.float64], y: NDArray[np.float64]
) -> dict[str, float]:
    ic, rank_ic = calc_ic(prediction, label)
    spread = len(x) > 1 and not is_constant(x) and not is_constant(y)
    return {
        "ic": float(ic.mean()) if ic.notna().any() else np.nan,
        "rank_ic": float(rank_ic.mean()) if rank_ic.notna().any() else np.nan,
        "correlation": float(np.corrcoef(x, y)[0, 1]) if spread else np.nan,
    }
