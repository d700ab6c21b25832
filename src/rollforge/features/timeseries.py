"""Datasets whose samples are the most recent days of an instrument."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, Unpack, overload

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from rollforge.arguments import whole_number
from rollforge.dates import DayLike, start_of, within
from rollforge.errors import ConfigError, DataError, nearest
from rollforge.features.dataset import DatasetH, FetchOptions, are_intervals
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.selection import first_day, last_day
from rollforge.session import current_session

__all__ = ["TSDataSampler", "TSDatasetH"]

FillType = Literal["none", "ffill", "ffill+bfill"]
_FILLS = ("none", "ffill", "ffill+bfill")
_ROWS = 4096  # rows processed together
_PIECE = 2**22  # bytes that a thread copies at a time


class TSDataSampler:
    """Samples of shape (step, column): an instrument's values on a day and the days before it, the latest at the end.

    The days are those that any instrument has. If the instrument has no row on a day, or the data begin later, the step
    is missing. Samples are sorted by instrument, then day.

    The samples are views: a sample is looked up in the rows of `data` when it is used. If `data` is sorted by day and
    instrument, as the frames of a handler are, its values are not copied, and those of a panel stay on disk.

    Parameters
    ----------
    data : DataFrame
        Index (datetime, instrument), in any order of levels and rows.
    start, end : date, optional
        First and last day of the samples; earlier days are used as history. None means open-ended.
    step_len : int
        Number of days in a sample.
    fillna_type : {"none", "ffill", "ffill+bfill"}
        How a missing step is filled: with NaN; with the previous step; or with the previous step and, if there is none,
        the next one.
    dtype : numpy type, optional
        Type of the values; by default that of the frame.
    flt_data : Series or DataFrame of one column, optional
        Mask of the rows that are samples; other rows, and rows with a missing mask value, only serve as history.
    holes : sequence of (date, date), optional
        First and last day of ranges between `start` and `end` without samples; their rows only serve as history.

    Raises
    ------
    ConfigError
        If an argument is invalid.
    DataError
        If `data` has other index levels or contains a row twice.

    Examples
    --------
    >>> days = pd.bdate_range("2021-01-04", periods=3)
    >>> index = pd.MultiIndex.from_product([days, ["A"]], names=["datetime", "instrument"])
    >>> samples = TSDataSampler(pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index), "2021-01-05", None, step_len=2)
    >>> len(samples), samples[0].ravel().tolist(), samples["2021-01-06", "A"].ravel().tolist()
    (2, [1.0, 2.0], [2.0, 3.0])
    """

    fillna_type: FillType = "none"
    _threads: tuple[int, int, ThreadPoolExecutor] | None = None

    def __init__(
        self,
        data: pd.DataFrame,
        start: DayLike | None,
        end: DayLike | None,
        step_len: int,
        fillna_type: FillType = "none",
        dtype: object = None,
        flt_data: pd.Series | pd.DataFrame | None = None,
        holes: Sequence[tuple[DayLike, DayLike]] = (),
    ) -> None:
        self.start, self.end, self.step_len = start, end, whole_number(step_len, "step_len", of="days")
        self.config(fillna_type=fillna_type)
        frame, (self._days, of_day), (self._instruments, of_instrument) = _by_day(data)
        self.columns: pd.Index = frame.columns
        """The columns of a sample."""
        self.blocks = _blocks(frame, dtype)
        """The values of `data`, side by side."""
        self.nan_idx = len(frame)
        """Row of `data_arr` that represents a missing step."""
        self.idx_arr = np.full((len(self._days), len(self._instruments)), self.nan_idx, np.int64)
        """(days, instruments): the row of `data_arr`."""
        self.idx_arr[of_day, of_instrument] = np.arange(len(frame))
        inside = _between(self._days, start, end)
        for first, last in holes:
            inside &= ~_between(self._days, first, last)
        chosen = inside[of_day]
        if flt_data is not None:
            chosen &= _chosen(flt_data, frame.index)
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(of_instrument[rows], kind="stable")]
        self.idx_map = np.column_stack([of_day[rows], of_instrument[rows]]).astype(np.int32)
        """(samples, 2): day and instrument, as indexes into `idx_arr`."""
        self.data_index: pd.MultiIndex = frame.index[rows].swaplevel()  # type: ignore[attr-defined]
        """(samples,): instrument and day."""

    @property
    def data_arr(self) -> np.ndarray:
        """(rows + 1, columns): a copy of the rows, sorted by day, and a row of missing values at the end."""
        values = np.concatenate(self.blocks, axis=1)
        return np.concatenate([values, np.full((1, values.shape[1]), np.nan, values.dtype)])

    def config(self, **kwargs: Any) -> None:
        """Change `fillna_type` or `step_len`; other names become attributes, as in Qlib.

        Raises
        ------
        ConfigError
            If the fill type is unknown.
        """
        fill = kwargs.get("fillna_type", "none")
        if fill not in _FILLS:
            raise ConfigError(
                f"must be one of {', '.join(_FILLS)}, found {fill!r}.{nearest(str(fill), _FILLS)}", path="fillna_type"
            )
        for name, value in kwargs.items():
            setattr(self, name, value)

    @property
    def idx_df(self) -> pd.DataFrame:
        """Table of days by instruments with the row number in `data_arr`; NaN if there is no row."""
        table = pd.DataFrame(self.idx_arr, self._days, self._instruments)
        return table.where(table != self.nan_idx)

    @property
    def empty(self) -> bool:
        """Whether there are no samples."""
        return len(self) == 0

    def get_index(self) -> pd.MultiIndex:
        """Return (datetime, instrument) of the samples, in their order."""
        swapped: pd.MultiIndex = self.data_index.swaplevel()
        return swapped

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Keep some samples; the rows of the others only serve as history.

        Parameters
        ----------
        kept : array of bool, (samples,)
            Which samples to keep.
        """
        self.idx_map = self.idx_map[kept]
        self.data_index = self.data_index[kept]

    def __len__(self) -> int:
        return len(self.idx_map)

    def __getitem__(self, idx: object) -> np.ndarray:
        """Return samples.

        Parameters
        ----------
        idx : int, sequence of int, slice, or (date, instrument)
            Position of samples; or a pair for the instrument's sample on that day or on the last day of data before it.

        Returns
        -------
        array
            (step, column); (sample, step, column) for several.

        Raises
        ------
        IndexError
            If the position is out of range.
        KeyError
            If the instrument does not exist, or the date is before the first day.
        """
        if isinstance(idx, tuple):
            return self._window(*self._place(*idx))
        if isinstance(idx, (int, np.integer)):
            if not -len(self) <= idx < len(self):
                raise IndexError(f"There are {len(self)} samples, but none at {idx}.")
            return self._window(*self.idx_map[int(idx)].tolist())
        return self._windows(self.idx_map[idx if isinstance(idx, slice) else np.asarray(idx, dtype=np.int64)])

    def batch(self, idx: NDArray[np.int64], out: np.ndarray | None = None) -> np.ndarray:
        """Return several samples like ``self[idx]``, in memory that is used again if it is given.

        Parameters
        ----------
        idx : int array, (samples,)
            Positions of samples.
        out : array, (samples, step, column), optional
            Where the values are written. Its type is that of the values.
        """
        return self._windows(self.idx_map[idx], out)

    def own_days(self) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Return the values of each sample's own day, and the positions of the samples in the order of these rows.

        The rows are sorted by day and instrument. Without a mask they are adjacent in `data` and not copied.
        """
        rows = self.idx_arr[self.idx_map[:, 0], self.idx_map[:, 1]]
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        chosen: Any = rows
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            chosen = slice(int(rows[0]), int(rows[-1]) + 1)
        index = self.data_index[order].swaplevel()
        parts, at = [], 0
        for block in self.blocks:
            columns = self.columns[at : at + block.shape[1]]
            parts.append(pd.DataFrame(block[chosen], index=index, columns=columns, copy=False))
            at += block.shape[1]
        return parts[0] if len(parts) == 1 else pd.concat(parts, axis=1), order

    def part(self, group: str) -> TSDataSampler:
        """Return the same samples with one group of columns; these samples if the columns have no groups."""
        if self.columns.nlevels == 1:
            return self
        made = copy.copy(self)
        place = np.flatnonzero(self.columns.get_level_values(0) == group)
        at = 0
        for block in self.blocks:
            if place[0] == at and len(place) == block.shape[1]:
                made.blocks = [block]
                break
            at += block.shape[1]
        else:
            made.blocks = [np.ascontiguousarray(np.concatenate(self.blocks, axis=1)[:, place])]
        made.columns = pd.Index([name for _, name in self.columns[place]])
        return made

    def complete(self) -> NDArray[np.bool_]:
        """Return which samples have a finite value in every column of every step, after missing steps are filled."""
        finite = np.ones(self.nan_idx + 1, bool)
        finite[self.nan_idx] = False
        for block in self.blocks:
            for at in range(0, len(block), _ROWS):
                finite[at : min(at + _ROWS, self.nan_idx)] &= np.isfinite(block[at : at + _ROWS]).all(axis=1)
        found = np.empty(len(self), bool)
        for at in range(0, len(self), _ROWS):
            found[at : at + _ROWS] = finite[self._rows(self.idx_map[at : at + _ROWS])].all(axis=1)
        return found

    def _window(self, day: int, instrument: int) -> np.ndarray:
        values: np.ndarray = self._windows(np.array([[day, instrument]]))[0]
        return values

    def _place(self, day: object, instrument: object) -> tuple[int, int]:
        row = int(self._days.searchsorted(start_of(day, "day"), "right")) - 1
        column, upper = self._instruments.get_indexer([instrument, str(instrument).upper()])
        column = column if column >= 0 else upper  # codes are stored in upper case
        if column < 0:
            raise KeyError(f"There is no instrument {instrument!r}.{nearest(str(instrument), self._instruments)}")
        if row < 0:
            raise KeyError(f"The data begin on {self._days[0]:%Y-%m-%d}, after {day}.")
        return row, int(column)

    def _windows(self, places: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the values of (day, instrument) pairs as a (sample, step, column) array."""
        if out is None:
            shape = (len(places), self.step_len, sum(block.shape[1] for block in self.blocks))
            out = np.empty(shape, self.blocks[0].dtype if len(self.blocks) == 1 else np.result_type(*self.blocks))
        count = max(1, len(places) * _PIECE // max(out.nbytes, 1))
        pieces = iter([slice(at, at + count) for at in range(0, len(places), count)])

        def work() -> None:
            for piece in pieces:  # whichever thread is free takes the next one
                self._gather(places[piece], out[piece])

        helping = min(current_session().threads, out.nbytes // _PIECE) - 1
        others = [self._helpers(helping).submit(work) for _ in range(helping)]
        work()
        for other in others:
            if not other.cancel():  # it has begun
                other.result()
        return out

    def _helpers(self, count: int) -> ThreadPoolExecutor:
        """Return threads that help to copy, kept because starting them took as long as copying; a fork has its own."""
        if self._threads is None or self._threads[:2] != (os.getpid(), count):
            self._threads = (os.getpid(), count, ThreadPoolExecutor(count, "samples"))
        return self._threads[2]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_threads"}

    def _gather(self, places: np.ndarray, out: np.ndarray) -> None:
        """Write the values of (day, instrument) pairs to `out`."""
        rows = self._rows(places)
        missing = rows == self.nan_idx
        found = not missing.any()
        if not found:
            rows[missing] = 0
        self._copy(rows, out)
        if not found:
            out[missing] = np.nan

    def _copy(self, rows: NDArray[np.int64], out: np.ndarray) -> None:
        if len(self.blocks) == 1 and out.dtype == self.blocks[0].dtype and out.flags.c_contiguous and self.nan_idx:
            np.take(self.blocks[0], rows, axis=0, out=out, mode="clip")  # the other modes copy through a buffer
            return
        at = 0
        for block in self.blocks:
            out[..., at : at + block.shape[1]] = block[rows] if len(block) else np.nan
            at += block.shape[1]

    def _rows(self, places: np.ndarray) -> NDArray[np.int64]:
        """Return the row of each step of (day, instrument) pairs; `nan_idx` where a step is missing and not filled."""
        days = places[:, :1].astype(np.int64) - np.arange(self.step_len - 1, -1, -1)
        early = days < 0
        days *= self.idx_arr.shape[1]
        days += places[:, 1:]
        rows: NDArray[np.int64] = self.idx_arr.reshape(-1).take(days, mode="clip")
        rows[early] = self.nan_idx
        if self.fillna_type != "none":
            gaps = np.flatnonzero(rows.max(axis=1, initial=0) == self.nan_idx)  # the largest number of a row
            filled = self._filled(rows[gaps])
            if self.fillna_type == "ffill+bfill":
                filled = self._filled(filled[:, ::-1])[:, ::-1]
            rows[gaps] = filled
        return rows

    def _filled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replace each missing step with the previous one."""
        known = np.where(rows != self.nan_idx, np.arange(self.step_len), 0)
        return np.take_along_axis(rows, np.maximum.accumulate(known, axis=1), axis=1)


_Level = tuple[Any, NDArray[np.int64]]
"""The sorted labels of an index level, and the position of each row's label."""


def _by_day(data: pd.DataFrame) -> tuple[pd.DataFrame, _Level, _Level]:
    """Return the rows sorted by (datetime, instrument), without a copy if they are, and both levels of their index."""
    if set(data.index.names) != {"datetime", "instrument"}:
        raise DataError(f"The data must have the index levels datetime and instrument, found {list(data.index.names)}.")
    frame = data if data.index.names[0] == "datetime" else data.swaplevel()
    days, instruments = _codes(frame.index, "datetime"), _codes(frame.index, "instrument")
    place = days[1] * max(len(instruments[0]), 1) + instruments[1]
    if (np.diff(place) < 0).any():
        order = np.argsort(place, kind="stable")
        frame, place = frame.iloc[order], place[order]
        days, instruments = (days[0], days[1][order]), (instruments[0], instruments[1][order])
    if (np.diff(place) == 0).any():
        raise DataError("The data contain a row more than once.")
    return frame, (pd.DatetimeIndex(days[0]), days[1]), instruments


def _codes(index: pd.Index, name: str) -> _Level:
    """Return one level of an index. The codes that the index has are used, because looking up labels is slow."""
    at = index.names.index(name)
    if isinstance(index, pd.MultiIndex) and index.levels[at].is_monotonic_increasing and index.levels[at].is_unique:
        labels, codes = index.levels[at], np.asarray(index.codes[at], np.int64)
        if not (codes < 0).any():
            used = np.zeros(len(labels), bool)
            used[codes] = True
            return labels[used], (np.cumsum(used) - 1)[codes]
    labels = index.get_level_values(name).unique().sort_values()
    return labels, np.asarray(labels.get_indexer(index.get_level_values(name)), dtype=np.int64)


def _blocks(frame: pd.DataFrame, dtype: Any) -> list[np.ndarray]:
    """Return the values of a frame, side by side; those of a panel's groups are not copied."""
    columns = frame.columns
    groups = list(dict.fromkeys(columns.get_level_values(0))) if columns.nlevels == 2 else []
    # A group that another one interrupts cannot be taken out as a whole.
    together = [g for before, g in pairwise([None, *columns.get_level_values(0)]) if g != before] if groups else []
    parts = [frame[g] for g in groups] if len(groups) > 1 and together == groups else [frame]
    made = []
    for part in parts:
        values = part.to_numpy(dtype)
        made.append(values if values.dtype.kind == "f" else values.astype(np.float64))
    kinds = {values.dtype for values in made}
    return made if len(kinds) == 1 else [frame.to_numpy(np.result_type(*made))]


def _between(days: pd.DatetimeIndex, start: object, end: object) -> NDArray[np.bool_]:
    return within(days, start, end)


def _chosen(flt_data: pd.Series | pd.DataFrame, index: pd.Index) -> NDArray[np.bool_]:
    if isinstance(flt_data, pd.DataFrame):
        if flt_data.shape[1] != 1:
            raise ConfigError(f"Rows are chosen by one column; there are {flt_data.shape[1]}.", path="flt_data")
        flt_data = flt_data.iloc[:, 0]
    ordered = flt_data if flt_data.index.names[0] == "datetime" else flt_data.swaplevel()
    found = ordered.reindex(index)
    return (found.notna() & found.fillna(0).astype(bool)).to_numpy()


class SampleOptions(FetchOptions, total=False):
    """Further arguments of :meth:`TSDatasetH.prepare`."""

    flt_col: str | Sequence[str] | None
    dtype: DTypeLike


class TSDatasetH(DatasetH):
    """A handler's data in segments, as samples that span several days.

    Parameters
    ----------
    step_len : int
        Number of days in a sample. The first samples of a segment use the days before it, if the handler has them.
    flt_col : str or sequence, optional
        Column that marks which rows are samples; see `col_set` of :meth:`DatasetH.prepare`.
    **kwargs
        Arguments of :class:`DatasetH`.
    """

    DEFAULT_STEP_LEN = 30

    def __init__(self, step_len: int = DEFAULT_STEP_LEN, flt_col: object = None, **kwargs: Any) -> None:
        self.step_len = step_len
        self.flt_col = flt_col
        super().__init__(**kwargs)

    @property
    def history(self) -> int:
        """Number of days before a day that its samples depend on."""
        return self.step_len - 1

    def config(self, handler_kwargs: Any = None, segments: Any = None, **kwargs: Any) -> None:
        """Change `step_len`, the handler's range, or the segments."""
        self.step_len = kwargs.pop("step_len", self.step_len)
        super().config(handler_kwargs, segments, **kwargs)

    @overload  # type: ignore[override]  # samples instead of frames, as in Qlib
    def prepare(
        self,
        segments: str | slice,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Unpack[SampleOptions],
    ) -> TSDataSampler: ...

    @overload
    def prepare(
        self,
        segments: list[str],
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Unpack[SampleOptions],
    ) -> list[TSDataSampler]: ...

    def prepare(
        self,
        segments: object,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Any,
    ) -> Any:
        """Return the :class:`TSDataSampler` of a segment, or a list of them; see :meth:`DatasetH.prepare`."""
        return super().prepare(segments, col_set, data_key, **kwargs)

    def _prepare_seg(self, slc: object, **kwargs: Any) -> TSDataSampler:
        """Return a :class:`TSDataSampler` of some days; also accepts `flt_col` and `dtype`."""
        dtype = kwargs.pop("dtype", None)
        column = kwargs.pop("flt_col", None) or self.flt_col
        whole: object = slc
        holes: list[tuple[DayLike, DayLike]] = []
        if are_intervals(slc):
            whole = slice(slc[0].start, slc[-1].stop)
            for earlier, later in pairwise(slc):
                end, start = last_day(earlier.stop, "end"), first_day(later.start, "start")
                assert end is not None
                assert start is not None
                holes.append((end + pd.Timedelta(seconds=1), start - pd.Timedelta(seconds=1)))
        if not isinstance(whole, slice):
            raise ConfigError(
                f"Samples that span several days must be selected by a range of days, found {slc!r}.", path="segments"
            )
        wider = slice(self._back(whole.start), whole.stop)
        data = self.handler.fetch(wider, **kwargs)
        chosen = None if column is None else self.handler.fetch(wider, **{**kwargs, "col_set": column})
        samples = self._sampler(data, whole.start, whole.stop, dtype=dtype, flt_data=chosen, holes=holes)
        if samples.empty:
            raise DataError(self._no_rows(slc, kwargs))
        return samples

    def _sampler(self, data: pd.DataFrame, start: DayLike | None, end: DayLike | None, **kwargs: Any) -> TSDataSampler:
        """Return the samples of some days."""
        return TSDataSampler(data, start, end, self.step_len, **kwargs)

    def _index_of(self, data: object) -> pd.Index:
        return data.get_index() if isinstance(data, TSDataSampler) else super()._index_of(data)

    def _selected(self, data: object, kept: NDArray[np.bool_]) -> object:
        if not isinstance(data, TSDataSampler):
            return super()._selected(data, kept)
        data.keep(kept)
        return data

    def _back(self, start: object) -> object:
        """Return the first day of history that the first sample needs; one day more, as in Qlib."""
        if start is None:
            return None
        days = self.handler.days()
        place = int(days.searchsorted(start_of(start, "start"))) - self.step_len
        return days[max(place, 0)] if len(days) else start
