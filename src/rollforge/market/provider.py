"""Reader of Qlib's data folder.

``calendars/day.txt`` (one day per line), ``instruments/NAME.txt`` (tab-separated code, first day, last day; a code may
have several lines), ``features/<code in lower case>/<field>.day.bin`` (little-endian float32; the first value is the
calendar index of the first day, the rest are the values from that day on). Intraday data have ``calendars/60min.txt``
(the time of one bar per line) and ``<field>.60min.bin``; a folder may have several frequencies.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import multiprocessing
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import DayLike, Times, read_day, stop_position
from rollforge.errors import DataError, DataNotFound, DataNotSent, first_few, nearest, shown
from rollforge.frequency import frequency
from rollforge.limits import LIMITS, read_bytes
from rollforge.market import scans
from rollforge.market.extract import ExtractOf, read_extract
from rollforge.market.folder_change import previous_locations
from rollforge.market.folder_files import (
    READ,
    Span,
    check_series,
    check_shared_folder,
    first_day,
    folder_name,
    is_one_name,
    is_text,
    last_value,
    read_calendar,
    read_market,
    series_file,
)
from rollforge.market.scans import Scan
from rollforge.paths import read_path

__all__ = [
    "OPTIONAL_FIELDS",
    "FieldBlock",
    "Provider",
    "folder_stamp",
    "open_provider",
]

log = logging.getLogger(__name__)

OPTIONAL_FIELDS = frozenset({"open", "high", "low", "volume", "vwap", "factor", "change"})
"""Standard fields that a folder may lack; expressions that read them are then NaN. Any other unknown field is an error."""


@dataclass(frozen=True, slots=True)
class FieldBlock:
    """Values of one field for some instruments and days of the calendar."""

    values: NDArray[np.float32]
    """(instruments, days or bars); NaN if there is no value."""
    begin: NDArray[np.int64]
    """First day of each instrument's file, as a position among the requested days."""
    end: NDArray[np.int64]
    """One past its last day."""


@dataclass(slots=True)
class Provider:
    """Reader of a data folder. Everything is read on demand; calendars and universes are cached.

    If rows are added to the folder (:func:`~rollforge.market.append.append_table`), the provider continues to read the
    former version.
    """

    path: Path
    freq: str = field(init=False, default="day")
    """Frequency that is meant where none is given: ``day`` if the folder has such a calendar, or else its only one."""
    until: np.datetime64 | None = field(init=False, default=None)
    """Last trading day, or bar, that is read, see :meth:`bounded`; None: all."""
    _whole: Provider | None = field(init=False, default=None, repr=False, compare=False)
    _bounded: dict[np.datetime64, Provider] = field(init=False, default_factory=dict, repr=False, compare=False)
    _lives: dict[tuple[str, str], tuple[int, int]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _pin: _Pin = field(init=False, repr=False, compare=False)
    _calendars: dict[tuple[str, bool], Times] = field(default_factory=dict, repr=False)
    _stems: dict[str, str] = field(init=False, default_factory=dict, repr=False, compare=False)
    _others: dict[str, Provider] = field(init=False, default_factory=dict, repr=False, compare=False)
    _markets: dict[str, dict[str, list[Span]]] = field(default_factory=dict, repr=False)
    _latest: Scan | None = field(init=False, default=None, repr=False, compare=False)
    extract: ExtractOf | None = field(init=False, default=None, repr=False, compare=False)
    """The folder of which this one is an extract; None if it is none."""

    def __post_init__(self) -> None:
        self.extract = read_extract(self.path)
        self._pin = _Pin(self.path)
        known = _calendar_files(self.path)
        if "day" not in known and len(known) == 1:
            (self.freq,) = known

    def with_freq(self, freq: str) -> Provider:
        """Return a reader of the same version of the folder whose :attr:`freq` is another one.

        Raises
        ------
        DataError
            If the frequency is invalid.
        """
        name = frequency(freq)
        if name == self.freq:
            return self
        if name not in self._others:
            made = Provider(self.path)
            made.freq, made.until, made._pin = name, self.until, self._pin
            made._whole = None if self._whole is None else self._whole.with_freq(name)
            self._others[name] = made
        return self._others[name]

    def bounded(self, day: DayLike) -> Provider:
        """Return a reader of the same version of the folder that behaves as if its data ended on `day`.

        An instrument that has values later, but none on the last days, ends on its last day with a value, as it would
        in a folder written at the time. A membership that ends later ends on the last day; if it spans exactly the
        instrument's data, it ends where these now end.

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
        stop = stop_position(calendar, limit)
        if not stop:
            raise DataError(
                f"There are no data up to {limit}: the calendar of {self.path} starts on {calendar[0].astype('M8[D]')}."
            )
        until = calendar[stop - 1]
        whole = self._whole or self
        if until not in whole._bounded:
            while len(whole._bounded) >= _BOUNDS_KEPT:
                whole._bounded.pop(next(iter(whole._bounded)), None)
            made = Provider(self.path)
            made.freq, made.until, made._whole, made._pin = whole.freq, until, whole, whole._pin
            whole._bounded[until] = made
        return whole._bounded[until]

    @property
    def origin(self) -> str:
        """The real path of the folder, or of the one that it is an extract of: it identifies the data in panel keys."""
        return os.path.realpath(self.path) if self.extract is None else self.extract.origin

    def values_folder(self, place: Path) -> Path:
        """Return the folder of all series in a version of the folder, given by its path.

        Raises
        ------
        DataNotSent
            If the values are on another machine.
        """
        if self.extract is not None and not self.extract.values:
            raise DataNotSent(
                f"This machine was sent the calendars and panels of {self.extract.origin}, but not its values, which are "
                "read here. If all machines have that folder, run with data='shared'."
            )
        return place / "features"

    def location(self) -> Path:
        """Return the current path of the folder that was opened: `path`, or that of the former version if it has
        changed since."""
        return self._pin.location()

    def calendar(self, freq: str | None = None, *, future: bool = False) -> Times:
        """Return the trading days, ascending, as datetime64[D], or the times of intraday bars, as datetime64[s].

        Parameters
        ----------
        freq : str, optional
            Frequency, which is the name of the calendar; by default :attr:`freq`.
        future : bool
            True reads ``day_future.txt``, which includes future days, if it exists. A bounded provider has no future
            days, because the folder does not record when they were announced.

        Raises
        ------
        DataNotFound
            If the calendar does not exist.
        DataError
            If a line is not a date, the lines are not ascending, or `freq` is shorter than a minute.
        """
        freq = self.freq if freq is None else frequency(freq)
        key = (freq, future)
        if self._whole is not None and key not in self._calendars:
            whole = self._whole.calendar(freq, future=future)
            self._calendars[key] = whole[: stop_position(whole, self.until)]
        if key not in self._calendars:
            days = self._pin.read(lambda place: self._read_calendar(place, freq, future=future))
            if days is None:
                return self.calendar(freq)
            self._calendars[key] = days
        return self._calendars[key]

    def _read_calendar(self, place: Path, freq: str, *, future: bool) -> Times | None:
        """Return a calendar; None if future days are requested and there are none."""
        files = _calendar_files(place)
        if freq not in files:
            known = sorted(files)
            advice = f" Set freq to {known[0]!r} (of a handler or its loader, or the argument)." if known else ""
            raise DataNotFound(
                f"There is no calendar {freq!r} in {self.path}. Known: {', '.join(known) or 'none'}.{advice}"
            )
        file = files[freq]
        if future:
            file = file.with_name(f"{file.stem}_future.txt")
            if not os.path.isfile(file):
                return None
        return read_calendar(file, freq)

    def frequencies(self) -> list[str]:
        """Return the frequencies of the folder's calendars."""
        return list(_calendar_files(self.location()))

    def stem(self, freq: str) -> str:
        """Return a frequency as the names of the folder's files spell it: ``1h`` if its calendar is ``1h.txt``."""
        if freq not in self._stems:
            file = _calendar_files(self.location()).get(freq)
            self._stems[freq] = freq if file is None else file.stem
        return self._stems[freq]

    def markets(self) -> list[str]:
        """Return the names of the universes."""
        return sorted(p.stem for p in (self.location() / "instruments").glob("*.txt") if is_text(p.name))

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
            check_shared_folder(members, f"The universe {market!r}")
            self._markets[market] = members
            self._warn_of_members_without_data(market)
        return self._markets[market]

    def _clipped(self, market: str, members: Mapping[str, Sequence[Span]]) -> dict[str, list[Span]]:
        """Return the members up to the bound."""
        assert self._whole is not None
        calendar = self._whole.calendar().astype("datetime64[D]")
        last = calendar[len(self.calendar()) - 1]
        clipped: dict[str, list[Span]] = {}
        for code, spans in members.items():
            kept = []
            for start, end in spans:
                stop = end
                if end > last:
                    first, stop_at = self._whole._life(code, self.freq)
                    if stop_at > first and (calendar[first], calendar[stop_at - 1]) == (start, end):
                        stop_at = self._life(code, self.freq)[1]
                        stop = calendar[stop_at - 1] if stop_at > first else last
                    else:
                        stop = last
                if start <= stop or start > end:  # a span that ends before it begins is kept as it is in the file
                    kept.append((start, stop))
            if kept:
                clipped[code] = kept
        if not clipped:
            raise DataError(f"The universe {market!r} has no members up to {last}.")
        return clipped

    def _read_market(self, place: Path, market: str) -> dict[str, list[Span]]:
        file = place / "instruments" / f"{market}.txt"
        if not is_one_name(market) or not os.path.isfile(file):  # also False for an invalid file name
            known = self.markets()
            raise DataNotFound(
                f"There is no universe {market!r} in {self.path}.{nearest(market, known)} "
                f"Known: {', '.join(known) or 'none'}. 'rollforge data universe {market} FILE' imports one."
            )
        return read_market(file)

    def _warn_of_members_without_data(self, market: str) -> None:
        """Log the members of a universe that have no data, so that they are not left out silently."""
        if multiprocessing.parent_process() is not None:
            return  # a worker process: its parent has already logged it
        there = {os.path.basename(folder) for folder in self._feature_folders()}
        without_data = [code for code in self._markets[market] if folder_name(code) not in there]
        if without_data:
            log.warning(
                "the universe %r contains instruments without data in %s: %s",
                market,
                self.path,
                first_few(without_data),
            )

    def fields(self) -> list[str]:
        """Return the names of all fields that at least one instrument has."""
        names: set[str] = set()
        for folder in self._feature_folders():
            files = [f for f in os.listdir(folder) if f.endswith(".bin") and f.split(".")[0] not in names]
            names.update(f.split(".")[0] for f in files if self.until is None or self._begins(f"{folder}/{f}"))
        return sorted(names)

    def _begins(self, file: str) -> bool:
        """Return whether a file of values begins no later than the bound."""
        assert self._whole is not None
        freq = frequency(file.split(".")[-2])
        try:
            first, stop = check_series(file, len(self._whole.calendar(freq)))
            return first < min(stop, len(self.calendar(freq)))
        except DataError:  # no such calendar, or damaged: an error where the field is read
            return True

    def folder(self, code: str) -> Path:
        """Return the folder of an instrument's series, whether or not it exists.

        Raises
        ------
        DataNotFound
            If the code is invalid.
        """
        name = folder_name(code)
        if not is_one_name(name):
            raise DataNotFound(
                f"{shown(code)} cannot be the code of an instrument, because it is not a valid folder name."
            )
        return self.path / "features" / name

    def has(self, code: str) -> bool:
        """Return whether an instrument has data."""
        name = folder_name(code)
        if not is_one_name(name) or not os.path.isdir(self.values_folder(self.location()) / name):
            return False
        if self.until is None:
            return True
        begin, end = self._life(code, self.freq)
        return end > begin

    def _life(self, code: str, freq: str) -> tuple[int, int]:
        """Return the half-open range of days on which an instrument has data of any field, up to the bound."""
        key = (folder_name(code), freq)
        if key not in self._lives:
            whole = self._whole
            self._lives[key] = self._pin.read(
                lambda place: (
                    self._read_life(self.values_folder(place) / key[0], freq)
                    if whole is None
                    else self._clipped_life(whole, code, self.values_folder(place) / key[0], freq)
                )
            )
        return self._lives[key]

    def cut(self, code: str, series: bytes) -> bytes:
        """Return the bytes of a series of an instrument, of the frequency :attr:`freq`, up to the bound."""
        if self._whole is None or len(series) < 4:
            return series
        first = struct.unpack("<f", series[:4])[0]
        limit = len(self.calendar())
        if not 0 <= first < 2**31 or first + len(series) // 4 - 1 <= limit:
            return series
        stop = limit
        if first < limit and math.isnan(struct.unpack_from("<f", series, 4 * (limit - int(first)))[0]):
            stop = self._life(code, self.freq)[1]
        return series[: 4 * (1 + max(0, stop - int(first)))]

    def _read_life(self, folder: Path, freq: str) -> tuple[int, int]:
        days = len(self.calendar(freq))
        begin, end = days, 0
        for name in os.listdir(folder) if folder.is_dir() else []:
            if name.endswith(f".{self.stem(freq)}.bin"):
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
            if name.endswith(f".{self.stem(freq)}.bin"):
                end = max(end, last_value(f"{folder}/{name}", days, limit))
                if end == limit:
                    break
        return (begin, end) if end > begin else (0, 0)

    def _feature_folders(self) -> Iterable[str]:
        place = self.location()
        return _feature_folders(self.values_folder(place))

    def spans(
        self, name: str, codes: Sequence[str], start: int, stop: int, freq: str | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the half-open range of the days [start, stop) on which each instrument has a field.

        Same as :meth:`read`, including arguments and errors, but without reading the values.
        """
        return self._scan(name, codes, start, stop, freq, None)

    def read(self, name: str, codes: Sequence[str], start: int, stop: int, freq: str | None = None) -> FieldBlock:
        """Return a field of some instruments on the days [start, stop) of the calendar.

        Parameters
        ----------
        name : str
            The field, without ``$``.
        codes : sequence of str
            Instruments, in the order of the result's rows.
        start, stop : int
            Half-open range of positions in the calendar.
        freq : str, optional
            Frequency; by default :attr:`freq`.

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
        self,
        name: str,
        codes: Sequence[str],
        start: int,
        stop: int,
        freq: str | None,
        values: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        begin = np.zeros(len(codes), np.int64)
        end = np.zeros(len(codes), np.int64)
        freq = self.freq if freq is None else frequency(freq)
        any_prices = False
        stem = self.stem(freq)
        limit = len(self.calendar(freq))
        days = limit if self._whole is None else len(self._whole.calendar(freq))
        root = self.values_folder(self.path)
        check_shared_folder(codes, "The list of instruments")
        for i, code in enumerate(codes):
            path = series_file(root, code, name, stem)
            file = self._opened(path)
            if file is None:
                continue
            try:
                about = os.fstat(file)
                if not stat.S_ISREG(about.st_mode):
                    raise DataError(f"{path} is not a regular file.")
                size = about.st_size
                first = first_day(os.read(file, 4), size, path, days)
                any_prices |= first < limit or self._whole is None
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
        if not any_prices and codes:
            known = self.fields()
            if name not in known:
                raise DataNotFound(
                    f"There is no field ${name} in {self.path}.{nearest(name, known)} "
                    f"Known: {', '.join('$' + k for k in known) or 'none'}."
                )
        return begin, end

    def _opened(self, path: str) -> int | None:
        """Open a file of values; None if it does not exist."""
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

        Scanning all files takes a while, so the result is cached for two hundred times as long as the scan took (a few
        seconds). The next scan may be that of another process of the same job, see :mod:`~rollforge.market.scans`. After
        :meth:`refresh` the next call scans again.
        """
        if self._whole is not None:
            return f"{self._whole.fingerprint()}-{self.until}"
        if self.extract is not None:
            return self.extract.fingerprint
        now = time.monotonic()
        if self._latest is None or now > self._latest.until:
            self._latest = self._others_scan(now) or self._own_scan(now)
        return self._latest.fingerprint

    def _others_scan(self, now: float) -> Scan | None:
        """Return a later scan of another process that need not be repeated yet; None if there is none."""
        others, folder, mine = scans.shared(), self._pin.identity, self._latest
        if others is None or folder is None or mine is None or (scan := others.latest(folder)) is None:
            return None
        until = min(scan.until, scan.began + (mine.until - mine.began))  # it may have taken longer there
        if not mine.ended <= scan.began <= now <= until:
            return None
        self._pin.location()  # raises an error if the folder has been replaced
        return scan._replace(until=until)

    def _own_scan(self, now: float) -> Scan:
        fingerprint = self._pin.read(_fingerprint_of)
        ended = time.monotonic()
        scan = Scan(now, ended, now + 200 * (ended - now), fingerprint)
        others, folder = scans.shared(), self._pin.identity
        if others is not None and folder is not None:
            others.keep(folder, scan)
        return scan

    def refresh(self) -> None:
        """Clear the cache: the next access reads the folder again."""
        if self._whole is not None:
            self._whole.refresh()
        self._calendars.clear()
        self._stems.clear()
        self._markets.clear()
        self._bounded.clear()
        self._lives.clear()
        self._latest = None


def _calendar_files(place: Path) -> dict[str, Path]:
    """Return the calendars of a folder: usual name of the frequency -> file."""
    found: dict[str, Path] = {}
    for file in sorted((place / "calendars").glob("*.txt")):
        if not file.stem.endswith("_future") and os.path.isfile(file):
            with contextlib.suppress(DataError):  # seconds and ticks
                found.setdefault(frequency(file.stem), file)
    return found


def _feature_folders(root: Path) -> list[str]:
    return [e.path for e in os.scandir(root) if is_text(e.name) and e.is_dir()] if root.is_dir() else []


def _fingerprint_of(place: Path) -> str:
    mark = hashlib.sha256()
    for folder in ("calendars", "instruments"):
        for file in sorted((place / folder).glob("*.txt")):
            mark.update(os.fsencode(file.name) + b":" + read_bytes(file, LIMITS["text_file_size"], error=DataError))
    for folder_path in sorted(_feature_folders(place / "features")):
        with os.scandir(folder_path) as entries:
            listed = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
        mark.update(os.fsencode(os.path.basename(folder_path)) + f":{listed}".encode())
    return mark.hexdigest()[:16]


_T = TypeVar("_T")


class _Pin:
    """Keeps an opened folder accessible, even after it is renamed.

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

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the folder; None if it is missing."""
        if self._handle is None:
            return None
        mine = os.fstat(self._handle)
        return mine.st_dev, mine.st_ino

    def open(self, file: str) -> int:
        """Open a file of the folder, given by its path below `path`, for reading."""
        if self._handle is None:
            return os.open(file, READ)
        return os.open(file[self._inside :], READ, dir_fd=self._handle)

    def location(self) -> Path:
        """Return the current path of the folder.

        Raises
        ------
        DataError
            If another folder has taken its place, and it is not one of the former versions.
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
        """Return ``read(location)``; it is read again if the folder was renamed in the meantime."""
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
            If the folder has been deleted.
        """
        if self._handle is None:
            return
        try:
            os.stat("calendars", dir_fd=self._handle)
        except FileNotFoundError:
            self._refuse_another()

    def _refuse_another(self) -> None:
        if _calendar_files(self._path):
            raise DataError(f"{self._path} was replaced while it was being read. Start again to read the new version.")


_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_BOUNDS_KEPT = 4  # a routine reads the data up to one day, then up to the next
_open: dict[str, tuple[tuple[int, ...], Provider]] = {}


def folder_stamp(folder: Path) -> tuple[int, ...]:
    """Return modification times that change with the calendar, a universe or the list of instruments."""
    lists = [*sorted((folder / "calendars").glob("*.txt")), *sorted((folder / "instruments").glob("*.txt"))]
    parts = [*lists, folder / "features"]
    return (folder.stat().st_ino, *(p.stat().st_mtime_ns for p in parts if p.exists()))


def open_provider(path: str | os.PathLike[str]) -> Provider:
    """Return the reader of a data folder; it is cached until the calendar or a universe changes.

    Raises
    ------
    DataNotFound
        If the folder does not exist, or is not a data folder.
    """
    folder = read_path(path, "data").absolute()
    if not os.path.isdir(folder):
        raise DataNotFound(
            f"There is no data folder {str(folder)!r}. 'rollforge data demo FOLDER' creates a demo market, "
            "and 'rollforge data import' imports tables."
        )
    if not _calendar_files(folder):
        raise DataNotFound(f"{folder} is not a data folder: it has no calendars/day.txt.")
    stamp = folder_stamp(folder)
    known = _open.get(str(folder))
    if known is None or known[0] != stamp:
        known = _open[str(folder)] = (stamp, Provider(folder))
    return known[1]
