"""The MongoDB database of a task store: connecting, its clock and numbers, its collections, and the driver's errors.

Documents written by Qlib are converted when they are first read.
"""

from __future__ import annotations

import abc
import functools
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any, TypeVar, cast

from bson import ObjectId
from pymongo import MongoClient, ReturnDocument, errors as mongo
from pymongo.collection import Collection
from pymongo.uri_parser import parse_uri

from rollforge import safe_pickle, trust
from rollforge.confidential import mask_error, mask_secrets
from rollforge.errors import (
    ConfigError,
    RollforgeError,
    StoreUnavailable,
)
from rollforge.store.base import (
    Clock,
    not_unicode,
    refuse_newer,
    storable_text,
)
from rollforge.store.mongo_documents import (
    FRESH,
    Document,
    pickle_bytes,
)
from rollforge.task import (
    digest,
    encode,
)

__all__ = ["META", "MongoDatabase", "translate_errors"]

F = TypeVar("F", bound=Callable[..., Any])


SCHEMA_VERSION = 4
META = "rollforge_meta"
"""The collection of the numbers, submissions and paused pools of all pools."""
_SECONDS = 10.0


def translate_errors(method: F) -> F:
    """Translate errors of the driver, and of damaged documents, in a method."""

    @functools.wraps(method)
    def wrapped(self: MongoDatabase, *args: object, **kwargs: object) -> object:
        try:
            return method(self, *args, **kwargs)
        except mongo.PyMongoError as exc:
            raise self._unavailable(exc) from exc
        except RollforgeError:
            raise
        except UnicodeEncodeError as exc:
            raise not_unicode(exc) from exc
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as exc:
            raise StoreUnavailable(
                f"The database {self._database.name!r} contains data that Rollforge did not write "
                f"({type(exc).__name__}: {exc}). Choose another one with --store, or remove it."
            ) from exc

    return wrapped  # type: ignore[return-value]


class MongoDatabase(abc.ABC):
    """The database of a task store, one collection a pool; see :class:`~rollforge.store.mongo.MongoStore`."""

    @abc.abstractmethod
    def pools(self) -> list[str]:
        """Return the names of the pools that have tasks."""

    def __init__(self, uri: str, *, clock: Clock | None = None) -> None:
        self.uri = uri
        self._given_clock = clock
        self._offset = (0.0, -1e9)
        self._checked_at: dict[str, float] = {}
        self._seen: dict[str, Any] = {}
        try:
            named = parse_uri(uri)["database"] if not uri.startswith("mongodb+srv") else None
            options: dict[str, Any] = {"serverSelectionTimeoutMS": 1000 * _SECONDS}
            if "serverselectiontimeoutms" in uri.lower():
                options = {}
            self._client: MongoClient[Document] = MongoClient(uri, tz_aware=True, connect=False, **options)
            self._database = self._client[named or self._client.get_default_database("rollforge").name]
        except (mongo.PyMongoError, ValueError, OSError) as exc:  # OSError: a certificate that cannot be read
            raise ConfigError(f"{mask_secrets(uri)!r}: {mask_error(str(exc), uri)}", path="store") from exc
        self._meta = self._database[META]
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    @translate_errors
    def _check_schema(self) -> None:
        found = self._meta.find_one({"_id": "schema"})
        if found is None:
            self._meta.update_one({"_id": "schema"}, {"$setOnInsert": {"version": SCHEMA_VERSION}}, upsert=True)
            return
        refuse_newer(mask_secrets(self.uri), found["version"], SCHEMA_VERSION)
        if found["version"] < SCHEMA_VERSION:
            # Schema 2 added model_name, schema 3 failed_by and submission, schema 4 batches.
            since: Document = {"model_name": "", "failed_by": "", "submission": "", "batches": []}
            for pool in self.pools():
                for added, value in since.items():
                    lacking = {"digest": {"$exists": True}, added: {"$exists": False}}
                    self._database[pool].update_many(lacking, {"$set": {added: value}})
            self._meta.update_one({"_id": "schema"}, {"$max": {"version": SCHEMA_VERSION}})

    def _unavailable(self, exc: mongo.PyMongoError) -> StoreUnavailable:
        code = getattr(exc, "code", None)
        if code in (13, 18) or "auth" in str(exc).lower():
            reason = "rejects the user or the password. Check them in the URI"
        elif isinstance(exc, mongo.ServerSelectionTimeoutError):
            reason = "cannot be reached. Check that the server is running, and the host and port"
        elif isinstance(exc, mongo.ConnectionFailure):
            reason = "closed the connection. The server was stopped or restarted"
        elif isinstance(exc, mongo.DocumentTooLarge):
            reason = "does not accept documents larger than 16 MB. Return less data, or a recorder"
        else:
            reason = "cannot be used"
        # The driver appends a description of every server.
        text = mask_error(" ".join(str(exc).split()).partition(", Topology Description:")[0], self.uri)[:300]
        return StoreUnavailable(f"The task store {mask_secrets(self.uri)} {reason} ({text})")

    def _now(self) -> float:
        """Return the server's time: this machine's clock with an offset that is measured once a minute."""
        if self._given_clock is not None:
            return self._given_clock()
        offset, measured = self._offset
        if time.monotonic() - measured > 60:
            before = time.time()
            server_time = self._client.admin.command("hello")["localTime"].replace(tzinfo=UTC).timestamp()
            offset = server_time - (before + time.time()) / 2
            self._offset = (offset, time.monotonic())
        return time.time() + offset

    def _number(self, name: str, count: int = 1) -> int:
        """Reserve `count` unique numbers and return the last of them."""
        found = self._meta.find_one_and_update(
            {"_id": name}, {"$inc": {"value": count}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        return int(cast(Document, found)["value"])

    def _tasks(self, pool: str) -> Collection[Document]:
        if not pool or "$" in pool or "\x00" in pool or pool.startswith("system.") or pool == META:
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
        for found in list(tasks.find({"digest": {"$exists": False}})):
            trust.check_allowed()  # a wrong setting of the operator must not make the document unreadable
            its_id = found["_id"]
            made = its_id.generation_time.timestamp() if isinstance(its_id, ObjectId) else self._now()
            ours = {**FRESH, "created_at": made, "seq": self._number("seq")}
            ours |= {k: v for k, v in found.items() if k in FRESH and v is not None}
            if ours["status"] == "part_done":
                ours["stage_from"] = "part_done"
            try:
                definition = safe_pickle.loads(pickle_bytes(found.get("def")))
                ours |= {"plain": encode(definition), "digest": digest(definition)}
            except (RollforgeError, TypeError, ValueError) as exc:
                error = storable_text(f"The definition was refused: {exc}")
                ours |= {
                    "plain": "{}",
                    "digest": str(found["_id"]),
                    "status": "failed",
                    "error": error,
                    "cause": "unreadable",
                }
            try:
                tasks.update_one({"_id": found["_id"], "digest": {"$exists": False}}, {"$set": ours})
            except mongo.DuplicateKeyError:  # Qlib may store a task twice
                tasks.update_one({"_id": found["_id"]}, {"$set": {**ours, "digest": str(found["_id"])}})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
