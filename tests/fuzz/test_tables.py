"""Imported tables, members of universes, orders in files, and tables saved by runs."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from fuzzing import Target, as_json, fuzzed, json_values
from hypothesis import strategies as st

from rollforge.features.loader import StaticDataLoader
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.universe_import import import_universe
from rollforge.record.file_orders import FileOrderStrategy
from rollforge.track.artifact import load_file
from rollforge.track.frame import to_arrow, write_table

_folder = tempfile.TemporaryDirectory(prefix="fuzz-tables-")
DAYS = pd.bdate_range("2020-01-01", periods=8)


def parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    """Return a frame as the bytes of a Parquet file."""
    stream = io.BytesIO()
    frame.to_parquet(stream, **options)
    return stream.getvalue()


TABLE = pd.DataFrame(
    {
        "symbol": ["AAA"] * 8 + ["BBB"] * 8,
        "date": [*DAYS.strftime("%Y-%m-%d"), *DAYS.strftime("%Y-%m-%d")],
        "open": np.linspace(1, 2, 16),
        "close": np.linspace(1, 2, 16),
        "volume": np.arange(1, 17) * 1000,
    }
)
CSV = TABLE.to_csv(index=False).encode()
SEMICOLONS = TABLE.to_csv(index=False, sep=";", decimal=",").encode()
WORDS = [b"1,000", b"$1.5", b"153.7M", b"1e400", b"NaN", b";", b"\t", b"|", b'"', b"adj_close", b"factor", b"amount", b"instrument", b"change",
         "开盘".encode(), b"2020-01-01T00:00:00+08:00", b"1577836800000", b"01/02/2020", b"99999-01-01"]  # fmt: skip


def _import(suffix: str) -> Any:
    def run(data: bytes, folder: Path) -> Any:
        (folder / f"table{suffix}").write_bytes(data)
        return import_table(folder / f"table{suffix}", folder / "out" / "data")

    return run


def _import_folder(data: bytes, folder: Path) -> Any:
    (folder / "in").mkdir()
    (folder / "in" / "AAA.csv").write_bytes(data)
    (folder / "in" / "BBB.csv").write_bytes(b"date,close\n2020-01-01,1\n2020-01-02,2\n")
    return import_table(folder / "in", folder / "out" / "data")


ONE = TABLE[TABLE["symbol"] == "AAA"].drop(columns="symbol").to_csv(index=False).encode()
_cell = st.one_of(
    st.sampled_from(
        ["AAA", "BBB", "date", "symbol", "close", "2020-01-01", "2020-01-02", "1.5", "-1", "", "nan", "1e39", "x"]
    ),
    st.text(max_size=5),
)
_rows = st.lists(st.lists(_cell, min_size=1, max_size=5).map(",".join), max_size=6).map(
    lambda rows: "\n".join(["symbol,date,open,close,volume", *rows]).encode("utf-8", "surrogatepass")
)


@functools.cache
def market() -> Path:
    """A data folder of two instruments."""
    root = Path(_folder.name) / "data"
    days = DAYS.to_numpy().astype("datetime64[D]")
    values = np.arange(8, dtype=np.float32)
    write_folder(
        root, days, {c: (0, {"close": values}) for c in ("AAA", "BBB")}, {"all": {"AAA": [(days[0], days[7])]}}
    )
    return root


def _universe(suffix: str) -> Any:
    def run(data: bytes, folder: Path) -> Any:
        (folder / f"members{suffix}").write_bytes(data)
        target = market() / "instruments" / "fuzzed.txt"
        target.unlink(missing_ok=True)
        try:
            return import_universe("fuzzed", folder / f"members{suffix}", market())
        except Exception:
            assert not target.exists(), "a universe was written, although the import failed"
            assert not list(target.parent.glob(".*")), "a draft was left"
            raise

    return run


MEMBERS = [
    b"AAA\t2020-01-01\t2020-01-05\nBBB\t2020-01-02\t2020-01-09\n",
    b"symbol,in_date,out_date\nAAA,2020-01-01,\nBBB,2020-01-02,2020-01-06\n",
    b"date,code\n2020-01-01,AAA\n2020-01-01,BBB\n2020-01-03,AAA\n",
    b"AAA\nBBB\n",
]
MEMBERS_TABLE = pd.DataFrame(
    {"symbol": ["AAA", "BBB"], "start": ["2020-01-01", "2020-01-02"], "end": ["2020-01-05", None]}
)

ORDERS = b"datetime,instrument,amount,direction\n2020-01-01,AAA,100,buy\n2020-01-02,BBB,50.5,sell\n"


def _orders(data: bytes, folder: Path) -> Any:
    (folder / "orders.csv").write_bytes(data)
    return FileOrderStrategy(str(folder / "orders.csv")).instruments()


def _loader(suffix: str) -> Any:
    def run(data: bytes, folder: Path) -> Any:
        (folder / f"frame{suffix}").write_bytes(data)
        return StaticDataLoader(str(folder / f"frame{suffix}")).load(["AAA"], "2020-01-01", "2020-01-05")

    return run


INDEXED = pd.DataFrame(
    {"feature": np.arange(16.0), "label": np.arange(16.0)},
    index=pd.MultiIndex.from_product([DAYS, ["AAA", "BBB"]], names=["datetime", "instrument"]),
)


@fuzzed(
    Target("csv", _import(".csv"), [CSV, SEMICOLONS], WORDS, _rows),
    Target("csv-of-one", _import_folder, [ONE], WORDS),
    Target("csv-gz", _import(".csv.gz"), [__import__("gzip").compress(CSV, mtime=0)], [b"\x1f\x8b\x08"]),
    Target(
        "parquet",
        _import(".parquet"),
        [parquet(TABLE), parquet(TABLE, compression=None)],
        [b"pandas", b"null", b'"metadata"'],
    ),
    Target(
        "universe", _universe(".csv"), MEMBERS, [b"symbol", b"start", b"end", b"date", b"9999-12-31", b"0001-01-01"]
    ),
    Target("universe-parquet", _universe(".parquet"), [parquet(MEMBERS_TABLE)], [b"pandas"]),
    Target("orders", _orders, [ORDERS], [b"buy", b"sell", b"hold", b"nan", b"1e400", b'"']),
    Target("loaded-csv", _loader(".csv"), [INDEXED.to_csv().encode()], [b"datetime", b"instrument", b'"']),
    Target("loaded-parquet", _loader(".parquet"), [parquet(INDEXED)], [b"pandas", b"index_columns"]),
)
class TestTables:
    """Tables from elsewhere."""


# -- tables that runs keep ---------------------------------------------------------------------------------------------


def _kept(value: Any) -> bytes:
    file = Path(_folder.name) / "kept.parquet"
    table = to_arrow(value)
    assert table is not None
    write_table(table, file)
    return file.read_bytes()


def _artifact(data: bytes, folder: Path) -> Any:
    file = folder / "pred.frame.parquet"
    file.write_bytes(data)
    return load_file(file)


def _described(data: bytes, folder: Path) -> Any:
    """Read a table after replacing its description in the metadata."""
    file = folder / "pred.frame.parquet"
    file.write_bytes(FRAME)
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"rollforge": data}), file)
    return load_file(file)


def _pandas_described(data: bytes, folder: Path) -> Any:
    """Read a table after replacing pandas' own metadata."""
    file = folder / "pred.parquet"
    file.write_bytes(parquet(INDEXED))
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"pandas": data}), file)
    return load_file(file)


def _pandas_described_import(data: bytes, folder: Path) -> Any:
    file = folder / "table.parquet"
    file.write_bytes(parquet(TABLE))
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"pandas": data}), file)
    return import_table(file, folder / "out" / "data")


FRAME = _kept(INDEXED)
SERIES = _kept(INDEXED["feature"].rename("score"))
WIDE = _kept(
    pd.DataFrame(
        np.zeros((3, 2)),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]),
        index=pd.date_range("2020", periods=3, freq="D"),
    )
)


def _metadata(data: bytes, key: bytes) -> bytes:
    return pq.read_schema(io.BytesIO(data)).metadata[key]


ABOUT = [_metadata(f, b"rollforge") for f in (FRAME, SERIES, WIDE)]
PANDAS = [_metadata(parquet(INDEXED), b"pandas"), _metadata(parquet(TABLE), b"pandas")]
ABOUT_WORDS = [b'"kind"', b'"range"', b'"multi"', b'"plain"', b'"dtypes"', b'"datetime64[ns]"', b'"datetime64[ns, Europe/Berlin]"', b'"object"', b'"text"',
               b'"Int64"', b'"freq"', b'"names"', b'"period[D]"', b'"category"', b'{"$ref":"os:system"}', b"[0, 99999999999, 1]", b"null", b"[]"]  # fmt: skip


@fuzzed(
    Target("artifact-table", _artifact, [FRAME, SERIES, WIDE, parquet(INDEXED)], ABOUT_WORDS),
    Target("artifact-description", _described, ABOUT[:1], ABOUT_WORDS, json_values.map(as_json)),
    Target("artifact-of-pandas", _pandas_described, PANDAS[:1], ABOUT_WORDS, json_values.map(as_json)),
    Target("table-of-pandas", _pandas_described_import, PANDAS[1:], ABOUT_WORDS, json_values.map(as_json)),
)
class TestKeptTables:
    """Tables that runs keep, and those of others."""
