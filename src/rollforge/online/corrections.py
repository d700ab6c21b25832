"""Signals of past days: publishing what was predicted, and correcting days whose data have changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rollforge.dates import DayLike, read_day
from rollforge.errors import ConfigError
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Signal,
    correction_body,
    day_body,
    event_body,
)
from rollforge.online import signal_files
from rollforge.online.data_marks import HISTORY, changed_history, first_marks, history_marks, mark_then
from rollforge.online.day import DayRun, Options, PrepareFunc, made_signals
from rollforge.online.service import Hold, Service, next_version
from rollforge.online.update import PredUpdater
from rollforge.session import bounded

__all__ = ["changed_days", "correct", "publish"]


def publish(service: Service, prepare_func: PrepareFunc | None = None, *, over_write: bool = False) -> Any:
    """Make signals from the predictions that exist, without a routine, and return the new ones.

    Days after the last one with signals are added. With `over_write`, the signals of other days that differ are
    published as new versions too.
    """
    with service.hold() as held:
        made = made_signals(service, prepare_func, None)
        known = held.state.signals()
        days = signal_files.days_of(made)
        last = max(known, default="")
        fresh = [day for day in days if day > last]
        new = made if over_write else signal_files.rows_of(made, fresh)
        old = signal_files.read(service.place, known.values())
        changed = [day for day in days if over_write and day in known and not _same(old, made, day)]
        gone = [day for day, signal in known.items() if over_write and signal.rows and day not in days]
        day = DayRun(service, held, Options(), last)
        signals = []
        wanted = sorted({*(days if over_write else fresh)} - ({*known} - {*changed}))
        if wanted:
            signals += day.write(signal_files.rows_of(made, wanted), "made again" if over_write else "")
        signals += [_withdrawn(held, one, "made again") for one in gone]
        if signals:
            held.append(EntryKind.CORRECTION, correction_body(signals, "made from the predictions that exist"))
        return new


def _withdrawn(held: Hold, day: str, why: str) -> Signal:
    """Return a version of a day's signals without rows."""
    known = held.state.signals()[day]
    return Signal(day, next_version(held.state, day), known.recorders, known.file, known.sha256, 0, why)


def _same(old: object, new: object, day: str) -> bool:
    return old is not None and signal_files.rows_of(old, [day]).equals(signal_files.rows_of(new, [day]))


def correct(
    service: Service, day: DayLike | None = None, why: str = "", prepare_func: PrepareFunc | None = None
) -> list[Signal]:
    """Publish new versions of the signals of past days whose data have changed since, and return them.

    The models that were champions on the day predict it again, with the data up to the day as they are now. A day whose
    signals stay the same gets no new version; that they do is recorded, so that :func:`changed_days` omits the day. The
    signals of a day that is no longer a trading day are withdrawn by a version without rows. Earlier versions are never
    changed.

    Parameters
    ----------
    day : date, optional
        The day; by default all published days from the first one whose data have changed since: features of a day are
        computed from earlier days too.
    why : str
        The reason.
    """
    corrected: list[Signal] = []
    with service.hold() as held:
        calendar = set(service.calendar_days())
        changed = changed_days(service)
        months = changed_history(service) if day is None else []
        days = [str(read_day(day, "day"))] if day is not None else _from_first([*changed, *months], held)
        for one in days:
            known = held.state.signals().get(one)
            if known is None:
                raise ConfigError(f"There are no signals of {one} to correct.", path="day")
            if one not in calendar:
                if known.rows:
                    corrected.append(_corrected(held, [_withdrawn(held, one, why or "no longer a trading day")], None))
                continue
            with bounded(one):
                work = DayRun(service, held, Options(prepare_func=prepare_func), one)
                for release in held.state.champions(one):
                    PredUpdater(service.recorder(release), to_date=one, from_date=one).update()
                    work.written[release.recorder] = service.recorder(release)
                work.sync()
                made = made_signals(service, prepare_func, {one})
                earlier = signal_files.read(service.place, [known])
                before = held.state.days.get(one)
                result = work.result(DayState.PUBLISHED)
                if before:
                    result = replace(result, trained=before.trained, history=before.history)
                if _same(earlier, made, one):
                    if one in changed:
                        event = Event(Level.INFO, why or "the data have changed, and the signals are the same")
                        held.append(EntryKind.DAY, day_body(result, events=[event]))
                    continue
                signals = work.write(signal_files.rows_of(made, [one]), why or "the data have changed")
                corrected.append(_corrected(held, signals, result))
        if months:
            text = why or "data before the first day have changed; the models are those trained before"
            event = Event(Level.INFO, text, {"months": months, HISTORY: history_marks(service)})
            held.append(EntryKind.EVENT, event_body([event]))
    return corrected


def _from_first(changed: Sequence[str], held: Hold) -> list[str]:
    """Return the days with signals from the first changed day on; of withdrawn days, only the changed ones."""
    first = min(changed, default=None)
    if first is None:
        return []
    return [day for day, signal in held.state.signals().items() if day in changed or (day > first and signal.rows)]


def _corrected(held: Hold, signals: Sequence[Signal], result: DayResult | None) -> Signal:
    held.append(EntryKind.CORRECTION, correction_body(signals, signals[0].why, day=result))
    return signals[0]


def changed_days(service: Service) -> list[str]:
    """Return the published days whose data have changed since, that are no longer trading days, or are again."""
    state = service.state()
    calendar = set(service.calendar_days())
    known = first_marks(state) | {day: result.data for day, result in state.days.items()}
    changed = []
    for day, signal in state.signals().items():
        withdrawn = not signal.rows
        if day not in calendar:
            changed += [] if withdrawn else [day]
        elif withdrawn or known.get(day, "") not in ("", mark_then(day)):
            changed.append(day)
    return changed
