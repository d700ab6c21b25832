"""The available models, as listed in ``qlib.contrib.model``."""

from __future__ import annotations

from rollforge import models
from rollforge.models.base import Model
from rollforge.qlib_names import MODULES

__all__ = ["all_model_classes"]


def _classes() -> list[type[Model]]:
    names = {name for text in MODULES["qlib.contrib.model"].values() for name in text.split()}
    return [getattr(models, name) for name in sorted(names & set(dir(models)))]


all_model_classes = _classes()
