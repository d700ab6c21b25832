"""The contents of a data folder to which rows are added."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Days
from rollforge.errors import DataError
from rollforge.market.conversion import Conversion, read_conversion
from rollforge.market.folder_files import Span, check_series
from rollforge.market.provider import Provider

__all__ = ["ExistingData", "StoredSeries", "read_existing"]

StoredSeries = tuple[int, NDArray[np.float32]]
"""Position of the first day in the calendar, and the values from that day on."""
_SUFFIX = ".day.bin"


@dataclass(frozen=True, slots=True)
class ExistingData:
    """A data folder, without the values of its series."""

    path: Path
    calendar: Days
    future: Days | None
    """The days of ``day_future.txt``, if it exists."""
    conversion: Conversion | None
    heads: Mapping[str, Mapping[str, tuple[int, int]]]
    """Folder of an instrument -> field -> half-open range of days."""

    def life(self, name: str) -> tuple[int, int]:
        """Return the half-open range of days of an instrument's series."""
        spans = self.heads[name].values()
        return min(a for a, _ in spans), max(b for _, b in spans)

    def lives(self) -> dict[str, Span]:
        """Return the first and last day of each instrument that has values."""
        found = {}
        for name in self.heads:
            begin, end = self.life(name)
            if end > begin:
                found[name] = (self.calendar[begin], self.calendar[end - 1])
        return found

    def fields(self) -> list[str]:
        """Return the fields that at least one instrument has."""
        return list(dict.fromkeys(field for fields in self.heads.values() for field in fields))

    def series(self, name: str) -> dict[str, StoredSeries]:
        """Return the series of an instrument."""
        found = {}
        for field, (first, _) in self.heads.get(name, {}).items():
            file = self.path / "features" / name / f"{field}{_SUFFIX}"
            try:
                found[field] = (first, np.fromfile(file, "<f4")[1:])
            except OSError as exc:
                raise DataError(f"{file} cannot be read: {exc.strerror}.") from exc
        return found


def read_existing(folder: Path) -> ExistingData:
    """Return the contents of a data folder.

    Raises
    ------
    DataError
        If a calendar or a series is damaged.
    """
    provider = Provider(folder)
    if provider.freq != "day":
        raise DataError(
            f"{folder} has bars of the frequency {provider.freq!r}. Rows can be added to daily data only; import the whole "
            "table again."
        )
    calendar = provider.calendar()
    heads: dict[str, dict[str, tuple[int, int]]] = {}
    root = folder / "features"
    for entry in sorted(os.scandir(root), key=lambda e: e.name) if root.is_dir() else []:
        if not entry.is_dir():
            continue
        found = {}
        with os.scandir(entry.path) as files:
            for file in files:
                if file.name.endswith(_SUFFIX):
                    first, end = check_series(file.path, len(calendar))
                    found[file.name.removesuffix(_SUFFIX)] = (first, end)
        if found:
            heads[entry.name] = dict(sorted(found.items()))
    has_future = (folder / "calendars" / "day_future.txt").is_file()
    future = provider.calendar(future=True) if has_future else None
    return ExistingData(folder, calendar, future, read_conversion(folder), heads)
