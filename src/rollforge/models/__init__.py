"""Models: what is fitted on a dataset and predicts a segment of it. One file a library."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "BaseModel": "base", "Model": "base", "ModelFT": "base", "Reweighter": "base", "ConstantModel": "constant",
    "LGBModel": "lightgbm", "LinearModel": "linear", "XGBModel": "xgboost",
}  # fmt: skip

__all__ = ["BaseModel", "ConstantModel", "LGBModel", "LinearModel", "Model", "ModelFT", "Reweighter", "XGBModel"]


def __getattr__(name: str) -> Any:
    """Import a model's module when the model is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'rollforge.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rollforge.models.{_HOME[name]}"), name)
