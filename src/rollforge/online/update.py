"""Update a recorder's prediction and labels, using its own model and dataset definition."""

from __future__ import annotations

import abc
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import is_whole_number
from rollforge.dates import DayLike, read_day, read_timestamp
from rollforge.errors import ArtifactNotFound, ConfigError, DataError, excerpt
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDatasetH
from rollforge.market.frames import day_rows
from rollforge.market.universe import resolve_instruments, session_provider
from rollforge.models.base import Model
from rollforge.record.signal import SignalRecord
from rollforge.track.base import Recorder

__all__ = ["DSBasedUpdater", "LabelUpdater", "PredUpdater", "RMDLoader", "RecordUpdater"]

log = logging.getLogger(__name__)


class RMDLoader:
    """Loads the model and dataset of a recorder.

    Parameters
    ----------
    rec : Recorder
        A trained recorder.
    """

    def __init__(self, rec: Recorder) -> None:
        self.rec = rec

    def get_dataset(
        self,
        start_time: DayLike | None,
        end_time: DayLike | None,
        segments: Mapping[str, object] | None = None,
        unprepared_dataset: DatasetH | None = None,
    ) -> DatasetH:
        """Return the recorder's dataset for other days, ready for prediction."""
        dataset: DatasetH = self.rec.load_object("dataset") if unprepared_dataset is None else unprepared_dataset
        handler_kwargs = {"end_time": end_time}
        if not _reaches_back(dataset, start_time):
            handler_kwargs["start_time"] = start_time
        dataset.config(handler_kwargs=handler_kwargs, segments=segments or {"test": (start_time, end_time)})
        dataset.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS})
        return dataset

    def get_model(self) -> Model:
        """Return the recorder's model."""
        model: Model = self.rec.load_object("params.pkl")
        return model


def _history(dataset: object) -> int:
    """Return how many days before a day its samples use."""
    return dataset.history if isinstance(dataset, TSDatasetH) else 0


def _reaches_back(dataset: DatasetH, start_time: object) -> bool:
    """Return whether the handler's range starts early enough; if so it is kept, since processors learn from it."""
    first = getattr(getattr(dataset, "handler", None), "start_time", start_time)
    return first is None or bool(read_day(first) < read_day(start_time))


class RecordUpdater(abc.ABC):
    """Base class of updates of a recorder.

    Parameters
    ----------
    record : Recorder
        The recorder.
    """

    def __init__(self, record: Recorder, *args: object, **kwargs: object) -> None:
        self.record = record

    @abc.abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> object:
        """Update the recorder."""


class DSBasedUpdater(RecordUpdater):
    """Updates a frame with index (datetime, instrument) that is computed from the recorder's dataset.

    Parameters
    ----------
    record : Recorder
        A trained recorder.
    to_date : date-like, optional
        The last day; None, or a day past the end of the calendar, means the calendar's last day. If it is not a trading
        day, the previous one is used.
    from_date : date-like, optional
        The first day to compute again, or the trading day after it; None means the day after the last existing one.
        Missing days before it are computed too.
    hist_ref : int, optional
        Number of trading days of history that the dataset needs, at least 0; by default those before the last day of a
        sample of a :class:`~rollforge.features.timeseries.TSDatasetH`, and 0 for other datasets.
    freq : str
        Name of the calendar.
    fname : str
        Name of the artifact.
    loader_cls : type
        Class that loads model and dataset.

    Raises
    ------
    ArtifactNotFound
        If the recorder does not have the artifact yet.
    ConfigError
        If `hist_ref` is not a number of days, or there is no trading day up to `to_date`.
    """

    def __init__(
        self,
        record: Recorder,
        to_date: DayLike | None = None,
        from_date: DayLike | None = None,
        hist_ref: int | None = None,
        freq: str = "day",
        fname: str = "pred.pkl",
        loader_cls: type[RMDLoader] = RMDLoader,
    ) -> None:
        super().__init__(record)
        if not isinstance(record, Recorder):
            raise ConfigError(f"must be a recorder, found {excerpt(repr(record))}.", path="record")
        self.hist_ref = None if hist_ref is None else _number_of_days(hist_ref, "hist_ref")
        self.freq = freq
        self.fname = fname
        self.rmdl = loader_cls(record)
        self._calendar = pd.DatetimeIndex(D.calendar(freq=freq))
        self.to_date = self._last_day(to_date)
        old = record.load_object(fname)
        if not isinstance(old, (pd.DataFrame, pd.Series)) or "datetime" not in old.index.names:
            raise ConfigError(
                f"{fname} of recorder {record.id} is not a frame with index (datetime, instrument) but a "
                f"{type(old).__name__}. Updaters extend such frames, as pred.pkl and label.pkl.",
                path="fname",
            )
        self.old_data: Any = old
        first = self._first_missing()
        if from_date is not None:
            again = self._place(read_timestamp(from_date, "from_date"))
            first = again if first is None else min(first, again)
        if first is None:
            raise ConfigError(f"{fname} of recorder {record.id} is empty. Give from_date, the first day to compute.")
        self._first = first
        self.last_end = self._shifted(self._first, -1) if self._first else self._calendar[0] - pd.Timedelta(days=1)

    def _last_day(self, to_date: DayLike | None) -> pd.Timestamp:
        if to_date is None:
            return self._calendar[-1]
        until = read_timestamp(to_date, "to_date")
        place = int(self._calendar.searchsorted(until, side="right")) - 1
        if place < 0:
            raise ConfigError(f"There is no trading day up to {read_day(until)}.", path="to_date")
        return self._calendar[place]

    def _place(self, day: pd.Timestamp, side: Literal["left", "right"] = "left") -> int:
        """Return the position of the first trading day on or after a day; with ``side="right"``, after it."""
        return int(self._calendar.searchsorted(day, side=side))

    def _first_missing(self) -> int | None:
        """Return the position of the first day to compute; None if there is no day yet."""
        days = self.old_data.dropna().index.get_level_values("datetime")
        if len(days):
            return self._place(days.max(), "right")
        days = self.old_data.index.get_level_values("datetime")
        return self._place(days.min()) if len(days) else None

    def _shifted(self, place: int, days: int) -> pd.Timestamp:
        return self._calendar[min(max(place + days, 0), len(self._calendar) - 1)]

    def prepare_data(self, unprepared_dataset: DatasetH | None = None) -> DatasetH:
        """Return the dataset for the missing days."""
        segments = {"test": (self._shifted(self._first, 0), self.to_date)}
        if self.hist_ref is None and unprepared_dataset is None:
            unprepared_dataset = self.record.load_object("dataset")
        history = _history(unprepared_dataset) if self.hist_ref is None else self.hist_ref
        start = self._shifted(self._first, -history)
        return self.rmdl.get_dataset(start, self.to_date, segments, unprepared_dataset)

    @overload
    def update(self, dataset: DatasetH | None = None, write: bool = True, ret_new: Literal[False] = False) -> None: ...

    @overload
    def update(self, dataset: DatasetH | None = None, write: bool = True, *, ret_new: bool) -> pd.DataFrame | None: ...

    def update(self, dataset: DatasetH | None = None, write: bool = True, ret_new: bool = False) -> pd.DataFrame | None:
        """Compute the missing days and save them.

        Parameters
        ----------
        dataset : DatasetH, optional
            Result of :meth:`prepare_data`, to share it between several recorders.
        write : bool
            Whether to replace the artifact.
        ret_new : bool
            Whether to return the full updated frame.
        """
        if self._first >= len(self._calendar) or self._calendar[self._first] > self.to_date:
            log.info("%s of recorder %s already reaches to %s", self.fname, self.record.id, self.to_date)
            return None
        updated = self.get_update_data(self.prepare_data() if dataset is None else dataset)
        if write:
            objects: dict[str, Any] = {self.fname: updated, **self.saved_with(updated)}
            self.record.save_objects(**objects)
        return updated if ret_new else None

    def saved_with(self, updated: pd.DataFrame) -> dict[str, object]:
        """Return further artifacts to save with the updated frame; none by default."""
        return {}

    @abc.abstractmethod
    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the old frame updated with the new days."""

    def _with_new(self, new: pd.DataFrame) -> pd.DataFrame:
        """Return the new rows and the old rows of other days, without days that are no longer in the calendar."""
        if list(new.columns) != list(self.old_data.columns):
            raise ConfigError(
                f"{self.fname} of recorder {self.record.id} has the columns {list(self.old_data.columns)}, but its update "
                f"by {type(self).__name__} has {list(new.columns)}. Each artifact has its own updater.",
                path="fname",
            )
        days, calendar = self.old_data.index.get_level_values("datetime"), self._calendar
        gone = (days <= calendar[-1]) & (days >= calendar[0]) & ~days.isin(calendar)
        again = (days >= self._calendar[self._first]) & (days <= self.to_date)
        joined: pd.DataFrame = pd.concat([self.old_data[~gone & ~again], new]).sort_index()
        return joined


class PredUpdater(DSBasedUpdater):
    """Updates the prediction of a recorder.

    Days are also computed again from the first one on which an instrument has a price but no prediction, because the price
    arrived late. Instruments that still have no prediction afterwards, for example because their history is too short, are
    recorded, so that they do not cause the same computation again; those without a price, such as suspended ones, cause
    none.

    Parameters
    ----------
    record : Recorder
        A trained recorder.
    *args, **kwargs
        As for :class:`DSBasedUpdater`.
    late : bool
        False leaves predicted days as they are, unless `from_date` includes them.
    """

    def __init__(self, record: Recorder, *args: Any, late: bool = True, **kwargs: Any) -> None:
        self._late = late
        super().__init__(record, *args, **kwargs)

    @property
    def _noted(self) -> str:
        """The artifact with the instruments that have a price but cannot be predicted: a hash of their codes by day."""
        return f"{self.fname.removesuffix('.pkl')}_unpredicted.pkl"

    def _first_missing(self) -> int | None:
        first = super()._first_missing()
        if not self._late or first is None:
            return first
        noted = self._known()
        late = [day for day, mark in self._unpredicted(self.old_data).items() if noted.get(day) != mark]
        return min([first, *(self._place(read_timestamp(day)) for day in late)])

    def _known(self) -> dict[str, str]:
        try:
            return dict(self.record.load_object(self._noted))
        except ArtifactNotFound:
            return {}

    def _unpredicted(self, frame: pd.DataFrame) -> dict[str, str]:
        """Return the days on which instruments have a price but no prediction: day -> hash of their codes."""
        index = frame.index
        places = self._calendar.get_indexer(index.get_level_values("datetime"))
        stop = min(int(places.max(initial=-1)), self._place(self.to_date)) + 1
        start = int(places[places >= 0].min(initial=stop))
        if start >= stop:
            return {}
        try:
            codes, prices = self._prices(sorted(set(index.get_level_values("instrument"))), start, stop)
        except DataError:  # an error where the data are needed
            return {}
        rows = pd.Index(codes).get_indexer(index.get_level_values("instrument"))
        done = (rows >= 0) & (places >= start) & (places < stop) & frame.notna().all(axis=1).to_numpy()
        prices[rows[done], places[done] - start] = False
        days = np.flatnonzero(prices.any(axis=0))
        missing = {day: "\0".join(np.array(codes, object)[prices[:, day]]) for day in days.tolist()}
        return {
            str(self._calendar[start + day]): hashlib.blake2b(listed.encode(), digest_size=8).hexdigest()
            for day, listed in missing.items()
        }

    def _prices(self, predicted: list[str], start: int, stop: int) -> tuple[list[str], NDArray[np.bool_]]:
        """Return the instruments of the recorder's universe, and whether each is a member and has a price on each day."""
        provider = session_provider(None, self.freq).with_freq(self.freq)
        universe = getattr(getattr(self.record.load_object("dataset"), "handler", None), "instruments", None)
        members, _ = resolve_instruments(provider, predicted if universe is None else universe)
        codes, days = list(members), provider.calendar()[start:stop].astype("datetime64[D]")
        there = np.zeros((len(codes), stop - start), np.bool_)
        for row, spans in enumerate(members.values()):
            for first, last in [(days[0], days[-1])] if spans is None else spans:
                there[row, np.searchsorted(days, first) : np.searchsorted(days, last, "right")] = True
        fields = provider.fields()
        known = [
            ~np.isnan(provider.read(name, codes, start, stop).values)
            for name in (["close"] if "close" in fields else fields)
        ]
        return codes, there & np.logical_or.reduce(known) if known else ~there & there

    def saved_with(self, updated: pd.DataFrame) -> dict[str, object]:
        """Return the days on which instruments with a price could not be predicted."""
        left = self._unpredicted(updated) if self._late else {}
        later = (
            {day: mark for day, mark in self._known().items() if read_timestamp(day) > self.to_date}
            if self._late
            else {}
        )
        return {self._noted: {**later, **left}} if left or later else {}

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the prediction updated with the new days."""
        model = self.rmdl.get_model()
        prediction = day_rows(model.predict(dataset), f"The prediction of {type(model).__name__}")
        return self._with_new(prediction.to_frame("score") if isinstance(prediction, pd.Series) else prediction)


def _number_of_days(value: object, path: str) -> int:
    if not is_whole_number(value) or value < 0:
        raise ConfigError(f"must be a number of trading days, at least 0; found {value!r}.", path=path)
    return int(value)


class LabelUpdater(DSBasedUpdater):
    """Updates the labels saved by `SignalRecord`.

    Without `from_date`, all days are recomputed from the first one with a missing label on: labels that look ahead become
    known later than their day, and those of one instrument can arrive later than those of others.
    """

    def __init__(self, record: Recorder, to_date: DayLike | None = None, **kwargs: Any) -> None:
        super().__init__(record, to_date=to_date, **{"fname": "label.pkl", **kwargs})

    def _first_missing(self) -> int | None:
        missing = self.old_data.isna().any(axis=1)
        if not missing.any():
            return super()._first_missing()
        return self._place(self.old_data.index.get_level_values("datetime")[missing].min())

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the labels updated with the new days."""
        return self._with_new(SignalRecord.generate_label(dataset))
