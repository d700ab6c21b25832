"""The pool: creating, claiming and committing, counting, and waiting, for pools of different sizes on both SQL stores.

python -m benchmarks.pool
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import setting

if TYPE_CHECKING:
    from rollforge.store.base import TaskStore

MODULE = "benchmarks.pool"
RESULT = {"recorder": {"id": "x" * 32}}
WORKERS = 8


def definition(i: int) -> dict[str, Any]:
    """Return a small task."""
    return {
        "model": {"class": "LGBModel", "kwargs": {"seed": i}},
        "dataset": {"kwargs": {"segments": {"test": i % 1000}}},
    }


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URIs of an empty store of each kind."""
    from rollforge.testing.postgres import PostgresServer, postgres_binaries

    with contextlib.ExitStack() as stack:
        found = {"sqlite": f"sqlite:///{folder}/tasks.db"}
        if postgres_binaries() is not None:
            found["postgres"] = stack.enter_context(PostgresServer()).uri
        yield found


def pairs(store: TaskStore, count: int, worker: str = "w", **which: Any) -> float:
    """Claim and commit some tasks, and return the milliseconds per pair."""
    began = time.perf_counter()
    for _ in range(count):
        (task,) = store.claim("p", worker=worker, lease=600, **which)
        store.commit(task, RESULT)
    return (time.perf_counter() - began) / count * 1000


def milliseconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median duration of `work`."""
    return setting.median([setting.seconds(work) * 1000 for _ in range(repeats)])


def measure(uri: str, total: int, rounds: int) -> dict[str, float]:
    """Fill a pool up to `total` tasks, and time the operations on it."""
    from rollforge.run.job import Job
    from rollforge.run.worker import Worker
    from rollforge.store.base import batch_of, open_store
    from rollforge.store.manager import TaskManager
    from rollforge.task import Status

    store = open_store(uri)
    there = sum(store.count("p").values())
    began = time.perf_counter()
    for first in range(there, total - 1000, 100_000):
        store.create("p", [definition(i) for i in range(first, min(first + 100_000, total - 1000))])
    figures = {"create_per_second": max(1, total - 1000 - there) / (time.perf_counter() - began)}
    mine = [{"mine": total, "x": i} for i in range(1000)]  # a submission of a thousand tasks
    ids = [c.id for c in store.create("p", mine)]
    batch = batch_of(ids)
    store.add_to_batch("p", batch, ids)
    rounds = min(rounds, 300)
    figures["pair_ms"] = pairs(store, rounds)
    figures["pair_in_batch_ms"] = pairs(store, rounds, batch=batch)
    job = Job("p", _nothing, query={}, batch=batch)
    left = store.count("p", batch=batch)[Status.WAITING]
    figures["worker_in_batch_ms"] = setting.seconds(lambda: Worker(store, job).run()) / left * 1000
    figures["claim_of_empty_batch_ms"] = milliseconds(lambda: store.claim("p", worker="w", lease=60, batch=batch))
    figures["count_ms"] = milliseconds(lambda: store.count("p"))
    figures["count_batch_ms"] = milliseconds(lambda: store.count("p", batch=batch))
    figures["task_stat_ms"] = milliseconds(lambda: (store.pools(), TaskManager("p", store=store).task_stat()))
    figures["watch_ms"] = milliseconds(lambda: _look(store))
    return figures


def _nothing(task: Any) -> Any:
    return RESULT


def _look(store: TaskStore) -> None:
    """Render the view of ``pool watch``, as it does each second."""
    from rollforge.cli.watch import _View
    from rollforge.store.manager import TaskManager

    _View(TaskManager("p", store=store)).render()


def fan(uri: str, n: int) -> dict[str, float]:
    """Time one task that depends on many, and many that depend on one."""
    from rollforge.store.base import open_store

    store = open_store(uri)
    ids = [c.id for c in store.create("p", [{"one of": i} for i in range(n)], priority=5)]
    figures = {"fan_in_create_seconds": setting.seconds(lambda: store.create("p", [{"last": 1}], depends_on=ids))}
    figures["fan_in_pair_ms"] = pairs(store, 200)
    (first,) = store.create("p", [{"first": 1}], priority=9)
    many = [{"after": i} for i in range(n)]
    figures["fan_out_create_seconds"] = setting.seconds(lambda: store.create("p", many, depends_on=[first.id]))
    (task,) = store.claim("p", worker="w", lease=600)
    assert task.id == first.id
    figures["fan_out_commit_ms"] = setting.seconds(lambda: store.commit(task, RESULT)) * 1000
    store.remove("p", {"one of": {"$exists": True}})
    store.remove("p", {"after": {"$exists": True}})
    return figures


def many_workers(uri: str, seconds: float) -> float:
    """Return the pairs per second of eight worker processes together."""
    from rollforge.store.base import open_store

    store = open_store(uri)
    store.create("p", [{"for workers": i} for i in range(int(seconds * 2000))])
    tasks = [
        json.dumps({"uri": uri, "seconds": seconds, "at": time.time() + 6.0, "worker": f"w{i}"}) for i in range(WORKERS)
    ]
    line = [sys.executable, "-m", MODULE, "--as-child"]
    children = [subprocess.Popen([*line, task], stdout=subprocess.PIPE, text=True) for task in tasks]
    return float(sum(json.loads(child.communicate()[0])["pairs"] for child in children) / seconds)


def child(task: dict[str, Any]) -> None:
    """Run one of these workers."""
    from rollforge.store.base import open_store

    store, done = open_store(task["uri"]), 0
    store.paused("p")
    time.sleep(max(0.0, task["at"] - time.time()))
    until = time.monotonic() + task["seconds"]
    while time.monotonic() < until:
        pairs(store, 1, task["worker"])
        done += 1
    print(json.dumps({"pairs": done}))


def waiting(uri: str) -> float:
    """Return the milliseconds from the last commit until `wait` returns."""
    from rollforge.store.base import open_store
    from rollforge.store.manager import TaskManager

    store = open_store(uri)
    store.create("last", [{"x": 1}])
    (task,) = store.claim("last", worker="w", lease=60)
    ended: list[float] = []

    def wait() -> None:
        TaskManager("last", store=store).wait()
        ended.append(time.perf_counter())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    store.commit(task, 1)
    committed = time.perf_counter()
    thread.join()
    return (ended[0] - committed) * 1000


def main() -> None:
    """Time all operations and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=child):
        return
    from rollforge.store.base import open_store

    sizes, fans, rounds = ([2_000, 10_000], 1_000, 100) if options.small else ([2_000, 100_000, 1_000_000], 10_000, 300)
    figures: dict[str, Any] = {
        "sizes": sizes,
        "load_before": os.getloadavg()[0],
        "synchronous_commit": "on",
        "fsync": "on",
    }
    ratios: dict[str, float] = {}
    with setting.workplace() as folder, stores(folder) as uris:
        for kind, uri in uris.items():
            figures[f"{kind}_wait_ends_after_ms"] = waiting(uri)
            found = {f"{k}_{n}": v for n in [fans] for k, v in fan(uri, n).items()}
            for size in sizes:
                found |= {f"{k}_{size}": v for k, v in measure(uri, size, rounds).items()}
            existing = [definition(i) for i in range(sizes[0] - 1000)]
            found["create_again_seconds"] = setting.seconds(lambda: open_store(uri).create("p", existing))  # noqa: B023
            if kind == "postgres":
                found["pairs_per_second_of_8_workers"] = many_workers(uri, 2.0 if options.small else 10.0)
            figures |= {f"{kind}_{k}": v for k, v in found.items()}
            for way in ("pair_ms", "pair_in_batch_ms", "worker_in_batch_ms"):
                ratios[f"{kind}_{way.removesuffix('_ms')}_flat"] = (
                    found[f"{way}_{sizes[0]}"] / found[f"{way}_{sizes[-1]}"]
                )
    setting.report("pool", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
