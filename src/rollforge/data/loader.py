"""Loaders: where a handler's raw data come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import build
from rollforge.data.engine import FeaturePlan, resolve_instruments, session_provider
from rollforge.data.expression import parse
from rollforge.data.operators import custom_operators, fields_of
from rollforge.data.panel import Group, Panel, RowFile, group_file
from rollforge.data.provider import Provider
from rollforge.dates import read_timestamp
from rollforge.errors import BuildError, ConfigError, DataNotFound, nearest
from rollforge.session import Session, current_session

__all__ = ["DataLoader", "DataLoaderDH", "QlibDataLoader", "StaticDataLoader"]


class DataLoader:
    """Where a handler's raw data come from; a class of your own overrides :meth:`load`."""

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return a frame with rows (datetime, instrument) and columns (group, name)."""
        raise NotImplementedError(f"{type(self).__name__} must say what it loads.")


def _fields_and_names(config: Any, where: str) -> tuple[list[str], list[str]]:
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


class QlibDataLoader(DataLoader):
    """Expressions over the session's data folder.

    Parameters
    ----------
    config : mapping or sequence
        ``{"feature": (expressions, names), "label": …}``, or the columns of one group alone.
    filter_pipe : sequence, optional
        Filters of the universe.
    freq : str
        Name of the calendar.
    """

    def __init__(self, config: Any, filter_pipe: Sequence[Any] | None = None, freq: str = "day", **kwargs: Any) -> None:
        ignored = {"swap_level", "inst_processors"}
        unknown = [k for k, v in kwargs.items() if k not in ignored or (k == "inst_processors" and v)]
        if unknown:
            raise ConfigError(f"QlibDataLoader takes no {unknown[0]!r}.{nearest(unknown[0], ['filter_pipe', 'freq'])}")
        groups = config if isinstance(config, Mapping) else {"feature": config}
        self.groups = {str(k): _fields_and_names(v, f"data_loader.config.{k}") for k, v in groups.items() if v}
        self.filter_pipe = list(filter_pipe or [])
        self.freq = freq

    def universe(self, instruments: Any) -> Any:
        """Return `instruments` with the loader's filters."""
        if not self.filter_pipe:
            return instruments
        if isinstance(instruments, Mapping) and "market" in instruments:
            return {**instruments, "filter_pipe": [*(instruments.get("filter_pipe") or []), *self.filter_pipe]}
        return {"market": instruments, "filter_pipe": self.filter_pipe}

    def check(self, instruments: Any, provider: Provider) -> None:
        """Do nothing, unless an expression cannot be read, or a field or universe is not in the data folder."""
        resolve_instruments(provider, self.universe(instruments))
        known = set(provider.fields())
        for expressions, _ in self.groups.values():
            for text in expressions:
                for name in sorted(fields_of(parse(text)) - known):
                    raise DataNotFound(
                        f"There is no field ${name} in {provider.path}, which {text!r} reads.{nearest(name, known)}"
                    )

    def definition(self) -> Any:
        """Return what the result depends on, as plain data."""
        return {"groups": list(self.groups.items()), "freq": self.freq, "operators": custom_operators()}

    def panel(self, instruments: Any, start: Any, end: Any, folder: Path, session: Session) -> Panel:
        """Return the panel, its values written into files in `folder` as they are computed."""
        expressions = [e for fields, _ in self.groups.values() for e in fields]
        plan = FeaturePlan(session_provider(session), self.universe(instruments), expressions, start, end, self.freq)
        files = [RowFile(group_file(folder, i), len(plan), len(g[1])) for i, g in enumerate(self.groups.values())]
        plan.fill(*files, threads=session.threads, memory=session.memory)
        groups = {
            name: Group(tuple(names), file.finished())
            for (name, (_, names)), file in zip(self.groups.items(), files, strict=True)
        }
        return Panel(plan.dates, plan.offsets, tuple(plan.codes), plan.row_code, groups)

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return the frame of the expressions."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            panel = self.panel(instruments, start_time, end_time, Path(folder), current_session())
            return panel.frame(None).copy()


class StaticDataLoader(DataLoader):
    """A frame that is there already: an object, or a Parquet file."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return the frame, narrowed to some instruments and days."""
        frame = self.config if isinstance(self.config, pd.DataFrame) else pd.read_parquet(self.config)
        frame = frame.sort_index()
        days = frame.index.get_level_values("datetime")
        keep = np.ones(len(frame), bool)
        if start_time is not None:
            keep &= days >= read_timestamp(start_time, "start_time")
        if end_time is not None:
            keep &= days <= read_timestamp(end_time, "end_time")
        if isinstance(instruments, (list, tuple)):
            keep &= frame.index.get_level_values("instrument").isin(list(instruments))
        return frame[keep]


class DataLoaderDH(DataLoader):
    """What other handlers have, as the raw data of this one: computed once, processed anew for every window.

    Parameters
    ----------
    handler_config : DataHandler or description, or mapping of them
        The handler; with `is_group` several, {group: handler}.
    fetch_kwargs : mapping, optional
        Arguments of their ``fetch``; by default all their columns.
    is_group : bool
        Whether `handler_config` maps groups to handlers.

    Raises
    ------
    BuildError
        When something that is described is no handler.
    """

    def __init__(
        self, handler_config: Any, fetch_kwargs: Mapping[str, Any] | None = None, is_group: bool = False
    ) -> None:
        self.is_group = is_group
        self.handlers: Any = (
            {str(group): self._handler(config, str(group)) for group, config in handler_config.items()}
            if is_group
            else self._handler(handler_config, "")
        )
        self.fetch_kwargs = {"col_set": "__raw", **(fetch_kwargs or {})}

    @staticmethod
    def _handler(config: Any, group: str) -> Any:
        if hasattr(config, "fetch"):
            return config
        where = f"data_loader.kwargs.handler_config{group and '.'}{group}"
        made = build(config, default_module="rollforge.data.alpha", where=where)
        if not hasattr(made, "fetch"):
            raise BuildError(f"a {type(made).__name__} is no handler: it has no fetch().", path=where)
        return made

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return what the handlers have in these days; they have universes of their own, so `instruments` is None.

        Raises
        ------
        ConfigError
            When `instruments` asks for a universe nevertheless.
        """
        if instruments is not None:
            raise ConfigError(
                f"DataLoaderDH takes the universe of its handlers, so instruments must be None, found {instruments!r}.",
                path="handler.kwargs.instruments",
            )
        days = slice(start_time, end_time)
        if not self.is_group:
            frame: pd.DataFrame = self.handlers.fetch(days, **self.fetch_kwargs)
            return frame
        parts = {group: handler.fetch(days, **self.fetch_kwargs) for group, handler in self.handlers.items()}
        joined: pd.DataFrame = pd.concat(parts, axis=1)
        return joined
