"""TRA: several predictors, and a router that chooses by how well they did before. Importing this file does not import
PyTorch."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import check_choice, check_flag, check_number, check_penalty, whole_number
from rollforge.build import describe
from rollforge.code_marks import code_mark
from rollforge.errors import ConfigError, ModelError, nearest, shown
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.features.memory import MTSDataSampler, MTSDatasetH
from rollforge.models.base import Reweighter
from rollforge.models.torch import LIBRARY as LIBRARY, OwnOptions, mapping
from rollforge.models.torch_models import DescribedModel, weights_file
from rollforge.models.torch_samples import Examples, Windows
from rollforge.task import Definition, Document

if TYPE_CHECKING:
    from rollforge.models.torch_tra_training import Episode, Transport
    from rollforge.models.torch_training import Network, Settings, Stage, Trained

__all__ = ["TRAModel"]

_ROWS = 4096  # rows processed together
_NETWORKS: dict[str, dict[str, object]] = {
    "RNN": {"input_size": 16, "hidden_size": 64, "num_layers": 2, "rnn_arch": "GRU", "use_attn": True, "dropout": 0.0},
    "Transformer": {"input_size": 16, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.0},
}
_ROUTER: dict[str, object] = {
    "num_states": 1, "hidden_size": 8, "rnn_arch": "GRU", "num_layers": 1, "dropout": 0.0, "tau": 1.0, "src_info": "LR_TPE",
}  # fmt: skip


class TRAModel(DescribedModel):
    """TRA (temporal routing adaptor): each sample is predicted by one of several predictors.

    A router chooses it by the hidden values of a network, and by the losses of all predictors for earlier samples, which the
    model remembers. Only losses of labels that are known on the sample's day are read: the dataset, a
    :class:`~rollforge.features.memory.MTSDatasetH`, determines which ones. When the model predicts, it computes the losses of
    the days before the segment again, so its scores of a day do not depend on what was predicted before.

    With `pretrain`, the network and the predictors are trained first: each sample is assigned to predictors by its losses, so
    that all of them are used about equally. Training stops on the correlation of the ranks of scores and labels of a day.

    Parameters
    ----------
    model_config : mapping
        Arguments of the network: `input_size`, `hidden_size`, `num_layers` and `dropout`; also `rnn_arch` and `use_attn` for
        ``RNN``, and `num_heads` for ``Transformer``.
    tra_config : mapping
        `num_states`, the number of predictors, and `tau`, the temperature of the choice. Of the router: `hidden_size`,
        `rnn_arch`, `num_layers`, `dropout`, and `src_info`, what it reads: ``LR`` (hidden values), ``TPE`` (losses) or
        ``LR_TPE`` (both).
    model_type : {"RNN", "Transformer"}
        The network: a recurrent one or a transformer.
    lr : float
        Learning rate.
    n_epochs, early_stop : int
        Maximum number of epochs, and of epochs without improvement; of the pretraining too.
    update_freq : int
        Number of batches whose gradients are added up before the weights change.
    max_steps_per_epoch : int, optional
        Maximum number of batches in an epoch.
    lamb, rho : float
        Weight of the loss by which the router learns the assignment of the samples, and the factor by which this weight
        decreases every 100 batches.
    alpha : float
        Share of a sample's own losses in its assignment, from 0 to 1; the others are remembered.
    seed : int, optional
        See :class:`TorchModel`.
    logdir : path, optional
        Ignored: the weights and metrics are part of the model.
    eval_train : bool
        Whether all losses of the train segment are computed again after each epoch; they always are with a router.
    eval_test : bool
        Ignored: the test segment is not read in a training.
    pretrain : bool
        Whether the network and the predictors are trained first.
    init_state : path, optional
        File with the first weights, which Qlib's model wrote.
    reset_router : bool
        Whether the router has random weights in spite of `init_state`.
    freeze_model, freeze_predictors : bool
        Whether the weights of the network, or of the predictors, are kept.
    transport_method : {"none", "router", "oracle"}
        How samples are assigned to predictors: by the mean of all of them; by the router; or by their losses. To predict with
        ``oracle``, samples are assigned by remembered losses alone.
    memory_mode : {"sample", "daily"}
        Whether the losses of each row are remembered, or the means of each day; must be that of the dataset.
    GPU : int or str
        See :class:`TorchModel`.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_tra_network"
    NETWORK = "TRANetwork"

    def __init__(
        self,
        model_config: Document,
        tra_config: Document,
        model_type: str = "RNN",
        lr: float = 0.001,
        n_epochs: int = 500,
        early_stop: int = 50,
        update_freq: int = 1,
        max_steps_per_epoch: int | None = None,
        lamb: float = 0.0,
        rho: float = 0.99,
        alpha: float = 1.0,
        seed: int | None = None,
        logdir: object = None,
        eval_train: bool = False,
        eval_test: bool = False,
        pretrain: bool = False,
        init_state: str | None = None,
        reset_router: bool = False,
        freeze_model: bool = False,
        freeze_predictors: bool = False,
        transport_method: str = "none",
        memory_mode: str = "sample",
        GPU: int | str = 0,  # noqa: N803 - as for the other models
        **kwargs: Unpack[OwnOptions],
    ) -> None:
        check_choice("model_type", model_type, _NETWORKS)
        check_choice("transport_method", transport_method, ("none", "router", "oracle"))
        check_choice("memory_mode", memory_mode, ("sample", "daily"))
        whole_number(update_freq, "update_freq")
        if max_steps_per_epoch is not None:
            whole_number(max_steps_per_epoch, "max_steps_per_epoch")
        check_penalty("lamb", lamb)
        for name, share in (("rho", rho), ("alpha", alpha)):
            check_number(name, share)
            if not 0 <= share <= 1:
                raise ConfigError(f"must be a number from 0 to 1, found {shown(share)}.", path=name)
        for name, flag in (
            ("eval_train", eval_train), ("eval_test", eval_test), ("pretrain", pretrain), ("reset_router", reset_router),
            ("freeze_model", freeze_model), ("freeze_predictors", freeze_predictors),
        ):  # fmt: skip
            check_flag(name, flag)
        if kwargs.get("by_day"):
            raise ConfigError("must be false: the batch_size of the dataset says what a batch has.", path="by_day")
        network = _network_arguments(model_type, mapping("model_config", model_config))
        router = _router_arguments(mapping("tra_config", tra_config))
        if router["num_states"] == 1 and (transport_method != "none" or pretrain):
            needed = "pretrain" if transport_method == "none" else f"transport_method: {transport_method}"
            raise ConfigError(f"must be at least 2, because of {needed}.", path="tra_config.num_states")
        if memory_mode == "daily" and router["src_info"] != "TPE":
            raise ConfigError(
                f"must be 'TPE' with memory_mode: daily, found {router['src_info']!r}: all samples of a day have the same "
                "predictor.",
                path="tra_config.src_info",
            )
        if freeze_model and freeze_predictors and (pretrain or transport_method != "router"):
            raise ConfigError(
                "must be false, because freeze_model is true: nothing is left to train.", path="freeze_predictors"
            )
        self.init_state = weights_file(init_state, "init_state")
        self.update_freq, self.max_steps_per_epoch = update_freq, max_steps_per_epoch
        self.lamb, self.rho, self.alpha = float(lamb), float(rho), float(alpha)
        self.logdir, self.eval_train, self.eval_test = None, bool(eval_train), bool(eval_test)
        self.pretrain, self.reset_router = bool(pretrain), bool(reset_router)
        self.freeze_model, self.freeze_predictors = bool(freeze_model), bool(freeze_predictors)
        self.transport_method, self.memory_mode = transport_method, memory_mode
        options: Any = {
            "lr": lr, "n_epochs": n_epochs, "early_stop": early_stop, "seed": seed, "GPU": GPU, "metric": "rank_ic",
            "clip": None, **kwargs,
        }  # fmt: skip
        self._of({"model_type": model_type, "model_config": network, "tra_config": router}, options)
        self.by_day = True  # the valid segment

    def fit(
        self,
        dataset: Dataset,
        evals_result: dict[str, list[float]] | None = None,
        save_path: object = None,
        reweighter: Reweighter | None = None,
        **kwargs: object,
    ) -> None:
        """Fit on the train segment; see :meth:`TorchModel.fit`.

        Raises
        ------
        ModelError
            If the dataset is no :class:`~rollforge.features.memory.MTSDatasetH`, or has another memory.
        """
        self._remembering(dataset)
        super().fit(dataset, evals_result, save_path, reweighter, **kwargs)

    def predict(self, dataset: Dataset, segment: str | slice = "test") -> pd.Series:
        """Return the scores of a segment; see :meth:`TorchModel.predict`. The labels of earlier days are read."""
        if self.weights is not None:
            self._remembering(dataset)
        return super().predict(dataset, segment)

    def _remembering(self, dataset: Dataset) -> MTSDatasetH:
        name = type(self).__name__
        if not isinstance(dataset, MTSDatasetH):
            raise ModelError(f"{name} needs an MTSDatasetH, whose samples remember, found a {type(dataset).__name__}.")
        states = self.module["kwargs"]["tra_config"]["num_states"]
        used = self.pretrain or self.transport_method != "none"
        for argument, own, given in (
            ("num_states", states, dataset.num_states), ("memory_mode", self.memory_mode, dataset.memory_mode),
        ):  # fmt: skip
            if used and own != given:
                raise ModelError(f"{name} has {argument} {own}, but its dataset has {given}. Both must be equal.")
        return dataset

    def _first_network(self) -> Network:
        network = super()._first_network()
        if self.init_state is not None:
            _load_state(network, self.init_state)
        if self.reset_router and network.tra.num_states > 1:
            network.tra.reset_router()
        network.model.requires_grad_(not self.freeze_model)
        network.tra.predictors.requires_grad_(not self.freeze_predictors)
        return network

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        # The memory finds a sample by its number among the usable ones.
        return dataclasses.replace(train, group=np.arange(len(train.usable)))

    def _stages(self, last: Stage, dataset: Dataset, reweighter: Reweighter | None) -> list[Stage]:
        from rollforge.models import torch_tra_training as tra

        data, network, settings = self._remembering(dataset), last.network, last.settings
        train, unknown = self._train_episode(last.train)
        valid = None
        if last.valid is not None:
            index = last.valid.index[last.valid.usable]
            valid = self._episode(data, "valid", index, self.valid_key, remembering=True)
        sampled = tra.Sampled(
            data.batch_size, data.n_samples, bool(data.shuffle), bool(data.drop_last), self.max_steps_per_epoch
        )
        arguments: dict[str, object] = {
            "code": [code_mark(one) for one in (type(network), type(network.model), type(network.tra))],
            "memory": [data.memory_mode, data.seq_len, data.horizon, data.input_size],
            "past": None if valid is None else valid.examples.mark(),
            "frozen": [self.freeze_model, self.freeze_predictors],
            "options": [self.transport_method, self.alpha, self.lamb, self.rho, self.eval_train],
            "weights": _mark(network),
        }  # fmt: skip
        stages = []
        if self.pretrain:
            first = tra.TRAPretraining(network, train, unknown, valid, settings, self.alpha)
            stages.append(dataclasses.replace(
                last, network=first, name="pretrain_", sampling=sampled, arguments=arguments,
            ))  # fmt: skip
        transport = self._transport()
        training = tra.TRATraining(
            network, train, unknown, valid, settings, transport, lamb=self.lamb, rho=self.rho,
            refreshed=transport.method != "none", renewed=transport.method == "router" or self.eval_train,
        )  # fmt: skip
        return [*stages, dataclasses.replace(last, network=training, sampling=sampled, arguments=arguments)]

    def _trained(self, settings: Settings, begin: Callable[[Settings], Sequence[Stage]]) -> Trained:
        from rollforge.models import torch_training as training

        trained = super()._trained(settings, begin)
        network = trained.network.network  # without the memory
        return trained._replace(network=network, weights=training.weights_of(network))

    def _transport(self) -> Transport:
        from rollforge.models.torch_tra_training import Transport

        return Transport(self.transport_method, self.alpha)

    def _train_episode(self, train: Examples) -> tuple[Episode, NDArray[np.int64]]:
        """Return the samples of the train segment, and the slots of those that are not learned from."""
        from rollforge.models.torch_tra_training import Episode

        source = train.source
        assert isinstance(source, Windows)
        sampler = source.sampler
        assert isinstance(sampler, MTSDataSampler)
        places = source.order[train.usable]
        own = sampler.own_slots(np.arange(len(sampler)))
        unknown = np.setdiff1d(own, sampler.own_slots(places))
        return Episode(train, sampler, places, np.zeros(len(places), bool)), unknown

    def _episode(
        self, data: MTSDatasetH, segment: str | slice, index: pd.Index, data_key: str, *, remembering: bool
    ) -> Episode:
        """Return the samples of `index`, and all earlier ones that they remember.

        Parameters
        ----------
        data : MTSDatasetH
            The dataset.
        segment : str or slice
            The segment of the samples.
        index : Index
            Datetime and instrument of the samples, sorted.
        data_key : str
            State of the features. The labels are always those for learning.
        remembering : bool
            Whether earlier samples are remembered.
        """
        from rollforge.models.torch_tra_training import Episode

        sampler = data.until(segment, "feature", data_key)
        frame, order = sampler.own_days()
        rows = frame.index
        scored = np.zeros(len(rows), bool)
        scored[rows.get_indexer(index)] = True
        label = np.full(len(rows), np.nan, np.float32)
        used = scored
        if remembering:
            found = data.labels_until(segment, DataHandlerLP.DK_L).iloc[:, 0].reindex(rows).to_numpy(np.float32)
            label = np.where(np.isfinite(found), found, np.float32(np.nan))
            places = np.flatnonzero(scored)
            wanted = np.zeros(sampler.slots + 1, bool)
            for at in range(0, len(places), _ROWS):
                wanted[sampler.remembered(order[places[at : at + _ROWS]])] = True
            wanted[-1] = False
            used = scored | wanted[sampler.own_slots(order)]
        usable = np.flatnonzero(used)
        examples = Examples(rows, Windows(sampler, order), usable, label[usable], None)
        return Episode(examples, sampler, order[usable], scored[usable])

    def _scores(
        self, network: Network, examples: Examples, settings: Settings, dataset: Dataset, segment: str | slice
    ) -> NDArray[np.float32]:
        from rollforge.models import torch_tra_training as tra, torch_training as training

        transport = self._transport()
        remembering = transport.reads_memory(network)
        index = examples.index[examples.usable]
        episode = self._episode(self._remembering(dataset), segment, index, DataHandlerLP.DK_I, remembering=remembering)
        memory = tra.new_memory(episode.sampler, network.tra.num_states).to(settings.device) if remembering else None
        with training.limited(settings.seed, settings.device):
            network.to(settings.device)
            return tra.evaluate(network, episode, settings, transport, memory)


def _network_arguments(model_type: str, given: Definition) -> Definition:
    """Return the arguments of a network with Qlib's defaults, without those of the other kind."""
    known = {name for defaults in _NETWORKS.values() for name in defaults}
    _check_names("model_config", given, known)
    found: Definition = {**_NETWORKS[model_type], **{k: v for k, v in given.items() if k in _NETWORKS[model_type]}}
    for name in ("input_size", "hidden_size", "num_layers"):
        whole_number(found[name], f"model_config.{name}")
    _check_share("model_config.dropout", found["dropout"])
    if model_type == "RNN":
        check_choice("model_config.rnn_arch", found["rnn_arch"], ("GRU", "LSTM", "RNN"))
        check_flag("model_config.use_attn", found["use_attn"])
    elif found["hidden_size"] % whole_number(found["num_heads"], "model_config.num_heads"):
        raise ConfigError(
            f"must divide hidden_size, {found['hidden_size']}, found {found['num_heads']}.",
            path="model_config.num_heads",
        )
    return found


def _router_arguments(given: Definition) -> Definition:
    _check_names("tra_config", given, _ROUTER)
    found: Definition = {**_ROUTER, **given}
    for name in ("num_states", "hidden_size", "num_layers"):
        whole_number(found[name], f"tra_config.{name}")
    check_choice("tra_config.rnn_arch", found["rnn_arch"], ("GRU", "LSTM", "RNN"))
    check_choice("tra_config.src_info", found["src_info"], ("LR", "TPE", "LR_TPE"))
    _check_share("tra_config.dropout", found["dropout"])
    check_penalty("tra_config.tau", found["tau"])
    if not found["tau"]:
        raise ConfigError("must be greater than 0.", path="tra_config.tau")
    return found


def _check_names(path: str, given: Mapping[str, object], known: Any) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"is not an argument.{nearest(str(name), known)} Known: {', '.join(sorted(known))}.",
                path=f"{path}.{name}",
            )


def _check_share(path: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigError(f"must be a number from 0 to less than 1, found {shown(value)}.", path=path)


def _load_state(network: Network, file: str) -> None:
    """Set the weights of a network to those in a file of Qlib's: all of the network, and those of the router that fit.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has other weights.
    """
    from rollforge.models import torch_training as training

    try:
        found = training.read_weight_groups(Path(file), ("model", "tra"))
        own = network.tra.state_dict()
        fitting = {
            name: value for name, value in found["tra"].items() if name in own and value.shape == own[name].shape
        }
        training.with_weights(network.model, found["model"])
        training.with_weights(network.tra, {**{name: value.numpy() for name, value in own.items()}, **fitting})
    except Exception as exc:  # whatever a damaged file raises
        raise ConfigError(f"the weights in {file!r} cannot be used: {describe(exc)}", path="init_state") from exc


def _mark(network: Network) -> int:
    total = 0
    for value in network.state_dict().values():
        total = zlib.crc32(np.ascontiguousarray(value.numpy()).view(np.uint8).reshape(-1).data, total)
    return total
