"""The headline and the windows of a report on the terminal: 80 columns, and nothing said by colour alone."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rollforge.report.facts import duration, facts
from rollforge.report.summary import Summary

__all__ = ["headline_table", "windows_table"]


def headline_table(summary: Summary) -> Table:
    """Return the headline figures as a table: the same names and figures as on the page."""
    table = Table(title=Text(summary.title, "bold"), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts(summary.headline):
        table.add_row(fact.name, Text(fact.text))
    return table


def windows_table(summary: Summary) -> Table:
    """Return one row a window: test segment, status, IC, Rank IC, time."""
    several = any(t.model for t in summary.tasks)
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    if several:
        table.add_column("model", max_width=14, overflow="ellipsis", no_wrap=True)
    table.add_column("test", no_wrap=True)
    table.add_column("status")
    for name in ("IC", "Rank IC", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in summary.tasks:
        test = task.window.segments.get("test")
        seconds = task.metrics.get("task_seconds")
        cells = [str(task.window.index + 1), *([task.model] if several else [])]
        cells += [f"{test.start} … {test.end}" if test is not None else "", task.status]
        cells += [f"{task.metrics[k]:+.4f}" if k in task.metrics else "" for k in ("IC", "Rank IC")]
        cells.append(duration(seconds) if seconds is not None else "")
        table.add_row(*(Text(cell) for cell in cells))
    return table
