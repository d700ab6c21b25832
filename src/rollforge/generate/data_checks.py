"""Static checks of the components of a task's data: features, processors, filters and universes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rollforge.dates import Days, show_time
from rollforge.description import Description
from rollforge.errors import DateError, ExpressionError, RollforgeError, counted, first_few
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import is_built_in, language_version, last_day_read
from rollforge.expressions.tree import Call, Expression, Field, walk
from rollforge.features.processor import DropnaProcessor, TimeRangeFlt
from rollforge.features.processor_base import Adapted
from rollforge.generate.checks import CheckResult
from rollforge.generate.definition import PRECOMPUTED, DataParts, is_ours, kind_of
from rollforge.generate.findings import Finding
from rollforge.generate.segments import bounds
from rollforge.market.filters import BaseDFilter, ExpressionDFilter, NameDFilter
from rollforge.market.provider import Provider
from rollforge.market.universe import resolve_instruments

__all__ = [
    "MEASURE",
    "Places",
    "feature_findings",
    "fit_findings",
    "own_operators",
    "processor_findings",
    "universe_findings",
]

CLEAN, LEAK, UNKNOWN = CheckResult.CLEAN, CheckResult.LEAK, CheckResult.UNKNOWN
Places = Mapping[str, Sequence[tuple[int, int]]]
"""Segment -> half-open ranges of the positions of its intervals in the calendar, in chronological order."""

MEASURE = "'rollforge check' measures it on your data."
_ORIGIN = "No check can tell; make sure that each row was computed from its own and earlier days."
_PRICES = frozenset("open high low close vwap volume amount money turnover factor change".split())
"""Fields of market data, which are known at the end of the day."""


def feature_findings(parts: DataParts) -> list[Finding]:
    """Return which features read later days, and which ones cannot be read from the definition."""
    findings: list[Finding] = []
    ahead, own = _ahead(parts.expressions), own_operators([*parts.expressions, *parts.ungrouped])
    if ahead:
        named = [f"{_titled(parts.expressions[e], e)} looks {counted(days, 'trading day')} ahead" for e, days in ahead]
        text = named[0] if len(named) == 1 else f"{len(named)} features look ahead: {first_few(named, 3, '; ')}"
        text = f"the feature {text}." if len(named) == 1 else f"{text}."
        findings.append(Finding("features", LEAK, text, "Shift it so that it reads only earlier days, or remove it."))
    loose = _ahead(parts.ungrouped)
    if loose:
        text = (
            f"the columns have no groups, so it is not known whether {loose[0][0]}, which looks "
            f"{counted(loose[0][1], 'trading day')} ahead, is a label or a feature."
        )
        findings.append(Finding("features", UNKNOWN, text, "Give the loader's columns the groups feature and label."))
    for reason in dict.fromkeys(parts.unread):
        advice = _ORIGIN if reason == PRECOMPUTED else MEASURE
        findings.append(Finding("features", UNKNOWN, f"whether features look ahead is not known: {reason}.", advice))
    for name in own:
        text = (
            f"whether features look ahead is not known: the operator {name} is not one of Rollforge's, and what it reads is "
            "not checked."
        )
        findings.append(Finding("features", UNKNOWN, text, MEASURE))
    others = _other_fields([*parts.expressions, *parts.ungrouped])
    if others:
        text = (
            f"whether features look ahead is not known: the data folder's {'field' if len(others) == 1 else 'fields'} "
            f"{first_few(others, 3)} may contain values that were not known on their day."
        )
        findings.append(Finding("features", UNKNOWN, text, _ORIGIN))
    if not findings:
        count = len(parts.expressions) + len(parts.ungrouped)
        findings.append(Finding("features", CLEAN, f"no expression of {counted(count, 'feature')} reads a later day."))
    return findings


def _titled(name: str, expression: str) -> str:
    return expression if name == expression else f"{name} = {expression}"


def _ahead(expressions: Iterable[str]) -> list[tuple[str, int]]:
    """Return the expressions that look ahead with their number of days, the furthest first."""
    found = []
    for text in expressions:
        with contextlib.suppress(ExpressionError):  # the error is reported when the handler is checked
            if days := _days_ahead(text, language_version()):
                found.append((text, days))
    return sorted(found, key=lambda pair: -pair[1])


def _other_fields(expressions: Iterable[str]) -> list[str]:
    """Return the fields that are not market data, such as those that the user has computed."""
    fields = (name for kind, name in _parts(expressions) if kind is Field)
    return list(dict.fromkeys(f"${name}" for name in fields if name not in _PRICES))


def own_operators(expressions: Iterable[str]) -> list[str]:
    """Return the names of the user's own operators, whose look-ahead is only declared."""
    calls = (name for kind, name in _parts(expressions) if kind is Call)
    return list(dict.fromkeys(name for name in calls if not is_built_in(name)))


def _parts(expressions: Iterable[str]) -> Iterator[tuple[type[Expression], str]]:
    """Yield the fields and calls in expressions; invalid ones are reported when the handler is checked."""
    for text in expressions:
        with contextlib.suppress(ExpressionError):
            yield from _names(text, language_version())


# A worker checks each window of the same features. Errors are not kept: an operator of another session may be known by then.


@functools.lru_cache(maxsize=16384)
def _days_ahead(text: str, version: int) -> int:
    """Return how many days an expression looks ahead in the language of a version."""
    return int(max(0, last_day_read(parse(text))))


@functools.lru_cache(maxsize=16384)
def _names(text: str, version: int) -> tuple[tuple[type[Expression], str], ...]:
    """Return the fields and calls in an expression, each once, in the language of a version."""
    found = ((type(part), part.name) for part in walk(parse(text)) if isinstance(part, (Field, Call)))
    return tuple(dict.fromkeys(found))


def processor_findings(parts: DataParts, first_day: object) -> list[Finding]:
    """Return processors whose rows may depend on later days.

    Parameters
    ----------
    parts : DataParts
        What makes the data.
    first_day : datetime64 or None
        The first day of the task's segments.
    """
    findings = [
        Finding("processors", UNKNOWN, f"whether processors use later days is not known: {reason}.", MEASURE)
        for reason in dict.fromkeys(parts.unbuilt)
    ]
    for named in parts.processors:
        kind = kind_of(named.one)
        if isinstance(named.one, Adapted) or not is_ours(kind):
            text = f"whether the processor {kind.__name__} uses later days is not known, because it is not one of Rollforge's."
            findings.append(Finding("processors", UNKNOWN, text, MEASURE))
        elif not getattr(kind, "any_range", False):
            text = f"whether the rows that the processor {kind.__name__} returns depend on later days is not known."
            findings.append(Finding("processors", UNKNOWN, text, MEASURE))
        elif named.inferring and isinstance(named.one, DropnaProcessor) and _of_labels(named.one):
            text = (
                f"{kind.__name__} drops rows without a label from the data for inference, too: whether there will be a label "
                "is not known on the day itself."
            )
            advice = "Set fields_group: feature, and add DropnaLabel to learn_processors."
            findings.append(Finding("processors", UNKNOWN, text, advice))
    for one in parts.inst_processors:
        findings += _inst_processor(one, first_day)
    return findings or [Finding("processors", CLEAN, "no processor uses later days to change a row.")]


def _of_labels(one: DropnaProcessor) -> bool:
    """Return whether a processor drops rows without a label."""
    groups = one.fields_group
    return groups is None or "label" in ([groups] if isinstance(groups, str) else groups)


def _inst_processor(one: object, first_day: Any) -> list[Finding]:
    kind, kwargs = type(one), vars(one) if isinstance(one, TimeRangeFlt) else Description(one).kwargs
    name = kind.__name__
    if isinstance(one, (Mapping, str)):
        name = str(one.get("class", "") if isinstance(one, Mapping) else one).rpartition(".")[2]
        module = str(one.get("module_path") or "rollforge") if isinstance(one, Mapping) else "rollforge"
        ours = name == "TimeRangeFlt" and module.partition(".")[0] in ("rollforge", "qlib")
    else:
        ours = isinstance(one, TimeRangeFlt)
    if not ours:
        text = f"whether the processor {name} uses later days is not known, because it is not one of Rollforge's."
        return [Finding("processors", UNKNOWN, text, MEASURE)]
    end = bounds("end_time", (None, kwargs.get("end_time"))).end
    if end is None or first_day is None or end <= first_day:
        return []
    text = f"TimeRangeFlt keeps only instruments whose data last until {end}, which is not known before that day."
    return [Finding("processors", LEAK, text, "Remove its end_time, or set it before the first day of train.")]


def fit_findings(parts: DataParts, handler: Mapping[str, object], places: Places, calendar: Days) -> list[Finding]:
    """Return processors that learn from days of the valid or test segment.

    Parameters
    ----------
    parts : DataParts
        What makes the data.
    handler : mapping
        The description of the handler, with references resolved.
    places : mapping
        The segments on the calendar.
    calendar : array of datetime64[D]
        The trading days.
    """
    fitted = []
    for named in parts.processors:
        one = named.one.processor if isinstance(named.one, Adapted) else named.one
        start, end = getattr(one, "fit_start_time", None), getattr(one, "fit_end_time", None)
        if end is not None:
            fitted.append((f"the processor {kind_of(named.one).__name__} learns", start, end))
    kwargs = Description(handler).kwargs
    if not fitted and kwargs.get("fit_end_time") is not None:
        fitted.append(("processors learn", kwargs.get("fit_start_time"), kwargs["fit_end_time"]))
    findings = []
    for what, start, end in fitted:
        try:
            beyond = _fit_beyond(start, end, places, calendar)
        except DateError:
            continue  # reported when the processor is built
        if beyond:
            advice = (
                "Set fit_end_time to the last day of train at the latest; 'roll_fit_window: true' under rolling does "
                "that for each window."
                if handler
                else "The handler keeps its fit window, even when windows roll: save it fitted to days of train only, or "
                "describe it in the workflow."
            )
            text, days = beyond
            findings.append(Finding("fit window", LEAK, f"{what} {text}", advice, days, key=what))
    if fitted and not findings:
        findings.append(
            Finding(
                "fit window", CLEAN, "processors learn only from days before valid and test, or from days of train."
            )
        )
    return findings


def _fit_beyond(start: object, end: object, places: Places, calendar: Days) -> tuple[str, tuple[str, ...]] | None:
    """Return which segment a fit window reaches into, with the first and last day of that; None if it reaches into none.

    Where the train segment has days after the test segment, the fit window may be within one of its intervals.
    """
    window = bounds("fit", (start, end))
    first, stop = window.positions(calendar)
    if any(a <= first and stop <= b for a, b in places.get("train", ())):
        return None

    def found(name: str, begin: int) -> tuple[str, tuple[str, ...]]:
        days = dict.fromkeys(show_time(calendar[place]) for place in (max(first, begin), stop - 1))
        until, starts = window.end if window.end is None else show_time(window.end), show_time(calendar[begin])
        return f"until {until}, but the {name} segment starts on {starts}.", tuple(days)

    for name in ("valid", "test"):
        for begin, behind in places.get(name, ()):
            if begin < len(calendar) and first < behind and stop > begin:
                return found(name, begin)
    test = places.get("test", ())
    if test and test[0][0] < len(calendar) and stop > test[0][0]:
        return found("test", test[0][0])
    return None


def universe_findings(universe: object, provider: Provider, first: Any, last: Any) -> list[Finding]:
    """Return whether a universe and its filters use later days.

    Parameters
    ----------
    universe : str, sequence or mapping
        The universe of the handler, with filters.
    provider : Provider
        The data folder.
    first, last : datetime64
        The first and last day of the tasks' segments.
    """
    if universe is None:
        universe = "all"
    try:
        members, filters = resolve_instruments(provider, universe)
    except RollforgeError:
        return []  # reported when the handler is checked
    findings = [found for one in filters for found in _filter(one)]
    name = _universe_name(universe)
    spans = [s for s in members.values() if s is not None]
    changing = sum(not any(a <= first and last <= b for a, b in one) for one in spans)
    if changing:
        verb = "joins or leaves" if changing == 1 else "join or leave"
        text = f"the universe {name} is dated: {changing} of {len(members)} members {verb} it from {first} to {last}."
        return [*findings, Finding("universe", CLEAN, text)]
    if spans:
        reason = f"no member of the universe {name} joins or leaves it from {first} to {last}, as in a list of today's members"
    else:
        reason = f"the universe {name} is a list of instruments without dates"
    text = f"{reason}, so survivorship is not checked: instruments that were members only at the time may be missing."
    advice = "Use a universe with the days on which each instrument was a member ('rollforge data universe')."
    return [*findings, Finding("universe", UNKNOWN, text, advice)]


def _universe_name(universe: object) -> str:
    if isinstance(universe, Mapping) and "market" in universe:
        return _universe_name(universe["market"])
    if isinstance(universe, str):
        return universe
    codes = [str(code) for code in universe] if isinstance(universe, Iterable) else []
    return f"of {first_few(codes, 3)}"


def _filter(one: BaseDFilter) -> list[Finding]:
    kind = type(one)
    if isinstance(one, ExpressionDFilter) and is_ours(kind):
        expression = str(one.rule_expression)
        ahead = _ahead([expression])
        if ahead:
            text = f"the filter {expression} looks {counted(ahead[0][1], 'trading day')} ahead."
            return [Finding("filters", LEAK, text, "Shift it so that it reads only earlier days, or remove it.")]
        return [
            Finding("filters", UNKNOWN, f"whether the filter {expression} looks ahead is not known: the operator {name} is "
                    "not one of Rollforge's.", MEASURE)
            for name in own_operators([expression])
        ] or [Finding("filters", CLEAN, "no filter reads a later day.")]  # fmt: skip
    if isinstance(one, NameDFilter) and is_ours(kind):
        return [Finding("filters", CLEAN, "no filter reads a later day.")]
    text = f"whether the filter {kind.__name__} uses later days is not known, because it is not one of Rollforge's."
    return [Finding("filters", UNKNOWN, text, MEASURE)]
