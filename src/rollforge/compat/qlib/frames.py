"""Small functions on frames, arrays and lists, as in ``qlib.utils`` and ``qlib.data.dataset.utils``."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import build
from rollforge.dates import read_days, read_timestamp
from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.features.handler import DataHandler
from rollforge.generate.task_view import TaskView
from rollforge.kinds import HANDLER
from rollforge.limits import check_file, check_parquet
from rollforge.task import Definition

__all__ = [
    "compare_dict_value",
    "convert_index_format",
    "drop_nan_by_y_index",
    "fetch_df_by_col",
    "fetch_df_by_index",
    "get_level_index",
    "init_task_handler",
    "lazy_sort_index",
    "load_dataset",
    "lower_bound",
    "np_ffill",
    "remove_fields_space",
    "remove_repeat_field",
    "robust_zscore",
    "split_pred",
    "time_to_slc_point",
    "upper_bound",
    "zscore",
]

_LEVELS = ("datetime", "instrument")

# -- the index ---------------------------------------------------------------------------------------------------------


def lazy_sort_index(df: pd.DataFrame, axis: int = 0) -> pd.DataFrame:
    """Return a frame sorted by its index; the frame itself if it is already sorted."""
    index = df.index if axis == 0 else df.columns
    return df if index.is_monotonic_increasing else df.sort_index(axis=axis)  # type: ignore[call-overload]


def get_level_index(df: pd.DataFrame | pd.Series, level: str | int) -> int:
    """Return the position of an index level; (datetime, instrument) is assumed if the levels are unnamed.

    Raises
    ------
    DataError
        For another name.
    """
    if isinstance(level, int):
        return level
    names = list(df.index.names)
    found = names if level in names else list(_LEVELS)
    if level not in found:
        raise DataError(f"The index has no level {level!r}; it has {', '.join(map(str, names))}.")
    return found.index(level)


def convert_index_format(df: Any, level: str = "datetime") -> Any:
    """Return a frame or series with a given level first, sorted; the object itself if the level is already first."""
    return df.swaplevel().sort_index() if get_level_index(df, level) == 1 else df


def fetch_df_by_index(df: pd.DataFrame, selector: Any, level: str | int | None, fetch_orig: bool = True) -> Any:
    """Return the rows whose label at a level is selected.

    Parameters
    ----------
    df : DataFrame
        Index of two levels.
    selector : label, slice, list or MultiIndex
        The selection.
    level : str, int or None
        The level; None (and a MultiIndex) means complete labels.
    fetch_orig : bool
        If True, return the frame itself if everything is selected.
    """
    if level is None or isinstance(selector, pd.MultiIndex):
        return df.loc(axis=0)[selector]
    everything = slice(None)
    if isinstance(selector, slice) and selector == everything:
        return df if fetch_orig else df.copy()
    rows = (selector, everything) if get_level_index(df, level) == 0 else (everything, selector)
    return df.loc(axis=0)[rows]


def fetch_df_by_col(df: pd.DataFrame, col_set: str | Sequence[str]) -> pd.DataFrame:
    """Return a group of columns (or several, with both levels); ``__all`` with plain names, ``__raw`` unchanged."""
    if not isinstance(df.columns, pd.MultiIndex) or col_set == DataHandler.CS_RAW:
        return df
    if col_set == DataHandler.CS_ALL:
        return df.droplevel(axis=1, level=0)
    columns: Any = df.loc(axis=1)
    found: pd.DataFrame = columns[col_set]
    return found


def init_task_handler(task: Definition) -> DataHandler:
    """Build the handler of a task, put it into the task, and return it.

    Raises
    ------
    ConfigError
        If the task has no handler.
    """
    kwargs = TaskView(task).dataset_kwargs
    if kwargs.get("handler") is None:
        raise ConfigError("the task has no handler.", path="dataset.kwargs.handler")
    kwargs["handler"] = build(kwargs["handler"], kind=HANDLER, accept_types=DataHandler, where="dataset.kwargs.handler")
    handler: DataHandler = kwargs["handler"]
    return handler


def time_to_slc_point(t: object) -> pd.Timestamp | None:
    """Return a day for slicing; None is open."""
    return None if t is None else read_timestamp(t, "t")


def split_pred(
    pred: pd.DataFrame, number: int | None = None, split_date: object = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a prediction into two parts.

    Parameters
    ----------
    pred : DataFrame
        Index (instrument, datetime).
    number : int, optional
        Number of days in the first part; by default all.
    split_date : date, optional
        Last day of the first part; the `number`-th by default.

    Raises
    ------
    ConfigError
        If neither is given.
    """
    days = pred.index.get_level_values("datetime")
    every = pd.DatetimeIndex(sorted(days.unique()))
    if split_date is not None:
        last = read_timestamp(split_date, "split_date")
    elif number is not None:
        last = every[number - 1]
    else:
        raise ConfigError("split_pred needs number or split_date.")
    before = every[every <= last]
    first = before[-number] if number is not None and len(before) >= number else every[0]
    ordered = pred.sort_index()
    days = ordered.index.get_level_values("datetime")
    return ordered[(days >= first) & (days <= last)], ordered[days > last]


# -- values ------------------------------------------------------------------------------------------------------------


def zscore(x: Any) -> Any:
    """Subtract the mean of a series (or of each column) and divide by its standard deviation."""
    return (x - x.mean()).div(x.std())


def robust_zscore(x: pd.Series, zscore: bool = False) -> pd.Series:
    """Subtract the median and divide by the median absolute deviation times 1.4826, clipped to [-3, 3].

    Parameters
    ----------
    x : Series
        The values.
    zscore : bool
        If True, standardize the result again by its mean and standard deviation.
    """
    centred = x - x.median()
    found = (centred / (centred.abs().median() * 1.4826)).clip(-3, 3)
    return (found - found.mean()) / found.std() if zscore else found


def np_ffill(arr: np.ndarray) -> np.ndarray:
    """Return a vector with each missing value replaced by the previous value.

    Examples
    --------
    >>> np_ffill(np.array([np.nan, 1.0, np.nan, 2.0])).tolist()
    [nan, 1.0, 1.0, 2.0]
    """
    place = np.where(pd.isna(arr), 0, np.arange(len(arr)))
    return arr[np.maximum.accumulate(place)]


def drop_nan_by_y_index(x: Any, y: Any, weight: Any = None) -> tuple[Any, Any, Any]:
    """Return the rows that have a label."""
    keep = ~np.isnan(np.asarray(y)).reshape(len(y), -1).any(axis=1)
    return x[keep], y[keep], None if weight is None else weight[keep]


def lower_bound(data: Sequence[Any], val: Any, level: int = 0) -> int:
    """Bisect a list of tuples sorted by one element: return the first position at which it is at least `val`."""
    return bisect.bisect_left(data, val, key=lambda row: row[level])


def upper_bound(data: Sequence[Any], val: Any, level: int = 0) -> int:
    """Bisect a list of tuples sorted by one element: return the first position at which it is above `val`."""
    return bisect.bisect_right(data, val, key=lambda row: row[level])


def remove_repeat_field(fields: Iterable[object]) -> list[Any]:
    """Return fields without duplicates, in order."""
    return list(dict.fromkeys(fields))


def remove_fields_space(fields: Any) -> str | list[str]:
    """Return an expression, or each of several, without spaces."""
    return fields.replace(" ", "") if isinstance(fields, str) else [str(f).replace(" ", "") for f in fields]


def compare_dict_value(src_data: Mapping[str, object], dst_data: Mapping[str, object]) -> list[str]:
    """Compare two dicts line by line as JSON: ``- `` only in the first, ``+ `` only in the second."""
    import difflib

    before, after = (json.dumps(d, indent=4, sort_keys=True, default=str).splitlines() for d in (src_data, dst_data))
    return [line for line in difflib.ndiff(before, after) if line[:2] in ("+ ", "- ")]


def load_dataset(path_or_obj: Any, index_col: Sequence[int] = (0, 1)) -> pd.DataFrame:
    """Return a frame, or read one from a file: ``.csv``, ``.parquet``, or ``.pkl`` (read through the allow-list).

    In a ``.csv``, the columns `index_col` become the index, ``datetime`` among them as days.

    Raises
    ------
    DataNotFound
        If the file does not exist.
    DataError
        If it has another suffix.
    """
    if isinstance(path_or_obj, pd.DataFrame):
        return path_or_obj
    file = Path(path_or_obj)
    if not file.is_file():
        raise DataNotFound(f"There is no file {str(file)!r}.")
    if file.suffix == ".csv":
        check_file(file, error=DataError)
        table = pd.read_csv(file)
        labels = [str(table.columns[i]) for i in index_col]
        if "datetime" in labels:
            table["datetime"] = read_days(table["datetime"], f"{file}, datetime").astype("datetime64[ns]")
        return table.set_index(labels)
    if file.suffix == ".parquet":
        check_parquet(file, error=DataError)
        return pd.read_parquet(file)
    if file.suffix == ".pkl":
        from rollforge.safe_pickle import load

        found = load(file)
        if not isinstance(found, pd.DataFrame):
            raise DataError(f"{file} contains a {type(found).__name__}, not a frame.")
        return found
    raise DataError(f"{file} is not a .csv, .parquet or .pkl file.")
