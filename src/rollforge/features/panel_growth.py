"""Growth of a stored panel: only rows that are new or have changed are written.

The values of all days are computed again, because rolling sums and the like depend on where they start, and are
compared with those on disk. A file whose rows are unchanged is extended at its end, where no reader of an earlier
version looks; if rows have changed, the file is copied up to the first of them, and readers of the earlier version keep
the old one. The new description commits everything atomically (:func:`~rollforge.features.panel.write_meta`).

Each change records the first day that it affected, by group of columns. A panel that processors compute from another
one (:mod:`~rollforge.features.panel_processing`) therefore has to be processed again only from that day on, if the
processors need only some earlier days (``Processor.earlier_days``) and their fit windows end before it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.features.panel import META, Panel, Stored, file_notes, write_meta
from rollforge.features.row_file import Pieces, RowFile, RowSink

__all__ = ["ComparedRows", "GrownGroup", "Index", "TailOfFile", "commit", "first_change", "first_changed_day"]

_CHANGES_KEPT = 1000
_COMPARED = 2**20  # bytes that are read and compared together


@dataclass(frozen=True, slots=True)
class Index:
    """The rows of a panel; see :class:`~rollforge.features.panel.Panel`."""

    dates: NDArray[np.datetime64]
    offsets: NDArray[np.int64]
    codes: tuple[str, ...]
    row_code: NDArray[np.int32]

    @classmethod
    def of(cls, panel: Panel) -> Index:
        """Return the rows of a panel."""
        return cls(panel.dates, panel.offsets, panel.codes, panel.row_code)


@dataclass(frozen=True, slots=True)
class GrownGroup:
    """The new values of a group of columns."""

    first: int
    """Rows before this one are those on disk."""
    rows: NDArray[np.float32]
    """The rows from `first` on."""
    file: Path | None = None
    """A file in the panel's folder that already contains all rows."""


class ComparedRows(RowSink):
    """Compares rows with those of a file, and keeps the last rows.

    Parameters
    ----------
    old : float32 array, (rows, columns)
        Memory map of the file.
    shape : tuple
        Rows and columns of the new matrix.
    tail : int
        Rows from this one on are kept.
    """

    def __init__(self, old: NDArray[np.float32], shape: tuple[int, int], tail: int) -> None:
        assert isinstance(old, np.memmap)
        self.shape = shape
        self.first = min(len(old), shape[0])
        """The first row that differs, or is new."""
        self.tail = tail
        self._kept = np.empty((shape[0] - tail, shape[1]), np.float32)
        self._rows, self._offset = len(old), int(old.offset)
        self._name = str(old.filename)
        self._file = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC)  # mapped pages would count as memory
        self._lock = threading.Lock()

    def put(self, at: int, rows: NDArray[np.float32]) -> None:
        """Compare some rows, starting at row `at`."""
        self.put_pieces([(at, 0, len(rows))], rows)

    def put_pieces(self, pieces: Pieces, rows: NDArray[np.float32]) -> None:
        """Compare rows that do not follow each other in the file."""
        common: list[tuple[int, int, int]] = []
        for at, start, stop in pieces:
            if at + stop - start > self.tail:
                low = max(at, self.tail)
                self._kept[low - self.tail : at + stop - start - self.tail] = rows[start + low - at : stop]
            both = min(at + stop - start, self._rows, self.first) - at
            if both > 0:
                common.append((at, start, start + both))
        for batch in _batches(common, max(1, _COMPARED // (4 * self.shape[1]))):
            self._compare(batch, rows)

    def _compare(self, pieces: Pieces, rows: NDArray[np.float32]) -> None:
        count = sum(stop - start for _, start, stop in pieces)
        old = np.empty((count, self.shape[1]), "<f4")
        memory, row, filled = old.data.cast("B"), 4 * self.shape[1], 0
        for at, start, stop in pieces:
            size = (stop - start) * row
            read = os.preadv(self._file, [memory[filled : filled + size]], self._offset + at * row)
            if read != size:
                raise OSError(errno.EIO, "the file is truncated", self._name)
            filled += size
        (_, first, _), (_, _, last) = pieces[0], pieces[-1]
        new = rows[first:last] if last - first == count else np.concatenate([rows[a:b] for _, a, b in pieces])
        changed = changed_rows(old, new)
        if changed.size:
            places = np.concatenate([np.arange(at, at + stop - start) for at, start, stop in pieces])
            with self._lock:
                self.first = min(self.first, int(places[changed].min()))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def result(self) -> GrownGroup | None:
        """The group; None if rows before those that were kept have changed."""
        return None if self.first < self.tail else GrownGroup(self.first, self._kept[self.first - self.tail :])


class TailOfFile(RowSink):
    """A new file with the first rows of another one; only later rows are written.

    Parameters
    ----------
    file : path
        File to create.
    old : float32 array, (rows, columns)
        Memory map of the other file.
    shape : tuple
        Rows and columns of the new matrix.
    first : int
        Number of rows that are copied.
    """

    def __init__(self, file: Path, old: NDArray[np.float32], shape: tuple[int, int], first: int) -> None:
        self._file = RowFile(file, *shape)
        self.shape, self._first = shape, first
        if first:
            try:
                self._file.copy(0, old, 0, first)
            except BaseException:
                self.close()
                raise

    def put(self, at: int, rows: NDArray[np.float32]) -> None:
        """Write some rows, starting at row `at`."""
        skipped = max(0, self._first - at)
        if skipped < len(rows):
            self._file.put(at + skipped, rows[skipped:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def result(self) -> GrownGroup:
        """The group."""
        values = self._file.finished()
        return GrownGroup(self._first, values[self._first :], self._file.file)


def changed_rows(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the positions of the rows that differ in any bit, except that all NaN are equal; the shapes are equal."""
    one, two = np.ascontiguousarray(old), np.ascontiguousarray(new)
    at = np.flatnonzero((one.view(np.int32) != two.view(np.int32)).any(axis=1))
    left, right = one[at], two[at]
    real = ((left.view(np.int32) != right.view(np.int32)) & ~(np.isnan(left) & np.isnan(right))).any(axis=1)
    changed: NDArray[np.int64] = at[real]
    return changed


def first_change(old: NDArray[np.float32], new: NDArray[np.float32]) -> int:
    """Return the first of the common rows that differs (:func:`changed_rows`); their number if none does."""
    common = min(len(old), len(new))
    changed = changed_rows(old[:common], new[:common])
    return int(changed[0]) if changed.size else common


def _batches(pieces: Pieces, size: int) -> Iterator[Pieces]:
    """Yield the pieces in batches of about `size` rows, but of at least one piece each."""
    batch: list[tuple[int, int, int]] = []
    count = 0
    for piece in pieces:
        batch.append(piece)
        count += piece[2] - piece[1]
        if count >= size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _first_other_day(old: Index, new: Index) -> np.datetime64 | None:
    """Return the first day whose rows differ; None if there is none."""
    days = min(len(old.dates), len(new.dates))
    same = (old.dates[:days] == new.dates[:days]) & (old.offsets[1 : days + 1] == new.offsets[1 : days + 1])
    days = days if same.all() else int(np.argmin(same))
    rows = int(new.offsets[days])
    place = {code: i for i, code in enumerate(new.codes)}
    other_codes = np.array([place.get(code, -1) for code in old.codes], np.int64)
    differs = other_codes[old.row_code[:rows]] != new.row_code[:rows]
    if differs.any():
        days = int(np.searchsorted(new.offsets, int(np.argmax(differs)), "right")) - 1
    there = [index.dates[days] for index in (old, new) if days < len(index.dates)]
    return min(there) if there else None


def _day_of_row(index: Index, row: int) -> np.datetime64 | None:
    rows = int(index.offsets[-1])
    return index.dates[int(np.searchsorted(index.offsets, row, "right")) - 1] if row < rows else None


def commit(old: Panel, new: Index, groups: Mapping[str, GrownGroup], state: str, base: Sequence[object] | None) -> None:
    """Make new rows the current version of a stored panel.

    Parameters
    ----------
    old : Panel
        The current version, as it was loaded.
    new : Index
        The new rows.
    groups : mapping
        The new values of all groups.
    state, base
        See :meth:`Panel.save`.
    """
    assert old.stored is not None
    folder, meta = old.stored.folder, dict(old.stored.meta)
    before = Index.of(old)
    moved = _first_other_day(before, new)
    touched: dict[str, str] = {}
    for name, grown in groups.items():
        days = [moved, _day_of_row(before, grown.first), _day_of_row(new, grown.first)]
        known = [day for day in days if day is not None]
        if known:
            touched[name] = str(min(known))
    if not touched and new.codes == before.codes:
        write_meta(folder, {**meta, "state": state, "base": base})
        return
    version = int(meta["version"]) + 1
    files = dict(meta["files"])
    entries = []
    for place, entry in enumerate(meta["groups"]):
        grown = groups[entry["name"]]
        name = f"group{place}-{version}.npy"
        values = old.groups[entry["name"]].values
        entries.append(_extended(folder, entry, files, meta, name, values, grown.first, grown.rows, grown.file))
    codes = old.row_code if new.codes == before.codes else np.full(0, -1, np.int32)
    common = min(len(codes), len(new.row_code))
    same = codes[:common] == new.row_code[:common]
    first = common if same.all() else int(np.argmin(same))
    row_code = _extended(
        folder, meta["row_code"], files, meta, f"row_code-{version}.npy", codes.reshape(-1, 1), first,
        new.row_code[first:].reshape(-1, 1), None,
    )  # fmt: skip
    small = {}
    for name, array in (("dates", new.dates), ("offsets", new.offsets)):
        file = folder / f"{name}-{version}.npy"
        np.save(file, array)
        files[file.name], small[name] = file_notes(file), file.name
    used = {entry["file"] for entry in [*entries, row_code]} | set(small.values())
    write_meta(
        folder,
        {
            **meta, **small, "codes": new.codes, "rows": len(new.row_code), "groups": entries, "row_code": row_code,
            "files": {name: notes for name, notes in files.items() if name in used}, "state": state, "base": base,
            "version": version, "changes": [*meta["changes"], [version, touched]][-_CHANGES_KEPT:],
        },
    )  # fmt: skip
    _clean(folder, used)


def _extended(
    folder: Path,
    entry: Mapping[str, Any],
    files: dict[str, Any],
    meta: Mapping[str, Any],
    name: str,
    values: NDArray[Any],
    first: int,
    rows: NDArray[Any],
    finished: Path | None,
) -> dict[str, Any]:
    """Write rows after the first `first` ones, and return the new entry of the file."""
    width = rows.shape[1]
    written = int(entry.get("written", meta["rows"]))
    file = folder / entry["file"] if finished is None else finished
    if finished is None and first == written:
        if len(rows):
            size = int(entry["offset"]) + 4 * width * written
            with file.open("r+b") as handle:
                handle.seek(size)
                handle.write(np.ascontiguousarray(rows).data.cast("B"))
            files[file.name] = file_notes(file, size + 4 * rows.size, files[file.name])
        return {**entry, "written": written + len(rows)}
    if finished is None and not len(rows):
        return {**entry, "written": written}  # fewer rows: the others stay, because readers may have them open
    if finished is None:
        file = folder / name
        with contextlib.closing(RowFile(file, first + len(rows), width)) as made:
            if first:
                made.copy(0, values.view(np.float32) if values.dtype == np.int32 else values, 0, first)
            made.put(first, rows.view(np.float32))
    files[file.name] = file_notes(file)
    return {**entry, "file": file.name, "offset": files[file.name][0] - 4 * width * (first + len(rows)),
            "written": first + len(rows)}  # fmt: skip


def _clean(folder: Path, used: set[str]) -> None:
    """Delete files of earlier versions and of killed processes; processes that have mapped them keep their pages."""
    for entry in os.scandir(folder):
        if entry.name not in used and entry.name != META and not entry.name.startswith("checked"):
            Path(entry.path).unlink(missing_ok=True)


def first_changed_day(now: Stored, version: Sequence[object] | None, groups: Sequence[str]) -> np.datetime64 | bool:
    """Return the first day on which some groups have changed since a version of a panel.

    Returns
    -------
    datetime64 or bool
        True if none has changed, False if that is not known.
    """
    build, number = now.version
    if not version or version[0] != build:
        return False
    later = [change for change in now.meta["changes"] if change[0] > version[1]]
    if len(later) != number - version[1]:
        return False
    days = [np.datetime64(touched[name], "D") for _, touched in later for name in groups if name in touched]
    return min(days) if days else True
