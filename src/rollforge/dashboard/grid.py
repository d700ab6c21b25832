"""The tasks of an experiment as a grid: one column for each window, one row for each model, horizon, loss or seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollforge.dashboard.pools import PoolTask

__all__ = [
    "DIMENSIONS",
    "Cell",
    "Grid",
    "Row",
    "level_of",
    "levels",
    "make_grid",
    "matching",
    "page_of",
    "useful_dimensions",
]

DIMENSIONS = {"model": "model", "horizon": "horizon", "loss": "loss", "seed": "seed", "class": "class of the model"}
"""What the rows of a grid can be: name in an address -> name on the page."""
LEVELS = 3
"""Number of colours for values above zero, and for those below it."""
_ORDER = ("failed", "lost", "running", "waiting", "part_done", "done")
"""What a cell of several tasks shows: the first of these that one of them has."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The tasks of one window and one row, usually a single one."""

    tasks: tuple[PoolTask, ...]
    value: float | None = None
    """Mean of the chosen metric, or of the durations in seconds."""

    @property
    def status(self) -> str:
        """The status that needs attention most: ``failed``, ``lost``, ``running``, ``waiting``, ``part_done`` or ``done``."""
        found = {"lost" if task.is_lost else task.status.value for task in self.tasks}
        return next(name for name in _ORDER if name in found)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the grid."""

    name: str
    cells: tuple[Cell | None, ...]
    """One for each window; None if there is no task."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows as columns, models (or what was chosen) as rows."""

    windows: tuple[str, ...]
    """The test segments; one may be empty, for tasks without windows."""
    rows: tuple[Row, ...]


def useful_dimensions(tasks: Sequence[PoolTask]) -> list[str]:
    """Return the dimensions in which tasks differ, always with ``model``."""
    return [name for name in DIMENSIONS if name == "model" or len({task.named(name) for task in tasks}) > 1]


def matching(
    tasks: Sequence[PoolTask],
    *,
    status: str = "",
    part: str = "",
    dimension: str = "",
    value: str = "",
    window: str = "",
) -> list[PoolTask]:
    """Return the tasks that match all conditions that are not empty.

    Parameters
    ----------
    tasks : sequence of PoolTask
        The tasks.
    status : str
        Their status.
    part : str
        A part of the name of their model, in any case.
    dimension, value : str
        One of :data:`DIMENSIONS`, and the row of the tasks in a grid of it.
    window : str
        Their test segment.
    """
    return [
        task for task in tasks
        if (not status or task.status.value == status) and part.casefold() in task.model.casefold()
        and (not dimension or task.named(dimension) == value) and (not window or task.outline.window == window)
    ]  # fmt: skip


def make_grid(tasks: Sequence[PoolTask], by: str = "model", values: Mapping[str, float] | None = None) -> Grid:
    """Return the grid of some tasks.

    Parameters
    ----------
    tasks : sequence of PoolTask
        The tasks, oldest first.
    by : str
        What the rows are, one of :data:`DIMENSIONS`.
    values : mapping, optional
        Task id -> metric; a cell of several tasks shows the mean of those that have one.
    """
    values = values or {}
    found: dict[str, dict[str, list[PoolTask]]] = {}
    spans: dict[str, tuple[str, str]] = {}
    for task in tasks:
        spans[task.outline.window] = task.outline.first, task.outline.last or "9999"
        found.setdefault(task.named(by), {}).setdefault(task.outline.window, []).append(task)
    windows = sorted(spans, key=lambda window: spans[window])
    names = sorted(found, key=_natural) if by in ("horizon", "seed") else list(found)
    rows = []
    for name in names:
        cells = found[name]
        rows.append(Row(name, tuple(_cell(cells[w], values) if w in cells else None for w in windows)))
    return Grid(tuple(windows), tuple(rows))


def _cell(tasks: Sequence[PoolTask], values: Mapping[str, float]) -> Cell:
    known = [values[task.id] for task in tasks if math.isfinite(values.get(task.id, math.nan))]
    return Cell(tuple(tasks), statistics.fmean(known) if known else None)


def _natural(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def page_of(grid: Grid, page: int, most: int) -> tuple[Grid, int, int]:
    """Return the part of a grid on a page, the number of that page, and how many there are.

    Parameters
    ----------
    grid : Grid
        The grid.
    page : int
        The page, from 1; the last one is returned for a larger number.
    most : int
        Maximum number of cells on a page. Rows are divided first if a single column has more.
    """
    high = max(1, min(len(grid.rows), most))
    wide = max(1, most // high)
    across, down = math.ceil(len(grid.windows) / wide) or 1, math.ceil(len(grid.rows) / high) or 1
    page = max(1, min(page, across * down))
    part, block = (page - 1) % across, (page - 1) // across
    columns = slice(part * wide, (part + 1) * wide)
    rows = grid.rows[block * high : (block + 1) * high]
    return Grid(grid.windows[columns], tuple(Row(r.name, r.cells[columns]) for r in rows)), page, across * down


def levels(values: Sequence[float]) -> float:
    """Return the size of a value that has the strongest colour: the 90 % quantile of all sizes, so that one outlier does not
    make the others pale."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value))
    return sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))] if sizes else 0.0


def level_of(value: float | None, strongest: float) -> int:
    """Return the colour of a value: 1 to 3 above zero, -1 to -3 below, 0 for zero or no value.

    Examples
    --------
    >>> [level_of(value, 0.06) for value in (0.01, 0.03, 0.06, 0.5, -0.06, 0.0, None)]
    [1, 2, 3, 3, -3, 0, 0]
    """
    if value is None or not value or not strongest:
        return 0
    size = min(LEVELS, int(abs(value) / strongest * LEVELS) + 1)
    return size if value > 0 else -size
