"""Import of an index's dated membership into a data folder, from the usual file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.features.api import D
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import open_provider
from rollforge.market.universe import resolve_instruments
from rollforge.market.universe_import import import_universe
from rollforge.session import Session, using

DAYS = np.arange("2021-03-01", "2021-03-31", dtype="datetime64[D]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three instruments on thirty days."""
    values = {"close": np.ones(30)}
    everyone = {code: [(DAYS[0], DAYS[-1])] for code in ("SH600000", "SZ000001", "SZ000002")}
    write_folder(tmp_path / "data", DAYS, dict.fromkeys(everyone, (0, values)), {"all": everyone})
    return tmp_path / "data"


def members(folder: Path, name: str) -> dict[str, list[tuple[str, str]]]:
    found = open_provider(folder).instruments(name)
    return {code: [(str(a), str(b)) for a, b in spans] for code, spans in found.items()}


STAYS = {
    "SH600000": [("2021-03-01", "2021-03-10"), ("2021-03-20", "2099-12-31")],
    "SZ000001": [("2021-03-05", "2021-03-15")],
}


@pytest.mark.parametrize(
    "text",
    [
        "SH600000\t2021-03-01\t2021-03-10\nSH600000\t2021-03-20\t2099-12-31\nSZ000001\t2021-03-05\t2021-03-15\n",
        "\ufeffinstrument,start,end\nSH600000,20210301,20210310\nSH600000,2021/3/20,\nsz000001,2021-03-05,2021-03-15\n",
        "symbol;date_added;date_removed\nSH600000;2021-03-01;2021-03-10\nSH600000;2021-03-20;-\nSZ000001;2021-03-05;2021-03-15\n",
        "code,in_date,out_date,weight\nSZ000001,20210305,20210315,1\nSH600000,20210301,20210310,2\nSH600000,20210320,nan,3\n",
        "SH600000 2021-03-01 2021-03-10\nSH600000 2021-03-20 2099-12-31\nSZ000001 2021-03-05 2021-03-15",
        # adjacent or overlapping periods are merged
        "SH600000,2021-03-01,2021-03-05\nSH600000,2021-03-06,2021-03-10\nSH600000,2021-03-20,2099-12-31\n"
        "SZ000001,2021-03-05,2021-03-12\nSZ000001,2021-03-10,2021-03-15\n",
    ],
    ids=["folder", "header", "semicolons", "tushare", "spaces", "meeting"],
)
def test_periods_are_read_in_any_form(folder: Path, tmp_path: Path, text: str) -> None:
    """One period per line, with or without a header, and every spelling of an open end."""
    (tmp_path / "index.txt").write_text(text)
    made = import_universe("csi300", tmp_path / "index.txt", folder)
    assert members(folder, "csi300") == STAYS
    assert (made.members, made.spans, made.largest) == (2, 3, 2)
    assert (str(made.first), str(made.last)) == ("2021-03-01", "2021-03-30")


def test_parquet_and_named_columns(folder: Path, tmp_path: Path) -> None:
    """Parquet is accepted, with a missing time as an open end; columns can be named."""
    frame = pd.DataFrame(
        {
            "who": ["SH600000", "SH600000", "SZ000001"],
            "start": pd.to_datetime(["2021-03-01", "2021-03-20", "2021-03-05"]),
            "gone": pd.to_datetime(["2021-03-10", None, "2021-03-15"]),
        }
    )
    frame.to_parquet(tmp_path / "index.parquet")
    with pytest.raises(DataError, match=r"no column of instruments.*--column 'NAME=instrument'"):
        import_universe("csi300", tmp_path / "index.parquet", folder)
    import_universe("csi300", tmp_path / "index.parquet", folder, columns={"who": "instrument", "gone": "end"})
    assert members(folder, "csi300") == STAYS


@pytest.mark.parametrize(
    "text",
    [
        "index_code,con_code,trade_date,weight\nX,SH600000,20210305,1\nX,SZ000001,20210305,2\nX,SH600000,20210315,3\n",
        "2021-03-05,SH600000\n2021-03-05,SZ000001\n2021-03-15,SH600000\n",
        "2021-03-05,SH600000,0.3\n2021-03-05,SZ000001,0.7\n2021-03-15,SH600000,1\n",
        "2021-03-05,SH600000,Bank\n2021-03-05,SZ000001,\n2021-03-15,SH600000,3%\n",
        'date,tickers\n2021-03-05,"SH600000,SZ000001"\n2021-03-15,SH600000\n',
        "day;members\n2021-03-15;['SH600000']\n2021-03-05;['SZ000001', 'SH600000']\n",
        "2021-03-05\tSH600000,SZ000001\n2021-03-15\tSH600000\n",
    ],
    ids=["tushare", "pairs", "weights", "names", "all in a cell", "lists of Python", "without a header"],
)
def test_dated_lists_are_valid_until_the_next(folder: Path, tmp_path: Path, text: str) -> None:
    """The codes on a date's list are members until the day before the next list; the last list has no end."""
    (tmp_path / "index.csv").write_text(text)
    made = import_universe("csi300", tmp_path / "index.csv", folder)
    assert members(folder, "csi300") == {
        "SH600000": [("2021-03-05", "2099-12-31")],
        "SZ000001": [("2021-03-05", "2021-03-14")],
    }
    assert "2 lists, each valid until the next; the last, of 2021-03-15, stays valid" in made.notes


def test_lists_in_parquet(folder: Path, tmp_path: Path) -> None:
    """A row may have a list of all members on its day."""
    days = pd.to_datetime(["2021-03-05", "2021-03-15"])
    pd.DataFrame({"date": days, "members": [["SH600000", "SZ000001"], ["SH600000"]]}).to_parquet(tmp_path / "l.parquet")
    import_universe("csi300", tmp_path / "l.parquet", folder)
    assert members(folder, "csi300")["SZ000001"] == [("2021-03-05", "2021-03-14")]


def test_codes_alone_are_members_on_all_days(folder: Path, tmp_path: Path) -> None:
    """Codes without dates are members on the whole calendar."""
    (tmp_path / "codes.txt").write_text("SH600000\nSZ000002\n")
    import_universe("mine", tmp_path / "codes.txt", folder)
    with using(Session(provider_uri=str(folder))):
        assert D.list_instruments(D.instruments("mine"), as_list=True) == ["SH600000", "SZ000002"]
        assert len(D.features("mine", ["$close"])) == 60


def test_features_have_rows_for_members_only(folder: Path, tmp_path: Path) -> None:
    """An instrument has rows only on the days of its membership."""
    (tmp_path / "index.csv").write_text("code,start,end\nSH600000,2021-03-01,2021-03-02\nSZ000001,2021-03-30,\n")
    import_universe("csi300", tmp_path / "index.csv", folder)
    with using(Session(provider_uri=str(folder))):
        frame = D.features(D.instruments("csi300"), ["$close"])
    rows = [(code, str(day.date())) for code, day in frame.index]
    assert rows == [("SH600000", "2021-03-01"), ("SH600000", "2021-03-02"), ("SZ000001", "2021-03-30")]


def test_members_without_data_are_named(folder: Path, tmp_path: Path) -> None:
    """Codes without data in the folder are left out and reported; if no others remain, that is an error."""
    (tmp_path / "index.csv").write_text(
        "code,start,end\nSH600000,2021-03-01,\nSH699999,2021-03-01,\nSZ000002,2009-01-01,2010-01-01\n"
    )
    made = import_universe("csi300", tmp_path / "index.csv", folder)
    assert list(members(folder, "csi300")) == ["SH600000"]
    assert "left out 1 instrument without data: SH699999" in made.notes
    assert "left out 1 instrument without a trading day of membership" in made.notes
    (tmp_path / "other.csv").write_text("600000.SH\n000001.SZ\n")
    with pytest.raises(DataNotFound, match=r"has 000001.SZ, 600000.SH, the folder has SH600000, SZ000001"):
        import_universe("other", tmp_path / "other.csv", folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "code,start,end\nSH600000,2021-03-10,2021-03-01\n",
            "line 2: the membership begins on 2021-03-10 and ends on 2021-03-01",
        ),
        ("code,start,end\nSH600000,2021-02-30,\n", "line 2: '2021-02-30' is not a date"),
        ("SH600000\t2021-03-01\n", "line 1: expected code, first day, last day"),
        ("2021-03-01,SH600000,SZ000001\n", 'quote lists of codes: 2024-01-02,"AAPL,MSFT"'),
        ('date,code\n2021-03-01,"SH600000,,SZ000001"\n', "line 2: an instrument is missing"),
        ("date,code\n2021-03-01,\n", "line 2: the instrument is missing"),
        ("code,start\n,2021-03-01\n", "line 2: the instrument is missing"),
        ("", "is empty"),
        ("start,end\n2021-03-01,2021-03-02\n", "no column of instruments"),
        ("code,start,end\nSH600000,2011-03-10,2011-03-11\n", "on any trading day"),
    ],
)
def test_an_invalid_list_changes_nothing(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    """There is one message with the line, and no file."""
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        import_universe("csi300", tmp_path / "index.csv", folder)
    assert [p.name for p in (folder / "instruments").iterdir()] == ["all.txt"]


def test_an_existing_universe_is_kept(folder: Path, tmp_path: Path) -> None:
    """A universe is replaced only on request; an invalid name and a missing file or folder are refused."""
    (tmp_path / "codes.txt").write_text("SH600000\n")
    before = members(folder, "all")
    with pytest.raises(DataError, match=r"already.*--overwrite"):
        import_universe("all", tmp_path / "codes.txt", folder)
    assert members(folder, "all") == before
    import_universe("all", tmp_path / "codes.txt", folder, overwrite=True)
    assert list(members(folder, "all")) == ["SH600000"]
    with pytest.raises(DataError, match="as a file name"):
        import_universe("../x", tmp_path / "codes.txt", folder)
    with pytest.raises(DataNotFound, match="There is no file"):
        import_universe("x", tmp_path / "nothing.txt", folder)
    with pytest.raises(DataNotFound, match="There is no data folder"):
        import_universe("x", tmp_path / "codes.txt", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "days", [5, None, "2020", "ab", ["2020-01-01"], [5], [["2020-01-01"]], [["2020-01-01"] * 3], {"a": "b"}]
)
def test_periods_that_are_not_pairs_are_refused(days: object, small_market: Path) -> None:
    """The error names the instrument and shows the right form."""
    with pytest.raises(ConfigError, match=r"instruments\.D0001: expected a list of pairs of days"):
        resolve_instruments(open_provider(small_market), {"D0001": days})
