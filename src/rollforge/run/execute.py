"""Train one task: build model and dataset, fit the model, save it, and generate its records.

Training has two stages: :func:`begin` stores the task in a recorder, and :func:`finish` fits the model.
:func:`task_train` runs both; delayed trainers run them separately. The recorder and the session are arguments.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import inspect
import itertools
import json
import logging
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rollforge import trust
from rollforge.build import build, fill_placeholder, flatten_dict, locate, resolve_references
from rollforge.dates import read_day
from rollforge.errors import (
    BuildError,
    ConfigError,
    TaskNotSerializable,
    TrackingError,
    TrackingUnavailable,
    UntrustedPickle,
    with_article,
)
from rollforge.generate.data_read import handler_frequencies
from rollforge.generate.naming import describe, trial_of
from rollforge.generate.segments import has_intervals
from rollforge.generate.task_view import TaskView, at_frequency, is_object
from rollforge.importing import without_collections
from rollforge.kinds import DATASET, MODEL, RECORD, REWEIGHTER, Kind
from rollforge.machine import process_name
from rollforge.pickling import pickled
from rollforge.run.importance import importance_of
from rollforge.run.job import current_attempt, current_model, current_task, current_token
from rollforge.run.review import review
from rollforge.safe_pickle import loads
from rollforge.session import Session, bounded, current_session, using
from rollforge.task import digest
from rollforge.track.base import Experiment, Recorder, RunQuery, activated, get_experiment, open_tracker

if TYPE_CHECKING:
    from rollforge.features.dataset import Dataset
    from rollforge.models.base import Model

__all__ = [
    "begin", "begin_task_train", "end_task_train", "end_unfinished_runs", "finish", "prepare_data", "task_session",
    "task_train",
]  # fmt: skip

log = logging.getLogger(__name__)

DATA_TAG = "rollforge.data"
"""Recorder tag: the last day of the data used for training, and a fingerprint of the data up to it, which is equal for all
copies of the folder and does not change if days are added. That of the data of a further frequency, from which features
were computed, has the frequency at the end of its name."""
FOLDER_TAG = "rollforge.folder"
"""Recorder tag: the data folder used for training."""
MODEL_TAG = "rollforge.model"
"""Recorder tag: the model name, or else the class of the model."""
TEST_TAG = "rollforge.test"
"""Recorder tag: first and last day of the test segment."""
PURGED_TAG = "rollforge.rows_purged"
"""Recorder tag: number of rows of each segment that were left out because their labels reach into the next segment, as
JSON."""


TRIAL_TAG = "rollforge.trial"
"""Recorder tag: the variant that gave a result, equal for all of its windows. It counts as a trial even after its task was
removed."""

STATUS_KEY = "train_status"
STATUS_BEGIN = "begin_task_train"
TM_ID = "_id in TaskManager"
TASK_TAG = "rollforge.task"
"""Recorder tag: digest of the task."""
TOKEN_TAG = "rollforge.token"
"""Recorder tag: fencing token of the claim under which a pool task was trained, as in :class:`~rollforge.task.Attempt`."""
PROCESS_TAG = "rollforge.process"
"""Recorder tag: name of the process that trains it, see :func:`~rollforge.machine.process_name`."""
DATA_UNTIL = "data_until"
"""Key of a task: the last day of the data that may be used to train it and for its records; by default that of the
session."""
DATA_MARK = "data_mark"
"""Key of a task: fingerprint of the data folder up to that day. It is part of the task's digest, so that a model that was
trained with other data belongs to another task."""


def data_tag(freq: str) -> str:
    """Return the tag with the fingerprint of the data of a frequency that a task reads besides that of its rows.

    Examples
    --------
    >>> data_tag("1min")
    'rollforge.data.1min'
    """
    return f"{DATA_TAG}.{freq}"


def begin(task: Mapping[str, object], recorder: Recorder) -> None:
    """Record what is known before the model is fitted: the task, its flattened parameters and the host."""
    recorder.log_params(**{name: _with_iso_dates(value) for name, value in flatten_dict(task).items()})
    recorder.save_objects(task=dict(task))
    # Written in the same batch, so that a trainer need not write them separately.
    tags = {STATUS_KEY: STATUS_BEGIN, **model_tags(task, current_model.get())}
    recorder.set_tags(hostname=socket.gethostname(), **tags)


def model_tags(task: Mapping[str, object], model_name: str) -> dict[str, str]:
    """Return the tags for the model name and the test days (in ISO form) of a run.

    Examples
    --------
    >>> task = {"model": {"class": "LinearModel"}, "dataset": {"kwargs": {"segments": {"test": ("2020-01-02", None)}}}}
    >>> model_tags(task, "ridge")
    {'rollforge.model': 'ridge', 'rollforge.test': '2020-01-02 to the end'}
    """
    view = TaskView(task)
    found = ((MODEL_TAG, model_name or view.model_class), (TEST_TAG, view.days_tested))
    return {tag: value for tag, value in found if value}


def _with_iso_dates(value: object) -> object:
    """Return `value` with dates, including those in lists, tuples and dicts, as strings such as 2020-01-02."""
    if isinstance(value, dt.date):
        return value.isoformat().removesuffix("T00:00:00")
    if isinstance(value, (list, tuple)):
        return type(value)(_with_iso_dates(v) for v in value) if type(value) in (list, tuple) else value
    return {k: _with_iso_dates(v) for k, v in value.items()} if type(value) is dict else value


def end_unfinished_runs(task_id: str, experiment_name: str, session: Session) -> int:
    """Mark runs of a task that a killed attempt left ``RUNNING`` as failed, and return how many.

    Parameters
    ----------
    task_id : str
        Id of the task in its pool. No attempt at it may be running.
    experiment_name : str
        Experiment of its recorders.
    session : Session
        Its tracking store is searched.
    """
    tracker = open_tracker(session.tracking_uri)
    found = tracker.find_experiment(name=experiment_name)
    if found is None:
        return 0
    left = tracker.search([found[0]], RunQuery(status=(Recorder.STATUS_R,), tags={TM_ID: task_id}))
    for run in left:
        tracker.update_run(run.info.id, Recorder.STATUS_FA, time.time())
    return len(left)


def task_session(task: Mapping[str, object], session: Session) -> Session:
    """Return the session in which a task is trained: it has the frequency of the task's data, and its data end on the task's
    ``data_until``, if it has one.

    Examples
    --------
    >>> task_session({"data_until": "2024-05-31"}, Session(data_until="2024-06-28")).data_until
    '2024-05-31'
    """
    session = at_frequency(session, [task])
    until = task.get(DATA_UNTIL)
    if until is None:
        return session
    with using(session), bounded(read_day(until, f"task.{DATA_UNTIL}")) as inside:
        return inside


def finish(task: Mapping[str, object], recorder: Recorder, session: Session) -> None:
    """Fit the task's model on its dataset and save model, dataset definition, training metrics and records.

    Parameters
    ----------
    task : mapping
        ``{"model": …, "dataset": …, "record": […]}``.
    recorder : Recorder
        A started run, in which the results are saved.
    session : Session
        Provides the data folder and the number of threads that this process may use.
    """
    began = time.perf_counter()
    session = task_session(task, session)
    with using(session):
        resolved = resolve_references(task)
        model = _built(resolved["model"], MODEL, "task.model")
        dataset = _built(resolved["dataset"], DATASET, "task.dataset")
        fit_began = time.perf_counter()
        model.fit(dataset, **_fit_arguments(model, resolved))
        fit_seconds = getattr(model, "fit_seconds", None) or time.perf_counter() - fit_began
        _log_training(model, recorder)
        purged = getattr(dataset, "rows_purged", None)
        if purged:
            recorder.set_tags(**{PURGED_TAG: json.dumps(dict(purged))})
        more = getattr(model, "saved_objects", None)
        saved = {**importance_of(model), **(more() if more is not None else {})}
        recorder.save_objects(**{"params.pkl": model, **saved})
        _save_dataset(dataset, recorder)
        _generate_records(resolved, model, dataset, recorder)
        if session.provider_uri is not None:
            from rollforge.market.content import mark_of_days, session_content
            from rollforge.market.provider import open_provider

            content = session_content(session)
            assert content is not None
            extract = open_provider(session.folder() or "").extract
            folder = session.folder() if extract is None else extract.folder  # that of the driver
            marks = {DATA_TAG: mark_of_days(content), FOLDER_TAG: folder}
            for freq in handler_frequencies(getattr(dataset, "handler", None), session):
                other = session_content(session, freq)
                marks |= {} if other is None else {data_tag(freq): mark_of_days(other)}
            recorder.set_tags(**marks)
    with contextlib.suppress(TaskNotSerializable):  # a task with live objects has no hash
        recorder.set_tags(**{TRIAL_TAG: trial_of(task)})
    recorder.log_metrics(fit_seconds=fit_seconds, task_seconds=time.perf_counter() - began)


def _built(part: object, kind: Kind, where: str) -> Any:
    """Return what a part of a task describes. A task that is not stored may have the object itself, as Qlib's may."""
    if is_object(part, kind):
        return part
    if not isinstance(part, (str, type, Mapping, list, tuple, int, float, type(None))):
        name = type(part).__name__
        raise BuildError(f"{name} is not {with_article(kind.noun)}: {kind.lacks(type(part))}.", path=where)
    return build(part, kind=kind, where=where)


def _fit_arguments(model: Any, task: Mapping[str, object]) -> dict[str, object]:
    if task.get("reweighter") is None:
        return {}
    if "reweighter" not in inspect.signature(model.fit).parameters:
        raise ConfigError(f"{type(model).__name__}.fit does not accept a reweighter.", path="task.reweighter")
    return {"reweighter": _built(task["reweighter"], REWEIGHTER, "task.reweighter")}


def _log_training(model: object, recorder: Recorder) -> None:
    metrics = getattr(model, "training_metrics", None)
    if metrics is None:
        return
    for name, values in metrics().items():
        for step, value in enumerate(values):
            recorder.log_metrics(step=step, **{name: value})


def _save_dataset(dataset: Dataset, recorder: Recorder) -> None:
    dataset.config(dump_all=False, recursive=True)  # the definition without the data is enough for online predictions
    recorder.save_objects(dataset=dataset)


def _generate_records(task: Mapping[str, object], model: Model, dataset: Dataset, recorder: Recorder) -> None:
    hole = _test_hole(task)
    records = task.get("record") or []
    listed = isinstance(records, (list, tuple))
    filled = fill_placeholder(records if listed else [records], {"<MODEL>": model, "<DATASET>": dataset})
    for i, config in enumerate(filled):
        record = build(
            config,
            kind=RECORD,
            default_module="rollforge.record",
            try_kwargs={"model": model, "dataset": dataset, "recorder": recorder},
            where=f"task.record.{i}" if listed else "task.record",
        )
        if hole is not None and _is_backtest(record):
            log.info(
                "%s is skipped: the test segment has a hole from %s to %s, which other tasks test. The report backtests "
                "the paths of the joined predictions.", type(record).__name__, *hole,
            )  # fmt: skip
            continue
        recorder.keeps_frames = i + 1 < len(filled)
        record.generate()


def _test_hole(task: Mapping[str, object]) -> tuple[object, object] | None:
    """Return the first and last day of the first hole in the test segment; None if it has none."""
    from rollforge.generate.backtests import first_hole
    from rollforge.market.universe import session_provider

    view = TaskView(task)
    if not view.days_tested or not has_intervals(view.segments["test"]):
        return None  # the calendar need not be read
    return first_hole(task, session_provider().calendar())


def _is_backtest(record: object) -> bool:
    from rollforge.record.portfolio import PortAnaRecord

    return isinstance(record, PortAnaRecord)


def preload(models: Iterable[object] = ()) -> None:
    """Import what tasks need, in a process that will run tasks.

    Parameters
    ----------
    models : iterable of mappings
        Descriptions of the tasks' models. Only libraries are imported for them: other modules, whose import may fail or
        print, are left to the tasks.
    """
    with without_collections():
        import rollforge.features.handler
        import rollforge.record.signal  # noqa: F401

        open_tracker(current_session().tracking_uri).warm_up()
        for module, name in dict.fromkeys(itertools.chain.from_iterable(map(trust.names_in, models))):
            if trust.is_library(module.partition(".")[0]):
                with contextlib.suppress(Exception):  # the task will raise it itself
                    _import_library(locate(name, module))


def _import_library(found: object) -> None:
    """Import the package that a class of Rollforge names as the ``LIBRARY`` of its module."""
    module = sys.modules.get(getattr(found, "__module__", ""))
    if library := getattr(module, "LIBRARY", ""):
        importlib.import_module(library)


def prepare_data(task: Mapping[str, object], session: Session) -> None:
    """Build the panel that `task` reads, so that workers that are starting find it in the cache."""
    with using(task_session(task, session)):
        dataset = build(resolve_references(task)["dataset"], kind=DATASET, where="task.dataset")
        handler = getattr(dataset, "handler", None)
        if handler is not None and hasattr(handler, "setup_data"):
            handler.setup_data()


def begin_task_train(
    task_config: Mapping[str, object],
    experiment_name: str | None = None,
    recorder_name: str | None = None,
    *,
    session: Session | None = None,
) -> Recorder:
    """Return a recorder that contains its task but is not trained yet: the first stage of :func:`task_train`.

    Raises
    ------
    ConfigError
        If the task has an object that the second stage may not read back from the recorder.
    """
    _check_objects(task_config)
    session = session or current_session()
    recorder = _create_recorder(task_config, experiment_name, recorder_name, session)
    with review([task_config], session):
        begin(task_config, recorder)
    recorder.end_run(Recorder.STATUS_S)
    return recorder


def _check_objects(task: Mapping[str, object]) -> None:
    """Refuse a task with objects of which the second stage, which trusts no file, would not read back all."""
    with contextlib.suppress(TaskNotSerializable):
        digest(task)
        return
    for name, part in task.items():
        try:
            loads(pickled(part))
        except UntrustedPickle as exc:
            raise ConfigError(
                f"is or contains an object, and the second stage may not read its class back ({str(exc).partition('. ')[0]}). "
                "Describe it as {'class': …, 'module_path': …, 'kwargs': …}, train the task in one stage, or allow its "
                "package: ROLLFORGE_ALLOW=package.",
                path=f"task.{name}",
            ) from exc


def end_task_train(rec: Recorder, experiment_name: str | None = None, *, session: Session | None = None) -> Recorder:
    """Train the task stored in `rec`: the second stage of :func:`task_train`.

    Parameters
    ----------
    rec : Recorder
        Recorder returned by :func:`begin_task_train`.
    experiment_name : str, optional
        Ignored; exists for compatibility with Qlib's signature.
    """
    rec.start_run()
    rec.set_tags(**_attempt_tags())
    return _run(rec, rec.load_object("task"), session or current_session(), first_half=False)


def task_train(
    task_config: Mapping[str, object],
    experiment_name: str | None = None,
    recorder_name: str | None = None,
    *,
    session: Session | None = None,
) -> Recorder:
    """Train one task and return its recorder.

    Problems of the task (segments that share days, labels that reach into a later segment) are logged as warnings.
    Trainers log them once for all their tasks.

    Parameters
    ----------
    task_config : mapping
        ``{"model": …, "dataset": …, "record": […]}``.
    experiment_name : str, optional
        Experiment of the recorder; by default the session's.
    recorder_name : str, optional
        Name of the recorder; by default its model name and test days.
    session : Session, optional
        By default the current one.

    Raises
    ------
    Exception
        Any exception of the model, the dataset or a record; the recorder is then ``FAILED``.
    """
    session = session or current_session()
    recorder = _create_recorder(task_config, experiment_name, recorder_name, session)
    with review([task_config], session):
        return _run(recorder, task_config, session, first_half=True)


def _create_recorder(
    task: Mapping[str, object], experiment_name: str | None, recorder_name: str | None, session: Session
) -> Recorder:
    recorder_name = recorder_name or describe(task, current_model.get()) or None
    tracker, experiment_name = open_tracker(session.tracking_uri), experiment_name or session.experiment_name
    task_id = current_task.get()
    if task_id is not None and current_attempt.get():  # the previous attempt may have been killed
        end_unfinished_runs(task_id, experiment_name, session)
    tags = _attempt_tags()
    with contextlib.suppress(TaskNotSerializable):  # a task with live objects
        tags[TASK_TAG] = digest(task)
    known = _experiments.get((tracker.uri, experiment_name))
    if known is not None:
        try:
            return known.create_recorder(recorder_name, tags)
        except TrackingUnavailable as exc:  # such as that the database was deleted, which concerns the tasks before
            log.warning("%s", exc)
            _experiments.clear()
        except TrackingError:  # the experiment has been deleted
            pass
    _experiments[tracker.uri, experiment_name] = experiment = get_experiment(tracker, experiment_name=experiment_name)
    return experiment.create_recorder(recorder_name, tags)


def _attempt_tags() -> dict[str, str]:
    """Return the tags of a run that name the attempt: stored at once, so that the run is known if the process is killed."""
    task_id = current_task.get()
    claim = {} if task_id is None else {TM_ID: task_id, TOKEN_TAG: str(current_token.get())}
    return {PROCESS_TAG: process_name(), **claim}


_experiments: dict[tuple[str, str], Experiment] = {}
"""Experiments in which this process has created recorders: opening one costs as much as a small task."""


def _run(recorder: Recorder, task: Mapping[str, object], session: Session, *, first_half: bool) -> Recorder:
    try:
        with activated(recorder):  # models and records of users log with R, as in Qlib
            if first_half:
                begin(task, recorder)
            finish(task, recorder, session)
    except BaseException:  # also a signal, so that no run stays RUNNING
        with contextlib.suppress(TrackingError):  # the task's own error is raised
            _end(recorder, Recorder.STATUS_FA)
        raise
    _end(recorder, Recorder.STATUS_FI)
    return recorder


def _end(recorder: Recorder, status: str) -> None:
    try:
        recorder.end_run(status)
    except TrackingError as exc:
        log.warning("%s", exc)
        _experiments.clear()  # the database may be another one, in which their ids are those of others
        raise
