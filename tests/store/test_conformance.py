"""Every store keeps every promise."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rollforge.store.base import Clock, TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status
from rollforge.testing.store import POOL, TaskStoreSuite


class TestMemoryStore(TaskStoreSuite):
    def make_store(self, clock: Clock) -> TaskStore:
        return MemoryStore(clock=clock)


class TestSQLiteStore(TaskStoreSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "a folder" / "100%25.db"

    def make_store(self, clock: Clock) -> TaskStore:
        return SQLiteStore(f"sqlite:///{self.file}", clock=clock)

    def test_what_it_says_is_what_the_file_holds(self, store: TaskStore) -> None:
        """Looked at around the store: one row a task, the result in a table of its own, write-ahead mode."""
        store.create(POOL, [{"x": 1}, {"x": 1}])
        store.commit(self.claim(store), {"ic": 0.5})
        raw = sqlite3.connect(self.file)
        assert raw.execute("SELECT pool, status, definition FROM tasks").fetchall() == [(POOL, "done", '{"x":1}')]
        assert raw.execute("SELECT plain, blob FROM results").fetchall() == [('{"ic":0.5}', None)]
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()

    def test_a_hostile_result_is_refused_and_stops_nothing_else(self, store: TaskStore, tmp_path: Path) -> None:
        """A pickle that would run a command runs nothing; its task fails, the others go on."""
        marker = tmp_path / "ran"
        store.create(POOL, [{"x": 1}, {"x": 2}])
        for task in store.claim(POOL, worker="w", lease=60, limit=2):
            store.commit(task, task.definition["x"], Status.PART_DONE)
        hostile = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
        raw = sqlite3.connect(self.file)
        raw.execute("UPDATE results SET plain = NULL, blob = ? WHERE plain = '1'", (hostile,))
        raw.commit()
        raw.close()
        claimed = store.claim(POOL, worker="w", lease=60, status=Status.PART_DONE, limit=2)
        assert [t.result for t in claimed] == [2]
        assert not marker.exists()

    def test_a_newer_schema_is_refused(self, store: TaskStore, tmp_path: Path) -> None:
        """An older program leaves a newer file alone."""
        store.create(POOL, [{"x": 1}])
        raw = sqlite3.connect(self.file)
        raw.execute("PRAGMA user_version = 99")
        raw.close()
        with pytest.raises(ConnectionError, match="newer Rollforge"):
            SQLiteStore(f"sqlite:///{self.file}")
