"""Data handlers: features and labels of a universe, raw, processed for inference, and processed for learning.

Making a handler computes nothing; the first question for data does, and finds it in the panel cache from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import build
from rollforge.data.code import code_mark, code_version
from rollforge.data.engine import session_provider
from rollforge.data.filters import build_filters
from rollforge.data.loader import DataLoader, QlibDataLoader, StaticDataLoader
from rollforge.data.panel import Panel, PanelCache
from rollforge.data.processor import Processor
from rollforge.dates import read_day
from rollforge.errors import ConfigError, DataError, TaskNotSerializable, nearest
from rollforge.serial import Serializable
from rollforge.session import Session, current_session
from rollforge.task import encode

__all__ = ["DataHandler", "DataHandlerLP"]


class DataHandler(Serializable):
    """Raw data of a universe between two days.

    Parameters
    ----------
    instruments : str, sequence or mapping
        Universe, codes, or universe with filters.
    start_time, end_time : date, optional
        First and last day.
    data_loader : DataLoader or description
        Where the data come from.
    label_days : int, optional
        Trading days over which one value of the label runs, where its expression does not tell. A class may declare it
        as an attribute.
    """

    CS_ALL = "__all"
    CS_RAW = "__raw"
    label_days: int | None = None

    def __init__(
        self,
        instruments: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        data_loader: Any = None,
        init_data: bool = True,
        fetch_orig: bool = True,
        label_days: int | None = None,
    ) -> None:
        if label_days is not None:
            if isinstance(label_days, bool) or not isinstance(label_days, int) or label_days < 1:
                raise ConfigError(
                    f"must be a number of trading days, at least 1; found {label_days!r}.", path="label_days"
                )
            self.label_days = label_days
        if data_loader is None:
            raise ConfigError(f"{type(self).__name__} needs a data_loader.")
        if isinstance(data_loader, (list, tuple)):
            data_loader = QlibDataLoader(data_loader)
        self.instruments = instruments
        self.start_time = start_time
        self.end_time = end_time
        self.data_loader: DataLoader = build(
            data_loader, accept_types=DataLoader, default_module="rollforge.data.loader", where="data_loader"
        )
        start = None if start_time is None else read_day(start_time, "start_time")
        end = None if end_time is None else read_day(end_time, "end_time")
        if start is not None and end is not None and start > end:
            raise DataError(f"The handler's range is inverted: it starts on {start} and ends on {end}.")
        self._panels: dict[str, Panel] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_panels": {}}  # the definition travels, the data do not

    def config(self, **kwargs: Any) -> None:
        """Change start and end (``handler_kwargs`` of Qlib); what it says about dumping does not matter here."""
        for name in ("instruments", "start_time", "end_time"):
            if name in kwargs:
                setattr(self, name, kwargs[name])
                self._panels = {}

    def check(self) -> None:
        """Do nothing, unless the data folder cannot answer: before anything is computed.

        Raises
        ------
        ExpressionError, DataNotFound, DataError
            For an expression, a field, a universe or a range that cannot be.
        """
        session = current_session()
        if isinstance(self.data_loader, QlibDataLoader):
            self._check_range(session)
            self.data_loader.check(self.instruments, session_provider(session))

    def setup_data(self, **kwargs: Any) -> None:
        """Compute what :meth:`fetch` will be asked for, or find it in the cache."""
        self.panel("raw")

    def panel(self, stage: str) -> Panel:
        """Return the whole panel of a stage; its days may go beyond the handler's own."""
        if stage not in self._panels:
            self._panels[stage] = self._find(stage, current_session())
        return self._panels[stage]

    def _find(self, stage: str, session: Session) -> Panel:
        return self._raw(session)

    def _raw_key(self, session: Session) -> Any:
        loader = self.data_loader
        if not isinstance(loader, QlibDataLoader):
            return None
        universe = _universe(loader.universe(self.instruments))
        if universe is None:
            return None
        return {
            "code": code_version(),
            "data": session_provider(session).fingerprint(),
            "universe": universe,
            "start": None if self.start_time is None else str(read_day(self.start_time, "start_time")),
            "loader": loader.definition(),
        }

    def _raw(self, session: Session) -> Panel:
        loader = self.data_loader
        key = self._raw_key(session)
        if isinstance(loader, QlibDataLoader):
            self._check_range(session)
        if key is None or not isinstance(loader, QlibDataLoader):
            return Panel.from_frame(loader.load(self.instruments, self.start_time, self.end_time))
        # To the end of the calendar, whatever the handler's end: the rolls of one experiment share the panel.
        return PanelCache(session.cache, session.cache_limit).get(
            _key(key),
            lambda folder: loader.panel(self.instruments, self.start_time, None, folder, session),
        )

    def _check_range(self, session: Session) -> None:
        calendar = session_provider(session).calendar()
        for name, value, sign in (("start_time", self.start_time, 1), ("end_time", self.end_time, -1)):
            if value is None:
                continue
            day, edge = read_day(value, name), calendar[-1] if sign > 0 else calendar[0]
            if (day - edge) / np.timedelta64(1, "D") * sign > 0:
                raise DataError(
                    f"The handler's {name} {day} leaves no data: the calendar has {calendar[0]} to {calendar[-1]}."
                )

    def _bounds(self, selector: Any) -> tuple[Any, Any]:
        """First and last day of a selector, inside the handler's own range."""
        if isinstance(selector, slice):
            start, end = selector.start, selector.stop
        elif isinstance(selector, (list, tuple)) and len(selector) == 2:
            start, end = selector
        else:
            start = end = selector
        lows = [read_day(t, "start_time") for t in (start, self.start_time) if t is not None]
        highs = [read_day(t, "end_time") for t in (end, self.end_time) if t is not None]
        return (max(lows) if lows else None), (min(highs) if highs else None)

    def _fetch(
        self,
        stage: str,
        selector: Any,
        level: str | int | None,
        col_set: str | Sequence[str],
        squeeze: bool,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None,
    ) -> Any:
        groups = None if col_set in (self.CS_ALL, self.CS_RAW) else col_set
        if level in ("instrument", 1):
            frame = self.panel(stage).frame(groups, *self._bounds(slice(None, None)))
            codes = [selector] if isinstance(selector, str) else list(selector)
            frame = frame[frame.index.get_level_values("instrument").isin(codes)]
        else:
            frame = self.panel(stage).frame(groups, *self._bounds(selector))
        if proc_func is not None:
            frame = proc_func(frame.copy())
        return frame.squeeze(axis=1) if squeeze else frame

    def fetch(
        self,
        selector: Any = slice(None, None),
        level: str | int | None = "datetime",
        col_set: str | Sequence[str] = CS_ALL,
        squeeze: bool = False,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> Any:
        """Return the data of some days.

        Parameters
        ----------
        selector : date, slice or pair of dates
            Which days; with ``level="instrument"`` which codes.
        level : str
            ``datetime`` or ``instrument``.
        col_set : str or sequence of str
            ``__all``, one group (plain columns), or several.
        squeeze : bool
            True makes a series of a single column.
        proc_func : callable, optional
            Applied to the frame.
        """
        return self._fetch("raw", selector, level, col_set, squeeze, proc_func)

    def get_cols(self, col_set: str | Sequence[str] = CS_ALL) -> list[str]:
        """Return the names of the columns."""
        panel = self.panel("raw")
        groups = panel.groups if col_set in (self.CS_ALL, self.CS_RAW) else [col_set]
        return [name for g in groups for name in panel.groups[str(g)].names]


class DataHandlerLP(DataHandler):
    """Data in three states: raw (``DK_R``), for inference (``DK_I``), for learning (``DK_L``).

    Parameters
    ----------
    instruments, start_time, end_time, data_loader
        See :class:`DataHandler`.
    infer_processors, learn_processors, shared_processors : sequence
        Processors, or descriptions of them.
    process_type : str
        ``append``: learning continues from the data for inference; ``independent``: from the raw data.
    drop_raw : bool
        Accepted as Qlib's; the raw data stay on disk either way.
    """

    DK_R, DK_I, DK_L = "raw", "infer", "learn"
    PTYPE_I, PTYPE_A = "independent", "append"
    IT_FIT_SEQ, IT_FIT_IND, IT_LS = "fit_seq", "fit_ind", "load_state"

    def __init__(
        self,
        instruments: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        data_loader: Any = None,
        infer_processors: Sequence[Any] = (),
        learn_processors: Sequence[Any] = (),
        shared_processors: Sequence[Any] = (),
        process_type: str = PTYPE_A,
        drop_raw: bool = False,
        **kwargs: Any,
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
                raise ConfigError(f"{type(processor).__name__} is for learning only: at inference no label is known.")
        super().__init__(instruments, start_time, end_time, data_loader, **kwargs)

    @staticmethod
    def _processors(name: str, configs: Sequence[Any]) -> list[Processor]:
        made = []
        for i, config in enumerate(configs or ()):
            described = {"class": config} if isinstance(config, str) else config
            made.append(
                build(described, accept_types=Processor, default_module="rollforge.data.processor", where=f"{name}.{i}")
            )
        return made

    def config(self, processor_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Change start and end, and what the processors were told: their fit window, for example.

        Parameters
        ----------
        processor_kwargs : mapping, optional
            Arguments of processors, for those that have them.
        **kwargs
            See :meth:`DataHandler.config`.
        """
        super().config(**kwargs)
        for processor in (*self.shared_processors, *self.infer_processors, *self.learn_processors):
            for name, value in (processor_kwargs or {}).items():
                if name in vars(processor):
                    setattr(processor, name, value)
                    self._panels = {}

    def _chain(self, stage: str) -> list[Processor]:
        if stage == self.DK_R:
            return []
        chain = list(self.shared_processors)
        if stage == self.DK_I or self.process_type == self.PTYPE_A:
            chain += self.infer_processors
        return chain + self.learn_processors if stage == self.DK_L else chain

    def setup_data(self, **kwargs: Any) -> None:
        """Compute the data for learning and inference, or find them in the cache."""
        self.panel(self.DK_L)
        self.panel(self.DK_I)

    def _find(self, stage: str, session: Session) -> Panel:
        chain = self._chain(stage)
        if not chain:
            return self.panel(self.DK_R) if stage != self.DK_R else self._raw(session)
        if stage == self.DK_L and chain == self._chain(self.DK_I):
            return self.panel(self.DK_I)
        described = self._describe(chain)
        raw_key = self._raw_key(session)
        whole = all(p.any_range for p in chain) and self._fits_inside(chain)
        if described is None or raw_key is None:
            return self._process(stage, whole=False)
        key = {"raw": raw_key, "processors": described, "end": None if whole else str(self.end_time)}
        return PanelCache(session.cache, session.cache_limit).get(
            _key(key), lambda folder: self._process(stage, whole=whole, folder=folder)
        )

    def _fits_inside(self, chain: Sequence[Processor]) -> bool:
        ends = [getattr(p, "fit_end_time", None) for p in chain]
        return self.end_time is None or all(e is None or read_day(e) <= read_day(self.end_time) for e in ends)

    @staticmethod
    def _describe(chain: Sequence[Processor]) -> list[Any] | None:
        """What the processors are, as plain data; None when one holds something that is not."""
        described = [_described(p, without=p.learned) for p in chain]
        return None if None in described else described

    def _process(self, stage: str, *, whole: bool, folder: Path | None = None) -> Panel:
        """The panel of a stage; with a folder, what the processors leave alone goes there without passing through memory."""
        chain, base = self._chain(stage), self.panel(self.DK_R)
        infer = self._chain(self.DK_I)
        if folder is not None and stage == self.DK_L and infer and chain[: len(infer)] == infer:
            chain, base = chain[len(infer) :], self.panel(self.DK_I)
        start, end = (None, None) if whole else self._bounds(slice(None, None))
        touched = _touched(chain, base) if folder is not None else list(base.groups)
        frame = base.frame(touched, start, end)
        rows, index = base.rows(start, end), frame.index
        for processor in chain:
            processor.fit(frame)
            frame = processor(frame)
        if frame.empty:
            names = ", ".join(type(p).__name__ for p in chain)
            raise DataError(f"The processors leave no rows: {names}.")
        made = Panel.from_frame(frame)
        if folder is None or len(touched) == len(base.groups):
            return made
        return made.with_groups(base, rows.start + _kept(index, frame.index), folder)

    def fetch(  # type: ignore[override]  # Qlib's order of arguments
        self,
        selector: Any = slice(None, None),
        level: str | int | None = "datetime",
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DK_I,
        squeeze: bool = False,
        proc_func: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> Any:
        """Return the data of some days in one of the three states; see :meth:`DataHandler.fetch`.

        Raises
        ------
        ConfigError
            For an unknown `data_key`.
        """
        keys = (self.DK_R, self.DK_I, self.DK_L)
        if data_key not in keys:
            raise ConfigError(
                f"data_key must be one of {', '.join(keys)}, found {data_key!r}.{nearest(data_key, keys)}"
            )
        return self._fetch(data_key, selector, level, col_set, squeeze, proc_func)

    @classmethod
    def from_df(cls, df: pd.DataFrame) -> DataHandlerLP:
        """Return a handler of a frame that is there already."""
        return cls(data_loader=StaticDataLoader(df))


def _touched(chain: Sequence[Processor], panel: Panel) -> list[str]:
    """The groups of columns that some processors look at or change."""
    named: set[str] = set()
    for processor in chain:
        groups = processor.groups()
        if groups is None:
            return list(panel.groups)
        named.update(groups)
    return [name for name in panel.groups if name in named] if named <= set(panel.groups) else list(panel.groups)


def _kept(before: pd.Index, after: pd.Index) -> NDArray[np.int64]:
    """Which rows are left, as places among those before; both in the same order."""
    if len(after) == len(before):
        return np.arange(len(before))
    assert isinstance(before, pd.MultiIndex)
    return np.flatnonzero(before.isin(after))


def _universe(instruments: Any) -> Any:
    """What a universe is, as plain data; None when a filter holds something that is not."""
    if isinstance(instruments, Mapping) and "market" in instruments:
        filters = [_described(f) for f in build_filters(instruments.get("filter_pipe") or [])]
        return None if None in filters else {"market": _universe(instruments["market"]), "filters": filters}
    if isinstance(instruments, Mapping):
        return {str(code): [[str(a), str(b)] for a, b in spans] for code, spans in instruments.items()}
    if isinstance(instruments, str) or not isinstance(instruments, Iterable):
        return str(instruments)
    return sorted({str(code).upper() for code in instruments})


def _described(value: Any, without: Collection[str] = ()) -> list[Any] | None:
    """What a processor or a filter is: its class, that class's code, and its attributes; None if they are no plain data."""
    kind = type(value)
    state = {k: v for k, v in vars(value).items() if k not in without}
    described = [kind.__qualname__, code_mark(kind), state]
    try:
        encode(described)
    except TaskNotSerializable:
        return None
    return described


def _key(definition: Any) -> str:
    return hashlib.sha256(encode(definition).encode()).hexdigest()[:24]
