"""A store in memory: complete, short, the specification in code. Other stores behave like this one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollforge.errors import LeaseLost, TaskNotFound
from rollforge.store.base import Clock, Created, Query, backoff, refuse_running
from rollforge.store.codec import decode_result, encode_result
from rollforge.store.query import Node, matches, parse_query
from rollforge.task import Status, TaskRecord, decode, digest, encode, to_plain

__all__ = ["MemoryStore"]


class MemoryStore:
    """Tasks of this process, gone with it. Safe between threads.

    Parameters
    ----------
    uri : str
        ``memory://NAME``.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, uri: str = "memory://", *, clock: Clock = time.time) -> None:
        self.uri = uri
        self._clock = clock
        self._lock = threading.RLock()
        self._pools: dict[str, dict[str, TaskRecord]] = {}
        self._token = 0

    def create(
        self, pool: str, definitions: Sequence[Mapping[str, Any]], *, priority: int = 0, max_attempts: int = 3
    ) -> list[Created]:
        encoded = [(digest(d), encode(d)) for d in definitions]  # all of them, before anything is stored
        with self._lock:
            tasks = self._pools.setdefault(pool, {})
            made = []
            for task_id, text in encoded:
                made.append(Created(task_id, task_id not in tasks))
                if task_id not in tasks:
                    tasks[task_id] = TaskRecord(
                        id=task_id,
                        pool=pool,
                        definition=decode(text),
                        priority=priority,
                        max_attempts=max_attempts,
                        created_at=self._clock(),
                    )
            return made

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
    ) -> list[TaskRecord]:
        node, now = parse_query(query), self._clock()
        with self._lock:
            self.expire(pool)
            self._token += 1  # one counter for the whole store: a task removed and created again knows no old claims
            free = [t for t in self._matching(pool, node) if t.status is status and t.available_at <= now]
            free.sort(key=lambda t: -t.priority)  # stable: among equals the oldest first
            return [
                self._put(
                    replace(
                        task,
                        status=Status.RUNNING,
                        stage_from=status,
                        token=self._token,
                        worker=worker,
                        lease_until=now + lease,
                        started_at=now,
                        finished_at=None,
                    )
                )
                for task in free[:limit]
            ]

    def expire(self, pool: str) -> None:
        now = self._clock()
        for task in list(self._pools.get(pool, {}).values()):
            if task.status is Status.RUNNING and task.lease_until is not None and task.lease_until <= now:
                attempt = task.attempt + 1
                status = Status.FAILED if attempt >= task.max_attempts else task.stage_from
                error = f"The lease of worker {task.worker} ran out: it was killed, or hung."
                self._put(replace(task, status=status, attempt=attempt, error=error, lease_until=None, finished_at=now))

    def _put(self, task: TaskRecord) -> TaskRecord:
        self._pools[task.pool][task.id] = task
        return task

    def _held(self, claim: TaskRecord) -> TaskRecord:
        task = self._pools.get(claim.pool, {}).get(claim.id)
        if task is None or task.status is not Status.RUNNING or task.token != claim.token:
            raise LeaseLost(f"Task {claim.id} is no longer held by {claim.worker}: its claim {claim.token} is stale.")
        return task

    def renew(self, task: TaskRecord, lease: float) -> None:
        with self._lock:
            self._put(replace(self._held(task), lease_until=self._clock() + lease))

    def commit(self, task: TaskRecord, result: Any, status: Status = Status.DONE) -> None:
        kept = decode_result(*encode_result(result))
        with self._lock:
            held = self._held(task)
            self._put(
                replace(
                    held,
                    status=status,
                    result=kept,
                    error=None,
                    attempt=0,
                    lease_until=None,
                    available_at=0.0,
                    finished_at=self._clock(),
                )
            )

    def give_back(self, task: TaskRecord, status: Status | None = None) -> None:
        with self._lock:
            held = self._held(task)
            self._put(replace(held, status=status or held.stage_from, lease_until=None))

    def fail(self, task: TaskRecord, error: str) -> Status:
        with self._lock:
            held, now = self._held(task), self._clock()
            attempt = held.attempt + 1
            last = attempt >= held.max_attempts
            status = Status.FAILED if last else held.stage_from
            wait = 0.0 if last else backoff(attempt) * random.uniform(0.5, 1.0)
            self._put(
                replace(
                    held,
                    status=status,
                    attempt=attempt,
                    error=error,
                    lease_until=None,
                    available_at=now + wait,
                    finished_at=now,
                )
            )
            return status

    def release_worker(self, pool: str, worker: str, error: str | None) -> list[TaskRecord]:
        with self._lock:
            held = [t for t in self._pools.get(pool, {}).values() if t.status is Status.RUNNING and t.worker == worker]
            for task in held:
                if error is None:
                    self.give_back(task)
                else:
                    self.fail(task, error)
            return [self._pools[pool][t.id] for t in held]

    def get(self, pool: str, task_id: str) -> TaskRecord:
        with self._lock:
            task = self._pools.get(pool, {}).get(task_id)
        if task is None:
            raise TaskNotFound(f"There is no task {task_id!r} in pool {pool!r}.")
        return task

    def query(self, pool: str, query: Query | None = None, *, results: bool = True) -> Iterator[TaskRecord]:
        node = parse_query(query)
        with self._lock:
            found = self._matching(pool, node)
        yield from found if results else (replace(t, result=None) for t in found)

    def _matching(self, pool: str, node: Node) -> list[TaskRecord]:
        return [t for t in self._pools.get(pool, {}).values() if matches(node, _document(t))]

    def count(self, pool: str, query: Query | None = None) -> dict[Status, int]:
        counts: dict[Status, int] = {}
        for task in self.query(pool, query, results=False):
            counts[task.status] = counts.get(task.status, 0) + 1
        return counts

    def remove(self, pool: str, query: Query | None = None) -> int:
        node = parse_query(query)
        with self._lock:
            gone = self._matching(pool, node)
            for task in gone:
                del self._pools[pool][task.id]
        return len(gone)

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        return self._change(pool, query, lambda t: _with_status(t, status))

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        return self._change(pool, query, lambda t: replace(t, priority=priority))

    def retry(self, pool: str, query: Query | None = None) -> int:
        failed = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
        return self._change(pool, failed, lambda t: _with_status(t, t.stage_from))

    def _change(self, pool: str, query: Query | None, change: Any) -> int:
        node = parse_query(query)
        with self._lock:
            found = self._matching(pool, node)
            for task in found:
                self._put(change(task))
        return len(found)

    def replace(self, pool: str, task_id: str, definition: Mapping[str, Any]) -> str:
        new_id, kept = digest(definition), decode(encode(definition))
        with self._lock:
            old = self.get(pool, task_id)
            fresh = TaskRecord(
                id=new_id,
                pool=pool,
                definition=kept,
                priority=old.priority,
                max_attempts=old.max_attempts,
                created_at=self._clock(),
                token=old.token + 1,
            )
            tasks = self._pools[pool]
            if new_id != task_id and new_id in tasks:
                del tasks[task_id]
                return new_id
            self._pools[pool] = {
                (new_id if k == task_id else k): (fresh if k == task_id else t) for k, t in tasks.items()
            }
        return new_id

    def pools(self) -> list[str]:
        with self._lock:
            return sorted(name for name, tasks in self._pools.items() if tasks)


def _with_status(task: TaskRecord, status: Status) -> TaskRecord:
    """Put by hand into a status: old claims are stale, attempts start anew."""
    return replace(
        task,
        status=status,
        token=task.token + 1,
        attempt=0,
        lease_until=None,
        available_at=0.0,
        stage_from=status if status in (Status.WAITING, Status.PART_DONE) else task.stage_from,
    )


def _document(task: TaskRecord) -> dict[str, Any]:
    return {
        "id": task.id,
        "status": task.status.value,
        "priority": task.priority,
        "attempt": task.attempt,
        "worker": task.worker,
        "def": to_plain(task.definition),
    }
