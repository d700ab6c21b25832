"""Expressions over a universe, filled into one matrix whose rows are sorted by (day, instrument).

Instruments are worked through in groups that fit the processor's cache. Within a group every sub-expression is computed
once, and forgotten when its last user is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.evaluator import Elsewhere, Evaluator, named_instrument
from rollforge.data.expression import parse, walk
from rollforge.data.filters import BaseDFilter, build_filters
from rollforge.data.formulas import Series
from rollforge.data.operators import fields_of, lookahead, lookback
from rollforge.data.provider import Days, FieldBlock, Provider, Span, open_provider
from rollforge.errors import ConfigError, DataError, DataNotFound, nearest
from rollforge.session import Session, current_session

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["D", "FeaturePlan", "features", "resolve_instruments", "session_provider"]

_ALWAYS = [(np.datetime64("0001-01-01"), np.datetime64("9999-12-31"))]
_GROUP = 32  # instruments computed together: 32 x 2,500 days of float64 are 640 kB


def session_provider(session: Session | None = None) -> Provider:
    """Return the provider of a session's data folder.

    Raises
    ------
    DataNotFound
        When no folder is named, or it is not there.
    """
    session = session or current_session()
    if session.provider_uri is None:
        raise DataNotFound("No data folder is named. Call rollforge.init(FOLDER), or set ROLLFORGE_DATA.")
    return open_provider(session.provider_uri)


def resolve_instruments(provider: Provider, instruments: Any) -> tuple[dict[str, list[Span] | None], list[Any]]:
    """Return the members of what `instruments` names, with their days (None: all), and the filters to apply.

    Parameters
    ----------
    provider : Provider
        Where universes are looked up.
    instruments : str, sequence of str, or mapping
        Name of a universe, codes, ``{"market": name, "filter_pipe": […]}``, or ``{code: [(first, last), …]}``.

    Raises
    ------
    DataNotFound, DataError
        When the universe is unknown or empty, or a code has no data.
    """
    if isinstance(instruments, str):
        return dict(provider.instruments(instruments)), []
    if isinstance(instruments, Mapping) and "market" in instruments:
        pipe = build_filters(instruments.get("filter_pipe") or [])
        return dict(provider.instruments(instruments["market"])), pipe
    if isinstance(instruments, Mapping):
        spans: dict[str, list[Span] | None] = {
            str(code).upper(): [(np.datetime64(str(a)[:10], "D"), np.datetime64(str(b)[:10], "D")) for a, b in days]
            for code, days in instruments.items()
        }
        return dict(sorted(spans.items())), []
    if not isinstance(instruments, (list, tuple, set, frozenset, np.ndarray)):
        raise ConfigError(f"instruments must be a universe or a list of codes, found {type(instruments).__name__}.")
    codes = sorted({str(code).upper() for code in instruments})
    if not codes:
        raise DataError("The list of instruments is empty.")
    unknown = [c for c in codes if not provider.has(c)]
    if unknown:
        known = [p.name.upper() for p in (provider.path / "features").glob("*")]
        raise DataNotFound(
            f"There are no data of {', '.join(map(repr, unknown[:5]))} in {provider.path}.{nearest(unknown[0], known)}"
        )
    return dict.fromkeys(codes), []


class _NoRows(DataError):
    """A universe without a single row in the range."""


class FeaturePlan:
    """What to compute for whom on which days, and the rows that come out.

    Parameters
    ----------
    provider : Provider
        The data.
    instruments : str, sequence or mapping
        See :func:`resolve_instruments`.
    expressions : sequence of str
        The columns.
    start, end : date, optional
        First and last day of the rows; by default all there are.
    freq : str
        Name of the calendar.

    Attributes
    ----------
    dates : array of datetime64[D], (T,)
    codes : list of str, (N,)
    row_date, row_code : int32 arrays, (R,)
        Places in `dates` and `codes`; rows are sorted by (date, code). A row exists on the days between an instrument's
        first and last value on which it belongs to the universe, also when all its values are missing.

    Raises
    ------
    ExpressionError, DataNotFound, DataError
        For an expression, a universe or a range that cannot be; before anything is computed.
    """

    def __init__(
        self,
        provider: Provider,
        instruments: Any,
        expressions: Sequence[str],
        start: Any = None,
        end: Any = None,
        freq: str = "day",
    ) -> None:
        self.provider = provider
        self.expressions = list(expressions)
        self.trees = [parse(text) for text in self.expressions]
        self.freq = freq
        calendar = provider.calendar(freq)
        self._first, self._stop = _range(calendar, start, end)
        self.dates: Days = calendar[self._first : self._stop]
        members, filters = resolve_instruments(provider, instruments)
        self.codes = list(members)
        back = max((lookback(t) for t in self.trees), default=0)
        ahead = max((lookahead(t) for t in self.trees), default=0)
        self._from = 0 if math.isinf(back) else max(0, self._first - int(back))
        self._to = min(len(calendar), self._stop + ahead)
        self._fields = {name: self._read(name, self.codes) for name in self._field_names()}
        self._elsewhere = self._read_elsewhere()
        self._rows = self._find_rows(members, filters)
        self.row_date, self.row_code = self._index()

    def _field_names(self) -> list[str]:
        return sorted(frozenset[str]().union(*(fields_of(t) for t in self.trees)))

    def _read(self, name: str, codes: Sequence[str]) -> FieldBlock:
        try:
            return self.provider.read(name, codes, self._from, self._to, self.freq)
        except DataNotFound as exc:
            text = next(e for e, t in zip(self.expressions, self.trees, strict=True) if name in fields_of(t))
            raise DataNotFound(f"{exc} It is read by the expression {text!r}.") from None

    def _read_elsewhere(self) -> dict[str, Elsewhere]:
        """The fields of the instruments that expressions name, read once for all groups."""
        wanted: dict[str, set[str]] = {}
        for tree in dict.fromkeys(part for whole in self.trees for part in walk(whole)):
            named = named_instrument(tree)
            if named is not None:
                wanted.setdefault(named[0], set()).update(fields_of(named[1]))
        found = {}
        for code, names in wanted.items():
            if not self.provider.has(code):
                text = next(e for e in self.expressions if code in e.upper())
                raise DataNotFound(
                    f"There are no data of {code!r} in {self.provider.path}, which the expression {text!r} names."
                )
            blocks = {name: self._read(name, [code]) for name in names}
            begin, end = _union_of(blocks.values(), 1, self._to - self._from)
            found[code] = Elsewhere({n: b.values for n, b in blocks.items()}, int(begin[0]), int(end[0]))
        return found

    def _find_rows(self, members: Mapping[str, list[Span] | None], filters: Sequence[BaseDFilter]) -> NDArray[np.int32]:
        """(instruments, days): which row holds it, or -1."""
        self.begin, self.end = _union_of(self._fields.values(), len(self.codes), self._to - self._from)
        offset = self._first - self._from
        place = np.arange(len(self.dates)) + offset
        exists = (place >= self.begin[:, None]) & (place < self.end[:, None])
        exists &= membership(members, self.dates)
        for one in filters:
            exists &= one.apply(self.codes, self.dates, self._evaluate)
        if not exists.any():
            raise _NoRows(
                f"The universe has no data between {self.dates[0]} and {self.dates[-1]}: "
                f"{len(self.codes)} instruments, none of them there on those days."
            )
        rows = np.full(exists.shape, -1, np.int32)
        by_day = exists.T
        rows.T[by_day] = np.arange(int(by_day.sum()))
        return rows

    def _index(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        day, code = np.nonzero(self._rows.T >= 0)
        return day.astype(np.int32), code.astype(np.int32)

    def __len__(self) -> int:
        return len(self.row_date)

    def _evaluate(self, expression: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One expression for all members and days, and where it exists: what filters ask for."""
        return evaluate(self.provider, self.codes, expression, self.dates[0], self.dates[-1], self.freq)

    def fill(self, *outs: NDArray[np.float32], threads: int = 1) -> None:
        """Write the values into `outs`.

        Parameters
        ----------
        *outs : float32 arrays, (R, columns), C order
            Rows as `row_date` and `row_code` have them; may be memory maps. Together they have as many columns as there
            are expressions, the first takes the first.
        threads : int
            How many groups of instruments are computed side by side.
        """
        if sum(o.shape[1] for o in outs) != len(self.trees) or any(len(o) != len(self) for o in outs):
            raise ValueError(f"outs need {len(self)} rows and {len(self.trees)} columns together.")
        groups = [slice(i, min(i + _GROUP, len(self.codes))) for i in range(0, len(self.codes), _GROUP)]
        if threads == 1 or len(groups) == 1:
            for group in groups:
                self._fill_group(group, outs)
            return
        self._fill_group(groups[0], outs)  # compiles what is not compiled yet, once
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(self._fill_group, group, outs) for group in groups[1:]]:
                done.result()

    def _fill_group(self, group: slice, outs: Sequence[NDArray[np.float32]]) -> None:
        from rollforge.data import kernels

        blocks = {n: b.values[group] for n, b in self._fields.items()}
        rows = self._rows[group]
        series = Series(self.begin[group], self.end[group])
        evaluator = Evaluator(blocks, series, (len(rows), self._to - self._from), self._elsewhere)
        evaluator.count(self.trees)
        offset = self._first - self._from
        columns = np.empty((len(self.trees), *rows.shape), np.float32)
        for c, tree in enumerate(self.trees):
            with np.errstate(over="ignore", invalid="ignore"):
                columns[c] = evaluator.value(tree)[:, offset : offset + len(self.dates)]
            evaluator.release(tree)
        first = 0
        for out in outs:
            kernels.scatter_rows(columns[first : first + out.shape[1]], rows, out)
            first += out.shape[1]


def membership(members: Mapping[str, Sequence[Span] | None], days: Days) -> NDArray[np.bool_]:
    """Return on which days each member belongs to its universe, (members, days); None stands for all days."""
    inside = np.zeros((len(members), len(days)), bool)
    for row, spans in zip(inside, members.values(), strict=True):
        if spans is None:
            row[:] = True
        for a, b in spans or ():
            row[np.searchsorted(days, a) : np.searchsorted(days, b, "right")] = True
    return inside


def _spans_of(days: Days, inside: NDArray[np.bool_]) -> list[Span]:
    """The stretches of days that are inside, as (first, last)."""
    turns = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    return [(days[a], days[b - 1]) for a, b in zip(turns[::2], turns[1::2], strict=True)]


def _union_of(blocks: Iterable[FieldBlock], instruments: int, days: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and behind-last day of each instrument: those of its fields together."""
    begin, end = np.full(instruments, days, np.int64), np.zeros(instruments, np.int64)
    for block in blocks:
        there = block.end > block.begin
        begin[there] = np.minimum(begin[there], block.begin[there])
        end = np.maximum(end, block.end)
    return np.minimum(begin, end), end


def evaluate(
    provider: Provider, codes: Sequence[str], expression: str, start: Any = None, end: Any = None, freq: str = "day"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one expression as (codes, days from `start` to `end`), and where there is a row; `codes` are sorted.

    Codes without any data have no day. Nothing is raised when there is none at all.
    """
    calendar = provider.calendar(freq)
    first, stop = _range(calendar, start, end)
    values = np.full((len(codes), stop - first), np.nan, np.float32)
    exists = np.zeros(values.shape, bool)
    try:
        plan = FeaturePlan(provider, dict.fromkeys(codes, _ALWAYS), [expression], start, end, freq)
    except _NoRows:
        return values, exists
    out = np.empty((len(plan), 1), np.float32)
    plan.fill(out)
    values[plan.row_code, plan.row_date], exists[plan.row_code, plan.row_date] = out[:, 0], True
    return values, exists


def _range(calendar: Days, start: Any, end: Any) -> tuple[int, int]:
    first = 0 if start is None else int(np.searchsorted(calendar, _day(start, "start")))
    stop = len(calendar) if end is None else int(np.searchsorted(calendar, _day(end, "end"), "right"))
    if start is not None and end is not None and _day(start, "start") > _day(end, "end"):
        raise DataError(f"The range is inverted: it starts on {_day(start, 'start')} and ends on {_day(end, 'end')}.")
    if first >= stop:
        raise DataError(
            f"There are no trading days from {start} to {end}: the calendar has {calendar[0]} to {calendar[-1]}."
        )
    return first, stop


def _day(value: Any, name: str) -> np.datetime64:
    try:
        return np.datetime64(str(value)[:10], "D")
    except ValueError:
        raise DataError(f"The {name} {value!r} is no date; write it as 2015-06-30.") from None


def features(
    instruments: Any,
    fields: Sequence[str],
    start_time: Any = None,
    end_time: Any = None,
    freq: str = "day",
    *,
    session: Session | None = None,
) -> pd.DataFrame:
    """Return expressions over a universe as a frame: index (instrument, datetime), a float32 column an expression.

    Parameters
    ----------
    instruments : str, sequence of str, or mapping
        Universe, codes, or universe with filters.
    fields : sequence of str
        Expressions.
    start_time, end_time : date, optional
        First and last day.
    freq : str
        Name of the calendar.
    session : Session, optional
        By default the current one.
    """
    import pandas as pd

    session = session or current_session()
    plan = FeaturePlan(session_provider(session), instruments, fields, start_time, end_time, freq)
    out = np.empty((len(plan), len(plan.trees)), np.float32)
    plan.fill(out, threads=session.threads)
    order = np.lexsort((plan.row_date, plan.row_code))
    index = pd.MultiIndex(
        levels=[pd.Index(plan.codes), pd.DatetimeIndex(plan.dates).as_unit("ns")],  # type: ignore[list-item]
        codes=[plan.row_code[order], plan.row_date[order]],  # type: ignore[list-item]
        names=["instrument", "datetime"],
    )
    return pd.DataFrame(out[order], index=index, columns=[str(f) for f in fields])


class _Data:
    """Qlib's ``D``: calendar, universes and features of the current session's data folder."""

    features = staticmethod(features)

    @staticmethod
    def calendar(start_time: Any = None, end_time: Any = None, freq: str = "day", future: bool = False) -> Days:
        """Return the trading days between two days."""
        calendar = session_provider().calendar(freq, future=future)
        first, stop = _range(calendar, start_time, end_time)
        return calendar[first:stop]

    @staticmethod
    def instruments(market: Any = "all", filter_pipe: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return the description of a universe, for `features`."""
        return {"market": market, "filter_pipe": list(filter_pipe or [])}

    @staticmethod
    def list_instruments(
        instruments: Any, start_time: Any = None, end_time: Any = None, freq: str = "day", as_list: bool = False
    ) -> Any:
        """Return the members of a universe between two days: code -> days, or a list of codes."""
        provider = session_provider()
        calendar = provider.calendar(freq)
        first, stop = _range(calendar, start_time, end_time)
        days = calendar[first:stop]
        members, filters = resolve_instruments(provider, instruments)
        codes = list(members)
        inside = membership(members, days)
        for one in filters:
            inside &= one.apply(codes, days, lambda e: evaluate(provider, codes, e, days[0], days[-1], freq))
        kept = {code: _spans_of(days, row) for code, row in zip(codes, inside, strict=True) if row.any()}
        return list(kept) if as_list else kept


D = _Data()
