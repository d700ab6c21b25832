"""The out-of-sample result of the tasks of an experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from rollforge.collect.outcomes import TaskOutcome
from rollforge.dates import show_time, times_of
from rollforge.errors import counted
from rollforge.generate.label import Label, task_labels
from rollforge.markup import Markup, tag
from rollforge.notebook import html_repr, summary, table
from rollforge.session import Session
from rollforge.task import Status

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from rollforge.collect.combine import Ensembles
    from rollforge.collect.coverage import Coverage, ExpectedWindow
    from rollforge.collect.labels import ModelLabel
    from rollforge.collect.trials import Trials
    from rollforge.generate.checks import Check
    from rollforge.generate.timeline import Schedule
    from rollforge.record.joined import JoinedBacktest
    from rollforge.track.base import RunData


__all__ = ["Collected", "Loaded", "ModelResult", "PathResult", "collect_outcomes", "schedule_of"]

_METRICS = ("IC", "Rank IC")
"""Metrics of each window that a notebook shows."""


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The prediction of one model of an experiment, joined over its windows."""

    name: str
    """As in :attr:`TaskOutcome.model`."""
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), first column the score; None if no window of the model is done."""
    label: pd.DataFrame | None
    """Index (datetime, instrument): the model's own label; it is evaluated by the first column."""
    target: Label
    """Description of the first column of `label`, and the number of days that it spans."""


@dataclass(frozen=True, slots=True)
class PathResult:
    """One backtest path of combinatorial splits, see :mod:`rollforge.collect.paths`."""

    model: str
    number: int
    """From 1."""
    prediction: pd.DataFrame
    """Index (datetime, instrument), first column the score; each day is predicted by one split."""
    backtest: JoinedBacktest | None = None
    """The backtest of `prediction`, see :func:`~rollforge.pipeline.with_backtest`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Frames and runs that were read from the recorders of a result."""

    frames: Mapping[str, Mapping[str, pd.DataFrame]]
    """Recorder id -> ``pred`` and ``label``."""
    runs: Mapping[str, RunData]
    """As in :attr:`Collected.runs`."""


@dataclass(frozen=True, slots=True)
class Collected:
    """An out-of-sample result, with the tasks and recorders from which it was made."""

    outcomes: tuple[TaskOutcome, ...]
    schedule: Schedule
    """The tasks on the calendar, in the order of `outcomes`."""
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), column ``score``: the model's prediction, or the average over several models. None
    if no task is done."""
    label: pd.DataFrame | None
    """Index (datetime, instrument): the labels of all models that have the same label as the first."""
    target: Label
    """Description of the first column of `label`, and the number of days that it spans."""
    coverage: Coverage
    warnings: tuple[str, ...] = ()
    """Warnings about the result, even if it is complete."""
    models: tuple[ModelResult, ...] = ()
    """The prediction of each model, in the order of the tasks."""
    runs: Mapping[str, RunData] = field(default_factory=dict)
    """Recorder id -> params, metrics and tags of the run."""
    ensembles: Mapping[str, str] = field(default_factory=dict)
    """The ensembles that combined the predictions: ``windows``, and ``models`` if models were combined ->
    description."""
    checks: tuple[Check, ...] = ()
    """What the checks of the tasks for leakage found: the static ones, and those that ``rollforge check`` measured."""
    backtest: JoinedBacktest | None = None
    """The backtest of `prediction`, see :func:`~rollforge.pipeline.with_backtest`."""
    paths: tuple[PathResult, ...] = ()
    """The backtest paths of combinatorial splits. The prediction of their model is the average over its paths."""
    trials: Trials | None = None
    """All variants tried in the experiment, see :func:`~rollforge.pipeline.with_trials`."""
    loaded: Loaded | None = field(default=None, repr=False, compare=False)
    """What was read, if the models have different labels: the result of each label is made from it, too."""

    def __repr__(self) -> str:
        rows = 0 if self.prediction is None else len(self.prediction)
        done = sum(outcome.task.status is Status.DONE for outcome in self.outcomes)
        return f"<Collected: {done} of {counted(len(self.outcomes), 'task')} done, {counted(rows, 'predicted row')}>"

    @html_repr
    def _repr_html_(self) -> Markup:
        statuses = Counter(outcome.task.status.value for outcome in self.outcomes)
        info: dict[str, object] = {**statuses, "models": len(self.models) if len(self.models) > 1 else None}
        if self.prediction is not None:
            import numpy as np

            days = np.unique(times_of(self.prediction.index.get_level_values(0)))
            info |= {
                "rows": len(self.prediction),
                "days": f"{show_time(days[0])} to {show_time(days[-1])}" if len(days) else None,
            }
        info["label"] = self.target.expression or None
        several = len(self.model_names) > 1
        rows = (
            [window.index + 1, *([window.model] if several else []), window.test_days, outcome.task.status.value,
             *(self._metric(outcome, name) for name in _METRICS)]
            for window, outcome in zip(self.schedule.windows, self.outcomes, strict=True)
        )  # fmt: skip
        columns = ["window", *(["model"] if several else []), "test", "status", *_METRICS]
        notes = [tag("div", "Warning: ", note) for note in (*self.coverage.notes, *self.warnings)]
        return summary("Result", info, table(columns, rows, of="window"), *notes)

    def _metric(self, outcome: TaskOutcome, name: str) -> float | None:
        run = None if outcome.recorder is None else self.runs.get(outcome.recorder.id)
        return None if run is None else run.metrics.get(name)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the models, in the order of the tasks."""
        return tuple(dict.fromkeys(o.model for o in self.outcomes))

    @property
    def plan_warnings(self) -> tuple[str, ...]:
        """Warnings about the tasks, as given when they were planned."""
        return self.schedule.warnings

    @property
    def failed(self) -> int:
        """The number of failed tasks."""
        return sum(o.task.status is Status.FAILED for o in self.outcomes)

    def template_text(self) -> str:
        """Return the first task as YAML, as a substitute for the configuration if there is no workflow file."""
        import yaml

        from rollforge.task import to_plain

        if not self.outcomes:
            return ""
        first = self.outcomes[0]
        model = f", model {first.model}" if first.model else ""
        said = (
            f"# The first of {len(self.outcomes)} tasks{model}. A report made from the workflow file shows the file.\n"
        )
        return said + yaml.safe_dump(to_plain(dict(first.task.definition)), sort_keys=False)


def collect_outcomes(
    session: Session,
    known: tuple[TaskOutcome, ...],
    schedule: Schedule,
    *,
    allow_gaps: bool,
    label_days: int | None,
    ensembles: Ensembles | None = None,
    loaded: Loaded | None = None,
) -> Collected:
    """Join the predictions of each model's windows, combine the models, and check the coverage.

    Parameters
    ----------
    session : Session
        The session, with the data.
    known : tuple of TaskOutcome
        The tasks, whose definitions must have valid segments.
    schedule : Schedule
        The tasks on the calendar, in the same order.
    allow_gaps : bool
        If True, an incomplete result is returned; its `coverage` lists what is missing.
    label_days : int or None
        Number of trading days that a label spans, for labels whose expression does not determine it.
    ensembles : Ensembles, optional
        The ensembles that combine the predictions; by default the windows are joined and several models averaged.
    loaded : Loaded, optional
        What was already read from the recorders of these tasks; by default it is read now.

    Raises
    ------
    CoverageError
        If the result is incomplete and `allow_gaps` is False.
    BuildError
        If an ensemble fails.
    """
    from rollforge.collect.combine import Ensembles
    from rollforge.collect.coverage import check_coverage
    from rollforge.collect.data_changes import data_changes
    from rollforge.collect.group import RollingGroup
    from rollforge.market.frames import number_rows

    expected = _expected(known, schedule)
    loaded = loaded or _load(known, expected)
    parts = {
        name: {
            key: number_rows(loaded.frames[run][name], f"The {name} of {key[-1]}")
            for run, key in expected.keys.items()
            if name in loaded.frames.get(run, {})
        }
        for name in ("pred", "label")
    }
    pieces = {name: expected.divided(frames) for name, frames in parts.items()}
    coverage = check_coverage(
        expected.windows,
        schedule.calendar,
        {key[-1]: _scored(frame) for key, frame in pieces["pred"].items()},
        {key[-1]: cast("pd.MultiIndex", frame.index) for key, frame in pieces["label"].items()},
    )
    coverage = replace(coverage, notes=(*expected.unplaced, *coverage.notes))
    if not allow_gaps:
        coverage.raise_if_incomplete()
    used = ensembles or Ensembles()
    joined, labels = used.join(pieces["pred"]), RollingGroup()(parts["label"])
    names = dict.fromkeys(o.model for o in known)
    paths = tuple(
        PathResult(model, number, joined[group]) for group, (model, number) in expected.paths.items() if group in joined
    )
    models = tuple(
        ModelResult(name, _average(name, paths, joined), *_label(known, name, labels.get((name,)), label_days))
        for name in names
    )
    prediction = used.combine({m.name: m.prediction for m in models if m.prediction is not None}, models=len(models))
    label, said = _joined_label(known, models)
    # The joined label is that of the first model that has one.
    target = next((m.target for m in models if m.label is not None), Label("", label_days))
    runs = {o.recorder.id: loaded.runs[o.recorder.id] for o in known if o.recorder is not None}
    remarks = used.remarks(pieces["pred"], joined, prediction)
    warnings = (*coverage.remarks, *remarks, *said, *_trained_later(schedule), *data_changes(runs, session, known))
    combined = used.names(len(models)) | ({"paths": "AverageEnsemble"} if paths else {})
    return Collected(
        known, schedule, prediction, label, target, coverage, warnings, models, runs, combined, paths=paths,
        checks=schedule.checks, loaded=loaded if len({m.kind for m in model_labels(known, models)}) > 1 else None,
    )  # fmt: skip


def _load(known: Sequence[TaskOutcome], expected: _Expected) -> Loaded:
    """Read the runs of tasks, and the predictions and labels of the expected windows."""
    from rollforge.collect.collector import RecorderCollector

    recorders = [o.recorder for o in known if o.recorder is not None]
    collector = RecorderCollector(
        lambda: [recorder for recorder in recorders if recorder.id in expected.keys],
        rec_key_func=lambda recorder: recorder.id,
        artifacts_path={"pred": "pred.pkl", "label": "label.pkl"},
        status=None,
        coverage="allow_gaps",
    )
    frames: dict[str, dict[str, pd.DataFrame]] = {recorder.id: {} for recorder in recorders}
    for name, found in collector.collect().items():
        for run, frame in found.items():
            frames[run][name] = frame
    return Loaded(frames, {recorder.id: recorder.read() for recorder in recorders})


def _average(model: str, paths: Sequence[PathResult], joined: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Return a model's joined prediction, or the average over its paths."""
    from rollforge.collect.ensemble import AverageEnsemble

    own = {path.number: path.prediction for path in paths if path.model == model}
    return AverageEnsemble()(own).to_frame("score") if own else joined.get(model)


def _label(
    known: Sequence[TaskOutcome], model: str, label: pd.DataFrame | None, declared: int | None
) -> tuple[pd.DataFrame | None, Label]:
    """Return a model's label (evaluated by its first column) and its description, from a run or else from its task."""
    from rollforge.record.analysis import evaluated_column, recorded_labels

    own = [o for o in known if o.model == model]
    definition = own[0].task.definition
    run = next((o.recorder for o in own if o.recorder is not None), None)
    labels = (recorded_labels(run) if run is not None else ()) or task_labels(definition)
    column = evaluated_column(definition)
    found = labels[column] if -len(labels) <= column < len(labels) else Label("", None)
    days = declared if found.days is None else found.days
    if label is None or not -label.shape[1] <= column < label.shape[1]:
        return label, Label(found.expression, days)
    # A label that is not an expression, such as a column of a user's table, is described by its name.
    target = Label(found.expression or str(label.columns[column]), days)
    order = list(range(label.shape[1]))
    order.insert(0, order.pop(column))
    return (label.iloc[:, order] if order[0] else label), target


def _scored(prediction: pd.DataFrame) -> pd.MultiIndex:
    """Return the rows that have a score."""
    import numpy as np

    index = cast("pd.MultiIndex", prediction.index)
    scores = prediction if prediction.ndim == 1 else prediction.iloc[:, 0]
    finite = np.isfinite(scores.to_numpy(np.float64, na_value=np.nan))
    return index if finite.all() else index[finite]


def model_labels(known: Sequence[TaskOutcome], models: Sequence[ModelResult]) -> list[ModelLabel]:
    """Return the labels of the models that have labels."""
    from rollforge.collect.labels import ModelLabel, label_kind

    first = {o.model: o.task.definition for o in reversed(known)}
    return [ModelLabel(m.name, m.label, label_kind(first[m.name])) for m in models if m.label is not None]


def _joined_label(
    known: Sequence[TaskOutcome], models: Sequence[ModelResult]
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    """Return the labels of all models, and warnings about them."""
    from rollforge.collect.labels import join_labels

    labels = model_labels(known, models)
    joined = join_labels(labels)
    if joined is None:
        return None, ()
    if not joined.others:
        return joined.frame, ()
    return joined.frame, (
        "The models have different labels: the joined result is evaluated by the label of "
        f"{labels[0].model!r}, which {', '.join(map(repr, joined.others))} "
        f"{'does' if len(joined.others) == 1 else 'do'} not share.",
    )


def _trained_later(schedule: Schedule) -> tuple[str, ...]:
    """Return a warning if the result comes from cross-validation."""
    later = 0
    for window in schedule.windows:
        test = window.segments.get("test")
        fitted = [window.segments[name].end for name in ("train", "valid") if name in window.segments]
        if test is not None and fitted and max(fitted) > test.start:
            later += 1
    if not later:
        return ()
    return (
        f"In {later} of {len(schedule.windows)} tasks the model is fitted to later days than it predicts, as in "
        "cross-validation: the result shows how well the model generalizes, not what trading would have earned.",
    )


def schedule_of(
    known: Sequence[TaskOutcome], session: Session, label_days: int | None, checks: tuple[Check, ...] | None = None
) -> Schedule:
    """Return the tasks on the calendar of the session's data.

    Parameters
    ----------
    known : sequence of TaskOutcome
        The tasks, whose definitions must have valid segments.
    session : Session
        The session, with the data.
    label_days : int or None
        Number of trading days that a label spans, as declared by the user.
    checks : tuple of Check, optional
        What the static checks of the tasks found when they were submitted; by default they are made again.
    """
    from rollforge.generate.task_view import at_frequency
    from rollforge.generate.timeline import make_schedule
    from rollforge.market.universe import session_provider

    definitions = [o.task.definition for o in known]
    calendar = session_provider(at_frequency(session, definitions)).calendar()
    return make_schedule(definitions, calendar, [o.model for o in known], label_days, checks=checks)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One interval of a test segment."""

    key: str
    """Readable title; unique."""
    group: str
    """The model, or one of its backtest paths."""
    start: np.datetime64
    end: np.datetime64


@dataclass(frozen=True, slots=True)
class _Expected:
    """The expected contents of the result."""

    windows: list[ExpectedWindow] = field(default_factory=list)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Recorder id -> (model, window)."""
    pieces: dict[str, list[_Piece]] = field(default_factory=dict)
    """Window -> the intervals of its test segment, for models of which a test segment has several."""
    paths: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Group -> (model, number of the path)."""
    unplaced: list[str] = field(default_factory=list)
    """One sentence for each task without test days."""

    def divided(self, frames: Mapping[tuple[str, str], pd.DataFrame]) -> dict[tuple[str, str], pd.DataFrame]:
        """Divide the frames of windows at the boundaries of their intervals: ``{(model, window): …} -> {(group, piece):
        …}``."""
        from rollforge.collect.paths import rows_between

        made = {}
        for (model, window), frame in frames.items():
            for piece in self.pieces.get(window, ()):
                made[piece.group, piece.key] = rows_between(frame, piece.start, piece.end)
            if window not in self.pieces:
                made[model, window] = frame
        return made


def _expected(known: Sequence[TaskOutcome], schedule: Schedule) -> _Expected:
    from rollforge.collect.coverage import ExpectedWindow
    from rollforge.dates import show_time

    expected = _Expected()
    numbers = _path_numbers(known, schedule)
    several = {known[i].model for i, own in numbers.items() if max(own) > 1}
    taken: set[str] = set()
    for i, (window, outcome) in enumerate(zip(schedule.windows, known, strict=True)):
        test, task = window.segments.get("test"), outcome.task
        if test is None:
            expected.unplaced.append(f"task {task.id[:8]} is {task.status}, and no trading day is in its test segment")
            continue
        name = f"{window.title} ({window.test_days})"
        other = f" of task {task.id[:8]}" if name in taken else ""  # two tasks of one model with the same test days
        name += other
        taken.add(name)
        if outcome.recorder is not None:
            expected.keys[outcome.recorder.id] = (outcome.model, name)
        if i not in numbers:
            expected.windows.append(ExpectedWindow(name, test.start, test.end, task.status.value, outcome.model))
            continue
        expected.pieces[name] = []
        for number, (start, end) in zip(numbers[i], test.parts, strict=True):
            path = f"path {number}" if outcome.model in several else ""
            group = ", ".join(filter(None, (outcome.model, path)))
            if path:
                expected.paths[group] = (outcome.model, number)
            key = f"{', '.join(filter(None, (window.title, path)))} ({show_time(start)} to {show_time(end)}){other}"
            expected.pieces[name].append(_Piece(key, group, start, end))
            expected.windows.append(ExpectedWindow(key, start, end, task.status.value, group))
    return expected


def _path_numbers(known: Sequence[TaskOutcome], schedule: Schedule) -> dict[int, tuple[int, ...]]:
    """Return the paths of the intervals of each task's test segment, for models of which one has several intervals."""
    from rollforge.collect.paths import path_numbers

    tests = {i: w.segments["test"] for i, w in enumerate(schedule.windows) if "test" in w.segments}
    made: dict[int, tuple[int, ...]] = {}
    for model in dict.fromkeys(known[i].model for i, test in tests.items() if test.intervals):
        own = sorted((i for i in tests if known[i].model == model), key=lambda i: schedule.windows[i].index)
        made.update(zip(own, path_numbers(tests[i].parts for i in own), strict=True))
    return made
