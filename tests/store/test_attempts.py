"""Attempts that end while others change the same tasks."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import LeaseLost
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import KEPT_ATTEMPTS, Status

SECONDS = 4.0


@pytest.fixture(params=["memory", "sqlite", "postgres", "mongodb"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], TaskStore]:
    """Open the same store once more, with connections of its own."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    if request.param == "sqlite":
        return lambda: SQLiteStore(f"sqlite:///{tmp_path}/tasks.db?synchronous=OFF")
    if request.param == "postgres":
        uri = f"{request.getfixturevalue('postgres').uri}?schema=attempts_{tmp_path.name[-40:]}"
        return lambda: PostgresStore(uri)
    uri = f"{request.getfixturevalue('mongodb').rstrip('/')}/attempts"
    return lambda: MongoStore(uri)


def test_no_attempt_is_lost_or_kept_twice(another: Callable[[], TaskStore]) -> None:
    """Whatever cancels, resets or retries tasks while workers end their claims: the tokens of the kept attempts at a task are
    those of its latest claims, in order."""
    claims: dict[str, list[int]] = defaultdict(list)
    problems: list[Exception] = []
    with closing(another()) as store:
        store.create("p", [{"x": x} for x in range(6)], max_attempts=1000)
        deadline = time.monotonic() + SECONDS

        def loop(step: Callable[[TaskStore, random.Random], object], seed: int) -> None:
            chance = random.Random(seed)
            try:
                with closing(another()) as own:
                    while time.monotonic() < deadline:
                        step(own, chance)
            except Exception as exc:  # noqa: BLE001 - asserted below
                problems.append(exc)

        def work(own: TaskStore, chance: random.Random) -> None:
            stage = chance.choice([Status.WAITING, Status.WAITING, Status.PART_DONE])
            for task in own.claim("p", worker=f"w{chance.random()}", lease=60.0, status=stage, limit=2):
                claims[task.id].append(task.token)
                ends: list[Callable[[], Any]] = [
                    lambda t=task: own.commit(t, 1), lambda t=task: own.commit(t, 1, Status.PART_DONE),
                    lambda t=task: own.give_back(t), lambda t=task: own.fail(t, "boom"),
                ]  # fmt: skip
                with contextlib.suppress(LeaseLost):
                    chance.choice(ends)()

        def administer(own: TaskStore, chance: random.Random) -> None:
            which = {"x": {"$lt": chance.randrange(7)}}
            chance.choice([
                lambda: own.cancel("p", which), lambda: own.retry("p"), lambda: own.set_status("p", which, Status.WAITING),
                lambda: own.set_status("p", which, Status.DONE),
            ])()  # fmt: skip
            time.sleep(0.005)

        threads = [threading.Thread(target=loop, args=(work, seed)) for seed in range(3)]
        threads += [threading.Thread(target=loop, args=(administer, seed)) for seed in (7, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        store.set_status("p", {}, Status.WAITING)
        assert sum(map(len, claims.values())) > 6
        for task in store.query("p"):
            assert [one.token for one in task.history] == sorted(claims[task.id])[-KEPT_ATTEMPTS:]
        store.remove("p")
