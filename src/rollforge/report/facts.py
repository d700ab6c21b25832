"""The headline of a report in words, the same on the page and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollforge.report.summary import YEAR, Headline

__all__ = ["Fact", "duration", "facts"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A headline figure as a person reads it."""

    name: str
    text: str
    hint: str = ""
    """What it is made of, in a few words."""
    quality: bool = False
    """Whether it says how good the prediction is, rather than how much there is of it."""


def facts(headline: Headline) -> list[Fact]:
    """Return the headline in words: what there is first, then how good it is. What has no value is left out."""
    made = [Fact("windows", _statuses(headline))]
    if headline.rows:
        made.append(Fact("out of sample", f"{headline.first_day} to {headline.last_day}"))
        made.append(
            Fact("predictions", f"{headline.rows:,} ({headline.days:,} days, {headline.instruments:,} instruments)")
        )
    if headline.task_seconds:
        share = headline.fit_seconds / headline.task_seconds
        made.append(
            Fact(
                "time in tasks",
                f"{duration(headline.task_seconds)}, {duration(headline.fit_seconds)} of it in model fitting ({share:.0%})",
            )
        )
    return made + _quality_facts(headline)


def _quality_facts(headline: Headline) -> list[Fact]:
    days = f"{headline.ic_days:,} days"
    shown = [
        ("IC", headline.ic, "{:.4f}", f"mean of {days}, Pearson"),
        ("ICIR", headline.icir, "{:.3f}", "mean / standard deviation"),
        ("Rank IC", headline.rank_ic, "{:.4f}", f"mean of {days}, Spearman"),
        ("Rank ICIR", headline.rank_icir, "{:.3f}", "mean / standard deviation"),
        ("t of IC", headline.ic_t, "{:.2f}", "ICIR × √days"),
        ("days with IC > 0", headline.ic_positive, "{:.1%}", f"of {days}"),
        ("long-short a year", headline.long_short_return, "{:.1%}", "highest fifth less lowest, before costs"),
        ("long-short Sharpe", headline.long_short_sharpe, "{:.2f}", f"a year of {YEAR} days, before costs"),
    ]
    return [
        Fact(name, form.format(value) if np.isfinite(value) else "n/a", hint, quality=True)
        for name, value, form, hint in shown
        if value is not None
    ]


def _statuses(headline: Headline) -> str:
    done = headline.statuses.get("done", 0)
    others = [f"{n} {name}" for name, n in sorted(headline.statuses.items()) if name != "done"]
    return ", ".join([f"{done} of {headline.windows} done", *others])


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    Examples
    --------
    >>> duration(0.42), duration(62), duration(200), duration(7500)
    ('0.4 s', '62 s', '3 min 20 s', '2 h 05 min')
    """
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
