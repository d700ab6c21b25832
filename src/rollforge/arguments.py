"""Checks of the arguments of constructors and functions, made before anything is computed.

Each error carries the name of the argument as its path, so that :func:`rollforge.build.build` can add the location in
the document.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np

from rollforge.errors import ConfigError, nearest, shown

__all__ = [
    "as_list",
    "check_choice",
    "check_flag",
    "check_number",
    "check_penalty",
    "fetch_arguments",
    "is_whole_number",
    "whole_number",
]


def is_whole_number(value: object) -> TypeGuard[int | np.integer[Any]]:
    """Return whether a value is an integer of Python or NumPy.

    True and false are none, nor are lengths of time, although ``np.timedelta64`` is one of NumPy's integers.

    Examples
    --------
    >>> [is_whole_number(value) for value in (5, np.int64(5), True, np.timedelta64(5, "D"), 5.0)]
    [True, True, False, False, False]
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def whole_number(
    value: object, path: str, *, least: int = 1, of: str = "", error: type[ConfigError] = ConfigError
) -> int:
    """Return a whole number after checking it; NumPy's integers are accepted, true and false are not.

    Parameters
    ----------
    value : object
        The argument.
    path : str
        Its name, the path of the error.
    least : int
        The smallest number that is allowed.
    of : str
        What is counted, such as ``trading days``.
    error : class
        Class of the error.

    Raises
    ------
    ConfigError
        If it is not a whole number, or is less than `least`.

    Examples
    --------
    >>> whole_number(np.int64(5), "step", of="trading days")
    5
    """
    if not is_whole_number(value) or value < least:
        noun = f"whole number of {of}" if of else "whole number"
        raise error(f"must be a {noun}, at least {least}; found {shown(value)}.", path=path)
    return int(value)


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
    size = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # an integer beyond the largest float
            size = float(value)
    if not 0 <= size < math.inf:
        raise ConfigError(f"must be a number that is not negative, found {shown(value)}.", path=name)


def check_number(name: str, value: object) -> None:
    """Check that an argument is a real number; NaN and infinity are numbers, true and false are not.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ConfigError(f"must be a number, found {shown(value)}.", path=name)


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Check that an argument is one of some strings.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    choices = list(allowed)
    if not isinstance(value, str) or value not in choices:
        near = nearest(value, choices) if isinstance(value, str) else ""
        raise ConfigError(f"must be {' or '.join(map(repr, choices))}, found {shown(value)}.{near}", path=name)


def as_list(given: object, nouns: str, *, path: str) -> list[Any]:
    """Return the entries of a list in a definition; none for None. Scripts may pass other collections, such as an index.

    Raises
    ------
    ConfigError
        If it is something else, such as a single object or a string.

    Examples
    --------
    >>> as_list(("Fillna",), "processors", path="infer_processors")
    ['Fillna']
    """
    if given is None:
        return []
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"expected a list of {nouns}, found {shown(given)}.", path=path)
    return list(given)


def fetch_arguments(handler: Any, given: object, *, path: str = "fetch_kwargs") -> dict[str, Any]:
    """Return further arguments for a handler's ``fetch``, checked against its signature before anything is computed.

    Raises
    ------
    ConfigError
        If `given` is not a mapping, ``fetch`` has no argument of a name, or ``proc_func`` is not a function.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping of arguments for the handler's fetch(), found {shown(given)}.", path=path)
    try:
        parameters = list(inspect.signature(handler.fetch).parameters.values())
    except (TypeError, ValueError):
        return dict(given)
    # The first argument is the days.
    allowed = [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in given:
        if not isinstance(name, str) or (name not in allowed and not any_name):
            raise ConfigError(
                f"{type(handler).__name__}.fetch() takes no argument {name!r}.{nearest(str(name), allowed)} "
                f"Its arguments: {', '.join(allowed) or 'none'}.",
                path=path,
            )
    function = given.get("proc_func")
    if function is not None and not callable(function):
        raise ConfigError(
            f"must be a function, found {shown(function)}. In a workflow file, use a processor instead.",
            path=f"{path}.proc_func",
        )
    return dict(given)
