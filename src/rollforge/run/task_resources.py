"""Resources that a task asks for itself: ``resources: {cpus: 4, memory: 16G, gpus: 1}`` beside ``model``.

They do not change what a task computes, so they are no part of its identity: a task that is done stays done when others
are asked for. The pool keeps them with the submission, so that a task that is submitted again, for example after it ran
out of memory, runs with the new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rollforge.errors import ConfigError, counted, nearest
from rollforge.limits import read_memory
from rollforge.run.job import Job, is_own
from rollforge.store.base import TaskStore
from rollforge.task import Definition, TaskRecord, digest

__all__ = ["RESOURCES", "Shapes", "TaskResources", "read_resources", "resources_info", "without_resources"]

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

    def over(self, default: TaskResources) -> TaskResources:
        """Return these, with those of `default` in place of what is not asked for.

        Examples
        --------
        >>> TaskResources(cpus=4).over(TaskResources(cpus=1, gpus=0.5))
        TaskResources(gpus=0.5, memory=None, cpus=4)
        """
        return TaskResources(
            default.gpus if self.gpus is None else self.gpus,
            default.memory if self.memory is None else self.memory,
            default.cpus if self.cpus is None else self.cpus,
        )

    def text(self) -> str:
        """Return what is asked for, for messages.

        Examples
        --------
        >>> TaskResources(gpus=1, memory=3 * 2**29, cpus=4).text()
        '4 cores, 1.5 GiB of memory and 1 GPU'
        """
        parts = [counted(self.cpus, "core")] if self.cpus else []
        parts += [f"{self.memory / 2**30:,.4g} GiB of memory"] if self.memory else []
        parts += [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "nothing"


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


class Shapes:
    """Shapes of the unfinished tasks of a job. Tasks that ask for the same resources have the same shape.

    Tasks that are stored later are noted when they are claimed.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    job : Job
        Which tasks they are.
    default : TaskResources
        What a task gets that it does not ask for.

    Examples
    --------
    >>> from rollforge.store.memory import MemoryStore
    >>> store = MemoryStore()
    >>> _ = store.create("p", [{"x": 1}, {"x": 2, "resources": {"gpus": 1}}])
    >>> Shapes(store, Job("p", len), TaskResources(cpus=2)).known
    [TaskResources(gpus=1, memory=None, cpus=2), TaskResources(gpus=None, memory=None, cpus=2)]
    """

    def __init__(self, store: TaskStore, job: Job, default: TaskResources = TaskResources()) -> None:
        self._store = store
        self._job = job
        self._default = default
        self._submissions: dict[str, dict[str, TaskResources]] = {}
        self._asking: dict[str, TaskResources] = {}
        """Id of each task that asks for something -> what it gets."""
        self.known: list[TaskResources] = []
        """All shapes, those that ask for most first."""
        self._read_submissions()
        stored = {"$or": [{RESOURCES: {"$exists": True}}, {f"item.{RESOURCES}": {"$exists": True}}]}
        if any(self._submissions.values()) or store.count(job.pool, stored, batch=job.batch):
            # A task that runs elsewhere, or waits for one of these, may have to run here.
            left: dict[str, object] = {"status": {"$in": ["waiting", "part_done", "running"]}}
            query = {"$and": [dict(job.query), left]} if job.query else left
            for task in store.query(job.pool, query, batch=job.batch, results=False):
                self.note(task)
        if not self.known:
            self.known = [default]

    def of(self, task: TaskRecord) -> TaskResources:
        """Return the shape of a task that was noted."""
        return self._asking.get(task.id, self._default)

    def note(self, task: TaskRecord) -> TaskResources:
        """Find out and return what a task asks for, which may have been submitted again with other resources."""
        if task.submission and task.submission not in self._submissions:
            self._read_submissions()
            self._submissions.setdefault(task.submission, {})
        asked = self._submissions.get(task.submission, {}).get(task.id)
        if asked is None:
            asked = self._asked_in(task)
        shape = asked.over(self._default)
        if shape != self._default:
            self._asking[task.id] = shape
        else:
            self._asking.pop(task.id, None)
        if shape not in self.known:
            self.known = sorted([*self.known, shape], key=lambda one: one.order, reverse=True)
        return shape

    def query(self, takes: Callable[[TaskResources], bool]) -> dict[str, object]:
        """Return the query for tasks whose shapes are taken; empty for all tasks."""
        if takes(self._default):
            others = sorted(task for task, shape in self._asking.items() if not takes(shape))
            return {"_id": {"$nin": others}} if others else {}
        return {"_id": {"$in": sorted(task for task, shape in self._asking.items() if takes(shape))}}

    def _read_submissions(self) -> None:
        for key, info in self._store.submissions(self._job.pool, sorted(self._submissions)).items():
            self._submissions[key] = _by_task(info.get(RESOURCES))

    def _asked_in(self, task: TaskRecord) -> TaskResources:
        """Return the resources in the definition of a task that was stored without a submission."""
        try:
            item = task.definition.get("item") if "place" in task.definition else None  # of a trainer without a pool
            given = item if isinstance(item, Mapping) and RESOURCES in item else task.definition
            return read_resources(given.get(RESOURCES))
        except ConfigError as exc:
            if is_own(self._job, self._store, task):
                raise
            log.warning("task %s runs as if it asked for nothing: %s", task.id[:12], exc)
            return TaskResources()


def _by_task(listed: object) -> dict[str, TaskResources]:
    """Return the resources in the information about a submission, which others may have written, by task."""
    found = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, Mapping) and isinstance(one.get("tasks"), list):
            asked = read_resources({name: one.get(name) for name in ("cpus", "memory", "gpus")}, "submission.resources")
            found.update({str(task): asked for task in one["tasks"]})
    return found
