"""The state of a ledger's services, as plain JSON and as metrics, for programs that only read.

A :class:`Reader` opens the ledger read-only and keeps what it has read, so that each request costs only a query for the
entries that were appended since.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import numbers
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rollforge.dates import read_moment, read_timestamp
from rollforge.errors import ArtifactUnreadable, ConfigError, DataError, DateError, StoreGone, counted, shown
from rollforge.ledger.base import Ledger, ServiceLease, open_ledger
from rollforge.ledger.entry import CheckResult, Comparison, DayState, Entry, Level, Outcome, Signal
from rollforge.ledger.state import ServiceState
from rollforge.machine import process_is_gone
from rollforge.online.locations import data_folder, service_folder

__all__ = [
    "Reader",
    "day_warnings",
    "described",
    "due_days",
    "entry_document",
    "health",
    "metrics",
    "no_signals",
    "read_as_of",
    "signal_document",
    "status",
    "utc",
]


_CLOCKS_DIFFER = 60.0
"""Seconds by which the clock of the ledger may be ahead of that of this machine."""
METRICS = {"rank_ic": "rank IC", "ic": "IC"}
"""Metrics by which candidates are compared, with their names in messages."""


class Reader:
    """Reads a ledger without changing it. Threads can share it.

    Parameters
    ----------
    uri : str
        URI of the ledger.

    Raises
    ------
    StoreUnavailable
        If it cannot be opened, or there is no ledger.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._states: dict[str, ServiceState] = {}
        self._ledger: Ledger | None = open_ledger(uri, read_only=True)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._ledger = open_ledger(self.uri, read_only=True)
        return self._ledger

    def services(self) -> list[str]:
        """Return the names of the services, sorted."""
        with self._lock:
            try:
                return self._opened().services()
            except StoreGone:
                self._forget()
                raise

    def state(self, service: str) -> ServiceState | None:
        """Return the state of a service; None if it has no entries."""
        with self._lock:
            try:
                state = self._read(service)
            except StoreGone:
                self._forget()
                raise
            return state if state.last else None

    def states(self) -> dict[str, ServiceState]:
        """Return the states of all services by name."""
        return {name: state for name in self.services() if (state := self.state(name)) is not None}

    def held_by(self, service: str) -> ServiceLease | None:
        """Return the current lease of a service; None if there is none."""
        with self._lock:
            return self._opened().held_by(service)

    def _read(self, service: str) -> ServiceState:
        ledger, known = self._opened(), self._states.get(service)
        if known is not None:
            # The last known entry is read again: a ledger that was restored from a backup may have a different one.
            found = ledger.entries(service, after=known.last - 1)
            if found[:1] == [known.entries[-1]]:
                for entry in found[1:]:
                    known = known.after(entry)
            else:
                known = None
        if known is None:
            known = ServiceState.of(ledger.entries(service))
        if known.last:
            self._states[service] = known
        return known

    def _forget(self) -> None:
        """Reopen the file for the next request: it was deleted or replaced."""
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = None

    def close(self) -> None:
        """Close the ledger; a later call opens it again."""
        with self._lock:
            self._forget()


# -- days ---------------------------------------------------------------------------------------------------------------


def due_days(state: ServiceState, ledger_uri: str) -> list[str] | None:
    """Return the days that are in the calendar of the data and not published; None if the data folder is not recorded.

    Raises
    ------
    DataError
        If the calendar cannot be read.
    """
    from rollforge.market.provider import open_provider

    workflow = state.definition.workflow if state.definition is not None else None
    folder, begin = (
        data_folder(state.definition, ledger_uri),
        workflow.get("begin") if isinstance(workflow, dict) else None,
    )
    if folder is None or not begin:
        return None
    return state.due(day for day in map(str, open_provider(folder).calendar()) if day >= str(begin))


# -- documents ---------------------------------------------------------------------------------------------------------


def utc(seconds: float) -> str:
    """Return a time in UTC as text.

    Examples
    --------
    >>> utc(0.0)
    '1970-01-01 00:00:00'
    """
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def no_signals(state: ServiceState, day: str) -> str:
    """Return the message that there are no signals of a day."""
    last = max(state.signals(), default=None)
    known = "No day has been published yet." if last is None else f"The last day with signals is {last}."
    return f"There are no signals of {day}. {known}"


def read_as_of(value: object, state: ServiceState) -> float | int:
    """Return the number of an entry or a time in the past, in seconds since the epoch.

    Parameters
    ----------
    value : int, float or str
        An integer is the number of an entry, a float a time. A text of digits is the number of an entry if there is one,
        and otherwise a time such as ``20240531``; without an offset, it is UTC.
    state : ServiceState
        The current state of the service.

    Raises
    ------
    ConfigError
        If it is neither, or there is no such entry yet, or the time is in the future.

    Examples
    --------
    >>> read_as_of("0", ServiceState()), read_as_of("20240531", ServiceState())
    (0, 1717113600.0)
    """
    as_of: float | int | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, numbers.Integral):
        as_of = int(value)
    elif isinstance(value, numbers.Real):
        as_of = float(value)
    elif (
        isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 and int(value) <= state.last
    ):
        as_of = int(value)
    elif isinstance(value, str):
        with contextlib.suppress(DateError):
            moment = read_moment(value)
            midnight = dt.datetime.combine(moment.day, dt.time(), dt.UTC)
            as_of = midnight.timestamp() + moment.seconds - 60 * (moment.offset or 0.0)
    latest = max(time.time(), state.entries[-1].made_at if state.entries else 0.0) + _CLOCKS_DIFFER
    known = as_of is not None and (0 <= as_of <= state.last if isinstance(as_of, int) else as_of <= latest)
    if as_of is None or not known:
        raise ConfigError(
            f"as_of must be the number of an entry, at most {state.last}, or a time in the past such as "
            f"2024-05-31T18:00:00Z, found {shown(value)}."
        )
    return as_of


def status(name: str, state: ServiceState, lease: ServiceLease | None) -> dict[str, Any]:
    """Return the last published day of a service, its models on the next day, and which process is running it."""
    after = state.next_day()
    candidates = state.candidates(after)
    latest = state.signals().get(state.last_published or "")
    return {
        "service": name,
        "entries": state.last,
        "last_published": state.last_published,
        "signal": latest.to_document() if latest else None,
        "failed": failed_days(state),
        "fallback": fallback(state),
        "checks": [check.to_document() for check in latest_checks(state)],
        "warnings": day_warnings(state, max(state.days, default=None)),
        "champions": [release.to_document() for release in state.champions(after)],
        "candidates": [release.to_document() for release in candidates],
        "planned": planned_champions(state, after),
        "comparisons": [state.compared[r.recorder].to_document() for r in candidates if r.recorder in state.compared],
        "policy": dict(state.definition.policy) if state.definition else {},
        "running": running(lease),
        "unknown_entries": [entry.number for entry in state.unknown],
    }


def planned_champions(state: ServiceState, day: str) -> dict[str, list[str]]:
    """Return the later days from which on other models are the champions, with the ids of their recorders."""
    found: dict[str, list[str]] = {}
    now = [release.recorder for release in state.champions(day)]
    for later in state.planned(day):
        then = [release.recorder for release in state.champions(later)]
        if then != now:
            found[later] = now = then
    return found


def latest_checks(state: ServiceState) -> tuple[CheckResult, ...]:
    """Return the results of the checks of the last day that was run and not withdrawn since."""
    withdrawn = {day for day, signal in state.signals().items() if not signal.rows}
    return state.checks_made_on(max(state.days.keys() - withdrawn, default=""))


def day_warnings(state: ServiceState, day: str | None) -> list[str]:
    """Return the warnings of the last attempt at a day, without that of the use of earlier models."""
    attempts = [(c.day, c.events) for c in state.contents if c.day is not None and c.day.day == day]
    if not attempts:
        return []
    result, events = attempts[-1]
    return [event.text for event in events if event.level is not Level.INFO and event.text not in result.fallback]


def failed_days(state: ServiceState) -> list[str]:
    """Return the days whose latest result is a failure."""
    return [day for day, result in state.days.items() if result.state is DayState.FAILED]


def fallback(state: ServiceState) -> str:
    """Return why the last published day uses earlier models; empty if it does not."""
    last = state.last_published
    return state.days[last].fallback if last is not None else ""


def described(one: Comparison, margin: float = 0.0) -> str:
    """Return a comparison of a candidate with the champion in words, with its figures."""
    name = METRICS.get(one.metric, one.metric)
    allowed = f", {margin:g} less is allowed" if margin else ""
    return f"{name} {one.candidate_mean:.4f} against {one.champion_mean:.4f} over {counted(one.days, 'day')}{allowed}"


def running(lease: ServiceLease | None) -> dict[str, Any] | None:
    """Return which process is running a service, until when its lease lasts, and whether the process has ended.

    This is only known for processes on this machine. The next run takes over the lease of a process that has ended.
    """
    if lease is None:
        return None
    ended = process_is_gone(lease.holder.partition("#")[0])
    return {"holder": lease.holder, "until": utc(lease.until), "ended": ended}


def entry_document(entry: Entry) -> dict[str, Any]:
    """Return an entry with its body."""
    shown = {"number": entry.number, "kind": str(entry.kind), "made_at": utc(entry.made_at), "by": entry.by}
    return {**shown, "body": entry.body}


def signal_document(folder: Path, signal: Signal) -> dict[str, Any]:
    """Return a version of a day's signals with the scores by instrument; a score that is not a number is None.

    Raises
    ------
    ArtifactUnreadable
        If the file is missing, or was changed since it was published.
    """
    from rollforge.online import signal_files  # imports pandas

    scores = signal_files.scores(folder, signal)
    return {
        **signal.to_document(),
        "signals": {code: score if math.isfinite(score) else None for code, score in scores},
    }


def health(reader: Reader) -> tuple[bool, dict[str, Any]]:
    """Return whether all services are healthy, and their problems.

    A service has a problem if its last attempt at a due day failed, its data cannot be read, or the latest signals are
    missing or were changed. Days that are due and have not been tried yet are not a problem: the next run publishes them.

    Raises
    ------
    StoreUnavailable
        If the ledger cannot be read.
    """
    found = {name: _health(name, state, reader) for name, state in reader.states().items()}
    healthy = all(not service["problems"] for service in found.values())
    return healthy, {"healthy": healthy, "services": found}


def _health(name: str, state: ServiceState, reader: Reader) -> dict[str, object]:
    from rollforge.online import signal_files

    problems = [f"{day} failed: {state.days[day].error}" for day in failed_days(state)]
    try:
        due = due_days(state, reader.uri)
    except DataError as exc:
        due = None
        problems.append(str(exc))
    latest = state.signals().get(state.last_published or "")
    try:
        if latest is not None and latest.rows:
            signal_files.content(service_folder(name, state.definition, reader.uri), latest)
    except ArtifactUnreadable as exc:
        problems.append(str(exc))
    shown = {"last_published": state.last_published, "due": due, "fallback": fallback(state)}
    return {**shown, "running": running(reader.held_by(name)), "problems": problems}


# -- metrics -----------------------------------------------------------------------------------------------------------

_METRICS = {
    "last_published_day_timestamp_seconds": "Midnight UTC of the last published day.",
    "entries": "Number of entries in the ledger.",
    "days_due": "Trading days with data that are not published.",
    "days_failed": "Days whose latest result is a failure.",
    "champions": "Models whose predictions are published on the next day.",
    "candidates": "Models that are compared with the champions on the next day.",
    "signal_rows": "Rows of the latest signals.",
    "day_duration_seconds": "Duration of the routine of the last published day.",
    "fallback": "Whether the last published day uses earlier models, because training failed.",
    "check_value": "Results of the checks of the last published day.",
    "check_exceeded": "Whether a check of the last published day exceeds its limit.",
    "running": "Whether a process holds the lease of the service.",
    "events": "Events in the ledger by level.",
}


def metrics(reader: Reader) -> str:
    """Return the state of all services in the text format of Prometheus, version 0.0.4.

    The format is written here: ``prometheus_client`` keeps counters of its own process, and these values are computed
    from the ledger at each request.

    Raises
    ------
    StoreUnavailable
        If the ledger cannot be read.
    """
    samples: dict[str, list[str]] = {name: [] for name in _METRICS}
    for service, state in reader.states().items():
        for name, labels, value in _samples(service, state, reader):
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in [("service", service), *labels])
            samples[name].append(f"rollforge_{name}{{{shown}}} {_number(value)}\n")
    lines = []
    for name, values in samples.items():
        if values:
            lines += [f"# HELP rollforge_{name} {_METRICS[name]}\n", f"# TYPE rollforge_{name} gauge\n", *values]
    return "".join(lines)


def _samples(
    service: str, state: ServiceState, reader: Reader
) -> Iterator[tuple[str, Iterable[tuple[str, str]], float | int]]:
    after, last = state.next_day(), state.last_published
    if last is not None:
        yield "last_published_day_timestamp_seconds", (), int(read_timestamp(last).timestamp())  # midnight, UTC
        yield "day_duration_seconds", (), state.days[last].seconds
        latest = state.signals().get(last)
        yield "signal_rows", (), latest.rows if latest else 0
        yield "fallback", (), int(bool(fallback(state)))
        for check in state.checked(last).values():
            if check.value is not None:
                yield "check_value", [("check", check.name)], check.value
            yield "check_exceeded", [("check", check.name)], int(check.outcome in (Outcome.WARN, Outcome.FAIL))
    try:
        due = due_days(state, reader.uri)
    except DataError:  # reported by /health; the other metrics do not depend on the data
        due = None
    if due is not None:
        yield "days_due", (), len(due)
    yield "entries", (), state.last
    yield "days_failed", (), len(failed_days(state))
    yield "champions", (), len(state.champions(after))
    yield "candidates", (), len(state.candidates(after))
    yield "running", (), int(reader.held_by(service) is not None)
    for level in Level:
        yield "events", [("level", level.value)], sum(event.level is level for _, event in state.events)


def _number(value: float) -> str:
    """Return a number as Prometheus reads it.

    Examples
    --------
    >>> [_number(value) for value in (3, 0.25, float("inf"), float("-inf"), float("nan"))]
    ['3', '0.25', '+Inf', '-Inf', 'NaN']
    """
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(value), repr(value))


def _escaped(text: str) -> str:
    """Return the value of a label.

    Examples
    --------
    >>> print(_escaped('a "b"'))
    a \\"b\\"
    """
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
