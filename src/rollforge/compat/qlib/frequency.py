"""``qlib.utils.time.Freq``: names of frequencies. Rollforge itself computes daily data only."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from rollforge.errors import ConfigError

__all__ = ["Freq"]

_UNITS = {
    "month": "month", "mon": "month", "week": "week", "w": "week", "day": "day", "d": "day", "minute": "min", "min": "min",
}  # fmt: skip

_MINUTES = {"min": 1, "day": 24 * 60, "week": 7 * 24 * 60, "month": 7 * 30 * 24 * 60}


class Freq:
    """A number of months, weeks, days or minutes.

    Parameters
    ----------
    freq : str or Freq
        Such as ``day``, ``2mon``, ``10w``.

    Examples
    --------
    >>> Freq.parse("10w")
    (10, 'week')
    >>> Freq("1d") == "day", str(Freq("30minute"))
    (True, '30min')
    """

    NORM_FREQ_MONTH, NORM_FREQ_WEEK, NORM_FREQ_DAY, NORM_FREQ_MINUTE = "month", "week", "day", "min"
    SUPPORT_CAL_LIST = (NORM_FREQ_MINUTE, NORM_FREQ_DAY)

    def __init__(self, freq: str | Freq) -> None:
        count, base = freq.parts if isinstance(freq, Freq) else self.parse(freq)
        self.count: int = count
        self.base: str = base

    @property
    def parts(self) -> tuple[int, str]:
        """The count and the unit."""
        return self.count, self.base

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (str, Freq)):
            return NotImplemented
        return self.parts == Freq(other).parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __str__(self) -> str:
        return self.base if self.parts == (1, "day") else f"{self.count}{self.base}"

    def __repr__(self) -> str:
        return f"Freq({self})"

    @staticmethod
    def parse(freq: str) -> tuple[int, str]:
        """Return the count and the unit of a frequency.

        Raises
        ------
        ConfigError
            If it is not a frequency.
        """
        found = re.fullmatch(r"(\d*)([a-z]+)", freq.lower())
        if found is None or found[2] not in _UNITS:
            raise ConfigError(
                f"{freq!r} is not a frequency. Write a number and one of {', '.join(_UNITS)}, such as 'day' or '2mon'."
            )
        return int(found[1] or 1), _UNITS[found[2]]

    @staticmethod
    def get_timedelta(n: int, freq: str) -> pd.Timedelta:
        """Return the length of some days or minutes."""
        return pd.Timedelta(f"{n}{freq}")

    @staticmethod
    def get_min_delta(left_frq: str | Freq, right_freq: str | Freq) -> int:
        """Return by how many minutes one frequency is longer than another; a day has 24 hours, a month 210 days, as in
        Qlib."""
        left, right = (count * _MINUTES[unit] for count, unit in (Freq(left_frq).parts, Freq(right_freq).parts))
        return left - right

    @staticmethod
    def get_recent_freq(base_freq: str | Freq, freq_list: Sequence[str | Freq]) -> str | Freq | None:
        """Return the longest of some frequencies that is not longer than `base_freq`; None if all are longer."""
        fitting = [freq for freq in freq_list if Freq.get_min_delta(base_freq, freq) >= 0]
        return min(fitting, key=lambda freq: Freq.get_min_delta(base_freq, freq), default=None)
