"""A row that holds what no Rollforge wrote costs its own task, and no other."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import ArtifactUnreadable
from rollforge.store.manager import TaskManager
from rollforge.store.rows import read_record
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Cause, Status

DAMAGE: dict[str, tuple[str, Any]] = {
    "priority is a text": ("priority", "high"),
    "attempt is a text": ("attempt", "many"),
    "a time is infinite": ("created_at", float("inf")),
    "the error is no UTF-8": ("error", b"\xff\xfe"),
    "the definition is bytes": ("definition", b"\x80\x05N."),
    "the definition is not JSON": ("definition", "{"),
    "the cause does not exist": ("cause", "lazy"),
}


@pytest.mark.parametrize(("column", "value"), DAMAGE.values(), ids=DAMAGE)
def test_the_other_tasks_are_claimed_and_the_damaged_one_fails(column: str, value: Any, tmp_path: Path) -> None:
    """Whatever the column: the pool goes on, its tasks can be listed, and the damaged one says what is wrong with it."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    manager = TaskManager("pool", store=store)
    ids = manager.create_task([{"n": n} for n in range(3)])
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute(f"UPDATE tasks SET {column} = ? WHERE id = ?", (value, ids[1]))
    connection.close()
    assert len(list(manager.query({}, decode=False))) == 3
    claimed = [task.id for _ in range(4) for task in store.claim("pool", worker="host:1:a", lease=60.0)]
    assert sorted(claimed) == sorted({ids[0], ids[2]})
    damaged = store.get("pool", ids[1])
    assert damaged.status is Status.FAILED
    assert damaged.cause is Cause.UNREADABLE
    store.close()


def test_a_text_that_is_no_utf_8_is_shown_with_escapes(tmp_path: Path) -> None:
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    manager = TaskManager("pool", store=store)
    [task_id] = manager.create_task([{"n": 1}])
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute("UPDATE tasks SET log = CAST(? AS TEXT)", (b"caf\xe9",))
    connection.close()
    assert store.get("pool", task_id).log == "caf\\xe9"
    store.close()


def test_each_column_that_cannot_be_is_named() -> None:
    record = read_record(
        {"pool": "p", "id": "a", "text": "{}", "status": "gone", "priority": None, "token": 2**70, "log": 5}
    )
    assert record.status is Status.FAILED
    assert (record.priority, record.token, record.log) == (0, 0, "")
    for name in ("status", "priority", "token", "log"):
        assert f"Its {name} is " in record.extra["unreadable"]


@pytest.mark.parametrize(
    ("plain", "blob"), [("{bad", None), ('{"$tuple": 5}', None), (None, b"\x80\x04"), (None, "text")]
)
def test_a_damaged_result_costs_its_own_task(plain: Any, blob: Any, tmp_path: Path) -> None:
    """A second stage that needs it fails, the next one runs; who reads it is told whose it is and what to do."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    ids = [c.id for c in store.create("pool", [{"n": 1}, {"n": 2}])]
    for task in store.claim("pool", worker="host:1:a", lease=60.0, limit=2):
        store.commit(task, {"model": task.definition["n"]}, Status.PART_DONE)
    with sqlite3.connect(tmp_path / "tasks.db") as connection:
        connection.execute("UPDATE results SET plain = ?, blob = ? WHERE id = ?", (plain, blob, ids[0]))
    connection.close()
    with pytest.raises(
        ArtifactUnreadable, match=f"The result of task {ids[0]} in pool 'pool' cannot be read: .*reset-status"
    ):
        list(store.query("pool"))
    claimed = store.claim("pool", worker="host:1:a", lease=60.0, status=Status.PART_DONE, limit=2)
    assert [(t.id, t.result) for t in claimed] == [(ids[1], {"model": 2})]
    (damaged,) = store.query("pool", {"_id": ids[0]}, results=False)
    assert (damaged.status, damaged.cause) == (Status.FAILED, Cause.UNREADABLE)
    store.close()
