"""Recorders to one result: collecting, grouping, ensembling, and the check that nothing is missing."""

from __future__ import annotations

from rollforge.collect.collector import Collector, MergeCollector, RecorderCollector
from rollforge.collect.ensemble import AverageEnsemble, Ensemble, RollingEnsemble, SingleKeyEnsemble
from rollforge.collect.group import Group, RollingGroup
from rollforge.collect.stream import write_stream
from rollforge.collect.tasks import TaskCollector

__all__ = [
    "AverageEnsemble", "Collector", "Ensemble", "Group", "MergeCollector", "RecorderCollector", "RollingEnsemble",
    "RollingGroup", "SingleKeyEnsemble", "TaskCollector", "write_stream",
]  # fmt: skip
