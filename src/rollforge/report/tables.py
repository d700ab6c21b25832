"""The tables of the page. They contain all results, so that the report can be read without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from rollforge.collect.trials import Trials
from rollforge.dates import show_time
from rollforge.errors import counted
from rollforge.generate.checks import NOT_CHECKED, Check
from rollforge.generate.timeline import SegmentSpan
from rollforge.markup import Markup, join, tag
from rollforge.record.performance import monthly_returns
from rollforge.record.periods import YEAR, backtest_periods
from rollforge.report.compare import Comparison
from rollforge.report.headline import HeadlineFigure, combined_text, duration, evaluated_days_text, label_description
from rollforge.report.inputs import TaskRow
from rollforge.report.quality import QUANTILES, Quality
from rollforge.report.summary import (
    METRICS,
    Headline,
    Persistence,
    by_month,
    path_distribution,
    path_figures,
)
from rollforge.report.timeline import segment_names

__all__ = [
    "NOTHING", "cards", "check_rows", "checks_table", "dates_table", "environment_table", "exposure_texts", "failed_tasks",
    "feature_table", "groups_table", "models_table", "month_tables", "number", "number_cell", "persistence_table",
    "quantile_table", "return_months", "risk_table", "table_of", "windows_table",
]  # fmt: skip

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
NOTHING = "–"
# Tables with more rows scroll within their own box.
_LONG = 40


def number(value: float | None, form: str) -> str:
    """Format a number with a minus sign (not a hyphen), or a dash if there is none.

    Examples
    --------
    >>> number(-0.0312, ".3f"), number(None, ".3f"), number(-0.00001, ".2f")
    ('−0.031', '–', '0.00')
    """
    if value is None or not np.isfinite(value):
        return NOTHING
    text = format(value, form)
    if text.startswith("-") and not any(c in "123456789" for c in text):
        text = text[1:]  # negative zero
    return text.replace("-", "−")


def cards(quality: Sequence[HeadlineFigure]) -> Markup | None:
    """Return the figures of a prediction's quality as large cards; None if there are none."""
    if not quality:
        return None
    terms = [
        tag(
            "div",
            tag("dt", figure.name),
            tag(
                "dd",
                figure.text.replace("-", "−") if figure.text[:1] == "-" else figure.text,
                tag("small", figure.hint),
            ),
            class_="card",
        )
        for figure in quality
    ]
    return tag("dl", *terms, class_="cards")


def number_cell(value: float | None, form: str) -> Markup:
    """Return a cell with a number, by which a table can be sorted."""
    known = value is not None and np.isfinite(value)
    return tag("td", number(value, form), class_="n", data_v=f"{value:.8g}" if known else "")


def _bar_cells(values: Sequence[float | None], form: str) -> list[Markup]:
    """Return cells with numbers and bars on a common scale, to the right if positive, to the left if negative."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    low, high = min([0.0, *known]), max([0.0, *known])
    scale = 100 / (high - low) if high > low else 0.0
    zero = -low * scale
    cells = []
    for value in values:
        if value is None or not np.isfinite(value):
            cells.append(tag("td", NOTHING, class_="n", data_v=""))
            continue
        width = abs(value) * scale
        left = zero if value >= 0 else zero - width
        bar = tag("i", class_="pos" if value >= 0 else "neg", style=f"left:{left:.1f}%;width:{width:.1f}%")
        axis = tag("span", bar, class_="bar", style=f"--zero:{zero:.1f}%")
        cells.append(
            tag("td", axis, tag("span", number(value, form), class_="figure"), class_="n", data_v=f"{value:.8g}")
        )
    return cells


def _largest(values: Sequence[float]) -> float:
    return max((abs(v) for v in values if np.isfinite(v)), default=0.0)


def table_of(heads: Sequence[tuple[str, str]], rows: Sequence[Markup], *, sortable: bool = False) -> Markup:
    """Return a table from the title and class of each column, and its rows; a long one scrolls within its own box."""
    cells = [
        tag("th", tag("button", title, type="button") if sortable else title, scope="col", class_=kind or None)
        for title, kind in heads
    ]
    table = tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), class_="sort" if sortable else None)
    return tag("div", table, class_="scroll long" if len(rows) > _LONG else "scroll", tabindex="0")


def windows_table(tasks: Sequence[TaskRow], period: str = "day") -> Markup:
    """Return one row per task: test segment, status, metrics and durations; `period` is what a segment's length counts."""
    columns = _window_columns(tasks, period)
    rows = [tag("tr", *cells) for cells in zip(*(cells for _, _, cells in columns), strict=True)]
    return table_of([(title, kind) for title, kind, _ in columns], rows, sortable=True)


def _window_columns(tasks: Sequence[TaskRow], period: str) -> list[tuple[str, str, list[Markup]]]:
    """Return title, class and cells of each column for which some task has a value."""
    columns = [("#", "n", [tag("td", t.window.index + 1, class_="n", data_v=t.window.index) for t in tasks])]
    if any(t.model for t in tasks):
        columns.append(("model", "", [tag("td", t.model) for t in tasks]))
    columns.append(("test", "", [_test_cell(t) for t in tasks]))
    columns.append((f"{period}s", "n", [number_cell(_test_days(t), "d") for t in tasks]))
    columns.append(
        ("status", "", [tag("td", tag("span", t.status, class_=f"state {_state(t.status)}")) for t in tasks])
    )
    for name in METRICS:
        if any(name in t.metrics for t in tasks):
            columns.append((name, "n", _metric_cells(name, tasks)))
        if any(f"{name} low" in t.metrics for t in tasks):
            columns.append(("95 % interval", "n", [_interval_cell(name, t) for t in tasks]))
    for title, name in (("fit", "fit_seconds"), ("total", "task_seconds")):
        if any(name in t.metrics for t in tasks):
            columns.append((title, "n", [_seconds_cell(t.metrics.get(name)) for t in tasks]))
    if any(t.recorder_id for t in tasks):
        runs = [tag("td", tag("code", t.recorder_id[:8]), title=t.recorder_id or None) for t in tasks]
        columns.append(("run", "", runs))
    return columns


def _state(status: str) -> str:
    return status if status in ("done", "failed") else "open"


def _test_days(task: TaskRow) -> int | None:
    test = task.window.segments.get("test")
    return None if test is None else test.days


def span_text(span: SegmentSpan) -> str:
    """Return the first and last day of each interval of a segment."""
    return ", ".join(f"{show_time(start)} – {show_time(end)}" for start, end in span.parts)


def _test_cell(task: TaskRow) -> Markup:
    test = task.window.segments.get("test")
    return tag("td", NOTHING) if test is None else tag("td", span_text(test), data_v=test.start)


def _metric_cells(name: str, tasks: Sequence[TaskRow]) -> list[Markup]:
    values = [t.metrics.get(name) for t in tasks]
    return [number_cell(v, ".3f") for v in values] if name.endswith("IR") else _bar_cells(values, ".4f")


def _interval_cell(name: str, task: TaskRow) -> Markup:
    low, high = (task.metrics.get(f"{name} {end}") for end in ("low", "high"))
    return tag("td", NOTHING if low is None else f"{number(low, '.4f')} to {number(high, '.4f')}", class_="n")


def _seconds_cell(seconds: float | None) -> Markup:
    if seconds is None:
        return tag("td", NOTHING, class_="n", data_v="")
    return tag("td", duration(seconds), class_="n", data_v=f"{seconds:.4g}")


def dates_table(tasks: Sequence[TaskRow], period: str = "day") -> Markup:
    """Return first day, last day and number of trading days, or of other periods, of every segment of every task."""
    names = segment_names(tasks)
    several = any(t.model for t in tasks)
    heads = [("#", "n"), *([("model", "")] if several else [])]
    for name in names:
        heads += [(name, ""), (f"{period}s", "n")]
    rows = []
    for task in tasks:
        cells = [tag("td", task.window.index + 1, class_="n"), *([tag("td", task.model)] if several else [])]
        for name in names:
            span = task.window.segments.get(name)
            cells.append(tag("td", NOTHING if span is None else span_text(span)))
            cells.append(tag("td", NOTHING if span is None else span.days, class_="n"))
        rows.append(tag("tr", *cells))
    return table_of(heads, rows)


def month_tables(series: Mapping[str, pd.Series]) -> Markup:
    """Return a heat map of years by months for each named daily IC, with a common colour scale."""
    tables = {name: by_month(values) for name, values in series.items()}
    largest = _largest([value for table in tables.values() for value in table.to_numpy().ravel().tolist()])
    return tag("div", *(_month_table(name, table, largest, _ic_text) for name, table in tables.items()), class_="pair")


def return_months(returns: pd.DataFrame, *, benchmark: bool) -> Markup:
    """Return a heat map of years by months of the returns after costs, and of the excess over a benchmark."""
    columns = {"strategy": "Return by month, after costs"}
    if benchmark:
        columns["excess_with_cost"] = "Excess over the benchmark by month, after costs"
    tables = {title: monthly_returns(returns[column]) for column, title in columns.items()}
    # Years are larger than months: the colours are those of months.
    largest = _largest([value for table in tables.values() for value in table.to_numpy()[:, :12].ravel().tolist()])
    return join(*(_month_table(title, table, largest, _return_text, "heat wide") for title, table in tables.items()))


def _month_table(
    name: str, table: pd.DataFrame, largest: float, text: Callable[[float], str], class_: str = "heat"
) -> Markup:
    heads = [tag("th", "", scope="col"), *(tag("th", m, scope="col") for m in _MONTHS), tag("th", "year", scope="col")]
    rows = []
    for year, values in zip(table.index, table.to_numpy(np.float64), strict=True):
        labels = [f"{m} {year}" for m in _MONTHS] + [str(year)]
        cells = [_heat_cell(v, f"{name}, {label}", largest, text) for v, label in zip(values, labels, strict=True)]
        rows.append(tag("tr", tag("th", year, scope="row"), *cells))
    caption = tag("caption", name)
    made = tag("table", caption, tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_=class_)
    return tag("div", made, class_="scroll", tabindex="0")


def _ic_text(value: float) -> str:
    # A correlation is below 1: without the leading zero, twelve months fit in a row.
    return number(value, ".3f").replace("0.", ".", 1)


def _return_text(value: float) -> str:
    return number(value, ".1%")


def _heat_cell(value: float, label: str, largest: float, text: Callable[[float], str]) -> Markup:
    if not np.isfinite(value):
        return tag("td", "", class_="none", title=f"{label}: no days")
    strength = min(abs(value) / largest, 1.0) if largest > 0 else 0.0
    side = "pos" if value >= 0 else "neg"
    return tag("td", text(value), class_=side, style=f"--a:{strength:.2f}", title=f"{label}: {number(value, '.4f')}")


def models_table(whole: Headline, models: Sequence[Quality], comparison: Comparison) -> Markup:
    """Return one row per model with its quality, after a row with that of their combination."""
    overlapping = whole.label_days != 1 or any(model.label_days != 1 for model in models)
    heads = [
        ("model", ""), ("label", ""), ("evaluated on", ""), ("IC", "n"), ("IC t-stat", "n"), ("Rank IC", "n"),
        ("annual long-short", "n"), (f"Sharpe, all {whole.period}s" if overlapping else "Sharpe", "n"),
    ]  # fmt: skip
    label = label_description(whole.label_text, whole.label_days, whole.period)
    labels = {model.name: label_description(model.label_text, model.label_days, whole.period) for model in models}
    rows = []
    for i, (name, row) in enumerate(comparison.figures.iterrows()):
        days = evaluated_days_text(int(row["days"]), str(row["first"]), str(row["last"]), whole.period)
        title = str(name) if i else combined_text(whole)
        figures = [float(row[column]) for column in ("IC", "t", "Rank IC", "Return", "Sharpe")]
        rows.append(_model_row(title, labels.get(str(name), "") if i else label, days, figures))
    return table_of(heads, rows, sortable=True)


def overfitting_table(trials: Trials, period: str = "day") -> Markup:
    """Return the figures on the selection among all variants, and one row per variant."""
    scale = trials.periods**0.5
    yearly = "per year, without overlap" if trials.overlapping else "per year"
    figures = [("variants tried", number(float(trials.tried), ".0f"), "")]
    if trials.deflated is not None:
        deflated = trials.deflated
        figures += [
            ("best variant", deflated.name, f"Sharpe {number(deflated.sharpe * scale, '.2f')} {yearly}"),
            (
                "expected maximum Sharpe", number(deflated.expected_max * scale, ".2f"),
                f"{yearly}, of the best of {deflated.trials} variants without skill",
            ),
            (
                "deflated Sharpe ratio", number(deflated.probability, ".3f"),
                "probability that the best variant's true Sharpe ratio exceeds this maximum",
            ),
        ]  # fmt: skip
    if trials.overfitting is not None:
        found = trials.overfitting
        figures.append(
            (
                "probability of overfitting", number(found.probability, ".3f"),
                f"that the best of {found.trials} variants on one half of the {period}s is below the median on the other half",
            )
        )  # fmt: skip
    shown = tag(
        "dl",
        *(tag("div", tag("dt", k), tag("dd", v, f" {hint}" if hint else "")) for k, v, hint in figures),
        class_="facts",
    )
    sharpes = trials.sharpes().sort_values(ascending=False)
    rows = [
        tag("tr", tag("th", name, scope="row", class_="text"), tag("td", int(trials.returns[name].count()), class_="n"),
            number_cell(float(ratio), ".2f"))
        for name, ratio in sharpes.items()
    ]  # fmt: skip
    notes = tag("ul", *(tag("li", note) for note in trials.notes)) if trials.notes else None
    return join(shown, notes, table_of([("variant", ""), ("observations", "n"), (f"Sharpe {yearly}", "n")], rows))


def paths_table(paths: Sequence[Quality], period: str = "day") -> Markup:
    """Return one row per backtest path with its quality, after their distribution."""
    heads = [
        ("path", ""), (f"{period}s", "n"), ("IC", "n"), ("ICIR", "n"), ("Rank IC", "n"), ("annual long-short", "n"),
        ("Sharpe", "n"),
    ]  # fmt: skip
    figures = path_figures(paths)
    if "Net return" in figures:
        heads += [("backtest, annual", "n"), ("its Sharpe", "n"), ("drawdown", "n")]
    rows = [_path_row(str(name), "", row, sums=True) for name, row in path_distribution(figures).iterrows()]
    rows += [_path_row(path.name, len(path.ic), row) for path, (_, row) in zip(paths, figures.iterrows(), strict=True)]
    return table_of(heads, rows)


def _path_row(name: str, days: object, figures: pd.Series, *, sums: bool = False) -> Markup:
    shown = [("IC", ".4f"), ("ICIR", ".3f"), ("Rank IC", ".4f"), ("Return", ".1%"), ("Sharpe", ".2f")]
    if "Net return" in figures:
        shown += [("Net return", ".1%"), ("Net Sharpe", ".2f"), ("Drawdown", ".1%")]
    cells = [number_cell(figures[column], form) for column, form in shown]
    return tag("tr", tag("th", name, scope="row"), tag("td", days, class_="n"), *cells, class_="sum" if sums else None)


def _model_row(name: str, label: str, days: str, figures: Sequence[float | None]) -> Markup:
    cells = [number_cell(v, form) for v, form in zip(figures, (".4f", ".2f", ".4f", ".1%", ".2f"), strict=True)]
    words = [tag("td", text, class_="text") for text in (label, days)]
    return tag("tr", tag("th", name, scope="row", class_="text"), *words, *cells)


def quantile_table(table: pd.DataFrame, label_days: int | None, period: str = "day") -> Markup:
    """Return the figures of each quantile, highest scores first, then of the highest minus the lowest.

    Without `label_days`, annualised figures are omitted.
    """
    over = "" if label_days is None else f", {counted(label_days, period)}"
    yearly = label_days is not None
    heads = [("scores", ""), (f"mean label{over}", "n")]
    heads += [("annual return", "n"), (f"minus the {period}'s mean", "n"), ("Sharpe", "n")] if yearly else []
    heads += [(f"{period}s > 0", "n")]
    words = {"1": "1, lowest", str(QUANTILES): f"{QUANTILES}, highest"}
    order = [*reversed(table.index[:-1]), table.index[-1]]
    excess = _bar_cells(table.loc[order[:-1], "excess"].tolist(), ".1%")
    rows = []
    for name, bar in zip(order, [*excess, tag("td", "", class_="n")], strict=True):
        row, last = table.loc[name], name == order[-1]
        title = f"{QUANTILES} − 1, highest minus lowest" if last else words.get(name, name)
        cells = [tag("th", title, scope="row"), number_cell(row["label"], ".3%")]
        cells += [number_cell(row["annual"], ".1%"), bar, number_cell(row["sharpe"], ".2f")] if yearly else []
        cells += [number_cell(row["positive"], ".1%")]
        rows.append(tag("tr", *cells, class_="sum" if last else None))
    return table_of(heads, rows)


def persistence_table(found: Persistence, period: str = "day") -> Markup:
    """Return one row per lag: IC, Rank IC, t statistic and autocorrelation."""
    heads = [
        (f"lag in {period}s", "n"), ("IC", "n"), ("IC t-stat", "n"), ("Rank IC", "n"), (f"{period}s", "n"),
        ("autocorrelation of the scores", "n"),
    ]  # fmt: skip
    forms = (("IC", ".4f"), ("t", ".2f"), ("Rank IC", ".4f"), ("days", ".0f"), ("autocorrelation", ".3f"))
    rows = [
        tag("tr", tag("th", lag, scope="row", class_="n"), *(number_cell(row[name], form) for name, form in forms))
        for lag, row in found.by_lag.iterrows()
    ]
    return table_of(heads, rows)


def groups_table(table: pd.DataFrame, period: str = "day") -> Markup:
    """Return one row for each group of instruments, with its IC."""
    heads = [
        (str(table.index.name), ""), ("IC", "n"), ("IC t-stat", "n"), ("ICIR", "n"), ("Rank IC", "n"), (f"{period}s", "n"),
        ("rows", "n"),
    ]  # fmt: skip
    forms = (("t", ".2f"), ("ICIR", ".3f"), ("Rank IC", ".4f"), ("days", ",.0f"), ("rows", ",.0f"))
    bars = _bar_cells(table["IC"].tolist(), ".4f")
    rows = [
        tag("tr", tag("th", str(name), scope="row"), bar, *(number_cell(row[column], form) for column, form in forms))
        for (name, row), bar in zip(table.iterrows(), bars, strict=True)
    ]
    return table_of(heads, rows, sortable=True)


def feature_table(values: Mapping[str, pd.DataFrame], name: str, form: str) -> Markup:
    """Return one row for each model and feature, with the mean, smallest and largest value over the windows."""
    several = len(values) > 1
    heads = [
        *([("model", "")] if several else []),
        ("feature", ""),
        (f"mean {name}", "n"),
        ("smallest", "n"),
        ("largest", "n"),
    ]
    named = [(model, str(feature), row) for model, table in values.items() for feature, row in table.iterrows()]
    bars = _bar_cells([float(row.mean()) for *_, row in named], form)
    rows = [
        tag(
            "tr",
            *([tag("td", model)] if several else []),
            tag("th", feature, scope="row"),
            bar,
            number_cell(float(row.min()), form),
            number_cell(float(row.max()), form),
        )
        for (model, feature, row), bar in zip(named, bars, strict=True)
    ]
    return table_of(heads, rows, sortable=True)


def risk_table(risk: pd.DataFrame, period: str = "day") -> Markup:
    """Return the risk figures of a backtest."""
    heads = [
        ("", ""),
        ("annual return", "n"),
        ("information ratio", "n"),
        ("maximum drawdown", "n"),
        ("daily std" if period == "day" else f"std of a {period}", "n"),
    ]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            number_cell(row["annualized_return"], ".2%"),
            number_cell(row["information_ratio"], ".3f"),
            number_cell(row["max_drawdown"], ".2%"),
            number_cell(row["std"], ".3%"),
        )
        for name, row in risk.iterrows()
    ]
    return table_of(heads, rows)


def exposure_texts(exposure: pd.DataFrame, period: str = "day", per_year: float = YEAR) -> dict[str, str]:
    """Return the turnover and the exposure of a backtest as text, means over its days or other periods; see
    :class:`Summary`."""
    mean, low, high = exposure.mean(), exposure.min(), exposure.max()
    yearly = number(mean["turnover"] * backtest_periods(per_year), ".1f")
    traded = f"{number(mean['turnover'], '.1%')} of the account per {period}, {yearly} times per year"
    net = f"{number(mean['net'], '.1%')}, from {number(low['net'], '.1%')} to {number(high['net'], '.1%')}"
    return {
        "turnover": f"{traded}; counts both purchases and sales",
        "gross exposure": f"{number(mean['gross'], '.1%')}, at most {number(high['gross'], '.1%')}",
        "net exposure": net,
        "positions": f"{number(mean['positions'], '.1f')}, at most {number(high['positions'], '.0f')}",
        "largest position": f"{number(mean['largest'], '.1%')} of the account, at most {number(high['largest'], '.1%')}",
    }


def failed_tasks(tasks: Sequence[TaskRow]) -> Markup | None:
    """Return the error of each failed task with its collapsed traceback; None if there are none."""
    parts = []
    for task in tasks:
        test = task.window.segments.get("test")
        where = [f"test {span_text(test)}"] if test is not None else []
        where += [counted(task.attempt, "attempt")] if task.attempt else []
        head = join(tag("b", _capital(task.title)), " ", tag("span", " · ".join(where)), tag("code", task.reason))
        body = tag("pre", task.error.strip() or "No traceback was stored.", tabindex="0")
        parts.append(tag("details", tag("summary", head), body, class_="error"))
    return join(*parts) if parts else None


def check_rows(checks: Sequence[Check]) -> list[tuple[str, str, str, str, str]]:
    """Return a row for each result of a check: subject, result, method, days with tasks, and finding."""
    rows = []
    for one in checks:
        about, when = (
            (one.where, "") if one.where and one.tasks else (one.about or "all windows", one.where or one.when)
        )
        where = " · ".join(filter(None, (about, when)))
        rows.append(
            (one.subject, one.result.value, one.method.value, where, " ".join(filter(None, (one.text, one.advice))))
        )
    return rows


def checks_table(checks: Sequence[Check]) -> Markup:
    """Return the results of the checks for leakage, or a sentence if there are none."""
    if list(checks) == [NOT_CHECKED]:
        return tag("p", f"{NOT_CHECKED.text} {NOT_CHECKED.advice}", class_="empty")
    if not checks:
        return tag("p", "No check results are stored with these tasks.", class_="empty")
    head = tag("tr", *(tag("th", name, scope="col") for name in ("what", "result", "by", "where", "found")))
    rows = [
        tag("tr", tag("th", subject, scope="row"), *(tag("td", cell, class_="text") for cell in cells))
        for subject, *cells in check_rows(checks)
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="checks"), class_="scroll")


def _capital(text: str) -> str:
    return f"W{text[1:]}" if text.startswith("window ") else text


def environment_table(environment: Mapping[str, str]) -> Markup | None:
    """Return the environment in which the report was made; None if nothing is known."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in environment.items() if value]
    return tag("table", tag("tbody", *rows)) if rows else None
