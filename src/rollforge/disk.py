"""Waiting until files are on the disk, so that they survive a power failure.

A program that has written a file has handed it to the operating system, which writes it some seconds later, in any order.
Anything that refers to a file, such as a ledger entry, is therefore written only when the file is on the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

__all__ = ["sync", "sync_file_system", "sync_tree"]


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the list of the files in a folder, is on the disk.

    Raises
    ------
    OSError
        If it cannot be written, or does not exist.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot do this, mostly with folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until a folder with everything in it, and the folders that contain it, are on the disk.

    Raises
    ------
    OSError
        If something cannot be written.
    """
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                sync(os.path.join(place, name))
        sync(place)
    for parent in folder.absolute().parents[:_PARENTS]:
        with contextlib.suppress(PermissionError):
            sync(parent)


_PARENTS = 3  # those that may have been created with it


def sync_file_system(folder: Path) -> None:
    """Wait until everything that has been written to the file system of a folder is on the disk.

    This is faster than :func:`sync` of hundreds of files.

    Raises
    ------
    OSError
        If something cannot be written.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)
