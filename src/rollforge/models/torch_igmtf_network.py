"""The module of IGMTF (Xu et al., 2021, https://arxiv.org/abs/2109.06489), with Qlib's formulas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import Stored, cosines, recurrent, steps_of

try:
    import torch
    from torch import nn
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

Tensor = Any  # torch.Tensor, whose types are not read

DAYS = 10
"""Number of training days to which a day is compared."""
NEIGHBOURS = 10
"""Number of samples of these days from which a sample learns."""


class IGMTFModel(nn.Module):
    """A recurrent network, whose hidden values are joined with those of similar samples on similar days of the train segment.

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
        self.lins = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.LeakyReLU(), nn.Linear(hidden_size, hidden_size), nn.LeakyReLU()
        )
        self.project1, self.project2 = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(2))
        self.fc_out_pred = nn.Linear(2 * hidden_size, 1)
        self.known, self.first_rows = Stored(), Stored()
        self._means: tuple[Tensor, Tensor, Tensor] | None = (
            None  # of what is known: the day of each row, the mean of each day
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of all samples of a day."""
        own = self.hidden(x)
        others = self.lins(self._similar_days(own))
        seen = self.project2(others)
        near, which = cosines(self.project1(own), seen).topk(min(NEIGHBOURS, len(seen)), dim=1)
        added = (near[:, :, None] * seen[which]).mean(dim=1)
        return self.fc_out_pred(torch.cat([own, added], dim=1))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the hidden values of each sample."""
        return self.lins(self.rnn(steps_of(x, self.d_feat))[0][:, -1])

    def remember(self, days: Iterable[Tensor], *, trained: bool) -> None:
        """Compute the hidden values of the train segment. Those of the trained module are stored with its weights."""
        self.train(False)
        with torch.no_grad():
            found = [self.hidden(x) for x in days]
        counts = torch.tensor([0, *(len(one) for one in found)], device=found[0].device)
        self.known.value, self.first_rows.value = torch.cat(found).to(self.project1.weight.dtype), counts.cumsum(0)
        self.known.saved = self.first_rows.saved = trained

    def _similar_days(self, own: Tensor) -> Tensor:
        """Return the hidden values of the training days whose means are most similar to that of the samples."""
        known = self.known.value
        if (
            self._means is None or self._means[0] is not known
        ):  # it was computed anew, loaded, or moved to another device
            counts = self.first_rows.value.diff()
            day = torch.repeat_interleave(counts)
            sums = known.new_zeros(len(counts), known.shape[1]).index_add_(0, day, known)
            self._means = known, day, sums / counts[:, None]
        _, day, means = self._means
        chosen = cosines(own.mean(dim=0, keepdim=True), means)[0].topk(min(DAYS, len(means))).indices
        return known[torch.isin(day, chosen)]
