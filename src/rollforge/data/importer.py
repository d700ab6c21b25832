"""Tables of daily prices to a data folder: Parquet or CSV, one long table or a file an instrument."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.data.provider import write_folder
from rollforge.errors import DataError, DataNotFound, nearest

__all__ = ["ImportSummary", "import_table", "write_whole"]

log = logging.getLogger(__name__)

_NAMES = {
    "instrument": ("instrument", "symbol", "ticker", "code", "name", "asset", "stock", "ts_code"),
    "datetime": ("datetime", "date", "day", "time", "timestamp", "trade_date"),
}
_PRICES = ("open", "high", "low", "close", "vwap")
_SAFE = re.compile(r"[A-Za-z0-9._^=+-]+")


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import wrote."""

    instruments: int
    days: int
    first_day: np.datetime64
    last_day: np.datetime64
    fields: tuple[str, ...]
    made: tuple[str, ...]
    """Fields that the table lacked and the import made."""
    gaps: int
    """Days inside an instrument's life without a row."""

    def __str__(self) -> str:
        made = f" ({', '.join(self.made)} made)" if self.made else ""
        return (
            f"{self.instruments} instruments, {self.days} days from {self.first_day} to {self.last_day}, "
            f"fields {', '.join(self.fields)}{made}, {self.gaps} missing rows"
        )


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file) if file.suffix in (".parquet", ".pq") else pd.read_csv(file)
    except (OSError, ValueError) as exc:
        raise DataError(f"{file} cannot be read: {exc}") from exc


def _read_source(source: Path) -> pd.DataFrame:
    if source.is_file():
        return _read(source)
    if not source.is_dir():
        raise DataNotFound(f"There is no table {str(source)!r}.")
    files = sorted(p for p in source.iterdir() if p.suffix in (".parquet", ".pq", ".csv"))
    if not files:
        raise DataNotFound(f"The folder {source} holds no .parquet or .csv file.")
    parts = []
    for file in files:
        part = _read(file)
        found = _column(part, "instrument")
        parts.append(part if found else part.assign(instrument=file.stem))
    return pd.concat(parts, ignore_index=True)


def _column(table: pd.DataFrame, role: str) -> str | None:
    lower = {str(c).lower(): str(c) for c in table.columns}
    return next((lower[n] for n in _NAMES[role] if n in lower), None)


def _normalise(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with columns instrument, datetime, and fields in lower case."""
    if table.index.names != [None]:
        table = table.reset_index()
    for wanted, name in columns.items():
        if name not in table.columns:
            raise DataError(f"There is no column {name!r} for {wanted}.{nearest(name, map(str, table.columns))}")
    table = table.rename(columns={name: wanted for wanted, name in columns.items()})
    for role in ("instrument", "datetime"):
        found = _column(table, role)
        if found is None:
            raise DataError(
                f"The table has no {role}: none of its columns {', '.join(map(str, table.columns))} is called "
                f"{', '.join(_NAMES[role])}."
            )
        table = table.rename(columns={found: role})
    table = table.rename(columns={c: str(c).lower().lstrip("$") for c in table.columns})
    if table.empty:
        raise DataError("The table has no rows.")
    table["instrument"] = table["instrument"].astype(str).str.strip().str.upper()
    parsed = pd.to_datetime(table["datetime"].astype(str), errors="coerce", format="mixed")
    if parsed.isna().any():
        at = int(np.argmax(parsed.isna().to_numpy()))
        raise DataError(f"Row {at + 1} has the date {table['datetime'].iloc[at]!r}, which cannot be read.")
    table["datetime"] = parsed.dt.normalize()
    return table


def _check(table: pd.DataFrame) -> list[str]:
    """The names of the fields, after the values were looked at."""
    fields = [
        c for c in table.columns if c not in ("instrument", "datetime") and not c.startswith(("unnamed", "index"))
    ]
    fields = [f for f in fields if not (table[f].dtype == object and f in ("name", "adj", "exchange", "currency"))]
    if "close" not in fields:
        raise DataError(f"The table has no close.{nearest('close', fields)} It has: {', '.join(fields) or 'nothing'}.")
    for name in fields:
        numbers = pd.to_numeric(table[name], errors="coerce")
        odd = numbers.isna() & table[name].notna()
        if odd.any():
            at = int(np.argmax(odd.to_numpy()))
            raise DataError(f"Column {name!r}, row {at + 1}: {table[name].iloc[at]!r} is no number.")
        table[name] = numbers
        if name in _PRICES and (numbers < 0).any():
            at = int(np.argmax((numbers < 0).to_numpy()))
            raise DataError(f"Column {name!r}, row {at + 1}: a price of {numbers.iloc[at]} cannot be.")
    odd_codes = [c for c in table["instrument"].unique() if not _SAFE.fullmatch(c)]
    if odd_codes:
        raise DataError(f"The instrument {odd_codes[0]!r} cannot be the name of a folder; rename it.")
    twice = table.duplicated(["instrument", "datetime"])
    if twice.any():
        row = table[twice].iloc[0]
        raise DataError(
            f"{int(twice.sum())} rows stand twice, the first for {row['instrument']} on {row['datetime'].date()}."
        )
    return fields


def import_table(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    market: str = "all",
    universes: Mapping[str, Sequence[str]] | None = None,
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> ImportSummary:
    """Write a table of daily prices as a data folder, all of it or nothing.

    Parameters
    ----------
    source : path
        A Parquet or CSV file with one row an instrument and day, or a folder with one such file an instrument. Columns are
        known by their usual names; every numeric column becomes a field.
    folder : path
        The data folder to make.
    market : str
        Name of the universe of all instruments.
    universes : mapping, optional
        Name -> codes of further universes.
    columns : mapping, optional
        ``instrument`` or ``datetime`` or a field -> the table's name for it.
    overwrite : bool
        True replaces a folder that is there.

    Returns
    -------
    ImportSummary
        A day inside an instrument's life without a row is missing in every field. ``vwap`` is made as the mean of open,
        high, low and close where the table has none, ``factor`` as 1.

    Raises
    ------
    DataError
        For rows that stand twice, dates or numbers that cannot be read, negative prices, an empty table; and for a folder
        that is there.
    """
    table = _normalise(_read_source(Path(source).expanduser()), columns or {})
    fields = _check(table)
    made = []
    if "vwap" not in fields and {"open", "high", "low"} <= set(fields):
        table["vwap"] = table[["open", "high", "low", "close"]].mean(axis=1)
        made.append("vwap")
    if "factor" not in fields:
        table["factor"] = 1.0
        made.append("factor")
    fields += made
    calendar = np.sort(table["datetime"].unique()).astype("datetime64[D]")
    series: dict[str, Any] = {}
    spans: dict[str, list[tuple[Any, Any]]] = {}
    gaps = 0
    for code, rows in table.groupby("instrument", sort=True):
        place = np.searchsorted(calendar, rows["datetime"].to_numpy().astype("datetime64[D]"))
        first, last = int(place.min()), int(place.max())
        gaps += last - first + 1 - len(place)
        values = {}
        for name in fields:
            values[name] = np.full(last - first + 1, np.nan, np.float32)
            values[name][place - first] = rows[name].to_numpy(np.float32)
        series[str(code)] = (first, values)
        spans[str(code)] = [(calendar[first], calendar[last])]
    known = {market: spans}
    for name, codes in (universes or {}).items():
        unknown = [c for c in codes if c.upper() not in spans]
        if unknown:
            raise DataError(f"Universe {name!r} names {unknown[0]!r}, which the table does not have.")
        known[name] = {c.upper(): spans[c.upper()] for c in codes}
    write_whole(folder, lambda draft: write_folder(draft, calendar, series, known), overwrite=overwrite)
    return ImportSummary(len(series), len(calendar), calendar[0], calendar[-1], tuple(fields), tuple(made), gaps)


def write_whole(folder: str | os.PathLike[str], write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Let `write` fill a folder beside the wanted one, and give it the name when it is complete.

    Raises
    ------
    DataError
        When the folder is there and not to be replaced, or cannot be written.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise DataError(f"{target} is there already. Say --overwrite to replace it, or name another folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as exc:
        raise DataError(f"{target} cannot be written: {exc.strerror}.") from exc
    try:
        draft.chmod(0o755)
        write(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as exc:
        raise DataError(f"{target} cannot be written: {exc.strerror}.") from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
