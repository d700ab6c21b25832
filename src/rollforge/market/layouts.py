"""Layouts of price files that have no usual header or values: Binance's klines, Yahoo's header of three lines, CRSP, Chinese
encodings."""

from __future__ import annotations

import re
from collections.abc import Collection, MutableMapping, Sequence

import pandas as pd

from rollforge.errors import counted
from rollforge.market.columns import CODE, YAHOO_FIELDS, is_translated, tidy

__all__ = [
    "code_of",
    "convert_crsp",
    "is_chinese",
    "kline_names",
    "unstacked",
    "unstacked_columns",
    "without_crsp_codes",
]

_KLINES = [
    "open_time", "open", "high", "low", "close", "volume", "_close_time", "amount", "trades", "taker_volume",
    "taker_amount", "_unused",
]  # fmt: skip
"""The columns of a kline; a name that begins with an underscore is left out. `amount` is the volume in the quoted asset."""
_EPOCH = re.compile(r"[0-9]{13}([0-9]{3})?")
"""Milliseconds; since 2025 Binance's files have microseconds."""
_Part = tuple[str, list[str]]  # the name of one part of a header, and its labels
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
    """Return a table with a header of three lines, as ``yfinance`` and ``pandas_datareader`` write it, with a column of
    tickers; None for another.

    The header has fields (``Price, Close, Close, …``) and tickers (``Ticker, AAPL, MSFT, …``), in any order, and the name of
    the days (``Date``).
    """
    if len(raw) < 3:
        return None
    first, second, third = [str(c) for c in raw.columns], *raw.iloc[:2].astype(str).to_numpy().tolist()
    if third[0] not in ("Date", "Datetime") or any(third[1:]):
        return None
    return _by_ticker(raw.iloc[2:, 1:], raw.iloc[2:, 0], [(first[0], first[1:]), (second[0], second[1:])])


def _unnumbered(name: str, names: Sequence[str]) -> str:
    """Return a name without the number that pandas adds when it reads the same one again: ``Close.1``."""
    found = re.fullmatch(r"(.+)\.[0-9]+", name)
    return found[1] if found and found[1] in names else name


def unstacked_columns(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Return a table with fields and tickers in two levels of columns, and days as its index, with a column of tickers; None
    for another.
    """
    if frame.columns.nlevels != 2 or not isinstance(frame.index, pd.DatetimeIndex):
        return None
    header = [
        (str(name), [str(label) for label in frame.columns.get_level_values(i)])
        for i, name in enumerate(frame.columns.names)
    ]
    return _by_ticker(frame, pd.Series(frame.index, frame.index), header)


_OF_FIELDS, _OF_TICKERS = ("Price", "Attributes"), ("Ticker", "Symbols")
"""What ``yfinance`` and ``pandas_datareader`` call the two parts of their headers."""


def _by_ticker(values: pd.DataFrame, days: pd.Series, header: Sequence[_Part]) -> pd.DataFrame | None:
    """Return columns, each with a field and a ticker, as one table; None if neither part of the header has fields."""
    found = _fields_and_tickers([(name, [_unnumbered(label, labels) for label in labels]) for name, labels in header])
    if found is None:
        return None
    fields, tickers = found
    parts, columns = [], dict[str, list[int]]()
    for place, ticker in enumerate(tickers):
        columns.setdefault(ticker, []).append(place)
    for ticker, places in columns.items():
        part = values.iloc[:, places].set_axis([fields[i] for i in places], axis=1)
        numbers = part[[name for name in part if tidy(name) in YAHOO_FIELDS]]
        listed = (numbers.notna() & (numbers != "")).any(axis=1)  # a ticker may be listed later than others
        part.insert(0, "Ticker", ticker)
        part.insert(0, "Date", days)
        parts.append(part[listed])
    return pd.concat(parts, ignore_index=True)


def _fields_and_tickers(header: Sequence[_Part]) -> tuple[list[str], list[str]] | None:
    """Return the parts of a header in this order; None if they are something else, or a field occurs twice."""
    first, second = header
    possible = []
    for (name_of_fields, fields), (name_of_tickers, tickers) in ((first, second), (second, first)):
        known = YAHOO_FIELDS.intersection(map(tidy, fields))
        named = name_of_fields in _OF_FIELDS or name_of_tickers in _OF_TICKERS
        if known and all(tickers) and (named or YAHOO_FIELDS.issuperset(map(tidy, fields))):
            possible.append((named, "close" in known, fields, tickers))  # a ticker may be OPEN or LOW
    if not possible or len(set(zip(first[1], second[1], strict=True))) < len(first[1]):
        return None
    return max(possible, key=lambda order: order[:2])[2:]


_CRSP = {"prc": "close", "openprc": "open", "askhi": "high", "bidlo": "low"}
_CRSP_RETURNS = ("ret", "retx", "dlret", "dlretx")


def without_crsp_codes(raw: pd.DataFrame) -> pd.DataFrame:
    """Return a table of CRSP without the letters that say why a return is missing."""
    found = {
        name: raw[name].astype(object).replace(r"^\s*[A-Z]\s*$", "", regex=True)
        for name in _CRSP_RETURNS
        if name in raw
    }
    return raw.assign(**found) if "prc" in raw and found else raw


def convert_crsp(
    values: MutableMapping[str, pd.Series], sources: MutableMapping[str, object], chosen: Collection[str]
) -> list[str]:
    """Give the columns of a daily stock file of CRSP their usual names and signs, in place, and return notes.

    A price below 0 is the mean of bid and ask on a day without a trade, and a volume of -99 is a missing one. ``cfacpr``
    divides prices to adjust them for splits. Nothing is converted if the user has chosen the name ``prc``.
    """
    if (
        str(sources.get(CODE, "")).lower() != "permno"
        or "prc" not in values
        or "prc" in chosen
        or not values.keys().isdisjoint(_CRSP.values())
    ):
        return []
    notes = []
    for name, usual in _CRSP.items():
        if name not in values:
            continue
        values[usual], sources[usual] = values.pop(name), sources.pop(name)
        quoted = int((values[usual] < 0).sum())
        if quoted:
            values[usual] = values[usual].abs()
            notes.append(f"{usual} was made positive in {counted(quoted, 'row')}: it is the mean of bid and ask there")
    if "volume" in values:
        values["volume"] = values["volume"].where(values["volume"] >= 0)
    if "cfacpr" in values:
        factor = values.pop("cfacpr")
        values["adj_factor"], sources["adj_factor"] = 1 / factor.where(factor > 0), sources.pop("cfacpr")
        notes.append("adj_factor is 1 / CFACPR, which adjusts for splits, but not for dividends")
    return notes
