"""The inputs of a report, and their creation from a result."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pandas as pd

from rollforge.collect.combine import ensembles_text
from rollforge.confidential import mask_secrets
from rollforge.generate.checks import Check
from rollforge.generate.timeline import Window, window_title
from rollforge.record.drift import MEASURED, saved_drift
from rollforge.run.failures import error_line
from rollforge.run.importance import saved_importance
from rollforge.session import Session, available_cores

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.collect.trials import Trials

__all__ = ["ModelInputs", "ReportInputs", "TaskRow", "report_inputs", "task_rows"]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: its window, status, metrics and durations."""

    window: Window
    status: str
    """``done``, ``failed``, ``waiting``, ``running``, ``part_done``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics logged by its recorder; ``task_seconds`` and ``fit_seconds`` are its durations."""
    recorder_id: str = ""
    attempt: int = 0
    error: str = ""
    """Traceback, if the task failed."""
    model: str = ""
    """Name that distinguishes the task's model from others of the experiment (a grid); empty if there is one model."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Feature -> how much the task's model depends on it, as the model's library measures that; empty if it is unknown."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """Feature -> its population stability index from train to test; empty without a ``DriftRecord``."""

    @property
    def title(self) -> str:
        """Readable title of the task."""
        return window_title(self.window.index, self.model)

    @property
    def reason(self) -> str:
        """The line of the traceback with the error."""
        return error_line(self.error)


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Prediction and label of one model out of several."""

    name: str
    prediction: pd.DataFrame | None
    label: pd.DataFrame | None
    label_text: str = ""
    label_days: int | None = None
    """As in :class:`ReportInputs`."""
    portfolio: pd.DataFrame | None = None
    """As in :class:`ReportInputs`, for a backtest path."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Inputs of a report."""

    title: str
    tasks: Sequence[TaskRow]
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), first column the score."""
    label: pd.DataFrame | None
    """Index (datetime, instrument), first column the raw forward return."""
    notes: Sequence[str] = ()
    """Missing or overlapping windows: one sentence each."""
    warnings: Sequence[str] = ()
    """Other warnings about the result: one sentence each."""
    checks: Sequence[Check] = ()
    """What the checks for leakage found."""
    config: str = ""
    """The workflow as YAML."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions, cores, folders, stores."""
    portfolio: pd.DataFrame | None = None
    """Daily report of a backtest, as saved by ``PortAnaRecord``: columns return, bench, cost; index of days."""
    positions: Mapping[Any, Any] | None = None
    """Day -> position of the backtest, as saved by ``PortAnaRecord``; None if they are unknown."""
    portfolio_about: Mapping[str, str] = field(default_factory=dict)
    """Description of the backtest: days, strategy, costs, benchmark, account."""
    label_text: str = ""
    """Expression of the label; empty if unknown."""
    label_days: int | None = None
    """Number of trading days that one label spans. Returns are divided by it before they are summed; if it is None,
    there are no annualised returns and no t statistic of the IC."""
    models: Sequence[ModelInputs] = ()
    """The models whose predictions are combined; empty for a single model."""
    ensembles: Mapping[str, str] = field(default_factory=dict)
    """The ensembles that combined the predictions, as in :class:`~rollforge.collect.result.Collected`."""
    paths: Mapping[str, Sequence[ModelInputs]] = field(default_factory=dict)
    """Model -> its backtest paths, named ``path 1``, … and evaluated by the label of the model."""
    trials: Trials | None = None
    """All variants tried in the experiment; None for a single one."""
    calendar: pd.DatetimeIndex | None = None
    """The trading days, by which lags are counted; if None, those of the prediction are used."""
    groups: pd.Series | None = None
    """Group of each instrument, by instrument or by day and instrument, for the IC within groups; its name is used as
    the title."""


def report_inputs(
    collected: Collected, *, name: str, session: Session, config: str, groups: pd.Series | None = None
) -> ReportInputs:
    """Return the inputs of the report of a result.

    Parameters
    ----------
    collected : Collected
        The result.
    name : str
        Title of the report.
    session : Session
        The session with which the result was created.
    config : str
        The workflow as YAML.
    groups : Series, optional
        As in :class:`ReportInputs`.
    """
    models = tuple(
        ModelInputs(m.name, m.prediction, m.label, m.target.expression, m.target.days) for m in collected.models
    )
    paths: dict[str, list[ModelInputs]] = {}
    for path in collected.paths:
        own = next(m for m in models if m.name == path.model)
        portfolio = None if path.backtest is None else path.backtest.result.report
        made = replace(own, name=f"path {path.number}", prediction=path.prediction, portfolio=portfolio)
        paths.setdefault(path.model, []).append(made)
    return ReportInputs(
        title=name,
        tasks=_with_features(task_rows(collected), collected),
        prediction=collected.prediction,
        label=collected.label,
        notes=collected.coverage.notes,
        warnings=(*collected.plan_warnings, *collected.warnings),
        checks=collected.checks,
        portfolio=None if collected.backtest is None else collected.backtest.result.report,
        positions=None if collected.backtest is None else collected.backtest.result.positions,
        portfolio_about={} if collected.backtest is None else collected.backtest.about(),
        label_text=collected.target.expression,
        label_days=collected.target.days,
        models=models if len(models) > 1 else (),
        ensembles=collected.ensembles,
        paths=paths,
        trials=collected.trials,
        calendar=pd.DatetimeIndex(collected.schedule.calendar),
        groups=groups,
        config=config,
        environment={**_environment(session), "ensemble": ensembles_text(collected.ensembles)},
    )


def task_rows(collected: Collected) -> list[TaskRow]:
    """Return the tasks of a result, with those of each model in the order of their windows."""
    rows = []
    order = {name: i for i, name in enumerate(collected.model_names)}
    pairs = zip(collected.schedule.windows, collected.outcomes, strict=True)
    for window, outcome in sorted(pairs, key=lambda pair: (order[pair[1].model], pair[0].index)):
        task, recorder = outcome.task, outcome.recorder
        metrics = collected.runs[recorder.id].metrics if recorder is not None else {}
        run = recorder.id if recorder else ""
        rows.append(TaskRow(window, task.status.value, metrics, run, task.attempts, task.error or "", outcome.model))
    return rows


def _with_features(rows: Sequence[TaskRow], collected: Collected) -> list[TaskRow]:
    """Add what the runs have saved about their features."""
    recorders = {
        outcome.recorder.id: outcome.recorder for outcome in collected.outcomes if outcome.recorder is not None
    }
    found = []
    for row in rows:
        recorder = recorders.get(row.recorder_id)
        if recorder is not None:
            drift = (
                saved_drift(recorder) if MEASURED & row.metrics.keys() else {}
            )  # most runs have none: saves a request
            row = replace(row, importance=saved_importance(recorder), drift=drift)
        found.append(row)
    return found


def _environment(session: Session) -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return f"no {package}"

    packages = ("rollforge", "lightgbm", "numpy", "pandas", "numba", "mlflow-skinny")
    return {
        "data": session.folder() or "",
        "tasks": mask_secrets(session.store_uri),
        "runs": mask_secrets(session.tracking_uri),
        "machine": f"{platform.node()}, {available_cores()} cores, Python {platform.python_version()}",
        "packages": ", ".join(version(p) for p in packages),
        "written": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
