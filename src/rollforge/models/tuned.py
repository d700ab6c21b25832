"""Searching for the parameters of a model on the valid segment of its own window, with Optuna."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pandas as pd

from rollforge.arguments import check_flag, whole_number
from rollforge.build import build, describe, update_config
from rollforge.errors import (
    CodeNotAllowed,
    ConfigError,
    DataError,
    MissingDependency,
    ModelError,
    RollforgeError,
    SegmentError,
    StoreError,
    TrackingError,
    nearest,
    shown,
)
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.kinds import MODEL
from rollforge.models.base import Model, Reweighter
from rollforge.models.boosting import Boosting
from rollforge.models.samples import training_samples
from rollforge.models.torch_samples import OwnDays
from rollforge.task import Definition, Document
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

if TYPE_CHECKING:
    import optuna

__all__ = ["TunedModel"]

log = logging.getLogger(__name__)

LIBRARY = "optuna"
"""The package that the model needs, which is also an extra of Rollforge. Submissions record its version."""

_OF_ALL = (MissingDependency, DataError, SegmentError, CodeNotAllowed, TrackingError, StoreError, OSError, MemoryError)
"""Errors that other parameters would not change, so they end the search."""
_METRICS = {"ic": "maximize", "rank_ic": "maximize", "mse": "minimize"}
_RANGE = {"low", "high", "step", "log"}

Choices = list[bool | int | float | str | None] | Definition  # the values of a parameter, or a range


class Trial(TypedDict):
    """A trial of the search."""

    number: int
    state: str
    """"complete", "pruned" or "failed"."""
    value: float | None
    """The metric; None if the trial was stopped early or failed."""
    params: dict[str, object]
    rounds: list[float]
    """The loss on the valid segment after each round."""
    reason: str | None
    """Why the trial failed."""


def _library() -> ModuleType:
    try:
        import optuna
    except ImportError as exc:
        raise MissingDependency("TunedModel needs optuna. Install it: pip install 'rollforge[optuna]'") from exc
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class TunedModel(Model):
    """A model with the parameters that predict the valid segment best, out of `n_trials` that are tried.

    Each trial is fitted on the train segment and evaluated on the valid segment of the same window; no other segment is
    read. The model of the best trial is kept, so a window needs `n_trials` fits. Trials of a gradient boosting model are
    stopped early (pruned) if their metric on the valid segment is worse than the median of the earlier trials at the same
    round. A trial that raises an error, or has no finite metric because its predictions are constant, counts as failed, and the
    others decide.

    Parameters
    ----------
    model : description
        The model: ``{class, module_path, kwargs}``.
    space : mapping
        The parameters to search for, by their name in the model's ``kwargs``; a dot leads into a mapping, as in
        ``estimator.kwargs.alpha``. A list contains the values to try. A range is ``{low, high}``, of whole numbers if both
        are, with ``step`` for a grid or ``log: true`` for a logarithmic scale.
    n_trials : int
        Number of trials.
    metric : {"ic", "rank_ic", "mse"}
        The metric of the valid segment: the mean of the daily correlations or rank correlations with the raw label, or the
        mean squared error.
    seed : int
        Seed of the search. The same seed tries the same parameters.
    prune : bool
        Whether trials can be stopped early.

    Raises
    ------
    ConfigError
        If an argument is invalid, or the model cannot be built with the first values of the space.
    """

    def __init__(
        self,
        model: Document,
        space: Document,
        n_trials: int = 20,
        metric: str = "ic",
        seed: int = 0,
        prune: bool = True,
    ) -> None:
        _library()
        if not isinstance(model, Mapping) or "class" not in model:
            raise ConfigError(
                f"must describe a model: {{class, module_path, kwargs}}; found {shown(model)}.", path="model"
            )
        if not isinstance(space, Mapping) or not space:
            raise ConfigError(f"must name the parameters to search for, found {shown(space)}.", path="space")
        whole_number(n_trials, "n_trials")
        whole_number(seed, "seed", least=0)
        check_flag("prune", prune)
        if metric not in _METRICS:
            known = ", ".join(_METRICS)
            raise ConfigError(
                f"{shown(metric)} is unknown.{nearest(str(metric), _METRICS)} Known: {known}.", path="metric"
            )
        self.config = dict(model)
        self.space = {str(name): _checked_range(str(name), values) for name, values in space.items()}
        self.n_trials = n_trials
        self.metric = metric
        self.seed = seed
        self.prune = prune
        self.model: Model | None = None
        """The model of the best trial; None before training."""
        self.trials: list[Trial] = []
        """The trials, in their order."""
        self._build({name: _first(values) for name, values in self.space.items()})

    @property
    def fits(self) -> int:
        """Number of models that are fitted for one window."""
        return self.n_trials

    def _build(self, params: Mapping[str, object]) -> Model:
        """Return the model with the parameters of a trial."""
        changes: Definition = {}
        for name, value in params.items():
            *outer, last = name.split(".")
            place = changes
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = value
        model: Model = build(update_config(self.config, {"kwargs": changes}), kind=MODEL, where="model")
        return model

    def fit(self, dataset: DatasetH, reweighter: Reweighter | None = None) -> None:
        """Fit and evaluate all trials, and keep the best model.

        Raises
        ------
        ConfigError
            If the library of the model ignores a parameter of the space.
        ModelError
            If there is no valid segment, or all trials fail; the message has the parameters and the reason of the first.
        """
        if "valid" not in dataset.segments:
            raise ModelError("TunedModel evaluates its trials on the segment 'valid', and the dataset has none.")
        self._check_space()
        library = _library()
        best: list[tuple[float, Model]] = []
        errors: list[Exception] = []
        self.trials = []
        study = library.create_study(
            direction=_METRICS[self.metric],
            sampler=library.samplers.TPESampler(seed=self.seed),
            pruner=library.pruners.MedianPruner(n_startup_trials=5),
        )
        for _ in range(self.n_trials):
            trial = study.ask()
            model, about, error = self._tried(trial, dataset, reweighter)
            self.trials.append(about)
            study.tell(trial, about["value"], _state(about))
            if error is not None:
                errors.append(error)
            elif model is not None and about["value"] is not None:
                order = -about["value"] if _METRICS[self.metric] == "minimize" else about["value"]
                if not best or order > best[0][0]:
                    best[:] = [(order, model)]
        self._report_failed(errors, complete=bool(best))
        self.model = best[0][1]
        log.info("the best of %d trials has %s %g: %s", self.n_trials, self.metric, study.best_value, study.best_params)

    def _check_space(self) -> None:
        """Check that the library of a gradient boosting model uses the parameters that are searched for."""
        model = self._build({name: _first(values) for name, values in self.space.items()})
        unused = model.unused_parameters() if isinstance(model, Boosting) else {}
        for name in self.space:
            if name in unused:
                raise ConfigError(
                    f"the library of {type(model).__name__} ignores it.{unused[name]}", path=f"space.{name}"
                )

    def _tried(
        self, trial: optuna.Trial, dataset: DatasetH, reweighter: Reweighter | None
    ) -> tuple[Model | None, Trial, Exception | None]:
        """Return the model of a trial, its record, and the error that ended it."""
        params = {name: _suggest(trial, name, values) for name, values in self.space.items()}
        about: Trial = {
            "number": trial.number,
            "state": "complete",
            "value": None,
            "params": params,
            "rounds": [],
            "reason": None,
        }
        model: Model | None = None
        try:
            model = self._build(params)
            if self.prune and isinstance(model, Boosting):
                model.on_round = lambda step, loss: self._report(trial, about, step, loss)
            model.fit(dataset, **({} if reweighter is None else {"reweighter": reweighter}))
            about["value"] = self._evaluate(model, dataset, reweighter)
        except _library().TrialPruned:
            about["state"] = "pruned"
        except _OF_ALL:
            raise
        except Exception as exc:  # noqa: BLE001 - of the model or its library; other parameters may work
            about["state"], about["reason"] = "failed", str(exc) if isinstance(exc, RollforgeError) else describe(exc)
            return model, about, exc
        finally:
            if isinstance(model, Boosting):
                model.on_round = None
        return model, about, None

    def _report_failed(self, errors: list[Exception], *, complete: bool) -> None:
        """Log how many trials failed, or raise an error if all did."""
        failed = [one for one in self.trials if one["state"] == "failed"]
        if not failed:
            return
        first = f"with {shown(failed[0]['params'])}: {failed[0]['reason']}"
        if not complete:
            raise ModelError(f"Each trial of {type(self).__name__} failed; the first, {first}") from errors[0]
        log.warning("%d of %d trials failed; the first, %s", len(failed), self.n_trials, first)

    def _report(self, trial: optuna.Trial, about: Trial, step: int, loss: float) -> None:
        """Report the loss on the valid segment after a round, and stop the trial if it is worse than others."""
        about["rounds"].append(loss)
        trial.report(loss if _METRICS[self.metric] == "minimize" else -loss, step)
        if trial.should_prune():
            raise _library().TrialPruned

    def _evaluate(self, model: Model, dataset: DatasetH, reweighter: Reweighter | None) -> float:
        """Return the metric of a model on the rows of the valid segment that have a weight."""
        label = dataset.prepare_rows("valid", col_set="label", data_key=DataHandlerLP.DK_R)
        prediction = model.predict(dataset, "valid")
        if not isinstance(prediction, pd.Series) or label.shape[1] != 1:
            raise ModelError("TunedModel needs one label and a model that predicts one value for each row.")
        both = pd.DataFrame({"score": prediction, "label": label.iloc[:, 0]}).astype(np.float64)
        both = both.loc[np.isfinite(both.to_numpy()).all(axis=1)]
        if reweighter is not None:
            samples = training_samples(OwnDays(dataset), "valid", model=type(self).__name__, reweighter=reweighter)
            assert samples.weight is not None
            both = both.loc[both.index.isin(samples.features.index[samples.weight > 0])]
        value = _metric(both, self.metric)
        if not math.isfinite(value):
            raise ModelError(
                f"the metric {self.metric} of the 'valid' segment is {value:g}: predictions or labels are missing or constant."
            )
        return value

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series | pd.DataFrame:
        """Return what the best model predicts for a segment.

        Raises
        ------
        ModelError
            If it is not fitted yet.
        """
        if self.model is None:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        return self.model.predict(dataset, segment)

    def training_metrics(self) -> dict[str, list[float]]:
        """Return the metric of each complete trial, and the metrics of the best model by round."""
        own: dict[str, list[float]] = getattr(self.model, "training_metrics", dict)()
        return {
            f"{self.metric} of trials.valid": [one["value"] for one in self.trials if one["value"] is not None],
            **own,
        }

    def saved_objects(self) -> dict[str, pd.DataFrame]:
        """Return what is saved with the run in addition to the model: the trials as a table."""
        rows = [{"state": one["state"], self.metric: one["value"], **one["params"]} for one in self.trials]
        if any(one["state"] == "failed" for one in self.trials):
            rows = [{**row, "reason": one["reason"]} for row, one in zip(rows, self.trials, strict=True)]
        index = pd.Index([one["number"] for one in self.trials], name="trial")
        return {"trials.pkl": pd.DataFrame(rows, index=index)}

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each feature for the best model, in descending order.

        Raises
        ------
        ModelError
            If it is not fitted yet, or the model has no importance of features.
        """
        if self.model is None:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        method = getattr(self.model, "get_feature_importance", None)
        if method is None:
            raise ModelError(f"{type(self.model).__name__} has no importance of features.")
        found: pd.Series = method(*args, **kwargs)
        return found

    def study(self) -> optuna.Study:
        """Return the trials as an Optuna study, for its plots and analyses."""
        library = _library()
        study: optuna.Study = library.create_study(direction=_METRICS[self.metric])
        for one in self.trials:
            losses = one["rounds"] if _METRICS[self.metric] == "minimize" else [-loss for loss in one["rounds"]]
            study.add_trial(
                library.trial.create_trial(
                    state=_state(one),
                    value=one["value"],
                    params=one["params"],
                    distributions={name: _distribution(values) for name, values in self.space.items()},
                    intermediate_values=dict(enumerate(losses)),
                )
            )
        return study

    # -- files: the best model in its own format -----------------------------------------------------------------------

    def save_to(self, folder: Path) -> None:
        """Save the model to a folder."""
        artifact.save(LocalFiles(folder), "about", {n: v for n, v in vars(self).items() if n != "model"})
        if self.model is not None:
            artifact.save(LocalFiles(folder), "model.pkl", self.model)

    @classmethod
    def load_from(cls, folder: Path) -> TunedModel:
        """Load a model saved by :meth:`save_to`.

        Raises
        ------
        ArtifactUnreadable
            If a file is damaged, or the best model may not be loaded.
        """
        made = cls.__new__(cls)
        about = artifact.load_part(folder, "about")
        vars(made).update({str(name): value for name, value in dict(about).items()}, model=None)
        if artifact.find(LocalFiles(folder), "model.pkl") is not None:
            made.model = artifact.load_part(folder, "model.pkl")
        return made


def _checked_range(name: str, values: object) -> Choices:
    """Return a list of values or a range, checked."""
    path = f"space.{name}"
    if isinstance(values, (list, tuple)):
        if not values or not all(isinstance(v, (bool, int, float, str, type(None))) for v in values):
            raise ConfigError(f"must list numbers or strings, found {shown(values)}.", path=path)
        return list(values)
    if not isinstance(values, Mapping) or not {"low", "high"} <= set(values) <= _RANGE:
        raise ConfigError(
            f"must be a list of values, or a range {{low, high}} with 'step' or 'log: true'; found {shown(values)}.",
            path=path,
        )
    settings = dict(values)
    for key in _RANGE - {"log"}:
        one = settings.get(key, 1)
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one):
            raise ConfigError(f"must be a finite number, found {shown(one)}.", path=f"{path}.{key}")
    check_flag("log", settings.get("log", False))
    if (
        settings["low"] > settings["high"]
        or settings.get("step", 1) <= 0
        or (settings.get("log") and settings["low"] <= 0)
    ):
        raise ConfigError(
            f"low must not be above high, step must be positive, and with a logarithmic scale low must be; "
            f"found {shown(settings)}.",
            path=path,
        )
    if settings.get("log") and "step" in settings:
        raise ConfigError("has either a step or a logarithmic scale.", path=path)
    return settings


def _is_whole(values: Document) -> bool:
    return all(isinstance(values[key], int) for key in ("low", "high", "step") if key in values)


def _first(values: Choices) -> object:
    return values["low"] if isinstance(values, dict) else values[0]


def _suggest(trial: optuna.Trial, name: str, values: Choices) -> object:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    suggest = trial.suggest_int if _is_whole(values) else trial.suggest_float
    return suggest(name, values["low"], values["high"], **{k: values[k] for k in ("step", "log") if k in values})


def _distribution(values: Choices) -> optuna.distributions.BaseDistribution:
    distributions = _library().distributions
    if isinstance(values, list):
        made: optuna.distributions.BaseDistribution = distributions.CategoricalDistribution(values)
        return made
    kind = distributions.IntDistribution if _is_whole(values) else distributions.FloatDistribution
    made = kind(**values)
    return made


def _state(about: Trial) -> optuna.trial.TrialState:
    """Return the state of a trial as Optuna's."""
    name = "FAIL" if about["state"] == "failed" else about["state"].upper()
    found: optuna.trial.TrialState = _library().trial.TrialState[name]
    return found


def _metric(both: pd.DataFrame, metric: str) -> float:
    """Return the metric of the columns "score" and "label"."""
    if metric == "mse":
        return float(((both["score"] - both["label"]) ** 2).mean())
    days = both.groupby(level="datetime")
    values = days.rank() if metric == "rank_ic" else both
    centred = values - values.groupby(level="datetime").transform("mean")
    products = pd.DataFrame(
        {"xy": centred["score"] * centred["label"], "xx": centred["score"] ** 2, "yy": centred["label"] ** 2}
    )
    sums = products.groupby(level="datetime").sum()
    size = (sums["xx"] * sums["yy"]) ** 0.5
    return float((sums["xy"] / size.where(size > 0)).mean())
