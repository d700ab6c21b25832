"""Files of signals: what is read from them, and what counts as unreadable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ArtifactUnreadable, DataError
from rollforge.ledger.entry import Shadow, Signal
from rollforge.online import signal_files

ONE, TWO, THREE = "2024-05-30", "2024-05-31", "2024-06-03"


def scores(*days: str, codes: str = "AB", start: float = 0.0) -> pd.Series:
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(days), list(codes)], names=["datetime", "instrument"])
    return pd.Series(start + np.arange(float(len(index))), index, name="score")


def test_rows_of_days_are_in_the_order_of_days_and_instruments() -> None:
    """Whatever the order of the rows that are given; days without rows are left out."""
    mixed = scores(THREE, ONE, TWO, codes="BA")
    assert signal_files.days_of(mixed) == [ONE, TWO, THREE]
    found = signal_files.rows_of(mixed, [THREE, TWO, "2024-06-04"])
    assert [(str(day.date()), code, value) for (day, code), value in found.items()] == [
        (TWO, "A", 5.0), (TWO, "B", 4.0), (THREE, "A", 1.0), (THREE, "B", 0.0),
    ]  # fmt: skip
    assert len(signal_files.rows_of(mixed, [])) == 0
    assert signal_files.days_of(mixed.iloc[:0]) == []


def test_a_file_is_named_by_its_folder_and_has_its_hash(tmp_path: Path) -> None:
    """Nothing else is left in the folder, which is created."""
    folder = tmp_path / "services" / "us"
    for inside in ("signals", "shadow"):
        file, mark = signal_files.write(folder, f"{ONE}.v1", scores(ONE), inside)
        assert file == f"{inside}/{ONE}.v1.parquet"
        assert mark == hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert [one.name for one in (folder / inside).iterdir()] == [f"{ONE}.v1.parquet"]
        pd.testing.assert_series_equal(pd.read_parquet(folder / file)["score"], scores(ONE), check_freq=False)


def test_objects_cannot_be_stored_as_signals(tmp_path: Path) -> None:
    """The error names the types; nothing is written."""
    column = pd.Series([object()] * 2, scores(ONE).index)
    frame = pd.DataFrame({"score": scores(ONE), "note": column})
    for wrong, types in [(column, "object"), (frame, "float64, object")]:
        with pytest.raises(DataError, match=f"^Signals must be a table of plain values, found the types {types}.$"):
            signal_files.write(tmp_path, "a", wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_scores_of_a_day_are_those_of_the_first_column(tmp_path: Path) -> None:
    """Sorted by instrument; a withdrawn day has none."""
    both = scores(ONE, TWO, codes="BA")
    file, mark = signal_files.write(tmp_path, "a", pd.DataFrame({"score": both, "size": -both}))
    assert signal_files.scores(tmp_path, Signal(TWO, 1, (), file, mark, 2)) == [("A", 3.0), ("B", 2.0)]
    assert signal_files.scores(tmp_path, Signal(TWO, 2, (), file, mark, 0)) == []
    file, mark = signal_files.write(tmp_path, "b", both)
    assert signal_files.scores(tmp_path, Signal(ONE, 1, (), file, mark, 2)) == [("A", 1.0), ("B", 0.0)]


def test_only_the_days_that_are_asked_for_are_read(tmp_path: Path) -> None:
    """From files with several days, each of which is read once; nothing is read for withdrawn days."""
    whole, last = scores(ONE, TWO), scores(THREE, start=10.0)
    (one, mark), (other, second) = signal_files.write(tmp_path, "a", whole), signal_files.write(tmp_path, "b", last)
    signals = [
        Signal(THREE, 1, (), other, second, 2),
        Signal(TWO, 1, (), one, mark, 2),
        Signal(ONE, 2, (), "lost", "", 0),
    ]
    found = signal_files.read(tmp_path, signals)
    assert found is not None
    assert [(str(day.date()), value) for (day, _), value in found.items()] == [
        (TWO, 2.0), (TWO, 3.0), (THREE, 10.0), (THREE, 11.0),
    ]  # fmt: skip
    assert signal_files.read(tmp_path, signals[2:]) is None
    found = signal_files.read(tmp_path, signals[1:])
    assert found is not None
    assert found.tolist() == [2.0, 3.0]


def test_days_whose_file_is_missing_or_was_changed_are_unreadable(tmp_path: Path) -> None:
    """Each with the reason; not those of other files, and not withdrawn days."""
    (one, mark), (other, second) = (signal_files.write(tmp_path, name, scores(ONE, TWO)) for name in "ab")
    fine = [Signal(ONE, 1, (), one, mark, 2), Signal(TWO, 1, (), one, mark, 2)]
    assert signal_files.unreadable(tmp_path, fine) == {}
    (tmp_path / other).write_bytes(b"PAR1")
    found = signal_files.unreadable(
        tmp_path,
        [
            fine[0],
            Signal(TWO, 1, (), one, second[::-1], 2),
            Signal(THREE, 1, (), other, second, 2),
            Signal("2024-06-04", 1, (), "signals/lost.parquet", mark, 2),
            Signal("2024-06-05", 1, (), "signals/lost.parquet", mark, 0),
        ],
    )
    assert found == {
        TWO: f"The signals of {TWO} were changed after they were published: {tmp_path / one}.",
        THREE: f"The signals of {THREE} were changed after they were published: {tmp_path / other}.",
        "2024-06-04": f"The signals of 2024-06-04 cannot be read: {tmp_path}/signals/lost.parquet: No such file or directory.",
    }
    with pytest.raises(ArtifactUnreadable, match=f"^The shadow predictions of {ONE} cannot be read: "):
        signal_files.file_of(tmp_path, Shadow(ONE, (), "shadow/lost.parquet", mark, 2))
    with pytest.raises(ArtifactUnreadable, match=f"^The shadow predictions of {ONE} were changed "):
        signal_files.file_of(tmp_path, Shadow(ONE, (), other, second, 2))


def test_incomplete_files_that_cannot_be_removed_are_left(tmp_path: Path) -> None:
    """The others are removed from both folders, and complete files are kept."""
    for inside in ("signals", "shadow"):
        (tmp_path / inside / ".a.part").mkdir(parents=True)
        for name in (".b.part", "c.part", ".d.parquet", "e.parquet"):
            (tmp_path / inside / name).touch()
    signal_files.remove_drafts(tmp_path)
    for inside in ("signals", "shadow"):
        left = sorted(one.name for one in (tmp_path / inside).iterdir())
        assert left == [".a.part", ".d.parquet", "c.part", "e.parquet"]
    signal_files.remove_drafts(tmp_path / "nothing there")
