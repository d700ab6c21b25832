"""The importance of features, which is saved with each run whose model has one."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from rollforge.errors import RollforgeError
from rollforge.track.base import Recorder

__all__ = ["IMPORTANCE", "importance_of", "saved_importance"]

log = logging.getLogger(__name__)

IMPORTANCE = "feature_importance.pkl"
"""Artifact with a series of the importance of each feature, by its name."""


def importance_of(model: object) -> dict[str, pd.Series]:
    """Return what to save of a fitted model; nothing if it has no method ``get_feature_importance``.

    An error in that method is logged: it is no reason to lose a model.
    """
    method = getattr(model, "get_feature_importance", None)
    if not callable(method):
        return {}
    try:
        values = method()
        found = pd.Series(np.asarray(values, np.float64), index=[str(name) for name in values.index], name="importance")
    except Exception as exc:  # noqa: BLE001 - the model can be the user's
        log.info("the importance of features is not saved: %s: %s", type(exc).__name__, exc)
        return {}
    return {IMPORTANCE: found} if len(found) else {}


def saved_importance(recorder: Recorder) -> dict[str, float]:
    """Return the importance of each feature that a run has saved; empty if it has saved none, or it cannot be read."""
    try:
        found = recorder.load_object(IMPORTANCE)
        return {str(name): float(value) for name, value in found.items()}
    except (RollforgeError, AttributeError, TypeError, ValueError) as exc:
        log.debug("run %s has no importance of features: %s", recorder.id, exc)
        return {}
