"""Reader and writer of Qlib's data folder.

``calendars/day.txt`` (one day per line), ``instruments/NAME.txt`` (tab-separated code, first day, last day; a code may
have several lines), ``features/<code in lower case>/<field>.day.bin`` (little-endian float32; the first value is the
calendar index of the first day, the rest are the values from that day on).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import logging
import math
import multiprocessing
import os
import re
import stat
import struct
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import FIRST_DAY, LAST_DAY, DayLike, Days, clock, read_day, read_days, read_moment
from rollforge.errors import DataError, DataNotFound, nearest, shown
from rollforge.limits import LIMITS, read_bytes
from rollforge.market.folder_change import previous_locations
from rollforge.paths import RESERVED, name_problem, read_path

__all__ = [
    "OPTIONAL_FIELDS",
    "Days",
    "FieldBlock",
    "Provider",
    "Span",
    "folder_stamp",
    "open_provider",
    "read_lines",
    "write_folder",
]

log = logging.getLogger(__name__)

Span = tuple[np.datetime64, np.datetime64]
OPTIONAL_FIELDS = frozenset({"open", "high", "low", "volume", "vwap", "factor", "change"})
"""Standard fields that a folder may lack; expressions that read them are then missing. Other unknown fields fail."""


@dataclass(frozen=True, slots=True)
class FieldBlock:
    """Values of one field for some instruments and days of the calendar."""

    values: NDArray[np.float32]
    """(instruments, days); NaN if there is no value."""
    begin: NDArray[np.int64]
    """First day of each instrument's file, as a position among the requested days."""
    end: NDArray[np.int64]
    """One past its last day."""


@dataclass(slots=True)
class Provider:
    """Reader of a data folder. Everything is read on demand; calendars and universes are cached.

    If rows are added to the folder (:func:`~rollforge.market.append.append_table`), it continues to read the former version.
    """

    path: Path
    until: np.datetime64 | None = field(init=False, default=None)
    """Last trading day that is read, see :meth:`bounded`; None: all days."""
    _whole: Provider | None = field(init=False, default=None, repr=False, compare=False)
    _bounded: dict[np.datetime64, Provider] = field(init=False, default_factory=dict, repr=False, compare=False)
    _lives: dict[tuple[str, str], tuple[int, int]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _pin: _Pin = field(init=False, repr=False, compare=False)
    _calendars: dict[tuple[str, bool], Days] = field(default_factory=dict, repr=False)
    _markets: dict[str, dict[str, list[Span]]] = field(default_factory=dict, repr=False)
    _fingerprint: str = field(default="", repr=False)
    _fingerprint_until: float = field(default=-math.inf, repr=False)

    def __post_init__(self) -> None:
        self._pin = _Pin(self.path)

    def bounded(self, day: DayLike) -> Provider:
        """Return a reader of the same version of the folder, as it would be if its data ended on `day`.

        An instrument that has values later, but none on the last days, ends on its last day with a value, as it would
        in a folder that was written then. A membership that ends later ends on the last day, or with these data if it
        equals the days of the instrument's data.

        Parameters
        ----------
        day : date
            The last day. If it is not a trading day, the data end on the trading day before it.

        Raises
        ------
        DataError
            If there are no data up to this day.
        """
        limit = read_day(day, "day")
        calendar = self.calendar()
        if limit < calendar[0]:
            raise DataError(f"There are no data up to {limit}: the calendar of {self.path} starts on {calendar[0]}.")
        until = calendar[np.searchsorted(calendar, limit, "right") - 1]
        whole = self._whole or self
        if until not in whole._bounded:
            while len(whole._bounded) >= _BOUNDS_KEPT:
                whole._bounded.pop(next(iter(whole._bounded)), None)
            made = Provider(self.path)
            made.until, made._whole, made._pin = until, whole, whole._pin
            whole._bounded[until] = made
        return whole._bounded[until]

    def location(self) -> Path:
        """Return where the folder is that was opened: at `path`, or at its former version if it has changed since."""
        return self._pin.location()

    def calendar(self, freq: str = "day", *, future: bool = False) -> Days:
        """Return the trading days, ascending, as datetime64[D].

        Parameters
        ----------
        freq : str
            Name of the calendar.
        future : bool
            True reads ``day_future.txt``, which includes future days, if it exists. A bounded provider has none of
            them, because the folder does not say when they were announced.

        Raises
        ------
        DataNotFound
            If the calendar does not exist.
        DataError
            If a line is not a date, the days are not ascending, or `freq` is shorter than a day.
        """
        freq = _frequency(freq)
        key = (freq, future)
        if self._whole is not None and key not in self._calendars:
            whole = self._whole.calendar(freq, future=future)
            self._calendars[key] = whole[: int(np.searchsorted(whole, np.asarray(self.until), "right"))]
        if key not in self._calendars:
            days = self._pin.read(lambda place: self._read_calendar(place, freq, future=future))
            if days is None:
                return self.calendar(freq)
            self._calendars[key] = days
        return self._calendars[key]

    def _read_calendar(self, place: Path, freq: str, *, future: bool) -> Days | None:
        """Return a calendar; None if there is none with future days."""
        file = place / "calendars" / f"{freq}{'_future' if future else ''}.txt"
        if future and not os.path.isfile(file):
            return None
        if not _is_one_name(freq) or not os.path.isfile(file):  # also False for an invalid file name
            known = sorted(p.stem for p in (place / "calendars").glob("*.txt"))
            raise DataNotFound(
                f"There is no calendar {freq + '_future' * future!r} in {self.path}. Known: {', '.join(known) or 'none'}."
            )
        return _read_calendar(file)

    def markets(self) -> list[str]:
        """Return the names of the universes."""
        return sorted(p.stem for p in (self.location() / "instruments").glob("*.txt"))

    def instruments(self, market: str) -> dict[str, list[Span]]:
        """Return the members of a universe with their periods of membership (first, last), sorted by code.

        Raises
        ------
        DataNotFound
            If the universe does not exist; the message lists the existing ones.
        """
        if market not in self._markets and self._whole is not None:
            self._markets[market] = self._clipped(market, self._whole.instruments(market))
        if market not in self._markets:
            members = self._pin.read(lambda place: self._read_market(place, market))
            _check_shared_folder(members, f"The universe {market!r}")
            self._markets[market] = members
            self._warn_of_members_without_data(market)
        return self._markets[market]

    def _clipped(self, market: str, members: Mapping[str, Sequence[Span]]) -> dict[str, list[Span]]:
        """Return the members up to the bound."""
        assert self._whole is not None
        calendar = self._whole.calendar()
        last = calendar[len(self.calendar()) - 1]
        found: dict[str, list[Span]] = {}
        for code, spans in members.items():
            kept = []
            for start, end in spans:
                stop = end
                if end > last:
                    first, stop_at = self._whole._life(code, "day")
                    if stop_at > first and (calendar[first], calendar[stop_at - 1]) == (start, end):
                        stop_at = self._life(code, "day")[1]
                        stop = calendar[stop_at - 1] if stop_at > first else last
                    else:
                        stop = last
                if start <= stop or start > end:  # a span that ends before it begins is kept, as in the file
                    kept.append((start, stop))
            if kept:
                found[code] = kept
        if not found:
            raise DataError(f"The universe {market!r} has no members up to {last}.")
        return found

    def _read_market(self, place: Path, market: str) -> dict[str, list[Span]]:
        file = place / "instruments" / f"{market}.txt"
        if not _is_one_name(market) or not os.path.isfile(file):  # also False for an invalid file name
            known = self.markets()
            raise DataNotFound(
                f"There is no universe {market!r} in {self.path}.{nearest(market, known)} "
                f"Known: {', '.join(known) or 'none'}. 'rollforge data universe {market} FILE' imports one."
            )
        return _read_market(file)

    def _warn_of_members_without_data(self, market: str) -> None:
        """Log the members of a universe that have no data, which would otherwise be missing silently."""
        if multiprocessing.parent_process() is not None:
            return  # a worker process: its parent has already logged it
        there = {os.path.basename(folder) for folder in self._feature_folders()}
        without_data = [code for code in self._markets[market] if folder_name(code) not in there]
        if without_data:
            shown = ", ".join(without_data[:5]) + (
                f" and {len(without_data) - 5} more" if len(without_data) > 5 else ""
            )
            log.warning("the universe %r contains instruments without data in %s: %s", market, self.path, shown)

    def fields(self) -> list[str]:
        """Return the names of all fields that at least one instrument has."""
        names: set[str] = set()
        for folder in self._feature_folders():
            files = [f for f in os.listdir(folder) if f.endswith(".bin") and f.split(".")[0] not in names]
            names.update(f.split(".")[0] for f in files if self.until is None or self._begins(f"{folder}/{f}"))
        return sorted(names)

    def _begins(self, file: str) -> bool:
        """Return whether a file of values begins up to the bound."""
        assert self._whole is not None
        freq = file.split(".")[-2]
        try:
            first, stop = check_series(file, len(self._whole.calendar(freq)))
            return first < min(stop, len(self.calendar(freq)))
        except DataError:  # no such calendar, or damaged: an error where the field is read
            return True

    def folder(self, code: str) -> Path:
        """Return the folder of an instrument's series, whether it exists or not.

        Raises
        ------
        DataNotFound
            If the code is invalid.
        """
        name = folder_name(code)
        if not _is_one_name(name):
            raise DataNotFound(f"{shown(code)} cannot be the code of an instrument, which is the name of its folder.")
        return self.path / "features" / name

    def has(self, code: str) -> bool:
        """Return whether an instrument has data."""
        name = folder_name(code)
        if not _is_one_name(name) or not os.path.isdir(self.location() / "features" / name):
            return False
        if self.until is None:
            return True
        begin, end = self._life(code, "day")
        return end > begin

    def _life(self, code: str, freq: str) -> tuple[int, int]:
        """Return the half-open range of days on which an instrument has data of any field, up to the bound."""
        key = (folder_name(code), freq)
        if key not in self._lives:
            whole = self._whole
            self._lives[key] = self._pin.read(
                lambda place: (
                    self._read_life(place / "features" / key[0], freq)
                    if whole is None
                    else self._clipped_life(whole, code, place / "features" / key[0], freq)
                )
            )
        return self._lives[key]

    def cut(self, code: str, series: bytes) -> bytes:
        """Return the bytes of a daily series of an instrument up to the bound."""
        if self._whole is None or len(series) < 4:
            return series
        first = struct.unpack("<f", series[:4])[0]
        limit = len(self.calendar())
        if not 0 <= first < 2**31 or first + len(series) // 4 - 1 <= limit:
            return series
        stop = limit
        if first < limit and math.isnan(struct.unpack_from("<f", series, 4 * (limit - int(first)))[0]):
            stop = self._life(code, "day")[1]
        return series[: 4 * (1 + max(0, stop - int(first)))]

    def _read_life(self, folder: Path, freq: str) -> tuple[int, int]:
        days = len(self.calendar(freq))
        begin, end = days, 0
        for name in os.listdir(folder) if folder.is_dir() else []:
            if name.endswith(f".{freq}.bin"):
                first, stop = check_series(f"{folder}/{name}", days)
                begin, end = min(begin, first), max(end, stop)
        return (begin, end) if end > begin else (0, 0)

    def _clipped_life(self, whole: Provider, code: str, folder: Path, freq: str) -> tuple[int, int]:
        """Return the range of days up to the bound: an instrument that has data later ends with its last value."""
        begin, last = whole._life(code, freq)
        days, limit = len(whole.calendar(freq)), len(self.calendar(freq))
        if last <= limit or begin >= limit:
            return (begin, last) if last <= limit else (0, 0)
        end = 0
        for name in os.listdir(folder) if folder.is_dir() else []:
            if name.endswith(f".{freq}.bin"):
                end = max(end, _last_value(f"{folder}/{name}", days, limit))
                if end == limit:
                    break
        return (begin, end) if end > begin else (0, 0)

    def _feature_folders(self) -> Iterable[str]:
        return _feature_folders(self.location())

    def spans(
        self, name: str, codes: Sequence[str], start: int, stop: int, freq: str = "day"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the half-open range of the days [start, stop) on which each instrument has a field.

        Same as :meth:`read`, including arguments and errors, but without reading the values.
        """
        return self._scan(name, codes, start, stop, freq, None)

    def read(self, name: str, codes: Sequence[str], start: int, stop: int, freq: str = "day") -> FieldBlock:
        """Return a field of some instruments on the days [start, stop) of the calendar.

        Parameters
        ----------
        name : str
            The field, without ``$``.
        codes : sequence of str
            Instruments, in the order of the result's rows.
        start, stop : int
            Half-open range of positions in the calendar.

        Raises
        ------
        DataNotFound
            If no instrument has the field.
        DataError
            If a file is truncated or does not match the calendar.
        """
        values = np.full((len(codes), stop - start), np.nan, "<f4")
        begin, end = self._scan(name, codes, start, stop, freq, values)
        return FieldBlock(values.astype(np.float32, copy=False), begin, end)

    def _scan(
        self, name: str, codes: Sequence[str], start: int, stop: int, freq: str, values: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        begin = np.zeros(len(codes), np.int64)
        end = np.zeros(len(codes), np.int64)
        freq = _frequency(freq)
        found = False
        limit = len(self.calendar(freq))
        days = limit if self._whole is None else len(self._whole.calendar(freq))
        root = self.path / "features"
        _check_shared_folder(codes, "The list of instruments")
        for i, code in enumerate(codes):
            path = _series_file(root, code, name, freq)
            file = self._opened(path)
            if file is None:
                continue
            try:
                about = os.fstat(file)
                if not stat.S_ISREG(about.st_mode):
                    raise DataError(f"{path} is not a regular file.")
                size = about.st_size
                first = _first_day(os.read(file, 4), size, path, days)
                found |= first < limit or self._whole is None
                last = first + size // 4 - 1
                if last > limit > first:
                    (value,) = struct.unpack("<f", os.pread(file, 4, 4 * (limit - first)))
                    last = self._life(code, freq)[1] if math.isnan(value) else limit
                lo, hi = max(first, start), min(last, stop)
                if hi > lo:
                    begin[i], end[i] = lo - start, hi - start
                    if values is not None:
                        os.preadv(file, [values[i, lo - start : hi - start].data], 4 * (1 + lo - first))
            finally:
                os.close(file)
        if not found and codes:
            known = self.fields()
            if name not in known:
                raise DataNotFound(
                    f"There is no field ${name} in {self.path}.{nearest(name, known)} "
                    f"Known: {', '.join('$' + k for k in known) or 'none'}."
                )
        return begin, end

    def _opened(self, path: str) -> int | None:
        """Open a file of values; None if there is none."""
        try:
            return self._pin.open(path)
        except OSError as exc:
            if exc.errno not in _NO_FILE:
                raise DataError(f"{path} cannot be read: {exc.strerror}.") from exc
            self._pin.check()
            return None
        except ValueError:  # a NUL character or a lone surrogate: not a valid file name
            return None

    def fingerprint(self) -> str:
        """Return a short string that changes when the data change: a hash of names, sizes and times of all files.

        Scanning all files takes a while, so the result is cached for two hundred times as long as the scan took (some
        seconds); :meth:`refresh` makes the next call scan again.
        """
        if self._whole is not None:
            return f"{self._whole.fingerprint()}-{self.until}"
        now = time.monotonic()
        if now > self._fingerprint_until:
            self._fingerprint = self._pin.read(_fingerprint_of)
            self._fingerprint_until = now + 200 * (time.monotonic() - now)
        return self._fingerprint

    def refresh(self) -> None:
        """Clear the cache: the next access reads the folder again."""
        if self._whole is not None:
            self._whole.refresh()
        self._calendars.clear()
        self._markets.clear()
        self._bounded.clear()
        self._lives.clear()
        self._fingerprint_until = -math.inf


def _feature_folders(place: Path) -> list[str]:
    root = place / "features"
    return [e.path for e in os.scandir(root) if e.is_dir()] if root.is_dir() else []


def _fingerprint_of(place: Path) -> str:
    mark = hashlib.sha256()
    for folder in ("calendars", "instruments"):
        for file in sorted((place / folder).glob("*.txt")):
            mark.update(file.name.encode() + b":" + read_bytes(file, LIMITS["text_file_size"], error=DataError))
    for folder_path in sorted(_feature_folders(place)):
        with os.scandir(folder_path) as entries:
            listed = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
        mark.update(f"{os.path.basename(folder_path)}:{listed}".encode())
    return mark.hexdigest()[:16]


_T = TypeVar("_T")


class _Pin:
    """Keeps a folder that was opened accessible under whatever name it has.

    Parameters
    ----------
    path : path
        The folder; it may be missing.
    """

    __slots__ = ("_handle", "_inside", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inside = len(str(path / "x")) - 1
        self._handle: int | None = None
        with contextlib.suppress(OSError):  # missing: an error with a better message follows
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __reduce__(self) -> tuple[type[_Pin], tuple[Path]]:
        return _Pin, (self._path,)

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def open(self, file: str) -> int:
        """Open a file of the folder, given by its path below `path`, for reading."""
        if self._handle is None:
            return os.open(file, _READ)
        return os.open(file[self._inside :], _READ, dir_fd=self._handle)

    def location(self) -> Path:
        """Return the path at which the folder is now.

        Raises
        ------
        DataError
            If there is another one in its place, and it is none of the former versions.
        """
        if self._handle is None:
            return self._path
        mine = os.fstat(self._handle)
        for place in (self._path, *previous_locations(Path(os.path.realpath(self._path)))):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(place), mine):
                    return place
        self._refuse_another()
        return self._path

    def read(self, read: Callable[[Path], _T]) -> _T:
        """Return ``read(location)``; it is read again if the folder got another name meanwhile."""
        while True:
            place = self.location()
            try:
                found = read(place)
            except (OSError, DataError):
                if self.location() == place:
                    raise
            else:
                if self.location() == place:
                    return found

    def check(self) -> None:
        """Check that a file is missing because it never existed, not because the folder has been deleted since.

        Raises
        ------
        DataError
            If it has.
        """
        if self._handle is None:
            return
        try:
            os.stat("calendars/day.txt", dir_fd=self._handle)
        except FileNotFoundError:
            self._refuse_another()

    def _refuse_another(self) -> None:
        if os.path.isfile(self._path / "calendars" / "day.txt"):
            raise DataError(
                f"{self._path} has been replaced while it was being read. Start again, to read the new version."
            )


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a named pipe must not wait for a writer
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
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


def _series_file(root: Path, code: str, name: str, freq: str) -> str:
    """Return the file of an instrument's field; an empty path if it would be outside the folder."""
    folder = folder_name(code)
    return f"{root}/{folder}/{name}.{freq}.bin" if _is_one_name(folder) and _is_one_name(name) else ""


def _is_one_name(text: str) -> bool:
    """Return whether a string is the name of an entry in a folder, so that nothing outside the folder is read."""
    return os.sep not in text and "\0" not in text and text not in ("", os.curdir, os.pardir)


def _check_shared_folder(codes: Iterable[str], source: str) -> None:
    """Check that no two instruments share a folder, because each would read the other's prices.

    Raises
    ------
    DataError
        If two do; the message names both.
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


def _first_day(head: bytes, size: int, file: str, days: int) -> int:
    """Return the first value of a file: the position of its first day in a calendar of `days` days."""
    if size % 4:
        raise DataError(f"{file} is truncated: its size is not a multiple of 4 bytes. Import the data again.")
    if size == 0:
        raise DataError(f"{file} is empty: it lacks even the index of its first day. Import the data again.")
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
        handle = os.open(file, _READ)
    except OSError as exc:
        raise DataError(f"{file} cannot be read: {exc.strerror}.") from exc
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{file} is not a regular file.")
        first = _first_day(os.read(handle, 4), about.st_size, file, days)
    finally:
        os.close(handle)
    return first, first + about.st_size // 4 - 1


def _last_value(file: str, days: int, limit: int) -> int:
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


def _frequency(freq: str) -> str:
    """Return the name of a frequency in the data folder: ``day`` for ``1d`` and so on.

    Raises
    ------
    DataError
        If the frequency is shorter than a day.
    """
    name = re.sub(r"\s", "", str(freq)).lower()
    if re.fullmatch(r"1?d(ay)?", name):
        return "day"
    if re.fullmatch(r"\d*(m|min|minute|h|hour|s|sec|second|tick)s?", name):
        raise DataError(f"Rollforge works with daily bars; the frequency {freq!r} is shorter than a day. Use 'day'.")
    return name


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return the nonempty lines of a text file with their numbers; a byte order mark is skipped."""
    raw = read_bytes(file, LIMITS["text_file_size"], error=DataError)
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(f"{file} is not UTF-8 text: {exc}. Save it as UTF-8.") from None
    return [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _read_calendar(file: Path) -> Days:
    lines = read_lines(file)
    LIMITS["calendar_lines"].check(len(lines), f"{file} has", error=DataError)
    moments = [read_moment(line, f"{file}, line {number}") for number, line in lines]
    if not moments:
        raise DataError(f"{file} contains no days.")
    days = np.array([m.day for m in moments], "datetime64[D]")
    steps = np.diff(days)
    if not (steps > np.timedelta64(0, "D")).all():
        at = int(np.argmin(steps)) + 1
        if days[at] == days[at - 1] and moments[at].seconds != moments[at - 1].seconds:
            raise DataError(
                f"{file} contains several times of one day ({clock(moments[at - 1].seconds)} and "
                f"{clock(moments[at].seconds)} of {days[at]}), but Rollforge needs daily bars: one line per day."
            )
        raise DataError(f"{file}: the days must be in ascending order, but {days[at]} comes after {days[at - 1]}.")
    if days[0] < FIRST_DAY or days[-1] > LAST_DAY:
        wrong = days[0] if days[0] < FIRST_DAY else days[-1]
        raise DataError(
            f"{file}: {wrong} is outside {FIRST_DAY} to {LAST_DAY}, the range of days that a calendar may contain."
        )
    return days


def read_member(file: Path, number: int, line: str) -> tuple[str, Span, list[str]]:
    """Return the code in a line of a universe, its first and last day, and further columns.

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


def _read_market(file: Path) -> dict[str, list[Span]]:
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


_BOUNDS_KEPT = 4  # a routine reads the data up to one day, then up to the next
_open: dict[str, tuple[tuple[int, ...], Provider]] = {}


def folder_stamp(folder: Path) -> tuple[int, ...]:
    """Return modification times that change with the calendar, a universe or the list of instruments."""
    parts = [folder / "calendars" / "day.txt", folder / "features", *sorted((folder / "instruments").glob("*.txt"))]
    return (folder.stat().st_ino, *(p.stat().st_mtime_ns for p in parts if p.exists()))


def open_provider(path: str | os.PathLike[str]) -> Provider:
    """Return the reader of a data folder; it is cached until the calendar or a universe changes.

    Raises
    ------
    DataNotFound
        If the folder does not exist, or is not a data folder.
    """
    folder = read_path(path, "data").absolute()
    calendar = folder / "calendars" / "day.txt"
    if not os.path.isdir(folder):
        raise DataNotFound(
            f"There is no data folder {str(folder)!r}. 'rollforge data demo FOLDER' creates a demo market, "
            "and 'rollforge data import' imports tables."
        )
    if not os.path.isfile(calendar):
        raise DataNotFound(f"{folder} is not a data folder: it has no calendars/day.txt.")
    stamp = folder_stamp(folder)
    known = _open.get(str(folder))
    if known is None or known[0] != stamp:
        known = _open[str(folder)] = (stamp, Provider(folder))
    return known[1]


def write_folder(
    path: str | os.PathLike[str],
    calendar: Days | Sequence[str | dt.date],
    series: Mapping[str, tuple[int, Mapping[str, NDArray[np.generic]]]],
    universes: Mapping[str, Mapping[str, Sequence[tuple[object, object]]]],
) -> None:
    """Write a data folder.

    Parameters
    ----------
    path : path
        The folder; it is created if it does not exist.
    calendar : array of datetime64
        All trading days, ascending.
    series : mapping
        Code -> (position of its first day in the calendar, {field: values from that day on}).
    universes : mapping
        Name -> {code: [(first day, last day), …]}.

    Raises
    ------
    DataError
        If a code, field or universe is not a valid file name, two codes have the same folder, or a value is too large
        for float32. Nothing has been written.
    """
    root = Path(path)
    _check_names(series, universes)
    for code, (_, fields) in series.items():
        _check_sizes(code, fields)
    days = read_days(calendar, "calendar")
    for folder in ("calendars", "instruments", "features"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "calendars" / "day.txt").write_text("".join(f"{d}\n" for d in days), encoding="utf-8")
    for name, members in universes.items():
        lines = (f"{code}\t{read_day(a)}\t{read_day(b)}\n" for code, spans in sorted(members.items()) for a, b in spans)
        (root / "instruments" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    for code, (first, fields) in series.items():
        place = root / "features" / folder_name(code)
        place.mkdir(exist_ok=True)
        for name, values in fields.items():
            block = np.empty(len(values) + 1, "<f4")
            block[0] = first
            block[1:] = values
            block.tofile(place / f"{name}.day.bin")


def _check_names(
    series: Mapping[str, tuple[int, Mapping[str, object]]], universes: Mapping[str, Mapping[str, object]]
) -> None:
    fields = dict.fromkeys(name for _, values in series.values() for name in values)
    for what, names in (("instrument", map(folder_name, series)), ("field", fields), ("universe", universes)):
        for name in names:
            problem = name_problem(name)
            if problem:
                raise DataError(
                    f"{shown(name)} cannot be the name of a {what}, which becomes the name of a file: {problem}."
                )
    check_folders(series)


def check_folders(codes: Iterable[str]) -> None:
    """Check that no two instruments would have the same folder.

    File systems may treat names as equal that differ in case or in the encoding of accents.

    Raises
    ------
    DataError
        If two do; the message names both.
    """
    taken: dict[str, str] = {}
    for code in codes:
        folder = unicodedata.normalize("NFC", unicodedata.normalize("NFC", folder_name(code)).casefold())
        other = taken.setdefault(folder, code)
        if other != code:
            raise DataError(
                f"The instruments {other!r} and {code!r} would have the same folder, {folder!r}. Rename one of them."
            )


def _check_sizes(code: str, fields: Mapping[str, NDArray[np.generic]]) -> None:
    largest = float(np.finfo(np.float32).max)
    for name, values in fields.items():
        given = np.asarray(values)
        if given.dtype == np.float32 or not given.size:
            continue  # infinite values were infinite before
        bad = np.abs(given.astype(np.float64)) > largest
        bad &= np.isfinite(given.astype(np.float64))
        if bad.any():
            raise DataError(
                f"{name} of {code} is too large for a data folder, which stores float32: {given[bad][0]:g}. "
                "Correct the source."
            )
