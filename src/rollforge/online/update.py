"""Bring what a recorder keeps (its prediction, its labels) up to date, with its own model and dataset definition."""

from __future__ import annotations

import abc
import logging
from typing import Any, Literal, overload

import pandas as pd

from rollforge.dates import read_day, read_timestamp
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.market.frames import day_rows
from rollforge.record.signal import SignalRecord
from rollforge.track.base import Recorder

__all__ = ["DSBasedUpdater", "LabelUpdater", "PredUpdater", "RMDLoader", "RecordUpdater"]

log = logging.getLogger(__name__)


class RMDLoader:
    """Loads model and dataset of a recorder.

    Parameters
    ----------
    rec : Recorder
        A trained one.
    """

    def __init__(self, rec: Recorder) -> None:
        self.rec = rec

    def get_dataset(
        self,
        start_time: Any,
        end_time: Any,
        segments: dict[str, Any] | None = None,
        unprepared_dataset: DatasetH | None = None,
    ) -> DatasetH:
        """Return the recorder's dataset over other days, ready for prediction."""
        dataset: DatasetH = self.rec.load_object("dataset") if unprepared_dataset is None else unprepared_dataset
        handler_kwargs = {"end_time": end_time}
        if not _reaches_back(dataset, start_time):
            handler_kwargs["start_time"] = start_time
        dataset.config(handler_kwargs=handler_kwargs, segments=segments or {"test": (start_time, end_time)})
        dataset.setup_data()
        return dataset

    def get_model(self) -> Any:
        """Return the recorder's model."""
        return self.rec.load_object("params.pkl")


def _reaches_back(dataset: DatasetH, start_time: Any) -> bool:
    """Whether the handler's days begin early enough: then they stay, for its processors learn from the first of them."""
    first = getattr(getattr(dataset, "handler", None), "start_time", start_time)
    return first is None or bool(read_day(first) < read_day(start_time))


class RecordUpdater(abc.ABC):
    """Updates something of one recorder.

    Parameters
    ----------
    record : Recorder
        The recorder.
    """

    def __init__(self, record: Recorder, *args: Any, **kwargs: Any) -> None:
        self.record = record

    @abc.abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Do it."""


class DSBasedUpdater(RecordUpdater):
    """Updates a frame with index (datetime, instrument) that comes of the recorder's dataset.

    Parameters
    ----------
    record : Recorder
        A trained one.
    to_date : date-like, optional
        The last day; None, or one beyond the calendar, is the calendar's last.
    from_date : date-like, optional
        The first day to make anew; None is the one after the last that is there.
    hist_ref : int, optional
        How many trading days before the first one the dataset needs; 0 by default.
    freq : str
        Of the calendar.
    fname : str
        The artifact.
    loader_cls : type
        What loads model and dataset.

    Raises
    ------
    ArtifactNotFound
        When the recorder has no such artifact yet.
    """

    def __init__(
        self,
        record: Recorder,
        to_date: Any = None,
        from_date: Any = None,
        hist_ref: int | None = None,
        freq: str = "day",
        fname: str = "pred.pkl",
        loader_cls: type[RMDLoader] = RMDLoader,
    ) -> None:
        super().__init__(record)
        self.hist_ref = hist_ref or 0
        self.freq = freq
        self.fname = fname
        self.rmdl = loader_cls(record)
        self._calendar = pd.DatetimeIndex(D.calendar(freq=freq))
        latest = self._calendar[-1]
        self.to_date = latest if to_date is None else min(read_timestamp(to_date, "to_date"), latest)
        self.old_data: pd.DataFrame = record.load_object(fname)
        if from_date is None:
            # A label at the end is missing until the days that it looks at have come: it is made anew.
            self.last_end = self.old_data.dropna().index.get_level_values("datetime").max()
        else:
            self.last_end = self._shifted(read_timestamp(from_date, "from_date"), -1)

    def _shifted(self, day: pd.Timestamp, days: int) -> pd.Timestamp:
        place = int(self._calendar.searchsorted(day)) + days
        return self._calendar[min(max(place, 0), len(self._calendar) - 1)]

    def prepare_data(self, unprepared_dataset: DatasetH | None = None) -> DatasetH:
        """Return the dataset over the days that are missing."""
        first = self._shifted(self.last_end, 1)
        segments = {"test": (first, self.to_date)}
        return self.rmdl.get_dataset(self._shifted(first, -self.hist_ref), self.to_date, segments, unprepared_dataset)

    @overload
    def update(self, dataset: DatasetH | None = None, write: bool = True, ret_new: Literal[False] = False) -> None: ...

    @overload
    def update(self, dataset: DatasetH | None = None, write: bool = True, *, ret_new: bool) -> pd.DataFrame | None: ...

    def update(self, dataset: DatasetH | None = None, write: bool = True, ret_new: bool = False) -> pd.DataFrame | None:
        """Make the missing days and keep them.

        Parameters
        ----------
        dataset : DatasetH, optional
            What :meth:`prepare_data` returned, to use it for several recorders.
        write : bool
            Whether the artifact is replaced.
        ret_new : bool
            Whether the whole updated frame is returned.
        """
        if self.last_end >= self.to_date:
            log.info("%s of recorder %s reaches to %s already", self.fname, self.record.id, self.last_end)
            return None
        updated = self.get_update_data(self.prepare_data() if dataset is None else dataset)
        if write:
            objects: dict[str, Any] = {self.fname: updated}
            self.record.save_objects(**objects)
        return updated if ret_new else None

    @abc.abstractmethod
    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the old frame with the new days in it."""


def _with_new(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The old rows outside the new ones' days, and the new ones."""
    days = new.index.get_level_values("datetime")
    there = old.index.get_level_values("datetime")
    kept = old[(there < days.min()) | (there > days.max())] if len(days) else old
    joined: pd.DataFrame = pd.concat([kept, new]).sort_index()
    return joined


class PredUpdater(DSBasedUpdater):
    """Updates the prediction of a recorder."""

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the prediction with the new days in it."""
        model = self.rmdl.get_model()
        prediction = day_rows(model.predict(dataset), f"The prediction of {type(model).__name__}")
        frame = prediction.to_frame("score") if isinstance(prediction, pd.Series) else prediction
        return _with_new(self.old_data, frame)


class LabelUpdater(DSBasedUpdater):
    """Updates the labels that `SignalRecord` kept."""

    def __init__(self, record: Recorder, to_date: Any = None, **kwargs: Any) -> None:
        super().__init__(record, to_date=to_date, **{"fname": "label.pkl", **kwargs})

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the labels with the new days in it."""
        return _with_new(self.old_data, SignalRecord.generate_label(dataset))
