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
    """What storing a plan found."""

    new: int
    done: int
    retried: int
    renamed: int = 0
    """Known tasks whose model had another name."""
    running: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the tasks were submitted with, see :func:`~rollforge.run.submission.facts_of`."""


def submit(plan: Plan) -> Submission:
    """Store the tasks of `plan` in the pool of its experiment, with what they are submitted with; trains nothing.

    Failed ones wait again; known ones keep all but the name of their model, and those that are not done are to be done with
    what this submission used.
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
    """Return the tasks of `plan` that failed, by id, those with the same error together."""
    store = open_store(plan.workflow.session.store_uri)
    failed = store.query(
        plan.workflow.experiment, {"status": Status.FAILED.value}, batch=batch_of(plan.ids), results=False
    )
    errors = {r.id: r.error or "" for r in failed}
    return group_failures({task_id: errors[task_id] for task_id in plan.ids if task_id in errors})


def _nobody(event: Event) -> None:
    """Nobody listens."""


def train(plan: Plan, *, jobs: int, on_event: Callable[[Event], None] = _nobody, log_file: Path | None = None) -> None:
    """Train the tasks of `plan` that are not done yet; which failed is in the store.

    Parameters
    ----------
    plan : Plan
        Its tasks must be stored (:func:`submit`).
    jobs : int
        Worker processes; 0 trains in this process.
    on_event : callable
        Told of each step.
    log_file : path, optional
        Where the workers log.
    """
    session, pool = plan.workflow.session, plan.workflow.experiment
    store = open_store(session.store_uri)
    for task in release_dead_workers(store, pool):
        end_unfinished_runs(task.id, pool, session)
    batch = batch_of(plan.ids)
    store.add_to_batch(pool, batch, plan.ids)  # tasks that an earlier version stored are in none
    counts = store.count(pool, batch=batch)
    waiting = counts.get(Status.WAITING, 0)
    if not waiting and not counts.get(Status.RUNNING):
        return

    def prepare() -> None:
        """What all tasks need; the worker processes import their libraries meanwhile."""
        tracker = open_tracker(session.tracking_uri)
        opening = _Background(tracker.prepare)  # importing MLflow takes a second that the panel can use
        for task in store.query(pool, {"status": Status.WAITING.value}, batch=batch, results=False, limit=1):
            # As it was planned: what the pool holds under its id may be somebody else's.
            prepare_data(dict(zip(plan.ids, plan.tasks, strict=True))[task.id], session)
        opening.join()
        get_experiment(tracker, experiment_name=pool)

    def on_death(task_id: str) -> None:
        end_unfinished_runs(task_id, pool, session)

    job = Job(
        pool, task_train, batch=batch, kwargs={"experiment_name": pool}, preload=preload, on_death=on_death
    )  # fmt: skip
    jobs = min(jobs, max(1, waiting))
    # Another submission of the same tasks, with other data, may come meanwhile.
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
        # What workers elsewhere hold is theirs; it comes back to us if their leases run out.
        counts = TaskManager(pool, store=store).wait(batch=batch, settled=_none_running, warn=False)
        if not counts.get(Status.WAITING):
            return


def _none_running(counts: Mapping[Status, int]) -> bool:
    return not counts.get(Status.RUNNING)


class _Background:
    """Runs a function in a thread; :meth:`join` raises what it raised."""

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
    """One task of the pool, and the recorder of its result where there is one."""

    task: TaskRecord
    recorder: Recorder | None
    model: str = ""
    """Name of the task's model, different for each model of the experiment; empty where there is one without a name."""


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What one model of an experiment predicts, joined over its windows."""

    name: str
    """As in :attr:`TaskOutcome.model`."""
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), first column the score; None when no window of the model is done."""
    label: pd.DataFrame | None
    """Index (datetime, instrument): the model's own label, the column first that it is judged by."""
    target: Label
    """What the first column of `label` is, and over how many days it runs."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One out-of-sample result, and what it was made of."""

    outcomes: tuple[TaskOutcome, ...]
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), column ``score``: the model's prediction, or the average of several models'. None when
    no task is done."""
    label: pd.DataFrame | None
    """Index (datetime, instrument): the labels of every model that has the same label as the first."""
    target: Label
    """What the first column of `label` is, and over how many days it runs."""
    coverage: Coverage
    warnings: tuple[str, ...] = ()
    """What should be known of the result although it is complete."""
    plan_warnings: tuple[str, ...] = ()
    """What should be known of the tasks, as it was said when they were planned."""
    models: tuple[ModelResult, ...] = ()
    """What each model predicts, in the order of the tasks."""
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
        """How many tasks failed."""
        return sum(o.task.status is Status.FAILED for o in self.outcomes)

    def template_text(self) -> str:
        """Return the first task as YAML: what there is of a configuration when no workflow file is at hand."""
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
    """Do nothing, unless there is no such pool.

    Raises
    ------
    TaskNotFound
        Naming the pools that there are.
    """
    pools = list(open_store(session.store_uri).pools())
    if pool not in pools:
        raise TaskNotFound(
            f"There is no experiment {pool!r} in the store {mask_secrets(session.store_uri)}.{nearest(pool, pools)} "
            f"Known: {', '.join(pools) or 'none'}."
        )


def outcomes(session: Session, pool: str, ids: Sequence[str] | None = None) -> tuple[TaskOutcome, ...]:
    """Return the tasks of a pool with their recorders, in the order of `ids`, else in that of their creation."""
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
    """The tasks of a pool; one whose result is damaged is there without it."""
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
    """The recorder of a task that is done.

    A task that was set to done by hand, or whose function returned something else, has none: the coverage names its window.
    Nor does one whose run only another machine has, or whose result, which others may have written, names no run.
    """
    from rollforge.run.trainer import recorder_of

    try:
        if task.status is not Status.DONE:
            return None
        recorder = recorder_of(task.result)
        recorder.read()  # a reference is only a name
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
    """Whether an error is not about one run but about the session's own tracking store, where all tasks have theirs."""
    uri = getattr(open_tracker(session.tracking_uri), "uri", session.tracking_uri)
    return tracking in (uri, session.tracking_uri) and not isinstance(exc, RecorderNotFound)


def _recorded_elsewhere(session: Session, pool: str, known: Sequence[TaskOutcome]) -> str:
    """Where the runs of tasks are that this machine does not have; empty when it has all of them."""
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
    """Return one out-of-sample prediction of an experiment's tasks.

    Windows of the same model are joined; several models (a grid) are averaged after that. Nothing is built that the pool
    names, unless this process submitted all of the tasks.

    Parameters
    ----------
    session : Session
        Where store and tracking are.
    pool : str
        The experiment.
    ids : sequence of str, optional
        Only these tasks; by default all of the pool.
    allow_gaps : bool
        True leaves out what is missing; what that is stands in the result's `coverage`.
    label_days : int, optional
        Trading days over which a label runs, for labels whose expression does not tell.

    Raises
    ------
    CoverageError
        When windows are missing, failed, overlapping or predicted in part, and `allow_gaps` is False.
    RecorderElsewhere
        When only other machines have the runs of some tasks, and `allow_gaps` is False.
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
    """The tasks whose definitions have segments, and what is wrong with the others, which somebody may have put there.

    Raises
    ------
    ConfigError
        When there are others only: these tasks are no windows at all.
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
    """The label of a model, the column first that it is judged by, and what that is: as a run noted it, or its task has it."""
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
    """The rows that have a score."""
    import numpy as np

    index = cast("pd.MultiIndex", prediction.index)
    scores = prediction if prediction.ndim == 1 else prediction.iloc[:, 0]
    finite = np.isfinite(scores.to_numpy(np.float64, na_value=np.nan))
    return index if finite.all() else index[finite]


def _joined_label(
    known: Sequence[TaskOutcome], models: Sequence[ModelResult]
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    """The labels of all models, and what should be known of them."""
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
    """Tasks are known by their content; that the data changed under them is said, not guessed away."""
    from rollforge.market.content import session_content
    from rollforge.market.universe import session_provider

    now = (content.mark if (content := session_content(session)) else "", session_provider(session).fingerprint())
    trained_on = [run.tags.get(DATA_TAG, now[0]) for run in runs.values()]
    other = sum(mark not in now for mark in trained_on)  # earlier versions kept the fingerprint
    if not other:
        return ()
    return (
        f"{other} of {len(trained_on)} windows were trained on other data than {session.provider_uri} holds now. "
        "'rollforge pool -t EXPERIMENT reset-status waiting' has all of them trained again.",
    )


def with_training_data(session: Session, pool: str) -> Session:
    """Return `session` with the data folder that the pool's tasks were trained on, or submitted with, where it names none."""
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
    """The test windows that should be there, the key of each recorder (model, window), and tasks that test no day."""
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
        if name in taken:  # two tasks of one model that test the same days
            name += f" of task {task.id[:8]}"
        taken.add(name)
        made.append(ExpectedWindow(name, test.start, test.end, task.status.value, outcome.model))
        if outcome.recorder is not None:
            keys[outcome.recorder.id] = (outcome.model, name)
    return made, keys, unplaced


def is_own(collected: Collected, templates: Sequence[Template] = ()) -> bool:
    """Return whether the backtest of a result is this user's own code, whoever may write to the pool that it is from.

    It is, if this process submitted the first task, or if the task's backtest is one that `templates` describe.

    Parameters
    ----------
    collected : Collected
        Made of tasks of a pool.
    templates : sequence of Template
        Those of the user's own workflow file.
    """
    first = collected.outcomes[0].task if collected.outcomes else None
    if first is None or trust.is_own(first.id, first.text):
        return True
    known = [found for template in templates if (found := _backtested(template.task)) is not None]
    return _backtested(first.definition) in known


def _backtested(task: Mapping[str, Any]) -> Any:
    """What the backtest of a task is built of: strategy and executor; the days differ from window to window."""
    record = next((r for r in records_of(task) if is_backtest(r)), None)
    config = backtest_config(record)
    return None if config is None else encode({k: config.get(k) for k in ("strategy", "executor")})


def with_backtest(collected: Collected, session: Session, *, own_code: bool) -> Collected:
    """Return `collected` with the backtest of its prediction, if a record of its first task is a backtest.

    Parameters
    ----------
    collected : Collected
        What to test.
    session : Session
        Names data and region.
    own_code : bool
        Whether a strategy may be run that is not Rollforge's own: True where it is the user's, see :func:`is_own`.
    """
    if collected.prediction is None or not collected.outcomes:
        return collected
    from rollforge.record.joined import backtest_joined

    task = collected.outcomes[0].task.definition
    made, notes = backtest_joined(collected.prediction, task, session, own_code=own_code)
    return replace(collected, backtest=made, warnings=(*collected.warnings, *notes))


def write_results(collected: Collected, *, name: str, session: Session, config: str, folder: Path) -> Summary:
    """Write ``prediction.parquet``, ``backtest.parquet`` (where there is a backtest) and ``report.html`` into `folder`.

    Returns
    -------
    Summary
        What the report says, in numbers.
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
    """Return the recorder of the joined result, which is made or brought up to date; None when there is no prediction.

    It has the objects ``pred.pkl`` and ``label.pkl``, those of a backtest as ``PortAnaRecord`` keeps them, and the metrics
    of the report: of several models those of the average, and as ``NAME/IC`` those of each model. The windows' runs become
    its children.

    Parameters
    ----------
    collected : Collected
        The result.
    summary : Summary
        What the report says of it.
    session : Session
        Where runs are kept.
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
    """Return the figures of a report under the names that ``SigAnaRecord`` logs, also of each of several models."""
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
