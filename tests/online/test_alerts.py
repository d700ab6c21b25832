"""The documents about days that are sent to the targets of ``notify``: which days are reported, and in which words."""

from __future__ import annotations

from rollforge.ledger.entry import (
    CheckResult,
    DayResult,
    DayState,
    Document,
    Entry,
    EntryKind,
    Event,
    Level,
    Outcome,
    day_body,
    event_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.online.alerts import day_alerts

FINE = CheckResult("gap", "2024-06-03", 0.0, Outcome.OK, 0.0)
JUMP = CheckResult("jumps", "2024-06-03", 0.9, Outcome.WARN, 0.5, "B +90.0%")
JUMP_SAID = "check jumps of 2024-06-03: 0.9, limit 0.5 (B +90.0%)"


def alerts(
    *days: DayResult, checks: tuple[CheckResult, ...] = (FINE,), by: str = "me", after: int = 0
) -> list[Document]:
    """Return the documents of the author "me" about days, each an entry of `by`, after an entry about something else."""
    event = Entry("us", 1, EntryKind.EVENT, event_body([Event(Level.INFO, "a note")]), 1, 0.0, "me")
    entries = [Entry("us", n, EntryKind.DAY, day_body(d, checks=checks), 1, 0.0, by) for n, d in enumerate(days, 2)]
    return day_alerts(ServiceState.of([event, *entries]), after, "me")


def published(day: str = "2024-06-03", fallback: str = "") -> DayResult:
    return DayResult(day, DayState.PUBLISHED, fallback=fallback)


def test_days_without_a_finding_and_those_of_others_are_not_reported() -> None:
    """Days of entries that were reported before are not reported again."""
    assert alerts(published()) == []
    failed = DayResult("2024-06-03", DayState.FAILED, error="no data")
    assert alerts(failed, by="another") == []
    assert alerts(failed, after=2) == []
    assert [alert["entry"] for alert in alerts(failed, failed, after=2)] == [3]
    assert [alert["entry"] for alert in alerts(published(), failed, after=1)] == [3]


def test_a_failed_day_has_its_error_once() -> None:
    """If a check made the day fail, the error is the check in words, which are not repeated."""
    (alert,) = alerts(DayResult("2024-06-03", DayState.FAILED, error=JUMP_SAID), checks=(FINE, JUMP))
    assert alert == {
        "job": "serve", "event": "day_failed", "name": "us", "day": "2024-06-03", "state": "failed",
        "text": f"us 2024-06-03 failed: {JUMP_SAID}", "error": JUMP_SAID, "fallback": "",
        "checks": [JUMP.to_document()], "entry": 2,
    }  # fmt: skip
    (alert,) = alerts(DayResult("2024-06-03", DayState.FAILED))
    assert (alert["event"], alert["text"]) == ("day_failed", "us 2024-06-03 failed: no reason was recorded")


def test_a_published_day_is_reported_with_all_its_findings() -> None:
    """Earlier models that were used take precedence over a check; both are in the text."""
    (alert,) = alerts(published(), checks=(JUMP, FINE))
    assert (alert["event"], alert["text"]) == ("check", f"us 2024-06-03 published: {JUMP_SAID}")
    (alert,) = alerts(published(fallback="earlier models"), checks=(JUMP,))
    assert (alert["event"], alert["text"]) == ("fallback", f"us 2024-06-03 published: earlier models; {JUMP_SAID}")
