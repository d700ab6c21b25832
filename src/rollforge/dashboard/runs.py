"""The metrics of an experiment's runs, read in the background: a tracking store can take seconds to open."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rollforge.confidential import mask_secrets
from rollforge.errors import RollforgeError
from rollforge.run.execute import TM_ID, TOKEN_TAG
from rollforge.run.submission import submissions_of
from rollforge.store.base import TaskStore
from rollforge.task import Attempt, TaskRecord
from rollforge.track.base import JOINED_TAG, Recorder
from rollforge.track.tracker import RunData, RunInfo, RunQuery, Tracker, local_path, open_tracker

__all__ = ["PoolRuns", "RunReader"]

log = logging.getLogger(__name__)

_REST = 5.0
"""Seconds between two readings of an experiment; reading a large one, which takes longer, pauses as long as that took."""
_CLOCKS = 60.0
"""Seconds by which the clocks of the task store and of a worker may differ."""
_FIRST = 0.4
"""Seconds for which a page waits for the first reading."""


@dataclass(frozen=True, slots=True)
class PoolRuns:
    """The runs of a pool."""

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Task id -> metric -> value, of the latest finished run of each task."""
    joined: Mapping[str, float] = field(default_factory=dict)
    """The metrics of the joined result, if ``rollforge run`` or ``collect`` saved one."""
    problem: str = ""
    """Why there are none."""
    known: bool = True
    """False while they are read for the first time."""

    @property
    def names(self) -> list[str]:
        """The names of the metrics that at least one task has: IC and Rank IC first, durations last."""
        first = ("IC", "Rank IC", "ICIR", "Rank ICIR")
        found = {name for values in self.metrics.values() for name in values}
        return sorted(
            found,
            key=lambda name: (name.endswith("_seconds"), first.index(name) if name in first else len(first), name),
        )

    def of(self, name: str) -> dict[str, float]:
        """Return one metric of every task that has it."""
        return {
            task_id: values[name]
            for task_id, values in self.metrics.items()
            if name in values and math.isfinite(values[name])
        }


@dataclass(slots=True)
class _Entry:
    runs: PoolRuns = field(default_factory=lambda: PoolRuns(known=False))
    read_at: float = -math.inf
    took: float = 0.0
    mark: object = None
    thread: threading.Thread | None = None


class RunReader:
    """Reads the runs of experiments. Threads can share it.

    Parameters
    ----------
    store : TaskStore
        The task store, whose submissions name the tracking store of their runs.
    tracking_uri : str
        The tracking store.
    given : bool
        Whether the user chose it. Otherwise the one that the tasks were submitted with is read, if it is on this machine.
    """

    def __init__(self, store: TaskStore, tracking_uri: str, *, given: bool) -> None:
        self._store = store
        self._tracking_uri = tracking_uri
        self._given = given
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def tracking_uri(self, pool: str) -> str:
        """Return the tracking store of an experiment."""
        if self._given:
            return self._tracking_uri
        submitted = [info.tracking_uri for info in submissions_of(self._store, pool).values() if info.tracking_uri]
        for uri in reversed(submitted):
            place = local_path(uri)  # a server that others named in the pool is not called
            if place is not None and place.exists():
                return uri
        return self._tracking_uri

    def recorder(self, pool: str, task_id: str) -> Recorder | None:
        """Return the recorder of the latest finished run of a task; None if there is none."""
        tracker, experiment = self._experiment(pool)
        if tracker is None or experiment is None:
            return None
        query = RunQuery(status=(Recorder.STATUS_FI,), tags={TM_ID: task_id}, limit=1)
        found = tracker.search([experiment], query)
        return Recorder(tracker, found[0].info) if found else None

    def of_attempts(self, pool: str, task: TaskRecord) -> dict[int, str]:
        """Return the ids of the runs that the kept attempts at a task recorded, by the number of the attempt."""
        attempts = task.ended_attempts
        tracker, experiment = self._experiment(pool) if attempts else (None, None)
        if tracker is None or experiment is None:
            return {}
        runs = tracker.search([experiment], RunQuery(tags={TM_ID: task.id}))
        return {
            one.number: run.info.id for one in attempts for run in reversed(runs)
            if run.tags.get(TOKEN_TAG) == str(one.token) and _overlap(run.info, one)
        }  # fmt: skip

    def _experiment(self, pool: str) -> tuple[Tracker | None, str | None]:
        """Return the tracking store of a pool, and the id of its experiment there; None if there is none."""
        uri = self.tracking_uri(pool)
        place = local_path(uri)
        if place is not None and not place.exists():  # opening it would create it
            return None, None
        tracker = open_tracker(uri)
        found = tracker.find_experiment(name=pool)
        return tracker, None if found is None else found[0]

    def of(self, pool: str, mark: object, *, wait: float = _FIRST) -> PoolRuns:
        """Return the runs of a pool as last read, and read them again in the background if `mark` has changed.

        Parameters
        ----------
        pool : str
            The experiment.
        mark : object
            What changes with the pool.
        wait : float
            Seconds to wait for the first reading.
        """
        with self._lock:
            entry = self._entries.setdefault(pool, _Entry())
            rested = time.monotonic() - entry.read_at >= max(_REST, entry.took)
            if entry.thread is None and entry.mark != mark and rested:
                entry.thread = threading.Thread(target=self._read, args=(pool, entry, mark), name="runs", daemon=True)
                entry.thread.start()
            thread, first = entry.thread, not entry.runs.known
        if thread is not None and first:
            thread.join(wait)
        return entry.runs

    def _read(self, pool: str, entry: _Entry, mark: object) -> None:
        began = time.monotonic()
        try:
            found = _runs(self.tracking_uri(pool), pool)
        except RollforgeError as exc:
            found = PoolRuns(problem=mask_secrets(str(exc)))
        except Exception as exc:  # noqa: BLE001 - a library of a tracking store; the page shows it
            log.warning("the runs of %s: %s: %s", pool, type(exc).__name__, mask_secrets(str(exc)))
            found = PoolRuns(problem=mask_secrets(f"{type(exc).__name__}: {exc}"))
        with self._lock:
            entry.runs, entry.mark, entry.thread = found, mark, None
            entry.read_at = time.monotonic()
            entry.took = entry.read_at - began


def _overlap(run: RunInfo, attempt: Attempt) -> bool:
    """Return whether a run was recorded during an attempt: tokens of two stores may be equal, if tasks were copied."""
    if attempt.started_at is None:
        return False
    ended_at = math.inf if run.end_time is None else run.end_time
    return attempt.started_at - _CLOCKS <= ended_at and run.start_time <= attempt.ended_at + _CLOCKS


def _runs(tracking_uri: str, pool: str) -> PoolRuns:
    place = local_path(tracking_uri)
    if place is not None and not place.exists():  # opening it would create it
        return PoolRuns(problem=f"There is no tracking store at {place}. Give another one with --tracking.")
    tracker = open_tracker(tracking_uri)
    experiment = tracker.find_experiment(name=pool)
    if experiment is None:
        return PoolRuns(problem=f"The tracking store {mask_secrets(tracking_uri)} has no experiment of this name.")
    latest: dict[str, RunData] = {}
    joined: dict[str, float] = {}
    for run in tracker.search([experiment[0]], RunQuery(status=(Recorder.STATUS_FI,))):  # the latest come first
        if TM_ID in run.tags:
            latest.setdefault(run.tags[TM_ID], run)
        elif run.tags.get(JOINED_TAG) == pool:
            joined = joined or {name: value for name, value in run.metrics.items() if math.isfinite(value)}
    return PoolRuns({task_id: run.metrics for task_id, run in latest.items()}, joined)
