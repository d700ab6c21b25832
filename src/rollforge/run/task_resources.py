"""Resources that a task asks for itself: ``resources: {cpus: 4, memory: 16G, gpus: 1}`` beside ``model``.

They do not change what a task computes, so they are no part of its identity: a task that is done stays done when others
are asked for. The pool keeps them with the submission, so that a task that is submitted again, for example after it ran
out of memory, runs with the new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rollforge.errors import ConfigError, counted, nearest
from rollforge.limits import read_memory
from rollforge.machine import memory_size
from rollforge.run.job import Job
from rollforge.store.base import TaskStore
from rollforge.task import Definition, TaskRecord, digest

__all__ = ["RESOURCES", "TaskResources", "read_resources", "resources_info", "run_by_resources", "without_resources"]

log = logging.getLogger(__name__)

RESOURCES = "resources"
"""Key of a task, and of the information about a submission."""


@dataclass(frozen=True, slots=True)
class TaskResources:
    """Resources that a task asks for; None: not asked for."""

    gpus: float | None = None
    memory: int | None = None
    """Bytes."""
    cpus: int | None = None

    @property
    def order(self) -> tuple[float, int, int]:
        """Sorts by what is scarce: GPUs, then memory, then cores."""
        return self.gpus or 0, self.memory or 0, self.cpus or 0

    def processes(self, jobs: int, threads: int) -> int:
        """Return how many tasks run side by side in `jobs` processes of this machine, and log what it does not have.

        Examples
        --------
        >>> TaskResources(cpus=4).processes(jobs=8, threads=16)
        4
        """
        size = memory_size()
        if (self.cpus or 1) > threads:
            log.warning(
                "tasks ask for %s, but have %d here: each runs alone, with these",
                counted(self.cpus or 1, "core"),
                threads,
            )
        if self.memory is not None and size is not None and self.memory > size:
            log.warning(
                "tasks ask for %.4g GiB of memory, but this machine has %.4g: each runs alone",
                self.memory / 2**30,
                size / 2**30,
            )
        fitting = [threads // self.cpus if self.cpus else jobs]
        fitting += [size // self.memory] if size is not None and self.memory else []
        return max(1, min(jobs, *fitting))


def read_resources(given: object, path: str = f"task.{RESOURCES}") -> TaskResources:
    """Return the resources in a task; none are asked for if `given` is None.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value is no such amount.

    Examples
    --------
    >>> read_resources({"cpus": 4, "memory": "1M"})
    TaskResources(gpus=None, memory=1048576, cpus=4)
    """
    if given is None:
        return TaskResources()
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"must be a mapping such as {{cpus: 4, memory: 16G, gpus: 1}}, found {given!r:.60}.", path=path
        )
    for key in given:
        if key not in ("cpus", "memory", "gpus"):
            hint = nearest(str(key), ("cpus", "memory", "gpus"))
            raise ConfigError(f"unknown key.{hint} Allowed: cpus, memory, gpus.", path=f"{path}.{key}")
    cpus, memory, gpus = given.get("cpus"), given.get("memory"), given.get("gpus")
    memory = None if memory is None else read_memory(memory, path=f"{path}.memory")
    if cpus is not None and (not isinstance(cpus, int) or isinstance(cpus, bool) or cpus < 1):
        raise ConfigError(f"must be above 0, found {cpus!r}.", path=f"{path}.cpus")
    if gpus is not None and (
        not isinstance(gpus, (int, float))
        or isinstance(gpus, bool)
        or not gpus >= 0
        or (gpus > 1 and gpus != int(gpus))
    ):
        raise ConfigError(f"must be a fraction of a GPU or a whole number, found {gpus!r}.", path=f"{path}.gpus")
    return TaskResources(gpus, memory, cpus)


def without_resources(task: Mapping[str, object]) -> Definition:
    """Return the definition of a task without the resources that it asks for, which is what identifies it.

    Examples
    --------
    >>> without_resources({"model": {}, "resources": {"gpus": 1}})
    {'model': {}}
    """
    return {key: value for key, value in task.items() if key != RESOURCES}


def resources_info(tasks: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return what the information about a submission contains about resources; nothing if no task asks for any."""
    found: dict[TaskResources, list[str]] = {}
    for task in tasks:
        asked = read_resources(task.get(RESOURCES))
        if asked != TaskResources():
            found.setdefault(asked, []).append(digest(without_resources(task)))
    listed = [
        {"cpus": asked.cpus, "memory": asked.memory, "gpus": asked.gpus, "tasks": sorted(ids)}
        for asked, ids in found.items()
    ]
    return {RESOURCES: listed} if listed else {}


def run_by_resources(store: TaskStore, job: Job, run: Callable[[Job, TaskResources], None]) -> None:
    """Call `run` once for all tasks that ask for the same resources, those that ask for most first.

    Tasks that depend on others are run together with them, with the most that any of them asks for.
    """
    submissions = store.submissions(job.pool)
    stored = {"$or": [{RESOURCES: {"$exists": True}}, {f"item.{RESOURCES}": {"$exists": True}}]}
    if not any(RESOURCES in info for info in submissions.values()) and not store.count(
        job.pool, stored, batch=job.batch
    ):
        run(job, TaskResources())
        return
    tasks = store.query(job.pool, {"status": job.before.value}, batch=job.batch, results=False)
    groups = _grouped(list(tasks), submissions)
    if len(groups) < 2:
        run(job, next(iter(groups), TaskResources()))
        return
    for asked in sorted(groups, key=lambda one: one.order, reverse=True):
        chosen: dict[str, object] = {"_id": {"$in": groups[asked]}}
        run(replace(job, query={"$and": [dict(job.query), chosen]} if job.query else chosen), asked)


def _grouped(
    tasks: Sequence[TaskRecord], submissions: Mapping[str, Mapping[str, object]]
) -> dict[TaskResources, list[str]]:
    by_submission = {key: _by_task(info.get(RESOURCES)) for key, info in submissions.items()}
    groups: dict[TaskResources, list[str]] = {}
    for task in tasks:
        asked = by_submission.get(task.submission, {}).get(task.id)
        groups.setdefault(_asked_in(task) if asked is None else asked, []).append(task.id)
    if len(groups) > 1 and any(task.depends_on for task in tasks):
        most = TaskResources(*(max((v for v in values if v is not None), default=None) for values in zip(
            *((one.gpus, one.memory, one.cpus) for one in groups), strict=True
        )))  # fmt: skip
        return {most: [task.id for task in tasks]}
    return groups


def _by_task(listed: object) -> dict[str, TaskResources]:
    """Return the resources in the information about a submission, which others may have written, by task."""
    found = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, Mapping) and isinstance(one.get("tasks"), list):
            asked = read_resources({name: one.get(name) for name in ("cpus", "memory", "gpus")}, "submission.resources")
            found.update({str(task): asked for task in one["tasks"]})
    return found


def _asked_in(task: TaskRecord) -> TaskResources:
    """Return the resources in the definition of a task that was stored without a submission."""
    item = task.definition.get("item") if "place" in task.definition else None  # of a trainer without a pool
    given = item if isinstance(item, Mapping) else task.definition
    return read_resources(given.get(RESOURCES))
