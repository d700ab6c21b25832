"""Import of tables into data folders: valid tables are imported completely; invalid ones are reported and nothing is
written.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from tests.documents.command_line import call

from rollforge.errors import DataError, DataNotFound
from rollforge.market.append import append_table
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider

DAYS = ["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"]


def _table() -> pd.DataFrame:
    """Return a table of three instruments: A on all days, B without the second day, C from the third day on."""
    rows = [("A", d) for d in DAYS] + [("B", d) for d in (DAYS[0], *DAYS[2:])] + [("C", d) for d in DAYS[2:]]
    frame = pd.DataFrame(rows, columns=["symbol", "date"])
    for name, first in {"Open": 10.0, "High": 14.0, "Low": 9.0, "Close": 13.0}.items():
        frame[name] = np.arange(len(frame)) + first
    frame["Volume"] = np.arange(len(frame)) * 100
    return frame


def _read(folder: Path, field: str, codes: list[str]) -> np.ndarray:
    provider = open_provider(folder)
    return provider.read(field, codes, 0, len(provider.calendar())).values


def test_a_long_table_is_imported_completely(tmp_path: Path) -> None:
    """Each value is found by instrument and day; gaps and days outside an instrument's range are NaN."""
    table = _table().sample(frac=1, random_state=1)
    table.to_parquet(tmp_path / "t.parquet")
    made = import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert [str(d) for d in open_provider(tmp_path / "data").calendar()] == DAYS
    expected = _table().pivot(index="symbol", columns="date", values="Close").to_numpy(np.float32)
    np.testing.assert_array_equal(_read(tmp_path / "data", "close", ["A", "B", "C"]), expected)
    lives = open_provider(tmp_path / "data").instruments("all")
    assert [str(d) for d in lives["C"][0]] == DAYS[2:]
    assert (made.instruments, made.days, made.rows) == (3, 4, 10)
    assert made.missing["close"] == 1
    assert (str(made.first), str(made.last)) == (DAYS[0], DAYS[-1])


def test_computed_fields_are_noted(tmp_path: Path) -> None:
    """A vwap computed as the mean of the bar and a factor of 1 are noted; given ones are kept."""
    _table().to_parquet(tmp_path / "t.parquet")
    made = import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert [n.split()[0] for n in made.notes] == ["vwap", "factor"]
    assert made.fields == ("open", "high", "low", "close", "volume", "vwap", "factor")
    np.testing.assert_array_equal(_read(tmp_path / "data", "vwap", ["A"])[0], np.float32([11.5, 12.5, 13.5, 14.5]))
    factor = _read(tmp_path / "data", "factor", ["B"])[0]
    np.testing.assert_array_equal(factor, [1, np.nan, 1, 1])
    _table().assign(VWAP=7.0, Factor=2.0).to_parquet(tmp_path / "u.parquet")
    made = import_table(tmp_path / "u.parquet", tmp_path / "given")
    assert made.notes == ()
    assert set(_read(tmp_path / "given", "vwap", ["A"])[0]) == {7.0}


def test_a_price_of_zero_is_missing(tmp_path: Path) -> None:
    """A price of zero is missing, with a note; a volume of 0 is a value. Derived values do not use it."""
    table = _table()
    table.loc[1, ["Open", "High", "Low", "Close"]] = 0.0
    table.loc[2, "Low"] = -0.0
    table.to_parquet(tmp_path / "t.parquet")
    made = import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert "prices of 0 are treated as missing: there are 5, the first is open of A on 2020-01-03" in made.notes
    np.testing.assert_array_equal(_read(tmp_path / "data", "close", ["A"])[0], np.float32([13, np.nan, 15, 16]))
    np.testing.assert_array_equal(_read(tmp_path / "data", "low", ["A"])[0], np.float32([9, np.nan, np.nan, 12]))
    assert _read(tmp_path / "data", "volume", ["A"])[0][0] == 0
    assert not np.isfinite(_read(tmp_path / "data", "vwap", ["A"])[0][1])


def test_csv_and_a_folder_of_files_give_the_same_folder(tmp_path: Path) -> None:
    """The same table as Parquet, CSV, compressed CSV and one file per instrument gives the same bytes."""
    table = _table().assign(Close=lambda t: t["Close"] + 0.1)
    table.to_parquet(tmp_path / "t.parquet")
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.csv.gz", index=False)
    (tmp_path / "files").mkdir()
    for code, rows in table.groupby("symbol"):
        name = f"{code}.csv" if code != "B" else "B.parquet"
        part = rows.drop(columns="symbol")
        if name.endswith("csv"):
            part.to_csv(tmp_path / "files" / name, index=False)
        else:
            part.to_parquet(tmp_path / "files" / name)
    made = []
    for i, source in enumerate(("t.parquet", "t.csv", "t.csv.gz", "files")):
        import_table(tmp_path / source, tmp_path / f"data{i}")
        files = sorted(p for p in (tmp_path / f"data{i}").rglob("*") if p.is_file())
        made.append({str(p.relative_to(tmp_path / f"data{i}")): p.read_bytes() for p in files})
    assert made[0] == made[1] == made[2] == made[3]


def test_files_that_are_named_by_days(tmp_path: Path) -> None:
    """The column of instruments is used, also if a day has only one of them."""
    table = _table()
    for day, rows in table.groupby("date"):
        (rows[:1] if day == DAYS[1] else rows).to_csv(tmp_path / f"{day}.csv", index=False)
    made = import_table(tmp_path, tmp_path / "data")
    assert (made.instruments, made.days, made.notes[0][:4]) == (3, 4, "vwap")
    np.testing.assert_array_equal(_read(tmp_path / "data", "close", ["A"])[0], [13, 14, 15, 16])


def test_files_whose_names_differ_from_their_instrument(tmp_path: Path) -> None:
    """A note names the column if several files have the same code in it; the user can choose the column."""
    table = _table().query("symbol == 'A'")
    for part, rows in {"A_1": table[:2], "A_2": table[2:]}.items():
        rows.to_csv(tmp_path / f"{part}.csv", index=False)
    made = import_table(tmp_path, tmp_path / "by_file")
    assert made.instruments == 2
    assert (
        "such as A_1 and A_2, although 'symbol' is 'A' in both. If the column is right, add --column 'symbol="
        in str(made)
    )
    made = import_table(tmp_path, tmp_path / "by_column", columns={"symbol": "instrument"})
    assert made.instruments == 1
    np.testing.assert_array_equal(_read(tmp_path / "by_column", "close", ["A"])[0], [13, 14, 15, 16])


def test_codes_that_are_numbers(tmp_path: Path) -> None:
    """Whole numbers in a column of floats, as after a join, are the same codes as in a column of whole numbers."""
    table = _table().assign(symbol=lambda t: t["symbol"].map({"A": 1.0, "B": 20.0, "C": 600000.0}))
    import_table(table, tmp_path / "data")
    assert sorted(p.name for p in (tmp_path / "data" / "features").iterdir()) == ["1", "20", "600000"]


def test_tables_in_memory(tmp_path: Path) -> None:
    """A frame with any index, and an Arrow table, are imported like a file with the same contents."""
    frame = _table()
    frame.to_parquet(tmp_path / "t.parquet")
    import_table(tmp_path / "t.parquet", tmp_path / "file")
    tables = [
        frame,
        frame.set_index(["symbol", "date"]),
        frame.set_index("date"),
        pa.Table.from_pandas(frame),
        frame[::-1],
    ]
    for i, table in enumerate(tables):
        import_table(table, tmp_path / f"data{i}")
        for file in (p for p in (tmp_path / "file").rglob("*") if p.is_file()):
            assert (tmp_path / f"data{i}" / file.relative_to(tmp_path / "file")).read_bytes() == file.read_bytes()
    with pytest.raises(DataError, match=r"The table must be a pandas Series or DataFrame.*found a list"):
        import_table([1, 2], tmp_path / "none")
    with pytest.raises(DataError, match="The table has no rows"):
        import_table(frame[:0], tmp_path / "none")
    with pytest.raises(DataError, match="the table, row 2: 'soon' is not a date"):
        import_table(frame.assign(date=["2020-01-02", "soon"] * 4 + ["2020-01-03"]), tmp_path / "none")


def test_codes_are_text(tmp_path: Path) -> None:
    """A code keeps its leading zeros, a ticker called NA is an instrument, lower case becomes upper case."""
    text = "code,trade_date,close\n000001,20200102,1.5\nNA,20200102,2\nbrk.b,20200103,\n"
    (tmp_path / "t.csv").write_text(text)
    import_table(tmp_path / "t.csv", tmp_path / "data")
    assert list(open_provider(tmp_path / "data").instruments("all")) == ["000001", "BRK.B", "NA"]
    assert np.isnan(_read(tmp_path / "data", "close", ["BRK.B"])[0, 1])


@pytest.mark.parametrize(
    "days",
    [
        pd.to_datetime(DAYS),
        pd.to_datetime(DAYS).tz_localize("America/New_York"),
        pd.to_datetime(DAYS) + pd.Timedelta(hours=16),
        [pd.Timestamp(d).date() for d in DAYS],
        [int(d.replace("-", "")) for d in DAYS],
        [f"{d}T00:00:00" for d in DAYS],
    ],
    ids=["timestamps", "zoned", "afternoon", "dates", "numbers", "text"],
)
def test_days_in_their_usual_forms(tmp_path: Path, days: object) -> None:
    """Timestamps, dates, strings and numbers such as 20200102 all mean the local day."""
    pd.DataFrame({"Ticker": "A", "Date": days, "close": 1.0}).to_parquet(tmp_path / "t.parquet")
    import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert [str(d) for d in open_provider(tmp_path / "data").calendar()] == DAYS


def test_the_index_may_hold_instrument_and_day(tmp_path: Path) -> None:
    """Instrument and day may be the index of a Parquet file."""
    _table().set_index(["symbol", "date"]).to_parquet(tmp_path / "t.parquet")
    assert import_table(tmp_path / "t.parquet", tmp_path / "data").instruments == 3


def test_columns_can_be_named(tmp_path: Path) -> None:
    """A mapping names the columns; an empty name leaves a column out; text columns are left out with a note."""
    frame = pd.DataFrame(
        {"who": ["A", "B"], "when": DAYS[:2], "px": [1.0, 2.0], "junk": [0, 0], "Sector": ["IT", "Oil"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    columns = {"who": "instrument", "when": "datetime", "px": "close", "junk": ""}
    made = import_table(tmp_path / "t.parquet", tmp_path / "data", columns=columns)
    assert made.fields == ("close", "factor")
    assert "sector was left out, because it contains text" in made.notes
    with pytest.raises(DataError, match=r"no column 'whoo'. Did you mean 'who'"):
        import_table(tmp_path / "t.parquet", tmp_path / "other", columns={"whoo": "instrument"})


def test_universes(tmp_path: Path) -> None:
    """Additional universes have the given codes, or all; an unknown code is an error."""
    _table().to_parquet(tmp_path / "t.parquet")
    import_table(tmp_path / "t.parquet", tmp_path / "data", market="mine", universes={"two": ["a", "C"], "rest": None})
    provider = open_provider(tmp_path / "data")
    assert provider.markets() == ["mine", "rest", "two"]
    assert list(provider.instruments("two")) == ["A", "C"]
    for universes, words in (
        ({"x": ["AA"]}, "contains 'AA'"),
        ({"x": []}, "'x' is empty"),
        ({"a/b": None}, "as a file name"),
    ):
        with pytest.raises(DataError, match=words):
            import_table(tmp_path / "t.parquet", tmp_path / "bad", universes=universes)
    assert not (tmp_path / "bad").exists()


BAD = {
    "twice": (lambda t: pd.concat([t, t.iloc[[1]]]), r"A on 2020-01-03 \(row 10\)"),
    "date": (lambda t: t.assign(date=["x", *t["date"][1:]]), r"row 1: 'x' is not a date"),
    "negative": (lambda t: t.assign(Low=t["Low"] - 10), r"low of A on 2020-01-02 is negative \(-1\)"),
    "infinite": (lambda t: t.assign(Close=np.inf), r"close of A on 2020-01-02 is infinite"),
    "too large": (lambda t: t.assign(Close=1e39), r"close of A on 2020-01-02 is too large for a data folder"),
    "volume too large": (lambda t: t.assign(Volume=4e38), r"volume of A on 2020-01-02 is too large"),
    "text": (lambda t: t.assign(Close="dear"), r"row 1: close is 'dear', which is not a number"),
    "cell": (lambda t: t.assign(Amount=["oops", *["1"] * 8]), r"row 1: amount is 'oops', which is not a number"),
    "empty": (lambda t: t.iloc[:0], r"has no rows"),
    "ignore_event": (lambda t: t.assign(symbol=["", *t["symbol"][1:]]), r"row 1: the instrument is missing"),
    "code": (lambda t: t.assign(symbol=t["symbol"].replace("C", "../C")), r"'../C' cannot be the name of a folder"),
    "case": (lambda t: t.assign(symbol=t["symbol"].replace("C", "b")), r"'B' and 'b' differ only in case"),
    "columns": (lambda t: t.rename(columns={"symbol": "what"}), r"no column of instruments"),
    "days": (lambda t: t.rename(columns={"date": "what"}), r"no column of days"),
    "same": (lambda t: t.assign(close=1.0), r"'Close' and 'close' would both become 'close'"),
    "fields": (lambda t: t[["symbol", "date"]], r"no numeric column"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_tables_write_nothing(tmp_path: Path, case: str) -> None:
    """An invalid table gives one message with the location, and no folder."""
    spoil, words = BAD[case]
    spoil(_table()).reset_index(drop=True).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=words):
        import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_csv_errors_name_the_line(tmp_path: Path) -> None:
    """For a CSV file, the location is the line number shown by an editor."""
    (tmp_path / "t.csv").write_text("symbol,date,close\nA,2020-01-02,1\nA,2020-01-03,one\n")
    with pytest.raises(DataError, match="line 3: close is 'one', which is not a number"):
        import_table(tmp_path / "t.csv", tmp_path / "data")
    (tmp_path / "u.csv").write_text("symbol,date,close\nA,02/01/2020,1\n")
    with pytest.raises(DataError, match="line 2: '02/01/2020' is ambiguous: either number could be the month"):
        import_table(tmp_path / "u.csv", tmp_path / "data")


AMBIGUOUS = "symbol,date,close\nA,02/01/2020,1\nA,03/01/2020,2\n"


@pytest.mark.parametrize(("option", "days"), [("--day-first", "02 03"), ("--month-first", "01 01")])
def test_dates_whose_order_no_date_shows(option: str, days: str, tmp_path: Path) -> None:
    """The user says which order it is, and a note shows it."""
    (tmp_path / "t.csv").write_text(AMBIGUOUS)
    with pytest.raises(
        DataError, match=r"or say which with --day-first or --month-first \(in Python: day_first=True\)"
    ):
        import_table(tmp_path / "t.csv", tmp_path / "data")
    done = call("data", "import", tmp_path / "t.csv", tmp_path / "data", option)
    assert f"dates such as 02/01/2020 are read with the {option[2:].replace('-', ' ')}" in done.stdout
    calendar = (tmp_path / "data" / "calendars" / "day.txt").read_text().split()
    assert " ".join(day[8:] for day in calendar) == days


def test_new_days_have_the_order_of_the_earlier_ones(tmp_path: Path) -> None:
    """A vendor's file of one day does not show it, but the folder's tables did; dates that show another one have it."""
    (tmp_path / "t.csv").write_text("symbol,date,close\nA,12/30/2019,1\nA,12/31/2019,1\n")
    import_table(tmp_path / "t.csv", tmp_path / "data")
    for text, day in (("01/02/2020", "2020-01-02"), ("13/02/2020", "2020-02-13"), ("02/14/2020", "2020-02-14")):
        (tmp_path / "new.csv").write_text(f"symbol,date,close\nA,{text},1\n")
        append_table(tmp_path / "new.csv", tmp_path / "data")
        assert (tmp_path / "data" / "calendars" / "day.txt").read_text().split()[-1] == day
    (tmp_path / "new.csv").write_text("symbol,date,close\nA,01/03/2020,1\n")
    append_table(tmp_path / "new.csv", tmp_path / "data", day_first=True)
    assert (tmp_path / "data" / "calendars" / "day.txt").read_text().split()[-1] == "2020-03-01"


def test_files_of_a_folder_have_the_same_order_of_dates(tmp_path: Path) -> None:
    """A file with few rows has the order that others show; if these differ, or none shows it, it is an error."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "A.csv").write_text("date,close\n30/01/2020,1\n03/02/2020,2\n")
    (folder / "B.csv").write_text("date,close\n03/02/2020,5\n")
    made = import_table(folder, tmp_path / "data")
    assert (made.days, made.rows) == (2, 3)
    (folder / "C.csv").write_text("date,close\n01/30/2020,1\n")
    with pytest.raises(DataError, match=r"B\.csv, line 2: '03/02/2020' is ambiguous"):
        import_table(folder, tmp_path / "other")


def test_sources_that_are_not_tables(tmp_path: Path) -> None:
    """A source that is missing, empty, of another type or damaged gives one message."""
    with pytest.raises(DataNotFound, match="There is no file or folder"):
        import_table(tmp_path / "t.csv", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match=r"no .parquet or .csv file"):
        import_table(tmp_path / "empty", tmp_path / "data")
    for name, words in (
        ("t.xlsx", "not a .parquet, .csv, .tsv or .txt file"),
        ("t.parquet", "as Parquet"),
        ("t.csv", "as CSV"),
    ):
        (tmp_path / name).write_text("" if name == "t.csv" else "PK")
        with pytest.raises(DataError, match=words):
            import_table(tmp_path / name, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_existing_target_is_kept(tmp_path: Path) -> None:
    """A nonempty folder is replaced only on request, an empty one is used, a file is refused."""
    _table().to_parquet(tmp_path / "t.parquet")
    (tmp_path / "data").mkdir()
    import_table(tmp_path / "t.parquet", tmp_path / "data")
    stamp = (tmp_path / "data" / "calendars" / "day.txt").stat().st_mtime_ns
    with pytest.raises(DataError, match="already exists"):
        import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert (tmp_path / "data" / "calendars" / "day.txt").stat().st_mtime_ns == stamp
    import_table(tmp_path / "t.parquet", tmp_path / "data", overwrite=True, market="again")
    assert open_provider(tmp_path / "data").markets() == ["again"]
    with pytest.raises(DataError, match="is a file"):
        import_table(tmp_path / "t.parquet", tmp_path / "t.parquet", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_gives_one_message(tmp_path: Path) -> None:
    """A folder that is not writable gives one message."""
    _table().to_parquet(tmp_path / "t.parquet")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot be created"):
        import_table(tmp_path / "t.parquet", tmp_path / "locked" / "data")


def test_a_path_below_a_file_gives_one_message(tmp_path: Path) -> None:
    """A target that cannot be created, because a parent is a file, gives one message."""
    _table().to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="cannot be created"):
        import_table(tmp_path / "t.parquet", tmp_path / "t.parquet" / "data")


@settings(max_examples=25, deadline=None)
@given(cells=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1))
def test_any_set_of_rows_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, cells: set[tuple[int, int]]
) -> None:
    """Whatever rows a table has, the folder contains exactly these, by instrument and day."""
    place = tmp_path_factory.mktemp("import")
    days = np.arange("2020-01-01", "2020-01-08", dtype="datetime64[D]")
    frame = pd.DataFrame([("ABCD"[i], days[j], 1.0 + i + j / 8) for i, j in cells], columns=["code", "date", "close"])
    frame.to_parquet(place / "t.parquet")
    import_table(place / "t.parquet", place / "data")
    provider = open_provider(place / "data")
    codes = list(provider.instruments("all"))
    values = _read(place / "data", "close", codes)
    found = {
        ("ABCD".index(codes[i]), int((provider.calendar()[j] - days[0]).astype(int))): values[i, j]
        for i, j in np.argwhere(~np.isnan(values))
    }
    assert found == {(i, j): np.float32(1.0 + i + j / 8) for i, j in cells}


@pytest.mark.sp500
def test_the_sp500_table_imports_in_seconds(shared_folder: Path, tmp_path: Path) -> None:
    """505 instruments x 1259 days take a few seconds of processor time."""
    start = time.process_time()
    made = import_table(shared_folder / "data" / "sp500_5yr.parquet", tmp_path / "data")
    assert time.process_time() - start < 15
    assert (made.instruments, made.days) == (505, 1259)


def test_files_without_rows_are_left_out(tmp_path: Path) -> None:
    """Downloads of delisted instruments leave files with a header only, or without anything; a note names them."""
    source = tmp_path / "prices"
    source.mkdir()
    header = "date,open,high,low,close,volume\n"
    (source / "B.csv").write_text(header)
    (source / "C.csv").touch()
    (source / "D.csv").write_text(" \n\n")
    with pytest.raises(DataError, match="has no rows in its 3 files"):
        import_table(source, tmp_path / "data")
    (source / "A.csv").write_text(f"{header}2021-03-01,1,1,1,1,5\n")
    found = import_table(source, tmp_path / "data")
    assert found.notes[0] == "3 files without rows were left out: B.csv, C.csv, D.csv"
    assert list(open_provider(tmp_path / "data").instruments("all")) == ["A"]
