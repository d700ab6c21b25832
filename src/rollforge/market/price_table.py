"""Read tables of daily values: Parquet or CSV, one long table or a file per instrument."""

from __future__ import annotations

import codecs
import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import FIRST_DAY, LAST_DAY, DayColumn, clock, read_column
from rollforge.errors import DataError, DataNotFound, counted, first_few, shown
from rollforge.limits import LIMITS, check_parquet, open_unpacked
from rollforge.market.columns import (
    CODE,
    DATE,
    DATES,
    DAY_NAME,
    column_names,
    is_of_one,
    of_partition,
    tidy,
    unused_code,
)
from rollforge.market.frames import as_frame, reading
from rollforge.market.layouts import (
    code_of,
    convert_crsp,
    is_chinese,
    kline_names,
    unstacked,
    unstacked_columns,
    without_crsp_codes,
)
from rollforge.market.numbers import read_numbers
from rollforge.paths import read_path

__all__ = ["Table", "read_parquet", "read_table"]

_KINDS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".txt": "csv"}


@dataclass(frozen=True, slots=True)
class Table:
    """A long table: columns instrument (str), datetime (days) and fields (numbers)."""

    frame: pd.DataFrame
    source: Path | str
    seconds: NDArray[np.float64]
    """The time of day of each row, in seconds since midnight; 0 if only a day is given."""
    first_line: int | None
    """Line number of the first row (in a single CSV file); None if rows have no line numbers."""
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name -> source column, where they differ in more than case; ``file name`` if instruments are named by files."""
    named_by_file: bool = False
    """Whether the instrument of a single file is known only from the name of the file."""
    year_last: str = ""
    """``day first`` or ``month first``, if the dates have the year last; else empty."""
    unused: tuple[str, str] | None = None
    """A column of instruments and its only code, if the file was taken for the instrument that it is named by."""

    def where(self, row: int) -> str:
        """Describe the location of row number `row` (from 0) in the source."""
        return f"row {row + 1}" if self.first_line is None else f"line {row + self.first_line}"


def read_table(
    given: object,
    columns: dict[str, str],
    *,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    year_last: str = "",
) -> Table:
    """Return the table in a file, in a folder with one file per instrument, or in memory.

    A single CSV file with prices of one instrument, as Yahoo has them, is named by its code too.

    Parameters
    ----------
    given : path, DataFrame, or a table with the Arrow interface
        Path of the table, or the table itself.
    columns : dict
        Source column -> ``instrument``, ``datetime``, a field's name, or ``""`` to skip it.
    names : sequence of str, optional
        Names of the columns of CSV files without a header line.
    encoding : str
        Encoding of CSV files.
    year_last : str
        ``day first`` or ``month first``: the order of dates such as 02/03/2024, if no date of the table shows it.

    Raises
    ------
    DataNotFound
        If the file or folder does not exist, or contains no table.
    DataError
        If it cannot be read as a table of daily values.
    """
    form = _Form(columns, None if names is None else list(names), encoding, year_last)
    if not isinstance(given, (str, os.PathLike)):
        raw = pd.DataFrame(as_frame(given, "The table"))
        table = _tidied(_without_index(raw), form, "the table", code=None)
        if table.frame.empty:
            raise DataError("The table has no rows.")
        return table
    source = read_path(given)
    if os.path.isdir(source):
        return _read_folder(source, form)
    if not os.path.isfile(source):
        raise DataNotFound(f"There is no file or folder {str(source)!r}.")
    table = _read_file(source, form, code=None)
    if table.frame.empty:
        raise DataError(f"{source} has no rows.")
    return table


@dataclass(frozen=True, slots=True)
class _Form:
    """The user's options for reading files."""

    columns: dict[str, str]
    names: list[str] | None
    encoding: str
    year_last: str
    klines: bool = False
    """Whether a file has the columns of Binance's klines."""
    skipped: int = 0
    """Number of lines before the header of a CSV file."""


def _read_folder(folder: Path, form: _Form) -> Table:
    """Return the table in files of one instrument each, of one day each, or of one part each."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and _kind(p) and not p.name.startswith("."))
    tables_only = [p for p in files if _suffix(p) != ".txt"]  # a text besides tables describes them
    parts = (
        [] if tables_only else sorted(p for p in folder.glob("*=*/**/[!._]*") if p.is_file() and _kind(p) == "parquet")
    )
    files = tables_only or ([] if parts else files)
    if not files and not parts:
        raise DataNotFound(f"There is no .parquet or .csv file in {folder}.")
    by_day = all(DAY_NAME.fullmatch(_stem(file)) for file in files)

    def read(file: Path, form: _Form) -> Table:
        known = of_partition(file.relative_to(folder)) if parts else {DATE: _stem(file)} if by_day else {}
        return _read_file(file, form, code=None if known or parts else code_of(_stem(file)), known=known)

    found = [*files, *parts]
    with_content = [file for file in found if _has_content(file)]
    tables = [t for t in _read_in_one_order(with_content, form, read) if not t.frame.empty]
    if not tables:
        raise DataError(f"{folder} has no rows in its {counted(len(found), 'file')}.")
    frame = pd.concat([t.frame for t in tables], ignore_index=True)
    notes = tuple(
        dict.fromkeys([*_without_rows(found, tables), *(n for t in tables for n in t.notes), *_same_code(tables)])
    )
    sources = {name: source for t in tables for name, source in t.sources.items()}
    order = next((t.year_last for t in tables if t.year_last), "")
    return Table(frame, folder, np.concatenate([t.seconds for t in tables]), None, notes, sources, year_last=order)


def _has_content(file: Path) -> bool:
    """Return whether a file has more than white space; a long one is not read."""
    return file.stat().st_size > 64 or bool(file.read_bytes().strip())


def _without_rows(files: Sequence[Path], tables: Sequence[Table]) -> list[str]:
    """Return a note on the files without rows, as downloads of delisted instruments leave them."""
    read = {t.source for t in tables}
    empty = [file.name for file in files if file not in read]
    if not empty:
        return []
    left = "file without rows was" if len(empty) == 1 else "files without rows were"
    return [f"{len(empty)} {left} left out: {first_few(empty)}"]


def _same_code(tables: Sequence[Table]) -> list[str]:
    """Report that several files are taken for instruments of their own, although they have the same code in a column."""
    seen: dict[tuple[str, str], Table] = {}
    for table in tables:
        if table.unused is None:
            continue
        other = seen.setdefault(table.unused, table)
        codes = [one.frame[CODE].iloc[0] for one in (other, table)]
        if codes[0] != codes[1]:
            column, code = table.unused
            return [
                f"the files are taken for the instruments that they are named by, such as {codes[0]} and {codes[1]}, although "
                f"{shown(column)} is {shown(code)} in both. If the column is right, add --column '{column}={CODE}'"
            ]
    return []


class _UnorderedDays(DataError):
    """The day or the month may come first in all dates of a table."""


def _read_in_one_order(files: Sequence[Path], form: _Form, read: Callable[[Path, _Form], Table]) -> list[Table]:
    """Return the tables in some files; one whose dates do not show their order has that of the others."""
    tables: dict[Path, Table] = {}
    unordered: dict[Path, _UnorderedDays] = {}
    for file in files:
        try:
            tables[file] = read(file, form)
        except _UnorderedDays as exc:
            unordered[file] = exc
    orders = {table.year_last for table in tables.values()} - {""}
    for file, refused in unordered.items():
        if len(orders) != 1:
            raise refused
        tables[file] = read(file, dataclasses.replace(form, year_last=min(orders)))
    return [tables[file] for file in files]


_SEPARATOR = re.compile(rb"[,;\t|]")
_NOT_ALONE = re.compile(rb'[,;\t|"\x00\x80-\xff]')
"""What a line above the header lacks: separators, quotation marks, and bytes of UTF-16 and other encodings."""


def _stem(file: Path) -> str:
    return file.name[: -len(_suffix(file))]


def _suffix(file: Path) -> str:
    lower = file.name.lower()
    return next((s for s in sorted(_KINDS, key=len, reverse=True) if lower.endswith(s)), "")


def _kind(file: Path) -> str:
    return _KINDS.get(_suffix(file), "")


def _read_file(file: Path, form: _Form, *, code: str | None, known: Mapping[str, str] = MappingProxyType({})) -> Table:
    """Return the table in a file.

    Parameters
    ----------
    file : path
        The file.
    form : _Form
        The user's options.
    code : str, optional
        The name of the file, if it may be that of its only instrument.
    known : mapping
        The instrument or the day of all rows, by the name of the file or of its folder, if it has no such column.
    """
    kind = _kind(file)
    if not kind:
        raise DataError(f"{file} is not a .parquet, .csv, .tsv or .txt file.")
    if kind == "parquet":
        raw, notes = _with_known(read_parquet(file), known, form)
        table = _tidied(raw, form, file, code=code)
        return dataclasses.replace(table, notes=(*notes, *table.notes))
    form, notes = _recognized(file, form)
    if code is None and form.klines:
        code = code_of(_stem(file))
    raw, separator = _read_csv(file, form)
    first_line: int | None = form.skipped + (2 if form.names is None else 1)
    named_by_file = False
    stacked = unstacked(raw)
    if stacked is not None:
        raw, first_line, code = stacked, None, None
        notes.append("the first three lines are a header of fields, tickers and the name of the days")
    elif named_by_file := code is None and not known and is_of_one(raw, form.columns):
        code = code_of(_stem(file)).upper()
        notes.append(f"there is no column of instruments; all rows are of {shown(code)}, by the name of the file")
    raw, more = _with_known(raw, known, form)
    table = _tidied(raw, form, file, code=code, first_line=first_line, semicolons=separator == ";")
    return dataclasses.replace(table, notes=(*notes, *more, *table.notes), named_by_file=named_by_file)


def _with_known(raw: pd.DataFrame, known: Mapping[str, str], form: _Form) -> tuple[pd.DataFrame, list[str]]:
    """Return a table with the instrument or the day that is known of all of its rows, and a note about it."""
    names = {form.columns.get(str(c), tidy(c)) for c in raw.columns}
    added = {m: v for m, v in known.items() if m not in names and (m != DATE or names.isdisjoint(DATES))}
    note = f"{' and '.join(added)} of each row: by the name of its file or folder"
    return raw.assign(**added), [note] if added else []


def _recognized(file: Path, form: _Form) -> tuple[_Form, list[str]]:
    """Return the form of a CSV file with what its first line shows: its encoding, and the columns of Binance's klines."""
    with reading(file, "CSV"), open_unpacked(file, error=DataError) as stream:
        line, _, rest = stream.read(_MAX_LINE_LENGTH).partition(b"\n")
    notes = []
    second = rest.partition(b"\n")[0]
    if line.strip() and not _NOT_ALONE.search(line) and second.isascii() and len(_SEPARATOR.findall(second)) > 1:
        form = dataclasses.replace(form, skipped=1)
        notes.append("the first line was left out, because it has one value: the second one is the header")
        line = second
    if _is_utf8(form.encoding) and is_chinese(line):
        form = dataclasses.replace(form, encoding="gb18030")
        notes.append(
            "the file is read as GB 18030 (which includes GBK), because its header is Chinese in this encoding"
        )
    names = None if form.names or form.columns else kline_names(line)
    if names is not None:
        form = dataclasses.replace(
            form, names=names, columns={name: "" for name in names if name.startswith("_")}, klines=True
        )
        notes.append("there is no header; the columns are those of Binance's klines")
    return form, notes


def _tidied(
    raw: pd.DataFrame,
    form: _Form,
    file: Path | str,
    *,
    code: str | None,
    first_line: int | None = None,
    semicolons: bool = False,
) -> Table:
    """Return a raw table with normalized column names and parsed values."""
    names = column_names(raw, form.columns, file, code=code)
    unused = unused_code(raw, form.columns) if code is not None and CODE not in names.values() else None
    chosen = raw[list(names)]
    if not chosen.columns.is_unique:
        twice = chosen.columns[chosen.columns.duplicated()][0]
        raise DataError(f"{file} has several columns named {shown(twice)}. Give each a different name.")
    raw, sources = chosen.rename(columns=names), {name: column for column, name in names.items()}
    raw = without_crsp_codes(raw)
    if code is not None and CODE not in raw:
        raw[CODE] = code
    table = Table(raw, file, np.zeros(len(raw)), first_line)
    days, notes = _days(table, form.year_last)
    raw, days = _times(raw, days)
    made: dict[str, pd.Series] = {CODE: _codes(table), DATE: pd.Series(days.days, raw.index)}
    for name in raw.columns:
        if name in (CODE, DATE):
            continue
        numbers = _numbers(table, str(name), sources[name], semicolons=semicolons)
        if numbers is None:
            notes.append(f"{name} was left out, because it contains text")
        else:
            made[str(name)] = numbers
    if len(made) == 2:
        raise DataError(f"{file} has no numeric column besides instrument and day.")
    notes += convert_crsp(made, sources, form.columns.values())
    renamed = {
        name: str(source) for name, source in sources.items() if name in made and str(source).strip().lower() != name
    }
    if code is not None and CODE not in sources:
        renamed[CODE] = "the name of the file"
    return Table(
        pd.DataFrame(made),
        file,
        days.seconds,
        first_line,
        tuple(notes),
        renamed,
        year_last=days.year_last,
        unused=unused,
    )


def _read_csv(file: Path, form: _Form) -> tuple[pd.DataFrame, str]:
    """Return the cells of a CSV file as strings, and its separator. Names are not unique in a header of three lines."""

    def read(separator: str, **options: object) -> pd.DataFrame:
        return _as_text(file, form, separator, **options)

    options: dict[str, object] = {}
    twice: str | None = None
    _check_first_line(file)
    header = list(read(",", nrows=0).columns)
    separator = next((s for s in ";\t|" if len(header) == 1 and s in str(header[0])), ",")
    if form.names is not None:
        width = len(list(read(separator, nrows=0).columns))
        if width != len(form.names):
            raise DataError(
                f"{file} has {counted(width, 'column')}, but the number of names given for them is {len(form.names)}."
            )
        options = {"header": None, "names": form.names}
    else:
        header = [str(c).strip("\ufeff \xa0") for c in read(separator, header=None, nrows=1).iloc[0]]
        twice = next((c for i, c in enumerate(header) if c and c in header[:i]), None)
    LIMITS["table_columns"].check(len(form.names or header), f"{file} has", error=DataError)
    most = LIMITS["table_rows"]
    frame = read(separator, nrows=most.value + 1, **options)
    if len(frame) > most.value:
        most.refuse(f"{file} has more than {most.shown()}", error=DataError)
    frame.columns = [str(c).strip("\ufeff \xa0") for c in (frame.columns if twice is None else header)]
    if twice is not None and unstacked(frame) is None:
        raise DataError(f"{file} has the column {twice!r} more than once. Give names for its columns with --names.")
    return frame, separator


def _as_text(file: Path, form: _Form, separator: str, **options: Any) -> pd.DataFrame:
    """Return (a part of) a CSV file with all values as strings."""
    with reading(file, "CSV"), open_unpacked(file, error=DataError) as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # values beyond the header's names
        try:
            encoding = _encoding(file, form.encoding, stream)
            # Read strings first: codes such as 000001 keep their zeros, and a ticker NA is not a missing value.
            frame: pd.DataFrame = pd.read_csv(
                stream, sep=separator, dtype=str, keep_default_na=False, na_filter=False, encoding=encoding,
                index_col=False, skipinitialspace=True, skiprows=form.skipped, **options,
            )  # fmt: skip
        except UnicodeDecodeError as exc:
            raise DataError(
                f"{file} is not {form.encoding} text ({exc.reason} at byte {exc.start}). Give its encoding with --encoding, "
                "for example '--encoding gbk' (in Python: encoding='gbk')."
            ) from None
        except LookupError as exc:
            raise DataError(f"Unknown encoding {form.encoding!r}. Use for example utf-8, gbk or latin-1.") from exc
        except pd.errors.ParserWarning:
            raise DataError(
                f"{file} has lines with more values than its header has columns. Numbers such as 5,629,000 need quotes."
            ) from None
    return frame


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:  # reported when the file is read
        return False


def _encoding(file: Path, encoding: str, stream: Any) -> str:
    """Return the encoding of a file that is about to be read: UTF-16 or UTF-32 if it has such a byte order mark.

    Raises
    ------
    DataError
        If UTF-8 is expected, and the file looks like UTF-16 without a byte order mark.
    LookupError
        If there is no such encoding.
    """
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        return encoding
    head = bytes(stream.peek(4)[:4])
    for marks, name in (
        ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
        ((codecs.BOM_LE, codecs.BOM_BE), "utf-16"),
    ):
        if head.startswith(marks):
            return name
    if b"\0" in head[:2]:
        name = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        raise DataError(
            f"{file} is not {encoding} text: it looks like UTF-16. Give its encoding with --encoding {name} "
            f"(in Python: encoding={name!r})."
        )
    return encoding


def _check_first_line(file: Path) -> None:
    """Reject a file that decompresses to too much data or has no line breaks, before a line is split into columns."""
    with reading(file, "CSV"), open_unpacked(file, error=DataError) as stream:
        head = stream.read(_MAX_LINE_LENGTH + 1)
        while _suffix(file) == ".csv.gz" and stream.read(2**20):
            pass  # decompressing is ten times faster than parsing
    if len(head) > _MAX_LINE_LENGTH and b"\n" not in head and b"\r" not in head:
        raise DataError(f"{file} is not a table: its first line is longer than {_MAX_LINE_LENGTH:,} bytes.")
    separators = max(head.partition(b"\n")[0].count(s) for s in (b",", b";", b"\t", b"|"))
    LIMITS["table_columns"].check(separators + 1, f"{file} has", error=DataError)


_MAX_LINE_LENGTH = 2**20


def read_parquet(file: Path) -> pd.DataFrame:
    """Return a Parquet file as a frame, with its named index levels as columns.

    Raises
    ------
    DataError
        If it is not a Parquet file.
    """
    with reading(file, "Parquet"):
        check_parquet(file, error=DataError)
        return _without_index(pd.read_parquet(file))


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its named index levels as columns, and a default index."""
    stacked = unstacked_columns(frame)
    if stacked is not None:
        return stacked
    levels = [n for n in frame.index.names if n is not None]
    return (frame.reset_index(level=levels) if levels else frame).reset_index(drop=True)


def _codes(table: Table) -> pd.Series:
    codes = table.frame[CODE]
    if pd.api.types.is_float_dtype(codes) and codes.dropna().map(_is_whole).all():
        codes = codes.astype("Int64")  # whole numbers, of a column that had missing values
    text = codes.astype(str).str.strip()
    empty = codes.isna() | (text == "")
    if empty.any():
        raise DataError(f"{table.source}, {table.where(int(np.argmax(empty)))}: the instrument is missing.")
    return text


def _is_whole(number: float) -> bool:
    return number % 1 == 0 and abs(number) < 2**53


def _days(table: Table, year_last: str) -> tuple[DayColumn, list[str]]:
    """Return the days of the rows, and notes."""
    column = read_column(table.frame[DATE], year_last=year_last)
    if column.reason:
        row = min(column.reason)
        said = f"{table.source}, {table.where(row)}: {column.reason[row]}"
        unread = f"{len(column.reason)} of {len(column.days)} days cannot be read."
        if column.unordered:
            said = (
                f"{said.removesuffix('.')}, or say which with --day-first or --month-first (in Python: day_first=True)."
            )
            raise _UnorderedDays(f"{said} {unread}")
        raise DataError(f"{said} {unread}")
    outside = (column.days < FIRST_DAY) | (column.days > LAST_DAY)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{table.source}, {table.where(row)}: {column.days[row]} is outside {FIRST_DAY} to {LAST_DAY}. Correct the year."
        )
    notes = (
        [f"dates such as {table.frame[DATE].iloc[0]} are read with the {column.year_last}"] if column.year_last else []
    )
    late = column.utc & (column.seconds > 0)
    if not late.any():
        return column, notes
    at = clock(float(column.seconds[np.argmax(late)]))
    return column, [
        *notes,
        f"days are those of UTC, because there are times such as {at} UTC, but the exchange's day may be another one. Write "
        "days without a time, or times in the exchange's time zone",
    ]


def _numbers(table: Table, name: str, source: object, *, semicolons: bool) -> pd.Series | None:
    """Return a column as numbers; None if none of its values is a number."""
    raw = table.frame[name]
    if pd.api.types.is_numeric_dtype(raw) and not pd.api.types.is_complex_dtype(raw):
        return raw.astype("float64")
    numbers, bad = read_numbers(raw, semicolons=semicolons)
    if not bad.any():
        return numbers
    if not numbers.notna().any() and name not in ("open", "high", "low", "close", "volume", "vwap", "factor"):
        return None
    row = int(np.argmax(bad))
    raise DataError(
        f"{table.source}, {table.where(row)}: {name} is {shown(raw.iloc[row])}, which is not a number "
        f"({counted(int(bad.sum()), 'such value')}). Correct it, or omit the column with --column "
        f"'{source}='."
    )


def _times(raw: pd.DataFrame, days: DayColumn) -> tuple[pd.DataFrame, DayColumn]:
    """Combine a column of times of day with that of days; it does not become a field.

    Its numbers are ``930``, ``93000`` or, with milliseconds, ``93000000``; it may also repeat the day, as in
    ``20240102093000000``.
    """
    name = next((name for name in ("time", "trade_time") if name in raw), None)
    if name is None or days.seconds.any():
        return raw, days
    text = raw[name].astype(str).str.strip().str.removesuffix(".0").str.removeprefix("0 days ")
    whole = read_column(text, year_last=days.year_last)
    if not whole.reason and (whole.days == days.days).all():
        return raw.drop(columns=name), days._replace(seconds=whole.seconds)
    for pattern, digits in ((r"\d{1,6}", 6), (r"\d{7,9}", 9)):
        text = text.mask(text.str.fullmatch(pattern), text.str.zfill(digits).str[:6])
    found = read_column("2000-01-01 " + text)
    if found.reason:
        return raw, days
    return raw.drop(columns=name), days._replace(seconds=found.seconds)
