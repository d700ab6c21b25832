"""The files of a data folder: their names, and what they contain."""

from __future__ import annotations

import logging
import math
import os
import stat
import struct
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rollforge.dates import FIRST_DAY, LAST_DAY, Times, has_times, read_day, read_moment, show_time
from rollforge.errors import DataError
from rollforge.frequency import frequency, is_intraday
from rollforge.limits import LIMITS, read_bytes
from rollforge.paths import RESERVED

__all__ = [
    "READ",
    "Span",
    "check_folders",
    "check_series",
    "check_shared_folder",
    "first_day",
    "folder_name",
    "is_one_name",
    "is_text",
    "last_value",
    "read_calendar",
    "read_lines",
    "read_market",
    "read_member",
    "series_file",
    "usual_frequency",
    "usual_seconds",
]

log = logging.getLogger(__name__)

Span = tuple[np.datetime64, np.datetime64]
"""First and last day."""
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Flags for opening a file: a named pipe is opened without waiting for a writer, and then rejected."""
_PREFIX = "_qlib_"


def folder_name(code: str) -> str:
    """Return the name of an instrument's folder: the code in lower case. Names that Windows reserves for devices get a
    prefix, as in Qlib's folders.

    Examples
    --------
    >>> folder_name("SH600000"), folder_name("CON")
    ('sh600000', '_qlib_con')
    """
    name = code.lower()
    return f"{_PREFIX}{name}" if name in RESERVED else name


def is_text(name: str) -> bool:
    """Return whether the name of a file is text. A name in another encoding than UTF-8 belongs to no instrument, field or
    universe, as a workflow cannot contain it.

    Examples
    --------
    >>> is_text("北京"), is_text(b"b\\xe4r".decode("utf-8", "surrogateescape"))
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def series_file(root: Path, code: str, name: str, freq: str) -> str:
    """Return the file of an instrument's field; an empty path if it would be outside the folder."""
    folder = folder_name(code)
    return f"{root}/{folder}/{name}.{freq}.bin" if is_one_name(folder) and is_one_name(name) else ""


def is_one_name(text: str) -> bool:
    """Return whether a string is the name of an entry in a folder, so that nothing outside the folder is read."""
    return os.sep not in text and "\0" not in text and text not in ("", os.curdir, os.pardir)


def check_shared_folder(codes: Iterable[str], source: str) -> None:
    """Check that no two instruments share a folder, because each would read the other's prices.

    Raises
    ------
    DataError
        If two do; the message gives both.
    """
    listed = list(codes)
    for code in listed:
        plain = code.lower().removeprefix(_PREFIX)
        if plain != code.lower() and plain in RESERVED:  # other codes have a folder of the same name
            other = next((c for c in listed if c.lower() == plain), None)
            if other is not None:
                raise DataError(
                    f"{source} contains {other} and {code}, and both would have the folder {folder_name(other)!r}, "
                    "so that one of them would have the prices of the other. Rename one in the source, and import "
                    "it again."
                )


def check_folders(codes: Iterable[str]) -> None:
    """Check that no two instruments would have the same folder.

    File systems may treat names that differ in case or in the encoding of accents as equal.

    Raises
    ------
    DataError
        If two do; the message gives both.
    """
    taken: dict[str, str] = {}
    for code in codes:
        folder = unicodedata.normalize("NFC", unicodedata.normalize("NFC", folder_name(code)).casefold())
        other = taken.setdefault(folder, code)
        if other != code:
            raise DataError(
                f"The instruments {other!r} and {code!r} would have the same folder, {folder!r}. Rename one of them."
            )


def first_day(head: bytes, size: int, file: str, days: int) -> int:
    """Return the first value of a file: the position of its first day in a calendar of `days` days."""
    if size % 4:
        raise DataError(f"{file} is truncated: its size is not a multiple of 4 bytes. Import the data again.")
    if size == 0:
        raise DataError(f"{file} is empty: it does not even contain the index of its first day. Import the data again.")
    first: float = struct.unpack("<f", head)[0]
    count = size // 4 - 1
    if not (first >= 0 and first.is_integer()) or first + count > days:
        raise DataError(
            f"{file} does not fit the calendar: it starts at day {first:g} and holds {count} days, but the "
            f"calendar has {days}. Import the data again."
        )
    return int(first)


def check_series(file: str, days: int) -> tuple[int, int]:
    """Return the half-open range of days of a file of values, in a calendar of `days` days.

    Raises
    ------
    DataError
        If the file cannot be read, is truncated, or does not match the calendar.
    """
    try:
        handle = os.open(file, READ)
    except OSError as exc:
        raise DataError(f"{file} cannot be read: {exc.strerror}.") from exc
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{file} is not a regular file.")
        first = first_day(os.read(handle, 4), about.st_size, file, days)
    finally:
        os.close(handle)
    return first, first + about.st_size // 4 - 1


def last_value(file: str, days: int, limit: int) -> int:
    """Return one past the last day before `limit` on which a file has a value; its first day if it has none."""
    first, stop = check_series(file, days)
    if first >= limit:
        return 0
    if stop <= limit:
        return stop
    with open(file, "rb") as handle:
        handle.seek(4 * (limit - first))
        if not math.isnan(struct.unpack("<f", handle.read(4))[0]):
            return limit
    known = np.flatnonzero(~np.isnan(np.fromfile(file, "<f4", limit - first, offset=4)))
    return first + int(known[-1]) + 1 if known.size else first


def usual_frequency(points: Times) -> str:
    """Return the name of the frequency of points: ``day``, or ``60min`` if bars of a day are usually an hour apart.

    Examples
    --------
    >>> usual_frequency(np.array(["2024-01-02T10:30", "2024-01-02T11:30", "2024-01-03T10:30"], "M8[s]"))
    '60min'
    """
    if not has_times(points):
        return "day"
    return f"{max(1, round(usual_seconds(points) / 60))}min"


def usual_seconds(bars: Times) -> int:
    """Return the most common distance of consecutive bars of a day, in seconds; the smallest one of several, 60 of none.

    Examples
    --------
    >>> usual_seconds(np.array(["2024-01-02T10:30", "2024-01-02T10:40", "2024-01-02T10:45", "2024-01-02T10:50"], "M8[s]"))
    300
    """
    steps = np.diff(bars.astype("M8[s]")).astype(np.int64)
    days = bars.astype("M8[D]")
    inside = days[1:] == days[:-1]
    steps, counts = np.unique(steps[inside] if inside.any() else steps, return_counts=True)
    return int(steps[np.argmax(counts)]) if len(steps) else 60


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return the nonempty lines of a text file with their numbers; a byte order mark is skipped."""
    raw = read_bytes(file, LIMITS["text_file_size"], error=DataError)
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(f"{file} is not UTF-8 text: {exc}. Save it as UTF-8.") from None
    return [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_calendar(file: Path, freq: str = "day") -> Times:
    """Return the days of a calendar file or, if its frequency is shorter, the times of its bars.

    Raises
    ------
    DataError
        If a line is not a date, or the lines are not in ascending order.
    """
    lines = read_lines(file)
    LIMITS["calendar_lines"].check(len(lines), f"{file} has", error=DataError)
    moments = [read_moment(line, f"{file}, line {number}") for number, line in lines]
    if not moments:
        raise DataError(f"{file} contains no days.")
    intraday = is_intraday(frequency(freq))
    points: Times = np.array([m.day for m in moments], "datetime64[D]")
    if intraday:
        points = points + np.array([round(m.seconds) for m in moments], "timedelta64[s]")
    steps = np.diff(points).astype(np.int64)
    if not (steps > 0).all():
        at = int(np.argmin(steps)) + 1
        one, other = show_time(points[at - 1]), show_time(points[at])
        if not intraday and one == other and moments[at].seconds != moments[at - 1].seconds:
            raise DataError(
                f"{file} contains several times of {one}, but a calendar of this name has one line per day. Bars within a "
                "day belong to a calendar such as calendars/60min.txt."
            )
        raise DataError(f"{file}: the lines must be in ascending order, but {other} comes after {one}.")
    if points[0] < FIRST_DAY or points[-1].astype("datetime64[D]") > LAST_DAY:
        wrong = points[0] if points[0] < FIRST_DAY else points[-1]
        raise DataError(
            f"{file}: {show_time(wrong)} is outside {FIRST_DAY} to {LAST_DAY}, the range of days that a calendar may contain."
        )
    return points


def read_member(file: Path, number: int, line: str) -> tuple[str, Span, list[str]]:
    """Return the code, the first and last day, and the further columns of a line of a universe.

    Raises
    ------
    DataError
        If the line is invalid.
    """
    separator = "\t" if "\t" in line else "," if "," in line else None
    parts = [p for p in map(str.strip, line.split(separator)) if p]
    if len(parts) < 3:
        raise DataError(
            f"{file}, line {number}: expected a code, its first day and its last day, separated by tabs; found {line!r}."
        )
    first, last = (read_day(part, f"{file}, line {number}") for part in parts[1:3])
    return parts[0], (first, last), parts[3:]


def read_market(file: Path) -> dict[str, list[Span]]:
    """Return the members of a universe with their spans, sorted by code.

    Raises
    ------
    DataError
        If a line is invalid, or there are no members.
    """
    members: dict[str, list[Span]] = {}
    inverted = []
    for number, line in read_lines(file):
        code, (first, last), _ = read_member(file, number, line)
        if first > last:
            inverted.append(number)
        members.setdefault(code.upper(), []).append((first, last))
    if inverted:
        log.warning(
            "%s: %d of its spans end before they begin and contain no day (the first in line %s)",
            file,
            len(inverted),
            inverted[0],
        )
    if not members:
        raise DataError(f"The universe {file.stem!r} is empty: {file} contains no instruments.")
    return dict(sorted(members.items()))
