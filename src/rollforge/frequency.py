"""Frequencies of data: their usual names."""

from __future__ import annotations

import re

from rollforge.errors import DataError

__all__ = ["frequency", "is_frequency", "is_intraday"]


def frequency(freq: str) -> str:
    """Return the usual name of a frequency: ``day`` for ``1d``, ``60min`` for ``1h``.

    Raises
    ------
    DataError
        If the frequency is shorter than a minute.

    Examples
    --------
    >>> frequency("1D"), frequency("5 minutes"), frequency("1h"), frequency("min")
    ('day', '5min', '60min', '1min')
    """
    name = re.sub(r"\s", "", str(freq)).lower()
    if re.fullmatch(r"1?d(ays?)?", name):
        return "day"
    found = re.fullmatch(r"(\d*)(m|min|minute|h|hour)s?", name)
    if found is not None:
        return f"{int(found[1] or 1) * (60 if found[2][0] == 'h' else 1)}min"
    if re.fullmatch(r"\d*(s|sec|second|tick)s?", name):
        raise DataError(f"The frequency {freq!r} is shorter than a minute. The shortest one is '1min'.")
    return name


def is_intraday(freq: str) -> bool:
    """Return whether a frequency, as :func:`frequency` names it, is shorter than a day."""
    return freq.endswith("min")


def is_frequency(name: str) -> bool:
    """Return whether a name, as :func:`frequency` returns it, is that of a frequency.

    Examples
    --------
    >>> [is_frequency(frequency(name)) for name in ("1d", "5 minutes", "week", "feature")]
    [True, True, True, False]
    """
    return re.fullmatch(r"\d*(min|day|d|week|w|month|mon)s?", name) is not None
