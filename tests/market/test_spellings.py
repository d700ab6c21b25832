"""Input that looks correct but is not: two spellings of an instrument, UTF-16 tables, impossible UTC offsets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.dates import read_day
from rollforge.errors import ConfigError, DataError, DateError
from rollforge.market.importer import import_table
from rollforge.market.universe import upper_codes

TABLE = "symbol,date,open,high,low,close,volume\nA,2020-01-02,1,1,1,1,5\nA,2020-01-03,1,1,1,1,5\n"


def test_two_spellings_of_one_instrument_are_refused() -> None:
    """A data folder does not distinguish case, so one of two spellings would be lost; the error names both."""
    assert upper_codes(["a", "B"]) == {"a": "A", "B": "B"}
    with pytest.raises(ConfigError, match="instruments: 'a' and 'A' are the same instrument"):
        upper_codes({"a": [], "A": []}, path="instruments")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-8"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    """Spreadsheets export UTF-16 with a byte order mark, which is read without an option."""
    (tmp_path / "t.csv").write_text(TABLE, encoding=encoding)
    assert import_table(tmp_path / "t.csv", tmp_path / "data").days == 2


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    """The error says which encoding to give, and with it the table is read."""
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "t.csv").write_bytes(TABLE.encode(encoding))
        with pytest.raises(DataError, match=f"looks like UTF-16.*--encoding {encoding}"):
            import_table(tmp_path / "t.csv", tmp_path / "data")
        assert import_table(tmp_path / "t.csv", tmp_path / encoding, encoding=encoding).days == 2


@pytest.mark.parametrize("offset", ["+25:00", "-16:00", "+08:60", "+9900"])
def test_an_offset_that_does_not_exist_is_refused(offset: str) -> None:
    """UTC offsets go to 15:59, with minutes below 60."""
    with pytest.raises(DateError, match="UTC offset that does not exist"):
        read_day(f"2020-01-01T00:00{offset}")


def test_offsets_in_use_are_accepted() -> None:
    """Including half hours, and the historical ones beyond 14 hours."""
    for offset in ("+14:00", "-12:00", "+05:45", "+15:13", "Z"):
        assert str(read_day(f"2020-01-01T00:00{offset}")) == "2020-01-01"
