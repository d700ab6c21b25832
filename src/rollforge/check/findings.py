"""The findings of the measured checks, by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rollforge.dates import show_time
from rollforge.generate.checks import Check, CheckMethod, CheckResult

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A leak or an unknown result of some tasks."""

    key: str
    text: str
    advice: str
    titles: tuple[str, ...]
    day: str


class Findings:
    """The findings, by subject."""

    def __init__(self) -> None:
        self.checked: dict[str, dict[str, tuple[dict[str, None], dict[str, None]]]] = {}
        """Subject -> what is shown if nothing is found -> titles and days."""
        self.found: dict[tuple[str, CheckResult], dict[str, list[Finding]]] = {}

    def note(self, subject: str, titles: Sequence[str], day: np.datetime64 | None = None, text: str = "") -> None:
        """Record that something was compared; `text` is what this shows if nothing is found."""
        seen_titles, seen_days = self.checked.setdefault(subject, {}).setdefault(text, ({}, {}))
        seen_titles.update(dict.fromkeys(titles))
        seen_days.update({show_time(day): None} if day is not None else {})

    def add(
        self,
        subject: str,
        result: CheckResult,
        key: str,
        text: str,
        advice: str,
        titles: Sequence[str],
        day: np.datetime64 | None = None,
    ) -> None:
        self.note(subject, titles, day)
        group = self.found.setdefault((subject, result), {})
        group.setdefault(key, []).append(
            Finding(key, text, advice, tuple(titles), "" if day is None else show_time(day))
        )

    def leak(
        self, subject: str, key: str, text: str, advice: str, titles: Sequence[str], day: np.datetime64 | None
    ) -> None:
        self.add(subject, CheckResult.LEAK, key, text, advice, titles, day)

    def checks(self) -> list[Check]:
        """Return the results, one for each subject that is clean and one for each cause of another result."""
        results = []
        for subject, proved in self.checked.items():
            groups = [
                (r, g) for r in (CheckResult.LEAK, CheckResult.UNKNOWN) for g in [self.found.get((subject, r))] if g
            ]
            for result, group in groups:
                for found in group.values():
                    first = found[0]
                    results.append(
                        Check(
                            subject, result, CheckMethod.MEASURED, first.text, first.advice,
                            tuple(dict.fromkeys(t for f in found for t in f.titles)),
                            tuple(sorted({f.day for f in found if f.day})),
                        )
                    )  # fmt: skip
            results += [
                Check(subject, CheckResult.CLEAN, CheckMethod.MEASURED, text, "", tuple(titles), tuple(sorted(days)))
                for text, (titles, days) in proved.items()
                if text and not groups
            ]
        return results
