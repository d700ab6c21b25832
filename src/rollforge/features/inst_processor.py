"""Processors of single instruments, applied before the instruments are combined."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rollforge.build import build
from rollforge.errors import DataError
from rollforge.kinds import INST_PROCESSOR

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InstProcessor", "build_inst_processors", "process_instruments"]


class InstProcessor(abc.ABC):
    """Base class of processors of one instrument's series; subclasses override :meth:`__call__`."""

    @abc.abstractmethod
    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the processed series.

        Parameters
        ----------
        df : DataFrame
            Index datetime, one column per expression (written without spaces). It may be modified in place.
        instrument : str
            Code of the instrument.
        """

    def __str__(self) -> str:
        return f"{type(self).__name__}:{json.dumps(vars(self), sort_keys=True, default=str)}"


def build_inst_processors(described: Iterable[object], *, where: str) -> list[Callable[..., pd.DataFrame]]:
    """Return processors, built from descriptions where they are not objects yet; None and empty entries are skipped.

    Parameters
    ----------
    described : iterable of InstProcessor or descriptions
        The processors.
    where : str
        Location of the list in its document, for errors.

    Raises
    ------
    BuildError
        If a description is invalid, with its location.
    """
    return [
        build(
            one,
            kind=INST_PROCESSOR,
            accept_types=InstProcessor,
            default_module="rollforge.features.processor",
            where=f"{where}.{i}",
        )
        for i, one in enumerate(described)
        if one
    ]


def process_instruments(
    frame: pd.DataFrame, processors: Sequence[object], *, where: str = "inst_processors"
) -> pd.DataFrame:
    """Return a frame after applying processors to each of its instruments.

    Parameters
    ----------
    frame : DataFrame
        Index (instrument, datetime), one column per expression.
    processors : sequence of InstProcessor or descriptions
        Applied in this order; None and empty entries are skipped.
    where : str
        Location of the processors in their document, for errors.

    Raises
    ------
    DataError
        If the processors leave no rows or drop a column.
    """
    import pandas as pd

    built = build_inst_processors(processors, where=where)
    if not built:
        return frame
    fields = list(frame.columns)
    plain = [str(field).replace(" ", "") for field in fields]  # processors written for Qlib expect this form
    kept = {}
    for instrument, rows in frame.set_axis(plain, axis=1).groupby(level="instrument"):
        series = rows.loc[:, ~rows.columns.duplicated()].droplevel("instrument")
        for processor in built:
            series = processor(series, instrument=instrument)
        if len(series):
            kept[instrument] = series
    names = ", ".join(type(p).__name__ for p in built)
    if not kept:
        raise DataError(f"inst_processors leave no rows for any instrument: {names}.")
    joined = pd.concat(kept, names=["instrument", "datetime"])
    lost = [name for name in plain if name not in joined.columns]
    if lost:
        raise DataError(f"inst_processors removed the column {lost[0]!r}: {names}.")
    return joined.loc[:, plain].set_axis(fields, axis=1)
