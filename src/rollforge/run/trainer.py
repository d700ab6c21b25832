"""Trainers: a list of tasks in, a list of recorders out, in the same order.

Where the tasks run is the trainer's one choice: :class:`TrainerR` runs them here, :class:`TrainerRM` through a pool
that worker processes, here or elsewhere, take from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollforge.errors import TrainingFailed
from rollforge.run.execute import task_train
from rollforge.run.executor import Executor, InProcess, LocalProcesses
from rollforge.run.worker import Job, run_task
from rollforge.session import Session, current_session
from rollforge.store.manager import TaskManager
from rollforge.task import Status
from rollforge.track.base import Recorder, open_reference, open_tracker

__all__ = ["Trainer", "TrainerR", "TrainerRM"]

log = logging.getLogger(__name__)


class Trainer:
    """Trains a list of tasks, and returns a list of recorders in the order of the tasks."""

    def __init__(self) -> None:
        self.delay = False

    def train(self, tasks: list[dict[str, Any]], *args: Any, **kwargs: Any) -> list[Recorder]:
        """Return one recorder a task."""
        raise NotImplementedError(f"{type(self).__name__} must say how it trains.")

    def end_train(self, models: list[Recorder], *args: Any, **kwargs: Any) -> list[Recorder]:
        """Finish what :meth:`train` began; nothing, unless the trainer is a delayed one."""
        return models

    def is_delay(self) -> bool:
        """Whether the fitting happens in :meth:`end_train`."""
        return self.delay

    def has_worker(self) -> bool:
        """Whether :meth:`worker` can train beside :meth:`train`, in another process or on another machine."""
        return False

    def worker(self) -> None:
        """Train tasks of the pool until none is left."""
        raise NotImplementedError(f"{type(self).__name__} has no worker: it trains where it is called.")

    def __call__(self, *args: Any, **kwargs: Any) -> list[Recorder]:
        """Return ``end_train(train(...))``."""
        return self.end_train(self.train(*args, **kwargs))


def _as_list(tasks: Any) -> list[Any]:
    return list(tasks) if isinstance(tasks, (list, tuple)) else [tasks]


class TrainerR(Trainer):
    """Trains the tasks one after another in this process, each into a recorder.

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    train_func : callable
        ``(task, experiment_name, recorder_name=…) -> Recorder``.
    call_in_subproc : bool
        True runs each task in a child process, so that its memory is certainly given back.
    default_rec_name : str, optional
        Name of the recorders.
    session : Session, optional
        By default the current one when training starts.
    """

    STATUS_KEY = "train_status"
    STATUS_BEGIN = "begin_task_train"
    STATUS_END = "end_task_train"

    def __init__(
        self,
        experiment_name: str | None = None,
        train_func: Callable[..., Recorder] = task_train,
        call_in_subproc: bool = False,
        default_rec_name: str | None = None,
        *,
        session: Session | None = None,
    ) -> None:
        super().__init__()
        self.experiment_name = experiment_name
        self.train_func = train_func
        self.call_in_subproc = call_in_subproc
        self.default_rec_name = default_rec_name
        self.session = session

    def train(
        self,
        tasks: list[dict[str, Any]] | dict[str, Any],
        train_func: Callable[..., Recorder] | None = None,
        experiment_name: str | None = None,
        **kwargs: Any,
    ) -> list[Recorder]:
        """Return one trained recorder a task.

        Raises
        ------
        TrainingFailed
            When a task raises, from its exception, with its place in the list.
        """
        from rollforge.run.worker import call_in_child

        train = train_func or self.train_func
        experiment = experiment_name or self.experiment_name or (self.session or current_session()).experiment
        if self.session is not None:
            kwargs.setdefault("session", self.session)
        recorders = []
        for i, task in enumerate(listed := _as_list(tasks)):
            arguments = {"recorder_name": self.default_rec_name, **kwargs}
            try:
                if self.call_in_subproc:
                    recorder = call_in_child(train, task, experiment, **arguments)
                else:
                    recorder = train(task, experiment, **arguments)
            except Exception as exc:
                raise TrainingFailed(f"Task {i + 1} of {len(listed)} failed: {type(exc).__name__}: {exc}") from exc
            recorder.set_tags(**{self.STATUS_KEY: self.STATUS_BEGIN})
            recorders.append(recorder)
        return recorders

    def end_train(self, models: list[Recorder] | Recorder, **kwargs: Any) -> list[Recorder]:
        """Mark the recorders as finished and return them."""
        recorders = _as_list(models)
        for recorder in recorders:
            recorder.set_tags(**{self.STATUS_KEY: self.STATUS_END})
        return recorders


class TrainerRM(Trainer):
    """Trains the tasks through a pool: stored once, taken by workers, resumed where they were after a crash.

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    task_pool : str, optional
        Name of the pool; by default that of the experiment.
    train_func : callable
        ``(task, experiment_name, recorder_name=…) -> Recorder``; importable, as worker processes import it.
    skip_run_task : bool
        True only stores the tasks and waits; workers elsewhere train them.
    default_rec_name : str, optional
        Name of the recorders.
    jobs : int, optional
        Worker processes started for :meth:`train`; None trains in this process.
    session : Session, optional
        By default the current one when training starts.
    """

    STATUS_KEY = "train_status"
    STATUS_BEGIN = "begin_task_train"
    STATUS_END = "end_task_train"
    TM_ID = "_id in TaskManager"

    def __init__(
        self,
        experiment_name: str | None = None,
        task_pool: str | None = None,
        train_func: Callable[..., Recorder] = task_train,
        skip_run_task: bool = False,
        default_rec_name: str | None = None,
        *,
        jobs: int | None = None,
        session: Session | None = None,
    ) -> None:
        super().__init__()
        self.experiment_name = experiment_name
        self.task_pool = task_pool
        self.train_func = train_func
        self.skip_run_task = skip_run_task
        self.default_rec_name = default_rec_name
        self.jobs = jobs
        self.session = session

    def _names(self, experiment_name: str | None) -> tuple[Session, str, str]:
        session = self.session or current_session()
        experiment = experiment_name or self.experiment_name or session.experiment
        return session, experiment, self.task_pool or experiment

    def train(
        self,
        tasks: list[dict[str, Any]] | dict[str, Any],
        train_func: Callable[..., Recorder] | None = None,
        experiment_name: str | None = None,
        before_status: Status | str = Status.WAITING,
        after_status: Status | str = Status.DONE,
        default_rec_name: str | None = None,
        **kwargs: Any,
    ) -> list[Recorder]:
        """Return one trained recorder a task; tasks that the pool knows as done are not trained again.

        Raises
        ------
        TrainingFailed
            When tasks failed as often as they may, naming each with the last line of its traceback.
        """
        listed = _as_list(tasks)
        if not listed:
            return []
        session, experiment, pool = self._names(experiment_name)
        manager = TaskManager(pool, session=session)
        ids = manager.create_task(listed)
        query = {"_id": {"$in": ids}}
        if not self.skip_run_task:
            open_tracker(session.tracking).prepare()
            arguments = {
                "experiment_name": experiment,
                "recorder_name": default_rec_name or self.default_rec_name,
                **kwargs,
            }
            job = Job(
                pool=pool,
                task_func=train_func or self.train_func,
                query=query,
                before=Status(before_status),
                after=Status(after_status),
                kwargs=arguments,
            )
            executor: Executor = InProcess(session) if self.jobs is None else LocalProcesses(session, self.jobs)
            executor.run(job)
        if not self.is_delay():
            manager.wait(query)
        return self._recorders(manager, ids)

    def _recorders(self, manager: TaskManager, ids: Sequence[str]) -> list[Recorder]:
        recorders, failed = [], []
        for task_id in ids:
            document = manager.re_query(task_id)
            if document["status"] == Status.FAILED:
                last = (document.get("error") or "no traceback").strip().splitlines()[-1]
                failed.append(f"{task_id}: {last}")
                continue
            recorder = recorder_of(document["res"])
            recorder.set_tags(**{self.STATUS_KEY: self.STATUS_BEGIN, self.TM_ID: task_id})
            recorders.append(recorder)
        if failed:
            raise TrainingFailed(f"{len(failed)} of {len(ids)} tasks failed:\n  " + "\n  ".join(failed))
        return recorders

    def end_train(self, models: list[Recorder] | Recorder, **kwargs: Any) -> list[Recorder]:
        """Mark the recorders as finished and return them."""
        recorders = _as_list(models)
        for recorder in recorders:
            recorder.set_tags(**{self.STATUS_KEY: self.STATUS_END})
        return recorders

    def has_worker(self) -> bool:
        """Whether other processes can help: always."""
        return True

    def worker(self, train_func: Callable[..., Recorder] | None = None, experiment_name: str | None = None) -> None:
        """Train tasks of the pool in this process until none is waiting: to be called beside :meth:`train`."""
        session, experiment, pool = self._names(experiment_name)
        run_task(train_func or self.train_func, pool, session=session, experiment_name=experiment)


def recorder_of(result: Any) -> Recorder:
    """Return the recorder that a task's committed result refers to.

    Raises
    ------
    TrainingFailed
        When the task's function did not return a recorder.
    """
    if isinstance(result, Recorder):
        return result
    if isinstance(result, Mapping) and isinstance(result.get("recorder"), Mapping):
        return open_reference(result["recorder"])
    raise TrainingFailed(
        f"The task's result is no recorder but a {type(result).__name__}; its train_func must return one."
    )
