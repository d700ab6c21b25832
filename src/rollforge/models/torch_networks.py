"""The PyTorch modules of Qlib's models. They are imported when a model is trained or predicts.

A module is called with samples of several days, (samples, steps, features), or with rows whose columns are the same features
on several days, as in Alpha360: (samples, features x steps), sorted by feature and then by day. It returns one number for
each sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rollforge.errors import MissingDependency

try:
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.nn.utils.parametrizations import weight_norm
except ImportError as exc:
    raise MissingDependency("PyTorch modules need torch. Install it: pip install 'rollforge[torch]'") from exc

Tensor = Any  # torch.Tensor, whose types are not read


def steps_of(x: Tensor, features: int) -> Tensor:
    """Return samples as (samples, steps, features)."""
    return x if x.dim() == 3 else x.reshape(len(x), features, -1).transpose(1, 2)


RECURRENT = ("GRU", "LSTM", "RNN")
"""All kinds of :func:`recurrent`."""


def recurrent(
    kind: str, inputs: int, size: int, layers: int, dropout: float = 0.0, *, name: str = "base_model",
    kinds: Sequence[str] = ("GRU", "LSTM"),
) -> nn.Module:  # fmt: skip
    """Return a recurrent network for samples of (samples, steps, inputs).

    Parameters
    ----------
    kind : str
        One of `kinds`.
    inputs, size, layers : int
        Number of features; size and number of the layers.
    dropout : float
        Share of the values that are dropped between layers.
    name : str
        Name of the argument `kind`, for the error.
    kinds : sequence of str
        Those of :data:`RECURRENT` that a model accepts.

    Raises
    ------
    ValueError
        If the kind is not one of them.
    """
    if kind not in kinds:
        raise ValueError(f"{name} must be one of {', '.join(kinds)}, found {kind!r}")
    made = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}[kind]
    # PyTorch warns of dropout in a single layer, where it has no effect.
    return made(inputs, size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosine of the angle between each row of `x` and each row of `y`: (rows of x, rows of y)."""
    return x @ y.T / (x.norm(dim=1)[:, None] * y.norm(dim=1) + 1e-6)


class Stored(nn.Module):
    """A tensor of any size that a module stores with its weights, if `saved` is True."""

    value: Tensor

    def __init__(self, *, saved: bool = False) -> None:
        super().__init__()
        self.saved = saved
        self.register_buffer("value", torch.empty(0), persistent=False)  # with the extra state, which may have any size

    def get_extra_state(self) -> Tensor:
        return self.value if self.saved else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.value = state.to(self.value.device)


class Net(nn.Module):
    """Dense layers with batch normalization, between two layers of dropout.

    Parameters
    ----------
    input_dim, output_dim : int
        Number of features, and of outputs.
    layers : sequence of int
        Sizes of the hidden layers.
    act : {"LeakyReLU", "SiLU"}
        Activation.
    """

    def __init__(
        self, input_dim: int, output_dim: int = 1, layers: Sequence[int] = (256,), act: str = "LeakyReLU"
    ) -> None:
        super().__init__()
        activations = {"LeakyReLU": lambda: nn.LeakyReLU(0.1), "SiLU": nn.SiLU}
        if act not in activations:
            raise ValueError(f"the activation must be one of {', '.join(activations)}, found {act!r}")
        sizes = [input_dim, *layers]
        parts: list[Any] = [nn.Dropout(0.05)]
        for before, after in pairwise(sizes):
            parts.append(nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after), activations[act]()))
        parts += [nn.Dropout(0.05), nn.Linear(sizes[-1], output_dim)]
        self.dnn_layers = nn.ModuleList(parts)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.dnn_layers:
            x = layer(x)
        return x


class _Recurrent(nn.Module):
    """A recurrent network, and a linear layer on its last output."""

    kind: Any

    def __init__(self, d_feat: int = 6, hidden_size: int = 64, num_layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.d_feat = d_feat
        self.rnn = self.kind(d_feat, hidden_size, num_layers, batch_first=True, dropout=dropout)
        self.fc_out = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(steps_of(x, self.d_feat))
        return self.fc_out(out[:, -1])


class GRUModel(_Recurrent):
    """A gated recurrent unit."""

    kind = nn.GRU


class LSTMModel(_Recurrent):
    """Long short-term memory."""

    kind = nn.LSTM


class ALSTMModel(nn.Module):
    """A recurrent network whose last output is joined with the mean of all, weighted by attention."""

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        rnn_type: str = "GRU",
    ) -> None:
        super().__init__()
        self.d_feat = d_feat
        half = hidden_size // 2
        self.net = nn.Sequential(nn.Linear(d_feat, hidden_size), nn.Tanh())
        self.rnn = recurrent(
            rnn_type.upper(), hidden_size, hidden_size, num_layers, dropout, name="rnn_type", kinds=RECURRENT
        )
        self.att_net = nn.Sequential(
            nn.Linear(hidden_size, half),
            nn.Dropout(dropout),
            nn.Tanh(),
            nn.Linear(half, 1, bias=False),
            nn.Softmax(dim=1),
        )
        self.fc_out = nn.Linear(2 * hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(self.net(steps_of(x, self.d_feat)))
        attended = (self.att_net(out) * out).sum(dim=1)
        return self.fc_out(torch.cat([out[:, -1], attended], dim=1))


class _CausalBlock(nn.Module):
    """Two dilated convolutions that see no later step, and a residual connection."""

    def __init__(self, before: int, after: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = (kernel_size - 1) * dilation
        convolutions = [nn.Conv1d(size, after, kernel_size, dilation=dilation) for size in (before, after)]
        self.downsample = nn.Conv1d(before, after, 1) if before != after else None
        for layer in [*convolutions, *([] if self.downsample is None else [self.downsample])]:
            nn.init.normal_(layer.weight, 0.0, 0.01)
        self.convolutions = nn.ModuleList(weight_norm(layer) for layer in convolutions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for convolution in self.convolutions:
            out = self.dropout(functional.relu(convolution(functional.pad(out, (self.padding, 0)))))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class TCNModel(nn.Module):
    """A temporal convolutional network, and a linear layer on its last step.

    Parameters
    ----------
    num_input, output_size : int
        Number of features, and of outputs.
    num_channels : sequence of int
        Channels of each level; each level looks twice as far back as the one before.
    kernel_size : int
        Steps of a convolution.
    dropout : float
        Share of the values that are dropped.
    """

    def __init__(
        self, num_input: int, output_size: int, num_channels: Sequence[int], kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_input = num_input
        sizes = [num_input, *num_channels]
        levels = enumerate(pairwise(sizes))
        self.tcn = nn.Sequential(*(_CausalBlock(a, b, kernel_size, 2**level, dropout) for level, (a, b) in levels))
        self.linear = nn.Linear(sizes[-1], output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.tcn(steps_of(x, self.num_input).transpose(1, 2))[:, :, -1])


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of the position to each step: (samples, steps, features)."""

    def __init__(self, d_model: int, max_len: int = 1000) -> None:
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)
        rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        waves = torch.zeros(max_len, d_model)
        waves[:, 0::2] = torch.sin(position * rate)
        waves[:, 1::2] = torch.cos(position * rate)[:, : d_model // 2]
        self.register_buffer("waves", waves)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.waves[: x.shape[1]]


class Transformer(nn.Module):
    """A transformer's encoder, and a linear layer on its last step."""

    def __init__(
        self,
        d_feat: int = 6,
        d_model: int = 8,
        nhead: int = 4,
        num_layers: int = 2,
        dropout: float = 0.5,
        device: object = None,
    ) -> None:
        super().__init__()
        self.d_feat = d_feat
        self.feature_layer = nn.Linear(d_feat, d_model)
        self.pos_encoder = PositionalEncoding(d_model)
        layer = nn.TransformerEncoderLayer(d_model, nhead, dropout=dropout, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.decoder_layer = nn.Linear(d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.transformer_encoder(self.pos_encoder(self.feature_layer(steps_of(x, self.d_feat))))
        return self.decoder_layer(out[:, -1])


class Localformer(nn.Module):
    """A transformer's encoder with a convolution before each layer, then a gated recurrent unit."""

    def __init__(
        self,
        d_feat: int = 6,
        d_model: int = 8,
        nhead: int = 4,
        num_layers: int = 2,
        dropout: float = 0.5,
        device: object = None,
    ) -> None:
        super().__init__()
        self.d_feat = d_feat
        self.feature_layer = nn.Linear(d_feat, d_model)
        self.pos_encoder = PositionalEncoding(d_model)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d_model, nhead, dropout=dropout, batch_first=True) for _ in range(num_layers)
        )
        self.conv = nn.ModuleList(nn.Conv1d(d_model, d_model, 3, padding=1) for _ in range(num_layers))
        self.rnn = nn.GRU(d_model, d_model, num_layers, batch_first=True, dropout=dropout)
        self.decoder_layer = nn.Linear(d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pos_encoder(self.feature_layer(steps_of(x, self.d_feat)))
        local = out
        for layer, convolution in zip(self.layers, self.conv, strict=True):
            local = convolution(out.transpose(1, 2)).transpose(1, 2)
            out = layer(out + local)
        out, _ = self.rnn(out + local)
        return self.decoder_layer(out[:, -1])


class GATModel(nn.Module):
    """A recurrent network, whose outputs are mixed between the instruments of a batch by graph attention."""

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
        self.transformation = nn.Linear(hidden_size, hidden_size)
        self.a = nn.Parameter(torch.randn(2 * hidden_size, 1))
        self.fc = nn.Linear(hidden_size, hidden_size)
        self.fc_out = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(steps_of(x, self.d_feat))
        hidden = out[:, -1]
        seen = self.transformation(hidden)
        # The score of a pair is linear in both, so the pairs themselves need not be built.
        of_other, of_own = (seen @ part for part in self.a.chunk(2))
        attention = functional.leaky_relu(of_own + of_other.T).softmax(dim=1)
        mixed = functional.leaky_relu(self.fc(attention @ hidden + hidden))
        return self.fc_out(mixed)


class _ConvolutionalRecurrent(nn.Module):
    """A convolution, then the mean of several gated recurrent units: (samples, steps, features)."""

    def __init__(
        self,
        features: int,
        cnn_dim: int,
        kernel_size: int,
        rnn_dim: int,
        rnn_dups: int,
        rnn_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, cnn_dim, kernel_size, padding=(kernel_size - 1) // 2)
        self.rnns = nn.ModuleList(
            nn.GRU(cnn_dim, rnn_dim, rnn_layers, batch_first=True, dropout=dropout) for _ in range(rnn_dups)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return torch.stack([rnn(out)[0] for rnn in self.rnns]).mean(dim=0)


class KRNNModel(nn.Module):
    """A convolution, several recurrent networks in parallel, and a linear layer on the mean of their last outputs."""

    def __init__(
        self,
        fea_dim: int = 6,
        cnn_dim: int = 64,
        cnn_kernel_size: int = 3,
        rnn_dim: int = 64,
        rnn_dups: int = 3,
        rnn_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fea_dim = fea_dim
        self.encoder = _ConvolutionalRecurrent(
            fea_dim, cnn_dim, cnn_kernel_size, rnn_dim, rnn_dups, rnn_layers, dropout
        )
        self.out_fc = nn.Linear(rnn_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_fc(self.encoder(steps_of(x, self.fea_dim))[:, -1])


class SandwichModel(nn.Module):
    """Two encoders of :class:`KRNNModel`, one after the other."""

    def __init__(
        self,
        fea_dim: int = 6,
        cnn_dim_1: int = 64,
        cnn_dim_2: int = 32,
        cnn_kernel_size: int = 3,
        rnn_dim_1: int = 16,
        rnn_dim_2: int = 8,
        rnn_dups: int = 3,
        rnn_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fea_dim = fea_dim
        common = (rnn_dups, rnn_layers, dropout)
        self.first = _ConvolutionalRecurrent(fea_dim, cnn_dim_1, cnn_kernel_size, rnn_dim_1, *common)
        self.second = _ConvolutionalRecurrent(rnn_dim_1, cnn_dim_2, cnn_kernel_size, rnn_dim_2, *common)
        self.out_fc = nn.Linear(rnn_dim_2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_fc(self.second(self.first(steps_of(x, self.fea_dim)))[:, -1])


class SFMModel(nn.Module):
    """State frequency memory: a recurrent network whose memory is split by frequency (Zhang, Aggarwal and Qi, 2017)."""

    def __init__(self, d_feat: int = 6, output_dim: int = 1, freq_dim: int = 10, hidden_size: int = 64) -> None:
        super().__init__()
        self.d_feat, self.hidden_size, self.freq_dim = d_feat, hidden_size, freq_dim
        self.gates = nn.ModuleDict()
        for name, size, start in (
            ("input", hidden_size, 0.0), ("state", hidden_size, 1.0), ("frequency", freq_dim, 1.0),
            ("candidate", hidden_size, 0.0), ("output", hidden_size, 0.0),
        ):  # fmt: skip
            of_input, of_hidden = nn.Linear(d_feat, size), nn.Linear(hidden_size, size, bias=False)
            nn.init.xavier_uniform_(of_input.weight)
            nn.init.constant_(of_input.bias, start)
            nn.init.orthogonal_(of_hidden.weight)
            self.gates[name] = nn.ModuleList([of_input, of_hidden])
        self.amplitude = nn.Linear(freq_dim, 1, bias=False)
        nn.init.orthogonal_(self.amplitude.weight)
        self.amplitude_bias = nn.Parameter(torch.zeros(hidden_size))
        self.projection = nn.Linear(hidden_size, output_dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.fc_out = nn.Linear(output_dim, 1)
        self.register_buffer("frequencies", torch.arange(freq_dim) / freq_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = steps_of(x, self.d_feat)
        hidden = x.new_zeros(len(x), self.hidden_size)
        real = imaginary = x.new_zeros(len(x), self.hidden_size, self.freq_dim)
        of_inputs = {name: of_input(x) for name, (of_input, _) in self.gates.items()}
        for step in range(x.shape[1]):
            value = {name: of_inputs[name][:, step] + gate[1](hidden) for name, gate in self.gates.items()}
            forget = functional.hardsigmoid(value["state"]).unsqueeze(2) * functional.hardsigmoid(
                value["frequency"]
            ).unsqueeze(1)
            candidate = (functional.hardsigmoid(value["input"]) * torch.tanh(value["candidate"])).unsqueeze(2)
            angle = 2 * math.pi * (step + 1) * self.frequencies
            real = forget * real + candidate * torch.cos(angle)
            imaginary = forget * imaginary + candidate * torch.sin(angle)
            amplitude = self.amplitude(real**2 + imaginary**2).squeeze(2)
            hidden = functional.hardsigmoid(value["output"]) * torch.tanh(amplitude + self.amplitude_bias)
        return self.fc_out(self.projection(hidden))
