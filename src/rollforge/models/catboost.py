"""Gradient boosting with CatBoost."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from rollforge.arguments import whole_number
from rollforge.errors import MissingDependency, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.models.base import Reweighter
from rollforge.models.boosting import Boosting, Curves
from rollforge.models.catboost_file import check_model
from rollforge.models.parameters import check_values, library_error, unusable_data
from rollforge.models.samples import prediction_features, training_samples
from rollforge.session import current_session

__all__ = ["CatBoostModel"]

log = logging.getLogger(__name__)

LIBRARY = "catboost"
"""The package that the model needs, which is also an extra of Rollforge. Submissions record its version."""

_ROUNDS = ("iterations", "num_boost_round", "n_estimators", "num_trees")
"""CatBoost's names for the number of rounds."""
_SOURCE = re.compile(r"^\S+\.(?:cpp|h):\d+: ")
"""The location in CatBoost's source at the beginning of its messages."""
_SEGMENTS = {"learn": "train", "validation": "valid"}


def _library() -> ModuleType:
    try:
        import catboost
    except ImportError as exc:
        raise MissingDependency("CatBoostModel needs catboost. Install it: pip install 'rollforge[catboost]'") from exc
    library: ModuleType = catboost
    return library


class _Log:
    """Receives CatBoost's output."""

    def write(self, text: str) -> None:
        if text.strip():
            log.info("%s", text.rstrip())


class _Round(Protocol):
    """The argument of CatBoost's callbacks."""

    iteration: int
    metrics: Curves | None


class _Watch:
    """Callback of CatBoost that reports the loss on the valid segment after each round."""

    def __init__(self, report: Callable[[int, float], None] | None) -> None:
        self.report = report
        self.raised: Exception | None = None

    def after_iteration(self, info: _Round) -> bool:
        metrics = (info.metrics or {}).get("validation")
        if metrics and self.report is not None:
            try:
                self.report(info.iteration, next(iter(metrics.values()))[-1])
            except Exception as exc:  # noqa: BLE001 - CatBoost would replace it by an error of its own; raised after it stopped
                self.raised = exc
                return False
        return True


class CatBoostModel(Boosting):
    """CatBoost with early stopping on the valid segment, if there is one.

    Parameters
    ----------
    loss : {"RMSE", "Logloss"}
        The loss function.
    **kwargs
        CatBoost's own parameters. `thread_count` is capped to the threads of the session. Unless `task_type` is given, a GPU
        is used if there is one. On a CPU, which does not support it, ``bootstrap_type: Poisson`` becomes ``Bernoulli``.

    Raises
    ------
    ModelError
        If the loss is another one.
    ConfigError
        If a parameter has the wrong type.

    Examples
    --------
    >>> CatBoostModel(max_depth=4).params
    {'loss_function': 'RMSE', 'max_depth': 4}
    """

    THREAD_NAMES: ClassVar[tuple[str, ...]] = ("thread_count",)

    def __init__(self, loss: str = "RMSE", **kwargs: object) -> None:
        if loss not in ("RMSE", "Logloss"):
            raise ModelError(f"CatBoostModel's loss must be 'RMSE' or 'Logloss', found {loss!r}.")
        check_values(kwargs, names=("loss_function", "bootstrap_type", "grow_policy", "task_type"))
        super().__init__({"loss_function": loss, **kwargs})

    def _parameters(self, rounds: int | None, early_stopping_rounds: int | None) -> dict[str, object]:
        params, threads = self._parameters_and_threads()
        named = [params.pop(name) for name in _ROUNDS if name in params]
        chosen = rounds if rounds is not None else (named[0] if named else 1000)
        whole_number(chosen, "num_boost_round")
        from catboost.utils import get_gpu_device_count

        gpus = get_gpu_device_count() > 0
        params = {"task_type": "GPU" if gpus else "CPU", "allow_writing_files": False, **params}
        if params["task_type"] == "CPU" and params.get("bootstrap_type") == "Poisson":
            log.warning("CatBoost has bootstrap_type 'Poisson' only on GPUs; on this CPU 'Bernoulli' is used")
            params["bootstrap_type"] = "Bernoulli"
        for name in ("verbose", "verbose_eval", "silent", "logging_level"):
            params.pop(name, None)
        stop = {} if early_stopping_rounds is None else {"early_stopping_rounds": early_stopping_rounds}
        return {**stop, **params, "iterations": chosen, "thread_count": threads, "logging_level": "Silent"}

    def _data(self, dataset: DatasetH, segment: str, reweighter: Reweighter | None) -> object:
        samples = training_samples(dataset, segment, model=type(self).__name__, reweighter=reweighter)
        library = _library()
        try:
            return library.Pool(
                samples.features.to_numpy(), label=samples.label, weight=samples.weight,
                feature_names=list(map(str, samples.features.columns)), thread_count=current_session().threads,
            )  # fmt: skip
        except (library.CatBoostError, ValueError, TypeError) as exc:
            reason = _SOURCE.sub("", str(exc))
            raise unusable_data(type(self).__name__, "CatBoost", reason, samples.features) from exc

    def fit(
        self,
        dataset: DatasetH,
        num_boost_round: int | None = None,
        early_stopping_rounds: int | None = 50,
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
        num_boost_round : int, optional
            Maximum number of rounds; by default `iterations` of the constructor, or else 1000.
        early_stopping_rounds : int, optional
            Number of rounds without improvement before training stops.
        verbose_eval : int
            Ignored: the metrics of each round are stored, not printed.
        evals_result : dict, optional
            Filled with the metric of each round: ``{"train": […], "valid": […]}``.
        reweighter : Reweighter, optional
            Weights of the samples.
        callbacks : sequence, optional
            CatBoost's own callbacks.
        **kwargs
            Further arguments of ``catboost.CatBoost.fit``.

        Raises
        ------
        ModelError
            If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if
            CatBoost rejects the parameters, or the training diverges.
        """
        library = _library()
        train = self._data(dataset, "train", reweighter)
        valid = self._data(dataset, "valid", reweighter) if "valid" in dataset.segments else None
        params = self._parameters(num_boost_round, early_stopping_rounds if valid is not None else None)
        watch = _Watch(self.on_round)
        if self.on_round is not None and params["task_type"] == "CPU":  # CatBoost has no callbacks on GPUs
            callbacks = [*(callbacks or []), watch]
        if callbacks is not None:
            kwargs["callbacks"] = callbacks
        output = {"log_cout": _Log(), "log_cerr": _Log()}
        began = time.perf_counter()
        try:
            model = library.CatBoost(params)
            model.fit(
                train, eval_set=valid, **({"use_best_model": True} if valid is not None else {}), **output, **kwargs
            )
        except (library.CatBoostError, ValueError, TypeError) as exc:
            raise library_error(type(self).__name__, "CatBoost", _SOURCE.sub("", str(exc)), self.params) from exc
        if watch.raised is not None:
            raise watch.raised
        if not np.isfinite(model.get_leaf_values()).all():
            raise library_error(type(self).__name__, "CatBoost", "the training diverged", self.params)
        self.model = model
        self.fit_seconds = time.perf_counter() - began
        results = {_SEGMENTS.get(name, name): metrics for name, metrics in model.get_evals_result().items()}
        self._set_curves(results, evals_result)

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument), using the trees up to the best round."""
        model = self._fitted()
        fitted = model.feature_names_
        if any(name == str(place) for place, name in enumerate(fitted)):
            fitted = ()  # some are CatBoost's own: it numbers features without a name
        features = prediction_features(dataset, segment, model=type(self).__name__, fitted=fitted)
        scores = model.predict(features.to_numpy(), thread_count=current_session().threads)
        if scores.ndim != 1:
            raise ModelError(
                f"{type(self).__name__} predicts {scores.shape[1]} values for each row; choose another loss."
            )
        return pd.Series(scores, index=features.index)

    def get_feature_importance(self, *args: object, **kwargs: object) -> pd.Series:
        """Return the importance of each feature in descending order."""
        model = self._fitted()
        kwargs = {"thread_count": current_session().threads, **kwargs}
        found = pd.Series(model.get_feature_importance(*args, **kwargs), index=model.feature_names_)
        return found.sort_values(ascending=False)

    # -- files: CatBoost's own format, which other programs can read ---------------------------------------------------

    def save_to(self, folder: Path) -> None:
        """Save the model to a folder."""
        about = {"params": self.params, "fit_seconds": self.fit_seconds, "curves": self._curves}
        (folder / "about.json").write_text(json.dumps(about))
        if self.model is not None:
            self.model.save_model(folder / "model.json", format="json")
            scale, bias = self.model.get_scale_and_bias()
            found = check_model((folder / "model.json").read_bytes())
            document = {**json.loads(found.text), "scale_and_bias": [scale, [bias]]}  # the file has fewer digits
            (folder / "model.json").write_text(json.dumps(document, separators=(",", ":")))

    @classmethod
    def load_from(cls, folder: Path) -> CatBoostModel:
        """Load a model saved by :meth:`save_to`.

        Raises
        ------
        ValueError
            If the file of the model is not a consistent CatBoost model.
        """
        about = json.loads((folder / "about.json").read_text())
        params = dict(about["params"])
        made = cls(
            params.pop("loss_function", "RMSE") if params.get("loss_function") in ("RMSE", "Logloss") else "RMSE",
            **params,
        )
        made.fit_seconds, made._curves = about["fit_seconds"], about["curves"]
        if (folder / "model.json").exists():
            made.model = _loaded((folder / "model.json").read_bytes())
        return made


def _loaded(data: bytes) -> Any:
    """Return the model in a file, equal to the last bit."""
    found = check_model(data)
    with tempfile.TemporaryDirectory(prefix="rollforge-") as folder:
        file = Path(folder) / "model.json"
        file.write_text(found.text)
        model = _library().CatBoost().load_model(str(file), format="json")
    model.set_leaf_values(found.leaf_values)
    model.set_scale_and_bias(found.scale, found.bias)
    return model
