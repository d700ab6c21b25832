"""PyTorch: any module as a model, and the models of Qlib as descriptions of modules.

Importing this file does not import PyTorch: :mod:`~rollforge.models.torch_training` does, when a model is fitted or predicts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import trust
from rollforge.arguments import check_choice, check_flag, check_penalty, whole_number
from rollforge.build import build, describe
from rollforge.code_marks import code_mark
from rollforge.errors import ConfigError, MissingDependency, ModelError, RollforgeError, shown
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.kinds import Kind
from rollforge.models.base import Model, Reweighter
from rollforge.models.torch_samples import Examples, learning_examples, prediction_examples
from rollforge.session import current_session
from rollforge.task import Definition, Document, from_plain, to_plain

if TYPE_CHECKING:
    from rollforge.models.torch_training import Checkpoint, Network, Settings

__all__ = [
    "ALSTM",
    "GRU",
    "KRNN",
    "LSTM",
    "SFM",
    "TCN",
    "TSTCN",
    "DNNModelPytorch",
    "GATs",
    "GeneralPTNN",
    "LocalformerModel",
    "Sandwich",
    "TSGATs",
    "TSLocalformerModel",
    "TSTransformerModel",
    "TorchModel",
    "TransformerModel",
]  # fmt: skip

log = logging.getLogger(__name__)

LIBRARY = "torch"
"""The package that the models need, which is also an extra of Rollforge. Submissions record its version."""

_MODULE = Kind("PyTorch module", methods=("forward", "state_dict"))
_NETWORKS = "rollforge.models.torch_networks"
_OPTIMIZERS = {"adam": "Adam", "gd": "SGD", "sgd": "SGD", "adamw": "AdamW"}
_LOSSES = ("mse", "mae", "huber", "binary")
_METRICS = ("", "loss", "mse", "ic")
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


class OptimizationOptions(TypedDict, total=False):
    """Arguments of :class:`TorchModel` that have the same default values for all models."""

    metric: str
    optimizer_kwargs: Document | None
    weight_decay: float
    clip: float | None
    by_day: bool
    valid_key: str
    seed: int | None
    GPU: int | str
    mixed_precision: str | None
    checkpoint_seconds: float | None


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
    metric : {"loss", "ic"}
        What is compared on the valid segment: the loss, or the mean correlation of scores and labels of a day. Qlib's ``""``
        and ``"mse"`` mean the loss.
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
        check_choice("optimizer", optimizer, _OPTIMIZERS)
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
        self.optimizer_kwargs = _mapping("optimizer_kwargs", optimizer_kwargs)
        self.scheduler = _scheduler(scheduler)
        self.clip, self.by_day, self.valid_key = clip, bool(by_day), valid_key
        self.seed, self.GPU, self.mixed_precision = seed, GPU, mixed_precision
        self.checkpoint_seconds = checkpoint_seconds
        self.fit_seconds = 0.0
        """Seconds spent in training."""
        self.weights: dict[str, NDArray[np.generic]] | None = None
        """The weights of the module; None before training."""
        self._curves: dict[str, list[float]] = {}
        self._network: Network | None = None

    def __getstate__(self) -> dict[str, object]:
        kept = {name: value for name, value in self.__dict__.items() if name != trust.RESTORED}
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
        train = learning_examples(dataset, "train", model=name, reweighter=reweighter)
        valid = None
        if "valid" in getattr(dataset, "segments", {"valid": None}):
            valid = learning_examples(dataset, "valid", model=name, reweighter=reweighter, data_key=self.valid_key)
        began = time.perf_counter()
        with training.limited(settings.seed, settings.device):
            network = self._first_network()
            checkpoint = self._checkpoint(network, settings, train, valid)
            try:
                curves, self.weights = training.train(network, train, valid, settings, checkpoint)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as exc:
                if isinstance(exc, RollforgeError):
                    raise
                shape = training.Batches(train, settings, training=False).features(np.arange(1)).shape
                raise ModelError(
                    f"{name} cannot be fitted: the module {self._module_name()} fails on samples of shape "
                    f"{tuple(shape[1:])}: {describe(exc)}"
                ) from exc
        self._network = network
        self.fit_seconds = time.perf_counter() - began
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
        from rollforge.models import torch_training as training

        settings = self._settings()
        self._network = network = self._restored_network()
        examples = prediction_examples(dataset, segment, model=type(self).__name__)
        scores = np.full(len(examples.index), np.nan, np.float32)
        try:
            scores[examples.usable] = training.scores_of(network, examples, settings)
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
            early_stop=self.early_stop, loss=self.loss, metric=self.metric, optimizer=_OPTIMIZERS[self.optimizer],
            optimizer_kwargs={**self.optimizer_kwargs, "weight_decay": self.weight_decay}, scheduler=self.scheduler,
            clip=self.clip, by_day=self.by_day, batches=self.batches, last_batches=self.last_batches, seed=self.seed or 0,
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

    def _checkpoint(
        self, network: Network, settings: Settings, train: Examples, valid: Examples | None
    ) -> Checkpoint | None:
        """Return where the state of this training is stored: equal for equal models on equal data."""
        from rollforge.models import torch_training as training

        if self.checkpoint_seconds is None:
            return None
        parts = [
            repr(settings), json.dumps(to_plain(self.module), sort_keys=True, default=str), code_mark(type(network)),
            importlib.metadata.version("torch"), train.mark(), None if valid is None else valid.mark(),
            [(name, tuple(value.shape)) for name, value in network.state_dict().items()],
        ]  # fmt: skip
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        folder = Path(current_session().cache) / "checkpoints"
        return training.Checkpoint(folder / f"{key}.pt", self.checkpoint_seconds)

    # -- files: the weights as PyTorch's own file, which other programs can read --------------------------------------------

    def save_to(self, folder: Path) -> None:
        """Save the model to a folder."""
        about = {k: v for k, v in self.__getstate__().items() if k not in ("weights", "_network")}
        named = self.module["class"]
        if isinstance(named, type):
            about["module"] = {**self.module, "class": named.__qualname__, "module_path": named.__module__}
        (folder / "about.json").write_text(json.dumps(to_plain(about)), encoding="utf-8")
        if self.weights is not None:
            _check_installed(type(self).__name__)
            from rollforge.models import torch_training as training

            training.write_weights(self.weights, folder / "weights.pt")

    @classmethod
    def load_from(cls, folder: Path) -> TorchModel:
        """Load a model saved by :meth:`save_to`. Its module is built when the model predicts.

        Raises
        ------
        ValueError
            If the files were not written by :meth:`save_to`.
        """
        made: TorchModel = object.__new__(cls)
        for name, value in from_plain(json.loads((folder / "about.json").read_text(encoding="utf-8"))).items():
            if name.startswith("__") or callable(getattr(cls, name, None)):
                raise ValueError(f"it has an attribute {name!r}")
            setattr(made, name, value)
        made._network, made.weights = None, None
        made._restored = True
        if (folder / "weights.pt").exists():
            _check_installed(cls.__name__)
            from rollforge.models import torch_training as training

            made.weights = training.read_weights(folder / "weights.pt")
        return made


def _description(module: object, kwargs: Document | None) -> Definition:
    """Return ``{class, module_path, kwargs}`` of a module."""
    further = _mapping("module_kwargs", kwargs)
    if isinstance(module, (str, type)):
        module = {"class": module}
    if not isinstance(module, Mapping) or "class" not in module:
        raise ConfigError(
            f"must be a subclass of torch.nn.Module or {{class, module_path, kwargs}}, found {shown(module)}.",
            path="module",
        )
    return {**module, "kwargs": {**_mapping("module.kwargs", module.get("kwargs")), **further}}


def _mapping(name: str, given: object) -> Definition:
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
    described = _mapping("scheduler", {"class": given} if isinstance(given, str) else given)
    check_choice("scheduler.class", described.get("class"), _SCHEDULERS)
    return {"class": described["class"], "kwargs": _mapping("scheduler.kwargs", described.get("kwargs"))}


# -- Qlib's models -----------------------------------------------------------------------------------------------------


class GeneralPTNN(TorchModel):
    """Any PyTorch module, with the names of Qlib's arguments.

    Parameters
    ----------
    pt_model_uri : str
        Class of the module as a dotted path.
    pt_model_kwargs : mapping, optional
        Its arguments.
    **kwargs
        Other arguments of :class:`TorchModel`. By default the learning rate is halved if the loss has not improved for five
        epochs.
    """

    def __init__(
        self,
        pt_model_uri: str = "qlib.contrib.model.pytorch_gru_ts.GRUModel",
        pt_model_kwargs: Document | None = None,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        if pt_model_kwargs is None:
            pt_model_kwargs = {"d_feat": 6, "hidden_size": 64, "num_layers": 2, "dropout": 0.0}
        plateau = {"mode": "min", "factor": 0.5, "patience": 5, "threshold": 1e-5, "min_lr": 1e-6}
        self.pt_model_uri, self.pt_model_kwargs = pt_model_uri, _mapping("pt_model_kwargs", pt_model_kwargs)
        self.params = dict(kwargs)
        options: TrainingOptions = {"scheduler": {"class": "ReduceLROnPlateau", "kwargs": plateau}, **kwargs}
        super().__init__(_dotted(pt_model_uri), self.pt_model_kwargs, **options)


class DNNModelPytorch(TorchModel):
    """Dense layers, trained on random batches.

    An epoch has `eval_steps` batches, each drawn with replacement. There is no validation between them.

    Parameters
    ----------
    lr : float
        Learning rate.
    max_steps : int
        Maximum number of batches.
    batch_size : int
        Number of samples in a batch.
    early_stop_rounds : int
        Number of validations without improvement before training stops.
    eval_steps : int
        Number of batches between two validations.
    optimizer : {"adam", "adamw", "gd"}
        The optimizer.
    loss : {"mse", "binary"}
        See :class:`TorchModel`.
    scheduler : mapping or str, optional
        See :class:`TorchModel`.
    pt_model_uri : str
        Class of the module as a dotted path.
    pt_model_kwargs : mapping, optional
        Its arguments; by default 360 features and one layer of 256.
    data_parall, init_model, eval_train_metric : object
        Accepted for compatibility with Qlib. Only their default values are supported.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    def __init__(
        self,
        lr: float = 0.001,
        max_steps: int = 300,
        batch_size: int = 2000,
        early_stop_rounds: int = 50,
        eval_steps: int = 20,
        optimizer: str = "gd",
        loss: str = "mse",
        scheduler: Document | str | None = "default",
        pt_model_uri: str = "qlib.contrib.model.pytorch_nn.Net",
        pt_model_kwargs: Document | None = None,
        data_parall: bool = False,
        init_model: object = None,
        eval_train_metric: bool = False,
        **kwargs: Unpack[OptimizationOptions],
    ) -> None:
        for name, count in (
            ("max_steps", max_steps),
            ("early_stop_rounds", early_stop_rounds),
            ("eval_steps", eval_steps),
        ):
            whole_number(count, name)
        for name, value in (
            ("data_parall", data_parall),
            ("init_model", init_model),
            ("eval_train_metric", eval_train_metric),
        ):
            if value:
                raise ConfigError(f"is not supported by {type(self).__name__}. Leave it out.", path=name)
        if pt_model_kwargs is None:
            pt_model_kwargs = {"input_dim": 360, "layers": [256]}
        self.max_steps, self.early_stop_rounds, self.eval_steps = max_steps, early_stop_rounds, eval_steps
        self.data_parall, self.init_model, self.eval_train_metric = False, None, False
        self.pt_model_uri, self.pt_model_kwargs = pt_model_uri, _mapping("pt_model_kwargs", pt_model_kwargs)
        self.params = dict(kwargs)
        options: OptimizationOptions = {"clip": None, **kwargs}
        super().__init__(
            _dotted(pt_model_uri), self.pt_model_kwargs, n_epochs=math.ceil(max_steps / eval_steps), lr=lr,
            batch_size=batch_size, early_stop=early_stop_rounds, loss=loss, optimizer=optimizer, scheduler=scheduler,
            **options,
        )  # fmt: skip
        self.batches, self.last_batches = eval_steps, max_steps % eval_steps or None


class _Described(TorchModel):
    """A module of :mod:`~rollforge.models.torch_networks`, whose arguments are attributes of the model."""

    NETWORK: ClassVar[str]
    RENAMED: ClassVar[Mapping[str, str]] = {}

    def _of(self, arguments: Mapping[str, object], training: TrainingOptions) -> None:
        for name, value in arguments.items():
            setattr(self, name, value)
        self.params = dict(training)
        super().__init__({"class": self.NETWORK, "module_path": _NETWORKS, "kwargs": dict(arguments)}, **training)


class GRU(_Described):
    """A gated recurrent unit.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    hidden_size, num_layers : int
        Size and number of the recurrent layers.
    dropout : float
        Share of the values that are dropped between layers.
    **kwargs
        Other arguments of :class:`TorchModel`, as for all models below.
    """

    NETWORK = "GRUModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        arguments = {"d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout}
        self._of(arguments, kwargs)


class LSTM(GRU):
    """Long short-term memory, with the arguments of :class:`GRU`."""

    NETWORK = "LSTMModel"


class ALSTM(_Described):
    """A recurrent network with attention over its steps.

    Parameters
    ----------
    d_feat, hidden_size, num_layers, dropout
        See :class:`GRU`.
    rnn_type : {"GRU", "LSTM", "RNN"}
        Kind of the recurrent network. Qlib accepts the argument and always uses GRU.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORK = "ALSTMModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        rnn_type: str = "GRU",
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        check_choice("rnn_type", rnn_type, ("GRU", "LSTM", "RNN"))
        arguments = {"d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout}
        self._of({**arguments, "rnn_type": rnn_type}, kwargs)


class TCN(_Described):
    """A temporal convolutional network.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    n_chans, num_layers : int
        Channels of a level, and number of levels.
    kernel_size : int
        Number of steps of a convolution.
    dropout : float
        Share of the values that are dropped.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORK = "TCNModel"
    LR: ClassVar[float] = 0.0001

    def __init__(
        self,
        d_feat: int = 6,
        n_chans: int = 128,
        kernel_size: int = 5,
        num_layers: int = 5,
        dropout: float = 0.5,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        whole_number(num_layers, "num_layers")
        self.d_feat, self.n_chans, self.num_layers = d_feat, n_chans, num_layers
        arguments = {"num_input": d_feat, "output_size": 1, "num_channels": [n_chans] * num_layers}
        self._of({**arguments, "kernel_size": kernel_size, "dropout": dropout}, {"lr": self.LR, **kwargs})


class TSTCN(TCN):
    """:class:`TCN` with the defaults that Qlib has for samples of several days (``pytorch_tcn_ts``)."""

    LR = 0.001

    def __init__(
        self,
        d_feat: int = 6,
        n_chans: int = 128,
        kernel_size: int = 5,
        num_layers: int = 2,
        dropout: float = 0.0,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(d_feat, n_chans, kernel_size, num_layers, dropout, **kwargs)


class TransformerModel(_Described):
    """A transformer's encoder.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    d_model : int
        Number of values into which these are transformed.
    nhead, num_layers : int
        Number of attention heads, and of layers.
    dropout : float
        Share of the values that are dropped.
    reg : float
        The optimizer's weight decay.
    **kwargs
        Other arguments of :class:`TorchModel`. By default, 100 epochs with batches of 2,048 samples and a learning rate of
        0.0001; training stops after 5 epochs without improvement.
    """

    NETWORK = "Transformer"
    BATCH: ClassVar[int] = 2048

    def __init__(
        self,
        d_feat: int = 20,
        d_model: int = 64,
        nhead: int = 2,
        num_layers: int = 2,
        dropout: float = 0,
        reg: float = 0.001,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        check_penalty("reg", reg)
        self.reg = reg
        arguments = {"d_feat": d_feat, "d_model": d_model, "nhead": nhead, "num_layers": num_layers, "dropout": dropout}
        self._of(arguments, {
            "batch_size": self.BATCH, "n_epochs": 100, "lr": 0.0001, "early_stop": 5, "weight_decay": reg, **kwargs
        })  # fmt: skip


class TSTransformerModel(TransformerModel):
    """:class:`TransformerModel` with batches of 8,192 samples, Qlib's default for samples of several days."""

    BATCH = 8192


class LocalformerModel(TransformerModel):
    """A transformer's encoder with convolutions, then a recurrent network; with the arguments of
    :class:`TransformerModel`."""

    NETWORK = "Localformer"


class TSLocalformerModel(LocalformerModel):
    """:class:`LocalformerModel` with batches of 8,192 samples, Qlib's default for samples of several days."""

    BATCH = 8192


class GATs(_Described):
    """A recurrent network, then graph attention between the instruments of a day.

    Parameters
    ----------
    d_feat, hidden_size, num_layers, dropout
        See :class:`GRU`.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent network.
    model_path : path, optional
        File with the weights of a :class:`GRU` or :class:`LSTM` module, with which training begins.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORK = "GATModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        base_model: str = "GRU",
        model_path: str | None = None,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        check_choice("base_model", base_model, ("GRU", "LSTM"))
        if model_path is not None and not isinstance(model_path, (str, os.PathLike)):
            raise ConfigError(f"must be a path, found {shown(model_path)}.", path="model_path")
        self.model_path = None if model_path is None else os.fspath(model_path)
        arguments = {"d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout}
        self._of({**arguments, "base_model": base_model}, {**kwargs, "by_day": True})

    def _first_network(self) -> Network:
        from rollforge.models import torch_training as training

        network = super()._first_network()
        if self.model_path is None:
            return network
        try:
            found = training.read_weights(Path(self.model_path))
        except Exception as exc:  # whatever a damaged file raises
            raise ConfigError(
                f"the weights in {self.model_path!r} cannot be read: {describe(exc)}", path="model_path"
            ) from exc
        own = network.state_dict()
        kept = {name: value for name, value in found.items() if name in own and value.shape == tuple(own[name].shape)}
        if not any(name.startswith("rnn.") for name in kept):
            raise ConfigError(
                f"{self.model_path!r} has no weights of a {self.base_model} with hidden_size {self.hidden_size}.",  # type: ignore[attr-defined]
                path="model_path",
            )
        return training.with_weights(network, {**{name: value.numpy() for name, value in own.items()}, **kept})


class TSGATs(GATs):
    """:class:`GATs` with 20 features, Qlib's default for samples of several days (``pytorch_gats_ts``)."""

    def __init__(
        self,
        d_feat: int = 20,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        base_model: str = "GRU",
        model_path: str | None = None,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(d_feat, hidden_size, num_layers, dropout, base_model, model_path, **kwargs)


class KRNN(_Described):
    """A convolution, then several recurrent networks in parallel, whose outputs are averaged.

    Parameters
    ----------
    fea_dim : int
        Number of features of a day.
    cnn_dim, cnn_kernel_size : int
        Channels and steps of the convolution.
    rnn_dim, rnn_dups, rnn_layers : int
        Size, number and layers of the recurrent networks.
    dropout : float
        Share of the values that are dropped between layers.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORK = "KRNNModel"

    def __init__(
        self,
        fea_dim: int = 6,
        cnn_dim: int = 64,
        cnn_kernel_size: int = 3,
        rnn_dim: int = 64,
        rnn_dups: int = 3,
        rnn_layers: int = 2,
        dropout: float = 0,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        arguments = {"fea_dim": fea_dim, "cnn_dim": cnn_dim, "cnn_kernel_size": cnn_kernel_size, "rnn_dim": rnn_dim}
        self._of({**arguments, "rnn_dups": rnn_dups, "rnn_layers": rnn_layers, "dropout": dropout}, kwargs)


class Sandwich(_Described):
    """Two encoders of :class:`KRNN`, one after the other.

    Parameters
    ----------
    fea_dim, cnn_kernel_size, rnn_dups, rnn_layers, dropout
        See :class:`KRNN`.
    cnn_dim_1, cnn_dim_2, rnn_dim_1, rnn_dim_2 : int
        Sizes of the convolutions and of the recurrent networks in both encoders.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORK = "SandwichModel"

    def __init__(
        self,
        fea_dim: int = 6,
        cnn_dim_1: int = 64,
        cnn_dim_2: int = 32,
        cnn_kernel_size: int = 3,
        rnn_dim_1: int = 16,
        rnn_dim_2: int = 8,
        rnn_dups: int = 3,
        rnn_layers: int = 2,
        dropout: float = 0,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        arguments = {
            "fea_dim": fea_dim, "cnn_dim_1": cnn_dim_1, "cnn_dim_2": cnn_dim_2, "cnn_kernel_size": cnn_kernel_size,
            "rnn_dim_1": rnn_dim_1, "rnn_dim_2": rnn_dim_2, "rnn_dups": rnn_dups, "rnn_layers": rnn_layers,
            "dropout": dropout,
        }  # fmt: skip
        self._of(arguments, kwargs)


class SFM(_Described):
    """State frequency memory: a recurrent network whose memory is split by frequency.

    Parameters
    ----------
    d_feat, hidden_size : int
        See :class:`GRU`.
    output_dim : int
        Size of the layer before the score.
    freq_dim : int
        Number of frequencies.
    dropout_W, dropout_U, eval_steps : float
        Accepted and not used, as in Qlib.
    **kwargs
        Other arguments of :class:`TorchModel`. The default of `optimizer` is ``gd``.
    """

    NETWORK = "SFMModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        output_dim: int = 1,
        freq_dim: int = 10,
        dropout_W: float = 0.0,  # noqa: N803 - Qlib's name
        dropout_U: float = 0.0,  # noqa: N803
        eval_steps: int = 5,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        self.dropout_W, self.dropout_U, self.eval_steps = dropout_W, dropout_U, eval_steps
        arguments = {"d_feat": d_feat, "hidden_size": hidden_size, "output_dim": output_dim, "freq_dim": freq_dim}
        self._of(arguments, {"optimizer": "gd", **kwargs})


def _dotted(uri: object) -> dict[str, str]:
    """Return the description of a class that is named by a dotted path."""
    if not isinstance(uri, str) or "." not in uri:
        raise ConfigError(f"must be the dotted path of a class, found {shown(uri)}.", path="pt_model_uri")
    module_path, _, name = uri.rpartition(".")
    return {"class": name, "module_path": module_path}
