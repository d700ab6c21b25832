"""Training tasks once: a task that has a finished recorder in its experiment is not trained again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rollforge.errors import TaskNotSerializable
from rollforge.machine import process_is_gone
from rollforge.run.execute import DATA_MARK, PROCESS_TAG, TASK_TAG
from rollforge.run.task_resources import without_resources
from rollforge.run.trainer import Trainer
from rollforge.session import current_session
from rollforge.task import Definition, digest
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker

__all__ = ["SupportsRetry", "close_killed", "task_digest", "train_missing", "window_digest"]

log = logging.getLogger(__name__)

MODEL_FILE = "params.pkl"
ENDED_TAG = "rollforge.ended"
"""Recorder tag: why a run was closed that did not end by itself."""


@runtime_checkable
class SupportsRetry(Protocol):
    """A trainer that remembers which tasks have failed, and does not train them again by itself."""

    def retry_failed(self, tasks: Sequence[Definition], experiment_name: str | None = None) -> int:
        """Let the next training run those tasks again that have failed, and return how many these are."""


def task_digest(task: Definition) -> str:
    """Return the digest of a task; empty if it contains live objects."""
    try:
        return digest(without_resources(task))
    except TaskNotSerializable:
        return ""


def window_digest(task: Definition) -> str:
    """Return the digest of a task, regardless of the contents of its data folder; empty if it contains live objects."""
    return task_digest({key: value for key, value in task.items() if key != DATA_MARK})


def train_missing(trainer: Trainer, tasks: Sequence[Definition], experiment_name: str) -> list[Recorder]:
    """Return the finished models of tasks, and train those that have none.

    A task has a model if a finished recorder of the experiment has the task's digest, which includes the fingerprint of its
    data; of several, it is the one that was started first. Runs whose process was killed are closed. Tasks that have failed
    before are trained again, with every trainer: the cause may have been removed since.

    Parameters
    ----------
    trainer : Trainer
        Trains the others, both stages.
    tasks : sequence of dict
        The tasks.
    experiment_name : str
        Name of the experiment.

    Returns
    -------
    list
        The results of the trainer, in the order of the tasks; without tasks that failed, if it skips failures.
    """
    if not tasks:
        return []
    experiment = _experiment(experiment_name)
    marks = [task_digest(task) for task in tasks]
    found: dict[str, Recorder] = {}
    if experiment is not None:
        close_killed(experiment, unfinished=not trainer.is_delay() and not trainer.has_worker())
        for mark in {*marks} - {""}:
            recorder = _trained(experiment, mark, trainer)
            if recorder is not None:
                found[mark] = recorder
    missing = [task for task, mark in zip(tasks, marks, strict=True) if mark not in found]
    models = list(found.values())
    if missing:
        if isinstance(trainer, SupportsRetry):
            trainer.retry_failed([task for task in missing if task_digest(task)], experiment_name)
        models += trainer.train(missing, experiment_name=experiment_name)
    log.info("experiment %s: %d of %d tasks were already trained", experiment_name, len(found), len(tasks))
    ended = trainer.end_train(models, experiment_name=experiment_name)
    return _ordered(ended, marks)


def _ordered(models: Sequence[Recorder], marks: Sequence[str]) -> list[Recorder]:
    """Return models in the order of their tasks; unchanged if it is not known which task they belong to."""
    if not all(isinstance(model, Recorder) for model in models):
        return list(models)
    own = {model.list_tags().get(TASK_TAG, ""): model for model in models}
    if "" in own or len(own) != len(models):
        return list(models)
    return [own[mark] for mark in marks if mark in own]


def _experiment(name: str) -> Experiment | None:
    tracker = open_tracker(current_session().tracking_uri)
    found = tracker.find_experiment(name=name)
    return None if found is None else get_experiment(tracker, experiment_name=name)


def _trained(experiment: Experiment, mark: str, trainer: Trainer) -> Recorder | None:
    """Return the recorder of a task; None if it has to be trained."""
    known = sorted(
        experiment.list_recorders(Experiment.RT_L, tags={TASK_TAG: mark}), key=lambda r: (r.run_info.start_time, r.id)
    )
    for recorder in known:
        if recorder.status == Recorder.STATUS_FI and MODEL_FILE in recorder.list_artifacts():
            return recorder
    # The second stage fits it. A trainer with a pool prepares it again, unless the pool has it: a process may have been killed
    # after it had prepared the recorder and before its task was committed.
    if trainer.is_delay() and not trainer.has_worker():
        return next((r for r in known if r.status == Recorder.STATUS_S), None)
    return None


def close_killed(experiment: Experiment, *, unfinished: bool = False) -> int:
    """Mark runs that a killed process left running as failed, and return how many.

    Parameters
    ----------
    unfinished : bool
        Also close runs that were prepared and not fitted, if no delayed trainer will fit them.
    """
    statuses = (Recorder.STATUS_R, Recorder.STATUS_S) if unfinished else (Recorder.STATUS_R,)
    closed = 0
    for status in statuses:
        for recorder in experiment.list_recorders(Experiment.RT_L, status=status):
            process = recorder.list_tags().get(PROCESS_TAG)
            if process is None or not process_is_gone(process):
                continue
            recorder.set_tags(**{ENDED_TAG: f"process {process} was killed"})
            recorder.end_run(Recorder.STATUS_FA)
            log.warning(
                "recorder %s was left %s by the process %s, which has ended; closed", recorder.id, status, process
            )
            closed += 1
    return closed
