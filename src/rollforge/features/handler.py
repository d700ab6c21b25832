"""Data handlers: features and labels of a universe, raw, processed for inference, and processed for learning.

Constructing a handler computes nothing. Data are computed on first access and read from the panel cache afterwards.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import pandas as pd

from rollforge import trust
from rollforge.arguments import as_list, whole_number
from rollforge.build import build
from rollforge.code_marks import code_version
from rollforge.dates import DayLike, as_timestamp, end_of, read_bound, read_day, show_time, start_of
from rollforge.errors import ConfigError, DataError, nearest, shown
from rollforge.features.loader import DataLoader, QlibDataLoader, StaticDataLoader, by_day_and_instrument
from rollforge.features.missing_data import explain_missing
from rollforge.features.panel import Panel
from rollforge.features.panel_cache import PanelCache
from rollforge.features.panel_key import describe_object, describe_universe, key_of
from rollforge.features.panel_processing import PanelProcessing, fit_and_apply
from rollforge.features.processor_base import Adapted, Processor, learns, restore, unknown_group
from rollforge.features.selection import ALL, RAW, ColumnSet, first_day, is_range, last_day, select_columns, select_rows
from rollforge.frequency import frequency, is_intraday
from rollforge.kinds import LOADER, PROCESSOR
from rollforge.market.provider import Provider
from rollforge.market.universe import one_version, session_provider
from rollforge.pickling import Serializable, kept_attributes
from rollforge.session import Session, current_session

__all__ = ["DATA_KEY_TYPE", "DataHandler", "DataHandlerABC", "DataHandlerLP", "check_label_horizon"]

DATA_KEY_TYPE = Literal["raw", "infer", "learn"]
"""The states of the data."""

log = logging.getLogger(__name__)


def check_label_horizon(value: object, path: str = "label_horizon") -> int:
    """Return a declared label horizon after checking it.

    Raises
    ------
    ConfigError
        If it is not a number of days, at least 0.
    """
    return whole_number(value, path, least=0, of="trading days that the label looks ahead")


class DataHandlerABC(Serializable):
    """Base class of handlers: the interface through which a dataset fetches data."""

    CS_ALL = ALL
    CS_RAW = RAW
    DK_R: DATA_KEY_TYPE = "raw"
    DK_I: DATA_KEY_TYPE = "infer"
    DK_L: DATA_KEY_TYPE = "learn"

    @abc.abstractmethod
    def fetch(
        self,
        selector: object = slice(None, None),
        level: str | int | None = "datetime",
        col_set: ColumnSet = CS_ALL,
        data_key: Any = DK_I,
    ) -> Any:
        """Return the data of some days; see :meth:`DataHandler.fetch`."""


class DataHandler(DataHandlerABC):
    """Raw data of a universe between two days.

    Parameters
    ----------
    instruments : str, sequence or mapping
        Universe, codes, or universe with filters.
    start_time, end_time : date, optional
        First and last day.
    data_loader : DataLoader or description
        Source of the data.
    label_days : int, optional
        Number of trading days that one label value spans, if it cannot be derived from the expression. A class may
        declare it as an attribute.
    label_horizon : int, optional
        Number of trading days after its own that a label value uses, if that cannot be read from an expression. A class
        may declare it as an attribute.
    """

    label_days: int | None = None
    label_horizon: int | None = None
    _loaded: object = None  # what the raw data depended on when they were loaded; None if unknown
    _state = ""  # the data folder's fingerprint at that time
    _until: str | None = None  # the last day of the session's data when they were loaded
    _fixed = False  # whether processors are applied with what they have learned, instead of learning it again
    _restored = False  # whether the object was read from a file; see trust.of_restored

    def __init__(
        self,
        instruments: object = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        data_loader: object = None,
        init_data: bool = True,
        fetch_orig: bool = True,
        label_days: int | None = None,
        label_horizon: int | None = None,
    ) -> None:
        if label_horizon is not None:
            self.label_horizon = check_label_horizon(label_horizon)
        if label_days is not None:
            self.label_days = whole_number(label_days, "label_days", of="trading days")
        if data_loader is None:
            raise ConfigError(f"{type(self).__name__} needs a data_loader.")
        if isinstance(data_loader, (list, tuple)):
            data_loader = QlibDataLoader(data_loader)
        self.instruments = instruments
        self.start_time = start_time
        self.end_time = end_time
        self.data_loader: DataLoader = build(
            data_loader,
            kind=LOADER,
            accept_types=DataLoader,
            default_module="rollforge.features.loader",
            where="data_loader",
        )
        start = None if start_time is None else start_of(start_time, "start_time")
        end = None if end_time is None else end_of(end_time, "end_time")
        if start is not None and end is not None and start > end:
            raise DataError(
                f"The handler's range is inverted: it starts on {show_time(read_bound(start_time))} and ends on "
                f"{show_time(read_bound(end_time))}."
            )
        self._stages: dict[str, Panel | pd.DataFrame] = {}
        self._frames: dict[tuple[str, str], pd.DataFrame] = {}

    def __getstate__(self) -> dict[str, object]:
        kept = {k: v for k, v in kept_attributes(self).items() if k != trust.RESTORED}
        return {**kept, "_stages": {}, "_frames": {}, "_loaded": None}  # only the definition is pickled, not the data

    def _forget(self) -> None:
        self._stages = {}
        self._frames = {}

    def config(self, **kwargs: Any) -> None:
        """Change the instruments and the range (Qlib's ``handler_kwargs``); Qlib's dump options are ignored."""
        for name in ("instruments", "start_time", "end_time"):
            if name in kwargs:
                setattr(self, name, kwargs[name])
                self._forget()

    def check(self) -> None:
        """Check that the data folder can provide the data, without computing anything.

        Raises
        ------
        ExpressionError, DataNotFound, DataError
            If an expression, a field, a universe or the range is invalid or not available.
        """
        session = current_session()
        if self.data_loader.reads_folder:
            self._check_range(session)
            with trust.of_restored(self):
                self.data_loader.check(self.instruments, session_provider(session, self.data_loader.freq))

    def frequencies(self) -> list[str]:
        """Return the frequencies of the data that the handler reads from the session's data folders: its loader's."""
        return self.data_loader.frequencies()

    def setup_data(self, **kwargs: object) -> None:
        """Compute the data that :meth:`fetch` returns, or find them in the cache."""
        self._stage(self.DK_R)

    def panel(self, stage: str) -> Panel:
        """Return the full panel of a stage; it may cover more days than the handler's range."""
        data = self._stage(stage)
        return data if isinstance(data, Panel) else Panel.from_frame(data)

    def _stage(self, stage: str) -> Panel | pd.DataFrame:
        """Return all data of a stage: a panel if the loader's result can be cached, else the loader's frame."""
        self._check_bound()
        if stage not in self._stages:
            with trust.of_restored(self):
                self._stages[stage] = self._find(stage, current_session())
        return self._stages[stage]

    def _check_bound(self) -> None:
        """Discard data that were loaded while the session's data ended on another day."""
        until = current_session().data_until
        if until != self._until:
            self._forget()
            self._until = until

    def _find(self, stage: str, session: Session) -> Panel | pd.DataFrame:
        return self._raw(session) if stage == self.DK_R else self._stage(self.DK_R)

    def _raw_key(self, session: Session) -> object:
        loader = self.data_loader
        definition = loader.definition()
        if definition is None:
            return None
        universes = [describe_universe(u) for u in loader.universes(self.instruments)]
        if None in universes:
            return None
        provider = session_provider(session, loader.freq)
        own = frequency(loader.freq or provider.freq)
        others = {freq: session_provider(session, freq) for freq in loader.frequencies() if freq != own}
        folders = {one.origin: one for one in (provider, *others.values())}
        self._state = "-".join(one.fingerprint() for one in folders.values())
        key = {
            "code": code_version(),
            "data": [provider.origin, provider.until is not None],
            "universe": universes,
            "start": self._shown(self.start_time, "start_time", provider),
            "loader": definition,
        }
        if others:
            key["others"] = {freq: one.origin for freq, one in others.items()}
        return key if loader.any_range else {**key, "end": self._shown_end()}

    def raw_panel(self, session: Session) -> str:
        """Return the name of the panel of raw data in the session's cache, which :meth:`setup_data` has computed; empty
        if the data are not cached."""
        key = self._raw_key(session)
        return "" if key is None else key_of(key)

    def _shown(self, value: object, name: str, provider: Provider) -> str | None:
        """Return a bound of the range as text; with daily data, without a time of day."""
        if value is None:
            return None
        intraday = is_intraday(frequency(self.data_loader.freq or provider.freq))
        return str(read_bound(value, name) if intraday else read_day(value, name))

    def _raw(self, session: Session) -> Panel | pd.DataFrame:
        with one_version():  # otherwise rows that are added now could be stored under the key of the data before
            return self._load(session)

    def _load(self, session: Session) -> Panel | pd.DataFrame:
        loader = self.data_loader
        if loader.reads_folder:
            self._check_range(session)
        key = self._loaded = self._raw_key(session)
        until = session.data_until
        if key is None:
            last = self._bounds(slice(None, until))[1]
            end = self.end_time if until is None or last is None else as_timestamp(last)
            loaded = by_day_and_instrument(loader.load(self.instruments, self.start_time, end), type(loader).__name__)
            return loaded if until is None else _up_to(loaded, until)
        stored = loader.stored_panel() if until is None else None
        if stored is not None:
            return stored
        # Load to the end of the calendar, whatever the handler's end: all windows of an experiment share the panel.
        end = until if loader.any_range else self.end_time
        return PanelCache(session.cache, session.cache_limit).get(
            key_of(key),
            lambda folder: loader.panel(self.instruments, self.start_time, end, folder, session),
            self._state,
            lambda old: loader.grow(old, self.instruments, self.start_time, end, session, self._state),
        )

    def _check_range(self, session: Session) -> None:
        freq = self.data_loader.freq
        calendar = session_provider(session, freq).calendar(freq)
        for name, value, sign in (("start_time", self.start_time, 1), ("end_time", self.end_time, -1)):
            if value is None:
                continue
            bound, edge = (start_of(value, name), calendar[-1]) if sign > 0 else (end_of(value, name), calendar[0])
            if (bound.to_datetime64() - edge) / np.timedelta64(1, "s") * sign > 0:
                raise DataError(
                    f"The handler's {name} {show_time(read_bound(value))} leaves no data: the calendar has "
                    f"{show_time(calendar[0])} to {show_time(calendar[-1])}."
                )

    def _bounds(self, selector: slice) -> tuple[np.datetime64 | None, np.datetime64 | None]:
        """Return the first and last moment of a slice of days, clipped to the handler's range.

        They are in seconds, not Timestamps: one at midnight, given as an end, would be its whole day again.
        """
        low = None if self.start_time is None else start_of(self.start_time, "start_time")
        high = None if self.end_time is None else end_of(self.end_time, "end_time")
        lows = [t for t in (first_day(selector.start, "start"), low) if t is not None]
        highs = [t for t in (last_day(selector.stop, "end"), high) if t is not None]
        return (_moment(max(lows)) if lows else None), (_moment(min(highs)) if highs else None)

    def _shown_end(self) -> str:
        return str(self._shown(self.end_time, "end_time", session_provider(freq=self.data_loader.freq)))

    @property
    def _grouped(self) -> bool:
        """Whether the columns are grouped; a panel of ungrouped columns holds a single group."""
        return bool(getattr(self.data_loader, "is_group", True))

    def _frame(
        self, data: Panel | pd.DataFrame, col_set: ColumnSet, start: DayLike | None, end: DayLike | None
    ) -> pd.DataFrame:
        """Return some columns of a stage. The days apply to panels only; a frame already has the handler's range."""
        if isinstance(data, pd.DataFrame):
            return select_columns(data, col_set)
        if not self._grouped:
            return data.frame(next(iter(data.groups)), start, end)
        named = isinstance(col_set, str) and col_set not in (self.CS_ALL, self.CS_RAW)
        if named or (isinstance(col_set, list) and col_set and all(isinstance(c, str) for c in col_set)):
            return data.frame(col_set, start, end)
        return select_columns(data.frame(None, start, end), col_set)

    def _whole(self, stage: str, col_set: ColumnSet) -> pd.DataFrame:
        """Return some columns of all days of the handler. Cached, because building an index of many rows is slow."""
        self._check_bound()
        place = (stage, repr(col_set))
        if place not in self._frames:
            self._frames[place] = self._frame(self._stage(stage), col_set, *self._bounds(slice(None, None)))
        return self._frames[place].copy(deep=False)

    @overload
    def fetch(
        self,
        selector: object = slice(None, None),
        level: str | int | None = "datetime",
        col_set: ColumnSet = DataHandlerABC.CS_ALL,
        data_key: str = DataHandlerABC.DK_I,
        squeeze: Literal[False] = False,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> pd.DataFrame: ...

    @overload
    def fetch(
        self,
        selector: object = slice(None, None),
        level: str | int | None = "datetime",
        col_set: ColumnSet = DataHandlerABC.CS_ALL,
        data_key: str = DataHandlerABC.DK_I,
        *,
        squeeze: bool,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> Any: ...

    def fetch(
        self,
        selector: object = slice(None, None),
        level: str | int | None = "datetime",
        col_set: ColumnSet = DataHandlerABC.CS_ALL,
        data_key: str = DataHandlerABC.DK_I,
        squeeze: bool = False,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> Any:
        """Return the data of some days.

        Parameters
        ----------
        selector : date, slice, pair of dates, or index
            Days to select; with ``level="instrument"`` codes; with ``level=None`` anything that ``frame.loc`` accepts.
            A pair is a range of days or codes.
        level : str, optional
            ``datetime`` or ``instrument``.
        col_set : str or sequence of str
            ``__all``: all columns, without group names. ``__raw``: all columns as (group, name). A group: its columns
            without the group name. A list of groups: their columns as (group, name). Ungrouped columns are returned
            unchanged.
        data_key : str
            State of the data: ``raw``, ``infer`` or ``learn`` of a :class:`DataHandlerLP`; ignored by a handler that
            has raw data only.
        squeeze : bool
            True returns a single column or row as a series.
        proc_func : callable, optional
            Function applied to all columns, as (group, name), of the selected rows before columns are selected.

        Raises
        ------
        DataError
            If a group or row does not exist.
        ConfigError
            If `data_key` is unknown.
        """
        stage = self._stage_named(data_key)
        if level not in (None, "datetime", "instrument", 0, 1):
            raise ConfigError(f"must be 'datetime', 'instrument' or None, found {shown(level)}.", path="level")
        if isinstance(selector, (tuple, list)) and level is not None and len(selector) in (1, 2):
            selector = slice(*selector)  # a pair is a range, as in Qlib, for instruments too
        data = self._stage(stage)
        wanted = self.CS_RAW if proc_func is not None else col_set
        # A range of days of a panel is a view; everything else is looked up by pandas.
        if isinstance(data, Panel) and level in ("datetime", 0) and is_range(selector):
            frame = self._frame(data, wanted, *self._bounds(selector))
        else:
            frame = select_rows(self._whole(stage, wanted), selector, level)
        if proc_func is not None:
            frame = select_columns(proc_func(frame.copy()), col_set)
        if not squeeze:
            return frame
        squeezed = frame.squeeze()
        if isinstance(selector, (str, pd.Timestamp)) and isinstance(squeezed, (pd.DataFrame, pd.Series)):
            squeezed = squeezed.reset_index(level=level, drop=True)
        return squeezed

    def _stage_named(self, data_key: str) -> str:
        """Return the stage that a `data_key` of :meth:`fetch` selects: this handler has raw data only."""
        return self.DK_R

    def get_cols(self, col_set: ColumnSet = DataHandlerABC.CS_ALL, data_key: str = DataHandlerABC.DK_I) -> list[Any]:
        """Return the column names as in the result of :meth:`fetch`, with the same arguments."""
        data = self._stage(self._stage_named(data_key))
        frame = data.head(0) if isinstance(data, pd.DataFrame) else data
        return self._frame(frame, col_set, *self._bounds(slice(None, None))).columns.to_list()

    @property
    def _data(self) -> pd.DataFrame:
        """Qlib's name for the raw data of the handler's days."""
        return self._whole_or_loaded(self.DK_R)

    def days(self) -> pd.DatetimeIndex:
        """Return the days of the raw data within the handler's range."""
        data = self._stage(self.DK_R)
        if isinstance(data, pd.DataFrame):
            return pd.DatetimeIndex(data.index.unique(level="datetime")).sort_values()
        start, end = self._bounds(slice(None, None))
        every = pd.DatetimeIndex(data.dates.astype("datetime64[ns]"))
        return every[slice(*every.slice_locs(start, end))]

    def _whole_or_loaded(self, stage: str) -> pd.DataFrame:
        data = self._stage(stage)
        return data if isinstance(data, pd.DataFrame) else self._whole(stage, self.CS_RAW)

    def get_range_selector(self, cur_date: DayLike | None, periods: int) -> slice:
        """Return the range of the last `periods` days of data up to a day; it is shorter if the data begin later.

        Raises
        ------
        DataError
            If the day is not in the data.
        """
        days = self._data.index.unique(level="datetime")
        day = start_of(cur_date, "cur_date")
        if day not in days:
            raise DataError(f"The handler has no data for {show_time(read_bound(cur_date))}.")
        place = days.get_loc(day)
        assert isinstance(place, int)
        if place - periods + 1 < 0:
            log.warning(
                "there are %d days of data up to %s, not %d", place + 1, show_time(read_bound(cur_date)), periods
            )
        return slice(days[max(0, place - periods + 1)], day)

    def get_range_iterator(
        self, periods: int, min_periods: int | None = None, **kwargs: Any
    ) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
        """Yield (day, data of the last `periods` days up to it) for each day after the first `min_periods`.

        Parameters
        ----------
        periods : int
            Number of days in each range.
        min_periods : int, optional
            Number of leading days to skip; by default `periods`.
        **kwargs
            Arguments of :meth:`fetch`.
        """
        days = self._data.index.unique(level="datetime")
        for day in days[periods if min_periods is None else min_periods :]:
            yield day, self.fetch(self.get_range_selector(day, periods), **kwargs)

    def steps(self, stage: str) -> list[Processor]:
        """Return the processors that are applied to the raw data to obtain a stage, in order: none."""
        return []

    def explain_missing(
        self,
        group: str | None = None,
        selector: slice | Sequence[DayLike | None] = slice(None, None),
        data_key: str = DataHandlerABC.DK_I,
        column: str | None = None,
    ) -> str:
        """Explain which loader or processor left no data, in a sentence; empty if there are data.

        Everything is recomputed without a cache, so use this only for error messages.

        Parameters
        ----------
        group : str, optional
            Group of columns to check for finite values; None checks for rows.
        selector : slice or pair of dates
            Days to look at.
        data_key : str
            State of the data: ``raw``, ``infer`` or ``learn``.
        column : str, optional
            A single column of the group.
        """
        base = self._stage(self.DK_R)
        frame = (
            base if isinstance(base, pd.DataFrame) else self._frame(base, self.CS_RAW, *self._bounds(slice(None, None)))
        )
        days = selector if isinstance(selector, slice) else slice(*selector)
        fit, steps, bounds = not self._fixed, self.steps(data_key), self._bounds(days)
        return explain_missing(frame, self.data_loader, steps, bounds, group, column, fit=fit)


class DataHandlerLP(DataHandler):
    """Data in three states: raw (``DK_R``), for inference (``DK_I``), for learning (``DK_L``).

    Parameters
    ----------
    instruments, start_time, end_time, data_loader
        See :class:`DataHandler`.
    infer_processors, learn_processors, shared_processors : sequence
        Processors, or descriptions of them.
    process_type : str
        ``append``: the learn processors are applied to the data for inference; ``independent``: to the raw data.
    drop_raw : bool
        Accepted for compatibility with Qlib; the raw data stay on disk either way.
    init_data, fetch_orig, label_days, label_horizon
        See :class:`DataHandler`.
    """

    PTYPE_I, PTYPE_A = "independent", "append"
    IT_FIT_SEQ, IT_FIT_IND, IT_LS = "fit_seq", "fit_ind", "load_state"

    _set_up: tuple[object, object, object] | None = (
        None  # universe and range of the last set-up; None: the present ones
    )
    _hold_learned: frozenset[str] = frozenset()  # stages whose processors have what they learned from the last set-up
    _learned_until: pd.Timestamp | None = None  # the last day of the data from which they learned, if the range is open
    _fits_differently = False  # whether arguments of processors have changed since

    def __init__(
        self,
        instruments: object = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        data_loader: object = None,
        infer_processors: Sequence[object] = (),
        learn_processors: Sequence[object] = (),
        shared_processors: Sequence[object] = (),
        process_type: str = PTYPE_A,
        drop_raw: bool = False,
        *,
        init_data: bool = True,
        fetch_orig: bool = True,
        label_days: int | None = None,
        label_horizon: int | None = None,
    ) -> None:
        if process_type not in (self.PTYPE_A, self.PTYPE_I):
            raise ConfigError(
                f"process_type must be 'append' or 'independent', found {process_type!r}.", path="process_type"
            )
        self.process_type = process_type
        self.drop_raw = drop_raw
        self.shared_processors = self._processors("shared_processors", shared_processors)
        self.infer_processors = self._processors("infer_processors", infer_processors)
        self.learn_processors = self._processors("learn_processors", learn_processors)
        for processor in (*self.shared_processors, *self.infer_processors):
            if not processor.is_for_infer():
                raise ConfigError(
                    f"{type(processor).__name__} can only be used for learning, because labels are unknown at inference."
                )
        super().__init__(
            instruments, start_time, end_time, data_loader, init_data, fetch_orig, label_days, label_horizon
        )

    @staticmethod
    def _processors(name: str, configs: Sequence[object]) -> list[Processor]:
        made = []
        for i, config in enumerate(as_list(configs, "processors", path=name)):
            described = {"class": config} if isinstance(config, str) else config
            processor = build(
                described,
                kind=PROCESSOR,
                accept_types=Processor,
                default_module="rollforge.features.processor",
                where=f"{name}.{i}",
            )
            made.append(processor if isinstance(processor, Processor) else Adapted(processor))
        return made

    def config(self, processor_kwargs: Mapping[str, object] | None = None, **kwargs: Any) -> None:
        """Change the handler's range and the arguments of its processors, such as their fit window.

        Parameters
        ----------
        processor_kwargs : mapping, optional
            Arguments of processors; a processor that has no attribute of that name ignores it.
        **kwargs
            See :meth:`DataHandler.config`.
        """
        if self._set_up is None:
            self._set_up = self._learned_extent
        super().config(**kwargs)
        if processor_kwargs:
            self._fits_differently = True
            for processor in self.get_all_processors():
                processor.config(**processor_kwargs)
            self._forget()

    def check(self) -> None:
        """Check the loader as in :meth:`DataHandler.check`, and that the processors' groups of columns exist.

        Processors that are not Rollforge's may add groups, so those after them are not checked.
        """
        super().check()
        known = self.data_loader.column_groups()
        if known is None:
            return
        lists = ("shared_processors", "infer_processors", "learn_processors")
        for place, processor in ((f"{name}.{i}", p) for name in lists for i, p in enumerate(getattr(self, name))):
            if not type(processor).__module__.startswith("rollforge."):
                return
            mistake = unknown_group(processor.groups() or [], known)
            if mistake:
                raise ConfigError(mistake, path=f"{place}.kwargs.fields_group")

    def get_all_processors(self) -> list[Processor]:
        """Return all processors in order: shared, inference, learning."""
        return [*self.shared_processors, *self.infer_processors, *self.learn_processors]

    def steps(self, stage: str) -> list[Processor]:
        """Return the processors that are applied to the raw data to obtain ``raw``, ``infer`` or ``learn``, in
        order."""
        if stage == self.DK_R:
            return []
        chain = list(self.shared_processors)
        if stage == self.DK_I or self.process_type == self.PTYPE_A:
            chain += self.infer_processors
        return chain + self.learn_processors if stage == self.DK_L else chain

    def setup_data(self, **kwargs: object) -> None:
        """Compute the data for learning and inference, or find them in the cache.

        Parameters
        ----------
        **kwargs
            ``init_type="fit_seq"``, the default, fits each processor to the result of the previous one, ``"fit_ind"``
            fits each to the raw data. ``"load_state"`` applies the processors with what they learned when the data were
            last set up, whatever the range is now, and computes only the data for inference; those for learning are
            computed when they are fetched.

        Raises
        ------
        ConfigError
            If `init_type` has another value.
        """
        init_type = kwargs.get("init_type") or self.IT_FIT_SEQ
        known = (self.IT_FIT_SEQ, self.IT_FIT_IND, self.IT_LS)
        if init_type not in known:
            raise ConfigError(f"must be one of {', '.join(known)}, found {shown(init_type)}.", path="init_type")
        if init_type == self.IT_LS:
            self._keep_learned()
        elif init_type == self.IT_FIT_IND:
            self.fit()
        else:
            self._fix(False)
            if self._set_up is not None:
                self._set_up, self._hold_learned, self._fits_differently = None, frozenset(), False
        if init_type != self.IT_LS:
            self._stage(self.DK_L)
        self._stage(self.DK_I)

    def fit(self) -> None:
        """Fit each processor to the raw data. The data are processed with what they learn, until the next set-up."""
        raw = self._whole_or_loaded(self.DK_R)
        with trust.of_restored(self):
            for processor in self.get_all_processors():
                processor.fit(raw.copy(deep=False))
        self._set_up, self._fits_differently = None, False
        self._hold_learned = frozenset((self.DK_I, self.DK_L))
        self._fix(True)

    def process_data(self, with_fit: bool = False) -> None:
        """Process the data, by default with what the processors have learned before; see :meth:`setup_data`."""
        # A class of one's own may call this in its setup_data(), as Qlib's does.
        DataHandlerLP.setup_data(self, init_type=self.IT_FIT_SEQ if with_fit else self.IT_LS)

    def fit_process_data(self) -> None:
        """Fit each processor to the result of the previous one, and process the data."""
        self.process_data(with_fit=True)

    @property
    def _extent(self) -> tuple[object, object, object]:
        """The universe and the range."""
        return self.instruments, self.start_time, self.end_time

    @_extent.setter
    def _extent(self, extent: tuple[object, object, object]) -> None:
        self.instruments, self.start_time, self.end_time = extent  # type: ignore[assignment]
        self._forget()

    @property
    def _learned_extent(self) -> tuple[object, object, object]:
        """The universe and the range of the data from which the processors have learned, with the last day of an open one."""
        return self.instruments, self.start_time, self._learned_until if self.end_time is None else self.end_time

    def _fix(self, fixed: bool) -> None:
        if fixed or self._fixed:
            self._forget()
        self._fixed = fixed

    def _keep_learned(self) -> None:
        """Let the processors keep what they learned from the data of the last set-up, or learn it now."""
        learners = [p for p in self.get_all_processors() if learns(p)]
        if self._set_up is None and self._has_grown():
            self._set_up = self._learned_extent
        if self._fixed or self._set_up is None or not learners or self._learn_the_same(learners):
            return
        missing = [stage for stage in self._learning_stages() if stage not in self._hold_learned]
        if missing:
            former = object.__new__(type(self))  # with the same processors; readers of this one keep its range
            former.__dict__.update(self.__dict__, _set_up=None)
            former._extent, former._loaded = self._set_up, None
            try:
                for stage in missing:
                    former._fit_stage(stage)
            except DataError as exc:
                log.warning("What the processors have learned is not known: %s They learn from the present range.", exc)
                return
        self._fix(True)

    def _has_grown(self) -> bool:
        """Return whether an open range has later days than those from which the processors have learned."""
        until = self._learned_until
        return self.end_time is None and until is not None and bool((self.days() > until).any())

    def _learning_stages(self) -> list[str]:
        """Return the stages whose own processors learn something."""
        return [stage for stage in (self.DK_I, self.DK_L) if any(map(learns, self._own_steps(stage)))]

    def _fit_stage(self, stage: str) -> None:
        """Let the processors of a stage learn; those of a panel in the cache may not have done so in this object."""
        data = self._stage(stage)
        if stage not in self._hold_learned and isinstance(data, Panel):
            with trust.of_restored(self):
                self._process_raw(stage)

    def _learn_the_same(self, learners: Sequence[Processor]) -> bool:
        """Return whether processors would learn the same from the present range as from that of the last set-up.

        If so they may learn it again, and their data can be cached.
        """
        assert self._set_up is not None
        own = all(type(p).__module__.startswith("rollforge.") and not isinstance(p, Adapted) for p in learners)
        universes = [describe_universe(extent[0]) for extent in (self._set_up, self._extent)]
        same = universes[0] == universes[1] is not None and self._set_up[1] == self.start_time
        same = same and all(p.any_range for p in self.get_all_processors())
        same = same and not self._fits_differently
        return own and same and all(self._fits_inside(learners, end) for end in (self._set_up[2], self.end_time))

    @property
    def _infer(self) -> pd.DataFrame:
        """Qlib's name for the data for inference."""
        return self._whole_or_loaded(self.DK_I)

    @property
    def _learn(self) -> pd.DataFrame:
        """Qlib's name for the data for learning."""
        return self._whole_or_loaded(self.DK_L)

    def _find(self, stage: str, session: Session) -> Panel | pd.DataFrame:
        chain = self.steps(stage)
        if not chain:
            return self._stage(self.DK_R) if stage != self.DK_R else self._raw(session)
        if stage == self.DK_L and chain == self.steps(self.DK_I):
            return self._stage(self.DK_I)
        raw = self._stage(self.DK_R)
        if isinstance(raw, pd.DataFrame):
            return self._process_frame(stage)
        described = None if self._fixed else self._describe(chain)
        if described is None:
            return self._process_raw(stage)
        whole = (
            self.data_loader.any_range and all(p.any_range for p in chain) and self._fits_inside(chain, self.end_time)
        )
        days = (None, None) if whole else self._bounds(slice(None, None))
        key = {"raw": self._loaded, "processors": described, "end": None if whole else self._shown_end()}
        panel = PanelCache(session.cache, session.cache_limit).get(
            key_of(key),
            lambda folder: self._processing(stage).compute(*days, folder),
            self._state,
            (lambda old: self._processing(stage).grow(old, self._state)) if whole else None,
            lambda: None if (stored := self._base(stage).stored) is None else stored.version,
        )
        restore(self._own_steps(stage), panel.learned)
        self._note_learned(stage, panel.learned is not None)
        return panel

    def _note_learned(self, stage: str, held: bool) -> None:
        """Note whether the processors of a stage have what they learn from the data of the last set-up."""
        if self._fixed:
            return
        if self._set_up is not None:  # the range has changed since
            self._hold_learned -= {stage}
            return
        if held:
            self._hold_learned |= {stage}
        if self.end_time is None and any(map(learns, self.get_all_processors())):
            self._learned_until = self.days().max()

    @staticmethod
    def _fits_inside(chain: Sequence[Processor], end: Any) -> bool:
        """Return whether the fit windows of processors end by a day; None is open."""
        ends = [getattr(p, "fit_end_time", None) for p in chain]
        return end is None or all(e is None or end_of(e) <= end_of(end) for e in ends)

    @staticmethod
    def _describe(chain: Sequence[Processor]) -> list[list[object] | None] | None:
        """Describe the processors as plain data; None if an attribute of one is not plain data."""
        described = [describe_object(p, without=p.learned) for p in chain]
        return None if None in described else described

    def _base(self, stage: str) -> Panel:
        """Return the panel that the processors of a stage are applied to."""
        return self.panel(self.DK_I if self._follows_infer(stage) else self.DK_R)

    def _processing(self, stage: str) -> PanelProcessing:
        return PanelProcessing(
            self._own_steps(stage),
            self._base(stage),
            self._grouped,
            lambda: self.explain_missing(data_key=stage),
        )

    def _process_raw(self, stage: str) -> Panel:
        """Return the panel of a stage whose processors cannot be described, computed for the handler's days only."""
        base = self.panel(self.DK_R)
        frame = base.frame(
            list(base.groups) if self._grouped else next(iter(base.groups)), *self._bounds(slice(None, None))
        )
        return Panel.from_frame(self._run(self.steps(stage), frame, stage))

    def _own_steps(self, stage: str) -> list[Processor]:
        """Return the processors that are applied to another stage to obtain a stage."""
        chain, infer = self.steps(stage), self.steps(self.DK_I)
        return chain[len(infer) :] if self._follows_infer(stage) else chain

    def _follows_infer(self, stage: str) -> bool:
        infer = self.steps(self.DK_I)
        return stage == self.DK_L and bool(infer) and self.steps(stage)[: len(infer)] == infer

    def _process_frame(self, stage: str) -> pd.DataFrame:
        """Return the frame of a stage, computed from the loader's frame."""
        chain, base = self.steps(stage), self._stage(self.DK_R)
        infer = self.steps(self.DK_I)
        if stage == self.DK_L and infer and chain[: len(infer)] == infer:
            chain, base = chain[len(infer) :], self._stage(self.DK_I)
        assert isinstance(base, pd.DataFrame)
        return self._run(chain, base, stage)

    def _run(self, chain: Sequence[Processor], frame: pd.DataFrame, stage: str) -> pd.DataFrame:
        made = fit_and_apply(chain, frame, lambda: self.explain_missing(data_key=stage), fit=not self._fixed)
        self._note_learned(stage, True)
        return made

    def _stage_named(self, data_key: str) -> str:
        keys = (self.DK_R, self.DK_I, self.DK_L)
        if data_key not in keys:
            raise ConfigError(
                f"data_key must be one of {', '.join(keys)}, found {data_key!r}.{nearest(data_key, keys)}"
            )
        return data_key

    @classmethod
    def from_df(cls, df: pd.DataFrame) -> DataHandlerLP:
        """Return a handler of an existing frame."""
        return cls(data_loader=StaticDataLoader(df))


def _moment(time: pd.Timestamp) -> np.datetime64:
    moment: np.datetime64 = time.to_datetime64().astype("M8[s]")
    return moment


def _up_to(frame: pd.DataFrame, day: str) -> pd.DataFrame:
    """Return the rows of the days up to `day`."""
    days = frame.index.get_level_values("datetime")
    kept = days <= end_of(day)
    return frame if kept.all() else frame[kept]
