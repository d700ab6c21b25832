"""The module of HIST (Xu et al., 2021, https://arxiv.org/abs/2110.13716), with Qlib's formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import Stored, cosines, recurrent, steps_of

try:
    import torch
    from torch import nn
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

Tensor = Any  # torch.Tensor, whose types are not read


class HISTModel(nn.Module):
    """A recurrent network, whose hidden values are split into what instruments share and what they do not.

    First what the instruments of a known concept share, then what those share that are similar on the day; a linear layer on
    the sum of all parts is the score.

    Parameters
    ----------
    d_feat, hidden_size, num_layers : int
        Number of features of a day; size and number of the recurrent layers.
    dropout : float
        Share of the values that are dropped between layers.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent network.
    """

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        base_model: str = "GRU",
    ) -> None:
        super().__init__()
        self.d_feat = d_feat
        self.rnn = recurrent(base_model, d_feat, hidden_size, num_layers, dropout)
        for name in ("fc_es", "fc_is", "fc_es_fore", "fc_is_fore", "fc_es_back", "fc_is_back", "fc_indi"):
            layer = nn.Linear(hidden_size, hidden_size)
            nn.init.xavier_uniform_(layer.weight)
            setattr(self, name, layer)
        self.fc_out = nn.Linear(hidden_size, 1)
        self.concepts = Stored(saved=True)
        """(stocks + 1, concepts): the last row is that of instruments without a number."""

    def set_concepts(self, concepts: NDArray[np.float32]) -> None:
        """Set the concepts of the stocks: (stocks, concepts)."""
        self.concepts.value = torch.from_numpy(np.vstack([concepts, np.zeros_like(concepts[:1])]))

    def of_groups(self, features: Tensor, group: Tensor) -> Tensor:
        """Return the scores of all samples of a day, whose groups are the numbers of their stocks; -1 without one."""
        return self(features, self.concepts.value[group])

    def forward(self, x: Tensor, concepts: Tensor) -> Tensor:
        """Return the scores of all samples of a day, with their concepts: (samples, concepts)."""
        hidden = self.rnn(steps_of(x, self.d_feat))[0][:, -1]
        shared = self.fc_es(_shared(hidden, concepts / (1 + concepts * concepts.sum(dim=0))))
        rest = hidden - self.fc_es_back(shared)
        similar = self.fc_is(_shared(rest, _similar(rest)))
        own = self.fc_indi(rest - self.fc_is_back(similar))
        parts = self.fc_es_fore(shared), self.fc_is_fore(similar), own
        return self.fc_out(sum(nn.functional.leaky_relu(part) for part in parts))


def _shared(hidden: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of all concepts for each sample, weighted by its similarity to them.

    The hidden values of a concept are those of its samples, multiplied by `weights` (samples, concepts).
    """
    found = weights.T @ hidden
    found = found[found.sum(dim=1) != 0]  # the others have no samples
    return cosines(hidden, found).softmax(dim=1) @ found


def _similar(hidden: Tensor) -> Tensor:
    """Return the weights of concepts, each of which consists of a sample and those to which it is the most similar one."""
    alike = cosines(hidden, hidden)
    others = alike * (1 - torch.eye(len(alike), dtype=alike.dtype, device=alike.device))
    largest, which = others.max(dim=1, keepdim=True)
    found = torch.zeros_like(alike).scatter(1, which, largest)
    return found + torch.diag(alike.diagonal() * (found.sum(dim=0) != 0))
