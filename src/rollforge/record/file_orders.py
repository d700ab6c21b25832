"""Strategy that trades orders from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import pandas as pd

from rollforge.dates import day_index, read_column
from rollforge.errors import ConfigError, DataError
from rollforge.limits import open_unpacked
from rollforge.market.frames import reading
from rollforge.record.decision import BaseTradeDecision, Executed, Order, TradeDecisionWO
from rollforge.record.strategy import BaseStrategy

__all__ = ["FileOrderStrategy"]

_COLUMNS = ("datetime", "instrument", "amount", "direction")


class FileOrderStrategy(BaseStrategy):
    """Trades the orders of a table on their days.

    Parameters
    ----------
    file : path, file or DataFrame
        A CSV file, or a table, with the columns datetime, instrument, amount (adjusted shares) and direction (``buy``,
        ``sell``).
    trade_range : optional
        Part of the day in which orders are traded; not supported in daily backtests.
    **kwargs
        See :class:`~rollforge.record.strategy.BaseStrategy`.

    Raises
    ------
    ConfigError, DataError
        If a `trade_range` is given, the file, a column or an instrument is missing, or a day is invalid.
    """

    def __init__(self, file: str | Path | IO[str] | pd.DataFrame, trade_range: object = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if trade_range is not None:
            raise ConfigError("trade_range is not supported: backtests are daily.", path="strategy.kwargs.trade_range")
        table = file if isinstance(file, pd.DataFrame) else _read(file)
        table = table.reset_index() if set(table.index.names) & set(_COLUMNS) else table
        missing = [name for name in _COLUMNS if name not in table]
        if missing:
            raise DataError(f"The orders have no column {', '.join(missing)}; found {', '.join(map(str, table))}.")
        found = read_column(table["datetime"])
        for row, reason in found.reason.items():
            raise DataError(f"Row {row + 1} of the orders: {reason}")
        absent = table["instrument"].isna().to_numpy()
        if absent.any():
            raise DataError(f"Row {int(absent.argmax()) + 1} of the orders: there is no instrument.")
        self.order_df = table[[*_COLUMNS[1:]]]
        self._by_day = dict(iter(self.order_df.groupby(day_index(found.days, "the orders"))))

    def instruments(self) -> list[str]:
        """Return the codes of the orders."""
        return sorted(set(self.order_df["instrument"].astype(str).str.upper()))

    def generate_trade_decision(self, execute_result: Executed | None = None) -> BaseTradeDecision:
        """Return the orders of the day, in the order of the file."""
        start, _ = self.trade_calendar.get_step_time()
        rows = self._by_day.get(start)
        orders = [] if rows is None else [Order(*row) for row in rows.itertuples(index=False)]
        return TradeDecisionWO(orders, self)


def _read(file: str | Path | IO[str]) -> pd.DataFrame:
    dtype = {"datetime": str, "instrument": str}
    try:
        with reading(file, "a table of orders"):
            if not isinstance(file, (str, os.PathLike)):
                return pd.read_csv(file, dtype=dtype)
            with open_unpacked(file, error=DataError) as stream:
                return pd.read_csv(stream, dtype=dtype)
    except DataError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise DataError(f"There is no order file {str(file)!r}.") from None
        raise
