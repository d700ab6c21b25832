"""Qlib's providers behind ``D``: for the calendar, the universes, the fields, the expressions and the frames.

They read the current session's data folder. The classes have Qlib's names and can be used and subclassed, but
``qlib.init(calendar_provider=…)`` does not replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rollforge.compat.qlib.formulas import Feature, Formula
from rollforge.dates import DayLike, read_timestamp
from rollforge.errors import DataError
from rollforge.expressions.expression import parse
from rollforge.features.api import D
from rollforge.features.engine import features
from rollforge.features.inst_processor import process_instruments

__all__ = [
    "BaseProvider", "Cal", "CalendarProvider", "DatasetD", "DatasetProvider", "ExpressionD", "ExpressionProvider", "FeatureD",
    "FeatureProvider", "Inst", "InstrumentProvider", "LocalCalendarProvider", "LocalDatasetProvider",
    "LocalExpressionProvider", "LocalFeatureProvider", "LocalInstrumentProvider", "LocalProvider",
]  # fmt: skip

BaseProvider = LocalProvider = type(D)


class CalendarProvider:
    """The trading days."""

    def calendar(
        self,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        future: bool = False,
    ) -> np.ndarray:
        """Return the trading days between two days; see ``D.calendar``."""
        return D.calendar(start_time, end_time, freq, future)

    def load_calendar(self, freq: str, future: bool) -> list[pd.Timestamp]:
        """Return all trading days."""
        return list(D.calendar(freq=freq, future=future))

    def locate_index(
        self, start_time: DayLike | None, end_time: DayLike | None, freq: str = "day", future: bool = False
    ) -> tuple[pd.Timestamp, pd.Timestamp, int, int]:
        """Return the first and the last trading day between two days, and their positions in the calendar.

        Raises
        ------
        IndexError
            If the calendar ends before the first day; with `future` it can contain more days.
        """
        days = pd.DatetimeIndex(D.calendar(freq=freq, future=future))
        first = int(days.searchsorted(read_timestamp(start_time, "start_time")))
        last = int(days.searchsorted(read_timestamp(end_time, "end_time"), side="right")) - 1
        if first == len(days):
            raise IndexError(
                f"The calendar ends on {days[-1]:%Y-%m-%d}, before {start_time}; use future=True if the data "
                "folder has future days."
            )
        return days[first], days[last], first, last


class InstrumentProvider:
    """The universes."""

    LIST, DICT, CONF = "LIST", "DICT", "CONF"
    instruments = staticmethod(D.instruments)
    list_instruments = staticmethod(D.list_instruments)

    @classmethod
    def get_inst_type(cls, inst: object) -> str:
        """Return how a universe is described: by name and filters, by days, or by codes."""
        if isinstance(inst, Mapping):
            return cls.CONF if "market" in inst else cls.DICT
        if isinstance(inst, (list, tuple, pd.Index, np.ndarray)):
            return cls.LIST
        raise DataError(f"A universe must be a list or a mapping, found {type(inst).__name__}.")


class FeatureProvider:
    """Fields of single instruments."""

    def feature(self, instrument: str, field: str, start_index: int, end_index: int, freq: str = "day") -> pd.Series:
        """Return a field as a series indexed by positions in the calendar."""
        return Feature(str(field).removeprefix("$")).load(instrument, start_index, end_index, freq)


class ExpressionProvider:
    """Expressions of single instruments."""

    expression = staticmethod(D.expression)

    def get_expression_instance(self, field: str) -> Formula:
        """Return an expression of the language, as an object with Python's operators.

        Raises
        ------
        ExpressionError
            If it is not an expression.
        """
        parse(str(field))
        return Formula(str(field))


class DatasetProvider:
    """Frames of expressions."""

    dataset = staticmethod(D.dataset)

    @staticmethod
    def get_instruments_d(instruments: Any, freq: str = "day") -> Any:
        """Return the members of a universe with their days; a list of codes and a mapping of days are returned
        unchanged."""
        if isinstance(instruments, Mapping) and "market" in instruments:
            return D.list_instruments(instruments, freq=freq)
        return instruments if isinstance(instruments, Mapping) else list(instruments)

    @staticmethod
    def get_column_names(fields: Sequence[object]) -> list[str]:
        """Return the column names of expressions."""
        return [str(field) for field in fields]

    @staticmethod
    def parse_fields(fields: Sequence[Any]) -> list[Formula]:
        """Return expressions as objects."""
        return [ExpressionD.get_expression_instance(field) for field in fields]

    @staticmethod
    def inst_calculator(
        inst: str,
        start_time: DayLike | None,
        end_time: DayLike | None,
        freq: str,
        column_names: Sequence[str],
        spans: Sequence[tuple[object, object]] | None = None,
        g_config: object = None,
        inst_processors: Sequence[object] = (),
    ) -> pd.DataFrame:
        """Return expressions of one instrument, indexed by day; if spans are given, only on the days inside them."""
        instruments = [inst] if spans is None else {inst: spans}
        frame = process_instruments(
            features(instruments, column_names, start_time, end_time, freq), inst_processors or ()
        )
        return frame.droplevel("instrument")


LocalCalendarProvider = CalendarProvider
LocalInstrumentProvider = InstrumentProvider
LocalFeatureProvider = FeatureProvider
LocalExpressionProvider = ExpressionProvider
LocalDatasetProvider = DatasetProvider
Cal, Inst, FeatureD, ExpressionD, DatasetD = (
    CalendarProvider(), InstrumentProvider(), FeatureProvider(), ExpressionProvider(), DatasetProvider(),
)  # fmt: skip
