"""The modules of TabNet (Arik and Pfister, 2019, https://arxiv.org/abs/1908.07442), with Qlib's settings."""

from __future__ import annotations

import math
from typing import Any

from rollforge.errors import MissingDependency

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

Tensor = Any  # torch.Tensor, whose types are not read


def rows_of(x: Tensor) -> Tensor:
    """Return samples as rows, (samples, features x steps), sorted by feature and then by step."""
    return x if x.dim() == 2 else x.transpose(1, 2).flatten(1)


def sparsemax(x: Tensor) -> Tensor:
    """Return the point of the probability simplex that is nearest to each row: most of its values are 0.

    The formula is that of Martins and Astudillo, 2016: ``max(x - t, 0)``, where t makes the sum 1.
    """
    with torch.no_grad():
        ordered = x.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(dim=-1) - 1
        count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
        # Zero if values are not finite or very large, as where the training diverges, which its loss shows.
        size = (count * ordered > excess).sum(dim=-1, keepdim=True).clamp(min=1)
        positive = x > excess.gather(-1, size - 1) / size
        size = positive.sum(dim=-1, keepdim=True)
    threshold = ((x * positive).sum(dim=-1, keepdim=True) - 1) / size
    return ((x - threshold) * positive).clamp(min=0)


class GhostNorm(nn.Module):
    """Batch normalization of parts of a batch, of about `vbs` samples each.

    Parameters
    ----------
    size : int
        Number of values of a sample.
    vbs : int
        Virtual batch size.
    """

    def __init__(self, size: int, vbs: int) -> None:
        super().__init__()
        self.vbs = vbs
        self.norm = nn.BatchNorm1d(size, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.vbs:
            return self.norm(x)
        return torch.cat([self.norm(part) for part in x.chunk(len(x) // self.vbs)])


def _shared(before: int, after: int, count: int) -> nn.ModuleList:
    """Return the linear layers that all steps share."""
    return nn.ModuleList(nn.Linear(after if place else before, 2 * after) for place in range(count))


class FeatureTransformer(nn.Module):
    """Gated linear layers with residual connections; the first ones are shared with other steps, and not part of it."""

    def __init__(self, before: int, after: int, n_shared: int, n_ind: int, vbs: int) -> None:
        super().__init__()
        if n_shared + n_ind < 1:
            raise ValueError("TabNet needs a layer: n_shared or n_ind must be at least 1")
        self.own = nn.ModuleList(nn.Linear(after if n_shared or place else before, 2 * after) for place in range(n_ind))
        self.norms = nn.ModuleList(GhostNorm(2 * after, vbs) for _ in range(n_shared + n_ind))

    def forward(self, x: Tensor, shared: nn.ModuleList) -> Tensor:
        for place, (layer, norm) in enumerate(zip([*shared, *self.own], self.norms, strict=True)):
            new = functional.glu(norm(layer(x)), dim=1)
            x = (x + new) * math.sqrt(0.5) if place else new
        return x


class _Step(nn.Module):
    """Attention to some of the features, chosen by the step before, and their transformation."""

    def __init__(self, inp_dim: int, n_d: int, n_a: int, n_shared: int, n_ind: int, vbs: int) -> None:
        super().__init__()
        self.attention = nn.Linear(n_a, inp_dim)
        self.norm = GhostNorm(inp_dim, vbs)
        self.features = FeatureTransformer(inp_dim, n_d + n_a, n_shared, n_ind, vbs)

    def forward(self, x: Tensor, before: Tensor, priors: Tensor, shared: nn.ModuleList) -> tuple[Tensor, Tensor]:
        mask = sparsemax(self.norm(self.attention(before)) * priors)
        return self.features(x * mask, shared), mask


class TabNet(nn.Module):
    """TabNet's encoder.

    Parameters
    ----------
    inp_dim, out_dim : int
        Number of features, and of outputs.
    n_d, n_a : int
        Size of what a step adds to the output, and of what the next step's attention is computed from.
    n_shared, n_ind : int
        Number of layers of a step that are shared by all steps, and of its own.
    n_steps : int
        Number of steps; the first one has no attention.
    relax : float
        Not used, as in Qlib: what a step has attended to does not limit the next ones.
    vbs : int
        Size of the parts of a batch that are normalized on their own.
    """

    def __init__(
        self,
        inp_dim: int = 6,
        out_dim: int = 6,
        n_d: int = 64,
        n_a: int = 64,
        n_shared: int = 2,
        n_ind: int = 2,
        n_steps: int = 5,
        relax: float = 1.2,
        vbs: int = 1024,
    ) -> None:
        super().__init__()
        self.n_d = n_d
        self.bn = nn.BatchNorm1d(inp_dim, momentum=0.01)
        self.shared = _shared(inp_dim, n_d + n_a, n_shared)
        self.first_step = FeatureTransformer(inp_dim, n_d + n_a, n_shared, n_ind, vbs)
        self.steps = nn.ModuleList(_Step(inp_dim, n_d, n_a, n_shared, n_ind, vbs) for _ in range(n_steps - 1))
        self.fc = nn.Linear(n_d, out_dim)

    def encoded(self, x: Tensor, priors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the output for each sample, and the mask of features of each step."""
        x = self.bn(x)
        out, before = x.new_zeros(len(x), self.n_d), self.first_step(x, self.shared)[:, self.n_d :]
        masks = []
        for step in self.steps:
            found, mask = step(x, before, priors, self.shared)
            out = out + functional.relu(found[:, : self.n_d])
            before = found[:, self.n_d :]
            masks.append(mask)
        return self.fc(out), masks

    def forward(self, x: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for each sample, and the sum over the steps of the mean entropy of their masks."""
        out, masks = self.encoded(x, priors)
        return out, sum(((-mask * torch.log(mask + 1e-10)).mean() for mask in masks), x.new_zeros(()))


class TabNetDecoder(nn.Module):
    """Reconstructs features from the output of :class:`TabNet`.

    Parameters
    ----------
    inp_dim, out_dim : int
        Size of the encoder's output, and number of features.
    n_shared, n_ind, vbs, n_steps
        See :class:`TabNet`.
    """

    def __init__(self, inp_dim: int, out_dim: int, n_shared: int, n_ind: int, vbs: int, n_steps: int) -> None:
        super().__init__()
        self.shared = _shared(inp_dim, out_dim, n_shared)
        self.steps = nn.ModuleList(FeatureTransformer(inp_dim, out_dim, n_shared, n_ind, vbs) for _ in range(n_steps))
        self.layers = nn.ModuleList(nn.Linear(out_dim, out_dim) for _ in range(n_steps))

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(step(x, self.shared)) for step, layer in zip(self.steps, self.layers, strict=True)]
        return torch.stack(parts).sum(dim=0)


class TabNetModel(nn.Module):
    """:class:`TabNet`, and a linear layer on its output.

    Parameters
    ----------
    d_feat, out_dim, final_out_dim : int
        Number of features, of outputs of the encoder, and of outputs.
    **kwargs
        Other arguments of :class:`TabNet`.
    """

    def __init__(self, d_feat: int = 158, out_dim: int = 64, final_out_dim: int = 1, **kwargs: Any) -> None:
        super().__init__()
        self.encoder = TabNet(d_feat, out_dim, **kwargs)
        self.fc = nn.Linear(out_dim, final_out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = rows_of(x)
        return self.fc(self.encoder.encoded(x, torch.ones_like(x))[0])


class TabNetPretraining(nn.Module):
    """The encoder of a :class:`TabNetModel` learns to reconstruct features that are hidden from it.

    Parameters
    ----------
    encoder : TabNet
        The encoder, whose weights the training changes.
    decoder : TabNetDecoder
        What reconstructs the features.
    ps : float
        Probability that a feature of a sample is hidden.
    """

    def __init__(self, encoder: TabNet, decoder: TabNetDecoder, ps: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.ps = encoder, decoder, ps

    def training_loss(self, features: Tensor, target: object) -> Tensor:
        """Return the error of the reconstruction of hidden features, which are drawn anew."""
        features = rows_of(features)
        hidden = torch.bernoulli(torch.full_like(features, self.ps))
        out, _ = self.encoder.encoded(features * (1 - hidden), 1 - hidden)
        return reconstruction_loss(self.decoder(out), features, hidden)

    validation_loss = training_loss


def reconstruction_loss(found: Tensor, features: Tensor, hidden: Tensor) -> Tensor:
    """Return the sum of the squared errors of hidden features, each divided by the spread of the feature in the batch.

    The spread is that of the reconstruction, as in Qlib; in the paper it is that of the data. A feature without any, as in a
    batch of one sample, is not counted.
    """
    spread = (found - found.mean(dim=0)).square().sum(dim=0).sqrt()
    spread = torch.where(spread > 0, spread, torch.inf)
    return ((features - found) * hidden / spread).square().sum()
