"""The data of figures as CSV: what the button on the page saves, in the same words as its script, ``page.js``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rollforge.report.drawing import Figure
from rollforge.report.figures import Plots, figures
from rollforge.report.files import write_text
from rollforge.report.summary import Summary

__all__ = ["COLUMNS", "figure_csv", "write_figures", "write_plots"]

COLUMNS = ("axis", "series", "view", "x", "y", "low", "high")
"""Title of the y axis, name of the curve, view (if the figure has several), coordinates as drawn, ends of an interval."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def figure_csv(figure: Figure, series: Mapping[str, Sequence[str]]) -> str:
    """Return the data of a figure as CSV, with one row for each point of each curve.

    Parameters
    ----------
    figure : Figure
        The figure.
    series : mapping
        Lists of days by name, see :class:`~rollforge.report.figures.Plots`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for trace in figure["data"]:
        if trace.get("mode") != "text":  # labels of curves
            writer.writerows(_rows(figure, trace, series))
    return text.getvalue()


def _rows(figure: Figure, trace: Figure, series: Mapping[str, Sequence[str]]) -> Iterator[list[object]]:
    x = trace["x"]
    across = series[x[1:]] if isinstance(x, str) else x
    axis = figure["layout"].get(trace.get("yaxis", "y").replace("y", "yaxis", 1), {}).get("title", {}).get("text", "")
    if trace["type"] == "heatmap":  # the rows are curves, named like them
        for name, cells in zip(trace["y"], trace["z"], strict=True):
            row = [_plain(trace.get("name", "")), _plain(name), _plain(trace.get("view", ""))]
            yield from ([*row, _number(a), _number(b), "", ""] for a, b in zip(across, cells, strict=True))
        return
    # A long name is shortened in the legend.
    head = [_plain(axis), _plain(trace.get("meta", trace.get("name", ""))), _plain(trace.get("view", ""))]
    error = next((name for name in ("error_x", "error_y") if name in trace), None)
    ends = trace[error] if error else {}
    for i, (a, b) in enumerate(zip(across, trace["y"], strict=True)):
        middle = a if error == "error_x" else b
        low, high = (ends[k][i] if ends else None for k in ("arrayminus", "array"))
        low, high = (None if end is None else round(middle + sign * end, 5) for sign, end in ((-1, low), (1, high)))
        yield [*head, *(_number(v) for v in (a, b, low, high))]


def _number(value: object) -> object:
    """Return a value as JavaScript writes it: numbers without a needless fraction, and nothing for a missing one."""
    if value is None:
        return ""
    if isinstance(value, float):
        return int(value) if value.is_integer() else f"{value:.5f}".rstrip("0")
    return value if isinstance(value, int) else _plain(value)


def _plain(value: object) -> str:
    """Return a text as it was before :func:`~rollforge.report.drawing.plain_name`, which no spreadsheet reads as a formula."""
    text = str(value).replace("\u200b", "").replace("&lt;", "<").replace("&amp;", "&")
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_figures(summary: Summary, folder: Path) -> list[Path]:
    """Write the data of each figure of a report into a folder, and return the files.

    Parameters
    ----------
    summary : Summary
        The numbers of the report. Files are called ``daily.csv`` and so on; if the report has parts, ``part0-daily.csv``.
    folder : Path
        The folder, which is created if necessary.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    parts = list(summary.parts.values())
    made = [replace(figures(part), prefix=f"part{i}-") for i, part in enumerate(parts)] if parts else [figures(summary)]
    return [file for plots in made for file in write_plots(plots, folder)]


def write_plots(plots: Plots, folder: Path) -> list[Path]:
    """Write the data of each plot into a file of a folder, see :func:`write_figures`."""
    return [
        write_text(figure_csv(figure, plots.series), folder / f"{plots.prefix}{name}.csv")
        for name, figure in plots.figures.items()
    ]
