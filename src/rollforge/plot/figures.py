"""The functions of :mod:`rollforge.plot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rollforge.arguments import whole_number
from rollforge.errors import ConfigError, DataError, DataNotFound, nearest
from rollforge.plot.source import (
    Drawable,
    HasGroups,
    HasHorizons,
    HasReport,
    Signal,
    Table,
    are_combined,
    backtest_of,
    collected_of,
    paths_of,
    side_of,
    signal_of,
)
from rollforge.record import performance as figures_of, persistence
from rollforge.record.analysis import calc_ic
from rollforge.record.performance import Mode
from rollforge.record.periods import period_name
from rollforge.report import portfolio_figures, signal_figures
from rollforge.report.drawing import day_texts, stacked, with_gaps
from rollforge.report.figures import boundaries, path_returns
from rollforge.report.headline import label_description
from rollforge.report.inputs import TaskRow, task_rows
from rollforge.report.plotly_figure import to_plotly
from rollforge.report.quality import QUANTILES, quantiles_by_day
from rollforge.report.summary import LAGS, tasks_with_metrics, usable_calendar
from rollforge.report.timeline import window_bars

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "autocorrelation", "compare", "cumulative", "drawdown", "equity", "exposure", "heatmap", "ic", "ic_by_group", "ic_decay",
    "ic_histogram", "monthly", "paths", "performance", "quantiles", "turnover", "windows",
]  # fmt: skip


_NO_IC = "There is no IC: on no day with labels do the scores of two instruments differ."


def ic(
    result: Drawable,
    label: Table | None = None,
    *,
    model: str | None = None,
    label_days: int | None = None,
    rolling: int | None = None,
) -> go.Figure:
    """Return the IC and the Rank IC of each day, their rolling means, and their sums since the first day.

    Parameters
    ----------
    result : result, experiment name, Series or table
        A result of :func:`~rollforge.walk_forward.walk_forward`, a :class:`~rollforge.collect.result.Collected`, the name
        of an experiment in the current session, or a prediction by day and instrument.
    label : Series or table, optional
        The label of a prediction that is a table; results have theirs.
    model : str, optional
        The model of an experiment with several models; by default the joined prediction.
    label_days : int, optional
        Number of days that a label spans; by default that of the result.
    rolling : int, optional
        Days of the rolling mean; by default 60, or 20 if there are fewer than 180 days.

    Returns
    -------
    Figure
        The values are those of :func:`~rollforge.record.analysis.calc_ic`; days without a value are omitted.
    """
    if rolling is not None:
        whole_number(rolling, "rolling", of="days")
    collected = collected_of(result)
    given = collected if isinstance(result, str) else result
    signal = signal_of(given, label, label_days=label_days, model=model)
    daily, rank = calc_ic(signal.prediction, signal.known_label, dropna=True)
    if daily.empty:
        raise DataNotFound(_NO_IC)
    days = with_gaps(daily.index)
    x = day_texts(days)
    starts = [] if collected is None else boundaries(task_rows(collected))
    parts = [
        signal_figures.daily_ic(daily, rank, days, x, starts, rolling, signal.unit),
        signal_figures.cumulative_ic(daily, rank, days, x),
    ]
    return to_plotly(stacked(parts, [380, 170]), _title(f"IC by {signal.unit}, and cumulative", signal))


def cumulative(result: Drawable, label: Table | None = None, *, rank: bool = False) -> go.Figure:
    """Return the sum of the daily IC since the first day, of each model and of their joined prediction.

    Parameters
    ----------
    result, label
        See :func:`ic`. Each model is evaluated by its own label.
    rank : bool
        Whether to draw the Rank IC.
    """
    return _curves(pd.DataFrame(_daily(result, label, rank=rank)), f"Cumulative {_name(rank)}")


def compare(
    results: Mapping[str, Drawable | tuple[Drawable, str]] | Sequence[str],
    label: Table | None = None,
    *,
    rank: bool = False,
) -> go.Figure:
    """Return the sum of the daily IC of several results since the first day on which all of them have one.

    Only days on which every result has an IC are drawn, so that the lines can be compared. Each result is evaluated with its
    own label on its own instruments.

    Parameters
    ----------
    results : mapping or sequence of str
        Name -> result, as in :func:`ic`, or a pair of a result and the name of one of its models; or names of experiments,
        ``"EXPERIMENT"``, and of their models, ``"EXPERIMENT:MODEL"``, as for ``rollforge report``.
    label : Series or table, optional
        The label of predictions that are tables.
    rank : bool
        Whether to draw the Rank IC.

    Raises
    ------
    ConfigError
        If there are fewer than two results, or a result has no such model.
    DataNotFound
        If there is no day on which all of them have an IC.
    """
    if isinstance(results, str) or len(results) < 2:
        raise ConfigError(
            "a comparison needs at least two results: compare({'first': …, 'second': …}).", path="results"
        )
    given = results.items() if isinstance(results, Mapping) else ((str(name), name) for name in results)
    daily: dict[str, pd.Series] = {}
    labels = set()
    experiments: dict[object, object] = {}
    for name, result in given:
        found, model = side_of(result)
        if isinstance(found, str):
            found = experiments.setdefault(found, experiments.get(found) or collected_of(found))
        signal = signal_of(found, label if collected_of(found) is None else None, model=model)
        labels.add(("".join(signal.label_text.split()), signal.label_days))
        daily[name] = calc_ic(signal.prediction, signal.known_label, dropna=True)[int(rank)]
    if len(daily) < 2:
        raise ConfigError("a comparison needs two different results.", path="results")
    common = pd.DataFrame(daily).dropna()
    if common.empty:
        raise DataNotFound("There is no day on which all results have an IC, so they cannot be compared.")
    apart = "; the results have different labels" if len(labels) > 1 else ""
    return _curves(common, f"Cumulative {_name(rank)} on the days that all have in common{apart}")


def heatmap(result: Drawable, metric: str = "IC") -> go.Figure:
    """Return a metric of each window and model as coloured cells; a window without it is blank.

    Parameters
    ----------
    result : result or experiment name
        See :func:`ic`.
    metric : str
        ``IC``, ``Rank IC``, or another metric that the runs of the windows recorded.

    Raises
    ------
    ConfigError
        If no window has this metric.
    """
    rows = _tasks(result)
    known = sorted({name for row in rows for name in row.metrics})
    if metric not in known:
        listed = ", ".join(known) or "none, because no window is done"
        raise ConfigError(
            f"no window has the metric {metric!r}.{nearest(metric, known)} Known: {listed}.", path="metric"
        )
    columns = sorted({row.window.index for row in rows})
    models = list(dict.fromkeys(row.model or "model" for row in rows))
    values = pd.DataFrame(np.nan, index=pd.Index(models), columns=pd.Index(columns))
    for row in rows:
        values.loc[row.model or "model", row.window.index] = row.metrics.get(metric, np.nan)
    values.columns = pd.Index([f"window {index + 1}" for index in columns])
    return to_plotly(signal_figures.cells(values, metric), f"{metric} of each window")


def ic_histogram(
    result: Drawable, label: Table | None = None, *, model: str | None = None, label_days: int | None = None
) -> go.Figure:
    """Return the distributions of the IC and the Rank IC of the days.

    Parameters
    ----------
    result, label, model, label_days
        See :func:`ic`.
    """
    signal = signal_of(result, label, label_days=label_days, model=model)
    daily, rank = calc_ic(signal.prediction, signal.known_label, dropna=True)
    if daily.empty:
        raise DataNotFound(_NO_IC)
    figure = signal_figures.histogram(daily, rank, signal.unit)
    return to_plotly(figure, _title(f"Distribution of the IC of a {signal.unit}", signal))


def ic_decay(
    result: Drawable,
    label: Table | None = None,
    *,
    lags: Sequence[int] = (0, *LAGS),
    model: str | None = None,
    label_days: int | None = None,
) -> go.Figure:
    """Return the mean IC and Rank IC of the scores with the labels of later days.

    Parameters
    ----------
    result, label, model, label_days
        See :func:`ic`.
    lags : sequence of int
        Numbers of days, see :func:`~rollforge.record.persistence.ic_decay`.
    """
    signal = signal_of(result, label, label_days=label_days, model=model)
    calendar = usable_calendar(signal.calendar, signal.prediction)
    table = persistence.ic_decay(signal.prediction, signal.known_label, lags, calendar, days=signal.label_days)
    if not table["days"].any():
        raise DataNotFound(_NO_IC)
    return to_plotly(signal_figures.ic_decay(table, signal.unit), _title("IC by lag", signal))


def autocorrelation(result: Drawable, *, lags: Sequence[int] = LAGS, model: str | None = None) -> go.Figure:
    """Return the mean rank correlation of the scores of a day with those of earlier days.

    Parameters
    ----------
    result, model
        See :func:`ic`.
    lags : sequence of int
        Numbers of days, see :func:`~rollforge.record.persistence.autocorrelation`.
    """
    signal = signal_of(result, model=model)
    calendar = usable_calendar(signal.calendar, signal.prediction)
    by_lag = persistence.autocorrelation(signal.prediction, lags, calendar).mean()
    if by_lag.isna().all():
        raise DataNotFound(
            "There is no autocorrelation: on no two days so far apart do the scores of two instruments differ."
        )
    return to_plotly(signal_figures.autocorrelation(by_lag, signal.unit), "Autocorrelation of the scores by lag")


def turnover(
    result: Drawable, *, n: int = QUANTILES, lag: int = 1, model: str | None = None, rolling: int | None = None
) -> go.Figure:
    """Return the share of the highest and of the lowest quantile that was not in it some days before.

    Parameters
    ----------
    result, model
        See :func:`ic`.
    n, lag : int
        Number of quantiles, and of days; see :func:`~rollforge.record.persistence.quantile_turnover`.
    rolling : int, optional
        See :func:`ic`.
    """
    if rolling is not None:
        whole_number(rolling, "rolling", of="days")
    signal = signal_of(result, model=model)
    calendar = usable_calendar(signal.calendar, signal.prediction)
    table = persistence.quantile_turnover(signal.prediction, n, lag, calendar)
    ends = pd.DataFrame({"highest": table[n], "lowest": table[1]}).dropna()
    if ends.empty:
        raise DataNotFound(f"There is no turnover: no two {signal.unit}s, {lag} apart, have {n} quantiles.")
    days = with_gaps(ends.index)
    part = "fifth" if n == QUANTILES else f"of {n} quantiles"
    figure = signal_figures.turnover(ends.reindex(days), day_texts(days), part, rolling, signal.unit)
    return to_plotly(figure, f"Turnover of quantiles, lag {lag}")


def quantiles(
    result: Drawable,
    label: Table | None = None,
    *,
    n: int = QUANTILES,
    model: str | None = None,
    label_days: int | None = None,
) -> go.Figure:
    """Return the mean and the cumulative return of each quantile of the scores, absolute and minus the mean of all.

    Parameters
    ----------
    result, label, model, label_days
        See :func:`ic`. Returns over several days are divided by the number of days before they are summed; if it is
        unknown, only the mean labels are drawn.
    n : int
        Number of quantiles, see :func:`~rollforge.record.analysis.quantile_returns`.
    """
    signal = signal_of(result, label, label_days=label_days, model=model)
    returns = quantiles_by_day(signal.prediction, signal.known_label, n)
    if returns.drop(columns="mean").isna().all(axis=None):
        raise DataNotFound(f"No day has {n} quantiles: too few instruments, or all scores are equal.")
    holding = signal.label_days is not None
    figure = signal_figures.quantiles(returns / (signal.label_days or 1), day_texts(returns.index), holding=holding)
    return to_plotly(figure, _title("Returns by quantile, before costs", signal))


def ic_by_group(
    result: Drawable,
    label: Table | None = None,
    *,
    groups: pd.Series | None = None,
    model: str | None = None,
    label_days: int | None = None,
) -> go.Figure:
    """Return the mean IC and Rank IC within each group of instruments.

    Parameters
    ----------
    result, label, model, label_days
        See :func:`ic`.
    groups : Series, optional
        Group of each instrument, by instrument or by day and instrument; by default those of the result, see
        :func:`~rollforge.record.persistence.ic_by_group`.
    """
    signal = signal_of(result, label, label_days=label_days, model=model)
    if isinstance(result, HasGroups):
        groups = result.row_groups(groups)
    if groups is None:
        raise DataNotFound("This result has no groups: pass groups=, a series by instrument, or by day and instrument.")
    table = persistence.ic_by_group(signal.prediction, signal.known_label, groups, days=signal.label_days)
    if table.empty:
        raise DataNotFound("No instrument of the prediction has a group.")
    return to_plotly(signal_figures.groups(table), _title("IC by group", signal))


def performance(
    result: Drawable, label: Table | None = None, *, n: int = QUANTILES, model: str | None = None
) -> list[go.Figure]:
    """Return the figures of Qlib's ``model_performance_graph``: returns by quantile, IC, autocorrelation.

    Parameters
    ----------
    result, label, model
        See :func:`ic`.
    n : int
        Number of quantiles.
    """
    from rollforge.report.graphs import model_performance_graph

    signal = signal_of(result, label, model=model)
    both = pd.DataFrame({"score": signal.prediction, "label": signal.known_label}).dropna()
    if calc_ic(both["score"], both["label"], dropna=True)[0].empty:
        raise DataNotFound(_NO_IC)
    return model_performance_graph(both, N=n, show_notebook=False) or []


def paths(result: Drawable, *, model: str | None = None) -> go.Figure:
    """Return the cumulative return of each backtest path of combinatorial splits, highest minus lowest fifth, before costs.

    Parameters
    ----------
    result : result or experiment name
        See :func:`ic`.
    model : str, optional
        The model, if there are several with paths; by default the first.
    """
    collected = collected_of(result)
    known = {} if collected is None else paths_of(collected)
    if not known:
        raise DataNotFound("There are no backtest paths: only windows of CombinatorialPurgedGen make several of them.")
    if model is not None and model not in known:
        raise ConfigError(f"there are no paths of {model!r}.{nearest(model, known)}", path="model")
    returns = path_returns(known[next(iter(known)) if model is None else model])
    if returns.empty:
        raise DataNotFound(f"There are no returns: no day has labels of {QUANTILES} instruments with different scores.")
    return to_plotly(
        signal_figures.paths(returns, day_texts(returns.index)),
        "Return of each path, highest minus lowest fifth, before costs",
    )


def windows(result: Drawable) -> go.Figure:
    """Return the segments of each window on a time axis, with its status and its IC.

    Parameters
    ----------
    result : result or experiment name
        See :func:`ic`.
    """
    return to_plotly(window_bars(_tasks(result)), "Windows")


def equity(result: Drawable | HasReport, *, mode: Mode = "sum") -> go.Figure:
    """Return the cumulative return of a backtest before and after costs, of its benchmark, and of the excess over it.

    Parameters
    ----------
    result : result, experiment name, or DataFrame
        A result with a backtest, or the daily report of a backtest: columns return, cost and bench, as saved by
        ``PortAnaRecord`` (``portfolio_analysis/report_normal_1day.pkl``) or next to a report (``backtest.parquet``).
    mode : str
        ``sum`` adds returns, as the report does; ``product`` compounds them.
    """
    returns, benchmark = _returns(result)
    figure = portfolio_figures.equity(returns, day_texts(returns.index), benchmark=benchmark, mode=mode)
    return to_plotly(figure, "Cumulative return")


def drawdown(result: Drawable | HasReport, *, mode: Mode = "sum") -> go.Figure:
    """Return the drawdowns after costs of a backtest, and of the excess over its benchmark.

    Parameters
    ----------
    result, mode
        See :func:`equity`.
    """
    returns, benchmark = _returns(result)
    figure = portfolio_figures.drawdowns(returns, day_texts(returns.index), benchmark=benchmark, mode=mode)
    return to_plotly(figure, "Drawdown, after costs")


def exposure(result: Drawable | HasReport, positions: Mapping[Any, object] | None = None) -> go.Figure:
    """Return the gross and net exposure of a backtest, its number of positions, and its turnover, by day.

    Parameters
    ----------
    result
        See :func:`equity`.
    positions : mapping, optional
        Day -> position, for a daily report: ``portfolio_analysis/positions_normal_1day.pkl``. Results have theirs.
    """
    found = backtest_of(result, positions)
    if found.positions is None:
        raise DataNotFound("The exposure needs the positions of the backtest: pass them as the second argument.")
    if "turnover" not in found.report:
        raise DataError(f"The report of a backtest lacks turnover; it has {', '.join(map(str, found.report))}.")
    report = found.report.sort_index()
    table = figures_of.exposure(found.positions).reindex(report.index)
    figure = portfolio_figures.exposures(table, report["turnover"], day_texts(report.index), period_name(report.index))
    return to_plotly(figure, "Exposure and turnover")


def monthly(result: Drawable | HasReport, *, excess: bool = False, mode: Mode = "sum") -> go.Figure:
    """Return a heat map of a backtest's returns after costs by month and year.

    Parameters
    ----------
    result, mode
        See :func:`equity`.
    excess : bool
        Whether to draw the excess over the benchmark.
    """
    returns, benchmark = _returns(result)
    if excess and not benchmark:
        raise DataNotFound("The backtest has no benchmark, so there is no excess over it.")
    table = figures_of.monthly_returns(returns["excess_with_cost" if excess else "strategy"], mode=mode)
    title = "Excess over the benchmark" if excess else "Return"
    return to_plotly(portfolio_figures.months(table), f"{title} by month, after costs")


def _returns(result: Drawable | HasReport) -> tuple[pd.DataFrame, bool]:
    """Return the daily returns of a backtest, and whether it has a benchmark."""
    returns = figures_of.daily_returns(backtest_of(result).report)
    if not np.isfinite(returns.to_numpy(np.float64)).any():
        raise DataNotFound("The backtest has no returns.")
    return returns, figures_of.has_benchmark(returns)


def _title(title: str, signal: Signal) -> str:
    known = signal.label_text or signal.label_days is not None
    return f"{title}; label: {label_description(signal.label_text, signal.label_days, signal.unit)}" if known else title


def _daily(result: Drawable, label: Table | None, *, rank: bool) -> dict[str, pd.Series]:
    """Return the IC of each day: of each model of a result, and of the joined prediction."""
    collected = collected_of(result)
    given = result if collected is None or isinstance(result, HasHorizons) else collected
    models = [] if collected is None else [model.name for model in collected.models if model.prediction is not None]
    chosen: dict[str, str | None] = {name: name for name in models} if len(models) > 1 else {}
    if not chosen:
        chosen = {_name(rank): None}
    elif collected is not None and are_combined(collected) and not _horizons(result):
        chosen["joined"] = None
    found = {}
    for name, model in chosen.items():
        signal = signal_of(given, label, model=model)
        found[name] = calc_ic(signal.prediction, signal.known_label, dropna=True)[int(rank)]
    return found


def _horizons(result: object) -> bool:
    """Return whether a result has several horizons, whose average predicts nothing."""
    return isinstance(result, HasHorizons) and len(result.by_horizon) > 1


def _curves(daily: pd.DataFrame, title: str) -> go.Figure:
    if daily.empty:
        raise DataNotFound(_NO_IC)
    days = with_gaps(daily.index)
    return to_plotly(signal_figures.curves(daily.reindex(days), day_texts(days)), title)


def _name(rank: bool) -> str:
    return "Rank IC" if rank else "IC"


def _tasks(result: Drawable) -> Sequence[TaskRow]:
    """Return the windows of a result, with the metrics that their runs recorded, or else those of their test days."""
    collected = collected_of(result)
    if collected is None:
        raise DataError(f"Windows are those of a result or an experiment; found a {type(result).__name__}.")
    ics = {
        model.name: calc_ic(model.prediction.iloc[:, 0], model.label.iloc[:, 0], dropna=True)
        for model in collected.models
        if model.prediction is not None and model.label is not None
    }
    return tasks_with_metrics(task_rows(collected), ics)
