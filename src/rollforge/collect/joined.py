"""The joined result of an experiment, kept as a run beside those of its windows: one for each pool, never a second one.

In MLflow it is the parent of the windows' runs. Collecting again brings it up to date: objects, metrics and tags are
replaced, and what it has no more is removed.
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
    """One of the runs that a result was joined from."""

    recorder: Recorder
    tags: Mapping[str, str]
    """Those that it has."""
    definition: Mapping[str, Any]
    model_name: str
    """What its model is called now."""


def save_joined(
    experiment: Experiment,
    pool: str,
    *,
    objects: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    windows: Sequence[WindowRun],
) -> Recorder:
    """Return the recorder of the joined result of a pool, made or brought up to date.

    Parameters
    ----------
    experiment : Experiment
        Where it is kept.
    pool : str
        Whose result it is.
    objects : mapping
        Name -> what is kept under it; None removes what was.
    metrics : mapping
        Name -> value. A metric that it had before and has no more becomes NaN.
    tags : mapping
        Name -> text.
    windows : sequence of WindowRun
        What it was joined from; their runs become its children, and are named after their models.
    """
    attempts = 0
    while True:
        try:
            return _saved(_recorder(experiment, pool), objects, metrics, tags, windows)
        except RecorderNotFound:
            # Another process that made one at the same moment has deleted this one in favour of the earliest.
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
    """The one recorder of the joined result; of several that processes made at the same moment, the earliest stays."""
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
    """Put the run of a window under the joined one, and name it after its model."""
    wanted = {PARENT_TAG: parent, **model_tags(window.definition, window.model_name)}
    changed = {tag: value for tag, value in wanted.items() if window.tags.get(tag) != value}
    if not changed:
        return
    before = window.tags.get(MODEL_TAG)
    # Only a name that a run was given by default follows its model.
    if MODEL_TAG in changed and before and window.recorder.name == describe(window.definition, before):
        window.recorder.rename(describe(window.definition, wanted[MODEL_TAG]))
    window.recorder.set_tags(**changed)
