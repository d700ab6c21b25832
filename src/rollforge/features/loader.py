"""Loaders: the sources of a handler's raw data."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import safe_pickle, trust
from rollforge.arguments import as_list, fetch_arguments
from rollforge.build import build
from rollforge.code_marks import code_mark
from rollforge.dates import DayLike, show_time, times_of, within
from rollforge.errors import BuildError, ConfigError, DataError, DataNotFound, TaskNotSerializable, nearest, shown
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import custom_operators, fields_of, lookahead
from rollforge.features.engine import FeaturePlan, features
from rollforge.features.inst_processor import build_inst_processors, process_instruments
from rollforge.features.panel import Group, Panel
from rollforge.features.panel_growth import ComparedRows, Index, TailOfFile, commit
from rollforge.features.row_file import RowFile, group_file
from rollforge.frequency import frequency
from rollforge.kinds import HANDLER, LOADER
from rollforge.limits import LIMITS, check_file, check_parquet
from rollforge.market.frames import day_rows, reading
from rollforge.market.provider import OPTIONAL_FIELDS, Provider
from rollforge.market.universe import read_spans, resolve_instruments, session_provider, upper_codes
from rollforge.paths import read_path
from rollforge.session import Session, current_session
from rollforge.task import encode

__all__ = ["DLWParser", "DataLoader", "DataLoaderDH", "NestedDataLoader", "QlibDataLoader", "StaticDataLoader"]

log = logging.getLogger(__name__)

_MAX_LOOKAHEAD = 250
_DAYS_AGAIN = 5  # before the days whose labels were not known; rows of these days are kept in memory
_MEMORY_TO_GROW = 2**27


class DataLoader:
    """Source of a handler's raw data; subclasses override :meth:`load`.

    If :meth:`definition` describes what the result depends on, the result is computed once and shared through the panel
    cache.
    """

    any_range: bool = True
    """Whether a row does not depend on which later days are loaded with it."""
    reads_folder: bool = False
    """Whether the loader computes expressions over the session's data folder."""
    freq: str | None = None
    """Frequency of the data, such as ``60min``; None: that of the session."""
    _restored = False  # whether the object was read from a file; see trust.of_restored

    def load(
        self, instruments: object, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return a frame with rows (datetime, instrument) and columns (group, name)."""
        raise NotImplementedError(f"{type(self).__name__} must implement load().")

    def definition(self) -> dict[str, object] | None:
        """Return what the result depends on besides universe, days and data folder, as plain data; None if unknown."""
        return None

    def frequencies(self) -> list[str]:
        """Return the frequencies of the data that the loader reads from the session's data folders, such as ``day``.

        A class that reads others than :attr:`freq` overrides it: they are part of the key of a panel, and workers and
        services compare the data of each.
        """
        return [] if self.freq is None else [frequency(self.freq)]

    def universes(self, instruments: object) -> list[object]:
        """Return the universes that are loaded for `instruments`, with the loader's filters; one for each source."""
        return [instruments]

    def check(self, instruments: object, provider: Provider) -> None:
        """Check that the data folder has what the loader reads."""

    def stored_panel(self) -> Panel | None:
        """Return the data as a panel that is already stored, so that no cache is needed; None if it has to be
        computed."""
        return None

    def panel(
        self, instruments: object, start: DayLike | None, end: DayLike | None, folder: Path, session: Session
    ) -> Panel:
        """Return the result of :meth:`load` as a panel; a loader may write the values into files in `folder`."""
        return Panel.from_frame(self.load(instruments, start, end))

    def grow(
        self, old: Panel, instruments: object, start: DayLike | None, end: DayLike | None, session: Session, state: str
    ) -> bool:
        """Turn a stored panel of other data into the one that :meth:`panel` returns, if that is possible without
        computing everything in a new file; return whether it was.

        Parameters
        ----------
        old : Panel
            The stored panel.
        instruments, start, end, session
            See :meth:`panel`.
        state : str
            The present data, see :meth:`Panel.save`.
        """
        return False

    def expressions(self, group: str) -> list[str] | None:
        """Return the expressions of a group of columns; None if the columns are not expressions."""
        return None

    def column_groups(self) -> list[str] | None:
        """Return the groups of columns; None if they are not known before the data are loaded."""
        return None

    def describe(self, group: str | None, column: str | None) -> str:
        """Return the expressions of a group or column as text for error messages."""
        return ""


def _fields_and_names(config: object, where: str) -> tuple[list[str], list[str]]:
    if isinstance(config, (list, tuple)) and config and all(isinstance(c, str) for c in config):
        return list(config), list(config)
    if (
        isinstance(config, (list, tuple))
        and len(config) == 2
        and all(isinstance(c, (list, tuple)) for c in config)
        and len(config[0]) == len(config[1])
    ):
        return list(config[0]), list(config[1])
    raise ConfigError("expected a list of expressions, or [expressions, names] of the same length.", path=where)


class DLWParser(DataLoader):
    """Base of loaders of named expressions, grouped or not; subclasses override :meth:`load_group_df`.

    Parameters
    ----------
    config : mapping or sequence
        ``{"feature": (expressions, names), "label": …}``, or the expressions of a single unnamed group.
    """

    def __init__(self, config: object) -> None:
        self.is_group = isinstance(config, Mapping)
        groups = config if isinstance(config, Mapping) else {"feature": config}
        self.groups = {str(k): _fields_and_names(v, f"config.{k}") for k, v in groups.items() if v}
        if not self.groups:
            raise ConfigError("there are no expressions to load.", path="config")

    @property
    def fields(self) -> dict[str, tuple[list[str], list[str]]] | tuple[list[str], list[str]]:
        """Expressions and names: ``{group: (expressions, names)}``, or a single pair if there are no groups."""
        return self.groups if self.is_group else next(iter(self.groups.values()))

    def load_group_df(
        self,
        instruments: object,
        exprs: list[str],
        names: list[str],
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        gp_name: str | None = None,
    ) -> pd.DataFrame:
        """Return the columns of one group, named `names`."""
        raise NotImplementedError(f"{type(self).__name__} must implement load_group_df().")

    def load(
        self, instruments: object = None, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the columns of all groups side by side."""
        if not self.is_group:
            ((expressions, names),) = self.groups.values()
            return self.load_group_df(instruments, expressions, names, start_time, end_time)
        parts = {
            group: self.load_group_df(instruments, expressions, names, start_time, end_time, group)
            for group, (expressions, names) in self.groups.items()
        }
        joined: pd.DataFrame = pd.concat(parts, axis=1)
        return joined

    def expressions(self, group: str) -> list[str] | None:
        """Return the expressions of a group of columns."""
        return self.groups[group][0] if group in self.groups else None

    def column_groups(self) -> list[str] | None:
        """Return the groups of columns; None if there is only one without a name, or a subclass overrides ``load``."""
        own = type(self).load in (DLWParser.load, QlibDataLoader.load)
        return list(self.groups) if own and self.is_group else None

    def describe(self, group: str | None, column: str | None) -> str:
        """Return the expressions of a group or column as text for error messages."""
        if group not in self.groups:
            return ""
        texts = [e for e, name in zip(*self.groups[group], strict=True) if column in (None, name)]
        return f": {', '.join(repr(t) for t in texts[:3])}{', …' if len(texts) > 3 else ''}" if texts else ""


def _named_frequency(given: object, path: str) -> str:
    if not isinstance(given, str):
        raise ConfigError(
            f"must be the name of a frequency, such as 'day' or '60min', found {shown(given)}.", path=path
        )
    return given


class QlibDataLoader(DLWParser):
    """Loads expressions over the session's data folder.

    Parameters
    ----------
    config : mapping or sequence
        ``{"feature": (expressions, names), "label": …}``, or the expressions of a single unnamed group.
    filter_pipe : sequence, optional
        Filters of the universe.
    swap_level : bool
        True indexes the rows by (datetime, instrument), False by (instrument, datetime).
    freq : str or mapping
        Frequency, such as ``60min``, which is the name of the calendar; or ``{group: name}``. The rows have the frequency of the
        group ``label``. Processors of instruments convert groups of another frequency to it.
    inst_processors : sequence or mapping, optional
        Processors that are applied to the series of each instrument; ``{group: […]}`` gives each group its own.
    """

    reads_folder = True
    freq: str
    _own_freq: Mapping[str, str] = {}  # group -> frequency other than that of the rows

    def __init__(
        self,
        config: object,
        filter_pipe: Sequence[object] | None = None,
        swap_level: bool = True,
        freq: object = "day",
        inst_processors: Sequence[object] | Mapping[str, Sequence[object]] | None = None,
    ) -> None:
        super().__init__(config)
        self.filter_pipe = as_list(filter_pipe, "filters", path="filter_pipe")
        self.swap_level = swap_level
        self.inst_processors = self._listed(inst_processors)
        if isinstance(freq, Mapping):
            freq = self._freq_of_rows(freq)
        self.freq = _named_frequency(freq, "freq")

    def _freq_of_rows(self, given: Mapping[str, object]) -> str:
        """Return the frequency of the rows, after checking that groups of another one are converted to it."""
        lacking = [group for group in self.groups if group not in given]
        if lacking:
            raise ConfigError(f"names no frequency for the group {lacking[0]!r}, found {dict(given)!r}.", path="freq")
        named = {group: frequency(_named_frequency(given[group], f"freq.{group}")) for group in self.groups}
        if len(set(named.values())) > 1 and "label" not in named:
            raise ConfigError(
                f"must be the same for all groups of columns if there is no group 'label', found {dict(given)!r}.",
                path="freq",
            )
        rows = named.get("label") or next(iter(named.values()))
        self._own_freq = {group: own for group, own in named.items() if own != rows}
        for group, own in self._own_freq.items():
            if not self._processors_of(group):
                raise ConfigError(
                    f"is {own!r} for the group {group!r} and {rows!r} for the label. Convert it with inst_processors.",
                    path=f"freq.{group}",
                )
        return rows

    def _listed(self, inst_processors: object) -> list[object] | dict[str, list[object]]:
        """Return the processors of instruments, for all groups or by group, after checking that they can be built."""
        place = "inst_processors"
        if isinstance(inst_processors, Mapping):
            listed = {str(g): as_list(some, "processors", path=f"{place}.{g}") for g, some in inst_processors.items()}
            for group, some in listed.items():
                if group not in self.groups:
                    log.warning(
                        "inst_processors of the group %r are ignored: the groups of columns are %s",
                        group,
                        ", ".join(self.groups),
                    )
                build_inst_processors(some, where=f"{place}.{group}")
            return listed
        if not isinstance(inst_processors, (list, tuple, type(None))):
            raise ConfigError(f"must be a list, or {{group: list}}, found {shown(inst_processors)}.", path=place)
        build_inst_processors(inst_processors or [], where=place)
        return list(inst_processors or [])

    @property
    def any_range(self) -> bool:  # type: ignore[override]
        """Whether rows do not depend on later days: False with instrument processors, which may read all days."""
        return not self.inst_processors

    def frequencies(self) -> list[str]:
        """Return the frequencies of the groups of columns: that of the rows first."""
        return list(dict.fromkeys([*super().frequencies(), *self._own_freq.values()]))

    def universes(self, instruments: object) -> list[object]:
        """Return `instruments` with the loader's filters."""
        return [self.universe(instruments)]

    def universe(self, instruments: object) -> object:
        """Return `instruments` with the loader's filters; None means all instruments."""
        if instruments is None:
            instruments = "all"
        if not self.filter_pipe:
            return instruments
        if isinstance(instruments, Mapping) and "market" in instruments:
            return {**instruments, "filter_pipe": [*(instruments.get("filter_pipe") or []), *self.filter_pipe]}
        if not isinstance(instruments, str):
            log.warning("filter_pipe applies only to named universes; the listed instruments are not filtered")
            return instruments
        return {"market": instruments, "filter_pipe": self.filter_pipe}

    def check(self, instruments: object, provider: Provider) -> None:
        """Check that all expressions can be parsed, and that the data folder has their fields and the universe.

        Features may read standard fields that the folder lacks, such as ``$vwap``; labels may not.
        """
        provider.calendar(self.freq)
        resolve_instruments(provider, self.universe(instruments))
        for group, (expressions, _) in self.groups.items():
            own = self._own_freq.get(group)
            if own is not None:
                provider = session_provider(freq=own)
                provider.calendar(own)
            known = set(provider.fields())
            needless: Set[str] = set() if group == "label" else OPTIONAL_FIELDS
            for text in expressions:
                for name in sorted(fields_of(parse(text)) - known - needless):
                    raise DataNotFound(
                        f"There is no field ${name} in {provider.path}, which {text!r} reads.{nearest(name, known)}"
                    )

    def definition(self) -> dict[str, object] | None:
        """Return what the result depends on, as plain data; None if a subclass overrides the loading."""
        own = type(self)
        if own.load is not QlibDataLoader.load or own.load_group_df is not QlibDataLoader.load_group_df:
            return None
        if not self.swap_level:
            return None
        definition: dict[str, object] = {
            "groups": list(self.groups.items()),
            "freq": self.freq,
            "operators": custom_operators(),
            **({"own_freq": dict(self._own_freq)} if self._own_freq else {}),
        }
        if not self.inst_processors:
            return definition
        described = {group: self._described_processors(group) for group in self.groups}
        try:
            encode(described)
        except TaskNotSerializable:
            return None
        return {**definition, "is_group": self.is_group, "inst_processors": described}

    def _processors_of(self, group: str | None) -> Sequence[object]:
        if isinstance(self.inst_processors, Mapping):
            return self.inst_processors.get(group or "") or []
        return self.inst_processors

    def _config_path(self, group: str | None) -> str:
        return f"inst_processors.{group}" if isinstance(self.inst_processors, Mapping) else "inst_processors"

    def _described_processors(self, group: str) -> list[object]:
        """Describe the group's processors with a hash of their code, because nearly all are user-defined classes."""
        described: list[object] = []
        with trust.of_restored(self):
            processors = build_inst_processors(self._processors_of(group), where=self._config_path(group))
        for made in processors:
            described.append([type(made).__qualname__, code_mark(type(made)), vars(made)])
        return described

    def panel(
        self, instruments: object, start: DayLike | None, end: DayLike | None, folder: Path, session: Session
    ) -> Panel:
        """Return the panel; its values are written into files in `folder` as they are computed."""
        if self.inst_processors:
            return super().panel(instruments, start, end, folder, session)
        expressions = [e for fields, _ in self.groups.values() for e in fields]
        plan = FeaturePlan(
            session_provider(session, self.freq), self.universe(instruments), expressions, start, end, self.freq
        )
        files = [RowFile(group_file(folder, i), len(plan), len(g[1])) for i, g in enumerate(self.groups.values())]
        plan.fill(*files, threads=session.threads, memory=session.memory)
        groups = {
            name: Group(tuple(names), file.finished())
            for (name, (_, names)), file in zip(self.groups.items(), files, strict=True)
        }
        return Panel(plan.dates, plan.offsets, tuple(plan.codes), plan.row_code, groups)

    def grow(
        self, old: Panel, instruments: object, start: DayLike | None, end: DayLike | None, session: Session, state: str
    ) -> bool:
        """Compute all values, and write those that are not in the stored panel; False with instrument processors."""
        if self.inst_processors or old.stored is None:
            return False
        if [(n, g.names) for n, g in old.groups.items()] != [(n, tuple(g[1])) for n, g in self.groups.items()]:
            return False
        expressions = [e for fields, _ in self.groups.values() for e in fields]
        plan = FeaturePlan(
            session_provider(session, self.freq), self.universe(instruments), expressions, start, end, self.freq
        )
        ahead = int(min(_MAX_LOOKAHEAD, max(lookahead(tree) for tree in plan.trees)))
        from_day = max(0, min(len(old.dates), len(plan.dates)) - ahead - _DAYS_AGAIN)
        tail = int(plan.offsets[from_day])
        memory = min(session.memory, _MEMORY_TO_GROW)
        if 4 * len(expressions) * (len(plan) - tail) > session.memory // 4:
            return False
        stored = old.stored
        shapes = {name: (len(plan), len(group.names)) for name, group in old.groups.items()}
        compared = {name: ComparedRows(old.groups[name].values, shape, tail) for name, shape in shapes.items()}
        try:
            plan.fill(*compared.values(), threads=session.threads, memory=memory)
        finally:
            for one in compared.values():
                one.close()
        groups = {name: one.result for name, one in compared.items()}
        if None in groups.values():  # earlier days have changed: write from the first of them on
            version = int(stored.meta["version"]) + 1
            with contextlib.ExitStack() as opened:
                tails = []
                for i, (name, shape) in enumerate(shapes.items()):
                    file = stored.folder / f"group{i}-{version}.npy"
                    tail_file = TailOfFile(file, old.groups[name].values, shape, compared[name].first)
                    tails.append(opened.enter_context(contextlib.closing(tail_file)))
                plan.fill(*tails, threads=session.threads, memory=memory)
            groups = {name: one.result for name, one in zip(groups, tails, strict=True)}
        index = Index(plan.dates, plan.offsets, tuple(plan.codes), plan.row_code)
        commit(old, index, {n: g for n, g in groups.items() if g is not None}, state, None)
        return True

    def load_group_df(
        self,
        instruments: object,
        exprs: list[str],
        names: list[str],
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        gp_name: str | None = None,
    ) -> pd.DataFrame:
        """Return the columns of one group."""
        own = self._own_freq.get(gp_name or "")
        frame = features(self.universe(instruments), exprs, start_time, end_time, own or self.freq)
        with trust.of_restored(self):
            made = process_instruments(frame, self._processors_of(gp_name), where=self._config_path(gp_name))
        if own is not None:
            self._check_converted(made, gp_name, own)
        frame = made.set_axis(names, axis=1)
        return frame.swaplevel().sort_index() if self.swap_level else frame

    def _check_converted(self, frame: pd.DataFrame, group: str | None, own: str) -> None:
        """Check that the rows of a group of another frequency are at times of the loader's frequency."""
        times = frame.index.get_level_values("datetime").unique()
        other = times[~np.isin(times.to_numpy(), session_provider(freq=self.freq).calendar(self.freq))]
        if len(other):
            raise DataError(
                f"The processors of instruments of the group {group!r} return {other[0]}, which is not a time of the frequency "
                f"{self.freq!r}. They must convert the frequency {own!r} to it."
            )

    def load(
        self, instruments: object = None, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the frame of the expressions."""
        import tempfile

        plain = type(self).load_group_df is QlibDataLoader.load_group_df
        if not plain or not self.swap_level or self.inst_processors:
            return super().load(instruments, start_time, end_time)
        with tempfile.TemporaryDirectory() as folder:
            panel = self.panel(instruments, start_time, end_time, Path(folder), current_session())
            return panel.frame(None if self.is_group else next(iter(self.groups))).copy()


class StaticDataLoader(DataLoader):
    """Loads existing frames: objects or files.

    Parameters
    ----------
    config : DataFrame, path, or mapping
        A frame, or the path of a Parquet, CSV or pickle file (read through the allow-list); ``{group: frame or path}``
        joins several side by side.
    join : {"outer", "inner"}
        How the rows of several frames are joined.
    """

    def __init__(self, config: object, join: Literal["outer", "inner"] = "outer") -> None:
        self.config = config
        self.join = join

    @property
    def _data(self) -> pd.DataFrame:
        """Qlib's name for the frame."""
        return self._frame

    @functools.cached_property
    def _frame(self) -> pd.DataFrame:
        name = type(self).__name__
        if not isinstance(self.config, Mapping):
            return by_day_and_instrument(_read_frame(self.config), name)
        parts = {group: by_day_and_instrument(_read_frame(one), name) for group, one in self.config.items()}
        joined: pd.DataFrame = pd.concat(parts, axis=1, join=self.join).sort_index()
        return joined

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_frame"}

    def load(
        self, instruments: object = None, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the frame, restricted to some instruments and days.

        Parameters
        ----------
        instruments : str, sequence of str, or mapping, optional
            Codes, or ``{code: [(first, last), …]}``; a string that is not a code of the frame means all instruments.
        start_time, end_time : date, optional
            First and last day.

        Raises
        ------
        ConfigError
            If `instruments` has filters, which need a data folder.
        """
        frame = self._frame
        keep = within(frame.index.get_level_values("datetime"), start_time, end_time, ("start_time", "end_time"))
        keep &= _is_member(cast(pd.MultiIndex, frame.index), instruments)
        return frame if keep.all() else frame[keep]


def _is_member(index: pd.MultiIndex, instruments: object) -> NDArray[np.bool_]:
    """Return which rows of a frame belong to a universe; codes are not case-sensitive."""
    if isinstance(instruments, Mapping) and "market" in instruments:
        if instruments.get("filter_pipe"):
            raise ConfigError("a frame cannot be filtered: its universe has a filter_pipe.", path="instruments")
        instruments = instruments["market"]
    if instruments is None or (isinstance(instruments, str) and instruments == "all"):
        return np.ones(len(index), bool)
    level = index.names.index("instrument")
    places = index.codes[level]
    codes = [str(code).upper() for code in index.levels[level]]
    if isinstance(instruments, Mapping):
        return _in_spans(index, places, codes, instruments)
    listed = isinstance(instruments, (list, tuple, set, pd.Index, pd.Series, np.ndarray))
    given: Any = instruments if listed else [instruments]
    wanted = {str(code).upper() for code in given}
    inside: NDArray[np.bool_] = np.array([code in wanted for code in codes], bool)[places]
    if listed or inside.any():
        return inside
    log.warning("a frame has no universe %r; all of its instruments are used", instruments)
    return np.ones(len(index), bool)


def _in_spans(
    index: pd.MultiIndex, places: NDArray[Any], codes: Sequence[str], instruments: Mapping[Any, object]
) -> NDArray[np.bool_]:
    """Return which rows are in the periods of a mapping; `places` are the positions of their codes in `codes`."""
    upper = upper_codes(instruments, path="instruments")
    spans = {upper[code]: read_spans(days, str(code)) for code, days in instruments.items()}
    days = index.get_level_values("datetime")
    rows_of = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places, minlength=len(codes)))[:-1])
    inside = np.zeros(len(index), bool)
    for code, rows in zip(codes, rows_of, strict=True):
        for first, last in spans.get(code, ()):
            inside[rows] |= within(days[rows], first, last, ("first", "last"))
    return inside


def _read_frame(source: Any) -> pd.DataFrame:
    """Return a frame, read from a file if a path is given."""
    if not isinstance(source, (str, os.PathLike)):
        return source  # type: ignore[no-any-return]  # anything else is rejected later, with the loader's name
    path = read_path(str(source).strip())
    if not os.path.exists(path):
        raise DataNotFound(f"The file {str(path)!r}, from which data should be loaded, does not exist.")
    check_file(path, error=DataError)
    kind = path.suffix.lower()
    if kind == ".csv":
        with reading(path, "CSV"):
            header = pd.read_csv(path, nrows=0).columns
            LIMITS["table_columns"].check(len(header), f"{path} has", error=DataError)
            # Read codes as strings: 000001 is not a number.
            return pd.read_csv(path, index_col=[0, 1], dtype=dict.fromkeys(header[:2], str))
    if kind in (".pkl", ".pickle"):
        return safe_pickle.load(path)  # type: ignore[no-any-return]
    if kind in (".h5", ".hdf", ".hdf5"):
        raise DataError(f"{path}: HDF5 is not supported. Save the frame as Parquet: frame.to_parquet(...).")
    with reading(path, "Parquet"):
        check_parquet(path, error=DataError)
        return pd.read_parquet(path)


def by_day_and_instrument(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a loaded frame sorted by its index, with the two levels datetime and instrument.

    Levels with these names are kept in their order; otherwise the levels are inferred by
    :func:`~rollforge.market.frames.day_rows`.

    Parameters
    ----------
    frame : DataFrame
        Result of a loader.
    source : str
        Name of the loader, for error messages.

    Raises
    ------
    DataError
        If it is not a table, its index has no such levels, or it contains a row twice.
    """
    named = isinstance(frame, pd.DataFrame) and set(frame.index.names) == {"datetime", "instrument"}
    days = frame.index.get_level_values("datetime") if named else None
    if not isinstance(days, pd.DatetimeIndex) or days.tz is not None:
        frame = day_rows(frame, f"The data loaded by {source}")
    ordered = frame if frame.index.is_monotonic_increasing else frame.sort_index()
    index = ordered.index
    if isinstance(index, pd.MultiIndex) and len(index):
        twice = np.logical_and.reduce([codes[1:] == codes[:-1] for codes in index.codes])
        if twice.any():
            row = index[int(np.argmax(twice)) :][:1]
            (day,), (code,) = times_of(row.get_level_values("datetime")), row.get_level_values("instrument")
            raise DataError(
                f"The data loaded by {source} contain the row of {code} on {show_time(day)} more than once. Remove duplicates: "
                "frame[~frame.index.duplicated()]."
            )
    return ordered


class NestedDataLoader(DataLoader):
    """Joins the columns of several loaders side by side.

    Parameters
    ----------
    dataloader_l : sequence of DataLoader or descriptions
        The loaders. If several have the same column, that of the last one is taken.
    join : {"left", "right", "inner", "outer"}
        How rows are joined; ``left`` keeps those of the first loader.
    """

    def __init__(
        self, dataloader_l: Sequence[object], join: Literal["left", "right", "inner", "outer"] = "left"
    ) -> None:
        self.data_loader_l: list[DataLoader] = [
            build(
                one,
                kind=LOADER,
                accept_types=DataLoader,
                default_module="rollforge.features.loader",
                where=f"dataloader_l.{i}",
            )
            for i, one in enumerate(as_list(dataloader_l, "loaders", path="dataloader_l"))
        ]
        if not self.data_loader_l:
            raise ConfigError("NestedDataLoader needs at least one loader.", path="dataloader_l")
        self.join = join

    @property
    def freq(self) -> str | None:  # type: ignore[override]
        """Frequency of the data: that of the first loader that has one."""
        return next((one.freq for one in self.data_loader_l if one.freq is not None), None)

    @property
    def is_group(self) -> bool:
        """Whether the columns have groups."""
        return bool(getattr(self.data_loader_l[0], "is_group", True))

    @property
    def any_range(self) -> bool:  # type: ignore[override]
        """Whether rows do not depend on later days, for all loaders."""
        return all(one.any_range for one in self.data_loader_l)

    @property
    def reads_folder(self) -> bool:  # type: ignore[override]
        """Whether one of the loaders computes expressions over the session's data folder."""
        return any(one.reads_folder for one in self.data_loader_l)

    def frequencies(self) -> list[str]:
        """Return the frequencies that the loaders read."""
        return list(dict.fromkeys(freq for one in self.data_loader_l for freq in one.frequencies()))

    def universes(self, instruments: object) -> list[object]:
        """Return the universes of all loaders."""
        return [universe for one in self.data_loader_l for universe in one.universes(instruments)]

    def check(self, instruments: object, provider: Provider) -> None:
        """Check that the data folder has what the loaders read."""
        for one in self.data_loader_l:
            one.check(instruments, provider)

    def definition(self) -> dict[str, object] | None:
        """Return what the result depends on, as plain data; None if unknown for one of the loaders."""
        definitions = [one.definition() for one in self.data_loader_l]
        return None if None in definitions else {"nested": definitions, "join": self.join}

    def expressions(self, group: str) -> list[str] | None:
        """Return the expressions of a group over all loaders; None if those of one loader are unknown."""
        found: dict[str, str] = {}
        for one in self.data_loader_l:
            if not isinstance(one, DLWParser):
                return None
            found.update((name, text) for text, name in zip(*one.groups.get(group, ((), ())), strict=True))
        return list(found.values())

    def column_groups(self) -> list[str] | None:
        """Return the groups of all loaders; None if those of one are not known."""
        known = [one.column_groups() for one in self.data_loader_l]
        return None if None in known else sorted({g for some in known for g in some or ()})

    def describe(self, group: str | None, column: str | None) -> str:
        """Return the expressions of a group or column as text for error messages."""
        return next((text for one in self.data_loader_l if (text := one.describe(group, column))), "")

    def load(
        self, instruments: object = None, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the columns of all loaders, sorted by name.

        If a loader raises KeyError for the universe, all of its instruments are loaded. Filters of the universe apply to the
        loaders that read the data folder, if the rows are theirs.
        """
        whole: pd.DataFrame | None = None
        deciding = {"left": self.data_loader_l[:1], "right": self.data_loader_l[-1:], "inner": self.data_loader_l}
        filtered = any(one.reads_folder for one in deciding.get(self.join, []))
        for one in self.data_loader_l:
            universe = _without_filters(instruments) if filtered and not one.reads_folder else instruments
            part = by_day_and_instrument(self._part(one, universe, start_time, end_time), type(one).__name__)
            if whole is None:
                whole = part
                continue
            if part.index.names != whole.index.names:
                part = part.reorder_levels([str(n) for n in whole.index.names]).sort_index()
            whole = whole.drop(columns=[c for c in part.columns if c in whole.columns])
            whole = whole.merge(part, left_index=True, right_index=True, how=self.join)
        assert whole is not None
        return whole.sort_index(axis=1)

    @staticmethod
    def _part(
        one: DataLoader, instruments: object, start_time: DayLike | None, end_time: DayLike | None
    ) -> pd.DataFrame:
        if isinstance(one, DataLoaderDH):
            return one.load(None, start_time, end_time)
        try:
            return one.load(instruments, start_time, end_time)
        except KeyError:
            log.warning("%s has no universe %r; all of its instruments are used", type(one).__name__, instruments)
            return one.load(None, start_time, end_time)


def _without_filters(instruments: object) -> object:
    return instruments["market"] if isinstance(instruments, Mapping) and "market" in instruments else instruments


class DataLoaderDH(DataLoader):
    """Loads the data of other handlers, which are computed once and processed again for every window.

    Parameters
    ----------
    handler_config : DataHandler or description, or mapping of them
        The handler, or with `is_group` several as {group: handler}.
    fetch_kwargs : mapping, optional
        Arguments for their ``fetch``; by default all columns are fetched.
    is_group : bool
        Whether `handler_config` maps groups to handlers.

    Raises
    ------
    BuildError
        If a description does not build a handler.
    """

    def __init__(
        self, handler_config: Any, fetch_kwargs: Mapping[str, object] | None = None, is_group: bool = False
    ) -> None:
        if is_group and (not isinstance(handler_config, Mapping) or "class" in handler_config):
            raise ConfigError(
                f"expected a mapping of groups to handlers, because is_group is set; found {shown(handler_config)}.",
                path="handler_config",
            )
        self.is_group = is_group
        self.handlers: Any = (
            {str(group): self._handler(config, str(group)) for group, config in handler_config.items()}
            if is_group
            else self._handler(handler_config, "")
        )
        self.fetch_kwargs = {"col_set": "__raw"}
        for handler in self.handlers.values() if is_group else [self.handlers]:
            self.fetch_kwargs |= fetch_arguments(handler, fetch_kwargs)

    @staticmethod
    def _handler(config: object, group: str) -> Any:
        if hasattr(config, "fetch"):
            return config
        where = f"handler_config{group and '.'}{group}"
        made = build(config, kind=HANDLER, default_module="rollforge.features.alpha", where=where)
        if not hasattr(made, "fetch"):
            raise BuildError(f"a {type(made).__name__} is not a handler: it has no fetch().", path=where)
        return made

    def frequencies(self) -> list[str]:
        """Return the frequencies that the handlers read."""
        handlers = self.handlers.values() if self.is_group else [self.handlers]
        return list(dict.fromkeys(freq for one in handlers for freq in getattr(one, "frequencies", list)()))

    def load(
        self, instruments: object, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return the handlers' data of the given days. They have their own universes, so `instruments` must be None.

        Raises
        ------
        ConfigError
            If `instruments` is not None.
        """
        if instruments is not None:
            raise ConfigError(
                f"DataLoaderDH uses the universe of its handlers, so instruments must be None, found {instruments!r}.",
                path="handler.kwargs.instruments",
            )
        days = slice(start_time, end_time)
        if not self.is_group:
            frame: pd.DataFrame = self.handlers.fetch(days, **self.fetch_kwargs)
            return frame
        parts = {group: handler.fetch(days, **self.fetch_kwargs) for group, handler in self.handlers.items()}
        joined: pd.DataFrame = pd.concat(parts, axis=1)
        return joined
