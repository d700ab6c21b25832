"""Files as vendors write them are read as they are, and the summary says what was taken for what.

Each file has two days with open 10 and 11, close 11 and 12, volume 1000 and 2000 (or 10 and 20 lots), written by hand.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.documents.command_line import call

import rollforge
from rollforge import D
from rollforge.errors import ConfigError, DataError
from rollforge.market.append import append_table
from rollforge.market.importer import import_table
from rollforge.market.layouts import is_chinese

CHINESE = (
    "日期,股票代码,开盘,收盘,最高,最低,成交量,成交额,换手率\n"
    "2024-01-02,000001,10,11,12,9,10,11000,1\n2024-01-03,000001,11,12,13,10,20,23000,1\n"
)
KLINES = (
    "1704153600000,10,12,9,11,1000,1704239999999,11000,5,500,5500,0\n"
    "1704240000000,11,13,10,12,2000,1704326399999,23000,5,500,5500,0\n"
)

# name of the file -> its text, encoding, code, what was taken for what, vwap of the two days
LAYOUTS: dict[str, tuple[str, str, str, dict[str, str], tuple[float, float]]] = {
    "akshare.csv": (
        CHINESE, "gb18030", "000001",
        {"datetime": "日期", "instrument": "股票代码", "open": "开盘", "close": "收盘", "high": "最高", "low": "最低",
         "volume": "成交量", "amount": "成交额", "turnover_rate": "换手率"},
        (11.0, 11.5),
    ),
    "tushare.csv": (
        "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount\n"
        "000001.SZ,20240102,10,12,9,11,10,1,10,10,11\n000001.SZ,20240103,11,13,10,12,11,1,9.0909,20,23\n",
        "utf-8", "000001.SZ", {"instrument": "ts_code", "datetime": "trade_date", "volume": "vol"}, (11.0, 11.5),
    ),
    "baostock.csv": (
        "date,code,open,high,low,close,preclose,volume,amount,adjustflag,turn,tradestatus,pctChg,isST\n"
        "2024-01-02,sh.600000,10,12,9,11,10,1000,11000,3,0.1,1,10,0\n"
        "2024-01-03,sh.600000,11,13,10,12,11,2000,23000,3,0.1,1,9.0909,0\n",
        "utf-8", "SH.600000", {"datetime": "date", "instrument": "code"}, (11.0, 11.5),
    ),
    "BTCUSDT-1d-2024-01.csv": (
        KLINES, "utf-8", "BTCUSDT", {"datetime": "open_time", "instrument": "the name of the file"}, (11.0, 11.5),
    ),
    "ETHUSDT.csv": (
        KLINES.replace("0000,", "0000000,").replace("9999,", "9999999,"), "utf-8", "ETHUSDT",
        {"datetime": "open_time", "instrument": "the name of the file"}, (11.0, 11.5),
    ),
    "kaggle.csv": (
        "date,open,high,low,close,volume,Name\n2024-01-02,10,12,9,11,1000,AAL\n2024-01-03,11,13,10,12,2000,AAL\n",
        "utf-8", "AAL", {"datetime": "date", "instrument": "Name"}, (10.5, 11.5),
    ),
    "stooq.txt": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "AAPL.US,D,20240102,000000,10,12,9,11,1000,0\nAAPL.US,D,20240103,000000,11,13,10,12,2000,0\n",
        "utf-8", "AAPL.US",
        {"instrument": "<TICKER>", "datetime": "<DATE>", "open": "<OPEN>", "high": "<HIGH>", "low": "<LOW>",
         "close": "<CLOSE>", "volume": "<VOL>", "openint": "<OPENINT>"},
        (10.5, 11.5),
    ),
    "yfinance.csv": (
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
        "2024-01-02,11,12,9,10,1000\n2024-01-03,12,13,10,11,2000\n",
        "utf-8", "AAPL", {"instrument": "Ticker", "datetime": "Date"}, (10.5, 11.5),
    ),
    "aapl.csv": (
        "Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02,10,12,9,11,11,1000\n2024-01-03,11,13,10,12,12,2000\n",
        "utf-8", "AAPL", {"datetime": "Date", "adj_close": "Adj Close", "instrument": "the name of the file"},
        (10.5, 11.5),
    ),
    "LOW.csv": (  # grouped by ticker, which is the name of a field, too
        "Ticker,LOW,LOW,LOW,LOW,LOW,LOW\nPrice,Open,High,Low,Close,Volume,Repaired?\nDate,,,,,,\n"
        "2024-01-02,10,12,9,11,1000,False\n2024-01-03,11,13,10,12,2000,False\n",
        "utf-8", "LOW", {"instrument": "Ticker", "datetime": "Date"}, (10.5, 11.5),
    ),
    "datareader.csv": (
        "Attributes,Close,High,Low,Open,Volume\nSymbols,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
        "2024-01-02,11,12,9,10,1000\n2024-01-03,12,13,10,11,2000\n",
        "utf-8", "AAPL", {"instrument": "Ticker", "datetime": "Date"}, (10.5, 11.5),
    ),
    "isin.csv": (
        "date,isin,sector,open,high,low,close,volume\n2024-01-02,US1,Steel,10,12,9,11,1000\n"
        "2024-01-03,US1,Steel,11,13,10,12,2000\n",
        "utf-8", "US1", {"datetime": "date", "instrument": "isin"}, (10.5, 11.5),
    ),
    "seconds.csv": (
        "time,symbol,open,high,low,close,volume\n1704153600,A,10,12,9,11,1000\n1704240000,A,11,13,10,12,2000\n",
        "utf-8", "A", {"datetime": "time", "instrument": "symbol"}, (10.5, 11.5),
    ),
    "microseconds.csv": (
        "open_time,symbol,open,high,low,close,volume\n"
        "1704153600000000,A,10,12,9,11,1000\n1704240000000000,A,11,13,10,12,2000\n",
        "utf-8", "A", {"datetime": "open_time", "instrument": "symbol"}, (10.5, 11.5),
    ),
    "decimal-comma.csv": (
        "Datum;Symbol;Open;High;Low;Close;Volume\n"
        "2024-01-02;A;10,0;12,0;9,0;11,0;1000\n2024-01-03;A;11,0;13,0;10,0;12,0;2000\n",
        "utf-8-sig", "A", {"datetime": "Datum", "instrument": "Symbol"}, (10.5, 11.5),
    ),
    "utf-16.csv": (
        "Date\tSymbol\tOpen\tHigh\tLow\tClose\tVolume\n2024-01-02\tA\t10\t12\t9\t11\t1000\n2024-01-03\tA\t11\t13\t10\t12\t2000\n",
        "utf-16", "A", {"datetime": "Date", "instrument": "Symbol"}, (10.5, 11.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognized(name: str, tmp_path: Path) -> None:
    """The values in the folder are those of the file, under Qlib's names."""
    text, encoding, code, taken, vwap = LAYOUTS[name]
    (tmp_path / name).write_text(text, encoding=encoding, newline="")
    summary = import_table(tmp_path / name, tmp_path / "market")
    assert dict(summary.sources) == taken
    rollforge.init(provider_uri=tmp_path / "market")
    fields = ["$open", "$high", "$low", "$close", "$volume", "$vwap"]
    found = D.features([code], fields)
    lots = 0.01 if name in ("akshare.csv", "tushare.csv") else 1.0
    expected = [[10, 12, 9, 11, 1000 * lots, vwap[0]], [11, 13, 10, 12, 2000 * lots, vwap[1]]]
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-6)
    days = found.index.get_level_values("datetime").strftime("%Y-%m-%d")
    assert list(days) == ["2024-01-02", "2024-01-03"]


ROWS = "2024-01-02,10,12,9,11,1000\n2024-01-03,11,13,10,12,2000\n"


def test_the_command_says_that_the_file_names_the_instrument(tmp_path: Path) -> None:
    """A file without a column of instruments has one instrument, so its name decides."""
    (tmp_path / "brk-b.csv").write_text(f"Date,Open,High,Low,Close,Volume\n{ROWS}")
    done = call("data", "import", tmp_path / "brk-b.csv", tmp_path / "market")
    assert done.exit_code == 0
    assert "all rows are of 'BRK-B', by the name of the file" in done.stdout
    assert "instrument from the name of the file" in done.stdout


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("Date,Open,High,Low,Close,Volume", ROWS + ROWS),
        ("Date,Open,High,Low,Close,Sector", ROWS),
        ("Date,Open,High,Low,Settle,Volume", ROWS),
    ],
    ids=["two rows on a day", "another column", "no close"],
)
def test_other_files_need_a_column_of_instruments(header: str, rows: str, tmp_path: Path) -> None:
    """Several instruments in such a file would all become one."""
    (tmp_path / "aapl.csv").write_text(f"{header}\n{rows}")
    with pytest.raises(DataError, match="no column of instruments"):
        import_table(tmp_path / "aapl.csv", tmp_path / "market")


HEADER = "Date,Open,High,Low,Close,Volume\n"


def test_new_days_of_a_file_that_is_named_by_its_instrument(tmp_path: Path) -> None:
    """The command reads new days of one instrument as the import reads them; ``--dry-run`` shows it, and writes nothing."""
    market = tmp_path / "market"
    for name in ("aapl.csv", "brk-b.csv"):
        (tmp_path / "first").mkdir(exist_ok=True)
        (tmp_path / "first" / name).write_text(HEADER + ROWS)
    import_table(tmp_path / "first", market)
    (tmp_path / "brk-b.csv").write_text(HEADER + "2024-01-03,11,13,10,12,2000\n2024-01-04,12,14,11,13,3000\n")
    for option, ends in (("--dry-run", "2024-01-03"), ("--json", "2024-01-04")):
        done = call("data", "append", tmp_path / "brk-b.csv", market, option)
        assert done.exit_code == 0, done.stderr
        assert "all rows are of 'BRK-B', by the name of the file" in done.stdout
        assert (market / "calendars" / "day.txt").read_text().split()[-1] == ends
    rollforge.init(provider_uri=market)
    found = D.features(["AAPL", "BRK-B"], ["$close"]).xs("2024-01-04", level="datetime")
    assert found["$close"].to_dict() == {"BRK-B": 13.0}


def test_a_file_of_new_days_that_is_not_named_by_an_instrument_is_refused(tmp_path: Path) -> None:
    """A file is often named by its day, which would become an instrument; a similar name is suggested."""
    (tmp_path / "googl.csv").write_text(HEADER + ROWS)
    import_table(tmp_path / "googl.csv", tmp_path / "market")
    before = {file: file.read_bytes() for file in (tmp_path / "market").rglob("*") if file.is_file()}
    for name, advice in (("2024-01-04", ""), ("goog", " Did you mean 'GOOGL'?")):
        (tmp_path / f"{name}.csv").write_text(HEADER + "2024-01-04,11,13,10,12,2000\n")
        expected = f"has no instrument {name.upper()!r}, which is the name of the file.{advice} Name the file by its"
        with pytest.raises(DataError, match=re.escape(expected)):
            append_table(tmp_path / f"{name}.csv", tmp_path / "market")
    assert {file: file.read_bytes() for file in (tmp_path / "market").rglob("*") if file.is_file()} == before


def test_a_folder_of_yahoo_is_adjusted(tmp_path: Path) -> None:
    """Files are named by their instruments; prices are multiplied by adjusted close / close; a text beside them is no
    table."""
    folder = tmp_path / "files"
    folder.mkdir()
    header = "Date,Open,High,Low,Close,Adj Close,Volume\n"
    (folder / "AAPL.csv").write_text(f"{header}2024-01-02,10,12,9,11,5.5,1000\n2024-01-03,11,13,10,12,12,2000\n")
    (folder / "MSFT.csv").write_text(f"{header}2024-01-02,10,12,9,11,11,1000\n2024-01-03,11,13,10,12,12,2000\n")
    (folder / "README.txt").write_text("from Yahoo\n")
    done = call("data", "import", folder, tmp_path / "market")
    assert done.exit_code == 0
    assert "taken: datetime from Date, adj_close from Adj Close, instrument from the name of the file" in done.stdout
    rollforge.init(provider_uri=tmp_path / "market")
    found = D.features(["AAPL", "MSFT"], ["$open", "$close", "$volume", "$factor"])
    expected = [[5, 5.5, 2000, 0.5], [11, 12, 2000, 1], [10, 11, 1000, 1], [11, 12, 2000, 1]]
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-6)


BESIDE = {
    "by field": "Price,Close,Close,Open,Open,Volume,Volume\nTicker,A,OPEN,A,OPEN,A,OPEN\nDate,,,,,,\n",
    "by ticker": "Ticker,A,OPEN,A,OPEN,A,OPEN\nPrice,Close,Close,Open,Open,Volume,Volume\nDate,,,,,,\n",
    "numbered": "Price,Close,Close.1,Open,Open.1,Volume,Volume.1\nTicker,A,OPEN,A,OPEN,A,OPEN\nDate,,,,,,\n",
    "without names": ",Close,Close,Open,Open,Volume,Volume\n,A,OPEN,A,OPEN,A,OPEN\nDate,,,,,,\n",
}


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
@pytest.mark.parametrize("header", BESIDE.values(), ids=BESIDE)
def test_several_tickers_beside_each_other(header: str, form: str, tmp_path: Path) -> None:
    """``yfinance`` has one column for each field and ticker; a day before a listing is no row."""
    source: Any = tmp_path / "t.csv"
    source.write_text(f"{header}2024-01-02,11,,10,,1000,\n2024-01-03,12,22,11,21,2000,7\n")
    if form != "csv":
        frame = pd.read_csv(source, header=[0, 1], index_col=0, skiprows=[2], parse_dates=[0])
        frame.columns.names = [line.partition(",")[0] or None for line in header.splitlines()[:2]]
        frame.index.name = "Date"
        source = frame if form == "frame" else tmp_path / "t.parquet"
        if form == "parquet":
            frame.to_parquet(source)
    summary = import_table(source, tmp_path / "market")
    assert (summary.instruments, summary.rows) == (2, 3)
    rollforge.init(provider_uri=tmp_path / "market")
    found = D.features(["A", "OPEN"], ["$open", "$close"])
    np.testing.assert_allclose(found.to_numpy(), [[10, 11], [11, 12], [21, 22]])


def test_a_price_beside_open_high_and_low_is_the_close(tmp_path: Path) -> None:
    """Files of investing.com are called so, and begin with the latest day."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "AMZN.csv").write_text(
        "Date,Price,Open,High,Low,Vol.,Change %\n"
        '"Jan 03, 2024",12,11,13,10,2.00K,9.09%\n"Jan 02, 2024",11,10,12,9,1.00K,10.00%\n'
    )
    summary = import_table(tmp_path / "files", tmp_path / "market")
    assert summary.sources["close"] == "Price"
    rollforge.init(provider_uri=tmp_path / "market")
    found = D.features(["AMZN"], ["$open", "$close", "$volume"])
    np.testing.assert_allclose(found.to_numpy(), [[10, 11, 1000], [11, 12, 2000]])


def test_a_line_above_the_header(tmp_path: Path) -> None:
    """CryptoDataDownload writes its address there; lines are counted with it."""
    text = "https://www.CryptoDataDownload.com\nunix,date,symbol,close\n1704153600000,2024-01-02,BTCUSDT,{}\n"
    (tmp_path / "t.csv").write_text(text.format(42))
    summary = import_table(tmp_path / "t.csv", tmp_path / "market")
    assert summary.notes[0] == "the first line was left out, because it has one value: the second one is the header"
    (tmp_path / "t.csv").write_text(text.format("none at all"))
    with pytest.raises(DataError, match="line 3: close is 'none at all'"):
        import_table(tmp_path / "t.csv", tmp_path / "other")


def test_a_daily_stock_file_of_crsp(tmp_path: Path) -> None:
    """Prices are adjusted for a split of 2 for 1 on the third day. On the second day there was no trade; the return on the
    first day and the volume of the last are missing. PERMNO is the instrument, as its ticker changes."""
    (tmp_path / "dsf.csv").write_text(
        "PERMNO,date,TICKER,PRC,OPENPRC,BIDLO,ASKHI,VOL,RET,CFACPR\n"
        "10001,2024-01-02,OLD,100,99,98,101,1000,C,2\n10001,2024-01-03,OLD,-102,,-101,-103,0,0.02,2\n"
        "10001,2024-01-04,NEW,51,50,49,52,2000,0.0,1\n10001,2024-01-05,NEW,52,51,50,53,-99,0.0196,1\n"
    )
    done = call("data", "import", tmp_path / "dsf.csv", tmp_path / "market")
    assert done.exit_code == 0, done.stderr
    for name in ("close", "high", "low"):
        assert f"{name} was made positive in 1 row: it is the mean of bid and ask there" in done.stdout
    assert "adj_factor is 1 / CFACPR, which adjusts for splits, but not for dividends" in done.stdout
    rollforge.init(provider_uri=tmp_path / "market")
    found = D.features(["10001"], ["$open", "$high", "$low", "$close", "$volume", "$factor", "$ret"])
    nan = np.nan
    expected = [
        [49.5, 50.5, 49, 50, 2000, 0.5, nan], [nan, 51.5, 50.5, 51, 0, 0.5, 0.02],
        [50, 52, 49, 51, 2000, 1, 0], [51, 53, 50, 52, nan, 1, 0.0196],
    ]  # fmt: skip
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-6)


ROW_OF_A = {"date": "2024-01-02", "symbol": "A", "open": 10, "high": 12, "low": 9, "close": 11, "volume": 1000}


@pytest.mark.parametrize(
    "form", ["day files", "day files with days", "parts", "symbol=A", "date=2024-01-02", "year=2024"]
)
def test_a_folder_of_files_that_are_not_named_by_instruments(form: str, tmp_path: Path) -> None:
    """A file may have all instruments on a day, or a part of the table; what Spark and Polars put into the names of folders
    is a column."""
    table = pd.DataFrame(
        [{**ROW_OF_A, "date": d, "symbol": s, "close": c} for s, d, c in (
            ("A", "2024-01-02", 11), ("A", "2024-01-03", 12), ("B", "2024-01-02", 10), ("B", "2024-01-03", 9)
        )]
    )  # fmt: skip
    folder = tmp_path / "files"
    folder.mkdir()
    if form == "year=2024":
        days = table.pop("date").str.split("-", expand=True).astype(int)
        table.assign(year=days[0], month=days[1], day=days[2]).to_parquet(
            folder, partition_cols=["year", "month", "day"]
        )
        assert (folder / form / "month=1" / "day=2").is_dir()
    elif "=" in form:
        table.to_parquet(folder, partition_cols=[form.partition("=")[0]])
        assert (folder / form).is_dir()
    elif form == "parts":
        for i, (_, part) in enumerate(table.groupby("symbol")):
            part.to_parquet(folder / f"part-{i:05}.parquet")
    else:
        for day, part in table.groupby("date"):
            kept = part if form == "day files with days" else part.drop(columns="date")
            kept.rename(columns={"symbol": "Name"}).to_csv(folder / f"{day}.csv", index=False)
    summary = import_table(folder, tmp_path / "market")
    assert (summary.instruments, summary.rows, str(summary.last)) == (2, 4, "2024-01-03")
    rollforge.init(provider_uri=tmp_path / "market")
    assert D.features(["A", "B"], ["$close"])["$close"].tolist() == [11, 12, 10, 9]
    by_name = "of each row: by the name of its file or folder" in str(summary)
    assert by_name == (form not in ("parts", "day files with days"))


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("SH600000", "600000", "SH600000"), ("SH600000", "600000.XSHG", "SH600000"), ("000001", "1", "000001"),
        ("AAPL", "NASDAQ:AAPL", "AAPL"), ("META", "FB", "META"), ("AAPL", "", "AAPL"), ("10000621", "0", "10000621"),
        ("part-0001", "AAPL", "AAPL"), ("data_3", "AAPL", "AAPL"), ("2024-01-02", "AAPL", "AAPL"),
    ],
)  # fmt: skip
def test_a_file_is_named_by_its_instrument_or_by_something_else(
    name: str, code: str, expected: str, tmp_path: Path
) -> None:
    """The name of the file counts more than its column of instruments, unless it is a day or that of a part of a table."""
    (tmp_path / "files").mkdir()
    row = ",".join(map(str, {**ROW_OF_A, "symbol": code}.values()))
    (tmp_path / "files" / f"{name}.csv").write_text(",".join(ROW_OF_A) + f"\n{row}\n")
    import_table(tmp_path / "files", tmp_path / "market")
    (line,) = (tmp_path / "market" / "instruments" / "all.txt").read_text().splitlines()
    assert line.split("\t")[0] == expected


@pytest.mark.parametrize("wanted", ["price", "prc", "crsp", "ticker"])
def test_what_the_user_chooses_is_kept(wanted: str, tmp_path: Path) -> None:
    """A column that would get another name keeps it, and a sign is only changed in files of CRSP."""
    header = {
        "price": "date,symbol,price,open,high,low",
        "prc": "date,symbol,prc,open,high,low",
        "crsp": "date,permno,prc,bid,ask",
    }
    text = header.get(wanted, "date,ticker,prc,permno,high,low")
    wanted = "prc" if wanted == "crsp" else wanted
    (tmp_path / "t.csv").write_text(f"{text}\n2024-01-02,A,{'-' * (wanted == 'prc')}5,1,1{',1' * ('open' in text)}\n")
    columns = {"ticker": "instrument"} if wanted == "ticker" else {wanted: wanted}
    import_table(tmp_path / "t.csv", tmp_path / "market", columns=columns)
    rollforge.init(provider_uri=tmp_path / "market")
    field = "prc" if wanted == "ticker" else wanted
    assert D.features(["A"], [f"${field}"]).iloc[0, 0] == (-5 if wanted == "prc" else 5)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_header_may_span_lines(encoding: str, tmp_path: Path) -> None:
    """Quoted names have line ends, and other encodings have bytes that look like them."""
    text = (
        '"Symbol\n(code)",date,close\nA,2024-01-02,5\n'
        if encoding == "utf-8"
        else "上市代码,date,close\nA,2024-01-02,5\n"
    )
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    columns = {"Symbol\n(code)" if encoding == "utf-8" else "上市代码": "instrument"}
    assert import_table(tmp_path / "t.csv", tmp_path / "market", columns=columns).rows == 1


def test_a_header_of_other_columns_is_refused(tmp_path: Path) -> None:
    """A column that occurs twice is named, unless the header has tickers; so is a field that a ticker has twice."""
    rows = "2024-01-02,11,12\n2024-01-03,12,13\n"
    for lines in ("Date,A,A\n", "Price,Close,Close\nTicker,A,A\nDate,,\n", "x,Gold,Gold\ny,A,B\nDate,,\n"):
        (tmp_path / "t.csv").write_text(lines + rows)
        twice = lines.partition("\n")[0].rpartition(",")[2]
        with pytest.raises(DataError, match=f"the column '{twice}' more than once"):
            import_table(tmp_path / "t.csv", tmp_path / "market")


def test_a_table_with_a_column_for_each_instrument(tmp_path: Path) -> None:
    """The message says how to make it a table with a row for each instrument and day."""
    (tmp_path / "t.csv").write_text("Date,AAPL,MSFT\n2024-01-02,11,12\n2024-01-03,12,13\n")
    with pytest.raises(DataError) as refused:
        import_table(tmp_path / "t.csv", tmp_path / "market")
    advice = "table.melt('Date', var_name='instrument', value_name='close')"
    assert str(refused.value).endswith(f"make a row for each instrument and day first, in pandas with {advice}.")
    table = pd.read_csv(tmp_path / "t.csv").melt("Date", var_name="instrument", value_name="close")
    assert import_table(table, tmp_path / "market").instruments == 2


def test_files_of_binances_archive_are_one_instrument(tmp_path: Path) -> None:
    """The month in the name of a file is not part of the code."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "BTCUSDT-1d-2024-01.csv").write_text(KLINES)
    later = KLINES.replace("1704153600000", "1706745600000").replace("1704240000000", "1706832000000")
    later = later.replace("1704239999999", "1706831999999").replace("1704326399999", "1706918399999")
    (folder / "BTCUSDT-1d-2024-02.csv").write_text(later)
    summary = import_table(folder, tmp_path / "market")
    assert (summary.instruments, summary.rows, str(summary.last)) == (1, 4, "2024-02-02")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """What would be imported is printed, and mistakes are reported."""
    (tmp_path / "t.csv").write_text(LAYOUTS["tushare.csv"][0])
    done = call("data", "import", tmp_path / "t.csv", tmp_path / "market", "--dry-run")
    assert done.exit_code == 0
    assert "1 instrument x 2 days, 2024-01-02 to 2024-01-03" in done.stdout
    assert done.stdout.endswith(
        "  taken: instrument from ts_code, datetime from trade_date, volume from vol\nNothing was written.\n"
    )
    assert not (tmp_path / "market").exists()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column of days"):
        import_table(tmp_path / "t.csv", tmp_path / "market", dry_run=True)


@pytest.mark.parametrize(
    ("header", "chinese"),
    [
        ("日期,开盘".encode("gbk"), True), ("日期,开盘".encode(), False), (b"date,open", False),
        ("größe,höhe".encode("latin-1"), False), ("价值,数".encode("gbk"), False),
    ],
)  # fmt: skip
def test_only_known_chinese_headers_change_the_encoding(header: bytes, chinese: bool) -> None:
    """Any bytes are some text in GB 18030, so a known column has to be there."""
    assert is_chinese(header) == chinese


def test_other_files_without_a_header_still_need_names(tmp_path: Path) -> None:
    """Twelve columns alone are not klines: the seventh is the end of the bar."""
    (tmp_path / "t.csv").write_text(KLINES.replace("1704239999999", "1604239999999"))
    with pytest.raises(DataError, match="seems to have no header line"):
        import_table(tmp_path / "t.csv", tmp_path / "market")


# -- trading days ------------------------------------------------------------------------------------------------------


def days_file(folder: Path, days: list[str]) -> Path:
    rows = "".join(f"{day},A,10,12,9,11,1000\n" for day in days)
    (folder / "days.csv").write_text(f"date,symbol,open,high,low,close,volume\n{rows}")
    return folder / "days.csv"


def test_days_are_compared_with_those_of_an_exchange(tmp_path: Path) -> None:
    """New York was closed on 1 and 15 January 2024, and open on the 3rd and the 16th."""
    pytest.importorskip("exchange_calendars", reason="not installed: pip install 'rollforge[calendars]'")
    file = days_file(tmp_path, ["2024-01-02", "2024-01-04", "2024-01-05", "2024-01-08"])
    done = call("data", "import", file, tmp_path / "market", "--exchange", "XNYS", "--dry-run")
    assert "calendar of XNYS: 1 day without rows: 2024-01-03" in done.stdout
    file = days_file(tmp_path, ["2024-01-12", "2024-01-15", "2024-01-16"])
    (note, *_) = import_table(file, tmp_path / "market", dry_run=True, exchange="NYSE").notes
    assert note == "calendar of NYSE: 1 day in the table on which it was closed: 2024-01-15"
    file = days_file(tmp_path, ["2024-01-12", "2024-01-16"])
    (note, *_) = import_table(file, tmp_path / "market", dry_run=True, exchange="XNYS").notes
    assert note == "calendar of XNYS: the days are the same, 2 trading days"
    with pytest.raises(ConfigError, match=r"no calendar 'XNYX'\. Did you mean 'XNYS'"):
        import_table(file, tmp_path / "market", exchange="XNYX")
    assert not (tmp_path / "market").exists()


@pytest.mark.skipif(find_spec("exchange_calendars") is not None, reason="exchange_calendars is installed")
def test_without_the_package_the_message_names_the_extra(tmp_path: Path) -> None:
    """Nothing is written."""
    with pytest.raises(ConfigError, match=r"--exchange: .*pip install 'rollforge\[calendars\]'"):
        import_table(days_file(tmp_path, ["2024-01-12"]), tmp_path / "market", exchange="XNYS")
    assert not (tmp_path / "market").exists()
