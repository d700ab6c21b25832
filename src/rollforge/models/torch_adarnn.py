"""AdaRNN: recurrent networks that learn what several periods have in common. Importing this file does not import PyTorch."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import numpy as np

from rollforge.arguments import check_choice, check_penalty, whole_number
from rollforge.errors import ConfigError, ModelError
from rollforge.features.dataset import Dataset
from rollforge.models.torch import LIBRARY as LIBRARY, OwnOptions
from rollforge.models.torch_models import DescribedModel
from rollforge.models.torch_samples import Examples

__all__ = ["ADARNN"]

_DISTANCES = ("cosine", "cos", "mmd", "mmd_lin", "mmd_rbf", "coral", "pairwise")


class ADARNN(DescribedModel):
    """AdaRNN: the days of the train segment are split into periods, whose hidden values are made similar.

    The loss of the training is the squared error plus a distance between the hidden values of two periods, weighted by layer
    and step. In the first epochs a gate learns the weights; later the weights of steps are increased whose distance grew.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    hidden_size, num_layers : int
        Size and number of the recurrent layers.
    dropout : float
        Share of the values that are dropped between layers.
    n_epochs : int
        Maximum number of epochs.
    pre_epoch : int
        Number of epochs in which the gate learns the weights.
    dw : float
        Weight of the distances in the loss.
    loss_type : {"cosine", "mmd", "mmd_rbf", "coral", "pairwise"}
        The distance: of the signs of the means, of the means, of the distributions, of the covariances, or of all pairs.
    len_seq : int
        Number of days of a sample.
    len_win : int
        In the first epochs, a day of one period is compared with days of the other that are at most as far away.
    lr, metric, batch_size, early_stop, optimizer, GPU, seed
        See :class:`TorchModel`. A batch has `batch_size` samples of each period.
    loss : {"mse"}
        The squared error.
    n_splits : int
        Number of periods, which have about equally many days.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_adarnn_network"
    NETWORK = "AdaRNNModel"
    balanced = True

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        n_epochs: int = 200,
        pre_epoch: int = 40,
        dw: float = 0.5,
        loss_type: str = "cosine",
        len_seq: int = 60,
        len_win: int = 0,
        lr: float = 0.001,
        metric: str = "mse",
        batch_size: int = 2000,
        early_stop: int = 20,
        loss: str = "mse",
        optimizer: str = "adam",
        n_splits: int = 2,
        GPU: int | str = 0,  # noqa: N803 - Qlib's name
        seed: int | None = None,
        **kwargs: Unpack[OwnOptions],
    ) -> None:
        whole_number(n_splits, "n_splits", least=2)
        for name, count in (("pre_epoch", pre_epoch), ("len_win", len_win)):
            whole_number(count, name, least=0)
        for name, count in (("num_layers", num_layers), ("len_seq", len_seq)):
            whole_number(count, name)
        check_penalty("dw", dw)
        check_choice("loss_type", loss_type, _DISTANCES)
        check_choice("loss", loss, ("mse",))
        if kwargs.get("by_day"):
            raise ConfigError("must be false, because a batch has samples of all periods.", path="by_day")
        options: Any = {
            "n_epochs": n_epochs, "lr": lr, "metric": metric, "batch_size": batch_size, "early_stop": early_stop,
            "loss": loss, "optimizer": optimizer, "GPU": GPU, "seed": seed, **kwargs,
        }  # fmt: skip
        arguments = {
            "d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "pre_epoch": pre_epoch, "dw": dw, "loss_type": loss_type, "len_seq": len_seq, "len_win": len_win,
            "n_splits": n_splits,
        }  # fmt: skip
        self._of(arguments, options)

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        days, splits = train.days(), self.module["kwargs"]["n_splits"]
        count = int(days[-1]) + 1
        if count < splits:
            raise ModelError(
                f"{type(self).__name__} splits the train segment into {splits} periods, but it has samples of {count} days "
                "only. Use a smaller n_splits."
            )
        starts = [part[0] for part in np.array_split(np.arange(count), splits)]
        return dataclasses.replace(train, group=np.searchsorted(starts, days, side="right") - 1)
