"""The latest scans of data folders, shared by a process and the worker processes that it has started.

Each process checks every few seconds whether its data have changed, which reads the sizes and times of thousands of files.
The processes of one job read the same folders, so one of them does that on behalf of all. The first scan of a process is always
its own. Instead of a later one it may use that of another process, if this began after its own last one ended, and not for longer
than a scan of its own: no process goes back to an earlier state, or uses one that is older than its own might be.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import threading
import zlib
from typing import NamedTuple

__all__ = ["Scan", "SharedScans", "begin_sharing", "join", "shared"]

_RECORD = struct.Struct("<QQddd16s")
_CHECKSUM = 4
_SLOT = 64  # bytes, which a record and its checksum need at most
_SLOTS = 64


class Scan(NamedTuple):
    """The result of a scan of a folder."""

    began: float
    """When it began, as :func:`time.monotonic` measures time, which is the same in all processes of a machine."""
    ended: float
    until: float
    """When it has to be repeated."""
    fingerprint: str
    """16 characters, see :meth:`~rollforge.market.provider.Provider.fingerprint`."""


class SharedScans:
    """The latest scan of each folder, in a file without a name that several processes have opened.

    Nothing is locked: a record has a checksum, and one that is being written or was damaged counts as missing.

    Parameters
    ----------
    descriptor : int
        File descriptor of the file, opened for reading and writing.

    Examples
    --------
    >>> with tempfile.TemporaryFile() as file:
    ...     scans = SharedScans(file.fileno())
    ...     scans.keep((1, 42), Scan(10.0, 10.1, 13.0, "0123456789abcdef"))
    ...     scans.latest((1, 42)), scans.latest((1, 43))
    (Scan(began=10.0, ended=10.1, until=13.0, fingerprint='0123456789abcdef'), None)
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._file = _identity(descriptor)

    def latest(self, folder: tuple[int, int]) -> Scan | None:
        """Return the latest scan of a folder, given by its device and inode; None if there is none."""
        if not self.is_open():
            return None
        try:
            data = os.pread(self.descriptor, _RECORD.size + _CHECKSUM, _place(folder))
        except OSError:
            return None
        record, checksum = data[: _RECORD.size], data[_RECORD.size :]
        if checksum != _checksum(record):
            return None
        device, inode, began, ended, until, fingerprint = _RECORD.unpack(record)
        if (device, inode) != _unsigned(folder) or not fingerprint.isalnum():
            return None
        return Scan(began, ended, until, fingerprint.decode("ascii"))

    def keep(self, folder: tuple[int, int], scan: Scan) -> None:
        """Keep a scan of a folder for the other processes."""
        if not self.is_open():
            return
        record = _RECORD.pack(*_unsigned(folder), scan.began, scan.ended, scan.until, scan.fingerprint.encode("ascii"))
        with contextlib.suppress(OSError):  # the others look themselves
            os.pwrite(self.descriptor, record + _checksum(record), _place(folder))

    def is_open(self) -> bool:
        """Return whether the descriptor still belongs to the file: code of a task may have closed it and opened another."""
        return self._file is not None and _identity(self.descriptor) == self._file


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _checksum(record: bytes) -> bytes:
    return zlib.crc32(record).to_bytes(_CHECKSUM, "little")


def _unsigned(folder: tuple[int, int]) -> tuple[int, int]:
    """Return device and inode without a sign, which some systems give to devices."""
    device, inode = folder
    return device % 2**64, inode % 2**64


def _place(folder: tuple[int, int]) -> int:
    return hash(_unsigned(folder)) % _SLOTS * _SLOT


_shared: SharedScans | None = None
_beginning = threading.Lock()


def shared() -> SharedScans | None:
    """Return the scans that this process shares with others; None if it shares none."""
    return _shared


def begin_sharing() -> int | None:
    """Share the scans of this process from now on, and return the file descriptor for those that it starts.

    None if there is no place for the file.
    """
    with _beginning:
        if _shared is None or not _shared.is_open():
            with contextlib.suppress(OSError), tempfile.TemporaryFile(prefix="rollforge-scans-") as file:
                join(os.dup(file.fileno()))
    return _shared.descriptor if _shared is not None and _shared.is_open() else None


def join(descriptor: int) -> None:
    """Share the scans of this process with the one that opened the file."""
    global _shared
    _shared = SharedScans(descriptor)
