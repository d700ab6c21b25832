"""Creating and checking MLflow's database file."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollforge.confidential import private_file, private_folder
from rollforge.session import current_session
from rollforge.track.mlflow.library import first_line, import_mlflow, installed_version, quiet

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

__all__ = [
    "BUSY_MS",
    "check_database",
    "create_database",
    "is_kept",
    "is_new",
    "keep_revision",
    "known_revision",
    "locked",
    "tune",
]

log = logging.getLogger(__name__)

BUSY_MS = 60_000
_LOCKED_SECONDS = 600.0  # many processes may open it one after another
_TELL_SECONDS = 20.0


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Serialize opening: processes that open a new database at the same time crash in its migrations.

    Raises
    ------
    TimeoutError
        If another process holds the lock for minutes, because it has been stopped.
    """
    import fcntl

    file = database.parent / f".{database.name}.lock"
    began = told = time.monotonic()
    with file.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now - began > _LOCKED_SECONDS:
                    raise TimeoutError(
                        f"another process has been opening it for {_LOCKED_SECONDS:g} s, and has probably been stopped. "
                        f"'fuser {file}' names it"
                    ) from None
                if now - told > _TELL_SECONDS:
                    told = now
                    log.warning("waiting for another process, which is opening %s", database)
                time.sleep(0.01)
            else:
                break
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too


def create_database(database: Path) -> None:
    """Create the database under a temporary name and rename it, so that a killed process leaves no partial one."""
    draft = database.with_name(f".{database.name}.new")
    kept = _kept()
    try:
        _fill(draft, database.parent)
    except (IsADirectoryError, sqlite3.Error):
        if not kept.exists():
            raise
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()  # it is damaged: MLflow creates another one
        _fill(draft, database.parent)
    _set_aside_logs(database)
    draft.replace(database)


def _set_aside_logs(database: Path) -> None:
    """Rename the logs of a database that was deleted without them: SQLite would write their pages into the new one."""
    Path(f"{database}-shm").unlink(missing_ok=True)
    for ending in ("-wal", "-journal"):
        left = Path(f"{database}{ending}")
        names = (Path(f"{database}.deleted{number or ''}{ending}") for number in itertools.count())
        kept = next(name for name in names if not name.exists())
        with contextlib.suppress(FileNotFoundError):
            left.rename(kept)
            log.warning("%s belonged to a database that was deleted. It is kept as %s.", left, kept.name)


def _fill(draft: Path, folder: Path) -> None:
    """Create the draft of a database in a folder."""
    for ending in ("", "-wal", "-shm", "-journal"):  # by a process that was killed
        Path(f"{draft}{ending}").unlink(missing_ok=True)
    empty = _empty_database(folder)
    artifacts = folder / "mlartifacts"
    try:
        private_file(draft)
        shutil.copyfile(empty, draft)
        private_folder(artifacts)
        with contextlib.closing(sqlite3.connect(str(draft))) as connection:
            now = time.time_ns() // 1_000_000
            changed = connection.execute(
                "UPDATE experiments SET artifact_location = ? || '/' || experiment_id, creation_time = ?, last_update_time = ?",
                (str(artifacts), now, now),
            )
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
            if changed.rowcount != 1 or revision != (known_revision() or revision):
                raise sqlite3.DatabaseError("it is not as the installed MLflow creates it")
            connection.commit()
    finally:
        if empty.parent == folder:
            empty.unlink()


def _cache() -> Path:
    return Path(current_session().cache) / "mlflow"


def _kept() -> Path:
    """Return the path of the kept database, which the installed version of MLflow has created."""
    return _cache() / f"new-{installed_version()}.db"


def is_kept() -> bool:
    """Return whether a new database can be created without importing MLflow."""
    return _kept().exists()


def known_revision() -> str:
    """Return the version of the tables in databases of the installed MLflow; empty if it is not known yet."""
    try:
        return _note().read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def keep_revision(revision: str) -> None:
    """Keep the version of the tables in a database that the installed MLflow has opened."""
    if revision and known_revision() != revision:
        with contextlib.suppress(OSError):  # without the cache, each process asks MLflow
            _cache().mkdir(parents=True, exist_ok=True)
            draft = _note().with_name(f".{uuid.uuid4().hex}.txt")
            draft.write_text(revision, encoding="utf-8")
            draft.replace(_note())


def _note() -> Path:
    return _cache() / f"tables-{installed_version()}.txt"


def _empty_database(next_to: Path) -> Path:
    """Return the path of a database without runs.

    It has MLflow's default experiment. MLflow's migrations take a second, so the result is kept in the cache. If the cache is
    not writable, it is created in the folder `next_to`.
    """
    folder, kept = _cache(), _kept()
    if kept.exists():
        return kept
    utils = import_mlflow()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        keeping = os.access(folder, os.W_OK)
    except OSError:
        keeping = False
    # MLflow caches the databases that it has opened by name, so the name must be new.
    database = (folder if keeping else next_to) / f".{uuid.uuid4().hex}.db"
    try:
        with quiet():
            utils._get_store(f"sqlite:///{database}", str(database.parent)).engine.dispose()
        with contextlib.closing(sqlite3.connect(str(database))) as connection:
            # In WAL mode, readers and a writer do not block each other; four writers were twice as fast.
            connection.execute("PRAGMA journal_mode = WAL")
    except Exception as exc:
        for left in database.parent.glob(f"{database.name}*"):
            left.unlink()
        raise OSError(first_line(exc)) from exc  # MLflow raises errors of four libraries
    return database.replace(kept) if keeping else database


def check_database(file: Path) -> None:
    """Check that the file is a readable database: MLflow retries a damaged one for a minute."""
    with contextlib.closing(
        sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=BUSY_MS / 1000)
    ) as connection:
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()


def is_new(file: Path) -> bool:
    """Return whether the database must be created. An empty file counts as missing unless there is a log next to it."""
    try:
        return file.stat().st_size == 0 and not any(os.path.exists(f"{file}{log}") for log in ("-wal", "-journal"))
    except FileNotFoundError:
        return True


def tune(engine: Engine) -> None:
    """Set up connections: in WAL mode, synchronous=NORMAL loses no committed batch if a process is killed."""
    from sqlalchemy import event

    def settings(connection: DBAPIConnection, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    event.listen(engine, "connect", settings)
    engine.dispose()  # closes connections that were opened without these settings
