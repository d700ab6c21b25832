"""Copy runs from one tracking store to another: values, histories, tags and artifacts.

:func:`copy_runs` copies experiments, whose runs keep a note of where they come from. :func:`deliver_runs` takes over the
runs of a task that another machine has recorded in a folder of its own: they look as if they had been recorded here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rollforge.errors import ExperimentNotFound, nearest
from rollforge.track.artifact_files import Files
from rollforge.track.experiment import PARENT_TAG
from rollforge.track.provenance import program_tags, save_diff
from rollforge.track.recorder import COPIED_FROM, Recorder
from rollforge.track.tracker import Metric, RunData, RunInfo, RunQuery, Tracker

__all__ = ["CopyResult", "copy_runs", "deliver_runs", "is_lent", "keep_run", "lend_run", "settle_runs"]

log = logging.getLogger(__name__)

_COPYING = "rollforge.copying"
_LENT = "rollforge.lent"
_DELIVERED_FOR = "rollforge.delivered_for"
"""Tag with the id of a task until its outcome is stored in the pool."""
_DELIVERED_BY = "rollforge.delivered_by"
"""Tag with the worker that holds the claim on the task, as long as the former tag exists."""


@dataclass(frozen=True, slots=True)
class CopyResult:
    """Result of copying one experiment.

    Examples
    --------
    >>> CopyResult("demo", runs=3, known=1).runs
    3
    """

    experiment_name: str
    runs: int
    known: int
    """Runs that had been copied before."""


def copy_runs(source: Tracker, target: Tracker, experiments: Sequence[str] | None = None) -> Iterator[CopyResult]:
    """Copy the runs that the target does not have yet. An interrupted copy of a run is replaced.

    Copies get new ids; their tag ``rollforge.copied_from`` contains the id of the original run.

    Parameters
    ----------
    source, target : Tracker
        Tracking stores to copy from and to.
    experiments : sequence of str, optional
        Names of experiments; by default all.

    Raises
    ------
    ExperimentNotFound
        If the source does not have one of the experiments.
    """
    there = source.experiments()  # first, so that nothing is written if there is nothing to copy
    wanted = list(there if experiments is None else experiments)
    for name in wanted:
        if name not in there:
            raise ExperimentNotFound(
                f"{source.uri} has no experiment {name!r}.{nearest(name, there)} Known: {', '.join(there) or 'none'}."
            )
    target.prepare()
    for name in wanted:
        yield _copy_experiment(source, target, name, there[name])


def _copy_experiment(source: Tracker, target: Tracker, name: str, experiment_id: str) -> CopyResult:
    new_id = target.create_experiment(name)
    copies: dict[str, str] = {}
    for run in target.search([new_id], RunQuery()):
        if _COPYING in run.tags:
            target.delete_run(run.info.id)
        elif COPIED_FROM in run.tags:
            copies[run.tags[COPIED_FROM]] = run.info.id
    runs = list(reversed(source.search([experiment_id], RunQuery())))  # oldest first, in the order of their creation
    fresh = [run for run in runs if run.info.id not in copies]
    for run in fresh:
        copies[run.info.id] = _copy_run(source, target, new_id, run)
        log.info("copied run %s of experiment %s", run.info.id, name)
    for run in fresh:  # a parent may have been created after its children
        parent = copies.get(run.tags.get(PARENT_TAG, ""))
        if parent is not None:
            target.write(copies[run.info.id], {}, [], {PARENT_TAG: parent})
    return CopyResult(name, len(fresh), len(runs) - len(fresh))


def _copy_run(source: Tracker, target: Tracker, experiment_id: str, run: RunData) -> str:
    """Return the id of the copy."""
    return _transfer(source, target, experiment_id, run, run.info.status, {COPIED_FROM: run.info.id}).id


def _transfer(
    source: Tracker, target: Tracker, experiment_id: str, run: RunData, status: str, tags: Mapping[str, str]
) -> RunInfo:
    """Return the copy of a run. It is RUNNING, with the tag ``rollforge.copying``, until it is complete."""
    first = {**run.tags, **tags, _COPYING: run.info.id}
    made = target.create_run(experiment_id, run.info.name, first, run.info.start_time)
    target.write(made.id, run.params, _histories(source, run), {})
    _copy_files(source.files(run.info.id), target.files(made.id))
    target.write(made.id, {}, [], {}, gone_tags=[_COPYING])
    target.update_run(made.id, status, run.info.end_time)
    return made


def _histories(source: Tracker, run: RunData) -> list[Metric]:
    return [value for name in run.metrics for value in source.history(run.info.id, name)]


def lend_run(source: Tracker, run_id: str, target: Tracker) -> RunInfo:
    """Copy one run to a store from which :func:`deliver_runs` brings it back; return the copy.

    Raises
    ------
    RecorderNotFound
        If the run does not exist.
    """
    run = source.read(run_id)
    found = source.find_experiment(experiment_id=run.info.experiment_id)
    target.prepare()
    experiment_id = target.create_experiment(found[1] if found else "lent")
    return _transfer(source, target, experiment_id, run, run.info.status, {_LENT: run_id})


def deliver_runs(source: Tracker, target: Tracker, task_id: str = "", worker: str = "") -> dict[str, RunInfo]:
    """Move all runs of one store into another, and return what became of each: its id in `source` -> the run in `target`.

    A run that :func:`lend_run` copied gets its new values; other runs are created, with the command and the code of this
    program, which has started the tasks. A run that had not ended when its process was killed has failed.

    Parameters
    ----------
    source, target : Tracker
        Tracking stores to move from and to.
    task_id : str
        The task that has recorded them. Until :func:`keep_run` is called, the created runs are subject to
        :func:`settle_runs`.
    worker : str
        The worker that holds the claim on the task.
    """
    tags = {_DELIVERED_FOR: task_id, _DELIVERED_BY: worker} if task_id else {}
    delivered = {}
    for name, experiment_id in source.experiments().items():
        runs = reversed(source.search([experiment_id], RunQuery()))
        for run in list(runs):
            ended = run.info.status if run.info.status != Recorder.STATUS_R else Recorder.STATUS_FA
            original = run.tags.get(_LENT)
            if original is None:
                save_diff(source.files(run.info.id))
                made = _transfer(source, target, target.create_experiment(name), run, ended, {**program_tags(), **tags})
            else:
                made = _bring_back(source, target, run, original, ended)
            delivered[run.info.id] = made
    return delivered


def is_lent(source: Tracker, run_id: str) -> bool:
    """Return whether a run is the copy of one that existed before, see :func:`lend_run`."""
    return _LENT in source.read(run_id).tags


def keep_run(target: Tracker, run_id: str) -> None:
    """Note that the outcome of the task that has recorded a delivered run is stored."""
    target.write(run_id, {}, [], {}, gone_tags=[_DELIVERED_FOR, _DELIVERED_BY])


def settle_runs(target: Tracker, task_id: str, is_lost: Callable[[str], bool]) -> int:
    """Remove what killed processes have delivered for a task without storing its outcome, and keep everything else.

    Parameters
    ----------
    target : Tracker
        Tracking store to which runs were delivered.
    task_id : str
        Id of the task. Nobody else may deliver runs for it meanwhile.
    is_lost : callable
        Called with the worker that has delivered a run. True means that its outcome was certainly not stored.

    Returns
    -------
    int
        Number of runs that were removed. Incomplete copies are among them: an outcome is stored after its runs.
    """
    removed = 0
    for run in target.search(list(target.experiments().values()), RunQuery(tags={_DELIVERED_FOR: task_id})):
        if _COPYING in run.tags or is_lost(run.tags.get(_DELIVERED_BY, "")):
            target.delete_run(run.info.id)
            removed += 1
        else:
            keep_run(target, run.info.id)
    return removed


def _bring_back(source: Tracker, target: Tracker, run: RunData, original: str, status: str) -> RunInfo:
    before = target.read(original)
    known = {(m.name, m.step, m.time, m.value) for m in _histories(target, before)}
    metrics = [m for m in _histories(source, run) if (m.name, m.step, m.time, m.value) not in known]
    params = {name: value for name, value in run.params.items() if name not in before.params}
    tags = {name: value for name, value in run.tags.items() if name != _LENT and before.tags.get(name) != value}
    _copy_files(source.files(run.info.id), target.files(original))
    target.write(original, params, metrics, tags)
    target.update_run(original, status, run.info.end_time)
    return before.info


def _copy_files(source: Files, target: Files, folder: str = "") -> None:
    for name in source.list(folder):
        path = f"{folder}/{name}".strip("/")
        if name.endswith("/"):
            _copy_files(source, target, path)
            continue
        found = source.get(path)
        if found is not None:
            with target.draft(path) as draft:
                shutil.copyfile(found, draft)
