"""The headline and the windows of a report on the terminal."""

from __future__ import annotations

from rich.table import Table

from rollforge.report.summary import Summary

__all__ = ["headline_table", "windows_table"]


def headline_table(summary: Summary) -> Table:
    """Return the headline figures as a table."""
    table = Table(
        title=summary.title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in summary.headline:
        table.add_row(name, value)
    return table


def windows_table(summary: Summary) -> Table:
    """Return one row a window: test segment, status, IC, Rank IC, seconds."""
    table = Table("#", "test", "status", box=None, pad_edge=False)
    for name in ("IC", "Rank IC", "seconds"):
        table.add_column(name, justify="right")
    for task in summary.tasks:
        test = task.window.segments.get("test")
        seconds = task.metrics.get("task_seconds")
        table.add_row(
            str(task.window.index + 1),
            f"{test.start} … {test.end}" if test is not None else "",
            task.status,
            *(f"{task.metrics[k]:+.4f}" if k in task.metrics else "" for k in ("IC", "Rank IC")),
            f"{seconds:.1f}" if seconds is not None else "",
        )
    return table
