"""The pages as HTML: what a template shows of what the readers return.

Names, errors, logs and definitions come from a pool that others may have written. Templates escape all of them, and secrets
in them are masked here.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rollforge.dashboard.drawing import WIDTH, sparkline, status_bar
from rollforge.dashboard.grid import (
    DIMENSIONS,
    Cell,
    Grid,
    level_of,
    levels,
    make_grid,
    matching,
    page_of,
    useful_dimensions,
)
from rollforge.dashboard.lanes import Lane, timeline
from rollforge.dashboard.pools import PoolReader, PoolTask, Snapshot
from rollforge.dashboard.progress import progress, running
from rollforge.dashboard.results import ResultReader
from rollforge.dashboard.runs import PoolRuns, RunReader
from rollforge.dashboard.task_page import (
    artifact_paths,
    attempt_rows,
    attempts_text,
    definition_text,
    drawn_segments,
    importances,
    is_last_error,
)
from rollforge.dashboard.texts import (
    clock,
    duration,
    iso,
    last_line,
    masked,
    masked_lines,
    shown_name,
    when,
    worker_text,
)
from rollforge.errors import (
    ArtifactNotFound,
    MissingDependency,
    RollforgeError,
    counted,
    excerpt,
    first_few,
)
from rollforge.generate.naming import describe
from rollforge.report.tables import number
from rollforge.run.failures import error_line
from rollforge.task import Ending, Status, TaskRecord
from rollforge.track.artifact_files import inside

if TYPE_CHECKING:
    from rollforge.sides import Side

try:
    import jinja2
except ImportError as exc:
    raise MissingDependency(
        f"The dashboard requires Jinja2 ({exc}). Install it: pip install 'rollforge[dashboard]'"
    ) from exc

__all__ = ["Pages", "url"]

WORDS = {
    "done": "done", "part_done": "first stage done", "running": "running", "failed": "failed", "waiting": "waiting",
    "lost": "lease expired", "returned": "returned",
}  # fmt: skip
"""Status -> what it is called on a page."""
_STATUSES = {"": "any", **{name: WORDS[name] for name in ("failed", "running", "waiting", "part_done", "done")}}
_SORTS = {"": "last change", "name": "name", "ic": "IC", "failed": "failed tasks", "left": "unfinished tasks"}
_CELLS = 2000
"""Maximum number of cells of a grid on a page."""
_LABELLED = 26
"""Number of windows up to which each has its own label."""
_WIDE = 14
"""Number of windows from which on cells contain no numbers."""
_RUNNING = 12
_GROUPS = 50
_GROUP_TASKS = 12
_ARTIFACTS = 100
_COMPARED = 12
"""Maximum number of results in a comparison."""
_CHOICES = 200
"""Maximum number of models of an experiment, and of experiments, from which one can choose."""
_MAX_TRACEBACK = 200_000
_MAX_ERROR = 20_000
"""Maximum number of characters of a traceback on the page of an experiment."""


def url(path: str, **arguments: object) -> str:
    """Return the address of a page; arguments that are empty are left out.

    Examples
    --------
    >>> url("/task", experiment="a b/c", id="7f", status="")
    '/task?experiment=a+b%2Fc&id=7f'
    """
    given = {name: str(value) for name, value in arguments.items() if value not in ("", None)}
    return f"{path}?{urlencode(given)}" if given else path


class Pages:
    """Renders the pages.

    Parameters
    ----------
    pools : PoolReader
        Reads the task store.
    runs : RunReader
        Reads the tracking store.
    """

    def __init__(self, pools: PoolReader, runs: RunReader) -> None:
        self.pools = pools
        self.runs = runs
        self.results = ResultReader(pools, runs)
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("rollforge.dashboard", "templates"),
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters.update(number=number, clock=clock, when=when, iso=iso)
        self._templates.globals.update(url=url, words=WORDS, events="", experiment="", here="")

    def render(self, template: str, **values: object) -> str:
        """Return a page."""
        return self._templates.get_template(template).render(**values)

    def message(self, title: str, message: str) -> str:
        """Return a page with a message."""
        return self.render("message.html", title=title, message=masked_lines(message))

    def runs_of(self, pool: str, *, wait: float | None = None) -> PoolRuns:
        """Return the runs of a pool as last read."""
        counts = self.pools.counts(pool)
        mark = (counts.get(Status.DONE, 0), counts.get(Status.PART_DONE, 0))
        return self.runs.of(pool, mark) if wait is None else self.runs.of(pool, mark, wait=wait)

    def mark(self, pool: str) -> str:
        """Return a text that changes when the page of an experiment does."""
        return f"{self.pools.mark(pool)} {id(self.runs_of(pool, wait=0.0))}"

    def mark_of_all(self) -> str:
        """Return a text that changes when the list of experiments does."""
        return repr([(pool, self.mark(pool)) for pool in self.pools.pools()])

    # -- experiments ---------------------------------------------------------------------------------------------------

    def experiments(self, given: Mapping[str, str]) -> str:
        """Return the list of experiments."""
        chosen = {name: given.get(name, "") for name in ("q", "status", "sort")}
        names = self.pools.pools()
        rows = [_ExperimentRow.read(self, name) for name in names if chosen["q"].casefold() in name.casefold()]
        if chosen["status"] in _STATUSES and chosen["status"]:
            rows = [row for row in rows if row.counts.get(Status(chosen["status"]))]
        rows.sort(key=_SORT_KEYS.get(chosen["sort"], _SORT_KEYS[""]))
        return self.render(
            "experiments.html", title="Experiments", here="experiments", place=masked(self.pools.uri), rows=rows,
            chosen=chosen, statuses=_STATUSES, sorts=_SORTS, events="/events", can_compare=len(rows) > 1,
            shown_text=f"{counted(len(rows), 'experiment')}" + (f" of {len(names)}" if len(rows) < len(names) else ""),
            nothing="No experiment matches." if names else "There are no experiments in this store yet.",
        )  # fmt: skip

    # -- an experiment -------------------------------------------------------------------------------------------------

    def experiment(self, pool: str, given: Mapping[str, str]) -> str:
        """Return the page of an experiment.

        Raises
        ------
        TaskNotFound
            If there is no such experiment.
        """
        self.pools.require(pool)
        snapshot, runs = self.pools.snapshot(pool), self.runs_of(pool)
        state = progress(snapshot)
        shown_info = [("tasks", f"{state.total:,}")]
        if state.mean_seconds is not None:
            shown_info.append(("time for a task", duration(state.mean_seconds)))
        for name in ("IC", "Rank IC"):
            value = runs.joined.get(name)
            if value is not None:
                shown_info.append((f"{name} of the joined result", number(value, ".4f")))
        if state.begun is not None:
            shown_info.append(("started", when(state.begun)))
        shown = shown_name(pool)
        return self.render(
            "experiment.html", title=shown, here="experiment", experiment=pool, experiment_shown=shown,
            events=url("/events", experiment=pool), bar=status_bar(snapshot.counts, WORDS), shown_info=shown_info,
            paused=self.pools.store.paused(pool), expected_end=state.expected_end, left=state.left_seconds,
            experiment_side=side_text(pool), any_done=Status.DONE in snapshot.counts,
            models=len({task.model for task in snapshot.tasks}),
            problem=runs.problem if any(t.status is Status.DONE for t in snapshot.tasks) else "",
            **_grid_values(pool, snapshot, runs, given),
            **self._running_values(pool, snapshot), **self._failure_values(pool, snapshot), **_lane_values(pool, snapshot, runs),
        )  # fmt: skip

    # -- a task --------------------------------------------------------------------------------------------------------

    def task(self, pool: str, task_id: str) -> str:
        """Return the page of a task.

        Raises
        ------
        TaskNotFound
            If there is no such task.
        """
        self.pools.require(pool)
        task = self.pools.task(pool, task_id)
        now = self.pools.now()
        lost = task.status is Status.RUNNING and task.lease_until is not None and task.lease_until <= now
        title = masked(describe(task.definition, task.model_name)) or task.id[:8]
        segments = drawn_segments(task.definition)
        shown_info = [("worker", worker_text(task.worker))] if task.worker else []
        if task.started_at is not None:
            shown_info.append(("started", when(task.started_at)))
            end = now if task.status is Status.RUNNING else task.finished_at
            if end is not None and end >= task.started_at:
                shown_info.append(
                    ("running for" if task.status is Status.RUNNING else "took", duration(end - task.started_at))
                )
        if task.priority:
            shown_info.append(("priority", str(task.priority)))
        for name, ids in (("depends on", task.depends_on), ("failed on", task.failed_by)):
            if ids:
                shown_info.append(
                    (name, first_few([worker_text(i) if name == "failed on" else i[:8] for i in ids], 3, "; "))
                )
        results = self._task_results(pool, task)
        error = task.error or str(task.extra.get("unreadable", ""))
        attempts = attempt_rows(task, results.pop("runs"))
        if attempts and is_last_error(task, task.ended_attempts[-1]):
            error = ""  # it is that of the last attempt
        return self.render(
            "task.html", title=title, here="task", experiment=pool, experiment_shown=shown_name(pool),
            events=url("/events", experiment=pool, id=task_id),
            task={
                "id": masked(task.id), "short": masked(task.id[:8]), "title": title,
                "status": "lost" if lost else task.status.value, "cause": task.cause.value if task.cause else "",
            },
            shown_info=shown_info, attempts_text=attempts_text(task, lost), attempts=attempts,
            attempts_note=f"The latest {len(attempts)} attempts are kept." if attempts and attempts[-1]["number"] > 1 else "",
            reason=excerpt(masked(error_line(error)), 400) if error else "",
            error=masked_lines(error[-_MAX_TRACEBACK:]), log=masked_lines(task.log), segments=segments,
            segments_text="; ".join(one["text"] for one in segments), definition=masked_lines(definition_text(task.definition)),
            **results,
        )  # fmt: skip

    def _task_results(self, pool: str, task: TaskRecord) -> dict[str, Any]:
        """Return what the page of a task shows of its run."""
        values: dict[str, Any] = {
            "metrics": [], "importance": [], "importance_text": "", "artifacts": [], "more_artifacts": 0, "results_note": "",
            "runs": {},
        }  # fmt: skip
        runs = self.runs_of(pool)
        values["metrics"] = [
            (masked(name), number(value, ".6g"))
            for name, value in sorted(runs.metrics.get(task.id, {}).items(), key=lambda one: one[0].casefold())
        ]
        try:
            values["runs"] = self.runs.of_attempts(pool, task)
        except RollforgeError as exc:
            values["results_note"] = f"The runs of the task cannot be read: {masked(str(exc))}"
            return values
        if task.status is not Status.DONE:
            values["results_note"] = "" if values["metrics"] else "There are results when the task is done."
            return values
        try:
            found = self.runs.recorder(pool, task.id)
            names = found.list_artifacts() if found is not None else []
            all_names = artifact_paths(found) if found is not None else []
            values["importance"] = importances(found, names) if found is not None else []
        except RollforgeError as exc:
            values["results_note"] = f"The run of the task cannot be read: {masked(str(exc))}"
            return values
        values["importance_text"] = (
            f"The {counted(len(values['importance']), 'most important feature')}, as the model's library measures it: by "
            "default the number of splits, or the gain."
        )
        values["artifacts"] = [
            {"name": masked(name), "href": url("/artifact", experiment=pool, id=task.id, file=name)}
            for name in all_names[:_ARTIFACTS]
        ]
        values["more_artifacts"] = max(0, len(all_names) - _ARTIFACTS)
        if found is None and not values["metrics"]:
            values["results_note"] = runs.problem or "The task's result is not a run in the tracking store."
        return values

    def artifact(self, pool: str, task_id: str, path: str) -> Path:
        """Return the file of an artifact of a task's run.

        Raises
        ------
        TaskNotFound, ArtifactNotFound, ConfigError
            If there is no such task, run or file, or the path leaves the run's folder.
        """
        self.pools.require(pool)
        self.pools.task(pool, task_id)
        found = self.runs.recorder(pool, task_id)
        if found is None:
            raise ArtifactNotFound("The task has no run in the tracking store.")
        return Path(found.download_artifact(inside(path)))

    # -- results -------------------------------------------------------------------------------------------------------

    def result(self, pool: str) -> str:
        """Return the figures of the report for what is finished.

        Raises
        ------
        TaskNotFound
            If there is no such experiment.
        """
        from rollforge.report.html import plotly_script, report_parts

        self.pools.require(pool)
        report = report_parts(self.results.summary(pool))
        return self.render(
            "result.html", title=f"Result of {shown_name(pool)}", here="result", experiment=pool,
            experiment_shown=shown_name(pool), events=url("/events", experiment=pool), report=report,
            drawn=plotly_script() is not None,
        )  # fmt: skip

    def compare(self, texts: Sequence[str], reference: str = "") -> str:
        """Return the comparison of experiments and models, and the choice of them.

        Parameters
        ----------
        texts : sequence of str
            The sides, as in :func:`~rollforge.sides.read_side`; an experiment alone stands for all its models as well.
        reference : str
            The side from which differences are computed; by default the first.

        Raises
        ------
        TaskNotFound
            If an experiment does not exist.
        ConfigError
            If an experiment has no such model.
        """
        from rollforge.report.html import comparison_parts, comparison_title, plotly_script
        from rollforge.sides import Side, read_side

        chosen = list(dict.fromkeys(read_side(text, self.results.models) for text in texts if text.strip()))
        for side in chosen:
            self.pools.require(side.experiment_name)
        groups = {side.experiment_name: self.results.models(side.experiment_name) or [] for side in chosen}
        if len(chosen) == 1 and chosen[0].model is None and len(groups[chosen[0].experiment_name]) > 1:
            chosen += [Side(chosen[0].experiment_name, model) for model in groups[chosen[0].experiment_name]]
        chosen.sort(key=lambda side: str(side) != reference)
        heading, report, note = "Compare experiments and models", None, "Choose at least two experiments or models."
        if len(chosen) > 1:
            compared = self.results.compared(chosen[:_COMPARED])
            heading = comparison_title(compared.comparison)
            report = comparison_parts(compared.comparison, compared.definitions)
            left = len(chosen) - _COMPARED
            note = f"The first {_COMPARED} of {len(chosen)} are compared." if left > 0 else ""
        return self.render(
            "compare.html", title="Comparison", here="compare", heading=heading, report=report, note=note,
            choices=[_choices(pool, models, chosen) for pool, models in groups.items()],
            references=[(str(side), _side_name(side)) for side in chosen],
            experiments=[pool for pool in self.pools.pools() if pool.isprintable()][:_CHOICES],
            drawn=report is not None and plotly_script() is not None,
        )  # fmt: skip

    def task_mark(self, pool: str, task_id: str) -> str:
        """Return a text that changes when the page of a task does."""
        task = self.pools.task(pool, task_id)
        return f"{task.status} {task.attempt} {task.token} {hash(task.log)} {id(self.runs_of(pool, wait=0.0))}"

    def _running_values(self, pool: str, snapshot: Snapshot) -> dict[str, Any]:
        found = running(snapshot)
        logs = {task.id: task.log for task in self.pools.running(pool, _RUNNING)} if found else {}
        rows = [
            {
                "title": one.task.title, "href": address_of_task(pool, one.task.id),
                "since": one.task.state.started_at or 0.0,
                "worker": worker_text(one.task.state.worker or ""), "seconds": one.seconds, "lost": one.task.is_lost,
                "share": None if one.share is None else round(100 * one.share), "expected": one.expected_seconds,
                "line": excerpt(masked(last_line(logs.get(one.task.id, ""))), 160),
            }
            for one in found[:_RUNNING]
        ]  # fmt: skip
        waiting = any(task.status in (Status.WAITING, Status.PART_DONE) for task in snapshot.tasks)
        text = "No task is running." + (f" Start a worker: rollforge worker -t {pool}" if waiting else "")
        return {"running": rows, "more_running": len(found) - len(rows), "idle_text": masked(text)}

    def _failure_values(self, pool: str, snapshot: Snapshot) -> dict[str, Any]:
        titles = {task.id: task.title for task in snapshot.tasks if task.status is Status.FAILED}
        retried = _retried_values(pool, snapshot)
        if not titles:
            return {"failures": [], "failures_note": "", "retried": retried}
        found = self.pools.failures(pool)
        groups = [
            {
                "key": f"{zlib.crc32(group.reason.encode('utf-8', 'replace')):x}", "reason": excerpt(masked(group.reason), 400),
                "count_text": counted(len(group.tasks), "task") + ":", "more": max(0, len(group.tasks) - _GROUP_TASKS),
                "error": masked_lines(group.error[-_MAX_ERROR:]),
                "tasks": [
                    {"title": titles.get(task_id) or masked(task_id[:8]), "href": address_of_task(pool, task_id)}
                    for task_id in group.tasks[:_GROUP_TASKS]
                ],
            }
            for group in found.groups[:_GROUPS]
        ]  # fmt: skip
        note = ""
        if found.grouped < found.total:
            note = f"The latest {found.grouped:,} of {found.total:,} failed tasks."
        return {"failures": groups, "failures_note": note, "retried": retried}


# -- the list of experiments -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ExperimentRow:
    name: str
    shown: str
    counts: Mapping[Status, int]
    bar: object
    changed: float
    paused: bool
    ic: float | None
    rank_ic: float | None
    spark: object

    @classmethod
    def read(cls, pages: Pages, pool: str) -> _ExperimentRow:
        """Read a row. Of a large pool only the states are read, not the definitions."""
        counts = pages.pools.counts(pool)
        now, states = pages.pools.states(pool)
        times = [t for s in states for t in (s.created_at, s.started_at, s.finished_at) if t is not None]
        runs = pages.runs_of(pool)
        spark = None
        if runs.metrics:
            tasks = pages.pools.snapshot(pool).tasks
            values = make_grid([t for t in tasks if t.id in runs.metrics], values=runs.of("IC"))
            spark = sparkline(_by_window(values), "IC")
        return cls(
            pool, shown_name(pool), counts, status_bar(counts, WORDS), max(times, default=now), pages.pools.store.paused(pool),
            _headline(runs, "IC"), _headline(runs, "Rank IC"), spark,
        )  # fmt: skip

    @property
    def side(self) -> str:
        return side_text(self.name)

    @property
    def left(self) -> int:
        return sum(n for status, n in self.counts.items() if status not in (Status.DONE, Status.FAILED))


_SORT_KEYS: dict[str, Any] = {
    "": lambda row: (-row.changed, row.name),
    "name": lambda row: row.name.casefold(),
    "ic": lambda row: (row.ic is None, -(row.ic or 0.0), row.name),
    "failed": lambda row: (-row.counts.get(Status.FAILED, 0), row.name),
    "left": lambda row: (-row.left, row.name),
}


def _headline(runs: PoolRuns, name: str) -> float | None:
    """Return a metric of the joined result, or else the mean of the windows."""
    if name in runs.joined:
        return runs.joined[name]
    values = runs.of(name)
    return statistics.fmean(values.values()) if values else None


def _by_window(grid: Grid) -> list[float]:
    """Return the mean over the models of each window that has a value."""
    found = []
    for column in range(len(grid.windows)):
        values = [cell.value for row in grid.rows if (cell := row.cells[column]) is not None and cell.value is not None]
        if values:
            found.append(statistics.fmean(values))
    return found


# -- the grid ----------------------------------------------------------------------------------------------------------


def _grid_values(pool: str, snapshot: Snapshot, runs: PoolRuns, given: Mapping[str, str]) -> dict[str, Any]:
    chosen = {name: given.get(name, "") for name in ("by", "metric", "status", "q", "of", "value", "window")}
    dimensions = {name: DIMENSIONS[name] for name in useful_dimensions(snapshot.tasks)}
    metrics = {
        "": "status",
        "time": "time",
        **{name: masked(name) for name in runs.names if not name.endswith("_seconds")},
    }
    chosen["by"] = chosen["by"] if chosen["by"] in dimensions else "model"
    if not runs.known and chosen["metric"]:  # its name is kept until the metrics have been read
        metrics.setdefault(chosen["metric"], masked(chosen["metric"]))
    chosen["metric"] = chosen["metric"] if chosen["metric"] in metrics else ""
    tasks = matching(
        snapshot.tasks, status=chosen["status"], part=chosen["q"], window=chosen["window"],
        dimension=chosen["of"] if chosen["of"] in DIMENSIONS else "", value=chosen["value"],
    )  # fmt: skip
    if chosen["metric"] == "time":
        values = {task.id: task.seconds for task in tasks if task.status is Status.DONE and task.seconds is not None}
    else:
        values = runs.of(chosen["metric"]) if chosen["metric"] else {}
    grid, page, pages = page_of(make_grid(tasks, chosen["by"], values), _page(given.get("page", "")), _CELLS)
    there = [cell.value for row in grid.rows for cell in row.cells if cell is not None and cell.value is not None]
    strongest = levels(there)
    wide = len(grid.windows) > _WIDE
    form = "duration" if chosen["metric"] == "time" else "number"
    rows = [
        {
            "name": masked(row.name) or "unnamed",
            "cells": [
                None if cell is None else _cell_values(pool, cell, masked(row.name), window, chosen, strongest, form, wide=wide)
                for cell, window in zip(row.cells, grid.windows, strict=True)
            ],
        }
        for row in grid.rows
    ]  # fmt: skip
    shown = f"{counted(len(tasks), 'task')}, {counted(len(grid.windows), 'window')} × {counted(len(grid.rows), 'row')}"
    if len(tasks) < len(snapshot.tasks):
        shown = f"{len(tasks):,} of {counted(len(snapshot.tasks), 'task')}"

    def page_url(other: int) -> str:
        return url("/experiment", name=pool, **chosen, page=other)

    return {
        "grid": {"rows": rows}, "chosen": chosen, "dimensions": dimensions, "metrics": metrics, "statuses": _STATUSES,
        "years": _years(grid.windows), "labels": _labels(grid.windows), "wide": wide, "page": page, "pages": pages,
        "page_url": page_url, "shown_text": shown,
        "keys": _keys(chosen["metric"], tasks, strongest, form, min(there, default=0.0)),
        "grid_title": f"Windows × {dimensions[chosen['by']]}s" if chosen["by"] != "loss" else "Windows × losses",
    }  # fmt: skip


def _page(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def _cell_values(
    pool: str, cell: Cell, name: str, window: str, chosen: Mapping[str, str], strongest: float, form: str, *, wide: bool
) -> dict[str, str]:
    if len(cell.tasks) == 1:
        href = address_of_task(pool, cell.tasks[0].id)
    else:
        value = cell.tasks[0].named(chosen["by"])
        href = url(
            "/experiment", name=pool, by="model", metric=chosen["metric"], of=chosen["by"], value=value, window=window
        )
    status = WORDS[cell.status]
    parts = [name or "unnamed", window or "no window", status]
    if len(cell.tasks) > 1:
        parts[-1] = f"{counted(len(cell.tasks), 'task')}, {status}"
    kind, text = f"s-{cell.status}", ""
    if chosen["metric"] and cell.value is not None:
        shown = duration(cell.value) if form == "duration" else number(cell.value, ".4g")
        parts.append(f"{'time' if form == 'duration' else masked(chosen['metric'])} {shown}")
        kind = f"v{level_of(cell.value, strongest)}"
        text = "" if wide else (shown if form == "duration" else number(cell.value, ".3f"))
    elif chosen["metric"] and cell.status == "done":
        kind = "v0"
    elif len(cell.tasks) > 1 and not wide:
        text = str(len(cell.tasks))
    return {"href": href, "title": ", ".join(parts), "kind": kind, "text": text}


def _keys(metric: str, tasks: Sequence[PoolTask], strongest: float, form: str, lowest: float) -> list[dict[str, str]]:
    used = {"lost" if task.is_lost else task.status.value for task in tasks}
    keys = [
        {"kind": f"s-{name}", "text": WORDS[name]} for name in WORDS if name in used and not (metric and name == "done")
    ]
    if not metric or not strongest:
        return keys
    if form == "duration":
        return [*keys, {"kind": "v1", "text": "short"}, {"kind": "v3", "text": f"{duration(strongest)} or longer"}]
    shown = number(strongest, ".3f")
    below = [{"kind": "v-3", "text": f"−{shown} or less"}] if lowest < 0 else []
    return [*keys, *below, {"kind": "v3", "text": f"{shown} or more"}]


def _years(windows: Sequence[str]) -> list[tuple[str, int]]:
    """Return the years of neighbouring windows, each with their number."""
    found: list[tuple[str, int]] = []
    for window in windows:
        year = window[:4] if window else "no window"
        if found and found[-1][0] == year:
            found[-1] = year, found[-1][1] + 1
        else:
            found.append((year, 1))
    return found


def _labels(windows: Sequence[str]) -> list[dict[str, str]]:
    if len(windows) > _LABELLED:
        return []
    return [{"text": window[5:10] if window[4:5] == "-" else "", "title": window} for window in windows]


# -- failures ----------------------------------------------------------------------------------------------------------


def _retried_values(pool: str, snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the tasks that have not failed in the end, but had failed attempts; None if there are none."""
    failed: dict[str, int] = {}
    for task, attempt in snapshot.past:
        if attempt.ending is Ending.FAILED and task.status is not Status.FAILED:
            failed[task.id] = failed.get(task.id, 0) + 1
    if not failed:
        return None
    tasks = [
        {"title": task.title, "href": address_of_task(pool, task.id), "failed": counted(failed[task.id], "attempt")}
        for task in snapshot.tasks if task.id in failed
    ]  # fmt: skip
    were = "was" if len(tasks) == 1 else "were"
    attempts = counted(sum(failed.values()), "failed attempt")
    return {
        "text": f"{counted(len(tasks), 'task')} {were} retried after {attempts}",
        "tasks": tasks[:_GROUP_TASKS], "more": max(0, len(tasks) - _GROUP_TASKS),
    }  # fmt: skip


# -- lanes -------------------------------------------------------------------------------------------------------------


def _lane_values(pool: str, snapshot: Snapshot, runs: PoolRuns) -> dict[str, Any]:
    found = timeline(snapshot, runs.of("task_seconds"))
    if found is None:
        return {"lanes": None, "lane_keys": []}
    scale = WIDTH / (found.end - found.start)
    several = {lane.worker for lane in found.lanes if lane.number > 1}

    def row(lane: Lane) -> dict[str, Any]:
        label = worker_text(lane.worker) + (f" · {lane.number}" if lane.worker in several else "")
        after = f"{lane.busy:.0%} busy"
        if lane.idle_since is not None:
            after = f"idle for {duration(found.end - lane.idle_since)}"
        tasks = len({task.id for bar in lane.bars for task in bar.tasks})
        bars = [
            {
                "href": address_of_task(pool, bar.tasks[0].id), "status": bar.status,
                "x": round((bar.start - found.start) * scale, 1),
                "width": round(max(1.0, (bar.end - bar.start) * scale), 1),
                "title": f"{bar.title}: {WORDS[bar.status]}, {duration(bar.end - bar.start)}",
            }
            for bar in lane.bars
        ]  # fmt: skip
        return {
            "worker": masked(lane.worker), "label": label, "after": after, "idle": lane.idle_since is not None, "bars": bars,
            "text": f"{label}: {counted(tasks, 'task')}, {after}",
        }  # fmt: skip

    rows = [row(lane) for lane in found.lanes]
    keys = [name for name in WORDS if any(bar["status"] == name for one in rows for bar in one["bars"])]
    return {
        "lanes": {"start": found.start, "end": found.end, "rows": rows, "hidden": found.hidden}, "lane_keys": keys
    }  # fmt: skip


# -- comparisons -------------------------------------------------------------------------------------------------------


def _choices(pool: str, models: Sequence[str], chosen: Sequence[Side]) -> dict[str, Any]:
    """Return the sides of an experiment from which one can choose: its joined result and, of several, its models."""
    from rollforge.sides import Side

    listed = [Side(pool), *(Side(pool, model) for model in models if len(models) > 1)]
    found = listed[:_CHOICES] + [side for side in listed[_CHOICES:] if side in chosen]
    return {
        "experiment": shown_name(pool), "more": len(listed) - len(found),
        "sides": [
            {"text": str(side), "shown": "joined result" if side.model is None else masked(side.model), "chosen": side in chosen}
            for side in found
        ],
    }  # fmt: skip


def side_text(pool: str) -> str:
    """Return an experiment as it is written in the address of a comparison."""
    from rollforge.sides import Side

    return str(Side(pool))


def _side_name(side: Side) -> str:
    return masked(side.experiment_name if side.model is None else f"{side.experiment_name}: {side.model}")


# -- addresses ---------------------------------------------------------------------------------------------------------


def address_of_task(pool: str, task_id: str) -> str:
    """Return the address of the page of a task."""
    return url("/task", experiment=pool, id=task_id)
