"""Copy experiments with their runs from one tracking store to another: values, histories, tags and artifacts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rollforge.errors import ExperimentNotFound, nearest
from rollforge.track.artifact_files import Files
from rollforge.track.experiment import PARENT_TAG
from rollforge.track.recorder import COPIED_FROM
from rollforge.track.tracker import RunData, RunQuery, Tracker

__all__ = ["CopyResult", "copy_runs"]

log = logging.getLogger(__name__)

_COPYING = "rollforge.copying"


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
    made = target.create_run(experiment_id, run.info.name, {**run.tags, _COPYING: run.info.id})
    metrics = [value for name in run.metrics for value in source.history(run.info.id, name)]
    target.write(made.id, run.params, metrics, {})
    _copy_files(source.files(run.info.id), target.files(made.id))
    target.write(made.id, {}, [], {COPIED_FROM: run.info.id}, gone_tags=[_COPYING])
    target.update_run(made.id, run.info.status, run.info.end_time)
    return made.id


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
