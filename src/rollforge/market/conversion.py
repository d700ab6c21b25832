"""Conversion of a data folder's tables to Qlib's convention.

When a table is imported, the meaning of its columns is inferred from its numbers. The result is kept in the data
folder, in ``conversion.json``, so that a table of a single day, from which it cannot be inferred, is converted in the
same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rollforge.errors import DataError
from rollforge.limits import LIMITS, read_text

__all__ = ["CONVERSION_FILE", "Conversion", "order_of_dates", "read_conversion"]

CONVERSION_FILE = "conversion.json"
_FORMAT = 1
_CHANGES = ("", "share", "percent", "money", "raw money", "omitted")
_VWAPS = ("", "given", "mean", "amount")
_ORDERS = ("", "day first", "month first")
_FACTORS = ("given", "product", "ratio", "close", "raw", "adjusted", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The meaning of the columns of a folder's tables.

    Examples
    --------
    >>> kept = Conversion(columns=("close", "adj_factor"), factor="raw", factor_column="adj_factor")
    >>> Conversion.from_text(kept.to_text()) == kept
    True
    """

    columns: tuple[str, ...]
    """Numeric columns, before the conversion."""
    change: str = ""
    """``share``, ``percent``, ``money``, ``raw money`` (of close / factor), ``omitted``; empty if there is no such column."""
    vwap: str = ""
    """``given``, ``mean`` of the bar, or from ``amount``; empty if none of these is possible."""
    vwap_power: int = 0
    """Power of ten by which amount / volume is divided."""
    vwap_by_factor: bool = False
    """Whether amount / volume is multiplied by the factor."""
    factor: str = "none"
    """``given``: a column, prices are adjusted. ``product``: a column, prices are raw. ``ratio``: adjusted / raw close.
    ``close``: only an adjusted close. ``raw``, ``adjusted``: a cumulative factor with raw or adjusted prices. ``none``:
    the factor is 1."""
    factor_column: str = ""
    """The column that `factor` refers to."""
    year_last: str = ""
    """``day first`` or ``month first``: the order of the tables' dates, if they have the year last."""
    universes: tuple[str, ...] = ("all",)
    """Universes that contain all instruments."""

    def to_text(self) -> str:
        """Return the content of the file."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Conversion:
        """Return the conversion from the content of the file.

        Raises
        ------
        ValueError
            If the text is not one that :meth:`to_text` returns.
        """
        plain: Mapping[str, object] = json.loads(text)
        if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        try:
            conversion = cls(
                columns=_texts(plain["columns"]),
                change=_one_of(plain["change"], _CHANGES),
                vwap=_one_of(plain["vwap"], _VWAPS),
                vwap_power=int(plain["vwap_power"]),
                vwap_by_factor=bool(plain["vwap_by_factor"]),
                factor=_one_of(plain["factor"], _FACTORS),
                factor_column=str(plain["factor_column"]),
                year_last=_one_of(plain.get("year_last", ""), _ORDERS),  # earlier versions did not write it
                universes=_texts(plain["universes"]),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"{exc!r:.100}") from exc
        if (conversion.factor in ("ratio", "close", "raw", "adjusted")) != bool(conversion.factor_column):
            raise ValueError(f"factor_column is {conversion.factor_column!r}")
        return conversion


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise TypeError(f"{value!r:.50} is not a list of names")
    return tuple(value)


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r:.50} is none of {', '.join(map(repr, known))}")
    return str(value)


def order_of_dates(day_first: bool | None) -> str:
    """Return the order of dates with the year last, as :attr:`Conversion.year_last` has it; empty if it is not given."""
    return {None: "", True: "day first", False: "month first"}[day_first]


def read_conversion(folder: Path) -> Conversion | None:
    """Return how the tables of a data folder were converted; None if Rollforge did not import it.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    file = folder / CONVERSION_FILE
    if not file.exists():
        return None
    try:
        return Conversion.from_text(read_text(file, LIMITS["text_file_size"], error=DataError))
    except ValueError as exc:
        raise DataError(f"{file} is damaged: {exc}. Import the tables again.") from exc
