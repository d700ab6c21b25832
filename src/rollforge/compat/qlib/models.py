"""The available models, as listed in ``qlib.contrib.model``."""

from __future__ import annotations

from rollforge.models.base import Model
from rollforge.models.lightgbm import LGBModel
from rollforge.models.linear import LinearModel
from rollforge.models.xgboost import XGBModel

__all__ = ["all_model_classes"]

all_model_classes: list[type[Model]] = [LGBModel, LinearModel, XGBModel]
