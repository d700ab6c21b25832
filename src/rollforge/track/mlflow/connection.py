"""The connection to one of MLflow's tracking stores: opening it, and calling it."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from rollforge.confidential import mask_error, mask_secrets
from rollforge.errors import RecorderNotFound, TrackingError, TrackingUnavailable
from rollforge.paths import read_path
from rollforge.store.sqlite_database import file_identity
from rollforge.track.mlflow.database import (
    BUSY_MS,
    check_database,
    create_database,
    is_kept,
    is_new,
    keep_revision,
    known_revision,
    locked,
    tune,
)
from rollforge.track.mlflow.library import check_installed, first_line, import_mlflow, our_call, quiet
from rollforge.track.mlflow.rows import Declined, Refused, Rows, are_allowed
from rollforge.track.mlflow.values import as_entities

__all__ = ["AlreadyExists", "Connection"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_BROKEN = (
    "readonly database", "unable to open", "malformed", "not a database", "disk is full", "disk I/O", "no such table",
    "no such column",
)  # fmt: skip
"""Parts of SQLite's messages for a database that is damaged or cannot be used."""
_AT_ONCE = ("UNIQUE constraint failed", "duplicate key value")
"""Parts of the messages of SQLite and PostgreSQL if another process has inserted the same row in between."""
_WRITES_AGAIN = frozenset({"set_tag", "log_batch"})
"""Methods that can be called again then: they update a row that exists."""


class AlreadyExists(TrackingError):
    """Another experiment has the same name."""


class Connection:
    """The connection to a tracking store, opened on first use and again in a forked process.

    Parameters
    ----------
    uri : str
        As in :class:`~rollforge.track.mlflow.tracker.MLflowTracker`.

    Attributes
    ----------
    uri : str
        The same with an absolute path.
    database : Path or None
        The database file of a ``sqlite:`` URI.
    folder : Path or None
        The folder of a ``file:`` URI.
    """

    def __init__(self, uri: str) -> None:
        self.database: Path | None = None
        self.folder: Path | None = None
        if uri.startswith("sqlite:"):
            if not uri.startswith("sqlite:///") or uri == "sqlite:///":
                raise TrackingUnavailable(
                    f"{uri!r} does not name a database. Write sqlite:///PATH (sqlite:////PATH from the root)."
                )
            self.database = _absolute(uri.removeprefix("sqlite:///").partition("?")[0])
            uri = f"sqlite:///{self.database}"
        elif uri.startswith("file:"):
            self.folder = _absolute(uri.removeprefix("file:").removeprefix("//"))
            uri = f"file:{self.folder}"
        self.uri = uri
        check_installed(["mlflow", *(["sqlalchemy", "alembic"] if self.database is not None else [])])
        self._opened: Any = None
        self._rows: Rows | None = None
        self._file: tuple[int, int] | None = None
        self._process = 0
        self._opened_registry: tuple[int, Any] = (0, None)
        self._opening = threading.Lock()

    @property
    def _store(self) -> object:
        """MLflow's store. It is opened when it is needed: importing MLflow takes seconds."""
        self.open()
        if self._opened is None:
            self.import_library()
            with self._opening:
                if self._opened is None:
                    self._opened = self._in_database(self._get_mlflow_store)
        return self._opened

    @property
    def rows(self) -> Rows | None:
        """The runs of the database as rows; None if only MLflow reads and writes them."""
        self.open()
        return self._rows

    def open(self) -> None:
        """Open the store; a new database is created."""
        if self._process == os.getpid():
            return
        if self._needs_library():
            self.import_library()  # before the locks: it takes two seconds
        with self._opening:  # another thread must not use a store that is only partly set up
            if self._process != os.getpid():
                self._open_again()
                self._process = os.getpid()

    def _needs_library(self) -> bool:
        """Return whether MLflow itself must open the store; unknown tables are noticed later."""
        if self.database is None or not are_allowed(self.database):
            return True
        try:
            return not known_revision() or (is_new(self.database) and not is_kept())
        except OSError:  # opening it will say why it cannot be read
            return False

    def warm_up(self) -> None:
        """Import what the store needs, without opening it."""
        if self._needs_library():
            self.import_library()

    def _open_again(self) -> None:
        if self._opened is not None and self.database is not None:
            self._opened.engine.dispose(close=False)  # after a fork, the connections belong to the parent
        self._opened = self._rows = self._file = None
        if self.database is None:
            self._check_reachable()
            self._opened = self._get_store(None)
            return
        self._rows = self._in_database(self._known_rows)
        if self._rows is None:
            self._opened = self._in_database(self._get_mlflow_store)
            self._rows = self._in_database(self._rows_of)

    def _in_database(self, work: Callable[[Path], T]) -> T:
        """Do something with the database while no other process opens it."""
        assert self.database is not None
        try:
            self.database.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.database):
                if is_new(self.database):
                    create_database(self.database)
                check_database(self.database)
                return work(self.database)
        except TrackingUnavailable:  # also an OSError, but already complete
            raise
        except OSError as exc:
            raise self.unavailable(exc.strerror or str(exc)) from exc
        except sqlite3.Error as exc:
            raise self.unavailable(str(exc)) from exc
        except Refused as exc:
            raise self.unavailable(first_line(exc)) from exc

    def _known_rows(self, database: Path) -> Rows | None:
        """Return the rows of a database whose tables are those of the installed MLflow; None if that is not known."""
        self._file, _ = file_identity(database)
        rows = Rows(database, BUSY_MS)
        known = are_allowed(database) and rows.revision() == (known_revision() or None) and not rows.unknown_table()
        return rows if known else None

    def _get_mlflow_store(self, database: Path) -> Any:
        opened = self._get_store(str(database.parent / "mlartifacts"))
        tune(opened.engine)
        return opened

    def _rows_of(self, database: Path) -> Rows | None:
        """Return the rows of a database that MLflow has opened."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        if not are_allowed(database) or type(self._opened) is not SqlAlchemyStore:
            return None
        rows = Rows(database, BUSY_MS)
        if unknown := rows.unknown_table():
            log.info("Runs are written by MLflow alone: its table %r is not as expected.", unknown)
            return None
        keep_revision(rows.revision())
        return rows

    def close(self) -> None:
        """Close the connections to the database."""
        if self._opened is not None and self.database is not None:
            self._opened.engine.dispose()
        if self._rows is not None:
            self._rows.close()

    def import_library(self) -> Any:
        """Import what opening the store needs, and return the module of MLflow that opens stores."""
        return import_mlflow(database=self.database is not None)

    def _get_store(self, artifacts: str | None) -> Any:
        utils = self.import_library()
        if self.folder is not None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            with quiet():
                return utils._get_store(self.uri, artifacts)
        except Exception as exc:  # MLflow raises errors of four libraries
            raise self.unavailable(_reason(exc)) from exc

    @property
    def _registry(self) -> object:
        store = self._store  # first: it creates the database
        process, opened = self._opened_registry
        if process != os.getpid():
            from mlflow.tracking._model_registry import utils

            try:
                with quiet():
                    opened = utils._get_store(self.uri, self.uri)  # type: ignore[no-untyped-call]
            except Exception as exc:
                raise self.unavailable(_reason(exc)) from exc
            if self.database is not None and opened is not store:
                tune(opened.engine)
            self._opened_registry = (os.getpid(), opened)
        return opened

    def _check_reachable(self) -> None:
        """Check that the server answers, as MLflow itself retries for minutes before it fails."""
        if self.folder is not None:
            if not self.folder.is_dir():
                raise self.unavailable("the folder does not exist")
            return
        try:
            parts = urlsplit(self.uri)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as exc:
            raise self.unavailable(f"it is not a valid address ({mask_error(str(exc), self.uri)})") from exc
        try:
            socket.create_connection((host, port), timeout=10).close()
        except UnicodeError as exc:  # not a valid host name
            raise self.unavailable(f"{host!r} is not the name of a host") from exc
        except OSError as exc:
            raise self.unavailable(f"the server does not answer ({exc.strerror or exc})") from exc

    def unavailable(self, reason: str) -> TrackingUnavailable:
        """Return an error that says that the store cannot be opened."""
        return TrackingUnavailable(
            f"The tracking store {mask_secrets(self.uri)} cannot be opened: {reason}. Choose another one with --tracking."
        )

    def call(self, name: str, *args: object, registry: bool = False, **kwargs: object) -> Any:
        """Call a method of MLflow's store, or the same of :class:`~rollforge.track.mlflow.rows.Rows` if there is one.

        Errors are translated, and the call is repeated while the database is locked.

        Writing a tag is also retried if another process writes it at the same time: MLflow looks for it and then inserts it.
        With `registry`, the method is that of the store's model registry.
        """
        self.open()
        file = self._file  # first: another thread may open a new database meanwhile
        method = None if registry else getattr(self.rows, name, None)
        if method is None:
            method = self._method_of_mlflow(name, registry=registry)
        for attempt in range(20):
            our_call.active += 1
            try:
                found = method(*args, **kwargs)
                self._check_same_file(file)
            except Declined:
                method = self._method_of_mlflow(name)
                continue
            except TrackingUnavailable:
                raise
            except Exception as exc:
                self._check_same_file(file)
                message = first_line(exc)
                again = name in _WRITES_AGAIN and any(sign in message for sign in _AT_ONCE)
                if _error_code(exc) is None or ("database is locked" not in message and not again):
                    raise self._error(exc) from exc
                last = exc
            else:
                return found
            finally:
                our_call.active -= 1
            # SQLite fails at once, whatever its timeout, if a transaction that has read cannot become a write.
            time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise self.unavailable("it is locked by another process") from last

    def _check_same_file(self, opened: tuple[int, int] | None) -> None:
        """Raise an error if the database that was opened has been deleted or replaced, as what is written to it is lost.

        The next call opens the one that is there then.
        """
        if self.database is None:
            return
        found, size = file_identity(self.database)
        if found == opened and size:
            return
        with self._opening:
            if self._file == opened:
                self._process, self._opened_registry = 0, (0, None)
        what = "deleted or moved" if found is None else "emptied" if found == opened else "replaced"
        raise TrackingUnavailable(
            f"The database {self.database} was {what} while it was in use. Unless it is restored, what was recorded in it is "
            "lost: train the tasks that were running again."
        )

    def _method_of_mlflow(self, name: str, *, registry: bool = False) -> Callable[..., Any]:
        """Return a method of MLflow's store, which gets values as MLflow's own objects."""
        method = getattr(self._registry if registry else self._store, name)

        def called(*args: object, **kwargs: object) -> Any:
            return method(*map(as_entities, args), **{key: as_entities(value) for key, value in kwargs.items()})

        return called

    def _error(self, exc: Exception) -> TrackingError:
        """Return the error that tells what a method has raised."""
        message, code = first_line(exc), _error_code(exc)
        if code is None:  # a damaged file can raise anything in MLflow and its YAML parser
            return TrackingError(
                f"The tracking store {mask_secrets(self.uri)} contains data that MLflow cannot read "
                f"({type(exc).__name__}: {message})."
            )
        deleted = message.startswith("The run ") and message.endswith("Current state is deleted.")
        if deleted or code == "RESOURCE_DOES_NOT_EXIST":
            return RecorderNotFound(f"{message} (in {mask_secrets(self.uri)})")
        if any(sign in message for sign in _BROKEN):
            return self.unavailable(message)
        kind = AlreadyExists if code == "RESOURCE_ALREADY_EXISTS" else TrackingError
        return kind(f"MLflow: {message} (in {mask_secrets(self.uri)})")


def _error_code(exc: Exception) -> str | None:
    """Return the code of an error that MLflow, or :class:`~rollforge.track.mlflow.rows.Rows`, raises on purpose; else None."""
    library = sys.modules.get("mlflow.exceptions")
    kinds = (Refused,) if library is None else (Refused, library.MlflowException)
    return str(exc.error_code) if isinstance(exc, kinds) else None


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(read_path(unquote(path), "tracking")))


def _reason(exc: BaseException) -> str:
    message = first_line(exc)
    if "Can't locate revision" in str(exc) or "out-of-date database schema" in message:
        found = re.search(r"found version (\w+)|identified by '(\w+)'", str(exc))
        version = next((g for g in found.groups() if g), "?") if found else "?"
        return (
            f"its tables have version {version}, which the installed MLflow does not support. Update "
            "mlflow, or copy the database and run 'mlflow db upgrade URI'"
        )
    return message
