"""A task store in a MongoDB database, with documents that Qlib's task manager can read and write.

A pool is a collection, and a task is a document with Qlib's fields (``def``, ``filter``, ``status``, ``res``,
``priority``) and those of Rollforge. Documents written by Qlib are converted when they are first read. Their pickled
definition is loaded through the allow-list; a task whose pickle refers to anything else fails without being loaded.

MongoDB changes one document at a time, so each claim, renewal and commit is atomic, which is all that single results
require. Consequences for other documents (dependents that can start, or fail) are applied afterwards. If a worker dies
in between, the next process that accesses the pool applies them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pymongo import DESCENDING, ReturnDocument, UpdateOne, errors as mongo
from pymongo.collection import Collection

from rollforge import transitions
from rollforge.errors import (
    ConfigError,
    LeaseLost,
)
from rollforge.store.base import (
    AVOID_SECONDS,
    LATEST_TIME,
    SUBMISSION_SECONDS,
    CreatedTask,
    Query,
    Work,
    checked_attempts,
    checked_model_names,
    checked_priority,
    ending_of,
    failed_workers,
    failure_mark,
    refuse_cycles,
    refuse_running,
    repeated_answer,
    require_dependencies,
    stale_message,
    storable_text,
    task_not_found,
    trim_log,
)
from rollforge.store.codec import encode_result, read_submission, tasks_of_info
from rollforge.store.mongo_connection import translate_errors
from rollforge.store.mongo_database import META
from rollforge.store.mongo_dependencies import UNFINISHED, MongoDependencies, dependencies_of, some_of
from rollforge.store.mongo_documents import (
    ANY_TASK,
    ATTEMPTED,
    CANCELLED,
    CLAIMED,
    DONE,
    EXPIRED,
    FAILED,
    FRESH,
    GIVEN,
    HELD,
    KEPT,
    PARTLY_DONE,
    RESET,
    RESTORED,
    STATUS_SET,
    UNREADABLE,
    Document,
    copied_fields,
    definition_fields,
    fields_of,
    history_field,
    history_in,
    ids_of,
    record_of,
    result_field,
    result_of,
    texts_in,
    whole_result,
    with_stage,
)
from rollforge.store.mongo_query import by_id, to_condition
from rollforge.store.query import parse_query
from rollforge.store.rows import read_status
from rollforge.task import (
    KEPT_ATTEMPTS,
    Attempt,
    Cause,
    Definition,
    Status,
    TaskRecord,
    digest,
    encode,
)

__all__ = ["MongoStore"]

_ORDER = [("priority", DESCENDING), ("seq", 1)]


class MongoStore(MongoDependencies):
    """Tasks in a MongoDB database.

    Parameters
    ----------
    uri : str
        ``mongodb://user:password@host:port/database`` with the driver's options after a ``?``. The default database is
        ``rollforge``.
    clock : callable, optional
        Returns seconds since the epoch; by default the server's clock is used.

    Raises
    ------
    StoreUnavailable
        If the server cannot be reached or refuses the connection, or the database is newer than this program.
    """

    # -- creating ------------------------------------------------------------------------------------------------------

    @translate_errors
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
        written = [definition_fields(d) for d in definitions]  # all of them, before anything is stored
        tasks, dependencies = self._tasks(pool), sorted(set(depends_on))
        ids = {w["digest"] for w in written}
        found = {
            d["digest"] for some in some_of(dependencies) for d in tasks.find({"digest": {"$in": some}}, {"digest": 1})
        }
        require_dependencies(pool, set(dependencies) - ids - found)
        # Tasks on which nothing depends cannot be part of a cycle.
        needed = dependencies and any(
            tasks.find_one({"needs": {"$in": some}}, {"_id": 1}) for some in some_of(list(ids))
        )
        if needed or not ids.isdisjoint(dependencies):
            refuse_cycles(ids, dependencies, lambda some: dependencies_of(tasks, some))
        last = self._number("seq", max(1, len(written)))
        now = self._now()
        fresh = {
            **FRESH,
            "priority": priority,
            "max_attempts": max_attempts,
            "needs": dependencies,
            "unmet": dependencies,
        }
        fresh |= {"submission": submission, "creation": creation}
        for i, document in enumerate(written):
            seq = last - len(written) + 1 + i
            document |= {**fresh, "created_at": now, "changed": now, "seq": seq, "model_name": names[i]}
        new = self._insert(tasks, written)
        self._rename(tasks, {d["digest"]: names[i] for i, d in enumerate(written) if i not in new and names[i]})
        if submission:
            again = {"digest": {"$in": [d["digest"] for i, d in enumerate(written) if i not in new]}}
            unfinished = {**again, "status": {"$ne": "done"}, "submission": {"$ne": submission}}
            tasks.update_many(unfinished, {"$set": {"submission": submission, "changed": self._now()}})
        made = [CreatedTask(d["digest"], i in new) for i, d in enumerate(written)]
        if creation and len(new) < len(made):
            rest = list({c.id for c in made} - {c.id for c in made if c.new})
            before = [d for some in some_of(rest) for d in ids_of(
                tasks.find({"digest": {"$in": some}, "creation": creation}, {"digest": 1}))]  # fmt: skip
            made = repeated_answer(made, set(before))
        if dependencies and any(c.new for c in made):
            self._propagate(pool, dependencies, themselves=[c.id for c in made if c.new])
        if batch:
            self.add_to_batch(pool, batch, [c.id for c in made])
        return made

    @translate_errors
    def keep_submission(self, pool: str, info: Mapping[str, object]) -> str:
        key = digest(info)
        kept = {"pool": pool, "key": key, "facts": encode(info), "at": self._now()}
        self._meta.update_one({"_id": f"submission:{pool}:{key}"}, {"$set": kept}, upsert=True)
        return key

    @translate_errors
    def submissions(self, pool: str, known: Sequence[str] = ()) -> dict[str, Definition]:
        found = self._meta.find({"pool": pool, "key": {"$nin": list(known)}}).sort([("at", 1), ("key", 1)])
        return {d["key"]: read_submission(d.get("facts")) for d in found if isinstance(d.get("key"), str)}

    @translate_errors
    def open_submissions(self, pool: str) -> set[str]:
        steps: list[Document] = [{"$match": {"status": {"$in": UNFINISHED}}}, {"$group": {"_id": "$submission"}}]
        return set(texts_in(d["_id"] for d in self._tasks(pool).aggregate(steps)))

    @translate_errors
    def add_to_batch(self, pool: str, batch: str, ids: Sequence[str]) -> None:
        for some in some_of(list(dict.fromkeys(ids))):
            theirs = {"digest": {"$in": some}, "batches": {"$type": "array"}}
            self._tasks(pool).update_many(theirs, {"$addToSet": {"batches": batch}})

    def _rename(self, tasks: Collection[Document], names: Mapping[str, str]) -> None:
        """Set the model names of existing tasks."""
        ids: dict[str, list[str]] = {}
        for task_id, name in names.items():
            ids.setdefault(name, []).append(task_id)
        for name, theirs in ids.items():
            others = {"digest": {"$in": theirs}, "model_name": {"$ne": name}}
            tasks.update_many(others, {"$set": {"model_name": name, "changed": self._now()}})

    def _insert(self, tasks: Collection[Document], documents: Sequence[Document]) -> set[int]:
        """Insert the documents that do not exist, and return the positions of the new ones."""
        if not documents:
            return set()
        inserts = [UpdateOne({"digest": d["digest"]}, {"$setOnInsert": d}, upsert=True) for d in documents]
        try:
            return set(tasks.bulk_write(inserts).upserted_ids or {})
        except mongo.BulkWriteError as exc:  # another process inserted the same task at the same time
            if any(e.get("code") != 11000 for e in exc.details.get("writeErrors", ())):
                raise
        return {
            i
            for i, (d, insert) in enumerate(zip(documents, inserts, strict=True))
            if tasks.bulk_write([insert]).upserted_count or tasks.find_one({"digest": d["digest"], "seq": d["seq"]})
        }

    @translate_errors
    def put(self, pool: str, records: Iterable[TaskRecord]) -> int:
        tasks, kept = self._tasks(pool), list(records)
        last = self._number("seq", max(1, len(kept)))
        documents = []
        for i, r in enumerate(kept):
            status = r.stage_from if r.status is Status.RUNNING else r.status
            documents.append(
                {
                    **FRESH, **copied_fields(r), "digest": r.id,
                    "status": status.value,
                    "stage_from": r.stage_from.value, "priority": r.priority, "attempt": r.attempt,
                    "max_attempts": r.max_attempts, "worker": r.worker, "created_at": r.created_at,
                    "started_at": r.started_at, "finished_at": r.finished_at, "error": r.error,
                    "cause": r.cause.value if r.cause else None, "log": trim_log(r.log), "needs": list(r.depends_on),
                    "unmet": list(r.depends_on), "model_name": r.model_name,
                    "submission": r.submission, "failed_by": "".join(map(failure_mark, r.failed_by)),
                    "seq": last - len(kept) + 1 + i, "history": history_field(r.history[-KEPT_ATTEMPTS:]),
                    **({} if r.result is None else {"res": result_field(encode_result(r.result))}),
                }
            )  # fmt: skip
        new = self._insert(tasks, documents)
        self._propagate(pool, {d for i in new for d in kept[i].depends_on})
        return len(new)

    # -- claiming ------------------------------------------------------------------------------------------------------

    @translate_errors
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
        condition = to_condition(parse_query(query))
        tasks = self._tasks(pool)
        again = list(tasks.find({"status": "running", "claim": claim}).sort(_ORDER)) if claim else []
        if again:
            return self._readable(pool, again, status)
        self.expire(pool)
        if self.paused(pool):
            return []
        now = self._now()
        later = {"available_at": {"$gt": now, "$lt": LATEST_TIME}}  # anything else that is not in the past is damage
        free = {"status": status.value, "$nor": [later], "unmet": {"$size": 0}, **_in_batch(batch)}
        if tasks.find_one(free, {"_id": 1}) is None:
            self._repair(pool)
            return []
        wanted = [free, condition]
        if avoid:
            failed_there = {"$regex": re.escape(f"|{avoid}|")}
            wanted.append({"$nor": [{"failed_by": failed_there, "finished_at": {"$gt": now - AVOID_SECONDS}}]})
        token = self._number("token")
        claimed: list[TaskRecord] = []
        lost_to = ""
        while len(claimed) < limit:
            now = self._now()
            running = transitions.claimed(with_stage(status), worker=worker, token=token, lease=lease, now=now)
            change = {**fields_of(running, *CLAIMED), "changed": now, "claim": claim or None, "ending": None}
            found = tasks.find_one_and_update(
                {"$and": [*wanted, {"token": {"$lt": token}}]}, {"$set": change}, sort=_ORDER,
                return_document=ReturnDocument.AFTER,
            )  # fmt: skip
            if found is not None:
                claimed += self._readable(pool, [found], status)
            else:
                free_one = tasks.find_one({"$and": wanted}, {"token": 1})
                # The same one again: it is claimed and given back all the time, or damaged so that no update matches it.
                if free_one is None or repr(free_one["_id"]) == lost_to:
                    break
                lost_to = repr(free_one["_id"])
                token = self._newer_token(tasks, free_one, free)
        return claimed

    def _newer_token(self, tasks: Collection[Document], found: Document, free: Document) -> int:
        """Return a token for a free task that was claimed, and ended, under a newer one than ours.

        This process may have been stopped between reserving its token and using it.
        """
        fresh, token = self._number("token"), found.get("token")
        if isinstance(token, bool) or not isinstance(token, (int, float)) or not token < fresh:  # damaged
            tasks.update_one({**free, "_id": found["_id"]}, {"$set": {"token": 0}})
        return fresh

    def _readable(self, pool: str, claimed: Sequence[Document], status: Status) -> list[TaskRecord]:
        """Fail claimed tasks with a damaged definition or first-stage result, and return the others."""
        readable = []
        for found in claimed:
            if not isinstance(found.get("digest"), str):  # written by another program
                found = {**found, "digest": str(found["_id"]), "plain": None}
                self._tasks(pool).update_one({"_id": found["_id"]}, {"$set": {"digest": found["digest"]}})
            task = record_of(pool, found)
            if "unreadable" in task.extra:
                self.fail(task, task.extra["unreadable"], Cause.UNREADABLE)
                continue
            try:
                result = result_of(found) if status is Status.PART_DONE else None
            except UNREADABLE as exc:
                self.fail(task, f"The result of the first stage cannot be read: {exc}", Cause.UNREADABLE)
                continue
            readable.append(replace(task, result=result, history=()))
        return readable

    @translate_errors
    def expire(self, pool: str) -> None:
        tasks, now = self._tasks(pool), self._now()
        for found in list(tasks.find({"status": "running", "lease_until": {"$lte": now}}, {"res": 0, "def": 0})):
            task = record_of(pool, found)
            after = transitions.expired(task, now=now)
            ended = fields_of(after, *EXPIRED) | {"changed": now}
            same = {
                "_id": found["_id"],
                "status": "running",
                "token": found.get("token"),
                "lease_until": found["lease_until"],
            }
            if tasks.update_one(same, {"$set": ended}).modified_count:
                self._propagate_end(pool, task.id, after.status.value)

    # -- ending claims -------------------------------------------------------------------------------------------------

    def _end(self, task: TaskRecord, change: Document) -> bool:
        """Change a task if this claim holds it; return whether it does."""
        held = {"digest": task.id, "status": "running", "token": task.token}
        done = self._tasks(task.pool).update_one(held, {"$set": {**change, "changed": self._now()}})
        return bool(done.matched_count)

    def _claimed(self, task: TaskRecord) -> TaskRecord:
        """Return what the transitions of a claimed task depend on.

        Raises
        ------
        LeaseLost
            If the task does not exist any more.
        """
        found = self._tasks(task.pool).find_one({"digest": task.id}, dict.fromkeys(HELD, 1))
        if found is None:
            raise LeaseLost(stale_message(task))
        return record_of(task.pool, found)

    def _ended_before(self, task: TaskRecord, ending: str) -> Status:
        """Return the status of a task that this claim has ended with the same call, whose answer may have been lost.

        Raises
        ------
        LeaseLost
            If this claim has not ended the task in this way.
        """
        same = {"digest": task.id, "token": task.token, "ending": ending}
        found = self._tasks(task.pool).find_one(same, {"status": 1})
        if found is None:
            raise LeaseLost(stale_message(task))
        return read_status(found["status"])

    def _propagate_end(self, pool: str, task_id: str, status: str) -> None:
        """Update the dependents of a task whose claim has ended, or fail it if it waits for a failed task."""
        if status in ("done", "failed"):
            self._propagate(pool, [task_id])
        elif (found := self._tasks(pool).find_one({"digest": task_id, "unmet": {"$ne": []}}, {"unmet": 1})) is not None:
            self._propagate(pool, texts_in(found.get("unmet")), themselves=[task_id])

    @translate_errors
    def renew(self, task: TaskRecord, lease: float, log: str | None = None) -> None:
        change: Document = {"lease_until": self._now() + lease}
        if not self._end(task, change if log is None else {**change, "log": trim_log(log)}):
            raise LeaseLost(stale_message(task))

    @translate_errors
    def commit(self, task: TaskRecord, result: object, status: Status = Status.DONE, log: str = "") -> None:
        kept = result_field(encode_result(result))
        # A done task describes its last attempt itself, so that its history need not be read.
        now_held = task if status is Status.DONE else self._claimed(task)
        after = transitions.committed(now_held, None, status, log=trim_log(log), now=self._now())
        fields = DONE if status is Status.DONE else PARTLY_DONE
        change = fields_of(after, *fields) | {"res": kept, "ending": ending_of("commit", status)}
        if not self._end(task, change):
            self._ended_before(task, change["ending"])
        self._propagate_end(task.pool, task.id, status.value)

    @translate_errors
    def give_back(self, task: TaskRecord, status: Status | None = None, *, reason: str | None = None) -> None:
        reason = None if reason is None else storable_text(reason)
        after = transitions.given_back(self._claimed(task), status, reason, now=self._now())
        ending = ending_of("give back", status)
        change = fields_of(after, *(GIVEN if reason is None else (*GIVEN, "error", "cause")))
        if not self._end(task, {**change, "ending": ending}):
            self._ended_before(task, ending)
        self._propagate_end(task.pool, task.id, after.status.value)

    @translate_errors
    def fail(
        self, task: TaskRecord, error: str, cause: Cause = Cause.RAISED, log: str = "", attempts: int = 1
    ) -> Status:
        after = transitions.failed(
            self._claimed(task), storable_text(error), cause, attempts=attempts, log=trim_log(log), now=self._now()
        )
        change, status = {**fields_of(after, *FAILED), "ending": "fail"}, after.status
        if not self._end(task, change):
            status = self._ended_before(task, "fail")
        self._propagate_end(task.pool, task.id, status.value)
        return status

    @translate_errors
    def restore_attempts(self, pool: str, worker: str, ids: Sequence[str]) -> list[str]:
        tasks, restored, again = self._tasks(pool), list[str](), list[str]()
        theirs: list[Document] = []
        for some in some_of(list(dict.fromkeys(ids))):
            theirs += tasks.find({"digest": {"$in": some}, "failed_by": {"$gt": ""}}, {"res": 0, "def": 0})
        for found in theirs:
            task = record_of(pool, found)
            after = transitions.restored(task, worker)
            if after is task:
                continue
            change = fields_of(after, *RESTORED) | {"changed": self._now()}
            same = {name: found.get(name) for name in ("_id", "status", "token", "attempt", "failed_by")}
            if tasks.update_one(same, {"$set": change}).modified_count:
                restored.append(task.id)
                again += [task.id] if task.status is Status.FAILED else []
        again += self._retry_dependents(pool, again)
        self._propagate(pool, {*again, *dependencies_of(tasks, again)})
        return sorted(restored)

    @translate_errors
    def release_worker(
        self, pool: str, worker: str, error: str | None, cause: Cause = Cause.KILLED
    ) -> list[TaskRecord]:
        held = [record_of(pool, f) for f in self._tasks(pool).find({"status": "running", "worker": worker})]
        ended = []
        for task in held:
            with contextlib.suppress(
                LeaseLost
            ):  # it ended meanwhile, or its token is damaged and its lease will expire
                if error is None:
                    self.give_back(task)
                else:
                    self.fail(task, error, cause, task.log)
                ended.append(task.id)
        return [self.get(pool, task_id, result=False) for task_id in ended]

    # -- reading -------------------------------------------------------------------------------------------------------

    @translate_errors
    def get(self, pool: str, task_id: str, *, result: bool = True) -> TaskRecord:
        found = self._tasks(pool).find_one(by_id(task_id))
        if found is None:
            raise task_not_found(pool, task_id)
        record = record_of(pool, found)
        return replace(record, result=whole_result(record, found)) if result else record

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
        if limit == 0:  # to MongoDB, 0 means no limit
            return
        condition = _of_batch(batch, to_condition(parse_query(query)))
        for found in self._found(
            pool, condition, {} if results else {"res": 0, "def": 0, "history": 0}, limit or 0, latest=latest
        ):
            record = record_of(pool, found)
            yield replace(record, result=whole_result(record, found)) if results else record

    @translate_errors
    def _found(self, pool: str, condition: Document, fields: Document, limit: int, *, latest: bool) -> list[Document]:
        order = [("finished_at", DESCENDING), ("seq", 1)] if latest else [("seq", 1)]
        return list(self._tasks(pool).find(condition, fields or None).sort(order).limit(limit))

    def pages(self, pool: str, size: int) -> Iterator[list[str]]:
        cursor = self._tasks(pool).find({}, {"digest": 1}, batch_size=size).sort("seq", 1)
        while found := self._next(cursor, size):
            yield ids_of(found)

    @translate_errors
    def _next(self, cursor: Iterable[Document], size: int) -> list[Document]:
        return list(itertools.islice(cursor, size))

    @translate_errors
    def has_free(self, pool: str, status: Status, query: Query | None = None, *, batch: str = "") -> bool:
        free = {"status": status.value, "unmet": {"$size": 0}, **_in_batch(batch)}
        condition = to_condition(parse_query(query))
        return self._tasks(pool).find_one({"$and": [free, condition]} if condition else free, {"_id": 1}) is not None

    @translate_errors
    def count(self, pool: str, query: Query | None = None, *, batch: str = "") -> dict[Status, int]:
        condition = _of_batch(batch, to_condition(parse_query(query)))
        steps = [{"$match": condition}, {"$group": {"_id": "$status", "n": {"$sum": 1}}}]
        counts: Counter[Status] = Counter()
        for group in self._tasks(pool).aggregate(steps):
            # A damaged status is read as failed, see read_record.
            counts[read_status(group["_id"])] += group["n"]
        return {status: n for status, n in counts.items() if n}

    @translate_errors
    def pools(self) -> list[str]:
        names = sorted(n for n in self._database.list_collection_names() if n != META and not n.startswith("system."))
        return [n for n in names if self._database[n].find_one({"status": {"$exists": True}}, {"_id": 1})]

    @translate_errors
    def workers(self, pool: str, since: float | None) -> dict[str, Work]:
        tasks, by_worker = self._tasks(pool), dict[str, Work]()

        def counted(match: Document) -> Iterator[tuple[str, int]]:
            for group in tasks.aggregate([{"$match": match}, {"$group": {"_id": "$worker", "n": {"$sum": 1}}}]):
                yield str(group["_id"]), group["n"]

        for name, n in counted({"status": "running"}):
            by_worker.setdefault(name, Work()).running = n
        if since is None:
            return by_worker
        for name, n in counted({"status": {"$in": ["done", "part_done"]}, "finished_at": {"$gte": since}}):
            by_worker.setdefault(name, Work()).done = n
        earlier = {"finished_at": {"$lt": since}}
        for failed in tasks.find({"failed_by": {"$gt": ""}, "$nor": [earlier]}, {"failed_by": 1}):
            for name in failed_workers(failed["failed_by"]):
                by_worker.setdefault(name, Work()).failed += 1
        return by_worker

    @translate_errors
    def past_attempts(self, pool: str, limit: int) -> list[tuple[str, Attempt]]:
        """Return the latest attempts in the histories of the tasks of a pool, with the ids of the tasks."""
        tried = self._tasks(pool).find({"history": {"$ne": []}}, {"digest": 1, "history": 1})
        found = [
            (str(d.get("digest")), replace(one, error=None)) for d in tried for one in history_in(d.get("history"))
        ]
        return sorted(found, key=lambda pair: (-pair[1].ended_at, -pair[1].number))[:limit]

    @translate_errors
    def paused(self, pool: str) -> bool:
        return self._meta.find_one({"_id": f"paused:{pool}"}) is not None

    @translate_errors
    def wait_for_change(self, pool: str, timeout: float) -> None:
        # Change streams require a replica set; a small indexed query works everywhere.
        deadline, delay = time.monotonic() + timeout, 0.02
        while (token := self._change_token(pool)) == self._seen.get(pool):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(delay, left))
            delay = min(delay * 1.5, 0.5)
        self._seen[pool] = token

    def _change_token(self, pool: str) -> object:
        tasks = self._tasks(pool)
        latest = tasks.find_one({}, {"changed": 1, "digest": 1, "status": 1}, sort=[("changed", DESCENDING)])
        return latest, tasks.count_documents({}), self.paused(pool)

    # -- changing ------------------------------------------------------------------------------------------------------

    def _change(self, pool: str, condition: Document, change: Document, *, stale: bool = True) -> list[str]:
        """Change the tasks that match and return their ids. With `stale`, claims on them become stale."""
        tasks = self._tasks(pool)
        ids = ids_of(tasks.find(condition, {"digest": 1}))
        update: Document = {"$set": {**change, "changed": self._now()}}
        if stale:
            update["$set"]["token"] = self._number("token")
        tasks.update_many({"$and": [{"digest": {"$in": ids}}, condition]}, update)
        return ids

    def _change_each(
        self, pool: str, condition: Document, attempted: Document, fields: Sequence[str],
        change: Callable[[TaskRecord], TaskRecord],
    ) -> list[str]:  # fmt: skip
        """Change fields of the tasks that match, whose claims become stale, and return their ids.

        Those that are `attempted` change one by one, as each has another history; the others, all at once.
        """
        tasks, token = self._tasks(pool), self._number("token")
        ids = ids_of(tasks.find(condition, {"digest": 1}))
        # Twice, as some may have been claimed before the others were changed.
        for not_changed in ({}, {"token": {"$lt": token}}):
            these = {"$and": [{"digest": {"$in": ids}}, condition, not_changed]}
            stale = {"changed": self._now(), "token": token}
            each = [
                UpdateOne(
                    {
                        name: found.get(name) for name in ("_id", "status", "worker", "started_at")
                    },  # still the same claim
                    {"$set": fields_of(change(record_of(pool, found)), *fields, "history") | stale},
                )
                for found in tasks.find({"$and": [these, attempted]}, dict.fromkeys(HELD, 1))
            ]
            if each:
                tasks.bulk_write(each, ordered=False)
            others = {"$and": [these, {"$nor": [attempted]}]}
            tasks.update_many(others, {"$set": fields_of(change(ANY_TASK), *fields) | stale})
        return ids

    @translate_errors
    def remove(self, pool: str, query: Query | None = None) -> int:
        tasks = self._tasks(pool)
        ids = ids_of(tasks.find(to_condition(parse_query(query)), {"digest": 1}))
        tasks.delete_many({"digest": {"$in": ids}})
        old = list(self._meta.find({"pool": pool, "at": {"$lte": self._now() - SUBMISSION_SECONDS}}))
        for kept in old:
            about = {"digest": {"$in": tasks_of_info(kept.get("facts"))}}
            if tasks.find_one({"$or": [{"submission": kept["key"]}, about]}, {"_id": 1}) is None:
                # Unless it has been kept meanwhile, for tasks that are about to be created.
                self._meta.delete_one({"_id": kept["_id"], "at": kept["at"]})
        self._propagate(pool, ids)
        return len(ids)

    @translate_errors
    def set_status(self, pool: str, query: Query | None, status: Status) -> int:
        refuse_running(status)
        stage = ("stage_from",) if status in (Status.WAITING, Status.PART_DONE) else ()
        ids = self._change_each(
            pool, to_condition(parse_query(query)), ATTEMPTED, (*STATUS_SET, *stage),
            lambda task: transitions.with_status(task, status, now=self._now()),
        )  # fmt: skip
        self._propagate(pool, {*ids, *dependencies_of(self._tasks(pool), ids)})
        return len(ids)

    @translate_errors
    def prioritize(self, pool: str, query: Query | None, priority: int) -> int:
        number = checked_priority(priority)
        return len(self._change(pool, to_condition(parse_query(query)), {"priority": number}, stale=False))

    @translate_errors
    def retry(self, pool: str, query: Query | None = None) -> int:
        ids = self._wait_again(pool, {"$and": [to_condition(parse_query(query)), {"status": "failed"}]})
        ids = ids + self._retry_dependents(pool, ids)
        self._propagate(pool, {*ids, *dependencies_of(self._tasks(pool), ids)})
        return len(ids)

    def _retry_dependents(self, pool: str, ids: list[str]) -> list[str]:
        """Reset tasks that failed only because they depend on tasks that wait again."""
        found: list[str] = []
        while ids:
            ids = self._wait_again(pool, {"needs": {"$in": ids}, "status": "failed", "cause": "dependency"})
            found += ids
        return found

    def _wait_again(self, pool: str, condition: Document) -> list[str]:
        ids: list[str] = []
        for stage in (Status.WAITING, Status.PART_DONE):
            change = fields_of(transitions.retried(replace(ANY_TASK, stage_from=stage)), *RESET)
            ids += self._change(pool, {"$and": [condition, {"stage_from": stage.value}]}, change)
        return ids

    @translate_errors
    def cancel(self, pool: str, query: Query | None = None) -> int:
        unfinished = {"$and": [to_condition(parse_query(query)), {"status": {"$in": UNFINISHED}}]}
        ids = self._change_each(
            pool,
            unfinished,
            {"status": "running"},
            CANCELLED,
            lambda task: transitions.cancelled(task, now=self._now()),
        )
        self._propagate(pool, ids)
        return len(ids)

    @translate_errors
    def pause(self, pool: str, paused: bool = True) -> None:
        if paused:
            self._meta.update_one({"_id": f"paused:{pool}"}, {"$set": {"at": self._now()}}, upsert=True)
        else:
            self._meta.delete_one({"_id": f"paused:{pool}"})

    @translate_errors
    def replace(self, pool: str, task_id: str, definition: Mapping[str, object]) -> str:
        tasks, written = self._tasks(pool), definition_fields(definition)
        new_id = str(written["digest"])
        old = tasks.find_one(by_id(task_id))
        if old is None:
            raise task_not_found(pool, task_id)
        old_id = str(old.get("digest"))
        known = tasks.find_one({"digest": new_id}) if new_id != old_id else None
        dependencies = sorted(
            {*texts_in(old.get("needs")), *texts_in((known or {}).get("needs"))} - ({old_id} if known else set())
        )
        if known and old_id in texts_in(known.get("needs")):
            raise ConfigError(f"Task {new_id} would depend on itself.", path="depends_on")
        waiting = set(ids_of(tasks.find({"needs": {"$in": [old_id]}}, {"digest": 1})))

        def renamed_dependencies(some: list[str]) -> set[str]:
            found = dependencies_of(tasks, some)
            return found | {new_id} if waiting & set(some) else found

        refuse_cycles({new_id}, dependencies, renamed_dependencies)
        if known:
            change = {
                "$set": {"needs": dependencies},
                "$addToSet": {"batches": {"$each": texts_in(old.get("batches"))}},
            }
            tasks.update_one({"_id": known["_id"]}, change)
            tasks.delete_one({"_id": old["_id"]})
        else:
            fresh = {k: v for k, v in FRESH.items() if k not in KEPT}
            change = {**fresh, **written, "created_at": self._now(), "changed": self._now()}
            change["token"] = self._number("token")
            tasks.update_one({"_id": old["_id"]}, {"$set": change, "$unset": {"res": ""}})
        for dependent in list(tasks.find({"needs": {"$in": [old_id]}}, {"needs": 1})):
            renamed = sorted({new_id if n == old_id else n for n in texts_in(dependent.get("needs"))})
            tasks.update_one({"_id": dependent["_id"]}, {"$set": {"needs": renamed}, "$pullAll": {"unmet": [old_id]}})
        self._propagate(pool, {new_id, *dependencies})
        return new_id


def _in_batch(batch: str) -> Document:
    return {"batches": {"$in": [batch]}} if batch else {}  # $in, as the test double knows no equality in lists


def _of_batch(batch: str, condition: Document) -> Document:
    return {"$and": [_in_batch(batch), condition]} if batch else condition
