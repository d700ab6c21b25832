"""Dependencies between tasks in MongoDB: following changes of prerequisites, and failing the dependents of failed tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pymongo.collection import Collection

from rollforge import transitions
from rollforge.store.mongo_database import MongoDatabase
from rollforge.store.mongo_documents import (
    ANY_TASK,
    DEPENDENCY,
    Document,
    fields_of,
    ids_of,
    moment_of,
    texts_in,
)

__all__ = ["UNFINISHED", "MongoDependencies", "dependencies_of", "some_of"]

UNFINISHED = ["waiting", "running", "part_done"]
# MongoDB refuses the whole update if the field of one document is not a list, which only other programs write.
_LISTED = {"unmet": {"$type": "array"}}

_AT_ONCE = 10_000
"""Maximum number of ids in one query: a message to the server is limited to 48 MB, a document to 16 MB."""


def some_of(ids: list[str]) -> Iterator[list[str]]:
    """Yield the ids in parts of a size that one query can contain."""
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def dependencies_of(tasks: Collection[Document], ids: Sequence[str]) -> set[str]:
    """Return the direct dependencies of some tasks."""
    found = (d for some in some_of(list(ids)) for d in tasks.find({"digest": {"$in": some}}, {"needs": 1}))
    return {n for d in found for n in texts_in(d.get("needs"))}


class MongoDependencies(MongoDatabase):
    """Follows the dependencies of tasks, in the fields ``needs`` and ``unmet``.

    MongoDB changes one document at a time, so the updates of dependents follow a change, and are repeated if a worker
    died in between.
    """

    def _propagate(self, pool: str, changed: Iterable[str], *, themselves: Sequence[str] = ()) -> None:
        """Update the tasks that depend on `changed` ones, which can be claimed, wait or fail, and their dependents.

        Parameters
        ----------
        pool : str
            Name of the pool.
        changed : iterable of str
            Tasks whose status has changed or that have been removed.
        themselves : sequence of str
            Only these dependents; if empty, all of them.
        """
        tasks = self._tasks(pool)
        only: Document = {"digest": {"$in": list(themselves)}} if themselves else {}
        states: dict[str, str | None] = dict.fromkeys(sorted(set(changed)))  # of several, the first is named
        ended: dict[str, float] = {}
        while states:
            for some in some_of(list(states)):
                found = tasks.find({"digest": {"$in": some}}, {"digest": 1, "status": 1, "finished_at": 1})
                for known in found:
                    states[known["digest"]] = known.get("status")
                    ended[known["digest"]] = moment_of(known.get("finished_at"))
            # Entries are only added or removed individually, as other processes may see other tasks end at the same
            # time, and only those that changed, as a task may wait for ten thousand.
            for some in some_of([i for i, status in states.items() if status == "done"]):
                # Processes know the server's clock only to some milliseconds; by its estimate, another process could
                # start the task before its prerequisite ended.
                after = {"available_at": max(ended[i] for i in some)}
                tasks.update_many(
                    {**only, "needs": {"$in": some}, **_LISTED}, {"$pullAll": {"unmet": some}, "$max": after}
                )
            failed: list[str] = []
            for task_id, status in states.items():
                if status != "done":
                    tasks.update_many(
                        {**only, "needs": {"$in": [task_id]}, **_LISTED}, {"$addToSet": {"unmet": task_id}}
                    )
                if status in (None, "failed"):
                    failed += self._fail_with(tasks, task_id, only)
            only, states = {}, dict.fromkeys(failed)

    def _fail_with(self, tasks: Collection[Document], task_id: str, only: Document) -> list[str]:
        """Fail the waiting tasks that depend on one that failed or was removed; return their ids."""
        theirs = {**only, "needs": {"$in": [task_id]}, "status": "waiting"}
        ids = ids_of(tasks.find(theirs, {"digest": 1}))
        if ids:
            now = self._now()
            failed = fields_of(transitions.dependency_failed(ANY_TASK, task_id, now=now), *DEPENDENCY) | {
                "changed": now
            }
            tasks.update_many(theirs, {"$set": failed})
        return ids

    def _repair(self, pool: str) -> None:
        """Apply the updates that are missing because a worker died right after a commit."""
        ended: list[Document] = [
            {"$match": {"status": "waiting", "unmet": {"$ne": []}}},
            {"$limit": 100},
            {"$unwind": "$unmet"},
            {"$group": {"_id": "$unmet"}},
        ]
        unmet_dependencies = texts_in(d["_id"] for d in self._tasks(pool).aggregate(ended))
        over = set(unmet_dependencies)
        for some in some_of(unmet_dependencies):
            moving = {"digest": {"$in": some}, "status": {"$in": UNFINISHED}}
            over -= set(ids_of(self._tasks(pool).find(moving, {"digest": 1})))
        self._propagate(pool, over)
