"""Destinations of rows as they are computed, and the file of a group of columns."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pieces", "RowFile", "RowSink", "group_file", "mapped_rows"]

Pieces = Sequence[tuple[int, int, int]]
"""For each piece of some rows: the row of the destination at which it begins, its first row, and the row after its last."""


class RowSink(ABC):
    """Destination of finished rows: an array, or a file that is written incrementally."""

    shape: tuple[int, ...]
    """Number of rows and columns."""

    @abstractmethod
    def put(self, at: int, rows: NDArray[np.float32]) -> None:
        """Store some rows, starting at row `at`. Thread-safe."""

    def put_pieces(self, pieces: Pieces, rows: NDArray[np.float32]) -> None:
        """Store rows that do not follow each other in the destination."""
        for at, start, stop in pieces:
            self.put(at, rows[start:stop])


def group_file(folder: Path, place: int) -> Path:
    """Return the file of a panel's group of columns, by position from 0."""
    return folder / f"group{place}.npy"


def mapped_rows(file: Path, offset: int, shape: tuple[int, int], dtype: str = "<f4") -> NDArray[Any]:
    """Return a matrix that is memory-mapped from a file, and still knows its file after another one takes the name."""
    with file.open("rb") as handle:
        values = np.memmap(handle, dtype, "r", offset, shape)
        values.__dict__[_FILE] = _identity(handle.fileno())
    return values


_FILE = "mapped_file"


def _identity(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino


class RowFile(RowSink):
    """A float32 matrix in an ``.npy`` file, written piece by piece so that it is never fully in memory.

    Parameters
    ----------
    file : path
        File to create.
    rows, columns : int
        Shape of the matrix.
    """

    def __init__(self, file: Path, rows: int, columns: int) -> None:
        self.file = file
        self.shape = (rows, columns)
        self._handle = file.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._handle, header)
        self._handle.flush()
        self._offset = self._handle.tell()
        self._reserve(self._offset + 4 * rows * columns)

    def _reserve(self, size: int) -> None:
        """Reserve disk space, so that a full disk is detected before the computation."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._handle.fileno(), 0, size)
            except OSError as exc:
                if exc.errno == errno.ENOSPC:  # any other error: not supported by this file system
                    self.close()
                    raise

    def put(self, at: int, rows: NDArray[np.float32]) -> None:
        """Write some rows, starting at row `at` of the matrix. Thread-safe."""
        data = np.ascontiguousarray(rows, "<f4").data.cast("B")
        place = self._offset + 4 * self.shape[1] * at
        while data:
            written = os.pwrite(self._handle.fileno(), data, place)
            data, place = data[written:], place + written

    def copy(self, at: int, values: NDArray[np.float32], start: int, stop: int) -> None:
        """Copy rows of another matrix; if that is a file too, the operating system copies them without using memory.

        If the file was replaced or deleted after it was mapped (another process rebuilt its panel), the rows are those
        of the mapped file.
        """
        if not isinstance(values, np.memmap):
            self.put(at, values[start:stop])
            return
        row = 4 * self.shape[1]
        left, source, place = (stop - start) * row, values.offset + start * row, self._offset + at * row
        try:
            other = open(str(values.filename), "rb")  # noqa: SIM115
        except FileNotFoundError:
            self.put(at, values[start:stop])
            return
        with other:
            if vars(values).get(_FILE, _identity(other.fileno())) != _identity(other.fileno()):
                self.put(at, values[start:stop])
                return
            while left:
                try:
                    copied = os.copy_file_range(other.fileno(), self._handle.fileno(), left, source, place)
                except (AttributeError, OSError):  # not supported on this system or between these files
                    copied = os.pwrite(self._handle.fileno(), os.pread(other.fileno(), min(left, 2**22), source), place)
                if not copied:
                    raise OSError(errno.EIO, "the file is truncated", str(values.filename))
                left, source, place = left - copied, source + copied, place + copied

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def finished(self) -> NDArray[np.float32]:
        """Close the file and return the matrix, memory-mapped."""
        self.close()
        values: NDArray[np.float32] = np.load(self.file, mmap_mode="r")
        return values
