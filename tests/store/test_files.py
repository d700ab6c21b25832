"""An SQLite store whose file is deleted, moved, emptied or replaced while it is in use."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rollforge.errors import StoreUnavailable
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status

Harm = Callable[[Path], object]


def another_store(file: Path) -> None:
    """Replace the file with that of another store."""
    other = SQLiteStore(f"sqlite:///{file.parent}/other.db")
    other.create("p", [{"y": 1}])
    other.close()
    (file.parent / "other.db").replace(file)


HARMS: dict[str, Harm] = {
    "deleted": lambda file: file.unlink(),
    "moved": lambda file: file.rename(file.parent / "elsewhere.db"),
    "emptied": lambda file: os.truncate(file, 0),
    "replaced by its copy": lambda file: (shutil.copy(file, file.parent / "copy"), (file.parent / "copy").replace(file)),
    "replaced by a hard link to a copy": lambda file: (
        shutil.copy(file, file.parent / "copy"), file.unlink(), os.link(file.parent / "copy", file),
    ),
    "replaced by another store": another_store,
    "a folder in its place": lambda file: (file.unlink(), file.mkdir()),
    "its folder moved": lambda file: (file.parent.rename(file.parent.with_name("away")), file.parent.mkdir()),
    "write-ahead log deleted": lambda file: Path(f"{file}-wal").unlink(),
    "write-ahead log replaced": lambda file: (
        shutil.copy(f"{file}-wal", f"{file}-x"), Path(f"{file}-x").replace(f"{file}-wal"),
    ),
    "its index deleted": lambda file: Path(f"{file}-shm").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_nothing_is_written_to_a_file_that_was_removed_or_replaced(tmp_path: Path, harm: Harm) -> None:
    """Every call raises an error that says what happened to the file."""
    file = tmp_path / "folder" / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": i} for i in range(50)])
    first, second = store.claim("p", worker="w", lease=600, limit=2)
    store.commit(first, 1)
    harm(file)
    for call in (
        lambda: store.commit(second, 2),
        lambda: store.renew(second, 60),
        lambda: store.count("p"),
        lambda: store.claim("p", worker="w", lease=60),
        lambda: store.create("p", [{"z": 1}]),
        lambda: store.wait_for_change("p", 0.01),
    ):
        with pytest.raises(StoreUnavailable, match="while it was in use"):
            call()


def test_a_file_that_is_moved_back_can_be_used_again(tmp_path: Path) -> None:
    """The file contains everything that was committed."""
    file = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": 1}])
    (task,) = store.claim("p", worker="w", lease=600)
    file.rename(tmp_path / "away.db")
    with pytest.raises(StoreUnavailable):
        store.commit(task, 1)
    (tmp_path / "away.db").rename(file)
    store.commit(task, 1)
    assert store.count("p") == {Status.DONE: 1}


def test_a_deleted_file_is_not_created_again(tmp_path: Path) -> None:
    """A thread that first uses the store later, such as the one that renews leases, does not create it either."""
    file = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": 1}])
    file.unlink()
    errors: list[str] = []

    def look() -> None:
        try:
            store.count("p")
        except StoreUnavailable as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    (error,) = errors
    assert "was deleted while it was in use" in error
    assert not file.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda file: (os.link(file, file.parent / "b"), (file.parent / "b").replace(file)),
        lambda file: _execute(file, "VACUUM"),
        lambda file: _execute(file, "PRAGMA wal_checkpoint(TRUNCATE)"),
        lambda file: SQLiteStore(f"sqlite:///{file}").close(),
        lambda file: os.utime(file, (0, 0)),
    ],
    ids=["another name", "vacuum", "checkpoint", "another connection", "touched"],
)
def test_changes_that_keep_the_file_have_no_effect(tmp_path: Path, change: Harm) -> None:
    """The store can still be used after a new hard link, a checkpoint or a connection of another program."""
    file = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": i} for i in range(50)])
    change(file)
    (task,) = store.claim("p", worker="w", lease=600)
    store.commit(task, 1)
    assert SQLiteStore(f"sqlite:///{file}").count("p") == {Status.DONE: 1, Status.WAITING: 49}


def _execute(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as raw:
        raw.execute(statement)


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    """A change of its target is detected."""
    real = tmp_path / "real.db"
    link = tmp_path / "tasks.db"
    SQLiteStore(f"sqlite:///{real}").create("p", [{"x": 1}])
    link.symlink_to(real)
    store = SQLiteStore(f"sqlite:///{link}")
    (task,) = store.claim("p", worker="w", lease=600)
    store.renew(task, 60)
    other = SQLiteStore(f"sqlite:///{tmp_path}/other.db")
    other.create("p", [{"y": 1}])
    link.unlink()
    link.symlink_to(tmp_path / "other.db")
    with pytest.raises(StoreUnavailable, match="replaced"):
        store.commit(task, 1)


def test_opening_the_file_in_another_thread_does_not_release_its_locks(tmp_path: Path) -> None:
    """Otherwise another process that closes the file would take itself for the last one, and delete the write-ahead
    log."""
    file = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": 1}])
    thread = threading.Thread(target=store.count, args=("p",))
    thread.start()
    thread.join()
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM tasks').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)
    assert Path(f"{file}-wal").exists()
    (task,) = store.claim("p", worker="w", lease=600)
    store.commit(task, 1)
