"""The connection to a MongoDB database: its clock, and the driver's errors."""

from __future__ import annotations

import abc
import functools
import threading
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any, ClassVar, TypeVar

from pymongo import MongoClient, errors as mongo
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from rollforge.confidential import mask_error, mask_secrets
from rollforge.errors import ConfigError, RollforgeError, StoreUnavailable
from rollforge.store.base import Clock, not_unicode
from rollforge.store.mongo_documents import Document

__all__ = ["LEDGER_COLLECTIONS", "MongoConnection", "translate_errors"]

F = TypeVar("F", bound=Callable[..., Any])

LEDGER_COLLECTIONS = ("rollforge_ledger", "rollforge_ledger_services", "rollforge_ledger_scores")
"""The collections of a ledger, which may be in the database of a task store."""
_SECONDS = 10.0


def translate_errors(method: F) -> F:
    """Translate errors of the driver, and of damaged documents, in a method."""

    @functools.wraps(method)
    def wrapped(self: MongoConnection, *args: object, **kwargs: object) -> object:
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
                f"The database {self._name!r} contains data that Rollforge did not write "
                f"({type(exc).__name__}: {exc}). Choose another one with {self._option}, or remove it."
            ) from exc

    return wrapped  # type: ignore[return-value]


class MongoConnection(abc.ABC):
    """A database of a MongoDB server.

    Parameters
    ----------
    uri : str
        ``mongodb://user:password@host:port/database``.
    clock : callable, optional
        Returns seconds since the epoch; by default the server's clock is used.
    read_only : bool
        Whether the collections must exist and are not changed.

    Raises
    ------
    StoreUnavailable
        If the server cannot be reached, or the database is newer than this program.
    """

    _noun: ClassVar[str]
    """What the database is, for messages."""
    _option: ClassVar[str]
    """The option that selects another database, for messages."""

    @abc.abstractmethod
    def _check_schema(self) -> None:
        """Migrate the database; refuse one that is newer than this program."""

    def __init__(self, uri: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self.uri = uri
        self._read_only = read_only
        self._given_clock = clock
        self._offset = (0.0, -1e9)
        self._lock = threading.Lock()
        self._client: MongoClient[Document] | None = None
        try:
            named = parse_uri(uri)["database"] if not uri.startswith("mongodb+srv") else None
            self._client = self._new_client()
            database = self._client[named] if named else self._client.get_default_database("rollforge")
            self._name: str = database.name
        except (mongo.PyMongoError, ValueError, OSError) as exc:  # OSError: a certificate that cannot be read
            raise ConfigError(f"{mask_secrets(uri)!r}: {mask_error(str(exc), uri)}", path="store") from exc
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    def _new_client(self) -> MongoClient[Document]:
        options: dict[str, Any] = {"serverSelectionTimeoutMS": 1000 * _SECONDS}
        if "serverselectiontimeoutms" in self.uri.lower():
            options = {}
        return MongoClient(self.uri, tz_aware=True, connect=False, **options)

    @property
    def _database(self) -> Database[Document]:
        with self._lock:
            if self._client is None:  # after close(): the driver's clients cannot be opened again
                self._client = self._new_client()
            return self._client[self._name]

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
        return StoreUnavailable(f"The {self._noun} {mask_secrets(self.uri)} {reason} ({text})")

    def _now(self) -> float:
        """Return the server's time: this machine's clock with an offset that is measured once a minute."""
        if self._given_clock is not None:
            return self._given_clock()
        offset, measured = self._offset
        if time.monotonic() - measured > 60:
            before = time.time()
            server_time = self._database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC).timestamp()
            offset = server_time - (before + time.time()) / 2
            self._offset = (offset, time.monotonic())
        return time.time() + offset

    def close(self) -> None:
        """Close the connections; a later call opens others."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
