"""The MongoDB database of a task store: its numbers and its collections.

Documents written by Qlib are converted when they are first read.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from bson import ObjectId
from pymongo import ReturnDocument, errors as mongo
from pymongo.collection import Collection

from rollforge import safe_pickle, trust
from rollforge.confidential import mask_secrets
from rollforge.errors import (
    ConfigError,
    RollforgeError,
    StoreUnavailable,
    outer_parts,
)
from rollforge.store.base import (
    Clock,
    refuse_newer,
    refuse_older,
    storable_text,
)
from rollforge.store.mongo_connection import LEDGER_COLLECTIONS, MongoConnection, translate_errors
from rollforge.store.mongo_documents import (
    FRESH,
    HELD,
    Document,
    history_field,
    pickle_bytes,
    record_of,
)
from rollforge.task import (
    Attempt,
    Ending,
    digest,
    encode,
)
from rollforge.transitions import MAX_ERROR_LENGTH

__all__ = ["META", "MongoDatabase"]

F = TypeVar("F", bound=Callable[..., Any])


SCHEMA_VERSION = 5
META = "rollforge_meta"
"""The collection of the numbers, submissions and paused pools of all pools."""
_SECONDS = 10.0


class MongoDatabase(MongoConnection):
    """The database of a task store, one collection per pool; see :class:`~rollforge.store.mongo.MongoStore`."""

    @abc.abstractmethod
    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""

    _noun = "task store"
    _option = "--store"

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self._checked_at: dict[str, float] = {}
        self._seen: dict[str, object] = {}
        super().__init__(uri, clock=clock, read_only=read_only)

    @property
    def _meta(self) -> Collection[Document]:
        return self._database[META]

    @translate_errors
    def _check_schema(self) -> None:
        found = self._meta.find_one({"_id": "schema"})
        if self._read_only:
            if found is None:
                raise StoreUnavailable(f"There is no {self._noun} in {mask_secrets(self.uri)}.")
            refuse_newer(mask_secrets(self.uri), found["version"], SCHEMA_VERSION)
            refuse_older(mask_secrets(self.uri), found["version"], SCHEMA_VERSION)
            return
        if found is None:
            self._meta.update_one({"_id": "schema"}, {"$setOnInsert": {"version": SCHEMA_VERSION}}, upsert=True)
            return
        refuse_newer(mask_secrets(self.uri), found["version"], SCHEMA_VERSION)
        if found["version"] < SCHEMA_VERSION:
            # Schema 2 added model_name, schema 3 failed_by and submission, schema 4 batches, schema 5 history.
            since: Document = {"model_name": "", "failed_by": "", "submission": "", "batches": [], "history": []}
            for pool in self.pools():
                self._add_last_failures(self._database[pool])
                for added, value in since.items():
                    lacking = {"digest": {"$exists": True}, added: {"$exists": False}}
                    self._database[pool].update_many(lacking, {"$set": {added: value}})
            self._meta.update_one({"_id": "schema"}, {"$max": {"version": SCHEMA_VERSION}})

    def _add_last_failures(self, tasks: Collection[Document]) -> None:
        """Begin the history of each task with its last failed attempt, which is known from the task itself."""
        failed = {
            "digest": {"$exists": True}, "history": {"$exists": False}, "status": {"$ne": "running"},
            "cause": {"$nin": [None, "cancelled", "dependency", "unfit"]}, "started_at": {"$ne": None},
            "finished_at": {"$ne": None},
        }  # fmt: skip
        for found in list(tasks.find(failed, dict.fromkeys((*HELD, "error", "cause"), 1))):
            task = record_of("", found)
            last = Attempt(
                number=max(1, task.attempt), ending=Ending.FAILED, cause=task.cause,
                error=task.error and outer_parts(task.error, MAX_ERROR_LENGTH), worker=task.worker,
                started_at=task.started_at, ended_at=task.finished_at or 0.0, token=task.token,
            )  # fmt: skip
            missing = {"_id": found["_id"], "history": {"$exists": False}}
            tasks.update_one(missing, {"$set": {"history": history_field([last])}})

    def _number(self, name: str, count: int = 1) -> int:
        """Reserve `count` unique numbers and return the last of them."""
        found = self._meta.find_one_and_update(
            {"_id": name}, {"$inc": {"value": count}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        return int(cast(Document, found)["value"])

    def _tasks(self, pool: str) -> Collection[Document]:
        if (
            not pool
            or "$" in pool
            or "\x00" in pool
            or pool.startswith("system.")
            or pool in (META, *LEDGER_COLLECTIONS)
        ):
            raise ConfigError(f"MongoDB does not accept {pool!r} as the name of a collection.", path="pool")
        tasks = self._database[pool]
        if pool not in self._checked_at:
            self._checked_at[pool] = -1e9
            tasks.create_index("digest", unique=True, sparse=True)
            tasks.create_index([("status", 1), ("priority", -1), ("seq", 1)])
            tasks.create_index([("batches", 1), ("status", 1), ("priority", -1), ("seq", 1)])
            tasks.create_index([("status", 1), ("claim", 1)])
            tasks.create_index("needs")
            tasks.create_index("changed")
        if time.monotonic() - self._checked_at[pool] > 1.0:
            self._checked_at[pool] = time.monotonic()
            self._add_fields(tasks)
        return tasks

    def _add_fields(self, tasks: Collection[Document]) -> None:
        """Add Rollforge's fields to documents written by Qlib."""
        for document in list(tasks.find({"digest": {"$exists": False}})):
            trust.check_allowed()  # a wrong setting of the operator must not make the document unreadable
            its_id = document["_id"]
            made = its_id.generation_time.timestamp() if isinstance(its_id, ObjectId) else self._now()
            ours = {**FRESH, "created_at": made, "seq": self._number("seq")}
            ours |= {k: v for k, v in document.items() if k in FRESH and v is not None}
            if ours["status"] == "part_done":
                ours["stage_from"] = "part_done"
            try:
                definition = safe_pickle.loads(pickle_bytes(document.get("def")))
                ours |= {"plain": encode(definition), "digest": digest(definition)}
            except (RollforgeError, TypeError, ValueError) as exc:
                error = storable_text(f"The definition was refused: {exc}")
                ours |= {
                    "plain": "{}",
                    "digest": str(document["_id"]),
                    "status": "failed",
                    "error": error,
                    "cause": "unreadable",
                }
            try:
                tasks.update_one({"_id": document["_id"], "digest": {"$exists": False}}, {"$set": ours})
            except mongo.DuplicateKeyError:  # Qlib may store a task twice
                tasks.update_one({"_id": document["_id"]}, {"$set": {**ours, "digest": str(document["_id"])}})
