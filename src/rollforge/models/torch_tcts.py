"""TCTS: learns several labels, and how much each of them helps. Importing this file does not import PyTorch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from rollforge.arguments import check_choice, check_penalty, whole_number
from rollforge.errors import ConfigError, ModelError, shown
from rollforge.features.dataset import Dataset
from rollforge.models.torch import LIBRARY as LIBRARY, OPTIMIZERS, OwnOptions
from rollforge.models.torch_models import DescribedModel
from rollforge.models.torch_samples import Examples

if TYPE_CHECKING:
    from rollforge.models.torch_training import Network, Settings, Stage, Trained

__all__ = ["TCTS"]

log = logging.getLogger(__name__)


class TCTS(DescribedModel):
    """TCTS: a recurrent network learns several labels, such as the returns after one, two and three days, to predict one.

    A second network learns from the valid segment how much each label of a sample counts in the training. The valid segment
    therefore is required, and it is used three times: for the weights, for early stopping, and to decide whether the training
    is repeated with another seed. The loss on it is better than that on later days.

    Parameters
    ----------
    d_feat : int
        Number of features of a day.
    hidden_size, num_layers : int
        Size and number of the layers of both networks.
    dropout : float
        Share of the values that are dropped between layers.
    n_epochs, batch_size, early_stop, GPU, seed
        See :class:`TorchModel`.
    loss : {"mse"}
        The squared error.
    fore_optimizer, weight_optimizer : {"adam", "adamw", "gd"}
        Optimizers of the recurrent network, and of the one that learns the weights.
    input_dim : int
        Number of features of a sample, of all its days together.
    output_dim : int
        Number of labels.
    fore_lr, weight_lr : float
        Learning rates of both networks.
    steps : int
        How often an epoch reads the train segment, before it reads the valid segment once.
    target_label : int
        Number of the label that is predicted, from 0.
    mode : {"soft", "hard"}
        Whether all labels count by their weights, or only that with the largest weight.
    lowest_valid_performance : float
        The training is repeated with another seed as long as its loss on the valid segment is above this.
    max_trainings : int
        Maximum number of trainings. After them, the one with the smallest loss is kept. Qlib does not stop.
    metric : {"loss"}
        Training stops on the loss of the target label.
    **kwargs
        Other arguments of :class:`TorchModel`. `weight_decay`, `optimizer_kwargs` and `scheduler` are those of the recurrent
        network.
    """

    NETWORKS = "rollforge.models.torch_tcts_network"
    NETWORK = "TCTSModel"
    several_labels = True

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        n_epochs: int = 200,
        batch_size: int = 2000,
        early_stop: int = 20,
        loss: str = "mse",
        fore_optimizer: str = "adam",
        weight_optimizer: str = "adam",
        input_dim: int = 360,
        output_dim: int = 5,
        fore_lr: float = 5e-7,
        weight_lr: float = 5e-7,
        steps: int = 3,
        GPU: int | str = 0,  # noqa: N803 - Qlib's name
        target_label: int = 0,
        mode: str = "soft",
        seed: int | None = None,
        lowest_valid_performance: float = 0.993,
        max_trainings: int = 10,
        metric: str = "",
        **kwargs: Unpack[OwnOptions],
    ) -> None:
        sizes = {"num_layers": num_layers, "input_dim": input_dim, "output_dim": output_dim, "steps": steps}
        for name, count in {**sizes, "max_trainings": max_trainings}.items():
            whole_number(count, name)
        whole_number(target_label, "target_label", least=0)
        if target_label >= output_dim:
            raise ConfigError(f"must be below output_dim ({output_dim}), found {target_label}.", path="target_label")
        check_choice("loss", loss, ("mse",))
        check_choice("mode", mode, ("soft", "hard"))
        check_choice("metric", metric, ("", "loss", "mse"))
        optimizers = {"fore_optimizer": fore_optimizer, "weight_optimizer": weight_optimizer}
        for name, given in optimizers.items():
            check_choice(name, given.lower() if isinstance(given, str) else given, OPTIMIZERS)
        for name, value in (("fore_lr", fore_lr), ("weight_lr", weight_lr)):
            check_penalty(name, value)
        if isinstance(lowest_valid_performance, bool) or not isinstance(lowest_valid_performance, (int, float)):
            raise ConfigError(
                f"must be a number, found {shown(lowest_valid_performance)}.", path="lowest_valid_performance"
            )
        for name, own in (("lr", "fore_lr"), ("optimizer", "fore_optimizer")):
            if name in kwargs:
                raise ConfigError(f"is not an argument of TCTS. Use {own}.", path=name)
        self.fore_optimizer, self.weight_optimizer = fore_optimizer.lower(), weight_optimizer.lower()
        self.fore_lr, self.weight_lr, self.steps = float(fore_lr), float(weight_lr), steps
        self.lowest_valid_performance, self.max_trainings = float(lowest_valid_performance), max_trainings
        self.trainings = 0
        """Number of trainings of the last fit."""
        options: Any = {
            "n_epochs": n_epochs, "lr": fore_lr, "metric": metric, "batch_size": batch_size, "early_stop": early_stop,
            "loss": loss, "optimizer": fore_optimizer, "GPU": GPU, "seed": seed, **kwargs,
        }  # fmt: skip
        arguments = {
            "d_feat": d_feat, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "input_dim": input_dim, "output_dim": output_dim, "target_label": target_label, "mode": mode,
        }  # fmt: skip
        self._of(arguments, options)

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        count, wanted = len(train.label_names), self.module["kwargs"]["output_dim"]
        if count != wanted:
            raise ModelError(
                f"{type(self).__name__} has output_dim {wanted}, but the dataset has {count} labels: "
                f"{', '.join(train.label_names)}."
            )
        if "valid" not in getattr(dataset, "segments", {"valid": None}):
            raise ModelError(
                f"{type(self).__name__} needs a segment 'valid', from which it learns the weights of labels."
            )
        return train

    def _stage(self, network: Network, train: Examples, valid: Examples | None, settings: Settings) -> Stage:
        from rollforge.models import torch_training as training

        assert valid is not None
        further = training.Further(valid, OPTIMIZERS[self.weight_optimizer], self.weight_lr)
        return training.Stage(network, train, valid, settings, passes=self.steps, further=further)

    def _trained(self, settings: Settings, begin: Callable[[Settings], Sequence[Stage]]) -> Trained:
        from rollforge.models import torch_training as training

        others = [np.random.SeedSequence([settings.seed, one]) for one in range(1, self.max_trainings)]
        seeds = [settings.seed, *(int(one.generate_state(1)[0]) for one in others)]
        repeated = [dataclasses.replace(settings, seed=seed) for seed in seeds]
        trained, self.trainings = training.train_until(self.lowest_valid_performance, repeated, begin)
        loss = min(trained.curves["loss.valid"])
        if loss > self.lowest_valid_performance:
            log.warning(
                "%s: the smallest loss on the valid segment is %g after %d trainings, which is above "
                "lowest_valid_performance (%g)",
                type(self).__name__, loss, self.trainings, self.lowest_valid_performance,
            )  # fmt: skip
        return trained
