"""Groups of instruments for a report, from a file or from a universe."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd

from rollforge.dates import day_index, read_column
from rollforge.errors import ConfigError, DataError, DataNotFound, counted, nearest, shown
from rollforge.market.columns import CODE, CODES, DATE, DATES, tidy
from rollforge.market.folder_files import read_lines
from rollforge.market.frames import reading
from rollforge.market.lost_zeros import with_lost_zeros
from rollforge.market.price_table import read_parquet
from rollforge.market.provider import Provider
from rollforge.market.universe import membership

__all__ = ["read_groups"]


def read_groups(source: str, prediction: pd.DataFrame | pd.Series, provider: Provider) -> pd.Series:
    """Return the group of each row of a prediction.

    Parameters
    ----------
    source : str
        A CSV or Parquet file with a column of instruments and one with their groups. If it also has a column of days, a
        row is valid from its day until the next row of the instrument; an empty group ends it. If there are several
        other columns, ``FILE:COLUMN`` selects one. Or the name of a universe: its members are one group, all others the
        second.
    prediction : DataFrame or Series
        Index (datetime, instrument).
    provider : Provider
        The data with the universes.

    Returns
    -------
    Series
        Has the index of the prediction, and the name of the column or the universe; missing for rows without a group.

    Raises
    ------
    DataNotFound
        If there is neither such a file nor such a universe.
    DataError
        If the file cannot be read, lacks a column, contains an instrument twice, or contains none of the prediction's
        instruments.
    """
    file, _, column = source.rpartition(":") if not os.path.isfile(source) else (source, "", "")
    if os.path.isfile(file):
        return _of_file(Path(file), column, prediction.index)
    known = provider.markets()
    if source not in known:
        raise DataNotFound(
            f"There is no file {shown(source)}, and no universe of this name.{nearest(source, known)} Universes: "
            f"{', '.join(known) or 'none'}."
        )
    return _of_universe(source, provider, prediction.index)


def _of_universe(name: str, provider: Provider, index: pd.Index) -> pd.Series:
    members = provider.instruments(name)
    days = np.unique(index.get_level_values(DATE).to_numpy().astype("datetime64[D]"))
    inside = membership(members, days)
    day = np.searchsorted(days, index.get_level_values(DATE).to_numpy().astype("datetime64[D]"))
    place = pd.Index(list(members)).get_indexer(index.get_level_values(CODE))
    belongs = (place >= 0) & inside[place, day]
    return pd.Series(np.where(belongs, name, f"not in {name}"), index, name=name)


def _of_file(file: Path, column: str, index: pd.Index) -> pd.Series:
    table = _read(file)
    names = {tidy(name): name for name in reversed(table.columns)}
    code = next((names[usual] for usual in CODES if usual in names), None)
    if code is None:
        raise DataError(f"{file} has no column of instruments, such as {CODE} or symbol. It has: {_listed(table)}.")
    day = next((names[usual] for usual in DATES if usual in names and names[usual] not in (code, column)), None)
    rest = [name for name in table.columns if name not in (code, day)]
    if column and column not in rest:
        raise DataError(
            f"{file} has no column of groups {shown(column)}.{nearest(column, rest)} It has: {_listed(table)}."
        )
    if not column and len(rest) != 1:
        raise ConfigError(
            f"{file} must have one column besides those of instruments and days, or the column must be given: {file}:COLUMN. "
            f"It has: {_listed(table)}.",
            path="--group",
        )
    chosen = column or rest[0]
    table = table[table[code].notna() & (table[code].astype(str).str.strip() != "")]
    odd = [value for value in table[chosen] if not pd.api.types.is_hashable(value)]
    if odd:
        raise DataError(f"{file}, column {shown(chosen)}: {shown(odd[0])} cannot be the name of a group.")
    members = pd.DataFrame({CODE: _codes(table[code], index), "group": table[chosen].where(table[chosen] != "")})
    if not members[CODE].isin(index.get_level_values(CODE).unique()).any():
        first = index.get_level_values(CODE)[0] if len(index) else "none"
        raise DataError(
            f"{file} contains no instrument of the prediction: the first one is {shown(table[code].iloc[0])} in the file, and "
            f"{shown(first)} in the prediction."
            if len(table)
            else f"{file} has no rows."
        )
    if day is None:
        _check_twice(members[CODE], table[code], file)
        by_code = members.set_index(CODE)["group"]
        return pd.Series(by_code.reindex(index.get_level_values(CODE)).to_numpy(), index, name=chosen)
    days = read_column(table[day])
    if days.reason:
        row = min(days.reason)
        raise DataError(f"{file}, row {table.index[row] + 1}: {days.reason[row]}")
    members[DATE] = day_index(days.days, str(file))
    _check_twice(pd.MultiIndex.from_frame(members[[CODE, DATE]]), table[code], file)
    return _as_of(members, index).rename(chosen)


def _as_of(found: pd.DataFrame, index: pd.Index) -> pd.Series:
    """Return the group that each row of an index has on its day: that of the latest row of the instrument up to it."""
    rows = pd.DataFrame({DATE: index.get_level_values(DATE), CODE: index.get_level_values(CODE).astype(object)})
    rows["row"] = np.arange(len(rows))
    unit = rows[DATE].dtype
    held = found.assign(**{DATE: found[DATE].astype(unit), CODE: found[CODE].astype(object)}).sort_values(DATE)
    joined = pd.merge_asof(rows.sort_values(DATE), held, on=DATE, by=CODE).sort_values("row")
    return pd.Series(joined["group"].to_numpy(), index)


def _read(file: Path) -> pd.DataFrame:
    if file.suffix.lower() in (".parquet", ".pq"):
        return read_parquet(file)
    lines = read_lines(file)
    if not lines:
        raise DataError(f"{file} is empty.")
    separator = next((s for s in "\t;," if s in lines[0][1]), ",")
    with reading(file, "CSV"):
        header, *rows = csv.reader((line for _, line in lines), delimiter=separator)
    for (number, _), row in zip(lines[1:], rows, strict=False):
        if len(row) != len(header):
            raise DataError(
                f"{file}, line {number}: there are {counted(len(row), 'cell')}, but {counted(len(header), 'column')}."
            )
    if len(set(header)) < len(header):
        raise DataError(f"{file} has two columns of the same name. It has: {', '.join(header)}.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _codes(codes: pd.Series, index: pd.Index) -> pd.Series:
    """Return codes as they are spelled in the prediction: codes are not case-sensitive."""
    spelled = {str(code).upper(): code for code in index.get_level_values(CODE).unique()}
    text = codes.astype(str).str.strip()
    upper = text.str.upper()
    for code in set(upper) - spelled.keys():
        longer = with_lost_zeros(code, spelled.__contains__)
        if longer is not None:
            spelled[code] = spelled[longer]
    return upper.map(spelled).fillna(text)


def _check_twice(keys: pd.Series | pd.Index, codes: pd.Series, file: Path) -> None:
    twice = np.asarray(keys.duplicated())
    if twice.any():
        row = int(np.argmax(twice))
        raise DataError(f"{file}, row {codes.index[row] + 1}: {shown(codes.iloc[row])} has a group already.")


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns)) or "none"
