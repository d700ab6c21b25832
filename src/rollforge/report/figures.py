"""The plots of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rollforge.report import comparison_figures, portfolio_figures, signal_figures
from rollforge.report.compare import Comparison
from rollforge.report.drawing import Figure, day_texts, stacked, with_gaps
from rollforge.report.features import drift_by_window, drift_cells, importance_by_window, importance_cells, score_drift
from rollforge.report.inputs import TaskRow
from rollforge.report.quality import Quality
from rollforge.report.summary import Summary

__all__ = ["Plots", "boundaries", "comparison_plots", "figures"]

# With more windows than this, lines between them would hide the plot.
_MAX_BOUNDARIES = 24
# The table has all groups.
_MAX_GROUPS = 40


@dataclass(frozen=True, slots=True)
class Plots:
    """The plots of a page."""

    figures: Mapping[str, Figure]
    """Name -> ``{"data": …, "layout": …}``, and ``views`` if there are several to choose from."""
    series: Mapping[str, Sequence[str]]
    """Name -> days, referred to as ``#name`` in traces."""
    prefix: str = ""
    """What distinguishes the plots from those of other parts of the page."""

    def on_page(self) -> dict[str, dict[str, object]]:
        """Return the figures and the series under their names on the page."""
        return {
            "figures": {f"{self.prefix}{name}": self._renamed(figure) for name, figure in self.figures.items()},
            "series": {f"{self.prefix}{name}": days for name, days in self.series.items()},
        }

    def _renamed(self, figure: Figure) -> Figure:
        data = [
            {**trace, "x": f"#{self.prefix}{trace['x'][1:]}"} if str(trace.get("x", ""))[:1] == "#" else trace
            for trace in figure["data"]
        ]
        return {**figure, "data": data}


def figures(summary: Summary) -> Plots:
    """Return the plots for which the summary has data."""
    plots: dict[str, Figure] = {}
    series: dict[str, Sequence[str]] = {}
    unit = summary.headline.period
    _windows(summary, plots)
    _signal(summary, plots, series)
    if summary.comparison is not None:
        _compare(summary.comparison, plots, series)
    if summary.quantiles is not None:
        series["quantiles"] = day_texts(summary.quantiles.index)
        plots["quantiles"] = signal_figures.quantiles(summary.quantiles, "#quantiles")
    if summary.persistence is not None:
        by_lag = summary.persistence.by_lag
        plots["decay"] = signal_figures.ic_decay(by_lag, unit)
        plots["autocorrelation"] = signal_figures.autocorrelation(by_lag["autocorrelation"].drop(0), unit)
        if len(summary.persistence.turnover):
            days = with_gaps(summary.persistence.turnover.index)
            series["turnover"] = day_texts(days)
            shown = summary.persistence.turnover.reindex(days)
            plots["turnover"] = signal_figures.turnover(shown, "#turnover", unit=unit)
    if summary.groups is not None and len(summary.groups) <= _MAX_GROUPS:
        plots["groups"] = signal_figures.groups(summary.groups)
    for i, paths in enumerate(summary.paths.values()):
        returns = path_returns(paths)
        if len(returns):
            series[f"paths{i}"] = day_texts(returns.index)
            plots[f"paths{i}"] = signal_figures.paths(returns, f"#paths{i}")
    if summary.portfolio is not None:
        _backtest(summary, summary.portfolio, plots, series)
    return Plots({name: _rounded(figure) for name, figure in plots.items()}, series)


def comparison_plots(comparison: Comparison) -> Plots:
    """Return the plots of a comparison for which there are data: ``compared``, ``equity``, ``differences``."""
    plots: dict[str, Figure] = {}
    series: dict[str, Sequence[str]] = {}
    _compare(comparison, plots, series)
    return Plots({name: _rounded(figure) for name, figure in plots.items()}, series)


def _windows(summary: Summary, plots: dict[str, Figure]) -> None:
    """Add the plots that compare the windows."""
    if (windows := signal_figures.window_ic(summary.tasks)) is not None:
        plots["window_ic"] = windows
    if shares := importance_by_window(summary.tasks):
        plots["importance"] = importance_cells(shares)
    if indexes := drift_by_window(summary.tasks):
        plots["drift"] = drift_cells(indexes)
    if (scores := score_drift(summary.tasks)) is not None:
        plots["score_drift"] = scores


def _signal(summary: Summary, plots: dict[str, Figure], series: dict[str, Sequence[str]]) -> None:
    """Add the plots of the daily IC."""
    if summary.has_quality and summary.ic is not None and summary.rank_ic is not None:
        days = with_gaps(summary.ic.index)
        series["ic"] = day_texts(days)
        plots["daily"] = signal_figures.daily_ic(
            summary.ic, summary.rank_ic, days, "#ic", boundaries(summary.tasks), unit=summary.headline.period
        )
        plots["cumulative"] = signal_figures.cumulative_ic(summary.ic, summary.rank_ic, days, "#ic")
        plots["histogram"] = signal_figures.histogram(summary.ic, summary.rank_ic, summary.headline.period)


def _backtest(
    summary: Summary, returns: pd.DataFrame, plots: dict[str, Figure], series: dict[str, Sequence[str]]
) -> None:
    """Add the plots of a backtest."""
    series["portfolio"] = day_texts(returns.index)
    above, below = (
        draw(returns, "#portfolio", benchmark=summary.has_benchmark)
        for draw in (portfolio_figures.equity, portfolio_figures.drawdowns)
    )
    # The colours of the drawdowns are those of the curves above.
    below["data"] = [{**trace, "showlegend": False} for trace in below["data"]]
    plots["portfolio"] = stacked([above, below], [290, 120])
    if summary.exposure is not None:
        traded = summary.exposure["turnover"]
        plots["exposure"] = portfolio_figures.exposures(summary.exposure, traded, "#portfolio", summary.headline.period)


def _compare(comparison: Comparison, plots: dict[str, Figure], series: dict[str, Sequence[str]]) -> None:
    """Add the plots of a comparison."""
    found = {
        "compared": ([one.quality.ic for one in comparison.results if one.quality is not None], comparison_figures.cumulative_ic),
        "equity": ([one.net for one in comparison.results if one.net is not None], comparison_figures.equity),
    }  # fmt: skip
    for name, (curves, draw) in found.items():
        days = with_gaps(comparison_figures.days_of(curves))
        if len(days):
            series[name] = day_texts(days)
            plots[name] = draw(comparison.results, days, f"#{name}")
    figures_of = comparison.differences.index.get_level_values("figure")
    if "IC" in figures_of and len(comparison.results) <= comparison_figures.MAX_ROWS:
        plots["differences"] = comparison_figures.differences(comparison)


def path_returns(paths: Sequence[Quality]) -> pd.DataFrame:
    """Return the long-short returns per day of holding of backtest paths, one column for each; index of days."""
    return pd.DataFrame({path.name: path.long_short / (path.label_days or 1) for path in paths}).sort_index()


def _rounded(figure: Figure) -> Figure:
    """Return a plot with numbers of five decimal places, which take half the space on the page."""
    data = [
        {
            k: [_short(v) for v in values] if k in ("x", "y") and isinstance(values, list) else values
            for k, values in t.items()
        }
        for t in figure["data"]
    ]
    return {**figure, "data": data}


def _short(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def boundaries(tasks: Sequence[TaskRow]) -> list[tuple[str, str]]:
    """Return the starts of test windows as (day, number of the window); empty if there would be too many."""
    tests = [(t.window.segments.get("test"), t.window.index + 1) for t in tasks]
    starts = sorted({str(span.start): str(number) for span, number in reversed(tests) if span is not None}.items())
    return starts if 1 < len(starts) <= _MAX_BOUNDARIES else []
