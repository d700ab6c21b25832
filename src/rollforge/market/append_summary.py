"""Summary of the changes that adding a table makes to a data folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollforge.errors import counted, first_few

__all__ = ["AppendSummary", "Correction", "NewDay"]


@dataclass(frozen=True, slots=True)
class NewDay:
    """A day that was added to the calendar."""

    day: np.datetime64
    instruments: int
    """Number of instruments with values."""
    share: float
    """Their share of the instruments that have data up to the day before, or are new."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A value of a day that the folder already had."""

    instrument: str
    day: np.datetime64
    field: str
    old: float
    """NaN if there was none."""
    new: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendSummary:
    """Summary of a table that was added to a data folder."""

    path: Path
    dry_run: bool
    """Whether this only describes what would change."""
    changed: bool
    """False if the folder already has everything in the table."""
    first: np.datetime64
    """First day of the calendar."""
    last: np.datetime64
    """Last day of the calendar, with the new days."""
    days: tuple[NewDay, ...] = ()
    listed: tuple[str, ...] = ()
    """New instruments."""
    ended: tuple[str, ...] = ()
    """Instruments with data up to the former last day, but none on the new last day."""
    resumed: tuple[str, ...] = ()
    """Instruments without data on the former last day that have some on a later one."""
    fields: tuple[str, ...] = ()
    """New fields."""
    empty: tuple[tuple[str, np.datetime64], ...] = ()
    """Field and new day for which no instrument of the table has a value, although some had one on the former last day."""
    gaps: tuple[np.datetime64, ...] = ()
    """Days since the former last day that are probably trading days, but that the table lacks."""
    weekends: tuple[np.datetime64, ...] = ()
    """New days on a weekend, on which the folder has hardly any trading days."""
    corrections: int = 0
    """Number of changed values of days that the folder already had."""
    first_corrections: tuple[Correction, ...] = ()
    unchanged_rows: int = 0
    """Rows of the table that the folder already had."""
    written: int = 0
    """Bytes of the changed files."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the summary in one line, followed by one line per finding."""
        if not self.changed:
            return "\n  ".join([f"nothing to append, the folder ends on {self.last}", *self.notes])
        parts = [counted(len(self.days), "day")]
        if self.days:
            parts[0] += f" added, {self.days[0].day}" + (f" to {self.days[-1].day}" if len(self.days) > 1 else "")
        else:
            parts[0] += " added"
        parts.append(counted(self.corrections, "correction"))
        line = ("would change: " if self.dry_run else "") + ", ".join(parts)
        findings = [
            f"{label}: {first_few(names)}"
            for label, names in (
                ("new instruments", self.listed),
                (f"no rows on {self.last}", self.ended),
                ("rows after a suspension", self.resumed),
                ("new fields", self.fields),
                ("fields without values", [f"{name} on {day}" for name, day in self.empty]),
                ("days without rows that are probably trading days", [str(day) for day in self.gaps]),
                ("trading days on weekends", [str(day) for day in self.weekends]),
            )
            if names
        ]
        few = [f"{d.day} ({counted(d.instruments, 'instrument')}, {d.share:.0%})" for d in self.days if d.share < 0.5]
        if few:
            findings.append(f"days that only a few instruments have: {first_few(few)}")
        findings += [f"{c.field} of {c.instrument} on {c.day}: {c.old:g} -> {c.new:g}" for c in self.first_corrections]
        rest = self.corrections - len(self.first_corrections)
        if rest > 0:
            findings.append(f"and {counted(rest, 'more correction')}")
        if self.unchanged_rows:
            findings.append(f"{counted(self.unchanged_rows, 'row')} that the folder already has")
        return "\n  ".join([line, *findings, *self.notes])

    def to_plain(self) -> dict[str, object]:
        """Return the summary as plain data for JSON; a missing value is None."""
        return {
            "folder": str(self.path),
            "changed": self.changed,
            "dry_run": self.dry_run,
            "first": str(self.first),
            "last": str(self.last),
            "days": [{"day": str(d.day), "instruments": d.instruments, "share": round(d.share, 4)} for d in self.days],
            "listed": list(self.listed),
            "ended": list(self.ended),
            "resumed": list(self.resumed),
            "fields": list(self.fields),
            "empty": [{"field": name, "day": str(day)} for name, day in self.empty],
            "gaps": [str(day) for day in self.gaps],
            "weekends": [str(day) for day in self.weekends],
            "corrections": self.corrections,
            "first_corrections": [
                {"instrument": c.instrument, "day": str(c.day), "field": c.field, "old": _plain(c.old), "new": _plain(c.new)}
                for c in self.first_corrections
            ],
            "unchanged_rows": self.unchanged_rows,
            "written": self.written,
            "notes": list(self.notes),
        }  # fmt: skip


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
