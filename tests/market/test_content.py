"""What a data folder holds, compared between machines: the same on every copy, another when anything differs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rollforge.errors import DataError, DataNotFound
from rollforge.market.content import DataContent, read_content
from rollforge.market.provider import write_folder

DAYS = np.array(["2019-12-30", "2019-12-31", "2020-01-02", "2020-01-03"], "datetime64[D]")


def make(folder: Path, days: int = 4, codes: str = "AB", **changed: float) -> Path:
    """A folder of a few series; `changed` gives the last value of an instrument's close."""
    series = {}
    for i, code in enumerate(codes):
        close = np.arange(days, dtype=np.float32) + i
        close[-1] = changed.get(code, close[-1])
        series[code] = (0, {"close": close, "open": close})
    spans = {code: [(DAYS[0], DAYS[days - 1])] for code in codes}
    write_folder(folder, DAYS[:days], series, {"all": spans})
    return folder


def change(folder: Path, code: str, day: int) -> Path:
    """Another price on one day; size and time of the file stay what they were."""
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


def test_a_copy_holds_the_same(wanted: DataContent, tmp_path: Path) -> None:
    """Under another name, with other times, lines that end otherwise, and the files of an editor beside them."""
    copy = Path(shutil.copytree(tmp_path / "wanted", tmp_path / "copy", copy_function=shutil.copy))
    calendar = copy / "calendars" / "day.txt"
    calendar.write_bytes(calendar.read_bytes().replace(b"\n", b"\r\n"))
    (copy / "features" / "a" / "notes.txt").write_text("mine")
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    assert read_content(copy) == wanted
    assert DataContent.from_plain(wanted.to_plain()) == wanted


def test_one_other_price_is_noticed_and_named(wanted: DataContent, tmp_path: Path) -> None:
    """Wherever it is: instrument and year."""
    for code, day, year in (("a", 0, "2019"), ("b", 2, "2020")):
        other = read_content(change(make(tmp_path / code), code, day))
        assert other.mark != wanted.mark
        assert other.differences(wanted) == [f"values of the instrument {code} differ in {year}"]


def test_a_day_more_or_less_is_named(wanted: DataContent, tmp_path: Path) -> None:
    """And not each series that is longer for it."""
    shorter = read_content(make(tmp_path / "shorter", days=3))
    assert shorter.differences(wanted) == [
        "its calendar ends on 2020-01-02 (3 days), not on 2020-01-03 (4 days)",
        "its universe all has other members",
    ]
    assert wanted.differences(shorter)[0] == "its calendar ends on 2020-01-03 (4 days), not on 2020-01-02 (3 days)"


def test_values_that_differ_before_a_day_more_are_named_too(tmp_path: Path) -> None:
    """A correction of the past hides behind no new day."""
    shorter = read_content(make(tmp_path / "shorter", days=3))
    corrected = read_content(change(make(tmp_path / "corrected"), "a", 0))
    assert "values differ in 2019" in corrected.differences(shorter)


def test_what_is_lacking_is_named_and_what_is_there_besides_is_no_difference(
    wanted: DataContent, tmp_path: Path
) -> None:
    """An instrument or a universe more changes no result."""
    more = make(tmp_path / "more", codes="ABC")
    shutil.copy(tmp_path / "wanted/instruments/all.txt", more / "instruments/all.txt")
    shutil.copy(tmp_path / "wanted/instruments/all.txt", more / "instruments/mine.txt")
    larger = read_content(more)
    assert larger.mark != wanted.mark
    assert larger.differences(wanted) == []
    assert wanted.differences(larger) == ["it lacks the universe mine", "it lacks the instrument c"]


def test_a_field_more_is_a_difference(wanted: DataContent, tmp_path: Path) -> None:
    """Expressions that read a field that may be missing have values with it, and none without it."""
    more = make(tmp_path / "more")
    shutil.copy(more / "features/a/close.day.bin", more / "features/a/vwap.day.bin")
    assert read_content(more).differences(wanted) == ["values of the instrument a differ in 2019, 2020"]
    assert "it lacks the field vwap" in wanted.differences(read_content(more))


def test_what_was_read_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    """In the cache folder; a damaged answer is computed again."""
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


def test_no_folder_and_no_content(tmp_path: Path) -> None:
    """Each is one plain error."""
    with pytest.raises(DataNotFound):
        read_content(tmp_path / "nowhere")
    with pytest.raises(DataError, match="does not describe"):
        DataContent.from_plain({"mark": "x", "years": 3})


def test_a_damaged_series_counts_as_it_is(tmp_path: Path) -> None:
    """Whoever reads it is told what is wrong; here it differs, and that is all."""
    folder = make(tmp_path / "data")
    (folder / "features/a/close.day.bin").write_bytes(b"\xff\xff\xff\xff\x00")
    (folder / "features/b/close.day.bin").write_bytes(b"")
    assert len(read_content(folder).differences(read_content(make(tmp_path / "whole")))) == 1
