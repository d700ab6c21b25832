"""Compute expressions over a universe into one matrix whose rows are sorted by (day, instrument).

Instruments are processed in groups that fit the CPU cache, so memory does not grow with their number. For each group,
the data are read, every sub-expression is computed once and freed after its last use, and the finished rows are passed
on.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import (
    DayLike,
    Times,
    end_of,
    read_bound,
    show_time,
    start_of,
    start_position,
    stop_position,
)
from rollforge.errors import DataError, DataNotFound, first_few
from rollforge.expressions.evaluator import EvaluationPlan, OtherInstrument, named_instrument
from rollforge.expressions.expression import parse
from rollforge.expressions.formulas import SeriesSource
from rollforge.expressions.operators import fields_of, lookahead, lookback
from rollforge.expressions.tree import Call, Expression, walk
from rollforge.features.row_file import RowSink
from rollforge.features.row_writer import RowWriter, Run
from rollforge.market.filters import BaseDFilter
from rollforge.market.folder_files import Span
from rollforge.market.provider import OPTIONAL_FIELDS, FieldBlock, Provider
from rollforge.market.universe import ALWAYS, membership, resolve_instruments, session_provider
from rollforge.session import Session, current_session

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeaturePlan", "calendar_range", "evaluate", "features", "load_series", "session_provider"]

log = logging.getLogger(__name__)

_LONG = 3.0  # seconds of computing after which progress is reported
_GROUP = 40_000  # values of a series in instruments computed together: 320 kB of float64
_KEPT = 2**25  # bytes of series that are read once, before the rows are known, and not again for each group
_ALIVE = 80  # approximate number of sub-expression results that a group keeps at once (Alpha158: 75)


class _NoRows(DataError):
    """Raised if a universe has no rows in the range."""


class FeaturePlan:
    """The expressions, instruments and days to compute, and the resulting rows.

    Parameters
    ----------
    provider : Provider
        The data.
    instruments : str, sequence or mapping
        See :func:`resolve_instruments`.
    expressions : sequence of str
        One column each.
    start, end : date, optional
        First and last day of the rows; by default those of the calendar.
    freq : str
        Name of the calendar.
    by_instrument : bool
        True sorts the rows by (instrument, day), False by (day, instrument).

    Attributes
    ----------
    dates : array of datetime64, (T,)
        The days, or the times of intraday bars.
    codes : list of str, (N,)
    row_date, row_code : int32 arrays, (R,)
        Positions in `dates` and `codes` of each row. A row exists on each day between an instrument's first and last
        value on which the instrument belongs to the universe, even if all its values are missing.
    offsets : int64 array, (T + 1,) or, by instrument, (N + 1,)
        Start of the rows of each day, or of each instrument.

    Raises
    ------
    ExpressionError, DataNotFound, DataError
        If an expression, the universe or the range is invalid; raised before anything is computed.
    """

    def __init__(
        self,
        provider: Provider,
        instruments: object,
        expressions: Sequence[str],
        start: DayLike | None = None,
        end: DayLike | None = None,
        freq: str = "day",
        *,
        by_instrument: bool = False,
    ) -> None:
        self.provider = provider
        self.expressions = list(expressions)
        self.trees = [parse(text) for text in self.expressions]
        self.freq = freq
        self.by_instrument = by_instrument
        calendar = provider.calendar(freq)
        self._first, self._stop = _range(calendar, start, end)
        self.dates: Times = calendar[self._first : self._stop]
        members, filters = resolve_instruments(provider, instruments)
        self.codes = list(members)
        back = max((lookback(t) for t in self.trees), default=0)
        ahead = max((lookahead(t) for t in self.trees), default=0)
        self._from = 0 if math.isinf(back) else max(0, self._first - int(back))
        self._to = min(len(calendar), self._stop + ahead)
        self._names = sorted(frozenset[str]().union(*(fields_of(t) for t in self.trees)))
        self._absent: set[str] = set()
        self._kept: dict[str, FieldBlock] = {}
        self.begin, self.end = self._spans(self._names, self.codes)
        self._report_absent()
        self._evaluation = EvaluationPlan(self.trees)
        self._check_named()
        self._exists = self._find_rows(members, filters)
        counts = self._exists.sum(axis=1 if by_instrument else 0)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _spans(self, names: Sequence[str], codes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the half-open range of days of each instrument: the union over its fields."""
        days = self._to - self._from
        begin, end = np.full(len(codes), days, np.int64), np.zeros(len(codes), np.int64)
        small = 4 * len(names) * len(codes) * days <= _KEPT
        for name in names:
            try:
                if small:
                    kept = self._kept[name] = self.provider.read(name, codes, self._from, self._to, self.freq)
                    first, stop = kept.begin, kept.end
                else:
                    first, stop = self.provider.spans(name, codes, self._from, self._to, self.freq)
            except DataNotFound as exc:
                if name in OPTIONAL_FIELDS:
                    self._absent.add(name)
                    continue
                text = next(e for e, t in zip(self.expressions, self.trees, strict=True) if name in fields_of(t))
                raise DataNotFound(f"{exc} It is read by the expression {text!r}.") from None
            there = stop > first
            begin[there] = np.minimum(begin[there], first[there])
            end = np.maximum(end, stop)
        return np.minimum(begin, end), end

    def _report_absent(self) -> None:
        """Log once which standard fields the folder lacks, and which expressions read them."""
        for name in sorted(self._absent):
            place = (str(self.provider.path), name)
            if place in _reported:
                continue
            _reported.add(place)
            texts = [str(e) for e, t in zip(self.expressions, self.trees, strict=True) if name in fields_of(t)]
            log.warning(
                "There is no field $%s in %s: it counts as missing on every day. It is read by %s.",
                name, self.provider.path, first_few(texts, 1, show=repr),
            )  # fmt: skip

    def _check_named(self) -> None:
        for text, tree in zip(self.expressions, self.trees, strict=True):
            for code in _named_codes(tree):
                if not self.provider.has(code):
                    raise DataNotFound(
                        f"{self.provider.path} has no data for {code!r}, which the expression {str(text)!r} uses."
                    )

    def _on(self, code: str, tree: Expression) -> OtherInstrument:
        return _compute_on(self.provider, self.freq, self._from, self._to, code, tree)

    def _find_rows(self, members: Mapping[str, list[Span] | None], filters: Sequence[BaseDFilter]) -> NDArray[np.bool_]:
        """Return an (instruments, days) mask of the existing rows."""
        place = np.arange(len(self.dates)) + (self._first - self._from)
        exists = (place >= self.begin[:, None]) & (place < self.end[:, None])
        exists &= membership(members, self.dates)
        for one in filters:
            exists &= one.apply(self.codes, self.dates, self._evaluate)
        if not exists.any():
            raise _NoRows(
                f"The universe has no data between {self.dates[0]} and {self.dates[-1]}: {len(self.codes)} "
                "instruments, all without data on those days."
            )
        return exists

    @functools.cached_property
    def row_date(self) -> NDArray[np.int32]:
        days = np.arange(len(self.dates), dtype=np.int32)
        if self.by_instrument:
            return np.broadcast_to(days, self._exists.shape)[self._exists]
        return np.repeat(days, np.diff(self.offsets))

    @functools.cached_property
    def row_code(self) -> NDArray[np.int32]:
        codes = np.arange(len(self.codes), dtype=np.int32)
        if self.by_instrument:
            return np.repeat(codes, np.diff(self.offsets))
        return np.broadcast_to(codes, self._exists.T.shape)[self._exists.T]

    @functools.cached_property
    def _other_instruments(self) -> dict[Call, OtherInstrument]:
        """Return the values of calls that refer to another instrument."""
        return {call: self._on(*named) for call, named in self._evaluation.named.items()}

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def _evaluate(self, expression: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return one expression for all members and days, and where it exists; filters call this."""
        return evaluate(self.provider, self.codes, expression, self.dates[0], self.dates[-1], self.freq)

    def fill(self, *outs: NDArray[np.float32] | RowSink, threads: int = 1, memory: int = 2**31) -> None:
        """Compute the values.

        Parameters
        ----------
        *outs : float32 arrays, (R, columns), or RowSink
            Destinations. Together they have one column per expression, in order.
        threads : int
            Number of groups of instruments that are computed in parallel.
        memory : int
            Approximate limit in bytes, not counting arrays in `outs`; each thread computes at least one instrument.
        """
        writer = RowWriter(self._exists, self.offsets, outs, by_instrument=self.by_instrument, memory=memory // 4)
        if sum(o.shape[1] for o in outs) != len(self.trees) or any(o.shape[0] != len(self) for o in outs):
            raise ValueError(f"outs must have {len(self)} rows and {len(self.trees)} columns in total.")
        size = writer.instruments()
        group = self._group(size, threads, memory)
        first = self._compiled(writer, group)
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            run = _in_turn if threads == 1 else _in(pool)
            for start in range(first, len(self.codes), size):
                self._fill(writer, slice(start, min(start + size, len(self.codes))), group, run)
                if time.perf_counter() - began > _LONG:
                    log.info("computed %d of %d instruments", min(start + size, len(self.codes)), len(self.codes))
        writer.finish()

    def _group(self, size: int, threads: int, memory: int) -> int:
        """Return how many instruments to compute together: their series fit the CPU cache and the memory limit.

        All threads have equally many groups of the `size` instruments that are written together.
        """
        days = self._to - self._from
        fit = max(1, min(_GROUP // days, memory // (4 * threads * 8 * _ALIVE * days)))
        rounds = math.ceil(size / (fit * threads))
        return math.ceil(size / (rounds * threads))

    def _compiled(self, writer: RowWriter, group: int) -> int:
        """Compute a first group if the operators have not been used yet; return how many instruments were computed.

        Only one process at a time compiles, while it computes this group; the others then load the compiled code.
        """
        operators = {part.name for tree in self.trees for part in walk(tree) if isinstance(part, Call)}
        if operators <= _used:
            return 0
        from rollforge.expressions.jit import one_at_a_time
        from rollforge.expressions.precompile import compile_in_background

        chunk = slice(0, min(group, len(self.codes)))
        with one_at_a_time(), compile_in_background(self.expressions):
            self._fill(writer, chunk, group, _in_turn)
        _used.update(operators)
        return chunk.stop

    def _fill(self, writer: RowWriter, chunk: slice, group: int, run: Run) -> None:
        """Compute some instruments, a group at a time, and write their rows."""
        columns = writer.columns(chunk.stop - chunk.start)
        days = slice(self._first - self._from, self._first - self._from + len(self.dates))

        def compute(first: int) -> None:
            part = slice(first, min(first + group, chunk.stop))
            codes = self.codes[part]
            kept = {n: FieldBlock(b.values[part], b.begin[part], b.end[part]) for n, b in self._kept.items()}
            values = self._evaluation.run(
                _read(self.provider, self._names, codes, self._from, self._to, self.freq, self._absent, kept),
                (len(codes), self._to - self._from),
                self._other_instruments,
                SeriesSource(self.provider, self.freq, codes, self._from),
                complete=True,
            )
            out = columns[first - chunk.start :][: len(codes)]
            with np.errstate(all="ignore"):
                for place, value in enumerate(values):
                    out[:, place, : len(self.dates)] = value[:, days]

        run(compute, range(chunk.start, chunk.stop, group))
        writer.write(chunk, columns, run)


def _in_turn(work: Callable[[Any], None], values: Iterable[Any]) -> None:
    for value in values:
        work(value)


def _in(pool: ThreadPoolExecutor) -> Run:
    """Return a function that calls another one with each of some values in the threads of a pool."""

    def run(work: Callable[[Any], None], values: Iterable[Any]) -> None:
        for done in [pool.submit(work, value) for value in values]:
            done.result()

    return run


def _read(
    provider: Provider,
    names: Sequence[str],
    codes: Sequence[str],
    start: int,
    stop: int,
    freq: str,
    absent: Collection[str] = (),
    kept: Mapping[str, FieldBlock] = MappingProxyType({}),
) -> dict[str, FieldBlock]:
    """Return the fields; absent ones, and standard ones that the folder lacks, have no values.

    Those that are `kept` are not read again.
    """
    blocks = dict(kept)
    for name in names:
        if name in kept:
            continue
        try:
            if name not in absent:
                blocks[name] = provider.read(name, codes, start, stop, freq)
                continue
        except DataNotFound:
            if name not in OPTIONAL_FIELDS:
                raise
        none = np.zeros(len(codes), np.int64)
        blocks[name] = FieldBlock(np.full((len(codes), stop - start), np.nan, np.float32), none, none)
    return blocks


def _compute_on(provider: Provider, freq: str, start: int, stop: int, code: str, tree: Expression) -> OtherInstrument:
    """Compute a tree on one instrument for the days [start, stop) of the calendar."""
    plan = EvaluationPlan([tree])
    other_instruments = {call: _compute_on(provider, freq, start, stop, *named) for call, named in plan.named.items()}
    blocks = _read(provider, sorted(fields_of(tree)), [code], start, stop, freq)
    with np.errstate(all="ignore"):
        (value,) = plan.run(blocks, (1, stop - start), other_instruments, SeriesSource(provider, freq, [code], start))
    begin, end = plan.life(blocks, 1, other_instruments)
    return OtherInstrument(value, int(begin[0]), int(end[0]))


def load_series(
    provider: Provider, code: str, expression: str, start: int, stop: int, freq: str = "day"
) -> tuple[int, np.ndarray]:
    """Return an expression on one instrument, in the dtype in which it is computed.

    Parameters
    ----------
    provider : Provider
        The data.
    code : str
        The instrument; without data it has no days.
    expression : str
        The expression.
    start, stop : int
        Half-open range of positions in the calendar. Values exist on those of these days that lie between the
        expression's first and last day.

    Returns
    -------
    (int, array)
        Position in the calendar of the first value, and the values.
    """
    tree = parse(expression)
    back, days = lookback(tree), len(provider.calendar(freq))
    start, stop = max(start, 0), min(stop, days)
    if start >= stop or not provider.has(code):
        return start, np.zeros(0, np.float32)
    first = 0 if math.isinf(back) else max(0, start - int(back))
    there = _compute_on(provider, freq, first, min(days, stop + lookahead(tree)), code, tree)
    begin = max(start, first + there.begin)
    return begin, np.array(there.value[0, begin - first : max(begin, min(stop, first + there.end)) - first])


_reported: set[tuple[str, str]] = (
    set()
)  # (data folder, missing standard field) pairs that this process has already logged
_used: set[str] = set()  # operators whose kernels this process has compiled or loaded


def _named_codes(tree: Expression) -> Iterator[str]:
    """Yield the instruments that an expression refers to, at any depth."""
    for part in walk(tree):
        named = named_instrument(part)
        if named is not None:
            yield named[0]


def evaluate(
    provider: Provider,
    codes: Sequence[str],
    expression: str,
    start: DayLike | None = None,
    end: DayLike | None = None,
    freq: str = "day",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one expression as a (codes, days from `start` to `end`) array, and a mask of its rows; `codes` are sorted.

    Codes without data have no rows. No error is raised if there are no rows at all.
    """
    calendar = provider.calendar(freq)
    first, stop = _range(calendar, start, end)
    values = np.full((len(codes), stop - first), np.nan, np.float32)
    exists = np.zeros(values.shape, bool)
    try:
        plan = FeaturePlan(provider, dict.fromkeys(codes, ALWAYS), [expression], start, end, freq)
    except _NoRows:
        return values, exists
    out = np.empty((len(plan), 1), np.float32)
    plan.fill(out)
    values[plan.row_code, plan.row_date], exists[plan.row_code, plan.row_date] = out[:, 0], True
    return values, exists


def calendar_range(calendar: Times, start: DayLike | None, end: DayLike | None) -> tuple[int, int]:
    """Return the half-open range of calendar positions from `start` to `end`; it is empty if there are no days."""
    if start is not None and end is not None and start_of(start, "start_time") > end_of(end, "end_time"):
        begin, last = show_time(read_bound(start)), show_time(read_bound(end))
        raise DataError(f"The range is inverted: it starts on {begin} and ends on {last}.")
    first = 0 if start is None else start_position(calendar, start, "start_time")
    return first, max(first, len(calendar) if end is None else stop_position(calendar, end, "end_time"))


def _range(calendar: Times, start: DayLike | None, end: DayLike | None) -> tuple[int, int]:
    """Return the same as :func:`calendar_range`; raise DataError if it is empty."""
    first, stop = calendar_range(calendar, start, end)
    if first == stop:
        edges = show_time(calendar[0]), show_time(calendar[-1])
        begin = edges[0] if start is None else show_time(read_bound(start))
        last = edges[1] if end is None else show_time(read_bound(end))
        raise DataError(f"There are no trading days from {begin} to {last}: the calendar has {edges[0]} to {edges[1]}.")
    return first, stop


def features(
    instruments: object,
    fields: Sequence[str],
    start_time: DayLike | None = None,
    end_time: DayLike | None = None,
    freq: str = "day",
    *,
    session: Session | None = None,
) -> pd.DataFrame:
    """Return expressions over a universe as a frame: index (instrument, datetime), one float32 column per expression.

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

    Raises
    ------
    DataError
        If a universe has no data between the days. For a list of codes the frame is empty, as in Qlib.
    """
    import pandas as pd

    if isinstance(fields, str) or not len(fields):
        raise DataError(f"fields must be a list of expressions such as ['$close'], found {fields!r}.")
    session = session or current_session()
    provider = session_provider(session, freq)
    try:
        plan = FeaturePlan(provider, instruments, fields, start_time, end_time, freq, by_instrument=True)
    except _NoRows:
        if isinstance(instruments, (str, Mapping)):
            raise
        days = pd.DatetimeIndex([]).as_unit("ns")
        none = pd.MultiIndex.from_arrays([pd.Index([], dtype=str), days], names=["instrument", "datetime"])
        return pd.DataFrame(index=none, columns=[str(f) for f in fields], dtype=np.float32)
    out = np.empty((len(plan), len(plan.trees)), np.float32)
    plan.fill(out, threads=session.threads)
    index = pd.MultiIndex(
        levels=[pd.Index(plan.codes), pd.DatetimeIndex(plan.dates).as_unit("ns")],  # type: ignore[list-item]
        codes=[plan.row_code, plan.row_date],  # type: ignore[list-item]
        names=["instrument", "datetime"],
        verify_integrity=False,
    )
    return pd.DataFrame(out, index=index, columns=[str(f) for f in fields], copy=False)
