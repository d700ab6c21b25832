"""The modules of TRA (Lin et al., 2021, https://arxiv.org/abs/2106.12950), with Qlib's names and formulas."""

from __future__ import annotations

import math
from typing import Any

from rollforge.errors import MissingDependency
from rollforge.models.torch_networks import RECURRENT, recurrent

try:
    import torch
    from torch import nn
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

Tensor = Any  # torch.Tensor, whose types are not read

_EPS = 1e-12


def _summary(hidden: Any) -> Tensor:
    """Return the mean over the layers of a recurrent network's last hidden values, (samples, size)."""
    return (hidden[0] if isinstance(hidden, tuple) else hidden).mean(dim=0)


class RNN(nn.Module):
    """A recurrent network, and attention over its steps.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        Number of features of a step; size and number of the layers. More features than `hidden_size` are projected first.
    rnn_arch : {"GRU", "LSTM", "RNN"}
        Kind of the network.
    use_attn : bool
        Whether the result also has the mean of all steps, weighted by attention.
    dropout : float
        Share of the values that are dropped between layers.
    **kwargs
        Ignored, as in Qlib: arguments of :class:`Transformer`.
    """

    def __init__(
        self,
        input_size: int = 16,
        hidden_size: int = 64,
        num_layers: int = 2,
        rnn_arch: str = "GRU",
        use_attn: bool = True,
        dropout: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__()
        self.input_proj = nn.Linear(input_size, hidden_size) if hidden_size < input_size else None
        self.rnn = recurrent(
            rnn_arch, min(input_size, hidden_size), hidden_size, num_layers, dropout, name="rnn_arch", kinds=RECURRENT
        )
        self.use_attn = use_attn
        if use_attn:
            self.W = nn.Linear(hidden_size, hidden_size)
            self.u = nn.Linear(hidden_size, 1, bias=False)
        self.output_size = hidden_size * (2 if use_attn else 1)

    def forward(self, x: Tensor) -> Tensor:
        steps, last = self.rnn(x if self.input_proj is None else self.input_proj(x))
        found = _summary(last)
        if not self.use_attn:
            return found
        attention = self.u(torch.tanh(self.W(steps))).softmax(dim=1)
        return torch.cat([found, (steps * attention).sum(dim=1)], dim=1)


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of the position to each step: (steps, samples, features)."""

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        position = torch.arange(max_len, dtype=torch.float).unsqueeze(1)
        rate = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        waves = torch.zeros(max_len, 1, d_model)
        waves[:, 0, 0::2] = torch.sin(position * rate)
        waves[:, 0, 1::2] = torch.cos(position * rate)[:, : d_model // 2]
        self.register_buffer("pe", waves)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: len(x)])


class Transformer(nn.Module):
    """A transformer's encoder; its result is that of the last step.

    Parameters
    ----------
    input_size, hidden_size, num_layers, num_heads : int
        Number of features of a step; size, number and attention heads of the layers.
    dropout : float
        Share of the values that are dropped.
    **kwargs
        Ignored, as in Qlib: arguments of :class:`RNN`.
    """

    def __init__(
        self,
        input_size: int = 16,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__()
        self.input_proj = nn.Linear(input_size, hidden_size)
        self.pe = PositionalEncoding(input_size, dropout)
        layer = nn.TransformerEncoderLayer(hidden_size, num_heads, dim_feedforward=4 * hidden_size, dropout=dropout)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.output_size = hidden_size

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.input_proj(self.pe(x.transpose(0, 1).contiguous())))[-1]


class TRA(nn.Module):
    """Several predictors, and a router that chooses one of them from the hidden values and the losses remembered.

    Parameters
    ----------
    input_size : int
        Number of hidden values.
    num_states : int
        Number of predictors.
    hidden_size, num_layers : int
        Size and number of the router's recurrent layers.
    rnn_arch : {"GRU", "LSTM", "RNN"}
        Kind of the router.
    dropout : float
        Share of the values that are dropped between its layers.
    tau : float
        Temperature of the choice.
    src_info : {"LR", "TPE", "LR_TPE"}
        What the router reads: the hidden values, the losses, or both.
    """

    def __init__(
        self,
        input_size: int,
        num_states: int = 1,
        hidden_size: int = 8,
        rnn_arch: str = "GRU",
        num_layers: int = 1,
        dropout: float = 0.0,
        tau: float = 1.0,
        src_info: str = "LR_TPE",
    ) -> None:
        super().__init__()
        self.num_states, self.tau, self.src_info = num_states, tau, src_info
        self.predictors = nn.Linear(input_size, num_states)
        if num_states > 1:
            inputs = input_size if "LR" in src_info else 0
            if "TPE" in src_info:
                self.router = recurrent(
                    rnn_arch, num_states, hidden_size, num_layers, dropout, name="rnn_arch", kinds=RECURRENT
                )
                inputs += hidden_size
            self.fc = nn.Linear(inputs, num_states)

    def logits(self, hidden: Tensor, losses: Tensor) -> Tensor:
        """Return the router's output for each sample or day, divided by nothing: (samples, states).

        Parameters
        ----------
        hidden : tensor, (samples, input_size)
            Read only if `src_info` contains "LR".
        losses : tensor, (samples, steps, states)
            Read only if `src_info` contains "TPE".
        """
        parts = [hidden] if "LR" in self.src_info else []
        if "TPE" in self.src_info:
            parts.append(_summary(self.router(losses)[1]))
        return self.fc(torch.cat(parts, dim=-1))

    def reset_router(self) -> None:
        """Give the router new random weights."""
        for part in (self.fc, *([self.router] if "TPE" in self.src_info else [])):
            part.reset_parameters()


class TRANetwork(nn.Module):
    """A network that computes hidden values, and :class:`TRA` on top of it.

    Parameters
    ----------
    model_type : {"RNN", "Transformer"}
        Class of the network.
    model_config, tra_config : mapping
        Arguments of the network, and of :class:`TRA`.
    """

    def __init__(self, model_type: str, model_config: dict[str, Any], tra_config: dict[str, Any]) -> None:
        super().__init__()
        self.model = {"RNN": RNN, "Transformer": Transformer}[model_type](**model_config)
        self.tra = TRA(self.model.output_size, **tra_config)

    def forward(self, x: Tensor) -> Tensor:
        """Return what all predictors predict, (samples, states)."""
        return self.tra.predictors(self.model(x))


def scaled(x: Tensor) -> Tensor:
    """Return each row moved and scaled to the range 0 to 1; 1 where all values of a row are equal."""
    least, most = x.min(dim=-1, keepdim=True).values, x.max(dim=-1, keepdim=True).values
    return torch.where(least == most, torch.ones_like(x), (x - least) / (most - least + _EPS))


def sinkhorn(scores: Tensor, rounds: int = 3, epsilon: float = 0.1) -> Tensor:
    """Return the share of each sample that is assigned to each state, (samples, states), without a gradient.

    Larger scores get larger shares, and the states get about equally much in total: Sinkhorn's algorithm for optimal
    transport divides by the sums of the columns and of the rows in turn.
    """
    with torch.no_grad():
        shares = torch.exp(scores / epsilon)
        for _ in range(rounds):
            shares = shares / shares.sum(dim=0, keepdim=True)
            shares = shares / shares.sum(dim=1, keepdim=True)
        return shares


def assigned(loss: Tensor, past: Tensor, alpha: float) -> Tensor:
    """Return the shares of the states by their losses, which are `alpha` parts new and ``1 - alpha`` parts remembered.

    Parameters
    ----------
    loss : tensor, (samples, states)
        Losses that are :func:`scaled`.
    past : tensor, (samples, states)
        Mean losses remembered.
    alpha : float
        Share of the new losses.
    """
    return sinkhorn(-scaled(loss * alpha + scaled(past) * (1 - alpha)))
