"""``qlib.data.storage.file_storage``: reading the files of a data folder one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.dates import as_timestamp, read_day
from rollforge.errors import DataError, DataNotFound
from rollforge.market.provider import Provider
from rollforge.market.universe import session_provider
from rollforge.session import DEFAULT_FREQ, current_session

__all__ = ["FileCalendarStorage", "FileFeatureStorage", "FileInstrumentStorage"]

IndexOrSlice = int | slice
_WRITE = "A data folder can only be written as a whole: use 'rollforge data import'."


class _FileStorage:
    """A file of one data folder."""

    def __init__(self, freq: str, provider_uri: str | os.PathLike[str] | Mapping[str, str] | None = None) -> None:
        self.freq = freq
        self._provider_uri = provider_uri

    @property
    def _provider(self) -> Provider:
        uri = self._provider_uri
        if isinstance(uri, Mapping):
            uri = uri.get(self.freq, uri.get(DEFAULT_FREQ))
        if uri is None:
            return session_provider(freq=self.freq)
        return session_provider(replace(current_session(), provider_uri=os.fspath(uri), folders={}))

    def check(self) -> None:
        """Check that the file exists.

        Raises
        ------
        DataNotFound
            If it does not exist.
        """
        if not self.uri.exists():
            raise DataNotFound(f"There is no file {self.uri}.")

    @property
    def uri(self) -> Path:
        """The file."""
        raise NotImplementedError

    def clear(self) -> None:
        """Raise :class:`DataError`: data folders are not modified through this interface."""
        raise DataError(_WRITE)

    def __setitem__(self, key: object, value: object) -> None:
        raise DataError(_WRITE)

    def __delitem__(self, key: object) -> None:
        raise DataError(_WRITE)


class FileCalendarStorage(_FileStorage):
    """The trading days.

    Parameters
    ----------
    freq : str
        The frequency.
    future : bool
        Whether to include future days, if they are known.
    provider_uri : path or dict, optional
        The data folder, or a mapping by frequency; by default the session's.
    """

    def __init__(self, freq: str, future: bool, provider_uri: Any = None, **kwargs: object) -> None:
        super().__init__(freq, provider_uri)
        self.future = future

    @property
    def uri(self) -> Path:
        """The file."""
        return self._provider.path / "calendars" / f"{self.freq}{'_future' if self.future else ''}.txt"

    @property
    def data(self) -> list[str]:
        """All days, as ``2020-01-02``.

        Raises
        ------
        DataNotFound
            If the calendar does not exist.
        """
        return [str(day) for day in self._provider.calendar(self.freq, future=self.future)]

    def __getitem__(self, i: IndexOrSlice) -> Any:
        return self.data[i]

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def index(self, value: object) -> int:
        """Return the position of a day."""
        return self.data.index(str(read_day(value, "value")))


class FileInstrumentStorage(_FileStorage):
    """The members of a universe.

    Parameters
    ----------
    market : str
        The universe.
    freq : str
        Has no meaning here.
    provider_uri : path or dict, optional
        The data folder; the session's by default.
    """

    def __init__(self, market: str, freq: str, provider_uri: Any = None, **kwargs: object) -> None:
        super().__init__(freq, provider_uri)
        self.market = market

    @property
    def uri(self) -> Path:
        """The file."""
        return self._provider.path / "instruments" / f"{self.market.lower()}.txt"

    @property
    def data(self) -> dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]]:
        """Code -> its days in the universe, as (first, last).

        Raises
        ------
        DataNotFound
            If the universe does not exist.
        """
        members = self._provider.instruments(self.market.lower())
        return {code: [(as_timestamp(a), as_timestamp(b)) for a, b in spans] for code, spans in members.items()}

    def __getitem__(self, k: str) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
        return self.data[k]

    def __len__(self) -> int:
        return len(self.data)


class FileFeatureStorage(_FileStorage):
    """One field of an instrument, by positions in the calendar.

    Parameters
    ----------
    instrument, field : str
        Instrument code and field name, without ``$``.
    freq : str
        The frequency.
    provider_uri : path or dict, optional
        The data folder; the session's by default.
    """

    def __init__(self, instrument: str, field: str, freq: str, provider_uri: Any = None, **kwargs: object) -> None:
        super().__init__(freq, provider_uri)
        self.instrument, self.field = instrument, field

    @property
    def uri(self) -> Path:
        """The file."""
        return self._provider.folder(self.instrument) / f"{self.field.lower()}.{self.freq.lower()}.bin"

    def _span(self) -> tuple[int, int]:
        provider = self._provider
        begin, end = provider.spans(
            self.field.lower(), [self.instrument], 0, len(provider.calendar(self.freq)), self.freq
        )
        return int(begin[0]), int(end[0])

    @property
    def data(self) -> Any:
        """All values, as a series."""
        return self[:]

    @property
    def start_index(self) -> int | None:
        """The position of the first value; None if the file does not exist."""
        return self._span()[0] if self.uri.exists() else None

    @property
    def end_index(self) -> int | None:
        """The position of the last value; None if the file does not exist."""
        return self._span()[1] - 1 if self.uri.exists() else None

    def __getitem__(self, i: IndexOrSlice) -> Any:
        """Return ``(position, value)``, or a series for a slice of positions (empty if the file does not exist)."""
        if not self.uri.exists():
            return pd.Series(dtype=np.float32) if isinstance(i, slice) else (None, None)
        begin, end = self._span()
        if not isinstance(i, slice):
            if not begin <= i < end:
                raise IndexError(
                    f"{self.uri} has values for days {begin} to {end - 1} of the calendar, but none for day {i}."
                )
            return i, self._read(i, i + 1)[0]
        start, stop = max(begin, i.start or 0), end if i.stop is None else min(end, i.stop)
        if start >= stop:
            return pd.Series(dtype=np.float32)
        return pd.Series(self._read(start, stop), pd.RangeIndex(start, stop), np.float32)

    def _read(self, start: int, stop: int) -> list[float]:
        block = self._provider.read(self.field.lower(), [self.instrument], start, stop, self.freq)
        values: list[float] = block.values[0].tolist()
        return values

    def __len__(self) -> int:
        self.check()
        begin, end = self._span()
        return end - begin

    def write(self, data_array: object, index: int | None = None) -> None:
        """Raise :class:`DataError`: data folders are not modified through this interface."""
        raise DataError(_WRITE)
