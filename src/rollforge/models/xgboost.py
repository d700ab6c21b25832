"""Gradient boosting with XGBoost."""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pandas as pd

from rollforge.errors import MissingDependency, nearest
from rollforge.features.dataset import DatasetH
from rollforge.models.base import Reweighter
from rollforge.models.boosting import Boosting, Curves
from rollforge.models.parameters import check_values, library_error, unusable_data
from rollforge.models.samples import prediction_features, training_samples
from rollforge.models.xgboost_file import check_model_bytes
from rollforge.session import current_session

__all__ = ["XGBModel"]

log = logging.getLogger(__name__)

LIBRARY = "xgboost"
"""The package that the model needs, which is also an extra of Rollforge. Submissions record its version."""


def _library() -> ModuleType:
    try:
        import xgboost
    except ImportError as exc:
        raise MissingDependency("XGBModel needs xgboost. Install it: pip install 'rollforge[xgboost]'") from exc
    return xgboost


def _reason(exc: Exception) -> str:
    """Return the first line of an XGBoost error, without the time and the source location."""
    lines = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+: ", "", str(exc)).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


_HIGHER_IS_BETTER = ("auc", "map", "ndcg", "pre")
"""Beginnings of the names of metrics that are not losses."""


def _after_round(report: Callable[[int, float], None]) -> object:
    """Return a callback of XGBoost that reports the loss on the valid segment, by the metric that also stops training."""

    class AfterRound(_library().callback.TrainingCallback):  # type: ignore[misc]  # the library has no types
        def after_iteration(self, model: object, epoch: int, evals_log: Curves) -> bool:
            for name, values in list(evals_log.get("valid", {}).items())[-1:]:
                report(epoch, -values[-1] if name.startswith(_HIGHER_IS_BETTER) else values[-1])
            return False

    return AfterRound()


class XGBModel(Boosting):
    """XGBoost with early stopping on the valid segment, if there is one.

    Parameters
    ----------
    **kwargs
        XGBoost's own parameters. ``nthread`` is capped to the threads of the session.

    Raises
    ------
    ConfigError
        If a parameter has the wrong type.

    Examples
    --------
    >>> XGBModel(max_depth=4).params
    {'max_depth': 4}
    """

    THREAD_NAMES: ClassVar[tuple[str, ...]] = ("nthread", "n_jobs")

    def __init__(self, **kwargs: object) -> None:
        check_values(
            kwargs, names=("objective", "booster"), mappings=("monotone_constraints", "interaction_constraints")
        )
        super().__init__(kwargs)
        self._full_names: dict[str, str] = {}
        """XGBoost's name of a feature -> its own, if they differ."""

    def _parameters(self) -> dict[str, object]:
        params, threads = self._parameters_and_threads()
        return {"verbosity": 0, **params, "nthread": threads}

    def unused_parameters(self) -> dict[str, str]:
        """Return the parameters that XGBoost ignores, with the nearest name as a sentence.

        XGBoost lists them in a warning when it trains, here on a single row.
        """
        library = _library()
        with warnings.catch_warnings(record=True) as caught, library.config_context(verbosity=1):
            warnings.simplefilter("always")
            try:
                row = library.DMatrix(np.zeros((1, 1)), label=np.zeros(1), nthread=1)
                made = library.train({**self.params, "verbosity": 1, "nthread": 1}, row, num_boost_round=1)
            except (library.core.XGBoostError, ValueError):
                return {}  # such as constraints of several features; the training reports what is wrong
        lists = [re.search(r"Parameters: \{(.*?)\} are not used", str(one.message)) for one in caught]
        found = [name for one in lists if one is not None for name in re.findall(r'"(\w+)"', one[1])]
        known = set(re.findall(r'"(\w+)":', made.save_config()))
        return {name: nearest(name, known) for name in found if name in self.params}

    def _data(self, dataset: DatasetH, segment: str, reweighter: Reweighter | None) -> object:
        samples = training_samples(dataset, segment, model=type(self).__name__, reweighter=reweighter)
        names = zip(_names(samples.features), map(str, samples.features.columns), strict=True)
        self._full_names = {short: full for short, full in names if short != full}
        return self._matrix(samples.features, label=samples.label, weight=samples.weight)

    def _matrix(self, features: pd.DataFrame, **of_rows: object) -> object:
        """Return XGBoost's data set."""
        threads = current_session().threads
        try:
            return _library().DMatrix(features.to_numpy(), feature_names=_names(features), nthread=threads, **of_rows)
        except (_library().core.XGBoostError, ValueError) as exc:
            raise unusable_data(type(self).__name__, "XGBoost", _reason(exc), features) from exc

    def fit(
        self,
        dataset: DatasetH,
        num_boost_round: int = 1000,
        early_stopping_rounds: int = 50,
        verbose_eval: int = 20,
        evals_result: dict[str, list[float]] | None = None,
        reweighter: Reweighter | None = None,
        callbacks: Sequence[object] | None = None,
        **kwargs: object,
    ) -> None:
        """Fit on the train segment, with early stopping on the valid segment if there is one.

        Parameters
        ----------
        dataset : DatasetH
            Dataset with a train segment.
        num_boost_round, early_stopping_rounds : int
            Maximum number of rounds, and number of rounds without improvement before training stops.
        verbose_eval : int
            Ignored: the metrics of each round are stored, not printed.
        evals_result : dict, optional
            Filled with the metric of each round: ``{"train": […], "valid": […]}``.
        reweighter : Reweighter, optional
            Weights of the samples.
        callbacks : sequence, optional
            XGBoost's own callbacks.
        **kwargs
            Further arguments of ``xgboost.train``.

        Raises
        ------
        ModelError
            If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if
            XGBoost rejects the parameters.
        """
        self._warn_of_unused()
        evals = [(self._data(dataset, "train", reweighter), "train")]
        if "valid" in dataset.segments:
            evals.append((self._data(dataset, "valid", reweighter), "valid"))
        results: Curves = {}
        callbacks = list(callbacks or [])
        if verbose_eval:
            monitor = _library().callback.EvaluationMonitor
            callbacks.append(monitor(period=int(verbose_eval), logger=lambda text: log.info("%s", text.rstrip())))
        if self.on_round is not None:
            callbacks.append(_after_round(self.on_round))
        began = time.perf_counter()
        try:
            self.model = _library().train(
                self._parameters(), evals[0][0], num_boost_round=num_boost_round, evals=evals, verbose_eval=False,
                early_stopping_rounds=early_stopping_rounds if len(evals) > 1 else None, evals_result=results,
                callbacks=callbacks, **kwargs,
            )  # fmt: skip
        except (_library().core.XGBoostError, ValueError, AttributeError) as exc:
            raise library_error(type(self).__name__, "XGBoost", _reason(exc), self.params) from exc
        self.fit_seconds = time.perf_counter() - began
        self._set_curves(results, evals_result)

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument), using the trees up to the best round."""
        model = self._fitted()
        fitted = [self._full_names.get(name, name) for name in model.feature_names or ()]
        features = prediction_features(dataset, segment, model=type(self).__name__, fitted=fitted)
        threads = current_session().threads
        matrix = self._matrix(features)
        model.set_param({"nthread": threads})  # a model that was loaded would use all cores
        best = getattr(model, "best_iteration", None) if model.attr("best_iteration") else None
        scores = model.predict(matrix, iteration_range=(0, best + 1) if best is not None else (0, 0))
        return pd.Series(scores, index=features.index)

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each used feature in descending order."""
        found = pd.Series(self._fitted().get_score(*args, **kwargs)).sort_values(ascending=False)
        return found.rename(index=self._full_names)

    # -- files: XGBoost's own format, which other programs can read ----------------------------------------------------

    def save_to(self, folder: Path) -> None:
        """Save the model to a folder."""
        about = {"params": self.params, "fit_seconds": self.fit_seconds, "curves": self._curves}
        about["full_names"] = self._full_names
        (folder / "about.json").write_text(json.dumps(about))
        if self.model is not None:
            self.model.save_model(folder / "model.ubj")

    @classmethod
    def load_from(cls, folder: Path) -> XGBModel:
        """Load a model saved by :meth:`save_to`.

        Raises
        ------
        ValueError
            If the file of the model is not a consistent XGBoost model.
        """
        about = json.loads((folder / "about.json").read_text())
        made = cls(**about["params"])
        made.fit_seconds, made._curves = about["fit_seconds"], about["curves"]
        names = dict(about.get("full_names", {}))  # earlier versions did not save them
        made._full_names = {str(short): str(full) for short, full in names.items()}
        if (folder / "model.ubj").exists():
            data = (folder / "model.ubj").read_bytes()
            check_model_bytes(data)
            made.model = _library().Booster()
            made.model.load_model(bytearray(data))
        return made


def _names(features: pd.DataFrame) -> list[str]:
    # XGBoost rejects these characters.
    return [str(c).translate(str.maketrans("[]<", "()(")) for c in features.columns]
