"""Reader and writer of Qlib's data folder.

``calendars/day.txt`` (a day a line), ``instruments/NAME.txt`` (code, first day, last day, by tabs; several lines a code
possible), ``features/<code in lower case>/<field>.day.bin`` (little-endian float32; the first is the index of the first
day in the calendar, the rest the values from there on).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DataError, DataNotFound, nearest

__all__ = ["Days", "FieldBlock", "Provider", "Span", "open_provider", "write_folder"]

Days = NDArray[np.datetime64]
Span = tuple[np.datetime64, np.datetime64]


@dataclass(frozen=True, slots=True)
class FieldBlock:
    """One field of some instruments on some days of the calendar."""

    values: NDArray[np.float32]
    """(instruments, days); NaN where there is no value."""
    begin: NDArray[np.int64]
    """First day of each instrument's file, as a place among the days asked for."""
    end: NDArray[np.int64]
    """The place behind its last day."""


@dataclass(slots=True)
class Provider:
    """One data folder. Everything is read when it is asked for, and the small things once."""

    path: Path
    _calendars: dict[tuple[str, bool], Days] = field(default_factory=dict, repr=False)
    _markets: dict[str, dict[str, list[Span]]] = field(default_factory=dict, repr=False)
    _fingerprint: str = field(default="", repr=False)
    _fingerprint_until: float = field(default=-math.inf, repr=False)

    def calendar(self, freq: str = "day", *, future: bool = False) -> Days:
        """Return the trading days, ascending, as datetime64[D].

        Parameters
        ----------
        freq : str
            Name of the calendar.
        future : bool
            True reads ``day_future.txt``, with the days to come, where there is one.

        Raises
        ------
        DataNotFound
            When there is no such calendar.
        DataError
            When a line is no date, or the days are not ascending.
        """
        key = (freq, future)
        if key not in self._calendars:
            file = self.path / "calendars" / f"{freq}{'_future' if future else ''}.txt"
            if future and not file.is_file():
                return self.calendar(freq)
            self._calendars[key] = _read_calendar(file)
        return self._calendars[key]

    def markets(self) -> list[str]:
        """Return the names of the universes."""
        return sorted(p.stem for p in (self.path / "instruments").glob("*.txt"))

    def instruments(self, market: str) -> dict[str, list[Span]]:
        """Return the members of a universe, with the days (first, last) on which each belongs to it, ordered by code.

        Raises
        ------
        DataNotFound
            When there is no such universe, naming those that there are.
        """
        if market not in self._markets:
            file = self.path / "instruments" / f"{market}.txt"
            if not file.is_file():
                known = self.markets()
                raise DataNotFound(
                    f"There is no universe {market!r} in {self.path}.{nearest(market, known)} "
                    f"Known: {', '.join(known) or 'none'}."
                )
            self._markets[market] = _read_market(file)
        return self._markets[market]

    def fields(self) -> list[str]:
        """Return the names of the fields that any instrument has."""
        names: set[str] = set()
        for folder in self._feature_folders():
            names.update(f.split(".")[0] for f in os.listdir(folder) if f.endswith(".bin"))
        return sorted(names)

    def folder(self, code: str) -> Path:
        """Return where the series of an instrument are, whether there are any or not."""
        return self.path / "features" / _folder_name(code)

    def has(self, code: str) -> bool:
        """Return whether there are any series of an instrument."""
        return self.folder(code).is_dir()

    def _feature_folders(self) -> Iterable[str]:
        root = self.path / "features"
        return [e.path for e in os.scandir(root) if e.is_dir()] if root.is_dir() else []

    def spans(
        self, name: str, codes: Sequence[str], start: int, stop: int, freq: str = "day"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return on which of the days [start, stop) each instrument has a field: first, and behind the last.

        Arguments and errors are those of :meth:`read`, which this does without reading any values.
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
            Places in the calendar.

        Raises
        ------
        DataNotFound
            When no instrument at all has the field.
        DataError
            When a file is truncated or does not fit the calendar.
        """
        values = np.full((len(codes), stop - start), np.nan, "<f4")
        begin, end = self._scan(name, codes, start, stop, freq, values)
        return FieldBlock(values.astype(np.float32, copy=False), begin, end)

    def _scan(
        self, name: str, codes: Sequence[str], start: int, stop: int, freq: str, values: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        begin = np.zeros(len(codes), np.int64)
        end = np.zeros(len(codes), np.int64)
        found = False
        days = len(self.calendar(freq))
        root = self.path / "features"
        for i, code in enumerate(codes):
            path = f"{root}/{_folder_name(code)}/{name}.{freq}.bin"
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                size = os.fstat(file).st_size
                first = _first_day(os.read(file, 4), size, path, days)
                found = True
                lo, hi = max(first, start), min(first + size // 4 - 1, stop)
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

    def fingerprint(self) -> str:
        """Return a short text that changes when the data does: names, sizes and times of all files, hashed.

        Looking at all files takes a while, so an answer is given again for two hundred times as long as it took to find it
        (some seconds); :meth:`refresh` makes the next call look again.
        """
        now = time.monotonic()
        if now > self._fingerprint_until:
            mark = hashlib.sha256()
            for folder in ("calendars", "instruments"):
                for file in sorted((self.path / folder).glob("*.txt")):
                    mark.update(f"{file.name}:{file.read_text()}".encode())
            for folder_path in sorted(self._feature_folders()):
                with os.scandir(folder_path) as entries:
                    listed = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
                mark.update(f"{os.path.basename(folder_path)}:{listed}".encode())
            self._fingerprint = mark.hexdigest()[:16]
            self._fingerprint_until = now + 200 * (time.monotonic() - now)
        return self._fingerprint

    def refresh(self) -> None:
        """Forget what was read: the next question reads the folder again."""
        self._calendars.clear()
        self._markets.clear()
        self._fingerprint_until = -math.inf


_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))])


def _folder_name(code: str) -> str:
    """The code in lower case; names that Windows keeps for itself carry a prefix, as in Qlib's folders."""
    name = code.lower()
    return f"_qlib_{name}" if name in _RESERVED else name


def _first_day(head: bytes, size: int, file: str, days: int) -> int:
    """The first value of a file, its first day's place in a calendar of so many days."""
    if size % 4:
        raise DataError(f"{file} is truncated: its size is no whole number of 4-byte values. Import the data again.")
    if size == 0:
        raise DataError(f"{file} is empty: not even the index of its first day is there. Import the data again.")
    first: float = struct.unpack("<f", head)[0]
    count = size // 4 - 1
    if not (first >= 0 and first.is_integer()) or first + count > days:
        raise DataError(
            f"{file} does not fit the calendar: it says that it starts at day {first:g} and holds {count} days, "
            f"the calendar has {days}. Import the data again."
        )
    return int(first)


def _read_calendar(file: Path) -> Days:
    try:
        lines = file.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise DataNotFound(
            f"{file.parent.parent} is no data folder: it has no {file.parent.name}/{file.name}."
        ) from None
    try:
        days = np.array(lines, "datetime64[D]")
    except ValueError as exc:
        raise DataError(f"{file} holds a line that is no date: {exc}") from exc
    if days.size == 0:
        raise DataError(f"{file} holds no days.")
    if not (np.diff(days) > np.timedelta64(0, "D")).all():
        at = int(np.argmin(np.diff(days))) + 1
        raise DataError(f"{file}: the days must ascend, but {days[at]} stands after {days[at - 1]}.")
    return days


def _read_market(file: Path) -> dict[str, list[Span]]:
    members: dict[str, list[Span]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split("\t")
        try:
            code, first, last = parts[0], np.datetime64(parts[1].strip(), "D"), np.datetime64(parts[2].strip(), "D")
        except (IndexError, ValueError):
            raise DataError(
                f"{file}, line {number}: expected code, first day, last day by tabs, found {line!r}."
            ) from None
        members.setdefault(code.strip().upper(), []).append((first, last))
    if not members:
        raise DataError(f"The universe {file.stem!r} is empty: {file} names no instrument.")
    return dict(sorted(members.items()))


_open: dict[str, tuple[tuple[int, ...], Provider]] = {}


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes when the calendar, a universe, or the list of instruments does."""
    parts = [folder / "calendars" / "day.txt", folder / "features", *sorted((folder / "instruments").glob("*.txt"))]
    return tuple(p.stat().st_mtime_ns for p in parts if p.exists())


def open_provider(path: str | os.PathLike[str]) -> Provider:
    """Return the reader of a data folder: the same one while its calendar and its universes do not change.

    Raises
    ------
    DataNotFound
        When there is no such folder, or it is no data folder.
    """
    folder = Path(path).expanduser().absolute()
    calendar = folder / "calendars" / "day.txt"
    if not folder.is_dir():
        raise DataNotFound(
            f"There is no data folder {str(folder)!r}. 'rollforge data demo FOLDER' makes one, "
            "'rollforge data import' reads tables."
        )
    if not calendar.is_file():
        raise DataNotFound(f"{folder} is no data folder: it has no calendars/day.txt.")
    stamp = _stamp(folder)
    known = _open.get(str(folder))
    if known is None or known[0] != stamp:
        known = _open[str(folder)] = (stamp, Provider(folder))
    return known[1]


def write_folder(
    path: str | os.PathLike[str],
    calendar: Days | Sequence[str | dt.date],
    series: Mapping[str, tuple[int, Mapping[str, NDArray[Any]]]],
    universes: Mapping[str, Mapping[str, Sequence[tuple[Any, Any]]]],
) -> None:
    """Write a data folder.

    Parameters
    ----------
    path : path
        The folder; made if it is not there.
    calendar : array of datetime64
        All trading days, ascending.
    series : mapping
        Code -> (place of its first day in the calendar, {field: values from there on}).
    universes : mapping
        Name -> {code: [(first day, last day), …]}.
    """
    root = Path(path)
    days = np.asarray(calendar, "datetime64[D]")
    for folder in ("calendars", "instruments", "features"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "calendars" / "day.txt").write_text("".join(f"{d}\n" for d in days), encoding="utf-8")
    for name, members in universes.items():
        lines = (f"{code}\t{a}\t{b}\n" for code, spans in sorted(members.items()) for a, b in spans)
        (root / "instruments" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    for code, (first, fields) in series.items():
        place = root / "features" / _folder_name(code)
        place.mkdir(exist_ok=True)
        for name, values in fields.items():
            block = np.empty(len(values) + 1, "<f4")
            block[0] = first
            block[1:] = values
            block.tofile(place / f"{name}.day.bin")
