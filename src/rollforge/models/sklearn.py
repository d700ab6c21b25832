"""Estimators with scikit-learn's interface."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import logging
import re
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import safe_pickle, trust
from rollforge.build import build, constructor_arguments, describe
from rollforge.code_marks import code_mark, is_own_code
from rollforge.errors import (
    CodeNotAllowed,
    ConfigError,
    MissingDependency,
    ModelError,
    RollforgeError,
    TaskNotSerializable,
    counted,
    shown,
)
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import Model, Reweighter, given_arguments
from rollforge.models.classes import class_numbers, fitted_labels
from rollforge.models.samples import Samples, prediction_features, training_samples
from rollforge.session import current_session
from rollforge.task import Definition, encode

__all__ = ["SklearnModel", "describe_estimator"]

log = logging.getLogger(__name__)

LIBRARY = "sklearn"

_BOOSTING = ("lightgbm", "xgboost", "catboost")
"""Packages whose estimators use all cores if `n_jobs` is not given, and to which the order in memory does not matter."""

_OWN_COPY = {"BaseGradientBoosting", "BaseHistGradientBoosting"}
_TREES = {"BaseDecisionTree", "BaseForest"}
"""Base classes of scikit-learn's estimators that only compare values, so the order in memory does not matter to them either.
The first ones make an array of their own; the others read the values where they are."""

_REQUEST = re.compile(r"set_[a-z_]+_request")
"""Methods of scikit-learn's metadata routing, which a description can have as keys."""


@runtime_checkable
class HasParameters(Protocol):
    """An object with scikit-learn's ``get_params``."""

    def get_params(self, deep: bool = True) -> dict[str, object]: ...


class Estimator(HasParameters, Protocol):
    """An estimator with scikit-learn's interface."""

    def fit(self, x: object, y: object, /, **arguments: object) -> object: ...

    def predict(self, x: object, /) -> object: ...

    def set_params(self, **params: object) -> Estimator: ...


class SklearnModel(Model):
    """Any regressor, classifier or pipeline with scikit-learn's interface.

    The estimator is fitted on the train segment's features, as a frame with column names, and on its labels in their
    original precision. A binary classifier predicts the probability of the larger class. A classifier of more classes
    predicts a frame: ``score``, the mean of the classes' numbers weighted by their probabilities, and the probability of each
    class. Other estimators predict values, one column for each label. If the estimator stops early
    (``early_stopping_rounds``), it is given the valid segment as ``eval_set``. A ranker, such as LightGBM's, is given the rows
    of a day as one query.

    Weights (``sample_weight``) are passed to the last step of a pipeline, and to the estimators of a search or an ensemble. If
    parts of the estimator request them, with ``set_fit_request(sample_weight=True)`` of scikit-learn's metadata routing, these
    parts receive them instead.

    Trees and boosting are fitted on the rows of the panel without copying them, if scikit-learn can read them there (version
    1.6, and for trees no missing value). Other estimators are fitted on a copy in the memory order of a frame's columns.

    Parameters
    ----------
    estimator : estimator or description
        An unfitted estimator, of which a copy is fitted; or ``{class, module_path, kwargs}``, as :func:`describe_estimator`
        returns it. A description can have requests as further keys: ``set_fit_request: {sample_weight: true}``.
    weight_group : str, optional
        The group of columns of the dataset whose single column holds the weights of the rows (``sample_weight``).
    classes : sequence of numbers or text, optional
        The classes of a classifier, ascending, if a train segment may lack some of them: these are predicted with
        probability 0. By default those of the train segment. If they are text, the labels in the data are their positions in
        this list, and the estimator is fitted on the text.

    Raises
    ------
    ConfigError
        If the estimator cannot be built, or has no ``fit`` and ``predict``.

    Examples
    --------
    >>> SklearnModel({"class": "Ridge", "module_path": "sklearn.linear_model", "kwargs": {"alpha": 2.0}}).estimator
    Ridge(alpha=2.0)
    """

    def __init__(
        self, estimator: object, weight_group: str | None = None, classes: Sequence[float | str] | None = None
    ) -> None:
        _library()  # also what other packages' estimators need
        built = _build(estimator)
        for method in ("fit", "predict", "get_params"):
            if isinstance(built, type) or not _offers(built, method):
                raise ConfigError(
                    f"must be an estimator with fit(), predict() and get_params(), found a {type(built).__name__}.",
                    path="estimator",
                )
        self.estimator: Estimator = built
        self.weight_group = weight_group
        self.classes = None if classes is None else _checked_classes(classes)
        self.labels: list[str] = []
        """The names of the labels on which it was fitted."""
        self.present: list[Any] = []
        """The classes of the train segment, in the order of the estimator's probabilities."""

    def fit(self, dataset: DatasetH, reweighter: Reweighter | None = None) -> None:
        """Fit on the rows of the train segment that have a label.

        Raises
        ------
        ModelError
            If the estimator fails, the data are not suitable for training
            (:func:`~rollforge.models.samples.training_samples`), or a classifier has only one class.
        """
        samples, weight = self._samples(dataset, "train", reweighter)
        self.labels = list(samples.label_names)
        estimator = self._limited(_copy(self.estimator))
        if is_classifier(estimator):
            samples = self._with_classes(samples)
            self._check_present(samples, estimator)
            if len(self.present) == 1:
                return
        routed = weight is not None and _requests_weights(estimator)
        arguments: dict[str, object] = {} if weight is None else {_of_weights(estimator, routed): weight}
        if is_ranker(estimator):
            arguments |= _queries(estimator, samples.features)
        if "valid" in dataset.segments and _stops_early(estimator):
            arguments |= self._validated(estimator, dataset)
        try:
            with _limits(), _routing() if routed else contextlib.nullcontext():
                estimator.fit(_by_column(samples.features, estimator), self._target(samples, estimator), **arguments)
        except Exception as exc:
            several = f" on the labels {', '.join(self.labels)}" if len(self.labels) > 1 else ""
            raise ModelError(
                f"{_name(estimator)} cannot be fitted{several}{_missing(samples.features)}: {describe(exc)}"
            ) from exc
        if is_classifier(estimator) and not _numbers_classes(estimator):
            self.present = list(getattr(estimator, "classes_", self.present))  # a user's class may lack the attribute
        self.estimator = estimator

    def _validated(self, estimator: Estimator, dataset: DatasetH) -> dict[str, object]:
        """Return the arguments of ``fit`` with the valid segment."""
        valid, _ = self._samples(dataset, "valid", None)
        accepted = _fit_arguments(estimator)
        if is_classifier(estimator):
            valid = self._of_present(self._with_classes(valid), estimator)
        # LightGBM from version 4.7 on, whose classifier numbers the classes of an eval_set only.
        if "eval_X" in accepted and not (is_classifier(estimator) and "eval_set" in accepted):
            found: dict[str, object] = {"eval_X": valid.features, "eval_y": self._target(valid, estimator)}
        elif _identifies_queries(estimator):
            found = {"eval_set": _pool(valid)}
        else:
            found = {"eval_set": [(valid.features, self._target(valid, estimator))]}
        if is_ranker(estimator) and not _identifies_queries(estimator):
            found["eval_group"] = [_day_sizes(valid.features)]
        return found

    def predict(self, dataset: DatasetH, segment: str | slice = "test") -> pd.Series | pd.DataFrame:
        """Return the scores of a segment, index (datetime, instrument); a frame if there are several labels.

        Raises
        ------
        ModelError
            If the estimator is not fitted, or fails.
        """
        if not self.labels:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        if not hasattr(self, "present"):  # saved by version 0.1.0
            self.present = list(getattr(self.estimator, "classes_", (0, 1)))
        features = prediction_features(dataset, segment, model=_name(self.estimator))
        if len(self.present) == 1:
            return self._of_classes(np.ones((len(features), 1)), features.index)
        features = _by_column(features, self.estimator)
        try:
            with _limits():
                classifies = is_classifier(self.estimator)
                predicted = np.asarray(getattr(self.estimator, "predict_proba" if classifies else "predict")(features))
        except Exception as exc:
            raise ModelError(
                f"{_name(self.estimator)} cannot predict {shown(segment)}{_missing(features)}: {describe(exc)}"
            ) from exc
        if classifies:
            return self._of_classes(predicted, features.index)
        if predicted.shape == (len(features), len(self.labels)) and len(self.labels) > 1:
            return pd.DataFrame(predicted, index=features.index, columns=self.labels)
        if predicted.size != len(features):
            raise ModelError(
                f"{_name(self.estimator)} predicts values of shape {predicted.shape} for {counted(len(features), 'row')} and "
                f"{counted(len(self.labels), 'label')}. It must predict one value for each row and label."
            )
        return pd.Series(predicted.reshape(-1), index=features.index)

    def _of_classes(self, probability: NDArray[np.float64], index: pd.Index) -> pd.Series | pd.DataFrame:
        """Return the prediction of a classifier."""
        classes = self.present if self.classes is None else self.classes
        found = probability
        if self.present != classes:
            found = np.zeros((len(index), len(classes)), probability.dtype)
            found[:, [classes.index(one) for one in self.present]] = probability
        if len(classes) == 2:
            return pd.Series(found[:, 1], index=index)
        found = found.astype(np.float64, copy=False)
        made = pd.DataFrame(found, index, [f"class {one}" for one in classes])
        made.insert(0, "score", found @ class_numbers(classes))
        return made

    def _with_classes(self, samples: Samples) -> Samples:
        """Return samples whose labels are the classes on which the estimator is fitted.

        Raises
        ------
        ModelError
            If there is a class that is not among :attr:`classes`.
        """
        if self.classes is None or samples.label.shape[1] != 1:
            return samples
        numbers = class_numbers(self.classes)
        others = np.setdiff1d(samples.label, numbers)
        if len(others):
            raise ModelError(
                f"{_name(self.estimator)} has the class {shown(others[0])}, which is not among {shown(self.classes)}."
            )
        return replace(samples, label=fitted_labels(samples.label, self.classes))

    def _check_present(self, samples: Samples, estimator: Estimator) -> None:
        """Set the classes of the train segment. If there is only one, which many estimators do not accept, nothing is fitted."""
        self.present = np.unique(samples.label).tolist()
        if len(self.present) == 1 and self.classes is None:
            raise ModelError(
                f"{_name(estimator)} is a classifier, and all labels of the train segment are of one class: "
                f"{shown(self.present)}."
            )
        if len(self.present) == 1:
            log.warning(
                "%s: every label of the train segment is of the class %s, which is predicted with probability 1",
                _name(estimator), shown(self.present[0]),
            )  # fmt: skip

    def _of_present(self, valid: Samples, estimator: Estimator) -> Samples:
        """Return the rows of the valid segment with a class of the train segment: an estimator cannot score others."""
        kept = np.isin(valid.label[:, 0], np.array(self.present, valid.label.dtype))
        if kept.all():
            return valid
        if not kept.any():
            raise ModelError(
                f"{_name(estimator)} stops early by the 'valid' segment, whose labels are all of classes that the 'train' "
                f"segment lacks. It has: {shown(self.present)}."
            )
        log.warning(
            "%s: %s of the 'valid' segment are left out, because the 'train' segment lacks their classes",
            _name(estimator), counted(int((~kept).sum()), "row"),
        )  # fmt: skip
        return replace(valid, features=valid.features[kept], label=valid.label[kept])

    def _target(self, samples: Samples, estimator: object) -> NDArray[np.generic]:
        """Return what an estimator is fitted on: (rows,) for one label, otherwise (rows, labels)."""
        if self.present and _numbers_classes(estimator):
            if samples.label.shape[1] > 1:
                raise ModelError(
                    f"{_name(estimator)} predicts one label, found {counted(samples.label.shape[1], 'label')}."
                )
            return np.searchsorted(np.array(self.present, samples.label.dtype), samples.label[:, 0])
        return _target(samples)

    def _samples(
        self, dataset: DatasetH, segment: str, reweighter: Reweighter | None
    ) -> tuple[Samples, NDArray[np.float64] | None]:
        samples = training_samples(
            dataset, segment, model=_name(self.estimator), reweighter=reweighter, several_labels=True, exact_labels=True
        )
        if self.weight_group is None or reweighter is not None:
            return samples, samples.weight
        frame = dataset.prepare(segment, col_set=self.weight_group, data_key=DataHandlerLP.DK_L)
        weight = frame.iloc[:, 0].reindex(samples.features.index).to_numpy(np.float64)
        bad = ~((weight >= 0) & (weight < np.inf))
        if bad.any():
            row = int(np.argmax(bad))
            raise ModelError(
                f"The weights of the {segment!r} segment must be finite and not negative, but {int(bad.sum())} are not; the "
                f"first is {weight[row]:g} for {samples.features.index[row]}."
            )
        if not weight.any():
            raise ModelError(f"All weights of the {segment!r} segment are 0, so {_name(self.estimator)} cannot learn.")
        return samples, weight

    def _limited(self, estimator: Estimator) -> Estimator:
        """Return an estimator that uses at most the threads of the session."""
        threads = current_session().threads
        params = estimator.get_params(deep=True)
        changed = {
            f"{name}__thread_count".removeprefix("__"): threads  # CatBoost lists only parameters that are given
            for name, one in {"": estimator, **params}.items()
            if _package(one) == "catboost" and f"{name}__thread_count".removeprefix("__") not in params
        }
        for name, value in params.items():
            if name.rpartition("__")[2] not in ("n_jobs", "thread_count"):
                continue
            owner = _owner(estimator, name)
            everything = value is None and _package(owner) in _BOOSTING
            if everything or (isinstance(value, int) and (value < 1 or value > threads)):
                changed[name] = threads
        return estimator.set_params(**changed) if changed else estimator


def _owner(estimator: Estimator, parameter: str) -> object:
    """Return the estimator inside a pipeline to which a parameter such as ``step__n_jobs`` belongs."""
    inside, _, _ = parameter.rpartition("__")
    return estimator.get_params(deep=True).get(inside, estimator) if inside else estimator


def _checked_classes(classes: object) -> list[float | str]:
    """Return classes as a list.

    Raises
    ------
    ConfigError
        If they are not text, or ascending numbers.
    """
    given = classes.tolist() if isinstance(classes, np.ndarray) else classes
    found = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    text = bool(found) and all(isinstance(one, str) for one in found)
    numbers = bool(found) and all(isinstance(one, Real) for one in found)
    ascending = numbers and all(one < other for one, other in itertools.pairwise(found))
    if len(set(found)) != len(found) or not (text or ascending):
        raise ConfigError(f"must be a list of text, or of ascending numbers, found {shown(classes)}.", path="classes")
    return found


def _last_step(estimator: object) -> object:
    """Return the estimator at the end of a pipeline; the estimator itself if it is none."""
    steps = getattr(estimator, "steps", None)
    return _last_step(steps[-1][1]) if steps else estimator


def _fit_arguments(estimator: object) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that an estimator's ``fit`` names."""
    fit = getattr(estimator, "fit", None)
    return inspect.signature(fit).parameters if callable(fit) else {}


def _of_last_step(estimator: object, argument: str) -> str:
    """Return the name by which ``fit`` passes an argument to the last step of a pipeline."""
    steps = getattr(estimator, "steps", None)
    return f"{steps[-1][0]}__{_of_last_step(steps[-1][1], argument)}" if steps else argument


def _requests_weights(estimator: Estimator) -> bool:
    """Return whether a part of an estimator requests weights, with ``set_fit_request(sample_weight=True)``."""
    return any(
        stated.get("set_fit_request", {}).get("sample_weight") is True for stated in map(_requests, _parts(estimator))
    )


def _parts(estimator: Estimator) -> list[object]:
    """Return an estimator and all parameters of it and of the estimators inside it."""
    return [estimator, *estimator.get_params(deep=True).values()]


def _requests(estimator: object) -> dict[str, dict[str, object]]:
    """Return scikit-learn's metadata requests of an estimator, by the method that sets them."""
    stated = vars(getattr(estimator, "_metadata_request", None) or SimpleNamespace())
    found = {f"set_{name}_request": getattr(one, "requests", {}) for name, one in stated.items()}
    return {name: kept for name, of in found.items() if (kept := {k: v for k, v in of.items() if v is not None})}


def _of_weights(estimator: object, routed: bool) -> str:
    """Return the name by which ``fit`` receives the weights.

    If no part requests them, they are passed to the last step of a pipeline, and to the estimators of a search or an ensemble.

    Raises
    ------
    ModelError
        If the estimator that would receive them does not take weights.
    """
    if routed:
        return "sample_weight"
    steps = getattr(estimator, "steps", None)
    if steps:
        return f"{steps[-1][0]}__{_of_weights(steps[-1][1], routed)}"
    accepted = _fit_arguments(estimator)
    if "sample_weight" in accepted:
        return "sample_weight"
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values()):
        inside = getattr(estimator, "estimator", None) or getattr(estimator, "regressor", None)
        if inside is not None:  # a search passes all arguments of fit() on
            return _of_weights(inside, routed)
        several = [one for _, one in getattr(estimator, "estimators", ()) if one != "drop"]
        if several and {_of_weights(one, routed) for one in several} == {"sample_weight"}:
            return "sample_weight"
        if _wraps_least_squares(estimator):
            return "sample_weight"
    raise ModelError(
        f"{_name(estimator)} does not support weights: its fit() has no sample_weight. Where several estimators are combined, "
        "set_fit_request(sample_weight=True) of scikit-learn's metadata routing says which of them receive weights."
    )


def _wraps_least_squares(estimator: object) -> bool:
    """Return whether an estimator transforms the target of scikit-learn's ordinary regression, its default, which has weights."""
    from sklearn.compose import TransformedTargetRegressor

    return isinstance(estimator, TransformedTargetRegressor) and estimator.regressor is None


def _day_sizes(features: pd.DataFrame) -> NDArray[np.int64]:
    """Return the number of rows of each day."""
    return np.unique(features.index.get_level_values(0), return_counts=True)[1]


def _identifies_queries(estimator: object) -> bool:
    """Return whether a ranker, such as CatBoost's, is given the query of each row instead of the sizes of queries."""
    return "group_id" in _fit_arguments(_last_step(estimator))


def _queries(estimator: object, features: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Return the argument of ``fit`` that makes the rows of a day one query."""
    if _identifies_queries(estimator):
        return {_of_last_step(estimator, "group_id"): _day_numbers(features)}
    return {_of_last_step(estimator, "group"): _day_sizes(features)}


def _day_numbers(features: pd.DataFrame) -> NDArray[np.int64]:
    sizes = _day_sizes(features)
    return np.repeat(np.arange(len(sizes)), sizes)


def _pool(samples: Samples) -> object:
    """Return samples as CatBoost's own container, which alone can have the query of each row in an ``eval_set``."""
    from catboost import Pool

    return Pool(samples.features, _target(samples), group_id=_day_numbers(samples.features))


def _package(thing: object) -> str:
    """Return the top-level package of an object's class."""
    return type(thing).__module__.partition(".")[0]


def _numbers_classes(estimator: object) -> bool:
    """Return whether a classifier is or contains one, such as XGBoost's, that accepts only the classes 0, 1, … without a gap."""
    inside = estimator.get_params(deep=True).values() if isinstance(estimator, HasParameters) else ()
    return is_classifier(estimator) and any(_package(one) == "xgboost" for one in (estimator, *inside))


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Limit the threads of estimators without `n_jobs` to those of the session.

    Also suppress warnings of LightGBM about data that are part of a larger array, as is the case for a window, and about
    ``eval_set``.
    """
    from threadpoolctl import threadpool_limits  # installed with scikit-learn

    with warnings.catch_warnings(), threadpool_limits(current_session().threads):
        warnings.filterwarnings("ignore", "Usage of np.ndarray subset")
        warnings.filterwarnings("ignore", "The argument 'eval_set' is deprecated")
        yield


def _routing() -> contextlib.AbstractContextManager[None]:
    """Enable scikit-learn's metadata routing."""
    from sklearn import config_context

    context: contextlib.AbstractContextManager[None] = config_context(enable_metadata_routing=True)
    return context


def _missing(features: pd.DataFrame) -> str:
    """Return a clause that lists the features with missing values, which many estimators do not accept."""
    lacking = features.columns[np.isnan(features.to_numpy()).any(axis=0)]
    if not len(lacking):
        return ""
    named = ", ".join(map(repr, map(str, lacking[:5]))) + (", …" if len(lacking) > 5 else "")
    return f", and values are missing in {named} (SimpleImputer, in a pipeline before the estimator, fills them)"


def _by_column(features: pd.DataFrame, estimator: object) -> pd.DataFrame:
    """Return features stored column by column in memory, as in a frame that a user selects.

    The rounding of sums in linear algebra depends on the memory order, so this makes predictions equal to those of the
    estimator on the user's own frame, to the last bit. Boosting and trees compare the values, and need no copy.
    """
    values = features.to_numpy()
    if _reads_any_order(estimator, values):
        return features
    values = np.asfortranarray(values)
    if not values.flags.writeable:  # a single column is not copied, and scikit-learn 1.5 needs a writeable array
        values = values.copy(order="F")
    return pd.DataFrame(values, index=features.index, columns=features.columns, copy=False)


def _reads_any_order(estimator: object, values: np.ndarray) -> bool:
    """Return whether an estimator learns the same from rows as from columns in memory, and does not write to them."""
    bases = {kind.__name__ for kind in type(estimator).__mro__ if kind.__module__.startswith("sklearn.")}
    if _package(estimator) in _BOOSTING or bases & _OWN_COPY:
        return True
    if not bases & _TREES:
        return False
    from sklearn.utils import check_array

    # scikit-learn 1.5 cannot read read-only frames, and in 1.9 its search for missing values cannot read read-only rows.
    return "force_writeable" in inspect.signature(check_array).parameters and not np.isnan(values).any()


def _target(samples: Samples) -> NDArray[np.generic]:
    """Return what an estimator is fitted on: (rows,) for one label, otherwise (rows, labels)."""
    return samples.label[:, 0] if samples.label.shape[1] == 1 else np.asfortranarray(samples.label)


def _name(estimator: object) -> str:
    return type(estimator).__name__


def _copy(estimator: object) -> Estimator:
    """Return an unfitted estimator with the same parameters."""
    copied: Estimator = _library().clone(estimator)
    return copied


def _library() -> ModuleType:
    try:
        import sklearn.base
    except ImportError as exc:
        raise MissingDependency(
            "SklearnModel needs scikit-learn. Install it: pip install 'rollforge[sklearn]'"
        ) from exc
    library: ModuleType = sklearn.base
    return library


def is_classifier(estimator: object) -> bool:
    """Return whether an estimator is a classifier that predicts probabilities."""
    return _is_of_classes(estimator) and _offers(estimator, "predict_proba")


def lacks_probabilities(estimator: object) -> bool:
    """Return whether an estimator is a classifier without ``predict_proba``."""
    return _is_of_classes(estimator) and not _offers(estimator, "predict_proba")


def _is_of_classes(estimator: object) -> bool:
    """Return whether an estimator is a classifier."""
    if hasattr(estimator, "__sklearn_tags__"):
        return bool(_library().is_classifier(estimator))
    # A class that is not derived from BaseEstimator, of which scikit-learn from version 1.7 on cannot tell.
    return getattr(estimator, "_estimator_type", None) == "classifier"


def _offers(estimator: object, method: str) -> bool:
    """Return whether an estimator has a method once it is fitted.

    A stack (``StackingRegressor``) without a final estimator chooses one in ``fit``; before, neither it nor a pipeline or a
    search around it has ``predict``.
    """
    if hasattr(estimator, method):
        return True
    if not hasattr(type(estimator), method) or not isinstance(estimator, HasParameters):
        return False
    from sklearn.linear_model import LogisticRegression

    copied = _copy(estimator)
    stacks: list[Any] = [one for one in _parts(copied) if getattr(one, "final_estimator", copied) is None]
    for one in stacks:
        one.final_estimator = LogisticRegression()  # like the default one, it has all methods
    return bool(stacks) and hasattr(copied, method)


def is_ranker(estimator: object) -> bool:
    """Return whether an estimator learns the order of rows inside of queries, which ``fit`` needs to know."""
    return not {"group", "group_id"}.isdisjoint(_fit_arguments(_last_step(estimator)))


def _stops_early(estimator: Estimator) -> bool:
    """Return whether an estimator, such as LightGBM's, stops when the score on ``eval_set`` no longer improves."""
    wanted = estimator.get_params(deep=False).get("early_stopping_rounds")
    return bool(wanted) and "eval_set" in _fit_arguments(estimator)


def needs_valid(estimator: object) -> bool:
    """Return whether an estimator cannot be fitted without a valid segment, because it stops early on it.

    CatBoost's trains all its trees then.
    """
    if type(estimator).__module__.partition(".")[0] not in ("lightgbm", "xgboost"):
        return False
    return hasattr(estimator, "get_params") and _stops_early(cast("Estimator", estimator))


def _build(described: object) -> Any:
    """Build an estimator, and the estimators among its arguments, from a description."""
    if isinstance(described, Mapping) and "class" in described:
        requests = {key: value for key, value in described.items() if _REQUEST.fullmatch(str(key))}
        kwargs = {name: _build(value) for name, value in (described.get("kwargs") or {}).items()}
        config = {key: value for key, value in described.items() if key not in requests} | {"kwargs": kwargs}
        return _requesting(build(config, where="estimator"), requests)
    if isinstance(described, tuple):
        return tuple(map(_build, described))
    if isinstance(described, list):
        return list(map(_build, described))
    return described


def _requesting(estimator: Any, requests: Mapping[str, Any]) -> Any:
    """Return an estimator after calling methods of scikit-learn's metadata routing, such as ``set_fit_request``."""
    for method, stated in requests.items():
        try:
            with _routing():
                getattr(estimator, method)(**stated)
        except (AttributeError, TypeError) as exc:
            raise ConfigError(
                f"{method} of {_name(estimator)} cannot be called with {shown(stated)}: {describe(exc)}",
                path=f"estimator.{method}",
            ) from exc
    return estimator


def keep_estimator(estimator: object, folder: Path) -> Definition:
    """Return the description of an estimator whose class is not in a module, such as one defined in a notebook.

    The estimator and the code of its class are written into a file that only tasks submitted by this user's own program
    may read. An estimator with the same code and the same parameters has the same file, in other processes too.

    Parameters
    ----------
    estimator : estimator
        An unfitted estimator.
    folder : path
        An existing folder for the file.
    """
    copied = _copy(estimator)
    kwargs = keep_object(copied, code_mark(copied, opaque=True), folder)
    return {"class": "kept_estimator", "module_path": "rollforge.models.sklearn", "kwargs": kwargs}


def keep_object(kept: object, code: str, folder: Path) -> dict[str, str]:
    """Write an object and the code of its class into a file of `folder`, and return the arguments that read it.

    Parameters
    ----------
    kept : object
        An unfitted estimator or model.
    code : str
        The hash of its code and its parameters. If there is a file with the same one, it is used.
    folder : path
        An existing folder.
    """
    import cloudpickle

    for file in sorted(
        folder.glob(f"{code}-*.estimator")
    ):  # the same code is pickled to other bytes in another process
        mark = file.stem.partition("-")[2]
        if _content_mark(file.read_bytes()) == mark:
            break
    else:
        content = cloudpickle.dumps(kept)
        mark = _content_mark(content)
        file = folder / f"{code}-{mark}.estimator"
        draft = folder / f".{uuid.uuid4().hex}"
        draft.write_bytes(content)
        draft.replace(file)
    return {"file": str(file), "mark": mark}


def _content_mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def kept_estimator(file: str, mark: str) -> object:
    """Return an estimator written by :func:`keep_estimator`. This runs the code in the file.

    Its class is a copy, also in the process that defined the class.

    Raises
    ------
    CodeNotAllowed
        If the task was not submitted by this user's own program.
    ConfigError
        If the file is missing or has changed.
    """
    if trust.current_origin() is not trust.Origin.OWN:
        raise CodeNotAllowed(
            f"The estimator in {file} is code of the program that submitted the task, and only worker processes of that "
            "program may run it. To train on other machines, put its class into a module."
        )
    try:
        content = Path(file).read_bytes()
    except OSError as exc:
        raise ConfigError(f"the file {file!r} cannot be read: {exc.strerror}.", path="estimator") from exc
    if _content_mark(content) != mark:
        raise ConfigError(f"the file {file!r} has changed since the task was submitted.", path="estimator")
    return safe_pickle.loads(content, trusted=True)


def describe_estimator(estimator: object, path: str = "estimator") -> Definition:
    """Return the description of an unfitted estimator, from which :class:`SklearnModel` builds an equal one.

    Parameters
    ----------
    estimator : estimator
        Its parameters (``get_params``) can be numbers, text, classes, functions of a module, other estimators, and
        lists, tuples and mappings of these. Those with their default values are left out. Its metadata requests are kept.
    path : str
        Location of the estimator, for errors.

    Raises
    ------
    ConfigError
        If it has no ``get_params``.
    NotInModule
        If its class, or a class or function among its parameters, cannot be imported by name.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> describe_estimator(Ridge(alpha=2.0))
    {'class': 'Ridge', 'module_path': 'sklearn.linear_model', 'kwargs': {'alpha': 2.0}}
    """
    if isinstance(estimator, type) or not isinstance(estimator, HasParameters):
        hint = " Derive its class from sklearn.base.BaseEstimator." if hasattr(estimator, "fit") else ""
        hint = f" Write {estimator.__name__}()." if isinstance(estimator, type) else hint
        raise ConfigError(f"must be an estimator, found {shown(estimator)}.{hint}", path=path)
    kind = type(estimator)
    _check_importable(kind, path)
    defaults = {n: p.default for n, p in inspect.signature(kind.__init__).parameters.items()}
    kwargs = {
        name: _described(value, f"{path}.{name}")
        for name, value in estimator.get_params(deep=False).items()
        if not (name in defaults and _is_default(value, defaults[name]))
    }
    described = {"class": kind.__qualname__, "module_path": _public_module(kind), "kwargs": kwargs}
    return described | _requests(estimator)


def describe_model(model: Model) -> Definition:
    """Return the description of an unfitted model, from which :func:`~rollforge.build.build` makes an equal one.

    It has the arguments that the model was given, except those with their default values. If an attribute named after an
    argument, or an entry of ``params``, was changed afterwards, it has the new value. A copy of a model, or a model read from
    a file, is described by these attributes alone.

    Raises
    ------
    NotInModule
        If its class cannot be imported by name, an argument cannot be stored in a task, or the attributes do not show with
        which arguments the model was made.

    Examples
    --------
    >>> from rollforge.models import LinearModel
    >>> describe_model(LinearModel(estimator="ridge", alpha=2.0))["kwargs"]
    {'estimator': 'ridge', 'alpha': 2.0}
    """
    kind = type(model)
    path = "estimator"
    _check_importable(kind, path)
    kwargs = _given_kwargs(model, path)
    if kwargs is None:
        kwargs = _kwargs_of_attributes(model, path)
    if isinstance(model, SklearnModel):
        kwargs["estimator"] = model.estimator
    defaults = {name: one.default for name, one in inspect.signature(kind.__init__).parameters.items()}
    kwargs = {
        name: _described(value, f"{path}.{name}")
        for name, value in kwargs.items()
        if name not in defaults or not _is_default(value, defaults[name])
    }
    return {"class": kind.__qualname__, "module_path": _public_module(kind), "kwargs": kwargs}


def _given_kwargs(model: Model, path: str) -> Definition | None:
    """Return by name the arguments that a model was given, with later changes; None if they are not known."""
    kind = type(model)
    args, kwargs = given_arguments(model) or ((), {})
    signature = inspect.signature(kind.__init__)
    try:
        bound = signature.bind(model, *args, **kwargs)
        made = kind(*args, **kwargs)
    except TypeError:  # a copy, of a class that needs arguments
        return None
    named: Definition = {}
    for name, value in list(bound.arguments.items())[1:]:
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= value
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise NotInModule(f"{kind.__name__} has arguments without names ({name}).", path=path)
        else:
            named[name] = value
    if not named and _package(model) != "rollforge" and _differing(vars(model), vars(made)):
        return None  # perhaps a copy
    return named | _changed(model, made, path)


def _changed(model: Model, made: Model, path: str) -> Definition:
    """Return the arguments whose attributes, or entries of ``params``, differ between a model and one just made."""
    names = _named_arguments(type(model))
    now, before = ({n: v for n, v in vars(one).items() if n in names} for one in (model, made))
    changed = {name: now[name] for name in _differing(now, before) if name in now and name in before}
    params, first = getattr(model, "params", None), getattr(made, "params", None)
    if isinstance(params, dict) and isinstance(first, dict):
        removed = first.keys() - params.keys()
        if removed:
            raise NotInModule(f"{shown(min(removed))} was removed from its params.", path=path)
        changed |= {name: params[name] for name in _differing(params, first)}
    return changed


def _differing(values: Mapping[str, object], others: Mapping[str, object]) -> list[str]:
    """Return the names whose plain values differ between two mappings, or that only one of them has."""
    return [
        name
        for name in {**values, **others}
        if all(_is_plain(one.get(name)) for one in (values, others))
        and (name not in values or name not in others or repr(values[name]) != repr(others[name]))
    ]


def _named_arguments(kind: type) -> list[str]:
    """Return the arguments of a class that can be attributes of the same names; ``params`` holds those of a library."""
    return [name for name in constructor_arguments(kind) if name != "params"]


def _kwargs_of_attributes(model: Model, path: str) -> Definition:
    """Return the arguments of a model of which only the attributes are known."""
    kind = type(model)
    kwargs: Definition = {}
    further = False
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            further = True
            kwargs |= {one: getattr(model, one) for one in _named_arguments(kind) if hasattr(model, one)}
            kwargs |= getattr(model, "params", {})
        elif parameter.kind is parameter.VAR_POSITIONAL or not hasattr(model, name):
            raise NotInModule(f"{kind.__name__} has no attribute named after its argument {name}.", path=path)
        else:
            kwargs[name] = getattr(model, name)
    try:
        made = kind(**kwargs)
    except (RollforgeError, TypeError):
        made = None
    if made is None or (further and _differing(vars(model), vars(made))):
        raise NotInModule(
            f"this {kind.__name__} is a copy or was read from a file, and its attributes do not show with which arguments "
            "it was made.",
            path=path,
        )
    return kwargs


def _is_default(value: object, default: object) -> bool:
    plain = (bool, int, float, str, type(None))
    return isinstance(value, plain) and type(value) is type(default) and value == default


def _described(value: object, path: str) -> Any:
    if hasattr(value, "get_params") and hasattr(value, "fit") and not isinstance(value, type):
        return describe_estimator(value, path)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_described(one, f"{path}.{i}") for i, one in enumerate(value))
    if isinstance(value, dict):
        return {key: _described(one, f"{path}.{key}") for key, one in value.items()}
    if isinstance(value, (type, FunctionType)):
        _check_importable(value, path)
    elif not _is_plain(value):
        raise NotInModule(f"{shown(value)} cannot be stored in a task.", path=path)
    return value


def _is_plain(value: object) -> bool:
    try:
        encode(value)
    except TaskNotSerializable:
        return False
    return True


class NotInModule(ConfigError):
    """A class, function or object cannot be described by a name that another process can import."""


class DefinedOnTheSpot(NotInModule):
    """A class or function is defined in a notebook, in a script or inside a function."""


def own_code(model: object) -> str:
    """Return a hash of the code of the user's own classes and functions in an estimator or model that are in modules.

    It is empty if there are none, as in an estimator of an installed package.
    """
    parts = _parts(cast("Estimator", model)) if isinstance(model, HasParameters) else [model, *vars(model).values()]
    things = [one if isinstance(one, (type, FunctionType)) else type(one) for one in parts]
    own = list(filter(is_own_code, dict.fromkeys(things)))
    return code_mark(*own, opaque=True) if own else ""


def _check_importable(thing: type | FunctionType, path: str) -> None:
    if thing.__module__ in ("__main__", "__mp_main__") or "<" in thing.__qualname__:
        raise DefinedOnTheSpot(f"{thing.__qualname__} is not defined in a module.", path=path)


def _public_module(kind: type) -> str:
    """Return the shortest module from which a class can be imported, which rarely changes between versions."""
    parts = kind.__module__.split(".")
    for length in range(1, len(parts)):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None and getattr(module, kind.__qualname__, None) is kind:
            return module.__name__
    return kind.__module__
