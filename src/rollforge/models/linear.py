"""Linear models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import check_flag, check_penalty
from rollforge.errors import MissingDependency, ModelError, nearest
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import Model, Reweighter
from rollforge.models.samples import Samples, missing_everywhere, prediction_features, reason_missing, training_samples

__all__ = ["LinearModel"]

_BLOCK = 1024  # rows converted to float64 at a time; they fit the CPU cache

Part = tuple[
    NDArray[np.floating], NDArray[np.floating], NDArray[np.float64] | None
]  # features, label and weight of a segment
Block = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]


class LinearModel(Model):
    """Linear model: a weighted sum of the features.

    Parameters
    ----------
    estimator : {"ols", "nnls", "ridge", "lasso"}
        Least squares; non-negative least squares; with an L2 penalty on the weights; with an L1 penalty.
    alpha : float
        Strength of the penalty.
    fit_intercept : bool
        Whether to fit a constant term.
    include_valid : bool
        True fits on train and valid together.
    """

    OLS, NNLS, RIDGE, LASSO = "ols", "nnls", "ridge", "lasso"

    def __init__(
        self,
        estimator: str = OLS,
        alpha: float = 0.0,
        fit_intercept: bool = False,
        include_valid: bool = False,
    ) -> None:
        known = (self.OLS, self.NNLS, self.RIDGE, self.LASSO)
        if estimator not in known:
            raise ModelError(f"unknown estimator {estimator!r}.{nearest(estimator, known)} Known: {', '.join(known)}.")
        if alpha != 0 and estimator not in (self.RIDGE, self.LASSO):
            raise ModelError(f"alpha applies only to ridge and lasso; {estimator} has no penalty.")
        if estimator == self.NNLS and fit_intercept:
            raise ModelError("nnls does not support an intercept. Omit fit_intercept.")
        check_penalty("alpha", alpha)
        check_flag("fit_intercept", fit_intercept)
        check_flag("include_valid", include_valid)
        self.estimator = estimator
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.include_valid = include_valid
        self.coef_: np.ndarray | None = None
        self.intercept_ = 0.0
        self.feature_names: list[str] = []
        """The names of the features on which it was fitted."""
        self.fit_seconds = 0.0

    def fit(self, dataset: DatasetH, reweighter: Reweighter | None = None) -> Self:
        """Fit on the rows of the train segment without missing features, and return the model, as Qlib's does.

        Raises
        ------
        ModelError
            If there is no such row, nnls is used with weights, or the data are not suitable for training; see
            :func:`~rollforge.models.samples.training_samples`.
        """
        names = ["train"] + (["valid"] if self.include_valid and "valid" in dataset.segments else [])
        model = type(self).__name__
        samples = [training_samples(dataset, n, model=model, reweighter=reweighter) for n in names]
        parts = [(s.features.to_numpy(), s.label, s.weight) for s in samples]
        began = time.perf_counter()
        solve = self._solve if self.estimator in (self.OLS, self.RIDGE) else self._solve_by_library
        reason = "its weights are not finite"
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # noticed in the weights
                solved = solve(parts)
        except ModelError:
            raise
        except (np.linalg.LinAlgError, ValueError, RuntimeError) as exc:
            solved, self.coef_, reason = True, None, str(exc).partition("\n")[0].rstrip(".")
        finite = self.coef_ is not None and np.isfinite([*self.coef_, self.intercept_]).all()
        if solved and not finite:
            self.coef_ = None
            raise ModelError(
                f"{model} cannot be fitted: {reason}. The largest feature is {_largest(samples)}. A processor such as "
                "CSZScoreNorm scales the features."
            )
        if not solved:
            raise ModelError(f"{model} has no rows to learn from: {_reason_for_no_row(dataset, names, samples)}")
        self.feature_names = list(map(str, samples[0].features.columns))
        self.fit_seconds = time.perf_counter() - began
        return self

    def _solve(self, parts: list[Part]) -> bool:
        """Solve the normal equations of the centred data, in float64 by blocks; return False if no row is complete."""
        size = parts[0][0].shape[1]
        gram, moment = np.zeros((size, size)), np.zeros(size)
        sum_x, sum_y, total = np.zeros(size), 0.0, 0.0
        for x, y, weight in _blocks(parts):
            weighted = x if weight is None else x * weight[:, None]
            gram += weighted.T @ x
            moment += weighted.T @ y
            sum_x += weighted.sum(axis=0)
            sum_y += float(y.sum() if weight is None else (y * weight).sum())
            total += len(y) if weight is None else float(weight.sum())
        if total == 0:
            return False
        if self.fit_intercept:
            gram -= np.outer(sum_x, sum_x) / total
            moment -= sum_x * sum_y / total
        weights: NDArray[np.floating]
        if self.estimator == self.RIDGE and self.alpha:
            weights = np.linalg.solve(gram + self.alpha * np.eye(size), moment)
        else:  # with linearly dependent features the weights are not unique: take the minimum-norm solution
            weights = np.linalg.lstsq(gram, moment, rcond=None)[0]
        self.coef_ = weights
        self.intercept_ = float((sum_y - sum_x @ weights) / total) if self.fit_intercept else 0.0
        return True

    def _solve_by_library(self, parts: list[Part]) -> bool:
        blocks = list(_blocks(parts))
        if not blocks:
            return False
        x, y = np.vstack([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])
        weights = None if blocks[0][2] is None else np.concatenate([b[2] for b in blocks])
        if self.estimator == self.NNLS:
            from scipy.optimize import nnls

            if weights is not None:
                raise ModelError("nnls does not support weights. Omit the reweighter.")
            self.coef_, self.intercept_ = nnls(x, y)[0], 0.0
            return True
        try:
            from sklearn.linear_model import Lasso  # type: ignore[import-not-found, unused-ignore]
        except ImportError as exc:
            raise MissingDependency("The lasso needs scikit-learn. Install it: pip install scikit-learn") from exc
        model = Lasso(alpha=self.alpha, fit_intercept=self.fit_intercept).fit(x, y, sample_weight=weights)
        self.coef_, self.intercept_ = np.asarray(model.coef_), float(model.intercept_)
        return True

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument); NaN if a feature is missing."""
        if self.coef_ is None:
            raise ModelError("LinearModel is not fitted yet.")
        fitted = getattr(self, "feature_names", ())  # earlier versions did not save them
        features = prediction_features(dataset, segment, model=type(self).__name__, fitted=fitted)
        values, scores = features.to_numpy(), np.empty(len(features))
        for i in range(0, len(values), _BLOCK):
            scores[i : i + _BLOCK] = values[i : i + _BLOCK].astype(np.float64) @ self.coef_ + self.intercept_
        return pd.Series(scores, index=features.index)


def _largest(samples: list[Samples]) -> str:
    """Return the name and the largest absolute value of the feature with the largest values."""
    sizes = np.nanmax(np.vstack([np.nanmax(np.abs(s.features.to_numpy(np.float64)), axis=0) for s in samples]), axis=0)
    place = int(np.nanargmax(sizes))
    return f"{str(samples[0].features.columns[place])!r} with {sizes[place]:g}"


def _reason_for_no_row(dataset: DatasetH, segments: list[str], samples: list[Samples]) -> str:
    """Return why every row has a missing feature, or no weight."""
    for segment, sample in zip(segments, samples, strict=True):
        empty = missing_everywhere(sample.features)
        if empty:
            named = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
            reason = reason_missing(dataset, segment, "feature", DataHandlerLP.DK_L, empty[0])
            return f"every row of the {segment!r} segment lacks {named}. {reason}"
    return "every row with a weight lacks a feature. A processor such as Fillna fills missing values."


def _blocks(parts: list[Part]) -> Iterator[Block]:
    """Yield (features, label, weight) in float64 for complete rows, in blocks."""
    ones = np.ones(parts[0][0].shape[1])
    for features, label, weight in parts:
        for i in range(0, len(label), _BLOCK):
            x = features[i : i + _BLOCK].astype(np.float64)
            y = label[i : i + _BLOCK].astype(np.float64)
            w = None if weight is None else weight[i : i + _BLOCK]
            whole = ~np.isnan(x @ ones)  # a sum is NaN if a term is: faster than testing each value
            if not whole.all():
                x, y, w = x[whole], y[whole], None if w is None else w[whole]
            if len(y):
                yield x, y, w
