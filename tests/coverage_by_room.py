"""Compare the branch coverage of each room, as measured by ``make coverage``, with the minimum in ``pyproject.toml``.

    python tests/coverage_by_room.py             # a table; exit code 1 if a room is below its minimum
    python tests/coverage_by_room.py --missing store     # the lines and branches of one room that no test reached

A minimum is the share of branches that the fast tests covered when it was set, less one to three percent for branches
that depend on the machine. Raise it when the coverage of a room has improved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage

from test_architecture import ROOMS, SOURCE, module_name, room

ROOT = Path(__file__).parents[1]


@dataclass(slots=True)
class Covered:
    """The coverage of a room."""

    branches: int = 0
    branches_taken: int = 0
    lines: int = 0
    lines_run: int = 0

    @property
    def branch_share(self) -> float:
        """Percentage of branches that were taken; 100 if there are none."""
        return 100.0 * self.branches_taken / self.branches if self.branches else 100.0


def by_room(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Covered]:
    """Return the totals of each room, from the section ``files`` of coverage's JSON report."""
    totals = {name: Covered() for name in ROOMS}
    for file, report in files.items():
        of = totals[room(module_name(Path(file).resolve()))]
        summary = report["summary"]
        of.branches += summary["num_branches"]
        of.branches_taken += summary["covered_branches"]
        of.lines += summary["num_statements"]
        of.lines_run += summary["covered_lines"]
    return totals


def below(totals: Mapping[str, Covered], floors: Mapping[str, float]) -> list[str]:
    """Return messages about rooms below their minimum, rooms without a minimum, and minimums without a room."""
    wrong = [f"{name} has no minimum in pyproject.toml" for name in totals if name not in floors]
    wrong += [f"{name} has a minimum in pyproject.toml but is not a room" for name in floors if name not in totals]
    for name, floor in floors.items():
        if name in totals and totals[name].branch_share < floor:
            wrong.append(
                f"{name}: {totals[name].branch_share:.1f} % of the branches are covered, less than the minimum of {floor} %"
            )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--missing", metavar="ROOM", choices=ROOMS, help="show the lines and branches of a room that no test reached"
    )
    options = parser.parse_args()
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["rollforge"]["branch-floors"]
    measured = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    if options.missing:
        own = [str(p) for p in SOURCE.rglob("*.py") if room(module_name(p)) == options.missing]
        measured.report(include=own, show_missing=True, skip_covered=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        totals = by_room(json.loads(report.read_text(encoding="utf-8"))["files"])
    print(f"{'room':10} {'branches':>9} {'taken':>7} {'minimum':>7} {'lines':>7} {'run':>7}")
    for name, of in totals.items():
        lines = 100.0 * of.lines_run / of.lines if of.lines else 100.0
        print(f"{name:10} {of.branches:9} {of.branch_share:6.1f}% {floors.get(name, 0):6}% {of.lines:7} {lines:6.1f}%")
    wrong = below(totals, floors)
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
