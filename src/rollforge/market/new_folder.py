"""Create a data folder atomically, and summarise its content."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rollforge.dates import show_time
from rollforge.disk import sync, sync_file_system
from rollforge.errors import DataError
from rollforge.market.folder_change import exchange, folder_lock, remove_folder
from rollforge.paths import read_path

__all__ = ["FolderSummary", "new_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSummary:
    """Summary of a new data folder."""

    path: Path
    instruments: int
    """Number of instruments, including those in no universe."""
    days: int
    """Length of the calendar."""
    fields: tuple[str, ...]
    first: np.datetime64
    """First trading day, or bar."""
    last: np.datetime64
    """Last trading day, or bar."""
    rows: int
    """Number of instrument-days between the first and the last day of each instrument."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Field -> number of `rows` without a value."""
    freq: str = "day"
    """Frequency of the values, such as ``60min``."""
    notes: tuple[str, ...] = ()
    """Notes on computed and omitted fields."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name -> column of the table that it was read from, where they differ in more than case."""

    def __str__(self) -> str:
        """Return the summary in one line, followed by one line per note."""
        gaps = max(self.missing.values(), default=0)
        days = f"day{'s' * (self.days != 1)}" if self.freq == "day" else f"bar{'s' * (self.days != 1)} of {self.freq}"
        instruments = f"instrument{'s' * (self.instruments != 1)}"
        lines = [
            f"{self.instruments} {instruments} x {self.days} {days}, {show_time(self.first)} to {show_time(self.last)}, "
            f"fields {', '.join(self.fields)}; {gaps} of {self.rows} rows with gaps"
        ]
        return "\n  ".join([*lines, *self.notes])


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Provide a temporary folder, and move it to `path` if the block succeeds.

    Parameters
    ----------
    path : path
        Path of the new folder. Missing parents are created.
    overwrite : bool
        True replaces an existing data folder; nothing else is ever replaced.

    Raises
    ------
    DataError
        If `path` exists and may not be replaced, or is not writable. Nothing is changed.
    """
    target = read_path(path).absolute()
    _check_target(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as exc:
        raise DataError(f"{target} cannot be created: {exc.strerror} ({exc.filename}).") from exc
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())  # mkdtemp restricts it to this user
        _put(draft, target)
    except OSError as exc:
        raise DataError(f"{target} cannot be written: {exc.strerror or exc}. Nothing was changed.") from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise DataError(f"{target} is a file. Give the path of a new folder.")
    if not (target / "calendars").is_dir():
        raise DataError(f"{target} exists and is not a data folder, so it is not replaced. Give another folder.")
    if not overwrite:
        raise DataError(
            f"{target} already exists. Give another folder, or replace it with --overwrite (in Python: overwrite=True)."
        )


def _put(draft: Path, target: Path) -> None:
    """Move `draft` to `target`; a folder that is already there is deleted afterwards."""
    if not target.is_dir():
        draft.rename(target)
        return
    with folder_lock(Path(os.path.realpath(target))):
        sync_file_system(draft)  # otherwise a power failure could replace good files by empty ones
        exchange(draft, target)
        sync(target.parent)
    with contextlib.suppress(OSError):
        remove_folder(draft)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
