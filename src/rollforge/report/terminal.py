"""Terminal tables of a report's headline and windows: 80 columns, and no information by colour alone."""

from __future__ import annotations

import numpy as np
from rich.table import Table
from rich.text import Text

from rollforge.errors import printable
from rollforge.generate.timeline import SegmentSpan
from rollforge.report.compare import Comparison
from rollforge.report.headline import backtest_year, duration, headline_figures
from rollforge.report.summary import Summary, path_distribution, path_figures
from rollforge.report.tables import check_rows, exposure_texts

__all__ = [
    "backtest_table",
    "checks_table",
    "comparison_table",
    "groups_table",
    "headline_table",
    "models_table",
    "overfitting_table",
    "paths_table",
    "windows_table",
]


def headline_table(summary: Summary) -> Table:
    """Return the headline figures as a table: the same names, figures and explanations as on the page."""
    table = Table(
        title=Text(printable(summary.title), "bold"), title_justify="left", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    shown = headline_figures(summary.headline)
    width = max((len(f.text) for f in shown if f.quality), default=0)
    for figure in shown:
        text = Text(figure.text.rjust(width) if figure.quality else figure.text)
        if figure.hint:
            text.append(f"  {figure.hint}", "dim")
        table.add_row(figure.name, text)
    return table


def models_table(summary: Summary) -> Table | None:
    """Return one row per model, each evaluated against its own label; None for a single model."""
    if not summary.models:
        return None
    table = Table(box=None, pad_edge=False)
    table.add_column("model", max_width=24, overflow="fold")
    period = summary.headline.period
    for name in (f"{period}s", "label", "IC", "IC t-stat", "Rank IC", "long-short", "Sharpe"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in summary.models:
        spread = model.long_short
        label = "unknown" if model.label_days is None else f"{model.label_days} {'d' if period == 'day' else period}"
        figures = [
            (float(model.ic.mean()), "{:+.4f}"), (model.ic_t, "{:.2f}"), (float(model.rank_ic.mean()), "{:+.4f}"),
            (model.annual(spread), "{:.1%}"), (model.sharpe(spread), "{:.2f}"),
        ]  # fmt: skip
        shown = [form.format(value) if np.isfinite(value) else "n/a" for value, form in figures]
        table.add_row(*(Text(printable(cell)) for cell in (model.name, str(len(model.ic)), label, *shown)))
    table.caption = Text(
        "each evaluated with its own label; long-short: annual, highest minus lowest fifth, before costs", "dim"
    )
    table.caption_justify = "left"
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return one row per result with its figures, and its difference in IC from the first with the 95 % interval."""
    net = comparison.figures["Net return"].notna().any()
    table = Table(box=None, pad_edge=False)
    table.add_column("result", max_width=28, overflow="fold")
    for name in ("days", "IC", "Rank IC", *(["after costs"] if net else []), "IC difference", "95 % interval"):
        table.add_column(name, justify="right")
    forms = {"days": "{:,.0f}", "IC": "{:+.4f}", "Rank IC": "{:+.4f}"} | ({"Net return": "{:.1%}"} if net else {})
    for result, row in comparison.figures.iterrows():
        cells = [form.format(row[k]) if np.isfinite(row[k]) else "n/a" for k, form in forms.items()]
        apart = comparison.difference(str(result))
        cells.append("" if apart is None else f"{apart.difference:+.4f}")
        ends = apart is not None and np.isfinite([apart.low, apart.high]).all()
        cells.append(f"{apart.low:+.4f} to {apart.high:+.4f}" if apart is not None and ends else "")
        table.add_row(*(Text(printable(cell)) for cell in (str(result), *cells)))
    table.caption = Text("differences from the first, on the days and instruments that both have", "dim")
    table.caption_justify = "left"
    return table


def groups_table(summary: Summary) -> Table | None:
    """Return one row for each group of instruments, with its IC; None without groups."""
    if summary.groups is None:
        return None
    table = Table(title=Text("IC by group", "bold"), title_justify="left", box=None, pad_edge=False)
    table.add_column(printable(str(summary.groups.index.name)), max_width=32, overflow="fold")
    forms = {"IC": "{:+.4f}", "t": "{:.2f}", "Rank IC": "{:+.4f}", "days": "{:,.0f}", "rows": "{:,.0f}"}
    for name in forms:
        heads = {"t": "IC t-stat", "days": f"{summary.headline.period}s"}
        table.add_column(heads.get(name, name), justify="right", no_wrap=True)
    for group, row in summary.groups.iterrows():
        cells = [form.format(row[name]) if np.isfinite(row[name]) else "n/a" for name, form in forms.items()]
        table.add_row(*(Text(printable(cell)) for cell in (str(group), *cells)))
    return table


def overfitting_table(summary: Summary) -> Table | None:
    """Return the figures on the selection among all variants tried; None for a single variant."""
    trials = summary.trials
    if trials is None:
        return None
    table = Table(
        title=Text("selection among all variants tried", "bold"),
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("variants tried", str(trials.tried))
    if trials.deflated is not None:
        deflated, scale = trials.deflated, trials.periods**0.5
        yearly = f"per year, of {summary.headline.period}s without overlap" if trials.overlapping else "per year"
        table.add_row(
            "best variant", Text(printable(f"{deflated.name}, Sharpe {deflated.sharpe * scale:.2f} {yearly}"))
        )
        table.add_row(
            "deflated Sharpe ratio",
            f"{deflated.probability:.3f}  probability that it is above {deflated.expected_max * scale:.2f}, the maximum "
            "expected without skill",
        )
    if trials.overfitting is not None:
        table.add_row("probability of overfitting", f"{trials.overfitting.probability:.3f}")
    for note in trials.notes:
        table.add_row("", Text(printable(note)))
    return table


def paths_table(summary: Summary) -> Table | None:
    """Return the distribution of the figures over the backtest paths of each model; None without paths."""
    if not summary.paths:
        return None
    table = Table(title=Text("backtest paths", "bold"), title_justify="left", box=None, pad_edge=False)
    for name in ("model", "paths", ""):
        table.add_column(name, justify="right" if name == "paths" else "left")
    shown = [("IC", "{:+.4f}"), ("Rank IC", "{:+.4f}"), ("Return", "{:.1%}"), ("Sharpe", "{:.2f}")]
    if any(path.backtest is not None for paths in summary.paths.values() for path in paths):
        shown += [("Net return", "{:.1%}"), ("Net Sharpe", "{:.2f}"), ("Drawdown", "{:.1%}")]
        table.caption = Text(f"net: the backtest of each path, after costs; {backtest_year(summary.headline)}", "dim")
        table.caption_justify = "left"
    for column, _ in shown:
        table.add_column("long-short" if column == "Return" else column, justify="right", no_wrap=True)
    for model, paths in summary.paths.items():
        for i, (row, figures) in enumerate(path_distribution(path_figures(paths)).iterrows()):
            values = [(figures.get(column, np.nan), form) for column, form in shown]
            cells = [form.format(value) if np.isfinite(value) else "n/a" for value, form in values]
            head = (model, str(len(paths))) if i == 0 else ("", "")
            table.add_row(*(Text(printable(cell)) for cell in (*head, str(row), *cells)))
    return table


def backtest_table(summary: Summary) -> Table | None:
    """Return the risk figures of the joined prediction's backtest, with its costs; None without a backtest."""
    if summary.portfolio_risk is None:
        return None
    table = Table(
        title=Text("backtest of the joined prediction", "bold"), title_justify="left", box=None, pad_edge=False
    )
    table.add_column("", no_wrap=True)
    for name in ("annual return", "information ratio", "maximum drawdown"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, row in summary.portfolio_risk.iterrows():
        figures = [
            (row["annualized_return"], "{:.2%}"), (row["information_ratio"], "{:.3f}"), (row["max_drawdown"], "{:.2%}"),
        ]  # fmt: skip
        shown = [form.format(value) if np.isfinite(value) else "n/a" for value, form in figures]
        table.add_row(*(Text(printable(cell)) for cell in (str(kind), *shown)))
    held = (
        {}
        if summary.exposure is None
        else exposure_texts(summary.exposure, summary.headline.period, summary.headline.per_year)
    )
    about = "\n".join(f"{name}: {text}" for name, text in {**summary.portfolio_about, **held}.items())
    table.caption = Text(f"{about}\nreturns are summed; {backtest_year(summary.headline)}".strip(), "dim")
    table.caption_justify = "left"
    return table


def _span_text(span: SegmentSpan) -> str:
    return "; ".join(f"{start} … {end}" for start, end in span.parts)


def checks_table(summary: Summary) -> Table:
    """Return one row for each result of a check for leakage."""
    table = Table(title=Text("what was checked", "bold"), title_justify="left", box=None, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for name in ("result", "by"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    styles = {"leak": "bold red", "not known": "yellow", "clean": "green"}
    for subject, result, method, where, found in check_rows(summary.checks):
        text = f"{found} ({where})" if result != "clean" else found
        table.add_row(Text(printable(subject)), Text(result, styles[result]), Text(method), Text(printable(text)))
    if not summary.checks:
        table.add_row(Text("none"), Text(""), Text(""), Text("No check results are stored with these tasks."))
    return table


def windows_table(summary: Summary) -> Table:
    """Return one row per window: test segment, status, IC, Rank IC, time."""
    several = any(t.model for t in summary.tasks)
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    if several:
        table.add_column("model", max_width=24, overflow="fold")
    table.add_column("test", no_wrap=True)
    table.add_column("status")
    for name in ("IC", "Rank IC", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in summary.tasks:
        test = task.window.segments.get("test")
        seconds = task.metrics.get("task_seconds")
        cells = [str(task.window.index + 1), *([task.model] if several else [])]
        cells += [_span_text(test) if test is not None else "", task.status]
        cells += [
            f"{v:+.4f}" if np.isfinite(v) else "" for v in (task.metrics.get(k, np.nan) for k in ("IC", "Rank IC"))
        ]
        cells.append(duration(seconds) if seconds is not None else "")
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
