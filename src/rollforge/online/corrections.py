"""Signals of past days: publishing existing predictions, and correcting days whose data have changed since."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from rollforge.dates import DayLike, read_day
from rollforge.errors import ConfigError, DataError
from rollforge.ledger.entry import (
    CheckResult,
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Shadow,
    Signal,
    correction_body,
    day_body,
    event_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.market.universe import one_version
from rollforge.online import signal_files
from rollforge.online.check_rules import Rules
from rollforge.online.data_marks import (
    HISTORY,
    changed_history,
    first_marks,
    has_changed,
    history_marks,
    service_frequencies,
)
from rollforge.online.day import DayRun, Options, PrepareFunc, made_signals
from rollforge.online.policy import shadow_frame
from rollforge.online.score_checks import daily_ics, known_ics, labels_of, mean_ic
from rollforge.online.service import Hold, Service, next_version
from rollforge.session import Session, bounded, current_session, using

__all__ = ["changed_days", "correct", "ends_early", "publish"]

AFTER = "uncorrected_after"
"""Key in the data of an event: a day that was corrected alone. The days after it were predicted from its former data."""


def publish(service: Service, prepare_func: PrepareFunc | None = None, *, over_write: bool) -> Any:
    """Compute signals from existing predictions, without a routine, and return the new ones.

    Days after the last one with signals are added. With `over_write`, the signals of other days that differ are
    published as new versions too.
    """
    with service.hold() as held:
        prepared = made_signals(service, prepare_func, None)
        known = held.state.signals()
        days = signal_files.days_of(prepared)
        last = max(known, default="")
        fresh = [day for day in days if day > last]
        new = prepared if over_write else signal_files.rows_of(prepared, fresh)
        lost = signal_files.unreadable(service.place, known.values())  # they differ, so they get a new version
        old = signal_files.read(service.place, [signal for day, signal in known.items() if day not in lost])
        changed = [day for day in days if over_write and day in known and not _same(old, prepared, day)]
        gone = [day for day, signal in known.items() if over_write and signal.rows and day not in days]
        day = DayRun(service, held, Options(), last)
        signals = []
        wanted = sorted({*(days if over_write else fresh)} - ({*known} - {*changed}))
        if wanted:
            signals += day.write(signal_files.rows_of(prepared, wanted), "made again" if over_write else "")
        signals += [_withdrawn(held, one, "made again") for one in gone]
        if signals:
            held.append(EntryKind.CORRECTION, correction_body(signals, "made from the predictions that exist"))
        return new


def _withdrawn(held: Hold, day: str, why: str) -> Signal:
    """Return a version of a day's signals without rows."""
    known = held.state.signals()[day]
    return Signal(day, next_version(held.state, day), known.recorders, known.file, known.sha256, 0, why)


def _same(old: signal_files.Signals | None, new: signal_files.Signals, day: str) -> bool:
    return old is not None and _equal(signal_files.rows_of(old, [day]), signal_files.rows_of(new, [day]))


def _equal(old: object, new: object) -> bool:
    if isinstance(old, pd.Series):
        return isinstance(new, pd.Series) and old.equals(new)
    return isinstance(old, pd.DataFrame) and isinstance(new, pd.DataFrame) and old.equals(new)


def correct(
    service: Service,
    day: DayLike | None = None,
    why: str = "",
    prepare_func: PrepareFunc | None = None,
    *,
    rules: Rules | None = None,
) -> list[Signal]:
    """Publish new versions of the signals of past days whose data have changed since, and return them.

    The models that were champions on the day predict it again, from the current data up to the day. A day whose signals
    stay the same gets no new version; this is recorded, so that :func:`changed_days` omits the day. The signals of a day
    that is no longer a trading day are withdrawn by a version without rows. Earlier versions are never changed. If the file
    of the latest version cannot be read, the day gets a new one.

    The latest day is corrected first. If the process is killed, the first changed day is still uncorrected, so the next
    correction begins with it again. If only one `day` is corrected, those after it count as changed until they are
    corrected too.

    Parameters
    ----------
    day : date, optional
        The day; by default all published days from the first one whose data have changed since: features of a day are
        computed from earlier days too. Days whose signals cannot be read are included.
    why : str
        The reason.
    prepare_func : callable, optional
        Computes the signals, as for the routine.
    rules : Rules, optional
        The checks of the service; by default the mean IC is not computed again.

    Raises
    ------
    DataError
        If the data end before the last published day, unless `day` is given.
    """
    corrected: list[Signal] = []
    session = current_session()
    with service.hold() as held:
        calendar = set(service.calendar_days())
        changed = changed_days(service)
        months = changed_history(service) if day is None else []
        lost = signal_files.unreadable(service.place, held.state.signals().values())
        days = [str(read_day(day, "day"))] if day is not None else _from_first([*changed, *months], held, calendar)
        days = sorted({*days, *(lost if day is None else ())})
        predicted = [one for one in reversed(days) if one in calendar]
        for one in [*predicted, *(one for one in reversed(days) if one not in calendar)]:
            known = held.state.signals().get(one)
            if known is None:
                raise ConfigError(f"There are no signals of {one} to correct.", path="day")
            events = _uncorrected(held.state, one) if day is not None and one in changed else []
            if one not in calendar:
                if known.rows:
                    withdrawn = _withdrawn(held, one, why or "no longer a trading day")
                    corrected.append(_corrected(held, [withdrawn], None, events))
                continue
            with bounded(one), one_version():
                work = DayRun(service, held, Options(prepare_func=prepare_func, rules=rules or Rules({})), one)
                for release in held.state.champions(one):
                    work.predict_again(release)
                shadows = _shadows(service, held, work, one, events)
                work.sync()
                made = work.made({one})
                earlier = None if one in lost else signal_files.read(service.place, [known])
                before = held.state.days.get(one)
                result = work.result(DayState.PUBLISHED)
                if before:
                    result = replace(result, trained=before.trained, history=before.history, fallback=before.fallback)
                rows = signal_files.rows_of(made, [one])
                checks = _ics(work, session, rows, events) if one == predicted[-1] else []
                if _same(earlier, made, one):
                    if one in changed or checks or shadows:
                        same = Event(Level.INFO, why or "the data have changed, and the signals are the same")
                        body = day_body(result, events=[same, *events], checks=checks, shadows=shadows)
                        held.append(EntryKind.DAY, body)
                    continue
                reason = "the file of the version before cannot be read" if one in lost else "the data have changed"
                signals = work.write(rows, why or reason)
                corrected.append(_corrected(held, signals, result, events, checks, shadows))
        if months:
            text = why or "data before the first day have changed; the models are those trained before"
            marks = history_marks(service, service_frequencies(service))
            event = Event(Level.INFO, text, {"months": months, HISTORY: marks})
            held.append(EntryKind.EVENT, event_body([event]))
    return sorted(corrected, key=lambda signal: signal.day)


def ends_early(state: ServiceState, known: str | None) -> str:
    """Return why nothing can be done with data that end on a day before the last published one; empty if they do not."""
    last = max((day for day, signal in state.signals().items() if signal.rows), default="")
    if known is not None and known >= last:
        return ""
    return (
        f"The data end on {known or 'no day'}, and {last} is published: the data folder may be an older copy. Nothing was "
        f"published or corrected. Add the days after {known or 'that'}. If {last} is not a trading day, withdraw "
        f"its signals with 'rollforge serve correct {last}'."
    )


def _from_first(changed: Sequence[str], held: Hold, calendar: Collection[str]) -> list[str]:
    """Return the days with signals from the first changed day on; withdrawn days are included only if they changed.

    Raises
    ------
    DataError
        If the data end before the published days: all later days would be withdrawn.
    """
    problem = ends_early(held.state, max(calendar, default=None))
    if problem:
        raise DataError(problem)
    first = min(changed, default=None)
    if first is None:
        return []
    return [day for day, signal in held.state.signals().items() if day in changed or (day > first and signal.rows)]


def _corrected(
    held: Hold,
    signals: Sequence[Signal],
    result: DayResult | None,
    events: Sequence[Event] = (),
    checks: Sequence[CheckResult] = (),
    shadows: Sequence[Shadow] = (),
) -> Signal:
    why = signals[0].why
    body = correction_body(signals, why, day=result, events=events, checks=checks, shadows=shadows)
    held.append(EntryKind.CORRECTION, body)
    return signals[0]


def _shadows(service: Service, held: Hold, work: DayRun, day: str, events: list[Event]) -> list[Shadow]:
    """Return the recomputed predictions of a day's candidates and champions; empty if they are the same as before."""
    known = held.state.shadows.get(day)
    if known is None:
        return []
    try:
        for name in known.recorders:
            if name not in work.written:
                work.predict_again(held.state.latest_releases[name])
        frame = shadow_frame({name: work.written[name] for name in known.recorders}, day)
        count = sum(shadow.day == day for content in held.state.contents for shadow in content.shadows)
        file, mark = signal_files.write(service.place, f"{day}.v{count + 1}", frame, "shadow")
    except Exception as exc:  # noqa: BLE001 - a candidate is not used, and must not prevent a correction
        events.append(Event(Level.WARNING, f"the predictions of candidates were not recomputed: {exc}"))
        return []
    return [] if mark == known.sha256 else [Shadow(day, tuple(frame.columns), file, mark, len(frame))]


def _ics(work: DayRun, session: Session, rows: object, events: list[Event]) -> list[CheckResult]:
    """Return the daily ICs that differ from the known ones, because scores or labels have changed, and their last mean.

    Parameters
    ----------
    work : DayRun
        The day that is corrected last.
    session : Session
        The session outside of the bound of the corrected day.
    rows : Series or DataFrame
        Its newly predicted signals.
    events : list of Event
        Receives a warning if they cannot be computed.
    """
    service, state, day = work.service, work.held.state, work.day
    known = known_ics(state)
    last = state.last_published
    if not known or last is None:
        return []
    try:
        signals = state.signals()
        others = [signals[one] for one in sorted(known) if one != day]
        lost = signal_files.unreadable(service.place, others)
        others = [signal for signal in others if signal.day not in lost]
        parts = [_column(signal_files.read(service.place, others)), *([_column(rows)] if day in known else [])]
        scores = pd.concat([part for part in parts if part is not None])
        with using(session), bounded(last):  # the labels of a day reach into later days
            recorder = service.recorder(state.champions(last)[0])
            labels = labels_of(recorder, min(known), last)
        made = daily_ics(scores, labels, sorted(known))
        found = [check for check in made if not _close(check, known[check.day])]
        means = {check.day: check for check in state.final_checks if check.name == "ic"}
        if found and "ic" in work.options.rules.checks:
            values = known | {check.day: check for check in found}
            again = mean_ic(work.options.rules, values, recorder)
            found += [check for check in again if check.day in means and not _close(check, means[check.day])]
    except Exception as exc:  # noqa: BLE001 - the user's own classes; a day that cannot be watched is still corrected
        events.append(Event(Level.WARNING, f"the daily IC was not recomputed: {type(exc).__name__}: {exc}"))
        return []
    return found


def _column(table: Any) -> pd.Series | None:
    return table.iloc[:, 0] if isinstance(table, pd.DataFrame) else table


def _close(one: CheckResult, other: CheckResult) -> bool:
    return other.value is not None and one.value is not None and math.isclose(one.value, other.value, abs_tol=1e-12)


def _uncorrected(state: ServiceState, day: str) -> list[Event]:
    """Return an event which says that the days after a day are not corrected; empty if there are none."""
    later = [other for other, signal in state.signals().items() if other > day and signal.rows]
    text = f"the days after {day} were not corrected, which are predicted from its data too"
    return [Event(Level.INFO, text, {AFTER: day})] if later else []


def _left(state: ServiceState) -> set[str]:
    """Return the days after one that was corrected alone which have not been predicted again since."""
    known: set[str] = set()
    left: set[str] = set()
    for content in state.contents:
        known |= {signal.day for signal in content.signals}
        left -= {content.day.day} if content.day is not None else set()
        for event in content.events:
            if AFTER in event.data:
                left |= {day for day in known if day > str(event.data[AFTER])}
    return left


def changed_days(service: Service) -> list[str]:
    """Return the published days whose data have changed since, that are no longer trading days, or are again.

    These include the days after one that was corrected alone, until they are corrected too.
    """
    state = service.state()
    left = _left(state)
    calendar = set(service.calendar_days())
    known = first_marks(state) | {day: result.data for day, result in state.days.items()}
    changed = []
    for day, signal in state.signals().items():
        withdrawn = not signal.rows
        if day not in calendar:
            changed += [] if withdrawn else [day]
        elif withdrawn or day in left or has_changed(day, known.get(day, "")):
            changed.append(day)
    return changed
