"""Content hashes of data folders: equal for all copies, different if any value differs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.check.market_copy import Change, write_copy
from rollforge.errors import DataError, DataNotFound
from rollforge.market.append import append_table
from rollforge.market.content import DataContent, mark_of_days, marks_of_days, read_content
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider
from rollforge.session import Session

DAYS = np.array(["2019-12-30", "2019-12-31", "2020-01-02", "2020-01-03"], "datetime64[D]")


def make(folder: Path, days: int = 4, codes: str = "AB", **changed: float) -> Path:
    """Write a folder with a few series; `changed` is the last value of an instrument's close."""
    series = {}
    for i, code in enumerate(codes):
        close = np.arange(days, dtype=np.float32) + i
        close[-1] = changed.get(code, close[-1])
        series[code] = (0, {"close": close, "open": close})
    spans = {code: [(DAYS[0], DAYS[days - 1])] for code in codes}
    write_folder(folder, DAYS[:days], series, {"all": spans})
    return folder


def with_foreign_names(folder: Path) -> Path:
    """Add an instrument, a field and a universe whose names are not UTF-8, as an archive of another system has them."""
    (other := folder / "features" / os.fsdecode(b"b\xe4r")).mkdir()
    for place, name in ((other, b"close.day.bin"), (folder / "features" / "a", b"pr\xe9mium.day.bin")):
        shutil.copy(folder / "features" / "a" / "close.day.bin", place / os.fsdecode(name))
    shutil.copy(folder / "instruments" / "all.txt", folder / "instruments" / os.fsdecode(b"f\xfcnfzig.txt"))
    return folder


def change(folder: Path, code: str, day: int) -> Path:
    """Change a price on one day without changing the file's size and time."""
    file = folder / "features" / code / "close.day.bin"
    before = file.stat()
    values = np.fromfile(file, "<f4")
    values[1 + day] += 0.5
    values.tofile(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return folder


@pytest.fixture
def wanted(tmp_path: Path) -> DataContent:
    return read_content(make(tmp_path / "wanted"))


@pytest.mark.skipif(sys.platform == "darwin", reason="file names on macOS are always text")
def test_names_that_are_no_text_are_not_content(wanted: DataContent, tmp_path: Path) -> None:
    """No workflow can name them, and they are no reason to fail."""
    folder = with_foreign_names(make(tmp_path / "foreign"))
    assert read_content(folder) == wanted
    provider = open_provider(folder)
    assert provider.markets() == ["all"]
    with_file = provider.fingerprint()
    (folder / "instruments" / os.fsdecode(b"f\xfcnfzig.txt")).unlink()
    assert open_provider(shutil.copytree(folder, tmp_path / "less")).fingerprint() != with_file
    write_copy(provider, tmp_path / "copy", Change(DAYS[1], 0))
    assert sorted(path.name for path in (tmp_path / "copy" / "features").iterdir()) == ["a", "b"]


def test_a_copy_has_the_same_content(wanted: DataContent, tmp_path: Path) -> None:
    """Under another name, with other file times and line endings, and with an editor's temporary files."""
    copy = Path(shutil.copytree(tmp_path / "wanted", tmp_path / "copy", copy_function=shutil.copy))
    calendar = copy / "calendars" / "day.txt"
    calendar.write_bytes(calendar.read_bytes().replace(b"\n", b"\r\n"))
    (copy / "features" / "a" / "notes.txt").write_text("mine")
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    assert read_content(copy) == wanted
    assert DataContent.from_plain(wanted.to_plain()) == wanted


def test_a_single_different_price_is_located(wanted: DataContent, tmp_path: Path) -> None:
    """With its instrument and year, wherever it is."""
    for code, day, year in (("a", 0, "2019"), ("b", 2, "2020")):
        other = read_content(change(make(tmp_path / code), code, day))
        assert other.mark != wanted.mark
        assert other.differences(wanted) == [f"values of the instrument {code} differ in {year}"]


def test_an_additional_or_missing_day_is_reported(wanted: DataContent, tmp_path: Path) -> None:
    """The series that differ only because of that day are not listed."""
    shorter = read_content(make(tmp_path / "shorter", days=3))
    assert shorter.differences(wanted) == [
        "its calendar ends on 2020-01-02 (3 days), not on 2020-01-03 (4 days)",
        "its universe all has different members",
    ]
    assert wanted.differences(shorter)[0] == "its calendar ends on 2020-01-03 (4 days), not on 2020-01-02 (3 days)"


def test_different_values_are_reported_besides_an_additional_day(tmp_path: Path) -> None:
    """A correction of the past is not hidden by a new day."""
    shorter = read_content(make(tmp_path / "shorter", days=3))
    corrected = read_content(change(make(tmp_path / "corrected"), "a", 0))
    assert "values differ in 2019" in corrected.differences(shorter)


def test_only_missing_parts_are_differences(wanted: DataContent, tmp_path: Path) -> None:
    """Additional instruments and universes do not change results."""
    more = make(tmp_path / "more", codes="ABC")
    shutil.copy(tmp_path / "wanted/instruments/all.txt", more / "instruments/all.txt")
    shutil.copy(tmp_path / "wanted/instruments/all.txt", more / "instruments/mine.txt")
    larger = read_content(more)
    assert larger.mark != wanted.mark
    assert larger.differences(wanted) == []
    assert wanted.differences(larger) == ["it lacks the universe mine", "it lacks the instrument c"]


def test_an_additional_field_is_a_difference(wanted: DataContent, tmp_path: Path) -> None:
    """Expressions that read an optional field have values only if it exists."""
    more = make(tmp_path / "more")
    shutil.copy(more / "features/a/close.day.bin", more / "features/a/vwap.day.bin")
    assert read_content(more).differences(wanted) == ["values of the instrument a differ in 2019, 2020"]
    assert "it lacks the field vwap" in wanted.differences(read_content(more))


def test_the_content_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    """The content is in the cache folder; a damaged cache entry is computed again."""
    folder, cache = make(tmp_path / "data"), tmp_path / "cache"
    first = read_content(folder, cache)
    (file,) = (cache / "content").glob("*.json")
    from rollforge.market import content
    from rollforge.market.provider import open_provider

    for damage in ("{}", "nonsense"):
        content._known.clear()
        file.write_text(damage)
        assert read_content(folder, cache) == first
    values = np.fromfile(folder / "features/a/close.day.bin", "<f4") + 1
    values.tofile(folder / "features/a/close.day.bin")
    open_provider(folder).refresh()
    assert read_content(folder, cache).mark != first.mark


def test_a_missing_folder_and_invalid_content_are_errors(tmp_path: Path) -> None:
    """Each of them is one plain error."""
    with pytest.raises(DataNotFound):
        read_content(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a description"):
        DataContent.from_plain({"mark": "x", "years": 3})


def test_a_damaged_series_is_a_difference(tmp_path: Path) -> None:
    """The error is raised when the series is read; the content hash merely differs."""
    folder = make(tmp_path / "data")
    (folder / "features/a/close.day.bin").write_bytes(b"\xff\xff\xff\xff\x00")
    (folder / "features/b/close.day.bin").write_bytes(b"")
    assert len(read_content(folder).differences(read_content(make(tmp_path / "whole")))) == 1


# -- marks of days -----------------------------------------------------------------------------------------------------


def rows(*listed: tuple[str, int, float], **more: float) -> pd.DataFrame:
    """Return a table of prices: code, position of the day, close."""
    days = [str(day) for day in DAYS]
    return pd.DataFrame([{"symbol": c, "date": days[day], "close": close, **more} for c, day, close in listed])


FIRST = rows(*((c, day, 10.0 + day) for c in "AB" for day in (0, 1)), ("A", 2, 12.0))


@pytest.mark.parametrize(
    ("appended", "kept"),
    [
        (rows(("A", 3, 13.0), ("B", 3, 13.0)), True),  # B was suspended on the day before
        (rows(("A", 3, 13.0), ("C", 3, 5.0), turnover=2.0), True),
        (rows(("B", 2, 12.0), ("A", 3, 13.0)), False),
        (rows(("C", 2, 12.0), ("A", 3, 13.0)), False),
        (rows(("A", 1, 11.5)), False),
    ],
    ids=["days", "instrument and field", "late row", "instrument of a past day", "correction"],
)
def test_added_days_do_not_change_the_mark_of_earlier_ones(tmp_path: Path, appended: pd.DataFrame, kept: bool) -> None:
    """Whatever the new days contain; a row of an earlier day does."""
    folder = tmp_path / "data"
    import_table(FIRST, folder, universes={"some": ["A"]})
    session = Session(provider_uri=str(folder))
    marks = marks_of_days(session, map(str, DAYS[:3]))
    before = read_content(folder)
    assert marks[2] == mark_of_days(before)
    append_table(appended, folder)
    after = marks_of_days(session, map(str, DAYS))
    assert [a == b for a, b in zip(after, marks, strict=False)] == [True, kept or appended["close"][0] != 11.5, kept]
    assert len({*after}) == len(after)
    assert DataContent.from_plain(read_content(folder).to_plain()).days_mark == after[-1].split()[1]


def test_members_are_part_of_the_marks_from_their_first_day_on(tmp_path: Path) -> None:
    """A later end is no change of the days before; an unreadable universe, which may not be used, is left out."""
    folder = make(tmp_path / "data")
    session, days = Session(provider_uri=str(folder)), [str(day) for day in DAYS]
    marks = marks_of_days(session, days)
    (folder / "instruments" / "some.txt").write_text("B\t2020-01-02\t2020-01-02\n")
    changed = marks_of_days(session, days)
    assert [a == b for a, b in zip(marks, changed, strict=True)] == [True, True, False, False]
    (folder / "instruments" / "some.txt").write_text("B\t2020-01-02\t2020-01-03\n")
    longer = marks_of_days(session, days)
    assert [a == b for a, b in zip(longer, changed, strict=True)] == [True, True, True, False]
    (folder / "instruments" / "some.txt").write_text("B\n")
    assert marks_of_days(session, [*days, "2020-01-05"]) == marks
    assert marks_of_days(session, ["2020-01-05"]) == []
