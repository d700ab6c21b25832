"""Expressions over a universe, filled into one matrix whose rows are sorted by (day, instrument).

Instruments are worked through in groups that fit the processor's cache. Within a group every sub-expression is computed
once, and forgotten when its last user is done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.expression import Call, Expression, Field, Number, Text, parse
from rollforge.data.filters import build_filters
from rollforge.data.operators import Series, fields_of, lookahead, lookback, operator
from rollforge.data.provider import Days, Provider, Span, open_provider
from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.session import Session, current_session

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["D", "FeaturePlan", "features", "resolve_instruments", "session_provider"]

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
    unknown = [c for c in codes if not (provider.path / "features" / c.lower()).is_dir()]
    if unknown:
        raise DataNotFound(f"There are no data of {', '.join(unknown[:5])} in {provider.path}.")
    return dict.fromkeys(codes), []


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
        self._fields = self._read_fields()
        self._rows = self._find_rows(members, filters)
        self.row_date, self.row_code = self._index()

    def _read_fields(self) -> dict[str, Any]:
        names = sorted(frozenset[str]().union(*(fields_of(t) for t in self.trees)))
        return {n: self.provider.read(n, self.codes, self._from, self._to, self.freq) for n in names}

    def _spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and behind-last day of each instrument, as places in the days read: those of its fields together."""
        begin = np.full(len(self.codes), self._to - self._from, np.int64)
        end = np.zeros(len(self.codes), np.int64)
        for block in self._fields.values():
            there = block.end > block.begin
            begin[there] = np.minimum(begin[there], block.begin[there])
            end = np.maximum(end, block.end)
        return np.minimum(begin, end), end

    def _find_rows(self, members: Mapping[str, list[Span] | None], filters: Sequence[Any]) -> NDArray[np.int64]:
        """(instruments, days): which row holds it, or -1."""
        self.begin, self.end = self._spans()
        offset = self._first - self._from
        place = np.arange(len(self.dates)) + offset
        exists = (place >= self.begin[:, None]) & (place < self.end[:, None])
        for i, spans in enumerate(members.values()):
            if spans is not None:
                inside = np.zeros(len(self.dates), bool)
                for a, b in spans:
                    inside |= (self.dates >= a) & (self.dates <= b)
                exists[i] &= inside
        for one in filters:
            exists &= one.apply(self.codes, self.dates, self._evaluate_dense)
        if not exists.any():
            raise DataError(
                f"The universe has no data between {self.dates[0]} and {self.dates[-1]}: "
                f"{len(self.codes)} instruments, none of them there on those days."
            )
        rows = np.full(exists.shape, -1, np.int64)
        by_day = exists.T
        rows.T[by_day] = np.arange(int(by_day.sum()))
        return rows

    def _index(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        day, code = np.nonzero(self._rows.T >= 0)
        return day.astype(np.int32), code.astype(np.int32)

    def __len__(self) -> int:
        return len(self.row_date)

    def _evaluate_dense(self, expression: str) -> NDArray[np.float64]:
        """(instruments, days) of one expression: what filters ask for."""
        plan = FeaturePlan(self.provider, self.codes, [expression], self.dates[0], self.dates[-1], self.freq)
        out = np.empty((len(plan), 1), np.float32)
        plan.fill(out)
        dense = np.full((len(plan.codes), len(plan.dates)), np.nan)
        dense[plan.row_code, plan.row_date] = out[:, 0]
        return dense

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
        evaluator = _Evaluator(self, blocks, Series(np.empty(0), self.begin[group], self.end[group]))
        rows = self._rows[group]
        offset = self._first - self._from
        columns = np.empty((len(self.trees), *rows.shape), np.float32)
        for c, tree in enumerate(evaluator.count(self.trees)):
            with np.errstate(over="ignore", invalid="ignore"):
                columns[c] = evaluator.value(tree)[:, offset : offset + len(self.dates)]
            evaluator.release(tree)
        first = 0
        for out in outs:
            kernels.scatter_rows(columns[first : first + out.shape[1]], rows, out)
            first += out.shape[1]

    def field_of(self, name: str, code: str) -> tuple[NDArray[np.float32], int, int]:
        """Return one field of one instrument on the days read, and its span there."""
        block = self.provider.read(name, [code], self._from, self._to, self.freq)
        return block.values, int(block.begin[0]), int(block.end[0])


class _Evaluator:
    """Computes trees for one group of instruments, keeping a result while somebody still needs it."""

    def __init__(self, plan: FeaturePlan, blocks: Mapping[str, NDArray[np.float32]], series: Series) -> None:
        self.plan = plan
        self.blocks = blocks
        self.series = series
        self.shape = (len(series.begin), plan._to - plan._from)
        self.known: dict[Expression, NDArray[Any]] = {}
        self.uses: Counter[Expression] = Counter()

    def count(self, trees: Sequence[Expression]) -> Sequence[Expression]:
        for tree in trees:
            self._count(tree)
        return trees

    def _count(self, tree: Expression) -> None:
        self.uses[tree] += 1
        if isinstance(tree, Call) and self.uses[tree] == 1:
            for arg in tree.args:
                self._count(arg)

    def release(self, tree: Expression) -> None:
        self.uses[tree] -= 1
        if self.uses[tree] or not isinstance(tree, Call):
            return
        gone = self.known.pop(tree, None)
        for key in [k for k in self.series.shared if gone is not None and k[1] == id(gone)]:
            del self.series.shared[key]
        for arg in tree.args:
            self.release(arg)

    def value(self, tree: Expression) -> NDArray[Any]:
        if isinstance(tree, Number):
            return np.full(self.shape, tree.value, np.float32)
        if isinstance(tree, Field):
            return self.blocks[tree.name]
        if isinstance(tree, Text):
            raise DataError(f"{tree} is no series.")
        if tree not in self.known:
            self.known[tree] = self._compute(tree)
        return self.known[tree]

    def _compute(self, tree: Call) -> NDArray[Any]:
        known = operator(tree.name)
        if known.on_instrument is not None:
            return self._elsewhere(tree, known.on_instrument)
        pairwise = known.look == "window"  # windows over a constant need it as a series
        arguments = [
            a.value if isinstance(a, Number) and not (pairwise and kind == "v") else self.value(a)
            for a, kind in zip(tree.args, known.arguments, strict=True)
        ]
        return known.compute(self.series, *arguments)

    def _elsewhere(self, tree: Call, place: int) -> NDArray[Any]:
        """The expression computed on one named instrument, the same for every instrument of the group."""
        named, inner = tree.args[place], tree.args[1 - place]
        code = str(named.value) if isinstance(named, Text) else ""
        if not (self.plan.provider.path / "features" / code.lower()).is_dir():
            raise DataNotFound(f"{tree.name}: there are no data of {code!r} in {self.plan.provider.path}.")
        blocks, begin, end = {}, self.shape[1], 0
        for name in fields_of(inner):
            blocks[name], first, stop = self.plan.field_of(name, code)
            begin, end = min(begin, first), max(end, stop)
        series = Series(np.empty(0), np.array([begin], np.int64), np.array([end], np.int64))
        value = _Evaluator(self.plan, blocks, series).value(inner)
        return np.repeat(value, self.shape[0], axis=0)


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
    levels: list[Any] = [pd.Index(plan.codes), pd.DatetimeIndex(plan.dates)]
    codes: list[Any] = [plan.row_code[order], plan.row_date[order]]
    index = pd.MultiIndex(levels=levels, codes=codes, names=["instrument", "datetime"])
    return pd.DataFrame(out[order], index=index, columns=list(fields))


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
        calendar = session_provider().calendar(freq)
        first, stop = _range(calendar, start_time, end_time)
        low, high = calendar[first], calendar[stop - 1]
        members, _ = resolve_instruments(session_provider(), instruments)
        kept = {
            code: [(max(a, low), min(b, high)) for a, b in spans or [(low, high)] if a <= high and b >= low]
            for code, spans in members.items()
        }
        kept = {code: spans for code, spans in kept.items() if spans}
        return list(kept) if as_list else kept


D = _Data()
