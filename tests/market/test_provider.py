"""The data folder: reading, and the errors for an invalid folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rollforge.errors import DataError, DataNotFound
from rollforge.features.loader import QlibDataLoader
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider, open_provider

DAYS = np.arange("2020-01-01", "2020-01-11", dtype="datetime64[D]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten days; A on all of them, B on days 3 to 6, CON (a name that Windows reserves) on the last two."""
    path = tmp_path / "data"
    series = {
        "A": (0, {"close": np.arange(10.0), "volume": np.full(10, 1e12)}),
        "B": (3, {"close": np.array([1.0, np.nan, 3.0, 4.0])}),
        "CON": (8, {"close": np.array([8.0, 9.0])}),
    }
    members = {
        "all": {c: [(DAYS[f], DAYS[f + len(v["close"]) - 1])] for c, (f, v) in series.items()},
        "some": {"B": [(DAYS[3], DAYS[3]), (DAYS[5], DAYS[6])]},
    }
    write_folder(path, DAYS, series, members)
    return path


def test_what_is_written_is_read(folder: Path) -> None:
    """Values, first days, gaps and universes are read as they were written."""
    provider = open_provider(folder)
    assert (provider.calendar() == DAYS).all()
    assert provider.markets() == ["all", "some"]
    assert provider.instruments("some") == {"B": [(DAYS[3], DAYS[3]), (DAYS[5], DAYS[6])]}
    assert provider.fields() == ["close", "volume"]
    block = provider.read("close", ["A", "B", "CON"], 2, 9)
    np.testing.assert_array_equal(block.values[0], np.arange(2, 9))
    np.testing.assert_array_equal(block.values[1], [np.nan, 1, np.nan, 3, 4, np.nan, np.nan])
    assert block.begin.tolist() == [0, 1, 6]
    assert block.end.tolist() == [7, 5, 7]


def test_the_format_is_qlibs(folder: Path) -> None:
    """A file is little-endian float32 and starts with the index of its first day; folder names are in lower case."""
    raw = (folder / "features" / "b" / "close.day.bin").read_bytes()
    assert np.frombuffer(raw, "<f4")[:2].tolist() == [3.0, 1.0]
    assert (folder / "features" / "_qlib_con" / "close.day.bin").is_file()
    assert (folder / "calendars" / "day.txt").read_text().splitlines()[0] == "2020-01-01"
    assert (folder / "instruments" / "some.txt").read_text().splitlines()[0] == "B\t2020-01-04\t2020-01-04"


def test_the_future_calendar(folder: Path) -> None:
    """The future calendar is day_future.txt or, if that does not exist, the calendar itself."""
    provider = open_provider(folder)
    assert (provider.calendar(future=True) == DAYS).all()
    (folder / "calendars" / "day_future.txt").write_text("\n".join([*map(str, DAYS), "2020-01-15"]))
    provider.refresh()
    assert str(provider.calendar(future=True)[-1]) == "2020-01-15"


def test_one_reader_while_nothing_changes(folder: Path) -> None:
    """open_provider returns the same reader until the calendar or a universe is written again."""
    first = open_provider(folder)
    assert open_provider(str(folder)) is first
    market = folder / "instruments" / "some.txt"
    market.write_text("A\t2020-01-01\t2020-01-02\n")
    os.utime(market, ns=(1, 1))
    assert open_provider(folder) is not first
    assert list(open_provider(folder).instruments("some")) == ["A"]


def test_the_fingerprint_changes_with_the_data(folder: Path) -> None:
    """Equal data give equal fingerprints; different values give another one once the provider is refreshed."""
    provider = Provider(folder)
    before = provider.fingerprint()
    assert Provider(folder).fingerprint() == before
    file = folder / "features" / "b" / "close.day.bin"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    os.utime(file, ns=(5, 5))
    assert provider.fingerprint() == before
    provider.refresh()
    assert provider.fingerprint() != before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:2], "truncated"),
        (lambda raw: b"", "empty"),
        (lambda raw: raw + raw, "does not fit the calendar"),
        (lambda raw: np.float32(7).tobytes() + raw[4:], "does not fit the calendar"),
        (lambda raw: np.float32(np.nan).tobytes() + raw[4:], "does not fit the calendar"),
        (lambda raw: np.float32(-1).tobytes() + raw[4:], "does not fit the calendar"),
        (lambda raw: np.float32(0.5).tobytes() + raw[4:], "does not fit the calendar"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, damage: object, words: str) -> None:
    """A file with an invalid size or first value is an error that names it, and never yields wrong values."""
    file = folder / "features" / "b" / "close.day.bin"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=words) as caught:
        open_provider(folder).read("close", ["A", "B"], 0, 10)
    assert str(file) in str(caught.value)


def test_unknown_names_give_the_nearest(folder: Path) -> None:
    """Errors about unknown fields and universes name the existing ones."""
    provider = open_provider(folder)
    with pytest.raises(DataNotFound, match=r"no field \$clsoe .*Did you mean 'close'.*\$close, \$volume"):
        provider.read("clsoe", ["A"], 0, 10)
    with pytest.raises(DataNotFound, match=r"no universe 'al' .*Did you mean 'all'.*all, some"):
        provider.instruments("al")


def test_an_instrument_without_a_field_has_missing_values(folder: Path) -> None:
    """If other instruments have the field, this is not an error."""
    block = open_provider(folder).read("volume", ["B"], 0, 10)
    assert np.isnan(block.values).all()
    assert block.begin.tolist() == block.end.tolist() == [0]


def test_a_path_that_is_not_a_data_folder(tmp_path: Path) -> None:
    """The error says so, and how to create a data folder."""
    with pytest.raises(DataNotFound, match="rollforge data demo"):
        open_provider(tmp_path / "nowhere")
    with pytest.raises(DataNotFound, match=r"no calendars/day\.txt"):
        open_provider(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2020-01-02\n2020-01-01\n", "must be in ascending order, but 2020-01-01 comes after 2020-01-02"),
        ("2020-01-01\n2020-01-01\n", "ascending order"),
        ("2020-01-01\nmonday\n", "line 2: .monday. is not a date"),
        ("", "contains no days"),
    ],
)
def test_an_invalid_calendar_is_refused(folder: Path, text: str, words: str) -> None:
    """Invalid, unordered, duplicate or no days are an error that names the file."""
    (folder / "calendars" / "day.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        Provider(folder).calendar()


def test_an_invalid_universe_is_refused(folder: Path) -> None:
    """A line without dates and a universe without lines are errors."""
    (folder / "instruments" / "bad.txt").write_text("A\t2020-01-01\t2020-01-02\nB 2020-01-01\n")
    (folder / "instruments" / "none.txt").write_text("\n")
    with pytest.raises(DataError, match=r"bad\.txt, line 2"):
        open_provider(folder).instruments("bad")
    with pytest.raises(DataError, match="'none' is empty"):
        open_provider(folder).instruments("none")


@pytest.mark.parametrize("freq", ["tick", "1s", "10 seconds"])
def test_a_minute_is_the_shortest_frequency(folder: Path, freq: str) -> None:
    """Even if the folder has such a calendar, wherever the frequency is given."""
    (folder / "calendars" / f"{freq}.txt").write_text("2020-01-01 09:30:00\n2020-01-01 10:00:00\n")
    provider = Provider(folder)
    with pytest.raises(DataError, match=f"The frequency '{freq}' is shorter than a minute"):
        provider.calendar(freq)
    with pytest.raises(DataError, match="shorter than a minute"):
        provider.read("close", ["A"], 0, 1, freq)
    with pytest.raises(DataError, match="shorter than a minute"):
        QlibDataLoader({"feature": ["$close"]}, freq=freq).check("all", provider)


def test_other_names_of_a_day_and_unknown_frequencies(folder: Path) -> None:
    """``1d`` is a day; the error for an unknown calendar lists the existing ones."""
    provider = Provider(folder)
    for freq in ("day", "1day", "d", "1d", "Day"):
        assert provider.calendar(freq).tolist() == provider.calendar().tolist()
    with pytest.raises(DataNotFound, match=r"no calendar 'week' in .*Known: day\."):
        provider.calendar("week")
