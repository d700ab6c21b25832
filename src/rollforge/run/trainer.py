"""Trainers: train a list of tasks and return a list of recorders in the same order.

Training has one stage (:func:`~rollforge.run.execute.task_train`) or, in delayed trainers, two: `train` prepares the
recorders and `end_train` fits the models. :class:`TrainerR` runs the stages on this machine. ``TrainerRM``, in
:mod:`~rollforge.run.pool_trainer`, stores the tasks in a pool, from which workers on this or other machines take them.

====================  ======================  ======================
\\                     one stage               two stages
====================  ======================  ======================
on this machine       :class:`TrainerR`       :class:`DelayTrainerR`
through a pool        ``TrainerRM``           ``DelayTrainerRM``
====================  ======================  ======================
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rollforge.errors import ConfigError, RollforgeError, TrainingFailed
from rollforge.generate.naming import model_names
from rollforge.generate.task_view import TaskView
from rollforge.moved import earlier_names
from rollforge.run.execute import (
    STATUS_BEGIN,
    STATUS_KEY,
    begin_task_train,
    end_task_train,
    task_train,
)
from rollforge.run.executor import Executor, LocalProcesses, check_executor
from rollforge.run.failures import error_line, group_failures
from rollforge.run.job import Event, Job, current_model, current_task
from rollforge.run.progress import OnEvent, progress
from rollforge.run.references import from_reference
from rollforge.run.review import review
from rollforge.run.task_resources import RESOURCES
from rollforge.session import Session, current_session, using
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.task import Definition, Status, TaskRecord
from rollforge.track.base import Recorder, Tracker, open_tracker

__all__ = [
    "TAGGING",
    "DelayTrainerR",
    "OnError",
    "RecorderTrainer",
    "TrainFunc",
    "Trainer",
    "TrainerR",
    "as_list",
    "default_names",
    "reason_of",
    "task_key",
]

log = logging.getLogger(__name__)

if not TYPE_CHECKING:
    __getattr__ = earlier_names(__name__)

# These functions write the recorder's training status tag themselves, together with its other values.
TAGGING = (task_train, begin_task_train)
TrainFunc = Callable[..., Recorder]
OnError = Literal["raise", "skip"]


class Trainer:
    """Trains a list of tasks and returns a list of recorders in the order of the tasks.

    Examples
    --------
    >>> class Pretender(Trainer):
    ...     def train(self, tasks, *args, **kwargs):
    ...         return [task["x"] for task in tasks]
    >>> Pretender()([{"x": 1}, {"x": 2}])
    [1, 2]
    """

    def __init__(self) -> None:
        self.delay = False

    def train(self, tasks: list[Definition], *args: Any, **kwargs: Any) -> list[Recorder]:
        """Return one recorder per task."""
        raise NotImplementedError(f"{type(self).__name__} must implement training.")

    def end_train(self, models: list[Recorder], *args: Any, **kwargs: Any) -> list[Recorder]:
        """Finish the training that :meth:`train` began. Only delayed trainers have anything to do."""
        return models

    def is_delay(self) -> bool:
        """Return whether models are fitted in :meth:`end_train`."""
        return self.delay

    def has_worker(self) -> bool:
        """Return whether :meth:`worker` can help :meth:`train` from another process or another machine."""
        return False

    def worker(self) -> None:
        """Train tasks of the pool until none is left."""
        raise NotImplementedError(f"{type(self).__name__} has no worker: it trains in the process that calls it.")

    def __call__(self, *args: Any, **kwargs: Any) -> list[Recorder]:
        """Return ``end_train(train(...))``."""
        return self.end_train(self.train(*args, **kwargs))


class RecorderTrainer(Trainer):
    """Base of the four trainers: experiment names, training status tags and failures."""

    STATUS_KEY = STATUS_KEY
    STATUS_BEGIN = STATUS_BEGIN
    STATUS_END = "end_task_train"
    executor: Executor | None = None  # trainers pickled by an earlier version have none of their own
    on_event: OnEvent | None = None

    def __init__(
        self,
        experiment_name: str | None,
        train_func: TrainFunc,
        default_rec_name: str | None,
        session: Session | None,
        on_error: OnError,
        store: TaskStore | str | None = None,
        tracker: Tracker | str | None = None,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error must be 'raise' or 'skip', found {on_error!r}.", path="on_error")
        self.experiment_name = experiment_name
        self.train_func = train_func
        self.default_rec_name = default_rec_name
        self.session = session
        self.store = store
        self.tracker = tracker
        self.on_error = on_error
        self.failures: dict[str, str] = {}
        """Failures in both stages since the last call of :meth:`train`: task -> traceback."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but `on_event`, which belongs to this process."""
        return {key: value for key, value in self.__dict__.items() if key != "on_event"}

    def _where(self, experiment_name: str | None) -> tuple[Session, str]:
        session = (self.session or current_session()).with_(store=self.store, tracker=self.tracker)
        return session, experiment_name or self.experiment_name or session.experiment_name

    def _tag(self, recorders: Sequence[Recorder], status: str) -> list[Recorder]:
        for recorder in recorders:
            if not hasattr(recorder, "set_tags"):
                raise TrainingFailed(
                    f"The result of a task is not a recorder but a {type(recorder).__name__}. Its train_func must return a "
                    "recorder."
                )
        for recorder in recorders:
            recorder.set_tags(**{self.STATUS_KEY: status})
        return list(recorders)

    def _unfinished(self, models: list[Recorder] | Recorder) -> list[Recorder]:
        return [r for r in as_list(models) if r.list_tags().get(self.STATUS_KEY) != self.STATUS_END]

    def _failed(self, failures: dict[str, str], key: str, error: str) -> None:
        """Record a failure of a stage; :meth:`_raise_failures` decides whether it is raised."""
        failures[key] = self.failures[key] = error
        log.warning("%s failed:\n%s", key, error)

    def _raise_failures(self, failures: Mapping[str, str], total: int, cause: BaseException | None = None) -> None:
        """Raise an error if tasks failed in a stage, unless failures are skipped."""
        if failures and self.on_error == "raise":
            groups = group_failures(failures)
            details = "\n\n".join(f"{group.listed()}:\n{group.error.rstrip()}" for group in groups)
            raise TrainingFailed(f"{len(failures)} of {total} tasks failed.\n\n{details}") from cause


class TrainerR(RecorderTrainer):
    """Trains tasks on this machine, each into a recorder.

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    train_func : callable
        ``(task, experiment_name, recorder_name=…) -> Recorder``.
    call_in_subproc : bool
        If True, each task runs in a new process, so that its memory is released when it ends.
    default_rec_name : str, optional
        Name of the recorders.
    jobs : int, optional
        Number of worker processes; no pool is needed. By default, tasks run one by one in this process.
    on_error : {"raise", "skip"}
        Whether to raise an error if a task fails, or to leave it out of the result (see `failures`).
    session : Session, optional
        By default the session that is current when training starts.
    tracker : Tracker or str, optional
        The tracking store, or its URI; by default the session's. Worker processes (`jobs`, `call_in_subproc`) open an
        object's `uri`, whose scheme must be known (:func:`~rollforge.drivers.register_tracker`).
    executor : Executor, optional
        Where tasks run, instead of `jobs`: on a cluster (``rollforge.Ray("head:6379", jobs=200)``, ``rollforge.Dask(jobs=8)``,
        ``rollforge.Slurm(jobs=50)``), or in processes of this machine (``LocalProcesses(4)``, :mod:`rollforge.run.executor`).
    on_event : callable, optional
        Called with each :class:`~rollforge.run.job.Event` of a task: it started, ended, failed or will be retried. By default, a
        notebook shows a progress bar, and other programs log tasks that have ended.

    Examples
    --------
    >>> def pretend(task, experiment_name, recorder_name=None):
    ...     from rollforge.track.base import get_experiment, open_tracker
    ...     return get_experiment(open_tracker("folder:" + task["runs"]), experiment_name=experiment_name).create_recorder()
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     (recorder,) = TrainerR("doc", pretend)([{"runs": runs}])
    ...     recorder.list_tags()["train_status"]
    'end_task_train'
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        train_func: TrainFunc = task_train,
        call_in_subproc: bool = False,
        default_rec_name: str | None = None,
        *,
        jobs: int | None = None,
        on_error: OnError = "raise",
        session: Session | None = None,
        tracker: Tracker | str | None = None,
        executor: Executor | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(experiment_name, train_func, default_rec_name, session, on_error, tracker=tracker)
        check_executor(executor, jobs=jobs is not None, call_in_subproc=call_in_subproc)
        self.call_in_subproc = call_in_subproc
        self.jobs = jobs
        self.executor = executor
        self.on_event = on_event

    def train(
        self,
        tasks: list[Definition] | Definition,
        train_func: TrainFunc | None = None,
        experiment_name: str | None = None,
        **kwargs: object,
    ) -> list[Recorder]:
        """Train tasks and return one recorder per task.

        Parameters
        ----------
        tasks : list of dict or dict
            Tasks to train.
        train_func : callable, optional
            By default the trainer's.
        experiment_name : str, optional
            By default the trainer's.
        **kwargs
            Passed to `train_func`.

        Raises
        ------
        TrainingFailed
            If a task fails; the message contains its key and its traceback.
        """
        arguments = {"recorder_name": self.default_rec_name, **kwargs}
        func, listed = train_func or self.train_func, as_list(tasks)
        self.failures = {}
        trained = self._stage(func, listed, experiment_name, arguments, default_names(listed))
        return trained if func in TAGGING else self._tag(trained, self.STATUS_BEGIN)

    def end_train(self, models: list[Recorder] | Recorder, *args: Any, **kwargs: Any) -> list[Recorder]:
        """Mark the recorders as finished and return them."""
        return self._tag(as_list(models), self.STATUS_END)

    def _stage(
        self,
        func: TrainFunc,
        items: list[Any],
        experiment_name: str | None,
        kwargs: Definition,
        model_names: Sequence[str] = (),
    ) -> list[Recorder]:
        """Run one stage on tasks or recorders and return its results in order, without those that failed."""
        session, experiment_name = self._where(experiment_name)
        arguments = {"experiment_name": experiment_name, **kwargs}
        names = model_names or [""] * len(items)
        with review(items, session):
            if self.jobs is None and self.executor is None and not self.call_in_subproc:
                return self._in_this_process(func, items, session, arguments, names)
            return self._in_processes(func, items, session, arguments, names)

    def _in_this_process(
        self, func: TrainFunc, items: list[object], session: Session, arguments: dict[str, object], names: Sequence[str]
    ) -> list[Recorder]:
        done = []
        failures: dict[str, str] = {}
        with using(session), progress(len(items), self.on_event, log=False) as on_event:
            for i, (item, name) in enumerate(zip(items, names, strict=True)):
                token = current_model.set(name)
                key, began = task_key(item, i, len(items), name), time.perf_counter()
                log.info("%s started", key)
                on_event(Event("started", key, "", label=key))
                try:
                    done.append(func(item, **arguments))
                    seconds = time.perf_counter() - began
                    log.info("%s finished in %.1f s", key, seconds)
                    on_event(Event("done", key, "", seconds, label=key))
                except Exception as exc:  # noqa: BLE001 - whatever a task raises is its own failure
                    error = traceback.format_exc()
                    brief = error_line(error)
                    on_event(Event("failed", key, "", time.perf_counter() - began, brief, key, traceback=error))
                    self._failed(failures, key, error)
                    self._raise_failures(failures, len(items), exc)
                finally:
                    current_model.reset(token)
        return done

    def _in_processes(
        self, func: TrainFunc, items: list[object], session: Session, arguments: dict[str, object], names: Sequence[str]
    ) -> list[Recorder]:
        failures: dict[str, str] = {}
        open_tracker(session.tracking_uri).prepare()  # once, before several processes do so at the same time
        store, pool = MemoryStore(), "here"
        definitions = [{"place": i, "item": _plain(item), **_resources_of(item)} for i, item in enumerate(items)]
        store.create(pool, definitions, max_attempts=1, model_names=names)
        job = Job(
            pool, _call, kwargs={"func": func, "arguments": arguments}, force_release=self.call_in_subproc, own=True,
            reviewed=True,
        )  # fmt: skip
        executor = self.executor or LocalProcesses(self.jobs or 1)
        with progress(len(items), self.on_event) as on_event:
            executor.run(job, session, on_event, store=store)
        tasks = list(store.query(pool))
        for i, (task, item) in enumerate(zip(tasks, items, strict=True)):
            if task.status is not Status.DONE:
                self._failed(failures, task_key(item, i, len(items), task.model_name), reason_of(task))
        self._raise_failures(failures, len(items))
        return [from_reference(t.result) for t in tasks if t.status is Status.DONE]


class DelayTrainerR(TrainerR):
    """Prepares the recorders in `train` and fits the models in `end_train`, both on this machine.

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    train_func : callable
        First stage: ``(task, experiment_name, recorder_name=…) -> Recorder``.
    end_train_func : callable
        Second stage: ``(recorder, experiment_name) -> Recorder``.
    **kwargs
        Passed to :class:`TrainerR`.

    Examples
    --------
    >>> DelayTrainerR("doc").is_delay()
    True
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        train_func: TrainFunc = begin_task_train,
        end_train_func: TrainFunc = end_task_train,
        **kwargs: Any,
    ) -> None:
        super().__init__(experiment_name, train_func, **kwargs)
        self.end_train_func = end_train_func
        self.delay = True

    def end_train(
        self,
        models: list[Recorder] | Recorder,
        end_train_func: TrainFunc | None = None,
        experiment_name: str | None = None,
        **kwargs: object,
    ) -> list[Recorder]:
        """Fit the models of the recorders that are not finished, and return all finished recorders.

        Raises
        ------
        TrainingFailed
            If a task fails; the message contains its key and its traceback.
        """
        todo = self._unfinished(models)
        trained = self._stage(end_train_func or self.end_train_func, todo, experiment_name, kwargs)
        self._tag(trained, self.STATUS_END)
        lost = {r.id for r in todo} - {r.id for r in trained}
        return [r for r in as_list(models) if r.id not in lost]


# -- tasks and results -------------------------------------------------------------------------------------------------


def as_list(tasks: object) -> list[Any]:
    return list(tasks) if isinstance(tasks, (list, tuple)) else [tasks]


def _plain(item: object) -> object:
    return {"recorder": item.reference()} if isinstance(item, Recorder) else item


def _resources_of(item: object) -> dict[str, object]:
    """Return what the task of a recorder asks for, which the first stage has saved."""
    if not isinstance(item, Recorder):
        return {}
    with contextlib.suppress(
        RollforgeError, AttributeError
    ):  # a recorder of the user's own function need not have a task
        asked = item.load_object("task").get(RESOURCES)
        return {} if asked is None else {RESOURCES: asked}
    return {}


def _call(definition: Mapping[str, object], func: TrainFunc, arguments: Mapping[str, object]) -> Recorder:
    """Run one stage on one task in a worker process."""
    token = current_task.set(None)  # this pool exists only during the training, so its ids must not be recorded
    try:
        return func(from_reference(definition["item"]), **arguments)
    finally:
        current_task.reset(token)


def reason_of(task: TaskRecord) -> str:
    return task.error or f"{task.status}, and no reason was recorded"


def default_names(tasks: Sequence[Any]) -> list[str]:
    """Return default model names for tasks."""
    described = all(isinstance(task, Mapping) for task in tasks)
    return model_names(tasks) if described else [""] * len(tasks)


def task_key(item: object, place: int, total: int, model_name: str = "") -> str:
    """Return a readable name of a task: its position, its model and its test segment.

    Examples
    --------
    >>> task_key({"model": {"class": "LGBModel"}, "dataset": {"kwargs": {"segments": {"test": ("2020", None)}}}}, 0, 3)
    'task 1 of 3 (LGBModel, test 2020 to the end)'
    """
    known = []
    if isinstance(item, Recorder):
        known.append(f"recorder {item.id}")
    elif isinstance(item, Mapping):
        task = TaskView(item)
        days = task.days_tested
        known += [part for part in (model_name or task.model_class, days and f"test {days}") if part]
    return f"task {place + 1} of {total}" + (f" ({', '.join(known)})" if known else "")
