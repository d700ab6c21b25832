"""Panels: a handler's data, stored on disk once and shared by all windows, tasks and processes.

A panel's rows are sorted by (day or bar, instrument). Each group of columns ("feature", "label") is one row-major
float32 memory map, so a range of days is one contiguous block that reaches the model without a copy.

The cache builds a panel under a lock, so two processes that need the same panel build it once. It is built in a
temporary folder that is renamed when it is complete. When the data change, it grows (:mod:`~.panel_growth`): rows are
added at the end of its files and committed by a new description. Damaged panels are detected and rebuilt: opening a
panel checks the size, the modification time and samples of every file. A file is read in full if its time differs from
the recorded one, and once after each boot, because writes are not synced to disk. When the size limit is exceeded, the
least recently used panels are deleted; a process that has one open keeps its pages.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import DayLike, start_position, stop_position, times_of
from rollforge.errors import DataError, nearest
from rollforge.features.row_file import RowFile, group_file, mapped_rows
from rollforge.session import available_cores

__all__ = ["META", "Group", "Panel", "Stored", "file_notes", "write_meta"]

log = logging.getLogger(__name__)

FORMAT = 3
_EARLIER = 2  # without versions; such panels are read, but do not grow
META = "meta.json"
_BLOCK = 2**16  # bytes in one block of a checksum
_PIECE = 2**24  # bytes of a file that share a checksum
_EARLIER_PIECE = 2**26
_SAMPLES = 64
_SAMPLE = 4096  # bytes of a sample


@dataclass(frozen=True, slots=True)
class Group:
    """The columns of one group."""

    names: tuple[str, ...]
    values: NDArray[Any]
    """(rows, columns), C order; read-only if it is a memory map. Computed panels are float32; that of a user's frame
    (:mod:`~.frame_folder`) has the precision of its columns."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Location and description of a stored panel."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def state(self) -> str:
        """The data from which it was computed; see :meth:`~rollforge.market.provider.Provider.fingerprint`."""
        return str(self.meta.get("state", ""))

    @property
    def version(self) -> list[Any]:
        """Identifier of the build, and number of changes since then."""
        return [self.meta.get("build"), self.meta.get("version")]


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows sorted by (day, instrument), columns in groups."""

    dates: NDArray[np.datetime64]
    """(times,): the days, or the times of intraday bars."""
    offsets: NDArray[np.int64]
    """(times + 1,): time t has the rows ``offsets[t]`` to ``offsets[t + 1]``."""
    codes: tuple[str, ...]
    row_code: NDArray[np.int32]
    """(rows,): position in `codes`."""
    groups: Mapping[str, Group]
    learned: list[dict[str, list[float]]] | None = None
    """What each processor that computed the panel has learned, by attribute; None if that cannot be stored."""
    stored: Stored | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.row_code)

    def rows(self, start: DayLike | None = None, end: DayLike | None = None) -> slice:
        """Return the rows from `start` to `end`, both included; None means open-ended."""
        first = 0 if start is None else start_position(self.dates, start, "start")
        stop = len(self.dates) if end is None else stop_position(self.dates, end, "end")
        return slice(int(self.offsets[first]), int(self.offsets[max(first, stop)]))

    def index(self, rows: slice) -> pd.MultiIndex:
        """Return the (datetime, instrument) index of some rows."""
        first = int(np.searchsorted(self.offsets, rows.start, "right")) - 1
        stop = int(np.searchsorted(self.offsets, rows.stop, "left"))
        edges = np.clip(self.offsets[first : stop + 1], rows.start, rows.stop)
        counts: np.ndarray = edges[1:] - edges[:-1]
        day = np.repeat(np.arange(stop - first, dtype=np.int32), counts)
        return _multi_index(
            [pd.DatetimeIndex(self.dates[first:stop].astype("datetime64[ns]")), _labels(self.codes)],
            [day, self.row_code[rows]],
        )

    def frame(
        self, groups: str | Sequence[str] | None, start: DayLike | None = None, end: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the rows of some days as a frame, without copying the values of a group.

        Parameters
        ----------
        groups : str, sequence of str, or None
            One group gives plain columns; several, or None for all, give columns (group, name).
        start, end : date, optional
            First and last day.

        Raises
        ------
        DataError
            If a group is unknown.
        """
        rows = self.rows(start, end)
        index = self.index(rows)
        for name in [groups] if isinstance(groups, str) else groups or []:
            if name not in self.groups:
                raise DataError(
                    f"There are no columns {name!r}.{nearest(name, self.groups)} Known: {', '.join(self.groups)}."
                )
        if isinstance(groups, str):
            group = self.groups[groups]
            return pd.DataFrame(group.values[rows], index=index, columns=list(group.names), copy=False)
        chosen = tuple((name, self.groups[name].names) for name in (self.groups if groups is None else groups))
        parts = [pd.DataFrame(self.groups[name].values[rows], index=index, copy=False) for name, _ in chosen]
        frame = parts[0] if len(parts) == 1 else pd.concat(parts, axis=1)
        frame.columns = _grouped_labels(chosen).copy()  # whose names may be changed
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Panel:
        """Return a panel of a frame with rows (datetime, instrument); ungrouped columns become the group "feature"."""
        if not isinstance(frame.columns, pd.MultiIndex):
            frame = pd.concat({"feature": frame}, axis=1)
        if not frame.index.is_monotonic_increasing:
            frame = frame.sort_index()
        day_codes, dates = _level(frame.index, "datetime")
        code_codes, codes = _level(frame.index, "instrument")
        groups: dict[str, Group] = {}
        for name in dict.fromkeys(frame.columns.get_level_values(0)):
            part = frame[name]
            values = np.ascontiguousarray(part.to_numpy(), np.float32)
            groups[str(name)] = Group(tuple(map(str, part.columns)), values)
        offsets = np.zeros(len(dates) + 1, np.int64)
        np.cumsum(np.bincount(day_codes, minlength=len(dates)), out=offsets[1:])
        return cls(times_of(dates), offsets, tuple(map(str, codes)), code_codes.astype(np.int32), groups)

    def with_groups(self, other: Panel, rows: NDArray[np.int64], folder: Path) -> Panel:
        """Return this panel with the additional groups of `other`, in the order of `other`.

        Parameters
        ----------
        other : Panel
            Source of the additional groups.
        rows : int64 array, (rows of this panel,)
            Positions of this panel's rows in `other`, ascending.
        folder : path
            Folder that the values are written to.
        """
        groups = {}
        for place, (name, group) in enumerate(other.groups.items()):
            if name in self.groups:
                groups[name] = self.groups[name]
                continue
            file = RowFile(group_file(folder, place), len(rows), len(group.names))
            # Most rows are kept, so there are few pieces, and copying them needs no memory.
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            for at, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
                file.copy(at, group.values, int(rows[at]), int(rows[stop - 1]) + 1)
            groups[name] = Group(group.names, file.finished())
        return replace(self, groups=groups)

    def save(self, folder: Path, state: str = "", base: Sequence[object] | None = None) -> None:
        """Write the panel into `folder`; groups that are already mapped from there are not rewritten.

        Parameters
        ----------
        folder : path
            An existing folder.
        state : str
            The data from which it was computed.
        base : sequence, optional
            Version of the panel from which it was computed.
        """
        np.save(folder / "dates.npy", self.dates)
        np.save(folder / "offsets.npy", self.offsets)
        np.save(folder / "row_code.npy", self.row_code)
        listed = []
        for i, (name, group) in enumerate(self.groups.items()):
            file = group_file(folder, i)
            if not _is_mapped_from(group.values, file):
                np.save(file, group.values)
            listed.append({
                "name": name, "columns": group.names, "file": file.name, "offset": _data_offset(file),
                "dtype": group.values.dtype.str,
            })  # fmt: skip
        meta = {
            "format": FORMAT, "codes": self.codes, "rows": len(self), "groups": listed, "dates": "dates.npy",
            "offsets": "offsets.npy", "row_code": {"file": "row_code.npy", "offset": _data_offset(folder / "row_code.npy")},
            "files": {p.name: file_notes(p) for p in sorted(folder.glob("*.npy"))},
            "state": state, "build": uuid.uuid4().hex, "version": 0, "changes": [], "base": base, "learned": self.learned,
        }  # fmt: skip
        write_meta(folder, meta)

    @classmethod
    def load(cls, folder: Path, *, written: bool = False) -> Panel | None:
        """Return the memory-mapped panel in `folder`; None if it is missing, damaged, or of another format.

        Parameters
        ----------
        folder : path
            The panel's folder.
        written : bool
            Whether this process has just written it, so that its files need not be checked.
        """
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            if meta["format"] not in (FORMAT, _EARLIER):
                return None
            for name, noted in meta["files"].items():
                if not written and not _is_intact(folder / name, noted):
                    log.warning("panel %s: %s is damaged; it is rebuilt", folder.name, name)
                    return None
            with contextlib.suppress(OSError):  # a read-only cache is checked each time
                (folder / _verified_mark()).touch()
            found = cls._mapped(folder, meta) if meta["format"] == FORMAT else cls._earlier(folder, meta)
            now = json.loads((folder / META).read_text(encoding="utf-8"))
            return found if now.get("build") == meta.get("build") else None  # rebuilt while it was being mapped
        except Exception:  # noqa: BLE001 - damaged bytes can raise anything; the panel is rebuilt
            return None

    @classmethod
    def _mapped(cls, folder: Path, meta: Mapping[str, Any]) -> Panel:
        rows = int(meta["rows"])
        groups = {}
        for g in meta["groups"]:
            shape = (rows, len(g["columns"]))
            values = mapped_rows(folder / g["file"], int(g["offset"]), shape, g.get("dtype", "<f4"))
            groups[g["name"]] = Group(tuple(g["columns"]), values)
        dates, offsets = (np.load(folder / meta[name]) for name in ("dates", "offsets"))
        place = meta["row_code"]
        row_code = np.fromfile(folder / place["file"], "<i4", rows, offset=int(place["offset"]))
        if rows < 1 or len(row_code) != rows or offsets[-1] != rows or len(offsets) != len(dates) + 1:
            raise ValueError("its files do not match")
        return cls(dates, offsets, tuple(meta["codes"]), row_code, groups, meta["learned"], Stored(folder, meta))

    @classmethod
    def _earlier(cls, folder: Path, meta: Mapping[str, Any]) -> Panel:
        groups = {
            g["name"]: Group(tuple(g["columns"]), np.load(folder / g["file"], mmap_mode="r")) for g in meta["groups"]
        }
        small = [np.load(folder / f"{name}.npy") for name in ("dates", "offsets", "row_code")]
        return cls(small[0], small[1], tuple(meta["codes"]), small[2], groups)


def write_meta(folder: Path, meta: Mapping[str, object]) -> None:
    """Write the description of a panel atomically, which makes it the current version."""
    (folder / _verified_mark()).touch()
    draft = folder / f".{uuid.uuid4().hex}"
    draft.write_text(json.dumps(meta), encoding="utf-8")
    draft.replace(folder / META)


def file_notes(file: Path, size: int | None = None, known: Sequence[Any] = ()) -> list[Any]:
    """Return what is recorded about a file: size, modification time, a checksum of samples, and those of all its
    pieces.

    Parameters
    ----------
    file : path
        The file.
    size : int, optional
        Number of bytes that belong to the panel; by default all of them.
    known : sequence, optional
        The record of a shorter version of the file, whose complete pieces have not changed.
    """
    state = _file_state(file, size)
    full = int(known[0]) // _PIECE if known else 0
    return [*state, [*(known[3][:full] if known else []), *_checksums(file, state[0], full)]]


def _data_offset(file: Path) -> int:
    """Return where the values of an ``.npy`` file begin."""
    with file.open("rb") as handle:
        np.lib.format.read_magic(handle)
        np.lib.format.read_array_header_1_0(handle)
        return handle.tell()


def _is_mapped_from(values: np.ndarray, file: Path) -> bool:
    """Return whether an array is mapped from this file: writing the file would truncate its data first."""
    return isinstance(values, np.memmap) and file.exists() and os.path.samefile(str(values.filename), file)


def _level(index: pd.Index, name: str) -> tuple[np.ndarray, pd.Index]:
    """Return the code of each row's value, and the distinct values of a level in ascending order."""
    if not isinstance(index, pd.MultiIndex):
        codes, found = pd.factorize(index.get_level_values(name), sort=True)
        return codes, found
    at = index.names.index(name)
    level, codes = index.levels[at], np.asarray(index.codes[at])
    if not level.is_monotonic_increasing:
        codes, found = pd.factorize(index.get_level_values(name), sort=True)
        return codes, found
    there = np.zeros(len(level), bool)
    there[codes] = True
    return (np.cumsum(there) - 1)[codes], level[there]


# The windows of a job have the same labels. Making them takes longer than making a frame, and pandas keeps with an index
# what it has computed to look up labels in it.
@functools.lru_cache(16)
def _labels(names: tuple[str, ...]) -> pd.Index:
    return pd.Index(names)


@functools.lru_cache(16)
def _grouped_labels(groups: tuple[tuple[str, tuple[str, ...]], ...]) -> pd.MultiIndex:
    """Return the columns (group, name) of several groups."""
    return pd.MultiIndex.from_tuples([(group, name) for group, names in groups for name in names])


def _multi_index(levels: list[Any], codes: list[Any]) -> pd.MultiIndex:
    names = ["datetime", "instrument"]
    return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=False)


def _file_state(file: Path, size: int | None = None) -> list[int]:
    """Return the size, the modification time and a checksum of 64 samples of a file: cheap enough for every opening."""
    about = file.stat()
    mark, size = 0, about.st_size if size is None else size
    with file.open("rb") as handle:
        for at in sorted({*range(0, size, max(_SAMPLE, size // _SAMPLES)), max(0, size - _SAMPLE)}):
            handle.seek(at)
            mark = zlib.crc32(handle.read(min(_SAMPLE, size - at)), mark)
    return [size, about.st_mtime_ns, mark]


def _checksum(file: Path) -> int:
    """Return the checksum of a file of a panel of the earlier format."""
    pieces = range(0, max(1, file.stat().st_size), _EARLIER_PIECE)
    marks = [_checksum_of_piece(file, at, _EARLIER_PIECE) for at in pieces]
    return zlib.crc32(np.array(marks, np.uint32).tobytes())


def _checksums(file: Path, size: int, first: int = 0) -> list[int]:
    """Return the checksums of the pieces of a file from piece `first` on, computed in parallel."""
    starts = range(first * _PIECE, size, _PIECE)
    if len(starts) < 2:
        return [_checksum_of_piece(file, at, size - at) for at in starts]
    with ThreadPoolExecutor(min(4, available_cores(), len(starts))) as pool:
        return list(pool.map(lambda at: _checksum_of_piece(file, at, min(_PIECE, size - at)), starts))


def _checksum_of_piece(file: Path, start: int, size: int) -> int:
    """Return a checksum of block sums, which numpy computes at memory speed."""
    mark = 0
    numbers = np.empty(16 * _BLOCK // 8, np.uint64)
    content = numbers.data.cast("B")
    with file.open("rb") as handle:  # read, not mapped: mapped pages would count as memory of this process
        handle.seek(start)
        for at in range(0, size, content.nbytes):
            got = handle.readinto(content[: min(content.nbytes, size - at)])
            blocks = got // _BLOCK
            sums = numbers[: blocks * _BLOCK // 8].reshape(blocks, -1).sum(axis=1) if blocks else numbers[:0]
            mark = zlib.crc32(content[blocks * _BLOCK : got], zlib.crc32(sums.tobytes(), mark))
            if got < content.nbytes:
                break
    return mark


def _is_intact(file: Path, noted: Sequence[Any]) -> bool:
    """Return whether a file matches its recorded state."""
    size, time_ns, mark, checksum = noted
    if isinstance(checksum, list) and file.stat().st_size < size:  # uncommitted rows may follow
        return False
    state = _file_state(file, size if isinstance(checksum, list) else None)
    if state[0] != size:
        return False
    # Earlier versions sampled small files differently.
    verified = state[1:] == [time_ns, mark] and (file.parent / _verified_mark()).exists()
    return verified or (_checksums(file, size) if isinstance(checksum, list) else _checksum(file)) == checksum


@functools.cache
def _verified_mark() -> str:
    """Return the name of the empty file that marks a panel as verified since the last boot."""
    try:
        return f"checked-{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return "checked"  # no boot id on this system
