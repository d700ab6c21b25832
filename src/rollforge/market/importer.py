"""Import tables of daily prices into a data folder.

The source is one long table (a row per instrument and day) as Parquet or CSV, or a folder with such a file per
instrument. Invalid data are rejected, with row and column, before anything is written.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import ONE_DAY, has_times, is_weekend, show_time, unit_of
from rollforge.errors import DataError, DataNotFound, counted, first_few, nearest
from rollforge.market.bars import OrderedTable, complete
from rollforge.market.columns import CODE, DATE
from rollforge.market.conversion import CONVERSION_FILE, order_of_dates
from rollforge.market.exchange_days import exchange_notes
from rollforge.market.folder_files import check_folders, usual_frequency, usual_seconds
from rollforge.market.folder_writer import write_folder
from rollforge.market.lost_zeros import short_codes_note
from rollforge.market.new_folder import FolderSummary, new_folder
from rollforge.market.price_table import Table, read_table
from rollforge.market.universe_import import check_universe_name

__all__ = ["check_values", "import_table", "ordered", "without_zeros"]

log = logging.getLogger(__name__)

_PRICES = ("open", "high", "low", "close", "vwap")
_NOT_NEGATIVE = (*_PRICES, "adj_close", "volume", "amount", "factor")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_FORBIDDEN = frozenset('/\\:*?"<>|')


def import_table(
    source: object,
    path: str | os.PathLike[str],
    *,
    market: str = "all",
    universes: Mapping[str, Sequence[str] | None] | None = None,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    day_first: bool | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    exchange: str | None = None,
) -> FolderSummary:
    """Write a table of daily or intraday values as a data folder, and return a summary.

    The columns of instrument and day are detected by common names (``instrument``, ``symbol``, ``ticker``, ``code``,
    ``name`` …; ``datetime``, ``date``, ``trade_date`` …), ignoring case. Every other numeric column becomes a field,
    with its name in lower case. The calendar consists of all days of the table; each instrument ranges from its first
    to its last day, with NaN on days without a row. If instruments have several rows on most days, the rows are bars: the
    calendar has their times, and is named by their usual distance, such as ``60min``.

    The values are converted to Qlib's convention, as described in the summary's notes. With ``adj_close`` in addition
    to ``close``, or with ``adj_factor``, prices are multiplied by a factor, volume is divided by it, and it is stored
    as ``factor``. With ``factor``, or without any of these, prices are assumed to be adjusted. ``vwap`` is computed
    from ``amount`` and ``volume``, in the unit in which their quotient is a price of the day, or else as the mean of
    open, high, low and close. ``change`` becomes a fraction of the previous close, even if the table has it in percent
    or in money; if it is none of these, it is left out.

    Parameters
    ----------
    source : path, DataFrame, or a table of Polars or Arrow
        A ``.parquet`` or ``.csv`` file (``.csv.gz`` too), a folder with one per instrument, named by its code, or a
        table in memory. A single CSV file of Yahoo, which has no column of instruments, is named by its code too.
    path : path
        The data folder; must not exist, or must be empty.
    market : str
        Name of the universe of all instruments.
    universes : mapping, optional
        Further universes: name -> codes; None means all.
    columns : mapping, optional
        Source column -> ``instrument``, ``datetime`` or the name of a field; ``""`` skips the column.
    names : sequence of str, optional
        Column names, in order, for CSV files without a header line.
    encoding : str
        Encoding of CSV files, such as ``gbk``.
    day_first : bool, optional
        Whether 02/03/2024 is the second of March or the third of February, in a table in which no date shows it.
    overwrite : bool
        True replaces an existing data folder.
    dry_run : bool
        True reads and checks the table, and writes nothing.
    exchange : str, optional
        Code of an exchange, such as ``XNYS`` or ``XSHG``: the notes say on which of its trading days the table has no rows, and
        which days of the table are not among them. Needs the package ``exchange_calendars``.

    Raises
    ------
    DataNotFound
        If the source does not exist.
    DataError
        If the table is invalid: it is empty, has no column of instruments or days, or contains an invalid date, text in
        a numeric column, a negative price, a duplicate day, a day years away from all others, bars less than a minute apart, or
        a code that is not a valid folder name. Nothing has been written.
    """
    table = read_table(source, dict(columns or {}), names=names, encoding=encoding, year_last=order_of_dates(day_first))
    rows = ordered(table)
    check_values(table, rows)
    notes = [*table.notes, *short_codes_note(rows.codes), *_odd_days(table, rows), *without_zeros(rows)]
    if exchange is not None:
        notes += exchange_notes(rows.calendar, exchange)
    conversion, converted = complete(rows)
    notes += converted
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
    whole = tuple(name for name, codes in {market: None, **(universes or {})}.items() if codes is None)
    if not dry_run:
        with new_folder(path, overwrite=overwrite) as draft:
            write_folder(draft, rows.calendar, series, members, usual_frequency(rows.calendar))
            kept = replace(conversion, universes=whole, year_last=table.year_last)
            (draft / CONVERSION_FILE).write_text(kept.to_text(), encoding="utf-8")
    summary = FolderSummary(
        path=Path(path),
        instruments=len(rows.codes),
        days=len(rows.calendar),
        fields=tuple(rows.values),
        first=rows.calendar[0],
        last=rows.calendar[-1],
        freq=usual_frequency(rows.calendar),
        rows=cells,
        missing=missing,
        notes=tuple(notes),
        sources=table.sources,
    )
    log.info("imported %s: %s", table.source, summary)
    return summary


def _check_codes(codes: Sequence[str]) -> None:
    upper: dict[str, str] = {}
    for code in codes:
        bad = (
            not code
            or not code.isprintable()
            or any(c in _FORBIDDEN or c.isspace() for c in code)
            or code.strip(".") != code
        )
        if bad or code.upper().lower() != code.lower():
            raise DataError(
                f"The instrument code {code!r} cannot be the name of a folder. Use letters, digits, '.', '-' "
                "and '_', for example 'BRK-B' for 'BRK/B'."
            )
        other = upper.setdefault(code.upper(), code)
        if other != code:
            raise DataError(
                f"The instrument codes {other!r} and {code!r} differ only in case, so both would have the same "
                "folder. Rename one of them."
            )
    check_folders(codes)


def ordered(table: Table) -> OrderedTable:
    """Return a table sorted by instrument and day, with its values as floats.

    If instruments have rows at several times of most days, these are bars, sorted by time. A second row on a few days of
    daily data is a mistake.

    Raises
    ------
    DataError
        If a code is not a valid folder name, there is more than one row per instrument and time, or bars are less than a
        minute apart.
    """
    frame = table.frame
    code, names = pd.factorize(frame[CODE], sort=True)
    codes = [str(n) for n in names]
    _check_codes(codes)
    dates = frame[DATE].to_numpy().astype("datetime64[D]")
    calendar, day = np.unique(dates, return_inverse=True)
    order, twice = _by_time(code, day)
    other_time = table.seconds[order[twice]] != table.seconds[order[twice + 1]]
    if 2 * len(np.unique(day[order[twice[other_time]]])) > len(calendar):
        times = dates + np.round(table.seconds).astype("timedelta64[s]")
        calendar, day = np.unique(times, return_inverse=True)
        order, twice = _by_time(code, day)
        seconds = usual_seconds(calendar)
        if seconds < 60:
            raise DataError(
                f"The rows of {table.source} are {counted(seconds, 'second')} apart, but the shortest frequency is '1min'. "
                "Aggregate them to bars of a minute or more."
            )
    code, day = code[order].astype(np.int64), day[order].astype(np.int64)
    if twice.size:
        rows = first_few(
            twice, show=lambda i: f"{codes[code[i]]} on {show_time(calendar[day[i]])} ({table.where(order[i + 1])})"
        )
        period = "time" if has_times(calendar) else "day"
        advice = "; write an hour that is repeated when daylight saving time ends, and all other times, in UTC"
        raise DataError(
            f"{table.source} has more than one row per instrument and {period}: {rows}. Remove the "
            f"duplicates{advice if has_times(calendar) else ''}."
        )
    values = {
        str(name): frame[name].to_numpy(np.float64, na_value=np.nan)[order]
        for name in frame
        if name not in (CODE, DATE)
    }
    return OrderedTable([c.upper() for c in codes], calendar, code, day, values, order)


def _by_time(code: NDArray[np.intp], time: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order of rows by instrument and time, and the places in it that the next row has the same of both."""
    order = np.lexsort((time, code))
    return order, np.flatnonzero((np.diff(code[order]) == 0) & (np.diff(time[order]) == 0))


def check_values(table: Table, rows: OrderedTable) -> None:
    """Check that values are finite, fit float32, and are not negative where they cannot be.

    Raises
    ------
    DataError
        If they are not; the message has the first one.
    """
    for name, values in rows.values.items():
        bad = np.abs(values) > _MAX_FLOAT32  # files hold float32
        what = "is infinite" if np.isinf(values[bad]).any() else "is too large for a data folder"
        if not bad.any() and name in _NOT_NEGATIVE:
            bad = values < 0
            what = "is negative"
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{name} of {rows.cell(i)} {what} ({values[i]:g}); "
                f"{counted(int(bad.sum()), 'such value')} in {table.source}. Correct the source."
            )


def without_zeros(rows: OrderedTable) -> list[str]:
    """Replace prices of 0 with NaN: tables use 0 for days without trades, and returns cannot be computed from 0."""
    count, where = 0, ""
    names = [name for name in (*_PRICES, "adj_close") if name in rows.values]
    for name in names:
        zero = rows.values[name] == 0
        if zero.any():
            count += int(zero.sum())
            where = where or f"{name} of {rows.cell(int(np.argmax(zero)))}"
            rows.values[name] = np.where(zero, np.nan, rows.values[name])
    return [f"prices of 0 are treated as missing: there are {count}, the first is {where}"] if count else []


# -- implausible days --------------------------------------------------------------------------------------------------


def _odd_days(table: Table, rows: OrderedTable) -> list[str]:
    """Report days or bars that hardly any instrument has, and long gaps in the calendar.

    Raises
    ------
    DataError
        If a few rows are years away from all others, as with a mistyped year.
    """
    notes = _gaps(table, rows)
    days = len(rows.calendar)
    full = ~functools.reduce(np.logical_and, map(np.isnan, rows.values.values()))  # ignore rows without values
    code, day = rows.code[full], rows.day[full]
    have = np.bincount(day, minlength=days)
    there = np.unique(code)
    begins = np.bincount(day[np.searchsorted(code, there, side="left")], minlength=days)
    ends = np.bincount(day[np.searchsorted(code, there, side="right") - 1], minlength=days)
    listed = np.cumsum(begins) - np.concatenate([[0], np.cumsum(ends)[:-1]])
    # At both ends, also count instruments not yet or no longer listed: a stray day may be the first or the last.
    edge = np.minimum(np.arange(days), np.arange(days)[::-1]) < 3
    around = [int(np.median(have[max(0, t - 10) : t + 11])) if edge[t] else 0 for t in range(days)]
    listed = np.maximum(listed, around)
    share = have / np.maximum(listed, 1)
    weekend = is_weekend(rows.calendar)
    usual = float(np.median(share[~weekend])) if not weekend.all() else 1.0
    odd = np.flatnonzero((listed > 1) & (share < np.where(weekend, 0.8, 0.5) * usual))
    rare = np.flatnonzero(weekend) if weekend.sum() < 0.05 * days else np.empty(0, np.intp)
    if np.setdiff1d(rare, odd).size:
        on = np.unique(rows.calendar[rare].astype("M8[D]"))
        notes.append(f"there are trading days on weekends: {first_few(on)}")
    if odd.size:
        found = first_few(
            odd, show=lambda t: f"{show_time(rows.calendar[t])} ({_few(rows, code[day == t], listed[t])})"
        )
        unit = "bars" if has_times(rows.calendar) else "trading days"
        notes.append(
            f"{unit} with only a few instruments: {found}; the others have no values on them. "
            f"Remove these rows if they are not {unit}"
        )
    return notes


def _few(rows: OrderedTable, places: NDArray[np.int64], listed: int) -> str:
    """Return how many of the listed instruments there are, with their codes if there are fewer than three."""
    codes = [rows.codes[i] for i in places]
    return f"{len(codes)} of {listed}" + (f": {', '.join(codes)}" if len(codes) < 3 else "")


def _gaps(table: Table, rows: OrderedTable) -> list[str]:
    step = np.diff(rows.calendar) / ONE_DAY
    if not step.size:
        return []
    wide = np.flatnonzero(step > max(30, 10 * float(np.median(step))))
    rows_before = np.concatenate([[0], np.cumsum(np.bincount(rows.day, minlength=len(rows.calendar)))])
    for t in wide[step[wide] > 730]:
        left = int(rows_before[t + 1])
        small, day = (left, t) if left <= len(rows.day) - left else (len(rows.day) - left, t + 1)
        if small <= 5 and small * 4 < len(rows.day):
            where = table.where(int(rows.source[np.flatnonzero(rows.day == day)[0]]))
            raise DataError(
                f"{table.source}: {show_time(rows.calendar[day])} in {where} is years away from all other "
                f"{unit_of(rows.calendar)}s: between {show_time(rows.calendar[t])} and {show_time(rows.calendar[t + 1])} there "
                "are none. Correct the year, or remove the row."
            )
    if not wide.size:
        return []
    days = rows.calendar.astype("M8[D]")
    gaps = first_few(wide, show=lambda t: f"{days[t]} to {days[t + 1]}")
    return [f"the calendar has gaps: {gaps}"]


def _universes(
    market: str, named: Mapping[str, Sequence[str] | None], lives: Mapping[str, tuple[np.datetime64, np.datetime64]]
) -> dict[str, dict[str, list[tuple[np.datetime64, np.datetime64]]]]:
    members = {}
    for name, codes in {market: None, **named}.items():
        check_universe_name(name)
        chosen = list(lives) if codes is None else [c.upper() for c in codes]
        if not chosen:
            raise DataError(f"The universe {name!r} is empty. Give the codes that belong to it, or omit it.")
        for code in chosen:
            if code not in lives:
                raise DataNotFound(
                    f"The universe {name!r} contains {code!r}, which is not in the table.{nearest(code, lives)}"
                )
        members[name] = {code: [lives[code]] for code in chosen}
    return members
