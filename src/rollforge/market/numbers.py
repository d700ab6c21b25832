"""Parse numbers in text files: thousands separators, decimal commas, currencies, suffixes K, M and B."""

from __future__ import annotations

import pandas as pd

__all__ = ["read_numbers"]

_EMPTY = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "-", "--", "#N/A"]
_WRITTEN = r"(?P<sign>[+-]?)[$€£¥₹]?(?P<whole>[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?P<part>\.[0-9]*)?\s?(?P<unit>[KMBkmb]?)"
_MAX_LENGTH = 400  # characters of a number; float64 ends at 310 digits
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}


def read_numbers(column: pd.Series, *, semicolons: bool = False) -> tuple[pd.Series, pd.Series]:
    """Parse the strings of a column as numbers, and return a mask of invalid ones.

    Parameters
    ----------
    column : Series
        ``12.5``, ``5,629,000``, ``$121.41``, ``153.7M``; strings such as ``NA`` are missing values.
    semicolons : bool
        Whether the file is separated by semicolons. A comma may then be the decimal mark: ``10,5`` shows that it is,
        but ``10,125`` alone is ambiguous and therefore invalid.

    Returns
    -------
    numbers : Series of float64
    bad : Series of bool
    """
    text = column.astype(str).str.strip()
    text = text.mask(text.isin(_EMPTY) | column.isna())
    if semicolons:
        text = _with_points(text)
    short = text.where(text.str.len() <= _MAX_LENGTH)
    numbers = pd.to_numeric(short, errors="coerce")
    left = numbers.isna() & text.notna()
    if not left.any():
        return numbers.astype("float64"), left
    found = short[left].str.extract(f"^{_WRITTEN}$")
    there = found["whole"].notna()
    if semicolons:
        there &= found["whole"].fillna("").str.count(",") != 1
    if not there.any():
        return numbers.astype("float64"), left
    found = found[there]
    plain = found["sign"] + found["whole"].str.replace(",", "") + found["part"].fillna("")
    numbers = numbers.astype("float64")
    numbers[found.index] = pd.to_numeric(plain).astype("float64") * found["unit"].str.upper().map(_UNITS)
    left[found.index] = False
    return numbers, left


def _with_points(text: pd.Series) -> pd.Series:
    """Replace decimal commas with points, if one of the strings shows that the decimal mark is a comma."""
    comma = text.str.fullmatch(r"[+-]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]+),[0-9]+").fillna(False).astype(bool)
    tells = comma & ~text.str.fullmatch(r"[+-]?[0-9]{1,3},[0-9]{3}").fillna(False).astype(bool)
    if not tells.any() or text.str.fullmatch(r"[+-]?[0-9]*\.[0-9]{1,2}|[+-]?[0-9]*\.[0-9]{4,}").fillna(False).any():
        return text
    return text.mask(comma, text.str.replace(".", "").str.replace(",", "."))
