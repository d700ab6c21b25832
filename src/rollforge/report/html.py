"""The report as a self-contained HTML file, which needs no network, and whose tables need no script."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import gzip
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import pandas as pd

from rollforge.collect.trials import Trials
from rollforge.errors import counted, first_few
from rollforge.markup import Markup, join, tag
from rollforge.report.compare import Comparison, definition_differences
from rollforge.report.comparison_tables import definitions_table, differences_table, results_table
from rollforge.report.drawing import Figure, rolling_days, without_middle
from rollforge.report.features import FEATURES, drift_by_window, importance_by_window
from rollforge.report.figures import Plots, boundaries, comparison_plots, figures
from rollforge.report.files import write_text
from rollforge.report.headline import backtest_year, evaluated_days_text, headline_figures, label_description
from rollforge.report.markdown import to_markdown
from rollforge.report.quality import QUANTILES
from rollforge.report.summary import Headline, Persistence, Summary
from rollforge.report.tables import (
    cards,
    checks_table,
    dates_table,
    environment_table,
    exposure_texts,
    failed_tasks,
    feature_table,
    groups_table,
    models_table,
    month_tables,
    number,
    overfitting_table,
    paths_table,
    persistence_table,
    quantile_table,
    return_months,
    risk_table,
    windows_table,
)
from rollforge.report.timeline import timeline

__all__ = [
    "ReportParts", "comparison_parts", "comparison_title", "plotly_script", "render", "render_comparison", "render_markdown",
    "report_parts", "write_report",
]  # fmt: skip

log = logging.getLogger(__name__)

# The browser blocks all external requests; scripts and styles are inline.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
# Notes beyond this number are collapsed.
_NOTES = 12
_TITLE = 40
"""Number of characters of a result's name in a title."""


@dataclass(frozen=True, slots=True)
class _Section:
    anchor: str
    title: str
    lead: str
    body: Markup


def render(summary: Summary) -> str:
    """Return the HTML page.

    If the summary has parts, the page shows each of them with its own figures, below the title of `summary`.

    Plots are drawn by plotly.js, which is inlined. If the package plotly is not installed, the page has only tables,
    and explains how to get the plots. Only daily figures are embedded, so the size does not grow with the number of
    instruments.
    """
    environment = next(iter(summary.parts.values()), summary).environment
    return _page(("Rolling experiment", summary.title), report_parts(summary), environment)


def render_markdown(summary: Summary) -> str:
    """Return the texts and tables of the page as Markdown, see :func:`~rollforge.report.markdown.to_markdown`."""
    parts = summary.parts
    shown = [_Part("", *one, drawn=False) for one in parts.items()] if parts else [_Part("", "", summary, drawn=False)]
    extent = None if parts else _extent(summary)
    bodies = (part.body(explain=False) for part in shown)
    return to_markdown(join(tag("h1", summary.title), extent, *bodies))


def render_comparison(comparison: Comparison, definitions: Mapping[str, object], *, markdown: bool = False) -> str:
    """Return the page that compares results, as HTML or Markdown.

    Parameters
    ----------
    comparison : Comparison
        Their figures and differences; the first one is the reference.
    definitions : mapping
        Name -> definition of its tasks, see :func:`~rollforge.report.compare.definition_differences`.
    markdown : bool
        Whether to return Markdown.
    """
    name = comparison_title(comparison)
    if markdown:
        sections = _compared(comparison, definitions, Plots({}, {}))
        return to_markdown(join(tag("h1", name), *map(_section_element, sections)))
    environment = {"written": dt.datetime.now().astimezone().isoformat(timespec="seconds")}
    return _page(("Comparison", name), comparison_parts(comparison, definitions), environment)


def comparison_title(comparison: Comparison) -> str:
    """Return the names of the first results, and the number of the others."""
    return first_few([without_middle(one.name, _TITLE) for one in comparison.results], 4, " · ")


def _compared(comparison: Comparison, definitions: Mapping[str, object], plots: Plots) -> Iterator[_Section]:
    first = comparison.results[0]
    period = first.period
    lead = (
        f"Each result on its own {period}s and with its own label. Long-short: highest minus lowest fifth, per year, before "
        "costs. Return after costs, information ratio and drawdown are those of the backtest."
    )
    body = join(results_table(comparison), _plot_element(plots, "compared", "Cumulative IC"))
    yield _Section("figures", "Figures", lead, body)
    made = differences_table(comparison, period, "result")
    notes = [tag("p", note, class_="empty") for note in comparison.notes]
    if made is not None or notes:
        lead = (
            f"Each result minus {first.name}, on the {period}s and instruments that both have, with a 95 % interval from a "
            "block bootstrap. An interval that contains 0 means that the difference may be due to chance; among many, some "
            "exclude 0 by chance."
        )
        body = join(*notes, _plot_element(plots, "differences"), made)
        yield _Section(
            "differences", f"Differences from {without_middle(first.name, _TITLE)}", lead if made else "", body
        )
    if "equity" in plots.figures:
        lead = f"Returns of each backtest after costs by {period}, summed, not compounded."
        yield _Section("equity", "Backtests", lead, join(_plot_element(plots, "equity")))
    lead = "The values by which the first tasks of the results differ; an empty cell means that there is no such value."
    differing = definition_differences(definitions)
    yield _Section("definitions", "Definitions", lead if len(differing) else "", definitions_table(differing))


def _section_element(section: _Section, title: str | None = None) -> Markup:
    lead = tag("p", section.lead, class_="lead") if section.lead else None
    return tag("section", tag("h2", title or section.title), lead, section.body, id=section.anchor)


def _page(title: tuple[str, str], parts: ReportParts, environment: Mapping[str, str]) -> str:
    """Return a page with its title, links to sections, and plots."""
    kind, name = title
    library = _library() if parts.figures else None
    main = join(parts.main, _footer(environment, drawn=library is not None))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{name} – Rollforge"),
        tag("style", Markup(_resource("page.css"))),
    )
    anchors = [tag("a", text, href=f"#{anchor}") for text, anchor in parts.links]
    body = tag(
        "body",
        tag("header", tag("p", kind, class_="kind"), tag("h1", name), parts.extent or None),
        tag("nav", tag("div", *anchors), aria_label="Sections") if anchors else None,
        tag("main", main),
        tag("script", parts.plots, type="application/json", id="plots"),
        None if library is None else tag("script", Markup(library), type="text/plain", id="library"),
        tag("script", Markup(_resource("page.js"))),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


@dataclass(frozen=True, slots=True)
class ReportParts:
    """The parts of a report for a page that has its own style sheets and scripts; it needs ``page.js`` and plotly.js."""

    links: tuple[tuple[str, str], ...]
    """Title and anchor of each section."""
    extent: Markup
    """What was tested: windows, days, instruments; empty if there are several parts."""
    main: Markup
    plots: Markup
    """The figures, as the contents of an element with the id ``plots``; none without plotly."""
    figures: bool
    """Whether there are data for figures."""


def report_parts(summary: Summary) -> ReportParts:
    """Return the parts of the report of a summary, which :func:`render` writes as one file."""
    parts = summary.parts
    shown = [_Part(f"part{i}-", *one) for i, one in enumerate(parts.items())] if parts else [_Part("", "", summary)]
    figures = any(part.plots.figures for part in shown)
    if plotly_script() is None:
        shown = [replace(part, drawn=False) for part in shown]
    links = [
        (one.title, one.anchor)
        for part in shown
        for one in ([_Section(part.anchor, part.title, "", Markup(""))] if parts else part.sections)
    ]
    main = join(*(part.body() for part in shown))
    extent = Markup("") if parts else _extent(summary)
    return ReportParts(tuple(links), extent, main, _json(_on_page(shown)), figures)


def comparison_parts(comparison: Comparison, definitions: Mapping[str, object]) -> ReportParts:
    """Return the parts of a comparison, which :func:`render_comparison` writes as one file."""
    plots = comparison_plots(comparison)
    drawn = plots if plotly_script() is not None else Plots({}, {})
    missing = _missing_plots() if plots.figures and not drawn.figures else None
    sections = list(_compared(comparison, definitions, drawn))
    links = tuple((one.title, one.anchor) for one in sections)
    main = join(missing, *map(_section_element, sections))
    return ReportParts(links, Markup(""), main, _json(drawn.on_page()), bool(plots.figures))


def plotly_script() -> str | None:
    """Return plotly.js; None if the package plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:  # the tables have the same figures
        return None
    return str(get_plotlyjs())


@dataclass(frozen=True)
class _Part:
    """A result on a page: the only one, or one of several."""

    prefix: str
    """What distinguishes its anchors and plots from those of other parts."""
    title: str
    summary: Summary
    drawn: bool = True
    """Whether plots can be drawn."""

    @functools.cached_property
    def plots(self) -> Plots:
        """The plots for which there are data."""
        return replace(figures(self.summary), prefix=self.prefix)

    @functools.cached_property
    def sections(self) -> list[_Section]:
        """The sections."""
        plots = self.plots if self.drawn else Plots({}, {})
        return [replace(s, anchor=f"{self.prefix}{s.anchor}") for s in _sections(self.summary, plots)]

    @property
    def anchor(self) -> str:
        return f"{self.prefix}top"

    def body(self, *, explain: bool = True) -> Markup:
        """Return the overview and the sections; of one of several parts below its title and extent.

        With `explain`, a page says why it has no plots.
        """
        head = None
        if self.title:
            head = tag("section", tag("h2", self.title), _extent(self.summary), id=self.anchor)
        return join(
            head,
            _overview(self.summary, missing_plots=explain and not self.drawn and bool(self.plots.figures)),
            *(_section_element(s, self._titled(s)) for s in self.sections),
        )

    def _titled(self, section: _Section) -> str:
        return f"{section.title}, {self.title}" if self.title else section.title


def _on_page(parts: Sequence[_Part]) -> dict[str, dict[str, object]]:
    """Return the figures and the series of all parts."""
    found = [part.plots.on_page() for part in parts if part.drawn]
    return {kind: {k: v for one in found for k, v in one[kind].items()} for kind in ("figures", "series")}


def _resource(name: str) -> str:
    return resources.files("rollforge.report").joinpath(name).read_text(encoding="utf-8")


def _library() -> str | None:
    """Return plotly.js compressed and base64-encoded, a third of its size; None if plotly is not installed."""
    script = plotly_script()
    if script is None:  # the page explains what is missing
        log.warning("the report has no plots, because plotly is not installed: pip install 'rollforge[report]'")
        return None
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode("ascii")


def _json(value: object) -> Markup:
    # In a script, "<" could end it or start a comment; JSON can escape it.
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _extent(summary: Summary) -> Markup:
    shown = [f for f in headline_figures(summary.headline) if not f.quality]
    return tag("dl", *(tag("div", tag("dt", f.name), tag("dd", f.text)) for f in shown), class_="facts")


def _overview(summary: Summary, *, missing_plots: bool) -> Markup:
    parts: list[Markup | None] = [cards([f for f in headline_figures(summary.headline) if f.quality])]
    if not summary.headline.rows:
        parts.append(
            tag("p", "There is no prediction yet: no window is done, or none has been collected.", class_="empty")
        )
    elif not summary.has_quality:
        parts.append(
            tag(
                "p",
                "The quality of the prediction cannot be computed: on no day with labels do the scores of two "
                "instruments differ. SignalRecord saves the labels of each window with its prediction.",
                class_="empty",
            )
        )
    if summary.notes:
        parts.append(_notes("This result is incomplete", summary.notes))
    if summary.warnings:
        parts.append(_notes("Notes on this result", summary.warnings))
    if missing_plots:
        parts.append(_missing_plots())
    else:
        parts.append(
            tag("noscript", tag("p", "The plots need JavaScript. The tables contain the figures.", class_="empty"))
        )
    return join(*parts)


def _missing_plots() -> Markup:
    return tag("p", "Plots need the package plotly: pip install 'rollforge[report]'", class_="empty")


def _notes(title: str, notes: Sequence[str]) -> Markup:
    shown, folded = notes[:_NOTES], notes[_NOTES:]
    rest = tag("details", tag("summary", f"{len(folded)} more"), tag("ul", *(tag("li", n) for n in folded)))
    listed = tag("ul", *(tag("li", n) for n in shown))
    return tag("div", tag("b", title), listed, rest if folded else None, class_="note")


def _sections(summary: Summary, plots: Plots) -> Iterator[_Section]:
    if summary.tasks:
        yield _windows(summary, plots)
        yield _checks(summary)
    if summary.comparison is not None:
        yield _models(summary, summary.comparison, plots)
    if summary.has_quality:
        yield from _quality(summary, plots)
    if summary.quantile_table is not None:
        yield _quantiles(summary, plots)
    yield from _importance(summary, plots)
    yield from _drift(summary, plots)
    if summary.paths:
        yield _paths(summary, plots)
    if summary.trials is not None:
        yield _overfitting(summary.trials, summary.headline.period)
    if summary.portfolio_risk is not None:
        yield _portfolio(summary, plots)
    failed = failed_tasks(summary.failed)
    if failed is not None:
        yield _Section("failed", "Failed tasks", "The last error of each task. Open one to see its traceback.", failed)
    if summary.config:
        body = tag("details", tag("summary", "Workflow"), tag("pre", summary.config.rstrip(), tabindex="0"))
        yield _Section("configuration", "Configuration", "The workflow that was run.", body)


def _windows(summary: Summary, plots: Plots) -> _Section:
    folded = tag(
        "details", tag("summary", "Dates of every segment"), dates_table(summary.tasks, summary.headline.period)
    )
    drawn = _plot_element(plots, "window_ic", "IC by window")
    body = join(timeline(summary.tasks), drawn, windows_table(summary.tasks, summary.headline.period), folded)
    lead = (
        f"The {summary.headline.period}s on which each task was trained, validated and tested. Hover over a bar to see "
        f"its dates; click a column header to sort. IC and Rank IC are means over the {summary.headline.period}s of the test "
        "segment that have labels, computed with the task's own label."
    )
    return _Section("windows", "Windows", lead, body)


def _checks(summary: Summary) -> _Section:
    lead = (
        "Whether the tasks use information from the future. Static checks read the definitions; measured ones, by "
        "'rollforge check', build everything again from changed data. 'Not known' means that the absence of leakage was not "
        "verified."
    )
    return _Section("checks", "What was checked", lead, checks_table(summary.checks))


def _models(summary: Summary, comparison: Comparison, plots: Plots) -> _Section:
    headline = summary.headline
    lead = (
        f"Each model is evaluated with its own label on its own {headline.period}s; the first row is their combination, as above. "
        f"Long-short: highest minus lowest fifth, {_year(headline)} per year, before costs."
    )
    made = differences_table(comparison, headline.period)
    apart = None
    if made is not None:
        label = label_description(headline.label_text, headline.label_days, headline.period)
        said = (
            f"Each model minus the ensemble, on the {headline.period}s that both have. Label: {label}. An interval that contains 0 "
            "means that the difference may be due to chance; among many models, some intervals exclude 0 by chance."
        )
        apart = join(
            tag("h3", "Differences from the ensemble"),
            tag("p", said, class_="lead"),
            _plot_element(plots, "differences"),
            made,
        )
    notes = [tag("p", note, class_="empty") for note in comparison.notes]
    body = join(
        models_table(headline, summary.models, comparison),
        _plot_element(plots, "compared", "Cumulative IC"),
        apart,
        *notes,
    )
    return _Section("models", "Models", lead, body)


def _quality(summary: Summary, plots: Plots) -> Iterator[_Section]:
    if summary.ic is None or summary.rank_ic is None:
        return
    if "daily" in plots.figures:
        pair = tag(
            "div",
            _plot_element(plots, "cumulative", "Cumulative: steady is better than steep"),
            _plot_element(plots, "histogram", "Distribution of the values"),
            class_="pair",
        )
        lead = (
            f"Correlation of the scores with the label across instruments, on {_evaluated_on(summary)}; "
            f"the line is the mean of the last {rolling_days(len(summary.ic))} {summary.headline.period}s."
            + (" Dotted lines mark the starts of test windows." if boundaries(summary.tasks) else "")
        )
        yield _Section("daily", f"IC by {summary.headline.period}", lead, join(_plot_element(plots, "daily"), pair))
    months = month_tables({"IC": summary.ic, "Rank IC": summary.rank_ic})
    lead = (
        f"Means of each month and year, {_evaluated_on(summary)}. Blue is above zero and orange below; both tables "
        "use the same scale."
    )
    yield _Section("monthly", "IC by month", lead, months)
    if summary.persistence is not None:
        yield _persistence(summary, summary.persistence, plots)
    if summary.groups is not None:
        period = summary.headline.period
        lead = (
            f"IC and Rank IC within each group by {summary.groups.index.name}: means over the {period}s on which the scores of two of "
            f"its instruments differ. Label: {label_description(summary.headline.label_text, summary.headline.label_days, period)}."
        )
        models = (join(tag("h3", name), groups_table(table, period)) for name, table in summary.model_groups.items())
        body = join(_plot_element(plots, "groups"), groups_table(summary.groups, period), *models)
        if summary.model_groups:
            lead += " Below: each model, with its own label."
        yield _Section("groups", "IC by group", lead, body)


def _quantiles(summary: Summary, plots: Plots) -> _Section:
    days = summary.headline.label_days
    period, year = summary.headline.period, _year(summary.headline)
    if days is None:
        unit = (
            f" The number of {period}s that the label spans is unknown, so there are no annual returns: set label_days."
        )
    elif days > 1:
        unit = f" Labels span {days} {period}s, so each counts {_part(days)} of its return; a year has {year}."
    else:
        unit = f" A year has {year}."
    lead = (
        f"On each {period} ({_evaluated_on(summary)}), the instruments are divided into {QUANTILES} equal groups by score. The returns "
        f"of a group are summed, not compounded, before costs.{unit}"
    )
    table = quantile_table(summary.quantile_table, days, period) if summary.quantile_table is not None else None
    return _Section("quantiles", "Returns by quantile", lead, join(_plot_element(plots, "quantiles"), table))


def _importance(summary: Summary, plots: Plots) -> Iterator[_Section]:
    shares = importance_by_window(summary.tasks)
    if not shares:
        return
    most = max(len(table) for table in shares.values())
    of = "each model" if len(shares) > 1 else "the model"
    lead = (
        f"How much {of} depends on each feature in each window, as the model's library measures it: the share of the sum over all "
        f"features. The {counted(most, 'feature')} with the largest mean. A cell is empty if the window has no model, or the model no "
        "such feature."
    )
    folded = tag("details", tag("summary", "Mean, smallest and largest share"), feature_table(shares, "share", ".2%"))
    yield _Section("importance", "Importance of features", lead, join(_plot_element(plots, "importance"), folded))


def _drift(summary: Summary, plots: Plots) -> Iterator[_Section]:
    indexes = drift_by_window(summary.tasks)
    if not indexes and "score_drift" not in plots.figures:
        return
    lead = (
        "How far features and scores of the test segment are from those of the training segment: the population stability index over ten bins "
        "with equal numbers of training values, and one for missing values. By a rule of thumb, values below 0.1 are small and above 0.25 large "
        "(dotted lines). Scores of the training segment come from a model that has seen its labels."
    )
    folded = tag("details", tag("summary", "Mean, smallest and largest index"), feature_table(indexes, "PSI", ".3f"))
    scores = _plot_element(plots, "score_drift", "Scores")
    features = _plot_element(plots, "drift", f"The {FEATURES} features with the largest mean")
    yield _Section("drift", "Drift", lead, join(scores, features, folded if indexes else None))


def _persistence(summary: Summary, persistence: Persistence, plots: Plots) -> _Section:
    period = summary.headline.period
    unit = "trading day" if period == "day" else period
    label = label_description(summary.headline.label_text, summary.headline.label_days, period)
    lead = (
        f"Lag k compares the scores of a {period} with the labels of k {unit}s later, and with the scores of k {unit}s "
        f"before, by rank. Label: {label}."
    )
    shown = []
    if summary.headline.label_days is not None:
        ends = f"{number(persistence.interval.low, '.4f')} to {number(persistence.interval.high, '.4f')}"
        shown.append(("95 % interval of the mean IC", f"{ends}, by a block bootstrap"))
    if len(persistence.turnover):
        over = f"mean share that was not in it on the previous {period}, {counted(len(persistence.turnover), period)}"
        for side in persistence.turnover:
            share = number(float(persistence.turnover[side].mean()), ".1%")
            shown.append((f"turnover of the {side} fifth", f"{share}, {over}"))
    listed = tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in shown), class_="facts") if shown else None
    pair = tag(
        "div",
        _plot_element(plots, "decay", "IC by lag"),
        _plot_element(plots, "autocorrelation", "Autocorrelation of the scores by lag"),
        class_="pair",
    )
    body = join(
        listed,
        pair if "decay" in plots.figures else None,
        persistence_table(persistence, period),
        _plot_element(plots, "turnover", f"Turnover by {period}"),
    )
    return _Section("persistence", "Persistence of the signal", lead, body)


def _paths(summary: Summary, plots: Plots) -> _Section:
    lead = (
        "Every group of days is tested by several splits. Their predictions are recombined into paths, each of which predicts "
        "every day once; the spread of the paths' figures shows how much a result depends on the training days. Long-short: highest "
        f"minus lowest fifth, {_year(summary.headline)} per year, summed, before costs."
    )
    if any(path.backtest is not None for own in summary.paths.values() for path in own):
        lead += f" Backtest: each path is backtested like the joined prediction, after costs, with {backtest_year(summary.headline)}."
    parts: list[Markup | None] = []
    for i, (model, paths) in enumerate(summary.paths.items()):
        parts += [
            tag("h3", model) if model else None,
            _plot_element(plots, f"paths{i}"),
            paths_table(paths, summary.headline.period),
        ]
    return _Section("paths", "Backtest paths", lead, join(*parts))


def _evaluated_on(summary: Summary) -> str:
    """Describe the days and the label of a figure."""
    headline = summary.headline
    first, last, period = headline.first_evaluated, headline.last_evaluated, headline.period
    days = evaluated_days_text(headline.ic_days, first, last, period)
    return f"{days}, label: {label_description(headline.label_text, headline.label_days, period)}"


def _year(headline: Headline) -> str:
    """Return how many periods a year has: ``252 days``."""
    return f"{headline.per_year:,.0f} {headline.period}s"


def _overfitting(trials: Trials, period: str) -> _Section:
    apart = f" ({trials.days} apart)" if trials.overlapping else ""
    lead = (
        "The best of many variants looks good even if none has skill. All variants ever tried in this experiment count, "
        f"including those of earlier submissions. Returns: highest minus lowest fifth, per {period} of holding, on {period}s whose "
        f"labels do not overlap{apart}, before costs."
    )
    if trials.overlapping:
        lead += (
            f" The Sharpe ratios of these {period}s alone differ from the long-short Sharpe ratios above, which are those of "
            f"all {period}s."
        )
    return _Section("overfitting", "Overfitting", lead, overfitting_table(trials, period))


def _part(days: int) -> str:
    return {2: "half", 3: "a third", 5: "a fifth", 10: "a tenth", 20: "a twentieth"}.get(days, f"1/{days}")


def _portfolio(summary: Summary, plots: Plots) -> _Section:
    period = summary.headline.period
    returns = "Daily returns" if period == "day" else f"Returns of single {period}s"
    lead = (
        f"The backtest of the joined prediction. {returns} are summed, not compounded, including in the drawdown and the "
        f"months; these figures use {backtest_year(summary.headline)}."
    )
    about = tag(
        "dl",
        *(tag("div", tag("dt", k), tag("dd", v)) for k, v in summary.portfolio_about.items()),
        class_="facts",
    )
    table = risk_table(summary.portfolio_risk, period) if summary.portfolio_risk is not None else None
    body = join(
        about if summary.portfolio_about else None,
        _plot_element(plots, "portfolio"),
        table,
        return_months(summary.portfolio, benchmark=summary.has_benchmark) if summary.portfolio is not None else None,
        _exposure(summary, summary.exposure, plots) if summary.exposure is not None else None,
    )
    return _Section("portfolio", "Backtest", lead, body)


def _exposure(summary: Summary, exposure: pd.DataFrame, plots: Plots) -> Markup:
    period = summary.headline.period
    shown = exposure_texts(exposure, period, summary.headline.per_year)
    listed = tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in shown.items()), class_="facts")
    title = tag("h3", f"Turnover and exposure, means over {counted(len(exposure), period)}")
    return join(title, listed, _plot_element(plots, "exposure"))


def _plot_element(plots: Plots, name: str, title: str | None = None) -> Markup | None:
    """Return the place of a plot, with its title; None if there is no such plot."""
    figure: Figure | None = plots.figures.get(name)
    if figure is None:
        return None
    switches = [
        tag("button", view, type="button", aria_pressed="false" if i else "true")
        for i, view in enumerate(figure.get("views", ()))
    ]
    return tag(
        "figure",
        tag(
            "button",
            "CSV",
            type="button",
            class_="csv",
            data_plot=f"{plots.prefix}{name}",
            title="Save the data of this figure",
        ),
        tag("h3", title) if title else None,
        tag("div", *switches, class_="switch", data_plot=f"{plots.prefix}{name}") if switches else None,
        tag("div", id=f"plot-{plots.prefix}{name}", style=f"min-height:{figure['layout']['height']}px"),
        class_="plot",
    )


def _footer(environment: Mapping[str, str], *, drawn: bool) -> Markup:
    plots = "Plots by plotly.js (MIT licence). " if drawn else ""
    made = tag("p", f"Created by Rollforge. {plots}The file works offline.")
    return tag("footer", environment_table(environment), made)


def write_report(summary: Summary, file: str | os.PathLike[str]) -> Path:
    """Write the page, see :func:`render`, atomically, and return its path.

    Raises
    ------
    DataError
        If the file cannot be written; an existing file is unchanged.
    """
    return write_text(render(summary), file)
