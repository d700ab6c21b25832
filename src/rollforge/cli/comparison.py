"""The comparison of several experiments by ``rollforge report``."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from rollforge.cli.exit_codes import Exit
from rollforge.cli.terminal import echo_error
from rollforge.errors import counted
from rollforge.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from rollforge.collect.result import Collected
    from rollforge.report.compare import Compared, Comparison
    from rollforge.report.summary import Headline

__all__ = ["Experiment", "Format", "Shape", "write_comparison"]


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


@dataclass(frozen=True)
class Experiment:
    """An experiment that was read for a report."""

    name: str
    session: Session
    collected: Collected
    parts: Mapping[str, Collected]
    config: str

    def compared(self) -> list[_Result]:
        """Return its result, or those of its parts if the models are not combined."""
        from rollforge.report.compare import compared
        from rollforge.report.inputs import report_inputs
        from rollforge.report.summary import summarise

        found = {self.name: self.collected}
        if self.parts and all(part is not self.collected for part in self.parts.values()):
            found = {f"{self.name}: {title}": part for title, part in self.parts.items()}
        results = []
        for name, one in found.items():
            summary = summarise(report_inputs(one, name=name, session=self.session, config=""))
            results.append(_Result(compared(summary, name), summary.headline))
        return results

    @property
    def definition(self) -> object:
        """The definition of the first task as plain values, with the numbers of windows and models."""
        from rollforge.task import to_plain

        outcomes = self.collected.outcomes
        first = to_plain(dict(outcomes[0].task.definition)) if outcomes else {}
        models = ", ".join(name for name in self.collected.model_names if name)
        return {"tasks": len(outcomes), **({"models": models} if models else {}), **first}


class _Result(NamedTuple):
    result: Compared
    headline: Headline


def write_comparison(
    experiments: Sequence[Experiment], folder: Path, shape: Shape, console: Console, found: dict[str, object]
) -> None:
    """Write the comparison of experiments, print its figures, and complete `found`.

    Raises
    ------
    typer.Exit
        If tasks have failed.
    """
    from rollforge.report.compare import compare
    from rollforge.report.figure_data import write_plots
    from rollforge.report.figures import comparison_plots
    from rollforge.report.files import write_text
    from rollforge.report.html import render_comparison
    from rollforge.report.terminal import comparison_table

    results = [one for each in experiments for one in each.compared()]
    comparison = compare([one.result for one in results])
    text = render_comparison(
        comparison, {one.name: one.definition for one in experiments}, [one.headline for one in results],
        markdown=shape.markdown,
    )  # fmt: skip
    file = write_text(text, folder / ("comparison.md" if shape.markdown else "comparison.html"))
    console.print(comparison_table(comparison))
    for note in comparison.notes:
        echo_error(f"warning: {note}")
    console.print(f"comparison  {file}", soft_wrap=True)
    if shape.csv is not None:
        files = write_plots(comparison_plots(comparison), shape.csv)
        console.print(f"figures     {shape.csv} ({counted(len(files), 'file')})", soft_wrap=True)
    found.update(_summary(comparison), comparison=file)
    failed = [one.name for one in experiments if one.collected.failed]
    if failed:
        console.print(f"Tasks failed in: {', '.join(failed)}. The report of each experiment shows the errors.")
        raise typer.Exit(Exit.FAILED)


def _summary(comparison: Comparison) -> dict[str, object]:
    """Return the figures and differences for ``--json``."""
    differences: dict[str, dict[str, object]] = {str(name): {} for name in comparison.figures.index[1:]}
    for name, figure in comparison.differences.index:
        apart = comparison.difference(name, figure)
        differences[name][figure] = None if apart is None else apart._asdict()
    return {"experiments": comparison.figures.to_dict("index"), "differences": differences}
