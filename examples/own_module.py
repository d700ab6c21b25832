"""A module for examples/torch_own_module.yaml."""

from __future__ import annotations

import torch
from torch import nn


class Gated(nn.Module):
    """A linear score, multiplied by a gate that a second layer computes.

    It is called with a batch of samples, (samples, features), and returns one number for each.
    """

    def __init__(self, features: int, hidden: int = 32) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.gate = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x) * self.gate(x)
