"""The whole job in steps: store the plan's tasks, train them on all cores, collect one prediction, write the report.

The command line calls these; so can a script:

    plan = make_plan(load_workflow("rolling.yaml"))
    submit(plan)
    train(plan, jobs=2)
    collected = collect(plan.workflow.session, plan.workflow.experiment, plan.ids)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rollforge import trust
from rollforge.confidential import mask_secrets
from rollforge.errors import (
    ArtifactUnreadable,
    ConfigError,
    FailingWorker,
    RecorderElsewhere,
    RecorderNotFound,
    TaskNotFound,
    TrackingError,
    TrainingFailed,
    UntrustedPickle,
    nearest,
)
from rollforge.generate.backtests import backtest_config, is_backtest, records_of
from rollforge.generate.label import Label, task_labels
from rollforge.generate.leakage import task_warnings
from rollforge.generate.segments import bounds, segments_of
from rollforge.plan import Plan
from rollforge.run.execute import DATA_TAG, FOLDER_TAG, end_unfinished_runs, preload, prepare_data, task_train
from rollforge.run.executor import Executor, InProcess, LocalProcesses
from rollforge.run.failures import FailureGroup, group_failures
from rollforge.run.fitness import own_data
from rollforge.run.job import Event, Job
from rollforge.run.review import reviewed
from rollforge.run.submission import facts_of, read_facts
from rollforge.run.worker import release_dead_workers
from rollforge.session import Session, available_cores, using
from rollforge.store.base import batch_of, open_store
from rollforge.store.manager import TaskManager
from rollforge.task import Status, TaskRecord, encode
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.elsewhere import said_elsewhere
from rollforge.trust import Circle
from rollforge.workflow import Template

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.collect.coverage import Coverage, ExpectedWindow
    from rollforge.generate.timeline import Window
    from rollforge.record.joined import JoinedBacktest
    from rollforge.report.summary import ReportInputs, Summary
    from rollforge.store.base import TaskStore
    from rollforge.track.base import Recorder, RunData

__all__ = ["Collected", "TaskOutcome", "collect", "submit", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """The outcome of storing a plan."""

    new: int
    done: int
    retried: int
    renamed: int = 0
    """Known tasks whose model was renamed."""
    running: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, tracking store and packages that the tasks were submitted with; see :func:`~rollforge.run.submission.facts_of`."""


def submit(plan: Plan) -> Submission:
    """Store the tasks of `plan` in the pool of its experiment, with the data of this submission. Trains nothing.

    Failed tasks wait again. Known tasks are unchanged except for the name of their model; if they are not done, they
    will run with the data, tracking store and packages of this submission.
    """
    session, pool = plan.workflow.session, plan.workflow.experiment
    facts = facts_of(plan.tasks, session)
    with using(session):
        manager = TaskManager(pool, session=session)
        before = {r.id: r.model_name for r in manager.store.query(pool, _these(plan), results=False)}
        names = dict(zip(plan.ids, plan.model_names, strict=True))
        key = manager.store.keep_submission(pool, facts)
        batch = batch_of(plan.ids)
        manager.create_task([dict(t) for t in plan.tasks], model_names=plan.model_names, submission=key, batch=batch)
        retried = manager.retry(_these(plan)) if manager.task_stat(batch=batch).get(Status.FAILED) else 0
        counts = manager.task_stat(batch=batch)
    renamed = sum(bool(old and names[task_id]) and old != names[task_id] for task_id, old in before.items())
    return Submission(
        new=len(names) - len(before), done=counts.get(Status.DONE, 0), retried=retried, renamed=renamed,
        running=counts.get(Status.RUNNING, 0), facts=facts,
    )  # fmt: skip


def _these(plan: Plan) -> dict[str, Any]:
    return {"_id": {"$in": list(plan.ids)}}


def failures(plan: Plan) -> tuple[FailureGroup, ...]:
    """Return the failed tasks of `plan`, by id, grouped by error."""
    store = open_store(plan.workflow.session.store_uri)
    failed = store.query(
        plan.workflow.experiment, {"status": Status.FAILED.value}, batch=batch_of(plan.ids), results=False
    )
    errors = {r.id: r.error or "" for r in failed}
    return group_failures({task_id: errors[task_id] for task_id in plan.ids if task_id in errors})


def _nobody(event: Event) -> None:
    """Ignore the event."""


def train(plan: Plan, *, jobs: int, on_event: Callable[[Event], None] = _nobody, log_file: Path | None = None) -> None:
    """Train the tasks of `plan` that are not done yet. Failures are recorded in the store.

    Parameters
    ----------
    plan : Plan
        The plan, whose tasks must be stored (:func:`submit`).
    jobs : int
        Number of worker processes; 0 trains in this process.
    on_event : callable
        Called with each event.
    log_file : path, optional
        Log file of the workers.
    """
    session, pool = plan.workflow.session, plan.workflow.experiment
    store = open_store(session.store_uri)
    for task in release_dead_workers(store, pool):
        end_unfinished_runs(task.id, pool, session)
    batch = batch_of(plan.ids)
    store.add_to_batch(pool, batch, plan.ids)  # tasks stored by an earlier version are in no batch
    counts = store.count(pool, batch=batch)
    waiting = counts.get(Status.WAITING, 0)
    if not waiting and not counts.get(Status.RUNNING):
        return

    def prepare() -> None:
        """Prepare what all tasks need, while the worker processes import their libraries."""
        tracker = open_tracker(session.tracking_uri)
        opening = _Background(tracker.prepare)  # importing MLflow takes a second, in parallel with building the panel
        for task in store.query(pool, {"status": Status.WAITING.value}, batch=batch, results=False, limit=1):
            # The task as planned: the pool's definition may have been written by others.
            prepare_data(dict(zip(plan.ids, plan.tasks, strict=True))[task.id], session)
        opening.join()
        get_experiment(tracker, experiment_name=pool)

    def on_death(task_id: str) -> None:
        end_unfinished_runs(task_id, pool, session)

    job = Job(
        pool, task_train, batch=batch, kwargs={"experiment_name": pool}, preload=preload, on_death=on_death
    )  # fmt: skip
    jobs = min(jobs, max(1, waiting))
    # The same tasks can meanwhile be submitted again with other data.
    admission = own_data(store, pool, session)
    executor: Executor = (
        InProcess(session, admission) if jobs == 0 else LocalProcesses(session, jobs, log_file, admission)
    )
    while_starting: Callable[[], None] | None = prepare
    while True:
        with reviewed():  # by the plan
            try:
                executor.run(job, on_event, while_starting)
            except FailingWorker as exc:
                log.warning("%s The other workers go on.", exc)
                TaskManager(pool, store=store).wait(batch=batch, warn=False)
                return
        while_starting = None
        # Tasks held by other workers become available here only if their leases expire.
        counts = TaskManager(pool, store=store).wait(batch=batch, settled=_none_running, warn=False)
        if not counts.get(Status.WAITING):
            return


def _none_running(counts: Mapping[Status, int]) -> bool:
    return not counts.get(Status.RUNNING)


class _Background:
    """Runs a function in a thread; :meth:`join` re-raises its exception."""

    def __init__(self, func: Callable[[], Any]) -> None:
        self._error: BaseException | None = None
        self._func = func
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._func()
        except Exception as exc:  # noqa: BLE001 - raised again by join()
            self._error = exc

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """A task of the pool, and the recorder of its result, if any."""

    task: TaskRecord
    recorder: Recorder | None
    model: str = ""
    """Name of the task's model, distinct within the experiment; empty for a single unnamed model."""


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
    """What the first column of `label` is, and over how many days it runs."""


@dataclass(frozen=True, slots=True)
class Collected:
    """An out-of-sample result, and the tasks and recorders from which it was made."""

    outcomes: tuple[TaskOutcome, ...]
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), column ``score``: the model's prediction, or the average over several models. None
    if no task is done."""
    label: pd.DataFrame | None
    """Index (datetime, instrument): the labels of all models that have the same label as the first."""
    target: Label
    """What the first column of `label` is, and over how many days it runs."""
    coverage: Coverage
    warnings: tuple[str, ...] = ()
    """Warnings about the result, even if it is complete."""
    plan_warnings: tuple[str, ...] = ()
    """Warnings about the tasks, as when they were planned."""
    models: tuple[ModelResult, ...] = ()
    """The prediction of each model, in the order of the tasks."""
    runs: Mapping[str, RunData] = field(default_factory=dict)
    """Recorder id -> params, metrics and tags of the run."""
    backtest: JoinedBacktest | None = None
    """The backtest of `prediction`, see :func:`with_backtest`."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the models, in the order of the tasks."""
        return tuple(dict.fromkeys(o.model for o in self.outcomes))

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


def require_pool(session: Session, pool: str) -> None:
    """Raise an error if the pool does not exist.

    Raises
    ------
    TaskNotFound
        With the names of the existing pools.
    """
    pools = list(open_store(session.store_uri).pools())
    if pool not in pools:
        raise TaskNotFound(
            f"There is no experiment {pool!r} in the store {mask_secrets(session.store_uri)}.{nearest(pool, pools)} "
            f"Known: {', '.join(pools) or 'none'}."
        )


def outcomes(session: Session, pool: str, ids: Sequence[str] | None = None) -> tuple[TaskOutcome, ...]:
    """Return the tasks of a pool with their recorders, in the order of `ids` or else of creation."""
    from rollforge.generate.naming import model_names

    query = {} if ids is None else {"_id": {"$in": list(ids)}}
    records = _readable(open_store(session.store_uri), pool, query)
    if ids is not None:
        order = {task_id: i for i, task_id in enumerate(ids)}
        records.sort(key=lambda r: order[r.id])
    names = model_names([r.definition for r in records], [r.model_name for r in records])
    with using(session):
        return tuple(TaskOutcome(r, _recorder_of(r, session), name) for r, name in zip(records, names, strict=True))


def _readable(store: TaskStore, pool: str, query: Mapping[str, Any]) -> list[TaskRecord]:
    """Return the tasks of a pool; a task with a damaged result is returned without it."""
    try:
        return list(store.query(pool, query))
    except (ArtifactUnreadable, UntrustedPickle):
        records = []
        for task in store.query(pool, query, results=False):
            try:
                records.append(store.get(pool, task.id))
            except (ArtifactUnreadable, UntrustedPickle) as exc:
                log.warning("%s It is left out.", exc)
                records.append(task)
        return records


def _recorder_of(task: TaskRecord, session: Session) -> Recorder | None:
    """Return the recorder of a finished task, or None.

    There is none if the task was set to done manually, if its function returned something else, if its run is on
    another machine, or if its result, which others may have written, does not refer to a run. The coverage check lists
    its window.
    """
    from rollforge.run.trainer import recorder_of

    try:
        if task.status is not Status.DONE:
            return None
        recorder = recorder_of(task.result)
        recorder.read()  # a reference need not exist
        return recorder
    except (TrainingFailed, RecorderElsewhere):
        return None
    except (ConfigError, TrackingError) as exc:
        kept = task.result.get("recorder") if isinstance(task.result, Mapping) else None
        if isinstance(kept, Mapping) and _is_away(session, kept.get("tracking"), exc):
            raise
        log.warning("Task %s is left out, since its result names no run that can be read: %s", task.id, exc)
        return None


def _is_away(session: Session, tracking: Any, exc: Exception) -> bool:
    """Return whether an error concerns the session's tracking store as a whole and not a single run."""
    uri = getattr(open_tracker(session.tracking_uri), "uri", session.tracking_uri)
    return tracking in (uri, session.tracking_uri) and not isinstance(exc, RecorderNotFound)


def _recorded_elsewhere(session: Session, pool: str, known: Sequence[TaskOutcome]) -> str:
    """Describe where the runs are that this machine does not have; empty if it has all of them."""
    lacking = any(o.recorder is None and o.task.status is Status.DONE for o in known)
    return said_elsewhere(session, pool) if lacking else ""


def collect(
    session: Session,
    pool: str,
    ids: Sequence[str] | None = None,
    *,
    allow_gaps: bool = False,
    label_days: int | None = None,
) -> Collected:
    """Collect one out-of-sample prediction from the tasks of an experiment.

    Windows of the same model are joined; then several models (a grid) are averaged. Objects that the pool names are
    built only if this process submitted all of the tasks.

    Parameters
    ----------
    session : Session
        The session, with task store and tracking store.
    pool : str
        The experiment.
    ids : sequence of str, optional
        Only these tasks; by default all tasks of the pool.
    allow_gaps : bool
        If True, missing windows are skipped and listed in the result's `coverage`.
    label_days : int, optional
        Number of trading days that a label spans, for labels whose expression does not determine it.

    Raises
    ------
    CoverageError
        If windows are missing, failed, overlapping or partly predicted, and `allow_gaps` is False.
    RecorderElsewhere
        If the runs of some tasks are only on other machines, and `allow_gaps` is False.
    """
    known, left_out = _with_windows(outcomes(session, pool, ids))
    lost = _recorded_elsewhere(session, pool, known)
    if lost and not allow_gaps:
        raise RecorderElsewhere(lost)
    own = all(trust.is_own(o.task.id, o.task.text) for o in known)
    with using(session), trust.within(Circle.OWN if own else Circle.READ):
        collected = _collect(session, known, allow_gaps=allow_gaps, label_days=label_days)
    return replace(collected, warnings=(*collected.warnings, *left_out, *([lost] if lost else [])))


def _with_windows(known: tuple[TaskOutcome, ...]) -> tuple[tuple[TaskOutcome, ...], list[str]]:
    """Return the tasks whose definitions have segments, and the errors of the other tasks in the pool.

    Raises
    ------
    ConfigError
        If no task has segments.
    """
    fitting, damaged = [], []
    for outcome in known:
        try:
            for name, segment in segments_of(outcome.task.definition).items():
                bounds(name, segment)
            fitting.append(outcome)
        except ConfigError as exc:
            damaged.append((outcome.task.id, exc))
    if damaged and not fitting:
        raise damaged[0][1]
    return tuple(fitting), [
        f"task {task_id} is left out, since its definition is damaged: {exc}" for task_id, exc in damaged
    ]


def _collect(
    session: Session, known: tuple[TaskOutcome, ...], *, allow_gaps: bool, label_days: int | None
) -> Collected:
    from rollforge.collect.collector import RecorderCollector
    from rollforge.collect.coverage import check_coverage
    from rollforge.collect.ensemble import AverageEnsemble
    from rollforge.collect.group import RollingGroup
    from rollforge.market.frames import day_rows
    from rollforge.market.universe import session_provider

    expected, keys, unplaced = _expected(known, session)
    collector = RecorderCollector(
        lambda: [o.recorder for o in known if o.recorder is not None and o.recorder.id in keys],
        rec_key_func=lambda recorder: keys[recorder.id],
        artifacts_path={"pred": "pred.pkl", "label": "label.pkl"},
        status=None,
        coverage="allow_gaps",
    )
    parts = {
        name: {key: day_rows(frame, f"The {name} of {key[-1]}") for key, frame in frames.items()}
        for name, frames in collector.collect().items()
    }
    coverage = check_coverage(
        expected,
        session_provider(session).calendar(),
        {key[-1]: _scored(frame) for key, frame in parts["pred"].items()},
        {key[-1]: frame.index for key, frame in parts["label"].items()},
    )
    coverage = replace(coverage, notes=(*unplaced, *coverage.notes))
    if not allow_gaps:
        coverage.raise_if_incomplete()
    joined = {name: RollingGroup()(frames) for name, frames in parts.items()}
    names = dict.fromkeys(o.model for o in known)
    models = tuple(
        ModelResult(name, joined["pred"].get((name,)), *_label(known, name, joined["label"].get((name,)), label_days))
        for name in names
    )
    predictions = {m.name: m.prediction for m in models if m.prediction is not None}
    if len(models) == 1 or not predictions:
        prediction = next(iter(predictions.values()), None)
    else:
        prediction = AverageEnsemble()(predictions).to_frame("score")
    label, said = _joined_label(known, models)
    # The joined label is that of the first model that has one.
    target = next((m.target for m in models if m.label is not None), Label("", label_days))
    definitions = [o.task.definition for o in known]
    planned = tuple(task_warnings(definitions, session_provider(session).calendar(), label_days))
    runs = {o.recorder.id: o.recorder.read() for o in known if o.recorder is not None}
    warnings = (*coverage.remarks, *said, *_other_data(runs, session))
    return Collected(known, prediction, label, target, coverage, warnings, planned, models, runs)


def _label(
    known: Sequence[TaskOutcome], model: str, label: pd.DataFrame | None, declared: int | None
) -> tuple[pd.DataFrame | None, Label]:
    """Return a model's label (evaluated by its first column) and its description, from a run or else from its task."""
    from rollforge.record.analysis import judged_column, recorded_labels

    own = [o for o in known if o.model == model]
    definition = own[0].task.definition
    run = next((o.recorder for o in own if o.recorder is not None), None)
    labels = (recorded_labels(run) if run is not None else ()) or task_labels(definition)
    column = judged_column(definition)
    found = labels[column] if -len(labels) <= column < len(labels) else Label("", None)
    target = Label(found.expression, declared if found.days is None else found.days)
    if label is None or not -label.shape[1] <= column < label.shape[1]:
        return label, target
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


def _joined_label(
    known: Sequence[TaskOutcome], models: Sequence[ModelResult]
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    """Return the labels of all models, and warnings about them."""
    from rollforge.collect.labels import ModelLabel, join_labels, label_kind

    first = {o.model: o.task.definition for o in reversed(known)}
    labels = [ModelLabel(m.name, m.label, label_kind(first[m.name])) for m in models if m.label is not None]
    joined = join_labels(labels)
    if joined is None:
        return None, ()
    if not joined.others:
        return joined.frame, ()
    return joined.frame, (
        f"The models have different labels: the joined result is judged by the label of {labels[0].model!r}, which "
        f"{', '.join(map(repr, joined.others))} {'does' if len(joined.others) == 1 else 'do'} not share.",
    )


def _other_data(runs: Mapping[str, RunData], session: Session) -> tuple[str, ...]:
    """Return warnings if the data have changed since tasks were trained, because a task's id does not depend on the data."""
    from rollforge.market.content import session_content
    from rollforge.market.universe import session_provider

    now = (content.mark if (content := session_content(session)) else "", session_provider(session).fingerprint())
    trained_on = [run.tags.get(DATA_TAG, now[0]) for run in runs.values()]
    other = sum(mark not in now for mark in trained_on)  # earlier versions stored the fingerprint
    if not other:
        return ()
    return (
        f"{other} of {len(trained_on)} windows were trained on other data than {session.provider_uri} holds now. "
        "'rollforge pool -t EXPERIMENT reset-status waiting' has all of them trained again.",
    )


def with_training_data(session: Session, pool: str) -> Session:
    """Return `session`; if it has no data folder, with the one that the tasks were trained on or submitted with."""
    if session.provider_uri is not None:
        return session
    for outcome in outcomes(session, pool):
        if outcome.recorder is not None:
            return session.with_(provider_uri=outcome.recorder.list_tags().get(FOLDER_TAG))
    submitted = [read_facts(facts).folder for facts in open_store(session.store_uri).submissions(pool).values()]
    here = [folder for folder in submitted if folder and Path(folder).is_dir()]
    return session.with_(provider_uri=here[-1]) if here else session


def _windows(known: Sequence[TaskOutcome], session: Session) -> list[Window]:
    from rollforge.generate.timeline import windows
    from rollforge.market.universe import session_provider

    calendar = session_provider(session).calendar()
    return windows([o.task.definition for o in known], calendar, [o.model for o in known])


def _expected(
    known: Sequence[TaskOutcome], session: Session
) -> tuple[list[ExpectedWindow], dict[str, tuple[str, str]], list[str]]:
    """Return the expected test windows, the key of each recorder (model, window), and the tasks without test days."""
    from rollforge.collect.coverage import ExpectedWindow

    made: list[ExpectedWindow] = []
    keys: dict[str, tuple[str, str]] = {}
    unplaced: list[str] = []
    taken: set[str] = set()
    for window, outcome in zip(_windows(known, session), known, strict=True):
        test, task = window.segments.get("test"), outcome.task
        if test is None:
            unplaced.append(f"task {task.id[:8]} is {task.status}, and no trading day is in its test segment")
            continue
        name = f"{window.title} ({window.test_days})"
        if name in taken:  # two tasks of one model with the same test days
            name += f" of task {task.id[:8]}"
        taken.add(name)
        made.append(ExpectedWindow(name, test.start, test.end, task.status.value, outcome.model))
        if outcome.recorder is not None:
            keys[outcome.recorder.id] = (outcome.model, name)
    return made, keys, unplaced


def is_own(collected: Collected, templates: Sequence[Template] = ()) -> bool:
    """Return whether the backtest of a result is the user's own code, even if others can write to the pool.

    This holds if this process submitted the first task, or if one of the `templates` describes the task's backtest.

    Parameters
    ----------
    collected : Collected
        The result, made from tasks of a pool.
    templates : sequence of Template
        The templates of the user's own workflow file.
    """
    first = collected.outcomes[0].task if collected.outcomes else None
    if first is None or trust.is_own(first.id, first.text):
        return True
    known = [found for template in templates if (found := _backtested(template.task)) is not None]
    return _backtested(first.definition) in known


def _backtested(task: Mapping[str, Any]) -> Any:
    """Return strategy and executor of a task's backtest, without the days, which differ between windows."""
    record = next((r for r in records_of(task) if is_backtest(r)), None)
    config = backtest_config(record)
    return None if config is None else encode({k: config.get(k) for k in ("strategy", "executor")})


def with_backtest(collected: Collected, session: Session, *, own_code: bool) -> Collected:
    """Return `collected` with a backtest of its prediction, if its first task has a backtest record.

    Parameters
    ----------
    collected : Collected
        The result to backtest.
    session : Session
        The session, with data and region.
    own_code : bool
        Whether a strategy that is not Rollforge's may run: True if it is the user's own, see :func:`is_own`.
    """
    if collected.prediction is None or not collected.outcomes:
        return collected
    from rollforge.record.joined import backtest_joined

    task = collected.outcomes[0].task.definition
    made, notes = backtest_joined(collected.prediction, task, session, own_code=own_code)
    return replace(collected, backtest=made, warnings=(*collected.warnings, *notes))


def write_results(collected: Collected, *, name: str, session: Session, config: str, folder: Path) -> Summary:
    """Write ``prediction.parquet``, ``backtest.parquet`` (if there is a backtest) and ``report.html`` into `folder`.

    Returns
    -------
    Summary
        The numbers of the report.
    """
    from rollforge.report.html import write_report
    from rollforge.report.summary import summarise

    folder.mkdir(parents=True, exist_ok=True)
    if collected.prediction is not None:
        draft = folder / ".prediction.parquet"
        collected.prediction.to_parquet(draft)
        draft.replace(folder / "prediction.parquet")
    if collected.backtest is not None:
        draft = folder / ".backtest.parquet"
        collected.backtest.result.report.to_parquet(draft)
        draft.replace(folder / "backtest.parquet")
    summary = summarise(_inputs(collected, name=name, session=session, config=config))
    write_report(summary, folder / "report.html")
    return summary


def keep_result(collected: Collected, summary: Summary, *, session: Session, pool: str) -> Recorder | None:
    """Create or update the recorder of the joined result, and return it; None if there is no prediction.

    It has the objects ``pred.pkl`` and ``label.pkl``, those of a backtest as in ``PortAnaRecord``, and the metrics of
    the report: for several models those of the average, and as ``NAME/IC`` those of each model. The windows' runs
    become its children.

    Parameters
    ----------
    collected : Collected
        The result.
    summary : Summary
        The numbers of the report.
    session : Session
        The session, with the tracking store.
    pool : str
        The experiment.
    """
    from rollforge.collect.joined import WindowRun, save_joined
    from rollforge.record.joined import OBJECTS

    if collected.prediction is None:
        return None
    experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name=pool)
    done = [(o.recorder, o) for o in collected.outcomes if o.recorder is not None]
    tags = {
        "rollforge.models": ", ".join(filter(None, collected.model_names)),
        "rollforge.windows": f"{len(done)} of {len(collected.outcomes)} done",
        "rollforge.coverage": "; ".join(collected.coverage.notes) or "complete",
        "rollforge.first_day": summary.headline.first_day,
        "rollforge.last_day": summary.headline.last_day,
        "rollforge.label": str(collected.target),
    }
    backtest = collected.backtest
    if backtest is not None:
        tags |= {f"rollforge.backtest.{name}": text for name, text in backtest.about().items()}
    kept = dict.fromkeys(OBJECTS) if backtest is None else backtest.objects
    return save_joined(
        experiment, pool,
        objects={"pred.pkl": collected.prediction, "label.pkl": collected.label, **kept},
        metrics={**result_metrics(summary), **({} if backtest is None else backtest.metrics)}, tags=tags,
        windows=[WindowRun(r, collected.runs[r.id].tags, o.task.definition, o.model) for r, o in done],
    )  # fmt: skip


def result_metrics(summary: Summary) -> dict[str, float]:
    """Return the figures of a report under the names that ``SigAnaRecord`` logs; for several models also those of each."""
    from rollforge.record.analysis import mean_to_std

    h = summary.headline
    values = {"IC": h.ic, "ICIR": h.icir, "Rank IC": h.rank_ic, "Rank ICIR": h.rank_icir, "IC t": h.ic_t}
    values |= {"IC days": float(h.ic_days), "days": float(h.days), "rows": float(h.rows)}
    for model in summary.models:
        own = {
            "IC": model.ic.mean(), "ICIR": mean_to_std(model.ic), "Rank IC": model.rank_ic.mean(),
            "Rank ICIR": mean_to_std(model.rank_ic), "IC t": model.ic_t, "IC days": len(model.ic),
        }  # fmt: skip
        values |= {f"{model.name}/{name}": value for name, value in own.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def _inputs(collected: Collected, *, name: str, session: Session, config: str) -> ReportInputs:
    from rollforge.report.summary import ModelInputs, ReportInputs, TaskRow

    models = tuple(
        ModelInputs(m.name, m.prediction, m.label, m.target.expression, m.target.days) for m in collected.models
    )
    rows = []
    order = {name: i for i, name in enumerate(collected.model_names)}
    pairs = zip(_windows(collected.outcomes, session), collected.outcomes, strict=True)
    for window, outcome in sorted(pairs, key=lambda pair: (order[pair[1].model], pair[0].index)):
        task, recorder = outcome.task, outcome.recorder
        metrics = collected.runs[recorder.id].metrics if recorder is not None else {}
        run = recorder.id if recorder else ""
        rows.append(TaskRow(window, task.status.value, metrics, run, task.attempts, task.error or "", outcome.model))
    return ReportInputs(
        title=name,
        tasks=rows,
        prediction=collected.prediction,
        label=collected.label,
        notes=collected.coverage.notes,
        warnings=(*collected.plan_warnings, *collected.warnings),
        portfolio=None if collected.backtest is None else collected.backtest.result.report,
        portfolio_about={} if collected.backtest is None else collected.backtest.about(),
        label_text=collected.target.expression,
        label_days=collected.target.days,
        models=models if len(models) > 1 else (),
        config=config,
        environment=_environment(session),
    )


def _environment(session: Session) -> dict[str, str]:
    import datetime as dt
    import platform
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return f"no {package}"

    packages = ("rollforge", "lightgbm", "numpy", "pandas", "numba", "mlflow-skinny")
    return {
        "data": session.provider_uri or "",
        "tasks": mask_secrets(session.store_uri),
        "runs": mask_secrets(session.tracking_uri),
        "machine": f"{platform.node()}, {available_cores()} cores, Python {platform.python_version()}",
        "packages": ", ".join(version(p) for p in packages),
        "written": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
