"""Queries on definitions: counting, listing and claiming, on SQLite and PostgreSQL, and concurrent renewals.

python -m benchmarks.queries
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import setting

QUERIES: dict[str, dict[str, Any]] = {
    "one_model": {"model.class": "M7"},
    "one_task": {"def.x": 777},
    "none": {"model.class": "Nothing"},
    "all": {"model.kwargs.seed": {"$exists": True}},
    "half": {"def.x": {"$gte": 0.5}},
    "not": {"model.class": {"$ne": "M7"}},
}


def definition(i: int, count: int) -> dict[str, Any]:
    """Return a task of the usual size; there are a thousand models."""
    return {
        "model": {
            "class": f"M{i % 1000}", "module_path": "qlib.contrib.model.gbdt",
            "kwargs": {"loss": "mse", "learning_rate": 0.0421, "max_depth": 8, "num_leaves": 210, "seed": i},
        },
        "dataset": {
            "class": "DatasetH", "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {"class": "Alpha158", "kwargs": {"start_time": "2008-01-01", "instruments": "csi300"}},
                "segments": {"train": ("2008-01-01", "2014-12-31"), "test": (f"20{i % 90 + 10}-01-01", None)},
            },
        },
        "x": i if i == 777 else i / count,
    }  # fmt: skip


@contextlib.contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Yield the URIs of a store of each available kind."""
    from rollforge.testing.postgres import PostgresServer, postgres_binaries

    with setting.workplace() as folder, contextlib.ExitStack() as stack:
        found = {"sqlite": f"sqlite:///{folder}/tasks.db"}
        if postgres_binaries() is not None:
            found["postgres"] = stack.enter_context(PostgresServer()).uri
        yield found


def measure(uri: str, count: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of each operation with each query: the median, and the first time, which builds an index
    on SQLite."""
    from rollforge.store.base import open_store

    store, figures = open_store(uri), {}
    began = time.perf_counter()
    for start in range(0, count, 10_000):
        store.create("p", [definition(i, count) for i in range(start, min(count, start + 10_000))])
    figures["create_seconds"] = time.perf_counter() - began
    for name, query in QUERIES.items():
        calls = {
            "count": lambda query=query: store.count("p", query),
            "claim": lambda query=query: store.claim("p", worker="w", lease=600, query=query),
        }
        if name in ("one_model", "one_task", "none"):
            calls["query"] = lambda query=query: list(store.query("p", query, results=False))
        for operation, call in calls.items():
            took = [setting.seconds(call) * 1000 for _ in range(repeats + 1)]
            figures[f"{name}_{operation}_ms"] = setting.median(took[1:])
            figures[f"{name}_{operation}_first_ms"] = took[0]
    figures["renew_meanwhile_ms"] = renewals(store, uri)
    store.close()
    return figures


def renewals(store: Any, uri: str) -> float:
    """Return the longest renewal of another worker while a claim queries a path without an index."""
    (task,) = store.claim("p", worker="other", lease=600)

    other = type(store)(uri)  # with its own connections, as in another process

    def claim() -> None:
        for _ in range(5):
            other.claim("p", worker="w", lease=60, query={"dataset.kwargs.handler.class": {"$regex": "Alpha360"}})

    thread = threading.Thread(target=claim)
    thread.start()
    took = []
    while thread.is_alive():
        took.append(setting.seconds(lambda: store.renew(task, 600)) * 1000)
        time.sleep(0.005)
    thread.join()
    other.close()
    return max(took)


def main() -> None:
    """Time all queries and print one line."""
    options = setting.arguments(__doc__ or "")
    sizes = [2_000] if options.small else [10_000, 100_000, 1_000_000]
    figures: dict[str, Any] = {}
    for count in sizes:
        with stores() as uris:
            for kind, uri in uris.items():
                found = measure(uri, count, max(3, options.repeats))
                figures |= {f"{kind}_{count}_{name}": value for name, value in found.items()}
    setting.report("queries", **figures)


if __name__ == "__main__":
    main()
