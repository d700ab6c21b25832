"""The store's side of a worker: takes tasks, keeps their leases, ends them, and waits for a store that is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from rollforge.errors import LeaseLost, StoreUnavailable, UnfitWorker
from rollforge.generate.naming import describe
from rollforge.run.work import Event, Job
from rollforge.store.base import TaskStore
from rollforge.task import Cause, Status, TaskRecord

__all__ = ["LEASE_SECONDS", "PATIENCE_SECONDS", "Claims"]

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS = 60.0
PATIENCE_SECONDS = 600.0
_RENEW_SECONDS = 5.0
_MOST_UNFIT = 1000


class Claims:
    """The tasks that one worker holds: a ``with`` block during which a thread renews their leases.

    Parameters
    ----------
    store : TaskStore
        Where the tasks are.
    job : Job
        Which of them.
    name : str
        Of the worker.
    on_event : callable
        Told of each step.
    lease : float
        Seconds that a claim lasts without renewal.
    patience : float
        Seconds to wait for a store that cannot be used, before giving up.
    log_of : callable
        What a task logged so far.
    """

    def __init__(
        self,
        store: TaskStore,
        job: Job,
        name: str,
        on_event: Callable[[Event], None],
        lease: float = LEASE_SECONDS,
        patience: float = PATIENCE_SECONDS,
        log_of: Callable[[TaskRecord], str] = lambda task: "",
    ) -> None:
        self.store = store
        self.job = job
        self.name = name
        self._on_event = on_event
        self._lease = lease
        self._patience = patience
        self._log_of = log_of
        self._held: dict[str, TaskRecord] = {}
        self._lost: dict[str, str] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="rollforge-leases", daemon=True)
        self._seen: set[str] = set()
        self.unfit: dict[str, str] = {}
        """Tasks that this machine cannot run: id -> what it lacks. They are left to others."""

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    # -- leases --------------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        known_logs: dict[str, str] = {}
        while not self._done.wait(min(self._lease / 3, _RENEW_SECONDS)):
            with self._lock:
                held = list(self._held.values())
            for task in held:
                text = self._log_of(task)
                news = text if text and text != known_logs.get(task.id) else None
                try:
                    self.store.renew(task, self._lease, news)
                except LeaseLost as exc:
                    with self._lock:
                        if task.id in self._held:
                            self._lost[task.id] = str(exc)
                except StoreUnavailable as exc:  # it may come back before the leases run out
                    log.warning("leases could not be renewed: %s", exc)
                    break
                else:
                    known_logs[task.id] = text
            known_logs = {t.id: known_logs.get(t.id, "") for t in held}

    def lost(self) -> list[TaskRecord]:
        """Return the tasks that somebody else took over, or cancelled; they are no longer held."""
        with self._lock:
            gone = [self._held.pop(i) for i in list(self._lost) if i in self._held]
            whys, self._lost = self._lost, {}
        for task in gone:
            self._tell("lost", task, 0.0, whys[task.id])
        return gone

    # -- the life of a claim -------------------------------------------------------------------------------------------

    def query(self) -> Mapping[str, Any]:
        """Return what is claimed."""
        # part_done -> part_done: a task that stays in its status is run once, not for ever.
        left_out = set(self.unfit) if self.job.before is not self.job.after else self._seen | set(self.unfit)
        if not left_out:
            return self.job.query
        return {"$and": [dict(self.job.query), {"_id": {"$nin": sorted(left_out)}}]}

    def take(self, limit: int) -> list[TaskRecord]:
        """Claim up to `limit` tasks; their leases are renewed from now on."""
        claimed = self._patiently(
            lambda: self.store.claim(
                self.job.pool,
                worker=self.name,
                lease=self._lease,
                status=self.job.before,
                query=self.query(),
                limit=limit,
            )
        )
        with self._lock:
            self._held.update((t.id, t) for t in claimed)
        self._seen.update(t.id for t in claimed)
        return claimed

    def started(self, task: TaskRecord) -> None:
        """Tell that a task begins."""
        self._tell("started", task)

    def commit(self, task: TaskRecord, result: Any, log_text: str, seconds: float) -> None:
        """Keep the result of a task."""
        self._end(task, lambda: self._commit(task, result, log_text, seconds), seconds)

    def _commit(self, task: TaskRecord, result: Any, log_text: str, seconds: float) -> None:
        after, asked = self.job.after, [0]

        def commit() -> None:
            asked[0] += 1
            try:
                self.store.commit(task, result, after, log_text)
            except LeaseLost:
                # Asked again after a connection that broke: the first time may have got through.
                if asked[0] == 1 or not self._is_ours(task, after):
                    raise

        self._patiently(commit)
        self._tell("done", task, seconds)

    def _is_ours(self, task: TaskRecord, after: Status) -> bool:
        now = self.store.get(task.pool, task.id)
        return now.status is after and now.token == task.token

    def fail(self, task: TaskRecord, error: str, brief: str, cause: Cause, log_text: str, seconds: float) -> None:
        """Record a failed attempt."""
        log.info("task %s failed (%s): %s", task.id, cause, brief)

        def fail() -> None:
            status = self._patiently(lambda: self.store.fail(task, error, cause, log_text))
            self._tell("failed" if status is Status.FAILED else "retry", task, seconds, brief)

        self._end(task, fail, seconds)

    def give_back(self, task: TaskRecord) -> None:
        """Let a task wait as before."""
        self._end(task, lambda: self.store.give_back(task), 0.0)

    def leave(self, task: TaskRecord, why: str) -> None:
        """Leave a task that this machine cannot run to others; no attempt is counted.

        Raises
        ------
        UnfitWorker
            When there are so many of them that this worker had better end.
        """
        self.unfit[task.id] = why
        log.warning("task %s is left to other workers: %s", task.id, why)
        self._end(task, lambda: self.store.give_back(task, why=f"Worker {self.name} cannot run it: {why}"), 0.0)
        self._tell("left", task, 0.0, why)
        if len(self.unfit) >= _MOST_UNFIT:
            self.raise_if_unfit()

    def raise_if_unfit(self) -> None:
        """Raise, if there are tasks that this machine cannot run.

        Raises
        ------
        UnfitWorker
            Naming what it lacks, and the tasks.
        """
        if not self.unfit:
            return
        tasks: dict[str, list[str]] = {}
        for task_id, why in self.unfit.items():
            tasks.setdefault(why, []).append(task_id[:8])
        lacks = "\n".join(
            f"  {why} ({len(ids)} task{'s' if len(ids) != 1 else ''}: {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''})"
            for why, ids in tasks.items()
        )
        raise UnfitWorker(
            f"This machine cannot run what is left in pool {self.job.pool!r}. No attempt was counted.\n{lacks}"
        )

    def _end(self, task: TaskRecord, call: Callable[[], None], seconds: float) -> None:
        try:
            call()
        except LeaseLost as exc:
            log.warning("task %s: %s", task.id, exc)
            self._tell("lost", task, seconds, str(exc))
        finally:
            with self._lock:
                self._held.pop(task.id, None)
                self._lost.pop(task.id, None)

    def _tell(self, kind: Any, task: TaskRecord, seconds: float = 0.0, error: str = "") -> None:
        self._on_event(Event(kind, task.id, self.name, seconds, error, describe(task.definition, task.model_name)))

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call, again and again while the store cannot be used."""
        deadline, nap = time.monotonic() + self._patience, 0.1
        while True:
            try:
                return call()
            except StoreUnavailable as exc:
                if time.monotonic() + nap > deadline:
                    raise
                log.warning("waiting for the task store: %s", exc)
                time.sleep(nap)
                nap = min(nap * 2, 5.0)

    def wait(self, seconds: float) -> None:
        """Wait for something to change in the pool."""
        try:
            self.store.wait_for_change(self.job.pool, seconds)
        except StoreUnavailable as exc:
            log.warning("waiting for the task store: %s", exc)
            time.sleep(min(seconds, 1.0))

    def waiting(self) -> int:
        """Return how many tasks nobody has yet."""
        return self._patiently(lambda: self.store.count(self.job.pool, dict(self.query())).get(self.job.before, 0))

    def work_left(self) -> bool:
        """Return whether a task may still become free: one that backs off, or waits for another that makes progress."""
        return self._patiently(self._work_left)

    def _work_left(self) -> bool:
        query = dict(self.query())
        if not self.store.count(self.job.pool, query).get(self.job.before, 0):
            return False
        waiting = {"$and": [query, {"status": self.job.before.value}]}
        if any(not t.blocked for t in self.store.query(self.job.pool, waiting, results=False)):
            return True
        # All of them wait for tasks that are not ours to run: as long as anybody runs those, or can.
        moving = {"status": {"$in": [Status.RUNNING.value, Status.WAITING.value]}}
        return any(not t.blocked for t in self.store.query(self.job.pool, moving, results=False))
