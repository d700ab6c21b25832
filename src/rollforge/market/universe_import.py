"""Import the dated membership of an index into a data folder.

A file has one of three forms: one membership period per line (code, first day, last day), with or without a header; the
members on some dates (date, code; or date and all codes in one cell), each list valid until the next one; or codes only.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rollforge.dates import ONE_DAY, read_day
from rollforge.errors import DataError, DataNotFound, DateError, counted, first_few, nearest, shown
from rollforge.market.columns import tidy
from rollforge.market.folder_change import folder_lock
from rollforge.market.folder_files import Span, read_lines
from rollforge.market.frames import reading
from rollforge.market.lost_zeros import lost_zeros_note, respelled
from rollforge.market.price_table import read_parquet
from rollforge.market.provider import Provider, open_provider
from rollforge.market.universe import membership
from rollforge.paths import name_problem, read_path

__all__ = ["UniverseSummary", "check_universe_name", "import_universe"]

_FORBIDDEN = frozenset('/\\:*?"<>|')
_USUAL = {
    "instrument": ("instrument", "con_code", "member", "constituent", "symbol", "ticker", "code", "ts_code", "stock_code",
                   "tickers", "symbols", "members", "constituents", "components"),
    "start": ("start", "start_date", "start_time", "first", "from", "in_date", "date_added", "added", "begin", "begin_date"),
    "end": ("end", "end_date", "end_time", "last", "to", "out_date", "date_removed", "removed", "until", "thru"),
    "date": ("date", "datetime", "trade_date", "day", "snapshot_date", "effective_date"),
}  # fmt: skip
_OPEN = frozenset(["", "nan", "nat", "none", "null", "-", "na", "n/a", "<na>"])
_FOREVER = np.datetime64("2099-12-31")  # Qlib's end date of current members


@dataclass(frozen=True, slots=True, kw_only=True)
class UniverseSummary:
    """Summary of an imported universe."""

    name: str
    members: int
    """Number of instruments that belong to it at any time."""
    spans: int
    """Number of membership periods, one line each."""
    first: np.datetime64
    """First trading day with a member."""
    last: np.datetime64
    """Last trading day with a member."""
    largest: int
    """Maximum number of members on a day."""
    notes: tuple[str, ...] = ()
    """Notes on omissions and assumptions."""

    def __str__(self) -> str:
        """Return the summary in one line, followed by one line per note."""
        line = (
            f"{self.name}: {self.members} instruments in {self.spans} spans, {self.first} to {self.last}, "
            f"at most {self.largest} on one day"
        )
        return "\n  ".join([line, *self.notes])


def check_universe_name(name: str) -> None:
    """Check that a string is a valid name of a universe.

    Raises
    ------
    DataError
        If it is not a valid file name.
    """
    reason = name_problem(f"{name}.txt.part" if name else "")
    if reason or name != name.strip() or any(c in _FORBIDDEN for c in name):
        raise DataError(
            f"{shown(name)} cannot be the name of a universe, because it is used as a file name{f': {reason}' * bool(reason)}."
        )


def import_universe(
    name: str,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> UniverseSummary:
    """Write a universe with its dated members into a data folder, and return a summary.

    Parameters
    ----------
    name : str
        Name of the universe, such as ``csi300``.
    source : path
        Text (separated by tabs, commas, semicolons or spaces) or Parquet. Columns are detected by common names:
        ``instrument`` (``symbol``, ``code``, ``con_code`` …) with ``start`` and ``end`` (``in_date``, ``date_added`` …;
        an empty end is open), with ``date`` (each date's list is valid until the next one), or alone. A row with a date
        may have all codes: ``2024-01-02,"AAPL,MSFT"``. Without a header, the columns are code, first day, last day; or
        date, code; or code.
    folder : path
        The data folder.
    columns : mapping, optional
        Source column -> ``instrument``, ``start``, ``end`` or ``date``.
    overwrite : bool
        True replaces an existing universe.

    Raises
    ------
    DataNotFound
        If the file or the data folder does not exist, or the folder has no data for any member.
    DataError
        If the file is invalid; the message has the line. Nothing has been written.
    """
    check_universe_name(name)
    provider = open_provider(folder)
    target = provider.path / "instruments" / f"{name}.txt"
    if target.exists() and not overwrite:
        raise DataError(
            f"The universe {name!r} already exists in {provider.path}. Replace it with --overwrite (in "
            "Python: overwrite=True)."
        )
    file = read_path(source)
    if not os.path.isfile(file):
        raise DataNotFound(f"There is no file {str(source)!r}.")
    with reading(file, "a list of members"):
        header, rows = _cells(file)
    if not rows:
        raise DataError(f"{file} contains no members.")
    place = _columns(file, header, rows, dict(columns or {}), provider)
    spans, notes = _spans(file, rows, place, provider)
    members, left_out = _known(provider, _merged(spans), file)
    inside = membership(members, provider.calendar())
    remaining = {code: spans for (code, spans), row in zip(members.items(), inside, strict=True) if row.any()}
    if not remaining:
        raise DataError(f"No instrument in {file} is a member on any trading day of {provider.path}.")
    notes += left_out
    if len(remaining) < len(members):
        notes.append(
            f"left out {counted(len(members) - len(remaining), 'instrument')} without a trading day of membership"
        )
    draft = target.with_name(f".{name}.txt.part")
    lines = (f"{code}\t{a}\t{b}\n" for code, periods in sorted(remaining.items()) for a, b in periods)
    real = Path(os.path.realpath(provider.path))
    # If the parent folder is read-only, nothing can be appended at the same time.
    with folder_lock(real) if os.access(real.parent, os.W_OK) else contextlib.nullcontext():
        try:
            target.parent.mkdir(exist_ok=True)
            draft.write_text("".join(lines), encoding="utf-8")
            os.replace(draft, target)
        except OSError as exc:
            draft.unlink(missing_ok=True)
            raise DataError(f"{target} cannot be written: {exc.strerror or exc}. Nothing was changed.") from exc
    count = inside.sum(axis=0)
    days = provider.calendar()[count > 0]
    return UniverseSummary(
        name=name,
        members=len(remaining),
        spans=sum(map(len, remaining.values())),
        first=days[0],
        last=days[-1],
        largest=int(count.max()),
        notes=tuple(notes),
    )


Cells = list[tuple[str, list[Any]]]
"""(location of a row, its values)"""


def _cells(file: Path) -> tuple[list[str] | None, Cells]:
    """Return the header, if there is one, and the rows."""
    if file.suffix.lower() in (".parquet", ".pq"):
        frame = read_parquet(file)
        values = frame.to_numpy(dtype=object).tolist()
        return [str(c) for c in frame.columns], [(f"row {i}", row) for i, row in enumerate(values, 1)]
    lines = read_lines(file)
    if not lines:
        raise DataError(f"{file} is empty.")
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    rows: Cells = [
        (
            f"line {number}",
            [c.strip() for c in (line.split() if separator is None else next(csv.reader([line], delimiter=separator)))],
        )
        for number, line in lines
    ]
    first = [tidy(c) for c in rows[0][1]]
    if any(c in names for c in first for names in _USUAL.values()) or (len(rows) > 1 and _looks_like_header(rows)):
        return rows[0][1], rows[1:]
    return None, rows


def _looks_like_header(rows: Cells) -> bool:
    """Return whether the second row contains days and the first does not."""
    return not any(_is_day(c) for c in rows[0][1]) and any(_is_day(c) for c in rows[1][1])


def _is_day(cell: object) -> bool:
    try:
        read_day(cell)
    except DateError:
        return False
    return True


def _columns(
    file: Path, header: list[str] | None, rows: Cells, given: dict[str, str], provider: Provider
) -> dict[str, int]:
    """Return {instrument, start, end, date: column index} for the existing columns."""
    if header is None:
        return _by_position(file, rows, provider)
    for column, meaning in given.items():
        if column not in header:
            raise DataError(f"{file} has no column {column!r}.{nearest(column, header)} It has: {', '.join(header)}.")
        if meaning not in ("", *_USUAL):
            raise DataError(
                f"A column of a universe must be one of {', '.join(_USUAL)}, found {meaning!r}.{nearest(meaning, _USUAL)}"
            )
    names = [given.get(c, tidy(c)) for c in header]
    place = {}
    for meaning, usual in _USUAL.items():
        pick = next((u for u in usual if u in names), None)
        if pick is not None:
            place[meaning] = names.index(pick)
    if "instrument" not in place:
        raise DataError(
            f"{file} has no column of instruments: expected one called "
            f"{', '.join(_USUAL['instrument'][:6])} or similar. It has: {', '.join(header)}. Specify it "
            "with --column 'NAME=instrument'."
        )
    return place


def _by_position(file: Path, rows: Cells, provider: Provider) -> dict[str, int]:
    days = [_is_day(c) for c in rows[0][1]]
    if not any(days) and len(days) == 1:
        return {"instrument": 0}
    if len(days) >= 3 and days[1] and days[2]:
        return {"instrument": 0, "start": 1, "end": 2}
    if len(days) >= 2 and days[0] and not days[1] and not any(provider.has(str(c)) for _, row in rows for c in row[2:]):
        return {"date": 0, "instrument": 1}  # a weight or a name may follow
    raise DataError(
        f"{file}, {rows[0][0]}: expected code, first day, last day; or date, code; or only code; found "
        f"{first_few([str(cell) for cell in rows[0][1]])!r}. Add a header line such as 'instrument,start,end', and quote lists "
        'of codes: 2024-01-02,"AAPL,MSFT".'
    )


def _spans(
    file: Path, rows: Cells, place: Mapping[str, int], provider: Provider
) -> tuple[dict[str, list[Span]], list[str]]:
    """Return the membership periods of each code, in the order of the file, and notes on assumptions."""
    spans: dict[str, list[Span]] = {}
    calendar = provider.calendar()
    if "date" in place and not {"start", "end"} & set(place):
        lists: dict[np.datetime64, set[str]] = {}
        for where, row in rows:
            day = read_day(_cell(file, where, row, place["date"]), f"{file}, {where}")
            lists.setdefault(day, set()).update(_codes(file, where, row, place))
        dates = sorted(lists)
        for day, following in zip(dates, [*dates[1:], None], strict=True):
            last = _FOREVER if following is None else following - ONE_DAY
            for code in lists[day]:
                spans.setdefault(code, []).append((day, last))
        return spans, [
            f"{counted(len(dates), 'list')}, each valid until the next; the last, of {dates[-1]}, stays valid"
        ]
    for where, row in rows:
        first, last = (
            default if meaning not in place else _end(file, where, row, place[meaning], default)
            for meaning, default in (("start", calendar[0]), ("end", _FOREVER))
        )
        if first > last:
            raise DataError(f"{file}, {where}: the membership begins on {first} and ends on {last}.")
        spans.setdefault(_code(file, where, row, place), []).append((first, last))
    return spans, []


def _cell(file: Path, where: str, row: Sequence[object], at: int) -> object:
    if at >= len(row):
        raise DataError(f"{file}, {where}: expected at least {at + 1} values, found {', '.join(map(str, row))!r}.")
    return row[at]


def _end(file: Path, where: str, row: Sequence[object], at: int, default: np.datetime64) -> np.datetime64:
    value = row[at] if at < len(row) else ""
    return default if str(value).strip().lower() in _OPEN else read_day(value, f"{file}, {where}")


def _code(file: Path, where: str, row: Sequence[object], place: Mapping[str, int]) -> str:
    code = str(_cell(file, where, row, place["instrument"])).strip().upper()
    if not code:
        raise DataError(f"{file}, {where}: the instrument is missing.")
    return code


def _codes(file: Path, where: str, row: Sequence[object], place: Mapping[str, int]) -> list[str]:
    """Return the codes in a row, which may have all members on its day: ``AAPL,MSFT``, or a list as Python shows it."""
    cell = _cell(file, where, row, place["instrument"])
    several = cell if isinstance(cell, (list, tuple, np.ndarray)) else re.split("[,;|]", str(cell).strip("[](){} "))
    codes = [str(code).strip(" '\"").upper() for code in several]
    if not codes or not all(codes):
        raise DataError(f"{file}, {where}: {'the' if len(codes) < 2 else 'an'} instrument is missing.")
    return codes


def _merged(spans: Mapping[str, list[Span]]) -> dict[str, list[Span]]:
    """Merge membership periods that are adjacent or overlap."""
    merged: dict[str, list[Span]] = {}
    for code, periods in spans.items():
        joined: list[Span] = []
        for first, last in sorted(periods):
            if joined and first <= joined[-1][1] + ONE_DAY:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        merged[code] = joined
    return merged


def _with_zeros(provider: Provider, members: Mapping[str, list[Span]]) -> tuple[dict[str, list[Span]], list[str]]:
    """Return the members with the leading zeros that their codes have in the folder, and a note if there are such."""
    spelled = respelled(members, provider.has)
    found: dict[str, list[Span]] = {}
    for code, periods in members.items():
        found.setdefault(spelled.get(code, code), []).extend(periods)
    return _merged(found), [lost_zeros_note(spelled)] if spelled else []


def _known(
    provider: Provider, members: Mapping[str, list[Span]], file: Path
) -> tuple[dict[str, list[Span]], list[str]]:
    """Return the members that have data, and notes on the others."""
    members, notes = _with_zeros(provider, members)
    without_data = sorted(code for code in members if not provider.has(code))
    if len(without_data) == len(members):
        known = sorted(p.name.upper() for p in (provider.path / "features").glob("*"))
        raise DataNotFound(
            f"{provider.path} has no data for any instrument in {file}: the file has "
            f"{', '.join(without_data[:3])}, the folder has "
            f"{', '.join(known[:3])}.{nearest(without_data[0], known)}"
        )
    if without_data:
        notes.append(f"left out {counted(len(without_data), 'instrument')} without data: {first_few(without_data)}")
    return {code: periods for code, periods in sorted(members.items()) if code not in set(without_data)}, notes
