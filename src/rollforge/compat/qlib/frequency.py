"""``qlib.utils.time.Freq``: names of frequencies. Rollforge itself computes daily data only."""

from __future__ import annotations

import re

from rollforge.errors import ConfigError

__all__ = ["Freq"]

_UNITS = {
    "month": "month", "mon": "month", "week": "week", "w": "week", "day": "day", "d": "day", "minute": "min", "min": "min",
}  # fmt: skip


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
