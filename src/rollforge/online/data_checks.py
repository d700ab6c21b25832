"""Checks of the data of a day, before the day is trained, predicted and published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Days, read_day
from rollforge.errors import DataError, first_few
from rollforge.ledger.entry import CheckResult, DayState
from rollforge.ledger.state import ServiceState
from rollforge.market.provider import Provider
from rollforge.market.universe import resolve_instruments
from rollforge.online.check_rules import DATA_CHECKS, Rules
from rollforge.online.data_marks import others_in, values_mark

__all__ = ["Recent", "check_data", "day_mark", "first_days", "read_recent"]

_HISTORY = 20
"""Number of trading days before the day that are read."""
_BARS = ("open", "high", "low", "close", "volume")
_EQUAL_FACTORS = 1e-6

Finding = tuple[float, str, dict[str, Any]]
"""The value of a check, the finding in words, and further figures."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The data of a day and of the days before it."""

    days: Days
    """In order; the last one is the day that is checked."""
    codes: tuple[str, ...]
    members: NDArray[np.bool_]
    """(instruments, days): whether the instrument belongs to the universe."""
    values: Mapping[str, NDArray[np.float32]]
    """Name of a field -> (instruments, days); NaN if there is no value."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(instruments, days): whether a member has a closing price; any value, if there are no closing prices."""
        if "close" in self.values:
            known = np.isfinite(self.values["close"])
        else:
            known = np.zeros(self.members.shape, bool)
            for block in self.values.values():
                known |= np.isfinite(block)
        return known & self.members

    def listed(self, rows: Iterable[int]) -> list[str]:
        """Return the codes of some rows."""
        return [self.codes[row] for row in rows]


def read_recent(provider: Provider, day: str, universes: Sequence[object]) -> Recent | None:
    """Return the data of a day and of the days before it; None if it is not a trading day.

    Parameters
    ----------
    provider : Provider
        The data folder.
    day : str
        The day.
    universes : sequence
        The instruments of the service's handlers; together they are the universe.
    """
    calendar = provider.calendar()
    place = int(np.searchsorted(calendar, read_day(day)))
    if place >= len(calendar) or calendar[place] != read_day(day):
        return None
    first = max(place - _HISTORY, 0)
    days = calendar[first : place + 1]
    spans: dict[str, list[Any]] = {}
    for universe in universes or ["all"]:
        for code, periods in resolve_instruments(provider, universe)[0].items():
            spans.setdefault(code, []).extend([(days[0], days[-1])] if periods is None else periods)
    codes = tuple(sorted({*spans, *first_days(provider)}))
    members = np.zeros((len(codes), len(days)), bool)
    for row, code in enumerate(codes):
        for start, end in spans.get(code, ()):
            members[row, np.searchsorted(days, start) : np.searchsorted(days, end, "right")] = True
    values = {name: provider.read(name, codes, first, place + 1).values for name in provider.fields()}
    return Recent(days, codes, members, values)


def day_mark(recent: Recent, provider: Provider) -> str:
    """Return :func:`~rollforge.online.data_marks.data_mark` of the day that was read; empty if that has other instruments."""
    try:
        listed = sorted(provider.instruments("all"))
    except DataError:  # a folder without the universe
        return ""
    rows = {code: row for row, code in enumerate(recent.codes)}
    if not set(listed) <= rows.keys():
        return ""
    chosen = [rows[code] for code in listed]
    return values_mark(((name, block[chosen, -1:]) for name, block in recent.values.items()), listed)


def first_days(provider: Provider) -> dict[str, np.datetime64]:
    """Return the first day of each instrument of the folder."""
    try:
        members = provider.instruments("all")
    except DataError:  # a folder without the universe
        return {}
    return {code: min(start for start, _ in spans) for code, spans in members.items() if spans}


def check_data(
    recent: Recent,
    rules: Rules,
    state: ServiceState,
    mark_then: Callable[[str, Iterable[str]], str],
    starts: Mapping[str, np.datetime64],
) -> list[CheckResult]:
    """Return the results of the checks of a day's data.

    Parameters
    ----------
    recent : Recent
        The data.
    rules : Rules
        The checks and their limits.
    state : ServiceState
        The state, which contains the results for earlier days.
    mark_then : callable
        Returns the current fingerprint of a past day's data, see :func:`~rollforge.online.data_marks.mark_then`.
    starts : mapping
        Code -> first day, of all instruments; for the fingerprints of past days.
    """
    day = str(recent.days[-1])
    made: dict[str, Callable[[], Finding | None]] = {
        "universe": lambda: universe_share(recent),
        "missing": lambda: missing_share(recent),
        "jumps": lambda: largest_jump(recent, rules.checks["jumps"].limit),
        "stale": lambda: stale_share(recent),
        "gap": lambda: calendar_gap(recent.days),
        "changed": lambda: data_changes(recent, state, rules.checks["changed"].days, mark_then, starts),
    }
    found = []
    for name in DATA_CHECKS:
        if name in rules.checks and (finding := made[name]()) is not None:
            value, text, data = finding
            found.append(rules.result(name, day, value, text, **data))
    return found


def universe_share(recent: Recent) -> Finding | None:
    """Return how many instruments have a price on the day, as a share of those expected.

    The expected number is that of the members of the universe on the day, or, if larger, the median number of instruments
    with a price on the days before: in many folders, an instrument missing from a delivery is no longer a member on that
    day.
    """
    counts = recent.present.sum(axis=0)
    usual = float(np.median(counts[:-1])) if len(counts) > 1 else 0.0
    expected = max(float(recent.members[:, -1].sum()), usual)
    if not expected:
        return None
    share = float(counts[-1]) / expected  # at most 1: only members count
    return share, f"{counts[-1]} of {expected:g} instruments have a price", {}


def missing_share(recent: Recent) -> Finding | None:
    """Return the share of missing values among the fields of the instruments that have a price on the day."""
    rows = recent.present[:, -1]
    if not rows.any():
        return None
    missing = {name: int((~np.isfinite(block[rows, -1])).sum()) for name, block in recent.values.items()}
    share = sum(missing.values()) / (rows.sum() * len(missing))
    fields = {name: count for name, count in missing.items() if count}
    text = ", ".join(f"{name} {count} of {rows.sum()}" for name, count in sorted(fields.items(), key=lambda f: -f[1]))
    return float(share), text, {"fields": fields} if fields else {}


def largest_jump(recent: Recent, limit: float) -> Finding | None:
    """Return the largest move of a closing price since the last known one, of instruments whose factor has not changed.

    A split that the data do not adjust for is such a move. Instruments without an earlier price in the last 20 trading
    days are left out.
    """
    close, factor = recent.values.get("close"), recent.values.get("factor")
    if close is None or close.shape[1] < 2:
        return None
    before = np.isfinite(close[:, :-1]) & (close[:, :-1] > 0)
    rows = np.flatnonzero(recent.present[:, -1] & before.any(axis=1))
    if not len(rows):
        return None
    last = before.shape[1] - 1 - np.argmax(before[rows, ::-1], axis=1)
    moves = close[rows, -1].astype(np.float64) / close[rows, last] - 1
    if factor is not None:
        old, new = factor[rows, last], factor[rows, -1]
        moves[np.isfinite(old) & np.isfinite(new) & (np.abs(new - old) > _EQUAL_FACTORS * np.abs(old))] = 0.0
    order = np.argsort(-np.abs(moves), kind="stable")
    beyond = [int(i) for i in order if abs(moves[i]) > limit]
    text = first_few(beyond, show=lambda i: f"{recent.codes[rows[i]]} {moves[i]:+.1%}")
    data = {"instruments": recent.listed(rows[i] for i in beyond)} if beyond else {}
    return float(abs(moves[order[0]])), text, data


def stale_share(recent: Recent) -> Finding | None:
    """Return the share of instruments whose prices and volume are all the same as on the day before."""
    bars = [recent.values[name] for name in _BARS if name in recent.values]
    if not bars or len(recent.days) < 2:
        return None
    both = recent.present[:, -1] & recent.present[:, -2]
    if not both.any():
        return None
    same = both.copy()
    for block in bars:
        old, new = block[:, -2], block[:, -1]
        same &= (old == new) | (np.isnan(old) & np.isnan(new))
    rows = np.flatnonzero(same)
    text = f"{len(rows)} of {both.sum()} instruments repeat the day before" if len(rows) else ""
    return len(rows) / float(both.sum()), text, {"instruments": recent.listed(rows)} if len(rows) else {}


def calendar_gap(days: Days) -> Finding | None:
    """Return the number of weekdays between the day and the trading day before it that are not in the calendar.

    Examples
    --------
    >>> calendar_gap(np.array(["2024-05-03", "2024-05-08"], "M8[D]"))  # a Friday and a Wednesday
    (2.0, '2 weekdays after 2024-05-03 are not in the calendar', {})
    """
    if len(days) < 2:
        return None
    missing = int(np.busday_count(days[-2] + np.timedelta64(1, "D"), days[-1]))
    text = f"{missing} weekdays after {days[-2]} are not in the calendar" if missing else ""
    return float(missing), text, {}


def data_changes(
    recent: Recent,
    state: ServiceState,
    days: int,
    mark_then: Callable[[str, Iterable[str]], str],
    starts: Mapping[str, np.datetime64],
) -> Finding | None:
    """Return how many of the last published days have data that differ from those when they were published.

    A day that is no longer a trading day counts too, until its signals are withdrawn. A change that an earlier check has
    reported is not counted again. ``rollforge serve check`` compares all days.
    """
    reported = {
        (day, mark)
        for check in state.final_checks
        if check.name == "changed"
        for day, mark in (check.data.get("days") or {}).items()
    }
    changed: dict[str, str] = {}
    signals = state.signals()
    published = [day for day, result in state.days.items() if result.state is DayState.PUBLISHED and result.data]
    places = {str(day): place for place, day in enumerate(recent.days[:-1])}
    shown = [day for day in published if str(recent.days[0]) <= day < str(recent.days[-1])]
    for day in [day for day in shown if day in places or (day in signals and signals[day].rows)][-days:]:
        known = state.days[day].data
        if day in places and _mark(recent, places[day], starts) == known:
            continue
        # exact: instruments and fields may have been added since
        now = mark_then(day, others_in(known)) if day in places else ""
        if now != known and (day, now) not in reported:
            changed[day] = now
    gone = [day for day, mark in changed.items() if not mark]
    note = f", {', '.join(gone)} no longer in the calendar" if gone else ""
    text = f"the data of {', '.join(changed)} have changed{note}; see 'rollforge serve correct'" if changed else ""
    return float(len(changed)), text, {"days": changed} if changed else {}


def _mark(recent: Recent, place: int, starts: Mapping[str, np.datetime64]) -> str:
    """Return the fingerprint of a day's data, if no field and no universe has changed since."""
    day = recent.days[place]
    rows = [row for row, code in enumerate(recent.codes) if code in starts and starts[code] <= day]
    return values_mark(
        ((name, block[rows, place : place + 1]) for name, block in recent.values.items()), recent.listed(rows)
    )
