"""The drawings of docs/windows.md, made by the generators from the YAML above each of them (``make tables``).

``tests/test_window_drawings.py`` fails if a drawing is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rollforge.generate.base import copy_task
from rollforge.generate.label_horizon import task_horizon
from rollforge.generate.segments import days_text, intervals
from rollforge.generate.task_view import TaskView
from rollforge.generators import GeneratorEntry, build_generators, generate_entries, grid_entry, rolling_entry

PAGE = Path(__file__).parents[1] / "docs" / "windows.md"
DAYS = pd.bdate_range("2024-01-01", "2024-03-29")
_CALENDAR = DAYS.to_numpy().astype("datetime64[D]")
_MARKS = {"train": "░", "valid": "▒", "test": "█"}
_LEFT_OUT, _EMBARGO = "·", "x"
_PAIR = re.compile(
    r"(?P<above>```yaml\n(?P<settings>(?:(?!```).)*)```\n\n```text(?P<label> label)?\n)(?:(?!```).)*```\n", re.DOTALL
)
_TASK = re.compile(r"```yaml\n(task:\n.*?)```", re.DOTALL)


def redrawn(page: str) -> str:
    """Return the page with every drawing made again: each is a block of text below a block of YAML."""
    found = _TASK.search(page)
    assert found is not None
    task = yaml.safe_load(found[1])["task"]

    def again(pair: re.Match[str]) -> str:
        drawn = drawing(yaml.safe_load(pair["settings"]), task, label=pair["label"] is not None)
        return f"{pair['above']}{drawn}```\n"

    return _PAIR.sub(again, page)


def drawing(settings: Mapping[str, Any], task: dict[str, Any], *, label: bool = False) -> str:
    """Return the windows of a workflow on a time axis with one column per trading day.

    With `label`, the days that the label of the last training day of the first window reads are drawn below it.
    """
    made = _tasks(settings, task)
    spared = _tasks(_without_embargo(settings), task)
    lines, model, number = [*_axis()], "", 0
    used: dict[str, None] = {}
    for (name, one), (_, other) in zip(made, spared, strict=True):
        if name != model:
            lines.append(f"{'':>10}{name}")
            model, number = name, 0
        number += 1
        row = _row(one, other)
        used.update(dict.fromkeys(row))
        lines.append(f"window {number:<3}{''.join(row)}")
    legend = {**{mark: name for name, mark in _MARKS.items()}, _LEFT_OUT: "left out", _EMBARGO: "embargo"}
    lines.append("")
    lines.append("   ".join(f"{mark} {text}" for mark, text in legend.items() if mark in used))
    lines += [f"window 1: {name} {days_text(segment)}" for name, segment in TaskView(made[0][1]).segments.items()]
    if label:
        lines.insert(3, _label(made[0][1]))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _tasks(settings: Mapping[str, Any], task: dict[str, Any]) -> list[tuple[str, Any]]:
    entries: list[GeneratorEntry] = []
    if settings.get("grid"):
        entries.append(grid_entry(settings["grid"]))
    entries += generate_entries(settings.get("generate"))
    if "rolling" in settings:
        entries.append(rolling_entry({"trunc_days": "auto", **settings["rolling"]}, "rollforge"))
    named: Sequence[tuple[str, Any]] = [("", copy_task(task))]
    for listed in build_generators([_on_days(entry) for entry in entries], "rollforge"):
        named = listed.apply(named)
    return list(named)


def _on_days(entry: GeneratorEntry) -> GeneratorEntry:
    """Give a generator the days of the page instead of those of a data folder."""
    import rollforge.generate

    config = dict(entry.config)
    if "calendar" in inspect.signature(getattr(rollforge.generate, config["class"])).parameters:
        config["kwargs"] = {**config.get("kwargs", {}), "calendar": DAYS}
    return GeneratorEntry(config, entry.place, entry.arguments, entry.only_argument)


def _without_embargo(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without embargo, to tell its days from those that are purged."""
    listed = [
        {name: {k: v for k, v in (arguments or {}).items() if k != "embargo"} for name, arguments in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in settings.get("generate", ())
    ]
    return {**settings, "generate": listed}


def _positions(task: Any) -> dict[int, str]:
    """Return the segment of each day that has one."""
    return {
        day: name
        for name, segment in TaskView(task).segments.items()
        for part in intervals(name, segment)
        for day in range(*part.positions(_CALENDAR))
    }


def _row(task: Any, spared: Any) -> list[str]:
    own, other = _positions(task), _positions(spared)
    period = {**own, **other}
    row = [" "] * len(DAYS)
    first, last = (0, len(DAYS) - 1) if min(other) == 0 and max(other) == len(DAYS) - 1 else (min(period), max(period))
    for day in range(first, last + 1):
        row[day] = _MARKS[own[day]] if day in own else _EMBARGO if day in other else _LEFT_OUT
    return row


def _axis() -> list[str]:
    """Return the months, and the day of the month of each Monday."""
    months, days = [" "] * (len(DAYS) + 10), [" "] * (len(DAYS) + 10)
    for place, day in enumerate(DAYS):
        if place == 0 or day.month != DAYS[place - 1].month:
            months[place : place + 8] = f"{day:%b %Y}"
        if day.weekday() == 0:
            days[place : place + 2] = f"{day.day:<2}"
    return [f"{'':>10}{''.join(line)}" for line in (months, days)]


def _label(task: Any) -> str:
    """Return the days that the label of the last training day reads."""
    last = max(day for day, name in _positions(task).items() if name == "train")
    horizon = task_horizon(task).days or 0
    return f"{'its label':<10}{' ' * last}└{'─' * (horizon - 1)}→"
