"""The joined result of an experiment, saved as a run next to those of its windows; there is exactly one per pool.

In MLflow it is the parent of the windows' runs. Collecting again updates it: objects, metrics and tags are replaced,
and outdated ones are removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollforge.errors import RecorderNotFound
from rollforge.generate.naming import describe
from rollforge.run.execute import MODEL_TAG, model_tags
from rollforge.track.base import JOINED_TAG, PARENT_TAG, Experiment, Recorder

__all__ = ["WindowRun", "save_joined"]

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class WindowRun:
    """A run that is part of a joined result."""

    recorder: Recorder
    tags: Mapping[str, str]
    """Its current tags."""
    definition: Mapping[str, object]
    model_name: str
    """Current name of its model."""


def save_joined(
    experiment: Experiment,
    pool: str,
    *,
    objects: Mapping[str, object],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    windows: Sequence[WindowRun],
) -> Recorder:
    """Create or update the run of a pool's joined result, and return its recorder.

    Parameters
    ----------
    experiment : Experiment
        Experiment that the run belongs to.
    pool : str
        Name of the pool.
    objects : mapping
        Name -> object to save; None removes an existing object.
    metrics : mapping
        Name -> value. Existing metrics that are not given become NaN.
    tags : mapping
        Name -> value.
    windows : sequence of WindowRun
        Windows of the result. Their runs become children of the joined run and are named after their models.
    """
    attempts = 0
    while True:
        try:
            return _saved(_recorder(experiment, pool), objects, metrics, tags, windows)
        except RecorderNotFound:
            # Another process created a run at the same time and deleted this one in favour of the earliest.
            attempts += 1
            if attempts == _ATTEMPTS:
                raise


def _saved(
    recorder: Recorder,
    objects: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    windows: Sequence[WindowRun],
) -> Recorder:
    recorder.start_run()
    status = Recorder.STATUS_FA
    try:
        recorder.save_objects(**{name: value for name, value in objects.items() if value is not None})
        recorder.delete_objects(*(name for name, value in objects.items() if value is None))
        known = recorder.list_metrics()
        wanted = {**dict.fromkeys(known, math.nan), **metrics}
        changed: dict[str, Any] = {name: v for name, v in wanted.items() if not _same(v, known.get(name))}
        recorder.log_metrics(**changed)
        recorder.set_tags(**tags)
        for window in windows:
            _adopt(window, recorder.id)
        status = Recorder.STATUS_FI
    finally:
        recorder.end_run(status)
    return recorder


def _recorder(experiment: Experiment, pool: str) -> Recorder:
    """Return the recorder of the joined result; of several created at the same time, the earliest is kept."""
    found = _recorders(experiment, pool)
    for later in found[1:]:
        if later.status != Recorder.STATUS_R:
            experiment.delete_recorder(later.id)
    if found:
        return found[0]
    made = experiment.create_recorder("joined result", tags={JOINED_TAG: pool})
    first = _recorders(experiment, pool)[0]
    if first.id != made.id:
        made.end_run(Recorder.STATUS_FA)
        experiment.delete_recorder(made.id)
    return first


def _recorders(experiment: Experiment, pool: str) -> list[Recorder]:
    listed: list[Recorder] = experiment.list_recorders(Experiment.RT_L, tags={JOINED_TAG: pool}, joined=True)
    return sorted(listed, key=lambda r: (r.run_info.start_time, r.id))


def _same(value: float, known: float | None) -> bool:
    return known is not None and (value == known or (math.isnan(value) and math.isnan(known)))


def _adopt(window: WindowRun, parent: str) -> None:
    """Make a window's run a child of the joined run, and name it after its model."""
    wanted = {PARENT_TAG: parent, **model_tags(window.definition, window.model_name)}
    changed = {tag: value for tag, value in wanted.items() if window.tags.get(tag) != value}
    if not changed:
        return
    before = window.tags.get(MODEL_TAG)
    # Rename only runs that still have their default name.
    if MODEL_TAG in changed and before and window.recorder.name == describe(window.definition, before):
        window.recorder.rename(describe(window.definition, wanted[MODEL_TAG]))
    window.recorder.set_tags(**changed)
