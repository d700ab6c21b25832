"""A task store in memory. It is the executable specification: all other stores behave like this one."""

from __future__ import annotations

import threading
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
from rollforge.store.query import COLUMNS, And, Node, matches, only_about, parse_query
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
        self._pools: dict[str, dict[str, TaskRecord]] = {}
        self._paused: set[str] = set()
        self._submissions: dict[str, dict[str, tuple[float, str]]] = {}
        self._batches: dict[str, dict[str, set[str]]] = {}
        self._creations: dict[str, dict[str, str]] = {}
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
            tasks = self._pools.setdefault(pool, {})
            self._check_dependencies(pool, tasks, {task_id for task_id, _ in encoded}, dependencies)
            created = self._creations.setdefault(pool, {})
            before = {i for i in created if i in tasks and created[i] == creation} if creation else set()
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
            if any(c.new for c in made):
                self._propagate(pool, dependencies)
            if batch:
                self.add_to_batch(pool, batch, [c.id for c in made])
            return repeated_answer(made, before)

    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        with self._lock:
            there = self._pools.get(pool, {}).keys()
            self._batches.setdefault(pool, {}).setdefault(batch, set()).update(there & set(ids))

    def _check_dependencies(
        self, pool: str, tasks: Mapping[str, TaskRecord], ids: set[str], dependencies: Sequence[str]
    ) -> None:
        require_dependencies(pool, set(dependencies) - tasks.keys() - ids)
        self._check_acyclic(tasks, ids, dependencies)

    def _check_acyclic(self, tasks: Mapping[str, TaskRecord], ids: set[str], dependencies: Sequence[str]) -> None:
        refuse_cycles(ids, dependencies, lambda some: {d for t in some if t in tasks for d in tasks[t].depends_on})

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
        return {t.submission for t in self.query(pool, results=False) if t.status in _UNFINISHED}

    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        with self._lock:
            tasks = self._pools.setdefault(pool, {})
            new = [r for r in records if r.id not in tasks]
            for record in new:
                status = record.stage_from if record.status is Status.RUNNING else record.status
                self._put(replace(record, pool=pool, status=status, token=0, lease_until=None, available_at=0.0))
            self._propagate(pool, [d for r in new for d in (r.id, *r.depends_on)])
            return len(new)

    def _put(self, task: TaskRecord) -> TaskRecord:
        self._pools[task.pool][task.id] = task
        self._notify(task.pool)
        return task

    def _notify(self, pool: str) -> None:
        self._changes[pool] = self._changes.get(pool, 0) + 1
        self._changed.notify_all()

    def _propagate(self, pool: str, changed: Iterable[str]) -> None:
        """Update the tasks that depend on `changed` ones, which can be claimed, wait or fail, and their dependents."""
        tasks, changed = self._pools.get(pool, {}), set(changed)
        while changed:
            failed = set()
            for task in [t for t in tasks.values() if changed & set(t.depends_on)]:
                states = {d: tasks[d].status if d in tasks else Status.FAILED for d in task.depends_on}
                blocked = any(s is not Status.DONE for s in states.values())
                failed_dependencies = sorted(d for d, s in states.items() if s is Status.FAILED)
                task = self._put(replace(task, blocked=blocked))
                if failed_dependencies and task.status is Status.WAITING:
                    failed.add(task.id)
                    self._put(transitions.dependency_failed(task, failed_dependencies[0], now=self._clock()))
            changed = failed

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

            def is_free(t: TaskRecord) -> bool:
                return t.status is status and not t.blocked and t.available_at <= now and not _avoided(t, avoid, now)

            free = self._matching(pool, node, batch, is_free)
            free.sort(key=lambda t: -t.priority)  # a stable sort: oldest first within a priority
            running = [
                transitions.claimed(task, worker=worker, token=self._token, lease=lease, now=now)
                for task in free[:limit]
            ]
            claimed = [self._put(replace(task, extra={"claim": claim})) for task in running]
            return [_given_out(t, status) for t in claimed]

    def _given(self, pool: str, claim: str) -> list[TaskRecord]:
        """Return the tasks that an earlier call with the same claim identity was given."""
        tasks = self._pools.get(pool, {}).values()
        held = [t for t in tasks if t.status is Status.RUNNING and t.extra.get("claim") == claim]
        return sorted(held, key=lambda t: -t.priority)

    def expire(self, pool: str) -> None:
        with self._lock:
            now = self._clock()
            for task in list(self._pools.get(pool, {}).values()):
                if task.status is Status.RUNNING and task.lease_until is not None and task.lease_until <= now:
                    self._put(transitions.expired(task, now=now))
                    self._propagate(pool, [task.id, *task.depends_on])

    def _held(self, claim: TaskRecord) -> TaskRecord:
        task = self._pools.get(claim.pool, {}).get(claim.id)
        if task is None or task.status is not Status.RUNNING or task.token != claim.token:
            raise LeaseLost(stale_message(claim))
        return task

    def _ended_before(self, claim: TaskRecord, ending: str) -> Status | None:
        """Return the status of a task that this claim has ended with the same call, whose answer may have been lost."""
        task = self._pools.get(claim.pool, {}).get(claim.id)
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
            self._propagate(task.pool, [task.id, *held.depends_on])

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
            self._propagate(task.pool, [task.id, *held.depends_on])
            return ended.status

    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        with self._lock:
            tasks = self._pools.get(pool, {})
            found = [tasks[i] for i in dict.fromkeys(ids) if i in tasks]
            theirs = [t for t in found if transitions.restored(t, worker) is not t]
            for task in theirs:
                self._put(transitions.restored(task, worker))
            waiting = [t.id for t in theirs if t.status is Status.FAILED]
            self._propagate_again(pool, waiting + self._retry_dependents(pool, waiting))
            return sorted(t.id for t in theirs)

    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        with self._lock:
            held = [t for t in self._pools.get(pool, {}).values() if t.status is Status.RUNNING and t.worker == worker]
            for task in held:
                if error is None:
                    self.give_back(task)
                else:
                    self.fail(task, error, cause, task.log)
            return [self._pools[pool][t.id] for t in held]

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, pool: str, task_id: str) -> TaskRecord:
        with self._lock:
            task = self._pools.get(pool, {}).get(task_id)
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
            ids = list(self._pools.get(pool, {}))
        for start in range(0, len(ids), size):
            yield ids[start : start + size]

    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        node = parse_query(query)
        with self._lock:
            return bool(self._matching(pool, node, batch, lambda t: t.status is status and not t.blocked))

    def _matching(
        self, pool: str, node: Node, batch: str = "", among: Callable[[TaskRecord], bool] | None = None
    ) -> list[TaskRecord]:
        """Return the tasks that match a query, of those for which a function returns True."""
        tasks = self._pools.get(pool, {})
        members = self._batches.get(pool, {}).get(batch, set()) if batch else tasks
        found = [t for i, t in tasks.items() if i in members and (among is None or among(t))]
        if node == And(()):  # an empty query
            return found
        document = _columns if only_about(node, *COLUMNS.values()) else _document
        return [t for t in found if matches(node, document(t))]

    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        counts: dict[Status, int] = {}
        for task in self.query(pool, query, batch=batch, results=False):
            counts[task.status] = counts.get(task.status, 0) + 1
        return counts

    def pools(self) -> list[str]:
        with self._lock:
            return sorted(name for name, tasks in self._pools.items() if tasks)

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
            found = [(t.id, replace(one, error=None)) for t in self._pools.get(pool, {}).values() for one in t.history]
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
                del self._pools[pool][task.id]
                self._creations.get(pool, {}).pop(task.id, None)
            self._leave_batches(pool, {t.id for t in gone})
            self._forget_submissions(pool)
            self._propagate(pool, [t.id for t in gone])
            self._notify(pool)
        return len(gone)

    def _forget_submissions(self, pool: str) -> None:
        used, old = {t.submission for t in self._pools.get(pool, {}).values()}, self._clock() - SUBMISSION_SECONDS
        kept, tasks = self._submissions.get(pool, {}), self._pools.get(pool, {})
        self._submissions[pool] = {
            key: (at, text)
            for key, (at, text) in kept.items()
            if key in used or at > old or not tasks.keys().isdisjoint(tasks_of_info(text))
        }

    def _leave_batches(self, pool: str, ids: set[str]) -> None:
        left = {name: members - ids for name, members in self._batches.get(pool, {}).items()}
        self._batches[pool] = {name: members for name, members in left.items() if members}

    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        with self._lock:
            ids = self._change(pool, query, lambda t: _stale(t, transitions.with_status(t, status, now=self._clock())))
            self._propagate(pool, [d for i in ids for d in self._pools[pool][i].depends_on])
        return len(ids)

    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        number = checked_priority(priority)
        return len(self._change(pool, query, lambda t: replace(t, priority=number)))

    def retry(self, pool: str, query: Query | None = None) -> int:
        with self._lock:
            failed: Query = {"$and": [dict(query or {}), {"status": Status.FAILED.value}]}
            ids = self._change(pool, failed, _again, propagate=False)
            ids = ids + self._retry_dependents(pool, ids)
            self._propagate_again(pool, ids)
            return len(ids)

    def _retry_dependents(self, pool: str, ids: list[str]) -> list[str]:
        """Reset tasks that failed only because they depend on tasks that wait again."""
        found: list[str] = []
        while ids:
            theirs = [t.id for t in self._pools[pool].values() if set(ids) & set(t.depends_on)]
            with_them: Query = {"_id": {"$in": theirs}, "status": "failed", "cause": "dependency"}
            ids = self._change(pool, with_them, _again, propagate=False)
            found += ids
        return found

    def _propagate_again(self, pool: str, ids: Sequence[str]) -> None:
        tasks = self._pools.get(pool, {})
        self._propagate(pool, [*ids, *(d for i in ids for d in tasks[i].depends_on)])

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
            if propagate:
                self._propagate(pool, ids)
        return ids

    def pause(self, pool: str, paused: bool = True) -> None:
        with self._lock:
            (self._paused.add if paused else self._paused.discard)(pool)
            self._notify(pool)

    def replace(self, pool: str, task_id: str, definition: Mapping[str, object]) -> str:
        new_id, kept = digest(definition), decode(encode(definition))
        with self._lock:
            old, known = self.get(pool, task_id), self._pools[pool]
            fresh = TaskRecord(
                id=new_id, pool=pool, definition=kept, priority=old.priority, max_attempts=old.max_attempts,
                created_at=self._clock(), token=old.token + 1, depends_on=old.depends_on, model_name=old.model_name,
                submission=old.submission,
            )  # fmt: skip
            if new_id != task_id and new_id in known:
                both = tuple(sorted({*known[new_id].depends_on, *old.depends_on}))
                tasks = {k: t for k, t in known.items() if k != task_id}
                tasks[new_id] = replace(known[new_id], depends_on=both)
            else:
                tasks = {(new_id if k == task_id else k): (fresh if k == task_id else t) for k, t in known.items()}
            for key, task in tasks.items():
                dependencies = {new_id if d == task_id else d for d in task.depends_on}
                tasks[key] = replace(task, depends_on=tuple(sorted(dependencies)))
            self._check_acyclic(tasks, {new_id}, tasks[new_id].depends_on)
            self._pools[pool] = tasks
            created = self._creations.setdefault(pool, {})
            creation = created.pop(task_id, "")
            if new_id == task_id or new_id not in known:  # it takes the place of the old task, including its creation
                created[new_id] = creation
            for members in self._batches.get(pool, {}).values():
                if task_id in members:
                    members.remove(task_id)
                    members.add(new_id)
            self._propagate(pool, [new_id, *tasks[new_id].depends_on])
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


def _light(task: TaskRecord) -> TaskRecord:
    """Return a task without its result and its history."""
    return replace(task, result=None, history=())


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
