"""Checks of model parameters, made when a model is constructed, before any data are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rollforge.errors import ConfigError, ModelError, shown


def check_values(params: Mapping[str, object], *, names: Iterable[str] = (), mappings: Iterable[str] = ()) -> None:
    """Check the types of a library's parameters, whose names only the library knows.

    Parameters
    ----------
    params : mapping
        Name -> value.
    names : iterable of str
        Parameters that are the name of something, such as the objective.
    mappings : iterable of str
        Parameters that may be mappings.

    Raises
    ------
    ConfigError
        If a value is neither a number, a string, a list nor None, or a name is not a string.
    """
    for name, value in params.items():
        if name in names and not isinstance(value, (str, type(None))):
            raise ConfigError(f"must be a string, found {shown(value)}.", path=name)
        plain = isinstance(value, (bool, int, float, str, list, tuple, np.generic, np.ndarray, type(None)))
        if not plain and not (name in mappings and isinstance(value, Mapping)):
            raise ConfigError(f"must be a number, a string or a list, found {shown(value)}.", path=name)


def threads_of(params: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """Return the value of the first of `names` that is set, a number of threads; None if none is set.

    Raises
    ------
    ConfigError
        If it is not a whole number.
    """
    for name in names:
        value = params.get(name)
        if value is None:
            continue
        try:
            number = int(value)
            if isinstance(value, float) and number != value:
                raise ValueError(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"must be a whole number, found {shown(value)}.", path=name) from None
        return number
    return None


def unusable_data(model: str, library: str, reason: str, features: pd.DataFrame) -> ModelError:
    """Return the error for features from which a library cannot make its data set, with the probable cause."""
    names = pd.Index(map(str, features.columns))
    large = np.abs(features.to_numpy(np.float64)) > np.finfo(np.float32).max
    if names.has_duplicates:
        cause = f" There are several features called {str(names[names.duplicated()][0])!r}."
    elif large.any():
        cause = f" {str(names[int(np.argmax(large.any(axis=0)))])!r} has values beyond the range of float32."
    else:
        cause = ""
    return ModelError(f"{model} cannot use the features. {library} reports: {reason.strip().rstrip('.')}.{cause}")


def library_error(model: str, library: str, reason: str, params: Mapping[str, object]) -> ModelError:
    """Return the error for a training that a library rejected; libraries often do not say which parameter they mean."""
    return ModelError(
        f"{model} cannot be fitted. {library} reports: {reason.strip().rstrip('.')}. The parameters are {shown(dict(params))}."
    )
