"""Qlib's PyTorch models: descriptions of modules, with Qlib's arguments and defaults.

Importing this file does not import PyTorch.
"""

from __future__ import annotations

import inspect
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Unpack

from rollforge.arguments import check_choice, check_penalty, whole_number
from rollforge.build import describe
from rollforge.errors import ConfigError, shown
from rollforge.models.torch import LIBRARY, OptimizationOptions, OwnOptions, TorchModel, TrainingOptions, mapping
from rollforge.task import Document

if TYPE_CHECKING:
    from rollforge.models.torch_training import Network

__all__ = [
    "ALSTM",
    "GRU",
    "KRNN",
    "LIBRARY",
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
    "TransformerModel",
]

_PLATEAU: Document = {
    "class": "ReduceLROnPlateau",
    "kwargs": {"mode": "min", "factor": 0.5, "patience": 5, "threshold": 1e-5, "min_lr": 1e-6},
}
_PASSED_ON = {
    f"Unpack[{one.__name__}]": set(one.__annotations__) for one in (OwnOptions, OptimizationOptions, TrainingOptions)
}


class _QlibModel(TorchModel):
    """Base class of models that pass arguments on to :class:`TorchModel`, where these are written once.

    ``inspect.signature`` shows them, too: all arguments of the ``TypedDict`` with which ``**kwargs`` is annotated.
    """

    OPTIONS: ClassVar[TrainingOptions] = {}
    """Defaults that differ from those of :class:`TorchModel`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _, *own = inspect.signature(cls.__init__).parameters.values()
        passed_on = _PASSED_ON.get(str(own[-1].annotation), ()) if own else ()
        names = {one.name for one in own}
        added = [
            one.replace(kind=one.KEYWORD_ONLY, default=cls.OPTIONS.get(name, one.default))
            for name, one in inspect.signature(TorchModel).parameters.items()
            if name in passed_on and name not in names
        ]
        shown = [*own[:-1], *added, own[-1]] if added else own
        cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]


class GeneralPTNN(_QlibModel):
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

    OPTIONS: ClassVar[TrainingOptions] = {"scheduler": _PLATEAU}

    def __init__(
        self,
        pt_model_uri: str = "qlib.contrib.model.pytorch_gru_ts.GRUModel",
        pt_model_kwargs: Document | None = None,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        if pt_model_kwargs is None:
            pt_model_kwargs = {"d_feat": 6, "hidden_size": 64, "num_layers": 2, "dropout": 0.0}
        self.pt_model_uri, self.pt_model_kwargs = pt_model_uri, mapping("pt_model_kwargs", pt_model_kwargs)
        self.params = dict(kwargs)
        options: TrainingOptions = {**self.OPTIONS, **kwargs}
        super().__init__(_dotted(pt_model_uri), self.pt_model_kwargs, **options)


class DNNModelPytorch(_QlibModel):
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

    OPTIONS: ClassVar[TrainingOptions] = {"clip": None}

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
        self.pt_model_uri, self.pt_model_kwargs = pt_model_uri, mapping("pt_model_kwargs", pt_model_kwargs)
        self.params = dict(kwargs)
        options: OptimizationOptions = {"clip": None, **kwargs}
        super().__init__(
            _dotted(pt_model_uri), self.pt_model_kwargs, n_epochs=math.ceil(max_steps / eval_steps), lr=lr,
            batch_size=batch_size, early_stop=early_stop_rounds, loss=loss, optimizer=optimizer, scheduler=scheduler,
            **options,
        )  # fmt: skip
        self.batches, self.last_batches = eval_steps, max_steps % eval_steps or None


class DescribedModel(_QlibModel):
    """A module of :mod:`~rollforge.models.torch_networks`, whose arguments are attributes of the model."""

    NETWORKS: ClassVar[str] = "rollforge.models.torch_networks"
    NETWORK: ClassVar[str]

    @abstractmethod
    def __init__(self) -> None:
        """Each model names its own arguments, and passes them to :meth:`_of`."""

    def _of(self, arguments: Mapping[str, object], given: TrainingOptions) -> None:
        for name, value in arguments.items():
            setattr(self, name, value)
        training: TrainingOptions = {**self.OPTIONS, **given}
        self.params = dict(training)
        super().__init__({"class": self.NETWORK, "module_path": self.NETWORKS, "kwargs": dict(arguments)}, **training)


class GRU(DescribedModel):
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


class ALSTM(DescribedModel):
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


class TCN(DescribedModel):
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
    OPTIONS: ClassVar[TrainingOptions] = {"lr": 0.0001}

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
        self._of({**arguments, "kernel_size": kernel_size, "dropout": dropout}, kwargs)


class TSTCN(TCN):
    """:class:`TCN` with the defaults that Qlib has for samples of several days (``pytorch_tcn_ts``)."""

    OPTIONS: ClassVar[TrainingOptions] = {"lr": 0.001}

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


class TransformerModel(DescribedModel):
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
    OPTIONS: ClassVar[TrainingOptions] = {
        "batch_size": 2048,
        "n_epochs": 100,
        "lr": 0.0001,
        "early_stop": 5,
        "weight_decay": 0.001,
    }

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
        self._of(arguments, {"weight_decay": reg, **kwargs})


class TSTransformerModel(TransformerModel):
    """:class:`TransformerModel` with batches of 8,192 samples, Qlib's default for samples of several days."""

    OPTIONS: ClassVar[TrainingOptions] = {**TransformerModel.OPTIONS, "batch_size": 8192}


class LocalformerModel(TransformerModel):
    """A transformer's encoder with convolutions, then a recurrent network; with the arguments of
    :class:`TransformerModel`."""

    NETWORK = "Localformer"


class TSLocalformerModel(LocalformerModel):
    """:class:`LocalformerModel` with batches of 8,192 samples, Qlib's default for samples of several days."""

    OPTIONS: ClassVar[TrainingOptions] = {**TransformerModel.OPTIONS, "batch_size": 8192}


class GATs(DescribedModel):
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
    OPTIONS: ClassVar[TrainingOptions] = {"by_day": True}

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
        self.model_path = weights_file(model_path)
        arguments = {"d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout}
        self._of({**arguments, "base_model": base_model}, {**kwargs, "by_day": True})
        self.begins_with_files = model_path is not None

    def _first_network(self) -> Network:
        network = super()._first_network()
        if self.model_path is not None:
            given = self.module["kwargs"]
            recurrent_weights(self.model_path, network, given["base_model"], given["hidden_size"], prefix="rnn.")
        return network


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


class KRNN(DescribedModel):
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


class Sandwich(DescribedModel):
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


class SFM(DescribedModel):
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
    OPTIONS: ClassVar[TrainingOptions] = {"optimizer": "gd"}

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
        self._of(arguments, kwargs)


def _dotted(uri: object) -> dict[str, str]:
    """Return the description of a class that is named by a dotted path."""
    if not isinstance(uri, str) or "." not in uri:
        raise ConfigError(f"must be the dotted path of a class, found {shown(uri)}.", path="pt_model_uri")
    module_path, _, name = uri.rpartition(".")
    return {"class": name, "module_path": module_path}


def weights_file(path: object, name: str = "model_path") -> str | None:
    """Return the path of a file of weights as text.

    Parameters
    ----------
    path : object
        The argument.
    name : str
        Its name, for the error.

    Raises
    ------
    ConfigError
        If it is not a path.
    """
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"must be a path, found {shown(path)}.", path=name)
    return None if path is None else str(os.fspath(path))


def recurrent_weights(file: str, network: Network, base_model: str, hidden_size: int, *, prefix: str = "") -> None:
    """Set the weights of a module to those in a file of a recurrent network, where both have weights of a name.

    Parameters
    ----------
    file : path
        File of the weights of a :class:`GRU` or :class:`LSTM` module.
    network : Module
        The recurrent network, or a module that contains it.
    base_model, hidden_size
        What the file should have, for messages.
    prefix : str
        What the names of the recurrent network's weights begin with in `network`.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has no suitable weights.
    """
    from rollforge.models import torch_training as training

    try:
        found = training.read_weights(Path(file))
    except Exception as exc:  # whatever a damaged file raises
        raise ConfigError(f"the weights in {file!r} cannot be read: {describe(exc)}", path="model_path") from exc
    own = network.state_dict()
    named = {name if prefix else name.removeprefix("rnn."): value for name, value in found.items()}
    kept = {name: value for name, value in named.items() if name in own and value.shape == tuple(own[name].shape)}
    if not any(name.startswith(prefix) for name in kept):
        raise ConfigError(
            f"{file!r} has no weights of a {base_model} with hidden_size {hidden_size}.", path="model_path"
        )
    training.with_weights(network, {**{name: value.numpy() for name, value in own.items()}, **kept})
