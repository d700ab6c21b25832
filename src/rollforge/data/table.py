"""Reading tables of daily values: Parquet or CSV, one long table or a file per instrument."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rollforge.errors import DataError, DataNotFound, nearest

__all__ = ["CODE", "DATE", "Table", "read_table"]

CODE, DATE = "instrument", "datetime"

# The first of these that a table has is meant; 'name' comes last, because it may also be the name of a company.
_CODES = ("instrument", "symbol", "ticker", "code", "ts_code", "stock_code", "stock", "secid", "sid", "asset", "name")
_DATES = ("datetime", "date", "trade_date", "trading_date", "day", "timestamp", "time")
_SAME = {"vol": "volume"}
_EMPTY = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-", "#N/A"]
_KINDS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}


@dataclass(frozen=True, slots=True)
class Table:
    """A long table that was read: columns instrument (str), datetime (whole days) and fields (numbers)."""

    frame: pd.DataFrame
    source: Path
    lines: bool
    """Whether rows have line numbers (a single CSV file with its header)."""
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        """Return how a reader finds row number `row` (from 0) in the source."""
        return f"line {row + 2}" if self.lines else f"row {row + 1}"


def read_table(source: Path, columns: dict[str, str]) -> Table:
    """Return the table in `source`, a file or a folder with one file per instrument.

    Parameters
    ----------
    source : Path
        Where it is.
    columns : dict
        Source column -> ``instrument``, ``datetime``, a field's name, or ``""`` to leave it out.

    Raises
    ------
    DataNotFound
        When there is no such file or folder, or no table in it.
    DataError
        When it cannot be read as a table of daily values.
    """
    if source.is_dir():
        return _read_folder(source, columns)
    if not source.is_file():
        raise DataNotFound(f"There is no table {str(source)!r}.")
    table = _read_file(source, columns, code=None)
    if table.frame.empty:
        raise DataError(f"{source} is a table without rows.")
    return table


def _read_folder(folder: Path, columns: dict[str, str]) -> Table:
    files = sorted(p for p in folder.iterdir() if p.is_file() and _kind(p) and not p.name.startswith("."))
    if not files:
        raise DataNotFound(f"There is no .parquet or .csv file in {folder}.")
    tables = []
    for file in files:
        code = file.name[: -len(_suffix(file))]
        table = _read_file(file, columns, code=code)
        if table.frame.empty:
            raise DataError(f"{file} is a table without rows.")
        tables.append(table)
    frame = pd.concat([t.frame for t in tables], ignore_index=True)
    notes = tuple(dict.fromkeys(n for t in tables for n in t.notes))
    return Table(frame, folder, lines=False, notes=notes)


def _suffix(file: Path) -> str:
    lower = file.name.lower()
    return next((s for s in sorted(_KINDS, key=len, reverse=True) if lower.endswith(s)), "")


def _kind(file: Path) -> str:
    return _KINDS.get(_suffix(file), "")


def _read_file(file: Path, columns: dict[str, str], *, code: str | None) -> Table:
    kind = _kind(file)
    if not kind:
        raise DataError(f"{file} is neither .parquet nor .csv.")
    raw = _read_csv(file) if kind == "csv" else _read_parquet(file)
    names = _rename(list(raw.columns), columns, file, has_code=code is not None)
    raw = raw[list(names)].rename(columns=names)
    table = Table(raw, file, lines=kind == "csv")
    if code is not None:
        raw[CODE] = code
    days = _days(table)
    made: dict[str, pd.Series] = {CODE: _codes(table), DATE: days}
    notes = []
    for name in raw.columns:
        if name in (CODE, DATE):
            continue
        numbers = _numbers(table, str(name))
        if numbers is None:
            notes.append(f"{name} left out: it holds text")
        else:
            made[str(name)] = numbers
    if len(made) == 2:
        raise DataError(f"{file} has no column of numbers besides instrument and day.")
    return Table(pd.DataFrame(made), file, table.lines, tuple(notes))


def _read_csv(file: Path) -> pd.DataFrame:
    # Everything as text first: codes such as 000001 keep their zeros, and a ticker called NA is not a gap.
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as exc:
        raise DataError(f"{file} cannot be read as CSV: {str(exc).strip()}.") from exc


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        frame = pd.read_parquet(file)
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataError(f"{file} cannot be read as Parquet: {str(exc).splitlines()[0]}") from exc
    levels = [n for n in frame.index.names if n is not None]
    return frame.reset_index(level=levels) if levels else frame


def _tidy(name: object) -> str:
    """The name of a column as an expression can say it: lower case, with underscores."""
    lower = re.sub(r"\W+", "_", str(name).strip().lower()).strip("_")
    return _SAME.get(lower, lower)


def _rename(found: Sequence[object], columns: dict[str, str], file: Path, *, has_code: bool) -> dict[object, str]:
    """Return {source column: name} of the columns to keep."""
    known = [str(c) for c in found]
    for asked in columns:
        if asked not in known:
            raise DataError(f"{file} has no column {asked!r}.{nearest(asked, known)} It has: {', '.join(known)}.")
    names = {c: columns.get(str(c), _tidy(c)) for c in found}
    for target, usual in ((DATE, _DATES), (CODE, _CODES)):
        if target == CODE and has_code:
            names = {c: n for c, n in names.items() if n != CODE}
            continue
        if target not in names.values():
            pick = next((u for u in usual if u in names.values()), None)
            if pick is None:
                what = "instruments" if target == CODE else "days"
                raise DataError(
                    f"{file} has no column of {what}: expected one called {', '.join(usual)}. It has: "
                    f"{', '.join(known)}. Say which with columns={{column: {target!r}}}."
                )
            names = {c: target if n == pick else n for c, n in names.items()}
    names = {c: n for c, n in names.items() if n and not n.startswith(("unnamed", "__index_level"))}
    by_name: dict[str, object] = {}
    for column, name in names.items():  # two columns of one name would silently be one field
        if name in by_name:
            raise DataError(f"{file}: the columns {str(by_name[name])!r} and {str(column)!r} would both be {name!r}.")
        by_name[name] = column
    return names


def _codes(table: Table) -> pd.Series:
    codes = table.frame[CODE]
    text = codes.astype(str).str.strip()
    empty = codes.isna() | (text == "")
    if empty.any():
        raise DataError(f"{table.source}: {table.where(int(np.argmax(empty)))} names no instrument.")
    return text


def _days(table: Table) -> pd.Series:
    raw = table.frame[DATE]
    if pd.api.types.is_datetime64_any_dtype(raw):
        days = raw.dt.tz_localize(None) if raw.dt.tz is not None else raw
    else:  # text, dates, or numbers such as 20130208; a float column of those has a gap in it
        whole = raw.astype("Int64") if pd.api.types.is_float_dtype(raw) else raw
        text = whole.astype(str).str.strip()
        days = pd.to_datetime(text.where(text.str.len() >= 8), format="ISO8601", errors="coerce", utc=False)
    bad = days.isna()
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{table.source}: the day in {table.where(row)} is no date: {raw.iloc[row]!r}. Write days as 2013-02-08 or "
            f"20130208 ({int(bad.sum())} of {len(bad)} cannot be read)."
        )
    midnight: pd.Series = days.dt.normalize()
    return midnight


def _numbers(table: Table, name: str) -> pd.Series | None:
    """Return a column as numbers; None when not one of its values is a number."""
    raw = table.frame[name]
    if pd.api.types.is_numeric_dtype(raw):
        return raw.astype("float64")
    text = raw.astype(str).str.strip()
    numbers = pd.to_numeric(text.mask(text.isin(_EMPTY)), errors="coerce")
    bad = numbers.isna() & ~text.isin(_EMPTY) & ~raw.isna()
    if not bad.any():
        return numbers.astype("float64")
    if not numbers.notna().any() and name not in ("open", "high", "low", "close", "volume", "vwap", "factor"):
        return None
    row = int(np.argmax(bad))
    raise DataError(
        f"{table.source}: {name} holds {raw.iloc[row]!r} in {table.where(row)}, which is no number "
        f"({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''}). Correct it, or leave the column out."
    )
