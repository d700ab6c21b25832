"""The test cases that Qlib's own tests derive from, on existing or synthetic data. Nothing is downloaded.

The demo market has the codes, universes and years that Qlib's tests use (``SH600519``, ``csi300``, ``SH000300``,
2005 to 2021) and the properties on which some of them rely. It is created once, in the cache folder. A data folder at
Qlib's default location takes precedence.
"""

from __future__ import annotations

import fcntl
import logging
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from rollforge.compat.qlib.config import init
from rollforge.compat.qlib.names import exists_qlib_data
from rollforge.dates import read_days
from rollforge.features.api import D
from rollforge.market.filters import NameDFilter
from rollforge.market.folder_writer import write_folder
from rollforge.market.new_folder import new_folder
from rollforge.market.provider import open_provider
from rollforge.session import current_session
from rollforge.task import Document

__all__ = ["MOCK_DATA", "MOCK_DF", "TestAutoData", "TestMockData", "TestOperatorData"]

log = logging.getLogger(__name__)

_FIRST = (
    "SH600519", "SH600110", "SZ300315", "SZ000001", "SH600000", "SZ000002", "SH600036", "SZ300750", "SZ300677", "SH600004",
    "SH601318",
)  # fmt: skip
_INSTRUMENTS = 380  # a seventh of them is listed late: 300 exist in every year except the first


def _home() -> Path:
    return Path(current_session().cache) / "demo"


def _place(theirs: str, name: str) -> str:
    """Return Qlib's default folder if it contains data, else that of the demo market."""
    return theirs if exists_qlib_data(theirs) else str(_home() / name)


@contextmanager
def _making(folder: Path) -> Iterator[bool]:
    """Return whether a data folder must still be created: one process creates it, the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield not exists_qlib_data(folder)
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too


def _adjust(market: Path) -> None:
    """Add the properties on which some of Qlib's tests rely to a demo market.

    The field ``change``. SH600519 is expensive; SZ300677 is listed on the 3001st day; SZ300315 is always a member of
    csi300 and never suspended; SH600110 is a member of csi300. In early 2005 and in January 2020 nothing is missing, so
    that labels exist, with some suspensions shortly before, so that some features are missing; on the 115th day one
    instrument is suspended, the 99th member of csi300.
    """
    provider = open_provider(market)
    days = provider.calendar()
    spans = provider.instruments("csi300") | {code: [(days[0], days[-1])] for code in ("SZ300315", "SH600110")}
    lines = [f"{code}\t{a}\t{b}\n" for code, listed in sorted(spans.items()) for a, b in listed]
    (market / "instruments" / "csi300.txt").write_text("".join(lines), encoding="utf-8")
    members = sorted(code for code, listed in spans.items() if any(a <= days[114] <= b for a, b in listed))
    whole = [
        np.searchsorted(days, span) for span in (_days("2005-01-04", "2005-08-31"), _days("2019-12-02", "2020-03-31"))
    ]
    begin, end = np.searchsorted(days, _days("2019-11-20", "2019-11-25"))
    for number, place in enumerate(sorted((market / "features").iterdir())):
        code = place.name.upper()
        for file in sorted(place.glob("*.day.bin")):
            stored = np.fromfile(file, "<f4")
            first, values = int(stored[0]), stored[1:]
            for low, high in [(0, len(days))] if code == "SZ300315" else whole:
                part = slice(max(low - first, 0), max(high - first, 0))
                values[part] = pd.Series(values[part]).ffill().bfill().to_numpy()
            if number % 7 == 0 and first < begin and code != "SZ300315":
                values[begin - first : end - first] = np.nan
            if code == "SH600519" and file.name.split(".")[0] in _PRICES:
                values *= 10
            if code == members[98]:
                values[114 - first] = np.nan
            if code == "SZ300677" and first < 3000:
                first, values = 3000, values[3000 - first :]
            np.concatenate([[first], values]).astype("<f4").tofile(file)
        stored = np.fromfile(place / "close.day.bin", "<f4")
        close = pd.Series(stored[1:])
        change = close / close.ffill().shift() - 1
        np.concatenate([stored[:1], change.to_numpy("<f4")]).tofile(place / "change.day.bin")


_PRICES = ("open", "high", "low", "close", "vwap")


def _days(*written: str) -> np.ndarray:
    return np.array(written, "datetime64[D]")


def _make_market(folder: Path) -> None:
    """Write the demo market, unless it exists."""
    from rollforge.market.demo import make_demo

    with _making(folder) as needed:
        if not needed:
            return
        log.warning("Qlib's data are not available; the tests run on a demo market, which is stored in %s", folder)
        others = (
            f"{exchange}{600200 + i if exchange == 'SH' else i + 10:06d}"
            for i in range(_INSTRUMENTS)
            for exchange in ("SH", "SZ")
        )
        codes = [*_FIRST, *others][:_INSTRUMENTS]
        draft = folder.with_name(f".{folder.name}.draft")
        make_demo(
            draft, instruments=_INSTRUMENTS, start="2005-01-01", end="2021-06-11", codes=codes, overwrite=True,
            universes=["csi300", "csi100", "csi500"], benchmarks=["SH000300", "SH000903", "SH000905"],
        )  # fmt: skip
        _adjust(draft)
        draft.rename(folder)


class TestAutoData(unittest.TestCase):
    """Base test case with daily data; `_setup_kwargs` are passed to ``qlib.init``."""

    _setup_kwargs: ClassVar[Document] = {}
    provider_uri = _place("~/.qlib/qlib_data/cn_data_simple", "qlib-tests-2021")
    provider_uri_1day = _place("~/.qlib/qlib_data/cn_data", "qlib-tests-2021")
    provider_uri_1min = "~/.qlib/qlib_data/cn_data_1min"

    @classmethod
    def setUpClass(cls, enable_1d_type: str = "simple", enable_1min: bool = False) -> None:
        """Set up; create the demo market first if there are no data.

        Raises
        ------
        SkipTest
            For minute data.
        """
        if enable_1min:
            raise unittest.SkipTest("Rollforge computes on daily data; this test needs minute data.")
        uri = {"simple": cls.provider_uri, "full": cls.provider_uri_1day}[enable_1d_type]
        if not exists_qlib_data(uri):
            _make_market(Path(uri))
        init(provider_uri=uri, region="cn", expression_cache=None, dataset_cache=None, **cls._setup_kwargs)


class TestOperatorData(TestAutoData):
    """One instrument of csi300, its spans, and the trading days of 2005."""

    instruments_d: ClassVar[dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]]]
    cal: ClassVar[np.ndarray]
    start_time: ClassVar[pd.Timestamp]
    end_time: ClassVar[pd.Timestamp]
    inst: ClassVar[str]
    spans: ClassVar[list[tuple[pd.Timestamp, pd.Timestamp]]]

    @classmethod
    def setUpClass(cls, enable_1d_type: str = "simple", enable_1min: bool = False) -> None:
        """Set up."""
        super().setUpClass(enable_1d_type, enable_1min)
        chosen = D.instruments("csi300", filter_pipe=[NameDFilter(name_rule_re="SH600110")])
        cls.instruments_d = D.list_instruments(chosen)
        cls.cal = D.calendar("2005-01-04", "2005-12-31")
        cls.start_time, cls.end_time = cls.cal[0], cls.cal[-1]
        cls.inst, cls.spans = next(iter(cls.instruments_d.items()))


# -- a few rows for tests that compute by hand -------------------------------------------------------------------------


def _mock() -> pd.DataFrame:
    """Two instruments on overlapping days. Prices are quarters, and quarters are exact in float32."""
    days = np.arange(np.datetime64("2021-12-01"), np.datetime64("2022-02-26"))
    closed = (days > np.datetime64("2022-01-26")) & (days < np.datetime64("2022-02-07"))  # for the new year
    days = days[np.is_busday(days) & ~closed]
    january = days[(days >= np.datetime64("2022-01-03")) & (days <= np.datetime64("2022-01-26"))]
    frames = []
    for number, symbol, own, level in ((1, "0050", january, 146), (2, "1101", days, 47)):
        row = np.arange(len(own))
        close = level + ((row * 7919 * number) % 13 - 6) / 4
        first = close - ((row * 104729) % 5 - 2) / 4
        frame = {
            "symbol": symbol, "datetime": [f"{day} 00:00:00" for day in own], "interval": "day",
            "volume": 5000.0 + (row * 1299709 * number) % 9000,
            "open": first, "high": np.maximum(first, close) + 0.5, "low": np.minimum(first, close) - 0.25, "close": close,
        }  # fmt: skip
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True).rename_axis("id").reset_index()


def _write_mock(folder: Path) -> None:
    """Write the rows as a data folder."""
    days = read_days(sorted(MOCK_DF["datetime"].unique()))
    series, spans = {}, {}
    for symbol, rows in MOCK_DF.groupby("symbol"):
        own = read_days(rows["datetime"])
        life = slice(int(np.searchsorted(days, own[0])), int(np.searchsorted(days, own[-1], "right")))
        fields = {}
        for name in ("volume", "open", "high", "low", "close"):
            fields[name] = np.full(life.stop - life.start, np.nan)
            fields[name][np.searchsorted(days[life], own)] = rows[name]
        series[str(symbol)] = (life.start, fields)
        spans[str(symbol)] = [(own[0], own[-1])]
    with new_folder(folder, overwrite=True) as draft:
        write_folder(draft, days, series, {"all": spans})


MOCK_DF = _mock()
"""Columns id, symbol, datetime, interval, volume, open, high, low, close."""
MOCK_DATA: str = MOCK_DF.to_csv(index=False)


class TestMockData(unittest.TestCase):
    """Base test case with only the rows of :data:`MOCK_DF`."""

    _setup_kwargs: ClassVar[Document] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """Set up."""
        folder = _home() / "qlib-mock"
        with _making(folder) as needed:
            if needed:
                _write_mock(folder)
        init(provider_uri=str(folder), region="tw", expression_cache=None, dataset_cache=None, **cls._setup_kwargs)
