"""PyTorch: any module as a model.

Importing this file does not import PyTorch: :mod:`~rollforge.models.torch_training` does, when a model is fitted or predicts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import trust
from rollforge.arguments import check_choice, check_flag, check_penalty, whole_number
from rollforge.build import build, describe
from rollforge.code_marks import code_mark
from rollforge.errors import ConfigError, MissingDependency, ModelError, RollforgeError, TaskNotSerializable, shown
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.kinds import Kind
from rollforge.models.base import Model, Reweighter
from rollforge.models.torch_samples import Examples, learning_examples, prediction_examples
from rollforge.pickling import kept_attributes
from rollforge.session import current_session
from rollforge.task import Definition, Document, from_plain, to_plain

if TYPE_CHECKING:
    from rollforge.models.torch_training import Network, Settings, Stage, Trained

__all__ = ["TorchModel"]

log = logging.getLogger(__name__)

LIBRARY = "torch"
"""The package that the models need, which is also an extra of Rollforge. Submissions record its version."""

_MODULE = Kind("PyTorch module", methods=("forward", "state_dict"))
OPTIMIZERS = {"adam": "Adam", "gd": "SGD", "sgd": "SGD", "adamw": "AdamW"}
_LOSSES = ("mse", "mae", "huber", "binary")
_METRICS = ("", "loss", "mse", "ic", "rank_ic")
_SCHEDULERS = (
    "ReduceLROnPlateau", "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts",
    "LinearLR", "PolynomialLR",
)  # fmt: skip
_PLATEAU = {"mode": "min", "factor": 0.5, "patience": 10, "threshold": 1e-4, "min_lr": 1e-5}


def _check_installed(model: str) -> None:
    try:
        from rollforge.models import torch_training  # noqa: F401
    except ImportError as exc:
        raise MissingDependency(
            f"{model} needs torch and skorch. Install them: pip install 'rollforge[torch]'"
        ) from exc


class _OwnOptions(TypedDict, total=False):
    optimizer_kwargs: Document | None
    weight_decay: float
    clip: float | None
    by_day: bool
    valid_key: str
    mixed_precision: str | None
    checkpoint_seconds: float | None


class OwnOptions(_OwnOptions, total=False):
    """Arguments of :class:`TorchModel` that Qlib's models do not have."""

    scheduler: Document | str | None


class OptimizationOptions(_OwnOptions, total=False):
    """Arguments of :class:`TorchModel` that have the same default values for all models."""

    metric: str
    seed: int | None
    GPU: int | str


class TrainingOptions(OptimizationOptions, total=False):
    """Arguments of :class:`TorchModel`, except the module."""

    n_epochs: int
    lr: float
    batch_size: int
    early_stop: int
    loss: str
    optimizer: str
    scheduler: Document | str | None


class TorchModel(Model):
    """Any PyTorch module, with early stopping on the valid segment, if there is one.

    The module is called with a tensor (samples, features), or with (samples, steps, features) if the dataset is a
    :class:`~rollforge.features.timeseries.TSDatasetH`, and returns one number for each sample. Missing steps of a sample are
    filled with the previous one, or else with the next one. Samples with a missing feature are neither learned from nor
    predicted: their score is NaN.

    A module with a method ``training_loss(features, target)`` computes its own loss; `target` has a `label` and a `weight`.

    Training is seeded, and writes a checkpoint after an epoch. If its process is killed, the next attempt on the same machine
    continues after the last epoch, and on a CPU gives the same bits as if it had not been interrupted.

    Parameters
    ----------
    module : type or description
        A subclass of ``torch.nn.Module``; or ``{class, module_path, kwargs}``, where `module_path` may be a ``.py`` file.
    module_kwargs : mapping, optional
        Arguments of the module, in addition to those of the description.
    n_epochs : int
        Maximum number of epochs.
    lr, weight_decay : float
        Arguments of the optimizer.
    batch_size : int
        Number of samples in a batch. If there are several batches, the last one is left out unless it is full.
    early_stop : int
        Number of epochs without improvement before training stops. The weights after the best epoch are kept.
    loss : {"mse", "mae", "huber", "binary"}
        What is minimized; ``binary`` is the cross-entropy of logits and labels of 0 and 1.
    metric : {"loss", "ic", "rank_ic"}
        What is compared on the valid segment: the loss, or the mean correlation of scores and labels of a day, or of their
        ranks. Qlib's ``""`` and ``"mse"`` mean the loss.
    optimizer : {"adam", "adamw", "gd"}
        The optimizer; ``gd`` is stochastic gradient descent.
    optimizer_kwargs : mapping, optional
        Further arguments of the optimizer.
    scheduler : mapping or str, optional
        ``{class, kwargs}`` of a class of ``torch.optim.lr_scheduler``, which changes `lr` after each epoch; or ``"default"``,
        which halves it if the loss has not improved for ten epochs.
    clip : float, optional
        Largest absolute value of a gradient.
    by_day : bool
        True: a batch has all samples of a day, for modules that compare instruments.
    valid_key : str
        State of the data of the valid segment.
    seed : int, optional
        Seed of the first weights, the order of samples and dropout. None means 0.
    GPU : int or str
        Number of the GPU to use, if there is one; a negative number means the CPU. A device of PyTorch, such as ``"cuda:1"``.
    mixed_precision : {"bf16", "fp16"}, optional
        Type in which the module computes; weights and loss keep float32.
    checkpoint_seconds : float, optional
        Shortest time between two checkpoints; None writes none.
    **kwargs
        Ignored, with a warning. Qlib's `n_jobs` is ignored without one: a batch is made by the threads of the session.

    Raises
    ------
    ConfigError
        If an argument is invalid.
    MissingDependency
        If PyTorch or skorch is not installed, when the model is fitted.
    """

    batches: int | None = None
    """Number of batches in an epoch, drawn with replacement; None: each sample is in one batch."""
    last_batches: int | None = None
    """The same in the last epoch, if it is shorter."""
    balanced = False
    """Whether a batch has equally many samples of each group; see :meth:`_grouped`."""
    begins_with_files = False
    """Whether the module begins with the contents of files."""
    several_labels = False
    """Whether the module learns from several labels, which are the columns of the target's `label`."""
    update_freq = 1
    """Number of batches whose gradients are added up before the weights change."""
    _restored = False  # whether the object was read from a file; see trust.of_restored

    def __init__(
        self,
        module: object,
        module_kwargs: Document | None = None,
        n_epochs: int = 200,
        lr: float = 0.001,
        batch_size: int = 2000,
        early_stop: int = 20,
        loss: str = "mse",
        metric: str = "",
        optimizer: str = "adam",
        optimizer_kwargs: Document | None = None,
        weight_decay: float = 0.0,
        scheduler: Document | str | None = None,
        clip: float | None = 3.0,
        by_day: bool = False,
        valid_key: str = DataHandlerLP.DK_L,
        seed: int | None = None,
        GPU: int | str = 0,  # noqa: N803 - Qlib's name
        mixed_precision: str | None = None,
        checkpoint_seconds: float | None = 1.0,
        **kwargs: object,
    ) -> None:
        for name, count in (("n_epochs", n_epochs), ("batch_size", batch_size), ("early_stop", early_stop)):
            whole_number(count, name)
        for name, size in (
            ("lr", lr),
            ("weight_decay", weight_decay),
            ("clip", clip),
            ("checkpoint_seconds", checkpoint_seconds),
        ):
            if size is not None or name in ("lr", "weight_decay"):
                check_penalty(name, size)
        check_choice("loss", loss, _LOSSES)
        check_choice("metric", metric, _METRICS)
        optimizer = optimizer.lower() if isinstance(optimizer, str) else optimizer
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_flag("by_day", by_day)
        if seed is not None:
            whole_number(seed, "seed", least=0)
        if isinstance(GPU, bool) or not isinstance(GPU, (int, str)):
            raise ConfigError(f"must be the number of a GPU or the name of a device, found {shown(GPU)}.", path="GPU")
        if mixed_precision is not None:
            check_choice("mixed_precision", mixed_precision, ("bf16", "fp16"))
        vars(self).setdefault("params", dict(kwargs))  # a subclass keeps its own further arguments there
        ignored = [name for name in kwargs if name != "n_jobs"]
        if ignored:  # Qlib's classes take any argument too
            log.warning("%s ignores unknown arguments: %s", type(self).__name__, ", ".join(ignored))
        self.module, self.module_kwargs = _description(module, module_kwargs), None
        self.n_epochs, self.lr, self.batch_size, self.early_stop = n_epochs, float(lr), batch_size, early_stop
        self.loss, self.metric, self.optimizer, self.weight_decay = loss, metric, optimizer, float(weight_decay)
        self.optimizer_kwargs = mapping("optimizer_kwargs", optimizer_kwargs)
        self.scheduler = _scheduler(scheduler)
        self.clip, self.by_day, self.valid_key = clip, bool(by_day), valid_key
        self.seed, self.GPU, self.mixed_precision = seed, GPU, mixed_precision
        self.checkpoint_seconds = checkpoint_seconds
        self.fit_seconds = 0.0
        """Seconds spent in training."""
        self.feature_names: list[str] = []
        """The names of the features on which it was fitted."""
        self.weights: dict[str, NDArray[np.generic]] | None = None
        """The weights of the module; None before training."""
        self._curves: dict[str, list[float]] = {}
        self._network: Network | None = None

    def __getstate__(self) -> dict[str, object]:
        kept = {name: value for name, value in kept_attributes(self).items() if name != trust.RESTORED}
        return {**kept, "_network": None}  # built again from its description and its weights

    def training_metrics(self) -> dict[str, list[float]]:
        """Return each metric of each segment by epoch: ``{"loss.train": […], "loss.valid": […]}``."""
        return self._curves

    def fit(
        self,
        dataset: Dataset,
        evals_result: dict[str, list[float]] | None = None,
        save_path: object = None,
        reweighter: Reweighter | None = None,
        **kwargs: object,
    ) -> None:
        """Fit on the train segment, with early stopping on the valid segment if there is one.

        Parameters
        ----------
        dataset : Dataset
            Dataset with a train segment, whose samples are rows or several days.
        evals_result : dict, optional
            Filled with the loss after each epoch: ``{"train": […], "valid": […]}``.
        save_path : object
            Ignored: the weights are part of the model.
        reweighter : Reweighter, optional
            Weights of the samples.

        Raises
        ------
        ModelError
            If the data are not suitable for training; see :func:`~rollforge.models.samples.training_samples`. Also if the
            module fails, or the loss is not finite.
        """
        _check_installed(type(self).__name__)
        from rollforge.models import torch_training as training

        settings = self._settings()
        name = type(self).__name__
        several = self.several_labels
        train = self._grouped(
            learning_examples(dataset, "train", model=name, reweighter=reweighter, several_labels=several), dataset
        )
        valid = None
        if "valid" in getattr(dataset, "segments", {"valid": None}):
            valid = learning_examples(
                dataset, "valid", model=name, reweighter=reweighter, data_key=self.valid_key, several_labels=several
            )
            valid = self._numbered(valid)

        def begin(settings: Settings) -> Sequence[Stage]:
            network = self._first_network()
            last = self._stage(network, train, valid, settings)
            return self._with_checkpoints(self._stages(last, dataset, reweighter))

        began = time.perf_counter()
        with training.limited(settings.seed, settings.device):
            try:
                self._network, curves, self.weights = self._trained(settings, begin)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as exc:
                if isinstance(exc, RollforgeError):
                    raise
                shape = training.Batches(train, settings, training=False).features(np.arange(1)).shape
                raise ModelError(
                    f"{name} cannot be fitted: the module {self._module_name()} fails on samples of shape "
                    f"{tuple(shape[1:])}: {describe(exc)}"
                ) from exc
        self.fit_seconds = time.perf_counter() - began
        self.feature_names = list(train.feature_names)
        self._curves = curves
        if evals_result is not None:
            evals_result |= {
                key.partition(".")[2]: list(values) for key, values in curves.items() if key.startswith("loss.")
            }

    def predict(self, dataset: Dataset, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment, index (datetime, instrument); NaN if a feature is missing.

        Raises
        ------
        ModelError
            If the model is not fitted, or the module fails.
        """
        if self.weights is None:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        _check_installed(type(self).__name__)
        settings = self._settings()
        self._network = network = self._restored_network()
        fitted = getattr(self, "feature_names", ())  # earlier versions did not save them
        examples = prediction_examples(dataset, segment, model=type(self).__name__, fitted=fitted)
        examples = self._numbered(examples)
        scores = np.full(len(examples.index), np.nan, np.float32)
        try:
            scores[examples.usable] = self._scores(network, examples, settings, dataset, segment)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as exc:
            if isinstance(exc, RollforgeError):
                raise
            raise ModelError(
                f"{type(self).__name__} cannot predict {shown(segment)}: the module {self._module_name()} fails: "
                f"{describe(exc)}"
            ) from exc
        return pd.Series(scores, index=examples.index)

    def _settings(self) -> Settings:
        from rollforge.models import torch_training as training

        return training.Settings(
            model=type(self).__name__, epochs=self.n_epochs, lr=self.lr, batch_size=self.batch_size,
            early_stop=self.early_stop, loss=self.loss, metric=self.metric, optimizer=OPTIMIZERS[self.optimizer],
            optimizer_kwargs={**self.optimizer_kwargs, "weight_decay": self.weight_decay}, scheduler=self.scheduler,
            clip=self.clip, by_day=self.by_day, batches=self.batches, last_batches=self.last_batches, balanced=self.balanced,
            accumulated=self.update_freq, seed=self.seed or 0,
            device=training.device_named(self.GPU), mixed_precision=self.mixed_precision,
        )  # fmt: skip

    def _module_name(self) -> str:
        named = self.module["class"]
        return str(getattr(named, "__name__", named))

    def _build(self) -> Network:
        with trust.of_restored(self):
            return build(self.module, kind=_MODULE, where="module")

    def _first_network(self) -> Network:
        """Return the module with the weights with which training begins."""
        return self._build()

    def _restored_network(self) -> Network:
        """Return the trained module."""
        if self._network is not None:
            return self._network
        from rollforge.models import torch_training as training

        assert self.weights is not None
        with training.limited(self.seed or 0, "cpu"):
            network = self._build()
            try:
                return training.with_weights(network, self.weights)
            except RuntimeError as exc:
                raise ModelError(
                    f"The module {self._module_name()} has other weights than when {type(self).__name__} was fitted: "
                    f"{describe(exc)}"
                ) from exc

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        """Return the samples of the train segment with their groups, if the module learns from groups."""
        return self._numbered(train)

    def _numbered(self, examples: Examples) -> Examples:
        """Return the samples of any segment with their groups, if the output of the module depends on them."""
        return examples

    def _stages(self, last: Stage, dataset: Dataset, reweighter: Reweighter | None) -> list[Stage]:
        """Return the trainings of the module, one after another; by default only the last one."""
        return [last]

    def _scores(
        self, network: Network, examples: Examples, settings: Settings, dataset: Dataset, segment: str | slice
    ) -> NDArray[np.float32]:
        """Return the score of each usable sample of a segment."""
        from rollforge.models import torch_training as training

        return training.scores_of(network, examples, settings)

    def _stage(self, network: Network, train: Examples, valid: Examples | None, settings: Settings) -> Stage:
        """Return the last training of the module."""
        from rollforge.models import torch_training as training

        return training.Stage(network, train, valid, settings)

    def _trained(self, settings: Settings, begin: Callable[[Settings], Sequence[Stage]]) -> Trained:
        """Return the trained module. `begin` returns what is trained, with the first weights."""
        from rollforge.models import torch_training as training

        return training.train(begin(settings))

    def _with_checkpoints(self, stages: Sequence[Stage]) -> Sequence[Stage]:
        """Return the stages of a training, each of which stores its state: in equal files for equal models on equal data."""
        from rollforge.models import torch_training as training

        if self.checkpoint_seconds is None:
            return stages
        folder = Path(current_session().cache) / "checkpoints"
        parts: list[object] = [
            json.dumps(to_plain(self._named_module()), sort_keys=True, default=str), importlib.metadata.version("torch"),
        ]  # fmt: skip
        found = []
        for stage in stages:  # a stage depends on those before it
            parts += [
                repr(stage.settings), repr(stage.sampling), dict(stage.arguments), code_mark(type(stage.network)),
                stage.train.mark(), None if stage.valid is None else stage.valid.mark(), stage.passes,
                None if stage.further is None else (stage.further.optimizer, stage.further.lr, stage.further.examples.mark()),
                [(name, tuple(value.shape)) for name, value in stage.network.state_dict().items()],
                training.checksum(stage.network) if self.begins_with_files else None,
            ]  # fmt: skip
            key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
            checkpoint = training.Checkpoint(folder / f"{key}.pt", self.checkpoint_seconds)
            found.append(dataclasses.replace(stage, checkpoint=checkpoint))
        return found

    def _named_module(self) -> Mapping[str, object]:
        """Return the description of the module, with the name of its class if it has the class itself."""
        kind = self.module["class"]
        if not isinstance(kind, type):
            return self.module
        return {**self.module, "class": kind.__qualname__, "module_path": kind.__module__}

    # -- files: the weights as PyTorch's own file, which other programs can read --------------------------------------------

    def save_to(self, folder: Path) -> None:
        """Save the model to a folder."""
        kept = {k: v for k, v in self.__getstate__().items() if k not in ("weights", "_network")}
        about = self._plain({**kept, "module": self._named_module()})
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        if self.weights is not None:
            _check_installed(type(self).__name__)
            from rollforge.models import torch_training as training

            training.write_weights(self.weights, folder / "weights.pt")

    def _plain(self, attributes: Mapping[str, object]) -> Document:
        """Return attributes as plain data, without hidden ones of a subclass that are something else, such as a lock."""
        found, left_out = {}, []
        for name, value in attributes.items():
            try:
                found[name] = to_plain(value, name)
            except TaskNotSerializable:
                if not name.startswith("_"):
                    raise
                left_out.append(name)
        if left_out:
            log.warning(
                "%s is saved without %s: its file contains only weights and plain data. What is needed after loading must be "
                "made again by load_from() of the class.", type(self).__name__, ", ".join(left_out),
            )  # fmt: skip
        return found

    @classmethod
    def load_from(cls, folder: Path) -> TorchModel:
        """Load a model saved by :meth:`save_to`. Its module is built when the model predicts.

        Raises
        ------
        ValueError
            If the files were not written by :meth:`save_to`.
        """
        model: TorchModel = object.__new__(cls)
        for name, value in from_plain(json.loads((folder / "about.json").read_text(encoding="utf-8"))).items():
            if name.startswith("__") or callable(getattr(cls, name, None)):
                raise ValueError(f"it has an attribute {name!r}")
            setattr(model, name, value)
        model._network, model.weights = None, None
        model._restored = True
        if (folder / "weights.pt").exists():
            _check_installed(cls.__name__)
            from rollforge.models import torch_training as training

            model.weights = training.read_weights(folder / "weights.pt")
        return model


def _description(module: object, kwargs: Document | None) -> Definition:
    """Return ``{class, module_path, kwargs}`` of a module."""
    further = mapping("module_kwargs", kwargs)
    if isinstance(module, (str, type)):
        module = {"class": module}
    if not isinstance(module, Mapping) or "class" not in module:
        raise ConfigError(
            f"must be a subclass of torch.nn.Module or {{class, module_path, kwargs}}, found {shown(module)}.",
            path="module",
        )
    return {**module, "kwargs": {**mapping("module.kwargs", module.get("kwargs")), **further}}


def mapping(name: str, given: object) -> Definition:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping, found {shown(given)}.", path=name)
    return dict(given)


def _scheduler(given: object) -> Definition | None:
    if given is None:
        return None
    if given == "default":
        return {"class": "ReduceLROnPlateau", "kwargs": dict(_PLATEAU)}
    described = mapping("scheduler", {"class": given} if isinstance(given, str) else given)
    check_choice("scheduler.class", described.get("class"), _SCHEDULERS)
    return {"class": described["class"], "kwargs": mapping("scheduler.kwargs", described.get("kwargs"))}
