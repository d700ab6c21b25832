"""Qlib's ``D``: calendar, universes and features of the current session's data folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import DayLike, Times, read_bound
from rollforge.features.engine import calendar_range, evaluate, features, load_series
from rollforge.market.universe import ALWAYS, membership, resolve_instruments, session_provider, spans_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["D"]


class _Data:
    """Qlib's ``D``: calendar, universes and features of the current session's data folder."""

    @staticmethod
    def calendar(
        start_time: DayLike | None = None, end_time: DayLike | None = None, freq: str = "day", future: bool = False
    ) -> NDArray[np.object_]:
        """Return the trading days between two days, both included, as Timestamps; possibly empty.

        Parameters
        ----------
        start_time, end_time : date, optional
            By default the first and the last day of the calendar.
        freq : str
            Name of the calendar.
        future : bool
            Whether to include future trading days, if the data folder has them.
        """
        calendar = session_provider(freq=freq).calendar(freq, future=future)
        return _timestamps(calendar[slice(*calendar_range(calendar, start_time, end_time))])

    @staticmethod
    @overload
    def instruments(
        market: str = "all",
        filter_pipe: Sequence[object] | None = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> dict[str, Any]: ...

    @staticmethod
    @overload
    def instruments(
        market: list[str],
        filter_pipe: Sequence[object] | None = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> list[str]: ...

    @staticmethod
    def instruments(
        market: str | list[str] = "all",
        filter_pipe: Sequence[object] | None = None,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
    ) -> dict[str, Any] | list[str]:
        """Return the description of a universe, plain data if its filters are; a list of codes is returned unchanged.

        Parameters
        ----------
        market : str or list of str
            Name of the universe, or codes.
        filter_pipe : sequence, optional
            Filters, or descriptions of them.
        start_time, end_time : date, optional
            Ignored, as in Qlib: days are arguments of :meth:`features` and :meth:`list_instruments`.
        """
        if isinstance(market, list):
            return market
        plain = [one.to_config() if hasattr(one, "to_config") else one for one in filter_pipe or ()]
        return {"market": market, "filter_pipe": plain}

    @staticmethod
    @overload
    def list_instruments(
        instruments: object,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        as_list: Literal[False] = False,
    ) -> dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]]: ...

    @staticmethod
    @overload
    def list_instruments(
        instruments: object,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        *,
        as_list: Literal[True],
    ) -> list[str]: ...

    @staticmethod
    @overload
    def list_instruments(
        instruments: object,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        *,
        as_list: bool,
    ) -> dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]] | list[str]: ...

    @staticmethod
    def list_instruments(
        instruments: object,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        as_list: bool = False,
    ) -> object:
        """Return the members of a universe between two days.

        Parameters
        ----------
        instruments : str, sequence or mapping
            See :func:`resolve_instruments`.
        start_time, end_time : date, optional
            By default the first and the last day of the calendar.
        freq : str
            Name of the calendar.
        as_list : bool
            True returns a list of codes.

        Returns
        -------
        dict or list
            Code -> [(first, last), …] as Timestamps: the membership periods, clipped to the given days. With filters,
            each period runs from the first to the last trading day that passes them.
        """
        provider = session_provider(freq=freq)
        calendar = provider.calendar(freq)
        members, filters = resolve_instruments(provider, instruments)
        first, stop = calendar_range(calendar, start_time, end_time)
        days = calendar[first:stop]
        if filters and len(days):
            codes = list(members)
            inside = membership(members, days)
            for one in filters:
                inside &= one.apply(codes, days, lambda e: evaluate(provider, codes, e, days[0], days[-1], freq))
            spans = {code: spans_of(days, row) for code, row in zip(codes, inside, strict=True)}
        else:
            begin = (calendar[0] if start_time is None else read_bound(start_time, "start_time")).astype("M8[D]")
            last = (calendar[-1] if end_time is None else read_bound(end_time, "end_time")).astype("M8[D]")
            spans = {
                code: [(max(a, begin), min(b, last)) for a, b in (ALWAYS if held is None else held)]
                for code, held in members.items()
            }
        kept = {code: [tuple(_timestamps(np.array(s))) for s in held if s[0] <= s[1]] for code, held in spans.items()}
        found = {code: held for code, held in kept.items() if held}
        return list(found) if as_list else found

    @staticmethod
    def features(
        instruments: object,
        fields: Sequence[str],
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        disk_cache: int | None = None,
        inst_processors: Sequence[object] = (),
    ) -> pd.DataFrame:
        """Return expressions over a universe as a frame; see :func:`features`.

        Parameters
        ----------
        instruments, fields, start_time, end_time, freq
            See :func:`features`.
        disk_cache : int, optional
            Ignored.
        inst_processors : sequence
            Processors of single instruments, or descriptions of them, applied in this order.
        """
        from rollforge.features.inst_processor import process_instruments

        return process_instruments(features(instruments, fields, start_time, end_time, freq), inst_processors or ())

    @classmethod
    def dataset(
        cls,
        instruments: object,
        fields: Sequence[str],
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
        inst_processors: Sequence[object] = (),
        *,
        disk_cache: int | None = None,
    ) -> pd.DataFrame:
        """Return the same as :meth:`features`, with the arguments of Qlib's dataset provider."""
        return cls.features(instruments, fields, start_time, end_time, freq, disk_cache, inst_processors)

    @staticmethod
    def expression(
        instrument: str,
        field: str,
        start_time: DayLike | None = None,
        end_time: DayLike | None = None,
        freq: str = "day",
    ) -> pd.Series:
        """Return one expression of one instrument.

        Returns
        -------
        Series
            float32, named after the expression and indexed by position in the calendar, as in Qlib: its days are
            ``D.calendar()[series.index]``. Empty if the instrument has no data on these days.
        """
        import pandas as pd

        provider = session_provider(freq=freq)
        start, stop = calendar_range(provider.calendar(freq), start_time, end_time)
        first, values = load_series(provider, str(instrument).upper(), field, start, stop, freq)
        return pd.Series(values.astype(np.float32), pd.RangeIndex(first, first + len(values)), name=str(field))


def _timestamps(days: Times) -> NDArray[np.object_]:
    import pandas as pd

    return np.array([pd.Timestamp(day) for day in days.astype("datetime64[ns]")] or [], dtype=object)


D = _Data()
