"""A ledger in a MongoDB database. It needs no transactions, so a single server is enough.

The document of a service holds its lease, the number of its last entry, and a copy of that entry until it is in the
collection of entries. One conditional update of this document decides an entry; if the process is killed then, the next
append copies the entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Sequence

from pymongo import ReturnDocument, collection, errors as mongo

from rollforge.confidential import mask_secrets
from rollforge.errors import LeaseLost, LedgerConflict, StoreUnavailable
from rollforge.ledger.base import (
    CheckedLedger,
    NewEntry,
    Score,
    ServiceLease,
    busy,
    conflict,
    lost,
)
from rollforge.ledger.entry import Entry, kind_of
from rollforge.store.base import refuse_newer
from rollforge.store.mongo_connection import LEDGER_COLLECTIONS, MongoConnection, translate_errors
from rollforge.store.mongo_documents import Document

__all__ = ["MongoLedger"]

SCHEMA_VERSION = 5
"""The version of ledgers in SQL databases: what an older program would misread in them, it would misread here too."""
_SCHEMA = "/schema"
"""Id of the document with the version, which cannot be the name of a service."""


class MongoLedger(MongoConnection, CheckedLedger):
    """Entries in a MongoDB database: that of a task store, or another one. Leases are timed by the server's clock.

    Parameters
    ----------
    uri : str
        ``mongodb://user:password@host:port/database``.
    clock : callable, optional
        Returns seconds since the epoch; by default the server's clock is used.
    read_only : bool
        Whether the ledger must exist and only its reading methods are used.

    Raises
    ------
    StoreUnavailable
        If the server cannot be reached, or the database is newer than this program.
    """

    _noun = "ledger"
    _option = "--ledger"

    @property
    def _entries(self) -> collection.Collection[Document]:
        return self._database[LEDGER_COLLECTIONS[0]]

    @property
    def _services(self) -> collection.Collection[Document]:
        return self._database[LEDGER_COLLECTIONS[1]]

    @property
    def _scores(self) -> collection.Collection[Document]:
        return self._database[LEDGER_COLLECTIONS[2]]

    @translate_errors
    def _check_schema(self) -> None:
        if not self._read_only:
            new = {"$setOnInsert": {"version": SCHEMA_VERSION}}
            self._services.update_one({"_id": _SCHEMA}, new, upsert=True)
        found = self._services.find_one({"_id": _SCHEMA})
        if found is None:
            raise StoreUnavailable(f"There is no ledger in {mask_secrets(self.uri)}.")
        refuse_newer(mask_secrets(self.uri), int(found["version"]), SCHEMA_VERSION, self._noun)
        if not self._read_only:
            self._services.update_one({"_id": _SCHEMA}, {"$max": {"version": SCHEMA_VERSION}})
            self._entries.create_index([("service", 1), ("number", 1)], unique=True)
            self._scores.create_index([("service", 1), ("day", 1), ("version", 1)])

    # -- leases --------------------------------------------------------------------------------------------------------

    @translate_errors
    def _acquire(self, service: str, holder: str, seconds: float) -> ServiceLease:
        fresh = {"holder": "", "token": 0, "until": 0.0, "since": 0.0, "last": 0, "made_at": 0.0, "pending": None}
        with contextlib.suppress(mongo.DuplicateKeyError):  # another process has inserted it at the same time
            self._services.update_one({"_id": service}, {"$setOnInsert": fresh}, upsert=True)
        now = self._now()
        free: Document = {"$or": [{"holder": holder}, {"until": {"$lte": now}}, {"since": {"$gt": now}}]}
        found = self._services.find_one_and_update(
            {"$and": [{"_id": service}, free]},  # the test double does not combine $or with other conditions
            {"$set": {"holder": holder, **_times(now, seconds)}, "$inc": {"token": 1}},
            projection={"pending": 0},
            return_document=ReturnDocument.AFTER,
        )
        if found is None:
            other = self._services.find_one({"_id": service}, {"pending": 0}) or {}
            raise busy(service, str(other["holder"]), float(other["until"]))
        return _lease(found)

    @translate_errors
    def _renew(self, lease: ServiceLease, seconds: float) -> ServiceLease:
        now = self._now()
        found = self._services.find_one_and_update(
            _held(lease, now),
            {"$set": _times(now, seconds)},
            projection={"pending": 0},
            return_document=ReturnDocument.AFTER,
        )
        if found is None:
            raise lost(lease)
        return _lease(found)

    @translate_errors
    def release(self, lease: ServiceLease) -> None:
        self._services.update_one({"_id": lease.service, "token": lease.token}, {"$set": {"until": 0.0}})

    @translate_errors
    def held_by(self, service: str) -> ServiceLease | None:
        found = self._services.find_one({"_id": service, **_valid(self._now())}, {"pending": 0})
        return None if found is None else _lease(found)

    # -- entries -------------------------------------------------------------------------------------------------------

    @translate_errors
    def _append(self, lease: ServiceLease, new: NewEntry, scores: Sequence[Score]) -> Entry:
        self._insert(new, scores)
        try:
            return self._decide(lease, new)
        except (LeaseLost, LedgerConflict):
            if scores:
                self._scores.delete_many(_origin(new))
            raise

    def _decide(self, lease: ServiceLease, new: NewEntry) -> Entry:
        while True:
            state = self._complete(new.service)
            now = self._now()
            entry = {
                "service": new.service, "number": new.number, "kind": new.kind, "body": new.text, "token": new.token,
                "made_at": max(now, float(state.get("made_at", 0.0))), "by": new.by,
            }  # fmt: skip
            decided = self._services.update_one(
                {**_held(lease, now), "last": new.number - 1, "pending": None},
                {"$set": {"last": new.number, "made_at": entry["made_at"], "pending": entry}},
            )
            if decided.modified_count:
                self._complete(new.service)
                return _entry(entry)
            state = self._complete(new.service)
            found = self._entries.find_one({"service": new.service, "number": new.number})
            if found is not None and _is_same(new, found):
                return _entry(found)
            if self._services.find_one(_held(lease, self._now()), {"_id": 1}) is None:
                raise lost(lease)
            if state["last"] != new.number - 1:
                raise conflict(new, int(state["last"]))

    def _insert(self, new: NewEntry, scores: Sequence[Score]) -> None:
        """Insert scores before their entry. Those of a call that is refused belong to no entry, and are not read."""
        signals: dict[tuple[str, int], list[list[object]]] = {}
        for score in scores:
            signals.setdefault((score.day, score.version), []).append([score.instrument, score.score])
        for (day, version), rows in signals.items():
            of = {**_origin(new), "day": day, "version": version}
            self._scores.update_one(of, {"$setOnInsert": {"rows": rows}}, upsert=True)

    @translate_errors
    def scores(self, service: str, day: str, version: int) -> list[tuple[str, float | None]]:
        some = {"service": service, "day": day, "version": version}
        for stored in sorted(self._scores.find(some), key=lambda row: int(row["entry"])):
            entry = self._stored(service, int(stored["entry"]))
            # Scores of earlier versions do not name the body.
            same = entry is not None and stored.get("body") in (None, _body_mark(str(entry["body"])))
            if same and entry is not None and entry["token"] == stored["token"]:
                return sorted((str(code), score) for code, score in stored["rows"])
        return []

    def _stored(self, service: str, number: int) -> Document | None:
        """Return an entry as it is stored; None if there is none."""
        found: Document | None = self._entries.find_one({"service": service, "number": number})
        if found is not None:
            return found
        state = self._services.find_one({"_id": service}) or {}
        pending: Document | None = state.get("pending")
        return pending if pending is not None and pending["number"] == number else None

    def _complete(self, service: str) -> Document:
        """Copy the last entry of a service to the collection of entries if it is not there; return its document before."""
        state: Document | None = self._services.find_one({"_id": service})
        if state is None:
            return {}
        if state["pending"] is not None:
            with contextlib.suppress(mongo.DuplicateKeyError):  # another process has copied it
                self._entries.insert_one(dict(state["pending"]))
            copied = {"_id": service, "pending.number": state["pending"]["number"]}
            self._services.update_one(copied, {"$set": {"pending": None}})
        return state

    @translate_errors
    def entries(self, service: str, *, after: int = 0, kinds: Collection[str] = ()) -> list[Entry]:
        state = self._services.find_one({"_id": service})
        if state is None:
            return []
        # Entries up to `last` are in the collection, except one that is not copied yet. Later ones are left out, as
        # reading is not atomic: one might be found without the one before it.
        some = {"service": service, "number": {"$gt": after, "$lte": state["last"]}}
        found = {int(row["number"]): row for row in self._entries.find(some).sort("number", 1)}
        pending = state["pending"]
        if pending is not None and pending["number"] > after:
            found.setdefault(int(pending["number"]), pending)
        return [_entry(row) for row in found.values() if not kinds or row["kind"] in kinds]

    @translate_errors
    def services(self) -> list[str]:
        return sorted(str(found["_id"]) for found in self._services.find({"last": {"$gt": 0}}, {"_id": 1}))


def _times(now: float, seconds: float) -> Document:
    """Return when a lease begins and ends to be valid, as :func:`~rollforge.ledger.base.lasts`."""
    return {"until": now + seconds, "since": now - seconds}


def _valid(now: float) -> Document:
    return {"until": {"$gt": now}, "since": {"$lte": now}}


def _held(lease: ServiceLease, now: float) -> Document:
    return {"_id": lease.service, "token": lease.token, **_valid(now)}


def _lease(found: Document) -> ServiceLease:
    return ServiceLease(str(found["_id"]), str(found["holder"]), int(found["token"]), float(found["until"]))


def _origin(new: NewEntry) -> Document:
    """Return the fields by which scores name their entry."""
    mark = _body_mark(new.text)
    return {"service": new.service, "entry": new.number, "token": new.token, "body": mark}


def _body_mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_same(new: NewEntry, found: Document) -> bool:
    return new.is_same(found["kind"], found["body"], found["token"])


def _entry(found: Document) -> Entry:
    return Entry(
        service=str(found["service"]), number=int(found["number"]), kind=kind_of(found["kind"]),
        body=json.loads(found["body"]), token=int(found["token"]), made_at=float(found["made_at"]), by=str(found["by"]),
    )  # fmt: skip
