"""The documents about the days of a service that are sent to the targets of ``notify``."""

from __future__ import annotations

from rollforge.ledger.entry import DayState, EntryKind, Outcome
from rollforge.ledger.state import ServiceState
from rollforge.online.check_rules import described

__all__ = ["day_alerts"]


def day_alerts(state: ServiceState, after: int, by: str) -> list[dict[str, object]]:
    """Return a document for each day that failed, used earlier models, or had a check that warned or failed.

    Parameters
    ----------
    state : ServiceState
        The service.
    after : int
        Only entries with a higher number. A repeated failure adds no entry, so it is reported once.
    by : str
        Only entries of this author: other processes report their own.
    """
    alerts: list[dict[str, object]] = []
    for entry, content in zip(state.entries[after:], state.contents[after:], strict=True):
        day = content.day
        if entry.kind != EntryKind.DAY or day is None or entry.by != by:
            continue
        checks = [check for check in content.checks if check.outcome is not Outcome.OK]
        failed = day.state is DayState.FAILED
        said = [text for text in (day.error, day.fallback) if text]
        # If a check made the day fail, the error of the day is the check in words.
        said += [text for text in map(described, checks) if text not in said]
        if not (failed or said):
            continue
        event = "day_failed" if failed else "fallback" if day.fallback else "check"
        alerts.append(
            {
                "job": "serve", "event": event, "name": entry.service, "day": day.day, "state": day.state.value,
                "text": f"{entry.service} {day.day} {day.state.value}: {'; '.join(said) or 'no reason was recorded'}",
                "error": day.error, "fallback": day.fallback, "checks": [check.to_document() for check in checks],
                "entry": entry.number,
            }
        )  # fmt: skip
    return alerts
