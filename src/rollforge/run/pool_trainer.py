"""Trainers that store the tasks in a pool, from which workers on this or other machines take them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollforge import trust
from rollforge.errors import (
    ConfigError,
    ExperimentNotFound,
    FailingWorker,
    RecorderNotFound,
    TaskNotFound,
    TrackingUnavailable,
    shown,
)
from rollforge.moved import Alias, Aliased
from rollforge.run.execute import (
    TM_ID,
    begin_task_train,
    end_task_train,
    end_unfinished_runs,
    task_train,
)
from rollforge.run.executor import Executor, InProcess, LocalProcesses, check_executor
from rollforge.run.job import Job
from rollforge.run.progress import OnEvent, progress
from rollforge.run.references import recorder_of
from rollforge.run.requirements import session_admission
from rollforge.run.review import review
from rollforge.run.submission import submission_info
from rollforge.run.task_resources import without_resources
from rollforge.run.trainer import (
    TAGGING,
    OnError,
    RecorderTrainer,
    TrainFunc,
    as_list,
    default_names,
    reason_of,
    task_key,
)
from rollforge.run.worker import release_dead_workers, run_task
from rollforge.session import Session, using
from rollforge.store.base import TaskStore, batch_of
from rollforge.store.manager import TaskManager
from rollforge.task import Definition, Status, TaskRecord, digest
from rollforge.track.base import Recorder, Tracker, open_tracker

__all__ = ["DelayTrainerRM", "TrainerRM"]

log = logging.getLogger(__name__)


class TrainerRM(Aliased, RecorderTrainer):
    """Trains tasks through a pool: they are stored once, run by workers, and resumed after a crash.

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    task_pool : str, optional
        Name of the pool; by default that of the experiment.
    train_func : callable
        ``(task, experiment_name, recorder_name=…) -> Recorder``. It must be importable, because worker processes
        import it.
    skip_run_task : bool
        If True, only store the tasks and wait until other workers have trained them.
    default_rec_name : str, optional
        Name of the recorders.
    jobs : int, optional
        Number of worker processes to start. By default, tasks run in this process.
    on_error : {"raise", "skip"}
        Whether to raise an error if tasks failed after their last attempt, or to leave them out of the result (see
        `failures`).
    session : Session, optional
        By default the session that is current when training starts.
    store : TaskStore or str, optional
        The task store, or its URI; by default the session's.
    tracker : Tracker or str, optional
        The tracking store, or its URI; by default the session's. Worker processes (`jobs`) open an object's `uri`, whose
        scheme must be known (:func:`~rollforge.drivers.register_tracker`).
    executor : Executor, optional
        Where tasks run, instead of `jobs`: on a cluster (``rollforge.Ray("head:6379", jobs=200)``, ``rollforge.Dask(jobs=8)``,
        ``rollforge.Slurm(jobs=50)``), or in processes of this machine (``LocalProcesses(4)``, :mod:`rollforge.run.executor`).
    on_event : callable, optional
        Called with each :class:`~rollforge.run.job.Event` of a task: it started, ended, failed or will be retried. By default, a
        notebook shows a progress bar, and other programs log tasks that have ended.

    Examples
    --------
    >>> TrainerRM("doc", task_pool="nightly").has_worker()
    True
    """

    TM_ID = TM_ID
    task_pool = Alias("pool")

    def __init__(
        self,
        experiment_name: str | None = None,
        task_pool: str | None = None,
        train_func: TrainFunc = task_train,
        skip_run_task: bool = False,
        default_rec_name: str | None = None,
        *,
        jobs: int | None = None,
        on_error: OnError = "raise",
        session: Session | None = None,
        store: TaskStore | str | None = None,
        tracker: Tracker | str | None = None,
        executor: Executor | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(experiment_name, train_func, default_rec_name, session, on_error, store, tracker)
        check_executor(executor, jobs=jobs is not None)
        self.pool = task_pool
        if self.pool is not None and not isinstance(self.pool, str):
            raise ConfigError(f"must be the name of a pool, found {shown(self.pool)}.", path="task_pool")
        self.skip_run_task = skip_run_task
        self.jobs = jobs
        self.executor = executor
        self.on_event = on_event

    def train(
        self,
        tasks: list[Definition] | Definition,
        train_func: TrainFunc | None = None,
        experiment_name: str | None = None,
        before_status: Status | str = Status.WAITING,
        after_status: Status | str = Status.DONE,
        default_rec_name: str | None = None,
        **kwargs: Any,
    ) -> list[Recorder]:
        """Train tasks and return one recorder per task. Tasks that are done in the pool are not trained again.

        Raises
        ------
        TrainingFailed
            If tasks failed after their last attempt; the message contains the key and the traceback of each.
        """
        arguments = {"recorder_name": default_rec_name or self.default_rec_name, **kwargs}
        func = train_func or self.train_func
        return self._train(as_list(tasks), func, experiment_name, before_status, after_status, arguments)

    def _train(
        self,
        listed: list[dict[str, object]],
        func: TrainFunc,
        experiment_name: str | None,
        before: Status | str,
        after: Status | str,
        arguments: Mapping[str, object],
        *,
        here: bool = False,
    ) -> list[Recorder]:
        """Store tasks and run their first stage; if `here` is True, do not leave it to other workers."""
        self.failures = {}
        if not listed:
            return []
        session, experiment_name = self._where(experiment_name)
        manager = self._manager(session, experiment_name)
        used = manager.store.keep_submission(manager.pool, submission_info(listed, session))
        listed = [without_resources(task) for task in listed]
        digests = [digest(task) for task in listed]
        batch, names = batch_of(digests), _unnamed_only(manager, listed, digests)
        ids = manager.create_task(listed, model_names=names, submission=used, batch=batch)
        by_workers = self.skip_run_task and not here
        with review(listed, session) as known:
            self._run(
                manager, batch, func, before, after, session, experiment_name, arguments, by_workers=by_workers, reviewed=known
            )  # fmt: skip
        with using(session):
            recorders = self._recorders(manager, batch, ids)
        if func not in TAGGING or by_workers:
            for task_id, recorder in recorders.items():
                recorder.set_tags(**{self.STATUS_KEY: self.STATUS_BEGIN, self.TM_ID: task_id})
        return [recorders[i] for i in ids if i in recorders]

    def end_train(self, models: list[Recorder] | Recorder, *args: Any, **kwargs: Any) -> list[Recorder]:
        """Mark the recorders as finished and return them."""
        return self._tag(as_list(models), self.STATUS_END)

    def retry_failed(self, tasks: Sequence[Definition], experiment_name: str | None = None) -> int:
        """Let the next :meth:`train` run those tasks again that have failed in the pool, or whose recorder no longer exists.

        Returns
        -------
        int
            How many these are.
        """
        session, experiment_name = self._where(experiment_name)
        manager = self._manager(session, experiment_name)
        if manager.pool not in manager.store.pools():
            return 0
        chosen = {"_id": {"$in": [digest(without_resources(task)) for task in tasks]}}
        with using(session):
            trained = {"$and": [chosen, {"status": {"$in": [Status.DONE.value, Status.PART_DONE.value]}}]}
            lost = [task.id for task in manager.store.query(manager.pool, trained) if _is_lost(task)]
        reset = manager.reset_status({"_id": {"$in": lost}}, Status.WAITING) if lost else 0
        return reset + manager.retry(chosen)

    def has_worker(self) -> bool:
        """Return True: other processes can train tasks of the pool."""
        return True

    def worker(self, train_func: TrainFunc | None = None, experiment_name: str | None = None) -> None:
        """Train tasks of the pool in this process until none is waiting, while another process calls :meth:`train`."""
        self._work(train_func or self.train_func, experiment_name, Status.WAITING, Status.DONE)

    def _work(self, func: TrainFunc, experiment_name: str | None, before: Status, after: Status) -> None:
        session, experiment_name = self._where(experiment_name)
        run_task(
            func, self.pool or experiment_name, session=session, before_status=before, after_status=after,
            experiment_name=experiment_name,
        )  # fmt: skip

    def _manager(self, session: Session, experiment_name: str) -> TaskManager:
        return TaskManager(self.pool or experiment_name, session=session)

    def _run(
        self,
        manager: TaskManager,
        batch: str,
        func: TrainFunc,
        before: Status | str,
        after: Status | str,
        session: Session,
        experiment_name: str,
        arguments: Mapping[str, object],
        *,
        by_workers: bool,
        reviewed: bool = False,
    ) -> None:
        """Run one stage, unless it is left to workers (`by_workers`), and wait until none of its tasks can make progress."""
        before, after, total = Status(before), Status(after), sum(manager.task_stat(batch=batch).values())
        moving = {before, Status.RUNNING} - {after}

        def settled(counts: Mapping[Status, int]) -> bool:
            return not any(counts.get(status) for status in moving)

        if not by_workers:
            open_tracker(session.tracking_uri).prepare()
            kwargs = {"experiment_name": experiment_name, **arguments}
            job = Job(
                manager.pool, func, {}, before, after, kwargs, batch=batch, reviewed=reviewed,
                on_death=lambda task_id: end_unfinished_runs(task_id, experiment_name, session),
            )  # fmt: skip
            admission = session_admission(manager.store, manager.pool, session)
            executor = self.executor or (InProcess() if self.jobs is None else LocalProcesses(self.jobs))

            def run() -> None:
                with progress(manager.task_stat(batch=batch).get(before, 0), self.on_event) as on_event:
                    executor.run(job, session, on_event, admission=admission)

            for task in release_dead_workers(manager.store, manager.pool, counted=False):
                end_unfinished_runs(task.id, experiment_name, session)
            try:
                _run_until(settled, manager, run, job)
            except FailingWorker as exc:
                log.warning("%s The other workers continue.", exc)
        else:
            log.info("%d tasks of pool %s are waiting for workers in other processes", total, manager.pool)
        manager.wait(on_change=_log_counts if self.skip_run_task else None, batch=batch, settled=settled)

    def _recorders(self, manager: TaskManager, batch: str, ids: Sequence[str]) -> dict[str, Recorder]:
        """Return the recorders by task id; record failed tasks, and raise an error unless failures are skipped."""
        failures: dict[str, str] = {}
        recorders = {}
        tasks = {task.id: task for task in manager.store.query(manager.pool, batch=batch)}
        for i, task_id in enumerate(ids):
            task = tasks.get(task_id)
            if task is None:
                raise TaskNotFound(f"Task {task_id} was removed from pool {manager.pool!r} before it was done.")
            if task.status is Status.FAILED:
                key = f"{task_key(task.definition, i, len(ids), task.model_name)}, {task_id}"
                self._failed(failures, key, reason_of(task))
            else:
                recorders[task_id] = recorder_of(task.result)
        self._raise_failures(failures, len(ids))
        return recorders


def _run_until(
    settled: Callable[[Mapping[Status, int]], bool], manager: TaskManager, run: Callable[[], None], job: Job
) -> None:
    """Run tasks, and those of other processes that die before they have finished them."""
    while True:
        run()
        counts = manager.wait(
            batch=job.batch, warn=False, settled=lambda counts: settled(counts) or bool(counts.get(job.before))
        )
        if settled(counts) or not counts.get(job.before):
            return
        manager.store.wait_for_change(manager.pool, 1.0)


class DelayTrainerRM(TrainerRM):
    """Prepares the recorders in `train` and fits the models through the pool in `end_train`.

    Between the two stages the tasks are ``part_done``. Any worker may run their second stage (:meth:`worker`).

    Parameters
    ----------
    experiment_name : str, optional
        Experiment of the recorders; by default the session's.
    task_pool : str, optional
        Name of the pool; by default that of the experiment.
    train_func : callable
        First stage: ``(task, experiment_name, recorder_name=…) -> Recorder``.
    end_train_func : callable
        Second stage: ``(recorder, experiment_name) -> Recorder``.
    skip_run_task : bool
        If True, leave the second stage to other workers and wait for them. The first stage always runs here.
    default_rec_name, jobs, on_error, session, store, tracker, executor, on_event
        See :class:`TrainerRM`.

    Examples
    --------
    >>> DelayTrainerRM("doc").is_delay()
    True
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        task_pool: str | None = None,
        train_func: TrainFunc = begin_task_train,
        end_train_func: TrainFunc = end_task_train,
        skip_run_task: bool = False,
        default_rec_name: str | None = None,
        *,
        jobs: int | None = None,
        on_error: OnError = "raise",
        session: Session | None = None,
        store: TaskStore | str | None = None,
        tracker: Tracker | str | None = None,
        executor: Executor | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(
            experiment_name, task_pool, train_func, skip_run_task, default_rec_name, jobs=jobs, on_error=on_error,
            session=session, store=store, tracker=tracker, executor=executor, on_event=on_event,
        )  # fmt: skip
        self.end_train_func = end_train_func
        self.delay = True

    def train(
        self,
        tasks: list[Definition] | Definition,
        train_func: TrainFunc | None = None,
        experiment_name: str | None = None,
        before_status: Status | str = Status.WAITING,
        after_status: Status | str = Status.PART_DONE,
        default_rec_name: str | None = None,
        **kwargs: Any,
    ) -> list[Recorder]:
        """Run the first stage and return one recorder per task, not trained yet."""
        arguments = {"recorder_name": default_rec_name or self.default_rec_name, **kwargs}
        func = train_func or self.train_func
        return self._train(as_list(tasks), func, experiment_name, before_status, after_status, arguments, here=True)

    def end_train(
        self,
        models: list[Recorder] | Recorder,
        end_train_func: TrainFunc | None = None,
        experiment_name: str | None = None,
        **kwargs: object,
    ) -> list[Recorder]:
        """Fit the models of the recorders through the pool, and return the recorders.

        Raises
        ------
        TrainingFailed
            If tasks failed after their last attempt; the message contains the key and the traceback of each.
        """
        recorders = as_list(models)
        if not recorders:
            return []
        session, experiment_name = self._where(experiment_name)
        manager = self._manager(session, experiment_name)
        ids = [str(r.list_tags()[self.TM_ID]) for r in recorders]
        trust.mark_as_own(
            ids
        )  # the caller passed their recorders; their tasks are compared with the ids before being built
        batch = batch_of(ids)
        manager.store.add_to_batch(manager.pool, batch, ids)
        func = end_train_func or self.end_train_func
        self._run(
            manager,
            batch,
            func,
            Status.PART_DONE,
            Status.DONE,
            session,
            experiment_name,
            kwargs,
            by_workers=self.skip_run_task,
        )
        with using(session):
            trained = self._recorders(manager, batch, ids)
        return self._tag([trained[i] for i in ids if i in trained], self.STATUS_END)

    def worker(self, end_train_func: TrainFunc | None = None, experiment_name: str | None = None) -> None:
        """Fit models of the pool in this process until none is left, while another process calls :meth:`end_train`."""
        self._work(end_train_func or self.end_train_func, experiment_name, Status.PART_DONE, Status.DONE)


def _is_lost(task: TaskRecord) -> bool:
    """Return whether the recorder of a task no longer exists: its folder was deleted, or the tracking store was replaced."""
    try:
        recorder_of(task.result).list_tags()
    except (ExperimentNotFound, RecorderNotFound, TrackingUnavailable):
        return True
    return False


def _log_counts(counts: Mapping[Status, int]) -> None:
    log.info("tasks: %s", ", ".join(f"{n} {status.value}" for status, n in counts.items()))


def _unnamed_only(manager: TaskManager, tasks: Sequence[Mapping[str, object]], ids: Sequence[str]) -> list[str]:
    """Return default model names for tasks with these ids; empty for tasks that have a name in the pool."""
    names = default_names(tasks)
    if not any(names):
        return names
    query = {"_id": {"$in": list(ids)}, "model_name": {"$ne": ""}}
    named = {task.id for task in manager.store.query(manager.pool, query, results=False)}
    return ["" if task_id in named else name for task_id, name in zip(ids, names, strict=True)]
