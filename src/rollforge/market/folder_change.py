"""Change files of a data folder atomically.

A copy of the folder is made next to it, in which unchanged files are hard links and changed files are new; then the
copy and the folder exchange their names. A reader finds either the old files or the new ones, and so does anyone after
a process is killed. Files are never modified in place, so open and memory-mapped files keep their contents. The former
version is kept until the next change, for readers that have it open (:class:`~rollforge.market.provider.Provider`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rollforge.disk import sync, sync_file_system
from rollforge.errors import DataError, FolderBusy

__all__ = [
    "change_files", "exchange", "folder_lock", "place_lock", "previous", "previous_locations", "remove_folder", "restore",
    "written_whole",
]  # fmt: skip

log = logging.getLogger(__name__)

_FOLLOWED = ("calendars", "instruments", "features")


def _draft(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.change")


def previous(folder: Path) -> Path:
    """Return the path at which the former version of a changed folder is kept for processes that still read it."""
    return folder.with_name(f".{folder.name}.previous")


def _spare(folder: Path) -> Path:
    return folder.with_name(f"{_draft(folder).name}.old")


def _discarded(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.discarded")


def previous_locations(folder: Path) -> tuple[Path, ...]:
    """Return the possible paths of the former version of a folder, in the order in which a change moves it there."""
    return _spare(folder), _draft(folder), previous(folder)


def restore(folder: Path) -> None:
    """Restore a folder that a killed process left under another name, on a file system without atomic exchange."""
    spare = _spare(folder)
    if spare.is_dir() and not folder.exists():
        spare.rename(folder)


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock for changing a data folder; other processes wait for it.

    Parameters
    ----------
    folder : path
        The data folder. The lock is the file ``.NAME.lock`` next to it.
    wait : float
        Seconds after which to stop waiting.

    Raises
    ------
    FolderBusy
        If another process holds the lock for that long. Nothing is changed.
    DataError
        If the lock cannot be created. Nothing is changed.
    """
    file = folder.with_name(f".{folder.name}.lock")
    try:
        handle = _open_lock(file)
    except OSError as exc:
        raise DataError(f"{folder} cannot be changed: {exc.strerror} ({file}). Nothing was changed.") from exc
    try:
        _acquire(handle, folder, wait)
        with contextlib.suppress(OSError):  # the lock file of another user: it keeps the name of an earlier holder
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
        os.close(handle)


def _open_lock(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)


def _acquire(handle: int, folder: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    warned = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        except OSError as exc:
            raise DataError(f"{folder} cannot be locked: {exc.strerror}. Nothing was changed.") from exc
        else:
            return
        if time.monotonic() >= deadline:
            raise FolderBusy(f"{folder} is being changed by {holder}. Try again when it has finished.")
        if not warned:
            log.warning("waiting for %s, which is changing %s", holder, folder)
            warned = True
        time.sleep(0.05)


def change_files(folder: Path, changed: Mapping[str, bytes]) -> None:
    """Write files of a data folder, all of them or none. The caller holds the lock.

    Parameters
    ----------
    folder : path
        The data folder.
    changed : mapping
        Path of a file relative to the folder -> its content, in the order in which they are written.

    Raises
    ------
    DataError
        If a file cannot be written, or the folder cannot be exchanged. Nothing is changed.
    """
    draft = _draft(folder)
    try:
        for left in (draft, _spare(folder), _discarded(folder)):  # left by a killed process
            remove_folder(left)
        _copy(folder, draft, changed, "")
        made = set[str]()
        for name, content in changed.items():
            _write(folder / name, draft / name, content, made)
        sync_file_system(draft)  # otherwise a power failure could leave the new folder with empty files
        exchange(draft, folder)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        if exc.errno == errno.EBUSY:
            raise DataError(
                f"{folder} is a mount point, which cannot be exchanged with a new version. Use a folder below it. "
                "Nothing was changed."
            ) from exc
        raise DataError(f"{folder} cannot be written: {exc.strerror or exc}. Nothing was changed.") from exc
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    # The folder is changed. Its former version stays until the next change.
    try:
        sync(folder.parent)
        if previous(folder).exists():
            previous(folder).rename(_discarded(folder))
        draft.rename(previous(folder))
        remove_folder(_discarded(folder))
    except OSError as exc:
        log.warning("the former version of %s could not be kept or removed: %s", folder, exc)


def remove_folder(folder: Path) -> None:
    """Delete a data folder, if it exists: first the calendar, so that readers notice."""
    if folder.exists():
        shutil.rmtree(folder / "calendars", ignore_errors=True)
        shutil.rmtree(folder)


def _copy(source: Path, target: Path, changed: Mapping[str, bytes], below: str) -> None:
    """Create a folder with hard links to the files of another, except for changed ones."""
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if name in changed:
                continue
            # A linked folder of series is copied, because its files will be replaced. Other links stay as they are.
            if entry.is_dir(follow_symlinks=name.partition("/")[0] in _FOLLOWED):
                _copy(Path(entry.path), target / entry.name, changed, f"{name}/")
            else:
                _link(entry, target / entry.name)
    shutil.copymode(source, target)


def _link(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    try:
        os.link(entry.path, target)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
            raise
        shutil.copy2(entry.path, target)


def _write(old: Path, target: Path, content: bytes, made: set[str]) -> None:
    parent = os.path.dirname(target)
    if parent not in made:
        os.makedirs(parent, exist_ok=True)
        made.add(parent)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
        with contextlib.suppress(FileNotFoundError):  # a new file
            os.fchmod(handle, stat.S_IMODE(os.stat(old).st_mode))
    finally:
        os.close(handle)


@contextlib.contextmanager
def place_lock(place: Path, *, wait: bool = True) -> Iterator[Path]:
    """Hold the lock under which a folder of the cache is written or deleted, and yield its file.

    The file may be deleted with the folder: processes that waited for it use the next one.

    Parameters
    ----------
    place : path
        The folder, which need not exist. The lock is the file ``.NAME.lock`` next to it.
    wait : bool
        False raises an error if another process holds the lock.

    Raises
    ------
    BlockingIOError
        If another process holds the lock, and `wait` is False.
    OSError
        If the lock cannot be created, or the file system has no locks; its `filename` is that of the lock.
    """
    file = place.with_name(f".{place.name}.lock")
    while True:
        with file.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise OSError(exc.errno, exc.strerror, str(file)) from exc
            if not _is_there(handle, file):
                continue
            try:
                yield file
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
            return


def _is_there(handle: TextIO, file: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def written_whole(place: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `place` at the end of the block, in place of any folder there.

    The caller holds a lock, so that no other process writes the same folder. What a killed process has left is removed, and
    nothing is left after an exception. Processes that have files of the former folder open keep them.
    """
    for left in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        yield draft
        if place.exists():
            exchange(draft, place)
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders atomically, so that there is always a folder at both paths.

    File systems that cannot do this (NFS, for example) need three renames; if the process is killed in between, one of
    the folders keeps the name `one` with the suffix ``.old``.

    Raises
    ------
    OSError
        If this is not possible. Nothing is changed.
    """
    try:
        _swap(os.fsencode(one), os.fsencode(other))
    except OSError as exc:
        if exc.errno not in _NO_SWAP:
            raise
        _swap_by_renames(one, other)


_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)  # EPERM: a sandbox that forbids the call


def _swap(one: bytes, other: bytes) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_HERE, one, _HERE, other, _EXCHANGE)
    elif hasattr(library, "renamex_np"):  # macOS
        failed = library.renamex_np(one, other, _EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fsdecode(other))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(other))


_HERE = -100  # AT_FDCWD: relative paths are relative to the current folder
_EXCHANGE = 2  # both RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS


def _swap_by_renames(one: Path, other: Path) -> None:
    spare = one.with_name(f"{one.name}.old")
    other.rename(spare)
    try:
        one.rename(other)
    except OSError:
        spare.rename(other)
        raise
    spare.rename(one)
