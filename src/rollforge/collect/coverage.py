"""Coverage: whether windows make one out-of-sample result, and what is wrong with those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rollforge.data.provider import Days
from rollforge.errors import CoverageError

__all__ = ["Coverage", "Expected", "check_coverage"]


@dataclass(frozen=True, slots=True)
class Expected:
    """A window that should be there."""

    key: str
    """What a person calls it."""
    start: np.datetime64
    end: np.datetime64
    state: str
    """``done``, or why it is not: ``failed``, ``waiting``, ``running``."""
    group: str = ""
    """Windows of different groups (models, say) may overlap."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What there is and what is not."""

    notes: tuple[str, ...] = field(default=())
    """One sentence for each thing that is wrong; empty when all is well."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing to say."""
        return not self.notes

    def require(self) -> None:
        """Do nothing, unless something is wrong.

        Raises
        ------
        CoverageError
            Naming all of it.
        """
        if self.notes:
            listed = "\n  ".join(self.notes)
            raise CoverageError(
                f"The windows do not make one out-of-sample result:\n  {listed}\n"
                "Run the missing ones, or leave them out on purpose: --allow-gaps, coverage='allow_gaps'."
            )


def check_coverage(windows: Sequence[Expected], calendar: Days, found: Mapping[str, Days]) -> Coverage:
    """Return what is missing, failed, overlapping or empty.

    Parameters
    ----------
    windows : sequence of Expected
        What should be there, in any order.
    calendar : array of datetime64[D]
        The trading days.
    found : mapping
        Key -> the days for which a window that is done has a prediction.
    """
    notes = [f"{w.key} is {w.state}" for w in windows if w.state != "done"]
    for group in dict.fromkeys(w.group for w in windows):
        members = sorted((w for w in windows if w.group == group), key=lambda w: w.start)
        for before, after in pairwise(members):
            if after.start <= before.end:
                notes.append(f"{before.key} and {after.key} overlap: both test {after.start}")
            else:
                between = _between(calendar, before.end, after.start)
                if len(between):
                    notes.append(
                        f"{len(between)} trading days lie between {before.key} and {after.key}: {_span(between)}"
                    )
    for window in windows:
        if window.state == "done":
            notes.extend(_holes(window, calendar, found.get(window.key)))
    return Coverage(tuple(notes))


def _between(calendar: Days, after: np.datetime64, before: np.datetime64) -> Days:
    return calendar[(calendar > after) & (calendar < before)]


def _holes(window: Expected, calendar: Days, days: Days | None) -> list[str]:
    if days is None or not len(days):
        return [f"{window.key} is done and has no prediction"]
    wanted = calendar[(calendar >= window.start) & (calendar <= window.end)]
    missing = np.setdiff1d(wanted, days)
    notes = [f"{window.key} has no prediction for {len(missing)} days: {_span(missing)}"] if len(missing) else []
    beyond = np.setdiff1d(days, wanted)
    if len(beyond):
        notes.append(f"{window.key} predicts {len(beyond)} days outside its test segment: {_span(beyond)}")
    return notes


def _span(days: Days) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
