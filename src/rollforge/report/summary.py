"""The numbers of a report. Plots, pages and terminal tables are created from these values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from rollforge.collect.trials import Trials
from rollforge.confidential import mask_secrets
from rollforge.dates import as_timestamp, show_time, times_of
from rollforge.generate.checks import Check
from rollforge.record.analysis import (
    mean_to_std,
)
from rollforge.record.performance import exposure, has_benchmark, performance
from rollforge.record.periods import YEAR, backtest_periods, period_name, periods_per_year
from rollforge.record.persistence import (
    Interval,
    autocorrelation,
    bootstrap_interval,
    ic_by_group,
    ic_decay,
    quantile_turnover,
)
from rollforge.report.compare import Compared, Comparison, compare
from rollforge.report.inputs import ModelInputs, ReportInputs, TaskRow
from rollforge.report.quality import QUANTILES, Quality, evaluated, portfolio_returns, score_column

__all__ = [
    "ENSEMBLE",
    "Headline",
    "Persistence",
    "Summary",
    "by_month",
    "path_distribution",
    "path_figures",
    "result_metrics",
    "summarise",
    "tasks_with_metrics",
    "usable_calendar",
]

ENSEMBLE = "ensemble"
"""Name of the combination of several models in their comparison."""
LAGS = (1, 2, 5, 10, 20)
"""Lags in days at which the persistence of a signal is shown."""
_SAME_IC = 1e-4  # scores may be stored as 32-bit numbers
METRICS = ("IC", "ICIR", "Rank IC", "Rank ICIR")
"""Metrics of a window that are shown, by the names that ``SigAnaRecord`` logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The main figures. None means that there are no data to compute the figure; NaN means that it is undefined."""

    windows: int
    statuses: Mapping[str, int]
    """Status -> number of windows."""
    task_seconds: float
    fit_seconds: float
    rows: int = 0
    unscored: int = 0
    """Number of the rows whose score is missing or infinite."""
    days: int = 0
    instruments: int = 0
    first_day: str = ""
    last_day: str = ""
    models: tuple[str, ...] = ()
    """Names of the models whose predictions are combined; empty for a single model."""
    ensembles: Mapping[str, str] = field(default_factory=dict)
    """The ensembles that combined the predictions: ``windows`` and ``models`` -> description."""
    label_text: str = ""
    label_days: int | None = None
    first_evaluated: str = ""
    last_evaluated: str = ""
    """First and last day on which prediction and label can be compared."""
    ic_days: int = 0
    """Number of days on which prediction and label can be compared."""
    ic: float | None = None
    icir: float | None = None
    ic_t: float | None = None
    """t statistic of the mean IC, adjusted for overlapping labels (:func:`~rollforge.record.analysis.newey_west_t`)."""
    ic_positive: float | None = None
    """Share of the days with an IC above 0."""
    rank_ic: float | None = None
    rank_icir: float | None = None
    long_short_return: float | None = None
    """Return of the highest minus the lowest quintile, per year, before costs."""
    long_short_sharpe: float | None = None
    """Sharpe ratio of returns over the days of a label, per year, before costs."""
    long_short_days: int = 0
    """Number of days with a highest and a lowest quintile."""
    period: str = "day"
    """What all numbers of days count: ``day``, ``bar`` with intraday data, or ``period`` for weeks, months and so on."""
    per_year: float = YEAR
    """Number of these in a year."""

    @property
    def complete(self) -> bool:
        """Whether every window is done."""
        return self.statuses.get("done", 0) == self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """Confidence interval and decay of a prediction's IC, and turnover of its scores."""

    interval: Interval
    """95 % bootstrap interval of the mean IC; NaN if the days of the label are unknown."""
    by_lag: pd.DataFrame
    """Index: lags in days, from 0; columns IC, Rank IC, t, days (see
    :func:`~rollforge.record.persistence.ic_decay`), and autocorrelation, the mean over days; NaN for lag 0."""
    turnover: pd.DataFrame
    """Share of the highest and of the lowest quintile that was not in it on the day before: columns highest and lowest,
    by day, without days that have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The numbers of a report. Series and frames are sorted by day."""

    title: str
    tasks: tuple[TaskRow, ...]
    headline: Headline
    ic: pd.Series | None = None
    rank_ic: pd.Series | None = None
    quantiles: pd.DataFrame | None = None
    """Mean return of each quintile of the prediction, per day of holding: columns 1 (lowest scores) to 5, and ``mean``
    of all. None if there are no quintiles, or the days of the label are unknown."""
    quantile_table: pd.DataFrame | None = None
    """Index: 1 to 5, then ``5 - 1``; columns label (mean, over the days of the label), annual, excess, sharpe,
    positive."""
    persistence: Persistence | None = None
    """None if prediction and label can be compared on no day."""
    groups: pd.DataFrame | None = None
    """IC within each group, see :func:`~rollforge.record.persistence.ic_by_group`; its index has the name of the
    groups. None if there are no groups."""
    model_groups: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """The same of each model out of several, with its own label."""
    quality: Quality | None = None
    """Quality of the prediction; None without a prediction or labels."""
    models: tuple[Quality, ...] = ()
    """Quality of each model, evaluated against its own label; empty for a single model."""
    comparison: Comparison | None = None
    """The combination of several models, called :data:`ENSEMBLE`, and each of them; None for a single model. The figures
    of a model are those with its own label, and its differences from the combination those with the combination's."""
    paths: Mapping[str, tuple[Quality, ...]] = field(default_factory=dict)
    """Model -> quality of each of its backtest paths; empty without combinatorial splits."""
    trials: Trials | None = None
    """As in :class:`ReportInputs`."""
    portfolio: pd.DataFrame | None = None
    """Daily returns of the backtest, see :func:`~rollforge.record.performance.daily_returns`."""
    portfolio_about: Mapping[str, str] = field(default_factory=dict)
    """As in :class:`ReportInputs`."""
    portfolio_risk: pd.DataFrame | None = None
    """See :func:`~rollforge.record.performance.performance`."""
    exposure: pd.DataFrame | None = None
    """Columns of :func:`~rollforge.record.performance.exposure`, and turnover (value traded on the day, divided by that
    of the account); None if the positions are unknown."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    """What the checks for leakage found."""
    parts: Mapping[str, Summary] = field(default_factory=dict)
    """The summaries of models with different labels, by title; empty if all models have the same label."""
    combined: bool = True
    """Whether there is a single result, and not only one for each part."""
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[TaskRow, ...]:
        """The tasks that failed."""
        return tuple(t for t in self.tasks if t.status == "failed")

    @property
    def has_benchmark(self) -> bool:
        """Whether the backtest has a benchmark."""
        return self.portfolio is not None and has_benchmark(self.portfolio)

    @property
    def has_quality(self) -> bool:
        """Whether there is a day on which prediction and label can be compared."""
        return self.ic is not None and len(self.ic) > 0


def summarise(inputs: ReportInputs) -> Summary:
    """Return the numbers of a report.

    Parameters
    ----------
    inputs : ReportInputs
        Figures that need a missing prediction or label are omitted. Passwords in URLs are masked.

    Raises
    ------
    DataError
        If the index of a prediction or label lacks the levels datetime and instrument, or contains a row twice, or if
        the days of a label are below 1.
    """
    per_year = periods_per_year(inputs.calendar)
    headline = replace(
        _effort(inputs.tasks), models=tuple(m.name for m in inputs.models), ensembles=inputs.ensembles,
        period=period_name(inputs.calendar), per_year=per_year,
    )  # fmt: skip
    scores = score_column(inputs.prediction, "prediction")
    if scores is not None:
        headline = _extent(headline, scores)
    whole = ModelInputs("", inputs.prediction, inputs.label, inputs.label_text, inputs.label_days)
    quality = evaluated(whole, per_year)
    ic = rank_ic = fifths = table = None
    if quality is not None:
        headline = _with_evaluation(headline, quality)
        ic, rank_ic = quality.ic, quality.rank_ic
        if len(quality.long_short):
            table = _quantile_table(quality)
            fifths = None if quality.label_days is None else quality.returns / quality.label_days
    persistence = None if quality is None or quality.ic.empty else _persistence(inputs, quality)
    models = _qualities(inputs.models, per_year)
    qualities = {model.name: model for model in models}
    names = {task.model for task in inputs.tasks}
    if quality is not None and not inputs.models and len(names) == 1:
        qualities[names.pop()] = quality
    portfolio = portfolio_returns(inputs.portfolio)
    return Summary(
        title=mask_secrets(inputs.title),
        tasks=tuple(
            _with_interval(task, qualities[task.model], alone) if task.model in qualities else task
            for task, alone in _alone(
                tasks_with_metrics(inputs.tasks, {name: (q.ic, q.rank_ic) for name, q in qualities.items()})
            )
        ),
        headline=headline,
        ic=ic,
        rank_ic=rank_ic,
        quantiles=fifths,
        quantile_table=table,
        persistence=persistence,
        groups=None if quality is None or quality.ic.empty else _groups(whole, inputs.groups),
        model_groups={
            model.name: table
            for model in inputs.models
            if model.name in qualities and (table := _groups(model, inputs.groups)) is not None
        },
        quality=quality,
        models=models,
        comparison=_comparison(inputs, quality, qualities, per_year),
        paths={model: made for model, own in inputs.paths.items() if (made := _qualities(own, per_year))},
        trials=inputs.trials,
        portfolio=portfolio,
        portfolio_about={k: mask_secrets(v) for k, v in inputs.portfolio_about.items()},
        portfolio_risk=None
        if inputs.portfolio is None or portfolio is None
        else performance(inputs.portfolio, per_year=backtest_periods(per_year)),
        exposure=None if portfolio is None else _exposure(inputs),
        notes=tuple(mask_secrets(n) for n in inputs.notes),
        warnings=tuple(mask_secrets(n) for n in inputs.warnings),
        checks=tuple(replace(c, text=mask_secrets(c.text), advice=mask_secrets(c.advice)) for c in inputs.checks),
        config=mask_secrets(inputs.config),
        environment={k: mask_secrets(v) for k, v in inputs.environment.items()},
    )


def _comparison(
    inputs: ReportInputs, whole: Quality | None, own: Mapping[str, Quality], per_year: float
) -> Comparison | None:
    """Compare each model with the combination of all."""
    if not inputs.models or whole is None:
        return None
    alike = (whole.label_text, whole.label_days)
    members = []
    for model in inputs.models:
        quality = own.get(model.name)
        if quality is not None and (quality.label_text, quality.label_days) != alike:
            quality = evaluated(
                replace(model, label=inputs.label, label_text=inputs.label_text, label_days=inputs.label_days), per_year
            )
        members.append(_compared(model.name, quality, model.prediction, inputs))
    name = ENSEMBLE
    while any(model.name == name for model in inputs.models):
        name += " "
    return compare([_compared(name, whole, inputs.prediction, inputs), *members], own)


def _compared(name: str, quality: Quality | None, prediction: pd.DataFrame | None, inputs: ReportInputs) -> Compared:
    """Return a prediction, evaluated with the label of the combination, for the comparison."""
    return Compared(
        name=name,
        quality=quality,
        per_year=periods_per_year(inputs.calendar),
        period=period_name(inputs.calendar),
        scores=score_column(prediction, "prediction"),
        labels=score_column(inputs.label, "label"),
    )


def _persistence(inputs: ReportInputs, quality: Quality) -> Persistence:
    scores, truth = score_column(inputs.prediction, "prediction"), score_column(inputs.label, "label")
    calendar, h = usable_calendar(inputs.calendar, scores), quality.label_days
    by_lag = ic_decay(scores, truth, (0, *LAGS), calendar, days=h)
    turnover = quantile_turnover(scores, QUANTILES, 1, calendar)[[QUANTILES, 1]].set_axis(["highest", "lowest"], axis=1)
    return Persistence(
        interval=Interval(np.nan, np.nan) if h is None else bootstrap_interval(quality.ic, h),
        by_lag=by_lag.assign(autocorrelation=autocorrelation(scores, LAGS, calendar).mean()),
        turnover=turnover.dropna(),
    )


def _groups(model: ModelInputs, groups: pd.Series | None) -> pd.DataFrame | None:
    if groups is None:
        return None
    scores, truth = score_column(model.prediction, "prediction"), score_column(model.label, "label")
    table = ic_by_group(scores, truth, groups, days=model.label_days)
    return None if table.empty else table.rename_axis(str(groups.name or "group"))


def usable_calendar(calendar: pd.DatetimeIndex | None, scores: pd.Series | None) -> pd.DatetimeIndex | None:
    """Return the calendar by which the days of a prediction are counted; None if it lacks some of them.

    This happens if the data are other ones now than those of the tasks.
    """
    if calendar is None or scores is None:
        return None
    days = pd.DatetimeIndex(scores.index.get_level_values("datetime").unique())
    return calendar if days.isin(calendar).all() else None


def result_metrics(summary: Summary) -> dict[str, float]:
    """Return the figures of a report under the names that ``SigAnaRecord`` logs; for several models, those of each as
    well."""
    h = summary.headline
    values = {"IC": h.ic, "ICIR": h.icir, "Rank IC": h.rank_ic, "Rank ICIR": h.rank_icir, "IC t": h.ic_t}
    values |= {"IC days": float(h.ic_days), "days": float(h.days), "rows": float(h.rows)}
    for model in summary.models:
        own = {
            "IC": model.ic.mean(), "ICIR": mean_to_std(model.ic), "Rank IC": model.rank_ic.mean(),
            "Rank ICIR": mean_to_std(model.rank_ic), "IC t": model.ic_t, "IC days": len(model.ic),
        }  # fmt: skip
        values |= {f"{model.name}/{name}": value for name, value in own.items()}
    for name, paths in summary.paths.items():
        prefix = f"{name}/paths" if name else "paths"
        spread = path_distribution(path_figures(paths))
        values[f"{prefix}/number"] = float(len(paths))
        for figure in spread:
            values |= {f"{prefix}/{figure} {row}": float(value) for row, value in spread[figure].items()}
    values |= _trial_metrics(summary.trials)
    return {name: float(value) for name, value in values.items() if value is not None}


def _trial_metrics(trials: Trials | None) -> dict[str, float | None]:
    """Return the figures of all variants tried; Sharpe ratios are annual."""
    if trials is None:
        return {}
    values: dict[str, float | None] = {"trials": float(trials.tried)}
    if trials.deflated is not None:
        scale = float(np.sqrt(trials.periods))
        values |= {
            "deflated Sharpe": trials.deflated.probability, "best Sharpe": trials.deflated.sharpe * scale,
            "expected max Sharpe": trials.deflated.expected_max * scale,
        }  # fmt: skip
    if trials.overfitting is not None:
        values["PBO"] = trials.overfitting.probability
    return values


def _qualities(given: Sequence[ModelInputs], per_year: float) -> tuple[Quality, ...]:
    return tuple(made for one in given if (made := evaluated(one, per_year)) is not None)


def path_figures(paths: Sequence[Quality]) -> pd.DataFrame:
    """Return the figures of backtest paths, one row per path.

    Returns
    -------
    DataFrame
        Index: names of the paths. Columns: IC, ICIR, Rank IC, Rank ICIR (means over days), Return (annual, highest
        minus lowest quintile, before costs), Sharpe (of that return, per year); and if any path has a backtest, Net
        return (annual, after costs), Net Sharpe (of that return, per year) and Drawdown (the maximum).
    """
    backtested = any(path.backtest is not None for path in paths)
    rows = {
        path.name: {
            "IC": float(path.ic.mean()), "ICIR": mean_to_std(path.ic), "Rank IC": float(path.rank_ic.mean()),
            "Rank ICIR": mean_to_std(path.rank_ic), "Return": path.annual(path.long_short),
            "Sharpe": path.sharpe(path.long_short), **(_net(path) if backtested else {}),
        }
        for path in paths
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _net(path: Quality) -> dict[str, float]:
    names = {"Net return": "annualized_return", "Net Sharpe": "information_ratio", "Drawdown": "max_drawdown"}
    return {k: float("nan") if path.backtest is None else float(path.backtest[v]) for k, v in names.items()}


def path_distribution(figures: pd.DataFrame) -> pd.DataFrame:
    """Return the distribution of figures over backtest paths: rows mean, std, min, median, max.

    The standard deviation is that of a sample; it is NaN for a single path.
    """
    return figures.agg(["mean", "std", "min", "median", "max"])


def _effort(tasks: Sequence[TaskRow]) -> Headline:
    return Headline(
        windows=len(tasks),
        statuses=dict(Counter(t.status for t in tasks)),
        task_seconds=float(sum(t.metrics.get("task_seconds", 0.0) for t in tasks)),
        fit_seconds=float(sum(t.metrics.get("fit_seconds", 0.0) for t in tasks)),
    )


def _extent(headline: Headline, scores: pd.Series) -> Headline:
    days = times_of(scores.index.unique("datetime"))
    return replace(
        headline,
        rows=len(scores),
        unscored=len(scores) - int(np.isfinite(scores.to_numpy(np.float64)).sum()),
        days=len(days),
        instruments=int(scores.index.get_level_values("instrument").nunique()),
        first_day=show_time(days.min()),
        last_day=show_time(days.max()),
    )


def _with_evaluation(headline: Headline, quality: Quality) -> Headline:
    ic, rank_ic, spread = quality.ic, quality.rank_ic, quality.long_short
    made = replace(headline, label_text=mask_secrets(quality.label_text), label_days=quality.label_days)
    if ic.empty:
        return made
    days = times_of(ic.index)
    return replace(
        made,
        first_evaluated=show_time(days[0]),
        last_evaluated=show_time(days[-1]),
        ic_days=len(ic),
        ic=float(ic.mean()),
        icir=mean_to_std(ic),
        ic_t=quality.ic_t,
        ic_positive=float((ic > 0).mean()),
        rank_ic=float(rank_ic.mean()),
        rank_icir=mean_to_std(rank_ic),
        long_short_return=quality.annual(spread),
        long_short_sharpe=quality.sharpe(spread),
        long_short_days=len(spread),
    )


def _quantile_table(quality: Quality) -> pd.DataFrame:
    """Return the figures of each quantile, and of the highest minus the lowest."""
    returns = quality.returns
    rows = {str(q): _figures(quality, returns[q], returns[q] - returns["mean"]) for q in range(1, QUANTILES + 1)}
    rows[f"{QUANTILES} - 1"] = _figures(quality, quality.long_short, quality.long_short)
    return pd.DataFrame(rows).T


def _figures(quality: Quality, returns: pd.Series, excess: pd.Series) -> dict[str, float]:
    there = returns.dropna()
    return {
        "label": float(there.mean()),
        "annual": quality.annual(there),
        "excess": quality.annual(excess.dropna()),
        "sharpe": quality.sharpe(there),
        "positive": float((there > 0).mean()) if len(there) else float("nan"),
    }


def tasks_with_metrics(tasks: Sequence[TaskRow], ics: Mapping[str, tuple[pd.Series, pd.Series]]) -> tuple[TaskRow, ...]:
    """Return the tasks with masked errors, and with metrics of their test days if no record logged them.

    If windows of one model test the same days, the joined prediction contains only one of them, so none of them gets
    metrics.

    Parameters
    ----------
    tasks : sequence of TaskRow
        The tasks.
    ics : mapping
        Name of each model -> its daily IC and Rank IC.
    """
    rows = []
    for task, alone in _alone(tasks):
        test, metrics = task.window.segments.get("test"), task.metrics
        found = ics.get(task.model)
        if alone and test is not None and found is not None and task.status == "done" and "IC" not in metrics:
            ic, rank_ic = found
            metrics = {
                **_between("", ic, test.start, test.end),
                **_between("Rank ", rank_ic, test.start, test.end),
                **metrics,
            }
        rows.append(replace(task, metrics=metrics, error=mask_secrets(task.error)))
    return tuple(rows)


def _alone(tasks: Sequence[TaskRow]) -> list[tuple[TaskRow, bool]]:
    """Return the tasks, each with whether its test segment is one interval that no other window of its model tests."""
    starts = Counter((t.model, s.start) for t in tasks if (s := t.window.segments.get("test")) is not None)
    found = []
    for task in tasks:
        test = task.window.segments.get("test")
        found.append((task, test is not None and not test.intervals and starts[task.model, test.start] == 1))
    return found


def _with_interval(task: TaskRow, quality: Quality, alone: bool) -> TaskRow:
    """Return a task with the 95 % interval of its mean IC, ``IC low`` and ``IC high``, if the days of its IC are known."""
    test, logged = task.window.segments.get("test"), task.metrics.get("IC")
    if not alone or test is None or logged is None or quality.label_days is None:
        return task
    inside = quality.ic.loc[as_timestamp(test.start) : as_timestamp(test.end)]
    # A record may have logged the IC of other days or of another label.
    if not len(inside) or abs(float(inside.mean()) - logged) > _SAME_IC:
        return task
    low, high = bootstrap_interval(inside, quality.label_days)
    return replace(task, metrics={**task.metrics, "IC low": low, "IC high": high}) if np.isfinite(low) else task


def _between(name: str, values: pd.Series, start: np.datetime64, end: np.datetime64) -> dict[str, float]:
    inside = values.loc[as_timestamp(start) : as_timestamp(end)]
    return {f"{name}IC": float(inside.mean()), f"{name}ICIR": mean_to_std(inside)} if len(inside) else {}


def _exposure(inputs: ReportInputs) -> pd.DataFrame | None:
    if inputs.portfolio is None or inputs.positions is None or "turnover" not in inputs.portfolio:
        return None
    report = inputs.portfolio.sort_index()
    return exposure(inputs.positions).reindex(report.index).assign(turnover=report["turnover"])


def by_month(values: pd.Series) -> pd.DataFrame:
    """Return the mean of a daily series by year and month, and over each year.

    Parameters
    ----------
    values : Series
        Index: days.

    Returns
    -------
    DataFrame
        Index: years; columns 1 to 12, then ``year``; NaN if there are no days.
    """
    days = pd.DatetimeIndex(values.index)
    frame = pd.DataFrame({"year": days.year, "month": days.month, "value": values.to_numpy(np.float64)})
    table = frame.pivot_table(index="year", columns="month", values="value", aggfunc="mean").reindex(
        columns=range(1, 13)
    )
    table.columns = pd.Index([*range(1, 13)], dtype=object)
    return table.assign(year=frame.groupby("year")["value"].mean())
