"""A task store in memory. It is the executable specification: all other stores behave like this one."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rollforge import transitions
from rollforge.errors import LeaseLost
from rollforge.machine import machine_of
from rollforge.store.base import (
    AVOID_SECONDS,
    SUBMISSION_SECONDS,
    Clock,
    CreatedTask,
    Query,
    Work,
    checked_attempts,
    checked_model_names,
    checked_priority,
    ending_of,
    refuse_cycles,
    refuse_running,
    repeated_answer,
    require_dependencies,
    stale_message,
    storable_text,
    task_not_found,
    trim_log,
    wall_clock,
)
from rollforge.store.codec import decode_result, encode_result, tasks_of_info
from rollforge.store.memory_pool import ALL, MemoryPool
from rollforge.store.query import COLUMNS, And, Node, by_id, matches, only_about, parse_query
from rollforge.task import Attempt, Cause, Definition, Status, TaskRecord, decode, digest, encode, searchable, to_plain

__all__ = ["MemoryStore"]

_UNFINISHED = (Status.WAITING, Status.RUNNING, Status.PART_DONE)


class MemoryStore:
    """Tasks in the memory of this process. Thread-safe.

    Parameters
    ----------
    uri : str
        ``memory://NAME``.
    clock : callable, optional
        Returns seconds since the epoch.

    Examples
    --------
    >>> store = MemoryStore()
    >>> _ = store.create("p", [{"x": 1}])
    >>> (task,) = store.claim("p", worker="me", lease=60)
    >>> store.commit(task, {"ic": 0.05})
    >>> store.get("p", task.id).result
    {'ic': 0.05}
    """

    def __init__(self, uri: str = "memory://", *, clock: Clock | None = None) -> None:
        self.uri = uri
        self._clock = wall_clock(clock)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._changes: dict[str, int] = {}
        self._seen = threading.local()
        self._pools: dict[str, MemoryPool] = {}
        self._paused: set[str] = set()
        self._submissions: dict[str, dict[str, tuple[float, str]]] = {}
        self._token = 0

    # -- creating ------------------------------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        definitions: Sequence[Mapping[str, object]],
        *,
        priority: int = 0,
        max_attempts: int = 3,
        depends_on: Sequence[str] = (),
        model_names: Sequence[str] = (),
        submission: str = "",
        batch: str = "",
        creation: str = "",
    ) -> list[CreatedTask]:
        names = checked_model_names(definitions, model_names)
        priority, max_attempts = checked_priority(priority), checked_attempts(max_attempts)
        encoded = [(digest(d), encode(d)) for d in definitions]  # all of them, before anything is stored
        dependencies = tuple(sorted(set(depends_on)))
        with self._lock:
            kept = self._pools.setdefault(pool, MemoryPool())
            tasks, created = kept.tasks, kept.creations
            self._check_dependencies(pool, {task_id for task_id, _ in encoded}, dependencies)
            before = {i for i, _ in encoded if creation and created.get(i) == creation}
            made = []
            for (task_id, text), name in zip(encoded, names, strict=True):
                known = tasks.get(task_id)
                made.append(CreatedTask(task_id, known is None))
                if known is None:
                    task = TaskRecord(
                        id=task_id, pool=pool, definition=decode(text), text=text, priority=priority, max_attempts=max_attempts,
                        created_at=self._clock(), depends_on=dependencies, model_name=name, submission=submission,
                    )  # fmt: skip
                    self._put(task)
                    created[task_id] = creation
                    continue
                used = submission if submission and known.status is not Status.DONE else known.submission
                if (name or known.model_name, used) != (known.model_name, known.submission):
                    self._put(replace(known, model_name=name or known.model_name, submission=used))
            if dependencies:
                self._propagate(pool, [c.id for c in made if c.new])
            if batch:
                self.add_to_batch(pool, batch, [c.id for c in made])
            return repeated_answer(made, before)

    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        with self._lock:
            if pool in self._pools:
                self._pools[pool].add_to_batch(batch, ids)

    def _check_dependencies(self, pool: str, ids: set[str], dependencies: Sequence[str]) -> None:
        kept, wanted = self._pools[pool], set(dependencies)
        require_dependencies(pool, wanted - kept.tasks.keys() - ids)
        if kept.dependents(ids) or ids & wanted:  # tasks on which nothing depends cannot be part of a cycle
            refuse_cycles(
                ids, dependencies, lambda some: {d for t in some if t in kept.tasks for d in kept.tasks[t].depends_on}
            )

    def keep_submission(self, pool: str, info: Mapping[str, object]) -> str:
        key = digest(info)
        with self._lock:
            kept = self._submissions.setdefault(pool, {})
            kept.pop(key, None)
            kept[key] = (self._clock(), encode(info))
        return key

    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, Definition]:
        with self._lock:
            return {k: decode(text) for k, (_, text) in self._submissions.get(pool, {}).items() if k not in known}

    def open_submissions(self, pool: str) -> set[str]:
        with self._lock:
            return {t.submission for t in self._tasks(pool) if t.status in _UNFINISHED}

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        with self._lock:
            tasks = self._pools.setdefault(pool, MemoryPool()).tasks
            new = [r for r in records if r.id not in tasks]
            for record in new:
                status = record.stage_from if record.status is Status.RUNNING else record.status
                self._put(replace(record, pool=pool, status=status, token=0, lease_until=None, available_at=0.0))
            self._propagate(pool, [r.id for r in new])
            return len(new)

    def _put(self, task: TaskRecord) -> TaskRecord:
        self._pools[task.pool].put(task)
        self._notify(task.pool)
        return task

    def _notify(self, pool: str) -> None:
        self._changes[pool] = self._changes.get(pool, 0) + 1
        self._changed.notify_all()

    def _propagate(self, pool: str, changed: Iterable[str]) -> None:
        """Update changed tasks and those that depend on them, which can be claimed, wait or fail, and their dependents."""
        kept, changed = self._pools[pool], set(changed)
        affected = (changed & kept.unmet_dependencies.keys()) | kept.dependents(changed)
        while affected:
            failed = set()
            for task in kept.in_order(affected):
                blocked, failed_dependencies = bool(kept.unmet_dependencies[task.id]), kept.broken_dependencies[task.id]
                if blocked is not task.blocked:
                    task = self._put(replace(task, blocked=blocked))
                if failed_dependencies and task.status is Status.WAITING:
                    failed.add(task.id)
                    self._put(transitions.dependency_failed(task, min(failed_dependencies), now=self._clock()))
            affected = kept.dependents(failed)

    # -- working -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        pool: str,
        *,
        worker: str,
        lease: float,
        status: Status = Status.WAITING,
        query: Query | None = None,
        limit: int = 1,
        avoid: str = "",
        batch: str = "",
        claim: str = "",
    ) -> list[TaskRecord]:
        node = parse_query(query)
        with self._lock:
            again = self._given(pool, claim) if claim else []
            if again:
                return [_given_out(t, status) for t in again]
            self.expire(pool)
            if pool in self._paused:
                return []
            now = self._clock()
            self._token += 1  # one counter per store, so that old claims on a recreated task are stale

            places = self._pools[pool].free(status, batch) if pool in self._pools else iter(())
            free = _matching(node, (t for t in places if t.available_at <= now and not _avoided(t, avoid, now)))
            running = [
                transitions.claimed(task, worker=worker, token=self._token, lease=lease, now=now)
                for task in itertools.islice(free, limit)
            ]
            claimed = [self._put(replace(task, extra={"claim": claim})) for task in running]
            return [_given_out(t, status) for t in claimed]

    def _given(self, pool: str, claim: str) -> list[TaskRecord]:
        """Return the tasks that an earlier call with the same claim identity was given."""
        return sorted((t for t in self._running(pool) if t.extra.get("claim") == claim), key=lambda t: -t.priority)

    def _running(self, pool: str) -> list[TaskRecord]:
        kept = self._pools.get(pool)
        return kept.in_order(kept.held) if kept else []

    def expire(self, pool: str) -> None:
        with self._lock:
            now = self._clock()
            for task in self._running(pool):
                if task.lease_until is not None and task.lease_until <= now:
                    self._put(transitions.expired(task, now=now))
                    self._propagate(pool, [task.id])

    def _task(self, pool: str, task_id: str) -> TaskRecord | None:
        return self._pools[pool].tasks.get(task_id) if pool in self._pools else None

    def _held(self, claim: TaskRecord) -> TaskRecord:
        task = self._task(claim.pool, claim.id)
        if task is None or task.status is not Status.RUNNING or task.token != claim.token:
            raise LeaseLost(stale_message(claim))
        return task

    def _ended_before(self, claim: TaskRecord, ending: str) -> Status | None:
        """Return the status of a task that this claim has ended with the same call, whose answer may have been lost."""
        task = self._task(claim.pool, claim.id)
        same = task is not None and task.token == claim.token and task.extra.get("ending") == ending
        return task.status if task is not None and same else None

    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        with self._lock:
            held = self._held(task)
            self._put(replace(held, lease_until=self._clock() + lease, log=held.log if log is None else trim_log(log)))

    def commit(self, task: TaskRecord, result: object, status: Status = Status.DONE, log: str = "") -> None:
        kept = decode_result(encode_result(result))
        with self._lock:
            ending = ending_of("commit", status)
            if self._ended_before(task, ending):
                return
            done = transitions.committed(self._held(task), kept, status, log=trim_log(log), now=self._clock())
            self._put(replace(done, extra={"ending": ending}))
            if status is Status.DONE:
                self._propagate(task.pool, [task.id])

    def give_back(self, task: TaskRecord, status: Status | None = None, *, reason: str | None = None) -> None:
        with self._lock:
            ending = ending_of("give back", status)
            if self._ended_before(task, ending):
                return
            held = self._held(task)
            kept = None if reason is None else storable_text(reason)
            given = transitions.given_back(held, status, kept, now=self._clock())
            self._put(replace(given, extra={"ending": ending}))
            self._propagate(task.pool, [task.id])

    def fail(
        self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "", attempts: int = 1
    ) -> Status:
        with self._lock:
            before = self._ended_before(task, "fail")
            if before is not None:
                return before
            held = self._held(task)
            ended = transitions.failed(
                held, storable_text(error), cause, attempts=attempts, log=trim_log(log), now=self._clock()
            )
            self._put(replace(ended, extra={"ending": "fail"}))
            self._propagate(task.pool, [task.id])
            return ended.status

    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        with self._lock:
            found = [task for i in dict.fromkeys(ids) if (task := self._task(pool, i))]
            theirs = [t for t in found if transitions.restored(t, worker) is not t]
            for task in theirs:
                self._put(transitions.restored(task, worker))
            waiting = [t.id for t in theirs if t.status is Status.FAILED]
            if waiting:
                self._propagate(pool, waiting + self._retry_dependents(pool, waiting))
            return sorted(t.id for t in theirs)

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        with self._lock:
            held = [t for t in self._running(pool) if t.worker == worker]
            for task in held:
                if error is None:
                    self.give_back(task)
                else:
                    self.fail(task, error, cause, task.log)
            return [self._pools[pool].tasks[t.id] for t in held]

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, pool: str, task_id: str) -> TaskRecord:
        with self._lock:
            task = self._task(pool, task_id)
        if task is None:
            raise task_not_found(pool, task_id)
        return task

    def query(
        self,
        pool: str,
        query: Query | None = None,
        *,
        batch: str = "",
        results: bool = True,
        latest: bool = False,
        limit: int | None = None,
    ) -> Iterator[TaskRecord]:
        node = parse_query(query)
        with self._lock:
            found = self._matching(pool, node, batch)
        if latest:
            found.sort(key=lambda t: -(t.finished_at or 0.0))
        found = found[:limit]
        yield from found if results else map(_light, found)

    def pages(self, pool: str, size: int) -> Iterator[list[str]]:
        with self._lock:
            ids = [t.id for t in self._tasks(pool)]
        for start in range(0, len(ids), size):
            yield ids[start : start + size]

    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        node = parse_query(query)
        with self._lock:
            return pool in self._pools and any(_matching(node, self._pools[pool].free(status, batch)))

    def _tasks(self, pool: str, batch: str = ALL) -> list[TaskRecord]:
        kept = self._pools.get(pool)
        return kept.in_order(kept.members(batch)) if kept else []

    def _matching(self, pool: str, node: Node, batch: str = ALL) -> list[TaskRecord]:
        """Return the tasks that match a query, oldest first."""
        ids, rest = by_id(node)
        if ids is None or pool not in self._pools:
            return list(_matching(node, self._tasks(pool, batch)))
        kept = self._pools[pool]
        return list(_matching(rest, kept.in_order(kept.members(batch) & ids)))

    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        node = parse_query(query)
        with self._lock:
            if only_about(node, "status"):
                counts = self._pools[pool].counts(batch) if pool in self._pools else {}
                return {s: n for s, n in counts.items() if matches(node, {"status": s.value})}
            return dict(Counter(t.status for t in self._matching(pool, node, batch)))

    def pools(self) -> list[str]:
        with self._lock:
            return sorted(name for name, kept in self._pools.items() if kept.tasks)

    def workers(self, pool: str, since: float | None) -> dict[str, Work]:
        by_worker: dict[str, Work] = {}
        for task in self.query(pool, results=False):
            if task.status is Status.RUNNING:
                by_worker.setdefault(str(task.worker), Work()).running += 1
            if since is None:
                continue
            ended = task.finished_at is not None and task.finished_at >= since
            if task.status in (Status.DONE, Status.PART_DONE) and ended:
                by_worker.setdefault(str(task.worker), Work()).done += 1
            if task.finished_at is None or ended:
                for name in task.failed_by:
                    by_worker.setdefault(name, Work()).failed += 1
        return by_worker

    def past_attempts(self, pool: str, limit: int) -> list[tuple[str, Attempt]]:
        """Return the latest attempts in the histories of the tasks of a pool, with the ids of the tasks."""
        with self._lock:
            found = [(t.id, replace(one, error=None)) for t in self._tasks(pool) for one in t.history]
        return sorted(found, key=lambda pair: (-pair[1].ended_at, -pair[1].number))[:limit]

    def paused(self, pool: str) -> bool:
        return pool in self._paused

    def wait_for_change(self, pool: str, timeout: float) -> None:
        with self._lock:
            seen = self._seen.__dict__
            self._changed.wait_for(lambda: self._changes.get(pool) != seen.get(pool), timeout)
            seen[pool] = self._changes.get(pool)

    # -- changing ------------------------------------------------------------------------------------------------------

    def remove(self, pool: str, query: Query | None = None) -> int:
        node = parse_query(query)
        with self._lock:
            gone = self._matching(pool, node)
            for task in gone:
                self._pools[pool].discard(task.id)
            self._forget_submissions(pool)
            if gone:
                self._propagate(pool, [t.id for t in gone])
            self._notify(pool)
        return len(gone)

    def _forget_submissions(self, pool: str) -> None:
        kept, limit = self._submissions.get(pool, {}), self._clock() - SUBMISSION_SECONDS
        old = {key: text for key, (at, text) in kept.items() if at <= limit}
        if not old:
            return
        tasks = self._tasks(pool)
        used, ids = {t.submission for t in tasks}, {t.id for t in tasks}
        for key, text in old.items():
            if key not in used and ids.isdisjoint(tasks_of_info(text)):
                del kept[key]

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        with self._lock:
            ids = self._change(pool, query, lambda t: _stale(t, transitions.with_status(t, status, now=self._clock())))
        return len(ids)

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        number = checked_priority(priority)
        return len(self._change(pool, query, lambda t: replace(t, priority=number)))

    def retry(self, pool: str, query: Query | None = None) -> int:
        with self._lock:
            failed: Query = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
            ids = self._change(pool, failed, _again, propagate=False)
            if ids:
                ids = ids + self._retry_dependents(pool, ids)
                self._propagate(pool, ids)
            return len(ids)

    def _retry_dependents(self, pool: str, ids: list[str]) -> list[str]:
        """Reset tasks that failed only because they depend on tasks that wait again."""
        kept, found = self._pools[pool], []
        while ids:
            theirs = kept.in_order(kept.dependents(ids))
            failed = [t for t in theirs if t.status is Status.FAILED and t.cause is Cause.DEPENDENCY]
            ids = [self._put(_again(t)).id for t in failed]
            found += ids
        return found

    def cancel(self, pool: str, query: Query | None = None) -> int:
        def end(task: TaskRecord) -> TaskRecord:
            return _stale(task, transitions.cancelled(task, now=self._clock()))

        unfinished = {"$and": [dict(query or {}), {"status": {"$in": [s.value for s in _UNFINISHED]}}]}
        return len(self._change(pool, unfinished, end))

    def _change(
        self, pool: str, query: Query | None, change: Callable[[TaskRecord], TaskRecord], *, propagate: bool = True
    ) -> list[str]:
        node = parse_query(query)
        with self._lock:
            ids = [self._put(change(task)).id for task in self._matching(pool, node)]
            if propagate and ids:
                self._propagate(pool, ids)
        return ids

    def pause(self, pool: str, paused: bool = True) -> None:
        with self._lock:
            (self._paused.add if paused else self._paused.discard)(pool)
            self._notify(pool)

    def replace(self, pool: str, task_id: str, definition: Mapping[str, object]) -> str:
        new_id, kept = digest(definition), decode(encode(definition))
        with self._lock:
            old, tasks = self.get(pool, task_id), self._pools[pool].tasks
            fresh = TaskRecord(
                id=new_id, pool=pool, definition=kept, priority=old.priority, max_attempts=old.max_attempts,
                created_at=self._clock(), token=old.token + 1, depends_on=old.depends_on, model_name=old.model_name,
                submission=old.submission,
            )  # fmt: skip

            def renamed(ids: Iterable[str]) -> set[str]:
                return {new_id if d == task_id else d for d in ids}

            if new_id != task_id and new_id in tasks:
                known = tasks[new_id]
                fresh = replace(known, depends_on=tuple(sorted(renamed([*known.depends_on, *old.depends_on]))))
            refuse_cycles(
                {new_id},
                fresh.depends_on,
                lambda some: {d for t in some if t in tasks for d in renamed(tasks[t].depends_on)},
            )
            self._pools[pool].replace(task_id, fresh)
            self._propagate(pool, [new_id])
            self._notify(pool)
        return new_id

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _stale(before: TaskRecord, after: TaskRecord) -> TaskRecord:
    """Return `after` with a token that makes all claims of the task stale."""
    return replace(after, token=before.token + 1)


def _given_out(task: TaskRecord, status: Status) -> TaskRecord:
    """Return a claimed task: a second stage needs the result of the first."""
    return replace(task, result=task.result if status is Status.PART_DONE else None, history=())


def _matching(node: Node, tasks: Iterable[TaskRecord]) -> Iterator[TaskRecord]:
    if node == And(()):  # an empty query
        return iter(tasks)
    document = _columns if only_about(node, *COLUMNS.values()) else _document
    return (t for t in tasks if matches(node, document(t)))


def _light(task: TaskRecord) -> TaskRecord:
    """Return a task without its result and its history."""
    return replace(task, result=None, history=()) if task.history or task.result is not None else task


def _again(task: TaskRecord) -> TaskRecord:
    return _stale(task, transitions.retried(task))


def _avoided(task: TaskRecord, avoid: str, now: float) -> bool:
    failed_there = avoid and any(avoid in (name, machine_of(name)) for name in task.failed_by)
    return bool(failed_there) and (task.finished_at or 0.0) > now - AVOID_SECONDS


def _columns(task: TaskRecord) -> dict[str, object]:
    columns = {name: getattr(task, name) for name in set(COLUMNS.values())}
    columns.update(status=task.status.value, cause=task.cause.value if task.cause else None)
    return columns


def _document(task: TaskRecord) -> dict[str, object]:
    return {**_columns(task), "def": searchable(to_plain(task.definition))}
