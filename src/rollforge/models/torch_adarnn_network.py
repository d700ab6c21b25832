"""The module of AdaRNN (Du et al., 2021, https://arxiv.org/abs/2108.04443), with Qlib's formulas."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import steps_of

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

if TYPE_CHECKING:
    from rollforge.models.torch_training import Target

Tensor = Any  # torch.Tensor, whose types are not read

# -- the distance between the values of two periods, for each step: two tensors (samples, steps, values) to (steps,) ------


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """One minus the cosine of the means, which are numbers: 0 if they have the same sign, or else 2."""
    return 1 - functional.cosine_similarity(one.mean(dim=(0, 2))[:, None], other.mean(dim=(0, 2))[:, None])


def _mean_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """The squared distance of the means."""
    return (one.mean(dim=0) - other.mean(dim=0)).square().sum(dim=1)


def _kernel_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """The maximum mean discrepancy with a sum of five Gaussian kernels, around a width that is the mean distance."""
    count, found = len(one), []
    for step in range(one.shape[1]):
        both = torch.cat([one[:, step], other[:, step]])
        distances = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").square()
        width = distances.detach().sum() / (len(both) ** 2 - len(both))
        kernel = sum(torch.exp(-distances / (width * 2.0**power)) for power in range(-2, 3))
        within = kernel[:count, :count].mean() + kernel[count:, count:].mean()
        found.append(within - kernel[:count, count:].mean() - kernel[count:, :count].mean())
    return torch.stack(found)


def _covariance_distance(one: Tensor, other: Tensor) -> Tensor:
    """The squared distance of the covariances (CORAL)."""
    first, second = (
        torch.einsum("nsi,nsj->sij", centered, centered) / (len(centered) - 1)
        for centered in (one - one.mean(dim=0), other - other.mean(dim=0))
    )
    return (first - second).square().sum(dim=(1, 2)) / (4 * one.shape[2] ** 2)


def _pairwise_distance(one: Tensor, other: Tensor) -> Tensor:
    """The norm of the squared distances of all pairs."""
    return torch.stack([
        torch.cdist(one[:, step], other[:, step], compute_mode="donot_use_mm_for_euclid_dist").square().norm()
        for step in range(one.shape[1])
    ])  # fmt: skip


DISTANCES = {
    "cosine": _cosine,
    "cos": _cosine,
    "mmd": _mean_discrepancy,
    "mmd_lin": _mean_discrepancy,
    "mmd_rbf": _kernel_discrepancy,
    "coral": _covariance_distance,
    "pairwise": _pairwise_distance,
}


class AdaRNNModel(nn.Module):
    """Gated recurrent units whose hidden values are made similar in several periods.

    In each batch there are equally many samples of each period. The loss is their squared error, plus the distances between
    the hidden values of two periods, weighted by layer and step. In the first epochs a gate computes the weights; later the
    weights of the steps whose distance grew since the epoch before are increased.

    Parameters
    ----------
    d_feat, hidden_size, num_layers : int
        Number of features of a day; size and number of the recurrent layers.
    dropout : float
        Share of the values that are dropped between layers.
    pre_epoch : int
        Number of epochs in which the gate computes the weights.
    dw : float
        Weight of the distances in the loss.
    loss_type : str
        Which distance; a key of :data:`DISTANCES`.
    len_seq : int
        Number of steps of a sample.
    len_win : int
        In the first epochs, a step of one period is compared with steps of the other that are at most as far away.
    n_splits : int
        Number of periods.
    """

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        pre_epoch: int = 40,
        dw: float = 0.5,
        loss_type: str = "cosine",
        len_seq: int = 60,
        len_win: int = 0,
        n_splits: int = 2,
    ) -> None:
        super().__init__()
        self.d_feat, self.pre_epoch, self.dw, self.len_win, self.n_splits = d_feat, pre_epoch, dw, len_win, n_splits
        self.len_seq, self.distance = len_seq, DISTANCES[loss_type]
        self.layers = nn.ModuleList(
            nn.GRU(hidden_size if layer else d_feat, hidden_size, batch_first=True) for layer in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc_out = nn.Linear(hidden_size, 1)
        self.gates = nn.ModuleList(nn.Linear(2 * len_seq * hidden_size, len_seq) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(len_seq) for _ in range(num_layers))
        for gate in self.gates:
            nn.init.normal_(gate.weight, 0.0, 0.05)
            nn.init.zeros_(gate.bias)
        # Buffers, so that they are part of a checkpoint.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weights", torch.full((num_layers, len_seq), 1.0 / len_seq))
        self.register_buffer("distances", torch.zeros(num_layers, len_seq))  # summed over this epoch
        self.register_buffer("earlier", torch.zeros(num_layers, len_seq))  # the same of the epoch before

    def hidden(self, x: Tensor) -> list[Tensor]:
        """Return the hidden values of each layer: (samples, steps, values)."""
        out = steps_of(x, self.d_feat)
        if out.shape[1] != self.len_seq:
            raise ValueError(
                f"a sample has {out.shape[1]} steps of {self.d_feat} features, but len_seq is {self.len_seq}"
            )
        found: list[Tensor] = []
        for layer in self.layers:
            out, _ = layer(self.dropout(out) if found else out)
            found.append(out)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_out(self.hidden(x)[-1][:, -1])

    def training_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the squared error of each pair of periods, and the distance between them."""
        hidden = self.hidden(features)
        errors = (self.fc_out(hidden[-1][:, -1])[:, 0] - target.label).square()
        if target.weight is not None:
            errors = errors * target.weight
        error = [part.mean() for part in errors.chunk(self.n_splits)]
        periods = [layer.chunk(self.n_splits) for layer in hidden]
        total = features.new_zeros(())
        for one, other in combinations(range(self.n_splits), 2):
            pair = [(layer[one], layer[other]) for layer in periods]
            total = total + error[one] + error[other] + self.dw * self.transfer(pair)
        return total

    def transfer(self, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the weighted distance between the hidden values of two periods, and store what the weights depend on."""
        if int(self.epoch) >= self.pre_epoch:
            found = torch.stack([self.distance(one, other) for one, other in layers])
            self.distances += found.detach()
            return (self.weights * found).sum()
        weights = torch.stack([self._gated(place, one, other) for place, (one, other) in enumerate(layers)])
        self.weights.copy_(weights.detach())
        steps, total = weights.shape[1], weights.new_zeros(())
        for shift in range(-self.len_win, self.len_win + 1):
            first, last = max(0, -shift), min(steps, steps - shift)
            for weight, (one, other) in zip(weights, layers, strict=True):
                if first < last:
                    distance = self.distance(one[:, first:last], other[:, first + shift : last + shift])
                    total = total + (weight[first:last] * distance).sum()
        return total

    def _gated(self, layer: int, one: Tensor, other: Tensor) -> Tensor:
        """Return the weight of each step."""
        gate = self.norms[layer](self.gates[layer](torch.cat([one, other], dim=2).flatten(1)))
        return torch.sigmoid(gate).mean(dim=0).softmax(dim=0)

    def end_epoch(self) -> None:
        """Update the weights after an epoch."""
        epoch = int(self.epoch)
        if epoch > self.pre_epoch:
            growth = self.distances - self.earlier
            raised = torch.where(growth > 1e-5, self.weights * (1 + torch.sigmoid(growth)), self.weights)
            self.weights.copy_(raised / raised.abs().sum(dim=1, keepdim=True))
        if epoch >= self.pre_epoch:
            self.earlier.copy_(self.distances)
            self.distances.zero_()
        self.epoch += 1
