"""Tables of daily prices into a data folder.

The source is one long table (a row per instrument and day) as Parquet or CSV, or a folder with such a file per
instrument. Whatever cannot be right is refused, with its row and its column, before anything is written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.data.folder import FolderSummary, new_folder
from rollforge.data.provider import Days, write_folder
from rollforge.data.table import CODE, DATE, Table, read_table
from rollforge.errors import DataError, DataNotFound, nearest

__all__ = ["import_table"]

log = logging.getLogger(__name__)

_PRICES = ("open", "high", "low", "close", "vwap")
_NOT_NEGATIVE = (*_PRICES, "volume", "amount", "factor")
_UNFIT = frozenset('/\\:*?"<>|')


@dataclass(frozen=True, slots=True)
class _Rows:
    """The table, ordered by instrument and day. One entry a row in each array but `codes` and `calendar`."""

    codes: list[str]
    calendar: Days
    code: NDArray[np.int64]
    """Place in `codes`."""
    day: NDArray[np.int64]
    """Place in `calendar`."""
    values: dict[str, NDArray[np.float64]]


def import_table(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    market: str = "all",
    universes: Mapping[str, Sequence[str] | None] | None = None,
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> FolderSummary:
    """Write a table of daily values as a data folder, and return what is in it.

    Instrument and day are found by their usual names (``instrument``, ``symbol``, ``ticker``, ``code``, ``name`` …;
    ``datetime``, ``date``, ``trade_date`` …), whatever their case. Every other column of numbers becomes a field, its
    name in lower case. ``vwap`` is made as the mean of open, high, low and close where there is none, ``factor`` is 1
    where there is none. The calendar is made of all days of the table; each instrument goes from its first to its last
    day, and days without a row are NaN there.

    Parameters
    ----------
    source : path
        A ``.parquet`` or ``.csv`` file (``.csv.gz`` too), or a folder with one per instrument, named by its code.
    path : path
        The data folder; must not be there yet, or be empty.
    market : str
        Name of the universe of all instruments.
    universes : mapping, optional
        Further universes: name -> codes; None stands for all.
    columns : mapping, optional
        Source column -> ``instrument``, ``datetime`` or the name of a field; ``""`` leaves the column out.
    overwrite : bool
        True replaces a data folder that is there.

    Raises
    ------
    DataNotFound
        When there is no such source.
    DataError
        When the table cannot be right: nothing in it, no column of instruments or days, a day that is no date, text
        where numbers belong, a negative price, the same day twice, a code that cannot be a folder's name. Nothing has
        been written.
    """
    place = Path(source).expanduser()
    table = read_table(place, dict(columns or {}))
    rows = _ordered(table)
    _check_values(table, rows)
    notes = [*table.notes, *_complete(rows)]
    first = np.searchsorted(rows.code, np.arange(len(rows.codes)), side="left")
    stop = np.searchsorted(rows.code, np.arange(len(rows.codes)), side="right")
    lives = {
        code: (rows.calendar[rows.day[a]], rows.calendar[rows.day[b - 1]])
        for code, a, b in zip(rows.codes, first, stop, strict=True)
    }
    members = _universes(market, universes or {}, lives)
    series: dict[str, tuple[int, Mapping[str, NDArray[np.float32]]]] = {}
    missing = dict.fromkeys(rows.values, 0)
    cells = 0
    for code, a, b in zip(rows.codes, first, stop, strict=True):
        begin = int(rows.day[a])
        days = int(rows.day[b - 1]) - begin + 1
        fields = {}
        for name, values in rows.values.items():
            block = np.full(days, np.nan, np.float32)
            block[rows.day[a:b] - begin] = values[a:b]
            fields[name] = block
            missing[name] += int(np.isnan(block).sum())
        series[code] = (begin, fields)
        cells += days
    with new_folder(path, overwrite=overwrite) as draft:
        write_folder(draft, rows.calendar, series, members)
    summary = FolderSummary(
        path=Path(path),
        instruments=len(rows.codes),
        days=len(rows.calendar),
        fields=tuple(rows.values),
        first=rows.calendar[0],
        last=rows.calendar[-1],
        rows=cells,
        missing=missing,
        notes=tuple(notes),
    )
    log.info("imported %s: %s", place, summary)
    return summary


def _check_codes(codes: Sequence[str]) -> None:
    upper: dict[str, str] = {}
    for code in codes:
        bad = not code.isprintable() or any(c in _UNFIT or c.isspace() for c in code) or code.strip(".") != code
        if bad or code.upper().lower() != code.lower():
            raise DataError(
                f"The instrument code {code!r} cannot be the name of a folder. Write it with letters, digits, '.', '-' "
                "and '_', as 'BRK-B' for 'BRK/B'."
            )
        other = upper.setdefault(code.upper(), code)
        if other != code:
            raise DataError(f"The instrument codes {other!r} and {code!r} differ in case alone, which folders may not.")


def _ordered(table: Table) -> _Rows:
    frame = table.frame
    code, names = pd.factorize(frame[CODE], sort=True)
    codes = [str(n) for n in names]
    _check_codes(codes)
    dates = frame[DATE].to_numpy().astype("datetime64[D]")
    calendar, day = np.unique(dates, return_inverse=True)
    order = np.lexsort((day, code))
    code, day = code[order].astype(np.int64), day[order].astype(np.int64)
    twice = np.flatnonzero((np.diff(code) == 0) & (np.diff(day) == 0))
    if twice.size:
        shown = [f"{codes[code[i]]} on {calendar[day[i]]} ({table.where(order[i + 1])})" for i in twice[:5]]
        more = f" and {twice.size - 5} more" if twice.size > 5 else ""
        raise DataError(f"An instrument has one row a day, but there are more: {', '.join(shown)}{more}.")
    values = {
        str(name): frame[name].to_numpy(np.float64, na_value=np.nan)[order]
        for name in frame
        if name not in (CODE, DATE)
    }
    return _Rows([c.upper() for c in codes], calendar, code, day, values)


def _check_values(table: Table, rows: _Rows) -> None:
    for name, values in rows.values.items():
        bad = np.isinf(values)
        what = "is infinite"
        if not bad.any() and name in _NOT_NEGATIVE:
            bad = values < 0
            what = "is negative"
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{name} of {rows.codes[rows.code[i]]} on {rows.calendar[rows.day[i]]} {what} ({values[i]:g}); "
                f"{int(bad.sum())} such value{'s' if bad.sum() > 1 else ''} in {table.source}. Correct the source."
            )


def _complete(rows: _Rows) -> list[str]:
    """Add vwap and factor where the table has none, and say so."""
    notes = []
    values = rows.values
    if "vwap" not in values and all(f in values for f in _PRICES[:4]):
        # Rounded as they are stored, so that a CSV file and a Parquet file of the same table give the same bytes.
        bars = [values[f].astype(np.float32).astype(np.float64) for f in _PRICES[:4]]
        values["vwap"] = (bars[0] + bars[1] + bars[2] + bars[3]) / 4
        notes.append("vwap made as the mean of open, high, low and close: the table has none")
    if "factor" not in values:
        values["factor"] = np.ones(len(rows.code))
        notes.append("factor set to 1: the table has none, its prices count as adjusted")
    return notes


def _universes(
    market: str, named: Mapping[str, Sequence[str] | None], lives: Mapping[str, tuple[np.datetime64, np.datetime64]]
) -> dict[str, dict[str, list[tuple[np.datetime64, np.datetime64]]]]:
    members = {}
    for name, codes in {market: None, **named}.items():
        if not name or name != name.strip() or not name.isprintable() or any(c in _UNFIT for c in name):
            raise DataError(f"A universe cannot be called {name!r}: its name is the name of a file.")
        chosen = list(lives) if codes is None else [c.upper() for c in codes]
        if not chosen:
            raise DataError(f"The universe {name!r} is empty. Name the codes that belong to it, or leave it out.")
        for code in chosen:
            if code not in lives:
                raise DataNotFound(
                    f"The universe {name!r} names {code!r}, which is not in the table.{nearest(code, lives)}"
                )
        members[name] = {code: [lives[code]] for code in chosen}
    return members
