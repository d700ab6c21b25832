"""Writing the rows of computed columns: each value arrives in its row, however many are written together."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from hypothesis import given, settings, strategies as st

from rollforge.features import row_writer
from rollforge.features.engine import _in_turn
from rollforge.features.row_file import RowFile
from rollforge.features.row_writer import RowWriter


@given(
    instruments=st.integers(1, 7),
    days=st.integers(1, 40),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    memory=st.integers(1, 20_000),
    tile=st.integers(1, 2000),
    piece=st.integers(1, 200),
    share=st.floats(0, 1),
    by_instrument=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(deadline=None)
def test_every_value_is_written_to_its_row(
    instruments: int, days: int, widths: list[int], memory: int, tile: int, piece: int, share: float,
    by_instrument: bool, seed: int,
) -> None:  # fmt: skip
    """The files have the values of the rows that exist, sorted by day or by instrument, whatever fits the memory."""
    random = np.random.default_rng(seed)
    exists = random.random((instruments, days)) < share
    values = random.random((instruments, sum(widths), days)).astype(np.float32)
    places = [(i, t) for i in range(instruments) for t in range(days) if exists[i, t]]
    if not by_instrument:
        places.sort(key=lambda place: place[::-1])
    expected = np.array([values[i, :, t] for i, t in places], np.float32).reshape(len(places), sum(widths))
    offsets = np.concatenate([[0], np.cumsum(exists.sum(axis=1 if by_instrument else 0))])
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(row_writer, "_TILE", tile),
        mock.patch.object(row_writer, "_PIECE", piece),
    ):
        files = [RowFile(Path(folder) / f"{at}.npy", len(places), width) for at, width in enumerate(widths)]
        writer = RowWriter(exists, offsets, files, by_instrument=by_instrument, memory=memory)
        size = writer.instruments()
        for at in range(0, instruments, size):
            chunk = slice(at, min(at + size, instruments))
            columns = writer.columns(chunk.stop - at)
            columns[:, :, :days] = values[chunk]
            writer.write(chunk, columns, _in_turn)
        writer.finish()
        written = [np.array(np.load(file.file)) for file in files if file.close() is None]
    np.testing.assert_array_equal(np.hstack(written), expected)


def test_few_columns_of_many_instruments_are_written_together() -> None:
    """Rows that are short are written for more instruments at a time, as far as the columns fit the memory."""
    exists = np.ones((1000, 100), bool)
    offsets = np.arange(101) * 1000

    def together(columns: int, memory: int = 2**26) -> int:
        with TemporaryDirectory() as folder:
            file = RowFile(Path(folder) / "rows.npy", 100_000, columns)
            file.close()
            return RowWriter(exists, offsets, [file], by_instrument=False, memory=memory).instruments()

    assert together(2) == 1000
    assert together(2, 2**19) == 500
    assert 200 <= together(158) < 220
    assert together(158, 2**20) == 14
    assert together(158, 1) == 1
