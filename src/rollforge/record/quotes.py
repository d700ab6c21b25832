"""Read and check the quotes of a backtest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rollforge.dates import Days
from rollforge.errors import first_few
from rollforge.features.engine import FeaturePlan
from rollforge.market.provider import Provider
from rollforge.record.market import Flags, Floats, Market
from rollforge.record.notes import Notes
from rollforge.record.rules import Rules, VolumeLimit

__all__ = ["open_market"]

_MOVE = "$close/Ref($close, 1)-1"
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Tolerance of changes: closes and changes are stored in float32, and a move is computed from two of them."""


def open_market(provider: Provider, rules: Rules, codes: Sequence[str], days: Days) -> Market:
    """Read the quotes for a backtest.

    Parameters
    ----------
    provider : Provider
        The data.
    rules : Rules
        Rules of the exchange.
    codes : sequence of str
        Instruments that may be traded or are held.
    days : array of datetime64[D]
        Consecutive days of the calendar.

    Raises
    ------
    DataNotFound, ExpressionError
        If an instrument or field in the rules has no data.
    """
    notes = Notes()
    fields = set(provider.fields())
    with_limit = isinstance(rules.limit_threshold, float)
    wanted = ["$close", rules.buy_price, rules.sell_price, *rules.subscribe_fields]
    wanted += [f"${name}" for name in ("factor", "volume", "change") if name in fields]
    wanted += [_MOVE] if with_limit else list(rules.limit_threshold or ())  # type: ignore[arg-type]
    wanted += [expression for _, expression in (*rules.buy_volume, *rules.sell_volume)]
    columns = _read(provider, codes, list(dict.fromkeys(wanted)), days)
    close = _close(columns, notes)
    suspended = np.isnan(close) | ~_in_universe(provider, rules, columns.codes, days)
    no_buy, no_sell = _limits(rules, columns, suspended, notes)
    nothing = np.full_like(close, np.nan)
    factor = columns.values.get("$factor", nothing)
    factor = np.where(factor > 0, factor, np.nan)
    return Market(
        rules=rules,
        days=days,
        codes=columns.codes,
        close=close,
        buy_price=_execution_price(rules.buy_price, columns, close, notes),
        sell_price=_execution_price(rules.sell_price, columns, close, notes),
        factor=factor,
        volume=columns.values.get("$volume", nothing),
        no_buy=no_buy,
        no_sell=no_sell,
        suspended=suspended,
        last_day=_last_days(provider, rules, columns.codes, days),
        buy_caps=_caps(rules.buy_volume, columns),
        sell_caps=_caps(rules.sell_volume, columns),
        unit=_unit(rules, factor, close, notes),
        quotes=columns.values,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """Expressions with their values, (days, instruments)."""

    codes: list[str]
    values: dict[str, Floats]

    def __getitem__(self, expression: str) -> Floats:
        return self.values[expression]

    def examples(self, where: Flags) -> str:
        """Return the instruments for which `where` is true on any day, for a message."""
        return first_few([self.codes[i] for i in np.flatnonzero(where.any(axis=0))])


def _read(provider: Provider, codes: Sequence[str], expressions: list[str], days: Days) -> _Columns:
    plan = FeaturePlan(provider, sorted({c.upper() for c in codes}), expressions, days[0], days[-1])
    out = np.empty((len(plan), len(expressions)), np.float32)
    plan.fill(out)
    columns = _Columns(plan.codes, {})
    for k, expression in enumerate(expressions):
        dense = np.full((len(days), len(plan.codes)), np.nan)
        dense[plan.row_date, plan.row_code] = out[:, k]
        columns.values[expression] = dense
    return columns


def _are_prices(values: Floats) -> Flags:
    """Return which values are finite and positive."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(values) & (values > 0)


def _close(columns: _Columns, notes: Notes) -> Floats:
    """Return the closes; values that are not prices (0, negative, infinite) become missing."""
    close = columns["$close"]
    usable = _are_prices(close)
    wrong = ~usable & ~np.isnan(close)
    if wrong.any():
        notes.add(
            "$close is zero, negative or infinite %d times (%s); the instrument is treated as suspended on those days",
            int(wrong.sum()),
            columns.examples(wrong),
        )
    return np.where(usable, close, np.nan)


def _in_universe(provider: Provider, rules: Rules, codes: list[str], days: Days) -> Flags:
    if not rules.codes:
        return np.ones((len(days), len(codes)), bool)
    plan = FeaturePlan(provider, rules.codes, ["$close"], days[0], days[-1])
    place = {code: i for i, code in enumerate(codes)}
    column = np.array([place.get(code, -1) for code in plan.codes])[plan.row_code]
    inside = np.zeros((len(days), len(codes)), bool)
    inside[plan.row_date[column >= 0], column[column >= 0]] = True
    return inside


def _limits(rules: Rules, columns: _Columns, suspended: Flags, notes: Notes) -> tuple[Flags, Flags]:
    limit = rules.limit_threshold
    if limit is None:
        return suspended, suspended
    if isinstance(limit, tuple):  # a missing value counts as true: it is unknown whether the instrument can be traded
        return (columns[limit[0]] != 0) | suspended, (columns[limit[1]] != 0) | suspended
    change = _change(columns, notes)
    at_least = limit - _ROUNDING * (1 + limit)
    with np.errstate(invalid="ignore"):
        return (change >= at_least) | suspended, (change <= -at_least) | suspended


def _change(columns: _Columns, notes: Notes) -> Floats:
    """Return the relative change of each price since the previous day: ``$change``, or from the closes if it is
    invalid.

    Without the field `change`, Qlib's limits silently have no effect; the closes give the same values.
    """
    moves = np.where(np.isfinite(columns[_MOVE]), columns[_MOVE], np.nan)
    change = columns.values.get("$change")
    if change is None:
        return moves
    change = np.where(np.isfinite(change), change, np.nan)
    wrong, unit = _not_a_share(change, moves, columns["$close"])
    if wrong.any():
        worst = _largest(change, moves, wrong)
        notes.add(
            "$change is not the relative move of the close (0.01 for 1 %%) for %d of %d instruments (%s), but %s: "
            "%g where the close moved by %.4g. Their price limits are taken from the closes. Import the data "
            "without that column, or with $close/Ref($close,1)-1 in it",
            int(wrong.sum()),
            len(wrong),
            first_few([columns.codes[i] for i in np.flatnonzero(wrong)]),
            unit,
            change[worst],
            moves[worst],
        )
    missing = np.isnan(change) & ~np.isnan(moves) & ~wrong
    if missing.any():
        notes.add(
            "$change is missing %d times although the close is known (%s); price limits are taken from the closes there",
            int(missing.sum()),
            columns.examples(missing),
        )
    return np.where(wrong | missing, moves, change)


_LIKELY = 20
"""Minimum number of days for classifying values as an unknown kind; with fewer, they must fit a known kind."""


def _not_a_share(change: Floats, moves: Floats, close: Floats) -> tuple[Flags, str]:
    """Return a mask of the instruments whose changes are not relative changes, and what the values look like."""
    with np.errstate(all="ignore"):
        readings = {
            "a share": change,
            "a percentage": change / 100,
            "a difference in money": change * (1 + moves) / close,
            "a logarithm": np.expm1(change),
        }
        misses = {name: _typical(np.abs(value - moves)) for name, value in readings.items()}
        share = misses.pop("a share")
        fits = np.min([np.nan_to_num(miss, nan=np.inf) for miss in misses.values()], axis=0)
        days = (~np.isnan(change) & ~np.isnan(moves)).sum(axis=0)
        another = (share > 1e-5) & (10 * fits < share)
        unknown = (share > 5e-4 + 0.05 * _typical(np.abs(moves))) & (days >= _LIKELY)
    wrong = another | unknown
    if not wrong.any():
        return wrong, ""
    first = int(np.flatnonzero(wrong)[0])
    best = min(misses, key=lambda name: float(np.nan_to_num(misses[name][first], nan=np.inf)))
    return wrong, f"what looks like {best}" if another[first] else "something else"


def _typical(values: Floats) -> Floats:
    """Return the median of each instrument; NaN if it has no values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an instrument without values
        middle: Floats = np.nanmedian(values, axis=0)
    return middle


def _largest(change: Floats, moves: Floats, wrong: Flags) -> tuple[int, int]:
    """Return the position at which a change differs most from the move of the close, as an example."""
    with np.errstate(all="ignore"):
        apart = np.nan_to_num(np.abs(change - moves), nan=-1.0)
    apart[:, ~wrong] = -1.0
    day, place = np.unravel_index(int(np.argmax(apart)), apart.shape)
    return int(day), int(place)


def _execution_price(expression: str, columns: _Columns, close: Floats, notes: Notes) -> Floats:
    """Return the execution prices of orders; the close if the requested price is missing."""
    price = columns[expression]
    usable = _are_prices(price)
    lacking = ~usable & ~np.isnan(close)
    if lacking.any():
        notes.add(
            "%s is missing or zero %d times (%s); orders on those days are filled at the close",
            expression,
            int(lacking.sum()),
            columns.examples(lacking),
        )
    return np.where(usable & ~np.isnan(close), price, close)


def _caps(limits: Sequence[VolumeLimit], columns: _Columns) -> tuple[tuple[str, Floats], ...]:
    return tuple((kind, np.nan_to_num(columns[expression], nan=0.0)) for kind, expression in limits)


def _last_days(provider: Provider, rules: Rules, codes: list[str], days: Days) -> np.ndarray:
    """Return the index of the last day on which each instrument can be traded, see :attr:`Market.last_day`."""
    calendar = provider.calendar()
    begin, end = provider.spans("close", codes, 0, len(calendar))
    listed = provider.instruments("all") if "all" in provider.markets() else {}
    named = {str(code).upper() for code in rules.codes} if isinstance(rules.codes, (list, tuple, set)) else None
    last = np.where(end > begin, end, len(calendar)) - 1
    for i, code in enumerate(codes):
        if code in listed:
            until = int(np.searchsorted(calendar, max(b for _, b in listed[code]), "right")) - 1
            last[i] = min(last[i], until)
        if named is not None and code not in named:
            last[i] = -1
    goes_on = last >= len(calendar) - 1
    here = last - int(np.searchsorted(calendar, days[0]))
    never = last < 0
    return np.where(goes_on, len(days), np.where(never, -1, here)).astype(np.int64)


def _unit(rules: Rules, factor: Floats, close: Floats, notes: Notes) -> float | None:
    if rules.trade_unit is None:
        return None
    if (np.isnan(factor) & ~np.isnan(close)).any():
        notes.add("there is no factor for some prices: amounts are not rounded to the trade unit %g", rules.trade_unit)
        return None
    return rules.trade_unit
