"""Layouts of price files that have no usual header: Binance's klines, Yahoo's header of three lines, Chinese encodings."""

from __future__ import annotations

import re

import pandas as pd

from rollforge.market.columns import is_translated

__all__ = ["code_of", "is_chinese", "kline_names", "unstacked"]

_KLINES = [
    "open_time", "open", "high", "low", "close", "volume", "_close_time", "amount", "trades", "taker_volume",
    "taker_amount", "_unused",
]  # fmt: skip
"""The columns of a kline; a name that begins with an underscore is left out. `amount` is the volume in the quoted asset."""
_EPOCH = re.compile(r"[0-9]{13}([0-9]{3})?")
"""Milliseconds; since 2025 Binance's files have microseconds."""
_ARCHIVE = re.compile(r"([A-Z0-9]+)-[0-9]{1,2}(?:m|h|d|w|mo|M)-[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?")
"""The name of a file in Binance's archive: ``BTCUSDT-1d-2024-01``."""


def kline_names(line: bytes) -> list[str] | None:
    """Return the names of the columns of a file without a header, if its first line is one of Binance's klines.

    Examples
    --------
    >>> line = b"1704153600000,10,12,9,11,1000,1704239999999,11000,5,500,5500,0"
    >>> kline_names(line)[:2]
    ['open_time', 'open']
    """
    cells = [cell.strip().strip('"') for cell in line.decode("ascii", "replace").split(",")]
    if len(cells) != len(_KLINES):
        return None
    opened, closed = cells[0], cells[6]
    if not (_EPOCH.fullmatch(opened) and _EPOCH.fullmatch(closed) and int(opened) < int(closed)):
        return None
    return list(_KLINES)


def code_of(stem: str) -> str:
    """Return the code of the instrument that a file is named by, without what Binance's archive adds.

    Examples
    --------
    >>> code_of("BTCUSDT-1d-2024-01"), code_of("BRK-B")
    ('BTCUSDT', 'BRK-B')
    """
    found = _ARCHIVE.fullmatch(stem)
    return found[1] if found else stem


def is_chinese(line: bytes) -> bool:
    """Return whether a header that is not UTF-8 has a known Chinese column in GB 18030, of which GBK is a part."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("gb18030", "replace")
    else:
        return False
    return any(is_translated(cell.strip(' "\r')) for cell in re.split(r"[,;\t|]", text))


def unstacked(raw: pd.DataFrame) -> pd.DataFrame | None:
    """Return a table with a header of three lines, as ``yfinance`` writes it, with a column of tickers; None for another.

    The header has fields (``Price, Close, Close, …``), tickers (``Ticker, AAPL, MSFT, …``) and the name of the days (``Date``).
    """
    columns = [re.sub(r"\.[0-9]+$", "", str(column)) for column in raw.columns]
    if (
        len(raw) < 3
        or columns[0] != "Price"
        or raw.iloc[0, 0] != "Ticker"
        or raw.iloc[1, 0] not in ("Date", "Datetime")
    ):
        return None
    tickers = [str(ticker) for ticker in raw.iloc[0]]
    days = raw.iloc[2:, 0]
    parts = []
    for ticker in dict.fromkeys(tickers[1:]):
        places = [i for i, one in enumerate(tickers) if one == ticker and i]
        part = raw.iloc[2:, places].set_axis([columns[i] for i in places], axis=1)
        part.insert(0, "Ticker", ticker)
        part.insert(0, "Date", days)
        parts.append(part[(part.iloc[:, 2:] != "").any(axis=1)])  # a ticker that was not listed yet
    return pd.concat(parts, ignore_index=True)
