"""The measured proof: which results change before a day when only the market data after it change.

For some windows of a workflow and some days of each, the market data after the day are replaced, the data are built
again and compared up to the day, as in :mod:`rollforge.check.market_copy` and :mod:`rollforge.check.compare`. The days
are the middle of the train segment, the last day before each later segment, the last day that the labels of train and
valid read, and the middle of the test segment.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rollforge.check.cases import Case, days_of, middle_day
from rollforge.check.columns import Columns, column_name, constant_columns, is_label, without_times
from rollforge.check.compare import changed_columns
from rollforge.check.ensembles import ensemble_checks
from rollforge.check.market_copy import TURNS, Change
from rollforge.check.measurement import Measurement, Scope
from rollforge.check.rebuild import TaskData
from rollforge.check.window_check import WindowCheck
from rollforge.errors import SegmentError, counted
from rollforge.generate.checks import Check, Leakage
from rollforge.generate.label_horizon import task_horizon
from rollforge.generate.task_view import TaskView
from rollforge.plan import Plan, make_plan
from rollforge.task import Document
from rollforge.workflow import Workflow

__all__ = ["Cost", "Proof", "Scope", "prove"]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a check."""

    windows: int
    instruments: int
    builds: int
    """Number of times that the data are built from a changed copy of the market."""
    fits: int
    """Number of times that a model is fitted."""
    seconds: float
    """Approximate time."""

    def __str__(self) -> str:
        return (
            f"{counted(self.windows, 'window')}: builds the data of {counted(self.instruments, 'instrument')} "
            f"{counted(self.builds, 'time')} and fits {counted(self.fits, 'model')}; about {max(self.seconds, 1):.0f} s"
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """The results of the checks of a workflow."""

    plan: Plan
    """The tasks, with the results of the static checks."""
    measured: tuple[Check, ...]
    as_written: bool
    """False if the windows were purged by the measured horizon, so that the tasks are not those of the workflow."""


def prove(
    workflow: Workflow,
    scope: Scope | None = None,
    on_cost: Callable[[Cost], object] = lambda cost: None,
    *,
    limit: int | None = None,
) -> Proof:
    """Return the results of the checks of a workflow.

    The user's code is run as by ``rollforge run``, but on temporary copies of the data folder, with a temporary cache
    and tracking store. They are removed at the end, even after an error or Ctrl-C.

    If windows cannot be purged because the label's horizon is unknown, they are purged by the measured one.

    Parameters
    ----------
    workflow : Workflow
        The workflow.
    scope : Scope, optional
        How much is checked.
    on_cost : callable
        Called with the estimated cost, before nearly all of the work.
    limit : int, optional
        Maximum number of tasks.

    Raises
    ------
    RollforgeError
        If the workflow cannot be planned, or the data of a task cannot be built from the data folder.
    """
    import rollforge.expressions.jit  # noqa: F401  # chooses the folder of compiled code, before the session changes

    scope = scope or Scope()
    workflow = replace(workflow, leakage=Leakage.WARN)  # leaks in the definition do not prevent measuring
    try:
        plan, measured = make_plan(workflow, limit=limit), None
    except SegmentError:
        if not any(task_horizon(template.task).days is None for template in workflow.templates):
            raise
        plan, measured = _plan_with_measured_horizon(workflow, limit, scope)
    with tempfile.TemporaryDirectory(prefix="rollforge-check-") as folder, _quietly():
        found = _run(Measurement(plan, scope, Path(folder), measured), on_cost)
    return Proof(plan, tuple(found), measured is None)


def _plan_with_measured_horizon(workflow: Workflow, limit: int | None, scope: Scope) -> tuple[Plan, int]:
    """Return a plan whose windows are purged by the measured horizon of the label, and this horizon."""
    plan = make_plan(_with_horizon(workflow, 0), limit=limit)
    with tempfile.TemporaryDirectory(prefix="rollforge-check-") as folder, _quietly():
        measured = _measured_horizon(Measurement(plan, scope, Path(folder), 0))
    return make_plan(_with_horizon(workflow, measured), limit=limit), measured


def _with_horizon(workflow: Workflow, days: int) -> Workflow:
    """Return a workflow that declares the horizon of labels for which it is unknown."""

    def declared(task: Document) -> Document:
        return task if task_horizon(task).days is not None else {**task, "label_horizon": days}

    models = tuple(replace(one, task=declared(one.task)) for one in workflow.models)
    return replace(workflow, template=declared(workflow.template), models=models)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress logs and warnings about the copies; planning and running report those about the original data."""
    logger = logging.getLogger("rollforge")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run(measurement: Measurement, on_cost: Callable[[Cost], object]) -> list[Check]:
    cases = measurement.cases()
    measurement.restrict(cases)
    with contextlib.ExitStack() as held:
        session, first = measurement.first(cases[0], held)
        originals: dict[str, Columns] = {}
        for case in cases:
            data = first if case is cases[0] else measurement.original(case.task, session)
            key = repr(without_times(TaskView(case.task).handler))
            if key not in originals:
                originals[key] = _columns(measurement, case, data)
            built = time.perf_counter()
            window = WindowCheck(measurement, case, data, originals[key])
            models = window.fitted()
            if case is cases[0]:
                building = float(np.median(measurement.durations or [1.0]))  # the first one may compile kernels
                fitting = (time.perf_counter() - built) / max(1, 2 * len(models))
                on_cost(_cost(measurement, cases, originals[key], building, fitting))
            window.run(models)
    codes = sorted(measurement.members or measurement.codes or measurement.source.instruments("all"))
    ensembles = ensemble_checks(measurement.plan, measurement.calendar, codes, measurement.copy)
    return [*measurement.findings.checks(), *ensembles]


def _measured_horizon(measurement: Measurement) -> int:
    """Return the largest number of days before a change on which labels of the first window change."""
    cases = measurement.cases()
    measurement.restrict(cases)
    with contextlib.ExitStack() as held:
        _, data = measurement.first(cases[0], held)
        return _columns(measurement, cases[0], data).reach


_COMPARING = 1.5  # time for building and comparing the data of a change, relative to building them


def _cost(measurement: Measurement, cases: Sequence[Case], columns: Columns, building: float, fitting: float) -> Cost:
    """Return the cost, from the seconds that one build and one fit took for the first case."""
    turns = measurement.scope.turns
    builds = sum(len(days_of(case, measurement.calendar, columns)) * turns for case in cases)
    first, *others = [len(measurement.fitted(case)) for case in cases]
    twice = 1 if measurement.scope.quick else 2  # with quick, models that are known to be repeatable are fitted once
    to_come = first * turns + sum(n * (twice + turns) for n in others)
    handlers = {repr(without_times(TaskView(case.task).handler)) for case in cases}
    others_built = len(cases) - 1 + (1 + TURNS) * (len(handlers) - 1)
    seconds = building * (builds * _COMPARING + others_built) + fitting * to_come
    return Cost(len(cases), measurement.number, builds, 2 * first + to_come, seconds)


def _columns(measurement: Measurement, case: Case, data: TaskData) -> Columns:
    """Find the columns that do not depend on the market data, and how far before a day labels change."""
    horizon = task_horizon(case.task)
    if measurement.measured is not None and horizon.read is None:
        horizon = task_horizon({k: v for k, v in case.task.items() if k != "label_horizon"})
    columns = Columns(horizon)
    if not data.stages:
        return columns
    before = measurement.calendar[0] - np.timedelta64(1, "D")
    with measurement.changed(Change(before, removes=False), case) as other:
        if other is not None:
            frame = data.raw
            fixed = ~changed_columns(frame, other.raw) & ~constant_columns(frame)
            columns.fixed = [column_name(c) for c in frame.columns[fixed & ~is_label(frame)]]
            columns.fixed_labels = [column_name(c) for c in frame.columns[fixed & is_label(frame)]]
            columns.all_fixed = bool((fixed | constant_columns(frame)).all())
    train = case.window.segments.get("train")
    if train is not None:
        day = middle_day(train.start, train.end, measurement.calendar)
        for turn in range(TURNS):
            with measurement.changed(Change(day, turn), case) as other:
                if other is not None:
                    columns.measure(data, other, day, measurement.calendar)
    return columns
