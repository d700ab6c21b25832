"""Update a recorder's prediction and labels, using its own model and dataset definition."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping
from typing import Any, Literal, overload

import pandas as pd

from rollforge.dates import DayLike, read_day, read_timestamp
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.market.frames import day_rows
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

    def __init__(self, record: Recorder, *args: Any, **kwargs: Any) -> None:
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
        The last day; None, or a day past the end of the calendar, means the calendar's last day.
    from_date : date-like, optional
        The first day to compute again; None means the day after the last existing one.
    hist_ref : int, optional
        Number of trading days of history that the dataset needs; 0 by default.
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
        self.hist_ref = hist_ref or 0
        self.freq = freq
        self.fname = fname
        self.rmdl = loader_cls(record)
        self._calendar = pd.DatetimeIndex(D.calendar(freq=freq))
        latest = self._calendar[-1]
        self.to_date = latest if to_date is None else min(read_timestamp(to_date, "to_date"), latest)
        self.old_data: pd.DataFrame = record.load_object(fname)
        if from_date is None:
            # Labels at the end are missing until their days are known: recompute them.
            self.last_end = self.old_data.dropna().index.get_level_values("datetime").max()
        else:
            self.last_end = self._shifted(read_timestamp(from_date, "from_date"), -1)

    def _shifted(self, day: pd.Timestamp, days: int) -> pd.Timestamp:
        place = int(self._calendar.searchsorted(day)) + days
        return self._calendar[min(max(place, 0), len(self._calendar) - 1)]

    def prepare_data(self, unprepared_dataset: DatasetH | None = None) -> DatasetH:
        """Return the dataset for the missing days."""
        first = self._shifted(self.last_end, 1)
        segments = {"test": (first, self.to_date)}
        return self.rmdl.get_dataset(self._shifted(first, -self.hist_ref), self.to_date, segments, unprepared_dataset)

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
        """Return the old frame updated with the new days."""


def _with_new(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return the new rows and the old rows outside their range of days."""
    days = new.index.get_level_values("datetime")
    there = old.index.get_level_values("datetime")
    kept = old[(there < days.min()) | (there > days.max())] if len(days) else old
    joined: pd.DataFrame = pd.concat([kept, new]).sort_index()
    return joined


class PredUpdater(DSBasedUpdater):
    """Updates the prediction of a recorder."""

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the prediction updated with the new days."""
        model = self.rmdl.get_model()
        prediction = day_rows(model.predict(dataset), f"The prediction of {type(model).__name__}")
        frame = prediction.to_frame("score") if isinstance(prediction, pd.Series) else prediction
        return _with_new(self.old_data, frame)


class LabelUpdater(DSBasedUpdater):
    """Updates the labels saved by `SignalRecord`."""

    def __init__(self, record: Recorder, to_date: DayLike | None = None, **kwargs: Any) -> None:
        super().__init__(record, to_date=to_date, **{"fname": "label.pkl", **kwargs})

    def get_update_data(self, dataset: DatasetH) -> pd.DataFrame:
        """Return the labels updated with the new days."""
        return _with_new(self.old_data, SignalRecord.generate_label(dataset))
