"""Checks of model parameters, made when a model is constructed, before any data are computed."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rollforge.errors import ConfigError, ModelError, shown


def check_rounds(name: str, value: object, *, least: int = 1) -> None:
    """Check that a parameter is a number of rounds.

    Raises
    ------
    ConfigError
        If it is not a whole number, or is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"must be a whole number, at least {least}; found {shown(value)}.", path=name)


def check_flag(name: str, value: object) -> None:
    """Check that a parameter is true or false; a string such as ``"no"`` would count as true.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    if not (isinstance(value, (bool, int, np.bool_)) and value in (0, 1)):
        raise ConfigError(f"must be true or false, found {shown(value)}.", path=name)


def check_penalty(name: str, value: object) -> None:
    """Check that a parameter is a finite number that is not negative.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max:  # type: ignore[operator]
        raise ConfigError(f"must be a number that is not negative, found {shown(value)}.", path=name)


def check_values(params: Mapping[str, Any], *, names: Iterable[str] = (), mappings: Iterable[str] = ()) -> None:
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


def library_error(model: str, library: str, reason: str, params: Mapping[str, Any]) -> ModelError:
    """Return the error for a training that a library rejected; it often does not say which parameter it means."""
    return ModelError(
        f"{model} cannot be fitted. {library} reports: {reason.strip().rstrip('.')}. The parameters are {shown(dict(params))}."
    )
