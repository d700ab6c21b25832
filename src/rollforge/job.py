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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.errors import TaskNotFound, nearest
from rollforge.run.execute import prepare_data, task_train
from rollforge.run.executor import Executor, InProcess, LocalProcesses
from rollforge.run.worker import Event, Job
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.task import Status, TaskRecord
from rollforge.track.base import get_experiment, open_tracker
from rollforge.workflow import Plan

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.collect.coverage import Coverage
    from rollforge.track.base import Recorder

__all__ = ["Collected", "TaskOutcome", "collect", "submit", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """What storing a plan found."""

    new: int
    done: int
    retried: int


def submit(plan: Plan) -> Submission:
    """Store the tasks of `plan` in the pool of its experiment; known ones stay as they are, failed ones wait again."""
    session, pool = plan.workflow.session, plan.workflow.experiment
    with using(session):
        manager = TaskManager(pool, session=session)
        before = sum(manager.task_stat(_these(plan)).values())
        manager.create_task([dict(t) for t in plan.tasks])
        retried = manager.retry({**_these(plan), "status": Status.FAILED.value})
        done = manager.task_stat(_these(plan)).get(Status.DONE, 0)
    return Submission(new=len(set(plan.ids)) - before, done=done, retried=retried)


def _these(plan: Plan) -> dict[str, Any]:
    return {"_id": {"$in": list(plan.ids)}}


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
    waiting = [r for r in open_store(session.store).query(pool, _these(plan)) if r.status is Status.WAITING]
    if not waiting:
        return
    tracker = open_tracker(session.tracking)
    opening = _Beside(tracker.prepare)  # opening MLflow's database takes seconds that the panel can use
    prepare_data(waiting[0].definition, session)
    opening.join()
    get_experiment(tracker, experiment_name=pool)
    job = Job(pool, task_train, _these(plan), kwargs={"experiment_name": pool})
    executor: Executor = InProcess(session) if jobs == 0 else LocalProcesses(session, jobs, log_file)
    executor.run(job, on_event)


class _Beside:
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


@dataclass(frozen=True, slots=True)
class Collected:
    """One out-of-sample result, and what it was made of."""

    outcomes: tuple[TaskOutcome, ...]
    prediction: pd.DataFrame | None
    """Index (datetime, instrument), column ``score``; None when no task is done."""
    label: pd.DataFrame | None
    coverage: Coverage


def known_pool(session: Session, pool: str) -> None:
    """Do nothing, unless there is no such pool.

    Raises
    ------
    TaskNotFound
        Naming the pools that there are.
    """
    pools = list(open_store(session.store).pools())
    if pool not in pools:
        raise TaskNotFound(
            f"There is no experiment {pool!r} in the store.{nearest(pool, pools)} Known: {', '.join(pools) or 'none'}."
        )


def outcomes(session: Session, pool: str, ids: Sequence[str] | None = None) -> tuple[TaskOutcome, ...]:
    """Return the tasks of a pool with their recorders, in the order of `ids`, else in that of their creation."""
    from rollforge.run.trainer import recorder_of

    query = {} if ids is None else {"_id": {"$in": list(ids)}}
    records = list(open_store(session.store).query(pool, query))
    if ids is not None:
        order = {task_id: i for i, task_id in enumerate(ids)}
        records.sort(key=lambda r: order[r.id])
    return tuple(TaskOutcome(r, recorder_of(r.result) if r.status is Status.DONE else None) for r in records)
