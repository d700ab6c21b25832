"""Reading the pools of a store for pages. Nothing is changed or locked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rollforge.dashboard.outline import NO_OUTLINE, Outline, horizon_text, outline
from rollforge.dashboard.texts import masked
from rollforge.errors import ArtifactUnreadable, RollforgeError, TaskNotFound, UntrustedPickle
from rollforge.generate.naming import differing_parts
from rollforge.run.failures import FailureGroup, group_failures
from rollforge.store.base import SupportsPastAttempts, SupportsStates, TaskState, TaskStore, open_store
from rollforge.task import Attempt, Status, TaskRecord, decode

__all__ = ["Failures", "PoolReader", "PoolTask", "Snapshot"]

_AT_ONCE = 2000
"""Number of definitions read at a time."""
_ATTEMPTS = 20_000
"""Number of past attempts that are read."""
_FAILURES = 500
"""Number of failed tasks whose errors are grouped."""


@dataclass(frozen=True, slots=True)
class PoolTask:
    """A task as the grid and the timeline show it."""

    state: TaskState
    outline: Outline
    model: str
    """Name of its model; the model's class if it has none."""
    horizon: str = ""
    is_lost: bool = False
    """Whether it is running, but its lease has expired: its worker was killed or is out of reach."""

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def seconds(self) -> float | None:
        """Duration of the last attempt; None if it has not ended."""
        if self.state.started_at is None or self.state.finished_at is None:
            return None
        return max(0.0, self.state.finished_at - self.state.started_at)

    def named(self, dimension: str) -> str:
        """Return the row of the task in a grid whose rows are models, horizons, losses, seeds or classes of models."""
        found = {
            "model": self.model, "horizon": self.horizon, "loss": self.outline.loss, "seed": self.outline.seed,
            "class": self.outline.model_class,
        }  # fmt: skip
        return found[dimension]

    @property
    def title(self) -> str:
        """The model and the test segment, without secrets."""
        return ", ".join(masked(part) for part in (self.model, self.outline.window) if part) or masked(self.id[:8])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tasks of a pool at one time."""

    now: float
    """By the clock of the store, as all times of its tasks."""
    tasks: tuple[PoolTask, ...]
    past: tuple[tuple[PoolTask, Attempt], ...] = ()
    """The latest ended attempts that are in the histories of tasks, with their tasks."""

    @property
    def counts(self) -> dict[Status, int]:
        """The number of tasks by status."""
        found: dict[Status, int] = {}
        for task in self.tasks:
            found[task.status] = found.get(task.status, 0) + 1
        return found


@dataclass(frozen=True, slots=True)
class Failures:
    """The failed tasks of a pool, grouped by the line of their error that names the exception."""

    groups: tuple[FailureGroup, ...]
    grouped: int
    """Number of tasks in the groups: the latest ones."""
    total: int


class PoolReader:
    """Reads the pools of a store. Threads can share it.

    Parameters
    ----------
    uri : str
        URI of the task store, which must exist.
    store : TaskStore, optional
        The store, if it is open; by default it is opened read-only.
    """

    def __init__(self, uri: str, store: TaskStore | None = None) -> None:
        self.uri = uri
        self.store: TaskStore = store or open_store(uri, read_only=True)
        self._outlines: dict[str, dict[str, Outline]] = {}
        self._horizons: dict[tuple[str, str, str], str] = {}
        self._names: dict[tuple[str, ...], dict[str, str]] = {}
        self._lock = threading.Lock()

    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""
        return self.store.pools()

    def require(self, pool: str) -> None:
        """Raise an error if a pool does not exist.

        Raises
        ------
        TaskNotFound
            If it has no tasks.
        """
        if not self.store.count(pool):
            raise TaskNotFound(f"There is no experiment {pool!r} in this store.")

    def counts(self, pool: str) -> dict[Status, int]:
        """Return the number of tasks by status, without reading a task."""
        return self.store.count(pool)

    def mark(self, pool: str) -> str:
        """Return a text that changes when the number of tasks of a status, or what a worker runs, changes."""
        counts = sorted((status.value, n) for status, n in self.store.count(pool).items())
        running = sorted((name, work.running) for name, work in self.store.workers(pool, None).items())
        return repr((counts, running, self.store.paused(pool)))

    def now(self) -> float:
        """Return the time of the store's clock."""
        return self.store.now() if isinstance(self.store, SupportsStates) else time.time()

    def states(self, pool: str) -> tuple[float, list[TaskState]]:
        """Return the time of the store and the state of each task, oldest first."""
        if isinstance(self.store, SupportsStates):
            return self.now(), self.store.states(pool)
        return self.now(), [TaskState.of(task) for task in self.store.query(pool, {}, results=False)]

    def snapshot(self, pool: str) -> Snapshot:
        """Return all tasks of a pool. Each definition is read only once."""
        now, states = self.states(pool)
        with self._lock:
            known = self._outlines.setdefault(pool, {})
            missing = {state.id: bool(state.model_name) for state in states if state.id not in known}
            for ids in _batches(list(missing)):
                texts = self._texts(pool, ids)
                known.update((task_id, outline(text, named=missing[task_id])) for task_id, text in texts.items())
            found = [(state, known.get(state.id, NO_OUTLINE)) for state in states]
            names = self._model_names(pool, found)
            tasks = tuple(
                PoolTask(
                    state, its, state.model_name or names.get(its.variant, its.model_class),
                    self._horizon(pool, state, its), _is_lost(state, now),
                )
                for state, its in found
            )  # fmt: skip
        return Snapshot(now, tasks, self._past(pool, tasks))

    def _past(self, pool: str, tasks: Sequence[PoolTask]) -> tuple[tuple[PoolTask, Attempt], ...]:
        if not isinstance(self.store, SupportsPastAttempts):
            return ()
        found = self.store.past_attempts(pool, _ATTEMPTS)
        by_id = {task.id: task for task in tasks} if found else {}
        return tuple((by_id[task_id], attempt) for task_id, attempt in found if task_id in by_id)

    def _texts(self, pool: str, ids: Sequence[str]) -> dict[str, str]:
        if isinstance(self.store, SupportsStates):
            return self.store.texts(pool, ids)
        return {task.id: task.text for task in self.store.query(pool, {"_id": {"$in": list(ids)}}, results=False)}

    def _model_names(self, pool: str, found: Sequence[tuple[TaskState, Outline]]) -> dict[str, str]:
        """Return the names of the variants of tasks without a name: what distinguishes their definitions."""
        examples: dict[str, str] = {}
        classes: dict[str, str] = {}
        for state, its in found:
            if not state.model_name and its.variant and its.variant not in examples:
                examples[its.variant], classes[its.variant] = state.id, its.model_class
        if len(examples) < 2:
            return classes
        key = (pool, *examples)
        if key not in self._names:
            texts = self._texts(pool, list(examples.values()))
            try:
                parts = differing_parts([_timed_apart(decode(texts[task_id])) for task_id in examples.values()])
            except (
                RollforgeError,
                KeyError,
                RecursionError,
            ):  # a damaged definition: the classes and hashes have to do
                parts = [f"{classes[variant]} {variant[:6]}".strip() for variant in examples]
            self._names = {key: dict(zip(examples, parts, strict=True))}
        return {variant: name or classes[variant] for variant, name in self._names[key].items()}

    def _horizon(self, pool: str, state: TaskState, its: Outline) -> str:
        key = (pool, state.model_name, its.variant)
        if key not in self._horizons:
            self._horizons[key] = horizon_text(self._texts(pool, [state.id]).get(state.id, ""))
        return self._horizons[key]

    def failures(self, pool: str) -> Failures:
        """Return the failed tasks, grouped by their error; of very many, the latest."""
        failed = {"status": Status.FAILED.value}
        errors = {
            task.id: task.error or (task.cause.value if task.cause else "")
            for task in self.store.query(pool, failed, results=False, latest=True, limit=_FAILURES)
        }
        return Failures(group_failures(errors), len(errors), self.store.count(pool, failed).get(Status.FAILED, 0))

    def running(self, pool: str, limit: int) -> list[TaskRecord]:
        """Return the running tasks with their logs, at most `limit`."""
        return list(self.store.query(pool, {"status": Status.RUNNING.value}, results=False, limit=limit))

    def task(self, pool: str, task_id: str) -> TaskRecord:
        """Return a task with its result; without it, if its result is damaged.

        Raises
        ------
        TaskNotFound
            If there is none.
        """
        try:
            return self.store.get(pool, task_id)
        except (ArtifactUnreadable, UntrustedPickle):
            for task in self.store.query(pool, {"_id": task_id}, results=False):
                return task
            raise

    def close(self) -> None:
        """Close the connections of this thread."""
        self.store.close()


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[i : i + _AT_ONCE] for i in range(0, len(ids), _AT_ONCE))


def _is_lost(state: TaskState, now: float) -> bool:
    return state.status is Status.RUNNING and state.lease_until is not None and state.lease_until <= now


def _timed_apart(definition: Mapping[str, object]) -> object:
    """Return what distinguishes models: the definition without its days."""
    return {key: _timeless(definition.get(key)) for key in ("model", "reweighter", "dataset", "record")}


def _timeless(node: object) -> object:
    if isinstance(node, Mapping):
        return {k: _timeless(v) for k, v in node.items() if k != "segments" and not str(k).endswith("_time")}
    return [_timeless(v) for v in node] if isinstance(node, (list, tuple)) else node
