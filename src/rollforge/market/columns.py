"""Detect the columns of instrument and day in a table, and normalize the names of fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from rollforge.dates import read_day
from rollforge.errors import DataError, DateError, nearest

__all__ = [
    "CODE",
    "CODES",
    "DATE",
    "DATES",
    "DAY_NAME",
    "YAHOO_FIELDS",
    "column_names",
    "is_of_one",
    "is_translated",
    "of_partition",
    "tidy",
    "unused_code",
]

CODE, DATE = "instrument", "datetime"

# The first of these found in a table is used. 'name' may also be the name of a company.
CODES = ("instrument", "symbol", "ticker", "code", "ts_code", "stock_code", "secucode", "order_book_id", "stock", "secid",
          "sid", "tic", "permno", "asset", "pair", "name", "gvkey", "isin", "cusip", "ric")  # fmt: skip
_SURE = 8  # the first ones, which are unambiguous
DATES = ("datetime", "date", "trade_date", "tradedate", "trading_date", "trade_day", "day", "timestamp", "open_time",
          "trade_time", "time", "window_start", "date_time", "gmt_time", "local_time")  # fmt: skip
_SAME = {"vol": "volume", "money": "amount", "close_last": "close", "datum": "date"}
YAHOO_FIELDS = {"open", "high", "low", "close", "adj_close", "volume", "dividends", "stock_splits", "capital_gains"}
"""The fields of Yahoo's files."""
# Column names of Chinese sources -> names in this module.
_SAME |= {
    "日期": "date", "交易日期": "date", "时间": "time",
    "股票代码": "code", "证券代码": "code", "代码": "code",
    "股票名称": "name", "名称": "name",
    "开盘": "open", "开盘价": "open", "收盘": "close", "收盘价": "close",
    "最高": "high", "最高价": "high", "最低": "low", "最低价": "low",
    "前收盘": "pre_close", "昨收": "pre_close",
    "成交量": "volume", "成交额": "amount", "成交金额": "amount",
    "涨跌额": "change", "涨跌幅": "pct_chg",
    "换手率": "turnover_rate", "振幅": "amplitude",
}  # fmt: skip


def column_names(
    raw: pd.DataFrame, given: Mapping[str, str], file: Path | str, *, code: str | None
) -> dict[object, str]:
    """Return {source column: name} for the columns to keep.

    Parameters
    ----------
    raw : DataFrame
        The table as read.
    given : mapping
        Source column -> name, as given by the user for some of the columns; ``""`` skips a column.
    file : path or str
        Source of the table, for messages.
    code : str, optional
        The instrument that the file is named after, if it has only one. A column that the user chose takes precedence, and so
        does one with several codes; any column, if the file is named by a day or as a part of a table.

    Raises
    ------
    DataError
        If there is no column of days or instruments, or two columns would have the same name.
    """
    found: list[object] = list(raw.columns)
    known = [str(c) for c in found]
    for asked in given:
        if asked not in known:
            raise DataError(f"{file} has no column {asked!r}.{nearest(asked, known)} It has: {', '.join(known)}.")
    names = {c: given.get(str(c), tidy(c)) for c in found}
    names = _pick(names, DATE, DATES, file)
    if {"permno", "prc"}.issubset(names.values()) and CODE not in names.values() and "permno" not in given.values():
        # CRSP has tickers, too, which change and are used again.
        names = {c: CODE if n == "permno" else n for c, n in names.items()}
    mine = _certain(names)
    other = code is not None and (
        DAY_NAME.fullmatch(code) or _PART.fullmatch(code)
    )  # the file is not named by an instrument
    by_file = code is not None and CODE not in given.values() and not (mine and other)
    if by_file and (len(mine) != 1 or raw[mine[0]].nunique() < 2):
        names = {c: n for c, n in names.items() if c not in mine}
    else:
        names = _pick(names, CODE, CODES, file)
    names = {c: n for c, n in names.items() if n and not n.startswith(("unnamed", "__index_level"))}
    chosen = {"close", "price"} & {*given.values()}
    if {"price", "open", "high", "low"}.issubset(names.values()) and "close" not in names.values() and not chosen:
        names = {c: "close" if n == "price" else n for c, n in names.items()}  # as investing.com calls it
    by_name: dict[str, object] = {}
    for column, name in names.items():  # two columns with the same name would silently become one field
        if name in by_name:
            raise DataError(_both(by_name[name], column, name, file))
        by_name[name] = column
    return names


def unused_code(raw: pd.DataFrame, given: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the only column of instruments and its only code, for a file that is named by another one; otherwise None."""
    mine = _certain({c: given.get(str(c), tidy(c)) for c in raw.columns})
    codes = {str(code).strip() for code in raw[mine[0]].dropna().unique()} if len(mine) == 1 else set()
    return (str(mine[0]), codes.pop()) if len(codes) == 1 else None


def _certain(names: Mapping[object, str]) -> list[object]:
    return [c for c, name in names.items() if name in CODES[:_SURE]]


DAY_NAME = re.compile(r"(19|20)[0-9]{2}(-?)(0[1-9]|1[0-2])\2(0[1-9]|[12][0-9]|3[01])")
_PART = re.compile(r"(part|chunk|data)[-_.]?[0-9].*", re.IGNORECASE)
"""How Spark, Dask, Polars and others name the files of one table."""


def of_partition(path: Path) -> dict[str, str]:
    """Return the instrument and the day in the names of folders such as ``symbol=AAPL/date=2024-01-02``.

    The day may be spread over three folders, as in ``year=2024/month=01/day=02``.
    """
    found, parts = (
        {},
        {tidy(name): unquote(value) for part in path.parts[:-1] for name, _, value in [part.partition("=")]},
    )
    for name, value in parts.items():
        for meaning, usual in ((CODE, CODES[:_SURE]), (DATE, DATES[:5])):
            if name in usual:
                found[meaning] = value
    numbers = [parts.get(name, "") for name in ("year", "month", "day")]
    if DATE not in found and all(map(str.isdecimal, numbers)):
        found[DATE] = "-".join(number.zfill(2) for number in numbers)
    return found


def is_of_one(raw: pd.DataFrame, given: Mapping[str, str]) -> bool:
    """Return whether a table has the columns of one of Yahoo's files: a day, prices and volume, and no other.

    A table with a second row on some day has several instruments, whose column is missing.
    """
    names = {c: name for c in raw.columns if (name := given.get(str(c), tidy(c)))}
    days = [c for c, name in names.items() if name in DATES]
    fields = [name for name in names.values() if name not in DATES]
    return len(days) == 1 and "close" in fields and YAHOO_FIELDS.issuperset(fields) and bool(raw[days[0]].is_unique)


def _pick(names: dict[object, str], target: str, usual: Sequence[str], file: Path | str) -> dict[object, str]:
    """Rename the column that is most likely `target`."""
    if target in names.values():
        return names
    pick = next((u for u in usual if u in names.values()), None)
    if pick is None:
        raise DataError(_missing(target, usual, [str(c) for c in names], file))
    chosen = [c for c, n in names.items() if n == pick]
    if len(chosen) > 1:
        raise DataError(_both(chosen[0], chosen[1], target, file))
    return {c: target if n == pick else n for c, n in names.items()}


def _both(one: object, other: object, name: str, file: Path | str) -> str:
    return (
        f"{file}: the columns {str(one)!r} and {str(other)!r} would both become {name!r}. Leave one out "
        f"with --column '{other}='."
    )


def tidy(name: object) -> str:
    """Return the name of a column in a form that is valid in expressions: lower case, with underscores, in English."""
    lower = re.sub(r"\W+", "_", str(name).strip().lower()).strip("_")
    lower = re.sub(r"^\d+_", "", lower)  # "1. open"
    return _SAME.get(lower, lower)


def is_translated(name: str) -> bool:
    """Return whether a column's name is a known one of a Chinese source."""
    return not name.isascii() and name in _SAME


def _missing(target: str, usual: Sequence[str], known: Sequence[str], file: Path | str) -> str:
    """Return the message for a table without a column of instruments or days."""
    if any(_is_value(name) for name in known):
        return (
            f"{file} seems to have no header line: its first line is {', '.join(known[:6])}. Give the names of its columns with "
            "--names, as in '--names datetime,open,high,low,close,volume'."
        )
    what = "instruments" if target == CODE else "days"
    return (
        f"{file} has no column of {what}: expected one called {', '.join(usual[:6])} or similar. It "
        f"has: {', '.join(known)}. Specify it with --column 'NAME={target}' (in Python: "
        f"columns={{'NAME': {target!r}}}).{_reshape(target, known)}"
    )


def _reshape(target: str, known: Sequence[str]) -> str:
    """Return how a table with a column for each instrument becomes one with a row for each instrument and day."""
    days = [name for name in known if tidy(name) in (DATE, *DATES)]
    others = [name for name in known if name not in days]
    if target != CODE or len(days) != 1 or len(others) < 2 or YAHOO_FIELDS.intersection(map(tidy, others)):
        return ""
    melt = f"table.melt({days[0]!r}, var_name={CODE!r}, value_name='close')"
    return f" If each column is an instrument, make a row for each instrument and day first, in pandas with {melt}."


def _is_value(name: str) -> bool:
    """Return whether a column's name is a day or a number, so that it is probably a value."""
    try:
        float(name)
    except ValueError:
        return _is_day(name)
    return True


def _is_day(text: str) -> bool:
    try:
        read_day(text)
    except DateError:
        return False
    return True
