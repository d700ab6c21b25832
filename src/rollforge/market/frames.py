"""Convert external tables to frames by day and instrument, whatever their type and the names of their index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pandas as pd

from rollforge.dates import day_index, read_column
from rollforge.errors import DataError, RollforgeError, shown, with_article
from rollforge.market.columns import CODE, CODES, DATE, DATES, tidy

__all__ = ["as_frame", "day_rows", "number_rows", "reading", "type_text"]


def as_frame(value: object, what: str) -> pd.DataFrame | pd.Series:
    """Return a pandas frame or series unchanged, and a Polars or Arrow table as a frame.

    Parameters
    ----------
    value : DataFrame, Series, or a table with the Arrow interface
        Tables of Polars, PyArrow, DuckDB and others.
    what : str
        Description of the value, for messages.

    Raises
    ------
    DataError
        If it is anything else; the message has its type.
    """
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return value
    if hasattr(value, "__arrow_c_stream__"):
        import pyarrow as pa

        try:
            frame: pd.DataFrame = pa.table(value).to_pandas()
        except (pa.ArrowException, TypeError, ValueError):
            pass  # a column, not a table: reported below
        else:
            return frame
    raise DataError(
        f"{what} must be a pandas Series or DataFrame, or a Polars or Arrow table, with a row for each "
        f"datetime and instrument; found {type_text(value)}."
    )


def type_text(value: object) -> str:
    """Return the type of a value with its library, for messages.

    Examples
    --------
    >>> type_text(np.zeros(1)), type_text(3), type_text(None)
    ('a numpy ndarray', 'an int', 'None')
    """
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    named = kind.__name__ if library == "builtins" else f"{library} {kind.__name__}"
    return "None" if value is None else with_article(named)


@contextlib.contextmanager
def reading(file: object, what: str) -> Iterator[None]:
    """Convert any exception that a library raises for a damaged file into a DataError.

    Arrow, pandas and zlib give no guarantees here: a flipped bit may raise an exception of any class.

    Parameters
    ----------
    file : path
        The file being read.
    what : str
        Expected format, such as ``Parquet``.

    Raises
    ------
    DataError
        If the block raises; the message has the file.
    """
    try:
        yield
    except RollforgeError:
        raise
    except Exception as exc:
        reason = str(exc).strip().partition("\n")[0].rstrip(".") or type(exc).__name__
        raise DataError(f"{str(file)!r} cannot be read as {what}: {reason}.") from exc


@overload
def day_rows(value: pd.Series, what: str, *, days_alone: bool = False) -> pd.Series: ...
@overload
def day_rows(value: pd.DataFrame, what: str, *, days_alone: bool = False) -> pd.DataFrame: ...
@overload
def day_rows(value: object, what: str, *, days_alone: bool = False) -> Any: ...
def day_rows(value: object, what: str, *, days_alone: bool = False) -> Any:
    """Return a table with the index (datetime, instrument), with days as timestamps without time zone.

    The levels may be in either order and have other names, such as ``date`` and ``symbol``, or none; days may be
    strings or dates; datetime and instrument may be columns. Rows keep their order, and a table that is already in this
    form is returned unchanged.

    Parameters
    ----------
    value : Series, DataFrame, or a table with the Arrow interface
        See :func:`as_frame`.
    what : str
        Description of the value, for messages.
    days_alone : bool
        True also accepts an index of days without instruments.

    Raises
    ------
    DataError
        If there are no days or no instruments; the message lists the existing levels.
    """
    frame = as_frame(value, what)
    index = frame.index
    if _is_plain(index):
        return frame
    if index.nlevels == 1 and isinstance(frame, pd.DataFrame):
        frame = _from_columns(frame)
        index = frame.index
    levels = list(range(index.nlevels))
    day = _find(index, DATE, DATES)
    if days_alone and len(levels) == 1 and day is not None:
        return frame.set_axis(_days(index, what).rename(DATE))
    if len(levels) != 2 or day is None:
        raise DataError(
            f"{what} needs an index with the levels datetime and instrument, found {_described(index)}. Name them with "
            "rename_axis(index=[…]), or set them with set_index(['datetime', 'instrument'])."
        )
    arrays = [_days(index.get_level_values(day), what), index.get_level_values(1 - day)]
    return frame.set_axis(pd.MultiIndex.from_arrays(arrays, names=[DATE, CODE]))


@overload
def number_rows(value: pd.Series, what: str) -> pd.Series: ...
@overload
def number_rows(value: pd.DataFrame, what: str) -> pd.DataFrame: ...
@overload
def number_rows(value: object, what: str) -> Any: ...
def number_rows(value: object, what: str) -> Any:
    """Return a table of numbers with the index (datetime, instrument), such as a prediction or a label.

    Parameters
    ----------
    value : Series, DataFrame, or a table with the Arrow interface
        See :func:`day_rows`.
    what : str
        Description of the value, for messages.

    Raises
    ------
    DataError
        As :func:`day_rows`; also if there are no columns, or two with the same label, if a value is not a real number,
        if a row has no day or no instrument, or if instruments are not all of one type.
    """
    rows = day_rows(value, what)
    index: pd.MultiIndex = rows.index
    for level, name in enumerate((DATE, CODE)):
        absent = index.codes[level] < 0
        if absent.any():
            raise DataError(f"{what}, row {int(absent.argmax()) + 1} of the index: there is no {name}.")
    kind = pd.api.types.infer_dtype(index.levels[1])
    if kind.startswith("mixed"):
        raise DataError(f"{what} has instruments of several types. Write them as strings.")
    columns = [rows] if rows.ndim == 1 else [rows.iloc[:, i] for i in range(rows.shape[1])]
    if not columns:
        raise DataError(f"{what} has no columns.")
    if rows.ndim == 2:
        _check_labels(rows.columns, what)
    for column in columns:
        _check_numbers(column, what)
    return rows


def _check_labels(labels: pd.Index, what: str) -> None:
    try:
        known = set(labels)
    except TypeError:
        raise DataError(f"{what} has a column whose label is a list or a dict. Use a string.") from None
    if len(known) < len(labels):
        raise DataError(f"{what} has several columns {shown(labels[labels.duplicated()][0])}.")


def _check_numbers(column: pd.Series, what: str) -> None:
    kind = getattr(column.dtype, "kind", "O")
    try:
        if kind in "cMm":
            raise TypeError(f"it is of type {column.dtype}")
        found = pd.api.types.infer_dtype(column.astype(object)) if kind == "O" else ""
        if found in ("string", "bytes"):  # such as "0.5", which NumPy would convert
            raise TypeError(f"it is of type {found}")
        column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as exc:
        raise DataError(f"{what}, column {shown(column.name)}: not all values are real numbers ({exc}).") from exc


def _is_plain(index: pd.Index) -> bool:
    return (
        isinstance(index, pd.MultiIndex)
        and list(index.names) == [DATE, CODE]
        and isinstance(index.levels[0], pd.DatetimeIndex)
        and index.levels[0].tz is None
    )


def _from_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table indexed by its columns of day and instrument, or the frame unchanged if it has none."""
    names = {tidy(c): c for c in frame.columns if isinstance(c, str)}
    if isinstance(frame.index.name, str):
        names.setdefault(tidy(frame.index.name), frame.index.name)
    picked = [next((names[u] for u in usual if u in names), None) for usual in (DATES, CODES)]
    if None in picked:
        return frame
    if frame.index.name in picked:
        frame = frame.reset_index()
    return frame.set_index(picked)


def _find(index: pd.Index, name: str, usual: Sequence[str]) -> int | None:
    """Return the level that holds the days, found by name, else by type, else by content."""
    names = [tidy(n) if isinstance(n, str) else "" for n in index.names]
    for pick in (name, *usual):
        if pick in names:
            return names.index(pick)
    values = [index.levels[i] if isinstance(index, pd.MultiIndex) else index for i in range(index.nlevels)]
    dated = [i for i, v in enumerate(values) if pd.api.types.is_datetime64_any_dtype(v.dtype)]
    if not dated:
        dated = [i for i, v in enumerate(values) if len(v) and not read_column(v.to_series()).reason]
    return dated[0] if len(dated) == 1 else None


def _days(level: pd.Index, what: str) -> pd.DatetimeIndex:
    """Return the days of a level; timestamps keep their time of day but lose their time zone."""
    if isinstance(level, pd.DatetimeIndex):
        return level.tz_localize(None)
    found = read_column(level.to_series())
    if found.reason:
        raise DataError(f"{what}, row {min(found.reason) + 1} of the index: {found.reason[min(found.reason)]}")
    return day_index(found.days, what)


def _described(index: pd.Index) -> str:
    if index.nlevels == 1 and index.name is None:
        return f"one level of {np.dtype(index.dtype).name if isinstance(index.dtype, np.dtype) else index.dtype}"
    return ", ".join("an unnamed level" if n is None else repr(n) for n in index.names)
