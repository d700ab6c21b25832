"""The values of a run as they are given to MLflow's methods: with MLflow's names, but without importing it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Metric", "Param", "RunStatus", "Tag", "as_entities"]


class Param(NamedTuple):
    """A param of a run."""

    key: str
    value: str


class Tag(NamedTuple):
    """A tag of a run or an experiment."""

    key: str
    value: str


class Metric(NamedTuple):
    """A value of a metric; its time is in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


class RunStatus(NamedTuple):
    """The status of a run."""

    name: str


def as_entities(value: object) -> Any:
    """Return a value, or a list of values, as objects of ``mlflow.entities``; other arguments as they are."""
    from mlflow import entities

    if isinstance(value, Tag):
        return entities.RunTag(value.key, value.value)  # an experiment's tag has the same attributes
    if isinstance(value, Param):
        return entities.Param(value.key, value.value)
    if isinstance(value, Metric):
        return entities.Metric(*value)
    if isinstance(value, RunStatus):
        return entities.RunStatus.from_string(value.name)
    return [as_entities(one) for one in value] if isinstance(value, list) else value
