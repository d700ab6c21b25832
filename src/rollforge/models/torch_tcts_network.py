"""The modules of TCTS (Wu et al., 2021, http://proceedings.mlr.press/v139/wu21e.html), with Qlib's formulas."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import GRUModel

try:
    import torch
    from torch import nn
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

if TYPE_CHECKING:
    from rollforge.models.torch_training import Target

Tensor = Any  # torch.Tensor, whose types are not read


class TCTSModel(nn.Module):
    """A recurrent network that learns several labels, and dense layers that say how much each label counts for a sample.

    Parameters
    ----------
    d_feat, hidden_size, num_layers : int
        Number of features of a day; size and number of the layers of both networks.
    dropout : float
        Share of the values that are dropped between layers.
    input_dim, output_dim : int
        Number of features of a sample, and of labels.
    target_label : int
        Number of the label that is to be predicted.
    mode : {"soft", "hard"}
        Whether all labels count, or only that with the largest weight.
    """

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        input_dim: int = 360,
        output_dim: int = 5,
        target_label: int = 0,
        mode: str = "soft",
    ) -> None:
        super().__init__()
        self.input_dim, self.target_label, self.mode = input_dim, target_label, mode
        self.fore_model = GRUModel(d_feat, hidden_size, num_layers, dropout)
        size, layers = input_dim + 3 * output_dim + 1, []
        for number in range(num_layers):
            layers += [nn.Dropout(dropout)] if number else []
            layers += [nn.Linear(hidden_size if number else size, hidden_size), nn.ReLU()]
        self.weight_model = nn.Sequential(*layers, nn.Linear(hidden_size, output_dim), nn.Softmax(dim=1))
        self._before: list[Any] = []  # in a list, so that it is not a part of the module

    def forward(self, x: Tensor) -> Tensor:
        return self.fore_model(x)

    def training_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the errors of all labels, weighted by what the network said before the epoch. Only the latter learns."""
        if not self._before:  # this is the first batch of an epoch, also if the training continues from a checkpoint
            self._before = [copy.deepcopy(self.fore_model).train(False)]
        with torch.no_grad():
            weights = self.label_weights(features, target.label, self._before[0](features)[:, 0])
        errors = (self.fore_model(features) - target.label).square()
        if self.mode == "hard":
            losses = errors.gather(1, weights.argmax(dim=1, keepdim=True))[:, 0]
        else:
            losses = (errors * weights).mean(dim=1)
        return _mean(losses, target)

    def further_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the error of the target label times the logarithm of the largest weight. Only the weights are learned."""
        with torch.no_grad():
            found = self.fore_model(features)[:, 0]
            error = self._error(found, target)
            if target.weight is not None:
                error = error / target.weight.mean()
        weights = self.label_weights(features, target.label, found)
        return error * _mean(weights.max(dim=1).values.log(), target)

    def validation_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the error of the target label."""
        return self._error(self.fore_model(features)[:, 0], target)

    def end_epoch(self) -> None:
        """Forget the network before the epoch."""
        self._before = []

    def label_weights(self, features: Tensor, label: Tensor, found: Tensor) -> Tensor:
        """Return the weight of each label for each sample: (samples, labels), which add up to 1."""
        values = features.flatten(1)
        if values.shape[1] != self.input_dim:
            raise ValueError(f"input_dim is {self.input_dim}, but a sample has {values.shape[1]} features")
        task = torch.zeros_like(label)
        task[:, self.target_label] = 1
        found = found[:, None]
        return self.weight_model(torch.cat([values, found - label, label, found, task], dim=1))

    def _error(self, found: Tensor, target: Target) -> Tensor:
        return _mean((found - target.label[:, self.target_label]).square(), target)


def _mean(losses: Tensor, target: Target) -> Tensor:
    return (losses if target.weight is None else losses * target.weight).mean()
