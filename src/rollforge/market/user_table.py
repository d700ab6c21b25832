"""User tables: rows of entities (stocks, stores, sensors) over time, with features and labels.

A table is a pandas frame with an index or columns of times and entities, a Polars or Arrow table, or a Parquet file, of
which only the needed columns are read, a few at a time. Everything that a model cannot use is found here, before any
model is trained, and reported with its column and row.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import time as time_of_day, timedelta
from numbers import Integral, Number, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import FIRST_DAY, LAST_DAY, Times, has_times, read_times
from rollforge.errors import DataError, DataNotFound, DateError, counted, nearest, shown
from rollforge.market.folder_files import usual_frequency
from rollforge.market.frames import reading, type_text
from rollforge.paths import read_path

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EXACT", "CodedTable", "Keys", "Table", "batches", "check_columns", "common_dtype", "open_table", "read_classes",
    "read_column", "read_keys", "too_large_a_class",
]  # fmt: skip

_TOGETHER = 8
"""Number of columns that are read and checked at a time."""
EXACT = 2**53
"""Up to this one, whole numbers are exact as floating-point numbers, and so are classes."""
_NO_NAMES = (Number, np.generic, timedelta, time_of_day, pd.Interval, bytes)
"""Types of objects that are not taken for entities unless the user says so."""


class Table(Protocol):
    """A table whose columns are read on demand."""

    names: list[Any]
    """The names of the columns; those of an index come first."""
    index: list[Any]
    """The names of the columns that form the index."""
    unnamed: frozenset[Any]
    """Unnamed index levels, under the names that pandas gives them as columns."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def dtype(self, name: object) -> np.dtype[Any] | None:
        """Return the numeric dtype of a column; None if it does not hold numbers."""

    def own_dtype(self, name: object) -> Any:
        """Return the dtype of a column in pandas."""

    def key(self, name: object) -> pd.Index:
        """Return a column of times or entities."""

    def numbers(self, names: Sequence[object], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        """Return numeric columns, (rows,) each, with NaN for missing values."""


class PandasTable:
    """A pandas frame."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        # A default index holds no data.
        levels = [] if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None else list(frame.index.names)
        _check_distinct([name for name in levels if name is not None], "index levels")
        self._levels = {name: i for i, name in enumerate(_level_names(levels, frame.columns))}
        # Without names, which get_level_values() would search for a number first.
        self._index = frame.index.set_names([None] * frame.index.nlevels)
        self.index = list(self._levels)
        self.unnamed = frozenset(called for called, i in self._levels.items() if levels[i] is None)
        self.names = [*self.index, *frame.columns]
        _check_distinct(self.names)

    def __len__(self) -> int:
        return len(self.frame)

    def _column(self, name: object) -> pd.Series | pd.Index:
        if name in self._levels:
            return self._index.get_level_values(self._levels[name])
        return self.frame[name]

    def dtype(self, name: object) -> np.dtype[Any] | None:
        return _numeric(self._column(name).dtype)

    def own_dtype(self, name: object) -> Any:
        return self._column(name).dtype

    def key(self, name: object) -> pd.Index:
        column = self._column(name)
        if column.dtype == np.float16:  # which pandas has no index of
            column = column.astype(np.float32)
        return _of_numpy(pd.Index(column))

    def numbers(self, names: Sequence[object], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        found = []
        for name in names:
            column = self._column(name)
            plain = isinstance(column.dtype, np.dtype)
            found.append(column.to_numpy(dtype) if plain else column.to_numpy(dtype, na_value=np.nan))
        return found


class ArrowTable:
    """An Arrow table, or a Parquet file whose columns are read when they are needed."""

    index: list[Any]
    unnamed: frozenset[Any] = frozenset()

    def __init__(self, table: pa.Table | None = None, path: str | None = None) -> None:
        import pyarrow.parquet as pq

        self._table, self._path = table, path
        if table is None:
            with reading(path, "Parquet"):
                self._schema, self._rows = pq.read_schema(path), int(pq.read_metadata(path).num_rows)
        else:
            self._schema, self._rows = table.schema, int(table.num_rows)
        self.names = list(self._schema.names)
        _check_distinct(self.names)
        written = (self._schema.pandas_metadata or {}).get("index_columns", [])
        self.index = [n for n in written if isinstance(n, str) and n in self.names]

    def __len__(self) -> int:
        return int(self._rows)

    def dtype(self, name: object) -> np.dtype[Any] | None:
        import pyarrow as pa

        kind = self._schema.field(name).type
        if pa.types.is_dictionary(kind):
            return None
        if pa.types.is_decimal(kind):
            return np.dtype(np.float64)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            return None
        found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return found

    def _columns(self, names: Sequence[Any]) -> pa.Table:
        import pyarrow.parquet as pq

        if self._table is not None:
            return self._table.select(names)
        with reading(self._path, "Parquet"):
            return pq.read_table(self._path, columns=list(names), partitioning=None)

    def own_dtype(self, name: object) -> Any:
        return self.key(name).dtype

    def key(self, name: object) -> pd.Index:
        found: pd.Index = pd.Index(self._columns([name]).column(0).to_pandas())
        return found

    def numbers(self, names: Sequence[object], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        import pyarrow as pa

        table, found = self._columns(names), []
        for place in range(len(names)):
            column = table.column(place)
            if column.null_count and pa.types.is_boolean(column.type):
                column = column.cast(pa.int8())  # otherwise to_numpy() returns objects
            values = column.to_numpy()
            found.append(values.astype(dtype, copy=False))
        return found


class CodedTable:
    """A table whose labels that are text are numbers: the positions of their classes.

    Parameters
    ----------
    table : Table
        The user's table.
    codes : mapping
        Label -> (rows,): the position of the class of each row, NaN if it is missing.
    """

    def __init__(self, table: Table, codes: Mapping[Any, NDArray[Any]]) -> None:
        self._table, self._codes = table, codes
        self.names, self.index, self.unnamed = table.names, table.index, table.unnamed

    def __len__(self) -> int:
        return len(self._table)

    def dtype(self, name: object) -> np.dtype[Any] | None:
        return self._codes[name].dtype if name in self._codes else self._table.dtype(name)

    def own_dtype(self, name: object) -> Any:
        return self._table.own_dtype(name)

    def key(self, name: object) -> pd.Index:
        return self._table.key(name)

    def numbers(self, names: Sequence[object], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        others = iter(self._table.numbers([n for n in names if n not in self._codes], dtype))
        return [self._codes[n].astype(dtype) if n in self._codes else next(others) for n in names]


def _of_numpy(key: pd.Index) -> pd.Index:
    """Return times of Arrow (``timestamp[ns][pyarrow]``, ``date32``) as pandas' own."""
    kind = getattr(key.dtype, "pyarrow_dtype", None)
    if kind is None:
        return key
    import pyarrow as pa

    times: pd.Index = pd.DatetimeIndex(key) if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else key
    return times


def _check_distinct(names: Sequence[object], what: str = "columns") -> None:
    seen: set[str] = set()
    for name in map(str, names):
        if name in seen:
            raise DataError(f"The frame has two {what} {name!r}. Rename one of them.")
        seen.add(name)


def open_table(frame: object) -> Table:
    """Return a table of the user.

    Parameters
    ----------
    frame : DataFrame, Table or path
        A pandas or Polars frame, an Arrow table or any object that exports one (``__arrow_c_stream__``), or the path of
        a Parquet file.

    Raises
    ------
    DataNotFound
        If the file does not exist.
    DataError
        If it is none of these, or has no rows.
    """
    table: Table
    if isinstance(frame, pd.DataFrame):
        table = PandasTable(frame)
    elif isinstance(frame, (str, os.PathLike)):
        table = ArrowTable(path=str(_parquet_file(frame)))
    elif hasattr(frame, "__arrow_c_stream__") and not isinstance(frame, pd.Series):
        import pyarrow as pa

        try:
            exported = pa.table(frame)
        except (pa.ArrowException, TypeError, ValueError) as exc:  # a series, or a type that Arrow does not know
            reason = str(exc).partition("\n")[0].rstrip(".")
            if "non-struct" in reason:
                raise _no_table(frame) from exc
            raise DataError(f"The {type(frame).__name__} cannot be read as an Arrow table: {reason}.") from exc
        table = ArrowTable(exported)
    else:
        raise _no_table(frame)
    if not len(table):
        raise DataError("The frame has no rows.")
    return table


_READERS = {
    ".csv": "pandas.read_csv({}, parse_dates=['…'])",
    ".tsv": "pandas.read_csv({}, sep='\\t', parse_dates=['…'])",
    ".txt": "pandas.read_csv({}, parse_dates=['…'])",
    ".json": "pandas.read_json({})",
    ".jsonl": "pandas.read_json({}, lines=True)",
    ".xlsx": "pandas.read_excel({})",
    ".xls": "pandas.read_excel({})",
    ".feather": "pandas.read_feather({})",
    ".arrow": "pandas.read_feather({})",
    ".orc": "pandas.read_orc({})",
    ".pkl": "pandas.read_pickle({})",
    ".pickle": "pandas.read_pickle({})",
    ".h5": "pandas.read_hdf({})",
    ".dta": "pandas.read_stata({})",
}
"""How to read a file that is not a Parquet file, by the end of its name."""
_COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
_METHODS = ("toPandas", "to_table", "to_pandas", "to_dataframe", "compute", "collect", "df")
"""Methods of other libraries' tables that return one that can be read."""


def _parquet_file(given: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file.

    Raises
    ------
    DataNotFound
        If it does not exist.
    DataError
        If it is an address, a folder, or a file of another format; the message says how to read it.
    """
    text = str(given)
    if "://" in text:
        raise DataError(
            f"{shown(text)} is an address, not the path of a file. Read it first: pandas.read_parquet({shown(text)})."
        )
    path = read_path(given, "frame")
    if path.is_dir():
        raise DataError(
            f"{str(path)!r} is a folder. Read its Parquet files first: pandas.read_parquet({str(path)!r}), sorted by time."
        )
    if not path.exists():
        hint = " Read several files with pandas.concat." if "*" in path.name and path.suffix else ""
        raise DataNotFound(f"The file {str(path)!r} does not exist.{hint}")
    ends = [end.lower() for end in path.suffixes]
    if len(ends) > 1 and ends[-1] in _COMPRESSED:
        ends.pop()
    if ends and ends[-1] in _READERS:
        raise DataError(
            f"{str(path)!r} is not a Parquet file. Read it first: {_READERS[ends[-1]].format(repr(str(path)))}."
        )
    return path


def _no_table(frame: object) -> DataError:
    """Return the error about something that is not a table; the message says how to make one of it."""
    method = next((name for name in _METHODS if callable(getattr(frame, name, None))), None)
    if isinstance(frame, pd.Series) or hasattr(frame, "to_frame"):
        advice = " Pass the frame with the columns of the features and of the label."
    elif method is not None:
        advice = f" Convert it first: frame.{method}()."
    elif isinstance(frame, np.ndarray):
        advice = " Name its columns: pandas.DataFrame(frame, columns=[…])."
    elif isinstance(frame, (list, tuple)) and frame and isinstance(frame[0], (str, os.PathLike)):
        advice = " Read the files first: pandas.concat(map(pandas.read_parquet, frame))."
    elif isinstance(frame, (list, tuple)) and frame and isinstance(frame[0], pd.DataFrame):
        advice = " Join them first: pandas.concat(frame)."
    elif isinstance(frame, (Mapping, list, tuple)):
        advice = " Convert it first: pandas.DataFrame(frame)."
    else:
        advice = ""
    return DataError(
        "A frame must be a pandas or Polars DataFrame, an Arrow table, or the path of a Parquet file; found "
        f"{type_text(frame)}.{advice}"
    )


def _level_names(levels: Sequence[Any], columns: Iterable[object]) -> list[Any]:
    """Return the names of index levels; unnamed ones have those that pandas gives them, unless these are taken."""
    taken = {str(name) for name in (*levels, *columns)}
    found: list[Any] = []
    for place, name in enumerate(levels):
        called = name
        if name is None:
            called = "index" if len(levels) == 1 else f"level_{place}"
            while called in taken:
                called += "_"
        found.append(called)
    return found


def _numeric(dtype: Any) -> np.dtype[Any] | None:
    """Return the numpy dtype of numbers; None for text, categories, times and other objects."""
    if isinstance(dtype, np.dtype):
        return dtype if dtype.kind in "fiub" else None
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        kind = getattr(dtype, "numpy_dtype", None)
        return kind if isinstance(kind, np.dtype) and kind.kind in "fiub" else np.dtype(np.float64)
    return None


@dataclass(frozen=True, slots=True)
class Keys:
    """The times and entities of a table's rows."""

    days: Times
    """(times,): the day of each distinct time, ascending; the time itself (datetime64[s]) if there are several on a day."""
    times: pd.Index
    """(times,): the distinct times as in the table, ascending."""
    time: NDArray[np.int32]
    """(rows of the table,): position in `times`."""
    entities: list[Any]
    """The distinct entities, sorted; [None] if there is no column of entities."""
    entity: NDArray[np.int32]
    """(rows of the table,): position in `entities`."""
    order: NDArray[np.int64] | None
    """(rows,): the table's rows sorted by (time, entity); None if they are already in this order."""
    names: tuple[Any, ...]
    """The names of the one or two key columns, in the table's order, including `time_name`."""
    time_name: Any
    unnamed: frozenset[Any]
    """The names that the table itself does not have."""
    own_entities: pd.Index | None = None
    """(entities,): the distinct entities as in the table; None if there is no column of entities."""

    @property
    def in_utc(self) -> bool:
        """Whether `days` are in UTC, because an hour of the table's time zone occurs twice."""
        if not isinstance(self.times, pd.DatetimeIndex) or self.times.tz is None or not has_times(self.days):
            return False
        return not bool((np.diff(self.times.tz_localize(None).asi8) > 0).all())

    @property
    def freq(self) -> str:
        """Name of the frequency: ``day`` (also for longer periods), or for example ``60min``."""
        return usual_frequency(self.days)

    def describe(self, row: int) -> str:
        """Describe the location of a row of the table, for messages."""
        entity = self.entities[self.entity[row]]
        of = "" if entity is None else f", {shown(entity)}"
        return f"row {row} ({self.times[self.time[row]]}{of})"

    def index(self, rows: NDArray[np.int64]) -> pd.Index:
        """Return the index of some rows, with the table's names and values."""
        times = self.times.take(self.time[rows])
        if len(self.names) == 1:
            return times.rename(self._given(self.names[0]))
        assert self.own_entities is not None
        entities = self.own_entities.take(self.entity[rows])
        parts = [times if name == self.time_name else entities for name in self.names]
        return pd.MultiIndex.from_arrays(parts, names=list(map(self._given, self.names)))

    def _given(self, name: Any) -> Any:
        return None if name in self.unnamed else name


def read_column(table: Table, name: object, argument: str) -> pd.Series:
    """Return a column of any hashable type, with its name; the row numbers are its index."""
    found = table.key(_named(table, name, argument))
    check_hashable(found, name, argument)
    return pd.Series(found, pd.RangeIndex(len(found)), name=name)


def read_classes(table: Table, name: Any, keys: Keys) -> tuple[list[Any], NDArray[Any]] | None:
    """Return the classes of a label that does not hold numbers, and the number of each row's class.

    Parameters
    ----------
    table : Table
        The table.
    name : str
        The label.
    keys : Keys
        The keys of the table, for messages.

    Returns
    -------
    tuple or None
        The classes: text, or numbers if the column has objects or categories that are numbers or booleans. They are
        ascending; those of an ordered categorical in its own order. And an array (rows,): the position of a row's class if it
        is text, otherwise the class itself; NaN if it is missing. None if the column holds numbers.

    Raises
    ------
    DataError
        If the column does not exist, or a value is neither text, a boolean nor a whole number, or the values are of both
        kinds; with the first row that has it.
    """
    if name in keys.names or (
        table.dtype(_named(table, name, "label")) is not None
        and not isinstance(table.own_dtype(name), pd.CategoricalDtype)  # of booleans
    ):
        return None
    column = table.key(name)
    ordered = isinstance(column, pd.CategoricalIndex) and column.ordered
    if isinstance(column, pd.CategoricalIndex):
        codes, distinct = np.asarray(column.codes), list(column.categories)
    else:
        check_hashable(column, name, "classes")
        codes, found = pd.factorize(column)
        distinct = list(found)
    present = np.unique(codes[codes >= 0])
    values: dict[int, Any] = {}
    for code in present.tolist():
        value = distinct[code]
        text = isinstance(value, str)
        if not text and not _is_whole(value):
            row = int(np.argmax(codes == code))
            raise DataError(
                f"The label {str(name)!r} has classes that are neither text, booleans nor whole numbers: {shown(value)} in "
                f"{keys.describe(row)}. Convert them to text: frame[{str(name)!r}].astype(str)."
            )
        if not text and abs(int(value)) > EXACT:
            row = int(np.argmax(codes == code))
            raise DataError(too_large_a_class(name, value, f" in {keys.describe(row)}"))
        values[code] = (
            str.__str__(value) if text else bool(value) if isinstance(value, (bool, np.bool_)) else int(value)
        )
    texts = {code: isinstance(value, str) for code, value in values.items()}
    if len(set(texts.values())) > 1:
        rows = sorted(int(np.argmax(codes == next(c for c in texts if texts[c] is kind))) for kind in (True, False))
        first, second = (f"{shown(distinct[codes[row]])} in {keys.describe(row)}" for row in rows)
        raise DataError(
            f"The label {str(name)!r} has classes that are text and classes that are numbers: {first}, and {second}. Convert "
            f"them to text: frame[{str(name)!r}].astype(str)."
        )
    is_text = any(texts.values())
    order = list(values) if ordered and is_text else sorted(values, key=values.__getitem__)
    numbers = np.full(len(distinct) + 1, np.nan)  # the last one is for missing values
    for place, code in enumerate(order):
        numbers[code] = place if is_text else values[code]
    made = numbers[codes]
    return list(dict.fromkeys(values[c] for c in order)), made if np.isnan(made).any() else made.astype(np.int64)


def too_large_a_class(label: object, value: object, where: str = "") -> str:
    """Return the message about a class beyond :data:`EXACT`."""
    return (
        f"The label {str(label)!r} has the class {shown(value)}{where}. Classes beyond 2**53 cannot be told apart as numbers. "
        f"Convert them to text: frame[{str(label)!r}].astype(str)."
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, (Integral, np.bool_)) or (isinstance(value, Real) and float(value).is_integer())


def read_keys(
    table: Table,
    time: object = None,
    entity: object = None,
    others: Sequence[object] = (),
    labels: Sequence[object] = (),
) -> Keys:
    """Find and check the times and entities of a table's rows.

    Parameters
    ----------
    table : Table
        The table.
    time : str, optional
        Name of the column or index level of times; by default the only one that holds times.
    entity : str, optional
        Name of the column or index level of entities; by default the other level of the index, or the only column of
        text. If there is none, the table has a single entity.
    others : sequence of str
        Columns with another role, which are chosen only if there is no other column of text.
    labels : sequence of str
        Columns with classes, which are never chosen.

    Raises
    ------
    DataError
        If the columns are not found or are ambiguous, times or entities are missing or invalid, an entity has two rows
        at the same time, or its rows are not in chronological order.
    """
    time = _find_time(table) if time is None else _named(table, time, "time")
    entity = _find_entity(table, time, others, labels) if entity is None else _named(table, entity, "entity")
    if entity == time:
        raise DataError(f"The column {str(time)!r} is both time and entity. Choose another one with entity=….")
    times, time_codes, days = _times(table, time)
    entities, entity_codes, own = _entities(table, entity)
    names = (time,) if entity is None else tuple(sorted((time, entity), key=table.names.index))
    keys = Keys(days, times, time_codes, entities, entity_codes, None, names, time, table.unnamed, own)
    place = time_codes.astype(np.int64) * len(entities) + entity_codes
    steps = np.diff(place)
    order = None
    if not (steps > 0).all():
        order = np.argsort(place, kind="stable")
        _check_twice(keys, place, order, entity)
        _check_sorted(keys, entity)
    if (np.diff(days).astype(np.int64) <= 0).any():
        first = int(np.flatnonzero(np.diff(days).astype(np.int64) <= 0)[0])
        raise DataError(
            f"The column {str(time)!r} has several times within a second, such as {times[first]} and {times[first + 1]}. "
            "Aggregate the rows of each second, or of a longer period."
        )
    return replace(keys, order=order)


def _named(table: Table, name: object, argument: str) -> Any:
    if name in table.names:
        return name
    raise DataError(
        f"{argument}={shown(name)}: the frame has no such column.{nearest(str(name), list(map(str, table.names)))} "
        f"It has: {_listed(table.names)}."
    )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:8])) + (f", … ({len(names)} columns)" if len(names) > 8 else "")


def _find_time(table: Table) -> Any:
    for names in (table.index, table.names):
        found = [name for name in names if _holds_times(table, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"Several columns hold times: {_listed(found)}. Choose one with time=….")
    raise DataError(
        f"No column holds times ({_listed(table.names)}). Specify the column of days with time=…, or convert it "
        "with pandas.to_datetime."
    )


def _holds_times(table: Table, name: object) -> bool:
    if name not in table.index and table.dtype(name) is not None:
        return False
    key = table.key(name)
    return isinstance(key, (pd.DatetimeIndex, pd.PeriodIndex)) or (
        key.dtype == object and hasattr(_first(key), "toordinal")
    )


def _first(key: pd.Index) -> object:
    """Return the first value that is not missing; None if there is none."""
    known = np.flatnonzero(key.notna())
    return key[known[0]] if len(known) else None


def _names_things(key: pd.Index) -> bool:
    """Return whether a column can be that of entities without being chosen: text, categories, or objects of which none is
    a number, a length of time, or a container."""
    if isinstance(key, pd.CategoricalIndex) or isinstance(key.dtype, pd.StringDtype):
        return True
    if key.dtype != object:
        return hasattr(key.dtype, "pyarrow_dtype") and pd.api.types.is_string_dtype(key.dtype)
    value = _first(key)
    if value is None or not isinstance(value, Hashable) or hasattr(value, "toordinal"):
        return False
    return not any(isinstance(one, _NO_NAMES) for one in key.dropna())


def _find_entity(table: Table, time: object, excluded: Sequence[object], labels: Sequence[object]) -> Any:
    others = [name for name in table.index if name != time]
    if len(others) == 1 and time in table.index:
        return others[0]
    if len(others) > 1:
        raise DataError(f"The index has several levels besides the time: {_listed(others)}. Choose one with entity=….")
    text = [n for n in table.names if n not in (time, *table.index, *labels) and table.dtype(n) is None]
    text = [n for n in text if _names_things(table.key(n))]
    if len(text) > 1:
        text = [n for n in text if n not in excluded]
    if len(text) > 1:
        raise DataError(f"Several columns could be the entity: {_listed(text)}. Choose one with entity=….")
    return text[0] if text else None


def _times(table: Table, name: Any) -> tuple[pd.Index, NDArray[np.int32], Times]:
    """Return the distinct times, ascending; the position of each row's time among them; and :attr:`Keys.days`."""
    key = table.key(name)
    if isinstance(key, pd.PeriodIndex):
        days: pd.Index = key.to_timestamp()
    elif isinstance(key, pd.DatetimeIndex):
        days = key
    else:
        days = _read_times(key, name)
    missing = np.flatnonzero(days.isna())
    if len(missing):
        raise DataError(
            f"The column {str(name)!r} has {counted(len(missing), 'missing time')}, the first in row {missing[0]}."
        )
    codes, distinct = pd.factorize(pd.DatetimeIndex(days), sort=True)
    unique = pd.DatetimeIndex(distinct)
    first = np.full(len(unique), -1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    clock = unique.tz_localize(None)
    if not (np.diff(clock.asi8) > 0).all():  # an hour is repeated when daylight saving time ends
        clock = unique.tz_convert("UTC").tz_localize(None)
    found: Times = clock.to_numpy().astype("datetime64[D]")
    if (np.diff(found).astype(np.int64) <= 0).any():
        found = clock.to_numpy().astype("datetime64[s]")
    if found[0] < FIRST_DAY or found[-1].astype("datetime64[D]") > LAST_DAY:
        row = int(first[0] if found[0] < FIRST_DAY else first[-1])
        raise DataError(
            f"The column {str(name)!r} has a day outside {FIRST_DAY} to {LAST_DAY} in row {row}: {shown(key[row])}."
        )
    return key.take(first), codes.astype(np.int32), found


def _read_times(key: pd.Index, name: object) -> pd.DatetimeIndex:
    """Return times given as text or as objects."""
    zones: dict[str, int] = {}
    rows = [] if isinstance(key.dtype, pd.StringDtype) else list(key)
    for row, value in enumerate(rows):
        zone = getattr(value, "tzinfo", None)
        zones.setdefault(str(zone), row)
        if len(zones) > 1:
            (one, _), (other, at) = zones.items()
            raise DataError(
                f"The column {str(name)!r} mixes time zones: {_zone(one)} and, in row {at}, {_zone(other)}. Convert it "
                "with utc=True of pandas.to_datetime."
            )
    check_hashable(key, name, "times")
    codes, distinct = pd.factorize(key)  # each text is parsed once
    found = np.full(len(distinct) + 1, np.datetime64("NaT", "ns"))  # the last one is for missing values
    for i, value in enumerate(distinct):
        try:
            found[i] = read_times([value], str(name)).astype("datetime64[ns]")[0]
        except DateError as exc:
            row = int(np.argmax(codes == i))
            said = str(exc).removeprefix(f"{name}: ")
            said += _counting(name) if isinstance(value, Number) else ""
            raise DataError(f"The column {str(name)!r} does not hold times: in row {row}, {said}") from exc
    return pd.DatetimeIndex(found[codes])


def _counting(name: object) -> str:
    """Return how to convert a column of numbers that are not days."""
    column = f"frame[{name!r}]"
    return (
        f" If it counts seconds, convert it: pandas.Timestamp('1970-01-01') + pandas.to_timedelta({column}, unit='s'). If it "
        f"counts periods, give each a day: pandas.Timestamp('2000-01-01') + pandas.to_timedelta({column}, unit='D')."
    )


def _zone(name: str) -> str:
    return "none" if name == "None" else name


def _entities(table: Table, name: Any) -> tuple[list[Any], NDArray[np.int32], pd.Index | None]:
    """Return the distinct entities, sorted; the position of each row's entity among them; and :attr:`Keys.own_entities`."""
    if name is None:
        return [None], np.zeros(len(table), np.int32), None
    key = given = table.key(name)
    missing = np.flatnonzero(key.isna())
    if len(missing):
        raise DataError(
            f"The column {str(name)!r} has no entity in {counted(len(missing), 'row')}, the first of which is row {missing[0]}."
        )
    if isinstance(key, pd.CategoricalIndex):
        key = pd.Index(key.categories).take(key.codes)
    check_hashable(key, name, "entities")
    codes, found = pd.factorize(key)
    values = list(found)
    try:
        order = sorted(range(len(values)), key=values.__getitem__)
    except TypeError:  # values of several types
        order = sorted(range(len(values)), key=lambda i: (type(values[i]).__name__, str(values[i])))
    place = np.empty(len(values), np.int32)
    place[order] = np.arange(len(values), dtype=np.int32)
    made = place[codes]
    first = np.empty(len(values), np.int64)
    first[made[::-1]] = np.arange(len(made))[::-1]
    return [values[i] for i in order], made, given.take(first)


def check_hashable(key: pd.Index, name: object, what: str) -> None:
    """Raise an error that names the first row of a column whose value cannot be told apart from others (a list)."""
    if key.dtype != object:
        return
    for row, value in enumerate(key):
        try:
            hash(value)
        except TypeError as exc:
            raise DataError(
                f"The column {str(name)!r} has {what} that are not hashable: {shown(value)} in row {row}. Convert them to text."
            ) from exc


def _check_twice(keys: Keys, place: NDArray[np.int64], order: NDArray[np.int64], entity: object) -> None:
    same = np.flatnonzero(np.diff(place[order]) == 0)
    if not len(same):
        return
    first, second = int(order[same[0]]), int(order[same[0] + 1])
    advice = (
        " If the rows belong to several entities, specify the column of entities with entity=…."
        if entity is None
        else " Keep one of them: frame.drop_duplicates(…)."
    )
    of = "There are" if entity is None else f"{shown(keys.entities[keys.entity[first]])} (column {str(entity)!r}) has"
    raise DataError(
        f"{of} two rows at {keys.times[keys.time[first]]} (column {str(keys.time_name)!r}): rows {first} and {second}, "
        f"{counted(len(same), 'such row')} in total.{advice}"
    )


def _check_sorted(keys: Keys, entity: object) -> None:
    """Raise an error if the rows of an entity are not in chronological order."""
    by_entity = np.argsort(keys.entity, kind="stable")
    back = np.diff(keys.time[by_entity]) <= 0
    back &= np.diff(keys.entity[by_entity]) == 0
    if back.any():
        at = int(np.flatnonzero(back)[0])
        row, before = int(by_entity[at + 1]), int(by_entity[at])
        of = "" if entity is None else f" of {shown(keys.entities[keys.entity[row]])} (column {str(entity)!r})"
        raise DataError(
            f"The rows{of} are not in chronological order of {str(keys.time_name)!r}: "
            f"{keys.times[keys.time[row]]} (row {row}) follows {keys.times[keys.time[before]]} (row {before}). "
            "Sort them: frame.sort_values(…) or frame.sort_index()."
        )


def batches(names: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield batches of the names of columns to read together."""
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]


def common_dtype(table: Table, names: Iterable[Any]) -> np.dtype[Any]:
    """Return the common dtype of columns as scikit-learn reads a frame of them: float32 or float64.

    Columns that are all booleans, small whole numbers or half precision are read as float64, although float32 holds their
    values: sums of them would be rounded otherwise.
    """
    kinds = [kind for name in names if (kind := table.dtype(name)) is not None]
    return np.dtype(np.float32 if kinds and np.result_type(*kinds) == np.float32 else np.float64)


def check_columns(table: Table, names: Mapping[str, Sequence[Any]], keys: Keys) -> None:
    """Raise an error if a column does not exist, or does not hold numbers.

    Parameters
    ----------
    table : Table
        The table.
    names : mapping
        Name of the argument -> the columns given in it.
    keys : Keys
        Its keys, for messages.

    Raises
    ------
    DataError
        If a column cannot be used; the message has the column and the first row whose value is not a number.
    """
    for argument, given in names.items():
        for name in given:
            _named(table, name, argument)
            if list(given).count(name) > 1:
                raise DataError(f"{argument} names {shown(name)} twice.")
            if name in keys.names:
                raise DataError(f"{argument}={shown(name)} is a key column, so it cannot be used as numbers.")
            if table.dtype(name) is None:
                raise _not_numbers(table, name, keys, is_label=argument == "label")


def _not_numbers(table: Table, name: object, keys: Keys, *, is_label: bool) -> DataError:
    column = table.key(name)
    if isinstance(column, pd.DatetimeIndex):
        what = "holds times"
    elif isinstance(column, pd.CategoricalIndex):
        what = "holds categories, whose codes are numbers (frame[…].cat.codes)"
    else:
        known = column.notna()
        bad = [i for i in np.flatnonzero(known).tolist() if not isinstance(column[i], Real)]
        row = int(bad[0] if bad else np.argmax(known))
        what = f"has the dtype {column.dtype}, with {shown(column[row])} in {keys.describe(row)}"
    advice = "use a classifier" if is_label and _names_things(column) else "leave it out"
    return DataError(f"The column {str(name)!r} does not hold numbers: it {what}. Convert it, or {advice}.")
