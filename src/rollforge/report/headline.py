"""The headline figures of a report as text, the same on the page and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollforge.collect.combine import ensembles_text
from rollforge.errors import counted
from rollforge.record.periods import backtest_periods
from rollforge.report.summary import Headline

__all__ = [
    "HeadlineFigure",
    "combined_text",
    "duration",
    "evaluated_days_text",
    "headline_figures",
    "label_description",
]


_USUAL = {"windows": "RollingEnsemble", "models": "AverageEnsemble"}


@dataclass(frozen=True, slots=True)
class HeadlineFigure:
    """A headline figure as text."""

    name: str
    text: str
    hint: str = ""
    """Short explanation."""
    quality: bool = False
    """Whether it measures the quality of the prediction rather than its size."""


def _predictions(headline: Headline) -> str:
    scored = headline.rows - headline.unscored
    text = f"{scored:,} ({counted(headline.days, headline.period)}, {counted(headline.instruments, 'instrument')})"
    has = "has" if headline.unscored == 1 else "have"
    return f"{text}; {counted(headline.unscored, 'row')} {has} no score" if headline.unscored else text


def headline_figures(headline: Headline) -> list[HeadlineFigure]:
    """Return the headline figures, first those of size, then those of quality; undefined figures are omitted."""
    size_figures = [HeadlineFigure("windows", _statuses(headline))]
    if headline.models:
        between = "; " if any("," in name for name in headline.models) else ", "
        size_figures.append(HeadlineFigure("models", f"{combined_text(headline)}: {between.join(headline.models)}"))
    other = {part: name for part, name in headline.ensembles.items() if name != _USUAL.get(part)}
    if other and (not headline.models or "windows" in other):
        size_figures.append(HeadlineFigure("ensemble", ensembles_text(other)))
    if headline.rows:
        size_figures.append(HeadlineFigure("out of sample", f"{headline.first_day} to {headline.last_day}"))
        size_figures.append(HeadlineFigure("predictions", _predictions(headline)))
    size_figures += _evaluation(headline)
    if headline.task_seconds:
        share = headline.fit_seconds / headline.task_seconds
        size_figures.append(
            HeadlineFigure(
                "task time",
                f"{duration(headline.task_seconds)}, of which model fitting {duration(headline.fit_seconds)} ({share:.0%})",
            )
        )
    return size_figures + _quality_figures(headline)


def _evaluation(headline: Headline) -> list[HeadlineFigure]:
    """Return the days on which prediction and label are compared, and the label; or why there are none."""
    if not headline.rows:
        return []
    days = counted(headline.days, headline.period)
    if headline.ic_days:
        text = f"{headline.ic_days:,} of {days}, {headline.first_evaluated} to {headline.last_evaluated}"
    else:
        text = (
            f"0 of {days}: an IC needs two instruments with a score and a known label on the same day, and scores and labels "
            "that differ"
        )
    label = label_description(headline.label_text, headline.label_days, headline.period)
    known = [HeadlineFigure("label", label)] if headline.ic_days or headline.label_text else []
    return [HeadlineFigure("evaluated on", text), *known]


def combined_text(headline: Headline) -> str:
    """Describe how the prediction of several models was combined.

    Examples
    --------
    >>> one = Headline(windows=1, statuses={}, task_seconds=0.0, fit_seconds=0.0, models=("a", "b"))
    >>> combined_text(one)
    'average of 2'
    """
    name = headline.ensembles.get("models", _USUAL["models"])
    return f"{'average' if name == _USUAL['models'] else name} of {len(headline.models)}"


def backtest_year(headline: Headline) -> str:
    """Return how many periods a year has in the figures of a backtest: ``238 days per year, as in Qlib``.

    Examples
    --------
    >>> backtest_year(Headline(windows=1, statuses={}, task_seconds=0.0, fit_seconds=0.0, per_year=52.0, period="week"))
    '52 weeks per year'
    """
    periods = backtest_periods(headline.per_year)
    qlib = ", as in Qlib" if periods != headline.per_year else ""
    return f"{periods:,.0f} {headline.period}s per year{qlib}"


def label_description(text: str, days: int | None, period: str = "day") -> str:
    """Describe a label and the number of days, or of other periods, it spans.

    Examples
    --------
    >>> label_description("Ref($close, -6)/Ref($close, -1) - 1", 5)
    'Ref($close, -6)/Ref($close, -1) - 1, over 5 trading days'
    >>> label_description("", None)
    'unknown label, over an unknown number of days'
    """
    unit = "trading day" if period == "day" else period
    over = counted(days, unit) if days is not None else f"an unknown number of {period}s"
    return f"{text or 'unknown label'}, over {over}"


def evaluated_days_text(number: int, first: str, last: str, period: str = "day") -> str:
    """Describe a number of days, or of other periods, and their range.

    Examples
    --------
    >>> evaluated_days_text(388, "2016-01-04", "2017-12-27"), evaluated_days_text(0, "", "")
    ('388 days, 2016-01-04 to 2017-12-27', 'no days')
    """
    return f"{counted(number, period)}, {first} to {last}" if number else f"no {period}s"


def _quality_figures(headline: Headline) -> list[HeadlineFigure]:
    days = counted(headline.ic_days, headline.period)
    shown = [
        ("IC", headline.ic, "{:.4f}", f"mean of {days}, Pearson"),
        ("ICIR", headline.icir, "{:.3f}", f"mean / standard deviation of {days}"),
        ("Rank IC", headline.rank_ic, "{:.4f}", f"mean of {days}, Spearman"),
        ("Rank ICIR", headline.rank_icir, "{:.3f}", f"mean / standard deviation of {days}"),
        ("IC t-stat", headline.ic_t, "{:.2f}", _t_hint(headline)),
        (f"{headline.period}s with IC > 0", headline.ic_positive, "{:.1%}", f"of {days}"),
        (
            "annual long-short return",
            headline.long_short_return,
            "{:.1%}",
            _spread_hint(headline, "highest minus lowest fifth"),
        ),
        ("long-short Sharpe", headline.long_short_sharpe, "{:.2f}", _spread_hint(headline, _over(headline))),
    ]
    return [
        HeadlineFigure(name, form.format(value) if np.isfinite(value) else "n/a", hint, quality=True)
        for name, value, form, hint in shown
        if value is not None
    ]


def _unknown(headline: Headline) -> str:
    return f"the number of {headline.period}s that the label spans is unknown: set label_days"


def _t_hint(headline: Headline) -> str:
    if headline.label_days is None:
        return _unknown(headline)
    if headline.label_days == 1:
        return f"ICIR × √{headline.ic_days}"
    count = counted(headline.ic_days, headline.period)
    return f"{count}, Newey-West with lag {headline.label_days} because labels overlap"


def _spread_hint(headline: Headline, made_of: str) -> str:
    if not headline.long_short_days:
        return f"no {headline.period} can be divided into fifths: too few instruments, or all scores are equal"
    if headline.label_days is None:
        return _unknown(headline)
    return f"before costs, {made_of}, {counted(headline.long_short_days, headline.period)}"


def _over(headline: Headline) -> str:
    if headline.label_days is not None and headline.label_days > 1:
        return f"of returns over {counted(headline.label_days, headline.period)}"
    return "of daily returns" if headline.period == "day" else f"of returns over 1 {headline.period}"


def _statuses(headline: Headline) -> str:
    done = headline.statuses.get("done", 0)
    others = [f"{n} {name}" for name, n in sorted(headline.statuses.items()) if name != "done"]
    return ", ".join([f"{done} of {headline.windows} done", *others])


def duration(seconds: float) -> str:
    """Format a duration in seconds.

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
