"""Prerequisites are counted correctly when tasks end, are reset, removed or added at the same time."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import LeaseLost, TaskNotFound
from rollforge.store.base import TaskStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status, TaskRecord
from rollforge.testing.postgres import PostgresServer

_numbers = itertools.count()
Opener = Callable[[], TaskStore]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Return a function that opens the same store again, with its own connections."""
    if request.param == "sqlite":
        return lambda: SQLiteStore(f"sqlite:///{tmp_path}/tasks.db?synchronous=OFF")
    uri = f"{request.getfixturevalue('postgres').uri}?schema=fan{next(_numbers)}"
    return lambda: PostgresStore(uri)


def check(store: TaskStore) -> list[TaskRecord]:
    """Compare all derived values with values recomputed from the tasks."""
    tasks = {t.id: t for t in store.query("p")}
    for task in tasks.values():
        states = [tasks[n].status if n in tasks else None for n in task.depends_on]
        assert task.blocked == any(s is not Status.DONE for s in states), task.definition
        assert not (task.status is Status.WAITING and ({None, Status.FAILED} & set(states))), task.definition
    assert store.count("p") == Counter(t.status for t in tasks.values())
    assert store.count("p", batch="b") == Counter(t.status for t in store.query("p", batch="b"))
    return list(tasks.values())


def test_concurrent_commits_unblock_all_dependent_tasks(opened: Opener) -> None:
    """Four threads commit while a fifth adds tasks that depend on theirs: no task waits forever."""
    store = opened()
    xs = [c.id for c in store.create("p", [{"x": i} for i in range(60)], batch="b")]
    store.create("p", [{"all": i} for i in range(5)], depends_on=xs, priority=-1, batch="b")

    def work(number: int) -> None:
        own = opened()
        while taken := own.claim("p", worker=f"w{number}", lease=60, query={"x": {"$exists": True}}):
            own.commit(taken[0], number)
        own.close()

    def add() -> None:
        own, rng = opened(), random.Random(7)
        for i in range(30):
            own.create("p", [{"y": i}], depends_on=rng.sample(xs, 8), priority=-1, batch="b")
        own.close()

    with ThreadPoolExecutor(5) as pool:
        for done in [*(pool.submit(work, n) for n in range(4)), pool.submit(add)]:
            done.result(120)
    assert not any(t.blocked for t in check(store))
    assert len(store.claim("p", worker="w", lease=60, limit=99, batch="b")) == 35
    check(store)
    store.close()


def test_the_counts_are_right_after_concurrent_changes(opened: Opener) -> None:  # noqa: C901 - one case each
    """Four threads commit, fail, reset, retry, remove and replace tasks, and add dependencies."""
    store = opened()
    store.create("p", [{"x": i} for i in range(12)], max_attempts=1, batch="b")

    def change_tasks(seed: int) -> None:
        own, rng = opened(), random.Random(seed)
        for step in range(40):
            ids = [t.id for t in own.query("p", results=False)]
            one = {"_id": rng.choice(ids)} if ids else {}
            try:
                match rng.randrange(9):
                    case 0 | 1 | 2:
                        for task in own.claim("p", worker=f"w{seed}", lease=60, limit=2, batch=rng.choice(["", "b"])):
                            own.commit(task, 1) if rng.random() < 0.8 else own.fail(task, "boom")
                    case 3 | 4:
                        dependencies = rng.sample(ids, min(3, len(ids)))
                        own.create(
                            "p", [{"seed": seed, "step": step}], depends_on=dependencies, batch=rng.choice(["", "b"])
                        )
                    case 5:
                        own.set_status("p", one, rng.choice([Status.WAITING, Status.DONE]))
                    case 6:
                        own.retry("p")
                    case 7:
                        own.remove("p", one)
                    case 8:
                        own.replace("p", str(one.get("_id")), {"seed": seed, "new": step})
            except (LeaseLost, TaskNotFound):
                pass  # another thread was faster
        own.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(change_tasks, seed) for seed in range(4)]:
            done.result(120)
    check(store)
    store.close()


def test_a_replaced_task_keeps_dependencies_added_at_the_same_time(postgres: PostgresServer) -> None:
    """A dependency that another transaction adds just before a task is replaced is moved to the new task."""
    uri = f"{postgres.uri}?schema=fan{next(_numbers)}"
    store, other = PostgresStore(uri), PostgresStore(uri)
    needed, dependent = (c.id for c in store.create("p", [{"x": 1}, {"y": 1}]))
    store.set_status("p", {"_id": needed}, Status.DONE)
    begun, go_on = threading.Event(), threading.Event()

    def depend(tx: Any) -> None:
        store._depend(tx, "p", [dependent], [needed])
        begun.set()
        go_on.wait(15)

    with ThreadPoolExecutor(2) as pool:
        depending = pool.submit(store._write, depend, "p")
        assert begun.wait(60)
        replacing = pool.submit(other.replace, "p", needed, {"x": 2})
        time.sleep(0.3)  # by now it waits for the other transaction
        go_on.set()
        depending.result(60)
        new = replacing.result(60)
    check(store)
    (task,) = store.query("p", {"_id": dependent})
    assert (task.depends_on, task.blocked) == ((new,), True)
    other.close()
    store.close()
