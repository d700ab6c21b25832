"""Content hashes of a data folder, which are equal for all copies on all machines.

A :class:`DataContent` is computed from the bytes of the calendar, the universes and all daily series, independent of
the folder's path, file times and order on disk. It shows where two folders differ: in calendars, universes, instruments
or years. Reading a folder of 500 instruments, 8 fields and ten years takes about half a second; the result is cached
until the size or modification time of a file changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import DayLike, Times, has_times
from rollforge.errors import DataError, counted, first_few
from rollforge.market.extract import content_name
from rollforge.market.folder_files import folder_name, is_text, read_lines, read_member
from rollforge.market.provider import Provider, open_provider
from rollforge.session import Session

__all__ = [
    "DataContent", "content_provider", "mark_of_days", "marks_of_days", "provider_content", "read_content", "session_content",
]  # fmt: skip

_FORMAT = 2
_KEPT = 20
_SHORT = 4  # bytes of the hashes that only locate differences


@dataclass(frozen=True, slots=True)
class DataContent:
    """The content of a data folder.

    Examples
    --------
    >>> monday = DataContent("1f", 2, "2020-01-03", "2020-01-06", {"all": "a"}, {"A": "0"}, {"2020": (2, "7")}, ("close",))
    >>> friday = DataContent("2e", 1, "2020-01-03", "2020-01-03", {"all": "a"}, {"A": "1"}, {"2020": (1, "8")}, ("close",))
    >>> friday.differences(monday)
    ['its calendar ends on 2020-01-03 (1 day), not on 2020-01-06 (2 days)']
    """

    mark: str
    """Hash of everything: two folders with the same hash have the same content."""
    days: int
    first_day: str
    last_day: str
    universes: Mapping[str, str]
    """Name -> hash of its members."""
    instruments: Mapping[str, str]
    """Folder of an instrument -> hash of its series."""
    years: Mapping[str, tuple[int, str]]
    """Year -> (number of trading days, hash of all series in the year)."""
    fields: tuple[str, ...]
    days_mark: str = ""
    """Hash of the values and members up to `last_day`, which does not change if later days are added, see
    :func:`marks_of_days`. Empty in the description by a version that did not compute it."""

    def to_plain(self) -> dict[str, object]:
        """Return the content as plain data for JSON."""
        return {**asdict(self), "years": {y: list(v) for y, v in self.years.items()}, "fields": list(self.fields)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> DataContent:
        """Return the content from the result of :meth:`to_plain`.

        Raises
        ------
        DataError
            If the data are invalid.
        """
        try:
            return cls(
                str(plain["mark"]), int(plain["days"]), str(plain["first_day"]), str(plain["last_day"]),
                {str(k): str(v) for k, v in plain["universes"].items()},
                {str(k): str(v) for k, v in plain["instruments"].items()},
                {str(k): (int(n), str(mark)) for k, (n, mark) in plain["years"].items()},
                tuple(str(f) for f in plain["fields"]), str(plain.get("days_mark", "")),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DataError(f"This is not a description of a data folder's content: {exc!r:.200}") from exc

    def differences(self, wanted: DataContent) -> list[str]:
        """Describe where this folder differs from `wanted`; empty if it contains all of `wanted` unchanged.

        Additional universes, and instruments that `wanted` does not have, are not differences.
        """
        if self.mark == wanted.mark:
            return []
        found = []
        if (self.first_day, self.last_day, self.days) != (wanted.first_day, wanted.last_day, wanted.days):
            found.append(self._calendar_difference(wanted))
        found += self._missing("universe", self.universes, wanted.universes)
        changed = [name for name, mark in wanted.universes.items() if self.universes.get(name, mark) != mark]
        if changed:
            found.append(f"its {_listed('universe', changed)} {_plural(changed, 'has', 'have')} different members")
        found += self._missing("instrument", self.instruments, wanted.instruments)
        found += self._missing("field", self.fields, wanted.fields)
        return found + self._changed_series(wanted)

    def _calendar_difference(self, wanted: DataContent) -> str:
        here, there = counted(self.days, "day"), counted(wanted.days, "day")
        for what, mine, theirs in (
            ("ends on", self.last_day, wanted.last_day), ("begins on", self.first_day, wanted.first_day)
        ):  # fmt: skip
            if mine != theirs:
                return f"its calendar {what} {mine} ({here}), not on {theirs} ({there})"
        return f"its calendar has {here} from {self.first_day} to {self.last_day}, not {there}"

    @staticmethod
    def _missing(noun: str, here: Iterable[str], there: Iterable[str]) -> list[str]:
        known = set(here)
        lacking = [name for name in there if name not in known]
        return [f"it lacks the {_listed(noun, lacking)}"] if lacking else []

    def _changed_series(self, wanted: DataContent) -> list[str]:
        """Describe the years that have the same trading days but different values, and if possible the instruments."""
        years = [y for y, (n, mark) in wanted.years.items() if self.years.get(y, (n, mark)) != (n, mark)]
        same_days = [y for y in years if self.years[y][0] == wanted.years[y][0]]
        changed = [c for c, mark in wanted.instruments.items() if self.instruments.get(c, mark) != mark]
        if not changed or (years and not same_days and len(self.years) == len(wanted.years)):
            return []  # explained by the missing days
        whole = set(wanted.instruments) <= set(self.instruments) and len(self.years) == len(wanted.years)
        when = f" in {_listed('', same_days)}" if same_days and whole else ""
        if self.days != wanted.days:  # then all series differ in length
            return [f"values differ{when}"] if when else []
        return [f"values of {len(changed)} instruments differ{when}: {_listed('', changed)}"] if len(changed) > 1 else [
            f"values of the instrument {changed[0]} differ{when}"
        ]  # fmt: skip


def _plural(names: list[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several


def _listed(noun: str, names: list[str]) -> str:
    return f"{noun}{'' if len(names) == 1 or not noun else 's'} {first_few(names, 3)}".strip()


def session_content(session: Session, freq: str | None = None) -> DataContent | None:
    """Return the content of a session's data folder, cached if possible; None if the session has no data folder.

    Parameters
    ----------
    session : Session
        The session.
    freq : str, optional
        Frequency of the calendar and the values, which may have a folder of its own; by default that of the session.
    """
    provider = content_provider(session, freq)
    return None if provider is None else provider_content(provider, session.cache)


def content_provider(session: Session, freq: str | None) -> Provider | None:
    """Return the provider whose content :func:`session_content` returns; None if the session has no data folder."""
    freq = freq or session.freq
    folder = session.folder(freq)
    return None if folder is None else _opened(folder, session.data_until, freq)


_known: dict[str, DataContent] = {}
_KNOWN = 4  # a task reads few frequencies


def read_content(
    folder: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None = None,
    until: DayLike | None = None,
    freq: str | None = None,
) -> DataContent:
    """Return the content of a data folder.

    Parameters
    ----------
    folder : path
        The data folder.
    cache : path, optional
        Folder in which results are cached, keyed by the names, sizes and times of the data folder's files.
    until : date, optional
        Last day to read; by default all days are read.
    freq : str, optional
        Frequency of the calendar and the values; by default that of the folder.

    Raises
    ------
    DataNotFound
        If the folder does not exist, or is not a data folder.
    DataError
        If a file is damaged.
    """
    return provider_content(_opened(folder, until, freq), cache)


def _opened(folder: str | os.PathLike[str], until: DayLike | None, freq: str | None) -> Provider:
    provider = open_provider(folder)
    if freq is not None:
        provider = provider.with_freq(freq)
    return provider if until is None else provider.bounded(until)


def provider_content(provider: Provider, cache: str | os.PathLike[str] | None = None) -> DataContent:
    """Return the content that a provider reads: its version of the folder, up to its bound. See
    :func:`read_content`."""
    known = (
        None if provider.extract is None else provider.extract.contents.get(content_name(provider.freq, provider.until))
    )
    if known is not None:
        return DataContent.from_plain(known)
    key = f"{_FORMAT}-{provider.fingerprint()}{'' if provider.freq == 'day' else f'-{provider.freq}'}"
    if key not in _known:
        file = None if cache is None else Path(cache) / "content" / f"{key}.json"
        found = None if file is None else _kept(file)
        if found is None:
            found = _read(provider)
            if file is not None:
                _keep(file, found)
        while len(_known) >= _KNOWN:
            _known.pop(next(iter(_known)), None)
        _known[key] = found
    return _known[key]


def mark_of_days(content: DataContent) -> str:
    """Return the last day of a content and the hash of the data up to it, as :func:`marks_of_days` returns them."""
    return f"{content.last_day} {content.days_mark}"


def marks_of_days(session: Session, days: Iterable[str], freq: str | None = None) -> list[str]:
    """Return hashes of a session's data up to each of some days, preceded by the day; all are computed in one pass.

    The hash up to a day does not change if later days are added, with new instruments and fields too, but does if a value
    or a member up to the day changes. An instrument that has no values on the last days ends with its last value, since
    only a later day shows whether it was suspended.

    Parameters
    ----------
    session : Session
        Provides the data folder.
    days : iterable of str
        Days, or times of bars, as in :attr:`DataContent.last_day`. One that the calendar lacks is left out.
    freq : str, optional
        Frequency of the calendar and the values; by default that of the session.
    """
    provider = content_provider(session, freq)
    if provider is None:
        return []
    calendar = provider.calendar()
    places = {str(day): place for place, day in enumerate(calendar)}
    stops = sorted({places[day] + 1 for day in days if day in places})
    if not stops:
        return []
    found = _DayMarks(calendar, stops)
    for code, listed in _series(provider):
        for name, series in listed:
            found.add(code, name, series)
    marks = found.marks(provider)
    return [f"{calendar[stop - 1]} {mark}" for stop, mark in zip(stops, marks, strict=True)]


class _DayMarks:
    """Hashes of a folder's data up to several days, from the series one after the other, in the order of their names."""

    def __init__(self, calendar: Times, stops: Sequence[int]) -> None:
        self.calendar = calendar
        self.stops = np.asarray(stops, np.int64)
        unit = "<M8[s]" if has_times(calendar) else "<M8[D]"
        days = np.ascontiguousarray(calendar.astype(unit))
        self._marks = [hashlib.blake2b(days[:stop].tobytes(), digest_size=16) for stop in stops]
        self._ends: dict[str, NDArray[np.int64]] = {}  # code -> end of its values up to each day

    def add(self, code: str, name: str, series: bytes) -> None:
        """Add a series: the position of its first day, and its values."""
        first, values = _first_place(series), np.frombuffer(series[4 : len(series) // 4 * 4], "<f4")
        known = np.flatnonzero(~np.isnan(values))
        counts = np.searchsorted(known, self.stops - first)
        running = hashlib.blake2b(f"\0{code}\0{name}\0{first}\0".encode(), digest_size=16)
        ends, done = self._ends.setdefault(code.lower(), np.zeros(len(self.stops), np.int64)), 0
        for i, count in enumerate(counts.tolist()):
            if not count:
                continue
            length = int(known[count - 1]) + 1
            running.update(series[4 + 4 * done : 4 + 4 * length])
            done = length
            self._marks[i].update(running.digest())
            ends[i] = max(ends[i], first + length)

    def marks(self, provider: Provider) -> list[str]:
        """Return the hashes, with the universes of the folder."""
        days = self.calendar.astype("datetime64[D]")
        for name in provider.markets():
            try:
                file = provider.location() / "instruments" / f"{name}.txt"
                members = [read_member(file, number, line)[:2] for number, line in read_lines(file)]
            except DataError:  # an error where the universe is used
                continue
            for i, stop in enumerate(self.stops.tolist()):
                lines = set()
                for code, (first, last) in members:
                    folder = folder_name(code)
                    end = int(self._ends[folder][i]) if folder in self._ends else 0
                    known = days[(end or stop) - 1]
                    if first <= known:
                        lines.add(f"{code.upper()}\t{first}\t{min(last, known)}")
                if lines:
                    self._marks[i].update("\n".join([f"\0{name}", *sorted(lines)]).encode())
        return [mark.hexdigest() for mark in self._marks]


def _kept(file: Path) -> DataContent | None:
    try:
        return DataContent.from_plain(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # missing or damaged: read again
        return None


def _keep(file: Path, content: DataContent) -> None:
    with contextlib.suppress(OSError):  # without a writable cache this only takes longer
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(json.dumps(content.to_plain()), encoding="utf-8")
        draft.replace(file)
        older = sorted(file.parent.glob("*.json"), key=lambda f: f.stat().st_mtime_ns, reverse=True)
        for old in older[_KEPT:]:
            old.unlink(missing_ok=True)


def _read(provider: Provider) -> DataContent:
    calendar = provider.calendar()
    years, starts = np.unique(calendar.astype("datetime64[Y]"), return_index=True)
    stops = [*starts[1:].tolist(), len(calendar)]
    of_years = [hashlib.blake2b(digest_size=_SHORT) for _ in years]
    unit = "<M8[s]" if has_times(calendar) else "<M8[D]"
    whole = hashlib.blake2b(np.ascontiguousarray(calendar.astype(unit)).tobytes(), digest_size=16)
    universes = {}
    for name in provider.markets():
        mark = hashlib.blake2b(digest_size=16)
        for line in _members(provider, name):
            mark.update(line.encode() + b"\n")
        universes[name] = mark.hexdigest()
        whole.update(f"\0{name}\0{universes[name]}".encode())
    instruments, fields, of_days = {}, set[str](), _DayMarks(calendar, [len(calendar)])
    for code, listed in _series(provider):
        own = hashlib.blake2b(digest_size=16)
        for name, series in listed:
            label = f"\0{code}\0{name}\0".encode()
            own.update(label + series)
            of_days.add(code, name, series)
            fields.add(name.removesuffix(f".{provider.stem(provider.freq)}.bin"))
            first = _first_place(series)
            for i, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
                piece = series[4 * (1 + max(0, start - first)) : 4 * (1 + max(0, stop - first))]
                if piece:
                    of_years[i].update(label + max(0, first - start).to_bytes(4, "little") + piece)
        whole.update(own.digest())
        instruments[code] = own.hexdigest()[: 2 * _SHORT]
    return DataContent(
        mark=whole.hexdigest(),
        days=len(calendar),
        first_day=str(calendar[0]),
        last_day=str(calendar[-1]),
        universes=universes,
        instruments=instruments,
        years={
            str(year): (stop - start, mark.hexdigest())
            for year, start, stop, mark in zip(years, starts.tolist(), stops, of_years, strict=True)
        },
        fields=tuple(sorted(fields)),
        days_mark=of_days.marks(provider)[0],
    )


def _series(provider: Provider) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
    """Yield the folder of each instrument, and the names and bytes of its series, in the order of their names."""
    suffix = f".{provider.stem(provider.freq)}.bin"
    for code in sorted(_folders(provider)):
        if provider.until is None or provider.has(code):  # otherwise it is listed after the bound
            yield code, _series_of(provider, code, suffix)


def _series_of(provider: Provider, code: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    folder = provider.location() / "features" / code
    for name in sorted(f for f in os.listdir(folder) if f.endswith(suffix) and is_text(f)):
        series = provider.cut(code, (folder / name).read_bytes())
        if provider.until is None or len(series) > 4:
            yield name, series


def _members(provider: Provider, universe: str) -> list[str]:
    """Return the lines of a universe."""
    if provider.until is None:
        return [line.strip() for _, line in read_lines(provider.location() / "instruments" / f"{universe}.txt")]
    try:
        members = provider.instruments(universe)
    except DataError:  # no members up to the bound
        return []
    return [f"{code}\t{first}\t{last}" for code, spans in members.items() for first, last in spans]


def _first_place(series: bytes) -> int:
    """Return the position of a series' first day; 0 for a damaged file, whose bytes are hashed all the same."""
    head = float(np.frombuffer(series[:4], "<f4")[0]) if len(series) >= 4 else 0.0
    return int(head) if 0 <= head < 2**31 else 0


def _folders(provider: Provider) -> list[str]:
    root = provider.values_folder(provider.location())
    return [e.name for e in os.scandir(root) if is_text(e.name) and e.is_dir()] if root.is_dir() else []
