"""The comparison of several experiments and models by ``rollforge report``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rollforge.cli.exit_codes import Exit
from rollforge.cli.terminal import echo_error
from rollforge.errors import counted, first_few

if TYPE_CHECKING:
    from rich.console import Console

    from rollforge.report.compare import Comparison
    from rollforge.sides import ComparedSides

__all__ = ["Format", "Shape", "write_comparison"]


class Format(enum.StrEnum):
    """The format of a report."""

    HTML = "html"
    MD = "md"


@dataclass(frozen=True)
class Shape:
    """The format and the additional files of a report."""

    markdown: bool = False
    csv: Path | None = None
    """The folder for the data of its figures."""


def write_comparison(
    compared: ComparedSides, folder: Path, shape: Shape, console: Console, found: dict[str, object]
) -> None:
    """Write a comparison, print its figures, and complete `found`.

    Raises
    ------
    typer.Exit
        If tasks have failed.
    """
    from rich.text import Text

    from rollforge.report.figure_data import write_plots
    from rollforge.report.figures import comparison_plots
    from rollforge.report.files import write_text
    from rollforge.report.html import render_comparison
    from rollforge.report.terminal import comparison_table

    comparison = compared.comparison
    text = render_comparison(comparison, compared.definitions, markdown=shape.markdown)
    file = write_text(text, folder / ("comparison.md" if shape.markdown else "comparison.html"))
    console.print(comparison_table(comparison))
    for note in comparison.notes:
        echo_error(f"warning: {note}")
    console.print(f"comparison  {file}", soft_wrap=True)
    if shape.csv is not None:
        files = write_plots(comparison_plots(comparison), shape.csv)
        console.print(f"figures     {shape.csv} ({counted(len(files), 'file')})", soft_wrap=True)
    found.update(_summary(comparison), comparison=file)
    if compared.failed:
        names = first_few(compared.failed, 12)
        console.print(
            Text(f"Tasks failed in: {names}. The report of each experiment shows the errors."), soft_wrap=True
        )
        raise typer.Exit(Exit.FAILED)


def _summary(comparison: Comparison) -> dict[str, object]:
    """Return the figures and differences for ``--json``."""
    differences: dict[str, dict[str, object]] = {str(name): {} for name in comparison.figures.index[1:]}
    for name, figure in comparison.differences.index:
        apart = comparison.difference(name, figure)
        differences[name][figure] = None if apart is None else apart._asdict()
    return {"experiments": comparison.figures.to_dict("index"), "differences": differences}
