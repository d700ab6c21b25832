"""The report as one HTML file that needs nothing else: no network, and for its tables no script."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollforge.errors import DataError, MissingDependency
from rollforge.report.figures import figures
from rollforge.report.summary import Summary, TaskRow

__all__ = ["render", "write_report"]

_STYLE = """
:root { --ink: #1b1f24; --soft: #5c6672; --line: #dfe3e8; --paper: #ffffff; --card: #f6f7f9; --accent: #0072B2; --bad: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #9aa4b0; --line: #333a43; --paper: #14171b; --card: #1d2127; --accent: #56B4E9; --bad: #ff9a57; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 24px 64px; }
header { max-width: 1120px; margin: 0 auto; padding: 40px 24px 8px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; }
header p, .lead { color: var(--soft); margin: 4px 0 0; }
nav { position: sticky; top: 0; z-index: 5; background: var(--paper); border-bottom: 1px solid var(--line); }
nav div { max-width: 1120px; margin: 0 auto; padding: 8px 24px; display: flex; gap: 20px; flex-wrap: wrap; font-size: 14px; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px; margin: 20px 0 8px; }
.card { background: var(--card); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.card span { color: var(--soft); font-size: 13px; }
.note { border-left: 3px solid var(--bad); background: var(--card); padding: 10px 14px; margin: 16px 0; border-radius: 0 6px 6px 0; }
.note ul { margin: 4px 0 0; padding-left: 18px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; cursor: pointer; user-select: none; }
th.n, td.n { text-align: right; }
td .bar { display: inline-block; height: 9px; border-radius: 2px; background: var(--accent); margin-left: 8px; vertical-align: middle; }
td .bar.minus { background: var(--bad); }
.state { padding: 1px 8px; border-radius: 9px; background: var(--card); }
.state.failed { color: var(--bad); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; margin: 10px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 10px 0 4px; }
@media (max-width: 760px) { main, header { padding-left: 14px; padding-right: 14px; } }
footer { color: var(--soft); font-size: 13px; border-top: 1px solid var(--line); margin-top: 48px; padding-top: 12px; }
footer td, footer th { white-space: normal; overflow-wrap: anywhere; border: 0; padding: 2px 10px 2px 0; vertical-align: top; }
@media print { nav { display: none; } .plot, table { break-inside: avoid; } details { border: 0; padding: 0; } }
"""

_SCRIPT = """
const ink = v => getComputedStyle(document.documentElement).getPropertyValue(v).trim();
function draw() {
  for (const [name, figure] of Object.entries(FIGURES)) {
    const place = document.getElementById('plot-' + name);
    if (!place) continue;
    const axis = { gridcolor: ink('--line'), linecolor: ink('--line'), zerolinecolor: ink('--soft'), automargin: true };
    const layout = Object.assign({
      margin: { l: 48, r: 12, t: 34, b: 30 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: { family: 'system-ui, sans-serif', size: 12, color: ink('--ink') }, hoverlabel: { namelength: -1 },
    }, figure.layout);
    layout.xaxis = Object.assign({}, axis, figure.layout.xaxis);
    layout.yaxis = Object.assign({}, axis, figure.layout.yaxis);
    Plotly.react(place, figure.data, layout, { displayModeBar: false, responsive: true });
  }
}
draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
document.querySelectorAll('table.sort th').forEach((head, column) => head.addEventListener('click', () => {
  const body = head.closest('table').tBodies[0];
  const key = row => { const t = row.cells[column].dataset.v ?? row.cells[column].innerText; return isNaN(+t) || t === '' ? t : +t; };
  const up = head.dataset.up !== '1';
  head.parentNode.querySelectorAll('th').forEach(h => delete h.dataset.up);
  head.dataset.up = up ? '1' : '0';
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b); return (x > y ? 1 : x < y ? -1 : 0) * (up ? 1 : -1); })
    .forEach(row => body.append(row));
}));
"""

_CARDS = ("IC", "ICIR", "Rank IC", "Rank ICIR", "t of IC", "days with IC > 0", "long-short a year", "long-short Sharpe")


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as exc:
        raise MissingDependency("The report needs plotly. Install it: pip install 'rollforge[report]'") from exc
    script: str = get_plotlyjs()
    return script


def _cards(summary: Summary) -> str:
    known = dict(summary.headline)
    cards = "".join(
        f'<div class="card"><b>{_text(known[name])}</b><span>{_text(name)}</span></div>'
        for name in _CARDS
        if name in known
    )
    rest = " · ".join(f"{_text(n)} {_text(v)}" for n, v in summary.headline if n not in _CARDS)
    return f'<p class="lead">{rest}</p><div class="cards">{cards}</div>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{_text(n)}</li>" for n in notes)
    return f'<div class="note"><b>This result is not complete.</b><ul>{items}</ul></div>'


def _cell(value: float | None, largest: float) -> str:
    if value is None:
        return '<td class="n"></td>'
    width = 0 if not largest else round(54 * abs(value) / largest)
    sign = " minus" if value < 0 else ""
    return (
        f'<td class="n" data-v="{value:.6f}">{value:+.4f}<span class="bar{sign}" style="width:{width}px"></span></td>'
    )


def _segment(task: TaskRow, name: str) -> str:
    span = task.window.segments.get(name)
    if span is None:
        return "<td></td>"
    return f'<td data-v="{span.start}" title="{span.days} trading days">{span.start} – {span.end}</td>'


def _windows(tasks: Sequence[TaskRow]) -> str:
    names = list(dict.fromkeys(n for t in tasks for n in t.window.segments))
    metrics = [m for m in ("IC", "Rank IC") if any(m in t.metrics for t in tasks)]
    largest = {m: max((abs(t.metrics[m]) for t in tasks if m in t.metrics), default=0.0) for m in metrics}
    heads = ["#", *names, "status", *metrics, "fit s", "total s"]
    rows = []
    for task in tasks:
        cells = [f'<td class="n">{task.window.index + 1}</td>', *(_segment(task, n) for n in names)]
        cells.append(f'<td><span class="state {_text(task.status)}">{_text(task.status)}</span></td>')
        cells += [_cell(task.metrics.get(m), largest[m]) for m in metrics]
        for name in ("fit_seconds", "task_seconds"):
            seconds = task.metrics.get(name)
            cells.append(f'<td class="n">{seconds:.1f}</td>' if seconds is not None else '<td class="n"></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    right = {"#", *metrics, "fit s", "total s"}
    head = "".join(f'<th class="n">{_text(h)}</th>' if h in right else f"<th>{_text(h)}</th>" for h in heads)
    return (
        '<div class="scroll"><table class="sort"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _failed(tasks: Sequence[TaskRow]) -> str:
    if not tasks:
        return ""
    parts = []
    for task in tasks:
        lines = task.error.strip().splitlines() or ["no error was kept"]
        parts.append(
            f"<details><summary><b>window {task.window.index + 1}</b>, {task.attempt} attempts: {_text(lines[-1])}</summary>"
            f"<pre>{_text(task.error)}</pre></details>"
        )
    return f'<h2 id="failed">Failed tasks</h2>{"".join(parts)}'


def _plot(name: str, made: dict[str, Any]) -> str:
    if name not in made:
        return ""
    height = made[name]["layout"]["height"]
    return f'<div class="plot" id="plot-{name}" style="min-height:{height}px"></div>'


def _section(anchor: str, title: str, lead: str, body: str) -> str:
    return f'<h2 id="{anchor}">{title}</h2><p class="lead">{lead}</p>{body}' if body else ""


def render(summary: Summary) -> str:
    """Return the page."""
    made = figures(summary)
    months = "".join(
        f"<div><p class='lead'>{title}</p>{_plot(name, made)}</div>"
        for name, title in (("monthly_ic", "IC"), ("monthly_rank_ic", "Rank IC"))
        if name in made
    )
    windows = _plot("windows", made) + _windows(summary.tasks)
    sections = [
        _section("windows", "Windows", "Train, valid and test segments of each task; click a column to sort.", windows),
        _section("daily", "Information coefficient by day", "Correlation of score and forward return across instruments.",
                 _plot("daily", made)),
        _section("monthly", "By month", "Means of the daily values.", months),
        _section("cumulative", "Cumulative IC", "The sum of the daily values: steady is better than steep.",
                 _plot("cumulative", made)),
        _section("quantiles", "Returns by quantile of the prediction",
                 "Sums of daily returns of each fifth of the instruments, less the mean of the day; before costs.",
                 _plot("quantiles", made)),
        _failed(summary.failed),
    ]  # fmt: skip
    links = [("windows", "Windows"), ("daily", "Daily IC"), ("monthly", "By month"), ("quantiles", "Quantiles"),
             ("failed", "Failed tasks"), ("config", "Configuration")]  # fmt: skip
    body = "".join(sections)
    shown = "".join(f'<a href="#{a}">{t}</a>' for a, t in links if f'id="{a}"' in body or a == "config")
    environment = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in summary.environment.items())
    # A closing tag inside the data would end the script.
    data = json.dumps(made, separators=(",", ":")).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(summary.title)} – Rollforge</title><style>{_STYLE}</style></head>
<body><header><h1>{_text(summary.title)}</h1></header>
<nav><div>{shown}</div></nav>
<main>{_cards(summary)}{_notes(summary.notes)}{body}
<h2 id="config">Configuration</h2><details open><summary>Workflow</summary><pre>{_text(summary.config)}</pre></details>
<footer><table>{environment}</table></footer></main>
<script>{_plotly()}</script>
<script>const FIGURES = {data};{_SCRIPT}</script>
</body></html>
"""


def write_report(summary: Summary, file: str | os.PathLike[str]) -> Path:
    """Write the page, all of it or nothing, and return its path.

    Raises
    ------
    DataError
        When the file cannot be written.
    MissingDependency
        When plotly is not installed.
    """
    target = Path(file)
    text = render(summary)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, target)
    except OSError as exc:
        raise DataError(f"The report {target} cannot be written: {exc.strerror}.") from exc
    return target
