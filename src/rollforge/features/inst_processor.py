"""Processors of one instrument's series: they see it alone, before instruments are put together."""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rollforge.build import build
from rollforge.errors import DataError
from rollforge.kinds import INST_PROCESSOR

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InstProcessor", "process_instruments"]


class InstProcessor(abc.ABC):
    """Changes the series of one instrument; a class of your own overrides :meth:`__call__`."""

    @abc.abstractmethod
    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the processed series.

        Parameters
        ----------
        df : DataFrame
            Index datetime, a column for each expression (written without spaces). It may be changed in place.
        instrument : str
            Whose series they are.
        """

    def __str__(self) -> str:
        return f"{type(self).__name__}:{json.dumps(vars(self), sort_keys=True, default=str)}"


def process_instruments(frame: pd.DataFrame, processors: Sequence[Any]) -> pd.DataFrame:
    """Return a frame after its instruments went through some processors, one instrument after the other.

    Parameters
    ----------
    frame : DataFrame
        Index (instrument, datetime), a column for each expression.
    processors : sequence of InstProcessor or descriptions
        Applied in this order; those that are None or empty are left out.

    Raises
    ------
    DataError
        When they leave no rows, or lose a column.
    """
    import pandas as pd

    made = [
        build(one, kind=INST_PROCESSOR, accept_types=InstProcessor, default_module="rollforge.features.processor")
        for one in processors
        if one
    ]
    if not made:
        return frame
    fields = list(frame.columns)
    plain = [str(field).replace(" ", "") for field in fields]  # what processors written for Qlib expect
    kept = {}
    for instrument, rows in frame.set_axis(plain, axis=1).groupby(level="instrument"):
        series = rows.loc[:, ~rows.columns.duplicated()].droplevel("instrument")
        for processor in made:
            series = processor(series, instrument=instrument)
        if len(series):
            kept[instrument] = series
    names = ", ".join(type(p).__name__ for p in made)
    if not kept:
        raise DataError(f"inst_processors leave no rows of any instrument: {names}.")
    joined = pd.concat(kept, names=["instrument", "datetime"])
    lost = [name for name in plain if name not in joined.columns]
    if lost:
        raise DataError(f"inst_processors lose the column {lost[0]!r}: {names}.")
    return joined.loc[:, plain].set_axis(fields, axis=1)
