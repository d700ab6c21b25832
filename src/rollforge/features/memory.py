"""Datasets whose samples remember how well earlier ones were predicted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.arguments import check_choice, check_flag, whole_number
from rollforge.dates import DayLike
from rollforge.errors import ConfigError, ExpressionError, counted, shown
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import last_day_read
from rollforge.features.dataset import are_intervals
from rollforge.features.label_source import label_source
from rollforge.features.timeseries import TSDataSampler, TSDatasetH

__all__ = ["MTSDataSampler", "MTSDatasetH"]


class MTSDataSampler(TSDataSampler):
    """Samples of shape (step, column): a row of an instrument and the rows before it, the latest at the end.

    Unlike in :class:`TSDataSampler`, the steps are the instrument's own rows, however far apart they are. Steps before its
    first row are 0, and so are missing and infinite values. The samples are views: the values of `data` are not copied.

    A model stores a loss for each slot of a memory: one per row, or one per day. :meth:`own_slots` are those of the samples,
    and :meth:`remembered` the earlier ones whose labels are known when the samples are predicted.

    Parameters
    ----------
    data, start, end, step_len
        See :class:`TSDataSampler`.
    horizon : int
        Number of rows, or days, after its own that a label reads.
    memory_mode : {"sample", "daily"}
        Whether a slot is a row or a day.
    input_size : int, optional
        Number of features of a step, if a row contains all steps of its sample, sorted by feature and then by step. The rows
        before it are not read.
    **kwargs
        Other arguments of :class:`TSDataSampler`.

    Examples
    --------
    >>> days = pd.bdate_range("2021-01-04", periods=3)
    >>> index = pd.MultiIndex.from_product([days, ["A", "B"]], names=["datetime", "instrument"])
    >>> frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, index).drop(("2021-01-05", "B"))
    >>> samples = MTSDataSampler(frame, "2021-01-06", None, step_len=3, horizon=1)
    >>> samples[0].ravel().tolist(), samples[1].ravel().tolist()
    ([1.0, 3.0, 5.0], [0.0, 2.0, 6.0])
    >>> samples.slots, samples.remembered(np.array([0, 1])).tolist()
    (5, [[0, 2], [5, 1]])
    """

    _finite: bool | None = None

    def __init__(
        self,
        data: pd.DataFrame,
        start: DayLike | None,
        end: DayLike | None,
        step_len: int,
        horizon: int = 0,
        memory_mode: str = "sample",
        input_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data, start, end, step_len, **kwargs)
        self.horizon, self.memory_mode, self.input_size = horizon, memory_mode, input_size
        rows = self.idx_arr.T.reshape(-1)
        self._sequence = rows[rows != self.nan_idx]  # the rows, sorted by instrument and day
        self._position = np.empty(self.nan_idx, np.int64)
        self._position[self._sequence] = np.arange(self.nan_idx)
        counts = (self.idx_arr != self.nan_idx).sum(axis=0)
        self._first = np.cumsum(counts) - counts  # position of each instrument's first row

    @property
    def slots(self) -> int:
        """Number of slots of the memory."""
        return self.nan_idx if self.memory_mode == "sample" else len(self._days)

    def own_slots(self, idx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of the losses of samples.

        Parameters
        ----------
        idx : int array, (samples,)
            Positions of samples.
        """
        days, instruments = self.idx_map[idx].T
        rows: NDArray[np.int64] = self.idx_arr[days, instruments]
        return rows if self.memory_mode == "sample" else days.astype(np.int64)

    def remembered(self, idx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots that samples remember, the latest at the end; :attr:`slots` where there is none.

        With a memory of rows, they are those up to `horizon` rows before the sample. With a memory of days, they are the
        `step_len` days up to ``horizon + 1`` days before it, as in Qlib.

        Parameters
        ----------
        idx : int array, (samples,)
            Positions of samples.

        Returns
        -------
        int array, (samples, slots)
        """
        places = self.idx_map[idx]
        if self.memory_mode == "sample":
            return self._rows(places)[:, : self.step_len - self.horizon]
        back = np.arange(self.step_len + self.horizon, self.horizon, -1)
        days = places[:, :1].astype(np.int64) - back
        days[days < 0] = self.slots
        return days

    def part(self, group: str) -> TSDataSampler:
        """Return the same samples with one group of columns; these samples if the columns have no groups."""
        made = super().part(group)
        if isinstance(made, MTSDataSampler):
            made._finite = None
        return made

    def complete(self) -> NDArray[np.bool_]:
        """Return which samples have a value in every column of every step: all, because missing values are 0."""
        return np.ones(len(self), bool)

    def _place(self, day: object, instrument: object) -> tuple[int, int]:
        row, column = super()._place(day, instrument)
        if self.idx_arr[row, column] == self.nan_idx:
            raise KeyError(f"There is no row of {instrument} on {self._days[row]:%Y-%m-%d}.")
        return row, column

    def _windows(self, places: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if self._finite is None:
            self._finite = all(bool(np.isfinite(block).all()) for block in self.blocks)
        if self.input_size is None:
            return super()._windows(places, out)
        rows = self.idx_arr[places[:, 0], places[:, 1]]
        values = np.concatenate([block[rows] for block in self.blocks], axis=1)
        if values.shape[1] % self.input_size:
            raise ConfigError(
                f"is {self.input_size}, but a row has {counted(values.shape[1], 'column')}, which is not a multiple of it.",
                path="task.dataset.kwargs.input_size",
            )
        self._fill(values)
        steps: np.ndarray = values.reshape(len(rows), self.input_size, -1).transpose(0, 2, 1)
        return steps

    def _gather(self, places: np.ndarray, out: np.ndarray) -> None:
        rows = self._rows(places)
        missing = rows == self.nan_idx
        rows[missing] = 0
        self._copy(rows, out)
        out[missing] = 0.0
        self._fill(out)

    def _fill(self, values: np.ndarray) -> None:
        if not self._finite:
            values[~np.isfinite(values)] = 0.0

    def _rows(self, places: np.ndarray) -> NDArray[np.int64]:
        days, instruments = places.T
        at = self._position[self.idx_arr[days, instruments]][:, None] - np.arange(self.step_len - 1, -1, -1)
        rows: NDArray[np.int64] = self._sequence.take(at, mode="clip")
        rows[at < self._first[instruments][:, None]] = self.nan_idx
        return rows


class MTSDatasetH(TSDatasetH):
    """A handler's data in segments, as samples of several rows that remember the losses of earlier predictions.

    The losses are those of :class:`~rollforge.models.torch_tra.TRAModel`, which keeps them while it trains or predicts. The
    dataset determines which of them a sample may read: only those of labels that are known on its day.

    Parameters
    ----------
    handler, segments
        See :class:`DatasetH`.
    seq_len : int
        Number of rows of an instrument in a sample.
    horizon : int
        Number of days after its own that a label reads; 0 reads the number from the label's expression.
    num_states : int
        Number of losses in a slot of the memory; 0 for models without a memory.
    memory_mode : {"sample", "daily"}
        Whether the losses of each row are remembered, or their means of each day, which require a negative `batch_size`.
    batch_size : int
        Number of samples in a batch of the training; if negative, number of days.
    n_samples : int, optional
        Number of samples of a day, drawn at random, if `batch_size` is negative. None means all.
    shuffle : bool
        Whether samples, or days, are drawn in random order.
    drop_last : bool
        Whether the last batch is left out if it is smaller than the others.
    input_size : int, optional
        Number of features of a step, if a row contains all steps of its sample, such as those of Alpha360.
    **kwargs
        Other arguments of :class:`DatasetH`.

    Raises
    ------
    ConfigError
        If an argument is invalid; or if there is a memory, and the label's horizon is unknown or longer than `horizon`.
    """

    def __init__(
        self,
        handler: object,
        segments: Mapping[str, object],
        seq_len: int = 60,
        horizon: int = 0,
        num_states: int = 0,
        memory_mode: str = "sample",
        batch_size: int = -1,
        n_samples: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        input_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        here = "task.dataset.kwargs"
        for name, count, least in (("seq_len", seq_len, 1), ("horizon", horizon, 0), ("num_states", num_states, 0)):
            whole_number(count, f"{here}.{name}", least=least)
        check_choice(f"{here}.memory_mode", memory_mode, ("sample", "daily"))
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size == 0:
            raise ConfigError(
                f"must be a number of samples, or a negative number of days, found {shown(batch_size)}.",
                path=f"{here}.batch_size",
            )
        if memory_mode == "daily" and batch_size > 0:
            raise ConfigError(
                f"must be a negative number of days with memory_mode: daily, found {batch_size}.",
                path=f"{here}.batch_size",
            )
        for name, size in (("n_samples", n_samples), ("input_size", input_size)):
            if size is not None:
                whole_number(size, f"{here}.{name}")
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
            check_flag(f"{here}.{name}", flag)
        self.seq_len, self.num_states, self.memory_mode = seq_len, num_states, memory_mode
        self.batch_size, self.n_samples, self.shuffle, self.drop_last = batch_size, n_samples, shuffle, drop_last
        self.input_size = input_size
        super().__init__(step_len=seq_len, handler=handler, segments=segments, **kwargs)
        self.horizon = _horizon(self.handler, horizon, needed=num_states > 0)
        if num_states and memory_mode == "sample" and self.horizon >= seq_len:
            raise ConfigError(
                f"must be greater than the horizon, {counted(self.horizon, 'day')}, found {seq_len}: a sample remembers "
                "earlier rows of its window only.",
                path=f"{here}.seq_len",
            )

    @property
    def history(self) -> int:
        """Number of days before a day that its samples depend on, and those that they remember.

        Instruments that lack rows depend on earlier days too.
        """
        steps = 0 if self.input_size is not None else self.seq_len - 1
        if not self.num_states:
            return steps
        return steps + (self.seq_len - 1 if self.memory_mode == "sample" else self.seq_len + self.horizon)

    def until(self, segment: object, col_set: str, data_key: str) -> MTSDataSampler:
        """Return all rows up to the end of a segment as samples, also those between segments or left out of them.

        Parameters
        ----------
        segment : str, slice, or pair of dates
            Name of a segment, or days.
        col_set, data_key
            See :meth:`DatasetH.prepare`.
        """
        made: MTSDataSampler = self._whole().prepare(slice(None, self._end(segment)), col_set, data_key)  # type: ignore[assignment]
        return made

    def labels_until(self, segment: object, data_key: str) -> pd.DataFrame:
        """Return the labels of all rows up to the end of a segment; see :meth:`until`."""
        return self._whole().prepare_rows(slice(None, self._end(segment)), "label", data_key)

    def _whole(self) -> MTSDatasetH:
        made = copy.copy(self)
        made.purge_rows = 0  # of rows that are not learned from
        return made

    def _end(self, segment: object) -> object:
        days = self._days(segment)
        if are_intervals(days):
            return days[-1].stop
        return days.stop if isinstance(days, slice) else days[1] if isinstance(days, (list, tuple)) else days

    def _sampler(self, data: pd.DataFrame, start: DayLike | None, end: DayLike | None, **kwargs: Any) -> MTSDataSampler:
        return MTSDataSampler(
            data, start, end, self.step_len, self.horizon, self.memory_mode, self.input_size, **kwargs
        )

    def _back(self, start: object) -> object:
        return None  # an instrument's earlier rows can be any number of days away


def _horizon(handler: object, given: int, *, needed: bool) -> int:
    """Return how many days after its own a label reads.

    Raises
    ------
    ConfigError
        If it is needed, but unknown; or if the label reads more days than are given.
    """
    source = label_source(handler)
    known: int | None = None
    if source.expressions and not source.changed_by:
        try:
            known = max(int(max(0, last_day_read(parse(one)))) for one in source.expressions)
        except ExpressionError:
            known = None  # reported when the label is computed
    declared = getattr(handler, "label_horizon", None)
    if declared is not None:
        known = max(int(declared), known or 0)
    path = "task.dataset.kwargs.horizon"
    if needed and given and known is not None and given < known:
        raise ConfigError(
            f"is {given}, but the label reads {counted(known, 'day')} ahead: losses whose labels are not known yet would be "
            "remembered. Leave horizon out.",
            path=path,
        )
    if needed and not given and known is None:
        raise ConfigError(
            "must be given, because the label's horizon is unknown: the number of days after its own that a label reads. "
            "Only losses of known labels are remembered.",
            path=path,
        )
    return given or max(known or 0, 1 if needed else 0)  # a sample never remembers its own loss
