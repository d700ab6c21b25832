"""Signals: predictions that strategies query by day."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import build
from rollforge.dates import DayLike, Days, read_day
from rollforge.errors import ConfigError, DataError
from rollforge.features.dataset import Dataset
from rollforge.kinds import SIGNAL
from rollforge.market.frames import day_rows

__all__ = ["ModelSignal", "Scores", "Signal", "SignalWCache", "create_signal_from"]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one day, in the order of the instruments."""

    values: NDArray[np.float64]
    """(instruments,); NaN if there is no score."""
    present: NDArray[np.bool_]
    """Whether the instrument has a row on that day."""


class _HasSignal(Protocol):
    """A signal of any class."""

    def get_signal(self, start_time: DayLike, end_time: DayLike) -> pd.Series | pd.DataFrame | None: ...


class _Predicts(Protocol):
    """A model that a signal can be made of."""

    def predict(self, dataset: Dataset) -> pd.Series | pd.DataFrame: ...


class Signal(ABC):
    """Base class of signals, which provide scores by time. Subclasses can be passed to strategies."""

    @abstractmethod
    def get_signal(self, start_time: DayLike, end_time: DayLike) -> pd.Series | pd.DataFrame | None:
        """Return the last scores in a time range by instrument; None if there are none."""

    def scores_on(self, start_time: pd.Timestamp, end_time: pd.Timestamp, codes: Sequence[str]) -> Scores | None:
        """Return the last scores in a time range in the order of `codes` (first column); None if there are none."""
        found = self.get_signal(start_time, end_time)
        if found is None:
            return None
        series = found.iloc[:, 0] if isinstance(found, pd.DataFrame) else found
        series = series.set_axis(series.index.astype(str).str.upper())
        values = series.reindex(list(codes)).to_numpy(np.float64)
        return Scores(values, np.asarray(pd.Index(codes).isin(series.index)))


class SignalWCache(Signal):
    """A signal from a table of predictions.

    Parameters
    ----------
    signal : Series or DataFrame
        Index of days and instruments, in either order. Strategies use the first column of a frame.

    Raises
    ------
    ConfigError
        If it is anything else, such as an unresolved placeholder.
    DataError
        If it is empty, or has two values for the same day and instrument.
    """

    def __init__(self, signal: object) -> None:
        given = _rows(signal)
        frame = given.to_frame() if isinstance(given, pd.Series) else given
        if frame.shape[1] == 0:
            raise DataError("The signal has no column.")
        if frame.empty:
            raise DataError("The signal is empty: there is no prediction to trade.")
        days, instruments = (frame.index.get_level_values(level) for level in ("datetime", "instrument"))
        codes, names_of = pd.factorize(instruments.astype(str).str.upper(), sort=True)
        dates, row = np.unique(days.to_numpy().astype("datetime64[D]"), return_inverse=True)
        twice = pd.MultiIndex.from_arrays([row, codes]).duplicated()
        if twice.any():
            at = int(np.flatnonzero(twice)[0])
            raise DataError(f"The signal has two values for {names_of[codes[at]]} on {dates[row[at]]}.")
        self.codes: list[str] = [str(c) for c in names_of]
        """Instruments, ascending."""
        self.days: Days = dates
        self._columns = frame.columns
        self._is_frame = isinstance(given, pd.DataFrame)
        self._values = np.full((len(dates), len(self.codes), frame.shape[1]), np.nan)
        self._present = np.zeros(self._values.shape[:2], bool)
        values = frame.to_numpy(np.float64)
        self.infinite = int(np.isinf(values[:, 0]).sum())
        """Number of infinite scores, which are treated as missing: an infinite one would be the best of every day."""
        self._values[row, codes] = np.where(np.isinf(values), np.nan, values)
        self._present[row, codes] = True

    def get_signal(self, start_time: DayLike, end_time: DayLike) -> pd.Series | pd.DataFrame | None:
        """Return the last scores in a time range by instrument, in the form of the table."""
        first, stop = self._between(start_time, end_time)
        if first >= stop:
            return None
        values, present = self._values[stop - 1].copy(), self._present[stop - 1].copy()
        for day in range(stop - 2, first - 1, -1):
            missing = np.isnan(values)
            values[missing] = self._values[day][missing]
            present |= self._present[day]
        index = pd.Index(np.asarray(self.codes)[present], name="instrument")
        frame = pd.DataFrame(values[present], index=index, columns=self._columns)
        return frame if self._is_frame else frame.iloc[:, 0]

    def _between(self, start_time: object, end_time: object) -> tuple[int, int]:
        first, last = read_day(start_time, "start_time"), read_day(end_time, "end_time")
        return int(np.searchsorted(self.days, first)), int(np.searchsorted(self.days, last, "right"))

    def scores_on(self, start_time: pd.Timestamp, end_time: pd.Timestamp, codes: Sequence[str]) -> Scores | None:
        """Return the last scores in a time range in the order of `codes`; None if there is no prediction."""
        first, stop = self._between(start_time, end_time)
        if stop - first != 1:
            return super().scores_on(start_time, end_time, codes)
        values, present = self._values[first, :, 0], self._present[first]
        if list(codes) == self.codes:
            return Scores(values, present)
        place = {code: i for i, code in enumerate(self.codes)}
        found = np.array([place.get(code, -1) for code in codes])
        there = found >= 0
        return Scores(np.where(there, values[found], np.nan), there & present[found])


class ModelSignal(SignalWCache):
    """A signal from the prediction of a model.

    Parameters
    ----------
    model : BaseModel
        A fitted model.
    dataset : Dataset
        Dataset to predict.
    """

    def __init__(self, model: _Predicts, dataset: object) -> None:
        if not isinstance(dataset, Dataset):
            raise ConfigError("a signal from a model needs a dataset: (model, dataset).", path="strategy.kwargs.signal")
        self.model, self.dataset = model, dataset
        prediction = model.predict(dataset)
        super().__init__(prediction.iloc[:, 0] if isinstance(prediction, pd.DataFrame) else prediction)


def create_signal_from(source: object) -> Signal:
    """Create a signal from one of the supported sources.

    Parameters
    ----------
    source : Signal, Series, DataFrame, (model, dataset), or description
        A description is ``{class, module_path, kwargs}`` of a signal.

    Raises
    ------
    ConfigError
        If the source is anything else.
    """
    if isinstance(source, Mapping):
        source = build(source, kind=SIGNAL, where="strategy.kwargs.signal")
    if isinstance(source, Signal):
        return source
    if callable(getattr(source, "get_signal", None)):
        return _SignalAdapter(cast(_HasSignal, source))
    if isinstance(source, (tuple, list)) and len(source) == 2 and callable(getattr(source[0], "predict", None)):
        return ModelSignal(*source)
    return SignalWCache(source)


class _SignalAdapter(Signal):
    """Wraps an object of any class that has ``get_signal``."""

    def __init__(self, source: _HasSignal) -> None:
        self._source = source

    def get_signal(self, start_time: DayLike, end_time: DayLike) -> pd.Series | pd.DataFrame | None:
        return self._source.get_signal(start_time, end_time)


def _rows(source: object) -> pd.Series | pd.DataFrame:
    """Return a prediction by day and instrument."""
    if isinstance(source, str):
        raise ConfigError(
            f"a signal must be a prediction (Series, DataFrame) or (model, dataset), found {source!r}. In a "
            "record, '<PRED>' stands for the run's prediction.",
            path="strategy.kwargs.signal",
        )
    rows: pd.Series | pd.DataFrame = day_rows(source, "The signal")
    return rows
