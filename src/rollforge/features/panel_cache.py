"""Cache of panels on disk, shared by all processes: found by key, built once, evicted least recently used first."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollforge.errors import DataError, counted
from rollforge.features.panel import META, Panel
from rollforge.market.folder_change import place_lock, written_whole

__all__ = ["PanelCache", "PanelInfo", "clear_panels", "list_panels"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PanelInfo:
    """One panel on disk."""

    key: str
    rows: int
    columns: int
    bytes: int
    used_at: float
    """Seconds since the epoch."""


_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class PanelCache:
    """The panels in a folder.

    Parameters
    ----------
    folder : path
        The session's cache folder; panels are stored in its subfolder ``panels/``.
    limit : int
        Maximum size of all panels together, in bytes.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int) -> None:
        self.root = Path(folder) / "panels"
        self.limit = limit

    def get(
        self,
        key: str,
        build: Callable[[Path], Panel],
        state: str = "",
        grow: Callable[[Panel], bool] | None = None,
        base: Callable[[], Sequence[object] | None] | None = None,
    ) -> Panel:
        """Return the panel of `key`; if it is missing, `build` builds it in the folder passed to it.

        Parameters
        ----------
        key : str
            What determines the panel, apart from the data.
        build : callable
            Computes the panel; it may write values into the folder.
        state : str
            The state of the data. A panel of other data grows or is rebuilt.
        grow : callable, optional
            Turns a panel of other data into one of these data, and returns True; False if it must be rebuilt.
        base : callable, optional
            Returns the version of the panel from which it is computed.

        Raises
        ------
        DataError
            If the cache folder is not writable; the message has the setting for another folder.
        OSError
            As `build` or `grow` raise it about other files, or about a connection.
        """
        place = self.root / key
        seen, there = _version(place), _load(place)
        panel = _of_state(there, state)
        if panel is None:
            self._create()
            try:
                with place_lock(place):
                    if there is None or seen != _version(place):  # another process was faster
                        there = _load(place)
                        panel = _of_state(there, state)
                    if panel is None and there is not None and there.stored is not None and grow is not None:
                        panel = self._grown(there, grow)
                    panel = panel or self._build(place, build, state, base)
            except OSError as exc:
                if not self._caused(exc):
                    raise
                raise self._unwritable(exc) from exc
        with contextlib.suppress(OSError):  # a read-only cache can still be used
            os.utime(place / META)
        return panel

    def _create(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _caused(self, exc: OSError) -> bool:
        """Return whether an error is about the cache, and not about what a user's loader or processor reads."""
        if isinstance(exc.filename, (str, bytes, os.PathLike)):
            return Path(os.path.abspath(os.fsdecode(exc.filename))).is_relative_to(os.path.abspath(self.root))
        by_numpy = "requested and" in str(exc)  # what it says of values that it could not write
        return exc.errno in _OF_A_DISK or by_numpy

    def _unwritable(self, exc: OSError) -> DataError:
        return DataError(
            f"The panel cache {self.root} cannot be written: {exc.strerror or exc}. Choose another folder "
            "with ROLLFORGE_CACHE or 'rollforge: {cache: FOLDER}'."
        )

    def _grown(self, panel: Panel, grow: Callable[[Panel], bool]) -> Panel | None:
        """Return the panel after it has grown; None if it must be rebuilt."""
        assert panel.stored is not None
        began = time.perf_counter()
        if not grow(panel):
            return None
        place = panel.stored.folder
        made = Panel.load(place, written=True)
        if made is not None:
            rows, seconds = len(made.row_code) - len(panel.row_code), time.perf_counter() - began
            log.info("panel %s: %d more rows in %.1f s", place.name[:12], rows, seconds)
            self.shrink({place.name})
        return made

    def _build(
        self,
        place: Path,
        build: Callable[[Path], Panel],
        state: str,
        base: Callable[[], Sequence[object] | None] | None,
    ) -> Panel:
        log.info("computing panel %s, once for these data and this definition", place.name[:12])
        began = time.perf_counter()
        with written_whole(place) as draft:
            build(draft).save(draft, state, None if base is None else base())
        self.shrink({place.name})
        panel = Panel.load(place, written=True)
        if panel is None:
            raise DataError(f"The panel {place} cannot be read after it was written. Check that the disk is not full.")
        columns = sum(len(g.names) for g in panel.groups.values())
        seconds = time.perf_counter() - began
        log.info("panel %s: %d rows of %d columns in %.1f s", place.name[:12], len(panel.row_code), columns, seconds)
        return panel

    def shrink(self, keep: Collection[str] = ()) -> None:
        """Delete the panels that were not used for longest, until the limit is met.

        Panels that another process is building or adding rows to are kept.

        Parameters
        ----------
        keep : collection of str
            Keys of panels that are kept.
        """
        listed = self.list()
        total = sum(p.bytes for p in listed)
        for panel in reversed(listed):
            if total <= self.limit:
                break
            if panel.key not in keep:
                with contextlib.suppress(OSError):  # being written, or of another user
                    self._delete(panel.key, (self.root / panel.key, *self.root.glob(f".{panel.key}-*")))
                    total -= panel.bytes

    def _delete(self, key: str, folders: Iterable[Path]) -> None:
        """Delete a panel, what killed processes have left of it, and its lock, unless a process is writing it."""
        with place_lock(self.root / key, wait=False) as lock:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            lock.unlink()

    def list(self) -> list[PanelInfo]:
        """Return the panels on disk, most recently used first."""
        found = []
        for meta_file in self.root.glob(f"[!.]*/{META}"):
            try:
                meta = json.loads(meta_file.read_text(encoding="utf-8"))
                rows = meta.get("rows") or np.load(meta_file.parent / "row_code.npy", mmap_mode="r").shape[0]
                used = meta_file.stat().st_mtime
                size = sum(int(noted[0]) for noted in meta["files"].values())
                columns = sum(len(g["columns"]) for g in meta["groups"])
            except Exception:  # noqa: BLE001 - being removed by another process, or damaged
                continue
            found.append(PanelInfo(meta_file.parent.name, rows, columns, size, used))
        return sorted(found, key=lambda p: p.used_at, reverse=True)

    def clear(self) -> int:
        """Delete all panels, except those that a process is writing, and return the number of bytes freed.

        Raises
        ------
        DataError
            If one cannot be deleted for another reason.
        """
        sizes, used = {panel.key: panel.bytes for panel in self.list()}, 0
        try:
            for key, folders in self._folders().items():
                try:
                    self._delete(key, folders)
                except BlockingIOError:
                    used += 1
                    sizes.pop(key, None)
        except OSError as exc:
            raise DataError(f"The panel cache {self.root} cannot be cleared: {exc.strerror} ({exc.filename}).") from exc
        finally:
            _opened.clear()  # the space of a deleted file is free when no process has it open
        if used:
            log.warning("%s kept, because a process is writing there", counted(used, "panel"))
        return sum(sizes.values())

    def _folders(self) -> dict[str, builtins.list[Path]]:
        """Map the key of each panel, of each draft of one and of each lock to its folders."""
        found: dict[str, builtins.list[Path]] = {}
        for entry in os.scandir(self.root) if self.root.exists() else ():
            is_lock = entry.name.startswith(".") and entry.name.endswith(".lock")
            key = entry.name.removesuffix(".lock").removeprefix(".").partition("-")[0]
            if key.isalnum() and (is_lock or entry.is_dir()):
                found.setdefault(key, []).extend([] if is_lock else [Path(entry)])
        return found


def _version(place: Path) -> tuple[int, int] | None:
    """Return a value that changes when another version of a panel is written; None if there is no panel."""
    try:
        about = (place / META).stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Opened:
    """A panel that this process has opened."""

    meta: bytes
    """The description that it was opened with. Its file's time is that of its last use."""
    files: list[tuple[int, int, int]]
    """Inode, size and time of each of its other files."""
    panel: Panel


_opened: dict[Path, _Opened] = {}
"""The panels that this process has opened last."""
_OPENED = 2


def _load(place: Path) -> Panel | None:
    """Return the panel in a folder as :meth:`Panel.load` does, or as this process has opened it for an earlier task.

    Its pages are then mapped already, and its files, which were checked, need not be checked again.
    """
    meta, opened = _description(place), _opened.pop(place, None)
    if opened is None or opened.meta != meta or opened.files != _files(place, opened.panel):
        panel = Panel.load(place)
        # If it has grown meanwhile, the files may be those of the next version.
        if meta is None or panel is None or panel.stored is None or _description(place) != meta:
            return panel
        opened = _Opened(meta, _files(place, panel), panel)
    _opened[place] = opened
    for earlier in list(_opened)[:-_OPENED]:
        _opened.pop(earlier, None)
    return opened.panel


def _description(place: Path) -> bytes | None:
    """Return the content of the file that describes a panel; None if there is none."""
    try:
        return (place / META).read_bytes()
    except OSError:
        return None


def _files(place: Path, panel: Panel) -> list[tuple[int, int, int]]:
    """Return what shows that a file of a panel has changed or is another one; empty if one is missing."""
    assert panel.stored is not None
    try:
        found = [(place / name).stat() for name in panel.stored.meta["files"]]
    except OSError:
        return []
    return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found]


def _of_state(panel: Panel | None, state: str) -> Panel | None:
    if panel is None or state in ("", panel.stored.state if panel.stored is not None else ""):
        return panel
    return None


def list_panels(cache: str | os.PathLike[str]) -> list[PanelInfo]:
    """Return the panels in a cache folder, most recently used first."""
    return PanelCache(cache, 0).list()


def clear_panels(cache: str | os.PathLike[str]) -> int:
    """Delete the panels of a cache folder and return the number of bytes freed."""
    return PanelCache(cache, 0).clear()
