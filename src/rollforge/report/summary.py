"""What a report says, in numbers. Figures, pages and terminal tables are made of these values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from rollforge.generate.timeline import Window
from rollforge.record.analysis import calc_ic, quantile_returns, risk_analysis

__all__ = ["ReportInputs", "Summary", "TaskRow", "summarise"]

YEAR = 252
QUANTILES = 5


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: its window, how it ended, what it took."""

    window: Window
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    recorder_id: str = ""
    attempt: int = 0
    error: str = ""
    """Traceback of a task that failed."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """What a report is made from."""

    title: str
    tasks: Sequence[TaskRow]
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), first column the score."""
    label: pd.DataFrame | None
    """Index (datetime, instrument), first column the raw forward return."""
    notes: Sequence[str] = ()
    """What is missing or overlaps."""
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of a report. Series are by day."""

    title: str
    tasks: tuple[TaskRow, ...]
    headline: tuple[tuple[str, str], ...]
    """Name and formatted value."""
    ic: pd.Series | None
    rank_ic: pd.Series | None
    quantiles: pd.DataFrame | None
    """Cumulative return, less the day's mean, of each fifth of the prediction: columns 1 (lowest scores) to 5."""
    long_short: pd.Series | None
    """Cumulative return of the highest fifth less the lowest."""
    notes: tuple[str, ...]
    config: str
    environment: Mapping[str, str]

    @property
    def failed(self) -> tuple[TaskRow, ...]:
        """The tasks that failed."""
        return tuple(t for t in self.tasks if t.status == "failed")


def summarise(inputs: ReportInputs) -> Summary:
    """Return the numbers of a report.

    Parameters
    ----------
    inputs : ReportInputs
        Without a prediction, or without labels, what needs them is left out.
    """
    done = sum(t.status == "done" for t in inputs.tasks)
    failed = sum(t.status == "failed" for t in inputs.tasks)
    headline = [("windows", f"{done} of {len(inputs.tasks)}" + (f", {failed} failed" if failed else ""))]
    ic = ric = quantiles = long_short = None
    if inputs.prediction is not None and len(inputs.prediction):
        scores = inputs.prediction.iloc[:, 0]
        headline += _extent(scores)
        if inputs.label is not None and len(inputs.label):
            truth = inputs.label.iloc[:, 0]
            ic, ric = calc_ic(scores, truth, dropna=True)
            by_day = quantile_returns(scores, truth, QUANTILES)
            quantiles = by_day.sub(by_day.mean(axis=1), axis=0).cumsum()
            spread = (by_day[QUANTILES] - by_day[1]).dropna() if QUANTILES in by_day else None
            long_short = None if spread is None else spread.cumsum()
            headline += _quality(ic, ric, spread)
    headline += _effort(inputs.tasks)
    return Summary(
        inputs.title, tuple(inputs.tasks), tuple(headline), ic, ric, quantiles, long_short, tuple(inputs.notes),
        inputs.config, dict(inputs.environment),
    )  # fmt: skip


def _extent(scores: pd.Series) -> list[tuple[str, str]]:
    days = scores.index.get_level_values("datetime")
    names = scores.index.get_level_values("instrument").nunique()
    return [
        ("out of sample", f"{days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}"),
        ("predictions", f"{len(scores):,} ({days.nunique():,} days, {names:,} instruments)"),
    ]


def _quality(ic: pd.Series, ric: pd.Series, spread: pd.Series | None) -> list[tuple[str, str]]:
    if ic.empty:
        return []
    rows = [
        ("IC", f"{ic.mean():+.4f}"),
        ("ICIR", _number(ic.mean() / ic.std())),
        ("Rank IC", f"{ric.mean():+.4f}"),
        ("Rank ICIR", _number(ric.mean() / ric.std())),
        ("t of IC", _number(ic.mean() / ic.std() * np.sqrt(len(ic)))),
        ("days with IC > 0", f"{(ic > 0).mean():.0%}"),
    ]
    if spread is not None and len(spread):
        risk = risk_analysis(spread)["risk"]
        rows.append(("long-short a year", f"{risk['annualized_return']:+.1%}"))
        rows.append(("long-short Sharpe", _number(risk["information_ratio"])))
    return rows


def _number(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else "–"


def _effort(tasks: Sequence[TaskRow]) -> list[tuple[str, str]]:
    total = sum(t.metrics.get("task_seconds", 0.0) for t in tasks)
    fit = sum(t.metrics.get("fit_seconds", 0.0) for t in tasks)
    return [("time in tasks", f"{total:.1f} s, {fit:.1f} s of it in model fitting")] if total else []
