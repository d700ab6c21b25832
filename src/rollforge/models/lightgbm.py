"""Gradient boosting with LightGBM."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import is_whole_number, whole_number
from rollforge.errors import ConfigError, MissingDependency, ModelError, nearest, shown
from rollforge.features.dataset import DatasetH
from rollforge.models.base import ModelFT, Reweighter
from rollforge.models.boosting import Boosting, Curves
from rollforge.models.lightgbm_data import dataset_class
from rollforge.models.parameters import check_values, library_error
from rollforge.models.samples import Samples, check_features, prediction_features, training_samples
from rollforge.session import current_session

__all__ = ["HFLGBModel", "LGBModel"]

log = logging.getLogger(__name__)


class _Silence:
    """Logger that receives LightGBM's output: the metrics every `verbose_eval` rounds, and its warnings."""

    def info(self, message: str) -> None:
        log.info("%s", message)

    def warning(self, message: str) -> None:
        log.info("%s", message)


class Booster(Protocol):
    """LightGBM's model."""

    best_iteration: int

    def predict(self, data: NDArray[np.floating], **kwargs: object) -> NDArray[np.float64]: ...

    def num_trees(self) -> int: ...

    def feature_importance(self, *args: object, **kwargs: object) -> NDArray[np.floating]: ...


class _Round(Protocol):
    """The argument of LightGBM's callbacks."""

    iteration: int
    evaluation_result_list: list[tuple[str, str, float, bool]]


_SOURCE = re.compile(r" at \S+, line \d+ \.\s*$")
"""The location in LightGBM's source at the end of its messages."""


LIBRARY = "lightgbm"
"""The package that the model needs, which is also an extra of Rollforge. Submissions record its version."""


def import_lightgbm(model: str) -> ModuleType:
    """Return the library.

    Raises
    ------
    MissingDependency
        If it is not installed; the message says that `model` needs it.
    """
    try:
        import lightgbm
    except ImportError as exc:
        raise MissingDependency(f"{model} needs lightgbm. Install it: pip install 'rollforge[lightgbm]'") from exc
    lightgbm.register_logger(_Silence())
    return lightgbm


def _library() -> ModuleType:
    return import_lightgbm("LGBModel")


def unknown_parameters(model: str, params: Mapping[str, object]) -> dict[str, str]:
    """Return the parameters that LightGBM does not know, with the nearest name as a sentence; none if it does not list them."""
    table: Any = getattr(import_lightgbm(model).basic, "_ConfigAliases", None)  # LightGBM has no public list
    if not hasattr(table, "get") or not table.get("objective"):
        return {}
    known = {name for names in getattr(table, "aliases", None) or () for name in table.get(names)}
    return {name: nearest(name, known) for name in params if known and name not in known}


def reported_error(model: str, exc: Exception, params: Mapping[str, object]) -> ModelError:
    """Return the error for a training that LightGBM rejected."""
    return library_error(model, "LightGBM", _SOURCE.sub("", str(exc)), params)


def _check_stopping(value: object) -> None:
    if value is not None and not is_whole_number(value):
        raise ConfigError(
            f"must be a whole number, or null for none; found {shown(value)}.", path="early_stopping_rounds"
        )


class LGBModel(Boosting, ModelFT):
    """LightGBM with early stopping on the valid segment, if there is one.

    Parameters
    ----------
    loss : {"mse", "binary"}
        The objective.
    early_stopping_rounds : int
        Number of rounds without improvement before training stops.
    num_boost_round : int
        Maximum number of rounds.
    **kwargs
        LightGBM's own parameters. `num_threads` is capped to the threads of the session.

    Raises
    ------
    ConfigError
        If an argument has the wrong type.
    """

    THREAD_NAMES: ClassVar[tuple[str, ...]] = ("num_threads", "num_thread", "nthread", "nthreads", "n_jobs")

    def __init__(
        self, loss: str = "mse", early_stopping_rounds: int = 50, num_boost_round: int = 1000, **kwargs: object
    ) -> None:
        if loss not in ("mse", "binary"):
            raise ModelError(f"LGBModel's loss must be 'mse' or 'binary', found {loss!r}.")
        whole_number(num_boost_round, "num_boost_round")
        _check_stopping(early_stopping_rounds)
        objective = kwargs.get("objective")
        if not isinstance(objective, (str, list, tuple, type(None))) and not callable(objective):
            raise ConfigError(
                f"must be the name of an objective or a function, found {shown(objective)}.", path="objective"
            )
        check_values({k: v for k, v in kwargs.items() if not (k == "objective" and callable(v))})
        super().__init__({"objective": loss, "verbosity": -1, **kwargs})
        self.feature_names: list[str] = []
        """The names of the features on which it was fitted."""
        self.early_stopping_rounds = early_stopping_rounds
        self.num_boost_round = num_boost_round

    def unused_parameters(self) -> dict[str, str]:
        """Return the parameters that LightGBM ignores, with the nearest name as a sentence."""
        return unknown_parameters(type(self).__name__, self.params)

    def _parameters(self) -> dict[str, object]:
        params, threads = self._parameters_and_threads()
        return {**params, "num_threads": threads}

    def _data(
        self,
        dataset: DatasetH,
        segment: str,
        reweighter: Reweighter | None,
        reference: object,
        fitted: Sequence[str] = (),
    ) -> object:
        samples = training_samples(dataset, segment, model=type(self).__name__, reweighter=reweighter)
        check_features(samples.features, fitted, segment, type(self).__name__)
        if segment == "train":
            self.feature_names = list(map(str, samples.features.columns))
        return dataset_class(_library())(
            samples.features.to_numpy(), label=self._target(samples), weight=samples.weight, reference=reference
        )

    def _target(self, samples: Samples) -> NDArray[np.floating]:
        """Return what is learned."""
        return samples.label

    def fit(
        self,
        dataset: DatasetH,
        num_boost_round: int | None = None,
        early_stopping_rounds: int | None = None,
        verbose_eval: int = 20,
        evals_result: Curves | None = None,
        reweighter: Reweighter | None = None,
        **kwargs: object,
    ) -> None:
        """Fit on the train segment, with early stopping on the valid segment if there is one.

        Parameters
        ----------
        dataset : DatasetH
            Dataset with a train segment.
        num_boost_round, early_stopping_rounds : int, optional
            Override the values of the constructor.
        verbose_eval : int
            Interval in rounds at which the metrics are logged.
        evals_result : dict, optional
            Filled with the metrics of each round: ``{"train": {"l2": [...]}, "valid": …}``.
        reweighter : Reweighter, optional
            Weights of the samples.

        Raises
        ------
        SegmentError, DataError
            If there is no train segment, or it has no rows.
        ModelError
            If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if
            LightGBM rejects the parameters.
        """
        lightgbm = _library()
        self._warn_of_unused()
        results: Curves = {} if evals_result is None else evals_result
        train = self._data(dataset, "train", reweighter, None)
        sets, names = [train], ["train"]
        if "valid" in dataset.segments:
            sets.append(self._data(dataset, "valid", reweighter, train))
            names.append("valid")
        rounds = self.early_stopping_rounds if early_stopping_rounds is None else early_stopping_rounds
        callbacks = [lightgbm.log_evaluation(period=verbose_eval), lightgbm.record_evaluation(results)]
        if rounds and len(sets) > 1:
            callbacks.insert(0, lightgbm.early_stopping(rounds, verbose=False))
        if getattr(self, "on_round", None) is not None:
            callbacks.append(self._after_round)
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                self.model = lightgbm.train(
                    self._parameters(),
                    train,
                    num_boost_round=self.num_boost_round if num_boost_round is None else num_boost_round,
                    valid_sets=sets,
                    valid_names=names,
                    callbacks=callbacks,
                    **kwargs,
                )
            except (lightgbm.basic.LightGBMError, ValueError) as exc:
                raise reported_error(type(self).__name__, exc, self.params) from exc
        self.fit_seconds = time.perf_counter() - began
        self._curves = {
            f"{metric}.{name}".replace("@", "_"): list(values)
            for name in names
            for metric, values in results.get(name, {}).items()
        }

    def _after_round(self, environment: _Round) -> None:
        for segment, _, value, higher_is_better, *_ in environment.evaluation_result_list:
            if segment == "valid" and self.on_round is not None:
                self.on_round(environment.iteration, -value if higher_is_better else value)
                return

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument)."""
        model = self._fitted()
        features = prediction_features(dataset, segment, model=type(self).__name__, fitted=self._fitted_on())
        scores = model.predict(features.to_numpy(), num_threads=current_session().threads)
        return pd.Series(scores, index=features.index)

    def finetune(
        self,
        dataset: DatasetH,
        num_boost_round: int = 10,
        verbose_eval: int = 20,
        reweighter: Reweighter | None = None,
    ) -> None:
        """Train for `num_boost_round` more rounds on the dataset's train segment.

        Raises
        ------
        ModelError
            If the features are not those on which the model was fitted, or LightGBM rejects the data or the parameters.
        """
        fitted = self._fitted()
        lightgbm = _library()
        train = self._data(dataset, "train", reweighter, None, fitted=self._fitted_on())
        try:
            self.model = lightgbm.train(
                self._parameters(),
                train,
                num_boost_round=num_boost_round,
                init_model=fitted,
                valid_sets=[train],
                valid_names=["train"],
                callbacks=[lightgbm.log_evaluation(period=verbose_eval)],
            )
        except (lightgbm.basic.LightGBMError, ValueError) as exc:
            raise reported_error(type(self).__name__, exc, self.params) from exc

    def _fitted_on(self) -> list[str]:
        """Return the names of the features of the training; none for a model that was saved without them."""
        return getattr(self, "feature_names", [])

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each feature in descending order."""
        model = self._fitted()
        # The library's own names cannot contain all characters; a model saved by an earlier version has only these.
        names = self._fitted_on() or model.feature_name()
        return pd.Series(model.feature_importance(*args, **kwargs), index=names).sort_values(ascending=False)


class HFLGBModel(LGBModel):
    """LightGBM that learns whether the label is at least the (weighted) mean of the same time, Qlib's model for intraday bars.

    With ``objective="binary"`` it predicts the probability. Otherwise it has the arguments and methods of :class:`LGBModel`.

    Parameters
    ----------
    loss : {"mse", "binary"}
        The objective.
    **kwargs
        See :class:`LGBModel`.
    """

    def __init__(self, loss: str = "mse", **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)

    def _target(self, samples: Samples) -> NDArray[np.floating]:
        days = samples.features.index.get_level_values("datetime")
        label = samples.label.astype(np.float64)
        weight = np.ones_like(label) if samples.weight is None else samples.weight
        sums = pd.DataFrame({"label": label * weight, "weight": weight}).groupby(days).transform("sum")
        return (label >= (sums["label"] / sums["weight"]).to_numpy()).astype(np.float32)
