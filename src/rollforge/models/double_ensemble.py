"""DoubleEnsemble: several LightGBM models on reweighted samples and selected features.

Zhang, Li, Chen, Jin, Tang and Li, "DoubleEnsemble: A New Ensemble Method Based on Sample Reweighting and Feature Selection for
Financial Data Analysis", ICDM 2020, https://arxiv.org/abs/2010.01265.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import check_flag, whole_number
from rollforge.errors import ConfigError, ModelError, shown
from rollforge.features.dataset import DatasetH
from rollforge.models.base import Reweighter
from rollforge.models.boosting import Boosting, Curves
from rollforge.models.lightgbm import Booster, import_lightgbm, reported_error, unknown_parameters
from rollforge.models.lightgbm_data import dataset_class
from rollforge.models.parameters import check_values
from rollforge.models.samples import Samples, prediction_features, training_samples
from rollforge.session import current_session

__all__ = ["DEnsembleModel"]

LIBRARY = "lightgbm"
"""The package that the model needs, which is also an extra of Rollforge. Submissions record its version."""


class DEnsembleModel(Boosting):
    """DoubleEnsemble: the weighted average of several LightGBM models.

    Each model after the first gives more weight to samples that the models so far predict badly and whose loss decreased while
    the previous model was trained, and uses fewer of the features that contribute little.

    Parameters
    ----------
    base_model : {"gbm"}
        The kind of the models: LightGBM.
    loss : {"mse"}
        The objective.
    num_models : int
        Number of models.
    enable_sr, enable_fs : bool
        Whether samples are reweighted, and whether features are selected.
    alpha1, alpha2 : float
        Influence of a sample's loss, and of the change of its loss, on its weight.
    bins_sr, bins_fs : int
        Number of bins of samples and of features; a bin has one weight, and one ratio of features that are kept.
    decay : float, optional
        A value below 1 makes the weights of later models more equal; by default 1.
    sample_ratios : sequence of float, optional
        Ratios of the features kept in each bin, beginning with the features that contribute most; by default 0.8, 0.7, 0.6,
        0.5, 0.4.
    sub_weights : sequence of float, optional
        Weights of the models in the average; by default equal.
    epochs : int
        Maximum number of rounds of each model.
    early_stopping_rounds : int, optional
        Number of rounds without improvement on the valid segment before the training of a model stops; by default all
        rounds are trained.
    **kwargs
        LightGBM's own parameters. `num_threads` is capped to the threads of the session; `seed` (0 by default) also determines
        which features are selected.

    Raises
    ------
    ConfigError, ModelError
        If an argument is invalid.
    """

    THREAD_NAMES: ClassVar[tuple[str, ...]] = ("num_threads", "num_thread", "nthread", "nthreads", "n_jobs")

    def __init__(
        self,
        base_model: str = "gbm",
        loss: str = "mse",
        num_models: int = 6,
        enable_sr: bool = True,
        enable_fs: bool = True,
        alpha1: float = 1.0,
        alpha2: float = 1.0,
        bins_sr: int = 10,
        bins_fs: int = 5,
        decay: float | None = None,
        sample_ratios: Sequence[float] | None = None,
        sub_weights: Sequence[float] | None = None,
        epochs: int = 100,
        early_stopping_rounds: int | None = None,
        **kwargs: object,
    ) -> None:
        if base_model != "gbm":
            raise ModelError(f"DEnsembleModel's base_model must be 'gbm', found {base_model!r}.")
        if loss != "mse":
            raise ModelError(f"DEnsembleModel's loss must be 'mse', found {loss!r}.")
        rounds = {"num_models": num_models, "bins_sr": bins_sr, "bins_fs": bins_fs, "epochs": epochs}
        for name, value in rounds.items():
            whole_number(value, name)
        if early_stopping_rounds is not None:
            whole_number(early_stopping_rounds, "early_stopping_rounds", least=0)
        check_flag("enable_sr", enable_sr)
        check_flag("enable_fs", enable_fs)
        numbers = {"alpha1": alpha1, "alpha2": alpha2, "decay": 1.0 if decay is None else decay}
        for name, number in numbers.items():
            _check_numbers(name, [number], 1)
        ratios = [0.8, 0.7, 0.6, 0.5, 0.4] if sample_ratios is None else list(sample_ratios)
        shares = [1.0] * num_models if sub_weights is None else list(sub_weights)
        _check_numbers("sample_ratios", ratios, bins_fs, most=1.0)
        _check_numbers("sub_weights", shares, num_models)
        if sum(shares) == 0:
            raise ConfigError("must not all be 0.", path="sub_weights")
        check_values(kwargs)
        super().__init__({"objective": loss, **kwargs})
        self.base_model = base_model
        self.loss = loss
        self.num_models = num_models
        self.enable_sr = enable_sr
        self.enable_fs = enable_fs
        self.alpha1 = alpha1
        self.alpha2 = alpha2
        self.bins_sr = bins_sr
        self.bins_fs = bins_fs
        self.decay = decay
        self.sample_ratios = ratios
        self.sub_weights = shares
        self.epochs = epochs
        self.early_stopping_rounds = early_stopping_rounds
        self.ensemble: list[Booster] = []
        """LightGBM's models; empty before training."""
        self.sub_features: list[list[str]] = []
        """The features of each of these models."""
        self.feature_names: list[str] = []
        """The features of the data on which it was fitted."""

    def unused_parameters(self) -> dict[str, str]:
        """Return the parameters that LightGBM ignores, with the nearest name as a sentence."""
        return unknown_parameters(type(self).__name__, self.params)

    def fit(self, dataset: DatasetH, reweighter: Reweighter | None = None) -> None:
        """Fit the models on the train segment, each with early stopping on the valid segment if it was asked for.

        Raises
        ------
        ModelError
            If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if
            LightGBM rejects the parameters.
        """
        name = type(self).__name__
        self._warn_of_unused()
        train = _weighted_rows(training_samples(dataset, "train", model=name, reweighter=reweighter))
        valid = None
        if "valid" in dataset.segments:
            valid = training_samples(dataset, "valid", model=name, reweighter=reweighter)
        seed = self.params.get("seed")
        numbers = np.random.default_rng(seed if isinstance(seed, int) and seed >= 0 else 0)
        x, y = train.features.to_numpy(), train.label.astype(np.float64)
        names = list(map(str, train.features.columns))
        repeated = [one for one, count in Counter(names).items() if count > 1]
        if repeated:
            raise ModelError(f"{name} selects features by name, but several are called {repeated[0]!r}. Rename them.")
        given = np.ones(len(y)) if train.weight is None else train.weight
        chosen, weight = np.arange(x.shape[1]), given
        boosters: list[Booster] = []
        columns: list[NDArray[np.intp]] = []
        predictions: list[NDArray[np.float64]] = []
        curves: dict[str, list[float]] = {}
        began = time.perf_counter()
        for number in range(1, self.num_models + 1):
            booster, results = self._train(x[:, chosen], train.label, weight, valid, chosen)
            boosters.append(booster)
            columns.append(chosen)
            for segment, metrics in results.items():
                curves |= {f"{metric} of model {number}.{segment}": list(v) for metric, v in metrics.items()}
            if number == self.num_models:
                break
            predictions.append(_predict(booster, x[:, chosen]))
            losses = (y - self._averaged(predictions)) ** 2
            if self.enable_sr:
                first, last = _ranked_losses(booster, x[:, chosen], y)
                weight = given * self._sample_weights(first, last, losses, number)
            if self.enable_fs:
                gains = _contributions(boosters, columns, predictions, x, y, losses, self._averaged, numbers)
                chosen = self._selected(gains, numbers)
        self.ensemble, self.sub_features = boosters, [[names[i] for i in kept] for kept in columns]
        self.feature_names, self._curves = names, curves
        self.fit_seconds = time.perf_counter() - began

    def _train(
        self,
        x: NDArray[np.floating],
        label: NDArray[np.floating],
        weight: NDArray[np.float64],
        valid: Samples | None,
        chosen: NDArray[np.intp],
    ) -> tuple[Booster, Curves]:
        """Return one model, and its metrics by segment."""
        lightgbm = import_lightgbm(type(self).__name__)
        params, threads = self._parameters_and_threads()
        results: Curves = {}
        data = dataset_class(lightgbm)
        sets, names = [data(x, label=label, weight=weight)], ["train"]
        if valid is not None:
            values = valid.features.to_numpy()[:, chosen]
            sets.append(data(values, label=valid.label, weight=valid.weight, reference=sets[0]))
            names.append("valid")
        callbacks = [lightgbm.record_evaluation(results)]
        if self.early_stopping_rounds and valid is not None:
            callbacks.append(lightgbm.early_stopping(self.early_stopping_rounds, verbose=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                booster = lightgbm.train(
                    {"verbosity": -1, "seed": 0, **params, "num_threads": threads},
                    sets[0],
                    num_boost_round=self.epochs,
                    valid_sets=sets,
                    valid_names=names,
                    callbacks=callbacks,
                )
            except (lightgbm.basic.LightGBMError, ValueError) as exc:
                raise reported_error(type(self).__name__, exc, self.params) from exc
        return booster, results

    def _averaged(self, predictions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the average of the predictions of the first models."""
        shares = np.asarray(self.sub_weights[: len(predictions)], np.float64)
        total: NDArray[np.float64] = sum(one * share for one, share in zip(predictions, shares, strict=True)) / (
            shares.sum() or 1.0
        )
        return total

    def _sample_weights(
        self, first: NDArray[np.float64], last: NDArray[np.float64], losses: NDArray[np.float64], number: int
    ) -> NDArray[np.float64]:
        """Return the weights for the model after model `number`: small where the loss is small and did not decrease."""
        ease = self.alpha1 * _ranks(-losses) + self.alpha2 * _ranks(last / first)
        bins = _bins(ease, self.bins_sr)
        counts = np.bincount(bins, minlength=self.bins_sr)
        means = np.bincount(bins, ease, self.bins_sr) / np.maximum(counts, 1)
        decay = 1.0 if self.decay is None else self.decay
        weights: NDArray[np.float64] = (1.0 / (decay**number * means + 0.1))[bins]
        return weights

    def _selected(self, gains: NDArray[np.float64], numbers: np.random.Generator) -> NDArray[np.intp]:
        """Return the columns for the next model: a random part of each bin of features."""
        bins = _bins(gains, self.bins_fs)
        kept: list[NDArray[np.intp]] = []
        for ratio, place in zip(self.sample_ratios, np.unique(bins)[::-1], strict=False):
            members = np.flatnonzero(bins == place)
            kept.append(numbers.choice(members, math.ceil(ratio * len(members)), replace=False))
        found = np.sort(np.concatenate(kept))
        return found if len(found) else np.arange(len(gains))

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument)."""
        if not self.ensemble:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        features = prediction_features(dataset, segment, model=type(self).__name__, fitted=self.feature_names)
        values = features.to_numpy()
        places = {name: i for i, name in enumerate(self.feature_names)}
        predictions = [
            _predict(booster, values[:, [places[name] for name in names]])
            for booster, names in zip(self.ensemble, self.sub_features, strict=True)
        ]
        return pd.Series(self._averaged(predictions), index=features.index)

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each feature in descending order: the sum over the models, each with its weight."""
        if not self.ensemble:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        total = pd.Series(0.0, index=self.feature_names)
        for booster, names, share in zip(self.ensemble, self.sub_features, self.sub_weights, strict=True):
            total.loc[names] += share * np.asarray(booster.feature_importance(*args, **kwargs), np.float64)
        return total.sort_values(ascending=False)


def _check_numbers(name: str, values: Sequence[object], length: int, most: float = math.inf) -> None:
    """Check that there are `length` finite numbers from 0 to `most`."""
    if len(values) != length:
        raise ConfigError(f"must have {length} values, found {len(values)}: {shown(list(values))}.", path=name)
    for value in values:
        number = not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating))
        if not number or not 0 <= float(value) <= most or not math.isfinite(float(value)):  # type: ignore[arg-type]
            limit = "" if most == math.inf else f" and at most {most:g}"
            raise ConfigError(f"must be at least 0{limit}, found {shown(value)}.", path=name)


def _weighted_rows(samples: Samples) -> Samples:
    """Return the samples without those of weight 0, whose losses would otherwise affect the weights of the others."""
    if samples.weight is None or samples.weight.all():
        return samples
    kept = samples.weight > 0
    return Samples(samples.features[kept], samples.label[kept], samples.weight[kept], samples.label_names)


def _predict(booster: Booster, values: NDArray[np.floating], **kwargs: object) -> NDArray[np.float64]:
    found: NDArray[np.float64] = booster.predict(values, num_threads=current_session().threads, **kwargs)
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, from 0 to 1."""
    found: NDArray[np.float64] = np.asarray(pd.Series(values).rank(pct=True), np.float64)
    return found


def _bins(values: NDArray[np.float64], number: int) -> NDArray[np.intp]:
    """Return the bin of each value: intervals of equal width, which include their upper ends."""
    if values.max() == values.min():
        return np.zeros(len(values), np.intp)
    found: NDArray[np.intp] = np.asarray(pd.cut(values, number, labels=False), np.intp)
    return found


def _ranked_losses(
    booster: Booster, x: NDArray[np.floating], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean rank of each sample's loss in the first and in the last tenth of a model's rounds."""
    rounds = booster.best_iteration if booster.best_iteration > 0 else booster.num_trees()
    part = max(int(rounds * 0.1), 1)
    means = []
    for begin in (0, rounds - part):
        total: NDArray[np.float64] | float = _predict(booster, x, num_iteration=begin, raw_score=True) if begin else 0.0
        ranks: NDArray[np.float64] = np.zeros(len(y))
        for tree in range(begin, begin + part):
            total = total + _predict(booster, x, start_iteration=tree, num_iteration=1, raw_score=True)
            ranks += _ranks((y - total) ** 2)
        means.append(ranks / part)
    return means[0], means[1]


def _contributions(
    boosters: Sequence[Booster],
    columns: Sequence[NDArray[np.intp]],
    predictions: Sequence[NDArray[np.float64]],
    x: NDArray[np.floating],
    y: NDArray[np.float64],
    losses: NDArray[np.float64],
    average: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.float64]],
    numbers: np.random.Generator,
) -> NDArray[np.float64]:
    """Return for each feature how much the losses increase if its values are shuffled: mean by standard deviation."""
    used = [
        set(kept[np.asarray(booster.feature_importance("split")) > 0].tolist())
        for booster, kept in zip(boosters, columns, strict=True)
    ]
    gains = np.zeros(x.shape[1])
    shuffled = x.copy()
    for feature in range(x.shape[1]):
        order = numbers.permutation(len(y))
        if not any(feature in one for one in used):  # no prediction depends on it
            continue
        shuffled[:, feature] = x[order, feature]
        found = [
            _predict(booster, shuffled[:, kept]) if feature in splits else known
            for booster, kept, known, splits in zip(boosters, columns, predictions, used, strict=True)
        ]
        shuffled[:, feature] = x[:, feature]
        difference = (y - average(found)) ** 2 - losses
        gains[feature] = difference.mean() / (difference.std() + 1e-7)
    return gains
