"""Train many models over time: generate, store, run, record, collect, serve."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Session": "rollforge.session",
    "current_session": "rollforge.session",
    "init": "rollforge.session",
    "using": "rollforge.session",
    "Status": "rollforge.task",
    "TaskRecord": "rollforge.task",
    "RollforgeError": "rollforge.errors",
    "D": "rollforge.data.engine",
    "Alpha158": "rollforge.data.alpha",
    "Alpha360": "rollforge.data.alpha",
    "DataHandlerLP": "rollforge.data.handler",
    "DatasetH": "rollforge.data.dataset",
    "MultiHorizonGenBase": "rollforge.generate.horizon",
    "RollingGen": "rollforge.generate.rolling",
    "TaskGen": "rollforge.generate.base",
    "TimeAdjuster": "rollforge.generate.calendar",
    "task_generator": "rollforge.generate.base",
    "TaskManager": "rollforge.store.manager",
    "Experiment": "rollforge.track.base",
    "R": "rollforge.track.r",
    "Recorder": "rollforge.track.base",
    "LGBModel": "rollforge.models.lightgbm",
    "LinearModel": "rollforge.models.linear",
    "Model": "rollforge.models.base",
    "PortAnaRecord": "rollforge.record.portfolio",
    "SigAnaRecord": "rollforge.record.analysis",
    "SignalRecord": "rollforge.record.signal",
    "DelayTrainerR": "rollforge.run.trainer",
    "DelayTrainerRM": "rollforge.run.trainer",
    "Trainer": "rollforge.run.trainer",
    "TrainerR": "rollforge.run.trainer",
    "TrainerRM": "rollforge.run.trainer",
    "run_task": "rollforge.run.worker",
    "task_train": "rollforge.run.execute",
    "AverageEnsemble": "rollforge.collect.ensemble",
    "Collector": "rollforge.collect.collector",
    "Ensemble": "rollforge.collect.ensemble",
    "Group": "rollforge.collect.group",
    "MergeCollector": "rollforge.collect.collector",
    "RecorderCollector": "rollforge.collect.collector",
    "RollingEnsemble": "rollforge.collect.ensemble",
    "RollingGroup": "rollforge.collect.group",
    "TaskCollector": "rollforge.collect.tasks",
    "SingleKeyEnsemble": "rollforge.collect.ensemble",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import rollforge`` costs next to nothing."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'rollforge' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
