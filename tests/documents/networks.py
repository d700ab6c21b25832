"""PyTorch modules with known weights, and trainings that are interrupted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollforge.models.torch import TorchModel


def filled(module: Any) -> Any:
    """Return a module whose weights depend on their shape alone, except for those of batch normalization."""
    import torch

    for part in module.modules():
        if not isinstance(part, torch.nn.BatchNorm1d):
            for weight in part.parameters(recurse=False):
                weight.data = torch.sin(torch.arange(weight.numel()) + 1.0).reshape(weight.shape) * 0.5
    return module


def waves(*shape: int) -> Any:
    """Return a tensor of cosines."""
    import torch

    return torch.cos(torch.arange(int(np.prod(shape))) * 1.7).reshape(shape)


class Interrupted(Exception):
    """Stands for the end of a process."""


def interrupted(model: TorchModel, data: Any, module: str, epoch: int) -> list[str]:
    """Fit a model and interrupt its training when an epoch of a module begins; return the modules of all begun epochs."""
    from rollforge.models import torch_training

    begun: list[str] = []
    begin = torch_training._Progress.on_epoch_begin

    def interrupt(self: Any, net: Any, **kwargs: Any) -> None:
        begun.append(type(net.module_).__name__)
        if begun.count(module) == epoch:
            raise Interrupted
        begin(self, net, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_training._Progress, "on_epoch_begin", interrupt)
        try:
            model.fit(data)
        except Interrupted:
            begun.append("interrupted")
    return begun
