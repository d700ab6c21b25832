"""The whole job in steps: store the plan's tasks, train them on all cores, collect one prediction, write the report.

The command line calls these; so can a script:

    plan = make_plan(load_workflow("rolling.yaml"))
    submit(plan)
    train(plan, jobs=2)
    collected = collect(plan.workflow.session, plan.workflow.experiment_name, plan.ids)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rollforge import trust
from rollforge.collect.outcomes import TaskOutcome, outcomes, unreachable_runs, with_windows, without_superseded
from rollforge.collect.result import Collected, Loaded, collect_outcomes, model_labels, schedule_of
from rollforge.confidential import mask_secrets
from rollforge.errors import (
    CodeNotAllowed,
    FailingWorker,
    RecorderUnreachable,
    RollforgeError,
    TaskNotFound,
    nearest,
)
from rollforge.generate.backtests import backtest_config, first_hole, is_backtest
from rollforge.generate.checks import CheckMethod
from rollforge.generate.task_view import TaskView
from rollforge.plan import Plan
from rollforge.plugins import load_plugins
from rollforge.run.execute import FOLDER_TAG, TRIAL_TAG, end_unfinished_runs, preload, prepare_data, task_train
from rollforge.run.executor import Executor, InProcess, LocalProcesses
from rollforge.run.failures import FailureGroup, group_failures
from rollforge.run.job import Job
from rollforge.run.progress import OnEvent, progress
from rollforge.run.requirements import is_private, session_admission
from rollforge.run.runners import StartedProcesses
from rollforge.run.submission import SubmissionInfo, load_checks, store_checks, submission_info, submissions_of
from rollforge.run.task_resources import without_resources
from rollforge.run.worker import release_dead_workers
from rollforge.session import Session, using
from rollforge.store.base import batch_of, open_store
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite_database import missing_file
from rollforge.task import Document, Status, encode
from rollforge.track.base import Recorder, RunQuery, get_experiment, open_tracker
from rollforge.trust import Origin
from rollforge.user_code import file_digest
from rollforge.workflow import Template

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.collect.combine import Ensembles
    from rollforge.generate.timeline import Schedule
    from rollforge.report.summary import Summary

__all__ = ["collect", "submit", "train"]

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
    info: Document = field(default_factory=dict)
    """Data, tracking store and packages of the submission, see :func:`~rollforge.run.submission.submission_info`."""


def submit(plan: Plan) -> Submission:
    """Store the tasks of `plan` in the pool of its experiment, with the data of this submission. Trains nothing.

    Failed tasks wait again. Known tasks are unchanged except for the name of their model; if they are not done, they
    will run with the data, tracking store and packages of this submission.
    """
    session, pool = plan.workflow.session, plan.workflow.experiment_name
    info = submission_info(plan.tasks, session, plan.ensembles.config)
    with using(session):
        manager = TaskManager(pool, session=session)
        before = {r.id: r.model_name for r in manager.store.query(pool, _these(plan), results=False)}
        names = dict(zip(plan.ids, plan.model_names, strict=True))
        key = manager.store.keep_submission(pool, info)
        store_checks(manager.store, pool, plan.checks, plan.titles)
        batch = batch_of(plan.ids)
        manager.create_task(
            [without_resources(t) for t in plan.tasks], model_names=plan.model_names, submission=key, batch=batch
        )
        retried = manager.retry(_these(plan)) if manager.task_stat(batch=batch).get(Status.FAILED) else 0
        counts = manager.task_stat(batch=batch)
    renamed = sum(bool(old and names[task_id]) and old != names[task_id] for task_id, old in before.items())
    return Submission(
        new=len(names) - len(before), done=counts.get(Status.DONE, 0), retried=retried, renamed=renamed,
        running=counts.get(Status.RUNNING, 0), info=info,
    )  # fmt: skip


def _these(plan: Plan) -> dict[str, object]:
    return {"_id": {"$in": list(plan.ids)}}


def done_tasks(plan: Plan) -> int:
    """Return how many tasks of `plan` are done."""
    store = open_store(plan.workflow.session.store_uri)
    return store.count(plan.workflow.experiment_name, batch=batch_of(plan.ids)).get(Status.DONE, 0)


def failures(plan: Plan) -> tuple[FailureGroup, ...]:
    """Return the failed tasks of `plan`, by id, grouped by error."""
    store = open_store(plan.workflow.session.store_uri)
    failed = store.query(
        plan.workflow.experiment_name, {"status": Status.FAILED.value}, batch=batch_of(plan.ids), results=False
    )
    errors = {r.id: r.error or "" for r in failed}
    return group_failures({task_id: errors[task_id] for task_id in plan.ids if task_id in errors})


def train(
    plan: Plan,
    *,
    jobs: int = 0,
    on_event: OnEvent | None = None,
    log_file: Path | None = None,
    started: StartedProcesses | None = None,
    executor: Executor | None = None,
) -> None:
    """Train the tasks of `plan` that are not done yet. Failures are recorded in the store.

    Parameters
    ----------
    plan : Plan
        The plan, whose tasks must be stored (:func:`submit`).
    jobs : int
        Number of worker processes; 0 trains in this process.
    on_event : callable, optional
        Called with each :class:`~rollforge.run.job.Event` of a task. By default, a notebook shows a progress bar.
    log_file : path, optional
        Log file of the workers.
    started : StartedProcesses, optional
        Worker processes that are running already (:func:`start_processes`).
    executor : Executor, optional
        Where tasks run, instead of `jobs` processes of this machine: for example ``rollforge.Ray("head:6379", jobs=200)``.
    """
    session, pool = plan.workflow.session, plan.workflow.experiment_name
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

    needed = _preload(task.get("model") for task in plan.tasks)
    job = Job(
        pool, task_train, batch=batch, kwargs={"experiment_name": pool}, preload=needed, on_death=on_death,
        reviewed=True,  # the plan has the warnings
    )  # fmt: skip
    jobs = min(jobs, max(1, waiting))
    # The same tasks can meanwhile be submitted again with other data.
    admission = session_admission(store, pool, session)
    where = executor or (InProcess() if jobs == 0 else LocalProcesses(jobs, started))
    while_starting: Callable[[], None] | None = prepare
    while True:
        try:
            with progress(counts.get(Status.WAITING, 0), on_event, log=False) as called:
                where.run(job, session, called, while_starting=while_starting, admission=admission, log_file=log_file)
        except FailingWorker as exc:
            log.warning("%s The other workers continue.", exc)
            TaskManager(pool, store=store).wait(batch=batch, warn=False)
            return
        while_starting = None
        # Tasks held by other workers become available here only if their leases expire.
        counts = TaskManager(pool, store=store).wait(batch=batch, settled=_none_running, warn=False)
        if not counts.get(Status.WAITING):
            return


def start_processes(session: Session, jobs: int, model: object) -> StartedProcesses:
    """Return worker processes that start before the tasks exist, as a context manager: they import what the tasks need,
    while this process prepares the data.

    Parameters
    ----------
    session : Session
        Session of the tasks.
    jobs : int
        Number of processes.
    model : mapping
        Description of the tasks' model.
    """
    return StartedProcesses(session, jobs, _preload([model]))


def _preload(models: Iterable[object]) -> Callable[[], None]:
    """Return a function that imports what tasks need, for a worker process; models if they are all of one kind."""
    kinds = {tuple(trust.names_in(model)): model for model in models}
    return partial(preload, list(kinds.values()) if len(kinds) == 1 else [])


def _none_running(counts: Mapping[Status, int]) -> bool:
    return not counts.get(Status.RUNNING)


class _Background:
    """Runs a function in a thread; :meth:`join` re-raises its exception."""

    def __init__(self, func: Callable[[], object]) -> None:
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


def require_pool(session: Session, pool: str) -> None:
    """Raise an error if the pool does not exist.

    Raises
    ------
    TaskNotFound
        With the names of the existing pools. A file of a store that does not exist is not created.
    """
    if (path := missing_file(session.store_uri)) is not None:
        raise TaskNotFound(f"There is no experiment {pool!r}: the task store {path} does not exist.")
    pools = list(open_store(session.store_uri).pools())
    if pool not in pools:
        raise TaskNotFound(
            f"There is no experiment {pool!r} in the store {mask_secrets(session.store_uri)}.{nearest(pool, pools)} "
            f"Known: {', '.join(pools) or 'none'}."
        )


def collect(
    session: Session,
    pool: str,
    ids: Sequence[str] | None = None,
    *,
    allow_gaps: bool = False,
    label_days: int | None = None,
    plan: Plan | None = None,
    ensembles: Ensembles | None = None,
    loaded: Loaded | None = None,
) -> Collected:
    """Collect one out-of-sample prediction from the tasks of an experiment.

    Windows of the same model are joined; then several models (a grid) are averaged. A workflow can specify other
    ensembles for both. Objects that the pool refers to are built only if this process submitted all of the tasks; for
    ensembles see :func:`pool_ensembles`.

    Parameters
    ----------
    session : Session
        The session, with task store and tracking store.
    pool : str
        The experiment.
    ids : sequence of str, optional
        Only these tasks; by default all tasks of the pool, without windows that were predicted again with more days.
    allow_gaps : bool
        If True, missing windows are skipped and listed in the result's `coverage`.
    label_days : int, optional
        Number of trading days that a label spans, for labels whose expression does not determine it.
    plan : Plan, optional
        The plan of these tasks; if this process submitted it, its calendar, windows and warnings are reused.
    ensembles : Ensembles, optional
        The ensembles that combine the predictions; by default those of the plan, or else of the latest submission.
    loaded : Loaded, optional
        What was already read from the recorders of these tasks (:attr:`Collected.loaded`); by default it is read now.

    Raises
    ------
    CoverageError
        If windows are missing, failed, overlapping or partly predicted, and `allow_gaps` is False.
    RecorderUnreachable
        If the runs of some tasks are only on other machines, and `allow_gaps` is False.
    BuildError, CodeNotAllowed
        If an ensemble fails, or belongs to code that this program may not run.
    """
    changed: tuple[str, ...] = ()
    if ensembles is None and plan is not None:
        ensembles = plan.ensembles
    elif ensembles is None:
        ensembles, changed = pool_ensembles(session, pool)
    known, left_out = with_windows(outcomes(session, pool, ids))
    if ids is None:
        known = without_superseded(known)
    lost = unreachable_runs(session, pool, known)
    if lost and not allow_gaps:
        raise RecorderUnreachable(lost)
    checks = load_checks(open_store(session.store_uri), pool, [o.task for o in known])
    own = all(trust.is_own(o.task.id, o.task.text) for o in known)
    with using(session), trust.from_origin(Origin.OWN if own else Origin.READ):
        planned = _planned(plan, known, label_days) if own else None
        static = tuple(one for one in checks if one.method is CheckMethod.STATIC) or None
        schedule = schedule_of(known, session, label_days, static) if planned is None else planned
        collected = collect_outcomes(
            session, known, schedule, allow_gaps=allow_gaps, label_days=label_days, ensembles=ensembles, loaded=loaded
        )
    measured = (one for one in checks if one.method is CheckMethod.MEASURED)
    collected = replace(collected, checks=(*(static or schedule.checks), *measured))
    return replace(collected, warnings=(*collected.warnings, *changed, *left_out, *([lost] if lost else [])))


def pool_ensembles(session: Session, pool: str) -> tuple[Ensembles, tuple[str, ...]]:
    """Return the ensembles that combine the predictions of a pool according to its latest submission, and warnings.

    Rollforge's own ensembles are always built. Others are built if only this user can write to the pool, so that the
    submission is this user's own, or if they are allowed (``ROLLFORGE_ALLOW``).

    Raises
    ------
    CodeNotAllowed
        If an ensemble belongs to code that this program may not run.
    ConfigError
        If an ensemble cannot be built.
    """
    from rollforge.collect.combine import build_ensembles

    store = open_store(session.store_uri)
    submitted = list(submissions_of(store, pool).values())
    latest = submitted[-1] if submitted else SubmissionInfo()
    if not latest.ensemble:
        return build_ensembles(None), ()
    modules = {module for module, _ in trust.names_in(latest.ensemble)}
    others = sorted(module for module in modules if module.partition(".")[0] not in ("rollforge", "qlib"))
    allowable = bool(others) and not any(map(trust.is_library, others))
    if is_private(store):
        here = Origin.OWN
        session = session.with_(sys_path=(*session.sys_path, *latest.sys_path))
    else:  # the libraries whose models a worker may build are not used in a report
        here = Origin.POOL if allowable else Origin.READ
    with using(session), trust.from_origin(here):
        load_plugins(session)
        try:
            made = build_ensembles(latest.ensemble)
        except CodeNotAllowed as exc:
            named = " and ".join(others or sorted(modules)) or "rollforge.collect"
            advice = f", or, if you trust them, allow it: ROLLFORGE_ALLOW={','.join(others)}" if allowable else ""
            raise CodeNotAllowed(
                f"the tasks were submitted with an ensemble of {named}, which this program may not run, because others can "
                f"write to the pool. Give the workflow file instead of the experiment's name{advice}.",
                path=exc.path,
            ) from exc
    changed = [file for file, digest in latest.ensemble_files.items() if file_digest(file) not in ("", digest)]
    return made, tuple(f"The ensemble's file {file} has changed since the tasks were submitted." for file in changed)


def _planned(plan: Plan | None, known: Sequence[TaskOutcome], label_days: int | None) -> Schedule | None:
    """Return the schedule of a plan; None if these are not exactly its tasks, under the names that they have there."""
    if plan is None or plan.workflow.label_days != label_days:
        return None
    same = list(zip(plan.ids, plan.model_names, strict=True)) == [(o.task.id, o.model) for o in known]
    return plan.schedule if same else None


def with_training_data(session: Session, pool: str) -> Session:
    """Return `session`; if it has no data folder, add the one that the tasks were trained on or submitted with."""
    if session.provider_uri is not None:
        return session
    for outcome in outcomes(session, pool):
        if outcome.recorder is not None:
            return session.with_(provider_uri=outcome.recorder.list_tags().get(FOLDER_TAG))
    submitted = [info.folder for info in submissions_of(open_store(session.store_uri), pool).values()]
    here = [folder for folder in submitted if folder and Path(folder).is_dir()]
    return session.with_(provider_uri=here[-1]) if here else session


def backtest_is_own(collected: Collected, templates: Sequence[Template] = ()) -> bool:
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


def _backtested(task: Mapping[str, object]) -> object:
    """Return strategy and executor of a task's backtest, without the days, which differ between windows."""
    record = next((r for r in TaskView(task).records if is_backtest(r)), None)
    config = backtest_config(record)
    return None if config is None else encode({k: config.get(k) for k in ("strategy", "executor")})


def with_backtest(collected: Collected, session: Session, *, own_code: bool) -> Collected:
    """Return `collected` with a backtest of its prediction, if its first task has a backtest record.

    Each path of combinatorial splits is backtested too, with the same strategy and account. A path with a hole is not,
    because on the missing days nothing determines what to hold.

    Parameters
    ----------
    collected : Collected
        The result to backtest.
    session : Session
        The session, with data and region.
    own_code : bool
        Whether a strategy that is not Rollforge's may run: True if it is the user's own, see :func:`backtest_is_own`.
    """
    if collected.prediction is None or not collected.outcomes:
        return collected
    from rollforge.record.joined import backtest_joined

    task = collected.outcomes[0].task.definition
    calendar = collected.schedule.calendar
    holes = not any(first_hole(o.task.definition, calendar) for o in collected.outcomes)
    make = partial(backtest_joined, task=task, session=session, own_code=own_code)
    made, notes = make(collected.prediction, holes=holes)
    paths = []
    for path in collected.paths:
        name = f"Path {path.number}{f' of {path.model}' if path.model else ''}"
        own, said = make(path.prediction, what=name, holes=False)
        paths.append(replace(path, backtest=own))
        notes = (*notes, *(said if own is None and made is not None else ()))
    return replace(collected, backtest=made, paths=tuple(paths), warnings=(*collected.warnings, *notes))


def with_trials(collected: Collected, session: Session, pool: str) -> Collected:
    """Return `collected` with all variants ever tried in the experiment, if there are several.

    Parameters
    ----------
    collected : Collected
        The result.
    session : Session
        The session, with task store, tracking store and data.
    pool : str
        The experiment.
    """
    from rollforge.collect.trials import make_trials

    if collected.prediction is None:
        return collected
    known = {o.task.id: o.task for o in collected.outcomes}
    stored = {task.id: task for task in open_store(session.store_uri).query(pool, {}, results=False)}
    others = [task_id for task_id in stored if task_id not in known]
    rest: tuple[TaskOutcome, ...] = ()
    try:
        rest = with_windows(outcomes(session, pool, others))[0] if others else ()
    except RollforgeError as exc:  # tasks of earlier submissions; the variants without a result are counted
        log.warning("The other tasks of the experiment cannot be read: %s", exc)

    tracker = open_tracker(session.tracking_uri)
    found = tracker.find_experiment(name=pool)
    runs = tracker.search([found[0]], RunQuery()) if found is not None else []
    recorded = {run.tags[TRIAL_TAG] for run in runs if TRIAL_TAG in run.tags}

    def collect_again(chosen: Sequence[TaskOutcome]) -> Collected:
        with using(session), trust.from_origin(Origin.READ):
            schedule = schedule_of(chosen, session, collected.target.days, ())
            return collect_outcomes(session, tuple(chosen), schedule, allow_gaps=True, label_days=collected.target.days)

    tasks = [*(known | stored).values()]
    return replace(collected, trials=make_trials(collected, tasks, rest, collect_again, recorded))


def by_label(
    collected: Collected,
    session: Session,
    pool: str,
    *,
    label_days: int | None = None,
    ensembles: Ensembles | None = None,
) -> dict[str, Collected]:
    """Return the results of the models of each label, by title; empty if all models have the same label.

    The first one is `collected`, called ``All models``, unless the models were trained on a table of the user, by
    :func:`~rollforge.walk_forward.walk_forward`: these are never combined.

    Parameters
    ----------
    collected : Collected
        The result.
    session : Session
        The session with which it was collected.
    pool : str
        The experiment.
    label_days, ensembles
        As in :func:`collect`.
    """
    groups = _label_groups(collected)
    if len(groups) < 2:
        return {}
    found = {"All models": collected} if are_combined(collected) else {}
    for names in groups:
        ids = [o.task.id for o in collected.outcomes if o.model in names]
        part = collect(
            session, pool, ids, allow_gaps=True, label_days=label_days, ensembles=ensembles, loaded=collected.loaded
        )
        found[_title(names)] = part
    return found


def _label_groups(collected: Collected) -> list[list[str]]:
    """Return the names of the models that have the same label, for each label."""
    from rollforge.collect.labels import label_groups

    if len(collected.model_names) < 2:
        return [list(collected.model_names)]
    return label_groups(model_labels(collected.outcomes, collected.models))


def are_combined(collected: Collected) -> bool:
    """Return whether the models of a result are combined into one prediction: not those that
    :func:`~rollforge.walk_forward.walk_forward` trains on different labels of a user's table."""
    from rollforge.features.label_source import label_source

    handler = TaskView(collected.outcomes[0].task.definition).described_handler
    return not label_source(handler).counts_days or len(_label_groups(collected)) < 2


def _title(names: Sequence[str]) -> str:
    """Return the title of some models: what their names have in common, or else all of them.

    Examples
    --------
    >>> _title(["horizon 1, seed 7", "horizon 1, seed 8"]), _title(["lgb", "linear"])
    ('Horizon 1', 'lgb; linear')
    """
    first, *rest = (name.split(", ") for name in names)
    common = [part for part in first if all(part in other for other in rest)]
    text = ", ".join(common) if common else "; ".join(names)
    return f"H{text[1:]}" if text.startswith("horizon ") else text


def _side_by_side(frames: Mapping[str, pd.DataFrame | None]) -> pd.DataFrame | None:
    """Return frames of several models as one, whose columns begin with their titles."""
    import pandas as pd

    columns = {
        title if frame.shape[1] == 1 else f"{title}, {name}": column
        for title, frame in frames.items()
        if frame is not None
        for name, column in frame.items()
    }
    return pd.concat(columns, axis=1).sort_index() if columns else None


def separated(collected: Collected, parts: Mapping[str, Collected]) -> Collected:
    """Return a result whose models are not combined, if `parts`, of :func:`by_label`, does not contain it: prediction and
    label have one column for each part."""
    if not parts or any(part is collected for part in parts.values()):
        return collected
    prediction = _side_by_side({title: part.prediction for title, part in parts.items()})
    label = _side_by_side({title: part.label for title, part in parts.items()})
    warnings = tuple(dict.fromkeys(warning for part in parts.values() for warning in part.warnings))
    return replace(collected, prediction=prediction, label=label, warnings=warnings)


def summary_of(
    collected: Collected,
    *,
    name: str,
    session: Session,
    config: str,
    groups: str | None = None,
    parts: Mapping[str, Collected] | None = None,
) -> Summary:
    """Return the numbers of the report of a result; the arguments are those of :func:`write_results`."""
    from rollforge.market.universe import session_provider
    from rollforge.report.groups import read_groups
    from rollforge.report.inputs import report_inputs
    from rollforge.report.summary import summarise

    def of(one: Collected) -> Summary:
        found = None
        if groups is not None and one.prediction is not None:
            found = read_groups(groups, one.prediction, session_provider(session))
        return summarise(report_inputs(one, name=name, session=session, config=config, groups=found))

    if not parts:
        return of(collected)
    summaries = {title: of(part) for title, part in parts.items()}
    combined = any(part is collected for part in parts.values())
    return replace(next(iter(summaries.values())), parts=summaries, combined=combined)


def write_results(
    collected: Collected,
    *,
    name: str,
    session: Session,
    config: str,
    folder: Path,
    groups: str | None = None,
    parts: Mapping[str, Collected] | None = None,
    markdown: bool = False,
) -> Summary:
    """Write ``prediction.parquet``, ``backtest.parquet`` (if there is a backtest) and ``report.html`` into `folder`.

    The metadata of the prediction's file lists the ensembles, as JSON under the key ``rollforge``.

    Parameters
    ----------
    collected : Collected
        The result.
    name : str
        Title of the report.
    session : Session
        The session, with the data.
    config : str
        The workflow as YAML.
    folder : Path
        The folder, which is created if necessary.
    groups : str, optional
        A file or a universe, see :func:`~rollforge.report.groups.read_groups`, for the IC by group.
    parts : mapping, optional
        The results of models with different labels, see :func:`by_label`.
    markdown : bool
        Whether to write ``report.md`` instead of ``report.html``.

    Returns
    -------
    Summary
        The numbers of the report; those of the first part if the models are not combined.
    """
    from rollforge.report.files import write_text
    from rollforge.report.html import render_markdown, write_report
    from rollforge.track.frame import write_described

    folder.mkdir(parents=True, exist_ok=True)
    if collected.prediction is not None:
        draft = folder / ".prediction.parquet"
        write_described(collected.prediction, draft, {"ensemble": dict(collected.ensembles)})
        draft.replace(folder / "prediction.parquet")
    if collected.backtest is not None:
        draft = folder / ".backtest.parquet"
        collected.backtest.result.report.to_parquet(draft)
        draft.replace(folder / "backtest.parquet")
    summary = summary_of(collected, name=name, session=session, config=config, groups=groups, parts=parts)
    if markdown:
        write_text(render_markdown(summary), folder / "report.md")
    else:
        write_report(summary, folder / "report.html")
    return summary


def keep_result(collected: Collected, summary: Summary, *, session: Session, pool: str) -> Recorder | None:
    """Create or update the recorder of the joined result, and return it; None if there is no prediction.

    It has the objects ``pred.pkl`` and ``label.pkl``, those of a backtest as in ``PortAnaRecord``, and the metrics of
    the report: for several models those of the average, and as ``NAME/IC`` those of each model; if the models are not
    combined, only these. The windows' runs become its children.

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
    from rollforge.report.summary import result_metrics

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
        "rollforge.ensemble": "; ".join(f"{part}: {name}" for part, name in collected.ensembles.items()),
    }
    backtest = collected.backtest
    if backtest is not None:
        tags |= {f"rollforge.backtest.{name}": text for name, text in backtest.about().items()}
    metrics = result_metrics(summary)
    if not summary.combined:
        metrics = {
            f"{title}/{name}": v for title, one in summary.parts.items() for name, v in result_metrics(one).items()
        }
    kept = dict.fromkeys(OBJECTS) if backtest is None else backtest.objects
    return save_joined(
        experiment, pool,
        objects={"pred.pkl": collected.prediction, "label.pkl": collected.label, **kept},
        metrics={**metrics, **({} if backtest is None else backtest.metrics)}, tags=tags,
        windows=[WindowRun(r, collected.runs[r.id].tags, o.task.definition, o.model) for r, o in done],
    )  # fmt: skip
