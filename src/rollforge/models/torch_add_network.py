"""The module of ADD (Tang et al., 2020, https://arxiv.org/abs/2012.06289), with Qlib's formulas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import recurrent, steps_of

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

if TYPE_CHECKING:
    from rollforge.models.torch_training import Target

Tensor = Any  # torch.Tensor, whose types are not read

STATES = 3
"""Number of states of the market."""


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """Return the same values, whose gradient is multiplied by -`strength`: what is below learns the opposite."""
    same = x.view_as(x)
    if same.requires_grad:
        same.register_hook(lambda gradient: -strength * gradient)
    return same


def _head(size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.BatchNorm1d(size), nn.Tanh(), nn.Linear(size, outputs))


class ADDModel(nn.Module):
    """Two recurrent encoders: one learns the scores and nothing of the market's state, the other one the opposite.

    Each encoder has a head that learns its target, and one that learns the other's target, whose gradient is reversed in the
    encoder. A decoder reconstructs the features from what both have found.

    Parameters
    ----------
    d_feat, hidden_size, num_layers : int
        Number of features of a day; size and number of the recurrent layers.
    dropout, dec_dropout : float
        Share of the values that are dropped between layers of the encoders, and of the decoder.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent networks.
    gamma, gamma_clip : float
        How fast the strength of the reversed gradient grows with the epochs, and its maximum.
    mu : float
        Weight of the reconstruction in the loss.
    """

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        dec_dropout: float = 0.0,
        base_model: str = "GRU",
        gamma: float = 0.1,
        gamma_clip: float = 0.4,
        mu: float = 0.05,
    ) -> None:
        super().__init__()
        self.d_feat, self.gamma, self.gamma_clip, self.mu = d_feat, gamma, gamma_clip, mu
        self.enc_excess, self.enc_market = (
            recurrent(base_model, d_feat, hidden_size, num_layers, dropout) for _ in range(2)
        )
        self.decoder = recurrent(base_model, d_feat, 2 * hidden_size, num_layers, dec_dropout)
        self.decoded = nn.Linear(2 * hidden_size, d_feat)
        size = hidden_size * num_layers
        self.pred_excess, self.adv_excess = (_head(size, 1) for _ in range(2))
        self.pred_market, self.adv_market = (_head(size, STATES) for _ in range(2))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))  # so that it is part of a checkpoint

    @property
    def strength(self) -> float:
        """The factor of the reversed gradient, which is 0 in the first epoch."""
        return min(self.gamma_clip, 2 / (1 + math.exp(-self.gamma * int(self.epoch))) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pred_excess(_last(self.enc_excess(steps_of(x, self.d_feat))[1]))

    def training_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the errors of all heads, and of the reconstruction. The group of a sample is the market's state.

        The state of a day without one is -1, and not learned.
        """
        x = steps_of(features, self.d_feat)
        (_, excess), (_, market) = self.enc_excess(x), self.enc_market(x)
        score, state = _last(excess), _last(market)
        losses = (
            self._of_label(self.pred_excess(score), target)
            + self._of_state(self.pred_market(state), target)
            + self._of_label(self.adv_excess(reversed_gradient(state, self.strength)), target)
            + self._of_state(self.adv_market(reversed_gradient(score, self.strength)), target)
            + self.mu * (self.reconstructed(excess, market, x.shape[1]) - x).square().mean(dim=(1, 2))
        )
        return (losses if target.weight is None else losses * target.weight).mean()

    def _of_label(self, found: Tensor, target: Target) -> Tensor:
        return (found[:, 0] - target.label).square()

    def _of_state(self, found: Tensor, target: Target) -> Tensor:
        return functional.cross_entropy(found, target.group, ignore_index=-1, reduction="none")

    def reconstructed(self, excess: Tensor, market: Tensor, steps: int) -> Tensor:
        """Return the features of each step, computed from the step before: (samples, steps, features)."""
        if isinstance(excess, tuple):
            hidden: Any = tuple(torch.cat(pair, dim=-1) for pair in zip(excess, market, strict=True))
        else:
            hidden = torch.cat([excess, market], dim=-1)
        first = excess[0] if isinstance(excess, tuple) else excess
        step = first.new_zeros(first.shape[1], 1, self.d_feat)
        found: list[Tensor] = []
        for _ in range(steps):
            out, hidden = self.decoder(step, hidden)
            step = self.decoded(out)
            found.append(step)
        return torch.cat(found, dim=1)

    def end_epoch(self) -> None:
        """Count the epochs, with which the strength of the reversed gradient grows."""
        self.epoch += 1


def _last(hidden: Tensor) -> Tensor:
    """Return the last hidden values of all layers for each sample; of an LSTM without its cells."""
    values = hidden[0] if isinstance(hidden, tuple) else hidden
    return values.transpose(0, 1).flatten(1)
