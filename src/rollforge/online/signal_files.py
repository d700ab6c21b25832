"""Signals in Parquet files, each written once: completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from rollforge.disk import sync
from rollforge.errors import ArtifactUnreadable, DataError
from rollforge.ledger.entry import Shadow, Signal

__all__ = ["content", "days_of", "file_of", "read", "remove_drafts", "rows_of", "scores", "unreadable", "write"]


Signals = pd.Series | pd.DataFrame


def days_of(signals: Signals) -> list[str]:
    """Return the days of signals as text, in order."""
    return [str(day.date()) for day in sorted(pd.DatetimeIndex(signals.index.get_level_values("datetime")).unique())]


def rows_of(signals: Signals, days: Collection[str]) -> Signals:
    """Return the rows of some days, sorted by index."""
    inside = signals.index.get_level_values("datetime").isin(pd.DatetimeIndex(list(days)))
    kept = signals[inside]
    return kept if kept.index.is_monotonic_increasing else kept.sort_index()


def write(folder: Path, name: str, signals: pd.Series | pd.DataFrame, inside: str = "signals") -> tuple[str, str]:
    """Write a file, and return its path relative to `folder` and its SHA-256.

    An existing file with the same bytes is reused. A file with different bytes, left by a process that was killed before it
    appended its entry or that lost its lease, is kept too, and the new file gets another name.

    Parameters
    ----------
    folder : Path
        Folder of the service.
    name : str
        Name of the file without its suffix, ``2024-05-31.v1``.
    signals : Series or DataFrame
        Its contents.
    inside : str
        Name of the folder in `folder`.

    Raises
    ------
    DataError
        If the signals cannot be stored as a table.
    """
    from rollforge.track.frame import to_arrow, write_table

    table = to_arrow(signals)
    if table is None:
        raise DataError(f"Signals must be a table of plain values, found the types {_types(signals)}.")
    target = folder / inside
    target.mkdir(parents=True, exist_ok=True)
    draft = target / f".{uuid.uuid4().hex}.part"
    try:
        write_table(table, draft)
        sync(draft)
        content = draft.read_bytes()
        mark = hashlib.sha256(content).hexdigest()
        for file in (f"{name}.parquet", f"{name}.{mark[:12]}.parquet"):
            if _put(draft, target / file) or (target / file).read_bytes() == content:
                draft.unlink(missing_ok=True)
                for place in (target, folder, folder.parent):  # they may be new
                    sync(place)
                return f"{inside}/{file}", mark
    finally:
        draft.unlink(missing_ok=True)
    raise DataError(
        f"{target / file} exists, but its contents do not have the hash in its name. Move it away, and run the service again."
    )


def remove_drafts(folder: Path) -> None:
    """Remove incomplete files left by killed processes. The caller holds the lease of the service."""
    for inside in ("signals", "shadow"):
        for file in (folder / inside).glob(".*.part"):
            with contextlib.suppress(OSError):  # a folder that this user cannot change; the files are not read
                file.unlink()


def _put(draft: Path, file: Path) -> bool:
    """Give a file the contents of a draft unless it already exists; return whether it was created."""
    try:
        os.link(draft, file)  # fails if it exists, as a rename does not
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if file.exists():
            return False
        os.replace(draft, file)
    return True


def _types(signals: object) -> str:
    found = [signals.dtype] if isinstance(signals, pd.Series) else getattr(signals, "dtypes", [type(signals).__name__])
    return ", ".join(map(str, found))


def file_of(folder: Path, signal: Signal | Shadow) -> pd.Series | pd.DataFrame:
    """Return the contents of a signal's file, which may contain other days too.

    Raises
    ------
    ArtifactUnreadable
        If the file is missing, or was changed since it was published.
    """
    from rollforge.track.frame import read_table

    content(folder, signal)
    return read_table(folder / signal.file)


def content(folder: Path, signal: Signal | Shadow) -> bytes:
    """Return the bytes of a signal's file.

    Raises
    ------
    ArtifactUnreadable
        If the file is missing, or was changed since it was published.
    """
    file = folder / signal.file
    what = f"{'signals' if isinstance(signal, Signal) else 'shadow predictions'} of {signal.day}"
    try:
        found = file.read_bytes()
    except OSError as exc:
        raise ArtifactUnreadable(f"The {what} cannot be read: {file}: {exc.strerror}.") from exc
    if hashlib.sha256(found).hexdigest() != signal.sha256:
        raise ArtifactUnreadable(f"The {what} were changed after they were published: {file}.")
    return found


def unreadable(folder: Path, signals: Iterable[Signal]) -> dict[str, str]:
    """Return the days of those signals whose file is missing or was changed since it was published, with the reason."""
    found: dict[str, str] = {}
    fine: set[tuple[str, str]] = set()  # a file may contain several days
    for signal in signals:
        if signal.rows and (signal.file, signal.sha256) not in fine:
            try:
                content(folder, signal)
            except ArtifactUnreadable as exc:
                found[signal.day] = str(exc)
            else:
                fine.add((signal.file, signal.sha256))
    return found


def scores(folder: Path, signal: Signal) -> list[tuple[str, float]]:
    """Return the scores of a signal's day by instrument, sorted. If there are several columns, the first one is used.

    Raises
    ------
    ArtifactUnreadable
        If the file is missing, or was changed since it was published.
    """
    table = read(folder, [signal])
    if table is None:
        return []
    column = table.iloc[:, 0] if isinstance(table, pd.DataFrame) else table
    return sorted(zip(map(str, column.index.get_level_values("instrument")), map(float, column), strict=True))


def read(folder: Path, signals: Iterable[Signal]) -> pd.Series | pd.DataFrame | None:
    """Return the rows of signals of several days, sorted by index; None if there are none.

    Raises
    ------
    ArtifactUnreadable
        If a file is missing, or was changed since it was published.
    """
    days: dict[str, list[Signal]] = {}
    for signal in signals:
        if signal.rows:
            days.setdefault(signal.file, []).append(signal)
    parts = [rows_of(file_of(folder, held[0]), [s.day for s in held]) for held in days.values()]
    if not parts:
        return None
    joined: pd.Series | pd.DataFrame = pd.concat(parts)
    return joined if joined.index.is_monotonic_increasing else joined.sort_index()
