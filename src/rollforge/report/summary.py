"""What a report says, in numbers. Figures, pages and terminal tables are made of these values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from rollforge.confidential import mask_secrets
from rollforge.errors import DataError
from rollforge.generate.timeline import Window
from rollforge.record.analysis import calc_ic, quantile_returns, risk_analysis
from rollforge.run.failures import error_line

__all__ = ["Headline", "ReportInputs", "Summary", "TaskRow", "by_month", "summarise"]

YEAR = 252
"""Trading days that annualised figures of a signal count (a backtest's own figures count Qlib's 238)."""
QUANTILES = 5
METRICS = ("IC", "ICIR", "Rank IC", "Rank ICIR")
"""What is shown of a window's metrics, by the names that ``SigAnaRecord`` logs."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: its window, how it ended, what it took."""

    window: Window
    status: str
    """``done``, ``failed``, ``waiting``, ``running``, ``part_done``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What its recorder logged; ``task_seconds`` and ``fit_seconds`` are its durations."""
    recorder_id: str = ""
    attempt: int = 0
    error: str = ""
    """Traceback of a task that failed."""
    model: str = ""
    """What tells this task's model from others of the same experiment (a grid); empty when there is one model."""

    @property
    def reason(self) -> str:
        """The line of the traceback that names the error."""
        return error_line(self.error)


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
    """What is missing or overlaps: one sentence each."""
    config: str = ""
    """The workflow as YAML."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions, cores, folders, stores."""
    portfolio: pd.DataFrame | None = None
    """Daily report of a backtest, as ``PortAnaRecord`` keeps it: columns return, bench, cost; index the days."""
    label_days: int = 1
    """Over how many trading days the return of one label runs. Returns are divided by it before they are added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The figures that a person asks for first. None: there is nothing to compute it from; NaN: it has no value."""

    windows: int
    statuses: Mapping[str, int]
    """Status -> how many windows."""
    task_seconds: float
    fit_seconds: float
    rows: int = 0
    days: int = 0
    instruments: int = 0
    first_day: str = ""
    last_day: str = ""
    ic_days: int = 0
    """Days on which prediction and label can be compared."""
    ic: float | None = None
    icir: float | None = None
    ic_t: float | None = None
    """ICIR times the root of the number of days: days count as independent."""
    ic_positive: float | None = None
    """Share of the days with an IC above 0."""
    rank_ic: float | None = None
    rank_icir: float | None = None
    long_short_return: float | None = None
    """Highest less lowest fifth, a year of 252 days, before costs."""
    long_short_sharpe: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every window is done."""
        return self.statuses.get("done", 0) == self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The numbers of a report. Series and frames are by day, in order."""

    title: str
    tasks: tuple[TaskRow, ...]
    headline: Headline
    ic: pd.Series | None = None
    rank_ic: pd.Series | None = None
    quantiles: pd.DataFrame | None = None
    """Mean return of each fifth of the prediction: columns 1 (lowest scores) to 5, per day of holding."""
    quantile_table: pd.DataFrame | None = None
    """Index: the columns of `quantiles`, then ``5 - 1``; columns annual, excess, sharpe, positive."""
    portfolio: pd.DataFrame | None = None
    """Daily returns: columns strategy (after costs), bench, excess (before costs), excess_with_cost."""
    portfolio_risk: pd.DataFrame | None = None
    """Index: excess before costs, excess after costs, strategy after costs; columns those of `risk_analysis`."""
    label_days: int = 1
    notes: tuple[str, ...] = ()
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[TaskRow, ...]:
        """The tasks that failed."""
        return tuple(t for t in self.tasks if t.status == "failed")

    @property
    def has_quality(self) -> bool:
        """Whether there is a day on which prediction and label can be compared."""
        return self.ic is not None and len(self.ic) > 0


def summarise(inputs: ReportInputs) -> Summary:
    """Return the numbers of a report.

    Parameters
    ----------
    inputs : ReportInputs
        Without a prediction, or without labels, what needs them is left out. Passwords in URLs of its texts are masked.

    Raises
    ------
    DataError
        For a prediction or label whose index lacks the levels datetime and instrument, or a `label_days` below 1.
    """
    if inputs.label_days < 1:
        raise DataError(f"label_days must be at least 1 trading day, found {inputs.label_days}.")
    scores, truth = _column(inputs.prediction, "prediction"), _column(inputs.label, "label")
    headline = _effort(inputs.tasks)
    ic = rank_ic = by_day = table = None
    if scores is not None:
        headline = _extent(headline, scores)
    if scores is not None and truth is not None:
        ic, rank_ic = calc_ic(scores, truth, dropna=True)
        by_day = quantile_returns(scores, truth, QUANTILES) / inputs.label_days
        table = _quantile_table(by_day, inputs.label_days)
        headline = _quality(headline, ic, rank_ic, table)
    portfolio = _portfolio(inputs.portfolio)
    return Summary(
        title=mask_secrets(inputs.title),
        tasks=_tasks(inputs.tasks, ic, rank_ic),
        headline=headline,
        ic=ic,
        rank_ic=rank_ic,
        quantiles=by_day,
        quantile_table=table,
        portfolio=portfolio,
        portfolio_risk=None if portfolio is None else _risk(portfolio),
        label_days=inputs.label_days,
        notes=tuple(mask_secrets(n) for n in inputs.notes),
        config=mask_secrets(inputs.config),
        environment={k: mask_secrets(v) for k, v in inputs.environment.items()},
    )


def _column(frame: pd.DataFrame | None, what: str) -> pd.Series | None:
    if frame is None or not len(frame):
        return None
    missing = [name for name in ("datetime", "instrument") if name not in frame.index.names]
    if missing:
        raise DataError(
            f"The {what} needs an index with the levels datetime and instrument, found {list(frame.index.names)}."
        )
    column: pd.Series = frame.iloc[:, 0]
    return column


def _effort(tasks: Sequence[TaskRow]) -> Headline:
    return Headline(
        windows=len(tasks),
        statuses=dict(Counter(t.status for t in tasks)),
        task_seconds=float(sum(t.metrics.get("task_seconds", 0.0) for t in tasks)),
        fit_seconds=float(sum(t.metrics.get("fit_seconds", 0.0) for t in tasks)),
    )


def _extent(headline: Headline, scores: pd.Series) -> Headline:
    days = scores.index.get_level_values("datetime")
    return replace(
        headline,
        rows=len(scores),
        days=int(days.nunique()),
        instruments=int(scores.index.get_level_values("instrument").nunique()),
        first_day=f"{days.min():%Y-%m-%d}",
        last_day=f"{days.max():%Y-%m-%d}",
    )


def _quality(headline: Headline, ic: pd.Series, rank_ic: pd.Series, table: pd.DataFrame | None) -> Headline:
    if ic.empty:
        return headline
    made = replace(
        headline,
        ic_days=len(ic),
        ic=float(ic.mean()),
        icir=_ratio(ic),
        ic_t=_ratio(ic) * float(np.sqrt(len(ic))),
        ic_positive=float((ic > 0).mean()),
        rank_ic=float(rank_ic.mean()),
        rank_icir=_ratio(rank_ic),
    )
    if table is None:
        return made
    spread = table.iloc[-1]
    return replace(made, long_short_return=float(spread["annual"]), long_short_sharpe=float(spread["sharpe"]))


def _ratio(values: pd.Series) -> float:
    spread = float(values.std())
    return float(values.mean()) / spread if spread > 0 else float("nan")


def _quantile_table(by_day: pd.DataFrame, label_days: int) -> pd.DataFrame | None:
    """Figures a year of each quantile, and of the highest less the lowest; None when there are too few instruments."""
    if 1 not in by_day or QUANTILES not in by_day:
        return None
    excess = by_day.sub(by_day.mean(axis=1), axis=0)
    spread = by_day[QUANTILES] - by_day[1]
    rows = {str(q): _year(by_day[q], excess[q], label_days) for q in by_day.columns}
    rows[f"{QUANTILES} - 1"] = _year(spread, spread, label_days)
    return pd.DataFrame(rows).T


def _year(returns: pd.Series, excess: pd.Series, label_days: int) -> dict[str, float]:
    returns = returns.dropna()
    # The return of a label over h days, held once, comes YEAR / h times a year; `returns` are an h-th of it already.
    return {
        "annual": float(returns.mean()) * YEAR,
        "excess": float(excess.mean()) * YEAR,
        "sharpe": _ratio(returns) * float(np.sqrt(YEAR / label_days)),
        "positive": float((returns > 0).mean()) if len(returns) else float("nan"),
    }


def _tasks(tasks: Sequence[TaskRow], ic: pd.Series | None, rank_ic: pd.Series | None) -> tuple[TaskRow, ...]:
    """The tasks, errors masked, with the metrics of their test days where no record logged them."""
    tests = [t.window.segments.get("test") for t in tasks]
    starts = [s.start for s in tests if s is not None]
    own = len(set(starts)) == len(starts)  # windows that share test days share one prediction: it is nobody's own
    made = []
    for task, test in zip(tasks, tests, strict=True):
        metrics = task.metrics
        if own and test is not None and task.status == "done" and "IC" not in metrics:
            metrics = {
                **_between("", ic, test.start, test.end),
                **_between("Rank ", rank_ic, test.start, test.end),
                **metrics,
            }
        made.append(replace(task, metrics=metrics, error=mask_secrets(task.error)))
    return tuple(made)


def _between(name: str, values: pd.Series | None, start: np.datetime64, end: np.datetime64) -> dict[str, float]:
    if values is None:
        return {}
    inside = values.loc[pd.Timestamp(start) : pd.Timestamp(end)]
    return {f"{name}IC": float(inside.mean()), f"{name}ICIR": _ratio(inside)} if len(inside) else {}


def _portfolio(report: pd.DataFrame | None) -> pd.DataFrame | None:
    if report is None or not len(report):
        return None
    missing = [name for name in ("return", "bench", "cost") if name not in report]
    if missing:
        raise DataError(f"The report of a backtest lacks {', '.join(missing)}; it has {', '.join(map(str, report))}.")
    returns = report.astype(np.float64)
    excess = returns["return"] - returns["bench"]
    return pd.DataFrame(
        {
            "strategy": returns["return"] - returns["cost"],
            "bench": returns["bench"],
            "excess": excess,
            "excess_with_cost": excess - returns["cost"],
        }
    )


def _risk(portfolio: pd.DataFrame) -> pd.DataFrame:
    kinds = {
        "excess return, before costs": "excess",
        "excess return, after costs": "excess_with_cost",
        "strategy, after costs": "strategy",
    }
    with np.errstate(invalid="ignore", divide="ignore"):  # a backtest that never trades has no spread
        return pd.DataFrame({name: risk_analysis(portfolio[column])["risk"] for name, column in kinds.items()}).T


def by_month(values: pd.Series) -> pd.DataFrame:
    """Return the mean of a daily series by year and month, and over each year.

    Parameters
    ----------
    values : Series
        Index: days.

    Returns
    -------
    DataFrame
        Index: years; columns 1 to 12, then ``year``; NaN where there is no day.
    """
    days = pd.DatetimeIndex(values.index)
    frame = pd.DataFrame({"year": days.year, "month": days.month, "value": values.to_numpy(np.float64)})
    table = frame.pivot_table(index="year", columns="month", values="value", aggfunc="mean").reindex(
        columns=range(1, 13)
    )
    table.columns = pd.Index([*range(1, 13)], dtype=object)
    return table.assign(year=frame.groupby("year")["value"].mean())
