"""Datasets: a handler's data cut into named segments."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypedDict, TypeGuard, Unpack, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import fetch_arguments, whole_number
from rollforge.build import build
from rollforge.dates import end_of, read_day, start_of
from rollforge.errors import DataError, DateError, SegmentError, nearest
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.row_purge import Border, Interval, label_rows, rows_after, rows_before
from rollforge.features.selection import first_day, last_day
from rollforge.kinds import HANDLER
from rollforge.pickling import Serializable

__all__ = ["Dataset", "DatasetH", "are_intervals"]

log = logging.getLogger(__name__)


class FetchOptions(TypedDict, total=False):
    """Arguments of :meth:`DatasetH.prepare` for the handler's ``fetch``."""

    level: str | int | None
    proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None


class Dataset(Serializable):
    """Base class of the data that a model is fitted on."""

    def config(self, **kwargs: Any) -> None:
        """Change settings of an existing dataset."""

    def setup_data(self, **kwargs: Any) -> None:
        """Compute the data, or find them in the cache."""

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """Return the data that a model is fitted on or predicts."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare().")


class DatasetH(Dataset):
    """A handler's data in segments such as train, valid and test.

    Parameters
    ----------
    handler : DataHandler or description
        Source of the data; also ``file://….pkl``, read through the allow-list.
    segments : mapping
        Name -> (first day, last day); None means open-ended. A list of such pairs is a segment with gaps, whose rows
        are those of all its intervals.
    fetch_kwargs : mapping, optional
        Further arguments for the handler's ``fetch``.
    purge_rows : int
        Number of following rows of the same instrument that a label reads. Rows whose label reads a row of a later
        segment are left out of the data for learning, and so are rows after the test segment that its labels read; 0
        leaves out none. Task generators set it for labels that may count rows and not trading days, see
        :mod:`rollforge.features.row_purge`.
    embargo_rows : int
        Number of further rows of the same instrument to leave out after the test segment, with `purge_rows`.
    """

    fetch_kwargs: Mapping[str, object] = MappingProxyType({})  # of a subclass that does not call this constructor
    purge_rows: int = 0
    embargo_rows: int = 0
    rows_purged: Mapping[str, int] = MappingProxyType({})
    """Segment -> number of rows that were left out when it was prepared for learning."""

    def __init__(
        self,
        handler: object,
        segments: Mapping[str, object],
        fetch_kwargs: Mapping[str, object] | None = None,
        purge_rows: int = 0,
        embargo_rows: int = 0,
        **kwargs: object,
    ) -> None:
        for name, rows in (("purge_rows", purge_rows), ("embargo_rows", embargo_rows)):
            count = whole_number(rows, f"task.dataset.kwargs.{name}", least=0, of="rows")
            if count:
                setattr(self, name, count)
        self.handler: DataHandler = build(
            handler,
            kind=HANDLER,
            accept_types=DataHandler,
            default_module="rollforge.features.alpha",
            where="task.dataset.kwargs.handler",
        )
        if not isinstance(segments, Mapping):
            raise SegmentError("segments must map names to (first day, last day).", path="task.dataset.kwargs.segments")
        self.segments = dict(segments)
        self.fetch_kwargs = fetch_arguments(self.handler, fetch_kwargs)
        if kwargs:  # Qlib's class takes any argument too
            log.warning("%s ignores unknown arguments: %s", type(self).__name__, ", ".join(kwargs))

    def config(
        self,
        handler_kwargs: Mapping[str, object] | None = None,
        segments: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        """Change the handler's arguments or the segments."""
        if handler_kwargs is not None:
            self.handler.config(**handler_kwargs)
        if segments is not None:
            self.segments = dict(segments)

    def setup_data(self, handler_kwargs: Mapping[str, object] | None = None, **kwargs: Any) -> None:
        """Compute the handler's data, or find them in the cache."""
        options = dict(handler_kwargs or {})
        init_type = options.pop("init_type", None)
        if options:
            self.handler.config(**options)
        if init_type is not None and isinstance(self.handler, DataHandlerLP):
            self.handler.setup_data(init_type=init_type)
        else:
            self.handler.setup_data()

    @overload
    def prepare(
        self,
        segments: str | slice,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Unpack[FetchOptions],
    ) -> pd.DataFrame: ...

    @overload
    def prepare(
        self,
        segments: list[str],
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Unpack[FetchOptions],
    ) -> list[pd.DataFrame]: ...

    @overload
    def prepare(
        self,
        segments: tuple[object, ...],  # names, or a pair of days
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Unpack[FetchOptions],
    ) -> Any: ...

    @overload
    def prepare(
        self,
        segments: object,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        *,
        squeeze: bool,
        **kwargs: Unpack[FetchOptions],
    ) -> Any: ...

    def prepare(
        self,
        segments: object,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Any,
    ) -> Any:
        """Return the data of a segment, or a list of them for a list of segments.

        Parameters
        ----------
        segments : str, sequence of str, slice, or pair of dates
            Names of segments, or days.
        col_set : str or sequence of str
            ``__all``: all columns, without group names. ``__raw``: all columns as (group, name). A group: its columns
            without the group name. A list of groups: their columns as (group, name).
        data_key : str
            ``raw``, ``infer`` or ``learn``.
        **kwargs
            `level`, `squeeze` and `proc_func`, see :meth:`DataHandler.fetch
            <rollforge.features.handler.DataHandler.fetch>`. Arguments of a handler of your own are `fetch_kwargs` of
            the dataset.

        Raises
        ------
        SegmentError
            If a segment does not exist.
        DataError
            If there are no rows; the message has the loader or processor that left none.
        """
        arguments = {"col_set": col_set, "data_key": data_key, **self.fetch_kwargs, **kwargs}
        if isinstance(segments, (list, tuple)) and all(isinstance(s, str) and s in self.segments for s in segments):
            return [self._prepared(s, arguments) for s in segments]
        return self._prepared(segments, arguments)

    def prepare_rows(self, segment: object, col_set: str | Sequence[str], data_key: str) -> pd.DataFrame:
        """Return the data of a segment as a frame of the handler's rows, whatever a subclass prepares of them for models:
        samples that span several days, or changed labels.
        """
        own = type(self).prepare, type(self)._prepare_seg
        rows = self
        if own != (DatasetH.prepare, DatasetH._prepare_seg):
            rows = DatasetH(self.handler, self.segments, self.fetch_kwargs, self.purge_rows, self.embargo_rows)
        frame: pd.DataFrame = rows.prepare(segment, col_set, data_key)  # type: ignore[call-overload]
        return frame

    def _prepared(self, segment: object, arguments: Mapping[str, object]) -> object:
        days = self._days(segment)
        data = self._prepare_seg(days, **arguments)
        if not self.purge_rows or arguments["data_key"] != DataHandlerLP.DK_L:
            return data
        borders, tested = self._borders(days), self._tested(days)
        if not borders and not tested:
            return data
        index, rows = self._index_of(data), label_rows(self.handler)
        kept = rows_before(index, rows, borders, self.purge_rows)
        kept &= rows_after(index, rows, tested, self.purge_rows + self.embargo_rows)
        left_out = len(kept) - int(kept.sum())
        name = segment if isinstance(segment, str) else next((n for n in self.segments if self._days(n) == days), "")
        name = name or f"{borders[0].start} to {borders[-1].end}"
        self.rows_purged = {**self.rows_purged, name: left_out}
        log.info(
            "%d of %d rows of %r are left out, because labels read %d rows ahead, into the next segment",
            left_out, len(kept), name, self.purge_rows,
        )  # fmt: skip
        if not kept.any():
            raise DataError(
                f"No row of {name!r} is left: the labels of all {len(kept)} rows read {self.purge_rows} rows ahead, into "
                "the next segment, or are read by labels of the test segment. Use a longer segment, or declare a smaller "
                "label_horizon."
            )
        return self._selected(data, kept)

    def _borders(self, days: object) -> list[Border]:
        """Return the intervals of the selected days that another segment follows."""
        selected = days if are_intervals(days) else (days,)
        others = [self._days(name) for name in self.segments]
        starts = [
            first_day(part.start, "start")
            for other in others
            if other != days
            for part in (other if are_intervals(other) else (other,))
            if isinstance(part, slice)
        ]
        found = []
        for part in selected:
            end = last_day(part.stop, "end") if isinstance(part, slice) else None
            behind = [start for start in starts if end is not None and start is not None and start > end]
            if end is not None and behind and isinstance(part, slice):
                found.append(Border(first_day(part.start, "start"), end, min(behind)))
        return found

    def _tested(self, days: object) -> list[Interval]:
        """Return the intervals of the test segment, if the selected days are those of another segment."""
        named = [name for name in self.segments if self._days(name) == days]
        if not named or "test" in named or "test" not in self.segments:
            return []
        test = self._days("test")
        found = []
        for part in test if are_intervals(test) else (test,):
            end = last_day(part.stop, "end") if isinstance(part, slice) else None
            if end is not None and isinstance(part, slice):
                found.append(Interval(first_day(part.start, "start"), end))
        return found

    def _index_of(self, data: object) -> pd.Index:
        """Return the rows of prepared data."""
        index = getattr(data, "index", None)
        if not isinstance(index, pd.Index):
            raise DataError(
                f"Rows can be purged by instrument only in a frame, but {type(self).__name__} prepares a "
                f"{type(data).__name__}. Set trunc_days to a number of days instead of 'auto'."
            )
        return index

    def _selected(self, data: Any, kept: NDArray[np.bool_]) -> object:
        """Return some rows of prepared data."""
        return data if kept.all() else data[kept]

    def _days(self, segment: object) -> object:
        """Return the selector for the handler: the days of a named segment, or the argument itself.

        The days of a segment with several intervals are a tuple of slices in chronological order.
        """
        if isinstance(segment, str) and segment in self.segments:
            days = self.segments[segment]
            if isinstance(days, (list, tuple)) and days and all(isinstance(d, (list, tuple)) for d in days):
                return _intervals(days, f"task.dataset.kwargs.segments.{segment}")
            if isinstance(days, (list, tuple)) and len(days) != 2:
                raise SegmentError(
                    f"expected (first day, last day), found {days!r}.", path=f"task.dataset.kwargs.segments.{segment}"
                )
            return slice(*days) if isinstance(days, (list, tuple)) else days
        if isinstance(segment, str) and not _is_date(segment):
            raise SegmentError(
                f"there is no segment {segment!r}.{nearest(segment, self.segments)} Known: {', '.join(self.segments)}.",
                path="task.dataset.kwargs.segments",
            )
        return segment

    @staticmethod
    def get_min_time(segments: Mapping[str, Sequence[Any]]) -> Any:
        """Return the earliest start of some segments; None if one has no start."""
        starts = [segment[0] for segment in segments.values()]
        return None if None in starts else min(starts, key=start_of)

    @staticmethod
    def get_max_time(segments: Mapping[str, Sequence[Any]]) -> Any:
        """Return the latest end of some segments; None if one has no end."""
        ends = [segment[1] for segment in segments.values()]
        return None if None in ends else max(ends, key=end_of)

    def explain_missing(
        self,
        segment: object,
        group: str | None = None,
        data_key: str = DataHandlerLP.DK_I,
        column: str | None = None,
    ) -> str:
        """Explain which loader or processor left no data of a segment, in a sentence.

        See :meth:`DataHandler.explain_missing <rollforge.features.handler.DataHandler.explain_missing>`.
        """
        days = self._days(segment)
        if are_intervals(days):
            days = slice(days[0].start, days[-1].stop)
        if isinstance(days, (list, tuple)) and len(days) == 2:
            days = slice(*days)
        if not isinstance(days, slice):
            days = slice(days, days) if isinstance(days, (str, pd.Timestamp)) else slice(None, None)
        return self.handler.explain_missing(group, days, data_key, column)

    def _prepare_seg(self, slc: object, **kwargs: Any) -> object:
        """Return the data of some days. Subclasses override it; the name is Qlib's."""
        if are_intervals(slc):
            parts: list[pd.DataFrame] = [self.handler.fetch(part, **kwargs) for part in slc]
            frame = pd.concat([part for part in parts if len(part)] or parts[:1])
        else:
            frame = self.handler.fetch(slc, **kwargs)
        if frame.empty:
            raise DataError(self._no_rows(slc, kwargs))
        return frame

    def _no_rows(self, days: object, kwargs: Mapping[str, object]) -> str:
        shown = f"for {days!r}"
        if are_intervals(days):
            names = [name for name in self.segments if self._days(name) == days]
            shown = f"in the {len(days)} intervals of the {names[0] if names else '?'!r} segment"
            days = slice(days[0].start, days[-1].stop)
        elif isinstance(days, slice):
            names = [name for name in self.segments if self._days(name) == days]
            shown = f"between {days.start} and {days.stop}" + (f" (the {names[0]!r} segment)" if names else "")
        data_key = str(kwargs.get("data_key", DataHandlerLP.DK_I))
        return f"There are no rows {shown} for {data_key!r}. {self.explain_missing(days, None, data_key)}".rstrip()


def are_intervals(days: object) -> TypeGuard[tuple[slice, ...]]:
    """Return whether the days that :meth:`DatasetH.prepare` selects are several intervals."""
    return isinstance(days, tuple) and bool(days) and all(isinstance(d, slice) for d in days)


def _intervals(written: Sequence[Sequence[object]], path: str) -> tuple[slice, ...]:
    for interval in written:
        if len(interval) != 2:
            raise SegmentError(f"expected (first day, last day), found {interval!r}.", path=path)
    made = [slice(start, end) for start, end in written]
    made.sort(key=lambda s: first_day(s.start, "start") or pd.Timestamp.min)
    for earlier, later in pairwise(made):
        end, start = last_day(earlier.stop, "end"), first_day(later.start, "start")
        if end is None or start is None or start <= end:
            raise SegmentError(
                f"has intervals that overlap: {earlier.start} to {earlier.stop} and {later.start} to {later.stop}.",
                path=path,
            )
    return tuple(made)


def _is_date(text: str) -> bool:
    """Return whether a string is a day, a month or a year."""
    try:
        read_day(text)
    except DateError:
        return re.fullmatch(r"\d{4}(-\d{1,2})?", text) is not None
    return True
