"""ADD: separates what a score says about an instrument from what it says about the market. Importing this file does not
import PyTorch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from rollforge.arguments import check_choice, check_penalty
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.models.torch import LIBRARY as LIBRARY, OwnOptions
from rollforge.models.torch_models import DescribedModel, recurrent_weights, weights_file
from rollforge.models.torch_samples import Examples, OwnDays

if TYPE_CHECKING:
    from rollforge.models.torch_training import Network

__all__ = ["ADD"]


class ADD(DescribedModel):
    """ADD: two recurrent encoders, one of which learns the scores, and the other one the state of the market.

    The state of a day is the mean of its unprocessed labels: below, within or above the middle third of the days of the train
    segment. Each encoder also learns to be useless for the target of the other one.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    hidden_size, num_layers : int
        Size and number of the recurrent layers.
    dropout, dec_dropout : float
        Share of the values that are dropped between layers of the encoders, and of the decoder.
    n_epochs, lr, metric, batch_size, early_stop, optimizer, GPU, seed
        See :class:`TorchModel`.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent networks.
    model_path : path, optional
        File with the weights of a :class:`GRU` or :class:`LSTM` module, with which both encoders begin.
    gamma, gamma_clip : float
        How fast the strength of the reversed gradients grows with the epochs, and its maximum.
    mu : float
        Weight of the reconstruction of the features in the loss.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_add_network"
    NETWORK = "ADDModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        dec_dropout: float = 0.0,
        n_epochs: int = 200,
        lr: float = 0.001,
        metric: str = "mse",
        batch_size: int = 5000,
        early_stop: int = 20,
        base_model: str = "GRU",
        model_path: str | None = None,
        optimizer: str = "adam",
        gamma: float = 0.1,
        gamma_clip: float = 0.4,
        mu: float = 0.05,
        GPU: int | str = 0,  # noqa: N803 - Qlib's name
        seed: int | None = None,
        **kwargs: Unpack[OwnOptions],
    ) -> None:
        check_choice("base_model", base_model, ("GRU", "LSTM"))
        check_choice("loss", kwargs.get("loss", "mse"), ("mse",))
        for name, value in (("gamma", gamma), ("gamma_clip", gamma_clip), ("mu", mu)):
            check_penalty(name, value)
        self.model_path = weights_file(model_path)
        options: Any = {
            "n_epochs": n_epochs, "lr": lr, "metric": metric, "batch_size": batch_size, "early_stop": early_stop,
            "optimizer": optimizer, "GPU": GPU, "seed": seed, **kwargs,
        }  # fmt: skip
        arguments = {
            "d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "dec_dropout": dec_dropout, "base_model": base_model, "gamma": gamma, "gamma_clip": gamma_clip, "mu": mu,
        }  # fmt: skip
        self._of(arguments, options)
        self.begins_with_files = model_path is not None

    def _first_network(self) -> Network:
        network = super()._first_network()
        if self.model_path is not None:
            given = self.module["kwargs"]
            for encoder in (network.enc_excess, network.enc_market):
                recurrent_weights(self.model_path, encoder, given["base_model"], given["hidden_size"])
        return network

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        raw = OwnDays(dataset).prepare("train", col_set=["label"], data_key=DataHandlerLP.DK_R).iloc[:, 0]
        label = raw.reindex(train.index[train.usable]).to_numpy(np.float64)
        known, days = np.isfinite(label), train.days()
        count = np.bincount(days, known)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(days, np.where(known, label, 0.0)) / count
        limits = np.quantile(mean[count > 0], [1 / 3, 2 / 3]) if known.any() else np.zeros(2)
        state = np.where(count > 0, np.searchsorted(limits, mean), -1)
        return dataclasses.replace(train, group=state[days])
