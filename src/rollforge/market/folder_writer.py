"""Writing a data folder."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Times, has_times, read_day, read_times, show_time
from rollforge.errors import DataError, shown, with_article
from rollforge.frequency import frequency, is_intraday
from rollforge.market.folder_files import check_folders, folder_name
from rollforge.paths import name_problem

__all__ = ["write_folder"]


def write_folder(
    path: str | os.PathLike[str],
    calendar: Times | Sequence[str | dt.date],
    series: Mapping[str, tuple[int, Mapping[str, NDArray[np.generic]]]],
    universes: Mapping[str, Mapping[str, Sequence[tuple[object, object]]]],
    freq: str = "day",
) -> None:
    """Write a data folder.

    Parameters
    ----------
    path : path
        The folder; it is created if it does not exist.
    calendar : array of datetime64
        All trading days, ascending, or the times of all bars.
    series : mapping
        Code -> (position of its first day in the calendar, {field: values from that day on}).
    universes : mapping
        Name -> {code: [(first day, last day), …]}.
    freq : str
        Frequency of the calendar and of the values, such as ``60min``.

    Raises
    ------
    DataError
        If a code, field or universe is not a valid file name, two codes have the same folder, or a value is too large
        for float32. Nothing has been written.
    """
    root = Path(path)
    _check_names(series, universes)
    for code, (_, fields) in series.items():
        _check_sizes(code, fields)
    freq = frequency(freq)
    points = read_times(calendar, "calendar")
    if has_times(points) and not is_intraday(freq):
        raise DataError(f"The calendar has times of day ({show_time(points[0])}), but its frequency is {freq!r}.")
    written = points.astype("datetime64[s]" if is_intraday(freq) else "datetime64[D]")
    lines = [f"{point}\n".replace("T", " ") for point in written]
    for folder in ("calendars", "instruments", "features"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "calendars" / f"{freq}.txt").write_text("".join(lines), encoding="utf-8")
    for name, members in universes.items():
        rows = (f"{code}\t{read_day(a)}\t{read_day(b)}\n" for code, spans in sorted(members.items()) for a, b in spans)
        (root / "instruments" / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
    for code, (first, fields) in series.items():
        place = root / "features" / folder_name(code)
        place.mkdir(exist_ok=True)
        for name, values in fields.items():
            block = np.empty(len(values) + 1, "<f4")
            block[0] = first
            block[1:] = values
            block.tofile(place / f"{name}.{freq}.bin")


def _check_names(
    series: Mapping[str, tuple[int, Mapping[str, object]]], universes: Mapping[str, Mapping[str, object]]
) -> None:
    fields = dict.fromkeys(name for _, values in series.values() for name in values)
    for what, names in (("instrument", map(folder_name, series)), ("field", fields), ("universe", universes)):
        for name in names:
            problem = name_problem(name)
            if problem:
                raise DataError(
                    f"{shown(name)} cannot be the name of {with_article(what)}, because it is used as a file name: {problem}."
                )
    check_folders(series)


def _check_sizes(code: str, fields: Mapping[str, NDArray[np.generic]]) -> None:
    largest = float(np.finfo(np.float32).max)
    for name, values in fields.items():
        given = np.asarray(values)
        if given.dtype == np.float32 or not given.size:
            continue  # infinite values were infinite before
        bad = np.abs(given.astype(np.float64)) > largest
        bad &= np.isfinite(given.astype(np.float64))
        if bad.any():
            raise DataError(
                f"{name} of {code} is too large for a data folder, which stores float32: {given[bad][0]:g}. "
                "Correct the source."
            )
