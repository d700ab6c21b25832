"""Rows of computed columns, written to their destinations.

Columns are computed for a few instruments at a time. Those of many instruments are collected before their rows are written,
because writing one large piece is much faster than writing several small ones.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.features.row_file import Pieces, RowSink

__all__ = ["RowWriter", "Run", "reused"]

Run = Callable[[Callable[[Any], None], Iterable[Any]], None]
"""Calls a function with each of some values, possibly in several threads, and returns when all calls have returned."""

_LINE = 16  # float32 in one line of the CPU cache
_TILE = 2**20  # bytes of rows that are copied together, and then written while they are in the CPU cache
_PIECE = 2**17  # bytes; with half of it Alpha158 took 7 % more processor time, larger pieces gained little


class RowWriter:
    """Writer of the rows of a matrix, some instruments at a time.

    Parameters
    ----------
    exists : bool array, (instruments, days)
        Which rows there are.
    offsets : int64 array
        Start of the rows of each day or, by instrument, of each instrument.
    outs : sequence of float32 array, (rows, columns), or RowSink
        Destinations. Together they have all columns, in order.
    by_instrument : bool
        True if the rows are sorted by (instrument, day), False if by (day, instrument).
    memory : int
        Approximate limit in bytes of what is collected before it is written.
    """

    def __init__(
        self,
        exists: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        outs: Sequence[NDArray[np.float32] | RowSink],
        *,
        by_instrument: bool,
        memory: int,
    ) -> None:
        self._exists, self._by_instrument, self._memory = exists, by_instrument, memory
        self._whole: list[tuple[RowSink, NDArray[np.float32]]] = []
        self._outs = [_Memory(out) if isinstance(out, np.ndarray) else self._destination(out) for out in outs]
        self._next = offsets[:-1].copy()
        self._columns: int = sum(out.shape[1] for out in self._outs)
        # The distance between columns is an odd number of cache lines, so that the values of one day do not compete for the
        # same places in the cache.
        self._distance: int = (-(-exists.shape[1] // _LINE) | 1) * _LINE
        self._shared, self._own = threading.local(), threading.local()

    def _destination(self, out: RowSink) -> RowSink:
        """Return where rows are written as they are computed: for short rows, such as a label's, memory, if there is enough.

        Written in pieces, they would cost as much as many features.
        """
        if out.shape[1] > _LINE or 4 * math.prod(out.shape) > self._memory // 2:
            return out
        values = np.empty(out.shape, np.float32)
        self._whole.append((out, values))
        return _Memory(values)

    def instruments(self) -> int:
        """Return how many instruments are written together; at least one."""
        count: int = len(self._exists)
        fit = max(1, self._memory // (4 * self._columns * self._distance))
        widths = [out.shape[1] for out in self._outs if not isinstance(out, _Memory)]
        enough = math.ceil(_PIECE / (4 * max(1, *widths))) if widths and not self._by_instrument else count
        parts = -(-count // min(fit, enough))
        return -(-count // parts)

    def columns(self, instruments: int) -> NDArray[np.float32]:
        """Return memory for columns, (instruments, columns, at least the number of days); each call returns the same."""
        return reused(self._shared, "columns", instruments, self._columns, self._distance)

    def write(self, chunk: slice, columns: NDArray[np.float32], run: Run) -> None:
        """Write the rows of a chunk of instruments. Chunks are written in order.

        Parameters
        ----------
        chunk : slice
            Positions of the instruments.
        columns : float32 array, (instruments, columns, days)
            Their values.
        run : callable
            How pieces are written in parallel.
        """
        exists = self._exists[chunk]
        order = exists if self._by_instrument else exists.T
        counts = order.sum(axis=1)
        stops = np.concatenate([[0], np.cumsum(counts)])
        rows = np.full(exists.shape, -1, np.int32)
        (rows if self._by_instrument else rows.T)[order] = np.arange(stops[-1], dtype=np.int32)
        goes_to = self._next[chunk] if self._by_instrument else self._next
        tiles = []
        column = 0
        for out in self._outs:
            size = _TILE // (4 * max(1, out.shape[1]) * order.shape[1])
            size = max(1, size) if self._by_instrument else max(1, size // _LINE) * _LINE  # whole lines of days
            tiles += [_Tile(out, column, slice(at, min(at + size, len(order)))) for at in range(0, len(order), size)]
            column += out.shape[1]

        def put(tile: _Tile) -> None:
            self._put(tile, columns, rows, stops, goes_to)

        run(put, tiles)
        if not self._by_instrument:
            self._next = self._next + counts

    def finish(self) -> None:
        """Write what has been kept in memory; called after the last chunk."""
        for out, values in self._whole:
            if len(values):
                out.put(0, values)

    def _put(
        self,
        tile: _Tile,
        columns: NDArray[np.float32],
        rows: NDArray[np.int32],
        stops: NDArray[np.int64],
        goes_to: NDArray[np.int64],
    ) -> None:
        """Copy the values of some days, or instruments, to rows, and write these."""
        from rollforge.expressions import kernels

        first, stop = tile.part.start, tile.part.stop
        begin, count = int(stops[first]), int(stops[stop] - stops[first])
        block = reused(self._own, "block", count + 1, tile.out.shape[1])
        instruments, days = (0, rows.shape[0]), (0, rows.shape[1])
        span = (first, stop, *days) if self._by_instrument else (*instruments, first, stop)
        kernels.gather_rows(columns, tile.column, rows, *span, begin, block)
        tile.out.put_pieces(_runs(goes_to[tile.part], np.diff(stops[first : stop + 1])), block)


class _Memory(RowSink):
    """Stores rows in an array."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values
        self.shape = values.shape

    def put(self, at: int, rows: NDArray[np.float32]) -> None:
        self.values[at : at + len(rows)] = rows


@dataclass(frozen=True, slots=True)
class _Tile:
    """Values that are written together."""

    out: RowSink
    column: int
    """First column of `out`."""
    part: slice
    """Days or, by instrument, instruments."""


def reused(kept: threading.local, name: str, *shape: int) -> NDArray[np.float32]:
    """Return this thread's memory of a name, with any content: allocating it each time would cost as much as filling it."""
    size = math.prod(shape)
    memory: NDArray[np.float32] | None = getattr(kept, name, None)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.float32)
        setattr(kept, name, memory)
    return memory[:size].reshape(shape)


def _runs(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Pieces:
    """Merge adjacent pieces of `counts` rows with destinations `starts`; return (destination, first, stop) of each."""
    there = counts > 0
    starts, counts = starts[there], counts[there]
    ends = np.cumsum(counts)
    joins = starts[1:] == starts[:-1] + counts[:-1]
    first = np.flatnonzero(np.concatenate([[True], ~joins])) if len(starts) else np.zeros(0, np.int64)
    bounds = np.concatenate([(ends - counts)[first], ends[-1:]]).tolist()
    return list(zip(starts[first].tolist(), bounds[:-1], bounds[1:], strict=True))
